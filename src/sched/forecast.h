/* SPDX-License-Identifier: Apache-2.0
 * forecast.h - how long a request that came now would take: from what waits and runs before it.
 * A copy of numbers, made by the engine thread after each step and read by who submits.
 * Threads: one owner; a copy is another's. */
#ifndef QN_SCHED_FORECAST_H
#define QN_SCHED_FORECAST_H

#include "sched/scheduler.h"

typedef struct qn_forecast {
    qn_cost_model cost;
    uint64_t work_ns[QN_MAX_CLASSES];  /* of the class's sequences, until they end */
    uint32_t n_output[QN_MAX_CLASSES]; /* tokens of an answer, of late; 0: not known */
    uint32_t share[QN_MAX_CLASSES];
    bool waits[QN_MAX_CLASSES];           /* has sequences that wait: takes all of its share */
    uint32_t n, prompt_rows, decode_rows; /* rows of a step full of either */
} qn_forecast;

void qn_forecast_make(qn_forecast *f, const qn_scheduler *s);
/* The machine's time for so many tokens in full steps. */
uint64_t qn_forecast_work_ns(const qn_forecast *f, uint64_t n_prompt, uint64_t n_output);
/* A request came: it is before whoever comes next. Each of its answers has at most n_output. */
void qn_forecast_add(qn_forecast *f, uint32_t class_id, uint32_t n_prompt, uint32_t n_output,
                     uint32_t n_answers);
/* From now to the end of its answer, of which at most n_output tokens: alone on the machine, or
 * behind all of its class at the class's share, whichever is longer. 0: too little was measured. */
uint64_t qn_forecast_ns(const qn_forecast *f, uint32_t class_id, uint32_t n_prompt,
                        uint32_t n_output);

#endif
