/* SPDX-License-Identifier: Apache-2.0
 * decimal.c - comparing digits, and bounds as expressions over digits.
 *
 *   at least 273.5:  [1-9][0-9]{3,} | [3-9][0-9][0-9] | 2[8-9][0-9] | 27[4-9]   any fraction
 *                    273 "." (5.. | [6-9]..)
 *   at most: the same mirrored; both: their intersection. Below zero: a minus and the mirrored magnitudes. */
#include "sample/decimal.h"

#include "base/str.h"
#include <stdio.h>
#include <string.h>

#define MOST_DIGITS 15   /* of a number with bounds: DBL_DIG */
#define MOST_WHOLE  18   /* of a whole one: 64 bits hold it */
#define MOST_LISTED 4096 /* numbers, or endings of them, that are written out */

/* ---- digits ---- */

void qn_decimal_parse(qn_decimal *d, const char *text, size_t n)
{
    char digits[48];
    size_t n_digits = 0, at = 0;
    int64_t point = 0, e = 0; /* point: digits before it */
    bool is_behind = false;
    *d = (qn_decimal){.is_negative = text[0] == '-'};
    for (size_t i = d->is_negative; i < n && n_digits < sizeof digits; i++) {
        if (text[i] == 'e') {
            bool has_plus = text[i + 1] == '+';
            (void)qn_parse_i64(text + i + 1 + has_plus, n - i - 1 - has_plus, &e);
            break;
        }
        if (text[i] == '.') {
            is_behind = true;
        } else if (n_digits || text[i] != '0') {
            digits[n_digits++] = text[i];
            point += !is_behind;
        } else {
            point -= is_behind; /* a zero between the point and the first digit */
        }
    }
    while (n_digits && digits[n_digits - 1] == '0')
        n_digits--;
    point = n_digits ? point + e : 0;
    d->n_whole = (uint16_t)QN_MAX(point, 0);
    for (int64_t i = QN_MIN(point, 0); i < QN_MAX(point, (int64_t)n_digits); i++)
        d->digits[at++] = i >= 0 && i < (int64_t)n_digits ? digits[i] : '0';
    d->n_part = (uint16_t)(at - d->n_whole);
    d->is_negative = d->is_negative && n_digits;
}

void qn_decimal_of(qn_decimal *d, const json_t *v)
{
    char text[48];
    if (json_is_integer(v))
        qn_decimal_parse(
            d, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)json_integer_value(v)));
    else
        qn_decimal_parse(d, text, qn_format_f64(text, json_real_value(v)));
}

bool qn_decimal_is_zero(const qn_decimal *d)
{
    return d->n_whole == 0 && d->n_part == 0;
}

bool qn_decimal_is_whole(const qn_decimal *d)
{
    return d->n_part == 0;
}

int qn_decimal_compare(const qn_decimal *a, const qn_decimal *b)
{
    int sign = a->is_negative ? -1 : 1, c = 0;
    if (a->is_negative != b->is_negative)
        return sign;
    if (a->n_whole != b->n_whole)
        return a->n_whole > b->n_whole ? sign : -sign;
    size_t n_a = (size_t)a->n_whole + a->n_part, n_b = (size_t)b->n_whole + b->n_part;
    c = memcmp(a->digits, b->digits, QN_MIN(n_a, n_b));
    if (c == 0)
        c = n_a > n_b ? 1 : n_a < n_b ? -1 : 0;
    return c > 0 ? sign : c < 0 ? -sign : 0;
}

/* d * 10^shift modulo m, or (m 0) itself; false: more than 18 digits of it. shift is at least n_part. */
static bool scaled(const qn_decimal *d, size_t shift, uint64_t m, uint64_t *out)
{
    size_t n = (size_t)d->n_whole + d->n_part, total = d->n_whole + shift;
    *out = 0;
    if (!m && total > 18)
        return false;
    for (size_t i = 0; i < total; i++) {
        *out = *out * 10 + (uint64_t)(i < n ? d->digits[i] - '0' : 0);
        if (m)
            *out %= m;
    }
    return true;
}

bool qn_decimal_is_multiple(const qn_decimal *d, const qn_decimal *of)
{
    uint64_t m, rest;
    /* remainders stay under 2^60, so ten times one fits */
    if (d->n_part > of->n_part || !scaled(of, of->n_part, 0, &m) || m == 0)
        return false;
    return scaled(d, of->n_part, m, &rest) && rest == 0;
}

/* ---- ranges ---- */

/* The whole number next to d above (by 1) or below it (by -1), or d itself if it is whole and not left out; false: large. */
static bool nearest_whole(const qn_decimal *d, bool is_open, int by, int64_t *out)
{
    uint64_t v = 0;
    if (d->n_whole > 17)
        return false;
    for (size_t i = 0; i < d->n_whole; i++)
        v = v * 10 + (uint64_t)(d->digits[i] - '0');
    *out = d->is_negative ? -(int64_t)v : (int64_t)v;
    if (d->n_part ? d->is_negative == (by < 0) : is_open)
        *out += by;
    return true;
}

bool qn_number_range_is_empty(const qn_number_range *r)
{
    int64_t first, last;
    if (r->is_whole && r->is_broken)
        return true;
    if (!r->has_low || !r->has_high)
        return false;
    int c = qn_decimal_compare(&r->low, &r->high);
    if (r->is_whole && nearest_whole(&r->low, r->is_above, 1, &first) &&
        nearest_whole(&r->high, r->is_below, -1, &last) && first > last)
        return true;
    return c > 0 || (c == 0 && (r->is_above || r->is_below || (r->is_whole && r->low.n_part) ||
                                (r->is_broken && !r->low.n_part)));
}

bool qn_number_range_has(const qn_number_range *r, const qn_decimal *d)
{
    int low = r->has_low ? qn_decimal_compare(d, &r->low) : 1;
    int high = r->has_high ? qn_decimal_compare(d, &r->high) : -1;
    return (low > 0 || (low == 0 && !r->is_above)) && (high < 0 || (high == 0 && !r->is_below)) &&
           !(r->is_whole && d->n_part) && !(r->is_broken && !d->n_part);
}

/* ---- their texts ---- */

static qn_form_id digits_of(qn_form *f, char first, char last)
{
    qn_char_range r = {(uint32_t)first, (uint32_t)last};
    return first <= last ? qn_form_chars(f, &r, 1, false) : qn_form_alt(f, NULL, 0);
}

static qn_form_id some_digits(qn_form *f, uint32_t min, uint32_t max)
{
    return qn_form_repeat(f, digits_of(f, '0', '9'), min, max);
}

/* A magnitude that is compared: is_least: these and more, else these and less; is_open: without itself. */
typedef struct bound {
    const qn_decimal *d;
    bool is_least, is_open;
} bound;

/* Digits that differ from s[0..n) first at i and are then on the bound's side; fewer than `n` behind it if is_exact. */
static qn_form_id differing(qn_form *f, const bound *b, const char *s, size_t n, size_t i,
                            bool is_whole)
{
    char first = is_whole && i == 0 ? '1' : '0', c = s[i];
    uint32_t rest = (uint32_t)(n - i - 1);
    qn_form_id parts[] = {
        qn_form_bytes(f, s, i),
        b->is_least ? digits_of(f, (char)(c + 1), '9') : digits_of(f, first, (char)(c - 1)),
        is_whole ? some_digits(f, rest, rest) : some_digits(f, 0, QN_FORM_ENDLESS)};
    return qn_form_seq(f, parts, 3);
}

/* Whole parts on the bound's side of it, not equal to it. */
static qn_form_id whole_beside(qn_form *f, const bound *b)
{
    uint32_t n = b->d->n_whole;
    qn_form_id all = digits_of(f, '1', '9'), id = qn_form_alt(f, NULL, 0);
    if (b->is_least)
        id = qn_form_pair(f, all, some_digits(f, n, QN_FORM_ENDLESS));
    else if (n)
        id = qn_form_bytes(f, "0", 1);
    if (!b->is_least && n > 1)
        id = qn_form_either(f, id, qn_form_pair(f, all, some_digits(f, 0, n - 2)));
    for (uint32_t i = 0; i < n; i++)
        id = qn_form_either(f, id, differing(f, b, b->d->digits, n, i, true));
    return id;
}

/* Fractions (with their point, or none) on the bound's side, where the whole part is the bound's. */
static qn_form_id part_beside(qn_form *f, const bound *b)
{
    const char *s = b->d->digits + b->d->n_whole;
    uint32_t n = b->d->n_part;
    qn_form_id point = qn_form_bytes(f, ".", 1), zeros, same, id = qn_form_alt(f, NULL, 0);
    for (uint32_t i = 0; i < n; i++)
        id = qn_form_either(f, id, differing(f, b, s, n, i, false));
    zeros = qn_form_repeat(f, qn_form_bytes(f, "0", 1), 0, QN_FORM_ENDLESS);
    same = qn_form_bytes(f, s, n);
    if (b->is_least) {
        /* then nothing, zeros, or (above it) something that is not zero */
        qn_form_id more[] = {same, zeros, digits_of(f, '1', '9'),
                             some_digits(f, 0, QN_FORM_ENDLESS)};
        id = qn_form_either(f, id, qn_form_seq(f, more, 4));
    } else {
        for (uint32_t i = 1; i < n; i++) /* it ends before the bound does */
            id = qn_form_either(f, id, qn_form_bytes(f, s, i));
    }
    if (!b->is_open && n)
        id = qn_form_either(f, id, qn_form_pair(f, same, zeros));
    id = qn_form_pair(f, point, id);
    if (n == 0 && !b->is_open)
        id = qn_form_either(
            f, id,
            qn_form_maybe(
                f, qn_form_pair(f, point, qn_form_pair(f, qn_form_bytes(f, "0", 1), zeros))));
    else if (n && !b->is_least)
        id = qn_form_maybe(f, id);
    return id;
}

static qn_form_id beside(qn_form *f, const bound *b)
{
    qn_form_id any = qn_form_maybe(
        f, qn_form_pair(f, qn_form_bytes(f, ".", 1), some_digits(f, 1, QN_FORM_ENDLESS)));
    qn_form_id whole =
        b->d->n_whole ? qn_form_bytes(f, b->d->digits, b->d->n_whole) : qn_form_bytes(f, "0", 1);
    return qn_form_either(f, qn_form_pair(f, whole_beside(f, b), any),
                          qn_form_pair(f, whole, part_beside(f, b)));
}

/* All magnitudes that we write: with `digits` before the point at most. */
static qn_form_id magnitudes(qn_form *f, uint32_t digits, bool is_whole, bool is_broken)
{
    qn_form_id first = digits_of(f, '1', '9'), point = qn_form_bytes(f, ".", 1), id;
    id = qn_form_either(f, qn_form_bytes(f, "0", 1),
                        qn_form_pair(f, first, some_digits(f, 0, digits - 1)));
    if (is_whole)
        return id;
    if (is_broken)
        id = qn_form_alt(f, NULL, 0);
    for (uint32_t n = 1; n < MOST_DIGITS; n++) {
        qn_form_id part = some_digits(f, 1, MOST_DIGITS - n);
        if (is_broken) {
            qn_form_id other[] = {some_digits(f, 0, MOST_DIGITS - n - 1), digits_of(f, '1', '9'),
                                  some_digits(f, 0, MOST_DIGITS - n - 1)};
            part = qn_form_and(f, part, qn_form_seq(f, other, 3));
        }
        qn_form_id whole = qn_form_pair(f, first, some_digits(f, n - 1, n - 1));
        if (n == 1)
            whole = digits_of(f, '0', '9');
        qn_form_id parts[] = {whole, point, part};
        id = qn_form_either(f, id, qn_form_seq(f, parts, 3));
    }
    return id;
}

/* Magnitudes between two bounds, either of which may be absent. */
static qn_form_id between(qn_form *f, const qn_number_range *r, const bound *least,
                          const bound *most)
{
    uint32_t digits = r->is_whole ? MOST_WHOLE : MOST_DIGITS;
    if (least->d)
        digits = QN_MAX(digits, least->d->n_whole + 1u);
    if (most->d)
        digits = QN_MAX(digits, most->d->n_whole);
    qn_form_id id = magnitudes(f, digits, r->is_whole, r->is_broken);
    if (least->d)
        id = qn_form_and(f, id, beside(f, least));
    return most->d ? qn_form_and(f, id, beside(f, most)) : id;
}

void qn_number_range_close(qn_number_range *r)
{
    if (r->is_whole || r->has_low || r->has_high)
        return;
    r->has_low = true;
    r->low = (qn_decimal){.is_negative = true, .n_whole = MOST_DIGITS};
    memset(r->low.digits, '9', MOST_DIGITS);
}

qn_form_id qn_number_form(qn_json_forms *j, const qn_number_range *r)
{
    static const qn_decimal zero = {0};
    qn_form *f = j->f;
    if (!r->has_low && !r->has_high && !r->is_broken)
        return r->is_whole ? j->integer : j->number;
    qn_form_id id = j->nothing;
    if (!r->has_high || !r->high.is_negative) {
        bool low =
            r->has_low && !r->low.is_negative && !(qn_decimal_is_zero(&r->low) && !r->is_above);
        bound least = {low ? &r->low : NULL, true, r->is_above};
        bound most = {r->has_high ? &r->high : NULL, false, r->is_below};
        id = between(f, r, &least, &most);
    }
    if (!r->has_low || r->low.is_negative) {
        bool high = r->has_high && r->high.is_negative;
        bound least = {high ? &r->high : &zero, true, high ? r->is_below : true};
        bound most = {r->has_low ? &r->low : NULL, false, r->is_above};
        qn_form_id minus = qn_form_bytes(f, "-", 1);
        id = qn_form_either(f, id, qn_form_pair(f, minus, between(f, r, &least, &most)));
    }
    return id;
}

/* ---- multiples ---- */

/* The multiples of m / 10^shift in the range, one by one; 0: not bounded, or too many. */
static qn_form_id listed(qn_json_forms *j, const qn_number_range *r, uint64_t m, size_t shift)
{
    uint64_t low, high;
    qn_form *f = j->f;
    if (!r->has_low || !r->has_high || r->low.n_part > shift || r->high.n_part > shift ||
        !scaled(&r->low, shift, 0, &low) || !scaled(&r->high, shift, 0, &high))
        return 0;
    int64_t from = r->low.is_negative ? -(int64_t)low : (int64_t)low;
    int64_t to = r->high.is_negative ? -(int64_t)high : (int64_t)high, step = (int64_t)m;
    int64_t first = from / step, last = to / step, power = 1;
    first += first * step < from;
    last -= last * step > to;
    if (last - first >= MOST_LISTED)
        return 0;
    for (size_t i = 0; i < shift; i++)
        power *= 10;
    qn_form_id id = j->nothing;
    for (int64_t k = first; k <= last; k++) {
        char text[48];
        int64_t v = k * step, size = v < 0 ? -v : v;
        int n = snprintf(text, sizeof text, "%s%lld", v < 0 ? "-" : "", (long long)(size / power));
        if (shift)
            n += snprintf(text + n, sizeof text - (size_t)n, ".%0*lld", (int)shift,
                          (long long)(size % power));
        bool is_whole = size % power == 0;
        if ((r->is_whole && !is_whole) || (r->is_broken && is_whole) ||
            (r->is_above && v == from) || (r->is_below && v == to))
            continue;
        for (; shift && text[n - 1] == '0'; n--)
            ;
        n -= text[n - 1] == '.';
        id = qn_form_either(f, id, qn_form_bytes(f, text, (size_t)n));
    }
    return id;
}

/* Whole numbers whose digits sum to a multiple of 3: three classes of digits, three states. */
static qn_form_id thirds(qn_form *f)
{
    static const qn_char_range zero[] = {{'0', '0'}, {'3', '3'}, {'6', '6'}, {'9', '9'}};
    static const qn_char_range one[] = {{'1', '1'}, {'4', '4'}, {'7', '7'}};
    static const qn_char_range two[] = {{'2', '2'}, {'5', '5'}, {'8', '8'}};
    qn_form_id a = qn_form_chars(f, zero, 4, false), b = qn_form_chars(f, one, 3, false);
    qn_form_id c = qn_form_chars(f, two, 3, false);
    qn_form_id many = qn_form_repeat(f, a, 0, QN_FORM_ENDLESS);
    qn_form_id ba = qn_form_pair(f, b, many), ca = qn_form_pair(f, c, many);
    /* from remainder 1 back to it: a, or 2 by b, there a, and back by c; the other way round from 2 */
    qn_form_id loop1 =
        qn_form_repeat(f, qn_form_either(f, a, qn_form_pair(f, ba, c)), 0, QN_FORM_ENDLESS);
    qn_form_id loop2 =
        qn_form_repeat(f, qn_form_either(f, a, qn_form_pair(f, ca, b)), 0, QN_FORM_ENDLESS);
    qn_form_id by1[] = {b, loop1, qn_form_either(f, c, qn_form_pair(f, ba, b))};
    qn_form_id by2[] = {c, loop2, qn_form_either(f, b, qn_form_pair(f, ca, c))};
    qn_form_id round[] = {a, qn_form_seq(f, by1, 3), qn_form_seq(f, by2, 3)};
    return qn_form_repeat(f, qn_form_alt(f, round, 3), 1, QN_FORM_ENDLESS);
}

/* Digits that end in those of a multiple of m, which divides 10^k; with n_part of them behind a point. 0: too many. */
static qn_form_id endings(qn_form *f, uint64_t m, uint32_t k, uint64_t power)
{
    qn_form_id id = qn_form_alt(f, NULL, 0), few = id;
    if (k == 0)
        return some_digits(f, 1, QN_FORM_ENDLESS);
    if (power / m > MOST_LISTED)
        return 0;
    for (uint64_t v = 0; v < power; v += m) {
        char text[24];
        size_t n = (size_t)snprintf(text, sizeof text, "%0*llu", (int)k, (unsigned long long)v);
        id = qn_form_either(f, id, qn_form_bytes(f, text, n));
        n = (size_t)snprintf(text, sizeof text, "%llu", (unsigned long long)v);
        few = qn_form_either(f, few, qn_form_bytes(f, text, n));
    }
    return qn_form_either(f, few, qn_form_pair(f, some_digits(f, 1, QN_FORM_ENDLESS), id));
}

/* Fractions that are multiples of m / power, which divides 1. */
static qn_form_id part_endings(qn_form *f, uint64_t m, uint32_t k, uint64_t power)
{
    qn_form_id zero = qn_form_bytes(f, "0", 1), point = qn_form_bytes(f, ".", 1);
    qn_form_id zeros = qn_form_repeat(f, zero, 0, QN_FORM_ENDLESS);
    qn_form_id id = qn_form_repeat(f, zero, 1, QN_FORM_ENDLESS);
    if (power / m > MOST_LISTED)
        return 0;
    for (uint64_t v = m; v < power; v += m) {
        char text[24];
        size_t n = (size_t)snprintf(text, sizeof text, "%0*llu", (int)k, (unsigned long long)v);
        while (text[n - 1] == '0')
            n--;
        id = qn_form_either(f, id, qn_form_pair(f, qn_form_bytes(f, text, n), zeros));
    }
    return qn_form_maybe(f, qn_form_pair(f, point, id));
}

qn_form_id qn_multiple_form(qn_json_forms *j, const qn_number_range *r, const qn_decimal *of)
{
    qn_form *f = j->f;
    qn_number_range bounded = *r;
    uint64_t m, power = 1, rest;
    uint32_t k = 0;
    size_t shift = QN_MAX(of->n_part,
                          QN_MAX(r->has_low ? r->low.n_part : 0, r->has_high ? r->high.n_part : 0));
    if (!scaled(of, of->n_part, 0, &m) || m == 0)
        return 0;
    qn_number_range_close(&bounded);
    qn_form_id all = qn_number_form(j, &bounded), tail;
    qn_form_id minus = qn_form_maybe(f, qn_form_bytes(f, "-", 1));
    if (of->n_part) {
        for (; k < of->n_part; k++)
            power *= 10;
        if (power % m == 0) {
            if (r->is_whole)
                return all;
            tail = part_endings(f, m, k, power);
            qn_form_id parts[] = {minus, some_digits(f, 1, QN_FORM_ENDLESS), tail};
            return tail ? qn_form_and(f, all, qn_form_seq(f, parts, 3)) : 0;
        }
    } else {
        bool is_third = m % 3 == 0;
        rest = is_third ? m / 3 : m;
        while (k < 12 && power % rest) {
            k++;
            power *= 10;
        }
        tail = power % rest == 0 ? endings(f, rest, k, power) : 0;
        if (tail) {
            if (is_third)
                tail = qn_form_and(f, thirds(f), tail);
            qn_form_id zeros = qn_form_repeat(f, qn_form_bytes(f, "0", 1), 1, QN_FORM_ENDLESS);
            qn_form_id parts[] = {
                minus, tail, qn_form_maybe(f, qn_form_pair(f, qn_form_bytes(f, ".", 1), zeros))};
            return qn_form_and(f, all, qn_form_seq(f, parts, 3));
        }
    }
    uint64_t scale = 1;
    for (size_t i = of->n_part; i < shift && i < 18; i++)
        scale *= 10;
    return shift <= 17 && m <= UINT64_C(900000000000000000) / scale ? listed(j, r, m * scale, shift)
                                                                    : 0;
}
