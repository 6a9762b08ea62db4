/* SPDX-License-Identifier: Apache-2.0
 * classes.h - whose turn it is: shares of the machine's time between classes, and between the
 * tenants of a class.
 *
 * A class has a virtual clock that its steps' time moves on, the slower the larger its share:
 *
 *   share 40  |====>                 a second of the machine: 0.4 here,
 *   share 10  |================>     1.6 there. The clock that is behind goes next.
 *
 * While it has nothing to do a class's clock stands; when it comes back it is set to the one
 * furthest behind: what it left unused was lent to the others, and nobody pays it back. So no class
 * waits for ever, and none saves time up. The tenants of a class have such clocks with equal
 * shares. A tenant has a slot while it has sequences; slots are few, and who finds none, as who has
 * no name, is counted with the class's others.
 * Threads: one owner. Source: start-time fair queueing (Goyal, Vin, Cheng 1996). */
#ifndef QN_SCHED_CLASSES_H
#define QN_SCHED_CLASSES_H

#include "base/base.h"

#define QN_MAX_TENANTS 128 /* slots; the first QN_MAX_CLASSES are the classes' own */

/* A gap that is left to us (QN_GAP_AUTO): not shorter, nobody sees the difference and short steps are
 * dear; and, because many prompts wait, not longer, nor than six times the step without them. */
#define QN_GAP_LEAST_NS ((uint64_t)50000000)
#define QN_GAP_MOST_NS  ((uint64_t)250000000)

typedef struct qn_sched_class {
    uint32_t share;
    uint64_t target_ns, gap_ns; /* 0: none */
    bool auto_gap;
    uint64_t clock; /* 16 ns of the machine's time, divided by share */
    uint64_t used_ns, n_preempted;
    uint32_t n_seqs;   /* not ended; guests too */
    uint32_t n_output; /* tokens of an answer, of late; 0: none has ended */
} qn_sched_class;

typedef struct qn_sched_tenant {
    uint64_t id, clock;
    uint32_t n_seqs, class_id;
    uint32_t n_guests; /* of n_seqs */
    bool ran;          /* in the last step */
    bool is_shortest;  /* its shortest prompt goes first; else its oldest. In turns */
} qn_sched_tenant;

typedef struct qn_classes {
    qn_sched_class list[QN_MAX_CLASSES];
    uint32_t n;
    qn_sched_tenant tenants[QN_MAX_TENANTS];
} qn_classes;

/* n of them, most urgent first; NULL: one without target. */
void qn_classes_init(qn_classes *k, const qn_class *list, int n);
/* A sequence came: the slot of its tenant (0: nobody's). */
uint16_t qn_classes_enter(qn_classes *k, uint32_t class_id, uint64_t tenant_id);
/* One more of that slot, which has some. */
void qn_classes_enter_slot(qn_classes *k, uint16_t slot);
void qn_classes_leave(qn_classes *k, uint16_t slot);
/* Work that is not the scheduler's (qn_score) takes part as a guest: it is counted as a sequence, does its work in
 * pieces of at most guest_ns when it is_first, and is charged for each. guest_ns: until somebody may miss a gap, or
 * a quarter of the shortest target; UINT64_MAX: nobody here wants to be quick. */
uint16_t qn_classes_enter_guest(qn_classes *k, uint32_t class_id, uint64_t tenant_id);
void qn_classes_leave_guest(qn_classes *k, uint16_t slot);
/* Nobody goes before that slot: neither another guest nor who was in the last step. Who waits for a seat or for blocks
 * holds no guest up. */
bool qn_classes_is_first(const qn_classes *k, uint16_t slot);
/* A step begins: whoever is charged from now on was in it. */
void qn_classes_begin_step(qn_classes *k);
uint64_t qn_classes_guest_ns(const qn_classes *k);
/* A step spent ns for a sequence of that slot. */
void qn_classes_charge(qn_classes *k, uint16_t slot, uint64_t ns);
/* rank[slot] of the slots with sequences: 0 goes first. By the class's clock, the class's place in
 * the list, the tenant's clock, the slot. Returns how many. */
size_t qn_classes_rank(const qn_classes *k, uint16_t rank[QN_MAX_TENANTS]);
/* What the class has had beyond its share of what all that have sequences had; negative: it was
 * given less. */
int64_t qn_classes_overuse_ns(const qn_classes *k, uint32_t class_id);

#endif
