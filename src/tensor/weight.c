/* SPDX-License-Identifier: Apache-2.0
 * weight.c - what every stored form of a weight matrix means, in float32.
 *
 * Callers ask for tiles of a few rows. GPTQ and AWQ store the matrix transposed, a row of ours
 * being a column of theirs, so those decoders walk the stored rows and write one word's worth of
 * columns to all rows of the tile: each cache line of the file is read once. */
#include "tensor/weight.h"

#include "tensor/fp.h"
#include "tensor/qblock.h"

/* Element i of a scale table of dtype F32, F16 or BF16. */
static float scale_at(const void *p, qn_dtype dtype, size_t i)
{
    if (dtype == QN_F32)
        return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return dtype == QN_F16 ? qn_f16_to_f32(h) : qn_bf16_to_f32(h);
}

/* ---- GPTQ and AWQ: a tile of rows, which are columns of the stored matrix ---- */

#define TILE 16 /* rows */
#define STEP 8 /* columns computed before they are written: rows may lie a multiple of 4096 apart */

/* Scale and zero of one group for the rows of a tile. */
typedef struct tile {
    float scale[TILE];
    int32_t zero[TILE];
} tile;

/* Bit of row o in the words of AWQ: the order 0,2,4,6,1,3,5,7. */
static unsigned awq_shift(size_t o)
{
    return (unsigned)(o % 8 / 2 * 4 + o % 2 * 16);
}

static void load_tile(const qn_weight *w, unsigned bits, size_t g, size_t first, size_t n, tile *t)
{
    size_t per_word = 32 / bits, bytes = qn_dtype_get(w->scale_dtype)->block_bytes;
    const uint32_t *zeros = w->zero;
    uint32_t mask = (1u << bits) - 1;
    qn_qblock_decode(w->scale_dtype,
                     (const uint8_t *)w->scale + (g * w->total_rows + first) * bytes, n, t->scale);
    for (size_t r = 0; r < n; r++) {
        size_t o = first + r;
        unsigned shift = w->dtype == QN_AWQ4 ? awq_shift(o) : (unsigned)(o % per_word) * bits;
        t->zero[r] = 1 << (bits - 1);
        if (zeros)
            t->zero[r] =
                (int32_t)((zeros[g * (w->total_rows / per_word) + o / per_word] >> shift & mask) +
                          w->zero_offset);
    }
}

/* The codes of one column. */
static void load_codes(const qn_weight *w, unsigned bits, size_t col, size_t first, size_t n,
                       int32_t *out)
{
    const uint32_t *q = w->data;
    uint32_t mask = (1u << bits) - 1;
    if (w->dtype == QN_AWQ4) { /* [cols, total_rows / 8]: a word holds eight rows */
        const uint32_t *words = q + col * (w->total_rows / 8);
        for (size_t r = 0; r < n; r++)
            out[r] = (int32_t)(words[(first + r) / 8] >> awq_shift(first + r) & mask);
    } else { /* [cols / per_word, total_rows]: a word holds per_word columns */
        size_t per_word = 32 / bits;
        const uint32_t *words = q + col / per_word * w->total_rows + first;
        unsigned shift = (unsigned)(col % per_word) * bits;
        for (size_t r = 0; r < n; r++)
            out[r] = (int32_t)(words[r] >> shift & mask);
    }
}

/* n <= TILE rows from stored row `first`. */
static void decode_tile(const qn_weight *w, unsigned bits, size_t first, size_t n, float *out)
{
    size_t loaded = SIZE_MAX;
    int32_t q[TILE];
    float values[STEP][TILE];
    tile t;
    for (size_t col = 0; col < w->cols; col += STEP) {
        size_t m = QN_MIN(STEP, w->cols - col);
        for (size_t k = 0; k < m; k++) {
            size_t g = w->group_index ? (size_t)w->group_index[col + k] : (col + k) / w->group;
            if (g != loaded)
                load_tile(w, bits, loaded = g, first, n, &t);
            load_codes(w, bits, col + k, first, n, q);
            for (size_t r = 0; r < n; r++)
                values[k][r] = t.scale[r] * (float)(q[r] - t.zero[r]);
        }
        for (size_t r = 0; r < n; r++)
            for (size_t k = 0; k < m; k++)
                out[r * w->cols + col + k] = values[k][r];
    }
}

static void decode_packed(const qn_weight *w, unsigned bits, size_t row, size_t n, float *out)
{
    for (size_t r = 0; r < n; r += TILE)
        decode_tile(w, bits, w->row0 + row + r, QN_MIN(n - r, TILE), out + r * w->cols);
}

/* ---- NF4: groups of 64 over the row-major matrix, the first element in the high nibble ---- */

static float nf4_absmax(const qn_weight *w, size_t i)
{
    if (!w->nested_code)
        return scale_at(w->scale, w->scale_dtype, i);
    float v = w->nested_code[((const uint8_t *)w->scale)[i]];
    return v * w->nested_scale[i / w->nested_group] + w->nested_offset;
}

static void decode_nf4(const qn_weight *w, size_t row, size_t n, float *out)
{
    const uint8_t *q = w->data;
    size_t at = (w->row0 + row) * w->cols, end = at + n * w->cols;
    while (at < end) {
        size_t group = at / w->group, stop = QN_MIN((group + 1) * w->group, end);
        float absmax = nf4_absmax(w, group);
        for (; at < stop; at++)
            *out++ = w->code[at % 2 ? q[at / 2] & 15 : q[at / 2] >> 4] * absmax;
    }
}

/* ---- FP8: one scale for a block of block_rows x group ---- */

static void decode_fp8(const qn_weight *w, size_t row, size_t n, float *out)
{
    size_t blocks = QN_DIV_UP(w->cols, w->group);
    for (size_t r = 0; r < n; r++, out += w->cols) {
        const uint8_t *q = (const uint8_t *)w->data + (row + r) * w->stride;
        size_t block_row = (w->row0 + row + r) / w->block_rows;
        qn_qblock_decode(QN_F8_E4M3, q, w->cols, out);
        for (size_t col = 0; col < w->cols;) {
            float s = scale_at(w->scale, w->scale_dtype, block_row * blocks + col / w->group);
            size_t stop = QN_MIN((col / w->group + 1) * w->group, w->cols);
            for (; col < stop; col++)
                out[col] *= s;
        }
    }
}

void qn_weight_decode(const qn_weight *w, size_t row, size_t n, float *out)
{
    QN_ASSERT(row <= w->rows && n <= w->rows - row);
    switch (w->dtype) {
    case QN_GPTQ4:
    case QN_AWQ4:
        decode_packed(w, 4, row, n, out);
        return;
    case QN_GPTQ8:
        decode_packed(w, 8, row, n, out);
        return;
    case QN_NF4:
        decode_nf4(w, row, n, out);
        return;
    case QN_F8_E4M3:
        decode_fp8(w, row, n, out);
        return;
    default:
        for (size_t r = 0; r < n; r++)
            qn_qblock_decode(w->dtype, (const uint8_t *)w->data + (row + r) * w->stride, w->cols,
                             out + r * w->cols);
    }
}

/* True for the forms whose data pointer stays at the whole matrix while row0 moves. */
static bool is_packed(qn_dtype t)
{
    return t == QN_GPTQ4 || t == QN_GPTQ8 || t == QN_AWQ4 || t == QN_NF4;
}

qn_weight qn_weight_rows(const qn_weight *w, size_t row, size_t n)
{
    QN_ASSERT(row <= w->rows && n <= w->rows - row);
    qn_weight v = *w;
    v.rows = n;
    v.row0 += row;
    if (!is_packed(w->dtype))
        v.data = (const uint8_t *)w->data + row * w->stride;
    return v;
}

size_t qn_weight_bytes(const qn_weight *w)
{
    size_t n = w->rows * w->cols, scale = w->scale ? qn_dtype_get(w->scale_dtype)->block_bytes : 0;
    size_t groups = w->group ? QN_DIV_UP(w->cols, w->group) : 0;
    switch (w->dtype) {
    case QN_GPTQ4:
    case QN_GPTQ8:
    case QN_AWQ4: {
        size_t bits = w->dtype == QN_GPTQ8 ? 8 : 4;
        return n * bits / 8 + w->rows * groups * scale +
               (w->zero ? w->rows * groups * bits / 8 : 0) +
               (w->group_index ? w->cols * sizeof *w->group_index : 0);
    }
    case QN_NF4: {
        QN_ASSERT(w->group);
        size_t absmax = QN_DIV_UP(n, w->group);
        return n / 2 + absmax * scale +
               (w->nested_code ? QN_DIV_UP(absmax, w->nested_group) * sizeof *w->nested_scale : 0);
    }
    case QN_F8_E4M3:
        return n + QN_DIV_UP(w->rows, w->block_rows) * groups * scale;
    default:
        return w->rows * w->stride;
    }
}
