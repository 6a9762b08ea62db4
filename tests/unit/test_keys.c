/* SPDX-License-Identifier: Apache-2.0
 * test_keys.c - files of API keys: lines, comments, what is refused, and any bytes. */
#include "check.h"

#include "base/keys.h"

#include <string.h>

static qn_err err;

/* All lines as "key,tenant,class;", or the error. */
static qn_str read_all(const char *text, size_t n)
{
    qn_str out = {0};
    qn_key_reader r = {.text = {text, n}, .name = "keys"};
    qn_key_line line;
    for (bool got = true; got;) {
        if (qn_key_next(&r, &line, &got, &err) != QN_OK) {
            qn_str_clear(&out);
            qn_str_adds(&out, err.msg);
            break;
        }
        if (got)
            qn_str_addf(&out, "%.*s,%.*s,%.*s;", (int)line.key.n, line.key.p, (int)line.tenant.n,
                        line.tenant.p, (int)line.class_name.n, line.class_name.p);
    }
    return out;
}

static void test_lines(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } rows[] = {
        {"k", "k,,;"},
        {"# ours\n\nk1 alice p0\r\n  k2\tbob\nk3", "k1,alice,p0;k2,bob,;k3,,;"},
        {"k#1 # the old one\nk2 bob #k3\n", "k#1,,;k2,bob,;"},
        {"k a b # c d\n\n\n", "k,a,b;"},
        {"", "keys: found no key, want KEY [TENANT [CLASS]] in a line"},
        {"# none\n \t\r\n", "keys: found no key, want KEY [TENANT [CLASS]] in a line"},
        {"a\nb c d e\n", "keys: line 2: want KEY [TENANT [CLASS]]"},
        {"a\n\nk\xc3\xa9y", "keys: line 3: found a byte 195 in the key, want visible ASCII"},
        {"a\x1b[2J", "keys: line 1: found a byte 27 in the key, want visible ASCII"},
    };
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        qn_str got = read_all(rows[i].text, strlen(rows[i].text));
        assert_string_equal(got.p, rows[i].want);
        qn_str_fini(&got);
    }
    qn_str got = read_all("a\nb\0c", 5);
    assert_string_equal(got.p, "keys: line 2 holds a NUL");
    qn_str_fini(&got);
}

/* Reading ends, and words lie inside the text. */
static void test_any_bytes(void **state)
{
    (void)state;
    static const char some[] = "ab# \t\r\n\x01\xc3";
    uint64_t x = 1;
    for (int round = 0; round < 5000; round++) {
        char text[24];
        size_t n = (size_t)round % sizeof text;
        for (size_t i = 0; i < n; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            text[i] = some[(x >> 40) % sizeof some];
        }
        qn_str got = read_all(text, n);
        assert_non_null(got.p);
        qn_str_fini(&got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lines),
                                       cmocka_unit_test(test_any_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
