/* SPDX-License-Identifier: Apache-2.0
 * speculate.c - see speculate.h. */
#include "sample/speculate.h"

#include <string.h>

/* ---- the time of a step ---- */

#define NEW_WEIGHT   0.25   /* of a measurement against those before */
#define MOST_CHANGE  2.0    /* what one measurement may show: more is a hiccup of the machine */
#define PRIOR_SLOPE  0.1    /* a row more, in rows of one: low, so that it is tried once */
#define FADED_SLOPE  0.05   /* what an old measurement fades to, ... */
#define FADE         0.0005 /* ... so much with each step without drafts */
#define LEAST_GAIN   1.03   /* below, the drafts' bookkeeping and what was mistaken eat it */
#define LEAST_CHANCE 0.02
#define MOST_DRAFTED 128 /* steps in a row; then one without, to see what it takes today */

static double limit_change(double old, double ns)
{
    ns = QN_MIN(ns, old * MOST_CHANGE);
    return QN_MAX(ns, old / MOST_CHANGE);
}

/* Entries above `base` rows hold now `factor` times what they cost over it. */
static void scale_excess(qn_step_cost *c, uint32_t base, uint32_t but, double factor)
{
    for (uint32_t r = base + 1; r <= QN_SPEC_ROWS; r++)
        if (r != but && c->ns[r] > c->ns[base])
            c->ns[r] = c->ns[base] + (c->ns[r] - c->ns[base]) * factor;
}

/* Steps without drafts say how fast the machine is now and how long the texts are: all entries move
 * with them, and what drafts cost on top fades. */
static void add_plain(qn_step_cost *c, uint32_t rows, double change)
{
    for (uint32_t r = 1; r <= QN_SPEC_ROWS; r++) {
        c->ns[r] *= change;
        double faded = c->ns[rows] * (1 + FADED_SLOPE * ((double)r - rows));
        if (r > rows && c->ns[r] > faded)
            c->ns[r] += (faded - c->ns[r]) * FADE;
    }
}

void qn_step_cost_add(qn_step_cost *c, uint32_t rows, uint32_t n_drafts, double ns)
{
    c->n_since_plain = n_drafts ? c->n_since_plain + 1 : 0;
    if (!rows || rows > QN_SPEC_ROWS || !(ns > 0))
        return;
    if (!c->measured[rows]) {
        c->ns[rows] = ns;
        c->measured[rows] = true;
        return;
    }
    double old = c->ns[rows], now = old + (limit_change(old, ns) - old) * NEW_WEIGHT;
    if (!n_drafts) {
        add_plain(c, rows, now / old);
        return;
    }
    c->ns[rows] = now;
    uint32_t base = rows - n_drafts;
    double before = old - c->ns[base], after = now - c->ns[base];
    if (c->measured[base] && before > 0 && after > 0) /* the others faded as this one did */
        scale_excess(c, base, rows, 1 + (limit_change(before, after) / before - 1) / 2);
}

double qn_step_cost_of(const qn_step_cost *c, uint32_t rows)
{
    uint32_t lo = rows, hi = rows, first = 1;
    while (lo && !c->measured[lo])
        lo--;
    while (hi <= QN_SPEC_ROWS && !c->measured[hi])
        hi++;
    while (first <= QN_SPEC_ROWS && !c->measured[first])
        first++;
    if (first > QN_SPEC_ROWS)
        return 0;
    if (!lo)
        return c->ns[hi];
    if (lo == rows)
        return c->ns[rows];
    double slope;
    if (hi <= QN_SPEC_ROWS)
        slope = (c->ns[hi] - c->ns[lo]) / (hi - lo) / 2; /* half: the curve bends up, try it */
    else if (first < lo)
        slope = (c->ns[lo] - c->ns[first]) / (lo - first);
    else
        slope = PRIOR_SLOPE * c->ns[lo] / (1 + PRIOR_SLOPE * (lo - 1));
    return c->ns[lo] + QN_MAX(slope, 0.0) * (rows - lo);
}

/* ---- acceptance ---- */

#define KEEP         0.95f /* of what was seen with each new one: the last twenty or so count */
#define PRIOR_WEIGHT 4.0f
#define FORGET       (1.0f / 1024) /* a step: a bad draft model is tried again after hundreds */

static size_t kind_of(uint32_t match)
{
    static const uint8_t kinds[QN_SPEC_MODEL] = {0, 0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 6, 7};
    return match == QN_SPEC_MODEL ? QN_SPEC_N_KINDS - 1 : kinds[match];
}

/* a changed word; matches of 2, 3, 4, 5-6, 7-9, 10-15, 16 tokens; a model */
static const float first_rates[QN_SPEC_N_KINDS] = {0.3f,  0.35f, 0.5f, 0.6f, 0.7f,
                                                   0.75f, 0.8f,  0.9f, 0.7f};

qn_accept qn_accept_default(void)
{
    qn_accept a;
    for (size_t k = 0; k < QN_SPEC_N_KINDS; k++) {
        a.seen[k] = PRIOR_WEIGHT;
        a.hits[k] = first_rates[k] * PRIOR_WEIGHT;
    }
    return a;
}

qn_accept qn_accept_from(const qn_accept *others)
{
    qn_accept a = *others;
    for (size_t k = 0; k < QN_SPEC_N_KINDS; k++) {
        a.hits[k] *= PRIOR_WEIGHT / a.seen[k];
        a.seen[k] = PRIOR_WEIGHT;
    }
    return a;
}

void qn_accept_add(qn_accept *a, uint32_t match, bool hit)
{
    size_t k = kind_of(match);
    a->hits[k] = a->hits[k] * KEEP + (hit ? 1.0f : 0.0f);
    a->seen[k] = a->seen[k] * KEEP + 1;
}

void qn_accept_fade(qn_accept *a, uint32_t match)
{
    size_t k = kind_of(match);
    a->hits[k] += (first_rates[k] * a->seen[k] - a->hits[k]) * FORGET;
}

double qn_accept_rate(const qn_accept *a, uint32_t match)
{
    size_t k = kind_of(match);
    return (double)(a->hits[k] / a->seen[k]);
}

/* ---- choosing ---- */

/* That the sequence's next guess and all before it come true; 0 where there is none. */
static double next_chance(const qn_spec_seq *s)
{
    uint32_t match =
        s->match == QN_SPEC_MODEL ? s->match : QN_MIN(s->match + s->n_draft, QN_SPEC_MODEL - 1);
    return s->n_draft < s->most ? s->chance * qn_accept_rate(s->accept, match) : 0;
}

static size_t likeliest(const qn_spec_seq *seqs, size_t n, double *chance)
{
    size_t best = 0;
    *chance = 0;
    for (size_t i = 0; i < n; i++) {
        double c = next_chance(&seqs[i]);
        if (c > *chance) {
            *chance = c;
            best = i;
        }
    }
    return best;
}

void qn_spec_choose(const qn_step_cost *c, qn_spec_seq *seqs, size_t n, uint32_t rows,
                    uint32_t room, double model_ns)
{
    size_t pick[QN_SPEC_ROWS];
    uint32_t n_picked = 0, n_best = 0, n_model = 0; /* n_model: draft model's steps */
    double tokens = rows, best = LEAST_GAIN * tokens / qn_step_cost_of(c, rows);
    for (size_t i = 0; i < n; i++) {
        seqs[i].n_draft = 0;
        seqs[i].chance = 1;
    }
    room = rows < QN_SPEC_ROWS ? QN_MIN(room, QN_SPEC_ROWS - rows) : 0;
    if (!(qn_step_cost_of(c, rows) > 0) || c->n_since_plain >= MOST_DRAFTED)
        room = 0;
    while (n_picked < room) {
        double chance;
        size_t i = likeliest(seqs, n, &chance);
        if (chance < LEAST_CHANCE)
            break;
        seqs[i].chance = chance;
        seqs[i].n_draft++;
        pick[n_picked++] = i;
        tokens += chance;
        if (seqs[i].match == QN_SPEC_MODEL)
            n_model = QN_MAX(n_model, seqs[i].n_draft);
        double rate = tokens / (qn_step_cost_of(c, rows + n_picked) + n_model * model_ns);
        if (rate > best) {
            best = rate;
            n_best = n_picked;
        }
    }
    while (n_picked > n_best)
        seqs[pick[--n_picked]].n_draft--;
}
