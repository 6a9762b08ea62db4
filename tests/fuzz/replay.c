/* SPDX-License-Identifier: Apache-2.0
 * replay.c - runs a fuzz target over the files of its corpus, as a normal test: replay FOLDER.
 * Whatever the target finds wrong ends the program; the name of the file is printed first. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int is_file(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

/* The bytes are copied to a block of just their size, so that a sanitizer sees any read past them. */
static bool replay(const char *path)
{
    qn_file *f = NULL;
    qn_err err;

    if (qn_file_map(&f, path, &err) != QN_OK) {
        printf("%s\n", err.msg);
        return false;
    }
    uint8_t *copy = malloc(f->size ? f->size : 1);
    if (copy) {
        if (f->size)
            memcpy(copy, f->data, f->size);
        (void)LLVMFuzzerTestOneInput(copy, f->size);
    }
    free(copy);
    qn_file_unmap(f);
    return copy != NULL;
}

int main(int argc, char **argv)
{
    struct dirent **names = NULL;
    int n = argc == 2 ? scandir(argv[1], &names, is_file, alphasort) : -1, n_failed = 0;

    if (n <= 0) {
        printf("no corpus in %s\n0 passed, 1 failed, 0 skipped\n",
               argc == 2 ? argv[1] : "(no folder given)");
        return 1;
    }
    for (int i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", argv[1], names[i]->d_name);
        printf("%s\n", names[i]->d_name);
        (void)fflush(stdout);
        n_failed += !replay(path);
        free(names[i]);
    }
    free(names);
    printf("%d passed, %d failed, 0 skipped\n", n - n_failed, n_failed);
    return n_failed != 0;
}
