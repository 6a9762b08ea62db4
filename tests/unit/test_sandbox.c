/* SPDX-License-Identifier: Apache-2.0
 * test_sandbox.c - a child gives up what a server does not need, then tries it. */
#include "check.h"

#include "base/sandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define FOLDER QN_SOURCE_DIR "/tests/golden/models/qwen3-tied-bf16"

/* What the child finds wrong, as bits of a number that it tells by a pipe: no assertion may jump out of it. */
static uint64_t wrong;
static int n_seen;

static void want(bool is_so)
{
    if (!is_so)
        wrong |= 1ull << n_seen;
    n_seen++;
}

/* In a child: its findings are the result. */
static uint64_t in_child(void (*fn)(void))
{
    int p[2], status = 0;
    uint64_t found = UINT64_MAX;
    assert_int_equal(pipe(p), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        fn();
        ssize_t k = write(p[1], &wrong, sizeof wrong);
        _exit(k == sizeof wrong ? 0 : 1);
    }
    (void)close(p[1]);
    ssize_t k = read(p[0], &found, sizeof found);
    (void)close(p[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(k, sizeof found);
    return found;
}

static bool is_refused(long rc)
{
    return rc < 0 && (errno == EPERM || errno == EACCES);
}

static void *add_one(void *arg)
{
    ++*(int *)arg;
    return arg;
}

static char told_text[512];

static bool enter(qn_sandbox_mode mode)
{
    static const char *const readable[] = {FOLDER, "/nowhere/at/all"};
    qn_str told = {0};
    qn_err err = {0};
    bool ok = qn_sandbox_enter(mode, readable, QN_COUNT(readable), &told, &err) == QN_OK;
    (void)snprintf(told_text, sizeof told_text, "%.400s", ok ? told.p : err.msg);
    qn_str_fini(&told);
    return ok;
}

/* 0: it is off; 1: seccomp; 2: Landlock; 3: both. */
static int n_parts(void)
{
    const char *without = strstr(told_text, "without");
    const char *filter = strstr(told_text, "seccomp"), *files = strstr(told_text, "Landlock");
    return (filter && (!without || filter < without)) +
           2 * (files && (!without || files < without));
}

static void say_what_is_on(void)
{
    want(enter(QN_SANDBOX_AUTO));
    wrong |= (uint64_t)n_parts() << 32;
}

static void still_works(void)
{
    int n = 0, fd;
    char byte;
    pthread_t t;
    want(enter(QN_SANDBOX_AUTO));
    want((fd = open(FOLDER "/config.json", O_RDONLY)) >= 0);
    want(read(fd, &byte, 1) == 1 && close(fd) == 0);
    want((fd = open("/proc/self/stat", O_RDONLY)) >= 0 && close(fd) == 0);
    want(pthread_create(&t, NULL, add_one, &n) == 0 && pthread_join(t, NULL) == 0 && n == 1);
    void *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    want(p != MAP_FAILED && munmap(p, 1 << 20) == 0);
    struct rlimit r;
    want(getrlimit(RLIMIT_CORE, &r) == 0 && r.rlim_cur == 0 && r.rlim_max == 0);
    want(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 || errno == EPERM);
}

static void calls_are_refused(void)
{
    int pair[2];
    char *const argv[] = {(char *)"true", NULL};
    want(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    want(enter(QN_SANDBOX_AUTO));
    want(send(pair[0], "x", 1, 0) == 1); /* one that is open stays so */
    want(is_refused(execve("/bin/true", argv, NULL)));
    want(is_refused(fork()));
    want(is_refused(socket(AF_INET, SOCK_STREAM, 0)));
    want(is_refused(socket(AF_UNIX, SOCK_DGRAM, 0)));
    want(is_refused(open("/dev/null", O_WRONLY)));
    want(is_refused(open("/tmp/quern-test-sandbox", O_RDWR | O_CREAT, 0600)));
    want(is_refused(open("/tmp", O_TMPFILE | O_WRONLY, 0600)));
    want(is_refused(open(FOLDER "/config.json", O_RDONLY | O_TRUNC)));
    want(is_refused(unlink("/tmp/quern-test-sandbox")));
    want(is_refused(rename("/tmp/quern-test-sandbox", "/tmp/quern-test-sandbox-2")));
    want(is_refused(mkdir("/tmp/quern-test-sandbox", 0700)));
    want(is_refused(chdir("/")));
    want(is_refused(syscall(SYS_ptrace, 0, 0, 0, 0)));
    want(is_refused(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0)));
    want(is_refused(kill(getppid(), 0)));
    want(is_refused(syscall(SYS_tgkill, getppid(), getppid(), 0)));
    want(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 0) == 0);
    void *code = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    want(code == MAP_FAILED && errno == EPERM);
    void *data = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    want(is_refused(mprotect(data, 4096, PROT_READ | PROT_EXEC)));
    struct rlimit r = {1, 1};
    want(is_refused(setrlimit(RLIMIT_CORE, &r)));
    want(is_refused(syscall(SYS_memfd_create, "x", 0)));
    want(is_refused(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)));
    want(syscall(SYS_openat2, -1, "", NULL, (size_t)0) < 0 && errno == ENOSYS);
}

static void files_are_refused(void)
{
    want(enter(QN_SANDBOX_AUTO));
    want(is_refused(open("/etc/passwd", O_RDONLY)));
    want(is_refused(open(QN_SOURCE_DIR "/CMakeLists.txt", O_RDONLY)));
    want(is_refused(open(FOLDER "/../../weights.safetensors", O_RDONLY)));
    want(is_refused(open("/proc/1/status", O_RDONLY)));
}

static void nothing_is_refused(void)
{
    int fd;
    want(enter(QN_SANDBOX_OFF));
    want(strcmp(told_text, "sandbox: off") == 0);
    want((fd = open("/dev/null", O_WRONLY)) >= 0 && close(fd) == 0);
}

static void *wait_forever(void *arg)
{
    for (;;)
        (void)pause();
    return arg;
}

static void threads_keep_it_out(void)
{
    pthread_t t;
    want(pthread_create(&t, NULL, wait_forever, NULL) == 0);
    want(enter(QN_SANDBOX_AUTO)); /* the filter of calls takes the thread in, Landlock could not */
    want((n_parts() & 2) == 0);
}

static int parts(void)
{
    static int found = -1;
    if (found < 0)
        found = (int)(in_child(say_what_is_on) >> 32);
    return found;
}

static void test_works(void **state)
{
    (void)state;
    if (!parts()) {
        print_message("skipped: this kernel or build has no sandbox\n");
        return;
    }
    assert_int_equal(in_child(still_works), 0);
}

static void test_calls(void **state)
{
    (void)state;
    if (!(parts() & 1)) {
        print_message("skipped: no seccomp here\n");
        return;
    }
    assert_int_equal(in_child(calls_are_refused), 0);
}

static void test_files(void **state)
{
    (void)state;
    if (!(parts() & 2)) {
        print_message("skipped: no Landlock here\n");
        return;
    }
    assert_int_equal(in_child(files_are_refused), 0);
    assert_int_equal(in_child(threads_keep_it_out), 0);
}

static void test_off(void **state)
{
    (void)state;
    assert_int_equal(in_child(nothing_is_refused), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_works),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
