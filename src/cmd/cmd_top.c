/* SPDX-License-Identifier: Apache-2.0
 * cmd_top.c - `quern top`: what a server does, in the terminal, once a second.
 *
 * GET /metrics.json -> JSON -> text -> the terminal, over the text before. What a server sends is not trusted: strings are shown
 * without control bytes. */
#include <curl/curl.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mem.h"
#include "cmd/cmd.h"

enum { TICK_MS = 1000, CONNECT_MS = 3000, ANSWER_MS = 5000, MAX_BYTES = 4 << 20, BAR = 24 };

typedef struct top_options {
    bool json, once;
    const char *key_file;
} top_options;

static const qn_opt top_opts[] = {
    {"api-key-file", 0, QN_OPT_STR, offsetof(top_options, key_file), "FILE",
     .help = "the server's file of keys, or one that begins with a key"},
    {"json", 0, QN_OPT_FLAG, offsetof(top_options, json), .help = "print one snapshot as JSON"},
    {"once", 0, QN_OPT_FLAG, offsetof(top_options, once), .help = "print the view once"},
};
static const qn_opt_group top_group = {"Options", top_opts, QN_COUNT(top_opts)};

const qn_opts cmd_top_opts = {
    .command = "top",
    .args = "[URL]",
    .summary = "Show what a server does, once a second",
    .about = "URL is http://127.0.0.1:8080 by default, or unix:/PATH. q or Ctrl-C ends. Where "
             "standard output is no terminal the view is printed once.",
    .max_args = 1,
    .groups = {{&top_group, 0}},
};

/* ---- asking ---- */

typedef struct client {
    CURL *curl;
    struct curl_slist *headers;
    qn_str url, body;
    const char *socket; /* path of a Unix socket; NULL: none */
    char shown[160];    /* the server's name, for the terminal */
    char error[CURL_ERROR_SIZE];
} client;

static volatile sig_atomic_t is_ended, is_continued;

static void on_signal(int sig)
{
    if (sig == SIGCONT)
        is_continued = 1;
    else
        is_ended = 1;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    client *c = arg;
    if (size * n > MAX_BYTES - c->body.n)
        return 0;
    qn_str_add(&c->body, p, size * n);
    return c->body.failed ? 0 : size * n;
}

static int on_tick(void *arg, curl_off_t a, curl_off_t b, curl_off_t d, curl_off_t e)
{
    (void)arg, (void)a, (void)b, (void)d, (void)e;
    return is_ended;
}

static void set_url(client *c, const char *arg)
{
    const char *tail = "/metrics.json";
    qn_escape(c->shown, sizeof c->shown, arg, strlen(arg));
    if (qn_starts_with(arg, "unix:")) {
        c->socket = arg + 5;
        qn_str_addf(&c->url, "http://localhost%s", tail);
        return;
    }
    size_t n = strlen(arg);
    if (qn_ends_with(arg, tail))
        n -= strlen(tail);
    while (n && arg[n - 1] == '/')
        n--;
    qn_str_adds(&c->url, strstr(arg, "://") ? "" : "http://");
    qn_str_add(&c->url, arg, n);
    qn_str_adds(&c->url, tail);
}

static qn_status add_key(client *c, const char *path, qn_err *err)
{
    qn_str header = {0};
    qn_str_adds(&header, "Authorization: Bearer ");
    qn_status s = cmd_read_key(&header, path, err);
    if (s == QN_OK) {
        c->headers = curl_slist_append(NULL, header.p);
        s = c->headers ? QN_OK : qn_fail_nomem(err, header.n);
    }
    qn_str_fini(&header);
    return s;
}

static qn_status open_client(client *c, const char *url, const char *key_file, qn_err *err)
{
    set_url(c, url);
    c->curl = curl_easy_init();
    if (!c->curl || c->url.failed)
        return qn_fail_nomem(err, sizeof *c);
    if (c->socket &&
        (!*c->socket || strlen(c->socket) >= sizeof((struct sockaddr_un *)0)->sun_path))
        return qn_fail(err, QN_E_ARG, "%s: want unix:/PATH of at most %zu bytes", c->shown,
                       sizeof((struct sockaddr_un *)0)->sun_path - 1);
    if (key_file)
        QN_TRY(add_key(c, key_file, err));
    CURL *h = c->curl;
    bool ok = curl_easy_setopt(h, CURLOPT_URL, c->url.p) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_PROXY, "") == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_ERRORBUFFER, c->error) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_USERAGENT, "quern/" QN_VERSION) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)ANSWER_MS) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_HTTPHEADER, c->headers) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_tick) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
              curl_easy_setopt(h, CURLOPT_WRITEDATA, c) == CURLE_OK;
    if (ok && c->socket)
        ok = curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, c->socket) == CURLE_OK;
    return ok ? QN_OK : qn_fail(err, QN_E_INTERNAL, "%s: libcurl refuses an option", c->shown);
}

static void close_client(client *c)
{
    curl_easy_cleanup(c->curl);
    curl_slist_free_all(c->headers);
    qn_str_fini(&c->url);
    qn_str_fini(&c->body);
}

static qn_status ask(client *c, json_t **out, qn_err *err)
{
    long status = 0;
    *out = NULL;
    qn_str_clear(&c->body);
    c->error[0] = 0;
    CURLcode code = curl_easy_perform(c->curl);
    if (is_ended)
        return qn_fail(err, QN_E_CANCELLED, "interrupted");
    if (code == CURLE_COULDNT_CONNECT)
        return qn_fail(
            err, QN_E_IO,
            "%s: nothing answers there: start a server with quern serve, or give its URL",
            c->shown);
    if (code == CURLE_WRITE_ERROR)
        return qn_fail(err, QN_E_FORMAT, "%s: answers with more than %d bytes, want a Quern server",
                       c->shown, MAX_BYTES);
    if (code != CURLE_OK)
        return qn_fail(err, QN_E_IO, "%s: %s", c->shown,
                       c->error[0] ? c->error : curl_easy_strerror(code));
    (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status == 401)
        return qn_fail(err, QN_E_ARG, "%s: answers 401, wants a key: --api-key-file", c->shown);
    if (status != 200)
        return qn_fail(err, QN_E_FORMAT, "%s: answers %ld to /metrics.json, want a Quern server",
                       c->shown, status);
    QN_TRY(qn_json_parse(out, c->body.p ? c->body.p : "", c->body.n, 0, c->shown, err));
    if (json_is_array(json_object_get(*out, "models")))
        return QN_OK;
    json_decref(*out);
    *out = NULL;
    return qn_fail(err, QN_E_FORMAT, "%s: answers without models, want a Quern server", c->shown);
}

/* ---- the view ---- */

typedef struct view {
    qn_str *out;
    bool is_terminal; /* colours */
} view;

enum { PLAIN = 0, BOLD = 1, DIM = 2, RED = 31, GREEN = 32, YELLOW = 33 };

static void colour(const view *v, int code)
{
    if (v->is_terminal)
        qn_str_addf(v->out, "\033[%dm", code);
}

static double number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static bool has_number(const json_t *o, const char *key)
{
    return json_is_number(json_object_get(o, key));
}

static void add_text(const view *v, const json_t *value, int width)
{
    char shown[48];
    const char *s = json_string_value(value);
    qn_escape(shown, sizeof shown, s ? s : "?", s ? strlen(s) : 1);
    qn_str_addf(v->out, "%-*s", width, shown);
}

/* 950, 12.3k, 4.56M */
static void add_count(qn_str *out, double n)
{
    static const char units[] = "kMGT";
    int u = -1;
    while (n >= 999.5 && u < 3) {
        n /= 1000;
        u++;
    }
    if (u < 0)
        qn_str_addf(out, "%.*f", n < 10 && n != floor(n) ? 1 : 0, n);
    else
        qn_str_addf(out, "%.*f%c", n < 9.995 ? 2 : n < 99.95 ? 1 : 0, n, units[u]);
}

/* The same in a column, behind its name. */
static void add_cell(const view *v, int width, const json_t *o, const char *key)
{
    qn_str text = {0};
    if (has_number(o, key))
        add_count(&text, number(o, key));
    qn_str_addf(v->out, "%*s", width, text.n ? text.p : "-");
    qn_str_fini(&text);
}

static void add_per_cent(const view *v, int width, const json_t *o, const char *key)
{
    char text[32] = "-";
    if (has_number(o, key))
        (void)snprintf(text, sizeof text, "%.*f %%", width > 7,
                       100 * fmin(fmax(number(o, key), 0), 1));
    qn_str_addf(v->out, "%*s", width, text);
}

static void add_span(qn_str *out, double seconds)
{
    double s = fmin(fmax(seconds, 0), 1e9);
    if (s < 60)
        qn_str_addf(out, "%.0f s", s);
    else if (s < 3600)
        qn_str_addf(out, "%.0f min", floor(s / 60));
    else if (s < 86400)
        qn_str_addf(out, "%.0f h %.0f min", floor(s / 3600), floor(fmod(s, 3600) / 60));
    else
        qn_str_addf(out, "%.0f d %.0f h", floor(s / 86400), floor(fmod(s, 86400) / 3600));
}

static void add_bar(const view *v, double part)
{
    part = fmin(fmax(part, 0), 1);
    int n = (int)(part * BAR + 0.5);
    qn_str_addc(v->out, '[');
    colour(v, part > 0.95 ? RED : part > 0.8 ? YELLOW : GREEN);
    for (int i = 0; i < BAR; i++)
        qn_str_addc(v->out, i < n ? '#' : '.');
    colour(v, PLAIN);
    qn_str_addf(v->out, "] %3.0f %%", part * 100);
}

/* 80 columns up to "refused": what a narrow terminal cuts off led to the times that it shows. */
static void add_class(const view *v, const json_t *c)
{
    const json_t *whole = json_object_get(c, "e2e_ms"), *first = json_object_get(c, "ttft_ms");
    const json_t *gap = json_object_get(c, "gap_ms");
    double attained = has_number(c, "attained") ? number(c, "attained") : 1;
    qn_str_adds(v->out, "  ");
    add_text(v, json_object_get(c, "name"), 8);
    add_cell(v, 4, c, "running");
    add_cell(v, 5, c, "waiting");
    add_cell(v, 6, c, "done");
    add_cell(v, 7, whole, "p50");
    add_cell(v, 6, whole, "p95");
    add_cell(v, 7, whole, "p99");
    add_cell(v, 7, number(c, "target_ms") > 0 ? c : NULL, "target_ms");
    colour(v, !has_number(c, "attained") ? PLAIN
              : attained >= 0.99         ? GREEN
              : attained >= 0.95         ? YELLOW
                                         : RED);
    add_per_cent(v, 8, c, "attained");
    colour(v, PLAIN);
    add_per_cent(v, 6, c, "share");
    add_per_cent(v, 6, c, "time_share");
    add_cell(v, 8, c, "refused");
    add_cell(v, 8, first, "p50");
    add_cell(v, 7, first, "p99");
    add_cell(v, 8, gap, "p50");
    add_cell(v, 7, gap, "p99");
    qn_str_addc(v->out, '\n');
}

static void add_classes(const view *v, const json_t *classes)
{
    size_t i;
    const json_t *c;
    if (json_array_size(classes) == 0)
        return;
    colour(v, DIM);
    qn_str_addf(v->out, "  %-8s%4s%5s%6s%7s%6s%7s%7s%8s%6s%6s%8s%8s%7s%8s%7s\n", "class", "run",
                "wait", "done", "p50", "p95", "p99 ms", "target", "met", "share", "time", "refused",
                "ttft50", "99 ms", "gap50", "99 ms");
    colour(v, PLAIN);
    json_array_foreach(classes, i, c) add_class(v, c);
}

static void add_model(const view *v, const json_t *m)
{
    qn_str *out = v->out;
    const json_t *ms = json_object_get(m, "step_ms");
    qn_str_addc(out, '\n');
    colour(v, BOLD);
    add_text(v, json_object_get(m, "name"), 0);
    colour(v, PLAIN);
    if (!json_is_true(json_object_get(m, "ready"))) {
        const char *state = json_string_value(json_object_get(m, "state"));
        bool is_away = state && strcmp(state, "unloaded") == 0;
        double n_waiting = number(m, "waiting_to_open");
        qn_str_adds(out, is_away ? "  unloaded" : "  not ready");
        if (n_waiting > 0)
            qn_str_addf(out, ", %.0f waiting", n_waiting);
        qn_str_addc(out, '\n');
        return;
    }
    qn_str_adds(out, "\n  tokens/s   in ");
    add_count(out, number(m, "prompt_tokens_per_second"));
    qn_str_adds(out, "   out ");
    add_count(out, number(m, "output_tokens_per_second"));
    qn_str_addf(out, "      requests   %.0f running   %.0f waiting      preempted ",
                number(m, "running"), number(m, "waiting"));
    add_count(out, number(m, "preempted"));
    if (number(m, "draft_tokens") > 0)
        qn_str_addf(out, "   guessed %.0f %%",
                    100 * fmin(number(m, "accepted_tokens") / number(m, "draft_tokens"), 1));
    qn_str_adds(out, "\n  K/V cache  ");
    add_bar(v, number(m, "kv_usage"));
    qn_str_addf(out, " of %.0f blocks, %.0f kept   prefix hits ", number(m, "kv_blocks"),
                number(m, "kv_cached"));
    add_per_cent(v, 0, m, "cache_hit_rate");
    qn_str_addf(out, "\n  batch      %.1f rows   %.1f sequences   %.1f steps/s",
                number(m, "rows_per_step"), number(m, "seqs_per_step"),
                number(m, "steps_per_second"));
    if (has_number(m, "weight_bytes_per_second"))
        qn_str_addf(out, "   weights %.1f GB/s", number(m, "weight_bytes_per_second") * 1e-9);
    qn_str_addf(out, "\n  a step     schedule %.2f   model %.2f   sample %.2f ms\n",
                number(ms, "schedule"), number(ms, "model"), number(ms, "sample"));
    add_classes(v, json_object_get(m, "classes"));
}

/* cpus: used since the view before; negative: unknown. */
static void add_view(const view *v, const json_t *o, const char *server, double cpus)
{
    qn_str *out = v->out;
    const json_t *http = json_object_get(o, "http"), *value;
    const char *key;
    size_t i;
    colour(v, BOLD);
    qn_str_addf(out, "%s", server);
    colour(v, PLAIN);
    qn_str_adds(out, "   quern ");
    add_text(v, json_object_get(o, "version"), 0);
    qn_str_adds(out, "   up ");
    add_span(out, number(o, "uptime_seconds"));
    qn_str_addf(out, "   %.0f MB", number(o, "resident_bytes") * 1e-6);
    if (cpus >= 0)
        qn_str_addf(out, "   %.2f processors", cpus);
    qn_str_adds(out, "   answers 2xx ");
    add_count(out, number(http, "2xx"));
    qn_str_adds(out, "  4xx ");
    add_count(out, number(http, "4xx"));
    qn_str_adds(out, "  5xx ");
    add_count(out, number(http, "5xx"));
    qn_str_addc(out, '\n');
    json_array_foreach(json_object_get(o, "models"), i, value) add_model(v, value);
    if (json_object_size(json_object_get(o, "errors")) == 0)
        return;
    qn_str_adds(out, "\nerrors");
    /* jansson's iterators take no const */
    json_t *errors = json_object_get(o, "errors");
    json_t *n;
    json_object_foreach(errors, key, n)
    {
        char shown[48];
        qn_escape(shown, sizeof shown, key, strlen(key));
        qn_str_addf(out, "   %s ", shown);
        add_count(out, json_number_value(n));
    }
    qn_str_addc(out, '\n');
}

/* ---- the terminal ---- */

static struct termios cooked;
static bool is_raw;

static void set_raw(bool raw)
{
    if (!isatty(STDIN_FILENO) || (raw && !is_raw && tcgetattr(STDIN_FILENO, &cooked) != 0) ||
        (!raw && !is_raw))
        return;
    struct termios t = cooked;
    if (raw) {
        t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        t.c_cc[VMIN] = 1;
        t.c_cc[VTIME] = 0;
    }
    is_raw = tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0 && raw;
}

/* Waits for the next second; false: the user is done. */
static bool wait_tick(bool with_keys)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    uint64_t end = qn_now_ns() + TICK_MS * 1000000ull;
    for (uint64_t now = qn_now_ns(); !is_ended && now < end; now = qn_now_ns()) {
        char key = 'q';
        int n = poll(&in, with_keys, (int)((end - now) / 1000000) + 1);
        if (is_continued && with_keys) {
            is_continued = 0;
            set_raw(true);
        }
        if (n > 0 && (read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || key == 'Q'))
            return false;
    }
    return !is_ended;
}

/* Over the text before, line by line, and no further than the terminal's last line: it must not scroll. */
static void draw(const qn_str *text)
{
    struct winsize size = {0};
    int rows = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 1 ? size.ws_row : 1000;
    fputs("\033[?7l\033[H", stdout);
    const char *p = text->p;
    for (int row = 1; *p && row < rows; row++) {
        size_t n = strcspn(p, "\n");
        fwrite(p, 1, n, stdout);
        fputs("\033[K\n", stdout);
        p += n + (p[n] == '\n');
    }
    fputs("\033[J\033[?7h", stdout);
    fflush(stdout);
}

/* ---- the command ---- */

/* Twice if nobody has asked before: rates are then of the second between. */
static qn_status ask_once(client *c, json_t **out, qn_err *err)
{
    QN_TRY(ask(c, out, err));
    if (number(*out, "window_seconds") <= 10)
        return QN_OK;
    json_decref(*out);
    *out = NULL;
    return wait_tick(false) ? ask(c, out, err) : qn_fail(err, QN_E_CANCELLED, "interrupted");
}

static qn_status print_once(client *c, bool as_json, bool is_terminal, qn_err *err)
{
    json_t *o;
    qn_str text = {0};
    view v = {&text, is_terminal};
    QN_TRY(ask_once(c, &o, err));
    if (as_json) {
        qn_json_write(&text, o);
        qn_str_addc(&text, '\n');
    } else {
        add_view(&v, o, c->shown, -1);
    }
    json_decref(o);
    bool failed = text.failed;
    if (!failed)
        fwrite(text.p, 1, text.n, stdout);
    qn_str_fini(&text);
    return failed ? qn_fail_nomem(err, text.n) : QN_OK;
}

/* Once a server has answered, one that does not is waited for. */
static qn_status watch(client *c, bool is_coloured, qn_err *err)
{
    qn_str text = {0};
    view v = {&text, is_coloured};
    double cpu_before = -1;
    uint64_t ns_before = 0;
    qn_status s = QN_OK;
    bool has_answered = false, with_keys = isatty(STDIN_FILENO);
    do {
        json_t *o;
        s = ask(c, &o, err);
        uint64_t now = qn_now_ns();
        qn_str_clear(&text);
        if (s == QN_OK) {
            double cpu = number(o, "cpu_seconds");
            double cpus = cpu_before < 0 || cpu < cpu_before
                              ? -1
                              : (cpu - cpu_before) * 1e9 / (double)(now - ns_before);
            add_view(&v, o, c->shown, cpus);
            cpu_before = cpu;
            ns_before = now;
            json_decref(o);
        } else if (has_answered) {
            colour(&v, RED);
            qn_str_addf(&text, "%s\n", err->msg);
            colour(&v, PLAIN);
        } else {
            break;
        }
        if (!has_answered) {
            set_raw(true);
            fputs("\033[2J\033[?25l", stdout);
        }
        has_answered = true;
        if (text.failed) {
            s = qn_fail_nomem(err, text.n);
            break;
        }
        draw(&text);
        s = QN_OK;
    } while (wait_tick(with_keys));
    if (has_answered) {
        set_raw(false);
        fputs("\033[?25h", stdout);
        fflush(stdout);
    }
    qn_str_fini(&text);
    return s;
}

static void catch_signals(void)
{
    struct sigaction a = {.sa_handler = on_signal};
    (void)sigemptyset(&a.sa_mask);
    (void)sigaction(SIGINT, &a, NULL);
    (void)sigaction(SIGTERM, &a, NULL);
    (void)sigaction(SIGHUP, &a, NULL);
    (void)sigaction(SIGCONT, &a, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

int cmd_top(int argc, char **argv)
{
    top_options o = {0};
    qn_opts_found found = {0};
    qn_err err = {0};
    client c = {0};
    int code = cmd_parse(&cmd_top_opts, &o, argc, argv, &found);
    if (code < 0) {
        bool is_terminal = isatty(STDOUT_FILENO), is_coloured = is_terminal && !qn_env("NO_COLOR");
        catch_signals();
        qn_status s = open_client(&c, found.n_args ? found.args[0] : "http://127.0.0.1:8080",
                                  o.key_file, &err);
        if (s == QN_OK && !o.json && !o.once && is_terminal)
            s = watch(&c, is_coloured, &err);
        else if (s == QN_OK)
            s = print_once(&c, o.json, is_coloured, &err);
        close_client(&c);
        code = is_ended ? CMD_INTERRUPTED : s == QN_OK ? CMD_OK : cmd_fail(&err);
    }
    qn_opts_found_fini(&found);
    return code;
}
