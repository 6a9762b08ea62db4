/* SPDX-License-Identifier: Apache-2.0
 * cmd_serve.c - `quern serve`: models over HTTP until a signal ends it.
 *
 * Standard output: where it listens, each model's memory, that it is ready, and at the end what was answered.
 * Standard error: one line for each answer, and trouble. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/confine.h"
#include "cmd/manager.h"
#include "format/weights.h"
#include "server/spec.h"

typedef struct serve_options {
    qn_config config;
    qn_opt_list models, names, cors, hosts, keys;
    const char *host, *key_file, *tls_cert, *tls_key;
    const char *classes, *default_class, *batch, *buckets, *batch_timeout, *keep, *socket_mode;
    qn_sandbox_mode sandbox;
    int port, workers, drain, max_connections, max_per_address;
    bool any_model, no_auth, quiet;
} serve_options;

static const qn_opt serve_opts[] = {
    {"model", 'm', QN_OPT_LIST, offsetof(serve_options, models), "MODEL",
     .help =
         "a model as quern run takes it, or NAME=MODEL; may be repeated. With --mem several are "
         "loaded when requests name them, and the least recently used unloaded"},
    {"keep-alive", 0, QN_OPT_STR, offsetof(serve_options, keep), "TIME",
     .def = "0: until others need its room",
     .help = "of several models under --mem one that nobody asked for so long is unloaded"},
    {"served-model-name", 0, QN_OPT_LIST, offsetof(serve_options, names), "NAME",
     .help = "what requests call the first model; may be repeated"},
    {"any-model", 0, QN_OPT_FLAG, offsetof(serve_options, any_model),
     .help = "a name that no model has means the first one"},
    {"host", 0, QN_OPT_STR, offsetof(serve_options, host), "ADDRESS", .def = "127.0.0.1",
     .help = "where to listen; unix:PATH for a socket"},
    {"socket-mode", 0, QN_OPT_STR, offsetof(serve_options, socket_mode), "MODE",
     .help = "who may connect to unix:PATH, as chmod has it: 660"},
    {"port", 'p', QN_OPT_INT, offsetof(serve_options, port), "N", 0, 65535, "8080",
     "0: any that is free"},
    {"api-key-file", 0, QN_OPT_STR, offsetof(serve_options, key_file), "FILE",
     .help = "keys, one a line: KEY [TENANT [CLASS]]"},
    {"api-key", 0, QN_OPT_LIST, offsetof(serve_options, keys), "KEY",
     .help = "a key; others on this machine can see it in the list of processes"},
    {"no-auth", 0, QN_OPT_FLAG, offsetof(serve_options, no_auth),
     .help = "listen beyond this machine without keys"},
    {"cors", 0, QN_OPT_LIST, offsetof(serve_options, cors), "ORIGIN",
     .help = "web pages of this origin may ask; *: all"},
    {"allow-host", 0, QN_OPT_LIST, offsetof(serve_options, hosts), "NAME",
     .help = "a name of this machine that requests on the loopback may use"},
    {"tls-cert", 0, QN_OPT_STR, offsetof(serve_options, tls_cert), "FILE",
     .help = "certificate chain (PEM); with --tls-key: HTTPS"},
    {"tls-key", 0, QN_OPT_STR, offsetof(serve_options, tls_key), "FILE", .help = "its key (PEM)"},
    {"workers", 0, QN_OPT_INT, offsetof(serve_options, workers), "N", 0, 64, "0: 2",
     "threads that read requests and tokenise"},
    {"max-connections", 0, QN_OPT_INT, offsetof(serve_options, max_connections), "N", 0, 65536,
     "0: 4096", "connections at once"},
    {"max-per-address", 0, QN_OPT_INT, offsetof(serve_options, max_per_address), "N", 0, 65536,
     "0: 256", "of them from one address"},
    {"drain", 0, QN_OPT_INT, offsetof(serve_options, drain), "SECONDS", 0, 86400, "30",
     "time that running answers have after SIGTERM; 0: none"},
    {"sandbox", 0, QN_OPT_ENUM, offsetof(serve_options, sandbox), "auto|on|off", .def = "auto",
     .help =
         "give up the rights to write files, run programs and open sockets; auto: as far as the "
         "system can, on: or fail"},
    {"quiet", 'q', QN_OPT_FLAG, offsetof(serve_options, quiet), .help = "no line for each answer"},
};
static const qn_opt_group serve_group = {"Options", serve_opts, QN_COUNT(serve_opts)};

#define CONFIG(field) (offsetof(serve_options, config) + offsetof(qn_config, field))
static const qn_opt sched_opts[] = {
    {"classes", 0, QN_OPT_STR, offsetof(serve_options, classes), "LIST",
     .help = "NAME:TARGET:SHARE of each class, most urgent first: p0:200ms:40%,p1:-:60%; behind it "
             ":gap=50ms for the longest wait between tokens while prompts are read (twice what "
             "they take without; - for no limit), :refuse for no answer rather than a late one"},
    {"default-class", 0, QN_OPT_STR, offsetof(serve_options, default_class), "NAME",
     .def = "the last", .help = "of requests that name none"},
    {"fifo", 0, QN_OPT_FLAG, CONFIG(fifo), .help = "in order of arrival, whatever the class"},
    {"batch", 0, QN_OPT_STR, offsetof(serve_options, batch), "N|adaptive:MIN-MAX",
     .help = "sequences computed together; adaptive: as many as gain throughput"},
    {"max-batch", 0, QN_OPT_INT, CONFIG(max_seqs), "N", 0, 1024, "0: 16", "the same as --max-seqs"},
    {"batch-timeout", 0, QN_OPT_STR, offsetof(serve_options, batch_timeout), "TIME", .def = "0",
     .help = "an idle engine waits so long for a full batch"},
    {"bucket", 0, QN_OPT_STR, offsetof(serve_options, buckets), "LIST",
     .help = "sequences together by length: 8k:4,32k:2,inf:1"},
    {"max-seq-len", 0, QN_OPT_INT, CONFIG(max_ctx), "N", 0, 1 << 24, "0: the model's",
     "the same as --max-ctx"},
    {"max-model-len", 0, QN_OPT_INT, CONFIG(max_ctx), "N", 0, 1 << 24, "0: the model's",
     "the same, as vLLM calls it"},
    {"max-queue", 0, QN_OPT_INT, CONFIG(max_queue), "N", 0, 1 << 20, "0: 512",
     "waiting requests; more are refused (429)"},
    {"no-prefix-cache", 0, QN_OPT_FLAG, CONFIG(no_prefix_cache),
     .help = "prompts that begin like earlier ones are computed anew"},
    {"kv-dtype", 0, QN_OPT_ENUM, CONFIG(kv_cache_dtype), "auto|f32|f16|int8", .def = "auto",
     .help = "the same as --kv-cache-dtype"},
    {"chat-template", 0, QN_OPT_STR, CONFIG(chat_template), "FILE",
     .help = "a Jinja template instead of the model's"},
    {"draft-model", 0, QN_OPT_STR, CONFIG(draft_model), "MODEL",
     .help = "a small model that guesses ahead"},
    {"speculation", 0, QN_OPT_ENUM, CONFIG(speculation), "auto|off|ngram|draft", .def = "auto",
     .help = "tokens guessed ahead: the same answers"},
};
static const qn_opt_group sched_group = {"Scheduling", sched_opts, QN_COUNT(sched_opts)};

const qn_opts cmd_serve_opts = {
    .command = "serve",
    .args = "[MODEL...]",
    .summary = "Serve models over HTTP: OpenAI's API and others'",
    .about = "SIGTERM and Ctrl-C end it when the running answers are done, a second one at once. "
             "SIGHUP reads keys and certificate again.",
    .max_args = 64,
    .groups = {{&serve_group, 0},
               {&sched_group, 0},
               {&cmd_engine_group, offsetof(serve_options, config)}},
};

/* ---- what goes on ---- */

typedef struct serve {
    const serve_options *o;
    qn_arena arena;
    cmd_manager manager;
    cmd_files files; /* for the sandbox */
    qn_server_config config;
    qn_server_model *models;
    qn_str *paths;  /* [n_models] */
    bool *was_open; /* [n_models] the loader's */
    qn_server *server;
    cmd_progress bar;
    atomic_bool is_ready;
    int port;
} serve;

static const serve *volatile running; /* for the signals */

static void on_signal(int sig)
{
    int e = errno;
    if (running && sig == SIGHUP) {
        qn_server_reload(running->server);
    } else if (running) {
        qn_server_stop(running->server);
        cmd_manager_tell(&running->manager, "STOPPING=1");
    }
    errno = e;
}

static void catch_signals(void)
{
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    (void)sigemptyset(&a.sa_mask);
    (void)sigaction(SIGTERM, &a, NULL);
    (void)sigaction(SIGINT, &a, NULL);
    (void)sigaction(SIGHUP, &a, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

/* A pipe that nobody reads loses lines; it stops nothing. What poll says is writable takes PIPE_BUF bytes at once. */
static void on_notice(void *arg, const char *line)
{
    char text[PIPE_BUF];
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    int n = snprintf(text, sizeof text, "%s\n", line);
    (void)arg;
    if (n <= 0 || poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT))
        return;
    ssize_t k = write(STDERR_FILENO, text, QN_MIN((size_t)n, sizeof text - 1));
    (void)k;
}

static void on_log(void *arg, const char *line)
{
    const serve *s = arg;
    if (!s->o->quiet)
        on_notice(arg, line);
}

static void on_alive(void *arg)
{
    const serve *s = arg;
    cmd_manager_tell(&s->manager, "WATCHDOG=1");
}

static qn_status on_confine(void *arg, qn_err *err)
{
    serve *s = arg;
    qn_str told = {0};
    const qn_server_config *c = &s->config;
    s->files.arena = &s->arena;
    for (size_t i = 0; i < c->n_models; i++) {
        cmd_files_add_model(&s->files, c->models[i].config.model);
        cmd_files_add_model(&s->files, c->models[i].config.draft_model);
        cmd_files_add_model(&s->files, c->models[i].config.chat_template);
    }
    cmd_files_add_again(&s->files, c->key_file);
    cmd_files_add_again(&s->files, c->tls_cert);
    cmd_files_add_again(&s->files, c->tls_key);
    qn_status st = cmd_confine(s->o->sandbox, &s->files, &told, err);
    if (st == QN_OK)
        printf("%s\n", told.p);
    qn_str_fini(&told);
    return st;
}

static void on_progress(void *arg, const char *model, const char *what, double done)
{
    serve *s = arg;
    cmd_progress_show(&s->bar, what, done, model);
}

static void print_memory(const char *name, const qn_engine_info *info)
{
    const struct {
        const char *what;
        uint64_t bytes;
    } rows[] = {{"weights", info->weight_bytes},
                {"K/V cache", info->kv_bytes},
                {"activations", info->activation_bytes},
                {"vocabulary", info->vocab_bytes}};
    uint64_t total = 0;
    printf("%s: %s, %s; %s\n", name, info->name, info->quantization, info->device);
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        printf("  %-12s %9.1f MB\n", rows[i].what, (double)rows[i].bytes * 1e-6);
        total += rows[i].bytes;
    }
    printf("  %-12s %9.1f MB\n  contexts of %d tokens, K/V in %s\n", "together",
           (double)total * 1e-6, info->max_ctx, info->kv_cache_dtype);
    if (info->model_max_ctx && info->max_ctx > info->model_max_ctx)
        fprintf(
            stderr,
            "quern: %s: contexts of %d tokens are longer than the %d that the model was trained "
            "for: answers beyond those may make no sense\n",
            name, info->max_ctx, info->model_max_ctx);
}

static void print_classes(const qn_config *c)
{
    uint32_t all = 0;
    for (int i = 0; i < c->n_classes; i++)
        all += c->classes[i].share;
    printf("classes, most urgent first\n");
    for (int i = 0; i < c->n_classes; i++) {
        const qn_class *k = &c->classes[i];
        printf("  %-12s", k->name);
        if (k->target_ms)
            printf(" %7u ms to the end of an answer,", k->target_ms);
        else
            printf(" %7s %-26s", "-", "no target,");
        printf(" %3u %% of the time", (unsigned)((k->share * 100u + all / 2) / all));
        if (k->gap_ms == QN_GAP_AUTO)
            printf(", gap by itself");
        else if (k->gap_ms)
            printf(", %u ms between tokens", k->gap_ms);
        printf("%s%s\n", k->refuse_late ? ", late ones refused" : "",
               i == c->default_class && c->n_classes > 1 ? ", the default" : "");
    }
}

static void print_ready(const serve *s)
{
    const qn_server_config *c = &s->config;
    bool is_unix = qn_starts_with(c->host, "unix:");
    const char *shown =
        strcmp(c->host, "0.0.0.0") == 0 || strcmp(c->host, "::") == 0 ? "localhost" : c->host;
    printf("ready; try:\n  curl %s%s%shttp%s://%s", is_unix ? "--unix-socket " : "",
           is_unix ? c->host + 5 : "", is_unix ? " " : "", c->tls_cert ? "s" : "",
           is_unix ? "localhost" : shown);
    if (!is_unix)
        printf(":%d", s->port);
    printf("/v1/chat/completions %s-d '{\"messages\": [{\"role\": \"user\", \"content\": "
           "\"Hello\"}]}'\n",
           c->n_keys || c->key_file ? "-H 'Authorization: Bearer KEY' " : "");
}

/* These three on the loader's thread. */
static void on_opened(void *arg, const char *model, qn_engine *e, const qn_err *err)
{
    serve *s = arg;
    qn_engine_info info;
    size_t i = 0;
    cmd_progress_end(&s->bar);
    s->bar = (cmd_progress){.start_ns = qn_now_ns()};
    while (strcmp(s->models[i].name, model) != 0)
        i++;
    if (e) {
        qn_engine_get_info(e, &info);
        if (s->was_open[i])
            printf("%s: loaded\n", model);
        else
            print_memory(model, &info);
        s->was_open[i] = true;
        (void)fflush(stdout);
    } else if (atomic_load(&s->is_ready)) { /* else qn_server_run ends with it */
        (void)fprintf(stderr, "quern: model '%s' could not be loaded: %s\n", model, err->msg);
    }
}

static void on_closed(void *arg, const char *model)
{
    (void)arg;
    printf("%s: unloaded\n", model);
    (void)fflush(stdout);
}

static void on_ready(void *arg)
{
    serve *s = arg;
    atomic_store(&s->is_ready, true);
    cmd_manager_tell(&s->manager, "READY=1"); /* before who reads the line below may stop us */
    print_classes(&s->o->config);
    print_ready(s);
    (void)fflush(stdout);
}

/* ---- from options to a configuration ---- */

/* Without --classes: a long prompt may make others wait, but not so long that it shows. */
static const qn_class only_class = {.name = "default", .share = 100, .gap_ms = QN_GAP_AUTO};

static qn_status add_model(serve *s, const char *text, size_t i, qn_err *err)
{
    qn_server_model *m = &s->models[i];
    const char *name, *file;
    QN_TRY(qn_spec_model(text, &s->arena, &name, &file, err));
    QN_TRY(cmd_model_find(&s->paths[i], file, err));
    m->config = s->o->config;
    m->config.model = s->paths[i].p;
    cmd_tuned(&m->config);
    if (!name) { /* OWNER/NAME as it is; of a path its last part, without .gguf */
        bool is_path = qn_file_exists(file) || qn_dir_exists(file);
        qn_slice base = qn_slice_of(is_path ? qn_base_name(file) : file);
        while (is_path && base.n > 1 && base.p[base.n - 1] == '/')
            base.n--;
        if (qn_ends_with(base.p, ".gguf"))
            base.n -= 5;
        name = qn_arena_strndup(&s->arena, base.p, base.n);
    }
    m->name = name;
    return name ? QN_OK : qn_fail_nomem(err, strlen(file));
}

static qn_status add_models(serve *s, const qn_opts_found *found, qn_err *err)
{
    const serve_options *o = s->o;
    size_t n = o->models.n + found->n_args;
    if (!n)
        return qn_fail(err, QN_E_ARG, "found no model, want -m MODEL");
    s->models = qn_arena_alloc(&s->arena, n * sizeof *s->models);
    s->paths = qn_arena_alloc(&s->arena, n * sizeof *s->paths);
    s->was_open = qn_arena_alloc(&s->arena, n * sizeof *s->was_open);
    if (!s->models || !s->paths || !s->was_open)
        return qn_fail_nomem(err, n * sizeof *s->models);
    memset(s->models, 0, n * sizeof *s->models);
    memset(s->paths, 0, n * sizeof *s->paths);
    memset(s->was_open, 0, n * sizeof *s->was_open);
    s->config.models = s->models;
    s->config.n_models = n;
    for (size_t i = 0; i < n; i++)
        QN_TRY(add_model(s, i < o->models.n ? o->models.items[i] : found->args[i - o->models.n], i,
                         err));
    if (o->names.n) {
        s->models[0].name = o->names.items[0];
        s->models[0].aliases = o->names.items + 1;
        s->models[0].n_aliases = o->names.n - 1;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(s->models[i].name, s->models[k].name) == 0)
                return qn_fail(err, QN_E_ARG, "two models are called '%s'; want NAME=MODEL",
                               s->models[i].name);
    return QN_OK;
}

static qn_status add_scheduling(serve *s, serve_options *o, qn_err *err)
{
    qn_config *c = &o->config;
    uint32_t ms = 0;
    if (o->classes) {
        qn_class *classes;
        QN_TRY(qn_spec_classes(o->classes, &s->arena, &classes, &c->n_classes, err));
        c->classes = classes;
        c->default_class = c->n_classes - 1;
    } else {
        c->classes = &only_class;
        c->n_classes = 1;
    }
    if (o->default_class)
        c->default_class = qn_spec_class(c, o->default_class);
    if (c->default_class < 0)
        return qn_fail(err, QN_E_ARG, "default-class: found '%s', want one of --classes",
                       o->default_class);
    if (o->buckets) {
        qn_bucket *buckets;
        QN_TRY(qn_spec_buckets(o->buckets, &s->arena, &buckets, &c->n_buckets, err));
        c->buckets = buckets;
    }
    if (o->batch)
        QN_TRY(qn_spec_batch(o->batch, &c->min_seqs, &c->max_seqs, err));
    if (o->batch_timeout)
        QN_TRY(qn_spec_duration(o->batch_timeout, &ms, err));
    c->batch_timeout_ms = (int)ms;
    return QN_OK;
}

static bool is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || qn_starts_with(host, "127.") ||
           strcmp(host, "::1") == 0 || qn_starts_with(host, "unix:");
}

static qn_status add_keys(serve *s, qn_err *err)
{
    const serve_options *o = s->o;
    qn_api_key *keys = qn_arena_alloc(&s->arena, (o->keys.n + 1) * sizeof *keys);
    if (!keys)
        return qn_fail_nomem(err, (o->keys.n + 1) * sizeof *keys);
    for (size_t i = 0; i < o->keys.n; i++)
        keys[i] = (qn_api_key){.key = o->keys.items[i]};
    s->config.key_file = o->key_file;
    s->config.keys = keys;
    s->config.n_keys = o->keys.n;
    if (!o->keys.n && !o->key_file && !o->no_auth && !is_loopback(s->config.host))
        return qn_fail(err, QN_E_ARG,
                       "host %s is open to others: want --api-key-file FILE, or --no-auth",
                       s->config.host);
    return QN_OK;
}

/* "660" */
static qn_status read_mode(const char *text, int *mode, qn_err *err)
{
    size_t n = strlen(text);
    *mode = 0;
    for (size_t i = 0; i < n; i++)
        *mode = text[i] >= '0' && text[i] <= '7' ? *mode * 8 + text[i] - '0' : 01000;
    return n >= 3 && n <= 4 && *mode > 0 && *mode <= 0777
               ? QN_OK
               : qn_fail(err, QN_E_ARG, "socket-mode: found '%.20s', want digits as of chmod: 660",
                         text);
}

static qn_status configure(serve *s, serve_options *o, const qn_opts_found *found, qn_err *err)
{
    int mode = 0;
    uint32_t keep_ms = 0;
    QN_TRY(cmd_manager_open(&s->manager, err));
    if (o->socket_mode)
        QN_TRY(read_mode(o->socket_mode, &mode, err));
    if (!o->tls_cert != !o->tls_key)
        return qn_fail(err, QN_E_ARG, "TLS wants both --tls-cert and --tls-key");
    if (o->keep)
        QN_TRY(qn_spec_duration(o->keep, &keep_ms, err));
    bool is_given = s->manager.listen_fd != 0;
    s->config = (qn_server_config){.host = is_given ? s->manager.host.p : o->host,
                                   .port = is_given ? s->manager.port : o->port,
                                   .listen_fd = s->manager.listen_fd,
                                   .socket_mode = mode,
                                   .any_model = o->any_model,
                                   .cors = o->cors.items,
                                   .n_cors = o->cors.n,
                                   .hosts = o->hosts.items,
                                   .n_hosts = o->hosts.n,
                                   .tls_cert = o->tls_cert,
                                   .tls_key = o->tls_key,
                                   .n_workers = o->workers,
                                   .drain_s = o->drain,
                                   .watchdog_ms = s->manager.watchdog_ms,
                                   .max_connections = o->max_connections,
                                   .max_per_address = o->max_per_address,
                                   .log = on_log,
                                   .notice = on_notice,
                                   .confine = on_confine,
                                   .alive = on_alive,
                                   .progress = on_progress,
                                   .opened = on_opened,
                                   .closed = on_closed,
                                   .ready = on_ready,
                                   .mem_limit = o->config.mem_limit,
                                   .keep_ms = keep_ms,
                                   .arg = s};
    QN_TRY(add_scheduling(s, o, err));
    QN_TRY(add_keys(s, err));
    return add_models(s, found, err);
}

static void raise_file_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &r);
    }
}

static void print_report(const serve *s)
{
    qn_str text = {0};
    size_t n;
    qn_model_view *models = qn_server_views(s->server, &n);
    if (models)
        qn_metrics_report(qn_server_metrics(s->server), &text, models, n);
    qn_free(models);
    if (!text.failed && text.n)
        fwrite(text.p, 1, text.n, stdout);
    qn_str_fini(&text);
}

static qn_status serve_until_stopped(serve *s, qn_err *err)
{
    raise_file_limit();
    QN_TRY(qn_server_new(&s->server, &s->config, err));
    running = s;
    catch_signals();
    s->port = qn_server_port(s->server);
    if (qn_starts_with(s->config.host, "unix:"))
        printf("listening on %s\n", s->config.host);
    else
        printf("listening on http%s://%s%s%s:%d\n", s->config.tls_cert ? "s" : "",
               strchr(s->config.host, ':') ? "[" : "", s->config.host,
               strchr(s->config.host, ':') ? "]" : "", s->port);
    (void)fflush(stdout);
    qn_status st = qn_server_run(s->server, err);
    if (st == QN_OK)
        print_report(s);
    running = NULL;
    if (st == QN_OK && qn_server_is_opening(s->server)) {
        (void)fflush(stdout);
        _exit(CMD_OK); /* a model that is being opened would be waited for, and nothing is lost */
    }
    qn_server_free(s->server);
    return st;
}

int cmd_serve(int argc, char **argv)
{
    serve_options o = {
        .config = qn_config_default(), .host = "127.0.0.1", .port = 8080, .drain = 30};
    serve s = {.o = &o, .bar = {.start_ns = qn_now_ns()}, .manager = {.fd = -1}};
    qn_opts_found found;
    qn_err err;
    qn_arena_init(&s.arena, 0, QN_MEM_MISC);
    int rc = cmd_parse(&cmd_serve_opts, &o, argc, argv, &found);
    if (rc < 0) {
        qn_status st = configure(&s, &o, &found, &err);
        if (st == QN_OK)
            st = serve_until_stopped(&s, &err);
        rc = st == QN_OK      ? CMD_OK
             : st == QN_E_ARG ? cmd_usage(&cmd_serve_opts, "%s", err.msg)
                              : cmd_fail(&err);
    }
    for (size_t i = 0; s.paths && i < s.config.n_models; i++)
        qn_str_fini(&s.paths[i]);
    cmd_manager_close(&s.manager);
    cmd_files_fini(&s.files);
    qn_arena_fini(&s.arena);
    qn_opt_list *lists[] = {&o.models, &o.names, &o.cors, &o.hosts, &o.keys};
    for (size_t i = 0; i < QN_COUNT(lists); i++)
        qn_opt_list_fini(lists[i]);
    qn_opts_found_fini(&found);
    return rc;
}
