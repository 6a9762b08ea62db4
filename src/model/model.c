/* SPDX-License-Identifier: Apache-2.0
 * model.c - opens a model and binds its plan to a device. */
#include "model/model.h"

#include "model/native.h"

#include <string.h>

/* A matrix the device has taken, found again by its view: tied matrices and shared parts are taken
 * once. */
struct qn_taken {
    const qn_weight *view;
    qn_dweight *w;
    bool rows_only;
};

typedef struct opener {
    qn_model *m;
    const qn_model_options *o;
    double done, total; /* bytes of matrices, for progress */
    qn_err *err;
} opener;

static void report(const opener *op, const char *what)
{
    if (op->o->progress)
        op->o->progress(op->o->progress_arg, what,
                        op->total > 0 ? QN_MIN(op->done / op->total, 1.0) : 0);
}

/* What is to stay mapped must need no panels of its own. */
static qn_status check_mapped(const opener *op, const qn_weight *w, bool rows_only)
{
    uint32_t form;
    size_t bytes;
    if (!op->o->mapped || w->packed || rows_only || op->o->device.exact ||
        !op->m->backend->weight_form(w, &form, &bytes))
        return QN_OK;
    return qn_fail(op->err, QN_E_ARG,
                   "%s: --mmap wants weights as the kernels read them: run quern pack %s OUT.qpk "
                   "and use that",
                   qn_base_name(op->m->files->path), op->m->files->path);
}

/* Steps are going to read what p points to, or (p in no file) memory. */
static qn_status note_file(const opener *op, const void *p)
{
    qn_model *m = op->m;
    const qn_file *f = qn_weights_file(m->files, p);
    for (size_t i = 0; f && i < m->n_read_files; i++)
        if (m->read_files[i] == f)
            return QN_OK;
    if (!f)
        return QN_OK;
    if (!qn_grow(&m->read_files, &m->read_files_cap, m->n_read_files + 1, sizeof *m->read_files,
                 QN_MEM_WEIGHTS))
        return qn_fail_nomem(op->err, sizeof *m->read_files);
    m->read_files[m->n_read_files++] = f;
    return QN_OK;
}

/* w, whose rows are only looked up, becomes the rows of one step (qn_model_look_up). */
static qn_status look_up_rows(opener *op, const qn_weight *view, qn_weight *w)
{
    qn_model *m = op->m;
    m->lookup_file = qn_weights_file(m->files, view->data);
    if (!m->lookup_file || !view->stride || view->scale)
        return QN_OK;
    m->lookup_rows = qn_alloc_array(m->max_rows, view->stride, QN_MEM_ACTIVATIONS);
    if (!m->lookup_rows)
        return qn_fail_nomem(op->err, m->max_rows * view->stride);
    QN_TRY(note_file(op, view->data));
    m->looked_up = view;
    w->data = m->lookup_rows;
    w->rows = m->max_rows;
    return QN_OK;
}

static qn_status take_new(opener *op, qn_dweight **out, const qn_weight *view, bool rows_only)
{
    qn_model *m = op->m;
    *out = NULL;
    if (!view->data)
        return QN_OK;
    if (!qn_grow(&m->taken, &m->taken_cap, m->n_taken + 1, sizeof *m->taken, QN_MEM_WEIGHTS))
        return qn_fail_nomem(op->err, sizeof *m->taken);
    qn_weight w;
    QN_TRY(qn_native_view(&w, m->files, view, rows_only, op->o->device.exact, op->err));
    QN_TRY(check_mapped(op, &w, rows_only));
    if (op->o->dry && !w.packed && !rows_only && !op->o->device.exact &&
        m->backend->weight_form(&w, &w.packed_form, &w.packed_bytes))
        w.packed = w.data; /* as if from a packed file: nothing of it is read */
    if (rows_only)
        QN_TRY(look_up_rows(op, view, &w));
    QN_TRY(m->backend->weight_new(out, m->device, &w, rows_only, op->err));
    bool is_borrowed = m->backend->weight_is_borrowed(*out);
    if (!is_borrowed)
        qn_weights_drop(m->files, view->data, qn_weight_bytes(view));
    m->taken[m->n_taken++] = (struct qn_taken){.view = view, .w = *out, .rows_only = rows_only};
    op->done += (double)qn_weight_bytes(view);
    report(op, "loading weights");
    return is_borrowed ? note_file(op, w.packed ? w.packed : w.data) : QN_OK;
}

static qn_status take_weight(opener *op, qn_dweight **out, const qn_weight *view, bool rows_only)
{
    for (size_t i = 0; view->data && i < op->m->n_taken; i++)
        if (op->m->taken[i].view == view) {
            *out = op->m->taken[i].w;
            return QN_OK;
        }
    return take_new(op, out, view, rows_only);
}

/* Vector parts side by side as float32. */
static qn_status take_vector(opener *op, const qn_buf **out, const qn_node *n, int which)
{
    qn_model *m = op->m;
    const qn_weight *const *part = n->vec[which];
    *out = NULL;
    size_t at = 0, sizes[QN_PLAN_MAX_VEC_PARTS], width = qn_node_vector(n, which, sizes);
    if (!width)
        return QN_OK;
    float *row = qn_calloc(width, sizeof *row, QN_MEM_MISC);
    if (!row || !qn_grow(&m->vectors, &m->vectors_cap, m->n_vectors + 1, sizeof *m->vectors,
                         QN_MEM_WEIGHTS)) {
        qn_free(row);
        return qn_fail_nomem(op->err, width * sizeof *row);
    }
    qn_status s = QN_OK;
    for (size_t i = 0; i < QN_PLAN_MAX_VEC_PARTS; at += sizes[i++])
        if (part[i]) {
            qn_weight view;
            s = s == QN_OK ? qn_native_view(&view, m->files, part[i], true, false, op->err) : s;
            qn_weight_decode(part[i], 0, 1, row + at);
        }
    qn_buf *b = NULL;
    if (s == QN_OK)
        s = m->backend->buf_new(&b, m->device, width * sizeof *row, QN_MEM_WEIGHTS, op->err);
    if (s == QN_OK) {
        m->vectors[m->n_vectors++] = b;
        m->vector_bytes += width * sizeof *row;
        s = m->backend->upload(b, 0, row, width * sizeof *row, op->err);
    }
    qn_free(row);
    *out = b;
    return s;
}

static qn_status take_expert(opener *op, size_t layer, uint32_t id, int part, qn_dweight **out,
                             const qn_weight *view)
{
    qn_model *m = op->m;
    QN_TRY(take_new(op, out, view, false));
    if (m->cache)
        qn_expert_cache_set(m->cache, layer, id, part, *out, qn_qpk_find(m->files->qpk, view));
    return QN_OK;
}

static qn_status take_experts(opener *op, qn_op *to, const qn_node *n)
{
    qn_model *m = op->m;
    const qn_model_config *c = &m->config;
    const qn_layer_weights *w = n->experts;
    size_t layer = (size_t)to->layer, ne = c->n_experts;
    qn_experts *e = &m->experts[layer];
    to->experts = e;
    if (to->kind == QN_OP_ROUTE) {
        e->n_experts = c->n_experts;
        e->n_active = c->n_experts_active;
        e->norm_topk = c->norm_topk;
        return QN_OK;
    }
    qn_dweight **list = m->expert_lists + layer * 3 * ne;
    *e = (qn_experts){.n_experts = c->n_experts,
                      .n_active = c->n_experts_active,
                      .norm_topk = c->norm_topk,
                      .ffn_size = c->expert_ffn_size,
                      .gate = list,
                      .up = list + ne,
                      .down = list + 2 * ne,
                      .shared_ffn_size = c->shared_ffn_size};
    for (uint32_t i = 0; i < ne; i++) {
        QN_TRY(take_expert(op, layer, i, 0, &e->gate[i], &w->expert_gate[i]));
        QN_TRY(take_expert(op, layer, i, 1, &e->up[i], &w->expert_up[i]));
        QN_TRY(take_expert(op, layer, i, 2, &e->down[i], &w->expert_down[i]));
    }
    if (m->cache)
        qn_expert_cache_bind(m->cache, layer, e);
    if (to->kind != QN_OP_MOE)
        return QN_OK;
    QN_TRY(take_weight(op, &e->router, &w->router, false));
    QN_TRY(take_weight(op, &e->shared_gate, &w->shared_gate, false));
    QN_TRY(take_weight(op, &e->shared_up, &w->shared_up, false));
    QN_TRY(take_weight(op, &e->shared_down, &w->shared_down, false));
    return take_weight(op, &e->shared_router, &w->shared_router, false);
}

/* An embedding that is no output matrix too. */
static bool is_rows_only(const qn_plan *p, const qn_weight *view)
{
    for (size_t i = 0; i < p->n_nodes; i++)
        for (uint32_t k = 0; k < p->nodes[i].op.n_w; k++)
            if (p->nodes[i].w[k] == view && p->nodes[i].op.kind != QN_OP_EMBED)
                return false;
    return true;
}

static qn_operand operand(const qn_model *m, int buf)
{
    if (buf < 0)
        return (qn_operand){0};
    const qn_plan_buf *b = &m->plan->bufs[buf];
    return (qn_operand){.buf = m->arena, .offset = b->offset, .width = b->width};
}

/* The output matrix, the largest, is taken first: what its source holds while it is packed is then
 * memory that the others use after it. */
static qn_status take_output(opener *op)
{
    const qn_plan *p = op->m->plan;
    qn_dweight *w;
    for (size_t i = p->n_nodes; i-- > 0;)
        if (p->nodes[i].op.kind == QN_OP_LINEAR && p->nodes[i].op.on_logit_rows)
            return take_weight(op, &w, p->nodes[i].w[0], false);
    return QN_OK;
}

static qn_status bind_ops(opener *op)
{
    qn_model *m = op->m;
    const qn_plan *p = m->plan;
    size_t arena = QN_MAX(p->arena_bytes, (size_t)64), nl = m->config.n_layers;
    QN_TRY(m->backend->buf_new(&m->arena, m->device, arena, QN_MEM_ACTIVATIONS, op->err));
    m->ops = qn_calloc(p->n_nodes, sizeof *m->ops, QN_MEM_MISC);
    m->experts = qn_calloc(nl, sizeof *m->experts, QN_MEM_MISC);
    m->n_experts = nl * 3 * m->config.n_experts;
    m->expert_lists = qn_calloc(m->n_experts + 1, sizeof *m->expert_lists, QN_MEM_MISC);
    if (!m->ops || !m->experts || !m->expert_lists)
        return qn_fail_nomem(op->err, p->n_nodes * sizeof *m->ops);
    QN_TRY(take_output(op));
    for (size_t i = 0; i < p->n_nodes; i++) {
        const qn_node *n = &p->nodes[i];
        qn_op *to = &m->ops[i];
        *to = n->op;
        for (int k = 0; k < QN_OP_MAX_IN; k++)
            to->in[k] = operand(m, n->in[k]);
        to->out = operand(m, n->out);
        for (uint32_t k = 0; k < n->op.n_w; k++)
            QN_TRY(take_weight(op, &to->w[k], n->w[k],
                               n->op.kind == QN_OP_EMBED && is_rows_only(p, n->w[k])));
        QN_TRY(take_vector(op, &to->vec[0], n, 0));
        QN_TRY(take_vector(op, &to->vec[1], n, 1));
        if (n->experts)
            QN_TRY(take_experts(op, to, n));
    }
    return QN_OK;
}

/* Experts stay on disk where a limit is given and they can; else all weights must be below it. */
static qn_status open_cache(opener *op)
{
    qn_model *m = op->m;
    const qn_qpk *file = m->files->qpk;
    if (op->o->mem_limit && file && m->config.n_experts && file->area_bytes[QN_QPK_EXPERTS] > 0)
        return qn_expert_cache_new(&m->cache, file, m->backend, m->config.n_layers,
                                   m->config.n_experts, op->err);
    if (op->o->mem_limit && op->total > (double)op->o->mem_limit)
        return qn_fail(
            op->err, QN_E_NOMEM,
            "%s: %.2f GB of weights, --mem allows %.2f GB; only experts of a packed file "
            "(quern pack) can stay on disk",
            qn_base_name(m->files->path), op->total * 1e-9, (double)op->o->mem_limit * 1e-9);
    return QN_OK;
}

static qn_status open_steps(opener *op, const char *path)
{
    qn_model *m = op->m;
    QN_TRY(qn_weights_open(&m->files, path, op->err));
    QN_TRY(qn_model_config_read(&m->config, m->files, op->err));
    QN_TRY(qn_bind(&m->matrices, &m->config, m->files, op->err));
    QN_TRY(qn_plan_build(&m->plan, &m->config, m->matrices, op->err));
    qn_pass_fold(m->plan);
    if (!op->o->plain_plan) {
        qn_pass_prune(m->plan);
        qn_pass_fuse(m->plan);
    }
    if (!qn_pass_place(m->plan, op->o->device.max_rows, op->o->max_logit_rows))
        return qn_fail_nomem(op->err, m->plan->n_bufs);
    QN_TRY(qn_plan_check(m->plan, op->err));
    qn_rope_init(&m->rope, &m->config, m->matrices->rope_freqs);
    QN_TRY(m->backend->open(&m->device, &op->o->device, op->err));
    op->total = qn_plan_cost_of(m->plan, 1, 0, 1).matrix_bytes;
    QN_TRY(open_cache(op));
    int n_areas = op->o->mapped || op->o->dry ? 0 : m->cache ? QN_QPK_EXPERTS : QN_QPK_N_AREAS;
    QN_TRY(qn_native_open(m->files, m->backend, op->o->device.n_threads, n_areas, op->err));
    report(op, "loading weights");
    QN_TRY(bind_ops(op));
    if (m->cache)
        QN_TRY(note_file(op, m->files->qpk->file->data));
    /* what binding and choosing looked at; what is used where it lies comes back when it is */
    for (size_t i = 0; i < m->files->n_files; i++) {
        QN_TRY(qn_file_check(m->files->files[i], op->err));
        qn_file_drop(m->files->files[i], m->files->files[i]->data, m->files->files[i]->size);
    }
    return QN_OK;
}

qn_status qn_model_open(qn_model **out, const char *path, const qn_model_options *o, qn_err *err)
{
    *out = NULL;
    qn_model *m = qn_calloc(1, sizeof *m, QN_MEM_MISC);
    if (!m)
        return qn_fail_nomem(err, sizeof *m);
    m->backend = qn_backend_cpu();
    m->max_rows = o->device.max_rows;
    m->max_logit_rows = o->max_logit_rows;
    m->dry = o->dry;
    opener op = {.m = m, .o = o, .err = err};
    qn_status s = open_steps(&op, path);
    if (s != QN_OK) {
        qn_model_free(m);
        return s;
    }
    *out = m;
    return QN_OK;
}

qn_status qn_model_bind_kv(qn_model *m, qn_kv_view *layers, qn_err *err)
{
    for (size_t i = 0; i < m->plan->n_nodes; i++) {
        qn_op *op = &m->ops[i];
        if (op->kind == QN_OP_KV_STORE || op->kind == QN_OP_QKV_STORE ||
            op->kind == QN_OP_ATTENTION)
            op->kv = &layers[op->layer];
    }
    return m->backend->prepare(m->device, m->ops, m->plan->n_nodes, err);
}

qn_status qn_model_look_up(qn_model *m, int32_t *ids, size_t n, qn_err *err)
{
    const qn_weight *w = m->looked_up;
    for (size_t i = 0; w && i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= w->rows)
            return qn_fail(err, QN_E_ARG, "token id %d: the vocabulary has %zu", ids[i], w->rows);
        const uint8_t *row = (const uint8_t *)w->data + (size_t)ids[i] * w->stride;
        QN_TRY(qn_file_pread(m->lookup_file, (size_t)(row - m->lookup_file->data),
                             m->lookup_rows + i * w->stride, w->stride, err));
        ids[i] = (int32_t)i;
    }
    return QN_OK;
}

qn_status qn_model_check_files(const qn_model *m, qn_err *err)
{
    for (size_t i = 0; i < m->n_read_files; i++)
        QN_TRY(qn_file_check(m->read_files[i], err));
    return QN_OK;
}

void qn_model_free(qn_model *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n_taken; i++)
        m->backend->weight_free(m->taken[i].w);
    for (size_t i = 0; i < m->n_vectors; i++)
        m->backend->buf_free(m->vectors[i]);
    if (m->arena)
        m->backend->buf_free(m->arena);
    qn_expert_cache_free(m->cache);
    qn_free(m->lookup_rows);
    qn_free(m->read_files);
    qn_free(m->taken);
    qn_free(m->vectors);
    qn_free(m->experts);
    qn_free(m->expert_lists);
    qn_free(m->ops);
    if (m->device)
        m->backend->close(m->device);
    qn_plan_free(m->plan);
    qn_model_weights_free(m->matrices);
    qn_weights_free(m->files);
    qn_free(m);
}

uint64_t qn_model_weight_bytes(const qn_model *m)
{
    uint64_t b = m->vector_bytes;
    for (size_t i = 0; i < m->n_taken; i++)
        if (!m->taken[i].rows_only)
            b += m->backend->weight_bytes(m->taken[i].w);
    if (!m->cache)
        return b;
    qn_expert_counts n = qn_expert_cache_count(m->cache);
    return b - n.bytes + n.n_slots * n.slot_bytes;
}

const char *qn_model_main_dtype(const qn_model_weights *m, const qn_plan *p)
{
    double bytes[QN_N_DTYPES] = {0};
    for (size_t i = 1; i < p->n_nodes; i++) {
        const qn_node *n = &p->nodes[i];
        for (uint32_t k = 0; k < n->op.n_w; k++)
            bytes[n->w[k]->dtype] += (double)qn_weight_bytes(n->w[k]);
        if (n->experts && n->op.kind != QN_OP_ROUTE)
            bytes[n->experts->expert_gate[0].dtype] +=
                (double)qn_weight_bytes(&n->experts->expert_gate[0]) * p->config->n_experts;
    }
    size_t best = m->embed.dtype;
    for (size_t t = 0; t < QN_N_DTYPES; t++)
        if (bytes[t] > bytes[best])
            best = t;
    return qn_dtype_get((qn_dtype)best)->name;
}
