/* SPDX-License-Identifier: Apache-2.0
 * thread.h - the worker team of the CPU backend.
 *
 * The caller is worker 0; the other threads wait for work, first spinning, then on a futex: a wake-up
 * by futex costs 25-45 us on a small virtual machine, a spin barrier 0.05-0.25 us, and a decode step
 * has over a hundred of them.
 * Threads: one caller at a time owns a team. */
#ifndef QN_BASE_THREAD_H
#define QN_BASE_THREAD_H

#include "base/share.h"

#define QN_TEAM_MAX 256

typedef struct qn_team qn_team;
typedef void (*qn_team_fn)(void *arg, int thread, int n_threads);

QN_MUST_USE qn_status qn_team_new(qn_team **out, int n_threads,
                                  qn_err *err); /* n_threads 1..QN_TEAM_MAX */
void qn_team_free(qn_team *t);
int qn_team_size(const qn_team *t); /* the most workers a run has */
/* From now on a run has as many workers as `share` advises, read again once a second, at most
 * the size. share is borrowed. */
void qn_team_follow(qn_team *t, qn_share *share);
/* Runs fn(arg, i, n) on n workers and returns when all are done; n is the size, or fewer. */
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
