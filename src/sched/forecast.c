/* SPDX-License-Identifier: Apache-2.0
 * forecast.c - see forecast.h. */
#include "sched/forecast.h"

/* Fewer steps say nothing. */
#define LEAST_STEPS 8u

/* An answer's tokens: what was asked for, or what answers of the class had of late, if less. */
static uint32_t answer_of(const qn_forecast *f, uint32_t class_id, uint32_t most)
{
    uint32_t usual = f->n_output[class_id];
    return usual ? QN_MIN(usual, most) : most;
}

uint64_t qn_forecast_work_ns(const qn_forecast *f, uint64_t n_prompt, uint64_t n_output)
{
    return qn_cost_model_ns(&f->cost, f->prompt_rows, 0) / f->prompt_rows * n_prompt +
           qn_cost_model_ns(&f->cost, f->decode_rows, 0) / f->decode_rows * n_output;
}

void qn_forecast_make(qn_forecast *f, const qn_scheduler *s)
{
    *f = (qn_forecast){.cost = s->cost,
                       .n = s->classes.n,
                       .prompt_rows = s->options.max_batch_tokens,
                       .decode_rows = s->seats};
    for (uint32_t i = 0; i < f->n; i++) {
        f->share[i] = s->classes.list[i].share;
        f->n_output[i] = s->classes.list[i].n_output;
    }
    uint64_t prompts[QN_MAX_CLASSES] = {0}, answers[QN_MAX_CLASSES] = {0};
    for (size_t i = 0; i < s->n_seqs; i++) {
        const qn_sched_seq *q = s->seqs[i];
        uint32_t left = q->max_tokens > q->n_tokens ? q->max_tokens - q->n_tokens : 0;
        f->waits[q->class_id] = f->waits[q->class_id] || q->state == QN_SEQ_WAITING;
        prompts[q->class_id] += q->n_tokens - q->n_computed;
        answers[q->class_id] += answer_of(f, q->class_id, left);
    }
    for (uint32_t i = 0; i < f->n; i++)
        f->work_ns[i] = qn_forecast_work_ns(f, prompts[i], answers[i]);
}

void qn_forecast_add(qn_forecast *f, uint32_t class_id, uint32_t n_prompt, uint32_t n_output,
                     uint32_t n_answers)
{
    uint64_t n = (uint64_t)n_answers * answer_of(f, class_id, n_output);
    f->work_ns[class_id] += qn_forecast_work_ns(f, n_prompt, n);
}

uint64_t qn_forecast_ns(const qn_forecast *f, uint32_t class_id, uint32_t n_prompt,
                        uint32_t n_output)
{
    uint32_t others = 0;
    if (f->cost.n_steps < LEAST_STEPS)
        return 0;
    n_output = answer_of(f, class_id, n_output);
    uint64_t alone = qn_cost_model_ns(&f->cost, n_prompt, qn_context_of(0, n_prompt)) +
                     n_output * qn_cost_model_ns(&f->cost, 1, n_prompt);
    uint64_t work = f->work_ns[class_id] + qn_forecast_work_ns(f, n_prompt, n_output);
    for (uint32_t i = 0; i < f->n; i++)
        if (i != class_id && f->waits[i])
            others += f->share[i];
    uint64_t queued = work / f->share[class_id] * (f->share[class_id] + others);
    return QN_MAX(alone, queued);
}
