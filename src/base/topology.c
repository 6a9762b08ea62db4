/* SPDX-License-Identifier: Apache-2.0
 * topology.c - reads the machine's shape. Source: Documentation/ABI/stable/sysfs-devices-system-cpu. */
#include "base/topology.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"

#define CPU_DIR  "/sys/devices/system/cpu"
#define NODE_DIR "/sys/devices/system/node"
enum { PATH = 256, LIST = 8192 };

/* ---- sets ---- */

int qn_cpuset_count(const qn_cpuset *s)
{
    int n = 0;
    for (size_t i = 0; i < QN_COUNT(s->bits); i++)
        n += __builtin_popcountll(s->bits[i]);
    return n;
}

bool qn_cpuset_parse(qn_cpuset *out, const char *text)
{
    *out = (qn_cpuset){0};
    for (const char *at = text; *at && *at != '\n';) {
        size_t n = strspn(at, "0123456789"), m = 0;
        uint64_t first, last;
        bool is_range = at[n] == '-';
        if (is_range)
            m = strspn(at + n + 1, "0123456789");
        bool ok = qn_parse_u64(at, n, QN_CPUS_MAX - 1, &first);
        last = first;
        if (is_range)
            ok = ok && qn_parse_u64(at + n + 1, m, QN_CPUS_MAX - 1, &last);
        at += n + (is_range ? m + 1 : 0);
        if (!ok || last < first || (*at && *at != ',' && *at != '\n')) {
            *out = (qn_cpuset){0};
            return false;
        }
        for (uint64_t c = first; c <= last; c++)
            qn_cpuset_add(out, (int)c);
        at += *at == ',';
    }
    return true;
}

void qn_cpuset_of_thread(qn_cpuset *out)
{
    *out = (qn_cpuset){0};
    if (syscall(SYS_sched_getaffinity, 0, sizeof out->bits, out->bits) <= 0)
        for (long i = 0, n = sysconf(_SC_NPROCESSORS_ONLN); i < QN_MIN(n, QN_CPUS_MAX); i++)
            qn_cpuset_add(out, (int)i);
}

void qn_cpuset_bind_thread(const qn_cpuset *s)
{
    (void)syscall(SYS_sched_setaffinity, 0, sizeof s->bits, s->bits);
}

/* ---- the machine ---- */

static bool read_set(qn_cpuset *out, const char *base, const char *dir, int i, const char *name)
{
    char path[PATH], text[LIST];
    if (i >= 0)
        (void)snprintf(path, sizeof path, "%s%s%d/%s", base, dir, i, name);
    else
        (void)snprintf(path, sizeof path, "%s%s/%s", base, dir, name);
    return qn_file_peek(path, text, sizeof text) > 0 && qn_cpuset_parse(out, text);
}

static bool read_number(uint64_t *out, const char *base, int cpu, const char *name)
{
    char path[PATH], text[32];
    (void)snprintf(path, sizeof path, "%s" CPU_DIR "/cpu%d/%s", base, cpu, name);
    size_t n = qn_file_peek(path, text, sizeof text) > 0 ? strcspn(text, "K\n") : 0;
    return n > 0 && qn_parse_u64(text, n, UINT32_MAX, out);
}

static int lowest(const qn_cpuset *s)
{
    for (size_t i = 0; i < QN_COUNT(s->bits); i++)
        if (s->bits[i])
            return (int)i * 64 + __builtin_ctzll(s->bits[i]);
    return -1;
}

static void read_cores(qn_topology *t, const char *base)
{
    qn_cpuset packages = {0}, siblings;
    for (int c = 0; c < QN_CPUS_MAX; c++) {
        uint64_t package = 0;
        if (!qn_cpuset_has(&t->online, c))
            continue;
        t->core[c] = (uint16_t)c;
        if (read_set(&siblings, base, CPU_DIR "/cpu", c, "topology/thread_siblings_list") &&
            qn_cpuset_has(&siblings, c))
            t->core[c] = (uint16_t)lowest(&siblings);
        if (read_number(&package, base, c, "topology/physical_package_id") && package < QN_CPUS_MAX)
            qn_cpuset_add(&packages, (int)package);
    }
    t->n_cpus = qn_cpuset_count(&t->online);
    t->n_cores = qn_topology_n_cores(t, &t->online);
    t->n_packages = QN_MAX(1, qn_cpuset_count(&packages));
}

/* Nodes without processors (memory expanders) do not count. */
static void read_nodes(qn_topology *t, const char *base)
{
    qn_cpuset nodes, cpus;
    if (!read_set(&nodes, base, NODE_DIR, -1, "online"))
        nodes = (qn_cpuset){0};
    for (int i = 0; i < QN_CPUS_MAX; i++) {
        if (!qn_cpuset_has(&nodes, i) || !read_set(&cpus, base, NODE_DIR "/node", i, "cpulist") ||
            lowest(&cpus) < 0)
            continue;
        for (int c = 0; c < QN_CPUS_MAX; c++)
            if (qn_cpuset_has(&cpus, c))
                t->node[c] = (uint16_t)t->n_nodes;
        t->n_nodes++;
    }
    t->n_nodes = QN_MAX(1, t->n_nodes);
}

static void read_caches(qn_topology *t, const char *base)
{
    int cpu = QN_MAX(0, lowest(&t->online));
    for (int i = 0; i < (int)QN_COUNT(t->caches); i++) {
        char name[64], path[PATH], type[32];
        uint64_t level, kib;
        qn_cpuset sharing;
        (void)snprintf(name, sizeof name, "cache/index%d/level", i);
        if (!read_number(&level, base, cpu, name))
            return;
        (void)snprintf(name, sizeof name, "cache/index%d/size", i);
        if (!read_number(&kib, base, cpu, name))
            continue;
        (void)snprintf(path, sizeof path, "%s" CPU_DIR "/cpu%d/cache/index%d/type", base, cpu, i);
        (void)qn_file_peek(path, type, sizeof type);
        (void)snprintf(name, sizeof name, "cache/index%d/shared_cpu_list", i);
        bool ok = read_set(&sharing, base, CPU_DIR "/cpu", cpu, name);
        int n_sharing = ok ? QN_MAX(1, qn_cpuset_count(&sharing)) : 1;
        t->caches[t->n_caches++] = (qn_cache){.level = (int)QN_MIN(level, (uint64_t)9),
                                              .type = type[0] ? type[0] : 'U',
                                              .bytes = (size_t)kib << 10,
                                              .n_sharing = n_sharing,
                                              .n = QN_MAX(1, t->n_cpus / n_sharing)};
    }
}

static void read_model(qn_topology *t, const char *base)
{
    char path[PATH], text[4096];
    (void)snprintf(path, sizeof path, "%s/proc/cpuinfo", base);
    (void)qn_file_peek(path, text, sizeof text);
    const char *line = strstr(text, "model name"), *at = line ? strchr(line, ':') : NULL;
    at = at ? at + 1 + strspn(at + 1, " \t") : "unknown";
    (void)snprintf(t->model, sizeof t->model, "%.*s", (int)strcspn(at, "\n"), at);
}

void qn_topology_read(qn_topology *t, const char *base)
{
    memset(t, 0, sizeof *t);
    if (!read_set(&t->online, base, CPU_DIR, -1, "online") || lowest(&t->online) < 0)
        qn_cpuset_of_thread(&t->online);
    read_cores(t, base);
    read_nodes(t, base);
    read_caches(t, base);
    read_model(t, base);
}

int qn_topology_n_cores(const qn_topology *t, const qn_cpuset *of)
{
    qn_cpuset cores = {0};
    for (int c = 0; c < QN_CPUS_MAX; c++)
        if (qn_cpuset_has(of, c))
            qn_cpuset_add(&cores, qn_cpuset_has(&t->online, c) ? t->core[c] : c);
    return qn_cpuset_count(&cores);
}

void qn_topology_place(const qn_topology *t, const qn_cpuset *of, int i, int n, qn_cpuset *out)
{
    int n_cores = qn_topology_n_cores(t, of), before = 0;
    int at = (int)((int64_t)i * n_cores / QN_MAX(n, 1)); /* the core whose node it gets */
    for (int node = 0; node < t->n_nodes; node++) {
        *out = (qn_cpuset){0};
        for (int c = 0; c < QN_CPUS_MAX; c++)
            if (qn_cpuset_has(of, c) && t->node[c] == node)
                qn_cpuset_add(out, c);
        before += qn_topology_n_cores(t, out);
        if (at < before)
            return;
    }
    *out = *of;
}

size_t qn_topology_last_cache(const qn_topology *t)
{
    const qn_cache *best = NULL;
    for (size_t i = 0; i < t->n_caches; i++)
        if (t->caches[i].type != 'I' && (!best || t->caches[i].level > best->level))
            best = &t->caches[i];
    return best ? best->bytes * (size_t)best->n : 0;
}
