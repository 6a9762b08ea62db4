/* SPDX-License-Identifier: Apache-2.0
 * test_share.c - the number of workers that make sense: cores, affinity, quota, other programs, throttling, steal. */
#include "check.h"

#include <math.h>

#include "base/share.h"
#include "tree.h"

enum { N_CPUS = 8 };

/* A machine with as many cores as the affinity mask has, up to N_CPUS; the rest of them does not exist. */
static int put_machine(void)
{
    tree_clear();
    qn_cpuset all;
    qn_cpuset_of_thread(&all);
    tree_put("/proc/self/mountinfo", "31 23 0:28 / /cg rw - cgroup2 cgroup2 rw\n");
    tree_put("/proc/self/cgroup", "0::/q\n");
    return qn_cpuset_count(&all);
}

static void put_quota(double cpus, int n_periods, int n_throttled)
{
    char text[128];
    (void)snprintf(text, sizeof text, "%.0f 100000\n", cpus * 100000);
    tree_put("/cg/q/cpu.max", cpus > 0 ? text : "max 100000\n");
    (void)snprintf(text, sizeof text, "nr_periods %d\nnr_throttled %d\n", n_periods, n_throttled);
    tree_put("/cg/q/cpu.stat", text);
}

static qn_share_now reading(qn_share *s, double kept)
{
    qn_share_now now;
    qn_share_read(s, kept, &now);
    return now;
}

static void test_quota(void **state)
{
    (void)state;
    static const struct {
        double cpus;
        int n;
    } cases[] = {{0, N_CPUS}, {1, 1}, {0.3, 1}, {1.05, 1}, {1.5, 2},    {2, 2},
                 {2.3, 3},    {4, 4}, {4.3, 4}, {7.65, 7}, {64, N_CPUS}};
    int n = put_machine();
    qn_share *s;
    assert_int_equal(qn_share_new(&s, dir, NULL), QN_OK);
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        put_quota(cases[i].cpus, 0, 0);
        qn_share_now now = reading(s, 0);
        assert_int_equal(now.n_workers, QN_MIN(QN_MIN(cases[i].n, N_CPUS), n));
        assert_true(fabs(now.cgroup.cpus - cases[i].cpus) < 1e-9);
        if (now.n_workers < n)
            assert_int_equal(now.limit, QN_SHARE_QUOTA);
    }
    qn_share_free(s);
}

/* The group's quota of 2 is used up by others too: down to 1, and back when it is calm. */
static void test_throttled(void **state)
{
    (void)state;
    int n = put_machine();
    if (n < 2) {
        printf("throttling: not run: one processor\n");
        return;
    }
    qn_share *s;
    assert_int_equal(qn_share_new(&s, dir, NULL), QN_OK);
    put_quota(2, 100, 90); /* before our time */
    assert_int_equal(reading(s, 0).n_workers, 2);
    put_quota(2, 110, 91);
    assert_int_equal(reading(s, 0).n_workers, 2);
    put_quota(2, 120, 97);
    qn_share_now now = reading(s, 0);
    assert_int_equal(now.n_workers, 1);
    assert_int_equal(now.limit, QN_SHARE_THROTTLED);
    put_quota(2, 130, 107);
    assert_int_equal(reading(s, 0).n_workers, 1); /* never 0 */
    int i = 0;
    for (; i < 20 && reading(s, 0).n_workers == 1; i++)
        put_quota(2, 140 + 10 * i, 107);
    assert_in_range(i, 4, 12);
    /* over the quota on purpose: being throttled is no news */
    put_quota(1.5, 1000, 200);
    assert_int_equal(reading(s, 0).n_workers, 2);
    put_quota(1.5, 1010, 210);
    assert_int_equal(reading(s, 0).n_workers, 2);
    qn_share_free(s);
}

/* Ticks of all processors of the mask together: busy, idle, stolen. */
static void put_ticks(int n, double busy, double idle, double steal)
{
    char text[64 * N_CPUS + 64];
    int at = snprintf(text, sizeof text, "cpu  1 2 3 4 5 6 7 8 0 0\n");
    qn_cpuset all;
    qn_cpuset_of_thread(&all);
    for (int c = 0, k = 0; c < QN_CPUS_MAX && k < N_CPUS; c++)
        if (qn_cpuset_has(&all, c)) {
            at +=
                snprintf(text + at, sizeof text - (size_t)at,
                         "cpu%d %.0f 0 0 %.0f 0 0 0 %.0f 0 0\n", c, busy / n, idle / n, steal / n);
            k++;
        }
    (void)snprintf(text + at, sizeof text - (size_t)at, "intr 5 0 0\n");
    tree_put("/proc/stat", text);
}

typedef struct load {
    double busy, steal, kept; /* processors */
} load;

/* Workers after some readings of such a load. */
static int settled(int n, load l, qn_share_limit *limit)
{
    qn_share *s;
    qn_share_now now = {0};
    assert_int_equal(qn_share_new(&s, dir, NULL), QN_OK);
    for (int i = 0; i < 12; i++) {
        put_ticks(n, 1e6 * i * l.busy, 1e6 * i * (n - l.busy - l.steal), 1e6 * i * l.steal);
        qn_share_read(s, l.kept, &now);
    }
    *limit = now.limit;
    qn_share_free(s);
    return now.n_workers;
}

static void test_others(void **state)
{
    (void)state;
    int n = put_machine();
    qn_share_limit limit;
    put_quota(0, 0, 0);
    if (n < 2 || n > N_CPUS) {
        printf("other programs: not run: %d processors, want 2..%d\n", n, N_CPUS);
        return;
    }
    assert_int_equal(settled(n, (load){0}, &limit), n);
    assert_int_equal(settled(n, (load){.busy = 0.3}, &limit), n);
    assert_int_equal(settled(n, (load){.busy = 1}, &limit), n - 1); /* one busy elsewhere */
    assert_int_equal(limit, QN_SHARE_OTHERS);
    assert_int_equal(settled(n, (load){.busy = 0.5, .kept = 0.5}, &limit), n - 1); /* on our core */
    assert_int_equal(settled(n, (load){.busy = n * 0.5, .kept = n * 0.5}, &limit), n); /* on each */
    assert_int_equal(settled(n, (load){.steal = 0.3}, &limit), n);
    assert_int_equal(settled(n, (load){.steal = 1}, &limit), n - 1);
    assert_int_equal(limit, QN_SHARE_STEAL);
}

static void test_nonsense(void **state)
{
    (void)state;
    static const char *const texts[] = {"",         "cpu0",         "cpu0 1 2 3\n",
                                        "cpu0 x\n", "cpu99999 1\n", "cpu0 -1 2 3 4 5 6 7 8\n"};
    int n = put_machine();
    qn_share *s;
    assert_int_equal(qn_share_new(&s, dir, NULL), QN_OK);
    for (size_t i = 0; i < QN_COUNT(texts); i++) {
        tree_put("/proc/stat", texts[i]);
        assert_int_equal(reading(s, 0).n_workers, n);
    }
    put_ticks(n, 100, 1e9, 0); /* counts that run backwards */
    (void)reading(s, 0);
    put_ticks(n, 50, 1e9 - 1000, 0);
    assert_int_equal(reading(s, 0).n_workers, n);
    qn_share_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quota),
        cmocka_unit_test(test_throttled),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_nonsense),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
