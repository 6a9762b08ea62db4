/* SPDX-License-Identifier: Apache-2.0
 * openai_score.c - what the model made of a prompt's own tokens: log-probabilities of each after those before it.
 *
 * Runs on the worker, in short chunks, between which the engine's other requests get their steps. */
#include "server/embed.h"
#include "server/openai.h"

#include "base/limits.h"
#include <math.h>
#include <string.h>

typedef struct scorer {
    const qn_openai_answer *a;
    qn_openai_prompt *p;
    size_t stride;
} scorer;

static qn_logprob token_of(const qn_engine *e, int32_t id, float logprob)
{
    qn_logprob lp = {.token_id = id, .logprob = logprob, .text = ""};
    (void)qn_token_text(e, id, &lp.text, &lp.n_text);
    return lp;
}

/* log of the sum of exp, in double and in order, so that it is the same everywhere. */
static double norm_of(const float *logits, size_t n)
{
    float max = logits[0];
    double sum = 0;
    for (size_t i = 1; i < n; i++)
        max = QN_MAX(max, logits[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)(logits[i] - max));
    return (double)max + log(sum);
}

/* The k best tokens into best[], by falling logit, the lower id of equals first. Returns how many there are. */
static size_t find_best(const qn_engine *e, const float *logits, size_t n, size_t k, int32_t *best)
{
    size_t found = 0;
    for (size_t i = 0; i < n && k; i++) {
        if (found == k && !(logits[i] > logits[best[k - 1]]))
            continue;
        const char *text;
        size_t n_text, at = found;
        if (!qn_token_text(e, (int32_t)i, &text, &n_text))
            continue; /* padding of the output matrix */
        while (at > 0 && logits[i] > logits[best[at - 1]])
            at--;
        found = QN_MIN(found + 1, k);
        memmove(best + at + 1, best + at, (found - at - 1) * sizeof *best);
        best[at] = (int32_t)i;
    }
    return found;
}

/* How many tokens are as likely as id, itself among them. */
static uint32_t rank_of(const qn_engine *e, const float *logits, size_t n, int32_t id)
{
    uint32_t rank = 0;
    const char *text;
    size_t n_text;
    for (size_t i = 0; i < n; i++)
        if (logits[i] >= logits[id] && qn_token_text(e, (int32_t)i, &text, &n_text))
            rank++;
    return rank;
}

static bool on_logits(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    const scorer *s = arg;
    const qn_engine *e = s->a->engine;
    int32_t best[QN_LIMIT_TOP_LOGPROBS + 1], id = s->p->ids[pos + 1];
    qn_logprob *to = s->p->scores + (pos + 1) * s->stride;
    double norm = norm_of(logits, n_vocab);
    to[0] = token_of(e, id, (float)((double)logits[id] - norm));
    s->p->ranks[pos + 1] = rank_of(e, logits, n_vocab, id);
    size_t n = find_best(e, logits, n_vocab, s->stride - 1, best);
    for (size_t k = 0; k < n; k++)
        to[1 + k] = token_of(e, best[k], (float)((double)logits[best[k]] - norm));
    return true;
}

qn_status qn_openai_score(const qn_exchange *x, const qn_openai_answer *a, qn_openai_prompt *p,
                          qn_err *err)
{
    p->n_top = QN_MAX(QN_MAX(a->n_top, a->n_prompt_top), 0);
    scorer s = {a, p, 1 + (size_t)p->n_top};
    size_t n = p->n_ids * s.stride;
    qn_engine_info info;
    qn_engine_get_info(a->engine, &info);
    if (p->n_ids + (size_t)a->params.max_tokens > (size_t)info.max_ctx)
        return qn_fail(err, QN_E_TOO_LONG,
                       "this model's maximum context length is %d tokens; the prompt has %zu and "
                       "max_tokens is %d",
                       info.max_ctx, p->n_ids, a->params.max_tokens);
    p->scores = qn_alloc_array(n, sizeof *p->scores, QN_MEM_REQUEST);
    p->ranks = qn_calloc(p->n_ids, sizeof *p->ranks, QN_MEM_REQUEST);
    if (!p->scores || !p->ranks)
        return qn_fail_nomem(err, n * sizeof *p->scores);
    for (size_t i = 0; i < n; i++)
        p->scores[i] = (qn_logprob){.token_id = -1, .text = ""};
    p->scores[0] = token_of(a->engine, p->ids[0], NAN); /* nothing stands before it */
    const qn_scoring scoring = {.ids = p->ids,
                                .n_ids = p->n_ids - 1,
                                .chunk = QN_EMBED_CHUNK,
                                .class_name = a->params.class_name,
                                .on_logits = on_logits,
                                .arg = &s};
    return p->n_ids < 2 ? QN_OK : qn_x_score(x, a->engine, &scoring, err);
}

qn_status qn_openai_check_scores(const qn_openai_answer *a, qn_err *err)
{
    int n_top = QN_MAX(QN_MAX(a->n_top, a->n_prompt_top), 0);
    size_t n = 0, each = 1 + (size_t)n_top;
    for (size_t i = 0; i < a->n_prompts; i++)
        n += a->prompts[i].n_ids;
    QN_TRY(qn_embed_check("prompt", n, err));
    return n <= QN_LIMIT_LOGPROBS / each
               ? QN_OK
               : qn_fail(err, QN_E_ARG,
                         "prompt: found %zu tokens, want at most %zu with logprobs %d", n,
                         QN_LIMIT_LOGPROBS / each, n_top);
}

static void add_score(qn_str *out, const qn_logprob *lp, uint32_t rank)
{
    qn_str_addf(out, "\"%d\":{\"logprob\":", (int)lp->token_id);
    qn_answer_add_float(out, lp->logprob);
    qn_str_addf(out, ",\"rank\":%u,\"decoded_token\":", (unsigned)rank);
    qn_str_add_json(out, lp->text, lp->n_text);
    qn_str_addc(out, '}');
}

void qn_openai_add_prompt_logprobs(qn_str *out, const qn_openai_answer *a,
                                   const qn_openai_prompt *p)
{
    qn_str_adds(out, ",\"prompt_logprobs\":[null");
    for (size_t i = 1; i < p->n_ids; i++) {
        const qn_logprob *lp = p->scores + i * (1 + (size_t)p->n_top);
        qn_str_adds(out, ",{");
        add_score(out, lp, p->ranks[i]);
        for (int k = 1; k <= a->n_prompt_top && lp[k].token_id >= 0; k++) {
            if (lp[k].token_id == lp->token_id)
                continue;
            qn_str_addc(out, ',');
            add_score(out, &lp[k], (uint32_t)k);
        }
        qn_str_addc(out, '}');
    }
    qn_str_addc(out, ']');
}
