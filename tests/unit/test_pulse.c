/* SPDX-License-Identifier: Apache-2.0
 * test_pulse.c - a server notices that its engine no longer goes on, and that it does again; probes are in nobody's counts, and keep
 * no model from being put away. */
#include "check.h"

#include "engine/engine.h"
#include "server/server.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char model_path[] = QN_SOURCE_DIR "/tests/golden/models/qwen3-tied-bf16";

typedef struct fixture {
    qn_server *server;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    qn_engine *engine;
    int n_alive, n_sick, n_well, n_closed;
} fixture;

static void change(fixture *f, int *what)
{
    (void)pthread_mutex_lock(&f->lock);
    ++*what;
    (void)pthread_cond_broadcast(&f->changed);
    (void)pthread_mutex_unlock(&f->lock);
}

/* Until *what is more than n; then what it is. */
static int wait_over(fixture *f, const int *what, int n)
{
    (void)pthread_mutex_lock(&f->lock);
    while (*what <= n)
        (void)pthread_cond_wait(&f->changed, &f->lock);
    int now = *what;
    (void)pthread_mutex_unlock(&f->lock);
    return now;
}

static void on_alive(void *arg)
{
    fixture *f = arg;
    change(f, &f->n_alive);
}

static void on_notice(void *arg, const char *line)
{
    fixture *f = arg;
    if (strncmp(line, "sick: model 'm': no operation", 29) == 0)
        change(f, &f->n_sick);
    else if (strcmp(line, "model 'm' is well again") == 0)
        change(f, &f->n_well);
}

static void on_opened(void *arg, const char *model, qn_engine *e, const qn_err *err)
{
    fixture *f = arg;
    (void)model;
    (void)err;
    (void)pthread_mutex_lock(&f->lock);
    f->engine = e;
    (void)pthread_cond_broadcast(&f->changed);
    (void)pthread_mutex_unlock(&f->lock);
}

static void on_closed(void *arg, const char *model)
{
    fixture *f = arg;
    (void)model;
    change(f, &f->n_closed);
}

static void *run(void *arg)
{
    fixture *f = arg;
    assert_int_equal(qn_server_run(f->server, NULL), QN_OK);
    return NULL;
}

/* The status. */
static int send_request(const fixture *f, const char *request)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)qn_server_port(f->server)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char text[256] = {0};
    size_t n = strlen(request);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(send(fd, request, n, MSG_NOSIGNAL), n);
    assert_true(recv(fd, text, sizeof text - 1, MSG_WAITALL) > 12);
    (void)close(fd);
    return (text[9] - '0') * 100 + (text[10] - '0') * 10 + text[11] - '0';
}

static int ask(const fixture *f, const char *path)
{
    char text[256];
    (void)snprintf(text, sizeof text,
                   "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    return send_request(f, text);
}

/* One token of a model. */
static int ask_model(const fixture *f, const char *model)
{
    char text[512], body[128];
    int n =
        snprintf(body, sizeof body, "{\"model\":\"%s\",\"prompt\":[7],\"max_tokens\":1}", model);
    (void)snprintf(text, sizeof text,
                   "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                   "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                   n, body);
    return send_request(f, text);
}

static void start(fixture *f, const qn_server_config *cfg)
{
    assert_int_equal(qn_server_new(&f->server, cfg, NULL), QN_OK);
    assert_int_equal(pthread_create(&f->thread, NULL, run, f), 0);
}

static void stop(fixture *f)
{
    qn_server_stop(f->server);
    assert_int_equal(pthread_join(f->thread, NULL), 0);
    qn_server_free(f->server);
}

static void test_sick(void **state)
{
    (void)state;
    fixture f = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    qn_server_model m = {.name = "m", .config = qn_config_default()};
    qn_server_config cfg = {.models = &m,
                            .n_models = 1,
                            .watchdog_ms = 9,
                            .probe_ms = 5,
                            .step_ms = 300,
                            .drain_s = 30,
                            .alive = on_alive,
                            .notice = on_notice,
                            .opened = on_opened,
                            .arg = &f};
    qn_engine_stats st;
    m.config.model = model_path;
    m.config.max_ctx = 256;
    start(&f, &cfg);
    (void)pthread_mutex_lock(&f.lock);
    while (!f.engine)
        (void)pthread_cond_wait(&f.changed, &f.lock);
    (void)pthread_mutex_unlock(&f.lock);
    do { /* it is probed */
        (void)wait_over(&f, &f.n_alive, f.n_alive);
        qn_engine_get_stats(f.engine, &st);
    } while (st.n_steps < 3);
    assert_int_equal(st.n_running + st.n_waiting, 0);
    assert_int_equal(st.n_prompt_tokens + st.n_output_tokens + st.n_cache_queries, 0);
    assert_int_equal(st.classes[0].n_done, 0);

    qn_step_lock(f.engine); /* nothing goes on any more */
    (void)wait_over(&f, &f.n_sick, 0);
    while (ask(&f, "/health") != 503)
        ;
    int n_alive = wait_over(&f, &f.n_alive, 0);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(ask(&f, "/health"), 503);
        assert_int_equal(ask(&f, "/livez"), 503);
        assert_int_equal(ask(&f, "/ready"), 503);
    }
    assert_int_equal(wait_over(&f, &f.n_alive, 0), n_alive);
    qn_step_unlock(f.engine);
    (void)wait_over(&f, &f.n_well, 0);
    (void)wait_over(&f, &f.n_alive, n_alive);
    stop(&f);
}

static void test_put_away(void **state)
{
    (void)state;
    fixture f = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    qn_server_model m[2] = {{.name = "m", .config = qn_config_default()},
                            {.name = "n", .config = qn_config_default()}};
    qn_server_config cfg = {.models = m,
                            .n_models = 2,
                            .mem_limit = (uint64_t)4 << 30,
                            .keep_ms = 10,
                            .watchdog_ms = 3,
                            .probe_ms = 1,
                            .drain_s = 30,
                            .alive = on_alive,
                            .notice = on_notice,
                            .closed = on_closed,
                            .arg = &f};
    for (int i = 0; i < 2; i++) {
        m[i].config.model = model_path;
        m[i].config.max_ctx = 256;
        m[i].config.n_kv_blocks = 64;
    }
    start(&f, &cfg);
    for (int i = 0; i < 20; i++) { /* though it is probed all the time */
        assert_int_equal(ask_model(&f, m[i % 2].name), 200);
        (void)wait_over(&f, &f.n_closed, i);
    }
    stop(&f);
    assert_int_equal(f.n_sick, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sick),
                                       cmocka_unit_test(test_put_away)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
