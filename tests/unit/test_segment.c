/* SPDX-License-Identifier: Apache-2.0
 * test_segment.c - where texts are cut: borders by example, pieces of random texts by their invariants. */
#include "check.h"

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "text/segment.h"

#include <string.h>

#define MODELS QN_SOURCE_DIR "/tests/golden/models/"

static qn_err err;

static qn_tokenizer *load(const char *folder)
{
    char path[512];
    json_t *j = NULL;
    qn_tokenizer *t = NULL;
    (void)snprintf(path, sizeof path, MODELS "%s/tokenizer.json", folder);
    assert_int_equal(qn_json_load(&j, path, QN_LIMIT_CONFIG_BYTES, &err), QN_OK);
    assert_int_equal(qn_tokenizer_from_json(&t, j, path, &err), QN_OK);
    json_decref(j);
    return t;
}

/* ---- borders ---- */

/* The text with a mark before each border of a line or more: 1 to 6 a heading of that rank, P, S, L. */
static const char *const marked[] = {
    /* headings of Markdown, and what is bound to them */
    "# One\n\nL|Text. S|More.\n\n2|## Two\nL|Text\n1|# Three\n",
    "Title\n=====\n\nL|Text\n\n2|Sub\n---\nL|Text\n",
    "####### no\n\nP|#no\n",
    "# One\nL|## Two\nL|### Three?\n\nL|Text\n",
    "```\nL|# not one\nL|x\nL|```\n1|# One\n",
    /* by words, where they stand alone */
    "Text\n\n2|Chapter 3\n\nL|Text\n\n3|Article 7. Term\n\nL|Text\n\n2|APPENDIX B\n\nL|Text",
    "Text\n\nP|Chapter 3 says that it rains.\n\nP|Part of it\n\nP|Section\n",
    "Text\n\n2|1 Introduction\n\nL|Text\n\n3|1.2 Methods\n\nL|Text\n\n4|1.2.3. "
    "More\n\nL|Text\n\nP|12 apples",
    "Text\n1|第一部分 总则\nL|第一条 定义\nL|Text\n2|第二章 价款\nL|Text\n4|第 12 条 "
    "期限\nL|Text\n",
    "Text\n3|一、背景\nL|Text\n4|（二）方法\nL|Text\nL|一天\n",
    /* sentences */
    "One. S|Two! S|Three? S|\"Four.\" S|(Five.) S|Six... S|Seven, 3.14 e.g. this. or that",
    "J. Smith came. S|A. Jones went.",
    "你好。S|再见！S|真的吗？S|是；S|“好。”S|他说，走吧。",
    "1. One\nS|2. Two\nS|10. Ten\nS|- three\nS|(a) four\nS|• five\nL|six",
    "A line that\nL|goes on. S|It ends.\nS|Another one\nL|and so on",
    "| a | b |\nL|| 1 | 2 |\nL|| 3 | 4 |\n\nP|Text",
    "a\r\n\r\nP|b\r\nL|c",
    "   \n\nP|  text\nL|  more.\nS|  Last",
};

static void test_borders(void **state)
{
    (void)state;
    int bad = 0;
    for (size_t i = 0; i < QN_COUNT(marked); i++) {
        qn_str text = {0}, got = {0};
        uint8_t levels[1024];
        for (const char *p = marked[i]; *p; p++) {
            bool is_mark = p[1] == '|' && strchr("123456PSL", *p) && !(p[0] == '|');
            if (is_mark)
                p++;
            else
                qn_str_addc(&text, *p);
        }
        assert_true(text.n < sizeof levels);
        qn_borders_find(levels, text.p, text.n);
        assert_int_equal(levels[0], QN_BORDER_EDGE);
        assert_int_equal(levels[text.n], QN_BORDER_EDGE);
        for (size_t at = 0; at < text.n; at++) {
            uint8_t b = at ? levels[at] : QN_BORDER_NONE;
            if (b >= QN_BORDER_HEADING)
                qn_str_addf(&got, "%d|", 1 + QN_BORDER_HEADING_TOP - b);
            else if (b >= QN_BORDER_LINE)
                qn_str_addf(&got, "%c|", "LSP"[b - QN_BORDER_LINE]);
            qn_str_addc(&got, text.p[at]);
        }
        if (strcmp(got.p, marked[i]) != 0)
            print_error("found:\n%s\nwanted:\n%s\n----\n", got.p, marked[i]);
        bad += strcmp(got.p, marked[i]) != 0;
        qn_str_fini(&text);
        qn_str_fini(&got);
    }
    assert_int_equal(bad, 0);
}

static void test_weak_borders(void **state)
{
    (void)state;
    /* e + acute; a flag; a family; CR LF; Hangul of parts */
    static const char text[] =
        "ab e\xcc\x81, \xf0\x9f\x87\xa9\xf0\x9f\x87\xaa\xf0\x9f\x91\xa9\xe2\x80\x8d"
        "\xf0\x9f\x91\xa7 x";
    uint8_t levels[sizeof text];
    qn_borders_find(levels, text, sizeof text - 1);
    static const uint8_t want[] = {QN_BORDER_EDGE,
                                   2,
                                   2,
                                   QN_BORDER_WORD,
                                   QN_BORDER_POINT,
                                   0,
                                   2,
                                   2,
                                   QN_BORDER_WORD,
                                   0,
                                   0,
                                   0,
                                   QN_BORDER_POINT,
                                   0,
                                   0,
                                   0,
                                   2,
                                   0,
                                   0,
                                   0,
                                   QN_BORDER_POINT,
                                   0,
                                   0,
                                   QN_BORDER_POINT,
                                   0,
                                   0,
                                   0,
                                   2,
                                   QN_BORDER_WORD,
                                   QN_BORDER_EDGE};
    assert_int_equal(sizeof want, sizeof text);
    assert_memory_equal(levels, want, sizeof want);
}

/* ---- pieces ---- */

static size_t n_tokens(const qn_tokenizer *t, const char *p, size_t n)
{
    qn_ids ids = {0};
    assert_int_equal(qn_tokenizer_encode(t, p, n, QN_SPECIAL_NONE, &ids, &err), QN_OK);
    size_t got = ids.n;
    qn_ids_fini(&ids);
    return got;
}

static size_t line_of(const char *p, size_t at)
{
    size_t line = 1;
    for (size_t i = 0; i < at; i++)
        line += p[i] == '\n';
    return line;
}

static bool is_start(const char *p, size_t n, size_t at)
{
    return at == n || ((unsigned char)p[at] & 0xc0u) != 0x80;
}

static void check_pieces(const qn_segments *s, const qn_tokenizer *t, qn_slice text, size_t max,
                         size_t overlap)
{
    size_t at = 0;
    for (size_t i = 0; i < s->n; i++) {
        const qn_segment *x = &s->p[i];
        assert_int_equal(x->fresh, at);
        assert_true(x->begin <= x->fresh && x->fresh < x->end && x->end <= text.n);
        assert_true(is_start(text.p, text.n, x->begin) && is_start(text.p, text.n, x->fresh) &&
                    is_start(text.p, text.n, x->end));
        assert_int_equal(x->n_tokens, n_tokens(t, text.p + x->begin, x->end - x->begin));
        assert_int_equal(x->n_overlap, n_tokens(t, text.p + x->begin, x->fresh - x->begin));
        assert_in_range(x->n_tokens, 1, max);
        assert_in_range(x->n_overlap, 0, overlap);
        assert_int_equal(x->first_line, line_of(text.p, x->begin));
        assert_int_equal(x->last_line, line_of(text.p, x->end - 1));
        assert_int_equal(x->border == QN_BORDER_EDGE, i == 0);
        at = x->end;
    }
    assert_int_equal(at, text.n);
}

static uint64_t seed;
static uint32_t pick(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

/* Of everything that borders, normalisation and long tokens depend on. */
static void add_random(qn_str *out, size_t n_parts)
{
    static const char *const parts[] = {"word",
                                        " ",
                                        " the ",
                                        ". ",
                                        ", ",
                                        "\n",
                                        "\n\n",
                                        "\r\n",
                                        "# Title",
                                        "\n\n## B",
                                        "\n\n第三章 ",
                                        "1. ",
                                        "中文字符",
                                        "。",
                                        "；",
                                        "「好！」",
                                        "３",
                                        "3.14",
                                        "e\xcc\x81",
                                        "\xcc\x81",
                                        "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab",
                                        "\xed\x95\x9c",
                                        "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7",
                                        "\xf0\x9f\x87\xa9\xf0\x9f\x87\xaa",
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                                        "    ",
                                        "```\n",
                                        "| a | b |\n",
                                        "<|im_end|>",
                                        "\xef\xbf\xbd",
                                        "\t",
                                        "\xe2\x80\xa8"};
    for (size_t i = 0; i < n_parts; i++) {
        if (pick(8) == 0)
            qn_str_add_utf8(out, pick(2) ? 0x20 + pick(0x600) : 0x10000 + pick(0x20000));
        else
            qn_str_adds(out, parts[pick(QN_COUNT(parts))]);
    }
}

static void check_cut(const qn_tokenizer *t, qn_slice text, size_t max, size_t overlap)
{
    qn_segments s, again;
    qn_status st = qn_segments_cut(&s, t, text, max, overlap, &err);
    assert_true(st == QN_OK || (st == QN_E_TOO_LONG && max < 8));
    assert_int_equal(qn_segments_cut(&again, t, text, max, overlap, &err), st);
    assert_int_equal(s.n, again.n);
    if (st == QN_OK) {
        check_pieces(&s, t, text, max, overlap);
        assert_memory_equal(s.p, again.p, s.n * sizeof *s.p);
    }
    qn_segments_fini(&s);
    qn_segments_fini(&again);
}

static void test_random(void **state)
{
    (void)state;
    static const char *const folders[] = {"qwen3-untied-f32", "llama-tied-bf16"};
    for (size_t f = 0; f < QN_COUNT(folders); f++) {
        qn_tokenizer *t = load(folders[f]);
        for (uint64_t round = 0; round < 150; round++) {
            qn_str text = {0};
            seed = round;
            add_random(&text, 1 + pick(round % 3 ? 60 : 600));
            size_t max = 1 + pick(round % 4 ? 100 : 12),
                   overlap = pick(3) ? pick((uint32_t)max) : 0;
            check_cut(t, (qn_slice){text.p, text.n}, max, overlap);
            qn_str_fini(&text);
        }
        qn_tokenizer_free(t);
    }
}

static qn_segments cut_text(const qn_tokenizer *t, const qn_str *text, size_t max, size_t overlap)
{
    qn_segments s;
    assert_int_equal(qn_segments_cut(&s, t, (qn_slice){text->p, text->n}, max, overlap, &err),
                     QN_OK);
    check_pieces(&s, t, (qn_slice){text->p, text->n}, max, overlap);
    return s;
}

/* Chapters that fit stay whole; one that does not is cut at a paragraph, a long paragraph at a sentence. */
static void test_strongest(void **state)
{
    (void)state;
    qn_tokenizer *t = load("qwen3-untied-f32");
    qn_str text = {0};
    for (int chapter = 1; chapter <= 6; chapter++) {
        qn_str_addf(&text, "## Chapter %d\n\n", chapter);
        for (int i = 0; i < (chapter == 4 ? 40 : 8); i++)
            qn_str_addf(&text, "Sentence %d of it is here.%s", i, i % 8 == 7 ? "\n\n" : " ");
    }
    size_t one = n_tokens(t, text.p, (size_t)(strstr(text.p, "## Chapter 2") - text.p));
    qn_segments s = cut_text(t, &text, one * 2 + one / 2, 0);
    size_t n_headings = 0, n_paragraphs = 0;
    for (size_t i = 1; i < s.n; i++) {
        n_headings += s.p[i].border >= QN_BORDER_HEADING;
        n_paragraphs += s.p[i].border == QN_BORDER_PARAGRAPH;
    }
    assert_int_equal(n_headings + n_paragraphs, s.n - 1);
    assert_in_range(n_headings, 2, 4);
    assert_in_range(n_paragraphs, 1, 3);
    qn_segments_fini(&s);
    s = cut_text(t, &text, one / 2, one / 8);
    for (size_t i = 1; i < s.n; i++) {
        assert_in_range(s.p[i].border, QN_BORDER_SENTENCE, QN_BORDER_HEADING_TOP);
        assert_in_range(s.p[i].n_overlap, one / 16, one / 8);
    }
    qn_segments_fini(&s);
    qn_str_fini(&text);
    qn_tokenizer_free(t);
}

/* No border at all for long; a text that fits; none; one that can not be cut. */
static void test_ends(void **state)
{
    (void)state;
    qn_tokenizer *t = load("qwen3-untied-f32");
    qn_str text = {0};
    qn_segments s;
    assert_int_equal(qn_segments_cut(&s, t, (qn_slice){NULL, 0}, 10, 0, &err), QN_OK);
    assert_int_equal(s.n, 0);
    for (int i = 0; i < 3000; i++)
        qn_str_adds(&text, i % 3 ? "a" : "字");
    s = cut_text(t, &text, 100, 10);
    assert_in_range(s.n, text.n / 300, text.n / 30);
    qn_segments_fini(&s);
    s = cut_text(t, &text, text.n, 10);
    assert_int_equal(s.n, 1);
    qn_segments_fini(&s);
    /* an overlap that leaves room for one token only */
    s = cut_text(t, &text, 9, 8);
    qn_segments_fini(&s);
    qn_str_clear(&text);
    qn_str_adds(&text, "abc \xf0\x9f\xab\xa0");
    assert_int_equal(qn_segments_cut(&s, t, (qn_slice){text.p, text.n}, 1, 0, &err), QN_E_TOO_LONG);
    assert_non_null(strstr(err.msg, "byte 4"));
    assert_int_equal(s.n, 0);
    qn_str_addc(&text, '\xff');
    assert_int_equal(qn_segments_cut(&s, t, (qn_slice){text.p, text.n}, 5, 0, &err), QN_E_FORMAT);
    assert_non_null(strstr(err.msg, "255 at 8"));
    qn_str_fini(&text);
    qn_tokenizer_free(t);
}

/* A text of marks, which normalisation sorts: nothing of it is quadratic. */
static void test_long_runs(void **state)
{
    (void)state;
    static const char *const runs[] = {
        "\xcc\x81", "\xcc\xa7\xcc\x81", "\n",           " ",  "a", ".",
        "#",        "\xf0\x9f\x87\xa9", "\xe2\x80\x8d", "第", "`", "1."};
    qn_tokenizer *t = load("qwen3-untied-f32");
    for (size_t r = 0; r < QN_COUNT(runs); r++) {
        qn_str text = {0};
        while (text.n < 60000)
            qn_str_adds(&text, runs[r]);
        qn_segments s = cut_text(t, &text, 2000, 100);
        qn_segments_fini(&s);
        qn_str_fini(&text);
    }
    qn_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_borders), cmocka_unit_test(test_weak_borders),
        cmocka_unit_test(test_random),  cmocka_unit_test(test_strongest),
        cmocka_unit_test(test_ends),    cmocka_unit_test(test_long_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
