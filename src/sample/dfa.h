/* SPDX-License-Identifier: Apache-2.0
 * dfa.h - one rule of a form as a deterministic automaton over bytes and calls of other rules, with a counter.
 *
 *   regular parts --qn_nfa_*--> nfa --qn_dfa_make--> dfa --qn_dfa_product--> dfa
 *
 * A bounded repetition that is too long to be written out is a loop whose first arc ticks. A text is in the language if
 * the automaton ends in a final state with min to max ticks behind it. Words over (byte, ticks or not) are read
 * deterministically; where a byte is read both with and without a tick, the dfa is `split` and a reader must follow
 * both. Threads: one owner. */
#ifndef QN_SAMPLE_DFA_H
#define QN_SAMPLE_DFA_H

#include "sample/form_tree.h"

typedef struct qn_edge {
    uint32_t to;
    uint8_t first, last;
    bool ticks;
} qn_edge;

typedef struct qn_call {
    uint32_t rule, to;
    bool ticks;
} qn_call;

/* Edges and calls of state s: [edge_at[s], edge_at[s + 1]), sorted by their first byte. State 0 is the start. */
typedef struct qn_dfa {
    uint32_t *edge_at, *call_at;
    qn_edge *edges;
    qn_call *calls;
    bool *is_final;
    uint32_t *lo, *hi; /* numbers of ticks so far from which an end can be reached; qn_dfa_bound */
    size_t n, n_edges, n_calls;
    uint32_t min, max; /* ticks; min 0, max QN_FORM_ENDLESS: not counted */
    bool is_split;
} qn_dfa;

/* What compiling may still cost: so that it ends in time whatever the form. */
typedef struct qn_fuel {
    uint64_t steps;
    size_t n_states;
} qn_fuel;
/* False, with the error, when it is used up. */
QN_MUST_USE qn_status qn_fuel_take(qn_fuel *fuel, size_t steps, qn_err *err);

typedef enum qn_arc_kind {
    QN_ARC_EMPTY,
    QN_ARC_TICK, /* empty; an iteration begins */
    QN_ARC_BACK, /* empty; one has ended, which took something */
    QN_ARC_BYTES,
    QN_ARC_CALL
} qn_arc_kind;

typedef struct qn_arc {
    uint32_t to, next, rule;
    uint8_t kind, first, last;
} qn_arc;

/* States 0 (start) and 1 (end) are there from the beginning. */
typedef struct qn_nfa {
    uint32_t *head; /* of a state's arcs; 0: none, for arcs[0] is not used */
    qn_arc *arcs;
    size_t n, cap, n_arcs, arcs_cap;
    bool failed; /* out of memory */
} qn_nfa;

void qn_nfa_init(qn_nfa *a);
void qn_nfa_fini(qn_nfa *a);
uint32_t qn_nfa_state(qn_nfa *a);
void qn_nfa_arc(qn_nfa *a, uint32_t from, qn_arc arc); /* arc.next is set here */
/* One character of the ranges, as UTF-8. */
void qn_nfa_chars(qn_nfa *a, uint32_t from, uint32_t to, const qn_char_range *r, size_t n);
/* Any bytes up to and with the first `end`. */
void qn_nfa_until(qn_nfa *a, uint32_t from, uint32_t to, const uint8_t *end, uint32_t n);
/* A dfa without calls; what it counts is written out. */
QN_MUST_USE qn_status qn_nfa_dfa(qn_nfa *a, uint32_t from, uint32_t to, const qn_dfa *d,
                                 qn_fuel *fuel, qn_err *err);

/* The smallest one, unless finding it takes too long. */
QN_MUST_USE qn_status qn_dfa_make(qn_dfa *out, const qn_nfa *a, uint32_t min, uint32_t max,
                                  qn_fuel *fuel, qn_err *err);
/* Texts of a that are (is_minus: are none) of b. At most one is counted, and with is_minus not b; no calls. */
QN_MUST_USE qn_status qn_dfa_product(qn_dfa *out, const qn_dfa *a, const qn_dfa *b, bool is_minus,
                                     qn_fuel *fuel, qn_err *err);
/* Finds lo and hi and drops states that reach no end; n 0: no text is left. *is_exact: they say all about a state. */
QN_MUST_USE qn_status qn_dfa_bound(qn_dfa *d, bool *is_exact, qn_fuel *fuel, qn_err *err);
void qn_dfa_fini(qn_dfa *d);
static inline bool qn_dfa_is_counted(const qn_dfa *d)
{
    return d->min != 0 || d->max != QN_FORM_ENDLESS;
}

#endif
