/* SPDX-License-Identifier: Apache-2.0
 * plan.c - writes the plain plan of a Qwen-like decoder, checks plans, counts what they cost.
 *
 * One formula, one operation (x: residual stream):
 *   x = embed                                  for each layer:
 *   h = rmsnorm(x); q,k,v = h·W (+b)           qk-norm, rope, store k v, a = attention(q)
 *   x = x + a·Wo                               h = rmsnorm(x)
 *   x = x + down(silu(gate h) * up h)          or routed and shared experts
 *   logits = rmsnorm(gather(x))·Wout
 * All text models differ by flags of the config only. Source: transformers
 * modeling_qwen2/3(_moe).py. */
#include "model/plan.h"

#include <string.h>

/* ---- building ---- */

static int new_buf(qn_plan *p, const char *name, size_t width, bool on_logit_rows)
{
    if (p->failed ||
        !qn_grow(&p->bufs, &p->bufs_cap, p->n_bufs + 1, sizeof *p->bufs, QN_MEM_MISC)) {
        p->failed = true;
        return -1;
    }
    p->bufs[p->n_bufs] =
        (qn_plan_buf){.name = name, .width = (uint32_t)width, .on_logit_rows = on_logit_rows};
    return (int)p->n_bufs++;
}

/* Adds a node; its output (width > 0) is a new buffer. Returns the node, or a scrap one after a
 * failed allocation. */
static qn_node *add(qn_plan *p, qn_op_kind kind, int layer, const char *name, size_t width)
{
    static _Thread_local qn_node scrap;
    bool gathered = p->n_nodes && p->nodes[p->n_nodes - 1].op.on_logit_rows;
    gathered = gathered || kind == QN_OP_GATHER;
    int out = width ? new_buf(p, name, width, gathered) : -1;
    qn_node *n = &scrap;
    if (!p->failed &&
        qn_grow(&p->nodes, &p->nodes_cap, p->n_nodes + 1, sizeof *p->nodes, QN_MEM_MISC))
        n = &p->nodes[p->n_nodes++];
    else
        p->failed = true;
    *n = (qn_node){.in = {-1, -1, -1, -1}, .out = out, .tap = -1};
    n->op.kind = kind;
    n->op.layer = layer;
    n->op.eps = p->config->rms_eps;
    n->op.on_logit_rows = gathered;
    return n;
}

static int rmsnorm(qn_plan *p, int layer, const char *name, int x, size_t width, size_t norm_size,
                   const qn_weight *w)
{
    qn_node *n = add(p, QN_OP_RMSNORM, layer, name, width);
    n->in[0] = x;
    n->vec[0][0] = w;
    n->op.norm_size = (uint32_t)norm_size;
    return n->out;
}

/* x·wᵀ, and the bias as an operation of its own. */
static int linear(qn_plan *p, int layer, const char *name, int x, const qn_weight *w,
                  const qn_weight *bias)
{
    qn_node *n = add(p, QN_OP_LINEAR, layer, name, w->rows);
    n->in[0] = x;
    n->w[0] = w;
    n->op.n_w = 1;
    if (!bias || !bias->data)
        return n->out;
    int y = n->out;
    n = add(p, QN_OP_BIAS, layer, name, w->rows);
    n->in[0] = y;
    n->vec[1][0] = bias;
    n->in_place = true;
    return n->out;
}

static int binary(qn_plan *p, qn_op_kind kind, int layer, const char *name, size_t width, int a,
                  int b)
{
    qn_node *n = add(p, kind, layer, name, width);
    n->in[0] = a;
    n->in[1] = b;
    return n->out;
}

static void set_heads(const qn_plan *p, qn_op *op, uint32_t n_heads)
{
    const qn_model_config *c = p->config;
    op->n_heads = n_heads;
    op->n_kv_heads = c->n_kv_heads;
    op->head_dim = c->head_dim;
    op->rope_dim = c->rope_dim;
    op->rope_adjacent = c->rope_adjacent;
}

/* qk-norm and rope of q (or k). */
static int rotate(qn_plan *p, int layer, const char *name, int x, uint32_t n_heads,
                  const qn_weight *norm)
{
    const qn_model_config *c = p->config;
    size_t width = (size_t)n_heads * c->head_dim;
    if (norm->data)
        x = rmsnorm(p, layer, name, x, width, c->head_dim, norm);
    qn_node *n = add(p, QN_OP_ROPE, layer, name, width);
    n->in[0] = x;
    n->in_place = true;
    set_heads(p, &n->op, n_heads);
    return n->out;
}

static int attention(qn_plan *p, int layer, const qn_layer_weights *w, int x)
{
    const qn_model_config *c = p->config;
    size_t q_width = (size_t)c->n_heads * c->head_dim;
    int h = rmsnorm(p, layer, "attn_norm", x, c->hidden_size, c->hidden_size, &w->attn_norm);
    int q = linear(p, layer, "q", h, &w->q, &w->q_bias);
    int k = linear(p, layer, "k", h, &w->k, &w->k_bias);
    int v = linear(p, layer, "v", h, &w->v, &w->v_bias);
    q = rotate(p, layer, "q", q, c->n_heads, &w->q_norm);
    k = rotate(p, layer, "k", k, c->n_kv_heads, &w->k_norm);
    if (c->logn_attn) {
        qn_node *s = add(p, QN_OP_Q_SCALE, layer, "q", q_width);
        s->in[0] = q;
        s->in_place = true;
        q = s->out;
    }
    qn_node *n = add(p, QN_OP_KV_STORE, layer, "kv", 0);
    n->in[0] = k;
    n->in[1] = v;
    set_heads(p, &n->op, c->n_heads);
    n = add(p, QN_OP_ATTENTION, layer, "attn", q_width);
    n->in[0] = q;
    n->op.window = c->layer_window[layer];
    set_heads(p, &n->op, c->n_heads);
    int o = linear(p, layer, "attn_out", n->out, &w->o, &w->o_bias);
    return binary(p, QN_OP_ADD, layer, "x", c->hidden_size, x, o);
}

static int swiglu(qn_plan *p, int layer, int h, const qn_weight *gate, const qn_weight *up,
                  const qn_weight *down)
{
    int g = linear(p, layer, "gate", h, gate, NULL);
    int u = linear(p, layer, "up", h, up, NULL);
    int a = binary(p, QN_OP_SILU_MUL, layer, "ffn_act", gate->rows, g, u);
    return linear(p, layer, "ffn_out", a, down, NULL);
}

static int experts(qn_plan *p, int layer, const qn_layer_weights *w, int h)
{
    const qn_model_config *c = p->config;
    qn_node *n = add(p, QN_OP_ROUTE, layer, "route", 2 * (size_t)c->n_experts_active);
    n->in[0] = h;
    n->w[0] = &w->router;
    n->op.n_w = 1;
    n->experts = w;
    int route = n->out;
    n = add(p, QN_OP_EXPERTS, layer, "experts", c->hidden_size);
    n->in[0] = h;
    n->in[1] = route;
    n->experts = w;
    int y = n->out;
    if (!w->shared_gate.data)
        return y;
    int s = swiglu(p, layer, h, &w->shared_gate, &w->shared_up, &w->shared_down);
    if (!w->shared_router.data)
        return binary(p, QN_OP_ADD, layer, "experts", c->hidden_size, y, s);
    n = add(p, QN_OP_SHARED_GATE, layer, "experts", c->hidden_size);
    n->in[0] = y;
    n->in[1] = h;
    n->in[2] = s;
    n->w[0] = &w->shared_router;
    n->op.n_w = 1;
    return n->out;
}

static int dense(qn_plan *p, int layer, const qn_layer_weights *w, int h)
{
    int g = linear(p, layer, "gate", h, &w->gate, &w->gate_bias);
    int u = linear(p, layer, "up", h, &w->up, &w->up_bias);
    int a = binary(p, QN_OP_SILU_MUL, layer, "ffn_act", w->gate.rows, g, u);
    return linear(p, layer, "ffn_out", a, &w->down, &w->down_bias);
}

qn_status qn_plan_build(qn_plan **out, const qn_model_config *c, const qn_model_weights *m,
                        qn_err *err)
{
    *out = NULL;
    qn_plan *p = qn_calloc(1, sizeof *p, QN_MEM_MISC);
    if (!p)
        return qn_fail_nomem(err, sizeof *p);
    p->config = c;
    qn_node *n = add(p, QN_OP_EMBED, -1, "x", c->hidden_size);
    n->w[0] = &m->embed;
    n->op.n_w = 1;
    n->tap = 0;
    int x = n->out;
    for (int i = 0; i < (int)c->n_layers; i++) {
        const qn_layer_weights *w = &m->layers[i];
        x = attention(p, i, w, x);
        int h = rmsnorm(p, i, "ffn_norm", x, c->hidden_size, c->hidden_size, &w->ffn_norm);
        int f = c->layer_is_moe[i] ? experts(p, i, w, h) : dense(p, i, w, h);
        x = binary(p, QN_OP_ADD, i, "x", c->hidden_size, x, f);
        if (!p->failed)
            p->nodes[p->n_nodes - 1].tap = i + 1;
    }
    n = add(p, QN_OP_GATHER, -1, "x_last", c->hidden_size);
    n->in[0] = x;
    x = rmsnorm(p, -1, "final_norm", n->out, c->hidden_size, c->hidden_size, &m->output_norm);
    if (!p->failed)
        p->nodes[p->n_nodes - 1].tap = (int)c->n_layers + 1;
    (void)linear(p, -1, "logits", x, &m->output, NULL);
    if (p->failed) {
        qn_plan_free(p);
        return qn_fail_nomem(err, sizeof(qn_node));
    }
    *out = p;
    return qn_plan_check(p, err);
}

void qn_plan_free(qn_plan *p)
{
    if (!p)
        return;
    qn_free(p->nodes);
    qn_free(p->bufs);
    qn_free(p);
}

/* ---- checking ---- */

static size_t out_width(const qn_node *n)
{
    size_t w = 0;
    for (uint32_t i = 0; i < n->op.n_w; i++)
        w += n->w[i]->rows;
    return n->op.fuse & QN_FUSE_SILU_MUL ? w / 2 : w;
}

static qn_status check_linear(const qn_plan *p, size_t i, qn_err *err)
{
    const qn_node *n = &p->nodes[i];
    for (uint32_t k = 0; k < n->op.n_w; k++)
        if (n->w[k]->cols != p->bufs[n->in[0]].width)
            return qn_fail(err, QN_E_INTERNAL,
                           "plan: node %zu: input is %u wide, weight has %zu columns", i,
                           p->bufs[n->in[0]].width, n->w[k]->cols);
    if (out_width(n) != p->bufs[n->out].width)
        return qn_fail(err, QN_E_INTERNAL, "plan: node %zu: output is %u wide, weights give %zu", i,
                       p->bufs[n->out].width, out_width(n));
    return QN_OK;
}

qn_status qn_plan_check(const qn_plan *p, qn_err *err)
{
    bool *defined = qn_calloc(p->n_bufs + 1, sizeof *defined, QN_MEM_MISC);
    if (!defined)
        return qn_fail_nomem(err, p->n_bufs);
    qn_status s = QN_OK;
    bool gathered = false;
    for (size_t i = 0; i < p->n_nodes && s == QN_OK; i++) {
        const qn_node *n = &p->nodes[i];
        if (n->dead)
            continue;
        for (int k = 0; k < QN_OP_MAX_IN; k++)
            if (n->in[k] >= 0 && !defined[n->in[k]])
                s = qn_fail(err, QN_E_INTERNAL,
                            "plan: node %zu (%s) reads '%s' before it is written", i,
                            qn_op_kind_name(n->op.kind), p->bufs[n->in[k]].name);
        if (n->out >= 0 && defined[n->out])
            s = qn_fail(err, QN_E_INTERNAL, "plan: node %zu writes '%s' twice", i,
                        p->bufs[n->out].name);
        if (n->out >= 0)
            defined[n->out] = true;
        gathered = gathered || n->op.kind == QN_OP_GATHER;
        if (n->op.on_logit_rows != gathered)
            s = qn_fail(err, QN_E_INTERNAL, "plan: node %zu is on the wrong side of the gather", i);
        if (s == QN_OK && n->op.kind == QN_OP_LINEAR)
            s = check_linear(p, i, err);
    }
    qn_free(defined);
    return s;
}

/* ---- counting ---- */

static double matrix_cost(const qn_weight *w, double rows, double *bytes)
{
    if (!w || !w->data)
        return 0;
    *bytes += (double)qn_weight_bytes(w);
    return 2.0 * rows * (double)w->rows * (double)w->cols;
}

/* Experts that n tokens of top-k routing are expected to touch, choices taken as independent. */
static double experts_touched(const qn_model_config *c, double n)
{
    double miss = 1;
    for (double i = 0; i < n && miss > 1e-9; i++)
        miss *= 1 - (double)c->n_experts_active / c->n_experts;
    return (1 - miss) * c->n_experts;
}

static double expert_cost(const qn_plan *p, const qn_node *n, double rows, double *bytes)
{
    const qn_model_config *c = p->config;
    const qn_layer_weights *w = n->experts;
    double one = 0, flops = 0;
    flops += matrix_cost(&w->expert_gate[0], rows * c->n_experts_active, &one);
    flops += matrix_cost(&w->expert_up[0], rows * c->n_experts_active, &one);
    flops += matrix_cost(&w->expert_down[0], rows * c->n_experts_active, &one);
    *bytes += one * experts_touched(c, rows);
    if (n->op.kind == QN_OP_MOE) {
        const qn_weight *shared[] = {&w->router, &w->shared_gate, &w->shared_up, &w->shared_down,
                                     &w->shared_router};
        for (size_t i = 0; i < QN_COUNT(shared); i++)
            flops += matrix_cost(shared[i], rows, bytes);
    }
    return flops;
}

/* Keys and values one query sees, summed over n rows after `depth` tokens. */
static double attended(const qn_node *n, size_t n_rows, size_t depth)
{
    double total = 0;
    size_t window = n->op.window ? n->op.window : SIZE_MAX;
    for (size_t r = 0; r < n_rows; r++)
        total += (double)QN_MIN(depth + r + 1, window);
    return total;
}

qn_node_costs qn_node_cost(const qn_plan *p, const qn_node *n, size_t n_rows, size_t depth,
                           size_t n_logit_rows)
{
    qn_node_costs c = {0};
    size_t n_used = n->op.on_logit_rows ? n_logit_rows : n_rows;
    double rows = (double)n_used;
    double width = n->out >= 0 ? p->bufs[n->out].width : 0, f = 0, b = 0;
    QN_ASSERT(n_used <= n_rows);
    switch (n->op.kind) {
    case QN_OP_EMBED:
        b = rows * (double)qn_weight_bytes(n->w[0]) / (double)n->w[0]->rows;
        break;
    case QN_OP_LINEAR:
    case QN_OP_ROUTE:
    case QN_OP_SHARED_GATE:
        for (uint32_t i = 0; i < n->op.n_w; i++)
            f += matrix_cost(n->w[i], rows, &b);
        f += n->op.fuse & QN_FUSE_NORM ? 4.0 * rows * p->bufs[n->in[0]].width : 0;
        f += n->op.fuse & QN_FUSE_BIAS ? rows * width : 0;
        f += n->op.fuse & QN_FUSE_RESIDUAL ? rows * width : 0;
        f += n->op.fuse & QN_FUSE_SILU_MUL ? 5.0 * rows * width : 0;
        break;
    case QN_OP_EXPERTS:
    case QN_OP_MOE:
        f = expert_cost(p, n, rows, &b);
        break;
    case QN_OP_ATTENTION: {
        /* the wanted rows are the last ones; keys are read from the first that any of them sees */
        size_t end = depth + n_rows, first = end - n_used + 1,
               begin = n->op.window && first > n->op.window ? first - n->op.window : 0;
        f = 4.0 * attended(n, n_used, end - n_used) * n->op.n_heads * n->op.head_dim;
        if (n_used)
            c.kv_bytes = 2.0 * 2.0 * (double)(end - begin) * n->op.n_kv_heads * n->op.head_dim;
        break;
    }
    case QN_OP_RMSNORM:
        f = 4.0 * rows * width;
        break;
    case QN_OP_SILU_MUL:
        f = 5.0 * rows * width;
        break;
    case QN_OP_ROPE:
    case QN_OP_QKV_STORE:
        f = 3.0 * rows * width;
        break;
    case QN_OP_BIAS:
    case QN_OP_ADD:
    case QN_OP_Q_SCALE:
        f = rows * width;
        break;
    default:
        break;
    }
    double floats = width;
    for (int k = 0; k < QN_OP_MAX_IN; k++)
        floats += n->in[k] >= 0 ? p->bufs[n->in[k]].width : 0;
    c.flops = f;
    c.weight_bytes = b;
    c.activation_bytes = 4.0 * rows * floats;
    return c;
}

static bool seen_before(const qn_plan *p, size_t i, const qn_weight *w)
{
    for (size_t j = 0; j < i; j++)
        for (uint32_t k = 0; !p->nodes[j].dead && k < p->nodes[j].op.n_w; k++)
            if (p->nodes[j].w[k] == w)
                return true;
    return false;
}

static double resident(const qn_plan *p, size_t i)
{
    const qn_node *n = &p->nodes[i];
    double b = 0;
    for (uint32_t k = 0; k < n->op.n_w; k++)
        if (!seen_before(p, i, n->w[k]))
            b += (double)qn_weight_bytes(n->w[k]);
    if (n->op.kind == QN_OP_EXPERTS || n->op.kind == QN_OP_MOE) {
        const qn_layer_weights *w = n->experts;
        const qn_weight *one[] = {&w->expert_gate[0], &w->expert_up[0], &w->expert_down[0]};
        for (size_t k = 0; k < QN_COUNT(one); k++)
            b += (double)qn_weight_bytes(one[k]) * p->config->n_experts;
        if (n->op.kind == QN_OP_MOE) {
            const qn_weight *shared[] = {&w->router, &w->shared_gate, &w->shared_up,
                                         &w->shared_down, &w->shared_router};
            for (size_t k = 0; k < QN_COUNT(shared); k++)
                b += shared[k]->data ? (double)qn_weight_bytes(shared[k]) : 0;
        }
    }
    return b;
}

size_t qn_node_vector(const qn_node *n, int which, size_t sizes[QN_PLAN_MAX_VEC_PARTS])
{
    const qn_weight *const *part = n->vec[which];
    size_t width = 0;
    bool any = false;
    for (size_t i = 0; i < QN_PLAN_MAX_VEC_PARTS; i++) {
        any = any || part[i];
        sizes[i] = part[i] ? part[i]->cols : which == 1 && i < n->op.n_w ? n->w[i]->rows : 0;
        width += sizes[i];
    }
    return any ? width : 0;
}

qn_plan_cost qn_plan_cost_of(const qn_plan *p, size_t n_rows, size_t depth, size_t n_logit_rows)
{
    qn_plan_cost c = {0};
    for (size_t i = 0; i < p->n_nodes; i++) {
        const qn_node *n = &p->nodes[i];
        if (n->dead)
            continue;
        c.n_ops++;
        qn_node_costs one = qn_node_cost(p, n, n_rows, depth, n_logit_rows);
        c.flops += one.flops;
        c.weight_bytes += one.weight_bytes;
        c.kv_bytes += one.kv_bytes;
        c.activation_bytes += one.activation_bytes;
        c.matrix_bytes += resident(p, i);
        if (n->out >= 0)
            c.buffer_bytes +=
                4.0 * p->bufs[n->out].width * (double)(n->op.on_logit_rows ? n_logit_rows : n_rows);
    }
    if (p->arena_bytes)
        c.buffer_bytes = (double)p->arena_bytes;
    return c;
}
