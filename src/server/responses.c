/* SPDX-License-Identifier: Apache-2.0
 * responses.c - OpenAI's /v1/responses, without a memory of answers.
 *
 *   instructions, input items -> turns -> template -> tokens -> answer: items (reasoning, message, function_call), and the usage
 *   streamed: created, in_progress, items, completed or incomplete; each event numbered by sequence_number. An item is
 *     reasoning      output_item.added, content_part.added, reasoning_text.delta ..., reasoning_text.done, content_part.done, output_item.done
 *     message        the same with output_text
 *     function_call  output_item.added, function_call_arguments.delta ..., function_call_arguments.done, output_item.done
 *
 * Nothing is stored: previous_response_id, conversation and background are refused by name. Function calls and their results become the
 * template's.
 * Threads: handlers on a worker, the rest on the I/O thread. Source: OpenAI's API reference, the openai client's types. */
#include "base/limits.h"
#include "server/answer.h"
#include "server/demand.h"
#include "server/exchange.h"
#include "server/sampling.h"
#include "server/turns.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct response_body {
    const char *model, *instructions, *previous_response_id, *truncation;
    const json_t *input, *tools, *tool_choice, *text, *reasoning, *conversation, *prompt, *include,
        *metadata, *kwargs, *temperature, *top_p, *max_tool_calls;
    int max_output_tokens, top_logprobs;
    bool stream, background, parallel_tool_calls;
} response_body;

static const qn_field body_fields[] = {
    {"model", QN_FIELD_STR, offsetof(response_body, model), 0, 0},
    {"instructions", QN_FIELD_STR, offsetof(response_body, instructions), 0, 0},
    {"previous_response_id", QN_FIELD_STR, offsetof(response_body, previous_response_id), 0, 0},
    {"truncation", QN_FIELD_STR, offsetof(response_body, truncation), 0, 0},
    {"input", QN_FIELD_ANY, offsetof(response_body, input), 0, 0},
    {"tools", QN_FIELD_ARRAY, offsetof(response_body, tools), 0, 0},
    {"tool_choice", QN_FIELD_ANY, offsetof(response_body, tool_choice), 0, 0},
    {"text", QN_FIELD_OBJECT, offsetof(response_body, text), 0, 0},
    {"reasoning", QN_FIELD_OBJECT, offsetof(response_body, reasoning), 0, 0},
    {"conversation", QN_FIELD_ANY, offsetof(response_body, conversation), 0, 0},
    {"prompt", QN_FIELD_ANY, offsetof(response_body, prompt), 0, 0},
    {"include", QN_FIELD_ARRAY, offsetof(response_body, include), 0, 0},
    {"metadata", QN_FIELD_OBJECT, offsetof(response_body, metadata), 0, 0},
    {"chat_template_kwargs", QN_FIELD_OBJECT, offsetof(response_body, kwargs), 0, 0},
    {"max_output_tokens", QN_FIELD_INT, offsetof(response_body, max_output_tokens), 1, 1 << 24},
    {"top_logprobs", QN_FIELD_INT, offsetof(response_body, top_logprobs), 0, 20},
    {"stream", QN_FIELD_BOOL, offsetof(response_body, stream), 0, 0},
    {"background", QN_FIELD_BOOL, offsetof(response_body, background), 0, 0},
    {"parallel_tool_calls", QN_FIELD_BOOL, offsetof(response_body, parallel_tool_calls), 0, 0},
};

typedef struct response {
    qn_answer answer;   /* first: qn_answer_event */
    response_body body; /* borrowed from the exchange's JSON */
    qn_demand demand;
    const char *model;
    char id[QN_ANSWER_ID], hex[QN_ANSWER_ID]; /* hex: what items' ids are made of */
    size_t open;                              /* the item that is being sent; SIZE_MAX: none */
    int64_t created;
    float temperature, top_p;
    unsigned n_sent; /* events */
    bool is_begun;
} response;

/* ---- the request ---- */

static const char *const part_types[] = {"input_text", "output_text", "text", "reasoning_text",
                                         NULL};

static qn_status want_string(const json_t *o, const char *key, const qn_where *where,
                             const char **out, qn_err *err)
{
    *out = qn_turns_string(json_object_get(o, key));
    return *out ? QN_OK
                : qn_fail(err, QN_E_ARG, "%s.%s: found %s, want a string", where->path, key,
                          qn_json_type_name(json_object_get(o, key)));
}

static qn_status read_message(qn_turns *t, const json_t *item, qn_where *where, qn_err *err)
{
    static const char *const roles[] = {"system", "user", "assistant", "developer"};
    const char *role, *known = NULL;
    QN_TRY(want_string(item, "role", where, &role, err));
    for (size_t i = 0; i < QN_COUNT(roles); i++)
        known = strcmp(role, roles[i]) == 0 ? roles[i] : known;
    if (!known)
        return qn_fail(err, QN_E_ARG,
                       "%s.role: found %s, want system, developer, user or assistant", where->path,
                       role);
    qn_turns_open(t, strcmp(known, "developer") == 0 ? "system" : known);
    *where = qn_where_at(where, "content");
    return qn_turns_parts(t, json_object_get(item, "content"), part_types, where, err);
}

/* Calls in a row, and what the assistant said or thought before them, are one message. */
static void open_assistant(qn_turns *t)
{
    if (!t->is_open || strcmp(t->role, "assistant") != 0)
        qn_turns_open(t, "assistant");
}

static qn_status read_call(qn_turns *t, const json_t *item, const qn_where *where, qn_err *err)
{
    const char *id, *name, *text;
    json_t *arguments;
    QN_TRY(want_string(item, "call_id", where, &id, err));
    QN_TRY(want_string(item, "name", where, &name, err));
    QN_TRY(want_string(item, "arguments", where, &text, err));
    QN_TRY(qn_json_parse(&arguments, *text ? text : "{}", *text ? strlen(text) : 2, 32, where->path,
                         err));
    open_assistant(t);
    qn_turns_call(t, id, name, arguments);
    json_decref(arguments);
    return QN_OK;
}

static qn_status read_output(qn_turns *t, const json_t *item, qn_where *where, qn_err *err)
{
    const char *id;
    QN_TRY(want_string(item, "call_id", where, &id, err));
    qn_turns_open(t, "tool");
    qn_turns_field(t, "tool_call_id", id);
    *where = qn_where_at(where, "output");
    return qn_turns_parts(t, json_object_get(item, "output"), part_types, where, err);
}

/* What the model thought in an earlier answer, as far as it can be read. */
static qn_status read_reasoning(qn_turns *t, const json_t *item)
{
    const json_t *content = json_object_get(item, "content");
    open_assistant(t);
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *text = json_object_get(json_array_get(content, i), "text");
        if (json_is_string(text))
            qn_turns_reasoning(t, json_string_value(text), json_string_length(text));
    }
    return QN_OK;
}

static qn_status read_item(qn_turns *t, const json_t *item, qn_where *where, qn_err *err)
{
    const json_t *type = json_object_get(item, "type");
    const char *name = type ? qn_turns_string(type) : "message";
    if (!json_is_object(item) || !name)
        return qn_fail(err, QN_E_ARG, "%s: found %s, want an object with a type", where->path,
                       qn_json_type_name(item));
    if (strcmp(name, "message") == 0)
        return read_message(t, item, where, err);
    if (strcmp(name, "function_call") == 0)
        return read_call(t, item, where, err);
    if (strcmp(name, "function_call_output") == 0)
        return read_output(t, item, where, err);
    if (strcmp(name, "reasoning") == 0)
        return read_reasoning(t, item);
    *where = qn_where_at(where, "type");
    return qn_fail(err, QN_E_UNSUPPORTED,
                   "%s: found %s, want message, function_call, function_call_output or reasoning",
                   where->path, name);
}

static qn_status read_input(qn_turns *t, const response_body *b, qn_where *where, qn_err *err)
{
    *where = qn_where_at(NULL, "input");
    if (b->instructions) {
        qn_turns_open(t, "system");
        qn_turns_text(t, b->instructions, strlen(b->instructions));
    }
    if (json_is_string(b->input)) {
        qn_turns_open(t, "user");
        qn_turns_text(t, json_string_value(b->input), json_string_length(b->input));
        return QN_OK;
    }
    if (!json_array_size(b->input))
        return qn_fail(err, QN_E_ARG, "input: found %s, want a string or an array of items",
                       json_is_array(b->input) ? "no items" : qn_json_type_name(b->input));
    QN_TRY(qn_turns_limit("input", b->input, QN_LIMIT_MESSAGES, err));
    for (size_t i = 0; i < json_array_size(b->input); i++) {
        qn_where at = qn_where_at(NULL, "input");
        *where = qn_where_index(&at, i);
        QN_TRY(read_item(t, json_array_get(b->input, i), where, err));
    }
    return QN_OK;
}

static qn_status read_tool(qn_turns *t, qn_demand *d, const json_t *tool, const qn_where *where,
                           qn_err *err)
{
    const char *type = qn_turns_string(json_object_get(tool, "type"));
    const json_t *parameters = json_object_get(tool, "parameters");
    qn_where schema = qn_where_at(where, "parameters");
    const char *name;
    if (!type || strcmp(type, "function") != 0)
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s.type: found %s, want function: tools run at the client", where->path,
                       type ? type : "no string");
    QN_TRY(want_string(tool, "name", where, &name, err));
    QN_TRY(qn_demand_tool(d, schema.path, json_object_get(tool, "name"), parameters,
                          json_object_get(tool, "strict"), err));
    if (d->choice != QN_TOOLS_NONE)
        qn_turns_tool(t, name, qn_turns_string(json_object_get(tool, "description")),
                      json_is_object(parameters) ? parameters : NULL);
    return QN_OK;
}

static qn_status read_tools(qn_turns *t, qn_demand *d, const response_body *b, qn_where *where,
                            qn_err *err)
{
    const char *choice = json_string_value(b->tool_choice);
    if (choice && strcmp(choice, "none") == 0)
        d->choice = QN_TOOLS_NONE;
    *where = qn_where_at(NULL, "tools");
    QN_TRY(qn_turns_limit("tools", b->tools, QN_LIMIT_TOOLS, err));
    for (size_t i = 0; i < json_array_size(b->tools); i++) {
        qn_where at = qn_where_index(where, i);
        QN_TRY(read_tool(t, d, json_array_get(b->tools, i), &at, err));
    }
    *where = qn_where_at(NULL, "tool_choice");
    QN_TRY(qn_demand_read_choice(d, b->tool_choice, err));
    d->is_single |= !b->parallel_tool_calls;
    return QN_OK;
}

/* {"effort": "none"} and chat_template_kwargs tell the template; other efforts are its own affair. */
static qn_status read_thinking(qn_turns *t, qn_demand *d, const response_body *b, const json_t *o,
                               qn_where *where, qn_err *err)
{
    const char *effort = json_string_value(json_object_get(b->reasoning, "effort"));
    const json_t *enable = json_object_get(b->kwargs, "enable_thinking");
    const char *param = "reasoning";
    qn_status s = qn_demand_read_thinking(d, o, &param, err);
    *where = qn_where_at(NULL, param);
    QN_TRY(s);
    if (effort && strcmp(effort, "none") == 0)
        d->budget = 0;
    t->has_thinking = d->budget == 0 || json_is_boolean(enable);
    t->is_thinking = d->budget != 0 && json_is_true(enable);
    return QN_OK;
}

static bool asks_logprobs(const response_body *b)
{
    for (size_t i = 0; i < json_array_size(b->include); i++) {
        const char *s = json_string_value(json_array_get(b->include, i));
        if (s && strcmp(s, "message.output_text.logprobs") == 0)
            return true;
    }
    return b->top_logprobs > 0;
}

/* What would make another answer, and nothing here does. */
static qn_status refuse_others(const response_body *b, qn_where *where, qn_err *err)
{
    const char *found = NULL, *why = "is not supported here; leave it out";
    if (b->previous_response_id) {
        found = "previous_response_id";
        why = "answers are not kept here; send the whole conversation as input";
    } else if (b->conversation) {
        found = "conversation";
        why = "conversations are not kept here; send the whole of it as input";
    } else if (b->background)
        found = "background";
    else if (b->truncation && strcmp(b->truncation, "auto") != 0 &&
             strcmp(b->truncation, "disabled") != 0) {
        found = "truncation";
        why = "is not known; want auto or disabled";
    } else if (b->prompt)
        found = "prompt";
    else if (asks_logprobs(b)) {
        found = b->top_logprobs ? "top_logprobs" : "include";
        why = "log-probabilities are not given here; /v1/chat/completions has them";
    }
    if (!found)
        return QN_OK;
    *where = qn_where_at(NULL, found);
    return qn_fail(err, QN_E_UNSUPPORTED, "%s: %s", found, why);
}

static qn_status encode(qn_demand *d, const response_body *b, const json_t *o, const qn_engine *e,
                        int32_t **ids, size_t *n_ids, qn_where *where, qn_err *err)
{
    qn_turns t = {0};
    const json_t *format = json_object_get(b->text, "format");
    const char *param = NULL;
    qn_status s = refuse_others(b, where, err);
    if (s == QN_OK) {
        s = qn_demand_read_forms(d, o, &param, err);
        *where = qn_where_at(NULL, param ? param : "");
    }
    if (s == QN_OK && format && !json_is_null(format)) {
        *where = qn_where_at(NULL, "text.format");
        s = qn_demand_read_format(d, "text.format", format, err);
    }
    if (s == QN_OK)
        s = read_input(&t, b, where, err);
    if (s == QN_OK)
        s = read_tools(&t, d, b, where, err);
    if (s == QN_OK)
        s = read_thinking(&t, d, b, o, where, err);
    if (s == QN_OK) {
        *where = qn_where_at(NULL, "input");
        s = qn_turns_encode(&t, e, false, ids, n_ids, err);
    }
    qn_turns_fini(&t);
    return s;
}

/* ---- the answer ---- */

static void add_value(qn_str *out, const json_t *v, const char *missing)
{
    if (v)
        qn_json_write(out, v);
    else
        qn_str_adds(out, missing);
}

static const char *status_of(const response *r)
{
    return r->answer.parts->finish == QN_FINISH_LENGTH ? "incomplete" : "completed";
}

static const qn_answer_item *item_at(const response *r, size_t i)
{
    return qn_answer_item_at(r->answer.parts, i);
}

static size_t n_items(const response *r)
{
    return QN_MAX(r->answer.parts->n_items, 1);
}

static void add_item_id(qn_str *out, const response *r, size_t i)
{
    qn_reply_kind kind = item_at(r, i)->kind;
    const char *prefix = kind == QN_REPLY_CALL ? "fc" : kind == QN_REPLY_REASONING ? "rs" : "msg";
    qn_str_addf(out, "\"%s_%s%02zx\"", prefix, r->hex, i);
}

static qn_slice item_text(const response *r, size_t i)
{
    return qn_answer_item_text(r->answer.parts, item_at(r, i));
}

/* {"type": "output_text", ...} with the text so far, or without any. */
static void add_part(qn_str *out, const response *r, size_t i, bool is_empty)
{
    bool is_text = item_at(r, i)->kind == QN_REPLY_CONTENT;
    qn_slice text = item_text(r, i);
    qn_str_adds(out, is_text ? "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],"
                             : "{\"type\":\"reasoning_text\",");
    qn_str_adds(out, "\"text\":");
    qn_str_add_json(out, text.p, is_empty ? 0 : text.n);
    qn_str_addc(out, '}');
}

/* The answer's end cuts its last item. */
static const char *item_status(const response *r, size_t i, bool is_begin)
{
    const qn_answer_item *item = item_at(r, i);
    bool is_cut = i + 1 == n_items(r) && r->answer.parts->finish == QN_FINISH_LENGTH;
    if (item->kind == QN_REPLY_CALL)
        is_cut = !r->answer.parts->calls[item->call].is_whole;
    return is_begin ? "in_progress" : is_cut ? "incomplete" : "completed";
}

static void add_item(qn_str *out, const response *r, size_t i, bool is_begin)
{
    const qn_answer_item *item = item_at(r, i);
    qn_str_adds(out, "{\"id\":");
    add_item_id(out, r, i);
    qn_str_addf(out, ",\"status\":\"%s\",", item_status(r, i, is_begin));
    if (item->kind == QN_REPLY_CALL) {
        const qn_answer_call *c = &r->answer.parts->calls[item->call];
        qn_slice arguments = item_text(r, i);
        qn_str_addf(out, "\"type\":\"function_call\",\"call_id\":\"%s\",\"name\":", c->id);
        qn_answer_add_text(out, &c->name);
        qn_str_adds(out, ",\"arguments\":");
        qn_str_add_json(out, arguments.p, is_begin ? 0 : arguments.n);
        qn_str_addc(out, '}');
        return;
    }
    qn_str_adds(out, item->kind == QN_REPLY_CONTENT
                         ? "\"type\":\"message\",\"role\":\"assistant\",\"content\":["
                         : "\"type\":\"reasoning\",\"summary\":[],\"content\":[");
    if (!is_begin)
        add_part(out, r, i, false);
    qn_str_adds(out, "]}");
}

static void add_usage(qn_str *out, const response *r)
{
    qn_answer_usage u = qn_answer_sum(&r->answer);
    qn_str_addf(out,
                "{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d},"
                "\"output_tokens\":%d,\"output_tokens_details\":{\"reasoning_tokens\":%d},"
                "\"total_tokens\":%d}",
                u.n_prompt, u.n_cached, u.n_output, u.n_reasoning, u.n_prompt + u.n_output);
}

/* A float as it was written: 0.7, not 0.699999988079071. */
static void add_number(qn_str *out, float v)
{
    qn_str_addf(out, "%.7g", (double)v);
}

/* What the client asked for, told back. */
static void add_request(qn_str *out, const response *r)
{
    const response_body *b = &r->body;
    qn_str_adds(out, ",\"instructions\":");
    qn_str_add_json_or_null(out, b->instructions);
    qn_str_adds(out, ",\"max_output_tokens\":");
    if (b->max_output_tokens)
        qn_str_addf(out, "%d", b->max_output_tokens);
    else
        qn_str_adds(out, "null");
    qn_str_adds(out, ",\"max_tool_calls\":null,\"model\":");
    qn_str_add_json_or_null(out, r->model);
    qn_str_addf(out, ",\"parallel_tool_calls\":%s,\"previous_response_id\":null,\"reasoning\":",
                b->parallel_tool_calls ? "true" : "false");
    add_value(out, b->reasoning, "{\"effort\":null,\"summary\":null}");
    qn_str_adds(out, ",\"service_tier\":\"default\",\"store\":false,\"temperature\":");
    add_number(out, r->temperature);
    qn_str_adds(out, ",\"text\":");
    add_value(out, json_object_size(b->text) ? b->text : NULL, "{\"format\":{\"type\":\"text\"}}");
    qn_str_adds(out, ",\"tool_choice\":");
    add_value(out, b->tool_choice, "\"auto\"");
    qn_str_adds(out, ",\"tools\":");
    add_value(out, b->tools, "[]");
    qn_str_adds(out, ",\"top_logprobs\":0,\"top_p\":");
    add_number(out, r->top_p);
    qn_str_adds(out, ",\"truncation\":");
    qn_str_add_json_or_null(out, b->truncation ? b->truncation : "disabled");
    qn_str_adds(out, ",\"user\":null,\"metadata\":");
    add_value(out, b->metadata, "{}");
}

/* failed: NULL, or why. */
static void add_response(qn_str *out, const response *r, const char *status, const char *failed)
{
    bool is_over = strcmp(status, "completed") == 0 || strcmp(status, "incomplete") == 0;
    qn_str_addf(out,
                "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":"
                "\"%s\",\"background\":false,\"error\":",
                r->id, (long long)r->created, status);
    if (failed) {
        qn_str_adds(out, "{\"code\":\"server_error\",\"message\":");
        qn_str_add_json_or_null(out, failed);
        qn_str_addc(out, '}');
    } else
        qn_str_adds(out, "null");
    qn_str_addf(out, ",\"incomplete_details\":%s",
                strcmp(status, "incomplete") == 0 ? "{\"reason\":\"max_output_tokens\"}" : "null");
    add_request(out, r);
    qn_str_adds(out, ",\"output\":[");
    for (size_t i = 0; is_over && i < n_items(r); i++) {
        qn_str_adds(out, i ? "," : "");
        add_item(out, r, i, false);
    }
    qn_str_adds(out, "],\"usage\":");
    if (is_over)
        add_usage(out, r);
    else
        qn_str_adds(out, "null");
    qn_str_addc(out, '}');
}

/* ---- the stream ---- */

static void begin_event(response *r, const char *type)
{
    qn_str_addf(&r->answer.out, "{\"type\":\"%s\",\"sequence_number\":%u", type, r->n_sent++);
}

static void end_event(qn_exchange *x, response *r, const char *type)
{
    qn_str_addc(&r->answer.out, '}');
    qn_x_write_event(x, type, &r->answer.out);
    qn_str_clear(&r->answer.out);
}

static void send_response(qn_exchange *x, response *r, const char *type, const char *status,
                          const char *failed)
{
    begin_event(r, type);
    qn_str_adds(&r->answer.out, ",\"response\":");
    add_response(&r->answer.out, r, status, failed);
    end_event(x, r, type);
}

static void send_item(qn_exchange *x, response *r, const char *type, bool is_begin)
{
    begin_event(r, type);
    qn_str_addf(&r->answer.out, ",\"output_index\":%zu,\"item\":", r->open);
    add_item(&r->answer.out, r, r->open, is_begin);
    end_event(x, r, type);
}

/* Events about the open item; of texts they name its one part. */
static void begin_item_event(response *r, const char *type)
{
    begin_event(r, type);
    qn_str_adds(&r->answer.out, ",\"item_id\":");
    add_item_id(&r->answer.out, r, r->open);
    qn_str_addf(&r->answer.out, ",\"output_index\":%zu", r->open);
    if (item_at(r, r->open)->kind != QN_REPLY_CALL)
        qn_str_adds(&r->answer.out, ",\"content_index\":0");
}

static void send_part(qn_exchange *x, response *r, const char *type, bool is_begin)
{
    begin_item_event(r, type);
    qn_str_adds(&r->answer.out, ",\"part\":");
    add_part(&r->answer.out, r, r->open, is_begin);
    end_event(x, r, type);
}

static void send_text(qn_exchange *x, response *r, bool is_done, qn_slice text)
{
    static const char *const types[][2] = {
        {"response.output_text.delta", "response.output_text.done"},
        {"response.reasoning_text.delta", "response.reasoning_text.done"},
        {"response.function_call_arguments.delta", "response.function_call_arguments.done"}};
    const qn_answer_item *item = item_at(r, r->open);
    size_t kind = item->kind == QN_REPLY_CALL ? 2 : item->kind == QN_REPLY_REASONING;
    begin_item_event(r, types[kind][is_done]);
    if (kind == 0)
        qn_str_adds(&r->answer.out, ",\"logprobs\":[]");
    if (kind == 2 && is_done) {
        qn_str_adds(&r->answer.out, ",\"name\":");
        qn_answer_add_text(&r->answer.out, &r->answer.parts->calls[item->call].name);
    }
    qn_str_addf(&r->answer.out, ",\"%s\":", !is_done ? "delta" : kind == 2 ? "arguments" : "text");
    qn_str_add_json(&r->answer.out, text.p ? text.p : "", text.n);
    end_event(x, r, types[kind][is_done]);
}

static void close_item(qn_exchange *x, response *r)
{
    if (r->open == SIZE_MAX)
        return;
    send_text(x, r, true, item_text(r, r->open));
    if (item_at(r, r->open)->kind != QN_REPLY_CALL)
        send_part(x, r, "response.content_part.done", false);
    send_item(x, r, "response.output_item.done", false);
}

static void open_item(qn_exchange *x, response *r, size_t i)
{
    if (r->open == i)
        return;
    close_item(x, r);
    r->open = i;
    send_item(x, r, "response.output_item.added", true);
    if (item_at(r, i)->kind != QN_REPLY_CALL)
        send_part(x, r, "response.content_part.added", true);
}

static void on_event_stream(qn_exchange *x, void *arg, size_t i, const qn_event *ev)
{
    response *r = arg;
    if (!r->is_begun) {
        r->is_begun = true;
        send_response(x, r, "response.created", "in_progress", NULL);
        send_response(x, r, "response.in_progress", "in_progress", NULL);
    }
    const qn_answer_part *p = qn_answer_add(&r->answer, i, ev);
    for (size_t k = 0; p && k < r->answer.n_deltas; k++) {
        const qn_answer_delta *d = &r->answer.deltas[k];
        open_item(x, r, d->item);
        if (d->n && d->kind != QN_REPLY_CALL)
            send_text(x, r, false, qn_answer_delta_text(p, d));
    }
}

static void on_done_stream(qn_exchange *x, void *arg)
{
    response *r = arg;
    const char *status = status_of(r);
    char type[32];
    (void)snprintf(type, sizeof type, "response.%s", status);
    r->answer.out.failed |= r->answer.failed;
    if (r->open == SIZE_MAX)
        open_item(x, r, 0);
    close_item(x, r);
    send_response(x, r, type, status, NULL);
    qn_x_end(x);
}

static void on_fail_stream(qn_exchange *x, void *arg, const qn_err *err)
{
    response *r = arg;
    if (r->is_begun)
        send_response(x, r, "response.failed", "failed", err->msg);
    qn_x_fail(x, err, NULL); /* ends it, and is what the books know it by */
}

static void on_done_whole(qn_exchange *x, void *arg)
{
    response *r = arg;
    add_response(&r->answer.out, r, status_of(r), NULL);
    r->answer.out.failed |= r->answer.failed;
    qn_x_reply_json(x, 200, &r->answer.out);
}

static const qn_answer_api whole_api = {
    .event = qn_answer_event, .done = on_done_whole, .free = qn_answer_free};
static const qn_answer_api stream_api = {.event = on_event_stream,
                                         .done = on_done_stream,
                                         .fail = on_fail_stream,
                                         .free = qn_answer_free,
                                         .is_stream = true,
                                         .begins_at_once = true};

/* ---- routes ---- */

static qn_status read_params(qn_exchange *x, const response_body *b, const json_t *o, qn_engine *e,
                             qn_params *out, const char **param, qn_err *err)
{
    QN_TRY(qn_sampling_read(o, e, qn_x_arena(x), out, param, err));
    if (out->n != 1) {
        *param = "n";
        return qn_fail(err, QN_E_UNSUPPORTED, "n: found %d, want 1: a response is one answer",
                       out->n);
    }
    if (b->max_output_tokens)
        out->max_tokens = b->max_output_tokens;
    return QN_OK;
}

static void handle_create(qn_exchange *x)
{
    const json_t *o = qn_x_json(x);
    response_body b = {.parallel_tool_calls = true};
    const char *served, *param = NULL;
    qn_where where = {""};
    int32_t *ids = NULL;
    size_t n_ids;
    qn_params params;
    qn_err err;
    if (!o)
        return;
    if (qn_fields_read(o, body_fields, QN_COUNT(body_fields), &b, &param, &err) != QN_OK) {
        qn_x_fail(x, &err, param);
        return;
    }
    qn_engine *e = qn_x_model(x, b.model, &served);
    if (!e)
        return;
    response *r = qn_arena_alloc(qn_x_arena(x), sizeof *r);
    qn_status s =
        r ? read_params(x, &b, o, e, &params, &param, &err) : qn_fail_nomem(&err, sizeof *r);
    if (s == QN_OK) {
        *r = (response){.answer = {.style = &r->demand.style, .is_stream = b.stream},
                        .body = b,
                        .model = served,
                        .created = (int64_t)time(NULL),
                        .open = SIZE_MAX,
                        .temperature = params.temperature,
                        .top_p = params.top_p};
        qn_answer_make_id(r->id, "resp_");
        qn_answer_make_id(r->hex, "");
        qn_demand_init(&r->demand, e, x);
        s = encode(&r->demand, &b, o, e, &ids, &n_ids, &where, &err);
        param = s == QN_OK ? NULL : where.path;
    }
    if (s == QN_OK)
        s = qn_demand_settle(&r->demand, e, ids, n_ids, &params.grammar, &param, &err);
    if (s == QN_OK)
        s = qn_answer_start(x, b.stream ? &stream_api : &whole_api, r, e,
                            &(qn_prompt){.ids = ids, .n_ids = n_ids}, 1, &params, &err);
    qn_release(ids);
    if (s != QN_OK)
        qn_x_fail(x, &err, param);
}

static void handle_stored(qn_exchange *x)
{
    qn_slice id = qn_x_rest(x);
    char shown[64];
    qn_escape(shown, sizeof shown, id.p, id.n);
    qn_x_error(x, 404, NULL, "not_found",
               "response '%s': answers are not kept here; send the whole conversation as input",
               shown);
}

const qn_route qn_responses_routes[] = {
    {.method = "POST", .path = "/v1/responses", .handle = handle_create},
    {.method = "GET", .path = "/v1/responses/*", .handle = handle_stored, .is_quick = true},
    {.method = "DELETE", .path = "/v1/responses/*", .handle = handle_stored, .is_quick = true},
    {0},
};
