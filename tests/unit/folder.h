/* SPDX-License-Identifier: Apache-2.0
 * folder.h - a folder of its own for a group of tests: make_dir and remove_dir are the group's fixtures. */
#ifndef QN_TESTS_FOLDER_H
#define QN_TESTS_FOLDER_H

#include <stdio.h>
#include <stdlib.h>

static char dir[64];

static inline int make_dir(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/quern-test-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static inline int remove_dir(void **state)
{
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

/* Valid until the next call. */
static inline const char *path_of(const char *name)
{
    static char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

#endif
