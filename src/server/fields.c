/* SPDX-License-Identifier: Apache-2.0
 * fields.c - a table of fields, read into a struct. */
#include "server/fields.h"

#include "base/limits.h"
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *wanted(qn_field_kind kind)
{
    static const char *const names[] = {"true or false", "an integer", "an integer", "a number",
                                        "a string",      "an array",   "an object",  "any value"};
    return names[kind];
}

static qn_status wrong_type(const qn_field *f, const json_t *v, qn_err *err)
{
    return qn_fail(err, QN_E_ARG, "%s: found %s, want %s", f->name, qn_json_type_name(v),
                   wanted(f->kind));
}

/* Whole numbers only; 1.0 is one. */
static bool whole(const json_t *v, json_int_t *out)
{
    double d = json_real_value(v);
    if (json_is_integer(v))
        *out = json_integer_value(v);
    else if (json_is_real(v) && d == floor(d) && fabs(d) < 9e15)
        *out = (json_int_t)d;
    else
        return false;
    return true;
}

static qn_status check_range(const qn_field *f, double v, double min, double max, qn_err *err)
{
    char found[40], low[40], high[40];
    if (v >= min && v <= max)
        return QN_OK;
    found[qn_format_f64(found, v)] = low[qn_format_f64(low, min)] = 0;
    high[qn_format_f64(high, max)] = 0;
    return qn_fail(err, QN_E_ARG, "%s: found %s, want %s to %s", f->name, found, low, high);
}

static qn_status read_int(const qn_field *f, const json_t *v, int *out, qn_err *err)
{
    json_int_t i;
    bool limited = f->min != 0 || f->max != 0;
    double min = limited ? f->min : INT_MIN, max = limited ? f->max : INT_MAX;
    if (!whole(v, &i))
        return wrong_type(f, v, err);
    if (i < (json_int_t)min || i > (json_int_t)max)
        return qn_fail(err, QN_E_ARG, "%s: found %lld, want %.0f to %.0f", f->name, (long long)i,
                       min, max);
    *out = (int)i;
    return QN_OK;
}

static qn_status read_u64(const qn_field *f, const json_t *v, uint64_t *out, qn_err *err)
{
    json_int_t i;
    if (!whole(v, &i))
        return wrong_type(f, v, err);
    if (f->min != 0 || f->max != 0)
        QN_TRY(check_range(f, (double)i, f->min, f->max, err));
    *out = (uint64_t)i;
    return QN_OK;
}

static qn_status read_f32(const qn_field *f, const json_t *v, float *out, qn_err *err)
{
    bool limited = f->min != 0 || f->max != 0;
    if (!json_is_number(v))
        return wrong_type(f, v, err);
    double d = json_number_value(v);
    QN_TRY(check_range(f, d, limited ? f->min : -3e38, limited ? f->max : 3e38, err));
    *out = (float)d;
    return QN_OK;
}

static qn_status read_str(const qn_field *f, const json_t *v, const char **out, qn_err *err)
{
    if (!json_is_string(v))
        return wrong_type(f, v, err);
    size_t n = json_string_length(v);
    if (strlen(json_string_value(v)) != n)
        return qn_fail(err, QN_E_ARG, "%s: found a NUL character in it, want none", f->name);
    if ((f->min != 0 || f->max != 0) && ((double)n < f->min || (double)n > f->max))
        return qn_fail(err, QN_E_ARG, "%s: found %zu bytes, want %.0f to %.0f", f->name, n, f->min,
                       f->max);
    *out = json_string_value(v);
    return QN_OK;
}

static qn_status read_field(const qn_field *f, const json_t *v, void *at, qn_err *err)
{
    switch (f->kind) {
    case QN_FIELD_BOOL:
        if (!json_is_boolean(v))
            return wrong_type(f, v, err);
        *(bool *)at = json_is_true(v);
        return QN_OK;
    case QN_FIELD_INT:
        return read_int(f, v, at, err);
    case QN_FIELD_U64:
        return read_u64(f, v, at, err);
    case QN_FIELD_F32:
        return read_f32(f, v, at, err);
    case QN_FIELD_STR:
        return read_str(f, v, at, err);
    case QN_FIELD_ARRAY:
    case QN_FIELD_OBJECT:
        if (f->kind == QN_FIELD_ARRAY ? !json_is_array(v) : !json_is_object(v))
            return wrong_type(f, v, err);
        break;
    case QN_FIELD_ANY:
        break;
    }
    *(const json_t **)at = v;
    return QN_OK;
}

qn_status qn_fields_read(const json_t *o, const qn_field *fields, size_t n, void *dest,
                         const char **param, qn_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_object_get(o, fields[i].name);
        if (!v || json_is_null(v))
            continue;
        qn_status s = read_field(&fields[i], v, (char *)dest + fields[i].at, err);
        if (s != QN_OK) {
            *param = fields[i].name;
            return s;
        }
    }
    return QN_OK;
}

static qn_status read_id(const char *name, const json_t *list, size_t i, int n_vocab, int32_t *out,
                         qn_err *err)
{
    const json_t *v = json_array_get(list, i);
    json_int_t id = json_integer_value(v);
    if (!json_is_integer(v))
        return qn_fail(err, QN_E_ARG, "%s[%zu]: found %s, want a token id", name, i,
                       qn_json_type_name(v));
    if (id < 0 || id >= n_vocab)
        return qn_fail(err, QN_E_ARG, "%s[%zu]: found %lld, want 0 to %d", name, i, (long long)id,
                       n_vocab - 1);
    *out = (int32_t)id;
    return QN_OK;
}

qn_status qn_fields_ids(const char *name, const json_t *list, int n_vocab, qn_arena *arena,
                        int32_t **ids, size_t *n_ids, qn_err *err)
{
    size_t n = json_array_size(list);
    int32_t *all = *ids = arena ? qn_arena_alloc(arena, (n + 1) * sizeof *all)
                                : qn_alloc_array(n + 1, sizeof *all, QN_MEM_REQUEST);
    qn_status s = all ? QN_OK : qn_fail_nomem(err, n * sizeof *all);
    for (size_t i = 0; s == QN_OK && i < n; i++)
        s = read_id(name, list, i, n_vocab, &all[i], err);
    *n_ids = n;
    if (s != QN_OK) {
        if (!arena)
            qn_release(all);
        *ids = NULL;
        *n_ids = 0;
    }
    return s;
}

qn_status qn_fields_stop(const char *name, const json_t *v, qn_arena *arena, qn_params *out,
                         qn_err *err)
{
    bool is_list = json_is_array(v);
    size_t n = is_list ? json_array_size(v) : 1;
    if (!is_list && !json_is_string(v))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want a string or an array of strings", name,
                       qn_json_type_name(v));
    if (n > QN_LIMIT_STOP_STRINGS)
        return qn_fail(err, QN_E_ARG, "%s: found %zu strings, want at most %d", name, n,
                       QN_LIMIT_STOP_STRINGS);
    const char **list = qn_arena_alloc(arena, (n + 1) * sizeof *list);
    if (!list)
        return qn_fail_nomem(err, n * sizeof *list);
    for (size_t i = 0; i < n; i++) {
        char item[48];
        (void)snprintf(item, sizeof item, "%s[%zu]", name, i);
        qn_field f = {item, QN_FIELD_STR, 0, 1, QN_LIMIT_STOP_BYTES};
        const json_t *s = is_list ? json_array_get(v, i) : v;
        QN_TRY(read_str(&f, s, &list[i], err));
    }
    out->stop = list;
    out->n_stop = n;
    return QN_OK;
}
