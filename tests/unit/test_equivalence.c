/* SPDX-License-Identifier: Apache-2.0
 * test_equivalence.c - the same bits however a sequence is computed, and the plans and instruction
 * sets against each other.
 *
 * Bits (every logit of every position; fast, exact, int8 K/V): any chunking of the prompt, 1 or 2 threads, alone or beside
 * 7 other sequences, K/V blocks in any order, after a preemption. Within bounds: the plain plan
 * against the passes in exact mode, plain C against the fast kernels. */
#include "golden.h"

#include "../kernels/bounds.h"
#include "engine/engine.h"
#include <math.h>

static const char *const models[] = {"qwen2-tied-f16", "qwen3moe",   "qwen2-swa",
                                     "qwen2-gptq4",    "qwen2.gguf", "qwen2moe.gguf"};

static const char *path_of(const char *name, char *buf, size_t size)
{
    bool gguf = strstr(name, ".gguf") != NULL;
    (void)snprintf(buf, size, "%s/tests/golden/%s/%s", QN_SOURCE_DIR, gguf ? "gguf" : "models",
                   name);
    return buf;
}

#define N_TOKENS 150u

typedef struct logits {
    float *p; /* [N_TOKENS, n_vocab] */
    size_t n_vocab;
} logits;

static bool keep(void *arg, size_t pos, const float *row, size_t n_vocab)
{
    logits *l = arg;
    if (!l->p) {
        l->p = qn_alloc_array(N_TOKENS, n_vocab * sizeof *l->p, QN_MEM_MISC);
        assert_non_null(l->p);
        l->n_vocab = n_vocab;
    }
    memcpy(l->p + pos * n_vocab, row, n_vocab * sizeof *row);
    return true;
}

static void some_ids(int32_t *ids, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)((seed >> 16) % 480u);
    }
}

/* How a model is computed: fast, exact, fast with int8 K/V. */
enum { FAST, EXACT, INT8_KV, N_MODES };

static qn_config config_of(const char *path, int threads, int mode)
{
    qn_config c = qn_config_default();
    c.model = path;
    c.n_threads = threads;
    c.exact = mode == EXACT;
    c.kv_cache_dtype = mode == INT8_KV ? QN_KV_CACHE_INT8 : QN_KV_CACHE_AUTO;
    c.max_ctx = 512;
    c.max_seqs = 8;
    c.max_batch_tokens = 256;
    return c;
}

static logits score(const qn_config *c, const int32_t *ids, size_t chunk)
{
    qn_engine *e = open_engine(c);
    qn_err err;
    logits l = {0};
    if (qn_score(e, ids, N_TOKENS, chunk, keep, NULL, &l, &err) != QN_OK)
        fail_msg("%s: %s", c->model, err.msg);
    qn_engine_free(e);
    return l;
}

static void same_bits(const char *what, const char *model, const logits *a, const logits *b)
{
    for (size_t i = 0; i < N_TOKENS * a->n_vocab; i++)
        if (memcmp(&a->p[i], &b->p[i], sizeof(float)) != 0)
            fail_msg("%s: %s: logit %zu of token %zu is %.9g and %.9g", model, what, i % a->n_vocab,
                     i / a->n_vocab, (double)a->p[i], (double)b->p[i]);
}

static void test_chunks_and_threads(void **state)
{
    (void)state;
    int32_t ids[N_TOKENS];
    some_ids(ids, N_TOKENS, 7);
    for (size_t m = 0; m < QN_COUNT(models); m++)
        for (int mode = 0; mode < N_MODES; mode++) {
            char path[512];
            qn_config c = config_of(path_of(models[m], path, sizeof path), 1, mode);
            logits whole = score(&c, ids, 64);
            static const size_t chunks[] = {1, 7, 33};
            for (size_t i = 0; i < QN_COUNT(chunks); i++) {
                logits l = score(&c, ids, chunks[i]);
                same_bits("chunks", models[m], &whole, &l);
                qn_free(l.p);
            }
            c.n_threads = 2;
            logits two = score(&c, ids, 64);
            same_bits("two threads", models[m], &whole, &two);
            qn_free(two.p);
            qn_free(whole.p);
        }
}

/* Last-row logits of sequence `ids` computed in one step beside `others`, over the blocks given. */
static void step_among(qn_engine *e, const int32_t *ids, uint32_t n, uint32_t n_others,
                       const int32_t *blocks, float *out)
{
    int32_t other[7][96];
    qn_run_seq q[8];
    qn_err err;
    qn_seq_rope rope;
    int32_t theirs[7][2];
    qn_seq_rope_init(&rope, &e->model->rope, QN_ROPE_NEVER, n);
    for (uint32_t i = 0; i < n_others; i++) {
        some_ids(other[i], 96, 100 + i);
        theirs[i][0] = (int32_t)(20 + 2 * i);
        theirs[i][1] = (int32_t)(21 + 2 * i);
        uint32_t len = 5 + 3 * i;
        q[i] = (qn_run_seq){.tokens = other[i],
                            .n_new = len,
                            .blocks = theirs[i],
                            .n_blocks = 2,
                            .rope = &rope,
                            .n_logits = 1};
    }
    q[n_others] = (qn_run_seq){.tokens = ids,
                               .n_new = n,
                               .blocks = blocks,
                               .n_blocks = QN_DIV_UP(n, QN_KV_BLOCK),
                               .rope = &rope,
                               .n_logits = 1};
    if (qn_runner_step(e->runner, q, n_others + 1, NULL, &err) != QN_OK)
        fail_msg("%s", err.msg);
    memcpy(out, e->runner->logits + (size_t)n_others * e->model->config.n_vocab,
           e->model->config.n_vocab * sizeof *out);
}

static void test_neighbours_and_blocks(void **state)
{
    (void)state;
    int32_t ids[N_TOKENS];
    some_ids(ids, N_TOKENS, 11);
    for (size_t m = 0; m < QN_COUNT(models); m++) {
        char path[512];
        qn_config c = config_of(path_of(models[m], path, sizeof path), 2, m % 2 ? INT8_KV : FAST);
        c.n_kv_blocks = 64;
        qn_engine *e = open_engine(&c);
        size_t nv = e->model->config.n_vocab;
        float *a = qn_alloc_array(nv, sizeof *a, QN_MEM_MISC),
              *b = qn_alloc_array(nv, sizeof *b, QN_MEM_MISC);
        static const int32_t up[] = {1, 2, 3}, mixed[] = {60, 4, 33};
        step_among(e, ids, N_TOKENS, 0, up, a);
        step_among(e, ids, N_TOKENS, 0, mixed, b);
        if (memcmp(a, b, nv * sizeof *a) != 0)
            fail_msg("%s: other block ids give other bits", models[m]);
        memset(b, 0xff, nv * sizeof *b);
        step_among(e, ids, N_TOKENS - 60, 7, up, b);
        step_among(e, ids, N_TOKENS - 60, 0, up, a);
        if (memcmp(a, b, nv * sizeof *a) != 0)
            fail_msg("%s: seven neighbours give other bits", models[m]);
        qn_free(a);
        qn_free(b);
        qn_engine_free(e);
    }
}

static double largest_difference(const logits *a, const logits *b)
{
    double d = 0;
    for (size_t i = 0; i < N_TOKENS * a->n_vocab; i++)
        d = worse_of(d, fabs((double)a->p[i] - (double)b->p[i]));
    return d;
}

static void test_plain_c(void **state)
{
    (void)state;
    int32_t ids[N_TOKENS];
    static const char *const names[N_MODES] = {"", " (exact)", " (int8 K/V)"};
    some_ids(ids, N_TOKENS, 13);
    for (size_t m = 0; m < QN_COUNT(models); m++)
        for (int mode = 0; mode < N_MODES; mode++) {
            char path[512];
            qn_config c = config_of(path_of(models[m], path, sizeof path), 1, mode);
            logits fast = score(&c, ids, 64);
            c.cpu_mask = 0;
            logits plain = score(&c, ids, 64);
            double d = largest_difference(&fast, &plain),
                   bound = mode == EXACT ? QN_BOUND_MODEL_EXACT : QN_BOUND_MODEL_FAST;
            printf("%s%s: plain C differs by %g\n", models[m], names[mode], d);
            if (!(d <= bound))
                fail_msg("%s%s: plain C differs by %g, bound %g", models[m], names[mode], d, bound);
            qn_free(fast.p);
            qn_free(plain.p);
        }
}

/* Eight requests in a cache too small for all: some are preempted, all answer as when alone. */
static void preempt(int mode)
{
    char path[512];
    qn_err err;
    int32_t ids[8][120], alone[8][60], got[8][60];
    qn_config c = config_of(path_of("qwen3-tied-bf16", path, sizeof path), 2, mode);
    c.max_ctx = 256;
    c.n_kv_blocks = 7;
    c.max_batch_tokens = 32;
    qn_engine *e = open_engine(&c);
    qn_params sp = greedy(60);
    qn_request *r[8];
    for (size_t i = 0; i < 8; i++) {
        some_ids(ids[i], 120, (uint32_t)(50 + i));
        size_t n = 20 + 12 * i;
        assert_int_equal(answer(e, &(qn_prompt){.ids = ids[i], .n_ids = n}, &sp, alone[i], 60), 60);
    }
    qn_step_lock(e); /* all arrive before the first is over */
    for (size_t i = 0; i < 8; i++)
        if (qn_request_submit(&r[i], e, &(qn_prompt){.ids = ids[i], .n_ids = 20 + 12 * i}, &sp,
                              &err) != QN_OK)
            fail_msg("%s", err.msg);
    qn_step_unlock(e);
    for (size_t i = 0; i < 8; i++) {
        qn_event ev = {0};
        for (size_t n = 0; ev.kind != QN_EVENT_DONE;) {
            if (qn_request_next(r[i], &ev, &err) != QN_OK)
                fail_msg("%s", err.msg);
            if (ev.kind == QN_EVENT_TOKEN && n < 60)
                got[i][n++] = ev.token_id;
        }
        qn_request_free(r[i]);
        assert_memory_equal(got[i], alone[i], sizeof got[i]);
    }
    assert_true(e->scheduler.n_preempted > 0);
    assert_int_equal(qn_block_pool_n_free(e->pool), qn_block_pool_n_blocks(e->pool));
    qn_engine_free(e);
}

static void test_preemption(void **state)
{
    (void)state;
    preempt(FAST);
    preempt(INT8_KV);
}

/* Beams that start over beside a younger request answer as with room for all; those that can never
 * fit end with an error. */
static void test_beams_in_a_small_cache(void **state)
{
    (void)state;
    char path[512];
    qn_err err;
    int32_t ids[100], wide[30], got[30];
    qn_config c = config_of(path_of("qwen3moe", path, sizeof path), 1, INT8_KV);
    qn_params beams = greedy(30), plain = greedy(60);
    beams.beam_width = 4;
    some_ids(ids, 100, 3);
    static const int n_blocks[] = {64, 9, 7};
    for (size_t i = 0; i < QN_COUNT(n_blocks); i++) {
        c.max_ctx = 256;
        c.n_kv_blocks = n_blocks[i];
        qn_engine *e = open_engine(&c);
        qn_request *r[2];
        qn_event ev = {0};
        qn_status s;
        size_t n = 0;
        qn_step_lock(e); /* both arrive before the first is over */
        assert_int_equal(
            qn_request_submit(&r[0], e, &(qn_prompt){.ids = ids, .n_ids = 100}, &beams, &err),
            QN_OK);
        assert_int_equal(
            qn_request_submit(&r[1], e, &(qn_prompt){.ids = ids + 10, .n_ids = 90}, &plain, &err),
            QN_OK);
        qn_step_unlock(e);
        while ((s = qn_request_next(r[0], &ev, &err)) == QN_OK && ev.kind != QN_EVENT_DONE)
            if (ev.kind == QN_EVENT_TOKEN && n < 30)
                got[n++] = ev.token_id;
        if (s != QN_OK)
            assert_int_equal(s, QN_E_TOO_LONG);
        assert_true(s == QN_OK || i == 2);
        if (s == QN_OK && i == 0)
            memcpy(wide, got, sizeof got);
        if (s == QN_OK)
            assert_memory_equal(got, wide, sizeof got);
        qn_request_free(r[0]);
        n = 0;
        for (ev.kind = QN_EVENT_TOKEN; ev.kind != QN_EVENT_DONE;) {
            assert_int_equal(qn_request_next(r[1], &ev, &err), QN_OK);
            n += ev.kind == QN_EVENT_TOKEN;
        }
        assert_int_equal(n, 60);
        qn_request_free(r[1]);
        assert_true(i == 0 || e->scheduler.n_preempted > 0);
        printf("%d blocks: %llu preempted, %s\n", n_blocks[i],
               (unsigned long long)e->scheduler.n_preempted, qn_status_name(s));
        assert_int_equal(qn_block_pool_n_free(e->pool), qn_block_pool_n_blocks(e->pool));
        qn_engine_free(e);
    }
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(test_chunks_and_threads),
        cmocka_unit_test(test_neighbours_and_blocks),
        cmocka_unit_test(test_plain_c),
        cmocka_unit_test(test_preemption),
        cmocka_unit_test(test_beams_in_a_small_cache),
    };
    return cmocka_run_group_tests(t, NULL, NULL);
}
