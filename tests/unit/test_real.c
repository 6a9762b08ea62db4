/* SPDX-License-Identifier: Apache-2.0
 * test_real.c - real models against transformers with the same weights in float32:
 * log-probabilities, greedy answers, perplexity.
 *
 * Needs the model files in the cache folder (tools/get_demo_model.sh); each is skipped with a line
 * where it is missing. Exact mode: within 0.01 in log-probability, perplexity within 0.1 %. Fast
 * path (int8 activations): within 0.2 (SmolLM2: 0.4, it is more sensitive, llama.cpp shows the
 * same), perplexity within 0.5 % (1 %), greedy equal where the golden's margin is over 0.4. */
#include "golden.h"

#include "sample/sampler.h"
#include <math.h>

typedef struct real {
    const char *golden;
    double logprob, perplexity; /* bounds of the fast path */
} real;

static const real models[] = {
    {"qwen2.5-coder-0.5b-q4_k_m.golden.json", 0.2, 0.005},
    {"smollm2-135m-q4_1.golden.json", 0.4, 0.01},
};

typedef struct last_row {
    size_t n, n_vocab;
    float *row;
    const int32_t *ids;
    double nll;
} last_row;

static bool keep_last(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    last_row *l = arg;
    if (pos + 1 < l->n) {
        if (l->ids)
            l->nll -= qn_logprob_of(logits, n_vocab, l->ids[pos + 1]);
        return true;
    }
    l->row = qn_alloc_array(n_vocab, sizeof *l->row, QN_MEM_MISC);
    assert_non_null(l->row);
    l->n_vocab = n_vocab;
    memcpy(l->row, logits, n_vocab * sizeof *logits);
    return true;
}

static double check_top20(qn_engine *e, const json_t *p, double bound)
{
    size_t n, i;
    qn_err err;
    int32_t *ids = ids_of(json_object_get(p, "ids"), &n);
    last_row l = {.n = n};
    double worst = 0;
    json_t *pair;
    if (qn_score(e, ids, n, 0, keep_last, NULL, &l, &err) != QN_OK)
        fail_msg("%s", err.msg);
    json_array_foreach(json_object_get(p, "top20"), i, pair)
    {
        int32_t id = (int32_t)json_integer_value(json_array_get(pair, 0));
        double want = json_number_value(json_array_get(pair, 1));
        worst = fmax(worst, fabs(qn_logprob_of(l.row, l.n_vocab, id) - want));
    }
    if (!(worst <= bound))
        fail_msg("%s: log-probabilities differ by %g, want %g",
                 json_string_value(json_object_get(p, "name")), worst, bound);
    qn_free(l.row);
    qn_free(ids);
    return worst;
}

static void check_answer(qn_request *r, const json_t *p, double margin)
{
    size_t n_want, n_got = 0;
    int32_t got[64];
    int32_t *want = ids_of(json_object_get(p, "greedy"), &n_want);
    qn_event ev = {0};
    qn_err err;
    while (ev.kind != QN_EVENT_DONE) {
        if (qn_request_next(r, &ev, &err) != QN_OK)
            fail_msg("%s", err.msg);
        if (ev.kind == QN_EVENT_TOKEN && n_got < QN_COUNT(got))
            got[n_got++] = ev.token_id;
    }
    assert_int_equal(n_got, n_want);
    for (size_t i = 0; i < n_want; i++) {
        if (got[i] == want[i])
            continue;
        double m = json_number_value(json_array_get(json_object_get(p, "greedy_margins"), i));
        if (m > margin)
            fail_msg("%s: greedy token %zu is %d, want %d (margin %g)",
                     json_string_value(json_object_get(p, "name")), i, got[i], want[i], m);
        break; /* another token at a near tie: the texts part here */
    }
    qn_free(want);
}

/* All prompts at once: an answer does not depend on what runs beside it. */
static void check_answers(qn_engine *e, const json_t *g, double margin)
{
    const json_t *prompts = json_object_get(g, "prompts");
    size_t n, n_prompts = json_array_size(prompts);
    qn_request *r[16] = {NULL};
    qn_err err;
    assert_true(n_prompts <= QN_COUNT(r));
    for (size_t i = 0; i < n_prompts; i++) {
        const json_t *p = json_array_get(prompts, i);
        int32_t *ids = ids_of(json_object_get(p, "ids"), &n);
        qn_params sp = greedy((int)json_array_size(json_object_get(p, "greedy")));
        if (qn_request_submit(&r[i], e, &(qn_prompt){.ids = ids, .n_ids = n}, &sp, &err) != QN_OK)
            fail_msg("%s", err.msg);
        qn_free(ids);
    }
    for (size_t i = 0; i < n_prompts; i++) {
        check_answer(r[i], json_array_get(prompts, i), margin);
        qn_request_free(r[i]);
    }
}

static void check_perplexity(qn_engine *e, const json_t *g, double bound)
{
    const json_t *p = json_object_get(g, "perplexity");
    size_t n;
    qn_err err;
    int32_t *ids = ids_of(json_object_get(p, "ids"), &n);
    last_row l = {.n = n, .ids = ids};
    if (qn_score(e, ids, n, 0, keep_last, NULL, &l, &err) != QN_OK)
        fail_msg("%s", err.msg);
    double got = exp(l.nll / (double)(n - 1)), want = number_of(p, "ppl");
    printf("  perplexity %.4f, reference %.4f (%+.3f %%)\n", got, want, 100 * (got / want - 1));
    if (!(fabs(got / want - 1) <= bound))
        fail_msg("perplexity %g, want %g within %g %%", got, want, 100 * bound);
    qn_free(l.row);
    qn_free(ids);
}

static void test_real_model(void **state)
{
    const real *m = *state;
    char path[512];
    qn_str cache = {0};
    (void)snprintf(path, sizeof path, QN_SOURCE_DIR "/tests/golden/real/%s", m->golden);
    json_t *g = load_json(path), *p;
    if (qn_cache_dir(&cache, NULL) != QN_OK)
        fail_msg("no cache folder");
    qn_str_addf(&cache, "/models/%s", json_string_value(json_object_get(g, "file")));
    if (!qn_file_exists(cache.p)) {
        printf("skipped: %s is not there (tools/get_demo_model.sh gets it)\n", cache.p);
        qn_str_fini(&cache);
        json_decref(g);
        skip();
    }
    for (int exact = 1; exact >= 0; exact--) {
        qn_config c = qn_config_default();
        c.model = cache.p;
        c.exact = exact;
        c.max_ctx = 2048;
        qn_engine *e = open_engine(&c);
        size_t i;
        double worst = 0;
        json_array_foreach(json_object_get(g, "prompts"), i, p)
        {
            worst = fmax(worst, check_top20(e, p, exact ? 0.01 : m->logprob));
        }
        check_answers(e, g, exact ? 0.01 : 0.4);
        printf("  %s: log-probabilities within %.5f\n", exact ? "exact" : "fast", worst);
        check_perplexity(e, g, exact ? 0.001 : m->perplexity);
        qn_engine_free(e);
    }
    qn_str_fini(&cache);
    json_decref(g);
}

int main(void)
{
    struct CMUnitTest t[QN_COUNT(models)];
    for (size_t i = 0; i < QN_COUNT(models); i++)
        t[i] = (struct CMUnitTest){.name = models[i].golden,
                                   .test_func = test_real_model,
                                   .initial_state = (void *)(uintptr_t)&models[i]};
    return cmocka_run_group_tests(t, NULL, NULL);
}
