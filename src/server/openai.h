/* SPDX-License-Identifier: Apache-2.0
 * openai.h - what OpenAI's endpoints share: how a request is read, and how its answer comes together.
 *
 *   worker:      open -> prompts as token ids -> [scores of the prompt] -> run
 *   I/O thread:  event -> choice: text, tokens, log-probabilities -> a chunk, or at the end one object
 *
 *   answer
 *     prompts[n_prompts]           ids, echoed text, scores
 *     choices[n_prompts * n]       prompt-major, as answer.parts; entries[n_entries][1 + n_top]
 *
 * An entry is a token's log-probability and those of the n_top best. Entries wait (from n_ready on) until the text of their token
 * is out, so that a stream never shows a token whose text a stop string cuts away.
 * Threads: as exchange.h; an answer belongs to the exchange's owner. */
#ifndef QN_SERVER_OPENAI_H
#define QN_SERVER_OPENAI_H

#include "server/answer.h"
#include "server/demand.h"
#include "server/exchange.h"
#include "server/sampling.h"

typedef struct qn_openai_prompt {
    int32_t *ids; /* qn_release */
    size_t n_ids;
    const char *echo; /* the body's, or `text`; NULL: not echoed */
    size_t n_echo;
    char *text;         /* qn_release */
    qn_logprob *scores; /* [n_ids][1 + n_top] of the prompt's own tokens; qn_free; NULL: none */
    uint32_t *ranks;    /* [n_ids] among all tokens, 1 the likeliest; qn_free */
    int n_top;
} qn_openai_prompt;

typedef struct qn_openai_choice {
    qn_logprob *entries;
    size_t n_entries, entries_cap; /* in entries */
    size_t n_ready;                /* those before it are to be shown */
    size_t n_shown;                /* and these were: a stream's */
    size_t owed;                   /* bytes of ready entries whose text is still held back */
    size_t n_chars;                /* of the entries shown: where the next one's text begins */
    size_t n_ids_shown;
} qn_openai_choice;

typedef struct qn_openai_answer qn_openai_answer;

/* What one choice adds to the answer, or to a chunk of it. */
typedef struct qn_openai_piece {
    const char *text;
    size_t n_text;
    const qn_answer_part *part;
    const qn_answer_delta
        *delta; /* a stream's, of an answer that is taken apart; text is its; NULL: content */
    size_t first, end; /* entries */
    bool is_whole;     /* the answer itself */
    bool is_start;     /* a stream's first of this choice */
    bool is_end;       /* a stream's last, with the finish reason only */
} qn_openai_piece;

/* How chat and completions differ. */
typedef struct qn_openai_shape {
    const char *id_prefix, *object, *chunk_object;
    const char *prompt_param; /* the field that holds the prompt */
    bool has_role;            /* a stream begins with the assistant's role */
    /* what of a choice stands between its index and finish_reason: ,"message":{...},"logprobs":... */
    void (*add_piece)(qn_str *out, const qn_openai_answer *a, qn_openai_choice *c,
                      const qn_openai_prompt *p, const qn_openai_piece *piece);
} qn_openai_shape;

struct qn_openai_answer {
    qn_answer answer; /* a part for each choice; out: a chunk */
    const qn_openai_shape *shape;
    qn_engine *engine;
    const json_t *body;
    const char *model; /* as served */
    char id[QN_ANSWER_ID];
    char fingerprint[48];
    uint64_t created;
    qn_params params;
    qn_demand demand;
    bool is_stream, include_usage, continuous_usage, return_ids;
    bool stops_shown; /* entries of end tokens too: who scores a prompt counts one for each token */
    int n_top;        /* -1: no log-probabilities */
    int n_prompt_top; /* the same of the prompt's tokens */
    int n_keep;       /* of params.n candidates the best; the answer's n */
    qn_openai_prompt *prompts;
    size_t n_prompts;
    qn_openai_choice *choices;
    qn_str *whole_stream; /* the chunks of a stream that is sent at once; NULL: each is written */
    size_t n_open;
    bool has_begun, has_failed;
    size_t held; /* the choice whose last chunk waits for the timings; SIZE_MAX: none */
};

/* ---- openai.c ---- */

/* A number to a thousandth; 0 where v is not finite. */
void qn_openai_add_number(qn_str *out, double v);
/* Fields whose effect this build does not have, and which would change the answer: QN_E_UNSUPPORTED. */
QN_MUST_USE qn_status qn_openai_refuse(const json_t *body, const char **param, qn_err *err);
/* NULL: it is answered. The model, what every generating endpoint has (stream, usage, sampling), and refusals. */
qn_openai_answer *qn_openai_open(qn_exchange *x, const json_t *body, const qn_openai_shape *shape);

/* ---- openai_answer.c ---- */

/* Makes room for n prompts, to be filled by the caller. */
QN_MUST_USE qn_status qn_openai_take_prompts(qn_exchange *x, qn_openai_answer *a, size_t n,
                                             qn_err *err);
/* Submits, and closes params.grammar; or answers, with max_tokens 0 or an error. The answer is freed. */
void qn_openai_run(qn_exchange *x, qn_openai_answer *a);
void qn_openai_answer_free(void *answer);
/* The entry i of c, and how many of it there are. */
const qn_logprob *qn_openai_entry(const qn_openai_answer *a, const qn_openai_choice *c, size_t i);

/* ---- openai_score.c ---- */

/* Log-probabilities of a prompt's tokens, each after those before it. */
QN_MUST_USE qn_status qn_openai_score(const qn_exchange *x, const qn_openai_answer *a,
                                      qn_openai_prompt *p, qn_err *err);
/* Before the first: whether all prompts together are not too much. */
QN_MUST_USE qn_status qn_openai_check_scores(const qn_openai_answer *a, qn_err *err);
/* Their log-probabilities in vLLM's shape: ,"prompt_logprobs":[...] */
void qn_openai_add_prompt_logprobs(qn_str *out, const qn_openai_answer *a,
                                   const qn_openai_prompt *p);
void qn_openai_embeddings(qn_exchange *x);
void qn_openai_rerank(qn_exchange *x);
void qn_openai_score_pairs(qn_exchange *x);

/* ---- openai_chat.c, openai_messages.c, openai_completions.c, openai_models.c ---- */

/* A request's messages, tools and template variables as the text of a JSON object for the chat template (qn_prompt.chat_json). */
QN_MUST_USE qn_status qn_openai_messages(const json_t *body, qn_str *out, const char **param,
                                         qn_err *err);
void qn_openai_chat(qn_exchange *x);
void qn_openai_completions(qn_exchange *x);
void qn_openai_models(qn_exchange *x);
void qn_openai_model(qn_exchange *x);

#endif
