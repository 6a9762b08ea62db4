/* SPDX-License-Identifier: Apache-2.0
 * bounds.h - every tolerance of the kernel checks, each with its reason. What is not here must be equal to the bit. */
#ifndef QN_TESTS_BOUNDS_H
#define QN_TESTS_BOUNDS_H

/* A float sum of n products in 8 chains of n / 8 fused steps and 3 additions: each rounds by at most 2^-24 of a partial sum, which is
 * at most sum |x||w|. */
#define BOUND_F32_SUM(n, sum_abs) ((((double)(n) / 8 + 4) * 0x1p-24) * (sum_abs))

/* Integer product against the float product of the same weights: an activation is off by at most half of its block's scale (d / 2),
 * so the sum by at most sum over blocks of d / 2 * sum |w|. 1 % for the rounding of d and of x / d. The chain of 2 steps a block
 * rounds partial sums that hold the offset (q is unsigned): `offset` = sum of |S| q |x| + |M||x|. */
#define BOUND_INT8(half_steps, n_blocks, offset)                                                   \
    (1.01 * (half_steps) + (2.0 * (double)(n_blocks) + 4) * 0x1p-24 * (offset))

/* GPTQ and AWQ with zeros off the middle keep scale * zero as f16: 2^-11 of it, half of that when rounded. */
#define BOUND_F16_OFFSET(scale_zero_x) (0x1p-12 * 1.001 * (scale_zero_x))

/* e^x is within 2 ulp, libm's within 1; then an addition, a quotient and a product on each side, half an ulp each. The second part:
 * results below the normal numbers. */
#define BOUND_SILU(y) (6 * 0x1p-23 * (y) + 0x1p-126)

/* The mean of n squares in 32 chains is off by n / 32 + 5 roundings of 2^-24, its root by half of that; four more roundings each. */
#define BOUND_RMSNORM(n, y) (((double)(n) / 64 + 12) * 0x1p-24 * (y))

/* Two products and a sum, fused or not: two roundings of each product at most, one of the sum. */
#define BOUND_ROPE(sum_abs) (4 * 0x1p-24 * (sum_abs))

/* e^x as above on both sides, a sum of n positive terms in 8 chains, a quotient. */
#define BOUND_SOFTMAX(n, p) (((double)(n) / 8 + 14) * 0x1p-24 * (p) + 0x1p-126)

/* A tile's weights: e^x as above; scores 86 below the maximum and lower weigh e^-86 < 2^-124. */
#define BOUND_TILE_SOFTMAX(p) (8 * 0x1p-24 * (p) + 0x1p-123)

/* One chain of n products, two roundings a step in plain C and one when fused. */
#define BOUND_CHAIN(n, sum_abs) (3 * (double)(n)*0x1p-24 * (sum_abs))

/* Logits of a whole tiny model (values up to about 10), plain C kernels against the fast ones. Exact: both are float32 sums in other
 * orders, some 1e-6 of the logits a layer (seen: 2.5e-5). Fast: a value on the border of two int8 steps may round the other way when the
 * float sum before it differs in its last bits, and a near tie of the router may turn; so the bound is what int8 activations as a
 * whole move such a model's logits by, 0.05 to 0.3 (seen: 0.12). Models of float weights have no int8 step: seen 1e-3. */
#define QN_BOUND_MODEL_EXACT 2e-4
#define QN_BOUND_MODEL_FAST  0.3

#endif
