/* SPDX-License-Identifier: Apache-2.0
 * cmd_run.c - `quern run`: options, one answer and how it is printed. The chat is cmd_chat.c. */
#include "cmd/cmd_run.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include <quern/grammar.h>

static const qn_opt params_opts[] = {
    {"temperature", 0, QN_OPT_FLOAT, offsetof(qn_params, temperature), "T", 0, 100, "the model's",
     "0: greedy"},
    {"top-k", 0, QN_OPT_INT, offsetof(qn_params, top_k), "N", 0, 1 << 24, "the model's",
     "choose among the N likeliest tokens; 0: all"},
    {"top-p", 0, QN_OPT_FLOAT, offsetof(qn_params, top_p), "P", 0, 1, "the model's",
     "... among the likeliest with this much probability together"},
    {"min-p", 0, QN_OPT_FLOAT, offsetof(qn_params, min_p), "P", 0, 1, "0",
     "... among those with at least P times the best one's probability"},
    {"typical-p", 0, QN_OPT_FLOAT, offsetof(qn_params, typical_p), "P", 0, 1, "1",
     "... among the most typical with this much probability together"},
    {"repetition-penalty", 0, QN_OPT_FLOAT, offsetof(qn_params, repetition_penalty), "R", 0.01, 100,
     "the model's", "divide the logits of tokens already there; 1: off"},
    {"presence-penalty", 0, QN_OPT_FLOAT, offsetof(qn_params, presence_penalty), "R", -2, 2, "0",
     "subtract from the logits of tokens already answered"},
    {"frequency-penalty", 0, QN_OPT_FLOAT, offsetof(qn_params, frequency_penalty), "R", -2, 2, "0",
     "... for each time they were"},
    {"seed", 's', QN_OPT_U64, offsetof(qn_params, seed), "N", .def = "0: another each time",
     .help = "the same seed gives the same answer"},
    {"max-tokens", 'n', QN_OPT_INT, offsetof(qn_params, max_tokens), "N", 0, 1 << 24,
     "0: up to the context", "tokens to answer at most"},
    {"min-tokens", 0, QN_OPT_INT, offsetof(qn_params, min_tokens), "N", 0, 1 << 24, "0",
     "... at least"},
    {"ignore-eos", 0, QN_OPT_FLAG, offsetof(qn_params, ignore_eos),
     .help = "go on after the end token"},
    {"n", 0, QN_OPT_INT, offsetof(qn_params, n), "N", 1, QN_LIMIT_CANDIDATES, "1",
     "answers to give"},
    {"beam", 0, QN_OPT_INT, offsetof(qn_params, beam_width), "N", 0, QN_LIMIT_CANDIDATES,
     "0: sample", "beam search of this width"},
    {"length-penalty", 0, QN_OPT_FLOAT, offsetof(qn_params, length_penalty), "R", -10, 10, "1",
     "beam search: the exponent of the length"},
    {"logprobs", 0, QN_OPT_INT, offsetof(qn_params, n_logprobs), "N", -1, QN_LIMIT_TOP_LOGPROBS,
     "-1: none", "show each token's log-probability and the N likeliest"},
};
static const qn_opt_group params_group = {"Answering", params_opts, QN_COUNT(params_opts)};

static const qn_opt run_opts[] = {
    {"stop", 0, QN_OPT_LIST, offsetof(run_options, stop), "TEXT",
     .help = "end before this text; may be repeated"},
    {"stop-id", 0, QN_OPT_LIST, offsetof(run_options, stop_ids), "ID",
     .help = "end at this token; may be repeated"},
    {"logit-bias", 0, QN_OPT_LIST, offsetof(run_options, logit_bias), "ID=BIAS",
     .help = "add to a token's logit; may be repeated"},
    {"system", 0, QN_OPT_STR, offsetof(run_options, system), "TEXT", .help = "the system message"},
    {"chat-template", 0, QN_OPT_STR, offsetof(run_options, cfg.chat_template), "FILE",
     .help = "a Jinja file instead of the model's template"},
    {"var", 0, QN_OPT_LIST, offsetof(run_options, vars), "NAME=VALUE",
     .help = "a variable of the template, such as enable_thinking=false; may be repeated"},
    {"raw", 0, QN_OPT_FLAG, offsetof(run_options, raw),
     .help = "no template: continue the text as it is"},
    {"special", 0, QN_OPT_FLAG, offsetof(run_options, special),
     .help = "--raw: special tokens in the text are special tokens"},
    {"speculation", 0, QN_OPT_ENUM, offsetof(run_options, cfg.speculation), "auto|off|ngram|draft",
     .def = "auto",
     .help = "guess tokens ahead, same answers: as far as it gains, not at all, or always"},
    {"draft-model", 0, QN_OPT_STR, offsetof(run_options, cfg.draft_model), "MODEL",
     .help = "a small model with the same vocabulary that guesses"},
    {"max-draft", 0, QN_OPT_INT, offsetof(run_options, cfg.max_draft), "N", 0, 63, "0: 16",
     "tokens guessed ahead in one step"},
    {"json", 0, QN_OPT_FLAG, offsetof(run_options, json),
     .help = "a line of JSON for each token and one for the end"},
    {"quiet", 'q', QN_OPT_FLAG, offsetof(run_options, quiet),
     .help = "no line of speeds after the answer"},
};
static const qn_opt_group run_group = {"Prompt and output", run_opts, QN_COUNT(run_opts)};

static const qn_opt form_opts[] = {
    {"json-object", 0, QN_OPT_FLAG, offsetof(run_options, json_object), .help = "any JSON object"},
    {"json-schema", 0, QN_OPT_STR, offsetof(run_options, schema), "FILE|TEXT",
     .help = "JSON of a schema; text begins with '{'"},
    {"regex", 0, QN_OPT_STR, offsetof(run_options, regex), "RE",
     .help = "text that a regular expression matches whole"},
    {"choice", 0, QN_OPT_LIST, offsetof(run_options, choices), "TEXT",
     .help = "this text, or another one so given; may be repeated"},
    {"grammar", 0, QN_OPT_STR, offsetof(run_options, grammar), "FILE",
     .help = "text of a GBNF grammar"},
};
static const qn_opt_group form_group = {"Form of the answer (one of these)", form_opts,
                                        QN_COUNT(form_opts)};

#define PARAMS_GROUP 1 /* its index below */

const qn_opts cmd_run_opts = {
    .command = "run",
    .args = "[PROMPT]",
    .summary = "Chat with a model in the terminal, or answer once",
    .about = "With PROMPT, or where standard input is no terminal, one answer is written to "
             "standard output.\n"
             "In the chat: /help shows its commands, Ctrl-C stops an answer, Ctrl-D leaves.",
    .max_args = 1,
    .groups = {{&cmd_config_group, offsetof(run_options, cfg)},
               {&params_group, offsetof(run_options, params)},
               {&form_group, 0},
               {&run_group, 0}},
};

/* ---- Ctrl-C ---- */

static _Atomic(qn_request *) active; /* what Ctrl-C cancels */
static atomic_int n_in_handler; /* the handler may run on another thread while the request ends */
static atomic_bool is_interrupted;

static int wake[2] = {-1, -1};

void run_wake(void)
{
    int e = errno;
    ssize_t n = write(wake[1], "", 1); /* a full pipe wakes as well */
    (void)n;
    errno = e;
}

int run_wake_fd(void)
{
    return wake[0];
}

static void on_interrupt(int sig)
{
    (void)sig;
    atomic_fetch_add(&n_in_handler, 1);
    atomic_store(&is_interrupted, true);
    qn_request *r = atomic_load(&active);
    if (r)
        qn_request_cancel(r);
    run_wake();
    atomic_fetch_sub(&n_in_handler, 1);
}

qn_status run_catch_interrupt(qn_err *err)
{
    struct sigaction a = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};

    if (pipe2(wake, O_NONBLOCK | O_CLOEXEC) != 0)
        return qn_fail(err, QN_E_IO, "cannot make a pipe: %s", strerror(errno));
    (void)sigemptyset(&a.sa_mask);
    (void)sigaction(SIGINT, &a, NULL);
    return QN_OK;
}

bool run_take_interrupt(void)
{
    char buf[64];

    while (read(wake[0], buf, sizeof(buf)) > 0)
        ;
    return atomic_exchange(&is_interrupted, false);
}

static void end_request(qn_request *r)
{
    atomic_store(&active, NULL);
    while (atomic_load(&n_in_handler))
        sched_yield();
    qn_request_free(r);
}

/* ---- printing ---- */

void run_answer_fini(run_answer *a)
{
    for (size_t i = 0; i < QN_COUNT(a->text); i++)
        qn_str_fini(&a->text[i]);
    *a = (run_answer){0};
}

const char *run_finish_name(qn_finish f)
{
    static const char *const names[] = {"none", "stop", "length", "cancelled", "error"};
    return names[f];
}

static void add_number(qn_str *out, double v)
{
    if (isfinite(v))
        qn_str_addf(out, "%.9g", v);
    else
        qn_str_adds(out, "null");
}

static void add_logprobs_json(qn_str *out, const qn_event *ev)
{
    qn_str_adds(out, ", \"logprobs\": [");
    for (size_t i = 0; i < ev->n_logprobs; i++) {
        const qn_logprob *l = &ev->logprobs[i];
        qn_str_addf(out, "%s{\"id\": %d, \"text\": ", i ? ", " : "", (int)l->token_id);
        qn_str_add_json(out, l->text, l->n_text);
        qn_str_adds(out, ", \"logprob\": ");
        add_number(out, l->logprob);
        qn_str_addc(out, '}');
    }
    qn_str_addc(out, ']');
}

static void print_token_json(const qn_event *ev)
{
    qn_str out = {0};

    qn_str_addf(&out, "{\"event\": \"token\", \"index\": %d, \"id\": %d, \"text\": ", ev->index,
                (int)ev->token_id);
    qn_str_add_json(&out, ev->text ? ev->text : "", ev->n_text);
    if (ev->n_logprobs)
        add_logprobs_json(&out, ev);
    if (ev->finish != QN_FINISH_NONE)
        qn_str_addf(&out, ", \"finish\": \"%s\"", run_finish_name(ev->finish));
    qn_str_adds(&out, "}\n");
    fwrite(out.p, 1, out.n, stdout);
    fflush(stdout);
    qn_str_fini(&out);
}

static void print_done_json(const run_answer *a)
{
    qn_str out = {0};

    qn_str_addf(&out, "{\"event\": \"done\", \"prompt_tokens\": %d, \"output_tokens\": %d",
                a->done.n_prompt_tokens, a->done.n_output_tokens);
    qn_str_addf(&out, ", \"draft_tokens\": %d, \"accepted_tokens\": %d", a->done.n_draft_tokens,
                a->done.n_accepted_tokens);
    qn_str_addf(
        &out,
        ", \"queue_ms\": %.3f, \"first_token_ms\": %.3f, \"prefill_ms\": %.3f, \"decode_ms\": %.3f",
        a->done.queue_ms, a->first_ms, a->done.prefill_ms, a->done.decode_ms);
    if (a->has_experts)
        cmd_add_experts_json(&out, &a->experts);
    qn_str_adds(&out, ", \"answers\": [");
    for (int i = 0; i < a->n; i++) {
        qn_str_adds(&out, i ? ", {\"text\": " : "{\"text\": ");
        qn_str_add_json(&out, a->text[i].p ? a->text[i].p : "", a->text[i].n);
        qn_str_addf(&out, ", \"finish\": \"%s\", \"score\": ", run_finish_name(a->finish[i]));
        add_number(&out, a->score[i]);
        qn_str_addc(&out, '}');
    }
    qn_str_adds(&out, "]}\n");
    fwrite(out.p, 1, out.n, stdout);
    qn_str_fini(&out);
}

static void print_logprobs(const qn_event *ev)
{
    char shown[80];

    for (size_t i = 0; i < ev->n_logprobs; i++) {
        const qn_logprob *l = &ev->logprobs[i];
        qn_escape(shown, sizeof(shown), l->text, l->n_text);
        fprintf(stderr, i == 0 ? "%9.4f %7d '%s'" : "  |%9.4f %7d '%s'", (double)l->logprob,
                (int)l->token_id, shown);
    }
    fputc('\n', stderr);
}

static double per_second(double n, double ms)
{
    return n > 0 && ms > 0 ? n * 1000 / ms : 0;
}

static void print_speeds(const run_answer *a)
{
    const qn_event *d = &a->done;
    bool is_terminal = isatty(STDERR_FILENO);
    double decode = per_second(d->n_output_tokens - a->n, d->decode_ms);

    fputs(is_terminal ? "\033[2m" : "", stderr);
    if (a->finish[0] == QN_FINISH_CANCELLED)
        fprintf(stderr, "stopped after %d tokens, first after %.0f ms, decode %.1f tok/s",
                d->n_output_tokens, a->first_ms, decode);
    else
        fprintf(stderr,
                "%d + %d tokens, first after %.0f ms, prefill %.1f tok/s, decode %.1f tok/s",
                d->n_prompt_tokens, d->n_output_tokens, a->first_ms,
                per_second(d->n_prompt_tokens, d->prefill_ms), decode);
    if (a->has_experts)
        fprintf(stderr, ", %.1f %% of the experts in memory, %.2f MB read a token",
                a->experts.n_uses ? 100.0 * (double)a->experts.n_hits / (double)a->experts.n_uses
                                  : 0,
                1e-6 * (double)a->experts.read_bytes /
                    QN_MAX(d->n_prompt_tokens + d->n_output_tokens, 1));
    if (d->n_draft_tokens)
        fprintf(stderr, ", %d of %d drafts accepted", d->n_accepted_tokens, d->n_draft_tokens);
    fputs(is_terminal ? "\033[0m\n" : "\n", stderr);
}

static void print_candidates(const run_answer *a)
{
    for (int i = 0; i < a->n; i++) {
        printf("--- %d of %d, %s, %.4f ---\n", i + 1, a->n, run_finish_name(a->finish[i]),
               (double)a->score[i]);
        cmd_print_text(a->text[i].p ? a->text[i].p : "", a->text[i].n);
        putchar('\n');
    }
}

static void end_answer(const run_options *o, const run_answer *a, bool is_streamed)
{
    if (o->json)
        print_done_json(a);
    else if (!is_streamed)
        print_candidates(a);
    else if (a->text[0].n == 0 || a->text[0].p[a->text[0].n - 1] != '\n')
        putchar('\n');
    fflush(stdout);
    if (!o->quiet && !o->json)
        print_speeds(a);
}

/* ---- one answer ---- */

static qn_status take_token(const run_options *o, const qn_event *ev, bool is_streamed,
                            run_answer *a, qn_err *err)
{
    qn_str *text = &a->text[ev->index];

    qn_str_add(text, ev->text ? ev->text : "", ev->n_text);
    if (text->failed)
        return qn_fail_nomem(err, text->n);
    if (ev->finish != QN_FINISH_NONE) {
        a->finish[ev->index] = ev->finish;
        a->score[ev->index] = ev->score;
    }
    if (o->json)
        print_token_json(ev);
    else {
        if (is_streamed && ev->n_text)
            cmd_print_text(ev->text, ev->n_text);
        if (ev->n_logprobs && is_streamed)
            print_logprobs(ev);
    }
    return QN_OK;
}

/* A cancelled request has no last event: what was seen of it stands in for that. */
static void note_cancelled(run_answer *a, int n_tokens, double elapsed_ms)
{
    for (int i = 0; i < a->n; i++)
        if (a->finish[i] == QN_FINISH_NONE)
            a->finish[i] = QN_FINISH_CANCELLED;
    a->done = (qn_event){.kind = QN_EVENT_DONE,
                         .n_output_tokens = n_tokens,
                         .prefill_ms = a->first_ms,
                         .decode_ms = elapsed_ms - a->first_ms};
}

qn_status run_ask(const run_options *o, qn_engine *e, const qn_params *params,
                  const qn_prompt *prompt, run_answer *out, qn_err *err)
{
    bool is_streamed = params->n == 1 && params->beam_width == 0, is_done = false;
    uint64_t start = qn_now_ns();
    qn_request *r = NULL;
    qn_event ev;
    qn_expert_info before;
    int n_tokens = 0;

    (void)qn_engine_get_experts(e, &before);
    *out = (run_answer){.n = params->n};
    (void)run_take_interrupt();
    QN_TRY(qn_request_submit(&r, e, prompt, params, err));
    atomic_store(&active, r);
    if (atomic_load(&is_interrupted))
        qn_request_cancel(r);
    qn_status s = QN_OK;
    while (s == QN_OK && !is_done) {
        s = qn_request_next(r, &ev, err);
        if (s != QN_OK)
            break;
        is_done = ev.kind == QN_EVENT_DONE;
        if (is_done)
            out->done = ev;
        else
            s = take_token(o, &ev, is_streamed, out, err);
        if (n_tokens++ == 0)
            out->first_ms = (double)(qn_now_ns() - start) / 1e6;
    }
    end_request(r);
    if (s == QN_E_CANCELLED) {
        note_cancelled(out, n_tokens, (double)(qn_now_ns() - start) / 1e6);
        s = QN_OK;
    }
    out->has_experts = qn_engine_get_experts(e, &out->experts);
    out->experts.n_uses -= before.n_uses;
    out->experts.n_hits -= before.n_hits;
    out->experts.read_bytes -= before.read_bytes;
    if (s == QN_OK)
        end_answer(o, out, is_streamed);
    else if (is_streamed && out->text[0].n && !o->json)
        putchar('\n');
    return s;
}

void run_add_chat_json(qn_str *out, const run_options *o, const char *system, const run_turn *turns,
                       size_t n)
{
    qn_str_adds(out, "{\"messages\": [");
    if (system) {
        qn_str_adds(out, "{\"role\": \"system\", \"content\": ");
        qn_str_add_json(out, system, strlen(system));
        qn_str_adds(out, n ? "}, " : "}");
    }
    for (size_t i = 0; i < n; i++) {
        qn_str_addf(out, "%s{\"role\": \"%s\", \"content\": ", i ? ", " : "", turns[i].role);
        qn_str_add_json(out, turns[i].content, turns[i].n);
        qn_str_addc(out, '}');
    }
    qn_str_addc(out, ']');
    for (size_t i = 0; i < o->vars.n; i++) {
        const char *name = o->vars.items[i], *value = strchr(name, '=') + 1;
        json_t *v = NULL;
        qn_str_adds(out, ", ");
        qn_str_add_json(out, name, (size_t)(value - 1 - name));
        qn_str_adds(out, ": ");
        if (qn_json_parse(&v, value, strlen(value), 0, "--var", NULL) == QN_OK)
            qn_str_adds(out, value);
        else
            qn_str_add_json(out, value, strlen(value));
        json_decref(v);
    }
    qn_str_addc(out, '}');
}

static int answer_once(const run_options *o, qn_engine *e, const qn_params *params, qn_str *text,
                       bool raw)
{
    qn_str json = {0};
    qn_prompt prompt = {0};
    run_answer a = {0};
    qn_err err;

    if (raw)
        prompt = (qn_prompt){.text = text->p, .parse_special = o->special};
    else {
        run_turn turn = {"user", text->p, text->n};
        run_add_chat_json(&json, o, o->system, &turn, 1);
        prompt.chat_json = json.p;
    }
    qn_status s = json.failed ? qn_fail_nomem(&err, json.n) : run_catch_interrupt(&err);
    if (s == QN_OK)
        s = run_ask(o, e, params, &prompt, &a, &err);
    int rc = s != QN_OK                           ? cmd_fail(&err)
             : a.finish[0] == QN_FINISH_CANCELLED ? CMD_INTERRUPTED
             : a.finish[0] == QN_FINISH_ERROR     ? CMD_FAILED
                                                  : CMD_OK;
    run_answer_fini(&a);
    qn_str_fini(&json);
    return rc;
}

/* ---- options that need a second look ---- */

int run_check_vars(const qn_opts *command, const qn_opt_list *vars)
{
    for (size_t i = 0; i < vars->n; i++) {
        const char *s = vars->items[i];
        if (!strchr(s, '=') || *s == '=' || qn_starts_with(s, "messages="))
            return cmd_usage(command, "--var: found '%s', wanted NAME=VALUE (other than messages)",
                             s);
    }
    return -1;
}

typedef struct run_lists {
    qn_logit_bias *bias;
    int32_t *stop_ids;
} run_lists;

/* Checks the lists and points o->params at them. -1: good; else the exit status. */
static int check_lists(run_options *o, run_lists *l)
{
    qn_params *p = &o->params;
    int64_t id;
    double bias;

    l->bias = qn_calloc(o->logit_bias.n + 1, sizeof(*l->bias), QN_MEM_MISC);
    l->stop_ids = qn_calloc(o->stop_ids.n + 1, sizeof(*l->stop_ids), QN_MEM_MISC);
    if (!l->bias || !l->stop_ids) {
        qn_err err;
        (void)qn_fail_nomem(&err, o->logit_bias.n * sizeof(*l->bias));
        return cmd_fail(&err);
    }
    for (size_t i = 0; i < o->logit_bias.n; i++) {
        const char *s = o->logit_bias.items[i];
        size_t n = strcspn(s, "=");
        if (!s[n] || !qn_parse_i64(s, n, &id) || id < 0 || id > INT32_MAX ||
            !qn_parse_f64(s + n + 1, strlen(s + n + 1), &bias))
            return cmd_usage(&cmd_run_opts, "--logit-bias: found '%s', wanted ID=BIAS", s);
        l->bias[i] = (qn_logit_bias){(int32_t)id, (float)bias};
    }
    for (size_t i = 0; i < o->stop_ids.n; i++) {
        const char *s = o->stop_ids.items[i];
        if (!qn_parse_i64(s, strlen(s), &id) || id < 0 || id > INT32_MAX)
            return cmd_usage(&cmd_run_opts, "--stop-id: found '%s', wanted a token id", s);
        l->stop_ids[i] = (int32_t)id;
    }
    int rc = run_check_vars(&cmd_run_opts, &o->vars);
    if (rc >= 0)
        return rc;
    int n_forms = o->json_object + (o->schema != NULL) + (o->regex != NULL) + (o->grammar != NULL) +
                  (o->choices.n > 0);
    if (n_forms > 1)
        return cmd_usage(&cmd_run_opts,
                         "found %d of --json-object, --json-schema, --regex, --choice and "
                         "--grammar, wanted one",
                         n_forms);
    if (n_forms && p->beam_width)
        return cmd_usage(&cmd_run_opts, "--beam: takes no form of the answer");
    if (p->beam_width && p->n > p->beam_width)
        return cmd_usage(&cmd_run_opts, "--n: found %d, wanted at most the %d of --beam", p->n,
                         p->beam_width);
    p->logit_bias = l->bias;
    p->n_logit_bias = o->logit_bias.n;
    p->stop = o->stop.items;
    p->n_stop = o->stop.n;
    p->stop_ids = l->stop_ids;
    p->n_stop_ids = o->stop_ids.n;
    return -1;
}

/* What the model itself asks for, under what was given. */
static qn_params merge_params(const run_options *o, qn_engine *e, uint64_t given)
{
    qn_params p = o->params;

    qn_engine_get_params(e, &p);
    qn_opts_copy(&params_group, given, &o->params, &p);
    p.logit_bias = o->params.logit_bias;
    p.n_logit_bias = o->params.n_logit_bias;
    p.stop = o->params.stop;
    p.n_stop = o->params.n_stop;
    p.stop_ids = o->params.stop_ids;
    p.n_stop_ids = o->params.n_stop_ids;
    return p;
}

/* The form's text, as the engine takes it. */
static qn_status read_form(const run_options *o, qn_grammar_kind *kind, qn_str *text, qn_err *err)
{
    *kind = QN_GRAMMAR_JSON;
    if (o->schema) {
        *kind = QN_GRAMMAR_SCHEMA;
        if (o->schema[strspn(o->schema, " \t\r\n")] == '{')
            qn_str_adds(text, o->schema);
        else
            QN_TRY(cmd_read(text, o->schema, err));
    } else if (o->grammar) {
        *kind = QN_GRAMMAR_GBNF;
        QN_TRY(cmd_read(text, o->grammar, err));
    } else if (o->regex) {
        *kind = QN_GRAMMAR_REGEX;
        qn_str_adds(text, o->regex);
    } else if (o->choices.n) {
        *kind = QN_GRAMMAR_CHOICE;
        for (size_t i = 0; i < o->choices.n; i++) {
            qn_str_adds(text, i ? ", " : "[");
            qn_str_add_json(text, o->choices.items[i], strlen(o->choices.items[i]));
        }
        qn_str_addc(text, ']');
    }
    return text->failed ? qn_fail_nomem(err, text->n) : QN_OK;
}

/* *out NULL: none is asked for. */
static qn_status open_form(const run_options *o, qn_engine *e, qn_grammar **out, qn_err *err)
{
    qn_grammar_kind kind;
    qn_str text = {0};
    *out = NULL;
    if (!o->json_object && !o->schema && !o->regex && !o->grammar && !o->choices.n)
        return QN_OK;
    qn_status s = read_form(o, &kind, &text, err);
    if (s == QN_OK)
        s = qn_grammar_open(out, e, kind, text.p ? text.p : "", text.n, err);
    qn_str_fini(&text);
    return s;
}

/* The prompt of a single answer: the operand, else standard input. */
static qn_status read_prompt(qn_str *out, const qn_opts_found *found, qn_err *err)
{
    if (found->n_args)
        qn_str_adds(out, found->args[0]);
    else
        QN_TRY(cmd_read(out, NULL, err));
    if (out->failed)
        return qn_fail_nomem(err, out->n);
    if (out->n == 0)
        return qn_fail(err, QN_E_ARG, "the prompt is empty");
    if (strlen(out->p) != out->n)
        return qn_fail(err, QN_E_ARG, "the prompt: found a zero byte at %zu, wanted text",
                       strlen(out->p));
    return QN_OK;
}

static int run(run_options *o, const qn_opts_found *found)
{
    bool is_chat = !found->n_args && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !o->json;
    cmd_progress progress = {0};
    qn_str path = {0}, draft = {0}, text = {0};
    qn_engine *e = NULL;
    qn_grammar *grammar = NULL;
    qn_engine_info info;
    qn_err err;
    int rc;

    qn_status s = is_chat ? QN_OK : read_prompt(&text, found, &err);
    if (s == QN_OK)
        s = cmd_model_find(&path, o->cfg.model, &err);
    if (s == QN_OK) {
        o->cfg.model = path.p;
        if (o->cfg.draft_model)
            s = cmd_model_find(&draft, o->cfg.draft_model, &err);
    }
    if (s == QN_OK) {
        if (o->cfg.draft_model)
            o->cfg.draft_model = draft.p;
        o->cfg.progress = cmd_progress_load;
        o->cfg.progress_arg = &progress;
        cmd_tuned(&o->cfg);
        s = qn_engine_open(&e, &o->cfg, &err);
        cmd_progress_end(&progress);
    }
    if (s == QN_OK)
        s = open_form(o, e, &grammar, &err);
    if (s != QN_OK)
        rc = cmd_fail(&err);
    else {
        qn_params params = merge_params(o, e, found->given[PARAMS_GROUP]);
        params.grammar = grammar;
        qn_engine_get_info(e, &info);
        bool raw = o->raw || !info.has_chat_template;
        if (raw && !o->raw && !o->quiet)
            fprintf(stderr,
                    "quern: %s has no chat template: continuing the text as it is (--raw)\n",
                    o->cfg.model);
        rc = is_chat ? run_chat(o, e, &params, raw) : answer_once(o, e, &params, &text, raw);
    }
    qn_grammar_close(grammar);
    qn_engine_free(e);
    qn_str_fini(&path);
    qn_str_fini(&draft);
    qn_str_fini(&text);
    return rc;
}

int cmd_run(int argc, char **argv)
{
    run_options o = {.cfg = qn_config_default(), .params = qn_params_default()};
    run_lists lists = {0};
    qn_opts_found found;
    int rc = cmd_parse(&cmd_run_opts, &o, argc, argv, &found);

    if (rc < 0 && !o.cfg.model)
        rc = cmd_usage(&cmd_run_opts, "--model: found none, wanted a model");
    if (rc < 0)
        rc = check_lists(&o, &lists);
    if (rc < 0)
        rc = run(&o, &found);
    qn_free(lists.bias);
    qn_free(lists.stop_ids);
    qn_opt_list_fini(&o.stop);
    qn_opt_list_fini(&o.stop_ids);
    qn_opt_list_fini(&o.logit_bias);
    qn_opt_list_fini(&o.vars);
    qn_opt_list_fini(&o.choices);
    qn_opts_found_fini(&found);
    return rc;
}
