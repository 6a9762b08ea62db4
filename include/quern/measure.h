/* SPDX-License-Identifier: Apache-2.0
 * measure.h - the public API's other half: what an engine is doing, how long a model takes here,
 * and what takes the time.
 *
 * As quern.h in all else. */
#ifndef QUERN_MEASURE_H
#define QUERN_MEASURE_H

#include <quern/quern.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- what the engine is doing ---- */

typedef struct qn_class_stats {
    const char *name; /* valid while the engine lives */
    uint32_t share, target_ms;
    uint32_t n_running, n_waiting; /* requests */
    /* requests so far: ended with an answer; those within target_ms; refused (queue, target) */
    uint64_t n_done, n_met, n_refused;
    uint64_t n_preempted;
    uint64_t used_ns; /* of the steps' time, by the rows it had in them */
} qn_class_stats;

/* Counters grow from qn_engine_open on. */
typedef struct qn_engine_stats {
    uint32_t n_running, n_waiting; /* requests now */
    /* blocks of K/V: all; held by requests; free, but kept for prompts that begin alike */
    uint64_t n_kv_blocks, n_kv_used, n_kv_cached;
    uint64_t n_prompt_tokens, n_output_tokens; /* of ended and running requests */
    uint64_t n_cache_queries, n_cache_hits; /* prompt tokens looked for, and found, in the cache */
    uint64_t n_preempted;
    uint64_t n_draft_tokens, n_accepted_tokens;
    uint64_t n_steps, n_step_rows, n_step_seqs; /* sums over all steps */
    uint64_t n_ops; /* operations of all steps; grows during a step, too */
    uint64_t schedule_ns, model_ns, sample_ns; /* of the steps' time */
    int n_classes;
    qn_class_stats classes[QN_MAX_CLASSES];
} qn_engine_stats;
/* From any thread; never waits for a step. */
QN_API void qn_engine_get_stats(qn_engine *e, qn_engine_stats *out);

/* ---- how long it takes ---- */

/* What is run: random tokens. */
typedef struct qn_bench_spec {
    int n_prefill; /* prompt tokens timed, of one sequence */
    int n_decode;  /* tokens decoded one by one, for each of `batch` sequences together */
    int depth;     /* tokens of each sequence already in the cache, computed once for all runs */
    int batch;     /* 1 to max_seqs */
    int repeat;    /* runs, each from `depth` again; 1 to 1000 */
    /* n_prefill is every sequence's, and decoding begins behind it; else both begin at `depth` */
    bool in_turn;
} qn_bench_spec;

/* By the plan, whatever the caches hold. A multiply and an add are two. */
typedef struct qn_cost {
    double int8_ops, f32_flops; /* by the arithmetic of an operation's products */
    double weight_bytes;        /* once a step */
    double kv_bytes;            /* keys and values read */
    double activation_bytes;    /* handed from operation to operation */
} qn_cost;

typedef struct qn_bench_result {
    double prefill_ms, decode_ms; /* of all tokens; 0 where nothing was asked for */
    qn_cost prefill, decode;
} qn_bench_result;

/* Runs the model without sampling, on this thread; requests wait. out: [spec->repeat]. */
QN_API qn_status qn_bench(qn_engine *e, const qn_bench_spec *spec, qn_bench_result *out,
                          qn_err *err);

/* An operation of the engine's plan. */
typedef struct qn_op_info {
    char name[48];      /* "linear+norm+silu_mul" */
    const char *format; /* of its first matrix: "Q4_0"; "" if it has none; static */
    int layer;          /* -1: outside the layers */
    int n_in, n_out;    /* columns of that matrix; rows of all its matrices together. Or 0 */
    /* memory that it alone holds; what several use is the first one's */
    uint64_t weight_bytes, kv_bytes;
} qn_op_info;
QN_API int qn_engine_n_ops(const qn_engine *e);
QN_API void qn_engine_get_op(const qn_engine *e, int op, qn_op_info *out); /* 0 .. n_ops - 1 */

typedef struct qn_profile_event {
    int op;                /* of qn_engine_get_op; -1: sampling */
    int n_rows;            /* it worked on */
    uint64_t start_ns, ns; /* from the beginning of the step */
    qn_cost cost;
} qn_profile_event;

typedef struct qn_profile_step {
    bool is_decode;
    int n_tokens;
    uint64_t start_ns, ns;          /* from the beginning of the profile */
    const qn_profile_event *events; /* in order; what they leave of ns is between operations */
    size_t n_events;
} qn_profile_step;
typedef void (*qn_profile_fn)(void *arg, const qn_profile_step *step);

/* As qn_bench, in turn, with greedy sampling, once: tells each timed step what its operations took.
 * The clock is read twice an operation. fn must not call the engine. */
QN_API qn_status qn_profile(qn_engine *e, const qn_bench_spec *spec, qn_profile_fn fn, void *arg,
                            qn_err *err);

/* What the engine's workers do at most on this machine, all together: the roofs to hold a figure
 * against. 0: could not be measured. */
typedef struct qn_roofs {
    double read_bytes_s; /* from memory, far beyond the caches */
    double int8_ops_s;   /* 8-bit multiply-add, as the products use it; each is two */
    double f32_flops_s;  /* float32 multiply-add; each is two */
} qn_roofs;
/* Measures them now: some tenths of a second, up to 1 GiB of memory meanwhile; requests wait. */
QN_API void qn_engine_get_roofs(qn_engine *e, qn_roofs *out);

#ifdef __cplusplus
}
#endif
#endif
