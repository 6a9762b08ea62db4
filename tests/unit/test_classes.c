/* SPDX-License-Identifier: Apache-2.0
 * test_classes.c - shares, targets, gaps, seats: the scheduler over a machine that is not there,
 * by a clock that only steps move on. */
#include "check.h"

#include "base/mem.h"
#include "sched/forecast.h"
#include "sched/scheduler.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK 16u
#define MS    ((uint64_t)1000000)

/* ---- the machine ---- */

static uint32_t next_random(uint64_t *x)
{
    *x = *x * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*x >> 33);
}

/* What a step takes: 20 ms, 1.2 ms a row (another test: 10 and 2.75, where rows together save
 * little), 0.2 us for a row and a token that it looks back at. */
static uint64_t base_ns = 20 * MS, row_ns = 1200000;
static uint64_t true_ns(uint64_t rows, uint64_t context)
{
    return rows ? base_ns + rows * row_ns + context * 200 : 0;
}

typedef struct job {
    qn_sched_seq sched; /* first */
    int32_t *tokens;
    uint32_t n_answer; /* ends with so many tokens more than its prompt */
    uint32_t run;      /* each token is followed by so many without a choice */
    uint64_t end_ns;
    uint64_t token_ns, max_gap_ns; /* of its last token; the longest between two */
    bool done;
} job;

typedef struct machine {
    qn_scheduler s;
    qn_block_pool *pool;
    uint64_t now, rng, arrivals;
    job **jobs; /* all, in the order they came */
    size_t n_jobs, cap, n_live;
    uint64_t n_steps, n_rows, longest_ns;
    uint32_t most_seqs; /* in one step */
    uint32_t noise;     /* steps take up to so many 1/1024 more or less */
    uint32_t check_every;
    qn_sched_seq *out[128];
} machine;

static machine *new_machine(const qn_sched_options *options, size_t n_blocks)
{
    machine *m = qn_calloc(1, sizeof *m, QN_MEM_MISC);
    qn_sched_options o = *options;
    assert_non_null(m);
    o.block_size = BLOCK;
    o.max_batch_tokens = o.max_batch_tokens ? o.max_batch_tokens : 512;
    o.max_seqs = o.max_seqs ? o.max_seqs : 16;
    assert_int_equal(qn_block_pool_new(&m->pool, n_blocks + 1, NULL), QN_OK);
    assert_int_equal(qn_block_pool_enable_cache(m->pool, BLOCK, 1, 0, NULL), QN_OK);
    qn_scheduler_init(&m->s, m->pool, &o);
    m->rng = m->check_every = 1;
    m->now = 1000 * MS;
    return m;
}

static void end_job(machine *m, job *j)
{
    qn_scheduler_remove(&m->s, &j->sched);
    qn_free(j->tokens);
    j->tokens = NULL;
    j->done = true;
    m->n_live--;
}

static void free_machine(machine *m)
{
    for (size_t i = 0; i < m->n_jobs; i++) {
        if (!m->jobs[i]->done)
            end_job(m, m->jobs[i]);
        qn_free(m->jobs[i]);
    }
    assert_int_equal(m->s.n_seqs, 0);
    assert_int_equal(qn_block_pool_n_free(m->pool), qn_block_pool_n_blocks(m->pool));
    qn_scheduler_fini(&m->s);
    qn_block_pool_free(m->pool);
    qn_free(m->jobs);
    qn_free(m);
}

static job *submit(machine *m, uint32_t class_id, uint64_t tenant, uint32_t n_prompt,
                   uint32_t n_answer)
{
    job *j = qn_calloc(1, sizeof *j, QN_MEM_MISC);
    assert_non_null(j);
    assert_true(qn_grow(&m->jobs, &m->cap, m->n_jobs + 1, sizeof *m->jobs, QN_MEM_MISC));
    j->tokens = qn_alloc_array(n_prompt + n_answer, sizeof *j->tokens, QN_MEM_MISC);
    assert_non_null(j->tokens);
    for (uint32_t i = 0; i < n_prompt; i++)
        j->tokens[i] = (int32_t)next_random(&m->rng);
    j->n_answer = n_answer;
    j->sched = (qn_sched_seq){.arrival = m->arrivals++,
                              .n_tokens = n_prompt,
                              .class_id = class_id,
                              .tenant_id = tenant,
                              .submit_ns = m->now,
                              .tokens = j->tokens};
    assert_int_equal(qn_scheduler_add(&m->s, &j->sched, n_prompt + n_answer, NULL), QN_OK);
    m->jobs[m->n_jobs++] = j;
    m->n_live++;
    return j;
}

static void add_token(machine *m, job *j)
{
    if (j->token_ns)
        j->max_gap_ns = QN_MAX(j->max_gap_ns, m->now - j->token_ns);
    j->token_ns = m->now;
    if (j->sched.n_tokens + 1 < j->sched.n_prompt + j->n_answer) {
        uint32_t left = j->sched.n_prompt + j->n_answer - 1 - j->sched.n_tokens;
        for (uint32_t i = 0; i < QN_MIN(left, 1 + j->run); i++)
            j->tokens[j->sched.n_tokens++] = (int32_t)(next_random(&m->rng) % 1000u);
        return;
    }
    j->end_ns = m->now;
    end_job(m, j);
}

static void check(const machine *m)
{
    qn_err err = {0};
    if (m->n_steps % m->check_every == 0 && qn_scheduler_check(&m->s, &err) != QN_OK)
        fail_msg("%s", err.msg);
}

/* One step; the clock moves on by what it takes. */
static size_t step(machine *m)
{
    size_t n = qn_scheduler_schedule(&m->s, m->now, m->out);
    uint64_t rows = 0, context = 0;
    check(m);
    for (size_t i = 0; i < n; i++) {
        rows += m->out[i]->n_scheduled;
        context += qn_context_of(m->out[i]->n_computed, m->out[i]->n_scheduled);
    }
    assert_true(n || !m->n_live);
    uint64_t ns = true_ns(rows, context);
    if (m->noise)
        ns += ns / 1024 * (next_random(&m->rng) % (2 * m->noise)) - ns / 1024 * m->noise;
    m->now += ns;
    qn_scheduler_advance(&m->s, m->now, ns);
    m->n_steps++;
    m->n_rows += rows;
    m->longest_ns = QN_MAX(m->longest_ns, ns);
    m->most_seqs = QN_MAX(m->most_seqs, (uint32_t)n);
    for (size_t i = 0; i < n; i++)
        if (m->out[i]->n_computed == m->out[i]->n_tokens)
            add_token(m, (job *)m->out[i]);
    check(m);
    return n;
}

static void run_all(machine *m)
{
    while (m->n_live)
        (void)step(m);
}

/* Steps of every size, so that the cost model knows the machine. */
static void warm_up(machine *m)
{
    for (uint32_t n = 1; n <= m->s.options.max_batch_tokens; n *= 2) {
        (void)submit(m, 0, 0, n, 4);
        run_all(m);
    }
    for (uint32_t n = 2; n <= m->s.options.max_seqs; n *= 2) {
        for (uint32_t i = 0; i < n; i++)
            (void)submit(m, 0, 0, 4, 12);
        run_all(m);
    }
    m->s.classes.list[0].n_output = 0;
}

/* ---- the cost model ---- */

static void near(uint64_t found, uint64_t want, uint64_t percent)
{
    uint64_t off = found > want ? found - want : want - found;
    if (off > want * percent / 100)
        fail_msg("found %llu, want %llu within %llu %%", (unsigned long long)found,
                 (unsigned long long)want, (unsigned long long)percent);
}

static void test_cost_model(void **state)
{
    (void)state;
    qn_cost_model m;
    uint64_t rng = 7;
    qn_cost_model_init(&m);
    assert_int_equal(qn_cost_model_ns(&m, 0, 0), 0);
    for (uint32_t n = 1; n < 1000; n++) /* sensible from the start */
        assert_true(qn_cost_model_ns(&m, n + 1, n) > qn_cost_model_ns(&m, n, n));
    qn_cost_model_add(&m, 16, 1600, true_ns(16, 1600) * 50); /* one step says how fast */
    near(qn_cost_model_ns(&m, 16, 1600), true_ns(16, 1600) * 50, 1);
    assert_true(qn_cost_model_ns(&m, 64, 0) > qn_cost_model_ns(&m, 16, 0));
    qn_cost_model_init(&m);
    for (int i = 0; i < 4000; i++) {
        uint32_t rows = 1 + next_random(&rng) % (i % 4 ? 20 : 512);
        uint64_t context = (uint64_t)rows * (next_random(&rng) % 8000);
        qn_cost_model_add(&m, rows, context, true_ns(rows, context));
    }
    static const uint64_t sizes[] = {1, 2, 3, 8, 16, 24, 100, 300, 512};
    for (size_t i = 0; i < QN_COUNT(sizes); i++) {
        near(qn_cost_model_ns(&m, (uint32_t)sizes[i], 0), true_ns(sizes[i], 0), 10);
        near(qn_cost_model_ns(&m, (uint32_t)sizes[i], sizes[i] * 4000),
             true_ns(sizes[i], sizes[i] * 4000), 10);
    }
    for (int i = 0; i < 40; i++) /* the machine got slower */
        qn_cost_model_add(&m, 8, 0, 3 * true_ns(8, 0));
    near(qn_cost_model_ns(&m, 8, 0), 3 * true_ns(8, 0), 5);
    qn_cost_model_add(&m, 8, 0, 1000 * true_ns(8, 0)); /* it was held up */
    assert_true(qn_cost_model_ns(&m, 8, 0) < 4 * true_ns(8, 0));
    for (uint32_t n = 1; n; n <<= 1) /* nothing overflows */
        qn_cost_model_add(&m, n, (uint64_t)n << 24, UINT64_MAX);
    assert_true(qn_cost_model_ns(&m, UINT32_MAX, (uint64_t)1 << 40) > 0);
}

/* ---- shares ---- */

static const qn_class four[] = {{.name = "p0", .share = 40, .target_ms = 1},
                                {.name = "p1", .share = 30},
                                {.name = "p2", .share = 20},
                                {.name = "p3", .share = 10}};

static uint32_t n_in = 128;
enum { ANSWER = 64 };

static uint64_t lone_ms(void)
{
    machine *m = new_machine(&(qn_sched_options){0}, 100);
    const job *j = submit(m, 0, 0, n_in, ANSWER);
    run_all(m);
    uint64_t ms = (j->end_ns - j->sched.submit_ns) / MS;
    free_machine(m);
    return ms;
}

/* Nanoseconds for one of many. */
static uint64_t work_ns(void)
{
    machine *m = new_machine(&(qn_sched_options){0}, 2000);
    for (int i = 0; i < 64; i++)
        (void)submit(m, 0, 0, n_in, ANSWER);
    uint64_t start = m->now;
    run_all(m);
    uint64_t ns = (m->now - start) / 64;
    free_machine(m);
    return ns;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

typedef struct outcome {
    uint64_t used[4];             /* of 1000, while requests came */
    uint64_t p50_ms, p99_ms, met; /* class 0; of 1000, within its target */
} outcome;

static void summarise(const machine *m, size_t first, uint64_t target_ms, outcome *out)
{
    static uint64_t ms[4096];
    size_t n = 0;
    for (size_t i = first; i < m->n_jobs; i++) {
        const job *j = m->jobs[i];
        assert_true(j->done && j->end_ns);
        if (j->sched.class_id != 0)
            continue;
        ms[n] = (j->end_ns - j->sched.submit_ns) / MS;
        out->met += ms[n++] <= target_ms;
    }
    out->met = out->met * 1000 / n;
    qsort(ms, n, sizeof *ms, by_number);
    out->p50_ms = ms[n / 2];
    out->p99_ms = ms[n * 99 / 100];
}

/* Poisson, nearly: the gap is geometric in eighths of its mean. */
static uint64_t next_arrival(machine *m, uint64_t mean_ns)
{
    uint64_t ns = mean_ns / 8;
    while (next_random(&m->rng) % 8)
        ns += mean_ns / 8;
    return ns;
}

/* Requests come 1.5 times as often as they can be answered, 10/30/30/30 % of the classes. The first
 * n_targets classes have targets. */
static outcome overload(bool fifo, int n_targets, uint64_t target_ms, uint64_t mean_ns,
                        uint64_t seed)
{
    static const uint32_t times[] = {2, 5, 10}; /* half of the first target */
    qn_class classes[4];
    memcpy(classes, four, sizeof classes);
    for (int i = 0; i < n_targets; i++)
        classes[i].target_ms = (uint32_t)target_ms / 2 * times[i];
    qn_sched_options o = {.classes = classes, .n_classes = 4, .fifo = fifo};
    machine *m = new_machine(&o, 2000);
    outcome out = {0};
    enum { N = 1200 };
    warm_up(m);
    m->rng = seed;
    m->noise = 50;
    m->check_every = 64;
    size_t first = m->n_jobs;
    uint64_t next = m->now, before[4], all = 0;
    for (int i = 0; i < 4; i++)
        before[i] = m->s.classes.list[i].used_ns;
    while (m->n_jobs < first + N) {
        for (; next <= m->now && m->n_jobs < first + N; next += next_arrival(m, mean_ns)) {
            uint32_t x = next_random(&m->rng) % 10;
            job *j = submit(m, x == 0 ? 0 : 1 + (x - 1) / 3, 0, n_in, ANSWER);
            j->sched.submit_ns = next; /* within the step before */
            if (j->sched.deadline_ns)
                j->sched.deadline_ns -= m->now - next;
        }
        if (m->n_live)
            (void)step(m);
        else
            m->now = next;
    }
    for (int i = 0; i < 4; i++)
        all += out.used[i] = m->s.classes.list[i].used_ns - before[i];
    for (int i = 0; i < 4; i++)
        out.used[i] = out.used[i] * 1000 / all;
    run_all(m);
    summarise(m, first, target_ms, &out);
    print_message(
        "%s: target %llu ms; p50 %llu, p99 %llu, %llu of 1000 met; time %llu %llu %llu %llu; "
        "%llu preempted\n",
        fifo ? "fifo" : "classes", (unsigned long long)target_ms, (unsigned long long)out.p50_ms,
        (unsigned long long)out.p99_ms, (unsigned long long)out.met,
        (unsigned long long)out.used[0], (unsigned long long)out.used[1],
        (unsigned long long)out.used[2], (unsigned long long)out.used[3],
        (unsigned long long)m->s.n_preempted);
    free_machine(m);
    return out;
}

/* Over five seeds: of some 600 of the first class, 99 in 100 are in time. */
static void overloads(int n_targets)
{
    uint64_t target = 2 * lone_ms(), mean = work_ns() * 2 / 3, met = 0, last = 0;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        outcome c = overload(false, n_targets, target, mean, seed);
        met += c.met;
        last += c.used[3];
        assert_true(c.used[1] > c.used[2] && c.used[2] > c.used[3]);
    }
    assert_true(met >= 5 * 990);
    assert_true(last >= 5 * 100);
    outcome f = overload(true, n_targets, target, mean, 1);
    assert_true(f.p50_ms > target);
}

static void test_overload(void **state)
{
    (void)state;
    overloads(1);
}

static void test_overload_linear(void **state)
{
    (void)state;
    base_ns = 10 * MS, row_ns = 2750000, n_in = 32;
    overloads(3);
    base_ns = 20 * MS, row_ns = 1200000, n_in = 128;
}

static uint64_t used_by(const machine *m, uint32_t class_id, uint64_t tenant)
{
    uint64_t n = 0;
    for (size_t i = 0; i < m->n_jobs; i++)
        if (m->jobs[i]->sched.class_id == class_id && m->jobs[i]->sched.tenant_id == tenant)
            n += m->jobs[i]->sched.n_tokens - m->jobs[i]->sched.n_prompt;
    return n;
}

/* Two classes that always want more get time by their shares; one alone gets all of it, and owes
 * nothing for that when the other comes. */
static void test_lending(void **state)
{
    (void)state;
    static const qn_class two[] = {{.name = "a", .share = 3}, {.name = "b", .share = 1}};
    qn_sched_options o = {.classes = two, .n_classes = 2, .max_seqs = 4};
    machine *m = new_machine(&o, 1000);
    warm_up(m);
    for (int i = 0; i < 400; i++)
        (void)submit(m, 1, 0, 20, 20);
    for (int i = 0; i < 500; i++)
        (void)step(m);
    assert_int_equal(m->s.classes.list[0].n_seqs, 0);
    assert_true(m->most_seqs == 4);
    for (int i = 0; i < 400; i++)
        (void)submit(m, 0, 0, 20, 20);
    uint64_t a = m->s.classes.list[0].used_ns, b = m->s.classes.list[1].used_ns;
    for (int i = 0; i < 500; i++)
        (void)step(m);
    a = m->s.classes.list[0].used_ns - a;
    b = m->s.classes.list[1].used_ns - b;
    near(a * 100 / (a + b), 75, 8);
    free_machine(m);
}

static void test_tenants(void **state)
{
    (void)state;
    qn_sched_options o = {.max_seqs = 4};
    machine *m = new_machine(&o, 1000);
    for (int i = 0; i < 300; i++)
        (void)submit(m, 0, 7, 20, 20);
    for (int i = 0; i < 20; i++)
        (void)step(m);
    for (int i = 0; i < 300; i++) /* comes later, and does not wait for all of the other's */
        (void)submit(m, 0, 8 + (uint64_t)(i % 2), 20, 20);
    uint64_t before = used_by(m, 0, 7);
    for (int i = 0; i < 600; i++)
        (void)step(m);
    uint64_t a = used_by(m, 0, 7) - before, b = used_by(m, 0, 8), c = used_by(m, 0, 9);
    near(a * 100 / (a + b + c), 33, 12);
    near(b * 100 / (a + b + c), 33, 12);
    free_machine(m);
    o.fifo = true;
    m = new_machine(&o, 1000);
    for (uint64_t i = 0; i < 100; i++)
        (void)submit(m, 0, 1 + (i >= 50), 20, 20);
    while (!m->jobs[49]->done)
        (void)step(m);
    assert_true(used_by(m, 0, 2) < 100);
    free_machine(m);
    m = new_machine(&(qn_sched_options){0}, 1000); /* more tenants than slots */
    for (uint64_t i = 0; i < (uint64_t)3 * QN_MAX_TENANTS; i++)
        (void)submit(m, 0, 1000 + i, 20, 4);
    run_all(m);
    free_machine(m);
}

/* The class below its share takes blocks, or a seat, from the youngest of the other, once that has
 * had so much more than its share that starting over is paid for. */
static void test_preemption_between_classes(void **state)
{
    (void)state;
    static const qn_class two[] = {{.name = "a", .share = 9}, {.name = "b", .share = 1}};
    qn_sched_options o = {.classes = two, .n_classes = 2, .max_seqs = 3};
    for (int by_seats = 0; by_seats < 2; by_seats++) {
        machine *m = new_machine(&o, by_seats ? 100 : 14);
        job *b[3];
        for (int i = 0; i < 3; i++)
            b[i] = submit(m, 1, 0, 40, 24);
        (void)step(m);
        (void)step(m);
        const job *a = submit(m, 0, 0, 40, 8);
        (void)step(m);
        assert_int_equal(m->s.n_preempted, 0); /* the clocks were equal when it came */
        assert_int_equal(a->sched.state, QN_SEQ_WAITING);
        for (int i = 0; i < 10; i++)
            (void)step(m);
        assert_int_not_equal(a->sched.state, QN_SEQ_WAITING);
        assert_int_equal(b[2]->sched.n_preempted, 1);
        assert_int_equal(m->s.n_preempted, 1);
        assert_int_equal(m->s.classes.list[1].n_preempted, 1);
        run_all(m);
        assert_true(a->done && b[2]->done && b[2]->end_ns > a->end_ns);
        free_machine(m);
    }
}

/* ---- gaps, seats ---- */

static void test_gap(void **state)
{
    (void)state;
    enum { N = 8, GAP_MS = 70 };
    qn_class c = {.name = "c", .share = 1};
    static const uint32_t gaps[] = {0, GAP_MS, QN_GAP_AUTO};
    uint64_t longest[3], alone = 0;
    for (int limited = 0; limited < 3; limited++) {
        c.gap_ms = gaps[limited];
        qn_sched_options o = {.classes = &c, .n_classes = 1};
        machine *m = new_machine(&o, 4000);
        job *j[N], *prompt;
        warm_up(m);
        for (int i = 0; i < N; i++)
            j[i] = submit(m, 0, 0, 4, 4000);
        for (int i = 0; i < 20; i++)
            (void)step(m);
        for (int i = 0; i < N; i++) {
            alone = j[i]->max_gap_ns / MS;
            j[i]->max_gap_ns = 0;
        }
        prompt = submit(m, 0, 0, 16384, 4);
        uint64_t steps = m->n_steps;
        while (!prompt->token_ns)
            (void)step(m);
        longest[limited] = 0;
        for (int i = 0; i < N; i++)
            longest[limited] = QN_MAX(longest[limited], j[i]->max_gap_ns / MS);
        print_message("16384 tokens beside %d answers: %llu steps, longest gap %llu ms\n", N,
                      (unsigned long long)(m->n_steps - steps),
                      (unsigned long long)longest[limited]);
        free_machine(m);
    }
    assert_true(longest[0] > 500);
    assert_true(longest[1] <= GAP_MS + GAP_MS / 10);
    assert_in_range(longest[2], 40, QN_MAX(2 * alone, 50));
}

/* Runs are computed in one step where nobody waits; beside others they keep their gaps, and are not held up by a prompt. */
static void test_runs(void **state)
{
    (void)state;
    enum { N = 4, RUN = 30, GAP_MS = 50 };
    qn_class c = {.name = "c", .share = 1, .gap_ms = GAP_MS};
    qn_sched_options o = {.classes = &c, .n_classes = 1};
    machine *m = new_machine(&o, 4000);
    warm_up(m);
    job *run = submit(m, 0, 0, 4, 10 * (RUN + 1));
    run->run = RUN;
    uint64_t steps = m->n_steps;
    run_all(m);
    assert_in_range(m->n_steps - steps, 10, 11);
    job *j[N];
    for (int i = 0; i < N; i++)
        j[i] = submit(m, 0, 0, 4, 4000);
    for (int i = 0; i < 20; i++)
        (void)step(m);
    for (int i = 0; i < N; i++)
        j[i]->max_gap_ns = 0;
    run = submit(m, 0, 0, 4, 20 * (RUN + 1));
    run->run = RUN;
    const job *prompt = submit(m, 0, 0, 16384, 4);
    uint64_t longest = 0;
    steps = m->n_steps;
    while (!run->done)
        (void)step(m);
    assert_false(prompt->token_ns);
    assert_true(m->n_steps - steps <= 20 * (RUN / 4 + 2)); /* 4 a step or more */
    for (int i = 0; i < N; i++)
        longest = QN_MAX(longest, j[i]->max_gap_ns / MS);
    assert_true(longest <= GAP_MS + GAP_MS / 10);
    free_machine(m);
}

/* A limit that nothing can keep: the prompt is read all the same. */
static void test_progress(void **state)
{
    (void)state;
    qn_class c = {.name = "c", .share = 1, .gap_ms = 1};
    qn_sched_options o = {.classes = &c, .n_classes = 1};
    machine *m = new_machine(&o, 1000);
    (void)submit(m, 0, 0, 4, 1000);
    for (int i = 0; i < 9; i++)
        (void)step(m);
    const job *prompt = submit(m, 0, 0, 160, 2);
    uint64_t steps = m->n_steps;
    while (!prompt->token_ns)
        (void)step(m);
    assert_int_equal(m->n_steps - steps, 40); /* 4 a step */
    free_machine(m);
}

static void test_buckets(void **state)
{
    (void)state;
    static const qn_bucket b[] = {{100, 4}, {400, 2}, {UINT32_MAX, 1}};
    qn_sched_options o = {.buckets = b, .n_buckets = 3};
    machine *m = new_machine(&o, 2000);
    for (uint32_t i = 0; i < 30; i++)
        (void)submit(m, 0, 0, i % 3 == 0 ? 20 : i % 3 == 1 ? 200 : 500, 20);
    uint32_t most[3] = {0};
    while (m->n_live) {
        uint32_t n[3] = {0};
        size_t k = step(m);
        for (size_t i = 0; i < k; i++)
            n[m->out[i]->max_tokens <= 100 ? 0 : m->out[i]->max_tokens <= 400 ? 1 : 2]++;
        for (int i = 0; i < 3; i++)
            most[i] = QN_MAX(most[i], n[i]);
    }
    assert_int_equal(most[0], 4);
    assert_int_equal(most[1], 2);
    assert_int_equal(most[2], 1);
    free_machine(m);
}

static void test_adaptive(void **state)
{
    (void)state;
    qn_sched_options o = {.min_seqs = 4, .max_seqs = 32};
    machine *m = new_machine(&o, 2000);
    assert_int_equal(m->s.seats, 4);
    for (int i = 0; i < 200; i++)
        (void)submit(m, 0, 0, 10, 100);
    for (int i = 0; i < 40; i++)
        (void)step(m);
    assert_true(m->s.seats > 4); /* twenty milliseconds for each step: more rows are cheaper */
    for (int i = 0; i < 400; i++)
        (void)step(m);
    assert_int_equal(m->s.seats, 32);
    /* now a row more costs more than it gives */
    for (int i = 0; i < 400; i++)
        for (uint32_t n = 1; n <= 32; n *= 2)
            qn_cost_model_add(&m->s.cost, n, 0, (uint64_t)n * n * MS);
    for (int i = 0; i < 300; i++) {
        size_t n = qn_scheduler_schedule(&m->s, m->now, m->out);
        qn_scheduler_advance(&m->s, m->now, (uint64_t)n * n * MS);
        for (size_t k = 0; k < n; k++)
            if (m->out[k]->n_computed == m->out[k]->n_tokens)
                add_token(m, (job *)m->out[k]);
    }
    assert_true(m->s.seats <= 8);
    free_machine(m);
}

static void test_hold(void **state)
{
    (void)state;
    qn_sched_options o = {.max_seqs = 4};
    machine *m = new_machine(&o, 10);
    assert_int_equal(qn_scheduler_hold_ns(&m->s, 1, 1000, 1000, 500), 500);
    assert_int_equal(qn_scheduler_hold_ns(&m->s, 3, 1000, 1200, 500), 300);
    assert_int_equal(qn_scheduler_hold_ns(&m->s, 4, 1000, 1200, 500), 0);
    assert_int_equal(qn_scheduler_hold_ns(&m->s, 1, 1000, 1500, 500), 0); /* nobody else came */
    assert_int_equal(qn_scheduler_hold_ns(&m->s, 1, 1000, 1000, 0), 0);
    free_machine(m);
}

static void test_forecast(void **state)
{
    (void)state;
    static const qn_class two[] = {{.name = "a", .share = 3}, {.name = "b", .share = 1}};
    qn_sched_options o = {.classes = two, .n_classes = 2};
    machine *m = new_machine(&o, 3000);
    qn_forecast f;
    qn_forecast_make(&f, &m->s);
    assert_int_equal(qn_forecast_ns(&f, 0, n_in, ANSWER), 0); /* nothing is known */
    warm_up(m);
    qn_forecast_make(&f, &m->s);
    near(qn_forecast_ns(&f, 0, n_in, ANSWER) / MS, lone_ms(), 10);
    uint64_t alone = qn_forecast_ns(&f, 1, n_in, ANSWER);
    for (int i = 0; i < 60; i++)
        (void)submit(m, 1, 0, n_in, ANSWER);
    qn_forecast_make(&f, &m->s);
    assert_int_equal(qn_forecast_ns(&f, 0, n_in, ANSWER), alone); /* the other's queue */
    uint64_t ns = qn_forecast_ns(&f, 1, n_in, ANSWER), start = m->now;
    qn_forecast_add(&f, 1, n_in, ANSWER, 1);
    assert_true(qn_forecast_ns(&f, 1, n_in, ANSWER) > ns);
    const job *last = submit(m, 1, 0, n_in, ANSWER);
    run_all(m);
    near(last->end_ns - start, ns, 15);
    free_machine(m);
}

/* ---- everything at once ---- */

static void fork_job(machine *m, const job *parent)
{
    int32_t to, from;
    job *j = qn_calloc(1, sizeof *j, QN_MEM_MISC);
    assert_non_null(j);
    assert_true(qn_grow(&m->jobs, &m->cap, m->n_jobs + 1, sizeof *m->jobs, QN_MEM_MISC));
    uint32_t n = parent->sched.n_prompt + parent->n_answer;
    j->tokens = qn_alloc_array(n, sizeof *j->tokens, QN_MEM_MISC);
    assert_non_null(j->tokens);
    memcpy(j->tokens, parent->tokens, parent->sched.n_tokens * sizeof *j->tokens);
    j->n_answer = parent->n_answer;
    j->sched.arrival = parent->sched.arrival;
    j->sched.n_tokens = parent->sched.n_tokens;
    j->sched.tokens = j->tokens;
    qn_status s = qn_scheduler_fork(&m->s, &j->sched, &parent->sched, &to, &from, NULL);
    assert_true(s == QN_OK || s == QN_E_KV_FULL);
    j->tokens[j->sched.n_tokens++] = (int32_t)(next_random(&m->rng) % 1000u);
    m->jobs[m->n_jobs++] = j;
    m->n_live++;
}

/* 10,000 requests of all classes and some tenants, many of which begin alike, in a cache that is
 * too small; some are forked, some aborted. The same seed makes the same choices. */
static uint64_t storm(uint64_t seed, bool fifo, size_t n_arrivals)
{
    enum { N_BLOCKS = 60 };
    static const qn_bucket buckets[] = {{200, 10}, {UINT32_MAX, 6}};
    qn_class classes[4];
    memcpy(classes, four, sizeof classes);
    classes[0].target_ms = 4000;
    classes[1].gap_ms = 100;
    classes[2].target_ms = 9000;
    qn_sched_options o = {.classes = classes,
                          .n_classes = 4,
                          .fifo = fifo,
                          .max_batch_tokens = 128,
                          .min_seqs = 4,
                          .max_seqs = 12,
                          .buckets = buckets,
                          .n_buckets = 2};
    machine *m = new_machine(&o, N_BLOCKS);
    m->rng = seed;
    m->noise = 100;
    size_t n_aborted = 0, n_forked = 0, n_arrived = 0;
    uint64_t hash = 0;
    static int32_t shared[4][160];
    for (size_t i = 0; i < 640; i++)
        shared[i / 160][i % 160] = (int32_t)(next_random(&m->rng) % 1000u);
    while (n_arrived < n_arrivals || m->n_live) {
        for (; n_arrived < n_arrivals && m->n_live < 50 && next_random(&m->rng) % 3; n_arrived++) {
            uint32_t n = 1 + next_random(&m->rng) % 200, c = next_random(&m->rng) % 4;
            job *j = submit(m, c, next_random(&m->rng) % 6, n, 1 + next_random(&m->rng) % 30);
            uint32_t like = next_random(&m->rng) % 6, same = next_random(&m->rng) % 161;
            if (like < 4)
                memcpy(j->tokens, shared[like], QN_MIN(n, same) * sizeof *j->tokens);
            j->sched.salt[0] = next_random(&m->rng) % 2;
        }
        size_t n = step(m);
        for (size_t i = 0; i < n; i++)
            hash = (hash ^ (m->out[i]->arrival * 64 + m->out[i]->n_computed)) * 0x100000001b3u;
        for (size_t i = 0; i < m->s.n_seqs; i++) {
            job *j = (job *)m->s.seqs[i];
            uint32_t x = next_random(&m->rng) % 600;
            if (x == 0) {
                end_job(m, j);
                n_aborted++;
            } else if (x == 1 && m->n_live < 90 && j->sched.state == QN_SEQ_RUNNING &&
                       j->sched.n_tokens == j->sched.n_computed + 1) {
                fork_job(m, j);
                n_forked++;
            }
        }
        check(m);
    }
    size_t n_answered = 0;
    for (size_t i = 0; i < m->n_jobs; i++)
        n_answered += m->jobs[i]->end_ns > 0;
    assert_int_equal(n_answered + n_aborted, n_arrivals + n_forked);
    print_message(
        "%s: %zu answers, %zu aborted, %zu forked, %llu preempted, %llu of %llu tokens cached\n",
        fifo ? "fifo" : "classes", n_answered, n_aborted, n_forked,
        (unsigned long long)m->s.n_preempted, (unsigned long long)m->s.n_cache_hits,
        (unsigned long long)m->s.n_cache_queries);
    assert_true(m->s.n_preempted > n_arrivals / 100);
    assert_true(m->s.n_cache_hits > n_arrivals);
    assert_true(n_forked > n_arrivals / 200 && n_aborted > n_arrivals / 100);
    free_machine(m);
    return hash;
}

static void test_storm(void **state)
{
    (void)state;
    (void)storm(1, false, 10000);
    uint64_t first = storm(2, false, 1000);
    assert_true(first == storm(2, false, 1000));
    assert_true(first != storm(2, true, 1000));
}

/* A guest has its share beside steps, and waits for nobody who waits. */
static void test_guest(void **state)
{
    (void)state;
    static const qn_class list[] = {{.name = "a", .share = 90, .gap_ms = 20},
                                    {.name = "b", .share = 10}};
    qn_classes k;
    qn_classes_init(&k, list, 2);
    uint16_t guest = qn_classes_enter_guest(&k, 1, 7);
    assert_true(qn_classes_is_first(&k, guest));
    assert_true(qn_classes_guest_ns(&k) == UINT64_MAX);
    uint16_t seq = qn_classes_enter(&k, 0, 8);
    assert_true(qn_classes_guest_ns(&k) == 20000000u);
    assert_true(qn_classes_is_first(&k, guest)); /* the other was in no step */
    uint64_t had = 0, all = 0;
    qn_classes_charge(&k, seq, 1000);
    for (int i = 0; i < 2000; i++) {
        bool is_guest = qn_classes_is_first(&k, guest);
        uint64_t ns = is_guest ? 3000 : 1000;
        if (!is_guest)
            qn_classes_begin_step(&k);
        qn_classes_charge(&k, is_guest ? guest : seq, ns);
        had += is_guest ? ns : 0;
        all += ns;
    }
    assert_in_range(had * 100 / all, 9, 11);
    qn_classes_begin_step(&k); /* a step that could compute nothing */
    for (int i = 0; i < 100; i++) {
        assert_true(qn_classes_is_first(&k, guest));
        qn_classes_charge(&k, guest, 1000);
    }
    qn_classes_leave_guest(&k, guest);
    qn_classes_leave(&k, seq);
    assert_int_equal(k.list[0].n_seqs + k.list[1].n_seqs, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cost_model),
        cmocka_unit_test(test_overload),
        cmocka_unit_test(test_overload_linear),
        cmocka_unit_test(test_lending),
        cmocka_unit_test(test_tenants),
        cmocka_unit_test(test_preemption_between_classes),
        cmocka_unit_test(test_gap),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_buckets),
        cmocka_unit_test(test_adaptive),
        cmocka_unit_test(test_hold),
        cmocka_unit_test(test_forecast),
        cmocka_unit_test(test_storm),
        cmocka_unit_test(test_guest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
