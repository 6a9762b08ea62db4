/* SPDX-License-Identifier: Apache-2.0
 * constrain.c - answers of a form: a matcher beside each sequence, and the runs of tokens that it leaves no choice of.
 *
 *   chosen      t9            the matcher accepts it; then only  name": "  can follow
 *   run         name ":       as the tokenizer cuts it, without the piece it ends in: what follows may belong to that
 *   tokens      t0 .. t9 name ":    appended without sampling, told, and computed in one step as a piece of a prompt is
 *   row         of ":         the next one chosen, among the tokens that begin with what is left of the text:  "
 *
 * Where log-probabilities are wanted (asked for, or to score several candidates) the tokens of a run are the same, but
 * come row by row: their log-probabilities need the rows.
 * Tokens of a run are neither drawn nor masked: a token that the request ends at is left to the sampler, which knows how long
 * it must not come. A run that broken UTF-8 or normalising make other text is not taken: the tokens are chosen instead.
 * Threads: engine thread. */
#include "engine/engine.h"

#define RUN_BYTES 256 /* looked at together */

/* What must come next, as tokens. */
static qn_status find_run(qn_seq *q, qn_err *err)
{
    const qn_request *r = q->request;
    const qn_tokenizer *t = r->engine->tokenizer;
    char text[RUN_BYTES];
    bool is_over;
    size_t n = qn_matcher_forced(q->matcher, text, sizeof text, &is_over);
    q->run.n = q->n_run_taken = 0;
    if (!is_over)
        n = qn_tokenizer_n_settled(t, text, qn_utf8_whole(text, n));
    if (!n || !qn_utf8_valid(text, n))
        return QN_OK;
    QN_TRY(qn_tokenizer_encode(t, text, n, QN_SPECIAL_ADDED, &q->run, err));
    for (size_t i = 0; i < q->run.n; i++)
        if (qn_is_stop_id(r, q->run.p[i]))
            q->run.n = i;
    return QN_OK;
}

qn_status qn_constrain_begin(qn_seq *q, qn_err *err)
{
    qn_request *r = q->request;
    if (!r->params.grammar)
        return QN_OK;
    QN_TRY(qn_matcher_new(&q->matcher, r->params.grammar, err));
    if (r->params.ignore_eos)
        qn_matcher_forbid_end(q->matcher);
    return find_run(q, err);
}

void qn_constrain_end(qn_seq *q)
{
    qn_matcher_free(q->matcher);
    qn_ids_fini(&q->run);
}

int32_t qn_constrain_next(qn_seq *q)
{
    while (q->n_run_taken < q->run.n) {
        int32_t id = q->run.p[q->n_run_taken];
        if (qn_matcher_allows(q->matcher, id))
            return id;
        q->run.n = q->n_run_taken;
    }
    return -1;
}

qn_status qn_constrain_accept(qn_seq *q, int32_t id, bool *is_over, qn_err *err)
{
    *is_over = false;
    if (!q->matcher)
        return QN_OK;
    if (!qn_matcher_accept(q->matcher, id)) /* it was allowed */
        return qn_matcher_fail(q->matcher, err);
    *is_over = qn_matcher_is_over(q->matcher);
    if (q->n_run_taken < q->run.n)
        q->n_run_taken++;
    return q->n_run_taken < q->run.n || *is_over ? QN_OK : find_run(q, err);
}

/* ---- the API ---- */

qn_status qn_grammar_open(qn_grammar **out, qn_engine *e, qn_grammar_kind kind, const char *text,
                          size_t n_text, qn_err *err)
{
    return qn_grammar_cache_get(e->grammars, out, kind, (qn_slice){text, n_text}, err);
}

qn_status qn_grammar_find(qn_grammar **out, qn_engine *e, qn_grammar_kind kind, const char *text,
                          size_t n_text, qn_err *err)
{
    return qn_grammar_cache_find(e->grammars, out, kind, (qn_slice){text, n_text}, err);
}

void qn_grammar_close(qn_grammar *g)
{
    qn_grammar_let(g);
}
