/* SPDX-License-Identifier: Apache-2.0
 * test_rope.c - frequencies of every scaling against numpy (rope_tables.h), who gets which, rows and the log-n scale. */
#include "check.h"

#include "model/rope.h"
#include "rope_tables.h"
#include <math.h>
#include <string.h>

/* powf is within 1 ulp here and there; a few roundings follow. */
static void same(const char *what, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= 4e-7 * fabs((double)want[i])))
            fail_msg("%s: value %zu is %.9g, want %.9g", what, i, (double)got[i], (double)want[i]);
}

static qn_model_config base_config(uint32_t dim, float theta)
{
    return (qn_model_config){.rope_dim = dim, .rope_theta = theta, .rope_linear_factor = 1};
}

static qn_model_config yarn_config(uint32_t dim, float theta, float factor, uint32_t ctx,
                                   bool truncate)
{
    qn_model_config c = base_config(dim, theta);
    c.yarn_factor = factor;
    c.yarn_original_ctx = ctx;
    c.yarn_beta_fast = 32;
    c.yarn_beta_slow = 1;
    c.yarn_truncate = truncate;
    c.yarn_attention_factor = 1.25f;
    return c;
}

static qn_model_config llama3_config(uint32_t dim, float factor)
{
    qn_model_config c = base_config(dim, 5e5f);
    c.llama3_factor = factor;
    c.llama3_low = 1;
    c.llama3_high = 4;
    c.llama3_original_ctx = 8192;
    return c;
}

/* What a sequence of `len` tokens gets; *factor: of cosines and sines. */
static void frequencies(const qn_model_config *c, qn_rope_scaling mode, uint32_t len, float *out,
                        float *factor)
{
    qn_rope r;
    qn_rope_init(&r, c, NULL);
    *factor = qn_rope_frequencies(&r, qn_rope_choose(&r, mode, len), out);
}

static void test_yarn(void **state)
{
    (void)state;
    static const struct {
        uint32_t dim;
        float theta, factor;
        uint32_t ctx;
        bool truncate;
        const float *want;
    } cases[] = {
        {128, 1e6f, 4, 32768, true, yarn_128_1e6_x4},
        {64, 1e4f, 2.5f, 4096, false, yarn_64_1e4_x2_5},
        {32, 1e4f, 4, 64, true, yarn_32_1e4_x4},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        qn_model_config c = yarn_config(cases[i].dim, cases[i].theta, cases[i].factor, cases[i].ctx,
                                        cases[i].truncate);
        float got[QN_MAX_ROPE_DIM / 2], factor;
        frequencies(&c, QN_ROPE_ALWAYS, 1, got, &factor);
        same("yarn", got, cases[i].want, c.rope_dim / 2);
        assert_true(factor == 1.25f);
    }
}

/* With YaRN: the mode and the length decide, at the border exactly. */
static void test_choice(void **state)
{
    (void)state;
    static const struct {
        qn_rope_scaling mode;
        uint32_t len;
        bool scaled;
    } cases[] = {
        {QN_ROPE_AUTO, 1, false},       {QN_ROPE_AUTO, 32768, false},
        {QN_ROPE_AUTO, 32769, true},    {QN_ROPE_AUTO, 131072, true},
        {QN_ROPE_ALWAYS, 1, true},      {QN_ROPE_ALWAYS, 32768, true},
        {QN_ROPE_ALWAYS, 131072, true}, {QN_ROPE_NEVER, 1, false},
        {QN_ROPE_NEVER, 32769, false},  {QN_ROPE_NEVER, UINT32_MAX, false},
    };
    qn_model_config c = yarn_config(128, 1e6f, 4, 32768, true);
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        float got[QN_MAX_ROPE_DIM / 2], factor;
        frequencies(&c, cases[i].mode, cases[i].len, got, &factor);
        same("choice", got, cases[i].scaled ? yarn_128_1e6_x4 : plain_128_1e6, 64);
        assert_true(factor == (cases[i].scaled ? 1.25f : 1));
    }
}

/* A model without scaling never has one; one trained with linear or Llama 3 scaling always has. */
static void test_no_choice(void **state)
{
    (void)state;
    static const qn_rope_scaling modes[] = {QN_ROPE_AUTO, QN_ROPE_ALWAYS, QN_ROPE_NEVER};
    static const uint32_t lens[] = {1, 4096, 1u << 20};
    qn_model_config plain = base_config(128, 1e6f), linear = base_config(64, 1e4f);
    linear.rope_linear_factor = 8;
    qn_model_config l32 = llama3_config(64, 32), l8 = llama3_config(128, 8);
    for (size_t i = 0; i < QN_COUNT(modes); i++)
        for (size_t k = 0; k < QN_COUNT(lens); k++) {
            float got[QN_MAX_ROPE_DIM / 2], factor;
            frequencies(&plain, modes[i], lens[k], got, &factor);
            same("plain", got, plain_128_1e6, 64);
            frequencies(&linear, modes[i], lens[k], got, &factor);
            same("linear", got, linear_64_1e4_x8, 32);
            frequencies(&l32, modes[i], lens[k], got, &factor);
            same("llama 3, 32", got, llama3_64_5e5_x32, 32);
            frequencies(&l8, modes[i], lens[k], got, &factor);
            same("llama 3, 8", got, llama3_128_5e5_x8, 64);
            assert_true(factor == 1);
        }
}

static void test_divisors(void **state)
{
    (void)state;
    qn_model_config c = base_config(128, 1e6f);
    float divisors[64], got[QN_MAX_ROPE_DIM / 2];
    qn_rope r;
    for (size_t i = 0; i < 64; i++)
        divisors[i] = i < 32 ? 1 : 8;
    qn_rope_init(&r, &c, divisors);
    assert_true(qn_rope_frequencies(&r, qn_rope_choose(&r, QN_ROPE_NEVER, 1), got) == 1);
    for (size_t i = 0; i < 64; i++) {
        float want = plain_128_1e6[i] / divisors[i];
        same("divisors", &got[i], &want, 1);
    }
}

static void test_ntk(void **state)
{
    (void)state;
    qn_model_config c = base_config(128, 1e4f);
    c.dynamic_ntk = true;
    c.seq_length = 2048;
    qn_rope r;
    qn_rope_init(&r, &c, NULL);
    for (size_t i = 0; i < QN_COUNT(ntk_lengths); i++) {
        float want = ntk_alphas[i];
        assert_true(qn_rope_choose(&r, QN_ROPE_AUTO, ntk_lengths[i]).ntk_alpha == want);
        assert_true(qn_rope_choose(&r, QN_ROPE_ALWAYS, ntk_lengths[i]).ntk_alpha == want);
        assert_true(qn_rope_choose(&r, QN_ROPE_NEVER, ntk_lengths[i]).ntk_alpha == 1);
    }
    static const struct {
        uint32_t len;
        const float *want;
    } cases[] = {{2049, ntk_128_1e4_2049}, {5000, ntk_128_1e4_5000}, {30000, ntk_128_1e4_30000}};
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        float got[QN_MAX_ROPE_DIM / 2], factor;
        frequencies(&c, QN_ROPE_AUTO, cases[i].len, got, &factor);
        /* the base is a power of a power: its rounding is raised to up to 126/128 */
        for (size_t k = 0; k < 64; k++)
            assert_true(fabs((double)got[k] - (double)cases[i].want[k]) <=
                        2e-6 * (double)cases[i].want[k]);
        assert_true(factor == 1);
    }
}

static void test_rows(void **state)
{
    (void)state;
    qn_model_config c = base_config(128, 1e6f);
    qn_rope r;
    float row[QN_MAX_ROPE_DIM];
    static const uint32_t positions[] = {0, 1, 77, 4095, 131071};
    qn_rope_init(&r, &c, NULL);
    for (size_t i = 0; i < QN_COUNT(positions); i++) {
        qn_rope_row(&r, r.native, 1.5f, positions[i], row);
        for (size_t k = 0; k < 64; k++) {
            volatile float angle =
                (float)positions[i] * r.native[k]; /* rounded, as the reference's */
            assert_true(fabs((double)row[k] - 1.5 * cos((double)angle)) < 3e-7);
            assert_true(fabs((double)row[64 + k] - 1.5 * sin((double)angle)) < 3e-7);
        }
    }
}

static void test_log_n(void **state)
{
    (void)state;
    qn_model_config c = base_config(128, 1e4f);
    qn_rope r;
    c.seq_length = 2048;
    qn_rope_init(&r, &c, NULL);
    assert_true(qn_rope_q_scale(&r, 30000) == 1); /* not asked for */
    c.logn_attn = true;
    qn_rope_init(&r, &c, NULL);
    for (size_t i = 0; i < QN_COUNT(logn_positions); i++) {
        float got = qn_rope_q_scale(&r, logn_positions[i]);
        same("log n", &got, &logn_scales[i], 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_yarn),      cmocka_unit_test(test_choice),
        cmocka_unit_test(test_no_choice), cmocka_unit_test(test_divisors),
        cmocka_unit_test(test_ntk),       cmocka_unit_test(test_rows),
        cmocka_unit_test(test_log_n),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
