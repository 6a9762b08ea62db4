/* SPDX-License-Identifier: Apache-2.0
 * score.c - runs given tokens through the model on the caller's thread and hands out logits.
 *
 *   engine thread   | step | step |       | step | step | step |       |
 *   this thread                   | chunk |                    | chunk |
 *
 * Each chunk is charged to its class and tenant as a step would be, and the next comes when their clocks are furthest
 * behind (classes.h: a guest): so scores get their share of the machine, no more. A chunk is as short as those beside it
 * want: how many rows that are is learned from the chunk before. step_lock is held for one chunk at a time. Blocks come
 * from the engine's pool and go back to it. */
#include "engine/engine.h"

#include <string.h>

/* Rows of a chunk, however short it should be: one alone takes nearly as long. */
#define MIN_CHUNK 8u

typedef struct scorer {
    const qn_scoring *of;
    uint16_t slot;
    size_t most, rows;   /* of a chunk: at most, and of the next one */
    const qn_run_seq *q; /* its tokens, and which of them are this chunk's */
    bool go_on;          /* as the callbacks say */
} scorer;

static void on_tap(void *arg, int layer, const float *rows, size_t n, size_t width)
{
    scorer *s = arg;
    size_t pos = s->q->n_computed + s->q->n_new -
                 n; /* a pruned plan has its last layer on the wanted rows only */
    for (size_t i = 0; i < n && s->go_on; i++)
        if (pos + i >= s->of->first)
            s->go_on = s->of->on_hidden(s->of->arg, layer, pos + i, rows + i * width, width);
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

/* ---- turns ---- */

static qn_status check_goes_on(const scorer *s, qn_err *err)
{
    return !s->of->goes_on || s->of->goes_on(s->of->goes_on_arg)
               ? QN_OK
               : qn_fail(err, QN_E_CANCELLED, "nobody waits for the scores any more");
}

/* With step_lock held: until it is this one's turn. */
static qn_status await_turn(qn_engine *e, const scorer *s, qn_err *err)
{
    QN_TRY(check_goes_on(s, err));
    while (!qn_classes_is_first(&e->scheduler.classes, s->slot)) {
        (void)pthread_cond_wait(&e->stepped, &e->step_lock);
        QN_TRY(check_goes_on(s, err));
    }
    return QN_OK;
}

/* The chunk of n rows took ns. */
static void charge(qn_engine *e, scorer *s, size_t n, uint64_t ns)
{
    uint64_t most_ns = qn_classes_guest_ns(&e->scheduler.classes);
    qn_classes_charge(&e->scheduler.classes, s->slot, ns);
    uint64_t rows = most_ns == UINT64_MAX ? s->most : most_ns * n / QN_MAX(ns, 1u);
    s->rows = QN_MIN(QN_MAX(rows, (uint64_t)MIN_CHUNK), (uint64_t)s->most);
}

/* As many blocks as it needs. What other scores hold is waited for. */
static qn_status take_blocks(qn_engine *e, const scorer *s, int32_t **blocks, size_t *n_blocks,
                             qn_err *err)
{
    for (;;) {
        qn_status st = qn_engine_take_blocks(e, s->of->n_ids, blocks, n_blocks, err);
        if (st != QN_E_KV_FULL || e->n_scoring == 0)
            return st;
        (void)pthread_cond_wait(&e->stepped, &e->step_lock);
        QN_TRY(check_goes_on(s, err));
    }
}

/* ---- chunks ---- */

static qn_status score_chunk(qn_engine *e, qn_run_seq *q, scorer *s, qn_err *err)
{
    qn_tap tap = {on_tap, s};
    const qn_scoring *o = s->of;
    size_t n_vocab = e->model->config.n_vocab;
    size_t end = q->n_computed + q->n_new, from = QN_MAX(q->n_computed, QN_MIN(o->first, end));
    q->n_logits = (uint32_t)(end - from);
    s->q = q;
    QN_TRY(qn_runner_step(e->runner, q, 1, o->on_hidden ? &tap : NULL, err));
    for (size_t i = 0; i < q->n_logits && o->on_logits && s->go_on; i++) {
        const float *row = e->runner->logits + i * n_vocab;
        qn_status st = qn_logits_check(row, n_vocab, err);
        if (st != QN_OK)
            return qn_wrap(err, st, "%s: position %zu", qn_base_name(e->model->files->path),
                           from + i);
        s->go_on = o->on_logits(o->arg, from + i, row, n_vocab);
    }
    return QN_OK;
}

static qn_status score_chunks(qn_engine *e, qn_run_seq *q, scorer *s, qn_err *err)
{
    for (size_t at = 0; at < s->of->n_ids && s->go_on; at += q->n_new) {
        if (at) { /* the engine thread's turn, if it wants one */
            qn_step_unlock(e);
            qn_step_lock(e);
        }
        QN_TRY(await_turn(e, s, err));
        q->n_computed = (uint32_t)at;
        q->n_new = (uint32_t)QN_MIN(s->rows, s->of->n_ids - at);
        uint64_t t = qn_now_ns();
        QN_TRY(score_chunk(e, q, s, err));
        charge(e, s, q->n_new, qn_now_ns() - t);
    }
    return QN_OK;
}

qn_status qn_score_shared(qn_engine *e, const qn_scoring *o, qn_err *err)
{
    int32_t *blocks = NULL;
    int class_id = qn_engine_class(e, o->class_name);
    size_t n_blocks = 0, most = QN_MIN(e->runner->max_rows, e->runner->max_logit_rows);
    QN_TRY(qn_engine_check_ids(e, o->ids, o->n_ids, err));
    if (class_id < 0)
        return qn_fail(err, QN_E_ARG, "class: found '%.40s', which there is not", o->class_name);
    qn_seq_rope rope;
    qn_seq_rope_init(&rope, &e->model->rope, e->config.rope_scaling, (uint32_t)o->n_ids);
    scorer s = {.of = o, .most = o->chunk ? QN_MIN(o->chunk, most) : most, .go_on = true};
    qn_step_lock(e);
    uint64_t most_ns = qn_classes_guest_ns(&e->scheduler.classes);
    s.rows = most_ns == UINT64_MAX ? s.most : QN_MIN(s.most, (size_t)MIN_CHUNK);
    qn_status st = take_blocks(e, &s, &blocks, &n_blocks, err);
    if (st == QN_OK) {
        e->n_scoring++;
        s.slot = qn_classes_enter_guest(&e->scheduler.classes, (uint32_t)class_id,
                                        qn_tenant_id(o->tenant));
        qn_run_seq q = {
            .tokens = o->ids, .blocks = blocks, .n_blocks = (uint32_t)n_blocks, .rope = &rope};
        st = score_chunks(e, &q, &s, err);
        qn_engine_give_blocks(e, blocks, n_blocks);
        qn_classes_leave_guest(&e->scheduler.classes, s.slot);
        e->n_scoring--;
        qn_serving_publish(e); /* the engine thread may have no step to do it after */
        (void)pthread_cond_broadcast(&e->stepped);
    }
    qn_step_unlock(e);
    return st;
}

qn_status qn_score(qn_engine *e, const int32_t *ids, size_t n_ids, size_t chunk,
                   qn_logits_fn on_logits, qn_hidden_fn on_hidden, void *arg, qn_err *err)
{
    qn_scoring s = {.ids = ids,
                    .n_ids = n_ids,
                    .chunk = chunk,
                    .on_logits = on_logits,
                    .on_hidden = on_hidden,
                    .arg = arg};
    return qn_score_shared(e, &s, err);
}
