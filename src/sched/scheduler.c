/* SPDX-License-Identifier: Apache-2.0
 * scheduler.c - first come, first served under a token budget, with preemption of the youngest. */
#include "sched/scheduler.h"

#include "base/mem.h"

void qn_scheduler_init(qn_scheduler *s, qn_block_pool *pool, uint32_t block_size,
                       uint32_t max_batch_tokens, uint32_t max_seqs)
{
    *s = (qn_scheduler){.pool = pool,
                        .block_size = block_size,
                        .max_batch_tokens = max_batch_tokens,
                        .max_seqs = max_seqs};
}

void qn_scheduler_fini(qn_scheduler *s)
{
    qn_free(s->seqs);
    *s = (qn_scheduler){0};
}

static void give_back(qn_scheduler *s, qn_sched_seq *q)
{
    while (q->n_blocks)
        qn_block_pool_unref(s->pool, q->blocks[--q->n_blocks]);
    q->n_computed = 0;
}

static bool insert(qn_scheduler *s, qn_sched_seq *q)
{
    if (!qn_grow(&s->seqs, &s->seqs_cap, s->n_seqs + 1, sizeof(qn_sched_seq *), QN_MEM_MISC))
        return false;
    size_t at = s->n_seqs++;
    for (; at && s->seqs[at - 1]->arrival > q->arrival; at--)
        s->seqs[at] = s->seqs[at - 1];
    s->seqs[at] = q;
    return true;
}

qn_status qn_scheduler_add(qn_scheduler *s, qn_sched_seq *q, uint32_t max_tokens, qn_err *err)
{
    size_t room = qn_block_pool_n_blocks(s->pool) * (size_t)s->block_size;
    if (max_tokens > room)
        return qn_fail(err, QN_E_TOO_LONG,
                       "the request may need %u tokens of K/V cache, there is room for %zu",
                       max_tokens, room);
    return insert(s, q) ? QN_OK : qn_fail_nomem(err, sizeof(qn_sched_seq *));
}

/* Gives q at least n blocks. */
static bool reserve(qn_scheduler *s, qn_sched_seq *q, uint32_t n)
{
    size_t cap = q->blocks_cap;
    if (n <= q->n_blocks)
        return true;
    if (!qn_grow(&q->blocks, &cap, n, sizeof *q->blocks, QN_MEM_REQUEST)) {
        s->no_memory = true;
        return false;
    }
    q->blocks_cap = (uint32_t)cap;
    if (!qn_block_pool_alloc(s->pool, n - q->n_blocks, q->blocks + q->n_blocks))
        return false;
    q->n_blocks = n;
    return true;
}

qn_status qn_scheduler_fork(qn_scheduler *s, qn_sched_seq *child, const qn_sched_seq *parent,
                            int32_t *copy_to, int32_t *copy_from, qn_err *err)
{
    *copy_to = *copy_from = QN_BLOCK_NULL;
    if (!insert(s, child))
        return qn_fail_nomem(err, sizeof(qn_sched_seq *));
    uint32_t full = parent->n_computed / s->block_size, rest = parent->n_computed % s->block_size;
    uint32_t want = full + (rest ? 1 : 0);
    size_t cap = child->blocks_cap;
    if (!want)
        return QN_OK;
    if (!qn_grow(&child->blocks, &cap, want, sizeof *child->blocks, QN_MEM_REQUEST))
        return qn_fail_nomem(err, want * sizeof *child->blocks);
    child->blocks_cap = (uint32_t)cap;
    int32_t fresh = QN_BLOCK_NULL;
    if (rest && !qn_block_pool_alloc(s->pool, 1, &fresh))
        return qn_fail(err, QN_E_KV_FULL, "no K/V block is free");
    for (uint32_t i = 0; i < full; i++) {
        child->blocks[i] = parent->blocks[i];
        qn_block_pool_ref(s->pool, child->blocks[i]);
    }
    if (rest) {
        child->blocks[full] = *copy_to = fresh;
        *copy_from = parent->blocks[full];
    }
    child->n_blocks = want;
    child->n_computed = parent->n_computed;
    child->state = QN_SEQ_RUNNING;
    return QN_OK;
}

void qn_scheduler_remove(qn_scheduler *s, qn_sched_seq *q)
{
    give_back(s, q);
    qn_free(q->blocks);
    q->blocks = NULL;
    q->blocks_cap = 0;
    q->state = QN_SEQ_FINISHED;
    size_t k = 0;
    for (size_t i = 0; i < s->n_seqs; i++)
        if (s->seqs[i] != q)
            s->seqs[k++] = s->seqs[i];
    s->n_seqs = k;
}

/* Blocks behind the last token were for drafts that did not come true. */
static void drop_spare(qn_scheduler *s, qn_sched_seq *q)
{
    while (q->n_blocks > QN_DIV_UP(q->n_tokens, s->block_size))
        qn_block_pool_unref(s->pool, q->blocks[--q->n_blocks]);
}

/* What one schedule has left to give. */
typedef struct turn {
    uint32_t budget, n_chosen;
    bool preempted;
} turn;

/* Tokens that q could store in its own blocks and the free ones. */
static size_t room_of(const qn_scheduler *s, const qn_sched_seq *q)
{
    return (q->n_blocks + qn_block_pool_n_free(s->pool)) * s->block_size - q->n_computed;
}

/* The youngest sequence after q that holds blocks gives them back, and what this schedule gave it.
 * False: there is none. */
static bool preempt_after(qn_scheduler *s, const qn_sched_seq *q, turn *t)
{
    for (size_t i = s->n_seqs; i && s->seqs[i - 1] != q; i--) {
        qn_sched_seq *victim = s->seqs[i - 1];
        if (!victim->n_blocks)
            continue;
        t->budget += victim->n_scheduled;
        t->n_chosen -= victim->n_scheduled > 0;
        t->preempted = true;
        give_back(s, victim);
        victim->state = QN_SEQ_WAITING;
        victim->n_scheduled = 0;
        s->n_preempted++;
        return true;
    }
    return false;
}

/* Gives q what budget and room allow of its missing tokens; a waiting one starts only if all of
 * them would fit. Returns how many. */
static uint32_t give(qn_scheduler *s, qn_sched_seq *q, turn *t)
{
    uint32_t missing = q->n_tokens - q->n_computed;
    uint32_t least = q->state == QN_SEQ_RUNNING ? 1 : missing;
    while (room_of(s, q) < least)
        if (!preempt_after(s, q, t))
            return 0;
    size_t n = QN_MIN(room_of(s, q), (size_t)QN_MIN(missing, t->budget));
    if (!reserve(s, q, QN_DIV_UP(q->n_computed + (uint32_t)n, s->block_size)))
        return 0;
    q->n_scheduled = (uint32_t)n;
    q->state = QN_SEQ_RUNNING;
    t->budget -= q->n_scheduled;
    t->n_chosen++;
    return q->n_scheduled;
}

size_t qn_scheduler_schedule(qn_scheduler *s, qn_sched_seq **out)
{
    turn t = {.budget = s->max_batch_tokens};
    s->no_memory = false;
    for (size_t i = 0; i < s->n_seqs; i++) {
        s->seqs[i]->n_scheduled = 0;
        drop_spare(s, s->seqs[i]);
    }
    /* pass 0: decoding; pass 1: running with more to catch up; pass 2: waiting */
    for (int pass = 0; pass < 3; pass++) {
        for (size_t i = 0; i < s->n_seqs && t.budget && t.n_chosen < s->max_seqs; i++) {
            qn_sched_seq *q = s->seqs[i];
            uint32_t missing = q->n_tokens - q->n_computed;
            bool running = q->state == QN_SEQ_RUNNING;
            bool due = pass == 0   ? running && missing == 1
                       : pass == 1 ? running && missing > 1
                                   : !running;
            if (!due || !missing || q->n_scheduled)
                continue;
            if (pass == 2 && t.preempted)
                break; /* it would soon be preempted again */
            if (!give(s, q, &t) && pass == 2)
                break; /* the oldest waiting one goes first, or nobody */
        }
    }
    /* preemption may have taken back what an earlier pass gave, so the list is made last */
    size_t n_out = 0;
    for (size_t i = 0; i < s->n_seqs; i++)
        if (s->seqs[i]->n_scheduled)
            out[n_out++] = s->seqs[i];
    s->budget = t.budget;
    return n_out;
}

uint32_t qn_scheduler_draft(qn_scheduler *s, qn_sched_seq *q, uint32_t n)
{
    uint32_t end = q->n_computed + q->n_scheduled;
    QN_ASSERT(q->n_scheduled && end == q->n_tokens && !q->n_drafted);
    size_t room = (q->n_blocks + qn_block_pool_n_free(s->pool)) * (size_t)s->block_size - end;
    n = (uint32_t)QN_MIN((size_t)QN_MIN(n, s->budget), room);
    if (!n || !reserve(s, q, QN_DIV_UP(end + n, s->block_size)))
        return 0;
    q->n_drafted = n;
    q->n_scheduled += n;
    s->budget -= n;
    return n;
}

void qn_scheduler_advance(qn_scheduler *s)
{
    for (size_t i = 0; i < s->n_seqs; i++) {
        qn_sched_seq *q = s->seqs[i];
        q->n_computed += q->n_scheduled - q->n_drafted;
        q->n_scheduled = q->n_drafted = 0;
    }
}

qn_status qn_scheduler_check(const qn_scheduler *s, qn_err *err)
{
    for (size_t i = 0; i < s->n_seqs; i++) {
        const qn_sched_seq *q = s->seqs[i];
        uint32_t want = QN_DIV_UP(q->n_computed + q->n_scheduled, s->block_size);
        if (q->n_blocks < want)
            return qn_fail(err, QN_E_INTERNAL, "scheduler: sequence %zu holds %u blocks, needs %u",
                           i, q->n_blocks, want);
        if (q->n_computed + q->n_scheduled > q->n_tokens + q->n_drafted ||
            (q->n_drafted && q->n_computed + q->n_scheduled != q->n_tokens + q->n_drafted))
            return qn_fail(err, QN_E_INTERNAL, "scheduler: sequence %zu is %u of %u tokens ahead",
                           i, q->n_computed + q->n_scheduled, q->n_tokens);
        if (q->state == QN_SEQ_WAITING && (q->n_blocks || q->n_computed))
            return qn_fail(err, QN_E_INTERNAL, "scheduler: sequence %zu waits and holds %u blocks",
                           i, q->n_blocks);
        if (i && s->seqs[i - 1]->arrival > q->arrival)
            return qn_fail(err, QN_E_INTERNAL, "scheduler: sequence %zu is out of order", i);
    }
    return qn_block_pool_check(s->pool, err);
}
