/* SPDX-License-Identifier: Apache-2.0
 * cmd_bench.h - the two halves of `quern bench`: rows of models (cmd_bench.c) and of single operations (cmd_bench_op.c).
 * Threads: main. */
#ifndef QN_CMD_CMD_BENCH_H
#define QN_CMD_CMD_BENCH_H

#include "cmd/cmd.h"
#include <quern/measure.h>

typedef struct bench_op_options {
    int op;                    /* index of --op's word; -1: none */
    const char *shape, *heads; /* NULL: the operation's own */
    qn_opt_ints tokens;
    int n_experts, topk;
} bench_op_options;
extern const qn_opt_group cmd_bench_op_group;
bench_op_options cmd_bench_op_defaults(void);

typedef struct bench_op_run {
    const bench_op_options *o;
    const qn_config *config; /* threads and instruction sets */
    const qn_opt_ints *depths;
    int repeat;
    bool is_json;
} bench_op_run;
QN_MUST_USE qn_status cmd_bench_op(const bench_op_run *r, qn_err *err);

/* Sorts; the middle one, or the mean of the two middle ones. */
double cmd_median(double *v, size_t n);

#endif
