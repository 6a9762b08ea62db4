/* SPDX-License-Identifier: Apache-2.0
 * machine.c - reads /proc and /sys. Sources: proc_meminfo(5), proc_pid_stat(5). */
#include "base/machine.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

enum { PATH = 320, SMALL = 4096 };

/* "NAME:   123 kB" of a text of such lines, in bytes; 0: not there. */
static uint64_t field_bytes(const char *text, const char *name)
{
    size_t n = strlen(name);
    uint64_t kib;
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        if (strncmp(line, name, n) != 0 || line[n] != ':')
            continue;
        const char *at = line + n + 1 + strspn(line + n + 1, " ");
        return qn_parse_u64(at, strspn(at, "0123456789"), UINT64_MAX >> 10, &kib) ? kib << 10 : 0;
    }
    return 0;
}

void qn_machine_memory_read(qn_machine_memory *m, const char *base)
{
    char path[PATH], text[SMALL];
    (void)snprintf(path, sizeof path, "%s/proc/meminfo", base);
    (void)qn_file_peek(path, text, sizeof text);
    m->total_bytes = field_bytes(text, "MemTotal");
    m->available_bytes = field_bytes(text, "MemAvailable");
}

void qn_machine_mode(char *out, size_t size, const char *base, const char *path)
{
    char full[PATH], text[256];
    (void)snprintf(full, sizeof full, "%s%s", base, path);
    (void)qn_file_peek(full, text, sizeof text);
    const char *at = strchr(text, '[');
    at = at ? at + 1 : text;
    (void)snprintf(out, size, "%.*s", (int)strcspn(at, "] \n"), at);
}

static uint64_t huge_bytes(void)
{
    char text[SMALL];
    (void)qn_file_peek("/proc/self/smaps_rollup", text, sizeof text);
    return field_bytes(text, "Rss") ? field_bytes(text, "AnonHugePages") + 1 : 0;
}

double qn_machine_try_huge_pages(void)
{
    const size_t bytes = (size_t)64 << 20;
    uint64_t before = huge_bytes();
    char *p = qn_alloc(bytes, QN_MEM_ACTIVATIONS); /* as what models use */
    if (!p || !before) {
        qn_free(p);
        return -1;
    }
    memset(p, 1, bytes);
    __asm__ volatile("" : : "r"(p) : "memory");
    uint64_t after = huge_bytes();
    qn_free(p);
    return after > before ? QN_MIN((double)(after - before) / (double)bytes, 1.0) : 0;
}

/* ---- processes ---- */

typedef struct entry {
    int pid;
    uint64_t ticks;
    char name[32];
} entry;

struct qn_processes {
    entry *entries;
    size_t n, cap;
};

/* PID (NAME) STATE and then 10 fields before the time in user mode and the time in the kernel. */
static bool parse_stat(const char *text, entry *e)
{
    const char *open = strchr(text, '('), *close = strrchr(text, ')');
    uint64_t v[2];
    if (!open || !close || close < open)
        return false;
    qn_escape(e->name, sizeof e->name, open + 1, (size_t)(close - open - 1));
    const char *at = close + 1;
    for (int i = 0; i < 13; i++) {
        at += strspn(at, " ");
        size_t n = strcspn(at, " \n");
        if (i >= 11 && !qn_parse_u64(at, n, UINT64_MAX >> 2, &v[i - 11]))
            return false;
        at += n;
    }
    e->ticks = v[0] + v[1];
    return true;
}

qn_status qn_processes_read(qn_processes **out, const char *base, qn_err *err)
{
    char path[PATH], text[SMALL];
    qn_processes *p = *out = qn_calloc(1, sizeof *p, QN_MEM_MISC);
    if (!p)
        return qn_fail_nomem(err, sizeof *p);
    (void)snprintf(path, sizeof path, "%s/proc", base);
    DIR *d = opendir(path);
    const struct dirent *f;
    while (d && (f = readdir(d))) {
        uint64_t pid;
        entry e = {0};
        if (!qn_parse_u64(f->d_name, strlen(f->d_name), INT32_MAX, &pid) || (int)pid == getpid())
            continue;
        (void)snprintf(path, sizeof path, "%s/proc/%d/stat", base, (int)pid);
        e.pid = (int)pid;
        if (qn_file_peek(path, text, sizeof text) == 0 || !parse_stat(text, &e))
            continue;
        if (!qn_grow(&p->entries, &p->cap, p->n + 1, sizeof e, QN_MEM_MISC)) {
            size_t bytes = (p->n + 1) * sizeof e;
            (void)closedir(d);
            qn_processes_free(p);
            *out = NULL;
            return qn_fail_nomem(err, bytes);
        }
        p->entries[p->n++] = e;
    }
    if (d)
        (void)closedir(d);
    return QN_OK;
}

void qn_processes_free(qn_processes *p)
{
    if (p)
        qn_free(p->entries);
    qn_free(p);
}

size_t qn_processes_top(const qn_processes *before, const qn_processes *after, double seconds,
                        qn_process *top, size_t n_top)
{
    size_t n = 0;
    for (size_t i = 0; i < after->n; i++) {
        const entry *e = &after->entries[i];
        uint64_t ticks = e->ticks;
        for (size_t k = 0; k < before->n; k++)
            if (before->entries[k].pid == e->pid)
                ticks -= QN_MIN(ticks, before->entries[k].ticks);
        qn_process now = {.pid = e->pid,
                          .cpus = (double)ticks / (double)sysconf(_SC_CLK_TCK) / seconds};
        (void)snprintf(now.name, sizeof now.name, "%s", e->name);
        size_t at = n;
        while (at > 0 && top[at - 1].cpus < now.cpus)
            at--;
        if (!ticks || at >= n_top)
            continue;
        n = QN_MIN(n + 1, n_top);
        memmove(top + at + 1, top + at, (n - 1 - at) * sizeof *top);
        top[at] = now;
    }
    return n;
}
