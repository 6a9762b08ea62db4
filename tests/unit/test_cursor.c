/* SPDX-License-Identifier: Apache-2.0
 * test_cursor.c - little-endian reads, borders, alignment, and the first error that stays. */
#include "check.h"

#include "base/cursor.h"
#include <stdio.h>
#include <string.h>

/* Bytes taken so far. */
static size_t at(const qn_cursor *c, size_t n)
{
    return n - qn_cursor_left(c);
}

static bool skip_bytes(qn_cursor *c, uint64_t n)
{
    qn_slice s;
    return qn_cursor_bytes(c, n, &s);
}

static void test_numbers(void **state)
{
    (void)state;
    static const unsigned char data[] = {0x78, 0x56, 0x34, 0x12, 0xef, 0xcd,
                                         0xab, 0x89, 0x67, 0x45, 0x23, 0x01};
    qn_cursor c;
    uint32_t d;
    uint64_t e;
    qn_cursor_init(&c, data, sizeof data, "f", NULL);
    assert_int_equal(qn_cursor_left(&c), sizeof data);
    assert_true(qn_cursor_u32(&c, &d) && d == 0x12345678);
    assert_true(qn_cursor_u64(&c, &e) && e == 0x0123456789abcdef);
    assert_int_equal(qn_cursor_left(&c), 0);
    assert_int_equal(c.status, QN_OK);
    assert_false(qn_cursor_u32(&c, &d));
    assert_int_equal(c.status, QN_E_FORMAT);
}

static void test_bytes_and_alignment(void **state)
{
    (void)state;
    static const char data[] = "abcdefghijklmnopqrst";
    qn_cursor c;
    qn_slice s;
    qn_cursor_init(&c, data, 20, "f", NULL);
    assert_true(qn_cursor_align(&c, 32)); /* at 0 already */
    assert_int_equal(at(&c, 20), 0);
    assert_true(qn_cursor_bytes(&c, 3, &s));
    assert_true(qn_slice_is(s, "abc"));
    assert_ptr_equal(s.p, data);
    assert_true(qn_cursor_bytes(&c, 0, &s));
    assert_int_equal(s.n, 0);
    assert_true(qn_cursor_align(&c, 1));
    assert_int_equal(at(&c, 20), 3);
    assert_true(qn_cursor_align(&c, 8));
    assert_int_equal(at(&c, 20), 8);
    assert_true(skip_bytes(&c, 12));
    assert_true(qn_cursor_align(&c, 4));
    assert_false(qn_cursor_align(&c, 32)); /* beyond the end */
}

static void test_hostile_sizes(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {5, UINT32_MAX, (uint64_t)1 << 63, UINT64_MAX - 3, UINT64_MAX};
    for (size_t i = 0; i < QN_COUNT(sizes); i++) {
        qn_cursor c;
        qn_slice s = {"untouched", 9};
        qn_err err;
        qn_cursor_init(&c, "abcdefgh", 8, "model.gguf", &err);
        qn_cursor_field(&c, "tensor %d", 7);
        assert_true(skip_bytes(&c, 4));
        assert_false(qn_cursor_bytes(&c, sizes[i], &s));
        assert_true(qn_slice_is(s, "untouched"));
        assert_int_equal(at(&c, 8), 4);
        char want[128];
        (void)snprintf(want, sizeof want,
                       "model.gguf: tensor 7: wants %llu bytes, the file has 4 left (at byte 4)",
                       (unsigned long long)sizes[i]);
        assert_string_equal(err.msg, want);
        assert_int_equal(err.status, QN_E_FORMAT);
    }
}

static void test_first_error_stays(void **state)
{
    (void)state;
    qn_cursor c;
    qn_err err;
    uint32_t v = 77;
    qn_cursor_init(&c, "ab", 2, "f", &err);
    qn_cursor_field(&c, "version");
    assert_false(qn_cursor_fail(&c, QN_E_UNSUPPORTED, "found %d, want %d", 9, 3));
    assert_string_equal(err.msg, "f: version: found 9, want 3 (at byte 0)");
    qn_cursor_field(&c, "later");
    assert_false(qn_cursor_fail(&c, QN_E_FORMAT, "another"));
    assert_false(qn_cursor_u32(&c, &v));
    assert_false(qn_cursor_align(&c, 2));
    assert_int_equal(v, 77);
    assert_int_equal(c.status, QN_E_UNSUPPORTED);
    assert_string_equal(err.msg, "f: version: found 9, want 3 (at byte 0)");
}

static void test_nothing(void **state)
{
    (void)state;
    qn_cursor c;
    uint32_t v;
    qn_cursor_init(&c, NULL, 100, "f", NULL);
    assert_int_equal(qn_cursor_left(&c), 0);
    assert_true(skip_bytes(&c, 0));
    assert_false(qn_cursor_u32(&c, &v));
    /* a field name that is too long is cut, not written past */
    char name[500];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    qn_cursor_field(&c, "%s", name);
    assert_int_equal(strlen(c.field), sizeof c.field - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),       cmocka_unit_test(test_bytes_and_alignment),
        cmocka_unit_test(test_hostile_sizes), cmocka_unit_test(test_first_error_stays),
        cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
