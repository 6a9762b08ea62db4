/* SPDX-License-Identifier: Apache-2.0
 * test_cpu_backend.c - every operation of the CPU device against its formula in double, with and without AVX2, and the promise
 * of ops.h: the same row gives the same bits for any chunking, block order, neighbours and number of threads. */
#include "check.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "backend/ops.h"
#include "base/cpu.h"
#include "tensor/fp.h"

#define MAX_ROWS 300
#define MAX_SEQS 8
#define MAX_CTX  2048

static const unsigned masks[] = {0, QN_CPU_ALL};

/* ---- helpers ---- */

static uint64_t seed = 1;

static uint32_t random_u32(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

static float random_float(void)
{
    return (float)random_u32() / 0x1p30f - 1.0f;
}

static void fill(float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_float() * scale;
}

static void *take(size_t n, size_t size)
{
    void *p = qn_calloc(QN_MAX(n, 1), size, QN_MEM_MISC);
    assert_non_null(p);
    return p;
}

static float *random_floats(size_t n, float scale)
{
    float *x = take(n, sizeof *x);
    fill(x, n, scale);
    return x;
}

static void ok(qn_status s, const qn_err *err)
{
    if (s != QN_OK)
        fail_msg("%s", err->msg);
}

static qn_device *open_device(unsigned mask, int threads)
{
    qn_device *d;
    qn_err err = {0};
    qn_device_config c = {.n_threads = threads,
                          .cpu_mask = mask,
                          .max_rows = MAX_ROWS,
                          .max_seqs = MAX_SEQS,
                          .max_ctx = MAX_CTX};
    ok(qn_backend_cpu()->open(&d, &c, &err), &err);
    return d;
}

static qn_buf *new_buf(qn_device *d, const void *data, size_t bytes)
{
    qn_buf *b;
    qn_err err = {0};
    ok(qn_backend_cpu()->buf_new(&b, d, bytes, QN_MEM_MISC, &err), &err);
    if (data)
        ok(qn_backend_cpu()->upload(b, 0, data, bytes, &err), &err);
    return b;
}

static void free_buf(qn_buf *b)
{
    qn_backend_cpu()->buf_free(b);
}

static void read_buf(float *out, const qn_buf *b, size_t n)
{
    qn_err err = {0};
    ok(qn_backend_cpu()->download(out, b, 0, n * sizeof *out, &err), &err);
}

static void run_op(qn_device *d, const qn_op *op, const qn_batch *batch)
{
    qn_err err = {0};
    ok(qn_backend_cpu()->prepare(d, op, 1, &err), &err);
    size_t live = qn_mem_live(QN_MEM_ACTIVATIONS) + qn_mem_live(QN_MEM_MISC);
    ok(qn_backend_cpu()->run(d, op, batch, &err), &err);
    assert_int_equal(live, qn_mem_live(QN_MEM_ACTIVATIONS) + qn_mem_live(QN_MEM_MISC));
}

static qn_operand operand(qn_buf *b, size_t width)
{
    return (qn_operand){.buf = b, .width = width};
}

static qn_dweight *f32_weight(qn_device *d, const float *w, size_t rows, size_t cols)
{
    qn_dweight *out;
    qn_err err = {0};
    qn_weight v = {.dtype = QN_F32,
                   .rows = rows,
                   .cols = cols,
                   .total_rows = rows,
                   .data = w,
                   .stride = cols * 4};
    ok(qn_backend_cpu()->weight_new(&out, d, &v, false, &err), &err);
    return out;
}

static void assert_near(const float *got, const double *want, size_t n, double bound,
                        const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= bound * (1 + fabs(want[i]))))
            fail_msg("%s: element %zu is %.9g, want %.9g", what, i, (double)got[i], want[i]);
}

static void assert_bits(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: element %zu is %.9g, and %.9g", what, i, (double)a[i], (double)b[i]);
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static double dot(const float *a, const float *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)a[i] * b[i];
    return s;
}

/* ---- operations over rows ---- */

static void test_simple(void **state)
{
    (void)state;
    for (size_t t = 0; t < 2 * QN_COUNT(masks); t++) {
        size_t rows = 7, n = 2 * 37;
        qn_device *d = open_device(masks[t / 2], t % 2 ? 3 : 1);
        float *a = random_floats(rows * n, 3), *b = random_floats(rows * n, 3),
              *w = random_floats(n, 1);
        float *got = take(rows * n, sizeof *got);
        double *want = take(rows * n, sizeof *want);
        qn_buf *ba = new_buf(d, a, rows * n * 4), *bb = new_buf(d, b, rows * n * 4),
               *bw = new_buf(d, w, n * 4);
        qn_buf *out = new_buf(d, NULL, rows * n * 4);
        float scales[7] = {1, 2, 0.5f, 1.25f, 3, 1, 1};
        uint32_t wanted[2] = {2, 6};
        qn_batch batch = {
            .n_rows = (uint32_t)rows, .q_scale = scales, .n_logit_rows = 2, .logit_rows = wanted};
        qn_op op = {.in = {operand(ba, n), operand(bb, n)},
                    .out = operand(out, n),
                    .eps = 1e-5f,
                    .vec = {bw, bw}};

        op.kind = QN_OP_ADD;
        run_op(d, &op, &batch);
        read_buf(got, out, rows * n);
        for (size_t i = 0; i < rows * n; i++)
            want[i] = (double)a[i] + b[i];
        assert_near(got, want, rows * n, 1e-7, "add");

        op.kind = QN_OP_SILU_MUL;
        run_op(d, &op, &batch);
        read_buf(got, out, rows * n);
        for (size_t i = 0; i < rows * n; i++)
            want[i] = silu(a[i]) * b[i];
        assert_near(got, want, rows * n, 4e-7, "silu_mul");

        op.kind = QN_OP_BIAS;
        run_op(d, &op, &batch);
        read_buf(got, out, rows * n);
        for (size_t i = 0; i < rows * n; i++)
            want[i] = (double)a[i] + w[i % n];
        assert_near(got, want, rows * n, 1e-7, "bias");

        for (size_t run = n; run >= n / 2; run -= n / 2) {
            op.kind = QN_OP_RMSNORM;
            op.norm_size = (uint32_t)run;
            run_op(d, &op, &batch);
            read_buf(got, out, rows * n);
            for (size_t i = 0; i < rows * n; i += run)
                for (size_t j = 0; j < run; j++)
                    want[i + j] =
                        a[i + j] / sqrt(dot(a + i, a + i, run) / (double)run + 1e-5) * w[j];
            assert_near(got, want, rows * n, 4e-7, "rmsnorm");
        }

        op.kind = QN_OP_Q_SCALE;
        op.out = op.in[0];
        run_op(d, &op, &batch);
        read_buf(got, ba, rows * n);
        for (size_t i = 0; i < rows * n; i++)
            want[i] = (double)a[i] * scales[i / n];
        assert_near(got, want, rows * n, 1e-7, "q_scale");
        batch.q_scale = NULL;
        run_op(d, &op, &batch);
        read_buf(a, ba, rows * n);
        assert_bits(a, got, rows * n, "q_scale without scales");

        op.kind = QN_OP_GATHER;
        op.out = operand(out, n);
        run_op(d, &op, &batch);
        read_buf(got, out, 2 * n);
        assert_bits(got, a + 2 * n, n, "gather");
        assert_bits(got + n, a + 6 * n, n, "gather");

        qn_buf *bufs[] = {ba, bb, bw, out};
        void *blocks[] = {a, b, w, got, want};
        for (size_t i = 0; i < QN_COUNT(bufs); i++)
            free_buf(bufs[i]);
        for (size_t i = 0; i < QN_COUNT(blocks); i++)
            qn_free(blocks[i]);
        qn_backend_cpu()->close(d);
    }
}

static void test_embed(void **state)
{
    (void)state;
    size_t vocab = 11, n = 32;
    qn_device *d = open_device(QN_CPU_ALL, 2);
    float *w = random_floats(vocab * n, 1), got[3 * 32];
    qn_dweight *dw = f32_weight(d, w, vocab, n);
    qn_buf *out = new_buf(d, NULL, 3 * n * 4);
    int32_t ids[3] = {10, 0, 7};
    qn_batch batch = {.n_rows = 3, .token_ids = ids};
    qn_op op = {.kind = QN_OP_EMBED, .w = {dw}, .n_w = 1, .out = operand(out, n)};
    run_op(d, &op, &batch);
    read_buf(got, out, 3 * n);
    for (size_t i = 0; i < 3; i++)
        assert_bits(got + i * n, w + (size_t)ids[i] * n, n, "embed");
    qn_err err;
    ids[1] = 11;
    assert_int_equal(qn_backend_cpu()->run(d, &op, &batch, &err), QN_E_ARG);
    assert_string_equal(err.msg, "token id 11: the vocabulary has 11");
    ids[1] = -1;
    assert_int_equal(qn_backend_cpu()->run(d, &op, &batch, &err), QN_E_ARG);
    qn_backend_cpu()->weight_free(dw);
    free_buf(out);
    qn_free(w);
    qn_backend_cpu()->close(d);
}

static void test_device(void **state)
{
    (void)state;
    qn_err err;
    qn_device *d;
    qn_device_config c = {.n_threads = 0, .max_rows = 1, .max_seqs = 1, .max_ctx = 1};
    assert_int_equal(qn_backend_cpu()->open(&d, &c, &err), QN_E_ARG);
    assert_null(d);
    d = open_device(0, 2);
    char text[64];
    qn_backend_cpu()->describe(d, text, sizeof text);
    assert_string_equal(text, "cpu: 2 threads, plain C");
    qn_buf *b = new_buf(d, NULL, 8);
    float x[3] = {1, 2, 3};
    read_buf(x, b, 2);
    assert_true(x[0] == 0 && x[1] == 0);
    assert_int_equal(qn_backend_cpu()->upload(b, 0, x, 12, &err), QN_E_INTERNAL);
    assert_int_equal(qn_backend_cpu()->upload(b, SIZE_MAX, x, 4, &err), QN_E_INTERNAL);
    assert_int_equal(qn_backend_cpu()->download(x, b, 8, 4, &err), QN_E_INTERNAL);
    qn_batch batch = {.n_rows = MAX_ROWS + 1};
    qn_op op = {.kind = QN_OP_ADD};
    assert_int_equal(qn_backend_cpu()->run(d, &op, &batch, &err), QN_E_INTERNAL);
    for (int k = 0; k < QN_OP_N; k++)
        assert_string_not_equal(qn_op_kind_name((qn_op_kind)k), "?");
    free_buf(b);
    qn_backend_cpu()->close(d);
    qn_backend_cpu()->close(NULL);
}

static void rotated(double *x, const float *cos_sin, size_t dim, bool adjacent)
{
    size_t half = dim / 2;
    for (size_t i = 0; i < half; i++) {
        size_t p = adjacent ? 2 * i : i, q = adjacent ? 2 * i + 1 : i + half;
        double a = x[p], b = x[q];
        x[p] = a * cos_sin[i] - b * cos_sin[i + half];
        x[q] = b * cos_sin[i] + a * cos_sin[i + half];
    }
}

static void test_rope(void **state)
{
    (void)state;
    static const size_t dims[][2] = {{16, 16}, {40, 20}, {64, 64}, {128, 6}, {2, 2}};
    for (size_t t = 0; t < 4 * QN_COUNT(dims); t++) {
        size_t rows = 5, heads = 3, dim = dims[t / 4][0], rope = dims[t / 4][1],
               n = rows * heads * dim;
        bool adjacent = t % 4 / 2;
        qn_device *d = open_device(masks[t % 2], 2);
        float *x = random_floats(n, 2), *cs = random_floats(rows * rope, 1);
        double *want = take(n, sizeof *want);
        qn_buf *b = new_buf(d, x, n * 4);
        for (size_t i = 0; i < n; i++)
            want[i] = x[i];
        for (size_t i = 0; i < rows * heads; i++)
            rotated(want + i * dim, cs + i / heads * rope, rope, adjacent);
        qn_op op = {.kind = QN_OP_ROPE,
                    .in = {operand(b, heads * dim)},
                    .out = operand(b, heads * dim),
                    .head_dim = (uint32_t)dim,
                    .rope_dim = (uint32_t)rope,
                    .rope_adjacent = adjacent};
        run_op(d, &op, &(qn_batch){.n_rows = (uint32_t)rows, .rope = cs});
        read_buf(x, b, n);
        assert_near(x, want, n, 3e-7, "rope");
        free_buf(b);
        qn_free(x);
        qn_free(cs);
        qn_free(want);
        qn_backend_cpu()->close(d);
    }
}

/* exp, through silu with u = 1 and through softmax, in units of the last place. */
static void test_exp(void **state)
{
    (void)state;
    for (size_t m = 0; m < QN_COUNT(masks); m++) {
        qn_kernels k;
        qn_kernels_init(&k, qn_cpu_flags() & masks[m]);
        double worst = 0;
        for (double at = -87; at < 88; at += 0.037) {
            float x = (float)at, p[2] = {0, x};
            if (x < 0) {
                k.softmax(p, 1); /* of one: 1 */
                assert_true(p[0] == 1.0f);
                p[0] = 0;
                float s[2] = {0, x};
                k.softmax(s, 2);
                double want = exp(x) / (1 + exp(x));
                worst = worse_of(worst, fabs(s[1] - want) / (want * FLT_EPSILON));
            }
            float one = 1, y;
            k.silu_mul(&x, &one, 1, &y);
            double want = silu(x);
            if (fabs(want) > 1e-36)
                worst = worse_of(worst, fabs(y - want) / (fabs(want) * FLT_EPSILON));
        }
        assert_true(worst < 3); /* exp 2, the division and the sum 1 */
        float x[4] = {NAN, INFINITY, -INFINITY, -200}, one[4] = {1, 1, 1, 1}, y[4];
        k.silu_mul(x, one, 4, y);
        assert_true(isnan(y[0]) && y[1] == INFINITY && fabsf(y[3]) < 1e-30f);
        float big[3] = {-1000, 5, -INFINITY};
        k.softmax(big, 3);
        assert_true(big[0] == 0 && big[1] == 1 && big[2] == 0);
    }
}

/* ---- linear ---- */

typedef struct linear_case {
    size_t rows, cols, outs[3], n_w;
    uint32_t fuse;
    bool aliased;
} linear_case;

static void linear_want(const linear_case *c, const float *x, float *const *w, const float *norm,
                        const float *bias, const float *residual, double *want)
{
    size_t width = c->fuse & QN_FUSE_SILU_MUL ? c->outs[0] : 0;
    for (size_t i = 0; i < c->n_w && !(c->fuse & QN_FUSE_SILU_MUL); i++)
        width += c->outs[i];
    float *row = take(c->cols, sizeof *row);
    double *y = take(3 * 128, sizeof *y);
    for (size_t r = 0; r < c->rows; r++) {
        const float *in = x + r * c->cols;
        double scale = 1 / sqrt(dot(in, in, c->cols) / (double)c->cols + 1e-6);
        for (size_t i = 0; i < c->cols; i++)
            row[i] = c->fuse & QN_FUSE_NORM ? (float)(in[i] * scale * norm[i]) : in[i];
        size_t at = 0;
        for (size_t i = 0; i < c->n_w; i++)
            for (size_t j = 0; j < c->outs[i]; j++, at++)
                y[at] =
                    dot(row, w[i] + j * c->cols, c->cols) + (c->fuse & QN_FUSE_BIAS ? bias[at] : 0);
        for (size_t j = 0; j < width; j++) {
            double v = c->fuse & QN_FUSE_SILU_MUL ? silu(y[j]) * y[j + width] : y[j];
            want[r * width + j] = v + (c->fuse & QN_FUSE_RESIDUAL ? residual[r * width + j] : 0);
        }
    }
    qn_free(row);
    qn_free(y);
}

static void linear_run(const linear_case *c, unsigned mask, int threads, size_t skip,
                       const float *x, float *const *w, const float *const vecs[3], float *got)
{
    qn_device *d = open_device(mask, threads);
    size_t width = 0, rows = c->rows - skip, all = 0;
    qn_op op = {.kind = QN_OP_LINEAR, .fuse = c->fuse, .n_w = (uint32_t)c->n_w, .eps = 1e-6f};
    for (size_t i = 0; i < c->n_w; i++) {
        op.w[i] = f32_weight(d, w[i], c->outs[i], c->cols);
        all += c->outs[i];
    }
    width = c->fuse & QN_FUSE_SILU_MUL ? c->outs[0] : all;
    qn_buf *in = new_buf(d, x + skip * c->cols, rows * c->cols * 4),
           *norm = new_buf(d, vecs[0], c->cols * 4);
    qn_buf *bias = new_buf(d, vecs[1], all * 4),
           *residual = new_buf(d, vecs[2] + skip * width, rows * width * 4);
    qn_buf *out = new_buf(d, NULL, rows * width * 4);
    op.in[0] = operand(in, c->cols);
    op.in[1] = operand(residual, width);
    op.out = operand(c->aliased ? residual : out, width);
    op.vec[0] = norm;
    op.vec[1] = bias;
    run_op(d, &op, &(qn_batch){.n_rows = (uint32_t)rows});
    read_buf(got, op.out.buf, rows * width);
    for (size_t i = 0; i < c->n_w; i++)
        qn_backend_cpu()->weight_free(op.w[i]);
    qn_buf *bufs[] = {in, norm, bias, residual, out};
    for (size_t i = 0; i < QN_COUNT(bufs); i++)
        free_buf(bufs[i]);
    qn_backend_cpu()->close(d);
}

static void test_linear(void **state)
{
    (void)state;
    for (uint32_t fuse = 0; fuse < 16; fuse++)
        for (size_t t = 0; t < 6; t++) {
            linear_case c = {.rows = t == 0   ? 1
                                     : t == 5 ? 150
                                              : 2 + 3 * t,
                             .cols = 64 + 8 * t,
                             .fuse = fuse,
                             .n_w = 1 + t % 3};
            c.aliased = (fuse & QN_FUSE_RESIDUAL) && t % 2;
            if (fuse & QN_FUSE_SILU_MUL)
                c.n_w = 2;
            size_t all = 0;
            float *w[3] = {0};
            for (size_t i = 0; i < c.n_w; i++) {
                c.outs[i] = fuse & QN_FUSE_SILU_MUL ? 52 + t : 96 / (i + 1) - t;
                w[i] = random_floats(c.outs[i] * c.cols, 0.3f);
                all += c.outs[i];
            }
            size_t width = fuse & QN_FUSE_SILU_MUL ? c.outs[0] : all;
            float *x = random_floats(c.rows * c.cols, 1), *norm = random_floats(c.cols, 1),
                  *bias = random_floats(all, 1);
            float *residual = random_floats(c.rows * width, 1), *got = take(c.rows * width, 4),
                  *again = take(c.rows * width, 4);
            double *want = take(c.rows * width, sizeof *want);
            const float *const vecs[3] = {norm, bias, residual};
            linear_want(&c, x, w, norm, bias, residual, want);
            for (size_t m = 0; m < QN_COUNT(masks); m++) {
                linear_run(&c, masks[m], 1, 0, x, w, vecs, got);
                assert_near(got, want, c.rows * width, 3e-5, "linear");
                linear_run(&c, masks[m], 3, 0, x, w, vecs, again);
                assert_bits(got, again, c.rows * width, "linear, 3 threads");
                linear_run(&c, masks[m], 2, c.rows - 1, x, w, vecs, again);
                assert_bits(got + (c.rows - 1) * width, again, width, "linear, last row alone");
            }
            void *blocks[] = {w[0], w[1], w[2], x, norm, bias, residual, got, again, want};
            for (size_t i = 0; i < QN_COUNT(blocks); i++)
                qn_free(blocks[i]);
        }
}

/* ---- the cache and attention ---- */

/* Sequences and their cache; K and V of all positions are known in float32 (as the cache rounds them). */
typedef struct attn_case {
    size_t heads, kv_heads, dim, window;
    qn_dtype dtype;
    size_t n_seqs, len[MAX_SEQS];
    float *q[MAX_SEQS], *k[MAX_SEQS], *v[MAX_SEQS]; /* [len][heads * dim], [len][kv_heads * dim] */
    float *out[MAX_SEQS];                           /* [len][heads * dim] */
} attn_case;

static void attn_case_fill(attn_case *c)
{
    for (size_t s = 0; s < c->n_seqs; s++) {
        size_t qn = c->len[s] * c->heads * c->dim, kn = c->len[s] * c->kv_heads * c->dim;
        c->q[s] = random_floats(qn, 3);
        c->k[s] = random_floats(kn, 2);
        c->v[s] = random_floats(kn, 1);
        c->out[s] = take(qn, 4);
        for (size_t i = 0; i < kn && c->dtype == QN_F16; i++) {
            c->k[s][i] = qn_f16_to_f32(qn_f32_to_f16(c->k[s][i]));
            c->v[s][i] = qn_f16_to_f32(qn_f32_to_f16(c->v[s][i]));
        }
    }
}

static void attn_case_free(attn_case *c)
{
    for (size_t s = 0; s < c->n_seqs; s++) {
        qn_free(c->q[s]);
        qn_free(c->k[s]);
        qn_free(c->v[s]);
        qn_free(c->out[s]);
    }
}

/* How a case is run: which sequences, in what pieces, over which blocks. */
typedef struct attn_way {
    unsigned mask;
    int threads;
    size_t first, n; /* sequences */
    size_t step;     /* rows of a sequence in one batch; 1: of the last 40 */
    bool shuffle;    /* blocks in random order, and stale numbers in all of them */
} attn_way;

typedef struct attn_run {
    const attn_case *c;
    qn_device *d;
    qn_kv_view kv;
    uint32_t *tables;
    size_t max_blocks;
    qn_buf *rows[4]; /* q, k, v, out */
} attn_run;

/* One batch: rows [done[s], done[s] + step) of each sequence. Returns rows run. */
static size_t attn_batch(attn_run *r, const attn_way *w, size_t *done, float *const out[MAX_SEQS])
{
    const attn_case *c = r->c;
    size_t qw = c->heads * c->dim, kw = c->kv_heads * c->dim, n = 0;
    int32_t positions[MAX_ROWS];
    uint32_t begins[MAX_SEQS + 1], slots[MAX_ROWS];
    qn_err err = {0};
    const qn_backend *be = qn_backend_cpu();
    for (size_t i = 0; i < w->n; i++) {
        size_t s = w->first + i, left = c->len[s] - done[i];
        size_t m = w->step == 1 && left > 40 ? QN_MIN(left - 40, 70) : QN_MIN(w->step, left);
        m = QN_MIN(m, MAX_ROWS / w->n);
        begins[i] = (uint32_t)n;
        ok(be->upload(r->rows[0], n * qw * 4, c->q[s] + done[i] * qw, m * qw * 4, &err), &err);
        ok(be->upload(r->rows[1], n * kw * 4, c->k[s] + done[i] * kw, m * kw * 4, &err), &err);
        ok(be->upload(r->rows[2], n * kw * 4, c->v[s] + done[i] * kw, m * kw * 4, &err), &err);
        for (size_t j = 0; j < m; j++, n++) {
            size_t p = done[i] + j;
            positions[n] = (int32_t)p;
            slots[n] = r->tables[i * r->max_blocks + p / QN_KV_BLOCK] * QN_KV_BLOCK +
                       (uint32_t)(p % QN_KV_BLOCK);
        }
    }
    begins[w->n] = (uint32_t)n;
    if (n == 0)
        return 0;
    qn_batch batch = {.n_rows = (uint32_t)n,
                      .n_seqs = (uint32_t)w->n,
                      .positions = positions,
                      .row_begin = begins,
                      .slots = slots,
                      .block_tables = r->tables,
                      .max_blocks = (uint32_t)r->max_blocks};
    qn_op op = {.kind = QN_OP_KV_STORE,
                .in = {operand(r->rows[1], kw), operand(r->rows[2], kw)},
                .kv = &r->kv,
                .n_heads = (uint32_t)c->heads,
                .n_kv_heads = (uint32_t)c->kv_heads,
                .head_dim = (uint32_t)c->dim};
    run_op(r->d, &op, &batch);
    op.kind = QN_OP_ATTENTION;
    op.in[0] = operand(r->rows[0], qw);
    op.out = operand(r->rows[3], qw);
    op.window = (uint32_t)c->window;
    run_op(r->d, &op, &batch);
    for (size_t i = 0; i < w->n; i++) {
        size_t m = begins[i + 1] - begins[i];
        ok(be->download(out[i] + done[i] * qw, r->rows[3], begins[i] * qw * 4, m * qw * 4, &err),
           &err);
        done[i] += m;
    }
    return n;
}

static void attn_all(const attn_case *c, const attn_way *w, float *const out[MAX_SEQS])
{
    attn_run r = {.c = c, .d = open_device(w->mask, w->threads)};
    size_t done[MAX_SEQS] = {0}, used = 0;
    size_t block =
        qn_backend_cpu()->kv_block_bytes(c->dtype, (uint32_t)c->kv_heads, (uint32_t)c->dim);
    for (size_t i = 0; i < w->n; i++)
        r.max_blocks = QN_MAX(r.max_blocks, QN_DIV_UP(c->len[w->first + i], QN_KV_BLOCK));
    size_t n_blocks = w->n * r.max_blocks + 2, bytes = n_blocks * block;
    r.tables = take(w->n * r.max_blocks, sizeof *r.tables);
    for (size_t i = 0; i < w->n * r.max_blocks; i++)
        r.tables[i] = (uint32_t)++used;
    for (size_t i = w->n * r.max_blocks; w->shuffle && i > 1; i--) {
        size_t j = random_u32() % i;
        uint32_t t = r.tables[i - 1];
        r.tables[i - 1] = r.tables[j];
        r.tables[j] = t;
    }
    uint16_t *stale = take(bytes, 1);
    for (size_t i = 0; w->shuffle && i < bytes / 2; i++)
        stale[i] = (uint16_t)(random_u32() & 0xbbff); /* finite in both formats */
    r.kv = (qn_kv_view){.k = new_buf(r.d, stale, bytes),
                        .v = new_buf(r.d, stale, bytes),
                        .dtype = c->dtype,
                        .n_blocks = (uint32_t)n_blocks,
                        .n_kv_heads = (uint32_t)c->kv_heads,
                        .head_dim = (uint32_t)c->dim};
    for (size_t i = 0; i < 4; i++)
        r.rows[i] = new_buf(r.d, NULL, MAX_ROWS * c->heads * c->dim * 4);
    while (attn_batch(&r, w, done, out) > 0)
        continue;
    for (size_t i = 0; i < 4; i++)
        free_buf(r.rows[i]);
    free_buf(r.kv.k);
    free_buf(r.kv.v);
    qn_free(stale);
    qn_free(r.tables);
    qn_backend_cpu()->close(r.d);
}

static void attn_want(const attn_case *c, size_t s, double *want)
{
    size_t qw = c->heads * c->dim, kw = c->kv_heads * c->dim;
    double *p = take(c->len[s], sizeof *p);
    memset(want, 0, c->len[s] * qw * sizeof *want);
    for (size_t r = 0; r < c->len[s]; r++)
        for (size_t h = 0; h < c->heads; h++) {
            const float *q = c->q[s] + r * qw + h * c->dim,
                        *k = c->k[s] + h / (c->heads / c->kv_heads) * c->dim;
            const float *v = c->v[s] + h / (c->heads / c->kv_heads) * c->dim;
            size_t lo = c->window && r + 1 > c->window ? r + 1 - c->window : 0;
            double max = -INFINITY, sum = 0;
            for (size_t j = lo; j <= r; j++) {
                p[j] = dot(q, k + j * kw, c->dim) / sqrt((double)c->dim);
                max = fmax(max, p[j]);
            }
            for (size_t j = lo; j <= r; j++)
                sum += p[j] = exp(p[j] - max);
            for (size_t j = lo; j <= r; j++)
                for (size_t i = 0; i < c->dim; i++)
                    want[r * qw + h * c->dim + i] += p[j] / sum * v[j * kw + i];
        }
    qn_free(p);
}

static void test_attention(void **state)
{
    (void)state;
    static const attn_case cases[] = {
        {.heads = 4, .kv_heads = 2, .dim = 16, .dtype = QN_F16, .n_seqs = 2, .len = {70, 1}},
        {.heads = 7, .kv_heads = 1, .dim = 64, .dtype = QN_F16, .n_seqs = 1, .len = {90}},
        {.heads = 3, .kv_heads = 3, .dim = 20, .dtype = QN_F16, .n_seqs = 3, .len = {9, 64, 65}},
        {.heads = 3, .kv_heads = 3, .dim = 2, .dtype = QN_F32, .n_seqs = 2, .len = {99, 30}},
        {.heads = 10, .kv_heads = 2, .dim = 80, .dtype = QN_F32, .n_seqs = 1, .len = {70}},
        {.heads = 8,
         .kv_heads = 2,
         .dim = 128,
         .window = 50,
         .dtype = QN_F16,
         .n_seqs = 1,
         .len = {90}},
        {.heads = 2,
         .kv_heads = 1,
         .dim = 256,
         .window = 1,
         .dtype = QN_F32,
         .n_seqs = 1,
         .len = {40}},
        {.heads = 100,
         .kv_heads = 1,
         .dim = 12,
         .window = 64,
         .dtype = QN_F16,
         .n_seqs = 1,
         .len = {80}},
        {.heads = 1, .kv_heads = 1, .dim = 8, .dtype = QN_F16, .n_seqs = 1, .len = {1050}},
        {.heads = 1,
         .kv_heads = 1,
         .dim = 8,
         .window = 520,
         .dtype = QN_F16,
         .n_seqs = 1,
         .len = {1050}},
    };
    for (size_t t = 0; t < QN_COUNT(cases) * QN_COUNT(masks); t++) {
        attn_case c = cases[t / 2];
        attn_case_fill(&c);
        attn_way w = {.mask = masks[t % 2], .threads = 2, .n = c.n_seqs, .step = 64};
        attn_all(&c, &w, c.out);
        for (size_t s = 0; s < c.n_seqs; s++) {
            double *want = take(c.len[s] * c.heads * c.dim, sizeof *want);
            attn_want(&c, s, want);
            assert_near(c.out[s], want, c.len[s] * c.heads * c.dim, 4e-6, "attention");
            qn_free(want);
        }
        attn_case_free(&c);
    }
}

/* All rows of all sequences, computed in every way, are the same bits. */
static void test_attention_bits(void **state)
{
    (void)state;
    static const attn_case cases[] = {
        {.heads = 7,
         .kv_heads = 1,
         .dim = 32,
         .dtype = QN_F16,
         .n_seqs = 7,
         .len = {70, 1, 33, 64, 40, 20, 65}},
        {.heads = 6,
         .kv_heads = 3,
         .dim = 20,
         .window = 27,
         .dtype = QN_F32,
         .n_seqs = 7,
         .len = {66, 2, 63, 40, 30, 20, 12}},
        {.heads = 3,
         .kv_heads = 1,
         .dim = 6,
         .window = 520,
         .dtype = QN_F16,
         .n_seqs = 2,
         .len = {1030, 40}},
    };
    static const attn_way ways[] = {
        {.threads = 2, .step = 22},
        {.threads = 2, .step = 1, .shuffle = true},
        {.threads = 3, .step = 7, .shuffle = true},
    };
    for (size_t t = 0; t < QN_COUNT(cases) * QN_COUNT(masks); t++) {
        attn_case c = cases[t / 2];
        attn_case_fill(&c);
        float *out[MAX_SEQS];
        for (size_t s = 0; s < c.n_seqs; s++) /* each alone, in long pieces */
            attn_all(&c,
                     &(attn_way){
                         .mask = masks[t % 2], .threads = 1, .first = s, .n = 1, .step = MAX_ROWS},
                     &c.out[s]);
        for (size_t i = 0; i < QN_COUNT(ways); i++) {
            attn_way w = ways[i];
            w.mask = masks[t % 2];
            w.n = c.n_seqs;
            for (size_t s = 0; s < c.n_seqs; s++)
                out[s] = take(c.len[s] * c.heads * c.dim, 4);
            attn_all(&c, &w, out);
            for (size_t s = 0; s < c.n_seqs; s++) {
                assert_bits(out[s], c.out[s], c.len[s] * c.heads * c.dim, "attention another way");
                qn_free(out[s]);
            }
            /* one long decode alone: its chunks are shared by the threads */
            out[0] = take(c.len[0] * c.heads * c.dim, 4);
            w.n = 1;
            attn_all(&c, &w, out);
            assert_bits(out[0], c.out[0], c.len[0] * c.heads * c.dim,
                        "attention alone another way");
            qn_free(out[0]);
        }
        attn_case_free(&c);
    }
}

static void test_qkv_store(void **state)
{
    (void)state;
    for (size_t t = 0; t < 8; t++) {
        bool norm = t & 1, scaled = t & 2;
        qn_dtype dtype = t & 4 ? QN_F32 : QN_F16;
        size_t rows = 5, heads = 4, kvh = 2, dim = 24, rope = 16, width = (heads + 2 * kvh) * dim;
        qn_device *d = open_device(masks[t % 2], 2);
        float *x = random_floats(rows * width, 2), *cs = random_floats(rows * rope, 1),
              *w[2] = {random_floats(dim, 1), random_floats(dim, 1)};
        float scales[5] = {1, 2, 3, 4, 5};
        uint32_t slots[5] = {170, 3, 64, 255, 0};
        double *want = take(rows * width, sizeof *want);
        for (size_t r = 0; r < rows; r++)
            for (size_t h = 0; h < heads + 2 * kvh; h++) {
                const float *in = x + r * width + h * dim;
                double *y = want + r * width + h * dim;
                double f =
                    norm && h < heads + kvh ? 1 / sqrt(dot(in, in, dim) / (double)dim + 1e-6) : 1;
                for (size_t i = 0; i < dim; i++)
                    y[i] = in[i] * f * (norm && h < heads + kvh ? w[h >= heads][i] : 1);
                if (h < heads + kvh)
                    rotated(y, cs + r * rope, rope, false);
                for (size_t i = 0; i < dim && h < heads && scaled; i++)
                    y[i] *= scales[r];
            }
        qn_buf *in = new_buf(d, x, rows * width * 4), *v0 = new_buf(d, w[0], dim * 4),
               *v1 = new_buf(d, w[1], dim * 4);
        qn_kv_type type = qn_kv_type_of(dtype);
        size_t n_blocks = 4, tile = qn_kv_tile_bytes(type, dim), bytes = n_blocks * kvh * tile;
        qn_kv_view kv = {.k = new_buf(d, NULL, bytes),
                         .v = new_buf(d, NULL, bytes),
                         .dtype = dtype,
                         .n_blocks = (uint32_t)n_blocks,
                         .n_kv_heads = (uint32_t)kvh,
                         .head_dim = (uint32_t)dim};
        qn_op op = {.kind = QN_OP_QKV_STORE,
                    .in = {operand(in, width)},
                    .out = operand(in, width),
                    .vec = {norm ? v0 : NULL, norm ? v1 : NULL},
                    .eps = 1e-6f,
                    .n_heads = (uint32_t)heads,
                    .n_kv_heads = (uint32_t)kvh,
                    .head_dim = (uint32_t)dim,
                    .rope_dim = (uint32_t)rope,
                    .kv = &kv};
        run_op(d, &op,
               &(qn_batch){.n_rows = (uint32_t)rows,
                           .slots = slots,
                           .rope = cs,
                           .q_scale = scaled ? scales : NULL});
        float *got = take(rows * width, 4);
        read_buf(got, in, rows * width);
        for (size_t r = 0; r < rows; r++)
            assert_near(got + r * width, want + r * width, heads * dim, 1e-6, "q");
        for (size_t i = 0; i < 2; i++) {
            char *cache = take(bytes, 1);
            qn_err err = {0};
            ok(qn_backend_cpu()->download(cache, i ? kv.v : kv.k, 0, bytes, &err), &err);
            for (size_t r = 0; r < rows; r++)
                for (size_t h = 0; h < kvh; h++) {
                    size_t slot = slots[r] % QN_KV_BLOCK;
                    const void *at = cache + (slots[r] / QN_KV_BLOCK * kvh + h) * tile;
                    for (size_t j = 0; j < dim; j++) {
                        size_t e =
                            i ? qn_kv_at(type, QN_KV_TILE, slot, j) : qn_kv_at(type, dim, j, slot);
                        float y = dtype == QN_F16 ? qn_f16_to_f32(((const uint16_t *)at)[e])
                                                  : ((const float *)at)[e];
                        assert_near(&y, &want[r * width + (heads + i * kvh + h) * dim + j], 1,
                                    dtype == QN_F16 ? 5e-4 : 1e-6, "stored");
                    }
                }
            qn_free(cache);
        }
        void *blocks[] = {x, cs, w[0], w[1], want, got};
        qn_buf *bufs[] = {in, v0, v1, kv.k, kv.v};
        for (size_t i = 0; i < QN_COUNT(blocks); i++)
            qn_free(blocks[i]);
        for (size_t i = 0; i < QN_COUNT(bufs); i++)
            free_buf(bufs[i]);
        qn_backend_cpu()->close(d);
    }
}

static void test_f16_store(void **state)
{
    (void)state;
    for (size_t m = 0; m < QN_COUNT(masks); m++) {
        qn_kernels k;
        qn_kernels_init(&k, qn_cpu_flags() & masks[m]);
        float x[11] = {0, -1, 65504, 1e9f, -1e9f, INFINITY, -INFINITY, 1e-7f, 0x1p-25f, 2049, NAN};
        uint16_t y[12] = {[11] = 77};
        k.to_f16(x, 11, y);
        uint16_t want[10] = {0, 0xbc00, 0x7bff, 0x7bff, 0xfbff, 0x7bff, 0xfbff, 2, 0, 0x6800};
        assert_memory_equal(y, want, sizeof want);
        assert_true((y[10] & 0x7fff) > 0x7c00);
        assert_int_equal(y[11], 77);
    }
}

/* ---- experts ---- */

typedef struct moe_case {
    size_t rows, width, ffn, shared_ffn, n_experts, n_active;
    bool norm_topk, norm, shared, shared_router, q8; /* q8: experts in Q8_0, integer products */
    float *x, *residual, *norm_w, *router, *gate, *up, *down, *s_gate, *s_up, *s_down, *s_router;
} moe_case;

static void moe_case_fill(moe_case *c)
{
    size_t w = c->width, f = c->ffn * w * c->n_experts, s = c->shared_ffn * w;
    c->x = random_floats(c->rows * w, 1);
    c->residual = random_floats(c->rows * w, 1);
    c->norm_w = random_floats(w, 1);
    c->router = random_floats(c->n_experts * w, 0.4f);
    c->gate = random_floats(f, 0.3f);
    c->up = random_floats(f, 0.3f);
    c->down = random_floats(f, 0.3f);
    c->s_gate = random_floats(s, 0.3f);
    c->s_up = random_floats(s, 0.3f);
    c->s_down = random_floats(s, 0.3f);
    c->s_router = random_floats(w, 0.3f);
}

static void moe_case_free(moe_case *c)
{
    void *blocks[] = {c->x,    c->residual, c->norm_w, c->router, c->gate,    c->up,
                      c->down, c->s_gate,   c->s_up,   c->s_down, c->s_router};
    for (size_t i = 0; i < QN_COUNT(blocks); i++)
        qn_free(blocks[i]);
}

static void expert_want(const float *x, size_t w, size_t ffn, const float *gate, const float *up,
                        const float *down, double p, double *y)
{
    float *h = take(ffn, 4);
    for (size_t j = 0; j < ffn; j++)
        h[j] = (float)(silu(dot(x, gate + j * w, w)) * dot(x, up + j * w, w));
    for (size_t j = 0; j < w; j++)
        y[j] += p * dot(h, down + j * ffn, ffn);
    qn_free(h);
}

/* ids and weights of a row by the definition. */
static void route_want(const moe_case *c, const float *x, size_t *ids, double *weights)
{
    double *p = take(c->n_experts, sizeof *p), sum = 0, top = 0;
    for (size_t e = 0; e < c->n_experts; e++)
        sum += p[e] = exp((double)(float)dot(x, c->router + e * c->width, c->width));
    for (size_t i = 0; i < c->n_active; i++) {
        ids[i] = 0;
        for (size_t e = 1; e < c->n_experts; e++)
            if (p[e] > p[ids[i]])
                ids[i] = e;
        weights[i] = p[ids[i]] / sum;
        top += weights[i];
        p[ids[i]] = -1;
    }
    for (size_t i = 0; i < c->n_active && c->norm_topk; i++)
        weights[i] /= top;
    qn_free(p);
}

static void moe_want(const moe_case *c, double *want)
{
    size_t w = c->width, ids[16];
    double weights[16];
    float *x = take(w, 4);
    for (size_t r = 0; r < c->rows; r++) {
        const float *in = c->x + r * w;
        double f = 1 / sqrt(dot(in, in, w) / (double)w + 1e-6), *y = want + r * w;
        for (size_t i = 0; i < w; i++) {
            x[i] = c->norm ? (float)(in[i] * f * c->norm_w[i]) : in[i];
            y[i] = c->residual[r * w + i];
        }
        route_want(c, x, ids, weights);
        for (size_t i = 0; i < c->n_active; i++) {
            size_t at = ids[i] * c->ffn * w;
            expert_want(x, w, c->ffn, c->gate + at, c->up + at, c->down + at, weights[i], y);
        }
        if (c->shared) {
            double g = c->shared_router ? 1 / (1 + exp(-dot(x, c->s_router, w))) : 1;
            expert_want(x, w, c->shared_ffn, c->s_gate, c->s_up, c->s_down, g, y);
        }
    }
    qn_free(x);
}

typedef struct moe_device {
    qn_device *d;
    qn_arena q8;
    qn_experts ex;
    qn_dweight *lists[3][64];
    qn_buf *norm, *bufs[6];
} moe_device;

/* w as an expert's weight: float32, or rounded to Q8_0. */
static qn_dweight *expert_weight(moe_device *m, const moe_case *c, const float *w, size_t rows,
                                 size_t cols)
{
    if (!c->q8)
        return f32_weight(m->d, w, rows, cols);
    uint8_t *q = qn_arena_alloc(&m->q8, rows * cols / 32 * 34), *at = q;
    assert_non_null(q);
    for (size_t b = 0; b < rows * cols / 32; b++, at += 34, w += 32) {
        uint16_t d = qn_f32_to_f16(0.3f / 127);
        memcpy(at, &d, 2);
        for (size_t i = 0; i < 32; i++)
            at[2 + i] = (uint8_t)(int8_t)lrintf(w[i] * 127 / 0.3f);
    }
    qn_dweight *out;
    qn_err err = {0};
    qn_weight v = {.dtype = QN_Q8_0,
                   .rows = rows,
                   .cols = cols,
                   .total_rows = rows,
                   .data = q,
                   .stride = cols / 32 * 34};
    ok(qn_backend_cpu()->weight_new(&out, m->d, &v, false, &err), &err);
    return out;
}

static void moe_open(moe_device *m, const moe_case *c, unsigned mask, int threads)
{
    size_t w = c->width, one = c->ffn * w;
    *m = (moe_device){.d = open_device(mask, threads)};
    qn_arena_init(&m->q8, 0, QN_MEM_WEIGHTS);
    for (size_t e = 0; e < c->n_experts; e++) {
        m->lists[0][e] = expert_weight(m, c, c->gate + e * one, c->ffn, w);
        m->lists[1][e] = expert_weight(m, c, c->up + e * one, c->ffn, w);
        m->lists[2][e] = expert_weight(m, c, c->down + e * one, w, c->ffn);
    }
    m->ex = (qn_experts){.n_experts = (uint32_t)c->n_experts,
                         .n_active = (uint32_t)c->n_active,
                         .norm_topk = c->norm_topk,
                         .ffn_size = (uint32_t)c->ffn,
                         .gate = m->lists[0],
                         .up = m->lists[1],
                         .down = m->lists[2],
                         .router = f32_weight(m->d, c->router, c->n_experts, w)};
    if (c->shared) {
        m->ex.shared_gate = expert_weight(m, c, c->s_gate, c->shared_ffn, w);
        m->ex.shared_up = expert_weight(m, c, c->s_up, c->shared_ffn, w);
        m->ex.shared_down = expert_weight(m, c, c->s_down, w, c->shared_ffn);
        m->ex.shared_router = c->shared_router ? f32_weight(m->d, c->s_router, 1, w) : NULL;
        m->ex.shared_ffn_size = (uint32_t)c->shared_ffn;
    }
    m->norm = new_buf(m->d, c->norm_w, w * 4);
    for (size_t i = 0; i < QN_COUNT(m->bufs); i++)
        m->bufs[i] = new_buf(m->d, NULL, MAX_ROWS * QN_MAX(w, c->shared_ffn) * 4);
}

static void moe_close(moe_device *m, const moe_case *c)
{
    void (*drop)(qn_dweight *) = qn_backend_cpu()->weight_free;
    for (size_t e = 0; e < c->n_experts; e++)
        for (size_t i = 0; i < 3; i++)
            drop(m->lists[i][e]);
    qn_dweight *shared[] = {m->ex.router, m->ex.shared_gate, m->ex.shared_up, m->ex.shared_down,
                            m->ex.shared_router};
    for (size_t i = 0; i < QN_COUNT(shared); i++)
        drop(shared[i]);
    free_buf(m->norm);
    for (size_t i = 0; i < QN_COUNT(m->bufs); i++)
        free_buf(m->bufs[i]);
    qn_backend_cpu()->close(m->d);
    qn_arena_fini(&m->q8);
}

/* The one operation over rows [first, first + n); out may be the residual. */
static void moe_run(const moe_case *c, unsigned mask, int threads, size_t first, size_t n,
                    float *got)
{
    moe_device m;
    moe_open(&m, c, mask, threads);
    size_t w = c->width;
    qn_err err = {0};
    ok(qn_backend_cpu()->upload(m.bufs[0], 0, c->x + first * w, n * w * 4, &err), &err);
    ok(qn_backend_cpu()->upload(m.bufs[1], 0, c->residual + first * w, n * w * 4, &err), &err);
    qn_op op = {.kind = QN_OP_MOE,
                .fuse = c->norm ? QN_FUSE_NORM : 0,
                .in = {operand(m.bufs[0], w), operand(m.bufs[1], w)},
                .out = operand(m.bufs[threads == 2 ? 1 : 2], w),
                .vec = {m.norm},
                .eps = 1e-6f,
                .experts = &m.ex};
    run_op(m.d, &op, &(qn_batch){.n_rows = (uint32_t)n});
    read_buf(got, op.out.buf, n * w);
    moe_close(&m, c);
}

/* RMSNORM, ROUTE, EXPERTS, gate up SILU_MUL down, SHARED_GATE, ADD. */
static void moe_plain(const moe_case *c, unsigned mask, float *got)
{
    moe_device m;
    moe_open(&m, c, mask, 2);
    size_t w = c->width;
    qn_err err = {0};
    qn_batch batch = {.n_rows = (uint32_t)c->rows};
    ok(qn_backend_cpu()->upload(m.bufs[0], 0, c->x, c->rows * w * 4, &err), &err);
    ok(qn_backend_cpu()->upload(m.bufs[1], 0, c->residual, c->rows * w * 4, &err), &err);
    qn_op op = {.kind = QN_OP_RMSNORM,
                .in = {operand(m.bufs[0], w)},
                .out = operand(m.bufs[2], w),
                .vec = {m.norm},
                .eps = 1e-6f,
                .norm_size = (uint32_t)w};
    if (c->norm)
        run_op(m.d, &op, &batch);
    qn_operand x = c->norm ? op.out : op.in[0], route = operand(m.bufs[3], 2 * c->n_active),
               sum = operand(m.bufs[4], w);
    op = (qn_op){.kind = QN_OP_ROUTE,
                 .in = {x},
                 .out = route,
                 .w = {m.ex.router},
                 .n_w = 1,
                 .experts = &m.ex};
    run_op(m.d, &op, &batch);
    op = (qn_op){.kind = QN_OP_EXPERTS, .in = {x, route}, .out = sum, .experts = &m.ex};
    run_op(m.d, &op, &batch);
    if (c->shared) {
        qn_operand h = operand(m.bufs[3], c->shared_ffn), y = operand(m.bufs[5], w);
        op = (qn_op){.kind = QN_OP_LINEAR,
                     .fuse = QN_FUSE_SILU_MUL,
                     .in = {x},
                     .out = h,
                     .w = {m.ex.shared_gate, m.ex.shared_up},
                     .n_w = 2};
        run_op(m.d, &op, &batch);
        op = (qn_op){.kind = QN_OP_LINEAR, .in = {h}, .out = y, .w = {m.ex.shared_down}, .n_w = 1};
        run_op(m.d, &op, &batch);
        op = (qn_op){.kind = QN_OP_SHARED_GATE,
                     .in = {sum, x, y},
                     .out = sum,
                     .w = {m.ex.shared_router},
                     .n_w = c->shared_router};
        run_op(m.d, &op, &batch);
    }
    op = (qn_op){
        .kind = QN_OP_ADD, .in = {operand(m.bufs[1], w), sum}, .out = operand(m.bufs[1], w)};
    run_op(m.d, &op, &batch);
    read_buf(got, m.bufs[1], c->rows * w);
    moe_close(&m, c);
}

static void test_moe(void **state)
{
    (void)state;
    static const moe_case cases[] = {
        {.rows = 9,
         .width = 64,
         .ffn = 32,
         .shared_ffn = 56,
         .n_experts = 6,
         .n_active = 2,
         .norm = true,
         .shared = true,
         .shared_router = true},
        {.rows = 40,
         .width = 48,
         .ffn = 24,
         .n_experts = 9,
         .n_active = 4,
         .norm_topk = true,
         .norm = true},
        {.rows = 1,
         .width = 64,
         .ffn = 40,
         .shared_ffn = 100,
         .n_experts = 8,
         .n_active = 4,
         .shared = true},
        {.rows = 150,
         .width = 40,
         .ffn = 20,
         .shared_ffn = 20,
         .n_experts = 5,
         .n_active = 5,
         .norm_topk = true,
         .shared = true,
         .shared_router = true},
        {.rows = 150, /* blocks of rows, and experts of one row */
         .width = 64,
         .ffn = 96,
         .shared_ffn = 160,
         .n_experts = 60,
         .n_active = 3,
         .norm = true,
         .shared = true,
         .shared_router = true,
         .q8 = true},
        {.rows = 3,
         .width = 96,
         .ffn = 32,
         .n_experts = 4,
         .n_active = 2,
         .norm = true,
         .q8 = true},
        {.rows = 300, .width = 64, .ffn = 64, .n_experts = 2, .n_active = 2, .q8 = true},
    };
    for (size_t t = 0; t < QN_COUNT(cases) * QN_COUNT(masks); t++) {
        moe_case c = cases[t / 2];
        unsigned mask = masks[t % 2];
        moe_case_fill(&c);
        size_t n = c.rows * c.width;
        float *got = take(n, 4), *again = take(n, 4);
        double *want = take(n, sizeof *want);
        moe_want(&c, want);
        moe_run(&c, mask, 1, 0, c.rows, got);
        assert_near(got, want, n, c.q8 ? 0.05 : 3e-5, "moe");
        moe_run(&c, mask, 3, 0, c.rows, again);
        assert_bits(got, again, n, "moe, 3 threads");
        moe_plain(&c, mask, again);
        assert_bits(got, again, n, "moe in single operations");
        for (size_t r = 0; r < QN_MIN(c.rows, 12); r++)
            moe_run(&c, mask, 2, r, 1, again + r * c.width);
        assert_bits(got, again, QN_MIN(c.rows, 12) * c.width, "moe, rows alone");
        qn_free(got);
        qn_free(again);
        qn_free(want);
        moe_case_free(&c);
    }
}

static void test_route(void **state)
{
    (void)state;
    moe_case c = {.rows = 21, .width = 24, .n_experts = 13, .n_active = 5};
    c.x = random_floats(c.rows * c.width, 1);
    c.router = random_floats(c.n_experts * c.width, 1);
    memcpy(c.router + 7 * c.width, c.router + 2 * c.width, c.width * 4); /* ties */
    memcpy(c.router + 9 * c.width, c.router + 2 * c.width, c.width * 4);
    for (size_t t = 0; t < 4; t++) {
        c.norm_topk = t / 2;
        qn_device *d = open_device(masks[t % 2], 2);
        qn_experts ex = {.n_experts = 13, .n_active = 5, .norm_topk = c.norm_topk};
        qn_buf *in = new_buf(d, c.x, c.rows * c.width * 4),
               *out = new_buf(d, NULL, c.rows * 10 * 4);
        qn_dweight *w = f32_weight(d, c.router, c.n_experts, c.width);
        qn_op op = {.kind = QN_OP_ROUTE,
                    .in = {operand(in, c.width)},
                    .out = operand(out, 10),
                    .w = {w},
                    .n_w = 1,
                    .experts = &ex};
        run_op(d, &op, &(qn_batch){.n_rows = (uint32_t)c.rows});
        float got[21 * 10];
        read_buf(got, out, c.rows * 10);
        for (size_t r = 0; r < c.rows; r++) {
            size_t ids[5];
            double weights[5];
            route_want(&c, c.x + r * c.width, ids, weights);
            for (size_t i = 0; i < 5; i++) {
                int32_t id;
                memcpy(&id, &got[r * 10 + i], 4);
                assert_int_equal(id, ids[i]);
            }
            assert_near(got + r * 10 + 5, weights, 5, 1e-6, "route");
        }
        qn_backend_cpu()->weight_free(w);
        free_buf(in);
        free_buf(out);
        qn_backend_cpu()->close(d);
    }
    qn_free(c.x);
    qn_free(c.router);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device),    cmocka_unit_test(test_simple),
        cmocka_unit_test(test_embed),     cmocka_unit_test(test_rope),
        cmocka_unit_test(test_exp),       cmocka_unit_test(test_f16_store),
        cmocka_unit_test(test_linear),    cmocka_unit_test(test_qkv_store),
        cmocka_unit_test(test_attention), cmocka_unit_test(test_attention_bits),
        cmocka_unit_test(test_route),     cmocka_unit_test(test_moe),
    };
    if (qn_cpu_flags() == 0)
        puts("skipped: fast kernels (this CPU has none of their instruction sets)");
    return cmocka_run_group_tests_name("cpu_backend", tests, NULL, NULL);
}
