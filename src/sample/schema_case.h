/* SPDX-License-Identifier: Apache-2.0
 * schema_case.h - a conjunction of schemas taken apart into cases: plain ones, whose keywords hold all together.
 *
 *   {anyOf: [A, B], required: [x]}  -->  {A, required x} or {B, required x}
 *   not {minLength: 3}              -->  {type string, maxLength 2}
 *
 * A term is a schema that must hold, or (negated) must not. allOf, $ref and not dissolve into terms; anyOf, oneOf, if and
 * dependent ones into cases. A negated schema becomes cases too, one for each keyword that fails. What remains in a case
 * are plain terms: objects of which only the other keywords count, and negated ones of a single keyword.
 *
 * oneOf: alternatives that surely share no document are cases as they are; of others each excludes the rest.
 *
 * Threads: one owner. */
#ifndef QN_SAMPLE_SCHEMA_CASE_H
#define QN_SAMPLE_SCHEMA_CASE_H

#include "sample/decimal.h"
#include "sample/schema_doc.h"

typedef struct qn_term {
    const json_t *schema;
    bool is_negated;
} qn_term;

typedef struct qn_terms {
    const qn_term *t;
    size_t n;
} qn_terms;

typedef enum qn_json_types {
    QN_TYPE_NULL = 1,
    QN_TYPE_FALSE = 2,
    QN_TYPE_TRUE = 4,
    QN_TYPE_WHOLE = 8,   /* numbers without a fraction */
    QN_TYPE_BROKEN = 16, /* other numbers */
    QN_TYPE_STRING = 32,
    QN_TYPE_ARRAY = 64,
    QN_TYPE_OBJECT = 128,
    QN_TYPE_NUMBER = 8 | 16,
    QN_TYPE_ALL = 255
} qn_json_types;

typedef struct qn_count_range {
    uint64_t min, max; /* max UINT64_MAX: none */
} qn_count_range;

typedef struct qn_schema_case {
    qn_terms plain;
    /* what they demand together */
    unsigned types; /* bits of qn_json_types; 0: nothing can be of this case */
    bool is_listed; /* one of values, and nothing else */
    const json_t **values;
    size_t n_values;
    const qn_number_range *numbers; /* NULL: any */
    qn_count_range lengths, items, members;
    /* why it cannot be enforced, or NULL; where */
    const char *obstacle, *obstacle_key;
    const json_t *obstacle_at;
} qn_schema_case;

/* Those that are not surely impossible. Cases live as long as d. */
QN_MUST_USE qn_status qn_schema_cases(qn_schema_doc *d, qn_terms all, const qn_schema_case **out,
                                      size_t *n_out, qn_err *err);
/* Whether the value, which is no array and no object, is one of the case. */
QN_MUST_USE qn_status qn_case_admits(qn_schema_doc *d, const qn_schema_case *c, const json_t *v,
                                     bool *out, qn_err *err);
/* What the member of that name of an object must be: appended to terms, which has room for qn_case_most_terms. */
QN_MUST_USE qn_status qn_case_member(qn_schema_doc *d, const qn_schema_case *c, const char *name,
                                     qn_term *terms, size_t *n, qn_err *err);
size_t qn_case_most_terms(const qn_schema_case *c);
/* Two values that are equal have the same text; appended. */
void qn_json_normal(qn_str *out, const json_t *v);

#endif
