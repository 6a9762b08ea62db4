/* SPDX-License-Identifier: Apache-2.0
 * native.c - writes packed files and takes weights from them.
 *
 * The plan says which matrices there are and how each is used:
 *   multiplied, and the device has a layout for it   panels
 *   looked up (embedding), or no layout              its tensors, as stored
 * A tensor goes into the file unless all that uses it are panels. Dense panels come first, in the
 * order a step reads them; then experts, each one's gate, up and down side by side. */
#include "model/native.h"

#include <stdlib.h>
#include <string.h>

#include "model/plan.h"

typedef struct use {
    const qn_weight *view;
    bool is_looked_up, is_multiplied;
} use;

typedef struct packer {
    qn_weights *w;
    qn_model_weights *matrices;
    qn_model_config config;
    qn_plan *plan;
    const qn_backend *backend;
    qn_device *device;
    use *uses;
    size_t n_uses, uses_cap;
    size_t *by_data; /* tensors in the order of their data */
    uint8_t *is_kept;
    const qn_weight **views; /* of the panels */
    size_t *view_tensors;
    qn_qpk_panels *panels;
    size_t n_panels;
    const qn_native_options *o;
    qn_err *err;
} packer;

/* ---- what is there ---- */

static qn_status add_use(packer *p, const qn_weight *view, bool lookup, bool is_new)
{
    if (!view->data)
        return QN_OK;
    for (size_t i = 0; !is_new && i < p->n_uses; i++)
        if (p->uses[i].view == view) {
            p->uses[i].is_looked_up |= lookup;
            p->uses[i].is_multiplied |= !lookup;
            return QN_OK;
        }
    if (!qn_grow(&p->uses, &p->uses_cap, p->n_uses + 1, sizeof *p->uses, QN_MEM_MISC))
        return qn_fail_nomem(p->err, sizeof *p->uses);
    p->uses[p->n_uses++] = (use){view, lookup, !lookup};
    return QN_OK;
}

static qn_status collect_dense(packer *p)
{
    for (size_t i = 0; i < p->plan->n_nodes; i++) {
        const qn_node *n = &p->plan->nodes[i];
        for (uint32_t k = 0; k < n->op.n_w; k++)
            QN_TRY(add_use(p, n->w[k], n->op.kind == QN_OP_EMBED, false));
        if (n->op.kind != QN_OP_MOE)
            continue;
        const qn_layer_weights *l = n->experts;
        const qn_weight *shared[] = {&l->router, &l->shared_gate, &l->shared_up, &l->shared_down,
                                     &l->shared_router};
        for (size_t k = 0; k < QN_COUNT(shared); k++)
            QN_TRY(add_use(p, shared[k], false, false));
    }
    return QN_OK;
}

static qn_status collect_experts(packer *p)
{
    for (size_t i = 0; i < p->plan->n_nodes; i++) {
        const qn_layer_weights *l = p->plan->nodes[i].experts;
        if (!l || p->plan->nodes[i].op.kind == QN_OP_ROUTE)
            continue;
        for (uint32_t e = 0; e < p->config.n_experts; e++) {
            QN_TRY(add_use(p, &l->expert_gate[e], false, true));
            QN_TRY(add_use(p, &l->expert_up[e], false, true));
            QN_TRY(add_use(p, &l->expert_down[e], false, true));
        }
    }
    return QN_OK;
}

/* ---- tensors by address ---- */

static int by_data(const void *a, const void *b, void *arg)
{
    const qn_tensor *t = arg, *x = &t[*(const size_t *)a], *y = &t[*(const size_t *)b];
    return ((uintptr_t)x->data > (uintptr_t)y->data) - ((uintptr_t)x->data < (uintptr_t)y->data);
}

/* The tensor that data lies in; n_tensors: none. */
static size_t tensor_of(const packer *p, const void *data)
{
    const qn_weights *w = p->w;
    size_t low = 0, high = w->n_tensors;
    while (low < high) { /* the last one that does not begin behind data */
        size_t mid = low + (high - low) / 2;
        if ((uintptr_t)w->tensors[p->by_data[mid]].data <= (uintptr_t)data)
            low = mid + 1;
        else
            high = mid;
    }
    if (!data || low == 0)
        return w->n_tensors;
    const qn_tensor *t = &w->tensors[p->by_data[low - 1]];
    return (uintptr_t)data - (uintptr_t)t->data < t->bytes ? p->by_data[low - 1] : w->n_tensors;
}

static void keep_parts(packer *p, const qn_weight *v, uint8_t value)
{
    const void *parts[] = {v->data, v->scale,       v->zero,        v->group_index,
                           v->code, v->nested_code, v->nested_scale};
    for (size_t i = 0; i < QN_COUNT(parts); i++) {
        size_t t = tensor_of(p, parts[i]);
        if (t < p->w->n_tensors)
            p->is_kept[t] = value;
    }
}

/* ---- panels ---- */

static qn_status choose(packer *p, size_t first_expert)
{
    size_t n = p->n_uses + 1;
    p->views = qn_calloc(n, sizeof *p->views, QN_MEM_MISC);
    p->view_tensors = qn_calloc(n, sizeof *p->view_tensors, QN_MEM_MISC);
    p->panels = qn_calloc(n, sizeof *p->panels, QN_MEM_MISC);
    p->is_kept = qn_calloc(p->w->n_tensors + 1, 1, QN_MEM_MISC);
    p->by_data = qn_calloc(p->w->n_tensors + 1, sizeof *p->by_data, QN_MEM_MISC);
    if (!p->views || !p->view_tensors || !p->panels || !p->is_kept || !p->by_data)
        return qn_fail_nomem(p->err, n * sizeof *p->panels);
    for (size_t i = 0; i < p->w->n_tensors; i++)
        p->by_data[i] = i;
    qsort_r(p->by_data, p->w->n_tensors, sizeof *p->by_data, by_data, p->w->tensors);
    memcpy(p->is_kept, p->matrices->is_used, p->w->n_tensors);
    for (size_t i = 0; i < p->n_uses; i++) {
        const use *u = &p->uses[i];
        uint32_t form;
        size_t bytes;
        if (!u->is_multiplied || !p->backend->weight_form(u->view, &form, &bytes))
            continue;
        keep_parts(p, u->view, 0);
        p->views[p->n_panels] = u->view;
        p->view_tensors[p->n_panels] = tensor_of(p, u->view->data);
        if (p->view_tensors[p->n_panels] == p->w->n_tensors)
            return qn_fail(p->err, QN_E_INTERNAL, "matrix %zu lies in no tensor", i);
        p->panels[p->n_panels++] = (qn_qpk_panels){
            .form = form, .area = i < first_expert ? QN_QPK_DENSE : QN_QPK_EXPERTS, .bytes = bytes};
    }
    for (size_t i = 0, k = 0; i < p->n_uses; i++) {
        bool is_panels = k < p->n_panels && p->views[k] == p->uses[i].view;
        k += is_panels;
        if (!is_panels || p->uses[i].is_looked_up)
            keep_parts(p, p->uses[i].view, 1);
    }
    return QN_OK;
}

static void pack(void *arg, size_t i, void *out)
{
    const packer *p = arg;
    p->backend->weight_pack(p->device, p->views[i], p->panels[i].form, out);
    qn_weights_drop(p->w, p->views[i]->data, qn_weight_bytes(p->views[i]));
}

static void progress(void *arg, const char *what, double done)
{
    const packer *p = arg;
    if (p->o->progress)
        p->o->progress(p->o->progress_arg, what, done);
}

static qn_status write_steps(packer *p, const char *path, const char *out)
{
    const qn_device_config config = {.n_threads = p->o->n_threads,
                                     .cpu_mask = p->o->cpu_mask,
                                     .max_rows = 1,
                                     .max_seqs = 1,
                                     .max_ctx = 1};
    if (qn_file_exists(out) || qn_dir_exists(out))
        return qn_fail(p->err, QN_E_ARG, "%s: is there already; remove it or give another name",
                       out);
    QN_TRY(qn_weights_open(&p->w, path, p->err));
    if (p->w->qpk)
        return qn_fail(p->err, QN_E_ARG, "%s: is a packed file already", path);
    QN_TRY(qn_model_config_read(&p->config, p->w, p->err));
    QN_TRY(qn_bind(&p->matrices, &p->config, p->w, p->err));
    QN_TRY(qn_plan_build(&p->plan, &p->config, p->matrices, p->err));
    qn_pass_fold(p->plan);
    qn_pass_prune(p->plan);
    qn_pass_fuse(p->plan);
    QN_TRY(qn_plan_check(p->plan, p->err));
    QN_TRY(p->backend->open(&p->device, &config, p->err));
    QN_TRY(collect_dense(p));
    size_t n_dense = p->n_uses;
    QN_TRY(collect_experts(p));
    QN_TRY(choose(p, n_dense));
    const qn_qpk_source s = {.w = p->w,
                             .layout = p->backend->layout,
                             .is_used = p->matrices->is_used,
                             .is_kept = p->is_kept,
                             .views = p->views,
                             .view_tensors = p->view_tensors,
                             .panels = p->panels,
                             .n_panels = p->n_panels,
                             .pack = pack,
                             .progress = progress,
                             .arg = p};
    return qn_qpk_write(out, &s, p->err);
}

qn_status qn_native_write(const char *path, const char *out, const qn_native_options *o,
                          qn_err *err)
{
    packer *p = qn_calloc(1, sizeof *p, QN_MEM_MISC);
    if (!p)
        return qn_fail_nomem(err, sizeof *p);
    p->backend = qn_backend_cpu();
    p->o = o;
    p->err = err;
    qn_status s = write_steps(p, path, out);
    if (p->device)
        p->backend->close(p->device);
    qn_plan_free(p->plan);
    qn_model_weights_free(p->matrices);
    qn_weights_free(p->w);
    void *blocks[] = {p->uses,          p->by_data,      p->is_kept,
                      (void *)p->views, p->view_tensors, p->panels};
    for (size_t i = 0; i < QN_COUNT(blocks); i++)
        qn_free(blocks[i]);
    qn_free(p);
    return s;
}

/* ---- taking ---- */

qn_status qn_native_open(const qn_weights *w, const qn_backend *b, int n_threads, int n_areas,
                         qn_err *err)
{
    const char *name = qn_base_name(w->path);
    qn_team *team;
    if (!w->qpk)
        return QN_OK;
    if (w->qpk->layout != b->layout)
        return qn_fail(
            err, QN_E_UNSUPPORTED,
            "%s: panels of layout %u, this program reads layout %u: run quern pack again", name,
            w->qpk->layout, b->layout);
    if (n_areas == 0)
        return QN_OK;
    QN_TRY(qn_team_new(&team, n_threads, err));
    qn_status s = QN_OK;
    for (int i = 0; s == QN_OK && i < n_areas; i++)
        s = qn_qpk_read(w->qpk, i, team, err);
    qn_team_free(team);
    return s;
}

qn_status qn_native_view(qn_weight *out, const qn_weights *w, const qn_weight *view, bool rows_only,
                         bool exact, qn_err *err)
{
    const char *name = qn_base_name(w->path);
    const qn_qpk_panels *p = w->qpk ? qn_qpk_find(w->qpk, view) : NULL;
    *out = *view;
    if (p && !rows_only && !exact) {
        out->packed = qn_qpk_data(w->qpk, p);
        out->packed_form = p->form;
        out->packed_bytes = (size_t)p->bytes;
        return QN_OK;
    }
    if (!qn_qpk_is_absent(w->qpk, view->data))
        return QN_OK;
    if (p && exact)
        return qn_fail(
            err, QN_E_UNSUPPORTED,
            "%s: packed for the integer kernels; for exact results open the file that it "
            "was packed from",
            name);
    return qn_fail(err, QN_E_FORMAT, "%s: a matrix [%zu, %zu] has neither data nor panels", name,
                   view->rows, view->cols);
}
