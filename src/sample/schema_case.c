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
#include "sample/string_format.h"
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
                           JSON_ENCODE_ANY | JSON_SORT_KEYS | JSON_COMPACT |
                               JSON_REAL_PRECISION(17)))
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
    } names[] = {{"null", QN_TYPE_NULL},     {"boolean", QN_TYPE_TRUE | QN_TYPE_FALSE},
                 {"integer", QN_TYPE_WHOLE}, {"number", QN_TYPE_NUMBER},
                 {"string", QN_TYPE_STRING}, {"array", QN_TYPE_ARRAY},
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

static void begin_chain(chain *c)
{
    c->first = NULL;
    c->end = &c->first;
}

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
        json_t *value =
            by ? json_integer((json_int_t)json_number_value(v) + by) : json_incref((json_t *)v);
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

static const char *const combining[] = {"$ref",
                                        "allOf",
                                        "anyOf",
                                        "oneOf",
                                        "not",
                                        "if",
                                        "then",
                                        "else",
                                        "dependentRequired",
                                        "dependentSchemas"};

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
    static const char *const plain[] = {"type",
                                        "const",
                                        "enum",
                                        "minimum",
                                        "maximum",
                                        "multipleOf",
                                        "exclusiveMinimum",
                                        "minLength",
                                        "exclusiveMaximum",
                                        "maxLength",
                                        "pattern",
                                        "format",
                                        "minItems",
                                        "maxItems",
                                        "uniqueItems",
                                        "prefixItems",
                                        "items",
                                        "contains",
                                        "minContains",
                                        "maxContains",
                                        "properties",
                                        "required",
                                        "minProperties",
                                        "maxProperties",
                                        "propertyNames",
                                        "patternProperties",
                                        "additionalProperties"};
    for (size_t i = 0; i < QN_COUNT(plain); i++)
        if (strcmp(key, plain[i]) == 0)
            return true;
    return false;
}

static qn_status add_each(expansion *x, chain *c, const todo *t, const json_t *list, todo_kind kind)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        QN_TRY(add_todo(x, c, (todo){.from = t, .schema = json_array_get(list, i), .kind = kind}));
    return QN_OK;
}

static qn_status add_members(expansion *x, chain *c, const todo *t, const char *key, json_t *map)
{
    const char *name;
    json_t *v;
    json_object_foreach(map, name, v) QN_TRY(add_todo(
        x, c, (todo){.from = t, .schema = t->schema, .key = key, .part = name, .kind = DEPENDS}));
    return QN_OK;
}

/* What a schema's keywords mean comes to the head of the list, in the order of its text. */
static qn_status take_apart(expansion *x, branch *b, const todo *t)
{
    const json_t *schema = t->schema;
    bool has_plain = false, has_members = json_object_get(schema, "properties") != NULL;
    const char *key;
    json_t *v;
    chain c;
    begin_chain(&c);
    json_object_foreach((json_t *)schema, key, v)
    {
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
        } else if (strcmp(key, "anyOf") == 0 || strcmp(key, "oneOf") == 0 ||
                   strcmp(key, "if") == 0) {
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
    chain c;
    begin_chain(&c);
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
        chain c;
        begin_chain(&c);
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
        QN_TRY(make_member(x, s, t->key, t->part, PRESENT,
                           json_is_array(own) ? (json_t *)own : NULL, &made));
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
    {"minimum", "number", "exclusiveMaximum", 0},
    {"exclusiveMinimum", "number", "maximum", 0},
    {"maximum", "number", "exclusiveMinimum", 0},
    {"exclusiveMaximum", "number", "minimum", 0},
    {"minLength", "string", "maxLength", -1},
    {"maxLength", "string", "minLength", 1},
    {"minItems", "array", "maxItems", -1},
    {"maxItems", "array", "minItems", 1},
    {"minProperties", "object", "maxProperties", -1},
    {"maxProperties", "object", "minProperties", 1},
};

/* Keywords whose failing cannot be enforced, unless their value allows everything; and the type that they are about. */
static const struct {
    const char *key, *type;
} one_way[] = {
    {"items", "array"},
    {"prefixItems", "array"},
    {"contains", "array"},
    {"uniqueItems", "array"},
    {"patternProperties", "object"},
    {"additionalProperties", "object"},
    {"propertyNames", "object"},
    {"dependentRequired", "object"},
    {"dependentSchemas", "object"},
};

static qn_status deny_members(expansion *x, const branch *b, const todo *t, const char *key,
                              json_t *v)
{
    const json_t *made;
    const char *name;
    json_t *own;
    todo none = {0};
    json_object_foreach(v, name, own)
    {
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
static qn_status deny_plain(expansion *x, const branch *b, const todo *t, const char *key,
                            json_t *v)
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
        (json_is_false(v) && is_nothing) ||
        (json_is_object(v) && !json_object_size(v) && strcmp(key, "contains") != 0))
        return QN_OK;
    QN_TRY(make_typed(x, t->schema, key, type, NULL, NULL, 0, &made));
    return fork_to(x, b, (todo){.from = t, .schema = made, .kind = PLAIN},
                   (todo){.from = t, .schema = t->schema, .key = key, .kind = OBSTACLE});
}

/* The branch goes on as one branch for each way in which the schema fails. */
static qn_status must_not(expansion *x, const branch *b, const todo *t)
{
    const json_t *schema = t->schema, *to = NULL;
    const json_t *yes = json_object_get(schema, "then"), *no = json_object_get(schema, "else");
    const char *key;
    json_t *v;
    todo none = {0};
    json_object_foreach((json_t *)schema, key, v)
    {
        todo first = {.from = t, .schema = v, .kind = MUST};
        chain all;
        begin_chain(&all);
        if (strcmp(key, "$ref") == 0) {
            QN_TRY(qn_schema_resolve(x->d, schema, &to, x->err));
            QN_TRY(fork_to(x, b, (todo){.from = t, .schema = to, .kind = MUST_NOT}, none));
        } else if (strcmp(key, "allOf") == 0) {
            for (size_t i = 0; i < json_array_size(v); i++)
                QN_TRY(fork_to(x, b,
                               (todo){.from = t, .schema = json_array_get(v, i), .kind = MUST_NOT},
                               none));
        } else if (strcmp(key, "anyOf") == 0) {
            QN_TRY(add_each(x, &all, t, v, MUST_NOT));
            QN_TRY(fork_branch(x, b, &all));
        } else if (strcmp(key, "oneOf") == 0) {
            /* none of them holds; that two do is the other way to fail */
            QN_TRY(add_each(x, &all, t, v, MUST_NOT));
            QN_TRY(fork_branch(x, b, &all));
            for (size_t i = 0; i < json_array_size(v); i++)
                for (size_t k = 0; k < i; k++)
                    QN_TRY(fork_to(x, b, (todo){.from = t, .schema = json_array_get(v, k)},
                                   (todo){.from = t, .schema = json_array_get(v, i)}));
        } else if (strcmp(key, "not") == 0) {
            QN_TRY(fork_to(x, b, first, none));
        } else if (strcmp(key, "if") == 0 && yes) {
            QN_TRY(fork_to(x, b, first, (todo){.from = t, .schema = yes, .kind = MUST_NOT}));
        } else if (!is_combining(key) || strncmp(key, "dep", 3) == 0) {
            QN_TRY(deny_plain(x, b, t, key, v));
        }
        first.kind = MUST_NOT;
        if (strcmp(key, "if") == 0 && no)
            QN_TRY(fork_to(x, b, first, (todo){.from = t, .schema = no, .kind = MUST_NOT}));
    }
    return QN_OK;
}

static qn_status demand(expansion *x, const branch *b);

/* Takes one branch to its end, or to where it forks. */
static qn_status follow_branch(expansion *x, branch *b)
{
    while (b->todo && b->types) {
        const todo *t = b->todo;
        bool is_dead = false;
        b->todo = t->next;
        QN_TRY(qn_schema_spend(x->d, 1, t->schema, x->err));
        switch (t->kind) {
        case MUST:
            QN_TRY(must(x, b, t, &is_dead));
            break;
        case MUST_NOT:
            if (x->is_loose || json_is_false(t->schema))
                break;
            for (const todo *up = t->from; up; up = up->from)
                if (up->schema == t->schema && up->kind == MUST_NOT)
                    return qn_schema_fail(x->d, x->err, QN_E_ARG, t->schema, NULL,
                                          "found a schema that is itself by references alone");
            return json_is_true(t->schema) ? QN_OK : must_not(x, b, t);
        case PLAIN:
            b->types &= types_left(t->schema);
            QN_TRY(add_link(x, &b->plain, (qn_term){t->schema, false}));
            break;
        case PLAIN_NOT:
            QN_TRY(add_link(x, &b->plain, (qn_term){t->schema, true}));
            break;
        case OBSTACLE:
            b->obstacle = b->obstacle ? b->obstacle : t;
            break;
        default:
            return choose(x, b, t);
        }
        if (is_dead)
            return QN_OK;
    }
    return b->types ? demand(x, b) : QN_OK;
}

static qn_status expand(qn_schema_doc *d, qn_terms all, bool is_loose, const qn_schema_case **out,
                        size_t *n_out, qn_err *err)
{
    expansion x = {.d = d, .is_loose = is_loose, .err = err};
    branch first = {.types = QN_TYPE_ALL};
    qn_status s = QN_OK;
    chain c;
    begin_chain(&c);
    *out = NULL;
    *n_out = 0;
    for (size_t i = 0; i < all.n; i++)
        QN_TRY(add_todo(
            &x, &c,
            (todo){.schema = all.t[i].schema, .kind = all.t[i].is_negated ? MUST_NOT : MUST}));
    QN_TRY(fork_branch(&x, &first, &c));
    while (s == QN_OK && x.branches) {
        branch *b = x.branches;
        x.branches = b->next;
        s = follow_branch(&x, b);
    }
    /* they move into the document's memory, where their lists are too */
    qn_schema_case *kept = s == QN_OK ? qn_schema_alloc(d, x.n_cases, sizeof *kept) : NULL;
    if (kept && x.n_cases)
        memcpy(kept, x.cases, x.n_cases * sizeof *kept);
    *out = kept;
    *n_out = x.n_cases;
    qn_free(x.cases);
    return s == QN_OK && !kept ? qn_schema_no_memory(d, err) : s;
}

qn_status qn_schema_cases(qn_schema_doc *d, qn_terms all, const qn_schema_case **out, size_t *n_out,
                          qn_err *err)
{
    return expand(d, all, false, out, n_out, err);
}

/* ---- what the plain terms of a case demand ---- */

static const json_t *keyword(const qn_term *t, const char *key)
{
    return t->is_negated ? NULL : json_object_get(t->schema, key);
}

static void block(qn_schema_case *c, const json_t *at, const char *key, const char *why)
{
    if (c->obstacle)
        return;
    c->obstacle = why;
    c->obstacle_at = at;
    c->obstacle_key = key;
}

static void narrow_count(qn_count_range *r, const qn_term *t, const char *min, const char *max)
{
    const json_t *low = keyword(t, min), *high = keyword(t, max);
    if (low)
        r->min = QN_MAX(r->min, (uint64_t)json_number_value(low));
    if (high)
        r->max = QN_MIN(r->max, (uint64_t)json_number_value(high));
}

/* A bound joins the range if it is the closer one. */
static void narrow_low(qn_number_range *r, const qn_decimal *d, bool is_open)
{
    int c = r->has_low ? qn_decimal_compare(d, &r->low) : 1;
    if (c > 0)
        r->low = *d;
    r->is_above = c > 0 ? is_open : c == 0 ? r->is_above || is_open : r->is_above;
    r->has_low = true;
}

static void narrow_high(qn_number_range *r, const qn_decimal *d, bool is_open)
{
    int c = r->has_high ? qn_decimal_compare(d, &r->high) : -1;
    if (c < 0)
        r->high = *d;
    r->is_below = c < 0 ? is_open : c == 0 ? r->is_below || is_open : r->is_below;
    r->has_high = true;
}

static bool narrow_numbers(qn_number_range *r, const qn_term *t)
{
    static const char *const keys[] = {"minimum", "exclusiveMinimum", "maximum",
                                       "exclusiveMaximum"};
    const char *format = json_string_value(keyword(t, "format")), *low = NULL, *high = NULL;
    qn_decimal d;
    bool is_any = false;
    for (size_t i = 0; i < QN_COUNT(keys); i++) {
        const json_t *v = keyword(t, keys[i]);
        if (!v)
            continue;
        is_any = true;
        qn_decimal_of(&d, v);
        if (i < 2)
            narrow_low(r, &d, i == 1);
        else
            narrow_high(r, &d, i == 3);
    }
    if (format && qn_number_format(format, &low, &high) && low) {
        is_any = true;
        qn_decimal_parse(&d, low, strlen(low));
        narrow_low(r, &d, false);
        qn_decimal_parse(&d, high, strlen(high));
        narrow_high(r, &d, false);
    }
    return is_any;
}

static qn_status number_demand(expansion *x, qn_schema_case *c)
{
    qn_number_range r = {0};
    bool is_any = false;
    for (size_t i = 0; i < c->plain.n; i++)
        is_any |= narrow_numbers(&r, &c->plain.t[i]);
    if (!is_any)
        return QN_OK;
    qn_number_range *kept = qn_schema_alloc(x->d, 1, sizeof *kept);
    if (!kept)
        return qn_schema_no_memory(x->d, x->err);
    for (int is_broken = 0; is_broken < 2; is_broken++) {
        r.is_whole = !is_broken;
        r.is_broken = is_broken;
        if (qn_number_range_is_empty(&r))
            c->types &= ~(unsigned)(is_broken ? QN_TYPE_BROKEN : QN_TYPE_WHOLE);
    }
    r.is_whole = r.is_broken = false;
    *kept = r;
    c->numbers = kept;
    return QN_OK;
}

/* What a negated term of one keyword leaves. */
static void deny(qn_schema_case *c, const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type"), *list = json_object_get(schema, "enum");
    const json_t *value = json_object_get(schema, "const");
    const unsigned single = QN_TYPE_NULL | QN_TYPE_FALSE | QN_TYPE_TRUE;
    if (type)
        c->types &= ~types_named(type);
    if (json_object_get(schema, "pattern"))
        c->types &= QN_TYPE_STRING;
    if (json_object_get(schema, "multipleOf"))
        c->types &= QN_TYPE_NUMBER;
    for (size_t i = 0; i < json_array_size(list); i++)
        c->types &= ~(type_of(json_array_get(list, i)) & single);
    if (value)
        c->types &= ~(type_of(value) & single);
}

/* An array or object among listed values is only compared, so what else is said about such must be nothing. */
static void block_listed(qn_schema_case *c, const json_t *v)
{
    static const char *const of_arrays[] = {"items",    "prefixItems", "contains",
                                            "minItems", "maxItems",    "uniqueItems"};
    static const char *const of_objects[] = {
        "properties",    "required",      "additionalProperties", "patternProperties",
        "propertyNames", "minProperties", "maxProperties"};
    bool is_array = json_is_array(v);
    const char *const *keys = is_array ? of_arrays : of_objects;
    size_t n = is_array ? QN_COUNT(of_arrays) : QN_COUNT(of_objects);
    for (size_t k = 0; k < n && (is_array || json_is_object(v)); k++)
        for (size_t i = 0; i < c->plain.n; i++)
            if (keyword(&c->plain.t[i], keys[k]))
                block(c, c->plain.t[i].schema, keys[k],
                      "found it beside arrays or objects of enum or const");
}

/* The values of an enum or const that are in `seen` (NULL: all), each once; `seen` becomes these. */
static qn_status keep_values(expansion *x, qn_schema_case *c, const json_t *list, bool is_const,
                             json_t **seen)
{
    json_t *now = json_object();
    size_t n = is_const ? 1 : json_array_size(list), n_kept = 0;
    const json_t **kept = qn_schema_alloc(x->d, n, sizeof *kept);
    qn_str text = {0};
    bool ok = now && kept;
    for (size_t i = 0; i < n && ok; i++) {
        const json_t *v = is_const ? list : json_array_get(list, i);
        qn_str_clear(&text);
        qn_json_normal(&text, v);
        ok = !text.failed;
        if (!ok || json_object_getn(now, text.p, text.n) ||
            (*seen && !json_object_getn(*seen, text.p, text.n)))
            continue;
        ok = json_object_setn_new(now, text.p, text.n, json_true()) == 0;
        kept[n_kept++] = v;
    }
    qn_str_fini(&text);
    json_decref(*seen);
    *seen = now;
    c->values = kept;
    c->n_values = n_kept;
    c->is_listed = true;
    return ok ? qn_schema_spend(x->d, n, list, x->err) : qn_schema_no_memory(x->d, x->err);
}

static qn_status list_values(expansion *x, qn_schema_case *c)
{
    json_t *seen = NULL;
    qn_status s = QN_OK;
    for (size_t i = 0; i < c->plain.n && s == QN_OK; i++) {
        const json_t *list = keyword(&c->plain.t[i], "enum"),
                     *value = keyword(&c->plain.t[i], "const");
        if (list)
            s = keep_values(x, c, list, false, &seen);
        if (value && s == QN_OK)
            s = keep_values(x, c, value, true, &seen);
    }
    json_decref(seen);
    size_t n = 0;
    unsigned left = 0;
    for (size_t i = 0; i < c->n_values && s == QN_OK; i++) {
        bool is_in;
        s = qn_case_admits(x->d, c, c->values[i], &is_in, x->err);
        if (!is_in)
            continue;
        block_listed(c, c->values[i]);
        left |= type_of(c->values[i]);
        c->values[n++] = c->values[i];
    }
    c->n_values = n;
    if (c->is_listed)
        c->types &= left;
    return s;
}

/* Objects that lack a member which they must have. */
static void check_required(qn_schema_case *c)
{
    size_t n_required = 0;
    for (size_t i = 0; i < c->plain.n; i++) {
        const json_t *names = keyword(&c->plain.t[i], "required");
        n_required = QN_MAX(n_required, json_array_size(names));
        for (size_t k = 0; k < json_array_size(names); k++)
            for (size_t m = 0; m < c->plain.n; m++) {
                const char *name = json_string_value(json_array_get(names, k));
                const json_t *own = json_object_get(keyword(&c->plain.t[m], "properties"), name);
                bool is_closed = json_is_false(keyword(&c->plain.t[m], "additionalProperties")) &&
                                 !keyword(&c->plain.t[m], "patternProperties");
                if (own ? json_is_false(own) : is_closed)
                    c->types &= ~(unsigned)QN_TYPE_OBJECT;
            }
    }
    /* the same name twice in one list is counted twice: only a list of one or none is sure */
    if (c->members.min > c->members.max || (n_required && c->members.max == 0))
        c->types &= ~(unsigned)QN_TYPE_OBJECT;
}

static qn_status demand(expansion *x, const branch *b)
{
    qn_schema_case c = {.types = b->types};
    size_t n = b->plain ? b->plain->n : 0;
    qn_term *plain = qn_schema_alloc(x->d, n, sizeof *plain);
    if (!plain)
        return qn_schema_no_memory(x->d, x->err);
    for (const link *l = b->plain; l; l = l->next)
        plain[l->n - 1] = l->term;
    c.plain = (qn_terms){plain, n};
    c.lengths.max = c.items.max = c.members.max = UINT64_MAX;
    if (b->obstacle)
        block(&c, b->obstacle->schema, b->obstacle->key,
              "found it where it must not hold, which cannot be enforced");
    for (size_t i = 0; i < n; i++) {
        QN_TRY(qn_schema_spend(x->d, n, plain[i].schema, x->err));
        if (plain[i].is_negated)
            deny(&c, plain[i].schema);
        narrow_count(&c.lengths, &plain[i], "minLength", "maxLength");
        narrow_count(&c.items, &plain[i], "minItems", "maxItems");
        narrow_count(&c.members, &plain[i], "minProperties", "maxProperties");
    }
    QN_TRY(number_demand(x, &c));
    if (c.lengths.min > c.lengths.max)
        c.types &= ~(unsigned)QN_TYPE_STRING;
    if (c.items.min > c.items.max)
        c.types &= ~(unsigned)QN_TYPE_ARRAY;
    if (c.types & QN_TYPE_OBJECT)
        check_required(&c);
    if (c.types)
        QN_TRY(list_values(x, &c));
    if (!c.types)
        return QN_OK;
    if (!qn_grow(&x->cases, &x->cap, x->n_cases + 1, sizeof *x->cases, QN_MEM_REQUEST))
        return qn_fail_nomem(x->err, (x->n_cases + 1) * sizeof *x->cases);
    x->cases[x->n_cases++] = c;
    return QN_OK;
}

/* ---- one value, one member ---- */

static size_t n_chars(const json_t *v)
{
    const char *p = json_string_value(v);
    size_t n = 0;
    for (size_t i = 0; i < json_string_length(v); i++)
        n += ((unsigned char)p[i] & 0xc0) != 0x80;
    return n;
}

static qn_status admits_string(qn_schema_doc *d, const qn_term *t, const json_t *v, bool *out,
                               qn_err *err)
{
    static const char *const keys[] = {"pattern", "format"};
    for (int i = 0; i < 2 && *out; i++) {
        const json_t *own = json_object_get(t->schema, keys[i]);
        const qn_regex *re;
        bool is_found = true;
        if (!own)
            continue;
        QN_TRY(qn_schema_regex(d, t->schema, keys[i], json_string_value(own), i == 1, &re, err));
        if (re) {
            qn_err why = {0};
            qn_status s = qn_regex_finds(re, json_string_value(v), json_string_length(v),
                                         t->is_negated, &is_found, &why);
            if (s != QN_OK)
                return qn_schema_fail(d, err, s, t->schema, keys[i], "%s", why.msg);
        }
        *out = is_found != t->is_negated;
    }
    return QN_OK;
}

/* Whether the value is among those of a negated enum or const. */
static bool is_denied(const json_t *v, const json_t *schema)
{
    const json_t *list = json_object_get(schema, "enum"), *one = json_object_get(schema, "const");
    qn_str own = {0}, other = {0};
    bool is_same = false;
    qn_json_normal(&own, v);
    for (size_t i = 0; i < json_array_size(list) + (one != NULL) && !is_same; i++) {
        qn_str_clear(&other);
        qn_json_normal(&other, one ? one : json_array_get(list, i));
        /* out of memory counts as denied: what is left out is never wrong */
        is_same =
            own.failed || other.failed || (own.n == other.n && memcmp(own.p, other.p, own.n) == 0);
    }
    qn_str_fini(&own);
    qn_str_fini(&other);
    return is_same;
}

qn_status qn_case_admits(qn_schema_doc *d, const qn_schema_case *c, const json_t *v, bool *out,
                         qn_err *err)
{
    unsigned type = type_of(v);
    qn_decimal number, step;
    *out = type & c->types;
    if (type == QN_TYPE_STRING) {
        size_t n = n_chars(v);
        *out = *out && n >= c->lengths.min && n <= c->lengths.max;
    }
    if (type & QN_TYPE_NUMBER) {
        qn_decimal_of(&number, v);
        *out = *out && (!c->numbers || qn_number_range_has(c->numbers, &number));
    }
    for (size_t i = 0; i < c->plain.n && *out; i++) {
        const qn_term *t = &c->plain.t[i];
        const json_t *of = json_object_get(t->schema, "multipleOf");
        QN_TRY(qn_schema_spend(d, 1, t->schema, err));
        if (t->is_negated && is_denied(v, t->schema))
            *out = false;
        if (type == QN_TYPE_STRING && *out)
            QN_TRY(admits_string(d, t, v, out, err));
        if (of && type & QN_TYPE_NUMBER) {
            qn_decimal_of(&step, of);
            *out = *out && qn_decimal_is_multiple(&number, &step) != t->is_negated;
        }
    }
    return QN_OK;
}

size_t qn_case_most_terms(const qn_schema_case *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->plain.n; i++)
        n += 2 + json_object_size(keyword(&c->plain.t[i], "patternProperties"));
    return n;
}

qn_status qn_case_member(qn_schema_doc *d, const qn_schema_case *c, const char *name,
                         qn_term *terms, size_t *n, qn_err *err)
{
    for (size_t i = 0; i < c->plain.n; i++) {
        const qn_term *t = &c->plain.t[i];
        const json_t *own = json_object_get(keyword(t, "properties"), name);
        const json_t *rest = keyword(t, "additionalProperties");
        json_t *patterns = (json_t *)keyword(t, "patternProperties"), *v;
        const char *pattern;
        bool is_named = own != NULL;
        QN_TRY(qn_schema_spend(d, 1, t->schema, err));
        if (own)
            terms[(*n)++] = (qn_term){own, false};
        json_object_foreach(patterns, pattern, v)
        {
            const qn_regex *re;
            bool is_found, is_maybe;
            QN_TRY(qn_schema_regex(d, t->schema, "patternProperties", pattern, false, &re, err));
            QN_TRY(qn_regex_finds(re, name, strlen(name), false, &is_found, err));
            QN_TRY(qn_regex_finds(re, name, strlen(name), true, &is_maybe, err));
            /* where the languages differ it must be right for both */
            if (is_maybe)
                terms[(*n)++] = (qn_term){v, false};
            is_named |= is_found;
        }
        if (!is_named && rest)
            terms[(*n)++] = (qn_term){rest, false};
    }
    return QN_OK;
}

/* ---- proofs that nothing fits ---- */

/* Whether a member that the case requires can surely be nothing. Looks no deeper: that is where unions are told apart. */
static qn_status is_impossible(qn_schema_doc *d, const qn_schema_case *c, bool *out, qn_err *err)
{
    *out = false;
    if (c->types != QN_TYPE_OBJECT || c->is_listed)
        return QN_OK;
    for (size_t i = 0; i < c->plain.n; i++) {
        const json_t *names = keyword(&c->plain.t[i], "required");
        for (size_t k = 0; k < json_array_size(names) && !*out; k++) {
            qn_term *terms = qn_schema_alloc(d, qn_case_most_terms(c), sizeof *terms);
            const qn_schema_case *cases;
            size_t n = 0, n_cases;
            if (!terms)
                return qn_schema_no_memory(d, err);
            QN_TRY(
                qn_case_member(d, c, json_string_value(json_array_get(names, k)), terms, &n, err));
            QN_TRY(expand(d, (qn_terms){terms, n}, true, &cases, &n_cases, err));
            *out = n_cases == 0;
        }
    }
    return QN_OK;
}

/* expand calls this and this expand, once: a loose expansion asks for no proof. */
static qn_status are_disjoint(qn_schema_doc *d, const json_t *a, const json_t *b, bool *out,
                              qn_err *err)
{
    qn_term both[] = {{a, false}, {b, false}};
    const qn_schema_case *cases;
    size_t n;
    QN_TRY(expand(d, (qn_terms){both, 2}, true, &cases, &n, err));
    *out = true;
    for (size_t i = 0; i < n && *out; i++)
        QN_TRY(is_impossible(d, &cases[i], out, err));
    return QN_OK;
}
