/* SPDX-License-Identifier: Apache-2.0
 * workers.h - threads that take jobs in turns: one of each owner, and of an owner's in order.
 * Threads: any; free is the last call. */
#ifndef QN_SERVER_WORKERS_H
#define QN_SERVER_WORKERS_H

#include "base/base.h"

typedef struct qn_workers qn_workers;

/* Stands first in what is to be done; the caller's, and not touched again once it is run. */
typedef struct qn_job {
    struct qn_job *next, *last; /* of its owner; last: of the owner's first */
    struct qn_job *next_owner;  /* of the owner's first */
    uint64_t owner;
} qn_job;

/* max: jobs that wait; each: of one owner at once, 0: any number. */
QN_MUST_USE qn_status qn_workers_new(qn_workers **out, int n, size_t max, int each,
                                     void (*run)(qn_job *job), qn_err *err);
bool qn_workers_put(qn_workers *w, qn_job *job, uint64_t owner); /* false: too many wait */
void qn_workers_free(qn_workers *w); /* after all jobs were run; NULL allowed */

#endif
