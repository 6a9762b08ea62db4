/* SPDX-License-Identifier: Apache-2.0
 * test_oom.c - every allocation of loading a model and of answering a request fails once: an error
 * each time, no crash, no leak. Then: a warm step allocates nothing. malloc, calloc and mmap are
 * wrapped by the linker (CMakeLists.txt). */
#include "failing.h"
#include "golden.h"

#include "engine/engine.h"
#include <quern/grammar.h>
#include <stdlib.h>

static qn_status answer_once(qn_engine *e, const qn_params *sp, qn_err *err)
{
    qn_request *r = NULL;
    qn_event ev = {0};
    qn_message m[] = {{"user", "hello there"}};
    qn_status s = qn_request_submit(&r, e, &(qn_prompt){.messages = m, .n_messages = 1}, sp, err);
    while (s == QN_OK && ev.kind != QN_EVENT_DONE)
        s = qn_request_next(r, &ev, err);
    qn_request_free(r);
    return s;
}

static qn_config config_of(const char *path)
{
    qn_config c = qn_config_default();
    c.model = path;
    c.n_threads = 1;
    c.max_ctx = 128;
    c.max_seqs = 4;
    c.max_batch_tokens = 32;
    c.n_kv_blocks = 16;
    return c;
}

static void check_error(const char *what, long at, qn_status s, const qn_err *err)
{
    if (s != QN_E_NOMEM)
        fail_msg("%s, allocation %ld fails: status %d (%s), want out of memory", what, at, (int)s,
                 err->msg);
}

static void test_load(void **state)
{
    (void)state;
    /* the smaller ones at every allocation, the others at every seventh */
    static const struct {
        const char *name;
        long stride;
    } models[] = {{"models/qwen2-tied-f16", 1},
                  {"models/qwen3moe-gptq4", 7},
                  {"models/qwen2-nf4", 7},
                  {"gguf/qwen2.gguf", 1}};
    long total = 0;
    for (size_t m = 0; m < QN_COUNT(models); m++) {
        char path[512];
        (void)snprintf(path, sizeof path, QN_SOURCE_DIR "/tests/golden/%s", models[m].name);
        qn_config c = config_of(path);
        size_t before = live();
        for (long at = 1;; at += models[m].stride, total++) {
            qn_engine *e = NULL;
            qn_err err = {0};
            atomic_store(&n_calls, 0);
            atomic_store(&fail_at, at);
            qn_status s = qn_engine_open(&e, &c, &err);
            bool hit = atomic_load(&n_calls) >= at;
            atomic_store(&fail_at, 0);
            qn_engine_free(e);
            assert_int_equal(live(), before);
            if (!hit) {
                assert_int_equal(s, QN_OK);
                break;
            }
            if (s != QN_OK) /* an allocation may be one that is done without: a fallback, a cache */
                check_error(models[m].name, at, s, &err);
        }
    }
    print_message("%ld allocations of loading failed once each\n", total);
}

static void test_load_with_draft_model(void **state)
{
    (void)state;
    qn_config c = config_of(QN_SOURCE_DIR "/tests/golden/gguf/qwen2.gguf");
    size_t before = live();
    c.draft_model = c.model;
    for (long at = 1;; at += 5) {
        qn_engine *e = NULL;
        qn_err err = {0};
        atomic_store(&n_calls, 0);
        atomic_store(&fail_at, at);
        qn_status s = qn_engine_open(&e, &c, &err);
        bool hit = atomic_load(&n_calls) >= at;
        atomic_store(&fail_at, 0);
        qn_engine_free(e);
        assert_int_equal(live(), before);
        if (!hit)
            break;
        if (s != QN_OK)
            check_error("a draft model", at, s, &err);
    }
}

static void check_requests(qn_engine *e, const qn_params *sp, const char *what)
{
    long at = 1;
    size_t before = qn_mem_live(QN_MEM_REQUEST); /* of grammars */
    for (;; at++) {
        qn_err err = {0};
        atomic_store(&n_calls, 0);
        atomic_store(&fail_at, at);
        qn_status s = answer_once(e, sp, &err);
        bool hit = atomic_load(&n_calls) >= at;
        atomic_store(&fail_at, 0);
        if (s != QN_OK)
            check_error(what, at, s, &err);
        assert_int_equal(qn_mem_live(QN_MEM_REQUEST), before);
        assert_int_equal(qn_block_pool_n_free(e->pool), qn_block_pool_n_blocks(e->pool));
        if (!hit)
            break;
        assert_int_equal(answer_once(e, sp, &err), QN_OK); /* the engine goes on */
    }
    print_message("%ld allocations of %s failed once each\n", at - 1, what);
}

static void test_requests(void **state)
{
    (void)state;
    qn_err err;
    qn_config c = config_of(QN_SOURCE_DIR "/tests/golden/models/qwen3-tied-bf16");
    qn_engine *e = open_engine(&c);
    qn_params sp = greedy(5);
    const char *stop[] = {"stop here"};
    sp.stop = stop;
    sp.n_stop = 1;
    sp.n_logprobs = 2;
    assert_int_equal(answer_once(e, &sp, &err), QN_OK); /* warm */
    check_requests(e, &sp, "a request");
    sp.n = 3;
    sp.temperature = 1;
    check_requests(e, &sp, "three candidates");
    sp = greedy(5);
    sp.beam_width = 3;
    check_requests(e, &sp, "beam search");
    qn_engine_free(e);
    c.speculation = QN_SPEC_NGRAM;
    e = open_engine(&c);
    sp = greedy(40);
    check_requests(e, &sp, "a request with drafts");
    qn_engine_free(e);
    c.speculation = QN_SPEC_DRAFT;
    c.draft_model = c.model;
    e = open_engine(&c);
    check_requests(e, &sp, "a request with a draft model");
    qn_engine_free(e);
}

/* The first time with the vocabulary, then a schema that is new each time. */
static void open_grammars(qn_engine *e)
{
    long at = 1;
    for (;; at++) {
        char text[160];
        qn_err err = {0};
        qn_grammar *g;
        int n = snprintf(text, sizeof text,
                         "{\"type\": \"object\", \"properties\": {\"a%ld\": {\"type\": "
                         "\"string\"}, \"b\": {\"type\": \"number\"}}, "
                         "\"required\": [\"a%ld\"]}",
                         at, at);
        atomic_store(&n_calls, 0);
        atomic_store(&fail_at, at);
        qn_status s = qn_grammar_open(&g, e, QN_GRAMMAR_SCHEMA, text, (size_t)n, &err);
        bool hit = atomic_load(&n_calls) >= at;
        atomic_store(&fail_at, 0);
        if (s != QN_OK)
            check_error("a grammar", at, s, &err);
        qn_grammar_close(g);
        if (!hit)
            break;
    }
    print_message("%ld allocations of grammars failed once each\n", at - 1);
}

static void test_grammars(void **state)
{
    (void)state;
    static const char text[] = "[\"one of two texts\", \"one of two, and the other one\"]";
    qn_err err;
    qn_params sp = greedy(30);
    size_t before = live();
    qn_config c = config_of(QN_SOURCE_DIR "/tests/golden/models/qwen3-tied-bf16");
    qn_engine *e = open_engine(&c);
    open_grammars(e);
    assert_int_equal(qn_grammar_open(&sp.grammar, e, QN_GRAMMAR_CHOICE, text, strlen(text), &err),
                     QN_OK);
    assert_int_equal(answer_once(e, &sp, &err), QN_OK); /* warm */
    check_requests(e, &sp, "an answer of a form");
    sp.temperature = 1;
    sp.seed = 7;
    sp.n = 3;
    assert_int_equal(answer_once(e, &sp, &err), QN_OK); /* other states of the grammar are warm */
    check_requests(e, &sp, "three of them");
    qn_grammar_close(sp.grammar);
    qn_engine_free(e);
    assert_int_equal(live(), before);
}

static void test_warm_step(void **state)
{
    (void)state;
    qn_err err;
    int32_t ids[100], blocks[] = {1, 2};
    qn_config c = config_of(QN_SOURCE_DIR "/tests/golden/models/qwen3moe");
    qn_engine *e = open_engine(&c);
    qn_seq_rope rope;
    qn_seq_rope_init(&rope, &e->model->rope, QN_ROPE_NEVER, 100);
    for (size_t i = 0; i < 100; i++)
        ids[i] = (int32_t)(i * 3 + 1);
    qn_run_seq q = {
        .tokens = ids, .n_new = 32, .blocks = blocks, .n_blocks = 2, .rope = &rope, .n_logits = 1};
    assert_int_equal(qn_runner_step(e->runner, &q, 1, NULL, &err), QN_OK);
    atomic_store(&n_calls, 0);
    q.n_computed = 32;
    assert_int_equal(qn_runner_step(e->runner, &q, 1, NULL, &err), QN_OK);
    for (uint32_t i = 64; i < 80; i++) {
        q.n_computed = i;
        q.n_new = 1;
        assert_int_equal(qn_runner_step(e->runner, &q, 1, NULL, &err), QN_OK);
    }
    assert_int_equal(atomic_load(&n_calls), 0);
    qn_engine_free(e);
}

int main(void)
{
    const struct CMUnitTest t[] = {cmocka_unit_test(test_load),
                                   cmocka_unit_test(test_load_with_draft_model),
                                   cmocka_unit_test(test_requests), cmocka_unit_test(test_grammars),
                                   cmocka_unit_test(test_warm_step)};
    return cmocka_run_group_tests(t, NULL, NULL);
}
