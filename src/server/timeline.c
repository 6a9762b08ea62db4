/* SPDX-License-Identifier: Apache-2.0
 * timeline.c - see timeline.h.
 *
 * A request is a thread of the trace, so that requests that ran together lie below each other. Records are copied one by one
 * while others are added: one that was overwritten meanwhile is left out.
 * Source: the Trace Event Format, "X" (complete) and "M" (metadata) events. */
#include "server/timeline.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "base/mem.h"

enum { MAX_MODELS = 64 };

struct qn_timeline {
    pthread_mutex_t lock;
    uint64_t n; /* added so far */
    qn_request_record of[QN_TIMELINE_SIZE];
};

qn_status qn_timeline_new(qn_timeline **out, qn_err *err)
{
    *out = qn_calloc(1, sizeof **out, QN_MEM_MISC);
    if (!*out)
        return qn_fail_nomem(err, sizeof **out);
    (void)pthread_mutex_init(&(*out)->lock, NULL);
    return QN_OK;
}

void qn_timeline_free(qn_timeline *t)
{
    if (!t)
        return;
    (void)pthread_mutex_destroy(&t->lock);
    qn_free(t);
}

void qn_timeline_add(qn_timeline *t, const qn_request_record *r)
{
    (void)pthread_mutex_lock(&t->lock);
    t->of[t->n++ % QN_TIMELINE_SIZE] = *r;
    (void)pthread_mutex_unlock(&t->lock);
}

/* Record number i, if it is still there. */
static bool copy(qn_timeline *t, uint64_t i, qn_request_record *out)
{
    (void)pthread_mutex_lock(&t->lock);
    bool is_there = i < t->n && t->n - i <= QN_TIMELINE_SIZE;
    if (is_there)
        *out = t->of[i % QN_TIMELINE_SIZE];
    (void)pthread_mutex_unlock(&t->lock);
    return is_there;
}

/* ---- writing ---- */

typedef struct trace {
    qn_str *out;
    bool has_any;
    char models[MAX_MODELS][sizeof((qn_request_record *)0)->model]; /* process id - 1 */
    int n_models;
} trace;

static void begin(trace *t)
{
    qn_str_adds(t->out, t->has_any ? ",\n" : "\n");
    t->has_any = true;
}

static void add_name(trace *t, const char *of, int process, uint64_t thread, const char *name)
{
    begin(t);
    qn_str_addf(t->out,
                "{\"ph\":\"M\",\"name\":\"%s\",\"pid\":%d,\"tid\":%" PRIu64 ",\"args\":{\"name\":",
                of, process, thread);
    qn_str_add_json(t->out, name, strlen(name));
    qn_str_adds(t->out, "}}");
}

static int process_of(trace *t, const char *model)
{
    int i = 0;
    while (i < t->n_models && strcmp(t->models[i], model) != 0)
        i++;
    if (i == MAX_MODELS)
        return i; /* with the last one's */
    if (i == t->n_models) {
        memcpy(t->models[t->n_models++], model, sizeof t->models[0]);
        add_name(t, "process_name", i + 1, 0, model);
    }
    return i + 1;
}

static void add_us(qn_str *out, uint64_t ns)
{
    qn_str_addf(out, "%" PRIu64 ".%03u", ns / 1000, (unsigned)(ns % 1000));
}

static void add_text(qn_str *out, const char *key, const char *value)
{
    qn_str_addf(out, ",\"%s\":", key);
    qn_str_add_json(out, value, strlen(value));
}

static const char *finish_name(qn_finish f)
{
    static const char *const names[] = {"none", "stop", "length", "abort", "error"};
    return (size_t)f < QN_COUNT(names) ? names[f] : "none";
}

static void add_phase(trace *t, const char *name, uint64_t from, uint64_t to)
{
    qn_str *out = t->out;
    begin(t);
    qn_str_addf(out, "{\"ph\":\"X\",\"name\":\"%s\",\"cat\":\"request\",\"ts\":", name);
    add_us(out, from);
    qn_str_adds(out, ",\"dur\":");
    add_us(out, to > from ? to - from : 0);
}

static void add_args(trace *t, const qn_request_record *r, int process, uint64_t thread)
{
    qn_str *out = t->out;
    qn_str_addf(out,
                ",\"pid\":%d,\"tid\":%" PRIu64
                ",\"args\":{\"prompt_tokens\":%d,\"cached_tokens\":%d,"
                "\"output_tokens\":%d,\"preempted\":%d,\"draft_tokens\":%d,\"accepted_tokens\":%d,"
                "\"n\":%d,\"max_tokens\":%d,"
                "\"stream\":%s,\"status\":%d",
                process, thread, r->n_prompt, r->n_cached, r->n_output, r->n_preempted, r->n_draft,
                r->n_accepted, r->n, r->max_tokens, r->is_stream ? "true" : "false", r->status);
    add_text(out, "class", r->class_name);
    add_text(out, "api", r->api);
    add_text(out, "finish", finish_name(r->finish));
    if (r->reason)
        add_text(out, "reason", r->reason);
    qn_str_adds(out, "}}");
}

static void add_request(trace *t, const qn_request_record *r, uint64_t thread)
{
    const uint64_t first = r->first_ns ? r->first_ns : r->end_ns;
    const struct {
        const char *name;
        uint64_t from, to; /* from 0: never reached, or not known when: then part of the queue */
    } phases[] = {
        {"queue", r->submit_ns, r->start_ns ? r->start_ns : first},
        {"prefill", r->start_ns, first},
        {"decode", r->first_ns, r->end_ns},
    };
    int process = process_of(t, r->model);
    add_name(t, "thread_name", process, thread, r->id);
    for (size_t i = 0; i < QN_COUNT(phases); i++)
        if (phases[i].from) {
            add_phase(t, phases[i].name, phases[i].from, phases[i].to);
            add_args(t, r, process, thread);
        }
}

static bool is_of(const qn_request_record *r, const char *tenant)
{
    return !tenant || strncmp(r->tenant, tenant, sizeof r->tenant - 1) == 0;
}

void qn_timeline_write(qn_timeline *t, qn_str *out, size_t last, const char *tenant)
{
    trace *to = qn_calloc(1, sizeof *to, QN_MEM_MISC);
    if (!to) {
        out->failed = true;
        return;
    }
    to->out = out;
    (void)pthread_mutex_lock(&t->lock);
    uint64_t end = t->n;
    (void)pthread_mutex_unlock(&t->lock);
    last = QN_MIN(last, QN_TIMELINE_SIZE);
    qn_str_adds(out, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
    for (uint64_t i = end > last ? end - last : 0; i < end; i++) {
        qn_request_record r;
        if (copy(t, i, &r) && is_of(&r, tenant))
            add_request(to, &r, i + 1);
    }
    qn_str_adds(out, "\n]}\n");
    qn_free(to);
}
