/* SPDX-License-Identifier: Apache-2.0
 * fuzz_reply.c - any bytes as a model's answer, whole and in pieces: the same is told, and nothing that was told is lost when it is
 * no call. The first byte chooses the style and the pieces. */
#include "base/mem.h"
#include "server/reply.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool holds)
{
    if (!holds)
        __builtin_trap();
}

typedef struct told {
    qn_str text;
    int kind;
    size_t n_calls, n_ends;
} told;

static void on(void *arg, qn_reply_kind kind, const char *p, size_t n)
{
    told *t = arg;
    bool is_mark = kind == QN_REPLY_CALL || kind == QN_REPLY_CALL_END || kind == QN_REPLY_RECALL;
    check(is_mark || n > 0);
    check(kind != QN_REPLY_ARGUMENTS || t->n_calls > t->n_ends);
    if (is_mark || (int)kind != t->kind)
        qn_str_addf(&t->text, "\n%d:", (int)kind);
    qn_str_add(&t->text, p, n);
    t->kind = (int)kind;
    t->n_calls += kind == QN_REPLY_CALL;
    t->n_ends += kind == QN_REPLY_CALL_END;
}

static unsigned types(void *arg, qn_slice tool, qn_slice key)
{
    (void)arg;
    (void)tool;
    return key.n ? (unsigned char)key.p[0] & 127u : 0;
}

static bool knows(void *arg, qn_slice tool)
{
    (void)arg;
    return tool.n == 1;
}

static void read_in(told *t, const qn_reply_style *style, const char *p, size_t n, size_t step)
{
    qn_reply r;
    *t = (told){.kind = -1};
    qn_reply_init(&r, style);
    for (size_t i = 0; i < n; i += step) {
        qn_reply_feed(&r, p + i, QN_MIN(step, n - i), on, t);
        check(r.held.n <= QN_LIMIT_REPLY_HELD + 1024);
    }
    qn_reply_end(&r, on, t);
    check(!qn_reply_has_failed(&r) && t->n_ends <= t->n_calls);
    qn_reply_fini(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 1 || n > 1 << 16)
        return 0;
    unsigned c = data[0];
    const char *p = (const char *)data + 1;
    const qn_reply_style style = {.begin = (qn_reply_begin)(c % 3),
                                  .has_calls = !(c & 32),
                                  .is_enforced = c & 64,
                                  .is_bare = c & 128,
                                  .types = types,
                                  .knows = c & 16 ? knows : NULL};
    told whole, cut;
    n--;
    read_in(&whole, &style, p, n, n ? n : 1);
    read_in(&cut, &style, p, n, 1 + c % 4);
    check(whole.text.n == cut.text.n &&
          (!whole.text.n || memcmp(whole.text.p, cut.text.p, whole.text.n) == 0));
    if (!style.has_calls && style.begin == QN_REPLY_ANSWERS)
        check(!n || (whole.text.n == n + 3 && memcmp(whole.text.p + 3, p, n) == 0));
    qn_str_fini(&whole.text);
    qn_str_fini(&cut.text);
    return 0;
}
