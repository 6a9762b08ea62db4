/* SPDX-License-Identifier: Apache-2.0
 * weights.c - opens a model whatever its files are, and finds its tensors by name. */
#include "format/weights.h"

#include "format/gguf.h"
#include "format/hf_folder.h"
#include "format/qpk.h"
#include <stdio.h>
#include <string.h>

/* ---- words for messages ---- */

const char *qn_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

const char *qn_short_name(char buf[100], qn_slice name)
{
    enum { MOST = 96 };
    size_t n = name.n <= MOST ? name.n : qn_utf8_whole(name.p, MOST - 3);
    (void)snprintf(buf, 100, "%.*s%s", (int)n, name.p, n < name.n ? "..." : "");
    return buf;
}

const char *qn_foreign_file(const void *data, size_t n)
{
    static const struct {
        const char *magic;
        const char *what;
    } known[] = {
        {"PK\x03\x04",
         "a pickle (.bin, .pt) or zip file: pickle is not read, convert it to safetensors"},
        {"\x80\x02", "a pickle file: pickle is not read, convert it to safetensors"},
        {"\x80\x04", "a pickle file: pickle is not read, convert it to safetensors"},
        {"\x89HDF", "an HDF5 file"},
        {"lmgg", "an old ggml file: convert the model to GGUF"},
        {"fmgg", "an old ggml file: convert the model to GGUF"},
        {"tjgg", "an old ggml file: convert the model to GGUF"},
        {"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull"},
        {"<!DOCTYPE", "a web page"},
        {"<html", "a web page"},
    };
    for (size_t i = 0; i < QN_COUNT(known); i++) {
        size_t m = strlen(known[i].magic);
        if (n >= m && memcmp(data, known[i].magic, m) == 0)
            return known[i].what;
    }
    return NULL;
}

/* ---- building ---- */

qn_status qn_weights_map(qn_weights *w, const char *path, const qn_file **out, qn_err *err)
{
    if (!qn_grow(&w->files, &w->files_cap, w->n_files + 1, sizeof *w->files, QN_MEM_MISC))
        return qn_fail_nomem(err, sizeof *w->files);
    QN_TRY(qn_file_map(&w->files[w->n_files], path, err));
    *out = w->files[w->n_files++];
    if (!(*out)->size)
        return qn_fail(err, QN_E_FORMAT, "%s: the file is empty", path);
    return QN_OK;
}

qn_status qn_weights_add(qn_weights *w, const qn_tensor *tensors, size_t n, const char *name,
                         qn_err *err)
{
    if (n > QN_LIMIT_TENSORS - w->n_tensors)
        return qn_fail(err, QN_E_FORMAT, "%s: more than %d tensors in all", name, QN_LIMIT_TENSORS);
    if (!qn_grow(&w->tensors, &w->tensors_cap, w->n_tensors + n, sizeof *w->tensors, QN_MEM_MISC) ||
        !qn_name_index_reserve(&w->index, w->n_tensors + n))
        return qn_fail_nomem(err, n * sizeof *w->tensors);
    for (size_t i = 0; i < n; i++) {
        char shown[100];
        qn_slice key = qn_slice_of(tensors[i].name);
        if (!qn_name_index_add(&w->index, key, w->n_tensors))
            return qn_fail(err, QN_E_FORMAT, "%s: tensor '%s': another file has it too", name,
                           qn_short_name(shown, key));
        w->tensors[w->n_tensors++] = tensors[i];
    }
    return QN_OK;
}

/* A file that is not a folder: GGUF or packed, by its first bytes. */
static qn_status open_file(qn_weights *w, qn_err *err)
{
    const qn_file *f;
    QN_TRY(qn_weights_map(w, w->path, &f, err));
    if (f->size >= 4 && memcmp(f->data, "GGUF", 4) == 0) {
        w->format = QN_FORMAT_GGUF;
        return qn_gguf_open(w, err);
    }
    if (f->size >= 8 && memcmp(f->data, QN_QPK_MAGIC, 8) == 0)
        return qn_qpk_open(w, err);
    const char *foreign = qn_foreign_file(f->data, f->size), *name = qn_base_name(w->path);
    if (foreign)
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: is %s", name, foreign);
    if (qn_ends_with(name, ".safetensors"))
        return qn_fail(
            err, QN_E_ARG,
            "%s: a single safetensors file; give the folder that holds it and its config.json",
            name);
    return qn_fail(err, QN_E_FORMAT,
                   "%s: not a GGUF file (does not start with \"GGUF\") and not a folder", name);
}

qn_status qn_weights_open(qn_weights **out, const char *path, qn_err *err)
{
    *out = NULL;
    qn_weights *w = qn_calloc(1, sizeof *w, QN_MEM_MISC);
    if (!w)
        return qn_fail_nomem(err, sizeof *w);
    qn_arena_init(&w->arena, QN_LIMIT_MODEL_METADATA, QN_MEM_MISC);
    qn_arena_init(&w->copies, 0, QN_MEM_WEIGHTS);
    w->path = qn_strdup(path, QN_MEM_MISC);
    qn_status s;
    if (!w->path) {
        s = qn_fail_nomem(err, strlen(path));
    } else if (qn_dir_exists(path)) {
        w->format = QN_FORMAT_HF;
        s = qn_hf_folder_open(w, err);
    } else {
        s = open_file(w, err);
    }
    if (s != QN_OK) {
        qn_weights_free(w);
        return s;
    }
    *out = w;
    return QN_OK;
}

void qn_weights_free(qn_weights *w)
{
    if (!w)
        return;
    json_decref(w->config);
    json_decref(w->generation_config);
    qn_name_index_fini(&w->index);
    qn_arena_fini(&w->arena);
    qn_arena_fini(&w->copies);
    qn_free(w->tensors);
    qn_qpk_free(w->qpk);
    for (size_t i = 0; i < w->n_files; i++)
        qn_file_unmap(w->files[i]);
    qn_free(w->files);
    qn_free(w->path);
    qn_free(w);
}

const qn_file *qn_weights_file(const qn_weights *w, const void *p)
{
    for (size_t i = 0; i < w->n_files; i++)
        if (qn_file_holds(w->files[i], p))
            return w->files[i];
    return NULL;
}

void qn_weights_drop(const qn_weights *w, const void *p, size_t n)
{
    const qn_file *f = qn_weights_file(w, p);
    if (f)
        qn_file_drop(f, p, n);
}

qn_folder qn_weights_folder(const qn_weights *w)
{
    qn_folder f = {.path = w->path};
    if (w->qpk) {
        f.files = w->qpk->files;
        f.n_files = w->qpk->n_files;
    }
    return f;
}

const qn_tensor *qn_weights_find(const qn_weights *w, const char *name)
{
    size_t i;
    return qn_name_index_find(&w->index, qn_slice_of(name), &i) ? &w->tensors[i] : NULL;
}
