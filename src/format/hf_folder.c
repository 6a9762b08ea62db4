/* SPDX-License-Identifier: Apache-2.0
 * hf_folder.c - opens config, shard index and shards of a Hugging Face folder. */
#include "format/hf_folder.h"

#include "format/safetensors.h"
#include <stdlib.h>
#include <string.h>

/* A string without NUL inside. */
static const char *as_text(const json_t *v)
{
    const char *s = json_string_value(v);
    return s && strlen(s) == json_string_length(v) ? s : NULL;
}

static qn_status load_object(json_t **out, const char *dir, const char *name, qn_err *err)
{
    qn_str path = {0};
    *out = NULL;
    qn_status s = qn_path_join(&path, dir, name, err);
    if (s == QN_OK)
        s = qn_json_load(out, path.p, QN_LIMIT_CONFIG_BYTES, err);
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

/* Copies tensors that the file placed where their elements are not aligned (the format allows
 * it; C does not). */
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
        if (json_object_size(shards) == QN_LIMIT_SHARDS)
            return qn_fail(err, QN_E_FORMAT, INDEX ": more than %d files", QN_LIMIT_SHARDS);
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
    const char *names[QN_LIMIT_SHARDS], *key;
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

qn_status qn_hf_folder_open(qn_weights *w, qn_err *err)
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
