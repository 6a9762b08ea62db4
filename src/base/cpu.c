/* SPDX-License-Identifier: Apache-2.0
 * cpu.c - instruction sets, usable processors, memory.
 * __builtin_cpu_supports checks XGETBV too, so a set the system does not save is not reported. */
#include "base/cpu.h"

#include "base/limits.h"
#include "base/share.h"
#include <stdio.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

unsigned qn_cpu_flags(void)
{
    unsigned f = 0;
#if defined(__x86_64__)
    unsigned a = 0, b = 0, c = 0, d = 0; /* F16C has no name in clang 14; its state is AVX's */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C))
        f |= QN_CPU_AVX2;
    if (f && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        f |= QN_CPU_AVX512;
#elif defined(__aarch64__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
        f |= QN_CPU_NEON;
    if (f && (getauxval(AT_HWCAP2) & HWCAP2_I8MM))
        f |= QN_CPU_I8MM;
#endif
    return f;
}

const char *qn_cpu_flags_name(unsigned flags, char *buf, size_t size)
{
    static const struct {
        unsigned flag;
        const char *name;
    } names[] = {{QN_CPU_AVX2, "avx2"},
                 {QN_CPU_AVX512, "avx512"},
                 {QN_CPU_NEON, "neon"},
                 {QN_CPU_I8MM, "i8mm"}};
    size_t len = 0;
    (void)snprintf(buf, size, "plain C");
    for (size_t i = 0; i < QN_COUNT(names); i++)
        if ((flags & names[i].flag) && len < size) {
            int n = snprintf(buf + len, size - len, "%s%s", len > 0 ? "+" : "", names[i].name);
            len += n > 0 ? (size_t)n : 0;
        }
    return buf;
}

int qn_cpu_n_usable(void)
{
    qn_share *share;
    qn_share_now now = {.n_workers = 1};
    if (qn_share_new(&share, "", NULL) == QN_OK)
        qn_share_read(share, 0, &now);
    qn_share_free(share);
    return QN_MIN(now.n_workers, QN_LIMIT_THREADS);
}

size_t qn_cpu_memory_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t bytes = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX;
    qn_cgroup g;
    qn_cgroup_limits limits;
    qn_cgroup_find(&g, "");
    qn_cgroup_read(&g, &limits);
    return limits.memory_bytes ? QN_MIN(bytes, (size_t)limits.memory_bytes) : bytes;
}
