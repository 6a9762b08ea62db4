/* SPDX-License-Identifier: Apache-2.0
 * map_reduce.c - rounds of requests: as many at once as there are seats, their answers shown in order.
 *
 * The engine wakes this thread through the pipe that Ctrl-C wakes it with too; every request is then asked for what it has. */
#include "cmd/map_reduce.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/mem.h"

#define BAR_MS 100

void mr_answers_free(mr_answer *a, size_t n)
{
    for (size_t i = 0; a && i < n; i++)
        qn_str_fini(&a[i].text);
    qn_free(a);
}

/* ---- prompts ---- */

void mr_add_prompt(qn_str *out, const char *prompt, qn_slice text, size_t part, size_t parts)
{
    bool has_text = false;
    for (const char *p = prompt; *p;) {
        size_t n = strcspn(p, "{");
        qn_str_add(out, p, n);
        p += n;
        if (qn_starts_with(p, "{text}")) {
            qn_str_add(out, text.p, text.n);
            has_text = true;
            p += 6;
        } else if (qn_starts_with(p, "{parts}")) {
            qn_str_addf(out, "%zu", parts);
            p += 7;
        } else if (qn_starts_with(p, "{part}")) {
            qn_str_addf(out, "%zu", part);
            p += 6;
        } else if (*p)
            qn_str_addc(out, *p++);
    }
    if (!has_text) {
        qn_str_adds(out, "\n\n");
        qn_str_add(out, text.p, text.n);
    }
}

/* The prompt of text i, which lies in `text`. */
static qn_status make_prompt(const map_reduce *m, const mr_round *r, size_t i, qn_str *text,
                             qn_prompt *out, qn_err *err)
{
    qn_str filled = {0};
    qn_str_clear(text);
    mr_add_prompt(&filled, r->prompt, r->texts[i], i + 1, r->n);
    if (m->raw) {
        qn_str_add(text, filled.p, filled.n);
        *out = (qn_prompt){.text = text->p, .n_text = text->n};
    } else {
        run_turn turn = {"user", filled.p, filled.n};
        run_add_chat_json(text, m->run, m->run->system, &turn, 1);
        *out = (qn_prompt){.chat_json = text->p};
    }
    bool failed = filled.failed || text->failed;
    qn_str_fini(&filled);
    return failed ? qn_fail_nomem(err, text->n) : QN_OK;
}

qn_status mr_count(const map_reduce *m, const mr_round *r, size_t i, size_t *n, qn_err *err)
{
    qn_str text = {0};
    qn_prompt prompt;
    int32_t *ids = NULL;
    qn_status s = make_prompt(m, r, i, &text, &prompt, err);
    if (s == QN_OK)
        s = qn_encode(m->e, &prompt, &ids, n, err);
    qn_release(ids);
    qn_str_fini(&text);
    return s;
}

static qn_status check_room(const map_reduce *m, const mr_round *r, qn_err *err)
{
    qn_engine_info info;
    qn_engine_get_info(m->e, &info);
    size_t answer = (size_t)m->params.max_tokens, room = (size_t)info.max_ctx, n = 0;
    for (size_t i = 0; i < r->n; i++) {
        QN_TRY(mr_count(m, r, i, &n, err));
        if (n >= room || room - n < answer)
            return qn_fail(err, QN_E_TOO_LONG,
                           "the prompt of part %zu of %zu: found %zu tokens, and %zu for the "
                           "answer, wanted at most the %zu of the context together (--max-tokens "
                           "makes parts smaller, --max-ctx the context larger)",
                           i + 1, r->n, n, answer, room);
    }
    return QN_OK;
}

/* ---- a round ---- */

static void wake(void *arg)
{
    (void)arg;
    run_wake();
}

static qn_status submit(const map_reduce *m, const mr_round *r, size_t i, qn_request **out,
                        qn_err *err)
{
    qn_str text = {0};
    qn_prompt prompt;
    qn_params params = m->params;
    params.notify = wake;
    qn_status s = make_prompt(m, r, i, &text, &prompt, err);
    if (s == QN_OK)
        s = qn_request_submit(out, m->e, &prompt, &params, err);
    qn_str_fini(&text);
    return s;
}

/* All that request i has now. Freed when it is done. */
static qn_status take(map_reduce *m, const mr_round *r, size_t i, qn_request **q, bool *moved,
                      qn_err *err)
{
    mr_answer *a = &r->answers[i];
    for (bool got = true; *q;) {
        qn_event ev;
        QN_TRY(qn_request_poll(*q, &ev, &got, err));
        if (!got)
            break;
        *moved = true;
        if (ev.kind == QN_EVENT_TOKEN) {
            qn_str_add(&a->text, ev.text ? ev.text : "", ev.n_text);
            if (a->text.failed)
                return qn_fail_nomem(err, a->text.n);
            a->finish = ev.finish != QN_FINISH_NONE ? ev.finish : a->finish;
            if (r->is_streamed && ev.n_text) {
                cmd_progress_end(&m->bar);
                m->on_text(m->arg, ev.text, ev.n_text);
            }
            continue;
        }
        a->n_prompt = ev.n_prompt_tokens;
        a->n_output = ev.n_output_tokens;
        a->is_whole = true;
        m->n_prompt += a->n_prompt;
        m->n_output += a->n_output;
        m->n_cut += a->finish == QN_FINISH_LENGTH;
        m->n_answers++;
        qn_request_free(*q);
        *q = NULL;
    }
    return QN_OK;
}

static void show_bar(map_reduce *m, const mr_round *r, size_t n_shown)
{
    char detail[64];
    double all = (double)(m->n_answers + m->n_expect);
    if (r->is_streamed && r->answers[0].text.n)
        return; /* it would stand in the text */
    (void)snprintf(detail, sizeof detail, "%zu of %zu", n_shown, r->n);
    cmd_progress_show(&m->bar, r->level ? "reducing" : "reading",
                      all > 0 ? (double)m->n_answers / all : 0, detail);
}

static qn_status run_round(map_reduce *m, mr_round *r, qn_request **live, qn_err *err)
{
    size_t n_begun = 0, n_shown = 0, n_before = m->n_answers, n_expect = m->n_expect;
    while (n_shown < r->n) {
        bool moved = false;
        if (run_take_interrupt())
            return qn_fail(err, QN_E_CANCELLED, "interrupted");
        for (; n_begun < r->n && n_begun - (m->n_answers - n_before) < m->n_seats; n_begun++)
            QN_TRY(submit(m, r, n_begun, &live[n_begun], err));
        for (size_t i = n_shown; i < n_begun; i++) {
            qn_status s = take(m, r, i, &live[i], &moved, err);
            if (s != QN_OK)
                return qn_wrap(err, s, "part %zu of %zu", i + 1, r->n);
        }
        m->n_expect = n_expect - QN_MIN(m->n_answers - n_before, n_expect);
        for (; n_shown < r->n && r->answers[n_shown].is_whole; n_shown++) {
            cmd_progress_end(&m->bar);
            m->on_answer(m->arg, r, n_shown);
        }
        show_bar(m, r, m->n_answers - n_before);
        struct pollfd p = {.fd = run_wake_fd(), .events = POLLIN};
        if (!moved && n_shown < r->n && poll(&p, 1, BAR_MS) < 0 && errno != EINTR)
            return qn_fail(err, QN_E_IO, "cannot wait: %s", strerror(errno));
    }
    return QN_OK;
}

qn_status mr_ask(map_reduce *m, mr_round *r, qn_err *err)
{
    QN_TRY(check_room(m, r, err));
    qn_request **live = qn_calloc(r->n, sizeof *live, QN_MEM_MISC);
    if (!live)
        return qn_fail_nomem(err, r->n * sizeof *live);
    qn_status s = run_round(m, r, live, err);
    for (size_t i = 0; s != QN_OK && i < r->n; i++) /* all at once, not one after the other */
        if (live[i])
            qn_request_cancel(live[i]);
    for (size_t i = 0; i < r->n; i++)
        qn_request_free(live[i]);
    qn_free(live);
    cmd_progress_end(&m->bar);
    return s;
}

/* ---- reducing ---- */

/* What a reasoning model thought is not handed on. */
static qn_slice after_thoughts(const mr_answer *a)
{
    static const char mark[] = "</think>";
    qn_slice s = {a->text.p ? a->text.p : "", a->text.n};
    for (const char *p; (p = memmem(s.p, s.n, mark, sizeof mark - 1)) != NULL;) {
        p += sizeof mark - 1;
        s = (qn_slice){p, s.n - (size_t)(p - s.p)};
    }
    while (s.n && (s.p[0] == '\n' || s.p[0] == ' '))
        s = (qn_slice){s.p + 1, s.n - 1};
    return s;
}

/* Appends the answers from `first` on that max_tokens hold together, two at least, so that there are fewer in the end. */
static qn_status join(const map_reduce *m, const mr_answer *answers, size_t first, size_t all,
                      size_t max_tokens, qn_str *out, size_t *n, qn_err *err)
{
    size_t sum = 0;
    for (*n = 0; first + *n < all; ++*n) {
        qn_slice text = after_thoughts(&answers[first + *n]);
        int32_t *ids = NULL;
        size_t n_ids = 0;
        QN_TRY(qn_tokenize(m->e, text.p, text.n, false, &ids, &n_ids, err));
        qn_release(ids);
        sum += n_ids;
        if (sum > max_tokens && *n > 1)
            break;
        qn_str_addf(out, "%s[%zu/%zu]\n", *n ? "\n\n" : "", first + *n + 1, all);
        qn_str_add(out, text.p, text.n);
    }
    return out->failed ? qn_fail_nomem(err, out->n) : QN_OK;
}

/* One level: r->n answers, the first at r->answers, of n. */
static qn_status reduce_level(map_reduce *m, mr_round *r, size_t max_tokens,
                              const mr_answer *answers, size_t n, qn_err *err)
{
    qn_str *joined = qn_calloc(n, sizeof *joined, QN_MEM_MISC);
    qn_slice *texts = qn_calloc(n, sizeof *texts, QN_MEM_MISC);
    qn_status s = joined && texts ? QN_OK : qn_fail_nomem(err, n * sizeof *joined);
    for (size_t first = 0, k = 0; s == QN_OK && first < n; first += k, r->n++) {
        s = join(m, answers, first, n, max_tokens, &joined[r->n], &k, err);
        texts[r->n] = (qn_slice){joined[r->n].p, joined[r->n].n};
    }
    if (s == QN_OK && !(r->answers = qn_calloc(r->n, sizeof *r->answers, QN_MEM_MISC)))
        s = qn_fail_nomem(err, r->n * sizeof *r->answers);
    if (s == QN_OK) {
        r->texts = texts;
        r->is_streamed = r->n == 1;
        m->n_expect = r->n;
        s = mr_ask(m, r, err);
    }
    for (size_t i = 0; joined && i < n; i++)
        qn_str_fini(&joined[i]);
    qn_free(joined);
    qn_free(texts);
    return s;
}

qn_status mr_reduce(map_reduce *m, const char *prompt, size_t max_tokens, const mr_answer *answers,
                    size_t n, mr_answer *out, qn_err *err)
{
    mr_round r = {0}, last = {0};
    qn_status s = QN_OK;
    do {
        last = r;
        r = (mr_round){.prompt = prompt, .level = last.level + 1};
        s = reduce_level(m, &r, max_tokens, last.answers ? last.answers : answers,
                         last.answers ? last.n : n, err);
        mr_answers_free(last.answers, last.n);
    } while (s == QN_OK && r.n > 1);
    if (s == QN_OK) {
        *out = r.answers[0];
        r.answers[0] = (mr_answer){0};
    }
    mr_answers_free(r.answers, r.n);
    return s;
}
