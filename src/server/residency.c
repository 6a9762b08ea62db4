/* SPDX-License-Identifier: Apache-2.0
 * residency.c - see residency.h. */
#include "server/residency.h"

#define MOST_STAY_NS 10000000000u

static bool is_idle(const qn_resident *m)
{
    return m->n_users == 0;
}

/* Whether a goes before b, both IN: the idle ones first, by last use; then the busy ones, by how long they are in. */
static bool goes_before(const qn_resident *m, size_t a, size_t b)
{
    if (is_idle(&m[a]) != is_idle(&m[b]))
        return is_idle(&m[a]);
    uint64_t since_a = is_idle(&m[a]) ? m[a].used_ns : m[a].in_ns,
             since_b = is_idle(&m[b]) ? m[b].used_ns : m[b].in_ns;
    return since_a != since_b ? since_a < since_b : a < b;
}

size_t qn_residency_rank(const qn_resident *m, size_t n, size_t i)
{
    size_t rank = 1;
    if (m[i].state != QN_RESIDENT_IN)
        return 0;
    for (size_t k = 0; k < n; k++)
        rank += k != i && m[k].state == QN_RESIDENT_IN && goes_before(m, k, i);
    return rank;
}

static size_t find_rank(const qn_resident *m, size_t n, size_t rank)
{
    for (size_t i = 0; i < n; i++)
        if (qn_residency_rank(m, n, i) == rank)
            return i;
    return n;
}

/* n: none. */
static size_t longest_wanted(const qn_resident *m, size_t n)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++)
        if (m[i].state == QN_RESIDENT_OUT && m[i].is_wanted &&
            (best == n || m[i].wanted_ns < m[best].wanted_ns))
            best = i;
    return best;
}

static size_t first_at_start(const qn_resident *m, size_t n, uint64_t room)
{
    for (size_t i = 0; i < n; i++)
        if (m[i].state == QN_RESIDENT_OUT && m[i].at_start && m[i].bytes <= room)
            return i;
    return n;
}

/* One that nobody needs any more; n: none, *wake: the next time to look. */
static size_t find_expired(const qn_resident *m, size_t n, uint64_t now, uint64_t *wake)
{
    for (size_t i = 0; i < n; i++) {
        if (m[i].state != QN_RESIDENT_IN || !is_idle(&m[i]) || m[i].keep_ns == QN_NEVER)
            continue;
        if (m[i].used_ns + m[i].keep_ns <= now)
            return i;
        *wake = QN_MIN(*wake, m[i].used_ns + m[i].keep_ns);
    }
    return n;
}

/* Those that go are the first by rank until `lacking` bytes are free. All of them are drained together, when each has stayed long
 * enough: one that went on meanwhile would take its turn again and again. The one to put away now; n: they are not all idle yet. */
static size_t make_room(qn_resident *m, size_t n, uint64_t lacking, uint64_t open_ns, uint64_t now,
                        uint64_t *wake)
{
    uint64_t freed = 0, until = 0;
    size_t n_going = 0;
    bool all_idle = true;
    while (freed < lacking) {
        size_t i = find_rank(m, n, n_going + 1);
        if (i == n)
            break;
        n_going++;
        freed += m[i].bytes;
        if (is_idle(&m[i]))
            continue;
        all_idle = false;
        uint64_t stay = QN_MIN(2 * (open_ns ? open_ns : m[i].open_ns), (uint64_t)MOST_STAY_NS);
        until = QN_MAX(until, m[i].in_ns + stay);
    }
    if (all_idle)
        return find_rank(m, n, 1);
    if (until > now)
        *wake = QN_MIN(*wake, until);
    for (size_t rank = 1; until <= now && rank <= n_going; rank++)
        m[find_rank(m, n, rank)].is_drained = true;
    return n;
}

qn_residency_act qn_residency_next(qn_resident *m, size_t n, uint64_t limit, uint64_t now_ns,
                                   uint64_t *at)
{
    uint64_t used = 0, wake = QN_NEVER;
    for (size_t i = 0; i < n; i++) {
        used += m[i].state == QN_RESIDENT_OUT ? 0 : m[i].bytes;
        m[i].is_drained = false;
    }
    uint64_t room = limit - QN_MIN(used, limit);
    size_t close = find_expired(m, n, now_ns, &wake), open = n;
    if (close == n) {
        open = longest_wanted(m, n);
        if (open == n)
            open = first_at_start(m, n, room);
        else if (m[open].bytes > room)
            close = make_room(m, n, m[open].bytes - room, m[open].open_ns, now_ns, &wake);
    }
    if (close < n) {
        *at = close;
        return QN_RESIDENCY_CLOSE;
    }
    if (open < n && m[open].bytes <= room) {
        *at = open;
        return QN_RESIDENCY_OPEN;
    }
    *at = wake;
    return QN_RESIDENCY_WAIT;
}
