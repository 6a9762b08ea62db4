/* SPDX-License-Identifier: Apache-2.0
 * scheduler.c - see scheduler.h. */
#include "sched/scheduler.h"

#include "base/limits.h"
#include "base/mem.h"
#include <string.h>

/* Of the prompt whose turn it is, however short steps should be: else it would never be read. Far behind its beginning, where
 * each row takes long: at least one. */
#define MIN_CHUNK 4u
/* Of an urgent one beside others of its class, which would spend on others what it needs. */
#define URGENT_CHUNK 16u
/* A pace is kept to 7/8: steps are not always what was predicted. */
#define PACE_NUM 7u
#define PACE_DEN 8u
/* Targets are aimed at by 1/4 of them earlier: a machine with other guests is slower for seconds now and then. */
#define RESERVE 4u
/* A class is urgent until it had more than its share by so many of the shortest target; the second
 * by a quarter of that, the third by a ninth: bursts of the first are met, and nobody waits long
 * for all of them. */
#define BURST 4u
/* Steps before the number of seats changes again; and after which one more is tried though it did
 * not gain when it was tried last. */
#define SEAT_STEPS  4u
#define SEAT_RETRY  256u
#define NO_LIMIT    UINT64_MAX
#define LATE        NO_LIMIT /* as a pace: in turn, and steps may be as long as others want */
#define MAX_STRETCH ((uint64_t)1 << 20)
/* A longer piece of an answer is one that is computed again. */
#define MAX_RUN (QN_LIMIT_FORCED_TOKENS + 1u)

void qn_scheduler_init(qn_scheduler *s, qn_block_pool *pool, const qn_sched_options *o)
{
    *s = (qn_scheduler){.pool = pool, .options = *o};
    QN_ASSERT(o->n_buckets <= QN_MAX_BUCKETS);
    s->seats = o->min_seqs ? QN_MIN(o->min_seqs, o->max_seqs) : o->max_seqs;
    s->options.min_seqs = s->seats;
    qn_classes_init(&s->classes, o->classes, o->n_classes);
    qn_cost_model_init(&s->cost);
    for (uint32_t i = 0; i < s->classes.n; i++) {
        uint64_t target = s->classes.list[i].target_ns;
        if (target && (!s->shortest_target_ns || target < s->shortest_target_ns))
            s->shortest_target_ns = target;
    }
}

void qn_scheduler_fini(qn_scheduler *s)
{
    qn_free(s->seqs);
    qn_free(s->order);
    *s = (qn_scheduler){0};
}

/* ---- sequences come and go ---- */

static uint32_t missing(const qn_sched_seq *q)
{
    return q->n_tokens - q->n_computed;
}

/* In the midst of its answer: one token is missing, or a run of them that had no choice. */
static bool decodes(const qn_sched_seq *q)
{
    uint32_t n = missing(q);
    return q->state == QN_SEQ_RUNNING &&
           (n == 1 || (n && n <= MAX_RUN && q->n_computed >= q->n_prompt));
}

static qn_sched_class *class_of(qn_scheduler *s, const qn_sched_seq *q)
{
    return &s->classes.list[q->class_id];
}

/* The last block first: the prefix cache evicts in this order. */
static void give_back(qn_scheduler *s, qn_sched_seq *q)
{
    while (q->n_blocks)
        qn_block_pool_unref(s->pool, q->blocks[--q->n_blocks]);
    q->n_computed = q->n_named = 0;
}

static bool insert(qn_scheduler *s, qn_sched_seq *q)
{
    if (!qn_grow(&s->seqs, &s->seqs_cap, s->n_seqs + 1, sizeof(qn_sched_seq *), QN_MEM_MISC) ||
        !qn_grow(&s->order, &s->order_cap, s->n_seqs + 1, sizeof(qn_sched_seq *), QN_MEM_MISC))
        return false;
    size_t at = s->n_seqs++;
    for (; at && s->seqs[at - 1]->arrival > q->arrival; at--)
        s->seqs[at] = s->seqs[at - 1];
    s->seqs[at] = q;
    return true;
}

qn_status qn_scheduler_add(qn_scheduler *s, qn_sched_seq *q, uint32_t max_tokens, qn_err *err)
{
    size_t room = qn_block_pool_n_blocks(s->pool) * (size_t)s->options.block_size;
    if (max_tokens > room)
        return qn_fail(err, QN_E_TOO_LONG,
                       "the request may need %u tokens of K/V cache, there is room for %zu",
                       max_tokens, room);
    if (!insert(s, q))
        return qn_fail_nomem(err, sizeof(qn_sched_seq *));
    q->slot = qn_classes_enter(&s->classes, q->class_id, q->tenant_id);
    q->n_prompt = q->n_tokens;
    q->max_tokens = max_tokens;
    uint64_t target = class_of(s, q)->target_ns;
    q->deadline_ns = target ? q->submit_ns + target : 0;
    return QN_OK;
}

/* Gives q at least n blocks. */
static bool reserve(qn_scheduler *s, qn_sched_seq *q, uint32_t n)
{
    size_t cap = q->blocks_cap;
    if (n <= q->n_blocks)
        return true;
    if (!qn_grow(&q->blocks, &cap, n, sizeof *q->blocks, QN_MEM_REQUEST)) {
        s->no_memory = true;
        return false;
    }
    q->blocks_cap = (uint32_t)cap;
    if (!qn_block_pool_alloc(s->pool, n - q->n_blocks, q->blocks + q->n_blocks))
        return false;
    q->n_blocks = n;
    return true;
}

static void inherit(qn_scheduler *s, qn_sched_seq *child, const qn_sched_seq *parent)
{
    child->class_id = parent->class_id;
    child->tenant_id = parent->tenant_id;
    child->slot = parent->slot;
    memcpy(child->salt, parent->salt, sizeof child->salt);
    child->submit_ns = parent->submit_ns;
    child->n_prompt = parent->n_prompt;
    child->max_tokens = parent->max_tokens;
    child->deadline_ns = parent->deadline_ns;
    child->last_ns = parent->last_ns;
    child->has_started = true; /* what it shares was looked for once */
    qn_classes_enter_slot(&s->classes, child->slot);
}

qn_status qn_scheduler_fork(qn_scheduler *s, qn_sched_seq *child, const qn_sched_seq *parent,
                            int32_t *copy_to, int32_t *copy_from, qn_err *err)
{
    *copy_to = *copy_from = QN_BLOCK_NULL;
    if (!insert(s, child))
        return qn_fail_nomem(err, sizeof(qn_sched_seq *));
    inherit(s, child, parent);
    uint32_t size = s->options.block_size;
    uint32_t full = parent->n_computed / size, rest = parent->n_computed % size;
    uint32_t want = full + (rest ? 1 : 0);
    size_t cap = child->blocks_cap;
    if (!want)
        return QN_OK;
    if (!qn_grow(&child->blocks, &cap, want, sizeof *child->blocks, QN_MEM_REQUEST))
        return qn_fail_nomem(err, want * sizeof *child->blocks);
    child->blocks_cap = (uint32_t)cap;
    int32_t fresh = QN_BLOCK_NULL;
    if (rest && !qn_block_pool_alloc(s->pool, 1, &fresh))
        return qn_fail(err, QN_E_KV_FULL, "no K/V block is free");
    for (uint32_t i = 0; i < full; i++) {
        child->blocks[i] = parent->blocks[i];
        qn_block_pool_ref(s->pool, child->blocks[i]);
    }
    if (rest) {
        child->blocks[full] = *copy_to = fresh;
        *copy_from = parent->blocks[full];
    }
    child->n_blocks = want;
    child->n_named = parent->n_named;
    child->n_computed = parent->n_computed;
    child->state = QN_SEQ_RUNNING;
    return QN_OK;
}

void qn_scheduler_remove(qn_scheduler *s, qn_sched_seq *q)
{
    give_back(s, q);
    qn_free(q->blocks);
    q->blocks = NULL;
    q->blocks_cap = 0;
    q->state = QN_SEQ_FINISHED;
    size_t k = 0;
    for (size_t i = 0; i < s->n_seqs; i++)
        if (s->seqs[i] != q)
            s->seqs[k++] = s->seqs[i];
    if (k == s->n_seqs)
        return; /* adding it had failed */
    s->n_seqs = k;
    qn_classes_leave(&s->classes, q->slot);
    qn_sched_class *c = class_of(s, q);
    uint32_t n = q->n_tokens - q->n_prompt;
    if (n)
        c->n_output = c->n_output ? (7 * c->n_output + n + 7) / 8 : n;
}

/* Blocks behind the last token were for drafts that did not come true. */
static void drop_spare(qn_scheduler *s, qn_sched_seq *q)
{
    while (q->n_blocks > QN_DIV_UP(q->n_tokens, s->options.block_size))
        qn_block_pool_unref(s->pool, q->blocks[--q->n_blocks]);
}

static bool is_prompt(const qn_sched_seq *q)
{
    return missing(q) && !decodes(q);
}

/* ---- time ---- */

/* What one schedule has left to give. */
typedef struct turn {
    uint64_t now;
    bool by_age; /* as fifo */
    uint32_t budget, n_chosen;
    uint32_t n_seats; /* running, with something missing */
    uint32_t in_bucket[QN_MAX_BUCKETS];
    uint32_t rows; /* of the step so far */
    uint64_t context;
    uint64_t pace, gap; /* what the step may take: of all; with prompts in it */
    bool has_prompt, preempted;
    int64_t overuse[QN_MAX_CLASSES];
    bool urgent[QN_MAX_CLASSES]; /* it has a target, and is within its share */
} turn;

/* Tokens that q's answer will still have if it is as those of its class were of late. */
static uint32_t usual_left(const qn_scheduler *s, const qn_sched_seq *q)
{
    uint32_t usual = 2 * s->classes.list[q->class_id].n_output, had = q->n_tokens - q->n_prompt;
    return QN_MAX(usual > had ? usual - had : 0, had / 4 + 1);
}

/* A step may take so long that q, which needs as much longer for the rest of its way as for this
 * step, is there in time: with all the tokens that were asked for, or, if these are too many, with
 * as many as are usual. LATE: even then it cannot be. 0: it has no target, or its class had
 * enough. */
static uint64_t pace_of(const qn_scheduler *s, const qn_sched_seq *q, const turn *t)
{
    if (!t->urgent[q->class_id])
        return 0;
    if (t->now >= q->deadline_ns)
        return LATE;
    uint32_t all = missing(q), rows = QN_MIN(all, s->options.max_batch_tokens);
    uint64_t own = qn_cost_model_ns(&s->cost, rows, qn_context_of(q->n_computed, rows));
    uint64_t prompt =
        qn_cost_model_ns(&s->cost, all - rows, qn_context_of(q->n_computed + rows, all - rows));
    uint64_t token = qn_cost_model_ns(&s->cost, 1, q->n_tokens), left = q->deadline_ns - t->now;
    uint32_t most = q->max_tokens > q->n_tokens ? q->max_tokens - q->n_tokens : 1;
    uint64_t need = own + prompt + (most - 1) * token;
    if (need > left && s->classes.list[q->class_id].n_output)
        need = own + prompt + (QN_MIN(most, usual_left(s, q)) - 1) * token;
    if (need > left)
        return LATE;
    uint64_t spare = QN_MIN(left - need, s->classes.list[q->class_id].target_ns / RESERVE);
    uint64_t stretch = QN_MIN((left - spare) * 64 / need, MAX_STRETCH);
    return QN_MAX(own, own * stretch / 64 * PACE_NUM / PACE_DEN);
}

/* How many of n rows more of q keep the step within limit. */
static uint32_t rows_in_time(const qn_scheduler *s, const qn_sched_seq *q, const turn *t,
                             uint64_t limit, uint32_t n)
{
    uint32_t low = 0, high = n;
    while (limit != NO_LIMIT && low < high) {
        uint32_t mid = high - (high - low) / 2;
        uint64_t ns = qn_cost_model_ns(&s->cost, t->rows + mid,
                                       t->context + qn_context_of(q->n_computed, mid));
        if (ns <= limit)
            low = mid;
        else
            high = mid - 1;
    }
    return limit == NO_LIMIT ? n : low;
}

/* ---- preempting ---- */

/* Tokens that q could store in its own blocks and the free ones. */
static size_t room_of(const qn_scheduler *s, const qn_sched_seq *q)
{
    return (q->n_blocks + qn_block_pool_n_free(s->pool)) * (size_t)s->options.block_size -
           q->n_computed;
}

static uint32_t bucket_of(const qn_scheduler *s, const qn_sched_seq *q)
{
    uint32_t i = 0;
    while (i < (uint32_t)s->options.n_buckets && s->options.buckets[i].max_tokens < q->max_tokens)
        i++;
    return i;
}

static void take_seat(const qn_scheduler *s, const qn_sched_seq *q, turn *t)
{
    uint32_t b = bucket_of(s, q);
    t->n_seats++;
    if (b < (uint32_t)s->options.n_buckets)
        t->in_bucket[b]++;
}

/* The youngest that holds blocks among those after q in age; with a class: among all of that class.
 * NULL: none. */
static qn_sched_seq *youngest(const qn_scheduler *s, const qn_sched_seq *q, int class_id)
{
    for (size_t i = s->n_seqs; i-- > 0;) {
        qn_sched_seq *v = s->seqs[i];
        if (v == q)
            return NULL;
        if (v->n_blocks && (class_id < 0 || v->class_id == (uint32_t)class_id))
            return v;
    }
    return NULL;
}

/* Of the class furthest above its share: its youngest, if q's class is below its own, and if what
 * was had in excess is worth the rows that will be computed again, or q is urgent. */
static qn_sched_seq *of_other_class(const qn_scheduler *s, const qn_sched_seq *q, const turn *t)
{
    const qn_sched_seq *best = NULL;
    if (t->by_age || t->overuse[q->class_id] >= 0)
        return NULL;
    for (size_t i = s->n_seqs; i-- > 0;) {
        const qn_sched_seq *v = s->seqs[i];
        int64_t over = t->overuse[v->class_id];
        if (!v->n_blocks || v->pace_ns || over <= 0 || (best && over <= t->overuse[best->class_id]))
            continue;
        int64_t again =
            (int64_t)qn_cost_model_ns(&s->cost, v->n_computed, qn_context_of(0, v->n_computed));
        if (q->pace_ns || over >= again)
            best = v;
    }
    return (qn_sched_seq *)best;
}

static void preempt(qn_scheduler *s, qn_sched_seq *v, turn *t)
{
    if (v->n_scheduled) {
        t->budget += v->n_scheduled;
        t->n_chosen--;
        t->rows -= v->n_scheduled;
        t->context -= qn_context_of(v->n_computed, v->n_scheduled);
    }
    if (missing(v)) {
        uint32_t b = bucket_of(s, v);
        t->n_seats--;
        if (b < (uint32_t)s->options.n_buckets)
            t->in_bucket[b]--;
    }
    t->overuse[v->class_id] -=
        (int64_t)qn_cost_model_ns(&s->cost, v->n_computed, qn_context_of(0, v->n_computed));
    t->preempted = true;
    give_back(s, v);
    v->state = QN_SEQ_WAITING;
    v->n_scheduled = 0;
    v->pace_ns = 0;
    v->n_preempted++;
    class_of(s, v)->n_preempted++;
    s->n_preempted++;
}

/* Somebody gives blocks back for q. False: nobody has to. */
static bool preempt_for(qn_scheduler *s, const qn_sched_seq *q, turn *t)
{
    qn_sched_seq *v = of_other_class(s, q, t);
    if (!v)
        v = youngest(s, q, t->by_age ? -1 : (int)q->class_id);
    if (v)
        preempt(s, v, t);
    return v != NULL;
}

/* ---- starting ---- */

/* Whether q could have room for n tokens if all that may have to gave their blocks back. */
static bool could_fit(const qn_scheduler *s, const qn_sched_seq *q, const turn *t, size_t n)
{
    size_t n_blocks = 0;
    bool younger = false;
    for (size_t i = 0; i < s->n_seqs; i++) {
        const qn_sched_seq *v = s->seqs[i];
        younger = younger || v == q;
        bool own = younger && (t->by_age || v->class_id == q->class_id),
             other = !t->by_age && t->overuse[q->class_id] < 0 && t->overuse[v->class_id] > 0;
        if (v != q && (own || other))
            n_blocks += v->n_blocks;
    }
    return room_of(s, q) + n_blocks * s->options.block_size >= n;
}

/* What the prefix cache has of q's tokens. */
static bool take_computed(qn_scheduler *s, qn_sched_seq *q)
{
    uint32_t size = s->options.block_size, most = q->n_tokens ? (q->n_tokens - 1) / size : 0;
    size_t cap = q->blocks_cap;
    qn_miss miss = QN_MISS_OFF;
    if (q->tokens) {
        if (most && !qn_grow(&q->blocks, &cap, most, sizeof *q->blocks, QN_MEM_REQUEST)) {
            s->no_memory = true;
            return false;
        }
        q->blocks_cap = (uint32_t)cap;
        q->n_named = (uint32_t)qn_block_pool_get_computed(s->pool, q->tokens, q->n_tokens, q->salt,
                                                          q->blocks, &miss);
        q->n_blocks = q->n_named;
        q->n_computed = q->n_named * size;
    }
    if (!q->has_started)
        q->miss = miss;
    return true;
}

/* A seat, and room for all that is missing of q, with what the prefix cache has of it. Urgent ones
 * need no seat: others stay out of the step instead, in turn. */
static bool start(qn_scheduler *s, qn_sched_seq *q, turn *t)
{
    if (t->n_seats >= s->seats && !q->pace_ns) {
        qn_sched_seq *v = of_other_class(s, q, t);
        if (!v || t->n_seats > s->seats || !could_fit(s, q, t, q->n_tokens))
            return false;
        preempt(s, v, t);
    }
    if (t->n_chosen >= s->options.max_seqs || !take_computed(s, q))
        return false;
    bool fits = could_fit(s, q, t, missing(q));
    while (fits && room_of(s, q) < missing(q))
        fits = preempt_for(s, q, t);
    if (!fits)
        give_back(s, q);
    return fits;
}

static void note_start(qn_scheduler *s, qn_sched_seq *q, turn *t)
{
    q->state = QN_SEQ_RUNNING;
    take_seat(s, q, t);
    if (q->has_started)
        return;
    q->has_started = true;
    q->n_cached = q->n_computed;
    s->n_cache_queries += q->tokens ? q->n_tokens : 0;
    s->n_cache_hits += q->n_cached;
}

/* Gives q what budget, room and time allow of its missing tokens: `least` of them even if the step
 * gets longer than `limit`. A waiting one starts only if all of them would fit. False: blocks or
 * seats are wanting. */
static bool give(qn_scheduler *s, qn_sched_seq *q, turn *t, uint64_t limit, uint32_t least)
{
    bool starts = q->state == QN_SEQ_WAITING;
    if (!least && !rows_in_time(s, q, t, limit, 1))
        return true;
    if (starts && !start(s, q, t))
        return false;
    while (!starts && room_of(s, q) < 1)
        if (!preempt_for(s, q, t))
            return false;
    uint32_t n = (uint32_t)QN_MIN(room_of(s, q), (size_t)QN_MIN(missing(q), t->budget));
    n = QN_MIN(n, QN_MAX(least, rows_in_time(s, q, t, limit, n)));
    if (!n || !reserve(s, q, QN_DIV_UP(q->n_computed + n, s->options.block_size))) {
        if (starts)
            give_back(s, q);
        return false;
    }
    if (starts)
        note_start(s, q, t);
    q->n_scheduled = n;
    t->budget -= n;
    t->rows += n;
    t->context += qn_context_of(q->n_computed, n);
    t->n_chosen++;
    return true;
}

/* ---- a schedule ---- */

/* Everybody from the beginning: who runs, who is urgent, how long the step may be. */
static turn begin(qn_scheduler *s, uint64_t now, bool by_age)
{
    turn t = {.now = now,
              .by_age = by_age,
              .budget = s->options.max_batch_tokens,
              .pace = NO_LIMIT,
              .gap = !by_age && s->shortest_target_ns ? s->shortest_target_ns / 4 : NO_LIMIT};
    for (uint32_t i = 0; i < s->classes.n; i++) {
        int64_t burst = (int64_t)(BURST * s->shortest_target_ns / (i + 1) / (i + 1));
        t.overuse[i] = qn_classes_overuse_ns(&s->classes, i);
        t.urgent[i] = !by_age && s->classes.list[i].target_ns && t.overuse[i] <= burst;
    }
    uint32_t rows = 0, n_prompts = 0;
    uint64_t context = 0;
    bool auto_gap = false;
    for (size_t i = 0; i < s->n_seqs; i++) {
        qn_sched_seq *q = s->seqs[i];
        q->n_scheduled = 0;
        q->pace_ns = 0;
        drop_spare(s, q);
        n_prompts += is_prompt(q);
        if (q->state != QN_SEQ_RUNNING || !missing(q))
            continue;
        take_seat(s, q, &t);
        q->pace_ns = pace_of(s, q, &t);
        const qn_sched_class *c = class_of(s, q);
        if (by_age || !q->last_ns)
            continue;
        if (c->gap_ns) {
            uint64_t due = q->last_ns + c->gap_ns;
            t.gap = QN_MIN(t.gap, due > now ? due - now : 0);
        }
        auto_gap = auto_gap || c->auto_gap;
        rows++;
        context += q->n_tokens;
    }
    if (auto_gap) {
        uint64_t alone = qn_cost_model_usual_ns(&s->cost, rows, context),
                 gap = (n_prompts > 2 ? 1 + n_prompts : 2) * alone;
        gap = QN_MIN(gap, QN_MAX(6 * alone, QN_GAP_MOST_NS));
        t.gap = QN_MIN(t.gap, QN_MAX(gap, QN_GAP_LEAST_NS) / PACE_DEN * PACE_NUM);
    }
    return t;
}

/* Tokens that q will come to hold, if its answer is as others were. */
static size_t usual_need(const qn_scheduler *s, const qn_sched_seq *q)
{
    return QN_MIN(q->n_tokens + usual_left(s, q), q->max_tokens) - q->n_computed +
           s->options.block_size;
}

/* Prompts that go before all else of their tenants, because it is the shortest's turn, and the oldest is at least twice as long.
 * Those that run keep the room they need. */
static void find_shortest(const qn_scheduler *s, const turn *t,
                          const qn_sched_seq *first[QN_MAX_TENANTS])
{
    size_t room = qn_block_pool_n_free(s->pool) * (size_t)s->options.block_size, owed = 0;
    uint32_t most[QN_MAX_TENANTS] = {0}; /* tokens of it; by the oldest prompt, which comes first */
    for (size_t i = 0; i < s->n_seqs; i++)
        if (s->seqs[i]->state == QN_SEQ_RUNNING)
            owed += usual_need(s, s->seqs[i]);
    for (size_t i = 0; i < s->n_seqs; i++) {
        const qn_sched_seq *q = s->seqs[i], **best = &first[q->slot];
        if (!s->classes.tenants[q->slot].is_shortest || !is_prompt(q) || t->urgent[q->class_id])
            continue;
        if (!most[q->slot])
            most[q->slot] = missing(q) / 2;
        else if ((q->state == QN_SEQ_RUNNING || owed + usual_need(s, q) <= room) &&
                 missing(q) <= (*best ? missing(*best) - 1 : most[q->slot]))
            *best = q;
    }
}

/* A tenant's sequences in the order of their turns. */
enum { FIRST, RUNS, WAITS, N_GROUPS };
static uint32_t group_of(const qn_sched_seq *q, const qn_sched_seq *const first[QN_MAX_TENANTS])
{
    return first[q->slot] == q ? FIRST : q->state == QN_SEQ_WAITING ? WAITS : RUNS;
}

/* s->order: by the tenants' ranks; of each the shortest prompt if it is its turn, those that run, then by age. */
static void make_order(qn_scheduler *s, const turn *t)
{
    uint16_t rank[QN_MAX_TENANTS] = {0};
    uint32_t at[N_GROUPS * QN_MAX_TENANTS + 1] = {0};
    const qn_sched_seq *first[QN_MAX_TENANTS] = {NULL};
    if (!t->by_age) {
        (void)qn_classes_rank(&s->classes, rank);
        find_shortest(s, t, first);
    }
    for (size_t i = 0; i < s->n_seqs; i++)
        at[N_GROUPS * rank[s->seqs[i]->slot] + group_of(s->seqs[i], first) + 1]++;
    for (size_t i = 1; i < QN_COUNT(at); i++)
        at[i] += at[i - 1];
    for (size_t i = 0; i < s->n_seqs; i++) {
        qn_sched_seq *q = s->seqs[i];
        s->order[at[N_GROUPS * rank[q->slot] + group_of(q, first)]++] = q;
    }
}

/* One that waits may take the place of one that was chosen. */
static bool has_turn(const qn_scheduler *s, const qn_sched_seq *q, const turn *t)
{
    return missing(q) && !q->n_scheduled && t->budget &&
           (t->n_chosen < s->options.max_seqs || q->state == QN_SEQ_WAITING);
}

/* A prompt, of a running sequence or of one that waits: `least` rows of it even in a step that is
 * long enough already. False: as give. */
static bool give_prompt(qn_scheduler *s, qn_sched_seq *q, turn *t, uint64_t limit, uint32_t least)
{
    if (!give(s, q, t, limit, t->has_prompt ? 0 : least))
        return false;
    if (!q->n_scheduled)
        return true;
    t->has_prompt = true;
    if (q->pace_ns)
        t->pace = QN_MIN(t->pace, q->pace_ns);
    return true;
}

static bool is_bucket_full(const qn_scheduler *s, const qn_sched_seq *q, const turn *t)
{
    uint32_t b = bucket_of(s, q);
    return b < (uint32_t)s->options.n_buckets && t->in_bucket[b] >= s->options.buckets[b].max_seqs;
}

/* Of one class, late or not: first those that decode, as far as the classes above allow; then
 * prompts, as far as these allow too. */
static void give_class(qn_scheduler *s, turn *t, uint32_t class_id, bool late, bool *is_open)
{
    uint64_t above = t->pace;
    uint32_t least = above == NO_LIMIT;
    for (size_t i = 0; i < s->n_seqs; i++) {
        qn_sched_seq *q = s->order[i];
        if (q->class_id != class_id || !has_turn(s, q, t) || !decodes(q) || !q->pace_ns ||
            (q->pace_ns == LATE) != late)
            continue;
        (void)give(s, q, t, above, least);
        if (q->n_scheduled) /* who is late binds nobody */
            t->pace = QN_MIN(t->pace, q->pace_ns);
    }
    for (size_t i = 0; i < s->n_seqs; i++) {
        qn_sched_seq *q = s->order[i];
        bool waits = q->state == QN_SEQ_WAITING;
        if (q->class_id != class_id || !has_turn(s, q, t) || decodes(q) ||
            (waits && (!*is_open || is_bucket_full(s, q, t))))
            continue;
        if (waits)
            q->pace_ns = pace_of(s, q, t);
        if (!q->pace_ns || (q->pace_ns == LATE) != late)
            continue;
        if (!give_prompt(s, q, t, t->pace, least * URGENT_CHUNK) && waits)
            *is_open = false;
        *is_open = *is_open && !t->preempted;
    }
}

/* The classes in their order, each within its share: those of it that can be in time, then those
 * that are late, in what the others leave. */
static void give_urgent(qn_scheduler *s, turn *t)
{
    bool is_open = true;
    for (uint32_t c = 0; c < s->classes.n; c++) {
        if (!t->urgent[c])
            continue;
        give_class(s, t, c, false, &is_open);
        give_class(s, t, c, true, &is_open);
    }
}

/* False: with all that decode the step would be too long for the urgent ones; none was given. Runs come last, and keep the
 * gaps of those that decode one token: their own tokens are told already. */
static bool give_decoding(qn_scheduler *s, turn *t)
{
    uint32_t rows = t->rows;
    uint64_t context = t->context, limit = NO_LIMIT;
    for (size_t i = 0; i < s->n_seqs; i++) {
        const qn_sched_seq *q = s->seqs[i];
        if (!decodes(q) || q->n_scheduled)
            continue;
        rows += missing(q);
        context += qn_context_of(q->n_computed, missing(q));
        if (missing(q) == 1)
            limit = t->gap;
    }
    if (qn_cost_model_ns(&s->cost, rows, context) > t->pace)
        return false;
    for (int runs = 0; runs < 2; runs++)
        for (size_t i = 0; i < s->n_seqs; i++) {
            qn_sched_seq *q = s->order[i];
            if (has_turn(s, q, t) && decodes(q) && (missing(q) > 1) == runs)
                (void)give(s, q, t, runs ? limit : NO_LIMIT, runs ? MIN_CHUNK : 1);
        }
    return true;
}

/* Decoding ones that would have made the step too long for the urgent, and prompts; in turn. */
static void give_rest(qn_scheduler *s, turn *t)
{
    bool is_open = true; /* nobody waits who must start before others */
    uint64_t limit = t->gap, ns = qn_cost_model_ns(&s->cost, t->rows, t->context);
    if (t->pace != NO_LIMIT) /* the other half is for urgent ones that come before these end */
        limit = QN_MIN(limit, ns < t->pace ? ns + (t->pace - ns) / 2 : t->pace);
    for (size_t i = 0; i < s->n_seqs; i++) {
        qn_sched_seq *q = s->order[i];
        bool waits = q->state == QN_SEQ_WAITING;
        if (!has_turn(s, q, t))
            continue;
        if (decodes(q)) {
            (void)give(s, q, t, t->pace, 0);
            continue;
        }
        is_open = is_open && !t->preempted; /* it would soon be preempted again */
        if (waits && (!is_open || is_bucket_full(s, q, t)))
            continue;
        uint32_t least = 0;
        if (!t->has_prompt && (!t->n_chosen || t->pace == NO_LIMIT))
            least = QN_MAX(rows_in_time(s, q, t, ns + ns / 2, MIN_CHUNK), 1);
        if (!give_prompt(s, q, t, QN_MIN(t->pace, limit), least) && waits)
            is_open = false; /* it goes first, or nobody */
    }
}

static size_t share_out(qn_scheduler *s, uint64_t now, bool by_age, qn_sched_seq **out)
{
    turn t = begin(s, now, by_age);
    make_order(s, &t);
    give_urgent(s, &t);
    bool all = give_decoding(s, &t);
    give_rest(s, &t);
    /* preemption may have taken back what was given, so the list is made last */
    size_t n_out = 0;
    bool reads[QN_MAX_TENANTS] = {false};
    for (size_t i = 0; i < s->n_seqs; i++) {
        qn_sched_seq *q = s->seqs[i];
        if (!q->n_scheduled)
            continue;
        out[n_out++] = q;
        reads[q->slot] = reads[q->slot] || is_prompt(q);
    }
    for (size_t i = 0; i < QN_MAX_TENANTS; i++)
        s->classes.tenants[i].is_shortest ^= reads[i];
    s->budget = 0;
    if (all && n_out)
        s->budget = rows_in_time(s, out[0], &t, QN_MIN(t.pace, t.gap), t.budget);
    return n_out;
}

size_t qn_scheduler_schedule(qn_scheduler *s, uint64_t now_ns, qn_sched_seq **out)
{
    s->no_memory = false;
    size_t n = share_out(s, now_ns, s->options.fifo, out);
    if (!n && !s->options.fifo && !s->no_memory)
        n = share_out(s, now_ns, true, out);
    return n;
}

uint32_t qn_scheduler_draft(qn_scheduler *s, qn_sched_seq *q, uint32_t n)
{
    uint32_t end = q->n_computed + q->n_scheduled, size = s->options.block_size;
    QN_ASSERT(q->n_scheduled && end == q->n_tokens && !q->n_drafted);
    size_t room = (q->n_blocks + qn_block_pool_n_free(s->pool)) * (size_t)size - end;
    n = (uint32_t)QN_MIN((size_t)QN_MIN(n, s->budget), room);
    if (!n || !reserve(s, q, QN_DIV_UP(end + n, size)))
        return 0;
    q->n_drafted = n;
    q->n_scheduled += n;
    s->budget -= n;
    return n;
}

/* ---- after a step ---- */

/* One seat more while a step with one more gives more rows a second, one less while it does not. */
static void adapt_seats(qn_scheduler *s)
{
    const qn_sched_options *o = &s->options;
    uint32_t n = s->seats, next = n;
    if (o->min_seqs == o->max_seqs || ++s->n_at_seats < SEAT_STEPS)
        return;
    uint64_t ns = qn_cost_model_ns(&s->cost, n, 0), more = qn_cost_model_ns(&s->cost, n + 1, 0),
             less = qn_cost_model_ns(&s->cost, n - 1, 0);
    if (n > o->min_seqs && n > 1 && ns * (n - 1) > less * n)
        next = n - 1;
    else if (n < o->max_seqs && (ns * (n + 1) > more * n || s->n_at_seats >= SEAT_RETRY))
        next = n + 1;
    if (next != n)
        s->n_at_seats = 0;
    s->seats = next;
}

void qn_scheduler_advance(qn_scheduler *s, uint64_t now_ns, uint64_t ns)
{
    uint32_t rows = 0, n_running = 0, n_waiting = 0;
    uint64_t context = 0;
    for (size_t i = 0; i < s->n_seqs; i++) {
        const qn_sched_seq *q = s->seqs[i];
        rows += q->n_scheduled;
        context += qn_context_of(q->n_computed, q->n_scheduled);
        n_running += q->n_scheduled > 0;
        n_waiting += q->state == QN_SEQ_WAITING;
    }
    uint64_t base = qn_cost_model_ns(&s->cost, rows, 0),
             all = qn_cost_model_ns(&s->cost, rows, context);
    uint64_t scale = all ? QN_MIN(ns * 1024 / all, MAX_STRETCH) : 0;
    for (size_t i = 0; i < s->n_seqs; i++) {
        qn_sched_seq *q = s->seqs[i];
        if (!q->n_scheduled)
            continue;
        uint64_t part =
            base / rows * q->n_scheduled +
            qn_cost_model_ns(&s->cost, rows, qn_context_of(q->n_computed, q->n_scheduled)) - base;
        qn_classes_charge(&s->classes, q->slot, part * scale / 1024);
        q->n_computed += q->n_scheduled - q->n_drafted;
        q->n_scheduled = q->n_drafted = 0;
        if (!missing(q))
            q->last_ns = now_ns;
        uint32_t full = q->n_computed / s->options.block_size;
        if (q->tokens && full > q->n_named) {
            qn_block_pool_cache_full(s->pool, q->tokens, q->blocks, q->n_named, full, q->salt);
            q->n_named = full;
        }
    }
    qn_cost_model_add(&s->cost, rows, context, ns);
    if (n_waiting && n_running >= s->seats)
        adapt_seats(s);
}

uint64_t qn_scheduler_hold_ns(const qn_scheduler *s, size_t n, uint64_t first_ns, uint64_t now_ns,
                              uint64_t timeout_ns)
{
    uint64_t end = first_ns + timeout_ns;
    return n >= s->options.max_seqs || now_ns >= end ? 0 : end - now_ns;
}

/* ---- checking ---- */

static qn_status check_seq(const qn_scheduler *s, size_t i, qn_err *err)
{
    const qn_sched_seq *q = s->seqs[i];
    uint32_t end = q->n_computed + q->n_scheduled, want = QN_DIV_UP(end, s->options.block_size);
    if (q->n_blocks < want)
        return qn_fail(err, QN_E_INTERNAL, "scheduler: sequence %zu holds %u blocks, needs %u", i,
                       q->n_blocks, want);
    if (end > q->n_tokens + q->n_drafted || (q->n_drafted && end != q->n_tokens + q->n_drafted))
        return qn_fail(err, QN_E_INTERNAL, "scheduler: sequence %zu is %u of %u tokens ahead", i,
                       end, q->n_tokens);
    if (q->state == QN_SEQ_WAITING && (q->n_blocks || q->n_computed))
        return qn_fail(err, QN_E_INTERNAL, "scheduler: sequence %zu waits and holds %u blocks", i,
                       q->n_blocks);
    if (i && s->seqs[i - 1]->arrival > q->arrival)
        return qn_fail(err, QN_E_INTERNAL, "scheduler: sequence %zu is out of order", i);
    if (q->n_named > q->n_computed / s->options.block_size)
        return qn_fail(err, QN_E_INTERNAL,
                       "scheduler: sequence %zu has %u blocks in the prefix cache, %u tokens", i,
                       q->n_named, q->n_computed);
    if (s->classes.tenants[q->slot].class_id != q->class_id)
        return qn_fail(err, QN_E_INTERNAL, "scheduler: sequence %zu is in the slot of class %u", i,
                       s->classes.tenants[q->slot].class_id);
    return QN_OK;
}

qn_status qn_scheduler_check(const qn_scheduler *s, qn_err *err)
{
    uint32_t in_slot[QN_MAX_TENANTS] = {0}, in_class[QN_MAX_CLASSES] = {0};
    for (size_t i = 0; i < s->n_seqs; i++) {
        QN_TRY(check_seq(s, i, err));
        in_slot[s->seqs[i]->slot]++;
        in_class[s->seqs[i]->class_id]++;
    }
    for (size_t i = 0; i < QN_MAX_TENANTS; i++) {
        const qn_sched_tenant *t = &s->classes.tenants[i];
        if (in_slot[i] + t->n_guests != t->n_seqs)
            return qn_fail(err, QN_E_INTERNAL, "scheduler: tenant %zu has %u sequences, want %u", i,
                           t->n_seqs, in_slot[i] + t->n_guests);
        in_class[t->class_id] += t->n_guests;
    }
    for (size_t i = 0; i < QN_MAX_CLASSES; i++)
        if (in_class[i] != s->classes.list[i].n_seqs)
            return qn_fail(err, QN_E_INTERNAL, "scheduler: class %zu has %u sequences, want %u", i,
                           s->classes.list[i].n_seqs, in_class[i]);
    return qn_block_pool_check(s->pool, err);
}
