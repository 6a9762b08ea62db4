/* SPDX-License-Identifier: Apache-2.0
 * nfa.c - Thompson's construction: see dfa.h. Arcs go out of a fragment's first state and into its last one only. */
#include "base/mem.h"
#include "base/str.h"
#include "sample/dfa.h"

#include <string.h>

void qn_nfa_init(qn_nfa *a)
{
    *a = (qn_nfa){.n_arcs = 1};
    (void)qn_nfa_state(a);
    (void)qn_nfa_state(a);
}

void qn_nfa_fini(qn_nfa *a)
{
    qn_free(a->head);
    qn_free(a->arcs);
    *a = (qn_nfa){0};
}

uint32_t qn_nfa_state(qn_nfa *a)
{
    if (a->failed || a->n >= UINT32_MAX / 4 ||
        !qn_grow(&a->head, &a->cap, a->n + 1, sizeof *a->head, QN_MEM_REQUEST)) {
        a->failed = true;
        return 0;
    }
    a->head[a->n] = 0;
    return (uint32_t)a->n++;
}

void qn_nfa_arc(qn_nfa *a, uint32_t from, qn_arc arc)
{
    if (a->failed || a->n_arcs >= UINT32_MAX / 4 ||
        !qn_grow(&a->arcs, &a->arcs_cap, a->n_arcs + 1, sizeof *a->arcs, QN_MEM_REQUEST)) {
        a->failed = true;
        return;
    }
    arc.next = a->head[from];
    a->head[from] = (uint32_t)a->n_arcs;
    a->arcs[a->n_arcs++] = arc;
}

static void add_bytes(qn_nfa *a, uint32_t from, uint32_t first, uint32_t last, uint32_t to)
{
    qn_nfa_arc(
        a, from,
        (qn_arc){.kind = QN_ARC_BYTES, .first = (uint8_t)first, .last = (uint8_t)last, .to = to});
}

/* ---- characters ---- */

/* tail[i]: i bytes that continue, then the end; made when wanted. */
typedef struct tails {
    uint32_t state[4];
} tails;

static uint32_t tail(qn_nfa *a, tails *t, uint32_t i)
{
    for (uint32_t k = 1; k <= i; k++)
        if (!t->state[k]) {
            t->state[k] = qn_nfa_state(a);
            add_bytes(a, t->state[k], 0x80, 0xbf, t->state[k - 1]);
        }
    return t->state[i];
}

/* Characters first..last that all take n bytes, the bytes before byte i being equal. */
static void add_same(qn_nfa *a, uint32_t from, tails *t, uint32_t first, uint32_t last, size_t n)
{
    char x[4], y[4];
    size_t i = 0;
    (void)qn_utf8_encode(x, first);
    (void)qn_utf8_encode(y, last);
    for (; i + 1 < n && x[i] == y[i]; i++) {
        uint32_t next = qn_nfa_state(a);
        add_bytes(a, from, (uint8_t)x[i], (uint8_t)x[i], next);
        from = next;
    }
    add_bytes(a, from, (uint8_t)x[i], (uint8_t)y[i], tail(a, t, (uint32_t)(n - 1 - i)));
}

/* Cuts first..last so that each piece is a byte range at each place: at borders of 64, 4096, 262144 and of lengths. */
static void add_range(qn_nfa *a, uint32_t from, tails *t, uint32_t first, uint32_t last)
{
    static const uint32_t most[] = {0x7f, 0x7ff, 0xffff, 0x10ffff};
    while (first <= last) {
        size_t n = 0;
        while (first > most[n])
            n++;
        uint32_t end = QN_MIN(last, most[n]);
        for (uint32_t k = (uint32_t)n; k > 0; k--) {
            uint32_t m = (1u << 6 * k) - 1; /* the bits of the last k bytes */
            if ((first & ~m) == (end & ~m))
                continue;
            if (first & m)
                end = QN_MIN(end, first | m);
            else if ((end & m) != m)
                end = (end & ~m) - 1;
        }
        add_same(a, from, t, first, end, n + 1);
        first = end + 1;
    }
}

void qn_nfa_chars(qn_nfa *a, uint32_t from, uint32_t to, const qn_char_range *r, size_t n)
{
    tails t = {{to}};
    for (size_t i = 0; i < n; i++)
        add_range(a, from, &t, r[i].first, r[i].last);
}

/* ---- up to a text ---- */

/* How much of `end` stands at the end of its first k bytes and then `byte`. */
static uint32_t border(const uint8_t *end, uint32_t k, uint8_t byte)
{
    for (uint32_t len = k + 1; len; len--)
        if (end[len - 1] == byte && memcmp(end, end + k - (len - 1), len - 1) == 0)
            return len;
    return 0;
}

void qn_nfa_until(qn_nfa *a, uint32_t from, uint32_t to, const uint8_t *end, uint32_t n)
{
    /* state k: the last k bytes are the first of `end`; the one it is entered by is not come back to */
    uint32_t first = qn_nfa_state(a);
    for (uint32_t k = 1; k < n; k++)
        (void)qn_nfa_state(a);
    qn_nfa_arc(a, from, (qn_arc){.kind = QN_ARC_EMPTY, .to = first});
    for (uint32_t k = 0; k < n && !a->failed; k++)
        for (uint32_t b = 0, next; b < 256; b = next) {
            uint32_t len = border(end, k, (uint8_t)b);
            for (next = b + 1; next < 256 && border(end, k, (uint8_t)next) == len;)
                next++;
            add_bytes(a, first + k, b, next - 1, len == n ? to : first + len);
        }
}

/* ---- a dfa as a fragment ---- */

/* State s with c ticks so far is one of the nfa's for each c that leads to an end. */
qn_status qn_nfa_dfa(qn_nfa *a, uint32_t from, uint32_t to, const qn_dfa *d, qn_fuel *fuel,
                     qn_err *err)
{
    bool is_counted = qn_dfa_is_counted(d);
    if (d->n == 0)
        return QN_OK;
    uint32_t top = !is_counted ? 0 : d->max == QN_FORM_ENDLESS ? d->min : d->max;
    QN_TRY(qn_fuel_take(fuel, (size_t)(top + 1) * (d->n + d->n_edges), err));
    uint32_t first = (uint32_t)a->n;
    for (size_t i = 0; i < (size_t)(top + 1) * d->n && !a->failed; i++)
        (void)qn_nfa_state(a);
    if (a->failed)
        return qn_fail_nomem(err, (top + 1) * d->n);
    qn_nfa_arc(a, from, (qn_arc){.kind = QN_ARC_EMPTY, .to = first});
    for (uint32_t c = 0; c <= top; c++)
        for (uint32_t s = 0; s < d->n; s++) {
            uint32_t at = first + c * (uint32_t)d->n + s;
            if (d->is_final[s] && c >= d->min)
                qn_nfa_arc(a, at, (qn_arc){.kind = QN_ARC_EMPTY, .to = to});
            for (uint32_t i = d->edge_at[s]; i < d->edge_at[s + 1]; i++) {
                const qn_edge *e = &d->edges[i];
                uint32_t k = e->ticks && !(c == top && d->max == QN_FORM_ENDLESS) ? c + 1 : c;
                if (k > top || (is_counted && (k < d->lo[e->to] || k > d->hi[e->to])))
                    continue;
                add_bytes(a, at, e->first, e->last, first + k * (uint32_t)d->n + e->to);
            }
        }
    return a->failed ? qn_fail_nomem(err, a->n) : QN_OK;
}
