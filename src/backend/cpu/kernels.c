/* SPDX-License-Identifier: Apache-2.0
 * kernels.c - chooses the kernels of this CPU, and tests them before use.
 *
 * A machine may have an instruction set that no test has run on, or one that is emulated badly. So the products, which must give
 * plain C's bits, are compared with it on a small case when a device opens (about a millisecond), set after set: one that differs is
 * left out, and the sets before it stay. Threads: any, pure. */
#include "backend/cpu/kernels.h"

#include <string.h>

#include "base/cpu.h"
#include "base/mem.h"

void qn_kernels_init(qn_kernels *k, unsigned cpu_flags)
{
    *k = (qn_kernels){.flags = cpu_flags};
    qn_matmul_init_ref(k);
    qn_rows_init_ref(k);
    qn_attention_init_ref(k);
    qn_roofs_init_ref(k);
#if defined(__x86_64__)
    if (cpu_flags & QN_CPU_AVX2) {
        qn_matmul_init_avx2(k);
        qn_rows_init_avx2(k);
        qn_attention_init_avx2(k);
        qn_roofs_init_avx2(k);
    }
    if (cpu_flags & QN_CPU_AVX512) {
        qn_matmul_init_avx512(k);
        qn_roofs_init_avx512(k);
    }
#elif defined(__aarch64__)
    if (cpu_flags & QN_CPU_NEON) {
        qn_matmul_init_neon(k);
        qn_rows_init_neon(k);
        qn_attention_init_neon(k);
        qn_roofs_init_neon(k);
    }
    if (cpu_flags & QN_CPU_I8MM) {
        qn_matmul_init_i8mm(k);
        qn_roofs_init_i8mm(k);
    }
#endif
}

/* ---- the test ---- */

enum { COLS = 256, BLOCKS = COLS / 32, QUADS = 3, TOKENS = 4 * QUADS, PANEL_BYTES = 8192 };

/* One panel, some activations, what came out of both. */
typedef struct test_case {
    uint8_t scratch[QN_MM_SCRATCH], panel[PANEL_BYTES];
    qn_act4 a4[QUADS * BLOCKS], a4_got[QUADS * BLOCKS];
    qn_act1 a1[BLOCKS], a1_got[BLOCKS];
    float x[TOKENS * COLS], want[TOKENS * QN_PACK_ROWS], got[TOKENS * QN_PACK_ROWS];
} test_case;

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Panel of layout p: any quants and integer scales; half floats from 2^-6 to 2^-4. */
static void fill_panel(test_case *c, qn_pack p, uint32_t seed)
{
    qn_pack_scales s = qn_packs[p].scales;
    size_t unit = qn_unit_bytes(qn_packs[p].bits, s), n = COLS / 32 / qn_scales_blocks(s) * unit;
    size_t n_halves = qn_scales_has_min(s) ? 32 : 16;
    QN_ASSERT(n <= PANEL_BYTES);
    for (size_t i = 0; i < n; i++)
        c->panel[i] = (uint8_t)next(&seed);
    for (size_t u = 0; u < n; u += unit)
        for (size_t i = 0; i < n_halves; i++) {
            uint16_t half = (uint16_t)(0x2400u + (next(&seed) & 0x7ffu));
            memcpy(c->panel + u + 2 * i, &half, sizeof half);
        }
}

/* Equal as numbers; then poisons what came out. */
static bool same(test_case *c, size_t n)
{
    bool ok = true;
    for (size_t i = 0; i < n; i++)
        ok = ok && c->want[i] == c->got[i];
    memset(c->got, 0xff, sizeof c->got);
    return ok;
}

static bool same_bytes(const void *a, const void *b, size_t n)
{
    return memcmp(a, b, n) == 0;
}

static bool good_quantise(const qn_kernels *k, const qn_kernels *ref, test_case *c)
{
    for (size_t t = 0; t < TOKENS; t++) {
        size_t at = t / 4 * BLOCKS;
        ref->mm_quantise(c->x + t * COLS, BLOCKS, 4, (int)(t % 4), c->a4 + at);
        k->mm_quantise(c->x + t * COLS, BLOCKS, 4, (int)(t % 4), c->a4_got + at);
    }
    ref->mm_quantise(c->x, BLOCKS, 1, 0, c->a1);
    k->mm_quantise(c->x, BLOCKS, 1, 0, c->a1_got);
    return same_bytes(c->a4, c->a4_got, sizeof c->a4) && same_bytes(c->a1, c->a1_got, sizeof c->a1);
}

/* 5 rows and 3 tokens of 35 columns: blocks of rows, of tokens and of columns, and what is left of each. */
static bool good_f32(const qn_kernels *k, const qn_kernels *ref, test_case *c)
{
    qn_mm_f32 p = {.w = c->x,
                   .x = c->x + 5 * COLS,
                   .w_stride = COLS,
                   .x_stride = COLS,
                   .n_rows = 5,
                   .n_tokens = 3,
                   .cols = 35,
                   .y = c->want,
                   .y_stride = 5};
    ref->mm_f32(&p);
    p.y = c->got;
    k->mm_f32(&p);
    return same(c, 15);
}

static bool good_gemv(const qn_kernels *k, const qn_kernels *ref, qn_pack p, test_case *c)
{
    ref->mm_gemv[p](c->panel, 1, BLOCKS, c->a1, c->want);
    k->mm_gemv[p](c->panel, 1, BLOCKS, c->a1, c->got);
    return same(c, QN_PACK_ROWS);
}

static bool good_gemm(const qn_kernels *k, const qn_kernels *ref, qn_pack p, test_case *c)
{
    ref->mm_gemm[p](c->panel, BLOCKS, c->a4, QUADS, c->want, c->scratch);
    k->mm_gemm[p](c->panel, BLOCKS, c->a4, QUADS, c->got, c->scratch);
    return same(c, sizeof c->got / sizeof *c->got);
}

/* Puts safe's kernel where k's differs from plain C. */
#define KEEP_IF(good, k, safe, member)                                                             \
    do {                                                                                           \
        if ((k)->member != (safe)->member && !(good)) {                                            \
            (k)->member = (safe)->member;                                                          \
            (k)->n_left_out++;                                                                     \
        }                                                                                          \
    } while (0)

qn_status qn_kernels_test(qn_kernels *k, const qn_kernels *safe, qn_err *err)
{
    test_case *c = qn_calloc(1, sizeof *c, QN_MEM_MISC);
    if (!c)
        return qn_fail_nomem(err, sizeof *c);
    qn_kernels ref;
    uint32_t seed = 1;
    qn_kernels_init(&ref, 0);
    for (size_t i = 0; i < QN_COUNT(c->x); i++)
        c->x[i] = ((float)next(&seed) * 0x1p-24f - 0.5f) * (i / 32 % 3 == 0 ? 8.0f : 0.3f);
    memset(c->got, 0xff, sizeof c->got);
    (void)good_quantise(&ref, &ref, c); /* the activations of what follows, whatever k is */
    KEEP_IF(good_quantise(k, &ref, c), k, safe, mm_quantise);
    KEEP_IF(good_f32(k, &ref, c), k, safe, mm_f32);
    for (qn_pack p = 0; p < QN_N_PACKS; p++) {
        fill_panel(c, p, seed + p);
        KEEP_IF(good_gemv(k, &ref, p, c), k, safe, mm_gemv[p]);
        KEEP_IF(good_gemm(k, &ref, p, c), k, safe, mm_gemm[p]);
    }
    qn_free(c);
    return QN_OK;
}

qn_status qn_kernels_choose(qn_kernels *k, unsigned cpu_flags, qn_err *err)
{
    static const unsigned sets[] = {QN_CPU_AVX2, QN_CPU_AVX512, QN_CPU_NEON, QN_CPU_I8MM};
    qn_kernels_init(k, 0);
    for (size_t i = 0; i < QN_COUNT(sets); i++) {
        if (!(cpu_flags & sets[i]))
            continue;
        qn_kernels safe = *k;
        qn_kernels_init(k, safe.flags | sets[i]);
        k->n_left_out = safe.n_left_out;
        QN_TRY(qn_kernels_test(k, &safe, err));
    }
    return QN_OK;
}
