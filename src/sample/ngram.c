/* SPDX-License-Identifier: Apache-2.0
 * ngram.c - see ngram.h. */
#include "sample/ngram.h"

#include "base/mem.h"

#include <string.h>

#define MAX_WALK   64u /* chains of frequent pairs are long, and their latest places the likeliest */
#define MAX_MISSED 3u  /* tokens in a row: then the text is no copy with changes any more */
#define MIN_HEADS  256u

void qn_ngram_fini(qn_ngram *g)
{
    qn_free(g->head);
    qn_free(g->next);
    *g = (qn_ngram){0};
}

/* The chain of the two tokens before `at`. */
static uint32_t *chain(const qn_ngram *g, const int32_t *tokens, uint32_t at)
{
    uint64_t pair = (uint64_t)(uint32_t)tokens[at - 2] << 32 | (uint32_t)tokens[at - 1];
    return &g->head[(pair * 0x9e3779b97f4a7c15u) >> 40 & (g->n_heads - 1)];
}

static void link_position(qn_ngram *g, const int32_t *tokens, uint32_t at)
{
    uint32_t *head = chain(g, tokens, at);
    g->next[at] = *head;
    *head = at + 1;
}

/* Room for n tokens, and at least as many chains. */
static bool grow(qn_ngram *g, const int32_t *tokens, uint32_t n)
{
    if (!qn_grow(&g->next, &g->cap, n, sizeof *g->next, QN_MEM_REQUEST))
        return false;
    uint32_t n_heads = QN_MAX(g->n_heads, MIN_HEADS);
    while (n_heads < n && n_heads < 1u << 24)
        n_heads *= 2;
    if (n_heads == g->n_heads)
        return true;
    uint32_t *head = qn_calloc(n_heads, sizeof *head, QN_MEM_REQUEST);
    if (!head)
        return false;
    qn_free(g->head);
    g->head = head;
    g->n_heads = n_heads;
    for (uint32_t at = QN_NGRAM_MIN; at < g->n_indexed; at++)
        link_position(g, tokens, at);
    return true;
}

/* The text went on with tokens[at]: is it still a copy? */
static void follow(qn_ngram *g, const int32_t *tokens, uint32_t at)
{
    if (!g->source)
        return;
    g->n_missed = tokens[g->source] == tokens[at] ? 0 : g->n_missed + 1;
    g->source = g->n_missed > MAX_MISSED ? 0 : g->source + 1;
}

bool qn_ngram_update(qn_ngram *g, const int32_t *tokens, uint32_t n)
{
    if (n > g->n_indexed && (n > g->cap || n > g->n_heads) && !grow(g, tokens, n))
        return false;
    for (; g->n_indexed < n; g->n_indexed++) {
        follow(g, tokens, g->n_indexed);
        if (g->n_indexed >= QN_NGRAM_MIN)
            link_position(g, tokens, g->n_indexed);
    }
    return true;
}

static uint32_t match_before(const int32_t *tokens, uint32_t a, uint32_t b)
{
    uint32_t n = 0;
    while (n < QN_NGRAM_MAX && n < a && tokens[a - 1 - n] == tokens[b - 1 - n])
        n++;
    return n;
}

uint32_t qn_ngram_find(qn_ngram *g, const int32_t *tokens, uint32_t n, uint32_t *from)
{
    uint32_t best = 0;
    if (n < QN_NGRAM_MIN || !g->n_heads)
        return 0;
    uint32_t at = *chain(g, tokens, n);
    for (uint32_t i = 0; at && i < MAX_WALK && best < QN_NGRAM_MAX; i++, at = g->next[at - 1]) {
        uint32_t len = match_before(tokens, at - 1, n);
        if (len >= QN_NGRAM_MIN && len > best) {
            best = len;
            *from = at - 1;
        }
    }
    if (best) {
        g->source = *from;
        g->n_missed = 0;
    } else if (g->source) {
        *from = g->source;
        best = 1;
    }
    return best;
}
