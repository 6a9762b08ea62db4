/* SPDX-License-Identifier: Apache-2.0
 * cgroup.h - the limits that control groups set for this process: processor time and memory.
 *
 *   /proc/self/mountinfo   which folder shows which part of a hierarchy:  /sys/fs/cgroup  root /
 *   /proc/self/cgroup      this process's group in each hierarchy:        0::/a/b
 *   =>                     /sys/fs/cgroup/a/b, /sys/fs/cgroup/a, /sys/fs/cgroup: the smallest limit
 *                          of all of them counts
 *
 * Version 2 and version 1, or both at once. Nothing here allocates. Threads: any. */
#ifndef QN_BASE_CGROUP_H
#define QN_BASE_CGROUP_H

#include "base/base.h"

typedef struct qn_cgroup_mount {
    char dir[256];  /* where it is mounted; empty: it is not */
    char root[256]; /* the group that folder shows */
} qn_cgroup_mount;

typedef struct qn_cgroup {
    char base[128];               /* in front of every path: a test's tree */
    qn_cgroup_mount v2, cpu, mem; /* the last two of version 1 */
} qn_cgroup;

/* base: "" for this machine. */
void qn_cgroup_find(qn_cgroup *g, const char *base);

typedef struct qn_cgroup_limits {
    int version;           /* of the group that limits processor time; 0: none does */
    double cpus;           /* quota / period; 0: no limit */
    uint64_t memory_bytes; /* 0: no limit */
    /* of the limiting group since it was made: periods, those that used up the quota, time lost */
    uint64_t n_periods, n_throttled, throttled_us;
} qn_cgroup_limits;
/* As they are now: a process may be moved, a limit changed. */
void qn_cgroup_read(const qn_cgroup *g, qn_cgroup_limits *out);

#endif
