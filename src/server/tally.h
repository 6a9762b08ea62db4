/* SPDX-License-Identifier: Apache-2.0
 * tally.h - what requests added up to, by model and class: histograms, counters, and the last values as they were.
 *
 *   series    model, class         -> 12 histograms, counters, 3 rings of the last 1,024 values
 *   http      method, route, 2xx.. -> answers        reasons -> errors
 *
 *  1. Every table is bounded: what finds no room in it counts under "other", and sums stay right.
 *  2. Entries are never removed and never move, so that index i means the same from one call to the next.
 * Threads: any. One lock, held for an addition or for the copy of one entry. */
#ifndef QN_SERVER_TALLY_H
#define QN_SERVER_TALLY_H

#include "server/metrics.h"

typedef struct qn_tally qn_tally;

/* What is measured of requests. */
typedef enum qn_measure {
    QN_MEASURE_FIRST, /* from submit to the first token */
    QN_MEASURE_GAP,
    QN_MEASURE_WHOLE, /* from submit to the end */
    QN_MEASURE_QUEUE,
    QN_MEASURE_PREFILL,
    QN_MEASURE_DECODE,
    QN_MEASURE_INFERENCE, /* prefill and decode */
    QN_MEASURE_PER_TOKEN, /* of one answer: its decode time by its tokens */
    QN_MEASURE_PROMPT,    /* tokens from here on */
    QN_MEASURE_OUTPUT,
    QN_MEASURE_MAX_TOKENS,
    QN_MEASURE_N, /* candidates */
    QN_N_MEASURES
} qn_measure;

/* The upper end of a bucket, itself included. */
typedef struct qn_edge {
    uint64_t at;    /* nanoseconds, or a count */
    const char *le; /* as the label says it: seconds, or a count; as Python writes floats */
    bool is_ours;   /* not among vLLM's: below what its users wait */
} qn_edge;

typedef struct qn_measure_info {
    const char *name, *help; /* name: what follows "vllm:" */
    const qn_edge *edges;
    size_t n_edges;
    bool is_time;
    bool is_by_class; /* has a quern: histogram too */
} qn_measure_info;
extern const qn_measure_info qn_measures[QN_N_MEASURES];

#define QN_TALLY_EDGES 36
typedef struct qn_histogram {
    uint64_t n[QN_TALLY_EDGES + 1]; /* of each bucket alone; the last: over every edge */
    uint64_t sum, count;
} qn_histogram;
void qn_histogram_add(qn_histogram *h, qn_measure of, uint64_t value);

typedef enum qn_tally_end {
    QN_ENDED_STOP,
    QN_ENDED_LENGTH,
    QN_ENDED_ABORT,
    QN_ENDED_ERROR,
    QN_N_ENDED
} qn_tally_end;
extern const char *const qn_ended_names[QN_N_ENDED];

typedef struct qn_tally_counts {
    char model[64], class_name[33];
    uint64_t n_ended[QN_N_ENDED];
    uint64_t n_prompt, n_cached, n_output; /* tokens, as usage told the clients */
    qn_histogram of[QN_N_MEASURES];
} qn_tally_counts;
void qn_tally_counts_add(qn_tally_counts *sum, const qn_tally_counts *c); /* names are kept */

QN_MUST_USE qn_status qn_tally_new(qn_tally **out, qn_err *err);
void qn_tally_free(qn_tally *t); /* NULL allowed */

void qn_tally_http(qn_tally *t, const char *method, const char *route, int status);
void qn_tally_request(qn_tally *t, const qn_request_record *r);
void qn_tally_gap(qn_tally *t, const char *model, const char *class_name, uint64_t ns);

size_t qn_tally_size(qn_tally *t); /* of the series */
void qn_tally_at(qn_tally *t, size_t i, qn_tally_counts *out);

/* A name as it stands in qn_tally_counts: as much of it as fits. */
void qn_tally_cut(char *out, size_t size, const char *s);

#define QN_TALLY_RECENT 1024
/* The last values of QN_MEASURE_FIRST, GAP or WHOLE, in ascending order; returns how many. */
size_t qn_tally_recent(qn_tally *t, size_t i, qn_measure of, uint64_t out[QN_TALLY_RECENT]);
/* Of ascending values: the smallest that at least per_cent of them do not pass. n 0: 0. */
uint64_t qn_tally_percentile(const uint64_t *values, size_t n, size_t per_cent);

typedef struct qn_tally_answers {
    char method[8], route[48];
    int hundreds; /* of the status: 2 for 2xx */
    uint64_t n;
} qn_tally_answers;
bool qn_tally_http_at(qn_tally *t, size_t i, qn_tally_answers *out); /* false: no more */
uint64_t qn_tally_status(qn_tally *t, int status);                   /* 100..599: answers with it */
/* Errors by reason; false: no more. */
bool qn_tally_reason_at(qn_tally *t, size_t i, char name[32], uint64_t *n);

#endif
