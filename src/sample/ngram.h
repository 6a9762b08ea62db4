/* SPDX-License-Identifier: Apache-2.0
 * ngram.h - prompt lookup: what followed the last time that the text went as it goes now.
 *
 *   tokens  ... d e f | g h ...   ... c d e f | ?
 *               `---' from             `---'  n      match 3 ("d e f"): g h ... is the guess
 *
 * Every position is in a chain of those behind the same two tokens, latest first (as LZ77's match
 * finders do); a search walks one chain and keeps the longest match. Where the text leaves what it
 * copied by a changed word, the guess goes on behind that word: a match of 1.
 *
 * Invariants: head[h] and next[p] hold positions + 1, 0 for none; next[p] <= p: chains end.
 * Threads: one owner. Sources: Saxena 2023, prompt lookup decoding; vLLM v1
 * spec_decode/ngram_proposer.py. Differs: the longest match, the latest of equals; no scan. */
#ifndef QN_SAMPLE_NGRAM_H
#define QN_SAMPLE_NGRAM_H

#include "base/base.h"

#define QN_NGRAM_MIN 2u
#define QN_NGRAM_MAX 16u /* longer matches count as this long */

typedef struct qn_ngram {
    uint32_t *head; /* [n_heads], a power of two */
    uint32_t *next; /* [cap] of tokens: the position before in its chain */
    size_t cap;
    uint32_t n_heads, n_indexed; /* tokens seen */
    uint32_t source, n_missed;   /* where the text is a copy of; tokens that differed there */
} qn_ngram;

void qn_ngram_fini(qn_ngram *g); /* a zeroed one is empty */
/* Takes in tokens[n_indexed .. n). False: out of memory, and the index is as before. */
QN_MUST_USE bool qn_ngram_update(qn_ngram *g, const int32_t *tokens, uint32_t n);
/* What may follow tokens[0..n), all of them taken in: tokens[*from], and what follows it. Returns
 * the length of the match, at most QN_NGRAM_MAX; 0: nothing. */
uint32_t qn_ngram_find(qn_ngram *g, const int32_t *tokens, uint32_t n, uint32_t *from);

#endif
