/* SPDX-License-Identifier: Apache-2.0
 * test_ngram.c - prompt lookup against a search of the whole text, and by hand. */
#include "check.h"

#include "base/mem.h"
#include "sample/ngram.h"

/* The longest match, the latest of equals, by trying every place. */
static uint32_t find_slowly(const int32_t *t, uint32_t n, uint32_t *from)
{
    uint32_t best = 0;
    for (uint32_t at = n - 1; at >= QN_NGRAM_MIN; at--) {
        uint32_t len = 0;
        while (len < QN_NGRAM_MAX && len < at && t[at - 1 - len] == t[n - 1 - len])
            len++;
        if (len >= QN_NGRAM_MIN && len > best) {
            best = len;
            *from = at;
        }
    }
    return best;
}

static void test_against_search(void **state)
{
    (void)state;
    enum { N = 3000 };
    static int32_t t[N];
    for (uint32_t alphabet = 40; alphabet <= 2000; alphabet *= 7) {
        qn_ngram g = {0};
        uint32_t x = alphabet, n_found = 0;
        for (uint32_t n = 0; n < N;) {
            x = x * 1664525u + 1013904223u;
            /* now and then a stretch that was there before */
            uint32_t len = x >> 28, back = n > 300 && len > 4 ? 1 + (x >> 8) % 300 : 0;
            for (uint32_t i = 0; i <= len && n < N; i++, n++) {
                x = x * 1664525u + 1013904223u;
                t[n] = back ? t[n - back] : (int32_t)((x >> 12) % alphabet);
            }
            uint32_t from = 0, want_from = 0;
            assert_true(qn_ngram_update(&g, t, n));
            assert_int_equal(g.n_indexed, n);
            uint32_t got = qn_ngram_find(&g, t, n, &from);
            uint32_t want = n > QN_NGRAM_MIN ? find_slowly(t, n, &want_from) : 0;
            if (!want) {
                assert_true(got <= 1);
                continue;
            }
            assert_int_equal(got, want);
            assert_int_equal(from, want_from);
            n_found++;
        }
        assert_true(n_found > 50);
        qn_ngram_fini(&g);
    }
}

static void test_changed_word(void **state)
{
    (void)state;
    /* 1 .. 9 copied with 5 changed to 50 */
    static const int32_t t[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 1, 2, 3, 4, 50, 6, 7};
    static const struct {
        uint32_t n, match, from;
    } want[] = {{10, 0, 0}, {11, 0, 0}, {12, 2, 2}, {13, 3, 3},
                {14, 4, 4}, {15, 1, 5}, {16, 1, 6}, {17, 2, 7}};
    qn_ngram g = {0};
    for (size_t i = 0; i < QN_COUNT(want); i++) {
        uint32_t from = 0;
        assert_true(qn_ngram_update(&g, t, want[i].n));
        assert_int_equal(qn_ngram_find(&g, t, want[i].n, &from), want[i].match);
        assert_int_equal(from, want[i].from);
    }
    qn_ngram_fini(&g);
}

/* Four tokens in a row that differ: it is no copy any more. */
static void test_copy_ends(void **state)
{
    (void)state;
    static const int32_t t[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 51, 52, 53, 54};
    qn_ngram g = {0};
    uint32_t from = 0;
    for (uint32_t n = 11; n <= QN_COUNT(t); n++) {
        assert_true(qn_ngram_update(&g, t, n));
        assert_int_equal(qn_ngram_find(&g, t, n, &from), n == 11 ? 2 : n < 15 ? 1 : 0);
    }
    assert_int_equal(from, 5);
    qn_ngram_fini(&g);
}

static void test_short_and_equal(void **state)
{
    (void)state;
    int32_t t[600] = {0};
    qn_ngram g = {0};
    uint32_t from = 0;
    assert_int_equal(qn_ngram_find(&g, t, 0, &from), 0);
    for (uint32_t n = 1; n <= 600; n++) {
        assert_true(qn_ngram_update(&g, t, n));
        uint32_t got = qn_ngram_find(&g, t, n, &from);
        assert_int_equal(got, n < 3 ? 0 : QN_MIN(n - 1, QN_NGRAM_MAX));
        if (got)
            assert_true(from >= QN_NGRAM_MIN && from < n);
    }
    qn_ngram_fini(&g);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), 0);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(test_against_search), cmocka_unit_test(test_changed_word),
        cmocka_unit_test(test_copy_ends), cmocka_unit_test(test_short_and_equal)};
    return cmocka_run_group_tests(t, NULL, NULL);
}
