/* SPDX-License-Identifier: Apache-2.0
 * automaton.c - which parts of a form are rules, and the automaton of each: see automaton.h.
 *
 *   walk      nodes behind those they are made of; who is used how often; who reaches itself
 *   combine   and / minus, innermost first, without calls
 *   settle    who has a text, who the empty one
 *   choose    which nodes are rules
 *   build     nfa, dfa, states of each rule
 *   link      what calls may begin with and what may stand behind them; no left recursion */
#include "sample/automaton.h"

#include "base/limits.h"
#include "base/mem.h"

#include <string.h>

#define FUEL       200000000u /* half a second */
#define MAX_ARCS   2000000u   /* of one nfa: 50 MB */
#define MIN_SHARED 12u        /* states of a part that is used twice, to be a rule */
#define MAX_INLINE 256u       /* edges and states of an and / minus, to be none */
#define MAX_COPIES 16u        /* a repetition is written out up to so many copies */
#define MAX_COPIED 256u       /* and states */
#define MIN_ROW    5u         /* edges of a state that has a row */
#define NONE       UINT32_MAX

typedef struct ids {
    uint32_t *p;
    size_t n, cap;
} ids;

/* What is known of a node. */
typedef struct fact {
    uint32_t size, n_uses, rule; /* rule NONE: part of those that use it */
    uint8_t colour;
    bool is_productive, is_nullable, is_looping, has_rule; /* has_rule: a dfa of it has calls */
    bool is_literal;                                       /* bytes alone, or a choice of such */
} fact;

typedef struct task {
    uint32_t node, from, to;
    bool may_count; /* on every way through what is built, once */
} task;

typedef struct maker {
    const qn_form *f;
    fact *facts;
    qn_dfa *dfas; /* of nodes that are and / minus */
    ids order, rules, path;
    task *tasks;
    size_t n_tasks, tasks_cap;
    qn_fuel fuel;
    qn_automaton *out;
    qn_err *err;
    bool is_flat;      /* no calls: the operand of an and / minus */
    bool is_counting;  /* a flat repetition may count */
    uint32_t min, max; /* what it counts */
    uint32_t *step_of; /* of the nodes on `path`: which of their children is next */
    size_t step_cap;
} maker;

void qn_automaton_fini(qn_automaton *a)
{
    qn_free(a->states);
    qn_free(a->edges);
    qn_free(a->calls);
    qn_free(a->rows);
    qn_free(a->rules);
    *a = (qn_automaton){0};
}

size_t qn_automaton_n_bytes(const qn_automaton *a)
{
    return a->states_cap * sizeof *a->states + a->edges_cap * sizeof *a->edges +
           a->calls_cap * sizeof *a->calls + a->rows_cap * sizeof *a->rows +
           a->rules_cap * sizeof *a->rules;
}

static bool push(ids *s, uint32_t id)
{
    if (!qn_grow(&s->p, &s->cap, s->n + 1, sizeof *s->p, QN_MEM_REQUEST))
        return false;
    s->p[s->n++] = id;
    return true;
}

/* ---- the nodes ---- */

/* What the node is made of, in turn; 0 behind the last. */
static uint32_t child(const qn_form *f, uint32_t node, uint32_t i)
{
    const qn_form_node *v = &f->nodes[node];
    switch (v->kind) {
    case QN_FORM_SEQ:
    case QN_FORM_ALT:
        return i < v->n ? f->parts[v->at + i] : 0;
    case QN_FORM_AND:
    case QN_FORM_MINUS:
        return i == 0 ? v->a : i == 1 ? v->b : 0;
    case QN_FORM_REPEAT:
    case QN_FORM_RULE:
        return i == 0 ? v->a : 0;
    case QN_FORM_UNTIL:
        return i == 0 ? v->b : 0;
    default:
        return 0;
    }
}

/* Appends root and what it reaches, each behind what it is made of; a node met inside itself is looping. Those that have
 * a colour are passed over. */
static qn_status walk(maker *m, uint32_t root, ids *order, bool *has_loop)
{
    m->path.n = 0;
    *has_loop = false;
    if (m->facts[root].colour)
        return QN_OK;
    uint32_t enter = root;
    while (enter || m->path.n) {
        if (enter) {
            if (!push(&m->path, enter) ||
                !qn_grow(&m->step_of, &m->step_cap, m->path.n, sizeof *m->step_of, QN_MEM_REQUEST))
                return qn_fail_nomem(m->err, m->path.n * sizeof(uint32_t));
            m->step_of[m->path.n - 1] = 0;
            m->facts[enter].colour = 1;
        }
        uint32_t node = m->path.p[m->path.n - 1];
        uint32_t c = child(m->f, node, m->step_of[m->path.n - 1]++);
        enter = 0;
        if (!c) {
            m->facts[node].colour = 2;
            m->path.n--;
            if (!push(order, node))
                return qn_fail_nomem(m->err, order->n * sizeof(uint32_t));
        } else if (!m->facts[c].colour) {
            enter = c;
        } else if (m->facts[c].colour == 1) {
            m->facts[c].is_looping = *has_loop = true;
        }
        QN_TRY(qn_fuel_take(&m->fuel, 1, m->err));
    }
    return QN_OK;
}

/* Has the node a text (is_empty: the empty one), by what is known of its parts? */
static bool holds(const maker *m, uint32_t node, bool is_empty)
{
    const qn_form_node *v = &m->f->nodes[node];
    bool some = false, every = true;
    for (uint32_t i = 0, c; (c = child(m->f, node, i)) != 0; i++) {
        bool is_known = is_empty ? m->facts[c].is_nullable : m->facts[c].is_productive;
        some |= is_known;
        every &= is_known;
    }
    switch (v->kind) {
    case QN_FORM_BYTES:
        return !is_empty || v->n == 0;
    case QN_FORM_CHARS:
        return !is_empty && v->n > 0;
    case QN_FORM_UNTIL:
        return !is_empty;
    case QN_FORM_ANY:
        return true;
    case QN_FORM_SEQ:
        return every;
    case QN_FORM_REPEAT:
        return v->at == 0 || some;
    case QN_FORM_AND:
    case QN_FORM_MINUS: {
        const qn_dfa *d = &m->dfas[node];
        return d->n && (!is_empty || (d->is_final[0] && d->min == 0));
    }
    default:
        return some;
    }
}

static qn_status settle(maker *m, const ids *order, bool is_empty)
{
    for (bool is_new = true; is_new;) {
        is_new = false;
        for (size_t i = 0; i < order->n; i++) {
            fact *x = &m->facts[order->p[i]];
            bool *known = is_empty ? &x->is_nullable : &x->is_productive;
            if (!*known && holds(m, order->p[i], is_empty))
                *known = is_new = true;
        }
        QN_TRY(qn_fuel_take(&m->fuel, order->n * 4 + m->f->n_parts, m->err));
    }
    return QN_OK;
}

static uint32_t add_sizes(uint32_t a, uint64_t b)
{
    return (uint32_t)QN_MIN(a + b, 1u << 30);
}

/* How many copies of its part a repetition is, written out. */
static uint32_t n_copies(const qn_form_node *v)
{
    return v->n == QN_FORM_ENDLESS ? v->at : v->n;
}

static bool is_long(const maker *m, const qn_form_node *v)
{
    uint64_t n = n_copies(v);
    return v->kind == QN_FORM_REPEAT && n > 2 &&
           (n > MAX_COPIES || n * m->facts[v->a].size > MAX_COPIED);
}

/* About as many states as the node's own automaton has; of what is a rule, or comes later in the order, one. */
static uint32_t size_of(const maker *m, uint32_t node)
{
    const qn_form_node *v = &m->f->nodes[node];
    uint32_t sum = 0;
    switch (v->kind) {
    case QN_FORM_BYTES:
        return v->n;
    case QN_FORM_CHARS:
        return m->f->ranges[v->at + v->n - 1].last < 0x80 ? 1 : add_sizes(3, 2ull * v->n);
    case QN_FORM_UNTIL:
        return v->n;
    case QN_FORM_ANY:
        return 1;
    case QN_FORM_AND:
    case QN_FORM_MINUS:
        return add_sizes((uint32_t)QN_MIN(m->dfas[node].n, 1u << 30), 0);
    default:
        break;
    }
    for (uint32_t i = 0, c; (c = child(m->f, node, i)) != 0; i++)
        if (m->facts[c].is_productive)
            sum = add_sizes(sum,
                            m->facts[c].rule != NONE || !m->facts[c].size ? 1 : m->facts[c].size);
    if (v->kind == QN_FORM_REPEAT)
        sum = is_long(m, v) ? sum : add_sizes(0, (uint64_t)sum * QN_MAX(n_copies(v), 1u));
    return sum;
}

static bool is_rule(const maker *m, uint32_t node)
{
    const qn_form_node *v = &m->f->nodes[node];
    const fact *x = &m->facts[node];
    if (node == m->f->root || x->is_looping)
        return true;
    switch (v->kind) {
    case QN_FORM_UNTIL:
        return v->a != 0;
    case QN_FORM_AND:
    case QN_FORM_MINUS:
        return x->n_uses > 1 || qn_dfa_is_counted(&m->dfas[node]) ||
               m->dfas[node].n + m->dfas[node].n_edges > MAX_INLINE;
    case QN_FORM_REPEAT:
        return is_long(m, v) || (x->n_uses > 1 && x->size >= MIN_SHARED);
    case QN_FORM_SEQ: /* texts of an enum are better read side by side */
        return x->n_uses > 1 && x->size >= MIN_SHARED && !x->is_literal;
    case QN_FORM_ALT:
    case QN_FORM_RULE:
        return x->n_uses > 1 && x->size >= MIN_SHARED;
    default:
        return false;
    }
}

static bool is_literal(const maker *m, uint32_t node)
{
    uint32_t kind = m->f->nodes[node].kind;
    bool is_all = kind == QN_FORM_BYTES || kind == QN_FORM_SEQ || kind == QN_FORM_ALT;
    for (uint32_t i = 0, c; is_all && (c = child(m->f, node, i)) != 0; i++)
        is_all = m->facts[c].is_literal;
    return is_all;
}

/* Rules among the nodes, the root first. */
static qn_status choose(maker *m)
{
    for (size_t i = 0; i < m->order.n; i++)
        for (uint32_t k = 0, c; (c = child(m->f, m->order.p[i], k)) != 0; k++)
            m->facts[c].n_uses++;
    if (!push(&m->rules, m->f->root))
        return qn_fail_nomem(m->err, 8);
    for (size_t i = 0; i < m->order.n; i++) {
        uint32_t node = m->order.p[i];
        fact *x = &m->facts[node];
        if (!x->is_productive)
            continue;
        x->size = QN_MAX(size_of(m, node), 1u);
        x->is_literal = is_literal(m, node);
        for (uint32_t k = 0, c; (c = child(m->f, node, k)) != 0; k++)
            x->has_rule |= m->facts[c].has_rule || m->facts[c].rule != NONE || !m->facts[c].size;
        if (!is_rule(m, node))
            continue;
        x->rule = node == m->f->root ? 0 : (uint32_t)m->rules.n;
        if (x->rule && !push(&m->rules, node))
            return qn_fail_nomem(m->err, m->rules.n * sizeof(uint32_t));
    }
    return QN_OK;
}

/* ---- the nfa of a node ---- */

static qn_status add_task(maker *m, task t)
{
    if (!qn_grow(&m->tasks, &m->tasks_cap, m->n_tasks + 1, sizeof t, QN_MEM_REQUEST))
        return qn_fail_nomem(m->err, m->n_tasks * sizeof t);
    m->tasks[m->n_tasks++] = t;
    return QN_OK;
}

/* A loop whose iterations are counted. */
static qn_status build_loop(maker *m, qn_nfa *a, const qn_form_node *v, task t)
{
    uint32_t loop = qn_nfa_state(a), first = qn_nfa_state(a), last = qn_nfa_state(a);
    m->min = m->facts[v->a].is_nullable ? 0 : v->at;
    m->max = v->n;
    qn_nfa_arc(a, t.from, (qn_arc){.kind = QN_ARC_EMPTY, .to = loop});
    qn_nfa_arc(a, loop, (qn_arc){.kind = QN_ARC_TICK, .to = first});
    qn_nfa_arc(a, last, (qn_arc){.kind = QN_ARC_BACK, .to = loop});
    qn_nfa_arc(a, loop, (qn_arc){.kind = QN_ARC_EMPTY, .to = t.to});
    return add_task(m, (task){v->a, first, last, false});
}

/* Copies one behind the other; those past the least number may be left out, or there is a loop behind them. */
static qn_status build_copies(maker *m, qn_nfa *a, const qn_form_node *v, task t)
{
    uint32_t at = t.from, n = n_copies(v);
    bool is_endless = v->n == QN_FORM_ENDLESS;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t next = i + 1 < n || is_endless ? qn_nfa_state(a) : t.to;
        if (i >= v->at)
            qn_nfa_arc(a, at, (qn_arc){.kind = QN_ARC_EMPTY, .to = t.to});
        QN_TRY(add_task(m, (task){v->a, at, next, false}));
        QN_TRY(qn_fuel_take(&m->fuel, 8, m->err));
        at = next;
    }
    if (is_endless) { /* nothing may come back to `from` */
        uint32_t loop = qn_nfa_state(a);
        qn_nfa_arc(a, at, (qn_arc){.kind = QN_ARC_EMPTY, .to = loop});
        qn_nfa_arc(a, loop, (qn_arc){.kind = QN_ARC_EMPTY, .to = t.to});
        QN_TRY(add_task(m, (task){v->a, loop, loop, false}));
    }
    return QN_OK;
}

static qn_status build_list(maker *m, qn_nfa *a, const qn_form_node *v, task t)
{
    const qn_form_id *parts = m->f->parts + v->at;
    if (v->kind == QN_FORM_ALT) {
        for (uint32_t i = 0; i < v->n; i++)
            QN_TRY(add_task(m, (task){parts[i], t.from, t.to, false}));
        return QN_OK;
    }
    uint32_t at = t.from;
    for (uint32_t i = 0; i < v->n; i++) {
        uint32_t next = i + 1 < v->n ? qn_nfa_state(a) : t.to;
        QN_TRY(add_task(m, (task){parts[i], at, next, t.may_count}));
        at = next;
    }
    return QN_OK;
}

static qn_status build_part(maker *m, qn_nfa *a, task t)
{
    const qn_form *f = m->f;
    const qn_form_node *v = &f->nodes[t.node];
    switch (v->kind) {
    case QN_FORM_BYTES: {
        uint32_t at = t.from;
        for (uint32_t i = 0; i < v->n; i++) {
            uint32_t next = i + 1 < v->n ? qn_nfa_state(a) : t.to;
            uint8_t b = (uint8_t)f->bytes[v->at + i];
            qn_nfa_arc(a, at, (qn_arc){.kind = QN_ARC_BYTES, .first = b, .last = b, .to = next});
            at = next;
        }
        if (v->n == 0)
            qn_nfa_arc(a, t.from, (qn_arc){.kind = QN_ARC_EMPTY, .to = t.to});
        return QN_OK;
    }
    case QN_FORM_CHARS:
        qn_nfa_chars(a, t.from, t.to, f->ranges + v->at, v->n);
        return QN_OK;
    case QN_FORM_UNTIL:
        QN_TRY(qn_fuel_take(&m->fuel, 512ull * v->n * v->n, m->err)); /* before it is spent */
        qn_nfa_until(a, t.from, t.to, (const uint8_t *)f->bytes + v->at, v->n);
        return QN_OK;
    case QN_FORM_ANY: {
        uint32_t loop = qn_nfa_state(a);
        qn_nfa_arc(a, t.from, (qn_arc){.kind = QN_ARC_EMPTY, .to = loop});
        qn_nfa_arc(a, loop, (qn_arc){.kind = QN_ARC_BYTES, .last = 255, .to = loop});
        qn_nfa_arc(a, loop, (qn_arc){.kind = QN_ARC_EMPTY, .to = t.to});
        return QN_OK;
    }
    case QN_FORM_AND:
    case QN_FORM_MINUS:
        return qn_nfa_dfa(a, t.from, t.to, &m->dfas[t.node], &m->fuel, m->err);
    case QN_FORM_RULE:
        return add_task(m, (task){v->a, t.from, t.to, t.may_count});
    case QN_FORM_REPEAT:
        if (t.may_count && m->is_counting && m->max == QN_FORM_ENDLESS && m->min == 0 &&
            is_long(m, v))
            return build_loop(m, a, v, t);
        return build_copies(m, a, v, t);
    default:
        return build_list(m, a, v, t);
    }
}

/* From state 0 to state 1: the node's texts. Other rules are calls, unless it is flat. */
static qn_status build(maker *m, qn_nfa *a, uint32_t root)
{
    m->n_tasks = 0;
    m->min = 0;
    m->max = QN_FORM_ENDLESS;
    bool is_root = true; /* not what names it from inside */
    QN_TRY(add_task(m, (task){root, 0, 1, true}));
    for (; m->n_tasks; is_root = false) {
        task t = m->tasks[--m->n_tasks];
        const fact *x = &m->facts[t.node];
        QN_TRY(qn_fuel_take(&m->fuel, 8, m->err));
        if (a->n_arcs > MAX_ARCS)
            return qn_fail(m->err, QN_E_TOO_LONG, "grammar: found a part with more than %u arcs",
                           MAX_ARCS);
        if (a->failed)
            return qn_fail_nomem(m->err, a->n_arcs * sizeof *a->arcs);
        if (!m->is_flat && !x->is_productive)
            continue;
        if (!m->is_flat && x->rule != NONE && !is_root) {
            qn_nfa_arc(a, t.from, (qn_arc){.kind = QN_ARC_CALL, .rule = x->rule, .to = t.to});
            if (x->is_nullable)
                qn_nfa_arc(a, t.from, (qn_arc){.kind = QN_ARC_EMPTY, .to = t.to});
        } else {
            QN_TRY(build_part(m, a, t));
        }
    }
    return QN_OK;
}

static qn_status make_dfa(maker *m, qn_dfa *out, uint32_t node)
{
    qn_nfa a;
    *out = (qn_dfa){0};
    qn_nfa_init(&a);
    qn_status s = build(m, &a, node);
    if (s == QN_OK)
        s = qn_dfa_make(out, &a, m->min, m->max, &m->fuel, m->err);
    qn_nfa_fini(&a);
    return s;
}

/* ---- and, minus ---- */

static qn_status make_operand(maker *m, qn_dfa *out, uint32_t node, bool is_counting)
{
    m->is_counting = is_counting;
    QN_TRY(make_dfa(m, out, node));
    if (!out->is_split)
        return QN_OK;
    qn_dfa_fini(out);
    m->is_counting = false;
    return make_dfa(m, out, node);
}

/* A dfa that is one already is copied by its nfa, with what it counts written out: an operand of an operand. */
static uint32_t definition(const qn_form *f, uint32_t node)
{
    while (f->nodes[node].kind == QN_FORM_RULE)
        node = f->nodes[node].a;
    return node;
}

static qn_status combine_once(maker *m, uint32_t node, bool is_counting, bool *is_exact)
{
    const qn_form_node *v = &m->f->nodes[node];
    bool is_minus = v->kind == QN_FORM_MINUS;
    uint32_t x = definition(m->f, v->a), y = definition(m->f, v->b);
    qn_dfa own_a = {0}, own_b = {0}, *a = &m->dfas[x], *b = &m->dfas[y];
    qn_status s = QN_OK;
    if (!a->edge_at || (!is_counting && qn_dfa_is_counted(a))) {
        s = make_operand(m, &own_a, x, is_counting);
        a = &own_a;
    }
    if (s == QN_OK && (!b->edge_at || qn_dfa_is_counted(b))) {
        s = make_operand(m, &own_b, y, is_counting && !is_minus && !qn_dfa_is_counted(a));
        b = &own_b;
    }
    if (s == QN_OK)
        s = qn_dfa_product(&m->dfas[node], a, b, is_minus, &m->fuel, m->err);
    if (s == QN_OK)
        s = qn_dfa_bound(&m->dfas[node], is_exact, &m->fuel, m->err);
    qn_dfa_fini(&own_a);
    qn_dfa_fini(&own_b);
    return s;
}

/* No rule that reaches itself, no count of tokens; the parts' nullability, which counting looks at. */
static qn_status check_operands(maker *m, uint32_t node)
{
    ids inner = {0};
    bool has_loop, has_count = false;
    qn_status s = walk(m, node, &inner, &has_loop);
    for (size_t i = 0; i < inner.n; i++) {
        const qn_form_node *v = &m->f->nodes[inner.p[i]];
        fact *x = &m->facts[inner.p[i]];
        has_count |= v->kind == QN_FORM_UNTIL && v->a;
        x->colour = 0;
        x->is_productive = holds(m, inner.p[i], false);
        x->is_nullable = holds(m, inner.p[i], true);
        if (x->is_productive)
            x->size = QN_MAX(size_of(m, inner.p[i]), 1u);
    }
    qn_free(inner.p);
    QN_TRY(s);
    if (has_loop)
        return qn_fail(m->err, QN_E_ARG, "and, minus: found a rule that reaches itself");
    if (has_count)
        return qn_fail(m->err, QN_E_ARG, "and, minus: found a text with a count of tokens");
    return QN_OK;
}

static qn_status combine(maker *m)
{
    m->is_flat = true;
    for (size_t i = 0; i < m->order.n; i++)
        m->facts[m->order.p[i]].colour = 0;
    for (size_t i = 0; i < m->order.n; i++) {
        uint32_t node = m->order.p[i];
        uint32_t kind = m->f->nodes[node].kind;
        bool is_exact;
        if (kind != QN_FORM_AND && kind != QN_FORM_MINUS)
            continue;
        QN_TRY(check_operands(m, node));
        QN_TRY(combine_once(m, node, true, &is_exact));
        if (!is_exact) { /* which counts go on to an end is no interval: they are written out */
            qn_dfa_fini(&m->dfas[node]);
            QN_TRY(combine_once(m, node, false, &is_exact));
        }
    }
    for (size_t i = 0; i < m->order.n; i++) {
        fact *x = &m->facts[m->order.p[i]];
        x->is_productive = x->is_nullable = false;
        x->size = 0;
    }
    m->is_flat = false;
    return QN_OK;
}

/* ---- rules ---- */

static bool add_state(qn_automaton *a, qn_state s)
{
    if (!qn_grow(&a->states, &a->states_cap, a->n_states + 1, sizeof s, QN_MEM_REQUEST))
        return false;
    a->states[a->n_states++] = s;
    return true;
}

/* Appends a dfa's states to the rule's. */
static qn_status add_dfa(maker *m, const qn_dfa *d, uint32_t rule, bool is_text)
{
    qn_automaton *a = m->out;
    uint32_t base = (uint32_t)a->n_states;
    m->fuel.n_states += d->n;
    if (m->fuel.n_states > QN_LIMIT_GRAMMAR_STATES)
        return qn_fail(m->err, QN_E_TOO_LONG, "grammar: found more than %d states",
                       QN_LIMIT_GRAMMAR_STATES);
    bool good = qn_grow(&a->edges, &a->edges_cap, a->n_edges + d->n_edges, sizeof *a->edges,
                        QN_MEM_REQUEST) &&
                qn_grow(&a->calls, &a->calls_cap, a->n_calls + d->n_calls, sizeof *a->calls,
                        QN_MEM_REQUEST);
    for (uint32_t i = 0; good && i < d->n; i++) {
        qn_state s = {.edges = (uint32_t)a->n_edges + d->edge_at[i],
                      .calls = (uint32_t)a->n_calls + d->call_at[i],
                      .n_edges = (uint16_t)(d->edge_at[i + 1] - d->edge_at[i]),
                      .n_calls = d->call_at[i + 1] - d->call_at[i],
                      .row = QN_NO_ROW,
                      .rule = rule,
                      .lo = d->lo[i],
                      .hi = d->hi[i],
                      .is_final = d->is_final[i]};
        s.is_text = is_text && !s.is_final;
        s.is_plain = !s.is_final && !s.n_calls && s.lo == 0 && s.hi == QN_FORM_ENDLESS;
        good = add_state(a, s);
    }
    if (!good)
        return qn_fail_nomem(m->err, a->n_states * sizeof *a->states);
    for (size_t i = 0; i < d->n_edges; i++) {
        a->edges[a->n_edges] = d->edges[i];
        a->edges[a->n_edges++].to += base;
    }
    for (size_t i = 0; i < d->n_calls; i++) {
        a->calls[a->n_calls] = d->calls[i];
        a->calls[a->n_calls++].to += base;
    }
    return QN_OK;
}

static qn_status check_bytes(const maker *m, size_t more)
{
    size_t n = qn_automaton_n_bytes(m->out) + more;
    return n <= QN_LIMIT_GRAMMAR_BYTES
               ? QN_OK
               : qn_fail(m->err, QN_E_TOO_LONG, "grammar: found %zu MB of states, want at most %d",
                         n >> 20, QN_LIMIT_GRAMMAR_BYTES >> 20);
}

/* The dfa of a rule that is no and / minus. */
static qn_status make_rule_dfa(maker *m, qn_dfa *d, uint32_t node)
{
    bool is_exact;
    m->is_counting = is_long(m, &m->f->nodes[node]);
    QN_TRY(make_dfa(m, d, node));
    if (d->is_split && !m->facts[node].has_rule) {
        qn_dfa_fini(d);
        m->is_counting = false;
        QN_TRY(make_dfa(m, d, node));
    }
    QN_TRY(qn_dfa_bound(d, &is_exact, &m->fuel, m->err));
    return is_exact ? QN_OK
                    : qn_fail(m->err, QN_E_UNSUPPORTED, "repeat: found bounds that cannot be kept");
}

static qn_status add_rule(maker *m, uint32_t node)
{
    qn_automaton *a = m->out;
    const qn_form_node *v = &m->f->nodes[node];
    bool is_combined = v->kind == QN_FORM_AND || v->kind == QN_FORM_MINUS;
    bool is_text = v->kind == QN_FORM_UNTIL && v->a;
    qn_dfa own = {0};
    qn_dfa *d = is_combined ? &m->dfas[node] : &own;
    qn_status s = is_combined ? QN_OK : make_rule_dfa(m, &own, node);
    qn_rule r = {.start = (uint32_t)a->n_states, .min = d->min, .max = d->max};
    if (s == QN_OK)
        s = add_dfa(m, d, (uint32_t)a->n_rules, is_text);
    qn_dfa_fini(d);
    if (s == QN_OK && is_text) {
        r.n_tokens = v->a;
        r.closing = (uint32_t)a->n_states;
        s = make_rule_dfa(m, &own, v->b);
        if (s == QN_OK)
            s = add_dfa(m, &own, (uint32_t)a->n_rules, false);
        qn_dfa_fini(&own);
    }
    if (s == QN_OK && !qn_grow(&a->rules, &a->rules_cap, a->n_rules + 1, sizeof r, QN_MEM_REQUEST))
        s = qn_fail_nomem(m->err, a->n_rules * sizeof r);
    if (s == QN_OK)
        a->rules[a->n_rules++] = r;
    return s == QN_OK ? check_bytes(m, 0) : s;
}

/* ---- what begins, what follows ---- */

static bool join_sets(uint64_t to[4], const uint64_t from[4])
{
    bool is_new = false;
    for (int i = 0; i < 4; i++) {
        is_new |= (from[i] & ~to[i]) != 0;
        to[i] |= from[i];
    }
    return is_new;
}

static void first_of(const qn_automaton *a, uint32_t state, uint64_t out[4])
{
    const qn_state *s = &a->states[state];
    for (uint32_t i = 0; i < s->n_edges; i++) {
        const qn_edge *e = &a->edges[s->edges + i];
        for (uint32_t b = e->first; b <= e->last; b++)
            out[b / 64] |= 1ull << b % 64;
    }
    for (uint32_t i = 0; i < s->n_calls; i++)
        (void)join_sets(out, a->rules[a->calls[s->calls + i].rule].first);
}

/* Rules in an order in which each stands behind those that its start calls. */
static qn_status order_rules(maker *m, ids *order)
{
    const qn_automaton *a = m->out;
    uint8_t *colour = qn_calloc(a->n_rules, 1, QN_MEM_REQUEST);
    uint32_t *next = qn_calloc(a->n_rules, sizeof *next, QN_MEM_REQUEST);
    qn_status s = colour && next ? QN_OK : qn_fail_nomem(m->err, a->n_rules);
    for (uint32_t root = 0; s == QN_OK && root < a->n_rules; root++) {
        m->path.n = 0;
        if (!colour[root] && !push(&m->path, root))
            s = qn_fail_nomem(m->err, 8);
        while (s == QN_OK && m->path.n) {
            uint32_t r = m->path.p[m->path.n - 1];
            const qn_state *start = &a->states[a->rules[r].start];
            colour[r] = 1;
            if (next[r] == start->n_calls) {
                colour[r] = 2;
                m->path.n--;
                if (!push(order, r))
                    s = qn_fail_nomem(m->err, order->n * sizeof(uint32_t));
                continue;
            }
            uint32_t to = a->calls[start->calls + next[r]++].rule;
            if (colour[to] == 1)
                s = qn_fail(m->err, QN_E_ARG, "grammar: found a rule that begins with itself");
            else if (!colour[to] && !push(&m->path, to))
                s = qn_fail_nomem(m->err, m->path.n * sizeof(uint32_t));
        }
    }
    qn_free(colour);
    qn_free(next);
    return s;
}

static qn_status find_follow(maker *m)
{
    qn_automaton *a = m->out;
    for (bool is_new = true; is_new;) {
        is_new = false;
        for (size_t i = 1; i < a->n_states; i++) {
            const qn_state *s = &a->states[i];
            for (uint32_t k = 0; k < s->n_calls; k++) {
                const qn_call *c = &a->calls[s->calls + k];
                uint64_t set[4] = {0};
                first_of(a, c->to, set);
                if (a->states[c->to].is_final)
                    (void)join_sets(set, a->rules[s->rule].follow);
                is_new |= join_sets(a->rules[c->rule].follow, set);
            }
        }
        QN_TRY(qn_fuel_take(&m->fuel, a->n_states + 32 * a->n_calls, m->err));
    }
    return QN_OK;
}

/* Bytes that no state with a row tells apart share a column. */
static qn_status add_rows(maker *m)
{
    qn_automaton *a = m->out;
    bool borders[257] = {true};
    size_t n_rows = 0;
    for (size_t i = 1; i < a->n_states; i++) {
        const qn_state *s = &a->states[i];
        if (s->n_edges < MIN_ROW)
            continue;
        n_rows++;
        for (uint32_t k = 0; k < s->n_edges; k++)
            borders[a->edges[s->edges + k].first] = borders[a->edges[s->edges + k].last + 1] = true;
    }
    for (uint32_t b = 0; b < 256; b++)
        a->class_of[b] = (uint8_t)(a->n_classes += b && borders[b]);
    a->n_classes++;
    QN_TRY(qn_fuel_take(&m->fuel, n_rows * a->n_classes, m->err));
    QN_TRY(check_bytes(m, n_rows * a->n_classes * sizeof *a->rows));
    if (!qn_grow(&a->rows, &a->rows_cap, n_rows * a->n_classes + 1, sizeof *a->rows,
                 QN_MEM_REQUEST))
        return qn_fail_nomem(m->err, n_rows * a->n_classes * sizeof *a->rows);
    for (size_t i = 1; i < a->n_states; i++) {
        qn_state *s = &a->states[i];
        if (s->n_edges < MIN_ROW)
            continue;
        uint32_t *row = a->rows + a->n_rows;
        memset(row, 0, a->n_classes * sizeof *row);
        s->row = (uint32_t)a->n_rows;
        a->n_rows += a->n_classes;
        for (uint32_t k = 0; k < s->n_edges; k++) {
            const qn_edge *e = &a->edges[s->edges + k];
            for (uint32_t c = a->class_of[e->first]; c <= a->class_of[e->last]; c++)
                row[c] = row[c] ? QN_ROW_BOTH : e->to | (e->ticks ? QN_ROW_TICK : 0);
        }
    }
    return QN_OK;
}

static qn_status link_rules(maker *m)
{
    qn_automaton *a = m->out;
    ids order = {0};
    qn_status s = order_rules(m, &order);
    for (size_t i = 0; s == QN_OK && i < order.n; i++)
        first_of(a, a->rules[order.p[i]].start, a->rules[order.p[i]].first);
    qn_free(order.p);
    if (s == QN_OK)
        s = find_follow(m);
    return s == QN_OK ? add_rows(m) : s;
}

static qn_status make(maker *m)
{
    bool has_loop;
    QN_TRY(walk(m, m->f->root, &m->order, &has_loop));
    for (size_t i = 0; i < m->order.n; i++)
        m->facts[m->order.p[i]].rule = NONE;
    QN_TRY(combine(m));
    QN_TRY(settle(m, &m->order, false));
    QN_TRY(settle(m, &m->order, true));
    if (!m->facts[m->f->root].is_productive)
        return qn_fail(m->err, QN_E_ARG, "grammar: found a form that no text has");
    m->out->is_nullable = m->facts[m->f->root].is_nullable;
    QN_TRY(choose(m));
    if (!add_state(m->out, (qn_state){.row = QN_NO_ROW, .hi = QN_FORM_ENDLESS}))
        return qn_fail_nomem(m->err, sizeof(qn_state));
    for (size_t i = 0; i < m->rules.n; i++)
        QN_TRY(add_rule(m, m->rules.p[i]));
    return link_rules(m);
}

qn_status qn_automaton_make(qn_automaton *out, const qn_form *f, qn_err *err)
{
    maker m = {.f = f, .out = out, .err = err, .fuel.steps = FUEL};
    *out = (qn_automaton){0};
    QN_TRY(qn_form_check(f, err));
    m.facts = qn_calloc(f->n_nodes, sizeof *m.facts, QN_MEM_REQUEST);
    m.dfas = qn_calloc(f->n_nodes, sizeof *m.dfas, QN_MEM_REQUEST);
    qn_status s = m.facts && m.dfas ? make(&m) : qn_fail_nomem(err, f->n_nodes * sizeof *m.dfas);
    for (size_t i = 0; m.dfas && i < f->n_nodes; i++)
        qn_dfa_fini(&m.dfas[i]);
    qn_free(m.facts);
    qn_free(m.dfas);
    qn_free(m.order.p);
    qn_free(m.rules.p);
    qn_free(m.path.p);
    qn_free(m.step_of);
    qn_free(m.tasks);
    if (s != QN_OK)
        qn_automaton_fini(out);
    return s;
}
