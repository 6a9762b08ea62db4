/* SPDX-License-Identifier: Apache-2.0
 * cursor.h - reads a hostile byte range in order; the only pointer arithmetic on binary input.
 *
 * Little-endian. The first failure is sticky: it is written once, with file, field and byte offset,
 * and every later call returns false. `field` is what the caller is reading now, for the message.
 * Threads: one owner. */
#ifndef QN_BASE_CURSOR_H
#define QN_BASE_CURSOR_H

#include "base/base.h"
#include "base/str.h"

typedef struct qn_cursor {
    const uint8_t *start, *p, *end;
    const char *file; /* borrowed */
    char field[128];
    qn_status status;
    qn_err *err;
} qn_cursor;

void qn_cursor_init(qn_cursor *c, const void *data, size_t n, const char *file, qn_err *err);
void qn_cursor_field(qn_cursor *c, const char *fmt, ...) QN_PRINTF(2, 3);
bool qn_cursor_u32(qn_cursor *c, uint32_t *out);
bool qn_cursor_u64(qn_cursor *c, uint64_t *out);
bool qn_cursor_bytes(qn_cursor *c, uint64_t n, qn_slice *out); /* borrowed view */
bool qn_cursor_align(qn_cursor *c,
                     uint64_t to); /* to a multiple of `to` from start; `to` a power of two */
size_t qn_cursor_left(const qn_cursor *c);
/* Fails the cursor: "file: field: message (at byte N)". Always returns false. */
bool qn_cursor_fail(qn_cursor *c, qn_status s, const char *fmt, ...) QN_PRINTF(3, 4);

#endif
