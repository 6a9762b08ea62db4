/* SPDX-License-Identifier: Apache-2.0
 * test_http.c - the parser, fed whole and byte by byte; and a server without models, over real sockets. */
#include "check.h"

#include "base/mem.h"
#include "server/core.h"
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the parser ---- */

typedef struct parsed {
    int status; /* 0: good */
    size_t n_used;
    bool has_head, has_end;
    qn_str body;
} parsed;

static parsed parse(qn_http *h, const char *p, size_t n, size_t step)
{
    parsed r = {0};
    size_t used;
    qn_http_init(h, 1000);
    for (size_t end = QN_MIN(step, n);; end = QN_MIN(end + step, n)) {
        qn_http_event e;
        do {
            e = qn_http_take(h, p + r.n_used, end - r.n_used, &used);
            r.n_used += used;
            r.has_head |= e == QN_HTTP_HEAD;
            if (e == QN_HTTP_BODY)
                qn_str_add(&r.body, h->piece.p, h->piece.n);
        } while (e == QN_HTTP_HEAD || e == QN_HTTP_BODY);
        r.status = e == QN_HTTP_BAD ? h->status : 0;
        r.has_end = e == QN_HTTP_END;
        if (e != QN_HTTP_MORE || end == n)
            return r;
    }
}

/* The status of what is refused, 0 for a whole request, -1 for half of one; the same for any split. */
static int status_of(const char *text, size_t n)
{
    int first = 0;
    for (size_t step = 1; step <= n; step = step < 9    ? step + 1
                                            : step == 9 ? QN_MAX(n, (size_t)10)
                                                        : n + 1) {
        qn_http h;
        parsed r = parse(&h, text, n, step);
        int s = r.status ? r.status : r.has_end ? 0 : -1;
        qn_str_fini(&r.body);
        qn_http_fini(&h);
        if (step == 1)
            first = s;
        else if (s != first)
            fail_msg("in pieces of %zu: %d, of 1: %d: %s", step, s, first, text);
    }
    return first;
}

#define H "Host: a\r\n"

static void test_requests(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int status;
    } cases[] = {
        {"GET / HTTP/1.1\r\n" H "\r\n", 0},
        {"\r\nGET / HTTP/1.1\r\n" H "\r\n", 0},
        {"\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n", 400},
        {"GET / HTTP/1.0\r\n\r\n", 0},
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n" H H "\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost:\r\n\r\n", 0},
        {"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 0},
        {"GET / HTTP/1.2\r\n" H "\r\n", 0},
        {"GET / HTTP/2.0\r\n" H "\r\n", 505},
        {"PRI * HTTP/2.0\r\n\r\n", 505},
        {"GET /\r\n\r\n", 400},
        {"GET / http/1.1\r\n" H "\r\n", 400},
        {"GET  / HTTP/1.1\r\n" H "\r\n", 400},
        {"GET /  HTTP/1.1\r\n" H "\r\n", 400},
        {" GET / HTTP/1.1\r\n" H "\r\n", 400},
        {"GET / HTTP/1.1 \r\n" H "\r\n", 400},
        {"GET /a b HTTP/1.1\r\n" H "\r\n", 400},
        {"GET /\xff HTTP/1.1\r\n" H "\r\n", 400},
        {"GET /%ff HTTP/1.1\r\n" H "\r\n", 400},
        {"GET /%00 HTTP/1.1\r\n" H "\r\n", 400},
        {"GET /%4 HTTP/1.1\r\n" H "\r\n", 400},
        {"GET /%4g HTTP/1.1\r\n" H "\r\n", 400},
        {"GET /#a HTTP/1.1\r\n" H "\r\n", 400},
        {"GET a HTTP/1.1\r\n" H "\r\n", 400},
        {"GET * HTTP/1.1\r\n" H "\r\n", 400},
        {"OPTIONS * HTTP/1.1\r\n" H "\r\n", 0},
        {"GET http://b/x HTTP/1.1\r\n" H "\r\n", 0},
        {"GET http:///x HTTP/1.1\r\n" H "\r\n", 400},
        {"GET http://u@b/x HTTP/1.1\r\n" H "\r\n", 400},
        {"GET ftp://b/x HTTP/1.1\r\n" H "\r\n", 400},
        {"CONNECT a:1 HTTP/1.1\r\n" H "\r\n", 501},
        {"BREW / HTTP/1.1\r\n" H "\r\n", 501},
        {"get / HTTP/1.1\r\n" H "\r\n", 501},
        {"GET / HTTP/1.1\n" H "\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\n\r\n", 400},
        {"GET / HTTP/1.1\r\r\n" H "\r\n", 400},
        {"GET / HTTP/1.1\r\nA: b\rc\r\n" H "\r\n", 400},
        {"GET / HTTP/1.1\r\n" H "A: b\r\n c\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n A: b\r\n" H "\r\n", 400},
        {"GET / HTTP/1.1\r\n" H "A : b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n" H "A\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n" H ": b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n" H "A(: b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n" H "A:\t b\x80 \r\n\r\n", 0},
        {"GET / HTTP/1.1\r\n" H "A: \x01\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n" H "Expect: 100-continue\r\n\r\n", 0},
        {"GET / HTTP/1.1\r\n" H "Expect: cake\r\n\r\n", 417},
        {"POST / HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc", 0},
        {"POST / HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nab", -1},
        {"POST / HTTP/1.1\r\n" H "Content-Length: 1001\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\n" H "Content-Length: 99999999999999999999999\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\n" H "Content-Length: +3\r\n\r\nabc", 400},
        {"POST / HTTP/1.1\r\n" H "Content-Length: -3\r\n\r\nabc", 400},
        {"POST / HTTP/1.1\r\n" H "Content-Length: 3, 3\r\n\r\nabc", 400},
        {"POST / HTTP/1.1\r\n" H "Content-Length: 0x3\r\n\r\nabc", 400},
        {"POST / HTTP/1.1\r\n" H "Content-Length:\r\n\r\nabc", 400},
        {"POST / HTTP/1.1\r\n" H "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400},
        {"POST / HTTP/1.1\r\n" H "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         400},
        {"POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked, chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunkedx\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: xchunked\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding:\x0b"
         "chunked\r\n\r\n",
         400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
         400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 0},
        {"POST / HTTP/1.1\r\n" H
         "Transfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0;x\r\nT: u\r\n\r\n",
         0},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n-2\r\nabc\r\n0\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n000000003\r\nabc\r\n0\r\n\r\n",
         400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n00000003\r\nabc\r\n0\r\n\r\n",
         0},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", 413},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n", -1},
        {"\x16\x03\x01\x02", 400},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        int s = status_of(cases[i].text, strlen(cases[i].text));
        if (s != cases[i].status)
            fail_msg("found %d, want %d: %s", s, cases[i].status, cases[i].text);
    }
    assert_int_equal(status_of("GET / HTTP/1.1\r\nA: \0\r\n\r\n", 25), 400);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), 0);
}

static void test_meaning(void **state)
{
    (void)state;
    static const char text[] =
        "POST http://b:8/v%31/a%2Fb?x=1&y HTTP/1.1\r\nhost: a\r\nX-Key:  v w \t\r\nConnection: "
        "foo, "
        "Close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;e\r\n world\r\n0\r\n\r\nGET";
    for (size_t step = 1; step < sizeof text; step += 7) {
        qn_http h;
        parsed r = parse(&h, text, sizeof text - 1, step);
        assert_true(r.has_end);
        assert_int_equal(r.n_used, sizeof text - 4);
        assert_true(qn_slice_is(h.method, "POST") && qn_slice_is(h.path, "/v1/a/b"));
        assert_true(qn_slice_is(h.query, "x=1&y") && qn_slice_is(h.host, "b:8"));
        assert_true(qn_slice_is(qn_http_header(&h, "x-kEY"), "v w"));
        assert_null(qn_http_header(&h, "x").p);
        assert_false(h.is_kept);
        assert_string_equal(r.body.p, "hello world");
        assert_int_equal(h.n_body, 11);
        qn_str_fini(&r.body);
        qn_http_fini(&h);
    }
}

static int status_with(const char *before, char fill, size_t n, const char *after, int times)
{
    qn_str s = {0};
    for (int k = 0; k < times; k++) {
        qn_str_adds(&s, k && times > 1 ? "" : before);
        for (size_t i = 0; i < n; i++)
            qn_str_addc(&s, fill);
    }
    qn_str_adds(&s, after);
    int status = 0;
    for (size_t step = 1; step <= s.n; step *= 64) {
        qn_http h;
        parsed r = parse(&h, s.p, s.n, step);
        status = r.status ? r.status : r.has_end ? 0 : -1;
        qn_str_fini(&r.body);
        qn_http_fini(&h);
    }
    qn_str_fini(&s);
    return status;
}

static void test_limits(void **state)
{
    (void)state;
    const char end[] = " HTTP/1.1\r\n" H "\r\n";
    assert_int_equal(status_with("GET /", 'a', QN_LIMIT_HTTP_LINE - 16, end, 1), 0);
    assert_int_equal(status_with("GET /", 'a', QN_LIMIT_HTTP_LINE - 15, end, 1), 414);
    assert_int_equal(status_with("GET /", 'a', 1 << 20, "", 1), 414);
    size_t room = QN_LIMIT_HTTP_HEADER_BYTES - strlen(H "X: \r\n\r\n");
    assert_int_equal(status_with("GET / HTTP/1.1\r\n" H "X: ", 'a', room, "\r\n\r\n", 1), 0);
    assert_int_equal(status_with("GET / HTTP/1.1\r\n" H "X: ", 'a', room + 1, "\r\n\r\n", 1), 431);
    qn_str s = {0};
    qn_str_adds(&s, "GET / HTTP/1.1\r\n" H);
    for (int i = 1; i < QN_LIMIT_HTTP_HEADERS; i++)
        qn_str_addf(&s, "a%d: b\r\n", i);
    qn_str_adds(&s, "\r\n");
    assert_int_equal(status_of(s.p, s.n), 0);
    s.n -= 2;
    qn_str_adds(&s, "one: more\r\n\r\n");
    assert_int_equal(status_of(s.p, s.n), 431);
    qn_str_clear(&s);
    static const char chunked[] = "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1;";
    assert_int_equal(status_with(chunked, 'e', 1023, "\r\na\r\n0\r\n\r\n", 1), 0);
    assert_int_equal(status_with(chunked, 'e', 1024, "\r\na\r\n0\r\n\r\n", 1), 400);
    assert_int_equal(status_with(chunked, 'e', 1000,
                                 "\r\na\r\n1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeee\r\na\r\n0\r\n\r\n", 1),
                     400);
    static const char trailer[] =
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\nT: ";
    assert_int_equal(status_with(trailer, 't', QN_LIMIT_HTTP_TRAILERS - 7, "\r\n\r\n", 1), 0);
    assert_int_equal(status_with(trailer, 't', QN_LIMIT_HTTP_TRAILERS - 6, "\r\n\r\n", 1), 400);
    qn_str_fini(&s);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), 0);
}

/* ---- a server ---- */

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER; /* held by a test: "/wait" waits */

static void echo(qn_exchange *x)
{
    qn_slice b = qn_x_body(x);
    qn_x_reply(x, 200, "text/plain", b.p, b.n);
}

/* More than sockets hold. */
static void flood(qn_exchange *x)
{
    qn_str s = {0};
    for (int i = 0; i < 32 << 20; i++)
        qn_str_addc(&s, 'f');
    qn_x_reply(x, 200, "text/plain", s.p, s.n);
    qn_str_fini(&s);
}

static void wait_gate(qn_exchange *x)
{
    (void)pthread_mutex_lock(&gate);
    (void)pthread_mutex_unlock(&gate);
    qn_x_reply(x, 200, "text/plain", "through", 7);
}

static void rest(qn_exchange *x)
{
    qn_str s = {0};
    qn_slice r = qn_x_rest(x), q = qn_x_query(x, "q");
    qn_str_addf(&s, "[%.*s] [%.*s] [%s] [%s]", (int)r.n, r.p, (int)q.n, q.p ? q.p : "",
                qn_x_tenant(x) ? qn_x_tenant(x) : "", qn_x_class(x) ? qn_x_class(x) : "");
    qn_x_reply(x, 200, "text/plain", s.p, s.n);
    qn_str_fini(&s);
}

static void json(qn_exchange *x)
{
    const json_t *o = qn_x_json(x);
    if (o)
        qn_x_reply(x, 200, "application/json", "{}", 2);
}

static void stream(qn_exchange *x)
{
    qn_str s = {0};
    qn_x_begin(x, "text/event-stream");
    for (int i = 0; i < 3; i++) {
        qn_str_clear(&s);
        qn_str_addf(&s, "{\"i\":%d}", i);
        qn_x_write_event(x, i == 1 ? "one" : NULL, &s);
    }
    if (qn_x_query(x, "fail").p)
        qn_x_error(x, 503, NULL, NULL, "no more");
    qn_x_end(x);
    qn_str_fini(&s);
}

/* An answer that never ends by itself. */
static void endless(qn_exchange *x)
{
    qn_x_begin(x, "text/event-stream");
}

static void wordless(qn_exchange *x)
{
    (void)x;
}

static const qn_route test_routes[] = {
    {"POST", "/echo", echo, false, false},
    {"GET", "/wait", wait_gate, false, false},
    {"GET", "/rest/*", rest, false, false},
    {"POST", "/json", json, false, false},
    {"POST", "/api/json", json, false, false},
    {"POST", "/v1/messages", json, false, false},
    {"GET", "/stream", stream, .is_quick = true},
    {"GET", "/v1/messages/stream", stream, .is_quick = true},
    {"GET", "/api/stream", stream, .is_quick = true},
    {"GET", "/endless", endless, .is_quick = true},
    {"GET", "/wordless", wordless, false, false},
    {"GET", "/flood", flood, false, false},
    {.method = NULL},
};
static const qn_route *const test_tables[] = {qn_status_routes, test_routes, NULL};

typedef struct fixture {
    qn_server *server;
    pthread_t thread;
    qn_status status;
} fixture;

static void *run_server(void *arg)
{
    fixture *f = arg;
    f->status = qn_server_run(f->server, NULL);
    return NULL;
}

static void start(fixture *f, qn_server_config *cfg)
{
    qn_err err = {0};
    cfg->routes = test_tables;
    cfg->drain_s = cfg->drain_s ? cfg->drain_s : 30;
    if (qn_server_new(&f->server, cfg, &err) != QN_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(pthread_create(&f->thread, NULL, run_server, f), 0);
}

static void stop(fixture *f)
{
    qn_server_stop(f->server);
    assert_int_equal(pthread_join(f->thread, NULL), 0);
    assert_int_equal(f->status, QN_OK);
    qn_server_free(f->server);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), 0);
}

static int dial(const fixture *f)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)qn_server_port(f->server)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void say(int fd, const char *text, size_t n)
{
    while (n) {
        ssize_t k = send(fd, text, n, MSG_NOSIGNAL);
        if (k <= 0)
            return; /* answered and closed before all was sent */
        text += k;
        n -= (size_t)k;
    }
}

/* All until the server closes. */
static char *hear(int fd)
{
    static char got[1 << 20];
    size_t n = 0;
    ssize_t k;
    while (n + 1 < sizeof got && (k = recv(fd, got + n, sizeof got - 1 - n, 0)) > 0)
        n += (size_t)k;
    got[n] = 0;
    (void)close(fd);
    return got;
}

static char *ask(const fixture *f, const char *text)
{
    int fd = dial(f);
    say(fd, text, strlen(text));
    return hear(fd);
}

/* Until `what` came; the connection stays. */
static void hear_until(int fd, const char *what)
{
    static char got[65536];
    size_t n = 0;
    ssize_t k;
    do {
        k = recv(fd, got + n, sizeof got - 1 - n, 0);
        n += k > 0 ? (size_t)k : 0;
        got[n] = 0;
    } while (k > 0 && !strstr(got, what));
    if (!strstr(got, what))
        fail_msg("'%s' did not come, but '%s'", what, got);
}

static void want(const char *got, const char *what)
{
    if (!strstr(got, what))
        fail_msg("want '%s' in '%s'", what, got);
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: localhost\r\n"
#define LAST      "Connection: close\r\n\r\n"

static void test_answers(void **state)
{
    (void)state;
    fixture f;
    qn_server_config cfg = {0};
    start(&f, &cfg);
    want(ask(&f, GET("/health") LAST), "HTTP/1.1 200 OK\r\n");
    want(ask(&f, GET("/health") LAST), "\r\n\r\n{\"status\":\"ok\"}\n");
    want(ask(&f, "HEAD /health HTTP/1.1\r\nHost: localhost\r\n" LAST),
         "Content-Length: 16\r\n\r\n");
    assert_null(strstr(ask(&f, "HEAD /health HTTP/1.1\r\nHost: localhost\r\n" LAST), "status"));
    want(ask(&f, GET("/ready") LAST), "ready");
    want(ask(&f, GET("/version") LAST), "{\"version\":\"");
    want(ask(&f, GET("/load") LAST), "\"server_load\":0");
    want(ask(&f, GET("/nothing") LAST), "404 Not Found");
    want(ask(&f, GET("/echo") LAST), "405 Method Not Allowed");
    want(ask(&f, GET("/echo") LAST), "Allow: POST\r\n");
    want(ask(&f, GET("/rest/a%2Fb/c?p=1&q=x+%41%2b") LAST), "[a/b/c] [x A+] [] []");
    want(ask(&f, GET("/rest/a") "X-Priority: high\r\n" LAST), "[a] [] [] [high]");
    want(ask(&f, GET("/rest/") LAST), "404");
    want(ask(&f, GET("/wordless") LAST), "500 Internal");
    want(ask(&f, GET("/wordless") LAST), "x-should-retry: false");
    want(ask(&f, GET("/health") "x-request-id: abc-1\r\n" LAST), "x-request-id: abc-1\r\n");
    want(ask(&f, GET("/health") "x-request-id: a b\r\n" LAST), "x-request-id: req-");
    want(ask(&f, "GET /health HTTP/1.0\r\n\r\n"), "Connection: close\r\n");
    want(ask(&f, "GET /rest/1 HTTP/1.1\r\nHost: x\r\n" LAST), "403 Forbidden");
    char *two = ask(&f, GET("/rest/1") "\r\n" GET("/rest/2") LAST);
    want(two, "[1]");
    want(strstr(two, "[1]"), "[2]");
    want(ask(&f, "POST /echo HTTP/1.1\r\nHost: a.localhost:1\r\nContent-Length: 2\r\n" LAST "hi"),
         "\r\n\r\nhi");
    want(ask(&f, "POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n" LAST
                 "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
         "\r\n\r\nhello");
    stop(&f);
}

static void test_paths(void **state)
{
    (void)state;
    fixture f;
    qn_server_config cfg = {0};
    start(&f, &cfg);
    static const struct {
        const char *path, *meant; /* NULL: nothing that there is */
    } misses[] = {
        {"/v1/message", "POST /v1/messages"},
        {"/v1/massages", "POST /v1/messages"},
        {"/v1/v1/messages", "POST /v1/messages"},
        {"/messages", "POST /v1/messages"},
        {"/v1/messages/", "POST /v1/messages"},
        {"/v1", "POST /v1/messages"},
        {"/v1/messages/strem", "GET /v1/messages/stream"},
        {"/api/v1/json", "POST /api/json"},
        {"/api/jsno", "POST /api/json"},
        {"/healthz", "GET /health"},
        {"/metric", "GET /metrics"},
        {"/favicon.ico", NULL},
        {"/x", NULL},
        {"//", "GET /"},
    };
    for (size_t i = 0; i < QN_COUNT(misses); i++) {
        char text[256], said[256];
        (void)snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost\r\n" LAST,
                       misses[i].path);
        if (misses[i].meant)
            (void)snprintf(said, sizeof said, "nothing at %s; did you mean %s?", misses[i].path,
                           misses[i].meant);
        else
            (void)snprintf(said, sizeof said, "nothing at %s; GET / lists", misses[i].path);
        char *s = ask(&f, text);
        want(s, "404 Not Found");
        want(s, said);
    }
    char *s = ask(&f, GET("/") LAST);
    want(s, "200 OK");
    want(s, "Content-Type: text/plain; charset=utf-8\r\n");
    want(s, "curl http://localhost/v1/chat/completions -d");
    want(s, "\n  POST   /v1/messages\n");
    stop(&f);
    const qn_api_key key = {"secret", "alice", NULL};
    const qn_server_model model = {.name = "hidden"};
    cfg = (qn_server_config){.keys = &key, .n_keys = 1, .models = &model, .n_models = 0};
    start(&f, &cfg);
    want(ask(&f, GET("/") LAST), "It wants a key");
    want(ask(&f, GET("/") "x-api-key: secret\r\n" LAST), "Models\n");
    want(ask(&f, GET("/nothing") LAST), "401 Unauthorized");
    stop(&f);
}

static void test_streams(void **state)
{
    (void)state;
    fixture f;
    qn_server_config cfg = {0};
    start(&f, &cfg);
    char *s = ask(&f, GET("/stream") LAST);
    want(s, "Transfer-Encoding: chunked\r\n");
    want(s, "Cache-Control: no-cache\r\n");
    want(s, "\r\n\r\nf\r\ndata: {\"i\":0}\n\n\r\n1a\r\nevent: one\ndata: {\"i\":1}\n\n\r\n");
    want(s, "\r\n0\r\n\r\n");
    s = ask(&f, "GET /stream HTTP/1.0\r\n\r\n");
    want(s, "\r\n\r\ndata: {\"i\":0}\n\nevent: one\ndata: {\"i\":1}\n\ndata: {\"i\":2}\n\n");
    assert_null(strstr(s, "Transfer-Encoding"));
    s = ask(&f, GET("/stream?fail") LAST);
    want(s, "data: {\"error\":{\"message\":\"no more\",\"type\":\"unavailable_error\",");
    want(s, "data: [DONE]\n\n\r\n0\r\n\r\n");
    s = ask(&f, GET("/v1/messages/stream?fail") LAST);
    want(s, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",");
    assert_null(strstr(s, "[DONE]"));
    stop(&f);
}

static void test_errors(void **state)
{
    (void)state;
    fixture f;
    qn_server_config cfg = {0};
    start(&f, &cfg);
    static const char *const paths[] = {"/json", "/api/json", "/v1/messages"};
    static const char *const bodies[] = {
        "{\"error\":{\"message\":\"body: not valid JSON: ", "{\"error\":\"body: not valid JSON: ",
        "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"body"};
    for (size_t i = 0; i < QN_COUNT(paths); i++) {
        char text[256];
        (void)snprintf(text, sizeof text,
                       "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n" LAST "{]",
                       paths[i]);
        char *s = ask(&f, text);
        want(s, "400 Bad Request");
        want(s, bodies[i]);
    }
#define POST(headers, body)                                                                        \
    "POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n" headers LAST body
    want(ask(&f, POST("", "[]")), "found an array, want an object");
    want(ask(&f, POST("", "{}")), "200 OK");
    want(ask(&f, POST("Content-Type: application/json; charset=utf-8\r\n", "{}")), "200 OK");
    want(ask(&f, POST("Content-Type: application/x-www-form-urlencoded\r\n", "{}")), "200 OK");
    want(ask(&f, POST("Content-Type: text/plain\r\n", "{}")), "415 Unsupported");
    want(ask(&f, POST("Content-Encoding: gzip\r\n", "{}")), "415 Unsupported");
    want(ask(&f, POST("Origin: http://evil.example\r\n", "{}")), "403 Forbidden");
    want(ask(&f, POST("Origin: null\r\n", "{}")), "403 Forbidden");
    want(ask(&f, POST("Origin: http://localhost\r\n", "{}")), "200 OK");
    want(ask(&f, POST("Sec-Fetch-Site: cross-site\r\n", "{}")), "403 Forbidden");
    want(ask(&f, GET("/health") "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n" LAST),
         "200 OK");
    want(ask(&f, "POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8388609\r\n\r\n"),
         "413");
    want(ask(&f,
             "POST /json HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: "
             "9999999\r\n\r\n"),
         "HTTP/1.1 413");
    want(ask(&f, "POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
                 "3\r\nTransfer-Encoding: chunked\r\n\r\n"),
         "400");
    want(ask(&f, "BREW / HTTP/1.1\r\n\r\n"), "HTTP/1.1 501");
    want(ask(&f, "\r\n\r\n"), "HTTP/1.1 400");
    want(ask(&f, "GET / HTTP/3.0\r\n\r\n"), "HTTP/1.1 505");
    /* what was refused is read over, and the next request is served */
    char *s =
        ask(&f, "POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nGET /" GET(
                    "/rest/x") LAST);
    want(s, "404 Not Found");
    want(s, "[x]");
    stop(&f);
}

static void test_keys(void **state)
{
    (void)state;
    fixture f;
    const qn_api_key keys[] = {{"secret", "alice", "high"}, {"other", NULL, NULL}};
    const char *const cors[] = {"https://good.example"};
    const char *const hosts[] = {"box.lan"};
    qn_server_config cfg = {
        .keys = keys, .n_keys = 2, .cors = cors, .n_cors = 1, .hosts = hosts, .n_hosts = 1};
    start(&f, &cfg);
    want(ask(&f, GET("/rest/1") LAST), "401 Unauthorized");
    want(ask(&f, GET("/rest/1") LAST), "WWW-Authenticate: Bearer\r\n");
    want(ask(&f, GET("/nothing") LAST), "401 Unauthorized");
    want(ask(&f, GET("/health") LAST), "200 OK");
    want(ask(&f, GET("/metrics") LAST), "401");
    want(ask(&f, GET("/rest/1") "Authorization: Bearer secre\r\n" LAST), "401");
    want(ask(&f, GET("/rest/1") "Authorization: Bearer secret\r\n" LAST), "[alice] [high]");
    want(ask(&f, GET("/rest/1") "x-api-key: other\r\n" LAST), "[1] [] [");
    want(ask(&f, GET("/rest/1") "x-api-key: other\r\n" LAST), "] []");
    want(ask(&f, GET("/rest/1") "x-api-key: secret\r\nx-priority: low\r\n" LAST), "[alice] [low]");
    want(ask(&f, "GET /health HTTP/1.1\r\nHost: box.lan:80\r\n" LAST), "200 OK");
    /* refused before the body, which is never sent */
    want(ask(&f, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"),
         "401");
    char *s =
        ask(&f, "OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: https://good.example\r\n"
                "Access-Control-Request-Method: POST\r\n" LAST);
    want(s, "204 No Content");
    want(s, "Access-Control-Allow-Origin: https://good.example\r\n");
    want(s, "Access-Control-Allow-Methods: POST, OPTIONS\r\n");
    want(ask(&f, "OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: https://bad.example\r\n"
                 "Access-Control-Request-Method: POST\r\n" LAST),
         "403");
    stop(&f);
}

static void test_time(void **state)
{
    (void)state;
    fixture f;
    qn_server_config cfg = {.header_ms = 30,
                            .body_gap_ms = 30,
                            .body_ms = 60,
                            .idle_ms = 40,
                            .linger_ms = 30,
                            .silence_ms = 10};
    start(&f, &cfg);
    assert_string_equal(ask(&f, ""), "");
    want(ask(&f, "GET / HT"), "408 Request Timeout");
    want(ask(&f, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabc"), "408");
    want(ask(&f, GET("/rest/1") "\r\n"), "[1]"); /* closed when idle */
    int fd = dial(&f);
    say(fd, GET("/endless") "\r\n", strlen(GET("/endless") "\r\n"));
    hear_until(fd, "e\r\n: keep-alive\n\n\r\ne\r\n: keep-alive\n\n\r\n");
    (void)close(fd);
    stop(&f);
    /* nothing is read: the server gives up, or else stopping would take its time */
    start(&f, &(qn_server_config){.stall_ms = 20});
    fd = dial(&f);
    say(fd, GET("/flood") "\r\n", strlen(GET("/flood") "\r\n"));
    hear_until(fd, "ffff");
    stop(&f);
    (void)close(fd);
}

static void test_busy(void **state)
{
    (void)state;
    fixture f;
    qn_server_config cfg = {.n_workers = 1, .max_connections = 3};
    start(&f, &cfg);
    (void)pthread_mutex_lock(&gate);
    int a = dial(&f), b = dial(&f);
    say(a, GET("/wait") LAST, strlen(GET("/wait") LAST));
    say(b, GET("/wait") LAST, strlen(GET("/wait") LAST));
    want(ask(&f, GET("/health") LAST), "200 OK"); /* though the only worker waits */
    int c = dial(&f);
    hear_until((say(c, GET("/health") "\r\n", strlen(GET("/health") "\r\n")), c), "ok");
    want(ask(&f, GET("/health") LAST), "200 OK"); /* in the place of the idle one */
    (void)close(c);
    c = dial(&f);
    say(c, GET("/health") "\r\n" GET("/wait") LAST,
        strlen(GET("/health") "\r\n" GET("/wait") LAST));
    hear_until(c, "ok");
    want(ask(&f, GET("/health") LAST), "503 Service Unavailable");
    (void)close(b); /* gone before a worker had time for it */
    (void)pthread_mutex_unlock(&gate);
    want(hear(a), "through");
    (void)close(c);
    stop(&f);
}

static void test_half_close(void **state)
{
    (void)state;
    fixture f;
    qn_server_config cfg = {.silence_ms = 10};
    start(&f, &cfg);
    (void)pthread_mutex_lock(&gate);
    int a = dial(&f), b = dial(&f);
    say(a, GET("/wait") "\r\n" GET("/rest/2") "\r\n",
        strlen(GET("/wait") "\r\n" GET("/rest/2") "\r\n"));
    assert_int_equal(shutdown(a, SHUT_WR), 0);
    hear_until(a, "100 Continue\r\n\r\n"); /* are you there? */
    say(b, GET("/endless") "\r\n", strlen(GET("/endless") "\r\n"));
    assert_int_equal(shutdown(b, SHUT_WR), 0);
    hear_until(b, ": keep-alive\n\n");
    (void)close(b);
    (void)pthread_mutex_unlock(&gate);
    char *s = hear(a);
    want(s, "through");
    want(s, "[2]");
    /* the endless one has gone, or else draining would take its time */
    stop(&f);
}

static void test_stop(void **state)
{
    (void)state;
    fixture f;
    qn_server_config cfg = {.drain_s = 1};
    start(&f, &cfg);
    int idle = dial(&f), a = dial(&f), b = dial(&f);
    hear_until((say(idle, GET("/health") "\r\n", strlen(GET("/health") "\r\n")), idle), "ok");
    (void)pthread_mutex_lock(&gate);
    say(a, GET("/wait") "\r\n", strlen(GET("/wait") "\r\n"));
    hear_until((say(b, GET("/endless") "\r\n", strlen(GET("/endless") "\r\n")), b), "\r\n\r\n");
    want(ask(&f, GET("/health") LAST), "200 OK");
    qn_server_stop(f.server);
    while (!strstr(ask(&f, GET("/health") LAST), "draining")) /* the signal has come */
        ;
    want((say(idle, GET("/rest/1") "\r\n", strlen(GET("/rest/1") "\r\n")), hear(idle)),
         "503 Service Unavailable");
    char *s = ask(&f, GET("/rest/1") "\r\n"); /* and closed */
    want(s, "503 Service Unavailable");
    want(s, "Retry-After: 5\r\n");
    want(s, "Connection: close\r\n");
    (void)pthread_mutex_unlock(&gate);
    want(hear(a), "through");
    want(hear(b), "data: {\"error\":{\"message\":\"the server is shutting down\"");
    assert_int_equal(pthread_join(f.thread, NULL), 0);
    qn_server_free(f.server);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), 0);
}

static void test_second_stop(void **state)
{
    (void)state;
    fixture f;
    qn_server_config cfg = {.drain_s = 1000};
    start(&f, &cfg);
    int fd = dial(&f);
    hear_until((say(fd, GET("/endless") "\r\n", strlen(GET("/endless") "\r\n")), fd), "\r\n\r\n");
    qn_server_stop(f.server);
    stop(&f);
    want(hear(fd), "data: [DONE]");
}

static void test_new(void **state)
{
    (void)state;
    qn_server *s;
    qn_err err = {0};
    qn_server_config cfg = {0};
    assert_int_equal(qn_server_new(&s, &cfg, &err), QN_OK);
    qn_server_config same = {.port = qn_server_port(s)};
    qn_server *t = s;
    assert_int_equal(qn_server_new(&t, &same, &err), QN_E_IO);
    assert_null(t);
    qn_server_free(s); /* never ran */
    static const qn_api_key no_key = {"", NULL, NULL};
    const qn_server_config bad[] = {
        {.port = 65536},
        {.host = "unix:"},
        {.n_workers = 1000},
        {.tls_cert = "/nowhere"},
        {.tls_cert = "/nowhere", .tls_key = "/nowhere"},
        {.keys = &no_key, .n_keys = 1},
    };
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        assert_int_not_equal(qn_server_new(&s, &bad[i], &err), QN_OK);
        assert_true(err.msg[0] && !strchr(err.msg, '\n'));
    }
    qn_server_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),    cmocka_unit_test(test_meaning),
        cmocka_unit_test(test_limits),      cmocka_unit_test(test_answers),
        cmocka_unit_test(test_paths),       cmocka_unit_test(test_streams),
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_keys),
        cmocka_unit_test(test_time),        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_half_close),  cmocka_unit_test(test_stop),
        cmocka_unit_test(test_second_stop), cmocka_unit_test(test_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
