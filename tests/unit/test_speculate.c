/* SPDX-License-Identifier: Apache-2.0
 * test_speculate.c - how many tokens to draft, on machines and texts that are made up. */
#include "check.h"

#include "sample/speculate.h"

#include <math.h>

/* A machine: memory takes 10 ms a step, arithmetic 10 / knee ms a row. */
static double machine_ns(double rows, double knee)
{
    return 1e7 * fmax(1.0, rows / knee);
}

static qn_accept accept_of(double rate)
{
    qn_accept a = qn_accept_default();
    for (size_t k = 0; k < QN_SPEC_N_KINDS; k++)
        a.hits[k] = (float)rate * (a.seen[k] = 20);
    return a;
}

static void test_acceptance(void **state)
{
    (void)state;
    qn_accept a = qn_accept_default();
    assert_true(qn_accept_rate(&a, 2) < qn_accept_rate(&a, 5));
    assert_true(qn_accept_rate(&a, 5) < qn_accept_rate(&a, 16));
    for (double rate = 0; rate <= 1; rate += 0.25) {
        a = qn_accept_default();
        for (uint32_t match = 1; match <= QN_SPEC_MODEL; match++)
            for (uint32_t i = 0; i < 400; i++)
                qn_accept_add(&a, match, fmod(i * rate, 1.0) + rate >= 1.0);
        for (uint32_t match = 1; match <= QN_SPEC_MODEL; match++)
            assert_true(fabs(qn_accept_rate(&a, match) - rate) < 0.06);
        qn_accept b = qn_accept_from(&a);
        assert_true(fabs(qn_accept_rate(&b, 9) - rate) < 0.06);
        /* a new text counts for more than the ones before */
        for (int i = 0; i < 12; i++)
            qn_accept_add(&b, 9, rate < 0.5);
        assert_true(fabs(qn_accept_rate(&b, 9) - (rate < 0.5)) < 0.3);
    }
}

static void test_time_of_a_step(void **state)
{
    (void)state;
    qn_step_cost c = {0};
    assert_true(qn_step_cost_of(&c, 1) <= 0);
    qn_step_cost_add(&c, 1, 0, 1e7);
    assert_true(qn_step_cost_of(&c, 1) == 1e7);
    assert_true(qn_step_cost_of(&c, 9) == 1.8e7); /* not measured: assumed */
    qn_step_cost_add(&c, 5, 4, 1.4e7);
    assert_true(fabs(qn_step_cost_of(&c, 3) - 1.1e7) < 1);
    assert_true(fabs(qn_step_cost_of(&c, 9) - 1.8e7) < 1);
    /* a slower machine: all entries follow the steps without drafts */
    for (int i = 0; i < 60; i++)
        qn_step_cost_add(&c, 1, 0, 3e7);
    assert_true(fabs(qn_step_cost_of(&c, 1) - 3e7) < 1e5);
    assert_true(fabs(qn_step_cost_of(&c, 5) - 4.2e7) < 5e5);
    /* a hiccup of a hundred times counts as one of two */
    qn_step_cost_add(&c, 5, 4, 4e9);
    assert_true(qn_step_cost_of(&c, 5) < 6e7);
    qn_step_cost_add(&c, 65, 0, 1);
    qn_step_cost_add(&c, 0, 0, 1);
    qn_step_cost_add(&c, 1, 0, 0);
    assert_true(fabs(qn_step_cost_of(&c, 1) - 3e7) < 1e5);
}

/* Runs steps of n sequences until the choice settles: tokens a second in the last of them, against
 * none drafted, and the drafts of one. */
static double settle(double knee, double rate, size_t n, uint32_t most, uint32_t match,
                     double model_ns, uint32_t *n_draft)
{
    qn_accept a = accept_of(rate);
    qn_step_cost c = {0};
    qn_spec_seq s[64];
    double tokens = 0, ns = 0;
    for (int t = 0; t < 2000; t++) {
        for (size_t i = 0; i < n; i++)
            s[i] = (qn_spec_seq){.accept = &a, .match = match, .most = most};
        qn_spec_choose(&c, s, n, (uint32_t)n, 48, model_ns);
        uint32_t rows = (uint32_t)n, longest = 0;
        double got = (double)n;
        for (size_t i = 0; i < n; i++) {
            rows += s[i].n_draft;
            longest = QN_MAX(longest, s[i].n_draft);
            for (uint32_t k = 1; k <= s[i].n_draft; k++)
                got += pow(rate, k);
        }
        assert_true(rows <= QN_MAX((uint32_t)n, QN_SPEC_ROWS) && rows - n <= 48);
        double took = machine_ns(rows, knee);
        qn_step_cost_add(&c, rows, rows - (uint32_t)n, took);
        if (t >= 1000) {
            tokens += got;
            ns += took + (match == QN_SPEC_MODEL ? longest * model_ns : 0);
        }
        *n_draft = s[0].n_draft;
    }
    return tokens / ns / ((double)n / machine_ns((double)n, knee));
}

/* What the best fixed number of drafts would gain. */
static double best_gain(double knee, double rate, uint32_t most, double model_ns)
{
    double best = 0, tokens = 0;
    for (uint32_t k = 0; k <= most; k++) {
        tokens += pow(rate, k);
        best = fmax(best, tokens / (machine_ns(1 + k, knee) + k * model_ns) * 1e7);
    }
    return best;
}

static void test_choice(void **state)
{
    (void)state;
    static const double knees[] = {1, 1.5, 2.5, 4, 8, 20}, rates[] = {0, 0.1, 0.3, 0.6, 0.8, 0.97};
    for (size_t k = 0; k < QN_COUNT(knees); k++)
        for (size_t r = 0; r < QN_COUNT(rates); r++)
            for (int is_model = 0; is_model < 2; is_model++) {
                uint32_t n_draft;
                double model_ns = is_model ? 1.5e6 : 0;
                double gain = settle(knees[k], rates[r], 1, 16, is_model ? QN_SPEC_MODEL : 3,
                                     model_ns, &n_draft);
                double best = best_gain(knees[k], rates[r], 16, model_ns);
                if (gain < 0.985 || gain < 0.95 * best - 0.06)
                    fail_msg("knee %g, rate %g, model %d: %g times as fast with %u drafts, %g "
                             "would be possible",
                             knees[k], rates[r], is_model, gain, n_draft, best);
            }
}

/* Many sequences make the step slow by themselves: no drafts. */
static void test_batch(void **state)
{
    (void)state;
    uint32_t last = 100, n_draft;
    for (size_t n = 1; n <= 64; n *= 2) {
        double gain = settle(4, 0.8, n, 8, 3, 0, &n_draft);
        assert_true(gain > 0.99);
        assert_true(n_draft <= last);
        last = n_draft;
        if (n == 1)
            assert_true(gain > 1.8 && n_draft >= 3);
        if (n >= 4)
            assert_int_equal(n_draft, 0);
    }
}

/* The likelier text gets the drafts. */
static void test_who(void **state)
{
    (void)state;
    qn_accept good = accept_of(0.95), bad = accept_of(0.2);
    qn_step_cost c = {0};
    for (uint32_t rows = 1; rows <= 16; rows++)
        qn_step_cost_add(&c, rows, 0, machine_ns(rows, 8));
    qn_spec_seq s[] = {{.accept = &bad, .match = 2, .most = 8},
                       {.accept = &good, .match = 2, .most = 4},
                       {.accept = &good, .match = 2, .most = 0}};
    qn_spec_choose(&c, s, 3, 3, 48, 0);
    assert_int_equal(s[1].n_draft, 4);
    assert_true(s[0].n_draft <= 1);
    assert_int_equal(s[2].n_draft, 0);
    qn_spec_choose(&c, s, 3, 3, 2, 0);
    assert_int_equal(s[0].n_draft + s[1].n_draft, 2);
    qn_spec_choose(&c, s, 3, 3, 0, 0);
    assert_int_equal(s[1].n_draft, 0);
}

/* A machine whose drafts were slow for a while is tried again, at little cost. */
static void test_recovery(void **state)
{
    (void)state;
    qn_accept a = accept_of(0.8);
    qn_step_cost c = {0};
    double tokens = 0, ns = 0;
    uint32_t n_draft = 0, longest = 0;
    for (int t = 0; t < 6000; t++) {
        double knee = t < 3000 ? 0.8 : 6;
        qn_spec_seq s = {.accept = &a, .match = 8, .most = 8};
        qn_spec_choose(&c, &s, 1, 1, 48, 0);
        n_draft = s.n_draft;
        longest = t > 5900 ? QN_MAX(longest, n_draft) : 0;
        double took = n_draft ? 1e7 * fmax(1, (1 + n_draft) / knee) : 1e7;
        qn_step_cost_add(&c, 1 + n_draft, n_draft, took);
        if (t > 200 && t < 3000) {
            for (uint32_t k = 0; k <= n_draft; k++)
                tokens += pow(0.8, k);
            ns += took;
        }
    }
    assert_true(tokens / ns * 1e7 > 0.97);
    assert_true(longest >= 4);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(test_acceptance), cmocka_unit_test(test_time_of_a_step),
        cmocka_unit_test(test_choice),     cmocka_unit_test(test_batch),
        cmocka_unit_test(test_who),        cmocka_unit_test(test_recovery)};
    return cmocka_run_group_tests(t, NULL, NULL);
}
