/* SPDX-License-Identifier: Apache-2.0
 * load_wire.h - what a server sends back to `quern load`, read byte by byte: HTTP, its body, the events in it, what they say.
 *
 *   bytes -> load_http -> body -> load_sse -> "data" of one event -> load_reply
 *
 * Nothing here trusts the server: heads, lines and events are bounded (limits.def), lengths are checked, what is cut anywhere is
 * seen as cut. Pieces may end at any byte.
 * Threads: pure; each object has one owner. Sources: RFC 9112 (HTTP/1.1), WHATWG HTML 9.2 (event streams). */
#ifndef QN_CMD_LOAD_WIRE_H
#define QN_CMD_LOAD_WIRE_H

#include "base/str.h"

typedef struct load_url {
    bool is_tls, is_chat; /* is_chat: the path named /chat/completions */
    char host[256];       /* without brackets */
    char authority[272];  /* for the Host header */
    int port;
    char base[512]; /* "/v1": what stands before "/models" */
} load_url;
/* http://HOST[:PORT][/PATH], https://...; without a scheme http. */
QN_MUST_USE qn_status load_url_parse(load_url *out, const char *text, qn_err *err);

/* A piece of a body, or one event. A failure ends the reading and is handed on. */
typedef qn_status (*load_bytes_fn)(void *arg, const char *p, size_t n, qn_err *err);

/* One answer. Zero-initialise by load_http_init. */
typedef struct load_http {
    load_bytes_fn body;
    void *arg;
    int state;
    int status; /* 0: the head is not whole yet */
    bool is_events, is_json, is_chunked, keeps_alive, is_begun;
    bool has_length;
    uint64_t length, left;
    int retry_after_s; /* -1: not said */
    int n_interim;
    size_t head_bytes;
    qn_str line;
} load_http;
void load_http_init(load_http *h, load_bytes_fn body, void *arg);
void load_http_fini(load_http *h);
/* *used: bytes that belonged to this answer; fewer than n once it is whole. */
QN_MUST_USE qn_status load_http_feed(load_http *h, const char *p, size_t n, size_t *used,
                                     qn_err *err);
/* The server has closed: fails if the answer is not whole. */
QN_MUST_USE qn_status load_http_close(load_http *h, qn_err *err);
bool load_http_is_whole(const load_http *h);

/* An event stream: calls event for the data of each event. Zero-initialise, set event and arg. */
typedef struct load_sse {
    load_bytes_fn event;
    void *arg;
    bool has_data, after_cr, is_begun;
    qn_str line, data;
} load_sse;
QN_MUST_USE qn_status load_sse_feed(load_sse *s, const char *p, size_t n, qn_err *err);
void load_sse_fini(load_sse *s);

/* What the events of one answer have said. Zero-initialise. */
typedef struct load_reply {
    bool is_ended;    /* "[DONE]" */
    bool is_finished; /* a finish_reason */
    bool has_usage;
    uint64_t n_in, n_out; /* of usage */
    uint64_t n_texts;     /* events with text */
} load_reply;
/* One event; *is_text: it has text (or reasoning, or a tool call). Fails for an error event with its message, and for what no
 * OpenAI-compatible server sends. */
QN_MUST_USE qn_status load_reply_event(load_reply *r, const char *p, size_t n, bool *is_text,
                                       qn_err *err);
/* The message in the body of an error, without control bytes; "" if there is none. */
void load_reply_message(char *out, size_t size, const char *p, size_t n);
/* The id of the first model of a /v1/models answer, into out. */
QN_MUST_USE qn_status load_reply_model(qn_str *out, const char *p, size_t n, qn_err *err);

#endif
