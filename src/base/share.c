/* SPDX-License-Identifier: Apache-2.0
 * share.c - affinity, quota, other programs, throttling and steal put together.
 * Source: proc_stat(5). */
#include "base/share.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define THROTTLED   0.25 /* of the periods: from here on a worker less */
#define CALM        8    /* readings without throttling before a worker comes back */
#define QUOTA_LOST  1.1
#define SMOOTH      0.5 /* weight of a new reading */
#define WHOLE_ABOVE 0.6 /* what others leave of a core, for it to count */

/* Clock ticks of the processors of the mask. */
typedef struct ticks {
    uint64_t busy, steal, all;
} ticks;

struct qn_share {
    qn_topology topology;
    qn_cgroup cgroup;
    char stat_path[160], stat[64 << 10]; /* /proc/stat: as many processors as fit */
    qn_cpuset allowed;
    ticks ticks; /* at the last reading */
    uint64_t own_ns, n_periods, n_throttled;
    bool has_read;
    double throttled, steal, others;
    int n_less, n_calm; /* workers given up to throttling; readings since */
};

qn_status qn_share_new(qn_share **out, const char *base, qn_err *err)
{
    qn_share *s = *out = qn_calloc(1, sizeof *s, QN_MEM_MISC);
    if (!s)
        return qn_fail_nomem(err, sizeof *s);
    qn_topology_read(&s->topology, base);
    qn_cgroup_find(&s->cgroup, base);
    (void)snprintf(s->stat_path, sizeof s->stat_path, "%s/proc/stat", base);
    return QN_OK;
}

void qn_share_free(qn_share *s)
{
    qn_free(s);
}

const qn_topology *qn_share_topology(const qn_share *s)
{
    return &s->topology;
}

const char *qn_share_limit_name(qn_share_limit l)
{
    static const char *const names[] = {
        [QN_SHARE_CORES] = "physical cores",      [QN_SHARE_AFFINITY] = "affinity",
        [QN_SHARE_QUOTA] = "cgroup quota",        [QN_SHARE_OTHERS] = "other programs",
        [QN_SHARE_THROTTLED] = "quota throttled", [QN_SHARE_STEAL] = "steal"};
    return names[l];
}

/* cpu3 user nice system idle iowait irq softirq steal ...: the first eight are all of the time. */
static bool read_line(const char *line, int *cpu, uint64_t v[8])
{
    const char *at = line + 3;
    size_t n = strspn(at, "0123456789");
    uint64_t id;
    if (!qn_starts_with(line, "cpu") || !qn_parse_u64(at, n, QN_CPUS_MAX - 1, &id))
        return false;
    *cpu = (int)id;
    at += n;
    for (int i = 0; i < 8; i++) {
        at += strspn(at, " ");
        n = strcspn(at, " \n");
        if (!qn_parse_u64(at, n, UINT64_MAX >> 16, &v[i]))
            return false;
        at += n;
    }
    return true;
}

static ticks read_ticks(qn_share *s)
{
    ticks t = {0};
    uint64_t v[8];
    int cpu;
    (void)qn_file_peek(s->stat_path, s->stat, sizeof s->stat);
    for (const char *line = s->stat; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        if (!read_line(line, &cpu, v) || !qn_cpuset_has(&s->allowed, cpu))
            continue;
        t.busy += v[0] + v[1] + v[2] + v[5] + v[6]; /* not idle, iowait, steal */
        t.steal += v[7];
        for (int i = 0; i < 8; i++)
            t.all += v[i];
    }
    return t;
}

static void smooth(double *mean, double v)
{
    *mean += SMOOTH * (v - *mean);
}

/* What the processors did since the last reading. */
static void follow_ticks(qn_share *s, double kept)
{
    const ticks t = read_ticks(s), *was = &s->ticks;
    struct timespec own = {0};
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
    uint64_t own_ns = (uint64_t)own.tv_sec * 1000000000u + (uint64_t)own.tv_nsec;
    if (s->has_read && t.all > was->all && t.busy >= was->busy && t.steal >= was->steal) {
        double all = (double)(t.all - was->all);
        double cpus = (double)qn_cpuset_count(&s->allowed);
        double own_ticks = (double)(own_ns - s->own_ns) * 1e-9 * (double)sysconf(_SC_CLK_TCK);
        double used = ((double)(t.busy - was->busy) - own_ticks) / all * cpus;
        /* who takes a processor from us as often as we from them wants as much again */
        smooth(&s->others, QN_MAX(0.0, used) + kept);
        smooth(&s->steal, (double)(t.steal - was->steal) / all * cpus);
    }
    s->ticks = t;
    s->own_ns = own_ns;
}

/* When the quota is used up all the same, others of the group use it too: one worker less each time,
 * one more after a calm while. */
static void follow_throttling(qn_share *s, const qn_cgroup_limits *l, int n)
{
    double share = 0;
    if (s->has_read && l->n_periods > s->n_periods && l->n_throttled >= s->n_throttled)
        share = (double)(l->n_throttled - s->n_throttled) / (double)(l->n_periods - s->n_periods);
    s->n_periods = l->n_periods;
    s->n_throttled = l->n_throttled;
    smooth(&s->throttled, QN_MIN(share, 1.0));
    if (share > THROTTLED && n <= l->cpus) {
        s->n_less = QN_MIN(s->n_less + 1, n - 1);
        s->n_calm = 0;
    } else if (s->n_less > 0 && ++s->n_calm >= CALM) {
        s->n_less--;
        s->n_calm = 0;
    }
}

/* Rounded down, which is never throttled, where that loses less than a tenth: 7 of 7.65, 2 of 1.5. */
static int of_quota(double cpus)
{
    int n = (int)QN_MIN(cpus, 1e6);
    if (!(cpus > 0))
        return INT_MAX;
    return cpus > QUOTA_LOST * n ? n + 1 : n;
}

static void cap(qn_share_now *now, int n, qn_share_limit limit)
{
    if (n < now->n_workers) {
        now->n_workers = QN_MAX(1, n);
        now->limit = limit;
    }
}

void qn_share_read(qn_share *s, double kept, qn_share_now *now)
{
    qn_cpuset allowed;
    *now = (qn_share_now){.limit = QN_SHARE_CORES};
    qn_cpuset_of_thread(&allowed);
    if (memcmp(&allowed, &s->allowed, sizeof allowed) != 0)
        s->has_read = false; /* other processors: their counts are no continuation */
    s->allowed = allowed;
    qn_cgroup_read(&s->cgroup, &now->cgroup);
    now->n_allowed = qn_cpuset_count(&allowed);
    now->n_cores = QN_MAX(1, qn_topology_n_cores(&s->topology, &allowed));
    now->n_workers = QN_MAX(1, s->topology.n_cores);
    cap(now, now->n_cores, QN_SHARE_AFFINITY);
    cap(now, of_quota(now->cgroup.cpus), QN_SHARE_QUOTA);
    follow_throttling(s, &now->cgroup, now->n_workers);
    follow_ticks(s, kept);
    s->has_read = true;
    now->throttled = s->throttled;
    now->steal = s->steal;
    now->others = s->others;
    if (s->n_less > 0)
        cap(now, now->n_workers - s->n_less, QN_SHARE_THROTTLED);
    int left = (int)(now->n_cores - now->others + WHOLE_ABOVE);
    if (2 * left >= now->n_cores)
        cap(now, left, QN_SHARE_OTHERS);
    cap(now, (int)(now->n_cores - now->steal + WHOLE_ABOVE), QN_SHARE_STEAL);
}
