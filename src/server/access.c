/* SPDX-License-Identifier: Apache-2.0
 * access.c - whether a request may be served, known from its head, before a byte of its body is read.
 *
 *   Host      403   on a loopback address only: a page of another site whose name was made to mean 127.0.0.1 (DNS rebinding)
 *   Origin    403   a page of another site that posts here, or fetches across sites; allowed ones get the headers of CORS
 *   key       401   compared as SHA-256 digests, all of them, in a time that does not depend on where they differ
 *   route     404, 405
 *   draining  503
 *   type      415   forms and plain text are what a page may post without asking first */
#include "server/core.h"

#include "base/opts.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- keys ---- */

static bool check_key(qn_exchange *x)
{
    qn_keys *keys = x->server->keys;
    if (keys->n == 0)
        return true;
    qn_slice given = qn_http_header(&x->http, "authorization");
    if (given.n > 7 && strncasecmp(given.p, "Bearer ", 7) == 0) {
        given = (qn_slice){given.p + 7, given.n - 7};
        while (given.n && *given.p == ' ')
            given = (qn_slice){given.p + 1, given.n - 1};
    } else {
        given = qn_http_header(&x->http, "x-api-key");
    }
    const qn_key *k;
    if (!qn_keys_find(keys, given, &k)) {
        qn_x_error(x, 503, NULL, NULL, "out of memory");
        return false;
    }
    if (k) {
        x->keys = keys; /* others may come while this request runs */
        keys->n_users++;
        x->tenant = k->tenant;
        x->key_class = k->class_name;
        if (!x->class_name)
            x->class_name = k->class_name;
        return true;
    }
    if (x->route && x->route->is_open)
        return true;
    qn_x_add_header(x, "WWW-Authenticate", "Bearer");
    qn_x_error(x, 401, NULL, "invalid_api_key", "%s",
               given.p ? "the API key is not one of this server"
                       : "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY");
    return false;
}

/* Whose request it is. */
static bool note_caller(qn_exchange *x)
{
    qn_conn *c = x->conn;
    bool ok = !x->tenant || qn_conn_set_caller(c, x->tenant, x->keys->has_one_tenant);
    if (!ok)
        qn_x_error(x, 503, NULL, NULL, "out of memory");
    else
        x->caller = qn_caller_again(c->caller);
    return ok;
}

/* ---- pages of other sites ---- */

/* Without port and final dot. */
static qn_slice host_name(qn_slice host)
{
    if (host.n && *host.p == '[') {
        const char *end = memchr(host.p, ']', host.n);
        return end ? (qn_slice){host.p, (size_t)(end - host.p) + 1} : host;
    }
    const char *colon = host.n ? memchr(host.p, ':', host.n) : NULL;
    if (colon)
        host.n = (size_t)(colon - host.p);
    if (host.n && host.p[host.n - 1] == '.')
        host.n--;
    return host;
}

static bool is_ipv4_loopback(qn_slice name)
{
    if (name.n < 4 || memcmp(name.p, "127.", 4) != 0)
        return false;
    for (size_t i = 0; i < name.n; i++)
        if (name.p[i] != '.' && (name.p[i] < '0' || name.p[i] > '9'))
            return false;
    return true;
}

static bool is_our_host(const qn_server *s, qn_slice host)
{
    static const char under[] = ".localhost";
    qn_slice name = host_name(host);
    size_t n = sizeof under - 1;
    if (qn_http_is(name, "localhost") || qn_http_is(name, "[::1]") || is_ipv4_loopback(name) ||
        (name.n > n && strncasecmp(name.p + name.n - n, under, n) == 0))
        return true;
    if (s->cfg->host && qn_http_is(name, s->cfg->host))
        return true;
    for (size_t i = 0; i < s->cfg->n_hosts; i++)
        if (qn_http_is(name, s->cfg->hosts[i]) || qn_http_is(host, s->cfg->hosts[i]))
            return true;
    return false;
}

static bool check_host(qn_exchange *x)
{
    const qn_server *s = x->server;
    if (!s->is_loopback || !x->http.host.p || is_our_host(s, x->http.host))
        return true;
    qn_x_error(x, 403, NULL, "host_not_allowed",
               "the Host header does not name this server; --allow-host adds names");
    return false;
}

/* "http://HOST" of the page that this server itself sent. */
static bool is_own_origin(const qn_exchange *x, qn_slice origin)
{
    size_t skip = x->conn->is_tls ? 8 : 7;
    return x->http.host.n && origin.n == skip + x->http.host.n &&
           strncasecmp(origin.p, x->conn->is_tls ? "https://" : "http://", skip) == 0 &&
           strncasecmp(origin.p + skip, x->http.host.p, x->http.host.n) == 0;
}

static bool is_allowed_origin(const qn_server *s, qn_slice origin)
{
    for (size_t i = 0; i < s->cfg->n_cors; i++)
        if (strcmp(s->cfg->cors[i], "*") == 0 || qn_http_is(origin, s->cfg->cors[i]))
            return true;
    return false;
}

static bool is_reading(const qn_exchange *x)
{
    return qn_slice_is(x->http.method, "GET") || qn_slice_is(x->http.method, "HEAD");
}

static bool check_origin(qn_exchange *x)
{
    qn_slice origin = qn_http_header(&x->http, "origin");
    qn_slice site = qn_http_header(&x->http, "sec-fetch-site");
    bool is_allowed = false;
    if (origin.p) {
        qn_x_add_header(x, "Vary", "Origin");
        is_allowed = is_own_origin(x, origin);
        if (!is_allowed && is_allowed_origin(x->server, origin)) {
            const char *z = qn_arena_strndup(&x->arena, origin.p, origin.n);
            qn_x_add_header(x, "Access-Control-Allow-Origin", z ? z : "null");
            qn_x_add_header(x, "Access-Control-Expose-Headers", "x-request-id, retry-after");
            is_allowed = true;
        }
    }
    bool is_foreign = origin.p && !is_allowed && !is_reading(x);
    /* following a link to a page of ours is no harm */
    bool is_crossing =
        qn_http_is(site, "cross-site") && !is_allowed &&
        !(is_reading(x) && qn_http_is(qn_http_header(&x->http, "sec-fetch-mode"), "navigate"));
    if (!is_foreign && !is_crossing)
        return true;
    qn_x_error(x, 403, NULL, "origin_not_allowed",
               "pages of another origin may not use this server; --cors ORIGIN allows one");
    return false;
}

/* ---- routes ---- */

/* A path that ends in "*" stands for any that goes on with something. */
static bool is_path(const qn_route *r, qn_slice path, qn_slice *rest)
{
    size_t n = strlen(r->path);
    bool is_open_end = n && r->path[n - 1] == '*';
    n -= is_open_end;
    if (is_open_end ? path.n <= n : path.n != n)
        return false;
    *rest = (qn_slice){path.p + n, path.n - n};
    return memcmp(path.p, r->path, n) == 0;
}

/* *allowed: the methods of that path. */
static void find_route(qn_exchange *x, qn_str *allowed)
{
    const char *method = x->is_head ? "GET" : NULL;
    for (const qn_route *const *table = x->server->routes; *table; table++) {
        for (const qn_route *r = *table; r->path; r++) {
            qn_slice rest;
            if (!is_path(r, x->http.path, &rest))
                continue;
            qn_str_addf(allowed, "%s%s%s", allowed->n ? ", " : "", r->method,
                        strcmp(r->method, "GET") == 0 ? ", HEAD" : "");
            if (x->route ||
                !(method ? strcmp(r->method, method) == 0 : qn_slice_is(x->http.method, r->method)))
                continue;
            x->route = r;
            x->rest = rest;
        }
    }
}

/* Whole components that two paths have in common at their ends: their bytes. */
static size_t common_end(qn_slice a, qn_slice b)
{
    size_t n = 0, common = 0;
    while (n < a.n && n < b.n && a.p[a.n - 1 - n] == b.p[b.n - 1 - n]) {
        n++;
        if (a.p[a.n - n] == '/')
            common = n;
    }
    return common;
}

/* The route that was meant: one that begins so (/v1/chat), or ends so (/v1/v1/models), or is written so but for some letters
 * (/v1/chat/compeltions). NULL: none. */
static const qn_route *find_near(const qn_exchange *x)
{
    const qn_route *best = NULL, *longer = NULL;
    qn_slice path = x->http.path;
    char shown[64];
    size_t best_common = 0, best_edits = SIZE_MAX;
    while (path.n > 1 && path.p[path.n - 1] == '/')
        path.n--;
    (void)snprintf(shown, sizeof shown, "%.*s", (int)QN_MIN(path.n, sizeof shown - 1), path.p);
    for (const qn_route *const *table = x->server->routes; *table; table++) {
        for (const qn_route *r = *table; r->path; r++) {
            qn_slice to = qn_slice_of(r->path);
            size_t common = common_end(path, to);
            size_t least = path.n > to.n ? path.n - to.n : to.n - path.n;
            size_t edits = common || least <= 3 ? qn_opts_distance(shown, r->path) : least;
            bool is_near = common > 0 || edits <= QN_MIN((size_t)3, path.n / 4);
            if (!longer && path.n > 1 && to.n > path.n && memcmp(to.p, path.p, path.n) == 0)
                longer = r;
            if (!is_near || common < best_common || (common == best_common && edits >= best_edits))
                continue;
            best = r;
            best_common = common;
            best_edits = edits;
        }
    }
    return longer && best_common < path.n ? longer : best;
}

static void fail_path(qn_exchange *x)
{
    const qn_route *near = find_near(x);
    qn_slice p = x->http.path;
    int n = (int)QN_MIN(p.n, (size_t)200);
    if (near)
        qn_x_error(x, 404, NULL, "not_found", "there is nothing at %.*s; did you mean %s %s?", n,
                   p.p, near->method, near->path);
    else
        qn_x_error(x, 404, NULL, "not_found", "there is nothing at %.*s; GET / lists what there is",
                   n, p.p);
}

static void answer_options(qn_exchange *x, const char *allowed)
{
    qn_slice asked = qn_http_header(&x->http, "access-control-request-headers");
    if (qn_http_header(&x->http, "access-control-request-method").p) {
        const char *z = asked.p ? qn_arena_strndup(&x->arena, asked.p, asked.n) : NULL;
        qn_x_add_header(x, "Access-Control-Allow-Methods", allowed);
        qn_x_add_header(x, "Access-Control-Allow-Headers",
                        z ? z : "authorization, content-type, x-api-key");
        qn_x_add_header(x, "Access-Control-Max-Age", "600");
    }
    qn_x_add_header(x, "Allow", allowed);
    qn_x_reply(x, 204, NULL, NULL, 0);
}

static bool check_route(qn_exchange *x)
{
    qn_str allowed = {0};
    bool is_options = qn_slice_is(x->http.method, "OPTIONS");
    find_route(x, &allowed);
    if (is_options && (allowed.n || qn_slice_is(x->http.path, "*"))) {
        qn_str_adds(&allowed, allowed.n ? ", OPTIONS" : "GET, HEAD, POST, OPTIONS");
        answer_options(x, allowed.failed ? "" : allowed.p);
    } else if (check_key(x) && !x->route) {
        qn_slice p = x->http.path;
        if (allowed.n && !allowed.failed) {
            qn_x_add_header(x, "Allow", allowed.p);
            qn_x_error(x, 405, NULL, "method_not_allowed", "%.*s takes %s, not %.*s",
                       (int)QN_MIN(p.n, (size_t)200), p.p, allowed.p, (int)x->http.method.n,
                       x->http.method.p);
        } else {
            fail_path(x);
        }
    }
    qn_str_fini(&allowed);
    return x->status == 0;
}

/* ---- bodies ---- */

static bool is_json_type(qn_slice type)
{
    const char *semi = memchr(type.p, ';', type.n);
    if (semi)
        type.n = (size_t)(semi - type.p);
    while (type.n && strchr(" \t", type.p[type.n - 1]))
        type.n--;
    return qn_http_is(type, "application/json") || qn_http_is(type, "text/json") ||
           (type.n > 5 && strncasecmp(type.p + type.n - 5, "+json", 5) == 0);
}

static bool check_body(qn_exchange *x)
{
    const qn_http *h = &x->http;
    if (!h->is_chunked && h->n_length == 0)
        return true;
    qn_slice type = qn_http_header(h, "content-type");
    qn_slice coding = qn_http_header(h, "content-encoding");
    /* what curl sends unless told; a page of another site may post it too, but says its origin */
    static const char form[] = "application/x-www-form-urlencoded";
    bool is_form = type.n >= sizeof form - 1 && strncasecmp(type.p, form, sizeof form - 1) == 0 &&
                   !qn_http_header(h, "origin").p;
    if (type.n && !is_form && !is_json_type(type) && !is_reading(x))
        qn_x_error(x, 415, NULL, "unsupported_media_type",
                   "Content-Type: found '%.*s', want application/json",
                   (int)QN_MIN(type.n, (size_t)100), type.p);
    else if (coding.n && !qn_http_is(coding, "identity"))
        qn_x_error(x, 415, NULL, "unsupported_encoding",
                   "Content-Encoding: found '%.*s', want none", (int)QN_MIN(coding.n, (size_t)100),
                   coding.p);
    return x->status == 0;
}

bool qn_access_check(qn_exchange *x)
{
    if (!check_host(x) || !check_origin(x) || !check_route(x))
        return false;
    if (x->server->phase != QN_SERVER_RUNNING && !x->route->is_quick) {
        qn_x_refuse(x, 503, 5, "the server is shutting down");
        return false;
    }
    return check_body(x) && note_caller(x);
}
