/* SPDX-License-Identifier: Apache-2.0
 * test_safetensors.c - good and broken safetensors files, folders and shard indexes. */
#include "check.h"
#include "folder.h"

#include "format/safetensors.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- one file ---- */

/* The file with this header and n bytes of data. */
static void build(qn_str *g, const char *header, size_t n)
{
    uint64_t length = strlen(header);
    qn_str_clear(g);
    qn_str_add(g, &length, sizeof length);
    qn_str_adds(g, header);
    for (size_t i = 0; i < n; i++)
        qn_str_addc(g, (char)i);
}

typedef struct parsed {
    qn_arena arena;
    qn_tensor *tensors;
    size_t n;
    void *copy;
    qn_err err;
    qn_status status;
} parsed;

static void parse(parsed *p, const char *bytes, size_t n)
{
    *p = (parsed){.copy = malloc(n ? n : 1)};
    assert_non_null(p->copy);
    memcpy(p->copy, n ? bytes : "", n);
    qn_arena_init(&p->arena, QN_LIMIT_MODEL_METADATA, QN_MEM_MISC);
    p->status =
        qn_safetensors_parse(p->copy, n, "m.safetensors", &p->arena, &p->tensors, &p->n, &p->err);
}

static void done(parsed *p)
{
    qn_arena_fini(&p->arena);
    free(p->copy);
}

static void check_message(const qn_err *e)
{
    size_t n = strlen(e->msg);
    assert_in_range(n, 8, 399);
    for (size_t i = 0; i < n; i++)
        assert_true((unsigned char)e->msg[i] >= 0x20);
}

static void check_any(const char *bytes, size_t n)
{
    parsed p;
    parse(&p, bytes, n);
    if (p.status != QN_OK) {
        check_message(&p.err);
        assert_int_equal(strncmp(p.err.msg, "m.safetensors: ", 15), 0);
        assert_null(p.tensors);
    } else {
        unsigned sum = 0;
        for (size_t i = 0; i < p.n; i++)
            for (size_t k = 0; k < p.tensors[i].bytes; k++)
                sum += ((const uint8_t *)p.tensors[i].data)[k];
        assert_true(sum < UINT32_MAX);
    }
    done(&p);
}

static void expect(const char *header, size_t n, qn_status s, const char *words)
{
    qn_str g = {0};
    parsed p;
    build(&g, header, n);
    parse(&p, g.p, g.n);
    if (p.status != s || !strstr(p.err.msg, words))
        fail_msg("%s: found %s '%s', want %s '%s'", header, qn_status_name(p.status), p.err.msg,
                 qn_status_name(s), words);
    check_message(&p.err);
    done(&p);
    qn_str_fini(&g);
}

#define GOOD                                                                                       \
    "{\"__metadata__\":{\"format\":\"pt\"},"                                                       \
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"                          \
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"                              \
    "\"none\":{\"dtype\":\"I8\",\"shape\":[0,7],\"data_offsets\":[20,20]},"                        \
    "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[20,21]}}   "

static void test_good(void **state)
{
    (void)state;
    qn_str g = {0};
    parsed p;
    build(&g, GOOD, 21);
    parse(&p, g.p, g.n);
    if (p.status != QN_OK)
        fail_msg("%s", p.err.msg);
    assert_int_equal(p.n, 4);
    assert_string_equal(p.tensors[0].name, "a");
    assert_int_equal(p.tensors[0].dtype, QN_F32);
    assert_int_equal(p.tensors[0].bytes, 8);
    assert_string_equal(p.tensors[1].name, "b");
    assert_int_equal(p.tensors[1].n_dims, 2);
    assert_int_equal(p.tensors[1].dims[0], 2);
    assert_int_equal(p.tensors[1].dims[1], 3);
    assert_int_equal(*(const uint8_t *)p.tensors[1].data, 8);
    assert_string_equal(p.tensors[2].name, "none");
    assert_int_equal(p.tensors[2].bytes, 0);
    assert_string_equal(p.tensors[3].name, "one");
    assert_int_equal(p.tensors[3].n_dims, 0);
    assert_int_equal(*(const uint8_t *)p.tensors[3].data, 20);
    done(&p);
    build(&g, "{}", 0);
    parse(&p, g.p, g.n);
    assert_int_equal(p.status, QN_OK);
    assert_int_equal(p.n, 0);
    done(&p);
    qn_str_fini(&g);
}

#define ONE(dtype, shape, offsets)                                                                 \
    "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void test_broken(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t n;
        qn_status status;
        const char *words;
    } cases[] = {
        {"", 8, QN_E_FORMAT, "header does not start with '{'"},
        {" {}", 0, QN_E_FORMAT, "header does not start with '{'"},
        {"{", 0, QN_E_FORMAT, "found the header's end, want a tensor name"},
        {"{} x", 0, QN_E_FORMAT,
         "m.safetensors: header: found 'x', want nothing behind the object (at byte 11)"},
        {"{\"t\"", 0, QN_E_FORMAT, "found the header's end, want ':'"},
        {"{\"t", 0, QN_E_FORMAT, "found the header's end, want the end of a string"},
        {"{\"t\\", 0, QN_E_FORMAT, "found the header's end, want the end of a string"},
        {"{\"t\":NaN}", 0, QN_E_FORMAT, "tensor 't': found 'N', want an object"},
        {"{\"\xff\":{}}", 0, QN_E_FORMAT, "string is not UTF-8"},
        {"{\"a\nb\":{}}", 0, QN_E_FORMAT, "control byte in a string"},
        {"{\"\\x\":{}}", 0, QN_E_FORMAT, "bad escape"},
        {"{\"\\u12g4\":{}}", 0, QN_E_FORMAT, "bad escape"},
        {"{\"\\ud800\":{}}", 0, QN_E_FORMAT, "bad escape"},
        {"{\"\\udc00\":{}}", 0, QN_E_FORMAT, "bad escape"},
        {"{\"\\ud800\\u0041\":{}}", 0, QN_E_FORMAT, "bad escape"},
        {"{\"\\u0000\":{}}", 0, QN_E_FORMAT, "without NUL"},
        {"{\"t\":[[[[[[[[[[]]]]]]]]]]}", 0, QN_E_FORMAT,
         "m.safetensors: tensor 't': found '[', want an object (at byte 13)"},
        {"{\"t\":3}", 0, QN_E_FORMAT, "m.safetensors: tensor 't': found '3', want an object"},
        {"{\"t\":{}}", 0, QN_E_FORMAT, "tensor 't': has no dtype"},
        {"{\"t\":{\"dtype\":\"F32\"}}", 0, QN_E_FORMAT, "tensor 't': has no shape"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[]}}", 0, QN_E_FORMAT,
         "tensor 't': has no data_offsets"},
        {"{\"t\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 0, QN_E_FORMAT,
         "tensor 't': dtype: appears twice"},
        {"{\"\":{}}", 0, QN_E_FORMAT, "name of 0 bytes"},
        {"{\"__metadata__\":3}", 0, QN_E_FORMAT, "__metadata__: found '3', want an object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, QN_E_FORMAT, "__metadata__: found '1', want a string"},
        {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, QN_E_FORMAT,
         "__metadata__: a key appears twice"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, QN_E_FORMAT,
         "__metadata__: appears twice"},
        {"{\"__metadata__\":{},}", 0, QN_E_FORMAT, "found '}', want a tensor name"},
        {ONE("\"F32\"", "[2]", "[0,8]"), 9, QN_E_FORMAT,
         "the tensors end at 8, the data section has 9 bytes"},
        {ONE("\"F32\"", "[2]", "[1,9]"), 9, QN_E_FORMAT,
         "tensor 't': begins at 1, the tensor before it ends at 0"},
        {ONE("\"F32\"", "[2]", "[0,8]"), 7, QN_E_FORMAT,
         "[0, 8] are past the end (data section of 7 bytes)"},
        {ONE("\"F32\"", "[2]", "[8,0]"), 8, QN_E_FORMAT, "data_offsets [8, 0]"},
        {ONE("\"F32\"", "[3]", "[0,8]"), 8, QN_E_FORMAT,
         "data_offsets span 8 bytes, dtype and shape want 12"},
        {ONE("\"F32\"", "[2]", "[0]"), 8, QN_E_FORMAT,
         "tensor 't': data_offsets: found ']', want ','"},
        {ONE("\"F32\"", "[2]", "[0,8,9]"), 8, QN_E_FORMAT, "data_offsets: found ',', want ']'"},
        {ONE("\"F32\"", "[2]", "[0,8.0]"), 8, QN_E_FORMAT, "data_offsets: want a size, an integer"},
        {ONE("\"F32\"", "[2]", "[0,8e0]"), 8, QN_E_FORMAT, "data_offsets: want a size, an integer"},
        {ONE("\"F32\"", "[2]", "[0,08]"), 8, QN_E_FORMAT, "data_offsets: want a size, an integer"},
        {ONE("\"F32\"", "[2]", "[-8,0]"), 8, QN_E_FORMAT, "data_offsets: found '-', want a size"},
        {ONE("\"F32\"", "[2]", "\"0\""), 8, QN_E_FORMAT,
         "data_offsets: found '\"', want [begin, end]"},
        {ONE("\"F32\"", "[-2]", "[0,8]"), 8, QN_E_FORMAT, "shape: found '-', want a size"},
        {ONE("\"F32\"", "[true]", "[0,8]"), 8, QN_E_FORMAT, "shape: found 't', want a size"},
        {ONE("\"F32\"", "[2,]", "[0,8]"), 8, QN_E_FORMAT, "shape: found ']', want a size"},
        {ONE("\"F32\"", "2", "[0,8]"), 8, QN_E_FORMAT, "shape: found '2', want an array"},
        {ONE("\"F32\"", "[4611686018427387904,4]", "[0,8]"), 8, QN_E_FORMAT, "overflows"},
        {ONE("\"F32\"", "[4611686018427387905]", "[0,4]"), 4, QN_E_FORMAT, "overflows"},
        {ONE("\"F32\"", "[18446744073709551616]", "[0,8]"), 8, QN_E_FORMAT,
         "shape: number is too large"},
        {ONE("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8, QN_E_UNSUPPORTED,
         "shape: more than 8 dimensions"},
        {ONE("\"f32\"", "[2]", "[0,8]"), 8, QN_E_FORMAT, "dtype: 'f32' is not read here"},
        {ONE("\"F32\\u0000\"", "[2]", "[0,8]"), 8, QN_E_FORMAT, "dtype: 'F32' is not read here"},
        {ONE("\"F8_E5M2\"", "[8]", "[0,8]"), 8, QN_E_UNSUPPORTED,
         "dtype: 'F8_E5M2' is not read here"},
        {ONE("7", "[8]", "[0,8]"), 8, QN_E_FORMAT, "dtype: found '7', want a string"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1, QN_E_FORMAT,
         "tensor 't': field 'x', want dtype"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"t\":{\"dtype\":\"U8\","
         "\"shape\":[1],"
         "\"data_offsets\":[1,2]}}",
         2, QN_E_FORMAT, "tensor 't': name appears twice"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"\\u0074\":{\"dtype\":"
         "\"U8\",\"shape\":[1],"
         "\"data_offsets\":[1,2]}}",
         2, QN_E_FORMAT, "tensor 't': name appears twice"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"u\":{\"dtype\":\"U8\","
         "\"shape\":[2],"
         "\"data_offsets\":[1,3]}}",
         3, QN_E_FORMAT, "tensor 'u': begins at 1, the tensor before it ends at 2"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"u\":{\"dtype\":\"U8\","
         "\"shape\":[2],"
         "\"data_offsets\":[0,2]}}",
         2, QN_E_FORMAT, "begins at 0, the tensor before it ends at 2"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"u\":{\"dtype\":\"U8\","
         "\"shape\":[1],"
         "\"data_offsets\":[2,3]}}",
         3, QN_E_FORMAT, "tensor 'u': begins at 2"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++)
        expect(cases[i].header, cases[i].n, cases[i].status, cases[i].words);
}

static void test_broken_length(void **state)
{
    (void)state;
    static const struct {
        uint64_t length;
        size_t n;
        const char *words;
    } cases[] = {
        {0, 8, "does not start with '{'"},
        {3, 10, "header: wants 3 bytes, the file has 2 left"},
        {UINT64_MAX, 10, "header of 18446744073709551615 bytes, limit 100000000"},
        {100000001, 10, "limit 100000000"},
        {100000000, 10, "wants 100000000 bytes, the file has 2 left"},
        {2, 7, "header: wants 8 bytes, the file has 7 left"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        char bytes[16] = {0};
        parsed p;
        memcpy(bytes, &cases[i].length, 8);
        memcpy(bytes + 8, "{}", 2);
        parse(&p, bytes, cases[i].n);
        assert_int_equal(p.status, QN_E_FORMAT);
        if (!strstr(p.err.msg, cases[i].words))
            fail_msg("found '%s', want '%s'", p.err.msg, cases[i].words);
        done(&p);
    }
}

static void test_mutations(void **state)
{
    (void)state;
    qn_str g = {0};
    build(&g, GOOD, 21);
    for (size_t n = 0; n <= g.n; n++)
        check_any(g.p, n);
    for (size_t at = 0; at < g.n; at++) {
        char was = g.p[at];
        for (int v = 0; v < 256; v += v < 128 ? 1 : 17) {
            g.p[at] = (char)v;
            check_any(g.p, g.n);
        }
        g.p[at] = was;
    }
    qn_str_fini(&g);
}

/* Names as JSON may write them. */
static void test_names(void **state)
{
    (void)state;
    static const char want[] = "a\"\\/\b\f\n\r\t\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"
                               "b";
    qn_str g = {0};
    parsed p;
    build(&g, ONE("\"U8\"", " [ 1 ] ", "[ 0 ,\n1\t]") " \r\n", 1);
    parse(&p, g.p, g.n);
    assert_int_equal(p.status, QN_OK);
    done(&p);
    build(&g,
          "{ \"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20AC\\ud83d\\uDE00b\" : "
          "{\"shape\":[],\"data_offsets\":[0,1],\"dtype\":\"BOOL\"} }",
          1);
    parse(&p, g.p, g.n);
    if (p.status != QN_OK)
        fail_msg("%s", p.err.msg);
    assert_string_equal(p.tensors[0].name, want);
    done(&p);
    qn_str_fini(&g);
}

/* Many tensors are read in place and in order; too many keys of metadata are refused. */
static void test_many(void **state)
{
    (void)state;
    qn_str h = {0}, g = {0};
    parsed p;
    enum { N = 20000 };
    qn_str_adds(&h, "{\"first\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}");
    for (int i = 0; i < N; i++)
        qn_str_addf(&h, ",\"t%d\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[%d,%d]}", i,
                    N - 1 - i, N - i);
    qn_str_adds(&h, "}");
    build(&g, h.p, N);
    parse(&p, g.p, g.n);
    assert_int_equal(p.status, QN_OK);
    assert_int_equal(p.n, N + 1);
    assert_string_equal(p.tensors[0].name, "first");
    assert_string_equal(p.tensors[1].name, "t19999");
    assert_string_equal(p.tensors[N].name, "t0");
    done(&p);
    qn_str_clear(&h);
    qn_str_adds(&h, "{\"__metadata__\":{\"k\":\"v\"");
    for (int i = 0; i < 65536; i++)
        qn_str_addf(&h, ",\"%d\":\"\"", i);
    qn_str_adds(&h, "}}");
    expect(h.p, 0, QN_E_FORMAT, "__metadata__: more than 65536 keys");
    qn_str_fini(&h);
    qn_str_fini(&g);
}

/* ---- folders ---- */

static void write_text(const char *name, const char *text)
{
    assert_int_equal(qn_file_write(path_of(name), text, strlen(text), NULL), QN_OK);
}

/* A file of one tensor of two F32, its data at a multiple of 8 only if the header is padded. */
static void write_shard(const char *name, const char *tensor, bool is_padded)
{
    qn_str h = {0}, g = {0};
    qn_str_addf(&h, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", tensor);
    while (h.n % 8 != (is_padded ? 0u : 3u))
        qn_str_addc(&h, ' ');
    build(&g, h.p, 0);
    qn_str_add(&g, (float[]){1.5f, -2.0f}, 8);
    assert_int_equal(qn_file_write(path_of(name), g.p, g.n, NULL), QN_OK);
    qn_str_fini(&h);
    qn_str_fini(&g);
}

static void expect_open(qn_status s, const char *words)
{
    qn_weights *w;
    qn_err err = {0};
    size_t live = qn_mem_live(QN_MEM_MISC);
    qn_status got = qn_weights_open(&w, dir, &err);
    if (got != s || !strstr(err.msg, words))
        fail_msg("found %s '%s', want %s '%s'", qn_status_name(got), err.msg, qn_status_name(s),
                 words);
    check_message(&err);
    assert_null(w);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), live);
}

static qn_weights *open_good(void)
{
    qn_weights *w;
    qn_err err = {0};
    if (qn_weights_open(&w, dir, &err) != QN_OK)
        fail_msg("%s", err.msg);
    return w;
}

static void test_folder(void **state)
{
    (void)state;
    expect_open(QN_E_NOT_FOUND, "no config.json");
    write_text("config.json", "[]");
    expect_open(QN_E_FORMAT, "config.json: found an array, want an object");
    write_text("config.json", "{\"a\":1,}");
    expect_open(QN_E_FORMAT, "config.json: not valid JSON");
    write_text("config.json", "{\"model_type\":\"qwen2\"}");
    expect_open(QN_E_NOT_FOUND, "no model.safetensors");
    write_text("pytorch_model.bin", "PK");
    expect_open(QN_E_UNSUPPORTED, "pickle");
    write_text("generation_config.json", "7");
    expect_open(QN_E_FORMAT, "generation_config.json: found an integer");
    write_text("generation_config.json", "{\"top_k\":20}");
    write_text("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00");
    expect_open(QN_E_FORMAT, "model.safetensors: is a Git LFS pointer");
    write_text("model.safetensors", "");
    expect_open(QN_E_FORMAT, "model.safetensors: the file is empty");
    for (int padded = 0; padded < 2; padded++) {
        write_shard("model.safetensors", "norm", padded);
        qn_weights *w = open_good();
        assert_int_equal(w->format, QN_FORMAT_HF);
        assert_non_null(w->config);
        assert_int_equal(json_integer_value(json_object_get(w->generation_config, "top_k")), 20);
        const qn_tensor *t = qn_weights_find(w, "norm");
        assert_non_null(t);
        assert_int_equal((uintptr_t)t->data % 4, 0);
        assert_true(((const float *)t->data)[0] == 1.5f && ((const float *)t->data)[1] == -2.0f);
        assert_null(qn_weights_find(w, "norm2"));
        qn_weights_free(w);
    }
    assert_int_equal(unlink(path_of("model.safetensors")), 0);
    assert_int_equal(unlink(path_of("generation_config.json")), 0);
}

#define INDEX      "model.safetensors.index.json"
#define SHARD(i)   "model-0000" #i "-of-00002.safetensors"
#define MAP(pairs) "{\"metadata\":{},\"weight_map\":{" pairs "}}"

static void test_shards(void **state)
{
    (void)state;
    write_text("config.json", "{}");
    write_shard(SHARD(1), "a", true);
    write_shard(SHARD(2), "b", true);
    write_text(INDEX, MAP("\"b\":\"" SHARD(2) "\",\"a\":\"" SHARD(1) "\""));
    qn_weights *w = open_good();
    assert_int_equal(w->n_files, 2);
    assert_int_equal(w->n_tensors, 2);
    assert_string_equal(w->tensors[0].name, "a");
    assert_non_null(qn_weights_find(w, "b"));
    qn_weights_free(w);

    static const struct {
        const char *index;
        qn_status status;
        const char *words;
    } cases[] = {
        {"[]", QN_E_FORMAT, INDEX ": found an array"},
        {"{}", QN_E_FORMAT, "weight_map: found nothing, want an object"},
        {MAP(""), QN_E_FORMAT, "weight_map: found nothing in it"},
        {MAP("\"a\":3"), QN_E_FORMAT, "weight_map: 'a': found an integer, want a file name"},
        {MAP("\"a\":\"../../etc/passwd\""), QN_E_FORMAT, "does not end in .safetensors"},
        {MAP("\"a\":\"../x.safetensors\""), QN_E_FORMAT,
         "'../x.safetensors' is not a plain file name"},
        {MAP("\"a\":\".safetensors\""), QN_E_FORMAT, "is not a plain file name"},
        {MAP("\"a\":\"/x.safetensors\""), QN_E_FORMAT, "is not a plain file name"},
        {MAP("\"a\":\"x\\u0000.safetensors\""), QN_E_FORMAT, "want a file name"},
        {MAP("\"a\":\"missing.safetensors\""), QN_E_NOT_FOUND, "missing.safetensors: cannot open"},
        {MAP("\"a\":\"" SHARD(1) "\",\"b\":\"" SHARD(1) "\""), QN_E_FORMAT,
         "tensor 'b' is not in '" SHARD(1) "'"},
        {MAP("\"a\":\"" SHARD(2) "\",\"b\":\"" SHARD(1) "\""), QN_E_FORMAT,
         SHARD(1) ": tensor 'a': weight_map of the index has it in " SHARD(2)},
        {MAP("\"b\":\"" SHARD(1) "\""), QN_E_FORMAT,
         "tensor 'a': weight_map of the index has it nowhere"},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        write_text(INDEX, cases[i].index);
        expect_open(cases[i].status, cases[i].words);
    }
    qn_str many = {0};
    qn_str_adds(&many, "{\"weight_map\":{\"x\":\"x.safetensors\"");
    for (int i = 0; i < QN_LIMIT_SHARDS; i++)
        qn_str_addf(&many, ",\"t%d\":\"s%d.safetensors\"", i, i);
    qn_str_adds(&many, "}}");
    write_text(INDEX, many.p);
    expect_open(QN_E_FORMAT, "more than 1024 files");
    qn_str_fini(&many);
    assert_int_equal(unlink(path_of(INDEX)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),          cmocka_unit_test(test_broken),
        cmocka_unit_test(test_broken_length), cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_names),         cmocka_unit_test(test_many),
        cmocka_unit_test(test_folder),        cmocka_unit_test(test_shards),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
