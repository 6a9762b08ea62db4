/* SPDX-License-Identifier: Apache-2.0
 * test_load.c - `quern load` without a network: answers cut anywhere, hostile ones, percentiles of given numbers, the workload's
 * promises, the search for the highest load. tests/e2e/test_load.py has servers. */
#include "check.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "cmd/load_report.h"
#include "cmd/load_wire.h"

#include <math.h>
#include <string.h>

/* ---- URL ---- */

static void test_urls(void **state)
{
    (void)state;
    static const struct {
        const char *text, *authority, *base;
        bool is_tls, is_chat;
    } good[] = {
        {"http://127.0.0.1:8080", "127.0.0.1:8080", "/v1", false, false},
        {"http://127.0.0.1:8080/", "127.0.0.1:8080", "/v1", false, false},
        {"localhost:8000", "localhost:8000", "/v1", false, false},
        {"HTTPS://api.example.com/v1", "api.example.com:443", "/v1", true, false},
        {"http://a/openai/", "a:80", "/openai/v1", false, false},
        {"http://[::1]:9/v1/", "[::1]:9", "/v1", false, false},
        {"http://a:1/v1/chat/completions", "a:1", "/v1", false, true},
        {"http://a:1/x/v1/completions", "a:1", "/x/v1", false, false},
        {"http://a:1/chat/completions", "a:1", "", false, true},
    };
    static const char *const bad[] = {"",
                                      "http://",
                                      "ftp://a",
                                      "http://a:0",
                                      "http://a:65536",
                                      "http://a:x",
                                      "http://a:",
                                      "http://a b",
                                      "http://u@a",
                                      "http://[::1",
                                      "http://[]:1",
                                      "http://a/?x",
                                      "http://a/\r\nx",
                                      "http://a:1\r\nx"};
    load_url u;
    for (size_t i = 0; i < QN_COUNT(good); i++) {
        assert_int_equal(load_url_parse(&u, good[i].text, NULL), QN_OK);
        assert_string_equal(u.authority, good[i].authority);
        assert_string_equal(u.base, good[i].base);
        assert_int_equal(u.is_tls, good[i].is_tls);
        assert_int_equal(u.is_chat, good[i].is_chat);
    }
    for (size_t i = 0; i < QN_COUNT(bad); i++)
        if (load_url_parse(&u, bad[i], NULL) == QN_OK)
            fail_msg("'%s' is no URL", bad[i]);
    char longest[400] = "http://";
    memset(longest + 7, 'a', 300);
    assert_int_not_equal(load_url_parse(&u, longest, NULL), QN_OK);
}

/* ---- HTTP ---- */

static qn_status keep(void *arg, const char *p, size_t n, qn_err *err)
{
    (void)err;
    qn_str_add(arg, p, n);
    return QN_OK;
}

typedef struct answer {
    const char *text;
    int status; /* 0: an error */
    const char *body;
    bool closes;      /* the server closes behind it */
    bool keeps_alive; /* as the head says */
} answer;

static const answer answers[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", false, true},
    {"HTTP/1.1 200 OK\ncontent-length:5\n\nhello", 200, "hello", false, true},
    {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, "", false, true},
    {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", 200, "ab", false, false},
    {"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nab", 200, "ab", false,
     true},
    {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it", 200, "all of it", true, false},
    {"HTTP/1.1 204 No Content\r\n\r\n", 204, "", false, true},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: "
     "1\r\n\r\nx",
     429, "x", false, true},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00A;x=\"y\"\r\n, "
     "world!\r\n\r\n0\r\nTrailer: x\r\n\r\n",
     200, "hello, world!\r\n", false, true},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: "
     "3\r\n\r\n1\r\nx\r\n0\r\n\r\n",
     200, "x", false, true},
    /* cut */
    {"", 0, NULL, true, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", 0, NULL, true, false},
    {"HTTP/1.1 200 OK\r\nContent-Le", 0, NULL, true, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 0, NULL, true, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", 0, NULL, true,
     false},
    /* wrong */
    {"SSH-2.0-OpenSSH_9.2\r\n", 0, NULL, false, false},
    {"HTTP/2 200 OK\r\n\r\n", 0, NULL, false, false},
    {"HTTP/1.1 2000 OK\r\n\r\n", 0, NULL, false, false},
    {"HTTP/1.1 -20 OK\r\n\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\n: x\r\n\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nnothing\r\n\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ng\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 0, NULL, false, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000000000000000\r\n", 0, NULL, false,
     false},
};

/* Feeds text in pieces of `step` bytes; true: the answer was whole and good. */
static bool read_answer(load_http *h, const char *text, size_t n, size_t step, bool closes)
{
    qn_status s = QN_OK;
    for (size_t i = 0; s == QN_OK && i < n; i += step) {
        size_t k = QN_MIN(step, n - i), used = 0;
        s = load_http_feed(h, text + i, k, &used, NULL);
        assert_true(used <= k);
        if (s == QN_OK && used < k)
            assert_true(load_http_is_whole(h));
    }
    if (s == QN_OK && closes)
        s = load_http_close(h, NULL);
    return s == QN_OK && load_http_is_whole(h);
}

static void test_answers(void **state)
{
    (void)state;
    load_http h = {0};
    qn_str body = {0};
    for (size_t i = 0; i < QN_COUNT(answers); i++) {
        const answer *a = &answers[i];
        size_t n = strlen(a->text);
        for (size_t step = 1; step <= QN_MAX(n, (size_t)1); step++) {
            qn_str_clear(&body);
            load_http_init(&h, keep, &body);
            bool good = read_answer(&h, a->text, n, step, a->closes);
            if (good != (a->status != 0))
                fail_msg("answer %zu in pieces of %zu", i, step);
            if (!good)
                continue;
            assert_int_equal(h.status, a->status);
            assert_string_equal(body.p ? body.p : "", a->body);
            assert_int_equal(h.keeps_alive, a->keeps_alive);
            assert_int_equal(h.retry_after_s, a->status == 429 ? 7 : -1);
        }
    }
    load_http_fini(&h);
    qn_str_fini(&body);
}

/* Nothing a server sends makes us keep more than the limits. */
static void test_bounds(void **state)
{
    (void)state;
    static const char *const begins[] = {
        "", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"};
    static const char *const fillers[] = {"x", "a: b\r\n", "1; ", "a: b\r\n"};
    load_http h = {0};
    qn_str body = {0};
    for (size_t i = 0; i < QN_COUNT(begins); i++) {
        size_t used, fed = 0;
        load_http_init(&h, keep, &body);
        qn_status s = load_http_feed(&h, begins[i], strlen(begins[i]), &used, NULL);
        for (; s == QN_OK && fed < 2 * QN_LIMIT_LOAD_HEAD; fed += strlen(fillers[i]))
            s = load_http_feed(&h, fillers[i], strlen(fillers[i]), &used, NULL);
        assert_int_not_equal(s, QN_OK);
        assert_true(h.line.n <= QN_LIMIT_LOAD_HEAD);
    }
    load_http_init(&h, keep, &body);
    qn_status s = QN_OK;
    for (int i = 0; s == QN_OK && i < 1000; i++) {
        size_t used;
        s = load_http_feed(&h, "HTTP/1.1 100 Go\r\n\r\n", 19, &used, NULL);
    }
    assert_int_not_equal(s, QN_OK);
    load_http_fini(&h);
    qn_str_fini(&body);

    load_sse sse = {.event = keep, .arg = &body};
    s = QN_OK;
    for (int i = 0; s == QN_OK && i < 3 << 20; i++)
        s = load_sse_feed(&sse, "x", 1, NULL);
    assert_int_not_equal(s, QN_OK);
    load_sse_fini(&sse);
    sse = (load_sse){.event = keep, .arg = &body};
    s = QN_OK;
    for (int i = 0; s == QN_OK && i < 1 << 19; i++)
        s = load_sse_feed(&sse, "data: xxxx\n", 11, NULL);
    assert_int_not_equal(s, QN_OK);
    load_sse_fini(&sse);
    qn_str_fini(&body);
}

/* ---- events ---- */

static qn_status keep_event(void *arg, const char *p, size_t n, qn_err *err)
{
    (void)err;
    qn_str_addc(arg, '<');
    qn_str_add(arg, p, n);
    qn_str_addc(arg, '>');
    return QN_OK;
}

static void test_event_stream(void **state)
{
    (void)state;
    static const struct {
        const char *text, *events;
    } cases[] = {
        {"data: a\n\ndata: b\n\n", "<a><b>"},
        {"data: a\r\n\r\ndata: b\r\n\r\n", "<a><b>"},
        {"data: a\r\rdata: b\r\r", "<a><b>"},
        {"\xef\xbb\xbf"
         "data:a\n\n",
         "<a>"},
        {"data:  a \n\n", "< a >"},
        {": ping\n\ndata: a\ndata: b\n\n\n\n", "<a\nb>"},
        {"event: x\nid: 1\ndata: a\nretry: 5\n\n", "<a>"},
        {"data\n\n", "<>"},
        {"data:\n\n", "<>"},
        {"database: a\n\n", ""},
        {"data: not ended\n", ""},
    };
    qn_str got = {0};
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        size_t n = strlen(cases[i].text);
        for (size_t step = 1; step <= n; step++) {
            load_sse s = {.event = keep_event, .arg = &got};
            qn_str_clear(&got);
            for (size_t at = 0; at < n; at += step)
                assert_int_equal(load_sse_feed(&s, cases[i].text + at, QN_MIN(step, n - at), NULL),
                                 QN_OK);
            assert_string_equal(got.p ? got.p : "", cases[i].events);
            load_sse_fini(&s);
        }
    }
    qn_str_fini(&got);
}

static qn_status say(load_reply *r, const char *text, bool *is_text, qn_err *err)
{
    return load_reply_event(r, text, strlen(text), is_text, err);
}

static void test_reply(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool is_text;
    } good[] = {
        {"{\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}", true},
        {"{\"choices\":[{\"text\":\"\"}]}", false},
        {"{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}", false},
        {"{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}", true},
        {"{\"choices\":[{\"delta\":{\"content\":null,\"reasoning_content\":\"a\"}}]}", true},
        {"{\"choices\":[{\"delta\":{\"tool_calls\":[{}]}}]}", true},
        {"{\"choices\":[5,null,{\"delta\":7,\"text\":[]}]}", false},
        {"{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}],\"error\":null}", false},
        {"{\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":34}}", false},
        {"[DONE]", false},
    };
    static const char *const bad[] = {"{}",
                                      "x",
                                      "[]",
                                      "\"a\"",
                                      "{\"choices\":5}",
                                      "{\"choices\":[{\"text\":\"a\"}],\"error\":{}}",
                                      "[DONE"};
    load_reply r = {0};
    bool is_text;
    qn_err err;
    for (size_t i = 0; i < QN_COUNT(good); i++) {
        assert_int_equal(say(&r, good[i].text, &is_text, NULL), QN_OK);
        assert_int_equal(is_text, good[i].is_text);
    }
    assert_true(r.is_ended && r.is_finished && r.has_usage);
    assert_int_equal(r.n_texts, 4);
    assert_int_equal(r.n_in, 12);
    assert_int_equal(r.n_out, 34);
    for (size_t i = 0; i < QN_COUNT(bad); i++)
        assert_int_not_equal(say(&r, bad[i], &is_text, NULL), QN_OK);
    assert_int_equal(say(&r, "{\"error\":{\"message\":\"too \\u001b much\"}}", &is_text, &err),
                     QN_E_PEER);
    assert_non_null(strstr(err.msg, "too \\x1b much"));
}

static void test_messages(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"{\"error\":{\"message\":\"no\"}}", "no"},
                                           {"{\"error\":\"no\"}", "no"},
                                           {"{\"message\":\"no\"}", "no"},
                                           {"{\"detail\":\"no\"}", "no"},
                                           {"plain\nx", "plain"},
                                           {"<html>\n", ""},
                                           {"", ""},
                                           {"{\"error\":5}", "{\"error\":5}"}};
    char out[64];
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        load_reply_message(out, sizeof(out), cases[i][0], strlen(cases[i][0]));
        assert_string_equal(out, cases[i][1]);
    }
    qn_str id = {0};
    const char *models = "{\"object\":\"list\",\"data\":[{\"id\":\"m\"},{\"id\":\"n\"}]}";
    assert_int_equal(load_reply_model(&id, models, strlen(models), NULL), QN_OK);
    assert_string_equal(id.p, "m");
    assert_int_not_equal(load_reply_model(&id, "{\"data\":[]}", 11, NULL), QN_OK);
    assert_int_not_equal(load_reply_model(&id, "<html>", 6, NULL), QN_OK);
    qn_str_fini(&id);
}

/* ---- workload ---- */

static void test_options(void **state)
{
    (void)state;
    load_classes c;
    load_range range;
    assert_int_equal(load_mix_parse(&c, "p0:10,p1:30,batch-2:0.5", NULL), QN_OK);
    assert_int_equal(c.n, 3);
    assert_string_equal(c.items[2].name, "batch-2");
    assert_true(c.is_mix && c.items[1].weight == 30 && c.items[2].weight == 0.5);
    assert_int_equal(load_slo_parse(&c, "p0:200ms,p1:first=1.5s,p1:gap=50ms,batch-2:-", NULL),
                     QN_OK);
    assert_true(c.items[0].target_ms[LOAD_ALL] == 200 && c.items[1].target_ms[LOAD_ALL] == 0);
    assert_true(c.items[1].target_ms[LOAD_FIRST] == 1500 && c.items[1].target_ms[LOAD_GAP] == 50);
    assert_true(load_classes_have_target(&c));
    assert_int_equal(load_mix_parse(&c, "10,30", NULL), QN_OK);
    assert_string_equal(c.items[1].name, "p1");
    assert_int_equal(load_slo_parse(&c, "500ms", NULL), QN_OK);
    assert_true(c.items[0].target_ms[LOAD_ALL] == 500 && c.items[1].target_ms[LOAD_ALL] == 500);
    static const char *const bad_mix[] = {"",      "p0:",  "p0:0",   "p0:-1",     "p0:1,",
                                          "p 0:1", "p0:x", "p0:nan", "p0:1,p0:2", ":1"};
    for (size_t i = 0; i < QN_COUNT(bad_mix); i++)
        if (load_mix_parse(&c, bad_mix[i], NULL) == QN_OK)
            fail_msg("--mix %s", bad_mix[i]);
    assert_int_equal(load_mix_parse(&c, NULL, NULL), QN_OK);
    assert_false(c.is_mix || load_classes_have_target(&c));
    static const char *const bad_slo[] = {"",       "200",   "p9:200ms", "0ms", "ms",
                                          "-200ms", "infms", "first=",   "5h",  "5ms,"};
    for (size_t i = 0; i < QN_COUNT(bad_slo); i++)
        if (load_slo_parse(&c, bad_slo[i], NULL) == QN_OK)
            fail_msg("--slo %s", bad_slo[i]);
    assert_int_equal(load_range_parse(&range, "in", "100-300", 1, NULL), QN_OK);
    assert_true(range.min == 100 && range.max == 300);
    static const char *const bad_range[] = {"",    "0", "-5",    "5-",
                                            "5-4", "x", "1-2-3", "99999999999"};
    for (size_t i = 0; i < QN_COUNT(bad_range); i++)
        if (load_range_parse(&range, "in", bad_range[i], 1, NULL) == QN_OK)
            fail_msg("--in %s", bad_range[i]);
}

static void body_of(const load_work *w, uint64_t i, qn_str *out)
{
    load_ask a;
    qn_str_clear(out);
    load_work_ask(w, i, &a);
    load_work_body(w, &a, out);
    assert_false(out->failed);
}

static void test_workload(void **state)
{
    (void)state;
    load_classes c;
    assert_int_equal(load_mix_parse(&c, "p0:10,7:30", NULL), QN_OK);
    load_work w = {.seed = 5,
                   .in = {20, 40},
                   .out = {3, 9},
                   .n_prefix = 10,
                   .n_vocab = 500,
                   .rate = 50,
                   .classes = &c,
                   .model = "a \"model\""};
    size_t n_first = 0, n = 4000;
    uint32_t min = 1000, max = 0;
    double s = 0;
    for (uint64_t i = 0; i < n; i++) {
        load_ask a, again;
        load_work_ask(&w, i, &a);
        load_work_ask(&w, i, &again);
        assert_memory_equal(&a, &again, sizeof a);
        assert_in_range(a.n_out, 3, 9);
        min = QN_MIN(min, a.n_in);
        max = QN_MAX(max, a.n_in);
        n_first += a.class_i == 0;
        s += (double)load_work_gap_ns(&w, i) * 1e-9;
    }
    assert_true(min == 20 && max == 40);
    /* 5 standard deviations */
    assert_true(fabs((double)n_first - (double)n / 4) < 5 * sqrt((double)n * 0.25 * 0.75));
    assert_true(fabs(s - (double)n / 50) < 5 * sqrt((double)n) / 50);

    qn_str a = {0}, b = {0};
    json_t *x, *y;
    body_of(&w, 1, &a);
    body_of(&w, 2, &b);
    assert_int_equal(qn_json_parse(&x, a.p, a.n, 0, "a", NULL), QN_OK);
    assert_int_equal(qn_json_parse(&y, b.p, b.n, 0, "b", NULL), QN_OK);
    const json_t *p = json_object_get(x, "prompt"), *q = json_object_get(y, "prompt");
    size_t same = 0;
    for (size_t i = 0; i < 20; i++) {
        json_int_t id = json_integer_value(json_array_get(p, i));
        assert_in_range(id, 3, 499);
        bool is_same = id == json_integer_value(json_array_get(q, i));
        assert_true(i >= 10 || is_same);
        same += is_same;
    }
    assert_true(same < 15); /* of 10 that are random, of 497 ids */
    assert_string_equal(json_string_value(json_object_get(x, "model")), "a \"model\"");
    assert_true(json_is_true(json_object_get(x, "ignore_eos")));
    const json_t *priority = json_object_get(x, "priority");
    assert_true(json_is_string(priority) || json_integer_value(priority) == 7);
    json_decref(x);
    json_decref(y);
    w.is_chat = true;
    body_of(&w, 1, &a);
    assert_int_equal(qn_json_parse(&x, a.p, a.n, 0, "a", NULL), QN_OK);
    assert_int_equal(json_array_size(json_object_get(x, "messages")), 1);
    json_decref(x);
    w.seed = 6;
    body_of(&w, 1, &b);
    assert_string_not_equal(a.p, b.p);
    qn_str_fini(&a);
    qn_str_fini(&b);
}

/* ---- numbers ---- */

static void test_percentiles(void **state)
{
    (void)state;
    static const double v[] = {15, 20, 35, 40, 50};
    assert_true(load_percentile(v, 5, 5) == 15 && load_percentile(v, 5, 30) == 20);
    assert_true(load_percentile(v, 5, 40) == 20 && load_percentile(v, 5, 50) == 35);
    assert_true(load_percentile(v, 5, 100) == 50 && load_percentile(v, 1, 99) == 15);
    assert_true(load_percentile(v, 0, 50) == 0);
    double many[1000];
    for (size_t i = 0; i < QN_COUNT(many); i++)
        many[i] = (double)(i + 1);
    static const double ps[] = {50, 90, 95, 99, 99.9, 100};
    static const double want[] = {500, 900, 950, 990, 999, 1000};
    for (size_t i = 0; i < QN_COUNT(ps); i++)
        assert_true(load_percentile(many, 1000, ps[i]) == want[i]);
    for (size_t n = 1; n <= 300; n++) /* the k-th of n is its own percentile */
        for (size_t k = 1; k <= n; k++)
            assert_true(load_percentile(many, n, 100.0 * (double)k / (double)n) == (double)k);
}

static void add(load_results *r, const load_classes *c, size_t class_i, load_outcome outcome,
                double all_ms, double gap_ms)
{
    load_record x = {.i = r->n,
                     .class_i = (uint32_t)class_i,
                     .n_in = 10,
                     .n_out = 4,
                     .outcome = (uint8_t)outcome,
                     .status = outcome == LOAD_REFUSED ? 429 : 200,
                     .trouble = outcome == LOAD_FAILED ? LOAD_CUT : LOAD_NO_TROUBLE,
                     .has_gap = true,
                     .ms = {all_ms / 2, gap_ms, all_ms}};
    assert_int_equal(load_results_add(r, &x, "why", c, NULL), QN_OK);
    assert_true(load_values_add(&r->gaps[class_i], gap_ms));
}

static void test_report(void **state)
{
    (void)state;
    load_classes c;
    load_results r = {0};
    load_report p;
    qn_str out = {0};
    assert_int_equal(load_mix_parse(&c, "p0:1,p1:1", NULL), QN_OK);
    assert_int_equal(load_slo_parse(&c, "p0:100ms,p0:gap=10ms", NULL), QN_OK);
    for (int i = 1; i <= 8; i++)
        add(&r, &c, 0, LOAD_DONE, 20.0 * i, i == 1 ? 11 : 5); /* 20 to 160: 5 within 100 */
    add(&r, &c, 0, LOAD_REFUSED, 1, 0);
    add(&r, &c, 0, LOAD_FAILED, 1, 0);
    add(&r, &c, 1, LOAD_DONE, 1000, 7);
    add(&r, &c, 1, LOAD_FAILED, 1, 0);
    r.seconds = 2;
    assert_int_equal(load_report_make(&p, &r, &c, NULL), QN_OK);
    const load_class_report *a = &p.classes[0];
    assert_true(a->n_all == 10 && a->n[LOAD_DONE] == 8 && a->n[LOAD_REFUSED] == 1);
    assert_true(a->series[LOAD_ALL].n == 8 && a->series[LOAD_ALL].p50 == 80 &&
                a->series[LOAD_ALL].max == 160 && a->series[LOAD_ALL].mean == 90);
    assert_true(a->series[LOAD_FIRST].p50 == 40 && a->series[LOAD_GAP].max == 11);
    assert_true(a->n_met[LOAD_ALL] == 5 && a->n_met[LOAD_GAP] == 7 && a->n_met_all == 4);
    assert_true(load_report_attained(&p) == 40); /* what is refused or fails has missed */
    assert_true(p.classes[1].n_all == 2 && p.classes[1].n[LOAD_FAILED] == 1);
    assert_true(p.all.n_all == 12 && p.all.series[LOAD_ALL].max == 1000 && p.n_out == 36);
    assert_true(r.n_errors == 2 && r.errors[1].n == 2 && r.errors[0].status == 429);

    load_report_text(&out, &p, &r);
    assert_non_null(strstr(out.p, "p0: 10 requests, 8 done, 1 refused, 1 failed"));
    assert_non_null(strstr(out.p, "50.0 %"));
    qn_str_clear(&out);
    load_work w = {.in = {10, 10}, .out = {4, 4}, .classes = &c, .rate = 2};
    load_title t = {"http://a", "m\"", "/completions", &w, 0};
    load_report_json(&out, &p, &r, &t);
    json_t *o;
    assert_int_equal(qn_json_parse(&o, out.p, out.n, 0, "report", NULL), QN_OK);
    const json_t *first = json_array_get(json_object_get(o, "classes"), 0);
    assert_true(json_number_value(json_object_get(first, "attained")) == 40);
    assert_int_equal(json_integer_value(json_object_get(o, "output_tokens")), 36);
    json_decref(o);
    qn_str_clear(&out);
    load_csv_head(&out);
    load_csv_rows(&out, &r, &c, 0);
    size_t lines = 0, commas = 0;
    for (const char *s = out.p; *s; s++) {
        lines += *s == '\n';
        commas += *s == ',';
    }
    assert_int_equal(lines, 13);
    assert_int_equal(commas, 13 * 13);
    qn_str_fini(&out);
    load_results_fini(&r);
}

/* More kinds of errors than rows: the last row takes the rest, and nothing is lost. */
static void test_many_errors(void **state)
{
    (void)state;
    load_classes c;
    load_results r = {0};
    uint64_t n = 0;
    assert_int_equal(load_mix_parse(&c, NULL, NULL), QN_OK);
    for (int i = 0; i < 100; i++) {
        load_record x = {.outcome = LOAD_FAILED, .status = (uint16_t)(400 + i % 50)};
        assert_int_equal(load_results_add(&r, &x, "", &c, NULL), QN_OK);
    }
    assert_int_equal(r.n_errors, LOAD_MAX_ERRORS);
    for (size_t i = 0; i < r.n_errors; i++)
        n += r.errors[i].n;
    assert_int_equal(n, 100);
    load_results_fini(&r);
}

static void test_sweep(void **state)
{
    (void)state;
    static const double limits[] = {0.02, 0.7, 1, 3, 17.3, 4000};
    for (size_t i = 0; i < QN_COUNT(limits); i++)
        for (int whole = 0; whole < 2; whole++) {
            load_sweep s = {.value = 1, .is_whole = whole};
            int n = 0;
            do
                assert_true(++n <= 40);
            while (load_sweep_tell(&s, s.value <= limits[i]));
            assert_true(s.lo <= limits[i] && (s.hi > limits[i]));
            if (whole && limits[i] < 1)
                assert_true(s.lo == 0);
            else
                assert_true(s.hi <= s.lo * 1.05 || (whole && s.hi == s.lo + 1));
            assert_true(!whole || s.lo == floor(s.lo));
        }
    load_sweep never = {.value = 8}, always = {.value = 8};
    while (load_sweep_tell(&never, false))
        ;
    while (load_sweep_tell(&always, true))
        ;
    assert_true(never.lo == 0 && always.hi == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls),        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_bounds),      cmocka_unit_test(test_event_stream),
        cmocka_unit_test(test_reply),       cmocka_unit_test(test_messages),
        cmocka_unit_test(test_options),     cmocka_unit_test(test_workload),
        cmocka_unit_test(test_percentiles), cmocka_unit_test(test_report),
        cmocka_unit_test(test_many_errors), cmocka_unit_test(test_sweep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
