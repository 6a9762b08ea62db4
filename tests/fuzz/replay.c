/* SPDX-License-Identifier: Apache-2.0
 * replay.c - runs a fuzz target over the files of its corpus, as a normal test: replay FOLDER.
 * Whatever the target finds wrong ends the program; the name of the file is printed first. */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int is_file(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

/* The bytes lie in a block of just their size, so that a sanitizer sees any read past them. Nothing
 * of base/mem is used: targets check that they leave nothing behind. */
static bool replay(const char *path)
{
    FILE *f = fopen(path, "rb");
    long n = f && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    uint8_t *data = n >= 0 && fseek(f, 0, SEEK_SET) == 0 ? malloc(n ? (size_t)n : 1) : NULL;
    bool is_read = data && fread(data, 1, (size_t)n, f) == (size_t)n;

    if (is_read)
        (void)LLVMFuzzerTestOneInput(data, (size_t)n);
    else
        printf("%s: cannot be read\n", path);
    free(data);
    if (f)
        (void)fclose(f);
    return is_read;
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
