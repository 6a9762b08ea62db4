/* SPDX-License-Identifier: Apache-2.0
 * sandbox.h - a process gives up what it does not need, for good.
 *
 *   no new privileges, no core file, not to be looked into by others (dumpable 0)
 *   Landlock    files: only those named are read, none is written, made, renamed or run; no TCP but by sockets that are open
 *   seccomp     system calls: those of a server with its sockets open and its threads; no other program, no new socket, no file
 *               opened to write, no memory made executable, no signal to others
 *
 * What is refused fails with EPERM or EACCES (clone3, openat2: ENOSYS, and the C library takes the older ones).
 * Threads: to be entered while there is one. Landlock is the calling thread's and of those that it starts later; seccomp would take
 * in the others too. */
#ifndef QN_BASE_SANDBOX_H
#define QN_BASE_SANDBOX_H

#include "base/str.h"

typedef enum qn_sandbox_mode { QN_SANDBOX_AUTO, QN_SANDBOX_ON, QN_SANDBOX_OFF } qn_sandbox_mode;

/* readable: files, or folders with all below; what does not exist is left out. What the process reads of its own state
 * (/proc/self, /sys, ...) is added. Into `told`: one line, what is on and what is not.
 * AUTO: what the kernel can do; ON: an error if something cannot be done. */
QN_MUST_USE qn_status qn_sandbox_enter(qn_sandbox_mode mode, const char *const *readable,
                                       size_t n_readable, qn_str *told, qn_err *err);

#endif
