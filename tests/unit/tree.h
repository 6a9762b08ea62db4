/* SPDX-License-Identifier: Apache-2.0
 * tree.h - a tree of small files such as /proc and /sys, in the test's own folder (folder.h). */
#ifndef QN_TESTS_TREE_H
#define QN_TESTS_TREE_H

#include <string.h>

#include "base/file.h"
#include "folder.h"

/* Makes the folders on the way; name begins with a slash. */
static inline void tree_put(const char *name, const char *text)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s%s", dir, name);
    char *slash = strrchr(path, '/');
    *slash = 0;
    assert_int_equal(qn_mkdirs(path, NULL), QN_OK);
    *slash = '/';
    assert_int_equal(qn_file_write(path, text, strlen(text), NULL), QN_OK);
}

static inline void tree_clear(void)
{
    (void)remove_dir(NULL);
    assert_int_equal(qn_mkdirs(dir, NULL), QN_OK);
}

#endif
