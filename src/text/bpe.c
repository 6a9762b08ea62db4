/* SPDX-License-Identifier: Apache-2.0
 * bpe.c - two ways to the same result: words are merged in a small array; long pieces in a linked
 * list with a queue.
 *
 * The queue holds keys rank << 32 | position and gives the smallest. A binary heap of millions of
 * keys misses the cache on every step, but ranks nearly always rise, so it is a radix heap over the
 * rank (8 MiB of one letter: 0.5 s; 2.9 s with the binary heap):
 *
 *   level[0]   the wave: keys of the rank being merged now, by position, read from wave_at on
 *   level[k]   keys whose rank differs from the current rank first in bit k - 1
 *   low        a binary heap of the keys that came too late for the wave (rank <= the current rank)
 *
 * 1. Every key in level[1..] has a higher rank than the wave and all keys in low: refill() is
 *    called only when both are empty.
 * 2. The wave is sorted: refill() moves it to low if it is not.
 * 3. A key whose pair has changed since is recognised when it comes up: the pair's rank is another
 *    one. */
#include "text/bpe.h"

#include "base/mem.h"

#include <string.h>

#define DEAD UINT32_MAX /* id: merged into the symbol before */
#define END  UINT32_MAX /* next, prev */

static uint32_t rank_of(const qn_bpe *b, int32_t left, int32_t right, uint32_t *merged)
{
    const qn_pair_slot *pair = qn_pairs_find(&b->merges, (uint32_t)left, (uint32_t)right);
    *merged = pair ? pair->second : 0;
    return pair ? pair->first : QN_PAIR_NONE;
}

/* rank[i], merged[i]: of the pair (id[i], id[i + 1]). */
static size_t merge_short(const qn_bpe *b, int32_t *id, size_t n)
{
    uint32_t rank[QN_BPE_SHORT], merged[QN_BPE_SHORT];
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = rank_of(b, id[i], id[i + 1], &merged[i]);
    while (n > 1) {
        uint32_t least = rank[0];
        size_t at = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            at = rank[i] < least ? i : at;
            least = QN_MIN(least, rank[i]);
        }
        if (least == QN_PAIR_NONE)
            break;
        id[at] = (int32_t)merged[at];
        n--;
        memmove(id + at + 1, id + at + 2, (n - at - 1) * sizeof(*id));
        memmove(rank + at, rank + at + 1, (n - at - 1) * sizeof(*rank));
        memmove(merged + at, merged + at + 1, (n - at - 1) * sizeof(*merged));
        if (at + 1 < n)
            rank[at] = rank_of(b, id[at], id[at + 1], &merged[at]);
        if (at > 0)
            rank[at - 1] = rank_of(b, id[at - 1], id[at], &merged[at - 1]);
    }
    return n;
}

static bool append(qn_bpe_keys *k, uint64_t key)
{
    if (k->n == k->cap && !qn_grow(&k->p, &k->cap, k->n + 1, sizeof(*k->p), QN_MEM_REQUEST))
        return false;
    k->p[k->n++] = key;
    return true;
}

static bool heap_push(qn_bpe_keys *k, uint64_t key)
{
    if (!append(k, key))
        return false;
    size_t i = k->n - 1;
    for (; i > 0 && k->p[(i - 1) / 2] > key; i = (i - 1) / 2)
        k->p[i] = k->p[(i - 1) / 2];
    k->p[i] = key;
    return true;
}

static uint64_t heap_pop(qn_bpe_keys *k)
{
    uint64_t top = k->p[0], last = k->p[--k->n];
    size_t i = 0;
    for (size_t c = 1; c < k->n; c = 2 * i + 1) {
        if (c + 1 < k->n && k->p[c + 1] < k->p[c])
            c++;
        if (k->p[c] >= last)
            break;
        k->p[i] = k->p[c];
        i = c;
    }
    k->p[i] = last;
    return top;
}

static unsigned level_of(uint64_t key, uint32_t rank)
{
    uint32_t x = (uint32_t)(key >> 32) ^ rank;
    return x == 0 ? 0 : 32 - (unsigned)__builtin_clz(x);
}

/* Makes the lowest rank waiting the current one. *more: there was one. False: out of memory. */
static bool refill(qn_bpe_scratch *s, bool *more)
{
    unsigned k = 1;
    s->level[0].n = s->wave_at = 0;
    while (k < QN_COUNT(s->level) && s->level[k].n == 0)
        k++;
    *more = k < QN_COUNT(s->level);
    if (!*more)
        return true;
    qn_bpe_keys *from = &s->level[k];
    uint64_t least = from->p[0] >> 32, most = least;
    for (size_t i = 1; i < from->n; i++) {
        least = QN_MIN(least, from->p[i] >> 32);
        most = QN_MAX(most, from->p[i] >> 32);
    }
    s->rank = (uint32_t)least;
    if (least == most) { /* one rank: the whole level is the wave */
        qn_bpe_keys t = s->level[0];
        s->level[0] = *from;
        *from = t;
    } else {
        for (size_t i = 0; i < from->n; i++)
            if (!append(&s->level[level_of(from->p[i], s->rank)], from->p[i]))
                return false;
        from->n = 0;
    }
    const qn_bpe_keys *wave = &s->level[0];
    size_t sorted = 1;
    while (sorted < wave->n && wave->p[sorted - 1] <= wave->p[sorted])
        sorted++;
    if (sorted < wave->n) {
        for (size_t i = 0; i < wave->n; i++)
            if (!heap_push(&s->low, wave->p[i]))
                return false;
        s->wave_at = wave->n;
    }
    return true;
}

/* The smallest key. *more: there was one. False: out of memory. */
static bool pop(qn_bpe_scratch *s, uint64_t *key, bool *more)
{
    *more = true;
    if (s->wave_at == s->level[0].n && s->low.n == 0 && (!refill(s, more) || !*more))
        return !*more;
    const qn_bpe_keys *wave = &s->level[0];
    if (s->wave_at < wave->n && (s->low.n == 0 || wave->p[s->wave_at] <= s->low.p[0]))
        *key = wave->p[s->wave_at++];
    else
        *key = heap_pop(&s->low);
    return true;
}

/* Queues the pair that starts at `at`, if it is one. */
static bool push(const qn_bpe *b, qn_bpe_scratch *s, uint32_t at)
{
    if (at == END || s->next[at] == END)
        return true;
    const qn_pair_slot *pair = qn_pairs_find(&b->merges, s->id[at], s->id[s->next[at]]);
    if (!pair)
        return true;
    uint64_t key = (uint64_t)pair->first << 32 | at;
    if (pair->first <= s->rank)
        return heap_push(&s->low, key);
    return append(&s->level[level_of(key, s->rank)], key);
}

static void merge_at(qn_bpe_scratch *s, uint32_t at, uint32_t merged)
{
    uint32_t right = s->next[at];
    s->id[at] = merged;
    s->id[right] = DEAD;
    s->next[at] = s->next[right];
    if (s->next[at] != END)
        s->prev[s->next[at]] = at;
}

static bool scratch_reserve(qn_bpe_scratch *s, size_t n)
{
    if (n > s->cap) {
        qn_free(s->id);
        s->cap = 0;
        s->id = qn_alloc_array(n, 3 * sizeof(*s->id), QN_MEM_REQUEST);
        if (!s->id)
            return false;
        s->next = s->id + n;
        s->prev = s->next + n;
        s->cap = n;
    }
    for (size_t i = 0; i < QN_COUNT(s->level); i++)
        s->level[i].n = 0;
    s->low.n = s->wave_at = 0;
    s->rank = 0;
    return true;
}

/* The first pairs: ranks above 0 go to their levels in order of position; rank 0, the smallest, is
 * the first wave. */
static bool queue_all(const qn_bpe *b, qn_bpe_scratch *s, size_t n)
{
    for (uint32_t i = 0; i + 1 < n; i++) {
        const qn_pair_slot *pair = qn_pairs_find(&b->merges, s->id[i], s->id[i + 1]);
        if (!pair)
            continue;
        uint64_t key = (uint64_t)pair->first << 32 | i;
        if (!append(&s->level[level_of(key, 0)], key))
            return false;
    }
    return true;
}

static bool merge_long(const qn_bpe *b, int32_t *id, size_t *n, qn_bpe_scratch *s)
{
    if (!scratch_reserve(s, *n))
        return false;
    for (uint32_t i = 0; i < *n; i++) {
        s->id[i] = (uint32_t)id[i];
        s->next[i] = i + 1 < *n ? i + 1 : END;
        s->prev[i] = i > 0 ? i - 1 : END;
    }
    if (!queue_all(b, s, *n))
        return false;
    for (;;) {
        uint64_t key = 0;
        bool more;
        if (!pop(s, &key, &more))
            return false;
        if (!more)
            break;
        uint32_t at = (uint32_t)key;
        if (s->id[at] == DEAD || s->next[at] == END)
            continue;
        const qn_pair_slot *pair = qn_pairs_find(&b->merges, s->id[at], s->id[s->next[at]]);
        if (!pair || pair->first != key >> 32)
            continue;
        merge_at(s, at, pair->second);
        if (!push(b, s, s->prev[at]) || !push(b, s, at))
            return false;
    }
    size_t m = 0;
    for (uint32_t i = 0; i != END; i = s->next[i])
        id[m++] = (int32_t)s->id[i];
    *n = m;
    return true;
}

bool qn_bpe_encode(const qn_bpe *b, const char *p, size_t n, qn_bpe_scratch *s, int32_t *out,
                   size_t *n_out)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = b->byte_id[(unsigned char)p[i]];
        out[m] = id;
        m += id >= 0;
    }
    *n_out = m;
    if (m > QN_BPE_SHORT)
        return merge_long(b, out, n_out, s);
    *n_out = merge_short(b, out, m);
    return true;
}

void qn_bpe_scratch_fini(qn_bpe_scratch *s)
{
    qn_free(s->id);
    for (size_t i = 0; i < QN_COUNT(s->level); i++)
        qn_free(s->level[i].p);
    qn_free(s->low.p);
    *s = (qn_bpe_scratch){0};
}

void qn_bpe_fini(qn_bpe *b)
{
    qn_pairs_fini(&b->merges);
}
