/* SPDX-License-Identifier: Apache-2.0
 * opts.h - the option table: one array describes a command's options; the parser, --help and the
 * shell completions read it.
 *
 *   static const qn_opt model_opts[] = {
 *       {"model", 'm', QN_OPT_STR, offsetof(options, model), "MODEL", .help = "a GGUF file"},
 *       {"top-k", 0, QN_OPT_INT, offsetof(options, top_k), "N", 0, 1000000, "0", "keep the N
 *       best"},
 *   };
 *
 * GNU style: --x=v, --x v, -x v, -xv, grouped flags (-ab), options after operands, -- ends them.
 * --help and -h belong to every command. Nothing here prints or exits: failures are QN_E_ARG with
 * one line naming option, found and wanted.
 * Threads: pure functions. */
#ifndef QN_BASE_OPTS_H
#define QN_BASE_OPTS_H

#include "base/base.h"
#include "base/str.h"

typedef enum qn_opt_kind {
    QN_OPT_FLAG,  /* bool */
    QN_OPT_INT,   /* int */
    QN_OPT_UINT,  /* unsigned; decimal or 0x... */
    QN_OPT_U64,   /* uint64_t */
    QN_OPT_SIZE,  /* uint64_t, bytes; K, M, G */
    QN_OPT_FLOAT, /* float */
    QN_OPT_STR,   /* const char *, borrowed from argv */
    QN_OPT_LIST,  /* qn_opt_list: may be repeated */
    QN_OPT_INTS,  /* qn_opt_ints: "1,8,32"; each within min and max */
    QN_OPT_ENUM   /* int (or an enum): index of the word in `value`, "auto|always|never" */
} qn_opt_kind;

typedef struct qn_opt {
    const char *name; /* long name without dashes */
    char letter;      /* 0: none; 'h' is taken */
    qn_opt_kind kind;
    size_t at;         /* offset of the destination in the group's struct */
    const char *value; /* name of the value in the help; FILE, MODEL and FOLDER complete as files */
    double min, max;   /* of numbers; both 0: no limit. The ends are exact up to 2^53 */
    const char *def;   /* default as the help shows it; NULL: none */
    const char *help;
} qn_opt;

typedef struct qn_opt_list {
    const char **items; /* borrowed from argv */
    size_t n, cap;
} qn_opt_list;
void qn_opt_list_fini(qn_opt_list *l);

#define QN_OPT_MAX_INTS 16
typedef struct qn_opt_ints {
    int items[QN_OPT_MAX_INTS];
    size_t n;
} qn_opt_ints;

/* Options that several commands may share. At most 64. */
typedef struct qn_opt_group {
    const char *title;
    const qn_opt *opts;
    size_t n;
} qn_opt_group;

#define QN_OPTS_GROUPS 4

typedef struct qn_opts {
    const char *command; /* "run" */
    const char *args;    /* operands in the usage line: "[PROMPT]" */
    const char *summary; /* one line */
    const char *about;   /* further text of the help; NULL: none */
    int max_args;        /* operands allowed */
    struct {
        const qn_opt_group *group; /* NULL ends the list */
        size_t at;                 /* offset of the group's struct in the command's */
    } groups[QN_OPTS_GROUPS];
} qn_opts;

typedef struct qn_opts_found {
    bool help;                      /* --help was given: nothing else is checked */
    uint64_t given[QN_OPTS_GROUPS]; /* bit i: option i of that group was given */
    const char **args;              /* operands, borrowed from argv */
    size_t n_args;
} qn_opts_found;
void qn_opts_found_fini(qn_opts_found *f);

/* Reads argv[1..argc) into dest, which holds the defaults. On failure too, lists in dest and
 * `found` must be released. */
QN_MUST_USE qn_status qn_opts_parse(const qn_opts *o, void *dest, int argc, char **argv,
                                    qn_opts_found *found, qn_err *err);
/* Copies the options of g that are marked in `given` from one struct to another. */
void qn_opts_copy(const qn_opt_group *g, uint64_t given, const void *from, void *to);

void qn_opts_help(qn_str *out, const qn_opts *o);

typedef enum qn_shell { QN_SHELL_BASH, QN_SHELL_ZSH, QN_SHELL_FISH } qn_shell;
/* A completion script for `program`, which has these commands. */
void qn_opts_completion(qn_str *out, qn_shell shell, const char *program,
                        const qn_opts *const *commands, size_t n);

/* Edits (insert, delete, replace, swap) that turn a into b; words over 63 bytes count as far
 * away. */
size_t qn_opts_distance(const char *a, const char *b);

#endif
