/* SPDX-License-Identifier: Apache-2.0
 * test_callers.c - shares of pools, and workers that take turns. */
#include "check.h"

#include "base/mem.h"
#include "server/callers.h"
#include "server/workers.h"
#include <pthread.h>
#include <stdatomic.h>

/* ---- pools ---- */

static qn_callers *new_callers(size_t most)
{
    const size_t all[QN_N_POOLS] = {most, most, most, most};
    qn_callers *k;
    qn_err err;
    assert_int_equal(qn_callers_new(&k, all, &err), QN_OK);
    return k;
}

static size_t take_all(qn_caller *c, qn_pool p, qn_room *last)
{
    size_t n = 0;
    while ((*last = qn_caller_take(c, p, 1)) == QN_ROOM)
        n++;
    return n;
}

static void test_shares(void **state)
{
    (void)state;
    qn_callers *k = new_callers(120);
    qn_caller *a = qn_callers_enter(k, "a", false), *b = qn_callers_enter(k, "b", false),
              *c = qn_callers_enter(k, "c", false), *all = qn_callers_enter(k, "", true);
    qn_room last;
    assert_ptr_equal(qn_callers_enter(k, "a", false), a);
    assert_true(qn_caller_id(a) && qn_caller_id(a) != qn_caller_id(b));
    assert_int_equal(take_all(a, QN_POOL_JSON, &last), 60);
    assert_int_equal(last, QN_ROOM_NO_SHARE);
    assert_int_equal(take_all(b, QN_POOL_JSON, &last), 30);
    assert_int_equal(take_all(c, QN_POOL_JSON, &last), 15);
    assert_int_equal(qn_caller_take(a, QN_POOL_JSON, 16), QN_ROOM_FULL);
    assert_int_equal(take_all(all, QN_POOL_JSON, &last), 15);
    assert_int_equal(last, QN_ROOM_FULL);
    assert_int_equal(qn_caller_take(a, QN_POOL_JOBS, 61),
                     QN_ROOM); /* at once, where it has nothing */
    qn_caller_give(a, QN_POOL_JOBS, 61);
    qn_caller_count(b, QN_POOL_JSON, 100); /* over the limit */
    assert_int_equal(qn_caller_take(a, QN_POOL_JSON, 1), QN_ROOM_FULL);
    qn_caller_give(b, QN_POOL_JSON, 130);
    qn_caller_give(a, QN_POOL_JSON, 60);
    qn_caller_give(c, QN_POOL_JSON, 15);
    qn_caller_give(all, QN_POOL_JSON, 15);
    qn_caller *who[] = {a, a, b, c, all};
    for (size_t i = 0; i < QN_COUNT(who); i++)
        qn_callers_leave(who[i]);
    qn_callers_free(k);
}

/* ---- workers ---- */

typedef struct work {
    qn_job job;
    struct crowd *crowd;
} work;

typedef struct crowd {
    pthread_mutex_t gate;
    atomic_int n_now[4], most_now[4];
    int n_done;
    uint64_t order[64];
} crowd;

static void run(qn_job *job)
{
    work *w = (work *)job;
    crowd *c = w->crowd;
    uint64_t owner = job->owner;
    int n = atomic_fetch_add(&c->n_now[owner], 1) + 1;
    if (n > atomic_load(&c->most_now[owner]))
        atomic_store(&c->most_now[owner], n);
    (void)pthread_mutex_lock(&c->gate);
    c->order[c->n_done++] = owner;
    (void)pthread_mutex_unlock(&c->gate);
    (void)atomic_fetch_sub(&c->n_now[owner], 1);
}

static void test_turns(void **state)
{
    (void)state;
    static work jobs[13];
    static crowd c = {.gate = PTHREAD_MUTEX_INITIALIZER};
    qn_workers *w;
    qn_err err;
    assert_int_equal(qn_workers_new(&w, 1, 12, 0, run, &err), QN_OK);
    (void)pthread_mutex_lock(&c.gate);
    /* the first is taken at once, or is at the head of its line: the same turns */
    for (size_t i = 0; i < 13; i++)
        jobs[i].crowd = &c;
    for (size_t i = 0; i < 8; i++)
        assert_true(qn_workers_put(w, &jobs[i].job, 1));
    for (size_t i = 8; i < 12; i++)
        assert_true(qn_workers_put(w, &jobs[i].job, i < 10 ? 2 : 3));
    (void)pthread_mutex_unlock(&c.gate);
    qn_workers_free(w);
    assert_int_equal(c.n_done, 12);
    size_t last = 0;
    for (size_t i = 0; i < 12; i++)
        last = c.order[i] != 1 ? i : last;
    assert_true(last <= 6); /* 1 (1) 2 3 1 2 3, and then what is left */
}

static void test_each(void **state)
{
    (void)state;
    static work jobs[60];
    static crowd c = {.gate = PTHREAD_MUTEX_INITIALIZER};
    qn_workers *w;
    qn_err err;
    assert_int_equal(qn_workers_new(&w, 4, 60, 1, run, &err), QN_OK);
    for (size_t i = 0; i < 60; i++) {
        jobs[i].crowd = &c;
        assert_true(qn_workers_put(w, &jobs[i].job, 1 + i % 3));
    }
    qn_workers_free(w);
    assert_int_equal(c.n_done, 60);
    for (size_t i = 1; i < 4; i++)
        assert_int_equal(atomic_load(&c.most_now[i]), 1);
}

static void test_full(void **state)
{
    (void)state;
    static work jobs[8];
    static crowd c = {.gate = PTHREAD_MUTEX_INITIALIZER};
    qn_workers *w;
    qn_err err;
    size_t n = 0;
    (void)pthread_mutex_lock(&c.gate);
    assert_int_equal(qn_workers_new(&w, 1, 3, 0, run, &err), QN_OK);
    for (size_t i = 0; i < 8; i++) {
        jobs[i].crowd = &c;
        n += qn_workers_put(w, &jobs[i].job, 1);
    }
    assert_in_range(n, 3, 4);
    (void)pthread_mutex_unlock(&c.gate);
    qn_workers_free(w);
    assert_int_equal(c.n_done, n);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_each),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(t, NULL, NULL);
}
