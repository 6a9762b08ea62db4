/* SPDX-License-Identifier: Apache-2.0
 * load_run.h - one run of `quern load`: starts requests when they are due, watches their answers, gathers what came of them.
 *
 *   open loop    arrivals of a Poisson process, whatever the server does; intended start: the arrival
 *   closed loop  each of `concurrency` clients asks again when it has its answer; intended start: that moment. Refused or failed, it
 *                first waits as long as Retry-After says, or 0.1 s
 *
 * Threads: main, which runs the event base inside load_run. */
#ifndef QN_CMD_LOAD_RUN_H
#define QN_CMD_LOAD_RUN_H

#include "cmd/load_client.h"

typedef struct load_run_config {
    struct event_base *base;
    load_client *client;
    const load_work *work;
    const char *path;    /* "/completions" */
    int concurrency;     /* closed loop, work->rate is 0 */
    uint64_t n_requests; /* 0: as many as come in duration_s */
    double duration_s;   /* of arrivals; 0: no limit */
    uint64_t n_warmup;   /* first requests that do not count */
    double timeout_s;    /* 0: none */
    double attain;       /* percent: stop as soon as a class can no longer attain it; 0: never */
    const char *label;   /* of the progress bar */
} load_run_config;

/* Requests that fail are no failure of the run. Ctrl-C ends it: is_interrupted. */
QN_MUST_USE qn_status load_run(load_results *out, const load_run_config *config, qn_err *err);

#endif
