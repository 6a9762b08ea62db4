/* SPDX-License-Identifier: Apache-2.0
 * scheduler.h - which tokens of which sequences the next step computes. Integers only.
 *
 * There is no prefill phase and no decode phase: a sequence has n_computed tokens that must catch
 * up with its n_tokens. Every step gives each running sequence its missing tokens, oldest first,
 * decoding ones (one missing token) before the others, up to max_batch_tokens in all; then waiting
 * sequences start while there is room for all of their tokens. When blocks run out, the youngest
 * sequence gives its blocks back and waits again (its tokens are computed once more, with the same
 * bits); no waiting one starts then. A fork is as old as its parent and comes after it: no younger
 * sequence can hold up a beam that its siblings wait for. Rows and blocks that are left over may
 * hold drafted tokens behind a sequence's last one; blocks that they took go back at the next
 * schedule.
 *
 * Invariants, checked by qn_scheduler_check():
 *  1. A sequence holds ceil((n_computed + n_scheduled) / block_size) blocks or more, never fewer.
 *  2. n_computed + n_scheduled <= n_tokens + n_drafted, and n_drafted only behind all tokens.
 *  3. Waiting sequences hold no blocks and have nothing computed.
 *  4. seqs is in order of arrival.
 * Threads: engine thread only, no lock. Source: vLLM v1 core/sched/scheduler.py (names; the token
 * budget). */
#ifndef QN_SCHED_SCHEDULER_H
#define QN_SCHED_SCHEDULER_H

#include "sched/block_pool.h"

typedef enum qn_seq_state { QN_SEQ_WAITING, QN_SEQ_RUNNING, QN_SEQ_FINISHED } qn_seq_state;

typedef struct qn_sched_seq {
    uint64_t arrival; /* order of arrival: lower is older; equal ones by order of adding */
    uint32_t n_tokens, n_computed, n_scheduled;
    uint32_t n_drafted; /* the last so many of n_scheduled: guesses behind n_tokens */
    int32_t *blocks;    /* block table */
    uint32_t n_blocks, blocks_cap;
    qn_seq_state state;
} qn_sched_seq;

typedef struct qn_scheduler {
    qn_block_pool *pool;
    uint32_t block_size, max_batch_tokens, max_seqs;
    uint32_t budget;     /* tokens of the last schedule that nobody took */
    qn_sched_seq **seqs; /* all that are not finished, by arrival */
    size_t n_seqs, seqs_cap;
    uint64_t n_preempted;
    bool no_memory; /* the last schedule could not grow a block table */
} qn_scheduler;

void qn_scheduler_init(qn_scheduler *s, qn_block_pool *pool, uint32_t block_size,
                       uint32_t max_batch_tokens, uint32_t max_seqs);
void qn_scheduler_fini(qn_scheduler *s);
/* q's fields are zero but for n_tokens and arrival. max_tokens: the most it will ever hold; more
 * blocks than the pool has: QN_E_TOO_LONG. */
QN_MUST_USE qn_status qn_scheduler_add(qn_scheduler *s, qn_sched_seq *q, uint32_t max_tokens,
                                       qn_err *err);
/* Child continues parent: shares its full blocks. If the last block is partly filled, *copy_to is a
 * new block that the caller fills from *copy_from; else both are QN_BLOCK_NULL. child->n_tokens and
 * arrival (the parent's) are set by the caller. QN_E_KV_FULL: no block free; the child then starts
 * from nothing (still added). */
QN_MUST_USE qn_status qn_scheduler_fork(qn_scheduler *s, qn_sched_seq *child,
                                        const qn_sched_seq *parent, int32_t *copy_to,
                                        int32_t *copy_from, qn_err *err);
/* Takes q out and gives its blocks back. */
void qn_scheduler_remove(qn_scheduler *s, qn_sched_seq *q);
/* Sets n_scheduled of every sequence; returns how many have any. out[max_seqs]: those, oldest
 * first. None though some have tokens missing: the forks of one sequence wait for each other and do
 * not fit together, or no_memory. */
size_t qn_scheduler_schedule(qn_scheduler *s, qn_sched_seq **out);
/* Up to n drafted tokens more for q, which has all of its tokens computed by this step: as many as
 * the budget and the free blocks allow; nobody is preempted for them. Returns how many. */
uint32_t qn_scheduler_draft(qn_scheduler *s, qn_sched_seq *q, uint32_t n);
/* After the step: n_computed += n_scheduled, but for the drafted ones. A draft that came true is
 * appended to the tokens by the caller, with n_computed one higher: its K/V is there. */
void qn_scheduler_advance(qn_scheduler *s);
QN_MUST_USE qn_status qn_scheduler_check(const qn_scheduler *s, qn_err *err);

#endif
