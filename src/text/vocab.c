/* SPDX-License-Identifier: Apache-2.0
 * vocab.c - storing tokens and finding them; the byte alphabet. */
#include "text/vocab.h"

#include "base/limits.h"
#include "base/mem.h"
#include "text/tokenizer.h"

#include <string.h>

/* The byte that a character of the alphabet stands for, or -1: printable Latin-1 is itself; the 68
 * other bytes, in order, are U+0100..U+0143. */
static int byte_of(uint32_t cp)
{
    if ((cp >= 0x21 && cp <= 0x7E) || (cp >= 0xA1 && cp <= 0xAC) || (cp >= 0xAE && cp <= 0xFF))
        return (int)cp;
    if (cp < 0x100 || cp > 0x143)
        return -1;
    uint32_t i = cp - 0x100;
    if (i <= 0x20)
        return (int)i;
    return i <= 0x42 ? (int)(0x7F + i - 0x21) : 0xAD;
}

bool qn_bytes_decode(const char *p, size_t n, char *out, size_t *n_out)
{
    size_t m = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = qn_utf8_decode(p + i, n - i, &cp);
        int b = len ? byte_of(cp) : -1;
        if (b < 0)
            return false;
        out[m++] = (char)b;
        i += len;
    }
    *n_out = m;
    return true;
}

qn_slice qn_vocab_bytes(const qn_vocab *v, size_t id)
{
    return (qn_slice){v->pool + v->tokens[id].at, v->tokens[id].n};
}

/* The slot that holds the token, or the free one where it would go. */
static uint32_t *probe(const qn_vocab *v, qn_slice bytes, bool coded)
{
    size_t i = (size_t)qn_hash(bytes.p, bytes.n, v->seed + coded) & (v->n_slots - 1);
    for (; v->slots[i] != UINT32_MAX; i = (i + 1) & (v->n_slots - 1))
        if (v->tokens[v->slots[i]].coded == coded &&
            qn_slice_eq(qn_vocab_bytes(v, v->slots[i]), bytes))
            break;
    return &v->slots[i];
}

int32_t qn_vocab_find(const qn_vocab *v, qn_slice bytes, bool coded)
{
    if (v->n_slots == 0)
        return -1;
    return (int32_t)*probe(v, bytes, coded); /* UINT32_MAX is -1 */
}

static bool index_reserve(qn_vocab *v)
{
    if (v->n_indexed * 2 < v->n_slots)
        return true;
    qn_vocab big = *v;
    big.n_slots = v->n_slots ? v->n_slots * 2 : 1024;
    if (v->n_slots == 0) {
        uint64_t noise[2] = {qn_now_ns(), (uint64_t)(uintptr_t)v};
        big.seed = qn_hash(noise, sizeof(noise), 0); /* a file cannot know which tokens collide */
    }
    big.slots = qn_alloc_array(big.n_slots, sizeof(*big.slots), QN_MEM_VOCAB);
    if (!big.slots)
        return false;
    memset(big.slots, 0xFF, big.n_slots * sizeof(*big.slots));
    for (size_t i = 0; i < v->n_slots; i++) {
        uint32_t id = v->slots[i];
        if (id != UINT32_MAX)
            *probe(&big, qn_vocab_bytes(v, id), v->tokens[id].coded) = id;
    }
    qn_free(v->slots);
    *v = big;
    return true;
}

static bool tokens_reserve(qn_vocab *v, size_t n)
{
    if (!qn_grow(&v->tokens, &v->cap, n, sizeof(*v->tokens), QN_MEM_VOCAB))
        return false;
    for (; v->n < n; v->n++)
        v->tokens[v->n] = (qn_token){.kind = QN_TOKEN_UNUSED};
    return true;
}

qn_status qn_vocab_set(qn_vocab *v, int64_t id, qn_slice bytes, bool coded, int kind, bool indexed,
                       const char *where, qn_err *err)
{
    char name[64];
    qn_escape(name, sizeof(name), bytes.p, QN_MIN(bytes.n, (size_t)40));
    if (id < 0 || id >= QN_LIMIT_VOCAB)
        return qn_fail(err, QN_E_FORMAT, "%s: '%s': found id %lld, want 0..%d", where, name,
                       (long long)id, QN_LIMIT_VOCAB - 1);
    if (bytes.n > UINT32_MAX - v->n_pool)
        return qn_fail(err, QN_E_TOO_LONG, "%s: tokens of more than 4 GiB", where);
    if (!tokens_reserve(v, (size_t)id + 1) || (indexed && !index_reserve(v)) ||
        !qn_grow(&v->pool, &v->pool_cap, v->n_pool + bytes.n + 1, 1, QN_MEM_VOCAB))
        return qn_fail_nomem(err, bytes.n);
    qn_token *t = &v->tokens[id];
    if (t->kind != QN_TOKEN_UNUSED)
        return qn_fail(err, QN_E_FORMAT, "%s: '%s': found id %lld, which another token has", where,
                       name, (long long)id);
    uint32_t *slot = indexed ? probe(v, bytes, coded) : NULL;
    if (slot && *slot != UINT32_MAX)
        return qn_fail(err, QN_E_FORMAT, "%s: '%s' is there twice, ids %lu and %lld", where, name,
                       (unsigned long)*slot, (long long)id);
    *t = (qn_token){(uint32_t)v->n_pool, (uint32_t)bytes.n, (uint8_t)kind, coded};
    if (bytes.n > 0)
        memcpy(v->pool + v->n_pool, bytes.p, bytes.n);
    v->n_pool += bytes.n;
    if (slot) {
        *slot = (uint32_t)id;
        v->n_indexed++;
    }
    return QN_OK;
}

void qn_vocab_fini(qn_vocab *v)
{
    qn_free(v->tokens);
    qn_free(v->pool);
    qn_free(v->slots);
    *v = (qn_vocab){0};
}
