/* SPDX-License-Identifier: Apache-2.0
 * test_file.c - what is opened and what is refused, atomic writing when the disk is full, paths, the guard of mapped files.
 * What changes the whole process (limits, mounts, signals) happens in a child. */
#include "check.h"

#include "base/file.h"
#include "base/mem.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "quern-test-file-XXXXXX"; /* in the working folder */

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[64];
    (void)snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static const char *in_folder(const char *name)
{
    static char path[2][256];
    static int at;
    at = !at;
    (void)snprintf(path[at], sizeof path[at], "%s/%s", folder, name);
    return path[at];
}

static void put(const char *path, const void *p, size_t n)
{
    qn_err err;
    if (qn_file_write(path, p, n, &err) != QN_OK)
        fail_msg("%s", err.msg);
}

static void refused(const char *path, qn_status want, const char *words)
{
    qn_file *f = (qn_file *)&f;
    qn_str text = {0};
    qn_err err;
    assert_int_equal(qn_file_map(&f, path, &err), want);
    assert_null(f);
    if (!strstr(err.msg, words) || !strstr(err.msg, path))
        fail_msg("'%s' does not name '%s' and say '%s'", err.msg, path, words);
    assert_int_equal(qn_file_read(&text, path, 100, &err), want);
    assert_non_null(strstr(err.msg, words));
    qn_str_fini(&text);
}

static void test_refused(void **state)
{
    (void)state;
    refused(in_folder("missing"), QN_E_NOT_FOUND, "No such file");
    refused(in_folder("missing/below"), QN_E_NOT_FOUND, "No such file");
    refused(folder, QN_E_IO, "is a folder, want a regular file");
    refused("/dev/null", QN_E_IO, "is a device, want a regular file");
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    refused(in_folder("pipe"), QN_E_IO,
            "is a pipe, want a regular file"); /* and does not wait for a writer */
    assert_int_equal(symlink("nowhere", in_folder("dangling")), 0);
    refused(in_folder("dangling"), QN_E_NOT_FOUND, "No such file");
    assert_int_equal(symlink("loop", in_folder("loop")), 0);
    refused(in_folder("loop"), QN_E_IO, "symbolic links");
    put(in_folder("secret"), "x", 1);
    refused(in_folder("secret/below"), QN_E_IO, "Not a directory");
    assert_int_equal(chmod(in_folder("secret"), 0), 0);
    if (geteuid() == 0)
        print_message("skipped: a file without permission (root reads it)\n");
    else
        refused(in_folder("secret"), QN_E_IO, "Permission denied");
}

static void test_map_and_read(void **state)
{
    (void)state;
    static char big[20000];
    qn_file *f;
    qn_str text = {0};
    qn_err err;
    size_t before = qn_mem_live(QN_MEM_MISC);
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (char)(i * 7);
    put(in_folder("big"), big, sizeof big);
    assert_int_equal(symlink("big", in_folder("link")), 0);
    assert_int_equal(qn_file_map(&f, in_folder("link"), &err), QN_OK);
    assert_int_equal(f->size, sizeof big);
    assert_memory_equal(f->data, big, sizeof big);
    assert_string_equal(f->path, in_folder("link"));
    qn_file_unmap(f);
    qn_file_unmap(NULL);
    put(in_folder("empty"), NULL, 0);
    assert_int_equal(qn_file_map(&f, in_folder("empty"), &err), QN_OK);
    assert_int_equal(f->size, 0);
    assert_null(f->data);
    qn_file_unmap(f);
    assert_int_equal(qn_file_read(&text, in_folder("big"), sizeof big, &err), QN_OK);
    assert_int_equal(text.n, sizeof big);
    assert_memory_equal(text.p, big, sizeof big);
    assert_int_equal(qn_file_read(&text, in_folder("big"), sizeof big - 1, &err), QN_E_FORMAT);
    assert_non_null(strstr(err.msg, "larger than 19999 bytes"));
    assert_int_equal(qn_file_read(&text, in_folder("empty"), 0, &err), QN_OK);
    assert_int_equal(text.n, 0);
    assert_int_equal(qn_file_read(&text, "/proc/self/stat", 4096, &err),
                     QN_OK); /* says its size is 0 */
    assert_true(text.n > 10);
    qn_str_fini(&text);
    assert_int_equal(qn_mem_live(QN_MEM_MISC), before);
    assert_true(qn_file_exists(in_folder("link")) && qn_dir_exists(folder));
    assert_false(qn_file_exists(folder) || qn_dir_exists(in_folder("big")) ||
                 qn_file_exists(in_folder("missing")));
}

static size_t entries(const char *path)
{
    DIR *d = opendir(path);
    size_t n = 0;
    assert_non_null(d);
    while (readdir(d))
        n++;
    (void)closedir(d);
    return n - 2;
}

static void test_write(void **state)
{
    (void)state;
    struct stat st;
    qn_str text = {0};
    qn_err err;
    put(in_folder("w"), "first", 5);
    size_t n = entries(folder);
    put(in_folder("w"), "second!", 7);
    assert_int_equal(entries(folder), n);
    assert_int_equal(qn_file_read(&text, in_folder("w"), 100, &err), QN_OK);
    assert_string_equal(text.p, "second!");
    assert_int_equal(stat(in_folder("w"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    qn_str_fini(&text);
    assert_int_equal(qn_file_write(in_folder("missing/w"), "x", 1, &err), QN_E_NOT_FOUND);
    assert_int_equal(mkdir(in_folder("taken"), 0755), 0);
    assert_int_equal(qn_file_write(in_folder("taken"), "x", 1, &err), QN_E_IO);
    assert_non_null(strstr(err.msg, "rename"));
    assert_int_equal(entries(folder), n + 1); /* nothing is left of either */
}

/* Runs fn in a child; its exit status (negative: the signal), and what it wrote to stderr. */
static int in_child(int (*fn)(void), char *said, size_t size)
{
    int fd[2], status = 0;
    assert_int_equal(pipe(fd), 0);
    (void)fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(fd[1], STDERR_FILENO);
        _exit(fn());
    }
    (void)close(fd[1]);
    size_t n = 0;
    for (ssize_t k; n + 1 < size && (k = read(fd[0], said + n, size - 1 - n)) > 0;)
        n += (size_t)k;
    said[n] = 0;
    (void)close(fd[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

enum { FINE = 0, CANNOT = 99 };

/* A write that does not fit: an error, the old content, nothing beside it. Numbers of steps that went wrong, else FINE. */
static int full(const char *dir, const char *reason)
{
    static char big[1 << 20];
    char path[256];
    qn_str text = {0};
    qn_err err = {0};
    (void)snprintf(path, sizeof path, "%s/kept", dir);
    if (qn_file_write(path, "old", 3, &err) != QN_OK)
        return 1;
    if (qn_file_write(path, big, sizeof big, &err) != QN_E_IO)
        return 2;
    if (!strstr(err.msg, reason))
        return 3;
    if (qn_file_read(&text, path, 100, &err) != QN_OK || strcmp(text.p, "old") != 0)
        return 4;
    qn_str_fini(&text);
    return entries(dir) == 1 ? FINE : 5;
}

static int write_over_limit(void)
{
    struct rlimit most = {65536, 65536};
    (void)signal(SIGXFSZ, SIG_IGN);
    if (mkdir(in_folder("limit"), 0755) != 0 || setrlimit(RLIMIT_FSIZE, &most) != 0)
        return CANNOT;
    return full(in_folder("limit"), "File too large");
}

static int write_to_full_disk(void)
{
    const char *dir = in_folder("disk");
    if (mkdir(dir, 0755) != 0)
        return CANNOT;
    if (unshare(geteuid() ? CLONE_NEWUSER | CLONE_NEWNS : CLONE_NEWNS) != 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("quern", dir, "tmpfs", 0, "size=128k") != 0)
        return CANNOT;
    return full(dir, "No space left");
}

static void test_full_disk(void **state)
{
    (void)state;
    char said[512];
    assert_int_equal(in_child(write_over_limit, said, sizeof said), FINE);
    int s = in_child(write_to_full_disk, said, sizeof said);
    if (s == CANNOT)
        print_message("skipped: a full disk (no file system can be mounted here)\n");
    else
        assert_int_equal(s, FINE);
}

static void test_paths(void **state)
{
    (void)state;
    static const char *const bad[] = {"",     ".",           "..",   "...",          ".hidden",
                                      "a/b",  "/etc/passwd", "../x", "a b",          "na\xc3\xafve",
                                      "a\nb", "a\\b",        "a:b",  "model\x1b[2J", "~",
                                      "a*"};
    static const char *const good[] = {
        "a", "config.json", "model-00001-of-00002.safetensors", "_x", "-x", "a..b", "A9"};
    qn_err err;
    qn_str out = {0};
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        qn_str_clear(&out);
        assert_int_equal(qn_path_join(&out, "dir", bad[i], &err), QN_E_FORMAT);
        assert_int_equal(out.n, 0);
        assert_non_null(strstr(err.msg, "not a plain file name"));
        assert_null(strpbrk(err.msg, "\x1b\n"));
    }
    for (size_t i = 0; i < QN_COUNT(good); i++) {
        qn_str_clear(&out);
        assert_int_equal(qn_path_join(&out, "dir", good[i], &err), QN_OK);
        assert_true(qn_starts_with(out.p, "dir/"));
        assert_string_equal(out.p + 4, good[i]);
    }
    qn_str_fini(&out);
}

static void test_folders(void **state)
{
    (void)state;
    qn_err err;
    qn_str out = {0};
    assert_int_equal(qn_mkdirs(in_folder("a/b//c/"), &err), QN_OK);
    assert_true(qn_dir_exists(in_folder("a/b/c")));
    assert_int_equal(qn_mkdirs(in_folder("a/b/c"), &err), QN_OK);
    put(in_folder("a/file"), "x", 1);
    assert_int_equal(qn_mkdirs(in_folder("a/file"), &err), QN_E_IO);
    assert_int_equal(qn_mkdirs(in_folder("a/file/d"), &err), QN_E_IO);
    /* the cache folder */
    char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;
    char *xdg = getenv("XDG_CACHE_HOME") ? strdup(getenv("XDG_CACHE_HOME")) : NULL;
    (void)setenv("XDG_CACHE_HOME", in_folder("xdg"), 1);
    assert_int_equal(qn_cache_dir(&out, &err), QN_OK);
    assert_string_equal(out.p, in_folder("xdg/quern"));
    assert_true(qn_dir_exists(out.p));
    qn_str_clear(&out);
    (void)setenv("XDG_CACHE_HOME", "", 1); /* empty is unset */
    (void)setenv("HOME", in_folder("home"), 1);
    assert_int_equal(qn_cache_dir(&out, &err), QN_OK);
    assert_string_equal(out.p, in_folder("home/.cache/quern"));
    qn_str_clear(&out);
    (void)unsetenv("HOME");
    assert_null(qn_env("HOME"));
    assert_int_equal(qn_cache_dir(&out, &err), QN_E_NOT_FOUND);
    qn_str_fini(&out);
    if (home)
        (void)setenv("HOME", home, 1);
    (void)(xdg ? setenv("XDG_CACHE_HOME", xdg, 1) : unsetenv("XDG_CACHE_HOME"));
    free(home);
    free(xdg);
}

/* Reads a page that the file no longer has. */
static int read_truncated(void)
{
    static char page[65536];
    qn_file *first, *f;
    if (qn_file_write(in_folder("other"), page, sizeof page, NULL) != QN_OK ||
        qn_file_write(in_folder("cut"), page, sizeof page, NULL) != QN_OK ||
        qn_file_map(&first, in_folder("other"), NULL) != QN_OK ||
        qn_file_map(&f, in_folder("cut"), NULL) != QN_OK)
        return CANNOT;
    qn_file_guard();
    if (truncate(in_folder("cut"), 0) != 0)
        return CANNOT;
    return ((const volatile uint8_t *)f->data)[f->size / 2];
}

/* The same in a mapping that is not ours: the signal's own end. */
static int read_foreign(void)
{
    static char page[65536];
    int fd = -1;
    if (qn_file_write(in_folder("foreign"), page, sizeof page, NULL) == QN_OK)
        fd = open(in_folder("foreign"), O_RDONLY);
    char *p = mmap(NULL, sizeof page, PROT_READ, MAP_PRIVATE, fd, 0);
    qn_file_guard();
    if (p == MAP_FAILED || truncate(in_folder("foreign"), 0) != 0)
        return CANNOT;
    return ((const volatile char *)p)[sizeof page / 2];
}

static qn_file *map_some(const char *path)
{
    static const char some[100] = "some";
    qn_file *f = NULL;
    assert_int_equal(qn_file_write(path, some, sizeof some, NULL), QN_OK);
    assert_int_equal(qn_file_map(&f, path, NULL), QN_OK);
    return f;
}

/* Writes at the end of a file whose time of change is then another, however coarse the clock. */
static void touch(const char *path)
{
    const struct timespec then[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0 && pwrite(fd, "x", 1, 99) == 1 && futimens(fd, then) == 0);
    (void)close(fd);
}

static void test_check(void **state)
{
    (void)state;
    char path[512];
    qn_err err;
    (void)snprintf(path, sizeof path, "%s", in_folder("checked"));
    qn_file *f = map_some(path);
    assert_int_equal(qn_file_check(f, &err), QN_OK);
    assert_int_equal(qn_file_write(path, "other", 5, &err), QN_OK); /* beside it */
    assert_int_equal(qn_file_check(f, &err), QN_OK);
    qn_file_unmap(f);
    f = map_some(path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(qn_file_check(f, &err), QN_OK);
    qn_file_unmap(f);
    f = map_some(path);
    touch(path);
    assert_int_equal(qn_file_check(f, &err), QN_E_IO);
    assert_non_null(strstr(err.msg, "checked: the file changed while in use"));
    qn_file_unmap(f);
    f = map_some(path);
    assert_int_equal(truncate(path, 50), 0);
    assert_int_equal(qn_file_check(f, &err), QN_E_IO);
    qn_file_unmap(f);
}

static int check_guarded(void)
{
    qn_file *f = map_some(in_folder("cut"));
    qn_file_guard();
    touch(f->path);
    return qn_file_check(f, NULL) == QN_OK ? FINE : CANNOT;
}

static void test_guard(void **state)
{
    (void)state;
    char said[512], want[512];
    assert_int_equal(in_child(check_guarded, said, sizeof said), 74);
    (void)snprintf(want, sizeof want,
                   "quern: %s: the file changed or became unreadable while in use\n",
                   in_folder("cut"));
    assert_string_equal(said, want);
    assert_int_equal(in_child(read_truncated, said, sizeof said), 74);
    (void)snprintf(want, sizeof want,
                   "quern: %s: the file changed or became unreadable while in use\n",
                   in_folder("cut"));
    assert_string_equal(said, want);
    assert_int_equal(in_child(read_foreign, said, sizeof said), -SIGBUS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused), cmocka_unit_test(test_map_and_read),
        cmocka_unit_test(test_write),   cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_paths),   cmocka_unit_test(test_folders),
        cmocka_unit_test(test_check),   cmocka_unit_test(test_guard),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
