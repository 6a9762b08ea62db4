/* SPDX-License-Identifier: Apache-2.0
 * openai_chat.c - POST /v1/chat/completions. */
#include "server/openai.h"

#include "base/limits.h"
#include <stdio.h>
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
    if (a->n_top < 0 || piece->is_start || (piece->is_end && piece->first == piece->end)) {
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

/* Both names that clients know thoughts by. */
static void add_reasoning(qn_str *s, const char *p, size_t n)
{
    qn_str_adds(s, "\"reasoning_content\":");
    qn_str_add_json(s, p, n);
    qn_str_adds(s, ",\"reasoning\":");
    qn_str_add_json(s, p, n);
}

/* Without the brace before it, and up to its arguments. */
static void add_call(qn_str *s, const qn_answer_call *c)
{
    qn_str_addf(s, "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", c->id);
    qn_answer_add_text(s, &c->name);
    qn_str_adds(s, ",\"arguments\":");
}

static void add_message(qn_str *s, const qn_openai_answer *a, const qn_openai_piece *piece)
{
    const qn_answer_part *p = piece->part;
    qn_str_adds(s, ",\"message\":{\"role\":\"assistant\",\"content\":");
    if (p->n_calls && !piece->n_text)
        qn_str_adds(s, "null");
    else
        qn_str_add_json(s, piece->text, piece->n_text);
    qn_str_adds(s, ",\"refusal\":null");
    if (p->reasoning.n && !a->demand.is_silent) {
        qn_str_addc(s, ',');
        add_reasoning(s, p->reasoning.p, p->reasoning.n);
    }
    for (size_t i = 0; i < p->n_calls; i++) {
        qn_str_adds(s, i ? ",{" : ",\"tool_calls\":[{");
        add_call(s, &p->calls[i]);
        qn_answer_add_text(s, &p->calls[i].arguments);
        qn_str_adds(s, "}}");
    }
    qn_str_adds(s, p->n_calls ? "]}" : "}");
}

/* The first of a call has all but its arguments, later ones have them. */
static void add_delta(qn_str *s, const qn_openai_piece *piece)
{
    const qn_answer_delta *d = piece->delta;
    qn_reply_kind kind = d ? d->kind : QN_REPLY_CONTENT;
    if (kind == QN_REPLY_CONTENT) {
        qn_str_adds(s, "\"content\":");
        qn_str_add_json(s, piece->text, piece->n_text);
        return;
    }
    if (kind == QN_REPLY_REASONING) {
        add_reasoning(s, piece->text, piece->n_text);
        return;
    }
    size_t call = piece->part->items[d->item].call;
    qn_str_addf(s, "\"tool_calls\":[{\"index\":%zu,", call);
    if (kind == QN_REPLY_CALL) {
        add_call(s, &piece->part->calls[call]);
        qn_str_adds(s, "\"\"}}]");
    } else {
        qn_str_adds(s, "\"function\":{\"arguments\":");
        qn_str_add_json(s, piece->text, piece->n_text);
        qn_str_adds(s, "}}]");
    }
}

static void add_piece(qn_str *s, const qn_openai_answer *a, qn_openai_choice *c,
                      const qn_openai_prompt *p, const qn_openai_piece *piece)
{
    (void)p;
    if (piece->is_whole) {
        add_message(s, a, piece);
    } else if (piece->is_start) {
        qn_str_adds(s, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    } else {
        qn_str_adds(s, ",\"delta\":{");
        if (!piece->is_end)
            add_delta(s, piece);
        qn_str_addc(s, '}');
    }
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

/* Tools and thoughts; qn_openai_messages tells them to the template, and refuses what is none. */
static qn_status read_demand(qn_openai_answer *a, const char **param, qn_err *err)
{
    const json_t *tools = json_object_get(a->body, "tools");
    bool parallel = true;
    const qn_field field = {"parallel_tool_calls", QN_FIELD_BOOL, 0, 0, 0};
    QN_TRY(qn_fields_read(a->body, &field, 1, &parallel, param, err));
    QN_TRY(qn_demand_read_thinking(&a->demand, a->body, param, err));
    *param = "tools";
    for (size_t i = 0; i < json_array_size(tools); i++) {
        char where[64];
        const json_t *f = json_object_get(json_array_get(tools, i), "function");
        const json_t *name = json_object_get(f, "name");
        (void)snprintf(where, sizeof where, "tools[%zu].function.parameters", i);
        QN_TRY(qn_demand_tool(&a->demand, where, name, json_object_get(f, "parameters"),
                              json_object_get(f, "strict"), err));
    }
    *param = "tool_choice";
    QN_TRY(qn_demand_read_choice(&a->demand, json_object_get(a->body, "tool_choice"), err));
    a->demand.is_single |= !parallel;
    *param = NULL;
    return QN_OK;
}

/* Renders and tokenises. */
static qn_status read_prompt(qn_exchange *x, qn_openai_answer *a, const char **param, qn_err *err)
{
    qn_str chat = {0};
    int32_t *ids = NULL;
    size_t n_ids = 0;
    qn_status s = qn_openai_messages(a->body, &chat, param, err);
    if (s == QN_OK) {
        *param = "messages";
        s = qn_encode(a->engine, &(qn_prompt){.chat_json = chat.p}, &ids, &n_ids, err);
    }
    qn_str_fini(&chat);
    if (s == QN_OK)
        s = read_demand(a, param, err);
    if (s == QN_OK)
        s = qn_demand_settle(&a->demand, a->engine, ids, n_ids, &a->params.grammar, param, err);
    a->answer.style = &a->demand.style;
    a->answer.is_stream = a->is_stream;
    if (s == QN_OK)
        s = qn_openai_take_prompts(x, a, 1, err);
    if (s != QN_OK) {
        qn_grammar_close(a->params.grammar);
        qn_release(ids);
        return s;
    }
    a->prompts[0].ids = ids;
    a->prompts[0].n_ids = n_ids;
    return QN_OK;
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
    if (s == QN_OK && a->n_prompt_top >= 0 && qn_x_put_off(x, QN_X_SCORING)) {
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
