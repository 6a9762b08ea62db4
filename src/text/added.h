/* SPDX-License-Identifier: Apache-2.0
 * added.h - added tokens: strings matched whole in text before it is split, longest first from the
 * left.
 *
 * The strings form a trie; edges and ends are one pair map: (node, byte) -> (next node, token that
 * ends there).
 * Threads: any after loading (read-only). Source: tokenizers tokenizer/added_vocabulary.rs
 * (find_matches). */
#ifndef QN_TEXT_ADDED_H
#define QN_TEXT_ADDED_H

#include "base/str.h"
#include "text/pairs.h"

typedef struct qn_added_token {
    int32_t id;
    bool special;
    bool normalized;     /* looked for after normalising the text, and itself normalised */
    bool lstrip, rstrip; /* takes the white space beside it */
    bool single_word;    /* not beside a word character */
} qn_added_token;

typedef struct qn_added {
    qn_added_token *tokens;
    size_t n, cap;
    qn_pairs trie;
    uint32_t n_nodes;
    bool starts[256]; /* first bytes */
} qn_added;

/* where: for errors. Fails on an empty, overlong or repeated content. */
QN_MUST_USE qn_status qn_added_add(qn_added *a, qn_slice content, const qn_added_token *token,
                                   const char *where, qn_err *err);
/* The token written exactly so, or NULL. */
const qn_added_token *qn_added_find(const qn_added *a, qn_slice content);
void qn_added_fini(qn_added *a);

/* Cuts text into what lies between added tokens, and those. {a, p, n, skip_special} and zeroes. */
typedef struct qn_added_iter {
    const qn_added *a;
    const char *p;
    size_t n;
    bool skip_special; /* special tokens are seen, and left as text */
    size_t at, done;   /* search from; handed out so far */
    int32_t pending;   /* token found behind the text handed out, + 1 */
} qn_added_iter;
/* The next non-empty text (*id -1) or token (*id its id, *text empty); false at the end. */
bool qn_added_next(qn_added_iter *it, qn_slice *text, int32_t *id);

#endif
