/* SPDX-License-Identifier: Apache-2.0
 * pairs.c - growing and filling of the pair map. */
#include "text/pairs.h"

#include "base/mem.h"
#include "base/str.h"

static qn_pair_slot *probe(const qn_pairs *p, uint64_t key)
{
    size_t i = (size_t)(key * p->factor >> p->shift);
    while (p->slots[i].key != key && p->slots[i].key != UINT64_MAX)
        i = (i + 1) & (p->n_slots - 1);
    return &p->slots[i];
}

static bool resize(qn_pairs *p, unsigned bits)
{
    qn_pairs big = *p;
    big.n_slots = (size_t)1 << bits;
    big.shift = 64 - bits;
    if (big.factor == 0) {
        uint64_t noise[2] = {qn_now_ns(), (uint64_t)(uintptr_t)p};
        big.factor = qn_hash(noise, sizeof(noise), 0) | 1;
    }
    big.slots = qn_alloc_array(big.n_slots, sizeof(*big.slots), QN_MEM_VOCAB);
    if (!big.slots)
        return false;
    for (size_t i = 0; i < big.n_slots; i++)
        big.slots[i].key = UINT64_MAX;
    for (size_t i = 0; i < p->n_slots; i++)
        if (p->slots[i].key != UINT64_MAX)
            *probe(&big, p->slots[i].key) = p->slots[i];
    qn_free(p->slots);
    *p = big;
    return true;
}

bool qn_pairs_reserve(qn_pairs *p, size_t n)
{
    unsigned bits = 4;
    while (bits < 48 && ((size_t)1 << bits) / 2 < n)
        bits++;
    return p->n_slots >= (size_t)1 << bits || resize(p, bits);
}

qn_pair_slot *qn_pairs_add(qn_pairs *p, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 32 | right;
    if (!qn_pairs_reserve(p, p->n + 1))
        return NULL;
    qn_pair_slot *s = probe(p, key);
    if (s->key != key) {
        *s = (qn_pair_slot){key, QN_PAIR_NONE, QN_PAIR_NONE};
        p->n++;
    }
    return s;
}

void qn_pairs_fini(qn_pairs *p)
{
    qn_free(p->slots);
    *p = (qn_pairs){0};
}
