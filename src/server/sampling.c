/* SPDX-License-Identifier: Apache-2.0
 * sampling.c - sampling fields to qn_params. */
#include "server/sampling.h"
#include <quern/measure.h>

#include "base/limits.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* What is read but has no place of its own in qn_params. */
typedef struct extra {
    qn_params *to;
    const qn_engine *engine;
    qn_arena *arena;
    int max_tokens;
    int best_of;
    bool use_beam_search, echo;
    const json_t *stop, *stop_ids, *bias, *priority;
    const char *class_name, *tier;
    uint64_t seed;
} extra;

static const qn_field numbers[] = {
    {"temperature", QN_FIELD_F32, offsetof(qn_params, temperature), 0, 2},
    {"top_p", QN_FIELD_F32, offsetof(qn_params, top_p), 0, 1},
    {"top_k", QN_FIELD_INT, offsetof(qn_params, top_k), -1, INT32_MAX},
    {"min_p", QN_FIELD_F32, offsetof(qn_params, min_p), 0, 1},
    {"typical_p", QN_FIELD_F32, offsetof(qn_params, typical_p), 0, 1},
    {"n", QN_FIELD_INT, offsetof(qn_params, n), 1, QN_LIMIT_CANDIDATES},
    {"presence_penalty", QN_FIELD_F32, offsetof(qn_params, presence_penalty), -2, 2},
    {"frequency_penalty", QN_FIELD_F32, offsetof(qn_params, frequency_penalty), -2, 2},
    {"repeat_penalty", QN_FIELD_F32, offsetof(qn_params, repetition_penalty), 0.01, 10},
    {"repetition_penalty", QN_FIELD_F32, offsetof(qn_params, repetition_penalty), 0.01, 10},
    {"min_tokens", QN_FIELD_INT, offsetof(qn_params, min_tokens), 0, INT32_MAX},
    {"ignore_eos", QN_FIELD_BOOL, offsetof(qn_params, ignore_eos), 0, 0},
    {"beam_width", QN_FIELD_INT, offsetof(qn_params, beam_width), 0, QN_LIMIT_CANDIDATES},
    {"length_penalty", QN_FIELD_F32, offsetof(qn_params, length_penalty), -10, 10},
    {"cache_salt", QN_FIELD_STR, offsetof(qn_params, cache_salt), 1, 256},
};

/* Of several names for one thing the later wins. */
static const qn_field others[] = {
    {"max_new_tokens", QN_FIELD_INT, offsetof(extra, max_tokens), 0, INT32_MAX},
    {"max_tokens", QN_FIELD_INT, offsetof(extra, max_tokens), 0, INT32_MAX},
    {"max_completion_tokens", QN_FIELD_INT, offsetof(extra, max_tokens), 0, INT32_MAX},
    {"echo", QN_FIELD_BOOL, offsetof(extra, echo), 0, 0},
    {"best_of", QN_FIELD_INT, offsetof(extra, best_of), 1, QN_LIMIT_CANDIDATES},
    {"use_beam_search", QN_FIELD_BOOL, offsetof(extra, use_beam_search), 0, 0},
    {"seed", QN_FIELD_U64, offsetof(extra, seed), 0, 0},
    {"stop", QN_FIELD_ANY, offsetof(extra, stop), 0, 0},
    {"stop_token_ids", QN_FIELD_ARRAY, offsetof(extra, stop_ids), 0, 0},
    {"logit_bias", QN_FIELD_OBJECT, offsetof(extra, bias), 0, 0},
    {"priority", QN_FIELD_ANY, offsetof(extra, priority), 0, 0},
    {"class", QN_FIELD_STR, offsetof(extra, class_name), 1, 32},
    {"service_tier", QN_FIELD_STR, offsetof(extra, tier), 1, 64},
};

static bool is_given(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return v && !json_is_null(v);
}

static qn_status read_stop(extra *x, const char **param, qn_err *err)
{
    *param = "stop";
    return x->stop ? qn_fields_stop("stop", x->stop, x->arena, x->to, err) : QN_OK;
}

static qn_status read_stop_ids(extra *x, int n_vocab, const char **param, qn_err *err)
{
    int32_t *ids;
    if (!x->stop_ids)
        return QN_OK;
    *param = "stop_token_ids";
    if (json_array_size(x->stop_ids) > QN_LIMIT_STOP_IDS)
        return qn_fail(err, QN_E_ARG, "stop_token_ids: found %zu, want at most %d",
                       json_array_size(x->stop_ids), QN_LIMIT_STOP_IDS);
    QN_TRY(qn_fields_ids("stop_token_ids", x->stop_ids, n_vocab, x->arena, &ids, &x->to->n_stop_ids,
                         err));
    x->to->stop_ids = ids;
    return QN_OK;
}

/* {"50256": -100} */
static qn_status read_bias(extra *x, int n_vocab, const char **param, qn_err *err)
{
    if (!x->bias)
        return QN_OK;
    *param = "logit_bias";
    size_t n = json_object_size(x->bias), i = 0;
    if (n > QN_LIMIT_LOGIT_BIAS)
        return qn_fail(err, QN_E_ARG, "logit_bias: found %zu tokens, want at most %d", n,
                       QN_LIMIT_LOGIT_BIAS);
    qn_logit_bias *list = qn_arena_alloc(x->arena, (n + 1) * sizeof *list);
    if (!list)
        return qn_fail_nomem(err, n * sizeof *list);
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)x->bias, key, v)
    {
        uint64_t id;
        char shown[48];
        qn_escape(shown, sizeof shown, key, strlen(key));
        if (!qn_parse_u64(key, strlen(key), (uint64_t)n_vocab - 1, &id))
            return qn_fail(err, QN_E_ARG,
                           "logit_bias: found the key '%s', want a token id, 0 to %d", shown,
                           n_vocab - 1);
        double bias = json_number_value(v);
        if (!json_is_number(v) || !(bias >= -100 && bias <= 100))
            return qn_fail(err, QN_E_ARG, "logit_bias: %s: found %s, want a number, -100 to 100",
                           shown, json_is_number(v) ? "one out of range" : qn_json_type_name(v));
        list[i++] = (qn_logit_bias){(int32_t)id, (float)bias};
    }
    x->to->logit_bias = list;
    x->to->n_logit_bias = n;
    return QN_OK;
}

/* A class by its name, or by its place: 0 is the first, most urgent one. */
static qn_status read_class(extra *x, const char **param, qn_err *err)
{
    const json_t *v = x->priority;
    const char *name = x->class_name;
    *param = name ? "class" : "priority";
    if (!v && !name)
        return QN_OK;
    qn_engine_stats st;
    qn_engine_get_stats((qn_engine *)x->engine, &st);
    if (!name && json_is_integer(v)) {
        json_int_t i = json_integer_value(v);
        if (i < 0 || i >= st.n_classes)
            return qn_fail(err, QN_E_ARG,
                           "priority: found %lld, want the number of a class, 0 to %d",
                           (long long)i, st.n_classes - 1);
        x->to->class_name = st.classes[i].name;
        return QN_OK;
    }
    if (!name && !json_is_string(v))
        return qn_fail(err, QN_E_ARG, "priority: found %s, want a class's name or number",
                       qn_json_type_name(v));
    name = name ? name : json_string_value(v);
    for (int i = 0; i < st.n_classes; i++)
        if (strcmp(st.classes[i].name, name) == 0) {
            x->to->class_name = st.classes[i].name;
            return QN_OK;
        }
    qn_str names = {0};
    for (int i = 0; i < st.n_classes; i++)
        qn_str_addf(&names, "%s%s", i ? ", " : "", st.classes[i].name);
    qn_status s = qn_fail(err, QN_E_ARG, "%s: found '%.40s', want one of %s", *param, name,
                          names.failed ? "the server's" : names.p);
    qn_str_fini(&names);
    return s;
}

/* How the APIs write "off" and "none" where qn_params has another number for it. */
static void settle(extra *x, const json_t *o)
{
    qn_params *p = x->to;
    if (p->top_k < 0)
        p->top_k = 0;
    if (is_given(o, "top_p") && p->top_p <= 0)
        p->top_p = 1e-6f; /* nothing but the best token */
    if (is_given(o, "typical_p") && p->typical_p <= 0)
        p->typical_p = 1e-6f;
    if (p->min_p >= 1)
        p->min_p = 0.999999f;
    if (is_given(o, "seed"))
        p->seed = x->seed ? x->seed : 0x9e3779b97f4a7c15u; /* 0 stands for a random one */
    if (x->use_beam_search && !p->beam_width)
        p->beam_width = QN_MAX(p->n, x->best_of);
}

static qn_status read_max_tokens(extra *x, const char **param, qn_err *err)
{
    qn_params *p = x->to;
    *param = "max_tokens";
    if (x->max_tokens == 0 && !x->echo)
        return qn_fail(err, QN_E_ARG, "max_tokens: found 0, want at least 1");
    if (x->max_tokens >= 0)
        p->max_tokens = x->max_tokens;
    *param = "min_tokens";
    if (x->max_tokens >= 0 && p->min_tokens > x->max_tokens)
        return qn_fail(err, QN_E_ARG, "min_tokens: found %d, want at most max_tokens, which is %d",
                       p->min_tokens, x->max_tokens);
    return QN_OK;
}

qn_status qn_sampling_read(const json_t *o, const qn_engine *e, qn_arena *arena, qn_params *out,
                           const char **param, qn_err *err)
{
    extra x = {.to = out, .engine = e, .arena = arena, .max_tokens = -1};
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    qn_engine_get_params(e, out);
    QN_TRY(qn_fields_read(o, numbers, QN_COUNT(numbers), out, param, err));
    QN_TRY(qn_fields_read(o, others, QN_COUNT(others), &x, param, err));
    QN_TRY(read_max_tokens(&x, param, err));
    QN_TRY(read_stop(&x, param, err));
    QN_TRY(read_stop_ids(&x, info.n_vocab, param, err));
    QN_TRY(read_bias(&x, info.n_vocab, param, err));
    QN_TRY(read_class(&x, param, err));
    settle(&x, o);
    *param = "n";
    if (out->beam_width && out->n > out->beam_width)
        return qn_fail(err, QN_E_ARG, "n: found %d, want at most beam_width, which is %d", out->n,
                       out->beam_width);
    *param = NULL;
    return QN_OK;
}
