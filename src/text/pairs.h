/* SPDX-License-Identifier: Apache-2.0
 * pairs.h - hash map from a pair of numbers to a pair of numbers: BPE merges, edges of a trie.
 *
 *   slot: [ key = left << 32 | right | first | second ]    free: key = all ones
 *
 * Open addressing, linear probing, at most half full. The hash is multiply-shift with a random odd
 * factor for each table (universal: a file cannot be made to collide). Threads: any after filling
 * (read-only). */
#ifndef QN_TEXT_PAIRS_H
#define QN_TEXT_PAIRS_H

#include "base/base.h"

#define QN_PAIR_NONE UINT32_MAX

typedef struct qn_pair_slot {
    uint64_t key;
    uint32_t first, second;
} qn_pair_slot;

typedef struct qn_pairs {
    qn_pair_slot *slots;
    size_t n, n_slots; /* n_slots: 0 or a power of two */
    unsigned shift;
    uint64_t factor;
} qn_pairs;

/* Makes room for n pairs at once; false: out of memory. */
QN_MUST_USE bool qn_pairs_reserve(qn_pairs *p, size_t n);
/* The slot of (left, right), added with first = second = QN_PAIR_NONE if it was not there. Both
 * numbers below QN_PAIR_NONE. Valid until the next add; NULL: out of memory. */
qn_pair_slot *qn_pairs_add(qn_pairs *p, uint32_t left, uint32_t right);
void qn_pairs_fini(qn_pairs *p);

/* NULL: not there. */
static inline const qn_pair_slot *qn_pairs_find(const qn_pairs *p, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 32 | right;
    if (p->n_slots == 0)
        return NULL;
    for (size_t i = (size_t)(key * p->factor >> p->shift);; i = (i + 1) & (p->n_slots - 1)) {
        const qn_pair_slot *s = &p->slots[i];
        if (s->key == key)
            return s;
        if (s->key == UINT64_MAX)
            return NULL;
    }
}

#endif
