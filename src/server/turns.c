/* SPDX-License-Identifier: Apache-2.0
 * turns.c - messages to a template's variables, as text that the library parses. */
#include "server/turns.h"

#include "base/limits.h"

#include <stdio.h>
#include <string.h>

void qn_turns_fini(qn_turns *t)
{
    qn_str *all[] = {&t->system,    &t->messages, &t->tools, &t->content,
                     &t->reasoning, &t->calls,    &t->fields};
    for (size_t i = 0; i < QN_COUNT(all); i++)
        qn_str_fini(all[i]);
    *t = (qn_turns){0};
}

static void add_key(qn_where *w, const char *key)
{
    size_t at = strlen(w->path), n = QN_MIN(strlen(key), sizeof w->path - 1 - at);
    memcpy(w->path + at, key, n);
    w->path[at + n] = 0;
}

qn_where qn_where_at(const qn_where *parent, const char *key)
{
    qn_where w = {""};
    if (parent)
        w = *parent;
    if (parent)
        add_key(&w, ".");
    add_key(&w, key);
    return w;
}

qn_where qn_where_index(const qn_where *parent, size_t i)
{
    char key[24];
    (void)snprintf(key, sizeof key, "%zu", i);
    return qn_where_at(parent, key);
}

const char *qn_turns_string(const json_t *v)
{
    const char *s = json_string_value(v);
    return s && strlen(s) == json_string_length(v) ? s : NULL;
}

qn_status qn_turns_limit(const char *name, const json_t *list, size_t max, qn_err *err)
{
    size_t n = json_array_size(list);
    return n <= max ? QN_OK
                    : qn_fail(err, QN_E_ARG, "%s: found %zu, want at most %zu", name, n, max);
}

/* ---- messages ---- */

static void add_string(qn_str *out, const char *key, const char *p, size_t n)
{
    qn_str_addf(out, "\"%s\":", key);
    qn_str_add_json(out, p ? p : "", n);
}

static void add_text(qn_str *out, const char *p, size_t n, const char *between)
{
    if (out->n)
        qn_str_adds(out, between);
    qn_str_add(out, p, n);
}

/* Adds from to out and empties it; its failure becomes out's. */
static void move_text(qn_str *out, qn_str *from)
{
    qn_str_add(out, from->p ? from->p : "", from->n);
    out->failed |= from->failed;
    qn_str_clear(from);
}

static void write_message(qn_turns *t)
{
    qn_str *out = &t->messages;
    qn_str_adds(out, out->n ? ",{" : "{");
    add_string(out, "role", t->role, strlen(t->role));
    qn_str_adds(out, ",");
    add_string(out, "content", t->content.p, t->content.n);
    if (t->reasoning.n) {
        qn_str_adds(out, ",");
        add_string(out, "reasoning_content", t->reasoning.p, t->reasoning.n);
    }
    out->failed |= t->calls.failed;
    if (t->calls.n) {
        qn_str_adds(out, ",\"tool_calls\":[");
        move_text(out, &t->calls);
        qn_str_addc(out, ']');
    }
    move_text(out, &t->fields);
    qn_str_addc(out, '}');
    out->failed |= t->content.failed | t->reasoning.failed;
}

void qn_turns_close(qn_turns *t)
{
    qn_str *open[] = {&t->content, &t->reasoning, &t->calls, &t->fields};
    if (!t->is_open)
        return;
    t->is_open = false;
    if (strcmp(t->role, "system") == 0 && !t->messages.n) {
        if (t->system.n)
            qn_str_adds(&t->system, "\n\n");
        move_text(&t->system, &t->content);
    } else
        write_message(t);
    for (size_t i = 0; i < QN_COUNT(open); i++)
        qn_str_clear(open[i]);
}

void qn_turns_open(qn_turns *t, const char *role)
{
    qn_turns_close(t);
    t->role = role;
    t->is_open = true;
    t->has_text = false;
}

void qn_turns_text(qn_turns *t, const char *p, size_t n)
{
    if (t->has_text)
        qn_str_addc(&t->content, '\n');
    t->has_text = true;
    qn_str_add(&t->content, p, n);
}

void qn_turns_reasoning(qn_turns *t, const char *p, size_t n)
{
    add_text(&t->reasoning, p, n, "\n");
}

void qn_turns_call(qn_turns *t, const char *id, const char *name, const json_t *arguments)
{
    qn_str *out = &t->calls;
    qn_str_adds(out, out->n ? ",{" : "{");
    if (id) {
        add_string(out, "id", id, strlen(id));
        qn_str_adds(out, ",");
    }
    qn_str_adds(out, "\"type\":\"function\",\"function\":{");
    add_string(out, "name", name, strlen(name));
    qn_str_adds(out, ",\"arguments\":");
    qn_json_write(out, arguments);
    qn_str_adds(out, "}}");
}

void qn_turns_field(qn_turns *t, const char *key, const char *value)
{
    qn_str_adds(&t->fields, ",");
    add_string(&t->fields, key, value, strlen(value));
}

void qn_turns_tool(qn_turns *t, const char *name, const char *description, const json_t *parameters)
{
    qn_str *out = &t->tools;
    qn_str_adds(out, out->n ? "," : "");
    qn_str_adds(out, "{\"type\":\"function\",\"function\":{");
    add_string(out, "name", name, strlen(name));
    if (description) {
        qn_str_adds(out, ",");
        add_string(out, "description", description, strlen(description));
    }
    qn_str_adds(out, ",\"parameters\":");
    if (parameters)
        qn_json_write(out, parameters);
    else
        qn_str_adds(out, "{\"type\":\"object\",\"properties\":{}}");
    qn_str_adds(out, "}}");
}

qn_status qn_turns_function(qn_turns *t, const json_t *tool, qn_where *where, qn_err *err)
{
    const char *type = qn_turns_string(json_object_get(tool, "type"));
    const json_t *f = json_object_get(tool, "function");
    const char *name = qn_turns_string(json_object_get(f, "name"));
    const json_t *parameters = json_object_get(f, "parameters");
    if (!name || (type && strcmp(type, "function") != 0))
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s: found %s, want a function with a name: tools run at the client",
                       where->path, type ? type : qn_json_type_name(tool));
    if (parameters && !json_is_null(parameters) && !json_is_object(parameters))
        return qn_fail(err, QN_E_ARG, "%s.function.parameters: found %s, want an object",
                       where->path, qn_json_type_name(parameters));
    qn_turns_tool(t, name, qn_turns_string(json_object_get(f, "description")),
                  json_is_object(parameters) ? parameters : NULL);
    return QN_OK;
}

/* ---- text and its parts ---- */

static bool is_one_of(const char *s, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(s, *list) == 0)
            return true;
    return false;
}

static qn_status add_part(qn_turns *t, const json_t *part, const char *const *types,
                          qn_where *where, qn_err *err)
{
    if (!json_is_object(part))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want an object", where->path,
                       qn_json_type_name(part));
    const char *type = qn_turns_string(json_object_get(part, "type"));
    if (!type || !is_one_of(type, types)) {
        *where = qn_where_at(where, "type");
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: found %s%s, want %s: only text can be read",
                       where->path, type ? "" : "no string", type ? type : "", types[0]);
    }
    const json_t *text = json_object_get(part, "text");
    if (!json_is_string(text)) {
        *where = qn_where_at(where, "text");
        return qn_fail(err, QN_E_ARG, "%s: found %s, want a string", where->path,
                       qn_json_type_name(text));
    }
    qn_turns_text(t, json_string_value(text), json_string_length(text));
    return QN_OK;
}

qn_status qn_turns_parts(qn_turns *t, const json_t *v, const char *const *types, qn_where *where,
                         qn_err *err)
{
    if (json_is_string(v)) {
        qn_turns_text(t, json_string_value(v), json_string_length(v));
        return QN_OK;
    }
    if (!json_is_array(v))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want a string or an array", where->path,
                       qn_json_type_name(v));
    for (size_t i = 0; i < json_array_size(v); i++) {
        qn_where at = qn_where_index(where, i);
        qn_status s = add_part(t, json_array_get(v, i), types, &at, err);
        if (s != QN_OK) {
            *where = at;
            return s;
        }
    }
    return QN_OK;
}

/* ---- tokens ---- */

/* goes_on: with the last message. */
static void write_variables(qn_turns *t, bool goes_on, qn_str *out)
{
    qn_str_adds(out, "{\"messages\":[");
    if (t->system.n) {
        qn_str_adds(out, "{\"role\":\"system\",");
        add_string(out, "content", t->system.p, t->system.n);
        qn_str_adds(out, t->messages.n ? "}," : "}");
    }
    move_text(out, &t->messages);
    qn_str_addc(out, ']');
    if (t->tools.n) {
        qn_str_adds(out, ",\"tools\":[");
        move_text(out, &t->tools);
        qn_str_addc(out, ']');
    }
    if (t->has_thinking)
        qn_str_addf(out, ",\"enable_thinking\":%s", t->is_thinking ? "true" : "false");
    if (goes_on)
        qn_str_adds(out, ",\"add_generation_prompt\":false,\"continue_final_message\":true");
    qn_str_addc(out, '}');
    out->failed |= t->system.failed | t->tools.failed;
}

static bool has_text(const qn_str *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (!strchr(" \t\n\v\f\r", s->p[i]))
            return true;
    return false;
}

qn_status qn_turns_encode(qn_turns *t, const qn_engine *e, bool keep_open, int32_t **ids,
                          size_t *n_ids, qn_err *err)
{
    qn_engine_info info;
    qn_str json = {0};
    *ids = NULL;
    qn_engine_get_info(e, &info);
    if (!info.has_chat_template)
        return qn_fail(err, QN_E_UNSUPPORTED, "the model has no chat template: send it raw text");
    if (t->tools.n > QN_LIMIT_TOOLS_BYTES)
        return qn_fail(err, QN_E_ARG, "tools: found %zu bytes in all, want at most %d", t->tools.n,
                       QN_LIMIT_TOOLS_BYTES);
    /* of blanks alone nothing can be found in the template's text: the message is left out */
    bool goes_on = keep_open && t->is_open && has_text(&t->content);
    if (goes_on || !keep_open)
        qn_turns_close(t);
    write_variables(t, goes_on, &json);
    qn_status s = json.failed || t->content.failed
                      ? qn_fail_nomem(err, json.n)
                      : qn_encode(e, &(qn_prompt){.chat_json = json.p}, ids, n_ids, err);
    qn_str_fini(&json);
    return s;
}
