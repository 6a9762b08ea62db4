/* SPDX-License-Identifier: Apache-2.0
 * core.h - the structs of the HTTP core, and what its files do for each other.
 *
 *   qn_server 1--n qn_conn 1--(0 or 1) qn_exchange 1--n qn_gen (a request of an engine)
 *
 *   listener.c   sockets that listen, connections accepted or refused
 *   conn.c       bytes in, bytes out, time limits, clients that vanish
 *   secrets.c    keys and certificate, read again while serving
 *   access.c     who may: Host, Origin, keys, routes
 *   exchange.c   what a handler sees of a request, and its answer
 *   generate.c   an engine's events brought to an answer
 *   models.c     models, opened one after the other
 *   pulse.c      whether the engines still work
 *   server.c     beginning, waking, draining, end
 *
 * Threads: everything is the I/O thread's, but
 *   an exchange that a worker has (READING -> WORKING -> ANSWERING): all of it except conn, is_gone and what ready_lock guards
 *   ready_lock: the list of exchanges that the I/O thread must look at, and is_listed, is_back of each
 *   atomics
 * An engine calls notify with a lock of the request's held; ready_lock is taken under it, and nothing under ready_lock. */
#ifndef QN_SERVER_CORE_H
#define QN_SERVER_CORE_H

#include "server/exchange.h"
#include "server/http.h"
#include "server/server.h"
#include "server/workers.h"
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/uio.h>

typedef struct qn_conn qn_conn;
typedef struct qn_keys qn_keys;
typedef struct qn_beat qn_beat;

/* ---- exchange ---- */

typedef enum qn_x_stage {
    QN_X_READING,
    QN_X_WORKING,   /* with a worker, or waiting for one */
    QN_X_ANSWERING, /* events of an engine come */
    QN_X_OVER       /* answered or abandoned, and noted down */
} qn_x_stage;

/* One prompt. */
typedef struct qn_gen {
    qn_request *request; /* NULL: over */
    uint64_t submit_ns, first_ns, last_ns[QN_LIMIT_CANDIDATES];
    uint64_t n_output; /* tokens that came */
    qn_finish finish;
} qn_gen;

struct qn_exchange {
    qn_server *server;
    qn_conn *conn; /* NULL: the client has gone */
    qn_x_stage stage;
    int status; /* of the answer; 0: none yet */
    qn_http http;
    const qn_route *route; /* NULL: not looked up, or none */
    qn_slice rest;
    char id[QN_LIMIT_HTTP_REQUEST_ID + 1];
    const char *tenant, *class_name;
    qn_keys *keys;         /* tenant, class_name and key_class are theirs; NULL: there are none */
    const char *key_class; /* the most urgent class that the key may name; NULL: any */
    char *body;
    size_t n_body, cap_body;
    json_t *json;
    size_t json_bytes; /* in the server's sum */
    qn_arena arena;
    uint64_t begin_ns;
    void (*slow)(qn_exchange *x); /* what the worker for long computations does */

    /* the answer */
    char type[64];
    qn_str headers, out; /* added; the body of a whole answer */
    uint64_t n_sent, wrote_ns;
    bool has_retry; /* a header Retry-After was added */
    bool is_head;   /* the body is not sent */
    bool is_begun, is_ended, is_event_stream, is_chunked;
    bool is_held;        /* the client must read first */
    atomic_bool is_gone; /* written by the I/O thread */

    /* generating */
    const qn_answer_api *api; /* NULL: not */
    void *arg;
    qn_gen *gens;
    size_t n_gens, n_open;
    const char *model, *gen_class; /* for the books */
    int max_tokens, n;
    uint64_t n_prompt, n_cached, n_output;
    char reason[64],
        param[32]; /* of an error, for the log: nothing that a client wrote, and a field's name */

    /* ready_lock */
    qn_exchange *next_ready;
    bool is_listed, is_back; /* in the list; handed back by its worker */
};

qn_exchange *qn_x_new(qn_conn *c); /* NULL: out of memory */
void qn_x_free(qn_exchange *x);    /* not listed, no requests */
/* I/O thread, after anything that may have answered: sends what is there, goes on or ends. x may be freed after it. */
void qn_x_settle(qn_exchange *x);
/* The client has gone: its requests too, at once or when the worker hands it back. x may be freed after it. */
void qn_x_abandon(qn_exchange *x);
/* Run by a worker. */
void qn_x_work(void *job);
void qn_x_work_slowly(void *job);
/* The status of HTTP, and (unless NULL) OpenAI's code or NULL. */
int qn_x_status(qn_status s, const char **code);
/* Answers an error with a header "Retry-After". */
void qn_x_refuse(qn_exchange *x, int status, int retry_s, const char *why);
void qn_x_because(qn_exchange *x, const char *reason); /* for the log; the first one stays */
bool qn_x_is_answered(const qn_exchange *x);
void qn_x_drop_body(qn_exchange *x); /* it was read */
void qn_x_note(qn_exchange *x);      /* the log's line and the count of an answer */

/* generate.c: reads events until there are none, or until the client must read. */
void qn_x_poll(qn_exchange *x);
void qn_x_drop(qn_exchange *x, int status, qn_finish finish, const char *reason);
/* The end of the server has come: an error ends the answer. */
void qn_x_cut(qn_exchange *x);
void qn_x_silence(qn_exchange *x); /* something must be said */

/* ---- connection ---- */

typedef enum qn_conn_state {
    QN_CONN_READING,  /* a request, or waiting for one */
    QN_CONN_BUSY,     /* its answer is being made */
    QN_CONN_FLUSHING, /* the last bytes are on their way */
    QN_CONN_LINGERING /* what the client still sends is thrown away, so that it reads our answer */
} qn_conn_state;

struct qn_conn {
    qn_server *server;
    qn_conn *prev, *next;
    struct bufferevent *bev;
    int fd;
    bool is_tls, is_local; /* local: a unix socket */
    uint8_t address[16];   /* of IPv6 the first 8 bytes: whoever has one has 2^64 */
    qn_exchange *x;        /* being read or answered */
    qn_conn_state state;
    bool is_old;     /* had a request already */
    bool is_broken;  /* writing failed: to be closed as soon as no one uses it */
    bool is_half;    /* the client will send no more */
    bool is_closing; /* after this answer */
    bool is_discarding;
    bool is_turning;            /* its input is being read: it is not freed meanwhile */
    bool is_closed;             /* to be freed after that */
    uint64_t since_ns, last_ns; /* head or body began; its last byte */
    struct event *timer, *reset;
    int reset_fd;      /* a copy of fd, whose edges tell of a reset */
    uint64_t armed_ns; /* when the timer fires; 0: never */
};

/* Takes fd over. */
void qn_conn_open(qn_server *s, int fd, const struct sockaddr *from);
/* Ends it and what is on it. */
void qn_conn_close(qn_conn *c);
void qn_conn_write(qn_conn *c, const struct iovec *v, int n_v);
size_t qn_conn_backlog(const qn_conn *c);
bool qn_conn_is_idle(const qn_conn *c); /* between requests, and none is waiting to be read */
void qn_conn_send_answer(qn_conn *c, qn_exchange *x); /* a whole one */
void qn_conn_send_head(qn_conn *c, qn_exchange *x);   /* of one in pieces */
/* The answer is over: the next request, or the end. x is freed. */
void qn_conn_next(qn_conn *c);
void qn_conn_watch(qn_conn *c); /* its time limits have changed */

/* ---- models ---- */

typedef struct qn_model {
    const qn_server_model *cfg;
    _Atomic(qn_engine *) engine; /* NULL: not open yet */
    atomic_int permille;
    uint64_t created;
    qn_server *server;
} qn_model;

QN_MUST_USE qn_status qn_models_init(qn_server *s, qn_err *err);
QN_MUST_USE qn_status qn_models_start(qn_server *s, qn_err *err);
void qn_models_note(qn_server *s); /* I/O thread: engines that have come */
bool qn_models_are_ready(const qn_server *s, double *progress);
const qn_model *qn_model_of(const qn_server *s, const qn_engine *e);

/* ---- secrets ---- */

typedef struct qn_key {
    uint8_t digest[32];
    const char *tenant, *class_name;
    char made[20]; /* tenant, if it has no other */
} qn_key;

/* One reading of the keys. */
struct qn_keys {
    size_t
        n_users; /* the server, and exchanges that came by one of them: I/O thread, once the server has it */
    size_t n;
    qn_key *list;
    qn_arena arena;
};

/* Any thread. *out is NULL where there is no TLS. */
QN_MUST_USE qn_status qn_keys_read(qn_keys **out, const qn_server_config *cfg, qn_err *err);
QN_MUST_USE qn_status qn_tls_read(void **out, const qn_server_config *cfg, qn_err *err);
const qn_key *qn_keys_find(const qn_keys *k, qn_slice given); /* NULL: none of them */
void qn_keys_drop(qn_keys *k);                                /* NULL allowed */
QN_MUST_USE qn_status qn_secrets_init(qn_server *s, qn_err *err);
QN_MUST_USE qn_status qn_secrets_start(qn_server *s, qn_err *err); /* its thread */
void qn_secrets_note(qn_server *s); /* I/O thread: asked to read again, or something was read */
void qn_secrets_end(qn_server *s);

/* ---- access ---- */

/* After the head: finds the route, and whether it may be used; false: answered. */
bool qn_access_check(qn_exchange *x);

/* ---- server ---- */

typedef enum qn_server_phase {
    QN_SERVER_RUNNING,
    QN_SERVER_DRAINING,
    QN_SERVER_ENDING
} qn_server_phase;

typedef struct qn_server_times {
    uint64_t header_ns, body_gap_ns, body_ns, idle_ns, stall_ns, linger_ns, silence_ns;
} qn_server_times;

struct qn_server {
    const qn_server_config *cfg;
    qn_server_times times;
    int max_connections, max_per_address, port;
    struct event_base *base;
    struct evconnlistener *listener;
    struct event *wake, *resume, *deadline; /* eventfd; accepting again; draining is over */
    int wake_fd;
    bool is_loopback, is_local;
    char *socket_path; /* to be removed at the end */
    qn_conn *conns;
    size_t n_conns, n_working; /* exchanges that workers have */
    uint64_t n_bodies;         /* bytes */
    atomic_size_t json_bytes;  /* of all exchanges */
    qn_server_phase phase;
    bool is_sick;   /* for good: a device failed */
    bool is_stuck;  /* as of pulse.c's last look */
    qn_beat *beats; /* [n_models] */
    struct event *pulse;
    uint64_t looked_ns, asked_ns; /* the last look; when someone last wanted to know */
    qn_keys *keys;
    void *tls; /* SSL_CTX; NULL: plain */
    uint64_t id_prefix, n_ids;
    const qn_route *const *routes;
    qn_workers *workers, *slow, *log, *reader;
    uint64_t n_log_lost;
    qn_metrics *metrics;

    pthread_mutex_t ready_lock;
    qn_exchange *ready, **ready_end;

    pthread_mutex_t fresh_lock;
    qn_keys *fresh_keys; /* read, and not taken yet */
    void *fresh_tls;

    atomic_int n_stops, n_reloads;
    int n_reloads_seen;
    qn_model *models;
    const char **names;
    qn_engine **engines; /* the I/O thread's copy, for qn_server_engines */
    pthread_t loader;
    bool has_loader;
    atomic_bool has_failed;
    qn_err load_err; /* the loader's until has_failed */
};

void qn_server_wake(qn_server *s);               /* any thread, also in a signal handler */
void qn_server_ready(qn_exchange *x, bool back); /* any thread: the I/O thread shall look at x */
void qn_server_unlist(qn_exchange *x);
void qn_server_log(qn_server *s, const char *line, size_t n); /* of an answer; I/O thread */
/* What happens to the server itself. Any thread. */
void qn_server_notice(qn_server *s, const char *fmt, ...) QN_PRINTF(2, 3);
void qn_server_check_drained(qn_server *s);

/* ---- pulse ---- */

QN_MUST_USE qn_status qn_pulse_init(qn_server *s, qn_err *err);
void qn_pulse_ask(qn_server *s); /* someone wants to know: look for the next minute */
bool qn_pulse_is_sick(const qn_server *s);
void qn_pulse_end(qn_server *s); /* before the engines */

/* listener.c */
QN_MUST_USE qn_status qn_listener_open(qn_server *s, qn_err *err);
void qn_listener_close(qn_server *s);
void qn_listener_address(uint8_t out[16], const struct sockaddr *from);

#endif
