/* SPDX-License-Identifier: Apache-2.0
 * openai_models.c - GET /v1/models, /v1/models/{id}. */
#include "server/openai.h"

#include <string.h>

/* What vLLM's and llama.cpp's clients look for is there too once it is known. */
static void add_model(qn_str *s, const qn_model_entry *m)
{
    qn_str_adds(s, "{\"id\":");
    qn_str_add_json(s, m->name, strlen(m->name));
    qn_str_addf(s, ",\"object\":\"model\",\"created\":%llu,\"owned_by\":\"quern\",\"root\":",
                (unsigned long long)m->created);
    qn_str_add_json(s, m->name, strlen(m->name));
    qn_str_adds(s, ",\"parent\":null");
    const qn_engine_info *i = m->info;
    if (i) {
        qn_str_addf(s, ",\"max_model_len\":%d,\"meta\":{\"n_ctx\":%d,\"n_ctx_train\":%d",
                    i->max_ctx, i->max_ctx, i->model_max_ctx);
        qn_str_addf(s, ",\"n_params\":%llu,\"size\":%llu,\"n_vocab\":%d,\"n_embd\":%d,\"arch\":",
                    (unsigned long long)i->n_params, (unsigned long long)i->weight_bytes,
                    i->n_vocab, i->hidden_size);
        qn_str_add_json(s, i->arch, strlen(i->arch));
        qn_str_adds(s, ",\"quantization\":");
        qn_str_add_json(s, i->quantization, strlen(i->quantization));
        qn_str_addc(s, '}');
    }
    qn_str_addf(s, ",\"status\":{\"value\":\"%s\"",
                m->state == QN_MODEL_LOADED    ? "loaded"
                : m->state == QN_MODEL_LOADING ? "loading"
                                               : "unloaded");
    if (m->state == QN_MODEL_LOADING) {
        qn_str_adds(s, ",\"progress\":");
        qn_openai_add_number(s, m->progress);
    }
    if (m->why) {
        qn_str_adds(s, ",\"failed\":true,\"error\":");
        qn_str_add_json(s, m->why, strlen(m->why));
    }
    qn_str_adds(s, "}}");
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

void qn_openai_model(qn_exchange *x)
{
    qn_slice want = qn_x_rest(x);
    const char *name = qn_arena_strndup(qn_x_arena(x), want.p, want.n);
    if (!name) {
        qn_x_error(x, 503, NULL, NULL, "out of memory");
        return;
    }
    size_t i = qn_x_find(x, name);
    if (i >= qn_x_n_models(x)) {
        (void)qn_x_model(x, name, NULL); /* says which there are */
        return;
    }
    qn_model_entry m;
    qn_str s = {0};
    qn_x_model_at(x, i, &m);
    add_model(&s, &m);
    qn_x_reply_json(x, 200, &s);
}
