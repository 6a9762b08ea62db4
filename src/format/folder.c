/* SPDX-License-Identifier: Apache-2.0
 * folder.c - reads the small files of a model, from disk or from inside a packed file. */
#include "format/folder.h"

#include <string.h>

#include "base/file.h"
#include "base/limits.h"

static const qn_folder_file *find(const qn_folder *f, const char *name)
{
    for (size_t i = 0; i < f->n_files; i++)
        if (strcmp(f->files[i].name, name) == 0)
            return &f->files[i];
    return NULL;
}

qn_status qn_folder_has(const qn_folder *f, const char *name, bool *out, qn_err *err)
{
    qn_str path = {0};
    *out = f->files && find(f, name);
    if (f->files)
        return QN_OK;
    qn_status s = qn_path_join(&path, f->path, name, err);
    *out = s == QN_OK && qn_file_exists(path.p);
    qn_str_fini(&path);
    return s;
}

qn_status qn_folder_read(qn_str *out, const qn_folder *f, const char *name, size_t max_bytes,
                         qn_err *err)
{
    qn_str path = {0};
    qn_str_clear(out);
    QN_TRY(qn_path_join(&path, f->path, name, err));
    qn_status s = QN_OK;
    const qn_folder_file *file = f->files ? find(f, name) : NULL;
    if (!f->files) {
        s = qn_file_read(out, path.p, max_bytes, err);
    } else if (!file) {
        s = qn_fail(err, QN_E_NOT_FOUND, "%s: not in the packed file", path.p);
    } else if (file->bytes.n > max_bytes) {
        s = qn_fail(err, QN_E_FORMAT, "%s: larger than %zu bytes", path.p, max_bytes);
    } else {
        qn_str_add(out, file->bytes.p, file->bytes.n);
        s = out->failed ? qn_fail_nomem(err, file->bytes.n) : QN_OK;
    }
    qn_str_fini(&path);
    return s;
}

qn_status qn_folder_json(json_t **out, const qn_folder *f, const char *name, qn_err *err)
{
    qn_str path = {0}, text = {0};
    *out = NULL;
    qn_status s = qn_path_join(&path, f->path, name, err);
    if (s == QN_OK)
        s = qn_folder_read(&text, f, name, QN_LIMIT_CONFIG_BYTES, err);
    if (s == QN_OK)
        s = qn_json_parse(out, text.p ? text.p : "", text.n, 0, path.p, err);
    qn_str_fini(&text);
    qn_str_fini(&path);
    return s;
}
