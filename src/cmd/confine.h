/* SPDX-License-Identifier: Apache-2.0
 * confine.h - which files a server still needs once it listens, and the sandbox with only those.
 *
 *   models       a file, with the other parts of a split one; a folder, with what its links lead to
 *   read again   the folder of the file, and that of what it links to: a new file takes the old one's place by its name
 *
 * Threads: main, before there are others. */
#ifndef QN_CMD_CONFINE_H
#define QN_CMD_CONFINE_H

#include "base/mem.h"
#include "base/sandbox.h"

typedef struct cmd_files {
    qn_arena *arena;
    const char **paths;
    size_t n, cap;
    bool has_failed; /* out of memory */
} cmd_files;

/* NULL paths are allowed, and are none. */
void cmd_files_add_model(cmd_files *f, const char *path);
void cmd_files_add_again(cmd_files *f, const char *path);
QN_MUST_USE qn_status cmd_confine(qn_sandbox_mode mode, const cmd_files *f, qn_str *told,
                                  qn_err *err);
void cmd_files_fini(cmd_files *f); /* the list; texts are the arena's */

#endif
