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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_all_or_nothing),
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_random_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
