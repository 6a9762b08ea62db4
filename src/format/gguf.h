/* SPDX-License-Identifier: Apache-2.0
 * gguf.h - GGUF metadata: typed values under unique keys. (Tensors: weights.h.) */
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
    /* ARRAY: element type, count, and either strings[] or the packed little-endian elements (unaligned) */
    qn_gguf_type item;
    size_t n;
    const qn_slice *strings;
    const uint8_t *items;
} qn_gguf_value;

typedef struct qn_gguf_meta {
    uint32_t version;
    qn_gguf_value *values;
    size_t n_values;
    qn_arena arena;
} qn_gguf_meta;

const qn_gguf_value *qn_gguf_find(const qn_gguf_meta *m, const char *key); /* NULL: not there */
/* Typed getters; a missing key leaves *out and is QN_OK, a wrong type or range fails naming key, found and wanted. Integers of any
 * width are accepted. file: for the message. */
QN_MUST_USE qn_status qn_gguf_u32(const qn_gguf_meta *m, const char *file, const char *key,
                                  uint32_t min, uint32_t max, uint32_t *out, qn_err *err);
QN_MUST_USE qn_status qn_gguf_f32(const qn_gguf_meta *m, const char *file, const char *key,
                                  double min, double max, float *out, qn_err *err);
QN_MUST_USE qn_status qn_gguf_bool(const qn_gguf_meta *m, const char *file, const char *key,
                                   bool *out, qn_err *err);
QN_MUST_USE qn_status qn_gguf_str(const qn_gguf_meta *m, const char *file, const char *key,
                                  qn_slice *out, qn_err *err);
/* Element i of a numeric array as a number. */
int64_t qn_gguf_item_i64(const qn_gguf_value *v, size_t i);
double qn_gguf_item_f64(const qn_gguf_value *v, size_t i);

#endif
