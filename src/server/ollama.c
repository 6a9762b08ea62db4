/* SPDX-License-Identifier: Apache-2.0
 * ollama.c - the part of Ollama's API that its clients use to talk: /api/chat, /api/generate, and what there is to talk to.
 *
 *   {"model", "created_at", "message": {"role", "content", "thinking", "tool_calls"}, "done": false}\n ...
 *   {..., "done": true, "done_reason": "stop", "total_duration": ns, "prompt_eval_count", "eval_count", ...}\n
 *
 * Options that steer where a model runs (num_gpu, num_thread, num_batch, ...) have no effect: that is the operator's here. num_ctx
 * neither: the context is the server's, and a prompt is never cut to fit; it is refused. keep_alive says when a model may go, where
 * models are opened on demand; elsewhere all stay.
 * Templates, images and the old context are refused by name. Arguments are objects here, so that a call is told when it is whole, and one
 * that was cut off is not. Models have no digest of a file here: what stands there tells
 * models apart.
 * Threads: handlers on a worker, the rest on the I/O thread. Source: Ollama's docs/api.md, the ollama client's types. */
#include "base/limits.h"
#include "server/answer.h"
#include "server/demand.h"
#include "server/embed.h"
#include "server/sampling.h"
#include "server/turns.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct ollama_body {
    const char *model, *name; /* name: the older word for it */
    const char *prompt, *suffix, *system, *template_text, *role;
    const json_t *messages, *tools, *images, *format, *options, *context, *think, *keep_alive;
    bool stream, raw, logprobs;
    int top_logprobs;
} ollama_body;

static const qn_field body_fields[] = {
    {"model", QN_FIELD_STR, offsetof(ollama_body, model), 0, 0},
    {"name", QN_FIELD_STR, offsetof(ollama_body, name), 0, 0},
    {"prompt", QN_FIELD_STR, offsetof(ollama_body, prompt), 0, 0},
    {"suffix", QN_FIELD_STR, offsetof(ollama_body, suffix), 0, 0},
    {"system", QN_FIELD_STR, offsetof(ollama_body, system), 0, 0},
    {"template", QN_FIELD_STR, offsetof(ollama_body, template_text), 0, 0},
    {"messages", QN_FIELD_ARRAY, offsetof(ollama_body, messages), 0, 0},
    {"tools", QN_FIELD_ARRAY, offsetof(ollama_body, tools), 0, 0},
    {"images", QN_FIELD_ARRAY, offsetof(ollama_body, images), 0, 0},
    {"format", QN_FIELD_ANY, offsetof(ollama_body, format), 0, 0},
    {"options", QN_FIELD_OBJECT, offsetof(ollama_body, options), 0, 0},
    {"context", QN_FIELD_ARRAY, offsetof(ollama_body, context), 0, 0},
    {"think", QN_FIELD_ANY, offsetof(ollama_body, think), 0, 0},
    {"keep_alive", QN_FIELD_ANY, offsetof(ollama_body, keep_alive), 0, 0},
    {"stream", QN_FIELD_BOOL, offsetof(ollama_body, stream), 0, 0},
    {"raw", QN_FIELD_BOOL, offsetof(ollama_body, raw), 0, 0},
    {"logprobs", QN_FIELD_BOOL, offsetof(ollama_body, logprobs), 0, 0},
    {"top_logprobs", QN_FIELD_INT, offsetof(ollama_body, top_logprobs), 0, 0},
};

typedef struct ollama_options {
    int num_predict, repeat_last_n, mirostat;
    float tfs_z;
} ollama_options;

static const qn_field option_fields[] = {
    {"num_predict", QN_FIELD_INT, offsetof(ollama_options, num_predict), -2, 1 << 24},
    {"repeat_last_n", QN_FIELD_INT, offsetof(ollama_options, repeat_last_n), -1, 1 << 24},
    {"mirostat", QN_FIELD_INT, offsetof(ollama_options, mirostat), 0, 2},
    {"tfs_z", QN_FIELD_F32, offsetof(ollama_options, tfs_z), 0, 100},
};

typedef struct reply {
    qn_answer answer; /* first: qn_answer_event */
    qn_demand demand;
    const char *model;
    bool is_chat, is_begun;
    uint64_t begin_ns, load_ns;
} reply;

/* ---- what all answers have ---- */

static void add_time(qn_str *out, int64_t s, long ns)
{
    struct tm tm;
    time_t t = (time_t)s;
    if (!gmtime_r(&t, &tm))
        memset(&tm, 0, sizeof tm);
    qn_str_addf(out, "\"%04d-%02d-%02dT%02d:%02d:%02d.%09ldZ\"", tm.tm_year + 1900, tm.tm_mon + 1,
                tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ns);
}

static void add_head(qn_str *out, const char *model)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    qn_str_adds(out, "{\"model\":");
    qn_str_add_json(out, model, strlen(model));
    qn_str_adds(out, ",\"created_at\":");
    add_time(out, now.tv_sec, now.tv_nsec);
}

/* What one line holds of the answer; all of it, or one thing. */
typedef struct line {
    qn_slice text, thinking;
    const qn_answer_part *part; /* its calls from `call` up to `end` */
    size_t call, end;
} line;

static void add_calls(qn_str *out, const line *l)
{
    size_t n = 0;
    for (size_t i = l->call; i < l->end; i++) {
        const qn_answer_call *c = &l->part->calls[i];
        if (!qn_answer_call_is_sound(c))
            continue;
        qn_str_adds(out, n++ ? "," : ",\"tool_calls\":[");
        qn_str_addf(out, "{\"id\":\"%s\",\"function\":{\"index\":%zu,\"name\":", c->id, i);
        qn_answer_add_text(out, &c->name);
        qn_str_adds(out, ",\"arguments\":");
        qn_str_add(out, c->arguments.p, c->arguments.n);
        qn_str_adds(out, "}}");
    }
    qn_str_adds(out, n ? "]" : "");
}

/* "message": {...} or "response": ... */
static void add_line(qn_str *out, bool is_chat, const line *l)
{
    qn_str_adds(out,
                is_chat ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"response\":");
    qn_str_add_json(out, l->text.p ? l->text.p : "", l->text.n);
    if (l->thinking.n) {
        qn_str_adds(out, ",\"thinking\":");
        qn_str_add_json(out, l->thinking.p, l->thinking.n);
    }
    if (is_chat) {
        add_calls(out, l);
        qn_str_addc(out, '}');
    }
}

static void add_end(qn_str *out, const reply *r)
{
    qn_answer_usage u = qn_answer_sum(&r->answer);
    qn_str_addf(out,
                ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%" PRIu64
                ",\"load_duration\":%" PRIu64
                ",\"prompt_eval_count\":%d,\"prompt_eval_duration\":%.0f,"
                "\"eval_count\":%d,\"eval_duration\":%.0f}",
                r->answer.parts->finish == QN_FINISH_LENGTH ? "length" : "stop",
                qn_now_ns() - r->begin_ns + r->load_ns, r->load_ns, u.n_prompt, u.prefill_ms * 1e6,
                u.n_output, u.decode_ms * 1e6);
}

static void on_done_whole(qn_exchange *x, void *arg)
{
    reply *r = arg;
    const qn_answer_part *p = r->answer.parts;
    line all = {{p->text.p, p->text.n}, {p->reasoning.p, p->reasoning.n}, p, 0, p->n_calls};
    add_head(&r->answer.out, r->model);
    add_line(&r->answer.out, r->is_chat, &all);
    add_end(&r->answer.out, r);
    r->answer.out.failed |= r->answer.failed;
    qn_x_reply_json(x, 200, &r->answer.out);
}

static void send_line(qn_exchange *x, reply *r)
{
    qn_str_addc(&r->answer.out, '\n');
    if (r->answer.out.failed) { /* it stays failed: nothing follows a line that is missing */
        qn_x_error(x, 503, NULL, NULL, "out of memory");
        return;
    }
    if (!r->is_begun)
        qn_x_begin(x, "application/x-ndjson");
    r->is_begun = true;
    qn_x_write(x, r->answer.out.p, r->answer.out.n);
    qn_str_clear(&r->answer.out);
}

static void stream_line(qn_exchange *x, reply *r, const line *l)
{
    add_head(&r->answer.out, r->model);
    add_line(&r->answer.out, r->is_chat, l);
    qn_str_adds(&r->answer.out, ",\"done\":false}");
    send_line(x, r);
}

static void on_event_stream(qn_exchange *x, void *arg, size_t i, const qn_event *ev)
{
    reply *r = arg;
    const qn_answer_part *p = qn_answer_add(&r->answer, i, ev);
    if (p && !p->reply && ev->n_text)
        stream_line(x, r, &(line){.text = {ev->text, ev->n_text}});
    for (size_t k = 0; p && p->reply && k < r->answer.n_deltas && !r->answer.out.failed; k++) {
        const qn_answer_delta *d = &r->answer.deltas[k];
        size_t call = p->items[d->item].call;
        if (d->kind == QN_REPLY_CONTENT)
            stream_line(x, r, &(line){.text = qn_answer_delta_text(p, d)});
        else if (d->kind == QN_REPLY_REASONING)
            stream_line(x, r, &(line){.thinking = qn_answer_delta_text(p, d)});
        else if (d->kind == QN_REPLY_CALL_END && qn_answer_call_is_sound(&p->calls[call]))
            stream_line(x, r, &(line){.part = p, .call = call, .end = call + 1});
    }
}

static void on_done_stream(qn_exchange *x, void *arg)
{
    reply *r = arg;
    r->answer.out.failed |= r->answer.failed;
    add_head(&r->answer.out, r->model);
    add_line(&r->answer.out, r->is_chat, &(line){0});
    add_end(&r->answer.out, r);
    send_line(x, r);
    qn_x_end(x);
}

static const qn_answer_api whole_api = {
    .event = qn_answer_event, .done = on_done_whole, .free = qn_answer_free};
static const qn_answer_api stream_api = {
    .event = on_event_stream, .done = on_done_stream, .free = qn_answer_free, .is_stream = true};

/* A request without anything to answer asks for the model to be loaded, or put away. */
static void reply_empty(qn_exchange *x, const char *model, bool is_chat, const char *why)
{
    qn_str out = {0};
    add_head(&out, model);
    add_line(&out, is_chat, &(line){0});
    qn_str_addf(&out, ",\"done\":true,\"done_reason\":\"%s\"}", why);
    qn_x_reply_json(x, 200, &out);
}

/* ---- the request ---- */

/* Ollama's names end in a tag; without one they mean ":latest". */
static const char *bare_name(qn_exchange *x, const char *name)
{
    size_t n = name ? strlen(name) : 0;
    if (n > 7 && qn_ends_with(name, ":latest")) {
        qn_model_entry m;
        bool is_known = false;
        for (size_t i = 0; i < qn_x_n_models(x) && !is_known; i++) {
            qn_x_model_at(x, i, &m);
            is_known = strcmp(m.name, name) == 0;
        }
        char *bare = is_known ? NULL : qn_arena_strndup(qn_x_arena(x), name, n - 7);
        name = bare ? bare : name;
    }
    return name;
}

/* "5m", "1h30m", "-1s", or a number of seconds; what is negative means for ever. */
static qn_status read_keep(const json_t *v, uint64_t *ns, qn_err *err)
{
    static const struct {
        const char *unit;
        double seconds;
    } units[] = {{"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}, {"h", 3600}, {"m", 60}, {"s", 1}};
    const char *p = json_string_value(v);
    double sum = json_is_number(v) ? json_number_value(v) : 0, sign = 1;
    bool is_good = json_is_number(v) || (p && *p);
    if (p && *p == '-') {
        sign = -1;
        p++;
    }
    while (is_good && p && *p) {
        size_t n = strspn(p, "0123456789."), k = 0;
        double x = 0;
        while (k < QN_COUNT(units) && !qn_starts_with(p + n, units[k].unit))
            k++;
        is_good = n && (k < QN_COUNT(units) || !p[n]) && qn_parse_f64(p, n, &x);
        sum += x * (k < QN_COUNT(units) ? units[k].seconds : 1);
        p += n + (k < QN_COUNT(units) ? strlen(units[k].unit) : 0);
    }
    if (!is_good)
        return qn_fail(err, QN_E_ARG, "keep_alive: found %s, want seconds, or a time like \"5m\"",
                       json_is_string(v) ? "another text" : qn_json_type_name(v));
    sum *= sign;
    *ns = sum < 0 || sum > 1e9 ? UINT64_MAX : (uint64_t)(sum * 1e9);
    return QN_OK;
}

/* The engine of the model, which stays as long as keep_alive says. NULL: answered, or to be called again. */
static qn_engine *find_model(qn_exchange *x, const char *name, const json_t *keep,
                             const char **served)
{
    uint64_t ns = 0;
    qn_err err;
    bool is_given = keep && !json_is_null(keep);
    if (is_given && read_keep(keep, &ns, &err) != QN_OK) {
        qn_x_fail(x, &err, "keep_alive");
        return NULL;
    }
    qn_engine *e = qn_x_model(x, bare_name(x, name), served);
    if (e && is_given)
        (void)qn_x_keep(x, ns);
    return e;
}

/* Nothing is asked, and the model need not be kept: true: it is put away. */
static bool put_away(qn_exchange *x, const ollama_body *b, bool is_chat)
{
    uint64_t ns;
    qn_err err;
    qn_model_entry m;
    size_t i = qn_x_find(x, bare_name(x, b->model ? b->model : b->name));
    if (!b->keep_alive || read_keep(b->keep_alive, &ns, &err) != QN_OK || ns ||
        i >= qn_x_n_models(x) || !qn_x_put_away(x, i))
        return false;
    qn_x_model_at(x, i, &m);
    reply_empty(x, m.name, is_chat, "unload");
    return true;
}

static qn_status refuse_others(const ollama_body *b, const char **param, qn_err *err)
{
    const char *found = NULL;
    if (b->template_text && *b->template_text)
        found = "template";
    else if (b->suffix && *b->suffix)
        found = "suffix";
    else if (json_array_size(b->images))
        found = "images";
    else if (json_array_size(b->context))
        found = "context";
    else if (b->logprobs || b->top_logprobs)
        found = b->logprobs ? "logprobs" : "top_logprobs";
    if (!found)
        return QN_OK;
    *param = found;
    return qn_fail(err, QN_E_UNSUPPORTED, "%s: is not supported here; leave it out", found);
}

static qn_status read_options(qn_exchange *x, const ollama_body *b, const qn_engine *e,
                              qn_params *out, const char **param, qn_err *err)
{
    ollama_options o = {.num_predict = -1, .repeat_last_n = -1, .tfs_z = 1};
    qn_engine_get_params(e, out);
    if (!b->options)
        return QN_OK;
    QN_TRY(qn_fields_read(b->options, option_fields, QN_COUNT(option_fields), &o, param, err));
    QN_TRY(qn_sampling_read(b->options, e, qn_x_arena(x), out, param, err));
    if (o.num_predict > 0)
        out->max_tokens = o.num_predict;
    if (o.repeat_last_n == 0)
        out->repetition_penalty = 1;
    if (o.repeat_last_n > 0 && out->repetition_penalty != 1) {
        *param = "options.repeat_last_n";
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "repeat_last_n: found %d, want -1 or 0: the penalty is over all tokens or "
                       "none",
                       o.repeat_last_n);
    }
    if (o.mirostat || (o.tfs_z != 1 && o.tfs_z != 0) || out->n != 1) {
        *param = o.mirostat ? "options.mirostat" : out->n != 1 ? "options.n" : "options.tfs_z";
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: is not supported here; leave it out", *param);
    }
    return QN_OK;
}

/* As many tokens as the context has room for: num_predict is the most there may be, not the least. */
static void fit_tokens(const qn_engine *e, size_t n_prompt, qn_params *p)
{
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    if (n_prompt < (size_t)info.max_ctx)
        p->max_tokens = QN_MIN(p->max_tokens, info.max_ctx - (int)n_prompt);
}

/* true, false, or how much: what the template makes of that is its affair. */
static qn_status read_think(qn_turns *t, qn_demand *d, const ollama_body *b, const char **param,
                            qn_err *err)
{
    static const char *const efforts[] = {"low", "medium", "high", "max"};
    const char *effort = json_string_value(b->think);
    bool is_known = json_is_boolean(b->think);
    if (!b->think)
        return QN_OK;
    for (size_t i = 0; effort && i < QN_COUNT(efforts); i++)
        is_known |= strcmp(effort, efforts[i]) == 0;
    if (!is_known) {
        *param = "think";
        return qn_fail(err, QN_E_ARG, "think: found %s, want true, false, low, medium or high",
                       effort ? "another string" : qn_json_type_name(b->think));
    }
    t->has_thinking = true;
    t->is_thinking = !json_is_false(b->think);
    if (!t->is_thinking)
        d->budget = 0;
    return QN_OK;
}

/* "json", or a schema. */
static qn_status read_format(qn_demand *d, const ollama_body *b, const char **param, qn_err *err)
{
    const char *name = json_string_value(b->format);
    *param = "format";
    if (!b->format || (name && !*name))
        return QN_OK;
    if (name && strcmp(name, "json") == 0)
        return qn_demand_form(d, "format", QN_GRAMMAR_JSON, NULL, err);
    if (!json_is_object(b->format))
        return qn_fail(err, QN_E_ARG, "format: found %s, want \"json\" or a JSON Schema",
                       name ? "another string" : qn_json_type_name(b->format));
    return qn_demand_form(d, "format", QN_GRAMMAR_SCHEMA, b->format, err);
}

static qn_status read_call(qn_turns *t, const json_t *call, const qn_where *where, qn_err *err)
{
    const json_t *f = json_object_get(call, "function");
    const char *name = qn_turns_string(json_object_get(f, "name"));
    const json_t *arguments = json_object_get(f, "arguments");
    if (!name || !json_is_object(arguments))
        return qn_fail(err, QN_E_ARG,
                       "%s.function: found name %s and arguments %s, want a string and an object",
                       where->path, qn_json_type_name(json_object_get(f, "name")),
                       qn_json_type_name(arguments));
    qn_turns_call(t, qn_turns_string(json_object_get(call, "id")), name, arguments);
    return QN_OK;
}

static qn_status read_message(qn_turns *t, const json_t *m, qn_where *where, qn_err *err)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    static const char *const fields[] = {"tool_name", "tool_call_id"}, *const names[] = {
                                                                           "name", "tool_call_id"};
    const char *role = qn_turns_string(json_object_get(m, "role")), *known = NULL;
    for (size_t i = 0; role && i < QN_COUNT(roles); i++)
        known = strcmp(role, roles[i]) == 0 ? roles[i] : known;
    if (!known)
        return qn_fail(err, QN_E_ARG, "%s.role: found %s, want system, user, assistant or tool",
                       where->path, role ? role : qn_json_type_name(json_object_get(m, "role")));
    if (json_array_size(json_object_get(m, "images")))
        return qn_fail(err, QN_E_UNSUPPORTED, "%s.images: only text can be read", where->path);
    const json_t *content = json_object_get(m, "content"),
                 *calls = json_object_get(m, "tool_calls");
    const json_t *thinking = json_object_get(m, "thinking");
    if (content && !json_is_null(content) && !json_is_string(content))
        return qn_fail(err, QN_E_ARG, "%s.content: found %s, want a string", where->path,
                       qn_json_type_name(content));
    qn_turns_open(t, known);
    if (json_is_string(content))
        qn_turns_text(t, json_string_value(content), json_string_length(content));
    if (json_is_string(thinking))
        qn_turns_reasoning(t, json_string_value(thinking), json_string_length(thinking));
    for (size_t i = 0; i < QN_COUNT(fields); i++) {
        const char *s = qn_turns_string(json_object_get(m, fields[i]));
        if (s)
            qn_turns_field(t, names[i], s);
    }
    qn_where list = qn_where_at(where, "tool_calls");
    for (size_t i = 0; i < json_array_size(calls); i++) {
        qn_where at = qn_where_index(&list, i);
        QN_TRY(read_call(t, json_array_get(calls, i), &at, err));
    }
    return QN_OK;
}

static qn_status read_tool(qn_turns *t, qn_demand *d, const json_t *tool, qn_where *where,
                           qn_err *err)
{
    const json_t *f = json_object_get(tool, "function");
    char path[sizeof where->path + 32];
    QN_TRY(qn_turns_function(t, tool, where, err));
    (void)snprintf(path, sizeof path, "%s.function.parameters", where->path);
    return qn_demand_tool(d, path, json_object_get(f, "name"), json_object_get(f, "parameters"),
                          json_object_get(f, "strict"), err);
}

static qn_status read_chat(qn_turns *t, qn_demand *d, const ollama_body *b, bool *keep_open,
                           const char **param, qn_err *err)
{
    qn_where messages = qn_where_at(NULL, "messages"), tools = qn_where_at(NULL, "tools");
    QN_TRY(read_think(t, d, b, param, err));
    *param = "messages";
    QN_TRY(qn_turns_limit("messages", b->messages, QN_LIMIT_MESSAGES, err));
    for (size_t i = 0; i < json_array_size(b->messages); i++) {
        qn_where at = qn_where_index(&messages, i);
        QN_TRY(read_message(t, json_array_get(b->messages, i), &at, err));
    }
    *keep_open = t->is_open && strcmp(t->role, "assistant") == 0 && !t->calls.n;
    *param = "tools";
    QN_TRY(qn_turns_limit("tools", b->tools, QN_LIMIT_TOOLS, err));
    for (size_t i = 0; i < json_array_size(b->tools); i++) {
        qn_where at = qn_where_index(&tools, i);
        QN_TRY(read_tool(t, d, json_array_get(b->tools, i), &at, err));
    }
    *param = "messages";
    return QN_OK;
}

static qn_status encode_chat(qn_demand *d, const ollama_body *b, const qn_engine *e, int32_t **ids,
                             size_t *n_ids, const char **param, qn_err *err)
{
    qn_turns t = {0};
    bool keep_open = false;
    qn_status s = read_chat(&t, d, b, &keep_open, param, err);
    if (s == QN_OK)
        s = qn_turns_encode(&t, e, keep_open, ids, n_ids, err);
    qn_turns_fini(&t);
    return s;
}

/* A prompt is a conversation's only message, unless it is raw or the model has no template. */
static bool is_raw(const ollama_body *b, const qn_engine *e)
{
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    return b->raw || (!info.has_chat_template && !b->system);
}

static qn_status encode_prompt(qn_demand *d, const ollama_body *b, const qn_engine *e,
                               int32_t **ids, size_t *n_ids, const char **param, qn_err *err)
{
    *param = "prompt";
    if (is_raw(b, e))
        return qn_encode(e, &(qn_prompt){.text = b->prompt, .parse_special = b->raw}, ids, n_ids,
                         err);
    qn_turns t = {0};
    qn_status s = read_think(&t, d, b, param, err);
    if (b->system) {
        qn_turns_open(&t, "system");
        qn_turns_text(&t, b->system, strlen(b->system));
    }
    qn_turns_open(&t, "user");
    qn_turns_text(&t, b->prompt, strlen(b->prompt));
    if (s == QN_OK)
        s = qn_turns_encode(&t, e, false, ids, n_ids, err);
    qn_turns_fini(&t);
    return s;
}

static qn_status read_demand(qn_demand *d, const ollama_body *b, const json_t *o,
                             const char **param, qn_err *err)
{
    QN_TRY(qn_demand_read_forms(d, o, param, err));
    QN_TRY(qn_demand_read_thinking(d, o, param, err));
    return read_format(d, b, param, err);
}

/* Raw text is answered by raw text. */
static qn_status settle(reply *r, const ollama_body *b, qn_engine *e, const int32_t *ids,
                        size_t n_ids, qn_grammar **grammar, const char **param, qn_err *err)
{
    if (!r->is_chat && is_raw(b, e))
        return qn_demand_settle_raw(&r->demand, e, grammar, param, err);
    r->answer.style = &r->demand.style;
    r->answer.is_stream = b->stream;
    return qn_demand_settle(&r->demand, e, ids, n_ids, grammar, param, err);
}

static void answer(qn_exchange *x, bool is_chat)
{
    uint64_t begin_ns = qn_now_ns();
    const json_t *o = qn_x_json(x);
    ollama_body b = {.stream = true};
    const char *served, *param = NULL;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    qn_params params;
    qn_err err;
    if (!o)
        return;
    qn_status s = qn_fields_read(o, body_fields, QN_COUNT(body_fields), &b, &param, &err);
    if (s == QN_OK)
        s = refuse_others(&b, &param, &err);
    if (s != QN_OK) {
        qn_x_fail(x, &err, param);
        return;
    }
    bool is_empty = is_chat ? !json_array_size(b.messages) : !b.prompt || !*b.prompt;
    if (is_empty && put_away(x, &b, is_chat))
        return;
    qn_engine *e = find_model(x, b.model ? b.model : b.name, b.keep_alive, &served);
    if (!e)
        return;
    if (is_empty) {
        reply_empty(x, served, is_chat, "load");
        return;
    }
    reply *r = qn_arena_alloc(qn_x_arena(x), sizeof *r);
    s = r ? read_options(x, &b, e, &params, &param, &err) : qn_fail_nomem(&err, sizeof *r);
    if (s == QN_OK) {
        *r = (reply){.model = served,
                     .is_chat = is_chat,
                     .begin_ns = begin_ns,
                     .load_ns = qn_x_waited_ns(x)};
        qn_demand_init(&r->demand, e, x);
        s = read_demand(&r->demand, &b, o, &param, &err);
    }
    if (s == QN_OK)
        s = is_chat ? encode_chat(&r->demand, &b, e, &ids, &n_ids, &param, &err)
                    : encode_prompt(&r->demand, &b, e, &ids, &n_ids, &param, &err);
    if (s == QN_OK)
        s = settle(r, &b, e, ids, n_ids, &params.grammar, &param, &err);
    if (s == QN_OK) {
        fit_tokens(e, n_ids, &params);
        param = NULL;
        s = qn_answer_start(x, b.stream ? &stream_api : &whole_api, r, e,
                            &(qn_prompt){.ids = ids, .n_ids = n_ids}, 1, &params, &err);
    }
    qn_release(ids);
    if (s != QN_OK)
        qn_x_fail(x, &err, param);
}

static void handle_chat(qn_exchange *x)
{
    answer(x, true);
}

static void handle_generate(qn_exchange *x)
{
    answer(x, false);
}

/* ---- models ---- */

static void add_details(qn_str *out, const qn_engine_info *info)
{
    double n = (double)info->n_params;
    qn_str_adds(out, "\"details\":{\"parent_model\":\"\",\"format\":\"\",\"family\":");
    qn_str_add_json(out, info->arch, strlen(info->arch));
    qn_str_adds(out, ",\"families\":[");
    qn_str_add_json(out, info->arch, strlen(info->arch));
    if (n >= 1e9)
        qn_str_addf(out, "],\"parameter_size\":\"%.1fB\"", n * 1e-9);
    else
        qn_str_addf(out, "],\"parameter_size\":\"%.2fM\"", n * 1e-6);
    qn_str_adds(out, ",\"quantization_level\":");
    qn_str_add_json(out, info->quantization, strlen(info->quantization));
    qn_str_addc(out, '}');
}

static void add_digest(qn_str *out, const char *name)
{
    qn_str_addc(out, '"');
    for (uint64_t i = 0; i < 4; i++)
        qn_str_addf(out, "%016" PRIx64, qn_hash(name, strlen(name), i));
    qn_str_addc(out, '"');
}

/* When it will be put away if nobody asks. */
static void add_expiry(qn_str *out, const qn_model_entry *m)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    qn_str_adds(out, ",\"expires_at\":");
    if (m->keep_ns == UINT64_MAX)
        qn_str_adds(out, "\"2318-01-01T00:00:00Z\"");
    else
        add_time(out, now.tv_sec + (int64_t)(m->keep_ns / 1000000000u), now.tv_nsec);
}

/* One of /api/tags and /api/ps. What was not planned and is not open yet has a name only. */
static void add_model(qn_str *out, const qn_model_entry *m, bool is_running)
{
    qn_engine_info info = m->info ? *m->info : (qn_engine_info){0};
    qn_str_adds(out, "{\"name\":");
    qn_str_add_json(out, m->name, strlen(m->name));
    qn_str_adds(out, ",\"model\":");
    qn_str_add_json(out, m->name, strlen(m->name));
    qn_str_adds(out, ",\"digest\":");
    add_digest(out, m->name);
    qn_str_adds(out, ",\"modified_at\":");
    add_time(out, (int64_t)m->created, 0);
    if (m->info) {
        qn_str_addc(out, ',');
        add_details(out, &info);
    }
    uint64_t size = info.weight_bytes;
    if (is_running)
        size += info.kv_bytes + info.activation_bytes + info.vocab_bytes;
    qn_str_addf(out, ",\"size\":%" PRIu64, size);
    if (is_running) {
        add_expiry(out, m);
        qn_str_addf(out, ",\"size_vram\":0,\"context_length\":%d", info.max_ctx);
    }
    qn_str_addc(out, '}');
}

static void list_models(qn_exchange *x, bool is_running)
{
    qn_str out = {0};
    size_t n = 0;
    qn_str_adds(&out, "{\"models\":[");
    for (size_t i = 0; i < qn_x_n_models(x); i++) {
        qn_model_entry m;
        qn_x_model_at(x, i, &m);
        if (is_running && m.state != QN_MODEL_LOADED)
            continue;
        qn_str_adds(&out, n++ ? "," : "");
        add_model(&out, &m, is_running);
    }
    qn_str_adds(&out, "]}");
    qn_x_reply_json(x, 200, &out);
}

static void handle_tags(qn_exchange *x)
{
    list_models(x, false);
}

static void handle_ps(qn_exchange *x)
{
    list_models(x, true);
}

static void handle_version(qn_exchange *x)
{
    qn_str out = {0};
    qn_str_adds(&out, "{\"version\":\"" QN_VERSION "\"}");
    qn_x_reply_json(x, 200, &out);
}

/* The sampling defaults, a line each, as a Modelfile has them. */
static void add_parameters(qn_str *out, const qn_engine *e)
{
    qn_params p;
    qn_str text = {0};
    qn_engine_get_params(e, &p);
    qn_str_addf(&text, "temperature %g\ntop_k %d\ntop_p %g\nmin_p %g\nrepeat_penalty %g",
                (double)p.temperature, p.top_k, (double)p.top_p, (double)p.min_p,
                (double)p.repetition_penalty);
    qn_str_add_json(out, text.p ? text.p : "", text.n);
    out->failed |= text.failed;
    qn_str_fini(&text);
}

static void handle_show(qn_exchange *x)
{
    const json_t *o = qn_x_json(x);
    ollama_body b = {0};
    const char *served, *param = NULL;
    qn_err err;
    if (!o)
        return;
    if (qn_fields_read(o, body_fields, 2, &b, &param, &err) != QN_OK) {
        qn_x_fail(x, &err, param);
        return;
    }
    const qn_engine *e = find_model(x, b.model ? b.model : b.name, NULL, &served);
    if (!e)
        return;
    qn_str out = {0};
    qn_engine_info info;
    qn_text_info text;
    qn_engine_get_info(e, &info);
    qn_engine_get_text(e, &text);
    qn_str_adds(&out, "{\"modelfile\":\"\",\"template\":");
    qn_str_add_json(&out, text.chat_template ? text.chat_template : "",
                    text.chat_template ? strlen(text.chat_template) : 0);
    qn_str_adds(&out, ",\"parameters\":");
    add_parameters(&out, e);
    qn_str_adds(&out, ",");
    add_details(&out, &info);
    qn_str_adds(&out, ",\"model_info\":{\"general.architecture\":");
    qn_str_add_json(&out, info.arch, strlen(info.arch));
    qn_str_adds(&out, ",\"general.basename\":");
    qn_str_add_json(&out, info.name, strlen(info.name));
    qn_str_addf(&out,
                ",\"general.parameter_count\":%" PRIu64
                ",\"%s.context_length\":%d,\"%s.embedding_length\":%d,\"%s.block_count\":%d}",
                info.n_params, info.arch, info.model_max_ctx, info.arch, info.hidden_size,
                info.arch, info.n_layers);
    qn_speech speech = qn_speech_of(text.chat_template);
    qn_str_addf(&out, ",\"capabilities\":[\"completion\",\"embedding\"%s%s]}",
                speech.has_tools ? ",\"tools\"" : "", speech.thinks ? ",\"thinking\"" : "");
    qn_x_reply_json(x, 200, &out);
}

/* ---- embeddings ---- */

typedef struct embed_body {
    const char *model, *prompt;
    const json_t *input, *keep_alive;
    bool truncate;
    int dimensions;
} embed_body;

static const qn_field embed_fields[] = {
    {"model", QN_FIELD_STR, offsetof(embed_body, model), 0, 0},
    {"prompt", QN_FIELD_STR, offsetof(embed_body, prompt), 0, 0},
    {"input", QN_FIELD_ANY, offsetof(embed_body, input), 0, 0},
    {"keep_alive", QN_FIELD_ANY, offsetof(embed_body, keep_alive), 0, 0},
    {"truncate", QN_FIELD_BOOL, offsetof(embed_body, truncate), 0, 0},
    {"dimensions", QN_FIELD_INT, offsetof(embed_body, dimensions), 1, 1 << 20},
};

static void add_vector(qn_str *out, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        qn_str_addc(out, i ? ',' : '[');
        qn_answer_add_float(out, v[i]);
    }
    qn_str_addc(out, ']');
}

static qn_status embed(const qn_exchange *x, qn_engine *e, const embed_body *b, const json_t *text,
                       qn_str *out, size_t *n_tokens, qn_err *err)
{
    qn_engine_info info;
    int32_t *ids = NULL;
    size_t n;
    if (!json_is_string(text))
        return qn_fail(err, QN_E_ARG, "input: found %s, want a string, or several",
                       qn_json_type_name(text));
    qn_engine_get_info(e, &info);
    if (b->dimensions > info.hidden_size)
        return qn_fail(err, QN_E_ARG, "dimensions: found %d, want at most %d", b->dimensions,
                       info.hidden_size);
    QN_TRY(qn_encode(
        e, &(qn_prompt){.text = json_string_value(text), .n_text = json_string_length(text)}, &ids,
        &n, err));
    if (n > (size_t)info.max_ctx && b->truncate)
        n = (size_t)info.max_ctx;
    *n_tokens += n;
    size_t width = (size_t)(b->dimensions ? b->dimensions : info.hidden_size);
    float *vector = qn_calloc(width, sizeof *vector, QN_MEM_REQUEST);
    qn_status status = vector ? qn_embed_check("input", *n_tokens, err)
                              : qn_fail_nomem(err, width * sizeof *vector);
    if (status == QN_OK)
        status = qn_embed(x, e, ids, n, vector, width, err);
    if (status == QN_OK)
        add_vector(out, vector, width);
    qn_free(vector);
    qn_release(ids);
    return status;
}

/* One array for each text, with commas. */
static qn_status embed_all(const qn_exchange *x, qn_engine *e, const embed_body *b, qn_str *out,
                           size_t *n_tokens, qn_err *err)
{
    if (!json_is_array(b->input))
        return embed(x, e, b, b->input, out, n_tokens, err);
    QN_TRY(qn_turns_limit("input", b->input, QN_LIMIT_PROMPTS, err));
    for (size_t i = 0; i < json_array_size(b->input); i++) {
        qn_str_adds(out, i ? "," : "");
        QN_TRY(embed(x, e, b, json_array_get(b->input, i), out, n_tokens, err));
    }
    return QN_OK;
}

/* is_old: /api/embeddings, one prompt and one bare vector. */
static void handle_vectors(qn_exchange *x, bool is_old)
{
    uint64_t begin_ns = qn_now_ns();
    const json_t *o = qn_x_json(x);
    embed_body b = {.truncate = true};
    const char *served, *param = NULL;
    size_t n_tokens = 0;
    qn_str out = {0};
    qn_err err;
    if (!o)
        return;
    if (qn_fields_read(o, embed_fields, QN_COUNT(embed_fields), &b, &param, &err) != QN_OK) {
        qn_x_fail(x, &err, param);
        return;
    }
    qn_engine *e = find_model(x, b.model, b.keep_alive, &served);
    if (!e)
        return;
    if (is_old)
        b.input = json_object_get(o, "prompt");
    if (is_old)
        qn_str_adds(&out, "{\"embedding\":");
    else {
        qn_str_adds(&out, "{\"model\":");
        qn_str_add_json(&out, served, strlen(served));
        qn_str_adds(&out, ",\"embeddings\":[");
    }
    qn_status s = embed_all(x, e, &b, &out, &n_tokens, &err);
    if (s != QN_OK) {
        qn_str_fini(&out);
        qn_x_fail(x, &err, is_old ? "prompt" : "input");
        return;
    }
    if (is_old)
        qn_str_addc(&out, '}');
    else
        qn_str_addf(&out,
                    "],\"total_duration\":%" PRIu64 ",\"load_duration\":%" PRIu64
                    ",\"prompt_eval_count\":%zu}",
                    qn_now_ns() - begin_ns + qn_x_waited_ns(x), qn_x_waited_ns(x), n_tokens);
    qn_x_reply_json(x, 200, &out);
}

static void handle_embed(qn_exchange *x)
{
    if (!qn_x_put_off(x, QN_X_SCORING))
        handle_vectors(x, false);
}

static void handle_embeddings(qn_exchange *x)
{
    if (!qn_x_put_off(x, QN_X_SCORING))
        handle_vectors(x, true);
}

const qn_route qn_ollama_routes[] = {
    {.method = "GET", .path = "/api/version", .handle = handle_version, .is_quick = true},
    {.method = "GET", .path = "/api/tags", .handle = handle_tags, .is_quick = true},
    {.method = "GET", .path = "/api/ps", .handle = handle_ps, .is_quick = true},
    {.method = "POST", .path = "/api/show", .handle = handle_show},
    {.method = "POST", .path = "/api/chat", .handle = handle_chat},
    {.method = "POST", .path = "/api/generate", .handle = handle_generate},
    {.method = "POST", .path = "/api/embed", .handle = handle_embed},
    {.method = "POST", .path = "/api/embeddings", .handle = handle_embeddings},
    {0},
};
