/* SPDX-License-Identifier: Apache-2.0
 * answer.h - what has come of an answer: text, tokens and end of each candidate, and the counts.
 *
 *   prompt       0                1
 *   candidate    0  1 .. n-1      0  1 .. n-1       parts[prompt * n + candidate]
 *
 * Threads: made on a worker, filled and read on the I/O thread. */
#ifndef QN_SERVER_ANSWER_H
#define QN_SERVER_ANSWER_H

#include "server/exchange.h"

typedef struct qn_answer_token {
    float logprob; /* NaN: not asked for */
    uint32_t end;  /* bytes of the text so far; what is held back comes with a later token */
} qn_answer_token;

typedef struct qn_answer_part {
    qn_str text;
    int32_t *ids;
    qn_answer_token *tokens;
    size_t n_ids, ids_cap, tokens_cap;
    qn_finish finish;
    const char *stop; /* the stop string that ended it; NULL: none did */
    float score;      /* at its end */
} qn_answer_part;

/* Of one prompt, with all its candidates; known at its end. */
typedef struct qn_answer_usage {
    int n_prompt, n_cached, n_output;
    double queue_ms, prefill_ms, decode_ms;
    qn_miss miss;
} qn_answer_usage;

typedef struct qn_answer {
    const char *const *stop; /* borrowed */
    size_t n_stop, n_prompts;
    int n; /* candidates of each prompt */
    qn_answer_part *parts;
    qn_answer_usage *usage; /* [n_prompts] */
    bool failed;            /* out of memory: no longer whole */
    qn_str out;             /* what the API is writing */
} qn_answer;

/* Zero-initialised before; ended by fini, whatever the result. */
QN_MUST_USE qn_status qn_answer_init(qn_answer *a, size_t n_prompts, const qn_params *params,
                                     qn_err *err);
void qn_answer_fini(qn_answer *a);
/* Takes an event of prompt `i`; gives the candidate's part, NULL for DONE. */
qn_answer_part *qn_answer_add(qn_answer *a, size_t i, const qn_event *ev);
qn_answer_usage qn_answer_sum(const qn_answer *a);
/* For a qn_answer_api whose arg begins with a qn_answer: gathers, and writes nothing; ends it. */
void qn_answer_event(qn_exchange *x, void *arg, size_t i, const qn_event *ev);
void qn_answer_free(void *arg);
/* Worker: begins such an answer and submits its prompts, as qn_x_generate; on failure nothing is left of it. */
QN_MUST_USE qn_status qn_answer_start(qn_exchange *x, const qn_answer_api *api, void *arg,
                                      qn_engine *e, const qn_prompt *prompts, size_t n_prompts,
                                      const qn_params *params, qn_err *err);

/* ---- JSON that several APIs have ---- */

void qn_answer_add_ids(qn_str *out, const int32_t *ids, size_t n);
/* One that is read back as the same float; -9999 for -infinity, 0 for what else is not finite. */
void qn_answer_add_float(qn_str *out, float v);
void qn_answer_add_finish(qn_str *out, qn_finish f); /* "stop", "length", null */
/* OpenAI's: "usage":{...} */
void qn_answer_add_usage(qn_str *out, const qn_answer_usage *u);

/* PREFIX and 24 random hex digits. */
#define QN_ANSWER_ID 40
void qn_answer_make_id(char out[QN_ANSWER_ID], const char *prefix);

#endif
