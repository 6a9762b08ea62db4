/* SPDX-License-Identifier: Apache-2.0
 * base.c - status names, error messages, the assertion that ends the program, the clock. */
#define QN_BASE_C
#include "base/base.h"

#include "base/str.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *qn_status_name(qn_status s)
{
    static const char *const names[] = {
        "ok",        "bad argument", "bad format",    "unsupported",
        "not found", "i/o error",    "out of memory", "kv full",
        "too long",  "queue full",   "busy",          "cancelled",
        "timeout",   "device error", "peer error",    "internal error"};
    return (size_t)s < QN_COUNT(names) ? names[s] : "unknown status";
}

void qn_assert_failed(const char *cond, const char *file, int line)
{
    char msg[512];
    int n = snprintf(msg, sizeof msg, "quern: internal error: %s:%d: %s\n", file, line, cond);
    if (n > 0 && write(STDERR_FILENO, msg, QN_MIN((size_t)n, sizeof msg - 1)) < 0)
        abort();
    abort();
}

qn_status qn_fail(qn_err *err, qn_status s, const char *fmt, ...)
{
    if (!err)
        return s;
    char raw[2 * sizeof err->msg];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    err->status = s;
    qn_escape(err->msg, sizeof err->msg, raw, n < 0 ? 0 : strlen(raw));
    return s;
}

qn_status qn_wrap(qn_err *err, qn_status s, const char *fmt, ...)
{
    if (!err)
        return s;
    char raw[2 * sizeof err->msg];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(raw, sizeof raw - 2, fmt, ap);
    va_end(ap);
    if (n < 0)
        return s;
    size_t at = strlen(raw);
    (void)snprintf(raw + at, sizeof raw - at, ": %s", err->msg);
    qn_escape(err->msg, sizeof err->msg, raw, strlen(raw));
    return s;
}

qn_status qn_fail_nomem(qn_err *err, size_t bytes)
{
    return qn_fail(err, QN_E_NOMEM, "out of memory (%zu bytes wanted)", bytes);
}

uint64_t qn_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
