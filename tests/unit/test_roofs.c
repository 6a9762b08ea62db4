/* SPDX-License-Identifier: Apache-2.0
 * test_roofs.c - the roofs are finite, in the range of any machine, and leave no memory behind. */
#include "check.h"

#include "backend/ops.h"
#include "base/cpu.h"
#include "base/mem.h"
#include <stdio.h>

static void test_roofs(void **state)
{
    (void)state;
    static const struct {
        unsigned mask;
        int n_threads;
    } cases[] = {{0, 1}, {QN_CPU_ALL, 1}, {QN_CPU_ALL, 2}};
    const qn_backend *b = qn_backend_cpu();
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        size_t before = qn_mem_live(QN_MEM_MISC) + qn_mem_live(QN_MEM_ACTIVATIONS);
        qn_device *d = NULL;
        qn_device_config c = {.n_threads = cases[i].n_threads,
                              .cpu_mask = cases[i].mask,
                              .max_rows = 1,
                              .max_seqs = 1,
                              .max_ctx = 64};
        qn_roofs r = {0};
        char name[96];
        assert_int_equal(b->open(&d, &c, NULL), QN_OK);
        b->measure_roofs(d, &r);
        b->describe(d, name, sizeof name);
        b->close(d);
        assert_int_equal(qn_mem_live(QN_MEM_MISC) + qn_mem_live(QN_MEM_ACTIVATIONS), before);
        printf("%s: read %.1f GB/s, int8 %.0f GOPS, f32 %.0f GFLOPS\n", name, r.read_bytes_s * 1e-9,
               r.int8_ops_s * 1e-9, r.f32_flops_s * 1e-9);
        const double all[] = {r.read_bytes_s, r.int8_ops_s, r.f32_flops_s};
        for (size_t k = 0; k < QN_COUNT(all); k++)
            assert_true(all[k] > 1e6 && all[k] < 1e16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_roofs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
