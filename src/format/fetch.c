/* SPDX-License-Identifier: Apache-2.0
 * fetch.c - see fetch.h.
 *
 * Layers, each calling the next: try_again (passing failures) -> follow (redirects, token) ->
 * perform (one request). A body goes to text or to a blob; the body of an error or of a redirect
 * goes nowhere. A blob is hashed as it is written, so that gigabytes are not read twice; what an
 * earlier run left is hashed first.
 * Sources: huggingface_hub file_download.py (headers, which redirects HEAD follows); RFC 9110 14
 * (ranges). */
#include "format/fetch.h"

#include "base/limits.h"
#include "base/mem.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define N_RETRIES    5 /* of a file; */
#define N_ASKS       3 /* of anything shorter: somebody waits for the answer */
#define CONNECT_S    15L
#define STALL_S      30L /* without a byte: the connection is given up */
#define RETRY_S_MAX  60
#define PROGRESS_NS  100000000u
#define NS_PER_S     1000000000u
#define UNKNOWN_SIZE UINT64_MAX

struct qn_fetch {
    CURL *curl;
    const char *endpoint, *token;
    struct curl_slist *auth; /* the token's header; NULL without token */
    bool is_patient, is_offline;
    bool is_passing; /* the last failure may pass by itself */
    long retry_after_s;
    char curl_err[CURL_ERROR_SIZE];
};

/* What the headers of one response said. */
typedef struct reply {
    long status;
    char etag[160], linked_etag[160], commit[160];
    uint64_t size, linked_size; /* UNKNOWN_SIZE: not said */
    uint64_t range_start, range_total;
} reply;

typedef struct blob {
    int fd;
    EVP_MD_CTX *md;
    const qn_remote *remote;
    const char *what;
    uint64_t done;
    qn_fetch_progress progress;
    void *progress_arg;
    uint64_t start_ns, last_ns, start_bytes;
} blob;

/* Where a request's body goes, and what became of it. */
typedef struct sink {
    reply *r;
    const char *what;
    qn_str *text;
    size_t max_bytes;
    blob *b;
    bool has_begun; /* the first byte of this response came */
    qn_status status;
    qn_err *err;
} sink;

/* ---- life ---- */

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_init_code;

static void init_curl(void)
{
    curl_init_code = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static qn_status check_endpoint(const char *endpoint, const char *token, qn_err *err)
{
    const char *host = qn_starts_with(endpoint, "https://")  ? endpoint + 8
                       : qn_starts_with(endpoint, "http://") ? endpoint + 7
                                                             : "";
    if (!*host || *host == '/')
        return qn_fail(err, QN_E_ARG, "HF_ENDPOINT: %s, want http[s]://host", endpoint);
    for (const char *c = token ? token : ""; *c; c++)
        if (*c <= ' ' || *c >= 127)
            return qn_fail(err, QN_E_ARG, "HF_TOKEN: holds a byte %d, want visible ASCII",
                           (unsigned char)*c);
    return QN_OK;
}

qn_status qn_fetch_new(qn_fetch **out, const char *endpoint, const char *token, qn_err *err)
{
    *out = NULL;
    QN_TRY(check_endpoint(endpoint, token, err));
    (void)pthread_once(&curl_once, init_curl);
    if (curl_init_code != CURLE_OK)
        return qn_fail(err, QN_E_INTERNAL, "libcurl: %s", curl_easy_strerror(curl_init_code));
    qn_fetch *f = qn_calloc(1, sizeof(*f), QN_MEM_MISC);
    if (!f)
        return qn_fail_nomem(err, sizeof(*f));
    f->endpoint = endpoint;
    f->token = token;
    f->is_patient = true;
    f->curl = curl_easy_init();
    bool ok = f->curl != NULL;
    if (ok && token) {
        qn_str header = {0};
        qn_str_addf(&header, "Authorization: Bearer %s", token);
        if (!header.failed)
            f->auth = curl_slist_append(NULL, header.p);
        qn_str_fini(&header);
        ok = f->auth != NULL;
    }
    if (!ok) {
        qn_fetch_free(f);
        return qn_fail_nomem(err, sizeof(*f));
    }
    *out = f;
    return QN_OK;
}

void qn_fetch_free(qn_fetch *f)
{
    if (!f)
        return;
    curl_easy_cleanup(f->curl);
    curl_slist_free_all(f->auth);
    qn_free(f);
}

void qn_fetch_set_patient(qn_fetch *f, bool is_patient)
{
    f->is_patient = is_patient;
}

bool qn_fetch_is_offline(const qn_fetch *f)
{
    return f->is_offline;
}

/* ---- blobs ---- */

static qn_status fail_blob(const blob *b, const char *doing, qn_err *err)
{
    int e = errno;
    char buf[128];
    if (e == ENOSPC || e == EDQUOT)
        return qn_fail(err, QN_E_IO, "%s: the disk is full: %llu of %llu bytes written", b->what,
                       (unsigned long long)b->done, (unsigned long long)b->remote->size);
    return qn_fail(err, e == ENOMEM ? QN_E_NOMEM : QN_E_IO, "%s: cannot %s: %s", b->what, doing,
                   strerror_r(e, buf, sizeof(buf)));
}

static bool is_sha256(const qn_remote *r)
{
    return r->etag[40] != 0;
}

/* A hash of nothing yet; git's starts with a header. */
static qn_status start_hash(blob *b, qn_err *err)
{
    char header[40];
    int n = snprintf(header, sizeof(header), "blob %llu", (unsigned long long)b->remote->size) + 1;
    bool ok = EVP_DigestInit_ex(b->md, is_sha256(b->remote) ? EVP_sha256() : EVP_sha1(), NULL) == 1;
    if (ok && !is_sha256(b->remote))
        ok = EVP_DigestUpdate(b->md, header, (size_t)n) == 1;
    return ok ? QN_OK : qn_fail(err, QN_E_INTERNAL, "%s: libcrypto refuses to hash", b->what);
}

static qn_status restart_blob(blob *b, qn_err *err)
{
    b->done = 0;
    b->start_bytes = 0;
    b->start_ns = qn_now_ns();
    if (ftruncate(b->fd, 0) != 0)
        return fail_blob(b, "truncate", err);
    return start_hash(b, err);
}

/* Hashes what an earlier run left. */
static qn_status resume_blob(blob *b, uint64_t n_left_behind, qn_err *err)
{
    char buf[8192];
    QN_TRY(start_hash(b, err));
    while (b->done < n_left_behind) {
        ssize_t n = pread(b->fd, buf, sizeof(buf), (off_t)b->done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_blob(b, "read", err);
        if (n == 0 || EVP_DigestUpdate(b->md, buf, (size_t)n) != 1)
            return restart_blob(b, err);
        b->done += (uint64_t)n;
    }
    b->start_bytes = b->done;
    return QN_OK;
}

static void show_progress(blob *b, bool always)
{
    uint64_t now = qn_now_ns();
    if (!b->progress || (!always && now - b->last_ns < PROGRESS_NS))
        return;
    b->last_ns = now;
    double s = (double)(now - b->start_ns) / NS_PER_S;
    b->progress(b->progress_arg, b->what, b->done, b->remote->size,
                s > 0 ? (double)(b->done - b->start_bytes) / s : 0);
}

/* The first byte of a response: does it go on where the file ends? */
static qn_status begin_body(blob *b, const reply *r, qn_err *err)
{
    if (r->status == 200 && b->done > 0)
        return restart_blob(b, err); /* the server does not do ranges */
    if (r->status == 206 && (r->range_start != b->done ||
                             (r->range_total != UNKNOWN_SIZE && r->range_total != b->remote->size)))
        return qn_fail(err, QN_E_FORMAT,
                       "%s: the server sends bytes from %llu of %llu, want from %llu of %llu",
                       b->what, (unsigned long long)r->range_start,
                       (unsigned long long)r->range_total, (unsigned long long)b->done,
                       (unsigned long long)b->remote->size);
    return QN_OK;
}

static qn_status write_blob(blob *b, const char *p, size_t n, qn_err *err)
{
    if (n > b->remote->size - b->done) {
        /* Nothing of it can be trusted: the next run starts anew. */
        QN_TRY(restart_blob(b, err));
        return qn_fail(err, QN_E_FORMAT, "%s: the server sends more than the %llu bytes it named",
                       b->what, (unsigned long long)b->remote->size);
    }
    if (EVP_DigestUpdate(b->md, p, n) != 1)
        return qn_fail(err, QN_E_INTERNAL, "%s: libcrypto refuses to hash", b->what);
    while (n > 0) {
        ssize_t k = pwrite(b->fd, p, n, (off_t)b->done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return fail_blob(b, "write", err);
        p += k;
        n -= (size_t)k;
        b->done += (uint64_t)k;
    }
    show_progress(b, false);
    return QN_OK;
}

/* ---- one request ---- */

/* If the header line is `name`, copies its value without white space around it. */
static bool header_is(const char *line, size_t n, const char *name, char *value, size_t size)
{
    size_t n_name = strlen(name);
    if (n <= n_name || strncasecmp(line, name, n_name) != 0 || line[n_name] != ':')
        return false;
    const char *p = line + n_name + 1, *end = line + n;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    while (end > p && (unsigned char)end[-1] <= ' ')
        end--;
    size_t n_value = QN_MIN((size_t)(end - p), size - 1);
    memcpy(value, p, n_value);
    value[n_value] = 0;
    return true;
}

/* "bytes 5-9/10" */
static void parse_range(reply *r, const char *v)
{
    const char *dash = strchr(v, '-'), *slash = strchr(v, '/');
    if (!qn_starts_with(v, "bytes ") || !dash || !slash || dash > slash)
        return;
    if (!qn_parse_u64(v + 6, (size_t)(dash - v - 6), UINT64_MAX - 1, &r->range_start))
        r->range_start = UNKNOWN_SIZE;
    if (!qn_parse_u64(slash + 1, strlen(slash + 1), UINT64_MAX - 1, &r->range_total))
        r->range_total = UNKNOWN_SIZE;
}

static size_t on_header(char *line, size_t size, size_t n_items, void *arg)
{
    reply *r = ((sink *)arg)->r;
    size_t n = size * n_items;
    char v[160];
    if (n > 5 && strncmp(line, "HTTP/", 5) == 0) {
        *r = (reply){.size = UNKNOWN_SIZE,
                     .linked_size = UNKNOWN_SIZE,
                     .range_start = UNKNOWN_SIZE,
                     .range_total = UNKNOWN_SIZE};
        const char *space = memchr(line, ' ', n);
        size_t left = space ? n - (size_t)(space + 1 - line) : 0;
        uint64_t code;
        if (left >= 3 && qn_parse_u64(space + 1, 3, 999, &code))
            r->status = (long)code;
    } else if (header_is(line, n, "ETag", v, sizeof(v))) {
        memcpy(r->etag, v, sizeof(v));
    } else if (header_is(line, n, "X-Linked-Etag", v, sizeof(v))) {
        memcpy(r->linked_etag, v, sizeof(v));
    } else if (header_is(line, n, "X-Repo-Commit", v, sizeof(v))) {
        memcpy(r->commit, v, sizeof(v));
    } else if (header_is(line, n, "Content-Length", v, sizeof(v))) {
        if (!qn_parse_u64(v, strlen(v), UINT64_MAX - 1, &r->size))
            r->size = UNKNOWN_SIZE;
    } else if (header_is(line, n, "X-Linked-Size", v, sizeof(v))) {
        if (!qn_parse_u64(v, strlen(v), UINT64_MAX - 1, &r->linked_size))
            r->linked_size = UNKNOWN_SIZE;
    } else if (header_is(line, n, "Content-Range", v, sizeof(v))) {
        parse_range(r, v);
    }
    return n;
}

/* Returning less than it was given ends the transfer. */
static size_t on_body(char *p, size_t size, size_t n_items, void *arg)
{
    sink *k = arg;
    size_t n = size * n_items;
    if (k->r->status != 200 && k->r->status != 206)
        return n;
    if (k->b) {
        if (!k->has_begun)
            k->status = begin_body(k->b, k->r, k->err);
        k->has_begun = true;
        if (k->status == QN_OK)
            k->status = write_blob(k->b, p, n, k->err);
    } else if (n > k->max_bytes - k->text->n) {
        k->status = qn_fail(k->err, QN_E_FORMAT, "%s: the server sends more than %zu bytes",
                            k->what, k->max_bytes);
    } else {
        qn_str_add(k->text, p, n);
        if (k->text->failed)
            k->status = qn_fail_nomem(k->err, n);
    }
    return k->status == QN_OK ? n : 0;
}

static bool is_passing_code(CURLcode c)
{
    return c == CURLE_COULDNT_RESOLVE_HOST || c == CURLE_COULDNT_RESOLVE_PROXY ||
           c == CURLE_COULDNT_CONNECT || c == CURLE_OPERATION_TIMEDOUT ||
           c == CURLE_SSL_CONNECT_ERROR || c == CURLE_SEND_ERROR || c == CURLE_RECV_ERROR ||
           c == CURLE_GOT_NOTHING || c == CURLE_PARTIAL_FILE || c == CURLE_HTTP2 ||
           c == CURLE_HTTP2_STREAM || c == CURLE_WEIRD_SERVER_REPLY;
}

/* scheme://host:port of two URLs. */
static bool is_same_origin(const char *a, const char *b)
{
    bool same = false;
    CURLU *u[2] = {curl_url(), curl_url()};
    char *part[2][3] = {{NULL}};
    const CURLUPart parts[3] = {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT};
    bool ok = u[0] && u[1] && curl_url_set(u[0], CURLUPART_URL, a, 0) == CURLUE_OK &&
              curl_url_set(u[1], CURLUPART_URL, b, 0) == CURLUE_OK;
    for (size_t i = 0; ok && i < 2; i++)
        for (size_t j = 0; ok && j < 3; j++)
            ok = curl_url_get(u[i], parts[j], &part[i][j], CURLU_DEFAULT_PORT) == CURLUE_OK;
    if (ok)
        same = strcasecmp(part[0][0], part[1][0]) == 0 && strcasecmp(part[0][1], part[1][1]) == 0 &&
               strcmp(part[0][2], part[1][2]) == 0;
    for (size_t i = 0; i < 2; i++) {
        for (size_t j = 0; j < 3; j++)
            curl_free(part[i][j]);
        curl_url_cleanup(u[i]);
    }
    return same;
}

/* A peer that hangs up while we write must not end the process: OpenSSL writes without
 * MSG_NOSIGNAL. Blocked for this thread and then taken, the signal stays nobody else's business. */
static CURLcode perform_without_sigpipe(CURL *c)
{
    const struct timespec now = {0};
    sigset_t broken, old, before;
    (void)sigemptyset(&broken);
    (void)sigaddset(&broken, SIGPIPE);
    (void)sigemptyset(&before);
    (void)pthread_sigmask(SIG_BLOCK, &broken, &old);
    (void)sigpending(&before);
    CURLcode code = curl_easy_perform(c);
    if (!sigismember(&before, SIGPIPE))
        while (sigtimedwait(&broken, NULL, &now) < 0 && errno == EINTR)
            continue;
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return code;
}

/* One request and its response, whatever its status is. */
static qn_status perform(qn_fetch *f, const char *url, bool is_head, sink *k)
{
    CURL *c = f->curl;
    char range[32];
    curl_easy_reset(c); /* keeps the connections */
    f->curl_err[0] = 0;
    k->status = QN_OK;
    k->has_begun = false;
    *k->r = (reply){0};
    bool ok = curl_easy_setopt(c, CURLOPT_URL, url) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_ERRORBUFFER, f->curl_err) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_USERAGENT, "quern/" QN_VERSION) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, CONNECT_S) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, STALL_S) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_NOBODY, is_head ? 1L : 0L) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_HEADERDATA, k) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_WRITEDATA, k) == CURLE_OK;
    if (ok && f->auth && is_same_origin(url, f->endpoint))
        ok = curl_easy_setopt(c, CURLOPT_HTTPHEADER, f->auth) == CURLE_OK;
    if (ok && k->b && k->b->done > 0) {
        (void)snprintf(range, sizeof(range), "%llu-", (unsigned long long)k->b->done);
        ok = curl_easy_setopt(c, CURLOPT_RANGE, range) == CURLE_OK;
    }
    if (!ok)
        return qn_fail(k->err, QN_E_INTERNAL, "%s: libcurl refuses an option", k->what);
    CURLcode code = perform_without_sigpipe(c);
    if (k->status != QN_OK)
        return k->status; /* the body's own error */
    if (code == CURLE_OK)
        return QN_OK;
    f->is_passing = is_passing_code(code);
    f->is_offline = f->is_passing;
    return qn_fail(k->err, code == CURLE_OUT_OF_MEMORY ? QN_E_NOMEM : QN_E_IO, "%s: %s", k->what,
                   f->curl_err[0] ? f->curl_err : curl_easy_strerror(code));
}

static bool is_redirect(long status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* What a status other than success means to the user. */
static qn_status fail_status(qn_fetch *f, const sink *k)
{
    long s = k->r->status;
    if (s == 401 && !f->token)
        return qn_fail(k->err, QN_E_NOT_FOUND,
                       "%s: the hub answers 401: no such repository, or it is private or gated: "
                       "set HF_TOKEN to a token that may read it",
                       k->what);
    if (s == 401)
        return qn_fail(k->err, QN_E_NOT_FOUND,
                       "%s: the hub answers 401: no such repository, or HF_TOKEN is not valid",
                       k->what);
    if (s == 403)
        return qn_fail(k->err, QN_E_NOT_FOUND,
                       "%s: the hub answers 403: gated or private: accept its terms on the hub's "
                       "page and set HF_TOKEN to a token of that account",
                       k->what);
    if (s == 404 || s == 410)
        return qn_fail(k->err, QN_E_NOT_FOUND, "%s: not found on the hub (%ld)", k->what, s);
    curl_off_t wait = 0;
    f->is_passing = s == 408 || s == 429 || (s >= 500 && s <= 504);
    f->is_offline = s >= 500;
    if (curl_easy_getinfo(f->curl, CURLINFO_RETRY_AFTER, &wait) == CURLE_OK && wait > 0)
        f->retry_after_s = (long)QN_MIN(wait, RETRY_S_MAX);
    return qn_fail(k->err, QN_E_IO, "%s: the hub answers %ld, want 200", k->what, s);
}

/* Follows redirects to a response that is one. A HEAD stops at a redirect to another host, which
 * would not know the file's description any more (and storage with signed addresses often refuses
 * HEAD). */
static qn_status follow(qn_fetch *f, const char *path, bool is_head, sink *k)
{
    char commit[sizeof(k->r->commit)] = "";
    qn_str url = {0};
    qn_status s = QN_OK;
    qn_str_addf(&url, "%s%s", f->endpoint, path);
    for (int i = 0;; i++) {
        s = url.failed ? qn_fail_nomem(k->err, url.n) : perform(f, url.p, is_head, k);
        if (s != QN_OK)
            break;
        if (!commit[0])
            memcpy(commit, k->r->commit, sizeof(commit));
        if (!is_redirect(k->r->status)) {
            if (k->r->status != 200 && k->r->status != 206)
                s = fail_status(f, k);
            break;
        }
        const char *to = NULL;
        if (curl_easy_getinfo(f->curl, CURLINFO_REDIRECT_URL, &to) != CURLE_OK || !to) {
            s = qn_fail(k->err, QN_E_FORMAT, "%s: the hub answers %ld without an address", k->what,
                        k->r->status);
            break;
        }
        if (is_head && (k->r->linked_etag[0] || !is_same_origin(to, f->endpoint)))
            break;
        bool is_down = qn_starts_with(url.p, "https:") && strncasecmp(to, "https:", 6) != 0;
        if (i == QN_LIMIT_HUB_REDIRECTS || is_down) {
            s = qn_fail(k->err, QN_E_FORMAT, "%s: the hub redirects %s", k->what,
                        is_down ? "from https to plain http" : "too often");
            break;
        }
        qn_str_clear(&url);
        qn_str_adds(&url, to);
    }
    memcpy(k->r->commit, commit, sizeof(commit));
    qn_str_fini(&url);
    return s;
}

static void wait_ms(uint64_t ms)
{
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        continue;
}

static qn_status try_again(qn_fetch *f, const char *path, bool is_head, sink *k)
{
    for (int n_failed = 0;;) {
        uint64_t before = k->b ? k->b->done : 0;
        f->is_passing = false;
        f->is_offline = false;
        f->retry_after_s = 0;
        if (k->text)
            qn_str_clear(k->text);
        qn_status s = follow(f, path, is_head, k);
        if (s == QN_OK && k->b && k->b->done < k->b->remote->size) {
            f->is_passing = true;
            s = qn_fail(k->err, QN_E_IO, "%s: the connection ended after %llu of %llu bytes",
                        k->what, (unsigned long long)k->b->done,
                        (unsigned long long)k->b->remote->size);
        }
        if (k->b && k->r->status == 416 && before > 0) {
            /* What an earlier run left is longer than the file is now. */
            QN_TRY(restart_blob(k->b, k->err));
            continue;
        }
        if (s == QN_OK || !f->is_passing || !f->is_patient)
            return s;
        n_failed = k->b && k->b->done > before ? 1 : n_failed + 1;
        if (n_failed > (k->b ? N_RETRIES : N_ASKS))
            return qn_wrap(k->err, s, "gave up after %d attempts", n_failed);
        wait_ms(f->retry_after_s > 0 ? (uint64_t)f->retry_after_s * 1000 : 250u << n_failed);
    }
}

/* ---- the three questions ---- */

qn_status qn_fetch_text(qn_fetch *f, const char *path, const char *what, size_t max_bytes,
                        qn_str *out, qn_err *err)
{
    reply r = {0};
    sink k = {.r = &r, .what = what, .text = out, .max_bytes = max_bytes, .err = err};
    return try_again(f, path, false, &k);
}

/* A quoted, maybe weak, tag without its dress. */
static qn_status copy_etag(char out[65], const char *v, const char *what, qn_err *err)
{
    if (qn_starts_with(v, "W/"))
        v += 2;
    size_t n = strlen(v);
    if (n >= 2 && v[0] == '"' && v[n - 1] == '"') {
        v++;
        n -= 2;
    }
    if ((n != 40 && n != 64) || strspn(v, "0123456789abcdef") < n)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: the hub's ETag is '%.80s', want a checksum of 40 or 64 hex digits",
                       what, v);
    (void)snprintf(out, 65, "%.*s", (int)n, v);
    return QN_OK;
}

qn_status qn_fetch_head(qn_fetch *f, const char *path, const char *what, qn_remote *out,
                        qn_err *err)
{
    reply r = {0};
    sink k = {.r = &r, .what = what, .err = err};
    memset(out, 0, sizeof(*out));
    QN_TRY(try_again(f, path, true, &k));
    QN_TRY(copy_etag(out->etag, r.linked_etag[0] ? r.linked_etag : r.etag, what, err));
    out->size = r.linked_size != UNKNOWN_SIZE ? r.linked_size
                : r.status == 200             ? r.size
                                              : UNKNOWN_SIZE;
    if (out->size > INT64_MAX)
        return qn_fail(err, QN_E_FORMAT, "%s: the hub does not say its size", what);
    if (r.commit[0] && (strlen(r.commit) != 40 || strspn(r.commit, "0123456789abcdef") != 40))
        return qn_fail(err, QN_E_FORMAT,
                       "%s: the hub's X-Repo-Commit is '%.80s', want 40 hex digits", what,
                       r.commit);
    memcpy(out->commit, r.commit, r.commit[0] ? 41 : 1);
    return QN_OK;
}

/* Opens the .incomplete file and keeps other processes out of it. */
static qn_status open_part(blob *b, const char *part, qn_err *err)
{
    struct stat st, named;
    struct statvfs disk;
    b->fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (b->fd < 0 || fstat(b->fd, &st) != 0)
        return fail_blob(b, "open the download", err);
    if (!S_ISREG(st.st_mode))
        return qn_fail(err, QN_E_IO, "%s: is not a regular file", part);
    /* A download that ended between our open and our lock left its name to nobody, or to a new
     * file. */
    if (flock(b->fd, LOCK_EX | LOCK_NB) != 0 || stat(part, &named) != 0 ||
        named.st_ino != st.st_ino)
        return qn_fail(err, QN_E_IO, "%s: another process is downloading it", b->what);
    uint64_t have = (uint64_t)st.st_size, size = b->remote->size;
    if (have > size) {
        have = 0;
        if (ftruncate(b->fd, 0) != 0)
            return fail_blob(b, "truncate", err);
    }
    if (fstatvfs(b->fd, &disk) == 0 && size - have > (uint64_t)disk.f_bavail * disk.f_frsize)
        return qn_fail(err, QN_E_IO, "%s: needs %llu bytes more on the disk, which has %llu",
                       b->what, (unsigned long long)(size - have),
                       (unsigned long long)disk.f_bavail * disk.f_frsize);
    return resume_blob(b, have, err);
}

/* Compares the checksum; a download that fails it is removed. */
static qn_status check_part(blob *b, const char *part, qn_err *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char hex[2 * EVP_MAX_MD_SIZE + 1] = "";
    if (EVP_DigestFinal_ex(b->md, digest, &n) != 1)
        return qn_fail(err, QN_E_INTERNAL, "%s: libcrypto refuses to hash", b->what);
    for (size_t i = 0; i < n; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    if (strcmp(hex, b->remote->etag) == 0)
        return QN_OK;
    (void)unlink(part);
    return qn_fail(err, QN_E_FORMAT, "%s: the %s of what came is %s, want %s; it was removed",
                   b->what, is_sha256(b->remote) ? "SHA-256" : "git SHA-1", hex, b->remote->etag);
}

qn_status qn_fetch_file(qn_fetch *f, const char *path, const char *what, const qn_remote *r,
                        const char *dest, qn_fetch_progress progress, void *progress_arg,
                        qn_err *err)
{
    reply rep = {0};
    blob b = {.fd = -1,
              .remote = r,
              .what = what,
              .progress = progress,
              .progress_arg = progress_arg,
              .start_ns = qn_now_ns()};
    sink k = {.r = &rep, .what = what, .b = &b, .err = err};
    qn_str part = {0};
    qn_str_addf(&part, "%s.incomplete", dest);
    b.md = EVP_MD_CTX_new();
    qn_status s = part.failed || !b.md ? qn_fail_nomem(err, part.n) : open_part(&b, part.p, err);
    if (s == QN_OK && b.done < r->size)
        s = try_again(f, path, false, &k);
    if (s == QN_OK)
        s = check_part(&b, part.p, err);
    if (s == QN_OK && fsync(b.fd) != 0)
        s = fail_blob(&b, "write", err);
    if (s == QN_OK && rename(part.p, dest) != 0)
        s = fail_blob(&b, "rename the download", err);
    if (s == QN_OK)
        show_progress(&b, true);
    if (b.fd >= 0)
        (void)close(b.fd);
    EVP_MD_CTX_free(b.md);
    qn_str_fini(&part);
    return s;
}
