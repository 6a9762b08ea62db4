/* SPDX-License-Identifier: Apache-2.0
 * added.c - the trie, and the reference's rules about white space and words around a match. */
#include "text/added.h"

#include "base/limits.h"
#include "base/mem.h"
#include "text/pretok.h"

qn_status qn_added_add(qn_added *a, qn_slice content, const qn_added_token *token,
                       const char *where, qn_err *err)
{
    char name[64];
    qn_escape(name, sizeof(name), content.p, QN_MIN(content.n, (size_t)40));
    if (content.n == 0 || content.n > QN_LIMIT_ADDED_BYTES)
        return qn_fail(err, QN_E_FORMAT, "%s: '%s': found %zu bytes, want 1..%d", where, name,
                       content.n, QN_LIMIT_ADDED_BYTES);
    if (a->n >= QN_LIMIT_ADDED_TOKENS)
        return qn_fail(err, QN_E_FORMAT, "%s: more than %d added tokens", where,
                       QN_LIMIT_ADDED_TOKENS);
    if (!qn_grow(&a->tokens, &a->cap, a->n + 1, sizeof(*a->tokens), QN_MEM_VOCAB) ||
        !qn_pairs_reserve(&a->trie, a->trie.n + content.n))
        return qn_fail_nomem(err, content.n);
    uint32_t node = 0;
    qn_pair_slot *s = NULL;
    for (size_t i = 0; i < content.n; i++) {
        s = qn_pairs_add(&a->trie, node, (unsigned char)content.p[i]);
        if (!s)
            return qn_fail_nomem(err, content.n);
        if (s->first == QN_PAIR_NONE)
            s->first = ++a->n_nodes;
        node = s->first;
    }
    if (s->second != QN_PAIR_NONE)
        return qn_fail(err, QN_E_FORMAT, "%s: '%s' is there twice", where, name);
    s->second = (uint32_t)a->n;
    a->starts[(unsigned char)content.p[0]] = true;
    a->tokens[a->n++] = *token;
    return QN_OK;
}

/* The longest token that p[0..n) starts with: its index (or QN_PAIR_NONE) and length. */
static uint32_t longest(const qn_added *a, const char *p, size_t n, size_t *len)
{
    uint32_t node = 0, best = QN_PAIR_NONE;
    for (size_t i = 0; i < n; i++) {
        const qn_pair_slot *s = qn_pairs_find(&a->trie, node, (unsigned char)p[i]);
        if (!s)
            break;
        node = s->first;
        if (s->second != QN_PAIR_NONE) {
            best = s->second;
            *len = i + 1;
        }
    }
    return best;
}

const qn_added_token *qn_added_find(const qn_added *a, qn_slice content)
{
    size_t len = 0;
    uint32_t i = longest(a, content.p, content.n, &len);
    return i != QN_PAIR_NONE && len == content.n ? &a->tokens[i] : NULL;
}

/* The last character before p + n: its start (0 if there is none). */
static size_t step_back(const char *p, size_t n, uint32_t *cp)
{
    size_t i = n;
    *cp = 0;
    while (i > 0 && n - i < 4) {
        i--;
        if (((unsigned char)p[i] & 0xC0) != 0x80)
            break;
    }
    if (i < n && qn_utf8_decode(p + i, n - i, cp) == 0)
        *cp = 0;
    return i;
}

static bool is_single_word(const char *p, size_t n, size_t begin, size_t end)
{
    uint32_t cp;
    step_back(p, begin, &cp);
    if (begin > 0 && qn_is_word_char(cp))
        return false;
    return end == n || qn_utf8_decode(p + end, n - end, &cp) == 0 || !qn_is_word_char(cp);
}

/* The next token that counts, from it->at on: text before it ends at *begin. */
static bool find(qn_added_iter *it, size_t *begin, size_t *end, int32_t *id)
{
    for (; it->at < it->n; it->at++) {
        size_t len = 0;
        if (!it->a->starts[(unsigned char)it->p[it->at]])
            continue;
        uint32_t i = longest(it->a, it->p + it->at, it->n - it->at, &len);
        if (i == QN_PAIR_NONE)
            continue;
        const qn_added_token *t = &it->a->tokens[i];
        *begin = it->at;
        *end = it->at + len;
        *id = t->id;
        it->at = *end - 1;
        if ((it->skip_special && t->special) ||
            (t->single_word && !is_single_word(it->p, it->n, *begin, *end)))
            continue; /* nothing inside it is looked for */
        uint32_t cp;
        for (size_t back; t->lstrip && *begin > it->done; *begin = back) {
            back = step_back(it->p, *begin, &cp);
            if (!qn_is_space(cp))
                break;
        }
        size_t k;
        while (t->rstrip && *end < it->n &&
               (k = qn_utf8_decode(it->p + *end, it->n - *end, &cp)) != 0 && qn_is_space(cp))
            *end += k;
        it->at = *end;
        return true;
    }
    return false;
}

bool qn_added_next(qn_added_iter *it, qn_slice *text, int32_t *id)
{
    *text = (qn_slice){it->p, 0};
    *id = it->pending - 1;
    if (it->pending > 0) {
        it->pending = 0;
        return true;
    }
    size_t begin, end, from = it->done;
    int32_t found;
    if (from == it->n)
        return false;
    if (!find(it, &begin, &end, &found)) {
        *text = (qn_slice){it->p + from, it->n - from};
        it->done = it->n;
        return text->n > 0;
    }
    it->done = end;
    if (begin == from) {
        *id = found;
        return true;
    }
    *text = (qn_slice){it->p + from, begin - from};
    it->pending = found + 1;
    return true;
}

void qn_added_fini(qn_added *a)
{
    qn_free(a->tokens);
    qn_pairs_fini(&a->trie);
    *a = (qn_added){0};
}
