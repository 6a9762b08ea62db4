/* SPDX-License-Identifier: Apache-2.0
 * weights.h - "a set of named tensors and metadata", whatever the files are.
 *
 * Tensor names are those of the files. Shapes are outermost first, as Hugging Face writes them: a
 * matrix is [out, in] (GGUF's reversed order is turned here).
 *
 * Invariants, checked while opening (gguf.c, safetensors.c, weights.c):
 *  1. Tensor names are unique over all files, not empty, at most QN_LIMIT_TENSOR_NAME bytes of
 *     UTF-8 without NUL.
 *  2. A tensor's bytes are exactly what dtype and shape ask for; they lie inside its file and
 *     overlap no other's.
 *  3. data is aligned for the dtype's elements (a safetensors file may misplace them: such
 *     tensors are copied).
 * Data is mapped, not copied; views live as long as the qn_weights. Threads: any after opening
 * (read-only). */
#ifndef QN_FORMAT_WEIGHTS_H
#define QN_FORMAT_WEIGHTS_H

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "format/folder.h"
#include "format/name_index.h"
#include "tensor/dtype.h"

typedef struct qn_tensor {
    const char *name;
    qn_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[QN_LIMIT_TENSOR_DIMS]; /* outermost first */
    const void *data;                    /* NULL when bytes is 0 */
    size_t bytes;
} qn_tensor;

typedef enum qn_format { QN_FORMAT_GGUF, QN_FORMAT_HF } qn_format;

typedef struct qn_weights {
    qn_format format;
    char *path;         /* as opened: file or folder */
    qn_tensor *tensors; /* in file order */
    size_t n_tensors, tensors_cap;
    struct qn_gguf_meta *gguf; /* GGUF: metadata of the first file (gguf.h); else NULL */
    json_t *config;            /* HF: config.json; else NULL */
    json_t *generation_config; /* HF: generation_config.json if there; else NULL */
    struct qn_qpk *qpk;        /* a packed file's panels (qpk.h); else NULL */
    qn_file **files;
    size_t n_files, files_cap;
    qn_arena arena;  /* names, metadata */
    qn_arena copies; /* misplaced tensors */
    qn_name_index index;
} qn_weights;

/* path: a GGUF file (or the first of split files), a packed file, or a folder with config.json. */
QN_MUST_USE qn_status qn_weights_open(qn_weights **out, const char *path, qn_err *err);
void qn_weights_free(qn_weights *w);
const qn_tensor *qn_weights_find(const qn_weights *w, const char *name); /* NULL: not there */

/* The file whose mapping holds p; NULL: none (a misplaced tensor's copy). */
const qn_file *qn_weights_file(const qn_weights *w, const void *p);
/* Mapped bytes that will not be read again soon. */
void qn_weights_drop(const qn_weights *w, const void *p, size_t n);
qn_folder qn_weights_folder(const qn_weights *w); /* HF: the files beside the tensors */

/* ---- for the readers of the formats ---- */

/* Maps path and keeps it in w; *out is borrowed. */
QN_MUST_USE qn_status qn_weights_map(qn_weights *w, const char *path, const qn_file **out,
                                     qn_err *err);
/* Appends copies of the tensors of file `name`. */
QN_MUST_USE qn_status qn_weights_add(qn_weights *w, const qn_tensor *tensors, size_t n,
                                     const char *name, qn_err *err);
/* What a file is that cannot be read here ("a pickle file"), from its first bytes; NULL:
 * unknown. */
const char *qn_foreign_file(const void *data, size_t n);
/* The part of a path after its last slash. */
const char *qn_base_name(const char *path);
/* A tensor or metadata name cut for a message: at most 96 bytes. Returns buf. */
const char *qn_short_name(char buf[100], qn_slice name);

#endif
