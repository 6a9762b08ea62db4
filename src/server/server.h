/* SPDX-License-Identifier: Apache-2.0
 * server.h - serves models over HTTP: sockets, workers, models, and the end of it.
 *
 * qn_server_new listens; qn_server_run serves until qn_server_stop, on the caller's thread, which is the I/O thread. Models are
 * opened by a loader thread that run starts, one after the other, while /health and /ready already answer. Several models under a
 * limit of memory are opened when they are asked for, and the least recently used ones put away.
 * Threads: as exchange.h; stop and reload are safe in a signal handler. */
#ifndef QN_SERVER_SERVER_H
#define QN_SERVER_SERVER_H

#include "server/metrics.h"

typedef struct qn_server qn_server;

/* A key and whose it is. */
typedef struct qn_api_key {
    const char *key;
    const char *tenant;     /* NULL: made of the key's hash */
    const char *class_name; /* of its requests that name none; NULL: the default */
} qn_api_key;

typedef struct qn_server_model {
    const char *name; /* as requests name it */
    const char *const *aliases;
    size_t n_aliases;
    qn_config config;
} qn_server_model;

typedef struct qn_server_config {
    const char *host; /* "127.0.0.1"; "unix:/path" */
    int port;         /* 0: any; qn_server_port says which */
    int listen_fd; /* 0: none; a socket that listens already, instead of host and port. Taken over */
    int socket_mode; /* of unix:PATH, 0660; 0: as the umask has it */
    bool any_model;  /* an unknown name means the first */
    const qn_server_model *models;
    size_t n_models;
    uint64_t
        mem_limit; /* bytes for the process; of several models those that fit are open. 0: all are */
    uint32_t keep_ms; /* under mem_limit: one that nobody asked for so long is put away; 0: not */
    const char *key_file;   /* read again by qn_server_reload; NULL: none */
    const qn_api_key *keys; /* besides */
    size_t n_keys;
    const char *const *cors; /* origins allowed; "*": all */
    size_t n_cors;
    const char *const *
        hosts; /* names in the Host header that are ours besides the address and localhost; only on loopback */
    size_t n_hosts;
    const char *tls_cert, *tls_key;       /* PEM files, as key_file; NULL: plain HTTP */
    const struct qn_route *const *routes; /* tables, ended by NULL; NULL: all APIs */
    int n_workers;                        /* 0: 2 */
    int drain_s;                          /* the time that running answers have after stop */
    /* How often `alive` is to be called; 0: never. With it the models are probed also when nobody asks for /health. */
    int watchdog_ms;
    int step_ms;  /* the longest that an operation of a step may take; 0: QN_LIMIT_STEP_MS */
    int probe_ms; /* an engine idle so long is asked for a token; 0: 30 s */
    int max_connections, max_per_address; /* 0: limits.def */
    /* 0: limits.def */
    int header_ms, body_gap_ms, body_ms, idle_ms, stall_ms, linger_ms, silence_ms, model_ms;
    /* One line of log, without its newline; any thread. NULL: none. Never holds a prompt, an answer or a key. */
    void (*log)(void *arg, const char *line);
    /* The same of the server itself: it drains, has read its keys again, is sick. */
    void (*notice)(void *arg, const char *line);
    /* It listens, and no thread was started yet: what the threads shall not be able to do is given up here. NULL: nothing. */
    qn_status (*confine)(void *arg, qn_err *err);
    /* The I/O thread and the engines do what they should; every watchdog_ms or more often. I/O thread: must not wait. */
    void (*alive)(void *arg);
    /* The loader's: what of which model, how far. */
    void (*progress)(void *arg, const char *model, const char *what, double done);
    /* A model is open, or (err) could not be opened. */
    void (*opened)(void *arg, const char *model, qn_engine *e, const qn_err *err);
    void (*closed)(void *arg, const char *model); /* it was put away */
    void (*ready)(void *arg);                     /* requests are answered from now on */
    void *arg;
} qn_server_config;

/* cfg and what it points to are borrowed while the server lives. */
QN_MUST_USE qn_status qn_server_new(qn_server **out, const qn_server_config *cfg, qn_err *err);
int qn_server_port(const qn_server *s);
/* QN_OK after a stop; an error if a model could not be opened, or the loop failed. */
QN_MUST_USE qn_status qn_server_run(qn_server *s, qn_err *err);
/* First: no new requests (503), running answers end within drain_s. Second: at once. */
void qn_server_stop(qn_server *s);
/* Keys and certificate are read again. What cannot be used leaves the old; either is told to `notice`. */
void qn_server_reload(qn_server *s);
qn_metrics *qn_server_metrics(qn_server *s);
/* The models, for qn_metrics_*: freed with qn_free. NULL: out of memory, or there are none. */
qn_model_view *qn_server_views(qn_server *s, size_t *n);
/* Whether a model is being opened, which qn_server_free would wait for. */
bool qn_server_is_opening(qn_server *s);
void qn_server_free(qn_server *s);

#endif
