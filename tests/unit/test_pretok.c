/* SPDX-License-Identifier: Apache-2.0
 * test_pretok.c - the split rules against the pieces that the reference makes (tokenizers 0.23.3;
 * '|' between pieces). */
#include "check.h"

#include "text/pretok.h"

#include <string.h>

static const struct {
    qn_split split;
    bool digits;
    const char *pieces;
} rows[] = {
    /* clang-format off */
    {QN_SPLIT_QWEN2, false, "Hello| world|,| it|'s| |2|0|2|4|!"},
    {QN_SPLIT_QWEN2, false, "I|'LL| we|'Re| you|'ve| '|Tis| '|dog| a|'\305\277|b"},
    {QN_SPLIT_QWEN2, false, "x| | y|  | z| \011| w"},
    {QN_SPLIT_QWEN2, false, "a|\012\012|b| \012| c|\015\012\015\012| | d|  \012|  "},
    {QN_SPLIT_QWEN2, false, " | lead|\011tab|\302\240nbsp|\343\200\200wide"},
    {QN_SPLIT_QWEN2, false, "1|2|3|4|5| |\302\275| |\331\243|\331\244| |\342\205\247"},
    {QN_SPLIT_QWEN2, false, "a|.b|..|c|!!\012\012|??| \012|!\015\015"},
    {QN_SPLIT_QWEN2, false, "e|\314\201a|\314\201| \314\201|x| !\314\201\314\201| \340\244\225|\340\245\215\340\244\267|\340\244\277"},
    {QN_SPLIT_QWEN2, false, "\344\270\255\346\226\207|\357\274\214\346\267\267\345\220\210text\345\222\214| \347\251\272\346\240\274"},
    {QN_SPLIT_QWEN2, false, "\360\220\265\212|\360\220\265\200|\360\221\216\270\341\262\211\360\256\257\260"},
    {QN_SPLIT_QWEN2, false, "\342\200\250|\342\200\251x| |\302\205y"},
    {QN_SPLIT_QWEN2, false, "''| '|s| '|S|'| '|r| '|l"},
    {QN_SPLIT_QWEN2, false, "   "},
    {QN_SPLIT_QWEN2, false, "\012"},
    {QN_SPLIT_QWEN2, false, "_a|-b| | (|c|)"},
    {QN_SPLIT_QWEN2, false, "1| |2|\012|3|\012\012|4| a|1|b|2|2|c|3|3|3|d|4|4|4|4"},
    {QN_SPLIT_QWEN35, false, "Hello| world|,| it|'s| |2|0|2|4|!"},
    {QN_SPLIT_QWEN35, false, "I|'LL| we|'Re| you|'ve| '|Tis| '|dog| a|'\305\277|b"},
    {QN_SPLIT_QWEN35, false, "x| | y|  | z| \011| w"},
    {QN_SPLIT_QWEN35, false, "a|\012\012|b| \012| c|\015\012\015\012| | d|  \012|  "},
    {QN_SPLIT_QWEN35, false, " | lead|\011tab|\302\240nbsp|\343\200\200wide"},
    {QN_SPLIT_QWEN35, false, "1|2|3|4|5| |\302\275| |\331\243|\331\244| |\342\205\247"},
    {QN_SPLIT_QWEN35, false, "a|.b|..|c|!!\012\012|??| \012|!\015\015"},
    {QN_SPLIT_QWEN35, false, "e\314\201a\314\201| \314\201x| !|\314\201\314\201| \340\244\225\340\245\215\340\244\267\340\244\277"},
    {QN_SPLIT_QWEN35, false, "\344\270\255\346\226\207|\357\274\214\346\267\267\345\220\210text\345\222\214| \347\251\272\346\240\274"},
    {QN_SPLIT_QWEN35, false, "\360\220\265\212|\360\220\265\200|\360\221\216\270\341\262\211\360\256\257\260"},
    {QN_SPLIT_QWEN35, false, "\342\200\250|\342\200\251x| |\302\205y"},
    {QN_SPLIT_QWEN35, false, "''| '|s| '|S|'| '|r| '|l"},
    {QN_SPLIT_QWEN35, false, "   "},
    {QN_SPLIT_QWEN35, false, "\012"},
    {QN_SPLIT_QWEN35, false, "_a|-b| | (|c|)"},
    {QN_SPLIT_QWEN35, false, "1| |2|\012|3|\012\012|4| a|1|b|2|2|c|3|3|3|d|4|4|4|4"},
    {QN_SPLIT_LLAMA3, false, "Hello| world|,| it|'s| |202|4|!"},
    {QN_SPLIT_LLAMA3, false, "I|'LL| we|'Re| you|'ve| '|Tis| '|dog| a|'\305\277|b"},
    {QN_SPLIT_LLAMA3, false, "x| | y|  | z| \011| w"},
    {QN_SPLIT_LLAMA3, false, "a|\012\012|b| \012| c|\015\012\015\012| | d|  \012|  "},
    {QN_SPLIT_LLAMA3, false, " | lead|\011tab|\302\240nbsp|\343\200\200wide"},
    {QN_SPLIT_LLAMA3, false, "123|45| |\302\275| |\331\243\331\244| |\342\205\247"},
    {QN_SPLIT_LLAMA3, false, "a|.b|..|c|!!\012\012|??| \012|!\015\015"},
    {QN_SPLIT_LLAMA3, false, "e|\314\201a|\314\201| \314\201|x| !\314\201\314\201| \340\244\225|\340\245\215\340\244\267|\340\244\277"},
    {QN_SPLIT_LLAMA3, false, "\344\270\255\346\226\207|\357\274\214\346\267\267\345\220\210text\345\222\214| \347\251\272\346\240\274"},
    {QN_SPLIT_LLAMA3, false, "\360\220\265\212|\360\220\265\200|\360\221\216\270\341\262\211\360\256\257\260"},
    {QN_SPLIT_LLAMA3, false, "\342\200\250|\342\200\251x| |\302\205y"},
    {QN_SPLIT_LLAMA3, false, "''| '|s| '|S|'| '|r| '|l"},
    {QN_SPLIT_LLAMA3, false, "   "},
    {QN_SPLIT_LLAMA3, false, "\012"},
    {QN_SPLIT_LLAMA3, false, "_a|-b| | (|c|)"},
    {QN_SPLIT_LLAMA3, false, "1| |2|\012|3|\012\012|4| a|1|b|22|c|333|d|444|4"},
    {QN_SPLIT_GPT2, false, "Hello| world|,| it|'s| 2024|!"},
    {QN_SPLIT_GPT2, false, "I|'|LL| we|'|Re| you|'ve| '|Tis| '|dog| a|'|\305\277b"},
    {QN_SPLIT_GPT2, false, "x| | y|  | z| \011| w"},
    {QN_SPLIT_GPT2, false, "a|\012|\012|b| \012| c|\015\012\015\012 | d|  \012  "},
    {QN_SPLIT_GPT2, false, " | lead|\011|tab|\302\240|nbsp|\343\200\200|wide"},
    {QN_SPLIT_GPT2, false, "12345| \302\275| \331\243\331\244| \342\205\247"},
    {QN_SPLIT_GPT2, false, "a|.|b|..|c|!!|\012|\012|??| |\012|!|\015\015"},
    {QN_SPLIT_GPT2, false, "e|\314\201|a|\314\201| \314\201|x| !\314\201\314\201| \340\244\225|\340\245\215|\340\244\267|\340\244\277"},
    {QN_SPLIT_GPT2, false, "\344\270\255\346\226\207|\357\274\214|\346\267\267\345\220\210text\345\222\214| \347\251\272\346\240\274"},
    {QN_SPLIT_GPT2, false, "\360\220\265\212|\360\220\265\200|\360\221\216\270|\341\262\211\360\256\257\260"},
    {QN_SPLIT_GPT2, false, "\342\200\250|\342\200\251|x| |\302\205|y"},
    {QN_SPLIT_GPT2, false, "''| '|s| '|S|'| '|r| '|l"},
    {QN_SPLIT_GPT2, false, "   "},
    {QN_SPLIT_GPT2, false, "\012"},
    {QN_SPLIT_GPT2, false, "_|a|-|b| | (|c|)"},
    {QN_SPLIT_GPT2, false, "1| 2|\012|3|\012|\012|4| a|1|b|22|c|333|d|4444"},
    {QN_SPLIT_GPT2, true, "Hello| world|,| it|'s| |2|0|2|4|!"},
    {QN_SPLIT_GPT2, true, "I|'|LL| we|'|Re| you|'ve| '|Tis| '|dog| a|'|\305\277b"},
    {QN_SPLIT_GPT2, true, "x| | y|  | z| \011| w"},
    {QN_SPLIT_GPT2, true, "a|\012|\012|b| \012| c|\015\012\015\012 | d|  \012  "},
    {QN_SPLIT_GPT2, true, " | lead|\011|tab|\302\240|nbsp|\343\200\200|wide"},
    {QN_SPLIT_GPT2, true, "1|2|3|4|5| |\302\275| |\331\243|\331\244| |\342\205\247"},
    {QN_SPLIT_GPT2, true, "a|.|b|..|c|!!|\012|\012|??| |\012|!|\015\015"},
    {QN_SPLIT_GPT2, true, "e|\314\201|a|\314\201| \314\201|x| !\314\201\314\201| \340\244\225|\340\245\215|\340\244\267|\340\244\277"},
    {QN_SPLIT_GPT2, true, "\344\270\255\346\226\207|\357\274\214|\346\267\267\345\220\210text\345\222\214| \347\251\272\346\240\274"},
    {QN_SPLIT_GPT2, true, "\360\220\265\212|\360\220\265\200|\360\221\216\270|\341\262\211\360\256\257\260"},
    {QN_SPLIT_GPT2, true, "\342\200\250|\342\200\251|x| |\302\205|y"},
    {QN_SPLIT_GPT2, true, "''| '|s| '|S|'| '|r| '|l"},
    {QN_SPLIT_GPT2, true, "   "},
    {QN_SPLIT_GPT2, true, "\012"},
    {QN_SPLIT_GPT2, true, "_|a|-|b| | (|c|)"},
    {QN_SPLIT_GPT2, true, "1| |2|\012|3|\012\012|4| a|1|b|2|2|c|3|3|3|d|4|4|4|4"},
    /* clang-format on */
};

static void test_pieces(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        qn_pretok rule = {rows[i].split, rows[i].digits};
        qn_str text = {0}, got = {0};
        for (const char *p = rows[i].pieces; *p; p++)
            if (*p != '|')
                qn_str_addc(&text, *p);
        qn_pretok_iter it = {.rule = &rule, .p = text.p, .n = text.n};
        for (qn_slice s; qn_pretok_next(&it, &s);) {
            assert_true(s.n > 0);
            if (got.n > 0)
                qn_str_addc(&got, '|');
            qn_str_add(&got, s.p, s.n);
        }
        assert_string_equal(got.p, rows[i].pieces);
        qn_str_fini(&text);
        qn_str_fini(&got);
    }
}

/* Whatever the bytes are, the pieces are the text, and reading stays inside it. */
static void test_any_bytes(void **state)
{
    (void)state;
    static const char some[] = "aZ 0\n\r\t'.s\xc2\xa0\xe3\x80";
    uint64_t x = 1;
    for (int round = 0; round < 4000; round++) {
        char text[48];
        size_t n = 0;
        for (; n < 1 + (size_t)round % sizeof(text); n++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            text[n] = x >> 56 & 1 ? (char)(x >> 48) : some[(x >> 57) % (sizeof(some) - 1)];
        }
        qn_pretok rule = {(qn_split)(round & 3), round & 4};
        qn_pretok_iter it = {.rule = &rule, .p = text, .n = n};
        const char *at = text;
        for (qn_slice s; qn_pretok_next(&it, &s); at += s.n) {
            assert_ptr_equal(s.p, at);
            assert_in_range(s.n, 1, n - (size_t)(at - text));
        }
        assert_ptr_equal(at, text + n);
    }
}

static void test_known_patterns(void **state)
{
    (void)state;
    static const char qwen35[] =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
        " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    qn_split split = QN_SPLIT_GPT2;
    assert_true(qn_split_from_regex(qwen35, &split));
    assert_int_equal(split, QN_SPLIT_QWEN35);
    assert_false(qn_split_from_regex("\\s+", &split));
    assert_false(qn_split_from_regex("", &split));
}

static void test_characters(void **state)
{
    (void)state;
    static const uint32_t word[] = {'a', '0', '_', 0xE9, 0x301, 0x4E2D, 0x200D, 0x24B6, 0x10D40};
    static const uint32_t other[] = {' ', '-', 0xBD, 0x3000, 0x1F600, 0x10FFFF};
    static const uint32_t space[] = {9, 10, 13, 32, 0x85, 0xA0, 0x1680, 0x2028, 0x3000};
    for (size_t i = 0; i < QN_COUNT(word); i++)
        assert_true(qn_is_word_char(word[i]));
    for (size_t i = 0; i < QN_COUNT(other); i++)
        assert_false(qn_is_word_char(other[i]));
    for (size_t i = 0; i < QN_COUNT(space); i++)
        assert_true(qn_is_space(space[i]));
    assert_false(qn_is_space(0x200B));
    assert_false(qn_is_space('a'));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces), cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_known_patterns), cmocka_unit_test(test_characters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
