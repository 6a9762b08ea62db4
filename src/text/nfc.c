/* SPDX-License-Identifier: Apache-2.0
 * nfc.c - copies what is stable, and decomposes, orders and composes only the runs around what is
 * not.
 *
 * A stable character is its own normal form and never joins the character before it; so a run
 * starts at the last stable character and ends before the next one. utf8proc's own whole-text
 * function sorts marks by exchanging neighbours, which is quadratic in a run of marks; here they
 * are sorted by counting. */
#include "text/nfc.h"

#include "base/mem.h"

#include <string.h>
#include <utf8proc.h>

#define MAX_DECOMPOSED 32 /* code points of one character; Unicode's longest canonical one has 4 */

bool qn_nfc_is_plain(const char *p, size_t n)
{
    unsigned char most = 0; /* U+0300 is CC 80, and no later byte of a sequence is above BF */
    for (size_t i = 0; i < n; i++)
        most = QN_MAX(most, (unsigned char)p[i]);
    return most < 0xCC;
}

/* Never true for a character that can be the second of a composition: those are marks and Hangul
 * vowels and finals. */
static bool is_stable(uint32_t cp)
{
    if (cp < 0x300 || (cp >= 0xAC00 && cp <= 0xD7A3))
        return true;
    if (cp >= 0x1100 && cp <= 0x11FF)
        return false;
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)cp);
    return p->combining_class == 0 && (p->decomp_seqindex == UINT16_MAX || p->decomp_type != 0) &&
           p->category != UTF8PROC_CATEGORY_MN && p->category != UTF8PROC_CATEGORY_MC &&
           p->category != UTF8PROC_CATEGORY_ME;
}

static unsigned combining_class(int32_t cp)
{
    return utf8proc_get_property(cp)->combining_class;
}

/* Stable sort of the marks cps[0..n) by combining class; tmp holds n. */
static void order_marks(int32_t *cps, size_t n, int32_t *tmp)
{
    size_t begin[257] = {0};
    for (size_t i = 0; i < n; i++)
        begin[combining_class(cps[i]) + 1]++;
    for (size_t c = 0; c < 256; c++)
        begin[c + 1] += begin[c];
    for (size_t i = 0; i < n; i++)
        tmp[begin[combining_class(cps[i])]++] = cps[i];
    memcpy(cps, tmp, n * sizeof(*cps));
}

static void order(int32_t *cps, size_t n, int32_t *tmp)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        unsigned last = 0, c;
        bool sorted = true;
        for (; end < n && (c = combining_class(cps[end])) != 0; end++, last = c)
            sorted = sorted && c >= last;
        if (!sorted)
            order_marks(cps + i, end - i, tmp);
        i = end + 1;
    }
}

static void normalise_run(qn_str *out, const char *p, size_t n, qn_nfc_scratch *s)
{
    size_t m = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = qn_utf8_decode(p + i, n - i, &cp);
        if (len == 0 ||
            !qn_grow(&s->cps, &s->cap, m + MAX_DECOMPOSED, sizeof(*s->cps), QN_MEM_REQUEST)) {
            out->failed = true;
            return;
        }
        int boundary = 0;
        utf8proc_ssize_t k = utf8proc_decompose_char((utf8proc_int32_t)cp, s->cps + m,
                                                     MAX_DECOMPOSED, UTF8PROC_DECOMPOSE, &boundary);
        QN_ASSERT(k > 0 && k <= MAX_DECOMPOSED);
        m += (size_t)k;
        i += len;
    }
    if (!qn_grow(&s->cps, &s->cap, 2 * m, sizeof(*s->cps), QN_MEM_REQUEST)) {
        out->failed = true;
        return;
    }
    order(s->cps, m, s->cps + m);
    utf8proc_ssize_t k =
        utf8proc_normalize_utf32(s->cps, (utf8proc_ssize_t)m, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < k; i++)
        qn_str_add_utf8(out, (uint32_t)s->cps[i]);
}

void qn_nfc(qn_str *out, const char *p, size_t n, qn_nfc_scratch *s)
{
    size_t done = 0, stable = 0, at = 0; /* stable: where the last stable character starts */
    while (at < n) {
        uint32_t cp;
        size_t len = qn_utf8_decode(p + at, n - at, &cp);
        if (len == 0 || is_stable(cp)) {
            stable = at;
            at += len ? len : 1;
            continue;
        }
        size_t end = at + len;
        while (end < n && (len = qn_utf8_decode(p + end, n - end, &cp)) != 0 && !is_stable(cp))
            end += len;
        qn_str_add(out, p + done, stable - done);
        normalise_run(out, p + stable, end - stable, s);
        done = stable = at = end;
    }
    qn_str_add(out, p + done, n - done);
}

void qn_nfc_scratch_fini(qn_nfc_scratch *s)
{
    qn_free(s->cps);
    *s = (qn_nfc_scratch){0};
}
