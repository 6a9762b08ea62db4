/* SPDX-License-Identifier: Apache-2.0
 * test_cgroup.c - limits of nested control groups, version 2, version 1, both, and inside containers; and trees that make no sense. */
#include "check.h"

#include "base/cgroup.h"
#include "tree.h"

static qn_cgroup_limits read_now(void)
{
    qn_cgroup g;
    qn_cgroup_limits l;
    qn_cgroup_find(&g, dir);
    qn_cgroup_read(&g, &l);
    return l;
}

#define V2_MOUNT                                                                                   \
    "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1_MOUNTS                                                                                  \
    "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"                                                        \
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"                  \
    "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"                            \
    "34 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"

static void test_version_2(void **state)
{
    (void)state;
    tree_clear();
    tree_put("/proc/self/mountinfo", V2_MOUNT);
    tree_put("/proc/self/cgroup", "0::/a.slice/b.scope\n");
    qn_cgroup_limits l = read_now();
    assert_int_equal(l.version, 0);
    assert_true(l.cpus == 0 && l.memory_bytes == 0);

    /* the group in between limits, and its parent limits memory */
    tree_put("/sys/fs/cgroup/a.slice/b.scope/cpu.max", "800000 100000\n");
    tree_put("/sys/fs/cgroup/a.slice/cpu.max", "250000 100000\n");
    tree_put("/sys/fs/cgroup/a.slice/cpu.stat",
             "usage_usec 5\nnr_periods 40\nnr_throttled 30\nthrottled_usec 1234\n");
    tree_put("/sys/fs/cgroup/a.slice/memory.max", "1073741824\n");
    tree_put("/sys/fs/cgroup/a.slice/b.scope/memory.max", "max\n");
    l = read_now();
    assert_int_equal(l.version, 2);
    assert_true(l.cpus == 2.5);
    assert_int_equal(l.n_periods, 40);
    assert_int_equal(l.n_throttled, 30);
    assert_int_equal(l.throttled_us, 1234);
    assert_int_equal(l.memory_bytes, 1 << 30);

    tree_put("/sys/fs/cgroup/a.slice/b.scope/cpu.max", "50000 100000\n"); /* now its own is less */
    assert_true(read_now().cpus == 0.5);
    tree_put("/sys/fs/cgroup/a.slice/b.scope/cpu.max", "max 100000\n");
    tree_put("/sys/fs/cgroup/a.slice/cpu.max", "max 100000\n");
    assert_true(read_now().cpus == 0);
    tree_put("/sys/fs/cgroup/cpu.max", "300000 200000\n"); /* the mount's own folder */
    assert_true(read_now().cpus == 1.5);
}

static void test_version_1(void **state)
{
    (void)state;
    tree_clear();
    tree_put("/proc/self/mountinfo", V1_MOUNTS);
    tree_put("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/m\n1:cpu,cpuacct:/x/y\n0::/\n");
    tree_put("/sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_quota_us", "-1\n");
    tree_put("/sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_period_us", "100000\n");
    tree_put("/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "400000\n");
    tree_put("/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "200000\n");
    tree_put("/sys/fs/cgroup/cpu,cpuacct/x/cpu.stat",
             "nr_periods 7\nnr_throttled 3\nthrottled_time 5000000\n");
    tree_put("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "9223372036854771712\n");
    tree_put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n");
    qn_cgroup_limits l = read_now();
    assert_int_equal(l.version, 1);
    assert_true(l.cpus == 2.0);
    assert_int_equal(l.n_periods, 7);
    assert_int_equal(l.throttled_us, 5000);
    assert_int_equal(l.memory_bytes, 5000);
}

/* The mount shows the container's own group, or /proc/self/cgroup names one outside of it. */
static void test_container(void **state)
{
    (void)state;
    tree_clear();
    tree_put("/proc/self/mountinfo",
             "31 23 0:28 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    tree_put("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    tree_put("/sys/fs/cgroup/in/cpu.max", "100000 100000\n");
    tree_put("/proc/self/cgroup", "0::/docker/abc\n");
    assert_true(read_now().cpus == 2);
    tree_put("/proc/self/cgroup", "0::/docker/abc/in\n");
    assert_true(read_now().cpus == 1);
    tree_put("/proc/self/cgroup", "0::/docker/abcdef\n"); /* not below /docker/abc */
    assert_true(read_now().cpus == 2);
    tree_put("/proc/self/cgroup", "0::/../../in\n");
    assert_true(read_now().cpus == 2);
}

static void test_nonsense(void **state)
{
    (void)state;
    static const char *const quotas[] = {"",
                                         "\n",
                                         "0 0\n",
                                         "100000 0\n",
                                         "-5 100000\n",
                                         "1e5 1\n",
                                         "100000",
                                         "max\n",
                                         "100000 \n",
                                         "1 2x\n",
                                         "99999999999999999999999 1\n"};
    char line[3000];
    tree_clear();
    assert_true(read_now().cpus == 0);
    tree_put("/proc/self/mountinfo", V2_MOUNT);
    tree_put("/proc/self/cgroup", "0::/a\n");
    for (size_t i = 0; i < QN_COUNT(quotas); i++) {
        tree_put("/sys/fs/cgroup/a/cpu.max", quotas[i]);
        assert_true(read_now().cpus == 0);
    }
    tree_put("/sys/fs/cgroup/a/cpu.max", "100000 100000\n");
    static const char *const files[] = {"/proc/self/mountinfo", "/proc/self/cgroup"};
    static const char *const texts[] = {"0",
                                        "0:",
                                        "0::",
                                        "::::\n\n",
                                        "\n",
                                        "31 23 0:28 / ",
                                        "31 23 0:28 / /sys/fs/cgroup rw -",
                                        "31 23 0:28 / /sys/fs/cgroup rw\n"};
    for (size_t i = 0; i < QN_COUNT(texts); i++) {
        tree_put(files[i >= 5 ? 0 : 1], texts[i]);
        assert_true(read_now().cpus == 0);
        tree_put("/proc/self/mountinfo", V2_MOUNT);
        tree_put("/proc/self/cgroup", "0::/a\n");
        assert_true(read_now().cpus == 1);
    }
    /* names longer than any path; deeper than is looked */
    (void)memset(line, 'a', sizeof line);
    (void)memcpy(line, "0::/", 4);
    line[sizeof line - 1] = 0;
    tree_put("/proc/self/cgroup", line);
    assert_true(read_now().cpus == 0);
    for (size_t i = 4; i + 1 < sizeof line; i++)
        line[i] = i % 2 ? '/' : 'b';
    tree_put("/proc/self/cgroup", line);
    assert_true(read_now().cpus == 0);
}

static void test_here(void **state)
{
    (void)state;
    qn_cgroup g;
    qn_cgroup_limits l;
    qn_cgroup_find(&g, "");
    qn_cgroup_read(&g, &l);
    printf("here: version %d, %.2f processors, %llu bytes\n", l.version, l.cpus,
           (unsigned long long)l.memory_bytes);
    assert_true(l.cpus >= 0 && (l.cpus > 0) == (l.version > 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version_2), cmocka_unit_test(test_version_1),
        cmocka_unit_test(test_container), cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_here),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
