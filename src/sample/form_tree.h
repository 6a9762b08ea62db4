/* SPDX-License-Identifier: Apache-2.0
 * form_tree.h - how a form is kept: nodes that name others, for who compiles it.
 *
 * Equal expressions are one node, so that what is written twice is compiled once. A node names only earlier ones,
 * except through a rule. Threads: read by all once it is written. */
#ifndef QN_SAMPLE_FORM_TREE_H
#define QN_SAMPLE_FORM_TREE_H

#include "sample/form.h"

typedef enum qn_form_kind {
    QN_FORM_BYTES,  /* bytes[at], n of them */
    QN_FORM_CHARS,  /* ranges[at], n of them: sorted, apart from each other, no surrogates */
    QN_FORM_SEQ,    /* parts[at], n of them */
    QN_FORM_ALT,    /* parts[at], n of them */
    QN_FORM_REPEAT, /* a, at to n times */
    QN_FORM_AND,    /* a, b */
    QN_FORM_MINUS,  /* a, b */
    QN_FORM_UNTIL,  /* bytes[at], n of them; after a tokens the bytes of node b; a 0: no limit */
    QN_FORM_ANY,
    QN_FORM_RULE /* a; 0: not told yet */
} qn_form_kind;

typedef struct qn_form_node {
    uint32_t kind, at, n, a, b;
} qn_form_node;

struct qn_form {
    qn_form_node *nodes; /* node id is nodes[id]; nodes[0] is none */
    qn_form_id *parts;
    qn_char_range *ranges;
    char *bytes;
    uint32_t *table; /* of node ids by what they hold; 0: empty */
    size_t n_nodes, n_parts, n_ranges, n_bytes;
    size_t nodes_cap, parts_cap, ranges_cap, bytes_cap, table_size;
    qn_form_id root;
    qn_status status; /* of the first call that failed */
    qn_err err;
};

#endif
