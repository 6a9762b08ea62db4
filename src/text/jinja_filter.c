/* SPDX-License-Identifier: Apache-2.0
 * jinja_filter.c - the filters and tests of templates. Source: jinja2 filters.py and tests.py;
 * tojson: transformers. */
#include "text/jinja_ast.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct call {
    qn_slice name;
    char z[24]; /* the name for messages */
    const qn_jvalue *v;
    const qn_jargs *a;
} call;

typedef bool (*filter_fn)(qn_jrun *r, const call *c, qn_jvalue *out);

static bool bind(qn_jrun *r, const call *c, const char *params, size_t n_required, qn_jvalue *out)
{
    return qn_jargs_bind(r, c->z, params, n_required, c->a, out);
}

static bool given(const qn_jvalue *v)
{
    return v->type != QN_J_MISSING && v->type != QN_J_NONE;
}

/* ---- text ---- */

static bool filter_case(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue s;
    qn_jcase how = c->z[0] == 'u'   ? QN_J_UPPER
                   : c->z[0] == 'l' ? QN_J_LOWER
                   : c->z[0] == 'c' ? QN_J_CAPITALIZE
                                    : QN_J_WORDS;
    return bind(r, c, "", 0, NULL) && qn_jvalue_str(r, c->v, &s) &&
           qn_jstring_case(r, &s, how, out);
}

static bool filter_trim(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue chars, s;
    return bind(r, c, "chars", 0, &chars) && qn_jvalue_str(r, c->v, &s) &&
           qn_jstring_strip(r, &s, &chars, true, true, out);
}

static bool filter_string(qn_jrun *r, const call *c, qn_jvalue *out)
{
    return bind(r, c, "", 0, NULL) && qn_jvalue_str(r, c->v, out);
}

static bool filter_replace(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[3] = {0}, s;
    int64_t count;
    return bind(r, c, "old new count", 2, arg) && qn_jvalue_str(r, c->v, &s) &&
           qn_jvalue_str(r, &arg[0], &arg[0]) && qn_jvalue_str(r, &arg[1], &arg[1]) &&
           qn_jargs_int(r, "replace", &arg[2], -1, &count) &&
           qn_jstring_replace(r, &s, &arg[0], &arg[1], count, out);
}

/* & < > ' " as entities; the letters that stay keep their origin. */
static bool filter_escape(qn_jrun *r, const call *c, qn_jvalue *out)
{
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    qn_jvalue s;
    qn_jtext t = {0};
    size_t plain = 0;
    if (!bind(r, c, "", 0, NULL) || !qn_jvalue_str(r, c->v, &s))
        return false;
    for (size_t i = 0; i < s.u.s->n; i++) {
        const char *at = s.u.s->p[i] ? strchr(from, s.u.s->p[i]) : NULL;
        if (!at)
            continue;
        if (!qn_jtext_add_part(r, &t, &s, plain, i) ||
            !qn_jtext_add(r, &t, to[at - from], strlen(to[at - from]), qn_jvalue_is_data(&s)))
            return false;
        plain = i + 1;
    }
    return qn_jtext_add_part(r, &t, &s, plain, s.u.s->n) && qn_jtext_value(r, &t, out);
}

/* `width` as spaces, or as the text it is. */
static bool indentation(qn_jrun *r, const qn_jvalue *width, int64_t otherwise, qn_jvalue *out)
{
    static const char spaces[] = "                                                                ";
    int64_t n;
    if (width->type == QN_J_STRING) {
        *out = *width;
        return true;
    }
    if (!qn_jargs_int(r, "indent", width, otherwise, &n))
        return false;
    if (n > (int64_t)sizeof(spaces) - 1)
        return qn_jrun_fail(r, "an indentation of %lld found, at most %zu wanted", (long long)n,
                            sizeof(spaces) - 1);
    return qn_jvalue_string(r, spaces, (size_t)QN_MAX(n, 0), false, out);
}

static bool filter_indent(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[3] = {0}, s, pad;
    qn_jtext t = {0};
    if (!bind(r, c, "width first blank", 0, arg) || !qn_jvalue_str(r, c->v, &s) ||
        !indentation(r, &arg[0], 4, &pad))
        return false;
    const char *p = s.u.s->p;
    for (size_t begin = 0, n = s.u.s->n; begin <= n;) {
        const char *nl = begin < n ? memchr(p + begin, '\n', n - begin) : NULL;
        size_t end = nl ? (size_t)(nl - p) : n;
        bool is_first = begin == 0;
        bool pads = is_first ? qn_jvalue_truth(&arg[1]) : end > begin || qn_jvalue_truth(&arg[2]);
        if ((pads && !qn_jtext_add_value(r, &t, &pad)) ||
            !qn_jtext_add_part(r, &t, &s, begin, QN_MIN(end + 1, n)))
            return false;
        begin = end + 1;
    }
    return qn_jtext_value(r, &t, out);
}

static bool filter_wordcount(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue s;
    int64_t n = 0;
    bool inside = false;
    if (!bind(r, c, "", 0, NULL) || !qn_jvalue_str(r, c->v, &s) ||
        !qn_jrun_spend_bytes(r, s.u.s->n))
        return false;
    for (size_t i = 0; i < s.u.s->n; i++) {
        char ch = s.u.s->p[i];
        bool word = (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') ||
                    (ch >= 'A' && ch <= 'Z') || ch == '_' || (ch & 0x80);
        n += word && !inside;
        inside = word;
    }
    *out = qn_jvalue_int(n);
    return true;
}

static bool filter_tojson(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[4] = {0}, indent = {0};
    qn_jtext t = {0};
    qn_jjson_style style = {.item_sep = QN_SLICE(", "), .key_sep = QN_SLICE(": ")};
    if (!bind(r, c, "ensure_ascii indent separators sort_keys", 0, arg))
        return false;
    if (given(&arg[1])) {
        if (!indentation(r, &arg[1], 0, &indent))
            return false;
        style.indent = (qn_slice){indent.u.s->p, indent.u.s->n};
        style.item_sep = QN_SLICE(",");
    }
    if (given(&arg[2])) {
        qn_jlist *l;
        if (!qn_jvalue_iterate(r, &arg[2], &l))
            return false;
        if (l->n != 2 || l->items[0].type != QN_J_STRING || l->items[1].type != QN_J_STRING)
            return qn_jrun_fail(r, "tojson: separators must be two strings");
        style.item_sep = (qn_slice){l->items[0].u.s->p, l->items[0].u.s->n};
        style.key_sep = (qn_slice){l->items[1].u.s->p, l->items[1].u.s->n};
    }
    style.ascii = qn_jvalue_truth(&arg[0]);
    style.sort = qn_jvalue_truth(&arg[3]);
    return qn_jtext_add_json(r, &t, c->v, &style) && qn_jtext_value(r, &t, out);
}

/* ---- numbers ---- */

static bool filter_abs(qn_jrun *r, const call *c, qn_jvalue *out)
{
    if (!bind(r, c, "", 0, NULL))
        return false;
    if (!qn_jvalue_is_number(c->v))
        return c->v->type == QN_J_UNDEFINED
                   ? qn_jvalue_refuse(r, c->v)
                   : qn_jrun_fail(r, "bad operand type for abs(): '%s'", qn_jvalue_type_name(c->v));
    *out = c->v->type == QN_J_FLOAT ? qn_jvalue_float(fabs(c->v->u.f))
                                    : qn_jvalue_int((int64_t)qn_jvalue_number(c->v));
    if (c->v->type == QN_J_INT)
        out->u.i = c->v->u.i < 0 ? (int64_t) - (uint64_t)c->v->u.i : c->v->u.i;
    out->data = c->v->data;
    return true;
}

static bool parse_text_number(const qn_jvalue *v, int64_t *i, double *f, bool *is_int)
{
    const char *p = v->u.s->p;
    size_t n = v->u.s->n;
    while (n && qn_jchar_is_space((unsigned char)p[0])) {
        p++;
        n--;
    }
    while (n && qn_jchar_is_space((unsigned char)p[n - 1]))
        n--;
    if (n && p[0] == '+') {
        p++;
        n--;
    }
    *is_int = qn_parse_i64(p, n, i);
    return *is_int || qn_parse_f64(p, n, f);
}

/* int(default=0, base=10) and float(default=0.0): what cannot be converted gives the default. */
static bool filter_number(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[2] = {0};
    bool to_int = c->z[0] == 'i', is_int = c->v->type != QN_J_FLOAT;
    int64_t i = 0;
    double f = 0;
    if (!bind(r, c, to_int ? "default base" : "default", 0, arg))
        return false;
    if (c->v->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, c->v);
    if (to_int && arg[1].type != QN_J_MISSING && !(arg[1].type == QN_J_INT && arg[1].u.i == 10))
        return qn_jrun_fail(r, "int: only base 10 is supported");
    *out = arg[0].type != QN_J_MISSING ? arg[0] : to_int ? qn_jvalue_int(0) : qn_jvalue_float(0);
    if (c->v->type == QN_J_INT || c->v->type == QN_J_BOOL)
        i = c->v->type == QN_J_INT ? c->v->u.i : c->v->u.b;
    else if (c->v->type == QN_J_FLOAT)
        f = c->v->u.f;
    else if (c->v->type != QN_J_STRING || !parse_text_number(c->v, &i, &f, &is_int))
        return true;
    if (to_int && !is_int && !(fabs(f) < 9.2e18))
        return true;
    if (to_int)
        *out = qn_jvalue_int(is_int ? i : (int64_t)f);
    else
        *out = qn_jvalue_float(is_int ? (double)i : f);
    out->data = qn_jvalue_is_data(c->v);
    return true;
}

/* Python's round(): to even, from the exact decimal value. */
static bool round_to(double f, int64_t digits, const char *method, double *out)
{
    char buf[400];
    if (digits < -300 || digits > 300 || !isfinite(f))
        return false;
    if (method[0] != 'c' || method[1] == 'e') { /* ceil, floor */
        double scale = pow(10, (double)digits);
        *out = (method[0] == 'c' ? ceil(f * scale) : floor(f * scale)) / scale;
        return true;
    }
    if (digits < 0) {
        double scale = pow(10, (double)-digits);
        *out = nearbyint(f / scale) * scale;
        return true;
    }
    if (digits > 17) {
        *out = f;
        return true;
    }
    int n = snprintf(buf, sizeof(buf), "%.*f", (int)digits, f);
    return n > 0 && qn_parse_f64(buf, (size_t)n, out);
}

static bool filter_round(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[2] = {0};
    int64_t digits;
    const char *method = "common";
    if (!bind(r, c, "precision method", 0, arg) || !qn_jargs_int(r, "round", &arg[0], 0, &digits))
        return false;
    if (given(&arg[1])) {
        qn_slice s =
            arg[1].type == QN_J_STRING ? (qn_slice){arg[1].u.s->p, arg[1].u.s->n} : QN_SLICE("");
        method = qn_slice_is(s, "ceil") ? "ceil" : qn_slice_is(s, "floor") ? "floor" : method;
        if (method[1] == 'o' && !qn_slice_is(s, "common"))
            return qn_jrun_fail(r, "round: method must be common, ceil or floor");
    }
    if (!qn_jvalue_is_number(c->v))
        return qn_jrun_fail(r, "round: '%s' found, a number wanted", qn_jvalue_type_name(c->v));
    *out = *c->v;
    if (c->v->type != QN_J_FLOAT && method[1] == 'o')
        return true; /* Python rounds an integer to an integer */
    double f;
    if (!round_to(qn_jvalue_number(c->v), digits, method, &f))
        return qn_jrun_fail(r, "round: the number or its precision is out of range");
    *out = qn_jvalue_float(f);
    out->data = c->v->data;
    return true;
}

/* ---- sequences ---- */

static bool filter_length(qn_jrun *r, const call *c, qn_jvalue *out)
{
    int64_t n;
    if (!bind(r, c, "", 0, NULL) || !qn_jvalue_length(r, c->v, &n))
        return false;
    *out = qn_jvalue_int(n);
    return true;
}

static bool filter_list(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jlist *l;
    if (!bind(r, c, "", 0, NULL) || !qn_jvalue_iterate(r, c->v, &l) ||
        !qn_jvalue_list(r, QN_J_LIST_PLAIN, l->n, out))
        return false;
    for (size_t i = 0; i < l->n; i++)
        out->u.l->items[i] = l->items[i];
    return true;
}

static bool filter_end(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jlist *l;
    bool last = c->z[0] == 'l';
    if (!bind(r, c, "", 0, NULL))
        return false;
    if (last && c->v->type == QN_J_LIST && c->v->u.l->kind == QN_J_LIST_GENERATOR)
        return qn_jrun_fail(r, "'generator' object is not reversible");
    if (!qn_jvalue_iterate(r, c->v, &l))
        return false;
    if (l->n == 0)
        return qn_jvalue_undefined(r, NULL,
                                   last ? QN_SLICE("last item of an empty sequence")
                                        : QN_SLICE("first item of an empty sequence"),
                                   out);
    *out = l->items[last ? l->n - 1 : 0];
    return true;
}

static bool filter_items(qn_jrun *r, const call *c, qn_jvalue *out)
{
    if (!bind(r, c, "", 0, NULL))
        return false;
    if (c->v->type == QN_J_UNDEFINED)
        return qn_jvalue_list(r, QN_J_LIST_GENERATOR, 0, out);
    if (c->v->type != QN_J_DICT)
        return qn_jrun_fail(r, "Can only get item pairs from a mapping.");
    qn_jmethod m = {*c->v, qn_jmethod_find(c->v, QN_SLICE("items"))};
    if (!qn_jmethod_call(r, &m, &(qn_jargs){0}, out))
        return false;
    out->u.l->kind = QN_J_LIST_GENERATOR;
    return true;
}

/* item.a.b.0 of "a.b.0", as the attribute arguments of filters name it; MISSING: the item
 * itself. */
static bool attribute_of(qn_jrun *r, const qn_jvalue *item, const qn_jvalue *path, qn_jvalue *out)
{
    *out = *item;
    if (!given(path))
        return true;
    if (path->type == QN_J_INT)
        return qn_jvalue_item(r, item, path, out);
    if (!qn_jargs_string(r, "attribute", path))
        return false;
    const char *p = path->u.s->p, *end = p + path->u.s->n;
    while (p <= end) {
        const char *dot = memchr(p, '.', (size_t)(end - p));
        size_t n = (size_t)((dot ? dot : end) - p);
        qn_jvalue key, from = *out;
        uint64_t i;
        if (qn_parse_u64(p, n, 1u << 30, &i))
            key = qn_jvalue_int((int64_t)i);
        else if (!qn_jvalue_string(r, p, n, qn_jvalue_is_data(path), &key))
            return false;
        if (!qn_jvalue_item(r, &from, &key, out))
            return false;
        p += n + 1;
    }
    return true;
}

/* The keys to compare items by: their attribute, in lower case unless told otherwise. */
static bool sort_keys(qn_jrun *r, const qn_jlist *l, const qn_jvalue *attribute,
                      bool case_sensitive, qn_jvalue *out)
{
    if (!qn_jvalue_list(r, QN_J_LIST_PLAIN, l->n, out))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        qn_jvalue *key = &out->u.l->items[i];
        if (!attribute_of(r, &l->items[i], attribute, key))
            return false;
        if (key->type == QN_J_STRING && !case_sensitive &&
            !qn_jstring_case(r, key, QN_J_LOWER, key))
            return false;
    }
    return true;
}

static bool sorted(qn_jrun *r, const qn_jlist *l, const qn_jlist *keys, bool reverse,
                   qn_jvalue *out)
{
    uint32_t *order = qn_jrun_alloc(r, l->n, sizeof(*order));
    if (!order || !qn_jvalue_sort(r, keys->items, l->n, reverse, order) ||
        !qn_jvalue_list(r, QN_J_LIST_PLAIN, l->n, out))
        return false;
    for (size_t i = 0; i < l->n; i++)
        out->u.l->items[i] = l->items[order[i]];
    return true;
}

static bool filter_sort(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[3] = {0}, keys;
    qn_jlist *l;
    return bind(r, c, "reverse case_sensitive attribute", 0, arg) &&
           qn_jvalue_iterate(r, c->v, &l) &&
           sort_keys(r, l, &arg[2], qn_jvalue_truth(&arg[1]), &keys) &&
           sorted(r, l, keys.u.l, qn_jvalue_truth(&arg[0]), out);
}

static bool filter_dictsort(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[3] = {0}, pairs, keys;
    if (!bind(r, c, "case_sensitive by reverse", 0, arg))
        return false;
    qn_jvalue side = qn_jvalue_int(0);
    if (given(&arg[1]) && arg[1].type == QN_J_STRING &&
        qn_slice_is((qn_slice){arg[1].u.s->p, arg[1].u.s->n}, "value"))
        side.u.i = 1;
    return filter_items(r, &(call){.v = c->v, .a = &(qn_jargs){0}, .z = "dictsort"}, &pairs) &&
           sort_keys(r, pairs.u.l, &side, qn_jvalue_truth(&arg[0]), &keys) &&
           sorted(r, pairs.u.l, keys.u.l, qn_jvalue_truth(&arg[2]), out);
}

static bool filter_extreme(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[2] = {0}, keys;
    qn_jlist *l;
    size_t best = 0;
    if (!bind(r, c, "case_sensitive attribute", 0, arg) || !qn_jvalue_iterate(r, c->v, &l))
        return false;
    if (l->n == 0)
        return qn_jvalue_undefined(r, NULL, QN_SLICE("aggregated item of an empty sequence"), out);
    if (!sort_keys(r, l, &arg[1], qn_jvalue_truth(&arg[0]), &keys))
        return false;
    for (size_t i = 1; i < l->n; i++) {
        const qn_jvalue *k = keys.u.l->items;
        bool better;
        if (!(c->z[1] == 'i' ? qn_jvalue_less(r, &k[i], &k[best], &better)
                             : qn_jvalue_less(r, &k[best], &k[i], &better)))
            return false;
        best = better ? i : best;
    }
    *out = l->items[best];
    return true;
}

static bool filter_unique(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[2] = {0}, keys, seen;
    qn_jlist *l;
    size_t n = 0;
    if (!bind(r, c, "case_sensitive attribute", 0, arg) || !qn_jvalue_iterate(r, c->v, &l) ||
        !sort_keys(r, l, &arg[1], qn_jvalue_truth(&arg[0]), &keys) ||
        !qn_jvalue_dict(r, l->n, &seen) || !qn_jvalue_list(r, QN_J_LIST_GENERATOR, l->n, out))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        qn_jentry *e;
        const qn_jvalue *key = &keys.u.l->items[i];
        if (!qn_jdict_find(r, seen.u.d, key, &e))
            return false;
        if (e)
            continue;
        if (!qn_jdict_set(r, seen.u.d, key, key))
            return false;
        out->u.l->items[n++] = l->items[i];
    }
    out->u.l->n = n;
    return true;
}

static bool filter_reverse(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jlist *l;
    qn_jvalue bounds[3] = {QN_J_NIL, QN_J_NIL, qn_jvalue_int(-1)};
    if (!bind(r, c, "", 0, NULL))
        return false;
    if (c->v->type == QN_J_STRING)
        return qn_jvalue_slice(r, c->v, bounds, out);
    if (!qn_jvalue_iterate(r, c->v, &l) || !qn_jvalue_list(r, QN_J_LIST_GENERATOR, l->n, out))
        return false;
    for (size_t i = 0; i < l->n; i++)
        out->u.l->items[i] = l->items[l->n - 1 - i];
    return true;
}

static bool filter_join(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[2] = {0}, empty, mapped;
    qn_jlist *l;
    if (!bind(r, c, "d attribute", 0, arg) || !qn_jvalue_iterate(r, c->v, &l) ||
        !qn_jvalue_literal(r, "", &empty) || !qn_jvalue_list(r, QN_J_LIST_PLAIN, l->n, &mapped))
        return false;
    for (size_t i = 0; i < l->n; i++)
        if (!attribute_of(r, &l->items[i], &arg[1], &mapped.u.l->items[i]))
            return false;
    return qn_jstring_join(r, arg[0].type == QN_J_MISSING ? &empty : &arg[0], mapped.u.l, false,
                           out);
}

static bool filter_sum(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[2] = {0}, item;
    qn_jlist *l;
    if (!bind(r, c, "attribute start", 0, arg) || !qn_jvalue_iterate(r, c->v, &l))
        return false;
    *out = arg[1].type == QN_J_MISSING ? qn_jvalue_int(0) : arg[1];
    for (size_t i = 0; i < l->n; i++) {
        qn_jvalue left = *out;
        if (!attribute_of(r, &l->items[i], &arg[0], &item) ||
            !qn_jvalue_binary(r, QN_JOP_ADD, &left, &item, out))
            return false;
    }
    return true;
}

static bool filter_default(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue arg[2] = {0};
    if (!bind(r, c, "default_value boolean", 0, arg))
        return false;
    *out = *c->v;
    if (c->v->type != QN_J_UNDEFINED && !(qn_jvalue_truth(&arg[1]) && !qn_jvalue_truth(c->v)))
        return true;
    *out = arg[0];
    return arg[0].type != QN_J_MISSING || qn_jvalue_literal(r, "", out);
}

static bool filter_attr(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jvalue name;
    if (!bind(r, c, "name", 1, &name) || !qn_jargs_string(r, "attr", &name))
        return false;
    qn_slice s = {name.u.s->p, name.u.s->n};
    /* attributes only, never items: of a dictionary its methods */
    if (c->v->type == QN_J_DICT && qn_jmethod_find(c->v, s) < 0)
        return qn_jvalue_undefined(r, qn_jvalue_object_name(c->v), s, out);
    return qn_jvalue_attr(r, c->v, s, out);
}

/* The rest of a call's positional arguments, for the filter or test it names. */
static qn_jargs rest_of(const qn_jargs *a, size_t n_skip)
{
    qn_jargs rest = *a;
    n_skip = QN_MIN(n_skip, a->n_pos);
    if (n_skip)
        rest.pos += n_skip;
    rest.n_pos -= n_skip;
    return rest;
}

static bool map_attribute(qn_jrun *r, const call *c, const qn_jlist *l, qn_jvalue *out)
{
    qn_jvalue arg[2] = {0};
    if (!bind(r, c, "attribute default", 1, arg))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        qn_jvalue *item = &out->u.l->items[i];
        if (!attribute_of(r, &l->items[i], &arg[0], item))
            return false;
        if (item->type == QN_J_UNDEFINED && given(&arg[1]))
            *item = arg[1];
    }
    return true;
}

static bool filter_map(qn_jrun *r, const call *c, qn_jvalue *out)
{
    qn_jlist *l;
    if (!qn_jvalue_iterate(r, c->v, &l) || !qn_jvalue_list(r, QN_J_LIST_GENERATOR, l->n, out))
        return false;
    if (c->a->n_pos == 0)
        return map_attribute(r, c, l, out);
    qn_jargs rest = rest_of(c->a, 1);
    if (!qn_jargs_string(r, "map", &c->a->pos[0]))
        return false;
    qn_slice name = {c->a->pos[0].u.s->p, c->a->pos[0].u.s->n};
    for (size_t i = 0; i < l->n; i++)
        if (!qn_jfilter_apply(r, name, &l->items[i], &rest, &out->u.l->items[i]))
            return false;
    return true;
}

/* select, reject, selectattr, rejectattr */
static bool filter_select(qn_jrun *r, const call *c, qn_jvalue *out)
{
    bool by_attribute = strlen(c->z) > 6, reject = c->z[0] == 'r', ok;
    qn_jlist *l;
    size_t n = 0, i_test = by_attribute;
    if (!qn_jvalue_iterate(r, c->v, &l) || !qn_jvalue_list(r, QN_J_LIST_GENERATOR, l->n, out))
        return false;
    if (c->a->n_pos < i_test)
        return qn_jrun_fail(r, "%s() misses its attribute", c->z);
    qn_jvalue none = QN_J_NIL;
    const qn_jvalue *path = by_attribute ? c->a->pos : &none;
    QN_ASSERT(path);
    qn_jargs rest = rest_of(c->a, i_test + 1);
    const qn_jvalue *test = c->a->n_pos > i_test ? &c->a->pos[i_test] : NULL;
    if (test && !qn_jargs_string(r, c->z, test))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        qn_jvalue item;
        if (!attribute_of(r, &l->items[i], path, &item))
            return false;
        if (!test)
            ok = qn_jvalue_truth(&item);
        else if (!qn_jtest_apply(r, (qn_slice){test->u.s->p, test->u.s->n}, &item, &rest, &ok))
            return false;
        if (ok != reject)
            out->u.l->items[n++] = l->items[i];
    }
    out->u.l->n = n;
    return true;
}

bool qn_jfilter_apply(qn_jrun *r, qn_slice name, const qn_jvalue *v, const qn_jargs *a,
                      qn_jvalue *out)
{
    static const struct {
        const char *name;
        filter_fn fn;
    } filters[] = {{"abs", filter_abs},
                   {"attr", filter_attr},
                   {"capitalize", filter_case},
                   {"count", filter_length},
                   {"d", filter_default},
                   {"default", filter_default},
                   {"dictsort", filter_dictsort},
                   {"e", filter_escape},
                   {"escape", filter_escape},
                   {"first", filter_end},
                   {"float", filter_number},
                   {"indent", filter_indent},
                   {"int", filter_number},
                   {"items", filter_items},
                   {"join", filter_join},
                   {"last", filter_end},
                   {"length", filter_length},
                   {"list", filter_list},
                   {"lower", filter_case},
                   {"map", filter_map},
                   {"max", filter_extreme},
                   {"min", filter_extreme},
                   {"reject", filter_select},
                   {"rejectattr", filter_select},
                   {"replace", filter_replace},
                   {"reverse", filter_reverse},
                   {"round", filter_round},
                   {"safe", filter_string},
                   {"select", filter_select},
                   {"selectattr", filter_select},
                   {"sort", filter_sort},
                   {"string", filter_string},
                   {"sum", filter_sum},
                   {"title", filter_case},
                   {"tojson", filter_tojson},
                   {"trim", filter_trim},
                   {"unique", filter_unique},
                   {"upper", filter_case},
                   {"wordcount", filter_wordcount}};
    for (size_t i = 0; i < QN_COUNT(filters); i++) {
        if (!qn_slice_is(name, filters[i].name))
            continue;
        call c = {.name = name, .v = v, .a = a};
        (void)snprintf(c.z, sizeof(c.z), "%s", filters[i].name);
        bool ok = qn_jrun_spend(r, 16) && qn_jrun_enter(r) && filters[i].fn(r, &c, out);
        r->depth--;
        return ok;
    }
    return qn_jrun_fail(r, "no filter named '%.*s'", (int)QN_MIN(name.n, 60), name.p);
}

/* ---- tests ---- */

static bool test_type(const qn_jvalue *v, qn_slice name, bool *out)
{
    static const struct {
        const char *name;
        uint32_t types; /* bits of qn_jtype */
    } tests[] = {
        {"none", 1u << QN_J_NONE},
        {"boolean", 1u << QN_J_BOOL},
        {"integer", 1u << QN_J_INT | 1u << QN_J_BIG_INT},
        {"float", 1u << QN_J_FLOAT},
        {"number", 1u << QN_J_INT | 1u << QN_J_BIG_INT | 1u << QN_J_FLOAT | 1u << QN_J_BOOL},
        {"string", 1u << QN_J_STRING},
        {"mapping", 1u << QN_J_DICT},
        {"iterable", 1u << QN_J_STRING | 1u << QN_J_LIST | 1u << QN_J_DICT | 1u << QN_J_UNDEFINED},
        {"callable",
         1u << QN_J_MACRO | 1u << QN_J_FUNCTION | 1u << QN_J_METHOD | 1u << QN_J_UNDEFINED},
        {"undefined", 1u << QN_J_UNDEFINED},
        {"defined", ~(1u << QN_J_UNDEFINED)}};
    for (size_t i = 0; i < QN_COUNT(tests); i++) {
        if (qn_slice_is(name, tests[i].name)) {
            *out = tests[i].types >> v->type & 1;
            return true;
        }
    }
    bool is_true = qn_slice_is(name, "true");
    if (is_true || qn_slice_is(name, "false")) {
        *out = v->type == QN_J_BOOL && v->u.b == is_true;
        return true;
    }
    if (qn_slice_is(name, "sequence")) {
        *out = v->type == QN_J_STRING || v->type == QN_J_DICT || v->type == QN_J_UNDEFINED ||
               (v->type == QN_J_LIST && v->u.l->kind <= QN_J_LIST_RANGE);
        return true;
    }
    return false;
}

static bool test_divisible(qn_jrun *r, const qn_jvalue *v, const qn_jvalue *by, int64_t want,
                           bool *out)
{
    int64_t a, b;
    if (v->type == QN_J_NONE || !qn_jargs_int(r, "divisibleby", v, 0, &a) ||
        !qn_jargs_int(r, "divisibleby", by, 0, &b))
        return qn_jrun_fail(r, "divisibleby, odd and even want an integer");
    if (b == 0)
        return qn_jrun_fail(r, "integer modulo by zero");
    *out = (b == -1 ? 0 : a % b != 0) == (want != 0);
    return true;
}

/* Comparisons by their several names; -1: not one. */
static int compare_op(qn_slice name)
{
    static const struct {
        const char *name;
        qn_jop op;
    } ops[] = {{"eq", QN_JOP_EQ}, {"equalto", QN_JOP_EQ},     {"ne", QN_JOP_NE},
               {"lt", QN_JOP_LT}, {"lessthan", QN_JOP_LT},    {"le", QN_JOP_LE},
               {"gt", QN_JOP_GT}, {"greaterthan", QN_JOP_GT}, {"ge", QN_JOP_GE},
               {"in", QN_JOP_IN}, {"==", QN_JOP_EQ},          {"!=", QN_JOP_NE},
               {"<", QN_JOP_LT},  {"<=", QN_JOP_LE},          {">", QN_JOP_GT},
               {">=", QN_JOP_GE}};
    for (size_t i = 0; i < QN_COUNT(ops); i++)
        if (qn_slice_is(name, ops[i].name))
            return ops[i].op;
    return -1;
}

static bool test_same(const qn_jvalue *a, const qn_jvalue *b)
{
    if (a->type != b->type)
        return false;
    switch (a->type) {
    case QN_J_NONE:
        return true;
    case QN_J_BOOL:
        return a->u.b == b->u.b;
    default:
        return a->u.i == b->u.i;
    }
}

static bool test_case(qn_jrun *r, const qn_jvalue *v, bool upper, bool *out)
{
    qn_jvalue s, result;
    qn_jmethod m;
    if (!qn_jvalue_str(r, v, &s))
        return false;
    m = (qn_jmethod){s, qn_jstring_method_find(upper ? QN_SLICE("isupper") : QN_SLICE("islower"))};
    if (!qn_jmethod_call(r, &m, &(qn_jargs){0}, &result))
        return false;
    *out = result.u.b;
    return true;
}

bool qn_jtest_apply(qn_jrun *r, qn_slice name, const qn_jvalue *v, const qn_jargs *a, bool *out)
{
    qn_jvalue arg, two = qn_jvalue_int(2);
    int op = compare_op(name);
    bool odd = qn_slice_is(name, "odd"), upper = qn_slice_is(name, "upper");
    bool same = qn_slice_is(name, "sameas"), divisible = qn_slice_is(name, "divisibleby");
    *out = false;
    if (!qn_jrun_spend(r, 16))
        return false;
    if (op >= 0 || same || divisible) {
        if (!qn_jargs_bind(r, "test", "other", 1, a, &arg))
            return false;
        if (same)
            *out = test_same(v, &arg);
        return same || (divisible ? test_divisible(r, v, &arg, 0, out)
                                  : qn_jvalue_compare(r, (qn_jop)op, v, &arg, out));
    }
    if (!qn_jargs_none(r, "test", a))
        return false;
    if (test_type(v, name, out))
        return true;
    if (odd || qn_slice_is(name, "even"))
        return test_divisible(r, v, &two, odd, out);
    if (upper || qn_slice_is(name, "lower"))
        return test_case(r, v, upper, out);
    return qn_jrun_fail(r, "no test named '%.*s'", (int)QN_MIN(name.n, 60), name.p);
}
