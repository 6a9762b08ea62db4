/* SPDX-License-Identifier: Apache-2.0
 * json.c - limits, errors and typed fields around jansson. */
#include "base/json.h"

#include "base/file.h"
#include "base/limits.h"
#include "base/mem.h"
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* ---- memory ---- */

/* jansson 2.14 does not survive a failed allocation while it parses: its scanner ignores that a
 * string could not grow and then writes past it. So a parse never sees one: the allocator jumps out
 * of it, and what the parse had taken, kept in a list until it ends, is freed here. */

typedef struct block {
    struct block *prev, *next; /* NULL outside a parse */
} block;
_Static_assert(sizeof(block) % _Alignof(max_align_t) == 0, "what follows is aligned");

typedef struct parsing {
    jmp_buf no_memory;
    block taken;         /* ring */
    size_t bytes, limit; /* that were asked for; at most (0: any number) */
} parsing;

static _Thread_local parsing *current; /* this thread's parse */

static void *json_alloc(size_t n)
{
    size_t bytes;
    bool ok = qn_add_size(n, sizeof(block), &bytes);
    if (ok && current)
        ok = qn_add_size(current->bytes, bytes, &current->bytes) &&
             (!current->limit || current->bytes <= current->limit);
    block *b = ok ? qn_alloc(bytes, QN_MEM_MISC) : NULL;
    if (!b && current)
        longjmp(current->no_memory, 1);
    if (!b)
        return NULL;
    *b = (block){0};
    if (current) {
        b->prev = &current->taken;
        b->next = current->taken.next;
        b->prev->next = b->next->prev = b;
    }
    return b + 1;
}

static void json_free(void *p)
{
    if (!p)
        return;
    block *b = (block *)p - 1;
    if (b->prev) {
        b->prev->next = b->next;
        b->next->prev = b->prev;
    }
    qn_free(b);
}

/* Before main, so that no value is made by one allocator and freed by the other. */
__attribute__((constructor)) static void set_up(void)
{
    size_t seed = 0;
    json_set_alloc_funcs(json_alloc, json_free);
    /* keys are hashed with it, so that no text is made of keys that all collide */
    json_object_seed(getrandom(&seed, sizeof seed, 0) == sizeof seed ? seed : 0);
}

/* json_loadb within `limit` bytes of memory (0: any). *bytes: those taken; *no_memory: it ran out. */
static json_t *load(const char *text, size_t n, json_error_t *e, size_t limit, size_t *bytes,
                    bool *no_memory)
{
    parsing p;
    json_t *volatile v = NULL;
    p.taken.prev = p.taken.next = &p.taken;
    p.bytes = 0;
    p.limit = limit;
    *no_memory = setjmp(p.no_memory) != 0;
    if (!*no_memory) {
        current = &p;
        v = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, e);
    }
    current = NULL;
    *bytes = p.bytes;
    for (block *b = p.taken.next, *next; b != &p.taken; b = next) {
        next = b->next;
        if (*no_memory)
            qn_free(b);
        else
            *b = (block){0};
    }
    return v;
}

/* ---- parsing ---- */

/* Deepest nesting, most keys of one object down to COUNTED levels, and an upper bound of the number of values, counted before
 * jansson sees the text: it recurses with the first and takes some hundred bytes for each of the last. */
#define COUNTED QN_LIMIT_JSON_DEPTH

typedef struct sizes {
    size_t depth, n_keys, n_values;
} sizes;

static sizes measure(const char *p, size_t n)
{
    size_t at = 0, keys[COUNTED + 1] = {0};
    bool in_string = false;
    sizes z = {.n_values = 1};
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == ',') {
            z.n_values++;
        } else if (c == ':' && at <= COUNTED) {
            keys[at]++;
            z.n_keys = QN_MAX(z.n_keys, keys[at]);
        } else if (c == '{' || c == '[') {
            z.n_values++;
            at++;
            z.depth = QN_MAX(z.depth, at);
            if (at <= COUNTED)
                keys[at] = 0;
        } else if ((c == '}' || c == ']') && at) {
            at--;
        }
    }
    return z;
}

qn_status qn_json_parse(json_t **out, const char *text, size_t n, size_t max_depth,
                        const char *name, qn_err *err)
{
    size_t bytes;
    return qn_json_parse_within(out, text, n, &(qn_json_bounds){.depth = max_depth}, &bytes, name,
                                err);
}

qn_status qn_json_parse_within(json_t **out, const char *text, size_t n, const qn_json_bounds *b,
                               size_t *bytes, const char *name, qn_err *err)
{
    size_t max_depth = b->depth ? b->depth : QN_LIMIT_JSON_DEPTH;
    sizes z = measure(text, n);
    *out = NULL;
    *bytes = 0;
    if (z.depth > max_depth)
        return qn_fail(err, QN_E_FORMAT, "%s: JSON nested deeper than %zu levels", name, max_depth);
    if (b->keys && z.n_keys > b->keys)
        return qn_fail(err, QN_E_FORMAT, "%s: a JSON object of %zu keys, limit %zu", name, z.n_keys,
                       b->keys);
    if (z.n_values > QN_LIMIT_JSON_VALUES)
        return qn_fail(err, QN_E_FORMAT, "%s: JSON of about %zu values, limit %d", name, z.n_values,
                       QN_LIMIT_JSON_VALUES);
    json_error_t e;
    bool no_memory;
    json_t *v = load(text, n, &e, b->bytes, bytes, &no_memory);
    if (no_memory && b->bytes && *bytes > b->bytes)
        return qn_fail(err, QN_E_FORMAT, "%s: JSON takes more than %zu bytes of memory", name,
                       b->bytes);
    if (no_memory)
        return qn_fail_nomem(err, n);
    if (!v)
        return qn_fail(err, QN_E_FORMAT, "%s: not valid JSON: %s (line %d, column %d)", name,
                       e.text, e.line, e.column);
    *out = v;
    return QN_OK;
}

qn_status qn_json_load(json_t **out, const char *path, size_t max_bytes, qn_err *err)
{
    qn_str text = {0};
    *out = NULL;
    qn_status s = qn_file_read(&text, path, max_bytes, err);
    if (s == QN_OK)
        s = qn_json_parse(out, text.p ? text.p : "", text.n, 0, path, err);
    qn_str_fini(&text);
    return s;
}

const char *qn_json_type_name(const json_t *v)
{
    static const char *const names[] = {"an object", "an array", "a string", "an integer",
                                        "a number",  "true",     "false",    "null"};
    return v ? names[json_typeof(v)] : "nothing";
}

/* The field's value, or NULL when missing or null. */
static const json_t *field(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

qn_status qn_json_u32(const json_t *o, const char *where, const char *key, uint32_t min,
                      uint32_t max, uint32_t *out, qn_err *err)
{
    const json_t *v = field(o, key);
    if (!v)
        return QN_OK;
    json_int_t i = json_integer_value(v);
    if (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) &&
        fabs(json_real_value(v)) < 1e15)
        i = (json_int_t)json_real_value(v);
    else if (!json_is_integer(v))
        return qn_fail(err, QN_E_FORMAT, "%s: %s: found %s, want an integer", where, key,
                       qn_json_type_name(v));
    if (i < (json_int_t)min || i > (json_int_t)max)
        return qn_fail(err, QN_E_FORMAT, "%s: %s: found %lld, want %u..%u", where, key,
                       (long long)i, min, max);
    *out = (uint32_t)i;
    return QN_OK;
}

qn_status qn_json_f32(const json_t *o, const char *where, const char *key, double min, double max,
                      float *out, qn_err *err)
{
    const json_t *v = field(o, key);
    if (!v)
        return QN_OK;
    if (!json_is_number(v))
        return qn_fail(err, QN_E_FORMAT, "%s: %s: found %s, want a number", where, key,
                       qn_json_type_name(v));
    double d = json_number_value(v);
    if (!(d >= min && d <= max))
        return qn_fail(err, QN_E_FORMAT, "%s: %s: found %g, want %g..%g", where, key, d, min, max);
    *out = (float)d;
    return QN_OK;
}

qn_status qn_json_bool(const json_t *o, const char *where, const char *key, bool *out, qn_err *err)
{
    const json_t *v = field(o, key);
    if (!v)
        return QN_OK;
    if (!json_is_boolean(v))
        return qn_fail(err, QN_E_FORMAT, "%s: %s: found %s, want true or false", where, key,
                       qn_json_type_name(v));
    *out = json_is_true(v);
    return QN_OK;
}

qn_status qn_json_str(const json_t *o, const char *where, const char *key, const char **out,
                      qn_err *err)
{
    const json_t *v = field(o, key);
    if (!v)
        return QN_OK;
    if (!json_is_string(v))
        return qn_fail(err, QN_E_FORMAT, "%s: %s: found %s, want a string", where, key,
                       qn_json_type_name(v));
    *out = json_string_value(v);
    return QN_OK;
}

typedef struct writer {
    qn_str *out;
    bool in_string;
} writer;

/* Gets each quote and each number in a call of its own; a number is written in its shortest
 * form. */
static int add_piece(const char *p, size_t n, void *arg)
{
    writer *w = arg;
    char shortest[40];
    double v;
    if (n == 1 && *p == '"')
        w->in_string = !w->in_string;
    if (!w->in_string && memchr(p, '.', n) && qn_parse_f64(p, n, &v))
        qn_str_add(w->out, shortest, qn_format_f64(shortest, v));
    else
        qn_str_add(w->out, p, n);
    return w->out->failed ? -1 : 0;
}

void qn_json_write(qn_str *out, const json_t *v)
{
    const size_t flags = JSON_ENCODE_ANY | JSON_REAL_PRECISION(17);
    writer w = {.out = out};
    if (json_dump_callback(v, add_piece, &w, flags) != 0)
        out->failed = true;
}
