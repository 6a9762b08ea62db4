/* SPDX-License-Identifier: Apache-2.0
 * test_kernels.c - the test of kernels when a device opens: good ones stay, a wrong one is left out alone. */
#include "check.h"

#include "backend/cpu/kernels.h"
#include "base/cpu.h"
#include <string.h>

static qn_kernels good; /* this CPU's */

/* One of 192 results is off in its last bit. */
static void wrong_gemm(const uint8_t *w, size_t n_blocks, const qn_act4 *a, size_t n_quads,
                       float *c, void *scratch)
{
    good.mm_gemm[QN_PACK_6_S](w, n_blocks, a, n_quads, c, scratch);
    float *last = &c[n_quads * 4 * QN_PACK_ROWS - 1];
    uint32_t bits;
    memcpy(&bits, last, sizeof bits);
    bits ^= 1;
    memcpy(last, &bits, sizeof bits);
}

/* Writes nothing. */
static void idle_gemv(const uint8_t *w, size_t n_panels, size_t n_blocks, const qn_act1 *a,
                      float *y)
{
    (void)w;
    (void)n_panels;
    (void)n_blocks;
    (void)a;
    (void)y;
}

static void wrong_quantise(const float *x, size_t n_blocks, int lanes, int lane, void *out)
{
    good.mm_quantise(x, n_blocks, lanes, lane, out);
    if (lanes == 1)
        ((qn_act1 *)out)->h[1]++;
}

static void wrong_f32(const qn_mm_f32 *p)
{
    good.mm_f32(p);
    p->y[(p->n_tokens - 1) * p->y_stride + p->n_rows - 1] *= 2;
}

static void test_good(void **state)
{
    (void)state;
    qn_kernels k, want;
    for (unsigned mask = 0;; mask = QN_CPU_ALL) {
        unsigned flags = qn_cpu_flags() & mask;
        assert_int_equal(qn_kernels_choose(&k, flags, NULL), QN_OK);
        assert_int_equal(k.n_left_out, 0);
        qn_kernels_init(&want, flags);
        assert_memory_equal(&k, &want, sizeof k);
        if (mask)
            break;
    }
}

static void test_wrong(void **state)
{
    (void)state;
    qn_kernels safe, k = good;
    qn_kernels_init(&safe, 0);
    k.mm_gemm[QN_PACK_6_S] = wrong_gemm;
    k.mm_gemv[QN_PACK_N_KD] = idle_gemv;
    k.mm_quantise = wrong_quantise;
    k.mm_f32 = wrong_f32;
    assert_int_equal(qn_kernels_test(&k, &safe, NULL), QN_OK);
    assert_int_equal(k.n_left_out, 4);
    qn_kernels want = good;
    want.n_left_out = 4;
    want.mm_gemm[QN_PACK_6_S] = safe.mm_gemm[QN_PACK_6_S];
    want.mm_gemv[QN_PACK_N_KD] = safe.mm_gemv[QN_PACK_N_KD];
    want.mm_quantise = safe.mm_quantise;
    want.mm_f32 = safe.mm_f32;
    assert_memory_equal(&k, &want, sizeof k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_wrong),
    };
    qn_kernels_init(&good, qn_cpu_flags());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
