/* SPDX-License-Identifier: Apache-2.0
 * machine.h - the state of the machine that is asked about, not computed with: memory, huge pages,
 * the governor of the clock, and which programs use the processors now.
 * base: "" for this machine, else the folder of a test's tree. Threads: any. */
#ifndef QN_BASE_MACHINE_H
#define QN_BASE_MACHINE_H

#include "base/base.h"

typedef struct qn_machine_memory {
    uint64_t total_bytes, available_bytes; /* 0: unknown */
} qn_machine_memory;
void qn_machine_memory_read(qn_machine_memory *m, const char *base);

/* The chosen word of a file like "always [madvise] never", or its only one; "" when there is none. */
void qn_machine_mode(char *out, size_t size, const char *base, const char *path);
#define QN_MACHINE_HUGE_PAGES "/sys/kernel/mm/transparent_hugepage/enabled"
#define QN_MACHINE_GOVERNOR   "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"

/* The share of a fresh block of 64 MiB that huge pages back, 0..1; negative: could not be seen. */
double qn_machine_try_huge_pages(void);

typedef struct qn_process {
    int pid;
    char name[32];
    double cpus; /* processors it used between the two readings */
} qn_process;
typedef struct qn_processes qn_processes;
/* Reads what every process has used so far; this one is left out. */
QN_MUST_USE qn_status qn_processes_read(qn_processes **out, const char *base, qn_err *err);
void qn_processes_free(qn_processes *p); /* NULL allowed */
/* Those that used most between two readings `seconds` apart, most first. Returns how many. */
size_t qn_processes_top(const qn_processes *before, const qn_processes *after, double seconds,
                        qn_process *top, size_t n_top);

#endif
