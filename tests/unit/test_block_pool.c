/* SPDX-License-Identifier: Apache-2.0
 * test_block_pool.c - the block pool against a plain array of counts, with check() after every
 * operation. */
#include "check.h"

#include "sched/block_pool.h"

#include <string.h>

static void check(const qn_block_pool *p)
{
    qn_err err = {0};
    qn_status s = qn_block_pool_check(p, &err);
    if (s != QN_OK)
        fail_msg("%s", err.msg);
}

static void test_sizes(void **state)
{
    (void)state;
    qn_block_pool *p = NULL;
    qn_err err;
    assert_int_equal(qn_block_pool_new(&p, 0, &err), QN_E_ARG);
    assert_null(p);
    assert_int_equal(qn_block_pool_new(&p, 1, &err), QN_E_ARG);
    assert_int_equal(qn_block_pool_new(&p, (size_t)1 << 31, &err), QN_E_ARG);
    assert_non_null(strstr(err.msg, "2147483648 blocks, want 2 to"));
    assert_int_equal(qn_block_pool_new(&p, 2, &err), QN_OK);
    assert_int_equal(qn_block_pool_n_free(p), 1);
    check(p);
    qn_block_pool_free(p);
    qn_block_pool_free(NULL);
}

static void test_all_or_nothing(void **state)
{
    (void)state;
    qn_block_pool *p;
    int32_t ids[8] = {-7, -7, -7, -7, -7, -7, -7, -7};
    assert_int_equal(qn_block_pool_new(&p, 6, NULL), QN_OK);
    assert_true(qn_block_pool_alloc(p, 0, NULL));
    assert_false(qn_block_pool_alloc(p, 6, ids));
    assert_int_equal(ids[0], -7);
    assert_int_equal(qn_block_pool_n_free(p), 5);
    assert_true(qn_block_pool_alloc(p, 5, ids));
    check(p);
    unsigned seen = 0;
    for (int i = 0; i < 5; i++) {
        assert_in_range(ids[i], 1, 5);
        seen |= 1u << ids[i];
    }
    assert_int_equal(seen, 0x3e); /* each of 1..5 once, the null block never */
    assert_false(qn_block_pool_alloc(p, 1, ids + 5));
    qn_block_pool_unref(p, ids[2]);
    check(p);
    assert_true(qn_block_pool_alloc(p, 1, ids + 5));
    assert_int_equal(ids[5], ids[2]);
    qn_block_pool_free(p);
}

static void test_shared(void **state)
{
    (void)state;
    qn_block_pool *p;
    int32_t id;
    assert_int_equal(qn_block_pool_new(&p, 4, NULL), QN_OK);
    assert_true(qn_block_pool_alloc(p, 1, &id));
    qn_block_pool_ref(p, id);
    assert_int_equal(qn_block_pool_ref_cnt(p, id), 2);
    qn_block_pool_unref(p, id);
    assert_int_equal(qn_block_pool_n_free(p), 2);
    qn_block_pool_unref(p, id);
    assert_int_equal(qn_block_pool_n_free(p), 3);
    qn_block_pool_ref(p, QN_BLOCK_NULL);
    qn_block_pool_unref(p, QN_BLOCK_NULL);
    qn_block_pool_unref(p, QN_BLOCK_NULL);
    assert_int_equal(qn_block_pool_ref_cnt(p, QN_BLOCK_NULL), 0);
    check(p);
    qn_block_pool_free(p);
}

static uint32_t next_random(uint32_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 17;
    *x ^= *x << 5;
    return *x;
}

#define N_BLOCKS 40

static void test_random_operations(void **state)
{
    (void)state;
    uint32_t rng = 2463534242u, cnt[N_BLOCKS] = {0};
    size_t n_full = 0;
    qn_block_pool *p;
    assert_int_equal(qn_block_pool_new(&p, N_BLOCKS, NULL), QN_OK);
    for (int step = 0; step < 20000; step++) {
        uint32_t kind = next_random(&rng) % 4, id = 1 + next_random(&rng) % (N_BLOCKS - 1);
        size_t n_free = 0;
        for (size_t i = 1; i < N_BLOCKS; i++)
            n_free += cnt[i] == 0;
        if (kind == 0) {
            int32_t ids[N_BLOCKS];
            size_t n = next_random(&rng) % 12;
            bool ok = qn_block_pool_alloc(p, n, ids);
            assert_int_equal(ok, n <= n_free);
            n_full += !ok;
            for (size_t i = 0; ok && i < n; i++) {
                assert_in_range(ids[i], 1, N_BLOCKS - 1);
                assert_int_equal(cnt[ids[i]], 0);
                cnt[ids[i]] = 1;
            }
        } else if (kind == 1 && cnt[id] > 0 && cnt[id] < 5) {
            qn_block_pool_ref(p, (int32_t)id);
            cnt[id]++;
        } else if (kind > 1 && cnt[id] > 0) {
            qn_block_pool_unref(p, (int32_t)id);
            cnt[id]--;
        }
        check(p);
        for (size_t i = 1; i < N_BLOCKS; i++)
            assert_int_equal(qn_block_pool_ref_cnt(p, (int32_t)i), cnt[i]);
    }
    assert_true(n_full > 100); /* the run did meet a full pool */
    for (int32_t i = 1; i < N_BLOCKS; i++)
        for (; cnt[i]; cnt[i]--)
            qn_block_pool_unref(p, i);
    check(p);
    assert_int_equal(qn_block_pool_n_free(p), N_BLOCKS - 1);
    qn_block_pool_free(p);
}

/* ---- the prefix cache ---- */

#define SIZE 4u
static const uint64_t salt[QN_SALT_WORDS] = {1, 2, 3};

static qn_block_pool *cached_pool(size_t n_blocks, uint32_t n_lists)
{
    qn_block_pool *p;
    assert_int_equal(qn_block_pool_new(&p, n_blocks + 1, NULL), QN_OK);
    assert_int_equal(qn_block_pool_enable_cache(p, SIZE, 42, n_lists, NULL), QN_OK);
    return p;
}

/* A sequence that computes n tokens from nothing: its blocks in table. Returns how many were found. */
static size_t compute(qn_block_pool *p, const int32_t *tokens, size_t n, const uint64_t *with,
                      int32_t *table, qn_miss *miss)
{
    size_t found = qn_block_pool_get_computed(p, tokens, n, with, table, miss);
    check(p);
    assert_true(qn_block_pool_alloc(p, (n + SIZE - 1) / SIZE - found, table + found));
    qn_block_pool_cache_full(p, tokens, table, found, n / SIZE, with);
    check(p);
    return found;
}

static void give_back(qn_block_pool *p, const int32_t *table, size_t n)
{
    while (n)
        qn_block_pool_unref(p, table[--n]);
    check(p);
}

static void test_prefixes(void **state)
{
    (void)state;
    static const uint64_t other[QN_SALT_WORDS] = {1, 2, 4};
    const int32_t t[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    const int32_t u[12] = {1, 2, 3, 4, 0, 6, 7, 8, 9, 10, 11, 12};
    int32_t a[3], b[3], c[3];
    qn_miss miss;
    qn_block_pool *p = cached_pool(16, 0);
    assert_int_equal(compute(p, t, 12, salt, a, &miss), 0);
    assert_int_equal(miss, QN_MISS_NEW);
    assert_int_equal(qn_block_pool_n_cached(p), 0);         /* in use */
    assert_int_equal(compute(p, t, 12, salt, b, &miss), 2); /* the last token is computed again */
    assert_int_equal(miss, QN_MISS_NONE);
    assert_memory_equal(a, b, sizeof a); /* and its block was given up for the one there was */
    assert_int_equal(qn_block_pool_n_free(p), 13);
    assert_int_equal(qn_block_pool_ref_cnt(p, a[2]), 2);
    assert_int_equal(compute(p, u, 12, salt, c, &miss), 1); /* went another way, and ends alike */
    assert_int_equal(miss, QN_MISS_PART);
    assert_int_not_equal(c[2], a[2]);
    give_back(p, c, 3);
    assert_int_equal(qn_block_pool_get_computed(p, t, 12, other, c, &miss), 0);
    assert_int_equal(miss, QN_MISS_NEW);
    assert_int_equal(qn_block_pool_get_computed(p, t + 4, 8, salt, c, &miss), 0);
    assert_int_equal(qn_block_pool_get_computed(p, t, 4, salt, c, &miss), 0);
    assert_int_equal(miss, QN_MISS_SHORT);
    give_back(p, a, 3);
    assert_int_equal(qn_block_pool_n_cached(p), 2); /* u's own; b still holds the others */
    give_back(p, b, 3);
    assert_int_equal(qn_block_pool_n_free(p), 16);
    assert_int_equal(qn_block_pool_n_cached(p), 5);
    assert_int_equal(compute(p, t, 11, salt, a, &miss), 2); /* found among the free */
    assert_int_equal(miss, QN_MISS_NONE);
    give_back(p, a, 3);
    qn_block_pool_free(p);
    assert_int_equal(qn_block_pool_new(&p, 4, NULL), QN_OK);
    assert_int_equal(qn_block_pool_get_computed(p, t, 12, salt, a, &miss), 0);
    assert_int_equal(miss, QN_MISS_OFF);
    qn_block_pool_free(p);
}

/* What was used longest ago goes first, and of a chain its end. */
static void test_eviction(void **state)
{
    (void)state;
    int32_t t[4][8], tables[4][2], fresh[8];
    qn_block_pool *p = cached_pool(8, 0);
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 8; k++)
            t[i][k] = 100 * i + k;
        assert_int_equal(compute(p, t[i], 8, salt, tables[i], NULL), 0);
    }
    give_back(p, tables[1], 2);
    give_back(p, tables[0], 2);
    give_back(p, tables[3], 2);
    assert_int_equal(compute(p, t[1], 8, salt, tables[1], NULL),
                     1); /* used again; a block is short */
    give_back(p, tables[1], 2);
    give_back(p, tables[2], 2);
    assert_int_equal(qn_block_pool_n_cached(p), 8);
    assert_true(qn_block_pool_alloc(p, 3, fresh));
    check(p);
    assert_int_equal(fresh[0], tables[0][1]);
    assert_int_equal(fresh[1], tables[0][0]);
    assert_int_equal(fresh[2], tables[3][1]);
    int32_t found[1];
    assert_int_equal(qn_block_pool_get_computed(p, t[3], 8, salt, found, NULL), 1);
    assert_int_equal(qn_block_pool_get_computed(p, t[0], 8, salt, found, NULL), 0);
    give_back(p, tables[3], 1);
    qn_block_pool_unref(p, fresh[2]); /* no identity: taken before any that has one */
    assert_true(qn_block_pool_alloc(p, 1, fresh + 3));
    assert_int_equal(fresh[3], fresh[2]);
    give_back(p, fresh, 2);
    qn_block_pool_unref(p, fresh[3]);
    assert_int_equal(qn_block_pool_n_free(p), 8);
    qn_block_pool_free(p);
}

/* All texts in one list of the hash table, whose hashes are equal, and tables shared by forks:
 * nobody gets another's block. */
static void test_equal_hashes(void **state)
{
    (void)state;
    enum { N = 30, TEXTS = 12, LENGTH = 24 };
    static int32_t texts[TEXTS][LENGTH];
    uint32_t rng = 77;
    for (size_t lists = 1; lists <= 64; lists *= 64) {
        qn_block_pool *p = cached_pool(N, (uint32_t)lists);
        int32_t content[N + 1][LENGTH]; /* of each block, from the beginning of its text */
        uint64_t salts[N + 1][QN_SALT_WORDS];
        memset(content, 0, sizeof content);
        memset(salts, 0, sizeof salts);
        for (int i = 0; i < TEXTS; i++)
            for (int k = 0; k < LENGTH; k++)
                texts[i][k] = (int32_t)(next_random(&rng) % 2 + (k < LENGTH / 2 ? 0 : (uint32_t)i));
        size_t n_found = 0;
        for (int step = 0; step < 4000; step++) {
            const int32_t *t = texts[next_random(&rng) % TEXTS];
            uint64_t with[QN_SALT_WORDS] = {next_random(&rng) % 2, 0, 0};
            size_t n = 1 + next_random(&rng) % LENGTH, n_blocks = (n + SIZE - 1) / SIZE;
            int32_t table[LENGTH / SIZE], before[LENGTH / SIZE];
            size_t found = qn_block_pool_get_computed(p, t, n, with, table, NULL);
            for (size_t i = 0; i < found; i++) {
                assert_memory_equal(content[table[i]], t, (i + 1) * SIZE * sizeof *t);
                assert_memory_equal(salts[table[i]], with, sizeof with);
            }
            n_found += found;
            assert_true(qn_block_pool_alloc(p, n_blocks - found, table + found));
            memcpy(before, table, sizeof table);
            qn_block_pool_cache_full(p, t, table, found, n / SIZE, with);
            for (size_t i = found; i < n / SIZE; i++)
                if (table[i] == before[i]) {
                    memcpy(content[table[i]], t, (i + 1) * SIZE * sizeof *t);
                    memcpy(salts[table[i]], with, sizeof with);
                } else {
                    assert_memory_equal(content[table[i]], t, (i + 1) * SIZE * sizeof *t);
                }
            check(p);
            give_back(p, table, n_blocks);
        }
        assert_true(n_found > 2000);
        assert_int_equal(qn_block_pool_n_free(p), N);
        qn_block_pool_free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),        cmocka_unit_test(test_all_or_nothing),
        cmocka_unit_test(test_shared),       cmocka_unit_test(test_random_operations),
        cmocka_unit_test(test_prefixes),     cmocka_unit_test(test_eviction),
        cmocka_unit_test(test_equal_hashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
