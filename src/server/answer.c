/* SPDX-License-Identifier: Apache-2.0
 * answer.c - gathering events. */
#include "server/answer.h"

#include "base/mem.h"
#include <math.h>
#include <quern/grammar.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

qn_status qn_answer_init(qn_answer *a, size_t n_prompts, const qn_params *params, qn_err *err)
{
    size_t n_parts;
    bool fits = qn_mul_size(n_prompts, (size_t)params->n, &n_parts);
    *a = (qn_answer){.style = a->style,
                     .call_prefix = a->call_prefix,
                     .is_stream = a->is_stream,
                     .stop = params->stop,
                     .n_stop = params->n_stop,
                     .n = params->n};
    if (fits)
        a->parts = qn_calloc(n_parts, sizeof *a->parts, QN_MEM_REQUEST);
    a->usage = qn_calloc(n_prompts, sizeof *a->usage, QN_MEM_REQUEST);
    if (!a->parts || !a->usage)
        return qn_fail_nomem(err, n_prompts * sizeof *a->usage);
    a->n_prompts = n_prompts;
    for (size_t i = 0; a->style && i < n_parts; i++) {
        qn_reply *r = a->parts[i].reply = qn_alloc(sizeof *r, QN_MEM_REQUEST);
        if (!r)
            return qn_fail_nomem(err, sizeof *r);
        qn_reply_init(r, a->style);
    }
    return QN_OK;
}

static void fini_part(qn_answer_part *p)
{
    for (size_t i = 0; i < p->n_calls; i++) {
        qn_str_fini(&p->calls[i].name);
        qn_str_fini(&p->calls[i].arguments);
    }
    if (p->reply)
        qn_reply_fini(p->reply);
    qn_free(p->reply);
    qn_free(p->calls);
    qn_free(p->items);
    qn_str_fini(&p->text);
    qn_str_fini(&p->reasoning);
    qn_free(p->ids);
    qn_free(p->tokens);
}

void qn_answer_fini(qn_answer *a)
{
    for (size_t i = 0; i < a->n_prompts * (size_t)a->n; i++)
        fini_part(&a->parts[i]);
    qn_free(a->deltas);
    qn_free(a->parts);
    qn_free(a->usage);
    qn_str_fini(&a->out);
    *a = (qn_answer){0};
}

/* The same text among the caller's: the event's is gone with the engine's request. */
static const char *find_stop(const qn_answer *a, const char *stop)
{
    for (size_t i = 0; stop && i < a->n_stop; i++)
        if (strcmp(a->stop[i], stop) == 0)
            return a->stop[i];
    return NULL;
}

/* ---- taken apart ---- */

/* The text was thoughts: the model forgot to say so. */
static void recall(qn_answer_part *p)
{
    qn_str text = p->text;
    while (text.n && text.p[text.n - 1] == '\n')
        text.p[--text.n] = 0;
    p->text = p->reasoning;
    p->reasoning = text;
    p->n_reasoning = (int)p->n_ids + 1;
    for (size_t i = 0; i < p->n_items; i++) {
        p->items[i].kind = QN_REPLY_REASONING;
        p->items[i].end = QN_MIN(p->items[i].end, text.n);
    }
}

/* The item that goes on, or a new one; a new call is the last of p->calls. */
static qn_answer_item *open_item(qn_answer_part *p, qn_reply_kind kind)
{
    qn_answer_item *last = p->n_items ? &p->items[p->n_items - 1] : NULL;
    bool is_text = kind == QN_REPLY_CONTENT || kind == QN_REPLY_REASONING;
    if (last && (kind == QN_REPLY_ARGUMENTS || kind == QN_REPLY_CALL_END ||
                 (is_text && last->kind == kind)))
        return last;
    if (!qn_grow(&p->items, &p->items_cap, p->n_items + 1, sizeof *p->items, QN_MEM_REQUEST))
        return NULL;
    size_t at = kind == QN_REPLY_REASONING ? p->reasoning.n : p->text.n;
    p->items[p->n_items] = (qn_answer_item){kind, at, at, is_text ? 0 : p->n_calls - 1};
    return &p->items[p->n_items++];
}

static bool add_call(qn_answer *a, qn_answer_part *p)
{
    if (!qn_grow(&p->calls, &p->calls_cap, p->n_calls + 1, sizeof *p->calls, QN_MEM_REQUEST))
        return false;
    qn_answer_call *c = &p->calls[p->n_calls++];
    *c = (qn_answer_call){0};
    qn_answer_make_id(c->id, a->call_prefix ? a->call_prefix : "call_");
    return true;
}

static qn_str *string_of(qn_answer_part *p, const qn_answer_item *item, qn_reply_kind kind)
{
    return kind == QN_REPLY_CONTENT     ? &p->text
           : kind == QN_REPLY_REASONING ? &p->reasoning
           : kind == QN_REPLY_CALL      ? &p->calls[item->call].name
                                        : &p->calls[item->call].arguments;
}

/* A delta is only told of what was kept. After a piece that was not, nothing is: what follows would go to another item. */
static void on_reply(void *arg, qn_reply_kind kind, const char *text, size_t n)
{
    qn_answer *a = arg;
    qn_answer_part *p = a->at;
    if (a->failed)
        return;
    if (kind == QN_REPLY_RECALL) {
        if (!a->is_stream)
            recall(p);
        return;
    }
    /* the call before its item, which names it */
    bool is_kept = kind != QN_REPLY_CALL || add_call(a, p);
    qn_answer_item *item = is_kept ? open_item(p, kind) : NULL;
    if (!item ||
        !qn_grow(&a->deltas, &a->deltas_cap, a->n_deltas + 1, sizeof *a->deltas, QN_MEM_REQUEST)) {
        a->failed = true;
        return;
    }
    qn_str *to = string_of(p, item, kind);
    size_t begin = to->n;
    qn_str_add(to, text, n);
    a->failed = to->failed;
    if (a->failed)
        return;
    a->deltas[a->n_deltas++] = (qn_answer_delta){kind, (size_t)(item - p->items), begin, n};
    if (item->kind != QN_REPLY_CALL)
        item->end = to->n;
    else if (kind == QN_REPLY_CALL_END)
        p->calls[item->call].is_whole = true;
}

/* A token is one of thoughts if it begins or ends among them: their tags are, too. */
static void take_apart(qn_answer *a, qn_answer_part *p, const qn_event *ev)
{
    bool was_thinking = qn_reply_is_thinking(p->reply);
    a->at = p;
    a->n_deltas = 0;
    qn_reply_feed(p->reply, ev->text, ev->n_text, on_reply, a);
    p->n_reasoning += was_thinking || qn_reply_is_thinking(p->reply);
    if (ev->finish != QN_FINISH_NONE)
        qn_reply_end(p->reply, on_reply, a);
    a->failed |= qn_reply_has_failed(p->reply);
}

qn_slice qn_answer_delta_text(const qn_answer_part *p, const qn_answer_delta *d)
{
    const qn_str *s = string_of((qn_answer_part *)p, &p->items[d->item], d->kind);
    return (qn_slice){s->p ? s->p + d->begin : "", d->n};
}

const qn_answer_item *qn_answer_item_at(const qn_answer_part *p, size_t i)
{
    static const qn_answer_item nothing = {.kind = QN_REPLY_CONTENT};
    return i < p->n_items ? &p->items[i] : &nothing;
}

qn_slice qn_answer_item_text(const qn_answer_part *p, const qn_answer_item *item)
{
    bool is_call = item->kind == QN_REPLY_CALL;
    const qn_str *s =
        string_of((qn_answer_part *)p, item, is_call ? QN_REPLY_ARGUMENTS : item->kind);
    if (!s->p)
        return QN_SLICE("");
    return is_call ? (qn_slice){s->p, s->n}
                   : (qn_slice){s->p + item->begin, item->end - item->begin};
}

bool qn_answer_call_is_sound(const qn_answer_call *c)
{
    json_t *v = NULL;
    bool is_sound = c->is_whole &&
                    qn_json_parse(&v, c->arguments.p, c->arguments.n, QN_LIMIT_HTTP_JSON_DEPTH,
                                  "arguments", NULL) == QN_OK &&
                    json_is_object(v);
    json_decref(v);
    return is_sound;
}

/* ---- events ---- */

qn_answer_part *qn_answer_add(qn_answer *a, size_t i, const qn_event *ev)
{
    if (ev->kind == QN_EVENT_DONE) {
        a->usage[i] = (qn_answer_usage){.n_prompt = ev->n_prompt_tokens,
                                        .n_cached = ev->n_cached_tokens,
                                        .n_output = ev->n_output_tokens,
                                        .queue_ms = ev->queue_ms,
                                        .prefill_ms = ev->prefill_ms,
                                        .decode_ms = ev->decode_ms,
                                        .miss = ev->miss};
        return NULL;
    }
    qn_answer_part *p = &a->parts[i * (size_t)a->n + (size_t)ev->index];
    if (p->reply)
        take_apart(a, p, ev);
    else
        qn_str_add(&p->text, ev->text, ev->n_text);
    if (p->text.failed ||
        !qn_grow(&p->ids, &p->ids_cap, p->n_ids + 1, sizeof *p->ids, QN_MEM_REQUEST) ||
        !qn_grow(&p->tokens, &p->tokens_cap, p->n_ids + 1, sizeof *p->tokens, QN_MEM_REQUEST))
        a->failed = true;
    else {
        float logprob = ev->n_logprobs ? ev->logprobs[0].logprob : NAN;
        p->tokens[p->n_ids] = (qn_answer_token){logprob, (uint32_t)p->text.n};
        p->ids[p->n_ids++] = ev->token_id;
    }
    p->finish = ev->finish;
    p->score = ev->score;
    p->stop = find_stop(a, ev->stop);
    return p;
}

void qn_answer_event(qn_exchange *x, void *arg, size_t i, const qn_event *ev)
{
    (void)x;
    (void)qn_answer_add(arg, i, ev);
}

void qn_answer_free(void *arg)
{
    qn_answer_fini(arg);
}

qn_status qn_answer_start(qn_exchange *x, const qn_answer_api *api, void *arg, qn_engine *e,
                          const qn_prompt *prompts, size_t n_prompts, const qn_params *params,
                          qn_err *err)
{
    qn_grammar *grammar =
        params->grammar; /* params may lie in arg, which is the I/O thread's then */
    qn_status s = qn_answer_init(arg, n_prompts, params, err);
    if (s == QN_OK)
        s = qn_x_generate(x, api, arg, e, prompts, n_prompts, params, err);
    if (s != QN_OK)
        qn_answer_free(arg);
    qn_grammar_close(grammar);
    return s;
}

qn_answer_usage qn_answer_sum(const qn_answer *a)
{
    qn_answer_usage sum = {0};
    for (size_t i = 0; i < a->n_prompts; i++) {
        sum.n_prompt += a->usage[i].n_prompt;
        sum.n_cached += a->usage[i].n_cached;
        sum.n_output += a->usage[i].n_output;
        if (sum.miss == QN_MISS_NONE)
            sum.miss = a->usage[i].miss;
        sum.queue_ms = QN_MAX(sum.queue_ms, a->usage[i].queue_ms);
        sum.prefill_ms = QN_MAX(sum.prefill_ms, a->usage[i].prefill_ms);
        sum.decode_ms = QN_MAX(sum.decode_ms, a->usage[i].decode_ms);
        for (int k = 0; k < a->n; k++)
            sum.n_reasoning += a->parts[i * (size_t)a->n + (size_t)k].n_reasoning;
    }
    return sum;
}

void qn_answer_add_ids(qn_str *out, const int32_t *ids, size_t n)
{
    qn_str_addc(out, '[');
    for (size_t i = 0; i < n; i++)
        qn_str_addf(out, "%s%d", i ? "," : "", (int)ids[i]);
    qn_str_addc(out, ']');
}

void qn_answer_add_float(qn_str *out, float v)
{
    if (!isfinite(v))
        v = v < 0 ? -9999.0f : 0; /* what OpenAI writes for a token that cannot be */
    qn_str_addf(out, "%.9g", (double)v);
}

void qn_answer_add_finish(qn_str *out, qn_finish f)
{
    qn_str_add_json_or_null(out, f == QN_FINISH_NONE     ? NULL
                                 : f == QN_FINISH_LENGTH ? "length"
                                                         : "stop");
}

void qn_answer_add_usage(qn_str *out, const qn_answer_usage *u)
{
    static const char *const misses[] = {NULL, "off", "short", "new", "part"};
    qn_str_addf(out,
                "\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
                "\"prompt_tokens_details\":{\"cached_tokens\":%d",
                u->n_prompt, u->n_output, u->n_prompt + u->n_output, u->n_cached);
    if (misses[u->miss])
        qn_str_addf(out, ",\"cache_miss\":\"%s\"", misses[u->miss]);
    qn_str_addf(out, "},\"completion_tokens_details\":{\"reasoning_tokens\":%d}}", u->n_reasoning);
}

void qn_answer_add_text(qn_str *out, const qn_str *text)
{
    qn_str_add_json(out, text->p ? text->p : "", text->n);
}

void qn_answer_make_id(char out[QN_ANSWER_ID], const char *prefix)
{
    unsigned char r[12];
    if (getrandom(r, sizeof r, 0) != sizeof r) {
        uint64_t now = qn_now_ns();
        memset(r, 0, sizeof r);
        memcpy(r, &now, sizeof now);
    }
    int n = snprintf(out, QN_ANSWER_ID, "%s", prefix);
    for (size_t i = 0; i < sizeof r && n >= 0 && n + 3 <= QN_ANSWER_ID; i++)
        n += snprintf(out + n, QN_ANSWER_ID - (size_t)n, "%02x", r[i]);
}
