/* SPDX-License-Identifier: Apache-2.0
 * form.c - see form.h; form_tree.h has the picture. */
#include "sample/form_tree.h"

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_SURROGATE 0xd800u
#define LAST_SURROGATE  0xdfffu
#define LAST_CHAR       0x10ffffu

qn_status qn_form_new(qn_form **out, qn_err *err)
{
    *out = NULL;
    qn_form *f = qn_calloc(1, sizeof *f, QN_MEM_REQUEST);
    if (!f)
        return qn_fail_nomem(err, sizeof *f);
    f->n_nodes = 1;
    if (!qn_grow(&f->nodes, &f->nodes_cap, 1, sizeof *f->nodes, QN_MEM_REQUEST) ||
        !qn_grow(&f->parts, &f->parts_cap, 1, sizeof *f->parts, QN_MEM_REQUEST) ||
        !qn_grow(&f->ranges, &f->ranges_cap, 1, sizeof *f->ranges, QN_MEM_REQUEST) ||
        !qn_grow(&f->bytes, &f->bytes_cap, 1, 1, QN_MEM_REQUEST)) {
        qn_form_free(f);
        return qn_fail_nomem(err, sizeof *f->nodes);
    }
    f->nodes[0] = (qn_form_node){0};
    *out = f;
    return QN_OK;
}

void qn_form_free(qn_form *f)
{
    if (!f)
        return;
    qn_free(f->nodes);
    qn_free(f->parts);
    qn_free(f->ranges);
    qn_free(f->bytes);
    qn_free(f->table);
    qn_free(f);
}

size_t qn_form_n_bytes(const qn_form *f)
{
    return sizeof *f + f->nodes_cap * sizeof *f->nodes + f->parts_cap * sizeof *f->parts +
           f->ranges_cap * sizeof *f->ranges + f->bytes_cap + f->table_size * sizeof *f->table;
}

static qn_form_id fail(qn_form *f, qn_status s, const char *what)
{
    if (f->status == QN_OK)
        f->status = qn_fail(&f->err, s, "%s", what);
    return 0;
}

/* Room for n more elements of one of f's arrays. */
static bool reserve(qn_form *f, void *p_ptr, size_t *cap, size_t used, size_t n, size_t size)
{
    if (f->status != QN_OK)
        return false;
    if (used + n > QN_LIMIT_GRAMMAR_FORM / size) {
        f->status = qn_fail(&f->err, QN_E_TOO_LONG, "grammar: found more than %d bytes of it",
                            QN_LIMIT_GRAMMAR_FORM);
        return false;
    }
    if (!qn_grow(p_ptr, cap, used + n, size, QN_MEM_REQUEST)) {
        f->status = qn_fail_nomem(&f->err, (used + n) * size);
        return false;
    }
    return true;
}

/* ---- equal expressions are one ---- */

static qn_slice content_of(const qn_form *f, const qn_form_node *v)
{
    if (v->n == 0)
        return (qn_slice){NULL, 0};
    switch (v->kind) {
    case QN_FORM_BYTES:
    case QN_FORM_UNTIL:
        return (qn_slice){f->bytes + v->at, v->n};
    case QN_FORM_CHARS:
        return (qn_slice){(const char *)(f->ranges + v->at), v->n * sizeof *f->ranges};
    case QN_FORM_SEQ:
    case QN_FORM_ALT:
        return (qn_slice){(const char *)(f->parts + v->at), v->n * sizeof *f->parts};
    default:
        return (qn_slice){NULL, 0};
    }
}

static bool is_list(uint32_t kind)
{
    return kind <= QN_FORM_ALT || kind == QN_FORM_UNTIL;
}

static uint64_t hash_of(const qn_form *f, const qn_form_node *v)
{
    qn_slice s = content_of(f, v);
    uint32_t key[] = {v->kind, v->a, v->b, v->n, is_list(v->kind) ? 0 : v->at};
    uint64_t h = qn_hash(key, sizeof key, 0);
    return s.n ? qn_hash(s.p, s.n, h) : h;
}

static bool is_same(const qn_form *f, const qn_form_node *x, const qn_form_node *y)
{
    if (x->kind != y->kind || x->a != y->a || x->b != y->b || x->n != y->n)
        return false;
    if (!is_list(x->kind))
        return x->at == y->at;
    qn_slice p = content_of(f, x), q = content_of(f, y);
    return p.n == 0 || memcmp(p.p, q.p, p.n) == 0;
}

static uint32_t *slot_of(const qn_form *f, const qn_form_node *v)
{
    size_t i = hash_of(f, v) & (f->table_size - 1);
    while (f->table[i] && !is_same(f, &f->nodes[f->table[i]], v))
        i = (i + 1) & (f->table_size - 1);
    return &f->table[i];
}

static bool grow_table(qn_form *f)
{
    if (f->n_nodes * 2 < f->table_size)
        return true;
    size_t size = f->table_size ? f->table_size * 2 : 64;
    uint32_t *table = qn_calloc(size, sizeof *table, QN_MEM_REQUEST);
    if (!table) {
        f->status = qn_fail_nomem(&f->err, size * sizeof *table);
        return false;
    }
    qn_free(f->table);
    f->table = table;
    f->table_size = size;
    for (uint32_t i = 1; i < f->n_nodes; i++)
        if (f->nodes[i].kind != QN_FORM_RULE)
            *slot_of(f, &f->nodes[i]) = i;
    return true;
}

/* The node that is v, or, of a rule, a new one; a new one keeps what v has appended to the arrays, an old one gives it back. */
static qn_form_id intern(qn_form *f, qn_form_node v)
{
    if (f->status != QN_OK || !grow_table(f) ||
        !reserve(f, &f->nodes, &f->nodes_cap, f->n_nodes, 1, sizeof *f->nodes))
        return 0;
    uint32_t *slot = v.kind == QN_FORM_RULE ? NULL : slot_of(f, &v);
    if (slot && *slot) {
        if (v.kind == QN_FORM_BYTES || v.kind == QN_FORM_UNTIL)
            f->n_bytes = v.at;
        else if (v.kind == QN_FORM_CHARS)
            f->n_ranges = v.at;
        else if (is_list(v.kind))
            f->n_parts = v.at;
        return *slot;
    }
    f->nodes[f->n_nodes] = v;
    if (slot)
        *slot = (uint32_t)f->n_nodes;
    return (qn_form_id)f->n_nodes++;
}

static bool is_node(qn_form *f, qn_form_id id)
{
    if (f->status == QN_OK && id && id < f->n_nodes)
        return true;
    (void)fail(f, QN_E_ARG, "grammar: found an expression of another form");
    return false;
}

/* ---- leaves ---- */

qn_form_id qn_form_bytes(qn_form *f, const char *p, size_t n)
{
    uint32_t at = (uint32_t)f->n_bytes;
    if (!reserve(f, &f->bytes, &f->bytes_cap, f->n_bytes, n, 1))
        return 0;
    if (n)
        memcpy(f->bytes + at, p, n);
    f->n_bytes += n;
    return intern(f, (qn_form_node){.kind = QN_FORM_BYTES, .at = at, .n = (uint32_t)n});
}

static int by_first(const void *x, const void *y)
{
    const qn_char_range *a = x, *b = y;
    return (a->first > b->first) - (a->first < b->first);
}

/* Appends first..last without surrogates. */
static void add_range(qn_form *f, uint32_t first, uint32_t last)
{
    if (first < FIRST_SURROGATE && last >= FIRST_SURROGATE) {
        f->ranges[f->n_ranges++] = (qn_char_range){first, FIRST_SURROGATE - 1};
        first = LAST_SURROGATE + 1;
    } else if (first >= FIRST_SURROGATE && first <= LAST_SURROGATE) {
        first = LAST_SURROGATE + 1;
    }
    if (last >= FIRST_SURROGATE && last <= LAST_SURROGATE)
        last = FIRST_SURROGATE - 1;
    if (first <= last)
        f->ranges[f->n_ranges++] = (qn_char_range){first, last};
}

/* Sorts and joins the n ranges at `at`, which are no longer than they were. */
static size_t join_ranges(qn_char_range *r, size_t n)
{
    size_t n_out = 0;
    qsort(r, n, sizeof *r, by_first);
    for (size_t i = 0; i < n; i++) {
        if (r[i].first > r[i].last || r[i].first > LAST_CHAR)
            continue;
        r[i].last = QN_MIN(r[i].last, LAST_CHAR);
        if (n_out && r[i].first <= r[n_out - 1].last + 1)
            r[n_out - 1].last = QN_MAX(r[n_out - 1].last, r[i].last);
        else
            r[n_out++] = r[i];
    }
    return n_out;
}

qn_form_id qn_form_chars(qn_form *f, const qn_char_range *r, size_t n, bool is_negated)
{
    /* the ranges as given, then those between or without surrogates, then moved to the front */
    size_t at = f->n_ranges, n_joined, first;
    if (n > QN_LIMIT_GRAMMAR_FORM ||
        !reserve(f, &f->ranges, &f->ranges_cap, at, 3 * n + 4, sizeof *f->ranges))
        return 0;
    if (n)
        memcpy(f->ranges + at, r, n * sizeof *r);
    n_joined = n ? join_ranges(f->ranges + at, n) : 0;
    f->n_ranges = first = at + n_joined;
    uint32_t next = 0;
    for (size_t i = at; i < first; i++) {
        qn_char_range c = f->ranges[i];
        if (!is_negated)
            add_range(f, c.first, c.last);
        else if (c.first > next)
            add_range(f, next, c.first - 1);
        next = c.last + 1;
    }
    if (is_negated && next <= LAST_CHAR)
        add_range(f, next, LAST_CHAR);
    size_t n_out = f->n_ranges - first;
    memmove(f->ranges + at, f->ranges + first, n_out * sizeof *f->ranges);
    f->n_ranges = at + n_out;
    return intern(f,
                  (qn_form_node){.kind = QN_FORM_CHARS, .at = (uint32_t)at, .n = (uint32_t)n_out});
}

qn_form_id qn_form_any(qn_form *f)
{
    return intern(f, (qn_form_node){.kind = QN_FORM_ANY});
}

qn_form_id qn_form_until(qn_form *f, const char *end, uint32_t max_tokens, const char *closing)
{
    size_t n = strlen(end);
    uint32_t b = 0;
    if (n == 0)
        return fail(f, QN_E_ARG, "until: found no text, want one to look for");
    if (max_tokens) {
        const char *c = closing ? closing : end;
        if (!qn_ends_with(c, end))
            return fail(f, QN_E_ARG, "until: found a closing without the text at its end");
        b = qn_form_bytes(f, c, strlen(c));
    }
    uint32_t at = (uint32_t)f->n_bytes;
    if ((max_tokens && !b) || !reserve(f, &f->bytes, &f->bytes_cap, at, n, 1))
        return 0;
    memcpy(f->bytes + at, end, n);
    f->n_bytes += n;
    return intern(f, (qn_form_node){QN_FORM_UNTIL, at, (uint32_t)n, max_tokens, b});
}

/* ---- made of others ---- */

static qn_form_id list(qn_form *f, uint32_t kind, const qn_form_id *parts, size_t n)
{
    uint32_t at = (uint32_t)f->n_parts;
    if (n > QN_LIMIT_GRAMMAR_FORM ||
        !reserve(f, &f->parts, &f->parts_cap, f->n_parts, n, sizeof *f->parts))
        return 0;
    for (size_t i = 0; i < n; i++) {
        if (!is_node(f, parts[i]))
            return 0;
        f->parts[at + i] = parts[i];
    }
    if (n == 1)
        return parts[0];
    f->n_parts += n;
    return intern(f, (qn_form_node){.kind = kind, .at = at, .n = (uint32_t)n});
}

qn_form_id qn_form_seq(qn_form *f, const qn_form_id *parts, size_t n)
{
    return n ? list(f, QN_FORM_SEQ, parts, n) : qn_form_bytes(f, "", 0);
}

qn_form_id qn_form_alt(qn_form *f, const qn_form_id *parts, size_t n)
{
    return list(f, QN_FORM_ALT, parts, n);
}

qn_form_id qn_form_repeat(qn_form *f, qn_form_id part, uint32_t min, uint32_t max)
{
    if (!is_node(f, part))
        return 0;
    if (min > max)
        return fail(f, QN_E_ARG, "repeat: found a least number over the largest one");
    if (max == 0)
        return qn_form_bytes(f, "", 0);
    if (min == 1 && max == 1)
        return part;
    return intern(f, (qn_form_node){.kind = QN_FORM_REPEAT, .at = min, .n = max, .a = part});
}

qn_form_id qn_form_and(qn_form *f, qn_form_id a, qn_form_id b)
{
    if (!is_node(f, a) || !is_node(f, b))
        return 0;
    return a == b ? a : intern(f, (qn_form_node){.kind = QN_FORM_AND, .a = a, .b = b});
}

qn_form_id qn_form_minus(qn_form *f, qn_form_id a, qn_form_id b)
{
    if (!is_node(f, a) || !is_node(f, b))
        return 0;
    return intern(f, (qn_form_node){.kind = QN_FORM_MINUS, .a = a, .b = b});
}

/* ---- rules ---- */

qn_form_id qn_form_rule(qn_form *f)
{
    return intern(f, (qn_form_node){.kind = QN_FORM_RULE});
}

void qn_form_define(qn_form *f, qn_form_id rule, qn_form_id e)
{
    if (!is_node(f, rule) || !is_node(f, e))
        return;
    qn_form_node *v = &f->nodes[rule];
    if (v->kind != QN_FORM_RULE || v->a)
        (void)fail(f, QN_E_ARG, v->a ? "rule: found a second definition" : "define: found no rule");
    else
        v->a = e;
}

void qn_form_set_root(qn_form *f, qn_form_id e)
{
    if (is_node(f, e))
        f->root = e;
}

qn_status qn_form_check(const qn_form *f, qn_err *err)
{
    if (f->status != QN_OK)
        return qn_fail(err, f->status, "%s", f->err.msg);
    if (!f->root)
        return qn_fail(err, QN_E_ARG, "grammar: found no root");
    for (size_t i = 1; i < f->n_nodes; i++)
        if (f->nodes[i].kind == QN_FORM_RULE && !f->nodes[i].a)
            return qn_fail(err, QN_E_ARG, "grammar: found a rule that is never defined");
    return QN_OK;
}
