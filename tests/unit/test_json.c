/* SPDX-License-Identifier: Apache-2.0
 * test_json.c - what is refused before and by the parser, typed fields and their messages, writing. */
#include "check.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void test_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":}",
        "{\"a\":1,}",
        "nul",
        "NaN",
        "Infinity",
        "-",
        "01",
        "1.",
        ".5",
        "+1",
        "'a'",
        "\"a",
        "[1] 2",
        "{} {}",
        "{\"a\":1 \"b\":2}",
        "\"\n\"",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"\xff\"",
        "\"\xc0\x80\"",
        "{1:2}",
        "[1 2]",
        "\xef\xbb\xbf[]",
        "// c\n1",
        "{\"a\":1,\"a\":2}",
        "99999999999999999999999",
        "1e999",
        "[\"\xed\xa0\x80\"]",
    };
    size_t before = qn_mem_live(QN_MEM_MISC);
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        json_t *v = (json_t *)&v;
        qn_err err = {0};
        if (qn_json_parse(&v, bad[i], strlen(bad[i]), 0, "some.json", &err) != QN_E_FORMAT)
            fail_msg("'%s' is taken", bad[i]);
        assert_null(v);
        if (!qn_starts_with(err.msg, "some.json: not valid JSON: ") || strchr(err.msg, '\n'))
            fail_msg("'%s': %s", bad[i], err.msg);
    }
    assert_int_equal(qn_mem_live(QN_MEM_MISC), before);
}

static void test_depth_and_size(void **state)
{
    (void)state;
    qn_str s = {0};
    qn_err err;
    json_t *v;
    static const size_t limits[] = {1, 5, QN_LIMIT_JSON_DEPTH};
    for (size_t i = 0; i < QN_COUNT(limits); i++)
        for (size_t over = 0; over < 2; over++) {
            size_t n = limits[i] + over;
            qn_str_clear(&s);
            for (size_t k = 0; k < n; k++)
                qn_str_adds(&s, k % 2 ? "{\"[\\\"{\":" : "[");
            qn_str_adds(&s, "\"[[[[{{{{\\\\\"");
            for (size_t k = n; k-- > 0;)
                qn_str_addc(&s, k % 2 ? '}' : ']');
            qn_status want = over ? QN_E_FORMAT : QN_OK;
            assert_int_equal(qn_json_parse(&v, s.p, s.n,
                                           limits[i] == QN_LIMIT_JSON_DEPTH ? 0 : limits[i], "f",
                                           &err),
                             want);
            if (over)
                assert_non_null(strstr(err.msg, "f: JSON nested deeper than"));
            json_decref(v);
        }
    qn_str_clear(&s);
    for (size_t k = 0; k < 1000000; k++)
        qn_str_addc(&s, '[');
    assert_int_equal(qn_json_parse(&v, s.p, s.n, 0, "f", &err), QN_E_FORMAT);
    qn_str_clear(&s);
    qn_str_adds(&s, "[0");
    for (size_t k = 0; k < QN_LIMIT_JSON_VALUES; k++)
        qn_str_adds(&s, ",0");
    qn_str_addc(&s, ']');
    assert_int_equal(qn_json_parse(&v, s.p, s.n, 0, "f", &err), QN_E_FORMAT);
    assert_non_null(strstr(err.msg, "limit 1500000"));
    qn_str_fini(&s);
}

static json_t *parse(const char *text)
{
    json_t *v = NULL;
    qn_err err;
    if (qn_json_parse(&v, text, strlen(text), 0, "f", &err) != QN_OK)
        fail_msg("%s", err.msg);
    return v;
}

/* Of one object, not of all together. */
static void test_keys(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool is_good;
    } cases[] = {{"{\"a\":1,\"b\":2,\"c\":3}", true},
                 {"{\"a\":1,\"b\":2,\"c\":3,\"d\":4}", false},
                 {"[{\"a\":1,\"b\":2},{\"a\":1,\"b\":2}]", true},
                 {"{\"a\":{\"a\":1,\"b\":2,\"c\":3},\"b\":{\"d\":4},\"c\":0}", true},
                 {"{\"a\":{\"a\":1},\"b\":0,\"c\":{\"b\":{},\"c\":1,\"d\":1,\"e\":1}}", false},
                 {"{\"::::\":1,\"b\":\":,:,:\"}", true}};
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        json_t *v = NULL;
        qn_err err;
        size_t bytes;
        const qn_json_bounds b = {.keys = 3};
        qn_status s =
            qn_json_parse_within(&v, cases[i].text, strlen(cases[i].text), &b, &bytes, "t", &err);
        assert_int_equal(s, cases[i].is_good ? QN_OK : QN_E_FORMAT);
        assert_true(cases[i].is_good || strstr(err.msg, "t: a JSON object of 4 keys, limit 3"));
        json_decref(v);
    }
}

/* Memory, not only text: two bytes of text can be 500 of memory. */
static void test_memory(void **state)
{
    (void)state;
    qn_str text = {0};
    json_t *v = NULL;
    qn_err err;
    qn_str_addc(&text, '[');
    for (int i = 0; i < 10000; i++)
        qn_str_adds(&text, i ? ",{}" : "{}");
    qn_str_addc(&text, ']');
    size_t live = qn_mem_live(QN_MEM_MISC), bytes;
    qn_json_bounds b = {.bytes = 1 << 20};
    assert_int_equal(qn_json_parse_within(&v, text.p, text.n, &b, &bytes, "t", &err), QN_E_FORMAT);
    assert_non_null(strstr(err.msg, "t: JSON takes more than 1048576 bytes"));
    assert_null(v);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), live);
    b.bytes = 64 << 20;
    assert_int_equal(qn_json_parse_within(&v, text.p, text.n, &b, &bytes, "t", &err), QN_OK);
    assert_true(bytes > 1 << 20 && bytes < 64 << 20);
    assert_true(qn_mem_live(QN_MEM_MISC) - live <= bytes);
    json_decref(v);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), live);
    qn_str_fini(&text);
}

static void test_integers(void **state)
{
    (void)state;
    json_t *o = parse("{\"a\": 7, \"zero\": 0, \"whole\": 12.0, \"half\": 1.5, \"minus\": -1, "
                      "\"big\": 4294967296, \"huge\": 1e300,"
                      " \"s\": \"7\", \"t\": true, \"null\": null, \"list\": []}");
    static const struct {
        const char *key, *words; /* words NULL: fine */
        uint32_t value;
    } cases[] = {
        {"a", NULL, 7},
        {"whole", NULL, 12},
        {"null", NULL, 99},
        {"missing", NULL, 99},
        {"zero", "config.json: zero: found 0, want 1..100", 0},
        {"half", "config.json: half: found a number, want an integer", 0},
        {"minus", "config.json: minus: found -1, want 1..100", 0},
        {"big", "found 4294967296, want 1..100", 0},
        {"huge", "found a number, want an integer", 0},
        {"s", "config.json: s: found a string, want an integer", 0},
        {"t", "found true, want an integer", 0},
        {"list", "found an array, want an integer", 0},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        uint32_t v = 99;
        qn_err err = {0};
        qn_status s = qn_json_u32(o, "config.json", cases[i].key, 1, 100, &v, &err);
        assert_int_equal(s, cases[i].words ? QN_E_FORMAT : QN_OK);
        assert_int_equal(v, cases[i].words ? 99 : cases[i].value);
        if (cases[i].words && !strstr(err.msg, cases[i].words))
            fail_msg("'%s' does not say '%s'", err.msg, cases[i].words);
    }
    json_decref(o);
}

static void test_other_fields(void **state)
{
    (void)state;
    json_t *o = parse("{\"f\": 1e-6, \"i\": 2, \"s\": \"text\", \"t\": true, \"n\": false, "
                      "\"null\": null, \"o\": {}}");
    float f = 99;
    bool b = true;
    const char *s = "kept";
    qn_err err;
    assert_int_equal(qn_json_f32(o, "w", "f", 0, 1, &f, &err), QN_OK);
    assert_true(f == 1e-6f);
    assert_int_equal(qn_json_f32(o, "w", "i", 0, 2, &f, &err), QN_OK);
    assert_true(f == 2);
    assert_int_equal(qn_json_f32(o, "w", "null", 0, 1, &f, &err), QN_OK);
    assert_int_equal(qn_json_f32(o, "w", "i", 0, 1, &f, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "w: i: found 2, want 0..1");
    assert_int_equal(qn_json_f32(o, "w", "t", 0, 1, &f, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "w: t: found true, want a number");
    assert_true(f == 2);
    assert_int_equal(qn_json_bool(o, "w", "n", &b, &err), QN_OK);
    assert_false(b);
    assert_int_equal(qn_json_bool(o, "w", "missing", &b, &err), QN_OK);
    assert_int_equal(qn_json_bool(o, "w", "i", &b, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "w: i: found an integer, want true or false");
    assert_int_equal(qn_json_str(o, "w", "null", &s, &err), QN_OK);
    assert_string_equal(s, "kept");
    assert_int_equal(qn_json_str(o, "w", "o", &s, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "w: o: found an object, want a string");
    assert_int_equal(qn_json_str(o, "w", "s", &s, &err), QN_OK);
    assert_string_equal(s, "text");
    assert_string_equal(qn_json_type_name(NULL), "nothing");
    json_decref(o);
}

static void test_writing(void **state)
{
    (void)state;
    static const char text[] =
        "{\"b\":[1,-2.5,true,null,\"\xc3\xa9\\n\\u0000\"],\"a\":{},\"c\":0.1}";
    json_t *v = parse(text), *again = NULL;
    qn_str s = {0};
    qn_json_write(&s, v);
    assert_string_equal(s.p, "{\"b\": [1, -2.5, true, null, \"\xc3\xa9\\n\\u0000\"], \"a\": {}, "
                             "\"c\": 0.1}");
    assert_int_equal(qn_json_parse(&again, s.p, s.n, 0, "f", NULL), QN_OK);
    assert_true(json_equal(v, again));
    json_decref(again);
    qn_str_clear(&s);
    qn_json_write(&s,
                  json_array_get(json_object_get(v, "b"), 1)); /* any value, not an object only */
    assert_string_equal(s.p, "-2.5");
    qn_str_fini(&s);
    qn_str limited = {.limit = 10};
    qn_json_write(&limited, v);
    assert_true(limited.failed);
    qn_str_fini(&limited);
    json_decref(v);
}

/* What is written again is `want`. */
static void check_written(const char *text, const char *want)
{
    json_t *v = parse(text);
    qn_str out = {0};
    qn_json_write(&out, v);
    assert_false(out.failed);
    assert_string_equal(out.p, want);
    qn_str_fini(&out);
    json_decref(v);
}

static void test_written_again(void **state)
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

static void test_loading(void **state)
{
    (void)state;
    char path[] = "quern-test-json-XXXXXX";
    int fd = mkstemp(path);
    qn_err err;
    json_t *v;
    assert_true(fd >= 0 && write(fd, "{\"a\": [1, 2]", 12) == 12);
    assert_int_equal(qn_json_load(&v, path, 100, &err), QN_E_FORMAT);
    assert_non_null(strstr(err.msg, path));
    assert_non_null(strstr(err.msg, "line 1, column 12"));
    assert_int_equal(write(fd, "}", 1), 1);
    assert_int_equal(qn_json_load(&v, path, 13, &err), QN_OK);
    assert_int_equal(json_array_size(json_object_get(v, "a")), 2);
    json_decref(v);
    assert_int_equal(qn_json_load(&v, path, 12, &err), QN_E_FORMAT);
    assert_non_null(strstr(err.msg, "larger than 12 bytes"));
    assert_null(v);
    (void)close(fd);
    (void)unlink(path);
    assert_int_equal(qn_json_load(&v, path, 100, &err), QN_E_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_depth_and_size),
        cmocka_unit_test(test_keys),          cmocka_unit_test(test_memory),
        cmocka_unit_test(test_integers),      cmocka_unit_test(test_other_fields),
        cmocka_unit_test(test_writing),       cmocka_unit_test(test_loading),
        cmocka_unit_test(test_written_again), cmocka_unit_test(test_format_f64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
