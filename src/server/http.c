/* SPDX-License-Identifier: Apache-2.0
 * http.c - lines are collected, then read; bodies are passed on as they come.
 *
 *   buf: request line NUL header line NUL ...    then, one after the other in the same place, lines of chunk sizes and trailers
 *
 * What a byte may be is checked as it comes, so that an error does not depend on how the bytes are split. */
#include "server/http.h"

#include "base/mem.h"
#include <string.h>
#include <strings.h>

#define CHUNK_DIGITS 8

_Static_assert(QN_LIMIT_HTTP_LINE + QN_LIMIT_HTTP_HEADER_BYTES + QN_LIMIT_HTTP_TRAILERS +
                       2 * QN_LIMIT_HTTP_HEADERS <
                   UINT16_MAX,
               "a place in the buffer fits its type");
_Static_assert(QN_LIMIT_HTTP_TRAILERS >= QN_LIMIT_HTTP_CHUNK_EXTENSIONS + CHUNK_DIGITS + 2,
               "the room for trailers holds the line of a chunk too");

void qn_http_init(qn_http *h, uint64_t max_body)
{
    *h = (qn_http){.max_body = max_body};
}

void qn_http_fini(qn_http *h)
{
    qn_free(h->buf);
    *h = (qn_http){.state = QN_HTTP_IS_OVER};
}

static qn_slice at(const qn_http *h, uint16_t place, uint16_t n)
{
    return (qn_slice){h->buf + place, n};
}

/* Slices of the first line, when the buffer moves no more. */
static void show_line(qn_http *h)
{
    if (!h->n_method)
        return;
    h->method = at(h, 0, h->n_method);
    h->path = h->n_path ? at(h, h->path_at, h->n_path) : QN_SLICE("/");
    if (h->has_query)
        h->query = at(h, h->query_at, h->n_query);
    if (h->n_host || h->n_hosts)
        h->host = at(h, h->host_at, h->n_host);
}

static qn_http_event bad(qn_http *h, int status, const char *reason)
{
    show_line(h);
    h->status = status;
    h->reason = reason;
    h->state = QN_HTTP_IS_OVER;
    return QN_HTTP_BAD;
}

bool qn_http_is(qn_slice s, const char *word)
{
    return s.p && s.n == strlen(word) && strncasecmp(s.p, word, s.n) == 0;
}

static bool is_token(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool qn_http_decode(char *p, size_t *n, bool plus)
{
    size_t to = 0;
    for (size_t i = 0; i < *n; i++) {
        char c = p[i];
        if (c == '%') {
            int a = i + 2 < *n ? hex_digit(p[i + 1]) : -1;
            int b = i + 2 < *n ? hex_digit(p[i + 2]) : -1;
            if (a < 0 || b < 0 || (a == 0 && b == 0))
                return false;
            c = (char)(a * 16 + b);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        p[to++] = c;
    }
    *n = to;
    return true;
}

/* ---- the head ---- */

/* Letters, digits and what stands in names and addresses; user names have no place here. */
static bool is_host(qn_slice s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
              strchr("-._~:[]%", c)))
            return false;
    }
    return true;
}

/* origin-form, absolute-form, or the asterisk of OPTIONS. A host that is named here is the one meant: RFC 9112, 3.2.2. */
static bool read_target(qn_http *h, char *p, size_t n, bool is_options)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)p[i] <= 0x20 || (unsigned char)p[i] >= 0x7f || p[i] == '#')
            return false;
    if (*p != '/' && !(n == 1 && *p == '*' && is_options)) {
        size_t scheme = n > 7 && strncasecmp(p, "http://", 7) == 0    ? 7
                        : n > 8 && strncasecmp(p, "https://", 8) == 0 ? 8
                                                                      : 0;
        size_t end = scheme;
        while (end < n && p[end] != '/' && p[end] != '?')
            end++;
        if (!scheme || end == scheme || !is_host((qn_slice){p + scheme, end - scheme}))
            return false;
        h->host_at = (uint16_t)(p + scheme - h->buf);
        h->n_host = (uint16_t)(end - scheme);
        p += end;
        n -= end;
    }
    char *mark = n ? memchr(p, '?', n) : NULL;
    h->has_query = mark != NULL;
    if (mark) {
        h->query_at = (uint16_t)(mark + 1 - h->buf);
        h->n_query = (uint16_t)(p + n - mark - 1);
        n = (size_t)(mark - p);
    }
    if (!qn_http_decode(p, &n, false) || !qn_utf8_valid(p, n))
        return false;
    h->path_at = (uint16_t)(p - h->buf);
    h->n_path = (uint16_t)n;
    return true;
}

static qn_http_event read_request_line(qn_http *h, char *line, size_t n)
{
    static const char *const methods[] = {"GET",     "HEAD",  "POST",  "PUT",
                                          "OPTIONS", "PATCH", "DELETE"};
    size_t m = 0, i = 0;
    while (m < n && is_token(line[m]))
        m++;
    char *target = line + m + 1;
    char *end = m && m < n && line[m] == ' ' ? memchr(target, ' ', n - m - 1) : NULL;
    if (!end || end == target)
        return bad(h, 400, "a request line is METHOD TARGET HTTP/1.1, with single blanks");
    const char *v = end + 1;
    size_t n_v = n - (size_t)(v - line);
    if (n_v != 8 || memcmp(v, "HTTP/", 5) != 0 || v[5] < '0' || v[5] > '9' || v[6] != '.' ||
        v[7] < '0' || v[7] > '9')
        return bad(h, 400, "the request line does not end in a version of HTTP");
    if (v[5] != '1')
        return bad(h, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    h->minor = v[7] > '0';
    h->is_kept = h->minor == 1;
    while (i < QN_COUNT(methods) && !qn_slice_is((qn_slice){line, m}, methods[i]))
        i++;
    if (i == QN_COUNT(methods))
        return bad(h, 501, "the method is not one that any resource here has");
    if (!read_target(h, target, (size_t)(end - target), *line == 'O'))
        return bad(h, 400, "the target is not a path, or holds bytes that must be escaped");
    h->n_method = (uint16_t)m;
    h->state = QN_HTTP_IN_HEADERS;
    return QN_HTTP_MORE;
}

/* name ":" value: true if it is one. The rule for trailers too. */
static bool split_field(const char *line, size_t n, size_t *n_name, size_t *value, size_t *n_value)
{
    size_t i = 0;
    while (i < n && is_token(line[i]))
        i++;
    if (i == 0 || i == n || line[i] != ':')
        return false;
    *n_name = i++;
    while (i < n && (line[i] == ' ' || line[i] == '\t'))
        i++;
    while (n > i && (line[n - 1] == ' ' || line[n - 1] == '\t'))
        n--;
    *value = i;
    *n_value = n - i;
    return true;
}

static qn_http_event read_length(qn_http *h, qn_slice value)
{
    if (h->has_length)
        return bad(h, 400, "two Content-Length headers");
    h->has_length = true;
    for (size_t i = 0; i < value.n; i++)
        if (value.p[i] < '0' || value.p[i] > '9')
            return bad(h, 400, "Content-Length is not a number");
    if (value.n == 0)
        return bad(h, 400, "Content-Length is not a number");
    if (!qn_parse_u64(value.p, value.n, UINT64_MAX, &h->n_length))
        return bad(h, 413, "the body is longer than a request may be");
    return QN_HTTP_MORE;
}

/* "close" and "keep-alive" in the list of a Connection header. */
static void read_connection(qn_http *h, qn_slice value)
{
    for (size_t i = 0; i < value.n;) {
        while (i < value.n && strchr(", \t", value.p[i]))
            i++;
        size_t begin = i;
        while (i < value.n && !strchr(", \t", value.p[i]))
            i++;
        qn_slice word = {value.p + begin, i - begin};
        if (qn_http_is(word, "close")) {
            h->is_kept = false;
            h->wants_close = true;
        } else if (qn_http_is(word, "keep-alive") && !h->wants_close) {
            h->is_kept = true;
        }
    }
}

static qn_http_event read_header(qn_http *h, char *line, size_t n)
{
    size_t n_name, value_at, n_value;
    if (*line == ' ' || *line == '\t')
        return bad(h, 400, "a folded header line");
    if (!split_field(line, n, &n_name, &value_at, &n_value))
        return bad(h, 400, "a header is NAME: VALUE, without a blank before the colon");
    if (h->n_fields == QN_COUNT(h->fields))
        return bad(h, 431, "too many headers");
    qn_http_field *f = &h->fields[h->n_fields++];
    size_t begin = (size_t)(line - h->buf);
    *f = (qn_http_field){(uint16_t)begin, (uint16_t)n_name, (uint16_t)(begin + value_at),
                         (uint16_t)n_value};
    qn_slice name = {line, n_name}, value = {line + value_at, n_value};
    if (qn_http_is(name, "content-length"))
        return read_length(h, value);
    if (qn_http_is(name, "host")) {
        if (h->n_hosts++ || !is_host(value))
            return bad(h, 400, "two Host headers, or one that is not a host");
        if (!h->n_host) {
            h->host_at = f->value;
            h->n_host = f->n_value;
        }
    } else if (qn_http_is(name, "transfer-encoding")) {
        if (h->n_codings++)
            return bad(h, 400, "two Transfer-Encoding headers");
        h->coding_at = f->value;
        h->n_coding = f->n_value;
    } else if (qn_http_is(name, "connection")) {
        read_connection(h, value);
    } else if (qn_http_is(name, "expect")) {
        if (!qn_http_is(value, "100-continue"))
            return bad(h, 417, "only 100-continue can be expected");
        h->wants_continue = true;
    }
    return QN_HTTP_MORE;
}

/* What the headers say together. */
static qn_http_event end_head(qn_http *h)
{
    if (h->n_codings) {
        qn_slice coding = at(h, h->coding_at, h->n_coding);
        if (h->has_length)
            return bad(h, 400, "both Content-Length and Transfer-Encoding");
        if (h->minor == 0)
            return bad(h, 400, "Transfer-Encoding in HTTP/1.0");
        if (!qn_http_is(coding, "chunked")) {
            bool is_odd = coding.n == 0 || memchr(coding.p, ',', coding.n) ||
                          (coding.n >= 7 && strncasecmp(coding.p, "chunked", 7) == 0);
            return bad(h, is_odd ? 400 : 501, "the only Transfer-Encoding taken is: chunked");
        }
        h->is_chunked = true;
    }
    if (h->n_hosts == 0 && h->minor == 1)
        return bad(h, 400, "no Host header");
    /* room for the lines of chunks and trailers: slices of the head must not move any more */
    if (h->is_chunked &&
        !qn_grow(&h->buf, &h->cap_buf, h->n_buf + QN_LIMIT_HTTP_TRAILERS, 1, QN_MEM_REQUEST))
        return bad(h, 503, "out of memory");
    if (h->n_length > h->max_body)
        return bad(h, 413, "the body is longer than a request may be");
    h->wants_continue = h->wants_continue && h->minor == 1 && (h->is_chunked || h->n_length);
    h->n_left = h->n_length;
    show_line(h);
    h->state = h->is_chunked ? QN_HTTP_IN_CHUNK_SIZE
               : h->n_length ? QN_HTTP_IN_LENGTH
                             : QN_HTTP_AT_END;
    return QN_HTTP_HEAD;
}

/* ---- chunks ---- */

static qn_http_event read_chunk_size(qn_http *h, const char *line, size_t n)
{
    uint64_t size = 0;
    size_t i = 0;
    for (; i < n && hex_digit(line[i]) >= 0; i++) {
        if (i == CHUNK_DIGITS)
            return bad(h, 400, "a chunk size of more than 8 digits");
        size = size * 16 + (uint64_t)hex_digit(line[i]);
    }
    if (i == 0 || (i < n && line[i] != ';'))
        return bad(h, 400, "a chunk does not begin with its size");
    h->n_extensions += n - i;
    if (h->n_extensions > QN_LIMIT_HTTP_CHUNK_EXTENSIONS)
        return bad(h, 400, "the extensions of chunks are too long");
    if (size > h->max_body - h->n_body)
        return bad(h, 413, "the body is longer than a request may be");
    h->n_left = size;
    h->state = size ? QN_HTTP_IN_CHUNK : QN_HTTP_IN_TRAILERS;
    return QN_HTTP_MORE;
}

static qn_http_event read_trailer(qn_http *h, const char *line, size_t n)
{
    size_t n_name, value, n_value;
    if (!split_field(line, n, &n_name, &value, &n_value))
        return bad(h, 400, "a trailer is NAME: VALUE");
    return QN_HTTP_MORE;
}

/* ---- lines ---- */

/* A whole line without its end, at buf + line_at. */
static qn_http_event read_line(qn_http *h)
{
    char *line = h->buf + h->line_at;
    size_t n = h->n_buf - h->line_at - 2;
    line[n] = 0;
    h->n_buf -= 1; /* the NUL stays */
    h->n_line = 0;
    h->after_cr = false;
    switch (h->state) {
    case QN_HTTP_IN_LINE:
        if (n == 0 && !h->after_blank) { /* one empty line before a request: RFC 9112, 2.2 */
            h->after_blank = true;
            h->n_buf = 0;
            return QN_HTTP_MORE;
        }
        h->line_at = h->n_buf;
        return read_request_line(h, line, n);
    case QN_HTTP_IN_HEADERS:
        h->line_at = h->n_buf;
        return n ? read_header(h, line, n) : end_head(h);
    case QN_HTTP_IN_CHUNK_SIZE:
        h->n_buf = h->line_at;
        return read_chunk_size(h, line, n);
    case QN_HTTP_IN_CHUNK_END:
        h->n_buf = h->line_at;
        h->state = QN_HTTP_IN_CHUNK_SIZE;
        return n ? bad(h, 400, "a chunk is longer than its size") : QN_HTTP_MORE;
    default: /* trailers */
        h->n_buf = h->line_at;
        if (n)
            return read_trailer(h, line, n);
        h->state = QN_HTTP_AT_END;
        return QN_HTTP_MORE;
    }
}

/* How many bytes the line of this state may still have, and what it is to be over that. */
static size_t line_room(const qn_http *h, int *status, const char **reason)
{
    *status = 400;
    switch (h->state) {
    case QN_HTTP_IN_LINE:
        *status = 414;
        *reason = "the request line is too long";
        return QN_LIMIT_HTTP_LINE - h->n_line;
    case QN_HTTP_IN_HEADERS:
        *status = 431;
        *reason = "the headers are too long";
        return QN_LIMIT_HTTP_HEADER_BYTES - h->n_headers;
    case QN_HTTP_IN_CHUNK_SIZE:
        *reason = "the extensions of chunks are too long";
        return QN_LIMIT_HTTP_CHUNK_EXTENSIONS + CHUNK_DIGITS + 2 - h->n_extensions - h->n_line;
    case QN_HTTP_IN_CHUNK_END:
        *reason = "a chunk is longer than its size";
        return 2 - h->n_line;
    default:
        *reason = "the trailers are too long";
        return QN_LIMIT_HTTP_TRAILERS - h->n_trailers;
    }
}

/* Takes bytes up to the end of a line. */
static qn_http_event take_line(qn_http *h, const char *p, size_t n, size_t *used)
{
    int status;
    const char *reason;
    size_t room = line_room(h, &status, &reason), i = 0;
    bool is_whole = false;
    for (; i < n && !is_whole; i++) {
        char c = p[i];
        *used = i + 1;
        if (h->after_cr != (c == '\n'))
            return bad(h, 400, "a line does not end in CR LF");
        h->after_cr = c == '\r';
        if (((unsigned char)c < 0x20 && c != '\t' && c != '\r' && c != '\n') || c == 0x7f)
            return bad(h, 400, "a control byte");
        if (i == room)
            return bad(h, status, reason);
        is_whole = c == '\n';
    }
    if (!qn_grow(&h->buf, &h->cap_buf, h->n_buf + i, 1, QN_MEM_REQUEST))
        return bad(h, 503, "out of memory");
    memcpy(h->buf + h->n_buf, p, i);
    h->n_buf += i;
    h->n_line += i;
    h->n_headers += h->state == QN_HTTP_IN_HEADERS ? i : 0;
    h->n_trailers += h->state == QN_HTTP_IN_TRAILERS ? i : 0;
    return is_whole ? read_line(h) : QN_HTTP_MORE;
}

qn_http_event qn_http_take(qn_http *h, const char *p, size_t n, size_t *used)
{
    *used = 0;
    for (;;) {
        size_t k = 0;
        qn_http_event e;
        switch (h->state) {
        case QN_HTTP_IS_OVER:
            return h->status ? QN_HTTP_BAD : QN_HTTP_MORE;
        case QN_HTTP_AT_END:
            h->state = QN_HTTP_IS_OVER;
            return QN_HTTP_END;
        case QN_HTTP_IN_LENGTH:
        case QN_HTTP_IN_CHUNK:
            k = n - *used < h->n_left ? n - *used : (size_t)h->n_left;
            if (k == 0)
                return QN_HTTP_MORE;
            h->piece = (qn_slice){p + *used, k};
            *used += k;
            h->n_body += k;
            h->n_left -= k;
            if (h->n_left == 0)
                h->state = h->is_chunked ? QN_HTTP_IN_CHUNK_END : QN_HTTP_AT_END;
            return QN_HTTP_BODY;
        default:
            if (*used == n)
                return QN_HTTP_MORE;
            e = take_line(h, p + *used, n - *used, &k);
            *used += k;
            if (e != QN_HTTP_MORE)
                return e;
        }
    }
}

qn_slice qn_http_header(const qn_http *h, const char *name)
{
    for (size_t i = 0; i < h->n_fields; i++)
        if (qn_http_is(at(h, h->fields[i].name, h->fields[i].n_name), name))
            return at(h, h->fields[i].value, h->fields[i].n_value);
    return (qn_slice){0};
}

const char *qn_http_phrase(int status)
{
    static const struct {
        int status;
        const char *phrase;
    } phrases[] = {
        {100, "Continue"},
        {200, "OK"},
        {204, "No Content"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < QN_COUNT(phrases); i++)
        if (phrases[i].status == status)
            return phrases[i].phrase;
    return status < 300 ? "OK" : status < 500 ? "Bad Request" : "Internal Server Error";
}
