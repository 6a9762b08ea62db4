/* SPDX-License-Identifier: Apache-2.0
 * test_fields.c - tables of fields: each kind, its limits, null, and what is not there. */
#include "check.h"

#include "server/fields.h"
#include <limits.h>
#include <math.h>
#include <string.h>

typedef struct dest {
    bool b;
    int i;
    uint64_t u;
    float f;
    const char *s;
    const json_t *a, *o, *any;
} dest;

static const qn_field fields[] = {
    {"b", QN_FIELD_BOOL, offsetof(dest, b), 0, 0},
    {"i", QN_FIELD_INT, offsetof(dest, i), -1, 100},
    {"u", QN_FIELD_U64, offsetof(dest, u), 0, 0},
    {"f", QN_FIELD_F32, offsetof(dest, f), 0, 2},
    {"s", QN_FIELD_STR, offsetof(dest, s), 1, 4},
    {"a", QN_FIELD_ARRAY, offsetof(dest, a), 0, 0},
    {"o", QN_FIELD_OBJECT, offsetof(dest, o), 0, 0},
    {"any", QN_FIELD_ANY, offsetof(dest, any), 0, 0},
};

static json_t *parse(const char *text)
{
    json_t *v = NULL;
    qn_err err;
    if (qn_json_parse(&v, text, strlen(text), 0, "test", &err) != QN_OK)
        fail_msg("%s", err.msg);
    return v;
}

static void test_good(void **state)
{
    (void)state;
    dest d = {.i = 7};
    qn_err err;
    const char *param = NULL;
    json_t *v = parse("{\"b\": true, \"i\": 5.0, \"u\": -1, \"f\": 1, \"s\": \"four\", \"a\": [], "
                      "\"o\": {}, \"any\": 3, \"unknown\": {\"x\": 1}}");
    assert_int_equal(qn_fields_read(v, fields, QN_COUNT(fields), &d, &param, &err), QN_OK);
    assert_true(d.b);
    assert_int_equal(d.i, 5);
    assert_true(d.u == UINT64_MAX);
    assert_true(d.f == 1);
    assert_string_equal(d.s, "four");
    assert_true(json_is_array(d.a) && json_is_object(d.o) && json_is_integer(d.any));
    json_decref(v);
}

static void test_not_given(void **state)
{
    (void)state;
    dest d = {.b = true, .i = 7, .u = 8, .f = 0.5f, .s = "s"}, was = d;
    qn_err err;
    const char *param = NULL;
    json_t *v =
        parse("{\"b\": null, \"i\": null, \"u\": null, \"f\": null, \"s\": null, \"a\": null}");
    assert_int_equal(qn_fields_read(v, fields, QN_COUNT(fields), &d, &param, &err), QN_OK);
    assert_memory_equal(&d, &was, sizeof d);
    json_decref(v);
}

static void test_bad(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"{\"b\": 1}", "b", "an integer"},
        {"{\"b\": \"true\"}", "b", "a string"},
        {"{\"i\": 1.5}", "i", "a number"},
        {"{\"i\": \"1\"}", "i", "a string"},
        {"{\"i\": true}", "i", "true"},
        {"{\"i\": 101}", "i", "101"},
        {"{\"i\": -2}", "i", "-2"},
        {"{\"i\": 9223372036854775807}", "i", "9223372036854775807"},
        {"{\"i\": 1e300}", "i", "a number"},
        {"{\"u\": 0.5}", "u", "a number"},
        {"{\"u\": []}", "u", "an array"},
        {"{\"f\": \"hot\"}", "f", "a string"},
        {"{\"f\": -0.1}", "f", "-0.1"},
        {"{\"f\": 2.1}", "f", "2.1"},
        {"{\"f\": 1e308}", "f", "1e+308"},
        {"{\"s\": 4}", "s", "an integer"},
        {"{\"s\": \"\"}", "s", "0 bytes"},
        {"{\"s\": \"fives\"}", "s", "5 bytes"},
        {"{\"s\": \"a\\u0000b\"}", "s", "NUL"},
        {"{\"a\": {}}", "a", "an object"},
        {"{\"o\": []}", "o", "an array"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        dest d = {0};
        qn_err err;
        const char *param = NULL;
        json_t *v = parse(cases[i][0]);
        assert_int_equal(qn_fields_read(v, fields, QN_COUNT(fields), &d, &param, &err), QN_E_ARG);
        assert_string_equal(param, cases[i][1]);
        if (!strstr(err.msg, cases[i][2]) || strncmp(err.msg, param, strlen(param)) != 0)
            fail_msg("%s: %s", cases[i][0], err.msg);
        json_decref(v);
    }
}

static void test_lists(void **state)
{
    (void)state;
    static const struct {
        const char *json, *ids, *stop; /* what is said; NULL: good */
    } cases[] = {
        {"[]", NULL, NULL},
        {"[0, 9]", NULL, "list[0]: found an integer, want a string"},
        {"[1, 10]", "list[1]: found 10, want 0 to 9", "list[0]: found an integer, want a string"},
        {"[-1]", "list[0]: found -1, want 0 to 9", "list[0]: found an integer, want a string"},
        {"[1.0]", "list[0]: found a number, want a token id",
         "list[0]: found a number, want a string"},
        {"[\"a\", \"bc\"]", "list[0]: found a string, want a token id", NULL},
        {"[\"a\", \"\"]", "list[0]: found a string, want a token id",
         "list[1]: found 0 bytes, want 1 to 256"},
        {"[\"a\\u0000\"]", "list[0]: found a string, want a token id",
         "list[0]: found a NUL character in it, want none"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        qn_err err = {0};
        qn_arena arena;
        qn_params p = {0};
        int32_t *ids[2];
        size_t n;
        json_t *v = parse(cases[i].json);
        qn_arena_init(&arena, 0, QN_MEM_REQUEST);
        for (size_t k = 0; k < 2; k++) {
            qn_status s = qn_fields_ids("list", v, 10, k ? &arena : NULL, &ids[k], &n, &err);
            assert_int_equal(s, cases[i].ids ? QN_E_ARG : QN_OK);
            assert_int_equal(n, s == QN_OK ? json_array_size(v) : 0);
            assert_int_equal(ids[k] != NULL, s == QN_OK);
            if (cases[i].ids)
                assert_string_equal(err.msg, cases[i].ids);
            for (size_t j = 0; j < n; j++)
                assert_int_equal(ids[k][j], json_integer_value(json_array_get(v, j)));
        }
        qn_status s = qn_fields_stop("list", v, &arena, &p, &err);
        assert_int_equal(s, cases[i].stop ? QN_E_ARG : QN_OK);
        if (cases[i].stop)
            assert_string_equal(err.msg, cases[i].stop);
        else
            assert_int_equal(p.n_stop, json_array_size(v));
        qn_release(ids[0]);
        qn_arena_fini(&arena);
        json_decref(v);
    }
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_not_given),
        cmocka_unit_test(test_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
