/* SPDX-License-Identifier: Apache-2.0
 * cpu.c - instruction sets, usable processors, memory; cgroup v2 and v1 limits.
 * __builtin_cpu_supports checks XGETBV too, so a set the system does not save is not reported. */
#include "base/cpu.h"

#include "base/file.h"
#include "base/str.h"
#include <sched.h>
#include <stdio.h>
#include <string.h>
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

/* First two numbers of a small file ("max" reads as missing). Returns how many were read. */
static int numbers(const char *path, uint64_t out[2])
{
    qn_str s = {0};
    int n = 0;
    if (qn_file_read(&s, path, 4096, NULL) == QN_OK && s.p) {
        for (const char *p = s.p; n < 2;) {
            size_t len = strcspn(p, " \n");
            if (!qn_parse_u64(p, len, UINT64_MAX, &out[n]))
                break;
            n++;
            p += len + strspn(p + len, " \n");
            if (!*p)
                break;
        }
    }
    qn_str_fini(&s);
    return n;
}

int qn_cpu_n_usable(void)
{
    int n = 1;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
    uint64_t quota[2], period[2];
    uint64_t cpus = 0;
    if (numbers("/sys/fs/cgroup/cpu.max", quota) == 2 && quota[1])
        cpus = quota[0] / quota[1];
    else if (numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota) >= 1 &&
             numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period) >= 1 && period[0])
        cpus = quota[0] / period[0];
    else
        return QN_MAX(n, 1);
    return QN_MAX(1, cpus < (uint64_t)n ? (int)cpus : n);
}

size_t qn_cpu_memory_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t bytes = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX;
    uint64_t v[2];
    if (numbers("/sys/fs/cgroup/memory.max", v) >= 1 ||
        numbers("/sys/fs/cgroup/memory/memory.limit_in_bytes", v) >= 1)
        bytes = QN_MIN(bytes, (size_t)v[0]);
    return bytes;
}
