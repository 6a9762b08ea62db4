/* SPDX-License-Identifier: Apache-2.0
 * bpe.h - byte pair encoding of one piece of text: bytes to token ids by merging, lowest rank
 * first, leftmost first.
 *
 * Cost: O(n log n) for any piece; a run of one character is linear. Threads: a qn_bpe is read-only
 * after loading; a scratch has one owner. Source: tokenizers models/bpe (word.rs, merge_all),
 * tiktoken (merging by rank). */
#ifndef QN_TEXT_BPE_H
#define QN_TEXT_BPE_H

#include "text/pairs.h"

typedef struct qn_bpe {
    qn_pairs merges; /* (left id, right id) -> first: rank, second: merged id */
    int32_t byte_id
        [256]; /* -1: the vocabulary has no such byte; it is dropped, as the reference does */
} qn_bpe;

typedef struct qn_bpe_keys {
    uint64_t *p;
    size_t n, cap;
} qn_bpe_keys;

/* Working memory for pieces over QN_BPE_SHORT bytes; zero-initialise, reuse, fini. */
typedef struct qn_bpe_scratch {
    uint32_t *id, *next, *prev; /* the symbols: a linked list over byte positions */
    size_t cap;
    qn_bpe_keys level[33], low; /* the queue of pairs, see bpe.c */
    size_t wave_at;
    uint32_t rank;
} qn_bpe_scratch;

#define QN_BPE_SHORT 128

/* Writes the ids of p[0..n) (n < 2^31) to out, which holds n; *n_out: how many. False: out of
 * memory. */
QN_MUST_USE bool qn_bpe_encode(const qn_bpe *b, const char *p, size_t n, qn_bpe_scratch *s,
                               int32_t *out, size_t *n_out);
void qn_bpe_scratch_fini(qn_bpe_scratch *s);
void qn_bpe_fini(qn_bpe *b);

#endif
