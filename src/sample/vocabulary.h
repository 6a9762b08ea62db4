/* SPDX-License-Identifier: Apache-2.0
 * vocabulary.h - the tokens' bytes as a trie, for who walks it.
 *
 * Nodes stand in the order of a walk: a node, then what begins with its bytes. Whoever finds that a byte may not follow
 * goes on at `skip`.
 *
 *    a        depth 1  token "a"       skip --+
 *    a b      depth 2  token "ab"             |
 *    a b b    depth 3  token "abb"            |
 *    b        depth 1  token "b"         <----+
 *
 * Tokens of equal bytes are siblings. Threads: read by all. */
#ifndef QN_SAMPLE_VOCABULARY_H
#define QN_SAMPLE_VOCABULARY_H

#include "sample/grammar.h"

typedef struct qn_trie_node {
    uint32_t skip;
    int32_t token;  /* -1: none ends here */
    uint16_t depth; /* 1: a first byte */
    uint8_t byte;
} qn_trie_node;

/* Texts are added in order. */
typedef struct qn_trie {
    qn_trie_node *nodes;
    uint32_t *path; /* the nodes of the text added last */
    size_t n, cap, n_path, path_cap;
} qn_trie;
QN_MUST_USE bool qn_trie_add(qn_trie *t, const uint8_t *text, size_t n, int32_t token, int tag);
void qn_trie_end(qn_trie *t); /* no more is added */

struct qn_vocabulary {
    qn_trie trie;
    uint32_t first
        [257]; /* nodes of depth 1 with byte b: [first[b], first[b + 1]), with all below them */
    uint32_t *text_at; /* of token id: bytes[text_at[id]] to bytes[text_at[id + 1]] */
    uint8_t *bytes;    /* of the tokens that are text */
    int32_t *ends;     /* tokens that end an answer */
    size_t n_tokens, n_words, n_ends;
    uint32_t max_depth;
};

/* No bytes: the token never follows. */
static inline const uint8_t *qn_vocabulary_text(const qn_vocabulary *v, int32_t id, size_t *n)
{
    *n = v->text_at[id + 1] - v->text_at[id];
    return v->bytes + v->text_at[id];
}
bool qn_vocabulary_is_end(const qn_vocabulary *v, int32_t id);

#endif
