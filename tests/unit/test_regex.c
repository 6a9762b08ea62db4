/* SPDX-License-Identifier: Apache-2.0
 * test_regex.c - regular expressions as forms and tried on texts; the two must agree. */
#include "taken.h"

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "sample/regex.h"

typedef struct sample {
    const char *re, *texts[8];
} sample;

static qn_status add_found(qn_form *f, const char *re, size_t n, qn_form_id *out, qn_err *err)
{
    return qn_form_add_regex(f, re, n, false, out, err);
}

static qn_status add_whole(qn_form *f, const char *re, size_t n, qn_form_id *out, qn_err *err)
{
    return qn_form_add_regex(f, re, n, true, out, err);
}

/* What is found somewhere in a text. */
static const sample found[] = {
    {"", {"", "a"}},
    {"a", {"a", "bab", "!", "!b"}},
    {"^a|b$", {"ax", "xb", "!xa", "!bx"}},
    {"(^|,)x", {"x", "a,x", "!ax"}},
    {"x(,|$)", {"x", "x,a", "!xa"}},
    {"(^a|b)c", {"ac", "xbc", "!xac"}},
    {"^(a|b$)", {"ax", "b", "!bx"}},
    {"^$", {"", "!a"}},
    {"^", {"", "a"}},
    {"$", {"", "a"}},
    {"a^b|c", {"c", "!ab", "!b"}},
    {"(^)?a", {"a", "ba"}},
    {"^(?:a{2}){2,3}$", {"aaaa", "aaaaaa", "!aa", "!aaaaa", "!aaaaaaaa"}},
    {"^(a?){3}$", {"", "aaa", "!aaaa"}},
    {"^((a|b)*c)*$", {"", "abc", "cac", "!a"}},
    {"^.$", {"a", "\xc3\xa9", "\xf0\x9f\x98\x80", "!\n", "!\xe2\x80\xa8", "!ab"}},
    {"^\\d+$", {"12", "!\xd9\xa3", "!"}},
    {"^\\D$", {"a", "!1", "!\xd9\xa3"}},
    {"^[^\\D5]$", {"4", "!5", "!a"}},
    {"^\\s$", {" ", "\t", "\xc2\xa0", "!\x1c", "!\xef\xbb\xbf"}},
    {"^\\S$", {"a", "! ", "!\x1c"}},
    {"^[\\s\\S]$", {"a", " ", "!ab"}},
    {"^\\p{Lu}$", {"A", "\xc3\x89", "!a", "!1"}},
    {"^\\P{gc=L}$", {"1", "!a"}},
    {"^[^\\p{Letter}\\s]$", {"1", "!a", "! "}},
    {"^a{x}{2}$", {"a{x}}", "!a"}},
    {"^[a-c-e]$", {"a", "-", "e", "!d"}},
    {"^\\x41\\u{1f600}\\cI\\0$", {"!A"}},
    {"^x{0}$", {"", "!x"}},
    {"a{,3", {"a{,3", "!a"}},
};

static void test_found(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(found); i++)
        check_texts(add_found, found[i].re, found[i].texts, 8);
}

static void test_tried(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(found); i++) {
        qn_regex *r;
        assert_int_equal(qn_regex_parse(&r, found[i].re, strlen(found[i].re), NULL), QN_OK);
        for (size_t k = 0; k < 8 && found[i].texts[k]; k++) {
            const char *t = found[i].texts[k];
            bool is_no = t[0] == '!', is_found, is_maybe;
            assert_int_equal(
                qn_regex_finds(r, t + is_no, strlen(t + is_no), false, &is_found, NULL), QN_OK);
            assert_int_equal(qn_regex_finds(r, t + is_no, strlen(t + is_no), true, &is_maybe, NULL),
                             QN_OK);
            if (is_found == is_no || (is_found && !is_maybe))
                fail_msg("%s: '%s'", found[i].re, t);
        }
        qn_regex_free(r);
    }
}

/* Where the languages differ, the wide meaning has what either takes. */
static void test_wide(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"^\\d$", "\xd9\xa3"}, {"^\\w$", "\xc3\xa9"}, {"^\\s$", "\x1c"},
        {"^\\W$", "\xc3\xa9"}, {"^.$", "\r"},         {"^a$", "a\n"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        qn_regex *r;
        bool is_found, is_maybe;
        assert_int_equal(qn_regex_parse(&r, cases[i][0], strlen(cases[i][0]), NULL), QN_OK);
        assert_int_equal(
            qn_regex_finds(r, cases[i][1], strlen(cases[i][1]), false, &is_found, NULL), QN_OK);
        assert_int_equal(qn_regex_finds(r, cases[i][1], strlen(cases[i][1]), true, &is_maybe, NULL),
                         QN_OK);
        if (is_found || !is_maybe)
            fail_msg("%s: %d %d", cases[i][0], is_found, is_maybe);
        qn_regex_free(r);
    }
}

static void test_whole(void **state)
{
    (void)state;
    static const sample samples[] = {
        {"a|bc", {"a", "bc", "!abc", "!xa"}},
        {"^a$", {"a", "!aa"}},
        {"(?<year>\\d{4})-(?P<m>\\d\\d)", {"2024-12", "!2024"}},
        {"[^\"]+", {"x\ny", "!\"", "!"}},
    };
    for (size_t i = 0; i < QN_COUNT(samples); i++)
        check_texts(add_whole, samples[i].re, samples[i].texts, 8);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *re, *message;
        qn_status status;
    } bad[] = {
        {"x(?=a)", "regex: found a look-ahead at byte 1", QN_E_UNSUPPORTED},
        {"(?<!a)", "regex: found a look-behind", QN_E_UNSUPPORTED},
        {"(a)\\1", "regex: found a back-reference at byte 3", QN_E_UNSUPPORTED},
        {"(?P=a)", "regex: found a back-reference", QN_E_UNSUPPORTED},
        {"\\ba", "regex: found a word border", QN_E_UNSUPPORTED},
        {"(?i:a)", "regex: found flags", QN_E_UNSUPPORTED},
        {"a++", "regex: found a possessive quantifier", QN_E_UNSUPPORTED},
        {"(?>a)", "regex: found an atomic group", QN_E_UNSUPPORTED},
        {"\\Z", "regex: found an escape that not all", QN_E_UNSUPPORTED},
        {"\\012", "regex: found an octal", QN_E_UNSUPPORTED},
        {"[]]", "regex: found a class that begins", QN_E_UNSUPPORTED},
        {"a{,2}", "regex: found a quantifier without its first", QN_E_UNSUPPORTED},
        {"\\udc00", "regex: found half of a surrogate pair", QN_E_UNSUPPORTED},
        {"\\p{Script=Greek}", "regex: found \\p of what", QN_E_UNSUPPORTED},
        {"(^a)+", "regex: found an anchor that is repeated", QN_E_UNSUPPORTED},
        {"a?^b", "regex: found '^' beside", QN_E_UNSUPPORTED},
        {"a$b?", "regex: found '$' beside", QN_E_UNSUPPORTED},
        {"(a", "regex: found '(' without ')' at byte 0", QN_E_ARG},
        {"a)", "regex: found ')' without '('", QN_E_ARG},
        {"[a", "regex: found a class without ']'", QN_E_ARG},
        {"[b-a]", "regex: found a range", QN_E_ARG},
        {"[\\d-z]", "regex: found a class as the end", QN_E_ARG},
        {"+a", "regex: found a quantifier with nothing", QN_E_ARG},
        {"a**", "regex: found a quantifier behind another", QN_E_ARG},
        {"^*", "regex: found a quantifier behind an anchor", QN_E_ARG},
        {"a{3,2}", "regex: found a quantifier whose first", QN_E_ARG},
        {"\\", "regex: found a backslash at the end", QN_E_ARG},
        {"\\u12", "regex: found an incomplete \\u", QN_E_ARG},
        {"\\x", "regex: found an incomplete \\x", QN_E_ARG},
        {"\\p{", "regex: found \\p without", QN_E_ARG},
        {"(?<n", "regex: found a group without", QN_E_ARG},
        {"\xff", "regex: found what is not UTF-8", QN_E_ARG},
        {"a{300000}", "regex: found a bound over", QN_E_TOO_LONG},
        {"((a{1000}){1000}){1000}", "regex: found repetitions of more", QN_E_TOO_LONG},
    };
    size_t before = qn_mem_live(QN_MEM_REQUEST);
    for (size_t i = 0; i < QN_COUNT(bad); i++)
        check_refused(add_found, bad[i].re, strlen(bad[i].re), bad[i].status, bad[i].message);
    qn_str deep = {0};
    for (int i = 0; i < 30000; i++)
        qn_str_adds(&deep, "(a");
    check_refused(add_whole, deep.p, deep.n, QN_E_TOO_LONG, "regex: found groups deeper");
    while (deep.n <= QN_LIMIT_REGEX_BYTES)
        qn_str_addc(&deep, 'a');
    check_refused(add_whole, deep.p, deep.n, QN_E_TOO_LONG, "regex: found a regular expression of");
    qn_str_fini(&deep);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), before);
}

/* Trying takes steps of the text's length, not of the number of ways through the expression; too many are an error. */
static void test_steps(void **state)
{
    (void)state;
    static const char hard[] = "^(((a?){1000}){100}b|(a*)*c)$";
    qn_regex *r;
    bool is_found;
    char text[2000];
    memset(text, 'a', sizeof text);
    assert_int_equal(qn_regex_parse(&r, hard, sizeof hard - 1, NULL), QN_OK);
    assert_int_equal(qn_regex_finds(r, text, 60, false, &is_found, NULL), QN_OK);
    assert_false(is_found);
    qn_err err = {0};
    qn_status s = qn_regex_finds(r, text, sizeof text, false, &is_found, &err);
    assert_true(s == QN_OK || s == QN_E_TOO_LONG);
    qn_regex_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found), cmocka_unit_test(test_tried),   cmocka_unit_test(test_wide),
        cmocka_unit_test(test_whole), cmocka_unit_test(test_refused), cmocka_unit_test(test_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
