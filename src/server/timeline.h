/* SPDX-License-Identifier: Apache-2.0
 * timeline.h - the last 1,000 requests, as a trace for chrome://tracing and Perfetto.
 *
 *   process: model     thread: request     |-- queue --|-- prefill --|------ decode ------|
 *
 * Threads: any. A lock, held for the copy of one record. */
#ifndef QN_SERVER_TIMELINE_H
#define QN_SERVER_TIMELINE_H

#include "server/metrics.h"

#define QN_TIMELINE_SIZE 1000

typedef struct qn_timeline qn_timeline;

QN_MUST_USE qn_status qn_timeline_new(qn_timeline **out, qn_err *err);
void qn_timeline_free(qn_timeline *t); /* NULL allowed */
void qn_timeline_add(qn_timeline *t, const qn_request_record *r);
/* JSON; times are microseconds of the monotonic clock. */
void qn_timeline_write(qn_timeline *t, qn_str *out, size_t last, const char *tenant);

#endif
