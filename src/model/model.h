/* SPDX-License-Identifier: Apache-2.0
 * model.h - a model on a device: files, config, plan, weights in the device's layout, activations.
 *
 * qn_model_open: files -> config -> names to matrices -> plan and passes -> weights taken by the
 * device -> operations bound.
 * Threads: engine thread (opening: any, before it). */
#ifndef QN_MODEL_MODEL_H
#define QN_MODEL_MODEL_H

#include "model/expert_cache.h"
#include "model/plan.h"
#include "model/rope.h"

typedef struct qn_model {
    qn_weights *files;
    qn_model_config config;
    qn_model_weights *matrices;
    qn_plan *plan;
    qn_rope rope;
    const qn_backend *backend;
    qn_device *device;
    qn_op *ops; /* the plan's nodes, bound; same order */
    qn_buf *arena;
    /* what was taken, for freeing and for the size table */
    struct qn_taken *taken;
    size_t n_taken, taken_cap;
    qn_buf **vectors;
    size_t n_vectors, vectors_cap, vector_bytes;
    qn_experts *experts;
    qn_dweight **expert_lists;
    size_t n_experts;
    qn_expert_cache *cache; /* NULL: all experts are in memory */
    uint32_t max_rows, max_logit_rows;
    /* an embedding that no product uses stays in its file; NULL: none, or no plain rows there */
    const qn_weight *looked_up;
    const qn_file *lookup_file;
    uint8_t *lookup_rows; /* [max_rows]: those of a step, which EMBED sees */
    /* those that steps read from; what changes in the others has no effect any more */
    const qn_file **read_files;
    size_t n_read_files, read_files_cap;
    bool dry;
} qn_model;

typedef struct qn_model_options {
    qn_device_config device;
    uint32_t max_logit_rows;
    bool dry;    /* sizes only: weights are not read, and nothing can be run */
    bool mapped; /* weights stay in the file's mapping, shared with other processes */
    /* bytes that all may take; 0: as many as needed. Experts of a packed file may stay outside:
     * qn_expert_cache_fill gives them what is left */
    uint64_t mem_limit;
    bool plain_plan; /* one operation per formula: neither prune nor fuse */
    void (*progress)(void *arg, const char *what, double done);
    void *progress_arg;
} qn_model_options;

QN_MUST_USE qn_status qn_model_open(qn_model **out, const char *path, const qn_model_options *o,
                                    qn_err *err);
void qn_model_free(qn_model *m);
/* Gives the plan's attention operations their layer of the cache. Before the first step. */
QN_MUST_USE qn_status qn_model_bind_kv(qn_model *m, qn_kv_view *layers, qn_err *err);
/* Before a step: where the embedding stays in its file, the rows of these tokens are read and ids[i]
 * becomes i. Not from the mapping, whose pages would pile up in this process. */
QN_MUST_USE qn_status qn_model_look_up(qn_model *m, int32_t *ids, size_t n, qn_err *err);
/* After a step: whether the files that it read from are still what they were (qn_file_check); else its numbers may be wrong. */
QN_MUST_USE qn_status qn_model_check_files(const qn_model *m, qn_err *err);
/* Resident: vectors and all matrices but one that is only looked up; mapped ones included. */
uint64_t qn_model_weight_bytes(const qn_model *m);
/* The most used format of the matrices by bytes: "Q5_0". */
const char *qn_model_main_dtype(const qn_model_weights *m, const qn_plan *p);

#endif
