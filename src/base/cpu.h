/* SPDX-License-Identifier: Apache-2.0
 * cpu.h - what this CPU can do (with the system's support) and how much of it we may use.
 * Threads: any. */
#ifndef QN_BASE_CPU_H
#define QN_BASE_CPU_H

#include "base/base.h"

#define QN_CPU_AVX2   1u /* AVX2 + FMA + F16C */
#define QN_CPU_AVX512 2u /* F, BW, DQ, VL, VNNI */
#define QN_CPU_NEON   4u /* ARMv8.2 with dot product */
#define QN_CPU_I8MM   8u /* and int8 matrix products */
#define QN_CPU_ALL    0xffffffffu

unsigned qn_cpu_flags(void);
/* "avx2+avx512" or "plain C". Returns buf. */
const char *qn_cpu_flags_name(unsigned flags, char *buf, size_t size);
int qn_cpu_n_usable(void); /* workers that make sense now (base/share.h) */
/* The smallest of physical memory and the control groups' limits. */
size_t qn_cpu_memory_bytes(void);

#endif
