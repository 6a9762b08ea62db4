/* SPDX-License-Identifier: Apache-2.0
 * fields.h - what a request's JSON may hold: a table of fields, read into a struct.
 *
 *   static const qn_field fields[] = {
 *       {"temperature", QN_FIELD_F32, offsetof(body, temperature), 0, 100},
 *       {"stream", QN_FIELD_BOOL, offsetof(body, stream)},
 *   };
 *
 * null means not given; what is not given leaves the destination as it is; names that no table has are left alone.
 * Threads: pure. */
#ifndef QN_SERVER_FIELDS_H
#define QN_SERVER_FIELDS_H

#include "base/json.h"
#include "base/mem.h"

typedef enum qn_field_kind {
    QN_FIELD_BOOL,   /* bool */
    QN_FIELD_INT,    /* int; a whole real (1.0) too */
    QN_FIELD_U64,    /* uint64_t; negative ones as two's complement (seeds) */
    QN_FIELD_F32,    /* float */
    QN_FIELD_STR,    /* const char *, borrowed */
    QN_FIELD_ARRAY,  /* const json_t *, borrowed */
    QN_FIELD_OBJECT, /* the same */
    QN_FIELD_ANY     /* the same, any type */
} qn_field_kind;

typedef struct qn_field {
    const char *name;
    qn_field_kind kind;
    size_t at;       /* offset of the destination */
    double min, max; /* of numbers; both 0: no limit. Of strings: bytes */
} qn_field;

/* QN_E_ARG naming the field, what was found and what is wanted; *param is its name then. */
QN_MUST_USE qn_status qn_fields_read(const json_t *o, const qn_field *fields, size_t n, void *dest,
                                     const char **param, qn_err *err);

/* The token ids of an array, each 0 to n_vocab - 1. *ids is the arena's, or without one freed with qn_release; NULL on failure. */
QN_MUST_USE qn_status qn_fields_ids(const char *name, const json_t *list, int n_vocab,
                                    qn_arena *arena, int32_t **ids, size_t *n_ids, qn_err *err);
/* An array of stop strings, or one; each within the limits of base/limits.def. The list is the arena's, the strings borrowed. */
QN_MUST_USE qn_status qn_fields_stop(const char *name, const json_t *v, qn_arena *arena,
                                     qn_params *out, qn_err *err);

#endif
