/* SPDX-License-Identifier: Apache-2.0
 * safetensors.h - reads safetensors files and Hugging Face folders made of them.
 *
 *   header bytes N u64 | N bytes of JSON, maybe padded with spaces | data
 *   {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {"key": "text"}}
 *
 * Checked: N <= QN_SAFETENSORS_MAX_HEADER and inside the file; strict JSON, no name twice; exactly these three fields; end - begin
 * is what dtype and shape ask for; the tensors fill the data without hole, overlap or rest.
 *
 * A folder has config.json, maybe generation_config.json, and model.safetensors or shards listed in
 * model.safetensors.index.json, whose weight_map must name every tensor exactly where it is.
 * Threads: any after opening (read-only). Source: the format's own description; safetensors' tensor.rs. */
#ifndef QN_FORMAT_SAFETENSORS_H
#define QN_FORMAT_SAFETENSORS_H

#include "format/weights.h"

#define QN_SAFETENSORS_MAX_HEADER 100000000u
#define QN_CONFIG_MAX_BYTES       ((size_t)64 << 20)

/* Parses one file held in memory; *tensors, in order of their data, and their names are taken from arena. data of a tensor may be
 * misaligned. name: the file's, for messages. */
QN_MUST_USE qn_status qn_safetensors_parse(const void *data, size_t n, const char *name,
                                           qn_arena *arena, qn_tensor **tensors, size_t *n_tensors,
                                           qn_err *err);
/* Fills w from the folder w->path. */
QN_MUST_USE qn_status qn_safetensors_open(qn_weights *w, qn_err *err);

#endif
