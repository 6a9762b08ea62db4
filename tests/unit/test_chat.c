/* SPDX-License-Identifier: Apache-2.0
 * test_chat.c - published templates against the reference's renderings; where templates are found; segments and encoding. */
#include "check.h"

#include "base/mem.h"
#include "format/gguf.h"
#include "text/chat.h"

#include <stdio.h>
#include <string.h>

static qn_err err;
#define OK(expr) ok((expr), __LINE__)
static void ok(qn_status s, int line)
{
    if (s != QN_OK)
        print_error("line %d: %s\n", line, err.msg);
    assert_int_equal(s, QN_OK);
}

static qn_chat_template *template_of(const char *source)
{
    qn_chat_template *t;
    OK(qn_chat_template_new(&t, source, strlen(source), "test.jinja", &err));
    return t;
}

static json_t *json_of(const char *text)
{
    json_t *j;
    OK(qn_json_parse(&j, text, strlen(text), 0, "test", &err));
    return j;
}

/* ---- published templates ---- */

/* The folder of fixtures beside the checkout, or NULL. */
static const char *fixtures(void)
{
    static const char *const places[] = {QN_SOURCE_DIR "/../shared/fixtures",
                                         QN_SOURCE_DIR "/../../shared/fixtures"};
    for (size_t i = 0; i < QN_COUNT(places); i++)
        if (qn_dir_exists(places[i]))
            return places[i];
    return NULL;
}

static json_t *variables_of(const json_t *row)
{
    json_t *v = json_object();
    assert_int_equal(json_object_set(v, "messages", json_object_get(row, "messages")), 0);
    if (json_object_get(row, "tools"))
        assert_int_equal(json_object_set(v, "tools", json_object_get(row, "tools")), 0);
    if (json_object_get(row, "bos_token"))
        assert_int_equal(json_object_set(v, "bos_token", json_object_get(row, "bos_token")), 0);
    assert_int_equal(json_object_set_new(v, "add_generation_prompt", json_true()), 0);
    if (json_object_get(row, "kwargs"))
        assert_int_equal(json_object_update(v, json_object_get(row, "kwargs")), 0);
    return v;
}

static bool check_row(const qn_chat_template *t, const json_t *row)
{
    qn_chat_text out = {0};
    json_t *variables = variables_of(row);
    const json_t *text = json_object_get(row, "text");
    const char *error = json_string_value(json_object_get(row, "error"));
    qn_status s = qn_chat_template_render(t, variables, 0, &out, &err);
    bool same;
    if (error)
        same = s == QN_E_ARG && strstr(err.msg, error);
    else
        same = s == QN_OK && out.text.n == json_string_length(text) &&
               memcmp(out.text.p, json_string_value(text), out.text.n) == 0;
    if (!same)
        print_error("%s, %s: %s\nwant: %s\n", json_string_value(json_object_get(row, "template")),
                    json_string_value(json_object_get(row, "case")),
                    s == QN_OK ? out.text.p : err.msg, error ? error : json_string_value(text));
    qn_chat_text_fini(&out);
    json_decref(variables);
    return same;
}

static void test_published(void **state)
{
    (void)state;
    const char *folder = fixtures();
    char path[1024], name[256] = "";
    qn_str rows = {0}, source = {0};
    qn_chat_template *t = NULL;
    size_t n_rows = 0, n_wrong = 0;
    if (!folder) {
        print_message("skipped: no published templates (../shared/fixtures)\n");
        skip();
    }
    snprintf(path, sizeof(path), "%s/templates.jsonl", folder);
    OK(qn_file_read(&rows, path, 64u << 20, &err));
    for (char *line = rows.p, *end; line < rows.p + rows.n; line = end + 1) {
        json_t *row;
        end = memchr(line, '\n', (size_t)(rows.p + rows.n - line));
        OK(qn_chat_variables_parse(&row, line, (size_t)(end - line), "templates.jsonl", &err));
        const char *file = json_string_value(json_object_get(row, "template"));
        if (strcmp(name, file) != 0) {
            qn_chat_template_free(t);
            snprintf(name, sizeof(name), "%s", file);
            snprintf(path, sizeof(path), "%s/templates/%s", folder, file);
            OK(qn_file_read(&source, path, 1u << 20, &err));
            OK(qn_chat_template_new(&t, source.p, source.n, name, &err));
        }
        n_rows++;
        n_wrong += !check_row(t, row);
        json_decref(row);
    }
    qn_chat_template_free(t);
    qn_str_fini(&rows);
    qn_str_fini(&source);
    print_message("%zu renderings, %zu wrong\n", n_rows, n_wrong);
    assert_true(n_rows > 400);
    assert_int_equal(n_wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
