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

/* What may follow q: its place in the text and the number of guesses. */
static uint32_t guess(const qn_engine *e, qn_seq *q, uint32_t *from)
{
    const qn_sched_seq *s = &q->sched;
    const qn_request *r = q->request;
    q->n_draft = q->match = 0;
    if (r->over || r->params.beam_width || s->n_tokens + 1 >= r->max_tokens ||
        !qn_ngram_update(&q->ngram, q->tokens, s->n_tokens))
        return 0;
    q->match = qn_ngram_find(&q->ngram, q->tokens, s->n_tokens, from);
    if (!q->match)
        return 0;
    q->guess = q->tokens[*from];
    return QN_MIN((uint32_t)e->config.max_draft, r->max_tokens - s->n_tokens - 1);
}

/* Lays q's drafts behind its tokens. They may be longer than what they are copied from, which then
 * goes on in themselves: a text that repeats. */
static void lay(qn_engine *e, qn_seq *q, uint32_t from, uint32_t n)
{
    uint32_t at = q->sched.n_tokens;
    if (!qn_grow(&q->tokens, &q->cap, (size_t)at + n, sizeof *q->tokens, QN_MEM_REQUEST))
        return; /* the answer does without */
    q->n_draft = qn_scheduler_draft(&e->scheduler, &q->sched, n);
    for (uint32_t i = 0; i < q->n_draft; i++)
        q->tokens[at + i] = q->tokens[from + i];
    q->request->n_drafted += (int)q->n_draft;
}

void qn_draft_prepare(qn_engine *e, size_t n)
{
    uint32_t from[QN_SPEC_ROWS];
    bool is_on = e->config.speculation != QN_SPEC_OFF && n < QN_SPEC_ROWS;
    for (size_t i = 0; i < n; i++) {
        qn_seq *q = (qn_seq *)e->chosen[i];
        q->n_draft = q->match = 0;
        is_on = is_on && is_decoding(q);
    }
    if (!is_on)
        return;
    for (size_t i = 0; i < n; i++) {
        qn_seq *q = (qn_seq *)e->chosen[i];
        uint32_t most = guess(e, q, &from[i]);
        e->guesses[i] =
            (qn_spec_seq){.accept = &q->accept, .match = q->match, .most = most, .n_draft = most};
    }
    uint32_t room = e->runner->max_logit_rows - (uint32_t)n;
    if (!is_forced(e))
        qn_spec_choose(&e->cost, e->guesses, n, (uint32_t)n, room, 0);
    for (size_t i = 0; i < n; i++) {
        uint32_t want = QN_MIN(e->guesses[i].n_draft, room);
        if (want)
            lay(e, (qn_seq *)e->chosen[i], from[i], want);
        room -= ((qn_seq *)e->chosen[i])->n_draft;
    }
}

int32_t qn_draft_at(const qn_seq *q, uint32_t i)
{
    if (i < q->n_draft)
        return q->tokens[q->sched.n_tokens];
    return q->match && i == 0 ? q->guess : -1;
}

bool qn_draft_verify(qn_engine *e, qn_seq *q, uint32_t i, int32_t draft)
{
    bool is_hit = draft == q->tokens[q->sched.n_tokens - 1];
    if (draft >= 0) {
        uint32_t match = QN_MIN(q->match + i, QN_NGRAM_MAX);
        qn_accept_add(&q->accept, match, is_hit);
        qn_accept_add(&e->accept, match, is_hit);
    }
    if (i >= q->n_draft || !is_hit)
        return false;
    q->sched.n_computed++;
    q->request->n_accepted++;
    return !q->done;
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
