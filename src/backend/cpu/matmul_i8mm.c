/* SPDX-License-Identifier: Apache-2.0
 * matmul_i8mm.c - products of many rows with the int8 matrix products of ARMv8.6; see matmul_neon_tmpl.c.
 * Threads: any, pure. */
#define QN_I8MM 1
#include "backend/cpu/matmul_neon_tmpl.c"

void qn_matmul_init_i8mm(qn_kernels *k)
{
#define ROWS(name, bits, scales) k->mm_gemm[QN_PACK_##name] = gemm_##name;
    QN_PACK_LIST(ROWS)
#undef ROWS
}
