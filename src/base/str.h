/* SPDX-License-Identifier: Apache-2.0
 * str.h - slices, a string builder, UTF-8, number parsing without locale.
 * Threads: any; a builder has one owner. */
#ifndef QN_BASE_STR_H
#define QN_BASE_STR_H

#include "base/base.h"

/* A borrowed run of bytes, not NUL-terminated. */
typedef struct qn_slice {
    const char *p;
    size_t n;
} qn_slice;
#define QN_SLICE(lit) ((qn_slice){(lit), sizeof(lit) - 1})
qn_slice qn_slice_of(const char *s);
bool qn_slice_eq(qn_slice a, qn_slice b);
bool qn_slice_is(qn_slice a, const char *s);
bool qn_starts_with(const char *s, const char *prefix);
/* 1 to `most` of [A-Za-z0-9_-]. */
bool qn_slice_is_word(qn_slice s, size_t most);
bool qn_ends_with(const char *s, const char *suffix);

/* Builder. Zero-initialise; p is always NUL-terminated once something was added. The first failed
 * allocation (or passing `limit`, if not 0) sets `failed` and later calls do nothing: check once at
 * the end. */
typedef struct qn_str {
    char *p;
    size_t n, cap, limit;
    bool failed;
} qn_str;
void qn_str_add(qn_str *s, const void *p, size_t n);
void qn_str_adds(qn_str *s, const char *z);
void qn_str_addc(qn_str *s, char c);
void qn_str_addf(qn_str *s, const char *fmt, ...) QN_PRINTF(2, 3);
void qn_str_add_utf8(qn_str *s, uint32_t cp);
void qn_str_add_json(qn_str *s, const char *p,
                     size_t n); /* quoted JSON string; broken UTF-8 becomes U+FFFD */
void qn_str_add_json_or_null(qn_str *s, const char *z); /* NULL: null */
void qn_str_clear(qn_str *s);                           /* keeps the memory */
void qn_str_fini(qn_str *s);

/* Decodes one code point at s (n >= 1 bytes). Returns its length, or 0 if the bytes are not UTF-8
 * (overlong forms, surrogates and values over U+10FFFF are not). */
size_t qn_utf8_decode(const char *s, size_t n, uint32_t *cp);
size_t qn_utf8_encode(char out[4], uint32_t cp);
bool qn_utf8_valid(const char *p, size_t n);
/* Length of the longest prefix that does not end inside a sequence that could still become
 * valid. */
size_t qn_utf8_whole(const char *p, size_t n);
/* Appends p with each maximal broken part as U+FFFD, as Rust's from_utf8_lossy does. */
void qn_utf8_lossy(qn_str *out, const char *p, size_t n);
/* Copies into out (size bytes, NUL-terminated) with control bytes and broken UTF-8 as \xNN: for
 * terminals. */
void qn_escape(char *out, size_t size, const char *p, size_t n);

/* Whole-string parsers: no white space, no trailing bytes. */
bool qn_parse_u64(const char *s, size_t n, uint64_t max, uint64_t *out);
bool qn_parse_i64(const char *s, size_t n, int64_t *out);
bool qn_parse_f64(const char *s, size_t n, double *out);     /* finite only */
bool qn_parse_bytes(const char *s, size_t n, uint64_t *out); /* 512, 4K, 2M, 1G (powers of 1024) */

/* The shortest text that qn_parse_f64 reads back as v, as Python's repr: 0.1, 100.0, 1e-05, nan.
 * Returns its length. */
size_t qn_format_f64(char out[40], double v);

uint64_t qn_hash(const void *p, size_t n, uint64_t seed);

#endif
