/* SPDX-License-Identifier: Apache-2.0
 * classes.c - see classes.h. */
#include "sched/classes.h"

/* A clock at share 1 runs over after 36 years. */
#define CLOCK_SCALE 16u

void qn_classes_init(qn_classes *k, const qn_class *list, int n)
{
    static const qn_class one = {.name = "default", .share = 1};
    *k = (qn_classes){.n = list ? (uint32_t)n : 1};
    QN_ASSERT(k->n >= 1 && k->n <= QN_MAX_CLASSES);
    for (uint32_t i = 0; i < k->n; i++) {
        const qn_class *c = list ? &list[i] : &one;
        k->list[i] = (qn_sched_class){
            .share = c->share,
            .target_ns = (uint64_t)c->target_ms * 1000000u,
            .auto_gap = c->gap_ms == QN_GAP_AUTO,
            .gap_ns = c->gap_ms == QN_GAP_AUTO ? 0 : (uint64_t)c->gap_ms * 1000000u};
        k->tenants[i].class_id = i;
    }
}

/* ---- coming and going ---- */

/* A class without sequences gets its first. */
static void start_class(qn_classes *k, qn_sched_class *c)
{
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < k->n; i++)
        if (k->list[i].n_seqs)
            first = QN_MIN(first, k->list[i].clock);
    if (first != UINT64_MAX)
        c->clock = QN_MAX(c->clock, first);
}

static void start_tenant(qn_classes *k, qn_sched_tenant *t)
{
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < QN_MAX_TENANTS; i++)
        if (k->tenants[i].n_seqs && k->tenants[i].class_id == t->class_id)
            first = QN_MIN(first, k->tenants[i].clock);
    if (first != UINT64_MAX)
        t->clock = QN_MAX(t->clock, first);
}

/* The tenant's slot, or one that nobody uses now, or the class's own. */
static uint16_t slot_of(qn_classes *k, uint32_t class_id, uint64_t tenant_id)
{
    size_t unused = class_id;
    for (size_t i = QN_MAX_CLASSES; i < QN_MAX_TENANTS && tenant_id; i++) {
        const qn_sched_tenant *t = &k->tenants[i];
        if (t->id == tenant_id && t->class_id == class_id)
            return (uint16_t)i;
        if (!t->n_seqs && (unused == class_id || t->clock < k->tenants[unused].clock))
            unused = i;
    }
    if (unused != class_id)
        k->tenants[unused] = (qn_sched_tenant){.id = tenant_id, .class_id = class_id};
    return (uint16_t)unused;
}

uint16_t qn_classes_enter(qn_classes *k, uint32_t class_id, uint64_t tenant_id)
{
    QN_ASSERT(class_id < k->n);
    uint16_t slot = slot_of(k, class_id, tenant_id);
    if (!k->list[class_id].n_seqs)
        start_class(k, &k->list[class_id]);
    if (!k->tenants[slot].n_seqs)
        start_tenant(k, &k->tenants[slot]);
    qn_classes_enter_slot(k, slot);
    return slot;
}

void qn_classes_enter_slot(qn_classes *k, uint16_t slot)
{
    k->tenants[slot].n_seqs++;
    k->list[k->tenants[slot].class_id].n_seqs++;
}

void qn_classes_leave(qn_classes *k, uint16_t slot)
{
    QN_ASSERT(k->tenants[slot].n_seqs);
    k->tenants[slot].n_seqs--;
    k->list[k->tenants[slot].class_id].n_seqs--;
}

/* ---- time ---- */

void qn_classes_charge(qn_classes *k, uint16_t slot, uint64_t ns)
{
    qn_sched_tenant *t = &k->tenants[slot];
    qn_sched_class *c = &k->list[t->class_id];
    t->ran = true;
    t->clock += ns;
    c->clock += ns * CLOCK_SCALE / c->share;
    c->used_ns += ns;
}

static bool goes_before(const qn_classes *k, uint16_t a, uint16_t b)
{
    const qn_sched_tenant *x = &k->tenants[a], *y = &k->tenants[b];
    uint64_t cx = k->list[x->class_id].clock, cy = k->list[y->class_id].clock;
    if (cx != cy)
        return cx < cy;
    if (x->class_id != y->class_id)
        return x->class_id < y->class_id;
    return x->clock != y->clock ? x->clock < y->clock : a < b;
}

/* ---- guests ---- */

uint16_t qn_classes_enter_guest(qn_classes *k, uint32_t class_id, uint64_t tenant_id)
{
    uint16_t slot = qn_classes_enter(k, class_id, tenant_id);
    k->tenants[slot].n_guests++;
    return slot;
}

void qn_classes_leave_guest(qn_classes *k, uint16_t slot)
{
    k->tenants[slot].n_guests--;
    qn_classes_leave(k, slot);
}

bool qn_classes_is_first(const qn_classes *k, uint16_t slot)
{
    for (uint16_t i = 0; i < QN_MAX_TENANTS; i++) {
        const qn_sched_tenant *t = &k->tenants[i];
        if ((t->n_guests || (t->n_seqs && t->ran)) && i != slot && goes_before(k, i, slot))
            return false;
    }
    return true;
}

void qn_classes_begin_step(qn_classes *k)
{
    for (size_t i = 0; i < QN_MAX_TENANTS; i++)
        k->tenants[i].ran = false;
}

uint64_t qn_classes_guest_ns(const qn_classes *k)
{
    uint32_t n_others[QN_MAX_CLASSES] = {0};
    uint64_t most = UINT64_MAX;
    for (size_t i = 0; i < QN_MAX_TENANTS; i++)
        n_others[k->tenants[i].class_id] += k->tenants[i].n_seqs - k->tenants[i].n_guests;
    for (uint32_t i = 0; i < k->n; i++) {
        const qn_sched_class *c = &k->list[i];
        if (c->gap_ns && n_others[i])
            most = QN_MIN(most, c->gap_ns);
        if (c->auto_gap && n_others[i])
            most = QN_MIN(most, QN_GAP_LEAST_NS);
        if (c->target_ns) /* who comes next must not wait for long either */
            most = QN_MIN(most, c->target_ns / 4);
    }
    return most;
}

size_t qn_classes_rank(const qn_classes *k, uint16_t rank[QN_MAX_TENANTS])
{
    uint16_t order[QN_MAX_TENANTS];
    size_t n = 0;
    for (uint16_t i = 0; i < QN_MAX_TENANTS; i++) {
        if (!k->tenants[i].n_seqs)
            continue;
        size_t at = n++;
        for (; at && goes_before(k, i, order[at - 1]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    for (size_t i = 0; i < n; i++)
        rank[order[i]] = (uint16_t)i;
    return n;
}

int64_t qn_classes_overuse_ns(const qn_classes *k, uint32_t class_id)
{
    uint64_t first = UINT64_MAX, shares = 0, sum = 0;
    for (uint32_t i = 0; i < k->n; i++)
        if (k->list[i].n_seqs)
            first = QN_MIN(first, k->list[i].clock);
    const qn_sched_class *c = &k->list[class_id];
    if (!c->n_seqs)
        return 0;
    for (uint32_t i = 0; i < k->n; i++)
        if (k->list[i].n_seqs) {
            shares += k->list[i].share;
            sum += (k->list[i].clock - first) * k->list[i].share;
        }
    int64_t ahead = (int64_t)(c->clock - first) - (int64_t)(sum / QN_MAX(shares, 1u));
    return ahead * (int64_t)c->share / (int64_t)CLOCK_SCALE;
}
