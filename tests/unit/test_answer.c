/* SPDX-License-Identifier: Apache-2.0
 * test_answer.c - events gathered into parts and sums, without an engine. */
#include "check.h"
#include "failing.h"

#include "server/answer.h"
#include <limits.h>
#include <math.h>
#include <string.h>

static qn_event token(int index, int32_t id, const char *text)
{
    return (qn_event){.kind = QN_EVENT_TOKEN,
                      .index = index,
                      .token_id = id,
                      .text = text,
                      .n_text = strlen(text)};
}

static void test_gathers(void **state)
{
    (void)state;
    static const char *const stop[] = {"END", "x"};
    qn_params p = {.n = 2, .stop = stop, .n_stop = 2};
    qn_answer a = {0};
    char copy[] = "x"; /* the engine's own */
    assert_int_equal(qn_answer_init(&a, 2, &p, NULL), QN_OK);
    qn_event ev = token(1, 7, "he");
    qn_logprob lp = {.token_id = 7, .logprob = -0.5f};
    ev.logprobs = &lp;
    ev.n_logprobs = 1;
    qn_answer_part *part = qn_answer_add(&a, 1, &ev);
    assert_ptr_equal(part, &a.parts[3]);
    ev = token(1, 8, "llo");
    ev.finish = QN_FINISH_STOP;
    ev.stop = copy;
    (void)qn_answer_add(&a, 1, &ev);
    assert_string_equal(part->text.p, "hello");
    assert_int_equal(part->n_ids, 2);
    assert_int_equal(part->ids[1], 8);
    assert_int_equal(part->tokens[0].end, 2);
    assert_int_equal(part->tokens[1].end, 5);
    assert_true(part->tokens[0].logprob == -0.5f && isnan(part->tokens[1].logprob));
    assert_int_equal(part->finish, QN_FINISH_STOP);
    assert_ptr_equal(part->stop, stop[1]);
    assert_null(a.parts[0].text.p);
    for (size_t i = 0; i < 2; i++) {
        ev = (qn_event){.kind = QN_EVENT_DONE,
                        .n_prompt_tokens = 3,
                        .n_output_tokens = 4,
                        .n_cached_tokens = 1,
                        .decode_ms = (double)i};
        assert_null(qn_answer_add(&a, i, &ev));
    }
    qn_answer_usage sum = qn_answer_sum(&a);
    assert_int_equal(sum.n_prompt, 6);
    assert_int_equal(sum.n_output, 8);
    assert_int_equal(sum.n_cached, 2);
    assert_true(sum.decode_ms == 1);
    assert_false(a.failed);
    qn_answer_fini(&a);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), 0);
}

static void test_ids_differ(void **state)
{
    (void)state;
    char one[QN_ANSWER_ID], other[QN_ANSWER_ID];
    qn_answer_make_id(one, "resp_");
    qn_answer_make_id(other, "resp_");
    assert_int_equal(strlen(one), 5 + 24);
    assert_memory_equal(one, "resp_", 5);
    assert_string_not_equal(one, other);
}

/* An answer that is taken apart, without memory from some allocation on: nothing is told that was not kept. */
static bool answer_calls(bool *failed)
{
    static const char text[] =
        "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n"
        "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
    qn_reply_style style = {.has_calls = true};
    qn_params p = {.n = 1};
    qn_answer a = {.style = &style};
    bool is_begun = qn_answer_init(&a, 1, &p, NULL) == QN_OK;
    for (size_t i = 0, n; is_begun && text[i]; i += n) {
        n = QN_MIN(sizeof text - 1 - i, (size_t)40);
        qn_event ev = {.kind = QN_EVENT_TOKEN, .text = text + i, .n_text = n};
        ev.finish = text[i + n] ? QN_FINISH_NONE : QN_FINISH_STOP;
        const qn_answer_part *part = qn_answer_add(&a, 0, &ev);
        for (size_t k = 0; k < a.n_deltas; k++) {
            qn_slice s = qn_answer_delta_text(part, &a.deltas[k]);
            assert_true(strlen(s.p) >= s.n);
        }
        for (size_t k = 0; k < part->n_items; k++)
            assert_true(part->items[k].kind != QN_REPLY_CALL ||
                        part->items[k].call < part->n_calls);
    }
    bool is_whole = is_begun && a.parts->n_calls == 2 && a.parts->calls[1].is_whole;
    *failed = !is_begun || a.failed;
    qn_answer_fini(&a);
    return is_whole;
}

static void test_memory_fails(void **state)
{
    (void)state;
    bool failed;
    stays_failed = true;
    fail_at = LONG_MAX;
    n_calls = 0;
    assert_true(answer_calls(&failed));
    assert_false(failed);
    for (long at = 1, n = n_calls; at <= n; at++) {
        fail_at = at;
        n_calls = 0;
        (void)answer_calls(&failed);
        assert_true(failed);
        assert_int_equal(qn_mem_live(QN_MEM_REQUEST), 0);
    }
    fail_at = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gathers),
                                       cmocka_unit_test(test_ids_differ),
                                       cmocka_unit_test(test_memory_fails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
