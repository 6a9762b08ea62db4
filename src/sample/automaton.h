/* SPDX-License-Identifier: Apache-2.0
 * automaton.h - a compiled form: rules, each a deterministic automaton over bytes and calls of rules.
 *
 *   rule value:  --"["--> q1 --call value--> q2 --"]"--> q3 (final)
 *                         q2 --","--> q1
 *
 * A call puts where to go on (q2) on a stack and goes to the rule's start; in a final state the top of the stack may be
 * taken. What has no recursion is one automaton unless it is used often, counted, or an and / minus. No rule takes
 * nothing: a call that may be passed over has an edge beside it, so that a start never leaves its rule at once. No rule
 * begins with itself, so that calls at one place end.
 *
 * Invariant (qn_dfa_bound): from every state, with a count between its lo and hi, an end can be reached; so whatever
 * has been read is the begin of a text. Threads: read by all. */
#ifndef QN_SAMPLE_AUTOMATON_H
#define QN_SAMPLE_AUTOMATON_H

#include "sample/dfa.h"

#define QN_NO_STATE 0u /* state 0: behind the whole text; nothing can be read there */

typedef struct qn_state {
    uint32_t edges, calls, n_calls; /* the first of its edges, sorted by byte; of its calls */
    uint32_t row;                   /* of targets by byte class; QN_NO_ROW: look at the edges */
    uint32_t rule;
    uint32_t lo, hi; /* counts it can be in */
    uint16_t n_edges;
    bool is_final, is_text; /* is_text: in a qn_form_until that counts tokens */
    bool is_plain;          /* only edges, in any count */
} qn_state;
#define QN_NO_ROW UINT32_MAX
/* In a row: the target and a bit for the tick; QN_ROW_BOTH: look at the edges. */
#define QN_ROW_TICK 0x80000000u
#define QN_ROW_BOTH 0x7fffffffu

typedef struct qn_rule {
    uint32_t start, min, max;   /* counts in which it can be left */
    uint32_t n_tokens, closing; /* of a qn_form_until: how many, and the state then; 0: no limit */
    uint64_t first[4],
        follow[4]; /* bytes that its texts begin with, and that may stand behind them */
} qn_rule;

typedef struct qn_automaton {
    qn_state *states;
    qn_edge *edges;
    qn_call *calls;
    uint32_t *rows;
    qn_rule *rules; /* rules[0] is the root */
    size_t n_states, n_edges, n_calls, n_rows, n_rules;
    size_t states_cap, edges_cap, calls_cap, rows_cap, rules_cap;
    uint8_t class_of[256]; /* bytes that every state with a row reads alike */
    uint32_t n_classes;
    bool is_nullable; /* the empty text is one */
} qn_automaton;

QN_MUST_USE qn_status qn_automaton_make(qn_automaton *out, const qn_form *f, qn_err *err);
void qn_automaton_fini(qn_automaton *a);
size_t qn_automaton_n_bytes(const qn_automaton *a);

static inline bool qn_byte_in(const uint64_t set[4], uint8_t b)
{
    return set[b / 64] >> b % 64 & 1;
}

#endif
