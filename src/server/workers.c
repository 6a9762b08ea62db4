/* SPDX-License-Identifier: Apache-2.0
 * workers.c - jobs in lines, under one lock.
 *
 *   first -> a1 -next_owner-> b1 -next_owner-> c1        a1 is taken: a2 goes behind c1
 *            |next            |next
 *            a2               b2 */
#include "server/workers.h"

#include "base/mem.h"
#include <pthread.h>

struct qn_workers {
    pthread_mutex_t lock;
    pthread_cond_t has_job;
    void (*run)(qn_job *job);
    qn_job *first, **end; /* of the lines */
    size_t max, n;        /* waiting */
    bool is_ending;
    int each, n_threads;
    uint64_t *running; /* [n_threads]: whose jobs */
    pthread_t threads[];
};

/* With the lock held. */
static void add_line(qn_workers *w, qn_job *head)
{
    head->next_owner = NULL;
    *w->end = head;
    w->end = &head->next_owner;
}

static bool may_run(const qn_workers *w, uint64_t owner)
{
    int n = 0;
    for (int i = 0; i < w->n_threads && w->each; i++)
        n += w->running[i] == owner;
    return !w->each || n < w->each;
}

static qn_job *take(qn_workers *w)
{
    for (qn_job **at = &w->first; *at; at = &(*at)->next_owner) {
        qn_job *job = *at;
        if (!may_run(w, job->owner))
            continue;
        *at = job->next_owner;
        if (!*at)
            w->end = at;
        if (job->next) {
            job->next->last = job->last;
            add_line(w, job->next);
        }
        w->n--;
        return job;
    }
    return NULL;
}

static void *worker_main(void *arg)
{
    qn_workers *w = arg;
    (void)pthread_mutex_lock(&w->lock);
    int i = 0;
    while (!pthread_equal(w->threads[i], pthread_self()))
        i++;
    for (;;) {
        qn_job *job = take(w);
        if (!job && w->is_ending && !w->n)
            break;
        if (!job) {
            (void)pthread_cond_wait(&w->has_job, &w->lock);
            continue;
        }
        uint64_t owner = w->running[i] = job->owner;
        (void)pthread_mutex_unlock(&w->lock);
        w->run(job);
        (void)pthread_mutex_lock(&w->lock);
        w->running[i] = 0;
        if (w->each && owner && w->n) /* one that this owner held back may go */
            (void)pthread_cond_broadcast(&w->has_job);
    }
    (void)pthread_cond_broadcast(&w->has_job); /* the others' end, too */
    (void)pthread_mutex_unlock(&w->lock);
    return NULL;
}

static qn_status start_all(qn_workers *w, int n, qn_err *err)
{
    qn_status st = QN_OK;
    (void)pthread_mutex_lock(&w->lock); /* they look for themselves in a list that is whole */
    for (int i = 0; st == QN_OK && i < n; i++) {
        if (pthread_create(&w->threads[i], NULL, worker_main, w))
            st = qn_fail(err, QN_E_NOMEM, "cannot start worker thread %d of %d", i, n);
        else
            w->n_threads++;
    }
    (void)pthread_mutex_unlock(&w->lock);
    return st;
}

qn_status qn_workers_new(qn_workers **out, int n, size_t max, int each, void (*run)(qn_job *job),
                         qn_err *err)
{
    *out = NULL;
    qn_workers *w = qn_calloc(1, sizeof *w + (size_t)n * sizeof *w->threads, QN_MEM_MISC);
    uint64_t *running = qn_calloc((size_t)n, sizeof *running, QN_MEM_MISC);
    if (!w || !running) {
        qn_free(w);
        qn_free(running);
        return qn_fail_nomem(err, sizeof *w);
    }
    w->run = run;
    w->running = running;
    w->max = max;
    w->each = each;
    w->end = &w->first;
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->has_job, NULL);
    qn_status st = start_all(w, n, err);
    if (st == QN_OK)
        *out = w;
    else
        qn_workers_free(w);
    return st;
}

bool qn_workers_put(qn_workers *w, qn_job *job, uint64_t owner)
{
    (void)pthread_mutex_lock(&w->lock);
    bool has_room = w->n < w->max;
    if (has_room) {
        qn_job *head = w->first;
        *job = (qn_job){.owner = owner, .last = job};
        while (head && head->owner != owner)
            head = head->next_owner;
        if (head)
            head->last = head->last->next = job;
        else
            add_line(w, job);
        w->n++;
        (void)pthread_cond_signal(&w->has_job);
    }
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
    qn_free(w->running);
    qn_free(w);
}
