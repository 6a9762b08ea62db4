/* SPDX-License-Identifier: Apache-2.0
 * test_demand.c - what requests say of their answer, as GBNF; types of parameters; what a template tells of its model. */
#include "check.h"

#include "base/mem.h"
#include "server/demand.h"
#include <string.h>

static qn_arena arena;

static json_t *parse(const char *text)
{
    json_t *v;
    qn_err err;
    if (qn_json_parse(&v, text, strlen(text), 0, "test", &err) != QN_OK)
        fail_msg("%s: %s", text, err.msg);
    return v;
}

static qn_demand demand(void)
{
    return (qn_demand){.arena = &arena, .budget = -1};
}

static void add_tools(qn_demand *d, const json_t *tools)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *t = json_array_get(tools, i);
        assert_int_equal(
            qn_demand_tool(d, "tools[0].function.parameters", json_object_get(t, "name"),
                           json_object_get(t, "parameters"), json_object_get(t, "strict"), NULL),
            QN_OK);
    }
}

/* has: lines of the grammar; NULL at the end. */
static void expect(const qn_demand *d, const char *const *has)
{
    qn_str text = {0};
    const char *param = NULL;
    qn_err err;
    if (qn_demand_write(d, &text, &param, &err) != QN_OK)
        fail_msg("%s", err.msg);
    if (!*has)
        assert_int_equal(text.n, 0);
    for (; *has; has++)
        if (!text.p || !strstr(text.p, *has))
            fail_msg("no %s in\n%s", *has, text.p ? text.p : "");
    qn_str_fini(&text);
}
#define EXPECT(d, ...) expect(d, (const char *const[]){__VA_ARGS__, NULL})

static void expect_error(const qn_demand *d, const char *says)
{
    qn_str text = {0};
    const char *param = NULL;
    qn_err err;
    assert_int_not_equal(qn_demand_write(d, &text, &param, &err), QN_OK);
    if (!strstr(err.msg, says))
        fail_msg("%s", err.msg);
    assert_non_null(param);
    qn_str_fini(&text);
}

static void test_speech(void **state)
{
    (void)state;
    qn_speech s = qn_speech_of(NULL);
    assert_false(s.thinks || s.is_xml || s.is_switched || s.has_tools);
    s = qn_speech_of("{% if tools %}<tool_call>{% endif %}");
    assert_true(s.has_tools && !s.is_xml && !s.thinks);
    s = qn_speech_of("{% if tools %}<tool_call>\n<function=x>{% endif %}<think>");
    assert_true(s.is_xml && s.thinks && !s.is_switched);
    s = qn_speech_of("{% if enable_thinking %}</think>");
    assert_true(s.thinks && s.is_switched);
}

static void test_thoughts(void **state)
{
    (void)state;
    qn_demand d = demand();
    expect(&d, (const char *const[]){NULL});
    d.style.begin = QN_REPLY_THINKS;
    expect(&d, (const char *const[]){NULL});
    d.budget = 7;
    EXPECT(&d, "quern-thoughts ::= %until[7] \"</think>\" \"\\n\\nConsidering",
           "root ::= quern-thoughts quern-body\n", "quern-body ::= %any\n");
    d.budget = 0;
    EXPECT(&d, "quern-thoughts ::= \"\\n</think>\"\n");
    d.style.begin = QN_REPLY_MAY_THINK;
    EXPECT(&d, "| ( [^< \\t\\r\\n] %any )?");
    d.speech.is_switched = true;
    EXPECT(&d, "root ::= \"<think>\\n\" quern-thoughts quern-body\n");
    d.style.begin = QN_REPLY_ANSWERS;
    expect(&d, (const char *const[]){NULL});
}

static void test_forms(void **state)
{
    (void)state;
    static const struct {
        qn_grammar_kind kind;
        const char *json, *want;
    } rows[] = {
        {QN_GRAMMAR_SCHEMA, "{\"type\": \"null\"}", "quern-form ::= %json {\"type\": \"null\"}\n"},
        {QN_GRAMMAR_SCHEMA, "\"{}\"", "quern-form ::= %json {}\n"},
        {QN_GRAMMAR_SCHEMA, "true", "quern-form ::= %json {}\n"},
        {QN_GRAMMAR_SCHEMA, "\"false\"", "quern-form ::= %json {\"not\": {}}\n"},
        {QN_GRAMMAR_REGEX, "\"a\\\\\\nb\"", "quern-form ::= %regex /a\\nb/\n"},
        {QN_GRAMMAR_REGEX, "\"a/[/]\\\\/\\n\"", "quern-form ::= %regex /a\\/[\\/]\\/\\n/\n"},
        {QN_GRAMMAR_CHOICE, "[\"a\\\"\\\\\", \"\\n\\u0001\"]",
         "quern-form ::= \"a\\\"\\\\\" | \"\\n\\x01\"\n"},
        {QN_GRAMMAR_GBNF,
         "\"root ::= \\\"root\\\" [root] roots root # root\\nroots ::= %json {\\\"root\\\": "
         "\\\"}\\\"} "
         "%regex /root\\\\//\"",
         "quern-form ::= \"root\" [root] roots quern-form # root\nroots ::= %json {\"root\": "
         "\"}\"} %regex /root\\//\n"},
    };
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        qn_demand d = demand();
        qn_err err;
        json_t *v = parse(rows[i].json);
        d.style.begin = QN_REPLY_THINKS;
        if (qn_demand_form(&d, "form", rows[i].kind, v, &err) != QN_OK)
            fail_msg("%s", err.msg);
        assert_int_equal(qn_demand_form(&d, "other", rows[i].kind, v, &err), QN_E_ARG);
        EXPECT(&d, rows[i].want, "root ::= quern-thoughts \"\\n\\n\" quern-body\n",
               "quern-thoughts ::= %until \"</think>\"\n", "quern-body ::= quern-form\n");
        json_decref(v);
    }
    static const char *const formats[][2] = {
        {"{\"type\": \"json_object\", \"json_schema\": null}",
         "quern-form ::= %json {\"type\": \"object\"}\n"},
        {"{\"type\": \"json_object\", \"schema\": {\"type\": \"null\"}}",
         "quern-form ::= %json {\"type\": \"null\"}\n"},
        {"{\"type\": \"json_schema\", \"json_schema\": {\"schema\": {}}}",
         "quern-form ::= %json {}\n"}};
    for (size_t i = 0; i < QN_COUNT(formats); i++) {
        qn_demand d = demand();
        json_t *v = parse(formats[i][0]);
        d.style.begin = QN_REPLY_THINKS;
        assert_int_equal(qn_demand_read_format(&d, "response_format", v, NULL), QN_OK);
        EXPECT(&d, formats[i][1]);
        json_decref(v);
    }
    /* the text of a schema is one value, whatever follows it */
    qn_demand d = demand();
    json_t *v = json_string("{} root ::= \"x\"");
    assert_int_not_equal(qn_demand_form(&d, "form", QN_GRAMMAR_SCHEMA, v, NULL), QN_OK);
    json_decref(v);
}

static const char weather[] =
    "[{\"name\": \"f\", \"parameters\": {\"properties\": {\"s\": {\"type\": \"string\"}, \"i\": "
    "{\"$ref\": \"#/$defs/n\"}, \"e\": {\"type\": \"string\", \"enum\": [\"a\", \"b\\n\", null]}, "
    "\"m\": {\"type\": "
    "\"string\", "
    "\"maxLength\": 3}, \"o\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}}, "
    "\"required\": [\"s\"], \"$defs\": {\"n\": {\"type\": \"integer\"}}}}, {\"name\": \"g\"}]";

static void test_calls(void **state)
{
    (void)state;
    qn_demand d = demand();
    json_t *tools = parse(weather), *name = parse("\"required\"");
    add_tools(&d, tools);
    expect(&d, (const char *const[]){NULL}); /* auto */
    assert_int_equal(qn_demand_read_choice(&d, name, NULL), QN_OK);
    EXPECT(&d, "root ::= quern-body\n", "quern-body ::= quern-calls\n",
           "quern-call ::= quern-tool-0 | quern-tool-1\n",
           "quern-calls ::= quern-call ( \"\\n\" quern-call )*\n",
           "\"<tool_call>\\n{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": \" %json {\"properties\"",
           "%json {\"additionalProperties\": false, \"type\": \"object\"} \"}\\n</tool_call>\"\n");
    d.speech.is_xml = true;
    EXPECT(&d, "\"<tool_call>\\n<function=f>\\n\" ( \"<parameter=s>\\n\" %until \"</parameter>\" ",
           "( \"<parameter=i>\\n\" %json {\"type\": \"integer\", \"$defs\": ",
           "( \"<parameter=e>\\n\" ( \"a\" | \"b\\n\" ) \"\\n</parameter>\\n\" )?",
           "( \"<parameter=m>\\n\" [^<]{0,3} \"\\n</parameter>\\n\" )?",
           "\"<tool_call>\\n<function=g>\\n\" \"</function>\\n</tool_call>\"\n");
    assert_int_equal(qn_demand_name(&d, "tool_choice", "g", NULL), QN_OK);
    EXPECT(&d, "quern-call ::= quern-tool-1\n", "quern-calls ::= quern-call\n");
    assert_int_equal(qn_demand_name(&d, "tool_choice", "h", NULL), QN_E_ARG);
    assert_int_equal(qn_demand_types(&d, QN_SLICE("f"), QN_SLICE("i")), QN_REPLY_INTEGER);
    assert_int_equal(qn_demand_types(&d, QN_SLICE("f"), QN_SLICE("o")),
                     QN_REPLY_STRING | QN_REPLY_NULL);
    assert_int_equal(qn_demand_types(&d, QN_SLICE("f"), QN_SLICE("e")), QN_REPLY_STRING);
    assert_int_equal(qn_demand_types(&d, QN_SLICE("f"), QN_SLICE("x")), 0);
    assert_int_equal(qn_demand_types(&d, QN_SLICE("x"), QN_SLICE("s")), 0);
    d = demand(); /* free text, until it calls */
    add_tools(&d, tools);
    d.is_single = true;
    EXPECT(&d, "quern-body ::= quern-text quern-call?\n",
           "quern-text ::= %regex /[^<]*(?:<(?:[^<t]", "%json {\"type\": \"object\"}");
    json_decref(tools);
    json_decref(name);
}

static void test_unsaid(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"{\"properties\": {\"s\": {\"type\": \"string\", \"pattern\": \"a\"}}}",
         "#/properties/s/pattern"},
        {"{\"properties\": {\"s\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"integer\", "
         "\"minimum\": 1}]}}}",
         "#/properties/s/minimum"},
        {"{\"properties\": {\"s\": {\"$ref\": \"#/$defs/a\", \"title\": \"t\"}}, \"$defs\": "
         "{\"a\": "
         "{\"type\": \"string\", \"format\": \"date\"}}}",
         "#/properties/s/format"},
        {"{\"properties\": {\"s\": {\"enum\": [\"a\", \"bb\"], \"minLength\": 2}}}",
         "#/properties/s/minLength"},
        {"{\"properties\": {\"s\": {\"type\": \"string\", \"const\": 1}}}", "#/properties/s/type"},
        {"{\"properties\": {\"s\": {\"$ref\": \"#/$defs/none\"}}}", "#/properties/s/anyOf"},
        {"{\"properties\": {\"s\": {\"$ref\": \"#/$defs/a%20b\"}}, \"$defs\": {\"a b\": "
         "{\"type\": \"integer\"}}}",
         "#/properties/s/anyOf"},
        {"{\"properties\": {\"s\": {\"$ref\": \"#a\"}}, \"$defs\": {\"a\": {\"$anchor\": \"a\"}}}",
         "#/properties/s/anyOf"},
        {"{\"properties\": {\"s\": {\"type\": \"string\", \"anyOf\": [{\"type\": \"integer\"}]}}}",
         "#/properties/s/anyOf"},
        {"{\"properties\": {\"s\": {\"type\": \"strng\"}}}", "#/properties/s/type"},
        {"{\"properties\": {\"s\": 5}}", "#/properties/s/type"},
        {"{\"properties\": {\"s\": false}, \"required\": [\"s\"]}", "#/properties/s/type"},
        /* which would be read as a number */
        {"{\"properties\": {\"s\": {\"type\": [\"string\", \"number\"], \"enum\": [\" 5\"]}}}",
         "#/properties/s/enum"},
        {"{\"properties\": {\"s\": {\"enum\": [\"None\", null]}}}", "#/properties/s/enum"},
        {"{\"properties\": {\"s\": {\"oneOf\": [{\"type\": \"string\"}, {\"type\": \"string\"}]}}}",
         "#/properties/s/oneOf"},
        {"{\"properties\": {\"s\": {\"oneOf\": [{\"type\": \"string\"}, {\"type\": \"number\"}, "
         "{\"type\": \"integer\"}]}}}",
         "#/properties/s/oneOf"},
        {"{\"properties\": {\"s\": {\"type\": \"array\", \"items\": {\"$ref\": \"#\"}}}}",
         "#/properties/s/$ref"},
        {"{\"minProperties\": 1}", "#/minProperties"},
        {"{\"required\": [\"x\"]}", "#/required/0"},
        {"{\"properties\": {\"a>b\": {}}}", "#/properties"},
        {"{\"type\": \"string\"}", "#/type"},
    };
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        qn_demand d = demand();
        json_t *schema = parse(rows[i][0]), *name = json_string("f");
        assert_int_equal(qn_demand_tool(&d, "tools[0]", name, schema, NULL, NULL), QN_OK);
        assert_int_equal(qn_demand_name(&d, "tool_choice", "f", NULL), QN_OK);
        d.speech.is_xml = true;
        expect_error(&d, rows[i][1]);
        json_decref(schema);
        json_decref(name);
    }
    /* references in a circle end */
    qn_demand d = demand();
    json_t *tools = parse("[{\"name\": \"f\", \"parameters\": {\"properties\": {\"a\": {\"anyOf\": "
                          "[{\"$ref\": \"#/properties/a\"}, {\"$ref\": \"#/properties/a\"}]}}}}]");
    add_tools(&d, tools);
    (void)qn_demand_types(&d, QN_SLICE("f"), QN_SLICE("a"));
    json_decref(tools);
}

static int open_arena(void **state)
{
    (void)state;
    qn_arena_init(&arena, 0, QN_MEM_REQUEST);
    return 0;
}

static int close_arena(void **state)
{
    (void)state;
    qn_arena_fini(&arena);
    return qn_mem_live(QN_MEM_REQUEST) || qn_mem_live(QN_MEM_MISC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_speech), cmocka_unit_test(test_thoughts),
        cmocka_unit_test(test_forms),  cmocka_unit_test(test_calls),
        cmocka_unit_test(test_unsaid),
    };
    return cmocka_run_group_tests(tests, open_arena, close_arena);
}
