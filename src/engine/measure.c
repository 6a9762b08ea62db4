/* SPDX-License-Identifier: Apache-2.0
 * measure.c - random tokens through the model on the caller's thread: how long they take, and which
 * operation took it.
 *
 *   depth tokens, once | n_prefill | n_decode x batch |      `repeat` times from depth on
 *                      | n_decode x batch |                  (not in turn: over the same blocks)
 *
 * Sequences share their tokens, not their blocks: those below `depth` are copies of the first's.
 * Holds step_lock for the whole run; blocks come from the engine's pool and go back to it. */
#include "engine/engine.h"

#define MAX_REPEAT 1000

typedef struct measure {
    qn_engine *e;
    const qn_bench_spec *spec;
    int32_t *ids;
    qn_seq_rope rope;
    qn_run_seq *q; /* [batch] */
    int32_t *blocks;
    size_t n_blocks;
    /* profile */
    qn_profile_fn fn; /* NULL: only the time */
    void *arg;
    qn_profile_event *events; /* [n_nodes + 1] */
    uint64_t *stamps;         /* [n_nodes][2] */
    qn_sampler *sampler;
    uint64_t start_ns;
} measure;

/* ---- costs ---- */

/* One step of n_seqs sequences, each with `rows` new tokens after `depth`, n_logits wanted. */
typedef struct step_shape {
    size_t rows, n_seqs, depth, n_logits;
} step_shape;

static bool is_integer(const qn_backend *b, const qn_op *op)
{
    const qn_dweight *w = op->w[0];
    if (op->experts && op->kind != QN_OP_ROUTE)
        w = op->experts->gate[0];
    return op->kind != QN_OP_EMBED && w && b->weight_is_integer(w);
}

static qn_cost op_cost(const qn_engine *e, size_t i, const step_shape *s)
{
    const qn_model *m = e->model;
    const qn_op *op = &m->ops[i];
    qn_node_costs c;
    double n = 1, kv = 1;
    if (op->kind == QN_OP_ATTENTION) {
        c = qn_node_cost(m->plan, &m->plan->nodes[i], s->rows, s->depth,
                         QN_MIN(s->rows, s->n_logits));
        n = (double)s->n_seqs;
        kv = (double)e->runner->kv->block_bytes /
             (2.0 * QN_KV_BLOCK * op->kv->n_kv_heads * op->kv->head_dim); /* the plan counts F16 */
    } else {
        c = qn_node_cost(m->plan, &m->plan->nodes[i], s->rows * s->n_seqs, s->depth, s->n_logits);
    }
    qn_cost out = {.weight_bytes = c.weight_bytes,
                   .kv_bytes = n * kv * c.kv_bytes,
                   .activation_bytes = n * c.activation_bytes};
    *(is_integer(m->backend, op) ? &out.int8_ops : &out.f32_flops) = n * c.flops;
    return out;
}

static void add_cost(qn_cost *to, const qn_cost *c)
{
    to->int8_ops += c->int8_ops;
    to->f32_flops += c->f32_flops;
    to->weight_bytes += c->weight_bytes;
    to->kv_bytes += c->kv_bytes;
    to->activation_bytes += c->activation_bytes;
}

static void add_step_cost(const qn_engine *e, const step_shape *s, qn_cost *to)
{
    for (size_t i = 0; i < e->model->plan->n_nodes; i++) {
        if (e->model->ops[i].on_logit_rows && !s->n_logits)
            break;
        qn_cost c = op_cost(e, i, s);
        add_cost(to, &c);
    }
}

/* ---- steps ---- */

static qn_status sample(measure *m, qn_err *err)
{
    qn_candidate best;
    for (uint32_t i = 0; i < m->e->runner->n_logit_rows; i++)
        QN_TRY(qn_sampler_sample(m->sampler,
                                 m->e->runner->logits + (size_t)i * m->e->model->config.n_vocab,
                                 NULL, &best, QN_ID_ONLY, err));
    return QN_OK;
}

static qn_status profiled_step(measure *m, const step_shape *s, bool is_decode, qn_err *err)
{
    qn_engine *e = m->e;
    const qn_model *model = e->model;
    uint64_t t0 = qn_now_ns();
    e->runner->stamps = m->stamps;
    qn_status st = qn_runner_step(e->runner, m->q, (uint32_t)s->n_seqs, NULL, err);
    e->runner->stamps = NULL;
    if (st != QN_OK)
        return st;
    uint64_t t1 = qn_now_ns();
    QN_TRY(sample(m, err));
    uint64_t t2 = qn_now_ns();
    size_t n = 0;
    for (size_t i = 0; i < model->plan->n_nodes; i++) {
        bool on_logits = model->ops[i].on_logit_rows;
        if (on_logits && !s->n_logits)
            break;
        m->events[n++] =
            (qn_profile_event){.op = (int)i,
                               .n_rows = (int)(on_logits ? s->n_logits : s->rows * s->n_seqs),
                               .start_ns = m->stamps[2 * i] - t0,
                               .ns = m->stamps[2 * i + 1] - m->stamps[2 * i],
                               .cost = op_cost(e, i, s)};
    }
    if (s->n_logits)
        m->events[n++] = (qn_profile_event){
            .op = -1, .n_rows = (int)s->n_logits, .start_ns = t1 - t0, .ns = t2 - t1};
    qn_profile_step out = {.is_decode = is_decode,
                           .n_tokens = (int)(s->rows * s->n_seqs),
                           .start_ns = t0 - m->start_ns,
                           .ns = t2 - t0,
                           .events = m->events,
                           .n_events = n};
    m->fn(m->arg, &out);
    return QN_OK;
}

/* Runs m->q[0 .. n_seqs) as they are set up; cost may be NULL. */
static qn_status run_step(measure *m, const step_shape *s, bool is_timed, bool is_decode,
                          qn_cost *cost, qn_err *err)
{
    if (cost)
        add_step_cost(m->e, s, cost);
    if (m->fn && is_timed)
        return profiled_step(m, s, is_decode, err);
    return qn_runner_step(m->e->runner, m->q, (uint32_t)s->n_seqs, NULL, err);
}

/* Computes tokens [from, to) of sequence i in steps of the engine's size. */
static qn_status prefill(measure *m, size_t i, size_t from, size_t to, bool is_timed, qn_cost *cost,
                         qn_err *err)
{
    qn_run_seq first = m->q[0];
    m->q[0] = m->q[i];
    qn_status st = QN_OK;
    for (size_t at = from; at < to && st == QN_OK; at += m->q[0].n_new) {
        qn_run_seq *q = &m->q[0];
        q->n_computed = (uint32_t)at;
        q->n_new = (uint32_t)QN_MIN((size_t)m->e->runner->max_rows, to - at);
        q->n_logits = at + q->n_new == to;
        step_shape s = {.rows = q->n_new, .n_seqs = 1, .depth = at, .n_logits = q->n_logits};
        st = run_step(m, &s, is_timed, false, cost, err);
    }
    m->q[0] = first;
    return st;
}

static qn_status decode(measure *m, size_t from, qn_cost *cost, qn_err *err)
{
    size_t n_seqs = (size_t)m->spec->batch;
    for (size_t at = from; at < from + (size_t)m->spec->n_decode; at++) {
        for (size_t i = 0; i < n_seqs; i++) {
            m->q[i].n_computed = (uint32_t)at;
            m->q[i].n_new = m->q[i].n_logits = 1;
        }
        step_shape s = {.rows = 1, .n_seqs = n_seqs, .depth = at, .n_logits = n_seqs};
        QN_TRY(run_step(m, &s, true, true, cost, err));
    }
    return QN_OK;
}

/* The first sequence's blocks below depth, copied to the others. */
static qn_status fill_depth(measure *m, qn_err *err)
{
    size_t depth = (size_t)m->spec->depth, n = QN_DIV_UP(depth, (size_t)QN_KV_BLOCK);
    QN_TRY(prefill(m, 0, 0, depth, false, NULL, err));
    for (int i = 1; i < m->spec->batch; i++)
        for (size_t b = 0; b < n; b++)
            QN_TRY(qn_kv_cache_copy_block(m->e->runner->kv, (uint32_t)m->q[i].blocks[b],
                                          (uint32_t)m->q[0].blocks[b], err));
    return QN_OK;
}

static qn_status run_once(measure *m, qn_bench_result *out, qn_err *err)
{
    const qn_bench_spec *spec = m->spec;
    size_t depth = (size_t)spec->depth, end = depth + (size_t)spec->n_prefill;
    *out = (qn_bench_result){0};
    uint64_t t0 = qn_now_ns();
    for (int i = 0; spec->n_prefill && i < (spec->in_turn ? spec->batch : 1); i++)
        QN_TRY(prefill(m, (size_t)i, depth, end, true, &out->prefill, err));
    uint64_t t1 = qn_now_ns();
    QN_TRY(decode(m, spec->in_turn ? end : depth, &out->decode, err));
    uint64_t t2 = qn_now_ns();
    out->prefill_ms = spec->n_prefill ? (double)(t1 - t0) * 1e-6 : 0;
    out->decode_ms = spec->n_decode ? (double)(t2 - t1) * 1e-6 : 0;
    return QN_OK;
}

/* ---- around it ---- */

static qn_status prepare_seqs(measure *m, qn_err *err)
{
    const qn_bench_spec *spec = m->spec;
    size_t depth = (size_t)spec->depth, p = (size_t)spec->n_prefill, d = (size_t)spec->n_decode;
    size_t n_seqs = (size_t)spec->batch, per_seq = depth + (spec->in_turn ? p + d : QN_MAX(p, d)),
           blocks_each = QN_DIV_UP(per_seq, (size_t)QN_KV_BLOCK);
    m->ids = qn_alloc_array(per_seq, sizeof *m->ids, QN_MEM_REQUEST);
    m->q = qn_calloc(n_seqs, sizeof *m->q, QN_MEM_REQUEST);
    if (!m->ids || !m->q)
        return qn_fail_nomem(err, per_seq * sizeof *m->ids);
    uint64_t x = 1;
    for (size_t i = 0; i < per_seq; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        m->ids[i] = (int32_t)((x >> 33) % m->e->model->config.n_vocab);
    }
    QN_TRY(qn_engine_check_ids(m->e, m->ids, per_seq, err));
    qn_seq_rope_init(&m->rope, &m->e->model->rope, m->e->config.rope_scaling, (uint32_t)per_seq);
    QN_TRY(qn_engine_take_blocks(m->e, blocks_each * n_seqs * QN_KV_BLOCK, &m->blocks, &m->n_blocks,
                                 err));
    for (size_t s = 0; s < n_seqs; s++)
        m->q[s] = (qn_run_seq){.tokens = m->ids,
                               .blocks = m->blocks + s * blocks_each,
                               .n_blocks = (uint32_t)blocks_each,
                               .rope = &m->rope};
    return QN_OK;
}

static qn_status prepare_profile(measure *m, qn_err *err)
{
    size_t n = m->e->model->plan->n_nodes;
    qn_params params = qn_params_default();
    params.temperature = 0;
    m->events = qn_calloc(n + 1, sizeof *m->events, QN_MEM_REQUEST);
    m->stamps = qn_calloc(2 * n, sizeof *m->stamps, QN_MEM_REQUEST);
    if (!m->events || !m->stamps)
        return qn_fail_nomem(err, n * sizeof *m->events);
    return qn_sampler_new(&m->sampler, &params, 1, m->e->model->config.n_vocab,
                          qn_tokenizer_n_tokens(m->e->tokenizer), NULL, 0, err);
}

static qn_status check_spec(const qn_engine *e, const qn_bench_spec *s, qn_err *err)
{
    if (s->n_prefill < 0 || s->n_decode < 0 || s->depth < 0 || (!s->n_prefill && !s->n_decode))
        return qn_fail(
            err, QN_E_ARG,
            "bench: found prefill %d, decode %d, depth %d; want none negative and something to do",
            s->n_prefill, s->n_decode, s->depth);
    if (s->batch < 1 || s->batch > e->config.max_seqs)
        return qn_fail(err, QN_E_ARG, "bench: found batch %d, want 1..%d", s->batch,
                       e->config.max_seqs);
    if (s->repeat < 1 || s->repeat > MAX_REPEAT)
        return qn_fail(err, QN_E_ARG, "bench: found repeat %d, want 1..%d", s->repeat, MAX_REPEAT);
    return QN_OK;
}

static qn_status run_all(measure *m, qn_bench_result *out, qn_err *err)
{
    qn_step_lock(m->e);
    qn_status s = prepare_seqs(m, err);
    if (s == QN_OK && m->fn)
        s = prepare_profile(m, err);
    if (s == QN_OK)
        s = fill_depth(m, err);
    m->start_ns = qn_now_ns();
    for (int i = 0; i < m->spec->repeat && s == QN_OK; i++)
        s = run_once(m, &out[i], err);
    qn_engine_give_blocks(m->e, m->blocks, m->n_blocks);
    qn_free(m->ids);
    qn_free(m->q);
    qn_free(m->events);
    qn_free(m->stamps);
    qn_sampler_free(m->sampler);
    qn_step_unlock(m->e);
    return s;
}

qn_status qn_bench(qn_engine *e, const qn_bench_spec *spec, qn_bench_result *out, qn_err *err)
{
    QN_TRY(check_spec(e, spec, err));
    measure m = {.e = e, .spec = spec};
    return run_all(&m, out, err);
}

qn_status qn_profile(qn_engine *e, const qn_bench_spec *spec, qn_profile_fn fn, void *arg,
                     qn_err *err)
{
    qn_bench_spec s = *spec;
    qn_bench_result ignored;
    s.repeat = 1;
    s.in_turn = true;
    QN_TRY(check_spec(e, &s, err));
    measure m = {.e = e, .spec = &s, .fn = fn, .arg = arg};
    return run_all(&m, &ignored, err);
}

/* ---- the plan's operations ---- */

int qn_engine_n_ops(const qn_engine *e)
{
    return (int)e->model->plan->n_nodes;
}

static bool had_before(const qn_model *m, size_t op, const qn_dweight *w)
{
    for (size_t i = 0; i < op; i++)
        for (uint32_t k = 0; k < m->ops[i].n_w; k++)
            if (m->ops[i].w[k] == w && m->ops[i].kind != QN_OP_EMBED)
                return true;
    return false;
}

static uint64_t expert_bytes(const qn_backend *b, const qn_op *op)
{
    const qn_experts *x = op->experts;
    uint64_t total = 0;
    for (uint32_t i = 0; i < x->n_experts; i++)
        total +=
            b->weight_bytes(x->gate[i]) + b->weight_bytes(x->up[i]) + b->weight_bytes(x->down[i]);
    const qn_dweight *shared[] = {x->router, x->shared_gate, x->shared_up, x->shared_down,
                                  x->shared_router};
    for (size_t i = 0; op->kind == QN_OP_MOE && i < QN_COUNT(shared); i++)
        total += shared[i] ? b->weight_bytes(shared[i]) : 0;
    return total;
}

static uint64_t kv_bytes(const qn_engine *e)
{
    return 2 * (uint64_t)e->runner->kv->block_bytes * e->runner->kv->n_blocks;
}

void qn_engine_get_op(const qn_engine *e, int op, qn_op_info *out)
{
    const qn_model *m = e->model;
    size_t i = (size_t)op;
    QN_ASSERT(i < m->plan->n_nodes);
    const qn_op *o = &m->ops[i];
    const qn_node *n = &m->plan->nodes[i];
    *out = (qn_op_info){.format = "", .layer = o->layer};
    qn_op_name(o, out->name, sizeof out->name);
    for (uint32_t k = 0; k < o->n_w; k++)
        if (o->kind != QN_OP_EMBED && !had_before(m, i, o->w[k])) /* EMBED reads the file */
            out->weight_bytes += m->backend->weight_bytes(o->w[k]);
    size_t sizes[QN_PLAN_MAX_VEC_PARTS];
    for (int k = 0; k < 2; k++)
        out->weight_bytes += qn_node_vector(n, k, sizes) * sizeof(float);
    if (o->n_w) {
        out->format = qn_dtype_get(n->w[0]->dtype)->name;
        out->n_in = (int)n->w[0]->cols;
    }
    for (uint32_t k = 0; k < o->n_w; k++)
        out->n_out += (int)n->w[k]->rows;
    if (o->kind == QN_OP_EXPERTS || o->kind == QN_OP_MOE) {
        out->format = qn_dtype_get(n->experts->expert_gate[0].dtype)->name;
        out->n_in = (int)n->experts->expert_gate[0].cols;
        out->n_out = (int)n->experts->expert_gate[0].rows * 2;
        out->weight_bytes += expert_bytes(m->backend, o);
    }
    if (o->kind == QN_OP_ATTENTION)
        out->kv_bytes = kv_bytes(e);
}
