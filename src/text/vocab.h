/* SPDX-License-Identifier: Apache-2.0
 * vocab.h - the tokens: id to bytes and kind, and bytes to id.
 *
 *   tokens[id] -> { at, n } in pool, kind, coded        slots: hash of (bytes, coded) -> id of a
 *   vocabulary entry
 *
 * Files write a token's bytes in the byte alphabet (byte 0x20 is U+0120, ...). Such a token is
 * `coded` and its bytes are kept decoded; a token with any other character stands for its own
 * UTF-8. Both may have the same bytes and are told apart.
 * Threads: any after loading (read-only). Source: tokenizers pre_tokenizers/byte_level
 * (bytes_char). */
#ifndef QN_TEXT_VOCAB_H
#define QN_TEXT_VOCAB_H

#include "base/str.h"

/* What a token is: tokenizer.h's qn_token_kind. */
typedef struct qn_token {
    uint32_t at, n;
    uint8_t kind;
    bool coded;
} qn_token;

typedef struct qn_vocab {
    qn_token *tokens;
    size_t n, cap;
    char *pool;
    size_t n_pool, pool_cap;
    uint32_t *slots; /* id, or UINT32_MAX */
    size_t n_slots, n_indexed;
    uint64_t seed;
} qn_vocab;

/* Writes the bytes that p[0..n), in the byte alphabet, stands for to out, which holds n. False: it
 * is not all in it. */
bool qn_bytes_decode(const char *p, size_t n, char *out, size_t *n_out);

/* Gives id its bytes. indexed: a vocabulary entry, found by qn_vocab_find. where: for errors
 * ("tokenizer.json: model.vocab"). Fails if id is negative, too large or taken, or bytes are
 * indexed already. */
QN_MUST_USE qn_status qn_vocab_set(qn_vocab *v, int64_t id, qn_slice bytes, bool coded, int kind,
                                   bool indexed, const char *where, qn_err *err);
int32_t qn_vocab_find(const qn_vocab *v, qn_slice bytes, bool coded); /* -1: none */
qn_slice qn_vocab_bytes(const qn_vocab *v, size_t id);                /* id < n */
void qn_vocab_fini(qn_vocab *v);

#endif
