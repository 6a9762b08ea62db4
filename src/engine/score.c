/* SPDX-License-Identifier: Apache-2.0
 * score.c - runs given tokens through the model on the caller's thread: scoring and measuring.
 * Holds step_lock for the whole run, so that requests wait; blocks come from the engine's pool and
 * go back to it. */
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

/* Takes blocks for n tokens. */
static qn_status take_blocks(qn_engine *e, size_t n, int32_t **blocks, size_t *n_blocks,
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

static void give_blocks(qn_engine *e, int32_t *blocks, size_t n_blocks)
{
    for (size_t i = 0; blocks && i < n_blocks; i++)
        qn_block_pool_unref(e->pool, blocks[i]);
    qn_free(blocks);
}

static qn_status check_ids(const qn_engine *e, const int32_t *ids, size_t n, qn_err *err)
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
    QN_TRY(check_ids(e, ids, n_ids, err));
    chunk = chunk ? QN_MIN(chunk, most) : most;
    qn_seq_rope rope;
    qn_seq_rope_init(&rope, &e->model->rope, e->config.rope_scaling, (uint32_t)n_ids);
    scorer s = {.on_hidden = on_hidden, .arg = arg, .go_on = true};
    qn_step_lock(e);
    qn_status st = take_blocks(e, n_ids, &blocks, &n_blocks, err);
    if (st == QN_OK) {
        qn_run_seq q = {
            .tokens = ids, .blocks = blocks, .n_blocks = (uint32_t)n_blocks, .rope = &rope};
        st = score_chunks(e, &q, n_ids, chunk, on_logits, &s, err);
    }
    give_blocks(e, blocks, n_blocks);
    qn_step_unlock(e);
    return st;
}

/* ---- measuring ---- */

typedef struct bench {
    qn_engine *e;
    const qn_bench_spec *spec;
    int32_t *ids;
    size_t n_ids;
    qn_seq_rope rope;
    qn_run_seq *q; /* [batch] */
    int32_t *blocks;
    size_t n_blocks;
} bench;

/* Computes ids [from, to) of sequence s in steps of the engine's size. */
static qn_status prefill(bench *b, qn_run_seq *q, size_t from, size_t to, qn_err *err)
{
    for (size_t at = from; at < to; at += q->n_new) {
        q->n_computed = (uint32_t)at;
        q->n_new = (uint32_t)QN_MIN((size_t)b->e->runner->max_rows, to - at);
        q->n_logits = at + q->n_new == to;
        QN_TRY(qn_runner_step(b->e->runner, q, 1, NULL, err));
    }
    return QN_OK;
}

static qn_status bench_run(bench *b, qn_bench_result *out, qn_err *err)
{
    const qn_bench_spec *spec = b->spec;
    size_t depth = (size_t)spec->depth, n_seqs = (size_t)spec->batch;
    for (size_t s = 0; s < n_seqs; s++)
        QN_TRY(prefill(b, &b->q[s], 0, depth, err));
    uint64_t t0 = qn_now_ns();
    if (spec->n_prefill) {
        QN_TRY(prefill(b, &b->q[0], depth, depth + (size_t)spec->n_prefill, err));
        out->prefill_ms = (double)(qn_now_ns() - t0) * 1e-6;
    }
    t0 = qn_now_ns();
    for (int i = 0; i < spec->n_decode; i++) {
        for (size_t s = 0; s < n_seqs; s++) {
            b->q[s].n_computed = (uint32_t)depth + (uint32_t)i;
            b->q[s].n_new = b->q[s].n_logits = 1;
        }
        QN_TRY(qn_runner_step(b->e->runner, b->q, (uint32_t)n_seqs, NULL, err));
    }
    if (spec->n_decode)
        out->decode_ms = (double)(qn_now_ns() - t0) * 1e-6;
    return QN_OK;
}

static qn_status bench_prepare(bench *b, size_t per_seq, qn_err *err)
{
    size_t n_seqs = (size_t)b->spec->batch, blocks_each = QN_DIV_UP(per_seq, (size_t)QN_KV_BLOCK);
    b->ids = qn_alloc_array(per_seq, sizeof *b->ids, QN_MEM_REQUEST);
    b->q = qn_calloc(n_seqs, sizeof *b->q, QN_MEM_REQUEST);
    if (!b->ids || !b->q)
        return qn_fail_nomem(err, per_seq * sizeof *b->ids);
    uint64_t x = 1;
    for (size_t i = 0; i < per_seq; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        b->ids[i] = (int32_t)((x >> 33) % b->e->model->config.n_vocab);
    }
    QN_TRY(check_ids(b->e, b->ids, per_seq, err));
    qn_seq_rope_init(&b->rope, &b->e->model->rope, b->e->config.rope_scaling, (uint32_t)per_seq);
    QN_TRY(take_blocks(b->e, blocks_each * n_seqs * QN_KV_BLOCK, &b->blocks, &b->n_blocks, err));
    for (size_t s = 0; s < n_seqs; s++)
        b->q[s] = (qn_run_seq){.tokens = b->ids,
                               .blocks = b->blocks + s * blocks_each,
                               .n_blocks = (uint32_t)blocks_each,
                               .rope = &b->rope};
    return QN_OK;
}

qn_status qn_bench(qn_engine *e, const qn_bench_spec *spec, qn_bench_result *out, qn_err *err)
{
    *out = (qn_bench_result){0};
    if (spec->n_prefill < 0 || spec->n_decode < 0 || spec->depth < 0 ||
        spec->n_prefill + spec->n_decode == 0)
        return qn_fail(
            err, QN_E_ARG,
            "bench: found prefill %d, decode %d, depth %d; want none negative and something to do",
            spec->n_prefill, spec->n_decode, spec->depth);
    if (spec->batch < 1 || spec->batch > e->config.max_seqs)
        return qn_fail(err, QN_E_ARG, "bench: found batch %d, want 1..%d", spec->batch,
                       e->config.max_seqs);
    bench b = {.e = e, .spec = spec};
    qn_step_lock(e);
    size_t per_seq = (size_t)spec->depth + (size_t)QN_MAX(spec->n_prefill, spec->n_decode);
    qn_status s = bench_prepare(&b, per_seq, err);
    if (s == QN_OK)
        s = bench_run(&b, out, err);
    give_blocks(e, b.blocks, b.n_blocks);
    qn_free(b.ids);
    qn_free(b.q);
    qn_step_unlock(e);
    return s;
}
