/* SPDX-License-Identifier: Apache-2.0
 * pack.c - stored integer formats into panels (pack.h draws them).
 *
 * A row's unit is first read into words of 4 columns, one byte each, and its scales; then the words of 16 rows are interleaved.
 * Threads: any, pure. Sources: ggml's block formats, AutoGPTQ and AutoAWQ (GEMM) as tensor/weight.h describes them. */
#include "backend/cpu/pack.h"

#include <math.h>
#include <string.h>

#include "tensor/fp.h"
#include "tensor/qblock.h"

#define INFO(name, bits, scales) [QN_PACK_##name] = {#name, bits, scales},
const qn_pack_info qn_packs[QN_N_PACKS] = {QN_PACK_LIST(INFO)};
#undef INFO

enum { MAX_BLOCKS = 8 };

/* One row of one unit. */
typedef struct unit_row {
    uint32_t q[MAX_BLOCKS * 8]; /* 4 columns each */
    uint16_t d, m;              /* m: also dmin */
    int8_t sc[16], mn[16];      /* for 32 columns (8 used) or 16 */
} unit_row;

static uint32_t load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint16_t load16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

/* Bits 0..3 of b to bit 0 of bytes 0..3. */
static uint32_t spread4(uint32_t b)
{
    return (b & 15u) * 0x00204081u & 0x01010101u;
}

/* 16 bytes of nibbles: columns 0..15 low, 16..31 high. */
static void read_nibbles(const uint8_t *qs, uint32_t *q)
{
    for (int i = 0; i < 4; i++) {
        uint32_t x = load32(qs + 4 * i);
        q[i] = x & 0x0f0f0f0fu;
        q[4 + i] = x >> 4 & 0x0f0f0f0fu;
    }
}

static void read_small_block(qn_dtype t, const uint8_t *b, unit_row *u)
{
    bool has_m = t == QN_Q4_1 || t == QN_Q5_1, has_h = t == QN_Q5_0 || t == QN_Q5_1;
    u->d = load16(b);
    b += 2;
    if (has_m) {
        u->m = load16(b);
        b += 2;
    }
    if (t == QN_Q8_0) {
        for (int i = 0; i < 8; i++)
            u->q[i] = load32(b + 4 * i) ^ 0x80808080u;
        return;
    }
    uint32_t h = 0;
    if (has_h) {
        h = load32(b);
        b += 4;
    }
    read_nibbles(b, u->q);
    if (has_h)
        for (int i = 0; i < 8; i++)
            u->q[i] |= spread4(h >> 4 * i) << 4;
}

static void read_q45_k(const uint8_t *b, bool five, unit_row *u)
{
    const uint8_t *qh = b + 16, *qs = five ? b + 48 : b + 16;
    u->d = load16(b);
    u->m = load16(b + 2);
    qn_q4_k_scales(b + 4, (uint8_t *)u->sc, (uint8_t *)u->mn);
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 8; i++) {
            uint32_t x = load32(qs + 32 * j + 4 * i), h = five ? load32(qh + 4 * i) >> 2 * j : 0;
            u->q[16 * j + i] = (x & 0x0f0f0f0fu) | (h & 0x01010101u) << 4;
            u->q[16 * j + 8 + i] = (x >> 4 & 0x0f0f0f0fu) | (h >> 1 & 0x01010101u) << 4;
        }
}

static void read_q6_k(const uint8_t *b, unit_row *u)
{
    memcpy(u->sc, b + 192, 16);
    u->d = load16(b + 208);
    for (int n = 0; n < 2; n++, b += 64)
        for (int i = 0; i < 8; i++) {
            uint32_t x = load32(b + 4 * i), y = load32(b + 32 + 4 * i),
                     h = load32(b + 128 - 32 * n + 4 * i);
            uint32_t *q = u->q + 32 * n + i;
            q[0] = (x & 0x0f0f0f0fu) | (h & 0x03030303u) << 4;
            q[8] = (y & 0x0f0f0f0fu) | (h >> 2 & 0x03030303u) << 4;
            q[16] = (x >> 4 & 0x0f0f0f0fu) | (h >> 4 & 0x03030303u) << 4;
            q[24] = (y >> 4 & 0x0f0f0f0fu) | (h >> 6 & 0x03030303u) << 4;
        }
}

/* The 2-bit parts of Q2_K and Q3_K. */
static void read_crumbs(const uint8_t *qs, uint32_t *q)
{
    for (int n = 0; n < 2; n++)
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 8; i++)
                q[32 * n + 8 * j + i] = load32(qs + 32 * n + 4 * i) >> 2 * j & 0x03030303u;
}

static void read_q2_k(const uint8_t *b, unit_row *u)
{
    for (int i = 0; i < 16; i++) {
        u->sc[i] = (int8_t)(b[i] & 15);
        u->mn[i] = (int8_t)(b[i] >> 4);
    }
    read_crumbs(b + 16, u->q);
    u->d = load16(b + 80);
    u->m = load16(b + 82);
}

static void read_q3_k(const uint8_t *b, unit_row *u)
{
    read_crumbs(b + 32, u->q);
    for (int j = 0; j < 8; j++) /* bit j of the mask bytes: columns 32j .. 32j + 31 */
        for (int i = 0; i < 8; i++)
            u->q[8 * j + i] |= (load32(b + 4 * i) >> j & 0x01010101u) << 2;
    qn_q3_k_scales(b + 96, u->sc);
    u->d = load16(b + 108);
}

static void read_iq4_xs(const uint8_t *b, unit_row *u)
{
    uint32_t high = load16(b + 2);
    u->d = load16(b);
    for (int i = 0; i < 8; i++) {
        int low = b[4 + i / 2] >> 4 * (i % 2) & 15;
        u->sc[i] = (int8_t)((low | (int)(high >> 2 * i & 3) << 4) - 32);
        read_nibbles(b + 8 + 16 * i, u->q + 8 * i);
    }
}

/* ---- GPTQ and AWQ: the matrix is stored by columns, `row` counts in the stored matrix ---- */

static unsigned gptq_bits(const qn_weight *w)
{
    return w->dtype == QN_GPTQ8 ? 8 : 4;
}

/* Element `i` of a vector of b-bit numbers in 32-bit words. AWQ keeps columns 0,2,4,6,1,3,5,7 of eight in nibbles 0..7. */
static unsigned packed_at(const qn_weight *w, const uint8_t *p, size_t i, bool across_rows)
{
    unsigned bits = gptq_bits(w), per = 32 / bits;
    size_t slot = i % per;
    if (w->dtype == QN_AWQ4 && across_rows)
        slot = slot / 2 + slot % 2 * 4;
    return load32(p + i / per * 4) >> bits * slot & ((1u << bits) - 1u);
}

static size_t gptq_group(const qn_weight *w, size_t col)
{
    return w->group_index ? (size_t)w->group_index[col] : col / w->group;
}

static float gptq_scale(const qn_weight *w, size_t g, size_t row)
{
    size_t i = g * w->total_rows + row;
    if (w->scale_dtype == QN_F32)
        return qn_bits_to_f32(load32((const uint8_t *)w->scale + 4 * i));
    uint16_t h = load16((const uint8_t *)w->scale + 2 * i);
    return w->scale_dtype == QN_BF16 ? qn_bf16_to_f32(h) : qn_f16_to_f32(h);
}

static unsigned gptq_zero(const qn_weight *w, size_t g, size_t row)
{
    unsigned bits = gptq_bits(w);
    if (!w->zero)
        return 1u << (bits - 1);
    const uint8_t *line = (const uint8_t *)w->zero + g * (w->total_rows * bits / 32) * 4;
    return packed_at(w, line, row, true) + w->zero_offset;
}

static void read_gptq(const qn_weight *w, size_t row, size_t col, unit_row *u)
{
    size_t per = 32 / gptq_bits(w), r = w->row0 + row, g = gptq_group(w, col);
    const uint8_t *data = w->data;
    for (size_t i = 0; i < 32; i++) {
        unsigned v;
        if (w->dtype == QN_AWQ4) {
            v = packed_at(w, data + (col + i) * (w->total_rows / 8) * 4, r, true);
        } else {
            const uint8_t *word = data + ((col + i) / per * w->total_rows + r) * 4;
            v = packed_at(w, word, i % per, false);
        }
        u->q[i / 4] = i % 4 ? u->q[i / 4] | v << 8 * (i % 4) : v;
    }
    float s = gptq_scale(w, g, r);
    u->d = qn_f32_to_f16(s);
    u->m = qn_f32_to_f16(-s * (float)gptq_zero(w, g, r));
}

/* Every block of 32 columns has one group; scales and offsets keep their precision as f16. all_mid: every zero is the middle. */
static bool gptq_fits(const qn_weight *w, bool *all_mid)
{
    if (w->group_index) {
        for (size_t c = 0; c < w->cols; c++)
            if (w->group_index[c] != w->group_index[c & ~(size_t)31])
                return false;
    } else if (w->group == 0 || w->group % 32 != 0) {
        return false;
    }
    unsigned mid = 1u << (gptq_bits(w) - 1);
    *all_mid = true;
    for (size_t c = 0; c < w->cols; c += 32) {
        size_t g = gptq_group(w, c);
        if (c > 0 && g == gptq_group(w, c - 32))
            continue;
        for (size_t r = w->row0; r < w->row0 + w->rows; r++) {
            float s = fabsf(gptq_scale(w, g, r));
            unsigned zero = gptq_zero(w, g, r);
            if (s != 0 && !(s >= 0x1p-14f && s * (float)QN_MAX(zero, 1u) <= 65504.0f))
                return false;
            *all_mid &= zero == mid;
        }
    }
    return true;
}

bool qn_pack_choose(const qn_weight *w, qn_pack *out)
{
    static const struct {
        qn_dtype dtype;
        qn_pack pack;
    } table[] = {
        {QN_Q4_0, QN_PACK_4_D},    {QN_Q4_1, QN_PACK_4_DM},  {QN_Q4_K, QN_PACK_4_K},
        {QN_Q5_0, QN_PACK_5_D},    {QN_Q5_1, QN_PACK_5_DM},  {QN_Q5_K, QN_PACK_5_K},
        {QN_Q6_K, QN_PACK_6_S},    {QN_Q8_0, QN_PACK_8_D},   {QN_IQ4_NL, QN_PACK_N_D},
        {QN_IQ4_XS, QN_PACK_N_KD}, {QN_Q2_K, QN_PACK_2_SM},  {QN_Q3_K, QN_PACK_3_S},
        {QN_GPTQ4, QN_PACK_4_DM},  {QN_GPTQ8, QN_PACK_8_DM}, {QN_AWQ4, QN_PACK_4_DM},
    };
    for (size_t i = 0; i < QN_COUNT(table); i++) {
        if (table[i].dtype != w->dtype)
            continue;
        qn_pack p = table[i].pack;
        if (w->dtype == QN_GPTQ4 || w->dtype == QN_GPTQ8 || w->dtype == QN_AWQ4) {
            bool all_mid;
            if (w->cols % 32 != 0 || !gptq_fits(w, &all_mid))
                return false;
            if (all_mid)
                p = p == QN_PACK_8_DM ? QN_PACK_8_D : QN_PACK_4_D;
        }
        *out = p;
        return w->cols % (32 * qn_scales_blocks(qn_packs[p].scales)) == 0;
    }
    return false;
}

size_t qn_pack_panel_bytes(qn_pack p, size_t cols)
{
    const qn_pack_info *f = &qn_packs[p];
    return cols / (32 * qn_scales_blocks(f->scales)) * qn_unit_bytes(f->bits, f->scales);
}

static void read_unit(const qn_weight *w, size_t block_bytes, size_t row, size_t unit, unit_row *u)
{
    const uint8_t *b = (const uint8_t *)w->data + row * w->stride + unit * block_bytes;
    switch (w->dtype) {
    case QN_Q2_K:
        read_q2_k(b, u);
        break;
    case QN_Q3_K:
        read_q3_k(b, u);
        break;
    case QN_Q4_K:
    case QN_Q5_K:
        read_q45_k(b, w->dtype == QN_Q5_K, u);
        break;
    case QN_Q6_K:
        read_q6_k(b, u);
        break;
    case QN_IQ4_XS:
        read_iq4_xs(b, u);
        break;
    case QN_GPTQ4:
    case QN_GPTQ8:
    case QN_AWQ4:
        read_gptq(w, row, unit * 32, u);
        break;
    default:
        read_small_block(w->dtype, b, u);
    }
}

/* Words to lane r of 8 in n vectors. */
static void put_words(const uint32_t *v, size_t n, size_t r, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        memcpy(out + 32 * i + 4 * r, &v[i], 4);
}

/* One block of one row into the vectors at out. */
static void put_quants(qn_pack_bits bits, const uint32_t *q, size_t r, uint8_t *out)
{
    uint32_t v[4] = {0}, h[2] = {0};
    switch (bits) {
    case QN_BITS_8:
        put_words(q, 8, r, out);
        return;
    case QN_BITS_2:
    case QN_BITS_3:
        for (int g = 0; g < 8; g++) {
            v[g % 2] |= (q[g] & 0x03030303u) << 2 * (g / 2);
            h[0] |= (q[g] >> 2 & 0x01010101u) << g;
        }
        put_words(v, 2, r, out);
        put_words(h, bits == QN_BITS_3, r, out + 64);
        return;
    default:
        for (int g = 0; g < 4; g++)
            v[g] = (q[g] & 0x0f0f0f0fu) | (q[g + 4] & 0x0f0f0f0fu) << 4;
        put_words(v, 4, r, out);
    }
    if (bits == QN_BITS_5) {
        for (int g = 0; g < 8; g++)
            h[0] |= (q[g] >> 4 & 0x01010101u) << g;
        put_words(h, 1, r, out + 128);
    } else if (bits == QN_BITS_6) {
        for (int g = 0; g < 8; g++)
            h[g / 4] |= (q[g] >> 4 & 0x03030303u) << 2 * (g % 4);
        put_words(h, 2, r, out + 128);
    }
}

static void put_scales(qn_pack_scales s, const unit_row *u, size_t r, uint8_t *out)
{
    bool has_m = qn_scales_has_min(s);
    memcpy(out + 2 * r, &u->d, 2);
    if (has_m)
        memcpy(out + 32 + 2 * r, &u->m, 2);
    uint8_t *sc = out + (has_m ? 64 : 32);
    if (s == QN_SCALES_K || s == QN_SCALES_KD) {
        for (size_t i = 0; i < 8; i++) {
            sc[16 * i + r] = (uint8_t)u->sc[i];
            if (has_m)
                sc[128 + 16 * i + r] = (uint8_t)u->mn[i];
        }
    } else if (qn_scales_has_sub(s)) {
        for (size_t i = 0; i < 16; i++) {
            sc[32 * (i / 2) + 2 * r + i % 2] = (uint8_t)u->sc[i];
            if (has_m)
                sc[256 + 32 * (i / 2) + 2 * r + i % 2] = (uint8_t)u->mn[i];
        }
    }
}

/* Formats whose blocks hold nibbles of columns i and 16 + i in one byte, as a panel does: words move as
 * they are. `header`: scales before them. */
static void pack_nibbles(const qn_weight *w, qn_pack_scales scales, size_t row0, size_t n,
                         uint8_t *out)
{
    size_t block_bytes = qn_dtype_get(w->dtype)->block_bytes, header = block_bytes - 16;
    const uint8_t *rows = (const uint8_t *)w->data + row0 * w->stride;
    for (size_t i = 0; i < w->cols / 32; i++, out += qn_unit_bytes(QN_BITS_4, scales))
        for (size_t r = 0; r < n; r++) {
            const uint8_t *b = rows + r * w->stride + i * block_bytes;
            uint8_t *q = out + qn_scales_bytes(scales) + r / 8 * 128 + r % 8 * 4;
            memcpy(out + 2 * r, b, 2);
            if (header == 4)
                memcpy(out + 32 + 2 * r, b + 2, 2);
            for (size_t v = 0; v < 4; v++)
                memcpy(q + 32 * v, b + header + 4 * v, 4);
        }
}

void qn_pack_panel(const qn_weight *w, qn_pack p, size_t panel, uint8_t *out)
{
    qn_pack_bits bits = qn_packs[p].bits;
    qn_pack_scales scales = qn_packs[p].scales;
    size_t n_blocks = qn_scales_blocks(scales), n_units = w->cols / (32 * n_blocks);
    size_t row0 = panel * QN_PACK_ROWS, n = QN_MIN(w->rows - row0, (size_t)QN_PACK_ROWS);
    size_t bytes = qn_bits_bytes(bits), block_bytes = qn_dtype_get(w->dtype)->block_bytes;
    if (n < QN_PACK_ROWS)
        memset(out, 0, qn_pack_panel_bytes(p, w->cols));
    if (w->dtype == QN_Q4_0 || w->dtype == QN_Q4_1 || w->dtype == QN_IQ4_NL) {
        pack_nibbles(w, scales, row0, n, out);
        return;
    }
    for (size_t i = 0; i < n_units; i++, out += qn_unit_bytes(bits, scales))
        for (size_t r = 0; r < n; r++) {
            unit_row u;
            read_unit(w, block_bytes, row0 + r, i, &u);
            put_scales(scales, &u, r, out);
            uint8_t *q = out + qn_scales_bytes(scales) + r / 8 * bytes;
            for (size_t b = 0; b < n_blocks; b++)
                put_quants(bits, u.q + 8 * b, r % 8, q + b * 2 * bytes);
        }
}
