/* SPDX-License-Identifier: Apache-2.0
 * cost_model.c - see cost_model.h. */
#include "sched/cost_model.h"

/* Before the first step: 17 ms for one row, 528 ms for 512, as a small model on a small machine. */
#define BASE_ROWS 16u
#define ROW_NS    ((uint64_t)1000000)
#define CONTEXT   (ROW_NS / 8192 * 1024)
/* A measurement weighs at least 1/8 of what was known. */
#define FADE 8u
/* In 1/1024: the median is found in steps of so much, larger ones at first. */
#define MEDIAN_STEP  8
#define MOST_NS      ((uint64_t)1 << 40)
#define MOST_CONTEXT ((uint64_t)1 << 27)

void qn_cost_model_init(qn_cost_model *m)
{
    *m = (qn_cost_model){.context = CONTEXT};
}

/* What steps cost relative to each other where nothing was measured. */
static uint64_t shape(uint64_t rows)
{
    return BASE_ROWS + rows;
}

/* ns of 2^i rows, by what was measured at 2^j. */
static uint64_t by_shape(const uint64_t *ns, unsigned i, unsigned j)
{
    return ns[j] * shape((uint64_t)1 << i) / shape((uint64_t)1 << j);
}

/* ns of 2^i rows; ns: one of m's. */
static uint64_t at(const qn_cost_model *m, const uint64_t *ns, unsigned i)
{
    for (unsigned d = 0; d < QN_COST_POINTS; d++) {
        if (i >= d && m->seen[i - d])
            return by_shape(ns, i, i - d);
        if (i + d < QN_COST_POINTS && m->seen[i + d])
            return by_shape(ns, i, i + d);
    }
    return ROW_NS * shape((uint64_t)1 << i);
}

/* 2^i is the largest power that is not more than rows, and has one above it. */
static unsigned below(uint32_t rows)
{
    unsigned i = 0;
    while (i + 2 < QN_COST_POINTS && rows >> (i + 1))
        i++;
    return i;
}

static uint64_t base_ns(const qn_cost_model *m, const uint64_t *ns, uint32_t rows)
{
    unsigned i = below(rows);
    uint64_t low = (uint64_t)1 << i, a = at(m, ns, i), b = QN_MAX(a, at(m, ns, i + 1));
    return a + (b - a) * (rows - low) / low;
}

/* In an order that fits 64 bits for 2^40 tokens. */
static uint64_t context_ns(const qn_cost_model *m, uint64_t context)
{
    return context / 64 * m->context / 16;
}

uint64_t qn_cost_model_ns(const qn_cost_model *m, uint32_t rows, uint64_t context)
{
    return rows ? base_ns(m, m->ns, rows) + context_ns(m, context) : 0;
}

uint64_t qn_cost_model_usual_ns(const qn_cost_model *m, uint32_t rows, uint64_t context)
{
    return rows ? base_ns(m, m->usual, rows) + context_ns(m, context) : 0;
}

static unsigned nearest(uint32_t rows)
{
    unsigned i = below(rows);
    uint64_t low = (uint64_t)1 << i;
    return rows - low < 2 * low - rows || rows < low ? i : i + 1;
}

/* value * (1 + change/1024), at least 1 */
static uint64_t changed(uint64_t value, int64_t change)
{
    int64_t to = (int64_t)value + (int64_t)value * change / 1024;
    return (uint64_t)QN_MAX(to, 1);
}

void qn_cost_model_add(qn_cost_model *m, uint32_t rows, uint64_t context, uint64_t ns)
{
    if (!rows || !ns)
        return;
    ns = QN_MIN(ns, MOST_NS);
    uint64_t base = base_ns(m, m->ns, rows), past = context_ns(m, context), all = base + past;
    unsigned i = nearest(rows);
    uint64_t ratio = QN_MIN(ns * 1024 / all, (uint64_t)1 << 20), part = base * 1024 / all;
    if (!m->n_steps++) /* all of the first guess was wrong by as much */
        m->context = QN_MAX(m->context * QN_MIN(ratio, 1u << 19) / 1024, (uint64_t)1);
    if (!m->seen[i]) {
        m->ns[i] = ns * part / 1024 * shape((uint64_t)1 << i) / shape(rows);
        m->ns[i] = m->usual[i] = QN_MAX(m->ns[i], (uint64_t)1);
        m->seen[i] = 1;
        return;
    }
    /* The machine was held up: once is not twice as slow. */
    int64_t error = (int64_t)QN_MIN(ratio, 2048u) - 1024;
    m->seen[i] = QN_MIN(m->seen[i] + 1, FADE);
    int64_t weight = QN_MAX(m->seen[i], 1u);
    int64_t median_step = ns > base_ns(m, m->usual, rows) + past ? MEDIAN_STEP : -MEDIAN_STEP;
    m->usual[i] = QN_MIN(changed(m->usual[i], median_step * FADE / weight), MOST_NS);
    /* Each part is wrong in proportion to what it is of the whole. */
    m->ns[i] = changed(m->ns[i], error * (int64_t)part / 1024 / weight);
    m->context = changed(m->context, error * (int64_t)(1024 - part) / 1024 / (int64_t)FADE);
    m->ns[i] = QN_MIN(m->ns[i], MOST_NS);
    m->context = QN_MIN(m->context, MOST_CONTEXT);
}
