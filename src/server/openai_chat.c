/* SPDX-License-Identifier: Apache-2.0
 * openai_chat.c - POST /v1/chat/completions. */
#include "server/openai.h"

#include "base/limits.h"
#include <string.h>

/* {"token": ..., "logprob": ..., "bytes": [...] , without the closing brace: a token may be half a character, its bytes never lie. */
static void add_token(qn_str *s, const qn_logprob *lp)
{
    qn_str_adds(s, "{\"token\":");
    qn_str_add_json(s, lp->text, lp->n_text);
    qn_str_adds(s, ",\"logprob\":");
    qn_answer_add_float(s, lp->logprob);
    qn_str_adds(s, ",\"bytes\":[");
    for (size_t i = 0; i < lp->n_text; i++)
        qn_str_addf(s, "%s%u", i ? "," : "", (unsigned char)lp->text[i]);
    qn_str_addc(s, ']');
}

static void add_logprobs(qn_str *s, const qn_openai_answer *a, const qn_openai_choice *c,
                         const qn_openai_piece *piece)
{
    if (a->n_top < 0 || piece->is_start || piece->is_end) {
        qn_str_adds(s, ",\"logprobs\":null");
        return;
    }
    qn_str_adds(s, ",\"logprobs\":{\"content\":[");
    for (size_t i = piece->first; i < piece->end; i++) {
        const qn_logprob *lp = qn_openai_entry(a, c, i);
        if (i > piece->first)
            qn_str_addc(s, ',');
        add_token(s, lp);
        qn_str_adds(s, ",\"top_logprobs\":[");
        for (int k = 1; k <= a->n_top && lp[k].token_id >= 0; k++) {
            if (k > 1)
                qn_str_addc(s, ',');
            add_token(s, &lp[k]);
            qn_str_addc(s, '}');
        }
        qn_str_adds(s, "]}");
    }
    qn_str_adds(s, "],\"refusal\":null}");
}

static void add_piece(qn_str *s, const qn_openai_answer *a, qn_openai_choice *c,
                      const qn_openai_prompt *p, const qn_openai_piece *piece)
{
    (void)p;
    if (piece->is_whole)
        qn_str_adds(s, ",\"message\":{\"role\":\"assistant\",\"content\":");
    else if (piece->is_start)
        qn_str_adds(s, ",\"delta\":{\"role\":\"assistant\",\"content\":");
    else if (piece->is_end)
        qn_str_adds(s, ",\"delta\":{");
    else
        qn_str_adds(s, ",\"delta\":{\"content\":");
    if (!piece->is_end)
        qn_str_add_json(s, piece->text, piece->n_text);
    if (piece->is_whole)
        qn_str_adds(s, ",\"refusal\":null");
    qn_str_addc(s, '}');
    add_logprobs(s, a, c, piece);
}

static const qn_openai_shape shape = {
    "chatcmpl-", "chat.completion", "chat.completion.chunk", "messages", true, add_piece};

typedef struct own {
    bool logprobs, echo;
    int top_logprobs;
} own;

static const qn_field own_fields[] = {
    {"logprobs", QN_FIELD_BOOL, offsetof(own, logprobs), 0, 0},
    {"top_logprobs", QN_FIELD_INT, offsetof(own, top_logprobs), 0, QN_LIMIT_TOP_LOGPROBS},
    {"echo", QN_FIELD_BOOL, offsetof(own, echo), 0, 0},
};

static qn_status read_own(qn_openai_answer *a, const char **param, qn_err *err)
{
    own o = {.top_logprobs = -1};
    QN_TRY(qn_fields_read(a->body, own_fields, QN_COUNT(own_fields), &o, param, err));
    *param = "top_logprobs";
    if (o.top_logprobs > 0 && !o.logprobs)
        return qn_fail(err, QN_E_ARG,
                       "top_logprobs: found %d without logprobs, want \"logprobs\": "
                       "true beside it",
                       o.top_logprobs);
    *param = "echo";
    if (o.echo)
        return qn_fail(err, QN_E_UNSUPPORTED, "echo: not done in chats");
    if (o.logprobs)
        a->n_top = QN_MAX(o.top_logprobs, 0);
    *param = NULL;
    return QN_OK;
}

/* Renders and tokenises. */
static qn_status read_prompt(qn_exchange *x, qn_openai_answer *a, const char **param, qn_err *err)
{
    qn_str chat = {0};
    QN_TRY(qn_openai_take_prompts(x, a, 1, err));
    qn_status s = qn_openai_messages(a->body, &chat, param, err);
    if (s == QN_OK) {
        *param = "messages";
        s = qn_encode(a->engine, &(qn_prompt){.chat_json = chat.p}, &a->prompts[0].ids,
                      &a->prompts[0].n_ids, err);
    }
    qn_str_fini(&chat);
    return s;
}

void qn_openai_chat(qn_exchange *x)
{
    const char *param = NULL;
    qn_err err = {0};
    const json_t *body = qn_x_json(x);
    qn_openai_answer *a = body ? qn_openai_open(x, body, &shape) : NULL;
    if (!a)
        return;
    qn_status s = read_own(a, &param, &err);
    if (s == QN_OK && a->n_prompt_top >= 0 && qn_x_slowly(x, qn_openai_chat)) {
        qn_openai_answer_free(a);
        return;
    }
    if (s == QN_OK)
        s = read_prompt(x, a, &param, &err);
    if (s == QN_OK) {
        qn_openai_run(x, a);
        return;
    }
    qn_x_fail(x, &err, param);
    qn_openai_answer_free(a);
}
