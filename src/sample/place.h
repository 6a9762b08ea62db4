/* SPDX-License-Identifier: Apache-2.0
 * place.h - where in an automaton a text can be: heads, each a state and the stack of what goes on behind its rule.
 *
 *   head (state, count) --> frame (state, count) --> frame --> frame 1: the end
 *                             | next                            (state QN_NO_STATE)
 *                             v
 *                           frame (state, count) --> ...
 *
 * A stack is a list of frames, any of which may be the top: heads that differ only in their stacks are one. Equal lists
 * are one, so that a stack is a number; what it is made of has lower ones. Frames are never changed.
 *
 * A walk that is relative does not know the count in which it begins, nor what stands behind the rule: there the stack
 * is 1 alone, counts are added to the unknown one, and lo to hi are what that may be.
 * Threads: one owner. */
#ifndef QN_SAMPLE_PLACE_H
#define QN_SAMPLE_PLACE_H

#include "sample/automaton.h"

#define QN_WHOLE_STACK 1u

typedef struct qn_frame {
    uint32_t state, count, parent, next, depth;
} qn_frame;

typedef struct qn_stacks {
    qn_frame *frames;
    uint32_t *table;
    size_t n, cap, table_size;
} qn_stacks;

typedef struct qn_head {
    uint32_t state, count, stack, lo, hi;
    uint32_t done; /* the stack it had when it was looked at */
} qn_head;

typedef struct qn_heads {
    qn_head *p;
    size_t n, cap;
} qn_heads;

/* What moves: heads [begin, end) of a list are a place, those behind are made. */
typedef struct qn_walker {
    const qn_automaton *a;
    qn_stacks *stacks;
    qn_heads heads;
    uint64_t *fuel; /* heads that may still be looked at */
    bool is_relative;
    bool failed;   /* out of memory, of fuel or of QN_LIMIT_GRAMMAR_STACKS */
    bool is_spent; /* of one of the last two */
} qn_walker;

static inline void qn_walker_burn(qn_walker *w, size_t n)
{
    if (*w->fuel >= n) {
        *w->fuel -= n;
        return;
    }
    *w->fuel = 0;
    w->failed = w->is_spent = true;
}

QN_MUST_USE bool qn_stacks_init(qn_stacks *s);
void qn_stacks_fini(qn_stacks *s);
void qn_stacks_cut(qn_stacks *s, size_t n); /* forgets the frames behind the first n */
QN_MUST_USE bool qn_stacks_copy(qn_stacks *to, const qn_stacks *from);
/* Keeps only what the heads use; false: out of memory, nothing has changed. */
QN_MUST_USE bool qn_stacks_sweep(qn_stacks *s, qn_head *heads, size_t n);

/* Appends a head to the place that begins at `begin`. */
void qn_walker_add(qn_walker *w, size_t begin, qn_head h);
/* Behind the place [begin, end): where its heads go with the byte, and what rules end there. */
void qn_walker_step(qn_walker *w, size_t begin, size_t end, uint8_t byte);
/* Adds to the place, which is the last, where its rules end; the starts of the rules that it calls. */
void qn_walker_leave(qn_walker *w, size_t begin);
void qn_walker_enter(qn_walker *w, size_t begin);
/* The head behind the edge; false: in no count. */
bool qn_walker_move(const qn_walker *w, qn_head *h, uint32_t to, bool ticks);
bool qn_walker_may_leave(const qn_walker *w, qn_head *h);

#endif
