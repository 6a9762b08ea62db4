/* SPDX-License-Identifier: Apache-2.0
 * embed.h - a prompt as a vector: the hidden state of its last token after the final norm, at length 1.
 *
 * Threads: workers. */
#ifndef QN_SERVER_EMBED_H
#define QN_SERVER_EMBED_H

#include "server/exchange.h"

/* Tokens a step of scores at most: other answers wait for one of these. */
#define QN_EMBED_CHUNK 64

/* All inputs of a request together: QN_E_ARG if they are more than one may bring. */
QN_MUST_USE qn_status qn_embed_check(const char *name, size_t n_tokens, qn_err *err);
/* The first n numbers, scaled to length 1. QN_E_INTERNAL if they are not finite, QN_E_CANCELLED once the client has gone. */
QN_MUST_USE qn_status qn_embed(const qn_exchange *x, qn_engine *e, const int32_t *ids, size_t n_ids,
                               float *out, size_t n, qn_err *err);

#endif
