/* SPDX-License-Identifier: Apache-2.0
 * test_thread.c - the team: everybody runs once a run, sees what the caller wrote, and the caller sees what they wrote; the barrier; more and fewer workers; sleeping.
 * The shared arrays are plain memory, so that the thread sanitizer finds an order that is only luck. */
#include "check.h"

#include "base/mem.h"
#include "base/thread.h"
#include "tree.h"
#include <string.h>
#include <unistd.h>

enum { MOST = 16 };

typedef struct job {
    qn_team *team;
    int n;
    uint64_t input, out[MOST], sum[MOST];
    int count[MOST];
} job;

static void work(void *arg, int thread, int n_threads)
{
    job *j = arg;
    assert_true(thread >= 0 && thread < n_threads && n_threads == j->n);
    j->out[thread] = j->input * 31 + (uint64_t)thread;
    j->count[thread]++;
}

static void test_runs(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 5};
    for (size_t s = 0; s < QN_COUNT(sizes); s++) {
        job j = {.n = sizes[s]};
        assert_int_equal(qn_team_new(&j.team, sizes[s], NULL), QN_OK);
        assert_int_equal(qn_team_size(j.team), sizes[s]);
        for (int run = 1; run <= 3000; run++) {
            j.input = (uint64_t)run;
            qn_team_run(j.team, work, &j);
            for (int t = 0; t < sizes[s]; t++) {
                assert_int_equal(j.out[t], j.input * 31 + (uint64_t)t);
                assert_int_equal(j.count[t], run);
            }
        }
        assert_int_equal(j.count[sizes[s]], 0);
        qn_team_free(j.team);
    }
}

/* Round after round: everybody writes, all arrive, everybody reads the others'. */
static void meet(void *arg, int thread, int n_threads)
{
    job *j = arg;
    uint64_t sum = 0;
    for (uint64_t round = 1; round <= 20; round++) {
        j->out[thread] = round * j->input;
        qn_team_barrier(j->team);
        for (int t = 0; t < n_threads; t++)
            sum += j->out[t];
        qn_team_barrier(j->team);
    }
    j->sum[thread] = sum;
}

static void test_barrier(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 5};
    for (size_t s = 0; s < QN_COUNT(sizes); s++) {
        job j = {.n = sizes[s]};
        assert_int_equal(qn_team_new(&j.team, sizes[s], NULL), QN_OK);
        for (uint64_t run = 1; run <= 50; run++) {
            j.input = run;
            qn_team_run(j.team, meet, &j);
            for (int t = 0; t < sizes[s]; t++)
                assert_int_equal(j.sum[t], 210 * run * (uint64_t)sizes[s]);
        }
        qn_team_free(j.team);
    }
}

/* A team of 4 follows a quota that falls and rises while it runs. */
static void test_follow(void **state)
{
    (void)state;
    static const int quotas[] = {4, 1, 3, 2, 4};
    qn_cpuset all;
    qn_cpuset_of_thread(&all);
    int n_cpus = qn_cpuset_count(&all);
    tree_clear();
    tree_put("/proc/self/mountinfo", "31 23 0:28 / /cg rw - cgroup2 cgroup2 rw\n");
    tree_put("/proc/self/cgroup", "0::/\n");
    qn_share *share;
    job j = {0};
    assert_int_equal(qn_share_new(&share, dir, NULL), QN_OK);
    assert_int_equal(qn_team_new(&j.team, 4, NULL), QN_OK);
    for (size_t q = 0; q < QN_COUNT(quotas); q++) {
        char text[32];
        (void)snprintf(text, sizeof text, "%d00000 100000\n", quotas[q]);
        tree_put("/cg/cpu.max", text);
        qn_team_follow(j.team, share); /* which reads at the next run, not within a second */
        j.n = QN_MIN(quotas[q], n_cpus);
        for (int run = 0; run < 300; run++) {
            j.input = (uint64_t)run + 1;
            memset(j.out, 0, sizeof j.out);
            qn_team_run(j.team, run % 2 ? work : meet, &j);
            for (int t = 0; t < MOST; t++)
                assert_int_equal(j.out[t] != 0, t < j.n);
        }
        assert_int_equal(qn_team_size(j.team), 4);
    }
    qn_team_free(j.team);
    qn_share_free(share);
}

/* Workers that wait long sleep, and wake up. */
static void slow(void *arg, int thread, int n_threads)
{
    job *j = arg;
    for (int round = 0; round < n_threads; round++) {
        if (thread == round)
            (void)usleep(3000); /* beyond all spinning */
        qn_team_barrier(j->team);
        j->count[thread]++;
        qn_team_barrier(j->team);
        for (int t = 0; t < n_threads; t++)
            j->sum[thread] += (uint64_t)(j->count[t] != j->count[thread]);
        qn_team_barrier(j->team);
    }
    if (thread > 0)
        (void)usleep(3000);
}

static void test_sleepers(void **state)
{
    (void)state;
    job j = {0};
    assert_int_equal(qn_team_new(&j.team, 3, NULL), QN_OK);
    for (int run = 0; run < 8; run++) {
        qn_team_run(j.team, slow, &j);
        (void)usleep(1000);
    }
    for (int t = 0; t < 3; t++) {
        assert_int_equal(j.count[t], 24);
        assert_int_equal(j.sum[t], 0);
    }
    qn_team_free(j.team);
}

/* Teams that never ran, or whose workers already sleep, end too. */
static void test_short_lives(void **state)
{
    (void)state;
    size_t before = qn_mem_live(QN_MEM_MISC);
    for (int i = 0; i < 50; i++) {
        job j = {.n = 1 + i % 4};
        assert_int_equal(qn_team_new(&j.team, j.n, NULL), QN_OK);
        for (int run = 0; run < i % 3; run++)
            qn_team_run(j.team, work, &j);
        qn_team_free(j.team);
    }
    qn_team_free(NULL);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), before);
}

static void test_sizes(void **state)
{
    (void)state;
    static const int wrong[] = {0, -1, 257, INT32_MAX};
    for (size_t i = 0; i < QN_COUNT(wrong); i++) {
        qn_team *t = (qn_team *)&t;
        qn_err err;
        assert_int_equal(qn_team_new(&t, wrong[i], &err), QN_E_ARG);
        assert_null(t);
        assert_non_null(strstr(err.msg, "want 1..256"));
    }
}

/* The parts are disjoint, in order, whole steps, cover everything and differ by at most one step. */
static void test_split(void **state)
{
    (void)state;
    for (size_t n = 0; n < 70; n++)
        for (size_t step = 1; step < 10; step++)
            for (int nt = 1; nt < 9; nt++) {
                size_t at = 0, least = SIZE_MAX, most = 0;
                for (int t = 0; t < nt; t++) {
                    size_t begin, end;
                    qn_team_split(n, step, t, nt, &begin, &end);
                    assert_int_equal(begin, at);
                    assert_true(end >= begin && (begin % step == 0 || begin == n));
                    least = QN_MIN(least, QN_DIV_UP(end - begin, step));
                    most = QN_MAX(most, QN_DIV_UP(end - begin, step));
                    at = end;
                }
                assert_int_equal(at, n);
                assert_true(most - least <= 1);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_follow),      cmocka_unit_test(test_sleepers),
        cmocka_unit_test(test_short_lives), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_split),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
