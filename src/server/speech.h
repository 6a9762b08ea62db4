/* SPDX-License-Identifier: Apache-2.0
 * speech.h - how a model writes thoughts and tool calls: its chat template says so, whatever it is called.
 * Threads: pure. */
#ifndef QN_SERVER_SPEECH_H
#define QN_SERVER_SPEECH_H

#include "server/reply.h"
#include <quern/quern.h>

typedef struct qn_speech {
    bool thinks;      /* knows <think> */
    bool is_switched; /* ... and can be told not to, by enable_thinking */
    bool has_tools;   /* tells the model of tools */
    bool is_xml; /* calls are <function=name>, else JSON: also where the template knows no calls */
} qn_speech;

qn_speech qn_speech_of(const char *chat_template); /* NULL: there is none */
/* Where the answer begins: what is open at the prompt's end. */
QN_MUST_USE qn_status qn_speech_begin(const qn_speech *s, const qn_engine *e, const int32_t *ids,
                                      size_t n_ids, qn_reply_begin *out, qn_err *err);

#endif
