/* SPDX-License-Identifier: Apache-2.0
 * test_masks.c - random forms and random vocabularies: what may follow is what the plain recogniser says (plain.h). */
#include "check.h"

#include "plain.h"
#include "sample/grammar.h"

#include <stdlib.h>

#define N_TOKENS 160
#define END_ID   (N_TOKENS - 1)
#define MAX_TEXT 8

typedef struct random_state {
    uint64_t x;
} random_state;

static uint32_t below(random_state *r, uint32_t n)
{
    r->x = r->x * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((r->x >> 33) % n);
}

/* ---- a vocabulary: bytes and pieces of the alphabet that forms are made of ---- */

static const char *const alphabet[] = {"a", "b", "c",        "\"",           ",",
                                       "[", "]", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};

typedef struct words {
    char text[N_TOKENS][MAX_TEXT];
    size_t n[N_TOKENS];
} words;

static void fill_words(words *w, random_state *r)
{
    static const char bytes[] = "abc\",[]\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80x";
    memset(w, 0, sizeof *w);
    for (size_t i = 0; i < END_ID; i++) {
        char *p = w->text[i];
        if (i < sizeof bytes - 1) {
            p[w->n[i]++] = bytes[i];
            continue;
        }
        char all[32] = {0};
        size_t n = 0, n_parts = 1 + below(r, 4);
        for (size_t k = 0; k < n_parts; k++) {
            const char *part = alphabet[below(r, QN_COUNT(alphabet))];
            memcpy(all + n, part, strlen(part));
            n += strlen(part);
        }
        size_t from = below(r, 4) ? 0 : below(r, (uint32_t)n); /* a quarter begins in a character */
        w->n[i] = QN_MIN(n - from, 1 + below(r, MAX_TEXT - 1));
        memcpy(p, all + from, w->n[i]);
    }
}

static qn_vocab_kind word_of(void *arg, int32_t id, const char **text, size_t *n)
{
    words *w = arg;
    *text = w->text[id];
    *n = w->n[id];
    return id == END_ID ? QN_VOCAB_END : QN_VOCAB_TEXT;
}

/* ---- random forms ---- */

typedef struct pool {
    qn_form_id ids[64], rules[4];
    bool is_flat[64]; /* no rule, no count of tokens */
    uint32_t n, n_rules;
} pool;

static qn_form_id leaf(qn_form *f, random_state *r)
{
    static const qn_char_range sets[][2] = {{{'a', 'c'}, {0, 0}},
                                            {{'b', 'c'}, {0x80, 0x10ffff}},
                                            {{0xe0, 0x20ff}, {'a', 'a'}},
                                            {{'"', '"'}, {'\\', '\\'}}};
    uint32_t kind = below(r, 10);
    if (kind < 6) {
        char text[16];
        size_t n = 0;
        for (uint32_t k = 1 + below(r, 3); k; k--) {
            const char *part = alphabet[below(r, QN_COUNT(alphabet))];
            memcpy(text + n, part, strlen(part));
            n += strlen(part);
        }
        return qn_form_bytes(f, text, n);
    }
    if (kind < 9) {
        uint32_t i = below(r, QN_COUNT(sets));
        return qn_form_chars(f, sets[i], 2, i == 3);
    }
    return below(r, 3) ? qn_form_until(f, below(r, 2) ? "ab" : "\"a\"", 0, NULL) : qn_form_any(f);
}

static void add_form(qn_form *f, random_state *r, pool *p)
{
    uint32_t kind = p->n < 3 ? 0 : below(r, 14);
    qn_form_id parts[4], made;
    bool is_flat = true;
    uint32_t n = 2 + below(r, 3);
    for (uint32_t i = 0; i < n; i++) {
        if (p->n == 0 || (p->n_rules && below(r, 6) == 0)) {
            parts[i] = p->n_rules ? p->rules[below(r, p->n_rules)] : leaf(f, r);
            is_flat = is_flat && !p->n_rules;
        } else {
            uint32_t k = below(r, p->n);
            parts[i] = p->ids[k];
            is_flat = is_flat && p->is_flat[k];
        }
    }
    static const uint32_t bounds[][2] = {{0, QN_FORM_ENDLESS},
                                         {1, QN_FORM_ENDLESS},
                                         {0, 1},
                                         {2, 3},
                                         {0, 40},
                                         {3, 30},
                                         {25, 25},
                                         {20, QN_FORM_ENDLESS},
                                         {2, 60}};
    const uint32_t *b = bounds[below(r, QN_COUNT(bounds))];
    if (kind < 4) {
        made = leaf(f, r);
        is_flat = true;
    } else if (kind < 7) {
        made = qn_form_seq(f, parts, n);
    } else if (kind < 9) {
        made = qn_form_alt(f, parts, n);
    } else if (kind < 12) {
        made = qn_form_repeat(f, parts[0], b[0], b[1]);
    } else if (kind == 12 && is_flat) {
        made =
            below(r, 2) ? qn_form_and(f, parts[0], parts[1]) : qn_form_minus(f, parts[0], parts[1]);
    } else {
        bool is_short = below(r, 2);
        qn_form_id until =
            qn_form_until(f, is_short ? "ab" : "a,a", 1 + below(r, 4), is_short ? "[ab" : "a,a");
        made = below(r, 3) ? qn_form_seq(f, parts, n) : until;
        is_flat = is_flat && made != until;
    }
    p->ids[p->n] = made;
    p->is_flat[p->n++] = is_flat;
}

static qn_form *random_form(random_state *r)
{
    qn_form *f;
    pool p = {.n_rules = below(r, 4)};
    assert_int_equal(qn_form_new(&f, NULL), QN_OK);
    for (uint32_t i = 0; i < p.n_rules; i++)
        p.rules[i] = qn_form_rule(f);
    uint32_t n = 4 + below(r, 20);
    for (uint32_t i = 0; i < n; i++)
        add_form(f, r, &p);
    for (uint32_t i = 0; i < p.n_rules; i++)
        qn_form_define(f, p.rules[i], p.ids[below(r, p.n)]);
    qn_form_set_root(f, p.ids[p.n - 1 - below(r, 3)]);
    return f;
}

/* ---- both read the same ---- */

static bool in_mask(const uint64_t *mask, int32_t id)
{
    return mask[id / 64] >> id % 64 & 1;
}

static void check_step(qn_matcher *m, plain_text *t, const words *w, uint64_t seed)
{
    const uint64_t *mask = qn_matcher_mask(m);
    if (!mask)
        fail_msg("seed %llu: no mask", (unsigned long long)seed);
    assert_int_equal(in_mask(mask, END_ID), t->is_end);
    assert_int_equal(qn_matcher_is_whole(m), t->is_end);
    for (int32_t id = 0; id < END_ID; id++) {
        bool want = plain_text_follow(t, w->text[id], w->n[id], false);
        if (in_mask(mask, id) != want || qn_matcher_allows(m, id) != want)
            fail_msg("seed %llu, token %d (%.*s): found %d, allows %d, want %d",
                     (unsigned long long)seed, id, (int)w->n[id], w->text[id], in_mask(mask, id),
                     qn_matcher_allows(m, id), want);
    }
}

static void check_forced(qn_matcher *m, plain_text *t, uint64_t seed)
{
    char out[16];
    bool is_end;
    size_t n = qn_matcher_forced(m, out, sizeof out, &is_end);
    uint32_t n_next = 0;
    if (n && !plain_text_follow(t, out, n, false))
        fail_msg("seed %llu: forced bytes may not follow", (unsigned long long)seed);
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        bool may = plain_text_follow(t, &c, 1, false);
        n_next += may;
        if (n && may && c != out[0])
            fail_msg("seed %llu: forced bytes, and others", (unsigned long long)seed);
    }
    if (n == 0 && is_end != (n_next == 0))
        fail_msg("seed %llu: %u bytes may follow what is %sover", (unsigned long long)seed, n_next,
                 is_end ? "" : "not ");
    if (n == 0 && n_next == 1 && !t->is_end)
        fail_msg("seed %llu: no forced bytes", (unsigned long long)seed);
}

/* Texts of random tokens that may follow, the masks looked at now and then; a fork goes on for the other. */
static void check_texts(qn_grammar *g, const plain *p, const words *w, random_state *r,
                        uint64_t seed)
{
    for (int text = 0; text < 3; text++) {
        plain_text t;
        qn_matcher *m, *other;
        assert_int_equal(qn_matcher_new(&m, g, NULL), QN_OK);
        assert_true(plain_text_init(&t, p));
        uint32_t n_steps = text == 2 ? 60 : 12;
        for (uint32_t i = 0; i < n_steps && t.w->n < 20000; i++) {
            if (i < 6 || i % 8 == 0)
                check_step(m, &t, w, seed);
            if (i % 4 == 0)
                check_forced(m, &t, seed);
            int32_t id = -1, first = (int32_t)below(r, END_ID);
            for (int32_t k = 0; k < END_ID && id < 0; k++)
                if (qn_matcher_allows(m, (first + k) % END_ID))
                    id = (first + k) % END_ID;
            if (id < 0)
                break;
            assert_int_equal(qn_matcher_fork(&other, m, NULL), QN_OK);
            if (!qn_matcher_accept(m, id) || !plain_text_follow(&t, w->text[id], w->n[id], true))
                fail_msg("seed %llu: a token that may follow does not", (unsigned long long)seed);
            if (below(r, 2)) { /* the fork takes over */
                assert_true(qn_matcher_accept(other, id));
                qn_matcher_free(m);
                m = other;
            } else {
                qn_matcher_free(other);
            }
        }
        qn_matcher_free(m);
        plain_text_fini(&t);
    }
}

static bool check_form(uint64_t seed)
{
    random_state r = {seed * 0x9e3779b97f4a7c15u + 1};
    static words w;
    qn_vocabulary *v;
    qn_grammar *g;
    qn_err err = {0};
    fill_words(&w, &r);
    assert_int_equal(qn_vocabulary_new(&v, N_TOKENS, word_of, &w, NULL), QN_OK);
    qn_form *f = random_form(&r);
    qn_status s = qn_grammar_compile(&g, v, f, &err);
    plain *p = plain_new(f, NULL);
    if (s == QN_OK && p)
        check_texts(g, p, &w, &r, seed);
    else if ((s == QN_E_ARG) != !p && s != QN_E_TOO_LONG && p)
        fail_msg("seed %llu: status %d (%s), the plain one takes it", (unsigned long long)seed,
                 (int)s, err.msg);
    plain_free_all(p);
    qn_grammar_let(g);
    qn_form_free(f);
    qn_vocabulary_free(v);
    return s == QN_OK;
}

static uint64_t first_seed = 1, n_seeds = 40; /* test_masks FIRST N looks at others */

static void test_random(void **state)
{
    (void)state;
    uint64_t n_good = 0;
    for (uint64_t seed = first_seed; seed < first_seed + n_seeds; seed++)
        n_good += check_form(seed);
    print_message("%llu of %llu forms were compiled\n", (unsigned long long)n_good,
                  (unsigned long long)n_seeds);
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        assert_int_equal(qn_mem_live((qn_mem_tag)t), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest t[] = {cmocka_unit_test(test_random)};
    if (argc == 3) {
        first_seed = strtoull(argv[1], NULL, 10);
        n_seeds = strtoull(argv[2], NULL, 10);
    }
    return cmocka_run_group_tests(t, NULL, NULL);
}
