/* SPDX-License-Identifier: Apache-2.0
 * score.c - runs given tokens through the model on the caller's thread and hands out logits.
 * Holds step_lock for a chunk at a time, so that requests go on in between; blocks come from the
 * engine's pool and go back to it. */
#include "engine/engine.h"

#include <string.h>

typedef struct scorer {
    qn_hidden_fn on_hidden;
    void *arg;
    size_t pos; /* of the step's first row */
    bool go_on;
} scorer;

static void on_tap(void *arg, int layer, const float *rows, size_t n, size_t width)
{
    scorer *s = arg;
    for (size_t i = 0; i < n && s->go_on; i++)
        s->go_on = s->on_hidden(s->arg, layer, s->pos + i, rows + i * width, width);
}

qn_status qn_engine_take_blocks(qn_engine *e, size_t n, int32_t **blocks, size_t *n_blocks,
                                qn_err *err)
{
    *n_blocks = QN_DIV_UP(n, (size_t)QN_KV_BLOCK);
    *blocks = qn_alloc_array(*n_blocks, sizeof **blocks, QN_MEM_REQUEST);
    if (!*blocks)
        return qn_fail_nomem(err, *n_blocks * sizeof **blocks);
    if (!qn_block_pool_alloc(e->pool, *n_blocks, *blocks)) {
        qn_free(*blocks);
        *blocks = NULL;
        return qn_fail(err, QN_E_KV_FULL, "%zu tokens need %zu blocks of K/V cache, %zu are free",
                       n, *n_blocks, qn_block_pool_n_free(e->pool));
    }
    return QN_OK;
}

void qn_engine_give_blocks(qn_engine *e, int32_t *blocks, size_t n_blocks)
{
    for (size_t i = 0; blocks && i < n_blocks; i++)
        qn_block_pool_unref(e->pool, blocks[i]);
    qn_free(blocks);
}

qn_status qn_engine_check_ids(const qn_engine *e, const int32_t *ids, size_t n, qn_err *err)
{
    if (!n)
        return qn_fail(err, QN_E_ARG, "found no tokens, want at least one");
    if (n > (size_t)e->config.max_ctx)
        return qn_fail(err, QN_E_TOO_LONG, "found %zu tokens, the context holds %d", n,
                       e->config.max_ctx);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= e->model->config.n_vocab)
            return qn_fail(err, QN_E_ARG, "token %zu is %d, want 0..%u", i, ids[i],
                           e->model->config.n_vocab - 1);
    return QN_OK;
}

static qn_status score_chunks(qn_engine *e, qn_run_seq *q, size_t n, size_t chunk,
                              qn_logits_fn on_logits, scorer *s, qn_err *err)
{
    qn_tap tap = {on_tap, s};
    size_t n_vocab = e->model->config.n_vocab;
    for (size_t at = 0; at < n && s->go_on; at += chunk) {
        if (at) { /* the engine thread's turn, if it wants one */
            qn_step_unlock(e);
            qn_step_lock(e);
        }
        q->n_computed = (uint32_t)at;
        q->n_new = (uint32_t)QN_MIN(chunk, n - at);
        q->n_logits = q->n_new; /* also for hidden states: a pruned plan has its last layer on these
                                 * rows only */
        s->pos = at;
        QN_TRY(qn_runner_step(e->runner, q, 1, s->on_hidden ? &tap : NULL, err));
        for (size_t i = 0; i < q->n_new && on_logits && s->go_on; i++) {
            const float *row = e->runner->logits + i * n_vocab;
            qn_status st = qn_logits_check(row, n_vocab, err);
            if (st != QN_OK)
                return qn_wrap(err, st, "%s: position %zu", qn_base_name(e->model->files->path),
                               at + i);
            s->go_on = on_logits(s->arg, at + i, row, n_vocab);
        }
    }
    return QN_OK;
}

qn_status qn_score(qn_engine *e, const int32_t *ids, size_t n_ids, size_t chunk,
                   qn_logits_fn on_logits, qn_hidden_fn on_hidden, void *arg, qn_err *err)
{
    int32_t *blocks = NULL;
    size_t n_blocks = 0, most = QN_MIN(e->runner->max_rows, e->runner->max_logit_rows);
    QN_TRY(qn_engine_check_ids(e, ids, n_ids, err));
    chunk = chunk ? QN_MIN(chunk, most) : most;
    qn_seq_rope rope;
    qn_seq_rope_init(&rope, &e->model->rope, e->config.rope_scaling, (uint32_t)n_ids);
    scorer s = {.on_hidden = on_hidden, .arg = arg, .go_on = true};
    qn_step_lock(e);
    qn_status st = qn_engine_take_blocks(e, n_ids, &blocks, &n_blocks, err);
    e->n_scoring++;
    if (st == QN_OK) {
        qn_run_seq q = {
            .tokens = ids, .blocks = blocks, .n_blocks = (uint32_t)n_blocks, .rope = &rope};
        st = score_chunks(e, &q, n_ids, chunk, on_logits, &s, err);
    }
    qn_engine_give_blocks(e, blocks, n_blocks);
    e->n_scoring--;
    qn_step_unlock(e);
    return st;
}
