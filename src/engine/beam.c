/* SPDX-License-Identifier: Apache-2.0
 * beam.c - beam search over sequences that share K/V blocks.
 *
 * A step: every beam's 2·width best continuations, sorted by summed log-probability. In that order
 * an end token among the first `width` closes a hypothesis (score = sum / length^penalty), any
 * other token continues a beam until there are `width` of them. A parent's first child keeps its
 * sequence; further children fork it (full blocks shared, the last one copied). The search ends
 * when `width` hypotheses are closed and no running beam can beat the worst of them, or at
 * max_tokens. Source: transformers generation _beam_search with early_stopping=False. */
#include "engine/engine.h"

#include <math.h>
#include <string.h>

typedef struct choice {
    size_t parent;
    int32_t id;
    double score; /* sum of log-probabilities */
} choice;

#define MAX_WIDTH 16

bool qn_beam_ready(const qn_request *r)
{
    for (size_t i = 0; i < r->n_seqs; i++)
        if (!r->seqs[i]->has_top)
            return false;
    return r->n_seqs > 0;
}

/* Keeps list[0..n) sorted, best first; at most max. Ties: lower parent, then lower id, so equal
 * runs give equal beams. */
static size_t insert(choice *list, size_t n, size_t max, choice c)
{
    size_t at = n;
    while (at && list[at - 1].score < c.score)
        at--;
    if (at == max)
        return n;
    size_t move = QN_MIN(n, max - 1) - at;
    memmove(&list[at + 1], &list[at], move * sizeof *list);
    list[at] = c;
    return QN_MIN(n + 1, max);
}

static double worst(const qn_request *r)
{
    double w = INFINITY;
    for (size_t i = 0; i < r->n_finished; i++)
        w = fmin(w, r->finished[i].score);
    return w;
}

/* Adds a hypothesis; with `width` of them the worst goes. last: the closing token, or -1. */
static qn_status close_hypothesis(qn_request *r, const qn_seq *q, int32_t last, double sum,
                                  qn_finish finish, qn_err *err)
{
    size_t width = (size_t)r->params.beam_width, n = q->sched.n_tokens - q->n_prompt,
           len = n + (last >= 0);
    if (!r->finished)
        r->finished = qn_calloc(width + 1, sizeof *r->finished, QN_MEM_REQUEST);
    int32_t *ids = r->finished ? qn_alloc_array(len + 1, sizeof *ids, QN_MEM_REQUEST) : NULL;
    if (!ids)
        return qn_fail_nomem(err, (len + 1) * sizeof *ids);
    memcpy(ids, q->tokens + q->n_prompt, n * sizeof *ids);
    if (last >= 0)
        ids[n] = last;
    double score = sum / pow((double)QN_MAX(len, (size_t)1), (double)r->params.length_penalty);
    size_t at = r->n_finished++;
    for (; at && r->finished[at - 1].score < score; at--)
        r->finished[at] = r->finished[at - 1];
    r->finished[at] = (qn_hypothesis){.ids = ids, .n = len, .score = score, .finish = finish};
    if (r->n_finished > width)
        qn_free(r->finished[--r->n_finished].ids);
    return QN_OK;
}

/* A second sequence with the same tokens, sampler state and K/V. */
static qn_status fork_seq(qn_engine *e, const qn_seq *parent, qn_err *err)
{
    qn_request *r = parent->request;
    qn_seq *q = qn_seq_new(r, 0, err);
    if (!q)
        return err->status;
    q->sched.arrival = parent->sched.arrival;
    while (q->sched.n_tokens < parent->sched.n_tokens)
        QN_TRY(qn_seq_append(q, parent->tokens[q->sched.n_tokens], err));
    qn_sampler *s = NULL;
    QN_TRY(qn_sampler_fork(&s, parent->sampler, err));
    qn_sampler_free(q->sampler);
    q->sampler = s;
    int32_t to, from;
    qn_status st = qn_scheduler_fork(&e->scheduler, &q->sched, &parent->sched, &to, &from, err);
    if (st != QN_OK && st != QN_E_KV_FULL)
        return st;
    return to == QN_BLOCK_NULL
               ? QN_OK
               : qn_kv_cache_copy_block(e->runner->kv, (uint32_t)to, (uint32_t)from, err);
}

/* Frees the beams that go on in no choice. owner[i]: the sequence of choice i. */
static void drop_unused(qn_engine *e, qn_request *r, qn_seq *const *owner, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < r->n_seqs; i++) {
        bool used = false;
        for (size_t j = 0; j < n; j++)
            used = used || owner[j] == r->seqs[i];
        if (used)
            r->seqs[k++] = r->seqs[i];
        else
            qn_seq_free(e, r->seqs[i]);
    }
    r->n_seqs = k;
}

/* Turns the chosen continuations into the running beams. */
static qn_status continue_beams(qn_engine *e, qn_request *r, const choice *next, size_t n,
                                qn_err *err)
{
    qn_seq *owner[MAX_WIDTH];
    for (size_t i = 0; i < n; i++)
        owner[i] = r->seqs[next[i].parent];
    drop_unused(e, r, owner, n); /* first, so that the forks find their blocks free */
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++)
            if (next[j].parent == next[i].parent) {
                QN_TRY(fork_seq(e, owner[i], err));
                owner[i] = r->seqs[r->n_seqs - 1];
                break;
            }
    for (size_t i = 0; i < n; i++) {
        qn_seq *q = owner[i];
        QN_TRY(qn_seq_append(q, next[i].id, err));
        qn_sampler_accept(q->sampler, next[i].id, true);
        q->sum_logprob = next[i].score;
        q->has_top = false;
    }
    return QN_OK;
}

static qn_status emit_hypothesis(qn_request *r, int index, qn_err *err)
{
    const qn_hypothesis *h = &r->finished[index];
    qn_detok d;
    qn_str text = {0};
    qn_status s = QN_OK;
    qn_detok_init(&d, r->engine->tokenizer, true);
    for (size_t i = 0; i < h->n && s == QN_OK; i++) {
        bool last = i + 1 == h->n;
        qn_str_clear(&text);
        if (!qn_is_stop_id(r, h->ids[i]))
            qn_detok_next(&d, h->ids[i], &text);
        if (last)
            qn_detok_end(&d, &text);
        qn_event_node node = {.kind = QN_EVENT_TOKEN,
                              .index = index,
                              .token_id = h->ids[i],
                              .finish = last ? h->finish : QN_FINISH_NONE,
                              .score = last ? (float)h->score : 0};
        s = text.failed ? qn_fail_nomem(err, text.n)
                        : qn_request_push(r, &node, text.p ? text.p : "", text.n, NULL, 0, err);
        r->n_output++;
    }
    qn_str_fini(&text);
    return s;
}

static qn_status end_search(qn_request *r, qn_err *err)
{
    for (size_t i = 0; i < r->n_seqs; i++)
        r->seqs[i]->done = true;
    for (int i = 0; i < r->params.n && (size_t)i < r->n_finished; i++)
        QN_TRY(emit_hypothesis(r, i, err));
    return QN_OK;
}

qn_status qn_beam_advance(qn_engine *e, qn_request *r, qn_err *err)
{
    size_t width = (size_t)r->params.beam_width, n = 0, n_next = 0;
    choice all[2 * MAX_WIDTH], next[MAX_WIDTH];
    for (size_t i = 0; i < r->n_seqs; i++)
        for (size_t k = 0; k < 2 * width && r->seqs[i]->top[k].id >= 0; k++)
            n = insert(all, n, 2 * width,
                       (choice){i, r->seqs[i]->top[k].id,
                                r->seqs[i]->sum_logprob + (double)r->seqs[i]->top[k].logprob});
    for (size_t i = 0; i < n && n_next < width; i++) {
        if (!qn_is_stop_id(r, all[i].id))
            next[n_next++] = all[i];
        else if (i < width)
            QN_TRY(close_hypothesis(r, r->seqs[all[i].parent], all[i].id, all[i].score,
                                    QN_FINISH_STOP, err));
    }
    QN_TRY(continue_beams(e, r, next, n_next, err));
    if (!n_next)
        return end_search(r, err);
    int n_out = (int)(r->seqs[0]->sched.n_tokens - r->seqs[0]->n_prompt);
    double best = next[0].score / pow((double)n_out, (double)r->params.length_penalty);
    bool full = r->n_finished >= width && best <= worst(r);
    if (n_out < r->params.max_tokens && !full)
        return QN_OK;
    for (size_t i = 0; i < r->n_seqs && !full; i++)
        QN_TRY(close_hypothesis(r, r->seqs[i], -1, r->seqs[i]->sum_logprob, QN_FINISH_LENGTH, err));
    return end_search(r, err);
}
