/* SPDX-License-Identifier: Apache-2.0
 * roofs_ref.c - what plain C reads and computes at most: loops that the compiler may vectorise as it likes.
 * Threads: any, pure but for the memory read. */
#include "backend/cpu/kernels.h"

/* The compiler must believe that everything behind p is used. */
static inline void use(const void *p)
{
    __asm__ volatile("" : : "r"(p) : "memory");
}

static void read_all(const void *p, size_t bytes)
{
    const uint64_t *a = p;
    size_t quarter = bytes / 4 / sizeof *a;
    uint64_t sum[4] = {0};
    for (size_t i = 0; i < quarter; i++)
        for (size_t s = 0; s < 4; s++)
            sum[s] += a[s * quarter + i];
    use(sum);
}

enum { WIDTH = 1024 };

static double int8_ops(size_t n)
{
    uint8_t w[WIDTH];
    int8_t x[WIDTH];
    for (int i = 0; i < WIDTH; i++) {
        w[i] = (uint8_t)(i & 15);
        x[i] = (int8_t)(i & 127);
    }
    for (size_t k = 0; k < n; k++) {
        int32_t sum = 0;
        use(w);
        use(x);
        for (int i = 0; i < WIDTH; i++)
            sum += w[i] * x[i];
        use(&sum);
    }
    return 2.0 * WIDTH * (double)n;
}

static double f32_flops(size_t n)
{
    float sum[WIDTH] = {0}, x[WIDTH] = {0};
    for (size_t k = 0; k < n; k++) {
        use(x);
        for (int i = 0; i < WIDTH; i++)
            sum[i] += x[i] * 0.5f;
        use(sum);
    }
    return 2.0 * WIDTH * (double)n;
}

void qn_roofs_init_ref(qn_kernels *k)
{
    k->roof_read = read_all;
    k->roof_int8 = int8_ops;
    k->roof_f32 = f32_flops;
}
