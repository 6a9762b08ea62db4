/* SPDX-License-Identifier: Apache-2.0
 * draft_model.h - a small model that guesses what the large one will say.
 *
 * Has weights, a runner and K/V blocks of its own; a sequence's part of it is a qn_draft_seq. The
 * guesses are greedy. What the sequence said since is computed when the next guess is wanted: after
 * k guesses of which some came true, their keys and values are there already.
 *
 * Invariant: n_computed of a qn_draft_seq counts tokens of the sequence that are settled.
 * Threads: engine thread. Source: Leviathan et al. 2022 (verification in draft.c is stricter: a
 * guess counts if the request's sampler chooses it). */
#ifndef QN_ENGINE_DRAFT_MODEL_H
#define QN_ENGINE_DRAFT_MODEL_H

#include "engine/runner.h"
#include "sched/block_pool.h"
#include "text/tokenizer.h"

typedef struct qn_draft_seq {
    int32_t *blocks;
    size_t n_blocks, blocks_cap;
    uint32_t n_computed;
    qn_seq_rope rope;
    bool has_rope, is_foreign; /* is_foreign: says tokens that the draft model does not know */
} qn_draft_seq;

typedef struct qn_draft_model qn_draft_model;

typedef struct qn_draft_options {
    const char *path;
    qn_model_options model;
    uint32_t n_blocks, max_seqs, max_ctx;
    qn_dtype kv_dtype;
    qn_rope_scaling rope_scaling;
    const qn_tokenizer *tokenizer; /* the large model's: every token must be the same text */
    uint32_t n_vocab;              /* guesses are below this */
} qn_draft_options;
QN_MUST_USE qn_status qn_draft_model_open(qn_draft_model **out, const qn_draft_options *o,
                                          qn_err *err);
void qn_draft_model_free(qn_draft_model *m);
void qn_draft_seq_fini(qn_draft_model *m, qn_draft_seq *s);

/* Guesses wanted of one sequence. */
typedef struct qn_draft_job {
    qn_draft_seq *seq;
    int32_t *tokens;   /* [n_tokens + n], the guesses go behind n_tokens */
    uint32_t n_tokens; /* settled */
    uint32_t n;        /* in: wanted; out: guessed. Fewer where the prompt is not computed yet
                        * (a step computes one chunk of it) or no block is free */
    uint32_t reach;    /* tokens that the sequence may have in the end */
} qn_draft_job;
QN_MUST_USE qn_status qn_draft_model_guess(qn_draft_model *m, qn_draft_job *jobs, uint32_t n,
                                           qn_err *err);
/* What a guess for each sequence takes; 0: not measured. */
double qn_draft_model_ns(const qn_draft_model *m);
uint64_t qn_draft_model_weight_bytes(const qn_draft_model *m);

#endif
