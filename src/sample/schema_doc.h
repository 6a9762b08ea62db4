/* SPDX-License-Identifier: Apache-2.0
 * schema_doc.h - a JSON Schema as a document: every schema in it with its place, keywords checked, references resolved.
 *
 *   text --jansson--> tree --> table of schemas: {object, parent, keyword, member} = "#/properties/a"
 *
 * Everything in it is checked when it is read, also what nobody refers to: keywords that are not known, and values that are
 * none of theirs. What is added while a schema is taken apart ("made") has the place of what it was made of.
 *
 * Threads: one owner. */
#ifndef QN_SAMPLE_SCHEMA_DOC_H
#define QN_SAMPLE_SCHEMA_DOC_H

#include "base/json.h"
#include "base/mem.h"
#include "sample/regex.h"

typedef struct qn_schema_place {
    const json_t *schema;
    uint32_t parent;             /* itself: the root */
    uint32_t base;               /* nearest schema with $id, or the root */
    const char *key;             /* keyword in the parent, or NULL */
    const char *member;          /* of the keyword's object, or NULL */
    uint32_t index;              /* of the keyword's array; UINT32_MAX: none */
    struct qn_schema_made *made; /* of it */
} qn_schema_place;

typedef struct qn_schema_doc {
    json_t *root, *made; /* made: array of what was added */
    qn_schema_place *places;
    uint32_t *table; /* places by their schema; 0: empty, else number + 1 */
    size_t n_places, places_cap, table_size;
    struct qn_schema_regex *regexes; /* table by the address of what is parsed */
    size_t n_regexes, regexes_size;
    uint64_t steps; /* of taking it apart, so far */
    qn_arena memory;
} qn_schema_doc;

QN_MUST_USE qn_status qn_schema_doc_init(qn_schema_doc *d, const char *json, size_t n, qn_err *err);
void qn_schema_doc_fini(qn_schema_doc *d);

/* Fails with the place of `key` (NULL: of the schema) before the message. */
qn_status qn_schema_fail(const qn_schema_doc *d, qn_err *err, qn_status s, const json_t *schema,
                         const char *key, const char *fmt, ...) QN_PRINTF(6, 7);
/* Counts n steps of work; fails over the limit. */
QN_MUST_USE qn_status qn_schema_spend(qn_schema_doc *d, uint64_t n, const json_t *schema,
                                      qn_err *err);
void *qn_schema_alloc(qn_schema_doc *d, size_t n, size_t size); /* until the end; NULL: none left */
qn_status qn_schema_no_memory(const qn_schema_doc *d, qn_err *err);

/* What a schema's $ref names; a schema or a boolean. */
QN_MUST_USE qn_status qn_schema_resolve(qn_schema_doc *d, const json_t *schema, const json_t **out,
                                        qn_err *err);
/* What was made of (origin, part, kind) before, or NULL: it is made once, so that it is the same schema each time. `part`
 * is any address in the origin. */
const json_t *qn_schema_made(const qn_schema_doc *d, const json_t *origin, const void *part,
                             int kind);
/* Takes `made` (NULL: no memory), which gets the place of `key` in the origin. */
QN_MUST_USE qn_status qn_schema_take(qn_schema_doc *d, const json_t *origin, const char *key,
                                     const void *part, int kind, json_t *made, qn_err *err);
/* The pattern, or (is_format) the named format, parsed once. *out NULL: a format that allows any text. `text` lives in d. */
QN_MUST_USE qn_status qn_schema_regex(qn_schema_doc *d, const json_t *schema, const char *key,
                                      const char *text, bool is_format, const qn_regex **out,
                                      qn_err *err);
/* Whether an object has a keyword that says anything; `but`: beside that one. */
bool qn_schema_says(const json_t *schema, const char *but);

/* As in base.h: the analyzer must know that a failure is never QN_OK. */
#if defined(__clang_analyzer__) && !defined(QN_SCHEMA_DOC_C)
#define qn_schema_fail(d, err, s, ...) (qn_seen(err, d, __VA_ARGS__), (s))
#define qn_schema_no_memory(d, err)    (qn_seen(err, d), QN_E_NOMEM)
#endif

#endif
