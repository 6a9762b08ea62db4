/* SPDX-License-Identifier: Apache-2.0
 * schema_doc.c - the table of keywords, the walk over all schemas, pointers, references. */
#define QN_SCHEMA_DOC_C
#include "sample/schema_doc.h"

#include "base/limits.h"
#include "base/str.h"
#include "sample/string_format.h"
#include <stdio.h>
#include <string.h>

#define NO_INDEX UINT32_MAX

/* What a keyword's value is. */
typedef enum shape {
    NOTE, /* says nothing about a document */
    SCHEMA,
    SCHEMAS,    /* array of them, not empty */
    SCHEMA_MAP, /* object of them */
    COUNT,
    NUMBER,
    POSITIVE,
    STRING,
    FLAG,
    TYPES,
    NAMES,
    NAMES_MAP,
    LIST, /* array of anything */
    ANYTHING
} shape;

static const struct {
    const char *name;
    uint8_t shape;
} keywords[] = {
    {"$anchor", STRING},
    {"$comment", NOTE},
    {"$defs", SCHEMA_MAP},
    {"$id", STRING},
    {"$ref", STRING},
    {"$schema", STRING},
    {"additionalProperties", SCHEMA},
    {"allOf", SCHEMAS},
    {"anyOf", SCHEMAS},
    {"const", ANYTHING},
    {"contains", SCHEMA},
    {"contentEncoding", NOTE},
    {"contentMediaType", NOTE},
    {"contentSchema", NOTE},
    {"default", NOTE},
    {"definitions", SCHEMA_MAP},
    {"dependentRequired", NAMES_MAP},
    {"dependentSchemas", SCHEMA_MAP},
    {"deprecated", NOTE},
    {"description", NOTE},
    {"discriminator", NOTE},
    {"else", SCHEMA},
    {"enum", LIST},
    {"example", NOTE},
    {"examples", NOTE},
    {"exclusiveMaximum", NUMBER},
    {"exclusiveMinimum", NUMBER},
    {"externalDocs", NOTE},
    {"format", STRING},
    {"if", SCHEMA},
    {"items", SCHEMA},
    {"maxContains", COUNT},
    {"maxItems", COUNT},
    {"maxLength", COUNT},
    {"maxProperties", COUNT},
    {"maximum", NUMBER},
    {"minContains", COUNT},
    {"minItems", COUNT},
    {"minLength", COUNT},
    {"minProperties", COUNT},
    {"minimum", NUMBER},
    {"multipleOf", POSITIVE},
    {"not", SCHEMA},
    {"oneOf", SCHEMAS},
    {"pattern", STRING},
    {"patternProperties", SCHEMA_MAP},
    {"prefixItems", SCHEMAS},
    {"properties", SCHEMA_MAP},
    {"propertyNames", SCHEMA},
    {"readOnly", NOTE},
    {"required", NAMES},
    {"then", SCHEMA},
    {"title", NOTE},
    {"type", TYPES},
    {"uniqueItems", FLAG},
    {"writeOnly", NOTE},
};

static const char *const types[] = {"null",   "boolean", "integer", "number",
                                    "string", "array",   "object"};

/* ---- places ---- */

static size_t slot_of(const qn_schema_doc *d, const json_t *schema)
{
    size_t i = (size_t)qn_hash(&schema, sizeof(const json_t *), 0) & (d->table_size - 1);
    while (d->table[i] && d->places[d->table[i] - 1].schema != schema)
        i = (i + 1) & (d->table_size - 1);
    return i;
}

static const qn_schema_place *place_of(const qn_schema_doc *d, const json_t *schema)
{
    size_t i = d->table ? slot_of(d, schema) : 0;
    return d->table && d->table[i] ? &d->places[d->table[i] - 1] : NULL;
}

/* Booleans have no place: jansson has one of each. */
static qn_status add_place(qn_schema_doc *d, qn_schema_place p, qn_err *err)
{
    if (!json_is_object(p.schema) || place_of(d, p.schema))
        return QN_OK;
    if (!qn_grow(&d->places, &d->places_cap, d->n_places + 1, sizeof *d->places, QN_MEM_REQUEST))
        return qn_fail_nomem(err, (d->n_places + 1) * sizeof *d->places);
    if (2 * (d->n_places + 1) > d->table_size) {
        size_t n = QN_MAX((size_t)64, 2 * d->table_size);
        uint32_t *table = qn_calloc(n, sizeof *table, QN_MEM_REQUEST);
        if (!table)
            return qn_fail_nomem(err, n * sizeof *table);
        qn_free(d->table);
        d->table = table;
        d->table_size = n;
        for (uint32_t i = 0; i < d->n_places; i++)
            d->table[slot_of(d, d->places[i].schema)] = i + 1;
    }
    if (d->n_places == 0 || json_is_string(json_object_get(p.schema, "$id")))
        p.base = (uint32_t)d->n_places;
    d->places[d->n_places++] = p;
    d->table[slot_of(d, p.schema)] = (uint32_t)d->n_places;
    return QN_OK;
}

static void add_token(qn_str *out, const char *token)
{
    qn_str_addc(out, '/');
    for (; *token; token++)
        if (*token == '~' || *token == '/')
            qn_str_adds(out, *token == '~' ? "~0" : "~1");
        else
            qn_str_addc(out, *token);
}

/* Longer ones keep their begin: of "#/properties/a/..." the message must still be seen. */
#define POINTER_BYTES 160

static void add_pointer(const qn_schema_doc *d, qn_str *out, const json_t *schema, const char *key)
{
    uint32_t path[QN_LIMIT_SCHEMA_DEPTH + 2];
    size_t n = 0;
    const qn_schema_place *own = place_of(d, schema);
    for (; own && own->parent != own - d->places && n < QN_COUNT(path);
         own = &d->places[own->parent])
        path[n++] = (uint32_t)(own - d->places);
    qn_str_addc(out, '#');
    while (d->places && n--) {
        const qn_schema_place *p = &d->places[path[n]];
        if (p->key)
            add_token(out, p->key);
        if (p->member)
            add_token(out, p->member);
        if (p->index != NO_INDEX)
            qn_str_addf(out, "/%u", p->index);
    }
    if (key)
        add_token(out, key);
    if (out->n > POINTER_BYTES && !out->failed)
        (void)snprintf(out->p + POINTER_BYTES - 3, 4, "...");
}

qn_status qn_schema_fail(const qn_schema_doc *d, qn_err *err, qn_status s, const json_t *schema,
                         const char *key, const char *fmt, ...)
{
    char message[256];
    qn_str pointer = {0};
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    add_pointer(d, &pointer, schema, key);
    (void)qn_fail(err, s, "%s: %s", pointer.failed ? "#" : pointer.p, message);
    qn_str_fini(&pointer);
    return s;
}

qn_status qn_schema_spend(qn_schema_doc *d, uint64_t n, const json_t *schema, qn_err *err)
{
    d->steps += n;
    if (d->steps <= QN_LIMIT_SCHEMA_STEPS)
        return QN_OK;
    return qn_schema_fail(d, err, QN_E_TOO_LONG, schema, NULL,
                          "found a schema that takes more than %d steps to take apart",
                          QN_LIMIT_SCHEMA_STEPS);
}

void *qn_schema_alloc(qn_schema_doc *d, size_t n, size_t size)
{
    size_t bytes;
    return qn_mul_size(n, size, &bytes) ? qn_arena_alloc(&d->memory, QN_MAX(bytes, (size_t)1))
                                        : NULL;
}

qn_status qn_schema_no_memory(const qn_schema_doc *d, qn_err *err)
{
    if (d->memory.bytes > QN_LIMIT_SCHEMA_MEMORY / 2)
        return qn_fail(err, QN_E_TOO_LONG,
                       "#: found a schema that takes more than %d bytes of memory",
                       QN_LIMIT_SCHEMA_MEMORY);
    return qn_fail_nomem(err, d->memory.bytes);
}

/* ---- keywords ---- */

static const json_t *member(const json_t *o, const char *key)
{
    return json_object_get(o, key);
}

static int shape_of(const char *key)
{
    size_t low = 0, high = QN_COUNT(keywords);
    while (low < high) {
        size_t mid = (low + high) / 2;
        int c = strcmp(key, keywords[mid].name);
        if (c == 0)
            return keywords[mid].shape;
        if (c < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return key[0] == 'x' && key[1] == '-' ? NOTE : -1;
}

static bool is_type(const json_t *v)
{
    for (size_t i = 0; json_is_string(v) && i < QN_COUNT(types); i++)
        if (strcmp(json_string_value(v), types[i]) == 0)
            return true;
    return false;
}

static bool is_text(const json_t *v)
{
    return json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v);
}

static bool are_strings(const json_t *v)
{
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!is_text(json_array_get(v, i)))
            return false;
    return json_is_array(v);
}

static bool are_types(const json_t *v)
{
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!is_type(json_array_get(v, i)))
            return false;
    return is_type(v) || json_array_size(v);
}

static bool is_schema(const json_t *v)
{
    return json_is_object(v) || json_is_boolean(v);
}

static bool is_count(const json_t *v)
{
    double d = json_number_value(v);
    return json_is_number(v) && d >= 0 && d <= 9e15 && d == (double)(uint64_t)d;
}

/* NULL: v is one; else what is wanted. */
static const char *mismatch(int kind, const json_t *v)
{
    switch (kind) {
    case SCHEMA:
        return is_schema(v) ? NULL : "a schema";
    case SCHEMAS:
        return json_array_size(v) ? NULL : "an array of schemas";
    case SCHEMA_MAP:
        return json_is_object(v) ? NULL : "an object of schemas";
    case COUNT:
        return is_count(v) ? NULL : "an integer of 0 or more";
    case NUMBER:
        return json_is_number(v) ? NULL : "a number";
    case POSITIVE:
        return json_number_value(v) > 0 ? NULL : "a number over 0";
    case STRING:
        return is_text(v) ? NULL : "a string without U+0000";
    case FLAG:
        return json_is_boolean(v) ? NULL : "true or false";
    case TYPES:
        return are_types(v) ? NULL : "the name of a type, or an array of them";
    case NAMES:
        return are_strings(v) ? NULL : "an array of strings without U+0000";
    case NAMES_MAP:
        return json_is_object(v) ? NULL : "an object of arrays of strings";
    case LIST:
        return json_is_array(v) ? NULL : "an array";
    default:
        return NULL;
    }
}

/* The schemas in a keyword's value come into the table. */
static qn_status add_children(qn_schema_doc *d, uint32_t parent, const char *key, int kind,
                              const json_t *v, qn_err *err)
{
    const json_t *schema = d->places[parent].schema;
    qn_schema_place p = {.schema = v, .parent = parent, .base = d->places[parent].base, .key = key};
    p.index = NO_INDEX;
    if (kind == SCHEMA)
        return add_place(d, p, err);
    for (uint32_t i = 0; i < json_array_size(v); i++) {
        p.schema = json_array_get(v, i);
        p.index = i;
        if (!is_schema(p.schema))
            return qn_schema_fail(d, err, QN_E_ARG, schema, key, "found %s at %u, want a schema",
                                  qn_json_type_name(p.schema), i);
        QN_TRY(add_place(d, p, err));
    }
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)v, name, value)
    {
        p.schema = value;
        p.member = name;
        if (kind == SCHEMA_MAP && !is_schema(value))
            return qn_schema_fail(d, err, QN_E_ARG, schema, key, "%s: found %s, want a schema",
                                  name, qn_json_type_name(value));
        if (kind == NAMES_MAP && !are_strings(value))
            return qn_schema_fail(d, err, QN_E_ARG, schema, key,
                                  "%s: found %s, want an array of strings", name,
                                  qn_json_type_name(value));
        if (kind == SCHEMA_MAP)
            QN_TRY(add_place(d, p, err));
    }
    return QN_OK;
}

/* Checks all schemas from the table's entry i on; those found meanwhile join its end. */
static qn_status walk(qn_schema_doc *d, uint32_t i, qn_err *err)
{
    for (; i < d->n_places; i++) {
        const json_t *schema = d->places[i].schema;
        const char *key;
        json_t *v;
        json_object_foreach((json_t *)schema, key, v)
        {
            int kind = shape_of(key);
            if (kind < 0)
                return qn_schema_fail(d, err, QN_E_UNSUPPORTED, schema, key,
                                      "found a keyword that cannot be enforced");
            const char *wanted = mismatch(kind, v);
            if (wanted)
                return qn_schema_fail(d, err, QN_E_ARG, schema, key, "found %s, want %s",
                                      qn_json_type_name(v), wanted);
            if (kind == SCHEMA || kind == SCHEMAS || kind == SCHEMA_MAP || kind == NAMES_MAP)
                QN_TRY(add_children(d, i, key, kind, v, err));
        }
    }
    return QN_OK;
}

bool qn_schema_says(const json_t *schema, const char *but)
{
    static const char *const silent[] = {"$anchor", "$defs", "$id", "$schema", "definitions"};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)schema, key, v)
    {
        bool is_silent = shape_of(key) == NOTE || (but && strcmp(key, but) == 0);
        for (size_t i = 0; i < QN_COUNT(silent); i++)
            is_silent |= strcmp(key, silent[i]) == 0;
        if (!is_silent)
            return true;
    }
    return false;
}

/* ---- references ---- */

/* A reference against the address of the document: what stands before the last '/' of it, unless it has a scheme. */
static void add_address(qn_str *out, const char *base, const char *ref, size_t n)
{
    const char *slash = strrchr(base, '/'), *host = strstr(base, "://");
    if (n && ref[0] == '/' && host)
        slash = strchr(host + 3, '/');
    if (!memchr(ref, ':', n) && slash)
        qn_str_add(out, base, (size_t)(slash - base) + !(n && ref[0] == '/'));
    qn_str_add(out, ref, n);
}

/* The schema whose $id is this address; NULL: none here. */
static const qn_schema_place *find_address(const qn_schema_doc *d, const char *ref, size_t n,
                                           bool *has_failed)
{
    const json_t *id = member(d->root, "$id");
    const char *base = id ? json_string_value(id) : "";
    const qn_schema_place *found = NULL;
    qn_str want = {0}, have = {0};
    add_address(&want, base, ref, n);
    for (size_t i = 0; i < d->n_places && !found; i++) {
        const char *own = json_string_value(member(d->places[i].schema, "$id"));
        qn_str_clear(&have);
        if (own)
            add_address(&have, base, own, strcspn(own, "#"));
        if (own && !have.failed && !want.failed && have.n == want.n &&
            (!have.n || memcmp(have.p, want.p, have.n) == 0))
            found = &d->places[i];
    }
    *has_failed = want.failed || have.failed;
    qn_str_fini(&want);
    qn_str_fini(&have);
    return found;
}

/* %xx of a fragment; false: not two digits. */
static bool add_unescaped(qn_str *out, const char *p)
{
    static const char hex[] = "0123456789abcdef";
    for (; *p; p++) {
        if (*p != '%') {
            qn_str_addc(out, *p);
            continue;
        }
        const char *high = p[1] ? strchr(hex, p[1] | (p[1] >= 'A' ? 0x20 : 0)) : NULL;
        const char *low = high && p[2] ? strchr(hex, p[2] | (p[2] >= 'A' ? 0x20 : 0)) : NULL;
        if (!low || high == low + 16)
            return false;
        qn_str_addc(out, (char)((high - hex) << 4 | (low - hex)));
        p += 2;
    }
    return true;
}

/* Follows a JSON pointer from v; NULL: it leads nowhere. */
static const json_t *follow(const json_t *v, const char *p, bool *has_failed)
{
    qn_str token = {0};
    while (v && *p == '/') {
        uint64_t i;
        qn_str_clear(&token);
        for (p++; *p && *p != '/'; p++)
            if (*p == '~' && (p[1] == '0' || p[1] == '1'))
                qn_str_addc(&token, *++p == '0' ? '~' : '/');
            else
                qn_str_addc(&token, *p);
        if (token.failed)
            v = NULL;
        else if (json_is_array(v))
            v = qn_parse_u64(token.p ? token.p : "", token.n, UINT32_MAX, &i) ? json_array_get(v, i)
                                                                              : NULL;
        else
            v = member(v, token.p ? token.p : "");
    }
    *has_failed = token.failed;
    qn_str_fini(&token);
    return *p ? NULL : v;
}

static const json_t *find_anchor(const qn_schema_doc *d, uint32_t base, const char *name)
{
    for (size_t i = 0; i < d->n_places; i++) {
        const json_t *anchor = member(d->places[i].schema, "$anchor");
        if (d->places[i].base == base && anchor && strcmp(json_string_value(anchor), name) == 0)
            return d->places[i].schema;
    }
    return NULL;
}

qn_status qn_schema_resolve(qn_schema_doc *d, const json_t *schema, const json_t **out, qn_err *err)
{
    const char *ref = json_string_value(member(schema, "$ref"));
    const qn_schema_place *from = place_of(d, schema), *base;
    size_t n = strcspn(ref, "#");
    qn_str fragment = {0};
    const json_t *v = NULL;
    bool is_lost = false;
    *out = NULL;
    QN_ASSERT(from);
    uint32_t parent = (uint32_t)(from - d->places);
    base = n ? find_address(d, ref, n, &is_lost) : &d->places[from->base];
    if (is_lost)
        return qn_fail_nomem(err, strlen(ref));
    if (!base)
        return qn_schema_fail(d, err, QN_E_UNSUPPORTED, schema, "$ref",
                              "found a reference to another document, which is not fetched");
    uint32_t base_index = (uint32_t)(base - d->places);
    bool ok = add_unescaped(&fragment, ref + n + (ref[n] == '#')), has_failed = fragment.failed;
    if (ok && !fragment.failed)
        v = !fragment.n            ? base->schema
            : fragment.p[0] == '/' ? follow(base->schema, fragment.p, &has_failed)
                                   : find_anchor(d, base_index, fragment.p);
    qn_str_fini(&fragment);
    if (has_failed)
        return qn_fail_nomem(err, strlen(ref));
    if (!is_schema(v))
        return qn_schema_fail(d, err, QN_E_ARG, schema, "$ref", "found %s, want a schema",
                              v ? qn_json_type_name(v) : "a reference to nothing");
    qn_schema_place p = {.schema = v, .parent = parent, .base = base_index, .key = "$ref"};
    p.index = NO_INDEX;
    uint32_t first = (uint32_t)d->n_places;
    QN_TRY(add_place(d, p, err));
    QN_TRY(walk(d, first, err));
    *out = v;
    return QN_OK;
}

/* ---- patterns ---- */

struct qn_schema_regex {
    const char *text;
    qn_regex *parsed;
};

static struct qn_schema_regex *regex_slot(const qn_schema_doc *d, const char *text)
{
    size_t i = (size_t)qn_hash(&text, sizeof(const char *), 0) & (d->regexes_size - 1);
    while (d->regexes[i].text && d->regexes[i].text != text)
        i = (i + 1) & (d->regexes_size - 1);
    return &d->regexes[i];
}

static qn_status grow_regexes(qn_schema_doc *d, qn_err *err)
{
    struct qn_schema_regex *old = d->regexes;
    size_t n_old = d->regexes_size, n = QN_MAX((size_t)16, 2 * n_old);
    if (2 * (d->n_regexes + 1) <= n_old)
        return QN_OK;
    d->regexes = qn_calloc(n, sizeof *d->regexes, QN_MEM_REQUEST);
    if (!d->regexes) {
        d->regexes = old;
        return qn_fail_nomem(err, n * sizeof *d->regexes);
    }
    d->regexes_size = n;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].text)
            *regex_slot(d, old[i].text) = old[i];
    qn_free(old);
    return QN_OK;
}

qn_status qn_schema_regex(qn_schema_doc *d, const json_t *schema, const char *key, const char *text,
                          bool is_format, const qn_regex **out, qn_err *err)
{
    const char *low, *high;
    qn_str re = {0};
    qn_err why = {0};
    QN_TRY(grow_regexes(d, err));
    struct qn_schema_regex *slot = regex_slot(d, text);
    *out = slot->parsed;
    if (slot->text)
        return QN_OK;
    bool is_known = true, is_any = false;
    if (is_format) {
        qn_str_adds(&re, "^(?:");
        is_known = qn_string_format(text, &re);
        is_any = re.n == strlen("^(?:");
        qn_str_adds(&re, ")$");
        if (!is_known && qn_number_format(text, &low, &high))
            is_known = is_any = true;
    } else {
        qn_str_adds(&re, text);
    }
    qn_status s = QN_OK;
    if (!is_known)
        s = qn_fail(&why, QN_E_UNSUPPORTED, "found the format '%.60s', which cannot be enforced",
                    text);
    else if (re.failed)
        s = qn_fail_nomem(&why, strlen(text));
    else if (!is_any)
        s = qn_regex_parse(&slot->parsed, re.p ? re.p : "", re.n, &why);
    qn_str_fini(&re);
    if (s != QN_OK)
        return qn_schema_fail(d, err, s, schema, key, "%s", why.msg);
    slot->text = text;
    d->n_regexes++;
    *out = slot->parsed;
    return QN_OK;
}

/* ---- the document ---- */

struct qn_schema_made {
    struct qn_schema_made *next;
    const void *part;
    int kind;
    const json_t *schema;
};

const json_t *qn_schema_made(const qn_schema_doc *d, const json_t *origin, const void *part,
                             int kind)
{
    const qn_schema_place *from = place_of(d, origin);
    for (const struct qn_schema_made *m = from ? from->made : NULL; m; m = m->next)
        if (m->part == part && m->kind == kind)
            return m->schema;
    return NULL;
}

qn_status qn_schema_take(qn_schema_doc *d, const json_t *origin, const char *key, const void *part,
                         int kind, json_t *made, qn_err *err)
{
    struct qn_schema_made *m;
    const qn_schema_place *from = place_of(d, origin);
    QN_ASSERT(from);
    if (!made || json_array_append_new(d->made, made) != 0)
        return qn_fail_nomem(err, d->memory.bytes);
    uint32_t parent = (uint32_t)(from - d->places);
    qn_schema_place p = {.schema = made, .key = key, .index = NO_INDEX, .parent = parent};
    p.base = from->base;
    m = qn_schema_alloc(d, 1, sizeof *m);
    if (!m)
        return qn_schema_no_memory(d, err);
    *m = (struct qn_schema_made){d->places[parent].made, part, kind, made};
    d->places[parent].made = m;
    return add_place(d, p, err);
}

qn_status qn_schema_doc_init(qn_schema_doc *d, const char *json, size_t n, qn_err *err)
{
    *d = (qn_schema_doc){0};
    qn_arena_init(&d->memory, QN_LIMIT_SCHEMA_MEMORY, QN_MEM_REQUEST);
    if (n > QN_LIMIT_SCHEMA_BYTES)
        return qn_fail(err, QN_E_TOO_LONG, "#: found a schema of %zu bytes, limit %d", n,
                       QN_LIMIT_SCHEMA_BYTES);
    qn_status s = qn_json_parse(&d->root, json, n, QN_LIMIT_SCHEMA_DEPTH, "#", err);
    if (s == QN_E_FORMAT && err)
        err->status = QN_E_ARG;
    if (s != QN_OK)
        return s == QN_E_FORMAT ? QN_E_ARG : s;
    if (!is_schema(d->root))
        return qn_fail(err, QN_E_ARG, "#: found %s, want a schema", qn_json_type_name(d->root));
    d->made = json_array();
    if (!d->made)
        return qn_fail_nomem(err, sizeof *d->made);
    QN_TRY(add_place(d, (qn_schema_place){.schema = d->root, .index = NO_INDEX}, err));
    return walk(d, 0, err);
}

void qn_schema_doc_fini(qn_schema_doc *d)
{
    for (size_t i = 0; i < d->regexes_size; i++)
        qn_regex_free(d->regexes[i].parsed);
    qn_free(d->regexes);
    json_decref(d->made);
    json_decref(d->root);
    qn_free(d->places);
    qn_free(d->table);
    qn_arena_fini(&d->memory);
}
