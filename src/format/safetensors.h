/* SPDX-License-Identifier: Apache-2.0
 * safetensors.h - reads one safetensors file.
 *
 *   header bytes N u64 | N bytes of JSON, padded with spaces | data
 *   {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
 *    "__metadata__": {"key": "text"}}
 *
 * Checked: N <= QN_LIMIT_SAFETENSORS_HEADER and inside the file; strict JSON (RFC 8259, UTF-8), no
 * key twice; exactly these three fields; end - begin is what dtype and shape ask for; the tensors
 * fill the data without hole, overlap or rest.
 * Threads: any, pure. Source: the format's own description; the reference reader's tensor.rs
 * (which lets a name be there twice). */
#ifndef QN_FORMAT_SAFETENSORS_H
#define QN_FORMAT_SAFETENSORS_H

#include "format/weights.h"

/* Parses one file held in memory; *tensors, in order of their data, and their names are taken
 * from arena. data of a tensor may be misaligned. name: the file's, for messages. */
QN_MUST_USE qn_status qn_safetensors_parse(const void *data, size_t n, const char *name,
                                           qn_arena *arena, qn_tensor **tensors, size_t *n_tensors,
                                           qn_err *err);

#endif
