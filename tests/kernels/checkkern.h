/* SPDX-License-Identifier: Apache-2.0
 * checkkern.h - what the kernel checks share. A suite is one function in one file check_<name>.c, listed in SUITES.
 *
 * A suite calls its kernels with fresh random inputs, for plain C (ck_ref) and for every instruction set this machine has
 * (ck_isas), and reports each case with ck_result. Outputs come from ck_out: filled with NaN and followed by guard bytes. */
#ifndef QN_TESTS_CHECKKERN_H
#define QN_TESTS_CHECKKERN_H

#include "backend/cpu/kernels.h"

#define SUITES(X)      X(matmul) X(ops)

#define CK_SUITE(name) void check_##name(void);
SUITES(CK_SUITE)
#undef CK_SUITE

typedef struct ck_isa {
    const char *name;
    qn_kernels k;
} ck_isa;

extern const qn_kernels *ck_ref; /* plain C */
extern const ck_isa *ck_isas;    /* plain C first, then the others that can run here */
extern int ck_n_isas;
extern ck_isa
    ck_emulated;         /* AVX-512's integer products, else plain C: says nothing about the CPU */
extern bool ck_is_bench; /* --bench: also call the bench functions */

uint32_t ck_rand(void);    /* 32 random bits */
size_t ck_below(size_t n); /* 0 .. n - 1 */
float ck_normal(void);     /* about N(0, 1) */
void ck_normals(float *x, size_t n);

void *ck_in(size_t bytes);  /* 64-byte aligned; fails the program if there is no memory */
void *ck_out(size_t bytes); /* the same, poisoned and guarded */
bool ck_guard_ok(const void *out);
void ck_free(void *p); /* of ck_in or ck_out */

/* Counts one case; prints it when it failed. */
void ck_result(bool ok, const char *fmt, ...) QN_PRINTF(2, 3);
void ck_skip(const char *fmt, ...) QN_PRINTF(1, 2);

/* Seconds of one call: the best of several runs over at least 0.1 s. fn runs on n_threads threads at once. */
double ck_time(int n_threads, void (*fn)(void *arg, int thread, int n_threads), void *arg);
/* A row of the bench: zero values are not printed. */
void ck_row(const char *what, const char *isa, int n_threads, double seconds, double gops,
            double gbytes);

#endif
