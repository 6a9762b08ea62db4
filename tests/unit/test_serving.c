/* SPDX-License-Identifier: Apache-2.0
 * test_serving.c - an engine that many share: the same answers with and without the prefix cache,
 * among joins, leaves and preemptions; classes of the config, the queue's limit, what it tells. */
#include "golden.h"

#include "engine/engine.h"

static const char model_path[] = QN_SOURCE_DIR "/tests/golden/models/qwen3-tied-bf16";

static qn_config config_of(void)
{
    qn_config c = qn_config_default();
    c.model = model_path;
    c.n_threads = 2;
    c.max_ctx = 512;
    c.max_seqs = 6;
    c.max_batch_tokens = 96;
    return c;
}

static void some_ids(int32_t *ids, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)((seed >> 16) % 480u);
    }
}

static qn_engine_stats stats_of(qn_engine *e)
{
    qn_engine_stats s;
    qn_engine_get_stats(e, &s);
    return s;
}

enum { N = 14, N_OUT = 40, LONGEST = 260 };

static size_t length_of(size_t i)
{
    return 130 + 9 * i;
}

/* N requests, half of which begin alike, in two waves: the second comes while the first is being
 * answered; one of the first is cancelled. */
static void mixed_run(qn_engine *e, int32_t ids[N][LONGEST], int32_t got[N][3 * N_OUT],
                      size_t *n_got)
{
    qn_request *r[N];
    qn_err err;
    qn_event ev = {0};
    qn_params sp = greedy(N_OUT);
    for (size_t i = 0; i < N; i++) {
        if (i == N / 2) { /* the first has its first tokens */
            for (int k = 0; k < 4; k++)
                assert_int_equal(qn_request_next(r[0], &ev, &err), QN_OK);
            qn_request_cancel(r[0]);
        }
        sp.n = i == 3 ? 3 : 1;
        sp.temperature = i % 4 == 1 || i == 3 ? 0.8f : 0;
        sp.seed = i + 1;
        assert_int_equal(qn_request_submit(&r[i], e,
                                           &(qn_prompt){.ids = ids[i], .n_ids = length_of(i)}, &sp,
                                           &err),
                         QN_OK);
    }
    for (size_t i = 0; i < N; i++) {
        qn_status s;
        size_t n_of[3] = {0};
        for (ev.kind = QN_EVENT_TOKEN;
             (s = qn_request_next(r[i], &ev, &err)) == QN_OK && ev.kind != QN_EVENT_DONE;)
            got[i][(size_t)ev.index * N_OUT + n_of[ev.index]++] = ev.token_id;
        n_got[i] = n_of[0] + n_of[1] + n_of[2];
        assert_true(s == QN_OK || (i == 0 && s == QN_E_CANCELLED));
        qn_request_free(r[i]);
    }
}

static void test_same_answers(void **state)
{
    (void)state;
    static int32_t ids[N][LONGEST], want[N][3 * N_OUT], got[N][3 * N_OUT];
    size_t n_want[N], n_got[N];
    qn_err err;
    for (size_t i = 0; i < N; i++) {
        some_ids(ids[i], LONGEST, i % 2 ? 5 : (uint32_t)(100 + i));
        if (i % 2)
            some_ids(ids[i] + 70 + 8 * i, LONGEST - 70 - 8 * i, (uint32_t)(200 + i));
    }
    for (int kv = 0; kv < 2; kv++) {
        qn_config c = config_of();
        c.kv_cache_dtype = kv ? QN_KV_CACHE_INT8 : QN_KV_CACHE_F16;
        c.no_prefix_cache = true;
        c.n_kv_blocks = 100;
        qn_engine *e = open_engine(&c);
        mixed_run(e, ids, want, n_want);
        qn_engine_stats s = stats_of(e);
        assert_int_equal(s.n_cache_queries + s.n_cache_hits + s.n_kv_cached + s.n_preempted, 0);
        qn_engine_free(e);
        c.no_prefix_cache = false;
        c.n_kv_blocks = 16;
        e = open_engine(&c);
        for (int round = 0; round < 3; round++) {
            memset(got, 0, sizeof got);
            mixed_run(e, ids, got, n_got);
            for (size_t i = 1; i < N; i++) {
                assert_int_equal(n_got[i], n_want[i]);
                assert_memory_equal(got[i], want[i], n_got[i] * sizeof **got);
            }
        }
        s = stats_of(e);
        print_message("%llu of %llu tokens cached, %llu preempted\n",
                      (unsigned long long)s.n_cache_hits, (unsigned long long)s.n_cache_queries,
                      (unsigned long long)s.n_preempted);
        assert_true(s.n_cache_hits > 64 && s.n_preempted > 0);
        assert_int_equal(s.n_kv_used, 0);
        assert_true(s.n_kv_cached > 0);
        qn_step_lock(e);
        assert_int_equal(qn_scheduler_check(&e->scheduler, &err), QN_OK);
        qn_step_unlock(e);
        qn_engine_free(e);
    }
}

/* The second turn of a conversation finds the first, its answer included; qn_score may take the
 * blocks meanwhile. */
static bool pass_row(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    (void)arg;
    (void)pos;
    (void)logits;
    (void)n_vocab;
    return true;
}

static void test_second_turn(void **state)
{
    (void)state;
    int32_t ids[400], again[488];
    qn_err err;
    qn_event ev = {0};
    qn_request *r;
    qn_params sp = greedy(70), one = greedy(3);
    qn_config c = config_of();
    c.n_kv_blocks = 8;
    qn_engine *e = open_engine(&c);
    some_ids(ids, 400, 9);
    assert_int_equal(answer(e, &(qn_prompt){.ids = ids, .n_ids = 150}, &sp, ids + 150, 70), 70);
    for (int turn = 0; turn < 2; turn++) {
        assert_int_equal(
            qn_request_submit(&r, e, &(qn_prompt){.ids = ids, .n_ids = 300}, &one, &err), QN_OK);
        do {
            assert_int_equal(qn_request_next(r, &ev, &err), QN_OK);
        } while (ev.kind != QN_EVENT_DONE);
        assert_int_equal(r->n_cached, turn ? 0 : 192); /* three blocks of the 219 with K/V */
        assert_int_equal(r->miss, turn ? QN_MISS_NEW : QN_MISS_PART);
        qn_request_free(r);
        some_ids(again, 488, 11);
        assert_int_equal(qn_score(e, again, 488, 0, pass_row, NULL, NULL, &err), QN_OK);
    }
    assert_int_equal(stats_of(e).n_kv_used, 0);
    qn_engine_free(e);
}

static void refused(const qn_config *c, const char *words)
{
    qn_engine *e;
    qn_err err;
    assert_int_equal(qn_engine_open(&e, c, &err), QN_E_ARG);
    if (!strstr(err.msg, words))
        fail_msg("'%s' does not say '%s'", err.msg, words);
}

static void test_config(void **state)
{
    (void)state;
    qn_class k[20] = {{.name = "a", .share = 1}, {.name = "b", .share = 1}};
    qn_bucket b[20] = {{100, 1}, {200, 1}};
    qn_config c = config_of();
    c.classes = k;
    c.n_classes = 20;
    refused(&c, "classes: found 20, want 1..16");
    c.n_classes = 0;
    refused(&c, "classes: found 0");
    c.n_classes = 2;
    k[1].name = "a";
    refused(&c, "found 'a' twice");
    k[1].name = "a b";
    refused(&c, "class 1: found the name 'a b'");
    k[1].name = "";
    refused(&c, "class 1: found the name ''");
    k[1].name = NULL;
    refused(&c, "class 1");
    k[1].name = "b";
    k[1].share = 0;
    refused(&c, "class 'b': found share 0");
    k[1].share = 10001;
    refused(&c, "found share 10001");
    k[1].share = 1;
    k[1].refuse_late = true;
    refused(&c, "has no target");
    k[1].refuse_late = false;
    c.default_class = 2;
    refused(&c, "default_class: found 2, want 0..1");
    c.default_class = 0;
    c.min_seqs = 7;
    refused(&c, "min_seqs: found 7, want 0..6");
    c.min_seqs = 0;
    c.buckets = b;
    c.n_buckets = 2;
    b[1].max_tokens = 100;
    refused(&c, "found 100 tokens after 100");
    b[1] = (qn_bucket){200, 0};
    refused(&c, "bucket of 200 tokens");
    c.n_buckets = 20;
    refused(&c, "buckets: found 20");
}

static void test_classes(void **state)
{
    (void)state;
    char name[] = "first";
    qn_class k[] = {{.name = name, .share = 4, .target_ms = 60000, .refuse_late = true},
                    {.name = "second", .share = 1}};
    qn_err err;
    int32_t ids[64], out[8];
    qn_config c = config_of();
    c.classes = k;
    c.n_classes = 2;
    c.default_class = 1;
    c.max_queue = 3;
    c.batch_timeout_ms = 5; /* nobody else comes */
    qn_engine *e = open_engine(&c);
    memset(name, 'x', sizeof name - 1); /* the engine has its own */
    assert_int_equal(qn_engine_class(e, NULL), 1);
    assert_int_equal(qn_engine_class(e, "first"), 0);
    assert_int_equal(qn_engine_class(e, "firs"), -1);
    assert_int_equal(qn_engine_class(e, ""), -1);
    some_ids(ids, 64, 1);
    qn_params sp = greedy(8);
    assert_int_equal(answer(e, &(qn_prompt){.ids = ids, .n_ids = 64}, &sp, out, 8), 8);
    qn_engine_stats s = stats_of(e);
    uint64_t used = 0, done = 0;
    assert_int_equal(s.n_classes, 2);
    assert_string_equal(s.classes[0].name, "first");
    assert_int_equal(s.classes[0].target_ms, 60000);
    for (int i = 0; i < 2; i++) {
        used += s.classes[i].used_ns;
        done += s.classes[i].n_met;
    }
    assert_true(used > 0 && s.model_ns > 0);
    assert_int_equal(done, 1);
    assert_int_equal(s.n_prompt_tokens, 64);
    assert_int_equal(s.n_output_tokens, 8);
    assert_int_equal(s.n_steps, 8);
    assert_int_equal(s.n_step_rows, 71);
    assert_int_equal(s.n_running + s.n_waiting, 0);
    /* coming in */
    qn_request r = {.engine = e, .n_prompt = 64, .params = sp};
    (void)pthread_mutex_lock(&e->lock);
    for (int i = 0; i < 3; i++)
        assert_int_equal(qn_engine_admit(e, &r, &err), QN_OK);
    assert_int_equal(qn_engine_admit(e, &r, &err), QN_E_QUEUE_FULL);
    assert_non_null(strstr(err.msg, "3 requests wait, the queue holds 3"));
    e->n_inbox[0] = 0;
    e->forecast.cost.n_steps = 100;
    e->forecast.work_ns[0] = 70000000000u;
    assert_int_equal(qn_engine_admit(e, &r, &err), QN_E_TIMEOUT);
    assert_non_null(strstr(err.msg, "the target is 60000 ms"));
    r.class_id = 1;
    assert_int_equal(qn_engine_admit(e, &r, &err), QN_OK);
    (void)pthread_mutex_unlock(&e->lock);
    s = stats_of(e);
    assert_int_equal(s.classes[0].n_refused, 2);
    assert_int_equal(s.classes[1].n_waiting, 1);
    assert_int_equal(s.n_waiting, 1);
    qn_engine_free(e);
}

/* Each tells its own memory, whatever others have, and as a dry one said before. */
static void test_two_engines(void **state)
{
    (void)state;
    qn_config c = config_of();
    qn_engine_info planned, first, second;
    c.dry = true;
    qn_engine *dry = open_engine(&c);
    qn_engine_get_info(dry, &planned);
    c.dry = false;
    qn_engine *a = open_engine(&c);
    c.mem_limit = 64u << 20;
    qn_engine *b = open_engine(&c);
    qn_engine_get_info(a, &first);
    qn_engine_get_info(b, &second);
    const qn_engine_info *infos[] = {&first, &second};
    for (size_t i = 0; i < QN_COUNT(infos); i++) {
        assert_true(infos[i]->weight_bytes == planned.weight_bytes);
        assert_true(infos[i]->kv_bytes == planned.kv_bytes && planned.kv_bytes > 0);
        assert_true(infos[i]->activation_bytes == planned.activation_bytes);
        assert_true(infos[i]->vocab_bytes == planned.vocab_bytes);
        assert_true(infos[i]->spare_bytes == 0);
    }
    qn_engine_free(dry);
    /* the limit is the engine's own: what others have does not count */
    c.mem_limit = first.weight_bytes + first.kv_bytes + first.activation_bytes + (2u << 20);
    qn_engine *d = open_engine(&c);
    qn_engine_free(a);
    qn_engine_free(b);
    qn_engine_free(d);
}

/* However many one tenant sends, whoever comes finds a place. */
static void test_queue_shares(void **state)
{
    (void)state;
    qn_err err;
    qn_config c = config_of();
    c.max_queue = 6;
    qn_engine *e = open_engine(&c);
    static const struct {
        uint64_t tenant;
        qn_status want;
    } asks[] = {{1, QN_OK},     {1, QN_OK},     {1, QN_OK},           {1, QN_E_QUEUE_FULL},
                {2, QN_OK},     {2, QN_OK},     {2, QN_E_QUEUE_FULL}, {3, QN_OK},
                {4, QN_E_BUSY}, {1, QN_E_BUSY}, {0, QN_E_QUEUE_FULL}};
    static qn_request r[QN_COUNT(asks)];
    (void)pthread_mutex_lock(&e->lock);
    for (size_t i = 0; i < QN_COUNT(asks); i++) {
        r[i] = (qn_request){
            .engine = e, .n_prompt = 8, .params = greedy(8), .tenant_id = asks[i].tenant};
        assert_int_equal(qn_engine_admit(e, &r[i], &err), asks[i].want);
    }
    assert_int_equal(e->n_tenants, 3);
    e->n_inbox[0] = 0; /* none of these came through the inbox */
    (void)pthread_mutex_unlock(&e->lock);
    for (size_t i = 0; i < QN_COUNT(asks); i++)
        if (asks[i].want == QN_OK)
            qn_serving_end(e, &r[i], false);
    assert_int_equal(e->n_tenants, 0);
    /* running ones do not count, and what ended leaves nothing behind */
    qn_params sp = greedy(4);
    int32_t ids[8], out[4];
    sp.tenant = "somebody";
    some_ids(ids, 8, 1);
    for (int i = 0; i < 8; i++)
        assert_int_equal(answer(e, &(qn_prompt){.ids = ids, .n_ids = 8}, &sp, out, 4), 4);
    assert_int_equal(e->n_tenants, 0);
    qn_engine_free(e);
}

typedef struct asked {
    int n, most;
} asked;

static bool ask(void *arg)
{
    asked *a = arg;
    return ++a->n <= a->most;
}

/* Short chunks where somebody may be in a hurry, and an end when nobody waits any more. */
static void test_shared_scores(void **state)
{
    (void)state;
    static const qn_class k[] = {{.name = "quick", .share = 90, .target_ms = 1},
                                 {.name = "slow", .share = 10}};
    qn_err err;
    int32_t ids[64];
    qn_config c = config_of();
    some_ids(ids, 64, 7);
    for (int quick = 0; quick < 2; quick++) {
        c.classes = quick ? k : NULL;
        c.n_classes = quick ? 2 : 0;
        qn_engine *e = open_engine(&c);
        asked a = {.most = 1000};
        qn_scoring s = {.ids = ids,
                        .n_ids = 64,
                        .class_name = quick ? "slow" : NULL,
                        .tenant = "t",
                        .on_logits = pass_row,
                        .goes_on = ask,
                        .goes_on_arg = &a};
        assert_int_equal(qn_score_shared(e, &s, &err), QN_OK);
        assert_true(quick ? a.n > 1 : a.n == 1);
        a = (asked){.most = 0};
        assert_int_equal(qn_score_shared(e, &s, &err), QN_E_CANCELLED);
        qn_step_lock(e);
        assert_int_equal(qn_scheduler_check(&e->scheduler, &err), QN_OK);
        assert_int_equal(e->n_scoring, 0);
        assert_true(e->scheduler.classes.list[quick].used_ns > 0);
        assert_int_equal(e->scheduler.classes.list[quick].n_seqs, 0);
        qn_step_unlock(e);
        qn_engine_stats now = stats_of(e); /* without a step of the engine since */
        assert_int_equal(now.n_kv_used, 0);
        assert_true(now.classes[quick].used_ns > 0);
        qn_engine_free(e);
    }
}

typedef struct rows {
    size_t n, width, at[64];
    float of[64][600];
} rows;

static bool keep(rows *r, size_t pos, const float *row, size_t width)
{
    assert_true(r->n < 64 && width <= 600);
    r->width = width;
    r->at[r->n] = pos;
    memcpy(r->of[r->n++], row, width * sizeof *row);
    return true;
}

static bool keep_logits(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    return keep(arg, pos, logits, n_vocab);
}

static bool keep_final(void *arg, int layer, size_t pos, const float *hidden, size_t width)
{
    return layer != 4 ||
           keep((rows *)arg + 1, pos, hidden, width); /* of 3 layers: the final norm */
}

/* What is asked for from a position on is what it is among all, in whatever chunks. */
static void test_later_scores(void **state)
{
    (void)state;
    static rows all[2], later[2];
    qn_err err;
    int32_t ids[48];
    qn_config c = config_of();
    c.exact = true;
    qn_engine *e = open_engine(&c);
    some_ids(ids, 48, 9);
    qn_scoring s = {
        .ids = ids, .n_ids = 48, .on_logits = keep_logits, .on_hidden = keep_final, .arg = all};
    assert_int_equal(qn_score_shared(e, &s, &err), QN_OK);
    assert_int_equal(all[0].n, 48);
    assert_int_equal(all[1].n, 48);
    s.arg = later;
    for (s.chunk = 0; s.chunk < 48; s.chunk += 7)
        for (s.first = 0; s.first < 48; s.first += 1 + s.first / 2) {
            later[0].n = later[1].n = 0;
            assert_int_equal(qn_score_shared(e, &s, &err), QN_OK);
            for (int k = 0; k < 2; k++) {
                assert_int_equal(later[k].n, 48 - s.first);
                for (size_t i = 0; i < later[k].n; i++) {
                    assert_int_equal(later[k].at[i], s.first + i);
                    for (size_t j = 0; j < all[k].width; j++)
                        assert_float_equal(later[k].of[i][j], all[k].of[s.first + i][j], 1e-4f);
                }
            }
        }
    qn_engine_free(e);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(test_two_engines),   cmocka_unit_test(test_same_answers),
        cmocka_unit_test(test_second_turn),   cmocka_unit_test(test_config),
        cmocka_unit_test(test_classes),       cmocka_unit_test(test_queue_shares),
        cmocka_unit_test(test_shared_scores), cmocka_unit_test(test_later_scores),
    };
    return cmocka_run_group_tests(t, NULL, NULL);
}
