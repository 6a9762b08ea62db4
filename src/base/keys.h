/* SPDX-License-Identifier: Apache-2.0
 * keys.h - a file of API keys, as the server reads it whole and a client its first line.
 *
 *   # ours                      a comment, as is what is behind #
 *   4f1c...  alice  p0          KEY [TENANT [CLASS]]
 *
 * Threads: pure. */
#ifndef QN_BASE_KEYS_H
#define QN_BASE_KEYS_H

#include "base/str.h"

typedef struct qn_key_line {
    qn_slice key, tenant, class_name; /* parts of the text; n is 0 where there is none */
} qn_key_line;

/* {text, name} and zeroes. */
typedef struct qn_key_reader {
    qn_slice text;    /* what is left */
    const char *name; /* the file, for errors */
    size_t line, n;   /* lines read, keys found */
} qn_key_reader;
/* *got is false at the end. A NUL, a fourth word, a key that is not visible ASCII, and a file without any key are QN_E_FORMAT; no
 * message holds any of a key. */
QN_MUST_USE qn_status qn_key_next(qn_key_reader *r, qn_key_line *out, bool *got, qn_err *err);

#endif
