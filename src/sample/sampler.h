/* SPDX-License-Identifier: Apache-2.0
 * sampler.h - from a row of logits to a token.
 *
 * Order, as Hugging Face's processors then vLLM: logit bias, repetition / presence / frequency penalties, min tokens,
 * greedy if temperature is 0; else temperature, top-k, top-p, min-p, typical; then one uniform draw (PCG, seeded). log-probabilities
 * reported are those of the unmodified logits. Ties go to the lower id. A row that is not finite is QN_E_INTERNAL for that request.
 * Threads: one owner; no locks. */
#ifndef QN_SAMPLE_SAMPLER_H
#define QN_SAMPLE_SAMPLER_H

#include "base/base.h"

typedef struct qn_sampler qn_sampler;

/* Copies params (see quern.h: ranges are checked here, each failure QN_E_ARG naming field, found, wanted). n_vocab: rows of logits;
 * n_tokens: ids below this exist, the rest are never chosen. eos_ids are masked until min_tokens, and for good with ignore_eos... the
 * latter is not masking: ignore_eos only stops them from ending the request. */
QN_MUST_USE qn_status qn_sampler_new(qn_sampler **out, const qn_params *params, uint64_t seed,
                                     size_t n_vocab, size_t n_tokens, const int32_t *eos_ids,
                                     size_t n_eos, qn_err *err);
void qn_sampler_free(qn_sampler *s);
QN_MUST_USE qn_status qn_params_check(const qn_params *p, size_t n_vocab, qn_err *err);
/* Counts a token of the prompt (output false) or of the answer. */
void qn_sampler_accept(qn_sampler *s, int32_t id, bool output);

typedef struct qn_candidate {
    int32_t id;
    float logprob; /* natural log, of the unmodified logits */
} qn_candidate;

/* Chooses a token from logits[n_vocab] (left unchanged). best[0] is the chosen one, best[1..n_best] the n_best most likely. */
QN_MUST_USE qn_status qn_sampler_sample(qn_sampler *s, const float *logits, qn_candidate *best,
                                        size_t n_best, qn_err *err);
/* The k most likely tokens after penalties and bias, with log-probabilities of the modified logits: beam search. */
QN_MUST_USE qn_status qn_sampler_top(qn_sampler *s, const float *logits, qn_candidate *out,
                                     size_t k, qn_err *err);
/* Copy of the state (penalty counts, RNG): a beam forks. */
QN_MUST_USE qn_status qn_sampler_fork(qn_sampler **out, const qn_sampler *s, qn_err *err);
/* log softmax(logits)[id], in double. */
double qn_logprob_of(const float *logits, size_t n_vocab, int32_t id);

#endif
