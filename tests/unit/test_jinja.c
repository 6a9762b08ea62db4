/* SPDX-License-Identifier: Apache-2.0
 * test_jinja.c - templates of our own against jinja2's renderings; limits; origin of text; hostile templates. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
