/* SPDX-License-Identifier: Apache-2.0
 * test_gbnf.c - grammars in llama.cpp's notation, and the terms that are ours. */
#include "taken.h"

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"

typedef struct sample {
    const char *form, *texts[8];
} sample;

static void test_taken(void **state)
{
    (void)state;
    static const sample samples[] = {
        {"root ::= \"a\"", {"a", "!", "!b", "!aa"}},
        {"root ::= a b | b\na ::= \"x\"+\nb ::= [0-9]", {"x1", "xx1", "1", "!x", "!1x"}},
        {"# first\nroot ::= (\n  \"a\" # one\n  \"b\"\n)* |\n\n  \"c\" \n",
         {"", "ab", "abab", "c", "!a"}},
        {"root ::= [^a-c\\n] .", {"xy", "x\n", "é日", "!ay", "!\ny"}},
        {"root ::= \"\\x41\\u00e9\\U0001F600\\\"\\\\\\t\\r\\n\"", {"Aé😀\"\\\t\r\n", "!A"}},
        {"root ::= [\\]\\-x-z\\[]+", {"]-[", "xyz", "!a"}},
        {"root ::= \"a\"{2} \"b\"{1,} \"c\"{ 1 , 2 } \"d\"?",
         {"aabc", "aabbccd", "!abc", "!aabccc"}},
        {"root ::= item (\",\" item)*\nitem ::= \"(\" root? \")\"",
         {"()", "((),())", "!(", "!(,)"}},
        {"a_B-1 ::= \"q\"\nroot ::= a_B-1 a_B-1", {"qq", "!q"}},
        {"root ::= \"\" | \"a\" root", {"", "aaa", "!b"}},
        {"root ::= %json {\"type\": \"integer\", \"minimum\": 3,\n \"maximum\": 12}",
         {"3", "12", "!2"}},
        {"root ::= \"<\" %json {\"enum\": [\"}\", \"\\\"\"]} \">\"",
         {"<\"}\">", "<\"\\\"\">", "!<>"}},
        {"root ::= %regex /^a\\/[b\\d]$/ \"!\"", {"a/b!", "a/1!", "!a/b"}},
        {"root ::= \"<t>\" %until \"</t>\" \"x\"",
         {"<t>hm</t>x", "<t></t>x", "!<t></t>y</t>x", "!<t>x"}},
        {"root ::= \"<t>\" %until[100] \"</t>\" \" stop</t>\"", {"<t>hm</t>", "!<t>hm"}},
        {"root ::= \"=\" %any", {"=", "=anything", "!x"}},
        {"root::=\"a\"\r\nb::=\"c\"\r\n", {"a", "!b"}},
    };
    for (size_t i = 0; i < QN_COUNT(samples); i++)
        check_texts(qn_form_add_gbnf, samples[i].form, samples[i].texts, 8);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *form, *message;
        qn_status status;
    } bad[] = {
        {"", "line 1: found the end, want a rule named root", QN_E_ARG},
        {"a ::= \"x\"", "line 1: found the end, want a rule named root", QN_E_ARG},
        {"root ::= b\n", "line 1: found the name b", QN_E_ARG},
        {"root ::= \"a\"\n\nroot ::= \"b\"", "line 3: found the rule root", QN_E_ARG},
        {"root = \"a\"", "line 1: found a name without", QN_E_ARG},
        {"root ::= \"a", "line 1: found the end in a literal", QN_E_ARG},
        {"root ::= \"a\nb\"", "line 1: found the end of the line in a literal", QN_E_ARG},
        {"root ::= [a", "line 1: found the end in a literal or class", QN_E_ARG},
        {"root ::= [z-a]", "line 1: found a range", QN_E_ARG},
        {"root ::= (\"a\"\n", "line 1: found '(' without ')'", QN_E_ARG},
        {"root ::= \"a\")", "line 1: found another character", QN_E_ARG},
        {"root ::= *", "line 1: found a repetition with nothing", QN_E_ARG},
        {"root ::= \"a\" | *", "line 1: found a repetition with nothing", QN_E_ARG},
        {"root ::= \"a\"{2,1}", "line 1: found a repetition that is not", QN_E_ARG},
        {"root ::= \"a\"{x}", "line 1: found no number", QN_E_ARG},
        {"root ::= \"a\"{99999999999}", "line 1: found no number", QN_E_ARG},
        {"root ::= \"\\q\"", "line 1: found an unknown escape", QN_E_ARG},
        {"root ::= \"\\ud800\"", "line 1: found U+D800", QN_E_ARG},
        {"root ::= \"\\x4\"", "line 1: found an escape of fewer", QN_E_ARG},
        {"root ::= <[1000]>", "line 1: found a term of a token", QN_E_UNSUPPORTED},
        {"root ::= !<think>", "line 1: found a term of a token", QN_E_UNSUPPORTED},
        {"\nroot ::= %json {\"type\": \"strin\"}", "line 2: %json: #/type: found a string",
         QN_E_ARG},
        {"root ::= %json {", "line 1: found %json without a whole", QN_E_ARG},
        {"root ::= %json {\"x\": 1}", "line 1: %json: #/x: found a keyword", QN_E_UNSUPPORTED},
        {"root ::= %regex /(?=a)/", "line 1: %regex: regex: found a look-ahead", QN_E_UNSUPPORTED},
        {"root ::= %regex /a", "line 1: found %regex without", QN_E_ARG},
        {"root ::= %until", "line 1: found %until without a", QN_E_ARG},
        {"root ::= %until \"\"", "line 1: found %until of an empty", QN_E_ARG},
        {"root ::= %until[5] \"a\" \"b\"", "line 1: found a closing text", QN_E_ARG},
        {"root ::= %foo", "line 1: found '%'", QN_E_ARG},
        {"::= \"a\"", "line 1: found no name", QN_E_ARG},
    };
    size_t before = qn_mem_live(QN_MEM_REQUEST);
    for (size_t i = 0; i < QN_COUNT(bad); i++)
        check_refused(qn_form_add_gbnf, bad[i].form, strlen(bad[i].form), bad[i].status,
                      bad[i].message);
    qn_str deep = {0};
    qn_str_adds(&deep, "root ::= ");
    for (int i = 0; i < 1000; i++)
        qn_str_addc(&deep, '(');
    check_refused(qn_form_add_gbnf, deep.p, deep.n, QN_E_TOO_LONG, "line 1: found groups deeper");
    while (deep.n <= QN_LIMIT_GBNF_BYTES)
        qn_str_addc(&deep, ' ');
    check_refused(qn_form_add_gbnf, deep.p, deep.n, QN_E_TOO_LONG, "line 1: found a grammar of");
    qn_str_fini(&deep);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_taken),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
