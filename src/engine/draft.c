/* SPDX-License-Identifier: Apache-2.0
 * draft.c - speculation: guessed tokens are verified in the step that computes the next one anyway.
 *
 *   tokens    t0 .. t9 | g1 g2 g3        t9 is not computed yet, g1.. are guesses
 *   rows               t9 g1 g2 g3       one step, four rows of logits
 *   sampled            g1 g2 x           as the request would have without drafts, in order
 *   tokens    t0 .. t9 g1 g2 x           two came true; the row of g3 is forgotten
 *
 * A row's logits are the same bits whatever is computed beside it, and the request's own sampler
 * draws from them in the order of the tokens: the answer is the same with and without, sampled ones
 * too. Keys and values of drafts that did not come true lie behind the computed tokens and are
 * written over. Beams have no drafts, nor have steps that compute prompts: those rows keep the
 * arithmetic busy already, so that a row more would cost as much as it could gain.
 * Threads: engine thread. */
#include "engine/engine.h"

#include <string.h>

/* Speculating, whatever it costs. */
static bool is_forced(const qn_engine *e)
{
    return e->config.speculation != QN_SPEC_AUTO;
}

/* A sequence that this step computes the last token of, in the midst of its answer. */
static bool is_decoding(const qn_seq *q)
{
    const qn_sched_seq *s = &q->sched;
    return s->n_scheduled == 1 && s->n_computed + 1 == s->n_tokens && s->n_tokens > q->n_prompt;
}

/* How many drafts q may have. */
static uint32_t most_drafts(const qn_engine *e, const qn_seq *q)
{
    const qn_request *r = q->request;
    if (r->over || r->params.beam_width || q->sched.n_tokens + 1 >= r->max_tokens)
        return 0;
    return QN_MIN((uint32_t)e->config.max_draft, r->max_tokens - q->sched.n_tokens - 1);
}

/* Where the text went as it goes now. */
static void look_up(const qn_engine *e, qn_seq *q, uint32_t *from)
{
    uint32_t n = q->sched.n_tokens;
    if (e->config.speculation != QN_SPEC_DRAFT && qn_ngram_update(&q->ngram, q->tokens, n))
        q->match = qn_ngram_find(&q->ngram, q->tokens, n, from);
    q->guess = q->match ? q->tokens[*from] : -1;
}

/* The draft model's guesses instead of those from the text? */
static bool ask_model(const qn_engine *e, const qn_seq *q)
{
    if (!e->draft_model || q->draft.is_foreign || e->config.speculation == QN_SPEC_NGRAM)
        return false;
    return !q->match ||
           qn_accept_rate(&q->accept, QN_SPEC_MODEL) > qn_accept_rate(&q->accept, q->match);
}

static double model_ns(const qn_engine *e)
{
    double ns = e->draft_model ? qn_draft_model_ns(e->draft_model) : 0;
    if (ns > 0 || !e->draft_model)
        return ns;
    return qn_step_cost_of(&e->cost, 1) * (double)qn_draft_model_weight_bytes(e->draft_model) /
           (double)qn_model_weight_bytes(e->model);
}

/* How many drafts each of the n gets. */
static void choose(qn_engine *e, size_t n, uint32_t room)
{
    bool use_model = false, again = false;
    if (is_forced(e))
        return;
    qn_spec_choose(&e->cost, e->guesses, n, (uint32_t)n, room, model_ns(e));
    for (size_t i = 0; i < n; i++)
        use_model = use_model || (e->guesses[i].match == QN_SPEC_MODEL && e->guesses[i].n_draft);
    for (size_t i = 0; i < n && !use_model; i++) {
        qn_seq *q = (qn_seq *)e->chosen[i];
        if (!q->by_model)
            continue;
        qn_accept_fade(&q->accept, QN_SPEC_MODEL);
        q->by_model = false; /* too dear: what the text says is for nothing */
        e->guesses[i].match = q->match;
        e->guesses[i].most = q->match ? e->guesses[i].most : 0;
        again = true;
    }
    if (again)
        qn_spec_choose(&e->cost, e->guesses, n, (uint32_t)n, room, 0);
}

/* Lays n drafts behind q's tokens. They may be longer than what they are copied from, which then
 * goes on in itself: a text that repeats. */
static void lay(qn_engine *e, qn_seq *q, uint32_t from, uint32_t n)
{
    uint32_t at = q->sched.n_tokens;
    q->n_draft = n ? qn_scheduler_draft(&e->scheduler, &q->sched, n) : 0;
    for (uint32_t i = 0; i < q->n_draft && !q->by_model; i++)
        q->tokens[at + i] = q->tokens[from + i];
    q->request->n_drafted += (int)q->n_draft;
}

/* Lays the chosen drafts. Where memory is short or the draft model fails there are none. */
static void lay_all(qn_engine *e, size_t n, const uint32_t *from, uint32_t room)
{
    qn_draft_job jobs[QN_SPEC_ROWS];
    uint32_t n_jobs = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        qn_seq *q = (qn_seq *)e->chosen[i];
        uint32_t want = QN_MIN(e->guesses[i].n_draft, room), n_tokens = q->sched.n_tokens;
        if (!qn_grow(&q->tokens, &q->cap, (size_t)n_tokens + want, sizeof *q->tokens,
                     QN_MEM_REQUEST))
            want = 0;
        e->guesses[i].n_draft = want;
        room -= want;
        if (want && q->by_model)
            jobs[n_jobs++] = (qn_draft_job){.seq = &q->draft,
                                            .tokens = q->tokens,
                                            .n_tokens = n_tokens,
                                            .n = want,
                                            .reach = q->request->max_tokens};
    }
    bool is_good = !n_jobs || qn_draft_model_guess(e->draft_model, jobs, n_jobs, NULL) == QN_OK;
    for (size_t i = 0; i < n; i++) {
        qn_seq *q = (qn_seq *)e->chosen[i];
        uint32_t got = e->guesses[i].n_draft;
        if (got && q->by_model)
            got = is_good ? jobs[at++].n : 0;
        lay(e, q, from[i], got);
    }
}

void qn_draft_prepare(qn_engine *e, size_t n)
{
    uint32_t from[QN_SPEC_ROWS] = {0};
    bool is_on = e->config.speculation != QN_SPEC_OFF && n < QN_SPEC_ROWS;
    for (size_t i = 0; i < n; i++) {
        qn_seq *q = (qn_seq *)e->chosen[i];
        q->n_draft = q->match = 0;
        q->guess = -1;
        q->by_model = false;
        is_on = is_on && is_decoding(q);
    }
    if (!is_on)
        return;
    for (size_t i = 0; i < n; i++) {
        qn_seq *q = (qn_seq *)e->chosen[i];
        uint32_t most = most_drafts(e, q);
        if (most)
            look_up(e, q, &from[i]);
        q->by_model = most && ask_model(e, q);
        most = q->by_model || q->match ? most : 0;
        e->guesses[i] = (qn_spec_seq){.accept = &q->accept,
                                      .match = q->by_model ? QN_SPEC_MODEL : q->match,
                                      .most = most,
                                      .n_draft = most};
    }
    uint32_t room = QN_MIN(e->runner->max_logit_rows - (uint32_t)n, e->scheduler.budget);
    choose(e, n, room);
    lay_all(e, n, from, room);
}

/* A guess of that kind came true, or not. */
static void learn(qn_engine *e, qn_seq *q, uint32_t match, bool is_hit)
{
    qn_accept_add(&q->accept, match, is_hit);
    qn_accept_add(&e->accept, match, is_hit);
}

uint32_t qn_draft_verify(qn_engine *e, qn_seq *q, const int32_t *drafts, uint32_t at, uint32_t row)
{
    uint32_t end = q->sched.n_tokens - at;
    if (row == 0 && q->match) /* drafted or not */
        learn(e, q, q->match, q->guess == q->tokens[at]);
    for (; row < end && row < q->n_draft; row++) {
        bool is_hit = drafts[row] == q->tokens[at + row];
        if (q->by_model)
            learn(e, q, QN_SPEC_MODEL, is_hit);
        else if (row)
            learn(e, q, QN_MIN(q->match + row, QN_NGRAM_MAX), is_hit);
        if (!is_hit)
            return 0;
        q->sched.n_computed++;
        q->request->n_accepted++;
    }
    return row == end && !q->done ? row : 0;
}

void qn_draft_measure(qn_engine *e, size_t n, uint64_t ns)
{
    uint32_t n_drafts = 0, rows = 0;
    for (size_t i = 0; i < n; i++) {
        if (e->run_seqs[i].n_logits != e->run_seqs[i].n_new)
            return;
        rows += e->run_seqs[i].n_new;
        n_drafts += e->run_seqs[i].n_new - 1;
    }
    qn_step_cost_add(&e->cost, rows, n_drafts, (double)ns);
}
