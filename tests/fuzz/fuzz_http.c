/* SPDX-License-Identifier: Apache-2.0
 * fuzz_http.c - any bytes as requests on one connection, whole and split at every byte: the same events.
 * What is read keeps to its limits; a head that is accepted has what it must have. */
#include "base/mem.h"
#include "server/http.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define MAX_BODY 4096

static void check(bool holds)
{
    if (!holds)
        __builtin_trap();
}

typedef struct outcome {
    int status;
    size_t n_used;
    bool has_head, is_chunked, is_kept, has_end;
    size_t n_fields;
    qn_str head, body;
} outcome;

static void check_head(const qn_http *h)
{
    check(h->method.n > 0 && h->path.n > 0 && h->n_fields <= QN_LIMIT_HTTP_HEADERS);
    check(qn_utf8_valid(h->path.p, h->path.n) && !memchr(h->path.p, 0, h->path.n));
    check(*h->path.p == '/' || qn_slice_is(h->path, "*"));
    check(h->minor == 0 || h->host.p);
    check(!h->is_chunked || (h->n_length == 0 && h->minor == 1));
    check(h->n_length <= MAX_BODY);
    check(h->n_buf <= QN_LIMIT_HTTP_LINE + QN_LIMIT_HTTP_HEADER_BYTES);
    for (size_t i = 0; i < h->n_fields; i++) {
        const qn_http_field *f = &h->fields[i];
        check((size_t)f->name + f->n_name <= h->n_buf && f->n_name > 0);
        check((size_t)f->value + f->n_value <= h->n_buf);
        check(!memchr(h->buf + f->value, '\r', f->n_value));
        check(!memchr(h->buf + f->value, '\n', f->n_value));
    }
}

/* One request in pieces of `step`. */
static void parse(outcome *o, const char *p, size_t n, size_t step)
{
    qn_http h;
    size_t used;
    qn_http_init(&h, MAX_BODY);
    for (size_t end = QN_MIN(step, n);; end = QN_MIN(end + step, n)) {
        qn_http_event e;
        do {
            e = qn_http_take(&h, p + o->n_used, end - o->n_used, &used);
            check(used <= end - o->n_used);
            if (e == QN_HTTP_BODY) {
                check(o->has_head && h.piece.n > 0 && h.piece.p >= p);
                qn_str_add(&o->body, h.piece.p, h.piece.n);
            }
            o->n_used += used;
            if (e == QN_HTTP_HEAD) {
                check(!o->has_head);
                check_head(&h);
                o->has_head = true;
                qn_str_add(&o->head, h.buf, h.n_buf);
            }
        } while (e == QN_HTTP_HEAD || e == QN_HTTP_BODY);
        check(h.n_body == o->body.n && h.n_body <= MAX_BODY);
        if (e == QN_HTTP_BAD) {
            check(h.status >= 400 && h.status < 600 && h.reason);
            o->status = h.status;
        }
        o->has_end = e == QN_HTTP_END;
        if (e != QN_HTTP_MORE || end == n)
            break;
        check(o->n_used == end);
    }
    o->is_chunked = h.is_chunked;
    o->is_kept = h.is_kept;
    o->n_fields = h.n_fields;
    qn_http_fini(&h);
}

static bool is_same(const qn_str *a, const qn_str *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->p, b->p, a->n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *p = (const char *)data;
    size_t before = qn_mem_live(QN_MEM_REQUEST) + qn_mem_live(QN_MEM_MISC);
    for (bool is_more = n > 0; is_more;) {
        outcome whole = {0}, split = {0};
        parse(&whole, p, n, n);
        parse(&split, p, n, 1);
        check(whole.status == split.status && whole.n_used == split.n_used);
        check(whole.has_head == split.has_head && whole.has_end == split.has_end);
        check(whole.is_chunked == split.is_chunked && whole.is_kept == split.is_kept);
        check(whole.n_fields == split.n_fields);
        check(is_same(&whole.head, &split.head) && is_same(&whole.body, &split.body));
        is_more = whole.has_end && whole.n_used < n;
        p += whole.n_used;
        n -= whole.n_used;
        qn_str_fini(&whole.head);
        qn_str_fini(&whole.body);
        qn_str_fini(&split.head);
        qn_str_fini(&split.body);
    }
    check(qn_mem_live(QN_MEM_REQUEST) + qn_mem_live(QN_MEM_MISC) == before);
    return 0;
}
