/* SPDX-License-Identifier: Apache-2.0
 * test_scheduler.c - a false model: random arrivals, answers, forks and ends, with every invariant
 * checked after each step. */
#include "check.h"

#include "base/mem.h"
#include "sched/scheduler.h"
#include <string.h>

enum { BLOCK = 4, N_BLOCKS = 33, BUDGET = 24, MAX_SEQS = 6, N_LIVE = 20, LONGEST = 60 };

static uint32_t rng;
static uint32_t below(uint32_t n)
{
    rng = rng * 1664525u + 1013904223u;
    return (rng >> 8) % n;
}

typedef struct sim {
    qn_block_pool *pool;
    qn_scheduler s;
    qn_sched_seq seqs[N_LIVE];
    uint32_t ends_at[N_LIVE]; /* tokens; 0: free */
    uint64_t arrivals;
    size_t n_ended, n_forked;
} sim;

static void check(const sim *m)
{
    qn_err err = {0};
    if (qn_scheduler_check(&m->s, &err) != QN_OK)
        fail_msg("%s", err.msg);
}

static size_t free_place(const sim *m)
{
    size_t i = 0;
    while (i < N_LIVE && m->ends_at[i])
        i++;
    return i;
}

static void arrive(sim *m)
{
    size_t i = free_place(m);
    if (i == N_LIVE)
        return;
    uint32_t n = 1 + below(LONGEST - 1);
    m->ends_at[i] = n + 1 + below(LONGEST - n + 1);
    m->seqs[i] = (qn_sched_seq){.n_tokens = n, .arrival = m->arrivals++};
    assert_int_equal(qn_scheduler_add(&m->s, &m->seqs[i], m->ends_at[i], NULL), QN_OK);
}

static void end(sim *m, size_t i)
{
    qn_scheduler_remove(&m->s, &m->seqs[i]);
    m->ends_at[i] = 0;
    m->n_ended++;
}

/* A second sequence that goes on from the same tokens. */
static void fork_from(sim *m, size_t parent)
{
    size_t i = free_place(m);
    int32_t to, from;
    if (i == N_LIVE)
        return;
    m->ends_at[i] = m->ends_at[parent];
    m->seqs[i] = (qn_sched_seq){.n_tokens = m->seqs[parent].n_tokens, .arrival = m->arrivals++};
    qn_status st = qn_scheduler_fork(&m->s, &m->seqs[i], &m->seqs[parent], &to, &from, NULL);
    assert_true(st == QN_OK || st == QN_E_KV_FULL);
    assert_int_equal(to != QN_BLOCK_NULL, from != QN_BLOCK_NULL);
    if (st == QN_OK)
        assert_int_equal(m->seqs[i].n_computed, m->seqs[parent].n_computed);
    m->n_forked += st == QN_OK;
}

/* One step: what is computed to the end gets its next token. */
static size_t step(sim *m)
{
    qn_sched_seq *out[MAX_SEQS];
    uint32_t given = 0;
    size_t n = qn_scheduler_schedule(&m->s, out);
    assert_in_range(n, 0, MAX_SEQS);
    for (size_t k = 0; k < n; k++) {
        given += out[k]->n_scheduled;
        assert_true(out[k]->n_scheduled > 0);
        assert_true(k == 0 || out[k - 1]->arrival < out[k]->arrival);
    }
    assert_in_range(given, 0, BUDGET);
    check(m);
    qn_scheduler_advance(&m->s);
    for (size_t k = 0; k < n; k++) {
        size_t i = (size_t)(out[k] - m->seqs);
        if (out[k]->n_computed < out[k]->n_tokens)
            continue;
        if (++out[k]->n_tokens >= m->ends_at[i])
            end(m, i);
        else if (below(20) == 0)
            fork_from(m, i);
    }
    check(m);
    return n;
}

static void test_simulation(void **state)
{
    (void)state;
    static sim m;
    rng = 7;
    assert_int_equal(qn_block_pool_new(&m.pool, N_BLOCKS, NULL), QN_OK);
    qn_scheduler_init(&m.s, m.pool, BLOCK, BUDGET, MAX_SEQS);
    for (int i = 0; i < 20000; i++) {
        if (below(4) == 0)
            arrive(&m);
        size_t victim = below(N_LIVE);
        if (below(50) == 0 && m.ends_at[victim])
            end(&m, victim); /* cancelled */
        assert_true(step(&m) > 0 || m.s.n_seqs == 0);
    }
    while (m.s.n_seqs) /* everyone is answered */
        assert_true(step(&m) > 0);
    assert_int_equal(qn_block_pool_n_free(m.pool), N_BLOCKS - 1);
    assert_true(m.n_ended > 500 && m.n_forked > 50 && m.s.n_preempted > 50);
    qn_scheduler_fini(&m.s);
    qn_block_pool_free(m.pool);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST) + qn_mem_live(QN_MEM_KV), 0);
}

static void test_order(void **state)
{
    (void)state;
    qn_block_pool *pool;
    qn_scheduler s;
    qn_sched_seq *out[MAX_SEQS], a = {.n_tokens = 30, .arrival = 1},
                                 b = {.n_tokens = 3, .arrival = 2};
    qn_err err = {0};
    assert_int_equal(qn_block_pool_new(&pool, N_BLOCKS, NULL), QN_OK);
    qn_scheduler_init(&s, pool, BLOCK, BUDGET, MAX_SEQS);
    qn_sched_seq big = {.n_tokens = 1};
    assert_int_equal(qn_scheduler_add(&s, &big, (N_BLOCKS - 1) * BLOCK + 1, &err), QN_E_TOO_LONG);
    assert_int_equal(qn_scheduler_add(&s, &b, 10, NULL), QN_OK);
    assert_int_equal(qn_scheduler_add(&s, &a, 40, NULL), QN_OK);
    assert_int_equal(qn_scheduler_schedule(&s, out), 1); /* the older one takes the whole step */
    assert_ptr_equal(out[0], &a);
    assert_int_equal(a.n_scheduled, BUDGET);
    qn_scheduler_advance(&s);
    assert_int_equal(qn_scheduler_schedule(&s, out), 2);
    assert_int_equal(a.n_scheduled, 6);
    assert_int_equal(b.n_scheduled, 3);
    qn_scheduler_advance(&s);
    b.n_tokens++;
    a.n_tokens += 40; /* decoding goes before catching up */
    assert_int_equal(qn_scheduler_schedule(&s, out), 2);
    assert_int_equal(b.n_scheduled, 1);
    assert_int_equal(a.n_scheduled, BUDGET - 1);
    qn_scheduler_remove(&s, &a);
    qn_scheduler_remove(&s, &b);
    qn_scheduler_fini(&s);
    qn_block_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simulation),
        cmocka_unit_test(test_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
