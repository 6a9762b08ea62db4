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

#endif
