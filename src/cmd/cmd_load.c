/* SPDX-License-Identifier: Apache-2.0
 * cmd_load.c - `quern load`: requests to any OpenAI-compatible server, and how long they took. Options, the first look at the server,
 * the search for the highest load, output. */
#include <event2/event.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/load_run.h"

#define SWEEP_STEP_S     20 /* of a step, where neither requests nor duration are given */
#define SWEEP_PER_CLIENT 4  /* a closed loop is one only if its clients come back */

typedef struct load_options {
    float rate, duration, timeout, attain;
    int concurrency, requests, warmup, shared_prefix, vocab;
    const char *in, *out, *mix, *slo, *key_file, *model, *csv;
    uint64_t seed;
    bool is_chat, is_insecure, sweep, json;
} load_options;

static const qn_opt load_opts[] = {
    {"rate", 'r', QN_OPT_FLOAT, offsetof(load_options, rate), "R", 0.001, 100000,
     .help = "open loop: R requests a second arrive at random (Poisson), whatever the server does"},
    {"concurrency", 'c', QN_OPT_INT, offsetof(load_options, concurrency), "N", 1, 50000, "8",
     "closed loop: N clients, each asks again when it has its answer"},
    {"requests", 'n', QN_OPT_INT, offsetof(load_options, requests), "N", 1, 10000000,
     "100, or what comes in --duration", "requests to count, in each step of a sweep"},
    {"duration", 'd', QN_OPT_FLOAT, offsetof(load_options, duration), "S", 0.001, 1000000,
     .help = "start requests for S seconds, then wait for their answers"},
    {"warmup", 'w', QN_OPT_INT, offsetof(load_options, warmup), "N", 0, 1000000, "0",
     "first requests that do not count"},
    {"in", 0, QN_OPT_STR, offsetof(load_options, in), "N", .def = "200",
     .help = "tokens of a prompt, or a range: 100-300"},
    {"out", 0, QN_OPT_STR, offsetof(load_options, out), "N", .def = "64",
     .help = "tokens of an answer, or a range"},
    {"shared-prefix", 0, QN_OPT_INT, offsetof(load_options, shared_prefix), "N", 0,
     QN_LIMIT_CONTEXT, "0", "the first N tokens are the same in all prompts"},
    {"mix", 0, QN_OPT_STR, offsetof(load_options, mix), "CLASS:WEIGHT,...",
     .help = "classes of the requests, as p0:10,p1:30; by header x-priority and field priority"},
    {"slo", 0, QN_OPT_STR, offsetof(load_options, slo), "[CLASS:]TIME,...",
     .help = "targets, as p0:200ms,p1:first=500ms,p1:gap=50ms; without a name of the whole answer"},
    {"sweep", 0, QN_OPT_FLAG, offsetof(load_options, sweep),
     .help =
         "find the highest rate, or concurrency, that meets the targets, from the one given on"},
    {"attain", 0, QN_OPT_FLOAT, offsetof(load_options, attain), "PERCENT", 1, 100, "99",
     "--sweep: so many requests of each class have to meet its targets"},
    {"chat", 0, QN_OPT_FLAG, offsetof(load_options, is_chat),
     .help = "/v1/chat/completions with random words, not /v1/completions with random token ids"},
    {"model", 'm', QN_OPT_STR, offsetof(load_options, model), "NAME",
     .def = "the first of /v1/models", .help = "model to ask for"},
    {"vocab", 0, QN_OPT_INT, offsetof(load_options, vocab), "N", 16, QN_LIMIT_VOCAB, "10000",
     "token ids are below N"},
    {"api-key-file", 0, QN_OPT_STR, offsetof(load_options, key_file), "FILE",
     .help = "the server's file of keys, or one that begins with a key"},
    {"insecure", 'k', QN_OPT_FLAG, offsetof(load_options, is_insecure),
     .help = "https: take any certificate"},
    {"timeout", 0, QN_OPT_FLOAT, offsetof(load_options, timeout), "S", 0.001, 1000000, "600",
     "an answer that is not whole by then has failed"},
    {"seed", 0, QN_OPT_U64, offsetof(load_options, seed), "N", 0, 0, "0: another each time",
     "the same requests again"},
    {"json", 0, QN_OPT_FLAG, offsetof(load_options, json), .help = "one JSON object"},
    {"csv", 0, QN_OPT_STR, offsetof(load_options, csv), "FILE",
     .help = "also a file with a line for each request"},
};
static const qn_opt_group load_group = {"Options", load_opts, QN_COUNT(load_opts)};

const qn_opts cmd_load_opts = {
    .command = "load",
    .args = "URL",
    .summary = "Put load on a server and measure its answers",
    .about = "URL: any OpenAI-compatible server, as http://127.0.0.1:8080. Answers are streamed; "
             "all times count from the intended start of a request, so that a server that stalls "
             "cannot hide it. 429 and 503 count as refused.",
    .max_args = 1,
    .groups = {{&load_group, 0}},
};

typedef struct load_state {
    load_options o;
    load_url url;
    load_classes classes;
    load_work work;
    load_client_config client_config;
    load_run_config run;
    struct event_base *base;
    qn_str key, model, csv, best; /* best: the report of a sweep's best step */
    load_title title;
    load_results results;
    load_report report;
    qn_err err;
} load_state;

/* ---- the first look at the server ---- */

typedef struct probe {
    load_call call;
    struct event_base *base;
    load_trouble trouble;
    int status;
    qn_str text;
    qn_err err;
} probe;

static qn_status probe_body(void *arg, const char *p, size_t n, qn_err *err)
{
    probe *b = arg;
    if (b->text.n + n > QN_LIMIT_LOAD_EVENT)
        return qn_fail(err, QN_E_FORMAT, "found more than %d bytes", QN_LIMIT_LOAD_EVENT);
    qn_str_add(&b->text, p, n);
    return b->text.failed ? qn_fail_nomem(err, n) : QN_OK;
}

static void probe_end(load_call *call, load_trouble why, const load_http *http, const qn_err *err)
{
    probe *b = call->arg;
    b->trouble = why;
    b->status = http->status;
    b->err = *err;
    (void)event_base_loopexit(b->base, NULL);
}

static qn_status judge_probe(load_state *l, const probe *b, const char *url)
{
    const char *text = b->text.p ? b->text.p : "";
    char said[160];
    load_reply_message(said, sizeof(said), text, b->text.n);
    if (b->trouble == LOAD_NO_CONNECTION)
        return qn_fail(&l->err, QN_E_PEER, "%s: cannot connect: %s", url, b->err.msg);
    if (b->trouble != LOAD_NO_TROUBLE)
        return qn_fail(&l->err, QN_E_PEER, "%s: %s/models: %s", url, l->url.base, b->err.msg);
    if (b->status == 401 || b->status == 403)
        return qn_fail(&l->err, QN_E_PEER, "%s: %s (HTTP %d); %s", url, said, b->status,
                       l->o.key_file ? "wanted another --api-key-file"
                                     : "wanted an --api-key-file");
    if (b->status == 404 && l->o.model) /* some servers list no models */
        return QN_OK;
    if (b->status == 503)
        return qn_fail(&l->err, QN_E_PEER, "%s: the server is not ready (HTTP 503)%s%s", url,
                       *said ? ": " : "", said);
    if (b->status != 200)
        return qn_fail(&l->err, QN_E_PEER,
                       "%s: %s/models: found HTTP %d, wanted an OpenAI-compatible server", url,
                       l->url.base, b->status);
    if (l->o.model)
        return QN_OK;
    qn_status s = load_reply_model(&l->model, text, b->text.n, &l->err);
    return s == QN_OK ? s
                      : qn_wrap(&l->err, s, "%s: %s/models: no OpenAI-compatible server", url,
                                l->url.base);
}

/* Asks for the models, at each address of the host until one answers. */
static qn_status look(load_state *l, const char *url)
{
    probe b = {.base = l->base};
    b.call = (load_call){.method = "GET",
                         .path = "/models",
                         .timeout_ns = (uint64_t)((double)l->o.timeout * 1e9),
                         .body = probe_body,
                         .end = probe_end,
                         .arg = &b};
    do {
        qn_str_clear(&b.text);
        load_client_start(l->run.client, &b.call);
        if (event_base_dispatch(l->base) < 0)
            return qn_fail(&l->err, QN_E_INTERNAL, "the event loop failed");
    } while (b.trouble == LOAD_NO_CONNECTION && load_client_next_address(l->run.client));
    qn_status s = judge_probe(l, &b, url);
    qn_str_fini(&b.text);
    if (s == QN_OK && l->o.model)
        qn_str_adds(&l->model, l->o.model);
    if (s == QN_OK && l->model.failed)
        s = qn_fail_nomem(&l->err, 1);
    l->work.model = l->model.p;
    return s;
}

/* ---- running ---- */

static qn_status run_once(load_state *l, int step)
{
    load_results_fini(&l->results);
    QN_TRY(load_run(&l->results, &l->run, &l->err));
    if (l->o.csv)
        load_csv_rows(&l->csv, &l->results, &l->classes, step);
    QN_TRY(load_report_make(&l->report, &l->results, &l->classes, &l->err));
    return l->csv.failed ? qn_fail_nomem(&l->err, l->csv.n) : QN_OK;
}

/* All that ended has failed: there is nothing to report but why. */
static bool is_hopeless(const load_results *r)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->records[i].outcome != LOAD_FAILED)
            return false;
    return *r->failure != 0;
}

static void add_title(const load_state *l, qn_str *out)
{
    char shown[128];
    const load_work *w = &l->work;
    qn_escape(shown, sizeof(shown), l->work.model, strlen(l->work.model));
    qn_str_addf(out, "%s%s%s, model %s\n", l->title.url, l->url.base, l->title.path, shown);
    if (l->o.sweep)
        qn_str_addf(out, "sweep of the %s", w->rate > 0 ? "rate (Poisson arrivals)" : "clients");
    else if (w->rate > 0)
        qn_str_addf(out, "open loop, %g requests/s (Poisson)", w->rate);
    else
        qn_str_addf(out, "closed loop, %d clients", l->run.concurrency);
    qn_str_addf(out, "; in %u", w->in.min);
    if (w->in.max > w->in.min)
        qn_str_addf(out, "-%u", w->in.max);
    qn_str_addf(out, ", out %u", w->out.min);
    if (w->out.max > w->out.min)
        qn_str_addf(out, "-%u", w->out.max);
    if (w->n_prefix)
        qn_str_addf(out, ", shared prefix %u", w->n_prefix);
    qn_str_addf(out, "; seed %llu\n\n", (unsigned long long)l->o.seed);
}

static void print(qn_str *s)
{
    fwrite(s->p ? s->p : "", 1, s->n, stdout);
    (void)fflush(stdout);
    qn_str_clear(s);
}

static qn_status run_one(load_state *l)
{
    qn_str s = {0};
    qn_status status = run_once(l, 0);
    if (status == QN_OK && l->o.json) {
        load_report_json(&s, &l->report, &l->results, &l->title);
        qn_str_addc(&s, '\n');
    } else if (status == QN_OK) {
        add_title(l, &s);
        load_report_text(&s, &l->report, &l->results);
    }
    if (s.failed)
        status = qn_fail_nomem(&l->err, s.n);
    else
        print(&s);
    qn_str_fini(&s);
    return status;
}

/* ---- sweep ---- */

static void add_step(const load_state *l, qn_str *out, bool is_met)
{
    const load_report *p = &l->report;
    char cut[40] = "";
    if (l->results.is_cut_short)
        (void)snprintf(cut, sizeof(cut), " after %zu", l->results.n);
    qn_str_addf(out, "%10.4g %8llu %8llu %8llu %10.1f %10.1f %10.1f %9.1f %9.1f %%  %s%s\n",
                l->work.rate > 0 ? l->work.rate : l->run.concurrency,
                (unsigned long long)p->all.n[LOAD_DONE], (unsigned long long)p->all.n[LOAD_REFUSED],
                (unsigned long long)p->all.n[LOAD_FAILED], p->all.series[LOAD_FIRST].p99,
                p->all.series[LOAD_GAP].p99, p->all.series[LOAD_ALL].p99,
                p->seconds > 0 ? (double)p->n_out / p->seconds : 0, load_report_attained(p),
                is_met ? "met" : "missed", cut);
}

static void end_sweep(const load_state *l, const load_sweep *sweep, qn_str *s)
{
    const char *what = l->work.rate > 0 ? "rate" : "concurrency";
    if (l->o.json) {
        qn_str_addf(
            s, "], \"by\": \"%s\", \"attain\": %g, \"highest\": %.6g, \"interrupted\": %s}\n", what,
            (double)l->o.attain, sweep->lo, l->results.is_interrupted ? "true" : "false");
        return;
    }
    qn_str_addc(s, '\n');
    if (l->results.is_interrupted)
        qn_str_adds(s, "interrupted; so far: ");
    if (sweep->lo > 0)
        qn_str_addf(s, "highest %s that meets the targets: %.4g%s\n\n%s", what, sweep->lo,
                    l->work.rate > 0 ? " requests/s" : "", l->best.p ? l->best.p : "");
    else
        qn_str_addf(s, "no %s that was tried meets the targets\n", what);
}

static qn_status sweep_step(load_state *l, const load_sweep *sweep, qn_str *s, bool *is_met)
{
    char label[32];
    if (l->work.rate > 0) {
        l->work.rate = sweep->value;
    } else {
        uint64_t n = (uint64_t)sweep->value;
        l->title.concurrency = l->run.concurrency = (int)n;
        if (l->o.requests)
            l->run.n_requests = QN_MAX((uint64_t)l->o.requests, SWEEP_PER_CLIENT * n);
    }
    l->work.seed = l->o.seed + (uint64_t)sweep->n; /* prompts that no cache has seen */
    (void)snprintf(label, sizeof(label), "%.4g%s", sweep->value,
                   l->work.rate > 0 ? "/s" : " clients");
    l->run.label = label;
    QN_TRY(run_once(l, sweep->n));
    const load_results *r = &l->results;
    *is_met =
        !r->is_cut_short && r->n > 0 && load_report_attained(&l->report) >= (double)l->o.attain;
    if (r->is_interrupted)
        return QN_OK;
    if (*is_met) {
        qn_str_clear(&l->best);
        load_report_text(&l->best, &l->report, r);
    }
    if (l->o.json) {
        qn_str_addf(s, "%s{\"met\": %s, \"attained\": %.4g, \"run\": ", sweep->n ? ", " : "",
                    *is_met ? "true" : "false", load_report_attained(&l->report));
        load_report_json(s, &l->report, r, &l->title);
        qn_str_addc(s, '}');
    } else {
        add_step(l, s, *is_met);
    }
    return QN_OK;
}

static qn_status run_sweep(load_state *l)
{
    bool is_open = l->work.rate > 0, is_met = false, more = true;
    load_sweep sweep = {.value = is_open ? l->work.rate : l->run.concurrency, .is_whole = !is_open};
    qn_status status = QN_OK;
    qn_str s = {0};
    l->run.attain = (double)l->o.attain;
    if (l->o.json) {
        qn_str_adds(&s, "{\"steps\": [");
    } else {
        add_title(l, &s);
        qn_str_addf(&s, "%10s %8s %8s %8s %10s %10s %10s %9s %11s\n", is_open ? "rate" : "clients",
                    "done", "refused", "failed", "first p99", "gap p99", "all p99", "out tok/s",
                    "attained");
    }
    while (status == QN_OK && more) {
        if (!l->o.json)
            print(&s);
        status = sweep_step(l, &sweep, &s, &is_met);
        more = status == QN_OK && !l->results.is_interrupted && !is_hopeless(&l->results) &&
               load_sweep_tell(&sweep, is_met);
    }
    if (status == QN_OK)
        end_sweep(l, &sweep, &s);
    if (status == QN_OK && (s.failed || l->best.failed))
        status = qn_fail_nomem(&l->err, s.n);
    if (status == QN_OK)
        print(&s);
    qn_str_fini(&s);
    return status;
}

/* ---- the command ---- */

static qn_status read_options(load_state *l, const char *url, qn_err *err)
{
    const load_options *o = &l->o;
    QN_TRY(load_url_parse(&l->url, url, err));
    QN_TRY(load_mix_parse(&l->classes, o->mix, err));
    QN_TRY(load_slo_parse(&l->classes, o->slo, err));
    QN_TRY(load_range_parse(&l->work.in, "in", o->in, 1, err));
    QN_TRY(load_range_parse(&l->work.out, "out", o->out, 1, err));
    if (o->rate > 0 && o->concurrency)
        return qn_fail(err, QN_E_ARG, "found both --rate and --concurrency, wanted one");
    if ((uint32_t)o->shared_prefix > l->work.in.min)
        return qn_fail(err, QN_E_ARG, "--shared-prefix: found %d, wanted at most the %u of --in",
                       o->shared_prefix, l->work.in.min);
    if (o->sweep && !load_classes_have_target(&l->classes))
        return qn_fail(err, QN_E_ARG, "--sweep: found no targets, wanted --slo");
    l->work.n_prefix = (uint32_t)o->shared_prefix;
    l->work.n_vocab = (uint32_t)o->vocab;
    l->work.is_chat = o->is_chat || l->url.is_chat;
    l->work.rate = (double)o->rate;
    l->work.classes = &l->classes;
    l->work.seed = o->seed;
    l->run.work = &l->work;
    l->run.path = l->work.is_chat ? "/chat/completions" : "/completions";
    l->run.concurrency = o->rate > 0 ? 0 : o->concurrency ? o->concurrency : 8;
    bool is_unbounded = !o->requests && !(o->duration > 0);
    l->run.duration_s = o->sweep && is_unbounded ? SWEEP_STEP_S : (double)o->duration;
    l->run.n_requests = is_unbounded && !o->sweep ? 100 : (uint64_t)o->requests;
    l->run.n_warmup = (uint64_t)o->warmup;
    l->run.timeout_s = (double)o->timeout;
    l->run.label = "load";
    return QN_OK;
}

static struct event_base *base_new(void)
{
    struct event_config *c = event_config_new();
    struct event_base *b = NULL;
    /* else timers are late by up to a millisecond */
    if (c && event_config_set_flag(c, EVENT_BASE_FLAG_PRECISE_TIMER) == 0)
        b = event_base_new_with_config(c);
    if (c)
        event_config_free(c);
    return b;
}

/* Requests that were refused are an answer to the load; those that failed are none. */
static qn_status judge_run(load_state *l, const char *url)
{
    uint64_t n_failed = l->report.all.n[LOAD_FAILED];
    qn_str why = {0};
    if (!n_failed || l->results.is_interrupted)
        return QN_OK;
    load_report_failures(&why, &l->results);
    qn_status s = qn_fail(&l->err, QN_E_PEER, "%s: %llu of %llu requests failed: %s", url,
                          (unsigned long long)n_failed, (unsigned long long)l->report.all.n_all,
                          why.p && !why.failed ? why.p : "out of memory");
    qn_str_fini(&why);
    return s;
}

static qn_status go(load_state *l, const char *url)
{
    l->base = base_new();
    if (!l->base)
        return qn_fail(&l->err, QN_E_IO, "no event loop could be made");
    l->run.base = l->base;
    if (l->o.key_file)
        QN_TRY(cmd_read_key(&l->key, l->o.key_file, &l->err));
    l->client_config = (load_client_config){&l->url, l->key.p, l->o.is_insecure};
    QN_TRY(load_client_new(&l->run.client, l->base, &l->client_config, &l->err));
    QN_TRY(look(l, url));
    char origin[300];
    (void)snprintf(origin, sizeof(origin), "http%s://%s", l->url.is_tls ? "s" : "",
                   l->url.authority);
    l->title = (load_title){.url = origin,
                            .model = l->work.model,
                            .path = l->run.path,
                            .work = &l->work,
                            .concurrency = l->run.concurrency};
    if (l->o.csv)
        load_csv_head(&l->csv);
    QN_TRY(l->o.sweep ? run_sweep(l) : run_one(l));
    if (l->o.csv)
        QN_TRY(qn_file_write(l->o.csv, l->csv.p, l->csv.n, &l->err));
    if (is_hopeless(&l->results))
        return qn_fail(&l->err, QN_E_PEER, "%s: every request failed; the first: %s", url,
                       l->results.failure);
    return l->o.sweep ? QN_OK : judge_run(l, url);
}

int cmd_load(int argc, char **argv)
{
    qn_opts_found found;
    load_state *l = qn_calloc(1, sizeof *l, QN_MEM_MISC);
    if (!l) {
        qn_err err;
        (void)qn_fail_nomem(&err, sizeof *l);
        return cmd_fail(&err);
    }
    l->o = (load_options){.in = "200", .out = "64", .vocab = 10000, .timeout = 600, .attain = 99};
    int rc = cmd_parse(&cmd_load_opts, &l->o, argc, argv, &found);
    if (rc < 0 && found.n_args == 0)
        rc = cmd_usage(&cmd_load_opts, "found no URL, wanted one, as http://127.0.0.1:8080");
    if (rc < 0 && l->o.seed == 0)
        l->o.seed = qn_now_ns() % 1000000007u + 1;
    if (rc < 0 && read_options(l, found.args[0], &l->err) != QN_OK)
        rc = cmd_usage(&cmd_load_opts, "%s", l->err.msg);
    if (rc < 0) {
        (void)signal(SIGPIPE, SIG_IGN); /* a write to a connection that is gone fails */
        rc = go(l, found.args[0]) == QN_OK ? CMD_OK : cmd_fail(&l->err);
        if (rc == CMD_OK && l->results.is_interrupted)
            rc = CMD_INTERRUPTED;
    }
    load_client_free(l->run.client);
    if (l->base) {
        (void)event_base_loop(l->base,
                              EVLOOP_NONBLOCK); /* callbacks put off keep their bufferevents */
        event_base_free(l->base);
    }
    load_results_fini(&l->results);
    qn_str_fini(&l->key);
    qn_str_fini(&l->model);
    qn_str_fini(&l->csv);
    qn_str_fini(&l->best);
    qn_opts_found_fini(&found);
    qn_free(l);
    return rc;
}
