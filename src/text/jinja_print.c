/* SPDX-License-Identifier: Apache-2.0
 * jinja_print.c - values as text: Python's str() and repr(), and json.dumps.
 *
 * Recursion over nested values is bounded by the run's depth. Source: CPython's unicode_repr,
 * float_repr_style 'short', json/encoder.py. */
#include "text/jinja_ast.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

static bool add_z(qn_jrun *r, qn_jtext *t, const char *z, bool data)
{
    return qn_jtext_add(r, t, z, strlen(z), data);
}

static bool add_number(qn_jrun *r, qn_jtext *t, const qn_jvalue *v)
{
    char buf[40];
    if (v->type == QN_J_INT)
        (void)snprintf(buf, sizeof(buf), "%lld", (long long)v->u.i);
    else
        (void)qn_format_f64(buf, v->u.f);
    return add_z(r, t, buf, v->data);
}

/* Python's str.isprintable for one character. */
static bool is_printable(uint32_t cp)
{
    if (cp < 0x7f)
        return cp >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static bool add_string_repr(qn_jrun *r, qn_jtext *t, const qn_jvalue *v)
{
    const qn_jstring *s = v->u.s;
    bool data = qn_jvalue_is_data(v);
    char quote = s->n && memchr(s->p, '\'', s->n) && !memchr(s->p, '"', s->n) ? '"' : '\'';
    if (!qn_jtext_add(r, t, &quote, 1, data))
        return false;
    for (size_t i = 0, n; i < s->n; i += n) {
        static const char from[] = "\n\r\t\\", to[] = "nrt\\";
        uint32_t cp;
        char buf[16];
        n = qn_utf8_decode(s->p + i, s->n - i, &cp);
        n = QN_MAX(n, 1);
        const char *known = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
        if (known)
            (void)snprintf(buf, sizeof(buf), "\\%c", to[known - from]);
        else if (cp == (uint32_t)quote)
            (void)snprintf(buf, sizeof(buf), "\\%c", quote);
        else if (!is_printable(cp))
            (void)snprintf(buf, sizeof(buf),
                           cp < 0x100     ? "\\x%02x"
                           : cp < 0x10000 ? "\\u%04x"
                                          : "\\U%08x",
                           cp);
        else
            buf[0] = 0;
        if (buf[0] ? !add_z(r, t, buf, data) : !qn_jtext_add(r, t, s->p + i, n, data))
            return false;
    }
    return qn_jtext_add(r, t, &quote, 1, data);
}

static bool add_repr(qn_jrun *r, qn_jtext *t, const qn_jvalue *v);

static bool add_list_repr(qn_jrun *r, qn_jtext *t, qn_jlist *l, bool data)
{
    char head[64] = "[";
    const char *tail = "]";
    if (!qn_jlist_unpack(r, l))
        return false;
    if (l->kind == QN_J_LIST_RANGE) {
        long long first = l->n ? l->items[0].u.i : 0, step = l->n > 1 ? l->items[1].u.i - first : 1;
        if (step == 1)
            (void)snprintf(head, sizeof(head), "range(%lld, %lld)", first, first + (long long)l->n);
        else
            (void)snprintf(head, sizeof(head), "range(%lld, %lld, %lld)", first,
                           first + step * (long long)l->n, step);
        return add_z(r, t, head, data);
    }
    if (l->kind == QN_J_LIST_GENERATOR)
        return add_z(r, t, "<generator object>", data);
    if (l->kind == QN_J_LIST_VIEW)
        (void)snprintf(head, sizeof(head), "%s([", l->name);
    if (l->kind != QN_J_LIST_PLAIN)
        tail = l->kind == QN_J_LIST_VIEW ? "])" : l->n == 1 ? ",)" : ")";
    if (!add_z(r, t, l->kind == QN_J_LIST_TUPLE ? "(" : head, data))
        return false;
    for (size_t i = 0; i < l->n; i++)
        if ((i && !add_z(r, t, ", ", data)) || !add_repr(r, t, &l->items[i]))
            return false;
    return add_z(r, t, tail, data);
}

static bool add_dict_repr(qn_jrun *r, qn_jtext *t, qn_jdict *d, bool is_namespace, bool data)
{
    if (!qn_jdict_unpack(r, d) || !add_z(r, t, is_namespace ? "<Namespace {" : "{", data))
        return false;
    for (size_t i = 0; i < d->n; i++)
        if ((i && !add_z(r, t, ", ", data)) || !add_repr(r, t, &d->entries[i].key) ||
            !add_z(r, t, ": ", data) || !add_repr(r, t, &d->entries[i].value))
            return false;
    return add_z(r, t, is_namespace ? "}>" : "}", data);
}

static bool add_scalar(qn_jrun *r, qn_jtext *t, const qn_jvalue *v)
{
    char buf[64];
    switch (v->type) {
    case QN_J_NONE:
        return add_z(r, t, "None", v->data);
    case QN_J_BOOL:
        return add_z(r, t, v->u.b ? "True" : "False", v->data);
    case QN_J_BIG_INT:
        return qn_jtext_add(r, t, v->u.s->p, v->u.s->n, v->data);
    case QN_J_INT:
    case QN_J_FLOAT:
        return add_number(r, t, v);
    default:
        (void)snprintf(buf, sizeof(buf), "<%s>", qn_jvalue_type_name(v));
        return add_z(r, t, buf, false);
    }
}

static bool add_repr(qn_jrun *r, qn_jtext *t, const qn_jvalue *v)
{
    if (v->type == QN_J_STRING)
        return add_string_repr(r, t, v);
    if (v->type == QN_J_UNDEFINED)
        return add_z(r, t, "Undefined", false);
    if (v->type != QN_J_LIST && v->type != QN_J_DICT && v->type != QN_J_NAMESPACE)
        return add_scalar(r, t, v);
    bool ok =
        qn_jrun_enter(r) &&
        (v->type == QN_J_LIST ? add_list_repr(r, t, v->u.l, v->data)
                              : add_dict_repr(r, t, v->u.d, v->type == QN_J_NAMESPACE, v->data));
    r->depth--;
    return ok;
}

bool qn_jtext_add_value(qn_jrun *r, qn_jtext *t, const qn_jvalue *v)
{
    if (v->type == QN_J_STRING)
        return qn_jtext_add_part(r, t, v, 0, v->u.s->n);
    if (v->type == QN_J_UNDEFINED || v->type == QN_J_MISSING)
        return true;
    return add_repr(r, t, v);
}

bool qn_jvalue_str(qn_jrun *r, const qn_jvalue *v, qn_jvalue *out)
{
    qn_jtext t = {0};
    if (v->type == QN_J_STRING) {
        *out = *v;
        return true;
    }
    return qn_jtext_add_value(r, &t, v) && qn_jtext_value(r, &t, out);
}

/* ---- JSON ---- */

static bool add_json_string(qn_jrun *r, qn_jtext *t, const qn_jvalue *v, bool ascii)
{
    const qn_jstring *s = v->u.s;
    bool data = qn_jvalue_is_data(v);
    size_t plain = 0; /* begin of the bytes that need no escape */
    if (!add_z(r, t, "\"", data))
        return false;
    for (size_t i = 0, n; i < s->n; i += n) {
        static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
        uint32_t cp = (unsigned char)s->p[i];
        char buf[16];
        n = 1;
        if (cp >= 0x80) {
            n = QN_MAX(qn_utf8_decode(s->p + i, s->n - i, &cp), 1);
            if (!ascii)
                continue;
        }
        const char *known = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
        if (known)
            (void)snprintf(buf, sizeof(buf), "\\%c", to[known - from]);
        else if (cp >= 0x10000)
            (void)snprintf(buf, sizeof(buf), "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                           0xdc00 + (cp & 0x3ff));
        else if (cp < 0x20 || cp >= 0x80)
            (void)snprintf(buf, sizeof(buf), "\\u%04x", cp);
        else
            continue;
        if (!qn_jtext_add(r, t, s->p + plain, i - plain, data) || !add_z(r, t, buf, data))
            return false;
        plain = i + n;
    }
    return qn_jtext_add(r, t, s->p + plain, s->n - plain, data) && add_z(r, t, "\"", data);
}

static bool add_json_scalar(qn_jrun *r, qn_jtext *t, const qn_jvalue *v)
{
    if (v->type == QN_J_NONE)
        return add_z(r, t, "null", v->data);
    if (v->type == QN_J_BOOL)
        return add_z(r, t, v->u.b ? "true" : "false", v->data);
    if (v->type == QN_J_FLOAT && !isfinite(v->u.f))
        return add_z(r, t, isnan(v->u.f) ? "NaN" : v->u.f < 0 ? "-Infinity" : "Infinity", v->data);
    if (v->type == QN_J_INT || v->type == QN_J_FLOAT)
        return add_number(r, t, v);
    if (v->type == QN_J_BIG_INT)
        return qn_jtext_add(r, t, v->u.s->p, v->u.s->n, v->data);
    return qn_jrun_fail(r, "Object of type %s is not JSON serializable", qn_jvalue_type_name(v));
}

static bool add_json_key(qn_jrun *r, qn_jtext *t, const qn_jvalue *key, bool ascii)
{
    bool data = key->data;
    if (key->type == QN_J_STRING)
        return add_json_string(r, t, key, ascii);
    return add_z(r, t, "\"", data) && add_json_scalar(r, t, key) && add_z(r, t, "\"", data);
}

static bool add_json_break(qn_jrun *r, qn_jtext *t, const qn_jjson_style *style, int level,
                           bool data)
{
    if (!style->indent.p)
        return true;
    if (!add_z(r, t, "\n", data))
        return false;
    for (int i = 0; i < level; i++)
        if (!qn_jtext_add(r, t, style->indent.p, style->indent.n, data))
            return false;
    return true;
}

/* Entries sorted by key, into a new array. */
static bool sort_entries(qn_jrun *r, const qn_jdict *d, const qn_jentry **out)
{
    qn_jvalue keys;
    qn_jentry *sorted = qn_jrun_alloc(r, d->n, sizeof(*sorted));
    if (!sorted || !qn_jvalue_list(r, QN_J_LIST_PLAIN, d->n, &keys))
        return false;
    for (size_t i = 0; i < d->n; i++)
        keys.u.l->items[i] = d->entries[i].key;
    uint32_t *order = qn_jrun_alloc(r, d->n, sizeof(*order));
    if (!order || !qn_jvalue_sort(r, keys.u.l->items, d->n, false, order))
        return false;
    for (size_t i = 0; i < d->n; i++)
        sorted[i] = d->entries[order[i]];
    *out = sorted;
    return true;
}

static bool add_json(qn_jrun *r, qn_jtext *t, const qn_jvalue *v, const qn_jjson_style *style,
                     int level);

static bool add_json_dict(qn_jrun *r, qn_jtext *t, const qn_jvalue *v, const qn_jjson_style *style,
                          int level)
{
    qn_jdict *d = v->u.d;
    bool data = v->data;
    if (!qn_jdict_unpack(r, d))
        return false;
    if (d->n == 0)
        return add_z(r, t, "{}", data);
    const qn_jentry *e = d->entries;
    if ((style->sort && !sort_entries(r, d, &e)) || !add_z(r, t, "{", data))
        return false;
    for (size_t i = 0; i < d->n; i++) {
        if ((i && !qn_jtext_add(r, t, style->item_sep.p, style->item_sep.n, data)) ||
            !add_json_break(r, t, style, level + 1, data) ||
            !add_json_key(r, t, &e[i].key, style->ascii) ||
            !qn_jtext_add(r, t, style->key_sep.p, style->key_sep.n, data) ||
            !add_json(r, t, &e[i].value, style, level + 1))
            return false;
    }
    return add_json_break(r, t, style, level, data) && add_z(r, t, "}", data);
}

static bool add_json_list(qn_jrun *r, qn_jtext *t, const qn_jvalue *v, const qn_jjson_style *style,
                          int level)
{
    qn_jlist *l = v->u.l;
    bool data = v->data;
    if (l->kind > QN_J_LIST_TUPLE)
        return qn_jrun_fail(r, "Object of type %s is not JSON serializable",
                            qn_jvalue_type_name(v));
    if (!qn_jlist_unpack(r, l))
        return false;
    if (l->n == 0)
        return add_z(r, t, "[]", data);
    if (!add_z(r, t, "[", data))
        return false;
    for (size_t i = 0; i < l->n; i++) {
        if ((i && !qn_jtext_add(r, t, style->item_sep.p, style->item_sep.n, data)) ||
            !add_json_break(r, t, style, level + 1, data) ||
            !add_json(r, t, &l->items[i], style, level + 1))
            return false;
    }
    return add_json_break(r, t, style, level, data) && add_z(r, t, "]", data);
}

static bool add_json(qn_jrun *r, qn_jtext *t, const qn_jvalue *v, const qn_jjson_style *style,
                     int level)
{
    if (v->type == QN_J_STRING)
        return add_json_string(r, t, v, style->ascii);
    if (v->type != QN_J_LIST && v->type != QN_J_DICT)
        return add_json_scalar(r, t, v);
    bool ok = qn_jrun_enter(r) && (v->type == QN_J_LIST ? add_json_list(r, t, v, style, level)
                                                        : add_json_dict(r, t, v, style, level));
    r->depth--;
    return ok;
}

bool qn_jtext_add_json(qn_jrun *r, qn_jtext *t, const qn_jvalue *v, const qn_jjson_style *style)
{
    return add_json(r, t, v, style, 0);
}
