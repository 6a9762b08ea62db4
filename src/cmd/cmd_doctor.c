/* SPDX-License-Identifier: Apache-2.0
 * cmd_doctor.c - `quern doctor`: what this machine has, what is used of it, what slows it down now, and what to change.
 *
 * A finding is one line: a name, what was found, and if something can be done about it, what. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/cpu/kernels.h"
#include "backend/ops.h"
#include "base/cpu.h"
#include "base/json.h"
#include "base/machine.h"
#include "base/mem.h"
#include "base/share.h"
#include "cmd/cmd.h"
#include "format/weights.h"
#include <quern/measure.h>

typedef struct doctor_options {
    const char *model;
    bool json, hardware;
} doctor_options;

static const qn_opt doctor_opts[] = {
    {"model", 'm', QN_OPT_STR, offsetof(doctor_options, model), "MODEL",
     .help = "also whether this model's weights fit in the memory"},
    {"hardware", 0, QN_OPT_FLAG, offsetof(doctor_options, hardware),
     .help = "only the hardware and its measured roofs"},
    {"json", 0, QN_OPT_FLAG, offsetof(doctor_options, json), .help = "one JSON object"},
};
static const qn_opt_group doctor_group = {"Options", doctor_opts, QN_COUNT(doctor_opts)};

const qn_opts cmd_doctor_opts = {
    .command = "doctor",
    .args = "",
    .summary = "Check this machine: what is used, what slows it down, what to change",
    .about = "Measures for some seconds. Nothing is changed. A finding marked ! can be improved.",
    .groups = {{&doctor_group, 0}},
};

enum { MOST_FINDINGS = 32, TOP = 5 };

typedef struct finding {
    const char *name;
    char found[240], advice[200]; /* advice: empty when all is good */
    double value;                 /* for programs; its unit is in the name's documentation */
} finding;

typedef struct doctor {
    finding f[MOST_FINDINGS];
    size_t n;
    qn_share *share;
    qn_share_now now;
    qn_roofs one, all;
} doctor;

static finding *add(doctor *d, const char *name, double value)
{
    QN_ASSERT(d->n < MOST_FINDINGS);
    finding *f = &d->f[d->n++];
    *f = (finding){.name = name, .value = value};
    return f;
}

#define FOUND(f, ...)  (void)snprintf((f)->found, sizeof((f)->found), __VA_ARGS__)
#define ADVISE(f, ...) (void)snprintf((f)->advice, sizeof((f)->advice), __VA_ARGS__)

/* ---- hardware ---- */

static void cpu(doctor *d)
{
    const qn_topology *t = qn_share_topology(d->share);
    finding *f = add(d, "cpu", t->n_cores);
    FOUND(f, "%s: %d processors, %d cores, %d package%s, %d memory node%s", t->model, t->n_cpus,
          t->n_cores, t->n_packages, t->n_packages == 1 ? "" : "s", t->n_nodes,
          t->n_nodes == 1 ? "" : "s");
}

#if defined(__x86_64__)
#define BUILT_IN "plain C, avx2, avx512"
#elif defined(__aarch64__)
#define BUILT_IN "plain C, neon, i8mm"
#else
#define BUILT_IN "plain C"
#endif

static qn_status isa(doctor *d, qn_err *err)
{
    unsigned have = qn_cpu_flags();
    qn_kernels chosen;
    QN_TRY(qn_kernels_choose(&chosen, have, err));
    char name[64];
    finding *f = add(d, "instructions", have);
    FOUND(f, "%s; kernels built in for %s", qn_cpu_flags_name(have, name, sizeof name), BUILT_IN);
    if (!have)
        ADVISE(f, "only plain C can be used, many times slower: want AVX2 with FMA, or NEON with "
                  "dot products");
    if (chosen.n_left_out)
        ADVISE(f,
               "%u kernels give wrong results on this processor and are not used: please report "
               "it",
               (unsigned)chosen.n_left_out);
    return QN_OK;
}

static void caches(doctor *d)
{
    const qn_topology *t = qn_share_topology(d->share);
    finding *f = add(d, "caches", (double)qn_topology_last_cache(t));
    int at = 0;
    for (size_t i = 0; i < t->n_caches && at < 160; i++) {
        const qn_cache *c = &t->caches[i];
        at += snprintf(f->found + at, sizeof f->found - (size_t)at, "%sL%d%s %d x %zu KiB",
                       i ? ", " : "", c->level,
                       c->type == 'D'   ? "d"
                       : c->type == 'I' ? "i"
                                        : "",
                       c->n, c->bytes >> 10);
    }
    if (!t->n_caches)
        FOUND(f, "not shown by the system");
}

static qn_status measure(qn_roofs *out, int n_threads, char *name, size_t size, qn_err *err)
{
    const qn_backend *b = qn_backend_cpu();
    qn_device *device = NULL;
    qn_device_config c = {.n_threads = n_threads,
                          .cpu_mask = QN_CPU_ALL,
                          .max_rows = 1,
                          .max_seqs = 1,
                          .max_ctx = 64};
    QN_TRY(b->open(&device, &c, err));
    b->measure_roofs(device, out);
    b->describe(device, name, size);
    b->close(device);
    return QN_OK;
}

static void show_roofs(doctor *d, const char *name, const char *device, const qn_roofs *r)
{
    finding *f = add(d, name, r->read_bytes_s);
    FOUND(f, "%s: read %.1f GB/s, int8 %.0f GOPS, float32 %.0f GFLOPS", device,
          r->read_bytes_s * 1e-9, r->int8_ops_s * 1e-9, r->f32_flops_s * 1e-9);
    if (r->read_bytes_s == 0)
        ADVISE(f, "no memory to measure the read speed with");
}

static qn_status roofs(doctor *d, qn_err *err)
{
    char name[96];
    int n = d->now.n_workers;
    QN_TRY(measure(&d->one, 1, name, sizeof name, err));
    show_roofs(d, "roofs of one thread", name, &d->one);
    if (n == 1)
        return QN_OK;
    QN_TRY(measure(&d->all, n, name, sizeof name, err));
    show_roofs(d, "roofs of all threads", name, &d->all);
    if (d->all.int8_ops_s < 0.7 * n * d->one.int8_ops_s)
        ADVISE(
            &d->f[d->n - 1],
            "%d threads compute only %.1f times what one does: other programs, a shared core, or "
            "a lowered clock take the rest",
            n, d->all.int8_ops_s / d->one.int8_ops_s);
    return QN_OK;
}

/* ---- limits and state ---- */

static void threads(doctor *d)
{
    const qn_share_now *s = &d->now;
    const qn_topology *t = qn_share_topology(d->share);
    finding *f = add(d, "threads", s->n_workers);
    FOUND(f, "%d by default, set by: %s (%d of %d processors allowed, %d cores)", s->n_workers,
          qn_share_limit_name(s->limit), s->n_allowed, t->n_cpus, s->n_cores);
    if (s->limit == QN_SHARE_AFFINITY)
        ADVISE(f, "give the process more processors: taskset, or the cpuset of its container");
    f = add(d, "quota", s->cgroup.cpus);
    if (s->cgroup.cpus > 0)
        FOUND(f, "%.2f processors (cgroup version %d); %llu of %llu periods so far used it up",
              s->cgroup.cpus, s->cgroup.version, (unsigned long long)s->cgroup.n_throttled,
              (unsigned long long)s->cgroup.n_periods);
    else
        FOUND(f, "none");
    if (s->cgroup.cpus > 0 && s->cgroup.cpus < s->n_cores)
        ADVISE(f, "raise cpu.max, or --cpus of the container, to %d for all cores", s->n_cores);
}

static void memory(doctor *d)
{
    qn_machine_memory m;
    qn_machine_memory_read(&m, "");
    uint64_t limit = d->now.cgroup.memory_bytes;
    finding *f = add(d, "memory", (double)m.available_bytes);
    FOUND(f, "%.1f GB, %.1f GB of it available", (double)m.total_bytes * 1e-9,
          (double)m.available_bytes * 1e-9);
    if (limit && limit < m.total_bytes) {
        size_t at = strlen(f->found);
        (void)snprintf(f->found + at, sizeof f->found - at, "; the cgroup's limit is %.1f GB",
                       (double)limit * 1e-9);
    }
    if (m.available_bytes < m.total_bytes / 10)
        ADVISE(f, "less than a tenth is free: end other programs before loading a model");
}

static void huge_pages(doctor *d)
{
    char mode[32];
    qn_machine_mode(mode, sizeof mode, "", QN_MACHINE_HUGE_PAGES);
    double share = qn_machine_try_huge_pages();
    finding *f = add(d, "huge pages", share);
    if (share < 0)
        FOUND(f, "mode '%s'; what a block gets cannot be seen here", mode);
    else
        FOUND(f, "mode '%s'; a fresh block got them for %.0f %%", mode, share * 100);
    if (!mode[0] || strcmp(mode, "never") == 0)
        ADVISE(f, "echo madvise > " QN_MACHINE_HUGE_PAGES ": weights are read 15 to 20 %% faster");
    else if (share >= 0 && share < 0.9)
        ADVISE(f, "memory is fragmented: echo 1 > /proc/sys/vm/compact_memory, or free the caches");
}

static void governor(doctor *d)
{
    char mode[32];
    qn_machine_mode(mode, sizeof mode, "", QN_MACHINE_GOVERNOR);
    finding *f = add(d, "clock governor", 0);
    FOUND(f, "%s", mode[0] ? mode : "not shown by the system");
    if (strcmp(mode, "powersave") == 0 || strcmp(mode, "conservative") == 0)
        ADVISE(f, "cpupower frequency-set -g performance");
}

/* What happens during a second in which this program does nothing. */
static qn_status others(doctor *d, qn_err *err)
{
    qn_processes *before = NULL, *after = NULL;
    qn_process top[TOP];
    uint64_t start = qn_now_ns();
    qn_share_read(d->share, 0, &d->now);
    QN_TRY(qn_processes_read(&before, "", err));
    (void)usleep(1000000);
    qn_status s = qn_processes_read(&after, "", err);
    if (s == QN_OK) {
        /* smoothed readings show half of a first one */
        qn_share_now now;
        qn_share_read(d->share, 0, &now);
        size_t n = qn_processes_top(before, after, (double)(qn_now_ns() - start) * 1e-9, top, TOP);
        finding *f = add(d, "stolen time", now.steal * 2);
        FOUND(f, "%.2f of %d processors", now.steal * 2, now.n_allowed);
        if (now.steal * 2 > 0.1 * now.n_allowed)
            ADVISE(f, "the hypervisor gives this machine's processors to others: want dedicated "
                      "ones");
        f = add(d, "throttled", now.throttled * 2);
        FOUND(f, "%.0f %% of the last second's periods", now.throttled * 200);
        if (now.throttled > 0.05)
            ADVISE(f, "the cgroup's quota is used up by its other processes");
        f = add(d, "other programs", now.others * 2);
        int at = snprintf(f->found, sizeof f->found, "use %.2f processors", now.others * 2);
        for (size_t i = 0; i < n && at < 180 && top[i].cpus > 0.02; i++)
            at += snprintf(f->found + at, sizeof f->found - (size_t)at, "%s%s (pid %d) %.2f",
                           i ? ", " : ": ", top[i].name, top[i].pid, top[i].cpus);
        if (now.others * 2 > 0.5)
            ADVISE(f,
                   "end them or move them to other processors: all threads wait for the slowest");
    }
    qn_processes_free(before);
    qn_processes_free(after);
    return s;
}

static qn_status model(doctor *d, const char *name, qn_err *err)
{
    qn_str path = {0};
    uint64_t bytes = 0;
    qn_machine_memory m;
    qn_status s = cmd_model_find(&path, name, err);
    qn_weights *w = NULL;
    if (s == QN_OK)
        s = qn_weights_open(&w, path.p, err);
    if (s == QN_OK) {
        for (size_t i = 0; i < w->n_files; i++)
            bytes += w->files[i]->size;
        qn_machine_memory_read(&m, "");
        uint64_t room = d->now.cgroup.memory_bytes
                            ? QN_MIN(m.available_bytes, d->now.cgroup.memory_bytes)
                            : m.available_bytes;
        finding *f = add(d, "model", (double)bytes);
        FOUND(f, "%.2f GB of weights; %.2f GB of memory are available", (double)bytes * 1e-9,
              (double)room * 1e-9);
        if ((double)bytes * 1.15 > (double)room)
            ADVISE(f,
                   "take a smaller quantization or model: weights, K/V cache and work space want "
                   "about %.1f GB",
                   (double)bytes * 1.15e-9);
    }
    qn_weights_free(w);
    qn_str_fini(&path);
    return s;
}

/* ---- printing ---- */

static void print_text(const doctor *d)
{
    size_t n_bad = 0;
    for (size_t i = 0; i < d->n; i++) {
        const finding *f = &d->f[i];
        printf("%s %-21s %s\n", f->advice[0] ? "!" : " ", f->name, f->found);
        if (f->advice[0])
            printf("  %-21s -> %s\n", "", f->advice);
        n_bad += f->advice[0] != 0;
    }
    printf("%zu of %zu findings can be improved\n", n_bad, d->n);
}

static qn_status print_json(const doctor *d, qn_err *err)
{
    qn_str s = {0};
    qn_str_addf(&s, "{\"threads\": %d, \"roofs\": [", d->now.n_workers);
    const qn_roofs *const roofs[] = {&d->one, &d->all};
    for (size_t i = 0; i < 2 && roofs[i]->int8_ops_s > 0; i++)
        qn_str_addf(&s,
                    "%s{\"threads\": %d, \"read_bytes_s\": %.0f, \"int8_ops_s\": %.0f, "
                    "\"f32_flops_s\": %.0f}",
                    i ? ", " : "", i ? d->now.n_workers : 1, roofs[i]->read_bytes_s,
                    roofs[i]->int8_ops_s, roofs[i]->f32_flops_s);
    qn_str_adds(&s, "],\n \"findings\": [");
    for (size_t i = 0; i < d->n; i++) {
        const finding *f = &d->f[i];
        qn_str_addf(&s, "%s{\"name\": \"%s\", \"good\": %s, \"value\": %.6g, \"found\": ",
                    i ? ",\n  " : "", f->name, f->advice[0] ? "false" : "true", f->value);
        qn_str_add_json(&s, f->found, strlen(f->found));
        qn_str_adds(&s, ", \"advice\": ");
        qn_str_add_json(&s, f->advice, strlen(f->advice));
        qn_str_adds(&s, "}");
    }
    qn_str_adds(&s, "]}\n");
    bool failed = s.failed;
    if (!failed)
        (void)fputs(s.p, stdout);
    qn_str_fini(&s);
    return failed ? qn_fail_nomem(err, s.n) : QN_OK;
}

static qn_status examine(doctor *d, const doctor_options *o, qn_err *err)
{
    QN_TRY(qn_share_new(&d->share, "", err));
    qn_share_read(d->share, 0, &d->now);
    cpu(d);
    QN_TRY(isa(d, err));
    caches(d);
    QN_TRY(roofs(d, err));
    if (!o->hardware) {
        threads(d);
        memory(d);
        huge_pages(d);
        governor(d);
        QN_TRY(others(d, err));
    }
    return o->model ? model(d, o->model, err) : QN_OK;
}

int cmd_doctor(int argc, char **argv)
{
    doctor_options o = {0};
    qn_opts_found found = {0};
    qn_err err = {0};
    int code = cmd_parse(&cmd_doctor_opts, &o, argc, argv, &found);
    qn_opts_found_fini(&found);
    if (code >= 0)
        return code;
    doctor *d = qn_calloc(1, sizeof *d, QN_MEM_MISC);
    qn_status s = d ? examine(d, &o, &err) : qn_fail_nomem(&err, sizeof *d);
    if (s == QN_OK && o.json)
        s = print_json(d, &err);
    else if (s == QN_OK)
        print_text(d);
    if (d)
        qn_share_free(d->share);
    qn_free(d);
    return s == QN_OK ? CMD_OK : cmd_fail(&err);
}
