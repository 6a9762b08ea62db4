/* SPDX-License-Identifier: Apache-2.0
 * test_jinja.c - templates of our own against jinja2's renderings; limits; origin of text; hostile
 * templates. */
#include "check.h"

#include "base/mem.h"
#include "text/jinja.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static qn_err err;
#define OK(expr) ok((expr), __LINE__)
static void ok(qn_status s, int line)
{
    if (s != QN_OK)
        print_error("line %d: %s\n", line, err.msg);
    assert_int_equal(s, QN_OK);
}

#define NOW 1721046896 /* 2024-07-15 12:34:56 UTC */

/* Compiles and renders; out may hold text of a rendering before. */
static qn_status render(const char *source, size_t n, const json_t *variables, qn_chat_text *out)
{
    qn_jinja *t;
    qn_status s = qn_jinja_new(&t, source, n, "t.jinja", &err);
    if (s == QN_OK)
        s = qn_jinja_render(t, variables, NOW, out, &err);
    qn_jinja_free(t);
    return s;
}

/* ---- jinja2's renderings ---- */

static bool same_as_golden(const json_t *row)
{
    const json_t *t = json_object_get(row, "t"), *text = json_object_get(row, "text");
    const char *raised = json_string_value(json_object_get(row, "raised"));
    json_t *none = json_object(), *variables = json_object_get(row, "v");
    qn_chat_text out = {0};
    qn_status s =
        render(json_string_value(t), json_string_length(t), variables ? variables : none, &out);
    bool same;
    if (raised)
        same = s == QN_E_ARG && strcmp(err.msg, raised) == 0;
    else if (!text)
        same = s == QN_E_FORMAT && strncmp(err.msg, "t.jinja:", 8) == 0;
    else
        same = s == QN_OK && out.text.n == json_string_length(text) &&
               (out.text.n == 0 || memcmp(out.text.p, json_string_value(text), out.text.n) == 0);
    if (!same)
        print_error("template: %s\nwant: %s\ngot:  %s\n\n", json_string_value(t),
                    raised ? raised
                    : text ? json_string_value(text)
                           : "an error",
                    s != QN_OK   ? err.msg
                    : out.text.p ? out.text.p
                                 : "");
    qn_chat_text_fini(&out);
    json_decref(none);
    return same;
}

static void test_golden(void **state)
{
    (void)state;
    qn_str rows = {0};
    size_t n_rows = 0, n_wrong = 0;
    setenv("TZ", "UTC", 1);
    OK(qn_file_read(&rows, QN_SOURCE_DIR "/tests/golden/jinja.jsonl", 64u << 20, &err));
    for (char *line = rows.p, *end; line < rows.p + rows.n; line = end + 1) {
        json_t *row;
        end = memchr(line, '\n', (size_t)(rows.p + rows.n - line));
        OK(qn_json_parse(&row, line, (size_t)(end - line), 0, "jinja.jsonl", &err));
        n_rows++;
        n_wrong += !same_as_golden(row);
        json_decref(row);
    }
    qn_str_fini(&rows);
    print_message("%zu templates, %zu wrong\n", n_rows, n_wrong);
    assert_true(n_rows > 150);
    assert_int_equal(n_wrong, 0);
}

/* ---- limits ---- */

/* Fails with this status and message; the text before `out` is untouched. */
static void check_refused(const char *source, size_t n, qn_status want, const char *message)
{
    qn_chat_text out = {0};
    json_t *none = json_object();
    qn_status s = render(source, n, none, &out);
    if (s != want || !strstr(err.msg, message))
        print_error("template: %.60s\nwant: %s\ngot:  %s\n", source, message,
                    s == QN_OK ? "a text" : err.msg);
    assert_int_equal(s, want);
    assert_non_null(strstr(err.msg, message));
    assert_null(strchr(err.msg, '\n'));
    assert_int_equal(out.text.n, 0);
    qn_chat_text_fini(&out);
    json_decref(none);
}

static void test_limits(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{{ 'a' * 10 ** 9 }}", "t.jinja:1: a text of more than"},
        {"{{ [1] * 10 ** 9 }}", "t.jinja:1: a list of more than"},
        {"\n{{ range(10 ** 10) }}", "t.jinja:2: range() of more than 100000"},
        {"{{ range(-9223372036854775807, 9223372036854775807) }}", "range() of more than"},
        {"{{ 10 ** 10 ** 10 }}", "t.jinja:1: an integer of more than 64 bits"},
        {"{{ 9223372036854775807 + 1 }}", "an integer of more than 64 bits"},
        {"{{ 9223372036854775808 }}", "a number within 64 bits wanted"},
        {"{{ 'a'.center(10 ** 12) }}", "a text of more than"},
        {"{{ 'a'|indent(10 ** 12) }}", "an indentation of 1000000000000"},
        {"{{ strftime_now('%99999d') }}", "an unknown conversion"},
        {"{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% "
         "endfor %}",
         "t.jinja:1: a text of more than"},
        {"{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% "
         "endfor %}",
         "t.jinja:1: a text of more than"},
        {"{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s.replace('x', "
         "'xxxx') %}{% endfor %}",
         "t.jinja:1: the template takes more than 1000000 steps"},
        {"{% set ns = namespace(l=[1]) %}{% for i in range(64) %}{% set ns.l = ns.l + ns.l %}{% "
         "endfor %}",
         "t.jinja:1: the rendering takes more than 268435456 bytes"},
        {"{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = [ns.l, ns.l] %}{% "
         "endfor %}{{ ns.l }}",
         "t.jinja:1: nested too deeply"},
        {"{% set ns = namespace(l=[]) %}{% for i in range(100) %}{% set ns.l = [ns.l, ns.l] %}{% "
         "endfor %}{{ ns.l }}",
         "t.jinja:1: "},
        {"{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", "t.jinja:1: nested too deeply"},
        {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
         "t.jinja:1: the template takes more than 1000000 steps"},
        {"{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}", "t.jinja:1: "},
        {"{{ range(100000)|map('map', 'map')|list }}", "t.jinja:1: "},
        {"{% macro f() %}\n{{ f() }}{% endmacro %}{{ f() }}", "t.jinja:2: nested too deeply"},
        {"{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
         "t.jinja:1: nested too deeply"},
        {"\xff", "t.jinja: not UTF-8"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++)
        check_refused(cases[i][0], strlen(cases[i][0]), QN_E_FORMAT, cases[i][1]);
    char *large = malloc(QN_LIMIT_TEMPLATE_BYTES + 1);
    assert_non_null(large);
    memset(large, ' ', QN_LIMIT_TEMPLATE_BYTES + 1);
    check_refused(large, QN_LIMIT_TEMPLATE_BYTES + 1, QN_E_FORMAT, "a template of 262145 bytes");
    free(large);
}

/* source = head n times, middle, tail n times */
static char *nested(const char *head, size_t n, const char *middle, const char *tail)
{
    char *s = calloc(n * (strlen(head) + strlen(tail)) + strlen(middle) + 1, 1), *p = s;
    assert_non_null(s);
    for (size_t i = 0; i < n; i++)
        p = stpcpy(p, head);
    p = stpcpy(p, middle);
    for (size_t i = 0; i < n; i++)
        p = stpcpy(p, tail);
    return s;
}

static void check_nested(const char *head, size_t n, const char *middle, const char *tail,
                         const char *before, const char *after, const char *message)
{
    char *inside = nested(head, n, middle, tail);
    char *s = calloc(strlen(inside) + strlen(before) + strlen(after) + 1, 1);
    json_t *none = json_object();
    qn_chat_text out = {0};
    assert_non_null(s);
    stpcpy(stpcpy(stpcpy(s, before), inside), after);
    if (message)
        check_refused(s, strlen(s), QN_E_FORMAT, message);
    else
        OK(render(s, strlen(s), none, &out));
    qn_chat_text_fini(&out);
    json_decref(none);
    free(inside);
    free(s);
}

static void check_all_nesting(void)
{
    static const char *const deep = "nested too deeply";
    for (size_t n = 70; n <= 20000; n *= 16) {
        check_nested("(", n, "1", ")", "{{ ", " }}", deep);
        check_nested("[", n, "1", "]", "{{ ", " }}", deep);
        check_nested("{1:", n, "1", "}", "{{ ", " }}", deep);
        check_nested("f(", n, "1", ")", "{{ ", " }}", deep);
        check_nested("x[", n, "1", "]", "{{ ", " }}", deep);
        check_nested("1 if 1 else ", n, "1", "", "{{ ", " }}", deep);
        check_nested("{% if 1 %}", n / 2, "x", "{% endif %}", "", "", n / 2 > 62 ? deep : NULL);
        check_nested("{% for i in 'a' %}", n / 3, "x", "{% endfor %}", "", "",
                     n / 3 > 62 ? deep : NULL);
        check_nested("{% macro m() %}", n / 2, "x", "{% endmacro %}", "", "",
                     n / 2 > 62 ? deep : NULL);
        check_nested("x(1)|f(", n / 2, "1", ")", "{{ ", " }}",
                     n / 2 > 62 ? deep : "'x' is undefined");
    }
    /* chains nest nothing */
    check_nested("1 + ", 20000, "1", "", "{{ ", " }}", NULL);
    check_nested("'' ~ ", 20000, "1", "", "{{ ", " }}", NULL);
    check_nested("not ", 20000, "1", "", "{{ ", " }}", NULL);
    check_nested("- ", 20000, "1", "", "{{ ", " }}", NULL);
    check_nested("1 < 2 and ", 20000, "1", "", "{{ ", " }}", NULL);
    check_nested("", 10000, "1", "|abs", "{{ ", " }}", NULL);
    check_nested("", 20000, "x", ".y", "{{ ", " is defined }}", "'x' is undefined");
    check_nested("{% if 0 %}{% endif %}", 10000, "", "", "", "", NULL);
    check_nested("", 5000, "{% if 0 %}", "{% elif 0 %}", "", "{% endif %}", NULL);
    check_nested("{{", 20000, "", "", "", "", "t.jinja:1: ");
    check_nested("{%", 20000, "", "", "", "", "t.jinja:1: ");
    check_nested("{#", 20000, "", "", "", "", "t.jinja:1: ");
    check_nested("{% raw %}", 20000, "", "", "", "", "t.jinja:1: ");
}

/* Values nested to the limit of JSON: printed, compared, sorted. */
static void check_deep_values(void)
{
    static const char source[] =
        "{{ a }}{{ a|tojson(indent=1) }}{{ a == b }}{{ [a, b]|sort|length }}{{ a|string|length }}";
    char *inside = nested("[", QN_LIMIT_JSON_DEPTH - 4, "1", "]"), *text = NULL;
    qn_chat_text out = {0};
    json_t *variables;
    assert_true(asprintf(&text, "{\"a\": %s, \"b\": %s}", inside, inside) > 0);
    OK(qn_json_parse(&variables, text, strlen(text), 0, "deep", &err));
    OK(render(source, sizeof(source) - 1, variables, &out));
    assert_non_null(strstr(out.text.p, "True2249"));
    qn_chat_text_fini(&out);
    json_decref(variables);
    free(text);
    free(inside);
}

/* As deep as macros go, with the largest frames on the way. */
static void check_deep_macros(void)
{
    static const char source[] =
        "{% macro f(a, b=[1]) %}{% for i in a %}{% if i and (i or f([i])|map('string')|list or 1) "
        "%}"
        "{{ ({'k': [f([i], b=[i])|upper|replace('a', 'b')]}.k[0] ~ 'x')[0:] }}{% endif %}"
        "{% endfor %}{% endmacro %}{{ f([1]) }}";
    check_refused(source, sizeof(source) - 1, QN_E_FORMAT, "nested too deeply");
}

static void *on_small_stack(void *arg)
{
    (void)arg;
    check_all_nesting();
    check_deep_values();
    check_deep_macros();
    return NULL;
}

/* All of it on a stack of 64 KiB (more under a sanitizer, whose frames are larger). */
static void test_stack(void **state)
{
    (void)state;
    pthread_t thread;
    pthread_attr_t attr;
    size_t size = QN_IS_SANITIZED ? 1 << 20 : 64 << 10;
    assert_int_equal(pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstacksize(&attr, size), 0);
    assert_int_equal(pthread_create(&thread, &attr, on_small_stack, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(pthread_attr_destroy(&attr), 0);
}

/* A long conversation stays within the limits: 4,000 messages, 4 MiB. */
static void test_long_conversation(void **state)
{
    (void)state;
    static const char source[] =
        "{% set ns = namespace(last=0) %}{% for m in messages[::-1] %}{% set i = messages|length - "
        "1 - loop.index0 %}"
        "{% if m.role == 'user' and m.content is string and not (m.content.startswith('<a>') and "
        "m.content.endswith('</a>')) %}"
        "{% set ns.last = i %}{% endif %}{% endfor %}{% for m in messages %}{% set content = "
        "m.content|trim %}"
        "{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}{{ '<|im_start|>' + "
        "m.role + '\n' + content + "
        "'<|im_end|>' + '\n' }}{% elif m.role == 'assistant' %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ content }}{% "
        "endif %}{% endfor %}";
    json_t *variables = json_object(), *messages = json_array();
    qn_chat_text out = {0};
    char text[1001];
    memset(text, 'x', 1000);
    text[1000] = 0;
    for (int i = 0; i < 4000; i++)
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role",
                                                  i % 2 ? "assistant" : "user", "content", text));
    json_object_set_new(variables, "messages", messages);
    OK(render(source, sizeof(source) - 1, variables, &out));
    assert_true(out.text.n > 4000000);
    qn_chat_text_fini(&out);
    json_decref(variables);
}

static void test_errors(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"a\nb\n{{ x.y }}", "t.jinja:3: 'x' is undefined"},
        {"{% if 1 %}\n{% for i in 'ab' %}\n{{ i.x.y }}\n{% endfor %}{% endif %}",
         "t.jinja:3: 'str object' has no attribute 'x'"},
        {"{{ 1 +\n\n 'a' }}", "t.jinja:1: unsupported operand types for +: 'int' and 'str'"},
        {"{% if 1 %}\n\n", "t.jinja:2: the template ends where {% endif %} is wanted"},
        {"{% for x in y %}{% endif %}", "t.jinja:1: 'endif' found, {% endfor %} wanted"},
        {"\n{% foo %}", "t.jinja:2: 'foo' found, a known tag wanted"},
        {"{{ (1 }}", "t.jinja:1: a closing bracket without its opening one"},
        {"{{ ? }}", "t.jinja:1: a character that no expression has"},
        {"{{ 'a }}", "t.jinja:1: this string has no end"},
        {"{# a", "t.jinja:1: this comment has no end"},
        {"{{ 1|nope }}", "t.jinja:1: no filter named 'nope'"},
        {"{{ 1 is nope }}", "t.jinja:1: no test named 'nope'"},
        {"{{ 'a'.upper(1) }}", "t.jinja:1: upper() takes at most 0 arguments, 1 given"},
        {"{{ 'a'|replace('b') }}", "t.jinja:1: replace() misses its argument 'new'"},
        {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}",
         "t.jinja:1: macro 'f' takes not more than 1 arguments"},
        {"{% set x.y = 1 %}", "t.jinja:1: cannot assign attribute 'y'"},
        {"{% break %}", "t.jinja:1: 'break' outside of a loop"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++)
        check_refused(cases[i][0], strlen(cases[i][0]), QN_E_FORMAT, cases[i][1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_stack),
        cmocka_unit_test(test_long_conversation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
