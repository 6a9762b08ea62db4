/* SPDX-License-Identifier: Apache-2.0
 * passes.c - rewrites a plan into a faster one that means the same.
 *
 *   fold   matrices that are one (tied) become one; biases of zeros go
 *   prune  GATHER moves up to right after the last layer's attention: every later operation runs on
 *          the wanted rows only
 *   fuse   RMSNORM+LINEAR, LINEAR+BIAS, LINEAR+ADD, three LINEARs of one input, gate+up+SILU_MUL;
 *          q|k|v+norm+rope+store; experts
 *   place  buffers share memory when their lives do not overlap
 *
 * Each pattern asks for the exact producer and the only consumer of a buffer, so that a plan it
 * does not fit is left as it is. Buffers are written once, so a use after the pattern's last node
 * can never be cut off. */
#include "model/plan.h"

#include <string.h>

/* ---- finding ---- */

static qn_node *producer(qn_plan *p, int buf)
{
    for (size_t i = 0; buf >= 0 && i < p->n_nodes; i++)
        if (!p->nodes[i].dead && p->nodes[i].out == buf)
            return &p->nodes[i];
    return NULL;
}

static bool reads(const qn_node *n, int buf)
{
    for (int k = 0; k < QN_OP_MAX_IN; k++)
        if (n->in[k] == buf)
            return true;
    return false;
}

/* The only live reader of a buffer, or NULL if there are none or several. */
static qn_node *consumer(qn_plan *p, int buf)
{
    qn_node *found = NULL;
    for (size_t i = 0; buf >= 0 && i < p->n_nodes; i++) {
        if (p->nodes[i].dead || !reads(&p->nodes[i], buf))
            continue;
        if (found)
            return NULL;
        found = &p->nodes[i];
    }
    return found;
}

static qn_node *consumer_of_kind(qn_plan *p, int buf, qn_op_kind kind)
{
    qn_node *n = consumer(p, buf);
    return n && n->op.kind == kind ? n : NULL;
}

static void sweep(qn_plan *p)
{
    size_t k = 0;
    for (size_t i = 0; i < p->n_nodes; i++)
        if (!p->nodes[i].dead)
            p->nodes[k++] = p->nodes[i];
    p->n_nodes = k;
}

/* Every reader of `from` reads `to` instead. */
static void redirect(qn_plan *p, int from, int to)
{
    for (size_t i = 0; i < p->n_nodes; i++)
        for (int k = 0; k < QN_OP_MAX_IN; k++)
            if (p->nodes[i].in[k] == from)
                p->nodes[i].in[k] = to;
}

/* ---- fold ---- */

static bool is_zero(const qn_weight *w)
{
    if (w->dtype != QN_F32 && w->dtype != QN_F16 && w->dtype != QN_BF16)
        return false;
    const unsigned char *b = w->data;
    for (size_t i = 0; i < qn_weight_bytes(w); i++)
        if (b[i])
            return false;
    return true;
}

void qn_pass_fold(qn_plan *p)
{
    const qn_weight *embed = p->nodes[0].w[0];
    for (size_t i = 1; i < p->n_nodes; i++) {
        qn_node *n = &p->nodes[i];
        if (n->op.kind == QN_OP_LINEAR && n->w[0]->data == embed->data &&
            n->w[0]->dtype == embed->dtype && n->w[0]->row0 == embed->row0)
            n->w[0] = embed;
        if (n->op.kind == QN_OP_BIAS && is_zero(n->vec[1][0])) {
            redirect(p, n->out, n->in[0]);
            n->dead = true;
        }
    }
    sweep(p);
}

/* ---- prune ---- */

void qn_pass_prune(qn_plan *p)
{
    size_t at = p->n_nodes, gather = p->n_nodes;
    for (size_t i = 0; i < p->n_nodes; i++) {
        if (p->nodes[i].op.kind == QN_OP_ATTENTION)
            at = i;
        if (p->nodes[i].op.kind == QN_OP_GATHER)
            gather = i;
    }
    if (at >= gather || gather >= p->n_nodes)
        return;
    /* what lives across that point and is read later: the attention's output and the residual
     * stream */
    int attn = p->nodes[at].out, x = -1;
    for (size_t i = at + 1; i <= gather; i++)
        for (int k = 0; k < QN_OP_MAX_IN; k++) {
            int b = p->nodes[i].in[k];
            const qn_node *made = producer(p, b);
            if (b == attn || !made || made > &p->nodes[at])
                continue;
            if (x >= 0 && b != x)
                return;
            x = b;
        }
    if (x < 0 ||
        !qn_grow(&p->nodes, &p->nodes_cap, p->n_nodes + 2, sizeof *p->nodes, QN_MEM_MISC) ||
        !qn_grow(&p->bufs, &p->bufs_cap, p->n_bufs + 2, sizeof *p->bufs, QN_MEM_MISC))
        return;
    qn_node g = p->nodes[gather];
    redirect(p, g.out, g.in[0]);
    p->nodes[gather].dead = true;
    memmove(&p->nodes[at + 3], &p->nodes[at + 1], (p->n_nodes - at - 1) * sizeof *p->nodes);
    p->n_nodes += 2;
    int from[2] = {attn, x};
    for (size_t k = 0; k < 2; k++) {
        int to = (int)p->n_bufs++;
        p->bufs[to] = p->bufs[from[k]];
        for (size_t i = at + 3; i < p->n_nodes; i++)
            for (int j = 0; j < QN_OP_MAX_IN; j++)
                if (p->nodes[i].in[j] == from[k])
                    p->nodes[i].in[j] = to;
        g.in[0] = from[k];
        g.out = to;
        g.op.layer = p->nodes[at].op.layer;
        p->nodes[at + 1 + k] = g;
        p->bufs[to].on_logit_rows = true;
    }
    for (size_t i = at + 1; i < p->n_nodes; i++) {
        p->nodes[i].op.on_logit_rows = true;
        if (p->nodes[i].out >= 0)
            p->bufs[p->nodes[i].out].on_logit_rows = true;
    }
    sweep(p);
}

/* ---- fuse ---- */

/* LINEAR then BIAS. */
static void fuse_bias(qn_plan *p, qn_node *n)
{
    qn_node *b = consumer_of_kind(p, n->out, QN_OP_BIAS);
    if (!b || n->op.fuse)
        return;
    n->op.fuse |= QN_FUSE_BIAS;
    n->vec[1][0] = b->vec[1][0];
    n->out = b->out;
    b->dead = true;
}

/* LINEAR then ADD of something older: the product is added to the residual. */
static void fuse_residual(qn_plan *p, qn_node *n)
{
    qn_node *a = consumer_of_kind(p, n->out, QN_OP_ADD);
    if (!a || n->op.n_w != 1 || n->op.fuse & QN_FUSE_RESIDUAL)
        return;
    int other = a->in[0] == n->out ? a->in[1] : a->in[0];
    const qn_node *made = producer(p, other);
    if (other == n->out || !made || made > n)
        return;
    n->op.fuse |= QN_FUSE_RESIDUAL;
    n->in[1] = other;
    n->out = a->out;
    n->tap = a->tap;
    a->dead = true;
}

/* gate and up of one input, then SILU_MUL. n is the gate. */
static void fuse_swiglu(qn_plan *p, qn_node *n)
{
    qn_node *s = consumer_of_kind(p, n->out, QN_OP_SILU_MUL);
    qn_node *up = s && s->in[0] == n->out ? producer(p, s->in[1]) : NULL;
    if (!up || up->op.kind != QN_OP_LINEAR || up->in[0] != n->in[0] || n->op.fuse || up->op.fuse ||
        !consumer(p, up->out) || n->w[0]->rows != up->w[0]->rows)
        return;
    n->w[1] = up->w[0];
    n->op.n_w = 2;
    n->op.fuse |= QN_FUSE_SILU_MUL;
    n->out = s->out;
    up->dead = s->dead = true;
}

/* RMSNORM of the whole row whose only reader is this product. */
static void fuse_norm(qn_plan *p, qn_node *n)
{
    qn_node *r = producer(p, n->in[0]);
    if (!r || r->op.kind != QN_OP_RMSNORM || r->tap >= 0 ||
        r->op.norm_size != p->bufs[r->out].width || consumer(p, r->out) != n ||
        n->op.fuse & QN_FUSE_NORM)
        return;
    n->op.fuse |= QN_FUSE_NORM;
    n->in[0] = r->in[0];
    n->vec[0][0] = r->vec[0][0];
    r->dead = true;
}

/* Follows one of q, k back to its product, noting norm, rope and log-n scaling on the way; nothing
 * else may read what lies between. */
static qn_node *chain_start(qn_plan *p, int buf, qn_node *chain[4], size_t *n_chain,
                            const qn_weight **norm)
{
    for (*n_chain = 0; *n_chain < 4;) {
        qn_node *n = producer(p, buf);
        if (!n || !consumer(p, buf))
            return NULL;
        if (n->op.kind == QN_OP_LINEAR)
            return n;
        if (n->op.kind == QN_OP_RMSNORM)
            *norm = n->vec[0][0];
        else if (n->op.kind != QN_OP_ROPE && n->op.kind != QN_OP_Q_SCALE)
            return NULL;
        chain[(*n_chain)++] = n;
        buf = n->in[0];
    }
    return NULL;
}

/* q, k, v products of one input, their norms and ropes, and the store: one product and QKV_STORE.
 * `at` is the KV_STORE. */
static void fuse_qkv(qn_plan *p, size_t at)
{
    qn_node *store = &p->nodes[at], *att = NULL, *chain[2][4];
    for (size_t i = at + 1; i < p->n_nodes && !att; i++)
        if (!p->nodes[i].dead && p->nodes[i].op.kind == QN_OP_ATTENTION)
            att = &p->nodes[i];
    if (!att || att->op.layer != store->op.layer)
        return;
    const qn_weight *norm[2] = {NULL, NULL};
    size_t n_chain[2];
    qn_node *q = chain_start(p, att->in[0], chain[0], &n_chain[0], &norm[0]);
    qn_node *k = chain_start(p, store->in[0], chain[1], &n_chain[1], &norm[1]);
    qn_node *v = producer(p, store->in[1]);
    if (!q || !k || !v || v->op.kind != QN_OP_LINEAR || !consumer(p, v->out) ||
        q->in[0] != k->in[0] || q->in[0] != v->in[0])
        return;
    /* a bias that only some of the three have is zeros for the others */
    uint32_t fuse = q->op.fuse | k->op.fuse | v->op.fuse;
    if ((fuse & ~(uint32_t)QN_FUSE_BIAS) || !norm[0] != !norm[1])
        return;
    q->op.fuse = fuse;
    qn_node *part[3] = {q, k, v};
    size_t width = 0;
    for (size_t i = 0; i < 3; i++) {
        width += p->bufs[part[i]->out].width;
        q->w[i] = part[i]->w[0];
        q->vec[1][i] = part[i]->vec[1][0];
    }
    q->op.n_w = 3;
    p->bufs[q->out].name = "qkv";
    p->bufs[q->out].width = (uint32_t)width;
    k->dead = v->dead = true;
    for (size_t j = 0; j < 2; j++)
        for (size_t i = 0; i < n_chain[j]; i++)
            chain[j][i]->dead = true;
    p->bufs[att->in[0]].width = (uint32_t)width;
    p->bufs[att->in[0]].name = "qkv";
    store->op.kind = QN_OP_QKV_STORE;
    store->in[0] = q->out;
    store->in[1] = -1;
    store->out = att->in[0];
    store->in_place = true;
    store->vec[0][0] = norm[0];
    store->vec[1][0] = norm[1];
}

/* norm + ROUTE + EXPERTS (+ shared expert) + ADD: one MOE. n is the ROUTE. */
static void fuse_moe(qn_plan *p, qn_node *n)
{
    int h = n->in[0];
    qn_node *norm = producer(p, h), *ex = consumer_of_kind(p, n->out, QN_OP_EXPERTS);
    if (!norm || norm->op.kind != QN_OP_RMSNORM || norm->tap >= 0 || !ex)
        return;
    bool shared = n->experts->shared_gate.data != NULL;
    qn_node *last = ex;
    if (shared && n->experts->shared_router.data)
        last = consumer_of_kind(p, ex->out, QN_OP_SHARED_GATE);
    else if (shared)
        last = consumer_of_kind(p, ex->out, QN_OP_ADD);
    qn_node *sum = last ? consumer_of_kind(p, last->out, QN_OP_ADD) : NULL;
    if (!sum)
        return;
    int x = sum->in[0] == last->out ? sum->in[1] : sum->in[0];
    /* everything between the norm and the sum belongs to the pattern, or it does not fit */
    for (qn_node *i = norm + 1; i < sum; i++) {
        bool ours = i->dead || i->op.kind == QN_OP_ROUTE || i->op.kind == QN_OP_EXPERTS ||
                    i->op.kind == QN_OP_LINEAR || i->op.kind == QN_OP_SILU_MUL || i == last;
        if (!ours || i->op.layer != n->op.layer)
            return;
    }
    qn_node m = *n;
    m.op.kind = QN_OP_MOE;
    m.op.fuse = QN_FUSE_NORM;
    m.op.n_w = 0;
    m.w[0] = NULL;
    m.in[0] = norm->in[0];
    m.in[1] = x;
    m.vec[0][0] = norm->vec[0][0];
    m.out = sum->out;
    m.tap = sum->tap;
    for (qn_node *i = norm; i < sum; i++)
        i->dead = true;
    *sum = m;
}

void qn_pass_fuse(qn_plan *p)
{
    for (size_t i = 0; i < p->n_nodes; i++)
        if (!p->nodes[i].dead && p->nodes[i].op.kind == QN_OP_ROUTE)
            fuse_moe(p, &p->nodes[i]);
    for (size_t i = 0; i < p->n_nodes; i++)
        if (!p->nodes[i].dead && p->nodes[i].op.kind == QN_OP_LINEAR)
            fuse_bias(p, &p->nodes[i]);
    for (size_t i = 0; i < p->n_nodes; i++)
        if (!p->nodes[i].dead && p->nodes[i].op.kind == QN_OP_KV_STORE)
            fuse_qkv(p, i);
    for (size_t i = 0; i < p->n_nodes; i++)
        if (!p->nodes[i].dead && p->nodes[i].op.kind == QN_OP_LINEAR)
            fuse_swiglu(p, &p->nodes[i]);
    for (size_t i = 0; i < p->n_nodes; i++)
        if (!p->nodes[i].dead && p->nodes[i].op.kind == QN_OP_LINEAR) {
            fuse_residual(p, &p->nodes[i]);
            fuse_norm(p, &p->nodes[i]);
        }
    sweep(p);
}

/* ---- place ---- */

typedef struct life {
    size_t first, last; /* nodes */
    size_t bytes;
    int root; /* shares the memory of this buffer */
} life;

static void measure(const qn_plan *p, life *l, size_t max_rows, size_t max_logit_rows)
{
    for (size_t b = 0; b < p->n_bufs; b++) {
        size_t rows = p->bufs[b].on_logit_rows ? max_logit_rows : max_rows;
        l[b] = (life){.first = SIZE_MAX,
                      .bytes = QN_ROUND_UP(rows * p->bufs[b].width * 4, (size_t)64),
                      .root = (int)b};
    }
    for (size_t i = 0; i < p->n_nodes; i++) {
        const qn_node *n = &p->nodes[i];
        if (n->out >= 0) {
            l[n->out].first = l[n->out].last = i;
            if (n->in_place)
                l[n->out].root = l[n->in[0]].root;
        }
        for (int k = 0; k < QN_OP_MAX_IN; k++)
            if (n->in[k] >= 0)
                l[l[n->in[k]].root].last = i;
        if (n->out >= 0)
            l[l[n->out].root].last = QN_MAX(l[l[n->out].root].last, i);
    }
}

/* Lowest offset where buffer b overlaps no placed buffer that lives at the same time. */
static size_t fit(const qn_plan *p, const life *l, const bool *placed, size_t b)
{
    size_t at = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (size_t o = 0; o < p->n_bufs; o++) {
            bool together = placed[o] && l[o].first <= l[b].last && l[b].first <= l[o].last;
            if (together && at < p->bufs[o].offset + l[o].bytes &&
                p->bufs[o].offset < at + l[b].bytes) {
                at = p->bufs[o].offset + l[o].bytes;
                moved = true;
            }
        }
    }
    return at;
}

bool qn_pass_place(qn_plan *p, size_t max_rows, size_t max_logit_rows)
{
    life *l = qn_calloc(p->n_bufs, sizeof *l, QN_MEM_MISC);
    bool *placed = qn_calloc(p->n_bufs, sizeof *placed, QN_MEM_MISC);
    size_t arena = 0;
    bool ok = l && placed;
    if (ok)
        measure(p, l, max_rows, max_logit_rows);
    for (size_t b = 0; ok && b < p->n_bufs; b++) {
        if (l[b].first == SIZE_MAX || l[b].root != (int)b)
            continue;
        p->bufs[b].offset = fit(p, l, placed, b);
        placed[b] = true;
        arena = QN_MAX(arena, p->bufs[b].offset + l[b].bytes);
    }
    for (size_t b = 0; ok && b < p->n_bufs; b++)
        p->bufs[b].offset = p->bufs[l[b].root].offset;
    p->arena_bytes = arena;
    qn_free(l);
    qn_free(placed);
    return ok;
}
