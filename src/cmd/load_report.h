/* SPDX-License-Identifier: Apache-2.0
 * load_report.h - what came of the requests of `quern load`: one record each, percentiles, attainment, table, JSON, CSV.
 *
 * Times are milliseconds from the intended start of a request: what it waited for a server that was busy, or for us, counts.
 * A percentile is a measured value: the smallest one that as many of all are not above (nearest rank).
 * Threads: pure; one owner. */
#ifndef QN_CMD_LOAD_REPORT_H
#define QN_CMD_LOAD_REPORT_H

#include "cmd/load_work.h"

typedef enum load_outcome { LOAD_DONE, LOAD_REFUSED, LOAD_FAILED, LOAD_N_OUTCOMES } load_outcome;

/* Why a request failed, besides an HTTP status. */
typedef enum load_trouble {
    LOAD_NO_TROUBLE,
    LOAD_NO_CONNECTION,
    LOAD_CUT,      /* closed before the answer was whole */
    LOAD_BAD,      /* no HTTP, no event stream, no completion; or an error inside it */
    LOAD_TIMED_OUT /* --timeout */
} load_trouble;

typedef struct load_record {
    uint64_t i;
    double intended_s; /* after the first counted request's */
    double lag_ms;     /* until it was sent */
    double ms[LOAD_N_METRICS];
    uint32_t class_i;
    uint32_t n_in, n_out;
    uint16_t status; /* of HTTP; 0: none */
    uint8_t outcome, trouble;
    bool has_gap, is_met; /* is_met: each target of its class */
} load_record;

typedef struct load_values {
    double *v;
    size_t n, cap;
} load_values;
bool load_values_add(load_values *s, double v);

/* Requests that went wrong in the same way. */
typedef struct load_error {
    int status;
    load_trouble trouble;
    load_outcome outcome;
    uint64_t n;
    char message[192]; /* of the first */
} load_error;

#define LOAD_MAX_ERRORS 24

typedef struct load_results {
    load_record *records;
    size_t n, cap;
    load_values gaps[LOAD_MAX_CLASSES]; /* ms between two events with text */
    load_error errors[LOAD_MAX_ERRORS];
    size_t n_errors;
    char failure[224];  /* the first request that failed, counted or not; "": none did */
    double seconds;     /* from the first intended start to the last end */
    uint64_t n_unended; /* when interrupted */
    bool is_interrupted, is_cut_short; /* cut short: nothing worked, or the targets were lost */
} load_results;
void load_results_fini(load_results *r);
/* is_met is filled in. */
QN_MUST_USE qn_status load_results_add(load_results *r, const load_record *record,
                                       const char *message, const load_classes *c, qn_err *err);

/* Of sorted values, 0 < p <= 100. */
double load_percentile(const double *sorted, size_t n, double p);

typedef struct load_series {
    size_t n;
    double mean, p50, p90, p95, p99, p999, max;
} load_series;

/* One class, or all of them. */
typedef struct load_class_report {
    char name[33];
    uint64_t n[LOAD_N_OUTCOMES], n_all;
    load_series series[LOAD_N_METRICS];
    double target_ms[LOAD_N_METRICS];
    uint64_t n_met[LOAD_N_METRICS]; /* within that target */
    uint64_t n_met_all;             /* within each */
} load_class_report;

typedef struct load_report {
    load_class_report classes[LOAD_MAX_CLASSES], all;
    size_t n_classes;
    bool is_mix;
    load_series lag;
    uint64_t n_in, n_out; /* tokens of those that were done */
    double seconds;
} load_report;
/* Sorts the gaps of r. */
QN_MUST_USE qn_status load_report_make(load_report *out, load_results *r, const load_classes *c,
                                       qn_err *err);
/* Percent of all requests that are done and within their targets, of the class that has least; 100 without targets. */
double load_report_attained(const load_report *p);

/* What was run, for the readers of the report. */
typedef struct load_title {
    const char *url, *model, *path;
    const load_work *work;
    int concurrency;
} load_title;
void load_report_text(qn_str *out, const load_report *p, const load_results *r);
/* "3 timed out, 2 HTTP 500 (out of memory)" */
void load_report_failures(qn_str *out, const load_results *r);
/* One JSON object. */
void load_report_json(qn_str *out, const load_report *p, const load_results *r,
                      const load_title *t);
void load_csv_head(qn_str *out);
void load_csv_rows(qn_str *out, const load_results *r, const load_classes *c, int step);

#endif
