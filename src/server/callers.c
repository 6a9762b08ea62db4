/* SPDX-License-Identifier: Apache-2.0
 * callers.c - a table of callers by name, under one lock. */
#include "server/callers.h"

#include "base/mem.h"
#include "base/str.h"
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#define N_CHAINS 1024 /* of callers; a power of 2 */

struct qn_caller {
    qn_callers *all;
    qn_caller *next; /* of its chain */
    uint64_t id;
    size_t n_refs, has[QN_N_POOLS];
    bool may_take_all;
    char name[];
};

struct qn_callers {
    pthread_mutex_t lock; /* of every `has` */
    size_t most[QN_N_POOLS], taken[QN_N_POOLS];
    uint64_t seed, n_ids;
    qn_caller *chains[N_CHAINS];
};

qn_status qn_callers_new(qn_callers **out, const size_t most[QN_N_POOLS], qn_err *err)
{
    qn_callers *k = *out = qn_calloc(1, sizeof *k, QN_MEM_MISC);
    if (!k)
        return qn_fail_nomem(err, sizeof *k);
    (void)pthread_mutex_init(&k->lock, NULL);
    memcpy(k->most, most, sizeof k->most);
    (void)!getrandom(&k->seed, sizeof k->seed, 0); /* chains that nobody outside can make long */
    return QN_OK;
}

void qn_callers_free(qn_callers *k)
{
    if (!k)
        return;
    for (size_t i = 0; i < N_CHAINS; i++)
        QN_ASSERT(!k->chains[i]);
    (void)pthread_mutex_destroy(&k->lock);
    qn_free(k);
}

static qn_caller **chain_of(qn_callers *k, const char *name)
{
    return &k->chains[qn_hash(name, strlen(name), k->seed) % N_CHAINS];
}

qn_caller *qn_callers_enter(qn_callers *k, const char *name, bool may_take_all)
{
    qn_caller **chain = chain_of(k, name), *c = *chain;
    size_t n = strlen(name) + 1;
    while (c && strcmp(c->name, name) != 0)
        c = c->next;
    if (!c) {
        c = qn_calloc(1, sizeof *c + n, QN_MEM_MISC);
        if (!c)
            return NULL;
        *c = (qn_caller){.all = k, .next = *chain, .id = ++k->n_ids, .may_take_all = may_take_all};
        memcpy(c->name, name, n);
        *chain = c;
    }
    return qn_caller_again(c);
}

qn_caller *qn_caller_again(qn_caller *c)
{
    c->n_refs++;
    return c;
}

void qn_callers_leave(qn_caller *c)
{
    if (!c || --c->n_refs)
        return;
    qn_caller **at = chain_of(c->all, c->name);
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    for (size_t p = 0; p < QN_N_POOLS; p++)
        QN_ASSERT(c->has[p] == 0);
    qn_free(c);
}

uint64_t qn_caller_id(const qn_caller *c)
{
    return c->id;
}

bool qn_caller_is_alone(const qn_caller *c)
{
    return c->may_take_all;
}

const char *qn_caller_name(const qn_caller *c)
{
    return c->name;
}

/* With the lock held. */
static void add(qn_caller *c, qn_pool p, size_t n)
{
    c->has[p] += n;
    c->all->taken[p] += n;
}

qn_room qn_caller_take(qn_caller *c, qn_pool p, size_t n)
{
    qn_callers *k = c->all;
    (void)pthread_mutex_lock(&k->lock);
    size_t most = k->most[p], n_free = most - QN_MIN(k->taken[p], most);
    qn_room room = n > n_free                                                   ? QN_ROOM_FULL
                   : c->may_take_all || n <= n_free - QN_MIN(c->has[p], n_free) ? QN_ROOM
                                                                                : QN_ROOM_NO_SHARE;
    if (room == QN_ROOM)
        add(c, p, n);
    (void)pthread_mutex_unlock(&k->lock);
    return room;
}

void qn_caller_count(qn_caller *c, qn_pool p, size_t n)
{
    (void)pthread_mutex_lock(&c->all->lock);
    add(c, p, n);
    (void)pthread_mutex_unlock(&c->all->lock);
}

void qn_caller_give(qn_caller *c, qn_pool p, size_t n)
{
    (void)pthread_mutex_lock(&c->all->lock);
    c->has[p] -= n;
    c->all->taken[p] -= n;
    (void)pthread_mutex_unlock(&c->all->lock);
}
