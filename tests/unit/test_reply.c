/* SPDX-License-Identifier: Apache-2.0
 * test_reply.c - thoughts, text and calls of an answer, whole and cut at every byte: the same. */
#include "check.h"

#include "base/mem.h"
#include "server/reply.h"
#include <stdio.h>
#include <string.h>

/* What was told, as one text: C[content]R[reasoning]!recall>name{arguments}. (a dot: whole) */
typedef struct told {
    qn_str text;
    int kind;
} told;

static void on(void *arg, qn_reply_kind kind, const char *p, size_t n)
{
    told *t = arg;
    static const char *const names[] = {"C:", "R:", "!", ">", "", "."};
    bool goes_on = (int)kind == t->kind && kind <= QN_REPLY_ARGUMENTS && kind != QN_REPLY_CALL;
    if (!goes_on)
        qn_str_addf(&t->text, "%s%s", t->text.n && kind <= QN_REPLY_CALL ? "|" : "", names[kind]);
    if (kind == QN_REPLY_CALL) {
        qn_str_add(&t->text, p, n);
        qn_str_addc(&t->text, ' ');
    } else
        qn_str_add(&t->text, p, n);
    t->kind = (int)kind;
}

static unsigned types(void *arg, qn_slice tool, qn_slice key)
{
    (void)arg;
    if (qn_slice_is(tool, "any"))
        return 0;
    return qn_slice_is(key, "s")   ? QN_REPLY_STRING
           : qn_slice_is(key, "i") ? QN_REPLY_INTEGER
           : qn_slice_is(key, "n") ? QN_REPLY_NUMBER
           : qn_slice_is(key, "b") ? QN_REPLY_BOOL | QN_REPLY_NULL
           : qn_slice_is(key, "o") ? QN_REPLY_OBJECT | QN_REPLY_ARRAY
           : qn_slice_is(key, "x") ? QN_REPLY_STRING | QN_REPLY_INTEGER | QN_REPLY_NULL
                                   : 0;
}

/* Pieces of `step` bytes, or (0) of a pseudo-random number of them. */
static void read_in(told *t, const qn_reply_style *style, const char *p, size_t n, size_t first,
                    size_t step, uint32_t seed)
{
    qn_reply r;
    *t = (told){.kind = -1};
    qn_reply_init(&r, style);
    for (size_t i = 0, m = first; i < n; i += m, m = step) {
        if (!step) {
            seed = seed * 1664525u + 1013904223u;
            m = 1 + (seed >> 24) % 7;
        }
        m = QN_MIN(m ? m : n, n - i);
        char *piece = qn_strndup(p + i, m, QN_MEM_MISC); /* so that reading past it is seen */
        assert_non_null(piece);
        qn_reply_feed(&r, piece, m, on, t);
        qn_free(piece);
        assert_true(r.held.n <= QN_LIMIT_REPLY_HELD + 1024);
    }
    qn_reply_end(&r, on, t);
    assert_false(qn_reply_has_failed(&r));
    qn_reply_fini(&r);
}

static void check_n(const qn_reply_style *style, const char *text, size_t n, const char *want)
{
    told whole, cut;
    read_in(&whole, style, text, n, n, n, 0);
    const char *got = whole.text.p ? whole.text.p : "";
    if (want && strcmp(got, want) != 0)
        fail_msg("%s\ngives %s\nwant  %s", text, got, want);
    for (size_t i = 1; i <= n + 8; i++) {
        if (i < n)
            read_in(&cut, style, text, n, i, n, 0);
        else
            read_in(&cut, style, text, n, 1, i == n ? 1 : 0, (uint32_t)i);
        if (strcmp(cut.text.p ? cut.text.p : "", got) != 0)
            fail_msg("%s\ncut at %zu gives %s\nwhole        %s", text, i, cut.text.p, got);
        qn_str_fini(&cut.text);
    }
    qn_str_fini(&whole.text);
}

static const qn_reply_style plain = {.begin = QN_REPLY_ANSWERS};
static const qn_reply_style tools = {.begin = QN_REPLY_ANSWERS, .has_calls = true, .types = types};
static const qn_reply_style may = {.begin = QN_REPLY_MAY_THINK, .has_calls = true, .types = types};
static const qn_reply_style thinks = {.begin = QN_REPLY_THINKS, .has_calls = true, .types = types};
static const qn_reply_style enforced = {
    .begin = QN_REPLY_ANSWERS, .has_calls = true, .is_enforced = true, .types = types};
static const qn_reply_style bare = {
    .begin = QN_REPLY_ANSWERS, .has_calls = true, .is_bare = true, .types = types};

static bool knows(void *arg, qn_slice tool)
{
    (void)arg;
    return qn_slice_is(tool, "f");
}

static const qn_reply_style naked = {
    .begin = QN_REPLY_MAY_THINK, .has_calls = true, .types = types, .knows = knows};

static void check(const qn_reply_style *style, const char *text, const char *want)
{
    check_n(style, text, strlen(text), want);
}

#define CALL "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>"

static void test_thoughts(void **state)
{
    (void)state;
    check(&may, "<think>\nHm.\n\nYes.\n</think>\n\nParis.", "R:Hm.\n\nYes.|C:Paris.");
    check(&may, "\n <think>a</think>b", "R:a|C:b");
    check(&thinks, "Hm.\n</think>\n\nParis.\n", "R:Hm.|C:Paris.\n");
    check(&thinks, "\nHm", "R:Hm");
    check(&thinks, "Hm </thin", "R:Hm </thin");
    check(&thinks, "a </thought> <think> b</think>c", "R:a </thought> <think> b|C:c");
    check(&thinks, "</think>\n\n", "");
    check(&may, "<think>\n\n</think>\n\nhi", "C:hi");
    check(&may, "  <thin>", "C:  <thin>");
    check(&may, "<think", "C:<think");
    check(&may, "hi <think>x</think>", "C:hi <think>x</think>");
    /* without its beginning */
    check(&may, "Hm.\n</think>\n\nParis.", "C:Hm.|!|C:Paris.");
    check(&may, "Hm. `</think>` is a tag", "C:Hm. `</think>` is a tag");
    check(&may, "{\"a\": \"\n</think>\"}", "C:{\"a\": \"\n</think>\"}");
    check(&may, "x\n```\n</think>\n```", "C:x\n```\n</think>\n```");
    check(&plain, "<think>a\n</think>\n" CALL, "C:<think>a\n</think>\n" CALL);
    /* thoughts about tags are thoughts; text about them is text */
    check(&thinks, "a " CALL "</think>b", "R:a " CALL "|C:b");
    check(&thinks, "a</think>b\n</think>", "R:a|C:b\n</think>");
}

static void test_json_calls(void **state)
{
    (void)state;
    check(&tools, CALL, ">f {\"a\": 1}.");
    check(&thinks, "x\n</think>\n\n" CALL "\n", "R:x|>f {\"a\": 1}.");
    check(&tools, "I look.\n\n" CALL "\n" CALL "\n", "C:I look.|>f {\"a\": 1}.|>f {\"a\": 1}.");
    check(&tools, "a" CALL "\n\nb", "C:a|>f {\"a\": 1}.|C:\n\nb");
    check(&tools, CALL "\nb", ">f {\"a\": 1}.|C:b");
    check(&tools, "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>", ">f {}.");
    check(&tools, "<tool_call>\n{\"name\": \"f\"}\n</tool_call>", ">f {}.");
    check(&tools, "<tool_call>\n{\"name\": \"f\", \"arguments\": null}\n</tool_call>", ">f {}.");
    check(&tools, "<tool_call>\n{\"arguments\": {\"b\": [1, {}]}, \"name\": \"g\"}\n</tool_call>",
          ">g {\"b\": [1, {}]}.");
    check(&tools, "<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": 2}\"}</tool_call>",
          ">f {\"a\": 2}.");
    check(&tools, "<tool_call>{\"id\":1,\"name\":\"f\",\"parameters\":{\"a\":2}}</tool_call>",
          ">f {\"a\": 2}.");
    check(&tools, "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":2},\"id\":\"}\"}</tool_call>x",
          ">f {\"a\":2}.|C:x");
    /* tags, quotes and brackets in strings */
    check(&tools,
          "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"</tool_call> } \\\" <think> "
          "\\\\\"}}\n</tool_call>",
          ">f {\"a\": \"</tool_call> } \\\" <think> \\\\\"}.");
    /* what models forget */
    check(&tools, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}\n</tool_call>",
          ">f {\"a\": 1}.");
    check(&tools, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}}\n</tool_call>",
          ">f {\"a\": 1}.");
    check(&tools, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}" CALL,
          ">f {\"a\": 1}.|>f {\"a\": 1}.");
    check(&tools, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}", ">f {\"a\": 1}.");
    check(&tools, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1\n</tool_call>\nhi",
          ">f {\"a\": [1\n|C:hi");
    /* cut off */
    check(&tools, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"x", ">f {\"a\": \"x");
}

static void test_no_calls(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "a <tool_call> b",
        "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>",
        "use `<tool_call>` and `</tool_call>`",
        "```json\n" CALL "\n```\n",
        "~~~~\n~~~\n" CALL "\n~~~~\n",
        "```\n``` x\n" CALL "\n```",
        "<tool_call>\n{\"name\": \"",
        "<tool_call>{}</tool_call>",
        "<tool_call>{\"name\": 1, \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"no\"}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"x\": 1, \"arguments\": {\"a\"",
        "<tool_call>\n<function=f>\nhello",
        "<tool_call>\n<function=>\n",
        "<tool_call>\n<func>",
        "a <b> </b> <tool_ca <<tool_call",
        "</tool_call>",
        "x  \n\n ",
        "<function=f>\n<parameter=a>\n",
        "}",
    };
    for (size_t i = 0; i < QN_COUNT(texts); i++) {
        char want[512];
        snprintf(want, sizeof want, "C:%s", texts[i]);
        check(&tools, texts[i], want);
    }
    check(&tools, "```\n```\n" CALL, "C:```\n```|>f {\"a\": 1}.");
    check(&enforced, "```\n" CALL, "C:```|>f {\"a\": 1}.");
    check(&enforced, "a\n<tool_call>\n{\"na", "C:a");
    check(&enforced, "<tool_call>\n<function=f>\n<para", "");
    check(&enforced, "a <tool", "C:a <tool");
    check(&tools, "a\n<tool_call>\n{\"na", "C:a\n<tool_call>\n{\"na");
    check(&tools, "<tool_call><tool_call>{\"name\":\"f\"}", "C:<tool_call>|>f {}.");
    check(&tools, "<tool_call>\n<function=f>\n" CALL,
          "C:<tool_call>\n<function=f>\n|>f {\"a\": 1}.");
    check(&tools, "", "");
}

static void test_xml_calls(void **state)
{
    (void)state;
    check(&tools,
          "<tool_call>\n<function=f>\n<parameter=s>\nParis\n</parameter>\n<parameter=i>\n5\n"
          "</parameter>\n</function>\n</tool_call>",
          ">f {\"s\": \"Paris\", \"i\": 5}.");
    check(&tools, "<tool_call><function=f></function></tool_call>", ">f {}.");
    check(&tools, "I look.\n<tool_call>\n<function=f>\n</function>\n</tool_call>\n",
          "C:I look.|>f {}.");
    check(&bare, "x\n<function=f>\n<parameter=b>\nTrue\n</parameter>\n</function>\n</tool_call>",
          "C:x|>f {\"b\": true}.");
    check(&bare, "<function=f>\n</function>\n<function=g>\n</function>", ">f {}.|>g {}.");
#define VALUE(tool, key, v)                                                                        \
    "<tool_call>\n<function=" tool ">\n<parameter=" key ">\n" v "\n</parameter>\n</function>\n"    \
    "</tool_call>"
    check(&tools, VALUE("f", "s", "a\n\n \"b\" \\ \n"),
          ">f {\"s\": \"a\\n\\n \\\"b\\\" \\\\ \\n\"}.");
    check(&tools, VALUE("f", "s", "\xf0\x9f\x98\x80\xc3\xa9"),
          ">f {\"s\": \"\xf0\x9f\x98\x80\xc3\xa9\"}.");
    check(&tools, VALUE("f", "s", "<a></parameter>\n</parameter> <b> </func"),
          ">f {\"s\": \"<a></parameter>\\n</parameter> <b> </func\"}.");
    check(&tools, VALUE("f", "s", "5"), ">f {\"s\": \"5\"}.");
    check(&tools, VALUE("f", "n", " 1e3 "), ">f {\"n\": 1e3}.");
    check(&tools, VALUE("f", "i", "1.5"), ">f {\"i\": \"1.5\"}.");
    check(&tools, VALUE("f", "i", ""), ">f {\"i\": \"\"}.");
    check(&tools, VALUE("f", "b", "None"), ">f {\"b\": null}.");
    check(&tools, VALUE("f", "b", "false"), ">f {\"b\": false}.");
    check(&tools, VALUE("f", "b", "maybe"), ">f {\"b\": \"maybe\"}.");
    check(&tools, VALUE("f", "o", "[1,\n {\"</parameter>\": 2}]"),
          ">f {\"o\": [1,\n {\"</parameter>\": 2}]}.");
    check(&tools, VALUE("f", "o", "[1,"), ">f {\"o\": \"[1,\"}.");
    check(&tools, VALUE("f", "x", "7"), ">f {\"x\": 7}.");
    check(&tools, VALUE("f", "x", "seven"), ">f {\"x\": \"seven\"}.");
    check(&tools, VALUE("any", "i", "7"), ">any {\"i\": \"7\"}.");
    check(&tools, VALUE("f", "weird \"key", "7"), ">f {\"weird \\\"key\": \"7\"}.");
    check(&tools, "<tool_call>\n<function=f>\n<parameter=s>one</parameter></function></tool_call>",
          ">f {\"s\": \"one\"}.");
    /* forgotten: the function's end; dropped: what stands between parameters */
    check(&tools, "<tool_call>\n<function=f>\n<parameter=s>\n1\n</parameter>\n</tool_call>x",
          ">f {\"s\": \"1\"}.|C:x");
    check(&tools,
          "<tool_call>\n<function=f>\n<parameter=s>\n1\n</parameter>\n<parameter=\n>what</x> "
          "</function>\n</tool_call>",
          ">f {\"s\": \"1\"}.");
    check(&tools, "<tool_call>\n<function=f>\n<parameter=s>\nab\n</para", ">f {\"s\": \"ab");
}

static void test_naked_calls(void **state)
{
    (void)state;
    check(&naked, "{\"name\": \"f\", \"arguments\": {\"a\": {}}}", ">f {\"a\": {}}.");
    check(&naked, "<think>\nx\n</think>\n\n {\"name\":\"f\",\"arguments\":{}}\n", "R:x|>f {}.");
    check(&naked, "{\"name\": \"f\", \"arguments\": {}}\n{\"name\": \"f\", \"arguments\": {}}\nso",
          ">f {}.|>f {}.|C:so");
    check(&naked, "```json\n{\n  \"name\": \"f\",\n  \"arguments\": {\n  }\n}\n```\n",
          ">f {\n  }.");
    check(&naked, "```json\n{\"name\": \"f\", \"arguments\": {}}\n```\nso", ">f {}.|C:so");
    static const char *const texts[] = {
        "```json\n{\"name\": \"g\", \"arguments\": {}}\n```",
        "```json\n[]\n```\n```json\n{\"name\": \"f\", \"arguments\": {}}\n```",
        "```python\n{\"name\": \"f\", \"arguments\": {}}\n```",
        "```",
        "{\"name\": \"g\", \"arguments\": {}}",
        "{\"name\": \"f\", \"x\": 1, \"arguments\": {}}",
        "{\"name\": \"f\"}",
        "{\"arguments\": {}, \"name\": \"f\"}",
        "so {\"name\": \"f\", \"arguments\": {}}",
        "{\n  \"name\": \"f\",\n  \"arguments\": ",
        "{}",
        "{",
        "{{\"name\": \"f\", \"arguments\": {}}",
    };
    for (size_t i = 0; i < QN_COUNT(texts); i++) {
        char want[128];
        snprintf(want, sizeof want, "C:%s", texts[i]);
        check(&naked, texts[i], want);
    }
}

static void test_bounds(void **state)
{
    (void)state;
    qn_str text = {0};
    told t;
    /* a document that begins like a call in another order, and never ends */
    qn_str_adds(&text, "<tool_call>{\"x\": \"");
    for (int i = 0; i < 300000; i++)
        qn_str_addc(&text, 'y');
    read_in(&t, &tools, text.p, text.n, 4096, 4096, 0);
    assert_int_equal(t.text.n, text.n + 2);
    assert_memory_equal(t.text.p + 2, text.p, text.n);
    qn_str_fini(&t.text);
    /* a value that is too long to wait for its end: a string */
    qn_str_clear(&text);
    qn_str_adds(&text, "<tool_call>\n<function=f>\n<parameter=o>\n");
    for (int i = 0; i < 300000; i++)
        qn_str_addc(&text, '1');
    qn_str_adds(&text, "\n</parameter>\n</function>\n</tool_call>");
    read_in(&t, &tools, text.p, text.n, 4096, 4096, 0);
    assert_memory_equal(t.text.p, ">f {\"o\": \"1", 11);
    assert_memory_equal(t.text.p + t.text.n - 5, "11\"}.", 5);
    qn_str_fini(&t.text);
    /* names */
    qn_str_clear(&text);
    qn_str_adds(&text, "<tool_call>\n<function=");
    for (int i = 0; i < 300; i++)
        qn_str_addc(&text, 'n');
    qn_str_adds(&text, ">\n</function>");
    read_in(&t, &tools, text.p, text.n, 7, 7, 0);
    assert_memory_equal(t.text.p + 2, text.p, text.n);
    qn_str_fini(&t.text);
    qn_str_fini(&text);
}

/* Bits of calls in every order: nothing is lost of what is no call, and no cut changes anything. */
static void test_mixed(void **state)
{
    (void)state;
    static const char *const bits[] = {"<tool_call>",
                                       "</tool_call>",
                                       "<function=f>",
                                       "</function>",
                                       "<parameter=o>",
                                       "</parameter>",
                                       "<think>",
                                       "</think>",
                                       "{\"name\": \"f\", \"arguments\": {",
                                       "}}",
                                       "\n",
                                       "```",
                                       " ",
                                       "x",
                                       "\"",
                                       "\\",
                                       "{",
                                       "[1]",
                                       "<",
                                       "\xc3",
                                       "\xa9",
                                       "\n\n"};
    static const qn_reply_style *const styles[] = {&plain,    &tools, &may,  &thinks,
                                                   &enforced, &bare,  &naked};
    uint32_t seed = 7;
    for (int round = 0; round < 1500; round++) {
        char text[256];
        size_t n = 0;
        for (int k = 0; k < 12; k++) {
            seed = seed * 1664525u + 1013904223u;
            const char *bit = bits[(seed >> 20) % QN_COUNT(bits)];
            memcpy(text + n, bit, strlen(bit));
            n += strlen(bit);
        }
        text[n] = 0;
        const qn_reply_style *style = styles[(size_t)round % QN_COUNT(styles)];
        char want[300];
        snprintf(want, sizeof want, "C:%s", text);
        check_n(style, text, n, style == &plain ? want : NULL);
    }
}

static void test_thinking(void **state)
{
    (void)state;
    qn_reply r;
    told t = {.kind = -1};
    qn_reply_init(&r, &may);
    assert_false(qn_reply_is_thinking(&r));
    qn_reply_feed(&r, "<think>", 7, on, &t);
    assert_true(qn_reply_is_thinking(&r));
    qn_reply_feed(&r, "a</think", 8, on, &t);
    assert_true(qn_reply_is_thinking(&r));
    qn_reply_feed(&r, ">", 1, on, &t);
    assert_false(qn_reply_is_thinking(&r));
    qn_reply_end(&r, on, &t);
    qn_reply_fini(&r);
    qn_str_fini(&t.text);
    /* a piece is told at once when nothing can change it */
    qn_reply_init(&r, &tools);
    t = (told){.kind = -1};
    qn_reply_feed(&r, CALL, strlen("<tool_call>\n{\"name\": \"f\", \"arguments\": {"), on, &t);
    assert_string_equal(t.text.p, ">f {");
    qn_reply_end(&r, on, &t);
    qn_reply_fini(&r);
    qn_str_fini(&t.text);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), 0);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_thoughts),    cmocka_unit_test(test_json_calls),
        cmocka_unit_test(test_no_calls),    cmocka_unit_test(test_xml_calls),
        cmocka_unit_test(test_naked_calls), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_mixed),       cmocka_unit_test(test_thinking),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
