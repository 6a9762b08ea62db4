/* SPDX-License-Identifier: Apache-2.0
 * matmul_ref.c - products in plain C: the definition of every kernel in the matmul part of kernels.h.
 *
 * Integer products read one weight at a time as pack.h draws the layouts. Their integer part is exact, so any kernel that keeps the
 * order of the float chain (block after block, the fused multiply-adds of a block in order) gives these bits.
 * Threads: any, pure. */
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "tensor/fp.h"
#include "tensor/qblock.h"

/* ---- activations ---- */

static void quantise_ref(const float *x, size_t n_blocks, int lanes, int lane, void *out)
{
    for (size_t b = 0; b < n_blocks; b++, x += 32) {
        /* The bits of |x| order as |x| does, with infinity and NaN on top. */
        uint32_t top = 0;
        for (int i = 0; i < 32; i++)
            top = QN_MAX(top, qn_f32_to_bits(x[i]) & 0x7fffffffu);
        bool is_finite = top < 0x7f800000u;
        float max = qn_bits_to_f32(top);
        float inv = is_finite && max >= 0x1p-100f ? 127.0f / max : 0.0f;
        float d = !is_finite ? NAN : max >= 0x1p-100f ? max / 127.0f : 0.0f;
        int8_t q[32];
        int16_t h[2] = {0, 0};
        for (int i = 0; i < 32; i++) {
            q[i] = is_finite ? (int8_t)lrintf(x[i] * inv) : 0;
            h[i / 16] = (int16_t)(h[i / 16] + q[i]);
        }
        float s = d * (float)(h[0] + h[1]);
        if (lanes == 1) {
            qn_act1 *a = (qn_act1 *)out + b;
            a->d = d;
            a->s = s;
            memcpy(a->h, h, sizeof h);
            memcpy(a->q, q, sizeof q);
        } else {
            qn_act4 *a = (qn_act4 *)out + b;
            a->d[lane] = d;
            a->s[lane] = s;
            memcpy(a->h[lane], h, sizeof h);
            for (int g = 0; g < 8; g++)
                memcpy(a->q[g][lane], q + 4 * g, 4);
        }
    }
}

/* ---- integer products ---- */

static float half_at(const uint8_t *p, size_t i)
{
    uint16_t h;
    memcpy(&h, p + 2 * i, 2);
    return qn_f16_to_f32(h);
}

/* One row of one block, unpacked. */
typedef struct block_row {
    int16_t q[32];
    bool has_sub, has_m; /* integer scales (and minima) of 16 columns; a minimum */
    int zero;
    float s, m; /* S, M of pack.h */
    int sc[2], mn[2];
} block_row;

/* Column k of row r (of 8) in the quants of a block. */
static int quant_at(qn_pack_bits bits, const uint8_t *q, size_t r, size_t k)
{
    size_t g = k / 4, at = 4 * r + k % 4;
    int nibble = q[32 * (g % 4) + at] >> (g < 4 ? 0 : 4) & 15;
    switch (bits) {
    case QN_BITS_4:
        return nibble;
    case QN_BITS_5:
        return nibble | (q[128 + at] >> g & 1) << 4;
    case QN_BITS_6:
        return nibble | (q[128 + 32 * (g / 4) + at] >> 2 * (g % 4) & 3) << 4;
    case QN_BITS_8:
        return q[32 * g + at];
    case QN_BITS_N:
        return qn_iq4_values[nibble] + 128;
    case QN_BITS_2:
        return q[32 * (g % 2) + at] >> 2 * (g / 2) & 3;
    case QN_BITS_3:
        return (q[32 * (g % 2) + at] >> 2 * (g / 2) & 3) | (q[64 + at] >> g & 1) << 2;
    }
    return 0;
}

/* Block b of the unit at u, row of 16. */
static void read_block(const qn_pack_info *p, const uint8_t *u, size_t b, size_t row,
                       block_row *out)
{
    size_t bytes = qn_bits_bytes(p->bits);
    const uint8_t *q = u + qn_scales_bytes(p->scales) + (b * 2 + row / 8) * bytes;
    const int8_t *sc = (const int8_t *)u;
    *out = (block_row){.has_sub = qn_scales_has_sub(p->scales),
                       .has_m = qn_scales_has_min(p->scales),
                       .zero = qn_pack_zero(p->bits, p->scales),
                       .s = half_at(u, row)};
    for (size_t k = 0; k < 32; k++)
        out->q[k] = (int16_t)quant_at(p->bits, q, row % 8, k);
    if (p->scales == QN_SCALES_DM) {
        out->m = half_at(u + 32, row);
    } else if (p->scales == QN_SCALES_K) {
        out->s *= (float)sc[64 + 16 * b + row];
        out->m = -(half_at(u + 32, row) * (float)sc[64 + 128 + 16 * b + row]);
    } else if (p->scales == QN_SCALES_KD) {
        out->s *= (float)sc[32 + 16 * b + row];
    } else if (out->has_sub) {
        if (out->has_m)
            out->m = -half_at(u + 32, row);
        sc += (out->has_m ? 64 : 32) + 32 * b + 2 * row;
        for (int i = 0; i < 2; i++) {
            out->sc[i] = sc[i];
            out->mn[i] = out->has_m ? sc[256 + i] : 0;
        }
    }
}

void qn_pack_row(qn_pack pack, const uint8_t *panel, size_t row, size_t cols, float *out)
{
    const qn_pack_info *p = &qn_packs[pack];
    size_t per = qn_scales_blocks(p->scales), unit = qn_unit_bytes(p->bits, p->scales);
    block_row w;
    for (size_t b = 0; b < cols / 32; b++, out += 32) {
        read_block(p, panel + b / per * unit, b % per, row, &w);
        for (size_t k = 0; k < 32; k++) {
            int i = k >= 16;
            float scale = w.has_sub ? w.s * (float)w.sc[i] : w.s, q = (float)(w.q[k] - w.zero);
            out[k] = !w.has_m    ? scale * q
                     : w.has_sub ? scale * q + w.m * (float)w.mn[i]
                                 : scale * q + w.m;
        }
    }
}

/* f of pack.h after one more block. a: 4 columns every `step` bytes. */
static float add_block(const block_row *w, float d, float s, const int16_t *h, const int8_t *a,
                       size_t step, float f)
{
    int sum[2] = {0, 0};
    for (size_t g = 0; g < 8; g++, a += step)
        for (size_t j = 0; j < 4; j++)
            sum[g / 4] += (w->q[4 * g + j] - w->zero) * a[j];
    int i = w->has_sub ? w->sc[0] * sum[0] + w->sc[1] * sum[1] : sum[0] + sum[1];
    f = fmaf(w->s, d * (float)i, f);
    if (w->has_m)
        f = fmaf(w->m, w->has_sub ? d * (float)(w->mn[0] * h[0] + w->mn[1] * h[1]) : s, f);
    return f;
}

static void gemv_ref(qn_pack pack, const uint8_t *w, size_t n_panels, size_t n_blocks,
                     const qn_act1 *a, float *y)
{
    const qn_pack_info *p = &qn_packs[pack];
    size_t per = qn_scales_blocks(p->scales), bytes = qn_unit_bytes(p->bits, p->scales);
    for (; n_panels > 0; n_panels--, w += n_blocks / per * bytes, y += QN_PACK_ROWS)
        for (size_t r = 0; r < QN_PACK_ROWS; r++) {
            y[r] = 0;
            for (size_t b = 0; b < n_blocks; b++) {
                block_row row;
                read_block(p, w + b / per * bytes, b % per, r, &row);
                y[r] = add_block(&row, a[b].d, a[b].s, a[b].h, a[b].q[0], 4, y[r]);
            }
        }
}

static void gemm_ref(qn_pack pack, const uint8_t *w, size_t n_blocks, const qn_act4 *a,
                     size_t n_quads, float *c)
{
    const qn_pack_info *p = &qn_packs[pack];
    size_t per = qn_scales_blocks(p->scales), bytes = qn_unit_bytes(p->bits, p->scales);
    memset(c, 0, n_quads * 4 * QN_PACK_ROWS * sizeof *c);
    for (size_t b = 0; b < n_blocks; b++)
        for (size_t r = 0; r < QN_PACK_ROWS; r++) {
            block_row row;
            read_block(p, w + b / per * bytes, b % per, r, &row);
            for (size_t t = 0; t < 4 * n_quads; t++) {
                const qn_act4 *x = a + t / 4 * n_blocks + b;
                size_t l = t % 4;
                float *f = &c[t * QN_PACK_ROWS + r];
                *f = add_block(&row, x->d[l], x->s[l], x->h[l], x->q[0][l], 16, *f);
            }
        }
}

#define KERNELS(name, bits, scales)                                                                \
    static void gemv_##name(const uint8_t *w, size_t n_panels, size_t n_blocks, const qn_act1 *a,  \
                            float *y)                                                              \
    {                                                                                              \
        gemv_ref(QN_PACK_##name, w, n_panels, n_blocks, a, y);                                     \
    }                                                                                              \
    static void gemm_##name(const uint8_t *w, size_t n_blocks, const qn_act4 *a, size_t n_quads,   \
                            float *c, void *scratch)                                               \
    {                                                                                              \
        (void)scratch;                                                                             \
        gemm_ref(QN_PACK_##name, w, n_blocks, a, n_quads, c);                                      \
    }
QN_PACK_LIST(KERNELS)
#undef KERNELS

/* ---- float products ---- */

static float sum8(const float *v)
{
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

static void f32_ref(const qn_mm_f32 *p)
{
    for (size_t t = 0; t < p->n_tokens; t++)
        for (size_t r = 0; r < p->n_rows; r++) {
            const float *w = p->w + r * p->w_stride, *x = p->x + t * p->x_stride;
            float lane[8] = {0};
            for (size_t k = 0; k < p->cols; k++)
                lane[k % 8] = fmaf(w[k], x[k], lane[k % 8]);
            p->y[t * p->y_stride + r] = sum8(lane);
        }
}

void qn_matmul_init_ref(qn_kernels *k)
{
#define ROWS(name, bits, scales)                                                                   \
    k->mm_gemv[QN_PACK_##name] = gemv_##name;                                                      \
    k->mm_gemm[QN_PACK_##name] = gemm_##name;
    QN_PACK_LIST(ROWS)
#undef ROWS
    k->mm_quantise = quantise_ref;
    k->mm_f32 = f32_ref;
}
