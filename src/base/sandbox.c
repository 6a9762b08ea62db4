/* SPDX-License-Identifier: Apache-2.0
 * sandbox.c - Landlock by its system calls, seccomp by a filter written here.
 *
 * The filter, in order: another architecture's calls end the process; calls whose arguments decide; calls that are allowed; EPERM
 * for the rest. Calls that are always allowed cost nothing, since Linux 5.11 keeps them in a bitmap and does not run the filter.
 * SPEC_ALLOW: without it kernels before 5.16 slow down every load of the process.
 *
 * Files of /proc have inodes that live only as long as they are in use, and Landlock's rules go by inode: their descriptors stay
 * open. Sources: landlock(7), seccomp(2), Documentation/userspace-api/landlock.rst. */
#include "base/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- Landlock ---- */

/* Of linux/landlock.h, whose older versions lack what newer kernels know. */
#define LL_READ_FILE  (1ull << 2)
#define LL_READ_DIR   (1ull << 3)
#define LL_NET        3ull /* bind, connect */
#define LL_SCOPE      3ull /* abstract sockets, signals of others */
#define LL_RULE_PATH  1
#define LL_GET_ABI    1u
#define SYS_LL_CREATE 444 /* the same on every architecture */
#define SYS_LL_ADD    445
#define SYS_LL_ENTER  446

typedef struct ll_ruleset {
    uint64_t files, net, scope;
} ll_ruleset;

typedef struct __attribute__((packed)) ll_path {
    uint64_t allowed;
    int32_t fd;
} ll_path;

/* What each version of the interface knows of. */
static ll_ruleset ruleset_of(long abi)
{
    uint64_t n_rights = abi >= 5 ? 16 : abi >= 3 ? 15 : abi >= 2 ? 14 : 13;
    return (ll_ruleset){.files = (1ull << n_rights) - 1,
                        .net = abi >= 4 ? LL_NET : 0,
                        .scope = abi >= 6 ? LL_SCOPE : 0};
}

/* The descriptor stays open if `keep`. False: it exists, or nobody can say, and cannot be allowed. */
static bool allow_path(int ruleset, const char *path, bool keep)
{
    struct stat st;
    int fd;
    do
        fd = open(path, O_PATH | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == EACCES;
    ll_path rule = {LL_READ_FILE, fd};
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        rule.allowed |= LL_READ_DIR;
    bool ok = syscall(SYS_LL_ADD, ruleset, LL_RULE_PATH, &rule, 0) == 0;
    int e = errno;
    if (!keep || !ok)
        (void)close(fd);
    errno = e;
    return ok;
}

static bool is_single(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    if (!d)
        return true; /* nobody can say */
    for (const struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    (void)closedir(d);
    return n == 1;
}

static bool enter_landlock(const char *const *readable, size_t n, long *abi)
{
    static const char *const own[] = {
        "/proc/self",    "/proc/stat",    "/proc/meminfo",
        "/proc/cpuinfo", "/proc/loadavg", "/proc/sys/vm/overcommit_memory",
        "/sys",          "/dev/urandom",  "/etc/localtime",
    };
    errno = EBUSY; /* threads that run would keep their rights */
    if (!is_single())
        return false;
    *abi = syscall(SYS_LL_CREATE, NULL, 0, LL_GET_ABI);
    if (*abi < 1)
        return false;
    ll_ruleset set = ruleset_of(*abi);
    size_t size = *abi >= 6 ? sizeof set : *abi >= 4 ? 16 : 8;
    int fd = (int)syscall(SYS_LL_CREATE, &set, size, 0);
    if (fd < 0)
        return false;
    bool ok = true;
    for (size_t i = 0; i < QN_COUNT(own) && ok; i++)
        ok = allow_path(fd, own[i], true);
    for (size_t i = 0; i < n && ok; i++)
        ok = allow_path(fd, readable[i], false);
    ok = ok && syscall(SYS_LL_ENTER, fd, 0) == 0;
    int e = errno;
    (void)close(fd);
    errno = e;
    return ok;
}

/* ---- seccomp ---- */

#if defined(__x86_64__)
#define ARCH       AUDIT_ARCH_X86_64
#define X32_BIT    0x40000000u
#define HAS_FILTER 1
#elif defined(__aarch64__)
#define ARCH       AUDIT_ARCH_AARCH64
#define HAS_FILTER 1
#else
#define HAS_FILTER 0
#endif

#if HAS_FILTER
#define OPEN_TMPFILE 020000000 /* without the bit of O_DIRECTORY */
#define OPEN_WRITES  (O_ACCMODE | O_CREAT | O_TRUNC | OPEN_TMPFILE)

/* Allowed whatever the arguments. */
static const int plain_calls[] = {
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_close,
    SYS_close_range,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_fstatfs,
    SYS_statfs,
    SYS_lseek,
    SYS_fadvise64,
    SYS_readahead,
    SYS_getdents64,
    SYS_readlinkat,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_getcwd,
    SYS_dup,
    SYS_dup3,
    SYS_pipe2,
    /* sockets that are open, and those that come by them */
    SYS_accept,
    SYS_accept4,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_recvmmsg,
    SYS_sendto,
    SYS_sendmsg,
    SYS_sendmmsg,
    SYS_shutdown,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
    /* waiting */
    SYS_ppoll,
    SYS_pselect6,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_eventfd2,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_futex,
    SYS_nanosleep,
    SYS_clock_nanosleep,
    SYS_sched_yield,
    SYS_restart_syscall,
    /* memory; what may not be executable is below */
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_brk,
    SYS_mincore,
    SYS_msync,
    SYS_mlock,
    SYS_mlock2,
    SYS_munlock,
    SYS_mbind,
    SYS_get_mempolicy,
    SYS_set_mempolicy,
    SYS_membarrier,
    /* threads and signals of its own */
    SYS_exit,
    SYS_exit_group,
    SYS_gettid,
    SYS_getpid,
    SYS_getppid,
    SYS_set_robust_list,
    SYS_set_tid_address,
    SYS_rseq,
    SYS_sched_getaffinity,
    SYS_sched_setaffinity,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_getcpu,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigtimedwait,
    SYS_rt_sigsuspend,
    SYS_rt_sigpending,
    SYS_sigaltstack,
    /* asking */
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_gettimeofday,
    SYS_times,
    SYS_getrandom,
    SYS_getrusage,
    SYS_sysinfo,
    SYS_uname,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getpriority,
#ifdef SYS_open /* what newer architectures left out */
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_poll,
    SYS_select,
    SYS_epoll_wait,
    SYS_dup2,
    SYS_time,
    SYS_arch_prctl,
#endif
};

/* A call that is allowed if an argument's lower half has none of the bits of `mask` (any: at least one of them), or is one of
 * `values`. */
typedef enum check { CHECK_NONE, CHECK_ANY, CHECK_VALUES } check;
typedef struct ruled_call {
    int number, argument;
    check how;
    uint32_t mask;
    uint32_t values[6];
    int n_values;
} ruled_call;

static const ruled_call ruled_calls[] = {
    {SYS_mmap, 2, CHECK_NONE, .mask = PROT_EXEC},
    {SYS_mprotect, 2, CHECK_NONE, .mask = PROT_EXEC},
    {SYS_openat, 2, CHECK_NONE, .mask = OPEN_WRITES},
#ifdef SYS_open
    {SYS_open, 1, CHECK_NONE, .mask = OPEN_WRITES},
#endif
    {SYS_clone, 0, CHECK_ANY, .mask = CLONE_THREAD},
    {SYS_ioctl, 1, CHECK_VALUES, .values = {FIONREAD, FIONBIO, TCGETS, TIOCGWINSZ}, .n_values = 4},
    {SYS_fcntl, 1, CHECK_VALUES,
     .values = {F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD, F_DUPFD_CLOEXEC}, .n_values = 6},
    {SYS_prctl, 0, CHECK_VALUES, .values = {PR_SET_NAME}, .n_values = 1},
    {SYS_prlimit64, 2, CHECK_VALUES, .values = {0}, .n_values = 1}, /* asking, not setting */
};

/* Calls that may be unknown, so that the C library takes another. */
static const int unknown_calls[] = {
#ifdef SYS_clone3
    SYS_clone3,
#endif
#ifdef SYS_openat2
    SYS_openat2,
#endif
};

enum { MAX_FILTER = 2 * QN_COUNT(plain_calls) + 10 * QN_COUNT(ruled_calls) + 32 };

typedef struct filter {
    struct sock_filter code[MAX_FILTER];
    unsigned short n;
} filter;

static void add(filter *f, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
    QN_ASSERT(f->n < MAX_FILTER);
    f->code[f->n++] = (struct sock_filter)BPF_JUMP(code, k, yes, no);
}

static void add_load(filter *f, size_t at)
{
    add(f, BPF_LD | BPF_W | BPF_ABS, (uint32_t)at, 0, 0);
}

static void add_return(filter *f, uint32_t what)
{
    add(f, BPF_RET | BPF_K, what, 0, 0);
}

#define NUMBER_AT      offsetof(struct seccomp_data, nr)
#define ARGUMENT_AT(i) (offsetof(struct seccomp_data, args) + 8 * (size_t)(i)) /* little-endian */

/* If the call has this number, what follows up to `n` instructions decides. */
static void add_if_number(filter *f, int number, uint8_t n)
{
    add(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, n);
}

static void add_ruled(filter *f, const ruled_call *c)
{
    bool is_bits = c->how != CHECK_VALUES;
    uint8_t n_checks = is_bits ? 1 : (uint8_t)c->n_values;
    add_if_number(f, c->number, (uint8_t)(n_checks + 3));
    add_load(f, ARGUMENT_AT(c->argument));
    for (uint8_t i = 0; i < n_checks && !is_bits; i++) /* to the last of the two returns */
        add(f, BPF_JMP | BPF_JEQ | BPF_K, c->values[i], (uint8_t)(n_checks - i), 0);
    if (is_bits)
        add(f, BPF_JMP | BPF_JSET | BPF_K, c->mask, c->how == CHECK_ANY, c->how != CHECK_ANY);
    add_return(f, SECCOMP_RET_ERRNO | EPERM);
    add_return(f, SECCOMP_RET_ALLOW);
}

/* A signal to a thread of this process: abort() and timers of libraries. */
static void add_tgkill(filter *f)
{
    add_if_number(f, SYS_tgkill, 4);
    add_load(f, ARGUMENT_AT(0));
    add(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)getpid(), 1, 0);
    add_return(f, SECCOMP_RET_ERRNO | EPERM);
    add_return(f, SECCOMP_RET_ALLOW);
}

static void make_filter(filter *f)
{
    add_load(f, offsetof(struct seccomp_data, arch));
    add(f, BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
    add_return(f, SECCOMP_RET_KILL_PROCESS);
    add_load(f, NUMBER_AT);
#ifdef X32_BIT
    add(f, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
    add_return(f, SECCOMP_RET_ERRNO | ENOSYS);
#endif
    for (size_t i = 0; i < QN_COUNT(ruled_calls); i++)
        add_ruled(f, &ruled_calls[i]);
    add_tgkill(f);
    for (size_t i = 0; i < QN_COUNT(plain_calls); i++) {
        add_if_number(f, plain_calls[i], 1);
        add_return(f, SECCOMP_RET_ALLOW);
    }
    for (size_t i = 0; i < QN_COUNT(unknown_calls); i++) {
        add_if_number(f, unknown_calls[i], 1);
        add_return(f, SECCOMP_RET_ERRNO | ENOSYS);
    }
    add_return(f, SECCOMP_RET_ERRNO | EPERM);
}

static bool enter_seccomp(void)
{
    filter f = {.n = 0};
    make_filter(&f);
    struct sock_fprog prog = {f.n, f.code};
    long flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    /* positive: a thread that could not be taken in */
    long rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
    if (rc > 0)
        errno = EBUSY;
    return rc == 0;
}
#else
static bool enter_seccomp(void)
{
    errno = ENOSYS;
    return false;
}
#endif

/* ---- all of it ---- */

typedef struct part {
    const char *name;
    bool is_on;
    char note[64]; /* of one that is on: more; else why not */
} part;

static part part_of(const char *name, bool is_on)
{
    part p = {.name = name, .is_on = is_on};
    char why[64];
    if (!is_on)
        (void)snprintf(p.note, sizeof p.note, "%s", strerror_r(errno, why, sizeof why));
    return p;
}

/* "sandbox: a, b, c; without d (why)" */
static void tell(qn_str *out, const part *parts, size_t n)
{
    const char *before = "sandbox: ";
    for (size_t i = 0; i < n; i++) {
        if (!parts[i].is_on)
            continue;
        qn_str_addf(out, "%s%s%s", before, parts[i].name, parts[i].note);
        before = ", ";
    }
    before = out->n ? "; without " : "sandbox: without ";
    for (size_t i = 0; i < n; i++) {
        if (parts[i].is_on)
            continue;
        qn_str_addf(out, "%s%s (%s)", before, parts[i].name, parts[i].note);
        before = ", ";
    }
}

qn_status qn_sandbox_enter(qn_sandbox_mode mode, const char *const *readable, size_t n_readable,
                           qn_str *told, qn_err *err)
{
    qn_str_clear(told);
    if (mode == QN_SANDBOX_OFF || (QN_IS_SANITIZED && mode == QN_SANDBOX_AUTO)) {
        qn_str_adds(told,
                    mode == QN_SANDBOX_OFF ? "sandbox: off" : "sandbox: off (a sanitizer's build)");
        return told->failed ? qn_fail_nomem(err, 32) : QN_OK;
    }
    if (QN_IS_SANITIZED)
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "sandbox: this is a sanitizer's build, which needs what it forbids");
    struct rlimit none = {0, 0};
    long abi = 0;
    part parts[4];
    parts[0] = part_of("no new privileges", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    bool is_closed = setrlimit(RLIMIT_CORE, &none) == 0;
    parts[1] = part_of("no core", prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 && is_closed);
    parts[2] = part_of("Landlock", enter_landlock(readable, n_readable, &abi));
    if (parts[2].is_on)
        (void)snprintf(parts[2].note, sizeof parts[2].note, " %ld", abi);
    parts[3] = part_of("seccomp", enter_seccomp());
    for (size_t i = 0; i < QN_COUNT(parts) && mode == QN_SANDBOX_ON; i++)
        if (!parts[i].is_on)
            return qn_fail(err, QN_E_UNSUPPORTED, "sandbox: %s: %s", parts[i].name, parts[i].note);
    tell(told, parts, QN_COUNT(parts));
    return told->failed ? qn_fail_nomem(err, 64) : QN_OK;
}
