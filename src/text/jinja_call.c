/* SPDX-License-Identifier: Apache-2.0
 * jinja_call.c - arguments, the global functions, and the methods of dictionaries and lists.
 *
 * Nothing that changes a value is here: as in jinja2's ImmutableSandboxedEnvironment, append, pop,
 * update and the like are undefined. */
#include "text/jinja_ast.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* The n-th word of "old new count"; an empty slice past the last. */
static qn_slice nth_word(const char *words, size_t n)
{
    for (; n > 0 && *words; n--) {
        words += strcspn(words, " ");
        words += *words == ' ';
    }
    return (qn_slice){words, strcspn(words, " ")};
}

bool qn_jargs_bind(qn_jrun *r, const char *what, const char *params, size_t n_required,
                   const qn_jargs *a, qn_jvalue *out)
{
    size_t n = 0;
    for (; nth_word(params, n).n > 0; n++)
        out[n] = (qn_jvalue){.type = QN_J_MISSING};
    if (a->n_pos > n)
        return qn_jrun_fail(r, "%s() takes at most %zu arguments, %zu given", what, n, a->n_pos);
    for (size_t i = 0; i < a->n_pos; i++)
        out[i] = a->pos[i];
    for (size_t k = 0; k < a->n_kw; k++) {
        qn_slice name = qn_jrun_name(r, a->kw_names[k]);
        size_t i = 0;
        while (i < n && !qn_slice_eq(nth_word(params, i), name))
            i++;
        if (i == n || out[i].type != QN_J_MISSING)
            return qn_jrun_fail(r, "%s() got an unexpected keyword argument '%.*s'", what,
                                (int)QN_MIN(name.n, 60), name.p);
        out[i] = a->kw[k];
    }
    for (size_t i = 0; i < n_required; i++)
        if (out[i].type == QN_J_MISSING)
            return qn_jrun_fail(r, "%s() misses its argument '%.*s'", what,
                                (int)nth_word(params, i).n, nth_word(params, i).p);
    return true;
}

bool qn_jargs_int(qn_jrun *r, const char *what, const qn_jvalue *v, int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (v->type == QN_J_MISSING || v->type == QN_J_NONE)
        return true;
    if (v->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, v);
    if (v->type != QN_J_INT && v->type != QN_J_BOOL)
        return qn_jrun_fail(r, "%s: '%s' found, an integer wanted", what, qn_jvalue_type_name(v));
    *out = v->type == QN_J_INT ? v->u.i : v->u.b;
    return true;
}

bool qn_jargs_string(qn_jrun *r, const char *what, const qn_jvalue *v)
{
    if (v->type == QN_J_STRING)
        return true;
    if (v->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, v);
    return qn_jrun_fail(r, "%s: '%s' found, a string wanted", what, qn_jvalue_type_name(v));
}

/* ---- functions ---- */

int qn_jfunction_find(qn_slice name)
{
    static const char *const names[QN_J_N_FUNCTIONS] = {"raise_exception", "strftime_now", "range",
                                                        "namespace", "dict"};
    for (int i = 0; i < QN_J_N_FUNCTIONS; i++)
        if (qn_slice_is(name, names[i]))
            return i;
    return -1;
}

static bool raise_exception(qn_jrun *r, const qn_jargs *a)
{
    qn_jvalue message, text;
    if (!qn_jargs_bind(r, "raise_exception", "message", 1, a, &message) ||
        !qn_jvalue_str(r, &message, &text))
        return false;
    size_t n = qn_utf8_whole(text.u.s->p, QN_MIN(text.u.s->n, sizeof(r->err->msg) - 1));
    r->status = qn_fail(r->err, QN_E_ARG, "%.*s", (int)n, text.u.s->p);
    return false;
}

/* One conversion at a time, so that no format makes a long text. */
static bool strftime_now(qn_jrun *r, const qn_jargs *a, qn_jvalue *out)
{
    qn_jvalue format;
    qn_jtext t = {0};
    struct tm tm;
    time_t now = (time_t)r->now;
    if (!qn_jargs_bind(r, "strftime_now", "format", 1, a, &format) ||
        !qn_jargs_string(r, "strftime_now", &format))
        return false;
    if (!localtime_r(&now, &tm))
        return qn_jrun_fail(r, "strftime_now: the time %lld has no date", (long long)r->now);
    const char *p = format.u.s->p, *end = p + format.u.s->n;
    while (p < end) {
        char one[5] = "%", buf[128];
        const char *from = p++;
        if (*from != '%') {
            if (!qn_jtext_add(r, &t, from, 1, qn_jvalue_is_data(&format)))
                return false;
            continue;
        }
        size_t n = 1;
        if (p < end && *p && strchr("-_0^#", *p))
            one[n++] = *p++;
        if (p == end || !*p || !strchr("aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%f", *p))
            return qn_jrun_fail(r, "strftime_now: an unknown conversion in its format");
        one[n] = *p++;
        n = one[n] == 'f' ? (size_t)snprintf(buf, sizeof(buf), "000000")
                          : strftime(buf, sizeof(buf), one, &tm);
        if (!qn_jtext_add(r, &t, buf, n, false))
            return false;
    }
    return qn_jtext_value(r, &t, out);
}

static bool make_range(qn_jrun *r, const qn_jargs *a, qn_jvalue *out)
{
    qn_jvalue arg[3];
    int64_t begin = 0, end, step, n = 0;
    if (!qn_jargs_bind(r, "range", "start stop step", 1, a, arg) ||
        !qn_jargs_int(r, "range", &arg[2], 1, &step) ||
        !qn_jargs_int(r, "range", &arg[arg[1].type == QN_J_MISSING ? 0 : 1], 0, &end))
        return false;
    if (arg[1].type != QN_J_MISSING && !qn_jargs_int(r, "range", &arg[0], 0, &begin))
        return false;
    if (step == 0)
        return qn_jrun_fail(r, "range() arg 3 must not be zero");
    __int128 span = step > 0 ? (__int128)end - begin : (__int128)begin - end;
    __int128 width = step > 0 ? (__int128)step : -(__int128)step;
    if (span > 0) {
        __int128 count = (span - 1) / width + 1;
        if (count > QN_LIMIT_TEMPLATE_RANGE)
            return qn_jrun_fail(r, "range() of more than %d items", QN_LIMIT_TEMPLATE_RANGE);
        n = (int64_t)count;
    }
    if (!qn_jvalue_list(r, QN_J_LIST_RANGE, (size_t)n, out))
        return false;
    for (int64_t i = 0; i < n; i++)
        out->u.l->items[i] = qn_jvalue_int(begin + i * step);
    return true;
}

static bool copy_entries(qn_jrun *r, const qn_jvalue *from, qn_jdict *to)
{
    qn_jlist *l, *pair;
    if (from->type == QN_J_DICT || from->type == QN_J_NAMESPACE) {
        qn_jdict *d = from->u.d;
        if (!qn_jdict_unpack(r, d))
            return false;
        for (size_t i = 0; i < d->n; i++)
            if (!qn_jdict_set(r, to, &d->entries[i].key, &d->entries[i].value))
                return false;
        return true;
    }
    if (!qn_jvalue_iterate(r, from, &l))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        if (!qn_jvalue_iterate(r, &l->items[i], &pair))
            return false;
        if (pair->n != 2)
            return qn_jrun_fail(r, "dict(): an item of %zu elements found, 2 wanted", pair->n);
        if (!qn_jdict_set(r, to, &pair->items[0], &pair->items[1]))
            return false;
    }
    return true;
}

/* dict(x, a=1), namespace(x, a=1) */
static bool make_dict(qn_jrun *r, const qn_jargs *a, bool is_namespace, qn_jvalue *out)
{
    if (a->n_pos > 1)
        return qn_jrun_fail(r, "%s() takes at most 1 argument, %zu given",
                            is_namespace ? "namespace" : "dict", a->n_pos);
    if (!qn_jvalue_dict(r, a->n_kw + 1, out) ||
        (a->n_pos && !copy_entries(r, &a->pos[0], out->u.d)))
        return false;
    for (size_t i = 0; i < a->n_kw; i++) {
        qn_slice name = qn_jrun_name(r, a->kw_names[i]);
        qn_jvalue key;
        if (!qn_jvalue_string(r, name.p, name.n, false, &key) ||
            !qn_jdict_set(r, out->u.d, &key, &a->kw[i]))
            return false;
    }
    if (is_namespace)
        out->type = QN_J_NAMESPACE;
    return true;
}

bool qn_jfunction_call(qn_jrun *r, int id, const qn_jargs *a, qn_jvalue *out)
{
    switch (id) {
    case QN_J_RAISE_EXCEPTION:
        return raise_exception(r, a);
    case QN_J_STRFTIME_NOW:
        return strftime_now(r, a, out);
    case QN_J_RANGE:
        return make_range(r, a, out);
    default:
        return make_dict(r, a, id == QN_J_NAMESPACE_NEW, out);
    }
}

/* ---- methods ---- */

enum { D_COPY, D_GET, D_ITEMS, D_KEYS, D_VALUES, D_N };
enum { L_COPY, L_COUNT, L_INDEX, L_N };

static int find_name(const char *const *names, int n, qn_slice name)
{
    for (int i = 0; i < n; i++)
        if (qn_slice_is(name, names[i]))
            return i;
    return -1;
}

int qn_jmethod_find(const qn_jvalue *self, qn_slice name)
{
    static const char *const dict_names[D_N] = {"copy", "get", "items", "keys", "values"};
    static const char *const list_names[L_N] = {"copy", "count", "index"};
    if (self->type == QN_J_STRING)
        return qn_jstring_method_find(name);
    if (self->type == QN_J_DICT)
        return find_name(dict_names, D_N, name);
    if (self->type == QN_J_LIST && self->u.l->kind <= QN_J_LIST_RANGE)
        return find_name(list_names, L_N, name);
    return -1;
}

static bool dict_view(qn_jrun *r, qn_jdict *d, int id, const qn_jargs *a, qn_jvalue *out)
{
    static const char *const names[D_N] = {
        [D_ITEMS] = "dict_items", [D_KEYS] = "dict_keys", [D_VALUES] = "dict_values"};
    if (!qn_jargs_bind(r, names[id], "", 0, a, NULL) || !qn_jdict_unpack(r, d) ||
        !qn_jvalue_list(r, QN_J_LIST_VIEW, d->n, out))
        return false;
    out->u.l->name = names[id];
    for (size_t i = 0; i < d->n; i++) {
        qn_jvalue *item = &out->u.l->items[i];
        if (id != D_ITEMS) {
            *item = id == D_KEYS ? d->entries[i].key : d->entries[i].value;
            continue;
        }
        if (!qn_jvalue_list(r, QN_J_LIST_TUPLE, 2, item))
            return false;
        item->u.l->items[0] = d->entries[i].key;
        item->u.l->items[1] = d->entries[i].value;
    }
    return true;
}

static bool dict_call(qn_jrun *r, const qn_jmethod *m, const qn_jargs *a, qn_jvalue *out)
{
    qn_jvalue arg[2];
    qn_jentry *e;
    qn_jdict *d = m->self.u.d;
    if (m->id == D_COPY) {
        if (!qn_jargs_bind(r, "copy", "", 0, a, NULL) || !qn_jvalue_dict(r, d->n, out))
            return false;
        out->data = m->self.data;
        return copy_entries(r, &m->self, out->u.d);
    }
    if (m->id != D_GET)
        return dict_view(r, d, m->id, a, out);
    if (!qn_jargs_bind(r, "get", "key default", 1, a, arg) || !qn_jdict_find(r, d, &arg[0], &e))
        return false;
    *out = e ? e->value : arg[1].type == QN_J_MISSING ? QN_J_NIL : arg[1];
    return true;
}

static bool list_call(qn_jrun *r, const qn_jmethod *m, const qn_jargs *a, qn_jvalue *out)
{
    qn_jlist *l = m->self.u.l;
    qn_jvalue arg;
    int64_t n = 0;
    *out = m->self; /* lists never change: a copy is the list */
    if (m->id == L_COPY)
        return qn_jargs_bind(r, "copy", "", 0, a, NULL);
    if (!qn_jargs_bind(r, "index", "value", 1, a, &arg) || !qn_jlist_unpack(r, l))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        bool same;
        if (!qn_jvalue_equal(r, &l->items[i], &arg, &same))
            return false;
        n += same;
        if (same && m->id == L_INDEX) {
            *out = qn_jvalue_int((int64_t)i);
            return true;
        }
    }
    *out = qn_jvalue_int(n);
    return m->id == L_COUNT || qn_jrun_fail(r, "the value is not in the list");
}

bool qn_jmethod_call(qn_jrun *r, const qn_jmethod *m, const qn_jargs *a, qn_jvalue *out)
{
    if (m->self.type == QN_J_STRING)
        return qn_jstring_method_call(r, m->id, &m->self, a, out);
    return m->self.type == QN_J_DICT ? dict_call(r, m, a, out) : list_call(r, m, a, out);
}
