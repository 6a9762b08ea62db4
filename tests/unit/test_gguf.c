/* SPDX-License-Identifier: Apache-2.0
 * test_gguf.c - good GGUF files, split files, and a battery of broken ones. */
#include "check.h"
#include "folder.h"

#include "format/gguf.h"
#include "tensor/qblock.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- making files ---- */

static void u32(qn_str *g, uint32_t v)
{
    qn_str_add(g, &v, sizeof v);
}

static void u64(qn_str *g, uint64_t v)
{
    qn_str_add(g, &v, sizeof v);
}

static void text(qn_str *g, const char *s)
{
    u64(g, strlen(s));
    qn_str_adds(g, s);
}

static void begin(qn_str *g, uint32_t version, uint64_t n_tensors, uint64_t n_values)
{
    qn_str_clear(g);
    qn_str_add(g, "GGUF", 4);
    u32(g, version);
    u64(g, n_tensors);
    u64(g, n_values);
}

static void key(qn_str *g, const char *name, uint32_t type)
{
    text(g, name);
    u32(g, type);
}

static void key_u32(qn_str *g, const char *name, uint32_t v)
{
    key(g, name, QN_GGUF_U32);
    u32(g, v);
}

static void key_u16(qn_str *g, const char *name, uint16_t v)
{
    key(g, name, QN_GGUF_U16);
    qn_str_add(g, &v, sizeof v);
}

static void array(qn_str *g, const char *name, uint32_t item, uint64_t n)
{
    key(g, name, QN_GGUF_ARRAY);
    u32(g, item);
    u64(g, n);
}

/* dims innermost first; 0 ends */
static void tensor(qn_str *g, const char *name, uint32_t type, uint64_t d0, uint64_t d1,
                   uint64_t offset)
{
    text(g, name);
    u32(g, d1 ? 2 : 1);
    u64(g, d0);
    if (d1)
        u64(g, d1);
    u32(g, type);
    u64(g, offset);
}

static void data(qn_str *g, size_t align, size_t n)
{
    while (g->n % align)
        qn_str_addc(g, 0);
    for (size_t i = 0; i < n; i++)
        qn_str_addc(g, (char)i);
}

/* One value of every type, two tensors. */
static void good(qn_str *g)
{
    begin(g, 3, 2, 16);
    key(g, "general.architecture", QN_GGUF_STRING);
    text(g, "qwen2");
    key(g, "u8", QN_GGUF_U8);
    qn_str_addc(g, (char)200);
    key(g, "i8", QN_GGUF_I8);
    qn_str_addc(g, (char)-100);
    key_u16(g, "u16", 60000);
    key(g, "i16", QN_GGUF_I16);
    qn_str_add(g, &(int16_t){-30000}, 2);
    key_u32(g, "u32", 4000000000u);
    key(g, "i32", QN_GGUF_I32);
    u32(g, (uint32_t)-2000000000);
    key(g, "f32", QN_GGUF_F32);
    qn_str_add(g, &(float){0.5f}, 4);
    key(g, "bool", QN_GGUF_BOOL);
    qn_str_addc(g, 1);
    key(g, "u64", QN_GGUF_U64);
    u64(g, UINT64_MAX);
    key(g, "i64", QN_GGUF_I64);
    u64(g, (uint64_t)INT64_MIN);
    key(g, "f64", QN_GGUF_F64);
    qn_str_add(g, &(double){-2.25}, 8);
    array(g, "words", QN_GGUF_STRING, 3);
    text(g, "a");
    text(g, "");
    text(g, "\xc3\xa9");
    array(g, "numbers", QN_GGUF_I16, 2);
    qn_str_add(g, (int16_t[]){-5, 7}, 4);
    key(g, "nan", QN_GGUF_F32);
    u32(g, 0x7fc00000u);
    key_u32(g, "general.alignment", 64);
    tensor(g, "blk.0.weight", 8, 32, 2, 64); /* Q8_0 [2, 32] */
    tensor(g, "norm", 0, 4, 0, 0);           /* F32 [4] */
    data(g, 64, 64 + 68);
}

/* ---- parsing them ---- */

typedef struct parsed {
    qn_arena arena;
    qn_gguf_meta *meta;
    qn_tensor *tensors;
    size_t n;
    void *copy;
    qn_err err;
    qn_status status;
} parsed;

/* From a block of exactly the file's size, so that a sanitizer sees every step outside. */
static void parse(parsed *p, const char *bytes, size_t n)
{
    *p = (parsed){.copy = malloc(n ? n : 1)};
    assert_non_null(p->copy);
    memcpy(p->copy, n ? bytes : "", n);
    qn_arena_init(&p->arena, QN_LIMIT_MODEL_METADATA, QN_MEM_MISC);
    p->status =
        qn_gguf_parse(p->copy, n, "m.gguf", &p->arena, &p->meta, &p->tensors, &p->n, &p->err);
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

/* An error in one line that names the file, or an object whose tensors can be read. */
static void check_any(const char *bytes, size_t n)
{
    parsed p;
    parse(&p, bytes, n);
    if (p.status != QN_OK) {
        check_message(&p.err);
        assert_int_equal(strncmp(p.err.msg, "m.gguf: ", 8), 0);
        assert_null(p.tensors);
    } else {
        unsigned sum = 0;
        for (size_t i = 0; i < p.n; i++)
            for (size_t k = 0; k < p.tensors[i].bytes; k++)
                sum += ((const uint8_t *)p.tensors[i].data)[k];
        for (size_t i = 0; i < p.meta->n_values; i++) {
            const qn_gguf_value *v = &p.meta->values[i];
            for (size_t k = 0; k < v->n; k++)
                sum += v->strings
                           ? (unsigned)v->strings[k].n
                           : (unsigned)(qn_gguf_item_i64(v, k) + (qn_gguf_item_f64(v, k) > 0));
        }
        assert_true(sum < UINT32_MAX);
    }
    done(&p);
}

/* The file must be refused with this status and these words. */
static void expect(const qn_str *g, qn_status s, const char *words)
{
    parsed p;
    parse(&p, g->p, g->n);
    if (p.status != s || !strstr(p.err.msg, words))
        fail_msg("found %s '%s', want %s '%s'", qn_status_name(p.status), p.err.msg,
                 qn_status_name(s), words);
    check_message(&p.err);
    done(&p);
}

static void test_good(void **state)
{
    (void)state;
    qn_str g = {0};
    parsed p;
    good(&g);
    parse(&p, g.p, g.n);
    if (p.status != QN_OK)
        fail_msg("%s", p.err.msg);
    assert_int_equal(p.meta->version, 3);
    assert_int_equal(p.meta->n_values, 16);
    assert_int_equal(qn_gguf_find(p.meta, "u8")->v.u, 200);
    assert_int_equal(qn_gguf_find(p.meta, "i8")->v.i, -100);
    assert_int_equal(qn_gguf_find(p.meta, "u16")->v.u, 60000);
    assert_int_equal(qn_gguf_find(p.meta, "i16")->v.i, -30000);
    assert_int_equal(qn_gguf_find(p.meta, "u32")->v.u, 4000000000u);
    assert_int_equal(qn_gguf_find(p.meta, "i32")->v.i, -2000000000);
    assert_true(qn_gguf_find(p.meta, "f32")->v.f == 0.5);
    assert_true(qn_gguf_find(p.meta, "u64")->v.u == UINT64_MAX);
    assert_true(qn_gguf_find(p.meta, "i64")->v.i == INT64_MIN);
    assert_true(qn_gguf_find(p.meta, "f64")->v.f == -2.25);
    assert_true(isnan(qn_gguf_find(p.meta, "nan")->v.f));
    assert_null(qn_gguf_find(p.meta, "nope"));
    const qn_gguf_value *words = qn_gguf_find(p.meta, "words"),
                        *numbers = qn_gguf_find(p.meta, "numbers");
    assert_int_equal(words->n, 3);
    assert_true(qn_slice_is(words->strings[0], "a") && words->strings[1].n == 0 &&
                qn_slice_is(words->strings[2], "\xc3\xa9"));
    assert_int_equal(qn_gguf_item_i64(numbers, 0), -5);
    assert_true(qn_gguf_item_f64(numbers, 1) == 7.0);
    assert_int_equal(qn_gguf_item_i64(numbers, 2), 0);
    assert_int_equal(p.n, 2);
    assert_string_equal(p.tensors[0].name, "blk.0.weight");
    assert_int_equal(p.tensors[0].dtype, QN_Q8_0);
    assert_int_equal(p.tensors[0].n_dims, 2);
    assert_int_equal(p.tensors[0].dims[0], 2);
    assert_int_equal(p.tensors[0].dims[1], 32);
    assert_int_equal(p.tensors[0].bytes, 68);
    assert_int_equal(*(const uint8_t *)p.tensors[0].data, 64);
    assert_int_equal(p.tensors[1].bytes, 16);
    assert_int_equal(*(const uint8_t *)p.tensors[1].data, 0);
    done(&p);
    qn_str_fini(&g);
}

static void test_getters(void **state)
{
    (void)state;
    qn_str g = {0};
    parsed p;
    qn_err err = {0};
    uint32_t u = 77;
    float f = 77;
    bool b = false;
    qn_slice s = {0};
    good(&g);
    parse(&p, g.p, g.n);
    const qn_gguf_meta *m = p.meta;
    assert_int_equal(qn_gguf_u32(m, "m", "nope", 0, 9, &u, &err), QN_OK);
    assert_int_equal(u, 77);
    assert_int_equal(qn_gguf_u32(m, "m", "u8", 0, 200, &u, &err), QN_OK);
    assert_int_equal(u, 200);
    assert_int_equal(qn_gguf_u32(m, "m", "u8", 0, 199, &u, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "m: 'u8': found 200, want 0..199");
    assert_int_equal(qn_gguf_u32(m, "m", "i8", 0, 199, &u, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "m: 'i8': found -100, want 0..199");
    assert_int_equal(qn_gguf_u32(m, "m", "u64", 0, UINT32_MAX, &u, &err), QN_E_FORMAT);
    assert_int_equal(qn_gguf_u32(m, "m", "f32", 0, 9, &u, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "m: 'f32': is f32, want an integer");
    assert_int_equal(qn_gguf_f32(m, "m", "f32", 0, 1, &f, &err), QN_OK);
    assert_true(f == 0.5f);
    assert_int_equal(qn_gguf_f32(m, "m", "f64", -3, 0, &f, &err), QN_OK);
    assert_true(f == -2.25f);
    assert_int_equal(qn_gguf_f32(m, "m", "i16", -1e5, 0, &f, &err), QN_OK);
    assert_true(f == -30000.0f);
    assert_int_equal(qn_gguf_f32(m, "m", "nan", -1e30, 1e30, &f, &err), QN_E_FORMAT);
    assert_int_equal(qn_gguf_f32(m, "m", "words", 0, 1, &f, &err), QN_E_FORMAT);
    assert_int_equal(qn_gguf_bool(m, "m", "bool", &b, &err), QN_OK);
    assert_true(b);
    assert_int_equal(qn_gguf_bool(m, "m", "u8", &b, &err), QN_E_FORMAT);
    assert_int_equal(qn_gguf_str(m, "m", "general.architecture", &s, &err), QN_OK);
    assert_true(qn_slice_is(s, "qwen2"));
    assert_int_equal(qn_gguf_str(m, "m", "u8", &s, &err), QN_E_FORMAT);
    assert_string_equal(err.msg, "m: 'u8': is u8, want string");
    done(&p);
    qn_str_fini(&g);
}

/* ---- broken ---- */

static void test_broken_header(void **state)
{
    (void)state;
    qn_str g = {0};
    qn_str_adds(&g, "GGU");
    expect(&g, QN_E_FORMAT, "m.gguf: header: wants 4 bytes, the file has 3 left (at byte 0)");
    qn_str_clear(&g);
    qn_str_adds(&g, "GGML0000000000000000000000000");
    expect(&g, QN_E_FORMAT, "does not start with");
    begin(&g, 1, 0, 0);
    expect(&g, QN_E_UNSUPPORTED, "GGUF version 1");
    begin(&g, 4, 0, 0);
    expect(&g, QN_E_UNSUPPORTED, "GGUF version 4, want 2 or 3");
    begin(&g, 3u << 24, 0, 0);
    expect(&g, QN_E_UNSUPPORTED, "big-endian");
    begin(&g, 3, 0, UINT64_MAX);
    expect(&g, QN_E_FORMAT, "18446744073709551615 metadata values");
    begin(&g, 3, UINT64_MAX / 2, 0);
    expect(&g, QN_E_FORMAT, "9223372036854775807 tensors");
    begin(&g, 3, 0, 65537);
    data(&g, 1, 65537 * 14);
    expect(&g, QN_E_FORMAT, "limit 65536");
    begin(&g, 3, 65537, 0);
    data(&g, 1, 65537 * 33);
    expect(&g, QN_E_FORMAT, "limit 65536");
    qn_str_fini(&g);
}

static void test_broken_values(void **state)
{
    (void)state;
    qn_str g = {0};
    begin(&g, 3, 0, 1);
    key(&g, "k", 13);
    u64(&g, 0);
    expect(&g, QN_E_FORMAT, "'k': value type 13");
    begin(&g, 3, 0, 1);
    key(&g, "", QN_GGUF_U32);
    u64(&g, 0);
    expect(&g, QN_E_FORMAT, "name of 0 bytes");
    begin(&g, 3, 0, 1);
    u64(&g, (uint64_t)1 << 63);
    u64(&g, 0);
    expect(&g, QN_E_FORMAT,
           "metadata value 0: string of 9223372036854775808 bytes, limit 67108864");
    begin(&g, 3, 0, 1);
    u64(&g, 1000);
    u64(&g, 0);
    expect(&g, QN_E_FORMAT, "wants 1000 bytes, the file has 8 left");
    begin(&g, 3, 0, 1);
    key(&g, "\xff\x1b", QN_GGUF_U32);
    u64(&g, 0);
    expect(&g, QN_E_FORMAT, "not UTF-8");
    begin(&g, 3, 0, 2);
    key_u32(&g, "twice", 1);
    key_u32(&g, "twice", 2);
    expect(&g, QN_E_FORMAT, "'twice': key appears twice");
    begin(&g, 3, 0, 1);
    key(&g, "b", QN_GGUF_BOOL);
    qn_str_addc(&g, 2);
    expect(&g, QN_E_FORMAT, "'b': bool is 2");
    begin(&g, 3, 0, 1);
    array(&g, "a", QN_GGUF_ARRAY, 1);
    u64(&g, 0);
    expect(&g, QN_E_UNSUPPORTED, "array of arrays");
    begin(&g, 3, 0, 1);
    array(&g, "a", QN_GGUF_U8, ((uint64_t)1 << 24) + 1);
    expect(&g, QN_E_FORMAT, "limit 16777216");
    begin(&g, 3, 0, 1);
    array(&g, "a", QN_GGUF_U64, 1 << 20);
    u64(&g, 0);
    expect(&g, QN_E_FORMAT, "'a': array of 1048576 items of 8 bytes or more, the file has 8 left");
    begin(&g, 3, 0, 1);
    array(&g, "a", QN_GGUF_STRING, 1 << 24);
    expect(&g, QN_E_FORMAT, "16777216 items");
    begin(&g, 3, 0, 1);
    array(&g, "a", QN_GGUF_STRING, 2);
    text(&g, "x");
    u64(&g, UINT64_MAX);
    expect(&g, QN_E_FORMAT, "string of");
    begin(&g, 3, 0, 1);
    array(&g, "a", 99, 2);
    u64(&g, 0);
    expect(&g, QN_E_FORMAT, "value type 99");
    const uint32_t aligns[] = {0, 1, 4, 24, 131072, UINT32_MAX};
    for (size_t i = 0; i < QN_COUNT(aligns); i++) {
        begin(&g, 3, 0, 1);
        key_u32(&g, "general.alignment", aligns[i]);
        expect(&g, QN_E_FORMAT, "'general.alignment': is ");
    }
    begin(&g, 3, 0, 1);
    key(&g, "general.alignment", QN_GGUF_U64);
    u64(&g, 32);
    expect(&g, QN_E_FORMAT, "'general.alignment': is u64, want u32");
    qn_str_fini(&g);
}

static void test_broken_tensors(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        uint64_t d0, d1, offset;
        qn_status status;
        const char *words;
    } cases[] = {
        {0, 0, 4, 0, QN_E_FORMAT, "tensor 't': dimension 0 is 0"},
        {0, (uint64_t)1 << 63, 2, 0, QN_E_FORMAT, "number of elements overflows"},
        {0, (uint64_t)1 << 62, 0, 0, QN_E_FORMAT, "size in bytes overflows"},
        {0, (uint64_t)1 << 32, (uint64_t)1 << 32, 0, QN_E_FORMAT, "overflows"},
        {12, 128, 2, 0, QN_E_FORMAT, "rows of 128 elements, want a multiple of 256 (Q4_K)"},
        {9, 32, 0, 0, QN_E_UNSUPPORTED, "type 9 (Q8_1)"},
        {31, 32, 0, 0, QN_E_UNSUPPORTED, "type 31 (Q4_0_4_4)"},
        {4000000000u, 32, 0, 0, QN_E_UNSUPPORTED, "type 4000000000 (unknown)"},
        {0, 4, 0, 16, QN_E_FORMAT, "offset 16 is not a multiple of the alignment 32"},
        {0, 4, 0, 8589934592, QN_E_FORMAT, "m.gguf: tensor 't': offset 8589934592 is past the end"},
        {0, 4, 0, UINT64_MAX - 31, QN_E_FORMAT, "is past the end"},
        {0, 1 << 20, 0, 32, QN_E_FORMAT,
         "offset 32 plus 4194304 bytes is past the end (data section of 64 bytes)"},
    };
    qn_str g = {0};
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        begin(&g, 2, 1, 0);
        tensor(&g, "t", cases[i].type, cases[i].d0, cases[i].d1, cases[i].offset);
        data(&g, 32, 64);
        expect(&g, cases[i].status, cases[i].words);
    }
    begin(&g, 3, 2, 0);
    tensor(&g, "a", 0, 16, 0, 0);
    tensor(&g, "b", 0, 4, 0, 32);
    data(&g, 32, 64);
    expect(&g, QN_E_FORMAT, "tensor 'b': offset 32 overlaps tensor 'a'");
    begin(&g, 3, 2, 0);
    tensor(&g, "a", 0, 4, 0, 0);
    tensor(&g, "a", 0, 4, 0, 32);
    data(&g, 32, 64);
    expect(&g, QN_E_FORMAT, "tensor 'a': name appears twice");
    const uint32_t n_dims[] = {0, 5, UINT32_MAX};
    for (size_t i = 0; i < QN_COUNT(n_dims); i++) {
        begin(&g, 3, 1, 0);
        text(&g, "t");
        u32(&g, n_dims[i]);
        data(&g, 1, 64);
        expect(&g, QN_E_FORMAT, "dimensions, want 1..4");
    }
    qn_str_fini(&g);
}

static void test_mutations(void **state)
{
    (void)state;
    qn_str g = {0};
    good(&g);
    for (size_t n = 0; n <= g.n; n++)
        check_any(g.p, n);
    for (size_t at = 0; at < g.n; at++) {
        char was = g.p[at];
        for (int bit = 0; bit < 8; bit++) {
            g.p[at] = (char)(was ^ 1 << bit);
            check_any(g.p, g.n);
        }
        g.p[at] = was;
        char saved[8];
        size_t n = QN_MIN(g.n - at, sizeof saved);
        memcpy(saved, g.p + at, n);
        memset(g.p + at, 0xff, n);
        check_any(g.p, g.n);
        memset(g.p + at, 0, n);
        check_any(g.p, g.n);
        memcpy(g.p + at, saved, n);
    }
    qn_str_fini(&g);
}

/* ---- files ---- */

static void write_file(const char *name, const qn_str *g)
{
    assert_int_equal(qn_file_write(path_of(name), g->p, g->n, NULL), QN_OK);
}

static void expect_open(const char *path, qn_status s, const char *words)
{
    qn_weights *w;
    qn_err err = {0};
    size_t live = qn_mem_live(QN_MEM_MISC);
    qn_status got = qn_weights_open(&w, path, &err);
    if (got != s || !strstr(err.msg, words))
        fail_msg("found %s '%s', want %s '%s'", qn_status_name(got), err.msg, qn_status_name(s),
                 words);
    check_message(&err);
    assert_null(w);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), live);
}

static void test_models(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen2", "qwen3", "qwen2moe", "qwen3moe"};
    for (size_t k = 0; k < QN_COUNT(names); k++) {
        char path[512];
        qn_weights *w;
        qn_err err = {0};
        qn_slice arch = {0};
        size_t live = qn_mem_live(QN_MEM_MISC);
        (void)snprintf(path, sizeof path, QN_SOURCE_DIR "/tests/golden/gguf/%s.gguf", names[k]);
        assert_int_equal(qn_weights_open(&w, path, &err), QN_OK);
        assert_int_equal(w->format, QN_FORMAT_GGUF);
        assert_int_equal(qn_gguf_str(w->gguf, path, "general.architecture", &arch, &err), QN_OK);
        assert_true(qn_slice_is(arch, names[k]));
        for (size_t i = 0; i < w->n_tensors; i++)
            assert_ptr_equal(qn_weights_find(w, w->tensors[i].name), &w->tensors[i]);
        assert_null(qn_weights_find(w, "blk.0.attn_q"));
        const qn_tensor *t = qn_weights_find(w, "token_embd.weight");
        assert_non_null(t);
        assert_int_equal(t->n_dims, 2);
        assert_int_equal(t->dims[1], 64);
        assert_int_equal(t->dims[0], qn_gguf_find(w->gguf, "tokenizer.ggml.tokens")->n);
        qn_weights_free(w);
        assert_int_equal(qn_mem_live(QN_MEM_MISC), live);
    }
}

/* A real header cut and bent at many places. */
static void test_model_mutations(void **state)
{
    (void)state;
    qn_str g = {0};
    assert_int_equal(qn_file_read(&g, QN_SOURCE_DIR "/tests/golden/gguf/qwen2.gguf", 1 << 20, NULL),
                     QN_OK);
    for (size_t i = 0; i < 50; i++)
        check_any(g.p, g.n * i / 50);
    uint64_t random = 1;
    for (int i = 0; i < 300; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        size_t at = (size_t)(random >> 33) % 16000;
        char was = g.p[at];
        g.p[at] = (char)(was ^ 1 << (random >> 30 & 7));
        check_any(g.p, g.n);
        g.p[at] = was;
    }
    qn_str_fini(&g);
}

/* Part `no` of `count`, with one tensor. */
static void part(qn_str *g, uint16_t no, uint16_t count, uint32_t n_all, const char *name)
{
    begin(g, 3, 1, 3);
    key_u16(g, "split.no", no);
    key_u16(g, "split.count", count);
    key(g, "split.tensors.count", QN_GGUF_I32);
    u32(g, n_all);
    tensor(g, name, 0, 4, 0, 0);
    data(g, 32, 16);
}

static void write_parts(uint32_t n_all)
{
    qn_str g = {0};
    part(&g, 0, 3, n_all, "a");
    write_file("m-00001-of-00003.gguf", &g);
    part(&g, 1, 3, n_all, "b");
    write_file("m-00002-of-00003.gguf", &g);
    part(&g, 2, 3, n_all, "c");
    write_file("m-00003-of-00003.gguf", &g);
    qn_str_fini(&g);
}

static void test_split(void **state)
{
    (void)state;
    qn_str g = {0};
    qn_weights *w;
    qn_err err = {0};
    char first[256];
    (void)snprintf(first, sizeof first, "%s", path_of("m-00001-of-00003.gguf"));
    write_parts(3);
    assert_int_equal(qn_weights_open(&w, first, &err), QN_OK);
    assert_int_equal(w->n_tensors, 3);
    assert_int_equal(w->n_files, 3);
    assert_string_equal(w->tensors[2].name, "c");
    assert_non_null(qn_weights_find(w, "b"));
    qn_weights_free(w);

    expect_open(path_of("m-00002-of-00003.gguf"), QN_E_ARG, "part 2 of 3; open the first");
    write_parts(4);
    expect_open(first, QN_E_FORMAT, "split.tensors.count is 4, the 3 parts hold 3");
    write_parts(3);
    part(&g, 1, 2, 3, "b");
    write_file("m-00002-of-00003.gguf", &g);
    expect_open(first, QN_E_FORMAT, "m-00002-of-00003.gguf: split.count is 2");
    part(&g, 2, 3, 3, "b");
    write_file("m-00002-of-00003.gguf", &g);
    expect_open(first, QN_E_FORMAT, "m-00002-of-00003.gguf: split.no is 2, want 1");
    part(&g, 1, 3, 3, "a");
    write_file("m-00002-of-00003.gguf", &g);
    expect_open(first, QN_E_FORMAT, "m-00002-of-00003.gguf: tensor 'a': another file has it too");
    assert_int_equal(unlink(path_of("m-00002-of-00003.gguf")), 0);
    expect_open(first, QN_E_NOT_FOUND, "part 2 of 3: ");
    part(&g, 0, 3, 3, "a");
    write_file("other.gguf", &g);
    expect_open(path_of("other.gguf"), QN_E_FORMAT, "not named ...-00001-of-00003.gguf");
    part(&g, 0, 60000, 3, "a");
    write_file("other.gguf", &g);
    expect_open(path_of("other.gguf"), QN_E_FORMAT, "'split.count': found 60000, want 0..1024");
    qn_str_fini(&g);
}

static void test_not_a_model(void **state)
{
    (void)state;
    static const struct {
        const char *name, *bytes, *words;
        qn_status status;
    } cases[] = {
        {"x.safetensors", "\x10\0\0\0\0\0\0\0{}", "give the folder", QN_E_ARG},
        {"x.bin", "PK\x03\x04zip", "pickle", QN_E_UNSUPPORTED},
        {"x.pt", "\x80\x02pickle", "pickle", QN_E_UNSUPPORTED},
        {"x.ggml", "lmgg....", "old ggml file", QN_E_UNSUPPORTED},
        {"x.gguf", "version https://git-lfs.github.com/spec/v1", "Git LFS pointer",
         QN_E_UNSUPPORTED},
        {"y.gguf", "hello", "not a GGUF file", QN_E_FORMAT},
        {"z.gguf", "GGUF", "z.gguf: header: wants 4 bytes", QN_E_FORMAT},
    };
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        assert_int_equal(
            qn_file_write(path_of(cases[i].name), cases[i].bytes, strlen(cases[i].bytes), NULL),
            QN_OK);
        expect_open(path_of(cases[i].name), cases[i].status, cases[i].words);
    }
    assert_int_equal(qn_file_write(path_of("empty.gguf"), "", 0, NULL), QN_OK);
    expect_open(path_of("empty.gguf"), QN_E_FORMAT, "the file is empty");
    expect_open(path_of("missing.gguf"), QN_E_NOT_FOUND, "missing.gguf: cannot open");
    assert_int_equal(mkfifo(path_of("pipe.gguf"), 0600), 0);
    expect_open(path_of("pipe.gguf"), QN_E_IO, "is a pipe");
    expect_open(dir, QN_E_NOT_FOUND, "no config.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),           cmocka_unit_test(test_getters),
        cmocka_unit_test(test_broken_header),  cmocka_unit_test(test_broken_values),
        cmocka_unit_test(test_broken_tensors), cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_models),         cmocka_unit_test(test_model_mutations),
        cmocka_unit_test(test_split),          cmocka_unit_test(test_not_a_model),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
