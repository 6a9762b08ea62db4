/* SPDX-License-Identifier: Apache-2.0
 * safetensors.c - the safetensors reader and the folders of Hugging Face. */
#include "format/safetensors.h"

#include "base/cursor.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- one file ---- */

/* Known to the format, not read here. */
static bool is_foreign_dtype(const char *name)
{
    static const char *const known[] = {"F4",      "F6_E2M3",     "F6_E3M2",     "F8_E5M2",
                                        "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "U16",
                                        "U32",     "U64",         "C64"};
    for (size_t i = 0; i < QN_COUNT(known); i++)
        if (strcmp(known[i], name) == 0)
            return true;
    return false;
}

/* A value of the header as an unsigned number. */
static bool as_u64(const json_t *v, uint64_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

/* A string without NUL inside. */
static const char *as_text(const json_t *v)
{
    const char *s = json_string_value(v);
    return s && strlen(s) == json_string_length(v) ? s : NULL;
}

static qn_status read_dtype(const json_t *o, const char *where, qn_dtype *out, qn_err *err)
{
    const json_t *v = json_object_get(o, "dtype");
    const char *name = as_text(v);
    if (!name)
        return qn_fail(err, QN_E_FORMAT, "%s: dtype: found %s, want a string", where,
                       qn_json_type_name(v));
    if (qn_dtype_from_safetensors(name, out))
        return QN_OK;
    return qn_fail(err, is_foreign_dtype(name) ? QN_E_UNSUPPORTED : QN_E_FORMAT,
                   "%s: dtype '%.32s' is not read here", where, name);
}

static qn_status read_shape(const json_t *o, const char *where, qn_tensor *t, qn_err *err)
{
    const json_t *shape = json_object_get(o, "shape");
    if (!json_is_array(shape))
        return qn_fail(err, QN_E_FORMAT, "%s: shape: found %s, want an array", where,
                       qn_json_type_name(shape));
    if (json_array_size(shape) > QN_MAX_DIMS)
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: %zu dimensions, want at most %d", where,
                       json_array_size(shape), QN_MAX_DIMS);
    size_t elements = 1;
    bool fits = true, is_empty = false;
    t->n_dims = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < t->n_dims; i++) {
        const json_t *v = json_array_get(shape, i);
        if (!as_u64(v, &t->dims[i]))
            return qn_fail(err, QN_E_FORMAT, "%s: shape[%" PRIu32 "]: found %s, want a size", where,
                           i, json_is_integer(v) ? "a negative number" : qn_json_type_name(v));
        is_empty = is_empty || t->dims[i] == 0;
        fits = fits && qn_mul_size(elements, t->dims[i], &elements);
    }
    if (is_empty)
        elements = 0;
    if ((!fits && !is_empty) ||
        !qn_mul_size(elements, qn_dtype_get(t->dtype)->block_bytes, &t->bytes))
        return qn_fail(err, QN_E_FORMAT, "%s: shape: size in bytes overflows", where);
    return QN_OK;
}

typedef struct data_section {
    const uint8_t *p;
    size_t n;
} data_section;

static qn_status read_offsets(const json_t *o, const char *where, data_section data, qn_tensor *t,
                              qn_err *err)
{
    const json_t *v = json_object_get(o, "data_offsets");
    uint64_t begin, end;
    if (json_array_size(v) != 2 || !as_u64(json_array_get(v, 0), &begin) ||
        !as_u64(json_array_get(v, 1), &end))
        return qn_fail(err, QN_E_FORMAT, "%s: data_offsets: want two sizes [begin, end]", where);
    if (begin > end || end > data.n)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: data_offsets [%" PRIu64 ", %" PRIu64
                       "] are past the end (data section of %zu bytes)",
                       where, begin, end, data.n);
    if (end - begin != t->bytes)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: data_offsets span %" PRIu64 " bytes, dtype and shape want %zu", where,
                       end - begin, t->bytes);
    t->data = data.p + begin;
    return QN_OK;
}

static qn_status read_tensor(const char *key, const json_t *o, const char *file, qn_arena *arena,
                             data_section data, qn_tensor *t, qn_err *err)
{
    char shown[100], where[256];
    (void)qn_short_name(shown, qn_slice_of(key));
    (void)snprintf(where, sizeof where, "%.96s: tensor '%s'", file, shown);
    if (!key[0] || strlen(key) > QN_MAX_NAME)
        return qn_fail(err, QN_E_FORMAT, "%s: name of %zu bytes, want 1..%d", where, strlen(key),
                       QN_MAX_NAME);
    if (!json_is_object(o))
        return qn_fail(err, QN_E_FORMAT, "%s: found %s, want an object", where,
                       qn_json_type_name(o));
    t->name = qn_arena_strndup(arena, key, strlen(key));
    if (!t->name)
        return qn_fail_nomem(err, strlen(key));
    QN_TRY(read_dtype(o, where, &t->dtype, err));
    QN_TRY(read_shape(o, where, t, err));
    QN_TRY(read_offsets(o, where, data, t, err));
    if (json_object_size(o) != 3)
        return qn_fail(err, QN_E_FORMAT, "%s: has %zu fields, want dtype, shape, data_offsets",
                       where, json_object_size(o));
    return QN_OK;
}

static qn_status check_metadata(json_t *o, const char *file, qn_err *err)
{
    const char *key;
    json_t *v;
    if (!json_is_object(o))
        return qn_fail(err, QN_E_FORMAT, "%s: __metadata__: found %s, want an object", file,
                       qn_json_type_name(o));
    json_object_foreach(o, key, v)
    {
        if (!json_is_string(v))
            return qn_fail(err, QN_E_FORMAT, "%s: __metadata__: '%.64s': found %s, want a string",
                           file, key, qn_json_type_name(v));
    }
    return QN_OK;
}

/* By place; an empty tensor before the one that starts where it stands. */
static int by_place(const void *a, const void *b)
{
    const qn_tensor *x = a, *y = b;
    const uint8_t *p = x->data, *q = y->data;
    return p != q ? (p > q) - (p < q) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The tensors, sorted by place, must fill the data section. */
static qn_status check_filled(const qn_tensor *t, size_t n, data_section data, const char *file,
                              qn_err *err)
{
    const uint8_t *at = data.p;
    char shown[100];
    for (size_t i = 0; i < n; i++) {
        const uint8_t *begin = t[i].data;
        if (begin != at)
            return qn_fail(err, QN_E_FORMAT,
                           "%s: tensor '%s': begins at %zu, the tensor before it ends at %zu", file,
                           qn_short_name(shown, qn_slice_of(t[i].name)), (size_t)(begin - data.p),
                           (size_t)(at - data.p));
        at += t[i].bytes;
    }
    if (at != data.p + data.n)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: the tensors end at %zu, the data section has %zu bytes", file,
                       (size_t)(at - data.p), data.n);
    return QN_OK;
}

static qn_status read_header(json_t *header, const char *file, qn_arena *arena, data_section data,
                             qn_tensor **tensors, size_t *n_tensors, qn_err *err)
{
    const char *key;
    json_t *v;
    size_t n = 0, bytes;
    if (!json_is_object(header))
        return qn_fail(err, QN_E_FORMAT, "%s: header is %s, want an object", file,
                       qn_json_type_name(header));
    qn_tensor *t = qn_mul_size(json_object_size(header), sizeof *t, &bytes)
                       ? qn_arena_alloc(arena, bytes)
                       : NULL;
    if (!t)
        return qn_fail(err, QN_E_NOMEM, "%s: no memory for %zu tensors", file,
                       json_object_size(header));
    json_object_foreach(header, key, v)
    {
        if (strcmp(key, "__metadata__") == 0) {
            QN_TRY(check_metadata(v, file, err));
            continue;
        }
        t[n] = (qn_tensor){0};
        QN_TRY(read_tensor(key, v, file, arena, data, &t[n], err));
        n++;
    }
    qsort(t, n, sizeof *t, by_place);
    QN_TRY(check_filled(t, n, data, file, err));
    *tensors = t;
    *n_tensors = n;
    return QN_OK;
}

qn_status qn_safetensors_parse(const void *data, size_t n, const char *name, qn_arena *arena,
                               qn_tensor **tensors, size_t *n_tensors, qn_err *err)
{
    qn_cursor c;
    uint64_t header_bytes;
    qn_slice text = {0};
    json_t *header;
    *tensors = NULL;
    *n_tensors = 0;
    qn_cursor_init(&c, data, n, name, err);
    qn_cursor_field(&c, "header");
    if (!qn_cursor_u64(&c, &header_bytes))
        return c.status;
    const char *foreign = qn_foreign_file(data, n);
    if (foreign)
        return qn_fail(err, QN_E_FORMAT, "%s: is %s, want a safetensors file", name, foreign);
    if (header_bytes > QN_SAFETENSORS_MAX_HEADER)
        return qn_fail(err, QN_E_FORMAT, "%s: header of %" PRIu64 " bytes, limit %u", name,
                       header_bytes, QN_SAFETENSORS_MAX_HEADER);
    if (!qn_cursor_bytes(&c, header_bytes, &text))
        return c.status;
    if (!text.n || text.p[0] != '{')
        return qn_fail(err, QN_E_FORMAT, "%s: header does not start with '{'", name);
    QN_TRY(qn_json_parse(&header, text.p, text.n, 8, name, err));
    data_section section = {c.p, qn_cursor_left(&c)};
    qn_status s = read_header(header, name, arena, section, tensors, n_tensors, err);
    json_decref(header);
    return s;
}

/* ---- a folder ---- */

static qn_status load_object(json_t **out, const char *dir, const char *name, qn_err *err)
{
    qn_str path = {0};
    *out = NULL;
    qn_status s = qn_path_join(&path, dir, name, err);
    if (s == QN_OK)
        s = qn_json_load(out, path.p, QN_CONFIG_MAX_BYTES, err);
    if (s == QN_OK && !json_is_object(*out)) {
        s = qn_fail(err, QN_E_FORMAT, "%s: found %s, want an object", path.p,
                    qn_json_type_name(*out));
        json_decref(*out);
        *out = NULL;
    }
    qn_str_fini(&path);
    return s;
}

static qn_status has_file(const char *dir, const char *name, bool *out, qn_err *err)
{
    qn_str path = {0};
    qn_status s = qn_path_join(&path, dir, name, err);
    *out = s == QN_OK && qn_file_exists(path.p);
    qn_str_fini(&path);
    return s;
}

/* Copies tensors that the file placed where their elements are not aligned (the format allows it; C does not). */
static qn_status align_tensors(qn_weights *w, qn_tensor *t, size_t n, qn_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if ((uintptr_t)t[i].data % qn_dtype_get(t[i].dtype)->block_bytes == 0 || !t[i].bytes)
            continue;
        void *copy = qn_arena_alloc(&w->copies, t[i].bytes);
        if (!copy)
            return qn_fail_nomem(err, t[i].bytes);
        memcpy(copy, t[i].data, t[i].bytes);
        t[i].data = copy;
    }
    return QN_OK;
}

/* Opens one file of the folder. weight_map NULL: any tensor may be in it. */
static qn_status open_shard(qn_weights *w, const char *name, const json_t *weight_map, qn_err *err)
{
    qn_str path = {0};
    const qn_file *f;
    qn_tensor *t;
    size_t n;
    qn_status s = qn_path_join(&path, w->path, name, err);
    if (s == QN_OK)
        s = qn_weights_map(w, path.p, &f, err);
    qn_str_fini(&path);
    if (s != QN_OK)
        return s;
    QN_TRY(qn_safetensors_parse(f->data, f->size, name, &w->arena, &t, &n, err));
    for (size_t i = 0; weight_map && i < n; i++) {
        const char *at = json_string_value(json_object_get(weight_map, t[i].name));
        char shown[100];
        if (!at || strcmp(at, name) != 0)
            return qn_fail(
                err, QN_E_FORMAT, "%s: tensor '%s': weight_map of the index has it %s%.96s", name,
                qn_short_name(shown, qn_slice_of(t[i].name)), at ? "in " : "nowhere", at ? at : "");
    }
    QN_TRY(align_tensors(w, t, n, err));
    return qn_weights_add(w, t, n, name, err);
}

#define INDEX "model.safetensors.index.json"

/* The distinct file names of weight_map as keys of an object. */
static qn_status shard_names(json_t *shards, json_t *weight_map, qn_err *err)
{
    const char *key;
    json_t *v;
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0)
        return qn_fail(err, QN_E_FORMAT, INDEX ": weight_map: found %s, want an object of tensors",
                       json_is_object(weight_map) ? "nothing in it"
                                                  : qn_json_type_name(weight_map));
    json_object_foreach(weight_map, key, v)
    {
        const char *name = as_text(v);
        if (!name)
            return qn_fail(err, QN_E_FORMAT,
                           INDEX ": weight_map: '%.96s': found %s, want a file name", key,
                           qn_json_type_name(v));
        if (json_object_get(shards, name))
            continue;
        if (!qn_ends_with(name, ".safetensors"))
            return qn_fail(err, QN_E_FORMAT,
                           INDEX ": weight_map: '%.96s': file '%.96s' does not end in .safetensors",
                           key, name);
        if (json_object_size(shards) == QN_MAX_SHARDS)
            return qn_fail(err, QN_E_FORMAT, INDEX ": more than %d files", QN_MAX_SHARDS);
        if (json_object_set_new(shards, name, json_true()) != 0)
            return qn_fail_nomem(err, strlen(name));
    }
    return QN_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* All shards, in order of their names; then every tensor of the index must have been seen. */
static qn_status open_shards(qn_weights *w, json_t *weight_map, json_t *shards, qn_err *err)
{
    QN_TRY(shard_names(shards, weight_map, err));
    const char *names[QN_MAX_SHARDS], *key;
    size_t n = 0;
    json_t *v;
    json_object_foreach(shards, key, v) names[n++] = key;
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        QN_TRY(open_shard(w, names[i], weight_map, err));
    }
    json_object_foreach(weight_map, key, v)
    {
        char shown[100];
        if (!qn_weights_find(w, key))
            return qn_fail(err, QN_E_FORMAT, INDEX ": weight_map: tensor '%s' is not in '%.96s'",
                           qn_short_name(shown, qn_slice_of(key)), json_string_value(v));
    }
    return QN_OK;
}

static qn_status open_index(qn_weights *w, qn_err *err)
{
    json_t *index;
    QN_TRY(load_object(&index, w->path, INDEX, err));
    json_t *weight_map = json_object_get(index, "weight_map"), *shards = json_object();
    qn_status s =
        shards ? open_shards(w, weight_map, shards, err) : qn_fail_nomem(err, sizeof *shards);
    json_decref(shards);
    json_decref(index);
    return s;
}

qn_status qn_safetensors_open(qn_weights *w, qn_err *err)
{
    bool has_config, has_generation, has_single, has_index, has_pickle;
    QN_TRY(has_file(w->path, "config.json", &has_config, err));
    QN_TRY(has_file(w->path, "generation_config.json", &has_generation, err));
    QN_TRY(has_file(w->path, "model.safetensors", &has_single, err));
    QN_TRY(has_file(w->path, INDEX, &has_index, err));
    QN_TRY(has_file(w->path, "pytorch_model.bin", &has_pickle, err));
    if (!has_config)
        return qn_fail(
            err, QN_E_NOT_FOUND,
            "%s: no config.json in this folder, want a Hugging Face model folder or a GGUF file",
            w->path);
    QN_TRY(load_object(&w->config, w->path, "config.json", err));
    if (has_generation)
        QN_TRY(load_object(&w->generation_config, w->path, "generation_config.json", err));
    if (has_single)
        return open_shard(w, "model.safetensors", NULL, err);
    if (has_index)
        return open_index(w, err);
    return qn_fail(err, has_pickle ? QN_E_UNSUPPORTED : QN_E_NOT_FOUND,
                   "%s: no model.safetensors and no " INDEX "%s", w->path,
                   has_pickle ? "; pickle files (.bin) are not read, convert them to safetensors"
                              : " in this folder");
}
