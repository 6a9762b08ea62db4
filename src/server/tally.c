/* SPDX-License-Identifier: Apache-2.0
 * tally.c - see tally.h.
 *
 * A gap is added for every token, so the way to its series is short: a hash of the two names, the series found last,
 * then the others in order.
 * Source: the bucket edges are vLLM's, vllm/v1/metrics/loggers.py. */
#include "server/tally.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum {
    MAX_SERIES = 128, /* models by classes */
    MAX_HTTP = 160,
    N_OTHER_HTTP = 5, /* the first entries: 1xx to 5xx of what found no room */
    MAX_REASONS = 32,
    N_RECENT = 3,
    FIRST_STATUS = 100,
    END_STATUS = 600
};

#define MS 1000000ull
#define S  1000000000ull

/* ---- what is measured ---- */

/* Our own edges stand below vLLM's first one: small models on idle machines are quicker. */
static const qn_edge latency_edges[] = {
    {1 * MS, "0.001", true},     {5 * MS, "0.005", true},     {10 * MS, "0.01", true},
    {20 * MS, "0.02", true},     {50 * MS, "0.05", true},     {75 * MS, "0.075", true},
    {100 * MS, "0.1", true},     {150 * MS, "0.15", true},    {200 * MS, "0.2", true},
    {250 * MS, "0.25", true},    {300 * MS, "0.3", false},    {400 * MS, "0.4", true},
    {500 * MS, "0.5", false},    {800 * MS, "0.8", false},    {1 * S, "1.0", false},
    {1500 * MS, "1.5", false},   {2 * S, "2.0", false},       {2500 * MS, "2.5", false},
    {5 * S, "5.0", false},       {10 * S, "10.0", false},     {15 * S, "15.0", false},
    {20 * S, "20.0", false},     {30 * S, "30.0", false},     {40 * S, "40.0", false},
    {50 * S, "50.0", false},     {60 * S, "60.0", false},     {120 * S, "120.0", false},
    {240 * S, "240.0", false},   {480 * S, "480.0", false},   {960 * S, "960.0", false},
    {1920 * S, "1920.0", false}, {7680 * S, "7680.0", false},
};
static const qn_edge first_edges[] = {
    {1 * MS, "0.001", false},  {5 * MS, "0.005", false},  {10 * MS, "0.01", false},
    {20 * MS, "0.02", false},  {40 * MS, "0.04", false},  {60 * MS, "0.06", false},
    {80 * MS, "0.08", false},  {100 * MS, "0.1", false},  {150 * MS, "0.15", true},
    {200 * MS, "0.2", true},   {250 * MS, "0.25", false}, {500 * MS, "0.5", false},
    {750 * MS, "0.75", false}, {1 * S, "1.0", false},     {2500 * MS, "2.5", false},
    {5 * S, "5.0", false},     {7500 * MS, "7.5", false}, {10 * S, "10.0", false},
    {20 * S, "20.0", false},   {40 * S, "40.0", false},   {80 * S, "80.0", false},
    {160 * S, "160.0", false}, {640 * S, "640.0", false}, {2560 * S, "2560.0", false},
};
static const qn_edge gap_edges[] = {
    {1 * MS, "0.001", true},   {2 * MS, "0.002", true},   {5 * MS, "0.005", true},
    {10 * MS, "0.01", false},  {15 * MS, "0.015", true},  {25 * MS, "0.025", false},
    {50 * MS, "0.05", false},  {75 * MS, "0.075", false}, {100 * MS, "0.1", false},
    {150 * MS, "0.15", false}, {200 * MS, "0.2", false},  {300 * MS, "0.3", false},
    {400 * MS, "0.4", false},  {500 * MS, "0.5", false},  {750 * MS, "0.75", false},
    {1 * S, "1.0", false},     {2500 * MS, "2.5", false}, {5 * S, "5.0", false},
    {7500 * MS, "7.5", false}, {10 * S, "10.0", false},   {20 * S, "20.0", false},
    {40 * S, "40.0", false},   {80 * S, "80.0", false},
};
/* vLLM ends them at the model's context; ours are the same for all models of a server. */
static const qn_edge token_edges[] = {
    {1, "1.0", false},           {2, "2.0", false},           {5, "5.0", false},
    {10, "10.0", false},         {20, "20.0", false},         {50, "50.0", false},
    {100, "100.0", false},       {200, "200.0", false},       {500, "500.0", false},
    {1000, "1000.0", false},     {2000, "2000.0", false},     {5000, "5000.0", false},
    {10000, "10000.0", false},   {20000, "20000.0", false},   {50000, "50000.0", false},
    {100000, "100000.0", false}, {200000, "200000.0", false}, {500000, "500000.0", false},
    {1000000, "1e+06", false},
};
static const qn_edge n_edges[] = {
    {1, "1.0", false},   {2, "2.0", false},   {5, "5.0", false},
    {10, "10.0", false}, {20, "20.0", false},
};

#define EDGES(e) (e), QN_COUNT(e)
_Static_assert(QN_COUNT(latency_edges) <= QN_TALLY_EDGES &&
                   QN_COUNT(first_edges) <= QN_TALLY_EDGES &&
                   QN_COUNT(gap_edges) <= QN_TALLY_EDGES && QN_COUNT(token_edges) <= QN_TALLY_EDGES,
               "edges of the histograms");

const qn_measure_info qn_measures[QN_N_MEASURES] = {
    [QN_MEASURE_FIRST] = {"time_to_first_token_seconds", "Time from submit to the first token.",
                          EDGES(first_edges), true, true},
    [QN_MEASURE_GAP] = {"inter_token_latency_seconds", "Time between two tokens of an answer.",
                        EDGES(gap_edges), true, true},
    [QN_MEASURE_WHOLE] = {"e2e_request_latency_seconds",
                          "Time from submit to the end of the answer.", EDGES(latency_edges), true,
                          true},
    [QN_MEASURE_QUEUE] = {"request_queue_time_seconds",
                          "Time from submit until the engine took the request up.",
                          EDGES(latency_edges), true, true},
    [QN_MEASURE_PREFILL] = {"request_prefill_time_seconds", "Time from there to the first token.",
                            EDGES(latency_edges), true, true},
    [QN_MEASURE_DECODE] = {"request_decode_time_seconds", "Time from the first token to the end.",
                           EDGES(latency_edges), true, true},
    [QN_MEASURE_INFERENCE] = {"request_inference_time_seconds", "Prefill and decode time.",
                              EDGES(latency_edges), true, false},
    [QN_MEASURE_PER_TOKEN] = {"request_time_per_output_token_seconds",
                              "Mean time between the tokens of one answer.", EDGES(gap_edges), true,
                              false},
    [QN_MEASURE_PROMPT] = {"request_prompt_tokens", "Prompt tokens of a request.",
                           EDGES(token_edges), false, true},
    [QN_MEASURE_OUTPUT] = {"request_generation_tokens", "Tokens of a request's answers.",
                           EDGES(token_edges), false, true},
    [QN_MEASURE_MAX_TOKENS] = {"request_params_max_tokens", "The max_tokens of a request.",
                               EDGES(token_edges), false, false},
    [QN_MEASURE_N] = {"request_params_n", "The n of a request.", EDGES(n_edges), false, false},
};

const char *const qn_ended_names[QN_N_ENDED] = {"stop", "length", "abort", "error"};

void qn_histogram_add(qn_histogram *h, qn_measure of, uint64_t value)
{
    const qn_measure_info *m = &qn_measures[of];
    size_t lo = 0, hi = m->n_edges;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (value <= m->edges[mid].at)
            hi = mid;
        else
            lo = mid + 1;
    }
    h->n[lo]++;
    h->count++;
    h->sum += value;
}

void qn_tally_counts_add(qn_tally_counts *sum, const qn_tally_counts *c)
{
    for (size_t i = 0; i < QN_N_ENDED; i++)
        sum->n_ended[i] += c->n_ended[i];
    sum->n_prompt += c->n_prompt;
    sum->n_cached += c->n_cached;
    sum->n_output += c->n_output;
    for (size_t m = 0; m < QN_N_MEASURES; m++) {
        for (size_t i = 0; i <= QN_TALLY_EDGES; i++)
            sum->of[m].n[i] += c->of[m].n[i];
        sum->of[m].sum += c->of[m].sum;
        sum->of[m].count += c->of[m].count;
    }
}

/* ---- tables ---- */

typedef struct series {
    qn_tally_counts c;
    uint64_t hash;
    uint64_t recent[N_RECENT][QN_TALLY_RECENT];
    uint64_t n_recent[N_RECENT]; /* added so far; the ring's place is this modulo its size */
} series;

typedef struct reason {
    char name[32];
    uint64_t n;
} reason;

struct qn_tally {
    pthread_mutex_t lock;
    series *of[MAX_SERIES]; /* [0]: "other", there from the start */
    size_t n_of, last;
    qn_tally_answers http[MAX_HTTP];
    size_t n_http;
    reason reasons[MAX_REASONS];
    size_t n_reasons;
    uint64_t status[END_STATUS - FIRST_STATUS];
};

/* Never within a character: names are labels, which are UTF-8. */
void qn_tally_cut(char *out, size_t size, const char *s)
{
    size_t n = strnlen(s, size - 1);
    n = qn_utf8_whole(s, n);
    memcpy(out, s, n);
    out[n] = 0;
}

static uint64_t hash_of(const char *model, const char *class_name)
{
    return qn_hash(class_name, strlen(class_name), qn_hash(model, strlen(model), 0));
}

static series *new_series(const char *model, const char *class_name, uint64_t hash)
{
    series *s = qn_calloc(1, sizeof *s, QN_MEM_MISC);
    if (!s)
        return NULL;
    qn_tally_cut(s->c.model, sizeof s->c.model, model);
    qn_tally_cut(s->c.class_name, sizeof s->c.class_name, class_name);
    s->hash = hash;
    return s;
}

qn_status qn_tally_new(qn_tally **out, qn_err *err)
{
    *out = NULL;
    qn_tally *t = qn_calloc(1, sizeof *t, QN_MEM_MISC);
    if (!t)
        return qn_fail_nomem(err, sizeof *t);
    t->of[0] = new_series("other", "other", hash_of("other", "other"));
    if (!t->of[0]) {
        qn_free(t);
        return qn_fail_nomem(err, sizeof(series));
    }
    t->n_of = 1;
    for (int i = 0; i < N_OTHER_HTTP; i++)
        t->http[i] = (qn_tally_answers){"other", "other", i + 1, 0};
    t->n_http = N_OTHER_HTTP;
    (void)pthread_mutex_init(&t->lock, NULL);
    *out = t;
    return QN_OK;
}

void qn_tally_free(qn_tally *t)
{
    if (!t)
        return;
    (void)pthread_mutex_destroy(&t->lock);
    for (size_t i = 0; i < t->n_of; i++)
        qn_free(t->of[i]);
    qn_free(t);
}

static bool is_series(const series *s, uint64_t hash, const char *model, const char *class_name)
{
    return s->hash == hash && strcmp(s->c.model, model) == 0 &&
           strcmp(s->c.class_name, class_name) == 0;
}

/* Under the lock. */
static series *find(qn_tally *t, const char *model, const char *class_name)
{
    char m[sizeof t->of[0]->c.model], c[sizeof t->of[0]->c.class_name];
    qn_tally_cut(m, sizeof m, model ? model : "");
    qn_tally_cut(c, sizeof c, class_name ? class_name : "");
    uint64_t hash = hash_of(m, c);
    if (is_series(t->of[t->last], hash, m, c))
        return t->of[t->last];
    for (size_t i = 0; i < t->n_of; i++)
        if (is_series(t->of[i], hash, m, c)) {
            t->last = i;
            return t->of[i];
        }
    series *s = t->n_of < MAX_SERIES ? new_series(m, c, hash) : NULL;
    if (!s)
        return t->of[0];
    t->last = t->n_of;
    t->of[t->n_of++] = s;
    return s;
}

/* ---- adding ---- */

static void add(series *s, qn_measure of, uint64_t value)
{
    qn_histogram_add(&s->c.of[of], of, value);
    if ((int)of < (int)N_RECENT)
        s->recent[of][s->n_recent[of]++ % QN_TALLY_RECENT] = value;
}
_Static_assert((int)QN_MEASURE_WHOLE == (int)N_RECENT - 1, "the first measures have rings");

void qn_tally_gap(qn_tally *t, const char *model, const char *class_name, uint64_t ns)
{
    (void)pthread_mutex_lock(&t->lock);
    add(find(t, model, class_name), QN_MEASURE_GAP, ns);
    (void)pthread_mutex_unlock(&t->lock);
}

static void add_reason(qn_tally *t, const char *name)
{
    size_t i = 0;
    while (i < t->n_reasons &&
           strncmp(t->reasons[i].name, name, sizeof t->reasons[i].name - 1) != 0)
        i++;
    if (i == MAX_REASONS)
        i--;
    if (i == t->n_reasons) {
        qn_tally_cut(t->reasons[i].name, sizeof t->reasons[i].name,
                     i == MAX_REASONS - 1 ? "other" : name);
        t->n_reasons++;
    }
    t->reasons[i].n++;
}

static uint64_t since(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

/* The times that the request came to have: one that was cancelled while it waited has none. */
static void add_times(series *s, const qn_request_record *r, bool is_answer)
{
    if (r->start_ns)
        add(s, QN_MEASURE_QUEUE, since(r->submit_ns, r->start_ns));
    if (r->first_ns)
        add(s, QN_MEASURE_FIRST, since(r->submit_ns, r->first_ns));
    if (r->start_ns && r->first_ns)
        add(s, QN_MEASURE_PREFILL, since(r->start_ns, r->first_ns));
    if (!is_answer)
        return;
    add(s, QN_MEASURE_WHOLE, since(r->submit_ns, r->end_ns));
    if (r->start_ns)
        add(s, QN_MEASURE_INFERENCE, since(r->start_ns, r->end_ns));
    if (r->first_ns) {
        uint64_t n = (uint64_t)QN_MAX(r->n, 1), decode = since(r->first_ns, r->end_ns);
        uint64_t n_tokens = r->n_output > 0 ? (uint64_t)r->n_output / n : 0;
        add(s, QN_MEASURE_DECODE, decode);
        if (n_tokens > 1)
            add(s, QN_MEASURE_PER_TOKEN, decode / (n_tokens - 1));
    }
}

void qn_tally_request(qn_tally *t, const qn_request_record *r)
{
    qn_tally_end end = r->finish == QN_FINISH_STOP        ? QN_ENDED_STOP
                       : r->finish == QN_FINISH_LENGTH    ? QN_ENDED_LENGTH
                       : r->finish == QN_FINISH_CANCELLED ? QN_ENDED_ABORT
                                                          : QN_ENDED_ERROR;
    bool is_answer = end == QN_ENDED_STOP || end == QN_ENDED_LENGTH;
    (void)pthread_mutex_lock(&t->lock);
    series *s = find(t, r->model, r->class_name);
    s->c.n_ended[end]++;
    add_times(s, r, is_answer);
    if (is_answer) {
        s->c.n_prompt += (uint64_t)QN_MAX(r->n_prompt, 0);
        s->c.n_cached += (uint64_t)QN_MAX(r->n_cached, 0);
        s->c.n_output += (uint64_t)QN_MAX(r->n_output, 0);
        add(s, QN_MEASURE_PROMPT, (uint64_t)QN_MAX(r->n_prompt, 0));
        add(s, QN_MEASURE_OUTPUT, (uint64_t)QN_MAX(r->n_output, 0));
        add(s, QN_MEASURE_MAX_TOKENS, (uint64_t)QN_MAX(r->max_tokens, 0));
        add(s, QN_MEASURE_N, (uint64_t)QN_MAX(r->n, 1));
    }
    if (r->reason)
        add_reason(t, r->reason);
    (void)pthread_mutex_unlock(&t->lock);
}

static const char *known_method(const char *method)
{
    static const char *const known[] = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"};
    for (size_t i = 0; method && i < QN_COUNT(known); i++)
        if (strcmp(method, known[i]) == 0)
            return known[i];
    return "other";
}

static bool is_same(const qn_tally_answers *a, const qn_tally_answers *b)
{
    return a->hundreds == b->hundreds && strcmp(a->route, b->route) == 0 &&
           strcmp(a->method, b->method) == 0;
}

void qn_tally_http(qn_tally *t, const char *method, const char *route, int status)
{
    qn_tally_answers a = {.hundreds =
                              status >= FIRST_STATUS && status < END_STATUS ? status / 100 : 5};
    size_t i = 0;
    qn_tally_cut(a.method, sizeof a.method, known_method(method));
    qn_tally_cut(a.route, sizeof a.route, route && *route ? route : "none");
    (void)pthread_mutex_lock(&t->lock);
    while (i < t->n_http && !is_same(&t->http[i], &a))
        i++;
    if (i == MAX_HTTP)
        i = (size_t)a.hundreds - 1;
    else if (i == t->n_http)
        t->http[t->n_http++] = a;
    t->http[i].n++;
    if (status >= FIRST_STATUS && status < END_STATUS)
        t->status[status - FIRST_STATUS]++;
    (void)pthread_mutex_unlock(&t->lock);
}

/* ---- reading ---- */

size_t qn_tally_size(qn_tally *t)
{
    (void)pthread_mutex_lock(&t->lock);
    size_t n = t->n_of;
    (void)pthread_mutex_unlock(&t->lock);
    return n;
}

void qn_tally_at(qn_tally *t, size_t i, qn_tally_counts *out)
{
    (void)pthread_mutex_lock(&t->lock);
    *out = t->of[i]->c;
    (void)pthread_mutex_unlock(&t->lock);
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

size_t qn_tally_recent(qn_tally *t, size_t i, qn_measure of, uint64_t out[QN_TALLY_RECENT])
{
    QN_ASSERT((int)of < (int)N_RECENT);
    (void)pthread_mutex_lock(&t->lock);
    const series *s = t->of[i];
    size_t n = (size_t)QN_MIN(s->n_recent[of], QN_TALLY_RECENT);
    memcpy(out, s->recent[of], n * sizeof *out);
    (void)pthread_mutex_unlock(&t->lock);
    qsort(out, n, sizeof *out, ascending);
    return n;
}

uint64_t qn_tally_percentile(const uint64_t *values, size_t n, size_t per_cent)
{
    return n ? values[QN_MAX(QN_DIV_UP(n * per_cent, 100), (size_t)1) - 1] : 0;
}

bool qn_tally_http_at(qn_tally *t, size_t i, qn_tally_answers *out)
{
    (void)pthread_mutex_lock(&t->lock);
    bool is_there = i < t->n_http;
    if (is_there)
        *out = t->http[i];
    (void)pthread_mutex_unlock(&t->lock);
    return is_there;
}

uint64_t qn_tally_status(qn_tally *t, int status)
{
    if (status < FIRST_STATUS || status >= END_STATUS)
        return 0;
    (void)pthread_mutex_lock(&t->lock);
    uint64_t n = t->status[status - FIRST_STATUS];
    (void)pthread_mutex_unlock(&t->lock);
    return n;
}

bool qn_tally_reason_at(qn_tally *t, size_t i, char name[32], uint64_t *n)
{
    (void)pthread_mutex_lock(&t->lock);
    bool is_there = i < t->n_reasons;
    if (is_there) {
        memcpy(name, t->reasons[i].name, sizeof t->reasons[i].name);
        *n = t->reasons[i].n;
    }
    (void)pthread_mutex_unlock(&t->lock);
    return is_there;
}
