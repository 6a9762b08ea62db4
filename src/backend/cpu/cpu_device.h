/* SPDX-License-Identifier: Apache-2.0
 * cpu_device.h - the CPU device's inside, shared by the files that run its operations.
 *
 * Scratch is taken at prepare() for the largest operation seen and max_rows rows; every operation may use all of it, none of
 * it lives longer than a run(). Threads: the engine thread; the team only inside run(). */
#ifndef QN_BACKEND_CPU_CPU_DEVICE_H
#define QN_BACKEND_CPU_CPU_DEVICE_H

#include <stdatomic.h>

#include "backend/cpu/matmul.h"

struct qn_buf {
    char *data;
    size_t bytes;
};

#define QN_CPU_BLOCK_ROWS 256 /* rows of an expert that one thread works on together */
#define QN_CPU_TILE_COLS  128 /* of a product for max_rows rows, in a thread's tile */

/* Sizes of the scratch, in elements. */
typedef struct qn_cpu_sizes {
    unsigned act_kinds; /* acts: arithmetics of the products */
    size_t act_cols;    /* and columns of any product's input, all rows */
    unsigned ffn_kinds; /* of the products of experts' hidden rows */
    size_t ffn_cols;    /* ffn_acts: hidden rows of all experts */
    size_t ffn_rows;
    size_t shared_cols;  /* shared_acts: hidden rows of the shared expert */
    size_t gather_cols;  /* gathered: for each thread a block of rows of one expert */
    size_t norm;         /* norm: normalised rows */
    size_t tile;         /* tile: a thread's part of a product, before its epilogue */
    size_t logits;       /* router probabilities of all rows */
    size_t routing;      /* routing of all rows: ids and weights, as QN_OP_ROUTE writes them */
    size_t entries;      /* tokens of all experts, grouped: row and weight of each */
    size_t expert_begin; /* begin of each expert's entries */
    size_t groups;       /* experts with entries; in words of 4 bytes */
    size_t sums;         /* of all rows, between waves of experts from a source */
    size_t attn;         /* a thread's tile of attention */
    size_t attn_parts;   /* results of chunks of context that other threads merge */
} qn_cpu_sizes;

struct qn_device {
    qn_device_config cfg;
    qn_kernels k;
    qn_share *share; /* what this process gets; the team may follow it */
    qn_team *team;
    qn_cpu_sizes have;
    qn_acts *acts, *ffn_acts, *shared_acts, *gathered;
    float *norm, *tile, *logits, *routing, *entry_weights, *shared_weights, *sums;
    uint32_t *entry_rows, *expert_begin;
    struct qn_cpu_group *groups; /* moe.c */
    size_t n_groups, n_pieces, n_reads;
    uint32_t wave_from, wave_to; /* experts */
    atomic_size_t next_piece, next_range, next_read;
    float *attn, *attn_parts;
    uint32_t *attn_tiles; /* [max_seqs + 1] */
};

/* What the workers of one operation see. */
typedef struct qn_cpu_job {
    qn_device *d;
    const qn_op *op;
    const qn_batch *batch;
    size_t n_rows;
    bool is_shared; /* LINEAR: the team takes the ends of its shares one by one */
} qn_cpu_job;

static inline float *qn_cpu_row(const qn_operand *o, size_t row)
{
    return (float *)(void *)(o->buf->data + o->offset) + row * o->width;
}

static inline const float *qn_cpu_vec(const qn_buf *b)
{
    return (const float *)(const void *)b->data;
}

static inline unsigned qn_cpu_kind(const qn_dweight *w)
{
    return w ? 1u << qn_dweight_kind(w) : 0u;
}

/* A thread's tile. */
static inline float *qn_cpu_tile(const qn_device *d, int thread)
{
    return d->tile + (size_t)thread * d->have.tile;
}

/* ---- linear.c ---- */
void qn_cpu_linear_sizes(const qn_device *d, const qn_op *op, qn_cpu_sizes *s);
void qn_cpu_linear(const qn_cpu_job *job);
/* h = silu(x·gateᵀ) * (x·upᵀ) for prepared rows x; bias (gate's outputs, then up's) is added before silu, residual last. */
typedef struct qn_cpu_gated {
    const qn_acts *acts;
    size_t n_rows;
    const qn_dweight *gate, *up;
    const float *bias;          /* or NULL */
    const qn_operand *residual; /* or NULL; may be what h is */
    float *h;
    size_t stride; /* of h */
} qn_cpu_gated;
size_t qn_cpu_gated_step(const qn_dweight *gate, const qn_dweight *up);
/* Columns [begin, end), multiples of that step. */
void qn_cpu_gated_run(const qn_device *d, const qn_cpu_gated *g, size_t begin, size_t end,
                      int thread);
/* Columns of a product, in multiples of step, that fit a thread's tile for n_rows rows. */
size_t qn_cpu_tile_cols(const qn_device *d, size_t step, size_t n_rows);
/* The y to hand to qn_matmul so that column `begin` lands on tile[0]. */
static inline float *qn_cpu_tile_at(float *tile, size_t begin)
{
    return (float *)((uintptr_t)tile - begin * sizeof *tile);
}
/* The rows of in[0], normalised if the operation says so, prepared for products: begin before the team starts, prepare by every worker
 * first thing; after it all rows are there. */
void qn_cpu_begin_rows(const qn_cpu_job *job, unsigned kinds);
void qn_cpu_prepare_rows(const qn_cpu_job *job, int thread, int n_threads);

/* ---- moe.c ---- */
void qn_cpu_moe_sizes(const qn_device *d, const qn_op *op, qn_cpu_sizes *s);
void qn_cpu_route(const qn_cpu_job *job);
void qn_cpu_experts(const qn_cpu_job *job);
void qn_cpu_shared_gate(const qn_cpu_job *job);
void qn_cpu_moe(const qn_cpu_job *job);

/* ---- attention.c ---- */
void qn_cpu_attention_sizes(const qn_device *d, const qn_op *op, qn_cpu_sizes *s);
void qn_cpu_attention(const qn_cpu_job *job);

/* ---- roofs.c ---- */
void qn_cpu_measure_roofs(qn_device *d, qn_roofs *out);

#endif
