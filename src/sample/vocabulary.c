/* SPDX-License-Identifier: Apache-2.0
 * vocabulary.c - see vocabulary.h. */
#include "sample/vocabulary.h"

#include "base/limits.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Nodes for the bytes that the text before does not share. */
bool qn_trie_add(qn_trie *t, const uint8_t *text, size_t n, int32_t token, int tag)
{
    size_t same = 0;
    while (same < t->n_path && same < n && t->nodes[t->path[same]].byte == text[same])
        same++;
    if (same == n) /* the same text again */
        same--;
    for (size_t i = same; i < t->n_path; i++)
        t->nodes[t->path[i]].skip = (uint32_t)t->n;
    t->n_path = same;
    if (!qn_grow(&t->nodes, &t->cap, t->n + n - same, sizeof *t->nodes, (qn_mem_tag)tag) ||
        !qn_grow(&t->path, &t->path_cap, n, sizeof *t->path, (qn_mem_tag)tag))
        return false;
    for (size_t i = same; i < n; i++) {
        t->path[t->n_path++] = (uint32_t)t->n;
        t->nodes[t->n++] = (qn_trie_node){.token = -1, .depth = (uint16_t)(i + 1), .byte = text[i]};
    }
    t->nodes[t->path[n - 1]].token = token;
    return true;
}

void qn_trie_end(qn_trie *t)
{
    while (t->n_path)
        t->nodes[t->path[--t->n_path]].skip = (uint32_t)t->n;
}

void qn_vocabulary_free(qn_vocabulary *v)
{
    if (!v)
        return;
    qn_free(v->trie.nodes);
    qn_free(v->trie.path);
    qn_free(v->text_at);
    qn_free(v->bytes);
    qn_free(v->ends);
    qn_free(v);
}

size_t qn_vocabulary_n_bytes(const qn_vocabulary *v)
{
    return sizeof *v + v->trie.cap * sizeof *v->trie.nodes +
           (v->n_tokens + 1) * sizeof *v->text_at + v->text_at[v->n_tokens] +
           v->n_ends * sizeof *v->ends;
}

bool qn_vocabulary_is_end(const qn_vocabulary *v, int32_t id)
{
    for (size_t i = 0; i < v->n_ends; i++)
        if (v->ends[i] == id)
            return true;
    return false;
}

static int by_text(const void *x, const void *y, void *arg)
{
    const qn_vocabulary *v = arg;
    size_t n, m;
    int32_t i = *(const int32_t *)x, j = *(const int32_t *)y;
    const uint8_t *a = qn_vocabulary_text(v, i, &n), *b = qn_vocabulary_text(v, j, &m);
    int c = n && m ? memcmp(a, b, QN_MIN(n, m)) : 0;
    if (c == 0)
        c = (n > m) - (n < m);
    return c ? c : (i > j) - (i < j);
}

static qn_status copy_texts(qn_vocabulary *v, qn_vocab_fn fn, void *arg, qn_err *err)
{
    size_t cap = 0, n_bytes = 0, ends_cap = 0;
    for (size_t id = 0; id < v->n_tokens; id++) {
        const char *text = "";
        size_t n = 0;
        qn_vocab_kind kind = fn(arg, (int32_t)id, &text, &n);
        v->text_at[id] = (uint32_t)n_bytes;
        if (kind == QN_VOCAB_END) {
            if (!qn_grow(&v->ends, &ends_cap, v->n_ends + 1, sizeof *v->ends, QN_MEM_VOCAB))
                return qn_fail_nomem(err, (v->n_ends + 1) * sizeof *v->ends);
            v->ends[v->n_ends++] = (int32_t)id;
        }
        if (kind != QN_VOCAB_TEXT || n == 0)
            continue;
        if (n > QN_LIMIT_GRAMMAR_TOKEN)
            return qn_fail(err, QN_E_TOO_LONG, "token %zu: found %zu bytes, want at most %d", id, n,
                           QN_LIMIT_GRAMMAR_TOKEN);
        if (n_bytes + n > INT32_MAX)
            return qn_fail(err, QN_E_TOO_LONG, "token %zu: found 2 GiB of bytes before it", id);
        if (!qn_grow(&v->bytes, &cap, n_bytes + n, 1, QN_MEM_VOCAB))
            return qn_fail_nomem(err, n_bytes + n);
        memcpy(v->bytes + n_bytes, text, n);
        n_bytes += n;
    }
    v->text_at[v->n_tokens] = (uint32_t)n_bytes;
    return QN_OK;
}

static qn_status build_trie(qn_vocabulary *v, qn_err *err)
{
    int32_t *order = qn_alloc_array(v->n_tokens + 1, sizeof *order, QN_MEM_VOCAB);
    size_t n = 0, n_text;
    bool done = order;
    for (size_t id = 0; done && id < v->n_tokens; id++)
        if (v->text_at[id + 1] > v->text_at[id])
            order[n++] = (int32_t)id;
    if (done)
        qsort_r(order, n, sizeof *order, by_text, v);
    for (size_t i = 0; done && i < n; i++) {
        const uint8_t *text = qn_vocabulary_text(v, order[i], &n_text);
        done = qn_trie_add(&v->trie, text, n_text, order[i], QN_MEM_VOCAB);
        v->max_depth = QN_MAX(v->max_depth, (uint32_t)n_text);
    }
    qn_free(order);
    if (!done)
        return qn_fail_nomem(err, v->trie.n * sizeof *v->trie.nodes);
    qn_trie_end(&v->trie);
    uint32_t at = 0;
    for (uint32_t b = 0; b <= 256; b++) {
        while (at < v->trie.n && v->trie.nodes[at].byte < b)
            at = v->trie.nodes[at].skip;
        v->first[b] = b < 256 ? at : (uint32_t)v->trie.n;
    }
    return QN_OK;
}

qn_status qn_vocabulary_new(qn_vocabulary **out, size_t n_tokens, qn_vocab_fn fn, void *arg,
                            qn_err *err)
{
    *out = NULL;
    if (n_tokens > QN_LIMIT_VOCAB)
        return qn_fail(err, QN_E_TOO_LONG, "vocabulary: found %zu tokens, want at most %d",
                       n_tokens, QN_LIMIT_VOCAB);
    qn_vocabulary *v = qn_calloc(1, sizeof *v, QN_MEM_VOCAB);
    if (!v)
        return qn_fail_nomem(err, sizeof *v);
    v->n_tokens = n_tokens;
    v->n_words = QN_DIV_UP(n_tokens, 64);
    v->text_at = qn_alloc_array(n_tokens + 1, sizeof *v->text_at, QN_MEM_VOCAB);
    qn_status s = v->text_at ? copy_texts(v, fn, arg, err) : qn_fail_nomem(err, n_tokens * 4);
    if (s == QN_OK)
        s = build_trie(v, err);
    if (s != QN_OK) {
        qn_vocabulary_free(v);
        return s;
    }
    *out = v;
    return QN_OK;
}
