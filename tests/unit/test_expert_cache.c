/* SPDX-License-Identifier: Apache-2.0
 * test_expert_cache.c - experts that stay in a packed file: the same bits with room for all, a third, and those of one row; what is
 * counted; limits that are too small; a file that cannot be read. */
#include "folder.h"
#include "golden.h"

#include "engine/engine.h"
#include "model/native.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_IDS = 60 };

static qn_config config_of(const char *path, uint64_t limit)
{
    qn_config c = qn_config_default();
    c.model = path;
    c.n_threads = 2;
    c.max_ctx = 128;
    c.max_seqs = 2;
    c.max_batch_tokens = 64;
    c.mem_limit = limit;
    return c;
}

static const char *packed_of(const char *name)
{
    static char packed[256];
    char path[512];
    qn_err err;
    const qn_native_options o = {.n_threads = 2, .cpu_mask = ~0u};
    (void)snprintf(path, sizeof path, QN_SOURCE_DIR "/tests/golden/%s", name);
    (void)snprintf(packed, sizeof packed, "%s", path_of("model.qpk"));
    (void)unlink(packed);
    if (qn_native_write(path, packed, &o, &err) != QN_OK)
        fail_msg("%s: %s", name, err.msg);
    return packed;
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

/* Every logit of a fixed text, `chunk` tokens a step. */
static qn_status score(qn_engine *e, size_t chunk, rows *r, qn_err *err)
{
    int32_t ids[N_IDS];
    for (size_t i = 0; i < N_IDS; i++)
        ids[i] = (int32_t)(i * 7 % 97 + 3);
    return qn_score(e, ids, N_IDS, chunk, add_row, NULL, r, err);
}

static void check_score(qn_engine *e, size_t chunk, const rows *want, const char *what)
{
    rows r = {0};
    qn_err err;
    if (score(e, chunk, &r, &err) != QN_OK)
        fail_msg("%s: %s", what, err.msg);
    assert_int_equal(r.n, want->n);
    if (memcmp(r.p, want->p, r.n * sizeof *r.p) != 0)
        fail_msg("%s, %zu tokens a step: other logits than with all experts in memory", what,
                 chunk);
    qn_free(r.p);
}

/* A limit that leaves room for n experts, from an engine that holds all. */
static uint64_t limit_for(const qn_engine *e, uint64_t n)
{
    qn_expert_counts x = qn_expert_cache_count(e->model->cache);
    uint64_t live = 0;
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        live += qn_mem_live((qn_mem_tag)t) - e->live_before[t];
    return live - (x.n_experts - n) * x.slot_bytes + x.slot_bytes / 2;
}

static void check_model(const char *name)
{
    const char *packed = packed_of(name);
    qn_config c = config_of(packed, 0);
    rows want = {0};
    qn_err err;
    qn_expert_info x;
    qn_engine *e = open_engine(&c);
    assert_false(qn_engine_get_experts(e, &x));
    assert_int_equal(score(e, 0, &want, &err), QN_OK);
    qn_engine_free(e);
    c.mem_limit = 1u << 30;
    e = open_engine(&c);
    check_score(e, 0, &want, "room for all");
    check_score(e, 1, &want, "room for all");
    assert_true(qn_engine_get_experts(e, &x));
    uint64_t all = x.n_experts, active = e->model->config.n_experts_active;
    assert_int_equal(x.n_in_memory, all);
    assert_true(x.n_uses - x.n_hits <= all); /* each is read once */
    const uint64_t n[] = {QN_MAX(all / 3, active), active};
    uint64_t limits[] = {limit_for(e, n[0]), limit_for(e, n[1])};
    qn_engine_free(e);
    for (size_t i = 0; i < QN_COUNT(n); i++) {
        c.mem_limit = limits[i];
        e = open_engine(&c);
        check_score(e, 0, &want, "waves");
        check_score(e, 1, &want, "row by row");
        check_score(e, 7, &want, "waves again");
        assert_true(qn_engine_get_experts(e, &x));
        assert_in_range(x.n_in_memory, n[i] - 1, n[i] + 1); /* paths differ in length */
        assert_true(x.n_hits < x.n_uses && x.read_bytes > 0);
        assert_true(i > 0 ||
                    x.n_hits > 0); /* with room for one row a layer evicts the one before */
        qn_engine_free(e);
    }
    qn_free(want.p);
}

static void test_same_bits(void **state)
{
    (void)state;
    check_model("gguf/qwen2moe.gguf");
    check_model("gguf/qwen3moe.gguf");
    check_model("models/qwen3moe-gptq4");
}

static void expect_error(const char *path, uint64_t limit, const char *part)
{
    qn_config c = config_of(path, limit);
    qn_engine *e = NULL;
    qn_err err = {0};
    assert_int_equal(qn_engine_open(&e, &c, &err), QN_E_NOMEM);
    if (!strstr(err.msg, part) || strchr(err.msg, '\n'))
        fail_msg("'%s' does not say '%s' in one line", err.msg, part);
}

static void test_limits(void **state)
{
    (void)state;
    expect_error(QN_SOURCE_DIR "/tests/golden/gguf/qwen2moe.gguf", 1000, "quern pack");
    expect_error(QN_SOURCE_DIR "/tests/golden/gguf/qwen2.gguf", 1000, "can stay on disk");
    const char *packed = packed_of("gguf/qwen2moe.gguf");
    expect_error(packed, 1000, "the experts of one row");
    qn_config c = config_of(packed, 1u << 30);
    qn_engine *e = open_engine(&c);
    uint64_t too_small = limit_for(e, e->model->config.n_experts_active) -
                         2 * qn_expert_cache_slot_bytes(e->model->cache);
    qn_engine_free(e);
    expect_error(packed, too_small, "the experts of one row");
}

/* Experts that cannot be read are an error of the request; when they can be again, all is well. */
static void test_lost_file(void **state)
{
    (void)state;
    const char *packed = packed_of("gguf/qwen3moe.gguf");
    qn_str bytes = {0};
    qn_err err;
    rows want = {0}, none = {0};
    assert_int_equal(qn_file_read(&bytes, packed, 1u << 30, &err), QN_OK);
    qn_config c = config_of(packed, 1u << 30);
    struct stat before;
    assert_int_equal(stat(packed, &before), 0);
    qn_engine *e = open_engine(&c);
    assert_int_equal(score(e, 0, &want, &err), QN_OK);
    c.mem_limit = limit_for(e, e->model->config.n_experts_active);
    qn_engine_free(e);
    e = open_engine(&c);
    size_t experts = (size_t)e->model->files->qpk->area_offset[QN_QPK_EXPERTS];
    assert_int_equal(truncate(packed, (off_t)experts + 100), 0);
    assert_int_equal(score(e, 0, &none, &err), QN_E_IO);
    assert_non_null(strstr(err.msg, "reading experts"));
    assert_int_equal(none.n, 0);
    FILE *f = fopen(packed, "r+b");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes.p, 1, bytes.n, f), bytes.n);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(score(e, 0, &none, &err), QN_E_IO);
    assert_non_null(strstr(err.msg, "changed while in use"));
    assert_int_equal(none.n, 0);
    const struct timespec times[] = {before.st_atim, before.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, packed, times, 0), 0);
    check_score(e, 0, &want, "after the file is back");
    check_score(e, 1, &want, "after the file is back");
    qn_engine_free(e);
    qn_str_fini(&bytes);
    qn_free(want.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_lost_file),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
