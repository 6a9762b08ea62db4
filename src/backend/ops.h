/* SPDX-License-Identifier: Apache-2.0
 * ops.h - what a device must do: its memory, the operations of a plan, and the batch they run on.
 *
 * A plan (model/plan.h) is an array of qn_op over buffers; the runner gives each to the device's
 * run(). An operation's meaning is its formula below; the plain C kernels of backend/cpu are the
 * definition, and every other version is measured against them. All activations are float32
 * row-major; row r of a buffer is `width` floats.
 *
 * Determinism: every output element is summed in one fixed order, whatever the number of rows,
 * their neighbours, the chunking, the block ids and the number of threads. The same input row gives
 * the same bits.
 *
 * Threads: one caller (the engine thread) per device. */
#ifndef QN_BACKEND_OPS_H
#define QN_BACKEND_OPS_H

#include "base/mem.h"
#include "tensor/weight.h"
#include <quern/measure.h>

typedef struct qn_device qn_device; /* a backend's own */
typedef struct qn_buf qn_buf;       /* device memory */
typedef struct qn_dweight
    qn_dweight; /* a weight matrix in the device's layout, or a borrowed view */

/* Linear and experts: what is fused around the product, any combination. */
enum {
    QN_FUSE_NORM = 1, /* x is RMS-normalised with vec[0] (all of width) before the product */
    /* + vec[1], over all outputs of the products (with SILU_MUL: gate's, then up's, before silu) */
    QN_FUSE_BIAS = 2,
    QN_FUSE_RESIDUAL = 4, /* + in[1] (may be the same buffer as out) */
    QN_FUSE_SILU_MUL = 8  /* w[0] = gate, w[1] = up: out = silu(x·gateᵀ) * (x·upᵀ) */
};

typedef enum qn_op_kind {
    QN_OP_EMBED, /* out[r] = w[0][token_ids[r]] */
    /* out = in / sqrt(mean(in²) + eps) * vec[0], over runs of norm_size (width, or head_dim); in
     * place allowed */
    QN_OP_RMSNORM,
    QN_OP_LINEAR, /* out = in·w[0]ᵀ; with n_w > 1 outputs of w[0], w[1], ... side by side; `fuse` */
    QN_OP_BIAS, /* out = in + vec[1]; in place allowed */
    /* in place on out: rotate halves of each head by batch->rope (HF rotate_half; not adjacent
     * pairs) */
    QN_OP_ROPE,
    /* in place on out: row r times batch->q_scale[r] (Qwen v1 log n); nothing if that is NULL */
    QN_OP_Q_SCALE,
    QN_OP_KV_STORE, /* in[0] = k, in[1] = v rows into kv at batch->slots */
    /* out = softmax(q·kᵀ / sqrt(head_dim)) · v over the sequence's positions in (own - window,
     * own] */
    QN_OP_ATTENTION,
    QN_OP_ADD,      /* out = in[0] + in[1] */
    QN_OP_SILU_MUL, /* out = silu(in[0]) * in[1] */
    /* out[r] = {top-k expert ids as int32 bits, then their k weights}: softmax(in·w[0]ᵀ) over all
     * experts, the k largest (ties: lower id), divided by their sum if norm_topk */
    QN_OP_ROUTE,
    /* out = sum_k p_k · E_k(in[0]), routing in in[1]; E(x) = (silu(x·gateᵀ) * (x·upᵀ))·downᵀ */
    QN_OP_EXPERTS,
    /* out = in[0] + sigmoid(in[1]·w[0]ᵀ) * in[2]: routed sum, x, shared expert's output */
    QN_OP_SHARED_GATE,
    QN_OP_GATHER, /* out[i] = in[batch->logit_rows[i]]: from here on the rows are the wanted ones */

    /* made by the fuse pass */

    /* in[0] = q|k|v rows (width q + 2 kv): q and k RMS-normalised per head with vec[0], vec[1] if
     * not NULL, rotated; q (times q_scale) stays in in[0]; k and v are stored. ATTENTION then reads
     * q with row stride in[0].width */
    QN_OP_QKV_STORE,
    /* out = in[1] + routed experts of norm(in[0]) (+ shared expert): ROUTE, EXPERTS, SHARED_GATE,
     * ADD in one */
    QN_OP_MOE,
    QN_OP_N
} qn_op_kind;
const char *qn_op_kind_name(qn_op_kind k);

#define QN_OP_MAX_IN 4
#define QN_OP_MAX_W  4

typedef struct qn_operand {
    qn_buf *buf;
    size_t offset; /* bytes; rows lie width * 4 bytes apart from there */
    size_t width;  /* floats in a row */
} qn_operand;

/* Positions of a block of the K/V cache: a tile of attention never crosses a block, and half a
 * block is wasted for a sequence on average. */
#define QN_KV_BLOCK 64u

/* K and V of one layer: [n_blocks] blocks of kv_block_bytes each, whose inside is the device's. */
typedef struct qn_kv_view {
    qn_buf *k, *v;
    qn_dtype dtype; /* F32, F16 or I8 (with scales) */
    uint32_t n_blocks, n_kv_heads, head_dim;
} qn_kv_view;

typedef struct qn_experts qn_experts;

/* Where experts come from that are not all in memory. The device asks for those that a batch needs, in one or more waves:
 *   one thread: plan | all: read each | if status is QN_OK: the products of this wave | plan from where it ended | ... */
typedef struct qn_expert_source qn_expert_source;
struct qn_expert_source {
    /* begin[e + 1] - begin[e] rows go to expert e. Returns `to`, from < to: the experts with rows in [from, to) stay in memory
     * until the next plan, after *n_reads reads. Every operation begins with from = 0. */
    uint32_t (*plan)(qn_expert_source *s, const qn_experts *ex, const uint32_t *begin,
                     uint32_t from, size_t *n_reads);
    void (*read)(qn_expert_source *s, size_t i);                 /* any thread, each i once */
    qn_status (*status)(const qn_expert_source *s, qn_err *err); /* of the reads of this plan */
};

/* The experts of one layer. */
struct qn_experts {
    uint32_t n_experts, n_active;
    bool norm_topk;
    uint32_t ffn_size;
    qn_dweight **gate, **up, **down; /* [n_experts] */
    /* MOE only; shared parts may be NULL */
    qn_dweight *router, *shared_gate, *shared_up, *shared_down, *shared_router;
    uint32_t shared_ffn_size;
    qn_expert_source *source; /* NULL: all are in memory */
};

typedef struct qn_op {
    qn_op_kind kind;
    int layer; /* -1: outside the layers */
    uint32_t fuse;
    qn_operand in[QN_OP_MAX_IN], out;
    qn_dweight *w[QN_OP_MAX_W];
    uint32_t n_w;
    const qn_buf *vec[2]; /* float32 vectors */
    float eps;
    uint32_t norm_size;
    uint32_t n_heads, n_kv_heads, head_dim, rope_dim; /* rope_dim <= head_dim, even */
    bool rope_adjacent; /* pairs (2i, 2i+1) instead of halves: Llama files in GGUF, whose q and k
                         * rows are permuted */
    uint32_t window;    /* 0: all positions */
    qn_kv_view *kv;
    qn_experts *experts;
    bool on_logit_rows; /* after GATHER: rows are n_logit_rows */
} qn_op;
/* "linear+norm+silu_mul" */
void qn_op_name(const qn_op *op, char *buf, size_t size);

/* One step. Rows are tokens, sequence after sequence; all arrays are the host's, valid during the
 * step. */
typedef struct qn_batch {
    uint32_t n_rows, n_seqs, n_logit_rows;
    const int32_t *token_ids; /* [n_rows] */
    const int32_t *positions; /* [n_rows] */
    const uint32_t
        *row_begin;        /* [n_seqs + 1]: rows of sequence s are row_begin[s] .. row_begin[s+1] */
    const uint32_t *slots; /* [n_rows]: block_id * QN_KV_BLOCK + offset where this token's K/V go */
    const uint32_t *block_tables; /* [n_seqs][max_blocks] block ids; position p is in
                                   * block_tables[s][p / QN_KV_BLOCK] */
    uint32_t max_blocks;
    const uint32_t *logit_rows; /* [n_logit_rows], ascending */
    const float *rope; /* [n_rows][rope_dim]: cos of rope_dim/2 angles, then sin (attention factor
                        * applied) */
    const float *q_scale; /* [n_rows] or NULL */
} qn_batch;

typedef struct qn_device_config {
    int n_threads;
    bool follow; /* fewer than n_threads work while the machine leaves no more to this process */
    unsigned cpu_mask;
    bool exact; /* no activation is rounded below float32 and weights are expanded as
                 * qn_weight_decode says */
    uint32_t max_rows, max_seqs, max_ctx;
} qn_device_config;

typedef struct qn_backend {
    const char *name;
    qn_status (*open)(qn_device **out, const qn_device_config *cfg, qn_err *err);
    void (*close)(qn_device *d);
    void (*describe)(const qn_device *d, char *buf, size_t size); /* "cpu: 2 threads, avx2" */

    qn_status (*buf_new)(qn_buf **out, qn_device *d, size_t bytes, qn_mem_tag tag,
                         qn_err *err); /* zeroed */
    void (*buf_free)(qn_buf *b);
    qn_status (*upload)(qn_buf *b, size_t offset, const void *src, size_t bytes, qn_err *err);
    qn_status (*download)(void *dst, const qn_buf *b, size_t offset, size_t bytes, qn_err *err);

    /* Bytes of K, or of V, of one block of one layer. */
    size_t (*kv_block_bytes)(qn_dtype dtype, uint32_t n_kv_heads, uint32_t head_dim);

    /* Takes a weight into the device's layout. The view's memory stays mapped while the weight
     * lives; a device may keep a borrow of it. rows_only: it is only looked up (EMBED), never
     * multiplied. */
    qn_status (*weight_new)(qn_dweight **out, qn_device *d, const qn_weight *w, bool rows_only,
                            qn_err *err);
    /* The device's layout outside of it (packed files): its version, so that the bytes of another
     * are refused; whether the weight would be kept in it, and then its form and size; the bytes.
     * weight_new takes them again from w->packed, without a copy. */
    uint32_t layout;
    bool (*weight_form)(const qn_weight *w, uint32_t *form, size_t *bytes);
    void (*weight_pack)(qn_device *d, const qn_weight *w, uint32_t form, void *out);
    /* The packed bytes of a weight that was taken from such are at another place from now on. */
    void (*weight_move)(qn_dweight *w, const void *packed);
    void (*weight_free)(qn_dweight *w);
    size_t (*weight_bytes)(const qn_dweight *w);     /* bytes read by one pass over it */
    bool (*weight_is_borrowed)(const qn_dweight *w); /* true: no copy was made */
    bool (*weight_is_integer)(
        const qn_dweight *w); /* products with it are made in 8-bit integers */

    /* Bytes of scratch are the device's own, taken at open or at prepare; run() allocates nothing.
     * prepare sees each op of the final plan once. */
    qn_status (*prepare)(qn_device *d, const qn_op *ops, size_t n_ops, qn_err *err);
    qn_status (*run)(qn_device *d, const qn_op *op, const qn_batch *batch, qn_err *err);

    /* What the device reads and computes at most, measured now, in some tenths of a second. */
    void (*measure_roofs)(qn_device *d, qn_roofs *out);
} qn_backend;

const qn_backend *qn_backend_cpu(void);

#endif
