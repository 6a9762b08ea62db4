/* SPDX-License-Identifier: Apache-2.0
 * scheduler.h - which tokens of which sequences the next step computes. Integers only; time comes
 * in as a number.
 *
 * There is no prefill phase and no decode phase: a sequence has n_computed tokens that must catch
 * up with its n_tokens. A step takes, in this order:
 *
 *   1. urgent       of classes with a target, in the classes' order: first those that decode, then
 *                   prompts; behind them those of the same class that are too late for it
 *   2. decoding     running, one token missing; then those with a short run of an answer's tokens missing, which followed
 *                   without a choice: in what the gaps of the others leave
 *   3. the rest     prompts that run, then waiting ones, which start while a seat, blocks for all
 *                   of their tokens and time are left
 *
 * and within each of them (2 and 3: classes by their clocks), tenants by theirs, then the oldest
 * (classes.h). Of a tenant's prompts in 3 the oldest goes first and, in turn, the shortest, if that
 * is at most half as long: who asks little does not wait until a long one is read, and that takes at
 * most twice as long.
 * Up to max_batch_tokens in all; and, by the cost model, no longer than
 *
 *   pace    what an urgent sequence may spend on this step so that it still meets its target, with
 *           something in reserve; a class binds only those behind it. If the decoding ones alone
 *           would take longer, 2 and 3 are one and take turns. Prompts of 3 take half of what is
 *           left: urgent ones may still come.
 *   gap     prompts of 3 only: until a decoding sequence's next token is due (for classes that
 *           leave it to us: a step with one or two prompts takes twice what the decoding ones usually
 *           take alone, with more of them each as long again, up to six times), and a quarter of the
 *           shortest target there is, so that who arrives needs not wait for long. The prompt whose
 *           turn it is gets MIN_CHUNK tokens all the same, where there is no pace to keep.
 *
 * A sequence is urgent only while its class has not had more than its share by some targets' time:
 * nobody is starved by targets. It needs no seat.
 *
 * When blocks run out, the youngest sequence of the same class gives its blocks back and waits
 * again (its tokens are computed once more, with the same bits, or found in the prefix cache); no
 * waiting one starts then. When blocks or seats run out, a class below its share takes them from
 * the youngest of the class that is furthest above its own. A fork is as old as its parent and
 * comes after it: no younger sequence can hold up a beam that its siblings wait for. If all of that
 * gives nobody anything, the oldest may take from whoever is younger. Rows and blocks that are left
 * over may hold drafted tokens behind a sequence's last one; blocks that they took go back at the
 * next schedule.
 *
 * fifo: one queue by arrival, as if there were one class without target.
 *
 * Invariants, checked by qn_scheduler_check():
 *  1. A sequence holds ceil((n_computed + n_scheduled) / block_size) blocks or more, never fewer.
 *  2. n_computed + n_scheduled <= n_tokens + n_drafted, and n_drafted only behind all tokens.
 *  3. Waiting sequences hold no blocks and have nothing computed.
 *  4. seqs is in order of arrival.
 *  5. n_named <= n_computed / block_size: the first so many blocks have an identity.
 *  6. Classes and tenants count the sequences that are theirs.
 * Threads: engine thread only, no lock. Source: vLLM v1 core/sched/scheduler.py (names; the token
 * budget). */
#ifndef QN_SCHED_SCHEDULER_H
#define QN_SCHED_SCHEDULER_H

#include "sched/block_pool.h"
#include "sched/classes.h"
#include "sched/cost_model.h"

#define QN_MAX_BUCKETS 16

typedef enum qn_seq_state { QN_SEQ_WAITING, QN_SEQ_RUNNING, QN_SEQ_FINISHED } qn_seq_state;

typedef struct qn_sched_seq {
    /* set before qn_scheduler_add */
    uint64_t arrival; /* order of arrival: lower is older; equal ones by order of adding */
    uint32_t n_tokens;
    uint32_t class_id;
    uint64_t tenant_id;
    uint64_t salt[QN_SALT_WORDS]; /* prefixes are shared among equal ones */
    uint64_t submit_ns;
    /* [n_tokens], borrowed; set again before schedule and advance if they moved. NULL: no prefix
     * cache for this one */
    const int32_t *tokens;
    /* the scheduler's */
    uint32_t n_computed, n_scheduled;
    uint32_t n_drafted; /* the last so many of n_scheduled: guesses behind n_tokens */
    int32_t *blocks;    /* block table */
    uint32_t n_blocks, blocks_cap;
    uint32_t n_named; /* of the blocks: have an identity in the prefix cache */
    qn_seq_state state;
    uint32_t n_prompt, max_tokens; /* n_tokens when it was added; the most that it will be */
    uint64_t deadline_ns;          /* 0: none */
    uint64_t last_ns;              /* when its last token came; 0: none yet */
    uint64_t pace_ns;              /* of this schedule: a step may take so long; 0: not urgent */
    uint16_t slot;
    /* told to the caller */
    bool has_started;  /* and then: */
    uint32_t n_cached; /* tokens found in the prefix cache when it first started */
    qn_miss miss;      /* why no more */
    uint32_t n_preempted;
} qn_sched_seq;

typedef struct qn_sched_options {
    uint32_t block_size, max_batch_tokens, max_seqs;
    uint32_t min_seqs; /* below max_seqs: as many seats as gain throughput. 0: max_seqs */
    bool fifo;
    const qn_class *classes; /* NULL: one */
    int n_classes;
    const qn_bucket *buckets; /* by ascending max_tokens, at most QN_MAX_BUCKETS; borrowed */
    int n_buckets;
} qn_sched_options;

typedef struct qn_scheduler {
    qn_block_pool *pool;
    qn_sched_options options;
    uint32_t seats;       /* sequences with something to compute that run together */
    uint32_t budget;      /* tokens of the last schedule, in its time, that nobody took */
    qn_sched_seq **seqs;  /* all that are not finished, by arrival */
    qn_sched_seq **order; /* of this schedule: by turn */
    size_t n_seqs, seqs_cap, order_cap;
    qn_classes classes;
    qn_cost_model cost;
    uint64_t shortest_target_ns; /* of the classes; 0: none has one */
    uint32_t n_at_seats;         /* steps since seats changed */
    uint64_t n_preempted;
    uint64_t n_cache_queries,
        n_cache_hits; /* tokens looked for, and found, by those that started */
    bool no_memory;   /* the last schedule could not grow a block table */
} qn_scheduler;

void qn_scheduler_init(qn_scheduler *s, qn_block_pool *pool, const qn_sched_options *o);
void qn_scheduler_fini(qn_scheduler *s);
/* Fields of q that are not set are zero. max_tokens: the most it will ever hold; more blocks than
 * the pool has: QN_E_TOO_LONG. */
QN_MUST_USE qn_status qn_scheduler_add(qn_scheduler *s, qn_sched_seq *q, uint32_t max_tokens,
                                       qn_err *err);
/* Child continues parent: shares its full blocks, its class, tenant and deadline. If the last block
 * is partly filled, *copy_to is a new block that the caller fills from *copy_from; else both are
 * QN_BLOCK_NULL. child->n_tokens and arrival (the parent's) are set by the caller. QN_E_KV_FULL: no
 * block free; the child then starts from nothing (still added). */
QN_MUST_USE qn_status qn_scheduler_fork(qn_scheduler *s, qn_sched_seq *child,
                                        const qn_sched_seq *parent, int32_t *copy_to,
                                        int32_t *copy_from, qn_err *err);
/* Takes q out and gives its blocks back. */
void qn_scheduler_remove(qn_scheduler *s, qn_sched_seq *q);
/* Sets n_scheduled of every sequence; returns how many have any. out[max_seqs]: those, oldest
 * first. None though some have tokens missing: the forks of one sequence wait for each other and do
 * not fit together, or no_memory. */
size_t qn_scheduler_schedule(qn_scheduler *s, uint64_t now_ns, qn_sched_seq **out);
/* Up to n drafted tokens more for q, which has all of its tokens computed by this step: as many as
 * the budget and the free blocks allow; nobody is preempted for them. Returns how many. */
uint32_t qn_scheduler_draft(qn_scheduler *s, qn_sched_seq *q, uint32_t n);
/* After the step, which took ns (0: not known) and ended now: n_computed += n_scheduled, but for
 * the drafted ones. A draft that came true is appended to the tokens by the caller, with n_computed
 * one higher: its K/V is there. */
void qn_scheduler_advance(qn_scheduler *s, uint64_t now_ns, uint64_t ns);
/* How long an idle engine still waits for more than the n requests it has, the first of which came
 * at first_ns. */
uint64_t qn_scheduler_hold_ns(const qn_scheduler *s, size_t n, uint64_t first_ns, uint64_t now_ns,
                              uint64_t timeout_ns);
QN_MUST_USE qn_status qn_scheduler_check(const qn_scheduler *s, qn_err *err);

#endif
