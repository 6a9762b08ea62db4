/* SPDX-License-Identifier: Apache-2.0
 * confine.c - paths for the sandbox. It goes by what is there when it is entered: a link counts as what it leads to. */
#include "cmd/confine.h"

#include "base/file.h"
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_LINKS 1024 /* of a folder: a model has some dozen files */

static void add(cmd_files *f, const char *path, size_t n)
{
    char *copy = qn_arena_strndup(f->arena, path, n);
    if (copy && qn_grow(&f->paths, &f->cap, f->n + 1, sizeof *f->paths, QN_MEM_MISC))
        f->paths[f->n++] = copy;
    else
        f->has_failed = true;
}

/* "name-00001-of-00003.gguf": the others, too. */
static void add_parts(cmd_files *f, const char *path)
{
    static const char tail[] = "-00001-of-00001.gguf";
    size_t n = strlen(path), n_tail = sizeof tail - 1;
    uint64_t n_parts = 0;
    char name[PATH_MAX];
    if (n <= n_tail || !qn_ends_with(path, ".gguf") || memcmp(path + n - 14, "-of-", 4) != 0 ||
        !qn_parse_u64(path + n - 10, 5, 99999, &n_parts))
        return;
    for (unsigned i = 1; i <= n_parts; i++) {
        int k = snprintf(name, sizeof name, "%.*s-%05u-of-%05u.gguf", (int)(n - n_tail), path, i,
                         (unsigned)n_parts);
        if (k > 0 && (size_t)k < sizeof name)
            add(f, name, (size_t)k);
    }
}

/* A hub's cache has links to files that lie elsewhere. */
static void add_links(cmd_files *f, const char *folder)
{
    char path[PATH_MAX];
    struct stat st;
    size_t n_links = 0;
    DIR *d = opendir(folder);
    if (!d)
        return;
    for (const struct dirent *e; (e = readdir(d)) && n_links < MAX_LINKS;) {
        int k = snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (k <= 0 || (size_t)k >= sizeof path || lstat(path, &st) != 0 || !S_ISLNK(st.st_mode))
            continue;
        add(f, path, (size_t)k);
        n_links++;
    }
    (void)closedir(d);
}

void cmd_files_add_model(cmd_files *f, const char *path)
{
    if (!path)
        return;
    add(f, path, strlen(path));
    if (qn_dir_exists(path))
        add_links(f, path);
    else
        add_parts(f, path);
}

static void add_folder_of(cmd_files *f, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        add(f, ".", 1);
    else
        add(f, path, slash == path ? 1 : (size_t)(slash - path));
}

void cmd_files_add_again(cmd_files *f, const char *path)
{
    char target[PATH_MAX];
    if (!path)
        return;
    add_folder_of(f, path);
    if (realpath(path, target))
        add_folder_of(f, target);
}

qn_status cmd_confine(qn_sandbox_mode mode, const cmd_files *f, qn_str *told, qn_err *err)
{
    if (f->has_failed)
        return qn_fail_nomem(err, f->n * sizeof *f->paths);
    return qn_sandbox_enter(mode, f->paths, f->n, told, err);
}

void cmd_files_fini(cmd_files *f)
{
    qn_free(f->paths);
    f->paths = NULL;
}
