/* SPDX-License-Identifier: Apache-2.0
 * check_matmul.c - checks of the products: backend/cpu/matmul.h and its kernels.
 *
 *   quantise      every instruction set gives the bits of plain C; odd values
 *   pack kernels  random panels: every instruction set gives the bits of plain C
 *   decode        fast decoders give the bits of qn_weight_decode
 *   formats       random stored weights: unit vectors give back the decoded weight; random rows stay within the bound
 *   determinism   any number of rows, any row range: the bits of the single row
 *   float         exact mode against double, odd widths */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu/matmul.h"
#include "bounds.h"
#include "checkkern.h"
#include "tensor/fp.h"

/* ---- random weights ---- */

typedef struct stored {
    qn_weight w;
    void *data, *scale, *zero;
    int32_t *index;
    float code[16];
    bool is_inexact; /* the packed offset is rounded to f16 */
} stored;

static void random_bytes(void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)p)[i] = (uint8_t)(ck_rand() >> 24);
}

static uint16_t random_half(void)
{
    float f = (0.01f + 0.01f * fabsf(ck_normal())) * (ck_rand() & 1 ? 1 : -1);
    return qn_f32_to_f16(f);
}

/* Byte offsets of the f16 numbers of a block; -1: none. */
static const struct {
    qn_dtype dtype;
    int half[2];
} blocks[] = {
    {QN_Q4_0, {0, -1}},    {QN_Q4_1, {0, 2}},    {QN_Q5_0, {0, -1}},   {QN_Q5_1, {0, 2}},
    {QN_Q8_0, {0, -1}},    {QN_Q2_K, {80, 82}},  {QN_Q3_K, {108, -1}}, {QN_Q4_K, {0, 2}},
    {QN_Q5_K, {0, 2}},     {QN_Q6_K, {208, -1}}, {QN_IQ4_NL, {0, -1}}, {QN_IQ4_XS, {0, -1}},
    {QN_IQ2_XXS, {0, -1}}, {QN_IQ3_S, {0, -1}},  {QN_TQ2_0, {64, -1}},
};

static void fill_blocks(qn_dtype t, uint8_t *p, size_t n_blocks)
{
    size_t bytes = qn_dtype_get(t)->block_bytes;
    random_bytes(p, n_blocks * bytes);
    for (size_t i = 0; i < QN_COUNT(blocks); i++)
        for (int j = 0; j < 2 && blocks[i].dtype == t; j++)
            for (size_t b = 0; b < n_blocks && blocks[i].half[j] >= 0; b++) {
                uint16_t h = random_half();
                memcpy(p + b * bytes + blocks[i].half[j], &h, 2);
            }
}

static void fill_floats(qn_dtype t, void *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float f = ck_normal() * 0.05f;
        if (t == QN_F32)
            ((float *)p)[i] = f;
        else
            ((uint16_t *)p)[i] = t == QN_F16 ? qn_f32_to_f16(f) : qn_f32_to_bf16(f);
    }
}

enum { ROW0 = 8 }; /* GPTQ, AWQ, FP8: views start inside a larger matrix */

static void new_gptq(stored *s, qn_dtype t, size_t rows, size_t cols)
{
    size_t bits = t == QN_GPTQ8 ? 8 : 4, total = QN_ROUND_UP(rows + ROW0, (size_t)8),
           groups = cols / 32;
    bool is_mid = ck_rand() & 1; /* symmetric */
    s->data = ck_in(cols * total * bits / 8);
    s->zero = ck_in(groups * total * bits / 8);
    s->scale = ck_in(groups * total * 2);
    random_bytes(s->data, cols * total * bits / 8);
    random_bytes(s->zero, groups * total * bits / 8);
    if (is_mid)
        memset(s->zero, bits == 8 ? 127 : 0x77, groups * total * bits / 8);
    for (size_t i = 0; i < groups * total; i++)
        ((uint16_t *)s->scale)[i] = qn_f32_to_f16(fminf(0.01f + 0.01f * fabsf(ck_normal()), 0.05f));
    s->w = (qn_weight){.dtype = t,
                       .rows = rows,
                       .cols = cols,
                       .data = s->data,
                       .row0 = ROW0,
                       .total_rows = total,
                       .scale = s->scale,
                       .scale_dtype = QN_F16,
                       .zero = s->zero,
                       .zero_offset = 1,
                       .group = 32};
    s->is_inexact = !is_mid;
    if (ck_rand() & 1 && t != QN_AWQ4) { /* act-order in blocks, which panels can hold */
        s->index = ck_in(cols * sizeof *s->index);
        for (size_t i = 0; i < cols; i++)
            s->index[i] = (int32_t)((i / 32 * 7 + 3) % groups);
        s->w.group_index = s->index;
    }
}

static stored stored_new(qn_dtype t, size_t rows, size_t cols)
{
    stored s = {.w = {.dtype = t, .rows = rows, .cols = cols}};
    if (t == QN_GPTQ4 || t == QN_GPTQ8 || t == QN_AWQ4) {
        new_gptq(&s, t, rows, cols);
    } else if (t == QN_NF4) {
        size_t total = rows + ROW0;
        s.data = ck_in(total * cols / 2);
        s.scale = ck_in(total * cols / 32 * sizeof(float));
        random_bytes(s.data, total * cols / 2);
        for (size_t i = 0; i < total * cols / 32; i++)
            ((float *)s.scale)[i] = 0.1f + 0.05f * ck_normal();
        s.w = (qn_weight){.dtype = t,
                          .rows = rows,
                          .cols = cols,
                          .data = s.data,
                          .row0 = ROW0,
                          .total_rows = total,
                          .scale = s.scale,
                          .scale_dtype = QN_F32,
                          .group = 32};
        ck_normals(s.code, 16);
    } else if (t == QN_F8_E4M3) {
        s.data = ck_in(rows * cols);
        s.scale = ck_in((rows / 16 + 1) * (cols / 16 + 1) * sizeof(float));
        for (size_t i = 0; i < rows * cols; i++)
            ((uint8_t *)s.data)[i] = (uint8_t)(ck_rand() & 0xbf);
        for (size_t i = 0; i < (rows / 16 + 1) * (cols / 16 + 1); i++)
            ((float *)s.scale)[i] = 0.1f + 0.05f * ck_normal();
        s.w = (qn_weight){.dtype = t,
                          .rows = rows,
                          .cols = cols,
                          .data = s.data,
                          .stride = cols,
                          .total_rows = rows,
                          .scale = s.scale,
                          .scale_dtype = QN_F32,
                          .group = 16,
                          .block_rows = 16};
    } else {
        size_t bytes = 0;
        if (!qn_dtype_row_bytes(t, cols, &bytes))
            ck_result(false, "row of %zu columns of %s", cols, qn_dtype_get(t)->name);
        s.w.stride = bytes;
        s.w.data = s.data = ck_in(rows * bytes);
        if (qn_dtype_get(t)->block_size == 1)
            fill_floats(t, s.data, rows * cols);
        else
            fill_blocks(t, s.data, rows * cols / qn_dtype_get(t)->block_size);
    }
    return s;
}

static void stored_free(stored *s)
{
    ck_free(s->data);
    ck_free(s->scale);
    ck_free(s->zero);
    ck_free(s->index);
}

/* ---- a product through the public functions ---- */

static qn_acts *acts_new(size_t rows, size_t cols)
{
    qn_acts *a = NULL;
    qn_err err;
    if (qn_acts_new(&a, rows, cols, 1u << QN_MM_F32 | 1u << QN_MM_INT, 2, &err) != QN_OK)
        ck_result(false, "qn_acts_new: %s", err.msg);
    return a;
}

static qn_team *team; /* of 2, packs the weights */

static qn_dweight *dweight_new(const qn_weight *w, bool exact)
{
    qn_dweight *d = NULL;
    qn_err err;
    if (qn_dweight_new(&d, team, w, exact, &err) != QN_OK)
        ck_result(false, "qn_dweight_new: %s", err.msg);
    return d;
}

/* y[m][rows] of x[m][cols], in row ranges of about `range`. */
static void product(const qn_kernels *k, const qn_dweight *d, const float *x, const uint32_t *index,
                    size_t m, size_t range, float *y)
{
    size_t rows = qn_dweight_rows(d), cols = qn_dweight_cols(d), step = qn_dweight_row_step(d);
    qn_acts *a = acts_new(m, cols);
    qn_acts_begin(a, m, cols, 1u << QN_MM_F32 | 1u << QN_MM_INT);
    for (size_t r = 0; r < m; r += QN_ACTS_ROW_STEP)
        qn_acts_put(a, k, r, QN_MIN(r + QN_ACTS_ROW_STEP, m), x, cols, index);
    range = QN_ROUND_UP(range, step);
    for (size_t r = 0; r < rows; r += range)
        qn_matmul(k, d, a, r, QN_MIN(r + range, rows), y, rows, (int)(r / range % 2));
    qn_acts_free(a);
}

/* The same for rows `index` gathered from all n prepared rows of x, into the second of two sets in one memory; put by columns. */
static void product_gathered(const qn_kernels *k, const qn_dweight *d, const float *x, size_t n,
                             const uint32_t *index, size_t m, float *y)
{
    size_t rows = qn_dweight_rows(d), cols = qn_dweight_cols(d);
    unsigned kinds = 1u << QN_MM_F32 | 1u << QN_MM_INT;
    qn_acts *src = acts_new(n, cols), *all = acts_new(8 + m, cols);
    qn_acts_begin(src, n, cols, kinds);
    size_t half = QN_MIN(QN_ROUND_UP(cols / 2, (size_t)32), cols);
    for (size_t r = 0; r < n; r++) {
        qn_acts_put_columns(src, k, r, 0, half, x + r * cols);
        qn_acts_put_columns(src, k, r, half, cols, x + r * cols + half);
    }
    qn_acts_begin(all, 8 + m, cols, kinds);
    qn_acts set = qn_acts_part(all, 4, m);
    qn_acts_begin(&set, m, cols, 1u << qn_dweight_kind(d));
    qn_acts_gather(&set, src, index);
    for (size_t first = 0; first < m; first += 8) {
        qn_acts part = qn_acts_part(&set, first, QN_MIN(m - first, (size_t)8));
        qn_matmul(k, d, &part, 0, rows, y + first * rows, rows, 1);
    }
    qn_acts_free(src);
    qn_acts_free(all);
}

/* Equal as numbers, or the same NaN-ness. */
static bool same(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(a[i] == b[i] || (isnan(a[i]) && isnan(b[i]))))
            return false;
    return true;
}

/* ---- quantise ---- */

static void check_quantise(const ck_isa *isa)
{
    enum { BLOCKS = 7 };
    static const float odd[] = {0, 1e-40f, 1e-31f, 3e38f, INFINITY, NAN, -127.5f, 0.5f};
    for (int trial = 0; trial < 64; trial++) {
        float x[BLOCKS * 32], scale = exp2f((float)ck_below(160) - 120);
        for (size_t i = 0; i < QN_COUNT(x); i++)
            x[i] = trial % 4 == 1 ? (float)ck_below(255) - 127 + 0.5f : ck_normal() * scale;
        if (trial % 4 == 2)
            for (int i = 0; i < 4; i++)
                x[ck_below(QN_COUNT(x))] = odd[ck_below(QN_COUNT(odd))];
        if (trial % 4 == 3)
            memset(x + 32, 0, 32 * sizeof *x);
        for (int lanes = 1; lanes <= 4; lanes += 3) {
            size_t bytes = BLOCKS * (lanes == 1 ? sizeof(qn_act1) : sizeof(qn_act4));
            uint8_t *want = ck_out(bytes), *got = ck_out(bytes);
            ck_ref->mm_quantise(x, BLOCKS, lanes, lanes - 1, want);
            isa->k.mm_quantise(x, BLOCKS, lanes, lanes - 1, got);
            ck_result(memcmp(want, got, bytes) == 0 && ck_guard_ok(got),
                      "quantise %s: trial %d, %d lanes", isa->name, trial, lanes);
            ck_free(want);
            ck_free(got);
        }
    }
}

/* ---- kernels of panels ---- */

static uint8_t *random_panels(qn_pack p, size_t n, size_t cols)
{
    size_t bytes = qn_pack_panel_bytes(p, cols),
           unit = qn_unit_bytes(qn_packs[p].bits, qn_packs[p].scales);
    qn_pack_scales s = qn_packs[p].scales;
    bool has_m = qn_scales_has_min(s);
    uint8_t *w = ck_in(n * bytes);
    random_bytes(w, n * bytes);
    if (ck_rand() % 4 == 0) /* the largest quants */
        memset(w, 0xff, n * bytes);
    for (uint8_t *u = w; u < w + n * bytes; u += unit)
        for (int i = 0; i < (has_m ? 32 : 16); i++) {
            uint16_t h = random_half();
            memcpy(u + 2 * i, &h, 2);
        }
    return w;
}

static void check_pack(const ck_isa *isa, qn_pack p)
{
    static const size_t sizes[] = {32, 64, 96, 896, 4864, 256, 2304, 5120};
    for (size_t i = 0; i < QN_COUNT(sizes); i++) {
        size_t cols = QN_ROUND_UP(sizes[i], 32 * qn_scales_blocks(qn_packs[p].scales)),
               n_blocks = cols / 32;
        size_t n_panels = 1 + ck_below(3), m = 1 + ck_below(9), quads = QN_DIV_UP(m, (size_t)4);
        uint8_t *w = random_panels(p, n_panels, cols);
        float *x = ck_in(cols * sizeof *x);
        qn_act1 *a1 = ck_in(n_blocks * sizeof *a1);
        qn_act4 *a4 = ck_in(quads * n_blocks * sizeof *a4);
        for (size_t t = 0; t < 4 * quads; t++) {
            ck_normals(x, cols);
            if (t % 4 == 1) /* the largest activations of one sign */
                for (size_t j = 0; j < cols; j++)
                    x[j] = 127;
            ck_ref->mm_quantise(x, n_blocks, 4, (int)(t % 4), a4 + t / 4 * n_blocks);
            if (t == i % (4 * quads))
                ck_ref->mm_quantise(x, n_blocks, 1, 0, a1);
        }
        size_t ny = n_panels * QN_PACK_ROWS, nc = quads * 4 * QN_PACK_ROWS;
        float *y0 = ck_out(ny * sizeof(float)), *y1 = ck_out(ny * sizeof(float));
        float *c0 = ck_out(nc * sizeof(float)), *c1 = ck_out(nc * sizeof(float));
        void *scratch = ck_out(QN_MM_SCRATCH);
        ck_ref->mm_gemv[p](w, n_panels, n_blocks, a1, y0);
        isa->k.mm_gemv[p](w, n_panels, n_blocks, a1, y1);
        ck_result(same(y0, y1, ny) && ck_guard_ok(y1) && !isnan(y1[0]), "gemv %s %s: %zu columns",
                  qn_packs[p].name, isa->name, cols);
        ck_ref->mm_gemm[p](w, n_blocks, a4, quads, c0, scratch);
        isa->k.mm_gemm[p](w, n_blocks, a4, quads, c1, scratch);
        ck_result(same(c0, c1, nc) && ck_guard_ok(c1) && ck_guard_ok(scratch) && !isnan(c1[0]),
                  "gemm %s %s: %zu columns, %zu rows", qn_packs[p].name, isa->name, cols,
                  4 * quads);
        size_t t = i % (4 * quads);
        ck_result(same(c1 + t * QN_PACK_ROWS, y1, QN_PACK_ROWS), "gemv = gemm %s %s: %zu columns",
                  qn_packs[p].name, isa->name, cols);
        void *all[] = {w, x, a1, a4, y0, y1, c0, c1, scratch};
        for (size_t j = 0; j < QN_COUNT(all); j++)
            ck_free(all[j]);
    }
}

/* ---- decoders ---- */

static void check_decode(const ck_isa *isa, qn_dtype t)
{
    size_t block = qn_dtype_get(t)->block_size,
           cols = block == 1 ? 1 + ck_below(100) : block * (1 + ck_below(5));
    if (!isa->k.mm_decode[t])
        return;
    stored s = stored_new(t, 3, cols);
    float *want = ck_out(3 * cols * sizeof *want), *got = ck_out(cols * sizeof *got);
    qn_weight_decode(&s.w, 0, 3, want);
    for (size_t r = 0; r < 3; r++) {
        isa->k.mm_decode[t]((const uint8_t *)s.data + r * s.w.stride, cols, got);
        ck_result(memcmp(got, want + r * cols, cols * sizeof *got) == 0 && ck_guard_ok(got),
                  "decode %s %s: %zu columns", qn_dtype_get(t)->name, isa->name, cols);
    }
    ck_free(want);
    ck_free(got);
    stored_free(&s);
}

/* ---- stored formats ---- */

/* Bound of |y - x·w| for one row: w as decoded. */
static double product_bound(const qn_dweight *d, const stored *s, const float *x, const float *w,
                            size_t cols)
{
    double sum = 0, half_steps = 0, max_w = 0;
    for (size_t k = 0; k < cols; k++) {
        sum += fabs((double)x[k] * (double)w[k]);
        max_w = fmax(max_w, fabs((double)w[k]));
    }
    if (qn_dweight_kind(d) == QN_MM_F32)
        return BOUND_F32_SUM(cols, sum);
    double offset = 0, scale_zero = 0;
    for (size_t b = 0; b < cols; b += 32) {
        double max = 0, sum_w = 0, sum_x = 0;
        for (size_t k = b; k < b + 32; k++) {
            max = fmax(max, fabs((double)x[k]));
            sum_w += fabs((double)w[k]);
            sum_x += fabs((double)x[k]);
        }
        half_steps += max / 254 * sum_w;
        offset +=
            4 * max_w *
            sum_x; /* |S| q + |M| <= 4 max |w| for every format but those with minima apart, whose m <= 64 d */
        scale_zero += s->is_inexact ? sum_x : 0;
    }
    /* scale <= 0.05, zero <= 256: new_gptq */
    return BOUND_INT8(half_steps, cols / 32, offset) +
           BOUND_F16_OFFSET(scale_zero * 0.05 * (s->w.dtype == QN_GPTQ8 ? 256 : 16));
}

static void check_format(const ck_isa *isa, qn_dtype t, bool exact, size_t rows, size_t cols)
{
    static const size_t batches[] = {1, 2, 3, 4, 5, 7, 8, 33};
    enum { MAX = 33 };
    const char *name = qn_dtype_get(t)->name;
    stored s = stored_new(t, rows, cols);
    if (t == QN_NF4)
        s.w.code = s.code;
    qn_dweight *d = dweight_new(&s.w, exact);
    float *x = ck_in(MAX * cols * sizeof *x), *w = ck_in(rows * cols * sizeof *w),
          *row = ck_out(cols * sizeof *row);
    float *single = ck_out(MAX * rows * sizeof *single);
    uint32_t index[MAX];
    ck_normals(x, MAX * cols);
    for (size_t i = 0; i < cols; i++) /* row 0: a unit vector, which int8 holds exactly */
        x[i] = 0;
    size_t unit = ck_below(cols);
    x[unit] = 127;
    qn_weight_decode(&s.w, 0, rows, w);
    for (size_t i = 0; i < MAX; i++)
        product(&isa->k, d, x + i * cols, NULL, 1, rows, single + i * rows);
    bool ok = true, unit_ok = true;
    for (size_t r = 0; r < rows; r++) {
        qn_dweight_row(d, r, row);
        ok &= memcmp(row, w + r * cols, cols * sizeof *row) == 0;
        double want = 127.0 * (double)w[r * cols + unit],
               slack = s.is_inexact ? 127 * 0x1p-8
                                    : 0; /* scale * zero < 16, half a step of f16 there */
        unit_ok &= fabs((double)single[r] - want) <= 1e-5 * (fabs(want) + 127) + slack;
    }
    ck_result(ok && ck_guard_ok(row), "row %s: %zu x %zu", name, rows, cols);
    ck_result(unit_ok, "unit vector %s %s%s: %zu x %zu", name, isa->name, exact ? " exact" : "",
              rows, cols);
    ok = true;
    for (size_t i = 0; i < MAX; i++)
        for (size_t r = 0; r < rows; r++) {
            double sum = 0;
            for (size_t k = 0; k < cols; k++)
                sum += (double)x[i * cols + k] * (double)w[r * cols + k];
            ok &= fabs((double)single[i * rows + r] - sum) <=
                  product_bound(d, &s, x + i * cols, w + r * cols, cols);
        }
    ck_result(ok, "bound %s %s%s: %zu x %zu", name, isa->name, exact ? " exact" : "", rows, cols);
    for (size_t b = 0; b < QN_COUNT(batches); b++) { /* determinism; rows gathered by index */
        size_t m = batches[b], shift = ck_below(MAX);
        float *y = ck_out(m * rows * sizeof *y);
        for (size_t i = 0; i < m; i++)
            index[i] = (uint32_t)((i + shift) % MAX);
        product(&isa->k, d, x, index, m, 1 + ck_below(rows), y);
        ok = true;
        for (size_t i = 0; i < m; i++)
            ok &= same(y + i * rows, single + index[i] * rows, rows);
        ck_result(ok && ck_guard_ok(y), "same bits %s %s%s: %zu rows of %zu x %zu", name, isa->name,
                  exact ? " exact" : "", m, rows, cols);
        float *z = ck_out(m * rows * sizeof *z);
        product_gathered(&isa->k, d, x, MAX, index, m, z);
        ck_result(same(y, z, m * rows) && ck_guard_ok(z), "gathered %s %s%s: %zu rows of %zu x %zu",
                  name, isa->name, exact ? " exact" : "", m, rows, cols);
        ck_free(z);
        ck_free(y);
    }
    void *all[] = {x, w, row, single};
    for (size_t j = 0; j < QN_COUNT(all); j++)
        ck_free(all[j]);
    qn_dweight_free(d);
    stored_free(&s);
}

static const qn_dtype formats[] = {QN_F32,     QN_F16,    QN_BF16,   QN_Q4_0,    QN_Q4_1,  QN_Q5_0,
                                   QN_Q5_1,    QN_Q8_0,   QN_Q2_K,   QN_Q3_K,    QN_Q4_K,  QN_Q5_K,
                                   QN_Q6_K,    QN_IQ4_NL, QN_IQ4_XS, QN_IQ2_XXS, QN_IQ3_S, QN_TQ2_0,
                                   QN_F8_E4M3, QN_GPTQ4,  QN_GPTQ8,  QN_AWQ4,    QN_NF4};

static void check_formats(const ck_isa *isa)
{
    for (size_t i = 0; i < QN_COUNT(formats); i++) {
        size_t block = qn_dtype_get(formats[i])->block_size;
        for (int n = 0; n < 3; n++) {
            size_t rows = 1 + ck_below(70), unit = QN_MAX(block, (size_t)32),
                   cols = unit * (1 + ck_below(unit > 32 ? 3 : 20));
            check_format(isa, formats[i], false, rows, cols);
            check_format(isa, formats[i], true, rows, cols);
            if (formats[i] <= QN_BF16 || formats[i] == QN_F8_E4M3)
                check_format(isa, formats[i], n, 1 + ck_below(20), 1 + ck_below(100));
        }
    }
}

/* The float product of every instruction set against plain C. */
static void check_f32(const ck_isa *isa)
{
    for (int trial = 0; trial < 20; trial++) {
        size_t rows = 1 + ck_below(10), m = 1 + ck_below(8), cols = 1 + ck_below(200),
               pad = QN_ROUND_UP(cols, (size_t)8);
        float *w = ck_in(rows * pad * sizeof *w), *x = ck_in(m * pad * sizeof *x);
        float *want = ck_out(m * rows * sizeof *want), *got = ck_out(m * rows * sizeof *got);
        ck_normals(w, rows * pad);
        ck_normals(x, m * pad);
        qn_mm_f32 p = {.w = w,
                       .x = x,
                       .w_stride = pad,
                       .x_stride = pad,
                       .n_rows = rows,
                       .n_tokens = m,
                       .cols = cols,
                       .y = want,
                       .y_stride = rows};
        ck_ref->mm_f32(&p);
        p.y = got;
        isa->k.mm_f32(&p);
        ck_result(same(want, got, m * rows) && ck_guard_ok(got), "f32 %s: %zu x %zu x %zu",
                  isa->name, m, rows, cols);
        ck_free(w);
        ck_free(x);
        ck_free(want);
        ck_free(got);
    }
}

/* Sizes that cannot be had are an error. */
static void check_limits(void)
{
    qn_acts *a;
    qn_err err;
    ck_result(qn_acts_new(&a, SIZE_MAX / 8, SIZE_MAX / 8, 1u << QN_MM_INT, 2, &err) == QN_E_NOMEM &&
                  !a,
              "qn_acts_new: a size that overflows");
    qn_acts_free(NULL);
    qn_dweight_free(NULL);
}

/* GPTQ with an act-order that mixes groups inside 32 columns has no panels. */
static void check_act_order(void)
{
    stored s = stored_new(QN_GPTQ4, 8, 128);
    int32_t index[128];
    qn_pack pack;
    for (int i = 0; i < 128; i++)
        index[i] = i % 4;
    s.w.group_index = NULL;
    ck_result(qn_pack_choose(&s.w, &pack), "GPTQ without act-order is packed");
    s.w.group_index = index;
    ck_result(!qn_pack_choose(&s.w, &pack), "GPTQ with act-order is not packed");
    stored_free(&s);
}

/* ---- speed ---- */

enum {
    COPIES = 32
}; /* of a weight, so that one row of activations reads memory and not the cache */

typedef struct bench {
    const qn_kernels *k;
    const qn_dweight *d[COPIES];
    int n_copies;
    qn_acts *a;
    float *y;
} bench;

static void bench_run(void *arg, int thread, int n_threads)
{
    bench *b = arg;
    for (int i = 0; i < b->n_copies; i++) {
        const qn_dweight *d = b->d[i];
        size_t begin, end;
        qn_team_split(qn_dweight_rows(d), qn_dweight_row_step(d), thread, n_threads, &begin, &end);
        qn_matmul(b->k, d, b->a, begin, end, b->y, qn_dweight_rows(d), thread);
    }
}

static void bench_format(const ck_isa *isa, qn_dtype t, bool exact, size_t rows, size_t cols)
{
    static const size_t batches[] = {1, 2, 4, 8, 16, 32, 64, 512};
    stored s = stored_new(t, rows, cols);
    bench b = {.k = &isa->k, .n_copies = exact ? 4 : COPIES};
    float *x = ck_in(512 * cols * sizeof *x);
    ck_normals(x, 512 * cols);
    b.a = acts_new(512, cols);
    b.y = ck_in(512 * rows * sizeof(float));
    uint64_t start = qn_now_ns();
    for (int i = 0; i < b.n_copies; i++)
        b.d[i] = dweight_new(&s.w, exact);
    char what[64];
    snprintf(what, sizeof what, "%s %zux%zu load", qn_dtype_get(t)->name, rows, cols);
    if (!qn_dweight_is_borrowed(b.d[0]))
        ck_row(what, isa->name, 2, (double)(qn_now_ns() - start) * 1e-9, 0,
               (double)b.n_copies * (double)qn_dweight_bytes(b.d[0]) * 1e-9);
    for (size_t i = 0; i < QN_COUNT(batches); i++) {
        size_t m = batches[i];
        int copies =
            m <= 32 && !exact ? b.n_copies : 1; /* few rows: the weights come from memory */
        bench one = b;
        one.n_copies = copies;
        qn_acts_begin(b.a, m, cols, 1u << QN_MM_F32 | 1u << QN_MM_INT);
        qn_acts_put(b.a, &isa->k, 0, m, x, cols, NULL);
        for (int threads = 1; threads <= 2; threads++) {
            double seconds = ck_time(threads, bench_run, &one) / copies;
            snprintf(what, sizeof what, "%s%s %zux%zu m=%zu", qn_dtype_get(t)->name,
                     exact ? " exact" : "", rows, cols, m);
            ck_row(what, isa->name, threads, seconds, 2e-9 * (double)(m * rows) * (double)cols,
                   m == 1 ? 1e-9 * (double)qn_dweight_bytes(b.d[0]) : 0);
        }
    }
    for (int i = 0; i < b.n_copies; i++)
        qn_dweight_free((qn_dweight *)b.d[i]);
    qn_acts_free(b.a);
    ck_free(b.y);
    ck_free(x);
    stored_free(&s);
}

static void bench_all(const ck_isa *isa)
{
    static const qn_dtype types[] = {QN_Q5_0, QN_Q8_0,   QN_Q6_K, QN_Q4_K, QN_Q4_0,
                                     QN_Q5_K, QN_IQ4_NL, QN_Q2_K, QN_Q3_K, QN_F16};
    for (int exact = 0; exact < 2; exact++)
        for (size_t i = 0; i < QN_COUNT(types); i++) {
            bool is_k = qn_dtype_get(types[i])->block_size == 256;
            bench_format(isa, types[i], exact, 4864, is_k ? 1024 : 896);
            if (i < 4)
                bench_format(isa, types[i], exact, 896, 4864);
        }
}

void check_matmul(void)
{
    qn_err err;
    ck_result(qn_team_new(&team, 2, &err) == QN_OK, "a team of 2");
    for (int i = 0; i < ck_n_isas; i++) {
        const ck_isa *isa = &ck_isas[i];
        check_quantise(isa);
        for (int p = 0; p < QN_N_PACKS; p++)
            check_pack(isa, (qn_pack)p);
        for (size_t t = 0; t < QN_COUNT(formats); t++)
            check_decode(isa, formats[t]);
        check_f32(isa);
        check_formats(isa);
    }
    for (int p = 0; p < QN_N_PACKS && ck_emulated.k.mm_gemm[p] != ck_ref->mm_gemm[p]; p++)
        check_pack(&ck_emulated, (qn_pack)p);
    check_limits();
    check_act_order();
    if (ck_is_bench)
        bench_all(&ck_isas[ck_n_isas - 1]);
    qn_team_free(team);
}
