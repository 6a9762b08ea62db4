/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_build.c - the steps all files share: entries, merges, added tokens; and rank files. */
#include "text/tokenizer_build.h"

#include "base/limits.h"
#include "text/nfc.h"

#include <string.h>

#define MAX_RANK_TOKEN 256 /* bytes: splitting one costs its square */

qn_tokenizer *qn_tokenizer_alloc(void)
{
    qn_tokenizer *t = qn_calloc(1, sizeof(*t), QN_MEM_VOCAB);
    if (t)
        t->bos = t->eos = t->end = -1;
    return t;
}

/* The bytes that text stands for: decoded into *buf if it is all in the byte alphabet, else its
 * own. */
static bool bytes_of(qn_str *buf, qn_slice text, qn_slice *bytes, bool *coded)
{
    size_t n;
    qn_str_clear(buf);
    qn_str_add(buf, text.p, text.n); /* as long as the result can be */
    if (buf->failed)
        return false;
    *coded = text.n == 0 || qn_bytes_decode(text.p, text.n, buf->p, &n);
    *bytes = *coded && text.n > 0 ? (qn_slice){buf->p, n} : text;
    return true;
}

qn_status qn_tokenizer_set(qn_tokenizer *t, int64_t id, qn_slice text, const char *where,
                           qn_err *err)
{
    qn_slice bytes;
    bool coded;
    if (!bytes_of(&t->tmp, text, &bytes, &coded))
        return qn_fail_nomem(err, text.n);
    return qn_vocab_set(&t->vocab, id, bytes, coded, QN_TOKEN_NORMAL, true, where, err);
}

/* The id of an entry as files write it, or -1. */
static int32_t entry_of(qn_tokenizer *t, qn_slice text)
{
    qn_slice bytes;
    bool coded;
    if (!bytes_of(&t->tmp, text, &bytes, &coded))
        return -1;
    return qn_vocab_find(&t->vocab, bytes, coded);
}

static qn_status fail_merge(qn_slice part, const char *what, uint32_t rank, const char *where,
                            qn_err *err)
{
    char name[64];
    qn_escape(name, sizeof(name), part.p, QN_MIN(part.n, (size_t)40));
    return qn_fail(err, QN_E_FORMAT, "%s[%lu]: %s '%s' is not in the vocabulary", where,
                   (unsigned long)rank, what, name);
}

qn_status qn_tokenizer_merge(qn_tokenizer *t, qn_slice left, qn_slice right, uint32_t rank,
                             const char *where, qn_err *err)
{
    int32_t l = entry_of(t, left), r = entry_of(t, right);
    if (l < 0 || r < 0)
        return t->tmp.failed ? qn_fail_nomem(err, left.n + right.n)
                             : fail_merge(l < 0 ? left : right, "part", rank, where, err);
    qn_str_clear(&t->join);
    qn_str_add(&t->join, left.p, left.n);
    qn_str_add(&t->join, right.p, right.n);
    if (t->join.failed)
        return qn_fail_nomem(err, left.n + right.n);
    qn_slice both = {t->join.p, t->join.n};
    int32_t id = entry_of(t, both);
    if (id < 0)
        return t->tmp.failed ? qn_fail_nomem(err, both.n)
                             : fail_merge(both, "result", rank, where, err);
    qn_pair_slot *pair = qn_pairs_add(&t->bpe.merges, (uint32_t)l, (uint32_t)r);
    if (!pair)
        return qn_fail_nomem(err, both.n);
    pair->first = rank;
    pair->second = (uint32_t)id;
    return QN_OK;
}

qn_status qn_tokenizer_merge_line(qn_tokenizer *t, qn_slice line, uint32_t rank, const char *where,
                                  qn_err *err)
{
    const char *space = line.n ? memchr(line.p, ' ', line.n) : NULL;
    size_t n = space ? (size_t)(space - line.p) : 0;
    if (!space || memchr(space + 1, ' ', line.n - n - 1)) {
        char name[64];
        qn_escape(name, sizeof(name), line.p, QN_MIN(line.n, (size_t)40));
        return qn_fail(err, QN_E_FORMAT, "%s[%lu]: found '%s', want two parts and one space", where,
                       (unsigned long)rank, name);
    }
    return qn_tokenizer_merge(t, (qn_slice){line.p, n}, (qn_slice){space + 1, line.n - n - 1}, rank,
                              where, err);
}

static qn_status add(qn_tokenizer *t, qn_slice content, qn_slice normal,
                     const qn_added_token *token, const char *where, qn_err *err)
{
    int kind = token->special ? QN_TOKEN_SPECIAL : QN_TOKEN_ADDED;
    int32_t id = entry_of(t, content);
    qn_slice bytes;
    bool coded;
    if (!bytes_of(&t->tmp, normal, &bytes, &coded))
        return qn_fail_nomem(err, content.n);
    if (id >= 0 && id != token->id) {
        char name[64];
        qn_escape(name, sizeof(name), content.p, QN_MIN(content.n, (size_t)40));
        return qn_fail(err, QN_E_FORMAT, "%s: '%s': found id %ld, the vocabulary has it as %ld",
                       where, name, (long)token->id, (long)id);
    }
    if (id >= 0)
        t->vocab.tokens[id].kind = (uint8_t)kind;
    else
        QN_TRY(qn_vocab_set(&t->vocab, token->id, bytes, coded, kind, false, where, err));
    return qn_added_add(token->normalized ? &t->normal : &t->raw, normal, token, where, err);
}

qn_status qn_tokenizer_add(qn_tokenizer *t, qn_slice content, const qn_added_token *token,
                           const char *where, qn_err *err)
{
    if (content.n == 0)
        return QN_OK;
    if (!token->normalized || !t->nfc || qn_nfc_is_plain(content.p, content.n))
        return add(t, content, content, token, where, err);
    qn_nfc_scratch scratch = {0};
    qn_str normal = {0};
    qn_nfc(&normal, content.p, content.n, &scratch);
    qn_status s = normal.failed
                      ? qn_fail_nomem(err, content.n)
                      : add(t, content, (qn_slice){normal.p, normal.n}, token, where, err);
    qn_nfc_scratch_fini(&scratch);
    qn_str_fini(&normal);
    return s;
}

qn_status qn_tokenizer_finish(qn_tokenizer *t, bool all_bytes, const char *where, qn_err *err)
{
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        t->bpe.byte_id[b] = qn_vocab_find(&t->vocab, (qn_slice){&c, 1}, true);
        if (all_bytes && t->bpe.byte_id[b] < 0)
            return qn_fail(err, QN_E_UNSUPPORTED,
                           "%s: no token for byte 0x%02x, want one for each of the 256", where, b);
    }
    if (t->vocab.n == 0)
        return qn_fail(err, QN_E_FORMAT, "%s: no tokens", where);
    qn_str_fini(&t->tmp);
    qn_str_fini(&t->join);
    return QN_OK;
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Padded base64 of 1..MAX_RANK_TOKEN bytes. */
static bool base64_decode(const char *p, size_t n, char *out, size_t *n_out)
{
    size_t m = 0, pad = 0;
    if (n == 0 || n % 4 != 0 || n / 4 * 3 > MAX_RANK_TOKEN + 2)
        return false;
    while (pad < 2 && p[n - 1 - pad] == '=')
        pad++;
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        int v = i < n - pad ? base64_value(p[i]) : 0;
        if (v < 0)
            return false;
        bits = bits << 6 | (uint32_t)v;
        if (i % 4 == 3) {
            out[m++] = (char)(bits >> 16);
            out[m++] = (char)(bits >> 8);
            out[m++] = (char)bits;
        }
    }
    *n_out = m - pad;
    return *n_out <= MAX_RANK_TOKEN;
}

static qn_status set_rank_line(qn_tokenizer *t, qn_slice line, size_t number, const char *file,
                               qn_err *err)
{
    char bytes[MAX_RANK_TOKEN + 2];
    const char *space = memchr(line.p, ' ', line.n);
    size_t n = space ? (size_t)(space - line.p) : 0, len;
    uint64_t rank;
    if (!space || !base64_decode(line.p, n, bytes, &len) ||
        !qn_parse_u64(space + 1, line.n - n - 1, QN_LIMIT_VOCAB - 1, &rank))
        return qn_fail(err, QN_E_FORMAT,
                       "%s: line %zu: want base64 of 1..%d bytes, a space and a rank", file, number,
                       MAX_RANK_TOKEN);
    return qn_vocab_set(&t->vocab, (int64_t)rank, (qn_slice){bytes, len}, true, QN_TOKEN_NORMAL,
                        true, file, err);
}

/* Two parts merge if their join is a token, at that token's rank: every split of every token is a
 * merge. */
static bool merge_splits(qn_tokenizer *t, uint32_t id)
{
    qn_slice s = qn_vocab_bytes(&t->vocab, id);
    for (size_t k = 1; k < s.n; k++) {
        int32_t l = qn_vocab_find(&t->vocab, (qn_slice){s.p, k}, true);
        int32_t r = l < 0 ? -1 : qn_vocab_find(&t->vocab, (qn_slice){s.p + k, s.n - k}, true);
        if (r < 0)
            continue;
        qn_pair_slot *pair = qn_pairs_add(&t->bpe.merges, (uint32_t)l, (uint32_t)r);
        if (!pair)
            return false;
        pair->first = pair->second = id;
    }
    return true;
}

qn_status qn_tokenizer_set_ranks(qn_tokenizer *t, qn_slice text, const char *file, qn_err *err)
{
    size_t number = 0;
    while (text.n > 0) {
        const char *end = memchr(text.p, '\n', text.n);
        size_t n = end ? (size_t)(end - text.p) : text.n;
        qn_slice line = {text.p, n > 0 && text.p[n - 1] == '\r' ? n - 1 : n};
        number++;
        if (line.n > 0)
            QN_TRY(set_rank_line(t, line, number, file, err));
        text = (qn_slice){text.p + QN_MIN(n + 1, text.n), text.n - QN_MIN(n + 1, text.n)};
    }
    for (uint32_t id = 0; id < t->vocab.n; id++)
        if (t->vocab.tokens[id].kind != QN_TOKEN_UNUSED && !merge_splits(t, id))
            return qn_fail_nomem(err, text.n);
    t->whole_words = true;
    return QN_OK;
}
