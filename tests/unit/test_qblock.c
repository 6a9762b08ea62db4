/* SPDX-License-Identifier: Apache-2.0
 * test_qblock.c - the dtype table, and every block format against the values the gguf package
 * gives (blocks.safetensors). */
#include "check.h"

#include "base/file.h"
#include "base/mem.h"
#include "format/safetensors.h"
#include "tensor/fp.h"
#include "tensor/qblock.h"
#include <math.h>
#include <string.h>

static const qn_tensor *find(const qn_tensor *t, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(t[i].name, name) == 0)
            return &t[i];
    return NULL;
}

static void check_type(qn_dtype type, const qn_tensor *raw, const qn_tensor *want)
{
    const qn_dtype_info *d = qn_dtype_get(type);
    size_t n_rows = want->dims[0], cols = want->dims[1];
    assert_int_equal(raw->dims[0], n_rows);
    assert_int_equal(raw->dims[1], d->block_bytes);
    assert_int_equal(cols, d->block_size);
    float *got = qn_alloc_array(n_rows * cols, sizeof *got, QN_MEM_MISC);
    qn_qblock_decode(type, raw->data, n_rows * cols, got);
    for (size_t r = 0; r < n_rows; r++) {
        const float *a = got + r * cols, *b = (const float *)want->data + r * cols;
        double most = 0, worst = 0;
        for (size_t i = 0; i < cols; i++) {
            most = fmax(most, fabs((double)b[i]));
            worst = worse_of(worst, fabs((double)a[i] - (double)b[i]));
        }
        if (!(worst <= 1e-6 * most))
            fail_msg("%s: block %zu: off by %g, largest value %g", d->name, r, worst, most);
    }
    qn_free(got);
}

static void test_blocks(void **state)
{
    (void)state;
    qn_file *f;
    qn_arena arena;
    qn_tensor *t;
    size_t n;
    qn_err err = {0};
    int n_types = 0;
    qn_arena_init(&arena, 0, QN_MEM_MISC);
    assert_int_equal(qn_file_map(&f, QN_SOURCE_DIR "/tests/golden/gguf/blocks.safetensors", &err),
                     QN_OK);
    assert_int_equal(qn_safetensors_parse(f->data, f->size, "blocks", &arena, &t, &n, &err), QN_OK);
    for (unsigned i = 0; i < QN_N_DTYPES; i++) {
        const qn_dtype_info *d = qn_dtype_get((qn_dtype)i);
        char name[32];
        if (d->ggml_type < 0 || d->block_size == 1)
            continue;
        (void)snprintf(name, sizeof name, "%s.raw", d->name);
        const qn_tensor *raw = find(t, n, name);
        (void)snprintf(name, sizeof name, "%s.f32", d->name);
        const qn_tensor *want = find(t, n, name);
        assert_true(raw && want);
        check_type((qn_dtype)i, raw, want);
        n_types++;
    }
    assert_int_equal(n_types, 23);
    assert_int_equal(n, 2 * 23);
    qn_arena_fini(&arena);
    qn_file_unmap(f);
}

static void test_plain(void **state)
{
    (void)state;
    float out[4];
    qn_qblock_decode(QN_F32, (float[]){1.5f, -0.0f}, 2, out);
    assert_true(out[0] == 1.5f && out[1] == 0.0f && signbit(out[1]));
    qn_qblock_decode(QN_F64, (double[]){0.1, -4}, 2, out);
    assert_true(out[0] == 0.1f && out[1] == -4.0f);
    qn_qblock_decode(QN_I8, (int8_t[]){-128, 127}, 2, out);
    assert_true(out[0] == -128.0f && out[1] == 127.0f);
    qn_qblock_decode(QN_U8, (uint8_t[]){0, 255}, 2, out);
    assert_true(out[0] == 0.0f && out[1] == 255.0f);
    qn_qblock_decode(QN_I16, (int16_t[]){-32768, 5}, 2, out);
    assert_true(out[0] == -32768.0f && out[1] == 5.0f);
    qn_qblock_decode(QN_I32, (int32_t[]){-7, 1 << 20}, 2, out);
    assert_true(out[0] == -7.0f && out[1] == 0x1p20f);
    qn_qblock_decode(QN_I64, (int64_t[]){-7, (int64_t)1 << 40}, 2, out);
    assert_true(out[0] == -7.0f && out[1] == 0x1p40f);
    qn_qblock_decode(QN_F8_E4M3, (uint8_t[]){0x38, 0xc0, 0x01, 0x7e}, 4, out);
    assert_true(out[0] == 1.0f && out[1] == -2.0f && out[2] == 0x1p-9f && out[3] == 448.0f);
}

/* Every half must survive the way to float32 and back; bf16 and e4m3 by their definition. */
static void test_halves(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = qn_f16_to_f32((uint16_t)h);
        int e = h >> 10 & 31, m = h & 1023;
        double want = (h & 0x8000 ? -1 : 1) * (e ? ldexp(1024 + m, e - 25) : ldexp(m, -24));
        if (e == 31)
            assert_true(m ? isnan(f) : isinf(f));
        else
            assert_true((double)f == want);
        if (!isnan(f))
            assert_int_equal(qn_f32_to_f16(f), h);
        if (!isnan(qn_bf16_to_f32((uint16_t)h)))
            assert_int_equal(qn_f32_to_bf16(qn_bf16_to_f32((uint16_t)h)), h);
    }
    for (int b = 0; b < 256; b++) {
        int e = b >> 3 & 15, m = b & 7;
        double want = (b & 128 ? -1 : 1) * (e ? ldexp(8 + m, e - 10) : ldexp(m, -9));
        float f = qn_e4m3_to_f32((uint8_t)b);
        assert_true((b & 127) == 127 ? isnan(f) : (double)f == want);
    }
}

static void test_dtypes(void **state)
{
    (void)state;
    size_t bytes;
    qn_dtype t;
    for (unsigned i = 0; i < QN_N_DTYPES; i++) {
        const qn_dtype_info *d = qn_dtype_get((qn_dtype)i);
        assert_non_null(d->name);
        assert_true(d->block_size > 0);
        if (d->ggml_type >= 0) {
            assert_true(qn_dtype_from_ggml((uint32_t)d->ggml_type, &t));
            assert_int_equal(t, i);
        }
        if (d->safetensors) {
            assert_true(qn_dtype_from_safetensors(d->safetensors, &t));
            assert_int_equal(t, i);
        }
    }
    assert_false(qn_dtype_from_ggml(4, &t));
    assert_false(qn_dtype_from_ggml(UINT32_MAX, &t));
    assert_false(qn_dtype_from_safetensors("F8_E5M2", &t));
    assert_false(qn_dtype_from_safetensors("", &t));
    assert_true(qn_dtype_row_bytes(QN_Q4_K, 512, &bytes));
    assert_int_equal(bytes, 288);
    assert_false(qn_dtype_row_bytes(QN_Q4_K, 500, &bytes));
    assert_false(qn_dtype_row_bytes(QN_NF4, 64, &bytes));
    assert_false(qn_dtype_row_bytes(QN_F32, SIZE_MAX / 2, &bytes));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
