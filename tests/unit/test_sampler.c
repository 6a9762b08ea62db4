/* SPDX-License-Identifier: Apache-2.0
 * test_sampler.c - the sampler against a naive reference in double precision that sorts everything.
 *
 * The reference gives the exact distribution a sampler draws from. That the sampler has the same
 * one is shown by the set of tokens it ever gives, and by a chi-square test of how often.
 * Everything is seeded, so a run is the same every time. */
#include "check.h"

#include "sample/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_VOCAB 4096

/* ---- reference ---- */

typedef struct ref {
    double z[MAX_VOCAB]; /* modified logits; -INFINITY: removed */
    double p[MAX_VOCAB]; /* the distribution */
    size_t n;
} ref;

typedef struct ranked {
    double key;
    size_t id;
} ranked;

static int by_key(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static void ref_softmax(ref *r)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < r->n; i++)
        max = fmax(max, r->z[i]);
    for (size_t i = 0; i < r->n; i++)
        sum += r->p[i] = exp(r->z[i] - max);
    for (size_t i = 0; i < r->n; i++)
        r->p[i] /= sum;
}

/* Keeps what comes first by key until `mass` is reached (mass of 1 each if `count`). */
static void ref_keep(ref *r, const double *key, double mass, bool count)
{
    static ranked order[MAX_VOCAB];
    double sum = 0;
    for (size_t i = 0; i < r->n; i++)
        order[i] = (ranked){r->z[i] == -INFINITY ? INFINITY : key[i], i};
    qsort(order, r->n, sizeof(*order), by_key);
    for (size_t i = 0; i < r->n; i++) {
        if (sum >= mass)
            r->z[order[i].id] = -INFINITY;
        sum += count ? 1 : r->p[order[i].id];
    }
    ref_softmax(r);
}

typedef struct history {
    const int32_t *prompt, *output;
    size_t n_prompt, n_output;
    const int32_t *eos;
    size_t n_eos;
} history;

static size_t count_of(const int32_t *ids, size_t n, size_t id)
{
    size_t c = 0;
    for (size_t i = 0; i < n; i++)
        c += (size_t)ids[i] == id;
    return c;
}

static void ref_modify(ref *r, const float *logits, size_t n_tokens, const qn_params *p,
                       const history *h)
{
    r->n = n_tokens;
    for (size_t i = 0; i < n_tokens; i++) {
        double z = (double)logits[i];
        for (size_t j = 0; j < p->n_logit_bias; j++)
            if ((size_t)p->logit_bias[j].token_id == i)
                z += (double)p->logit_bias[j].bias;
        size_t n_out = count_of(h->output, h->n_output, i);
        if (n_out || count_of(h->prompt, h->n_prompt, i))
            z = z > 0 ? z / (double)p->repetition_penalty : z * (double)p->repetition_penalty;
        z -= (double)p->frequency_penalty * (double)n_out;
        z -= n_out ? (double)p->presence_penalty : 0;
        if (h->n_output < (size_t)p->min_tokens && count_of(h->eos, h->n_eos, i))
            z = -INFINITY;
        r->z[i] = z;
    }
    ref_softmax(r);
}

static void ref_filter(ref *r, const qn_params *p)
{
    static double key[MAX_VOCAB];
    for (size_t i = 0; i < r->n; i++)
        r->z[i] /= (double)p->temperature;
    ref_softmax(r);
    for (size_t i = 0; i < r->n; i++)
        key[i] = -r->z[i];
    if (p->top_k > 0)
        ref_keep(r, key, p->top_k, true);
    if (p->top_p < 1)
        ref_keep(r, key, (double)p->top_p, false);
    double best = 0, entropy = 0;
    for (size_t i = 0; i < r->n; i++)
        best = fmax(best, r->p[i]);
    for (size_t i = 0; i < r->n; i++)
        if (p->min_p > 0 && r->p[i] < (double)p->min_p * best)
            r->z[i] = -INFINITY;
    ref_softmax(r);
    if (p->typical_p >= 1)
        return;
    for (size_t i = 0; i < r->n; i++)
        entropy -= r->p[i] > 0 ? r->p[i] * log(r->p[i]) : 0;
    for (size_t i = 0; i < r->n; i++)
        key[i] = fabs(-log(r->p[i]) - entropy);
    ref_keep(r, key, (double)p->typical_p, false);
}

static size_t ref_argmax(const ref *r)
{
    size_t best = 0;
    for (size_t i = 1; i < r->n; i++)
        if (r->z[i] > r->z[best])
            best = i;
    return best;
}

static double ref_logprob(const float *x, size_t n, size_t id)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        max = fmax(max, (double)x[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    return (double)x[id] - max - log(sum);
}

/* ---- helpers ---- */

static qn_params plain_params(void)
{
    return (qn_params){.top_p = 1,
                       .typical_p = 1,
                       .repetition_penalty = 1,
                       .n_logprobs = -1,
                       .n = 1,
                       .length_penalty = 1};
}

static uint64_t rng_state;

static uint32_t next_random(void)
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng_state >> 33);
}

static float random_float(float min, float max)
{
    return min + (max - min) * (float)(next_random() % 65536) / 65536;
}

/* Roughly normal logits, as models give, in steps coarse enough that some are equal. */
static void random_logits(float *x, size_t n, float spread)
{
    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        for (int j = 0; j < 6; j++)
            sum += random_float(-1, 1);
        x[i] = roundf(sum * spread * 64) / 64;
    }
}

static qn_sampler *new_sampler(const qn_params *p, uint64_t seed, size_t n_vocab, size_t n_tokens,
                               const history *h)
{
    qn_err err = {0};
    qn_sampler *s;
    if (qn_sampler_new(&s, p, seed, n_vocab, n_tokens, h->eos, h->n_eos, &err) != QN_OK)
        fail_msg("%s", err.msg);
    for (size_t i = 0; i < h->n_prompt; i++)
        qn_sampler_accept(s, h->prompt[i], false);
    for (size_t i = 0; i < h->n_output; i++)
        qn_sampler_accept(s, h->output[i], true);
    return s;
}

static int32_t sample_one(qn_sampler *s, const float *logits)
{
    qn_err err = {0};
    qn_candidate c;
    if (qn_sampler_sample(s, logits, NULL, &c, 0, &err) != QN_OK)
        fail_msg("%s", err.msg);
    return c.id;
}

static const history no_history = {0};

/* Draws and compares with the reference's distribution. A token that the reference removed must
 * never come; the rest is a chi-square test over cells of at least 8 expected draws, rarer tokens
 * joined in one cell. A right sampler exceeds df + 5 sqrt(2 df) + 15 with a chance of about 1e-7 (5
 * standard deviations and the slope of the tail at small df); the fixed seed makes the outcome
 * constant. */
static void check_distribution(const qn_params *p, const float *logits, size_t n_vocab,
                               size_t n_tokens, const history *h, size_t n_draws)
{
    static ref r;
    static size_t hits[MAX_VOCAB];
    ref_modify(&r, logits, n_tokens, p, h);
    ref_filter(&r, p);
    memset(hits, 0, sizeof(hits));
    qn_sampler *s = new_sampler(p, 12345, n_vocab, n_tokens, h);
    for (size_t i = 0; i < n_draws; i++) {
        int32_t id = sample_one(s, logits);
        assert_in_range(id, 0, n_tokens - 1);
        if (r.z[id] == -INFINITY)
            fail_msg(
                "token %d was drawn, but is filtered (top_k %d top_p %g min_p %g typical_p %g)", id,
                p->top_k, (double)p->top_p, (double)p->min_p, (double)p->typical_p);
        hits[id]++;
    }
    qn_sampler_free(s);
    double chi = 0, rare_expected = 0, rare_hits = 0;
    size_t df = 0;
    for (size_t i = 0; i < n_tokens; i++) {
        double expected = r.p[i] * (double)n_draws, d = (double)hits[i] - expected;
        if (expected >= 8) {
            chi += d * d / expected;
            df++;
        } else {
            rare_expected += expected;
            rare_hits += (double)hits[i];
        }
    }
    if (rare_expected >= 8) {
        chi += (rare_hits - rare_expected) * (rare_hits - rare_expected) / rare_expected;
        df++;
    }
    double bound = (double)df + 5 * sqrt(2 * (double)df) + 15;
    if (chi > bound)
        fail_msg(
            "chi-square %g over %zu cells, bound %g (T %g top_k %d top_p %g min_p %g typical %g)",
            chi, df, bound, (double)p->temperature, p->top_k, (double)p->top_p, (double)p->min_p,
            (double)p->typical_p);
}

/* ---- tests ---- */

static void test_filters_alone(void **state)
{
    (void)state;
    static float x[400];
    rng_state = 1;
    random_logits(x, QN_COUNT(x), 2);
    qn_params base = plain_params();
    base.temperature = 0.8f;
    check_distribution(&base, x, 400, 400, &no_history, 3000);
    const float top_p[] = {1e-6f, 0.1f, 0.5f, 0.9f, 0.999f},
                min_p[] = {0.001f, 0.05f, 0.5f, 0.999f};
    const int top_k[] = {1, 2, 20, 150, 399, 400, 5000};
    for (size_t i = 0; i < QN_COUNT(top_k); i++) {
        qn_params p = base;
        p.top_k = top_k[i];
        check_distribution(&p, x, 400, 400, &no_history, 3000);
    }
    for (size_t i = 0; i < QN_COUNT(top_p); i++) {
        qn_params p = base;
        p.top_p = top_p[i];
        check_distribution(&p, x, 400, 400, &no_history, 3000);
        p.top_p = 1;
        p.typical_p = top_p[i];
        check_distribution(&p, x, 400, 400, &no_history, 3000);
    }
    for (size_t i = 0; i < QN_COUNT(min_p); i++) {
        qn_params p = base;
        p.min_p = min_p[i];
        check_distribution(&p, x, 400, 400, &no_history, 3000);
    }
}

static void test_filters_together(void **state)
{
    (void)state;
    static float x[MAX_VOCAB];
    rng_state = 2;
    for (int round = 0; round < 40; round++) {
        size_t n = 2 + next_random() % (round < 38 ? 200 : MAX_VOCAB - 2);
        random_logits(x, n, random_float(0, 3));
        qn_params p = plain_params();
        p.temperature = random_float(0.2f, 2);
        p.top_k = next_random() % 2 ? (int)(1 + next_random() % n) : 0;
        p.top_p = next_random() % 2 ? random_float(0.05f, 0.99f) : 1;
        p.min_p = next_random() % 3 ? 0 : random_float(0, 0.3f);
        p.typical_p = next_random() % 3 ? 1 : random_float(0.1f, 0.99f);
        check_distribution(&p, x, n, n, &no_history, 1500);
    }
}

/* Distributions where selection by value meets many equals: ties must go to the lower ids. */
static void test_flat(void **state)
{
    (void)state;
    static float x[MAX_VOCAB];
    for (size_t i = 0; i < MAX_VOCAB; i++)
        x[i] = (float)(i % 2);
    qn_params p = plain_params();
    p.temperature = 1;
    p.top_k = 10;
    check_distribution(&p, x, MAX_VOCAB, MAX_VOCAB, &no_history, 600);
    p.top_k = 0;
    p.top_p = 0.0099f;
    check_distribution(&p, x, MAX_VOCAB, MAX_VOCAB, &no_history, 600);
    p.top_p = 1;
    p.typical_p = 0.0099f;
    check_distribution(&p, x, MAX_VOCAB, MAX_VOCAB, &no_history, 600);
    p.temperature = 1e-30f; /* the coldest: only the 2048 best remain, all alike */
    p.typical_p = 1;
    check_distribution(&p, x, MAX_VOCAB, MAX_VOCAB, &no_history, 600);
}

/* The modified logits, read through qn_sampler_top and greedy. */
static void test_penalties(void **state)
{
    (void)state;
    static float x[600], copy[600];
    static ref r;
    static qn_candidate top[600];
    rng_state = 3;
    for (int round = 0; round < 200; round++) {
        size_t n = 1 + next_random() % 600, n_tokens = n - next_random() % (n / 4 + 1);
        int32_t prompt[50], output[50], eos[3];
        qn_logit_bias bias[20];
        for (size_t i = 0; i < 50; i++) {
            prompt[i] = (int32_t)(next_random() % n);
            output[i] = (int32_t)(next_random() % QN_MIN(n, 20));
        }
        for (size_t i = 0; i < 20; i++)
            bias[i] = (qn_logit_bias){(int32_t)(next_random() % n), random_float(-100, 100)};
        for (size_t i = 0; i < 3; i++)
            eos[i] = (int32_t)(next_random() % n);
        random_logits(x, n, 3);
        memcpy(copy, x, sizeof(x));
        history h = {
            prompt, output, next_random() % 50, next_random() % 50, eos, n_tokens > 3 ? 3 : 0};
        qn_params p = plain_params();
        p.repetition_penalty = next_random() % 3 ? random_float(0.1f, 3) : 1;
        p.presence_penalty = next_random() % 3 ? random_float(-2, 2) : 0;
        p.frequency_penalty = next_random() % 3 ? random_float(-2, 2) : 0;
        p.min_tokens = next_random() % 2 ? (int)(next_random() % 60) : 0;
        p.logit_bias = bias;
        p.n_logit_bias = next_random() % 2 ? next_random() % 20 : 0;
        ref_modify(&r, x, n_tokens, &p, &h);
        qn_sampler *s = new_sampler(&p, 1, n, n_tokens, &h);
        assert_int_equal(qn_sampler_top(s, x, top, n, NULL), QN_OK);
        size_t n_left = 0;
        for (size_t i = 0; i < n && top[i].id >= 0; i++, n_left++) {
            assert_true(i == 0 || top[i].logprob <= top[i - 1].logprob);
            /* single precision: logits up to 200, so an ulp is 1.5e-5; a few roundings */
            assert_true(fabs((double)top[i].logprob - log(r.p[top[i].id])) < 1e-4);
        }
        size_t n_wanted = 0;
        for (size_t i = 0; i < n_tokens; i++)
            n_wanted += r.z[i] > -INFINITY;
        assert_int_equal(n_left, n_wanted);
        for (size_t i = n_left; i < n; i++)
            assert_true(top[i].id == -1 && top[i].logprob == -INFINITY);
        int32_t id = sample_one(s, x);
        assert_true(r.z[id] >= r.z[ref_argmax(&r)] - 1e-4);
        assert_int_equal(id, top[0].id);
        assert_memory_equal(x, copy, sizeof(x)); /* the row is left unchanged */
        qn_sampler_free(s);
        p.temperature = 1;
        p.top_p = 0.9f;
        if (round % 20 == 0)
            check_distribution(&p, x, n, n_tokens, &h, 1000);
    }
}

static void test_greedy_and_ties(void **state)
{
    (void)state;
    static float x[3000];
    rng_state = 4;
    qn_params p = plain_params();
    for (int round = 0; round < 300; round++) {
        size_t n = 1 + next_random() % 3000, best = 0;
        random_logits(x, n, 0.05f); /* a few distinct values: many equals */
        for (size_t i = 1; i < n; i++)
            if (x[i] > x[best])
                best = i;
        qn_sampler *s = new_sampler(&p, 1, n, n, &no_history);
        assert_int_equal(sample_one(s, x), best);
        qn_sampler_free(s);
    }
    const float y[6] = {1, 3, -INFINITY, 3, 2, 3};
    qn_candidate c[7];
    qn_sampler *s = new_sampler(&p, 1, 6, 6, &no_history);
    assert_int_equal(qn_sampler_sample(s, y, NULL, c, 6, NULL), QN_OK);
    const int32_t order[7] = {1, 1, 3, 5, 4, 0, -1};
    for (size_t i = 0; i < 7; i++)
        assert_int_equal(c[i].id, order[i]);
    qn_sampler_free(s);
}

static void test_padding_is_never_chosen(void **state)
{
    (void)state;
    float x[64];
    for (size_t i = 0; i < 64; i++)
        x[i] = i < 40 ? 0 : 50;
    qn_params p = plain_params();
    qn_candidate c[9];
    qn_sampler *s = new_sampler(&p, 1, 64, 40, &no_history);
    assert_int_equal(qn_sampler_sample(s, x, NULL, c, 8, NULL), QN_OK);
    for (int i = 0; i < 9; i++)
        assert_in_range(c[i].id, 0, 39);
    assert_true(fabs((double)c[0].logprob - ref_logprob(x, 64, 0)) < 1e-5);
    qn_sampler_free(s);
    p.temperature = 5;
    check_distribution(&p, x, 64, 40, &no_history, 5000);
}

static void test_min_tokens_masks_eos_only(void **state)
{
    (void)state;
    float x[10] = {0, 9, 1, 8, 2, 7, 3, 6, 4, 5};
    const int32_t eos[] = {1, 5, 99, -3}; /* ids that do not exist are ignored */
    const history h = {.eos = eos, .n_eos = 4};
    const int32_t stop_ids[] = {3};
    qn_params p = plain_params();
    p.min_tokens = 2;
    p.ignore_eos = true;
    p.stop_ids = stop_ids;
    p.n_stop_ids = 1;
    qn_sampler *s = new_sampler(&p, 1, 10, 10, &h);
    assert_int_equal(sample_one(s, x), 3);
    qn_sampler_accept(s, 3, false); /* a prompt token does not count */
    qn_sampler_accept(s, 3, true);
    assert_int_equal(sample_one(s, x), 3);
    qn_sampler_accept(s, 3, true);
    assert_int_equal(sample_one(s, x), 1); /* also with ignore_eos */
    qn_sampler_free(s);
}

static void test_logprobs(void **state)
{
    (void)state;
    static float x[MAX_VOCAB];
    rng_state = 5;
    for (int round = 0; round < 40; round++) {
        size_t n = 1 + next_random() % MAX_VOCAB, id = next_random() % n;
        random_logits(x, n, random_float(0, 20));
        if (round % 4 == 0)
            x[next_random() % n] = -INFINITY;
        if (n == 1)
            x[0] = 3;
        if (isinf(x[id]))
            continue;
        double want = ref_logprob(x, n, id);
        assert_true(fabs(qn_logprob_of(x, n, (int32_t)id) - want) < 1e-11);
        qn_params p = plain_params();
        p.repetition_penalty = 1.5f; /* must not show in log-probabilities */
        qn_sampler *s = new_sampler(&p, 1, n, n, &no_history);
        for (int32_t i = 0; (size_t)i < n; i += 3)
            qn_sampler_accept(s, i, i % 2);
        qn_candidate c[21];
        assert_int_equal(qn_sampler_sample(s, x, NULL, c, 20, NULL), QN_OK);
        for (size_t i = 0; i < 21 && c[i].id >= 0; i++)
            assert_true(fabs((double)c[i].logprob - ref_logprob(x, n, (size_t)c[i].id)) <
                        1e-6 * (1 - want) + 1e-5);
        qn_sampler_free(s);
    }
    const float far[3] = {-3e38f, 3e38f, 0};
    assert_true(qn_logprob_of(far, 3, 1) == 0);
    assert_true(qn_logprob_of(far, 3, 0) < -5e38);
}

static void test_seeds(void **state)
{
    (void)state;
    static float x[500];
    rng_state = 6;
    random_logits(x, 500, 1);
    qn_params p = plain_params();
    p.temperature = 1;
    int32_t first[3][64];
    const uint64_t seeds[3] = {7, 7, 8};
    for (size_t k = 0; k < 3; k++) {
        qn_sampler *s = new_sampler(&p, seeds[k], 500, 500, &no_history);
        for (size_t i = 0; i < 64; i++)
            first[k][i] = sample_one(s, x);
        qn_sampler_free(s);
    }
    assert_memory_equal(first[0], first[1], sizeof(first[0]));
    assert_memory_not_equal(first[0], first[2], sizeof(first[0]));
    /* Seeds that differ in one bit start differently: over 64 seeds at least 40 first tokens
     * differ. */
    size_t n_distinct = 0;
    bool seen[500] = {false};
    for (uint64_t seed = 1; seed <= 64; seed++) {
        qn_sampler *s = new_sampler(&p, seed, 500, 500, &no_history);
        int32_t id = sample_one(s, x);
        n_distinct += !seen[id];
        seen[id] = true;
        qn_sampler_free(s);
    }
    assert_true(n_distinct >= 40);
}

static void test_fork(void **state)
{
    (void)state;
    static float x[500];
    rng_state = 7;
    random_logits(x, 500, 1);
    const qn_logit_bias bias[] = {{3, 4}, {9, -4}};
    const int32_t eos[] = {3}, prompt[] = {1, 2, 3, 4, 4}, output[] = {7, 7, 8};
    const history h = {prompt, output, 5, 3, eos, 1};
    qn_params p = plain_params();
    p.temperature = 0.9f;
    p.top_k = 100;
    p.repetition_penalty = 1.3f;
    p.frequency_penalty = 0.5f;
    p.min_tokens = 10;
    p.logit_bias = bias;
    p.n_logit_bias = 2;
    qn_sampler *a = new_sampler(&p, 1, 500, 500, &h), *b;
    sample_one(a, x);
    assert_int_equal(qn_sampler_fork(&b, a, NULL), QN_OK);
    for (int i = 0; i < 40; i++) {
        int32_t id = sample_one(a, x);
        assert_int_equal(sample_one(b, x), id);
        qn_sampler_accept(a, id, true);
        qn_sampler_accept(b, id, true);
    }
    /* From here on they are apart: what one accepts the other does not see. */
    qn_candidate before[20], after[20];
    assert_int_equal(qn_sampler_top(b, x, before, 20, NULL), QN_OK);
    for (int i = 0; i < 50; i++)
        qn_sampler_accept(a, before[0].id, true);
    assert_int_equal(qn_sampler_top(b, x, after, 20, NULL), QN_OK);
    assert_memory_equal(before, after, sizeof(before));
    assert_int_equal(qn_sampler_top(a, x, after, 20, NULL), QN_OK);
    assert_int_not_equal(after[0].id, before[0].id);
    qn_sampler_free(a);
    assert_int_equal(qn_sampler_top(b, x, after, 20, NULL), QN_OK);
    qn_sampler_free(b);
    qn_sampler_free(NULL);
}

static void expect_row_error(const float *x, size_t n, const qn_params *p, const char *want)
{
    qn_candidate c[3];
    qn_err err = {0};
    qn_sampler *s = new_sampler(p, 1, n, n, &no_history);
    assert_int_equal(qn_sampler_sample(s, x, NULL, c, 2, &err), QN_E_INTERNAL);
    assert_non_null(strstr(err.msg, want));
    memset(&err, 0, sizeof(err));
    assert_int_equal(qn_sampler_top(s, x, c, 2, &err), QN_E_INTERNAL);
    assert_non_null(strstr(err.msg, want));
    qn_sampler_free(s);
}

static void test_rows_that_are_not_finite(void **state)
{
    (void)state;
    static float x[1000];
    for (int warm = 0; warm < 2; warm++) {
        qn_params p = plain_params();
        p.temperature = (float)warm;
        memset(x, 0, sizeof(x));
        for (size_t at = 0; at < 1000; at += 111) {
            char want[64];
            snprintf(want, sizeof(want), "token %zu is NaN", at);
            x[at] = NAN;
            expect_row_error(x, 1000, &p, want);
            snprintf(want, sizeof(want), "token %zu is +infinity", at);
            x[at] = INFINITY;
            expect_row_error(x, 1000, &p, want);
            x[at] = 0;
        }
        for (size_t i = 0; i < 1000; i++)
            x[i] = -INFINITY;
        expect_row_error(x, 1000, &p, "all 1000 are -infinity");
        x[77] = -1e30f; /* one is enough */
        qn_sampler *s = new_sampler(&p, 1, 1000, 1000, &no_history);
        assert_int_equal(sample_one(s, x), 77);
        qn_sampler_free(s);
    }
}

/* Each row sets one field of good parameters and says which error comes. */
static void test_params(void **state)
{
    (void)state;
    const qn_logit_bias far_id[] = {{5, 1}, {100, 1}}, low_id[] = {{-1, 1}},
                        inf_bias[] = {{0, INFINITY}}, nan_bias[] = {{0, NAN}},
                        big_bias[] = {{0, -100.5f}};
    static const qn_logit_bias many[1025];
    static char long_stop[258], longest_stop[257];
    memset(long_stop, 'x', 257);
    memset(longest_stop, 'x', 256);
    const char *empty[] = {"a", ""}, *null[] = {NULL}, *too_long[] = {long_stop},
               *longest[] = {longest_stop};
    const char *stop17[17];
    for (size_t i = 0; i < 17; i++)
        stop17[i] = "x";
    const int32_t far_stop[] = {100}, low_stop[] = {-1};
#define P(...)                                                                                     \
    ((qn_params){.top_p = 1,                                                                       \
                 .typical_p = 1,                                                                   \
                 .repetition_penalty = 1,                                                          \
                 .n_logprobs = -1,                                                                 \
                 .n = 1,                                                                           \
                 __VA_ARGS__})
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
    const struct {
        qn_params p;
        const char *want; /* NULL: good */
    } rows[] = {
        {P(.temperature = 0), NULL},
        {P(.temperature = 100, .top_k = INT32_MAX, .min_p = 0.999f), NULL},
        {P(.top_p = 1e-9f, .typical_p = 1e-9f, .repetition_penalty = 10), NULL},
        {P(.presence_penalty = -2, .frequency_penalty = 2, .n_logprobs = 20, .n = 16), NULL},
        {P(.beam_width = 16, .n = 16, .length_penalty = -1), NULL},
        {P(.min_tokens = 5), NULL},
        {P(.min_tokens = 5, .max_tokens = 5), NULL},
        {P(.stop = longest, .n_stop = 1), NULL},
        {P(.stop = stop17, .n_stop = 16), NULL},
        {P(.logit_bias = many, .n_logit_bias = 1024), NULL},
        {P(.temperature = -1), "temperature: -1, want 0 to 100"},
        {P(.temperature = 100.5f), "temperature: 100.5, want 0 to 100"},
        {P(.temperature = NAN), "temperature: nan, want"},
        {P(.temperature = INFINITY), "temperature: inf, want"},
        {P(.top_k = -1), "top_k: -1, want 0 to"},
        {P(.top_p = 0), "top_p: 0, want more than 0 to 1"},
        {P(.top_p = 1.5f), "top_p: 1.5, want"},
        {P(.top_p = NAN), "top_p: nan, want"},
        {P(.min_p = 1), "min_p: 1, want 0 to less than 1"},
        {P(.min_p = -0.5f), "min_p: -0.5, want"},
        {P(.min_p = NAN), "min_p: nan, want"},
        {P(.typical_p = 0), "typical_p: 0, want more than 0"},
        {P(.typical_p = NAN), "typical_p: nan, want"},
        {P(.repetition_penalty = 0), "repetition_penalty: 0, want more than 0 to 10"},
        {P(.repetition_penalty = 11), "repetition_penalty: 11, want"},
        {P(.repetition_penalty = NAN), "repetition_penalty: nan, want"},
        {P(.presence_penalty = 2.5f), "presence_penalty: 2.5, want -2 to 2"},
        {P(.presence_penalty = NAN), "presence_penalty: nan, want"},
        {P(.frequency_penalty = -3), "frequency_penalty: -3, want -2 to 2"},
        {P(.frequency_penalty = NAN), "frequency_penalty: nan, want"},
        {P(.max_tokens = -1), "max_tokens: -1, want 0 to"},
        {P(.min_tokens = -1), "min_tokens: -1, want 0 to"},
        {P(.min_tokens = 6, .max_tokens = 5), "min_tokens: 6, want 0 to 5"},
        {P(.n_logprobs = -2), "n_logprobs: -2, want -1 to 20"},
        {P(.n_logprobs = 21), "n_logprobs: 21, want -1 to 20"},
        {P(.n = 0), "n: 0, want 1 to 16"},
        {P(.n = 17), "n: 17, want 1 to 16"},
        {P(.beam_width = 17), "beam_width: 17, want 0 to 16"},
        {P(.beam_width = -1), "beam_width: -1, want 0 to 16"},
        {P(.beam_width = 2, .n = 3), "n: 3, want at most beam_width, which is 2"},
        {P(.length_penalty = NAN), "length_penalty: nan, want"},
        {P(.logit_bias = far_id, .n_logit_bias = 2), "logit_bias[1]: token id 100, want 0 to 99"},
        {P(.logit_bias = low_id, .n_logit_bias = 1), "logit_bias[0]: token id -1, want 0 to 99"},
        {P(.logit_bias = inf_bias, .n_logit_bias = 1), "logit_bias[0]: bias inf, want -100 to 100"},
        {P(.logit_bias = nan_bias, .n_logit_bias = 1), "logit_bias[0]: bias nan, want"},
        {P(.logit_bias = big_bias, .n_logit_bias = 1), "logit_bias[0]: bias -100.5, want"},
        {P(.logit_bias = many, .n_logit_bias = 1025), "logit_bias: 1025 entries, want 0 to 1024"},
        {P(.n_logit_bias = 1), "logit_bias: 1 entries"},
        {P(.stop = empty, .n_stop = 2), "stop[1]: empty, want 1 to 256 bytes"},
        {P(.stop = null, .n_stop = 1), "stop[0]: empty"},
        {P(.stop = too_long, .n_stop = 1), "stop[0]: too long, want 1 to 256 bytes"},
        {P(.stop = stop17, .n_stop = 17), "stop: 17 strings, want 0 to 16"},
        {P(.stop_ids = far_stop, .n_stop_ids = 1), "stop_ids[0]: token id 100, want 0 to 99"},
        {P(.stop_ids = low_stop, .n_stop_ids = 1), "stop_ids[0]: token id -1, want 0 to 99"},
    };
#pragma GCC diagnostic pop
#undef P
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        qn_err err = {0};
        qn_sampler *s = (void *)&err;
        qn_status st = qn_params_check(&rows[i].p, 100, &err);
        assert_int_equal(qn_sampler_new(&s, &rows[i].p, 1, 100, 100, NULL, 0, NULL), st);
        if (!rows[i].want) {
            if (st != QN_OK)
                fail_msg("row %zu: %s", i, err.msg);
        } else {
            assert_int_equal(st, QN_E_ARG);
            assert_null(s);
            if (!strstr(err.msg, rows[i].want))
                fail_msg("row %zu: \"%s\", want \"%s\"", i, err.msg, rows[i].want);
        }
        qn_sampler_free(s);
    }
    qn_sampler *s;
    qn_params p = plain_params();
    assert_int_equal(qn_sampler_new(&s, &p, 1, 10, 11, NULL, 0, NULL), QN_E_ARG);
    assert_int_equal(qn_sampler_new(&s, &p, 1, 10, 0, NULL, 0, NULL), QN_E_ARG);
    assert_int_equal(qn_sampler_new(&s, &p, 1, 0, 0, NULL, 0, NULL), QN_E_ARG);
}

/* ---- under a grammar ---- */

#define N_WORDS 200

/* Words of one to three letters from "abcd", of some ids the same; the last are special and end tokens. */
static qn_vocab_kind word(void *arg, int32_t id, const char **text, size_t *n_text)
{
    static char words[N_WORDS][4];
    char *w = words[id];
    (void)arg;
    *n_text = 1 + (size_t)id % 3;
    for (size_t i = 0, k = (size_t)id * 7; i < *n_text; i++, k /= 4)
        w[i] = "abcd"[k % 4];
    *text = w;
    return id >= N_WORDS - 2 ? QN_VOCAB_END : id >= N_WORDS - 5 ? QN_VOCAB_SPECIAL : QN_VOCAB_TEXT;
}

/* (ab|c[a-d]){2,} and a "d" at the end, maybe. */
static qn_grammar *some_grammar(const qn_vocabulary *v)
{
    qn_err err = {0};
    qn_form *f;
    qn_grammar *g;
    assert_int_equal(qn_form_new(&f, &err), QN_OK);
    qn_form_id any[] = {qn_form_bytes(f, "c", 1),
                        qn_form_chars(f, &(qn_char_range){'a', 'd'}, 1, false)};
    qn_form_id either[] = {qn_form_bytes(f, "ab", 2), qn_form_seq(f, any, 2)};
    qn_form_id all[] = {qn_form_repeat(f, qn_form_alt(f, either, 2), 2, QN_FORM_ENDLESS),
                        qn_form_repeat(f, qn_form_bytes(f, "d", 1), 0, 1)};
    qn_form_set_root(f, qn_form_seq(f, all, 2));
    if (qn_grammar_compile(&g, v, f, &err) != QN_OK)
        fail_msg("%s", err.msg);
    qn_form_free(f);
    return g;
}

/* The same token as from logits without what may not follow; log-probabilities of all logits. */
static void check_masked(qn_sampler *s, qn_sampler *plain, qn_matcher *m, const float *x, size_t n)
{
    float y[N_WORDS + 20];
    qn_candidate got[4], want[4], raw[4];
    for (size_t i = 0; i < n; i++)
        y[i] = i < N_WORDS && qn_matcher_allows(m, (int32_t)i) ? x[i] : -INFINITY;
    assert_int_equal(qn_sampler_sample(s, x, m, got, 3, NULL), QN_OK);
    assert_int_equal(qn_sampler_sample(plain, y, NULL, want, 3, NULL), QN_OK);
    assert_int_equal(got[0].id, want[0].id);
    assert_int_equal(qn_sampler_score(s, x, got[0].id, raw, 3, NULL), QN_OK);
    assert_memory_equal(raw, got, sizeof raw);
    assert_true(fabs((double)got[0].logprob - qn_logprob_of(x, n, got[0].id)) < 1e-5);
}

static void test_grammar(void **state)
{
    (void)state;
    qn_vocabulary *v;
    qn_matcher *m;
    float x[N_WORDS + 20];
    int32_t eos[] = {N_WORDS - 2, N_WORDS - 1};
    rng_state = 5;
    assert_int_equal(qn_vocabulary_new(&v, N_WORDS, word, NULL, NULL), QN_OK);
    qn_grammar *g = some_grammar(v);
    for (uint64_t seed = 0; seed < 200; seed++) {
        qn_params p = plain_params();
        p.temperature = seed % 4 ? random_float(0.2f, 2) : 0;
        p.top_k = seed % 3 ? 0 : 1 + (int)(next_random() % 30);
        p.top_p = seed % 5 ? 1 : random_float(0.3f, 1);
        p.min_p = seed % 7 ? 0 : 0.1f;
        p.typical_p = seed % 11 ? 1 : 0.8f;
        p.repetition_penalty = seed % 2 ? 1 : 1.2f;
        p.min_tokens = (int)(seed % 6);
        history h = {.eos = eos, .n_eos = 2};
        qn_sampler *plain = new_sampler(&p, seed, N_WORDS + 20, N_WORDS, &h);
        p.grammar = g;
        qn_sampler *s = new_sampler(&p, seed, N_WORDS + 20, N_WORDS, &h);
        assert_int_equal(qn_matcher_new(&m, g, NULL), QN_OK);
        for (int i = 0; i < 12; i++) {
            random_logits(x, QN_COUNT(x), 3);
            check_masked(s, plain, m, x, QN_COUNT(x));
            qn_candidate c;
            assert_int_equal(qn_sampler_sample(s, x, m, &c, QN_ID_ONLY, NULL), QN_OK);
            assert_int_equal(
                qn_sampler_sample(plain, x, NULL, &(qn_candidate){0}, QN_ID_ONLY, NULL),
                QN_OK); /* draws as often */
            assert_true(qn_matcher_accept(m, c.id));
            qn_sampler_accept(s, c.id, true);
            qn_sampler_accept(plain, c.id, true);
            if (c.id >= N_WORDS - 2 || qn_matcher_is_over(m))
                break;
        }
        qn_matcher_free(m);
        qn_sampler_free(s);
        qn_sampler_free(plain);
    }
    /* nothing is left to say: an error, whatever the logits */
    qn_params p = plain_params();
    p.grammar = g;
    qn_err err;
    qn_candidate c;
    qn_sampler *s = new_sampler(&p, 1, N_WORDS + 20, N_WORDS, &no_history);
    assert_int_equal(qn_matcher_new(&m, g, NULL), QN_OK);
    for (size_t i = 0; i < QN_COUNT(x); i++)
        x[i] = i < N_WORDS && qn_matcher_allows(m, (int32_t)i) ? -INFINITY : 1;
    assert_int_equal(qn_sampler_sample(s, x, m, &c, QN_ID_ONLY, &err), QN_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "may follow"));
    qn_sampler_free(s);
    p.beam_width = 2;
    assert_int_equal(qn_params_check(&p, 100, &err), QN_E_UNSUPPORTED);
    qn_matcher_free(m);
    qn_grammar_let(g);
    qn_vocabulary_free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filters_alone),
        cmocka_unit_test(test_filters_together),
        cmocka_unit_test(test_flat),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_greedy_and_ties),
        cmocka_unit_test(test_padding_is_never_chosen),
        cmocka_unit_test(test_min_tokens_masks_eos_only),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_rows_that_are_not_finite),
        cmocka_unit_test(test_params),
        cmocka_unit_test(test_grammar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
