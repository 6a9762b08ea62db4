/* SPDX-License-Identifier: Apache-2.0
 * test_scheduler.c - small cases by hand, and a simulation: random arrivals, lengths, forks and
 * aborts over a model that is not there. After every step: the scheduler's own check, every block's
 * references counted by hand, the budget, and who had to get a token. */
#include "check.h"

#include "base/mem.h"
#include "sched/scheduler.h"

#include <string.h>

#define BLOCK 4u

static void check(const qn_scheduler *s)
{
    qn_err err = {0};
    if (qn_scheduler_check(s, &err) != QN_OK)
        fail_msg("%s", err.msg);
}

typedef struct fixture {
    qn_scheduler s;
    qn_block_pool *pool;
    qn_sched_seq *out[64];
} fixture;

static void open_scheduler(fixture *f, size_t n_blocks, uint32_t budget, uint32_t max_seqs)
{
    assert_int_equal(qn_block_pool_new(&f->pool, n_blocks + 1, NULL), QN_OK);
    qn_sched_options o = {.block_size = BLOCK, .max_batch_tokens = budget, .max_seqs = max_seqs};
    qn_scheduler_init(&f->s, f->pool, &o);
}

static void close_scheduler(fixture *f)
{
    assert_int_equal(f->s.n_seqs, 0);
    assert_int_equal(qn_block_pool_n_free(f->pool), qn_block_pool_n_blocks(f->pool));
    qn_scheduler_fini(&f->s);
    qn_block_pool_free(f->pool);
}

static void add(fixture *f, qn_sched_seq *q, uint64_t arrival, uint32_t n_tokens)
{
    *q = (qn_sched_seq){.arrival = arrival, .n_tokens = n_tokens};
    assert_int_equal(qn_scheduler_add(&f->s, q, n_tokens, NULL), QN_OK);
}

static size_t step(fixture *f)
{
    size_t n = qn_scheduler_schedule(&f->s, 0, f->out);
    check(&f->s);
    qn_scheduler_advance(&f->s, 0, 0);
    check(&f->s);
    return n;
}

static void test_too_long(void **state)
{
    (void)state;
    fixture f;
    qn_err err;
    qn_sched_seq q = {.n_tokens = 4};
    open_scheduler(&f, 3, 8, 2);
    assert_int_equal(qn_scheduler_add(&f.s, &q, 3 * BLOCK + 1, &err), QN_E_TOO_LONG);
    assert_non_null(strstr(err.msg, "may need 13 tokens of K/V cache, there is room for 12"));
    assert_int_equal(f.s.n_seqs, 0);
    assert_int_equal(qn_scheduler_add(&f.s, &q, 3 * BLOCK, &err), QN_OK);
    qn_scheduler_remove(&f.s, &q);
    close_scheduler(&f);
}

/* Short ones need not wait until a long one is read, however many come, and it is read all the same. */
static void test_short_prompts(void **state)
{
    (void)state;
    enum { N = 20 };
    fixture f;
    qn_sched_seq slow, fast[N];
    open_scheduler(&f, 100, 8, 3);
    add(&f, &slow, 0, 80);
    (void)step(&f);
    for (size_t i = 0; i < N; i++) {
        uint32_t before = slow.n_computed;
        add(&f, &fast[i], 1 + i, 8);
        for (int k = 0; k < 2; k++)
            (void)step(&f);
        assert_int_equal(fast[i].n_computed, 8);
        assert_int_equal(slow.n_computed, QN_MIN(before + 8, 80u));
        qn_scheduler_remove(&f.s, &fast[i]);
    }
    qn_scheduler_remove(&f.s, &slow);
    close_scheduler(&f);
}

static void test_decoding_before_prompts(void **state)
{
    (void)state;
    fixture f;
    qn_sched_seq q[4];
    open_scheduler(&f, 100, 8, 3);
    add(&f, &q[1], 1, 20);
    add(&f, &q[0], 0, 5); /* added later, arrived earlier */
    assert_int_equal(step(&f), 2);
    assert_ptr_equal(f.out[0], &q[0]);
    assert_int_equal(q[0].n_computed, 5);
    assert_int_equal(q[1].n_computed, 3); /* what is left of the budget */
    q[0].n_tokens++;
    add(&f, &q[2], 2, 2);
    assert_int_equal(step(&f), 3);
    assert_int_equal(q[0].n_computed, 6);
    assert_int_equal(q[2].n_computed, 2); /* the shortest prompt's turn */
    assert_int_equal(q[1].n_computed, 8); /* the budget is spent */
    q[0].n_tokens++;
    assert_int_equal(step(&f), 2);
    q[0].n_tokens++;
    q[2].n_tokens++;
    add(&f, &q[3], 3, 1);
    assert_int_equal(step(&f), 3); /* max_seqs */
    assert_int_equal(q[1].n_computed, 20);
    assert_int_equal(q[2].n_computed, 3);
    assert_int_equal(q[3].n_computed, 0);
    for (size_t i = 0; i < 4; i++)
        qn_scheduler_remove(&f.s, &q[i]);
    close_scheduler(&f);
}

static void test_youngest_is_preempted(void **state)
{
    (void)state;
    fixture f;
    qn_sched_seq q[3];
    open_scheduler(&f, 6, 32, 8);
    for (uint32_t i = 0; i < 3; i++)
        add(&f, &q[i], i, 8);
    assert_int_equal(step(&f), 3); /* two blocks each: full */
    q[0].n_tokens++;
    q[2].n_tokens++; /* would come second in this step */
    assert_int_equal(step(&f), 1);
    assert_int_equal(f.s.n_preempted, 1);
    assert_int_equal(q[2].state, QN_SEQ_WAITING);
    assert_int_equal(q[2].n_blocks, 0);
    assert_int_equal(q[1].n_blocks, 2);
    assert_int_equal(step(&f), 0); /* one block is free, the waiting one needs three */
    q[1].n_tokens++;
    assert_int_equal(step(&f), 1);
    qn_scheduler_remove(&f.s, &q[0]);
    assert_int_equal(step(&f), 1); /* now it starts over */
    assert_int_equal(q[2].n_computed, 9);
    qn_scheduler_remove(&f.s, &q[1]);
    qn_scheduler_remove(&f.s, &q[2]);
    close_scheduler(&f);
}

/* What a preempted sequence had got in the same schedule goes back to the budget. */
static void test_budget_of_the_preempted(void **state)
{
    (void)state;
    fixture f;
    qn_sched_seq q[2];
    open_scheduler(&f, 4, 6, 2);
    add(&f, &q[0], 0, 4);
    assert_int_equal(step(&f), 1);
    add(&f, &q[1], 1, 6);
    assert_int_equal(step(&f), 1);
    q[1].n_tokens = 9;
    assert_int_equal(step(&f), 1); /* the pool is full */
    q[0].n_tokens = 10;
    q[1].n_tokens = 10; /* decoding: first in turn, but younger */
    assert_int_equal(step(&f), 1);
    assert_int_equal(q[0].n_computed,
                     10); /* all six, not the five that were left beside the other's one */
    assert_int_equal(q[1].state, QN_SEQ_WAITING);
    qn_scheduler_remove(&f.s, &q[0]);
    qn_scheduler_remove(&f.s, &q[1]);
    close_scheduler(&f);
}

static void test_fork(void **state)
{
    (void)state;
    fixture f;
    qn_sched_seq a, b, c, d;
    int32_t to, from;
    qn_err err;
    open_scheduler(&f, 4, 32, 8);
    add(&f, &a, 7, 10);
    assert_int_equal(step(&f), 1);
    b = (qn_sched_seq){.arrival = 7, .n_tokens = 10};
    assert_int_equal(qn_scheduler_fork(&f.s, &b, &a, &to, &from, &err), QN_OK);
    check(&f.s);
    assert_int_equal(b.n_computed, 10);
    assert_int_equal(b.blocks[0], a.blocks[0]);
    assert_int_equal(b.blocks[1], a.blocks[1]);
    assert_int_equal(from, a.blocks[2]);
    assert_int_equal(to, b.blocks[2]);
    assert_int_not_equal(to, from);
    assert_int_equal(qn_block_pool_ref_cnt(f.pool, a.blocks[0]), 2);
    /* no block is left for the partly filled one: the child starts from nothing */
    c = (qn_sched_seq){.arrival = 7, .n_tokens = 10};
    assert_int_equal(qn_scheduler_fork(&f.s, &c, &a, &to, &from, &err), QN_E_KV_FULL);
    check(&f.s);
    assert_int_equal(to, QN_BLOCK_NULL);
    assert_int_equal(c.n_blocks, 0);
    assert_int_equal(c.state, QN_SEQ_WAITING);
    assert_int_equal(f.s.n_seqs, 3);
    qn_scheduler_remove(&f.s, &c);
    /* at a border of blocks nothing is copied */
    qn_scheduler_remove(&f.s, &b);
    a.n_tokens = 12;
    assert_int_equal(step(&f), 1);
    d = (qn_sched_seq){.arrival = 7, .n_tokens = 12};
    assert_int_equal(qn_scheduler_fork(&f.s, &d, &a, &to, &from, &err), QN_OK);
    assert_int_equal(to, QN_BLOCK_NULL);
    assert_int_equal(from, QN_BLOCK_NULL);
    assert_int_equal(d.n_blocks, 3);
    assert_ptr_equal(f.s.seqs[0], &a); /* equal arrivals: the parent first */
    qn_scheduler_remove(&f.s, &a);
    check(&f.s);
    qn_scheduler_remove(&f.s, &d);
    close_scheduler(&f);
}

/* Beams wait for each other: the sibling that must start over takes its room from what is younger
 * than the request, not from luck. */
static void test_sibling_before_younger(void **state)
{
    (void)state;
    fixture f;
    qn_sched_seq a, b, young;
    int32_t to, from;
    open_scheduler(&f, 4, 32, 8);
    add(&f, &a, 0, 5);
    assert_int_equal(step(&f), 1);
    add(&f, &young, 1, 8);
    assert_int_equal(step(&f), 1);
    b = (qn_sched_seq){.arrival = 0, .n_tokens = 5};
    assert_int_equal(qn_scheduler_fork(&f.s, &b, &a, &to, &from, NULL), QN_E_KV_FULL);
    assert_int_equal(step(&f), 1); /* a has nothing missing */
    assert_int_equal(b.n_computed, 5);
    assert_int_equal(young.state, QN_SEQ_WAITING);
    /* two that do not fit together get nothing more: the caller sees 0 */
    a.n_tokens = b.n_tokens = 9;
    assert_int_equal(step(&f), 2); /* up to the end of their blocks */
    assert_int_equal(step(&f), 1);
    assert_int_equal(a.n_computed, 9);
    assert_int_equal(b.n_computed, 0);
    assert_int_equal(step(&f), 0);
    qn_scheduler_remove(&f.s, &a);
    assert_int_equal(step(&f), 1);
    qn_scheduler_remove(&f.s, &b);
    qn_scheduler_remove(&f.s, &young);
    close_scheduler(&f);
}

/* ---- the simulation ---- */

static uint32_t next_random(uint64_t *x)
{
    *x = *x * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*x >> 33);
}

typedef struct sim_seq {
    qn_sched_seq sched; /* first */
    uint32_t target;    /* finished with so many tokens */
    bool was_running;   /* before this schedule */
} sim_seq;

typedef struct sim {
    fixture f;
    uint64_t rng, arrivals, hash; /* hash of all decisions */
    sim_seq *live[64];
    size_t n_live, n_finished, n_aborted, n_forked, n_full, n_drafted;
    uint32_t budget, max_seqs, n_blocks;
    const qn_sched_seq *left_out; /* the oldest, in the last step */
} sim;

static void forget(sim *m, size_t i)
{
    qn_scheduler_remove(&m->f.s, &m->live[i]->sched);
    qn_free(m->live[i]);
    m->live[i] = m->live[--m->n_live];
}

static void arrive(sim *m)
{
    uint32_t most = m->n_blocks * BLOCK, n = 1 + next_random(&m->rng) % (most / 2);
    sim_seq *q = qn_calloc(1, sizeof *q, QN_MEM_MISC);
    assert_non_null(q);
    q->sched.arrival = m->arrivals++;
    q->sched.n_tokens = n;
    uint32_t end = n + 1 + next_random(&m->rng) % 30;
    q->target = QN_MIN(end, most);
    assert_int_equal(qn_scheduler_add(&m->f.s, &q->sched, q->target, NULL), QN_OK);
    m->live[m->n_live++] = q;
}

static void fork_one(sim *m, const sim_seq *parent)
{
    int32_t to, from;
    sim_seq *q = qn_calloc(1, sizeof *q, QN_MEM_MISC);
    assert_non_null(q);
    q->sched.arrival = parent->sched.arrival;
    q->sched.n_tokens = parent->sched.n_tokens;
    uint32_t end = parent->target + next_random(&m->rng) % 5;
    q->target = QN_MIN(end, m->n_blocks * BLOCK);
    qn_status s = qn_scheduler_fork(&m->f.s, &q->sched, &parent->sched, &to, &from, NULL);
    assert_true(s == QN_OK || s == QN_E_KV_FULL);
    assert_int_equal(to == QN_BLOCK_NULL, from == QN_BLOCK_NULL);
    if (to != QN_BLOCK_NULL) {
        assert_int_equal(qn_block_pool_ref_cnt(m->f.pool, to), 1);
        assert_int_equal(parent->sched.blocks[parent->sched.n_computed / BLOCK], from);
    }
    m->n_full += s == QN_E_KV_FULL;
    m->n_forked++;
    m->live[m->n_live++] = q;
}

/* Every block's references are the tables that name it; a block that will be written belongs to one
 * sequence. */
static void check_blocks(const sim *m)
{
    uint32_t named[128] = {0};
    const qn_scheduler *s = &m->f.s;
    for (size_t i = 0; i < s->n_seqs; i++)
        for (uint32_t b = 0; b < s->seqs[i]->n_blocks; b++) {
            assert_in_range(s->seqs[i]->blocks[b], 1, m->n_blocks);
            named[s->seqs[i]->blocks[b]]++;
        }
    for (uint32_t b = 1; b <= m->n_blocks; b++)
        assert_int_equal(qn_block_pool_ref_cnt(m->f.pool, (int32_t)b), named[b]);
    for (size_t i = 0; i < s->n_seqs; i++) {
        const qn_sched_seq *q = s->seqs[i];
        for (uint32_t t = q->n_computed; t < q->n_computed + q->n_scheduled; t++)
            assert_int_equal(named[q->blocks[t / BLOCK]], 1);
    }
}

/* Who is due a token gets it: the oldest running one in every other step at least; a decoding one unless it was
 * preempted, the budget or max_seqs went to others of its kind that are older, or older ones hold
 * all blocks. */
static void check_fair(sim *m, size_t n_out)
{
    const qn_scheduler *s = &m->f.s;
    uint32_t tokens = 0;
    for (size_t i = 0; i < s->n_seqs; i++)
        tokens += s->seqs[i]->n_scheduled;
    assert_true(tokens <= m->budget);
    assert_true(n_out <= m->max_seqs);
    for (size_t i = 0; i < n_out; i++) {
        assert_true(m->f.out[i]->n_scheduled > 0);
        assert_true(i == 0 || m->f.out[i - 1]->arrival <= m->f.out[i]->arrival);
    }
    uint32_t decoding = 0, n_run_rows = 0;
    for (size_t i = 0; i < s->n_seqs; i++) {
        const qn_sched_seq *q = s->seqs[i];
        bool was_running = ((const sim_seq *)q)->was_running;
        bool due = was_running && q->n_tokens - q->n_computed == 1 && q->n_computed;
        if (was_running && !due && q->n_computed >= q->n_prompt)
            n_run_rows += q->n_scheduled;
        if (due && q->state == QN_SEQ_RUNNING && !q->n_scheduled) {
            bool no_block = q->n_computed % BLOCK == 0 && qn_block_pool_n_free(m->f.pool) == 0;
            assert_true(decoding >= QN_MIN(m->budget, m->max_seqs) || no_block);
        }
        decoding += due && q->n_scheduled;
    }
    const qn_sched_seq *oldest = s->n_seqs ? s->seqs[0] : NULL;
    bool is_left_out = oldest && oldest->state == QN_SEQ_RUNNING && !oldest->n_scheduled &&
                       decoding + n_run_rows < QN_MIN(m->budget, m->max_seqs);
    assert_false(is_left_out && m->left_out == oldest); /* once, for the shortest */
    m->left_out = is_left_out ? oldest : NULL;
    /* nobody starts before an older one that waits, but one, which is short */
    size_t n_waiting = 0, n_early = 0;
    for (size_t i = 0; i < s->n_seqs; i++) {
        const qn_sched_seq *q = s->seqs[i];
        bool was = ((const sim_seq *)q)->was_running;
        n_early += n_waiting && !was && q->state == QN_SEQ_RUNNING;
        n_waiting += !was && q->state == QN_SEQ_WAITING;
    }
    assert_true(n_early <= 1);
    assert_int_equal(n_out > 0, s->n_seqs > 0);
}

/* Drafts behind some of the chosen, within budget and free blocks, that preempt nobody. */
static void draft_some(sim *m, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        qn_sched_seq *q = m->f.out[i];
        uint32_t want = (uint32_t)(next_random(&m->rng) % 9), budget = m->f.s.budget;
        if (q->n_computed + q->n_scheduled != q->n_tokens || want < 3)
            continue;
        size_t room = (q->n_blocks + qn_block_pool_n_free(m->f.pool)) * BLOCK - q->n_tokens;
        uint64_t n_preempted = m->f.s.n_preempted;
        uint32_t got = qn_scheduler_draft(&m->f.s, q, want);
        assert_int_equal(got, QN_MIN((size_t)QN_MIN(want, budget), room));
        assert_int_equal(m->f.s.budget, budget - got);
        assert_int_equal(m->f.s.n_preempted, n_preempted);
        m->n_drafted += got;
    }
    check(&m->f.s);
    check_blocks(m);
}

static void sim_step(sim *m)
{
    for (size_t i = 0; i < m->n_live; i++)
        m->live[i]->was_running = m->live[i]->sched.state == QN_SEQ_RUNNING;
    size_t n = qn_scheduler_schedule(&m->f.s, 0, m->f.out);
    check(&m->f.s);
    check_blocks(m);
    check_fair(m, n);
    draft_some(m, n);
    for (size_t i = 0; i < n; i++)
        m->hash =
            (m->hash ^ (m->f.out[i]->arrival * 64 + m->f.out[i]->n_scheduled)) * 0x100000001b3u;
    uint32_t n_drafted[64];
    for (size_t i = 0; i < n; i++)
        n_drafted[i] = m->f.out[i]->n_drafted;
    qn_scheduler_advance(&m->f.s, 0, 0);
    check(&m->f.s);
    for (size_t i = 0; i < n; i++) {
        sim_seq *q = (sim_seq *)m->f.out[i];
        if (q->sched.n_computed < q->sched.n_tokens)
            continue;
        for (uint32_t k = 0; k < n_drafted[i] && next_random(&m->rng) % 3; k++) {
            q->sched.n_tokens++; /* a draft that came true */
            q->sched.n_computed++;
        }
        check(&m->f.s);
        if (m->n_live < 60 && next_random(&m->rng) % 16 == 0)
            fork_one(m, q);
        q->sched.n_tokens++;
        /* tokens that follow without a choice */
        if (next_random(&m->rng) % 8 == 0 && q->sched.n_tokens < q->target)
            q->sched.n_tokens = QN_MIN(q->sched.n_tokens + next_random(&m->rng) % 9, q->target);
    }
    for (size_t i = m->n_live; i-- > 0;) {
        sim_seq *q = m->live[i];
        q->sched.n_tokens += q->sched.n_computed ==
                             q->sched.n_tokens; /* a fork: it samples from its parent's logits */
        bool finished = q->sched.n_tokens > q->target,
             aborted = !finished && next_random(&m->rng) % 400 == 0;
        m->n_finished += finished;
        m->n_aborted += aborted;
        if (finished || aborted)
            forget(m, i);
    }
    check(&m->f.s);
}

static uint64_t simulate(uint64_t seed, uint32_t n_blocks, uint32_t budget, uint32_t max_seqs,
                         size_t n_arrivals)
{
    static sim m;
    m = (sim){.rng = seed, .budget = budget, .max_seqs = max_seqs, .n_blocks = n_blocks};
    open_scheduler(&m.f, n_blocks, budget, max_seqs);
    while (m.arrivals < n_arrivals || m.n_live) {
        while (m.arrivals < n_arrivals && m.n_live < 40 && next_random(&m.rng) % 3 == 0)
            arrive(&m);
        if (m.n_live)
            sim_step(&m);
    }
    assert_int_equal(m.n_finished + m.n_aborted, n_arrivals + m.n_forked);
    assert_true(m.n_finished > n_arrivals / 2);
    assert_true(m.n_drafted > n_arrivals);
    if (n_blocks < 20) {
        assert_true(m.f.s.n_preempted > 100);
        assert_true(m.n_full > 10);
    }
    close_scheduler(&m.f);
    return m.hash;
}

static void test_simulation(void **state)
{
    (void)state;
    static const uint32_t sizes[][3] = {
        /* blocks, budget, max_seqs */
        {6, 16, 8}, {12, 5, 4}, {16, 64, 40}, {40, 32, 16}, {100, 200, 64}, {12, 3, 3},
    };
    for (size_t i = 0; i < QN_COUNT(sizes); i++)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            uint64_t first = simulate(seed, sizes[i][0], sizes[i][1], sizes[i][2], 400);
            assert_true(first == simulate(seed, sizes[i][0], sizes[i][1], sizes[i][2], 400));
            assert_true(first != simulate(seed + 100, sizes[i][0], sizes[i][1], sizes[i][2], 400));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_short_prompts),
        cmocka_unit_test(test_decoding_before_prompts),
        cmocka_unit_test(test_youngest_is_preempted),
        cmocka_unit_test(test_budget_of_the_preempted),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_sibling_before_younger),
        cmocka_unit_test(test_simulation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
