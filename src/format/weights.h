/* SPDX-License-Identifier: Apache-2.0
 * weights.h - "a set of named tensors and metadata", whatever the files are.
 *
 * Tensor names are those of the files. Shapes are outermost first, as Hugging Face writes them: a matrix is [out, in]
 * (GGUF's reversed order is turned here). Every tensor's bytes were checked to lie inside its file, aligned, disjoint.
 * Data is mapped, not copied; views live as long as the qn_weights. Threads: any after opening (read-only). */
#ifndef QN_FORMAT_WEIGHTS_H
#define QN_FORMAT_WEIGHTS_H

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tensor/dtype.h"

#define QN_MAX_DIMS 4

typedef struct qn_tensor {
    const char *name;
    qn_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[QN_MAX_DIMS]; /* outermost first */
    const void *data;
    size_t bytes;
} qn_tensor;

typedef enum qn_format { QN_FORMAT_GGUF, QN_FORMAT_HF } qn_format;

typedef struct qn_weights {
    qn_format format;
    char *path;         /* as opened: file or folder */
    qn_tensor *tensors; /* in file order */
    size_t n_tensors;
    struct qn_gguf_meta *gguf; /* GGUF: metadata of the first file (gguf.h); else NULL */
    json_t *config;            /* HF: config.json; else NULL */
    json_t *generation_config; /* HF: generation_config.json if there; else NULL */
    qn_file **files;
    size_t n_files;
    uint32_t *index; /* hash table over names, ours */
    size_t index_size;
} qn_weights;

/* path: a GGUF file (or the first of split files), or a folder with config.json. */
QN_MUST_USE qn_status qn_weights_open(qn_weights **out, const char *path, qn_err *err);
void qn_weights_free(qn_weights *w);
const qn_tensor *qn_weights_find(const qn_weights *w, const char *name); /* NULL: not there */

#endif
