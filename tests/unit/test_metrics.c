/* SPDX-License-Identifier: Apache-2.0
 * test_metrics.c - what is counted of requests: the text for Prometheus, the timeline, the snapshot, the report. */
#include "golden.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "base/json.h"
#include "server/metrics.h"
#include "server/tally.h"

#define MS 1000000u

/* ---- a checker of the text format 0.0.4 ---- */

enum { MAX_FAMILIES = 256, MAX_SAMPLES = 6000 };

typedef struct checker {
    qn_slice families[MAX_FAMILIES]; /* names seen */
    size_t n_families;
    qn_slice type;
    qn_slice samples[MAX_SAMPLES]; /* names with labels: none may come twice */
    size_t n_samples;
    /* of the histogram being read */
    double le, n;
    bool is_whole; /* +Inf was there */
} checker;

static qn_slice word(const char **p, const char *stops)
{
    qn_slice s = {*p, strcspn(*p, stops)};
    *p += s.n;
    return s;
}

static double number(qn_slice s)
{
    double v = -1;
    if (!qn_parse_f64(s.p, s.n, &v))
        fail_msg("not a number: %.*s", (int)s.n, s.p);
    return v;
}

/* {a="b",c="d"}: *le is that label's value. Returns what follows. */
static const char *check_labels(const char *p, qn_slice *le)
{
    assert_int_equal(*p, '{');
    do {
        p++;
        qn_slice key = word(&p, "=");
        assert_true(key.n > 0 && strspn(key.p, "abcdefghijklmnopqrstuvwxyz_") == key.n);
        assert_true(p[0] == '=' && p[1] == '"');
        p += 2;
        qn_slice value = {p, 0};
        for (; *p != '"'; p++) {
            assert_true(*p && *p != '\n');
            if (*p == '\\') {
                p++;
                assert_true(*p == '\\' || *p == '"' || *p == 'n');
            }
        }
        value.n = (size_t)(p - value.p);
        assert_true(qn_utf8_valid(value.p, value.n));
        if (qn_slice_is(key, "le"))
            *le = value;
        p++;
    } while (*p == ',');
    assert_int_equal(*p, '}');
    return p + 1;
}

static bool tail_is(qn_slice name, qn_slice family, const char *tail)
{
    return name.n == family.n + strlen(tail) && memcmp(name.p, family.p, family.n) == 0 &&
           memcmp(name.p + family.n, tail, strlen(tail)) == 0;
}

static void check_histogram(checker *c, qn_slice name, qn_slice family, qn_slice le, double value)
{
    if (tail_is(name, family, "_bucket")) {
        double edge = qn_slice_is(le, "+Inf")    ? INFINITY
                      : qn_slice_is(le, "1e+06") ? 1e6
                                                 : number(le);
        if (c->le == INFINITY)
            c->n = 0;
        assert_true(c->le == INFINITY || edge > c->le);
        assert_true(value >= c->n);
        c->le = edge;
        c->n = value;
        c->is_whole = edge == INFINITY;
    } else if (tail_is(name, family, "_sum")) {
        assert_true(c->is_whole);
    } else {
        assert_true(tail_is(name, family, "_count") && c->is_whole);
        assert_true(value == c->n);
        c->is_whole = false;
    }
}

static const char *check_sample(checker *c, const char *p)
{
    qn_slice whole = {p, 0}, le = {0}, name = word(&p, "{ ");
    qn_slice family = c->families[c->n_families - 1];
    assert_true(c->n_families > 0);
    if (*p == '{')
        p = check_labels(p, &le);
    whole.n = (size_t)(p - whole.p);
    for (size_t i = 0; i < c->n_samples; i++)
        if (qn_slice_eq(c->samples[i], whole))
            fail_msg("twice: %.*s", (int)whole.n, whole.p);
    if (c->n_samples < MAX_SAMPLES)
        c->samples[c->n_samples++] = whole;
    assert_int_equal(*p, ' ');
    p++;
    double value = number(word(&p, "\n"));
    assert_true(value >= 0);
    if (qn_slice_is(c->type, "histogram")) {
        check_histogram(c, name, family, le, value);
    } else {
        assert_true(qn_slice_eq(name, family));
        assert_int_equal(qn_slice_is(c->type, "counter"),
                         tail_is(name, (qn_slice){name.p, name.n - 6}, "_total"));
    }
    return p;
}

static const char *check_family(checker *c, const char *p)
{
    assert_true(qn_starts_with(p, "# HELP "));
    p += 7;
    qn_slice name = word(&p, " ");
    qn_slice help = {p, strcspn(p, "\n")};
    assert_true(help.n > 2 && !c->is_whole);
    p += help.n;
    for (size_t i = 0; i < c->n_families; i++)
        assert_false(qn_slice_eq(c->families[i], name));
    assert_true(c->n_families < MAX_FAMILIES);
    c->families[c->n_families++] = name;
    assert_true(qn_starts_with(p, "\n# TYPE "));
    p += 8;
    assert_true(qn_slice_eq(word(&p, " "), name));
    p++;
    c->type = word(&p, "\n");
    assert_true(qn_slice_is(c->type, "counter") || qn_slice_is(c->type, "gauge") ||
                qn_slice_is(c->type, "histogram"));
    c->le = INFINITY;
    return p;
}

static void check_text(const qn_str *text)
{
    static checker c;
    memset(&c, 0, sizeof c);
    assert_false(text->failed);
    for (const char *p = text->p; *p; p++) {
        p = *p == '#' ? check_family(&c, p) : check_sample(&c, p);
        assert_int_equal(*p, '\n');
    }
}

/* The value of a sample, by its name and labels. */
static double sample(const qn_str *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = text->p; *p;) {
        qn_slice line = word(&p, "\n");
        p += *p == '\n';
        if (line.n > n + 1 && memcmp(line.p, name, n) == 0 && line.p[n] == ' ')
            return number((qn_slice){line.p + n + 1, line.n - n - 1});
    }
    fail_msg("no sample %s", name);
    return -1;
}

/* ---- requests ---- */

/* Submitted at one second, taken up 10 ms later, first token after 100 ms more, the end after 2 s more. */
static qn_request_record record(const char *id, const char *class_name, qn_finish finish)
{
    qn_request_record r = {.model = "m",
                           .api = "/v1/completions",
                           .status = 200,
                           .finish = finish,
                           .submit_ns = 1000 * MS,
                           .start_ns = 1010 * MS,
                           .first_ns = 1110 * MS,
                           .end_ns = 3110 * MS,
                           .n_prompt = 100,
                           .n_cached = 64,
                           .n_output = 21,
                           .max_tokens = 32,
                           .n = 1};
    (void)snprintf(r.id, sizeof r.id, "%s", id);
    (void)snprintf(r.class_name, sizeof r.class_name, "%s", class_name);
    return r;
}

static qn_metrics *new_metrics(void)
{
    qn_metrics *m;
    assert_int_equal(qn_metrics_new(&m, NULL), QN_OK);
    return m;
}

static const qn_model_view closed[] = {{.name = "m", .state = "unloaded"}};

static qn_str text_of(qn_metrics *m)
{
    qn_str text = {0};
    qn_metrics_write(m, &text, closed, 1);
    check_text(&text);
    return text;
}

static void test_counts(void **state)
{
    (void)state;
    qn_metrics *m = new_metrics();
    qn_request_record r = record("a", "p0", QN_FINISH_STOP);
    qn_metrics_request(m, &r);
    r = record("b", "p1", QN_FINISH_LENGTH);
    qn_metrics_request(m, &r);
    r = record("c", "p1", QN_FINISH_CANCELLED);
    r.start_ns = r.first_ns = 0;
    r.reason = "cancelled";
    qn_metrics_request(m, &r);
    r = record("d", "p1", QN_FINISH_ERROR);
    r.first_ns = 0;
    r.reason = "timeout";
    qn_metrics_request(m, &r);
    for (int i = 0; i < 20; i++)
        qn_metrics_gap(m, "m", i % 2 ? "p0" : "p1", 10 * MS);
    qn_metrics_http(m, "GET", "/v1/models", 200);
    qn_metrics_http(m, "POST", "/v1/completions", 200);
    qn_metrics_http(m, "POST", "/v1/completions", 429);
    qn_metrics_http(m, "BREW", NULL, 404);
    qn_metrics_http(m, "BREW", "other", 404); /* as the table's own overflow is called */
    qn_str t = text_of(m);
    static const struct {
        const char *name;
        double value;
    } want[] = {
        {"vllm:prompt_tokens_total{model_name=\"m\",engine=\"0\"}", 200},
        {"vllm:prompt_tokens_cached_total{model_name=\"m\",engine=\"0\"}", 128},
        {"vllm:generation_tokens_total{model_name=\"m\",engine=\"0\"}", 42},
        {"quern:generation_tokens_total{model_name=\"m\",class=\"p1\"}", 21},
        {"vllm:request_success_total{model_name=\"m\",engine=\"0\",finished_reason=\"stop\"}", 1},
        {"vllm:request_success_total{model_name=\"m\",engine=\"0\",finished_reason=\"abort\"}", 1},
        {"quern:requests_total{model_name=\"m\",class=\"p1\",finished_reason=\"error\"}", 1},
        {"vllm:e2e_request_latency_seconds_count{model_name=\"m\",engine=\"0\"}", 2},
        {"vllm:e2e_request_latency_seconds_sum{model_name=\"m\",engine=\"0\"}", 4.22},
        {"vllm:e2e_request_latency_seconds_bucket{model_name=\"m\",engine=\"0\",le=\"2.0\"}", 0},
        {"vllm:e2e_request_latency_seconds_bucket{model_name=\"m\",engine=\"0\",le=\"2.5\"}", 2},
        {"vllm:time_to_first_token_seconds_count{model_name=\"m\",engine=\"0\"}", 2},
        {"quern:time_to_first_token_seconds_bucket{model_name=\"m\",class=\"p0\",le=\"0.1\"}", 0},
        {"quern:time_to_first_token_seconds_bucket{model_name=\"m\",class=\"p0\",le=\"0.15\"}", 1},
        {"vllm:request_queue_time_seconds_count{model_name=\"m\",engine=\"0\"}", 3},
        {"vllm:request_prefill_time_seconds_sum{model_name=\"m\",engine=\"0\"}", 0.2},
        {"quern:request_decode_time_seconds_sum{model_name=\"m\",class=\"p0\"}", 2},
        {"vllm:request_time_per_output_token_seconds_bucket{model_name=\"m\",engine=\"0\",le=\"0."
         "1\"}",
         2},
        {"vllm:request_time_per_output_token_seconds_bucket{model_name=\"m\",engine=\"0\",le=\"0."
         "075\"}",
         0},
        /* an edge belongs to the bucket below it */
        {"vllm:inter_token_latency_seconds_bucket{model_name=\"m\",engine=\"0\",le=\"0.01\"}", 20},
        {"vllm:time_per_output_token_seconds_count{model_name=\"m\",engine=\"0\"}", 20},
        {"quern:inter_token_latency_seconds_bucket{model_name=\"m\",class=\"p0\",le=\"0.005\"}", 0},
        {"quern:inter_token_latency_seconds_sum{model_name=\"m\",class=\"p0\"}", 0.1},
        {"vllm:request_prompt_tokens_bucket{model_name=\"m\",engine=\"0\",le=\"100.0\"}", 2},
        {"vllm:request_params_max_tokens_sum{model_name=\"m\",engine=\"0\"}", 64},
        {"vllm:request_params_n_bucket{model_name=\"m\",engine=\"0\",le=\"1.0\"}", 2},
        {"http_requests_total{method=\"GET\",handler=\"/v1/models\",status=\"2xx\"}", 1},
        {"http_requests_total{method=\"POST\",handler=\"/v1/completions\",status=\"4xx\"}", 1},
        {"http_requests_total{method=\"other\",handler=\"none\",status=\"4xx\"}", 1},
        {"quern:http_responses_total{code=\"429\"}", 1},
        {"quern:request_errors_total{reason=\"timeout\"}", 1},
        {"quern:model_ready{model_name=\"m\"}", 0},
    };
    for (size_t i = 0; i < QN_COUNT(want); i++)
        if (fabs(sample(&t, want[i].name) - want[i].value) > 1e-9)
            fail_msg("%s: %g, want %g", want[i].name, sample(&t, want[i].name), want[i].value);
    assert_true(sample(&t, "process_resident_memory_bytes") > 1e5);
    assert_true(sample(&t, "process_open_fds") >= 3);
    assert_true(sample(&t, "process_start_time_seconds") > 1.6e9);
    qn_str_fini(&t);
    qn_metrics_free(m);
}

static void test_labels(void **state)
{
    (void)state;
    static const char *const odd[] = {"a\\b\"c\nd", "broken \xff", ""};
    const qn_model_view views[] = {{.name = odd[0], .state = "loading"},
                                   {.name = odd[1], .state = "loading"},
                                   {.name = odd[2], .state = "loading"}};
    qn_metrics *m = new_metrics();
    qn_str t = {0};
    for (size_t i = 0; i < QN_COUNT(odd); i++)
        qn_metrics_gap(m, odd[i], "p0", MS);
    qn_metrics_http(m, "GET", "/\"\\\n", 200);
    qn_metrics_write(m, &t, views, QN_COUNT(views));
    check_text(&t);
    assert_true(sample(&t, "quern:inter_token_latency_seconds_count{model_name=\"a\\\\b\\\"c\\nd\","
                           "class=\"p0\"}") == 1);
    qn_str_fini(&t);
    qn_metrics_free(m);
}

/* A name longer than its place is one row, not one for its whole and one for its cut form. */
static void test_long_name(void **state)
{
    (void)state;
    char name[200];
    const qn_model_view view = {.name = name, .state = "unloaded"};
    qn_metrics *m = new_metrics();
    qn_str t = {0};
    memset(name, 'x', sizeof name);
    memcpy(name + 62, "\xc3\xa9", 2); /* the cut would part it */
    name[sizeof name - 1] = 0;
    qn_metrics_gap(m, name, "p0", MS);
    qn_metrics_write(m, &t, &view, 1);
    check_text(&t);
    qn_str_clear(&t);
    qn_metrics_snapshot(m, &t, &view, 1);
    json_t *o;
    assert_int_equal(qn_json_parse(&o, t.p, t.n, 0, "snapshot", NULL), QN_OK);
    assert_int_equal(json_array_size(json_object_get(
                         json_array_get(json_object_get(o, "models"), 0), "classes")),
                     1);
    json_decref(o);
    qn_str_fini(&t);
    qn_metrics_free(m);
}

/* Whatever names come, the tables stay small and lose nothing. */
static void test_bounds(void **state)
{
    (void)state;
    enum { N = 1000 };
    qn_tally *t;
    char name[64];
    assert_int_equal(qn_tally_new(&t, NULL), QN_OK);
    for (int i = 0; i < N; i++) {
        (void)snprintf(name, sizeof name, "model-%d", i);
        qn_request_record r = record("x", "p0", QN_FINISH_ERROR);
        r.reason = name;
        qn_tally_gap(t, name, "p0", MS);
        qn_tally_http(t, "GET", name, 100 + i % 500);
        qn_tally_request(t, &r);
    }
    assert_true(qn_tally_size(t) <= 200);
    uint64_t n = 0, n_http = 0, n_reasons = 0, of_reason;
    for (size_t i = 0; i < qn_tally_size(t); i++) {
        qn_tally_counts c;
        qn_tally_at(t, i, &c);
        n += c.of[QN_MEASURE_GAP].count;
    }
    assert_int_equal(n, N);
    qn_tally_answers a;
    size_t i;
    for (i = 0; qn_tally_http_at(t, i, &a); i++)
        n_http += a.n;
    assert_true(i <= 200 && n_http == N);
    char reason[32];
    for (i = 0; qn_tally_reason_at(t, i, reason, &of_reason); i++)
        n_reasons += of_reason;
    assert_true(i <= 40 && n_reasons == N);
    assert_string_equal(reason, "other");
    qn_tally_free(t);
}

static void test_percentiles(void **state)
{
    (void)state;
    enum { N = 100 };
    static uint64_t v[QN_TALLY_RECENT];
    qn_tally *t;
    assert_int_equal(qn_tally_new(&t, NULL), QN_OK);
    for (uint64_t i = 0; i < N; i++)
        qn_tally_gap(t, "m", "p0", (i * 37 % N + 1) * MS); /* 1..100 ms, shuffled */
    size_t n = qn_tally_recent(t, 1, QN_MEASURE_GAP, v);
    assert_int_equal(n, N);
    assert_int_equal(qn_tally_percentile(v, n, 50), 50 * MS);
    assert_int_equal(qn_tally_percentile(v, n, 95), 95 * MS);
    assert_int_equal(qn_tally_percentile(v, n, 99), 99 * MS);
    assert_int_equal(qn_tally_percentile(v, 1, 99), MS);
    assert_int_equal(qn_tally_percentile(v, 0, 99), 0);
    for (int i = 0; i < 5 * QN_TALLY_RECENT / 2; i++)
        qn_tally_gap(t, "m", "p0", i < QN_TALLY_RECENT ? MS : 2 * MS);
    n = qn_tally_recent(t, 1, QN_MEASURE_GAP, v);
    assert_int_equal(n, QN_TALLY_RECENT);
    assert_int_equal(v[0], 2 * MS); /* the old ones are gone */
    qn_tally_free(t);
}

/* ---- timeline ---- */

static json_t *timeline_of(qn_metrics *m, size_t last)
{
    qn_str t = {0};
    json_t *o;
    qn_err err;
    qn_metrics_timeline(m, &t, last, NULL);
    assert_false(t.failed);
    if (qn_json_parse(&o, t.p, t.n, 0, "timeline", &err) != QN_OK)
        fail_msg("%s", err.msg);
    qn_str_fini(&t);
    return o;
}

static size_t count_events(const json_t *o, const char *name)
{
    const json_t *events = json_object_get(o, "traceEvents");
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(events); i++)
        n += strcmp(json_string_value(json_object_get(json_array_get(events, i), "name")), name) ==
             0;
    return n;
}

static void test_timeline(void **state)
{
    (void)state;
    qn_metrics *m = new_metrics();
    json_t *o = timeline_of(m, 1000);
    assert_int_equal(json_array_size(json_object_get(o, "traceEvents")), 0);
    json_decref(o);
    qn_request_record r = record("\"quoted\"", "p0", QN_FINISH_STOP);
    qn_metrics_request(m, &r);
    r = record("waited", "p1", QN_FINISH_CANCELLED);
    r.start_ns = r.first_ns = 0;
    r.reason = "cancelled";
    qn_metrics_request(m, &r);
    o = timeline_of(m, 1000);
    const json_t *events = json_object_get(o, "traceEvents"), *e = json_array_get(events, 4);
    assert_int_equal(json_array_size(events), 7); /* a process, two threads, 3 + 1 phases */
    assert_string_equal(json_string_value(json_object_get(e, "name")), "decode");
    assert_true(fabs(json_number_value(json_object_get(e, "ts")) - 1110e3) < 1e-6);
    assert_true(fabs(json_number_value(json_object_get(e, "dur")) - 2000e3) < 1e-6);
    const json_t *args = json_object_get(e, "args");
    assert_int_equal(json_integer_value(json_object_get(args, "output_tokens")), 21);
    assert_string_equal(json_string_value(json_object_get(args, "class")), "p0");
    e = json_array_get(events, 6);
    assert_string_equal(json_string_value(json_object_get(e, "name")), "queue");
    assert_int_not_equal(json_integer_value(json_object_get(e, "tid")),
                         json_integer_value(json_object_get(json_array_get(events, 4), "tid")));
    json_decref(o);
    for (int i = 0; i < 1500; i++)
        qn_metrics_request(m, &r);
    o = timeline_of(m, 5000);
    assert_int_equal(count_events(o, "queue"), 1000);
    json_decref(o);
    o = timeline_of(m, 3);
    assert_int_equal(count_events(o, "queue"), 3);
    json_decref(o);
    qn_metrics_free(m);
}

/* ---- snapshot, report ---- */

static json_t *snapshot_of(qn_metrics *m, const qn_model_view *view)
{
    qn_str t = {0};
    json_t *o;
    qn_err err;
    qn_metrics_snapshot(m, &t, view, 1);
    assert_false(t.failed);
    if (qn_json_parse(&o, t.p, t.n, 0, "snapshot", &err) != QN_OK)
        fail_msg("%s", err.msg);
    qn_str_fini(&t);
    return o;
}

static void test_snapshot(void **state)
{
    (void)state;
    qn_metrics *m = new_metrics();
    qn_request_record r = record("a", "p0", QN_FINISH_STOP);
    qn_metrics_request(m, &r);
    r = record("b", "p1", QN_FINISH_ERROR);
    r.reason = "queue_full";
    qn_metrics_request(m, &r);
    qn_metrics_http(m, "POST", "/v1/completions", 429);
    json_t *o = snapshot_of(m, closed);
    const json_t *model = json_array_get(json_object_get(o, "models"), 0);
    const json_t *classes = json_object_get(model, "classes"), *c = json_array_get(classes, 0);
    assert_true(json_is_false(json_object_get(model, "ready")));
    assert_int_equal(json_array_size(classes), 2);
    assert_string_equal(json_string_value(json_object_get(c, "name")), "p0");
    assert_true(json_number_value(json_object_get(json_object_get(c, "e2e_ms"), "p99")) == 2110);
    assert_true(json_number_value(json_object_get(json_object_get(c, "ttft_ms"), "p50")) == 110);
    assert_true(json_is_null(json_object_get(json_object_get(c, "gap_ms"), "p50")));
    assert_true(json_is_null(json_object_get(c, "attained")));
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(o, "errors"), "queue_full")), 1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "http"), "4xx")), 1);
    json_decref(o);
    qn_str t = {0};
    qn_metrics_report(m, &t, closed, 1);
    assert_false(t.failed);
    assert_true(strstr(t.p, "p0                       1    2110.0    2110.0    2110.0") != NULL);
    qn_str_fini(&t);
    qn_metrics_free(m);
}

/* Out of memory, or over a limit: the text says so and nothing is lost. */
static void test_failure(void **state)
{
    (void)state;
    qn_metrics *m = new_metrics();
    qn_request_record r = record("a", "p0", QN_FINISH_STOP);
    qn_metrics_request(m, &r);
    for (size_t limit = 1; limit < 20000; limit = limit * 2 + 1) {
        qn_str a = {.limit = limit}, b = a, c = a;
        qn_metrics_write(m, &a, closed, 1);
        assert_true(a.failed || a.n <= limit);
        qn_metrics_snapshot(m, &b, closed, 1);
        assert_true(b.failed || b.n <= limit);
        qn_metrics_timeline(m, &c, 10, NULL);
        assert_true(c.failed || c.n <= limit);
        qn_str_fini(&a);
        qn_str_fini(&b);
        qn_str_fini(&c);
    }
    qn_metrics_free(m);
}

/* ---- threads ---- */

enum { N_THREADS = 4, N_EACH = 20000 };

static void *count_tokens(void *arg)
{
    qn_metrics *m = arg;
    for (int i = 0; i < N_EACH; i++) {
        qn_metrics_gap(m, "m", i % 3 ? "p0" : "p1", (uint64_t)i * 1000);
        if (i % 100 == 0) {
            qn_request_record r = record("t", "p0", QN_FINISH_STOP);
            qn_metrics_request(m, &r);
            qn_metrics_http(m, "POST", "/v1/completions", 200);
        }
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    pthread_t threads[N_THREADS];
    qn_metrics *m = new_metrics();
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_tokens, m), 0);
    for (int i = 0; i < 3; i++) { /* whole texts in between */
        qn_str t = text_of(m);
        qn_str_fini(&t);
        json_decref(timeline_of(m, 1000));
        json_decref(snapshot_of(m, closed));
    }
    for (int i = 0; i < N_THREADS; i++)
        (void)pthread_join(threads[i], NULL);
    qn_str t = text_of(m);
    assert_true(
        sample(&t, "vllm:inter_token_latency_seconds_count{model_name=\"m\",engine=\"0\"}") ==
        N_THREADS * N_EACH);
    assert_true(sample(&t, "quern:http_responses_total{code=\"200\"}") ==
                N_THREADS * (N_EACH / 100));
    qn_str_fini(&t);
    qn_metrics_free(m);
}

/* ---- with an engine ---- */

static void test_engine(void **state)
{
    (void)state;
    static const qn_class classes[] = {{"urgent", 60, 100000, 0, false}, {"bulk", 40, 0, 0, false}};
    qn_config cfg = qn_config_default();
    cfg.model = QN_SOURCE_DIR "/tests/golden/models/qwen3-tied-bf16";
    cfg.n_threads = 1;
    cfg.max_ctx = 128;
    cfg.max_seqs = 2;
    cfg.classes = classes;
    cfg.n_classes = 2;
    qn_engine *e = open_engine(&cfg);
    qn_metrics *m = new_metrics();
    qn_params sp = greedy(6);
    sp.class_name = "urgent";
    sp.ignore_eos = true;
    qn_request *req = NULL;
    qn_event ev = {0};
    assert_int_equal(
        qn_request_submit(&req, e, &(qn_prompt){.text = "The quick brown fox"}, &sp, NULL), QN_OK);
    while (ev.kind != QN_EVENT_DONE)
        assert_int_equal(qn_request_next(req, &ev, NULL), QN_OK);
    int n_prompt = ev.n_prompt_tokens;
    qn_request_free(req);
    qn_str t = {0};
    qn_model_view view = {
        .name = "m", .state = "loaded", .is_open = true, .was_open = true, .rank = 1, .bytes = 77};
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    qn_engine_get_stats(e, &view.stats);
    view.weight_bytes = info.weight_bytes_per_token;
    qn_metrics_write(m, &t, &view, 1);
    check_text(&t);
    assert_true(sample(&t, "quern:model_ready{model_name=\"m\"}") == 1);
    assert_true(sample(&t, "quern:engine_prompt_tokens_total{model_name=\"m\"}") == n_prompt);
    assert_true(sample(&t, "quern:engine_output_tokens_total{model_name=\"m\"}") == 6);
    assert_true(sample(&t, "quern:class_requests_done_total{model_name=\"m\",class=\"urgent\"}") ==
                1);
    assert_true(sample(&t, "quern:class_requests_met_total{model_name=\"m\",class=\"urgent\"}") ==
                1);
    assert_true(sample(&t, "quern:class_target_seconds{model_name=\"m\",class=\"urgent\"}") == 100);
    assert_true(sample(&t, "quern:steps_total{model_name=\"m\"}") >= 1);
    assert_true(sample(&t, "quern:step_seconds_total{model_name=\"m\",part=\"model\"}") > 0);
    assert_true(sample(&t, "vllm:num_requests_running{model_name=\"m\",engine=\"0\"}") == 0);
    assert_true(sample(&t, "quern:model_bytes{model_name=\"m\"}") == 77);
    assert_true(sample(&t, "quern:model_eviction_rank{model_name=\"m\"}") == 1);
    json_t *o = snapshot_of(m, &view);
    const json_t *model = json_array_get(json_object_get(o, "models"), 0);
    assert_int_equal(json_integer_value(json_object_get(model, "output_tokens")), 6);
    assert_true(json_number_value(json_object_get(model, "output_tokens_per_second")) > 0);
    const json_t *c = json_array_get(json_object_get(model, "classes"), 0);
    assert_string_equal(json_string_value(json_object_get(c, "name")), "urgent");
    assert_true(json_number_value(json_object_get(c, "attained")) == 1);
    assert_true(json_number_value(json_object_get(c, "time_share")) == 1);
    assert_true(fabs(json_number_value(json_object_get(c, "share")) - 0.6) < 1e-6);
    json_decref(o);
    qn_str_clear(&t);
    qn_metrics_report(m, &t, &view, 1);
    assert_true(strstr(t.p, "100.0 %    60 %   100 %") != NULL);
    qn_str_fini(&t);
    qn_metrics_free(m);
    qn_engine_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),      cmocka_unit_test(test_labels),
        cmocka_unit_test(test_long_name),   cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_percentiles), cmocka_unit_test(test_timeline),
        cmocka_unit_test(test_snapshot),    cmocka_unit_test(test_failure),
        cmocka_unit_test(test_threads),     cmocka_unit_test(test_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
