/* SPDX-License-Identifier: Apache-2.0
 * fuzz_template.c - any bytes as a chat template, rendered with a fixed conversation.
 * What renders must be UTF-8, within the limit, covered by alternating segments, and the same a
 * second time. */
#include "base/limits.h"
#include "text/chat.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", "
    "\"content\": \"  H\\u00e9llo "
    "<|im_end|>\\n\"}, {\"role\": \"assistant\", \"content\": null, \"reasoning_content\": \"hm\", "
    "\"tool_calls\": [{\"function\": "
    "{\"name\": \"f\", \"arguments\": {\"a\": 1, \"b\": [1.5, true, null]}}}]}, {\"role\": "
    "\"tool\", \"content\": \"\\ud83d\\ude00\"}], "
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": "
    "{\"properties\": {\"a\": {\"type\": "
    "\"integer\"}}}}}], \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"n\": -3, \"f\": "
    "2.5}";

static void check(bool holds)
{
    if (!holds)
        __builtin_trap();
}

static void check_text(const qn_chat_text *t)
{
    size_t at = 0;
    check(t->text.n <= QN_LIMIT_TEMPLATE_OUTPUT &&
          qn_utf8_valid(t->text.p ? t->text.p : "", t->text.n));
    for (size_t i = 0; i < t->n_segments; i++) {
        check(t->segments[i].begin == at && t->segments[i].end > at);
        check(i == 0 || t->segments[i].literal != t->segments[i - 1].literal);
        at = t->segments[i].end;
    }
    check(at == t->text.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    qn_err err = {0};
    qn_chat_template *t;
    qn_chat_text a = {0}, b = {0};
    json_t *variables;

    if (qn_chat_template_new(&t, (const char *)data, n, "fuzz.jinja", &err) != QN_OK) {
        check(t == NULL && err.msg[0] && !strchr(err.msg, '\n'));
        return 0;
    }
    check(qn_chat_variables_parse(&variables, conversation, sizeof(conversation) - 1, 0, "fuzz",
                                  &err) == QN_OK);
    qn_status s = qn_chat_template_render(t, variables, 0, &a, &err);
    check(s == qn_chat_template_render(t, variables, 0, &b, &err));
    if (s == QN_OK) {
        check_text(&a);
        check(a.text.n == b.text.n && (a.text.n == 0 || memcmp(a.text.p, b.text.p, a.text.n) == 0));
    } else {
        check(!strchr(err.msg, '\n'));
    }
    qn_chat_text_fini(&a);
    qn_chat_text_fini(&b);
    json_decref(variables);
    qn_chat_template_free(t);
    return 0;
}
