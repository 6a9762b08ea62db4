/* SPDX-License-Identifier: Apache-2.0
 * thread.c - worker team.
 *
 *   turn     number of the run, and in its lowest bits how many workers it has
 *   n_live   workers a run has now; the others are parked: asleep on this word
 *   n_done   workers that finished the run; the caller waits for it
 *   phase    number of the barrier; those who arrived early wait for it
 *
 * A run: the caller stores fn, bumps `turn`, works as worker 0, waits for n_done. A worker below the
 * run's count takes part exactly once, since no next run begins before. One above it only notes the
 * turn, and parks.
 *
 * Every wait is the same: spin for a while, then sleep on the word's futex. Whoever changes the word
 * wakes the sleepers if there are any; both sides use sequentially consistent operations, so either
 * the sleeper sees the new word or the waker sees the sleeper. */
#include "base/thread.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define COUNT_BITS 9 /* of turn */
#define COUNT_MASK ((1u << COUNT_BITS) - 1)
_Static_assert(QN_TEAM_MAX <= COUNT_MASK, "a count fits its bits");

#define REREAD_NS 1000000000u
/* Spinning between runs, and inside one. Measured with programs that take every processor: with
 * these a team keeps 90 % of its fair share; spinning for 5 us gives half of that, for 4 ms 80 %,
 * sched_yield 40 %. */
#define IDLE_NS 50000u
#define BUSY_NS 200000u

typedef struct word {
    _Alignas(64) atomic_uint value;
    atomic_uint n_asleep;
} word;

typedef struct worker {
    qn_team *team;
    int index;
    atomic_int tid;
    int read_tid;     /* whose times were read last */
    uint64_t kept_ns; /* ready, but kept from a processor; then */
    pthread_t thread;
} worker;

struct qn_team {
    word turn, n_live, n_done, phase;
    _Alignas(64) atomic_uint n_arrived; /* at the barrier */
    qn_team_fn fn;                      /* NULL: leave */
    void *arg;
    unsigned n_run; /* workers of this run */
    int n, n_started;
    qn_share *share;
    uint64_t read_ns; /* when `share` was read last */
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

/* ---- waiting ---- */

/* True once the word is no longer `old`. */
static bool spin(word *w, unsigned old, uint64_t ns)
{
    uint64_t until = 0;
    for (unsigned i = 1;; i++) {
        if (atomic_load_explicit(&w->value, memory_order_acquire) != old)
            return true;
        relax();
        if (i % 32)
            continue;
        uint64_t now = qn_now_ns();
        if (!until)
            until = now + ns;
        else if (now >= until)
            return false;
    }
}

static void sleep_on(word *w, unsigned old)
{
    atomic_fetch_add(&w->n_asleep, 1);
    while (atomic_load(&w->value) == old)
        (void)syscall(SYS_futex, &w->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&w->n_asleep, 1);
}

static void wait_while(word *w, unsigned old, uint64_t ns)
{
    if (!spin(w, old, ns))
        sleep_on(w, old);
}

/* After a change of w->value. */
static void wake(word *w)
{
    if (atomic_load(&w->n_asleep) > 0)
        (void)syscall(SYS_futex, &w->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* ---- workers ---- */

static void *worker_main(void *arg)
{
    worker *w = arg;
    qn_team *t = w->team;
    unsigned index = (unsigned)w->index, seen = 0;
    atomic_store(&w->tid, (int)syscall(SYS_gettid));
    for (;;) {
        unsigned live = atomic_load(&t->n_live.value);
        while (index >= live) {
            sleep_on(&t->n_live, live);
            live = atomic_load(&t->n_live.value);
        }
        wait_while(&t->turn, seen, IDLE_NS);
        seen = atomic_load_explicit(&t->turn.value, memory_order_acquire);
        if (index >= (seen & COUNT_MASK))
            continue;
        unsigned n_run = seen & COUNT_MASK;
        if (!t->fn)
            return NULL;
        t->fn(t->arg, w->index, (int)n_run);
        if (atomic_fetch_add(&t->n_done.value, 1) + 2 == n_run)
            wake(&t->n_done);
    }
}

static void start_run(qn_team *t, qn_team_fn fn, void *arg)
{
    unsigned n = atomic_load_explicit(&t->n_live.value, memory_order_relaxed);
    t->fn = fn;
    t->arg = arg;
    t->n_run = n;
    atomic_store_explicit(&t->n_done.value, 0, memory_order_relaxed);
    unsigned turn = atomic_load_explicit(&t->turn.value, memory_order_relaxed);
    atomic_store(&t->turn.value, ((turn >> COUNT_BITS) + 1) << COUNT_BITS | n);
    wake(&t->turn);
}

static void set_live(qn_team *t, unsigned n)
{
    if (n == atomic_load_explicit(&t->n_live.value, memory_order_relaxed))
        return;
    atomic_store(&t->n_live.value, n);
    wake(&t->n_live);
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
    atomic_store(&t->n_live.value, (unsigned)n_threads);
    for (int i = 1; i < n_threads; i++) {
        t->workers[i].team = t;
        t->workers[i].index = i;
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
    set_live(t, (unsigned)t->n);
    start_run(t, NULL, NULL);
    for (int i = 1; i <= t->n_started; i++)
        (void)pthread_join(t->workers[i].thread, NULL);
    qn_free(t);
}

int qn_team_size(const qn_team *t)
{
    return t->n;
}

void qn_team_follow(qn_team *t, qn_share *share)
{
    t->share = share;
    t->read_ns = 0;
}

/* ---- the others ---- */

/* /proc/self/task/TID/schedstat: nanoseconds on a processor, nanoseconds ready but kept from one. */
static bool read_times(int tid, uint64_t out[2])
{
    char path[64], text[96];
    (void)snprintf(path, sizeof path, "/proc/self/task/%d/schedstat", tid);
    (void)qn_file_peek(path, text, sizeof text);
    const char *at = text;
    for (int i = 0; i < 2; i++) {
        size_t n = strcspn(at, " ");
        if (!qn_parse_u64(at, n, UINT64_MAX, &out[i]))
            return false;
        at += n + 1;
    }
    return true;
}

/* Processors that the workers were ready for and kept from, since the last time. */
static double kept_cpus(qn_team *t, uint64_t since_ns)
{
    uint64_t kept = 0, now[2];
    unsigned live = atomic_load_explicit(&t->n_live.value, memory_order_relaxed);
    unsigned n = QN_MIN(live, 8u); /* the first few speak for all */
    for (unsigned i = 0; i < n; i++) {
        worker *w = &t->workers[i];
        int tid = i ? atomic_load(&w->tid) : (int)syscall(SYS_gettid);
        if (!tid || !read_times(tid, now))
            continue;
        if (w->read_tid == tid && now[1] >= w->kept_ns)
            kept += now[1] - w->kept_ns;
        w->read_tid = tid; /* the caller may be another thread next time */
        w->kept_ns = now[1];
    }
    return (double)kept / (double)QN_MAX(since_ns, (uint64_t)1) * live / n;
}

static void reread(qn_team *t)
{
    uint64_t now = qn_now_ns();
    if (!t->share || now - t->read_ns < REREAD_NS)
        return;
    qn_share_now s;
    qn_share_read(t->share, kept_cpus(t, now - t->read_ns), &s);
    set_live(t, (unsigned)QN_MIN(s.n_workers, t->n));
    t->read_ns = now;
}

/* ---- runs ---- */

void qn_team_run(qn_team *t, qn_team_fn fn, void *arg)
{
    if (t->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    reread(t);
    start_run(t, fn, arg);
    fn(arg, 0, (int)t->n_run);
    unsigned done;
    while ((done = atomic_load(&t->n_done.value)) != t->n_run - 1)
        wait_while(&t->n_done, done, BUSY_NS);
}

void qn_team_barrier(qn_team *t)
{
    if (t->n_run <= 1)
        return;
    unsigned phase = atomic_load_explicit(&t->phase.value, memory_order_acquire);
    if (atomic_fetch_add(&t->n_arrived, 1) == t->n_run - 1) {
        atomic_store_explicit(&t->n_arrived, 0, memory_order_relaxed);
        atomic_store(&t->phase.value, phase + 1);
        wake(&t->phase);
        return;
    }
    wait_while(&t->phase, phase, BUSY_NS);
}
