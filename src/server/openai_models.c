/* SPDX-License-Identifier: Apache-2.0
 * openai_models.c - GET /v1/models, /v1/models/{id}. */
#include "server/openai.h"

#include <string.h>

/* What vLLM's and llama.cpp's clients look for is there too once the model is open. */
static void add_model(qn_str *s, const qn_model_entry *m)
{
    qn_str_adds(s, "{\"id\":");
    qn_str_add_json(s, m->name, strlen(m->name));
    qn_str_addf(s, ",\"object\":\"model\",\"created\":%llu,\"owned_by\":\"quern\",\"root\":",
                (unsigned long long)m->created);
    qn_str_add_json(s, m->name, strlen(m->name));
    qn_str_adds(s, ",\"parent\":null");
    if (m->engine) {
        qn_engine_info i;
        qn_engine_get_info(m->engine, &i);
        qn_str_addf(s, ",\"max_model_len\":%d,\"meta\":{\"n_ctx\":%d,\"n_ctx_train\":%d", i.max_ctx,
                    i.max_ctx, i.model_max_ctx);
        qn_str_addf(s, ",\"n_params\":%llu,\"size\":%llu,\"n_vocab\":%d,\"n_embd\":%d,\"arch\":",
                    (unsigned long long)i.n_params, (unsigned long long)i.weight_bytes, i.n_vocab,
                    i.hidden_size);
        qn_str_add_json(s, i.arch, strlen(i.arch));
        qn_str_adds(s, ",\"quantization\":");
        qn_str_add_json(s, i.quantization, strlen(i.quantization));
        qn_str_addc(s, '}');
    }
    qn_str_adds(s, m->is_ready ? ",\"status\":{\"value\":\"loaded\"}"
                               : ",\"status\":{\"value\":\"loading\",\"progress\":");
    if (!m->is_ready) {
        qn_openai_add_number(s, m->progress);
        qn_str_addc(s, '}');
    }
    qn_str_addc(s, '}');
}

void qn_openai_models(qn_exchange *x)
{
    qn_str s = {0};
    qn_str_adds(&s, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < qn_x_n_models(x); i++) {
        qn_model_entry m;
        qn_x_model_at(x, i, &m);
        if (i)
            qn_str_addc(&s, ',');
        add_model(&s, &m);
    }
    qn_str_adds(&s, "]}");
    qn_x_reply_json(x, 200, &s);
}

static bool find_model(const qn_exchange *x, qn_slice name, qn_model_entry *m)
{
    for (size_t i = 0; i < qn_x_n_models(x); i++) {
        qn_x_model_at(x, i, m);
        if (qn_slice_is(name, m->name))
            return true;
    }
    return false;
}

void qn_openai_model(qn_exchange *x)
{
    qn_slice want = qn_x_rest(x);
    qn_model_entry m;
    bool is_found = find_model(x, want, &m);
    if (!is_found) { /* an alias, or none: that is answered there */
        const char *served = NULL, *name = qn_arena_strndup(qn_x_arena(x), want.p, want.n);
        if (!name) {
            qn_x_error(x, 503, NULL, NULL, "out of memory");
            return;
        }
        if (!qn_x_model(x, name, &served))
            return;
        is_found = find_model(x, qn_slice_of(served), &m);
    }
    if (!is_found) {
        qn_x_error(x, 404, "model", "model_not_found", "the model '%.*s' does not exist",
                   (int)QN_MIN(want.n, (size_t)200), want.p);
        return;
    }
    qn_str s = {0};
    add_model(&s, &m);
    qn_x_reply_json(x, 200, &s);
}
