/* SPDX-License-Identifier: Apache-2.0
 * fault.c - preloaded into a program: its n-th call of a function fails. Test code, for test_torture.py.
 *
 * QN_FAULT names a file of one `page`, mapped here and by the test:
 *
 *   [ 0] left   the call that brings it from 1 to 0 fails        [ 8] fn   which function's calls bring it down
 *   [12] error  errno, or -1: it does less than it was asked to  [16] n_hits
 *   [24] n_calls[fn]                                              of each function, from the beginning on
 *
 * Functions are known by their place in FUNCTIONS. A close that fails has closed, as Linux does it. What libc calls inside itself is
 * not seen here: where it matters (fopen, opendir, getaddrinfo, pthread_create) the outer function fails.
 * Threads: any. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

/* The test reads the names from here, in this order. */
/* clang-format off */
#define FUNCTIONS(F) \
    F(read) F(write) F(readv) F(writev) F(pread) F(pwrite) F(recv) F(recvfrom) F(recvmsg) F(send) F(sendto) F(sendmsg) \
    F(open) F(close) F(mmap) F(munmap) F(madvise) F(accept) F(accept4) F(socket) F(bind) F(listen) F(getsockname) \
    F(setsockopt) F(shutdown) F(dup) F(pipe2) F(fcntl) F(ioctl) F(poll) F(epoll_create1) F(epoll_ctl) F(epoll_wait) \
    F(eventfd) F(timerfd_create) F(timerfd_settime) F(fstat) F(stat) F(lstat) F(unlink) F(fopen) F(opendir) \
    F(getaddrinfo) F(getrandom) F(ftruncate) F(fsync) F(flock) F(pthread_create) F(malloc) F(calloc) F(realloc)

/* clang-format on */
#define AS_ENUM(name) FN_##name,
enum { FUNCTIONS(AS_ENUM) N_FN };

typedef struct page {
    atomic_llong left;
    atomic_int fn, error;
    atomic_llong n_hits, n_calls[N_FN];
} page;
_Static_assert(sizeof(page) == 24 + 8 * N_FN, "as the test reads it");

static page none, *at = &none;
static void *real[N_FN];
static void (*real_free)(void *);
static bool is_looking;

/* dlsym allocates: from here, and never freed. */
static _Alignas(16) char early[1 << 16];
static size_t n_early;

#define AS_NAME(name) #name,
PUBLIC const char *const qn_fault_names[] = {FUNCTIONS(AS_NAME) NULL};

/* Maybe before anything is set up: by the first call. */
static void look_up(void)
{
    if (is_looking || real[N_FN - 1])
        return;
    is_looking = true;
    void *f = dlsym(RTLD_NEXT, "free");
    memcpy(&real_free, &f, sizeof f);
    for (int i = 0; i < N_FN; i++)
        real[i] = dlsym(RTLD_NEXT, qn_fault_names[i]);
    is_looking = false;
}

__attribute__((constructor)) static void open_page(void)
{
    look_up();
    const char *path = getenv("QN_FAULT");
    int (*open_it)(const char *, int, ...);
    memcpy(&open_it, &real[FN_open], sizeof open_it);
    int fd = path ? open_it(path, O_RDWR | O_CLOEXEC) : -1;
    void *(*map_it)(void *, size_t, int, int, int, off_t);
    memcpy(&map_it, &real[FN_mmap], sizeof map_it);
    void *p =
        fd < 0 ? MAP_FAILED : map_it(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED)
        at = p;
    int (*close_it)(int);
    memcpy(&close_it, &real[FN_close], sizeof close_it);
    if (fd >= 0)
        (void)close_it(fd);
}

/* 0: this call is as always; else errno, or -1: do less. */
static int fault(int fn)
{
    if (!real[N_FN - 1])
        look_up();
    (void)atomic_fetch_add(&at->n_calls[fn], 1);
    if (atomic_load(&at->fn) != fn || atomic_load(&at->left) <= 0 ||
        atomic_fetch_sub(&at->left, 1) != 1)
        return 0;
    (void)atomic_fetch_add(&at->n_hits, 1);
    int e = atomic_load(&at->error);
    if (e > 0)
        errno = e;
    return e;
}

static size_t less(size_t n)
{
    return n > 1 ? n / 2 : n;
}

/* R f(P): calls the next f as real_f. */
#define NEXT(R, f, ...)                                                                            \
    R (*real_##f)(__VA_ARGS__);                                                                    \
    int e = fault(FN_##f);                                                                         \
    memcpy(&real_##f, &real[FN_##f], sizeof real_##f);                                             \
    if (e > 0)                                                                                     \
    return (R)-1

PUBLIC ssize_t read(int fd, void *p, size_t n)
{
    NEXT(ssize_t, read, int, void *, size_t);
    return real_read(fd, p, e ? less(n) : n);
}

PUBLIC ssize_t write(int fd, const void *p, size_t n)
{
    NEXT(ssize_t, write, int, const void *, size_t);
    return real_write(fd, p, e && n > 8 ? less(n) : n); /* an eventfd takes its eight or none */
}

PUBLIC ssize_t pread(int fd, void *p, size_t n, off_t where)
{
    NEXT(ssize_t, pread, int, void *, size_t, off_t);
    return real_pread(fd, p, e ? less(n) : n, where);
}

PUBLIC ssize_t pwrite(int fd, const void *p, size_t n, off_t where)
{
    NEXT(ssize_t, pwrite, int, const void *, size_t, off_t);
    return real_pwrite(fd, p, e ? less(n) : n, where);
}

PUBLIC ssize_t recv(int fd, void *p, size_t n, int flags)
{
    NEXT(ssize_t, recv, int, void *, size_t, int);
    return real_recv(fd, p, e ? less(n) : n, flags);
}

PUBLIC ssize_t send(int fd, const void *p, size_t n, int flags)
{
    NEXT(ssize_t, send, int, const void *, size_t, int);
    return real_send(fd, p, e ? less(n) : n, flags);
}

PUBLIC ssize_t recvfrom(int fd, void *restrict p, size_t n, int flags, struct sockaddr *restrict a,
                        socklen_t *restrict n_a)
{
    NEXT(ssize_t, recvfrom, int, void *, size_t, int, struct sockaddr *, socklen_t *);
    return real_recvfrom(fd, p, e ? less(n) : n, flags, a, n_a);
}

PUBLIC ssize_t sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *a,
                      socklen_t n_a)
{
    NEXT(ssize_t, sendto, int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    return real_sendto(fd, p, e ? less(n) : n, flags, a, n_a);
}

PUBLIC ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    NEXT(ssize_t, recvmsg, int, struct msghdr *, int);
    return real_recvmsg(fd, m, flags);
}

/* The first piece, or half of it. */
static struct iovec first_piece(const struct iovec *v, size_t n)
{
    struct iovec one = {0};
    for (size_t i = 0; i < n && !one.iov_len; i++)
        one = v[i];
    one.iov_len = less(one.iov_len);
    return one;
}

PUBLIC ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    NEXT(ssize_t, sendmsg, int, const struct msghdr *, int);
    struct msghdr some = *m;
    struct iovec one = first_piece(m->msg_iov, m->msg_iovlen);
    some.msg_iov = &one;
    some.msg_iovlen = 1;
    return real_sendmsg(fd, e ? &some : m, flags);
}

PUBLIC ssize_t readv(int fd, const struct iovec *v, int n)
{
    NEXT(ssize_t, readv, int, const struct iovec *, int);
    struct iovec one = first_piece(v, (size_t)n);
    return real_readv(fd, e ? &one : v, e ? 1 : n);
}

PUBLIC ssize_t writev(int fd, const struct iovec *v, int n)
{
    NEXT(ssize_t, writev, int, const struct iovec *, int);
    struct iovec one = first_piece(v, (size_t)n);
    return real_writev(fd, e ? &one : v, e ? 1 : n);
}

PUBLIC int open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, int) : 0;
    va_end(ap);
    NEXT(int, open, const char *, int, ...);
    return real_open(path, flags, mode);
}

PUBLIC int close(int fd)
{
    int (*real_close)(int), e = fault(FN_close);
    memcpy(&real_close, &real[FN_close], sizeof real_close);
    int r = real_close(fd);
    if (e > 0)
        errno = e;
    return e > 0 ? -1 : r;
}

PUBLIC void *mmap(void *p, size_t n, int prot, int flags, int fd, off_t where)
{
    NEXT(void *, mmap, void *, size_t, int, int, int, off_t);
    return real_mmap(p, n, prot, flags, fd, where);
}

#define ONE(R, f, A, a)                                                                            \
    PUBLIC R f(A a)                                                                                \
    {                                                                                              \
        NEXT(R, f, A);                                                                             \
        return real_##f(a);                                                                        \
    }
#define TWO(R, f, A, a, B, b)                                                                      \
    PUBLIC R f(A a, B b)                                                                           \
    {                                                                                              \
        NEXT(R, f, A, B);                                                                          \
        return real_##f(a, b);                                                                     \
    }
#define THREE(R, f, A, a, B, b, C, c)                                                              \
    PUBLIC R f(A a, B b, C c)                                                                      \
    {                                                                                              \
        NEXT(R, f, A, B, C);                                                                       \
        return real_##f(a, b, c);                                                                  \
    }
#define FOUR(R, f, A, a, B, b, C, c, D, d)                                                         \
    PUBLIC R f(A a, B b, C c, D d)                                                                 \
    {                                                                                              \
        NEXT(R, f, A, B, C, D);                                                                    \
        return real_##f(a, b, c, d);                                                               \
    }

struct itimerspec;

TWO(int, munmap, void *, p, size_t, n)
THREE(int, madvise, void *, p, size_t, n, int, advice)
THREE(int, accept, int, fd, struct sockaddr *restrict, a, socklen_t *restrict, n)
FOUR(int, accept4, int, fd, struct sockaddr *restrict, a, socklen_t *restrict, n, int, flags)
THREE(int, socket, int, family, int, type, int, protocol)
THREE(int, bind, int, fd, const struct sockaddr *, a, socklen_t, n)
TWO(int, listen, int, fd, int, n)
THREE(int, getsockname, int, fd, struct sockaddr *restrict, a, socklen_t *restrict, n)
TWO(int, shutdown, int, fd, int, how)
ONE(int, dup, int, fd)
THREE(int, poll, struct pollfd *, p, nfds_t, n, int, ms)
ONE(int, epoll_create1, int, flags)
FOUR(int, epoll_ctl, int, fd, int, what, int, which, struct epoll_event *, ev)
FOUR(int, epoll_wait, int, fd, struct epoll_event *, ev, int, n, int, ms)
TWO(int, eventfd, unsigned, n, int, flags)
TWO(int, timerfd_create, int, clock, int, flags)
FOUR(int, timerfd_settime, int, fd, int, flags, const struct itimerspec *, to, struct itimerspec *,
     old)
TWO(int, fstat, int, fd, struct stat *, st)
TWO(int, stat, const char *restrict, path, struct stat *restrict, st)
TWO(int, lstat, const char *restrict, path, struct stat *restrict, st)
ONE(int, unlink, const char *, path)
TWO(int, ftruncate, int, fd, off_t, n)
ONE(int, fsync, int, fd)
TWO(int, flock, int, fd, int, what)

PUBLIC int pipe2(int fds[2], int flags)
{
    NEXT(int, pipe2, int[2], int);
    return real_pipe2(fds, flags);
}

PUBLIC ssize_t getrandom(void *p, size_t n, unsigned flags)
{
    NEXT(ssize_t, getrandom, void *, size_t, unsigned);
    return real_getrandom(p, e ? less(n) : n, flags);
}

PUBLIC int setsockopt(int fd, int level, int name, const void *p, socklen_t n)
{
    NEXT(int, setsockopt, int, int, int, const void *, socklen_t);
    return real_setsockopt(fd, level, name, p, n);
}

PUBLIC int fcntl(int fd, int what, ...)
{
    va_list ap;
    va_start(ap, what);
    void *arg = va_arg(ap, void *); /* as the kernel takes it: one word */
    va_end(ap);
    NEXT(int, fcntl, int, int, ...);
    return real_fcntl(fd, what, arg);
}

PUBLIC int ioctl(int fd, unsigned long what, ...)
{
    va_list ap;
    va_start(ap, what);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    NEXT(int, ioctl, int, unsigned long, ...);
    return real_ioctl(fd, what, arg);
}

#define POINTER(R, f, ...)                                                                         \
    R (*real_##f)(__VA_ARGS__);                                                                    \
    int e = fault(FN_##f);                                                                         \
    memcpy(&real_##f, &real[FN_##f], sizeof real_##f);                                             \
    if (e)                                                                                         \
    return NULL

PUBLIC FILE *fopen(const char *restrict path, const char *restrict mode)
{
    POINTER(FILE *, fopen, const char *, const char *);
    return real_fopen(path, mode);
}

PUBLIC DIR *opendir(const char *path)
{
    POINTER(DIR *, opendir, const char *);
    return real_opendir(path);
}

PUBLIC int getaddrinfo(const char *restrict node, const char *restrict service,
                       const struct addrinfo *restrict want, struct addrinfo **restrict out)
{
    int (*f)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (fault(FN_getaddrinfo))
        return EAI_SYSTEM;
    memcpy(&f, &real[FN_getaddrinfo], sizeof f);
    return f(node, service, want, out);
}

PUBLIC int pthread_create(pthread_t *restrict t, const pthread_attr_t *restrict a,
                          void *(*run)(void *), void *restrict arg)
{
    int (*f)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    int e = fault(FN_pthread_create);
    memcpy(&f, &real[FN_pthread_create], sizeof f);
    return e > 0 ? e : f(t, a, run, arg);
}

/* ---- memory ---- */

static bool is_early(const void *p)
{
    return (uintptr_t)p - (uintptr_t)early < sizeof early;
}

static void *take_early(size_t n)
{
    n = (n + 15) & ~(size_t)15;
    if (n > sizeof early - n_early)
        abort();
    n_early += n;
    return early + n_early - n;
}

PUBLIC void *malloc(size_t n)
{
    if (is_looking)
        return take_early(n);
    POINTER(void *, malloc, size_t);
    return real_malloc(n);
}

PUBLIC void *calloc(size_t n, size_t size)
{
    if (is_looking)
        return take_early(n * size);
    POINTER(void *, calloc, size_t, size_t);
    return real_calloc(n, size);
}

PUBLIC void *realloc(void *p, size_t n)
{
    if (is_looking || is_early(p))
        abort(); /* no one does */
    POINTER(void *, realloc, void *, size_t);
    return real_realloc(p, n);
}

PUBLIC void free(void *p)
{
    if (p && !is_early(p) && real_free)
        real_free(p);
}
