/* SPDX-License-Identifier: Apache-2.0
 * jinja_value.c - values of a running template: making, unpacking, comparing, indexing; text under
 * construction.
 *
 * The semantics are Python's; what an undefined value may do is jinja2's (runtime.py,
 * Undefined). */
#define QN_JINJA_VALUE_C
#include "text/jinja_ast.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- the run ---- */

bool qn_jrun_fail(qn_jrun *r, const char *fmt, ...)
{
    if (r->status != QN_OK)
        return false;
    char msg[320];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    msg[qn_utf8_whole(msg, strlen(msg))] = 0;
    r->status = qn_fail(r->err, QN_E_FORMAT, "%s:%u: %s", r->t->name, r->line, msg);
    return false;
}

bool qn_jrun_spend(qn_jrun *r, size_t units)
{
    if (units > (size_t)r->fuel) {
        r->fuel = 0;
        return qn_jrun_fail(r, "the template takes more than %d steps", QN_LIMIT_TEMPLATE_STEPS);
    }
    r->fuel -= (int64_t)units;
    return true;
}

bool qn_jrun_spend_bytes(qn_jrun *r, size_t n)
{
    return qn_jrun_spend(r, n / 16 + 1);
}

bool qn_jrun_enter(qn_jrun *r)
{
    if (++r->depth <= QN_JINJA_DEPTH)
        return true;
    return qn_jrun_fail(r, "nested too deeply (more than %d)", QN_JINJA_DEPTH);
}

void *qn_jrun_alloc(qn_jrun *r, size_t n, size_t size)
{
    size_t bytes;
    if (!qn_mul_size(n, size, &bytes) ||
        bytes >
            QN_LIMIT_TEMPLATE_MEMORY - 32 - QN_MIN(r->arena.bytes, QN_LIMIT_TEMPLATE_MEMORY - 32)) {
        qn_jrun_fail(r, "the rendering takes more than %d bytes of memory",
                     QN_LIMIT_TEMPLATE_MEMORY);
        return NULL;
    }
    void *p = qn_arena_alloc(&r->arena, bytes + 1);
    if (!p && r->status == QN_OK)
        r->status = qn_fail_nomem(r->err, bytes);
    return p;
}

qn_slice qn_jrun_name(const qn_jrun *r, uint32_t id)
{
    return r->t->names[id];
}

/* ---- making ---- */

qn_jvalue qn_jvalue_bool(bool b)
{
    return (qn_jvalue){.type = QN_J_BOOL, .u.b = b};
}

qn_jvalue qn_jvalue_int(int64_t i)
{
    return (qn_jvalue){.type = QN_J_INT, .u.i = i};
}

qn_jvalue qn_jvalue_float(double f)
{
    return (qn_jvalue){.type = QN_J_FLOAT, .u.f = f};
}

bool qn_jvalue_undefined(qn_jrun *r, const char *owner, qn_slice name, qn_jvalue *out)
{
    qn_jmissing *m = qn_jrun_alloc(r, 1, sizeof(*m));
    if (!m)
        return false;
    *m = (qn_jmissing){owner, name};
    *out = (qn_jvalue){.type = QN_J_UNDEFINED, .u.m = m};
    return true;
}

bool qn_jvalue_string(qn_jrun *r, const char *p, size_t n, bool data, qn_jvalue *out)
{
    qn_jstring *s = qn_jrun_alloc(r, 1, sizeof(*s));
    if (!s)
        return false;
    *s = (qn_jstring){.p = p, .n = n, .n_chars = SIZE_MAX};
    *out = (qn_jvalue){.type = QN_J_STRING, .data = data, .u.s = s};
    return true;
}

bool qn_jvalue_literal(qn_jrun *r, const char *z, qn_jvalue *out)
{
    return qn_jvalue_string(r, z, strlen(z), false, out);
}

bool qn_jvalue_list(qn_jrun *r, qn_jlist_kind kind, size_t n, qn_jvalue *out)
{
    qn_jlist *l = qn_jrun_alloc(r, 1, sizeof(*l));
    if (!l)
        return false;
    *l = (qn_jlist){.kind = kind, .n = n};
    l->items = qn_jrun_alloc(r, n, sizeof(*l->items));
    if (!l->items || !qn_jrun_spend(r, n / 4 + 1))
        return false;
    for (size_t i = 0; i < n; i++)
        l->items[i] = QN_J_NIL;
    *out = (qn_jvalue){.type = QN_J_LIST, .u.l = l};
    return true;
}

bool qn_jvalue_dict(qn_jrun *r, size_t n, qn_jvalue *out)
{
    qn_jdict *d = qn_jrun_alloc(r, 1, sizeof(*d));
    if (!d)
        return false;
    *d = (qn_jdict){.cap = n};
    d->entries = qn_jrun_alloc(r, n, sizeof(*d->entries));
    *out = (qn_jvalue){.type = QN_J_DICT, .u.d = d};
    return d->entries != NULL;
}

static bool is_big_integer(const json_t *j)
{
    const char *p = json_string_value(j);
    if (!qn_starts_with(p, QN_CHAT_BIG_INTEGER))
        return false;
    p += strlen(QN_CHAT_BIG_INTEGER);
    p += *p == '-';
    return *p && strspn(p, "0123456789") == strlen(p);
}

bool qn_jvalue_json(qn_jrun *r, const json_t *j, qn_jvalue *out)
{
    switch (json_typeof(j)) {
    case JSON_STRING:
        if (is_big_integer(j)) {
            bool ok =
                qn_jvalue_string(r, json_string_value(j) + strlen(QN_CHAT_BIG_INTEGER),
                                 json_string_length(j) - strlen(QN_CHAT_BIG_INTEGER), true, out);
            out->type = QN_J_BIG_INT;
            return ok;
        }
        return qn_jvalue_string(r, json_string_value(j), json_string_length(j), true, out);
    case JSON_INTEGER:
        *out = qn_jvalue_int(json_integer_value(j));
        break;
    case JSON_REAL:
        *out = qn_jvalue_float(json_real_value(j));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = qn_jvalue_bool(json_is_true(j));
        break;
    case JSON_NULL:
        *out = QN_J_NIL;
        break;
    case JSON_ARRAY:
        if (!qn_jvalue_list(r, QN_J_LIST_PLAIN, 0, out))
            return false;
        out->u.l->json = j;
        out->u.l->n = json_array_size(j);
        break;
    case JSON_OBJECT:
        if (!qn_jvalue_dict(r, 0, out))
            return false;
        out->u.d->json = j;
        out->u.d->n = json_object_size(j);
        break;
    }
    out->data = true;
    return true;
}

bool qn_jlist_unpack(qn_jrun *r, qn_jlist *l)
{
    const json_t *j = l->json;
    if (!j)
        return true;
    l->items = qn_jrun_alloc(r, l->n, sizeof(*l->items));
    if (!l->items || !qn_jrun_spend(r, l->n))
        return false;
    for (size_t i = 0; i < l->n; i++)
        if (!qn_jvalue_json(r, json_array_get(j, i), &l->items[i]))
            return false;
    l->json = NULL;
    return true;
}

/* As transformers: a message's reasoning_content is also its reasoning and its thinking. */
static bool add_reasoning(qn_jrun *r, qn_jdict *d)
{
    static const char *const names[] = {"reasoning", "thinking"};
    qn_jentry *from, *there;
    qn_jvalue key, value;
    if (!qn_jdict_get(r, d, QN_SLICE("reasoning_content"), &from))
        return false;
    if (!from)
        return true;
    value = from->value;
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        if (!qn_jdict_get(r, d, qn_slice_of(names[i]), &there))
            return false;
        if (!there && (!qn_jvalue_literal(r, names[i], &key) || !qn_jdict_set(r, d, &key, &value)))
            return false;
    }
    return true;
}

bool qn_jdict_unpack(qn_jrun *r, qn_jdict *d)
{
    const json_t *j = d->json;
    if (!j)
        return true;
    size_t n = d->n;
    d->json = NULL;
    d->n = 0;
    d->cap = n + 2;
    d->entries = qn_jrun_alloc(r, d->cap, sizeof(*d->entries));
    if (!d->entries || !qn_jrun_spend(r, n))
        return false;
    json_t *object = (json_t *)j; /* only read; jansson's iterators want it so */
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        qn_jvalue key, value;
        if (!qn_jvalue_string(r, json_object_iter_key(it), strlen(json_object_iter_key(it)), true,
                              &key) ||
            !qn_jvalue_json(r, json_object_iter_value(it), &value) ||
            !qn_jdict_set(r, d, &key, &value))
            return false;
    }
    return !d->is_message || add_reasoning(r, d);
}

/* ---- dictionaries ---- */

/* Equal keys have equal hashes: 1, 1.0 and True are the same key. */
static bool hash_key(qn_jrun *r, const qn_jvalue *key, uint64_t *out)
{
    double f;
    if (key->type == QN_J_STRING) {
        *out = qn_hash(key->u.s->p, key->u.s->n, 1);
        return qn_jrun_spend_bytes(r, key->u.s->n);
    }
    if (qn_jvalue_is_number(key)) {
        f = qn_jvalue_number(key) + 0.0; /* -0.0 is 0.0 */
        *out = qn_hash(&f, sizeof(f), 2);
        return true;
    }
    if (key->type == QN_J_NONE) {
        *out = 3;
        return true;
    }
    return qn_jrun_fail(r, "'%s' cannot be a key", qn_jvalue_type_name(key));
}

/* The slot of key in the index: its entry + 1, or 0 where it would go. */
static bool find_slot(qn_jrun *r, const qn_jdict *d, const qn_jvalue *key, uint32_t **slot)
{
    uint64_t h;
    bool same;
    if (!hash_key(r, key, &h))
        return false;
    for (;; h++) {
        *slot = &d->index[h & (d->n_index - 1)];
        if (!**slot)
            return true;
        if (!qn_jvalue_equal(r, &d->entries[**slot - 1].key, key, &same))
            return false;
        if (same)
            return true;
    }
}

static bool build_index(qn_jrun *r, qn_jdict *d)
{
    uint32_t *slot;
    d->n_index = 64;
    while (d->n_index < 4 * d->n)
        d->n_index *= 2;
    d->index = qn_jrun_alloc(r, d->n_index, sizeof(*d->index));
    if (!d->index || !qn_jrun_spend(r, d->n))
        return false;
    memset(d->index, 0, d->n_index * sizeof(*d->index));
    for (uint32_t i = 0; i < d->n; i++) {
        if (!find_slot(r, d, &d->entries[i].key, &slot))
            return false;
        *slot = i + 1;
    }
    return true;
}

bool qn_jdict_find(qn_jrun *r, qn_jdict *d, const qn_jvalue *key, qn_jentry **out)
{
    uint64_t h;
    bool same;
    uint32_t *slot;
    *out = NULL;
    if (!qn_jdict_unpack(r, d) || !hash_key(r, key, &h))
        return false;
    if (d->index) {
        if (!find_slot(r, d, key, &slot))
            return false;
        *out = *slot ? &d->entries[*slot - 1] : NULL;
        return true;
    }
    for (size_t i = 0; i < d->n; i++) {
        if (!qn_jvalue_equal(r, &d->entries[i].key, key, &same))
            return false;
        if (same) {
            *out = &d->entries[i];
            return true;
        }
    }
    return true;
}

bool qn_jdict_get(qn_jrun *r, qn_jdict *d, qn_slice key, qn_jentry **out)
{
    qn_jstring s = {.p = key.p, .n = key.n, .n_chars = SIZE_MAX};
    qn_jvalue v = {.type = QN_J_STRING, .u.s = &s};
    return qn_jdict_find(r, d, &v, out);
}

bool qn_jdict_set(qn_jrun *r, qn_jdict *d, const qn_jvalue *key, const qn_jvalue *value)
{
    qn_jentry *e;
    if (!qn_jdict_find(r, d, key, &e))
        return false;
    if (e) {
        e->value = *value;
        return true;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap * 2 + 4;
        qn_jentry *entries = qn_jrun_alloc(r, cap, sizeof(*entries));
        if (!entries)
            return false;
        if (d->entries)
            memcpy(entries, d->entries, d->n * sizeof(*entries));
        d->entries = entries;
        d->cap = cap;
    }
    QN_ASSERT(d->entries);
    d->entries[d->n++] = (qn_jentry){*key, *value};
    if (d->index && 2 * d->n < d->n_index) {
        uint32_t *slot;
        if (!find_slot(r, d, key, &slot))
            return false;
        *slot = (uint32_t)d->n;
        return true;
    }
    return d->n <= 8 || build_index(r, d);
}

/* ---- asking ---- */

const char *qn_jvalue_type_name(const qn_jvalue *v)
{
    static const char *const names[] = {
        "Undefined", "Undefined", "NoneType",  "bool",  "int",      "int",    "float",      "str",
        "list",      "dict",      "Namespace", "Macro", "function", "method", "LoopContext"};
    static const char *const lists[] = {"list", "tuple", "range", "dict_view", "generator"};
    return v->type == QN_J_LIST ? lists[v->u.l->kind] : names[v->type];
}

const char *qn_jvalue_object_name(const qn_jvalue *v)
{
    static const char *const names[] = {"Undefined",
                                        "Undefined",
                                        "None",
                                        "bool object",
                                        "int object",
                                        "int object",
                                        "float object",
                                        "str object",
                                        "list object",
                                        "dict object",
                                        "jinja2.utils.Namespace object",
                                        "jinja2.runtime.Macro object",
                                        "function object",
                                        "method object",
                                        "jinja2.runtime.LoopContext object"};
    return v->type == QN_J_LIST && v->u.l->kind == QN_J_LIST_TUPLE ? "tuple object"
                                                                   : names[v->type];
}

bool qn_jvalue_truth(const qn_jvalue *v)
{
    switch (v->type) {
    case QN_J_MISSING:
    case QN_J_UNDEFINED:
    case QN_J_NONE:
        return false;
    case QN_J_BOOL:
        return v->u.b;
    case QN_J_INT:
        return v->u.i != 0;
    case QN_J_FLOAT:
        return v->u.f != 0;
    case QN_J_STRING:
        return v->u.s->n != 0;
    case QN_J_LIST:
        return v->u.l->kind == QN_J_LIST_GENERATOR || v->u.l->n != 0;
    case QN_J_DICT:
        return v->u.d->n != 0;
    default:
        return true;
    }
}

bool qn_jvalue_is_number(const qn_jvalue *v)
{
    return v->type == QN_J_INT || v->type == QN_J_FLOAT || v->type == QN_J_BOOL;
}

double qn_jvalue_number(const qn_jvalue *v)
{
    return v->type == QN_J_FLOAT ? v->u.f : v->type == QN_J_INT ? (double)v->u.i : (double)v->u.b;
}

bool qn_jvalue_is_data(const qn_jvalue *v)
{
    if (v->type != QN_J_STRING || !v->u.s->spans)
        return v->data;
    return true; /* spans are of both kinds */
}

static bool equal_lists(qn_jrun *r, qn_jlist *a, qn_jlist *b, bool *out)
{
    *out = a == b;
    if (a == b || a->kind != b->kind || a->kind > QN_J_LIST_RANGE || a->n != b->n)
        return true;
    if (!qn_jlist_unpack(r, a) || !qn_jlist_unpack(r, b))
        return false;
    *out = true;
    for (size_t i = 0; i < a->n && *out; i++)
        if (!qn_jvalue_equal(r, &a->items[i], &b->items[i], out))
            return false;
    return true;
}

static bool equal_dicts(qn_jrun *r, qn_jdict *a, qn_jdict *b, bool *out)
{
    qn_jentry *e;
    *out = a == b;
    if (a == b)
        return true;
    if (!qn_jdict_unpack(r, a) || !qn_jdict_unpack(r, b))
        return false;
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) {
        if (!qn_jdict_find(r, b, &a->entries[i].key, &e))
            return false;
        *out = e != NULL;
        if (e && !qn_jvalue_equal(r, &a->entries[i].value, &e->value, out))
            return false;
    }
    return true;
}

bool qn_jvalue_equal(qn_jrun *r, const qn_jvalue *a, const qn_jvalue *b, bool *out)
{
    *out = false;
    if (!qn_jrun_spend(r, 1))
        return false;
    if (qn_jvalue_is_number(a) && qn_jvalue_is_number(b)) {
        if (a->type == QN_J_INT && b->type == QN_J_INT)
            *out = a->u.i == b->u.i;
        else
            *out = qn_jvalue_number(a) == qn_jvalue_number(b);
        return true;
    }
    if (a->type != b->type)
        return true;
    bool ok = true;
    switch (a->type) {
    case QN_J_MISSING:
    case QN_J_UNDEFINED:
    case QN_J_NONE:
        *out = true;
        break;
    case QN_J_BIG_INT:
    case QN_J_STRING:
        *out = a->u.s->n == b->u.s->n &&
               (a->u.s->n == 0 || memcmp(a->u.s->p, b->u.s->p, a->u.s->n) == 0);
        return qn_jrun_spend(r, *out ? a->u.s->n / 16 : 0);
    case QN_J_LIST:
    case QN_J_DICT:
        ok = qn_jrun_enter(r) && (a->type == QN_J_LIST ? equal_lists(r, a->u.l, b->u.l, out)
                                                       : equal_dicts(r, a->u.d, b->u.d, out));
        r->depth--;
        break;
    case QN_J_FUNCTION:
        *out = a->u.i == b->u.i;
        break;
    default:
        *out = a->u.d == b->u.d;
    }
    return ok;
}

static bool less_lists(qn_jrun *r, qn_jlist *a, qn_jlist *b, bool *out)
{
    if (!qn_jlist_unpack(r, a) || !qn_jlist_unpack(r, b))
        return false;
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool same;
        if (!qn_jvalue_equal(r, &a->items[i], &b->items[i], &same))
            return false;
        if (!same)
            return qn_jvalue_less(r, &a->items[i], &b->items[i], out);
    }
    *out = a->n < b->n;
    return true;
}

bool qn_jvalue_refuse(qn_jrun *r, const qn_jvalue *v)
{
    if (v->type != QN_J_UNDEFINED)
        return qn_jrun_fail(r, "a value of type %s is of no use here", qn_jvalue_type_name(v));
    const qn_jmissing *m = v->u.m;
    int n = (int)QN_MIN(m->name.n, 100);
    if (m->owner)
        return qn_jrun_fail(r, "'%s' has no attribute '%.*s'", m->owner, n, m->name.p);
    return qn_jrun_fail(r, "'%.*s' is undefined", n, m->name.p);
}

bool qn_jvalue_less(qn_jrun *r, const qn_jvalue *a, const qn_jvalue *b, bool *out)
{
    if (!qn_jrun_spend(r, 1))
        return false;
    if (a->type == QN_J_INT && b->type == QN_J_INT) {
        *out = a->u.i < b->u.i;
        return true;
    }
    if (qn_jvalue_is_number(a) && qn_jvalue_is_number(b)) {
        *out = qn_jvalue_number(a) < qn_jvalue_number(b);
        return true;
    }
    if (a->type == QN_J_STRING && b->type == QN_J_STRING) {
        size_t n = QN_MIN(a->u.s->n, b->u.s->n);
        int c = n ? memcmp(a->u.s->p, b->u.s->p, n) : 0; /* UTF-8 sorts as code points do */
        *out = c < 0 || (c == 0 && a->u.s->n < b->u.s->n);
        return qn_jrun_spend(r, n / 16);
    }
    if (a->type == QN_J_LIST && b->type == QN_J_LIST && a->u.l->kind == b->u.l->kind &&
        a->u.l->kind <= QN_J_LIST_TUPLE) {
        bool ok = qn_jrun_enter(r) && less_lists(r, a->u.l, b->u.l, out);
        r->depth--;
        return ok;
    }
    if (a->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, a);
    if (b->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, b);
    return qn_jrun_fail(r, "'<' not supported between instances of '%s' and '%s'",
                        qn_jvalue_type_name(a), qn_jvalue_type_name(b));
}

/* Merge sort, bottom up. */
bool qn_jvalue_sort(qn_jrun *r, const qn_jvalue *keys, size_t n, bool reverse, uint32_t *order)
{
    uint32_t *from = order, *to = qn_jrun_alloc(r, n, sizeof(*to)), *spare = to;
    if (!to)
        return false;
    for (size_t i = 0; i < n; i++)
        from[i] = (uint32_t)i;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * width) {
            size_t a = begin, mid = QN_MIN(begin + width, n), b = mid, end = QN_MIN(mid + width, n);
            for (size_t i = begin; i < end; i++) {
                bool take_b = a == mid;
                if (a < mid && b < end &&
                    !(reverse ? qn_jvalue_less(r, &keys[from[a]], &keys[from[b]], &take_b)
                              : qn_jvalue_less(r, &keys[from[b]], &keys[from[a]], &take_b)))
                    return false;
                to[i] = take_b ? from[b++] : from[a++];
            }
        }
        uint32_t *swap = from;
        from = to;
        to = swap;
    }
    if (from == spare && n)
        memcpy(order, from, n * sizeof(*order));
    return true;
}

bool qn_jvalue_contains(qn_jrun *r, const qn_jvalue *item, const qn_jvalue *in, bool *out)
{
    qn_jentry *e;
    qn_jlist *l;
    *out = false;
    if (in->type == QN_J_STRING) {
        if (item->type == QN_J_UNDEFINED)
            return qn_jvalue_refuse(r, item);
        if (item->type != QN_J_STRING)
            return qn_jrun_fail(r, "'in <string>' requires string as left operand, not %s",
                                qn_jvalue_type_name(item));
        *out =
            item->u.s->n == 0 || memmem(in->u.s->p, in->u.s->n, item->u.s->p, item->u.s->n) != NULL;
        return qn_jrun_spend_bytes(r, in->u.s->n);
    }
    if (in->type == QN_J_DICT) {
        if (!qn_jdict_find(r, in->u.d, item, &e))
            return false;
        *out = e != NULL;
        return true;
    }
    if (in->type != QN_J_LIST && in->type != QN_J_UNDEFINED)
        return qn_jrun_fail(r, "argument of type '%s' is not iterable", qn_jvalue_type_name(in));
    if (!qn_jvalue_iterate(r, in, &l))
        return false;
    for (size_t i = 0; i < l->n && !*out; i++)
        if (!qn_jvalue_equal(r, &l->items[i], item, out))
            return false;
    return true;
}

static bool iterate_string(qn_jrun *r, const qn_jvalue *v, qn_jvalue *list)
{
    qn_jstring *s = v->u.s;
    size_t n = qn_jstring_chars(s), at = 0;
    if (!qn_jvalue_list(r, QN_J_LIST_PLAIN, n, list))
        return false;
    for (size_t i = 0; i < n; i++) {
        uint32_t cp;
        size_t len = qn_utf8_decode(s->p + at, s->n - at, &cp);
        if (!qn_jstring_part(r, v, at, at + len, &list->u.l->items[i]))
            return false;
        at += len;
    }
    return true;
}

bool qn_jvalue_iterate(qn_jrun *r, const qn_jvalue *v, qn_jlist **out)
{
    qn_jvalue list;
    switch (v->type) {
    case QN_J_LIST:
        if (!qn_jlist_unpack(r, v->u.l))
            return false;
        *out = v->u.l;
        if (v->u.l->kind != QN_J_LIST_GENERATOR)
            return true;
        if (v->u.l->spent) {
            if (!qn_jvalue_list(r, QN_J_LIST_PLAIN, 0, &list))
                return false;
            *out = list.u.l;
        }
        v->u.l->spent = true;
        return true;
    case QN_J_UNDEFINED:
        if (!qn_jvalue_list(r, QN_J_LIST_PLAIN, 0, &list))
            return false;
        break;
    case QN_J_DICT:
        if (!qn_jdict_unpack(r, v->u.d) || !qn_jvalue_list(r, QN_J_LIST_PLAIN, v->u.d->n, &list))
            return false;
        for (size_t i = 0; i < v->u.d->n; i++)
            list.u.l->items[i] = v->u.d->entries[i].key;
        break;
    case QN_J_STRING:
        if (!iterate_string(r, v, &list))
            return false;
        break;
    default:
        return qn_jrun_fail(r, "'%s' object is not iterable", qn_jvalue_type_name(v));
    }
    *out = list.u.l;
    return true;
}

bool qn_jvalue_length(qn_jrun *r, const qn_jvalue *v, int64_t *out)
{
    *out = 0;
    if (v->type == QN_J_STRING)
        *out = (int64_t)qn_jstring_chars(v->u.s);
    else if (v->type == QN_J_LIST && v->u.l->kind != QN_J_LIST_GENERATOR)
        *out = (int64_t)v->u.l->n;
    else if (v->type == QN_J_DICT)
        *out = qn_jdict_unpack(r, v->u.d) ? (int64_t)v->u.d->n : 0;
    else if (v->type != QN_J_UNDEFINED)
        return qn_jrun_fail(r, "object of type '%s' has no len()", qn_jvalue_type_name(v));
    return r->status == QN_OK;
}

/* ---- items, attributes, slices ---- */

bool qn_jvalue_attr(qn_jrun *r, const qn_jvalue *v, qn_slice name, qn_jvalue *out)
{
    if (v->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, v);
    int id = qn_jmethod_find(v, name);
    if (id >= 0) {
        qn_jmethod *m = qn_jrun_alloc(r, 1, sizeof(*m));
        if (!m)
            return false;
        *m = (qn_jmethod){*v, id};
        *out = (qn_jvalue){.type = QN_J_METHOD, .u.method = m};
        return true;
    }
    if (v->type == QN_J_DICT || v->type == QN_J_NAMESPACE) {
        qn_jentry *e;
        if (!qn_jdict_get(r, v->u.d, name, &e))
            return false;
        if (e) {
            *out = e->value;
            return true;
        }
    }
    if (v->type == QN_J_LOOP)
        return qn_jloop_attr(r, v->u.loop, name, out);
    return qn_jvalue_undefined(r, qn_jvalue_object_name(v), name, out);
}

static bool index_value(const qn_jvalue *key, int64_t *i)
{
    if (key->type != QN_J_INT && key->type != QN_J_BOOL)
        return false;
    *i = key->type == QN_J_INT ? key->u.i : key->u.b;
    return true;
}

/* A sequence's element; *found false: out of range. */
static bool element(qn_jrun *r, const qn_jvalue *v, int64_t i, qn_jvalue *out, bool *found)
{
    bool is_string = v->type == QN_J_STRING;
    int64_t n = is_string ? (int64_t)qn_jstring_chars(v->u.s) : (int64_t)v->u.l->n;
    if (i < 0)
        i += n;
    *found = i >= 0 && i < n;
    if (!*found)
        return true;
    if (!is_string) {
        if (!qn_jlist_unpack(r, v->u.l))
            return false;
        *out = v->u.l->items[i];
        return true;
    }
    size_t begin = qn_jstring_offset(v->u.s, (size_t)i), end = begin + 1;
    while (end < v->u.s->n && (v->u.s->p[end] & 0xc0) == 0x80)
        end++;
    return qn_jrun_spend_bytes(r, begin) && qn_jstring_part(r, v, begin, end, out);
}

bool qn_jvalue_item(qn_jrun *r, const qn_jvalue *v, const qn_jvalue *key, qn_jvalue *out)
{
    int64_t i;
    bool found = false, is_sequence = v->type == QN_J_STRING ||
                                      (v->type == QN_J_LIST && v->u.l->kind <= QN_J_LIST_RANGE);
    if (v->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, v);
    if (is_sequence && index_value(key, &i)) {
        if (!element(r, v, i, out, &found))
            return false;
    } else if (v->type == QN_J_DICT &&
               (key->type == QN_J_STRING || key->type == QN_J_NONE || qn_jvalue_is_number(key))) {
        qn_jentry *e;
        if (!qn_jdict_find(r, v->u.d, key, &e))
            return false;
        found = e != NULL;
        if (found)
            *out = e->value;
    }
    if (found)
        return true;
    if (key->type == QN_J_STRING)
        return qn_jvalue_attr(r, v, (qn_slice){key->u.s->p, key->u.s->n}, out);
    char *number = qn_jrun_alloc(r, 1, 32);
    if (!number)
        return false;
    int n = index_value(key, &i) ? snprintf(number, 32, "%lld", (long long)i) : 0;
    return qn_jvalue_undefined(r, qn_jvalue_object_name(v), (qn_slice){number, (size_t)n}, out);
}

/* Python's slice.indices: clamps begin and end for a sequence of n. */
static bool slice_range(qn_jrun *r, const qn_jvalue bounds[3], int64_t n, int64_t *begin,
                        int64_t *end, int64_t *step)
{
    int64_t b[3] = {0, 0, 1};
    bool given[3];
    for (int i = 0; i < 3; i++) {
        given[i] = bounds[i].type != QN_J_NONE && bounds[i].type != QN_J_MISSING;
        if (bounds[i].type == QN_J_UNDEFINED)
            return qn_jvalue_refuse(r, &bounds[i]);
        if (given[i] && !index_value(&bounds[i], &b[i]))
            return qn_jrun_fail(r, "slice indices must be integers or None, not %s",
                                qn_jvalue_type_name(&bounds[i]));
    }
    if (b[2] == 0)
        return qn_jrun_fail(r, "slice step cannot be zero");
    *step = QN_MAX(b[2], -INT64_MAX);
    int64_t low = *step < 0 ? -1 : 0, high = *step < 0 ? n - 1 : n;
    for (int i = 0; i < 2; i++) {
        if (!given[i])
            b[i] = (i == 0) == (*step < 0) ? high : low;
        else if (b[i] < 0)
            b[i] = QN_MAX(b[i] + n, low);
        else
            b[i] = QN_MIN(b[i], high);
    }
    *begin = b[0];
    *end = b[1];
    return true;
}

static bool slice_string(qn_jrun *r, const qn_jvalue *v, const qn_jvalue bounds[3], qn_jvalue *out)
{
    int64_t n = (int64_t)qn_jstring_chars(v->u.s), begin = 0, end = 0, step = 1;
    qn_jtext t = {0};
    if (!slice_range(r, bounds, n, &begin, &end, &step) || !qn_jrun_spend_bytes(r, v->u.s->n))
        return false;
    if (step == 1) {
        end = QN_MAX(begin, end);
        return qn_jstring_part(r, v, qn_jstring_offset(v->u.s, (size_t)begin),
                               qn_jstring_offset(v->u.s, (size_t)end), out);
    }
    qn_jvalue chars;
    if (!iterate_string(r, v, &chars))
        return false;
    for (int64_t i = begin; step > 0 ? i < end : i > end;) {
        const qn_jvalue *c = &chars.u.l->items[i];
        if (!qn_jtext_add_part(r, &t, c, 0, c->u.s->n))
            return false;
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    return qn_jtext_value(r, &t, out);
}

bool qn_jvalue_slice(qn_jrun *r, const qn_jvalue *v, const qn_jvalue bounds[3], qn_jvalue *out)
{
    int64_t begin = 0, end = 0, step = 1, n = 0;
    if (v->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, v);
    if (v->type == QN_J_STRING)
        return slice_string(r, v, bounds, out);
    if (v->type != QN_J_LIST || v->u.l->kind > QN_J_LIST_RANGE)
        return qn_jvalue_undefined(r, qn_jvalue_object_name(v), QN_SLICE("slice"), out);
    if (!qn_jlist_unpack(r, v->u.l) ||
        !slice_range(r, bounds, (int64_t)v->u.l->n, &begin, &end, &step))
        return false;
    if (step > 0 && end > begin)
        n = (end - begin - 1) / step + 1;
    else if (step < 0 && begin > end)
        n = (begin - end - 1) / -step + 1;
    if (!qn_jvalue_list(r, v->u.l->kind, (size_t)n, out))
        return false;
    for (int64_t i = 0; i < n; i++)
        out->u.l->items[i] = v->u.l->items[begin + i * step];
    return true;
}

/* ---- strings and text ---- */

size_t qn_jstring_chars(qn_jstring *s)
{
    if (s->n_chars == SIZE_MAX) {
        size_t n = 0;
        for (size_t i = 0; i < s->n; i++)
            n += (s->p[i] & 0xc0) != 0x80;
        s->n_chars = n;
    }
    return s->n_chars;
}

size_t qn_jstring_offset(const qn_jstring *s, size_t i_char)
{
    if (s->n_chars == s->n)
        return QN_MIN(i_char, s->n);
    size_t at = 0;
    while (at < s->n) {
        if ((s->p[at] & 0xc0) != 0x80 && i_char-- == 0)
            break;
        at++;
    }
    return at;
}

/* The span that holds byte `at`. */
static size_t find_span(const qn_jstring *s, size_t at)
{
    size_t low = 0, high = s->n_spans - 1;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (s->spans[mid].end <= at)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool qn_jstring_part(qn_jrun *r, const qn_jvalue *v, size_t begin, size_t end, qn_jvalue *out)
{
    const qn_jstring *s = v->u.s;
    if (!s->spans || begin == end)
        return qn_jvalue_string(r, s->p + begin, end - begin, v->data, out);
    size_t first = find_span(s, begin), last = find_span(s, end - 1);
    if (!qn_jvalue_string(r, s->p + begin, end - begin, s->spans[first].data, out))
        return false;
    if (first == last)
        return true;
    size_t n = last - first + 1;
    qn_jspan *spans = qn_jrun_alloc(r, n, sizeof(*spans));
    if (!spans || !qn_jrun_spend(r, n))
        return false;
    for (size_t i = 0; i < n; i++)
        spans[i] =
            (qn_jspan){QN_MIN(s->spans[first + i].end, end) - begin, s->spans[first + i].data};
    out->u.s->spans = spans;
    out->u.s->n_spans = n;
    return true;
}

static bool text_grow(qn_jrun *r, qn_jtext *t, size_t n)
{
    if (n > QN_LIMIT_TEMPLATE_OUTPUT || t->n + n > QN_LIMIT_TEMPLATE_OUTPUT)
        return qn_jrun_fail(r, "a text of more than %d bytes", QN_LIMIT_TEMPLATE_OUTPUT);
    if (t->n + n > t->cap) {
        size_t cap = QN_MAX(2 * t->cap, t->n + n + 16);
        char *p = qn_jrun_alloc(r, cap, 1);
        if (!p)
            return false;
        if (t->n)
            memcpy(p, t->p, t->n);
        t->p = p;
        t->cap = cap;
    }
    return true;
}

bool qn_jtext_add(qn_jrun *r, qn_jtext *t, const char *p, size_t n, bool data)
{
    if (n == 0)
        return true;
    if (!qn_jrun_spend_bytes(r, n) || !text_grow(r, t, n))
        return false;
    memcpy(t->p + t->n, p, n);
    t->n += n;
    if (t->n_spans && t->spans[t->n_spans - 1].data == data) {
        t->spans[t->n_spans - 1].end = t->n;
        return true;
    }
    if (t->n_spans == t->cap_spans) {
        size_t cap = t->cap_spans * 2 + 4;
        qn_jspan *spans = qn_jrun_alloc(r, cap, sizeof(*spans));
        if (!spans)
            return false;
        if (t->n_spans)
            memcpy(spans, t->spans, t->n_spans * sizeof(*spans));
        t->spans = spans;
        t->cap_spans = cap;
    }
    t->spans[t->n_spans++] = (qn_jspan){t->n, data};
    return true;
}

bool qn_jtext_add_part(qn_jrun *r, qn_jtext *t, const qn_jvalue *v, size_t begin, size_t end)
{
    const qn_jstring *s = v->u.s;
    if (begin >= end)
        return true;
    if (!s->spans)
        return qn_jtext_add(r, t, s->p + begin, end - begin, v->data);
    for (size_t i = find_span(s, begin); begin < end; i++) {
        size_t stop = QN_MIN(end, s->spans[i].end);
        if (!qn_jtext_add(r, t, s->p + begin, stop - begin, s->spans[i].data))
            return false;
        begin = stop;
    }
    return true;
}

bool qn_jtext_value(qn_jrun *r, const qn_jtext *t, qn_jvalue *out)
{
    if (!qn_jvalue_string(r, t->n ? t->p : "", t->n, t->n_spans > 0 && t->spans[0].data, out))
        return false;
    if (t->n_spans > 1) {
        out->u.s->spans = t->spans;
        out->u.s->n_spans = t->n_spans;
    }
    return true;
}
