/* SPDX-License-Identifier: Apache-2.0
 * test_residency.c - which model is opened or put away next: each rule, and ten thousand requests on a false clock. */
#include "check.h"

#include "server/residency.h"
#include <string.h>

#define MS 1000000u

static qn_resident model(qn_resident_state state, uint64_t bytes)
{
    return (qn_resident){.state = state, .bytes = bytes, .keep_ns = QN_NEVER};
}

static void expect(qn_resident *m, size_t n, uint64_t limit, uint64_t now, qn_residency_act act,
                   uint64_t at)
{
    uint64_t found = 77;
    assert_int_equal(qn_residency_next(m, n, limit, now, &found), act);
    assert_true(found == at);
}

static void want(qn_resident *m, uint64_t now)
{
    m->is_wanted = true;
    m->wanted_ns = now;
}

static void test_start(void **state)
{
    (void)state;
    qn_resident m[3] = {model(QN_RESIDENT_OUT, 6), model(QN_RESIDENT_OUT, 5),
                        model(QN_RESIDENT_OUT, 4)};
    for (size_t i = 0; i < 3; i++)
        m[i].at_start = true;
    expect(m, 3, 10, 0, QN_RESIDENCY_OPEN, 0);
    m[0].state = QN_RESIDENT_IN;
    expect(m, 3, 10, 0, QN_RESIDENCY_OPEN, 2); /* 1 has no room beside it, and nobody asked */
    m[2].state = QN_RESIDENT_IN;
    expect(m, 3, 10, 0, QN_RESIDENCY_WAIT, QN_NEVER);
    m[2].state = QN_RESIDENT_OUT;
    want(&m[1], 5); /* whoever asks comes before those that nobody asked for */
    expect(m, 3, 10, 5, QN_RESIDENCY_CLOSE, 0);
}

static void test_order(void **state)
{
    (void)state;
    qn_resident m[4] = {model(QN_RESIDENT_IN, 3), model(QN_RESIDENT_IN, 3),
                        model(QN_RESIDENT_IN, 3), model(QN_RESIDENT_OUT, 3)};
    m[0].used_ns = 30;
    m[1].used_ns = 10;
    m[2].used_ns = 20;
    static const size_t ranks[] = {3, 1, 2};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(qn_residency_rank(m, 4, i), ranks[i]);
    assert_int_equal(qn_residency_rank(m, 4, 3), 0);
    want(&m[3], 40);
    expect(m, 4, 9, 40, QN_RESIDENCY_CLOSE, 1);
    m[1].n_users = 1; /* never one that is used, as long as another will do */
    expect(m, 4, 9, 40, QN_RESIDENCY_CLOSE, 2);
    m[0].n_users = m[2].n_users = 1;
    m[0].in_ns = 3;
    m[1].in_ns = 2;
    m[2].in_ns = 1;
    assert_int_equal(qn_residency_rank(m, 4, 2), 1);
    expect(m, 4, 9, 40, QN_RESIDENCY_WAIT, QN_NEVER);
    assert_true(m[2].is_drained && !m[0].is_drained && !m[1].is_drained);
    expect(m, 4, 12, 40, QN_RESIDENCY_OPEN, 3); /* there is room now: nothing need go */
    assert_false(m[2].is_drained);
}

static void test_first_come(void **state)
{
    (void)state;
    qn_resident m[3] = {model(QN_RESIDENT_IN, 8), model(QN_RESIDENT_OUT, 8),
                        model(QN_RESIDENT_OUT, 2)};
    m[0].n_users = 1;
    want(&m[1], 10);
    want(&m[2], 20);
    /* the later one would fit, but would pass the first */
    expect(m, 3, 10, 30, QN_RESIDENCY_WAIT, QN_NEVER);
    m[1].is_wanted = false;
    expect(m, 3, 10, 30, QN_RESIDENCY_OPEN, 2);
}

static void test_stay(void **state)
{
    (void)state;
    qn_resident m[2] = {model(QN_RESIDENT_IN, 8), model(QN_RESIDENT_OUT, 8)};
    m[0].n_users = 3;
    m[0].in_ns = 1000 * MS;
    m[1].open_ns = 100 * MS;
    want(&m[1], 1010 * MS);
    expect(m, 2, 10, 1010 * MS, QN_RESIDENCY_WAIT, 1200 * MS);
    assert_false(m[0].is_drained);
    expect(m, 2, 10, 1200 * MS, QN_RESIDENCY_WAIT, QN_NEVER);
    assert_true(m[0].is_drained);
    m[0].n_users = 0;
    expect(m, 2, 10, 1201 * MS, QN_RESIDENCY_CLOSE, 0);
    m[0].n_users = 1;
    m[1].is_wanted = false; /* who asked has gone */
    expect(m, 2, 10, 1202 * MS, QN_RESIDENCY_WAIT, QN_NEVER);
    assert_false(m[0].is_drained);
    want(&m[1], 0);
    m[1].open_ns =
        (uint64_t)3600 * 1000 * MS; /* however long opening takes, others need not wait for ever */
    expect(m, 2, 10, 1202 * MS, QN_RESIDENCY_WAIT, 11000 * (uint64_t)MS);
}

static void test_several_go(void **state)
{
    (void)state;
    qn_resident m[4] = {model(QN_RESIDENT_IN, 3), model(QN_RESIDENT_IN, 3),
                        model(QN_RESIDENT_IN, 3), model(QN_RESIDENT_OUT, 6)};
    m[0].used_ns = 1;
    m[1].n_users = 1;
    m[2].n_users = 1;
    m[2].in_ns = 5;
    want(&m[3], 9);
    expect(m, 4, 9, 9, QN_RESIDENCY_WAIT, QN_NEVER); /* 0 alone is not enough, so it stays too */
    assert_true(m[0].is_drained && m[1].is_drained && !m[2].is_drained);
    m[1].n_users = 0;
    m[1].used_ns = 8;
    expect(m, 4, 9, 9, QN_RESIDENCY_CLOSE, 0);
    m[0].state = QN_RESIDENT_OUT;
    expect(m, 4, 9, 9, QN_RESIDENCY_CLOSE, 1);
    m[1].state = QN_RESIDENT_OUT;
    expect(m, 4, 9, 9, QN_RESIDENCY_OPEN, 3);
}

static void test_keep(void **state)
{
    (void)state;
    qn_resident m[2] = {model(QN_RESIDENT_IN, 1), model(QN_RESIDENT_IN, 1)};
    m[0].used_ns = 100;
    m[0].keep_ns = 50;
    expect(m, 2, 10, 120, QN_RESIDENCY_WAIT, 150);
    m[0].n_users = 1;
    expect(m, 2, 10, 200, QN_RESIDENCY_WAIT, QN_NEVER);
    m[0].n_users = 0;
    expect(m, 2, 10, 200, QN_RESIDENCY_CLOSE, 0);
}

/* ---- requests on a false clock ---- */

enum { N_MODELS = 5, N_REQUESTS = 10000, LIMIT = 100 };

typedef struct request {
    size_t model;
    uint64_t at, begin, end; /* begin, end 0: not yet */
} request;

typedef struct world {
    qn_resident m[N_MODELS];
    request r[N_REQUESTS];
    size_t n_come, n_ended, first; /* of r[] not ended yet */
    uint64_t now, busy_until, opening_ns;
    size_t acting; /* model that is being opened or put away; N_MODELS: none */
    uint64_t seed, longest;
} world;

static uint64_t draw(world *w, uint64_t n)
{
    w->seed = w->seed * 6364136223846793005u + 1442695040888963407u;
    return (w->seed >> 33) % n;
}

static void begin_waiting(world *w, size_t model)
{
    for (size_t i = w->first; i < w->n_come; i++) {
        request *r = &w->r[i];
        if (r->model != model || r->begin)
            continue;
        r->begin = w->now;
        r->end = w->now + (1 + draw(w, 200)) * MS;
        w->m[model].n_users++;
        w->m[model].used_ns = w->now;
        w->longest = QN_MAX(w->longest, w->now - r->at);
    }
    w->m[model].is_wanted = false;
}

static void act(world *w)
{
    uint64_t at, used = 0;
    if (w->acting < N_MODELS && w->now >= w->busy_until) {
        qn_resident *m = &w->m[w->acting];
        bool was_opening = m->state == QN_RESIDENT_OPENING;
        m->state = was_opening ? QN_RESIDENT_IN : QN_RESIDENT_OUT;
        m->in_ns = m->used_ns = w->now;
        if (was_opening)
            begin_waiting(w, w->acting);
        w->acting = N_MODELS;
    }
    if (w->acting < N_MODELS)
        return;
    qn_residency_act a = qn_residency_next(w->m, N_MODELS, LIMIT, w->now, &at);
    if (a == QN_RESIDENCY_WAIT) {
        for (size_t i = 0; i < N_MODELS; i++)
            if (w->m[i].state == QN_RESIDENT_IN && !w->m[i].is_drained)
                begin_waiting(w, i);
        return;
    }
    qn_resident *m = &w->m[at];
    w->acting = (size_t)at;
    if (a == QN_RESIDENCY_OPEN) {
        assert_int_equal(m->state, QN_RESIDENT_OUT);
        m->state = QN_RESIDENT_OPENING;
        m->open_ns = (5 + m->bytes) * MS;
        w->opening_ns += m->open_ns;
        w->busy_until = w->now + m->open_ns;
    } else {
        assert_int_equal(m->state, QN_RESIDENT_IN);
        assert_int_equal(m->n_users, 0);
        m->state = QN_RESIDENT_CLOSING;
        w->busy_until = w->now + MS;
    }
    for (size_t i = 0; i < N_MODELS; i++)
        used += w->m[i].state == QN_RESIDENT_OUT ? 0 : w->m[i].bytes;
    assert_true(used <= LIMIT);
}

static void come(world *w)
{
    request *r = &w->r[w->n_come++];
    *r = (request){.model = draw(w, 3) ? 0 : (size_t)draw(w, N_MODELS), .at = w->now};
    qn_resident *m = &w->m[r->model];
    if (m->state == QN_RESIDENT_IN && !m->is_drained) {
        begin_waiting(w, r->model);
    } else if (!m->is_wanted) {
        want(m, w->now);
    }
}

/* The first model is asked for all the time; the others get their turns, all are answered. */
static void test_crowd(void **state)
{
    (void)state;
    static world w;
    static const uint64_t bytes[N_MODELS] = {60, 50, 40, 90, 20};
    w.acting = N_MODELS;
    w.seed = 7;
    for (size_t i = 0; i < N_MODELS; i++)
        w.m[i] = model(QN_RESIDENT_OUT, bytes[i]);
    for (uint64_t ms = 0; w.n_ended < N_REQUESTS; ms++) {
        assert_true(ms < 10000000);
        w.now = (1 + ms) * MS;
        while (w.first < w.n_come && w.r[w.first].end == QN_NEVER)
            w.first++;
        for (size_t i = w.first; i < w.n_come; i++)
            if (w.r[i].end && w.r[i].end <= w.now && w.r[i].end != QN_NEVER) {
                qn_resident *m = &w.m[w.r[i].model];
                m->n_users--;
                m->used_ns = w.now;
                w.r[i].end = QN_NEVER;
                w.n_ended++;
            }
        if (w.n_come < N_REQUESTS && draw(&w, 5) == 0)
            come(&w);
        act(&w);
    }
    /* five turns of: stay, the longest answer, opening */
    assert_true(w.longest < (uint64_t)5 * (200 + 200 + 200) * MS);
    assert_true(w.opening_ns < w.now / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),      cmocka_unit_test(test_order),
        cmocka_unit_test(test_first_come), cmocka_unit_test(test_stay),
        cmocka_unit_test(test_several_go), cmocka_unit_test(test_keep),
        cmocka_unit_test(test_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
