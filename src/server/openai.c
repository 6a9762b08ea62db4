/* SPDX-License-Identifier: Apache-2.0
 * openai.c - OpenAI's endpoints: the routes, and what is read of every request that generates. */
#include "server/openai.h"

#include "base/limits.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

const qn_route qn_openai_routes[] = {
    {"POST", "/v1/chat/completions", qn_openai_chat, false, false},
    {"POST", "/chat/completions", qn_openai_chat, false, false},
    {"POST", "/v1/completions", qn_openai_completions, false, false},
    {"POST", "/completions", qn_openai_completions, false, false},
    {"POST", "/v1/embeddings", qn_openai_embeddings, false, false},
    {"POST", "/embeddings", qn_openai_embeddings, false, false},
    {"POST", "/v1/rerank", qn_openai_rerank, false, false},
    {"POST", "/rerank", qn_openai_rerank, false, false},
    {"POST", "/v1/score", qn_openai_score_pairs, false, false},
    {"POST", "/score", qn_openai_score_pairs, false, false},
    {"GET", "/v1/models", qn_openai_models, false, true},
    {"GET", "/models", qn_openai_models, false, true},
    {"GET", "/v1/models/*", qn_openai_model, false, true},
    {"GET", "/models/*", qn_openai_model, false, true},
    {NULL, NULL, NULL, false, false},
};

void qn_openai_add_number(qn_str *out, double v)
{
    char text[40];
    if (!isfinite(v))
        v = 0;
    qn_str_add(out, text, qn_format_f64(text, round(v * 1000) / 1000));
}

/* ---- what is not done ---- */

typedef enum refusal {
    REFUSE_ANY,     /* given at all */
    REFUSE_FILLED,  /* not "", [], {}, 0 or false */
    REFUSE_NOT_TRUE /* false */
} refusal;

static const struct {
    const char *name;
    refusal when;
} refused[] = {
    {"structural_tag", REFUSE_ANY},
    {"functions", REFUSE_FILLED},
    {"include_stop_str_in_output", REFUSE_FILLED},
    {"skip_special_tokens", REFUSE_NOT_TRUE},
    {"bad_words", REFUSE_FILLED},
    {"allowed_token_ids", REFUSE_FILLED},
    {"truncate_prompt_tokens", REFUSE_ANY},
    {"logits_processors", REFUSE_FILLED},
    {"chat_template", REFUSE_ANY},
    {"documents", REFUSE_FILLED},
    {"audio", REFUSE_FILLED},
    {"web_search_options", REFUSE_FILLED},
    {"mirostat", REFUSE_FILLED},
    {"xtc_probability", REFUSE_FILLED},
    {"dry_multiplier", REFUSE_FILLED},
    {"dynatemp_range", REFUSE_FILLED},
};

static bool is_refused(const json_t *v, refusal when)
{
    if (!v || json_is_null(v))
        return false;
    if (when == REFUSE_ANY)
        return true;
    if (when == REFUSE_NOT_TRUE)
        return !json_is_true(v);
    if (json_is_number(v))
        return json_number_value(v) != 0;
    return !json_is_false(v) &&
           (json_is_true(v) || json_string_length(v) || json_array_size(v) || json_object_size(v));
}

static qn_status refuse(const char *name, const char **param, qn_err *err)
{
    *param = name;
    return qn_fail(err, QN_E_UNSUPPORTED,
                   "%s: this build does not enforce it yet, so the request is refused", name);
}

qn_status qn_openai_refuse(const json_t *body, const char **param, qn_err *err)
{
    for (size_t i = 0; i < QN_COUNT(refused); i++)
        if (is_refused(json_object_get(body, refused[i].name), refused[i].when))
            return refuse(refused[i].name, param, err);
    const json_t *call = json_object_get(body, "function_call");
    if (json_is_object(call))
        return refuse("function_call", param, err);
    const json_t *modalities = json_object_get(body, "modalities");
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const char *m = json_string_value(json_array_get(modalities, i));
        if (!m || strcmp(m, "text") != 0) {
            *param = "modalities";
            return qn_fail(err, QN_E_UNSUPPORTED, "modalities: this model answers with text only");
        }
    }
    *param = NULL;
    return QN_OK;
}

/* ---- reading ---- */

typedef struct general {
    const char *model;
    bool stream, return_ids;
    int prompt_logprobs;
    const json_t *stream_options;
} general;

static const qn_field general_fields[] = {
    {"model", QN_FIELD_STR, offsetof(general, model), 0, 0},
    {"stream", QN_FIELD_BOOL, offsetof(general, stream), 0, 0},
    {"stream_options", QN_FIELD_OBJECT, offsetof(general, stream_options), 0, 0},
    {"return_token_ids", QN_FIELD_BOOL, offsetof(general, return_ids), 0, 0},
    {"prompt_logprobs", QN_FIELD_INT, offsetof(general, prompt_logprobs), 0, QN_LIMIT_TOP_LOGPROBS},
};
static const qn_field stream_fields[] = {
    {"include_usage", QN_FIELD_BOOL, offsetof(qn_openai_answer, include_usage), 0, 0},
    {"continuous_usage_stats", QN_FIELD_BOOL, offsetof(qn_openai_answer, continuous_usage), 0, 0},
};

static qn_status read_general(qn_openai_answer *a, const general *g, const char **param,
                              qn_err *err)
{
    a->is_stream = g->stream;
    a->return_ids = g->return_ids;
    a->n_prompt_top = g->prompt_logprobs;
    *param = "prompt_logprobs";
    if (a->is_stream && a->n_prompt_top >= 0)
        return qn_fail(err, QN_E_ARG, "prompt_logprobs: found in a stream, want \"stream\": false");
    if (g->stream_options) {
        qn_status s = qn_fields_read(g->stream_options, stream_fields, QN_COUNT(stream_fields), a,
                                     param, err);
        if (s != QN_OK) {
            *param = "stream_options";
            return qn_wrap(err, s, "stream_options");
        }
    }
    return qn_openai_refuse(a->body, param, err);
}

/* Which program and which weights: equal ones answer alike. */
static void set_fingerprint(qn_openai_answer *a)
{
    qn_engine_info info;
    qn_engine_get_info(a->engine, &info);
    uint64_t h = qn_hash(info.name, strlen(info.name), info.n_params);
    h = qn_hash(info.quantization, strlen(info.quantization), h ^ info.weight_bytes);
    (void)snprintf(a->fingerprint, sizeof a->fingerprint, "quern-" QN_VERSION "-%08x", (unsigned)h);
}

qn_openai_answer *qn_openai_open(qn_exchange *x, const json_t *body, const qn_openai_shape *shape)
{
    general g = {.prompt_logprobs = -1};
    const char *param = NULL, *served = NULL;
    qn_err err = {0};
    qn_openai_answer *a = qn_arena_alloc(qn_x_arena(x), sizeof *a);
    if (!a) {
        (void)qn_fail_nomem(&err, sizeof *a);
        qn_x_fail(x, &err, NULL);
        return NULL;
    }
    *a = (qn_openai_answer){
        .shape = shape, .body = body, .n_top = -1, .n_prompt_top = -1, .held = SIZE_MAX};
    a->created = (uint64_t)time(NULL);
    qn_answer_make_id(a->id, shape->id_prefix);
    qn_status s = qn_fields_read(body, general_fields, QN_COUNT(general_fields), &g, &param, &err);
    if (s == QN_OK) {
        a->engine = qn_x_model(x, g.model, &served);
        if (!a->engine)
            return NULL;
        a->model = served;
        set_fingerprint(a);
        s = read_general(a, &g, &param, &err);
    }
    if (s == QN_OK)
        s = qn_sampling_read(body, a->engine, qn_x_arena(x), &a->params, &param, &err);
    if (s == QN_OK) {
        qn_demand_init(&a->demand, a->engine, x);
        s = qn_demand_read_forms(&a->demand, body, &param, &err);
    }
    a->n_keep = a->params.n;
    if (s == QN_OK)
        return a;
    qn_x_fail(x, &err, param);
    return NULL;
}
