/* SPDX-License-Identifier: Apache-2.0
 * file.h - files opened safely: mapped read-only, read whole, written atomically.
 *
 * Every open uses O_NONBLOCK and fstat and accepts regular files only (a FIFO never hangs us);
 * symlinks are followed.
 * Threads: any. */
#ifndef QN_BASE_FILE_H
#define QN_BASE_FILE_H

#include "base/base.h"
#include "base/str.h"
#include <time.h>

/* A read-only mapping. A file truncated while mapped raises SIGBUS: qn_file_guard. One written to shows other bytes: qn_file_check. */
typedef struct qn_file {
    char *path;
    const uint8_t *data; /* NULL when size is 0 */
    size_t size;
    struct timespec changed; /* when it was opened */
    int fd;
} qn_file;
QN_MUST_USE qn_status qn_file_map(qn_file **out, const char *path, qn_err *err);
void qn_file_unmap(qn_file *f); /* NULL allowed */
/* Bytes [at, at + n) of the file, which must be there. Any thread. */
QN_MUST_USE qn_status qn_file_pread(const qn_file *f, size_t at, void *dst, size_t n, qn_err *err);
bool qn_file_holds(const qn_file *f, const void *p); /* p is in its mapping */
/* What of [p, p + n) is mapped need not stay resident: read again, it comes from the file. */
void qn_file_drop(const qn_file *f, const void *p, size_t n);
/* QN_E_IO: its size, or when it was last written, is no more what it was when it was opened; what was
 * read of it before this call may be wrong. Removed or replaced by another, it is the same. */
QN_MUST_USE qn_status qn_file_check(const qn_file *f, qn_err *err);
/* From now on a mapped file that is truncated (SIGBUS), or that qn_file_check finds changed, ends the
 * program with one line naming it and status 74. Called by the program. */
void qn_file_guard(void);

/* Whole file into *out (cleared first), at most max_bytes. */
QN_MUST_USE qn_status qn_file_read(qn_str *out, const char *path, size_t max_bytes, qn_err *err);
/* Asks the system to forget the cached pages of a file, or of all files of a folder, so that the
 * next reading comes from the disk. Pages that someone has mapped stay. */
QN_MUST_USE qn_status qn_file_drop_cache(const char *path, qn_err *err);
/* The beginning of a small file (of /proc, /sys): at most size - 1 bytes and a NUL. Allocates
 * nothing. Returns the bytes read; 0 too when it cannot be read. */
size_t qn_file_peek(const char *path, char *buf, size_t size);
/* A file written piece by piece beside its path; commit: fsync and rename; abandon: nothing was
 * there. Both free it. */
typedef struct qn_file_out qn_file_out;
QN_MUST_USE qn_status qn_file_out_new(qn_file_out **out, const char *path, qn_err *err);
QN_MUST_USE qn_status qn_file_out_put(qn_file_out *o, uint64_t at, const void *p, size_t n,
                                      qn_err *err);
QN_MUST_USE qn_status qn_file_out_commit(qn_file_out *o, qn_err *err);
void qn_file_out_abandon(qn_file_out *o); /* NULL allowed */
/* The same for a whole file. */
QN_MUST_USE qn_status qn_file_write(const char *path, const void *p, size_t n, qn_err *err);
bool qn_file_exists(const char *path); /* a regular file */
bool qn_dir_exists(const char *path);
QN_MUST_USE qn_status qn_mkdirs(const char *path, qn_err *err);
/* dir + "/" + name. name must be one path component of [A-Za-z0-9._-], not starting with a dot. */
QN_MUST_USE qn_status qn_path_join(qn_str *out, const char *dir, const char *name, qn_err *err);
/* $XDG_CACHE_HOME/quern or ~/.cache/quern, made if missing. */
QN_MUST_USE qn_status qn_cache_dir(qn_str *out, qn_err *err);

/* The only getenv. NULL when unset or empty. Lint: no other file may name getenv. */
const char *qn_env(const char *name);

#endif
