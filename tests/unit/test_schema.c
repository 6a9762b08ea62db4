/* SPDX-License-Identifier: Apache-2.0
 * test_schema.c - JSON Schema as forms: spaces, what is refused where, spellings of numbers and strings. Its keywords have a
 * corpus of their own, tests/e2e/schemas.json. */
#include "failing.h"
#include "taken.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/str.h"
#include "sample/decimal.h"
#include <stdio.h>

typedef struct sample {
    const char *form, *texts[8];
} sample;

static qn_status add_schema(qn_form *f, const char *json, size_t n, qn_form_id *out, qn_err *err)
{
    return qn_form_add_schema(f, json, n, false, out, err);
}

static qn_status add_compact(qn_form *f, const char *json, size_t n, qn_form_id *out, qn_err *err)
{
    return qn_form_add_schema(f, json, n, true, out, err);
}

static qn_status add_json(qn_form *f, const char *json, size_t n, qn_form_id *out, qn_err *err)
{
    (void)json;
    (void)n;
    return qn_form_add_json(f, out, err);
}

static void test_spaces(void **state)
{
    (void)state;
    static const char two[] =
        "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"array\"}, \"b\": "
        "true}, \"required\": [\"b\"], \"additionalProperties\": false}";
    static const char *const spaced[] = {"{\"a\":[1,2],\"b\":1}", "{\"a\": [1, 2], \"b\": {}}",
                                         "!{ \"b\":1}",           "!{\"b\" :1}",
                                         "!{\"b\":  1}",          "!{\"b\":1 }"};
    static const char *const compact[] = {"{\"a\":[1,2],\"b\":1}", "!{\"a\": [1],\"b\":1}",
                                          "!{\"a\":[1],\"b\": 1}", "!{\"a\":[1], \"b\":1}"};
    check_texts(add_schema, two, spaced, QN_COUNT(spaced));
    check_texts(add_compact, two, compact, QN_COUNT(compact));
}

static void test_spellings(void **state)
{
    (void)state;
    static const sample samples[] = {
        {"{\"type\": \"string\"}",
         {"\"\\u00e9\\/\\ud83d\\ude00\"", "!\"\\ud83d\"", "!\"\\ude00\"", "!\"\n\"", "!\"\\x\"",
          "\"\x7f\""}},
        {"{\"type\": \"string\", \"maxLength\": 1}",
         {"\"\\ud83d\\ude00\"", "\"\\n\"", "!\"\\u0041b\""}},
        {"{\"const\": \"\\u0001\\\"\\u00e9\"}",
         {"\"\\u0001\\\"\xc3\xa9\"", "!\"\\u0001\\\"\\u00e9\""}},
        {"{\"type\": \"integer\"}",
         {"0", "-1", "!-0", "!01", "!1.0", "!1e3", "!+1", "!1234567890123456789"}},
        {"{\"type\": \"number\"}", {"-0", "1.50", "1E+9", "0e0", "!.5", "!1.", "!01", "!1e999"}},
        {"{\"type\": \"number\", \"minimum\": 0}", {"0.50", "0.0", "!-0", "!-0.0", "!1e3", "!-1"}},
        {"{\"type\": \"number\", \"exclusiveMinimum\": -0.05}",
         {"-0.049", "-0.0499999", "0", "!-0.05", "!-0.050", "!-0.06"}},
        {"{\"type\": \"number\", \"maximum\": 1e-7}",
         {"0.0000001", "0.00000001", "!0.0000002", "-1", "0"}},
        {"{\"const\": 2.0}", {"2", "!2.0", "!3"}},
        {"{\"enum\": [[1, {\"a\": []}]]}",
         {"[1,{\"a\":[]}]", "[1, {\"a\": []}]", "![1,{\"a\": [ ]}]"}},
        {"{\"additionalProperties\": {\"type\": \"null\"}, \"properties\": {\"a\": false}}",
         {"{\"b\":null}", "!{\"\\u0061\":null}", "!{\"a\":null}", "{\"aa\":null}", "1"}},
    };
    for (size_t i = 0; i < QN_COUNT(samples); i++)
        check_texts(add_schema, samples[i].form, samples[i].texts, 8);
    static const char *const objects[] = {"{}", "{\"a\": [1, {\"b\": null}]}", "![]", "!1", "!"};
    check_texts(add_json, "", objects, QN_COUNT(objects));
}

static void test_choice(void **state)
{
    (void)state;
    static const char *const texts[] = {"yes", "no", "a\"\n", "!ye", "!yesno", "!"};
    check_texts(qn_form_add_choice, "[\"yes\", \"no\", \"a\\\"\\n\"]", texts, QN_COUNT(texts));
    static const struct {
        const char *form, *message;
    } bad[] = {
        {"[]", "choice: found an empty array"},      {"{}", "choice: found an object"},
        {"\"a\"", "choice: found a string"},         {"[1]", "choice: found an integer at 0"},
        {"[\"a\", [\"b\"]]", "choice: JSON nested"}, {"[\"a\"", "choice: not valid JSON"}};
    for (size_t i = 0; i < QN_COUNT(bad); i++)
        check_refused(qn_form_add_choice, bad[i].form, strlen(bad[i].form), QN_E_ARG,
                      bad[i].message);
}

/* The pointer first, then what was found; one line. */
static void test_places(void **state)
{
    (void)state;
    static const struct {
        const char *form, *message;
        qn_status status;
    } bad[] = {
        {"{\"properties\":{\"a\":{\"pattern\":\"(?=x)\",\"type\":\"string\"}}}",
         "#/properties/a/pattern: found a look-ahead at byte 0", QN_E_UNSUPPORTED},
        {"{\"$defs\":{\"a/b~\":{\"items\":{\"frob\":1}}}}",
         "#/$defs/a~1b~0/items/frob: found a keyword", QN_E_UNSUPPORTED},
        {"{\"prefixItems\":[{},{\"type\":\"x\"}]}",
         "#/prefixItems/1/type: found a string, want the name", QN_E_ARG},
        {"{\"anyOf\":[{\"required\":\"a\"}]}", "#/anyOf/0/required: found a string, want an array",
         QN_E_ARG},
        {"{\"properties\":{\"a\":5}}", "#/properties: a: found an integer, want a schema",
         QN_E_ARG},
        {"{\"type\":\"array\",\"uniqueItems\":true}", "#/uniqueItems: found items of other",
         QN_E_UNSUPPORTED},
        {"{\"type\":\"string\",\"not\":{\"format\":\"date\"}}",
         "#/not/format: found it where it must not", QN_E_UNSUPPORTED},
        {"{\"format\":\"x\\ny\"}", "#/format: found the format 'x\\x0ay'", QN_E_UNSUPPORTED},
        {"{\"$ref\":\"https://e.org/\"}", "#/$ref: found a reference to another document",
         QN_E_UNSUPPORTED},
        {"{\"a\":", "#: not valid JSON", QN_E_ARG},
        {"{\"type\":\"null\",\"type\":\"null\"}", "#: not valid JSON: duplicate", QN_E_ARG},
        {"3", "#: found an integer, want a schema", QN_E_ARG},
        {"false", "#: found a schema that no value fits", QN_E_ARG},
        {"{\"properties\":{\"a\\u0000b\":{}}}", "#", QN_E_ARG},
    };
    size_t before = qn_mem_live(QN_MEM_REQUEST), misc = qn_mem_live(QN_MEM_MISC);
    for (size_t i = 0; i < QN_COUNT(bad); i++)
        check_refused(add_schema, bad[i].form, strlen(bad[i].form), bad[i].status, bad[i].message);
    qn_str big = {0};
    while (big.n <= QN_LIMIT_SCHEMA_BYTES)
        qn_str_addc(&big, ' ');
    check_refused(add_schema, big.p, big.n, QN_E_TOO_LONG, "#: found a schema of");
    qn_str_fini(&big);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), before);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), misc);
}

/* A long pointer leaves room for the message. */
static void test_long_place(void **state)
{
    (void)state;
    qn_str schema = {0};
    for (int i = 0; i < 30; i++)
        qn_str_adds(&schema, "{\"properties\":{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\":");
    qn_str_adds(&schema, "{\"frob\":1}");
    for (int i = 0; i < 30; i++)
        qn_str_adds(&schema, "}}");
    qn_form *f;
    qn_form_id id;
    qn_err err = {0};
    assert_int_equal(qn_form_new(&f, NULL), QN_OK);
    assert_int_equal(add_schema(f, schema.p, schema.n, &id, &err), QN_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "...: found a keyword that cannot be enforced"));
    qn_form_free(f);
    qn_str_fini(&schema);
}

static void test_decimals(void **state)
{
    (void)state;
    static const char *const order[] = {"-1e300", "-12.5",  "-12.25", "-1",   "-0.001",
                                        "0",      "5e-324", "0.01",   "0.1",  "0.11",
                                        "1",      "9",      "10",     "1e20", "1.5e20"};
    for (size_t i = 0; i < QN_COUNT(order); i++)
        for (size_t k = 0; k < QN_COUNT(order); k++) {
            qn_decimal a, b;
            qn_decimal_parse(&a, order[i], strlen(order[i]));
            qn_decimal_parse(&b, order[k], strlen(order[k]));
            int c = qn_decimal_compare(&a, &b);
            assert_int_equal(c, i < k ? -1 : i > k);
        }
    static const struct {
        const char *a, *of;
        bool is;
    } multiples[] = {{"0.3", "0.1", true}, {"1e20", "7", false},   {"-21", "7", true},
                     {"0", "3", true},     {"0.25", "0.1", false}, {"99.99", "0.01", true},
                     {"5", "2.5", true}};
    for (size_t i = 0; i < QN_COUNT(multiples); i++) {
        qn_decimal a, of;
        qn_decimal_parse(&a, multiples[i].a, strlen(multiples[i].a));
        qn_decimal_parse(&of, multiples[i].of, strlen(multiples[i].of));
        assert_int_equal(qn_decimal_is_multiple(&a, &of), multiples[i].is);
    }
}

/* Ranges of whole numbers and of hundredths, each number in them and around them. */
static void test_ranges(void **state)
{
    (void)state;
    static const int ends[][2] = {{-12, 7},  {0, 0},  {3, 105}, {-100, -99},
                                  {98, 120}, {-1, 1}, {9, 10},  {17, 99}};
    for (size_t i = 0; i < QN_COUNT(ends); i++)
        for (int is_part = 0; is_part < 2; is_part++) {
            char schema[128], text[32];
            const char *texts[1];
            int low = ends[i][0], high = ends[i][1];
            (void)snprintf(
                schema, sizeof schema,
                is_part ? "{\"type\":\"number\",\"minimum\":%de-2,\"exclusiveMaximum\":%de-2}"
                        : "{\"type\":\"integer\",\"minimum\":%d,\"exclusiveMaximum\":%d}",
                low, high + 1);
            for (int v = low - 15; v <= high + 15; v += 1 + (v > low + 3 && v < high - 4)) {
                bool is_no = v < low || v > high;
                int size = v < 0 ? -v : v;
                (void)snprintf(text, sizeof text, is_part ? "%s%s%d.%02d" : "%s%s%d",
                               is_no ? "!" : "", v < 0 ? "-" : "", is_part ? size / 100 : size,
                               size % 100);
                texts[0] = text;
                check_texts(add_schema, schema, texts, 1);
            }
        }
}

/* Each allocation fails in turn. */
static void test_out_of_memory(void **state)
{
    (void)state;
    static const char schema[] =
        "{\"$defs\": {\"n\": {\"type\": \"object\", \"properties\": {\"k\": {\"enum\": [\"a\", "
        "\"b\"]}, "
        "\"c\": {\"type\": \"array\", \"items\": {\"$ref\": \"#/$defs/n\"}}, \"s\": {\"type\": "
        "\"string\", "
        "\"pattern\": \"^[a-z]+\\\\d$\", \"maxLength\": 9, \"not\": {\"const\": \"a1\"}}, \"d\": "
        "{\"format\": "
        "\"date\", \"type\": \"string\"}, \"x\": {\"type\": \"number\", \"minimum\": 0.5, "
        "\"multipleOf\": 0.5}, "
        "\"u\": {\"type\": \"array\", \"items\": {\"enum\": [1, \"2\", null]}, \"uniqueItems\": "
        "true}}, "
        "\"required\": [\"k\", \"q\"], \"patternProperties\": {\"^y\": {\"type\": \"null\"}}, "
        "\"propertyNames\": {\"maxLength\": 4}, \"oneOf\": [{\"required\": [\"c\"]}, "
        "{\"required\": [\"d\"]}]}}, "
        "\"anyOf\": [{\"$ref\": \"#/$defs/n\"}, {\"const\": [1.5, {\"a\": \"b\"}]}]}";
    size_t before = qn_mem_live(QN_MEM_REQUEST), misc = qn_mem_live(QN_MEM_MISC);
    for (long at = 1;; at++) {
        qn_form *f;
        qn_form_id id;
        qn_err err = {0};
        n_calls = 0;
        fail_at = at;
        qn_status s = qn_form_new(&f, &err);
        if (s == QN_OK)
            s = add_schema(f, schema, sizeof schema - 1, &id, &err);
        bool is_hit = n_calls >= at;
        fail_at = 0;
        qn_form_free(f);
        assert_int_equal(qn_mem_live(QN_MEM_REQUEST), before);
        assert_int_equal(qn_mem_live(QN_MEM_MISC), misc);
        if (s != (is_hit ? QN_E_NOMEM : QN_OK))
            fail_msg("allocation %ld fails: %s: %s", at, qn_status_name(s), err.msg);
        if (!is_hit)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spaces),     cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_choice),     cmocka_unit_test(test_places),
        cmocka_unit_test(test_long_place), cmocka_unit_test(test_decimals),
        cmocka_unit_test(test_ranges),     cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
