/* SPDX-License-Identifier: Apache-2.0
 * topology.h - processors, the physical cores, packages and memory nodes they are part of, and
 * their caches, as Linux shows them under /sys/devices/system.
 *
 * What is missing there is assumed simple: a processor is its own core, all are of one package and
 * one node. Threads: any. */
#ifndef QN_BASE_TOPOLOGY_H
#define QN_BASE_TOPOLOGY_H

#include "base/base.h"

#define QN_CPUS_MAX 4096 /* processors beyond are not used */

typedef struct qn_cpuset {
    uint64_t bits[QN_CPUS_MAX / 64];
} qn_cpuset;
static inline bool qn_cpuset_has(const qn_cpuset *s, int cpu)
{
    return s->bits[cpu / 64] >> (cpu % 64) & 1;
}
static inline void qn_cpuset_add(qn_cpuset *s, int cpu)
{
    s->bits[cpu / 64] |= (uint64_t)1 << (cpu % 64);
}
int qn_cpuset_count(const qn_cpuset *s);
/* "0-3,8,10-11". False, and an empty set, when it is something else. */
bool qn_cpuset_parse(qn_cpuset *out, const char *text);
/* The affinity of the calling thread, which includes the cpuset of its control group. */
void qn_cpuset_of_thread(qn_cpuset *out);
/* Where the calling thread may run from now on; a hint: failure is harmless. */
void qn_cpuset_bind_thread(const qn_cpuset *s);

typedef struct qn_cache {
    int level;
    char type; /* 'D', 'I' or 'U': data, instructions, unified */
    size_t bytes;
    int n_sharing, n; /* processors that share one; how many there are */
} qn_cache;

typedef struct qn_topology {
    qn_cpuset online;
    uint16_t core[QN_CPUS_MAX]; /* the lowest processor of the same core */
    uint16_t node[QN_CPUS_MAX];
    int n_cpus, n_cores, n_packages, n_nodes;
    qn_cache caches[8]; /* of processor 0, those nearest first */
    size_t n_caches;
    char model[64]; /* "AMD EPYC 7763 64-Core Processor" */
} qn_topology;
/* base: "" for this machine, else the folder of a test's tree. */
void qn_topology_read(qn_topology *t, const char *base);
/* Physical cores that a set of processors is of. */
int qn_topology_n_cores(const qn_topology *t, const qn_cpuset *of);
/* The processors of `of` for worker i of n: those of one node, where workers fill the nodes in order,
 * each as many as it has of the cores. */
void qn_topology_place(const qn_topology *t, const qn_cpuset *of, int i, int n, qn_cpuset *out);
/* Bytes of the last cache: all of its instances; 0 when unknown. */
size_t qn_topology_last_cache(const qn_topology *t);

#endif
