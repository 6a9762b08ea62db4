/* SPDX-License-Identifier: Apache-2.0
 * name_index.h - which number a name has: a seeded hash table, for names that may be chosen to
 * collide.
 *
 * Open addressing with linear probing, at most half full. Names are borrowed. Threads: one owner
 * while adding, then any. */
#ifndef QN_FORMAT_NAME_INDEX_H
#define QN_FORMAT_NAME_INDEX_H

#include "base/str.h"

typedef struct qn_name_slot {
    qn_slice name; /* p NULL: free */
    size_t value;
} qn_name_slot;

typedef struct qn_name_index {
    qn_name_slot *slots;
    size_t n_slots; /* a power of two; 0: empty */
    uint64_t seed;
} qn_name_index; /* zero-initialise */

/* Makes room for n_names in all. False: out of memory, nothing is lost. */
QN_MUST_USE bool qn_name_index_reserve(qn_name_index *ix, size_t n_names);
/* False: the name is there already. Room must have been made. */
QN_MUST_USE bool qn_name_index_add(qn_name_index *ix, qn_slice name, size_t value);
QN_MUST_USE bool qn_name_index_find(const qn_name_index *ix, qn_slice name, size_t *value);
void qn_name_index_fini(qn_name_index *ix);

#endif
