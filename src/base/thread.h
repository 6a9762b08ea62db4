/* SPDX-License-Identifier: Apache-2.0
 * thread.h - the worker team of the CPU backend.
 *
 * The caller is worker 0; n - 1 threads wait for work, first spinning (about 50 us), then on a
 * futex.
 * Threads: one caller at a time owns a team. */
#ifndef QN_BASE_THREAD_H
#define QN_BASE_THREAD_H

#include "base/base.h"

#define QN_TEAM_MAX 256

typedef struct qn_team qn_team;
typedef void (*qn_team_fn)(void *arg, int thread, int n_threads);

QN_MUST_USE qn_status qn_team_new(qn_team **out, int n_threads, qn_err *err); /* 1..QN_TEAM_MAX */
void qn_team_free(qn_team *t);
int qn_team_size(const qn_team *t);
/* Runs fn(arg, i, n) on all workers and returns when all are done. */
void qn_team_run(qn_team *t, qn_team_fn fn, void *arg);
/* Inside fn: waits until every worker has arrived. */
void qn_team_barrier(qn_team *t);

/* The part of [0, n) in multiples of `step` that worker `thread` of `n_threads` owns. */
static inline void qn_team_split(size_t n, size_t step, int thread, int n_threads, size_t *begin,
                                 size_t *end)
{
    size_t units = QN_DIV_UP(n, step), t = (size_t)thread, nt = (size_t)n_threads;
    size_t b = units * t / nt * step, e = units * (t + 1) / nt * step;
    *begin = QN_MIN(b, n);
    *end = QN_MIN(e, n);
}

#endif
