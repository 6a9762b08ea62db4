/* SPDX-License-Identifier: Apache-2.0
 * fuzz_form.c - any bytes as the building of a form, and then as tokens of a text of it. A mask has the tokens that are
 * allowed, and no others unless a text has too many readings; forced bytes can follow; a fork goes the same way; an error
 * is one of those that are named. */
#include "sample/grammar.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define N_NODES 48

typedef struct input {
    const uint8_t *p;
    size_t n;
} input;

static void check(bool holds)
{
    if (!holds)
        __builtin_trap();
}

static uint32_t next(input *in, uint32_t below)
{
    if (!in->n)
        return 0;
    in->n--;
    return *in->p++ % below;
}

static const char *const words[] = {"a",  "b",        "ab",    "\"",       "\",\"", "[[",   "]",
                                    "],", "\xc3",     "\xa4",  "\xc3\xa4", "a\xc3", "aaaa", "ba\"",
                                    "",   "\xe2\x82", "\xacx", "[",        ",",     "end"};
#define N_WORDS ((int32_t)(sizeof words / sizeof *words))

static qn_vocab_kind word_of(void *arg, int32_t id, const char **text, size_t *n)
{
    (void)arg;
    *text = words[id];
    *n = strlen(words[id]);
    return id == N_WORDS - 1 ? QN_VOCAB_END : QN_VOCAB_TEXT;
}

static qn_form_id leaf(qn_form *f, input *in)
{
    uint32_t at = next(in, N_WORDS - 1);
    qn_char_range r[2] = {{next(in, 128), next(in, 128)},
                          {next(in, 256) * 256, next(in, 256) * 4096}};
    switch (next(in, 6)) {
    case 0:
        return qn_form_any(f);
    case 1:
        return qn_form_until(f, words[at], next(in, 4), words[at]);
    case 2:
    case 3:
        return qn_form_chars(f, r, 1 + next(in, 2), next(in, 2));
    default:
        return qn_form_bytes(f, words[at], strlen(words[at]));
    }
}

static void build(qn_form *f, input *in)
{
    qn_form_id ids[N_NODES], rule = qn_form_rule(f);
    uint32_t n = 0, n_nodes = 1 + next(in, N_NODES - 1);
    ids[n++] = rule;
    for (; n < n_nodes; n++) {
        uint32_t kind = next(in, 9);
        qn_form_id parts[3] = {ids[next(in, n)], ids[next(in, n)], ids[next(in, n)]};
        uint32_t min = next(in, 40), max = next(in, 8) ? min + next(in, 60) : QN_FORM_ENDLESS;
        ids[n] = kind < 3    ? leaf(f, in)
                 : kind == 3 ? qn_form_alt(f, parts, next(in, 4))
                 : kind == 4 ? qn_form_and(f, parts[0], parts[1])
                 : kind == 5 ? qn_form_minus(f, parts[0], parts[1])
                 : kind == 6 ? qn_form_repeat(f, parts[0], min, max)
                             : qn_form_seq(f, parts, next(in, 4));
    }
    qn_form_define(f, rule, ids[next(in, n)]);
    qn_form_set_root(f, ids[n - 1]);
}

/* False: the text has more readings than are followed (QN_LIMIT_GRAMMAR_STACKS); then no token is taken that is not allowed. */
static bool check_place(qn_matcher *m)
{
    char forced[16];
    size_t n_forced = qn_matcher_forced(m, forced, sizeof forced);
    const uint64_t *mask = qn_matcher_mask(m);
    check(!mask || (mask[0] >> (N_WORDS - 1) & 1) == qn_matcher_is_whole(m));
    for (int32_t id = 0; mask && id < N_WORDS; id++) {
        size_t n = strlen(words[id]);
        bool is_set = mask[0] >> id & 1, is_allowed = qn_matcher_allows(m, id);
        check(is_set || !is_allowed);
        if (is_set && !is_allowed)
            return false;
        check(!(mask[0] >> id & 1) || id == N_WORDS - 1 || !n_forced ||
              memcmp(words[id], forced, n < n_forced ? n : n_forced) == 0);
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    input in = {data, n};
    qn_err err = {0};
    qn_vocabulary *v;
    qn_form *f;
    qn_grammar *g;
    qn_matcher *m, *fork;
    check(qn_vocabulary_new(&v, (size_t)N_WORDS, word_of, NULL, NULL) == QN_OK);
    check(qn_form_new(&f, NULL) == QN_OK);
    build(f, &in);
    qn_status s = qn_grammar_compile(&g, v, f, &err);
    check(s == QN_OK || s == QN_E_ARG || s == QN_E_TOO_LONG || s == QN_E_UNSUPPORTED);
    qn_form_free(f);
    if (s == QN_OK) {
        check(qn_matcher_new(&m, g, NULL) == QN_OK);
        for (int i = 0; i < 40 && !qn_matcher_is_over(m); i++) {
            if (!check_place(m))
                break;
            check(qn_matcher_fork(&fork, m, NULL) == QN_OK);
            int32_t id = (int32_t)next(&in, (uint32_t)N_WORDS);
            for (int32_t k = 0; k < N_WORDS && !qn_matcher_accept(m, id); k++)
                id = (id + 1) % N_WORDS;
            check(qn_matcher_accept(fork, id) || !qn_matcher_allows(fork, id));
            qn_matcher_free(fork);
        }
        qn_matcher_free(m);
        qn_grammar_let(g);
    } else {
        check(!g && err.msg[0] && !strchr(err.msg, '\n'));
    }
    qn_vocabulary_free(v);
    return 0;
}
