/* SPDX-License-Identifier: Apache-2.0
 * test_measure.c - qn_bench and qn_profile: what they run, what they say it costs, what they
 * refuse. */
#include "golden.h"

#include <math.h>
#include <quern/measure.h>

static qn_engine *open_small(const char *name, bool exact)
{
    char path[512];
    (void)snprintf(path, sizeof path, QN_SOURCE_DIR "/tests/golden/models/%s", name);
    qn_config c = qn_config_default();
    c.model = path;
    c.n_threads = 2;
    c.max_ctx = 512;
    c.max_seqs = 4;
    c.max_batch_tokens = 32;
    c.exact = exact;
    return open_engine(&c);
}

/* ---- bench ---- */

static void test_bench(void **state)
{
    (void)state;
    qn_engine *e = open_small("qwen3-untied-f32", false);
    qn_bench_result r[3];
    qn_err err;
    qn_bench_spec spec = {.n_prefill = 70, .n_decode = 5, .depth = 100, .batch = 3, .repeat = 3};
    if (qn_bench(e, &spec, r, &err) != QN_OK)
        fail_msg("%s", err.msg);
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    for (int i = 0; i < 3; i++) {
        assert_true(r[i].prefill_ms > 0 && r[i].decode_ms > 0);
        /* five steps, and every weight once a step, whatever the batch */
        double want = 5 * (double)info.weight_bytes_per_token;
        assert_true(fabs(r[i].decode.weight_bytes - want) < 0.01 * want);
        assert_memory_equal(&r[i].decode, &r[0].decode, sizeof r[0].decode);
        /* 3 sequences of 100 and more tokens, K and V of F16 */
        assert_true(r[i].decode.kv_bytes > 5 * 3 * 100 * 4.0);
    }
    spec.batch = 1;
    qn_bench_result one[3];
    assert_int_equal(qn_bench(e, &spec, one, &err), QN_OK);
    assert_true(fabs(3 * one[0].decode.kv_bytes - r[0].decode.kv_bytes) < 1);
    assert_true(one[0].prefill.f32_flops == r[0].prefill.f32_flops);
    /* in turn: the prompt of each sequence, then further behind */
    spec.batch = 2;
    spec.in_turn = true;
    assert_int_equal(qn_bench(e, &spec, r, &err), QN_OK);
    assert_true(fabs(r[0].prefill.kv_bytes - 2 * one[0].prefill.kv_bytes) < 1);
    assert_true(r[0].decode.kv_bytes > 2 * one[0].decode.kv_bytes);
    qn_engine_free(e);
}

static void test_refused(void **state)
{
    (void)state;
    qn_engine *e = open_small("qwen3-untied-f32", false);
    qn_bench_result r;
    qn_err err;
    const struct {
        qn_bench_spec spec;
        qn_status want;
    } cases[] = {
        {{.n_decode = 0, .batch = 1, .repeat = 1}, QN_E_ARG},
        {{.n_decode = -1, .n_prefill = 4, .batch = 1, .repeat = 1}, QN_E_ARG},
        {{.n_decode = 1, .batch = 0, .repeat = 1}, QN_E_ARG},
        {{.n_decode = 1, .batch = 5, .repeat = 1}, QN_E_ARG},
        {{.n_decode = 1, .batch = 1, .repeat = 0}, QN_E_ARG},
        {{.n_decode = 1, .batch = 1, .repeat = 1001}, QN_E_ARG},
        {{.n_prefill = 600, .batch = 1, .repeat = 1}, QN_E_TOO_LONG},
        {{.n_decode = 600, .batch = 1, .repeat = 1}, QN_E_TOO_LONG},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        assert_int_equal(qn_bench(e, &cases[i].spec, &r, &err), cases[i].want);
        assert_true(err.msg[0] != 0);
    }
    /* nothing was kept: all blocks can be taken again */
    qn_bench_spec all = {.n_prefill = 500, .n_decode = 1, .batch = 1, .repeat = 1};
    for (int i = 0; i < 12; i++)
        assert_int_equal(qn_bench(e, &all, &r, &err), QN_OK);
    qn_engine_free(e);
}

/* ---- profile ---- */

typedef struct seen {
    const qn_engine *e;
    int n_steps, n_decode_steps, n_tokens;
    uint64_t end_ns;
    qn_cost prefill, decode;
    int *calls; /* [n_ops + 1], the last one sampling */
} seen;

static void add(qn_cost *to, const qn_cost *c)
{
    to->int8_ops += c->int8_ops;
    to->f32_flops += c->f32_flops;
    to->weight_bytes += c->weight_bytes;
    to->kv_bytes += c->kv_bytes;
    to->activation_bytes += c->activation_bytes;
}

static void on_step(void *arg, const qn_profile_step *s)
{
    seen *v = arg;
    uint64_t at = 0;
    int n_ops = qn_engine_n_ops(v->e), last = -1;
    assert_true(s->start_ns >= v->end_ns);
    v->end_ns = s->start_ns + s->ns;
    for (size_t i = 0; i < s->n_events; i++) {
        const qn_profile_event *ev = &s->events[i];
        assert_true(ev->start_ns >= at); /* one after the other */
        at = ev->start_ns + ev->ns;
        assert_true(at <= s->ns);
        assert_true(ev->op < n_ops && ev->n_rows > 0);
        assert_true(ev->op == -1 ? i + 1 == s->n_events : ev->op > last);
        last = ev->op;
        v->calls[ev->op < 0 ? n_ops : ev->op]++;
        add(s->is_decode ? &v->decode : &v->prefill, &ev->cost);
    }
    v->n_steps++;
    v->n_decode_steps += s->is_decode;
    v->n_tokens += s->n_tokens;
}

static void check_profile(const char *model, bool exact)
{
    qn_engine *e = open_small(model, exact);
    qn_err err;
    seen v = {.e = e};
    int n_ops = qn_engine_n_ops(e);
    v.calls = qn_calloc((size_t)n_ops + 1, sizeof *v.calls, QN_MEM_MISC);
    assert_non_null(v.calls);
    qn_bench_spec spec = {.n_prefill = 70, .n_decode = 6, .depth = 10, .batch = 2};
    if (qn_profile(e, &spec, on_step, &v, &err) != QN_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(v.n_steps, 2 * 3 + 6); /* 70 tokens in steps of 32 */
    assert_int_equal(v.n_decode_steps, 6);
    assert_int_equal(v.n_tokens, 2 * 70 + 6 * 2);
    assert_int_equal(v.calls[n_ops], 2 + 6);
    uint64_t weights = 0, kv = 0;
    for (int i = 0; i < n_ops; i++) {
        qn_op_info op;
        qn_engine_get_op(e, i, &op);
        assert_true(op.name[0] && op.layer >= -1);
        assert_true(v.calls[i] == v.n_steps || v.calls[i] == 2 + 6);
        weights += op.weight_bytes;
        kv += op.kv_bytes;
    }
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    assert_int_equal(weights, info.weight_bytes);                     /* each matrix once */
    assert_true(kv <= info.kv_bytes && info.kv_bytes - kv < kv / 16); /* and its tables */
    /* the operations' costs are the run's */
    qn_bench_result r;
    spec.repeat = 1;
    spec.in_turn = true;
    assert_int_equal(qn_bench(e, &spec, &r, &err), QN_OK);
    assert_true(fabs(v.prefill.weight_bytes - r.prefill.weight_bytes) < 1);
    assert_true(fabs(v.decode.weight_bytes - r.decode.weight_bytes) < 1);
    assert_true(fabs(v.decode.kv_bytes - r.decode.kv_bytes) < 1);
    assert_true(fabs(v.prefill.f32_flops - r.prefill.f32_flops) <= 1e-9 * r.prefill.f32_flops);
    assert_true(fabs(v.prefill.int8_ops - r.prefill.int8_ops) <= 1e-9 * r.prefill.int8_ops);
    assert_true(v.prefill.f32_flops > 0);
    qn_free(v.calls);
    qn_engine_free(e);
}

static void test_profile(void **state)
{
    (void)state;
    static const char *const models[] = {"qwen3-untied-f32", "qwen2-tied-f16", "qwen2moe-sparse",
                                         "qwen3moe-gptq4"};
    for (size_t i = 0; i < QN_COUNT(models); i++) {
        check_profile(models[i], false);
        check_profile(models[i], true);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bench),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
