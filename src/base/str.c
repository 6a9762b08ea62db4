/* SPDX-License-Identifier: Apache-2.0
 * str.c - slices, the builder, UTF-8 after RFC 3629, numbers. */
#include "base/str.h"

#include "base/mem.h"
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

qn_slice qn_slice_of(const char *s)
{
    return (qn_slice){s, strlen(s)};
}

bool qn_slice_eq(qn_slice a, qn_slice b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

bool qn_slice_is(qn_slice a, const char *s)
{
    return qn_slice_eq(a, qn_slice_of(s));
}

bool qn_slice_is_word(qn_slice s, size_t most)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_' || c == '-'))
            return false;
    }
    return s.n >= 1 && s.n <= most;
}

bool qn_starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool qn_ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

/* ---- builder ---- */

void qn_str_add(qn_str *s, const void *p, size_t n)
{
    size_t end, want;
    if (s->failed)
        return;
    if (!qn_add_size(s->n, n, &end) || !qn_add_size(end, 1, &want) ||
        (s->limit && end > s->limit) || !qn_grow(&s->p, &s->cap, want, 1, QN_MEM_MISC)) {
        s->failed = true;
        return;
    }
    if (n)
        memcpy(s->p + s->n, p, n);
    s->n = end;
    s->p[end] = 0;
}

void qn_str_adds(qn_str *s, const char *z)
{
    qn_str_add(s, z, strlen(z));
}

void qn_str_addc(qn_str *s, char c)
{
    qn_str_add(s, &c, 1);
}

void qn_str_addf(qn_str *s, const char *fmt, ...)
{
    char small[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    if (n < 0) {
        s->failed = true;
        return;
    }
    if ((size_t)n < sizeof small) {
        qn_str_add(s, small, (size_t)n);
        return;
    }
    char *big = qn_alloc((size_t)n + 1, QN_MEM_MISC);
    if (!big) {
        s->failed = true;
        return;
    }
    va_start(ap, fmt);
    n = vsnprintf(big, (size_t)n + 1, fmt, ap);
    va_end(ap);
    qn_str_add(s, big, n < 0 ? 0 : (size_t)n);
    qn_free(big);
}

void qn_str_add_utf8(qn_str *s, uint32_t cp)
{
    char b[4];
    qn_str_add(s, b, qn_utf8_encode(b, cp));
}

void qn_str_add_json(qn_str *s, const char *p, size_t n)
{
    qn_str_addc(s, '"');
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = qn_utf8_decode(p + i, n - i, &cp);
        if (len == 0) {
            /* one U+FFFD for each maximal broken part, as qn_utf8_lossy */
            size_t bad = 1;
            while (i + bad < n && ((unsigned char)p[i + bad] & 0xc0) == 0x80 && bad < 3)
                bad++;
            qn_utf8_lossy(s, p + i, bad);
            i += bad;
            continue;
        }
        if (cp == '"' || cp == '\\') {
            qn_str_addc(s, '\\');
            qn_str_addc(s, (char)cp);
        } else if (cp == '\n') {
            qn_str_adds(s, "\\n");
        } else if (cp == '\t') {
            qn_str_adds(s, "\\t");
        } else if (cp == '\r') {
            qn_str_adds(s, "\\r");
        } else if (cp < 0x20 || cp == 0x7f) {
            qn_str_addf(s, "\\u%04x", (unsigned)cp);
        } else {
            qn_str_add(s, p + i, len);
        }
        i += len;
    }
    qn_str_addc(s, '"');
}

void qn_str_add_json_or_null(qn_str *s, const char *z)
{
    if (z)
        qn_str_add_json(s, z, strlen(z));
    else
        qn_str_adds(s, "null");
}

void qn_str_clear(qn_str *s)
{
    s->n = 0;
    s->failed = false;
    if (s->p)
        s->p[0] = 0;
}

void qn_str_fini(qn_str *s)
{
    qn_free(s->p);
    *s = (qn_str){0};
}

/* ---- UTF-8 ---- */

/* Table 3-7 of the Unicode standard: length of the sequence a lead byte opens and the range of its
 * second byte. */
static size_t lead(unsigned char b, unsigned char *lo, unsigned char *hi)
{
    *lo = 0x80;
    *hi = 0xbf;
    if (b < 0x80)
        return 1;
    if (b < 0xc2 || b > 0xf4)
        return 0;
    if (b < 0xe0)
        return 2;
    if (b < 0xf0) {
        if (b == 0xe0)
            *lo = 0xa0;
        if (b == 0xed)
            *hi = 0x9f;
        return 3;
    }
    if (b == 0xf0)
        *lo = 0x90;
    if (b == 0xf4)
        *hi = 0x8f;
    return 4;
}

/* Bytes of the sequence at p that are right: equal to *want if it is whole. 0: no lead byte. */
static size_t right_bytes(const unsigned char *p, size_t n, size_t *want)
{
    unsigned char lo, hi;
    *want = lead(p[0], &lo, &hi);
    if (*want == 0)
        return 0;
    size_t i = 1;
    while (i < *want && i < n && p[i] >= lo && p[i] <= hi) {
        lo = 0x80;
        hi = 0xbf;
        i++;
    }
    return i;
}

size_t qn_utf8_decode(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t want, got = right_bytes(p, n, &want);
    if (got == 0 || got != want)
        return 0;
    static const unsigned char mask[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t c = p[0] & mask[want];
    for (size_t i = 1; i < want; i++)
        c = c << 6 | (p[i] & 0x3fu);
    *cp = c;
    return want;
}

size_t qn_utf8_encode(char out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const unsigned char first[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1;) {
        out[i] = (char)(0x80 | (cp & 0x3f));
        cp >>= 6;
    }
    out[0] = (char)(first[n] | cp);
    return n;
}

bool qn_utf8_valid(const char *p, size_t n)
{
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        size_t len = qn_utf8_decode(p + i, n - i, &cp);
        if (len == 0)
            return false;
        i += len;
    }
    return true;
}

size_t qn_utf8_whole(const char *p, size_t n)
{
    size_t back = QN_MIN(n, (size_t)3);
    for (size_t k = 1; k <= back; k++) {
        size_t i = n - k, want, got = right_bytes((const unsigned char *)p + i, k, &want);
        if (got == k && got < want)
            return i;
    }
    return n;
}

void qn_utf8_lossy(qn_str *out, const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t want, got = right_bytes((const unsigned char *)p + i, n - i, &want);
        if (got && got == want) {
            qn_str_add(out, p + i, got);
            i += got;
        } else {
            qn_str_adds(out, "\xef\xbf\xbd");
            i += QN_MAX(got, (size_t)1);
        }
    }
}

void qn_escape(char *out, size_t size, const char *p, size_t n)
{
    size_t o = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = qn_utf8_decode(p + i, n - i, &cp);
        char piece[5];
        size_t m = len;
        /* C0, DEL, C1 and the bidirectional overrides may not reach a terminal */
        bool bad = len == 0 || cp < 0x20 || (cp >= 0x7f && cp < 0xa0) ||
                   (cp >= 0x202a && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069);
        if (bad) {
            len = 1;
            m = 4;
            (void)snprintf(piece, sizeof piece, "\\x%02x", (unsigned)(unsigned char)p[i]);
        } else {
            memcpy(piece, p + i, len);
        }
        if (o + m + 1 > size)
            break;
        memcpy(out + o, piece, m);
        o += m;
        i += len;
    }
    if (size)
        out[o] = 0;
}

/* ---- numbers ---- */

bool qn_parse_u64(const char *s, size_t n, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;
    if (n == 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9' || __builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s[i] - '0'), &v))
            return false;
    }
    if (v > max)
        return false;
    *out = v;
    return true;
}

bool qn_parse_i64(const char *s, size_t n, int64_t *out)
{
    uint64_t u;
    bool neg = n && s[0] == '-';
    if (!qn_parse_u64(s + neg, n - neg, neg ? (uint64_t)INT64_MAX + 1 : INT64_MAX, &u))
        return false;
    *out = neg ? (int64_t)(0 - u) : (int64_t)u;
    return true;
}

bool qn_parse_f64(const char *s, size_t n, double *out)
{
    char z[64];
    if (n == 0 || n >= sizeof z || !(s[0] == '-' || s[0] == '.' || (s[0] >= '0' && s[0] <= '9')))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!strchr("0123456789.eE+-", s[i]) || s[i] == 0)
            return false;
    memcpy(z, s, n);
    z[n] = 0;
    locale_t c_locale =
        newlocale(LC_ALL_MASK, "C", (locale_t)0); /* glibc hands out a static object */
    if (!c_locale)
        return false;
    char *end;
    double v = strtod_l(z, &end, c_locale);
    freelocale(c_locale);
    if (end != z + n || !isfinite(v))
        return false;
    *out = v;
    return true;
}

/* The fewest digits that restore v, one more at a time; then as an exponent or as a fraction. */
size_t qn_format_f64(char out[40], double v)
{
    char digits[40];
    int precision = 0;
    uint64_t size = 0;
    double back;
    if (!isfinite(v))
        return (size_t)snprintf(out, 40, "%s", isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
    for (; precision < 16; precision++) {
        int n = snprintf(digits, sizeof digits, "%.*e", precision, v);
        if (qn_parse_f64(digits, (size_t)n, &back) && back == v)
            break;
    }
    (void)snprintf(digits, sizeof digits, "%.*e", precision, v);
    const char *e = strchr(digits, 'e');
    if (!qn_parse_u64(e + 2, strlen(e + 2), 400, &size))
        size = 0;
    int exponent = e[1] == '-' ? -(int)size : (int)size;
    if (exponent < -4 || exponent >= 16)
        return (size_t)snprintf(out, 40, "%s", digits);
    return (size_t)snprintf(out, 40, "%.*f", QN_MAX(precision - exponent, 1), v);
}

bool qn_parse_bytes(const char *s, size_t n, uint64_t *out)
{
    static const char units[] = "KMGT";
    unsigned shift = 0;
    if (n && s[n - 1] > 0) {
        const char *u = strchr(units, s[n - 1] & ~0x20);
        if (u && *u) {
            shift = 10u * (unsigned)(u - units + 1);
            n--;
        }
    }
    uint64_t v;
    if (!qn_parse_u64(s, n, UINT64_MAX >> shift, &v))
        return false;
    *out = v << shift;
    return true;
}

/* FNV-1a, then a finaliser: short keys from files, seeded so that a file cannot aim at one
 * bucket. */
uint64_t qn_hash(const void *p, size_t n, uint64_t seed)
{
    const unsigned char *b = p;
    uint64_t h = 0xcbf29ce484222325u ^ seed * 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}
