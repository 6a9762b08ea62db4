/* SPDX-License-Identifier: Apache-2.0
 * draft_model.c - see draft_model.h. */
#include "engine/draft_model.h"

#include "sample/sampler.h"
#include <string.h>

struct qn_draft_model {
    qn_model *model;
    qn_runner *runner;
    qn_block_pool *pool;
    qn_run_seq *run; /* [max_seqs] */
    uint32_t *who;   /* [max_seqs]: the job of each */
    qn_rope_scaling rope_scaling;
    uint32_t n_vocab; /* guesses are below this */
    double ns;
};

/* ---- opening ---- */

static qn_status check_vocabulary(const qn_tokenizer *want, const qn_tokenizer *found,
                                  const char *path, qn_err *err)
{
    /* the number of padding rows differs with the model's size */
    size_t n = QN_MIN(qn_tokenizer_n_tokens(want), qn_tokenizer_n_tokens(found));
    for (size_t i = 0; i < n; i++) {
        int32_t id = (int32_t)i;
        if (qn_tokenizer_kind(want, id) == QN_TOKEN_UNUSED ||
            qn_tokenizer_kind(found, id) == QN_TOKEN_UNUSED)
            continue;
        qn_slice a = qn_tokenizer_bytes(want, id), b = qn_tokenizer_bytes(found, id);
        if (a.n != b.n || (a.n && memcmp(a.p, b.p, a.n) != 0))
            return qn_fail(err, QN_E_ARG,
                           "draft model %s: token %d is '%.*s', want the model's '%.*s': they must "
                           "share one vocabulary",
                           path, id, (int)QN_MIN(b.n, (size_t)40), b.p,
                           (int)QN_MIN(a.n, (size_t)40), a.p);
    }
    return QN_OK;
}

static qn_status open_steps(qn_draft_model *m, const qn_draft_options *o, qn_err *err)
{
    qn_tokenizer *t = NULL;
    QN_TRY(qn_model_open(&m->model, o->path, &o->model, err));
    QN_TRY(qn_tokenizer_new(&t, m->model->files, err));
    qn_status s = check_vocabulary(o->tokenizer, t, o->path, err);
    qn_tokenizer_free(t);
    QN_TRY(s);
    QN_TRY(qn_runner_new(&m->runner, m->model, o->n_blocks, o->max_seqs, o->max_ctx, o->kv_dtype,
                         err));
    QN_TRY(qn_block_pool_new(&m->pool, o->n_blocks, err));
    m->run = qn_calloc(o->max_seqs, sizeof *m->run, QN_MEM_MISC);
    m->who = qn_calloc(o->max_seqs, sizeof *m->who, QN_MEM_MISC);
    if (!m->run || !m->who)
        return qn_fail_nomem(err, o->max_seqs * sizeof *m->run);
    m->rope_scaling = o->rope_scaling;
    m->n_vocab = QN_MIN(o->n_vocab, m->model->config.n_vocab);
    return QN_OK;
}

qn_status qn_draft_model_open(qn_draft_model **out, const qn_draft_options *o, qn_err *err)
{
    *out = NULL;
    qn_draft_model *m = qn_calloc(1, sizeof *m, QN_MEM_MISC);
    if (!m)
        return qn_fail_nomem(err, sizeof *m);
    qn_status s = open_steps(m, o, err);
    if (s != QN_OK) {
        qn_draft_model_free(m);
        return s;
    }
    *out = m;
    return QN_OK;
}

void qn_draft_model_free(qn_draft_model *m)
{
    if (!m)
        return;
    qn_block_pool_free(m->pool);
    qn_runner_free(m->runner);
    qn_model_free(m->model);
    qn_free(m->run);
    qn_free(m->who);
    qn_free(m);
}

void qn_draft_seq_fini(qn_draft_model *m, qn_draft_seq *s)
{
    while (s->n_blocks)
        qn_block_pool_unref(m->pool, s->blocks[--s->n_blocks]);
    qn_free(s->blocks);
    *s = (qn_draft_seq){0};
}

double qn_draft_model_ns(const qn_draft_model *m)
{
    return m->ns;
}

uint64_t qn_draft_model_weight_bytes(const qn_draft_model *m)
{
    return qn_model_weight_bytes(m->model);
}

/* ---- guessing ---- */

/* Blocks for n tokens. */
static bool reserve(qn_draft_model *m, qn_draft_seq *s, uint32_t n)
{
    size_t want = QN_DIV_UP(n, QN_KV_BLOCK);
    if (want <= s->n_blocks)
        return true;
    if (!qn_grow(&s->blocks, &s->blocks_cap, want, sizeof *s->blocks, QN_MEM_REQUEST) ||
        !qn_block_pool_alloc(m->pool, want - s->n_blocks, s->blocks + s->n_blocks))
        return false;
    s->n_blocks = want;
    return true;
}

static qn_run_seq rows_of(const qn_draft_job *j, uint32_t n_new, uint32_t n_logits)
{
    return (qn_run_seq){.tokens = j->tokens,
                        .n_computed = j->seq->n_computed,
                        .n_new = n_new,
                        .blocks = j->seq->blocks,
                        .n_blocks = (uint32_t)j->seq->n_blocks,
                        .rope = &j->seq->rope,
                        .n_logits = n_logits};
}

/* Blocks, and all but the last few rows of what the sequence has said: one chunk at most. False:
 * no guess in this step. */
static bool catch_up(qn_draft_model *m, qn_draft_job *j, qn_status *status, qn_err *err)
{
    qn_draft_seq *s = j->seq;
    if (!s->has_rope) {
        qn_seq_rope_init(&s->rope, &m->model->rope, m->rope_scaling, j->reach);
        s->has_rope = true;
    }
    s->n_computed = QN_MIN(s->n_computed, j->n_tokens - 1);
    for (uint32_t i = s->n_computed; i < j->n_tokens; i++)
        s->is_foreign = s->is_foreign || (uint32_t)j->tokens[i] >= m->model->config.n_vocab;
    if (s->is_foreign || !reserve(m, s, j->n_tokens + j->n))
        return false;
    uint32_t missing = j->n_tokens - 1 - s->n_computed, n = QN_MIN(missing, m->runner->max_rows);
    if (n < 2) /* in one step with the guess */
        return true;
    qn_run_seq rows = rows_of(j, n, 0);
    *status = qn_runner_step(m->runner, &rows, 1, NULL, err);
    s->n_computed += n;
    return n == missing;
}

/* One more guess for each job that wants it. */
static qn_status guess_once(qn_draft_model *m, qn_draft_job *jobs, uint32_t n, uint32_t k,
                            bool *any, qn_err *err)
{
    uint32_t n_run = 0, n_rows = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t missing = jobs[i].n_tokens + k - jobs[i].seq->n_computed;
        if (jobs[i].n <= k || n_rows + missing > m->runner->max_rows ||
            n_run == m->runner->max_logit_rows) {
            jobs[i].n = QN_MIN(jobs[i].n, k);
            continue;
        }
        m->run[n_run] = rows_of(&jobs[i], missing, 1);
        m->who[n_run++] = i;
        n_rows += missing;
    }
    *any = n_run > 0;
    if (!n_run)
        return QN_OK;
    uint64_t t0 = qn_now_ns();
    QN_TRY(qn_runner_step(m->runner, m->run, n_run, NULL, err));
    for (uint32_t r = 0; r < n_run; r++) {
        qn_draft_job *j = &jobs[m->who[r]];
        const float *logits = m->runner->logits + (size_t)r * m->model->config.n_vocab;
        int32_t id = qn_logits_argmax(logits, m->n_vocab);
        j->seq->n_computed += m->run[r].n_new;
        if (id < 0)
            j->n = k; /* no finite number: nothing to say */
        else
            j->tokens[j->n_tokens + k] = id;
    }
    double ns = (double)(qn_now_ns() - t0);
    if (n_rows == n_run)
        m->ns = m->ns > 0 ? m->ns + (QN_MIN(ns, 2 * m->ns) - m->ns) / 8 : ns;
    return QN_OK;
}

qn_status qn_draft_model_guess(qn_draft_model *m, qn_draft_job *jobs, uint32_t n, qn_err *err)
{
    qn_status s = QN_OK;
    bool any = true;
    for (uint32_t i = 0; i < n && s == QN_OK; i++)
        if (!catch_up(m, &jobs[i], &s, err))
            jobs[i].n = 0;
    for (uint32_t k = 0; any && s == QN_OK; k++)
        s = guess_once(m, jobs, n, k, &any, err);
    return s;
}
