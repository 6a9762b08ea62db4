/* SPDX-License-Identifier: Apache-2.0
 * callers.h - who asks, and how much each has of what all share.
 *
 *   caller    a key's tenant; without keys an address; all as one where addresses say nothing (loopback, unix socket)
 *
 *   a pool    |##### a #####|### b ###|        free        |
 *
 *             A caller may take more while it has less than what is free: half of a pool alone, a third beside one as
 *             greedy, and so on. Whoever comes next finds room, and nothing need be known of who will come. One that has
 *             nobody beside it (the only tenant, or all as one) may take all.
 *
 * Threads: enter and leave the I/O thread; take and give any. */
#ifndef QN_SERVER_CALLERS_H
#define QN_SERVER_CALLERS_H

#include "base/base.h"

typedef enum qn_pool {
    QN_POOL_BODIES,  /* bytes of requests' bodies */
    QN_POOL_JSON,    /* bytes of what was parsed of them */
    QN_POOL_JOBS,    /* requests that wait for a worker */
    QN_POOL_ANSWERS, /* bytes of whole answers that were not read yet */
    QN_N_POOLS
} qn_pool;

typedef enum qn_room { QN_ROOM, QN_ROOM_NO_SHARE, QN_ROOM_FULL } qn_room;

typedef struct qn_callers qn_callers;
typedef struct qn_caller qn_caller;

QN_MUST_USE qn_status qn_callers_new(qn_callers **out, const size_t most[QN_N_POOLS], qn_err *err);
void qn_callers_free(qn_callers *k); /* after all have left; NULL allowed */
/* name: of the caller; "": all as one. Stays until it has left as often as it entered. NULL: out of memory. */
qn_caller *qn_callers_enter(qn_callers *k, const char *name, bool may_take_all);
qn_caller *qn_caller_again(qn_caller *c);    /* once more; c */
void qn_callers_leave(qn_caller *c);         /* NULL allowed */
uint64_t qn_caller_id(const qn_caller *c);   /* of each another; never 0 */
bool qn_caller_is_alone(const qn_caller *c); /* may take all */
const char *qn_caller_name(const qn_caller *c);
QN_MUST_USE qn_room qn_caller_take(qn_caller *c, qn_pool p, size_t n);
/* What was asked of nobody: it is counted, over the limit too. */
void qn_caller_count(qn_caller *c, qn_pool p, size_t n);
void qn_caller_give(qn_caller *c, qn_pool p, size_t n);

#endif
