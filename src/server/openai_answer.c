/* SPDX-License-Identifier: Apache-2.0
 * openai_answer.c - from an engine's events to OpenAI's answer: one object, or a stream of chunks. */
#include "server/openai.h"

#include "base/limits.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char done_line[] = "data: [DONE]\n\n";

static size_t stride(const qn_openai_answer *a)
{
    return 1 + (size_t)QN_MAX(a->n_top, 0);
}

const qn_logprob *qn_openai_entry(const qn_openai_answer *a, const qn_openai_choice *c, size_t i)
{
    return c->entries + i * stride(a);
}

qn_status qn_openai_take_prompts(qn_exchange *x, qn_openai_answer *a, size_t n, qn_err *err)
{
    size_t n_choices = n * (size_t)a->params.n;
    qn_arena *arena = qn_x_arena(x);
    a->prompts = qn_arena_alloc(arena, n * sizeof *a->prompts);
    a->choices = qn_arena_alloc(arena, n_choices * sizeof *a->choices);
    if (!a->prompts || !a->choices)
        return qn_fail_nomem(err, n_choices * sizeof *a->choices);
    QN_TRY(qn_answer_init(&a->answer, n, &a->params, err));
    memset(a->prompts, 0, n * sizeof *a->prompts);
    memset(a->choices, 0, n_choices * sizeof *a->choices);
    a->n_prompts = n;
    a->n_open = n_choices;
    return QN_OK;
}

void qn_openai_answer_free(void *answer)
{
    qn_openai_answer *a = answer;
    for (size_t i = 0; i < a->n_prompts; i++) {
        qn_release(a->prompts[i].ids);
        qn_release(a->prompts[i].text);
        qn_free(a->prompts[i].scores);
        qn_free(a->prompts[i].ranks);
    }
    for (size_t i = 0; i < a->n_prompts * (size_t)a->params.n; i++)
        qn_free(a->choices[i].entries);
    qn_answer_fini(&a->answer);
}

/* ---- writing ---- */

static void add_head(qn_str *s, const qn_openai_answer *a, const char *object)
{
    qn_str_addf(s, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%llu,\"model\":", a->id, object,
                (unsigned long long)a->created);
    qn_str_add_json(s, a->model, strlen(a->model));
    qn_str_addf(s, ",\"system_fingerprint\":\"%s\",\"choices\":[", a->fingerprint);
}

static size_t n_prompt_tokens(const qn_openai_answer *a)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n_prompts; i++)
        n += a->prompts[i].n_ids;
    return n;
}

/* Tokens so far; what the engine counted and the cache's share are known at each prompt's end. */
static void add_usage(qn_str *s, const qn_openai_answer *a)
{
    qn_answer_usage u = qn_answer_sum(&a->answer);
    int n = 0;
    for (size_t i = 0; i < a->n_prompts * (size_t)a->params.n; i++)
        n += (int)a->answer.parts[i].n_ids;
    u.n_prompt = (int)n_prompt_tokens(a);
    u.n_output = QN_MAX(u.n_output, n);
    qn_str_addc(s, ',');
    qn_answer_add_usage(s, &u);
}

static void add_timing(qn_str *s, const char *name, size_t n, double ms)
{
    double each = n ? ms / (double)n : 0, rate = ms > 0 ? 1000 * (double)n / ms : 0;
    qn_str_addf(s, ",\"%s_n\":%zu,\"%s_ms\":", name, n, name);
    qn_openai_add_number(s, ms);
    qn_str_addf(s, ",\"%s_per_token_ms\":", name);
    qn_openai_add_number(s, each);
    qn_str_addf(s, ",\"%s_per_second\":", name);
    qn_openai_add_number(s, rate);
}

/* As llama.cpp's. Of several prompts the tokens together and the longest times, since they run side by side. */
static void add_timings(qn_str *s, const qn_openai_answer *a)
{
    size_t n = n_prompt_tokens(a);
    qn_answer_usage u = qn_answer_sum(&a->answer);
    qn_str_addf(s, ",\"timings\":{\"cache_n\":%d", u.n_cached);
    add_timing(s, "prompt", n - QN_MIN((size_t)u.n_cached, n), u.prefill_ms);
    add_timing(s, "predicted", (size_t)u.n_output, u.decode_ms);
    qn_str_addc(s, '}');
}

/* vLLM's: which of the request's own stops it was; null of the model's end tokens. */
static void add_stop_reason(qn_str *s, const qn_params *p, const qn_answer_part *c)
{
    int32_t last = c->n_ids ? c->ids[c->n_ids - 1] : -1;
    qn_str_adds(s, ",\"stop_reason\":");
    for (size_t i = 0; !c->stop && i < p->n_stop_ids; i++)
        if (c->finish == QN_FINISH_STOP && p->stop_ids[i] == last) {
            qn_str_addf(s, "%d", (int)last);
            return;
        }
    qn_str_add_json_or_null(s, c->stop);
}

/* {"index": ...}; `index` is the answer's, `choice` ours. */
static void add_choice(qn_str *s, qn_openai_answer *a, size_t index, size_t choice,
                       const qn_openai_piece *piece)
{
    qn_openai_choice *c = &a->choices[choice];
    const qn_answer_part *part = &a->answer.parts[choice];
    const qn_openai_prompt *p = &a->prompts[choice / (size_t)a->params.n];
    bool is_end = piece->is_whole || piece->is_end;
    qn_str_addf(s, "{\"index\":%zu", index);
    a->shape->add_piece(s, a, c, p, piece);
    qn_str_adds(s, ",\"finish_reason\":");
    if (is_end && part->finish == QN_FINISH_STOP && part->n_calls)
        qn_str_adds(s, "\"tool_calls\"");
    else
        qn_answer_add_finish(s, is_end ? part->finish : QN_FINISH_NONE);
    if (is_end)
        add_stop_reason(s, &a->params, part);
    if (a->return_ids && (piece->is_whole || piece->is_start)) {
        qn_str_adds(s, ",\"prompt_token_ids\":");
        qn_answer_add_ids(s, p->ids, p->n_ids);
    }
    if (a->return_ids) {
        qn_str_adds(s, ",\"token_ids\":");
        qn_answer_add_ids(s, part->ids ? part->ids + c->n_ids_shown : NULL,
                          part->n_ids - c->n_ids_shown);
        c->n_ids_shown = part->n_ids;
    }
    if (a->n_prompt_top >= 0 && !a->shape->has_role)
        qn_openai_add_prompt_logprobs(s, a, p);
    qn_str_addc(s, '}');
}

/* ---- a stream ---- */

static void fail_memory(qn_exchange *x, qn_openai_answer *a)
{
    if (!a->has_failed)
        qn_x_error(x, 503, NULL, NULL, "out of memory");
    a->has_failed = true;
}

/* The chunk in a->answer.out is all but its end. */
static void end_chunk(qn_exchange *x, qn_openai_answer *a)
{
    qn_str_addc(&a->answer.out, '}');
    if (a->answer.out.failed) {
        fail_memory(x, a);
    } else if (a->whole_stream) {
        qn_str_adds(a->whole_stream, "data: ");
        qn_str_add(a->whole_stream, a->answer.out.p, a->answer.out.n);
        qn_str_adds(a->whole_stream, "\n\n");
    } else if (!a->has_failed) {
        qn_x_write_event(x, NULL, &a->answer.out);
    }
}

static void write_chunk(qn_exchange *x, qn_openai_answer *a, size_t choice,
                        const qn_openai_piece *piece, bool with_timings)
{
    qn_str_clear(&a->answer.out);
    add_head(&a->answer.out, a, a->shape->chunk_object);
    add_choice(&a->answer.out, a, choice, choice, piece);
    qn_str_addc(&a->answer.out, ']');
    if (a->continuous_usage)
        add_usage(&a->answer.out, a);
    else if (a->include_usage)
        qn_str_adds(&a->answer.out, ",\"usage\":null");
    if (with_timings)
        add_timings(&a->answer.out, a);
    end_chunk(x, a);
}

/* A choice's last chunk. */
static void write_end(qn_exchange *x, qn_openai_answer *a, size_t choice, bool with_timings)
{
    const qn_openai_choice *c = &a->choices[choice];
    qn_openai_piece piece = {.text = "",
                             .part = &a->answer.parts[choice],
                             .first = c->n_shown,
                             .end = c->n_ready,
                             .is_end = true};
    write_chunk(x, a, choice, &piece, with_timings);
}

/* Roles, and prompts that are echoed, before anything else. */
static void begin_stream(qn_exchange *x, qn_openai_answer *a)
{
    a->has_begun = true;
    for (size_t i = 0; i < a->n_prompts * (size_t)a->params.n; i++) {
        const qn_openai_prompt *p = &a->prompts[i / (size_t)a->params.n];
        if (a->shape->has_role || p->echo)
            write_chunk(x, a, i, &(qn_openai_piece){.text = "", .is_start = true}, false);
    }
}

/* Entries that are ready go with the next chunk, whatever it holds: a tag's tokens are told, but not its text. */
static void stream_piece(qn_exchange *x, qn_openai_answer *a, size_t choice, const qn_event *ev)
{
    qn_openai_choice *c = &a->choices[choice];
    const qn_answer_part *part = &a->answer.parts[choice];
    qn_openai_piece piece = {.text = ev->text,
                             .n_text = ev->n_text,
                             .part = part,
                             .first = c->n_shown,
                             .end = c->n_ready};
    size_t n = a->answer.style ? a->answer.n_deltas : ev->n_text || c->n_shown < c->n_ready;
    for (size_t i = 0; i < n; i++) {
        const qn_answer_delta *d = a->answer.style ? &a->answer.deltas[i] : NULL;
        if (d && (d->kind == QN_REPLY_CALL_END ||
                  (d->kind == QN_REPLY_REASONING && a->demand.is_silent)))
            continue;
        if (d) {
            qn_slice text = qn_answer_delta_text(part, d);
            piece.text = text.p;
            piece.n_text = text.n;
            piece.delta = d;
        }
        write_chunk(x, a, choice, &piece, false);
        piece.first = c->n_shown = c->n_ready;
    }
    if (!ev->finish)
        return;
    a->n_open--;
    if (a->n_open == 0)
        a->held = choice; /* the timings come with DONE */
    else
        write_end(x, a, choice, false);
}

static void end_stream(qn_exchange *x, qn_openai_answer *a)
{
    if (!a->has_begun)
        begin_stream(x, a);
    if (a->held != SIZE_MAX)
        write_end(x, a, a->held, !a->include_usage);
    if (a->include_usage) {
        qn_str_clear(&a->answer.out);
        add_head(&a->answer.out, a, a->shape->chunk_object);
        qn_str_addc(&a->answer.out, ']');
        add_usage(&a->answer.out, a);
        add_timings(&a->answer.out, a);
        end_chunk(x, a);
    }
    if (a->has_failed || a->whole_stream)
        return;
    qn_x_write(x, done_line, sizeof done_line - 1);
    qn_x_end(x);
}

/* ---- the engine's events ---- */

/* Keeps the log-probabilities of an event. */
static bool take_entry(qn_openai_answer *a, qn_openai_choice *c, const qn_event *ev)
{
    size_t n = stride(a);
    if (!qn_grow(&c->entries, &c->entries_cap, (c->n_entries + 1) * n, sizeof *c->entries,
                 QN_MEM_REQUEST))
        return false;
    qn_logprob *to = c->entries + c->n_entries++ * n;
    for (size_t i = 0; i < n; i++)
        to[i] = i < ev->n_logprobs ? ev->logprobs[i] : (qn_logprob){.token_id = -1, .text = ""};
    return true;
}

/* Which entries may be shown now that ev's text is. Those of tokens behind the end of the text never are. */
static void release_entries(const qn_openai_answer *a, qn_openai_choice *c, const qn_event *ev)
{
    if (!ev->n_text && !ev->finish)
        return;
    size_t end = c->n_entries, begin = c->owed;
    if (ev->finish == QN_FINISH_STOP && !ev->stop && !a->stops_shown && end > c->n_ready)
        c->n_entries = --end;
    for (size_t i = c->n_ready; i < end; i++) {
        if (ev->finish == QN_FINISH_STOP && ev->stop && !a->stops_shown && begin >= ev->n_text) {
            c->n_entries = i;
            break;
        }
        begin += qn_openai_entry(a, c, i)->n_text;
        c->n_ready = i + 1;
    }
    c->owed = begin > ev->n_text ? begin - ev->n_text : 0;
}

static bool take_token(qn_openai_answer *a, qn_openai_choice *c, const qn_event *ev)
{
    if (a->n_top >= 0) {
        if (!take_entry(a, c, ev))
            return false;
        release_entries(a, c, ev);
    }
    return !a->answer.failed;
}

static void on_event(qn_exchange *x, void *arg, size_t i, const qn_event *ev)
{
    qn_openai_answer *a = arg;
    size_t choice = i * (size_t)a->params.n + (size_t)ev->index;
    if (a->has_failed)
        return;
    if (!qn_answer_add(&a->answer, i, ev))
        return;
    if (a->is_stream && !a->has_begun)
        begin_stream(x, a);
    if (!take_token(a, &a->choices[choice], ev))
        fail_memory(x, a);
    else if (a->is_stream)
        stream_piece(x, a, choice, ev);
}

/* ---- a whole answer ---- */

typedef struct ranked {
    size_t choice;
    double mean; /* logprob of a token */
} ranked;

static int by_mean(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->mean != y->mean)
        return x->mean > y->mean ? -1 : 1;
    return x->choice < y->choice ? -1 : 1;
}

/* The n_keep best of a prompt's candidates, best first; or all of them as they are. */
static void rank(const qn_openai_answer *a, size_t prompt, ranked *out)
{
    size_t n = (size_t)a->params.n;
    for (size_t k = 0; k < n; k++) {
        const qn_answer_part *p = &a->answer.parts[prompt * n + k];
        double mean = p->n_ids ? (double)p->score / (double)p->n_ids : 0;
        out[k] = (ranked){prompt * n + k, isfinite(mean) ? mean : -HUGE_VAL};
    }
    if ((size_t)a->n_keep < n)
        qsort(out, n, sizeof *out, by_mean);
}

static void reply_whole(qn_exchange *x, qn_openai_answer *a)
{
    qn_str s = {0};
    ranked best[QN_LIMIT_CANDIDATES] = {0};
    size_t keep = (size_t)a->n_keep;
    add_head(&s, a, a->shape->object);
    for (size_t i = 0; i < a->n_prompts; i++) {
        rank(a, i, best);
        for (size_t k = 0; k < keep; k++) {
            const qn_answer_part *part = &a->answer.parts[best[k].choice];
            qn_openai_piece piece = {.text = part->text.p ? part->text.p : "",
                                     .n_text = part->text.n,
                                     .part = part,
                                     .end = a->choices[best[k].choice].n_ready,
                                     .is_whole = true};
            if (i || k)
                qn_str_addc(&s, ',');
            add_choice(&s, a, i * keep + k, best[k].choice, &piece);
        }
    }
    qn_str_addc(&s, ']');
    if (a->n_prompt_top >= 0 && a->shape->has_role)
        qn_openai_add_prompt_logprobs(&s, a, a->prompts);
    add_usage(&s, a);
    add_timings(&s, a);
    qn_str_addc(&s, '}');
    qn_x_reply_json(x, 200, &s);
}

static void on_done(qn_exchange *x, void *arg)
{
    qn_openai_answer *a = arg;
    if (a->has_failed)
        return;
    if (a->is_stream)
        end_stream(x, a);
    else
        reply_whole(x, a);
}

/* ---- running ---- */

/* Nothing is generated: only the prompt is shown, and scored. */
static bool is_scoring(const qn_openai_answer *a)
{
    return a->prompts[0].echo && a->params.max_tokens == 0;
}

static qn_status submit(qn_exchange *x, qn_openai_answer *a, qn_err *err)
{
    static const qn_answer_api whole = {on_event, on_done, NULL, NULL, qn_openai_answer_free,
                                        false,    false};
    static const qn_answer_api stream = {on_event, on_done, NULL, NULL, qn_openai_answer_free,
                                         true,     true};
    qn_prompt *prompts = qn_arena_alloc(qn_x_arena(x), a->n_prompts * sizeof *prompts);
    if (!prompts)
        return qn_fail_nomem(err, a->n_prompts * sizeof *prompts);
    for (size_t i = 0; i < a->n_prompts; i++)
        prompts[i] = (qn_prompt){.ids = a->prompts[i].ids, .n_ids = a->prompts[i].n_ids};
    a->params.n_logprobs = a->n_top;
    return qn_x_generate(x, a->is_stream ? &stream : &whole, a, a->engine, prompts, a->n_prompts,
                         &a->params, err);
}

/* On the worker, where nothing can be written piece by piece. */
static void reply_scores(qn_exchange *x, qn_openai_answer *a)
{
    qn_str s = {0};
    size_t n = a->n_prompts * (size_t)a->params.n;
    for (size_t i = 0; i < n; i++)
        a->answer.parts[i].finish = QN_FINISH_LENGTH;
    if (!a->is_stream) {
        reply_whole(x, a);
        return;
    }
    a->whole_stream = &s;
    begin_stream(x, a);
    for (size_t i = 0; i < n; i++)
        write_end(x, a, i, false);
    end_stream(x, a);
    qn_str_adds(&s, done_line);
    if (s.failed)
        fail_memory(x, a);
    else if (!a->has_failed)
        qn_x_reply(x, 200, "text/event-stream", s.p, s.n);
    qn_str_fini(&s);
}

void qn_openai_run(qn_exchange *x, qn_openai_answer *a)
{
    qn_err err = {0};
    const char *param = a->shape->prompt_param;
    qn_grammar *grammar = a->params.grammar;
    bool scores = a->n_prompt_top >= 0 || (a->n_top >= 0 && a->prompts[0].echo);
    qn_status s = scores ? qn_openai_check_scores(a, &err) : QN_OK;
    for (size_t i = 0; s == QN_OK && i < a->n_prompts; i++)
        if (a->n_prompt_top >= 0 || (a->n_top >= 0 && a->prompts[i].echo))
            s = qn_openai_score(x, a, &a->prompts[i], &err);
    if (s == QN_OK && !is_scoring(a)) {
        s = submit(x, a, &err);
        if (s == QN_OK) {
            qn_grammar_close(grammar); /* the request has it; the answer is the I/O thread's now */
            return;
        }
        param = s == QN_E_TOO_LONG ? param : NULL;
    } else if (s == QN_OK) {
        reply_scores(x, a);
    }
    if (s != QN_OK)
        qn_x_fail(x, &err, param);
    qn_openai_answer_free(a);
    qn_grammar_close(grammar);
}
