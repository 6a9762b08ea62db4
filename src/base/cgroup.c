/* SPDX-License-Identifier: Apache-2.0
 * cgroup.c - finds this process's control groups and reads their limits.
 * Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst, proc_pid_mountinfo(5). */
#include "base/cgroup.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"

enum { MOST_LEVELS = 32, SMALL = 4096, PATH = 768 };

/* The word that begins at *at; moves behind it. Empty at the end of the line. */
static qn_slice next_word(const char **at, char end)
{
    const char *p = *at;
    size_t n = 0;
    while (p[n] && p[n] != '\n' && p[n] != end)
        n++;
    *at = p + n + (p[n] == end);
    return (qn_slice){p, n};
}

static const char *next_line(const char *p)
{
    p += strcspn(p, "\n");
    return *p ? p + 1 : p;
}

static bool has_item(qn_slice list, const char *item)
{
    char text[512];
    (void)snprintf(text, sizeof text, "%.*s", (int)QN_MIN(list.n, sizeof text - 1), list.p);
    for (const char *at = text; *at;)
        if (qn_slice_is(next_word(&at, ','), item))
            return true;
    return false;
}

static void keep(qn_cgroup_mount *m, qn_slice dir, qn_slice root)
{
    if (m->dir[0] || dir.n >= sizeof m->dir || root.n >= sizeof m->root)
        return;
    memcpy(m->dir, dir.p, dir.n);
    memcpy(m->root, root.p, root.n);
    if (strcmp(m->root, "/") == 0)
        m->root[0] = 0;
}

/* 31 23 0:28 ROOT DIR OPTIONS [FIELD...] - TYPE SOURCE OPTIONS */
static void read_mount(qn_cgroup *g, const char *line)
{
    const char *at = line;
    for (int i = 0; i < 3; i++)
        (void)next_word(&at, ' ');
    qn_slice root = next_word(&at, ' '), dir = next_word(&at, ' '), w;
    do
        w = next_word(&at, ' ');
    while (w.n > 0 && !qn_slice_is(w, "-"));
    qn_slice type = next_word(&at, ' ');
    (void)next_word(&at, ' ');
    qn_slice options = next_word(&at, ' ');
    if (qn_slice_is(type, "cgroup2"))
        keep(&g->v2, dir, root);
    if (!qn_slice_is(type, "cgroup"))
        return;
    if (has_item(options, "cpu"))
        keep(&g->cpu, dir, root);
    if (has_item(options, "memory"))
        keep(&g->mem, dir, root);
}

void qn_cgroup_find(qn_cgroup *g, const char *base)
{
    *g = (qn_cgroup){0};
    (void)snprintf(g->base, sizeof g->base, "%s", base);
    char path[PATH];
    qn_str text = {0};
    (void)snprintf(path, sizeof path, "%s/proc/self/mountinfo", base);
    if (qn_file_read(&text, path, (size_t)4 << 20, NULL) == QN_OK && text.p)
        for (const char *line = text.p; *line; line = next_line(line))
            read_mount(g, line);
    qn_str_fini(&text);
}

/* ---- a group's files ---- */

/* First two numbers of a small file; what is not a number ("max", -1) ends them. Returns how many. */
static int numbers(const char *dir, const char *name, uint64_t out[2])
{
    char path[PATH + 64], text[SMALL];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    int n = 0;
    if (qn_file_peek(path, text, sizeof text) > 0)
        for (const char *at = text; n < 2; n++) {
            qn_slice w = next_word(&at, ' ');
            if (!qn_parse_u64(w.p, w.n, UINT64_MAX, &out[n]))
                break;
        }
    return n;
}

static uint64_t named_number(const char *text, const char *name)
{
    uint64_t v = 0;
    for (const char *line = text; *line; line = next_line(line)) {
        const char *at = line;
        if (!qn_slice_is(next_word(&at, ' '), name))
            continue;
        qn_slice w = next_word(&at, ' ');
        return qn_parse_u64(w.p, w.n, UINT64_MAX, &v) ? v : 0;
    }
    return 0;
}

static void read_cpu(const char *dir, int version, qn_cgroup_limits *out)
{
    uint64_t quota[2] = {0}, period[2] = {0};
    char path[PATH + 64], text[SMALL];
    if (version == 2) {
        if (numbers(dir, "cpu.max", quota) < 2)
            return;
        period[0] = quota[1];
    } else if (numbers(dir, "cpu.cfs_quota_us", quota) < 1 ||
               numbers(dir, "cpu.cfs_period_us", period) < 1) {
        return;
    }
    if (!quota[0] || !period[0])
        return;
    double cpus = (double)quota[0] / (double)period[0];
    if (out->cpus > 0 && cpus >= out->cpus)
        return;
    out->cpus = cpus;
    out->version = version;
    (void)snprintf(path, sizeof path, "%s/cpu.stat", dir);
    if (qn_file_peek(path, text, sizeof text) == 0)
        text[0] = 0;
    out->n_periods = named_number(text, "nr_periods");
    out->n_throttled = named_number(text, "nr_throttled");
    out->throttled_us = version == 2 ? named_number(text, "throttled_usec")
                                     : named_number(text, "throttled_time") / 1000;
}

static void read_memory(const char *dir, int version, qn_cgroup_limits *out)
{
    uint64_t v[2];
    if (numbers(dir, version == 2 ? "memory.max" : "memory.limit_in_bytes", v) < 1)
        return;
    if (v[0] < (uint64_t)1 << 60 && (!out->memory_bytes || v[0] < out->memory_bytes))
        out->memory_bytes = v[0]; /* version 1 shows "no limit" as a number near 2^63 */
}

typedef void (*read_fn)(const char *dir, int version, qn_cgroup_limits *out);

/* The group and all it lies in. `group` as /proc/self/cgroup names it. */
static void read_levels(const qn_cgroup *g, const qn_cgroup_mount *m, qn_slice group, int version,
                        read_fn fn, qn_cgroup_limits *out)
{
    size_t n_root = strlen(m->root), n_dir;
    char dir[PATH];
    if (!m->dir[0])
        return;
    /* a group outside of what is mounted: only the mount's own folder can be seen */
    bool is_inside = group.n >= n_root && memcmp(group.p, m->root, n_root) == 0 &&
                     (group.n == n_root || group.p[n_root] == '/');
    if (is_inside && memmem(group.p, group.n, "/..", 3))
        is_inside = false;
    int n = snprintf(dir, sizeof dir, "%s%s", g->base, m->dir);
    n_dir = (size_t)n;
    if (is_inside)
        n += snprintf(dir + n, sizeof dir - (size_t)n, "%.*s", (int)(group.n - n_root),
                      group.p + n_root);
    if ((size_t)n >= sizeof dir)
        dir[n_dir] = 0;
    for (int i = 0; i < MOST_LEVELS; i++) {
        fn(dir, version, out);
        char *slash = strrchr(dir + n_dir, '/');
        if (!slash)
            return;
        *slash = 0;
    }
}

void qn_cgroup_read(const qn_cgroup *g, qn_cgroup_limits *out)
{
    char path[PATH], text[SMALL];
    *out = (qn_cgroup_limits){0};
    (void)snprintf(path, sizeof path, "%s/proc/self/cgroup", g->base);
    if (qn_file_peek(path, text, sizeof text) == 0)
        return;
    for (const char *line = text; *line; line = next_line(line)) {
        const char *at = line;
        qn_slice id = next_word(&at, ':'), controllers = next_word(&at, ':');
        qn_slice group = next_word(&at, '\n');
        if (qn_slice_is(id, "0")) {
            read_levels(g, &g->v2, group, 2, read_cpu, out);
            read_levels(g, &g->v2, group, 2, read_memory, out);
        }
        if (has_item(controllers, "cpu"))
            read_levels(g, &g->cpu, group, 1, read_cpu, out);
        if (has_item(controllers, "memory"))
            read_levels(g, &g->mem, group, 1, read_memory, out);
    }
}
