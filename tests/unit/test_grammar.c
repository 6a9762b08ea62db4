/* SPDX-License-Identifier: Apache-2.0
 * test_grammar.c - forms and what may follow in their texts. */
#include "check.h"
#include "failing.h"

#include "base/limits.h"
#include "sample/grammar.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* ---- a vocabulary of the 256 bytes and a few words; the last token ends an answer ---- */

static const char *const words[] = {
    "\",\"", "\"}\n",    "\": [", "{\"",      "\":",  "ab",    "aab",      "null", "tru",
    "e}",    "[[",       "]]",    "\xc3\xa4", "\xc3", "a\xc3", "\xa4\142", "12",   "1.",
    "</",    "</think>", "think", ">\n",      "  ",   "",      "ab",
};
#define N_WORDS ((int32_t)QN_COUNT(words))
#define END_ID  (256 + N_WORDS)
#define N_IDS   (END_ID + 2)

static qn_vocab_kind token_of(void *arg, int32_t id, const char **text, size_t *n)
{
    static char bytes[256];
    (void)arg;
    if (id < 256) {
        bytes[id] = (char)id;
        *text = &bytes[id];
        *n = 1;
        return QN_VOCAB_TEXT;
    }
    if (id >= END_ID)
        return id == END_ID ? QN_VOCAB_END : QN_VOCAB_SPECIAL;
    *text = words[id - 256];
    *n = strlen(*text);
    return QN_VOCAB_TEXT;
}

static int32_t word(const char *text)
{
    if (strlen(text) == 1)
        return (uint8_t)*text;
    for (int32_t i = 0; i < N_WORDS; i++)
        if (strcmp(words[i], text) == 0)
            return 256 + i;
    fail_msg("no token %s", text);
    return -1;
}

static qn_vocabulary *vocabulary(void)
{
    qn_vocabulary *v;
    assert_int_equal(qn_vocabulary_new(&v, N_IDS, token_of, NULL, NULL), QN_OK);
    return v;
}

typedef struct fixture {
    qn_vocabulary *v;
    qn_form *f;
    qn_grammar *g;
    qn_matcher *m;
} fixture;

static fixture begin(void)
{
    fixture x = {.v = vocabulary()};
    assert_int_equal(qn_form_new(&x.f, NULL), QN_OK);
    return x;
}

static void compile(fixture *x, qn_form_id root)
{
    qn_err err = {0};
    qn_form_set_root(x->f, root);
    if (qn_grammar_compile(&x->g, x->v, x->f, &err) != QN_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(qn_matcher_new(&x->m, x->g, &err), QN_OK);
}

static void end(fixture *x)
{
    qn_matcher_free(x->m);
    qn_grammar_let(x->g);
    qn_form_free(x->f);
    qn_vocabulary_free(x->v);
}

static qn_form_id text(qn_form *f, const char *s)
{
    return qn_form_bytes(f, s, strlen(s));
}

static qn_form_id range(qn_form *f, uint32_t first, uint32_t last)
{
    return qn_form_chars(f, &(qn_char_range){first, last}, 1, false);
}

#define SEQ(f, ...)                                                                                \
    qn_form_seq((f), (qn_form_id[]){__VA_ARGS__}, QN_COUNT(((qn_form_id[]){__VA_ARGS__})))
#define ALT(f, ...)                                                                                \
    qn_form_alt((f), (qn_form_id[]){__VA_ARGS__}, QN_COUNT(((qn_form_id[]){__VA_ARGS__})))

static bool in_mask(const uint64_t *mask, int32_t id)
{
    return mask[id / 64] >> id % 64 & 1;
}

/* The mask is the set of the tokens that are allowed, and a fork accepts just these. */
static void check_mask(const qn_matcher *m)
{
    qn_matcher *c;
    assert_int_equal(qn_matcher_fork(&c, m, NULL), QN_OK);
    uint64_t mask[(N_IDS + 63) / 64];
    const uint64_t *got = qn_matcher_mask(c);
    assert_non_null(got);
    memcpy(mask, got, sizeof mask);
    for (int32_t id = 0; id < N_IDS; id++) {
        if (in_mask(mask, id) != qn_matcher_allows(c, id))
            fail_msg("token %d: mask %d, allows %d", id, in_mask(mask, id),
                     qn_matcher_allows(c, id));
        qn_matcher *d;
        assert_int_equal(qn_matcher_fork(&d, c, NULL), QN_OK);
        assert_int_equal(qn_matcher_accept(d, id), in_mask(mask, id));
        qn_matcher_free(d);
    }
    assert_int_equal(in_mask(mask, END_ID), qn_matcher_is_whole(c));
    qn_matcher_free(c);
}

static void take(fixture *x, const char *token)
{
    check_mask(x->m);
    if (!qn_matcher_accept(x->m, word(token)))
        fail_msg("%s may not follow", token);
}

static void refuse(const fixture *x, const char *token)
{
    assert_false(qn_matcher_allows(x->m, word(token)));
}

/* Byte by byte. */
static bool is_prefix(fixture *x, const char *s)
{
    qn_matcher *m;
    bool good = true;
    assert_int_equal(qn_matcher_new(&m, x->g, NULL), QN_OK);
    for (; *s && good; s++)
        good = qn_matcher_accept(m, (uint8_t)*s);
    qn_matcher_free(m);
    return good;
}

static bool is_text(fixture *x, const char *s)
{
    qn_matcher *m;
    bool good = true;
    assert_int_equal(qn_matcher_new(&m, x->g, NULL), QN_OK);
    for (; *s && good; s++)
        good = qn_matcher_accept(m, (uint8_t)*s);
    good = good && qn_matcher_is_whole(m);
    qn_matcher_free(m);
    return good;
}

static bool is_over_then; /* behind what was forced last */

static const char *forced(fixture *x)
{
    static char out[64];
    out[qn_matcher_forced(x->m, out, sizeof out - 1, &is_over_then)] = 0;
    return out;
}

/* ---- tests ---- */

/* {"a": [[12],...]}: a rule that reaches itself, tokens that span elements. */
static void test_nested(void **state)
{
    (void)state;
    fixture x = begin();
    qn_form *f = x.f;
    qn_form_id digits = qn_form_repeat(f, range(f, '0', '9'), 1, QN_FORM_ENDLESS);
    qn_form_id value = qn_form_rule(f);
    qn_form_id more = qn_form_repeat(f, SEQ(f, text(f, ","), value), 0, QN_FORM_ENDLESS);
    qn_form_id list =
        SEQ(f, text(f, "["), qn_form_repeat(f, SEQ(f, value, more), 0, 1), text(f, "]"));
    qn_form_define(f, value, ALT(f, digits, list));
    compile(&x, SEQ(f, text(f, "{\"a\": "), list, text(f, "}")));
    assert_string_equal(forced(&x), "{\"a\": [");
    assert_false(is_over_then);
    take(&x, "{\"");
    take(&x, "a");
    refuse(&x, "\",\"");
    take(&x, "\": [");
    take(&x, "[[");
    take(&x, "12");
    take(&x, ",");
    take(&x, "12");
    take(&x, "]]");
    take(&x, "]");
    assert_false(qn_matcher_is_whole(x.m));
    assert_string_equal(forced(&x), "}");
    assert_true(is_over_then);
    take(&x, "}");
    assert_true(qn_matcher_is_whole(x.m));
    assert_true(qn_matcher_is_over(x.m));
    assert_true(qn_matcher_accept(x.m, END_ID));
    end(&x);
}

static void test_characters(void **state)
{
    (void)state;
    fixture x = begin();
    qn_form *f = x.f;
    qn_char_range r[] = {{0xe0, 0xef}, {0x10000, 0x10ffff}, {'b', 'b'}};
    compile(&x, qn_form_repeat(f, qn_form_chars(f, r, 3, false), 0, QN_FORM_ENDLESS));
    assert_true(is_text(&x, "\xc3\xa4\xf0\x9f\x98\x80"));
    assert_false(is_prefix(&x, "\xc3\xb0"));
    assert_false(is_prefix(&x, "\xf0\x8f"));
    assert_false(is_prefix(&x, "\xf4\x90"));
    assert_false(is_prefix(&x, "\xe0"));
    take(&x, "\xc3\xa4");
    take(&x, "\xc3");
    assert_false(qn_matcher_is_whole(x.m));
    take(&x, "\xa4\142");
    refuse(&x, "a\xc3");
    end(&x);
    x = begin();
    compile(&x, qn_form_chars(x.f, r, 3, true));
    assert_true(is_text(&x, "a"));
    assert_true(is_text(&x, "\xed\x9f\xbf"));
    assert_false(is_prefix(&x, "\xed\xa0")); /* a surrogate */
    assert_false(is_prefix(&x, "b"));
    assert_false(is_prefix(&x, "\xf0"));
    end(&x);
}

static void test_repeats(void **state)
{
    (void)state;
    fixture x = begin();
    qn_form *f = x.f;
    qn_form_id a = text(f, "a"), loop = qn_form_repeat(f, a, 0, QN_FORM_ENDLESS);
    loop = qn_form_repeat(f, loop, 0, QN_FORM_ENDLESS); /* (a*)* */
    compile(&x, SEQ(f, loop, qn_form_repeat(f, text(f, "b"), 2, 3)));
    assert_true(is_text(&x, "bb"));
    assert_true(is_text(&x, "aabbb"));
    assert_false(is_text(&x, "b"));
    assert_false(is_prefix(&x, "abbbb"));
    end(&x);
    x = begin();
    f = x.f;
    qn_form_id part = ALT(f, text(f, "a"), text(f, "ab"), text(f, "b")); /* not free of prefixes */
    compile(&x, SEQ(f, qn_form_repeat(f, part, 2, 4), text(f, "c")));
    assert_true(is_text(&x, "abc"));
    assert_true(is_text(&x, "ababababc"));
    assert_true(is_text(&x, "aaaac"));
    assert_false(is_prefix(&x, "aaaaa"));
    assert_false(is_prefix(&x, "ac"));
    end(&x);
    x = begin();
    f = x.f;
    part = ALT(f, range(f, 'a', 'b'), range(f, 0x80, 0x10ffff), text(f, "\\n"));
    compile(&x, SEQ(f, text(f, "\""), qn_form_repeat(f, part, 3, 5000), text(f, "\"")));
    take(&x, "\"");
    take(&x, "ab");
    refuse(&x, "\"");
    take(&x, "\xc3");
    take(&x, "\xa4\142");
    for (int i = 4; i < 4996; i += 2)
        assert_true(qn_matcher_accept(x.m, word("ab")));
    take(&x, "ab");
    take(&x, "a");
    refuse(&x, "ab");
    take(&x, "a");
    assert_string_equal(forced(&x), "\"");
    take(&x, "\"");
    end(&x);
}

/* "a", of at least five letters, in quotes: its count is never reached. */
static qn_form_id impossible(qn_form *f)
{
    qn_form_id long_ = qn_form_repeat(f, range(f, 'a', 'z'), 5, QN_FORM_ENDLESS);
    return SEQ(f, text(f, "\""), qn_form_and(f, text(f, "a"), long_), text(f, "\""));
}

static void test_and_minus(void **state)
{
    (void)state;
    fixture x = begin();
    qn_form *f = x.f;
    qn_form_id word_ = qn_form_repeat(f, range(f, 'a', 'c'), 1, QN_FORM_ENDLESS);
    qn_form_id taken = ALT(f, text(f, "ab"), text(f, "abc"), text(f, "c"));
    qn_form_id free_ = qn_form_minus(f, word_, taken);
    qn_form_id short_ = qn_form_repeat(f, range(f, 'a', 'z'), 2, 3);
    compile(&x, qn_form_and(f, free_, short_));
    assert_false(is_text(&x, "ab"));
    assert_true(is_text(&x, "ac"));
    assert_true(is_text(&x, "aba"));
    assert_false(is_text(&x, "abc"));
    assert_false(is_text(&x, "c"));
    assert_true(is_text(&x, "cc"));
    assert_false(is_prefix(&x, "abaa"));
    assert_true(is_prefix(&x, "ab"));
    assert_false(is_prefix(&x, "abc"));
    check_mask(x.m);
    end(&x);
    x = begin();
    f = x.f;
    compile(&x, ALT(f, impossible(f), text(f, "\"b")));
    assert_string_equal(forced(&x), "\"b");
    assert_true(is_text(&x, "\"b"));
    assert_false(is_prefix(&x, "\"a"));
    end(&x);
}

static void test_until(void **state)
{
    (void)state;
    fixture x = begin();
    qn_form *f = x.f;
    qn_form_id think = qn_form_until(f, "</think>", 3, "\n</think>");
    compile(&x, SEQ(f, text(f, "a"), think, text(f, "\n{}")));
    take(&x, "ab"); /* one token that reaches into the text */
    take(&x, "</");
    take(&x, "think");
    assert_string_equal(forced(&x), "\n</think>\n{}");
    take(&x, "\n");
    refuse(&x, "think");
    take(&x, "</think>");
    assert_string_equal(forced(&x), "\n{}");
    end(&x);
    x = begin();
    f = x.f;
    compile(&x, SEQ(f, qn_form_until(f, "</think>", 0, NULL), text(f, "\n{}")));
    take(&x, "\xa4\142");
    take(&x, "<");
    take(&x, "</");
    take(&x, "think");
    assert_string_equal(forced(&x), "");
    take(&x, ">\n");
    assert_string_equal(forced(&x), "{}");
    end(&x);
}

static void expect_error(qn_form *f, qn_form_id root, qn_status want, const char *part)
{
    qn_err err = {0};
    qn_grammar *g;
    qn_vocabulary *v = vocabulary();
    if (root)
        qn_form_set_root(f, root);
    assert_int_equal(qn_grammar_compile(&g, v, f, &err), want);
    assert_null(g);
    if (!strstr(err.msg, part))
        fail_msg("found \"%s\", want \"%s\" in it", err.msg, part);
    qn_vocabulary_free(v);
    qn_form_free(f);
}

static qn_form *form(void)
{
    qn_form *f;
    assert_int_equal(qn_form_new(&f, NULL), QN_OK);
    return f;
}

static void test_errors(void **state)
{
    (void)state;
    qn_form *f = form();
    expect_error(f, 0, QN_E_ARG, "no root");
    f = form();
    expect_error(f, qn_form_rule(f), QN_E_ARG, "never defined");
    f = form();
    expect_error(f, qn_form_alt(f, NULL, 0), QN_E_ARG, "no text");
    f = form();
    expect_error(f, impossible(f), QN_E_ARG, "no text");
    f = form();
    qn_form_id r = qn_form_rule(f);
    qn_form_define(f, r, SEQ(f, text(f, "a"), r));
    expect_error(f, r, QN_E_ARG, "no text");
    f = form();
    r = qn_form_rule(f);
    qn_form_define(f, r, ALT(f, text(f, "a"), SEQ(f, r, text(f, "b"))));
    expect_error(f, r, QN_E_ARG, "begins with itself");
    f = form();
    r = qn_form_rule(f);
    qn_form_define(f, r, ALT(f, text(f, "a"), SEQ(f, text(f, "b"), r)));
    expect_error(f, qn_form_and(f, r, text(f, "b")), QN_E_ARG, "reaches itself");
    f = form();
    r = qn_form_until(f, "x", 2, "x");
    expect_error(f, qn_form_minus(f, r, text(f, "b")), QN_E_ARG, "count of tokens");
    f = form();
    (void)qn_form_until(f, "x", 2, "xy");
    expect_error(f, text(f, "b"), QN_E_ARG, "closing");
    f = form();
    r = qn_form_rule(f);
    qn_form_define(f, r, text(f, "b"));
    qn_form_define(f, r, text(f, "b"));
    expect_error(f, r, QN_E_ARG, "second definition");
    f = form();
    assert_int_equal(qn_form_repeat(f, text(f, "b"), 3, 2), 0);
    assert_int_equal(SEQ(f, 0, text(f, "b")), 0);
    expect_error(f, 0, QN_E_ARG, "least number");
}

/* Everything once: rules, counts, and, minus, a text with a count of tokens. */
static qn_form_id everything(qn_form *f)
{
    qn_form_id chars = qn_form_repeat(f, range(f, 'a', 'z'), 2, 5000);
    qn_form_id ends_in_b =
        SEQ(f, qn_form_repeat(f, range(f, 'a', 'z'), 0, QN_FORM_ENDLESS), text(f, "b"));
    qn_form_id word_ = qn_form_minus(f, qn_form_and(f, chars, ends_in_b), text(f, "abb"));
    qn_form_id value = qn_form_rule(f);
    qn_form_id more = qn_form_repeat(f, SEQ(f, text(f, ","), value), 0, 300);
    qn_form_id list = SEQ(f, text(f, "["), value, more, text(f, "]"));
    qn_form_define(f, value, ALT(f, SEQ(f, text(f, "\""), word_, text(f, "\"")), list));
    return SEQ(f, qn_form_until(f, "</think>", 3, "</think>"), list);
}

/* OK, or the first error; at its end nothing is left. */
static qn_status use_once(void)
{
    static const char *const tokens[] = {"think", "</think>", "[[", "\"", "ab", "\"", "]]"};
    qn_vocabulary *v = NULL;
    qn_form *f = NULL;
    qn_grammar *g = NULL;
    qn_matcher *m = NULL, *c = NULL;
    char out[8];
    qn_status s = qn_vocabulary_new(&v, N_IDS, token_of, NULL, NULL);
    if (s == QN_OK)
        s = qn_form_new(&f, NULL);
    if (s == QN_OK) {
        qn_form_set_root(f, everything(f));
        s = qn_grammar_compile(&g, v, f, NULL);
    }
    if (s == QN_OK)
        s = qn_matcher_new(&m, g, NULL);
    for (size_t i = 0; s == QN_OK && i < QN_COUNT(tokens); i++) {
        (void)qn_matcher_forced(m, out, sizeof out, &is_over_then);
        if (!qn_matcher_mask(m) || !qn_matcher_accept(m, word(tokens[i])))
            s = QN_E_NOMEM;
        if (s == QN_OK && i == 3)
            s = qn_matcher_fork(&c, m, NULL);
        if (s == QN_OK && i == 3) { /* which goes on instead */
            qn_matcher_free(m);
            m = c;
        }
    }
    assert_true(s != QN_OK || qn_matcher_is_over(m));
    qn_matcher_free(m);
    qn_grammar_let(g);
    qn_form_free(f);
    qn_vocabulary_free(v);
    return s;
}

static void test_out_of_memory(void **state)
{
    (void)state;
    size_t before = live();
    long n_failed = 0;
    for (long at = 1;; at++) {
        n_calls = 0;
        fail_at = at;
        qn_status s = use_once();
        bool hit = n_calls >= at;
        fail_at = 0;
        assert_int_equal(live(), before);
        if (!hit) {
            assert_int_equal(s, QN_OK);
            break;
        }
        if (s != QN_OK && s != QN_E_NOMEM) /* OK: a mask that is not kept */
            fail_msg("allocation %ld fails: status %d", at, (int)s);
        n_failed += s != QN_OK;
    }
    print_message("%ld allocations failed once each\n", n_failed);
    assert_true(n_failed > 50);
}

/* A form as deep as it may be, and a text that opens rules up to the limit and closes them again. */
static void *on_small_stack(void *arg)
{
    (void)arg;
    fixture x = begin();
    qn_form *f = x.f;
    qn_form_id e = text(f, "a");
    for (int i = 0; i < 30000; i++) {
        e = SEQ(f, text(f, "b"), e);
        e = i % 2 ? qn_form_repeat(f, e, 0, 1) : ALT(f, e, text(f, "c"));
    }
    compile(&x, e);
    assert_true(is_text(&x, "bbbc"));
    end(&x);
    x = begin();
    f = x.f;
    qn_form_id list = qn_form_rule(f);
    qn_form_define(f, list, SEQ(f, text(f, "["), qn_form_repeat(f, list, 0, 1), text(f, "]")));
    compile(&x, list);
    size_t depth = 0;
    for (; qn_matcher_accept(x.m, '['); depth++)
        if (!(in_mask(qn_matcher_mask(x.m), word("[[")) == qn_matcher_allows(x.m, word("[["))))
            fail_msg("depth %zu: mask %d", depth, in_mask(qn_matcher_mask(x.m), word("[[")));
    assert_true(depth >= QN_LIMIT_GRAMMAR_DEPTH && depth <= QN_LIMIT_GRAMMAR_DEPTH + 1);
    for (size_t i = 0; i < depth; i++)
        assert_true(qn_matcher_accept(x.m, ']'));
    assert_true(qn_matcher_is_over(x.m));
    end(&x);
    return NULL;
}

/* All of it on a stack of 64 KiB (more under a sanitizer, whose frames are larger). */
static void test_stack(void **state)
{
    (void)state;
    pthread_t thread;
    pthread_attr_t attr;
    size_t size = 64 << 10;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    size = 1 << 20;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
    size = 1 << 20;
#endif
#endif
    assert_int_equal(pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstacksize(&attr, size), 0);
    assert_int_equal(pthread_create(&thread, &attr, on_small_stack, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(pthread_attr_destroy(&attr), 0);
}

static void test_limits(void **state)
{
    (void)state;
    qn_form *f = form();
    qn_form_id part = ALT(f, text(f, "ab"), text(f, "a"), text(f, "b"));
    qn_form_id a = qn_form_repeat(f, part, 0, 100000), b = SEQ(f, a, text(f, "c"), a);
    expect_error(f, b, QN_E_TOO_LONG, "found");
    f = form();
    part = range(f, 'a', 'z');
    for (int i = 0; i < 6; i++) { /* a bomb: 26 to the power of 10^18 */
        qn_form_id twice[] = {part, part, text(f, "x")};
        part = qn_form_repeat(f, qn_form_seq(f, twice, 3), 15, 15);
    }
    qn_form_set_root(f, part);
    qn_form_id any = qn_form_any(f), bomb = qn_form_and(f, part, any);
    expect_error(f, bomb, QN_E_TOO_LONG, "found");
    f = form();
    static char end[200000];
    memset(end, 'a', sizeof end);
    end[sizeof end - 1] = 0;
    expect_error(f, qn_form_until(f, end, 0, NULL), QN_E_TOO_LONG, "too long");
    f = form(); /* states whose rows take more than they may */
    qn_form_id list[600];
    qn_char_range every[128];
    for (uint32_t i = 0; i < 128; i++)
        every[i] = (qn_char_range){2 * i, 2 * i};
    for (uint32_t i = 0; i < QN_COUNT(list); i++) {
        const uint32_t c[6] = {
            '0', '2', '4', '6' + 2 * (i / 169), 'A' + 2 * (i % 13), 'a' + 2 * (i / 13 % 13)};
        qn_char_range r[6];
        for (uint32_t k = 0; k < 6; k++)
            r[k] = (qn_char_range){c[k], c[k]};
        part = qn_form_repeat(f, qn_form_chars(f, r, 6, false), 16, 16);
        list[i] = qn_form_repeat(f, part, 16, 16);
    }
    qn_form_id wide = qn_form_chars(f, every, QN_COUNT(every), false);
    expect_error(f, SEQ(f, qn_form_seq(f, list, QN_COUNT(list)), wide), QN_E_TOO_LONG, "MB");
}

/* Texts of three letters: enough that many readings of each take long. */
static qn_vocab_kind letters_of(void *arg, int32_t id, const char **text, size_t *n)
{
    static char three[3];
    (void)arg;
    for (int i = 2; i >= 0; i--, id /= 26)
        three[i] = (char)('a' + id % 26);
    *text = three;
    *n = 3;
    return QN_VOCAB_TEXT;
}

/* A text that can be read in hundreds of ways: it is compiled in time, and what may follow is refused in time. */
static void test_readings(void **state)
{
    (void)state;
    enum { N = 900 };
    fixture x = {0};
    qn_form_id all[N];
    qn_err err = {0};
    assert_int_equal(qn_vocabulary_new(&x.v, 26 * 26 * 26, letters_of, NULL, NULL), QN_OK);
    assert_int_equal(qn_form_new(&x.f, NULL), QN_OK);
    for (int i = 0; i < N; i++) {
        char tail[16];
        (void)snprintf(tail, sizeof tail, "x%d", i);
        all[i] = qn_form_rule(x.f);
        qn_form_define(
            x.f, all[i],
            ALT(x.f, SEQ(x.f, range(x.f, 'a', 'z'), all[i], text(x.f, tail)), text(x.f, "0")));
    }
    compile(&x, SEQ(x.f, range(x.f, 'a', 'z'), qn_form_alt(x.f, all, N)));
    for (int i = 0; i < 20 && qn_matcher_mask(x.m); i++)
        if (!qn_matcher_accept(x.m, 0))
            break;
    assert_int_equal(qn_matcher_fail(x.m, &err), QN_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "too many ways"));
    end(&x);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(test_nested),  cmocka_unit_test(test_characters),
        cmocka_unit_test(test_repeats), cmocka_unit_test(test_and_minus),
        cmocka_unit_test(test_until),   cmocka_unit_test(test_errors),
        cmocka_unit_test(test_limits),  cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_stack),   cmocka_unit_test(test_readings)};
    return cmocka_run_group_tests(t, NULL, NULL);
}
