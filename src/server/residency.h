/* SPDX-License-Identifier: Apache-2.0
 * residency.h - which of several models are in memory: what is to be opened or put away next.
 *
 *            wanted, and there is room                        idle, and others want its room
 *   OUT ----------------------------> OPENING -----> IN ----------------------------------> CLOSING ---> OUT
 *    ^                                   |            | busy, others want its room, and it has
 *    +---------- could not be opened ----+            | stayed a while
 *                                                     v
 *                                               IN, is_drained: requests that come now wait
 *
 * Rules:
 *  1. Of the wanted models the one whose first request waits longest is opened next; no later one passes it.
 *  2. Room is made by the idle model that was used least recently; then by the busy one that came in first.
 *  3. A busy model stays for twice the time that opening takes, MOST_STAY_NS at most: however requests alternate, at least half of
 *     the time goes into answers.
 *  4. Nothing is put away before all is idle that has to go: what is drained in vain goes on.
 *  5. One model is being opened or put away at a time.
 * Threads: pure; times are the caller's. */
#ifndef QN_SERVER_RESIDENCY_H
#define QN_SERVER_RESIDENCY_H

#include "base/base.h"

#define QN_NEVER UINT64_MAX

typedef enum qn_resident_state {
    QN_RESIDENT_OUT,
    QN_RESIDENT_OPENING,
    QN_RESIDENT_IN,
    QN_RESIDENT_CLOSING
} qn_resident_state;

typedef struct qn_resident {
    qn_resident_state state;
    uint64_t bytes;  /* that it takes */
    bool at_start;   /* to be opened if there is room, though nobody has asked yet */
    bool is_wanted;  /* OUT: somebody has asked; since wanted_ns */
    bool is_drained; /* IN: written here */
    uint32_t n_users;
    uint64_t wanted_ns, in_ns, used_ns; /* asked for; opened; last asked for, or left */
    uint64_t open_ns;                   /* how long opening took; 0: not known */
    uint64_t keep_ns;                   /* idle for so long: put away; QN_NEVER: not for that */
} qn_resident;

typedef enum qn_residency_act {
    QN_RESIDENCY_WAIT, /* until *at is a time that has come, or anything has changed */
    QN_RESIDENCY_OPEN, /* model *at */
    QN_RESIDENCY_CLOSE
} qn_residency_act;

/* limit: of the bytes of all that are not OUT. Each alone fits. */
qn_residency_act qn_residency_next(qn_resident *m, size_t n, uint64_t limit, uint64_t now_ns,
                                   uint64_t *at);
/* Place of a model in the order in which they would go now: 1 the next; 0: it is not IN. */
size_t qn_residency_rank(const qn_resident *m, size_t n, size_t i);

#endif
