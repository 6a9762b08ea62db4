/* SPDX-License-Identifier: Apache-2.0
 * plan.h - a model as data: an array of operations over named buffers.
 *
 * plan_build writes one operation per formula of the model; passes (passes.c) rewrite the array:
 * fold, fuse, prune, place. The same array is what the runner walks, what `quern inspect --plan`
 * prints and what the memory plan adds up.
 *
 * Buffers are written once (each operation makes a new one); in-place operations share memory after
 * `place`.
 *
 * Invariants, checked by qn_plan_check() after the build and after every pass:
 *  1. A buffer is defined by exactly one live node, before its first use.
 *  2. Widths agree: a linear's input is its weight's columns, its output the sum of its weights'
 *     rows.
 *  3. After GATHER every node is on_logit_rows, before it none is.
 * Threads: plain data. */
#ifndef QN_MODEL_PLAN_H
#define QN_MODEL_PLAN_H

#include "backend/ops.h"
#include "model/bind.h"

#define QN_PLAN_MAX_VEC_PARTS 3

typedef struct qn_plan_buf {
    const char *name;
    uint32_t width;
    bool on_logit_rows;
    size_t offset; /* bytes in the activation arena: place */
} qn_plan_buf;

typedef struct qn_node {
    qn_op op;                  /* attributes now; operands and device weights when bound */
    int in[QN_OP_MAX_IN], out; /* buffer ids, -1: none (KV_STORE has no output) */
    bool in_place;             /* out must share in[0]'s memory */
    const qn_weight *w[QN_OP_MAX_W];
    const qn_weight *vec[2][QN_PLAN_MAX_VEC_PARTS]; /* parts side by side */
    const qn_layer_weights *experts;                /* EXPERTS, MOE */
    int tap; /* this output is hidden state number tap (0: embedding ... n_layers + 1: final norm);
              * -1 */
    bool dead;
} qn_node;

typedef struct qn_plan {
    const qn_model_config *config;
    qn_node *nodes;
    size_t n_nodes, nodes_cap;
    qn_plan_buf *bufs;
    size_t n_bufs, bufs_cap;
    size_t arena_bytes; /* place */
    bool failed;        /* an allocation failed while building */
} qn_plan;

/* The plain plan. Views in c and m are borrowed for the plan's life. */
QN_MUST_USE qn_status qn_plan_build(qn_plan **out, const qn_model_config *c,
                                    const qn_model_weights *m, qn_err *err);
void qn_plan_free(qn_plan *p);
QN_MUST_USE qn_status qn_plan_check(const qn_plan *p, qn_err *err);

/* Passes; each returns what it removed or saved through qn_plan_cost before and after. */
void qn_pass_fold(
    qn_plan
        *p); /* what is constant: biases of zeros, sums with nothing; tied matrices become one */
void qn_pass_fuse(
    qn_plan
        *p); /* norm, bias, residual, SwiGLU into products; q|k|v with rope and store; experts */
void qn_pass_prune(qn_plan *p); /* after the last attention only the rows whose logits are wanted */
/* Memory by liveness. max_logit_rows rows for what follows GATHER. False: too big. */
bool qn_pass_place(qn_plan *p, size_t max_rows, size_t max_logit_rows);

/* Floats of vector `which` of a node, and of its parts side by side; a missing part (a bias on some
 * of q, k, v) is zeros of its product's rows. 0: the node has no such vector. */
size_t qn_node_vector(const qn_node *n, int which, size_t sizes[QN_PLAN_MAX_VEC_PARTS]);

/* What one step costs: n_rows tokens of one sequence after `depth` computed ones, logits of
 * n_logit_rows. */
typedef struct qn_plan_cost {
    size_t n_ops;
    double flops;            /* multiply and add counted as two */
    double weight_bytes;     /* read once a step */
    double kv_bytes;         /* keys and values read, as F16 */
    double activation_bytes; /* read and written between operations */
    double buffer_bytes;     /* memory of all buffers, without reuse; after place: the arena */
    double matrix_bytes;     /* distinct matrices resident */
} qn_plan_cost;
qn_plan_cost qn_plan_cost_of(const qn_plan *p, size_t n_rows, size_t depth, size_t n_logit_rows);
/* The same of one node of that step. */
typedef struct qn_node_costs {
    double flops, weight_bytes, kv_bytes, activation_bytes;
} qn_node_costs;
qn_node_costs qn_node_cost(const qn_plan *p, const qn_node *n, size_t n_rows, size_t depth,
                           size_t n_logit_rows);

#endif
