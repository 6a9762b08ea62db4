/* SPDX-License-Identifier: Apache-2.0
 * fuzz_tokenizer.c - the first byte says what the rest is:
 *   'j' a tokenizer.json   'r' a rank file   0..3 (mod 4, else) text, encoded and decoded with a
 *                                            small vocabulary of that split rule
 *   's' a text that is cut; the two bytes before it are the tokens of a piece and the overlap */
#include "text/tokenizer_build.h"

#include "base/mem.h"
#include "text/nfc.h"
#include "text/segment.h"

#include <string.h>

static const char sample[] =
    "It's a <a>\u00e9! test, 123  \n\n ab<b> \u4e2d\u6587 e\u0301 abab \xf0\x9f\x98\x80";

static void encode_all(const qn_tokenizer *t, const char *text, size_t n, const qn_str *want)
{
    for (int mode = QN_SPECIAL_NONE; mode <= QN_SPECIAL_ALL; mode++) {
        qn_ids ids = {0};
        qn_str all = {0}, pieces = {0};
        qn_detok d;
        if (qn_tokenizer_encode(t, text, n, (qn_special_mode)mode, &ids, NULL) == QN_OK) {
            QN_ASSERT(qn_tokenizer_decode(t, ids.p, ids.n, false, &all, NULL) == QN_OK);
            qn_detok_init(&d, t, false);
            for (size_t i = 0; i < ids.n; i++)
                qn_detok_next(&d, ids.p[i], &pieces);
            qn_detok_end(&d, &pieces);
            QN_ASSERT(all.n == pieces.n && (all.n == 0 || memcmp(all.p, pieces.p, all.n) == 0));
            QN_ASSERT(!want ||
                      (all.n == want->n && (all.n == 0 || memcmp(all.p, want->p, all.n) == 0)));
        } else {
            QN_ASSERT(!qn_utf8_valid(text, n));
        }
        qn_ids_fini(&ids);
        qn_str_fini(&all);
        qn_str_fini(&pieces);
    }
}

static void try_json(const char *p, size_t n)
{
    json_t *j;
    qn_tokenizer *t;
    qn_err err;
    if (qn_json_parse(&j, p, n, 0, "tokenizer.json", &err) != QN_OK)
        return;
    if (qn_tokenizer_from_json(&t, j, "tokenizer.json", &err) == QN_OK) {
        encode_all(t, sample, sizeof(sample) - 1, NULL);
        qn_tokenizer_free(t);
    }
    json_decref(j);
}

static void try_ranks(const char *p, size_t n)
{
    qn_err err;
    qn_tokenizer *t = qn_tokenizer_alloc();
    if (t && qn_tokenizer_set_ranks(t, (qn_slice){p, n}, "ranks", &err) == QN_OK &&
        qn_tokenizer_finish(t, false, "ranks", &err) == QN_OK)
        encode_all(t, sample, sizeof(sample) - 1, NULL);
    qn_tokenizer_free(t);
}

/* All bytes, some merges, two added tokens. Lives as long as the program. */
static const qn_tokenizer *small(int split)
{
    static qn_tokenizer *made[4];
    static const int32_t merges[][2] = {{'a', 'b'}, {' ', 'a'}, {256, 256}, {'x', 'x'},
                                        {259, 259}, {' ', ' '}, {261, 261}, {0xC3, 0xA9}};
    qn_tokenizer *t = made[split] ? made[split] : qn_tokenizer_alloc();
    if (!t || made[split])
        return t;
    t->pretok = (qn_pretok){(qn_split)split, split == QN_SPLIT_GPT2};
    t->nfc = split != QN_SPLIT_GPT2;
    bool ok = true;
    for (int i = 0; i < 256; i++) {
        char c = (char)i;
        ok = ok && qn_vocab_set(&t->vocab, i, (qn_slice){&c, 1}, true, QN_TOKEN_NORMAL, true,
                                "small", NULL) == QN_OK;
    }
    for (size_t i = 0; ok && i < QN_COUNT(merges); i++) {
        qn_slice l = qn_tokenizer_bytes(t, merges[i][0]), r = qn_tokenizer_bytes(t, merges[i][1]);
        char joined[16];
        memcpy(joined, l.p, l.n);
        memcpy(joined + l.n, r.p, r.n);
        ok = qn_vocab_set(&t->vocab, 256 + (int64_t)i, (qn_slice){joined, l.n + r.n}, true,
                          QN_TOKEN_NORMAL, true, "small", NULL) == QN_OK;
        qn_pair_slot *s =
            qn_pairs_add(&t->bpe.merges, (uint32_t)merges[i][0], (uint32_t)merges[i][1]);
        ok = ok && s;
        if (ok)
            *s = (qn_pair_slot){s->key, (uint32_t)i, 256 + (uint32_t)i};
    }
    qn_added_token a = {.id = 300, .special = true}, b = {.id = 301};
    ok = ok && qn_tokenizer_add(t, QN_SLICE("<a|"), &a, "small", NULL) == QN_OK &&
         qn_tokenizer_add(t, QN_SLICE("<a|<b|"), &b, "small", NULL) == QN_OK &&
         qn_tokenizer_finish(t, true, "small", NULL) == QN_OK;
    QN_ASSERT(ok);
    made[split] = t;
    return t;
}

/* What comes back is the text, normalised: the added tokens do not end in what a mark could
 * join. */
static void try_text(int split, const char *p, size_t n)
{
    const qn_tokenizer *t = small(split);
    qn_str want = {0};
    qn_nfc_scratch scratch = {0};
    bool valid = qn_utf8_valid(p, n);
    if (valid && t->nfc)
        qn_nfc(&want, p, n, &scratch);
    else
        qn_str_add(&want, p, n);
    encode_all(t, p, n, valid ? &want : NULL);
    qn_str_fini(&want);
    qn_nfc_scratch_fini(&scratch);
}

/* Each byte is new in one piece, and no piece is too long. */
static void try_cut(size_t most, size_t overlap, const char *p, size_t n)
{
    const qn_tokenizer *t = small(QN_SPLIT_QWEN2);
    qn_segments s;
    qn_ids ids = {0};
    size_t at = 0;
    qn_status st = qn_segments_cut(&s, t, (qn_slice){p, n}, most, overlap, NULL);
    QN_ASSERT(st == QN_OK || st == (qn_utf8_valid(p, n) ? QN_E_TOO_LONG : QN_E_FORMAT));
    for (size_t i = 0; i < s.n; at = s.p[i++].end) {
        const qn_segment *x = &s.p[i];
        QN_ASSERT(x->begin <= x->fresh && x->fresh == at && x->fresh < x->end && x->end <= n);
        QN_ASSERT(x->n_tokens <= most && x->n_overlap <= overlap);
        ids.n = 0; /* which fails inside a code point */
        QN_ASSERT(qn_tokenizer_encode(t, p + x->begin, x->end - x->begin, QN_SPECIAL_NONE, &ids,
                                      NULL) == QN_OK);
        QN_ASSERT(ids.n == x->n_tokens);
    }
    QN_ASSERT(st != QN_OK || at == n);
    qn_ids_fini(&ids);
    qn_segments_fini(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    const char *p = (const char *)data + 1;
    if (*data == 'j')
        try_json(p, n - 1);
    else if (*data == 'r')
        try_ranks(p, n - 1);
    else if (*data == 's' && n > 2)
        try_cut(1u + data[1], data[2] % (1u + data[1]), p + 2, n - 3);
    else
        try_text(*data % 4, p, n - 1);
    return 0;
}
