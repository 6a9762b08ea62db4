/* SPDX-License-Identifier: Apache-2.0
 * speech.c - words of a template, and of a prompt's end. */
#include "server/speech.h"

#include <string.h>

#define TAIL                                                                                       \
    4096 /* tokens of a prompt that are looked at: an answer that goes on may have begun so far before */

qn_speech qn_speech_of(const char *chat_template)
{
    const char *t = chat_template ? chat_template : "";
    qn_speech s = {.thinks = strstr(t, "<think>") || strstr(t, "</think>")};
    s.is_switched = s.thinks && strstr(t, "enable_thinking");
    s.has_tools = strstr(t, "tools");
    s.is_xml = strstr(t, "<function=");
    return s;
}

/* Where the last one begins; 0: nowhere, else one more. */
static size_t find_last(const char *text, size_t n, const char *word)
{
    size_t m = strlen(word), i = n >= m ? n - m + 1 : 0;
    while (i && memcmp(text + i - 1, word, m) != 0)
        i--;
    return i;
}

qn_status qn_speech_begin(const qn_speech *s, const qn_engine *e, const int32_t *ids, size_t n_ids,
                          qn_reply_begin *out, qn_err *err)
{
    size_t n_tail = QN_MIN(n_ids, TAIL), n;
    char *text;
    *out = QN_REPLY_ANSWERS;
    if (!s->thinks)
        return QN_OK;
    QN_TRY(qn_detokenize(e, ids + n_ids - n_tail, n_tail, false, &text, &n, err));
    size_t turn = find_last(text, n, "<|im_start|>");
    size_t open = find_last(text, n, "<think>"), close = find_last(text, n, "</think>");
    if (open <= turn && close <= turn)
        *out = QN_REPLY_MAY_THINK;
    else if (open > close)
        *out = QN_REPLY_THINKS;
    qn_release(text);
    return QN_OK;
}
