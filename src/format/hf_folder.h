/* SPDX-License-Identifier: Apache-2.0
 * hf_folder.h - a model as Hugging Face lays it out: a folder of config files and safetensors.
 *
 *   config.json                    an object; required
 *   generation_config.json         an object; optional
 *   model.safetensors              all tensors, or:
 *   model.safetensors.index.json   {"weight_map": {"tensor": "file", ...}}: all of them
 *
 * File names of the index are one path component, [A-Za-z0-9._-], and end in .safetensors; links
 * are followed.
 * Threads: the loader's. */
#ifndef QN_FORMAT_HF_FOLDER_H
#define QN_FORMAT_HF_FOLDER_H

#include "format/weights.h"

/* Fills w from the folder w->path. */
QN_MUST_USE qn_status qn_hf_folder_open(qn_weights *w, qn_err *err);

#endif
