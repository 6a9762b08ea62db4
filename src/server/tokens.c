/* SPDX-License-Identifier: Apache-2.0
 * tokens.c - /tokenize, /detokenize, /tokenizer_info, /apply-template, as vLLM's and llama.cpp's clients ask.
 *
 *   {"prompt": text} or {"messages": [...]}   vLLM: count, max_model_len, tokens, token_strs
 *   {"content": text}                         llama.cpp: tokens, as ids or as {"id", "piece"}
 *
 * What is counted here is what a request with the same prompt is charged.
 * Threads: workers. */
#include "server/openai.h"

#include "base/limits.h"
#include <string.h>

typedef struct asked {
    const char *model;
    const json_t *prompt, *content, *messages, *tokens;
    bool add_special, parse_special, with_pieces, return_strings;
} asked;

static const qn_field fields[] = {
    {"model", QN_FIELD_STR, offsetof(asked, model), 0, 0},
    {"prompt", QN_FIELD_ANY, offsetof(asked, prompt), 0, 0},
    {"content", QN_FIELD_ANY, offsetof(asked, content), 0, 0},
    {"messages", QN_FIELD_ARRAY, offsetof(asked, messages), 0, 0},
    {"tokens", QN_FIELD_ARRAY, offsetof(asked, tokens), 0, 0},
    {"add_special_tokens", QN_FIELD_BOOL, offsetof(asked, add_special), 0, 0},
    {"add_special", QN_FIELD_BOOL, offsetof(asked, add_special), 0, 0},
    {"parse_special", QN_FIELD_BOOL, offsetof(asked, parse_special), 0, 0},
    {"with_pieces", QN_FIELD_BOOL, offsetof(asked, with_pieces), 0, 0},
    {"return_token_strs", QN_FIELD_BOOL, offsetof(asked, return_strings), 0, 0},
};

/* The body and the model; NULL: answered. */
static qn_engine *open_body(qn_exchange *x, asked *q, const json_t **body)
{
    const char *param = NULL, *served;
    qn_err err = {0};
    *body = qn_x_json(x);
    if (!*body)
        return NULL;
    const json_t *content = json_object_get(*body, "content");
    *q = (asked){.parse_special = true, .add_special = !content || json_is_null(content)};
    if (qn_fields_read(*body, fields, QN_COUNT(fields), q, &param, &err) == QN_OK)
        return qn_x_model(x, q->model, &served);
    qn_x_fail(x, &err, param);
    return NULL;
}

/* ---- tokenize ---- */

static qn_status encode_text(const qn_engine *e, const asked *q, const json_t *v, int32_t **ids,
                             size_t *n, qn_err *err)
{
    const char *text = json_string_value(v);
    size_t n_text = json_string_length(v);
    if (!q->add_special || !n_text)
        return qn_tokenize(e, text, n_text, q->parse_special, ids, n, err);
    qn_prompt p = {.text = text, .n_text = n_text, .parse_special = q->parse_special};
    return qn_encode(e, &p, ids, n, err);
}

static qn_status encode_messages(const qn_engine *e, const json_t *body, int32_t **ids, size_t *n,
                                 const char **param, qn_err *err)
{
    qn_str chat = {0};
    qn_status s = qn_openai_messages(body, &chat, param, err);
    if (s == QN_OK)
        s = qn_encode(e, &(qn_prompt){.chat_json = chat.p}, ids, n, err);
    qn_str_fini(&chat);
    return s;
}

static qn_status encode(const qn_engine *e, const asked *q, const json_t *body, int32_t **ids,
                        size_t *n, const char **param, qn_err *err)
{
    if (q->messages)
        return encode_messages(e, body, ids, n, param, err);
    const json_t *v = q->content ? q->content : q->prompt;
    *param = q->content ? "content" : "prompt";
    if (!json_is_string(v))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want a string, or messages", *param,
                       v ? qn_json_type_name(v) : "nothing");
    return encode_text(e, q, v, ids, n, err);
}

/* A token's text; of a part of a character its bytes. */
static void add_piece(qn_str *s, const qn_engine *e, int32_t id)
{
    const char *text = "";
    size_t n = 0;
    (void)qn_token_text(e, id, &text, &n);
    if (qn_utf8_valid(text, n)) {
        qn_str_add_json(s, text, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        qn_str_addf(s, "%c%u", i ? ',' : '[', (unsigned char)text[i]);
    qn_str_addc(s, ']');
}

static void add_tokens(qn_str *s, const qn_engine *e, const asked *q, const int32_t *ids, size_t n)
{
    qn_str_adds(s, "\"tokens\":[");
    for (size_t i = 0; i < n && s->n <= QN_LIMIT_HTTP_ANSWER; i++) { /* more is refused */
        if (i)
            qn_str_addc(s, ',');
        if (!q->with_pieces) {
            qn_str_addf(s, "%d", (int)ids[i]);
            continue;
        }
        qn_str_addf(s, "{\"id\":%d,\"piece\":", (int)ids[i]);
        add_piece(s, e, ids[i]);
        qn_str_addc(s, '}');
    }
    qn_str_addc(s, ']');
    if (!q->return_strings)
        return;
    qn_str_adds(s, ",\"token_strs\":[");
    for (size_t i = 0; i < n && s->n <= QN_LIMIT_HTTP_ANSWER; i++) {
        const char *text = "";
        size_t n_text = 0;
        (void)qn_token_text(e, ids[i], &text, &n_text);
        if (i)
            qn_str_addc(s, ',');
        qn_str_add_json(s, text, n_text);
    }
    qn_str_addc(s, ']');
}

static void tokenize(qn_exchange *x)
{
    asked q;
    qn_err err = {0};
    const json_t *body;
    const char *param = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    qn_engine *e = open_body(x, &q, &body);
    if (!e)
        return;
    if (encode(e, &q, body, &ids, &n, &param, &err) != QN_OK) {
        qn_x_fail(x, &err, param);
        return;
    }
    qn_str s = {0};
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    qn_str_addf(&s, "{\"count\":%zu,\"max_model_len\":%d,", n, info.max_ctx);
    add_tokens(&s, e, &q, ids, n);
    qn_str_addc(&s, '}');
    qn_release(ids);
    qn_x_reply_json(x, 200, &s);
}

/* ---- detokenize ---- */

static qn_status decode(const qn_engine *e, const json_t *list, char **text, size_t *n_text,
                        qn_err *err)
{
    int32_t *ids;
    size_t n;
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    *text = NULL;
    if (!list)
        return qn_fail(err, QN_E_ARG, "tokens: found nothing, want an array of token ids");
    if (json_array_size(list) > QN_LIMIT_SCORED_TOKENS)
        return qn_fail(err, QN_E_ARG, "tokens: found %zu, want at most %d", json_array_size(list),
                       QN_LIMIT_SCORED_TOKENS);
    qn_status s = qn_fields_ids("tokens", list, info.n_vocab, NULL, &ids, &n, err);
    if (s == QN_OK)
        s = qn_detokenize(e, ids, n, false, text, n_text, err);
    qn_release(ids);
    return s;
}

static void detokenize(qn_exchange *x)
{
    asked q;
    qn_err err = {0};
    const json_t *body;
    char *text;
    size_t n;
    qn_engine *e = open_body(x, &q, &body);
    if (!e)
        return;
    if (decode(e, q.tokens, &text, &n, &err) != QN_OK) {
        qn_x_fail(x, &err, "tokens");
        return;
    }
    qn_str s = {0};
    qn_str_adds(&s, "{\"prompt\":");
    qn_str_add_json(&s, text, n);
    qn_str_adds(&s, ",\"content\":");
    qn_str_add_json(&s, text, n);
    qn_str_addc(&s, '}');
    qn_release(text);
    qn_x_reply_json(x, 200, &s);
}

/* ---- what the tokenizer is ---- */

static void add_token(qn_str *s, const qn_engine *e, const char *name, int32_t id)
{
    const char *text;
    size_t n;
    qn_str_addf(s, ",\"%s\":", name);
    if (qn_token_text(e, id, &text, &n))
        qn_str_add_json(s, text, n);
    else
        qn_str_adds(s, "null");
}

static void tokenizer_info(qn_exchange *x)
{
    qn_slice name = qn_x_query(x, "model");
    const char *served, *model = name.p ? qn_arena_strndup(qn_x_arena(x), name.p, name.n) : NULL;
    qn_engine *e = qn_x_model(x, model, &served);
    if (!e)
        return;
    qn_engine_info info;
    qn_text_info text;
    qn_engine_get_info(e, &info);
    qn_engine_get_text(e, &text);
    qn_str s = {0};
    qn_str_addf(&s,
                "{\"tokenizer_class\":\"Qwen2Tokenizer\",\"model_max_length\":%d,\"vocab_size\":%d,"
                "\"add_bos_token\":%s",
                info.max_ctx, info.n_vocab, text.adds_bos ? "true" : "false");
    add_token(&s, e, "bos_token", text.bos_id);
    add_token(&s, e, "eos_token", text.eos_id);
    add_token(&s, e, "pad_token", text.eos_id); /* nothing here pads; clients want one */
    qn_str_adds(&s, ",\"chat_template\":");
    qn_str_add_json_or_null(&s, text.chat_template);
    qn_str_addc(&s, '}');
    qn_x_reply_json(x, 200, &s);
}

static void apply_template(qn_exchange *x)
{
    asked q;
    qn_err err = {0};
    const json_t *body;
    const char *param = NULL;
    char *text = NULL;
    size_t n = 0;
    qn_str chat = {0}, s = {0};
    qn_engine *e = open_body(x, &q, &body);
    if (!e)
        return;
    qn_status st = qn_openai_messages(body, &chat, &param, &err);
    if (st == QN_OK)
        st = qn_render(e, &(qn_prompt){.chat_json = chat.p}, &text, &n, &err);
    qn_str_fini(&chat);
    if (st != QN_OK) {
        qn_x_fail(x, &err, param);
        return;
    }
    qn_str_adds(&s, "{\"prompt\":");
    qn_str_add_json(&s, text, n);
    qn_str_addc(&s, '}');
    qn_release(text);
    qn_x_reply_json(x, 200, &s);
}

const qn_route qn_tokens_routes[] = {
    {"POST", "/tokenize", tokenize, false, false},
    {"POST", "/detokenize", detokenize, false, false},
    {"GET", "/tokenizer_info", tokenizer_info, false, false},
    {"POST", "/apply-template", apply_template, false, false},
    {NULL, NULL, NULL, false, false},
};
