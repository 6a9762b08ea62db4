/* SPDX-License-Identifier: Apache-2.0
 * request.c - a request: parameters and prompt in, events out.
 *
 * Everything a request needs is copied at submit, on the caller's thread (the prompt is rendered
 * and encoded there, so a long one never holds up a step). Events are kept in arrays that grow;
 * next() copies one out under the request's lock. An allocation that
 * fails ends this request with QN_E_NOMEM and nothing else. */
#include "engine/engine.h"

#include <limits.h>
#include <openssl/sha.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

qn_params qn_params_default(void)
{
    return (qn_params){.temperature = 0.7f,
                       .top_k = 20,
                       .top_p = 0.8f,
                       .typical_p = 1,
                       .repetition_penalty = 1,
                       .n_logprobs = -1,
                       .n = 1,
                       .length_penalty = 1};
}

/* ---- submitting ---- */

static qn_status copy_params(qn_request *r, const qn_params *p, qn_err *err)
{
    qn_params *to = &r->params;
    *to = *p;
    if (p->grammar)
        qn_grammar_keep(p->grammar);
    size_t n_bias = p->n_logit_bias * sizeof *p->logit_bias;
    qn_logit_bias *bias = qn_arena_alloc(&r->arena, n_bias + 1);
    const char **stop = qn_arena_alloc(&r->arena, (p->n_stop + 1) * sizeof *stop);
    if (!bias || !stop)
        return qn_fail_nomem(err, n_bias);
    if (n_bias)
        memcpy(bias, p->logit_bias, n_bias);
    to->logit_bias = bias;
    for (size_t i = 0; i < p->n_stop; i++)
        if (!(stop[i] = qn_arena_strndup(&r->arena, p->stop[i], strlen(p->stop[i]))))
            return qn_fail_nomem(err, strlen(p->stop[i]));
    to->stop = stop;
    const qn_engine *e = r->engine;
    size_t n_eos = p->ignore_eos ? 0 : e->n_eos, n = n_eos + p->n_stop_ids;
    r->stop_ids = qn_arena_alloc(&r->arena, (n + 1) * sizeof *r->stop_ids);
    if (!r->stop_ids)
        return qn_fail_nomem(err, n * sizeof *r->stop_ids);
    memcpy(r->stop_ids, e->eos_ids, n_eos * sizeof *r->stop_ids);
    if (p->n_stop_ids)
        memcpy(r->stop_ids + n_eos, p->stop_ids, p->n_stop_ids * sizeof *r->stop_ids);
    r->n_stop_ids = n;
    to->stop_ids = r->stop_ids;
    to->n_stop_ids = n;
    if (!to->seed && getrandom(&to->seed, sizeof to->seed, 0) != sizeof to->seed)
        to->seed = qn_now_ns();
    return QN_OK;
}

uint64_t qn_tenant_id(const char *tenant)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    uint64_t id = 0;
    if (!tenant)
        return 0;
    (void)SHA256((const uint8_t *)tenant, strlen(tenant) + 1, digest);
    memcpy(&id, digest, sizeof id);
    return id;
}

/* Which class, whose, and with whom cached prefixes are shared. The names are not needed again. */
static qn_status identify(qn_request *r, qn_err *err)
{
    qn_params *p = &r->params;
    const qn_engine *e = r->engine;
    uint8_t digest[SHA256_DIGEST_LENGTH];
    qn_str text = {0};
    r->class_id = qn_engine_class(e, p->class_name);
    if (r->class_id < 0) {
        for (int i = 0; i < e->config.n_classes; i++)
            qn_str_addf(&text, "%s%s", i ? ", " : "", e->classes[i].name);
        qn_status s = qn_fail(err, QN_E_ARG, "class: found '%.40s', want one of %s", p->class_name,
                              text.failed ? "the server's" : text.p);
        qn_str_fini(&text);
        return s;
    }
    r->tenant_id = qn_tenant_id(p->tenant);
    if ((p->tenant && !p->shares_prefixes) || p->cache_salt) {
        const char *tenant = p->tenant && !p->shares_prefixes ? p->tenant : "",
                   *salt = p->cache_salt ? p->cache_salt : "";
        qn_str_add(&text, tenant, strlen(tenant) + 1);
        qn_str_adds(&text, salt);
        (void)SHA256((const uint8_t *)(text.failed ? "" : text.p), text.n, digest);
        memcpy(r->salt, digest, sizeof r->salt);
    }
    bool ok = !text.failed;
    qn_str_fini(&text);
    p->class_name = p->tenant = p->cache_salt = NULL;
    r->notify = p->notify;
    return ok ? QN_OK : qn_fail_nomem(err, 64);
}

static qn_status check_bytes(const char *what, size_t n, qn_err *err)
{
    return n <= QN_LIMIT_PROMPT_BYTES
               ? QN_OK
               : qn_fail(err, QN_E_TOO_LONG, "%s: found %zu bytes, want at most %d", what, n,
                         QN_LIMIT_PROMPT_BYTES);
}

static qn_status parse_chat(json_t **out, const char *text, qn_err *err)
{
    QN_TRY(check_bytes("chat request", strlen(text), err));
    QN_TRY(qn_chat_variables_parse(out, text, strlen(text), 64, "chat request", err));
    if (json_is_object(*out))
        return QN_OK;
    qn_status s = qn_fail(err, QN_E_ARG, "chat request: found %s, want an object with messages",
                          qn_json_type_name(*out));
    json_decref(*out);
    return s;
}

static qn_status check_message(const qn_message *m, size_t i, qn_err *err)
{
    if (!m->role || !m->content)
        return qn_fail(err, QN_E_ARG, "message %zu: found no %s", i, m->role ? "content" : "role");
    if (!qn_utf8_valid(m->role, strlen(m->role)) || !qn_utf8_valid(m->content, strlen(m->content)))
        return qn_fail(err, QN_E_ARG, "message %zu: is not UTF-8", i);
    return QN_OK;
}

/* {"messages": [{"role": ..., "content": ...}, ...]} */
static qn_status list_messages(json_t **out, const qn_message *m, size_t n, qn_err *err)
{
    json_t *o = json_object(), *list = json_array();
    qn_status s = QN_OK;
    if (json_object_set_new(o, "messages", list) != 0)
        s = qn_fail_nomem(err, n * sizeof *m);
    for (size_t i = 0; s == QN_OK && i < n; i++) {
        s = check_message(&m[i], i, err);
        if (s == QN_OK && json_array_append_new(list, json_pack("{s:s, s:s}", "role", m[i].role,
                                                                "content", m[i].content)) != 0)
            s = qn_fail_nomem(err, strlen(m[i].content));
    }
    if (s != QN_OK)
        json_decref(o);
    else
        *out = o;
    return s;
}

/* The template's variables: the caller's object, or the list of messages, and the tokenizer's bos
 * and eos. */
static qn_status chat_variables(const qn_engine *e, const qn_prompt *p, json_t **out, qn_err *err)
{
    json_t *o = NULL;
    if (p->chat_json)
        QN_TRY(parse_chat(&o, p->chat_json, err));
    else
        QN_TRY(list_messages(&o, p->messages, p->n_messages, err));
    /* these count as the template's own text, so a request may not bring its own */
    int32_t ids[] = {qn_tokenizer_bos(e->tokenizer), qn_tokenizer_eos(e->tokenizer), -1, -1};
    static const char *const names[] = {"bos_token", "eos_token", "pad_token", "unk_token"};
    bool ok = json_object_get(o, "add_generation_prompt") ||
              json_object_set_new(o, "add_generation_prompt", json_true()) == 0;
    for (size_t i = 0; i < QN_COUNT(ids) && ok; i++) {
        qn_slice s = ids[i] >= 0 ? qn_tokenizer_bytes(e->tokenizer, ids[i]) : QN_SLICE("");
        ok = json_object_set_new(o, names[i], json_stringn(s.p, s.n)) == 0;
    }
    if (!ok) {
        json_decref(o);
        return qn_fail_nomem(err, 256);
    }
    *out = o;
    return QN_OK;
}

/* Leaves the last message open, so that the answer goes on with it. */
static qn_status cut_chat(const json_t *vars, qn_chat_text *text, qn_err *err)
{
    const json_t *list = json_object_get(vars, "messages");
    size_t n = json_array_size(list);
    const json_t *v = n ? json_object_get(json_array_get(list, n - 1), "content") : NULL;
    if (!json_is_string(v))
        return qn_fail(err, QN_E_ARG,
                       "continue_final_message: the last message's content is %s, want a string",
                       qn_json_type_name(v));
    return qn_chat_text_cut(text, (qn_slice){json_string_value(v), json_string_length(v)}, err);
}

/* *text is the caller's to end, also on failure. */
static qn_status render_chat(const qn_engine *e, const qn_prompt *p, qn_chat_text *text,
                             qn_err *err)
{
    json_t *vars = NULL;
    if (!e->chat)
        return qn_fail(err, QN_E_NOT_FOUND,
                       "the model has no chat template; give one, or raw text");
    QN_TRY(chat_variables(e, p, &vars, err));
    qn_status s = qn_chat_template_render(e->chat, vars, (int64_t)time(NULL), text, err);
    if (s == QN_OK && json_is_true(json_object_get(vars, "continue_final_message")))
        s = cut_chat(vars, text, err);
    json_decref(vars);
    return s;
}

/* Before the work of tokenising what cannot fit. */
static qn_status check_prompt_bytes(const qn_engine *e, size_t n, qn_err *err)
{
    return n <= e->info.max_prompt_bytes ? QN_OK
                                         : qn_fail(err, QN_E_TOO_LONG,
                                                   "this model's maximum context length is %d "
                                                   "tokens; the prompt has more, in %zu bytes",
                                                   e->config.max_ctx, n);
}

static qn_status encode_chat(const qn_engine *e, const qn_prompt *p, qn_ids *ids, qn_err *err)
{
    qn_chat_text text = {0};
    qn_status s = render_chat(e, p, &text, err);
    if (s == QN_OK)
        s = check_prompt_bytes(e, text.text.n, err);
    if (s == QN_OK)
        s = qn_chat_encode(e->tokenizer, &text, ids, err);
    qn_chat_text_fini(&text);
    return s;
}

qn_status qn_render(const qn_engine *e, const qn_prompt *p, char **text, size_t *n_text,
                    qn_err *err)
{
    qn_chat_text t = {0};
    *text = NULL;
    *n_text = 0;
    if (!p->messages == !p->chat_json)
        return qn_fail(err, QN_E_ARG, "prompt: want messages or chat_json, and one of them");
    qn_status s = render_chat(e, p, &t, err);
    if (s == QN_OK) {
        qn_str_add(&t.text, "", 0);
        s = t.text.failed ? qn_fail_nomem(err, t.text.n) : QN_OK;
    }
    if (s == QN_OK) {
        *text = t.text.p;
        *n_text = t.text.n;
        t.text = (qn_str){0};
    }
    qn_chat_text_fini(&t);
    return s;
}

static qn_status add_id(qn_ids *ids, int32_t id, qn_err *err)
{
    if (!qn_grow(&ids->p, &ids->cap, ids->n + 1, sizeof *ids->p, QN_MEM_REQUEST))
        return qn_fail_nomem(err, sizeof *ids->p);
    ids->p[ids->n++] = id;
    return QN_OK;
}

static qn_status encode_text(const qn_engine *e, const qn_prompt *p, qn_ids *ids, qn_err *err)
{
    size_t n = p->n_text ? p->n_text : strlen(p->text);
    int32_t end = qn_tokenizer_end(e->tokenizer);
    QN_TRY(check_bytes("prompt", n, err));
    QN_TRY(check_prompt_bytes(e, n, err));
    if (qn_tokenizer_add_bos(e->tokenizer))
        QN_TRY(add_id(ids, qn_tokenizer_bos(e->tokenizer), err));
    QN_TRY(qn_tokenizer_encode(e->tokenizer, p->text, n,
                               p->parse_special ? QN_SPECIAL_ALL : QN_SPECIAL_NONE, ids, err));
    return end >= 0 ? add_id(ids, end, err) : QN_OK;
}

qn_status qn_encode(const qn_engine *e, const qn_prompt *p, int32_t **out, size_t *n_out,
                    qn_err *err)
{
    *out = NULL;
    *n_out = 0;
    int forms =
        (p->text != NULL) + (p->ids != NULL) + (p->messages != NULL) + (p->chat_json != NULL);
    if (forms != 1)
        return qn_fail(err, QN_E_ARG,
                       "prompt: found %d of text, ids, messages, chat_json; want exactly one",
                       forms);
    qn_ids ids = {0};
    qn_status s = QN_OK;
    if (p->ids) {
        if (!qn_grow(&ids.p, &ids.cap, p->n_ids + 1, sizeof *ids.p, QN_MEM_REQUEST))
            return qn_fail_nomem(err, p->n_ids * sizeof *ids.p);
        memcpy(ids.p, p->ids, p->n_ids * sizeof *ids.p);
        ids.n = p->n_ids;
    } else if (p->text) {
        s = encode_text(e, p, &ids, err);
    } else {
        s = encode_chat(e, p, &ids, err);
    }
    if (s == QN_OK && !ids.n)
        s = qn_fail(err, QN_E_ARG, "prompt: found no tokens, want at least one");
    for (size_t i = 0; i < ids.n && s == QN_OK; i++)
        if (ids.p[i] < 0 || (size_t)ids.p[i] >= e->model->config.n_vocab)
            s = qn_fail(err, QN_E_ARG, "prompt: token %zu is %d, want 0..%u", i, ids.p[i],
                        e->model->config.n_vocab - 1);
    if (s != QN_OK) {
        qn_free(ids.p);
        return s;
    }
    *out = ids.p;
    *n_out = ids.n;
    return QN_OK;
}

static qn_status check_length(qn_request *r, qn_err *err)
{
    size_t ctx = (size_t)r->engine->config.max_ctx;
    size_t want = (size_t)r->params.max_tokens;
    if (r->n_prompt >= ctx)
        return qn_fail(err, QN_E_TOO_LONG, /* clients look for these words */
                       "this model's maximum context length is %zu tokens; the prompt has %zu", ctx,
                       r->n_prompt);
    size_t room = ctx - r->n_prompt;
    if (want > room)
        return qn_fail(err, QN_E_TOO_LONG,
                       "this model's maximum context length is %zu tokens; the prompt has %zu and "
                       "max_tokens is %zu",
                       ctx, r->n_prompt, want);
    if (r->params.beam_width && (r->params.n_stop || r->params.n_logprobs >= 0))
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "beam search takes no stop strings and gives no log-probabilities");
    if (r->params.beam_width > r->engine->config.max_seqs)
        return qn_fail(err, QN_E_ARG,
                       "beam_width: found %d, the engine computes at most %d sequences together",
                       r->params.beam_width, r->engine->config.max_seqs);
    r->params.max_tokens = (int)(want ? want : room);
    if (r->params.min_tokens > r->params.max_tokens)
        return qn_fail(err, QN_E_ARG, "min_tokens: found %d, max_tokens is %d",
                       r->params.min_tokens, r->params.max_tokens);
    r->max_tokens = (uint32_t)(r->n_prompt + (size_t)r->params.max_tokens);
    return QN_OK;
}

qn_status qn_request_submit(qn_request **out, qn_engine *e, const qn_prompt *prompt,
                            const qn_params *params, qn_err *err)
{
    *out = NULL;
    QN_TRY(qn_params_check(params, e->model->config.n_vocab, err));
    if (params->grammar && !qn_grammar_cache_owns(e->grammars, params->grammar))
        return qn_fail(err, QN_E_ARG, "grammar: found another engine's, want one of this engine");
    qn_request *r = qn_calloc(1, sizeof *r, QN_MEM_REQUEST);
    if (!r)
        return qn_fail_nomem(err, sizeof *r);
    r->engine = e;
    r->detached = true; /* nobody else has it yet */
    qn_arena_init(&r->arena, 0, QN_MEM_REQUEST);
    (void)pthread_mutex_init(&r->lock, NULL);
    (void)pthread_cond_init(&r->changed, NULL);
    r->t_submit = qn_now_ns();
    qn_status s = copy_params(r, params, err);
    if (s == QN_OK)
        s = identify(r, err);
    if (s == QN_OK)
        s = qn_encode(e, prompt, &r->prompt, &r->n_prompt, err);
    if (s == QN_OK)
        s = check_length(r, err);
    if (s != QN_OK) {
        qn_request_free(r);
        return s;
    }
    (void)pthread_mutex_lock(&e->lock);
    s = qn_engine_admit(e, r, err);
    if (s == QN_OK) {
        r->detached = false;
        *e->inbox_end = r;
        e->inbox_end = &r->next_in_inbox;
        (void)pthread_cond_signal(&e->wake);
    }
    (void)pthread_mutex_unlock(&e->lock);
    if (s == QN_OK)
        *out = r;
    else
        qn_request_free(r);
    return s;
}

void qn_request_cancel(qn_request *r)
{
    atomic_store(&r->cancelled, true);
}

static void destroy(qn_request *r)
{
    for (size_t i = 0; i < r->n_finished; i++)
        qn_free(r->finished[i].ids);
    qn_free(r->finished);
    qn_free(r->seqs);
    qn_grammar_let(r->params.grammar);
    qn_free(r->prompt);
    qn_free(r->events);
    qn_free(r->logprobs);
    qn_str_fini(&r->text);
    qn_str_fini(&r->current);
    qn_arena_fini(&r->arena);
    (void)pthread_cond_destroy(&r->changed);
    (void)pthread_mutex_destroy(&r->lock);
    qn_free(r);
}

/* Cancels, and wakes the engine if it waits for a full batch. Under r->lock, and only while the
 * engine has r: after that it may be gone. */
static void give_up(qn_request *r)
{
    qn_engine *e = r->engine;
    atomic_store(&r->cancelled, true);
    r->notify = NULL;
    if (r->detached)
        return;
    (void)pthread_mutex_lock(&e->lock);
    (void)pthread_cond_signal(&e->wake);
    (void)pthread_mutex_unlock(&e->lock);
}

void qn_request_free(qn_request *r)
{
    if (!r)
        return;
    (void)pthread_mutex_lock(&r->lock);
    give_up(r);
    while (!r->detached)
        (void)pthread_cond_wait(&r->changed, &r->lock);
    (void)pthread_mutex_unlock(&r->lock);
    destroy(r);
}

void qn_request_drop(qn_request *r)
{
    if (!r)
        return;
    (void)pthread_mutex_lock(&r->lock);
    give_up(r);
    r->dropped = true;
    bool is_ours = r->detached;
    (void)pthread_mutex_unlock(&r->lock);
    if (is_ours)
        destroy(r);
}

void qn_request_detach(qn_request *r)
{
    (void)pthread_mutex_lock(&r->lock);
    r->detached = true;
    bool is_ours = r->dropped;
    (void)pthread_cond_broadcast(&r->changed);
    (void)pthread_mutex_unlock(&r->lock);
    if (is_ours)
        destroy(r);
}

/* ---- reading ---- */

static void fill_event(qn_request *r, qn_event *out)
{
    const qn_event_node *n = &r->events[r->n_taken++];
    *out = (qn_event){.kind = n->kind,
                      .index = n->index,
                      .token_id = n->token_id,
                      .at_ns = n->at_ns,
                      .finish = n->finish,
                      .stop = n->stop,
                      .score = n->score,
                      .n_text = n->n_text,
                      .n_logprobs = n->n_logprobs};
    qn_str_clear(&r->current);
    qn_str_add(&r->current, r->text.p + n->text_at, n->n_text);
    out->text = r->current.p ? r->current.p : "";
    memcpy(r->current_logprobs, r->logprobs + n->logprobs_at, n->n_logprobs * sizeof *r->logprobs);
    out->logprobs = r->current_logprobs;
    if (n->kind != QN_EVENT_DONE)
        return;
    out->n_prompt_tokens = (int)r->n_prompt;
    out->n_output_tokens = r->n_output;
    out->n_draft_tokens = r->n_drafted;
    out->n_accepted_tokens = r->n_accepted;
    out->n_cached_tokens = r->n_cached;
    out->miss = r->miss;
    out->n_preempted = r->n_preempted;
    out->queue_ms = (double)(r->t_start - r->t_submit) * 1e-6;
    out->prefill_ms = (double)(r->t_first - r->t_start) * 1e-6;
    out->decode_ms = (double)(r->t_end - r->t_first) * 1e-6;
}

/* Under the lock: the next event, or what ended the request. */
static qn_status take_event(qn_request *r, qn_event *out, qn_err *err)
{
    qn_status s = QN_OK;
    if (r->n_taken < r->n_events) {
        fill_event(r, out);
        if (r->current.failed)
            s = qn_fail_nomem(err, out->n_text);
    } else if (r->error.status != QN_OK && !r->reported) {
        r->reported = true;
        s = qn_fail(err, r->error.status, "%s", r->error.msg);
    } else {
        s = qn_fail(err, QN_E_NOT_FOUND, "the request has no more events");
    }
    return s;
}

qn_status qn_request_next(qn_request *r, qn_event *out, qn_err *err)
{
    (void)pthread_mutex_lock(&r->lock);
    while (r->n_taken == r->n_events && !r->over)
        (void)pthread_cond_wait(&r->changed, &r->lock);
    qn_status s = take_event(r, out, err);
    (void)pthread_mutex_unlock(&r->lock);
    return s;
}

qn_status qn_request_poll(qn_request *r, qn_event *out, bool *got, qn_err *err)
{
    qn_status s = QN_OK;
    (void)pthread_mutex_lock(&r->lock);
    *got = r->n_taken < r->n_events || r->over;
    if (*got)
        s = take_event(r, out, err);
    (void)pthread_mutex_unlock(&r->lock);
    return s;
}

/* ---- the engine thread's side ---- */

/* Under the lock: something is there for the reader. */
static void announce(qn_request *r)
{
    (void)pthread_cond_broadcast(&r->changed);
    if (r->notify)
        r->notify(r->params.notify_arg);
}

qn_status qn_request_push(qn_request *r, const qn_event_node *node, const char *text, size_t n,
                          const qn_candidate *best, size_t n_best, qn_err *err)
{
    (void)pthread_mutex_lock(&r->lock);
    bool ok =
        qn_grow(&r->events, &r->events_cap, r->n_events + 1, sizeof *r->events, QN_MEM_REQUEST) &&
        qn_grow(&r->logprobs, &r->logprobs_cap, r->n_logprobs + n_best + 1, sizeof *r->logprobs,
                QN_MEM_REQUEST);
    if (ok) {
        qn_event_node *to = &r->events[r->n_events];
        *to = *node;
        to->at_ns = qn_now_ns();
        to->text_at = r->text.n;
        to->n_text = n;
        to->logprobs_at = r->n_logprobs;
        to->n_logprobs = n_best;
        qn_str_add(&r->text, text, n);
        for (size_t i = 0; i < n_best; i++) {
            qn_slice s = best[i].id >= 0 ? qn_tokenizer_bytes(r->engine->tokenizer, best[i].id)
                                         : QN_SLICE("");
            r->logprobs[r->n_logprobs + i] = (qn_logprob){best[i].id, best[i].logprob, s.p, s.n};
        }
        ok = !r->text.failed;
    }
    if (ok) {
        r->n_events++;
        r->n_logprobs += n_best;
        announce(r);
    }
    (void)pthread_mutex_unlock(&r->lock);
    return ok ? QN_OK : qn_fail_nomem(err, n);
}

void qn_request_fail(qn_request *r, qn_status s, const qn_err *err)
{
    (void)pthread_mutex_lock(&r->lock);
    if (!r->over) {
        r->over = true;
        r->error = *err;
        r->error.status = s;
        announce(r);
    }
    (void)pthread_mutex_unlock(&r->lock);
}

void qn_request_finish(qn_request *r)
{
    qn_err err = {0};
    r->t_end = qn_now_ns();
    qn_event_node done = {.kind = QN_EVENT_DONE, .token_id = -1};
    qn_status s = qn_request_push(r, &done, "", 0, NULL, 0, &err);
    if (s != QN_OK) {
        qn_request_fail(r, s, &err);
        return;
    }
    (void)pthread_mutex_lock(&r->lock);
    r->over = true;
    announce(r);
    (void)pthread_mutex_unlock(&r->lock);
}

qn_seq *qn_seq_new(qn_request *r, int index, qn_err *err)
{
    qn_engine *e = r->engine;
    const qn_model_config *c = &e->model->config;
    qn_seq *q = qn_calloc(1, sizeof *q, QN_MEM_REQUEST);
    bool ok = q &&
              qn_grow(&r->seqs, &r->seqs_cap, r->n_seqs + 1, sizeof(qn_seq *), QN_MEM_REQUEST) &&
              qn_grow(&q->tokens, &q->cap, r->n_prompt + 1, sizeof *q->tokens, QN_MEM_REQUEST);
    size_t n_top = 2 * (size_t)r->params.beam_width;
    if (ok && n_top)
        ok = (q->top = qn_alloc_array(n_top, sizeof *q->top, QN_MEM_REQUEST)) != NULL;
    qn_status s = ok ? QN_OK : qn_fail_nomem(err, r->n_prompt * sizeof *q->tokens);
    if (s == QN_OK)
        s = qn_sampler_new(&q->sampler, &r->params, r->params.seed + (uint64_t)index, c->n_vocab,
                           qn_tokenizer_n_tokens(e->tokenizer), r->stop_ids, r->n_stop_ids, err);
    if (s != QN_OK) {
        if (q) {
            qn_free(q->tokens);
            qn_free(q->top);
        }
        qn_free(q);
        err->status = s;
        return NULL;
    }
    q->request = r;
    q->index = index;
    q->accept = qn_accept_from(&e->accept);
    memcpy(q->tokens, r->prompt, r->n_prompt * sizeof *q->tokens);
    q->n_prompt = q->sched.n_tokens = (uint32_t)r->n_prompt;
    for (size_t i = 0; i < r->n_prompt; i++)
        qn_sampler_accept(q->sampler, q->tokens[i], false);
    qn_detok_init(&q->detok, e->tokenizer, true);
    /* Qwen v1 scales by the prompt's length, YaRN by what the sequence may reach */
    uint32_t reach = c->dynamic_ntk ? q->n_prompt : r->max_tokens;
    qn_seq_rope_init(&q->rope, &e->model->rope, e->config.rope_scaling, reach);
    r->seqs[r->n_seqs++] = q;
    return qn_constrain_begin(q, err) == QN_OK ? q
                                               : NULL; /* it is the request's, and ends with it */
}

void qn_seq_free(qn_engine *e, qn_seq *q)
{
    if (q->sched.state != QN_SEQ_FINISHED)
        qn_scheduler_remove(&e->scheduler, &q->sched);
    qn_sampler_free(q->sampler);
    qn_constrain_end(q);
    qn_ngram_fini(&q->ngram);
    qn_draft_seq_fini(e->draft_model, &q->draft);
    qn_str_fini(&q->pending);
    qn_free(q->tokens);
    qn_free(q->top);
    qn_free(q);
}

qn_status qn_seq_append(qn_seq *q, int32_t id, qn_err *err)
{
    if (!qn_grow(&q->tokens, &q->cap, (size_t)q->sched.n_tokens + 1, sizeof *q->tokens,
                 QN_MEM_REQUEST))
        return qn_fail_nomem(err, ((size_t)q->sched.n_tokens + 1) * sizeof *q->tokens);
    q->tokens[q->sched.n_tokens++] = id;
    return QN_OK;
}

bool qn_is_stop_id(const qn_request *r, int32_t id)
{
    for (size_t i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] == id)
            return true;
    return false;
}

/* Where the first stop string begins in the held text, or SIZE_MAX, and which it is. */
static size_t find_stop(const qn_request *r, const qn_str *text, const char **stop)
{
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < r->params.n_stop; i++) {
        const char *s = r->params.stop[i];
        const char *at = text->n ? memmem(text->p, text->n, s, strlen(s)) : NULL;
        if (at && (size_t)(at - text->p) < first) {
            first = (size_t)(at - text->p);
            *stop = s;
        }
    }
    return first;
}

/* Bytes at the end of the text that a stop string may begin with. */
static size_t held_back(const qn_request *r, const qn_str *text)
{
    size_t most = 0;
    for (size_t i = 0; i < r->params.n_stop; i++) {
        const char *s = r->params.stop[i];
        for (size_t n = QN_MIN(strlen(s) - 1, text->n); n > most; n--)
            if (memcmp(text->p + text->n - n, s, n) == 0)
                most = n;
    }
    return most;
}

qn_status qn_request_emit(qn_request *r, qn_seq *q, const qn_candidate *best, size_t n_best,
                          bool is_over, qn_err *err)
{
    int32_t id = best[0].id;
    QN_TRY(qn_seq_append(q, id, err));
    r->n_output++;
    qn_finish finish = QN_FINISH_NONE;
    if (qn_is_stop_id(r, id))
        finish = QN_FINISH_STOP;
    else
        qn_detok_next(&q->detok, id, &q->pending);
    int n_out = (int)(q->sched.n_tokens - q->n_prompt);
    if (is_over)
        finish = QN_FINISH_STOP;
    if (finish == QN_FINISH_NONE && n_out >= r->params.max_tokens)
        finish = QN_FINISH_LENGTH;
    if (finish != QN_FINISH_NONE)
        qn_detok_end(&q->detok, &q->pending);
    if (q->pending.failed)
        return qn_fail_nomem(err, q->pending.n);
    const char *stop = NULL;
    size_t stop_at = find_stop(r, &q->pending, &stop), n = q->pending.n;
    if (stop) {
        finish = QN_FINISH_STOP;
        n = stop_at;
    } else if (finish == QN_FINISH_NONE) {
        n -= held_back(r, &q->pending);
    }
    q->done = finish != QN_FINISH_NONE;
    qn_event_node node = {.kind = QN_EVENT_TOKEN,
                          .index = q->index,
                          .token_id = id,
                          .finish = finish,
                          .stop = stop,
                          .score = q->done ? (float)q->sum_logprob : 0};
    bool wanted = r->params.n_logprobs >= 0;
    QN_TRY(qn_request_push(r, &node, q->pending.p ? q->pending.p : "", n, best, wanted ? n_best : 0,
                           err));
    if (n) {
        memmove(q->pending.p, q->pending.p + n, q->pending.n - n);
        q->pending.n -= n;
    }
    return QN_OK;
}

/* ---- text ---- */

qn_status qn_tokenize(const qn_engine *e, const char *text, size_t n, bool parse_special,
                      int32_t **ids, size_t *n_ids, qn_err *err)
{
    qn_ids out = {0};
    *ids = NULL;
    *n_ids = 0;
    qn_status s = qn_tokenizer_encode(e->tokenizer, text, n,
                                      parse_special ? QN_SPECIAL_ALL : QN_SPECIAL_NONE, &out, err);
    if (s != QN_OK) {
        qn_ids_fini(&out);
        return s;
    }
    *ids = out.p;
    *n_ids = out.n;
    return QN_OK;
}

qn_status qn_detokenize(const qn_engine *e, const int32_t *ids, size_t n_ids, bool skip_special,
                        char **text, size_t *n_text, qn_err *err)
{
    qn_str out = {0};
    *text = NULL;
    *n_text = 0;
    qn_str_add(&out, "", 0);
    qn_status s = qn_tokenizer_decode(e->tokenizer, ids, n_ids, skip_special, &out, err);
    if (s == QN_OK && out.failed)
        s = qn_fail_nomem(err, out.n);
    if (s != QN_OK) {
        qn_str_fini(&out);
        return s;
    }
    *text = out.p;
    *n_text = out.n;
    return QN_OK;
}

bool qn_token_text(const qn_engine *e, int32_t id, const char **text, size_t *n_text)
{
    if (qn_tokenizer_kind(e->tokenizer, id) == QN_TOKEN_UNUSED)
        return false;
    qn_slice s = qn_tokenizer_bytes(e->tokenizer, id);
    *text = s.p;
    *n_text = s.n;
    return true;
}

void qn_engine_get_text(const qn_engine *e, qn_text_info *out)
{
    *out = (qn_text_info){.bos_id = qn_tokenizer_bos(e->tokenizer),
                          .eos_id = qn_tokenizer_eos(e->tokenizer),
                          .adds_bos = qn_tokenizer_add_bos(e->tokenizer),
                          .chat_template = e->chat ? qn_chat_template_source(e->chat) : NULL};
}

void qn_release(void *p)
{
    qn_free(p);
}
