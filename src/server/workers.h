/* SPDX-License-Identifier: Apache-2.0
 * workers.h - threads that take jobs from one bounded queue, in order.
 * Threads: any; free is the last call. */
#ifndef QN_SERVER_WORKERS_H
#define QN_SERVER_WORKERS_H

#include "base/base.h"

typedef struct qn_workers qn_workers;

/* max: jobs that wait. */
QN_MUST_USE qn_status qn_workers_new(qn_workers **out, int n, size_t max, void (*run)(void *job),
                                     qn_err *err);
bool qn_workers_put(qn_workers *w, void *job); /* false: the queue is full */
void qn_workers_free(qn_workers *w);           /* after all jobs were run; NULL allowed */

#endif
