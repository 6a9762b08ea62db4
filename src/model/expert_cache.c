/* SPDX-License-Identifier: Apache-2.0
 * expert_cache.c - which experts are in memory, and reading the others. */
#include "model/expert_cache.h"

#include <stdatomic.h>
#include <string.h>

#define NONE  UINT32_MAX
#define DECAY 0.98f /* a step counts half after 34 more */

typedef struct expert {
    qn_dweight *w[3]; /* gate, up, down */
    const qn_qpk_panels *part[3];
    float score;
    uint32_t slot;
} expert;

typedef struct slot {
    uint32_t expert;
    uint32_t needed; /* by this plan */
} slot;

struct qn_expert_cache {
    qn_expert_source source; /* first: a pointer to it is one to this */
    const qn_qpk *file;
    const qn_backend *backend;
    size_t n_layers, n_slots, slot_bytes, n_known; /* n_known: experts set */
    uint32_t n_experts, plan;                      /* of a layer; number of the plan */
    expert *experts;                               /* [n_layers][n_experts] */
    const qn_experts **layers;                     /* [n_layers] */
    slot *slots;
    uint8_t *memory;
    uint32_t *loading; /* experts of the plan's reads, three each */
    size_t n_loading;
    uint64_t bytes; /* of all experts */
    atomic_bool has_failed;
    qn_err failure;
    _Atomic uint64_t uses, hits, read_bytes;
};

static size_t part_bytes(const expert *e, int part)
{
    return e->part[part] ? QN_ROUND_UP((size_t)e->part[part]->bytes, (size_t)QN_QPK_PAGE) : 0;
}

static size_t part_offset(const expert *e, int part)
{
    size_t at = 0;
    for (int i = 0; i < part; i++)
        at += part_bytes(e, i);
    return at;
}

/* ---- plan ---- */

static uint32_t layer_of(const qn_expert_cache *c, const qn_experts *ex)
{
    uint32_t l = 0;
    while (l + 1 < c->n_layers && c->layers[l] != ex)
        l++;
    return l;
}

static void forget(qn_expert_cache *c, uint32_t i)
{
    if (i == NONE || c->experts[i].slot == NONE)
        return;
    c->slots[c->experts[i].slot].expert = NONE;
    c->experts[i].slot = NONE;
}

/* What the last plan did not get is not there. */
static void forget_failed(qn_expert_cache *c)
{
    for (size_t i = 0; i < c->n_loading && atomic_load(&c->has_failed); i++)
        forget(c, c->loading[i]);
    c->n_loading = 0;
    atomic_store(&c->has_failed, false);
}

static void note_uses(qn_expert_cache *c, expert *e, const uint32_t *begin)
{
    uint64_t uses = 0, hits = 0;
    float rows = (float)begin[c->n_experts];
    for (uint32_t i = 0; i < c->n_experts; i++) {
        uint32_t n = begin[i + 1] - begin[i];
        e[i].score = e[i].score * DECAY + (float)n / rows;
        uses += n > 0;
        hits += n > 0 && e[i].slot != NONE;
    }
    atomic_fetch_add(&c->uses, uses);
    atomic_fetch_add(&c->hits, hits);
}

/* The free or least worthy slot that the plan does not need; NONE: it needs them all. */
static uint32_t find_slot(const qn_expert_cache *c)
{
    uint32_t best = NONE;
    float lowest = 0;
    for (uint32_t i = 0; i < c->n_slots; i++) {
        const slot *s = &c->slots[i];
        if (s->expert == NONE)
            return i;
        float score = c->experts[s->expert].score;
        if (s->needed != c->plan && (best == NONE || score < lowest)) {
            best = i;
            lowest = score;
        }
    }
    return best;
}

static void load(qn_expert_cache *c, uint32_t i, uint32_t slot_id)
{
    expert *e = &c->experts[i];
    forget(c, c->slots[slot_id].expert);
    c->slots[slot_id] = (slot){.expert = i, .needed = c->plan};
    e->slot = slot_id;
    for (int k = 0; k < 3; k++)
        if (e->part[k])
            c->backend->weight_move(e->w[k],
                                    c->memory + slot_id * c->slot_bytes + part_offset(e, k));
    c->loading[c->n_loading++] = i;
}

static uint32_t plan(qn_expert_source *s, const qn_experts *ex, const uint32_t *begin,
                     uint32_t from, size_t *n_reads)
{
    qn_expert_cache *c = (qn_expert_cache *)(void *)s;
    uint32_t first = layer_of(c, ex) * c->n_experts, to;
    expert *e = c->experts + first;
    forget_failed(c);
    if (from == 0)
        note_uses(c, e, begin);
    c->plan++;
    for (uint32_t i = from; i < c->n_experts; i++) /* those in memory stay */
        if (begin[i + 1] > begin[i] && e[i].slot != NONE)
            c->slots[e[i].slot].needed = c->plan;
    bool is_empty = true;
    for (to = from; to < c->n_experts; to++) {
        if (begin[to + 1] == begin[to])
            continue;
        uint32_t at = e[to].slot == NONE ? find_slot(c) : NONE;
        if (e[to].slot == NONE && at == NONE && !is_empty)
            break;
        if (e[to].slot == NONE) /* the first of a wave may take a later one's slot */
            load(c, first + to, at == NONE ? 0 : at);
        is_empty = false;
    }
    *n_reads = 3 * c->n_loading;
    return to;
}

static void read_part(qn_expert_source *s, size_t i)
{
    qn_expert_cache *c = (qn_expert_cache *)(void *)s;
    const expert *e = &c->experts[c->loading[i / 3]];
    int part = (int)(i % 3);
    const qn_qpk_panels *p = e->part[part];
    uint8_t *to = c->memory + e->slot * c->slot_bytes + part_offset(e, part);
    qn_err err;
    if (!p)
        return;
    if (qn_file_pread(c->file->file, (size_t)p->offset, to, (size_t)p->bytes, &err) == QN_OK)
        atomic_fetch_add(&c->read_bytes, p->bytes);
    else if (!atomic_exchange(&c->has_failed, true))
        c->failure = err;
}

static qn_status status(const qn_expert_source *s, qn_err *err)
{
    const qn_expert_cache *c = (const qn_expert_cache *)(const void *)s;
    if (!atomic_load(&c->has_failed))
        return QN_OK;
    return qn_fail(err, QN_E_IO, "reading experts: %s", c->failure.msg);
}

/* ---- making ---- */

qn_status qn_expert_cache_new(qn_expert_cache **out, const qn_qpk *file, const qn_backend *b,
                              size_t n_layers, uint32_t n_experts, qn_err *err)
{
    *out = NULL;
    qn_expert_cache *c = qn_calloc(1, sizeof *c, QN_MEM_MISC);
    size_t n = n_layers * n_experts;
    if (!c)
        return qn_fail_nomem(err, sizeof *c);
    c->source = (qn_expert_source){plan, read_part, status};
    c->file = file;
    c->backend = b;
    c->n_layers = n_layers;
    c->n_experts = n_experts;
    c->experts = qn_calloc(n, sizeof *c->experts, QN_MEM_MISC);
    c->layers = qn_calloc(n_layers, sizeof *c->layers, QN_MEM_MISC);
    c->loading = qn_calloc(n_experts, sizeof *c->loading, QN_MEM_MISC);
    if (!c->experts || !c->layers || !c->loading) {
        qn_expert_cache_free(c);
        return qn_fail_nomem(err, n * sizeof *c->experts);
    }
    for (size_t i = 0; i < n; i++)
        c->experts[i].slot = NONE;
    *out = c;
    return QN_OK;
}

void qn_expert_cache_free(qn_expert_cache *c)
{
    if (!c)
        return;
    qn_free(c->experts);
    qn_free(c->layers);
    qn_free(c->loading);
    qn_free(c->slots);
    qn_free(c->memory);
    qn_free(c);
}

void qn_expert_cache_set(qn_expert_cache *c, size_t layer, uint32_t id, int part, qn_dweight *w,
                         const qn_qpk_panels *p)
{
    expert *e = &c->experts[layer * c->n_experts + id];
    e->w[part] = w;
    e->part[part] = p;
    c->n_known += part == 2;
    c->bytes += p ? p->bytes : 0;
    c->slot_bytes = QN_MAX(c->slot_bytes, part_offset(e, 3));
}

void qn_expert_cache_bind(qn_expert_cache *c, size_t layer, qn_experts *ex)
{
    c->layers[layer] = ex;
    ex->source = &c->source;
}

size_t qn_expert_cache_slot_bytes(const qn_expert_cache *c)
{
    return c->slot_bytes;
}

qn_status qn_expert_cache_fill(qn_expert_cache *c, uint64_t bytes, qn_err *err)
{
    uint64_t n = QN_MIN(bytes / c->slot_bytes, c->n_known);
    c->slots = qn_calloc((size_t)n, sizeof *c->slots, QN_MEM_MISC);
    c->memory = qn_alloc_array((size_t)n, c->slot_bytes, QN_MEM_WEIGHTS);
    if (!c->slots || !c->memory)
        return qn_fail_nomem(err, (size_t)n * c->slot_bytes);
    for (size_t i = 0; i < n; i++)
        c->slots[i].expert = NONE;
    c->n_slots = (size_t)n;
    return QN_OK;
}

qn_expert_counts qn_expert_cache_count(const qn_expert_cache *c)
{
    return (qn_expert_counts){.n_experts = c->n_known,
                              .bytes = c->bytes,
                              .n_slots = c->n_slots,
                              .slot_bytes = c->slot_bytes,
                              .uses = atomic_load(&c->uses),
                              .hits = atomic_load(&c->hits),
                              .read_bytes = atomic_load(&c->read_bytes)};
}
