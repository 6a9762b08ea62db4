/* SPDX-License-Identifier: Apache-2.0
 * map_reduce.h - a prompt over each of many texts, several at once, and another one over the answers until one is left.
 *
 *   texts    1  2  3  4  5  6  7
 *   map      a  a  a  a  a  a  a
 *   reduce   [--a--] [--a--]  a     as many are joined as max_tokens hold, two at least
 *            [------a------]  a
 *            [-------a--------]     the last one is streamed
 *
 * In a prompt {text}, {part} and {parts} stand for the text, its number and how many there are; without {text} the text comes
 * behind the prompt. Threads: main. */
#ifndef QN_CMD_MAP_REDUCE_H
#define QN_CMD_MAP_REDUCE_H

#include "cmd/cmd_run.h"

typedef struct mr_answer {
    qn_str text;
    qn_finish finish;
    int n_prompt, n_output;
    bool is_whole;
} mr_answer;
void mr_answers_free(mr_answer *a, size_t n); /* NULL allowed */

/* One prompt and its texts. */
typedef struct mr_round {
    const char *prompt;
    int level; /* 0: map */
    const qn_slice *texts;
    size_t n;
    mr_answer *answers; /* [n] */
    bool is_streamed;   /* on_text is told of the text as it comes; n is 1 */
} mr_round;

typedef struct map_reduce {
    const run_options *run; /* system, vars */
    qn_engine *e;
    qn_params params;
    bool raw;        /* no template */
    size_t n_seats;  /* requests at once */
    size_t n_expect; /* answers that are still to come, for the bar */
    void (*on_text)(void *arg, const char *text, size_t n);
    void (*on_answer)(void *arg, const mr_round *r, size_t i); /* in order */
    void *arg;
    /* of all rounds so far */
    size_t n_answers, n_cut; /* n_cut: ended by a limit */
    long long n_prompt, n_output;
    cmd_progress bar;
} map_reduce;

/* Asks for the answers of a round; run_catch_interrupt was called. Ctrl-C: QN_E_CANCELLED, and answers that were whole by then
 * are there. A prompt that leaves less than params.max_tokens of the context is QN_E_TOO_LONG before anything is computed. */
QN_MUST_USE qn_status mr_ask(map_reduce *m, mr_round *r, qn_err *err);
/* Reduces answers to one; always asks at least once. The last round is streamed. */
QN_MUST_USE qn_status mr_reduce(map_reduce *m, const char *prompt, size_t max_tokens,
                                const mr_answer *answers, size_t n, mr_answer *out, qn_err *err);

/* Tokens of the prompt over text i, template included. */
QN_MUST_USE qn_status mr_count(const map_reduce *m, const mr_round *r, size_t i, size_t *n,
                               qn_err *err);
/* Appends a prompt with its text put in; what is put in is not looked at again. */
void mr_add_prompt(qn_str *out, const char *prompt, qn_slice text, size_t part, size_t parts);

#endif
