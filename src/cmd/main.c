/* SPDX-License-Identifier: Apache-2.0
 * main.c - the program's front door: the table of commands. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cmd/cmd.h"

typedef struct command {
    const qn_opts *opts;
    int (*run)(int argc, char **argv);
} command;

static const command commands[] = {
    /* clang-format off */
    {&cmd_run_opts, cmd_run},
    {&cmd_serve_opts, cmd_serve},
    {&cmd_pull_opts, cmd_pull},
    {&cmd_inspect_opts, cmd_inspect},
    {&cmd_tokenize_opts, cmd_tokenize},
    {&cmd_template_opts, cmd_template},
    {&cmd_segment_opts, cmd_segment},
    {&cmd_eval_opts, cmd_eval},
    {&cmd_bench_opts, cmd_bench},
    {&cmd_load_opts, cmd_load},
    {&cmd_profile_opts, cmd_profile},
    {&cmd_pack_opts, cmd_pack},
    {&cmd_plan_opts, cmd_plan},
    {&cmd_doctor_opts, cmd_doctor},
    {&cmd_tune_opts, cmd_tune},
    {&cmd_top_opts, cmd_top},
    {&cmd_limits_opts, cmd_limits},
    {&cmd_completion_opts, cmd_completion},
    /* clang-format on */
};

static const command *find(const char *name)
{
    for (size_t i = 0; i < QN_COUNT(commands); i++)
        if (strcmp(commands[i].opts->command, name) == 0)
            return &commands[i];
    return NULL;
}

static int usage_of(FILE *f)
{
    fputs("usage: quern COMMAND [OPTION...]\n\nQuern runs Qwen models on this machine.\n\n", f);
    for (size_t i = 0; i < QN_COUNT(commands); i++)
        fprintf(f, "  %-12s %s\n", commands[i].opts->command, commands[i].opts->summary);
    fputs("\n  quern COMMAND --help, or quern help COMMAND, shows its options; quern --version the "
          "version.\n"
          "  exit status: 0 done, 1 failed, 2 wrong usage, 74 a model file changed while mapped, "
          "130 interrupted\n",
          f);
    return f == stderr ? CMD_USAGE : CMD_OK;
}

static int unknown(const char *name)
{
    char shown[80];
    const char *best = NULL;
    size_t least = 3; /* more edits than this is another word */

    for (size_t i = 0; i < QN_COUNT(commands); i++) {
        size_t d = qn_opts_distance(commands[i].opts->command, name);
        if (d < least) {
            least = d;
            best = commands[i].opts->command;
        }
    }
    qn_escape(shown, sizeof(shown), name, strlen(name));
    if (best)
        fprintf(stderr, "quern: unknown command '%s' (did you mean %s?); see quern --help\n", shown,
                best);
    else
        fprintf(stderr, "quern: unknown command '%s'; see quern --help\n", shown);
    return CMD_USAGE;
}

static int help(const char *name)
{
    char flag[] = "--help";
    const command *c = name ? find(name) : NULL;
    if (!name)
        return usage_of(stdout);
    return c ? c->run(2, (char *[]){(char *)(uintptr_t)c->opts->command, flag, NULL})
             : unknown(name);
}

const qn_opts cmd_completion_opts = {
    .command = "completion",
    .args = "bash|zsh|fish",
    .summary = "Print a completion script for a shell",
    .about =
        "bash: source <(quern completion bash)   zsh: put it into a folder of $fpath as _quern\n"
        "fish: quern completion fish > ~/.config/fish/completions/quern.fish",
    .max_args = 1,
};

int cmd_completion(int argc, char **argv)
{
    static const char *const shells[] = {
        [QN_SHELL_BASH] = "bash", [QN_SHELL_ZSH] = "zsh", [QN_SHELL_FISH] = "fish"};
    const qn_opts *all[QN_COUNT(commands)];
    qn_opts_found found;
    int rc = cmd_parse(&cmd_completion_opts, NULL, argc, argv, &found);

    if (rc < 0 && found.n_args == 0)
        rc = cmd_usage(&cmd_completion_opts, "found no shell, wanted bash, zsh or fish");
    for (size_t i = 0; i < QN_COUNT(commands); i++)
        all[i] = commands[i].opts;
    for (size_t i = 0; rc < 0 && i < QN_COUNT(shells); i++)
        if (strcmp(found.args[0], shells[i]) == 0) {
            qn_str text = {0};
            qn_err err;
            qn_opts_completion(&text, (qn_shell)i, "quern", all, QN_COUNT(commands));
            rc = CMD_OK;
            if (text.failed) {
                (void)qn_fail_nomem(&err, text.n);
                rc = cmd_fail(&err);
            } else
                fwrite(text.p, 1, text.n, stdout);
            qn_str_fini(&text);
        }
    if (rc < 0)
        rc = cmd_usage(&cmd_completion_opts, "found '%s', wanted bash, zsh or fish", found.args[0]);
    qn_opts_found_fini(&found);
    return rc;
}

int main(int argc, char **argv)
{
    int rc;

    qn_file_guard();
    (void)signal(SIGXFSZ, SIG_IGN); /* a write past the limit of a file's size fails */
    if (argc < 2)
        return usage_of(stderr);
    const char *name = argv[1];
    const command *c = find(name);
    if (c)
        rc = c->run(argc - 1, argv + 1);
    else if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
        rc = help(argc > 2 ? argv[2] : NULL);
    else if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
        rc = printf("quern %s\n", QN_VERSION) > 0 ? CMD_OK : CMD_FAILED;
    else
        rc = unknown(name);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        if (rc == CMD_OK)
            fputs("quern: standard output: cannot write\n", stderr);
        return rc == CMD_OK ? CMD_FAILED : rc;
    }
    return rc;
}
