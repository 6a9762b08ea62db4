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

struct qn_vocabulary {
    qn_trie_node *nodes;
    uint32_t *text_at; /* of token id: bytes[text_at[id]] to bytes[text_at[id + 1]] */
    uint8_t *bytes;    /* of the tokens that are text */
    int32_t *ends;     /* tokens that end an answer */
    size_t n_nodes, n_tokens, n_words, n_ends, nodes_cap;
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
