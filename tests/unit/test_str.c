/* SPDX-License-Identifier: Apache-2.0
 * test_str.c - slices, the builder and its limit, UTF-8 (RFC 3629, every border), escaping, numbers, the hash. */
#include "check.h"

#include "base/mem.h"
#include "base/str.h"
#include <locale.h>
#include <math.h>
#include <string.h>

static void test_slices(void **state)
{
    (void)state;
    assert_true(qn_slice_eq(QN_SLICE("abc"), qn_slice_of("abc")));
    assert_false(qn_slice_eq(QN_SLICE("abc"), QN_SLICE("abd")));
    assert_false(qn_slice_eq(QN_SLICE("abc"), QN_SLICE("ab")));
    assert_true(qn_slice_eq((qn_slice){NULL, 0}, QN_SLICE("")));
    assert_true(qn_slice_is(QN_SLICE("x"), "x"));
    assert_false(qn_slice_is(QN_SLICE("x\0"), "x"));
    assert_true(qn_starts_with("prefix", "pre") && qn_starts_with("p", "") &&
                !qn_starts_with("pr", "pre"));
    assert_true(qn_ends_with("a.gguf", ".gguf") && qn_ends_with("a", "") &&
                !qn_ends_with("gguf", ".gguf"));
}

static void test_builder(void **state)
{
    (void)state;
    qn_str s = {0};
    size_t before = qn_mem_live(QN_MEM_MISC);
    char long_text[1000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    qn_str_add(&s, "", 0);
    assert_string_equal(s.p, "");
    qn_str_adds(&s, "a");
    qn_str_addc(&s, 'b');
    qn_str_addf(&s, "%d", 42);
    qn_str_add(&s, "\0z", 2);
    assert_int_equal(s.n, 6);
    assert_memory_equal(s.p, "ab42\0z", 7);
    qn_str_clear(&s);
    qn_str_addf(&s, "[%s]", long_text); /* longer than the small buffer */
    assert_int_equal(s.n, 1001);
    assert_true(s.p[0] == '[' && s.p[1000] == ']' && s.p[1001] == 0);
    qn_str_fini(&s);
    assert_null(s.p);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), before);
    /* borders of the small buffer */
    for (int n = 254; n <= 258; n++) {
        qn_str_clear(&s);
        qn_str_addf(&s, "%.*s", n, long_text);
        assert_int_equal(s.n, n);
        assert_int_equal(strlen(s.p), n);
    }
    qn_str_fini(&s);
}

static void test_builder_limit(void **state)
{
    (void)state;
    qn_str s = {.limit = 5};
    qn_str_adds(&s, "12345");
    assert_false(s.failed);
    qn_str_addc(&s, '6');
    assert_true(s.failed);
    assert_string_equal(s.p, "12345");
    qn_str_adds(&s, ""); /* nothing happens any more */
    qn_str_addf(&s, "%d", 1);
    assert_string_equal(s.p, "12345");
    qn_str_clear(&s);
    assert_false(s.failed);
    qn_str_add(&s, "x", SIZE_MAX);
    assert_true(s.failed);
    qn_str_clear(&s);
    qn_str_adds(&s, "abc");
    assert_string_equal(s.p, "abc");
    qn_str_fini(&s);
}

static void test_utf8_round_trip(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10ffff; cp += cp == 0xd7ff ? 0x801 : 1) {
        char b[4];
        uint32_t back = 0;
        size_t n = qn_utf8_encode(b, cp);
        if (qn_utf8_decode(b, n, &back) != n || back != cp)
            fail_msg("U+%04X comes back as U+%04X", cp, back);
        if (n > 1 && (qn_utf8_decode(b, n - 1, &back) != 0 || qn_utf8_whole(b, n - 1) != 0))
            fail_msg("U+%04X cut short is taken", cp);
    }
}

static void test_utf8_broken(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *lossy;
        size_t whole; /* qn_utf8_whole */
    } cases[] = {
        {"\x80", "\xef\xbf\xbd", 1},
        {"\xff", "\xef\xbf\xbd", 1},
        {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd", 2},                 /* overlong NUL */
        {"\xc1\xbf", "\xef\xbf\xbd\xef\xbf\xbd", 2},                 /* overlong */
        {"\xe0\x9f\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 3}, /* overlong */
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 3}, /* surrogate */
        {"\xf0\x8f\xbf\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 4},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd",
         4}, /* over U+10FFFF */
        {"\xf5\x80\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 4},
        {"a\xc3", "a\xef\xbf\xbd", 1},
        {"a\xe2\x82", "a\xef\xbf\xbd", 1}, /* one mark for one maximal part */
        {"a\xf0\x9f\x98", "a\xef\xbf\xbd", 1},
        {"a\xf0\x9f\x98z", "a\xef\xbf\xbdz", 5},
        {"\xe2\x28\xa1", "\xef\xbf\xbd(\xef\xbf\xbd", 3},
        {"\xc3\xa9\xc3", "\xc3\xa9\xef\xbf\xbd", 2},
    };
    qn_str s = {0};
    for (size_t i = 0; i < QN_COUNT(cases); i++) {
        size_t n = strlen(cases[i].bytes);
        assert_false(qn_utf8_valid(cases[i].bytes, n));
        assert_int_equal(qn_utf8_whole(cases[i].bytes, n), cases[i].whole);
        qn_str_clear(&s);
        qn_utf8_lossy(&s, cases[i].bytes, n);
        assert_string_equal(s.p, cases[i].lossy);
    }
    static const char good[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\0z";
    assert_true(qn_utf8_valid(good, sizeof good - 1) && qn_utf8_valid("", 0));
    assert_int_equal(qn_utf8_whole(good, sizeof good - 1), sizeof good - 1);
    assert_int_equal(qn_utf8_whole("", 0), 0);
    qn_str_fini(&s);
}

/* Random bytes: lossy text is valid, does not depend on where a stream is cut, and JSON marks the same parts. */
static void test_utf8_random(void **state)
{
    (void)state;
    static const unsigned char some[] = {0x00, 'a',  0x7f, 0x80, 0xa0, 0xbf, 0xc2, 0xdf,
                                         0xe0, 0xe2, 0xed, 0xf0, 0xf4, 0xff, 0x9f, 0x90};
    qn_str all = {0}, parts = {0}, json = {0};
    uint32_t x = 1;
    for (int round = 0; round < 20000; round++) {
        char b[12];
        size_t n = 0;
        for (; n < sizeof b && (x = x * 1664525u + 1013904223u) >> 28; n++)
            b[n] = (char)some[(x >> 20) % sizeof some];
        qn_str_clear(&all);
        qn_str_clear(&parts);
        qn_str_clear(&json);
        qn_utf8_lossy(&all, b, n);
        assert_true(qn_utf8_valid(all.p ? all.p : "", all.n));
        size_t cut = n ? (x >> 8) % (n + 1) : 0, whole = qn_utf8_whole(b, cut);
        qn_utf8_lossy(&parts, b, whole);
        qn_utf8_lossy(&parts, b + whole, n - whole);
        assert_true(qn_slice_eq((qn_slice){all.p, all.n}, (qn_slice){parts.p, parts.n}));
        qn_str_clear(&parts);
        qn_str_add_json(&json, b, n);
        qn_str_add_json(&parts, all.p ? all.p : "", all.n);
        assert_string_equal(json.p, parts.p);
    }
    qn_str_fini(&all);
    qn_str_fini(&parts);
    qn_str_fini(&json);
}

static void test_json_string(void **state)
{
    (void)state;
    qn_str s = {0};
    static const char in[] = "\"\\/\n\r\t\b\x01\x1f\x7f\xc3\xa9\0";
    qn_str_add_json(&s, in, sizeof in - 1);
    assert_string_equal(s.p, "\"\\\"\\\\/\\n\\r\\t\\u0008\\u0001\\u001f\\u007f\xc3\xa9\\u0000\"");
    qn_str_clear(&s);
    qn_str_add_json(&s, "", 0);
    assert_string_equal(s.p, "\"\"");
    qn_str_fini(&s);
}

static void test_escape(void **state)
{
    (void)state;
    char out[64], tiny[6];
    static const char in[] = "a\x1b[2J\n\x7f\xc2\x85\xe2\x80\xae\xc3\xa9\xff";
    qn_escape(out, sizeof out, in, sizeof in - 1);
    assert_string_equal(out, "a\\x1b[2J\\x0a\\x7f\\xc2\\x85\\xe2\\x80\\xae\xc3\xa9\\xff");
    memset(tiny, 'z', sizeof tiny);
    qn_escape(tiny, sizeof tiny, "ab\ncd", 5); /* an escape is not cut */
    assert_string_equal(tiny, "ab");
    qn_escape(tiny, sizeof tiny, "abcdefgh", 8);
    assert_string_equal(tiny, "abcde");
    qn_escape(tiny, 1, "abc", 3);
    assert_string_equal(tiny, "");
    tiny[0] = 'k';
    qn_escape(tiny, 0, "abc", 3);
    assert_int_equal(tiny[0], 'k');
}

static void test_integers(void **state)
{
    (void)state;
    uint64_t u = 7;
    int64_t i = 7;
    static const char *const bad[] = {"",
                                      "-",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "0x10",
                                      "1.0",
                                      "1e3",
                                      "18446744073709551616",
                                      "99999999999999999999",
                                      "--1",
                                      "1-"};
    for (size_t k = 0; k < QN_COUNT(bad); k++) {
        assert_false(qn_parse_u64(bad[k], strlen(bad[k]), UINT64_MAX, &u));
        assert_false(qn_parse_i64(bad[k], strlen(bad[k]), &i));
    }
    assert_true(u == 7 && i == 7);
    assert_true(qn_parse_u64("18446744073709551615", 20, UINT64_MAX, &u) && u == UINT64_MAX);
    assert_true(qn_parse_u64("007", 3, 7, &u) && u == 7);
    assert_false(qn_parse_u64("8", 1, 7, &u));
    assert_true(qn_parse_u64("12345", 2, 100, &u) && u == 12); /* n bytes, not up to a NUL */
    assert_true(qn_parse_i64("-9223372036854775808", 20, &i) && i == INT64_MIN);
    assert_true(qn_parse_i64("9223372036854775807", 19, &i) && i == INT64_MAX);
    assert_false(qn_parse_i64("9223372036854775808", 19, &i));
    assert_false(qn_parse_i64("-9223372036854775809", 20, &i));
    assert_true(qn_parse_i64("-0", 2, &i) && i == 0);
    assert_false(qn_parse_u64("-1", 2, UINT64_MAX, &u));
}

static void test_reals(void **state)
{
    (void)state;
    double d = 7;
    static const char *const bad[] = {"",      "-",     ".",      "e5",    "+1",  " 1",      "1 ",
                                      "nan",   "inf",   "-inf",   "0x1p3", "1e",  "1e+",     "1,5",
                                      "1.5.2", "1e999", "-1e999", "1f",    "--1", "infinity"};
    for (size_t k = 0; k < QN_COUNT(bad); k++)
        if (qn_parse_f64(bad[k], strlen(bad[k]), &d))
            fail_msg("'%s' is taken as %g", bad[k], d);
    assert_true(d == 7);
    assert_false(qn_parse_f64("1\0", 2, &d));
    assert_true(qn_parse_f64("1.5", 3, &d) && d == 1.5);
    assert_true(qn_parse_f64("-.5e-1", 6, &d) && d == -0.05);
    assert_true(qn_parse_f64("1e5x", 3, &d) && d == 1e5);
    assert_true(qn_parse_f64("-0", 2, &d) && d == 0 && signbit(d));
    assert_true(qn_parse_f64("0.1000000000000000055511151231257827", 36, &d) && d == 0.1);
    char many[70];
    memset(many, '1', sizeof many);
    assert_true(qn_parse_f64(many, 63, &d));
    assert_false(qn_parse_f64(many, 64, &d));
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8"))
        print_message("skipped: a locale with a comma (de_DE.UTF-8 is not installed)\n");
    assert_true(qn_parse_f64("2.5", 3, &d) && d == 2.5);
    (void)setlocale(LC_NUMERIC, "C");
}

static void test_sizes(void **state)
{
    (void)state;
    uint64_t u = 7;
    static const char *const bad[] = {
        "", "K", "1.5G", "4KB", "-1K", "4P", "4\xcb", "18014398509481984K", "16777216T", "4 K"};
    for (size_t k = 0; k < QN_COUNT(bad); k++)
        assert_false(qn_parse_bytes(bad[k], strlen(bad[k]), &u));
    assert_int_equal(u, 7);
    assert_true(qn_parse_bytes("512", 3, &u) && u == 512);
    assert_true(qn_parse_bytes("4K", 2, &u) && u == 4096);
    assert_true(qn_parse_bytes("4k", 2, &u) && u == 4096);
    assert_true(qn_parse_bytes("2M", 2, &u) && u == 2u << 20);
    assert_true(qn_parse_bytes("3G", 2, &u) && u == (uint64_t)3 << 30);
    assert_true(qn_parse_bytes("16777215T", 9, &u) && u == (uint64_t)16777215 << 40);
}

static void test_hash(void **state)
{
    (void)state;
    size_t bins[64] = {0};
    assert_true(qn_hash("abc", 3, 1) == qn_hash("abcd", 3, 1));
    assert_true(qn_hash("abc", 3, 1) != qn_hash("abc", 3, 2));
    assert_true(qn_hash("abc", 3, 1) != qn_hash("abd", 3, 1));
    assert_true(qn_hash("", 0, 1) != qn_hash("\0", 1, 1));
    for (uint32_t i = 0; i < 64000; i++)
        bins[qn_hash(&i, sizeof i, 9) % 64]++;
    for (size_t i = 0; i < 64; i++)
        assert_in_range(bins[i], 800, 1200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices),        cmocka_unit_test(test_builder),
        cmocka_unit_test(test_builder_limit), cmocka_unit_test(test_utf8_round_trip),
        cmocka_unit_test(test_utf8_broken),   cmocka_unit_test(test_utf8_random),
        cmocka_unit_test(test_json_string),   cmocka_unit_test(test_escape),
        cmocka_unit_test(test_integers),      cmocka_unit_test(test_reals),
        cmocka_unit_test(test_sizes),         cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
