/* SPDX-License-Identifier: Apache-2.0
 * fetch.h - the hub's HTTP: texts, what is known of a file, files with resume and checksum.
 *
 * Redirects are followed one at a time: the token goes to the endpoint's scheme, host and port and
 * nowhere else, and https never becomes http. What passes by itself (lost connections, timeouts,
 * 408, 429, 5xx) is tried again, a file five times without progress, anything else three times,
 * waiting 0.5 s, 1 s, 2 s, 4 s, 8 s or what the server asks for (at most 60 s).
 * Threads: one owner. */
#ifndef QN_FORMAT_FETCH_H
#define QN_FORMAT_FETCH_H

#include "base/base.h"
#include "base/str.h"

typedef struct qn_fetch qn_fetch;

/* endpoint: "http[s]://host[:port][/path]". Both strings are borrowed; token may be NULL. */
QN_MUST_USE qn_status qn_fetch_new(qn_fetch **out, const char *endpoint, const char *token,
                                   qn_err *err);
void qn_fetch_free(qn_fetch *f); /* NULL allowed */
/* Tries again, or gives up at the first failure. */
void qn_fetch_set_patient(qn_fetch *f, bool is_patient);
/* After a failure: true if the server could not be reached, or did not answer as servers do. */
bool qn_fetch_is_offline(const qn_fetch *f);

/* path is appended to the endpoint; `what` names the thing in errors. */

/* GET into *out (cleared first), at most max_bytes. */
QN_MUST_USE qn_status qn_fetch_text(qn_fetch *f, const char *path, const char *what,
                                    size_t max_bytes, qn_str *out, qn_err *err);

/* A file as HEAD describes it. */
typedef struct qn_remote {
    char commit[41]; /* 40 hex digits; "" if the server does not say */
    char etag[65];   /* 64 hex digits: SHA-256 of the bytes; 40: SHA-1 as git computes a blob's */
    uint64_t size;
} qn_remote;
QN_MUST_USE qn_status qn_fetch_head(qn_fetch *f, const char *path, const char *what, qn_remote *out,
                                    qn_err *err);

typedef void (*qn_fetch_progress)(void *arg, const char *what, uint64_t done, uint64_t total,
                                  double rate);

/* GET into dest, by way of dest.incomplete, which a later call goes on with. Size and checksum are
 * those of r; when they differ the download is removed. */
QN_MUST_USE qn_status qn_fetch_file(qn_fetch *f, const char *path, const char *what,
                                    const qn_remote *r, const char *dest,
                                    qn_fetch_progress progress, void *progress_arg, qn_err *err);

#endif
