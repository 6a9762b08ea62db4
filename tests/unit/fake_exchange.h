/* SPDX-License-Identifier: Apache-2.0
 * fake_exchange.h - exchange.h without sockets: a handler is called, its answer kept as text. The engine is a real one.
 *
 * Included by one .c file of a test program: it defines every qn_x_ function, so that the library's are not linked. */
#ifndef QN_TESTS_FAKE_EXCHANGE_H
#define QN_TESTS_FAKE_EXCHANGE_H

#include "golden.h"

#include "server/exchange.h"

struct qn_exchange {
    const char *path, *rest, *body, *query;
    qn_arena arena;
    json_t *json;
    qn_engine *engine;
    int status; /* 0: not answered */
    qn_str out, headers;
    char param[100], code[40], type[40];
    bool is_streaming, has_ended, is_gone;
    int n_writes;
};

static inline qn_slice slice_or_none(const char *s)
{
    return s ? qn_slice_of(s) : (qn_slice){NULL, 0};
}

qn_slice qn_x_rest(const qn_exchange *x)
{
    return slice_or_none(x->rest);
}
qn_slice qn_x_query(qn_exchange *x, const char *name)
{
    (void)name;
    return slice_or_none(x->query);
}
qn_slice qn_x_header(const qn_exchange *x, const char *name)
{
    (void)x;
    (void)name;
    return (qn_slice){NULL, 0};
}
qn_slice qn_x_body(const qn_exchange *x)
{
    return slice_or_none(x->body);
}
const char *qn_x_id(const qn_exchange *x)
{
    (void)x;
    return "fake-1";
}
const char *qn_x_tenant(const qn_exchange *x)
{
    (void)x;
    return NULL;
}
const char *qn_x_class(const qn_exchange *x)
{
    (void)x;
    return NULL;
}
bool qn_x_put_off(qn_exchange *x, qn_x_long work)
{
    (void)x;
    (void)work;
    return false;
}

bool qn_x_is_gone(const qn_exchange *x)
{
    return x->is_gone;
}
qn_arena *qn_x_arena(qn_exchange *x)
{
    return &x->arena;
}

void qn_x_add_header(qn_exchange *x, const char *name, const char *value)
{
    qn_str_addf(&x->headers, "%s: %s\n", name, value);
}

void qn_x_reply(qn_exchange *x, int status, const char *type, const char *p, size_t n)
{
    assert_int_equal(x->status, 0);
    x->status = status;
    (void)snprintf(x->type, sizeof x->type, "%s", type);
    qn_str_add(&x->out, p, n);
    x->has_ended = true;
}

void qn_x_reply_json(qn_exchange *x, int status, qn_str *s)
{
    assert_false(s->failed);
    qn_x_reply(x, status, "application/json", s->p, s->n);
    qn_str_fini(s);
}

void qn_x_error(qn_exchange *x, int status, const char *param, const char *code, const char *fmt,
                ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    assert_false(x->has_ended);
    (void)snprintf(x->param, sizeof x->param, "%s", param ? param : "");
    (void)snprintf(x->code, sizeof x->code, "%s", code ? code : "");
    x->status = x->status ? x->status : status;
    qn_str_adds(&x->out, text);
    x->has_ended = true;
}

void qn_x_fail(qn_exchange *x, const qn_err *err, const char *param)
{
    const char *code = err->status == QN_E_TOO_LONG ? "context_length_exceeded" : NULL;
    int status = err->status == QN_E_NOMEM || err->status == QN_E_TIMEOUT          ? 503
                 : err->status == QN_E_NOT_FOUND                                   ? 404
                 : err->status <= QN_E_UNSUPPORTED || err->status == QN_E_TOO_LONG ? 400
                                                                                   : 500;
    qn_x_error(x, status, param, code, "%s", err->msg);
}

const json_t *qn_x_json(qn_exchange *x)
{
    qn_err err;
    if (qn_json_parse(&x->json, x->body, strlen(x->body), 64, "body", &err) == QN_OK)
        return x->json;
    qn_x_error(x, 400, NULL, NULL, "%s", err.msg);
    return NULL;
}

qn_engine *qn_x_model(qn_exchange *x, const char *name, const char **served)
{
    if (served)
        *served = "tiny";
    if (!name || strcmp(name, "tiny") == 0 || strcmp(name, "alias") == 0)
        return x->engine;
    qn_x_error(x, 404, "model", "model_not_found", "no model '%s'", name);
    return NULL;
}
size_t qn_x_n_models(const qn_exchange *x)
{
    (void)x;
    return 1;
}
void qn_x_model_at(qn_exchange *x, size_t i, qn_model_entry *out)
{
    qn_engine_info *info = qn_arena_alloc(qn_x_arena(x), sizeof *info);
    assert_int_equal(i, 0);
    assert_non_null(info);
    qn_engine_get_info(x->engine, info);
    *out = (qn_model_entry){.name = "tiny",
                            .created = 1700000000,
                            .state = QN_MODEL_LOADED,
                            .progress = 1,
                            .keep_ns = UINT64_MAX,
                            .info = info};
}
size_t qn_x_find(const qn_exchange *x, const char *name)
{
    (void)x;
    return !name || strcmp(name, "tiny") == 0 || strcmp(name, "alias") == 0 ? 0 : 1;
}
bool qn_x_keep(qn_exchange *x, uint64_t ns)
{
    (void)x;
    (void)ns;
    return false;
}
bool qn_x_put_away(qn_exchange *x, size_t i)
{
    (void)x;
    (void)i;
    return false;
}
uint64_t qn_x_waited_ns(const qn_exchange *x)
{
    (void)x;
    return 0;
}

void qn_x_begin(qn_exchange *x, const char *type)
{
    assert_int_equal(x->status, 0);
    (void)snprintf(x->type, sizeof x->type, "%s", type);
    x->status = 200;
    x->is_streaming = true;
}
void qn_x_write(qn_exchange *x, const void *p, size_t n)
{
    assert_true(x->is_streaming && !x->has_ended);
    qn_str_add(&x->out, p, n);
    x->n_writes++;
}
void qn_x_write_event(qn_exchange *x, const char *name, const qn_str *text)
{
    qn_str s = {0};
    if (name)
        qn_str_addf(&s, "event: %s\n", name);
    qn_str_adds(&s, "data: ");
    qn_str_add(&s, text->p, text->n);
    qn_str_adds(&s, "\n\n");
    qn_x_write(x, s.p, s.n);
    qn_str_fini(&s);
}
void qn_x_write_comment(qn_exchange *x)
{
    qn_x_write(x, ": keep-alive\n\n", 14);
}
void qn_x_end(qn_exchange *x)
{
    assert_true(x->is_streaming && !x->has_ended);
    x->has_ended = true;
}

/* One prompt after the other, on this thread. */
qn_status qn_x_generate(qn_exchange *x, const qn_answer_api *api, void *arg, qn_engine *e,
                        const qn_prompt *prompts, size_t n_prompts, const qn_params *params,
                        qn_err *err)
{
    qn_request **r = qn_calloc(n_prompts, sizeof(qn_request *), QN_MEM_MISC);
    qn_status s = QN_OK;
    for (size_t i = 0; i < n_prompts && s == QN_OK; i++)
        s = qn_request_submit(&r[i], e, &prompts[i], params, err);
    bool is_submitted = s == QN_OK;
    if (is_submitted && api->begins_at_once)
        qn_x_begin(x, "text/event-stream");
    for (size_t i = 0; i < n_prompts && s == QN_OK; i++) {
        qn_event ev = {0};
        while (s == QN_OK && ev.kind != QN_EVENT_DONE) {
            s = qn_request_next(r[i], &ev, err);
            if (s == QN_OK)
                api->event(x, arg, i, &ev);
        }
    }
    for (size_t i = 0; i < n_prompts; i++)
        qn_request_free(r[i]);
    qn_free(r);
    if (!is_submitted)
        return s;
    if (s == QN_OK)
        api->done(x, arg);
    else if (api->fail != NULL)
        (api->fail)(x, arg, err);
    else
        qn_x_fail(x, err, NULL);
    if (api->free)
        api->free(arg);
    return QN_OK;
}

qn_status qn_x_score(const qn_exchange *x, qn_engine *e, const qn_scoring *s, qn_err *err)
{
    return x->is_gone ? qn_fail(err, QN_E_CANCELLED, "the client has gone")
                      : qn_score_shared(e, s, err);
}

/* ---- for the tests ---- */

static inline const qn_route *find_route(const qn_route *routes, const char *path)
{
    for (; routes->method; routes++)
        if (strcmp(routes->path, path) == 0)
            return routes;
    fail_msg("no route %s", path);
    return NULL;
}

/* Calls the handler; x is to be ended with close_exchange. */
static inline void call(qn_exchange *x, const qn_route *routes, const char *path, qn_engine *e,
                        const char *body)
{
    *x = (qn_exchange){.path = path, .body = body, .engine = e};
    qn_arena_init(&x->arena, 0, QN_MEM_REQUEST);
    find_route(routes, path)->handle(x);
    if (!x->has_ended)
        fail_msg("%s: not answered: %s", path, body ? body : "");
}

static inline void close_exchange(qn_exchange *x)
{
    json_decref(x->json);
    qn_arena_fini(&x->arena);
    qn_str_fini(&x->out);
    qn_str_fini(&x->headers);
}

#endif
