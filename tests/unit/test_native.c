/* SPDX-License-Identifier: Apache-2.0
 * test_native.c - packed files: the same bits as from the source, read and mapped; what is refused;
 * damage of every byte of header and table; hostile tables whose sum is right. */
#include "folder.h"
#include "golden.h"

#include "engine/engine.h"
#include "model/native.h"
#include <openssl/evp.h>
#include <unistd.h>

enum { N_IDS = 40 };

static void pack(const char *model, const char *out)
{
    qn_err err;
    const qn_native_options o = {.n_threads = 2, .cpu_mask = ~0u};
    (void)unlink(out);
    if (qn_native_write(model, out, &o, &err) != QN_OK)
        fail_msg("%s: %s", model, err.msg);
}

static qn_config config_of(const char *path)
{
    qn_config c = qn_config_default();
    c.model = path;
    c.n_threads = 2;
    c.max_ctx = 128;
    c.max_seqs = 2;
    c.max_batch_tokens = 32;
    return c;
}

typedef struct rows {
    float *p;
    size_t n;
} rows;

static bool add_row(void *arg, size_t position, const float *logits, size_t n)
{
    (void)position;
    rows *r = arg;
    r->p = qn_realloc(r->p, (r->n + n) * sizeof *r->p, QN_MEM_MISC);
    assert_non_null(r->p);
    memcpy(r->p + r->n, logits, n * sizeof *logits);
    r->n += n;
    return true;
}

/* Every logit of a fixed text. */
static rows logits_of(const qn_config *c)
{
    rows r = {0};
    qn_err err;
    int32_t ids[N_IDS];
    qn_engine *e = open_engine(c);
    for (size_t i = 0; i < N_IDS; i++)
        ids[i] = (int32_t)(i * 7 % 97 + 3);
    if (qn_score(e, ids, N_IDS, 0, add_row, NULL, &r, &err) != QN_OK)
        fail_msg("%s: %s", c->model, err.msg);
    qn_engine_free(e);
    return r;
}

static void check_model(const char *name)
{
    char path[512], packed[256];
    (void)snprintf(path, sizeof path, QN_SOURCE_DIR "/tests/golden/%s", name);
    (void)snprintf(packed, sizeof packed, "%s", path_of("model.qpk"));
    pack(path, packed);
    qn_config c = config_of(path);
    rows want = logits_of(&c);
    assert_true(want.n > N_IDS);
    c.model = packed;
    for (int mapped = 0; mapped < 2; mapped++) {
        c.mmap = mapped;
        rows have = logits_of(&c);
        assert_int_equal(have.n, want.n);
        if (memcmp(have.p, want.p, want.n * sizeof *want.p) != 0)
            fail_msg("%s: other logits than from the source, mapped %d", name, mapped);
        qn_free(have.p);
    }
    qn_free(want.p);
    qn_weights *w = NULL;
    qn_err err;
    assert_int_equal(qn_weights_open(&w, packed, &err), QN_OK);
    assert_int_equal(qn_qpk_check(w, NULL, NULL, &err), QN_OK);
    qn_weights_free(w);
}

static void test_same_bits(void **state)
{
    (void)state;
    static const char *const models[] = {
        "gguf/qwen2.gguf",         "gguf/qwen3.gguf",        "gguf/qwen2moe.gguf",
        "gguf/qwen3moe.gguf",      "models/qwen2-gptq4",     "models/qwen2-gptq4-actorder",
        "models/qwen2-gptq8",      "models/qwen2-awq4",      "models/qwen2-nf4",
        "models/qwen3-fp8",        "models/qwen2-sharded",   "models/qwen3-tied-bf16",
        "models/qwen3-untied-f32", "models/qwen2moe-sparse", "models/qwen3moe-gptq4"};
    for (size_t i = 0; i < QN_COUNT(models); i++)
        check_model(models[i]);
}

static void expect_error(const qn_config *c, qn_status want, const char *part)
{
    qn_engine *e = NULL;
    qn_err err = {0};
    assert_int_equal(qn_engine_open(&e, c, &err), want);
    if (!strstr(err.msg, part) || strchr(err.msg, '\n'))
        fail_msg("'%s' does not say '%s' in one line", err.msg, part);
}

static void test_refused(void **state)
{
    (void)state;
    qn_err err;
    char packed[256];
    const char *gguf = QN_SOURCE_DIR "/tests/golden/gguf/qwen2.gguf";
    const qn_native_options o = {.n_threads = 1, .cpu_mask = ~0u};
    (void)snprintf(packed, sizeof packed, "%s", path_of("model.qpk"));
    pack(gguf, packed);
    qn_config c = config_of(packed);
    c.exact = true;
    expect_error(&c, QN_E_UNSUPPORTED, "for exact results");
    c = config_of(gguf);
    c.mmap = true;
    expect_error(&c, QN_E_ARG, "run quern pack");
    assert_int_equal(qn_native_write(gguf, packed, &o, &err), QN_E_ARG);
    assert_non_null(strstr(err.msg, "is there already"));
    assert_int_equal(qn_native_write(packed, path_of("again.qpk"), &o, &err), QN_E_ARG);
    assert_non_null(strstr(err.msg, "is a packed file already"));
    assert_false(qn_file_exists(path_of("again.qpk")));
}

/* ---- damage ---- */

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get_u64(const uint8_t *p)
{
    return get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

/* The header's sum, for bytes that were changed. */
static void sign(uint8_t *data, size_t n)
{
    uint64_t at = get_u64(data + 32), bytes = get_u64(data + 40);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    assert_non_null(md);
    if (at <= n && bytes <= n - at) {
        assert_int_equal(EVP_DigestInit_ex(md, EVP_sha256(), NULL), 1);
        assert_int_equal(EVP_DigestUpdate(md, data, 96), 1);
        assert_int_equal(EVP_DigestUpdate(md, data + at, bytes), 1);
        assert_int_equal(EVP_DigestFinal_ex(md, data + 96, NULL), 1);
    }
    EVP_MD_CTX_free(md);
}

/* Writes the bytes and opens them as far as an engine; QN_OK: all of it was read. */
static qn_status open_bytes(const uint8_t *data, size_t n, bool whole, qn_err *err)
{
    char path[256];
    qn_weights *w = NULL;
    qn_engine *e = NULL;
    (void)snprintf(path, sizeof path, "%s", path_of("damaged.qpk"));
    assert_int_equal(qn_file_write(path, data, n, err), QN_OK);
    qn_status s = qn_weights_open(&w, path, err);
    if (s == QN_OK && whole) {
        qn_config c = config_of(path);
        s = qn_engine_open(&e, &c, err);
        qn_engine_free(e);
    }
    qn_weights_free(w);
    return s;
}

static void load_packed(qn_str *out, const char *model)
{
    qn_err err;
    char packed[256];
    (void)snprintf(packed, sizeof packed, "%s", path_of("model.qpk"));
    pack(model, packed);
    assert_int_equal(qn_file_read(out, packed, (size_t)64 << 20, &err), QN_OK);
}

static void test_damage(void **state)
{
    (void)state;
    qn_str file = {0};
    qn_err err;
    load_packed(&file, QN_SOURCE_DIR "/tests/golden/models/qwen3-tied-bf16");
    uint8_t *data = (uint8_t *)file.p;
    size_t table = get_u64(data + 32) + get_u64(data + 40);
    size_t live = qn_mem_live(QN_MEM_MISC);
    for (size_t i = 0; i < table; i += i < 128 ? 1 : 41) {
        if (i >= 128 && i < 4096) {
            i = 4096 - 41;
            continue; /* nothing there */
        }
        data[i] ^= 0x10;
        qn_status s = open_bytes(data, file.n, false, &err);
        if (s == QN_OK || strchr(err.msg, '\n'))
            fail_msg("byte %zu changed: status %d", i, (int)s);
        data[i] ^= 0x10;
    }
    for (size_t n = 8; n < file.n; n += n < 200 ? 13 : 99991)
        assert_int_not_equal(open_bytes(data, n, false, &err), QN_OK);
    assert_int_equal(open_bytes(data, file.n, true, &err), QN_OK);
    data[8] = 9; /* version */
    sign(data, file.n);
    assert_int_equal(open_bytes(data, file.n, false, &err), QN_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "run quern pack again"));
    data[8] = QN_QPK_VERSION;
    data[12] ^= 0x55; /* layout */
    sign(data, file.n);
    assert_int_equal(open_bytes(data, file.n, true, &err), QN_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "run quern pack again"));
    assert_int_equal(qn_mem_live(QN_MEM_MISC), live);
    qn_str_fini(&file);
}

/* Data that is not read at opening is found by the check. */
static void test_sums(void **state)
{
    (void)state;
    qn_str file = {0};
    qn_err err;
    qn_weights *w = NULL;
    char path[256];
    load_packed(&file, QN_SOURCE_DIR "/tests/golden/gguf/qwen2.gguf");
    file.p[get_u64((uint8_t *)file.p + 48) + 5] ^= 1; /* of the first panels */
    (void)snprintf(path, sizeof path, "%s", path_of("damaged.qpk"));
    assert_int_equal(qn_file_write(path, file.p, file.n, &err), QN_OK);
    assert_int_equal(qn_weights_open(&w, path, &err), QN_OK);
    assert_int_equal(qn_qpk_check(w, NULL, NULL, &err), QN_E_FORMAT);
    assert_non_null(strstr(err.msg, "SHA-256"));
    qn_weights_free(w);
    qn_str_fini(&file);
}

/* Random changes of header and table under a right sum: an error in one line, or a model that opens;
 * a sanitizer sees the rest. */
static void test_hostile(void **state)
{
    (void)state;
    static const char *const models[] = {"models/qwen3moe-gptq4", "gguf/qwen2.gguf"};
    uint64_t seed = 1;
    for (size_t m = 0; m < QN_COUNT(models); m++) {
        qn_str file = {0};
        qn_err err = {0};
        char model[512];
        (void)snprintf(model, sizeof model, QN_SOURCE_DIR "/tests/golden/%s", models[m]);
        load_packed(&file, model);
        uint8_t *data = (uint8_t *)file.p;
        size_t n_table = get_u64(data + 40), n_good = 0;
        uint8_t *good = qn_alloc(4096 + n_table, QN_MEM_MISC);
        assert_non_null(good);
        memcpy(good, data, 4096 + n_table);
        for (int i = 0; i < 150; i++) {
            for (int k = 0; k < 1 + i % 3; k++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                size_t r = (size_t)(seed >> 33);
                size_t at = i % 4 == 0 ? 8 + r % 88 : 4096 + r % n_table;
                data[at] = (uint8_t)(i % 2 ? seed >> 20 : data[at] ^ 1u << (seed >> 20) % 8);
            }
            sign(data, file.n);
            qn_status s = open_bytes(data, file.n, true, &err);
            n_good += s == QN_OK;
            assert_true(s == QN_OK || !strchr(err.msg, '\n'));
            memcpy(data, good, 4096 + n_table);
        }
        assert_true(n_good > 0 && n_good < 150);
        qn_free(good);
        qn_str_fini(&file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_damage),    cmocka_unit_test(test_sums),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
