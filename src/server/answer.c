/* SPDX-License-Identifier: Apache-2.0
 * answer.c - gathering events. */
#include "server/answer.h"

#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

qn_status qn_answer_init(qn_answer *a, size_t n_prompts, const qn_params *params, qn_err *err)
{
    size_t n_parts;
    bool fits = qn_mul_size(n_prompts, (size_t)params->n, &n_parts);
    *a = (qn_answer){.stop = params->stop, .n_stop = params->n_stop, .n = params->n};
    if (fits)
        a->parts = qn_calloc(n_parts, sizeof *a->parts, QN_MEM_REQUEST);
    a->usage = qn_calloc(n_prompts, sizeof *a->usage, QN_MEM_REQUEST);
    if (!a->parts || !a->usage)
        return qn_fail_nomem(err, n_prompts * sizeof *a->usage);
    a->n_prompts = n_prompts;
    return QN_OK;
}

void qn_answer_fini(qn_answer *a)
{
    for (size_t i = 0; i < a->n_prompts * (size_t)a->n; i++) {
        qn_str_fini(&a->parts[i].text);
        qn_free(a->parts[i].ids);
        qn_free(a->parts[i].tokens);
    }
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

qn_answer_part *qn_answer_add(qn_answer *a, size_t i, const qn_event *ev)
{
    if (ev->kind == QN_EVENT_DONE) {
        a->usage[i] = (qn_answer_usage){ev->n_prompt_tokens,
                                        ev->n_cached_tokens,
                                        ev->n_output_tokens,
                                        ev->queue_ms,
                                        ev->prefill_ms,
                                        ev->decode_ms,
                                        ev->miss};
        return NULL;
    }
    qn_answer_part *p = &a->parts[i * (size_t)a->n + (size_t)ev->index];
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
    qn_status s = qn_answer_init(arg, n_prompts, params, err);
    if (s == QN_OK)
        s = qn_x_generate(x, api, arg, e, prompts, n_prompts, params, err);
    if (s != QN_OK)
        qn_answer_free(arg);
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
    qn_str_adds(out, "},\"completion_tokens_details\":{\"reasoning_tokens\":0}}");
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
