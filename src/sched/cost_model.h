/* SPDX-License-Identifier: Apache-2.0
 * cost_model.h - how long a step will take: learned from the steps that were.
 *
 *   ns(rows, context) = at 1 2 4 8 .. 65536 rows, a line between two   + context * ns of one
 *
 * context is the sum over the rows of the tokens that each looks back at. A size that was never
 * measured is taken from the nearest that was, by the shape that steps have anywhere: something
 * that every step costs, and something for each row. Old measurements fade. Integers only.
 * Threads: one owner; a copy is another's. */
#ifndef QN_SCHED_COST_MODEL_H
#define QN_SCHED_COST_MODEL_H

#include "base/base.h"

#define QN_COST_POINTS 17

typedef struct qn_cost_model {
    uint64_t ns[QN_COST_POINTS];    /* of a step of 2^i rows, less what context takes */
    uint64_t usual[QN_COST_POINTS]; /* the median of that, slowly found */
    uint32_t seen[QN_COST_POINTS];  /* steps measured there, counted to 8 */
    uint64_t context;               /* 1/1024 ns for a row and a token that it looks back at */
    uint64_t n_steps;
} qn_cost_model;

void qn_cost_model_init(qn_cost_model *m);
/* A step took ns. */
void qn_cost_model_add(qn_cost_model *m, uint32_t rows, uint64_t context, uint64_t ns);
/* rows 0: 0. Sensible, though not right, before anything was measured. */
uint64_t qn_cost_model_ns(const qn_cost_model *m, uint32_t rows, uint64_t context);
/* The same as it mostly is: half of the steps took less, over some hundred. What held the machine up for a second is not in it. */
uint64_t qn_cost_model_usual_ns(const qn_cost_model *m, uint32_t rows, uint64_t context);
/* The context of n rows that begin behind `start` tokens. */
static inline uint64_t qn_context_of(uint32_t start, uint32_t n)
{
    return (uint64_t)n * start + (uint64_t)n * (n + 1) / 2;
}

#endif
