/* SPDX-License-Identifier: Apache-2.0
 * checkkern.c - checks and times every CPU kernel against plain C (the idea is dav1d's checkasm).
 *
 * usage: checkkern [--seed N] [--bench] [SUITE...]
 * The last line counts: "N passed, N failed, N skipped". Exit status 1 when something failed. */
#include "checkkern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/mem.h"
#include "base/thread.h"

static qn_kernels ref;
static ck_isa isas[5];
ck_isa ck_emulated;
const qn_kernels *ck_ref = &ref;
const ck_isa *ck_isas = isas;
int ck_n_isas;
bool ck_is_bench;

static uint64_t rng;
static unsigned n_passed, n_failed, n_skipped;

uint32_t ck_rand(void)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u; /* PCG, Melissa O'Neill 2014 */
    uint32_t x = (uint32_t)((rng >> 18 ^ rng) >> 27), r = (uint32_t)(rng >> 59);
    return x >> r | x << (-r & 31);
}

size_t ck_below(size_t n)
{
    return ck_rand() % n;
}

float ck_normal(void)
{
    float s = 0;
    for (int i = 0; i < 4; i++)
        s += (float)(int32_t)ck_rand() * 0x1p-31f;
    return s * 0.866f;
}

void ck_normals(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = ck_normal();
}

/* ---- memory: [64 bytes: size][bytes][64 guard bytes] ---- */

enum { HEAD = 64, GUARD = 64, GUARD_BYTE = 0xa5 };

void *ck_in(size_t bytes)
{
    unsigned char *p = qn_alloc(HEAD + bytes + GUARD, QN_MEM_MISC);
    if (!p) {
        fprintf(stderr, "checkkern: out of memory (%zu bytes)\n", bytes);
        exit(2);
    }
    memcpy(p, &bytes, sizeof bytes);
    memset(p + HEAD + bytes, GUARD_BYTE, GUARD);
    return p + HEAD;
}

void *ck_out(size_t bytes)
{
    void *p = ck_in(bytes);
    memset(p, 0xff, bytes); /* NaN as float or half */
    return p;
}

bool ck_guard_ok(const void *out)
{
    const unsigned char *p = out;
    size_t bytes;
    memcpy(&bytes, p - HEAD, sizeof bytes);
    for (size_t i = 0; i < GUARD; i++)
        if (p[bytes + i] != GUARD_BYTE)
            return false;
    return true;
}

void ck_free(void *p)
{
    if (p)
        qn_free((unsigned char *)p - HEAD);
}

/* ---- results ---- */

void ck_result(bool ok, const char *fmt, ...)
{
    *(ok ? &n_passed : &n_failed) += 1;
    if (ok)
        return;
    va_list ap;
    va_start(ap, fmt);
    printf("FAILED: ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
}

void ck_skip(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    n_skipped++;
    printf("skipped: ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
}

double ck_time(int n_threads, void (*fn)(void *arg, int thread, int n_threads), void *arg)
{
    qn_team *team;
    qn_err err;
    double best = INFINITY, total = 0;
    if (qn_team_new(&team, n_threads, &err) != QN_OK) {
        fprintf(stderr, "checkkern: %s\n", err.msg);
        exit(2);
    }
    for (int i = 0; i < 3 || total < 0.1; i++) {
        uint64_t start = qn_now_ns();
        qn_team_run(team, fn, arg);
        double s = (double)(qn_now_ns() - start) * 1e-9;
        best = fmin(best, s);
        total += s;
    }
    qn_team_free(team);
    return best;
}

void ck_row(const char *what, const char *isa, int n_threads, double seconds, double gops,
            double gbytes)
{
    printf("%-34s %-8s %d thread%s %10.3f ms", what, isa, n_threads, n_threads == 1 ? " " : "s",
           seconds * 1e3);
    if (gops > 0)
        printf("  %8.1f GOPS", gops / seconds);
    if (gbytes > 0)
        printf("  %7.2f GB/s", gbytes / seconds);
    printf("\n");
    fflush(stdout);
}

/* ---- the instruction sets ---- */

void qn_matmul_init_avx512_emul(qn_kernels *k); /* matmul_avx512.c on tests/kernels/avx512_emul */

static void init_isas(void)
{
    static const struct {
        unsigned flag, with;
        const char *name;
    } known[] = {{QN_CPU_AVX2, 0, "avx2"},
                 {QN_CPU_AVX512, QN_CPU_AVX2, "avx512"},
                 {QN_CPU_NEON, 0, "neon"},
                 {QN_CPU_I8MM, QN_CPU_NEON, "i8mm"}};
    unsigned have = qn_cpu_flags();
    qn_kernels_init(&ref, 0);
    isas[ck_n_isas++] = (ck_isa){"plain C", ref};
    for (size_t i = 0; i < QN_COUNT(known); i++) {
        if (!(have & known[i].flag)) {
            ck_skip("%s not run: this CPU does not have it", known[i].name);
        } else {
            isas[ck_n_isas].name = known[i].name;
            qn_kernels_init(&isas[ck_n_isas++].k, known[i].flag | known[i].with);
        }
    }
    ck_emulated = (ck_isa){"avx512 (emulated)", ref};
#if defined(__x86_64__)
    qn_matmul_init_avx512_emul(&ck_emulated.k);
#endif
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } suites[] = {
#define CK_SUITE(name) {#name, check_##name},
        SUITES(CK_SUITE)
#undef CK_SUITE
    };
    uint64_t seed = qn_now_ns() % 1000000;
    bool is_named = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            ck_is_bench = true;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            seed = strtoull(argv[++i], NULL, 10);
        } else if (argv[i][0] != '-') {
            is_named = true;
        } else {
            fprintf(stderr, "usage: checkkern [--seed N] [--bench] [SUITE...]\n");
            return 2;
        }
    }
    printf("checkkern: --seed %llu\n", (unsigned long long)seed);
    init_isas();
    for (size_t s = 0; s < QN_COUNT(suites); s++) {
        bool is_wanted = !is_named;
        for (int i = 1; i < argc; i++)
            is_wanted |= strcmp(argv[i], suites[s].name) == 0;
        if (!is_wanted)
            continue;
        rng = seed * 2 + 1;
        suites[s].run();
    }
    printf("%u passed, %u failed, %u skipped\n", n_passed, n_failed, n_skipped);
    return n_failed != 0;
}
