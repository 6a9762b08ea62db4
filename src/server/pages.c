/* SPDX-License-Identifier: Apache-2.0
 * pages.c - see pages.h.
 *
 * What a page may do is said here, once for all of them: run the scripts of this server and talk to this server. No script or style
 * within HTML, no text made HTML (trusted types), no frame around it. What a model writes is text to it; this is the wall behind.
 * Sources: Content Security Policy 3, Trusted Types, RFC 9110 12.5.3 and 13.1.2. */
#include "server/pages.h"

#include <string.h>
#include <strings.h>

static const char policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'";

/* The next of a header's values parted by commas, without blanks around it; false: there is none. */
static bool next_value(qn_slice *rest, qn_slice *out)
{
    if (!rest->p)
        return false;
    const char *comma = rest->n ? memchr(rest->p, ',', rest->n) : NULL;
    *out = (qn_slice){rest->p, comma ? (size_t)(comma - rest->p) : rest->n};
    *rest = comma ? (qn_slice){comma + 1, rest->n - out->n - 1} : (qn_slice){NULL, 0};
    while (out->n && (*out->p == ' ' || *out->p == '\t'))
        *out = (qn_slice){out->p + 1, out->n - 1};
    while (out->n && (out->p[out->n - 1] == ' ' || out->p[out->n - 1] == '\t'))
        out->n--;
    return true;
}

static bool is_word(qn_slice s, const char *word)
{
    return s.n == strlen(word) && strncasecmp(s.p, word, s.n) == 0;
}

/* Whether the list names it, and not with a weight of 0. */
static bool takes(qn_slice list, const char *word)
{
    qn_slice v;
    while (next_value(&list, &v)) {
        const char *semi = v.n ? memchr(v.p, ';', v.n) : NULL;
        qn_slice name = {v.p, semi ? (size_t)(semi - v.p) : v.n};
        while (name.n && name.p[name.n - 1] == ' ')
            name.n--;
        if (!is_word(name, word))
            continue;
        qn_slice q = {v.p + v.n, 0};
        for (const char *at = v.p + name.n; at + 1 < v.p + v.n; at++)
            if ((*at == 'q' || *at == 'Q') && at[1] == '=')
                q = (qn_slice){at + 2, (size_t)(v.p + v.n - at) - 2};
        size_t zeros = 0;
        while (zeros < q.n && (q.p[zeros] == '0' || q.p[zeros] == '.'))
            zeros++;
        return q.n == 0 || zeros < q.n;
    }
    return false;
}

bool qn_pages_is_browser(const qn_exchange *x)
{
    return takes(qn_x_header(x, "accept"), "text/html");
}

/* If-None-Match compares weakly: W/ before a tag means nothing. */
static bool has_it(const qn_exchange *x, const char *etag)
{
    qn_slice list = qn_x_header(x, "if-none-match"), v;
    while (next_value(&list, &v)) {
        if (v.n > 2 && memcmp(v.p, "W/", 2) == 0)
            v = (qn_slice){v.p + 2, v.n - 2};
        if (qn_slice_is(v, etag) || qn_slice_is(v, "*"))
            return true;
    }
    return false;
}

void qn_pages_reply(qn_exchange *x, qn_slice name)
{
    const qn_page *p = qn_pages;
    while (p->name && !qn_slice_is(name, p->name))
        p++;
    if (!p->name) {
        qn_x_error(x, 404, NULL, "not_found", "there is no such page");
        return;
    }
    bool is_packed = p->n_gzip < p->n && takes(qn_x_header(x, "accept-encoding"), "gzip");
    const char *etag = is_packed ? p->gzip_etag : p->etag;
    qn_x_add_header(x, "ETag", etag);
    qn_x_add_header(x, "Cache-Control", "no-cache");
    qn_x_add_header(x, "Vary", "Accept, Accept-Encoding");
    qn_x_add_header(x, "Content-Security-Policy", policy);
    qn_x_add_header(x, "Referrer-Policy", "no-referrer");
    qn_x_add_header(x, "Cross-Origin-Opener-Policy", "same-origin");
    qn_x_add_header(x, "Cross-Origin-Resource-Policy", "same-origin");
    if (has_it(x, etag)) {
        qn_x_reply(x, 304, NULL, NULL, 0);
        return;
    }
    if (is_packed)
        qn_x_add_header(x, "Content-Encoding", "gzip");
    qn_x_reply(x, 200, p->type, (const char *)(is_packed ? p->gzip : p->bytes),
               is_packed ? p->n_gzip : p->n);
}
