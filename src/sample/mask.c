/* SPDX-License-Identifier: Apache-2.0
 * mask.c - see mask.h. */
#include "sample/mask.h"

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TAILS   (1u << 17) /* tokens with a tail, of a state */
#define MAX_VISITS  20000000u  /* nodes of the trie that are walked beforehand */
#define MAX_WALK    16u        /* heads, about, that a state is surveyed with; or it is not kept */
#define MIN_WALK    (1u << 18) /* fuel of a walk of a small vocabulary */
#define MIN_WIDE    32         /* first bytes of a state that is surveyed beforehand */
#define MAX_FLIPS   512u /* tokens by which a set may differ from another to be kept as that */
#define MAX_COMPARE 16u  /* sets that it is compared with */

/* A set of tokens: a dense one with some turned, or a list. */
typedef struct token_set {
    const uint64_t *dense; /* NULL: none but the list */
    uint32_t at, n;        /* ids of the survey's; with `dense` those that are turned */
} token_set;

typedef struct group {
    uint32_t lo, hi;
    token_set set;
} group;

typedef struct ending {
    uint32_t node, depth, lo,
        hi; /* tokens from the trie's node on leave the rule behind `depth` bytes */
} ending;

/* A token with a tail, if the count is in lo..hi. */
typedef struct tailed {
    int32_t token;
    uint32_t lo, hi;
    bool is_last; /* of those with this tail */
} tailed;

typedef struct survey {
    token_set main, all; /* all: main and every group, for counts in all_lo..all_hi */
    uint32_t all_lo, all_hi, n_groups, n_tails;
    group *groups;
    int32_t *ids;
    qn_trie_node *tails; /* token: the first of those with this tail in `tailed` */
    tailed *tailed;
    ending *endings; /* of a state that others are surveyed by, in the order of the nodes */
    size_t n_endings;
} survey;

typedef struct dense_set {
    struct dense_set *next;
    uint64_t hash;
    uint64_t words[];
} dense_set;

typedef struct condition {
    int32_t token;
    uint32_t lo, hi;
} condition;

typedef struct tail_ref {
    int32_t token;
    uint32_t from, lo, hi;
} tail_ref;

/* What one walk needs. */
typedef struct room {
    struct room *next;
    qn_walker w;
    qn_stacks own;
    size_t *begin;             /* of the heads of each depth */
    uint32_t *end_lo, *end_hi; /* where the rule may end at each depth: in these counts */
    uint64_t *main, *scratch;
    condition *conditions;
    ending *endings;
    tail_ref *refs;
    size_t n_conditions, conditions_cap, n_endings, endings_cap, n_refs, refs_cap, n_visits;
    uint64_t fuel;
    uint32_t *
        twin; /* at each depth the state that the twin's survey was in there; QN_NO_STATE: several, or none */
    bool is_complex; /* cannot be kept */
} room;

struct qn_masks {
    const qn_vocabulary *v;
    const qn_automaton *a;
    _Atomic(survey *) *surveys; /* of each state; NULL: not yet */
    pthread_mutex_t lock;       /* of what follows */
    dense_set *sets;
    room *rooms;
    size_t n_bytes;
};

static const survey walks_each_time; /* stands for a survey that cannot be kept */

/* ---- rooms ---- */

static void room_free(room *r)
{
    if (!r)
        return;
    qn_stacks_fini(&r->own);
    qn_free(r->w.heads.p);
    qn_free(r->begin);
    qn_free(r->end_lo);
    qn_free(r->end_hi);
    qn_free(r->twin);
    qn_free(r->main);
    qn_free(r->scratch);
    qn_free(r->conditions);
    qn_free(r->endings);
    qn_free(r->refs);
    qn_free(r);
}

static room *room_new(const qn_masks *k)
{
    room *r = qn_calloc(1, sizeof *r, QN_MEM_REQUEST);
    if (!r)
        return NULL;
    size_t depth = k->v->max_depth + 3u;
    r->begin = qn_alloc_array(depth, sizeof *r->begin, QN_MEM_REQUEST);
    r->end_lo = qn_alloc_array(depth, sizeof *r->end_lo, QN_MEM_REQUEST);
    r->end_hi = qn_alloc_array(depth, sizeof *r->end_hi, QN_MEM_REQUEST);
    r->twin = qn_alloc_array(depth, sizeof *r->twin, QN_MEM_REQUEST);
    r->main = qn_alloc_array(k->v->n_words + 1, sizeof *r->main, QN_MEM_REQUEST);
    r->scratch = qn_alloc_array(k->v->n_words + 1, sizeof *r->scratch, QN_MEM_REQUEST);
    if (r->begin && r->end_lo && r->end_hi && r->twin && r->main && r->scratch &&
        qn_stacks_init(&r->own))
        return r;
    room_free(r);
    return NULL;
}

static room *room_take(qn_masks *k)
{
    (void)pthread_mutex_lock(&k->lock);
    room *r = k->rooms;
    if (r)
        k->rooms = r->next;
    (void)pthread_mutex_unlock(&k->lock);
    return r ? r : room_new(k);
}

static void room_put(qn_masks *k, room *r)
{
    (void)pthread_mutex_lock(&k->lock);
    r->next = k->rooms;
    k->rooms = r;
    (void)pthread_mutex_unlock(&k->lock);
}

/* ---- a state is surveyed ---- */

static void set_bit(uint64_t *mask, int32_t token)
{
    mask[token / 64] |= 1ull << token % 64;
}

static void add_set(uint64_t *mask, const survey *s, token_set t, uint64_t *scratch, size_t n_words)
{
    const int32_t *ids = t.n ? s->ids + t.at : NULL;
    if (!t.dense) {
        for (uint32_t i = 0; i < t.n; i++)
            set_bit(mask, ids[i]);
        return;
    }
    const uint64_t *words = t.dense;
    if (t.n) {
        memcpy(scratch, t.dense, n_words * sizeof *scratch);
        for (uint32_t i = 0; i < t.n; i++)
            scratch[ids[i] / 64] ^= 1ull << ids[i] % 64;
        words = scratch;
    }
    for (size_t i = 0; i < n_words; i++)
        mask[i] |= words[i];
}

/* The rule may end at this depth in these counts as well. What is no interval then cannot be kept. */
static void add_end(room *r, uint32_t depth, uint32_t lo, uint32_t hi)
{
    if (r->end_lo[depth] > r->end_hi[depth]) {
        r->end_lo[depth] = lo;
        r->end_hi[depth] = hi;
        return;
    }
    if ((hi < r->end_lo[depth] && hi + 1 != r->end_lo[depth]) ||
        (lo > r->end_hi[depth] && lo - 1 != r->end_hi[depth]))
        r->is_complex = true;
    r->end_lo[depth] = QN_MIN(r->end_lo[depth], lo);
    r->end_hi[depth] = QN_MAX(r->end_hi[depth], hi);
}

/* The place behind the byte, at begin[depth] and before heads.n. The most frequent kind of head is moved here. */
static void step_relative(room *r, uint32_t depth, uint8_t byte)
{
    qn_walker *w = &r->w;
    const qn_automaton *a = w->a;
    size_t from = r->begin[depth - 1], begin = r->begin[depth];
    const qn_head *p = &w->heads.p[from];
    const qn_state *s = &a->states[p->state];
    r->end_lo[depth] = 1;
    r->end_hi[depth] = 0;
    w->heads.n = begin;
    if (begin == from + 1 && s->row != QN_NO_ROW && begin < w->heads.cap) {
        uint32_t to = a->rows[s->row + a->class_of[byte]];
        const qn_state *t = &a->states[to == QN_ROW_BOTH ? QN_NO_STATE : to & ~QN_ROW_TICK];
        if (!to)
            return;
        if (t->is_plain && !(to & QN_ROW_TICK)) {
            w->heads.p[begin] = *p;
            w->heads.p[begin].state = to;
            w->heads.n++;
            return;
        }
        if (to != QN_ROW_BOTH && !t->n_calls && p->stack == QN_WHOLE_STACK) {
            qn_head h = *p;
            if (!qn_walker_move(w, &h, to & ~QN_ROW_TICK, to & QN_ROW_TICK))
                return;
            w->heads.p[w->heads.n++] = h;
            if (qn_walker_may_leave(w, &h))
                add_end(r, depth, h.lo, h.hi);
            return;
        }
    }
    qn_walker_step(w, from, begin, byte);
    size_t n = begin;
    for (size_t i = begin; i < w->heads.n; i++) {
        qn_head h = w->heads.p[i];
        if (h.state == QN_NO_STATE)
            add_end(r, depth, h.lo, h.hi);
        else
            w->heads.p[n++] = h;
    }
    w->heads.n = n;
}

static void note_token(room *r, size_t begin, int32_t token)
{
    const qn_head *p = r->w.heads.p;
    for (size_t i = begin; i < r->w.heads.n; i++)
        if (p[i].lo == 0 && p[i].hi == UINT32_MAX) {
            set_bit(r->main, token);
            return;
        }
    for (size_t i = begin; i < r->w.heads.n; i++) {
        if (!qn_grow(&r->conditions, &r->conditions_cap, r->n_conditions + 1, sizeof *r->conditions,
                     QN_MEM_REQUEST)) {
            r->w.failed = true;
            return;
        }
        r->conditions[r->n_conditions++] = (condition){token, p[i].lo, p[i].hi};
    }
}

static void note_ending(room *r, uint32_t node, uint32_t depth)
{
    if (!qn_grow(&r->endings, &r->endings_cap, r->n_endings + 1, sizeof *r->endings,
                 QN_MEM_REQUEST)) {
        r->w.failed = true;
        return;
    }
    r->endings[r->n_endings++] = (ending){node, depth, r->end_lo[depth], r->end_hi[depth]};
}

/* A state that is read alone, whatever the count. */
static bool is_simple(const qn_automaton *a, uint32_t state)
{
    const qn_state *s = &a->states[state];
    const qn_rule *r = &a->rules[s->rule];
    return state != QN_NO_STATE && !s->n_calls && s->lo == 0 && s->hi == QN_FORM_ENDLESS &&
           r->min == 0 && r->max == QN_FORM_ENDLESS;
}

static uint32_t step_simple(const qn_automaton *a, uint32_t state, uint8_t byte)
{
    const qn_state *s = &a->states[state];
    uint32_t to = QN_NO_STATE;
    if (s->row != QN_NO_ROW) {
        to = a->rows[s->row + a->class_of[byte]];
    } else {
        for (uint32_t i = 0; i < s->n_edges; i++) {
            const qn_edge *e = &a->edges[s->edges + i];
            if (byte >= e->first && byte <= e->last)
                to = e->to;
        }
    }
    return to < a->n_states && is_simple(a, to) ? to : QN_NO_STATE;
}

/* Most bytes of a state in which few texts part from the others (the names of an object that may have further ones) lead
 * where they lead from the state that the others stay in: its twin. Below a node at which both are in one state all is
 * as in the twin's survey. QN_NO_STATE: it has none. */
static uint32_t twin_of(const qn_masks *k, uint32_t state)
{
    const qn_automaton *a = k->a;
    const qn_state *s = &a->states[state];
    uint32_t best = QN_NO_STATE, n_best = 0;
    if (s->row == QN_NO_ROW)
        return QN_NO_STATE;
    for (uint32_t i = 0; i < s->n_edges; i++) {
        const qn_edge *e = &a->edges[s->edges + i];
        uint32_t n = 1u + e->last - e->first;
        if (e->to != state && n > n_best && is_simple(a, e->to)) {
            best = e->to;
            n_best = n;
        }
    }
    const survey *t = best ? atomic_load_explicit(&k->surveys[best], memory_order_acquire) : NULL;
    return t && t->endings ? best : QN_NO_STATE;
}

/* Nothing more is looked at below the node: it is as in the twin's survey. */
static void take_endings(room *r, const survey *twin, uint32_t node, uint32_t skip)
{
    size_t lo = 0, hi = twin->n_endings;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (twin->endings[mid].node <= node)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (hi = lo; hi < twin->n_endings && twin->endings[hi].node < skip;)
        hi++;
    if (!qn_grow(&r->endings, &r->endings_cap, r->n_endings + (hi - lo) + 1, sizeof *r->endings,
                 QN_MEM_REQUEST)) {
        r->w.failed = true;
        return;
    }
    if (hi > lo)
        memcpy(r->endings + r->n_endings, twin->endings + lo, (hi - lo) * sizeof *r->endings);
    r->n_endings += hi - lo;
}

/* Is the place at this depth the twin's? */
static bool is_twin(room *r, uint32_t depth, uint8_t byte)
{
    const qn_head *h = &r->w.heads.p[r->begin[depth]];
    uint32_t was = r->twin[depth - 1];
    r->twin[depth] = was ? step_simple(r->w.a, was, byte) : QN_NO_STATE;
    return r->twin[depth] && r->w.heads.n == r->begin[depth] + 1 && h->state == r->twin[depth] &&
           h->stack == QN_WHOLE_STACK && h->lo == 0 && h->hi == UINT32_MAX;
}

static void clear_bits(room *r, const qn_trie_node *nodes, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        if (nodes[i].token >= 0)
            r->main[nodes[i].token / 64] &= ~(1ull << nodes[i].token % 64);
}

static void begin_walk(const qn_masks *k, room *r, uint32_t state)
{
    r->w.a = k->a;
    r->w.stacks = &r->own;
    r->w.fuel = &r->fuel;
    r->w.is_relative = true;
    r->w.failed = r->w.is_spent = r->is_complex = false;
    r->w.heads.n = r->n_conditions = r->n_endings = r->n_refs = 0;
    qn_stacks_cut(&r->own, QN_WHOLE_STACK + 1);
    memset(r->main, 0, k->v->n_words * sizeof *r->main);
    qn_walker_add(&r->w, 0, (qn_head){state, 0, QN_WHOLE_STACK, 0, UINT32_MAX, 0});
    qn_walker_enter(&r->w, 0);
    r->begin[0] = 0;
    r->begin[1] = r->w.heads.n;
    r->end_lo[0] = 1; /* leaving at once is another head's */
    r->end_hi[0] = 0;
    r->twin[0] = twin_of(k, state);
}

static void walk_relative(const qn_masks *k, room *r, uint32_t state)
{
    const qn_trie_node *nodes = k->v->trie.nodes;
    const uint64_t *follow = k->a->rules[k->a->states[state].rule].follow;
    begin_walk(k, r, state);
    const survey *twin = r->twin[0] ? atomic_load(&k->surveys[r->twin[0]]) : NULL;
    if (twin)
        add_set(r->main, twin, twin->main, r->scratch, k->v->n_words);
    for (uint32_t i = 0; i < k->v->trie.n && !r->w.failed && !r->is_complex;) {
        const qn_trie_node *node = &nodes[i];
        uint32_t depth = node->depth;
        qn_walker_burn(&r->w, 1);
        if (r->end_lo[depth - 1] <= r->end_hi[depth - 1] && qn_byte_in(follow, node->byte))
            note_ending(r, i, depth - 1);
        step_relative(r, depth, node->byte);
        if (r->w.heads.n == r->begin[depth]) {
            if (twin)
                clear_bits(r, nodes, i, node->skip);
            i = node->skip;
            continue;
        }
        if (twin && is_twin(r, depth, node->byte)) {
            take_endings(r, twin, i, node->skip);
            i = node->skip;
            continue;
        }
        if (twin)
            clear_bits(r, nodes, i, i + 1);
        if (node->token >= 0)
            note_token(r, r->begin[depth], node->token);
        if (node->skip > i + 1) {
            qn_walker_enter(&r->w, r->begin[depth]);
            r->begin[depth + 1] = r->w.heads.n;
        }
        i++;
    }
}

/* ---- a survey is kept ---- */

static void survey_free(survey *s)
{
    if (!s || s == &walks_each_time)
        return;
    qn_free(s->groups);
    qn_free(s->ids);
    qn_free(s->tails);
    qn_free(s->tailed);
    qn_free(s->endings);
    qn_free(s);
}

static size_t count_bits(const uint64_t *p, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (size_t)__builtin_popcountll(p[i]);
    return sum;
}

static size_t count_flips(const uint64_t *p, const uint64_t *q, size_t n, size_t most)
{
    size_t sum = 0;
    for (size_t i = 0; i < n && sum <= most; i++)
        sum += (size_t)__builtin_popcountll(p[i] ^ q[i]);
    return sum;
}

/* A set that is kept already and differs by few tokens from this one, or else a new one; NULL: no room. Under the lock. */
static const uint64_t *find_dense(qn_masks *k, const uint64_t *words)
{
    size_t n = k->v->n_words, n_seen = 0;
    uint64_t hash = qn_hash(words, n * sizeof *words, 0);
    for (const dense_set *d = k->sets; d; d = d->next)
        if (d->hash == hash && memcmp(d->words, words, n * sizeof *words) == 0)
            return d->words;
    for (const dense_set *d = k->sets; d && n_seen < MAX_COMPARE; d = d->next, n_seen++)
        if (count_flips(d->words, words, n, MAX_FLIPS) <= MAX_FLIPS)
            return d->words;
    size_t bytes = sizeof(dense_set) + n * sizeof *words;
    if (k->n_bytes + bytes > QN_LIMIT_GRAMMAR_MASKS)
        return NULL;
    dense_set *d = qn_alloc(bytes, QN_MEM_REQUEST);
    if (!d)
        return NULL;
    memcpy(d->words, words, n * sizeof *words);
    d->hash = hash;
    d->next = k->sets;
    k->sets = d;
    k->n_bytes += bytes;
    return d->words;
}

/* The set's bits as a list, or as a dense one and what differs. */
static bool keep_set(qn_masks *k, survey *s, size_t *n_ids, size_t *ids_cap, const uint64_t *words,
                     token_set *out)
{
    size_t n = count_bits(words, k->v->n_words);
    *out = (token_set){.at = (uint32_t)*n_ids};
    if (n > MAX_FLIPS && n * sizeof(int32_t) > k->v->n_words * sizeof *words / 2) {
        (void)pthread_mutex_lock(&k->lock);
        out->dense = find_dense(k, words);
        (void)pthread_mutex_unlock(&k->lock);
        if (!out->dense)
            return false;
        n = count_flips(out->dense, words, k->v->n_words, MAX_FLIPS);
    }
    out->n = (uint32_t)n;
    if (!qn_grow(&s->ids, ids_cap, *n_ids + n, sizeof *s->ids, QN_MEM_REQUEST))
        return false;
    for (size_t i = 0; i < k->v->n_words; i++) {
        uint64_t bits = out->dense ? words[i] ^ out->dense[i] : words[i];
        for (; bits; bits &= bits - 1)
            s->ids[(*n_ids)++] = (int32_t)(i * 64 + (size_t)__builtin_ctzll(bits));
    }
    return true;
}

static int by_bounds(const void *x, const void *y)
{
    const condition *a = x, *b = y;
    return a->lo != b->lo ? (a->lo > b->lo) - (a->lo < b->lo) : (a->hi > b->hi) - (a->hi < b->hi);
}

/* The tokens of conditions [from, to), which hold in the same counts. */
static bool keep_group(qn_masks *k, room *r, survey *s, size_t *n_ids, size_t *ids_cap, size_t from,
                       size_t to, token_set *out)
{
    if (to - from > MAX_FLIPS) {
        memset(r->scratch, 0, k->v->n_words * sizeof *r->scratch);
        for (size_t i = from; i < to; i++)
            set_bit(r->scratch, r->conditions[i].token);
        return keep_set(k, s, n_ids, ids_cap, r->scratch, out);
    }
    *out = (token_set){.at = (uint32_t)*n_ids, .n = (uint32_t)(to - from)};
    if (!qn_grow(&s->ids, ids_cap, *n_ids + (to - from), sizeof *s->ids, QN_MEM_REQUEST))
        return false;
    for (size_t i = from; i < to; i++)
        s->ids[(*n_ids)++] = r->conditions[i].token;
    return true;
}

static bool keep_groups(qn_masks *k, room *r, survey *s, size_t *n_ids, size_t *ids_cap)
{
    size_t cap = 0;
    s->all_lo = 1;
    if (r->n_conditions == 0)
        return true;
    qsort(r->conditions, r->n_conditions, sizeof *r->conditions, by_bounds);
    for (size_t i = 0, end; i < r->n_conditions; i = end) {
        condition c = r->conditions[i];
        for (end = i + 1; end < r->n_conditions && by_bounds(&r->conditions[end], &c) == 0;)
            end++;
        group g = {.lo = c.lo, .hi = c.hi};
        if (!qn_grow(&s->groups, &cap, s->n_groups + 1u, sizeof g, QN_MEM_REQUEST) ||
            !keep_group(k, r, s, n_ids, ids_cap, i, end, &g.set))
            return false;
        s->groups[s->n_groups++] = g;
    }
    s->all_lo = 0;
    s->all_hi = UINT32_MAX;
    for (size_t i = 0; i < r->n_conditions; i++) {
        s->all_lo = QN_MAX(s->all_lo, r->conditions[i].lo);
        s->all_hi = QN_MIN(s->all_hi, r->conditions[i].hi);
        set_bit(r->main, r->conditions[i].token);
    }
    return s->all_lo > s->all_hi || keep_set(k, s, n_ids, ids_cap, r->main, &s->all);
}

static int by_tail(const void *x, const void *y, void *arg)
{
    const qn_vocabulary *v = arg;
    const tail_ref *i = x, *j = y;
    size_t n, m;
    const uint8_t *a = qn_vocabulary_text(v, i->token, &n),
                  *b = qn_vocabulary_text(v, j->token, &m);
    n -= i->from;
    m -= j->from;
    int c = memcmp(a + i->from, b + j->from, QN_MIN(n, m));
    if (c == 0)
        c = (n > m) - (n < m);
    return c ? c : (i->token > j->token) - (i->token < j->token);
}

static bool keep_tails(const qn_masks *k, room *r, survey *s)
{
    const qn_vocabulary *v = k->v;
    qn_trie t = {0};
    for (size_t i = 0; i < r->n_endings; i++) {
        ending e = r->endings[i];
        for (uint32_t at = e.node; at < v->trie.nodes[e.node].skip; at++) {
            if (v->trie.nodes[at].token < 0)
                continue;
            if (r->n_refs >= MAX_TAILS ||
                !qn_grow(&r->refs, &r->refs_cap, r->n_refs + 1, sizeof *r->refs, QN_MEM_REQUEST))
                return false;
            r->refs[r->n_refs++] = (tail_ref){v->trie.nodes[at].token, e.depth, e.lo, e.hi};
        }
    }
    if (r->n_refs == 0)
        return true;
    qsort_r(r->refs, r->n_refs, sizeof *r->refs, by_tail, (void *)(uintptr_t)v);
    s->tailed = qn_alloc_array(r->n_refs, sizeof *s->tailed, QN_MEM_REQUEST);
    bool good = s->tailed;
    const uint8_t *was = NULL;
    size_t n_was = 0, n;
    for (size_t i = 0; good && i < r->n_refs; i++) {
        tail_ref x = r->refs[i];
        const uint8_t *text = qn_vocabulary_text(v, x.token, &n) + x.from;
        n -= x.from;
        s->tailed[i] = (tailed){x.token, x.lo, x.hi, true};
        if (was && n == n_was && memcmp(was, text, n) == 0)
            s->tailed[i - 1].is_last = false;
        else
            good = qn_trie_add(&t, text, n, (int32_t)i, QN_MEM_REQUEST);
        was = text;
        n_was = n;
    }
    qn_trie_end(&t);
    qn_free(t.path);
    s->tails = t.nodes;
    s->n_tails = (uint32_t)t.n;
    return good;
}

/* How many bytes may come first; of these, how many leave the state as it is. */
static void count_first(const qn_automaton *a, uint32_t state, size_t *n, size_t *n_loop)
{
    uint64_t set[4] = {0}, loop[4] = {0};
    const qn_state *s = &a->states[state];
    for (uint32_t i = 0; i < s->n_edges; i++) {
        const qn_edge *e = &a->edges[s->edges + i];
        for (uint32_t b = e->first; b <= e->last; b++) {
            set[b / 64] |= 1ull << b % 64;
            loop[b / 64] |= (uint64_t)(e->to == state) << b % 64;
        }
    }
    for (uint32_t i = 0; i < s->n_calls; i++)
        for (int w = 0; w < 4; w++)
            set[w] |= a->rules[a->calls[s->calls + i].rule].first[w];
    *n = count_bits(set, 4);
    *n_loop = count_bits(loop, 4);
}

/* The endings, where others may be surveyed by this state. */
static bool keep_endings(const qn_masks *k, const room *r, survey *s, uint32_t state)
{
    size_t n, n_loop;
    count_first(k->a, state, &n, &n_loop);
    if (n_loop < MIN_WIDE / 2 || !is_simple(k->a, state) || s->n_groups)
        return true;
    s->endings = qn_alloc_array(r->n_endings + 1, sizeof *s->endings, QN_MEM_REQUEST);
    if (!s->endings)
        return false;
    if (r->n_endings)
        memcpy(s->endings, r->endings, r->n_endings * sizeof *s->endings);
    s->n_endings = r->n_endings;
    return true;
}

/* NULL: it cannot be kept. */
static survey *survey_new(qn_masks *k, room *r, uint32_t state, size_t *n_bytes)
{
    size_t n_ids = 0, ids_cap = 0;
    survey *s = qn_calloc(1, sizeof *s, QN_MEM_REQUEST);
    if (!s)
        return NULL;
    if (!keep_set(k, s, &n_ids, &ids_cap, r->main, &s->main) ||
        !keep_groups(k, r, s, &n_ids, &ids_cap) || !keep_tails(k, r, s) ||
        !keep_endings(k, r, s, state)) {
        survey_free(s);
        return NULL;
    }
    *n_bytes = sizeof *s + ids_cap * sizeof *s->ids + 2 * sizeof *s->groups * s->n_groups +
               2 * sizeof *s->tails * s->n_tails + s->n_endings * sizeof *s->endings +
               r->n_refs * sizeof *s->tailed;
    return s;
}

/* The state's survey, made if it is not there; walks_each_time: there is none. */
static const survey *survey_of(qn_masks *k, room *r, uint32_t state)
{
    survey *s = atomic_load_explicit(&k->surveys[state], memory_order_acquire), *none = NULL;
    size_t n_bytes = 0;
    if (s)
        return s;
    uint64_t fuel = MAX_WALK * qn_masks_walk_fuel(k->v);
    r->fuel = fuel;
    walk_relative(k, r, state);
    r->n_visits += fuel - r->fuel;
    if (!r->w.failed && !r->is_complex)
        s = survey_new(k, r, state, &n_bytes);
    (void)pthread_mutex_lock(&k->lock);
    bool has_room = s && k->n_bytes + n_bytes <= QN_LIMIT_GRAMMAR_MASKS;
    if (has_room)
        k->n_bytes += n_bytes;
    (void)pthread_mutex_unlock(&k->lock);
    if (!has_room) {
        survey_free(s);
        s = (survey *)(uintptr_t)&walks_each_time;
    }
    if (atomic_compare_exchange_strong_explicit(&k->surveys[state], &none, s, memory_order_acq_rel,
                                                memory_order_acquire))
        return s;
    survey_free(s); /* another was faster */
    return none;
}

/* ---- with a stack ---- */

/* The place begins in the room at 0; every token of the trie that it can go along is set: of a survey's tails those that
 * end there in this count. */
static void walk_on(room *r, const qn_trie_node *nodes, size_t n, const tailed *list,
                    uint32_t count, uint64_t *mask)
{
    qn_walker *w = &r->w;
    qn_walker_enter(w, 0);
    r->begin[0] = 0;
    r->begin[1] = w->heads.n;
    for (size_t i = 0; i < n && !w->failed;) {
        const qn_trie_node *node = &nodes[i];
        size_t begin = r->begin[node->depth];
        w->heads.n = begin;
        qn_walker_burn(w, 1);
        qn_walker_step(w, r->begin[node->depth - 1], begin, node->byte);
        if (w->heads.n == begin) {
            i = node->skip;
            continue;
        }
        if (node->token >= 0 && !list)
            set_bit(mask, node->token);
        for (const tailed *t = list && node->token >= 0 ? list + node->token : NULL; t;
             t = t->is_last ? NULL : t + 1)
            if (count >= t->lo && count <= t->hi)
                set_bit(mask, t->token);
        qn_walker_enter(w, begin);
        r->begin[node->depth + 1] = w->heads.n;
        i++;
    }
}

static void add_head(qn_masks *k, room *r, qn_walker *place, qn_head h, uint64_t *mask)
{
    const survey *s = &walks_each_time;
    qn_stacks *stacks = place->stacks;
    r->n_visits = 0;
    /* near the limit what a token opens may be too much: a survey does not know that */
    if (stacks->frames[h.stack].depth + k->v->max_depth < QN_LIMIT_GRAMMAR_DEPTH)
        s = survey_of(k, r, h.state);
    r->w.a = k->a;
    r->w.stacks = stacks;
    r->w.fuel = place->fuel;
    r->w.is_relative = r->w.failed = r->w.is_spent = false;
    r->w.heads.n = 0;
    qn_walker_burn(&r->w, 1 + r->n_visits);
    if (r->w.failed)
        return;
    if (s == &walks_each_time) {
        qn_walker_add(&r->w, 0, h);
        walk_on(r, k->v->trie.nodes, k->v->trie.n, NULL, 0, mask);
        return;
    }
    if (s->all_lo <= h.count && h.count <= s->all_hi) {
        add_set(mask, s, s->all, r->scratch, k->v->n_words);
    } else {
        add_set(mask, s, s->main, r->scratch, k->v->n_words);
        for (uint32_t i = 0; i < s->n_groups; i++)
            if (s->groups[i].lo <= h.count && h.count <= s->groups[i].hi)
                add_set(mask, s, s->groups[i].set, r->scratch, k->v->n_words);
    }
    if (!s->n_tails)
        return;
    for (uint32_t f = h.stack; f; f = stacks->frames[f].next) {
        qn_frame x = stacks->frames[f];
        qn_walker_add(&r->w, 0, (qn_head){x.state, x.count, x.parent, 0, UINT32_MAX, 0});
    }
    qn_walker_leave(&r->w, 0);
    walk_on(r, s->tails, s->n_tails, s->tailed, h.count, mask);
}

uint64_t qn_masks_walk_fuel(const qn_vocabulary *v)
{
    return QN_MAX(4 * v->trie.n, (size_t)MIN_WALK);
}

bool qn_masks_add(qn_masks *k, qn_walker *w, size_t n, uint64_t *mask)
{
    room *r = room_take(k);
    if (!r)
        return false;
    const qn_head *heads = w->heads.p;
    size_t n_frames = w->stacks->n;
    bool good = true;
    for (size_t i = 0; good && i < n; i++) {
        const qn_state *s = &k->a->states[heads[i].state];
        if (!s->n_edges && !s->n_calls)
            continue;
        add_head(k, r, w, heads[i], mask);
        good = !r->w.failed;
        w->is_spent |= r->w.is_spent;
        qn_stacks_cut(w->stacks, n_frames);
    }
    room_put(k, r);
    return good;
}

/* ---- beforehand ---- */

/* First those that a text stays in, for it will be in them often. */
qn_status qn_masks_prepare(qn_masks *k, qn_err *err)
{
    room *r = room_take(k);
    if (!r)
        return qn_fail_nomem(err, sizeof *r);
    r->n_visits = 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 1; i < k->a->n_states && r->n_visits < MAX_VISITS; i++) {
            size_t n, n_loop;
            count_first(k->a, i, &n, &n_loop);
            if (n >= MIN_WIDE && (pass == 1 || n_loop >= MIN_WIDE / 2))
                (void)survey_of(k, r, i);
        }
    room_put(k, r);
    return QN_OK;
}

size_t qn_masks_n_bytes(qn_masks *k)
{
    (void)pthread_mutex_lock(&k->lock);
    size_t n = k->n_bytes;
    (void)pthread_mutex_unlock(&k->lock);
    return n + k->a->n_states * sizeof *k->surveys;
}

void qn_masks_free(qn_masks *k)
{
    if (!k)
        return;
    for (size_t i = 0; k->surveys && i < k->a->n_states; i++)
        survey_free(atomic_load(&k->surveys[i]));
    for (dense_set *d = k->sets, *next; d; d = next) {
        next = d->next;
        qn_free(d);
    }
    for (room *r = k->rooms, *next; r; r = next) {
        next = r->next;
        room_free(r);
    }
    (void)pthread_mutex_destroy(&k->lock);
    qn_free(k->surveys);
    qn_free(k);
}

qn_status qn_masks_new(qn_masks **out, const qn_vocabulary *v, const qn_automaton *a, qn_err *err)
{
    *out = NULL;
    qn_masks *k = qn_calloc(1, sizeof *k, QN_MEM_REQUEST);
    if (!k)
        return qn_fail_nomem(err, sizeof *k);
    k->v = v;
    k->a = a;
    (void)pthread_mutex_init(&k->lock, NULL); /* without attributes it cannot fail here */
    k->surveys = qn_calloc(a->n_states, sizeof *k->surveys, QN_MEM_REQUEST);
    if (!k->surveys) {
        qn_masks_free(k);
        return qn_fail_nomem(err, a->n_states * sizeof *k->surveys);
    }
    *out = k;
    return QN_OK;
}
