/* SPDX-License-Identifier: Apache-2.0
 * metrics.h - what is counted of requests, as Prometheus text; and the last requests as a timeline.
 *
 * Histograms have vLLM's bucket edges, so that boards made for it work and fleets can be mixed; `quern:` names have a class label.
 * Token counters are the sums of what usage told the clients.
 * Threads: any; a lock that is held for some hundred nanoseconds. */
#ifndef QN_SERVER_METRICS_H
#define QN_SERVER_METRICS_H

#include "base/str.h"
#include <quern/measure.h>

typedef struct qn_metrics qn_metrics;

QN_MUST_USE qn_status qn_metrics_new(qn_metrics **out, qn_err *err);
void qn_metrics_free(qn_metrics *m);

/* One HTTP answer. */
void qn_metrics_http(qn_metrics *m, const char *method, const char *route, int status);

/* One request of an engine, when it ended. */
typedef struct qn_request_record {
    char id[64], model[64], class_name[33], api[24]; /* api: the route's path, cut */
    char tenant[64];                                 /* cut; "": nobody's */
    int status;                                      /* of HTTP */
    qn_finish finish;
    uint64_t submit_ns, start_ns, first_ns, end_ns; /* monotonic; start, first 0: never */
    int n_prompt, n_cached, n_output, n_preempted, n_draft, n_accepted, max_tokens, n;
    bool is_stream;
    const char
        *reason; /* of an error: "queue_full", "timeout", "cancelled", ...; NULL: none. Static */
} qn_request_record;
void qn_metrics_request(qn_metrics *m, const qn_request_record *r);
/* Time between two tokens of one answer. */
void qn_metrics_gap(qn_metrics *m, const char *model, const char *class_name, uint64_t ns);

/* A model as it is now. */
typedef struct qn_model_view {
    const char *name, *state; /* "loaded", "loading", "unloaded"; static */
    bool is_open;
    /* it was, too: of all its engines so far. Classes' names are static here, or the server's */
    bool was_open;
    qn_engine_stats stats;
    uint64_t weight_bytes; /* read to decode a token of one sequence */
    uint64_t bytes;        /* of memory that it takes, or would take; 0: not known */
    uint32_t n_waiting;    /* requests, until it is open */
    uint32_t rank;         /* which is put away first: 1; 0: not open */
    uint64_t n_opened, n_closed, n_failed, opening_ns;
} qn_model_view;

/* All of it in text format 0.0.4, with the engines' own counters. */
void qn_metrics_write(qn_metrics *m, qn_str *out, const qn_model_view *models, size_t n);
/* The tenant's (NULL: all) among the last `last` requests as a Chrome trace: queue, prefill, decode of each; cut at 1,000. */
void qn_metrics_timeline(qn_metrics *m, qn_str *out, size_t last, const char *tenant);
/* One JSON object for `quern top` and the operator's page: rates over the last seconds, percentiles by class, attainment. */
void qn_metrics_snapshot(qn_metrics *m, qn_str *out, const qn_model_view *models, size_t n);
/* A table for people: class, requests, p50, p95, p99, target, attained. On shutdown. */
void qn_metrics_report(qn_metrics *m, qn_str *out, const qn_model_view *models, size_t n);

#endif
