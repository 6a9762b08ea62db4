/* SPDX-License-Identifier: Apache-2.0
 * test_draft.c - speculation changes nothing but the time: every event of every request is the same
 * with drafts and without, greedy and sampled, wherever the answer ends, also in a cache too small
 * for all. */
#include "golden.h"

#include "engine/engine.h"
#include "folder.h"
#include <unistd.h>

#define MAX_CANDIDATES 4

/* What a request said, each candidate for itself, to the bit. */
typedef struct transcript {
    qn_str of[MAX_CANDIDATES];
    int n_output, n_draft, n_accepted;
} transcript;

static void fini(transcript *t)
{
    for (size_t i = 0; i < MAX_CANDIDATES; i++)
        qn_str_fini(&t->of[i]);
    *t = (transcript){0};
}

static void note(transcript *t, const qn_event *ev)
{
    qn_str *s = &t->of[ev->index];
    qn_str_addf(s, "%d '", (int)ev->token_id);
    qn_str_add(s, ev->text, ev->n_text);
    qn_str_addf(s, "' %d %a", (int)ev->finish, (double)ev->score);
    for (size_t i = 0; i < ev->n_logprobs; i++)
        qn_str_addf(s, " %d:%a", (int)ev->logprobs[i].token_id, (double)ev->logprobs[i].logprob);
    qn_str_addc(s, '\n');
}

static void read_all(qn_request *r, transcript *t)
{
    qn_event ev = {0};
    qn_err err;
    while (ev.kind != QN_EVENT_DONE) {
        if (qn_request_next(r, &ev, &err) != QN_OK)
            fail_msg("%s", err.msg);
        if (ev.kind == QN_EVENT_TOKEN)
            note(t, &ev);
    }
    t->n_output = ev.n_output_tokens;
    t->n_draft = ev.n_draft_tokens;
    t->n_accepted = ev.n_accepted_tokens;
    assert_true(t->n_accepted <= t->n_draft && t->n_accepted <= t->n_output);
}

static void check_same(const char *what, const transcript *a, const transcript *b)
{
    assert_int_equal(a->n_output, b->n_output);
    for (size_t i = 0; i < MAX_CANDIDATES; i++)
        if (a->of[i].n != b->of[i].n ||
            (a->of[i].n && memcmp(a->of[i].p, b->of[i].p, a->of[i].n) != 0))
            fail_msg("%s: candidate %zu without drafts:\n%s\nwith drafts:\n%s", what, i,
                     a->of[i].p ? a->of[i].p : "", b->of[i].p ? b->of[i].p : "");
}

static void ask(qn_engine *e, const qn_prompt *p, const qn_params *sp, transcript *t)
{
    qn_request *r = NULL;
    qn_err err;
    if (qn_request_submit(&r, e, p, sp, &err) != QN_OK)
        fail_msg("%s", err.msg);
    read_all(r, t);
    qn_request_free(r);
}

static qn_config config_of(const char *name, char *path, size_t size)
{
    qn_config c = qn_config_default();
    (void)snprintf(path, size, "%s/tests/golden/%s", QN_SOURCE_DIR, name);
    c.model = path;
    c.n_threads = 1;
    c.max_ctx = 512;
    c.max_seqs = 8;
    c.max_batch_tokens = 64;
    return c;
}

/* A text that repeats itself with changes. */
static size_t some_ids(int32_t *ids, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = i >= 20 && seed >> 29 ? ids[i - 20] : (int32_t)(5 + (seed >> 12) % 400u);
    }
    return n;
}

static const char *const models[] = {"models/qwen3-tied-bf16", "models/qwen2-tied-f16",
                                     "models/qwen3moe", "gguf/qwen2.gguf"};

/* All kinds of requests; the last fields of the parameters point to these. */
static const char *stops[] = {"the", "\n\n", " of", "e"};
static const qn_logit_bias bias[] = {{30, 4.0f}, {45, -3.0f}};

static size_t kinds_of_request(qn_params *sp)
{
    size_t n = 0;
    sp[n++] = greedy(120);
    sp[n] = greedy(100);
    sp[n++].n_logprobs = 3;
    sp[n] = greedy(90); /* draws from few, likely tokens */
    sp[n].temperature = 0.4f;
    sp[n].top_k = 4;
    sp[n++].seed = 7;
    sp[n] = greedy(90);
    sp[n].temperature = 1.5f;
    sp[n].seed = 11;
    sp[n++].n_logprobs = 0;
    sp[n] = greedy(90);
    sp[n].repetition_penalty = 1.05f;
    sp[n].frequency_penalty = 0.02f;
    sp[n].logit_bias = bias;
    sp[n++].n_logit_bias = QN_COUNT(bias);
    sp[n] = greedy(60);
    sp[n].temperature = 0.5f;
    sp[n].seed = 3;
    sp[n++].n = 3;
    sp[n] = greedy(80);
    sp[n].beam_width = 3;
    sp[n++].n = 2;
    return n;
}

static void test_same_events(void **state)
{
    (void)state;
    long n_draft = 0, n_accepted = 0;
    for (size_t m = 0; m < QN_COUNT(models); m++) {
        char path[512];
        int32_t ids[90];
        qn_config c = config_of(models[m], path, sizeof path);
        c.speculation = QN_SPEC_OFF;
        qn_engine *plain = open_engine(&c);
        static const qn_speculation kinds[] = {QN_SPEC_NGRAM, QN_SPEC_AUTO};
        for (size_t k = 0; k < QN_COUNT(kinds); k++) {
            c.speculation = kinds[k];
            c.max_draft = k ? 0 : 5;
            qn_engine *e = open_engine(&c);
            qn_params sp[16];
            size_t n = kinds_of_request(sp);
            for (size_t i = 0; i < n; i++) {
                transcript a = {0}, b = {0};
                qn_prompt p = {.ids = ids, .n_ids = some_ids(ids, 90, (uint32_t)(i + 1))};
                ask(plain, &p, &sp[i], &a);
                ask(e, &p, &sp[i], &b);
                check_same(models[m], &a, &b);
                assert_int_equal(a.n_draft, 0);
                if (sp[i].beam_width)
                    assert_int_equal(b.n_draft, 0);
                if (kinds[k] == QN_SPEC_NGRAM) { /* the other depends on the clock */
                    n_draft += b.n_draft;
                    n_accepted += b.n_accepted;
                }
                fini(&a);
                fini(&b);
            }
            qn_engine_free(e);
        }
        qn_engine_free(plain);
    }
    print_message("%ld of %ld drafts accepted\n", n_accepted, n_draft);
    assert_true(n_accepted > 500 && n_accepted < n_draft);
}

/* The answer ends in the midst of accepted drafts, wherever. */
static void test_ends(void **state)
{
    (void)state;
    char path[512];
    int32_t ids[60];
    qn_config c = config_of("models/qwen3-tied-bf16", path, sizeof path);
    c.speculation = QN_SPEC_OFF;
    qn_engine *plain = open_engine(&c);
    c.speculation = QN_SPEC_NGRAM;
    qn_engine *e = open_engine(&c);
    qn_prompt p = {.ids = ids, .n_ids = some_ids(ids, 60, 5)};
    transcript all = {0}, a = {0}, b = {0};
    int n_accepted = 0;
    for (int n = 1; n < 60; n++) {
        qn_params sp = greedy(n);
        ask(plain, &p, &sp, &a);
        ask(e, &p, &sp, &b);
        check_same("max_tokens", &a, &b);
        assert_int_equal(b.n_output, n);
        n_accepted += b.n_accepted;
        fini(&a);
        fini(&b);
    }
    assert_true(n_accepted > 100);
    for (size_t i = 0; i < QN_COUNT(stops); i++) {
        qn_params sp = greedy(100);
        sp.stop = &stops[i];
        sp.n_stop = 1;
        ask(plain, &p, &sp, &a);
        ask(e, &p, &sp, &b);
        check_same("stop", &a, &b);
        fini(&a);
        fini(&b);
    }
    /* each token of the answer as a stop token, at once and after min_tokens */
    int32_t out[40];
    qn_params sp = greedy(40);
    assert_int_equal(answer(plain, &p, &sp, out, 40), 40);
    for (int i = 0; i < 80; i++) {
        sp = greedy(60);
        sp.stop_ids = &out[i / 2];
        sp.n_stop_ids = 1;
        sp.min_tokens = i % 2 ? 25 : 0;
        ask(plain, &p, &sp, &a);
        ask(e, &p, &sp, &b);
        check_same("stop token", &a, &b);
        fini(&a);
        fini(&b);
    }
    fini(&all);
    qn_engine_free(plain);
    qn_engine_free(e);
}

/* Many at once in a cache too small for them, with little budget: preempted in the midst of drafts,
 * and all blocks come back. */
static void test_pressure(void **state)
{
    (void)state;
    enum { N = 8 };
    char path[512];
    int32_t ids[N][130];
    qn_err err;
    qn_config c = config_of("models/qwen2-tied-f16", path, sizeof path);
    transcript want[N], got[N];
    qn_params sp[N];
    qn_request *r[N];
    memset(want, 0, sizeof want);
    memset(got, 0, sizeof got);
    for (size_t i = 0; i < N; i++) {
        sp[i] = greedy(70 + 3 * (int)i);
        if (i % 2) {
            sp[i].temperature = 0.5f;
            sp[i].seed = i;
        }
    }
    sp[3].n = 3;
    c.speculation = QN_SPEC_OFF;
    qn_engine *plain = open_engine(&c);
    for (size_t i = 0; i < N; i++) {
        qn_prompt p = {.ids = ids[i], .n_ids = some_ids(ids[i], 40 + 12 * i, (uint32_t)(90 + i))};
        ask(plain, &p, &sp[i], &want[i]);
    }
    qn_engine_free(plain);
    c.speculation = QN_SPEC_NGRAM;
    c.n_kv_blocks = 9;
    c.max_batch_tokens = 24;
    qn_engine *e = open_engine(&c);
    for (int round = 0; round < 4; round++) {
        int n_draft = 0;
        if (round == 2) { /* the model itself as its draft model, in as few blocks */
            qn_engine_free(e);
            c.speculation = QN_SPEC_DRAFT;
            c.draft_model = path;
            e = open_engine(&c);
        }
        uint64_t before = e->scheduler.n_preempted;
        qn_step_lock(e); /* all arrive before the first is over */
        for (size_t i = 0; i < N; i++)
            if (qn_request_submit(&r[i], e, &(qn_prompt){.ids = ids[i], .n_ids = 40 + 12 * i},
                                  &sp[i], &err) != QN_OK)
                fail_msg("%s", err.msg);
        qn_step_unlock(e);
        for (size_t i = 0; i < N; i++) {
            read_all(r[i], &got[i]);
            qn_request_free(r[i]);
            check_same("pressure", &want[i], &got[i]);
            n_draft += got[i].n_draft;
            fini(&got[i]);
        }
        assert_true(n_draft > 20);
        assert_true(e->scheduler.n_preempted > before);
        qn_step_lock(e);
        assert_int_equal(qn_scheduler_check(&e->scheduler, &err), QN_OK);
        assert_int_equal(qn_block_pool_n_free(e->pool), qn_block_pool_n_blocks(e->pool));
        qn_step_unlock(e);
    }
    for (size_t i = 0; i < N; i++)
        fini(&want[i]);
    qn_engine_free(e);
}

static void link_or_fail(const char *model, const char *name)
{
    char from[1024];
    (void)snprintf(from, sizeof from, "%s/%s", model, name);
    assert_int_equal(symlink(from, path_of(name)), 0);
}

/* The first layer of a model as a model of its own: it guesses, often wrongly. */
static void make_small(const char *model)
{
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/config.json", model);
    json_t *config = load_json(path);
    assert_int_equal(json_object_set_new(config, "num_hidden_layers", json_integer(1)), 0);
    assert_int_equal(json_dump_file(config, path_of("config.json"), 0), 0);
    json_decref(config);
    link_or_fail(model, "model.safetensors");
    link_or_fail(model, "tokenizer.json");
    link_or_fail(model, "tokenizer_config.json");
}

static void compare_with_model(const char *model, const char *draft, qn_speculation kind)
{
    char path[512];
    int32_t ids[130];
    int n_draft = 0, n_accepted = 0;
    qn_config c = config_of(model, path, sizeof path);
    c.speculation = QN_SPEC_OFF;
    qn_engine *plain = open_engine(&c);
    c.speculation = kind;
    c.draft_model = draft;
    c.max_draft = 4;
    qn_engine *e = open_engine(&c);
    qn_params sp[16];
    size_t n = kinds_of_request(sp);
    for (size_t i = 0; i < n; i++) { /* prompts of up to three chunks */
        transcript a = {0}, b = {0};
        qn_prompt p = {.ids = ids, .n_ids = some_ids(ids, 130 - 15 * i, (uint32_t)(i + 70))};
        ask(plain, &p, &sp[i], &a);
        ask(e, &p, &sp[i], &b);
        check_same(draft, &a, &b);
        if (kind == QN_SPEC_DRAFT && i == 0) { /* greedy */
            assert_true(b.n_draft > 40);
            if (strcmp(draft, path) == 0)
                assert_int_equal(b.n_accepted, b.n_draft);
            else
                assert_true(b.n_accepted < b.n_draft);
        }
        n_draft += b.n_draft;
        n_accepted += b.n_accepted;
        fini(&a);
        fini(&b);
    }
    print_message("%s: %d of %d drafts accepted\n", draft, n_accepted, n_draft);
    qn_engine_free(plain);
    qn_engine_free(e);
}

static void test_draft_model(void **state)
{
    (void)state;
    static const char name[] = "models/qwen3-tied-bf16";
    char path[512];
    (void)config_of(name, path, sizeof path);
    make_small(path);
    char small[sizeof dir];
    (void)snprintf(small, sizeof small, "%s", dir);
    compare_with_model(name, path, QN_SPEC_DRAFT);
    compare_with_model(name, small, QN_SPEC_DRAFT);
    compare_with_model(name, small, QN_SPEC_AUTO);
}

static void test_refusals(void **state)
{
    (void)state;
    char path[512], other[512];
    qn_engine *e = NULL;
    qn_err err;
    qn_config c = config_of("models/qwen3moe", other, sizeof other);
    c = config_of("models/qwen3-tied-bf16", path, sizeof path);
    c.speculation = QN_SPEC_DRAFT;
    assert_int_equal(qn_engine_open(&e, &c, &err), QN_E_ARG);
    assert_non_null(strstr(err.msg, "no draft model"));
    c.draft_model = other;
    assert_int_equal(qn_engine_open(&e, &c, &err), QN_E_ARG);
    assert_non_null(strstr(err.msg, "must share one vocabulary"));
    c.draft_model = "/no/such/model";
    assert_int_not_equal(qn_engine_open(&e, &c, &err), QN_OK);
    c.draft_model = NULL;
    c.max_draft = 64;
    assert_int_equal(qn_engine_open(&e, &c, &err), QN_E_ARG);
    assert_null(e);
}

int main(void)
{
    const struct CMUnitTest t[] = {cmocka_unit_test(test_same_events), cmocka_unit_test(test_ends),
                                   cmocka_unit_test(test_pressure),
                                   cmocka_unit_test(test_draft_model),
                                   cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(t, make_dir, remove_dir);
}
