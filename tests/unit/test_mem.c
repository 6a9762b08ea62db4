/* SPDX-License-Identifier: Apache-2.0
 * test_mem.c - alignment, counting by tag, sizes that overflow, growing, arenas. */
#include "check.h"

#include "base/mem.h"
#include <string.h>
#include <sys/mman.h>

static void test_alignment_and_tags(void **state)
{
    (void)state;
    static const size_t sizes[] = {
        0, 1, 63, 64, 65, 4096, (4u << 20) - 1, 4u << 20, (4u << 20) + 1, 9u << 20};
    for (size_t i = 0; i < QN_COUNT(sizes); i++)
        for (int zeroed = 0; zeroed < 2; zeroed++) {
            qn_mem_tag tag = (qn_mem_tag)(i % QN_MEM_N_TAGS);
            size_t before = qn_mem_live(tag);
            unsigned char *p = zeroed ? qn_calloc(sizes[i], 1, tag) : qn_alloc(sizes[i], tag);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % 64, 0);
            assert_int_equal(qn_mem_live(tag), before + sizes[i]);
            for (size_t k = 0; zeroed && k < sizes[i]; k += 61)
                assert_int_equal(p[k], 0);
            memset(p, 0xa5, sizes[i]);
            qn_free(p);
            assert_int_equal(qn_mem_live(tag), before);
        }
    qn_free(NULL);
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        assert_true(strlen(qn_mem_tag_name((qn_mem_tag)t)) > 0);
}

/* Bytes of [p, p + n) that are resident. */
static size_t resident(const unsigned char *p, size_t n)
{
    static unsigned char map[(8u << 20) / 4096 + 2];
    uintptr_t begin = (uintptr_t)p & ~(uintptr_t)4095;
    size_t pages = ((uintptr_t)p + n - begin + 4095) / 4096, sum = 0;
    assert_true(pages <= sizeof map);
    assert_int_equal(mincore((void *)begin, pages * 4096, map), 0);
    for (size_t i = 0; i < pages; i++)
        sum += (map[i] & 1u) * 4096;
    return sum;
}

/* Large blocks of a model's tags: side by side, zero when asked for, gone when freed. */
static void test_regions(void **state)
{
    (void)state;
    enum { N = 8, BYTES = 3 << 20 };
    unsigned char *p[N], *first = qn_alloc(64u << 20, QN_MEM_WEIGHTS); /* the next one is larger */
    assert_non_null(first);
    for (size_t i = 0; i < N; i++) {
        p[i] = qn_calloc(BYTES, 1, QN_MEM_WEIGHTS);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        if (i > 0)
            assert_ptr_equal(p[i], p[i - 1] + BYTES + 64);
        memset(p[i], 0x5a, BYTES);
    }
    assert_true(resident(p[3], BYTES) >= BYTES);
    qn_free(p[3]);
    assert_true(resident(p[3], BYTES) <= 2u << 20); /* at most what its neighbours' pages hold */
    for (size_t k = 0; k < BYTES; k += 4093)
        assert_int_equal(p[2][k] + p[4][k], 0x5a + 0x5a);
    qn_free(p[N - 1]); /* the last one's addresses are used again, and zero again */
    unsigned char *again = qn_calloc(BYTES, 1, QN_MEM_WEIGHTS);
    assert_ptr_equal(again, p[N - 1]);
    for (size_t k = 0; k < BYTES; k++)
        assert_int_equal(again[k], 0);
    unsigned char *huge = qn_alloc(300u << 20, QN_MEM_WEIGHTS); /* more than a region */
    assert_non_null(huge);
    huge[0] = huge[(300u << 20) - 1] = 1;
    qn_free(huge);
    for (size_t i = 0; i < N; i++)
        if (i != 3)
            qn_free(p[i]);
    qn_free(first);
    assert_int_equal(qn_mem_live(QN_MEM_WEIGHTS), 0);
}

static void test_overflow(void **state)
{
    (void)state;
    size_t before = qn_mem_live(QN_MEM_MISC);
    static const size_t half = (size_t)1 << 63;
    for (size_t less = 0; less <= 4u << 20; less = less ? less * 2 : 1) {
        assert_null(qn_alloc(SIZE_MAX - less, QN_MEM_MISC));
        assert_null(qn_alloc(SIZE_MAX - less, QN_MEM_KV));
    }
    assert_null(qn_alloc_array(half, 2, QN_MEM_MISC));
    assert_null(qn_alloc_array(half + 1, 2, QN_MEM_MISC)); /* wraps to 2 */
    assert_null(qn_calloc(half + 1, 2, QN_MEM_MISC));
    assert_null(qn_strndup("", SIZE_MAX, QN_MEM_MISC));
    char *p = qn_strdup("kept", QN_MEM_MISC);
    assert_null(qn_realloc(p, SIZE_MAX, QN_MEM_MISC));
    assert_string_equal(p, "kept");
    qn_free(p);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), before);
}

static void test_realloc_and_copies(void **state)
{
    (void)state;
    size_t misc = qn_mem_live(QN_MEM_MISC), kv = qn_mem_live(QN_MEM_KV);
    char *p = qn_realloc(NULL, 10, QN_MEM_MISC);
    memcpy(p, "123456789", 10);
    p = qn_realloc(p, 5u << 20, QN_MEM_KV);
    assert_string_equal(p, "123456789");
    assert_int_equal(qn_mem_live(QN_MEM_MISC), misc);
    assert_int_equal(qn_mem_live(QN_MEM_KV), kv + (5u << 20));
    p = qn_realloc(p, 4, QN_MEM_MISC);
    assert_memory_equal(p, "1234", 4);
    qn_free(p);
    p = qn_strndup("ab\0cd", 5, QN_MEM_MISC);
    assert_memory_equal(p, "ab\0cd\0", 6);
    qn_free(p);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), misc);
    assert_int_equal(qn_mem_live(QN_MEM_KV), kv);
}

static void test_grow(void **state)
{
    (void)state;
    uint32_t *a = NULL;
    size_t cap = 0, n_moves = 0;
    for (size_t n = 1; n <= 100000; n++) {
        const void *was = a;
        assert_true(qn_grow(&a, &cap, n, sizeof *a, QN_MEM_MISC));
        assert_true(cap >= n);
        n_moves += a != was;
        a[n - 1] = (uint32_t)n;
    }
    assert_true(n_moves < 20); /* doubles */
    for (size_t i = 0; i < 100000; i++)
        assert_int_equal(a[i], i + 1);
    size_t cap_before = cap;
    uint32_t *before = a;
    assert_false(qn_grow(&a, &cap, SIZE_MAX, sizeof *a, QN_MEM_MISC));
    assert_false(
        qn_grow(&a, &cap, SIZE_MAX / 4 + 2, sizeof *a, QN_MEM_MISC)); /* wraps to a small size */
    assert_ptr_equal(a, before);
    assert_int_equal(cap, cap_before);
    assert_true(qn_grow(&a, &cap, 0, sizeof *a, QN_MEM_MISC));
    qn_free(a);
}

static void test_arena(void **state)
{
    (void)state;
    enum { N = 5000 };
    static char *pieces[N];
    size_t before = qn_mem_live(QN_MEM_VOCAB);
    qn_arena a;
    qn_arena_init(&a, 0, QN_MEM_VOCAB);
    for (size_t i = 0; i < N; i++) {
        size_t n = i % 97 + (i % 1000 == 999 ? 100000 : 0); /* some over a chunk */
        pieces[i] = qn_arena_alloc(&a, n);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        memset(pieces[i], (int)(i & 0xff), n);
    }
    for (size_t i = 0; i < N; i++) /* none moved, none overlaps */
        for (size_t k = 0; k < i % 97; k++)
            assert_int_equal((unsigned char)pieces[i][k], i & 0xff);
    assert_true(qn_mem_live(QN_MEM_VOCAB) - before >= a.bytes);
    assert_string_equal(qn_arena_strndup(&a, "hello", 4), "hell");
    assert_null(qn_arena_alloc(&a, SIZE_MAX));
    assert_null(qn_arena_alloc(&a, SIZE_MAX - 20));
    assert_null(qn_arena_strndup(&a, "", SIZE_MAX));
    qn_arena_fini(&a);
    assert_int_equal(qn_mem_live(QN_MEM_VOCAB), before);
    assert_int_equal(a.bytes, 0);
}

static void test_arena_limit(void **state)
{
    (void)state;
    qn_arena a;
    qn_arena_init(&a, 100, QN_MEM_MISC);
    assert_non_null(qn_arena_alloc(&a, 1)); /* takes 16 */
    assert_non_null(qn_arena_alloc(&a, 80));
    assert_null(qn_arena_alloc(&a, 5));
    assert_int_equal(a.bytes, 96);
    qn_arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alignment_and_tags),
        cmocka_unit_test(test_regions),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_realloc_and_copies),
        cmocka_unit_test(test_grow),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_arena_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
