/* SPDX-License-Identifier: Apache-2.0
 * qpk.h - packed files: a model whose matrices stand as a device's kernels read them.
 *
 *   "QUERNPK\n" | header | table | small files | tensors | 2 MiB border: panels | 2 MiB border:
 *   panels of routed experts
 *
 * All integers little-endian. Header, 160 bytes, then zeros to 4096:
 *   magic[8] | version u32 | layout u32 | file bytes u64 | absent bytes u64 | table offset u64, bytes
 *   u64 | 2 areas: offset u64, bytes u64 | n_files u32, n_tensors u32, n_panels u32, source u32 (0
 *   GGUF, 1 HF) | SHA-256 of the header before it and of the table [32]
 * Table, in this order (name = length u32, bytes; hash = SHA-256 of the bytes):
 *   n_files x    name | offset u64 | bytes u64 | hash[32]
 *   n_tensors x  name | dtype name | n_dims u32 | dims u64[] | place u64 | bytes u64 | hash[32]
 *   n_panels x   place u64 | row0 u64 | rows u64 | cols u64 | form u32 | area u32 | offset u64 | bytes
 *                u64 | hash[32]
 *
 * A small file is one of a Hugging Face folder, or "gguf": header and metadata of a GGUF file with no
 * tensors. A tensor's place is its offset in the file (64-byte aligned), or, at the file's end and
 * beyond, a stand-in: the tensor is kept as panels only. Its data is then address space that reads as
 * zeros, so that names, shapes and views are bound as ever. Panels belong to the view of a matrix that
 * begins at `place` (of its first byte) and row0. They start on 4 KiB; a device's `layout` says what
 * their bytes mean and it checks form and size. Gate, up and down of an expert follow one another.
 *
 * Sums: header, table and small files are verified whenever a file is opened; tensors and panels by
 * qn_qpk_check. Any bytes in those are memory-safe.
 * Threads: any after opening (read-only). */
#ifndef QN_FORMAT_QPK_H
#define QN_FORMAT_QPK_H

#include "base/thread.h"
#include "format/weights.h"
#include "tensor/weight.h"

#define QN_QPK_MAGIC   "QUERNPK\n"
#define QN_QPK_VERSION 1u
#define QN_QPK_PAGE    4096u /* panels start on multiples of this */

enum { QN_QPK_DENSE, QN_QPK_EXPERTS, QN_QPK_N_AREAS };

typedef struct qn_qpk_panels {
    uint64_t place, row0, rows, cols;
    uint32_t form, area;
    uint64_t offset, bytes; /* in the file: qn_file_pread(qpk->file, offset, ...) */
    uint8_t hash[32];
} qn_qpk_panels;

typedef struct qn_qpk_tensor {
    uint64_t place;
    uint8_t hash[32];
} qn_qpk_tensor;

typedef struct qn_qpk {
    const qn_file *file;
    uint32_t layout;
    qn_folder_file *files;
    size_t n_files;
    qn_qpk_tensor *tensors; /* of weights->tensors, same order */
    qn_qpk_panels *panels;  /* by place, row0 */
    size_t n_panels;
    uint64_t area_offset[QN_QPK_N_AREAS], area_bytes[QN_QPK_N_AREAS];
    uint8_t *memory[QN_QPK_N_AREAS]; /* a copy of the area; NULL: the mapping is used */
    char *absent;                    /* what stand-ins point into */
    size_t absent_bytes;
} qn_qpk;

/* Fills w from its first file. */
QN_MUST_USE qn_status qn_qpk_open(qn_weights *w, qn_err *err);
void qn_qpk_free(qn_qpk *q); /* NULL allowed */
/* The panels of a bound view; NULL: it is kept as it was stored. */
const qn_qpk_panels *qn_qpk_find(const qn_qpk *q, const qn_weight *view);
/* Their bytes, in memory or mapped. */
const void *qn_qpk_data(const qn_qpk *q, const qn_qpk_panels *p);
/* p points at a stand-in. q may be NULL. */
bool qn_qpk_is_absent(const qn_qpk *q, const void *p);
/* Copies an area into memory, read by the whole team. */
QN_MUST_USE qn_status qn_qpk_read(qn_qpk *q, int area, qn_team *team, qn_err *err);
/* Verifies every sum of tensors and panels. progress may be NULL. */
QN_MUST_USE qn_status qn_qpk_check(const qn_weights *w,
                                   void (*progress)(void *arg, const char *what, double done),
                                   void *progress_arg, qn_err *err);

/* ---- writing ---- */

/* What goes into a file; the writer fills places, offsets, sizes of areas and hashes. */
typedef struct qn_qpk_source {
    const qn_weights *w;
    uint32_t layout;
    const uint8_t *is_used;        /* one a tensor of w: is in the table */
    const uint8_t *is_kept;        /* one a tensor of w: its bytes are in the file */
    const qn_weight *const *views; /* of the panels, in file order: dense first */
    const size_t *view_tensors;    /* the tensors of w that views begin in */
    qn_qpk_panels *panels;         /* [n_panels]: form, area, bytes are set; same order */
    size_t n_panels;
    /* Panels i into out (bytes of them). */
    void (*pack)(void *arg, size_t i, void *out);
    void (*progress)(void *arg, const char *what, double done); /* or NULL */
    void *arg;
} qn_qpk_source;
QN_MUST_USE qn_status qn_qpk_write(const char *path, const qn_qpk_source *s, qn_err *err);

#endif
