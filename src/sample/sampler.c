/* SPDX-License-Identifier: Apache-2.0
 * sampler.c - see sampler.h.
 *
 * How a token is chosen without sorting the vocabulary:
 *   greedy   one pass: maximum of 256 logits at a time, the index looked for only where the maximum
 *            rises
 *   top-k    a heap of k, worst on top: most logits cost one comparison
 *   top-p    first a threshold: tokens less likely than (1 - p) / n together weigh less than 1 - p,
 *            so none of them can be kept. Then, over the few left, the key at which the weight
 *            reaches p is searched by buckets (keep_mass).
 *   typical  the same search, with the distance from the entropy as key
 *
 * Invariants: items are in ascending id order among equal keys (gather and top_select give them so,
 * filters are stable); the likeliest item has weight 1, so that min-p is a comparison and no sum
 * can be 0.
 * Sources: transformers generation/logits_process.py (penalties, warpers); Holtzman et al. 2019
 * (top-p); Meister et al. 2022 (typical); O'Neill 2014, PCG (XSH-RR 64/32). */
#include "sample/sampler.h"

#include "base/limits.h"
#include "base/mem.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define N_BUCKETS    256
#define SCAN_CHUNK   256 /* logits; 1 KiB stays in L1 for the second look */
#define N_LANES      8
#define EXP_CHUNK    64

#define COUNT_PROMPT 0x80000000u /* in counts[]: seen in the prompt; the rest counts the output */

typedef struct item {
    double weight; /* exp((logit - max) / temperature) */
    float key;     /* filters keep small keys: -logit, or the distance from the entropy */
    int32_t id;
} item;

struct qn_sampler {
    qn_params p; /* its pointers are NULL */
    bool constrained;
    size_t n_vocab, n_tokens;
    size_t n_output; /* tokens accepted as output */
    uint64_t rng;
    bool penalised;
    qn_logit_bias *bias; /* [p.n_logit_bias] */
    int32_t *eos;        /* [n_eos], all < n_tokens */
    size_t n_eos;
    uint32_t *counts; /* [n_tokens]; NULL unless penalised */
    int32_t *seen;    /* [n_tokens] the ids with counts[id] != 0 */
    size_t n_seen;
    float *row;        /* [n_tokens] the modified logits; NULL if nothing modifies them */
    qn_candidate *top; /* [n_top]; NULL without top-k */
    size_t n_top;
    item *items; /* [n_items]; NULL when greedy */
    size_t n_items;
};

/* ---- parameters ---- */

static qn_status check_range(double v, const char *field, double min, double max, bool min_open,
                             bool max_open, qn_err *err)
{
    /* Written so that NaN fails. */
    bool low_ok = min_open ? v > min : v >= min, high_ok = max_open ? v < max : v <= max;
    if (low_ok && high_ok)
        return QN_OK;
    return qn_fail(err, QN_E_ARG, "%s: %g, want %s%g %s%g", field, v, min_open ? "more than " : "",
                   min, max_open ? "to less than " : "to ", max);
}

static qn_status check_lists(const qn_params *p, size_t n_vocab, qn_err *err)
{
    if (p->n_logit_bias > QN_LIMIT_LOGIT_BIAS || (p->n_logit_bias && !p->logit_bias))
        return qn_fail(err, QN_E_ARG, "logit_bias: %zu entries, want 0 to %d", p->n_logit_bias,
                       QN_LIMIT_LOGIT_BIAS);
    for (size_t i = 0; i < p->n_logit_bias; i++) {
        const qn_logit_bias *b = &p->logit_bias[i];
        if (b->token_id < 0 || (size_t)b->token_id >= n_vocab)
            return qn_fail(err, QN_E_ARG, "logit_bias[%zu]: token id %d, want 0 to %zu", i,
                           b->token_id, n_vocab - 1);
        if (!(b->bias >= -100.0f && b->bias <= 100.0f))
            return qn_fail(err, QN_E_ARG, "logit_bias[%zu]: bias %g, want -100 to 100", i,
                           (double)b->bias);
    }
    if (p->n_stop > QN_LIMIT_STOP_STRINGS || (p->n_stop && !p->stop))
        return qn_fail(err, QN_E_ARG, "stop: %zu strings, want 0 to %d", p->n_stop,
                       QN_LIMIT_STOP_STRINGS);
    for (size_t i = 0; i < p->n_stop; i++) {
        size_t n = p->stop[i] ? strnlen(p->stop[i], QN_LIMIT_STOP_BYTES + 1) : 0;
        if (n < 1 || n > QN_LIMIT_STOP_BYTES)
            return qn_fail(err, QN_E_ARG, "stop[%zu]: %s, want 1 to %d bytes", i,
                           n ? "too long" : "empty", QN_LIMIT_STOP_BYTES);
    }
    if (p->n_stop_ids > QN_LIMIT_STOP_IDS || (p->n_stop_ids && !p->stop_ids))
        return qn_fail(err, QN_E_ARG, "stop_ids: %zu entries, want 0 to %d", p->n_stop_ids,
                       QN_LIMIT_STOP_IDS);
    for (size_t i = 0; i < p->n_stop_ids; i++)
        if (p->stop_ids[i] < 0 || (size_t)p->stop_ids[i] >= n_vocab)
            return qn_fail(err, QN_E_ARG, "stop_ids[%zu]: token id %d, want 0 to %zu", i,
                           p->stop_ids[i], n_vocab - 1);
    return QN_OK;
}

qn_status qn_params_check(const qn_params *p, size_t n_vocab, qn_err *err)
{
    if (n_vocab < 1 || n_vocab > INT32_MAX)
        return qn_fail(err, QN_E_ARG, "vocabulary: %zu tokens, want 1 to %d", n_vocab, INT32_MAX);
    const struct {
        double v;
        const char *field;
        double min, max;
        bool min_open, max_open;
    } table[] = {
        {p->temperature, "temperature", 0, 100, false, false},
        {p->top_k, "top_k", 0, INT32_MAX, false, false},
        {p->top_p, "top_p", 0, 1, true, false},
        {p->min_p, "min_p", 0, 1, false, true},
        {p->typical_p, "typical_p", 0, 1, true, false},
        {p->repetition_penalty, "repetition_penalty", 0, 10, true, false},
        {p->presence_penalty, "presence_penalty", -2, 2, false, false},
        {p->frequency_penalty, "frequency_penalty", -2, 2, false, false},
        {p->max_tokens, "max_tokens", 0, INT32_MAX, false, false},
        {p->min_tokens, "min_tokens", 0, p->max_tokens > 0 ? p->max_tokens : INT32_MAX, false,
         false},
        {p->n_logprobs, "n_logprobs", -1, QN_LIMIT_TOP_LOGPROBS, false, false},
        {p->n, "n", 1, QN_LIMIT_CANDIDATES, false, false},
        {p->beam_width, "beam_width", 0, QN_LIMIT_CANDIDATES, false, false},
        {p->length_penalty, "length_penalty", -10, 10, false, false},
    };
    for (size_t i = 0; i < QN_COUNT(table); i++)
        QN_TRY(check_range(table[i].v, table[i].field, table[i].min, table[i].max,
                           table[i].min_open, table[i].max_open, err));
    if (p->beam_width > 0 && p->n > p->beam_width)
        return qn_fail(err, QN_E_ARG, "n: %d, want at most beam_width, which is %d", p->n,
                       p->beam_width);
    if (p->beam_width > 0 && p->grammar)
        return qn_fail(err, QN_E_UNSUPPORTED, "beam search takes no grammar");
    return check_lists(p, n_vocab, err);
}

/* ---- life ---- */

/* Takes the memory that s->p calls for; on failure what was taken is freed by qn_sampler_free. */
static qn_status take_memory(qn_sampler *s, qn_err *err)
{
    const qn_params *p = &s->p;
    if (s->penalised) {
        s->counts = qn_calloc(s->n_tokens, sizeof(*s->counts), QN_MEM_REQUEST);
        s->seen = qn_alloc_array(s->n_tokens, sizeof(*s->seen), QN_MEM_REQUEST);
        if (!s->counts || !s->seen)
            return qn_fail_nomem(err, s->n_tokens * sizeof(*s->counts));
    }
    if (s->penalised || p->n_logit_bias || p->min_tokens > 0 || (s->constrained && !s->n_top)) {
        s->row = qn_alloc_array(s->n_tokens, sizeof(*s->row), QN_MEM_REQUEST);
        if (!s->row)
            return qn_fail_nomem(err, s->n_tokens * sizeof(*s->row));
    }
    if (p->n_logit_bias) {
        s->bias = qn_alloc_array(p->n_logit_bias, sizeof(*s->bias), QN_MEM_REQUEST);
        if (!s->bias)
            return qn_fail_nomem(err, p->n_logit_bias * sizeof(*s->bias));
    }
    if (s->n_eos) {
        s->eos = qn_alloc_array(s->n_eos, sizeof(*s->eos), QN_MEM_REQUEST);
        if (!s->eos)
            return qn_fail_nomem(err, s->n_eos * sizeof(*s->eos));
    }
    if (s->n_top) {
        s->top = qn_alloc_array(s->n_top, sizeof(*s->top), QN_MEM_REQUEST);
        if (!s->top)
            return qn_fail_nomem(err, s->n_top * sizeof(*s->top));
    }
    if (s->n_items) {
        s->items = qn_alloc_array(s->n_items, sizeof(*s->items), QN_MEM_REQUEST);
        if (!s->items)
            return qn_fail_nomem(err, s->n_items * sizeof(*s->items));
    }
    return QN_OK;
}

static uint32_t pcg_next(uint64_t *state)
{
    uint64_t x = *state;
    *state = x * 6364136223846793005u + 1442695040888963407u;
    uint32_t mixed = (uint32_t)(((x >> 18) ^ x) >> 27), turn = (uint32_t)(x >> 59);
    return mixed >> turn | mixed << (-turn & 31);
}

/* 53 random bits as a number in [0, 1). */
static double uniform(uint64_t *state)
{
    uint64_t high = pcg_next(state) >> 5, low = pcg_next(state) >> 6;
    return (double)(high << 26 | low) * 0x1p-53;
}

qn_status qn_sampler_new(qn_sampler **out, const qn_params *params, uint64_t seed, size_t n_vocab,
                         size_t n_tokens, const int32_t *eos_ids, size_t n_eos, qn_err *err)
{
    *out = NULL;
    QN_TRY(qn_params_check(params, n_vocab, err));
    if (n_tokens < 1 || n_tokens > n_vocab)
        return qn_fail(err, QN_E_ARG, "n_tokens: %zu, want 1 to n_vocab, which is %zu", n_tokens,
                       n_vocab);
    qn_sampler *s = qn_calloc(1, sizeof(*s), QN_MEM_REQUEST);
    if (!s)
        return qn_fail_nomem(err, sizeof(*s));
    s->p = *params;
    s->p.logit_bias = NULL;
    s->p.stop = NULL;
    s->p.stop_ids = NULL;
    s->p.grammar = NULL;
    s->constrained = params->grammar != NULL;
    s->n_vocab = n_vocab;
    s->n_tokens = n_tokens;
    s->n_eos = n_eos;
    s->penalised = params->repetition_penalty != 1 || params->presence_penalty != 0 ||
                   params->frequency_penalty != 0;
    if (params->temperature > 0 && params->beam_width == 0) {
        if (params->top_k > 0)
            s->n_top = QN_MIN((size_t)params->top_k, n_tokens);
        s->n_items = s->n_top ? s->n_top : n_tokens;
    }
    qn_status st = take_memory(s, err);
    if (st != QN_OK) {
        qn_sampler_free(s);
        return st;
    }
    if (params->n_logit_bias)
        memcpy(s->bias, params->logit_bias, params->n_logit_bias * sizeof(*s->bias));
    s->n_eos = 0;
    for (size_t i = 0; i < n_eos; i++)
        if (eos_ids[i] >= 0 && (size_t)eos_ids[i] < n_tokens)
            s->eos[s->n_eos++] = eos_ids[i];
    /* As pcg32_srandom: the seed enters between two steps, so that near seeds do not start
     * alike. */
    pcg_next(&s->rng);
    s->rng += seed;
    pcg_next(&s->rng);
    *out = s;
    return QN_OK;
}

void qn_sampler_free(qn_sampler *s)
{
    if (!s)
        return;
    qn_free(s->bias);
    qn_free(s->eos);
    qn_free(s->counts);
    qn_free(s->seen);
    qn_free(s->row);
    qn_free(s->top);
    qn_free(s->items);
    qn_free(s);
}

qn_status qn_sampler_fork(qn_sampler **out, const qn_sampler *s, qn_err *err)
{
    *out = NULL;
    qn_sampler *f = qn_alloc(sizeof(*f), QN_MEM_REQUEST);
    if (!f)
        return qn_fail_nomem(err, sizeof(*f));
    *f = *s;
    f->bias = NULL;
    f->eos = NULL;
    f->counts = NULL;
    f->seen = NULL;
    f->row = NULL;
    f->top = NULL;
    f->items = NULL;
    qn_status st = take_memory(f, err);
    if (st != QN_OK) {
        qn_sampler_free(f);
        return st;
    }
    if (f->bias)
        memcpy(f->bias, s->bias, s->p.n_logit_bias * sizeof(*f->bias));
    if (f->eos)
        memcpy(f->eos, s->eos, s->n_eos * sizeof(*f->eos));
    for (size_t i = 0; f->seen && i < s->n_seen; i++) {
        f->seen[i] = s->seen[i];
        f->counts[s->seen[i]] = s->counts[s->seen[i]];
    }
    *out = f;
    return QN_OK;
}

void qn_sampler_accept(qn_sampler *s, int32_t id, bool output)
{
    s->n_output += output;
    if (!s->penalised || id < 0 || (size_t)id >= s->n_tokens)
        return;
    if (!s->counts[id])
        s->seen[s->n_seen++] = id;
    if (!output)
        s->counts[id] |= COUNT_PROMPT;
    else if ((s->counts[id] & ~COUNT_PROMPT) < COUNT_PROMPT - 1)
        s->counts[id]++;
}

/* ---- rows ---- */

/* Index and value of the largest logit; the lowest index of equals. Fails unless it is finite and
 * no logit is NaN. */
static qn_status scan_row(const float *x, size_t n, int32_t *id, float *max, qn_err *err)
{
    float best = -INFINITY;
    size_t at = 0;
    for (size_t begin = 0; begin < n; begin += SCAN_CHUNK) {
        size_t end = QN_MIN(begin + SCAN_CHUNK, n), i = begin;
        float high[N_LANES];
        int32_t is_nan[N_LANES] = {0};
        for (size_t j = 0; j < N_LANES; j++)
            high[j] = -INFINITY;
        for (; i + N_LANES <= end; i += N_LANES)
            for (size_t j = 0; j < N_LANES; j++) {
                high[j] = x[i + j] > high[j] ? x[i + j] : high[j];
                is_nan[j] |= x[i + j] != x[i + j];
            }
        for (; i < end; i++) {
            high[0] = x[i] > high[0] ? x[i] : high[0];
            is_nan[0] |= x[i] != x[i];
        }
        for (size_t j = 1; j < N_LANES; j++) {
            high[0] = high[j] > high[0] ? high[j] : high[0];
            is_nan[0] |= is_nan[j];
        }
        for (i = begin; is_nan[0] && i < end; i++)
            if (x[i] != x[i])
                return qn_fail(err, QN_E_INTERNAL, "logits: token %zu is NaN, want finite numbers",
                               i);
        if (high[0] > best) {
            best = high[0];
            for (at = begin; x[at] != best; at++)
                continue;
        }
    }
    if (best == -INFINITY)
        return qn_fail(err, QN_E_INTERNAL,
                       "logits: all %zu are -infinity, want at least one finite", n);
    if (best == INFINITY)
        return qn_fail(err, QN_E_INTERNAL, "logits: token %zu is +infinity, want finite numbers",
                       at);
    *id = (int32_t)at;
    *max = best;
    return QN_OK;
}

qn_status qn_logits_check(const float *logits, size_t n_vocab, qn_err *err)
{
    int32_t id;
    float max;
    return scan_row(logits, n_vocab, &id, &max, err);
}

int32_t qn_logits_argmax(const float *logits, size_t n)
{
    int32_t id;
    float max;
    return scan_row(logits, n, &id, &max, NULL) == QN_OK ? id : -1;
}

/* What is below e^-700 weighs nothing beside the maximum's 1. */
static inline double clamp(double x)
{
    return x > -700.0 ? x : -700.0;
}

/* exp(x) for -700 <= x <= 0, to 1e-14; without a branch, so that the compiler makes vectors of
 * it. */
static inline double exp_clamped(double x)
{
    /* x = n ln2 + r, |r| <= ln2 / 2; adding 1.5 * 2^52 leaves n in the low bits. */
    double shifted = x * 1.4426950408889634 + 0x1.8p52, n = shifted - 0x1.8p52;
    double r = x - n * 0x1.62e42fee00000p-1 - n * 0x1.a39ef35793c76p-33;
    double y = 1.0 / 39916800;
    y = y * r + 1.0 / 3628800;
    y = y * r + 1.0 / 362880;
    y = y * r + 1.0 / 40320;
    y = y * r + 1.0 / 5040;
    y = y * r + 1.0 / 720;
    y = y * r + 1.0 / 120;
    y = y * r + 1.0 / 24;
    y = y * r + 1.0 / 6;
    y = y * r + 0.5;
    y = y * r + 1.0;
    y = y * r + 1.0;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof(power));
    return y * power;
}

static double exp_negative(double x)
{
    return exp_clamped(clamp(x));
}

/* Sum of exp((x - max) * scale). In lanes, so the order depends on n alone; chunk by chunk, so that
 * each loop is a simple one for the compiler's vectors. */
static double sum_exp(const float *x, size_t n, float max, double scale)
{
    double lane[N_LANES] = {0}, e[EXP_CHUNK];
    for (size_t begin = 0; begin < n; begin += EXP_CHUNK) {
        size_t m = QN_MIN(n - begin, EXP_CHUNK);
        for (size_t i = 0; i < m; i++)
            e[i] = clamp(((double)x[begin + i] - (double)max) * scale);
        for (size_t i = 0; i < m; i++)
            e[i] = exp_clamped(e[i]);
        for (size_t i = m; i < EXP_CHUNK; i++)
            e[i] = 0;
        for (size_t i = 0; i < EXP_CHUNK; i += N_LANES)
            for (size_t j = 0; j < N_LANES; j++)
                lane[j] += e[i + j];
    }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static float max_of(const float *x, size_t n)
{
    float m = x[0];
    for (size_t i = 1; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

double qn_logprob_of(const float *logits, size_t n_vocab, int32_t id)
{
    float max = max_of(logits, n_vocab);
    return (double)logits[id] - (double)max - log(sum_exp(logits, n_vocab, max, 1.0));
}

static bool is_allowed(const uint64_t *mask, size_t i)
{
    return !mask || (mask[i / 64] >> i % 64 & 1);
}

/* The k largest of x[n] that the mask (NULL: all) allows into out, largest first, the lower id of
 * equals first; -infinity is left out. Returns their number. out is a heap with its worst on top
 * meanwhile; logprob holds the logit. */
static bool is_worse(qn_candidate a, qn_candidate b)
{
    return a.logprob < b.logprob || (a.logprob == b.logprob && a.id > b.id);
}

static void sift_down(qn_candidate *heap, size_t n, size_t i)
{
    qn_candidate moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && is_worse(heap[child + 1], heap[child]))
            child++;
        if (!is_worse(heap[child], moved))
            break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static size_t top_select(const float *x, size_t n, const uint64_t *mask, qn_candidate *out,
                         size_t k)
{
    size_t n_heap = 0, i = 0;
    for (; i < n && n_heap < k; i++)
        if (x[i] > -INFINITY && is_allowed(mask, i))
            out[n_heap++] = (qn_candidate){(int32_t)i, x[i]};
    for (size_t j = n_heap / 2; j-- > 0;)
        sift_down(out, n_heap, j);
    /* Ids come in ascending order, so an equal logit never displaces one that is in. */
    for (; i < n && n_heap; i++)
        if (x[i] > out[0].logprob && is_allowed(mask, i)) {
            out[0] = (qn_candidate){(int32_t)i, x[i]};
            sift_down(out, n_heap, 0);
        }
    for (size_t end = n_heap; end-- > 1;) {
        qn_candidate worst = out[0];
        out[0] = out[end];
        out[end] = worst;
        sift_down(out, end, 0);
    }
    return n_heap;
}

/* The logits after bias, penalties and mask: s->row, or the row itself when nothing applies. */
static const float *modify(qn_sampler *s, const float *logits)
{
    const qn_params *p = &s->p;
    bool mask = s->n_eos && s->n_output < (size_t)p->min_tokens;
    if (!p->n_logit_bias && !s->n_seen && !mask)
        return logits;
    float *row = s->row;
    memcpy(row, logits, s->n_tokens * sizeof(*row));
    for (size_t i = 0; i < p->n_logit_bias; i++)
        if ((size_t)s->bias[i].token_id < s->n_tokens)
            row[s->bias[i].token_id] += s->bias[i].bias;
    for (size_t i = 0; i < s->n_seen; i++) {
        int32_t id = s->seen[i];
        uint32_t n = s->counts[id] & ~COUNT_PROMPT;
        float v = row[id];
        v = v > 0 ? v / p->repetition_penalty : v * p->repetition_penalty;
        if (n)
            v -= p->presence_penalty + p->frequency_penalty * (float)n;
        row[id] = v;
    }
    for (size_t i = 0; mask && i < s->n_eos; i++)
        row[s->eos[i]] = -INFINITY;
    return row;
}

/* ---- filters ---- */

/* Keeps the items of smallest key, the lower id of equals first, until their weight reaches `want`
 * (the item that reaches it is kept). Returns how many. The key where that happens is found by
 * splitting the range of keys that still holds it into buckets until one value is left: each round
 * drops all but one bucket, so three or four rounds do. */
static size_t keep_mass(item *c, size_t n, double want)
{
    float lo = INFINITY, hi = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        lo = QN_MIN(lo, c[i].key);
        hi = QN_MAX(hi, c[i].key);
    }
    double before = 0; /* weight of keys below lo */
    while (lo < hi) {
        double weight[N_BUCKETS] = {0}, scale = N_BUCKETS / ((double)hi - (double)lo);
        float low[N_BUCKETS], high[N_BUCKETS];
        for (size_t b = 0; b < N_BUCKETS; b++) {
            low[b] = INFINITY;
            high[b] = -INFINITY;
        }
        for (size_t i = 0; i < n; i++) {
            float key = c[i].key;
            if (key < lo || key > hi)
                continue;
            size_t b = (size_t)(((double)key - (double)lo) * scale);
            b = QN_MIN(b, N_BUCKETS - 1);
            weight[b] += c[i].weight;
            low[b] = QN_MIN(low[b], key);
            high[b] = QN_MAX(high[b], key);
        }
        size_t pick = 0;
        double sum = before;
        for (size_t b = 0; b < N_BUCKETS; b++) {
            if (low[b] > high[b])
                continue; /* empty */
            pick = b;
            before = sum;
            sum += weight[b];
            if (sum >= want)
                break;
        }
        lo = low[pick];
        hi = high[pick];
    }
    size_t n_kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (c[i].key > lo || (c[i].key == lo && before >= want))
            continue;
        if (c[i].key == lo)
            before += c[i].weight;
        c[n_kept++] = c[i];
    }
    return n_kept;
}

static double total_weight(const item *c, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += c[i].weight;
    return sum;
}

/* Sets each key to the distance of the token's surprise from the entropy. */
static void typical_keys(item *c, size_t n, double total)
{
    double entropy = 0;
    for (size_t i = 0; i < n; i++)
        if (c[i].weight > 0)
            entropy += c[i].weight * (log(total) - log(c[i].weight));
    entropy /= total;
    for (size_t i = 0; i < n; i++)
        c[i].key = (float)fabs(log(total) - log(c[i].weight) - entropy);
}

/* Fills s->items with the tokens of x that a filter may keep and *total with the weight of all that
 * top-k leaves. */
static size_t gather(qn_sampler *s, const float *x, const uint64_t *mask, float max, double *total)
{
    const qn_params *p = &s->p;
    double scale = 1.0 / (double)p->temperature;
    size_t n = 0;
    if (s->n_top) {
        n = top_select(x, s->n_tokens, mask, s->top, s->n_top);
        max = n ? s->top[0].logprob : max;
        for (size_t i = 0; i < n; i++) {
            float v = s->top[i].logprob;
            s->items[i] = (item){exp_negative(((double)v - (double)max) * scale), -v, s->top[i].id};
        }
        *total = total_weight(s->items, n);
        return n;
    }
    *total = p->top_p < 1 ? sum_exp(x, s->n_tokens, max, scale) : 0;
    double floor_weight =
        QN_MAX((1.0 - (double)p->top_p) * *total / (double)s->n_tokens, (double)p->min_p);
    /* A little lower than exact: the filters decide, this only spares them work. */
    double cut = floor_weight > 0
                     ? (double)max + (double)p->temperature * (log(floor_weight) - 1e-3)
                     : -INFINITY;
    float least = cut > -(double)FLT_MAX ? nextafterf((float)cut, -INFINITY) : -FLT_MAX;
    for (size_t i = 0; i < s->n_tokens; i++)
        if (x[i] >= least)
            s->items[n++] =
                (item){exp_negative(((double)x[i] - (double)max) * scale), -x[i], (int32_t)i};
    return n;
}

/* -1: the mask, which only top-k looks at, allows none. */
static int32_t draw(qn_sampler *s, const float *x, const uint64_t *mask, float max)
{
    const qn_params *p = &s->p;
    item *c = s->items;
    double total;
    size_t n = gather(s, x, mask, max, &total);
    if (!n)
        return -1;
    if (p->top_p < 1)
        n = keep_mass(c, n, (double)p->top_p * total);
    if (p->min_p > 0) {
        size_t n_kept = 0;
        for (size_t i = 0; i < n; i++)
            if (c[i].weight >= (double)p->min_p)
                c[n_kept++] = c[i];
        n = n_kept;
    }
    total = total_weight(c, n);
    if (p->typical_p < 1) {
        typical_keys(c, n, total);
        n = keep_mass(c, n, (double)p->typical_p * total);
        total = total_weight(c, n);
    }
    double left = uniform(&s->rng) * total;
    size_t i = 0;
    for (; i + 1 < n && left >= c[i].weight; i++)
        left -= c[i].weight;
    return c[i].id;
}

/* ---- choosing ---- */

/* In s->row: x, which may be that row, without the tokens that may not follow. */
static void forbid(qn_sampler *s, const float *x, const uint64_t *mask)
{
    float *row = s->row;
    for (size_t i = 0; i < s->n_tokens; i += 64) {
        size_t n = QN_MIN(s->n_tokens - i, (size_t)64);
        uint64_t bits = mask[i / 64];
        if (bits == UINT64_MAX)
            memmove(row + i, x + i, n * sizeof *row);
        for (size_t j = 0; bits != UINT64_MAX && j < n; j++)
            row[i + j] = bits >> j & 1 ? x[i + j] : -INFINITY;
    }
}

/* The choice among what the mask allows; -1: there is none. */
static int32_t choose_allowed(qn_sampler *s, const float *row, const uint64_t *mask)
{
    int32_t id;
    float max = 0;
    if (s->n_top) /* which looks at few bits: of what is likelier than the k found so far */
        return draw(s, row, mask, max);
    forbid(s, row, mask);
    if (scan_row(s->row, s->n_tokens, &id, &max, NULL) !=
        QN_OK) /* all are -infinity: it was good before */
        return -1;
    return s->n_items ? draw(s, s->row, NULL, max) : id;
}

/* Log-probabilities of best[0].id and of the n_best most likely; raw_max: the largest logit. */
static void report(const qn_sampler *s, const float *logits, float raw_max, qn_candidate *best,
                   size_t n_best)
{
    if (n_best == QN_ID_ONLY)
        return;
    double norm = (double)raw_max + log(sum_exp(logits, s->n_vocab, raw_max, 1.0));
    best[0].logprob = (float)((double)logits[best[0].id] - norm);
    if (n_best == 0)
        return;
    size_t n = top_select(logits, s->n_tokens, NULL, best + 1, n_best);
    for (size_t i = 0; i < n_best; i++)
        best[1 + i] =
            i < n ? (qn_candidate){best[1 + i].id, (float)((double)best[1 + i].logprob - norm)}
                  : (qn_candidate){-1, -INFINITY};
}

qn_status qn_sampler_sample(qn_sampler *s, const float *logits, qn_matcher *m, qn_candidate *best,
                            size_t n_best, qn_err *err)
{
    int32_t id, raw_id;
    float max, raw_max;
    QN_ASSERT(s->constrained == (m != NULL));
    QN_TRY(scan_row(logits, s->n_vocab, &raw_id, &raw_max, err));
    id = raw_id;
    max = raw_max;
    const float *row = modify(s, logits);
    if (row != logits || (size_t)id >= s->n_tokens)
        QN_TRY(scan_row(row, s->n_tokens, &id, &max, err));
    if (m && (s->n_items || !qn_matcher_allows(m, id))) { /* greedy: the best of all may do */
        const uint64_t *mask = qn_matcher_mask(m);
        if (!mask)
            return qn_matcher_fail(m, err);
        id = choose_allowed(s, row, mask);
        if (id < 0)
            return qn_fail(err, QN_E_UNSUPPORTED,
                           "grammar: found no token of the model that may follow, want one");
    } else if (s->n_items) {
        id = draw(s, row, NULL, max);
    }
    best[0] = (qn_candidate){id, NAN};
    report(s, logits, raw_max, best, n_best);
    return QN_OK;
}

qn_status qn_sampler_score(const qn_sampler *s, const float *logits, int32_t id, qn_candidate *best,
                           size_t n_best, qn_err *err)
{
    int32_t raw_id;
    float raw_max;
    QN_TRY(scan_row(logits, s->n_vocab, &raw_id, &raw_max, err));
    best[0] = (qn_candidate){id, NAN};
    report(s, logits, raw_max, best, n_best);
    return QN_OK;
}

qn_status qn_sampler_top(qn_sampler *s, const float *logits, qn_candidate *out, size_t k,
                         qn_err *err)
{
    int32_t id;
    float max;
    QN_TRY(scan_row(logits, s->n_vocab, &id, &max, err));
    const float *row = modify(s, logits);
    QN_TRY(scan_row(row, s->n_tokens, &id, &max, err));
    double norm = (double)max + log(sum_exp(row, s->n_tokens, max, 1.0));
    size_t n = top_select(row, s->n_tokens, NULL, out, k);
    for (size_t i = 0; i < k; i++)
        out[i] = i < n ? (qn_candidate){out[i].id, (float)((double)out[i].logprob - norm)}
                       : (qn_candidate){-1, -INFINITY};
    return QN_OK;
}
