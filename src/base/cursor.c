/* SPDX-License-Identifier: Apache-2.0
 * cursor.c - bounded reads with a sticky first error. */
#include "base/cursor.h"

#include <stdio.h>

void qn_cursor_init(qn_cursor *c, const void *data, size_t n, const char *file, qn_err *err)
{
    static const uint8_t none;
    *c = (qn_cursor){.start = data ? data : &none, .file = file, .err = err};
    c->p = c->start;
    c->end = c->start + (data ? n : 0);
}

void qn_cursor_field(qn_cursor *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(c->field, sizeof c->field, fmt, ap);
    va_end(ap);
}

static size_t position(const qn_cursor *c)
{
    return (size_t)(c->p - c->start);
}

bool qn_cursor_fail(qn_cursor *c, qn_status s, const char *fmt, ...)
{
    if (c->status != QN_OK)
        return false;
    char msg[256];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    c->status = qn_fail(c->err, s, "%s: %s: %s (at byte %zu)", c->file, c->field, msg, position(c));
    return false;
}

size_t qn_cursor_left(const qn_cursor *c)
{
    return (size_t)(c->end - c->p);
}

bool qn_cursor_bytes(qn_cursor *c, uint64_t n, qn_slice *out)
{
    if (c->status != QN_OK)
        return false;
    if (n > qn_cursor_left(c)) {
        (void)qn_cursor_fail(c, QN_E_FORMAT, "wants %llu bytes, the file has %zu left",
                             (unsigned long long)n, qn_cursor_left(c));
        return false;
    }
    *out = (qn_slice){(const char *)c->p, (size_t)n};
    c->p += n;
    return true;
}

bool qn_cursor_align(qn_cursor *c, uint64_t to)
{
    uint64_t at = position(c);
    qn_slice padding;
    return qn_cursor_bytes(c, (to - (at & (to - 1))) & (to - 1), &padding);
}

/* n little-endian bytes. */
static bool number(qn_cursor *c, size_t n, uint64_t *out)
{
    qn_slice s = {0};
    if (!qn_cursor_bytes(c, n, &s))
        return false;
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;)
        v = v << 8 | (unsigned char)s.p[i];
    *out = v;
    return true;
}

bool qn_cursor_u32(qn_cursor *c, uint32_t *out)
{
    uint64_t v;
    if (!number(c, 4, &v))
        return false;
    *out = (uint32_t)v;
    return true;
}

bool qn_cursor_u64(qn_cursor *c, uint64_t *out)
{
    return number(c, 8, out);
}
