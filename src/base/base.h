/* SPDX-License-Identifier: Apache-2.0
 * base.h - what every file needs: status and error helpers, checked sizes, assertions.
 *
 * Errors: a function that can fail returns qn_status and takes qn_err *err last (NULL allowed). The
 * first failure writes the message with qn_fail; callers only prefix context with qn_wrap. Log or
 * return, never both.
 * Threads: any. */
#ifndef QN_BASE_BASE_H
#define QN_BASE_BASE_H

#include <quern/quern.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QN_MUST_USE     __attribute__((warn_unused_result))
#define QN_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define QN_COUNT(a)     (sizeof(a) / sizeof(*(a)))
/* A sanitizer's build has larger frames and makes system calls of its own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QN_IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define QN_IS_SANITIZED 1
#endif
#endif
#ifndef QN_IS_SANITIZED
#define QN_IS_SANITIZED 0
#endif
#define QN_MIN(a, b)      ((a) < (b) ? (a) : (b))
#define QN_MAX(a, b)      ((a) > (b) ? (a) : (b))
#define QN_DIV_UP(a, b)   (((a) + (b)-1) / (b))
#define QN_ROUND_UP(a, b) (QN_DIV_UP(a, b) * (b))

/* Forwards a failure. */
#define QN_TRY(expr)                                                                               \
    do {                                                                                           \
        qn_status qn_try_s_ = (expr);                                                              \
        if (qn_try_s_ != QN_OK)                                                                    \
            return qn_try_s_;                                                                      \
    } while (0)

/* For our own mistakes only, kept in release; bytes from a file or a socket may never reach one. */
#define QN_ASSERT(cond) ((cond) ? (void)0 : qn_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void qn_assert_failed(const char *cond, const char *file, int line);

/* Writes status and message into err (if any) and returns status. Control bytes in the message are
 * escaped. */
qn_status qn_fail(qn_err *err, qn_status s, const char *fmt, ...) QN_PRINTF(3, 4);
/* Prefixes "context: " to the message already in err; returns s. */
qn_status qn_wrap(qn_err *err, qn_status s, const char *fmt, ...) QN_PRINTF(3, 4);
qn_status qn_fail_nomem(qn_err *err, size_t bytes);

/* The static analyzer reads one file at a time; it must know that a failure is never QN_OK. */
#if defined(__clang_analyzer__) && !defined(QN_BASE_C)
void qn_seen(const void *err, ...);
#define qn_fail(err, s, ...)  (qn_seen(err, __VA_ARGS__), (s))
#define qn_wrap(err, s, ...)  (qn_seen(err, __VA_ARGS__), (s))
#define qn_fail_nomem(err, n) (qn_seen(err, n), QN_E_NOMEM)
#endif

/* Checked arithmetic for sizes made of untrusted numbers: true when the result fits. */
QN_MUST_USE static inline bool qn_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
QN_MUST_USE static inline bool qn_add_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* Monotonic clock, nanoseconds. */
uint64_t qn_now_ns(void);

#endif
