/* SPDX-License-Identifier: Apache-2.0
 * json.h - thin front of jansson: limits before parsing, one-line errors with a path, typed fields.
 *
 * Strict RFC 8259 and UTF-8; duplicate keys, NaN and text after the value are refused; nesting is
 * limited before jansson sees the text, so neither parsing nor freeing recurses deeply. Objects
 * keep their order. Use jansson's own accessors (json_object_get, json_array_size, ...) on the
 * result; free it with json_decref. All memory comes from base/mem. Threads: any; a value has one
 * owner. */
#ifndef QN_BASE_JSON_H
#define QN_BASE_JSON_H

#include "base/base.h"
#include "base/str.h"
#include <jansson.h>

/* name: the file or thing named in errors. max_depth 0: QN_LIMIT_JSON_DEPTH. */
QN_MUST_USE qn_status qn_json_parse(json_t **out, const char *text, size_t n, size_t max_depth,
                                    const char *name, qn_err *err);
/* What a text may make of it; 0: the default, or any number. */
typedef struct qn_json_bounds {
    size_t depth, keys; /* keys: of an object */
    size_t bytes;       /* of memory */
} qn_json_bounds;
/* The same within bounds. *bytes is what was taken in all, freed or not: an upper bound of what *out holds. */
QN_MUST_USE qn_status qn_json_parse_within(json_t **out, const char *text, size_t n,
                                           const qn_json_bounds *b, size_t *bytes, const char *name,
                                           qn_err *err);
/* Reads and parses a file of at most max_bytes. */
QN_MUST_USE qn_status qn_json_load(json_t **out, const char *path, size_t max_bytes, qn_err *err);

/* Typed fields of an object. `where` is prefixed to the key in errors ("config.json"). A missing
 * field (or null) leaves *out untouched and is QN_OK; a wrong type or a value out of range fails
 * naming found and wanted. */
QN_MUST_USE qn_status qn_json_u32(const json_t *o, const char *where, const char *key, uint32_t min,
                                  uint32_t max, uint32_t *out, qn_err *err);
QN_MUST_USE qn_status qn_json_f32(const json_t *o, const char *where, const char *key, double min,
                                  double max, float *out, qn_err *err);
QN_MUST_USE qn_status qn_json_bool(const json_t *o, const char *where, const char *key, bool *out,
                                   qn_err *err);
/* Borrowed from o; valid while o lives. */
QN_MUST_USE qn_status qn_json_str(const json_t *o, const char *where, const char *key,
                                  const char **out, qn_err *err);
const char *qn_json_type_name(const json_t *v);

/* Appends v in one line; reals in the shortest form that restores them, non-ASCII as it is. */
void qn_json_write(qn_str *out, const json_t *v);

#endif
