/* SPDX-License-Identifier: Apache-2.0
 * demand.c - what requests say of their answer, read; and the grammar opened. */
#include "server/demand.h"

#include "server/fields.h"

#include <stdio.h>
#include <string.h>

#define EXPLAIN_NS 300000000u

void qn_demand_init(qn_demand *d, const qn_engine *e, qn_exchange *x)
{
    qn_text_info text;
    qn_engine_get_text(e, &text);
    *d = (qn_demand){
        .x = x, .arena = qn_x_arena(x), .budget = -1, .speech = qn_speech_of(text.chat_template)};
}

static bool is_given(const json_t *v)
{
    return v && !json_is_null(v);
}

/* ---- forms ---- */

static qn_status keep_text(qn_demand *d, const json_t *v, qn_err *err)
{
    qn_str text = {0};
    if (json_is_string(v))
        qn_str_add(&text, json_string_value(v), json_string_length(v));
    else
        qn_json_write(&text, v);
    char *copy = text.failed ? NULL : qn_arena_strndup(d->arena, text.p ? text.p : "", text.n);
    d->text = (qn_slice){copy, text.n};
    qn_str_fini(&text);
    return copy ? QN_OK : qn_fail_nomem(err, d->text.n);
}

/* As a value, so that nothing but a schema can stand in it. */
static qn_status keep_schema(qn_demand *d, const char *param, const json_t *v, qn_err *err)
{
    static const char *const booleans[] = {"{\"not\": {}}",
                                           "{}"}; /* as objects, which %json takes */
    json_t *parsed = NULL;
    if (json_is_string(v)) {
        QN_TRY(qn_json_parse(&parsed, json_string_value(v), json_string_length(v),
                             QN_LIMIT_HTTP_JSON_DEPTH, param, err));
        v = parsed;
    }
    qn_status s = QN_OK;
    if (json_is_boolean(v))
        d->text = qn_slice_of(booleans[json_is_true(v)]);
    else
        s = json_is_object(v) ? keep_text(d, v, err)
                              : qn_fail(err, QN_E_ARG, "%s: found %s, want a JSON Schema", param,
                                        qn_json_type_name(v));
    json_decref(parsed);
    return s;
}

qn_status qn_demand_form(qn_demand *d, const char *param, qn_grammar_kind kind, const json_t *v,
                         qn_err *err)
{
    if (d->has_form)
        return qn_fail(err, QN_E_ARG, "%s: found beside %s, want one of them", param,
                       d->form_param);
    d->has_form = true;
    d->form = kind;
    d->form_param = param;
    if (kind == QN_GRAMMAR_JSON)
        return QN_OK;
    if (kind == QN_GRAMMAR_SCHEMA)
        return keep_schema(d, param, v, err);
    if (kind == QN_GRAMMAR_CHOICE ? !json_is_array(v) : !json_is_string(v))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want %s", param, qn_json_type_name(v),
                       kind == QN_GRAMMAR_CHOICE ? "an array of strings" : "a string");
    return keep_text(d, v, err);
}

qn_status qn_demand_read_format(qn_demand *d, const char *param, const json_t *v, qn_err *err)
{
    const json_t *inner = json_object_get(v, "json_schema");
    const json_t *schema = json_object_get(is_given(inner) ? inner : v, "schema");
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type)
        return qn_fail(err, QN_E_ARG,
                       "%s: found %s, want an object with the type text, json_object or "
                       "json_schema",
                       param, json_is_object(v) ? "no type" : qn_json_type_name(v));
    if (strcmp(type, "text") == 0)
        return QN_OK;
    bool is_object = strcmp(type, "json_object") == 0;
    if (is_object && !is_given(schema))
        return qn_demand_form(d, param, QN_GRAMMAR_JSON, NULL, err);
    if (is_object || strcmp(type, "json_schema") == 0)
        return is_given(schema)
                   ? qn_demand_form(d, param, QN_GRAMMAR_SCHEMA, schema, err)
                   : qn_fail(err, QN_E_ARG, "%s: found json_schema without a schema", param);
    return qn_fail(
        err,
        strcmp(type, "structural_tag") == 0 || strcmp(type, "grammar") == 0 ? QN_E_UNSUPPORTED
                                                                            : QN_E_ARG,
        "%s: found the type '%.40s', want text, json_object or json_schema", param, type);
}

typedef struct form_field {
    const char *name, *key; /* key: of the object `name`; NULL: the field itself */
    qn_grammar_kind kind;
} form_field;

static const form_field form_fields[] = {
    {"structured_outputs", "json", QN_GRAMMAR_SCHEMA},
    {"structured_outputs", "regex", QN_GRAMMAR_REGEX},
    {"structured_outputs", "choice", QN_GRAMMAR_CHOICE},
    {"structured_outputs", "grammar", QN_GRAMMAR_GBNF},
    {"structured_outputs", "json_object", QN_GRAMMAR_JSON},
    {"guided_json", NULL, QN_GRAMMAR_SCHEMA},
    {"guided_regex", NULL, QN_GRAMMAR_REGEX},
    {"guided_choice", NULL, QN_GRAMMAR_CHOICE},
    {"guided_grammar", NULL, QN_GRAMMAR_GBNF},
    {"json_schema", NULL, QN_GRAMMAR_SCHEMA},
    {"regex", NULL, QN_GRAMMAR_REGEX},
    {"ebnf", NULL, QN_GRAMMAR_GBNF},
    {"grammar", NULL, QN_GRAMMAR_GBNF},
};

/* Other members of structured_outputs say how, not what; but for these. */
static qn_status check_structured(const json_t *v, const char **param, qn_err *err)
{
    static const char *const refused[] = {"structural_tag", "whitespace_pattern"};
    *param = "structured_outputs";
    if (is_given(v) && !json_is_object(v))
        return qn_fail(err, QN_E_ARG, "structured_outputs: found %s, want an object",
                       qn_json_type_name(v));
    for (size_t i = 0; i < QN_COUNT(refused); i++)
        if (is_given(json_object_get(v, refused[i])))
            return qn_fail(err, QN_E_UNSUPPORTED,
                           "structured_outputs.%s: is not enforced here; leave it out", refused[i]);
    return QN_OK;
}

qn_status qn_demand_read_forms(qn_demand *d, const json_t *o, const char **param, qn_err *err)
{
    const json_t *format = json_object_get(o, "response_format");
    QN_TRY(check_structured(json_object_get(o, "structured_outputs"), param, err));
    *param = "response_format";
    if (is_given(format))
        QN_TRY(qn_demand_read_format(d, "response_format", format, err));
    for (size_t i = 0; i < QN_COUNT(form_fields); i++) {
        const form_field *f = &form_fields[i];
        const json_t *v = json_object_get(o, f->name);
        v = f->key ? json_object_get(v, f->key) : v;
        bool is_empty = json_is_string(v) && !json_string_length(v);
        if (!is_given(v) || is_empty || (f->kind == QN_GRAMMAR_JSON && json_is_false(v)))
            continue;
        *param = f->name;
        QN_TRY(qn_demand_form(d, f->name, f->kind, v, err));
    }
    *param = NULL;
    return QN_OK;
}

/* ---- tools ---- */

/* A name that stands in every way to write a call without being quoted. */
static qn_status check_name(const char *where, const json_t *v, qn_err *err)
{
    const char *name = json_string_value(v);
    size_t n = json_string_length(v);
    if (!name)
        return qn_fail(err, QN_E_ARG, "%s: found %s as the tool's name, want a string", where,
                       qn_json_type_name(v));
    if (n < 1 || n > QN_LIMIT_TOOL_NAME)
        return qn_fail(err, QN_E_ARG, "%s: found a name of %zu bytes, want 1 to %d", where, n,
                       QN_LIMIT_TOOL_NAME);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] <= ' ' || strchr("<>\"\\", name[i]))
            return qn_fail(err, QN_E_ARG,
                           "%s: found a name with the byte 0x%02x, want none of blanks, <, >, "
                           "quotes and backslashes",
                           where, (unsigned char)name[i]);
    return QN_OK;
}

qn_status qn_demand_tool(qn_demand *d, const char *where, const json_t *name,
                         const json_t *parameters, const json_t *strict, qn_err *err)
{
    QN_TRY(check_name(where, name, err));
    if (is_given(strict) && !json_is_boolean(strict))
        return qn_fail(err, QN_E_ARG, "%s: strict: found %s, want true or false", where,
                       qn_json_type_name(strict));
    if (is_given(parameters) && !json_is_object(parameters))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want an object", where,
                       qn_json_type_name(parameters));
    if (d->n_tools == d->tools_cap) { /* the old list stays the arena's */
        size_t cap = 2 * d->tools_cap + 4;
        qn_tool *more = qn_arena_alloc(d->arena, cap * sizeof *more);
        if (!more)
            return qn_fail_nomem(err, cap * sizeof *more);
        if (d->n_tools)
            memcpy(more, d->tools, d->n_tools * sizeof *more);
        d->tools = more;
        d->tools_cap = cap;
    }
    const char *copy = qn_arena_strndup(d->arena, where, strlen(where));
    if (!copy)
        return qn_fail_nomem(err, strlen(where));
    d->tools[d->n_tools++] = (qn_tool){.where = copy,
                                       .name = json_string_value(name),
                                       .parameters = is_given(parameters) ? parameters : NULL,
                                       .is_strict = json_is_true(strict),
                                       .is_lax = json_is_false(strict),
                                       .is_allowed = true};
    return QN_OK;
}

static qn_tool *find_tool(const qn_demand *d, const char *name)
{
    for (size_t i = 0; i < d->n_tools; i++)
        if (strcmp(d->tools[i].name, name) == 0)
            return &d->tools[i];
    return NULL;
}

static qn_status unknown_tool(const char *param, const char *name, qn_err *err)
{
    return qn_fail(err, QN_E_ARG, "%s: found the name '%.60s', want that of one of the tools",
                   param, name);
}

static void allow_none(qn_demand *d)
{
    d->is_subset = true;
    for (size_t i = 0; i < d->n_tools; i++)
        d->tools[i].is_allowed = false;
}

qn_status qn_demand_name(qn_demand *d, const char *param, const char *name, qn_err *err)
{
    qn_tool *t = find_tool(d, name);
    if (!t)
        return unknown_tool(param, name, err);
    allow_none(d);
    t->is_allowed = true;
    d->choice = QN_TOOLS_REQUIRED;
    d->is_single = true;
    return QN_OK;
}

static const char *function_name(const json_t *v)
{
    const json_t *f = json_object_get(v, "function");
    return json_string_value(json_object_get(f ? f : v, "name"));
}

static qn_status choose(qn_demand *d, const char *mode, qn_err *err)
{
    static const char *const modes[] = {"auto", "none", "required"};
    for (size_t i = 0; mode && i < QN_COUNT(modes); i++)
        if (strcmp(mode, modes[i]) == 0) {
            d->choice = (qn_tool_choice)i;
            return QN_OK;
        }
    return qn_fail(err, QN_E_ARG,
                   "tool_choice: found %s, want \"auto\", \"none\", \"required\" or an object that "
                   "names a function",
                   mode ? "another string" : "no mode");
}

static qn_status allow(qn_demand *d, const json_t *v, qn_err *err)
{
    const json_t *inner = json_object_get(v, "allowed_tools");
    v = inner ? inner : v;
    const json_t *list = json_object_get(v, "tools");
    QN_TRY(choose(d, json_string_value(json_object_get(v, "mode")), err));
    allow_none(d);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = function_name(json_array_get(list, i));
        qn_tool *t = name ? find_tool(d, name) : NULL;
        if (!t)
            return unknown_tool("tool_choice", name ? name : "", err);
        t->is_allowed = true;
    }
    return json_array_size(list)
               ? QN_OK
               : qn_fail(err, QN_E_ARG, "tool_choice: found no allowed tools, want at least one");
}

qn_status qn_demand_read_choice(qn_demand *d, const json_t *v, qn_err *err)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    const char *name = function_name(v);
    if (!is_given(v))
        return QN_OK;
    if (type && strcmp(type, "allowed_tools") == 0)
        return allow(d, v, err);
    if (type && strcmp(type, "function") == 0 && name)
        return qn_demand_name(d, "tool_choice", name, err);
    if (json_is_object(v))
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "tool_choice: found the type '%.40s', want a function with a name, or "
                       "allowed_tools",
                       type ? type : "");
    QN_TRY(choose(d, json_string_value(v), err));
    if (d->choice == QN_TOOLS_REQUIRED && !d->n_tools)
        return qn_fail(err, QN_E_ARG, "tool_choice: found required without tools");
    return QN_OK;
}

/* ---- thoughts ---- */

typedef struct thinking {
    int budget, vllm_budget;
    bool include, enable;
    const char *effort;
    const json_t *kwargs;
} thinking;

static const qn_field thinking_fields[] = {
    {"thinking_budget", QN_FIELD_INT, offsetof(thinking, budget), 0, QN_LIMIT_CONTEXT},
    {"thinking_token_budget", QN_FIELD_INT, offsetof(thinking, vllm_budget), 0, QN_LIMIT_CONTEXT},
    {"enable_thinking", QN_FIELD_BOOL, offsetof(thinking, enable), 0, 0},
    {"reasoning_effort", QN_FIELD_STR, offsetof(thinking, effort), 0, 0},
    {"include_reasoning", QN_FIELD_BOOL, offsetof(thinking, include), 0, 0},
    {"chat_template_kwargs", QN_FIELD_OBJECT, offsetof(thinking, kwargs), 0, 0},
};

qn_status qn_demand_read_thinking(qn_demand *d, const json_t *o, const char **param, qn_err *err)
{
    thinking t = {.budget = -1, .vllm_budget = -1, .include = true, .enable = true};
    QN_TRY(qn_fields_read(o, thinking_fields, QN_COUNT(thinking_fields), &t, param, err));
    if (t.kwargs) {
        qn_status s = qn_fields_read(t.kwargs, thinking_fields, 4, &t, param, err);
        if (s != QN_OK) {
            *param = "chat_template_kwargs";
            return qn_wrap(err, s, "chat_template_kwargs");
        }
    }
    d->budget = t.budget >= 0 ? t.budget : t.vllm_budget;
    if (!t.enable || (t.effort && strcmp(t.effort, "none") == 0))
        d->budget = 0;
    d->is_silent = !t.include;
    return QN_OK;
}

/* ---- the answer ---- */

/* Over a limit is no prompt that is too long. */
static qn_status as_argument(qn_status s, qn_err *err)
{
    if (s == QN_E_TOO_LONG && err)
        err->status = QN_E_ARG;
    return s == QN_E_TOO_LONG ? QN_E_ARG : s;
}

/* One that was compiled before; else it is, where that may take long: QN_E_BUSY: elsewhere. */
static qn_status find_or_compile(const qn_demand *d, qn_engine *e, qn_grammar_kind kind,
                                 qn_slice text, qn_grammar **out, qn_err *err)
{
    qn_status s = qn_grammar_find(out, e, kind, text.p, text.n, err);
    if (s != QN_E_NOT_FOUND)
        return s;
    if (d->x && qn_x_put_off(d->x, QN_X_COMPILING))
        return qn_fail(err, QN_E_BUSY, "the grammar is new");
    return qn_grammar_open(out, e, kind, text.p, text.n, err);
}

static qn_status open_grammar(const qn_demand *d, qn_engine *e, qn_grammar_kind kind, qn_slice text,
                              const char *where, qn_grammar **out, qn_err *err)
{
    qn_status s = find_or_compile(d, e, kind, text, out, err);
    if (s != QN_OK && strcmp(where, "grammar") != 0) /* which the message begins with */
        s = qn_wrap(err, s, "%s", where);
    return as_argument(s, err);
}

/* Why the whole could not be compiled: a part that cannot be either, and tells the place within itself. It is looked for only so
 * long: each part of hundreds may take as long as the whole. */
static qn_status explain(const qn_demand *d, qn_engine *e, qn_status s, const char **param,
                         qn_err *err)
{
    qn_grammar *g = NULL;
    uint64_t end = qn_now_ns() + EXPLAIN_NS;
    if (s == QN_E_NOMEM || s == QN_E_BUSY)
        return s;
    if (d->has_form) {
        *param = d->form_param;
        QN_TRY(open_grammar(d, e, d->form, d->text, d->form_param, &g, err));
        qn_grammar_close(g);
    }
    for (size_t i = 0; i < d->n_tools && qn_now_ns() < end; i++) {
        const qn_tool *t = &d->tools[i];
        qn_str text = {0};
        if (!t->parameters || !t->is_allowed)
            continue;
        *param = t->where;
        qn_json_write(&text, t->parameters);
        qn_status part = text.failed ? qn_fail_nomem(err, text.n)
                                     : open_grammar(d, e, QN_GRAMMAR_SCHEMA,
                                                    (qn_slice){text.p, text.n}, t->where, &g, err);
        qn_str_fini(&text);
        QN_TRY(part);
        qn_grammar_close(g);
    }
    qn_str text = {0}; /* the parts looked at are fine: what the whole said comes again */
    *param = NULL;
    QN_TRY(qn_demand_write(d, &text, param, err));
    s = open_grammar(d, e, QN_GRAMMAR_GBNF, (qn_slice){text.p, text.n}, *param ? *param : "grammar",
                     &g, err);
    qn_str_fini(&text);
    if (s == QN_OK)
        qn_grammar_close(g);
    return s == QN_OK ? qn_fail(err, QN_E_NOMEM, "the grammar found no memory") : s;
}

static qn_status open_whole(const qn_demand *d, qn_engine *e, qn_grammar **out, const char **param,
                            qn_err *err)
{
    qn_str text = {0};
    qn_status s = qn_demand_write(d, &text, param, err);
    if (s == QN_OK && text.n) {
        s = find_or_compile(d, e, QN_GRAMMAR_GBNF, (qn_slice){text.p, text.n}, out, err);
        if (s != QN_OK)
            s = explain(d, e, s, param, err);
    }
    qn_str_fini(&text);
    return s;
}

qn_status qn_demand_settle_raw(qn_demand *d, qn_engine *e, qn_grammar **grammar, const char **param,
                               qn_err *err)
{
    *grammar = NULL;
    *param = d->form_param;
    return d->has_form ? open_grammar(d, e, d->form, d->text, d->form_param, grammar, err) : QN_OK;
}

static bool knows_tool(void *arg, qn_slice tool)
{
    const qn_demand *d = arg;
    for (size_t i = 0; i < d->n_tools; i++)
        if (qn_slice_is(tool, d->tools[i].name))
            return true;
    return false;
}

qn_status qn_demand_settle(qn_demand *d, qn_engine *e, const int32_t *ids, size_t n_ids,
                           qn_grammar **grammar, const char **param, qn_err *err)
{
    bool has_calls = d->n_tools && d->choice != QN_TOOLS_NONE;
    *grammar = NULL;
    *param = NULL;
    d->style = (qn_reply_style){.has_calls = has_calls,
                                .is_bare = has_calls && d->speech.is_xml,
                                .types = qn_demand_types,
                                .knows = has_calls && !d->speech.is_xml ? knows_tool : NULL,
                                .arg = d};
    QN_TRY(qn_speech_begin(&d->speech, e, ids, n_ids, &d->style.begin, err));
    if (!has_calls && d->has_form && d->style.begin == QN_REPLY_ANSWERS)
        return qn_demand_settle_raw(d, e, grammar, param, err);
    QN_TRY(open_whole(d, e, grammar, param, err));
    d->style.is_enforced = *grammar && (d->has_form || qn_demand_holds_calls(d));
    if (d->style.is_enforced) { /* then what has no tag is text */
        d->style.is_bare = false;
        d->style.knows = NULL;
    }
    *param = NULL;
    return QN_OK;
}
