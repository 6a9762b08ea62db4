/* SPDX-License-Identifier: Apache-2.0
 * runner.c - fills a batch and walks the plan. */
#include "engine/runner.h"

#include <string.h>

qn_status qn_runner_new(qn_runner **out, qn_model *m, uint32_t n_blocks, uint32_t max_seqs,
                        uint32_t max_ctx, qn_dtype kv_dtype, qn_err *err)
{
    const qn_model_config *c = &m->config;
    *out = NULL;
    qn_runner *r = qn_calloc(1, sizeof *r, QN_MEM_MISC);
    if (!r)
        return qn_fail_nomem(err, sizeof *r);
    r->model = m;
    r->max_rows = m->max_rows;
    r->max_logit_rows = m->max_logit_rows;
    r->max_seqs = max_seqs;
    r->max_blocks = QN_DIV_UP(max_ctx, QN_KV_BLOCK);
    size_t rows = r->max_rows;
    r->token_ids = qn_alloc_array(rows, sizeof *r->token_ids, QN_MEM_ACTIVATIONS);
    r->positions = qn_alloc_array(rows, sizeof *r->positions, QN_MEM_ACTIVATIONS);
    r->slots = qn_alloc_array(rows, sizeof *r->slots, QN_MEM_ACTIVATIONS);
    r->row_begin = qn_alloc_array((size_t)max_seqs + 1, sizeof *r->row_begin, QN_MEM_ACTIVATIONS);
    r->block_tables = qn_alloc_array((size_t)max_seqs * r->max_blocks, sizeof *r->block_tables,
                                     QN_MEM_ACTIVATIONS);
    r->logit_rows = qn_alloc_array(r->max_logit_rows, sizeof *r->logit_rows, QN_MEM_ACTIVATIONS);
    r->rope = qn_alloc_array(rows * c->rope_dim, sizeof *r->rope, QN_MEM_ACTIVATIONS);
    r->q_scale = qn_alloc_array(rows, sizeof *r->q_scale, QN_MEM_ACTIVATIONS);
    r->logits = qn_alloc_array((size_t)r->max_logit_rows * c->n_vocab, sizeof *r->logits,
                               QN_MEM_ACTIVATIONS);
    r->hidden = qn_alloc_array(rows * c->hidden_size, sizeof *r->hidden, QN_MEM_ACTIVATIONS);
    qn_kv_shape shape = {c->n_layers, c->n_kv_heads, c->head_dim, kv_dtype};
    qn_status s = QN_OK;
    if (!r->token_ids || !r->positions || !r->slots || !r->row_begin || !r->block_tables ||
        !r->logit_rows || !r->rope || !r->q_scale || !r->logits || !r->hidden)
        s = qn_fail_nomem(err, (size_t)r->max_logit_rows * c->n_vocab * sizeof *r->logits);
    if (s == QN_OK)
        s = qn_kv_cache_new(&r->kv, m->backend, m->device, &shape, n_blocks, err);
    if (s == QN_OK)
        s = qn_model_bind_kv(m, r->kv->layers, err);
    if (s != QN_OK) {
        qn_runner_free(r);
        return s;
    }
    *out = r;
    return QN_OK;
}

void qn_runner_free(qn_runner *r)
{
    if (!r)
        return;
    qn_kv_cache_free(r->kv);
    qn_free(r->token_ids);
    qn_free(r->positions);
    qn_free(r->slots);
    qn_free(r->row_begin);
    qn_free(r->block_tables);
    qn_free(r->logit_rows);
    qn_free(r->rope);
    qn_free(r->q_scale);
    qn_free(r->logits);
    qn_free(r->hidden);
    qn_free(r);
}

void qn_seq_rope_init(qn_seq_rope *s, const qn_rope *r, qn_rope_scaling mode, uint32_t len)
{
    s->factor = qn_rope_frequencies(r, qn_rope_choose(r, mode, len), s->inv_freq);
}

static void add_rows(qn_runner *r, const qn_run_seq *q, uint32_t row)
{
    const qn_rope *rope = &r->model->rope;
    for (uint32_t i = 0; i < q->n_new; i++, row++) {
        uint32_t pos = q->n_computed + i;
        r->token_ids[row] = q->tokens[pos];
        r->positions[row] = (int32_t)pos;
        r->slots[row] = (uint32_t)q->blocks[pos / QN_KV_BLOCK] * QN_KV_BLOCK + pos % QN_KV_BLOCK;
        qn_rope_row(rope, q->rope->inv_freq, q->rope->factor, pos,
                    r->rope + (size_t)row * rope->dim);
        r->q_scale[row] = qn_rope_q_scale(rope, pos);
        if (i + q->n_logits >= q->n_new)
            r->logit_rows[r->n_logit_rows++] = row;
    }
}

static void prepare(qn_runner *r, const qn_run_seq *seqs, uint32_t n_seqs)
{
    uint32_t row = 0;
    r->n_logit_rows = 0;
    for (uint32_t s = 0; s < n_seqs; s++) {
        const qn_run_seq *q = &seqs[s];
        r->row_begin[s] = row;
        uint32_t *table = r->block_tables + (size_t)s * r->max_blocks;
        for (uint32_t i = 0; i < q->n_blocks && i < r->max_blocks; i++)
            table[i] = (uint32_t)q->blocks[i];
        add_rows(r, q, row);
        row += q->n_new;
    }
    r->row_begin[n_seqs] = row;
    r->batch = (qn_batch){.n_rows = row,
                          .n_seqs = n_seqs,
                          .n_logit_rows = r->n_logit_rows,
                          .token_ids = r->token_ids,
                          .positions = r->positions,
                          .row_begin = r->row_begin,
                          .slots = r->slots,
                          .block_tables = r->block_tables,
                          .max_blocks = r->max_blocks,
                          .logit_rows = r->logit_rows,
                          .rope = r->rope,
                          .q_scale = r->model->rope.logn ? r->q_scale : NULL};
}

static qn_status tap_node(qn_runner *r, const qn_op *op, int layer, const qn_tap *tap, qn_err *err)
{
    size_t n = op->on_logit_rows ? r->n_logit_rows : r->batch.n_rows;
    if (op->kind == QN_OP_GATHER || !n)
        return QN_OK;
    QN_TRY(r->model->backend->download(r->hidden, op->out.buf, op->out.offset,
                                       n * op->out.width * sizeof(float), err));
    tap->fn(tap->arg, layer, r->hidden, n, op->out.width);
    return QN_OK;
}

/* Profiling costs two readings of the clock an operation; without it, one test. */
static qn_status run_op(qn_runner *r, size_t i, qn_err *err)
{
    const qn_model *m = r->model;
    if (!r->stamps)
        return m->backend->run(m->device, &m->ops[i], &r->batch, err);
    r->stamps[2 * i] = qn_now_ns();
    qn_status s = m->backend->run(m->device, &m->ops[i], &r->batch, err);
    r->stamps[2 * i + 1] = qn_now_ns();
    return s;
}

qn_status qn_runner_step(qn_runner *r, const qn_run_seq *seqs, uint32_t n_seqs, const qn_tap *tap,
                         qn_err *err)
{
    if (r->model->dry)
        return qn_fail(err, QN_E_ARG, "the engine was opened dry: it has no weights to run");
    qn_model *m = r->model;
    size_t rows = 0, logit_rows = 0;
    for (uint32_t s = 0; s < n_seqs; s++) {
        rows += seqs[s].n_new;
        logit_rows += QN_MIN(seqs[s].n_logits, seqs[s].n_new);
    }
    QN_ASSERT(n_seqs && n_seqs <= r->max_seqs && rows <= r->max_rows &&
              logit_rows <= r->max_logit_rows);
    prepare(r, seqs, n_seqs);
    QN_TRY(qn_model_look_up(m, r->token_ids, rows, err));
    for (size_t i = 0; i < m->plan->n_nodes; i++) {
        const qn_op *op = &m->ops[i];
        if (op->on_logit_rows && !r->n_logit_rows)
            break; /* nobody wants logits: the rest of the plan has no rows */
        QN_TRY(run_op(r, i, err));
        (void)atomic_fetch_add_explicit(&r->n_ops, 1, memory_order_relaxed);
        if (tap && m->plan->nodes[i].tap >= 0)
            QN_TRY(tap_node(r, op, m->plan->nodes[i].tap, tap, err));
    }
    const qn_op *last = &m->ops[m->plan->n_nodes - 1];
    QN_TRY(qn_model_check_files(m, err));
    if (!r->n_logit_rows)
        return QN_OK;
    return m->backend->download(r->logits, last->out.buf, last->out.offset,
                                (size_t)r->n_logit_rows * m->config.n_vocab * sizeof(float), err);
}
