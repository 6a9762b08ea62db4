/* SPDX-License-Identifier: Apache-2.0
 * test_weight.c - every stored form against values written out by
 * tests/tools/make_weight_golden.py. */
#include "check.h"

#include "base/file.h"
#include "base/mem.h"
#include "format/safetensors.h"
#include "tensor/fp.h"
#include "tensor/qblock.h"
#include "tensor/weight.h"
#include <string.h>

static qn_file *file;
static qn_arena arena;
static qn_tensor *tensors;
static size_t n_tensors;

static int open_golden(void **state)
{
    (void)state;
    qn_err err = {0};
    qn_arena_init(&arena, 0, QN_MEM_MISC);
    assert_int_equal(qn_file_map(&file, QN_SOURCE_DIR "/tests/golden/weights.safetensors", &err),
                     QN_OK);
    assert_int_equal(
        qn_safetensors_parse(file->data, file->size, "weights", &arena, &tensors, &n_tensors, &err),
        QN_OK);
    return 0;
}

static int close_golden(void **state)
{
    (void)state;
    qn_arena_fini(&arena);
    qn_file_unmap(file);
    return 0;
}

static const qn_tensor *find(const char *form, const char *part)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%s.%s", form, part);
    for (size_t i = 0; i < n_tensors; i++)
        if (strcmp(tensors[i].name, name) == 0)
            return &tensors[i];
    fail_msg("no tensor %s in the golden file", name);
    return NULL;
}

/* Decodes all rows at once, one at a time, in threes, and through views; all must be the
 * expected bits. */
static void check_rows(const qn_weight *w, const qn_tensor *expect)
{
    assert_int_equal(expect->dims[0], w->rows);
    assert_int_equal(expect->dims[1], w->cols);
    const float *want = expect->data;
    float *got = qn_alloc_array(w->rows * w->cols + 1, sizeof *got, QN_MEM_MISC);
    const size_t steps[] = {w->rows, 1, 3};
    for (size_t k = 0; k < QN_COUNT(steps); k++)
        for (size_t row = 0; row < w->rows; row += steps[k]) {
            size_t n = QN_MIN(steps[k], w->rows - row);
            got[n * w->cols] = 12345.0f;
            qn_weight_decode(w, row, n, got);
            assert_memory_equal(got, want + row * w->cols, n * w->cols * sizeof *got);
            assert_true(got[n * w->cols] == 12345.0f);
            if (row + n + 1 > w->rows)
                continue;
            qn_weight tail = qn_weight_rows(w, row, w->rows - row),
                      view = qn_weight_rows(&tail, 1, n);
            qn_weight_decode(&view, 0, n, got);
            assert_memory_equal(got, want + (row + 1) * w->cols, n * w->cols * sizeof *got);
        }
    qn_free(got);
}

static qn_weight grouped(const char *form, qn_dtype dtype)
{
    return (qn_weight){.dtype = dtype,
                       .rows = 24,
                       .cols = 32,
                       .total_rows = 24,
                       .group = 8,
                       .data = find(form, "qweight")->data,
                       .scale = find(form, "scales")->data,
                       .scale_dtype = QN_F16,
                       .zero = find(form, "qzeros")->data};
}

static void test_gptq(void **state)
{
    (void)state;
    qn_weight w = grouped("gptq4", QN_GPTQ4);
    w.zero_offset = 1;
    check_rows(&w, find("gptq4", "expect"));
    w.group_index = find("gptq4", "g_idx")->data;
    check_rows(&w, find("gptq4", "expect"));
    w = grouped("gptq8", QN_GPTQ8);
    w.zero_offset = 1;
    check_rows(&w, find("gptq8", "expect"));
}

static void test_gptq_act_order(void **state)
{
    (void)state;
    qn_weight w = grouped("gptq4_act", QN_GPTQ4);
    w.group_index = find("gptq4_act", "g_idx")->data;
    check_rows(&w, find("gptq4_act", "expect"));
}

static void test_awq(void **state)
{
    (void)state;
    qn_weight w = grouped("awq4", QN_AWQ4);
    check_rows(&w, find("awq4", "expect"));
}

/* Without a zero table the zero is the middle code. */
static void test_symmetric(void **state)
{
    (void)state;
    uint32_t q[2] = {0x76543210u, 0xfedcba98u}; /* 8 columns of 2 rows */
    float scale[2] = {1.0f, 0.5f}, out[16];
    qn_weight w = {.dtype = QN_GPTQ4,
                   .rows = 2,
                   .cols = 8,
                   .total_rows = 2,
                   .group = 8,
                   .data = q,
                   .scale = scale,
                   .scale_dtype = QN_F32};
    qn_weight_decode(&w, 0, 2, out);
    for (int i = 0; i < 8; i++) {
        assert_true(out[i] == (float)(i - 8));
        assert_true(out[8 + i] == 0.5f * (float)i);
    }
}

static void test_nf4(void **state)
{
    (void)state;
    qn_weight w = {.dtype = QN_NF4,
                   .rows = 5,
                   .cols = 72,
                   .total_rows = 5,
                   .group = 64,
                   .data = find("nf4", "weight")->data,
                   .code = find("nf4", "code")->data,
                   .scale = find("nf4", "absmax")->data,
                   .scale_dtype = QN_F32};
    check_rows(&w, find("nf4", "expect"));
    assert_int_equal(qn_weight_bytes(&w), 5 * 72 / 2 + 6 * 4);
    w.scale = find("nf4", "absmax_q")->data;
    w.scale_dtype = QN_U8;
    w.nested_code = find("nf4", "nested_code")->data;
    w.nested_scale = find("nf4", "nested_absmax")->data;
    w.nested_offset = *(const float *)find("nf4", "nested_offset")->data;
    w.nested_group = 4;
    check_rows(&w, find("nf4", "double_expect"));
    assert_int_equal(qn_weight_bytes(&w), 5 * 72 / 2 + 6 + 2 * 4);
}

static void test_fp8(void **state)
{
    (void)state;
    qn_weight w = {.dtype = QN_F8_E4M3,
                   .rows = 10,
                   .cols = 20,
                   .total_rows = 10,
                   .stride = 20,
                   .group = 8,
                   .block_rows = 4,
                   .data = find("fp8", "weight")->data,
                   .scale = find("fp8", "scale")->data,
                   .scale_dtype = QN_F32};
    check_rows(&w, find("fp8", "expect"));
    assert_int_equal(qn_weight_bytes(&w), 200 + 9 * 4);
}

static void test_plain_and_blocks(void **state)
{
    (void)state;
    uint16_t half[2][4] = {{0x3c00, 0xc000, 0x0001, 0x7bff}, {0x8000, 0x3555, 0x4248, 0xfbff}};
    float out[64];
    qn_weight w = {.dtype = QN_F16, .rows = 2, .cols = 3, .stride = sizeof half[0], .data = half};
    qn_weight_decode(&w, 0, 2, out);
    assert_true(out[0] == 1.0f && out[1] == -2.0f && out[2] == 0x1p-24f);
    assert_true(out[3] == 0.0f && out[4] == 0x1.554p-2f && out[5] == 0x1.92p1f);
    w.dtype = QN_BF16;
    qn_weight_decode(&w, 1, 1, out);
    assert_true(out[1] == qn_bf16_to_f32(0x3555));

    qn_block_q8_0 rows[3];
    for (int r = 0; r < 3; r++) {
        rows[r].d = qn_f32_to_f16(0.25f);
        for (int i = 0; i < 32; i++)
            rows[r].qs[i] = (int8_t)(r * 32 + i);
    }
    w = (qn_weight){
        .dtype = QN_Q8_0, .rows = 3, .cols = 32, .stride = sizeof rows[0], .data = rows};
    qn_weight view = qn_weight_rows(&w, 1, 2);
    qn_weight_decode(&view, 0, 2, out);
    for (int i = 0; i < 64; i++)
        assert_true(out[i] == 0.25f * (float)(32 + i));
    assert_int_equal(qn_weight_bytes(&w), 3 * 34);
    assert_int_equal(qn_weight_bytes(&view), 2 * 34);
}

static void test_bytes(void **state)
{
    (void)state;
    qn_weight w = grouped("gptq4", QN_GPTQ4);
    assert_int_equal(qn_weight_bytes(&w), 24 * 32 / 2 + 24 * 4 * 2 + 24 * 4 / 2);
    w.group_index = find("gptq4", "g_idx")->data;
    assert_int_equal(qn_weight_bytes(&w), 24 * 32 / 2 + 24 * 4 * 2 + 24 * 4 / 2 + 32 * 4);
    w = grouped("gptq8", QN_GPTQ8);
    w.zero = NULL;
    assert_int_equal(qn_weight_bytes(&w), 24 * 32 + 24 * 4 * 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gptq),
        cmocka_unit_test(test_gptq_act_order),
        cmocka_unit_test(test_awq),
        cmocka_unit_test(test_symmetric),
        cmocka_unit_test(test_nf4),
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_plain_and_blocks),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
