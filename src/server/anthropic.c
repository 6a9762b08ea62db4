/* SPDX-License-Identifier: Apache-2.0
 * anthropic.c - Anthropic's API: /v1/messages and /v1/messages/count_tokens.
 *
 *   system, messages, tools -> turns -> template -> tokens -> answer:
 *   {"type": "message", "content": [{"type": "text", "text": ...}], "stop_reason": ..., "usage": ...}
 *   or, streamed: message_start, ping, for each block content_block_start, content_block_delta ..., content_block_stop; message_delta,
 *   message_stop
 *
 * Blocks are the answer's items: thinking, text, tool_use. A whole answer has no tool_use that was cut off, since nobody should run it;
 * in a stream its input is then no JSON. What is thought has no signature here: nobody else could have made it up.
 * What can not be done (images, servers of tools) is refused by name. Input tokens that the prefix cache gave are counted apart, as
 * cache_read_input_tokens. A last message of the assistant is the beginning of the answer.
 * Threads: handlers on a worker, the rest on the I/O thread. Source: Anthropic's API reference, the anthropic client's types. */
#include "base/limits.h"
#include "server/answer.h"
#include "server/demand.h"
#include "server/exchange.h"
#include "server/sampling.h"
#include "server/turns.h"

#include <string.h>

typedef struct message_body {
    const char *model;
    const json_t *system, *messages, *tools, *tool_choice, *thinking, *output_config,
        *output_format, *mcp_servers, *container, *context_management, *stop_sequences;
    bool stream;
} message_body;

static const qn_field body_fields[] = {
    {"model", QN_FIELD_STR, offsetof(message_body, model), 0, 0},
    {"system", QN_FIELD_ANY, offsetof(message_body, system), 0, 0},
    {"messages", QN_FIELD_ARRAY, offsetof(message_body, messages), 0, 0},
    {"tools", QN_FIELD_ARRAY, offsetof(message_body, tools), 0, 0},
    {"tool_choice", QN_FIELD_OBJECT, offsetof(message_body, tool_choice), 0, 0},
    {"thinking", QN_FIELD_OBJECT, offsetof(message_body, thinking), 0, 0},
    {"output_config", QN_FIELD_OBJECT, offsetof(message_body, output_config), 0, 0},
    {"output_format", QN_FIELD_ANY, offsetof(message_body, output_format), 0, 0},
    {"mcp_servers", QN_FIELD_ARRAY, offsetof(message_body, mcp_servers), 0, 0},
    {"container", QN_FIELD_ANY, offsetof(message_body, container), 0, 0},
    {"context_management", QN_FIELD_OBJECT, offsetof(message_body, context_management), 0, 0},
    {"stop_sequences", QN_FIELD_ARRAY, offsetof(message_body, stop_sequences), 0, 0},
    {"stream", QN_FIELD_BOOL, offsetof(message_body, stream), 0, 0},
};

typedef struct message {
    qn_answer answer; /* first: qn_answer_event */
    qn_demand demand;
    const char *model;
    char id[QN_ANSWER_ID];
    int n_prompt;
    bool is_begun;
    size_t open; /* the block that is being sent; SIZE_MAX: none */
} message;

/* ---- the request ---- */

static qn_status want_string(const json_t *o, const char *key, qn_where *where, const char **out,
                             qn_err *err)
{
    *out = qn_turns_string(json_object_get(o, key));
    if (*out)
        return QN_OK;
    *where = qn_where_at(where, key);
    return qn_fail(err, QN_E_ARG, "%s: found %s, want a string", where->path,
                   qn_json_type_name(json_object_get(o, key)));
}

static const char *const text_types[] = {"text", NULL};

/* The model calls a tool: {"type": "tool_use", "id", "name", "input"}. */
static qn_status read_tool_use(qn_turns *t, const json_t *block, qn_where *where, qn_err *err)
{
    const char *id, *name;
    QN_TRY(want_string(block, "id", where, &id, err));
    QN_TRY(want_string(block, "name", where, &name, err));
    const json_t *input = json_object_get(block, "input");
    if (!json_is_object(input)) {
        *where = qn_where_at(where, "input");
        return qn_fail(err, QN_E_ARG, "%s: found %s, want an object", where->path,
                       qn_json_type_name(input));
    }
    qn_turns_call(t, id, name, input);
    return QN_OK;
}

/* Its result comes in a message of the user, and is one of the tool for the template. */
static qn_status read_tool_result(qn_turns *t, const json_t *block, qn_where *where, qn_err *err)
{
    const char *id;
    QN_TRY(want_string(block, "tool_use_id", where, &id, err));
    qn_turns_open(t, "tool");
    qn_turns_field(t, "tool_call_id", id);
    const json_t *content = json_object_get(block, "content");
    if (content && !json_is_null(content)) {
        qn_where at = qn_where_at(where, "content");
        qn_status s = qn_turns_parts(t, content, text_types, &at, err);
        *where = s == QN_OK ? *where : at;
        return s;
    }
    return QN_OK;
}

static qn_status read_thinking_block(qn_turns *t, const json_t *block, qn_where *where, qn_err *err)
{
    const char *text;
    QN_TRY(want_string(block, "thinking", where, &text, err));
    qn_turns_reasoning(t, text, strlen(text));
    return QN_OK;
}

static qn_status read_block(qn_turns *t, const json_t *block, bool is_user, qn_where *where,
                            qn_err *err)
{
    const char *type;
    if (!json_is_object(block))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want an object", where->path,
                       qn_json_type_name(block));
    QN_TRY(want_string(block, "type", where, &type, err));
    if (is_user && strcmp(type, "tool_result") == 0)
        return read_tool_result(t, block, where, err);
    if (!is_user && strcmp(type, "tool_use") == 0)
        return read_tool_use(t, block, where, err);
    if (!is_user && strcmp(type, "thinking") == 0)
        return read_thinking_block(t, block, where, err);
    if (!is_user && strcmp(type, "redacted_thinking") == 0)
        return QN_OK; /* nobody but its maker can read it */
    if (strcmp(type, "text") != 0) {
        *where = qn_where_at(where, "type");
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s: found %s, want text or %s: only text can be read", where->path, type,
                       is_user ? "tool_result" : "tool_use");
    }
    const json_t *text = json_object_get(block, "text");
    if (!json_is_string(text)) {
        *where = qn_where_at(where, "text");
        return qn_fail(err, QN_E_ARG, "%s: found %s, want a string", where->path,
                       qn_json_type_name(text));
    }
    if (!t->is_open || (is_user && strcmp(t->role, "user") != 0))
        qn_turns_open(t, "user"); /* text after a tool's result */
    qn_turns_text(t, json_string_value(text), json_string_length(text));
    return QN_OK;
}

static qn_status read_message(qn_turns *t, const json_t *m, qn_where *where, qn_err *err)
{
    const char *role;
    if (!json_is_object(m))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want an object", where->path,
                       qn_json_type_name(m));
    QN_TRY(want_string(m, "role", where, &role, err));
    bool is_user = strcmp(role, "user") == 0;
    if (!is_user && strcmp(role, "assistant") != 0) {
        *where = qn_where_at(where, "role");
        return qn_fail(err, QN_E_ARG, "%s: found %s, want user or assistant", where->path, role);
    }
    const json_t *content = json_object_get(m, "content");
    *where = qn_where_at(where, "content");
    if (json_is_string(content)) {
        qn_turns_open(t, is_user ? "user" : "assistant");
        qn_turns_text(t, json_string_value(content), json_string_length(content));
        return QN_OK;
    }
    if (!json_is_array(content))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want a string or an array", where->path,
                       qn_json_type_name(content));
    qn_turns_close(t);
    if (!is_user)
        qn_turns_open(t, "assistant");
    for (size_t i = 0; i < json_array_size(content); i++) {
        qn_where at = qn_where_index(where, i);
        qn_status s = read_block(t, json_array_get(content, i), is_user, &at, err);
        if (s != QN_OK) {
            *where = at;
            return s;
        }
    }
    return QN_OK;
}

static qn_status read_tool(qn_turns *t, qn_demand *d, const json_t *tool, qn_where *where,
                           qn_err *err)
{
    const char *name, *type = qn_turns_string(json_object_get(tool, "type"));
    if (type && strcmp(type, "custom") != 0) {
        *where = qn_where_at(where, "type");
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: found %s, want custom: tools run at the client",
                       where->path, type);
    }
    QN_TRY(want_string(tool, "name", where, &name, err));
    const json_t *schema = json_object_get(tool, "input_schema");
    *where = qn_where_at(where, "input_schema");
    if (!json_is_object(schema))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want an object", where->path,
                       qn_json_type_name(schema));
    QN_TRY(qn_demand_tool(d, where->path, json_object_get(tool, "name"), schema,
                          json_object_get(tool, "strict"), err));
    if (d->choice != QN_TOOLS_NONE)
        qn_turns_tool(t, name, qn_turns_string(json_object_get(tool, "description")), schema);
    return QN_OK;
}

/* {"type": "auto" | "any" | "tool" | "none", "name", "disable_parallel_tool_use"} */
static qn_status read_choice(qn_demand *d, const json_t *choice, qn_where *where, qn_err *err)
{
    const char *type, *name;
    *where = qn_where_at(NULL, "tool_choice");
    if (!choice)
        return QN_OK;
    QN_TRY(want_string(choice, "type", where, &type, err));
    d->is_single = json_is_true(json_object_get(choice, "disable_parallel_tool_use"));
    if (strcmp(type, "auto") == 0 || strcmp(type, "none") == 0)
        return QN_OK;
    if (strcmp(type, "tool") == 0) {
        QN_TRY(want_string(choice, "name", where, &name, err));
        return qn_demand_name(d, "tool_choice", name, err);
    }
    if (strcmp(type, "any") != 0)
        return qn_fail(err, QN_E_ARG, "tool_choice: found %s, want auto, any, tool or none", type);
    d->choice = QN_TOOLS_REQUIRED;
    return d->n_tools ? QN_OK : qn_fail(err, QN_E_ARG, "tool_choice: found any without tools");
}

static qn_status read_tools(qn_turns *t, qn_demand *d, const message_body *b, qn_where *where,
                            qn_err *err)
{
    const char *choice = json_string_value(json_object_get(b->tool_choice, "type"));
    if (choice && strcmp(choice, "none") == 0)
        d->choice = QN_TOOLS_NONE;
    *where = qn_where_at(NULL, "tools");
    QN_TRY(qn_turns_limit("tools", b->tools, QN_LIMIT_TOOLS, err));
    for (size_t i = 0; i < json_array_size(b->tools); i++) {
        qn_where at = qn_where_index(where, i);
        qn_status s = read_tool(t, d, json_array_get(b->tools, i), &at, err);
        if (s != QN_OK) {
            *where = at;
            return s;
        }
    }
    return read_choice(d, b->tool_choice, where, err);
}

/* {"type": "enabled", "budget_tokens"}, "adaptive", "disabled". Where nothing is said the template decides. */
static qn_status read_thinking(qn_turns *t, qn_demand *d, const message_body *b, const json_t *o,
                               qn_where *where, qn_err *err)
{
    const char *type, *display = json_string_value(json_object_get(b->thinking, "display"));
    if (!b->thinking)
        return QN_OK;
    *where = qn_where_at(NULL, "thinking");
    QN_TRY(want_string(b->thinking, "type", where, &type, err));
    bool is_off = strcmp(type, "disabled") == 0, is_bounded = strcmp(type, "enabled") == 0;
    if (!is_off && !is_bounded && strcmp(type, "adaptive") != 0)
        return qn_fail(err, QN_E_ARG, "thinking.type: found %s, want enabled, adaptive or disabled",
                       type);
    t->has_thinking = true;
    t->is_thinking = !is_off;
    d->is_silent = display && strcmp(display, "omitted") == 0;
    d->budget = is_off ? 0 : -1;
    if (!is_bounded)
        return QN_OK;
    const json_t *budget = json_object_get(b->thinking, "budget_tokens");
    json_int_t most = json_integer_value(json_object_get(o, "max_tokens"));
    *where = qn_where_at(where, "budget_tokens");
    if (!json_is_integer(budget) || json_integer_value(budget) < 1 ||
        (most > 0 && json_integer_value(budget) >= most))
        return qn_fail(err, QN_E_ARG, "thinking.budget_tokens: found %s, want 1 to max_tokens - 1",
                       json_is_integer(budget) ? "another number" : qn_json_type_name(budget));
    d->budget = (int)QN_MIN(json_integer_value(budget), QN_LIMIT_CONTEXT);
    return QN_OK;
}

/* output_config.format, or as it was called before output_format: {"type": "json_schema", "schema"}. */
static qn_status read_format(qn_demand *d, const message_body *b, const json_t *o, qn_where *where,
                             qn_err *err)
{
    const json_t *format = json_object_get(b->output_config, "format");
    const char *param = NULL;
    qn_status s = qn_demand_read_forms(d, o, &param, err);
    *where = qn_where_at(NULL, param ? param : "");
    QN_TRY(s);
    if (format && !json_is_null(format)) {
        *where = qn_where_at(NULL, "output_config.format");
        QN_TRY(qn_demand_read_format(d, "output_config.format", format, err));
    }
    if (b->output_format) {
        *where = qn_where_at(NULL, "output_format");
        QN_TRY(qn_demand_read_format(d, "output_format", b->output_format, err));
    }
    return QN_OK;
}

/* What would make another answer, and nothing here does. */
static qn_status refuse_others(const message_body *b, qn_where *where, qn_err *err)
{
    const char *found = NULL;
    if (json_array_size(b->mcp_servers))
        found = "mcp_servers";
    else if (b->container)
        found = "container";
    else if (json_array_size(json_object_get(b->context_management, "edits")))
        found = "context_management.edits";
    if (!found)
        return QN_OK;
    *where = qn_where_at(NULL, found);
    return qn_fail(err, QN_E_UNSUPPORTED, "%s: is not supported here; leave it out", found);
}

/* The whole conversation into t. *keep_open: the answer has a beginning. */
static qn_status read_turns(qn_turns *t, qn_demand *d, const message_body *b, const json_t *o,
                            bool *keep_open, qn_where *where, qn_err *err)
{
    size_t n = json_array_size(b->messages);
    QN_TRY(refuse_others(b, where, err));
    QN_TRY(read_thinking(t, d, b, o, where, err));
    QN_TRY(read_format(d, b, o, where, err));
    *where = qn_where_at(NULL, "messages");
    if (!n)
        return qn_fail(err, QN_E_ARG, "messages: found none, want at least one");
    QN_TRY(qn_turns_limit("messages", b->messages, QN_LIMIT_MESSAGES, err));
    if (b->system) {
        *where = qn_where_at(NULL, "system");
        qn_turns_open(t, "system");
        QN_TRY(qn_turns_parts(t, b->system, text_types, where, err));
    }
    qn_turns_close(t);
    for (size_t i = 0; i < n; i++) {
        *where = qn_where_at(NULL, "messages");
        *where = qn_where_index(where, i);
        QN_TRY(read_message(t, json_array_get(b->messages, i), where, err));
    }
    *keep_open = t->is_open && strcmp(t->role, "assistant") == 0;
    if (*keep_open && (t->calls.n || t->reasoning.n))
        return qn_fail(err, QN_E_ARG,
                       "%s: found a last message of the assistant with a tool_use or thinking "
                       "block, want its result, or text to go on from",
                       where->path);
    return read_tools(t, d, b, where, err);
}

/* Body, conversation and model; NULL: it is answered. ids are freed with qn_release. */
static qn_engine *read_request(qn_exchange *x, message_body *b, qn_demand *d, const json_t *o,
                               const char **served, int32_t **ids, size_t *n_ids)
{
    qn_err err;
    qn_turns t = {0};
    qn_where where = {""};
    const char *param = NULL;
    bool keep_open = false;
    if (qn_fields_read(o, body_fields, QN_COUNT(body_fields), b, &param, &err) != QN_OK) {
        qn_x_fail(x, &err, param);
        return NULL;
    }
    qn_engine *e = qn_x_model(x, b->model, served);
    if (!e)
        return NULL;
    qn_demand_init(d, e, x);
    qn_status s = read_turns(&t, d, b, o, &keep_open, &where, &err);
    if (s == QN_OK) {
        where = qn_where_at(NULL, "messages");
        s = qn_turns_encode(&t, e, keep_open, ids, n_ids, &err);
    }
    qn_turns_fini(&t);
    if (s != QN_OK) {
        qn_x_fail(x, &err, where.path);
        return NULL;
    }
    return e;
}

/* stop_sequences and what is shared with the other APIs. */
static qn_status read_params(qn_exchange *x, const message_body *b, const json_t *o, qn_engine *e,
                             qn_params *out, const char **param, qn_err *err)
{
    *param = "max_tokens";
    if (!json_is_number(json_object_get(o, "max_tokens")))
        return qn_fail(err, QN_E_ARG, "max_tokens: found %s, want a number of tokens",
                       qn_json_type_name(json_object_get(o, "max_tokens")));
    QN_TRY(qn_sampling_read(o, e, qn_x_arena(x), out, param, err));
    if (out->max_tokens < 1) {
        *param = "max_tokens";
        return qn_fail(err, QN_E_ARG, "max_tokens: found %d, want at least 1", out->max_tokens);
    }
    if (out->n != 1) {
        *param = "n";
        return qn_fail(err, QN_E_UNSUPPORTED, "n: found %d, want 1: a message is one answer",
                       out->n);
    }
    *param = "stop_sequences";
    return json_array_size(b->stop_sequences)
               ? qn_fields_stop("stop_sequences", b->stop_sequences, qn_x_arena(x), out, err)
               : QN_OK;
}

/* ---- the answer ---- */

static void add_usage(qn_str *out, const message *m, bool is_end)
{
    qn_answer_usage u = qn_answer_sum(&m->answer);
    int n_prompt = is_end ? u.n_prompt : m->n_prompt;
    qn_str_addf(out,
                "{\"input_tokens\":%d,\"cache_creation_input_tokens\":0,"
                "\"cache_read_input_tokens\":%d,\"output_tokens\":%d",
                n_prompt - u.n_cached, u.n_cached, u.n_output);
    if (is_end && u.n_reasoning)
        qn_str_addf(out, ",\"output_tokens_details\":{\"thinking_tokens\":%d}", u.n_reasoning);
    qn_str_addc(out, '}');
}

/* "stop_reason": ..., "stop_sequence": ...; has_calls: of the blocks that were told some are tool_use. */
static void add_stop(qn_str *out, const qn_answer_part *p, bool has_calls)
{
    const char *reason = p->stop                         ? "stop_sequence"
                         : p->finish == QN_FINISH_LENGTH ? "max_tokens"
                         : has_calls                     ? "tool_use"
                                                         : "end_turn";
    qn_str_addf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    qn_str_add_json_or_null(out, p->stop);
}

static void add_head(qn_str *out, const message *m)
{
    qn_str_addf(out,
                "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", m->id);
    qn_str_add_json(out, m->model, strlen(m->model));
}

static void send_event(qn_exchange *x, message *m, const char *name)
{
    qn_x_write_event(x, name, &m->answer.out);
    qn_str_clear(&m->answer.out);
}

static void begin_stream(qn_exchange *x, message *m)
{
    m->is_begun = true;
    qn_str_adds(&m->answer.out, "{\"type\":\"message_start\",\"message\":");
    add_head(&m->answer.out, m);
    qn_str_adds(&m->answer.out,
                ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
    add_usage(&m->answer.out, m, false);
    qn_str_adds(&m->answer.out, "}}");
    send_event(x, m, "message_start");
    qn_str_adds(&m->answer.out, "{\"type\":\"ping\"}");
    send_event(x, m, "ping");
}

/* Whole, or (is_begin) as a stream begins it. */
static void add_block(qn_str *out, const message *m, size_t i, bool is_begin)
{
    const qn_answer_part *p = m->answer.parts;
    const qn_answer_item *item = qn_answer_item_at(p, i);
    bool is_hidden = is_begin || (item->kind == QN_REPLY_REASONING && m->demand.is_silent);
    qn_slice text = is_hidden ? QN_SLICE("") : qn_answer_item_text(p, item);
    if (item->kind == QN_REPLY_CALL) {
        const qn_answer_call *c = &p->calls[item->call];
        qn_str_addf(out, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", c->id);
        qn_answer_add_text(out, &c->name);
        qn_str_adds(out, ",\"input\":");
        qn_str_add(out, is_begin ? "{}" : text.p, is_begin ? 2 : text.n);
        qn_str_addc(out, '}');
    } else if (item->kind == QN_REPLY_REASONING) {
        qn_str_adds(out, "{\"type\":\"thinking\",\"thinking\":");
        qn_str_add_json(out, text.p, text.n);
        qn_str_adds(out, ",\"signature\":\"\"}");
    } else {
        qn_str_adds(out, "{\"type\":\"text\",\"text\":");
        qn_str_add_json(out, text.p, text.n);
        qn_str_addc(out, '}');
    }
}

static void close_block(qn_exchange *x, message *m)
{
    if (m->open == SIZE_MAX)
        return;
    qn_str_addf(&m->answer.out, "{\"type\":\"content_block_stop\",\"index\":%zu}", m->open);
    send_event(x, m, "content_block_stop");
}

static void open_block(qn_exchange *x, message *m, size_t i)
{
    if (m->open == i)
        return;
    close_block(x, m);
    m->open = i;
    qn_str_addf(&m->answer.out,
                "{\"type\":\"content_block_start\",\"index\":%zu,\"content_block\":", i);
    add_block(&m->answer.out, m, i, true);
    qn_str_addc(&m->answer.out, '}');
    send_event(x, m, "content_block_start");
}

static void on_event_stream(qn_exchange *x, void *arg, size_t i, const qn_event *ev)
{
    message *m = arg;
    if (!m->is_begun)
        begin_stream(x, m);
    const qn_answer_part *p = qn_answer_add(&m->answer, i, ev);
    for (size_t k = 0; p && k < m->answer.n_deltas; k++) {
        const qn_answer_delta *d = &m->answer.deltas[k];
        qn_slice text = qn_answer_delta_text(p, d);
        bool is_thought = d->kind == QN_REPLY_REASONING;
        open_block(x, m, d->item);
        if (!d->n || d->kind == QN_REPLY_CALL || (is_thought && m->demand.is_silent))
            continue;
        qn_str_addf(&m->answer.out,
                    "{\"type\":\"content_block_delta\",\"index\":%zu,\"delta\":{%s:", d->item,
                    is_thought ? "\"type\":\"thinking_delta\",\"thinking\""
                    : d->kind == QN_REPLY_ARGUMENTS
                        ? "\"type\":\"input_json_delta\",\"partial_json\""
                        : "\"type\":\"text_delta\",\"text\"");
        qn_str_add_json(&m->answer.out, text.p, text.n);
        qn_str_adds(&m->answer.out, "}}");
        send_event(x, m, "content_block_delta");
    }
}

static void on_done_whole(qn_exchange *x, void *arg)
{
    message *m = arg;
    const qn_answer_part *p = m->answer.parts;
    size_t n = 0;
    bool has_calls = false;
    add_head(&m->answer.out, m);
    qn_str_adds(&m->answer.out, ",\"content\":[");
    for (size_t i = 0; i < QN_MAX(p->n_items, 1); i++) {
        const qn_answer_item *item = qn_answer_item_at(p, i);
        if (item->kind == QN_REPLY_CALL && !qn_answer_call_is_sound(&p->calls[item->call]))
            continue;
        has_calls |= item->kind == QN_REPLY_CALL;
        qn_str_adds(&m->answer.out, n++ ? "," : "");
        add_block(&m->answer.out, m, i, false);
    }
    qn_str_adds(&m->answer.out, "],");
    add_stop(&m->answer.out, p, has_calls);
    qn_str_adds(&m->answer.out, ",\"usage\":");
    add_usage(&m->answer.out, m, true);
    qn_str_addc(&m->answer.out, '}');
    m->answer.out.failed |= m->answer.failed;
    qn_x_reply_json(x, 200, &m->answer.out);
}

static void on_done_stream(qn_exchange *x, void *arg)
{
    message *m = arg;
    m->answer.out.failed |= m->answer.failed;
    if (m->open == SIZE_MAX)
        open_block(x, m, 0);
    close_block(x, m);
    qn_str_adds(&m->answer.out, "{\"type\":\"message_delta\",\"delta\":{");
    add_stop(&m->answer.out, m->answer.parts, m->answer.parts->n_calls > 0);
    qn_str_adds(&m->answer.out, "},\"usage\":");
    add_usage(&m->answer.out, m, true);
    qn_str_addc(&m->answer.out, '}');
    send_event(x, m, "message_delta");
    qn_str_adds(&m->answer.out, "{\"type\":\"message_stop\"}");
    send_event(x, m, "message_stop");
    qn_x_end(x);
}

static void on_idle(qn_exchange *x, void *arg)
{
    message *m = arg;
    if (!m->is_begun) { /* message_start comes first */
        qn_x_write_comment(x);
        return;
    }
    qn_str_adds(&m->answer.out, "{\"type\":\"ping\"}");
    send_event(x, m, "ping");
}

static const qn_answer_api whole_api = {
    .event = qn_answer_event, .done = on_done_whole, .free = qn_answer_free};
static const qn_answer_api stream_api = {.event = on_event_stream,
                                         .done = on_done_stream,
                                         .idle = on_idle,
                                         .free = qn_answer_free,
                                         .is_stream = true,
                                         .begins_at_once = true};

/* ---- routes ---- */

static void handle_messages(qn_exchange *x)
{
    const json_t *o = qn_x_json(x);
    message_body b = {0};
    qn_params params;
    const char *served, *param = NULL;
    int32_t *ids = NULL;
    size_t n_ids;
    qn_err err;
    message *m = o ? qn_arena_alloc(qn_x_arena(x), sizeof *m) : NULL;
    if (!o)
        return;
    if (!m) {
        (void)qn_fail_nomem(&err, sizeof *m);
        qn_x_fail(x, &err, NULL);
        return;
    }
    *m = (message){.open = SIZE_MAX};
    qn_engine *e = read_request(x, &b, &m->demand, o, &served, &ids, &n_ids);
    if (!e)
        return;
    m->answer =
        (qn_answer){.style = &m->demand.style, .call_prefix = "toolu_", .is_stream = b.stream};
    m->model = served;
    m->n_prompt = (int)n_ids;
    qn_answer_make_id(m->id, "msg_");
    qn_status s = read_params(x, &b, o, e, &params, &param, &err);
    if (s == QN_OK)
        s = qn_demand_settle(&m->demand, e, ids, n_ids, &params.grammar, &param, &err);
    if (s == QN_OK) {
        param = NULL;
        qn_x_add_header(x, "request-id", qn_x_id(x));
        s = qn_answer_start(x, b.stream ? &stream_api : &whole_api, m, e,
                            &(qn_prompt){.ids = ids, .n_ids = n_ids}, 1, &params, &err);
    }
    qn_release(ids);
    if (s != QN_OK)
        qn_x_fail(x, &err, param);
}

static void handle_count(qn_exchange *x)
{
    const json_t *o = qn_x_json(x);
    message_body b = {0};
    qn_demand demand;
    const char *served;
    int32_t *ids = NULL;
    size_t n_ids;
    qn_str out = {0};
    if (!o || !read_request(x, &b, &demand, o, &served, &ids, &n_ids))
        return;
    qn_release(ids);
    qn_str_addf(&out, "{\"input_tokens\":%zu}", n_ids);
    qn_x_reply_json(x, 200, &out);
}

const qn_route qn_anthropic_routes[] = {
    {.method = "POST", .path = "/v1/messages", .handle = handle_messages},
    {.method = "POST", .path = "/v1/messages/count_tokens", .handle = handle_count},
    {0},
};
