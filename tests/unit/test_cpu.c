/* SPDX-License-Identifier: Apache-2.0
 * test_cpu.c - instruction sets against the kernel's list, their names, the mask of a device, processors and memory. */
#include "check.h"

#include "backend/ops.h"
#include "base/cpu.h"
#include "base/file.h"
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
/* Whether the kernel lists all of the words. */
static bool listed(const char *text, const char *const *words, size_t n)
{
    const char *flags = strstr(text, "\nflags");
    const char *end = flags ? strchr(flags + 1, '\n') : NULL;
    assert_non_null(end);
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(words[i]);
        const char *at = memmem(flags, (size_t)(end - flags), words[i], len);
        while (at && !(at[-1] == ' ' && (at[len] == ' ' || at[len] == '\n')))
            at = memmem(at + 1, (size_t)(end - at - 1), words[i], len);
        if (!at)
            return false;
    }
    return true;
}
#endif

static void test_flags(void **state)
{
    (void)state;
#if defined(__x86_64__)
    static const char *const avx2[] = {"avx2", "fma", "f16c"};
    static const char *const avx512[] = {"avx2",     "fma",      "f16c",     "avx512f",
                                         "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"};
    qn_str text = {0};
    assert_int_equal(qn_file_read(&text, "/proc/cpuinfo", (size_t)16 << 20, NULL), QN_OK);
    unsigned f = qn_cpu_flags();
    assert_int_equal((f & QN_CPU_AVX2) != 0, listed(text.p, avx2, QN_COUNT(avx2)));
    assert_int_equal((f & QN_CPU_AVX512) != 0, listed(text.p, avx512, QN_COUNT(avx512)));
    assert_int_equal(f & (QN_CPU_NEON | QN_CPU_I8MM), 0);
    qn_str_fini(&text);
#else
    assert_int_equal(qn_cpu_flags() & (QN_CPU_AVX2 | QN_CPU_AVX512), 0);
#endif
}

static void test_names(void **state)
{
    (void)state;
    char buf[32], tiny[5];
    assert_string_equal(qn_cpu_flags_name(0, buf, sizeof buf), "plain C");
    assert_string_equal(qn_cpu_flags_name(QN_CPU_AVX2, buf, sizeof buf), "avx2");
    assert_string_equal(qn_cpu_flags_name(QN_CPU_AVX2 | QN_CPU_AVX512, buf, sizeof buf),
                        "avx2+avx512");
    assert_string_equal(qn_cpu_flags_name(QN_CPU_AVX512, buf, sizeof buf), "avx512");
    assert_string_equal(qn_cpu_flags_name(QN_CPU_NEON, buf, sizeof buf), "neon");
    assert_string_equal(qn_cpu_flags_name(QN_CPU_NEON | QN_CPU_I8MM, buf, sizeof buf), "neon+i8mm");
    assert_string_equal(qn_cpu_flags_name(QN_CPU_AVX2 | QN_CPU_AVX512, tiny, sizeof tiny), "avx2");
}

static void describe(unsigned mask, char *buf, size_t size)
{
    const qn_backend *b = qn_backend_cpu();
    qn_device *d = NULL;
    qn_device_config c = {
        .n_threads = 1, .cpu_mask = mask, .max_rows = 1, .max_seqs = 1, .max_ctx = 64};
    assert_int_equal(b->open(&d, &c, NULL), QN_OK);
    b->describe(d, buf, size);
    b->close(d);
}

static void test_mask(void **state)
{
    (void)state;
    char text[96], name[64], want[96];
    describe(0, text, sizeof text);
    assert_string_equal(text, "cpu: 1 thread, plain C");
    unsigned usable = qn_cpu_flags();
    describe(usable, text, sizeof text);
    (void)snprintf(want, sizeof want, "cpu: 1 thread, %s",
                   qn_cpu_flags_name(usable, name, sizeof name));
    assert_string_equal(text, want);
    describe(QN_CPU_ALL & ~usable, text, sizeof text);
    assert_null(strstr(text, "avx2,"));
}

static void test_processors(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    int n = qn_cpu_n_usable();
    assert_in_range(n, 1, CPU_COUNT(&all));
    int first = 0;
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(qn_cpu_n_usable(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_int_equal(qn_cpu_n_usable(), n);
}

static void test_memory(void **state)
{
    (void)state;
    size_t physical = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE),
           bytes = qn_cpu_memory_bytes();
    assert_in_range(bytes, (size_t)1 << 20, physical);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flags),  cmocka_unit_test(test_names),
        cmocka_unit_test(test_mask),   cmocka_unit_test(test_processors),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
