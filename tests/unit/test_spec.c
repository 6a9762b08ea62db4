/* SPDX-License-Identifier: Apache-2.0
 * test_spec.c - classes, buckets, batches, durations, models and keys: good ones, and each way to be wrong. */
#include "check.h"

#include "server/spec.h"
#include <string.h>

static qn_arena arena;
static qn_err err;

static int setup(void **state)
{
    (void)state;
    qn_arena_init(&arena, 0, QN_MEM_MISC);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    qn_arena_fini(&arena);
    return 0;
}

static void says(const char *words)
{
    if (!strstr(err.msg, words))
        fail_msg("'%s' does not say '%s'", err.msg, words);
}

static void test_classes(void **state)
{
    (void)state;
    qn_class *c;
    int n;
    assert_int_equal(
        qn_spec_classes("p0:200ms:40%,p1:0.5s:30%:gap=50ms,p2:1m:20:refuse:gap=-,p3:-:10%", &arena,
                        &c, &n, &err),
        QN_OK);
    assert_int_equal(n, 4);
    assert_string_equal(c[0].name, "p0");
    assert_int_equal(c[0].target_ms, 200);
    assert_int_equal(c[0].share, 40);
    assert_int_equal(c[0].gap_ms, QN_GAP_AUTO);
    assert_false(c[0].refuse_late);
    assert_int_equal(c[1].target_ms, 500);
    assert_int_equal(c[1].gap_ms, 50);
    assert_int_equal(c[2].target_ms, 60000);
    assert_true(c[2].refuse_late);
    assert_int_equal(c[3].target_ms, 0);
    static const char *const wrong[][2] = {
        {"", "want NAME:TARGET:SHARE"},
        {"p0:200ms", "want NAME:TARGET:SHARE"},
        {"p 0:200ms:40%", "a name of"},
        {":200ms:40%", "a name of"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:-:1", "a name of"},
        {"p0:0ms:40%", "a target"},
        {"p0:fast:40%", "a target"},
        {"p0:200:40%", "a target"},
        {"p0:nan:40%", "a target"},
        {"p0:-5ms:40%", "a target"},
        {"p0:200ms:0%", "a share"},
        {"p0:200ms:-1", "a share"},
        {"p0:200ms:10001", "a share"},
        {"p0:200ms:40%:soon", "gap=50ms, gap=- or refuse"},
        {"p0:200ms:40%:gap=", "gap=50ms, gap=- or refuse"},
        {"p0:-:1,p0:-:1", "'p0' twice"},
        {"p0:-:1,", "want NAME:TARGET:SHARE"},
        {"a:-:1,b:-:1,c:-:1,d:-:1,e:-:1,f:-:1,g:-:1,h:-:1,i:-:1,j:-:1,k:-:1,l:-:1,m:-:1,n:-:1,o:-:"
         "1,p:-:1,q:-:1",
         "found 17"},
    };
    for (size_t i = 0; i < QN_COUNT(wrong); i++) {
        assert_int_equal(qn_spec_classes(wrong[i][0], &arena, &c, &n, &err), QN_E_ARG);
        says(wrong[i][1]);
    }
}

static void test_batches(void **state)
{
    (void)state;
    qn_bucket *b;
    int n, least, most;
    uint32_t ms;
    assert_int_equal(qn_spec_buckets("512:16,8k:4,inf:1", &arena, &b, &n, &err), QN_OK);
    assert_int_equal(n, 3);
    assert_int_equal(b[0].max_tokens, 512);
    assert_int_equal(b[1].max_tokens, 8192);
    assert_int_equal(b[1].max_seqs, 4);
    assert_int_equal(b[2].max_tokens, UINT32_MAX);
    static const char *const wrong[] = {
        "",      "8k",        "8k:0", "8k:x",           "0:4",         "8k:4:4",
        "8k:4,", "8k:4,4k:2", "k:4",  "99999999999k:1", "inf:1,inf:1", "-1:4"};
    for (size_t i = 0; i < QN_COUNT(wrong); i++)
        assert_int_equal(qn_spec_buckets(wrong[i], &arena, &b, &n, &err), QN_E_ARG);
    assert_int_equal(qn_spec_batch("16", &least, &most, &err), QN_OK);
    assert_true(least == 0 && most == 16);
    assert_int_equal(qn_spec_batch("adaptive:8-32", &least, &most, &err), QN_OK);
    assert_true(least == 8 && most == 32);
    static const char *const bad[] = {
        "",     "0",    "adaptive:",       "adaptive:8", "adaptive:32-8", "adaptive:8-",
        "auto", "8-32", "adaptive:8-32-64"};
    for (size_t i = 0; i < QN_COUNT(bad); i++)
        assert_int_equal(qn_spec_batch(bad[i], &least, &most, &err), QN_E_ARG);
    assert_int_equal(qn_spec_duration("250", &ms, &err), QN_OK);
    assert_int_equal(ms, 250);
    assert_int_equal(qn_spec_duration("1.5s", &ms, &err), QN_OK);
    assert_int_equal(ms, 1500);
    assert_int_equal(qn_spec_duration("2h", &ms, &err), QN_OK);
    assert_int_equal(ms, 7200000);
    static const char *const times[] = {"", "s", "ms", "1w", "-1s", "25h", "inf", "1e400"};
    for (size_t i = 0; i < QN_COUNT(times); i++)
        assert_int_equal(qn_spec_duration(times[i], &ms, &err), QN_E_ARG);
}

static void test_models(void **state)
{
    (void)state;
    const char *name, *file;
    assert_int_equal(qn_spec_model("chat=a/b.gguf", &arena, &name, &file, &err), QN_OK);
    assert_string_equal(name, "chat");
    assert_string_equal(file, "a/b.gguf");
    assert_int_equal(qn_spec_model("a/b=c.gguf", &arena, &name, &file, &err), QN_OK);
    assert_null(name);
    assert_string_equal(file, "a/b=c.gguf");
    assert_int_equal(qn_spec_model("=b", &arena, &name, &file, &err), QN_E_ARG);
    assert_int_equal(qn_spec_model("b=", &arena, &name, &file, &err), QN_E_ARG);
}

static void test_keys(void **state)
{
    (void)state;
    static const char text[] = "# ours\n\nk1 alice p0\r\n  k2\tbob\nk3";
    qn_api_key *k;
    size_t n;
    assert_int_equal(qn_spec_keys(text, sizeof text - 1, "keys", &arena, &k, &n, &err), QN_OK);
    assert_int_equal(n, 3);
    assert_string_equal(k[0].key, "k1");
    assert_string_equal(k[0].tenant, "alice");
    assert_string_equal(k[0].class_name, "p0");
    assert_string_equal(k[1].tenant, "bob");
    assert_null(k[1].class_name);
    assert_string_equal(k[2].key, "k3");
    assert_null(k[2].tenant);
    assert_int_equal(qn_spec_keys("# none\n", 7, "keys", &arena, &k, &n, &err), QN_E_FORMAT);
    says("keys: found no key");
    assert_int_equal(qn_spec_keys(NULL, 0, "keys", &arena, &k, &n, &err), QN_E_FORMAT);
    assert_int_equal(qn_spec_keys("a\nb c d e\n", 10, "keys", &arena, &k, &n, &err), QN_E_FORMAT);
    says("line 2");
    assert_int_equal(qn_spec_keys("a\0b", 3, "keys", &arena, &k, &n, &err), QN_E_FORMAT);
    says("NUL");
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test_setup_teardown(test_classes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_batches, setup, teardown),
        cmocka_unit_test_setup_teardown(test_models, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
    };
    return cmocka_run_group_tests(t, NULL, NULL);
}
