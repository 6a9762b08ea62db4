/* SPDX-License-Identifier: Apache-2.0
 * place.c - see place.h. */
#include "sample/place.h"

#include "base/limits.h"
#include "base/mem.h"

#include <string.h>

/* ---- stacks ---- */

static size_t hash_frame(const qn_frame *f)
{
    uint64_t h = (uint64_t)f->state << 32 | f->count;
    h = (h ^ h >> 29) * 0x9e3779b97f4a7c15u;
    h = (h ^ ((uint64_t)f->parent << 32 | f->next)) * 0xbf58476d1ce4e5b9u;
    return (size_t)(h ^ h >> 31);
}

static bool is_same(const qn_frame *x, const qn_frame *y)
{
    return x->state == y->state && x->count == y->count && x->parent == y->parent &&
           x->next == y->next;
}

static void fill_table(qn_stacks *s)
{
    memset(s->table, 0, s->table_size * sizeof *s->table);
    for (uint32_t i = 1; i < s->n; i++) {
        size_t h = hash_frame(&s->frames[i]) & (s->table_size - 1);
        while (s->table[h])
            h = (h + 1) & (s->table_size - 1);
        s->table[h] = i;
    }
}

static bool new_table(qn_stacks *s, size_t size)
{
    uint32_t *table = qn_alloc_array(size, sizeof *table, QN_MEM_REQUEST);
    if (!table)
        return false;
    qn_free(s->table);
    s->table = table;
    s->table_size = size;
    fill_table(s);
    return true;
}

bool qn_stacks_init(qn_stacks *s)
{
    *s = (qn_stacks){0};
    if (!qn_grow(&s->frames, &s->cap, 2, sizeof *s->frames, QN_MEM_REQUEST))
        return false;
    s->frames[0] = s->frames[QN_WHOLE_STACK] = (qn_frame){0};
    s->n = 2;
    return new_table(s, 64);
}

void qn_stacks_fini(qn_stacks *s)
{
    qn_free(s->frames);
    qn_free(s->table);
    *s = (qn_stacks){0};
}

/* 0: out of memory. */
static uint32_t frame_of(qn_stacks *s, qn_frame f)
{
    size_t h = hash_frame(&f) & (s->table_size - 1);
    for (; s->table[h]; h = (h + 1) & (s->table_size - 1))
        if (is_same(&s->frames[s->table[h]], &f))
            return s->table[h];
    if (s->n >= UINT32_MAX / 2 ||
        !qn_grow(&s->frames, &s->cap, s->n + 1, sizeof f, QN_MEM_REQUEST) ||
        (s->n * 2 >= s->table_size && !new_table(s, s->table_size * 2)))
        return 0;
    f.depth = QN_MAX(s->frames[f.parent].depth + 1, s->frames[f.next].depth);
    s->frames[s->n] = f;
    for (h = hash_frame(&f) & (s->table_size - 1); s->table[h];)
        h = (h + 1) & (s->table_size - 1);
    s->table[h] = (uint32_t)s->n;
    return (uint32_t)s->n++;
}

/* In the order in which they came they can be taken out of the table without a gap in a search. */
void qn_stacks_cut(qn_stacks *s, size_t n)
{
    while (s->n > n) {
        size_t h = hash_frame(&s->frames[--s->n]) & (s->table_size - 1);
        while (s->table[h] != s->n)
            h = (h + 1) & (s->table_size - 1);
        s->table[h] = 0;
    }
}

bool qn_stacks_copy(qn_stacks *to, const qn_stacks *from)
{
    *to = (qn_stacks){0};
    if (!qn_grow(&to->frames, &to->cap, from->n, sizeof *to->frames, QN_MEM_REQUEST))
        return false;
    memcpy(to->frames, from->frames, from->n * sizeof *to->frames);
    to->n = from->n;
    size_t size = 64;
    while (size <= to->n * 2)
        size *= 2;
    return new_table(to, size);
}

bool qn_stacks_sweep(qn_stacks *s, qn_head *heads, size_t n)
{
    uint32_t *to = qn_calloc(s->n, sizeof *to, QN_MEM_REQUEST), n_kept = 2;
    if (!to)
        return false;
    for (size_t i = 0; i < n; i++)
        to[heads[i].stack] = 1;
    for (size_t i = s->n - 1; i >= 2; i--) /* what a frame is made of stands before it */
        if (to[i])
            to[s->frames[i].parent] = to[s->frames[i].next] = 1;
    to[0] = 0;
    to[QN_WHOLE_STACK] = QN_WHOLE_STACK;
    for (uint32_t i = 2; i < s->n; i++) {
        if (!to[i])
            continue;
        qn_frame f = s->frames[i];
        f.parent = to[f.parent];
        f.next = to[f.next];
        s->frames[n_kept] = f;
        to[i] = n_kept++;
    }
    s->n = n_kept;
    for (size_t i = 0; i < n; i++)
        heads[i].stack = to[heads[i].stack];
    qn_free(to);
    fill_table(s);
    return true;
}

static bool comes_before(const qn_frame *x, const qn_frame *y)
{
    if (x->state != y->state)
        return x->state < y->state;
    return x->count != y->count ? x->count < y->count : x->parent < y->parent;
}

/* The frames of both lists in order, put together from the end. 0: out of memory or of the limit. */
static uint32_t unite(qn_walker *w, uint32_t a, uint32_t b)
{
    qn_stacks *s = w->stacks;
    uint32_t all[QN_LIMIT_GRAMMAR_STACKS], n = 0, list = 0;
    if (a == b)
        return a;
    while (a || b) {
        const qn_frame *x = &s->frames[a], *y = &s->frames[b];
        bool takes_a = a && (!b || !comes_before(y, x)), takes_b = b && (!a || !comes_before(x, y));
        if (n == QN_LIMIT_GRAMMAR_STACKS) {
            w->is_spent = true;
            return 0;
        }
        all[n++] = takes_a ? a : b;
        a = takes_a ? x->next : a;
        b = takes_b ? y->next : b;
    }
    qn_walker_burn(w, (size_t)2 * n);
    while (n) {
        qn_frame f = s->frames[all[--n]];
        f.next = list;
        list = frame_of(s, f);
        if (!list)
            return 0;
    }
    return list;
}

/* ---- heads ---- */

void qn_walker_add(qn_walker *w, size_t begin, qn_head h)
{
    size_t i = begin;
    for (; i < w->heads.n; i++) {
        qn_head *x = &w->heads.p[i];
        if (x->state != h.state || x->count != h.count || x->lo != h.lo || x->hi != h.hi)
            continue;
        qn_walker_burn(w, i - begin + 1);
        if (x->stack != h.stack) {
            uint32_t both = unite(w, x->stack, h.stack);
            w->failed |= !both;
            x->stack = both ? both : x->stack;
        }
        return;
    }
    qn_walker_burn(w, i - begin + 1);
    w->is_spent |= i - begin >= QN_LIMIT_GRAMMAR_STACKS;
    if (i - begin >= QN_LIMIT_GRAMMAR_STACKS ||
        !qn_grow(&w->heads.p, &w->heads.cap, w->heads.n + 1, sizeof h, QN_MEM_REQUEST)) {
        w->failed = true;
        return;
    }
    h.done = 0;
    w->heads.p[w->heads.n++] = h;
}

/* The count that is not known must lead into first..last with what is added to it. */
static bool narrow(qn_head *h, uint32_t first, uint32_t last)
{
    if (first > h->count)
        h->lo = QN_MAX(h->lo, first - h->count);
    if (last != QN_FORM_ENDLESS) {
        if (h->count > last)
            return false;
        h->hi = QN_MIN(h->hi, last - h->count);
    }
    return h->lo <= h->hi;
}

bool qn_walker_move(const qn_walker *w, qn_head *h, uint32_t to, bool ticks)
{
    const qn_state *s = &w->a->states[to];
    bool is_relative = w->is_relative && h->stack == QN_WHOLE_STACK;
    h->state = to;
    if (ticks) {
        const qn_rule *r = &w->a->rules[s->rule];
        h->count += is_relative || r->max != QN_FORM_ENDLESS || h->count < r->min;
    }
    if (s->lo == 0 && s->hi == QN_FORM_ENDLESS)
        return true;
    return is_relative ? narrow(h, s->lo, s->hi) : h->count >= s->lo && h->count <= s->hi;
}

bool qn_walker_may_leave(const qn_walker *w, qn_head *h)
{
    const qn_state *s = &w->a->states[h->state];
    const qn_rule *r = &w->a->rules[s->rule];
    if (!s->is_final)
        return false;
    if (r->min == 0 && r->max == QN_FORM_ENDLESS)
        return true;
    return w->is_relative && h->stack == QN_WHOLE_STACK ? narrow(h, r->min, r->max)
                                                        : h->count >= r->min && h->count <= r->max;
}

void qn_walker_leave(qn_walker *w, size_t begin)
{
    for (bool is_new = true; is_new && !w->failed;) {
        is_new = false;
        qn_walker_burn(w, w->heads.n - begin);
        for (size_t i = begin; i < w->heads.n && !w->failed; i++) {
            qn_head h = w->heads.p[i];
            if (h.state == QN_NO_STATE || h.done == h.stack)
                continue;
            w->heads.p[i].done = h.stack;
            if (!qn_walker_may_leave(w, &h))
                continue;
            for (uint32_t f = h.stack; f; f = w->stacks->frames[f].next) {
                qn_frame x = w->stacks->frames[f];
                qn_walker_add(w, begin, (qn_head){x.state, x.count, x.parent, h.lo, h.hi, 0});
            }
            is_new = true;
        }
    }
    for (size_t i = begin; i < w->heads.n; i++)
        w->heads.p[i].done = 0;
}

static void enter(qn_walker *w, size_t begin, qn_head h, const qn_call *c)
{
    const qn_state *back = &w->a->states[c->to];
    qn_head behind = h;
    bool is_base = w->is_relative && h.stack == QN_WHOLE_STACK;
    if (!qn_walker_move(w, &behind, c->to, c->ticks))
        return;
    uint32_t stack = h.stack;
    /* where nothing but leaving is left to do, who called this rule is gone back to at once */
    qn_head gone = behind;
    if (is_base || back->n_edges || back->n_calls || !qn_walker_may_leave(w, &gone)) {
        if (w->stacks->frames[stack].depth >= QN_LIMIT_GRAMMAR_DEPTH)
            return;
        stack = frame_of(w->stacks, (qn_frame){c->to, behind.count, h.stack, 0, 0});
        if (!stack) {
            w->failed = true;
            return;
        }
    }
    qn_walker_add(w, begin,
                  (qn_head){w->a->rules[c->rule].start, 0, stack, behind.lo, behind.hi, 0});
}

void qn_walker_enter(qn_walker *w, size_t begin)
{
    for (bool is_new = true; is_new && !w->failed;) {
        is_new = false;
        qn_walker_burn(w, w->heads.n - begin);
        for (size_t i = begin; i < w->heads.n && !w->failed; i++) {
            qn_head h = w->heads.p[i];
            const qn_state *s = &w->a->states[h.state];
            if (!s->n_calls || h.done == h.stack)
                continue;
            w->heads.p[i].done = h.stack;
            qn_walker_burn(w, s->n_calls);
            for (uint32_t k = 0; k < s->n_calls && !w->failed; k++)
                enter(w, begin, h, &w->a->calls[s->calls + k]);
            is_new = true;
        }
    }
    for (size_t i = begin; i < w->heads.n; i++)
        w->heads.p[i].done = 0;
}

void qn_walker_step(qn_walker *w, size_t begin, size_t end, uint8_t byte)
{
    qn_walker_burn(w, end - begin);
    for (size_t i = begin; i < end && !w->failed; i++) {
        qn_head h = w->heads.p[i];
        const qn_state *s = &w->a->states[h.state];
        if (s->row != QN_NO_ROW) {
            uint32_t to = w->a->rows[s->row + w->a->class_of[byte]];
            if (!to)
                continue;
            if (to != QN_ROW_BOTH) {
                if (qn_walker_move(w, &h, to & ~QN_ROW_TICK, to & QN_ROW_TICK))
                    qn_walker_add(w, end, h);
                continue;
            }
        }
        for (uint32_t k = 0; k < s->n_edges; k++) {
            const qn_edge *e = &w->a->edges[s->edges + k];
            qn_head x = h;
            if (byte >= e->first && byte <= e->last && qn_walker_move(w, &x, e->to, e->ticks))
                qn_walker_add(w, end, x);
        }
    }
    qn_walker_leave(w, end);
}
