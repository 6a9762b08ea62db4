/* SPDX-License-Identifier: Apache-2.0
 * jinja_string.c - Python's string methods, keeping track of where each piece came from.
 *
 * Pieces (strip, split, slices, join, replace) keep the origin of their bytes; a changed letter is
 * data as soon as any of the string is. Source: CPython's str methods. */
#include "text/jinja_ast.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

bool qn_jchar_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static qn_slice bytes_of(const qn_jvalue *v)
{
    return (qn_slice){v->u.s->p, v->u.s->n};
}

/* Where `what` first stands in s from `from` on (an empty one: at once); SIZE_MAX: nowhere. In
 * pieces, because a sanitizer looks at all bytes that memmem is given. */
static size_t find(qn_slice s, qn_slice what, size_t from)
{
    if (what.n == 0)
        return from <= s.n ? from : SIZE_MAX;
    size_t piece = QN_MAX(1024, 2 * what.n);
    while (from < s.n && what.n <= s.n - from) {
        const char *first = memchr(s.p + from, what.p[0], s.n - what.n + 1 - from);
        if (!first)
            break;
        from = (size_t)(first - s.p);
        size_t n = QN_MIN(s.n - from, piece + what.n - 1);
        const char *at = memmem(first, n, what.p, what.n);
        if (at)
            return (size_t)(at - s.p);
        from += n - what.n + 1;
    }
    return SIZE_MAX;
}

/* The last place before `end` (where it must be over); SIZE_MAX: nowhere. */
static size_t find_last(qn_slice s, qn_slice what, size_t end)
{
    for (size_t i = end; i-- > 0;)
        if (i + what.n <= end && memcmp(s.p + i, what.p, what.n) == 0)
            return i;
    return SIZE_MAX;
}

/* Pays for find_last, which may compare all of `what` at every place. */
static bool spend_backwards(qn_jrun *r, qn_slice s, size_t n_what)
{
    return qn_jrun_spend(r, s.n / 64 * n_what);
}

/* ---- case ---- */

static bool is_cased(uint32_t cp)
{
    int32_t c = (int32_t)cp;
    return utf8proc_toupper(c) != c || utf8proc_tolower(c) != c;
}

/* title: after a letter without case comes a capital (str.title); words: after a separator (jinja's
 * filter). */
bool qn_jstring_case(qn_jrun *r, const qn_jvalue *v, qn_jcase how, qn_jvalue *out)
{
    const qn_jstring *s = v->u.s;
    bool data = qn_jvalue_is_data(v), first = true;
    qn_jtext t = {0};
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t cp;
        n = QN_MAX(qn_utf8_decode(s->p + i, s->n - i, &cp), 1);
        bool is_upper = utf8proc_tolower((int32_t)cp) != (int32_t)cp;
        bool up = how == QN_J_UPPER || (how == QN_J_SWAP ? !is_upper : how != QN_J_LOWER && first);
        char buf[8];
        size_t n_buf = 2;
        if (up && cp == 0xdf)
            memcpy(buf, how == QN_J_UPPER || how == QN_J_SWAP ? "SS" : "Ss", 2);
        else
            n_buf = qn_utf8_encode(buf, (uint32_t)(up ? utf8proc_toupper((int32_t)cp)
                                                      : utf8proc_tolower((int32_t)cp)));
        if (!qn_jtext_add(r, &t, buf, n_buf, data))
            return false;
        if (how == QN_J_TITLE)
            first = !is_cased(cp);
        else if (how == QN_J_WORDS)
            first = qn_jchar_is_space(cp) || (cp < 0x80 && cp && strchr("-({[<", (int)cp));
        else
            first = false;
    }
    return qn_jtext_value(r, &t, out);
}

/* ---- strip, replace, join ---- */

static bool strips(uint32_t cp, const qn_jstring *chars)
{
    if (!chars)
        return qn_jchar_is_space(cp);
    for (size_t i = 0, n; i < chars->n; i += n) {
        uint32_t c;
        n = QN_MAX(qn_utf8_decode(chars->p + i, chars->n - i, &c), 1);
        if (c == cp)
            return true;
    }
    return false;
}

bool qn_jstring_strip(qn_jrun *r, const qn_jvalue *v, const qn_jvalue *chars, bool left, bool right,
                      qn_jvalue *out)
{
    const qn_jstring *s = v->u.s, *set = NULL;
    size_t begin = 0, end = s->n, n_set = 1;
    uint32_t cp;
    if (chars && chars->type != QN_J_MISSING && chars->type != QN_J_NONE) {
        if (!qn_jargs_string(r, "strip", chars))
            return false;
        set = chars->u.s;
        n_set = set->n + 1;
    }
    while (left && begin < end) {
        size_t n = QN_MAX(qn_utf8_decode(s->p + begin, end - begin, &cp), 1);
        if (!qn_jrun_spend(r, n_set / 16) || !strips(cp, set))
            break;
        begin += n;
    }
    while (right && end > begin) {
        size_t at = end - 1;
        while (at > begin && (s->p[at] & 0xc0) == 0x80)
            at--;
        qn_utf8_decode(s->p + at, end - at, &cp);
        if (!qn_jrun_spend(r, n_set / 16) || !strips(cp, set))
            break;
        end = at;
    }
    return qn_jrun_spend_bytes(r, s->n - (end - begin)) && qn_jstring_part(r, v, begin, end, out);
}

bool qn_jstring_replace(qn_jrun *r, const qn_jvalue *v, const qn_jvalue *old,
                        const qn_jvalue *fresh, int64_t count, qn_jvalue *out)
{
    qn_slice s = bytes_of(v), what = bytes_of(old);
    qn_jtext t = {0};
    size_t done = 0, from = 0;
    if (!qn_jrun_spend_bytes(r, s.n))
        return false;
    for (; count != 0; count--) {
        size_t at = find(s, what, from);
        if (at == SIZE_MAX)
            break;
        if (!qn_jtext_add_part(r, &t, v, done, at) ||
            !qn_jtext_add_part(r, &t, fresh, 0, fresh->u.s->n) || !qn_jrun_spend(r, 1))
            return false;
        done = from = at + what.n;
        if (what.n == 0) { /* between all characters */
            if (at == s.n)
                break;
            for (from = at + 1; from < s.n && (s.p[from] & 0xc0) == 0x80;)
                from++;
        }
    }
    return qn_jtext_add_part(r, &t, v, done, s.n) && qn_jtext_value(r, &t, out);
}

bool qn_jstring_join(qn_jrun *r, const qn_jvalue *between, const qn_jlist *l, bool strict,
                     qn_jvalue *out)
{
    qn_jtext t = {0};
    for (size_t i = 0; i < l->n; i++) {
        if (strict && l->items[i].type != QN_J_STRING)
            return qn_jrun_fail(r, "sequence item %zu: expected str instance, %s found", i,
                                qn_jvalue_type_name(&l->items[i]));
        if (!qn_jrun_spend(r, 1) || (i && !qn_jtext_add_value(r, &t, between)) ||
            !qn_jtext_add_value(r, &t, &l->items[i]))
            return false;
    }
    return qn_jtext_value(r, &t, out);
}

/* ---- split ---- */

typedef struct pieces {
    size_t (*at)[2];
    size_t n, cap;
} pieces;

static bool add_piece(qn_jrun *r, pieces *p, size_t begin, size_t end)
{
    if (p->n == p->cap) {
        size_t cap = p->cap * 2 + 8;
        void *at = qn_jrun_alloc(r, cap, sizeof(*p->at));
        if (!at)
            return false;
        if (p->n)
            memcpy(at, p->at, p->n * sizeof(*p->at));
        p->at = at;
        p->cap = cap;
    }
    p->at[p->n][0] = begin;
    p->at[p->n++][1] = end;
    return qn_jrun_spend(r, 1);
}

static bool list_pieces(qn_jrun *r, const qn_jvalue *v, const pieces *p, bool backwards,
                        qn_jvalue *out)
{
    if (!qn_jvalue_list(r, QN_J_LIST_PLAIN, p->n, out))
        return false;
    for (size_t i = 0; i < p->n; i++) {
        const size_t *at = p->at[backwards ? p->n - 1 - i : i];
        if (!qn_jstring_part(r, v, at[0], at[1], &out->u.l->items[i]))
            return false;
    }
    return true;
}

static size_t space_before(qn_slice s, size_t end)
{
    size_t at = end;
    uint32_t cp;
    if (at == 0)
        return 0;
    do
        at--;
    while (at > 0 && (s.p[at] & 0xc0) == 0x80);
    qn_utf8_decode(s.p + at, end - at, &cp);
    return qn_jchar_is_space(cp) ? end - at : 0;
}

static size_t space_after(qn_slice s, size_t at)
{
    uint32_t cp;
    size_t n = at < s.n ? QN_MAX(qn_utf8_decode(s.p + at, s.n - at, &cp), 1) : 0;
    return n && qn_jchar_is_space(cp) ? n : 0;
}

static bool split_words(qn_jrun *r, const qn_jvalue *v, int64_t max, bool right, qn_jvalue *out)
{
    qn_slice s = bytes_of(v);
    pieces p = {0};
    size_t begin = 0, end = s.n, n;
    for (;;) {
        while (begin < end && (n = space_after(s, begin)) > 0)
            begin += n;
        while (begin < end && (n = space_before(s, end)) > 0)
            end -= n;
        if (begin >= end)
            break;
        size_t from = right ? end : begin;
        if (max-- == 0) {
            /* the rest, which keeps the space at its far side */
            if (!add_piece(r, &p, right ? 0 : begin, right ? end : s.n))
                return false;
            break;
        }
        if (right) {
            while (from > begin && !space_before(s, from))
                from--;
            if (!add_piece(r, &p, from, end))
                return false;
            end = from;
        } else {
            while (from < end && !space_after(s, from))
                from++;
            if (!add_piece(r, &p, begin, from))
                return false;
            begin = from;
        }
    }
    return list_pieces(r, v, &p, right, out);
}

static bool split(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, bool right, qn_jvalue *out)
{
    qn_jvalue arg[2];
    int64_t max;
    qn_slice s = bytes_of(v), sep;
    pieces p = {0};
    if (!qn_jargs_bind(r, "split", "sep maxsplit", 0, a, arg) ||
        !qn_jargs_int(r, "split", &arg[1], -1, &max) || !qn_jrun_spend_bytes(r, s.n))
        return false;
    if (arg[0].type == QN_J_MISSING || arg[0].type == QN_J_NONE)
        return split_words(r, v, max, right, out);
    if (!qn_jargs_string(r, "split", &arg[0]))
        return false;
    sep = bytes_of(&arg[0]);
    if (sep.n == 0)
        return qn_jrun_fail(r, "split: empty separator");
    size_t begin = 0, end = s.n;
    if (right && !spend_backwards(r, s, sep.n))
        return false;
    for (; max != 0; max--) {
        size_t at = right ? find_last(s, sep, end) : find(s, sep, begin);
        if (at == SIZE_MAX)
            break;
        if (!add_piece(r, &p, right ? at + sep.n : begin, right ? end : at))
            return false;
        begin = right ? 0 : at + sep.n;
        end = right ? at : s.n;
    }
    return add_piece(r, &p, begin, end) && list_pieces(r, v, &p, right, out);
}

static bool split_lines(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, qn_jvalue *out)
{
    qn_jvalue keep;
    qn_slice s = bytes_of(v);
    pieces p = {0};
    if (!qn_jargs_bind(r, "splitlines", "keepends", 0, a, &keep) || !qn_jrun_spend_bytes(r, s.n))
        return false;
    for (size_t begin = 0, at = 0; at < s.n;) {
        uint32_t cp;
        size_t n = QN_MAX(qn_utf8_decode(s.p + at, s.n - at, &cp), 1);
        bool is_end = (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 ||
                      cp == 0x2028 || cp == 0x2029;
        if (cp == '\r' && at + 1 < s.n && s.p[at + 1] == '\n')
            n = 2;
        at += n;
        if (!is_end && at < s.n)
            continue;
        if (!add_piece(r, &p, begin, is_end && !qn_jvalue_truth(&keep) ? at - n : at))
            return false;
        begin = at;
    }
    return list_pieces(r, v, &p, false, out);
}

static bool partition(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, bool right, qn_jvalue *out)
{
    qn_jvalue sep;
    qn_slice s = bytes_of(v);
    if (!qn_jargs_bind(r, "partition", "sep", 1, a, &sep) ||
        !qn_jargs_string(r, "partition", &sep) || !qn_jrun_spend_bytes(r, s.n))
        return false;
    if (sep.u.s->n == 0)
        return qn_jrun_fail(r, "partition: empty separator");
    if (right && !spend_backwards(r, s, sep.u.s->n))
        return false;
    size_t at = right ? find_last(s, bytes_of(&sep), s.n) : find(s, bytes_of(&sep), 0);
    size_t cut[4] = {0, s.n, s.n, s.n};
    if (at != SIZE_MAX) {
        cut[1] = at;
        cut[2] = at + sep.u.s->n;
    } else if (right) {
        cut[1] = cut[2] = 0;
    }
    if (!qn_jvalue_list(r, QN_J_LIST_TUPLE, 3, out))
        return false;
    for (int i = 0; i < 3; i++)
        if (!qn_jstring_part(r, v, cut[i], cut[i + 1], &out->u.l->items[i]))
            return false;
    return true;
}

/* ---- searching ---- */

/* The part of s that [start, end) names, in bytes, as slicing does; false in *ok where start is
 * past the end. */
static bool window(qn_jrun *r, const qn_jvalue *v, const qn_jvalue *bounds, size_t *begin,
                   size_t *end, bool *ok)
{
    int64_t n = (int64_t)qn_jstring_chars(v->u.s), b, e;
    if (!qn_jargs_int(r, "start", &bounds[0], 0, &b) ||
        !qn_jargs_int(r, "end", &bounds[1], n, &e) || !qn_jrun_spend_bytes(r, v->u.s->n))
        return false;
    b = b < 0 ? QN_MAX(b + n, 0) : b;
    e = e < 0 ? QN_MAX(e + n, 0) : QN_MIN(e, n);
    *ok = b <= n && b <= e;
    *begin = *ok ? qn_jstring_offset(v->u.s, (size_t)b) : 0;
    *end = *ok ? qn_jstring_offset(v->u.s, (size_t)e) : 0;
    return true;
}

static bool affix(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, bool at_end, qn_jvalue *out)
{
    const char *what = at_end ? "endswith" : "startswith";
    qn_jvalue arg[3], one;
    size_t begin, end;
    bool ok, found = false;
    if (!qn_jargs_bind(r, what, "affix start end", 1, a, arg) ||
        !window(r, v, &arg[1], &begin, &end, &ok))
        return false;
    qn_jlist single = {.n = 1, .items = &one}, *l = &single;
    one = arg[0];
    if (arg[0].type == QN_J_LIST && arg[0].u.l->kind == QN_J_LIST_TUPLE)
        l = arg[0].u.l;
    for (size_t i = 0; i < l->n && !found; i++) {
        if (!qn_jargs_string(r, what, &l->items[i]))
            return false;
        qn_slice x = bytes_of(&l->items[i]);
        found = ok && x.n <= end - begin &&
                (x.n == 0 || memcmp(v->u.s->p + (at_end ? end - x.n : begin), x.p, x.n) == 0);
    }
    *out = qn_jvalue_bool(found);
    return true;
}

static bool search(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, bool last, bool must,
                   qn_jvalue *out)
{
    qn_jvalue arg[3];
    size_t begin, end, at = SIZE_MAX;
    bool ok;
    if (!qn_jargs_bind(r, "find", "sub start end", 1, a, arg) ||
        !qn_jargs_string(r, "find", &arg[0]) || !window(r, v, &arg[1], &begin, &end, &ok))
        return false;
    qn_slice s = {v->u.s->p, end}, what = bytes_of(&arg[0]);
    if (last && !spend_backwards(r, s, what.n))
        return false;
    if (ok && last)
        at = what.n ? find_last(s, what, end) : end;
    else if (ok)
        at = find(s, what, begin);
    if (at == SIZE_MAX || at < begin) {
        *out = qn_jvalue_int(-1);
        return !must || qn_jrun_fail(r, "substring not found");
    }
    qn_jstring head = {.p = s.p, .n = at, .n_chars = SIZE_MAX};
    *out = qn_jvalue_int((int64_t)qn_jstring_chars(&head));
    return true;
}

static bool count(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, qn_jvalue *out)
{
    qn_jvalue arg[3];
    size_t begin, end, at;
    bool ok;
    int64_t n = 0;
    if (!qn_jargs_bind(r, "count", "sub start end", 1, a, arg) ||
        !qn_jargs_string(r, "count", &arg[0]) || !window(r, v, &arg[1], &begin, &end, &ok))
        return false;
    qn_slice s = {v->u.s->p, end}, what = bytes_of(&arg[0]);
    if (what.n == 0) {
        qn_jstring part = {.p = s.p + begin, .n = end - begin, .n_chars = SIZE_MAX};
        *out = qn_jvalue_int(ok ? (int64_t)qn_jstring_chars(&part) + 1 : 0);
        return true;
    }
    for (; ok && (at = find(s, what, begin)) != SIZE_MAX; n++)
        begin = at + what.n;
    *out = qn_jvalue_int(n);
    return true;
}

/* ---- questions about all characters ---- */

typedef enum char_class {
    IS_ALNUM,
    IS_ALPHA,
    IS_ASCII,
    IS_DIGIT,
    IS_LOWER,
    IS_UPPER,
    IS_SPACE,
    IS_TITLE
} char_class;

static bool is_alpha(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_numeric(uint32_t cp, bool digits_only)
{
    utf8proc_category_t c = utf8proc_category((int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND ||
           (!digits_only && (c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO));
}

static bool all_chars(const qn_jstring *s, char_class k)
{
    bool any_cased = false, was_cased = false;
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t cp;
        n = QN_MAX(qn_utf8_decode(s->p + i, s->n - i, &cp), 1);
        bool lower = utf8proc_toupper((int32_t)cp) != (int32_t)cp;
        bool upper = utf8proc_tolower((int32_t)cp) != (int32_t)cp;
        bool ok = true;
        switch (k) {
        case IS_ALNUM:
            ok = is_alpha(cp) || is_numeric(cp, false);
            break;
        case IS_ALPHA:
            ok = is_alpha(cp);
            break;
        case IS_ASCII:
            ok = cp < 0x80;
            break;
        case IS_DIGIT:
            ok = is_numeric(cp, true);
            break;
        case IS_SPACE:
            ok = qn_jchar_is_space(cp);
            break;
        case IS_LOWER:
            ok = !upper;
            break;
        case IS_UPPER:
            ok = !lower;
            break;
        case IS_TITLE:
            ok = was_cased ? !upper : !lower;
            break;
        }
        if (!ok)
            return false;
        was_cased = lower || upper;
        any_cased |= was_cased;
    }
    return k == IS_LOWER || k == IS_UPPER || k == IS_TITLE ? any_cased : s->n > 0 || k == IS_ASCII;
}

/* ---- repeating and padding ---- */

/* By doubling, so that the copies cost the bytes and not the count. */
bool qn_jstring_repeat(qn_jrun *r, const qn_jvalue *v, int64_t n, qn_jvalue *out)
{
    qn_jtext t = {0};
    qn_jvalue piece = *v;
    size_t total;
    if (v->u.s->n == 0)
        n = 0;
    if (n > 0 && (!qn_mul_size(v->u.s->n, (size_t)n, &total) || total > QN_LIMIT_TEMPLATE_OUTPUT))
        return qn_jrun_fail(r, "a text of more than %d bytes", QN_LIMIT_TEMPLATE_OUTPUT);
    while (n > 0) {
        if ((n & 1) && !qn_jtext_add_value(r, &t, &piece))
            return false;
        n >>= 1;
        qn_jtext twice = {0};
        if (n > 0 && (!qn_jtext_add_value(r, &twice, &piece) ||
                      !qn_jtext_add_value(r, &twice, &piece) || !qn_jtext_value(r, &twice, &piece)))
            return false;
    }
    return qn_jtext_value(r, &t, out);
}

static bool pad(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, int side, const char *fill_z,
                qn_jvalue *out)
{
    qn_jvalue arg[2], fill;
    int64_t width, n = (int64_t)qn_jstring_chars(v->u.s);
    qn_jtext t = {0};
    if (!qn_jargs_bind(r, "justify", "width fillchar", 1, a, arg) ||
        !qn_jargs_int(r, "width", &arg[0], 0, &width) || !qn_jvalue_literal(r, fill_z, &fill))
        return false;
    if (arg[1].type != QN_J_MISSING) {
        if (!qn_jargs_string(r, "fillchar", &arg[1]))
            return false;
        if (qn_jstring_chars(arg[1].u.s) != 1)
            return qn_jrun_fail(r, "the fill character must be exactly one character long");
        fill = arg[1];
    }
    int64_t total = QN_MAX(width - n, 0), left = total;
    if (side <= 0)
        left = side < 0 ? 0 : total / 2 + (total & width & 1);
    size_t sign = 0; /* zfill: zeros go after a sign */
    if (fill_z[0] == '0' && v->u.s->n && (v->u.s->p[0] == '-' || v->u.s->p[0] == '+'))
        sign = 1;
    qn_jvalue before, after;
    return qn_jstring_repeat(r, &fill, left, &before) &&
           qn_jstring_repeat(r, &fill, total - left, &after) &&
           qn_jtext_add_part(r, &t, v, 0, sign) && qn_jtext_add_value(r, &t, &before) &&
           qn_jtext_add_part(r, &t, v, sign, v->u.s->n) && qn_jtext_add_value(r, &t, &after) &&
           qn_jtext_value(r, &t, out);
}

/* ---- the table ---- */

enum {
    M_CAPITALIZE,
    M_CASEFOLD,
    M_CENTER,
    M_COUNT,
    M_ENDSWITH,
    M_FIND,
    M_INDEX,
    M_ISALNUM,
    M_ISALPHA,
    M_ISASCII,
    M_ISDECIMAL,
    M_ISDIGIT,
    M_ISLOWER,
    M_ISNUMERIC,
    M_ISSPACE,
    M_ISTITLE,
    M_ISUPPER,
    M_JOIN,
    M_LJUST,
    M_LOWER,
    M_LSTRIP,
    M_PARTITION,
    M_REMOVEPREFIX,
    M_REMOVESUFFIX,
    M_REPLACE,
    M_RFIND,
    M_RINDEX,
    M_RJUST,
    M_RPARTITION,
    M_RSPLIT,
    M_RSTRIP,
    M_SPLIT,
    M_SPLITLINES,
    M_STARTSWITH,
    M_STRIP,
    M_SWAPCASE,
    M_TITLE,
    M_UPPER,
    M_ZFILL,
    M_N
};

static const char *const method_names[M_N] = {
    "capitalize", "casefold",  "center",     "count",      "endswith",     "find",
    "index",      "isalnum",   "isalpha",    "isascii",    "isdecimal",    "isdigit",
    "islower",    "isnumeric", "isspace",    "istitle",    "isupper",      "join",
    "ljust",      "lower",     "lstrip",     "partition",  "removeprefix", "removesuffix",
    "replace",    "rfind",     "rindex",     "rjust",      "rpartition",   "rsplit",
    "rstrip",     "split",     "splitlines", "startswith", "strip",        "swapcase",
    "title",      "upper",     "zfill"};

int qn_jstring_method_find(qn_slice name)
{
    for (int i = 0; i < M_N; i++)
        if (qn_slice_is(name, method_names[i]))
            return i;
    return -1;
}

static bool call_replace(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, qn_jvalue *out)
{
    qn_jvalue arg[3];
    int64_t n;
    return qn_jargs_bind(r, "replace", "old new count", 2, a, arg) &&
           qn_jargs_string(r, "replace", &arg[0]) && qn_jargs_string(r, "replace", &arg[1]) &&
           qn_jargs_int(r, "replace", &arg[2], -1, &n) &&
           qn_jstring_replace(r, v, &arg[0], &arg[1], n, out);
}

static bool call_strip(qn_jrun *r, int id, const qn_jvalue *v, const qn_jargs *a, qn_jvalue *out)
{
    qn_jvalue chars;
    return qn_jargs_bind(r, method_names[id], "chars", 0, a, &chars) &&
           qn_jstring_strip(r, v, &chars, id != M_RSTRIP, id != M_LSTRIP, out);
}

static bool call_remove(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, bool at_end,
                        qn_jvalue *out)
{
    qn_jvalue arg, found;
    if (!qn_jargs_bind(r, "removeprefix", "affix", 1, a, &arg) ||
        !qn_jargs_string(r, "removeprefix", &arg) || !affix(r, v, a, at_end, &found))
        return false;
    size_t cut = found.u.b ? arg.u.s->n : 0;
    return qn_jstring_part(r, v, at_end ? 0 : cut, at_end ? v->u.s->n - cut : v->u.s->n, out);
}

static bool call_join(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, qn_jvalue *out)
{
    qn_jvalue arg;
    qn_jlist *l;
    return qn_jargs_bind(r, "join", "iterable", 1, a, &arg) && qn_jvalue_iterate(r, &arg, &l) &&
           qn_jstring_join(r, v, l, true, out);
}

static bool call_class(qn_jrun *r, int id, const qn_jvalue *v, const qn_jargs *a, qn_jvalue *out)
{
    static const uint8_t classes[] = {
        [M_ISALNUM] = IS_ALNUM,   [M_ISALPHA] = IS_ALPHA, [M_ISASCII] = IS_ASCII,
        [M_ISDECIMAL] = IS_DIGIT, [M_ISDIGIT] = IS_DIGIT, [M_ISNUMERIC] = IS_DIGIT,
        [M_ISLOWER] = IS_LOWER,   [M_ISUPPER] = IS_UPPER, [M_ISSPACE] = IS_SPACE,
        [M_ISTITLE] = IS_TITLE};
    if (!qn_jargs_bind(r, method_names[id], "", 0, a, NULL) || !qn_jrun_spend_bytes(r, v->u.s->n))
        return false;
    *out = qn_jvalue_bool(all_chars(v->u.s, classes[id]));
    return true;
}

static bool call_case(qn_jrun *r, int id, const qn_jvalue *v, const qn_jargs *a, qn_jvalue *out)
{
    static const uint8_t cases[] = {
        [M_CAPITALIZE] = QN_J_CAPITALIZE, [M_CASEFOLD] = QN_J_LOWER, [M_LOWER] = QN_J_LOWER,
        [M_SWAPCASE] = QN_J_SWAP,         [M_TITLE] = QN_J_TITLE,    [M_UPPER] = QN_J_UPPER};
    return qn_jargs_bind(r, method_names[id], "", 0, a, NULL) &&
           qn_jstring_case(r, v, cases[id], out);
}

bool qn_jstring_method_call(qn_jrun *r, int id, const qn_jvalue *v, const qn_jargs *a,
                            qn_jvalue *out)
{
    switch (id) {
    case M_CENTER:
    case M_LJUST:
    case M_RJUST:
        return pad(r, v, a, id == M_CENTER ? 0 : id == M_LJUST ? -1 : 1, " ", out);
    case M_ZFILL:
        return pad(r, v, a, 1, "0", out);
    case M_COUNT:
        return count(r, v, a, out);
    case M_STARTSWITH:
    case M_ENDSWITH:
        return affix(r, v, a, id == M_ENDSWITH, out);
    case M_FIND:
    case M_INDEX:
    case M_RFIND:
    case M_RINDEX:
        return search(r, v, a, id == M_RFIND || id == M_RINDEX, id == M_INDEX || id == M_RINDEX,
                      out);
    case M_JOIN:
        return call_join(r, v, a, out);
    case M_STRIP:
    case M_LSTRIP:
    case M_RSTRIP:
        return call_strip(r, id, v, a, out);
    case M_PARTITION:
    case M_RPARTITION:
        return partition(r, v, a, id == M_RPARTITION, out);
    case M_REMOVEPREFIX:
    case M_REMOVESUFFIX:
        return call_remove(r, v, a, id == M_REMOVESUFFIX, out);
    case M_REPLACE:
        return call_replace(r, v, a, out);
    case M_SPLIT:
    case M_RSPLIT:
        return split(r, v, a, id == M_RSPLIT, out);
    case M_SPLITLINES:
        return split_lines(r, v, a, out);
    case M_CAPITALIZE:
    case M_CASEFOLD:
    case M_LOWER:
    case M_SWAPCASE:
    case M_TITLE:
    case M_UPPER:
        return call_case(r, id, v, a, out);
    default:
        return call_class(r, id, v, a, out);
    }
}
