/* SPDX-License-Identifier: Apache-2.0
 * spec.h - the short texts that say how to serve: classes, buckets, batches, keys, models.
 *
 *   classes   p0:200ms:40%,p1:500ms:30%:gap=50ms,p2:1s:20%:refuse,p3:-:10%     name:target:share
 *   buckets   8k:4,32k:2,inf:1                                                 tokens:sequences
 *   batch     16 or adaptive:8-32                                              sequences together
 *   models    model.gguf or chat=model.gguf                                    name=file
 *   keys      one a line: KEY [TENANT [CLASS]]                                 # comments
 *
 * What they point to afterwards is the arena's. Errors name the part that is wrong. Threads: pure. */
#ifndef QN_SERVER_SPEC_H
#define QN_SERVER_SPEC_H

#include "base/mem.h"
#include "server/server.h"

QN_MUST_USE qn_status qn_spec_classes(const char *text, qn_arena *a, qn_class **out, int *n,
                                      qn_err *err);
QN_MUST_USE qn_status qn_spec_buckets(const char *text, qn_arena *a, qn_bucket **out, int *n,
                                      qn_err *err);
/* Where the class of that name stands; -1: nowhere. */
int qn_spec_class(const qn_config *c, const char *name);
/* *least is 0 for a fixed number. */
QN_MUST_USE qn_status qn_spec_batch(const char *text, int *least, int *most, qn_err *err);
/* "200ms", "1.5s", "2m", "1h", "250" (ms). */
QN_MUST_USE qn_status qn_spec_duration(const char *text, uint32_t *ms, qn_err *err);
/* Splits NAME=FILE; *name is NULL where there is none. */
QN_MUST_USE qn_status qn_spec_model(const char *text, qn_arena *a, const char **name,
                                    const char **file, qn_err *err);
/* text of a file; `name` is it in errors. */
QN_MUST_USE qn_status qn_spec_keys(const char *text, size_t n_text, const char *name, qn_arena *a,
                                   qn_api_key **out, size_t *n, qn_err *err);

#endif
