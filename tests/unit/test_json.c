/* SPDX-License-Identifier: Apache-2.0
 * test_json.c - limits before parsing, typed fields, and numbers written in their shortest form. */
#include "check.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

static qn_err err;

static json_t *parse(const char *text)
{
    json_t *v = NULL;
    assert_int_equal(qn_json_parse(&v, text, strlen(text), 0, "t.json", &err), QN_OK);
    return v;
}

/* What is written again is `want`. */
static void check_written(const char *text, const char *want)
{
    json_t *v = parse(text);
    qn_str out = {0};
    qn_json_write(&out, v, 0, false);
    assert_false(out.failed);
    assert_string_equal(out.p, want);
    qn_str_fini(&out);
    json_decref(v);
}

static void test_write(void **state)
{
    (void)state;
    check_written("0.1", "0.1");
    check_written("[1.0, 100, 1e22, 1e-5, -0.0]", "[1.0, 100, 1e22, 1e-05, -0.0]");
    check_written("{\"a\": 3.1415926535897931}", "{\"a\": 3.141592653589793}");
    /* digits inside of strings and keys stay */
    check_written("{\"0.10000000000000001\": \"1.10\"}", "{\"0.10000000000000001\": \"1.10\"}");
    check_written("[\"\\\"1.50\", 1.50]", "[\"\\\"1.50\", 1.5]");
    check_written("{\"b\": [true, null, {}], \"a\": \"\xc3\xa4\"}",
                  "{\"b\": [true, null, {}], \"a\": \"\xc3\xa4\"}");
}

static void test_format_f64(void **state)
{
    (void)state;
    uint64_t x = 1;
    for (int i = 0; i < 20000; i++) {
        char text[40];
        double v, back;
        x = x * 6364136223846793005u + 1442695040888963407u;
        memcpy(&v, &x, sizeof v);
        if (!isfinite(v))
            continue;
        size_t n = qn_format_f64(text, v);
        assert_int_equal(n, strlen(text));
        assert_true(qn_parse_f64(text, n, &back));
        assert_memory_equal(&back, &v, sizeof v);
    }
}

static void expect_refused(const char *text, size_t n, const char *words)
{
    json_t *v = NULL;
    assert_int_equal(qn_json_parse(&v, text, n, 0, "t.json", &err), QN_E_FORMAT);
    assert_null(v);
    if (!strstr(err.msg, words))
        fail_msg("'%s' lacks '%s'", err.msg, words);
}

static void test_refused(void **state)
{
    (void)state;
    char deep[QN_LIMIT_JSON_DEPTH + 1];
    memset(deep, '[', sizeof deep);
    expect_refused(deep, sizeof deep, "nested deeper than 128");
    expect_refused("{\"a\": 1, \"a\": 2}", 16, "t.json: not valid JSON");
    expect_refused("[1] 2", 5, "t.json: not valid JSON");
    expect_refused("NaN", 3, "t.json: not valid JSON");
    expect_refused("\"\xff\"", 3, "t.json: not valid JSON");
    expect_refused("", 0, "t.json: not valid JSON");
}

static void test_fields(void **state)
{
    (void)state;
    json_t *o = parse("{\"n\": 3, \"f\": 2.0, \"h\": 0.5, \"s\": \"x\", \"b\": true, \"z\": null}");
    uint32_t u = 7;
    float f = 7;
    bool b = false;
    const char *s = "";
    assert_int_equal(qn_json_u32(o, "t", "n", 0, 10, &u, &err), QN_OK);
    assert_int_equal(u, 3);
    assert_int_equal(qn_json_u32(o, "t", "f", 0, 10, &u, &err), QN_OK); /* a whole number */
    assert_int_equal(u, 2);
    assert_int_equal(qn_json_u32(o, "t", "z", 0, 10, &u, &err), QN_OK); /* null: untouched */
    assert_int_equal(qn_json_u32(o, "t", "none", 0, 10, &u, &err), QN_OK);
    assert_int_equal(u, 2);
    assert_int_equal(qn_json_u32(o, "t", "n", 4, 10, &u, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "t: n: found 3, want 4..10");
    assert_int_equal(qn_json_u32(o, "t", "h", 0, 10, &u, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "t: h: found a number, want an integer");
    assert_int_equal(qn_json_f32(o, "t", "h", 0, 1, &f, &err), QN_OK);
    assert_true(f == 0.5f);
    assert_int_equal(qn_json_f32(o, "t", "s", 0, 1, &f, &err), QN_E_FORMAT);
    assert_int_equal(qn_json_bool(o, "t", "b", &b, &err), QN_OK);
    assert_true(b);
    assert_int_equal(qn_json_bool(o, "t", "n", &b, &err), QN_E_FORMAT);
    assert_int_equal(qn_json_str(o, "t", "s", &s, &err), QN_OK);
    assert_string_equal(s, "x");
    assert_int_equal(qn_json_str(o, "t", "n", &s, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "t: n: found an integer, want a string");
    json_decref(o);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_format_f64),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
