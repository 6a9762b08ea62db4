/* SPDX-License-Identifier: Apache-2.0
 * exchange.c - a request as handlers see it, and its answer.
 *
 * A whole answer is only noted down here, by whichever thread; the I/O thread sends it when the exchange is its own again
 * (qn_x_settle). An answer in pieces is the I/O thread's from its first byte. The first answer of an exchange stands. */
#include "server/core.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* ---- life ---- */

qn_exchange *qn_x_new(qn_conn *c)
{
    qn_exchange *x = qn_calloc(1, sizeof *x, QN_MEM_REQUEST);
    if (!x)
        return NULL;
    x->server = c->server;
    x->conn = c;
    x->begin_ns = qn_now_ns();
    qn_http_init(&x->http, QN_LIMIT_HTTP_BODY);
    qn_arena_init(&x->arena, QN_LIMIT_HTTP_MEMORY, QN_MEM_REQUEST);
    return x;
}

void qn_x_drop_body(qn_exchange *x)
{
    if (x->n_body)
        qn_caller_give(x->caller, QN_POOL_BODIES, x->n_body);
    qn_free(x->body);
    x->body = NULL;
    x->n_body = x->cap_body = 0;
}

/* What an exchange is without anything that others know of. */
static void free_rest(qn_exchange *x)
{
    if (x->api && x->api->free)
        (*x->api->free)(x->arg);
    qn_models_release(x);
    json_decref(x->json);
    qn_str_fini(&x->headers);
    qn_str_fini(&x->out);
    qn_http_fini(&x->http);
    qn_arena_fini(&x->arena);
    qn_free(x);
}

/* As many values that freeing them keeps the I/O thread from others. */
static bool is_slow_to_free(const qn_exchange *x)
{
    return x->json_bytes > QN_LIMIT_HTTP_AHEAD && x->server->workers;
}

void qn_x_free(qn_exchange *x)
{
    qn_server_unlist(x);
    qn_x_drop_body(x);
    if (x->json_bytes)
        qn_caller_give(x->caller, QN_POOL_JSON, x->json_bytes);
    uint64_t owner = x->caller ? qn_caller_id(x->caller) : 0;
    qn_callers_leave(x->caller);
    x->caller = NULL;
    qn_keys_drop(x->keys);
    x->keys = NULL;
    x->work = QN_X_FREE;
    if (!is_slow_to_free(x) || !qn_workers_put(x->server->workers, &x->job, owner))
        free_rest(x);
}

bool qn_x_is_answered(const qn_exchange *x)
{
    return x->is_begun ? x->is_ended : x->status != 0;
}

/* Calls the handler, once more if its model came meanwhile. False: x waits for it, and is not ours any more. */
static bool call_handler(qn_exchange *x)
{
    do {
        x->wanted = NULL;
        if (!qn_x_is_gone(x))
            x->route->handle(x);
        if (x->wanted && qn_models_wait(x))
            return false;
    } while (x->wanted && !x->status);
    return true;
}

bool qn_x_take(qn_exchange *x, qn_pool p, size_t n)
{
    static const char *const names[] = {[QN_POOL_BODIES] = "bytes of requests",
                                        [QN_POOL_JSON] = "bytes of large requests",
                                        [QN_POOL_JOBS] = "requests that wait for a worker",
                                        [QN_POOL_ANSWERS] = "bytes of answers that are not read"};
    qn_room room = qn_caller_take(x->caller, p, n);
    if (room == QN_ROOM)
        return true;
    x->status = 0;
    if (room == QN_ROOM_FULL)
        qn_x_error(x, 503, NULL, NULL, "too many %s", names[p]);
    else
        qn_x_error(x, 429, NULL, NULL, "too many %s of yours: the rest is for others", names[p]);
    return false;
}

/* It waits for a worker no longer. */
static void give_place(qn_exchange *x)
{
    if (x->has_place)
        qn_caller_give(x->caller, QN_POOL_JOBS, 1);
    x->has_place = false;
}

bool qn_x_hand_over(qn_exchange *x, qn_x_work_kind work)
{
    qn_server *s = x->server;
    x->work = work;
    if (work == QN_X_FINISH) /* it was let in */
        qn_caller_count(x->caller, QN_POOL_JOBS, 1);
    else if (!qn_x_take(x, QN_POOL_JOBS, 1))
        return false;
    x->has_place = true;
    x->stage = QN_X_WORKING;
    s->n_working++;
    return qn_workers_put(s->workers, &x->job, qn_caller_id(x->caller));
}

void qn_x_work(qn_job *job)
{
    qn_exchange *x = (qn_exchange *)job;
    if (x->work == QN_X_FREE) {
        free_rest(x);
        return;
    }
    give_place(x);
    if (x->work == QN_X_HANDLE) {
        x->is_put_off = false;
        if (!call_handler(x))
            return;
    } else if (!qn_x_is_gone(x)) {
        x->api->done(x, x->arg);
    }
    if (x->is_put_off && !x->status && qn_x_take(x, QN_POOL_JOBS, 1)) {
        x->has_place = true;
        (void)qn_workers_put(x->workers, job, qn_caller_id(x->caller));
        return;
    }
    qn_server_ready(x, true);
}

bool qn_x_put_off(qn_exchange *x, qn_x_long work)
{
    if (x->workers)
        return false;
    x->workers = x->server->long_work[work];
    return x->is_put_off = true;
}

void qn_x_abandon(qn_exchange *x)
{
    atomic_store(&x->is_gone, true);
    x->conn = NULL;
    if (x->stage == QN_X_WORKING) {
        qn_models_forget(x);
        return;
    }
    qn_x_because(x, "client_gone");
    qn_x_drop(x, 499, QN_FINISH_CANCELLED, "cancelled");
    if (x->stage != QN_X_OVER && x->http.method.p) {
        x->status = 499;
        qn_x_note(x);
    }
    qn_x_free(x);
}

void qn_x_settle(qn_exchange *x)
{
    qn_conn *c = x->conn;
    if (!c) {
        x->stage = QN_X_ANSWERING;
        qn_x_abandon(x);
        return;
    }
    if (c->is_broken) {
        qn_conn_close(c);
        return;
    }
    if (x->stage == QN_X_WORKING || (!qn_x_is_answered(x) && x->api && x->n_open))
        return; /* events are still to come */
    if (!x->status)
        qn_x_error(x, 500, NULL, NULL, "the request was not answered");
    if (!x->is_begun)
        qn_conn_send_answer(c, x);
    else if (!x->is_ended)
        return;
    qn_x_drop(x, x->status, QN_FINISH_CANCELLED, "cancelled");
    qn_x_note(x);
    x->stage = QN_X_OVER;
    qn_conn_next(c);
}

/* ---- the request ---- */

qn_slice qn_x_rest(const qn_exchange *x)
{
    return x->rest;
}

qn_slice qn_x_query(qn_exchange *x, const char *name)
{
    qn_slice q = x->http.query;
    for (size_t i = 0; q.p && i < q.n;) {
        const char *amp = memchr(q.p + i, '&', q.n - i);
        size_t end = amp ? (size_t)(amp - q.p) : q.n;
        const char *is = memchr(q.p + i, '=', end - i);
        size_t n_key = is ? (size_t)(is - q.p) - i : end - i;
        char *key = qn_arena_strndup(&x->arena, q.p + i, n_key);
        if (key && qn_http_decode(key, &n_key, true) && qn_slice_is((qn_slice){key, n_key}, name)) {
            size_t n = is ? end - i - (size_t)(is + 1 - (q.p + i)) : 0;
            char *value = qn_arena_strndup(&x->arena, is ? is + 1 : "", n);
            if (!value || !qn_http_decode(value, &n, true))
                return (qn_slice){0};
            value[n] = 0;
            return (qn_slice){value, n};
        }
        i = end + 1;
    }
    return (qn_slice){0};
}

qn_slice qn_x_header(const qn_exchange *x, const char *name)
{
    return qn_http_header(&x->http, name);
}

qn_slice qn_x_body(const qn_exchange *x)
{
    return (qn_slice){x->body ? x->body : "", x->n_body};
}

const char *qn_x_id(const qn_exchange *x)
{
    return x->id;
}

const char *qn_x_tenant(const qn_exchange *x)
{
    return x->tenant;
}

const char *qn_x_class(const qn_exchange *x)
{
    return x->class_name;
}

qn_arena *qn_x_arena(qn_exchange *x)
{
    return &x->arena;
}

const json_t *qn_x_json(qn_exchange *x)
{
    qn_err err = {0};
    if (x->json)
        return x->json;
    static const qn_json_bounds bounds = {.depth = QN_LIMIT_HTTP_JSON_DEPTH,
                                          .keys = QN_LIMIT_HTTP_JSON_KEYS,
                                          .bytes = QN_LIMIT_HTTP_JSON};
    size_t bytes;
    if (qn_json_parse_within(&x->json, x->body ? x->body : "", x->n_body, &bounds, &bytes, "body",
                             &err) != QN_OK) {
        qn_x_fail(x, &err, NULL);
        return NULL;
    }
    if (!qn_x_take(x, QN_POOL_JSON, bytes))
        return NULL;
    x->json_bytes = bytes;
    if (!json_is_object(x->json)) {
        qn_x_error(x, 400, NULL, NULL, "body: found %s, want an object",
                   qn_json_type_name(x->json));
        return NULL;
    }
    return x->json;
}

/* ---- whole answers ---- */

void qn_x_add_header(qn_exchange *x, const char *name, const char *value)
{
    qn_str_addf(&x->headers, "%s: ", name);
    for (; *value; value++)
        if ((unsigned char)*value >= 0x20 && *value != 0x7f)
            qn_str_addc(&x->headers, *value);
    qn_str_adds(&x->headers, "\r\n");
    if (strcasecmp(name, "retry-after") == 0)
        x->has_retry = true;
}

static void set_type(qn_exchange *x, const char *type)
{
    (void)snprintf(x->type, sizeof x->type, "%s", type ? type : "");
}

void qn_x_reply(qn_exchange *x, int status, const char *type, const char *p, size_t n)
{
    if (x->status)
        return;
    x->status = status;
    set_type(x, type);
    qn_str_add(&x->out, p, n);
}

void qn_x_reply_json(qn_exchange *x, int status, qn_str *s)
{
    bool is_large = s->n > QN_LIMIT_HTTP_ANSWER;
    if (x->status) {
        qn_str_fini(s);
        return;
    }
    qn_str_addc(s, '\n'); /* so that a terminal's prompt stands below it */
    if (s->failed || is_large) {
        qn_str_fini(s);
        if (is_large)
            qn_x_error(x, 400, NULL, "answer_too_large", "the answer would take more than %d bytes",
                       QN_LIMIT_HTTP_ANSWER);
        else
            qn_x_error(x, 503, NULL, NULL, "out of memory");
    } else {
        x->status = status;
        set_type(x, "application/json");
        x->out = *s;
        *s = (qn_str){0};
    }
}

/* ---- errors ---- */

typedef enum shape { SHAPE_OPENAI, SHAPE_ANTHROPIC, SHAPE_OLLAMA } shape;

static bool is_under(qn_slice path, const char *prefix)
{
    size_t n = strlen(prefix);
    return path.n >= n && memcmp(path.p, prefix, n) == 0;
}

static shape shape_of(const qn_exchange *x)
{
    qn_slice p = x->http.path;
    return is_under(p, "/v1/messages") ? SHAPE_ANTHROPIC
           : is_under(p, "/api/")      ? SHAPE_OLLAMA
                                       : SHAPE_OPENAI;
}

static const char *type_of(int status, shape sh)
{
    bool is_anthropic = sh == SHAPE_ANTHROPIC;
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 413:
        return is_anthropic ? "request_too_large" : "invalid_request_error";
    case 429:
        return "rate_limit_error";
    case 501:
        return is_anthropic ? "api_error" : "not_supported_error";
    case 503:
        return is_anthropic ? "overloaded_error" : "unavailable_error";
    default:
        return status < 500 ? "invalid_request_error" : is_anthropic ? "api_error" : "server_error";
    }
}

static void add_member(qn_str *s, const char *name, const char *value)
{
    qn_str_addf(s, "\"%s\":", name);
    qn_str_add_json_or_null(s, value);
}

typedef struct failure {
    int status;
    const char *message, *param, *code;
} failure;

static void add_error(qn_str *s, const qn_exchange *x, const failure *f)
{
    shape sh = shape_of(x);
    const char *type = type_of(f->status, sh);
    if (sh == SHAPE_OLLAMA) {
        qn_str_addc(s, '{');
        add_member(s, "error", f->message);
        qn_str_addc(s, '}');
        return;
    }
    qn_str_adds(s, sh == SHAPE_ANTHROPIC ? "{\"type\":\"error\",\"error\":{" : "{\"error\":{");
    if (sh == SHAPE_ANTHROPIC) {
        add_member(s, "type", type);
        qn_str_addc(s, ',');
        add_member(s, "message", f->message);
        qn_str_adds(s, "},");
        add_member(s, "request_id", x->id);
        qn_str_addc(s, '}');
        return;
    }
    add_member(s, "message", f->message);
    qn_str_addc(s, ',');
    add_member(s, "type", type);
    qn_str_addc(s, ',');
    add_member(s, "param", f->param);
    qn_str_addc(s, ',');
    add_member(s, "code", f->code);
    qn_str_adds(s, "}}");
}

/* The last event of a stream. */
static void end_with_error(qn_exchange *x, const failure *f)
{
    qn_str s = {0};
    add_error(&s, x, f);
    if (s.failed) {
        /* the stream ends without a last word */
    } else if (x->is_event_stream) {
        shape sh = shape_of(x);
        qn_x_write_event(x, sh == SHAPE_ANTHROPIC ? "error" : NULL, &s);
        if (sh == SHAPE_OPENAI)
            qn_x_write(x, "data: [DONE]\n\n", 14);
    } else {
        qn_str_addc(&s, '\n');
        qn_x_write(x, s.p, s.n);
    }
    qn_str_fini(&s);
    x->status = f->status; /* for the books */
    qn_x_end(x);
}

void qn_x_because(qn_exchange *x, const char *reason)
{
    if (!x->reason[0])
        (void)snprintf(x->reason, sizeof x->reason, "%s", reason);
}

void qn_x_error(qn_exchange *x, int status, const char *param, const char *code, const char *fmt,
                ...)
{
    char message[1024];
    qn_x_because(x, code ? code : type_of(status, SHAPE_OPENAI));
    if (param && !x->param[0])
        (void)snprintf(x->param, sizeof x->param, "%s", param);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    failure f = {status, message, param, code};
    if (x->is_begun) {
        if (!x->is_ended)
            end_with_error(x, &f);
        return;
    }
    if (x->status)
        return;
    x->status = status;
    set_type(x, "application/json");
    add_error(&x->out, x, &f);
    qn_str_addc(&x->out, '\n');
    if ((status == 429 || status == 503) && !x->has_retry)
        qn_x_retry_after(x, 1);
    if (status == 500)
        qn_x_add_header(x, "x-should-retry", "false");
}

void qn_x_retry_after(qn_exchange *x, uint64_t s)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)s);
    qn_x_add_header(x, "Retry-After", text);
}

void qn_x_refuse(qn_exchange *x, int status, int retry_s, const char *why)
{
    qn_x_because(x, why);
    if (!x->status)
        qn_x_retry_after(x, (uint64_t)retry_s);
    qn_x_error(x, status, NULL, NULL, "%s", why);
}

int qn_x_status(qn_status s, const char **code)
{
    static const struct {
        int http;
        const char *code;
    } of[] = {[QN_E_ARG] = {400, NULL},          [QN_E_FORMAT] = {400, NULL},
              [QN_E_UNSUPPORTED] = {400, NULL},  [QN_E_TOO_LONG] = {400, "context_length_exceeded"},
              [QN_E_NOT_FOUND] = {404, NULL},    [QN_E_QUEUE_FULL] = {429, "queue_full"},
              [QN_E_BUSY] = {503, "queue_full"}, [QN_E_KV_FULL] = {503, "kv_cache_full"},
              [QN_E_TIMEOUT] = {503, "timeout"}, [QN_E_NOMEM] = {503, NULL},
              [QN_E_INTERNAL] = {500, NULL}};
    if (code)
        *code = of[s].code;
    return of[s].http ? of[s].http : 500;
}

void qn_x_fail(qn_exchange *x, const qn_err *err, const char *param)
{
    const char *code;
    int status = qn_x_status(err->status, &code);
    if (!x->is_put_off)
        qn_x_error(x, status, param, code, "%s", err->msg);
}

bool qn_x_is_gone(const qn_exchange *x)
{
    return atomic_load(&x->is_gone);
}

/* ---- answers in pieces ---- */

void qn_x_begin(qn_exchange *x, const char *type)
{
    if (x->status)
        return;
    x->status = 200;
    x->is_begun = true;
    set_type(x, type);
    x->is_event_stream = strcmp(x->type, "text/event-stream") == 0;
    if (x->is_event_stream) {
        qn_x_add_header(x, "Cache-Control", "no-cache");
        qn_x_add_header(x, "X-Accel-Buffering", "no");
    }
    x->is_chunked = x->http.minor == 1;
    if (x->conn)
        qn_conn_send_head(x->conn, x);
    x->wrote_ns = qn_now_ns();
    if (x->conn)
        qn_conn_watch(x->conn);
}

/* As one chunk, by one write. */
static void write_pieces(qn_exchange *x, const struct iovec *v, int n_v)
{
    struct iovec all[8];
    char size[20];
    size_t n = 0;
    int at = 1;
    if (!x->is_begun || x->is_ended || x->is_head || !x->conn)
        return;
    for (int i = 0; i < n_v; i++) {
        n += v[i].iov_len;
        all[at++] = v[i];
    }
    if (n == 0)
        return;
    all[0] = (struct iovec){size, (size_t)snprintf(size, sizeof size, "%zx\r\n", n)};
    all[at++] = (struct iovec){(char *)"\r\n", 2};
    if (x->is_chunked)
        qn_conn_write(x->conn, all, at);
    else
        qn_conn_write(x->conn, all + 1, at - 2);
    x->n_sent += n;
    x->wrote_ns = qn_now_ns();
}

void qn_x_write(qn_exchange *x, const void *p, size_t n)
{
    struct iovec v = {(void *)(uintptr_t)p, n};
    write_pieces(x, &v, 1);
}

static struct iovec text_of(const char *z)
{
    return (struct iovec){(void *)(uintptr_t)z, strlen(z)};
}

void qn_x_write_event(qn_exchange *x, const char *name, const qn_str *text)
{
    if (text->failed) {
        failure f = {503, "out of memory", NULL, NULL};
        if (!x->is_ended)
            end_with_error(x, &f);
        return;
    }
    struct iovec v[] = {text_of(name ? "event: " : ""),
                        text_of(name ? name : ""),
                        text_of(name ? "\ndata: " : "data: "),
                        {text->p, text->n},
                        text_of("\n\n")};
    write_pieces(x, v, QN_COUNT(v));
}

void qn_x_write_comment(qn_exchange *x)
{
    static const char text[] = ": keep-alive\n\n";
    qn_x_write(x, text, sizeof text - 1);
}

void qn_x_end(qn_exchange *x)
{
    struct iovec last = text_of("0\r\n\r\n");
    if (!x->is_begun || x->is_ended)
        return;
    if (x->is_chunked && !x->is_head && x->conn)
        qn_conn_write(x->conn, &last, 1);
    x->is_ended = true;
}

/* ---- the log ---- */

static void add_escaped(qn_str *s, qn_slice text, size_t max)
{
    for (size_t i = 0; i < text.n && i < max; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if (c <= 0x20 || c >= 0x7f || c == '"' || c == '\\')
            qn_str_addf(s, "\\x%02x", c);
        else
            qn_str_addc(s, (char)c);
    }
}

static void add_reason(qn_str *s, const qn_exchange *x)
{
    bool has_space = strchr(x->reason, ' ') != NULL;
    qn_str_addf(s, has_space ? " error=\"%s\"" : " error=%s", x->reason[0] ? x->reason : "none");
    if (x->param[0]) {
        qn_str_adds(s, " param=");
        add_escaped(s, qn_slice_of(x->param), sizeof x->param);
    }
}

/* time id method path status bytes ms [tokens class] [error]; no query, which may hold anything, and no message, which may quote. */
void qn_x_note(qn_exchange *x)
{
    qn_server *s = x->server;
    struct timespec t;
    struct tm tm;
    qn_str line = {0};
    char time_text[32] = "";
    qn_metrics_http(s->metrics,
                    x->is_head ? "HEAD"
                    : x->route ? x->route->method
                               : "other",
                    x->route ? x->route->path : "other", x->status);
    if (!s->cfg->log)
        return;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    if (gmtime_r(&t.tv_sec, &tm))
        (void)strftime(time_text, sizeof time_text, "%Y-%m-%dT%H:%M:%S", &tm);
    qn_str_addf(&line, "%s.%03ldZ id=%s ", time_text, t.tv_nsec / 1000000, x->id);
    add_escaped(&line, x->http.method.p ? x->http.method : QN_SLICE("-"), 16);
    qn_str_addc(&line, ' ');
    add_escaped(&line, x->http.path.p ? x->http.path : QN_SLICE("-"), 200);
    qn_str_addf(&line, " %d %llu B %.1f ms", x->status, (unsigned long long)x->n_sent,
                (double)(qn_now_ns() - x->begin_ns) / 1e6);
    if (x->api)
        qn_str_addf(&line, " prompt=%llu cached=%llu output=%llu class=%s",
                    (unsigned long long)x->n_prompt, (unsigned long long)x->n_cached,
                    (unsigned long long)x->n_output, x->gen_class);
    if (x->status >= 400)
        add_reason(&line, x);
    if (!line.failed)
        qn_server_log(s, line.p, line.n);
    qn_str_fini(&line);
}
