/* SPDX-License-Identifier: Apache-2.0
 * grammar.c - see grammar.h. A grammar is an automaton and the masks of its states; a matcher is a place in it, before
 * the rules that its states call are entered. */
#include "sample/grammar.h"

#include "base/limits.h"
#include "base/mem.h"
#include "sample/mask.h"

#include <stdatomic.h>
#include <string.h>

#define MIN_SWEEP  1024u /* frames */
#define TOKEN_FUEL 8u    /* walks of the vocabulary that a token brings */
#define MAX_FUEL   32u   /* that are kept */

struct qn_grammar {
    atomic_uint n_users;
    const qn_vocabulary *v;
    qn_automaton a;
    qn_masks *masks;
};

struct qn_matcher {
    qn_grammar *g;
    uint64_t *mask;
    qn_stacks stacks;
    qn_walker w; /* heads [0, n): the place; behind them what is tried */
    size_t n;
    size_t n_swept; /* frames that were left */
    uint64_t fuel;
    bool is_end_forbidden; /* unless nothing else can come */
};

/* ---- grammar ---- */

static void grammar_free(qn_grammar *g)
{
    qn_masks_free(g->masks);
    qn_automaton_fini(&g->a);
    qn_free(g);
}

qn_status qn_grammar_compile(qn_grammar **out, const qn_vocabulary *v, const qn_form *f,
                             qn_err *err)
{
    *out = NULL;
    qn_grammar *g = qn_calloc(1, sizeof *g, QN_MEM_REQUEST);
    if (!g)
        return qn_fail_nomem(err, sizeof *g);
    atomic_init(&g->n_users, 1);
    g->v = v;
    qn_status s = qn_automaton_make(&g->a, f, err);
    if (s == QN_OK)
        s = qn_masks_new(&g->masks, v, &g->a, err);
    if (s == QN_OK)
        s = qn_masks_prepare(g->masks, err);
    if (s != QN_OK) {
        grammar_free(g);
        return s;
    }
    *out = g;
    return QN_OK;
}

void qn_grammar_keep(qn_grammar *g)
{
    atomic_fetch_add_explicit(&g->n_users, 1, memory_order_relaxed);
}

void qn_grammar_let(qn_grammar *g)
{
    if (g && atomic_fetch_sub_explicit(&g->n_users, 1, memory_order_acq_rel) == 1)
        grammar_free(g);
}

bool qn_grammar_is_shared(const qn_grammar *g)
{
    return atomic_load_explicit(&g->n_users, memory_order_relaxed) > 1;
}

const qn_vocabulary *qn_grammar_vocabulary(const qn_grammar *g)
{
    return g->v;
}

size_t qn_grammar_n_bytes(const qn_grammar *g)
{
    return sizeof *g + qn_automaton_n_bytes(&g->a) + qn_masks_n_bytes(g->masks);
}

/* ---- matcher ---- */

void qn_matcher_free(qn_matcher *m)
{
    if (!m)
        return;
    qn_stacks_fini(&m->stacks);
    qn_free(m->w.heads.p);
    qn_free(m->mask);
    qn_grammar_let(m->g);
    qn_free(m);
}

static qn_matcher *matcher_new(qn_grammar *g)
{
    qn_matcher *m = qn_calloc(1, sizeof *m, QN_MEM_REQUEST);
    if (!m)
        return NULL;
    qn_grammar_keep(g);
    m->g = g;
    m->w.a = &g->a;
    m->w.stacks = &m->stacks;
    m->w.fuel = &m->fuel;
    m->fuel = MAX_FUEL * qn_masks_walk_fuel(g->v);
    m->mask = qn_calloc(g->v->n_words + 1, sizeof *m->mask, QN_MEM_REQUEST);
    if (m->mask)
        return m;
    qn_matcher_free(m);
    return NULL;
}

qn_status qn_matcher_new(qn_matcher **out, qn_grammar *g, qn_err *err)
{
    qn_matcher *m = *out = matcher_new(g);
    if (m && qn_stacks_init(&m->stacks)) {
        qn_head start = {g->a.rules[0].start, 0, QN_WHOLE_STACK, 0, UINT32_MAX, 0};
        qn_walker_add(&m->w, 0, start);
        qn_walker_leave(&m->w, 0);
        m->n = m->w.heads.n;
        m->n_swept = m->stacks.n;
        if (!m->w.failed)
            return QN_OK;
    }
    qn_matcher_free(m);
    *out = NULL;
    return qn_fail_nomem(err, sizeof *m);
}

qn_status qn_matcher_fork(qn_matcher **out, const qn_matcher *m, qn_err *err)
{
    qn_matcher *c = *out = matcher_new(m->g);
    bool good = c && qn_stacks_copy(&c->stacks, &m->stacks);
    for (size_t i = 0; good && i < m->n; i++) { /* no two are alike: each is appended */
        qn_walker_add(&c->w, 0, m->w.heads.p[i]);
        good = !c->w.failed;
    }
    if (good) {
        c->n = m->n;
        c->n_swept = m->n_swept;
        c->fuel = m->fuel;
        c->is_end_forbidden = m->is_end_forbidden;
        return QN_OK;
    }
    qn_matcher_free(c);
    *out = NULL;
    return qn_fail_nomem(err, sizeof *m);
}

/* Behind the place: where it goes with the bytes, at heads [*begin, heads.n). */
static bool follow(qn_matcher *m, const uint8_t *p, size_t n, size_t *begin)
{
    qn_walker *w = &m->w;
    w->failed = w->is_spent = false;
    w->heads.n = m->n;
    for (size_t i = 0; i < m->n; i++)
        qn_walker_add(w, m->n, w->heads.p[i]);
    *begin = m->n;
    for (size_t i = 0; i < n && !w->failed; i++) {
        qn_walker_enter(w, *begin);
        size_t end = w->heads.n;
        qn_walker_step(w, *begin, end, p[i]);
        *begin = end;
        if (w->heads.n == end)
            return false;
    }
    return !w->failed;
}

bool qn_matcher_is_whole(const qn_matcher *m)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->w.heads.p[i].state == QN_NO_STATE)
            return true;
    return false;
}

/* A byte can follow the head, in its count. */
static bool goes_on(const qn_walker *w, qn_head h)
{
    const qn_state *s = &w->a->states[h.state];
    for (uint32_t k = 0; k < s->n_edges; k++) {
        qn_head to = h;
        if (qn_walker_move(w, &to, w->a->edges[s->edges + k].to, w->a->edges[s->edges + k].ticks))
            return true;
    }
    for (uint32_t k = 0; k < s->n_calls; k++) {
        qn_head to = h;
        if (qn_walker_move(w, &to, w->a->calls[s->calls + k].to, w->a->calls[s->calls + k].ticks))
            return true;
    }
    return false;
}

/* Nothing can follow the place [begin, end). */
static bool is_over(const qn_matcher *m, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (goes_on(&m->w, m->w.heads.p[i]))
            return false;
    return true;
}

bool qn_matcher_is_over(const qn_matcher *m)
{
    return is_over(m, 0, m->n);
}

void qn_matcher_forbid_end(qn_matcher *m)
{
    m->is_end_forbidden = true;
}

static bool may_end(const qn_matcher *m)
{
    return m->is_end_forbidden ? qn_matcher_is_over(m) : qn_matcher_is_whole(m);
}

/* What is tried stands behind the place, and its frames behind those of the place. */
static bool allows(qn_matcher *m, int32_t id, size_t *begin)
{
    size_t n, n_frames = m->stacks.n;
    const uint8_t *p = qn_vocabulary_text(m->g->v, id, &n);
    bool may = n && follow(m, p, n, begin);
    if (!may)
        qn_stacks_cut(&m->stacks, n_frames);
    return may;
}

bool qn_matcher_allows(const qn_matcher *m, int32_t id)
{
    qn_matcher *own = (qn_matcher *)(uintptr_t)m; /* it is left as it was */
    size_t begin, n_frames = m->stacks.n;
    if (id < 0 || (size_t)id >= m->g->v->n_tokens)
        return false;
    if (qn_vocabulary_is_end(m->g->v, id))
        return may_end(m);
    bool may = allows(own, id, &begin);
    qn_stacks_cut(&own->stacks, n_frames);
    return may;
}

/* A token ends: texts up to a mark have one more, and may have had the last. */
static void count_token(qn_matcher *m, size_t begin)
{
    qn_walker *w = &m->w;
    size_t end = w->heads.n;
    for (size_t i = begin; i < end && !w->failed; i++) {
        qn_head h = w->heads.p[i];
        const qn_state *s = &m->g->a.states[h.state];
        const qn_rule *r = &m->g->a.rules[s->rule];
        if (s->is_text && ++h.count >= r->n_tokens) {
            h.state = r->closing;
            h.count = 0;
        }
        qn_walker_add(w, end, h);
    }
}

bool qn_matcher_accept(qn_matcher *m, int32_t id)
{
    qn_walker *w = &m->w;
    size_t begin, n_frames = m->stacks.n;
    if (id < 0 || (size_t)id >= m->g->v->n_tokens)
        return false;
    if (qn_vocabulary_is_end(m->g->v, id)) {
        if (!may_end(m))
            return false;
        w->heads.p[0] = (qn_head){QN_NO_STATE, 0, 0, 0, UINT32_MAX, 0};
        m->n = 1;
        return true;
    }
    if (!allows(m, id, &begin))
        return false;
    size_t end = w->heads.n;
    count_token(m, begin);
    if (w->failed) {
        qn_stacks_cut(&m->stacks, n_frames);
        return false;
    }
    m->n = w->heads.n - end;
    memmove(w->heads.p, w->heads.p + end, m->n * sizeof *w->heads.p);
    uint64_t walk = qn_masks_walk_fuel(m->g->v);
    m->fuel = QN_MIN(m->fuel + TOKEN_FUEL * walk, MAX_FUEL * walk);
    if (m->stacks.n > 2 * m->n_swept + MIN_SWEEP &&
        qn_stacks_sweep(&m->stacks, w->heads.p, m->n)) /* no memory: at another token */
        m->n_swept = m->stacks.n;
    return true;
}

const uint64_t *qn_matcher_mask(qn_matcher *m)
{
    const qn_vocabulary *v = m->g->v;
    memset(m->mask, 0, v->n_words * sizeof *m->mask);
    m->w.is_spent = false;
    if (!qn_masks_add(m->g->masks, &m->w, m->n, m->mask))
        return NULL;
    bool ends = may_end(m);
    for (size_t i = 0; ends && i < v->n_ends; i++)
        m->mask[v->ends[i] / 64] |= 1ull << v->ends[i] % 64;
    return m->mask;
}

qn_status qn_matcher_fail(const qn_matcher *m, qn_err *err)
{
    if (m->w.is_spent)
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "grammar: found too many ways to read the answer so far");
    return qn_fail_nomem(err, m->g->v->n_words * sizeof *m->mask);
}

/* The one byte that the place [begin, end) can go on with, or -1. */
static int only_byte(const qn_walker *w, size_t begin, size_t end)
{
    int only = -1;
    for (size_t i = begin; i < end; i++) {
        const qn_state *s = &w->a->states[w->heads.p[i].state];
        if (w->heads.p[i].state == QN_NO_STATE)
            return -1;
        for (uint32_t k = 0; k < s->n_edges; k++) {
            const qn_edge *e = &w->a->edges[s->edges + k];
            qn_head h = w->heads.p[i];
            if (!qn_walker_move(w, &h, e->to, e->ticks))
                continue;
            if (e->first != e->last || (only >= 0 && only != e->first))
                return -1;
            only = e->first;
        }
    }
    return only;
}

size_t qn_matcher_forced(qn_matcher *m, char *out, size_t most, bool *is_end)
{
    qn_walker *w = &m->w;
    size_t n = 0, n_frames = m->stacks.n, begin;
    (void)follow(m, NULL, 0, &begin);
    while (n < most && !w->failed) {
        qn_walker_enter(w, begin);
        size_t end = w->heads.n;
        int b = w->failed ? -1 : only_byte(w, begin, end);
        if (b < 0)
            break;
        qn_walker_step(w, begin, end, (uint8_t)b);
        if (w->failed)
            break;
        out[n++] = (char)b;
        memmove(w->heads.p + m->n, w->heads.p + end, (w->heads.n - end) * sizeof *w->heads.p);
        w->heads.n -= end - m->n;
        begin = m->n;
    }
    *is_end = !w->failed && is_over(m, begin, w->heads.n);
    qn_stacks_cut(&m->stacks, n_frames);
    return n;
}
