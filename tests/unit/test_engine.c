/* SPDX-License-Identifier: Apache-2.0
 * test_engine.c - requests through the public API: limits, stop strings, log-probabilities,
 * candidates, beams, cancelling, errors. */
#include "golden.h"

#include "sample/sampler.h"
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

static const char model_path[] = QN_SOURCE_DIR "/tests/golden/models/qwen3-untied-f32";
static qn_engine *engine;

static int open_once(void **state)
{
    (void)state;
    qn_config c = qn_config_default();
    c.model = model_path;
    c.n_threads = 1;
    c.max_ctx = 256;
    c.max_seqs = 8;
    c.exact = true;
    engine = open_engine(&c);
    return 0;
}

static int close_once(void **state)
{
    (void)state;
    qn_engine_free(engine);
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        if (qn_mem_live((qn_mem_tag)t))
            print_message("%zu bytes of %s are left\n", qn_mem_live((qn_mem_tag)t),
                          qn_mem_tag_name((qn_mem_tag)t));
    return qn_mem_live(QN_MEM_REQUEST) || qn_mem_live(QN_MEM_KV) || qn_mem_live(QN_MEM_WEIGHTS);
}

/* All text of candidate 0, and how it ended. */
static qn_finish collect(const qn_prompt *p, const qn_params *sp, qn_str *text, int *n_tokens)
{
    qn_request *r = NULL;
    qn_event ev = {0};
    qn_err err;
    qn_finish f = QN_FINISH_NONE;
    *n_tokens = 0;
    if (qn_request_submit(&r, engine, p, sp, &err) != QN_OK)
        fail_msg("%s", err.msg);
    while (ev.kind != QN_EVENT_DONE) {
        if (qn_request_next(r, &ev, &err) != QN_OK)
            fail_msg("%s", err.msg);
        if (ev.kind == QN_EVENT_TOKEN && ev.index == 0) {
            qn_str_add(text, ev.text, ev.n_text);
            *n_tokens += 1;
            f = ev.finish ? ev.finish : f;
        }
    }
    assert_int_equal(ev.n_output_tokens >= *n_tokens, 1);
    assert_int_equal(qn_request_next(r, &ev, &err), QN_E_NOT_FOUND);
    qn_request_free(r);
    return f;
}

static void test_limits(void **state)
{
    (void)state;
    qn_params sp = greedy(5);
    qn_str text = {0};
    int n;
    assert_int_equal(collect(&(qn_prompt){.text = "The quick brown fox"}, &sp, &text, &n),
                     QN_FINISH_LENGTH);
    assert_int_equal(n, 5);
    sp.max_tokens = 0; /* up to the context */
    qn_str_clear(&text);
    assert_int_equal(collect(&(qn_prompt){.text = "The"}, &sp, &text, &n), QN_FINISH_LENGTH);
    assert_true(n > 200 && n < 256);
    qn_str_fini(&text);
}

static void test_stop_strings(void **state)
{
    (void)state;
    qn_params sp = greedy(40);
    qn_str all = {0}, cut = {0};
    int n, n_cut;
    (void)collect(&(qn_prompt){.text = "The quick brown fox"}, &sp, &all, &n);
    assert_true(all.n > 12);
    /* every stretch of the answer as a stop string: the text must end right before its first
     * occurrence */
    for (size_t at = 1; at + 5 < all.n; at += 3) {
        char stop[6] = {0};
        memcpy(stop, all.p + at, 5);
        if (!qn_utf8_valid(stop, 5))
            continue;
        const char *list[] = {"not in the text", stop};
        sp.stop = list;
        sp.n_stop = 2;
        qn_str_clear(&cut);
        assert_int_equal(collect(&(qn_prompt){.text = "The quick brown fox"}, &sp, &cut, &n_cut),
                         QN_FINISH_STOP);
        const char *first = memmem(all.p, all.n, stop, 5);
        assert_int_equal(cut.n, first - all.p);
        assert_memory_equal(cut.p ? cut.p : "", all.p, cut.n);
        assert_true(n_cut <= n);
    }
    qn_str_fini(&all);
    qn_str_fini(&cut);
}

static void test_stop_tokens(void **state)
{
    (void)state;
    int32_t ids[40];
    qn_params sp = greedy(40);
    size_t n = answer(engine, &(qn_prompt){.text = "The quick brown fox"}, &sp, ids, 40);
    assert_int_equal(n, 40);
    sp.stop_ids = &ids[7];
    sp.n_stop_ids = 1;
    int32_t cut[40];
    size_t first = 0;
    while (ids[first] != ids[7])
        first++;
    assert_int_equal(answer(engine, &(qn_prompt){.text = "The quick brown fox"}, &sp, cut, 40),
                     first + 1);
    /* min_tokens keeps the stop token from being chosen at all */
    sp.min_tokens = 20;
    n = answer(engine, &(qn_prompt){.text = "The quick brown fox"}, &sp, cut, 40);
    assert_true(n >= 20);
    for (size_t i = 0; i < 20; i++)
        assert_int_not_equal(cut[i], ids[7]);
}

static bool keep_row(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    (void)pos;
    memcpy(arg, logits, n_vocab * sizeof *logits);
    return true;
}

static void test_logprobs(void **state)
{
    (void)state;
    static float row[4096];
    int32_t ids[] = {51, 272, 220, 393, 72};
    qn_err err;
    qn_event ev;
    qn_request *r;
    qn_params sp = greedy(1);
    sp.n_logprobs = 5;
    assert_int_equal(qn_score(engine, ids, 5, 0, keep_row, NULL, row, &err), QN_OK);
    qn_engine_info info;
    qn_engine_get_info(engine, &info);
    assert_int_equal(qn_request_submit(&r, engine, &(qn_prompt){.ids = ids, .n_ids = 5}, &sp, &err),
                     QN_OK);
    assert_int_equal(qn_request_next(r, &ev, &err), QN_OK);
    assert_int_equal(ev.n_logprobs, 6);
    assert_int_equal(ev.logprobs[0].token_id, ev.token_id);
    for (size_t i = 0; i < 6; i++) {
        double want = qn_logprob_of(row, (size_t)info.n_vocab, ev.logprobs[i].token_id);
        assert_true(fabs(want - (double)ev.logprobs[i].logprob) < 1e-5);
        if (i > 1)
            assert_true(ev.logprobs[i].logprob <= ev.logprobs[i - 1].logprob);
    }
    qn_request_free(r);
}

static void test_candidates(void **state)
{
    (void)state;
    int32_t many[4][12] = {{0}}, one[12];
    size_t n_of[4] = {0};
    qn_params sp = greedy(12);
    qn_prompt p = {.text = "Once upon a time, in a land far away, there was a programmer who wrote "
                           "one long prompt after another"};
    qn_request *r;
    qn_event ev = {0};
    qn_err err;
    sp.temperature = 1;
    sp.top_k = 0;
    sp.top_p = 1;
    sp.seed = 42;
    sp.n = 4;
    assert_int_equal(qn_request_submit(&r, engine, &p, &sp, &err), QN_OK);
    while (ev.kind != QN_EVENT_DONE) {
        assert_int_equal(qn_request_next(r, &ev, &err), QN_OK);
        if (ev.kind == QN_EVENT_TOKEN)
            many[ev.index][n_of[ev.index]++] = ev.token_id;
    }
    assert_int_equal(ev.n_output_tokens, 48);
    qn_request_free(r);
    /* candidate i is what a request alone with seed + i gives */
    sp.n = 1;
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(n_of[i], 12);
        sp.seed = 42 + i;
        assert_int_equal(answer(engine, &p, &sp, one, 12), 12);
        assert_memory_equal(one, many[i], sizeof one);
    }
    assert_memory_not_equal(many[0], many[1], sizeof many[0]);
}

typedef struct beam {
    int32_t ids[96];
    double score;
} beam;

static int best_first(const void *a, const void *b)
{
    const beam *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

/* Beam search written out: every beam scored from nothing, every continuation sorted. */
static void naive_beams(beam *beams, size_t width, size_t n_prompt, size_t n_new)
{
    static float row[4096];
    static beam next[4 * 4096];
    qn_err err;
    qn_engine_info info;
    qn_engine_get_info(engine, &info);
    size_t n = 1;
    for (size_t t = 0; t < n_new; t++) {
        size_t k = 0;
        for (size_t b = 0; b < n; b++) {
            assert_int_equal(
                qn_score(engine, beams[b].ids, n_prompt + t, 0, keep_row, NULL, row, &err), QN_OK);
            for (int id = 0; id < info.n_vocab; id++) {
                next[k] = beams[b];
                next[k].ids[n_prompt + t] = id;
                next[k++].score += qn_logprob_of(row, (size_t)info.n_vocab, id);
            }
        }
        qsort(next, k, sizeof *next, best_first);
        n = width;
        memcpy(beams, next, n * sizeof *beams);
    }
}

static void test_beam_search(void **state)
{
    (void)state;
    enum { WIDTH = 4, N = 6, PROMPT = 70 }; /* over one K/V block, so that forks share a full one */
    static beam want[WIDTH];
    qn_params sp = greedy(N);
    qn_err err;
    qn_event ev = {0};
    qn_request *r;
    for (size_t i = 0; i < PROMPT; i++)
        want[0].ids[i] = (int32_t)(40 + i * 7 % 300);
    int32_t prompt[PROMPT];
    memcpy(prompt, want[0].ids, sizeof prompt);
    naive_beams(want, WIDTH, PROMPT, N);
    sp.beam_width = WIDTH;
    sp.n = 3;
    sp.length_penalty = 0;
    assert_int_equal(
        qn_request_submit(&r, engine, &(qn_prompt){.ids = prompt, .n_ids = PROMPT}, &sp, &err),
        QN_OK);
    for (size_t n = 0; ev.kind != QN_EVENT_DONE;) {
        assert_int_equal(qn_request_next(r, &ev, &err), QN_OK);
        if (ev.kind != QN_EVENT_TOKEN)
            continue;
        assert_int_equal(ev.token_id, want[ev.index].ids[PROMPT + n]);
        n++;
        if (ev.finish) {
            assert_int_equal(n, N);
            assert_true(fabs((double)ev.score - want[ev.index].score) < 1e-3);
            n = 0;
        }
    }
    qn_request_free(r);
}

/* Beams that hold more blocks than there are: an error of the request, and the engine goes on. */
static void test_beams_without_room(void **state)
{
    (void)state;
    qn_config c = qn_config_default();
    qn_params sp = greedy(150), one = greedy(4);
    qn_err err;
    qn_event ev;
    qn_request *r, *other;
    int32_t prompt[40];
    for (size_t i = 0; i < QN_COUNT(prompt); i++)
        prompt[i] = (int32_t)(5 + i);
    const qn_prompt p = {.ids = prompt, .n_ids = QN_COUNT(prompt)};
    c.model = model_path;
    c.n_threads = 1;
    c.max_ctx = 256;
    c.n_kv_blocks = 4;
    sp.beam_width = 8;
    qn_engine *e = open_engine(&c);
    assert_int_equal(qn_request_submit(&r, e, &p, &sp, &err), QN_OK);
    assert_int_equal(qn_request_submit(&other, e, &p, &one, &err), QN_OK);
    assert_int_equal(qn_request_next(r, &ev, &err), QN_E_TOO_LONG);
    assert_non_null(strstr(err.msg, "more K/V cache"));
    do {
        assert_int_equal(qn_request_next(other, &ev, &err), QN_OK);
    } while (ev.kind != QN_EVENT_DONE);
    assert_int_equal(ev.n_output_tokens, 4);
    qn_request_free(r);
    qn_request_free(other);
    qn_engine_free(e);
}

/* More K/V cache than the machine has memory. */
static void test_too_many_blocks(void **state)
{
    (void)state;
    qn_config c = qn_config_default();
    qn_engine *e = NULL;
    qn_err err;
    c.model = model_path;
    c.n_kv_blocks = INT_MAX - 1;
    assert_int_equal(qn_engine_open(&e, &c, &err), QN_E_NOMEM);
    assert_non_null(strstr(err.msg, "n_kv_blocks: 2147483646 blocks of 64 tokens take"));
    assert_null(e);
}

typedef struct bell {
    pthread_mutex_t lock;
    pthread_cond_t rang;
    bool is_ringing;
    size_t n;
} bell;

static void ring(void *arg)
{
    bell *b = arg;
    (void)pthread_mutex_lock(&b->lock);
    b->is_ringing = true;
    b->n++;
    (void)pthread_cond_signal(&b->rang);
    (void)pthread_mutex_unlock(&b->lock);
}

/* Polling when told to gives what waiting gives. */
static void test_poll(void **state)
{
    (void)state;
    bell b = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0};
    qn_params sp = greedy(20);
    qn_err err;
    qn_event ev = {0};
    qn_request *r;
    uint64_t at = 0;
    size_t n = 0, n_rings = 0;
    sp.notify = ring;
    sp.notify_arg = &b;
    assert_int_equal(qn_request_submit(&r, engine, &(qn_prompt){.text = "The"}, &sp, &err), QN_OK);
    while (ev.kind != QN_EVENT_DONE) {
        bool got = true;
        (void)pthread_mutex_lock(&b.lock);
        while (!b.is_ringing)
            (void)pthread_cond_wait(&b.rang, &b.lock);
        b.is_ringing = false;
        (void)pthread_mutex_unlock(&b.lock);
        while (got && ev.kind != QN_EVENT_DONE) {
            assert_int_equal(qn_request_poll(r, &ev, &got, &err), QN_OK);
            if (!got)
                break;
            n += ev.kind == QN_EVENT_TOKEN;
            assert_true(ev.at_ns >= at);
            at = ev.at_ns;
        }
    }
    assert_int_equal(n, 20);
    qn_request_drop(r);
    n_rings = b.n; /* nobody rings any more */
    assert_true(n_rings >= 21);
    qn_request_drop(NULL);
}

/* Requests that are let go of end without anybody waiting; the others do not notice. */
static void test_drop(void **state)
{
    (void)state;
    qn_params sp = greedy(200), one = greedy(8);
    qn_err err;
    qn_event ev;
    qn_request *r[8], *kept;
    for (size_t i = 0; i < QN_COUNT(r); i++)
        assert_int_equal(qn_request_submit(&r[i], engine, &(qn_prompt){.text = "The"}, &sp, &err),
                         QN_OK);
    assert_int_equal(qn_request_submit(&kept, engine, &(qn_prompt){.text = "A"}, &one, &err),
                     QN_OK);
    for (size_t i = 0; i < QN_COUNT(r); i++) {
        if (i % 2)
            assert_int_equal(qn_request_next(r[i], &ev, &err), QN_OK);
        qn_request_drop(r[i]);
    }
    do {
        assert_int_equal(qn_request_next(kept, &ev, &err), QN_OK);
    } while (ev.kind != QN_EVENT_DONE);
    assert_int_equal(ev.n_output_tokens, 8);
    qn_request_free(kept);
}

/* The ids of a prompt are those that a request begins with. */
static void test_encode(void **state)
{
    (void)state;
    qn_message m = {"user", "Hello"};
    int32_t *ids;
    size_t n;
    qn_err err;
    qn_event ev;
    qn_request *r;
    qn_params sp = greedy(1);
    const qn_prompt prompts[] = {{.text = "Once upon a time"}, {.messages = &m, .n_messages = 1}};
    for (size_t i = 0; i < QN_COUNT(prompts); i++) {
        qn_status s = qn_encode(engine, &prompts[i], &ids, &n, &err);
        assert_int_equal(qn_request_submit(&r, engine, &prompts[i], &sp, &err), s);
        if (s != QN_OK) { /* a model without a chat template */
            assert_null(ids);
            continue;
        }
        do {
            assert_int_equal(qn_request_next(r, &ev, &err), QN_OK);
        } while (ev.kind != QN_EVENT_DONE);
        assert_int_equal(ev.n_prompt_tokens, n);
        qn_request_free(r);
        qn_release(ids);
    }
    assert_int_equal(qn_encode(engine, &(qn_prompt){0}, &ids, &n, &err), QN_E_ARG);
}

static void test_cancel(void **state)
{
    (void)state;
    qn_params sp = greedy(200);
    sp.n = 16; /* long enough not to end before it is cancelled */
    qn_err err;
    qn_event ev;
    qn_request *r;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(qn_request_submit(&r, engine, &(qn_prompt){.text = "The"}, &sp, &err),
                         QN_OK);
        for (int k = 0; k < i; k++)
            assert_int_equal(qn_request_next(r, &ev, &err), QN_OK);
        qn_request_cancel(r);
        qn_status s;
        while ((s = qn_request_next(r, &ev, &err)) == QN_OK)
            ;
        assert_int_equal(s, QN_E_CANCELLED);
        assert_int_equal(qn_request_next(r, &ev, &err), QN_E_NOT_FOUND);
        qn_request_free(r);
        assert_int_equal(qn_request_submit(&r, engine, &(qn_prompt){.text = "The"}, &sp, &err),
                         QN_OK);
        qn_request_free(r); /* unread */
    }
}

static void refused(const qn_prompt *p, const qn_params *sp, qn_status want, const char *words)
{
    qn_request *r = NULL;
    qn_err err;
    assert_int_equal(qn_request_submit(&r, engine, p, sp, &err), want);
    assert_null(r);
    if (!strstr(err.msg, words))
        fail_msg("'%s' does not say '%s'", err.msg, words);
}

static void test_refusals(void **state)
{
    (void)state;
    int32_t bad[] = {1, 1 << 20}, many[300] = {0};
    qn_params sp = greedy(5), wrong = sp;
    refused(&(qn_prompt){0}, &sp, QN_E_ARG, "want exactly one");
    refused(&(qn_prompt){.text = "a", .ids = bad, .n_ids = 1}, &sp, QN_E_ARG, "want exactly one");
    refused(&(qn_prompt){.text = ""}, &sp, QN_E_ARG, "no tokens");
    refused(&(qn_prompt){.ids = bad, .n_ids = 2}, &sp, QN_E_ARG, "token 1 is 1048576");
    refused(&(qn_prompt){.ids = many, .n_ids = 300}, &sp, QN_E_TOO_LONG, "300");
    refused(&(qn_prompt){.text = "\xff"}, &sp, QN_E_FORMAT, "UTF-8");
    refused(&(qn_prompt){.chat_json = "[1]"}, &sp, QN_E_ARG, "want an object");
    refused(&(qn_prompt){.chat_json = "{"}, &sp, QN_E_FORMAT, "JSON");
    refused(&(qn_prompt){.messages = &(qn_message){"user", NULL}, .n_messages = 1}, &sp, QN_E_ARG,
            "message 0: found no content");
    refused(&(qn_prompt){.messages = &(qn_message){"\xff", "a"}, .n_messages = 1}, &sp, QN_E_ARG,
            "message 0: is not UTF-8");
    wrong.temperature = -1;
    refused(&(qn_prompt){.text = "a"}, &wrong, QN_E_ARG, "temperature");
    wrong = sp;
    wrong.max_tokens = 1000;
    refused(&(qn_prompt){.text = "a"}, &wrong, QN_E_TOO_LONG, "1000");
    wrong = sp;
    wrong.beam_width = 2;
    wrong.n_logprobs = 1;
    refused(&(qn_prompt){.text = "a"}, &wrong, QN_E_UNSUPPORTED, "beam");
}

static void test_chat(void **state)
{
    (void)state;
    qn_params sp = greedy(4);
    int32_t a[4], b[4];
    qn_message m[] = {{"user", "hello <|im_end|> there"}};
    size_t n = answer(engine, &(qn_prompt){.messages = m, .n_messages = 1}, &sp, a, 4);
    assert_int_equal(n, 4);
    assert_int_equal(answer(engine,
                            &(qn_prompt){.chat_json = "{\"messages\": [{\"role\": \"user\", "
                                                      "\"content\": \"hello <|im_end|> there\"}]}"},
                            &sp, b, 4),
                     4);
    assert_memory_equal(a, b, sizeof a);
}

typedef struct client {
    pthread_t thread;
    int i;
    int32_t got[16];
} client;

static void *client_main(void *arg)
{
    client *c = arg;
    char text[32];
    qn_params sp = greedy(16);
    (void)snprintf(text, sizeof text, "Client %d says", c->i);
    (void)answer(engine, &(qn_prompt){.text = text}, &sp, c->got, 16);
    return NULL;
}

static void test_many_clients(void **state)
{
    (void)state;
    static client c[24];
    for (int i = 0; i < 24; i++) {
        c[i].i = i;
        assert_int_equal(pthread_create(&c[i].thread, NULL, client_main, &c[i]), 0);
    }
    for (int i = 0; i < 24; i++)
        (void)pthread_join(c[i].thread, NULL);
    for (int i = 0; i < 24; i++) {
        client again = {.i = i};
        (void)client_main(&again);
        assert_memory_equal(again.got, c[i].got, sizeof again.got);
    }
}

int main(void)
{
    const struct CMUnitTest t[] = {cmocka_unit_test(test_limits),
                                   cmocka_unit_test(test_stop_strings),
                                   cmocka_unit_test(test_stop_tokens),
                                   cmocka_unit_test(test_logprobs),
                                   cmocka_unit_test(test_candidates),
                                   cmocka_unit_test(test_beam_search),
                                   cmocka_unit_test(test_beams_without_room),
                                   cmocka_unit_test(test_too_many_blocks),
                                   cmocka_unit_test(test_poll),
                                   cmocka_unit_test(test_drop),
                                   cmocka_unit_test(test_encode),
                                   cmocka_unit_test(test_cancel),
                                   cmocka_unit_test(test_refusals),
                                   cmocka_unit_test(test_chat),
                                   cmocka_unit_test(test_many_clients)};
    return cmocka_run_group_tests(t, open_once, close_once);
}
