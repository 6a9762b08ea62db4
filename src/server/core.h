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
 *   models.c     models by name: who uses one, who waits until it is open
 *   loader.c     the thread that opens models and puts them away
 *   pulse.c      whether the engines still work
 *   server.c     beginning, waking, draining, end
 *
 * Threads: everything is the I/O thread's, but
 *   an exchange that a worker has (READING -> WORKING -> ANSWERING): all of it except conn, is_gone and what ready_lock guards
 *   ready_lock: the list of exchanges that the I/O thread must look at, and is_listed, is_back of each
 *   models.lock: which models are open, who uses them, who waits for them
 *   atomics
 * An engine calls notify with a lock of the request's held; ready_lock is taken under it, and nothing under ready_lock. Under
 * models.lock an engine's numbers are read and it is probed, which never waits. */
#ifndef QN_SERVER_CORE_H
#define QN_SERVER_CORE_H

#include "server/callers.h"
#include "server/exchange.h"
#include "server/http.h"
#include "server/residency.h"
#include "server/server.h"
#include "server/workers.h"
#include <event2/event.h>
#include <pthread.h>
#include <quern/measure.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define QN_NS_PER_SECOND 1000000000u
#define QN_NS_PER_MS     1000000u
static inline struct timeval qn_time_of(uint64_t ns)
{
    return (struct timeval){(time_t)(ns / QN_NS_PER_SECOND),
                            (suseconds_t)(ns % QN_NS_PER_SECOND / 1000)};
}
/* What a timer is given that shall not fire before `at`. */
static inline struct timeval qn_time_until(uint64_t at, uint64_t now)
{
    return qn_time_of((at > now ? at - now : 0) + 1000);
}

typedef struct qn_conn qn_conn;
typedef struct qn_keys qn_keys;
typedef struct qn_beat qn_beat;
typedef struct qn_model qn_model;

/* ---- exchange ---- */

typedef enum qn_x_stage {
    QN_X_READING,
    QN_X_WORKING,   /* with a worker, or waiting for one, or for its model */
    QN_X_ANSWERING, /* events of an engine come */
    QN_X_OVER       /* answered or abandoned, and noted down */
} qn_x_stage;

/* What a worker is to do with it. */
typedef enum qn_x_work_kind {
    QN_X_HANDLE, /* the route's handler */
    QN_X_FINISH, /* the api's done: a large answer */
    QN_X_FREE    /* what is slow to free; it is over, and nobody else has it */
} qn_x_work_kind;

/* One prompt. */
typedef struct qn_gen {
    qn_request *request; /* NULL: over */
    uint64_t submit_ns, first_ns, last_ns[QN_LIMIT_CANDIDATES];
    uint64_t n_output; /* tokens that came */
    qn_finish finish;
} qn_gen;

struct qn_exchange {
    qn_job job; /* first: what workers know it by */
    qn_x_work_kind work;
    qn_server *server;
    qn_conn *conn;     /* NULL: the client has gone */
    qn_caller *caller; /* NULL: not known yet */
    bool has_place;    /* among the jobs: counted */
    bool is_put_off;   /* its handler is called again, by `workers` */
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
    size_t json_bytes; /* counted */
    qn_arena arena;
    uint64_t begin_ns;
    qn_workers *workers; /* that call its handler; NULL: the server's first */
    qn_model *held;      /* stays open while the exchange lives; NULL: none */
    qn_model *wanted;    /* not open when the handler asked for it */
    uint64_t waited_ns;  /* for it, altogether */

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
    int max_tokens, n, n_logprobs;
    uint64_t n_prompt, n_cached, n_output;
    char reason[64],
        param[32]; /* of an error, for the log: nothing that a client wrote, and a field's name */

    /* models.lock: in its model's list, until then */
    qn_exchange *next_waiting;
    uint64_t wait_ns, wait_until_ns;

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
void qn_x_work(qn_job *job);
/* To a worker, which has it until it is listed as back; false: too many wait, and that is answered. */
bool qn_x_hand_over(qn_exchange *x, qn_x_work_kind work);
/* n more of a pool for its caller; false: there are none, and that is answered. */
bool qn_x_take(qn_exchange *x, qn_pool p, size_t n);
/* The status of HTTP, and (unless NULL) OpenAI's code or NULL. */
int qn_x_status(qn_status s, const char **code);
void qn_x_retry_after(qn_exchange *x, uint64_t s); /* adds the header */
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
    bool is_full;               /* more has come than is read ahead of an answer: reading pauses */
    bool is_turning;            /* its input is being read: it is not freed meanwhile */
    bool is_closed;             /* to be freed after that */
    uint64_t since_ns, last_ns; /* head or body began; its last byte */
    qn_caller *caller;          /* of its last request; before the first by address alone */
    size_t n_output;            /* bytes that wait for the client, counted as the caller's */
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
bool qn_conn_has_room(const qn_conn *c); /* for more of an answer in pieces */
/* From here on its bytes are those of that caller. */
QN_MUST_USE bool qn_conn_set_caller(qn_conn *c, const char *name, bool may_take_all);
bool qn_conn_is_idle(const qn_conn *c); /* between requests, and none is waiting to be read */
void qn_conn_send_answer(qn_conn *c, qn_exchange *x); /* a whole one */
void qn_conn_send_head(qn_conn *c, qn_exchange *x);   /* of one in pieces */
/* The answer is over: the next request, or the end. x is freed. */
void qn_conn_next(qn_conn *c);
void qn_conn_watch(qn_conn *c); /* its time limits have changed */

/* ---- models ---- */

struct qn_model {
    const qn_server_model *cfg;
    qn_server *server;
    qn_resident *resident; /* models.lock */
    atomic_int permille;   /* of opening it */
    uint64_t created;
    /* models.lock */
    qn_engine *engine; /* NULL: not open */
    qn_request *probe; /* of engine, and dropped before it: pulse.c's, and no use of the model */
    qn_exchange *waiting, **waiting_end;
    qn_engine_info info; /* as it was open last, or as planned; its strings are below */
    char texts[4][96];
    bool has_info;
    qn_engine_stats past; /* of engines that were put away */
    uint64_t n_opened, n_closed, n_failed, opening_ns;
    uint64_t retry_ns; /* after a failure: not tried again before */
    unsigned n_tries;  /* in vain, one after the other */
    qn_err why;
};

typedef struct qn_models {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* for the loader; CLOCK_MONOTONIC */
    qn_model *of;
    qn_resident *residents;
    size_t n;
    bool on_demand; /* not all are open all the time: set once */
    uint64_t limit; /* bytes for all of them: set by the loader before the first is opened */
    pthread_t loader;
    bool has_loader;
    /* lock */
    bool is_ready, is_ending, is_opening;
    size_t n_waiting;
    uint64_t first_until_ns; /* when the first of those that wait has waited enough, or earlier */
    atomic_bool has_failed;
    qn_err err; /* the loader's until has_failed */
    /* I/O thread */
    struct event *timer;
    uint64_t armed_ns;
} qn_models;

/* models.c */
QN_MUST_USE qn_status qn_models_init(qn_server *s, qn_err *err);
void qn_models_fini(qn_server *s); /* also after a failed init */
void qn_models_note(qn_server *s); /* I/O thread, when it was woken: who waits has a time limit */
size_t qn_models_refuse(qn_server *s,
                        const char *why); /* I/O thread: all that wait; their number */
bool qn_models_are_ready(qn_server *s, double *progress);
/* Worker: x->wanted was not open when the handler asked for it. True: x waits, and is the loader's now. False: it is answered, or
 * x->held is open and the handler may be called again. */
bool qn_models_wait(qn_exchange *x);
void qn_models_forget(
    qn_exchange *x); /* I/O thread: its client has gone; handed back if it waits */
void qn_models_release(qn_exchange *x); /* of x->held */
/* The numbers of m, with the lock held. */
void qn_model_add_stats(qn_model *m, qn_engine_stats *to);
/* Those that wait for m use it from now on and go back to the workers, or (err) are told why not. With the lock held. */
void qn_model_hand_over(qn_model *m, const qn_err *err);

/* loader.c */
QN_MUST_USE qn_status qn_loader_start(qn_server *s, qn_err *err);
void qn_loader_end(qn_server *s);  /* nothing further is opened */
void qn_loader_join(qn_server *s); /* waits for what is being opened; puts all away */

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
    bool has_one_tenant;
    qn_arena arena;
};

/* Any thread. *out is NULL where there is no TLS. */
QN_MUST_USE qn_status qn_keys_read(qn_keys **out, const qn_server_config *cfg, qn_err *err);
QN_MUST_USE qn_status qn_tls_read(void **out, const qn_server_config *cfg, qn_err *err);
/* *out is NULL if it is none of them; false: out of memory. */
QN_MUST_USE bool qn_keys_find(const qn_keys *k, qn_slice given, const qn_key **out);
void qn_keys_drop(qn_keys *k); /* NULL allowed */
QN_MUST_USE qn_status qn_secrets_init(qn_server *s, qn_err *err);
QN_MUST_USE qn_status qn_secrets_start(qn_server *s, qn_err *err); /* its thread */
void qn_secrets_note(qn_server *s); /* I/O thread: asked to read again, or something was read */
void qn_secrets_end(qn_server *s);

/* ---- access ---- */

/* After the head: finds the route, whether it may be used, and whose request it is; false: answered. */
bool qn_access_check(qn_exchange *x);

/* ---- server ---- */

typedef enum qn_server_phase {
    QN_SERVER_RUNNING,
    QN_SERVER_DRAINING,
    QN_SERVER_ENDING
} qn_server_phase;

typedef struct qn_server_times {
    uint64_t header_ns, body_gap_ns, body_ns, idle_ns, stall_ns, linger_ns, silence_ns, model_ns;
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
    qn_callers *callers;
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
    qn_workers *workers, *long_work[QN_X_N_LONG], *log, *reader;
    uint64_t n_log_lost;
    qn_metrics *metrics;

    pthread_mutex_t ready_lock;
    qn_exchange *ready, **ready_end;

    pthread_mutex_t fresh_lock;
    qn_keys *fresh_keys; /* read, and not taken yet */
    void *fresh_tls;

    atomic_int n_stops, n_reloads;
    int n_reloads_seen;
    qn_job read_again; /* the reader's only one */
    qn_models models;
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
void qn_pulse_end(qn_server *s);

/* listener.c */
QN_MUST_USE qn_status qn_listener_open(qn_server *s, qn_err *err);
void qn_listener_close(qn_server *s);
void qn_listener_address(uint8_t out[16], const struct sockaddr *from);

#endif
