/* SPDX-License-Identifier: Apache-2.0
 * fuzz_load.c - bytes as a server's answer to `quern load`: head, body, event stream, events. However they are cut into pieces, the
 * same comes out, nothing passes the limits, and nothing is left behind.
 *
 * The first byte says how long the pieces are. */
#include "base/limits.h"
#include "base/mem.h"
#include "cmd/load_wire.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

typedef struct reading {
    load_http http;
    load_sse sse;
    load_reply reply;
    qn_status status;
    size_t n_body, n_events, used;
} reading;

static qn_status on_event(void *arg, const char *p, size_t n, qn_err *err)
{
    reading *r = arg;
    bool is_text;
    r->n_events++;
    QN_ASSERT(n <= QN_LIMIT_LOAD_EVENT);
    return load_reply_event(&r->reply, p, n, &is_text, err);
}

static qn_status on_body(void *arg, const char *p, size_t n, qn_err *err)
{
    reading *r = arg;
    char message[64];
    qn_str id = {0};
    r->n_body += n;
    QN_ASSERT(r->http.status >= 200 && r->http.status <= 599);
    load_reply_message(message, sizeof(message), p, n);
    QN_ASSERT(strlen(message) < sizeof(message));
    QN_ASSERT(load_reply_model(&id, p, n, NULL) != QN_OK || id.p);
    qn_str_fini(&id);
    return load_sse_feed(&r->sse, p, n, err);
}

static void read_all(reading *r, const char *p, size_t n, size_t step)
{
    qn_err err;
    *r = (reading){.status = QN_OK};
    load_http_init(&r->http, on_body, r);
    r->sse.event = on_event;
    r->sse.arg = r;
    for (size_t i = 0; r->status == QN_OK && !load_http_is_whole(&r->http) && i < n; i += step) {
        size_t k = QN_MIN(step, n - i), used = 0;
        r->status = load_http_feed(&r->http, p + i, k, &used, &err);
        QN_ASSERT(used <= k && (used == k || r->status != QN_OK || load_http_is_whole(&r->http)));
        QN_ASSERT(r->http.line.n <= QN_LIMIT_LOAD_HEAD && r->sse.data.n <= QN_LIMIT_LOAD_EVENT + 1);
        r->used += used;
    }
    if (r->status == QN_OK && !load_http_is_whole(&r->http))
        r->status = load_http_close(&r->http, &err);
    load_http_fini(&r->http);
    load_sse_fini(&r->sse);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    reading once, pieces;
    load_url url;
    if (n == 0)
        return 0;
    const char *text = (const char *)data + 1;
    read_all(&once, text, n - 1, n);
    read_all(&pieces, text, n - 1, data[0] % 32 + 1);
    QN_ASSERT((once.status == QN_OK) == (pieces.status == QN_OK));
    if (once.status == QN_OK) {
        QN_ASSERT(once.used == pieces.used && once.n_body == pieces.n_body);
        QN_ASSERT(once.n_events == pieces.n_events);
        QN_ASSERT(once.reply.n_texts == pieces.reply.n_texts);
    }
    char *z = qn_strndup(text, n - 1, QN_MEM_MISC);
    if (z && load_url_parse(&url, z, NULL) == QN_OK)
        QN_ASSERT(*url.host && url.port > 0 && !strpbrk(url.base, "\r\n "));
    qn_free(z);
    QN_ASSERT(qn_mem_live(QN_MEM_MISC) == 0);
    return 0;
}
