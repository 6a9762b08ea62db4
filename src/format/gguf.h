/* SPDX-License-Identifier: Apache-2.0
 * gguf.h - reads GGUF files: typed metadata under unique keys, and the tensors behind them.
 *
 *   "GGUF" | version u32 | n_tensors u64 | n_values u64
 *   n_values  x  key string | type u32 | value
 *   n_tensors x  name string | n_dims u32 | dims u64[], innermost first | type u32 | offset u64
 *   string = length u64, bytes; array = type u32, count u64, items
 *   padding to general.alignment (32) | data; offsets count from here
 *
 * Versions 2 and 3, little-endian. Split files (name-00001-of-00003.gguf) carry split.no,
 * split.count and split.tensors.count; opening the first opens all. Limits (limits.def) are checked
 * before anything is allocated.
 * Threads: any after opening (read-only). Source: ggml's docs/gguf.md. */
#ifndef QN_FORMAT_GGUF_H
#define QN_FORMAT_GGUF_H

#include "format/weights.h"

typedef enum qn_gguf_type {
    QN_GGUF_U8,
    QN_GGUF_I8,
    QN_GGUF_U16,
    QN_GGUF_I16,
    QN_GGUF_U32,
    QN_GGUF_I32,
    QN_GGUF_F32,
    QN_GGUF_BOOL,
    QN_GGUF_STRING,
    QN_GGUF_ARRAY,
    QN_GGUF_U64,
    QN_GGUF_I64,
    QN_GGUF_F64,
    QN_GGUF_N_TYPES
} qn_gguf_type;

typedef struct qn_gguf_value {
    qn_slice key;
    qn_gguf_type type;
    union {
        uint64_t u; /* U8..U64, BOOL */
        int64_t i;  /* I8..I64 */
        double f;   /* F32, F64 */
        qn_slice s; /* STRING */
    } v;
    /* ARRAY: element type, count, and either strings[] or the packed little-endian elements
     * (unaligned) */
    qn_gguf_type item;
    size_t n;
    const qn_slice *strings;
    const uint8_t *items;
} qn_gguf_value;

typedef struct qn_gguf_meta {
    uint32_t version;
    qn_gguf_value *values; /* in file order; keys and strings are views into the file */
    size_t n_values;
    size_t bytes; /* of header and values, from the start of the file */
} qn_gguf_meta;

const qn_gguf_value *qn_gguf_find(const qn_gguf_meta *m, const char *key); /* NULL: not there */
/* Typed getters; a missing key leaves *out and is QN_OK, a wrong type or range fails naming key,
 * found and wanted. Integers of any width are accepted. file: for the message. */
QN_MUST_USE qn_status qn_gguf_u32(const qn_gguf_meta *m, const char *file, const char *key,
                                  uint32_t min, uint32_t max, uint32_t *out, qn_err *err);
QN_MUST_USE qn_status qn_gguf_f32(const qn_gguf_meta *m, const char *file, const char *key,
                                  double min, double max, float *out, qn_err *err);
QN_MUST_USE qn_status qn_gguf_bool(const qn_gguf_meta *m, const char *file, const char *key,
                                   bool *out, qn_err *err);
QN_MUST_USE qn_status qn_gguf_str(const qn_gguf_meta *m, const char *file, const char *key,
                                  qn_slice *out, qn_err *err);
/* Element i < n of a numeric (or bool) array as a number; 0 for arrays of strings. */
int64_t qn_gguf_item_i64(const qn_gguf_value *v, size_t i);
double qn_gguf_item_f64(const qn_gguf_value *v, size_t i);
const char *qn_gguf_type_name(qn_gguf_type t);

/* Parses one file held in memory (16-byte aligned). Everything is taken from arena; names and
 * metadata borrow from data. name: the file's, for messages. */
QN_MUST_USE qn_status qn_gguf_parse(const void *data, size_t n, const char *name, qn_arena *arena,
                                    qn_gguf_meta **meta, qn_tensor **tensors, size_t *n_tensors,
                                    qn_err *err);
/* Fills w from the file w->path and its other parts. */
QN_MUST_USE qn_status qn_gguf_open(qn_weights *w, qn_err *err);

#endif
