/* SPDX-License-Identifier: Apache-2.0
 * kernels.c - chooses the kernels of this CPU. */
#include "backend/cpu/kernels.h"

#include "base/cpu.h"

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
#elif defined(__aarch64__)
    if (cpu_flags & QN_CPU_NEON) {
        qn_matmul_init_neon(k);
        qn_rows_init_neon(k);
        if (cpu_flags & QN_CPU_I8MM)
            qn_matmul_init_i8mm(k);
    }
#endif
}
