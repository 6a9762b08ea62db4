/* SPDX-License-Identifier: Apache-2.0
 * load_client.h - the connections of `quern load`: many requests at once to one server, on one thread, over libevent.
 *
 *   load_client_start(call) --> idle connection, or a new one, or the queue when no more may be opened
 *                                  |
 *                               call->body(bytes) ...  call->end(why)
 *
 * A connection is kept for the next request if the server keeps it. One that turns out to be closed when it is used again is replaced
 * by a new one, once for each call.
 * Threads: the one that runs the event base. end may be called inside load_client_start, with an error only. */
#ifndef QN_CMD_LOAD_CLIENT_H
#define QN_CMD_LOAD_CLIENT_H

#include <event2/event_struct.h>

#include "cmd/load_report.h"
#include "cmd/load_wire.h"

typedef struct load_client load_client;
typedef struct load_call load_call;

struct load_call {
    const char *method, *path; /* path: behind the URL's base */
    const char *class_name;    /* x-priority; NULL: none */
    qn_str text;               /* of the request's body; freed by the owner */
    uint64_t timeout_ns;       /* from the start; 0: none */
    load_bytes_fn body;        /* a piece of the answer's body; a failure ends the call */
    /* The call is over and forgotten: whole (LOAD_NO_TROUBLE) or not (err says why). http is valid during the call of it. */
    void (*end)(load_call *call, load_trouble why, const load_http *http, const qn_err *err);
    void *arg;
    uint64_t sent_ns; /* when its bytes went to a connection, open or being opened; 0: not yet */
    uint64_t read_ns; /* when the bytes that body gets arrived */
    const load_http *http; /* its answer so far, while it is on a connection */
    /* the client's */
    load_client *client;
    struct load_conn *conn;
    load_call *next;
    struct event timer;
    bool is_retried, has_timer;
};

typedef struct load_client_config {
    const load_url *url;
    const char *api_key; /* NULL: none */
    bool is_insecure;    /* TLS: any certificate will do */
} load_client_config;

/* Looks up the host. config is borrowed while the client lives. */
QN_MUST_USE qn_status load_client_new(load_client **out, struct event_base *base,
                                      const load_client_config *config, qn_err *err);
void load_client_free(load_client *c); /* calls that run are forgotten without an end */
/* From now on connects to the host's next address; false: there is none. */
bool load_client_next_address(load_client *c);
void load_client_start(load_client *c, load_call *call);
void load_client_cancel(load_client *c, load_call *call); /* end is not called */

#endif
