/* SPDX-License-Identifier: Apache-2.0
 * dfa.c - sets of the nfa's states made states, equal ones joined, pairs of states for and / minus: see dfa.h.
 *
 * A set holds (state of the nfa, has an iteration begun since the last byte): only such as have arcs that take
 * something, and the end. Sets stand one behind the other in a pool, found by a table of their hashes. */
#include "sample/dfa.h"

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

qn_status qn_fuel_take(qn_fuel *fuel, size_t steps, qn_err *err)
{
    if (steps > fuel->steps) {
        fuel->steps = 0;
        return qn_fail(err, QN_E_TOO_LONG, "grammar: found one that takes too long to compile");
    }
    fuel->steps -= steps;
    return QN_OK;
}

void qn_dfa_fini(qn_dfa *d)
{
    qn_free(d->edge_at);
    qn_free(d->call_at);
    qn_free(d->edges);
    qn_free(d->calls);
    qn_free(d->is_final);
    qn_free(d->lo);
    qn_free(d->hi);
    *d = (qn_dfa){0};
}

/* ---- a dfa as it grows: states in order, each with its edges and calls ---- */

typedef struct builder {
    qn_dfa d;
    size_t edges_cap, calls_cap, edge_at_cap, call_at_cap, final_cap;
} builder;

static bool begin_state(builder *b, bool is_final)
{
    qn_dfa *d = &b->d;
    if (!qn_grow(&d->edge_at, &b->edge_at_cap, d->n + 2, sizeof *d->edge_at, QN_MEM_REQUEST) ||
        !qn_grow(&d->call_at, &b->call_at_cap, d->n + 2, sizeof *d->call_at, QN_MEM_REQUEST) ||
        !qn_grow(&d->is_final, &b->final_cap, d->n + 1, 1, QN_MEM_REQUEST))
        return false;
    d->is_final[d->n] = is_final;
    d->edge_at[d->n] = d->edge_at[d->n + 1] = (uint32_t)d->n_edges;
    d->call_at[d->n] = d->call_at[d->n + 1] = (uint32_t)d->n_calls;
    d->n++;
    return true;
}

/* Of the state begun last; an edge that goes on where the one before ends becomes one with it. */
static bool add_edge(builder *b, qn_edge e)
{
    qn_dfa *d = &b->d;
    if (d->n_edges > d->edge_at[d->n - 1]) {
        qn_edge *was = &d->edges[d->n_edges - 1];
        if (was->to == e.to && was->ticks == e.ticks && was->last + 1 == e.first) {
            was->last = e.last;
            return true;
        }
    }
    if (!qn_grow(&d->edges, &b->edges_cap, d->n_edges + 1, sizeof e, QN_MEM_REQUEST))
        return false;
    d->edges[d->n_edges++] = e;
    d->edge_at[d->n] = (uint32_t)d->n_edges;
    return true;
}

static bool add_call(builder *b, qn_call c)
{
    qn_dfa *d = &b->d;
    if (!qn_grow(&d->calls, &b->calls_cap, d->n_calls + 1, sizeof c, QN_MEM_REQUEST))
        return false;
    d->calls[d->n_calls++] = c;
    d->call_at[d->n] = (uint32_t)d->n_calls;
    return true;
}

/* ---- sets of the nfa's states ---- */

typedef struct target {
    uint32_t key, to; /* key: what is read, with the tick in its lowest bit */
} target;

typedef struct subsets {
    const qn_nfa *a;
    qn_fuel *fuel;
    qn_err *err;
    uint32_t *pool, *at, *table, *mark, *work; /* at[i]: where set i begins in the pool */
    target *targets;
    size_t n, pool_n, pool_cap, at_cap, table_size, work_n, work_cap, targets_n, targets_cap;
    uint32_t epoch;
    builder b;
} subsets;

static void visit(subsets *s, uint32_t item)
{
    if (s->mark[item] == s->epoch)
        return;
    s->mark[item] = s->epoch;
    s->work[s->work_n++] = item; /* room for every item */
}

static bool takes(const qn_nfa *a, uint32_t state)
{
    for (uint32_t i = a->head[state]; i; i = a->arcs[i].next)
        if (a->arcs[i].kind >= QN_ARC_BYTES)
            return true;
    return state == 1;
}

static int ascending(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

/* Appends to the pool what the items on the list of work reach by empty arcs. */
static qn_status close_set(subsets *s)
{
    const qn_nfa *a = s->a;
    size_t begin = s->pool_n, steps = 0;
    while (s->work_n) {
        uint32_t item = s->work[--s->work_n], state = item / 2, ticked = item & 1;
        for (uint32_t i = a->head[state]; i; i = a->arcs[i].next, steps++) {
            uint8_t kind = a->arcs[i].kind;
            if (kind == QN_ARC_EMPTY || (kind == QN_ARC_BACK && !ticked))
                visit(s, a->arcs[i].to * 2 + ticked);
            else if (kind == QN_ARC_TICK)
                visit(s, a->arcs[i].to * 2 + 1);
        }
        if (!takes(a, state) || (state == 1 && ticked))
            continue;
        if (!qn_grow(&s->pool, &s->pool_cap, s->pool_n + 1, sizeof *s->pool, QN_MEM_REQUEST))
            return qn_fail_nomem(s->err, s->pool_n * sizeof *s->pool);
        s->pool[s->pool_n++] = item;
    }
    if (s->pool_n > begin)
        qsort(s->pool + begin, s->pool_n - begin, sizeof *s->pool, ascending);
    return qn_fuel_take(s->fuel, 4 * (steps + s->pool_n - begin) + 8, s->err);
}

static bool grow_table(subsets *s)
{
    if (s->n * 2 < s->table_size)
        return true;
    size_t size = s->table_size ? s->table_size * 4 : 64;
    uint32_t *table = qn_alloc_array(size, sizeof *table, QN_MEM_REQUEST);
    if (!table)
        return false;
    memset(table, 0xff, size * sizeof *table);
    for (uint32_t i = 0; i < s->n; i++) {
        size_t n = s->at[i + 1] - s->at[i];
        size_t h = qn_hash(s->pool + s->at[i], n * sizeof *s->pool, 0) & (size - 1);
        while (table[h] != NONE)
            h = (h + 1) & (size - 1);
        table[h] = i;
    }
    qn_free(s->table);
    s->table = table;
    s->table_size = size;
    return true;
}

/* The number of the set at the end of the pool, which is taken back if it was there. */
static qn_status number_set(subsets *s, uint32_t *out)
{
    if (!grow_table(s) || !qn_grow(&s->at, &s->at_cap, s->n + 2, sizeof *s->at, QN_MEM_REQUEST))
        return qn_fail_nomem(s->err, s->table_size * sizeof *s->table);
    if (s->n == 0)
        s->at[0] = 0;
    size_t begin = s->at[s->n], bytes = (s->pool_n - begin) * sizeof *s->pool;
    size_t h = qn_hash(s->pool + begin, bytes, 0) & (s->table_size - 1);
    for (; s->table[h] != NONE; h = (h + 1) & (s->table_size - 1)) {
        uint32_t i = s->table[h];
        if ((s->at[i + 1] - s->at[i]) * sizeof *s->pool == bytes &&
            memcmp(s->pool + s->at[i], s->pool + begin, bytes) == 0) {
            s->pool_n = begin;
            *out = i;
            return QN_OK;
        }
    }
    if (s->fuel->n_states + s->n >= QN_LIMIT_GRAMMAR_STATES)
        return qn_fail(s->err, QN_E_TOO_LONG, "grammar: found more than %d states",
                       QN_LIMIT_GRAMMAR_STATES);
    s->table[h] = *out = (uint32_t)s->n;
    s->at[++s->n] = (uint32_t)s->pool_n;
    return QN_OK;
}

static bool add_target(subsets *s, uint32_t key, uint32_t to)
{
    if (!qn_grow(&s->targets, &s->targets_cap, s->targets_n + 1, sizeof *s->targets,
                 QN_MEM_REQUEST))
        return false;
    s->targets[s->targets_n++] = (target){key, to};
    return true;
}

static int by_key(const void *x, const void *y)
{
    const target *a = x, *b = y;
    return a->key != b->key ? (a->key > b->key) - (a->key < b->key)
                            : (a->to > b->to) - (a->to < b->to);
}

/* The bytes cut at every border that an arc of set i has. */
static void cut_bytes(const subsets *s, uint32_t i, uint8_t piece_of[257])
{
    const qn_nfa *a = s->a;
    bool borders[257] = {true};
    for (uint32_t k = s->at[i]; k < s->at[i + 1]; k++)
        for (uint32_t j = a->head[s->pool[k] / 2]; j; j = a->arcs[j].next)
            if (a->arcs[j].kind == QN_ARC_BYTES)
                borders[a->arcs[j].first] = borders[a->arcs[j].last + 1] = true;
    for (uint32_t b = 0, p = 0; b < 256; b++)
        piece_of[b] = (uint8_t)(b && borders[b] ? ++p : p);
}

static bool add_targets(subsets *s, const qn_arc *arc, uint32_t ticked, const uint8_t piece_of[257])
{
    if (arc->kind == QN_ARC_CALL)
        return add_target(s, arc->rule * 2 + ticked, arc->to);
    for (uint32_t p = piece_of[arc->first]; p <= piece_of[arc->last]; p++)
        if (!add_target(s, p * 2 + ticked, arc->to))
            return false;
    return true;
}

/* The arcs of set i by what they read: rules, or pieces of bytes. */
static bool gather(subsets *s, uint32_t i, uint32_t kind, const uint8_t piece_of[257])
{
    const qn_nfa *a = s->a;
    s->targets_n = 0;
    for (uint32_t k = s->at[i]; k < s->at[i + 1]; k++)
        for (uint32_t j = a->head[s->pool[k] / 2]; j; j = a->arcs[j].next)
            if (a->arcs[j].kind == kind && !add_targets(s, &a->arcs[j], s->pool[k] & 1, piece_of))
                return false;
    if (s->targets_n)
        qsort(s->targets, s->targets_n, sizeof *s->targets, by_key);
    return true;
}

/* A set, and what each thing that it reads leads to. */
static qn_status add_arcs(subsets *s, uint32_t kind, const uint8_t piece_of[257])
{
    uint32_t first = 0;
    QN_TRY(qn_fuel_take(s->fuel, 8 * s->targets_n, s->err));
    for (size_t i = 0; i < s->targets_n;) {
        uint32_t key = s->targets[i].key, to;
        s->epoch++;
        for (; i < s->targets_n && s->targets[i].key == key; i++)
            visit(s, s->targets[i].to * 2);
        QN_TRY(close_set(s));
        QN_TRY(number_set(s, &to));
        bool good;
        if (kind == QN_ARC_CALL) {
            good = add_call(&s->b, (qn_call){key / 2, to, key & 1});
        } else {
            while (piece_of[first] < key / 2)
                first++;
            uint32_t last = first;
            while (last < 255 && piece_of[last + 1] == key / 2)
                last++;
            qn_dfa *d = &s->b.d;
            if (d->n_edges > d->edge_at[d->n - 1] && d->edges[d->n_edges - 1].last >= first)
                d->is_split = true;
            good = add_edge(&s->b, (qn_edge){to, (uint8_t)first, (uint8_t)last, key & 1});
        }
        if (!good)
            return qn_fail_nomem(s->err, s->b.d.n_edges * sizeof(qn_edge));
    }
    return QN_OK;
}

static qn_status make_states(subsets *s)
{
    uint32_t start;
    uint8_t piece_of[257];
    s->epoch++;
    visit(s, 0);
    QN_TRY(close_set(s));
    QN_TRY(number_set(s, &start));
    for (uint32_t i = 0; i < s->n; i++) {
        bool is_final = false;
        for (uint32_t k = s->at[i]; k < s->at[i + 1]; k++)
            is_final |= s->pool[k] / 2 == 1;
        cut_bytes(s, i, piece_of);
        if (!begin_state(&s->b, is_final) || !gather(s, i, QN_ARC_BYTES, piece_of))
            return qn_fail_nomem(s->err, s->n);
        QN_TRY(add_arcs(s, QN_ARC_BYTES, piece_of));
        if (!gather(s, i, QN_ARC_CALL, piece_of))
            return qn_fail_nomem(s->err, s->n);
        QN_TRY(add_arcs(s, QN_ARC_CALL, piece_of));
    }
    return QN_OK;
}

/* ---- equal states are joined (Moore) ---- */

typedef struct joiner {
    const qn_dfa *d;
    uint32_t *class_of, *next_class, *table;
    size_t table_size, n_classes;
} joiner;

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t hash_state(const joiner *j, uint32_t s)
{
    const qn_dfa *d = j->d;
    uint64_t h = mix(d->is_final[s], j->class_of[s]);
    for (uint32_t i = d->edge_at[s]; i < d->edge_at[s + 1]; i++) {
        const qn_edge *e = &d->edges[i];
        h = mix(h, (uint64_t)j->class_of[e->to] << 17 | (uint64_t)e->ticks << 16 |
                       (uint64_t)e->first << 8 | e->last);
    }
    for (uint32_t i = d->call_at[s]; i < d->call_at[s + 1]; i++) {
        const qn_call *c = &d->calls[i];
        h = mix(mix(h, c->rule * 2u + c->ticks), j->class_of[c->to]);
    }
    return h;
}

/* Edges are cut at the same bytes where two states are equal: qn_dfa's are as long as can be, by where they lead. Where
 * two of them are joined later their borders may differ; then the states stay apart. */
static bool are_equal(const joiner *j, uint32_t s, uint32_t t)
{
    const qn_dfa *d = j->d;
    uint32_t n = d->edge_at[s + 1] - d->edge_at[s], m = d->call_at[s + 1] - d->call_at[s];
    if (d->is_final[s] != d->is_final[t] || j->class_of[s] != j->class_of[t] ||
        n != d->edge_at[t + 1] - d->edge_at[t] || m != d->call_at[t + 1] - d->call_at[t])
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const qn_edge *x = &d->edges[d->edge_at[s] + i], *y = &d->edges[d->edge_at[t] + i];
        if (x->first != y->first || x->last != y->last || x->ticks != y->ticks ||
            j->class_of[x->to] != j->class_of[y->to])
            return false;
    }
    for (uint32_t i = 0; i < m; i++) {
        const qn_call *x = &d->calls[d->call_at[s] + i], *y = &d->calls[d->call_at[t] + i];
        if (x->rule != y->rule || x->ticks != y->ticks || j->class_of[x->to] != j->class_of[y->to])
            return false;
    }
    return true;
}

/* One round: states of a class whose arcs lead to other classes part. */
static size_t part(joiner *j)
{
    size_t n = 0;
    memset(j->table, 0xff, j->table_size * sizeof *j->table);
    for (uint32_t s = 0; s < j->d->n; s++) {
        size_t h = hash_state(j, s) & (j->table_size - 1);
        while (j->table[h] != NONE && !are_equal(j, j->table[h], s))
            h = (h + 1) & (j->table_size - 1);
        if (j->table[h] == NONE) {
            j->table[h] = s;
            j->next_class[s] = (uint32_t)n++;
        } else {
            j->next_class[s] = j->next_class[j->table[h]];
        }
    }
    return n;
}

/* The dfa of classes; class 0 is the start's, for it is met first. */
static bool rebuild(builder *b, const qn_dfa *d, const uint32_t *class_of, size_t n_classes)
{
    uint32_t done = 0;
    b->d.min = d->min;
    b->d.max = d->max;
    b->d.is_split = d->is_split;
    for (uint32_t s = 0; s < d->n && done < n_classes; s++) {
        if (class_of[s] != done)
            continue;
        done++;
        if (!begin_state(b, d->is_final[s]))
            return false;
        for (uint32_t i = d->edge_at[s]; i < d->edge_at[s + 1]; i++) {
            qn_edge e = d->edges[i];
            e.to = class_of[e.to];
            if (!add_edge(b, e))
                return false;
        }
        for (uint32_t i = d->call_at[s]; i < d->call_at[s + 1]; i++) {
            qn_call c = d->calls[i];
            c.to = class_of[c.to];
            if (!add_call(b, c))
                return false;
        }
    }
    return true;
}

static qn_status join(qn_dfa *d, qn_fuel *fuel, qn_err *err)
{
    joiner j = {.d = d, .table_size = 64};
    while (j.table_size < d->n * 2)
        j.table_size *= 2;
    j.class_of = qn_calloc(d->n, sizeof *j.class_of, QN_MEM_REQUEST);
    j.next_class = qn_calloc(d->n, sizeof *j.next_class, QN_MEM_REQUEST);
    j.table = qn_alloc_array(j.table_size, sizeof *j.table, QN_MEM_REQUEST);
    bool good = j.class_of && j.next_class && j.table, is_done = false;
    size_t cost = 4 * (d->n + d->n_edges + d->n_calls);
    /* a long chain takes as many rounds: it has no equal states anyway, so there is no harm in giving up */
    for (size_t most = fuel->steps / 4; good && !is_done && most > cost; most -= cost) {
        size_t n = part(&j);
        is_done = n == j.n_classes;
        j.n_classes = n;
        uint32_t *was = j.class_of;
        j.class_of = j.next_class;
        j.next_class = was;
        fuel->steps -= cost;
    }
    builder b = {0};
    if (good && is_done && j.n_classes < d->n) {
        good = rebuild(&b, d, j.class_of, j.n_classes);
        if (good) {
            qn_dfa_fini(d);
            *d = b.d;
        } else {
            qn_dfa_fini(&b.d);
        }
    }
    qn_free(j.class_of);
    qn_free(j.next_class);
    qn_free(j.table);
    return good ? QN_OK : qn_fail_nomem(err, d->n * sizeof(uint32_t));
}

qn_status qn_dfa_make(qn_dfa *out, const qn_nfa *a, uint32_t min, uint32_t max, qn_fuel *fuel,
                      qn_err *err)
{
    *out = (qn_dfa){0};
    if (a->failed)
        return qn_fail_nomem(err, a->n_arcs * sizeof *a->arcs);
    subsets s = {.a = a, .fuel = fuel, .err = err};
    s.b.d.min = min;
    s.b.d.max = max;
    s.mark = qn_calloc(a->n * 2, sizeof *s.mark, QN_MEM_REQUEST);
    s.work = qn_alloc_array(a->n * 2, sizeof *s.work, QN_MEM_REQUEST);
    bool good =
        s.mark && s.work && qn_grow(&s.pool, &s.pool_cap, 64, sizeof *s.pool, QN_MEM_REQUEST);
    qn_status st = good ? make_states(&s) : qn_fail_nomem(err, a->n * 16);
    qn_free(s.mark);
    qn_free(s.work);
    qn_free(s.pool);
    qn_free(s.at);
    qn_free(s.table);
    qn_free(s.targets);
    if (st == QN_OK)
        st = join(&s.b.d, fuel, err);
    if (st != QN_OK) {
        qn_dfa_fini(&s.b.d);
        return st;
    }
    *out = s.b.d;
    return QN_OK;
}

/* ---- and, minus ---- */

typedef struct pair {
    uint32_t a, b; /* b NONE: no text of b begins so */
} pair;

typedef struct pairs {
    pair *p;
    uint32_t *table;
    size_t n, cap, table_size;
    qn_fuel *fuel;
    qn_err *err;
} pairs;

static bool grow_pairs(pairs *q)
{
    if (!qn_grow(&q->p, &q->cap, q->n + 1, sizeof *q->p, QN_MEM_REQUEST))
        return false;
    if (q->n * 2 < q->table_size)
        return true;
    size_t size = q->table_size ? q->table_size * 4 : 64;
    uint32_t *table = qn_alloc_array(size, sizeof *table, QN_MEM_REQUEST);
    if (!table)
        return false;
    memset(table, 0xff, size * sizeof *table);
    for (uint32_t i = 0; i < q->n; i++) {
        size_t h = mix(q->p[i].a, q->p[i].b) & (size - 1);
        while (table[h] != NONE)
            h = (h + 1) & (size - 1);
        table[h] = i;
    }
    qn_free(q->table);
    q->table = table;
    q->table_size = size;
    return true;
}

static qn_status number_pair(pairs *q, pair x, uint32_t *out)
{
    if (!grow_pairs(q))
        return qn_fail_nomem(q->err, q->table_size * sizeof *q->table);
    size_t h = mix(x.a, x.b) & (q->table_size - 1);
    for (; q->table[h] != NONE; h = (h + 1) & (q->table_size - 1))
        if (q->p[q->table[h]].a == x.a && q->p[q->table[h]].b == x.b) {
            *out = q->table[h];
            return QN_OK;
        }
    if (q->fuel->n_states + q->n >= QN_LIMIT_GRAMMAR_STATES)
        return qn_fail(q->err, QN_E_TOO_LONG, "grammar: found more than %d states",
                       QN_LIMIT_GRAMMAR_STATES);
    q->p[q->n] = x;
    q->table[h] = *out = (uint32_t)q->n++;
    return QN_OK;
}

/* What both read of the bytes of e, cut at the borders of b's edges *j and on. */
static qn_status add_pair_edge(pairs *q, builder *out, const qn_edge *e, const qn_dfa *b,
                               uint32_t *j, uint32_t end, bool is_minus)
{
    for (uint32_t at = e->first; at <= e->last;) {
        while (*j < end && b->edges[*j].last < at)
            ++*j;
        const qn_edge *f = *j < end && b->edges[*j].first <= e->last ? &b->edges[*j] : NULL;
        bool is_both = f && f->first <= at;
        uint32_t last = is_both ? QN_MIN(e->last, f->last) : f ? f->first - 1u : e->last, to;
        if (is_both || is_minus) {
            QN_TRY(number_pair(q, (pair){e->to, is_both ? f->to : NONE}, &to));
            if (!add_edge(out, (qn_edge){to, (uint8_t)at, (uint8_t)last,
                                         e->ticks || (is_both && f->ticks)}))
                return qn_fail_nomem(q->err, out->d.n_edges * sizeof(qn_edge));
        }
        at = last + 1;
    }
    return QN_OK;
}

static qn_status add_pair_edges(pairs *q, builder *out, const qn_dfa *a, const qn_dfa *b, pair x,
                                bool is_minus)
{
    uint32_t j = x.b == NONE ? 0 : b->edge_at[x.b], end = x.b == NONE ? 0 : b->edge_at[x.b + 1];
    size_t n = a->edge_at[x.a + 1] - a->edge_at[x.a];
    for (uint32_t i = a->edge_at[x.a]; i < a->edge_at[x.a + 1]; i++)
        QN_TRY(add_pair_edge(q, out, &a->edges[i], b, &j, end, is_minus));
    return qn_fuel_take(q->fuel, 4 * (n + 2), q->err);
}

qn_status qn_dfa_product(qn_dfa *out, const qn_dfa *a, const qn_dfa *b, bool is_minus,
                         qn_fuel *fuel, qn_err *err)
{
    pairs q = {.fuel = fuel, .err = err};
    builder r = {.d.max = QN_FORM_ENDLESS};
    uint32_t start;
    *out = (qn_dfa){0};
    r.d.min = QN_MAX(a->min, b->min);
    r.d.max = QN_MIN(a->max, b->max);
    qn_status s =
        a->n && (b->n || is_minus) ? number_pair(&q, (pair){0, b->n ? 0 : NONE}, &start) : QN_OK;
    for (uint32_t i = 0; s == QN_OK && i < q.n; i++) {
        pair x = q.p[i];
        bool in_b = x.b != NONE && b->is_final[x.b];
        s = begin_state(&r, a->is_final[x.a] && in_b != is_minus)
                ? add_pair_edges(&q, &r, a, b, x, is_minus)
                : qn_fail_nomem(err, q.n);
    }
    qn_free(q.p);
    qn_free(q.table);
    if (s == QN_OK && r.d.n)
        s = join(&r.d, fuel, err);
    if (s != QN_OK) {
        qn_dfa_fini(&r.d);
        return s;
    }
    *out = r.d;
    return QN_OK;
}

/* ---- from where, with how many ticks, an end can be reached ---- */

typedef struct bounder {
    const qn_dfa *d;
    uint32_t *from_at, *from; /* states with an edge or a call without a tick to the state */
    bool *now, *above;        /* ends can be reached: with this number of ticks, with one more */
    uint32_t *work;
} bounder;

static bool is_tickless(const qn_dfa *d, uint32_t i, bool is_call, uint32_t *to)
{
    *to = is_call ? d->calls[i].to : d->edges[i].to;
    return !(is_call ? d->calls[i].ticks : d->edges[i].ticks);
}

static void list_sources(bounder *b)
{
    const qn_dfa *d = b->d;
    uint32_t to;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t s = 0; s < d->n; s++)
            for (int is_call = 0; is_call < 2; is_call++) {
                const uint32_t *at = is_call ? d->call_at : d->edge_at;
                for (uint32_t i = at[s]; i < at[s + 1]; i++)
                    if (is_tickless(d, i, is_call, &to)) {
                        if (pass == 0)
                            b->from_at[to + 1]++;
                        else
                            b->from[b->from_at[to]++] = s;
                    }
            }
        if (pass == 0)
            for (size_t i = 0; i < d->n; i++)
                b->from_at[i + 1] += b->from_at[i];
    }
    for (size_t i = d->n; i > 0; i--) /* filling has moved each begin to the next one's */
        b->from_at[i] = b->from_at[i - 1];
    b->from_at[0] = 0;
}

/* Which states can come to an end with c ticks so far; `above`, with c + 1, is used where there is a tick. */
static void reach(bounder *b, uint32_t c, const bool *above)
{
    const qn_dfa *d = b->d;
    size_t n = 0;
    for (uint32_t s = 0; s < d->n; s++) {
        bool is_good = d->is_final[s] && c >= d->min;
        for (uint32_t i = d->edge_at[s]; above && !is_good && i < d->edge_at[s + 1]; i++)
            is_good = d->edges[i].ticks && above[d->edges[i].to];
        for (uint32_t i = d->call_at[s]; above && !is_good && i < d->call_at[s + 1]; i++)
            is_good = d->calls[i].ticks && above[d->calls[i].to];
        b->now[s] = is_good;
        if (is_good)
            b->work[n++] = s;
    }
    while (n) {
        uint32_t s = b->work[--n];
        for (uint32_t i = b->from_at[s]; i < b->from_at[s + 1]; i++)
            if (!b->now[b->from[i]]) {
                b->now[b->from[i]] = true;
                b->work[n++] = b->from[i];
            }
    }
}

/* From the largest number of ticks down; where two numbers give the same, so do all down to the least one allowed. */
static qn_status find_bounds(bounder *b, qn_dfa *d, bool *is_exact, qn_fuel *fuel, qn_err *err)
{
    uint32_t top = d->max == QN_FORM_ENDLESS ? d->min : d->max;
    reach(b, top, NULL);
    for (bool is_new = d->max == QN_FORM_ENDLESS; is_new;) { /* there a tick leaves it at the top */
        memcpy(b->above, b->now, d->n);
        reach(b, top, b->above);
        is_new = memcmp(b->above, b->now, d->n) != 0;
        QN_TRY(qn_fuel_take(fuel, d->n + d->n_edges, err));
    }
    for (uint32_t s = 0; s < d->n; s++) {
        d->lo[s] = b->now[s] ? top : UINT32_MAX;
        d->hi[s] = b->now[s] ? d->max : 0;
    }
    for (uint32_t c = top; c > 0;) {
        bool *was = b->above;
        b->above = b->now;
        b->now = was;
        reach(b, --c, b->above);
        QN_TRY(qn_fuel_take(fuel, d->n + d->n_edges, err));
        if (memcmp(b->above, b->now, d->n) == 0)
            c = c >= d->min ? d->min : 0;
        for (uint32_t s = 0; s < d->n; s++) {
            if (!b->now[s])
                continue;
            if (d->lo[s] == UINT32_MAX)
                d->hi[s] = c;
            else if (!b->above[s])
                *is_exact = false;
            d->lo[s] = c;
        }
    }
    return QN_OK;
}

/* Without states that no number of ticks leads on from, and the edges to them; of all if none can be where there are none yet. */
static bool drop_dead(qn_dfa *d)
{
    builder b = {0};
    uint32_t *to = qn_alloc_array(d->n, sizeof *to, QN_MEM_REQUEST), n = 0;
    bool good = to;
    for (uint32_t s = 0; good && s < d->n; s++)
        to[s] = d->lo[s] == UINT32_MAX ? NONE : n++;
    if (good && d->lo[0] > 0) /* a text begins there, without a tick */
        n = 0;
    for (uint32_t s = 0; good && n && s < d->n; s++) {
        if (to[s] == NONE)
            continue;
        good = begin_state(&b, d->is_final[s]);
        for (uint32_t i = d->edge_at[s]; good && i < d->edge_at[s + 1]; i++) {
            qn_edge e = d->edges[i];
            e.to = to[e.to];
            good = e.to == NONE || add_edge(&b, e);
        }
        for (uint32_t i = d->call_at[s]; good && i < d->call_at[s + 1]; i++) {
            qn_call c = d->calls[i];
            c.to = to[c.to];
            good = c.to == NONE || add_call(&b, c);
        }
        d->lo[to[s]] = d->lo[s]; /* to[s] <= s */
        d->hi[to[s]] = d->hi[s];
    }
    qn_free(to);
    if (!good) {
        qn_dfa_fini(&b.d);
        return false;
    }
    b.d.min = d->min;
    b.d.max = d->max;
    b.d.is_split = d->is_split;
    b.d.lo = d->lo;
    b.d.hi = d->hi;
    d->lo = d->hi = NULL;
    qn_dfa_fini(d);
    *d = b.d;
    return true;
}

qn_status qn_dfa_bound(qn_dfa *d, bool *is_exact, qn_fuel *fuel, qn_err *err)
{
    *is_exact = true;
    if (d->n == 0)
        return QN_OK;
    bounder b = {.d = d};
    b.from_at = qn_calloc(d->n + 1, sizeof *b.from_at, QN_MEM_REQUEST);
    b.from = qn_alloc_array(d->n_edges + d->n_calls + 1, sizeof *b.from, QN_MEM_REQUEST);
    b.now = qn_calloc(d->n, 1, QN_MEM_REQUEST);
    b.above = qn_calloc(d->n, 1, QN_MEM_REQUEST);
    b.work = qn_alloc_array(d->n, sizeof *b.work, QN_MEM_REQUEST);
    d->lo = qn_alloc_array(d->n, sizeof *d->lo, QN_MEM_REQUEST);
    d->hi = qn_alloc_array(d->n, sizeof *d->hi, QN_MEM_REQUEST);
    bool good = b.from_at && b.from && b.now && b.above && b.work && d->lo && d->hi;
    qn_status s = QN_E_NOMEM;
    if (good) {
        list_sources(&b);
        s = find_bounds(&b, d, is_exact, fuel, err);
    }
    if (s == QN_OK)
        good = drop_dead(d);
    qn_free(b.from_at);
    qn_free(b.from);
    qn_free(b.now);
    qn_free(b.above);
    qn_free(b.work);
    return good ? s : qn_fail_nomem(err, d->n * sizeof *d->lo);
}
