/* SPDX-License-Identifier: Apache-2.0
 * test_machine.c - memory, modes, and processes of a made-up /proc; and of this machine. */
#include "check.h"

#include "base/machine.h"
#include "base/mem.h"
#include "tree.h"
#include <unistd.h>

static void test_memory(void **state)
{
    (void)state;
    qn_machine_memory m;
    tree_clear();
    qn_machine_memory_read(&m, dir);
    assert_true(m.total_bytes == 0 && m.available_bytes == 0);
    tree_put("/proc/meminfo", "MemTotal:       1000 kB\nMemFree: 5 kB\nMemAvailable:    300 kB\n");
    qn_machine_memory_read(&m, dir);
    assert_int_equal(m.total_bytes, 1024000);
    assert_int_equal(m.available_bytes, 307200);
    qn_machine_memory_read(&m, "");
    assert_in_range(m.available_bytes, 1, m.total_bytes);
}

static void test_mode(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } cases[] = {{"always [madvise] never\n", "madvise"},
                 {"performance\n", "performance"},
                 {"", ""},
                 {"[never]", "never"},
                 {"[", ""}};
    char mode[32];
    tree_clear();
    qn_machine_mode(mode, sizeof mode, dir, "/none");
    assert_string_equal(mode, "");
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        tree_put("/mode", cases[i].text);
        qn_machine_mode(mode, sizeof mode, dir, "/mode");
        assert_string_equal(mode, cases[i].want);
    }
}

static void test_huge_pages(void **state)
{
    (void)state;
    double share = qn_machine_try_huge_pages();
    if (share < 0)
        printf("huge pages: not run: the system does not show them\n");
    assert_true(share <= 1);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), 0);
}

static void put_process(int pid, const char *name, int user, int kernel)
{
    char path[64], text[256];
    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    (void)snprintf(text, sizeof text, "%d (%s) S 1 2 3 4 5 6 7 8 9 10 %d %d 0 0\n", pid, name, user,
                   kernel);
    tree_put(path, text);
}

static void test_processes(void **state)
{
    (void)state;
    qn_processes *before = NULL, *after = NULL;
    qn_process top[2];
    double hz = (double)sysconf(_SC_CLK_TCK);
    int second = (int)hz;
    tree_clear();
    put_process(10, "idle", 500, 500);
    put_process(11, "some) (of", 100, 0);
    put_process(12, "all", 0, 100);
    tree_put("/proc/13/stat", "13 (broken");
    tree_put("/proc/14/stat", "14 (short) S 1 2");
    tree_put("/proc/self/stat", "15 (x) S 1 2 3 4 5 6 7 8 9 10 999 999 0\n");
    assert_int_equal(qn_processes_read(&before, dir, NULL), QN_OK);
    put_process(11, "some) (of", 100 + second / 2, 0);
    put_process(12, "all", second, 100 + second);
    put_process(16, "new\x1b", second, 0);
    assert_int_equal(qn_processes_read(&after, dir, NULL), QN_OK);
    assert_int_equal(qn_processes_top(before, after, 1, top, 2), 2);
    assert_int_equal(top[0].pid, 12);
    assert_true(top[0].cpus == 2.0);
    assert_int_equal(top[1].pid, 16);
    assert_string_equal(top[1].name, "new\\x1b");
    qn_processes_free(before);
    qn_processes_free(after);
    qn_processes_free(NULL);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_mode),
        cmocka_unit_test(test_huge_pages),
        cmocka_unit_test(test_processes),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
