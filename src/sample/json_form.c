/* SPDX-License-Identifier: Apache-2.0
 * json_form.c - JSON's grammar as expressions. */
#include "sample/json_form.h"

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

qn_form_id qn_form_pair(qn_form *f, qn_form_id a, qn_form_id b)
{
    return qn_form_seq(f, (qn_form_id[]){a, b}, 2);
}

qn_form_id qn_form_either(qn_form *f, qn_form_id a, qn_form_id b)
{
    return qn_form_alt(f, (qn_form_id[]){a, b}, 2);
}

qn_form_id qn_form_maybe(qn_form *f, qn_form_id a)
{
    return qn_form_repeat(f, a, 0, 1);
}

static qn_form_id literal(qn_form *f, const char *z)
{
    return qn_form_bytes(f, z, strlen(z));
}

/* ---- characters ---- */

/* How a character that may not stand as it is is written: its shortest escape. 0: as it is. */
static size_t escape_of(uint32_t c, char out[8])
{
    static const char letters[] = "\b\f\n\r\t\"\\", names[] = "bfnrt\"\\";
    const char *p = c && c < 0x80 ? strchr(letters, (int)c) : NULL;
    if (p)
        return (size_t)snprintf(out, 8, "\\%c", names[p - letters]);
    return c < 0x20 ? (size_t)snprintf(out, 8, "\\u%04x", c) : 0;
}

qn_form_id qn_json_chars(qn_form *f, const qn_char_range *r, size_t n)
{
    static const qn_char_range plain[] = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0x10ffff}};
    qn_char_range raw[256];
    qn_form_id parts[0x22 + 2];
    size_t n_parts = 0, n_raw = 0;
    char text[8];
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < QN_COUNT(plain); k++) {
            qn_char_range both = {QN_MAX(r[i].first, plain[k].first),
                                  QN_MIN(r[i].last, plain[k].last)};
            if (both.first <= both.last)
                raw[n_raw++] = both;
        }
        if (n_raw && (i + 1 == n || n_raw + QN_COUNT(plain) > QN_COUNT(raw))) {
            qn_form_id chars = qn_form_chars(f, raw, n_raw, false);
            parts[0] = n_parts ? qn_form_either(f, parts[0], chars) : chars;
            n_parts = 1;
            n_raw = 0;
        }
    }
    for (uint32_t c = 0; c <= '\\'; c++)
        for (size_t i = 0; i < n && escape_of(c, text); i++)
            if (r[i].first <= c && c <= r[i].last) {
                parts[n_parts++] = literal(f, text);
                break;
            }
    return n_parts == 1 ? parts[0] : qn_form_alt(f, parts, n_parts);
}

/* In pieces, so that no memory is needed but the form's. */
qn_form_id qn_json_text(qn_form *f, const char *p, size_t n)
{
    char piece[512] = "";
    size_t used = 0, k;
    qn_form_id before = 0;
    for (size_t i = 0; i < n; i++) {
        if (used + 8 > sizeof piece) {
            qn_form_id part = qn_form_bytes(f, piece, used);
            before = before ? qn_form_pair(f, before, part) : part;
            used = 0;
        }
        k = escape_of((unsigned char)p[i], piece + used);
        if (!k)
            piece[used] = p[i];
        used += k ? k : 1;
    }
    qn_form_id last = qn_form_bytes(f, piece, used);
    return before ? qn_form_pair(f, before, last) : last;
}

/* Any character, in any way that JSON has; surrogates only as pairs. */
static qn_form_id free_char(qn_form *f)
{
    static const qn_char_range plain[] = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0x10ffff}};
    static const qn_char_range hex[] = {{'0', '9'}, {'A', 'F'}, {'a', 'f'}};
    static const qn_char_range not_d[] = {
        {'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}};
    static const qn_char_range d[] = {{'D', 'D'}, {'d', 'd'}}, low[] = {{'0', '7'}};
    static const qn_char_range high[] = {{'8', '9'}, {'A', 'B'}, {'a', 'b'}};
    static const qn_char_range lower[] = {{'C', 'F'}, {'c', 'f'}};
    static const qn_char_range named[] = {{'"', '"'}, {'/', '/'}, {'\\', '\\'}, {'b', 'b'},
                                          {'f', 'f'}, {'n', 'n'}, {'r', 'r'},   {'t', 't'}};
    qn_form_id h = qn_form_chars(f, hex, QN_COUNT(hex), false), u = literal(f, "u");
    qn_form_id first_d = qn_form_chars(f, d, QN_COUNT(d), false);
    qn_form_id one[] = {u, qn_form_chars(f, not_d, QN_COUNT(not_d), false), h, h, h};
    qn_form_id one_d[] = {u, first_d, qn_form_chars(f, low, QN_COUNT(low), false), h, h};
    qn_form_id pair[] = {u,
                         first_d,
                         qn_form_chars(f, high, QN_COUNT(high), false),
                         h,
                         h,
                         literal(f, "\\u"),
                         first_d,
                         qn_form_chars(f, lower, QN_COUNT(lower), false),
                         h,
                         h};
    qn_form_id escaped[] = {
        qn_form_chars(f, named, QN_COUNT(named), false), qn_form_seq(f, one, QN_COUNT(one)),
        qn_form_seq(f, one_d, QN_COUNT(one_d)), qn_form_seq(f, pair, QN_COUNT(pair))};
    return qn_form_either(
        f, qn_form_chars(f, plain, QN_COUNT(plain), false),
        qn_form_pair(f, literal(f, "\\"), qn_form_alt(f, escaped, QN_COUNT(escaped))));
}

/* ---- values ---- */

/* Bounded, so that an answer cannot end in digits without end: 18 of an integer, which 64 bits hold; 20 behind the point;
 * an exponent of two. */
static void numbers(qn_json_forms *j)
{
    qn_form *f = j->f;
    qn_form_id digit = qn_form_chars(f, &(qn_char_range){'0', '9'}, 1, false);
    qn_form_id first = qn_form_chars(f, &(qn_char_range){'1', '9'}, 1, false);
    qn_form_id zero = literal(f, "0"), minus = qn_form_maybe(f, literal(f, "-"));
    qn_form_id some = qn_form_pair(f, first, qn_form_repeat(f, digit, 0, 17));
    qn_form_id fraction = qn_form_pair(f, literal(f, "."), qn_form_repeat(f, digit, 1, 20));
    qn_form_id sign[] = {literal(f, "+"), literal(f, "-"), j->empty};
    qn_form_id e[] = {qn_form_either(f, literal(f, "e"), literal(f, "E")), qn_form_alt(f, sign, 3),
                      qn_form_repeat(f, digit, 1, 2)};
    qn_form_id all[] = {minus, qn_form_either(f, zero, some), qn_form_maybe(f, fraction),
                        qn_form_maybe(f, qn_form_seq(f, e, 3))};
    j->integer = qn_form_either(f, zero, qn_form_pair(f, minus, some));
    j->number = qn_form_seq(f, all, QN_COUNT(all));
}

void qn_json_forms_init(qn_json_forms *j, qn_form *f, bool is_compact)
{
    static const qn_char_range all = {0, 0x10ffff};
    *j = (qn_json_forms){.f = f};
    j->nothing = qn_form_alt(f, NULL, 0);
    j->empty = qn_form_bytes(f, "", 0);
    j->space = is_compact ? j->empty : qn_form_maybe(f, literal(f, " "));
    j->quote = literal(f, "\"");
    j->comma = qn_form_pair(f, literal(f, ","), j->space);
    j->colon = qn_form_pair(f, literal(f, ":"), j->space);
    j->free_char = free_char(f);
    j->char_ = qn_json_chars(f, &all, 1);
    j->free_text = qn_form_repeat(f, j->free_char, 0, QN_FORM_ENDLESS);
    j->text = qn_form_repeat(f, j->char_, 0, QN_FORM_ENDLESS);
    j->string = qn_form_seq(f, (qn_form_id[]){j->quote, j->free_text, j->quote}, 3);
    numbers(j);
    j->value = qn_form_rule(f);
    qn_form_id member = qn_form_seq(f, (qn_form_id[]){j->string, j->colon, j->value}, 3);
    qn_form_id members = qn_form_pair(f, member, qn_json_more(j, member, 0, QN_FORM_ENDLESS));
    qn_form_id items = qn_form_pair(f, j->value, qn_json_more(j, j->value, 0, QN_FORM_ENDLESS));
    j->object = qn_form_seq(
        f, (qn_form_id[]){literal(f, "{"), qn_form_maybe(f, members), literal(f, "}")}, 3);
    j->array = qn_form_seq(
        f, (qn_form_id[]){literal(f, "["), qn_form_maybe(f, items), literal(f, "]")}, 3);
    qn_form_id any[] = {j->object,         j->array,           j->string,
                        j->number,         literal(f, "true"), literal(f, "false"),
                        literal(f, "null")};
    qn_form_define(f, j->value, qn_form_alt(f, any, QN_COUNT(any)));
}

/* Within bounds the item comes with the comma behind it, and so no text of what is repeated begins another one: 1, does not begin
 * 12, although 1 begins 12. */
qn_form_id qn_json_more(qn_json_forms *j, qn_form_id item, uint32_t min, uint32_t max)
{
    qn_form *f = j->f;
    if (max == 0)
        return min ? j->nothing : j->empty;
    if (max == QN_FORM_ENDLESS && min < 2)
        return qn_form_repeat(f, qn_form_pair(f, j->comma, item), min, max);
    qn_form_id comma = literal(f, ",");
    qn_form_id again[] = {j->space, item, comma};
    uint32_t fewest = min ? min - 1 : 0, most = max == QN_FORM_ENDLESS ? max : max - 1;
    qn_form_id all[] = {comma, qn_form_repeat(f, qn_form_seq(f, again, 3), fewest, most), j->space,
                        item};
    qn_form_id some = qn_form_seq(f, all, QN_COUNT(all));
    return min ? some : qn_form_maybe(f, some);
}

/* ---- one value ---- */

qn_form_id qn_json_quoted(qn_json_forms *j, const char *p, size_t n)
{
    qn_form_id parts[] = {j->quote, qn_json_text(j->f, p, n), j->quote};
    return qn_form_seq(j->f, parts, 3);
}

/* Where in an array or object we are; `first` is where its parts begin among those that wait. */
typedef struct level {
    const json_t *v;
    size_t i, first;
    void *member;
} level;

static size_t size_of(const json_t *v)
{
    return json_is_object(v) ? json_object_size(v) : json_array_size(v);
}

static qn_form_id scalar(qn_json_forms *j, const json_t *v)
{
    char text[48];
    switch (json_typeof(v)) {
    case JSON_STRING:
        return qn_json_quoted(j, json_string_value(v), json_string_length(v));
    case JSON_INTEGER:
        (void)snprintf(text, sizeof text, "%lld", (long long)json_integer_value(v));
        return literal(j->f, text);
    case JSON_REAL: /* 2.0 as 2: some readers take only that for an integer */
        if (fabs(json_real_value(v)) < 1e15 && json_real_value(v) == floor(json_real_value(v))) {
            (void)snprintf(text, sizeof text, "%.0f", json_real_value(v) + 0.0);
            return literal(j->f, text);
        }
        return qn_form_bytes(j->f, text, qn_format_f64(text, json_real_value(v)));
    default:
        return literal(j->f, json_is_null(v) ? "null" : json_is_true(v) ? "true" : "false");
    }
}

qn_status qn_json_exactly(qn_json_forms *j, const json_t *v, qn_form_id *out, qn_err *err)
{
    level stack[QN_LIMIT_JSON_DEPTH + 1];
    qn_form_id *parts = NULL;
    size_t n = 0, cap = 0, depth = 0;
    for (;;) {
        if (!qn_grow(&parts, &cap, n + 4, sizeof *parts, QN_MEM_REQUEST)) {
            qn_free(parts);
            return qn_fail_nomem(err, (n + 4) * sizeof *parts);
        }
        if (json_is_object(v) || json_is_array(v)) {
            QN_ASSERT(depth < QN_COUNT(stack));
            stack[depth++] = (level){v, 0, n, NULL};
            parts[n++] = literal(j->f, json_is_object(v) ? "{" : "[");
        } else {
            parts[n++] = scalar(j, v);
        }
        while (depth && stack[depth - 1].i == size_of(stack[depth - 1].v)) {
            level *at = &stack[--depth];
            parts[n++] = literal(j->f, json_is_object(at->v) ? "}" : "]");
            parts[at->first] = qn_form_seq(j->f, parts + at->first, n - at->first);
            n = at->first + 1;
        }
        if (!depth)
            break;
        level *at = &stack[depth - 1];
        if (at->i)
            parts[n++] = j->comma;
        if (json_is_object(at->v)) {
            json_t *o = (json_t *)at->v;
            at->member = at->i ? json_object_iter_next(o, at->member) : json_object_iter(o);
            const char *key = json_object_iter_key(at->member);
            qn_form_id name = qn_json_quoted(j, key, json_object_iter_key_len(at->member));
            parts[n++] = qn_form_pair(j->f, name, j->colon);
            v = json_object_iter_value(at->member);
        } else {
            v = json_array_get(at->v, at->i);
        }
        at->i++;
    }
    *out = parts[0];
    qn_free(parts);
    return QN_OK;
}
