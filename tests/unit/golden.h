/* SPDX-License-Identifier: Apache-2.0
 * golden.h - what tests over golden models share: where they are, their JSON, engines on them. */
#ifndef QN_TESTS_GOLDEN_H
#define QN_TESTS_GOLDEN_H

#include "check.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

/* The fixtures beside the project, or NULL: then only those copied into tests/golden are there. */
static inline const char *shared_fixtures(void)
{
    static const char *const places[] = {QN_SOURCE_DIR "/../shared/fixtures",
                                         QN_SOURCE_DIR "/../../shared/fixtures"};
    for (size_t i = 0; i < QN_COUNT(places); i++)
        if (qn_dir_exists(places[i]))
            return places[i];
    return NULL;
}

static inline json_t *load_json(const char *path)
{
    json_t *v = NULL;
    qn_err err;
    if (qn_json_load(&v, path, (size_t)64 << 20, &err) != QN_OK)
        fail_msg("%s", err.msg);
    return v;
}

static inline int32_t *ids_of(const json_t *list, size_t *n)
{
    *n = json_array_size(list);
    int32_t *ids = qn_alloc_array(*n + 1, sizeof *ids, QN_MEM_MISC);
    assert_non_null(ids);
    for (size_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return ids;
}

static inline double number_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_number(v))
        fail_msg("golden file has no number '%s'", key);
    return json_number_value(v);
}

static inline qn_engine *open_engine(const qn_config *cfg)
{
    qn_engine *e = NULL;
    qn_err err;
    if (qn_engine_open(&e, cfg, &err) != QN_OK)
        fail_msg("%s: %s", cfg->model, err.msg);
    return e;
}

/* The ids a request answers with, candidate after candidate. */
static inline size_t answer(qn_engine *e, const qn_prompt *prompt, const qn_params *params,
                            int32_t *out, size_t max)
{
    qn_request *r = NULL;
    qn_event ev = {0};
    qn_err err;
    size_t n = 0;
    if (qn_request_submit(&r, e, prompt, params, &err) != QN_OK)
        fail_msg("submit: %s", err.msg);
    while (ev.kind != QN_EVENT_DONE) {
        if (qn_request_next(r, &ev, &err) != QN_OK)
            fail_msg("next: %s", err.msg);
        if (ev.kind == QN_EVENT_TOKEN && ev.token_id >= 0 && n < max)
            out[n++] = ev.token_id;
    }
    qn_request_free(r);
    return n;
}

static inline qn_params greedy(int n_tokens)
{
    qn_params p = qn_params_default();
    p.temperature = 0;
    p.max_tokens = n_tokens;
    p.ignore_eos = true;
    return p;
}

#endif
