/* SPDX-License-Identifier: Apache-2.0
 * load_wire.c - URL, HTTP answer, event stream, events. */
#include "cmd/load_wire.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/limits.h"

/* ---- URL ---- */

/* The port behind a colon; without one the scheme's. */
static bool port_of(const char *p, size_t n, bool is_tls, int *port)
{
    uint64_t v = is_tls ? 443 : 80;
    bool good = n == 0 || (*p == ':' && qn_parse_u64(p + 1, n - 1, 65535, &v) && v > 0);
    *port = (int)v;
    return good;
}

static bool is_plain(const char *p, size_t n, const char *allowed)
{
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        bool is_alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!is_alnum && (!c || !strchr(allowed, c)))
            return false;
    }
    return true;
}

/* Takes suffix off *n bytes at p. */
static bool chop(const char *p, size_t *n, const char *suffix)
{
    size_t k = strlen(suffix);
    bool has = *n >= k && memcmp(p + *n - k, suffix, k) == 0;
    *n -= has ? k : 0;
    return has;
}

qn_status load_url_parse(load_url *out, const char *text, qn_err *err)
{
    const char *p = text;
    *out = (load_url){0};
    if (strncasecmp(p, "https://", 8) == 0) {
        out->is_tls = true;
        p += 8;
    } else if (strncasecmp(p, "http://", 7) == 0) {
        p += 7;
    } else if (strstr(p, "://")) {
        return qn_fail(err, QN_E_ARG, "%s: wanted http:// or https://", text);
    }
    size_t n = strcspn(p, "/"), host_n;
    const char *host = p, *port;
    bool is_v6 = *p == '[';
    if (is_v6) {
        const char *end = memchr(p, ']', n);
        host = p + 1;
        host_n = end ? (size_t)(end - host) : 0;
        port = end ? end + 1 : p;
    } else {
        host_n = QN_MIN(strcspn(p, ":"), n);
        port = p + host_n;
    }
    if (host_n == 0 || host_n >= sizeof(out->host) ||
        !is_plain(host, host_n, is_v6 ? ":.%" : "-._") ||
        !port_of(port, (size_t)(p + n - port), out->is_tls, &out->port))
        return qn_fail(err, QN_E_ARG, "%s: wanted http://HOST:PORT, as http://127.0.0.1:8080",
                       text);
    memcpy(out->host, host, host_n);
    (void)snprintf(out->authority, sizeof(out->authority), is_v6 ? "[%s]:%d" : "%s:%d", out->host,
                   out->port);
    p += n;
    n = strlen(p);
    if (n >= sizeof(out->base) - 8 || !is_plain(p, n, "/-._~%+,:"))
        return qn_fail(err, QN_E_ARG, "%s: wanted a path without query, as /v1", text);
    while (n && p[n - 1] == '/')
        n--;
    out->is_chat = chop(p, &n, "/chat/completions");
    bool is_named = out->is_chat || chop(p, &n, "/completions");
    memcpy(out->base, p, n);
    if (!is_named && !qn_ends_with(out->base, "/v1"))
        memcpy(out->base + n, "/v1", 4);
    return QN_OK;
}

/* ---- HTTP ---- */

enum {
    AT_STATUS,
    AT_HEADER,
    AT_LENGTH, /* `left` more bytes of body */
    AT_CLOSE,  /* body until the server closes */
    AT_CHUNK_SIZE,
    AT_CHUNK,
    AT_CHUNK_END,
    AT_TRAILER,
    AT_END
};

#define MAX_INTERIM 16 /* 1xx answers before the real one */

void load_http_init(load_http *h, load_bytes_fn body, void *arg)
{
    qn_str line = h->line; /* keeps its memory from answer to answer */
    qn_str_clear(&line);
    *h = (load_http){.body = body, .arg = arg, .retry_after_s = -1, .line = line};
}

void load_http_fini(load_http *h)
{
    qn_str_fini(&h->line);
}

bool load_http_is_whole(const load_http *h)
{
    return h->state == AT_END;
}

static qn_status read_status(load_http *h, const char *p, size_t n, qn_err *err)
{
    uint64_t code = 0;
    bool is_http = n >= 12 && memcmp(p, "HTTP/1.", 7) == 0 && (p[7] == '0' || p[7] == '1') &&
                   p[8] == ' ' && qn_parse_u64(p + 9, 3, 599, &code) && code >= 100 &&
                   (n == 12 || p[12] == ' ');
    char shown[64];
    qn_escape(shown, sizeof(shown), p, QN_MIN(n, (size_t)40));
    if (!is_http)
        return qn_fail(err, QN_E_FORMAT, "found '%s', wanted an HTTP/1.1 answer", shown);
    h->status = (int)code;
    h->keeps_alive = p[7] == '1';
    h->is_events = h->is_json = h->is_chunked = h->has_length = false;
    h->state = AT_HEADER;
    return QN_OK;
}

/* Is `word` one of a header's comma-separated words, whatever its case? */
static bool has_word(qn_slice v, const char *word)
{
    size_t k = strlen(word);
    for (size_t i = 0; i < v.n;) {
        size_t end = i;
        while (end < v.n && v.p[end] != ',')
            end++;
        size_t a = i, b = end;
        while (a < b && (v.p[a] == ' ' || v.p[a] == '\t'))
            a++;
        while (b > a && (v.p[b - 1] == ' ' || v.p[b - 1] == '\t'))
            b--;
        if (b - a == k && strncasecmp(v.p + a, word, k) == 0)
            return true;
        i = end + 1;
    }
    return false;
}

static bool is_type(qn_slice v, const char *type)
{
    size_t k = strlen(type);
    return v.n >= k && strncasecmp(v.p, type, k) == 0 &&
           (v.n == k || v.p[k] == ';' || v.p[k] == ' ');
}

static qn_status read_header(load_http *h, const char *p, size_t n, qn_err *err)
{
    const char *colon = memchr(p, ':', n);
    uint64_t v;
    if (!colon || colon == p)
        return qn_fail(err, QN_E_FORMAT, "HTTP: found a header without a name");
    qn_slice name = {p, (size_t)(colon - p)};
    qn_slice value = {colon + 1, n - name.n - 1};
    while (value.n && (*value.p == ' ' || *value.p == '\t'))
        value = (qn_slice){value.p + 1, value.n - 1};
    while (value.n && (value.p[value.n - 1] == ' ' || value.p[value.n - 1] == '\t'))
        value.n--;
#define IS(s) (name.n == sizeof(s) - 1 && strncasecmp(name.p, s, name.n) == 0)
    if (IS("Content-Length")) {
        if (!qn_parse_u64(value.p, value.n, INT64_MAX, &v) || (h->has_length && v != h->length))
            return qn_fail(err, QN_E_FORMAT, "HTTP: found a Content-Length that is none");
        h->has_length = true;
        h->length = v;
    } else if (IS("Transfer-Encoding")) {
        if (!has_word(value, "chunked"))
            return qn_fail(err, QN_E_UNSUPPORTED,
                           "HTTP: found a Transfer-Encoding other than chunked");
        h->is_chunked = true;
    } else if (IS("Connection")) {
        if (has_word(value, "close"))
            h->keeps_alive = false;
        else if (has_word(value, "keep-alive"))
            h->keeps_alive = true;
    } else if (IS("Content-Type")) {
        h->is_events = is_type(value, "text/event-stream");
        h->is_json = is_type(value, "application/json");
    } else if (IS("Retry-After")) {
        if (qn_parse_u64(value.p, value.n, 86400, &v))
            h->retry_after_s = (int)v;
    }
#undef IS
    return QN_OK;
}

static qn_status end_head(load_http *h, qn_err *err)
{
    if (h->status < 200) {
        h->state = AT_STATUS;
        h->status = 0;
        if (++h->n_interim > MAX_INTERIM)
            return qn_fail(err, QN_E_FORMAT, "HTTP: found more than %d interim answers",
                           MAX_INTERIM);
        return QN_OK;
    }
    h->left = h->length;
    if (h->status == 204 || h->status == 304) {
        h->state = AT_END;
    } else if (h->is_chunked) {
        h->state = AT_CHUNK_SIZE;
    } else if (h->has_length) {
        h->state = h->length ? AT_LENGTH : AT_END;
    } else {
        h->state = AT_CLOSE;
        h->keeps_alive = false;
    }
    return QN_OK;
}

static qn_status read_chunk_size(load_http *h, const char *p, size_t n, qn_err *err)
{
    uint64_t v = 0;
    size_t i = 0;
    for (; i < n && p[i] != ';' && p[i] != ' ' && p[i] != '\t'; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : 10 + (c | 0x20) - 'a';
        bool is_hex = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
        if (!is_hex || i == 15)
            return qn_fail(err, QN_E_FORMAT, "HTTP: found a chunk size that is no number");
        v = v * 16 + (uint64_t)digit;
    }
    if (i == 0)
        return qn_fail(err, QN_E_FORMAT, "HTTP: found no chunk size");
    h->left = v;
    h->state = v ? AT_CHUNK : AT_TRAILER;
    return QN_OK;
}

static qn_status read_line(load_http *h, const char *p, size_t n, qn_err *err)
{
    switch (h->state) {
    case AT_STATUS:
        return n || h->is_begun ? read_status(h, p, n, err) : QN_OK;
    case AT_HEADER:
        return n ? read_header(h, p, n, err) : end_head(h, err);
    case AT_CHUNK_SIZE:
        return read_chunk_size(h, p, n, err);
    case AT_CHUNK_END:
        h->state = AT_CHUNK_SIZE;
        return n ? qn_fail(err, QN_E_FORMAT, "HTTP: found a chunk longer than its size") : QN_OK;
    default:
        if (n == 0)
            h->state = AT_END;
        return QN_OK;
    }
}

/* Gathers a line and reads it once it is whole. Lines outside the head are bounded like it, one by one; trailers all together. */
static qn_status feed_line(load_http *h, const char *p, size_t n, size_t *used, qn_err *err)
{
    const char *end = memchr(p, '\n', n);
    *used = end ? (size_t)(end - p) + 1 : n;
    if (h->state == AT_CHUNK_SIZE && h->line.n == 0)
        h->head_bytes = 0;
    h->head_bytes += *used;
    if (h->head_bytes > QN_LIMIT_LOAD_HEAD)
        return qn_fail(err, QN_E_FORMAT, "HTTP: found a head of more than %d bytes",
                       QN_LIMIT_LOAD_HEAD);
    qn_str_add(&h->line, p, *used - (end ? 1 : 0));
    if (h->line.failed)
        return qn_fail_nomem(err, *used);
    if (!end)
        return QN_OK;
    size_t len = h->line.n;
    if (len && h->line.p[len - 1] == '\r')
        len--;
    qn_status s = read_line(h, h->line.p, len, err);
    qn_str_clear(&h->line);
    return s;
}

qn_status load_http_feed(load_http *h, const char *p, size_t n, size_t *used, qn_err *err)
{
    *used = 0;
    while (*used < n && h->state != AT_END) {
        size_t k = 0;
        if (h->state == AT_LENGTH || h->state == AT_CHUNK || h->state == AT_CLOSE) {
            k = n - *used;
            if (h->state != AT_CLOSE) {
                k = (size_t)QN_MIN((uint64_t)k, h->left);
                h->left -= k;
            }
            const char *piece = p + *used;
            *used += k;
            if (h->state != AT_CLOSE && h->left == 0)
                h->state = h->state == AT_CHUNK ? AT_CHUNK_END : AT_END;
            QN_TRY(h->body(h->arg, piece, k, err));
        } else {
            QN_TRY(feed_line(h, p + *used, n - *used, &k, err));
            *used += k;
        }
        h->is_begun = true;
    }
    return QN_OK;
}

qn_status load_http_close(load_http *h, qn_err *err)
{
    if (h->state == AT_CLOSE)
        h->state = AT_END;
    if (h->state == AT_END)
        return QN_OK;
    return qn_fail(err, QN_E_PEER,
                   h->is_begun ? "connection closed in the middle of the answer"
                               : "connection closed without an answer");
}

/* ---- events ---- */

static qn_status end_line(load_sse *s, qn_err *err)
{
    const char *p = s->line.p ? s->line.p : "";
    size_t n = s->line.n;
    if (!s->is_begun && n >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0) {
        p += 3;
        n -= 3;
    }
    s->is_begun = true;
    if (n == 0) {
        qn_status status = QN_OK;
        if (s->has_data)
            status = s->event(s->arg, s->data.p ? s->data.p : "", s->data.n, err);
        s->has_data = false;
        qn_str_clear(&s->data);
        qn_str_clear(&s->line);
        return status;
    }
    if (n >= 4 && memcmp(p, "data", 4) == 0 && (n == 4 || p[4] == ':')) {
        size_t skip = n == 4 ? 4 : 5;
        skip += skip < n && p[skip] == ' ';
        if (s->has_data)
            qn_str_addc(&s->data, '\n');
        s->has_data = true;
        if (s->data.n + (n - skip) > QN_LIMIT_LOAD_EVENT)
            return qn_fail(err, QN_E_FORMAT, "found an event of more than %d bytes",
                           QN_LIMIT_LOAD_EVENT);
        qn_str_add(&s->data, p + skip, n - skip);
    }
    qn_str_clear(&s->line);
    return s->data.failed ? qn_fail_nomem(err, n) : QN_OK;
}

qn_status load_sse_feed(load_sse *s, const char *p, size_t n, qn_err *err)
{
    for (size_t i = 0; i < n;) {
        if (s->after_cr) {
            s->after_cr = false;
            if (p[i] == '\n') {
                i++;
                continue;
            }
        }
        size_t end = i;
        while (end < n && p[end] != '\n' && p[end] != '\r')
            end++;
        if (s->line.n + (end - i) > QN_LIMIT_LOAD_EVENT)
            return qn_fail(err, QN_E_FORMAT, "found a line of more than %d bytes in the events",
                           QN_LIMIT_LOAD_EVENT);
        qn_str_add(&s->line, p + i, end - i);
        if (s->line.failed)
            return qn_fail_nomem(err, end - i);
        if (end < n) {
            s->after_cr = p[end] == '\r';
            QN_TRY(end_line(s, err));
        }
        i = end + 1;
    }
    return QN_OK;
}

void load_sse_fini(load_sse *s)
{
    qn_str_fini(&s->line);
    qn_str_fini(&s->data);
}

/* ---- what events say ---- */

static bool has_text(const json_t *v)
{
    return json_is_string(v) ? json_string_length(v) > 0 : json_array_size(v) > 0;
}

static bool choice_has_text(const json_t *choice)
{
    static const char *const names[] = {"content", "reasoning_content", "reasoning", "tool_calls"};
    const json_t *delta = json_object_get(choice, "delta");
    bool found = has_text(json_object_get(choice, "text"));
    for (size_t i = 0; !found && i < QN_COUNT(names); i++)
        found = has_text(json_object_get(delta, names[i]));
    return found;
}

/* {"error": {"message": ...}}, {"error": "..."}, {"message": ...}, {"detail": ...} */
static const char *message_of(const json_t *o)
{
    const json_t *e = json_object_get(o, "error");
    const char *text = json_string_value(e);
    if (!text)
        text = json_string_value(json_object_get(e, "message"));
    if (!text)
        text = json_string_value(json_object_get(o, "message"));
    return text ? text : json_string_value(json_object_get(o, "detail"));
}

static uint64_t count_of(const json_t *o, const char *name)
{
    json_int_t v = json_integer_value(json_object_get(o, name));
    return v > 0 && v <= QN_LIMIT_CONTEXT ? (uint64_t)v : 0;
}

qn_status load_reply_event(load_reply *r, const char *p, size_t n, bool *is_text, qn_err *err)
{
    json_t *o = NULL;
    *is_text = false;
    if (n == 6 && memcmp(p, "[DONE]", 6) == 0) {
        r->is_ended = true;
        return QN_OK;
    }
    QN_TRY(qn_json_parse(&o, p, n, 0, "an event", err));
    const json_t *choices = json_object_get(o, "choices"), *e = json_object_get(o, "error");
    const json_t *usage = json_object_get(o, "usage"), *choice;
    qn_status s = QN_OK;
    size_t i;
    if (e && !json_is_null(e)) {
        const char *text = message_of(o);
        s = qn_fail(err, QN_E_PEER, "error in the answer: %s", text ? text : "without a message");
    } else if (!json_is_array(choices)) {
        s = qn_fail(err, QN_E_FORMAT, "found an event without choices, wanted a completion's");
    }
    json_array_foreach((json_t *)choices, i, choice)
    {
        *is_text |= choice_has_text(choice);
        r->is_finished |= json_is_string(json_object_get(choice, "finish_reason"));
    }
    if (json_is_object(usage)) {
        r->has_usage = true;
        r->n_in = count_of(usage, "prompt_tokens");
        r->n_out = count_of(usage, "completion_tokens");
    }
    r->n_texts += *is_text;
    json_decref(o);
    return s;
}

static size_t first_line(const char *p, size_t n)
{
    size_t k = 0;
    while (k < n && p[k] != '\n' && p[k] != '\r')
        k++;
    return k;
}

void load_reply_message(char *out, size_t size, const char *p, size_t n)
{
    json_t *o = NULL;
    const char *text = NULL;
    if (qn_json_parse(&o, p, n, 0, "error", NULL) == QN_OK)
        text = message_of(o);
    if (text)
        qn_escape(out, size, text, strlen(text));
    else
        qn_escape(out, size, p, n && *p == '<' ? 0 : first_line(p, n));
    json_decref(o);
}

qn_status load_reply_model(qn_str *out, const char *p, size_t n, qn_err *err)
{
    json_t *o = NULL;
    QN_TRY(qn_json_parse(&o, p, n, 0, "/v1/models", err));
    const json_t *data = json_object_get(o, "data");
    const char *id = json_string_value(json_object_get(json_array_get(data, 0), "id"));
    qn_status s = QN_OK;
    if (id)
        qn_str_adds(out, id);
    else if (json_array_size(data) == 0 && json_is_array(data))
        s = qn_fail(err, QN_E_NOT_FOUND, "the server has no model");
    else
        s = qn_fail(err, QN_E_FORMAT, "found no model ids");
    json_decref(o);
    return out->failed ? qn_fail_nomem(err, n) : s;
}
