/* SPDX-License-Identifier: Apache-2.0
 * share.h - how much of the machine this process may use and gets, read again while it runs.
 *
 * Workers that make sense = the smallest of
 *   physical cores of the affinity mask (which a cpuset is part of): a core's second thread adds
 *     nothing to kernels that already fill its ports
 *   the control group's quota of processor time, rounded down unless that loses a tenth of it
 *   the cores that other programs leave: all workers wait for the slowest, so one that shares its
 *     core halves the speed of all. Where less than half would be left, all cores are used
 *   what is left of these when a hypervisor or the quota keeps taking time away
 * Threads: one owner. */
#ifndef QN_BASE_SHARE_H
#define QN_BASE_SHARE_H

#include "base/cgroup.h"
#include "base/topology.h"

typedef enum qn_share_limit {
    QN_SHARE_CORES,    /* all of the machine's */
    QN_SHARE_AFFINITY, /* taskset, a cpuset */
    QN_SHARE_QUOTA,    /* cpu.max */
    QN_SHARE_OTHERS,   /* other programs */
    QN_SHARE_THROTTLED,
    QN_SHARE_STEAL
} qn_share_limit;

typedef struct qn_share_now {
    int n_workers; /* that make sense, at least 1 */
    qn_share_limit limit;
    int n_allowed, n_cores; /* processors of the affinity mask; their physical cores */
    qn_cgroup_limits cgroup;
    /* Smoothed over the last readings: share of the periods whose quota was used up; processors of
     * the mask that the hypervisor gave to others; that other programs use or want. */
    double throttled, steal, others;
} qn_share_now;

typedef struct qn_share qn_share;
/* base: "" for this machine, else the folder of a test's tree. */
QN_MUST_USE qn_status qn_share_new(qn_share **out, const char *base, qn_err *err);
void qn_share_free(qn_share *s); /* NULL allowed */
const qn_topology *qn_share_topology(const qn_share *s);
/* kept: processors that this process's threads were ready for and did not get, on average since the
 * last reading. About a tenth of a millisecond; allocates nothing. */
void qn_share_read(qn_share *s, double kept, qn_share_now *now);
const char *qn_share_limit_name(qn_share_limit l); /* "cgroup quota" */

#endif
