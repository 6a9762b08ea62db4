/* SPDX-License-Identifier: Apache-2.0
 * workers.c - a ring of jobs under one lock. */
#include "server/workers.h"

#include "base/mem.h"
#include <pthread.h>

struct qn_workers {
    pthread_mutex_t lock;
    pthread_cond_t has_job;
    void (*run)(void *job);
    void **ring;
    size_t max, head, n; /* waiting: ring[head ...], n of them */
    bool is_ending;
    int n_threads;
    pthread_t threads[];
};

static void *worker_main(void *arg)
{
    qn_workers *w = arg;
    (void)pthread_mutex_lock(&w->lock);
    for (;;) {
        while (w->n == 0 && !w->is_ending)
            (void)pthread_cond_wait(&w->has_job, &w->lock);
        if (w->n == 0)
            break;
        void *job = w->ring[w->head];
        w->head = (w->head + 1) % w->max;
        w->n--;
        (void)pthread_mutex_unlock(&w->lock);
        w->run(job);
        (void)pthread_mutex_lock(&w->lock);
    }
    (void)pthread_mutex_unlock(&w->lock);
    return NULL;
}

qn_status qn_workers_new(qn_workers **out, int n, size_t max, void (*run)(void *job), qn_err *err)
{
    *out = NULL;
    qn_workers *w = qn_calloc(1, sizeof *w + (size_t)n * sizeof *w->threads, QN_MEM_MISC);
    void **ring = qn_calloc(max, sizeof *ring, QN_MEM_MISC);
    if (!w || !ring) {
        qn_free(w);
        qn_free(ring);
        return qn_fail_nomem(err, max * sizeof *ring);
    }
    w->run = run;
    w->ring = ring;
    w->max = max;
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->has_job, NULL);
    for (; w->n_threads < n; w->n_threads++) {
        if (pthread_create(&w->threads[w->n_threads], NULL, worker_main, w)) {
            int i = w->n_threads;
            qn_workers_free(w);
            return qn_fail(err, QN_E_NOMEM, "cannot start worker thread %d of %d", i, n);
        }
    }
    *out = w;
    return QN_OK;
}

bool qn_workers_put(qn_workers *w, void *job)
{
    (void)pthread_mutex_lock(&w->lock);
    bool has_room = w->n < w->max;
    if (has_room)
        w->ring[(w->head + w->n++) % w->max] = job;
    (void)pthread_cond_signal(&w->has_job);
    (void)pthread_mutex_unlock(&w->lock);
    return has_room;
}

void qn_workers_free(qn_workers *w)
{
    if (!w)
        return;
    (void)pthread_mutex_lock(&w->lock);
    w->is_ending = true;
    (void)pthread_cond_broadcast(&w->has_job);
    (void)pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->n_threads; i++)
        (void)pthread_join(w->threads[i], NULL);
    (void)pthread_cond_destroy(&w->has_job);
    (void)pthread_mutex_destroy(&w->lock);
    qn_free(w->ring);
    qn_free(w);
}
