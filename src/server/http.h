/* SPDX-License-Identifier: Apache-2.0
 * http.h - a request of HTTP/1.0 or 1.1, read from bytes as they come.
 *
 *   take: bytes --> HEAD --> BODY ... --> END      MORE: all were taken, and more are needed
 *                                                  BAD: status and reason; nothing after it is looked at
 *
 * Where RFC 9112 lets a receiver choose, it refuses: what two programs may read differently is how requests are smuggled. So a bare
 * CR or LF, a NUL, a folded line, a blank before a colon, two lengths, a length beside a transfer coding, a coding that is not just
 * "chunked", a second or missing Host end the connection. The same bytes give the same events however they are split.
 * Sizes are bounded by limits.def before anything is kept; lines are kept in one buffer of at most their limits.
 * Threads: pure; one owner. Source: RFC 9110, RFC 9112. */
#ifndef QN_SERVER_HTTP_H
#define QN_SERVER_HTTP_H

#include "base/limits.h"
#include "base/str.h"

typedef enum qn_http_event {
    QN_HTTP_MORE,
    QN_HTTP_HEAD,
    QN_HTTP_BODY, /* piece */
    QN_HTTP_END,
    QN_HTTP_BAD
} qn_http_event;

typedef enum qn_http_state {
    QN_HTTP_IN_LINE, /* the request line */
    QN_HTTP_IN_HEADERS,
    QN_HTTP_IN_LENGTH, /* of a body with a length */
    QN_HTTP_IN_CHUNK_SIZE,
    QN_HTTP_IN_CHUNK,
    QN_HTTP_IN_CHUNK_END,
    QN_HTTP_IN_TRAILERS,
    QN_HTTP_AT_END,
    QN_HTTP_IS_OVER
} qn_http_state;

typedef struct qn_http_field {
    uint16_t name, n_name, value, n_value; /* places in the buffer */
} qn_http_field;

typedef struct qn_http {
    /* from HEAD on */
    qn_slice method, path, query, host; /* path: decoded; query, host: as sent, p NULL: none */
    int minor;                          /* of the version: 0 or 1 */
    bool is_kept;                       /* the client wants the connection to stay */
    bool wants_continue;                /* it waits for "100 Continue" */
    bool is_chunked;
    uint64_t n_length; /* of the body, by its header; 0: none */
    /* with BODY: valid as long as the bytes given */
    qn_slice piece;
    uint64_t n_body; /* bytes of the body so far */
    /* with BAD */
    int status;
    const char *reason; /* static */

    /* its own */
    uint64_t max_body;
    qn_http_state state;
    qn_http_field fields[QN_LIMIT_HTTP_HEADERS];
    size_t n_fields;
    char *buf;
    size_t n_buf, cap_buf, line_at;
    size_t n_line, n_headers, n_extensions, n_trailers; /* bytes so far */
    uint64_t n_left;                                    /* of the body or chunk */
    bool after_cr, after_blank, wants_close, has_length, has_query;
    int n_hosts, n_codings;
    uint16_t host_at, n_host, coding_at, n_coding; /* places, as in qn_http_field */
    uint16_t n_method, path_at, n_path, query_at, n_query;
} qn_http;

void qn_http_init(qn_http *h, uint64_t max_body);
void qn_http_fini(qn_http *h);
/* *used: how many of the bytes were taken. Call again with the others after anything but MORE and BAD, also if there are none. */
qn_http_event qn_http_take(qn_http *h, const char *p, size_t n, size_t *used);
/* After HEAD. Any case; the first of that name; p NULL: there is none. */
qn_slice qn_http_header(const qn_http *h, const char *name);
bool qn_http_is(qn_slice s, const char *word); /* in any case */
/* Decodes %XX (and + with `plus`) in place; false: not well formed, or a NUL. */
bool qn_http_decode(char *p, size_t *n, bool plus);
/* The phrase of a status: "Not Found"; static. */
const char *qn_http_phrase(int status);

#endif
