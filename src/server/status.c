/* SPDX-License-Identifier: Apache-2.0
 * status.c - what probes, balancers and dashboards ask. All of it is answered by the I/O thread: also while every worker is busy.
 *
 *   /, /dashboard   for people: the pages of web/; / as a text, what runs here and every path, for who takes no HTML
 *   /livez, /ping   200: the process runs; 503 sick: it wants a restart
 *   /health         200 ok; 503 starting, draining, sick
 *   /ready          200, or 503 with how far loading is; with models on demand 200 once the first was open */
#include "server/core.h"
#include "server/pages.h"

#include <string.h>

#define TEXT "text/plain; version=0.0.4; charset=utf-8"

static void reply_status(qn_exchange *x, int status, const char *word)
{
    qn_str s = {0};
    qn_str_addf(&s, "{\"status\":\"%s\"}", word);
    qn_x_reply_json(x, status, &s);
}

static void live(qn_exchange *x)
{
    bool is_sick = qn_pulse_is_sick(x->server);
    qn_pulse_ask(x->server);
    reply_status(x, is_sick ? 503 : 200, is_sick ? "sick" : "ok");
}

static void health(qn_exchange *x)
{
    double progress;
    qn_server *s = x->server;
    qn_pulse_ask(s);
    const char *word = qn_pulse_is_sick(s)                  ? "sick"
                       : s->phase != QN_SERVER_RUNNING      ? "draining"
                       : !qn_models_are_ready(s, &progress) ? "starting"
                                                            : "ok";
    reply_status(x, strcmp(word, "ok") == 0 ? 200 : 503, word);
}

static void ready(qn_exchange *x)
{
    double progress;
    qn_server *s = x->server;
    bool is_ready = qn_models_are_ready(s, &progress);
    qn_str out = {0};
    qn_pulse_ask(s);
    if (is_ready && s->phase == QN_SERVER_RUNNING && !qn_pulse_is_sick(s)) {
        reply_status(x, 200, "ready");
        return;
    }
    qn_str_addf(&out, "{\"status\":\"%s\",\"progress\":%.2f,\"models\":[",
                qn_pulse_is_sick(s)             ? "sick"
                : s->phase != QN_SERVER_RUNNING ? "draining"
                                                : "loading",
                progress);
    for (size_t i = 0; i < qn_x_n_models(x); i++) {
        qn_model_entry m;
        qn_x_model_at(x, i, &m);
        qn_str_adds(&out, i ? ",{\"id\":" : "{\"id\":");
        qn_str_add_json(&out, m.name, strlen(m.name));
        qn_str_addf(&out, ",\"progress\":%.2f}", m.state == QN_MODEL_LOADED ? 1.0 : m.progress);
    }
    qn_str_adds(&out, "]}");
    qn_x_add_header(x, "Retry-After", "1");
    qn_x_reply_json(x, 503, &out);
}

static void version(qn_exchange *x)
{
    qn_str s = {0};
    qn_str_adds(&s, "{\"version\":");
    qn_str_add_json(&s, QN_VERSION, strlen(QN_VERSION));
    qn_str_addc(&s, '}');
    qn_x_reply_json(x, 200, &s);
}

/* For routers: what runs and waits, by model. */
static void load(qn_exchange *x)
{
    qn_str s = {0};
    uint32_t n_running = 0, n_waiting = 0;
    size_t n;
    qn_model_view *models = qn_server_views(x->server, &n);
    qn_str_adds(&s, "{\"models\":[");
    for (size_t i = 0; i < n; i++) {
        const qn_model_view *m = &models[i];
        const qn_engine_stats *st = &m->stats;
        uint32_t waiting = st->n_waiting + m->n_waiting;
        qn_str_adds(&s, i ? ",{\"id\":" : "{\"id\":");
        qn_str_add_json(&s, m->name, strlen(m->name));
        qn_str_addf(&s,
                    ",\"state\":\"%s\",\"running\":%u,\"waiting\":%u,\"kv_blocks\":%llu,"
                    "\"kv_used\":%llu,\"kv_cached\":%llu}",
                    m->state, st->n_running, waiting, (unsigned long long)st->n_kv_blocks,
                    (unsigned long long)st->n_kv_used, (unsigned long long)st->n_kv_cached);
        n_running += st->n_running;
        n_waiting += waiting;
    }
    s.failed |= !models;
    qn_free(models);
    qn_str_addf(&s, "],\"server_load\":%u,\"running\":%u,\"waiting\":%u}", n_running + n_waiting,
                n_running, n_waiting);
    qn_x_reply_json(x, 200, &s);
}

static void metrics(qn_exchange *x)
{
    qn_str s = {0};
    size_t n;
    qn_model_view *models = qn_server_views(x->server, &n);
    qn_metrics_write(x->server->metrics, &s, models, n);
    s.failed |= !models;
    qn_free(models);
    if (s.failed)
        qn_x_error(x, 503, NULL, NULL, "out of memory");
    else
        qn_x_reply(x, 200, TEXT, s.p ? s.p : "", s.n);
    qn_str_fini(&s);
}

static void metrics_json(qn_exchange *x)
{
    qn_str s = {0};
    size_t n;
    qn_model_view *models = qn_server_views(x->server, &n);
    qn_metrics_snapshot(x->server->metrics, &s, models, n);
    s.failed |= !models;
    qn_free(models);
    qn_x_reply_json(x, 200, &s);
}

static void timeline(qn_exchange *x)
{
    qn_str s = {0};
    uint64_t last = 50;
    qn_slice given = qn_x_query(x, "last");
    if (given.p && !qn_parse_u64(given.p, given.n, 1000, &last)) {
        qn_x_error(x, 400, "last", NULL, "last: found '%.*s', want 0 to 1000",
                   (int)QN_MIN(given.n, (size_t)40), given.p);
        return;
    }
    qn_metrics_timeline(x->server->metrics, &s, (size_t)last, qn_x_tenant(x));
    qn_x_reply_json(x, 200, &s);
}

static void add_models(qn_str *s, qn_exchange *x)
{
    qn_str_adds(s, "Models\n");
    for (size_t i = 0; i < qn_x_n_models(x); i++) {
        qn_model_entry m;
        qn_x_model_at(x, i, &m);
        qn_str_addf(s, "  %-24s ", m.name);
        if (m.state == QN_MODEL_LOADING || !m.info)
            qn_str_addf(s, "is being loaded: %.0f %%\n", m.progress * 100);
        else
            qn_str_addf(s, "%s, contexts of %d tokens%s\n", m.info->quantization, m.info->max_ctx,
                        m.state == QN_MODEL_LOADED ? "" : "; loaded when it is asked for");
    }
}

/* A name under /web/. */
static void page(qn_exchange *x)
{
    qn_pages_reply(x, qn_x_rest(x));
}

static void dashboard(qn_exchange *x)
{
    qn_pages_reply(x, QN_SLICE("dashboard.html"));
}

static void home(qn_exchange *x)
{
    if (qn_pages_is_browser(x)) {
        qn_pages_reply(x, QN_SLICE("index.html"));
        return;
    }
    qn_str s = {0};
    const qn_server *server = x->server;
    bool has_keys = server->keys->n > 0;
    qn_slice host = x->http.host.n ? x->http.host : QN_SLICE("localhost");
    qn_str_adds(&s, "This is Quern " QN_VERSION ", an inference server for language models.\n\n");
    if (!has_keys || x->tenant)
        add_models(&s, x);
    else
        qn_str_adds(&s, "It wants a key: Authorization: Bearer KEY\n");
    qn_str_addf(
        &s,
        "\nIn a browser this is a page to chat, and /dashboard one for who runs it.\n\nTry\n  curl "
        "http%s://%.*s/v1/chat/completions %s-d '{\"messages\": [{\"role\": "
        "\"user\", \"content\": \"Hello\"}]}'\n\nThe base URL for clients of OpenAI's API is "
        "http%s://%.*s/v1\ndocs/api.md has an example of every path, docs/operate.md and "
        "quern-serve(1) how to run it.\n",
        x->conn->is_tls ? "s" : "", (int)host.n, host.p,
        has_keys ? "-H 'Authorization: Bearer KEY' " : "", x->conn->is_tls ? "s" : "", (int)host.n,
        host.p);
    for (const qn_route *const *table = server->routes; *table; table++) {
        qn_str_addc(&s, '\n');
        for (const qn_route *r = *table; r->path; r++)
            qn_str_addf(&s, "  %-6s %s\n", r->method, r->path);
    }
    qn_x_add_header(x, "Vary", "Accept");
    if (s.failed)
        qn_x_error(x, 503, NULL, NULL, "out of memory");
    else
        qn_x_reply(x, 200, "text/plain; charset=utf-8", s.p, s.n);
    qn_str_fini(&s);
}

const qn_route qn_status_routes[] = {
    {"GET", "/", home, .is_open = true, .is_quick = true},
    {"GET", "/dashboard", dashboard, .is_open = true, .is_quick = true},
    {"GET", "/web/*", page, .is_open = true, .is_quick = true},
    {"GET", "/health", health, .is_open = true, .is_quick = true},
    {"GET", "/livez", live, .is_open = true, .is_quick = true},
    {"GET", "/ping", live, .is_open = true, .is_quick = true},
    {"GET", "/ready", ready, .is_open = true, .is_quick = true},
    {"GET", "/version", version, .is_quick = true},
    {"GET", "/load", load, .is_quick = true},
    {"GET", "/metrics", metrics, .is_quick = true},
    {"GET", "/metrics.json", metrics_json, .is_quick = true},
    {"GET", "/debug/timeline", timeline, .is_quick = true},
    {.method = NULL},
};
