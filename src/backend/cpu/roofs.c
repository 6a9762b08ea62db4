/* SPDX-License-Identifier: Apache-2.0
 * roofs.c - what this machine's workers read and compute at most: the roofs that profiles are held against.
 *
 * Every figure is the best of several short runs of all workers together: what other programs take away is not the machine's.
 * Threads: the engine thread, which runs the team. */
#include <string.h>
#include <unistd.h>

#include "backend/cpu/cpu_device.h"
#include "base/mem.h"

#define MIB      ((size_t)1 << 20)
#define UNIT     ((size_t)4096) /* a worker's part of the memory is a multiple of it */
#define RUNS     12
#define SLICE_NS 4000000 /* of one run of arithmetic */

typedef struct roof_job {
    const qn_kernels *k;
    char *memory;
    size_t bytes;
    double (*compute)(size_t n);
    size_t n;
    double ops[QN_TEAM_MAX]; /* a worker's, of one run */
} roof_job;

/* Every worker writes what it reads afterwards: its pages come from its own node. */
static void touch(void *arg, int thread, int n_threads)
{
    roof_job *j = arg;
    size_t b, e;
    qn_team_split(j->bytes, UNIT, thread, n_threads, &b, &e);
    memset(j->memory + b, 1, e - b);
}

static void read_part(void *arg, int thread, int n_threads)
{
    const roof_job *j = arg;
    size_t b, e;
    qn_team_split(j->bytes, UNIT, thread, n_threads, &b, &e);
    j->k->roof_read(j->memory + b, e - b);
}

static void compute_part(void *arg, int thread, int n_threads)
{
    roof_job *j = arg;
    (void)n_threads;
    j->ops[thread] = j->compute(j->n);
}

/* Seconds of one run. */
static double timed(const qn_device *d, qn_team_fn fn, roof_job *j)
{
    uint64_t start = qn_now_ns();
    qn_team_run(d->team, fn, j);
    return (double)QN_MAX(qn_now_ns() - start, (uint64_t)1) * 1e-9;
}

/* 4 times the last cache, so that next to nothing is found there; 0 when there is no memory for it. */
static double read_bytes_s(const qn_device *d)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t want = cache > 0 ? 4 * (size_t)cache : 128 * MIB;
    roof_job j = {.k = &d->k, .bytes = QN_MIN(QN_MAX(want, 128 * MIB), 1024 * MIB)};
    double best = 0;
    j.memory = qn_alloc(j.bytes, QN_MEM_ACTIVATIONS);
    if (!j.memory)
        return 0;
    qn_team_run(d->team, touch, &j);
    for (int i = 0; i < RUNS; i++)
        best = QN_MAX(best, (double)j.bytes / timed(d, read_part, &j));
    qn_free(j.memory);
    return best;
}

static double ops_s(const qn_device *d, double (*compute)(size_t n))
{
    roof_job j = {.k = &d->k, .compute = compute, .n = 64};
    double best = 0;
    while (timed(d, compute_part, &j) < SLICE_NS * 1e-9 && j.n < (size_t)1 << 40)
        j.n *= 2;
    for (int i = 0; i < RUNS; i++) {
        memset(j.ops, 0, sizeof j.ops);
        double s = timed(d, compute_part, &j), ops = 0;
        for (size_t t = 0; t < QN_COUNT(j.ops); t++)
            ops += j.ops[t];
        best = QN_MAX(best, ops / s);
    }
    return best;
}

void qn_cpu_measure_roofs(qn_device *d, qn_roofs *out)
{
    *out = (qn_roofs){.read_bytes_s = read_bytes_s(d),
                      .int8_ops_s = ops_s(d, d->k.roof_int8),
                      .f32_flops_s = ops_s(d, d->k.roof_f32)};
}
