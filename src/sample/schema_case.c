/* SPDX-License-Identifier: Apache-2.0
 * schema_case.c - branches: what is still to be looked at, and what has been found plain.
 *
 *   todo: A, anyOf(B, C), D     plain: -
 *   todo: anyOf(B, C), D        plain: A
 *   todo: B, D   plain: A       todo: C, D   plain: A      (two branches now; they share D)
 *   ...
 *
 * Lists are only ever extended at their head, so branches share their tails. Terms come in the order of the schema's text:
 * that is the order of an object's members. */
#include "sample/schema_case.h"

#include "base/limits.h"
#include "base/str.h"
#include <math.h>
#include <string.h>

typedef enum todo_kind {
    MUST,
    MUST_NOT,
    PLAIN,
    PLAIN_NOT,
    ANY_OF,
    ONE_OF,
    IF,
    DEPENDS, /* on the member `part` of `key` */
    OBSTACLE /* `key` cannot be enforced where it comes so far */
} todo_kind;

typedef struct todo {
    const struct todo *next, *from; /* from: what it was found in, in place */
    const json_t *schema;
    const char *key, *part;
    todo_kind kind;
} todo;

typedef struct link {
    const struct link *next;
    qn_term term;
    size_t n; /* links from here on */
} link;

typedef struct branch {
    struct branch *next;
    const todo *todo, *obstacle;
    const link *plain, *seen;
    unsigned types;
} branch;

typedef struct expansion {
    qn_schema_doc *d;
    bool is_loose; /* more than the schemas allow, but never less: for proofs that nothing is */
    branch *branches;
    qn_schema_case *cases;
    size_t n_cases, cap;
    qn_err *err;
} expansion;

/* ---- values ---- */

typedef struct normal {
    qn_str *out;
    bool in_string;
} normal;

/* jansson gives a string's quotes and a number in a call each. */
static int add_normal(const char *p, size_t n, void *arg)
{
    normal *w = arg;
    double v;
    if (n == 1 && *p == '"')
        w->in_string = !w->in_string;
    if (!w->in_string && (*p == '-' || (*p >= '0' && *p <= '9')) && memchr(p, '.', n) &&
        qn_parse_f64(p, n, &v) && v == floor(v) && fabs(v) < 9e18)
        qn_str_addf(w->out, "%lld", (long long)v);
    else
        qn_str_add(w->out, p, n);
    return w->out->failed ? -1 : 0;
}

void qn_json_normal(qn_str *out, const json_t *v)
{
    normal w = {.out = out};
    if (json_dump_callback(v, add_normal, &w,
                           JSON_ENCODE_ANY | JSON_SORT_KEYS | JSON_COMPACT | JSON_REAL_PRECISION(17)))
        out->failed = true;
}

static unsigned type_of(const json_t *v)
{
    double x = json_real_value(v);
    switch (json_typeof(v)) {
    case JSON_NULL:
        return QN_TYPE_NULL;
    case JSON_TRUE:
        return QN_TYPE_TRUE;
    case JSON_FALSE:
        return QN_TYPE_FALSE;
    case JSON_INTEGER:
        return QN_TYPE_WHOLE;
    case JSON_REAL:
        return x == floor(x) ? QN_TYPE_WHOLE : QN_TYPE_BROKEN;
    case JSON_STRING:
        return QN_TYPE_STRING;
    case JSON_ARRAY:
        return QN_TYPE_ARRAY;
    default:
        return QN_TYPE_OBJECT;
    }
}

static unsigned types_named(const json_t *v)
{
    static const struct {
        const char *name;
        unsigned bits;
    } names[] = {{"null", QN_TYPE_NULL},       {"boolean", QN_TYPE_TRUE | QN_TYPE_FALSE},
                 {"integer", QN_TYPE_WHOLE},   {"number", QN_TYPE_NUMBER},
                 {"string", QN_TYPE_STRING},   {"array", QN_TYPE_ARRAY},
                 {"object", QN_TYPE_OBJECT}};
    unsigned bits = 0;
    for (size_t i = 0; i < (json_is_array(v) ? json_array_size(v) : 1); i++) {
        const char *name = json_string_value(json_is_array(v) ? json_array_get(v, i) : v);
        for (size_t k = 0; k < QN_COUNT(names); k++)
            if (strcmp(name, names[k].name) == 0)
                bits |= names[k].bits;
    }
    return bits;
}

/* The types that a plain schema leaves, as far as its type, enum and const say. */
static unsigned types_left(const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type"), *list = json_object_get(schema, "enum");
    const json_t *value = json_object_get(schema, "const");
    unsigned bits = type ? types_named(type) : QN_TYPE_ALL, listed = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        listed |= type_of(json_array_get(list, i));
    if (list)
        bits &= listed;
    return value ? bits & type_of(value) : bits;
}

/* ---- lists ---- */

/* A list being written in its order; *end is where the next one goes. */
typedef struct chain {
    const todo *first;
    const todo **end;
} chain;

static qn_status add_todo(expansion *x, chain *c, todo t)
{
    todo *new = qn_schema_alloc(x->d, 1, sizeof *new);
    QN_TRY(qn_schema_spend(x->d, 1, t.schema, x->err));
    if (!new)
        return qn_schema_no_memory(x->d, x->err);
    *new = t;
    new->next = NULL;
    *c->end = new;
    c->end = &new->next;
    return QN_OK;
}

#define CHAIN(c)                                                                                   \
    chain c;                                                                                       \
    c.first = NULL;                                                                                \
    c.end = &c.first

static qn_status add_link(expansion *x, const link **list, qn_term term)
{
    link *new = qn_schema_alloc(x->d, 1, sizeof *new);
    if (!new)
        return qn_schema_no_memory(x->d, x->err);
    *new = (link){*list, term, *list ? (*list)->n + 1 : 1};
    *list = new;
    return QN_OK;
}

static bool has_link(const link *l, qn_term t)
{
    for (; l; l = l->next)
        if (l->term.schema == t.schema && l->term.is_negated == t.is_negated)
            return true;
    return false;
}

/* The branch b once more, with what is in the chain before the rest of it. */
static qn_status fork_branch(expansion *x, const branch *b, chain *c)
{
    branch *new = qn_schema_alloc(x->d, 1, sizeof *new);
    if (!new)
        return qn_schema_no_memory(x->d, x->err);
    *new = *b;
    *c->end = b->todo;
    new->todo = c->first;
    new->next = x->branches;
    x->branches = new;
    return QN_OK;
}

/* ---- schemas that are made ---- */

typedef enum made_kind { LONELY, ABSENT, PRESENT, WRONG, SHIFTED, BARE } made_kind;

/* {key: v} alone. */
static qn_status make_lonely(expansion *x, const json_t *origin, const char *key, json_t *v,
                             const json_t **out)
{
    *out = qn_schema_made(x->d, origin, key, LONELY);
    if (!*out)
        QN_TRY(qn_schema_take(x->d, origin, key, key, LONELY, json_pack("{sO}", key, v), x->err));
    *out = qn_schema_made(x->d, origin, key, LONELY);
    return QN_OK;
}

/* {type: type, key: v + by}, or {type: type} alone for key NULL. */
static qn_status make_typed(expansion *x, const json_t *origin, const char *from, const char *type,
                            const char *key, const json_t *v, int by, const json_t **out)
{
    int kind = key ? SHIFTED : BARE;
    *out = qn_schema_made(x->d, origin, from, kind);
    if (*out)
        return QN_OK;
    json_t *made = json_pack("{ss}", "type", type);
    if (made && key) {
        json_t *value = by ? json_integer((json_int_t)json_number_value(v) + by)
                           : json_incref((json_t *)v);
        if (json_object_set_new(made, key, value) != 0) {
            json_decref(made);
            made = NULL;
        }
    }
    QN_TRY(qn_schema_take(x->d, origin, from, from, kind, made, x->err));
    *out = qn_schema_made(x->d, origin, from, kind);
    return QN_OK;
}

/* A member that is not there; one that is there; one that is there and not of its schema. */
static qn_status make_member(expansion *x, const json_t *origin, const char *key, const char *name,
                             made_kind kind, json_t *schema, const json_t **out)
{
    *out = qn_schema_made(x->d, origin, name, kind);
    if (*out)
        return QN_OK;
    json_t *made = NULL;
    if (kind == ABSENT)
        made = json_pack("{s{sb}}", "properties", name, 0);
    else if (kind == PRESENT)
        made = json_pack("{sss[s]}", "type", "object", "required", name);
    else
        made = json_pack("{sss[s]s{s{sO}}}", "type", "object", "required", name, "properties", name,
                         "not", schema);
    for (size_t i = 0; kind == PRESENT && made && i < json_array_size(schema); i++)
        if (json_array_append(json_object_get(made, "required"), json_array_get(schema, i)) != 0) {
            json_decref(made);
            made = NULL;
        }
    QN_TRY(qn_schema_take(x->d, origin, key, name, kind, made, x->err));
    *out = qn_schema_made(x->d, origin, name, kind);
    return QN_OK;
}

/* ---- one step of a branch ---- */

static const char *const combining[] = {"$ref", "allOf",  "anyOf", "oneOf",
                                        "not",  "if",     "then",  "else",
                                        "dependentRequired", "dependentSchemas"};

static bool is_combining(const char *key)
{
    for (size_t i = 0; i < QN_COUNT(combining); i++)
        if (strcmp(key, combining[i]) == 0)
            return true;
    return false;
}

/* Keywords of a plain term, which `demand` and its readers look at. */
static bool is_plain(const char *key)
{
    static const char *const plain[] = {
        "type",          "const",            "enum",          "minimum",           "maximum",
        "multipleOf",    "exclusiveMinimum", "minLength",     "exclusiveMaximum",  "maxLength",
        "pattern",       "format",           "minItems",      "maxItems",          "uniqueItems",
        "prefixItems",   "items",            "contains",      "minContains",       "maxContains",
        "properties",    "required",         "minProperties", "maxProperties",     "propertyNames",
        "patternProperties", "additionalProperties"};
    for (size_t i = 0; i < QN_COUNT(plain); i++)
        if (strcmp(key, plain[i]) == 0)
            return true;
    return false;
}

static qn_status add_each(expansion *x, chain *c, const todo *t, const json_t *list, todo_kind kind)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        QN_TRY(add_todo(x, c,
                        (todo){.from = t, .schema = json_array_get(list, i), .kind = kind}));
    return QN_OK;
}

static qn_status add_members(expansion *x, chain *c, const todo *t, const char *key, json_t *map)
{
    const char *name;
    json_t *v;
    json_object_foreach(map, name, v)
        QN_TRY(add_todo(x, c,
                        (todo){.from = t, .schema = t->schema, .key = key, .part = name, .kind = DEPENDS}));
    return QN_OK;
}

/* What a schema's keywords mean comes to the head of the list, in the order of its text. */
static qn_status take_apart(expansion *x, branch *b, const todo *t)
{
    const json_t *schema = t->schema;
    bool has_plain = false, has_members = json_object_get(schema, "properties") != NULL;
    const char *key;
    json_t *v;
    CHAIN(c);
    json_object_foreach((json_t *)schema, key, v) {
        todo found = {.from = t, .schema = v, .kind = MUST};
        if (strcmp(key, "$ref") == 0) {
            QN_TRY(qn_schema_resolve(x->d, schema, &found.schema, x->err));
            QN_TRY(add_todo(x, &c, found));
        } else if (strcmp(key, "allOf") == 0) {
            QN_TRY(add_each(x, &c, t, v, MUST));
        } else if (strcmp(key, "not") == 0) {
            found.kind = MUST_NOT;
            QN_TRY(add_todo(x, &c, found));
        } else if (strcmp(key, "dependentRequired") == 0 || strcmp(key, "dependentSchemas") == 0) {
            QN_TRY(add_members(x, &c, t, key, v));
        } else if (strcmp(key, "anyOf") == 0 || strcmp(key, "oneOf") == 0 || strcmp(key, "if") == 0) {
            found.schema = schema;
            found.kind = *key == 'a' ? ANY_OF : *key == 'o' ? ONE_OF : IF;
            QN_TRY(add_todo(x, &c, found));
        } else if (!has_plain && is_plain(key) &&
                   (!has_members || strcmp(key, "properties") == 0)) {
            found.schema = schema;
            found.kind = PLAIN;
            has_plain = true;
            QN_TRY(add_todo(x, &c, found));
        }
    }
    *c.end = b->todo;
    b->todo = c.first;
    return QN_OK;
}

static qn_status must(expansion *x, branch *b, const todo *t, bool *is_dead)
{
    qn_term term = {t->schema, false};
    if (json_is_false(t->schema))
        *is_dead = true;
    if (!json_is_object(t->schema))
        return QN_OK;
    QN_TRY(qn_schema_spend(x->d, b->seen ? b->seen->n : 0, t->schema, x->err));
    if (!has_link(b->seen, term)) {
        QN_TRY(add_link(x, &b->seen, term));
        return take_apart(x, b, t);
    }
    for (const todo *up = t->from; up; up = up->from)
        if (up->schema == t->schema && up->kind == MUST)
            return qn_schema_fail(x->d, x->err, QN_E_ARG, t->from->schema, NULL,
                                  "found a schema that is itself by references alone");
    return QN_OK;
}

/* One alternative of one or two terms. */
static qn_status fork_to(expansion *x, const branch *b, todo first, todo second)
{
    CHAIN(c);
    if (first.schema)
        QN_TRY(add_todo(x, &c, first));
    if (second.schema)
        QN_TRY(add_todo(x, &c, second));
    return fork_branch(x, b, &c);
}

static qn_status are_disjoint(qn_schema_doc *d, const json_t *a, const json_t *b, bool *out,
                              qn_err *err);

/* Each alternative without the others that it may share a document with. Alternatives are pushed last first, so that they are
 * looked at in their order. */
static qn_status choose_one(expansion *x, const branch *b, const todo *t)
{
    const json_t *list = json_object_get(t->schema, "oneOf");
    size_t n = json_array_size(list);
    for (size_t i = n; i-- > 0;) {
        const json_t *own = json_array_get(list, i);
        CHAIN(c);
        QN_TRY(add_todo(x, &c, (todo){.from = t, .schema = own, .kind = MUST}));
        for (size_t k = 0; k < n && !x->is_loose; k++) {
            const json_t *other = json_array_get(list, k);
            bool apart = k == i;
            if (k != i)
                QN_TRY(are_disjoint(x->d, own, other, &apart, x->err));
            if (!apart)
                QN_TRY(add_todo(x, &c, (todo){.from = t, .schema = other, .kind = MUST_NOT}));
        }
        QN_TRY(fork_branch(x, b, &c));
    }
    return QN_OK;
}

static qn_status choose(expansion *x, const branch *b, const todo *t)
{
    const json_t *s = t->schema, *list = json_object_get(s, "anyOf");
    const json_t *yes = json_object_get(s, "then"), *no = json_object_get(s, "else");
    const json_t *made, *own;
    todo none = {0}, first = {.from = t, .schema = json_object_get(s, "if"), .kind = MUST};
    switch (t->kind) {
    case ANY_OF:
        for (size_t i = json_array_size(list); i-- > 0;)
            QN_TRY(fork_to(x, b, (todo){.from = t, .schema = json_array_get(list, i)}, none));
        return QN_OK;
    case ONE_OF:
        return choose_one(x, b, t);
    case IF:
        if (!yes && !no)
            return fork_to(x, b, none, none);
        QN_TRY(fork_to(x, b, (todo){.from = t, .schema = first.schema, .kind = MUST_NOT},
                       (todo){.from = t, .schema = no}));
        return fork_to(x, b, first, (todo){.from = t, .schema = yes});
    default:
        own = json_object_get(json_object_get(s, t->key), t->part);
        QN_TRY(make_member(x, s, t->key, t->part, PRESENT, json_is_array(own) ? (json_t *)own : NULL,
                           &made));
        QN_TRY(fork_to(x, b, (todo){.from = t, .schema = made, .kind = PLAIN},
                       (todo){.from = t, .schema = json_is_array(own) ? NULL : own}));
        QN_TRY(make_member(x, s, t->key, t->part, ABSENT, NULL, &made));
        return fork_to(x, b, (todo){.from = t, .schema = made, .kind = PLAIN}, none);
    }
}

/* ---- what must not hold ---- */

/* A bound fails where the value is of its type and over the opposite bound. */
static const struct {
    const char *key, *type, *opposite;
    int by;
} bounds[] = {
    {"minimum", "number", "exclusiveMaximum", 0}, {"exclusiveMinimum", "number", "maximum", 0},
    {"maximum", "number", "exclusiveMinimum", 0}, {"exclusiveMaximum", "number", "minimum", 0},
    {"minLength", "string", "maxLength", -1},     {"maxLength", "string", "minLength", 1},
    {"minItems", "array", "maxItems", -1},        {"maxItems", "array", "minItems", 1},
    {"minProperties", "object", "maxProperties", -1}, {"maxProperties", "object", "minProperties", 1},
};

/* Keywords whose failing cannot be enforced, unless their value allows everything; and the type that they are about. */
static const struct {
    const char *key, *type;
} one_way[] = {
    {"items", "array"},          {"prefixItems", "array"},        {"contains", "array"},
    {"uniqueItems", "array"},    {"patternProperties", "object"}, {"additionalProperties", "object"},
    {"propertyNames", "object"}, {"dependentRequired", "object"}, {"dependentSchemas", "object"},
};

static qn_status deny_members(expansion *x, const branch *b, const todo *t, const char *key, json_t *v)
{
    const json_t *made;
    const char *name;
    json_t *own;
    todo none = {0};
    json_object_foreach(v, name, own) {
        if (json_is_true(own))
            continue;
        QN_TRY(make_member(x, t->schema, key, name, WRONG, own, &made));
        QN_TRY(fork_to(x, b, (todo){.from = t, .schema = made}, none));
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        QN_TRY(make_member(x, t->schema, key, json_string_value(json_array_get(v, i)), ABSENT, NULL,
                           &made));
        todo absent = {.from = t, .schema = made, .kind = PLAIN};
        QN_TRY(make_typed(x, t->schema, key, "object", NULL, NULL, 0, &made));
        QN_TRY(fork_to(x, b, absent, (todo){.from = t, .schema = made, .kind = PLAIN}));
    }
    return QN_OK;
}

/* Branches in which the keyword fails. */
static qn_status deny_plain(expansion *x, const branch *b, const todo *t, const char *key, json_t *v)
{
    static const char *const alone[] = {"type", "const", "enum", "pattern", "multipleOf"};
    const json_t *made;
    todo none = {0};
    for (size_t i = 0; i < QN_COUNT(alone); i++)
        if (strcmp(key, alone[i]) == 0) {
            QN_TRY(make_lonely(x, t->schema, key, v, &made));
            return fork_to(x, b, (todo){.from = t, .schema = made, .kind = PLAIN_NOT}, none);
        }
    for (size_t i = 0; i < QN_COUNT(bounds); i++)
        if (strcmp(key, bounds[i].key) == 0) {
            if (bounds[i].by < 0 && json_number_value(v) == 0)
                return QN_OK;
            QN_TRY(make_typed(x, t->schema, key, bounds[i].type, bounds[i].opposite, v,
                              bounds[i].by, &made));
            return fork_to(x, b, (todo){.from = t, .schema = made, .kind = PLAIN}, none);
        }
    if (strcmp(key, "properties") == 0 || strcmp(key, "required") == 0)
        return deny_members(x, b, t, key, v);
    const char *type = strcmp(key, "format") == 0 ? "string" : NULL;
    for (size_t i = 0; i < QN_COUNT(one_way); i++)
        if (strcmp(key, one_way[i].key) == 0)
            type = one_way[i].type;
    bool is_nothing = json_is_true(v) || (json_is_false(v) && strcmp(key, "uniqueItems") == 0);
    if (!type || (is_nothing && strcmp(key, "uniqueItems") != 0) ||
        (json_is_false(v) && is_nothing) || (json_is_object(v) && !json_object_size(v) && strcmp(key, "contains") != 0))
        return QN_OK;
    QN_TRY(make_typed(x, t->schema, key, type, NULL, NULL, 0, &made));
    return fork_to(x, b, (todo){.from = t, .schema = made, .kind = PLAIN},
                   (todo){.from = t, .schema = t->schema, .key = key, .kind = OBSTACLE});
}
