/* SPDX-License-Identifier: Apache-2.0
 * sampler.h - from a row of logits to a token.
 *
 * Order, as Hugging Face's processors then vLLM: what a grammar forbids, logit bias, repetition / presence / frequency
 * penalties, min tokens, greedy if temperature is 0; else temperature, top-k, top-p, min-p,
 * typical; then one uniform draw (PCG, seeded). Each filter sees the distribution that the one
 * before it left, renormalised. log-probabilities reported are those of the unmodified logits. Ties
 * go to the lower id. A row that is not finite is QN_E_INTERNAL for that request. All memory is
 * taken by qn_sampler_new (and fork), and only what the parameters need: choosing allocates
 * nothing.
 * Threads: one owner; no locks. */
#ifndef QN_SAMPLE_SAMPLER_H
#define QN_SAMPLE_SAMPLER_H

#include "sample/grammar.h"

typedef struct qn_sampler qn_sampler;

/* Checks and copies params. n_vocab: width of a row of logits; n_tokens <= n_vocab: ids below this
 * exist, the rest (padding of the output matrix) are never chosen. eos_ids are masked until
 * min_tokens were answered, and nothing else is: ignore_eos does not mask them, it only stops them
 * from ending the request, which is the caller's. */
QN_MUST_USE qn_status qn_sampler_new(qn_sampler **out, const qn_params *params, uint64_t seed,
                                     size_t n_vocab, size_t n_tokens, const int32_t *eos_ids,
                                     size_t n_eos, qn_err *err);
void qn_sampler_free(qn_sampler *s); /* NULL allowed */
/* Every range of quern.h; the first field out of range is QN_E_ARG: "temperature: -1, want 0 to
 * 100". */
QN_MUST_USE qn_status qn_params_check(const qn_params *p, size_t n_vocab, qn_err *err);
/* Counts a token of the prompt (output false) or of the answer. Ids that do not exist are not
 * penalised. */
void qn_sampler_accept(qn_sampler *s, int32_t id, bool output);

typedef struct qn_candidate {
    int32_t id;    /* -1: there are no more tokens that could be chosen */
    float logprob; /* natural log, of the unmodified logits */
} qn_candidate;

#define QN_ID_ONLY SIZE_MAX
/* Chooses a token from logits[n_vocab] (left unchanged), of those that m lets follow; m NULL: of all, and only where the
 * parameters have no grammar. best[0] is the chosen one, best[1..n_best] the n_best most likely of the unmodified logits,
 * allowed or not. QN_ID_ONLY: best[0] without its log-probability (NaN), whose norm costs as much as all the rest. No token
 * is left: QN_E_UNSUPPORTED. */
QN_MUST_USE qn_status qn_sampler_sample(qn_sampler *s, const float *logits, qn_matcher *m,
                                        qn_candidate *best, size_t n_best, qn_err *err);
/* The same for a token that is chosen already. */
QN_MUST_USE qn_status qn_sampler_score(const qn_sampler *s, const float *logits, int32_t id,
                                       qn_candidate *best, size_t n_best, qn_err *err);
/* The k most likely tokens after penalties and bias, with log-probabilities of the modified logits:
 * beam search. */
QN_MUST_USE qn_status qn_sampler_top(qn_sampler *s, const float *logits, qn_candidate *out,
                                     size_t k, qn_err *err);
/* Copy of the state (penalty counts, RNG): a beam forks. */
QN_MUST_USE qn_status qn_sampler_fork(qn_sampler **out, const qn_sampler *s, qn_err *err);
/* Fails unless the largest logit is finite and none is NaN. */
QN_MUST_USE qn_status qn_logits_check(const float *logits, size_t n_vocab, qn_err *err);
/* The likeliest token, the lowest id of equals; -1 where qn_logits_check fails. */
int32_t qn_logits_argmax(const float *logits, size_t n);
/* log softmax(logits)[id], in double, summed in a fixed order. id < n_vocab. */
double qn_logprob_of(const float *logits, size_t n_vocab, int32_t id);

#endif
