/* SPDX-License-Identifier: Apache-2.0
 * cmd.h - what the commands share: the table's entries, messages, progress, finding a model, reading input.
 *
 * Exit status of every command: 0 done; 1 failed, with one line on stderr; 2 wrong usage; 74 a model file changed under us
 * (qn_file_guard); 130 interrupted. Only this room prints. A new command: its file, its two lines here, its line in main.c's
 * table, its man page. Threads: main. */
#ifndef QN_CMD_CMD_H
#define QN_CMD_CMD_H

#include "base/file.h"
#include "base/opts.h"
#include "text/chat.h"

enum { CMD_OK = 0, CMD_FAILED = 1, CMD_USAGE = 2, CMD_INTERRUPTED = 130 };

/* argv[0] is the command's name; the result is the exit status. */
int cmd_run(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_template(int argc, char **argv);
int cmd_segment(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_profile(int argc, char **argv);
int cmd_pull(int argc, char **argv);
int cmd_pack(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_tune(int argc, char **argv);
int cmd_load(int argc, char **argv);
int cmd_limits(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_completion(int argc, char **argv);
extern const qn_opts cmd_run_opts, cmd_serve_opts, cmd_inspect_opts, cmd_tokenize_opts,
    cmd_template_opts, cmd_segment_opts, cmd_eval_opts, cmd_bench_opts, cmd_profile_opts,
    cmd_pull_opts, cmd_pack_opts, cmd_plan_opts, cmd_doctor_opts, cmd_tune_opts, cmd_load_opts,
    cmd_limits_opts, cmd_top_opts, cmd_completion_opts;

/* -m, --threads, --exact, ...: fields of a qn_config (qn_config_default() first). */
extern const qn_opt_group cmd_config_group;
extern const qn_opt_group cmd_engine_group; /* the same without -m */

/* Parses into dest. -1: go on; else the exit status, after the help (0) or a usage error (2). */
int cmd_parse(const qn_opts *o, void *dest, int argc, char **argv, qn_opts_found *found);
/* "quern COMMAND: ..." in one line; returns CMD_USAGE. */
int cmd_usage(const qn_opts *o, const char *fmt, ...) QN_PRINTF(2, 3);
/* "quern: ..." in one line; returns CMD_FAILED. */
int cmd_fail(const qn_err *err);

/* A path as given; or OWNER/NAME[:FILE] in the hub's cache. */
QN_MUST_USE qn_status cmd_model_find(qn_str *path, const char *model, qn_err *err);

/* Bytes in memory: of an engine with a full cache and full steps. */
typedef struct cmd_memory {
    char name[128], type[24];
    int max_ctx;
    uint64_t weights, kv, activations, other, total;
} cmd_memory;
QN_MUST_USE qn_status cmd_memory_plan(cmd_memory *out, const qn_config *config, qn_err *err);

/* What quern tune found best on this machine, for the fields that are 0. */
void cmd_tuned(qn_config *c);

/* A model's text part: tokenizer and whatever the template comes from. */
typedef struct cmd_text {
    qn_weights *weights; /* NULL for a bare tokenizer.json */
    qn_tokenizer *tokenizer;
} cmd_text;
/* model: as cmd_model_find, or a tokenizer.json. Weights are mapped, not read. */
QN_MUST_USE qn_status cmd_text_open(cmd_text *out, const char *model, qn_err *err);
void cmd_text_close(cmd_text *t);

/* Appends a file, or standard input for NULL and "-". */
QN_MUST_USE qn_status cmd_read(qn_str *out, const char *path, qn_err *err);
/* Appends the first key of a file as quern serve takes it (base/keys.h). */
QN_MUST_USE qn_status cmd_read_key(qn_str *key, const char *path, qn_err *err);
bool cmd_is_stdin(const char *path);
/* Appends text without control bytes other than newline and tab: for terminals. */
void cmd_add_clean(qn_str *out, const char *text, size_t n);
/* On standard output; on a terminal without control bytes, elsewhere as it is. */
void cmd_print_text(const char *text, size_t n);

/* A bar on stderr for what takes more than two seconds; silent where stderr is no terminal. */
typedef struct cmd_progress {
    uint64_t start_ns, last_ns;
    bool is_shown;
} cmd_progress;
/* done: 0..1, below 0 unknown. detail: shown behind the bar ("12 of 400 MB"); NULL: none. */
void cmd_progress_show(cmd_progress *p, const char *what, double done, const char *detail);
void cmd_progress_end(cmd_progress *p); /* wipes the bar */
/* For qn_config.progress; arg is a cmd_progress. */
void cmd_progress_load(void *arg, const char *what, double done);

/* , "experts": {...}: where they were found. */
void cmd_add_experts_json(qn_str *out, const qn_expert_info *x);

#endif
