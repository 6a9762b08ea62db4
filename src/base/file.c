/* SPDX-License-Identifier: Apache-2.0
 * file.c - safe opening, mapping with a SIGBUS guard, atomic writing, cache folder. */
#include "base/file.h"

#include "base/mem.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the table the SIGBUS handler reads: slots are written before use and cleared before
 * unmapping ---- */

#define GUARD_SLOTS 1100 /* 1,024 shards and some */
static struct {
    _Atomic(const uint8_t *) data;
    atomic_size_t size;
    _Atomic(const char *) path;
} guard[GUARD_SLOTS];

static void guard_add(const qn_file *f)
{
    for (size_t i = 0; i < GUARD_SLOTS; i++) {
        const char *none = NULL;
        if (atomic_compare_exchange_strong(&guard[i].path, &none, f->path)) {
            atomic_store(&guard[i].size, f->size);
            atomic_store(&guard[i].data, f->data);
            return;
        }
    }
}

static void guard_remove(const qn_file *f)
{
    for (size_t i = 0; i < GUARD_SLOTS; i++)
        if (atomic_load(&guard[i].path) == f->path) {
            atomic_store(&guard[i].data, NULL);
            atomic_store(&guard[i].path, NULL);
        }
}

static atomic_bool is_guarded;
static atomic_flag is_ending = ATOMIC_FLAG_INIT;

/* One line, by whichever thread comes first, and the end. */
static _Noreturn void end_over(const char *path)
{
    static const char head[] = "quern: ",
                      tail[] = ": the file changed or became unreadable while in use\n";
    while (atomic_flag_test_and_set(&is_ending))
        (void)pause();
    if (write(STDERR_FILENO, head, sizeof head - 1) < 0 ||
        write(STDERR_FILENO, path, strlen(path)) < 0 ||
        write(STDERR_FILENO, tail, sizeof tail - 1) < 0)
        _exit(74);
    _exit(74);
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    (void)context;
    const uint8_t *at = info->si_addr;
    for (size_t i = 0; i < GUARD_SLOTS; i++) {
        const uint8_t *d = atomic_load(&guard[i].data);
        if (d && at >= d && at < d + atomic_load(&guard[i].size))
            end_over(atomic_load(&guard[i].path));
    }
    (void)signal(sig, SIG_DFL);
    (void)raise(sig);
}

void qn_file_guard(void)
{
    struct sigaction a = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    atomic_store(&is_guarded, true);
    (void)sigemptyset(&a.sa_mask);
    (void)sigaction(SIGBUS, &a, NULL);
}

/* ---- opening ---- */

static qn_status fail_errno(qn_err *err, const char *path, const char *what)
{
    int e = errno;
    char buf[128];
    return qn_fail(err,
                   e == ENOENT   ? QN_E_NOT_FOUND
                   : e == ENOMEM ? QN_E_NOMEM
                                 : QN_E_IO,
                   "%s: %s: %s", path, what, strerror_r(e, buf, sizeof buf));
}

static const char *kind_of(mode_t m)
{
    return S_ISDIR(m) ? "a folder" : S_ISFIFO(m) ? "a pipe" : S_ISSOCK(m) ? "a socket" : "a device";
}

static qn_status open_regular(int *fd_out, struct stat *st, const char *path, qn_err *err)
{
    int fd;
    do
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    while (fd < 0 && errno == EINTR); /* file systems over a network */
    if (fd < 0)
        return fail_errno(err, path, "cannot open");
    if (fstat(fd, st) != 0) {
        qn_status s = fail_errno(err, path, "cannot stat");
        (void)close(fd);
        return s;
    }
    if (!S_ISREG(st->st_mode)) {
        (void)close(fd);
        return qn_fail(err, QN_E_IO, "%s: is %s, want a regular file", path, kind_of(st->st_mode));
    }
    *fd_out = fd;
    return QN_OK;
}

qn_status qn_file_map(qn_file **out, const char *path, qn_err *err)
{
    int fd = -1;
    struct stat st;
    *out = NULL;
    QN_TRY(open_regular(&fd, &st, path, err));
    qn_file *f = qn_calloc(1, sizeof *f, QN_MEM_MISC);
    char *name = f ? qn_strdup(path, QN_MEM_MISC) : NULL;
    if (!name) {
        qn_free(f);
        (void)close(fd);
        return qn_fail_nomem(err, sizeof *f);
    }
    f->path = name;
    f->size = (size_t)st.st_size;
    f->changed = st.st_mtim;
    f->fd = fd;
    if (f->size) {
        void *p = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            qn_status s = fail_errno(err, path, "cannot map");
            (void)close(fd);
            qn_free(name);
            qn_free(f);
            return s;
        }
        f->data = p;
        guard_add(f);
    }
    *out = f;
    return QN_OK;
}

void qn_file_unmap(qn_file *f)
{
    if (!f)
        return;
    if (f->data) {
        guard_remove(f);
        (void)munmap((void *)(uintptr_t)f->data, f->size);
    }
    (void)close(f->fd);
    qn_free(f->path);
    qn_free(f);
}

qn_status qn_file_check(const qn_file *f, qn_err *err)
{
    struct stat st;
    if (fstat(f->fd, &st) != 0)
        return fail_errno(err, f->path, "cannot stat");
    if ((size_t)st.st_size == f->size && st.st_mtim.tv_sec == f->changed.tv_sec &&
        st.st_mtim.tv_nsec == f->changed.tv_nsec)
        return QN_OK;
    if (atomic_load(&is_guarded))
        end_over(f->path);
    return qn_fail(err, QN_E_IO, "%s: the file changed while in use", f->path);
}

qn_status qn_file_pread(const qn_file *f, size_t at, void *dst, size_t n, qn_err *err)
{
    char *p = dst;
    while (n > 0) {
        ssize_t k = pread(f->fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return fail_errno(err, f->path, "cannot read");
        if (k == 0) {
            QN_TRY(qn_file_check(f, err));
            return qn_fail(err, QN_E_FORMAT, "%s: ends at byte %zu, %zu more wanted", f->path, at,
                           n);
        }
        p += k;
        at += (size_t)k;
        n -= (size_t)k;
    }
    return QN_OK;
}

bool qn_file_holds(const qn_file *f, const void *p)
{
    return f->data && (uintptr_t)p - (uintptr_t)f->data < f->size;
}

void qn_file_drop(const qn_file *f, const void *p, size_t n)
{
    if (!qn_file_holds(f, p))
        return;
    size_t at = (size_t)((uintptr_t)p - (uintptr_t)f->data);
    size_t begin = QN_ROUND_UP(at, (size_t)4096),
           end = (at + QN_MIN(n, f->size - at)) & ~(size_t)4095;
    if (begin < end)
        (void)madvise((void *)(uintptr_t)(f->data + begin), end - begin, MADV_DONTNEED);
}

qn_status qn_file_read(qn_str *out, const char *path, size_t max_bytes, qn_err *err)
{
    int fd;
    struct stat st;
    qn_str_clear(out);
    QN_TRY(open_regular(&fd, &st, path, err));
    qn_status s = QN_OK;
    char buf[8192];
    while (s == QN_OK) {
        ssize_t n = read(fd, buf, sizeof buf);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            s = fail_errno(err, path, "cannot read");
        if (n <= 0)
            break;
        if ((size_t)n > max_bytes - out->n)
            s = qn_fail(err, QN_E_FORMAT, "%s: larger than %zu bytes", path, max_bytes);
        else
            qn_str_add(out, buf, (size_t)n);
        if (out->failed)
            s = qn_fail_nomem(err, out->n + (size_t)n);
    }
    (void)close(fd);
    return s;
}

size_t qn_file_peek(const char *path, char *buf, size_t size)
{
    int fd;
    struct stat st;
    size_t at = 0;
    buf[0] = 0;
    if (open_regular(&fd, &st, path, NULL) != QN_OK)
        return 0;
    while (at + 1 < size) {
        ssize_t n = read(fd, buf + at, size - 1 - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        at += (size_t)n;
    }
    buf[at] = 0;
    (void)close(fd);
    return at;
}

struct qn_file_out {
    int fd;
    const char *path; /* the caller's, until commit */
    qn_str tmp;
    bool is_made;
};

qn_status qn_file_out_new(qn_file_out **out, const char *path, qn_err *err)
{
    *out = NULL;
    qn_file_out *o = qn_calloc(1, sizeof *o, QN_MEM_MISC);
    if (!o)
        return qn_fail_nomem(err, sizeof *o);
    o->fd = -1;
    o->path = path;
    qn_str_addf(&o->tmp, "%s.XXXXXX", path);
    if (o->tmp.failed) {
        qn_file_out_abandon(o);
        return qn_fail_nomem(err, strlen(path));
    }
    o->fd = mkostemp(o->tmp.p, O_CLOEXEC);
    if (o->fd < 0) {
        qn_status s = fail_errno(err, path, "cannot write");
        qn_file_out_abandon(o);
        return s;
    }
    o->is_made = true;
    *out = o;
    return QN_OK;
}

qn_status qn_file_out_put(qn_file_out *o, uint64_t at, const void *p, size_t n, qn_err *err)
{
    const char *b = p;
    while (n > 0) {
        ssize_t k = pwrite(o->fd, b, n, (off_t)at);
        if (k < 0 && errno != EINTR)
            return fail_errno(err, o->path, "cannot write");
        size_t done = k > 0 ? (size_t)k : 0;
        b += done;
        at += done;
        n -= done;
    }
    return QN_OK;
}

qn_status qn_file_out_commit(qn_file_out *o, qn_err *err)
{
    qn_status s = QN_OK;
    if (fchmod(o->fd, 0644) != 0 || fsync(o->fd) != 0)
        s = fail_errno(err, o->path, "cannot write");
    if (close(o->fd) != 0 && s == QN_OK)
        s = fail_errno(err, o->path, "cannot write");
    o->fd = -1;
    if (s == QN_OK && rename(o->tmp.p, o->path) != 0)
        s = fail_errno(err, o->path, "cannot rename into place");
    o->is_made = s != QN_OK;
    qn_file_out_abandon(o);
    return s;
}

void qn_file_out_abandon(qn_file_out *o)
{
    if (!o)
        return;
    if (o->fd >= 0)
        (void)close(o->fd);
    if (o->is_made)
        (void)unlink(o->tmp.p);
    qn_str_fini(&o->tmp);
    qn_free(o);
}

qn_status qn_file_write(const char *path, const void *p, size_t n, qn_err *err)
{
    qn_file_out *o;
    QN_TRY(qn_file_out_new(&o, path, err));
    qn_status s = qn_file_out_put(o, 0, p, n, err);
    if (s == QN_OK)
        return qn_file_out_commit(o, err);
    qn_file_out_abandon(o);
    return s;
}

static qn_status drop_one(const char *path, qn_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int e = fd < 0 ? errno : posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (fd >= 0)
        (void)close(fd);
    return e ? qn_fail(err, QN_E_IO, "%s: cannot drop its cached pages: %s", path, strerror(e))
             : QN_OK;
}

qn_status qn_file_drop_cache(const char *path, qn_err *err)
{
    if (!qn_dir_exists(path))
        return drop_one(path, err);
    DIR *dir = opendir(path);
    if (!dir)
        return qn_fail(err, QN_E_IO, "%s: %s", path, strerror(errno));
    qn_status s = QN_OK;
    for (struct dirent *entry = readdir(dir); entry && s == QN_OK; entry = readdir(dir)) {
        qn_str file = {0};
        qn_str_addf(&file, "%s/%s", path, entry->d_name);
        if (file.failed)
            s = qn_fail_nomem(err, strlen(path));
        else if (qn_file_exists(file.p))
            s = drop_one(file.p, err);
        qn_str_fini(&file);
    }
    (void)closedir(dir);
    return s;
}

bool qn_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool qn_dir_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

qn_status qn_mkdirs(const char *path, qn_err *err)
{
    char *p = qn_strdup(path, QN_MEM_MISC);
    if (!p)
        return qn_fail_nomem(err, strlen(path));
    qn_status s = QN_OK;
    for (char *at = p + 1; s == QN_OK; at++) {
        if (*at != '/' && *at)
            continue;
        char c = *at;
        *at = 0;
        if (mkdir(p, 0755) != 0 && errno != EEXIST)
            s = fail_errno(err, p, "cannot make the folder");
        *at = c;
        if (!c)
            break;
    }
    qn_free(p);
    if (s == QN_OK && !qn_dir_exists(path))
        s = qn_fail(err, QN_E_IO, "%s: is not a folder", path);
    return s;
}

qn_status qn_path_join(qn_str *out, const char *dir, const char *name, qn_err *err)
{
    bool ok = name[0] && name[0] != '.';
    for (const char *c = name; *c; c++)
        ok = ok && ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                    (*c >= '0' && *c <= '9') || *c == '.' || *c == '_' || *c == '-');
    if (!ok)
        return qn_fail(err, QN_E_FORMAT, "%s: '%s' is not a plain file name ([A-Za-z0-9._-])", dir,
                       name);
    qn_str_addf(out, "%s/%s", dir, name);
    return out->failed ? qn_fail_nomem(err, strlen(dir)) : QN_OK;
}

const char *qn_env(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

qn_status qn_cache_dir(qn_str *out, qn_err *err)
{
    const char *xdg = qn_env("XDG_CACHE_HOME"), *home = qn_env("HOME");
    if (xdg)
        qn_str_addf(out, "%s/quern", xdg);
    else if (home)
        qn_str_addf(out, "%s/.cache/quern", home);
    else
        return qn_fail(err, QN_E_NOT_FOUND,
                       "no cache folder: neither HOME nor XDG_CACHE_HOME is set");
    return out->failed ? qn_fail_nomem(err, out->n) : qn_mkdirs(out->p, err);
}
