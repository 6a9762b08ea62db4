/* SPDX-License-Identifier: Apache-2.0
 * name_index.c - the hash table of names. */
#include "format/name_index.h"

#include "base/mem.h"

/* The slot that holds name, or the free one where it belongs. */
static qn_name_slot *slot_of(const qn_name_index *ix, qn_slice name)
{
    size_t mask = ix->n_slots - 1, i = (size_t)qn_hash(name.p, name.n, ix->seed) & mask;
    while (ix->slots[i].name.p && !qn_slice_eq(ix->slots[i].name, name))
        i = (i + 1) & mask;
    return &ix->slots[i];
}

bool qn_name_index_reserve(qn_name_index *ix, size_t n_names)
{
    size_t n = QN_MAX(ix->n_slots, 8);
    while (n / 2 < n_names)
        n *= 2;
    if (n == ix->n_slots)
        return true;
    qn_name_index bigger = {.slots = qn_calloc(n, sizeof *ix->slots, QN_MEM_MISC), .n_slots = n};
    if (!bigger.slots)
        return false;
    /* The clock and the heap's address are not a file's to choose. */
    bigger.seed = qn_now_ns() ^ (uint64_t)(uintptr_t)bigger.slots;
    for (size_t i = 0; i < ix->n_slots; i++)
        if (ix->slots[i].name.p)
            *slot_of(&bigger, ix->slots[i].name) = ix->slots[i];
    qn_free(ix->slots);
    *ix = bigger;
    return true;
}

bool qn_name_index_add(qn_name_index *ix, qn_slice name, size_t value)
{
    qn_name_slot *s = slot_of(ix, name);
    if (s->name.p)
        return false;
    *s = (qn_name_slot){name, value};
    return true;
}

bool qn_name_index_find(const qn_name_index *ix, qn_slice name, size_t *value)
{
    if (!ix->n_slots)
        return false;
    const qn_name_slot *s = slot_of(ix, name);
    if (!s->name.p)
        return false;
    *value = s->value;
    return true;
}

void qn_name_index_fini(qn_name_index *ix)
{
    qn_free(ix->slots);
    *ix = (qn_name_index){0};
}
