/* SPDX-License-Identifier: Apache-2.0
 * cmd_run.h - `quern run`: what answering once (cmd_run.c), the chat (cmd_chat.c) and `quern segment` share. Of the engine they
 * know quern.h only.
 * Threads: main; the interrupt handler may run on any. */
#ifndef QN_CMD_CMD_RUN_H
#define QN_CMD_CMD_RUN_H

#include "base/limits.h"
#include "cmd/cmd.h"

typedef struct run_options {
    qn_config cfg;
    qn_params params;
    qn_opt_list stop, stop_ids, logit_bias, vars;
    const char *system;
    bool raw, special, json, quiet;
    /* the form of the answer: at most one of them */
    bool json_object;
    const char *schema, *regex, *grammar;
    qn_opt_list choices;
} run_options;

typedef struct run_answer {
    qn_str text[QN_LIMIT_CANDIDATES];
    qn_finish finish[QN_LIMIT_CANDIDATES];
    float score[QN_LIMIT_CANDIDATES];
    int n;
    qn_event done;    /* counts and times */
    double first_ms;  /* submit to first token */
    bool has_experts; /* some may be on disk: what this answer used */
    qn_expert_info experts;
} run_answer;
void run_answer_fini(run_answer *a);
const char *run_finish_name(qn_finish f); /* "length"; static */

/* NAME=VALUE each. -1: good; else the exit status, after a usage error. */
int run_check_vars(const qn_opts *command, const qn_opt_list *vars);

/* Submits, prints as the options say, and waits for the end. Cancelled by Ctrl-C: QN_OK with QN_FINISH_CANCELLED. */
QN_MUST_USE qn_status run_ask(const run_options *o, qn_engine *e, const qn_params *params,
                              const qn_prompt *prompt, run_answer *out, qn_err *err);

/* From now on Ctrl-C cancels what is being answered and sets a flag instead of ending the program. Signals may come on any
 * thread, so a wait that must end with one also watches run_wake_fd() for reading. */
QN_MUST_USE qn_status run_catch_interrupt(qn_err *err);
bool run_take_interrupt(void); /* the flag, which is cleared, as is the wake */
int run_wake_fd(void);
void run_wake(void); /* safe in a signal handler */

/* A conversation as the JSON that a chat template wants. */
typedef struct run_turn {
    const char *role;
    char *content; /* owned by the list's user */
    size_t n;
} run_turn;
void run_add_chat_json(qn_str *out, const run_options *o, const char *system, const run_turn *turns,
                       size_t n);

/* The chat in the terminal; the result is the exit status. */
int run_chat(const run_options *o, qn_engine *e, const qn_params *params, bool raw);

#endif
