/* SPDX-License-Identifier: Apache-2.0
 * exchange.h - one HTTP request and its answer, as the APIs see them.
 *
 *   I/O thread                    worker thread                          engine's thread
 *   bytes -> head -> checks
 *   (key, Host, size) -> body --> route's handle(): parse, submit ---->  steps
 *                                 or reply at once                        |
 *   api->event(), done() <-------------- notify, one wake for many -------+
 *   -> write, flush, next request of the connection
 *
 * A handler runs on a worker, may take long (a prompt is rendered and tokenised there), and ends in exactly one of: qn_x_reply,
 * qn_x_error, qn_x_generate that gave QN_OK. What it needs afterwards lives in the exchange's arena. The functions of a qn_answer_api
 * run on the I/O thread, never wait, and may write. A client that has gone away ends the exchange: its engine requests are dropped
 * and no function but free() is called.
 *
 * Errors have the shape that the path's clients know: OpenAI's, Anthropic's under /v1/messages, Ollama's under /api/.
 * Threads: as above; an exchange has one owner at a time. */
#ifndef QN_SERVER_EXCHANGE_H
#define QN_SERVER_EXCHANGE_H

#include "base/json.h"
#include "base/mem.h"

typedef struct qn_exchange qn_exchange;

/* ---- the request ---- */

qn_slice qn_x_rest(const qn_exchange *x);              /* what stood for the "*" of the route */
qn_slice qn_x_query(qn_exchange *x, const char *name); /* decoded; p NULL: not there */
qn_slice qn_x_header(const qn_exchange *x, const char *name); /* any case; p NULL: not there */
qn_slice qn_x_body(const qn_exchange *x);
/* The client has gone: nobody will read the answer. Any thread; for handlers that compute long. */
bool qn_x_is_gone(const qn_exchange *x);
/* From a handler whose work is going to be long: true, and it returns (qn_x_fail says nothing then); it is called again on
 * workers that each do such work of one caller, so that the others stay free. There, and afterwards, it is false. */
typedef enum qn_x_long {
    QN_X_SCORING,   /* it runs the model itself: scores, embeddings */
    QN_X_COMPILING, /* a grammar that is new */
    QN_X_N_LONG
} qn_x_long;
bool qn_x_put_off(qn_exchange *x, qn_x_long work);
const char *qn_x_id(const qn_exchange *x);     /* x-request-id: the client's, or made */
const char *qn_x_tenant(const qn_exchange *x); /* whose key; NULL: there are no keys */
const char *
qn_x_class(const qn_exchange *x);     /* by header x-priority, or the key's; NULL: neither */
qn_arena *qn_x_arena(qn_exchange *x); /* freed with the exchange */
/* The body as a JSON object, freed with the exchange; NULL: it was not one, and that is answered. */
const json_t *qn_x_json(qn_exchange *x);

/* ---- the model ---- */

/* By the name in a request (NULL: the first). NULL: the handler returns; there is none (404) or it will not be open in time (503),
 * and that is answered, or the handler is called again once it is open. So a handler asks before it does what must not be done
 * twice. The engine stays open while the exchange lives. *served: the name to answer with. */
qn_engine *qn_x_model(qn_exchange *x, const char *name, const char **served);
uint64_t qn_x_waited_ns(const qn_exchange *x); /* for its model to be opened */
/* The model that qn_x_model gave is put away once it was idle for ns: UINT64_MAX: only if others need its room. False: here all are
 * open all the time. */
bool qn_x_keep(qn_exchange *x, uint64_t ns);
/* The same now, without opening it for that. The caller has its place from qn_x_find. */
bool qn_x_put_away(qn_exchange *x, size_t i);

typedef enum qn_model_state { QN_MODEL_UNLOADED, QN_MODEL_LOADING, QN_MODEL_LOADED } qn_model_state;
static inline const char *qn_model_state_name(qn_model_state s)
{
    return s == QN_MODEL_LOADED ? "loaded" : s == QN_MODEL_LOADING ? "loading" : "unloaded";
}
typedef struct qn_model_entry {
    const char *name;
    uint64_t created; /* unix time */
    qn_model_state state;
    double progress; /* of loading, 0 to 1 */
    const char *
        why; /* it could not be opened; NULL: it could, or was not tried. In the exchange's arena */
    uint64_t
        keep_ns; /* from now on, unless somebody asks for it: then it is put away; UINT64_MAX: not for that */
    const qn_engine_info *info; /* NULL: not known yet. In the exchange's arena */
} qn_model_entry;
size_t qn_x_n_models(const qn_exchange *x);
void qn_x_model_at(qn_exchange *x, size_t i, qn_model_entry *out);
/* The place of the model that a name means; qn_x_n_models: there is none. Opens nothing. */
size_t qn_x_find(const qn_exchange *x, const char *name);

/* ---- the answer ---- */

/* Before reply or stream. */
void qn_x_add_header(qn_exchange *x, const char *name, const char *value);
/* A whole answer; p is copied. */
void qn_x_reply(qn_exchange *x, int status, const char *type, const char *p, size_t n);
/* The same with JSON; 503 if s failed for want of memory, 400 if it is over QN_LIMIT_HTTP_ANSWER. Ends s. */
void qn_x_reply_json(qn_exchange *x, int status, qn_str *s);
/* An error; param and code may be NULL. As long as nothing was sent; within a stream it is its last event. */
void qn_x_error(qn_exchange *x, int status, const char *param, const char *code, const char *fmt,
                ...) QN_PRINTF(5, 6);
/* The same for a status of the library: ARG FORMAT UNSUPPORTED TOO_LONG 400, NOT_FOUND 404, QUEUE_FULL 429, BUSY NOMEM TIMEOUT 503,
 * others 500. */
void qn_x_fail(qn_exchange *x, const qn_err *err, const char *param);

/* Answers piece by piece: begin once, write, end. type: "text/event-stream" adds what keeps proxies from holding it back. I/O thread. */
void qn_x_begin(qn_exchange *x, const char *type);
void qn_x_write(qn_exchange *x, const void *p, size_t n);
/* "data: TEXT\n\n", after "event: NAME\n" if name is given, as one write. */
void qn_x_write_event(qn_exchange *x, const char *name, const qn_str *text);
/* A comment of an event stream, which means nothing. */
void qn_x_write_comment(qn_exchange *x);
void qn_x_end(qn_exchange *x);

/* ---- generating ---- */

/* How an API writes what the engine gives. I/O thread. */
typedef struct qn_answer_api {
    /* The next event of prompt `i`; DONE too. */
    void (*event)(qn_exchange *x, void *arg, size_t i, const qn_event *ev);
    /* All prompts have had their DONE: reply, or end the stream. Of a large answer that is no stream on a worker, which may reply and
     * do nothing else. */
    void (*done)(qn_exchange *x, void *arg);
    /* One failed and the others were dropped; NULL: qn_x_fail. */
    void (*fail)(qn_exchange *x, void *arg, const qn_err *err);
    /* In silences over QN_LIMIT_HTTP_SILENCE_MS, while a stream is open; NULL: a comment for event streams, else nothing. */
    void (*idle)(qn_exchange *x, void *arg);
    /* Last of all, whatever happened; NULL: nothing to do (arena). */
    void (*free)(void *arg);
    bool is_stream; /* counted as such */
    /* The head goes out as soon as the engine has the prompts, as an event stream: who waits for a long one sees that it is being
     * read, and what fails from then on is the stream's last event. Else the API begins, if it does. */
    bool begins_at_once;
} qn_answer_api;

/* Worker: submits all prompts or none; on failure the caller answers. class_name, tenant and notify of params are filled in here
 * where they are NULL. After QN_OK the exchange belongs to the I/O thread. On failure free() is not called. */
QN_MUST_USE qn_status qn_x_generate(qn_exchange *x, const qn_answer_api *api, void *arg,
                                    qn_engine *e, const qn_prompt *prompts, size_t n_prompts,
                                    const qn_params *params, qn_err *err);

/* qn_score_shared for a client: within its class and tenant, and QN_E_CANCELLED once it has gone; arg of the callbacks is
 * s->arg. */
QN_MUST_USE qn_status qn_x_score(const qn_exchange *x, qn_engine *e, const qn_scoring *s,
                                 qn_err *err);

/* ---- routes ---- */

typedef struct qn_route {
    const char *method; /* "GET"; HEAD goes to GET's, without the body */
    const char *path;   /* "/v1/models/" "*": one more component; exact otherwise */
    void (*handle)(qn_exchange *x);
    bool is_open;  /* wants no key */
    bool is_quick; /* on the I/O thread: it never waits */
} qn_route;

/* Each API's routes, ended by {NULL}. */
extern const qn_route qn_openai_routes[], qn_responses_routes[], qn_anthropic_routes[],
    qn_ollama_routes[], qn_generate_routes[], qn_tokens_routes[], qn_status_routes[];

#endif
