/* SPDX-License-Identifier: Apache-2.0
 * matmul.c - weights, prepared activations and the drivers of both arithmetics.
 *
 *   integer   panels of 16 rows (pack.h) stand in one allocation; one row of activations: mm_gemv; more: mm_gemm panel by panel
 *   float32   the stored weight is borrowed; tiles of rows are decoded into the thread's scratch and multiplied there. F32 needs no
 *             tile, and for one row F16 and BF16 need none either
 *
 * Activations, for the largest set asked for at init:  f32 [rows][cols rounded up to 8, zeros];
 * int8 qn_act4 [rows / 4][cols / 32], lanes past the last row zero, or qn_act1 [cols / 32] for a set of one row.
 * Threads: as matmul.h says; each thread writes only its rows of qn_acts and its own scratch. */
#include "backend/cpu/matmul.h"

#include <string.h>

#include "base/mem.h"

enum {
    TILE_FLOATS = 32 * 1024, /* of decoded rows: 128 KiB, in the second-level cache */
    TILE_MIN_ROWS = 4,
    CHUNK_QUADS = 32 /* rows of activations of one mm_gemm call, by 4: bounds its output */
};

struct qn_dweight {
    qn_mm_kind kind;
    qn_pack pack;
    qn_weight view;        /* as stored; memory borrowed */
    const uint8_t *panels; /* integer: own, or of a packed file */
    uint8_t *own;
    size_t panel_bytes;
};

/* ---- weights ---- */

static size_t n_panels(const qn_weight *w)
{
    return QN_DIV_UP(w->rows, (size_t)QN_PACK_ROWS);
}

typedef struct pack_job {
    const qn_weight *w;
    qn_pack pack;
    size_t panel_bytes;
    uint8_t *out;
} pack_job;

static void pack_panels(void *arg, int thread, int n_threads)
{
    const pack_job *j = arg;
    size_t begin, end;
    qn_team_split(n_panels(j->w), 1, thread, n_threads, &begin, &end);
    for (size_t i = begin; i < end; i++)
        qn_pack_panel(j->w, j->pack, i, j->out + i * j->panel_bytes);
}

bool qn_dweight_form(const qn_weight *w, uint32_t *form, size_t *bytes)
{
    qn_pack p;
    if (!qn_pack_choose(w, &p))
        return false;
    *form = (uint32_t)p;
    *bytes = n_panels(w) * qn_pack_panel_bytes(p, w->cols);
    return true;
}

void qn_dweight_pack(qn_team *team, const qn_weight *w, qn_pack pack, void *out)
{
    pack_job j = {w, pack, qn_pack_panel_bytes(pack, w->cols), out};
    if (team)
        qn_team_run(team, pack_panels, &j);
    else
        pack_panels(&j, 0, 1);
}

/* Panels from a packed file: any bytes will do, as many as the kernels read. */
static qn_status take_packed(qn_dweight *d, qn_err *err)
{
    const qn_weight *w = &d->view;
    size_t unit, want = 0;
    if (w->packed_form < QN_N_PACKS) {
        d->pack = (qn_pack)w->packed_form;
        unit = 32 * qn_scales_blocks(qn_packs[d->pack].scales);
        d->panel_bytes = w->cols % unit ? 0 : qn_pack_panel_bytes(d->pack, w->cols);
        want = n_panels(w) * d->panel_bytes;
    }
    if (!want || want != w->packed_bytes)
        return qn_fail(err, QN_E_FORMAT, "packed matrix [%zu, %zu] of form %u: %zu bytes, want %zu",
                       w->rows, w->cols, w->packed_form, w->packed_bytes, want);
    d->kind = QN_MM_INT;
    d->panels = w->packed;
    return QN_OK;
}

static qn_status make_panels(qn_dweight *d, qn_team *team, qn_err *err)
{
    d->kind = QN_MM_INT;
    d->panel_bytes = qn_pack_panel_bytes(d->pack, d->view.cols);
    d->own = qn_alloc_array(n_panels(&d->view), d->panel_bytes, QN_MEM_WEIGHTS);
    if (!d->own)
        return qn_fail_nomem(err, qn_dweight_bytes(d));
    d->panels = d->own;
    qn_dweight_pack(team, &d->view, d->pack, d->own);
    return QN_OK;
}

qn_status qn_dweight_new(qn_dweight **out, qn_team *team, const qn_weight *w, bool exact,
                         qn_err *err)
{
    *out = NULL;
    qn_dweight *d = qn_calloc(1, sizeof *d, QN_MEM_WEIGHTS);
    if (!d)
        return qn_fail_nomem(err, sizeof *d);
    d->view = *w;
    qn_status s = QN_OK;
    if (!exact && w->packed)
        s = take_packed(d, err);
    else if (!exact && qn_pack_choose(w, &d->pack))
        s = make_panels(d, team, err);
    if (s != QN_OK) {
        qn_dweight_free(d);
        return s;
    }
    *out = d;
    return QN_OK;
}

void qn_dweight_move(qn_dweight *w, const void *packed)
{
    QN_ASSERT(w->kind == QN_MM_INT && !w->own);
    w->panels = packed;
}

void qn_dweight_free(qn_dweight *w)
{
    if (!w)
        return;
    qn_free(w->own);
    qn_free(w);
}

qn_mm_kind qn_dweight_kind(const qn_dweight *w)
{
    return w->kind;
}

size_t qn_dweight_rows(const qn_dweight *w)
{
    return w->view.rows;
}

size_t qn_dweight_cols(const qn_dweight *w)
{
    return w->view.cols;
}

size_t qn_dweight_bytes(const qn_dweight *w)
{
    if (w->kind == QN_MM_F32)
        return qn_weight_bytes(&w->view);
    return n_panels(&w->view) * w->panel_bytes;
}

bool qn_dweight_is_borrowed(const qn_dweight *w)
{
    return !w->own;
}

size_t qn_dweight_row_step(const qn_dweight *w)
{
    return w->kind == QN_MM_INT ? QN_PACK_ROWS : TILE_MIN_ROWS;
}

/* From the panels where they say the same: the file's pages then need not come back. */
void qn_dweight_row(const qn_dweight *w, size_t row, float *out)
{
    qn_dtype t = w->view.dtype;
    if (w->kind == QN_MM_INT && t != QN_GPTQ4 && t != QN_GPTQ8 && t != QN_AWQ4)
        qn_pack_row(w->pack, w->panels + row / QN_PACK_ROWS * w->panel_bytes, row % QN_PACK_ROWS,
                    w->view.cols, out);
    else
        qn_weight_decode(&w->view, row, 1, out);
}

/* ---- activations ---- */

/* Zero columns after the end, so that kernels may read whole vectors. */
static size_t padded(size_t cols)
{
    return QN_ROUND_UP(cols, (size_t)8);
}

qn_status qn_acts_new(qn_acts **out, size_t max_rows, size_t max_cols, unsigned kinds,
                      int n_threads, qn_err *err)
{
    *out = NULL;
    qn_acts *a = qn_calloc(1, sizeof *a, QN_MEM_ACTIVATIONS);
    if (!a)
        return qn_fail_nomem(err, sizeof *a);
    size_t pad, quads = QN_DIV_UP(max_rows, (size_t)4), n_f32, n_i8, bytes = 0, tile;
    if (!qn_add_size(max_cols, 31, &pad) || !qn_mul_size(quads * 4, pad, &n_f32) ||
        !qn_mul_size(quads, pad / 32, &n_i8) ||
        !qn_mul_size(pad, TILE_MIN_ROWS * sizeof(float), &tile))
        goto fail;
    a->max_rows = max_rows;
    a->max_cols = max_cols;
    a->max_kinds = kinds;
    a->n_threads = n_threads;
    n_f32 = kinds & 1u << QN_MM_F32 ? n_f32 : 0;
    n_i8 = kinds & 1u << QN_MM_INT ? n_i8 : 0;
    /* One thread's scratch: decoded rows, or unpacked panel and the results of one mm_gemm. */
    tile = QN_MAX(tile, TILE_FLOATS * sizeof(float));
    a->scratch_bytes = QN_ROUND_UP(
        QN_MAX(tile, QN_MM_SCRATCH + CHUNK_QUADS * 4 * QN_PACK_ROWS * sizeof(float)), (size_t)64);
    bytes = n_f32 * sizeof(float) + n_i8 * sizeof(qn_act4) + (size_t)n_threads * a->scratch_bytes;
    a->f32 = n_f32 ? qn_alloc_array(n_f32, sizeof(float), QN_MEM_ACTIVATIONS) : NULL;
    a->i8 = n_i8 ? qn_alloc_array(n_i8, sizeof(qn_act4), QN_MEM_ACTIVATIONS) : NULL;
    a->scratch = qn_alloc_array((size_t)n_threads, a->scratch_bytes, QN_MEM_ACTIVATIONS);
    if ((n_f32 && !a->f32) || (n_i8 && !a->i8) || !a->scratch)
        goto fail;
    *out = a;
    return QN_OK;
fail:
    qn_acts_free(a);
    return qn_fail_nomem(err, bytes);
}

void qn_acts_free(qn_acts *a)
{
    if (!a)
        return;
    qn_free(a->f32);
    qn_free(a->i8);
    qn_free(a->scratch);
    qn_free(a);
}

void qn_acts_begin(qn_acts *a, size_t rows, size_t cols, unsigned kinds)
{
    QN_ASSERT(rows <= a->max_rows && cols <= a->max_cols && (kinds & ~a->max_kinds) == 0);
    a->rows = rows;
    a->cols = cols;
    a->kinds = kinds;
    a->lanes = rows == 1 ? 1 : 4;
    if (cols % 32 != 0) /* no weight of this width has panels */
        a->kinds &= ~(1u << QN_MM_INT);
}

/* The blocks of the 4 rows (or the one) that row r lies among. */
static void *row_blocks(const qn_acts *a, size_t r)
{
    return (qn_act4 *)a->i8 + r / 4 * (a->cols / 32);
}

void qn_acts_put_columns(const qn_acts *a, const qn_kernels *k, size_t row, size_t begin,
                         size_t end, const float *x)
{
    size_t pad = padded(a->cols), first = begin / 32, n_blocks = (end - begin) / 32;
    if (a->kinds & 1u << QN_MM_F32) {
        float *to = a->f32 + row * pad;
        memcpy(to + begin, x, (end - begin) * sizeof *x);
        if (end == a->cols)
            memset(to + end, 0, (pad - end) * sizeof *x);
    }
    if (!(a->kinds & 1u << QN_MM_INT))
        return;
    if (a->lanes == 1) {
        k->mm_quantise(x, n_blocks, 1, 0, (qn_act1 *)row_blocks(a, row) + first);
        return;
    }
    qn_act4 *quad = (qn_act4 *)row_blocks(a, row) + first;
    if (row % 4 == 0 && row + 4 > a->rows)
        memset(quad, 0, n_blocks * sizeof *quad);
    k->mm_quantise(x, n_blocks, 4, (int)(row % 4), quad);
}

void qn_acts_put(qn_acts *a, const qn_kernels *k, size_t begin, size_t end, const float *src,
                 size_t stride, const uint32_t *index)
{
    for (size_t r = begin; r < end; r++)
        qn_acts_put_columns(a, k, r, 0, a->cols, src + (index ? index[r] : r) * stride);
}

qn_acts qn_acts_part(const qn_acts *a, size_t first, size_t rows)
{
    QN_ASSERT(first % QN_ACTS_ROW_STEP == 0 && first + rows <= a->max_rows);
    qn_acts p = *a;
    p.max_rows = p.rows = rows;
    p.max_cols = a->cols;
    if (a->kinds & 1u << QN_MM_F32)
        p.f32 = a->f32 + first * padded(a->cols);
    if (a->kinds & 1u << QN_MM_INT)
        p.i8 = row_blocks(a, first);
    return p;
}

static void copy_lane(const qn_act4 *from, size_t f, qn_act4 *to, size_t t)
{
    to->d[t] = from->d[f];
    to->s[t] = from->s[f];
    memcpy(to->h[t], from->h[f], sizeof to->h[t]);
    for (size_t g = 0; g < 8; g++)
        memcpy(to->q[g][t], from->q[g][f], sizeof to->q[g][t]);
}

static void copy_to_one(const qn_act4 *from, size_t f, qn_act1 *to)
{
    to->d = from->d[f];
    to->s = from->s[f];
    memcpy(to->h, from->h[f], sizeof to->h);
    for (size_t g = 0; g < 8; g++)
        memcpy(to->q[g], from->q[g][f], sizeof to->q[g]);
}

static void gather_int(const qn_acts *a, const qn_acts *src, size_t r, size_t from)
{
    size_t n = a->cols / 32;
    const qn_act4 *in = row_blocks(src, from);
    qn_act4 *out = row_blocks(a, r);
    if (a->lanes == 4 && r % 4 == 0 && r + 4 > a->rows)
        memset(out, 0, n * sizeof *out);
    if (src->lanes == 1)
        memcpy(out, in, n * sizeof(qn_act1));
    for (size_t b = 0; b < n && src->lanes == 4; b++) {
        if (a->lanes == 1)
            copy_to_one(&in[b], from % 4, (qn_act1 *)out + b);
        else
            copy_lane(&in[b], from % 4, &out[b], r % 4);
    }
}

void qn_acts_gather(const qn_acts *a, const qn_acts *src, const uint32_t *index)
{
    size_t pad = padded(a->cols);
    QN_ASSERT(a->cols == src->cols && (a->kinds & ~src->kinds) == 0 &&
              (src->lanes == 4 || a->lanes == 1));
    for (size_t r = 0; r < a->rows; r++) {
        if (a->kinds & 1u << QN_MM_F32)
            memcpy(a->f32 + r * pad, src->f32 + index[r] * pad, pad * sizeof *a->f32);
        if (a->kinds & 1u << QN_MM_INT)
            gather_int(a, src, r, index[r]);
    }
}

/* ---- integer driver ---- */

static void copy_columns(const float *c, size_t n_rows, size_t n_cols, float *y, size_t y_stride)
{
    for (size_t t = 0; t < n_rows; t++)
        memcpy(y + t * y_stride, c + t * QN_PACK_ROWS, n_cols * sizeof *y);
}

static void matmul_int(const qn_kernels *k, const qn_dweight *w, const qn_acts *a, size_t begin,
                       size_t end, float *y, size_t y_stride, uint8_t *scratch)
{
    size_t n_blocks = a->cols / 32;
    const uint8_t *panel = w->panels + begin / QN_PACK_ROWS * w->panel_bytes;
    if (a->lanes == 1) {
        size_t whole = (end - begin) / QN_PACK_ROWS;
        k->mm_gemv[w->pack](panel, whole, n_blocks, a->i8, y + begin);
        begin += whole * QN_PACK_ROWS;
        if (begin < end) {
            float last[QN_PACK_ROWS];
            k->mm_gemv[w->pack](panel + whole * w->panel_bytes, 1, n_blocks, a->i8, last);
            memcpy(y + begin, last, (end - begin) * sizeof *y);
        }
        return;
    }
    float *c = (float *)(scratch + QN_MM_SCRATCH);
    for (; begin < end; begin += QN_PACK_ROWS, panel += w->panel_bytes)
        for (size_t t = 0; t < a->rows; t += CHUNK_QUADS * 4) {
            size_t n = QN_MIN(a->rows - t, (size_t)CHUNK_QUADS * 4);
            const qn_act4 *quads = (const qn_act4 *)a->i8 + t / 4 * n_blocks;
            k->mm_gemm[w->pack](panel, n_blocks, quads, QN_DIV_UP(n, (size_t)4), c, scratch);
            copy_columns(c, n, QN_MIN(end - begin, (size_t)QN_PACK_ROWS), y + t * y_stride + begin,
                         y_stride);
        }
}

/* ---- float driver ---- */

/* Rows [row, row + n) of w in float32, `stride` floats apart. */
static void decode_rows(const qn_kernels *k, const qn_weight *w, size_t row, size_t n, float *out,
                        size_t stride)
{
    if (k->mm_decode[w->dtype]) {
        for (size_t i = 0; i < n; i++)
            k->mm_decode[w->dtype]((const uint8_t *)w->data + (row + i) * w->stride, w->cols,
                                   out + i * stride);
    } else if (stride == w->cols) {
        qn_weight_decode(w, row, n, out);
    } else {
        for (size_t i = 0; i < n; i++)
            qn_weight_decode(w, row + i, 1, out + i * stride);
    }
}

static void matmul_f32(const qn_kernels *k, const qn_dweight *w, const qn_acts *a, size_t begin,
                       size_t end, float *y, size_t y_stride, float *tile)
{
    const qn_weight *v = &w->view;
    size_t pad = padded(a->cols),
           n_tile = QN_MAX(TILE_FLOATS / pad / TILE_MIN_ROWS, (size_t)1) * TILE_MIN_ROWS;
    if (a->rows == 1 && k->mm_dot[v->dtype]) {
        const uint8_t *rows = (const uint8_t *)v->data + begin * v->stride;
        k->mm_dot[v->dtype](rows, v->stride, end - begin, a->f32, a->cols, y + begin);
        return;
    }
    bool is_direct = v->dtype == QN_F32 && ((uintptr_t)v->data | v->stride) % sizeof(float) == 0;
    qn_mm_f32 p = {.w = tile,
                   .x = a->f32,
                   .w_stride = pad,
                   .x_stride = pad,
                   .n_tokens = a->rows,
                   .cols = a->cols,
                   .y_stride = y_stride};
    for (size_t r = begin; r < end; r += p.n_rows) {
        p.n_rows = QN_MIN(n_tile, end - r);
        p.y = y + r;
        if (is_direct) {
            p.w = (const float *)((const uint8_t *)v->data + r * v->stride);
            p.w_stride = v->stride / sizeof(float);
        } else {
            decode_rows(k, v, r, p.n_rows, tile, pad);
        }
        k->mm_f32(&p);
    }
}

void qn_matmul(const qn_kernels *k, const qn_dweight *w, const qn_acts *a, size_t begin, size_t end,
               float *y, size_t y_stride, int thread)
{
    QN_ASSERT(a->cols == w->view.cols && end <= w->view.rows && (a->kinds & 1u << w->kind) &&
              thread < a->n_threads);
    QN_ASSERT(begin % qn_dweight_row_step(w) == 0);
    uint8_t *scratch = a->scratch + (size_t)thread * a->scratch_bytes;
    if (begin >= end || a->rows == 0)
        return;
    if (w->kind == QN_MM_INT)
        matmul_int(k, w, a, begin, end, y, y_stride, scratch);
    else
        matmul_f32(k, w, a, begin, end, y, y_stride, (float *)scratch);
}
