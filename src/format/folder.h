/* SPDX-License-Identifier: Apache-2.0
 * folder.h - the small files beside a model's weights (config.json, tokenizer.json, ...): those of a
 * folder, or those kept inside a packed file under the same names.
 * Threads: any, read-only. */
#ifndef QN_FORMAT_FOLDER_H
#define QN_FORMAT_FOLDER_H

#include "base/json.h"
#include "base/str.h"

typedef struct qn_folder_file {
    const char *name;
    qn_slice bytes;
} qn_folder_file;

typedef struct qn_folder {
    const char *path;
    const qn_folder_file *files; /* NULL: those on disk under path */
    size_t n_files;
} qn_folder;

/* name: a plain file name ([A-Za-z0-9._-]). */
QN_MUST_USE qn_status qn_folder_has(const qn_folder *f, const char *name, bool *out, qn_err *err);
/* Whole file into *out (cleared first). */
QN_MUST_USE qn_status qn_folder_read(qn_str *out, const qn_folder *f, const char *name,
                                     size_t max_bytes, qn_err *err);
QN_MUST_USE qn_status qn_folder_json(json_t **out, const qn_folder *f, const char *name,
                                     qn_err *err);

#endif
