/* SPDX-License-Identifier: Apache-2.0
 * runner.h - one step of the model: sequences in, rows of logits out.
 *
 * qn_run_seq (a sequence's tokens, how many are computed, its block table) -> qn_batch (flat
 * arrays) -> the plan's operations -> logits on the host. All arrays are sized once; a warm step
 * allocates nothing. Threads: one caller at a time. */
#ifndef QN_ENGINE_RUNNER_H
#define QN_ENGINE_RUNNER_H

#include "model/kv_cache.h"
#include "model/model.h"
#include <stdatomic.h>

/* Rotary frequencies of one sequence, chosen once. */
typedef struct qn_seq_rope {
    float inv_freq[QN_MAX_ROPE_DIM / 2];
    float factor;
} qn_seq_rope;

typedef struct qn_run_seq {
    const int32_t *tokens; /* the whole sequence */
    uint32_t n_computed, n_new;
    const int32_t *blocks;
    uint32_t n_blocks;
    const qn_seq_rope *rope;
    uint32_t n_logits; /* logits of the last so many of the new rows */
} qn_run_seq;

typedef struct qn_runner {
    qn_model *model;
    qn_kv_cache *kv;
    uint32_t max_rows, max_seqs, max_blocks, max_logit_rows;
    float *
        logits; /* [max_logit_rows, n_vocab] of the last step, rows in the order of the sequences */
    uint32_t n_logit_rows;
    float *hidden; /* one hidden state, for taps */
    qn_batch batch;
    int32_t *token_ids, *positions;
    uint32_t *row_begin, *slots, *block_tables, *logit_rows;
    float *rope, *q_scale;
    /* [n_nodes][2]: when each operation of the last step began and ended; NULL: not asked for */
    uint64_t *stamps;
    atomic_uint_fast64_t n_ops; /* ended, of all steps; any thread may look */
} qn_runner;

/* max_ctx bounds the block tables. */
QN_MUST_USE qn_status qn_runner_new(qn_runner **out, qn_model *m, uint32_t n_blocks,
                                    uint32_t max_seqs, uint32_t max_ctx, qn_dtype kv_dtype,
                                    qn_err *err);
void qn_runner_free(qn_runner *r);
void qn_seq_rope_init(qn_seq_rope *s, const qn_rope *r, qn_rope_scaling mode, uint32_t len);

/* tap: called for each hidden state (layer as in qn_hidden_fn) with rows [n, width]; NULL: none.
 * Needs a plan without prune unless every row's logits are wanted. */
typedef struct qn_tap {
    void (*fn)(void *arg, int layer, const float *rows, size_t n, size_t width);
    void *arg;
} qn_tap;
QN_MUST_USE qn_status qn_runner_step(qn_runner *r, const qn_run_seq *seqs, uint32_t n_seqs,
                                     const qn_tap *tap, qn_err *err);

#endif
