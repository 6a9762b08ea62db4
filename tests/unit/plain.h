/* SPDX-License-Identifier: Apache-2.0
 * plain.h - the plain recogniser of forms, which the fast one is judged by: a set of stacks of expressions, moved byte by
 * byte.
 *
 *   stack  = a chain of cells, each (expression, how far in it, the cell behind it); cell 0: the end of the text
 *   place  = a set of stacks whose first cells want a byte
 *
 * and / minus are made tables beforehand: the places that their operands reach, in pairs. */
#ifndef QN_TESTS_PLAIN_H
#define QN_TESTS_PLAIN_H

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "sample/form_tree.h"

#include <string.h>

#define DEAD       UINT32_MAX
#define MAX_TABLE  20000u
#define MAX_CELLS  (1u << 24)
#define END_OF_ALL 0u

typedef struct cell {
    uint32_t node, pos, tokens, next;
} cell;

typedef struct set {
    uint32_t *p;
    size_t n, cap;
} set;

typedef struct table {
    uint32_t (*next)[256];
    bool *is_final;
    size_t n, cap, final_cap;
} table;

/* Cells of one owner; equal ones are one. */
typedef struct world {
    cell *cells;
    uint32_t *slots, *mark;
    size_t n, cap, n_slots, mark_cap;
    uint32_t epoch;
    set work;
    bool failed;
} world;

typedef struct plain {
    qn_form tree; /* copies of its arrays */
    bool *is_productive, *is_nullable;
    table *tables; /* of the nodes that are and / minus */
} plain;

/* A text so far. */
typedef struct plain_text {
    const plain *g;
    world *w;
    set all, at; /* stacks before and after they are expanded */
    bool is_end;
} plain_text;

/* ---- cells and sets ---- */

static void world_free(world *w)
{
    if (!w)
        return;
    qn_free(w->cells);
    qn_free(w->slots);
    qn_free(w->mark);
    qn_free(w->work.p);
    qn_free(w);
}

static world *world_new(void)
{
    world *w = qn_calloc(1, sizeof *w, QN_MEM_REQUEST);
    if (!w || !qn_grow(&w->cells, &w->cap, 1, sizeof *w->cells, QN_MEM_REQUEST)) {
        world_free(w);
        return NULL;
    }
    w->cells[w->n++] = (cell){0};
    return w;
}

static bool add(world *w, set *s, uint32_t id)
{
    if (!qn_grow(&s->p, &s->cap, s->n + 1, sizeof *s->p, QN_MEM_REQUEST)) {
        w->failed = true;
        return false;
    }
    s->p[s->n++] = id;
    return true;
}

static bool grow_slots(world *w)
{
    if (w->n * 2 < w->n_slots)
        return true;
    size_t n = QN_MAX(w->n_slots, 256u);
    while (n <= w->n * 2)
        n *= 2;
    uint32_t *slots = qn_calloc(n, sizeof *slots, QN_MEM_REQUEST);
    if (!slots)
        return false;
    for (uint32_t i = 1; i < w->n; i++) {
        size_t h = qn_hash(&w->cells[i], sizeof(cell), 0) & (n - 1);
        while (slots[h])
            h = (h + 1) & (n - 1);
        slots[h] = i;
    }
    qn_free(w->slots);
    w->slots = slots;
    w->n_slots = n;
    return true;
}

static uint32_t cell_of(world *w, uint32_t node, uint32_t pos, uint32_t tokens, uint32_t next)
{
    cell c = {node, pos, tokens, next};
    if (w->failed || w->n >= MAX_CELLS || !grow_slots(w) ||
        !qn_grow(&w->cells, &w->cap, w->n + 1, sizeof *w->cells, QN_MEM_REQUEST)) {
        w->failed = true;
        return END_OF_ALL;
    }
    size_t h = qn_hash(&c, sizeof c, 0) & (w->n_slots - 1);
    for (; w->slots[h]; h = (h + 1) & (w->n_slots - 1))
        if (memcmp(&w->cells[w->slots[h]], &c, sizeof c) == 0)
            return w->slots[h];
    w->slots[h] = (uint32_t)w->n;
    w->cells[w->n] = c;
    return (uint32_t)w->n++;
}

/* Puts a cell on the list of work unless it was there since the last `begin`. */
static void visit(world *w, uint32_t id)
{
    size_t old = w->mark_cap;
    if (w->failed)
        return;
    if (id >= old) {
        if (!qn_grow(&w->mark, &w->mark_cap, QN_MAX(id + 1u, w->cap), sizeof *w->mark,
                     QN_MEM_REQUEST)) {
            w->failed = true;
            return;
        }
        memset(w->mark + old, 0, (w->mark_cap - old) * sizeof *w->mark);
    }
    if (w->mark[id] != w->epoch && add(w, &w->work, id))
        w->mark[id] = w->epoch;
}

/* ---- a place: stacks that want a byte ---- */

static void expand_list(const plain *g, world *w, cell c)
{
    const qn_form *f = &g->tree;
    const qn_form_node *v = &f->nodes[c.node];
    if (v->kind == QN_FORM_ALT) {
        for (uint32_t i = 0; i < v->n; i++)
            visit(w, cell_of(w, f->parts[v->at + i], 0, 0, c.next));
    } else if (v->kind == QN_FORM_SEQ) {
        uint32_t rest = c.pos + 1 == v->n ? c.next : cell_of(w, c.node, c.pos + 1, 0, c.next);
        visit(w, cell_of(w, f->parts[v->at + c.pos], 0, 0, rest));
    } else { /* REPEAT */
        bool is_enough = c.pos >= v->at;
        if (is_enough)
            visit(w, c.next);
        if (c.pos < v->n) {
            uint32_t done = v->n == QN_FORM_ENDLESS && is_enough ? c.pos : c.pos + 1;
            visit(w, cell_of(w, v->a, 0, 0, cell_of(w, c.node, done, 0, c.next)));
        }
    }
}

/* The stacks of `in` that want a byte; *is_end: one wants nothing more. Productive expressions only: then every stack
 * can come to its end. */
static bool expand(const plain *g, world *w, const set *in, set *out, bool *is_end)
{
    w->epoch++;
    w->work.n = out->n = 0;
    *is_end = false;
    for (size_t i = 0; i < in->n; i++)
        visit(w, in->p[i]);
    while (w->work.n && !w->failed) {
        uint32_t id = w->work.p[--w->work.n];
        cell c = w->cells[id];
        const qn_form_node *v = &g->tree.nodes[c.node];
        if (id == END_OF_ALL) {
            *is_end = true;
            continue;
        }
        if (!g->is_productive[c.node])
            continue;
        switch (v->kind) {
        case QN_FORM_BYTES:
            if (v->n == 0)
                visit(w, c.next);
            else
                add(w, out, id);
            break;
        case QN_FORM_CHARS:
        case QN_FORM_UNTIL:
            add(w, out, id);
            break;
        case QN_FORM_ANY:
            visit(w, c.next);
            add(w, out, id);
            break;
        case QN_FORM_AND:
        case QN_FORM_MINUS:
            if (g->tables[c.node].is_final[c.pos])
                visit(w, c.next);
            add(w, out, id);
            break;
        case QN_FORM_RULE:
            visit(w, cell_of(w, v->a, 0, 0, c.next));
            break;
        default:
            expand_list(g, w, c);
        }
    }
    return !w->failed;
}

/* May bytes (the low `n` bytes of `so_far`, the first one highest) begin a character of the ranges? */
static bool is_begun(const qn_char_range *r, size_t n_ranges, uint32_t so_far, uint32_t n,
                     bool *is_whole)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t lead = (uint8_t)(so_far >> 8 * (n - 1));
    uint32_t want = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    uint32_t first = want == 1 ? lead : lead & (0x7fu >> want), last;
    if ((lead >= 0x80 && lead < 0xc2) || lead > 0xf4)
        return false;
    for (uint32_t i = 1; i < n; i++) {
        uint32_t b = so_far >> 8 * (n - 1 - i) & 0xff;
        if (b >> 6 != 2)
            return false;
        first = first << 6 | (b & 0x3f);
    }
    last = first;
    for (uint32_t i = n; i < want; i++) {
        first <<= 6;
        last = last << 6 | 0x3f;
    }
    first = QN_MAX(first, least[want]);
    *is_whole = n == want;
    for (size_t i = 0; i < n_ranges; i++)
        if (r[i].first <= last && r[i].last >= first)
            return true;
    return false;
}

/* How much of `end` stands at the end of its first k bytes and then `byte`. */
static uint32_t border(const char *end, uint32_t n, uint32_t k, uint8_t byte)
{
    for (uint32_t len = QN_MIN(k + 1, n); len; len--)
        if ((uint8_t)end[len - 1] == byte && memcmp(end, end + k - (len - 1), len - 1) == 0)
            return len;
    return 0;
}

/* Where the stack `id` goes with the byte; DEAD: nowhere. */
static uint32_t move(const plain *g, world *w, uint32_t id, uint8_t byte)
{
    cell c = w->cells[id];
    const qn_form *f = &g->tree;
    const qn_form_node *v = &f->nodes[c.node];
    switch (v->kind) {
    case QN_FORM_BYTES:
        if ((uint8_t)f->bytes[v->at + c.pos] != byte)
            return DEAD;
        return c.pos + 1 == v->n ? c.next : cell_of(w, c.node, c.pos + 1, 0, c.next);
    case QN_FORM_CHARS: {
        bool is_whole;
        uint32_t n = (c.pos >> 24) + 1, so_far = (c.pos << 8 | byte);
        if (!is_begun(f->ranges + v->at, v->n, n == 4 ? so_far : so_far & ((1u << 8 * n) - 1), n,
                      &is_whole))
            return DEAD;
        return is_whole ? c.next : cell_of(w, c.node, n << 24 | (so_far & 0xffffff), 0, c.next);
    }
    case QN_FORM_UNTIL: {
        uint32_t k = border(f->bytes + v->at, v->n, c.pos ? c.pos - 1 : 0, byte);
        return k == v->n ? c.next : cell_of(w, c.node, k + 1, c.tokens, c.next);
    }
    case QN_FORM_ANY:
        return id;
    default: {
        uint32_t to = g->tables[c.node].next[c.pos][byte];
        return to == DEAD ? DEAD : cell_of(w, c.node, to, 0, c.next);
    }
    }
}

/* The place behind `at` and the byte; out->n == 0: none. `all` gets the stacks before they are expanded. */
static bool step(const plain *g, world *w, const set *at, uint8_t byte, set *all)
{
    all->n = 0;
    for (size_t i = 0; i < at->n && !w->failed; i++) {
        uint32_t to = move(g, w, at->p[i], byte);
        if (to != DEAD)
            add(w, all, to);
    }
    return !w->failed;
}

/* A token ends: texts up to a mark have one more. */
static void count_token(const plain *g, world *w, set *all)
{
    for (size_t i = 0; i < all->n; i++) {
        cell c = w->cells[all->p[i]];
        const qn_form_node *v = &g->tree.nodes[c.node];
        if (all->p[i] == END_OF_ALL || v->kind != QN_FORM_UNTIL || !v->a || !c.pos)
            continue;
        all->p[i] = c.tokens + 1 < v->a ? cell_of(w, c.node, c.pos, c.tokens + 1, c.next)
                                        : cell_of(w, v->b, 0, 0, c.next);
    }
}

/* ---- and, minus ---- */

static void table_fini(table *t)
{
    qn_free(t->next);
    qn_free(t->is_final);
    *t = (table){0};
}

static bool add_row(table *t, bool is_final)
{
    if (t->n >= MAX_TABLE ||
        !qn_grow(&t->next, &t->cap, t->n + 1, sizeof *t->next, QN_MEM_REQUEST) ||
        !qn_grow(&t->is_final, &t->final_cap, t->n + 1, 1, QN_MEM_REQUEST))
        return false;
    memset(t->next[t->n], 0xff, sizeof *t->next);
    t->is_final[t->n++] = is_final;
    return true;
}

static void sort(set *s)
{
    for (size_t i = 1; i < s->n; i++)
        for (size_t j = i; j && s->p[j - 1] > s->p[j]; j--) {
            uint32_t x = s->p[j];
            s->p[j] = s->p[j - 1];
            s->p[j - 1] = x;
        }
}

/* The number of a set among those of `sets`, or a new one with a row of its own. */
static uint32_t number_of(set **sets, size_t *cap, table *t, const set *s, bool is_end)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (t->is_final[i] == is_end && (*sets)[i].n == s->n &&
            (s->n == 0 || memcmp((*sets)[i].p, s->p, s->n * sizeof *s->p) == 0))
            return i;
    set copy = {0};
    if (!qn_grow(sets, cap, t->n + 1, sizeof **sets, QN_MEM_REQUEST) ||
        !qn_grow(&copy.p, &copy.cap, QN_MAX(s->n, 1u), sizeof *copy.p, QN_MEM_REQUEST) ||
        !add_row(t, is_end)) {
        qn_free(copy.p);
        return DEAD;
    }
    if (s->n)
        memcpy(copy.p, s->p, s->n * sizeof *s->p);
    copy.n = s->n;
    (*sets)[t->n - 1] = copy;
    return (uint32_t)t->n - 1;
}

/* Every place that node can be at, and what each byte makes of it. */
static bool tabulate(const plain *g, uint32_t node, table *t)
{
    world *w = world_new();
    set *sets = NULL, all = {0}, out = {0};
    size_t cap = 0;
    bool is_end, good = w && add(w, &all, cell_of(w, node, 0, 0, END_OF_ALL)) &&
                        expand(g, w, &all, &out, &is_end);
    if (good) {
        sort(&out);
        good = number_of(&sets, &cap, t, &out, is_end) != DEAD;
    }
    for (uint32_t i = 0; good && i < t->n; i++)
        for (uint32_t b = 0; good && b < 256; b++) {
            good = step(g, w, &sets[i], (uint8_t)b, &all) && expand(g, w, &all, &out, &is_end);
            if (!good || all.n == 0)
                continue;
            sort(&out);
            uint32_t to = number_of(&sets, &cap, t, &out, is_end);
            t->next[i][b] = to;
            good = to != DEAD;
        }
    for (size_t i = 0; i < t->n; i++)
        if (sets)
            qn_free(sets[i].p);
    qn_free(sets);
    qn_free(all.p);
    qn_free(out.p);
    world_free(w);
    return good;
}

/* Edges to where no text ends go away. */
static bool trim(table *t)
{
    bool *alive = qn_alloc(t->n, QN_MEM_REQUEST), is_changed = true;
    if (!alive)
        return false;
    memcpy(alive, t->is_final, t->n);
    while (is_changed) {
        is_changed = false;
        for (size_t i = t->n; i-- > 0;)
            for (size_t b = 0; !alive[i] && b < 256; b++)
                if (t->next[i][b] != DEAD && alive[t->next[i][b]])
                    alive[i] = is_changed = true;
    }
    for (size_t i = 0; i < t->n; i++)
        for (size_t b = 0; b < 256; b++)
            if (t->next[i][b] != DEAD && !alive[t->next[i][b]])
                t->next[i][b] = DEAD;
    qn_free(alive);
    return true;
}

typedef struct pair {
    uint32_t a, b;
} pair;

static uint32_t pair_of(pair **pairs, size_t *cap, table *out, pair p, bool is_final)
{
    for (uint32_t i = 0; i < out->n; i++)
        if ((*pairs)[i].a == p.a && (*pairs)[i].b == p.b)
            return i;
    if (!qn_grow(pairs, cap, out->n + 1, sizeof **pairs, QN_MEM_REQUEST) || !add_row(out, is_final))
        return DEAD;
    (*pairs)[out->n - 1] = p;
    return (uint32_t)out->n - 1;
}

/* Pairs of places; b may be DEAD where texts of b are taken away. */
static bool combine(const table *a, const table *b, bool is_minus, table *out)
{
    pair *pairs = NULL;
    size_t cap = 0;
    bool good = pair_of(&pairs, &cap, out, (pair){0, 0},
                        a->is_final[0] && b->is_final[0] != is_minus) != DEAD;
    for (uint32_t i = 0; good && i < out->n; i++)
        for (uint32_t c = 0; good && c < 256; c++) {
            pair p = {a->next[pairs[i].a][c], pairs[i].b == DEAD ? DEAD : b->next[pairs[i].b][c]};
            if (p.a == DEAD || (p.b == DEAD && !is_minus))
                continue;
            bool in_b = p.b != DEAD && b->is_final[p.b];
            uint32_t to = pair_of(&pairs, &cap, out, p, a->is_final[p.a] && in_b != is_minus);
            out->next[i][c] = to;
            good = to != DEAD;
        }
    qn_free(pairs);
    return good && trim(out);
}

static bool add_table(plain *g, uint32_t node)
{
    const qn_form_node *v = &g->tree.nodes[node];
    table a = {0}, b = {0};
    bool good = tabulate(g, v->a, &a) && tabulate(g, v->b, &b) &&
                combine(&a, &b, v->kind == QN_FORM_MINUS, &g->tables[node]);
    table_fini(&a);
    table_fini(&b);
    return good;
}

/* ---- a form is compiled ---- */

static void plain_free(plain *g)
{
    qn_form *f = &g->tree;
    for (size_t i = 0; g->tables && i < f->n_nodes; i++)
        table_fini(&g->tables[i]);
    qn_free(g->tables);
    qn_free(g->is_productive);
    qn_free(g->is_nullable);
    qn_free(f->nodes);
    qn_free(f->parts);
    qn_free(f->ranges);
    qn_free(f->bytes);
    qn_free(g);
}

static bool copy(void *out, const void *p, size_t n)
{
    void *q = qn_alloc(n + 1, QN_MEM_REQUEST);
    if (!q)
        return false;
    if (n)
        memcpy(q, p, n);
    memcpy(out, &q, sizeof q);
    return true;
}

static bool copy_tree(qn_form *to, const qn_form *f)
{
    to->n_nodes = f->n_nodes;
    to->root = f->root;
    return copy(&to->nodes, f->nodes, f->n_nodes * sizeof *f->nodes) &&
           copy(&to->parts, f->parts, f->n_parts * sizeof *f->parts) &&
           copy(&to->ranges, f->ranges, f->n_ranges * sizeof *f->ranges) &&
           copy(&to->bytes, f->bytes, f->n_bytes);
}

/* Child i of a node, or 0 behind the last. */
static uint32_t child(const qn_form *f, uint32_t node, uint32_t i)
{
    const qn_form_node *v = &f->nodes[node];
    if (v->kind == QN_FORM_SEQ || v->kind == QN_FORM_ALT)
        return i < v->n ? f->parts[v->at + i] : 0;
    if (v->kind == QN_FORM_AND || v->kind == QN_FORM_MINUS)
        return i == 0 ? v->a : i == 1 ? v->b : 0;
    if (v->kind == QN_FORM_UNTIL)
        return i == 0 ? v->b : 0;
    return (v->kind == QN_FORM_REPEAT || v->kind == QN_FORM_RULE) && i == 0 ? v->a : 0;
}

/* Like child, but only those that may stand at the begin of the node's texts. */
static uint32_t first_child(const plain *g, uint32_t node, uint32_t i)
{
    const qn_form_node *v = &g->tree.nodes[node];
    if (v->kind == QN_FORM_SEQ && i && i < v->n && !g->is_nullable[g->tree.parts[v->at + i - 1]])
        return 0;
    return child(&g->tree, node, i);
}

typedef struct visit_state {
    uint32_t node, i;
} visit_state;

/* A walk in depth; `order` gets nodes behind their children. Gives the first node that is met inside itself, or 0. */
static qn_status walk(const plain *g, bool is_first_only, uint32_t root, set *order,
                      uint8_t *colour, uint32_t *loop)
{
    visit_state *path = NULL;
    size_t n = 1, cap = 0, order_cap = order->cap;
    *loop = 0;
    if (colour[root])
        return QN_OK;
    if (!qn_grow(&path, &cap, 1, sizeof *path, QN_MEM_REQUEST))
        return QN_E_NOMEM;
    path[0] = (visit_state){root, 0};
    colour[root] = 1;
    while (n) {
        visit_state *t = &path[n - 1];
        uint32_t c = is_first_only ? first_child(g, t->node, t->i) : child(&g->tree, t->node, t->i);
        t->i++;
        if (c && is_first_only && !g->is_productive[c])
            continue;
        if (c && colour[c] == 1)
            *loop = c;
        if (c && !colour[c]) {
            colour[c] = 1;
            if (!qn_grow(&path, &cap, n + 1, sizeof *path, QN_MEM_REQUEST))
                break;
            path[n++] = (visit_state){c, 0};
        } else if (!c) {
            colour[t->node] = 2;
            if (!qn_grow(&order->p, &order_cap, order->n + 1, sizeof *order->p, QN_MEM_REQUEST))
                break;
            order->p[order->n++] = t->node;
            n--;
        }
    }
    order->cap = order_cap;
    qn_free(path);
    return n ? QN_E_NOMEM : QN_OK;
}

/* What the node's children say about it: has it a text; has it the empty text. */
static bool holds(const plain *g, uint32_t node, const bool *known, bool is_empty)
{
    const qn_form *f = &g->tree;
    const qn_form_node *v = &f->nodes[node];
    bool some = false, every = true;
    for (uint32_t i = 0, c; (c = child(f, node, i)) != 0; i++) {
        some |= known[c];
        every &= known[c];
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
    case QN_FORM_ALT:
    case QN_FORM_RULE:
        return some;
    case QN_FORM_REPEAT:
        return v->at == 0 || some;
    default: {
        const table *t = &g->tables[node];
        if (t->n == 0)
            return false;
        bool has_edge = false;
        for (size_t b = 0; b < 256; b++)
            has_edge |= t->next[0][b] != DEAD;
        return t->is_final[0] || (!is_empty && has_edge);
    }
    }
}

static void settle(const plain *g, const set *order, bool *known, bool is_empty)
{
    bool is_changed = true;
    while (is_changed) {
        is_changed = false;
        for (size_t i = 0; i < order->n; i++) {
            uint32_t node = order->p[i];
            if (!known[node] && holds(g, node, known, is_empty))
                known[node] = is_changed = true;
        }
    }
}

/* The operands of and / minus: no rule that reaches itself, no count of tokens. */
static qn_status check_operands(const plain *g, const set *order, uint8_t *colour, qn_err *err)
{
    const qn_form *f = &g->tree;
    for (size_t i = 0; i < order->n; i++) {
        uint32_t node = order->p[i], loop;
        set inner = {0};
        if (f->nodes[node].kind != QN_FORM_AND && f->nodes[node].kind != QN_FORM_MINUS)
            continue;
        memset(colour, 0, f->n_nodes);
        qn_status s = walk(g, false, node, &inner, colour, &loop);
        bool has_count = false;
        for (size_t k = 0; k < inner.n; k++)
            has_count |= f->nodes[inner.p[k]].kind == QN_FORM_UNTIL && f->nodes[inner.p[k]].a;
        qn_free(inner.p);
        if (s != QN_OK)
            return qn_fail_nomem(err, f->n_nodes);
        if (loop)
            return qn_fail(err, QN_E_ARG, "and, minus: found a rule that reaches itself");
        if (has_count)
            return qn_fail(err, QN_E_ARG, "and, minus: found a text with a count of tokens");
    }
    return QN_OK;
}

static qn_status check_left(const plain *g, const set *order, uint8_t *colour, qn_err *err)
{
    set inner = {0};
    qn_status s = QN_OK;
    uint32_t loop = 0;
    memset(colour, 0, g->tree.n_nodes);
    for (size_t i = 0; i < order->n && s == QN_OK && !loop; i++)
        if (g->is_productive[order->p[i]])
            s = walk(g, true, order->p[i], &inner, colour, &loop);
    qn_free(inner.p);
    if (s != QN_OK)
        return qn_fail_nomem(err, g->tree.n_nodes);
    if (loop)
        return qn_fail(err, QN_E_ARG, "grammar: found a rule that begins with itself");
    return QN_OK;
}

static qn_status compile(plain *g, const qn_form *f, qn_err *err)
{
    uint32_t loop;
    set order = {0};
    uint8_t *colour = qn_calloc(f->n_nodes, 1, QN_MEM_REQUEST);
    g->is_productive = qn_calloc(f->n_nodes, 1, QN_MEM_REQUEST);
    g->is_nullable = qn_calloc(f->n_nodes, 1, QN_MEM_REQUEST);
    g->tables = qn_calloc(f->n_nodes, sizeof *g->tables, QN_MEM_REQUEST);
    qn_status s = QN_E_NOMEM;
    if (colour && g->is_productive && g->is_nullable && g->tables && copy_tree(&g->tree, f))
        s = walk(g, false, f->root, &order, colour, &loop);
    if (s != QN_OK)
        (void)qn_fail_nomem(err, f->n_nodes);
    if (s == QN_OK)
        s = check_operands(g, &order, colour, err);
    if (s == QN_OK)
        memset(g->is_productive, 1, f->n_nodes); /* while tables are made; they are trimmed */
    for (size_t i = 0; s == QN_OK && i < order.n; i++) {
        uint32_t kind = f->nodes[order.p[i]].kind;
        if ((kind == QN_FORM_AND || kind == QN_FORM_MINUS) && !add_table(g, order.p[i]))
            s = qn_fail(err, QN_E_TOO_LONG, "and, minus: found more than %u states", MAX_TABLE);
    }
    if (s == QN_OK) {
        memset(g->is_productive, 0, f->n_nodes);
        settle(g, &order, g->is_productive, false);
        settle(g, &order, g->is_nullable, true);
        s = g->is_productive[f->root] ? check_left(g, &order, colour, err)
                                      : qn_fail(err, QN_E_ARG, "grammar: no text is of its form");
    }
    qn_free(order.p);
    qn_free(colour);
    return s;
}

static inline plain *plain_new(const qn_form *f, qn_err *err)
{
    if (qn_form_check(f, err) != QN_OK)
        return NULL;
    plain *g = qn_calloc(1, sizeof *g, QN_MEM_REQUEST);
    if (!g || compile(g, f, err) == QN_OK)
        return g;
    plain_free(g);
    return NULL;
}

static inline void plain_free_all(plain *g)
{
    if (g)
        plain_free(g);
}

static inline void plain_text_fini(plain_text *t)
{
    world_free(t->w);
    qn_free(t->all.p);
    qn_free(t->at.p);
    *t = (plain_text){0};
}

static inline bool plain_text_init(plain_text *t, const plain *g)
{
    *t = (plain_text){.g = g, .w = world_new()};
    return t->w && add(t->w, &t->all, cell_of(t->w, g->tree.root, 0, 0, END_OF_ALL)) &&
           expand(g, t->w, &t->all, &t->at, &t->is_end);
}

/* Can the text go on with the bytes? It does if is_kept, and then one more token is behind it. */
static inline bool plain_text_follow(plain_text *t, const char *p, size_t n, bool is_kept)
{
    bool good = true, is_end = t->is_end;
    set all = {0}, at = {0};
    for (size_t i = 0; i < t->at.n; i++)
        good = good && add(t->w, &at, t->at.p[i]);
    for (size_t i = 0; i < n && good; i++)
        good = step(t->g, t->w, &at, (uint8_t)p[i], &all) && all.n &&
               expand(t->g, t->w, &all, &at, &is_end);
    if (good && is_kept) {
        count_token(t->g, t->w, &all);
        good = expand(t->g, t->w, &all, &at, &is_end);
        qn_free(t->at.p);
        t->at = at;
        t->is_end = is_end;
        at = (set){0};
    }
    qn_free(all.p);
    qn_free(at.p);
    return good;
}

#endif
