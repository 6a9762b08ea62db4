/* SPDX-License-Identifier: Apache-2.0
 * openai_messages.c - a conversation as OpenAI's clients write it, made into what chat templates read.
 *
 *   messages, tools, tool_choice, chat_template_kwargs, ...  ->  {"messages": [...], "tools": [...], "add_generation_prompt": true,
 *                                                                "enable_thinking": false}
 *
 * Contents become one string, the arguments of tool calls objects (templates write them with tojson or go through their items).
 * Only the variables of the table below reach the template: a request may not set those that the template takes for its own. */
#include "server/openai.h"

#include "base/limits.h"
#include <stdio.h>
#include <string.h>

/* Where in the request an error is: "messages[3].content". Lives until the next error of this thread. */
static _Thread_local char place[96];

static qn_status at_message(const char **param, size_t i, const char *field)
{
    (void)snprintf(place, sizeof place, "messages[%zu]%s%s", i, *field ? "." : "", field);
    *param = place;
    return QN_E_ARG;
}

static void add_string(qn_str *out, const json_t *v)
{
    qn_str_add_json(out, json_string_value(v), json_string_length(v));
}

/* ---- content ---- */

/* The field that holds a part's text, or NULL: it is none. */
static const char *text_field(const char *type)
{
    static const char *const text[] = {"text", "input_text", "output_text"};
    for (size_t i = 0; i < QN_COUNT(text); i++)
        if (strcmp(type, text[i]) == 0)
            return "text";
    return strcmp(type, "refusal") == 0 ? "refusal" : NULL;
}

static qn_status add_part(qn_str *joined, const json_t *part, bool is_first, size_t i,
                          const char **param, qn_err *err)
{
    const json_t *text = part;
    if (json_is_object(part)) {
        const char *type = json_string_value(json_object_get(part, "type"));
        const char *field = type ? text_field(type) : NULL;
        if (!field)
            return qn_fail(err, at_message(param, i, "content"),
                           "%s: found a part of the type '%.40s', want text: this model reads "
                           "nothing else",
                           *param, type ? type : "");
        text = json_object_get(part, field);
    }
    if (!json_is_string(text))
        return qn_fail(err, at_message(param, i, "content"),
                       "%s: found a text part with %s, want a string", *param,
                       qn_json_type_name(text));
    if (!is_first)
        qn_str_addc(joined, '\n');
    qn_str_add(joined, json_string_value(text), json_string_length(text));
    return QN_OK;
}

/* A string, parts that are joined to one, or, of an assistant that only called tools, nothing. */
static qn_status add_content(qn_str *out, const json_t *v, bool may_lack, size_t i,
                             const char **param, qn_err *err)
{
    if (json_is_string(v)) {
        add_string(out, v);
        return QN_OK;
    }
    if ((!v || json_is_null(v)) && may_lack) {
        qn_str_adds(out, "\"\"");
        return QN_OK;
    }
    if (!json_is_array(v))
        return qn_fail(err, at_message(param, i, "content"),
                       "%s: found %s, want a string or an array of parts", *param,
                       v ? qn_json_type_name(v) : "nothing");
    qn_str joined = {0};
    qn_status s = QN_OK;
    for (size_t k = 0; s == QN_OK && k < json_array_size(v); k++)
        s = add_part(&joined, json_array_get(v, k), k == 0, i, param, err);
    if (s == QN_OK && joined.failed)
        s = qn_fail_nomem(err, joined.n);
    if (s == QN_OK)
        qn_str_add_json(out, joined.p ? joined.p : "", joined.n);
    qn_str_fini(&joined);
    return s;
}

/* ---- tool calls ---- */

/* The text of an object as that object; other text (a call that was cut off) stays text. */
static void add_arguments(qn_str *out, const json_t *v)
{
    json_t *parsed = NULL;
    const char *text = json_string_value(v);
    if (!v || json_is_null(v) || (text && !json_string_length(v))) {
        qn_str_adds(out, "{}");
    } else if (!text) {
        qn_json_write(out, v);
    } else if (qn_json_parse(&parsed, text, json_string_length(v), 32, "arguments", NULL) ==
                   QN_OK &&
               json_is_object(parsed)) {
        qn_json_write(out, parsed);
    } else {
        add_string(out, v);
    }
    json_decref(parsed);
}

static qn_status add_tool_call(qn_str *out, const json_t *call, size_t i, const char **param,
                               qn_err *err)
{
    const json_t *f = json_object_get(call, "function"), *id = json_object_get(call, "id");
    const json_t *name = json_object_get(f, "name");
    if (!json_is_string(name))
        return qn_fail(err, at_message(param, i, "tool_calls"),
                       "%s: found a call without a function's name", *param);
    qn_str_adds(out, "{\"type\":\"function\"");
    if (json_is_string(id)) {
        qn_str_adds(out, ",\"id\":");
        add_string(out, id);
    }
    qn_str_adds(out, ",\"function\":{\"name\":");
    add_string(out, name);
    qn_str_adds(out, ",\"arguments\":");
    add_arguments(out, json_object_get(f, "arguments"));
    qn_str_adds(out, "}}");
    return QN_OK;
}

static qn_status add_tool_calls(qn_str *out, const json_t *calls, size_t i, const char **param,
                                qn_err *err)
{
    if (!calls || json_is_null(calls))
        return QN_OK;
    if (!json_is_array(calls))
        return qn_fail(err, at_message(param, i, "tool_calls"), "%s: found %s, want an array",
                       *param, qn_json_type_name(calls));
    if (!json_array_size(calls))
        return QN_OK;
    qn_str_adds(out, ",\"tool_calls\":[");
    for (size_t k = 0; k < json_array_size(calls); k++) {
        if (k)
            qn_str_addc(out, ',');
        QN_TRY(add_tool_call(out, json_array_get(calls, k), i, param, err));
    }
    qn_str_addc(out, ']');
    return QN_OK;
}

/* ---- messages ---- */

/* As templates know them; NULL: unknown. */
static const char *template_role(const char *role)
{
    static const char *const names[][2] = {{"system", "system"}, {"developer", "system"},
                                           {"user", "user"},     {"assistant", "assistant"},
                                           {"tool", "tool"},     {"function", "tool"}};
    for (size_t i = 0; role && i < QN_COUNT(names); i++)
        if (strcmp(role, names[i][0]) == 0)
            return names[i][1];
    return NULL;
}

/* Fields that are strings, under the name that templates know. */
static qn_status add_strings(qn_str *out, const json_t *m, size_t i, const char **param,
                             qn_err *err)
{
    static const char *const names[][2] = {{"name", "name"},
                                           {"tool_call_id", "tool_call_id"},
                                           {"reasoning_content", "reasoning_content"},
                                           {"reasoning", "reasoning_content"}};
    for (size_t k = 0; k < QN_COUNT(names); k++) {
        const json_t *v = json_object_get(m, names[k][0]);
        if (!v || json_is_null(v))
            continue;
        if (!json_is_string(v))
            return qn_fail(err, at_message(param, i, names[k][0]), "%s: found %s, want a string",
                           *param, qn_json_type_name(v));
        /* both names of the thoughts are often sent, with the same text */
        if (strcmp(names[k][0], "reasoning") == 0 &&
            json_is_string(json_object_get(m, "reasoning_content")))
            continue;
        qn_str_addf(out, ",\"%s\":", names[k][1]);
        add_string(out, v);
    }
    return QN_OK;
}

static qn_status add_message(qn_str *out, const json_t *m, size_t i, const char **param,
                             qn_err *err)
{
    if (!json_is_object(m))
        return qn_fail(err, at_message(param, i, ""), "%s: found %s, want an object", *param,
                       qn_json_type_name(m));
    const json_t *r = json_object_get(m, "role");
    const char *role = template_role(json_string_value(r));
    if (!role)
        return qn_fail(err, at_message(param, i, "role"),
                       "%s: found %s%.40s, want system, developer, user, assistant or tool", *param,
                       json_is_string(r) ? "" : qn_json_type_name(r),
                       json_is_string(r) ? json_string_value(r) : "");
    qn_str_addf(out, "{\"role\":\"%s\",\"content\":", role);
    QN_TRY(add_content(out, json_object_get(m, "content"), strcmp(role, "assistant") == 0, i, param,
                       err));
    QN_TRY(add_strings(out, m, i, param, err));
    if (strcmp(role, "assistant") == 0)
        QN_TRY(add_tool_calls(out, json_object_get(m, "tool_calls"), i, param, err));
    qn_str_addc(out, '}');
    return QN_OK;
}

/* ---- the rest of the object ---- */

typedef struct variables {
    const json_t *messages, *tools, *kwargs;
    const char *tool_choice, *effort;
    bool add_prompt, continue_last, enable_thinking;
} variables;

static const qn_field fields[] = {
    {"messages", QN_FIELD_ARRAY, offsetof(variables, messages), 0, 0},
    {"tools", QN_FIELD_ARRAY, offsetof(variables, tools), 0, 0},
    {"chat_template_kwargs", QN_FIELD_OBJECT, offsetof(variables, kwargs), 0, 0},
    {"reasoning_effort", QN_FIELD_STR, offsetof(variables, effort), 1, 32},
    {"add_generation_prompt", QN_FIELD_BOOL, offsetof(variables, add_prompt), 0, 0},
    {"continue_final_message", QN_FIELD_BOOL, offsetof(variables, continue_last), 0, 0},
    {"enable_thinking", QN_FIELD_BOOL, offsetof(variables, enable_thinking), 0, 0},
};

static qn_status add_tools(qn_str *out, const json_t *tools, const char **param, qn_err *err)
{
    size_t n = json_array_size(tools), n_bytes = 0;
    *param = "tools";
    if (n > QN_LIMIT_TOOLS)
        return qn_fail(err, QN_E_ARG, "tools: found %zu, want at most %d", n, QN_LIMIT_TOOLS);
    qn_str_adds(out, ",\"tools\":[");
    for (size_t i = 0; i < n; i++) {
        const json_t *t = json_array_get(tools, i);
        const char *type = json_string_value(json_object_get(t, "type"));
        const json_t *f = json_object_get(t, "function");
        if (!type || strcmp(type, "function") != 0 || !json_is_string(json_object_get(f, "name")))
            return qn_fail(err, QN_E_ARG,
                           "tools[%zu]: want the type \"function\" and a function "
                           "with a name",
                           i);
        if (i)
            qn_str_addc(out, ',');
        size_t before = out->n;
        qn_json_write(out, t);
        n_bytes += out->n - before;
        if (n_bytes > QN_LIMIT_TOOLS_BYTES)
            return qn_fail(err, QN_E_ARG, "tools: found more than %d bytes in all",
                           QN_LIMIT_TOOLS_BYTES);
    }
    qn_str_addc(out, ']');
    return QN_OK;
}

/* What a request may tell the template. */
static qn_status add_kwargs(qn_str *out, const json_t *kwargs, const char **param, qn_err *err)
{
    static const char *const allowed[] = {"enable_thinking", "thinking", "preserve_thinking",
                                          "reasoning_effort", "thinking_budget"};
    const char *key;
    json_t *v;
    *param = "chat_template_kwargs";
    json_object_foreach((json_t *)kwargs, key, v)
    {
        size_t i = 0;
        while (i < QN_COUNT(allowed) && strcmp(key, allowed[i]) != 0)
            i++;
        if (i == QN_COUNT(allowed))
            return qn_fail(
                err, QN_E_ARG,
                "chat_template_kwargs: found '%.60s', want no more than enable_thinking, "
                "thinking, preserve_thinking, reasoning_effort, thinking_budget",
                key);
        if (json_is_object(v) || json_is_array(v))
            return qn_fail(err, QN_E_ARG, "chat_template_kwargs: %s: found %s, want a plain value",
                           key, qn_json_type_name(v));
        if (json_is_null(v))
            continue;
        qn_str_addf(out, ",\"%s\":", key);
        qn_json_write(out, v);
    }
    return QN_OK;
}

/* A budget of nothing is told as no thinking at all. */
static bool is_zero(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_integer(v) && json_integer_value(v) == 0;
}

static bool in_kwargs(const variables *v, const char *name)
{
    const json_t *k = json_object_get(v->kwargs, name);
    return k && !json_is_null(k);
}

/* The same things by the names that stand beside messages. */
static void add_thinking(qn_str *out, const variables *v, const json_t *body)
{
    const json_t *given = json_object_get(body, "enable_thinking");
    bool is_given = given && !json_is_null(given);
    bool off = (v->effort && strcmp(v->effort, "none") == 0) || is_zero(body, "thinking_budget") ||
               is_zero(body, "thinking_token_budget") || is_zero(v->kwargs, "thinking_budget");
    if (!in_kwargs(v, "enable_thinking") && (is_given || off))
        qn_str_addf(out, ",\"enable_thinking\":%s",
                    is_given && v->enable_thinking ? "true" : "false");
    if (v->effort && !in_kwargs(v, "reasoning_effort")) {
        qn_str_adds(out, ",\"reasoning_effort\":");
        qn_str_add_json(out, v->effort, strlen(v->effort));
    }
}

static qn_status check_continue(const variables *v, const json_t *body, const char **param,
                                qn_err *err)
{
    if (!v->continue_last)
        return QN_OK;
    size_t n = json_array_size(v->messages);
    const json_t *last = json_array_get(v->messages, n - 1);
    *param = "continue_final_message";
    if (v->add_prompt && json_is_true(json_object_get(body, "add_generation_prompt")))
        return qn_fail(
            err, QN_E_ARG,
            "continue_final_message: found with add_generation_prompt, want one of them");
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!role || strcmp(role, "assistant") != 0)
        return qn_fail(err, QN_E_ARG,
                       "continue_final_message: the last message is not the assistant's");
    return QN_OK;
}

qn_status qn_openai_messages(const json_t *body, qn_str *out, const char **param, qn_err *err)
{
    variables v = {.add_prompt = true};
    QN_TRY(qn_fields_read(body, fields, QN_COUNT(fields), &v, param, err));
    const json_t *choice = json_object_get(body, "tool_choice");
    v.tool_choice = json_string_value(choice);
    size_t n = json_array_size(v.messages);
    *param = "messages";
    if (!v.messages || !n)
        return qn_fail(err, QN_E_ARG, "messages: found %s, want at least one message",
                       v.messages ? "none" : "nothing");
    if (n > QN_LIMIT_MESSAGES)
        return qn_fail(err, QN_E_ARG, "messages: found %zu, want at most %d", n, QN_LIMIT_MESSAGES);
    QN_TRY(check_continue(&v, body, param, err));
    qn_str_adds(out, "{\"messages\":[");
    for (size_t i = 0; i < n; i++) {
        if (i)
            qn_str_addc(out, ',');
        QN_TRY(add_message(out, json_array_get(v.messages, i), i, param, err));
    }
    qn_str_addc(out, ']');
    /* "none": a model that knows of no tools calls none */
    if (json_array_size(v.tools) && !(v.tool_choice && strcmp(v.tool_choice, "none") == 0))
        QN_TRY(add_tools(out, v.tools, param, err));
    QN_TRY(add_kwargs(out, v.kwargs, param, err));
    add_thinking(out, &v, body);
    qn_str_addf(out, ",\"add_generation_prompt\":%s",
                v.add_prompt && !v.continue_last ? "true" : "false");
    if (v.continue_last)
        qn_str_adds(out, ",\"continue_final_message\":true");
    qn_str_addc(out, '}');
    *param = NULL;
    return out->failed ? qn_fail_nomem(err, out->n) : QN_OK;
}
