/* SPDX-License-Identifier: Apache-2.0
 * native.h - a model and its packed file (format/qpk.h): what of it is panels, and back.
 * Threads: one caller. */
#ifndef QN_MODEL_NATIVE_H
#define QN_MODEL_NATIVE_H

#include "backend/ops.h"
#include "format/qpk.h"

typedef struct qn_native_options {
    int n_threads;
    unsigned cpu_mask;
    void (*progress)(void *arg, const char *what, double done);
    void *progress_arg;
} qn_native_options;

/* Writes the model at path as a packed file. Fails if `out` is there. */
QN_MUST_USE qn_status qn_native_write(const char *path, const char *out, const qn_native_options *o,
                                      qn_err *err);

/* Before the weights of `w` are taken: the panels are of this backend's layout, and the first
 * n_areas areas in memory. Nothing to do for other files. */
QN_MUST_USE qn_status qn_native_open(const qn_weights *w, const qn_backend *b, int n_threads,
                                     int n_areas, qn_err *err);
/* A bound view with its panels, for weight_new. rows_only and exact as there; fails if what they need
 * was not kept in the file. */
QN_MUST_USE qn_status qn_native_view(qn_weight *out, const qn_weights *w, const qn_weight *view,
                                     bool rows_only, bool exact, qn_err *err);

#endif
