/* SPDX-License-Identifier: Apache-2.0
 * answer.h - what has come of an answer: text, tokens and end of each candidate, and the counts.
 *
 *   prompt       0                1
 *   candidate    0  1 .. n-1      0  1 .. n-1       parts[prompt * n + candidate]
 *
 * With a style (reply.h) each is taken apart as it comes: `text` is then what is meant for the user, beside it stand `reasoning` and
 * `calls`; items say in which order they came. What the last event added is in deltas[], in that order too:
 *
 *   items    [0 REASONING 0..40] [1 TEXT 0..9] [2 CALL 0] [3 CALL 1]       ranges of reasoning and text; numbers of calls
 *   deltas   {item 1, "I loo"} {item 2, call} {item 2, "{\"a\""}            one event
 *
 * Threads: made on a worker, filled and read on the I/O thread. */
#ifndef QN_SERVER_ANSWER_H
#define QN_SERVER_ANSWER_H

#include "server/exchange.h"
#include "server/reply.h"

/* PREFIX and 24 random hex digits. */
#define QN_ANSWER_ID 40
void qn_answer_make_id(char out[QN_ANSWER_ID], const char *prefix);

typedef struct qn_answer_call {
    char id[QN_ANSWER_ID];
    qn_str name, arguments; /* text; JSON as the model wrote it */
    bool is_whole;          /* its object has ended */
} qn_answer_call;

typedef struct qn_answer_item {
    qn_reply_kind kind; /* CONTENT, REASONING, CALL */
    size_t begin, end;  /* of text or reasoning */
    size_t call;
} qn_answer_item;

typedef struct qn_answer_delta {
    qn_reply_kind kind; /* CONTENT, REASONING, CALL, ARGUMENTS, CALL_END */
    size_t item;
    size_t begin, n; /* in the string that grew */
} qn_answer_delta;

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
    qn_reply *reply;  /* NULL: not taken apart */
    qn_str reasoning;
    qn_answer_call *calls;
    qn_answer_item *items;
    size_t n_calls, calls_cap, n_items, items_cap;
    int n_reasoning; /* tokens */
} qn_answer_part;

/* Of one prompt, with all its candidates; known at its end. */
typedef struct qn_answer_usage {
    int n_prompt, n_cached, n_output;
    int n_reasoning; /* of n_output; of a sum only */
    double queue_ms, prefill_ms, decode_ms;
    qn_miss miss;
} qn_answer_usage;

typedef struct qn_answer {
    const qn_reply_style *style; /* borrowed; NULL: answers are text */
    const char *call_prefix;     /* of calls' ids */
    bool
        is_stream; /* what was told stays as it was told: a tag of thoughts that comes too late ends nothing */
    const char *const *stop; /* borrowed */
    size_t n_stop, n_prompts;
    int n; /* candidates of each prompt */
    qn_answer_part *parts;
    qn_answer_usage *usage;  /* [n_prompts] */
    qn_answer_delta *deltas; /* of the last event */
    size_t n_deltas, deltas_cap;
    qn_answer_part *at; /* whose event it is */
    bool failed;        /* out of memory: no longer whole */
    qn_str out;         /* what the API is writing */
} qn_answer;

/* Zero-initialised before, but for style, call_prefix and is_stream; ended by fini, whatever the result. */
QN_MUST_USE qn_status qn_answer_init(qn_answer *a, size_t n_prompts, const qn_params *params,
                                     qn_err *err);
void qn_answer_fini(qn_answer *a);
/* Takes an event of prompt `i`; gives the candidate's part, NULL for DONE. */
qn_answer_part *qn_answer_add(qn_answer *a, size_t i, const qn_event *ev);
qn_answer_usage qn_answer_sum(const qn_answer *a);
/* Valid until the next event. */
qn_slice qn_answer_delta_text(const qn_answer_part *p, const qn_answer_delta *d);
/* Item i; of an answer of nothing an empty text. */
const qn_answer_item *qn_answer_item_at(const qn_answer_part *p, size_t i);
/* Its text, reasoning or arguments, as far as they are known. Valid until the next event. */
qn_slice qn_answer_item_text(const qn_answer_part *p, const qn_answer_item *item);
/* Its arguments are a JSON object; others (cut off, malformed) are no calls where APIs give an object. */
bool qn_answer_call_is_sound(const qn_answer_call *c);
/* For a qn_answer_api whose arg begins with a qn_answer: gathers, and writes nothing; ends it. */
void qn_answer_event(qn_exchange *x, void *arg, size_t i, const qn_event *ev);
void qn_answer_free(void *arg);
/* Worker: begins such an answer and submits its prompts, as qn_x_generate; on failure nothing is left of it. Closes params->grammar
 * in any case: the request has it. */
QN_MUST_USE qn_status qn_answer_start(qn_exchange *x, const qn_answer_api *api, void *arg,
                                      qn_engine *e, const qn_prompt *prompts, size_t n_prompts,
                                      const qn_params *params, qn_err *err);

/* ---- JSON that several APIs have ---- */

void qn_answer_add_ids(qn_str *out, const int32_t *ids, size_t n);
/* One that is read back as the same float; -9999 for -infinity, 0 for what else is not finite. */
void qn_answer_add_float(qn_str *out, float v);
void qn_answer_add_finish(qn_str *out, qn_finish f);      /* "stop", "length", null */
void qn_answer_add_text(qn_str *out, const qn_str *text); /* a JSON string */
/* OpenAI's: "usage":{...} */
void qn_answer_add_usage(qn_str *out, const qn_answer_usage *u);

#endif
