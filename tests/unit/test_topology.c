/* SPDX-License-Identifier: Apache-2.0
 * test_topology.c - lists of processors, cores with two threads, packages, nodes, caches, and where workers are placed. */
#include "check.h"

#include "base/mem.h"
#include "base/topology.h"
#include "tree.h"

static void test_lists(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int n; /* -1: refused */
    } cases[] = {{"0", 1},     {"0-3,8,10-11\n", 7}, {"", 0},
                 {"\n", 0},    {"4095\n", 1},        {"0-4095", 4096},
                 {"4096", -1}, {"3-1", -1},          {"-1", -1},
                 {"1-", -1},   {"1,,2", -1},         {"a", -1},
                 {"1 2", -1},  {"0x1", -1},          {"0-99999999999999999999", -1}};
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        qn_cpuset s;
        assert_int_equal(qn_cpuset_parse(&s, cases[i].text), cases[i].n >= 0);
        assert_int_equal(qn_cpuset_count(&s), QN_MAX(cases[i].n, 0));
    }
    qn_cpuset s;
    assert_true(qn_cpuset_parse(&s, "0-3,8,10-11\n"));
    for (int c = 0; c < 70; c++)
        assert_int_equal(qn_cpuset_has(&s, c), c < 4 || c == 8 || c == 10 || c == 11);
}

/* 2 packages, 2 nodes, each 3 cores of 2 threads: processors c and c + 6 share core c. */
static void put_machine(void)
{
    char name[128], text[32];
    tree_clear();
    tree_put("/sys/devices/system/cpu/online", "0-11\n");
    tree_put("/sys/devices/system/node/online", "0-2\n");
    tree_put("/sys/devices/system/node/node0/cpulist", "0-2,6-8\n");
    tree_put("/sys/devices/system/node/node1/cpulist", "\n"); /* memory only */
    tree_put("/sys/devices/system/node/node2/cpulist", "3-5,9-11\n");
    tree_put("/proc/cpuinfo", "processor\t: 0\nmodel name\t: A Test Processor\ncache size: 1\n");
    for (int c = 0; c < 12; c++) {
        (void)snprintf(name, sizeof name,
                       "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", c);
        (void)snprintf(text, sizeof text, "%d,%d\n", c % 6, c % 6 + 6);
        tree_put(name, text);
        (void)snprintf(name, sizeof name,
                       "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", c);
        tree_put(name, c % 6 < 3 ? "0\n" : "1\n");
    }
    static const char *const caches[3][4] = {{"1", "Data", "32K", "0,6"},
                                             {"1", "Instruction", "64K", "0,6"},
                                             {"3", "Unified", "16384K", "0-2,6-8"}};
    static const char *const files[] = {"level", "type", "size", "shared_cpu_list"};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 4; k++) {
            (void)snprintf(name, sizeof name, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", i,
                           files[k]);
            (void)snprintf(text, sizeof text, "%s\n", caches[i][k]);
            tree_put(name, text);
        }
}

static void test_machine(void **state)
{
    (void)state;
    put_machine();
    qn_topology *t = qn_alloc(sizeof *t, QN_MEM_MISC);
    assert_non_null(t);
    qn_topology_read(t, dir);
    assert_int_equal(t->n_cpus, 12);
    assert_int_equal(t->n_cores, 6);
    assert_int_equal(t->n_packages, 2);
    assert_int_equal(t->n_nodes, 2);
    assert_string_equal(t->model, "A Test Processor");
    assert_int_equal(t->n_caches, 3);
    assert_int_equal(t->caches[0].bytes, 32 << 10);
    assert_int_equal(t->caches[0].n, 6);
    assert_int_equal(t->caches[0].type, 'D');
    assert_int_equal(t->caches[2].n_sharing, 6);
    assert_int_equal(qn_topology_last_cache(t), 2 * (16384 << 10));
    qn_cpuset some;
    assert_true(qn_cpuset_parse(&some, "1,7,2,11"));
    assert_int_equal(qn_topology_n_cores(t, &some), 3);
    qn_free(t);
}

static void test_place(void **state)
{
    (void)state;
    put_machine();
    qn_topology *t = qn_alloc(sizeof *t, QN_MEM_MISC);
    assert_non_null(t);
    qn_topology_read(t, dir);
    qn_cpuset all, at, nodes[2];
    assert_true(qn_cpuset_parse(&all, "0-11"));
    assert_true(qn_cpuset_parse(&nodes[0], "0-2,6-8"));
    assert_true(qn_cpuset_parse(&nodes[1], "3-5,9-11"));
    for (int n = 2; n <= 12; n += 2) /* half of the workers on each node, in order */
        for (int i = 0; i < n; i++) {
            qn_topology_place(t, &all, i, n, &at);
            assert_memory_equal(&at, &nodes[i >= n / 2], sizeof at);
        }
    assert_true(qn_cpuset_parse(&all, "0-3")); /* 3 cores here, one there; 4 workers */
    for (int i = 0; i < 4; i++) {
        qn_topology_place(t, &all, i, 4, &at);
        assert_int_equal(qn_cpuset_count(&at), i < 3 ? 3 : 1);
        assert_true(qn_cpuset_has(&at, i < 3 ? 0 : 3));
    }
    qn_free(t);
}

/* Nothing to read: every processor that may be used is a core of its own. */
static void test_bare(void **state)
{
    (void)state;
    tree_clear();
    qn_topology *t = qn_alloc(sizeof *t, QN_MEM_MISC);
    assert_non_null(t);
    qn_topology_read(t, dir);
    qn_cpuset allowed;
    qn_cpuset_of_thread(&allowed);
    assert_int_equal(t->n_cpus, qn_cpuset_count(&allowed));
    assert_int_equal(t->n_cores, t->n_cpus);
    assert_int_equal(t->n_packages, 1);
    assert_int_equal(t->n_nodes, 1);
    assert_int_equal(t->n_caches, 0);
    assert_int_equal(qn_topology_last_cache(t), 0);
    assert_string_equal(t->model, "unknown");
    qn_free(t);
}

static void test_here(void **state)
{
    (void)state;
    qn_topology *t = qn_alloc(sizeof *t, QN_MEM_MISC);
    assert_non_null(t);
    qn_topology_read(t, "");
    printf("here: %s, %d processors, %d cores, %d packages, %d nodes, last cache %zu KiB\n",
           t->model, t->n_cpus, t->n_cores, t->n_packages, t->n_nodes,
           qn_topology_last_cache(t) >> 10);
    assert_in_range(t->n_cores, 1, t->n_cpus);
    if (t->n_nodes < 2)
        printf("placement on this machine: not run: one node\n");
    qn_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists), cmocka_unit_test(test_machine), cmocka_unit_test(test_place),
        cmocka_unit_test(test_bare),  cmocka_unit_test(test_here),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
