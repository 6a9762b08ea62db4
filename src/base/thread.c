/* SPDX-License-Identifier: Apache-2.0
 * thread.c - worker team with generation counters.
 *
 * run: the caller stores fn, bumps `generation`, works as worker 0, then waits until `n_done` is n
 * - 1. A worker that sees no new generation spins about SPINS rounds, then sleeps on a futex of
 * `generation`; `n_sleeping` tells the caller to wake it. Why spin: a futex wake-up costs 25-45 us
 * on a small virtual machine, a spin barrier 0.05-0.25 us, and a decode step has over a hundred of
 * them. On a machine with fewer processors than workers spinning only delays, so the loop yields
 * early. */
#include "base/thread.h"

#include "base/cpu.h"
#include "base/mem.h"
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPINS 2000 /* about 50 us: a pause takes some 25 ns on Zen 3 */

typedef struct worker {
    qn_team *team;
    int index;
    pthread_t thread;
} worker;

struct qn_team {
    _Alignas(64) _Atomic uint32_t generation;
    atomic_int n_sleeping;
    _Alignas(64) atomic_int n_done;
    _Alignas(64) atomic_int barrier_count;
    atomic_uint barrier_phase;
    qn_team_fn fn; /* NULL: leave */
    void *arg;
    int n, n_started, spins;
    worker workers[];
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_generation(qn_team *t, uint32_t seen)
{
    for (int i = 0; i < t->spins; i++) {
        if (atomic_load_explicit(&t->generation, memory_order_acquire) != seen)
            return;
        relax();
    }
    atomic_fetch_add(&t->n_sleeping, 1);
    while (atomic_load(&t->generation) == seen)
        (void)syscall(SYS_futex, &t->generation, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&t->n_sleeping, 1);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    qn_team *t = w->team;
    for (uint32_t seen = 0;; seen++) {
        wait_generation(t, seen);
        if (!t->fn)
            return NULL;
        t->fn(t->arg, w->index, t->n);
        atomic_fetch_add_explicit(&t->n_done, 1, memory_order_release);
    }
}

static void start_generation(qn_team *t, qn_team_fn fn, void *arg)
{
    t->fn = fn;
    t->arg = arg;
    atomic_store_explicit(&t->n_done, 0, memory_order_relaxed);
    atomic_fetch_add(&t->generation, 1);
    if (atomic_load(&t->n_sleeping) > 0)
        (void)syscall(SYS_futex, &t->generation, FUTEX_WAKE_PRIVATE, t->n, NULL, NULL, 0);
}

qn_status qn_team_new(qn_team **out, int n_threads, qn_err *err)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > QN_TEAM_MAX)
        return qn_fail(err, QN_E_ARG, "threads: found %d, want 1..%d", n_threads, QN_TEAM_MAX);
    size_t bytes = sizeof(qn_team) + (size_t)n_threads * sizeof(worker);
    qn_team *t = qn_calloc(1, bytes, QN_MEM_MISC);
    if (!t)
        return qn_fail_nomem(err, bytes);
    t->n = n_threads;
    t->spins = n_threads <= qn_cpu_n_usable() ? SPINS : 100;
    for (int i = 1; i < n_threads; i++) {
        t->workers[i] = (worker){.team = t, .index = i};
        int e = pthread_create(&t->workers[i].thread, NULL, worker_main, &t->workers[i]);
        if (e) {
            qn_team_free(t);
            return qn_fail(err, e == EAGAIN ? QN_E_NOMEM : QN_E_INTERNAL,
                           "cannot start worker thread %d of %d", i, n_threads);
        }
        t->n_started++;
    }
    *out = t;
    return QN_OK;
}

void qn_team_free(qn_team *t)
{
    if (!t)
        return;
    start_generation(t, NULL, NULL);
    for (int i = 1; i <= t->n_started; i++)
        (void)pthread_join(t->workers[i].thread, NULL);
    qn_free(t);
}

int qn_team_size(const qn_team *t)
{
    return t->n;
}

void qn_team_run(qn_team *t, qn_team_fn fn, void *arg)
{
    if (t->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    start_generation(t, fn, arg);
    fn(arg, 0, t->n);
    for (int i = 0; atomic_load_explicit(&t->n_done, memory_order_acquire) != t->n - 1; i++) {
        relax();
        if (i >= t->spins)
            (void)sched_yield();
    }
}

void qn_team_barrier(qn_team *t)
{
    if (t->n == 1)
        return;
    unsigned phase = atomic_load_explicit(&t->barrier_phase, memory_order_acquire);
    if (atomic_fetch_add_explicit(&t->barrier_count, 1, memory_order_acq_rel) == t->n - 1) {
        atomic_store_explicit(&t->barrier_count, 0, memory_order_relaxed);
        atomic_store_explicit(&t->barrier_phase, phase + 1, memory_order_release);
        return;
    }
    for (int i = 0; atomic_load_explicit(&t->barrier_phase, memory_order_acquire) == phase; i++) {
        relax();
        if (i >= t->spins)
            (void)sched_yield();
    }
}
