/* SPDX-License-Identifier: Apache-2.0
 * hub.h - models from a hub, by name: found in the cache, downloaded where missing.
 *
 * A spec is OWNER/NAME[@REVISION][:FILE]. FILE is a file of the repository, or a tag such as Q4_K_M
 * that the name of one GGUF file (or one split set) holds. Without FILE: what is needed to run the
 * repository's safetensors, or its only GGUF.
 *
 * The cache has the layout of huggingface_hub, which may share it:
 *
 *   CACHE/models--OWNER--NAME/refs/REVISION              holds the commit (40 hex digits)
 *                            /snapshots/COMMIT/FILE  ->  ../../blobs/ETAG
 *                            /blobs/ETAG                 complete and checked; ETAG is the checksum
 *                            /blobs/ETAG.incomplete      a download to go on with
 *
 * Everything the server says is hostile: names are relative paths of at most 8 components
 * [A-Za-z0-9._-] that do not start with a dot (others are not seen), commits and checksums are hex
 * digits of the right number.
 * Threads: any; one process at a time downloads a blob. */
#ifndef QN_FORMAT_HUB_H
#define QN_FORMAT_HUB_H

#include "base/base.h"
#include "base/str.h"

typedef struct qn_hub_config {
    const char *endpoint; /* "https://huggingface.co" */
    const char *token;    /* NULL: none */
    const char *cache;    /* the folder that holds models--OWNER--NAME */
    bool offline;         /* use what the cache holds and ask nobody */
} qn_hub_config;

/* From HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HUB_CACHE or HF_HOME or XDG_CACHE_HOME or HOME.
 * `text` owns the strings and must live as long as the config; end it with qn_str_fini. */
QN_MUST_USE qn_status qn_hub_config_from_env(qn_hub_config *out, qn_str *text, qn_err *err);

/* Called while downloading, about ten times a second and at the end of each file. rate: bytes/s of
 * this run. */
typedef void (*qn_hub_progress)(void *arg, const char *file, uint64_t done, uint64_t total,
                                double rate);

/* True if s could be a spec: OWNER/NAME, both plain, and what follows well formed. */
bool qn_hub_is_spec(const char *s);

/* Makes the spec's files complete in the cache and appends to out_path the snapshot's folder, or
 * with a GGUF file its path (of a split set: the first part). When the hub cannot be reached, what
 * is complete in the cache is used as it is. */
QN_MUST_USE qn_status qn_hub_pull(const qn_hub_config *cfg, const char *spec,
                                  qn_hub_progress progress, void *progress_arg, qn_str *out_path,
                                  qn_err *err);

#endif
