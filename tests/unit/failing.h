/* SPDX-License-Identifier: Apache-2.0
 * failing.h - memory that fails: malloc, calloc and mmap of the program, which CMakeLists.txt wraps.
 *
 *   atomic_store(&n_calls, 0); atomic_store(&fail_at, 3); ... the third allocation from here on fails
 *
 * Files have their own errors: only mmap of memory fails. One program, one file includes this. Threads: any. */
#ifndef TESTS_FAILING_H
#define TESTS_FAILING_H

#include "base/mem.h"
#include <stdatomic.h>
#include <sys/mman.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_mmap(void *p, size_t n, int prot, int flags, int fd, off_t at);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t at);

static atomic_long n_calls, fail_at; /* fail_at 0: never */
static atomic_bool stays_failed;     /* from fail_at on every one: memory that is gone stays gone */

static bool fails(void)
{
    long call = atomic_fetch_add(&n_calls, 1) + 1, at = atomic_load(&fail_at);
    return at && (call == at || (call > at && atomic_load(&stays_failed)));
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t at)
{
    return fd < 0 && fails() ? MAP_FAILED : __real_mmap(p, n, prot, flags, fd, at);
}

/* Bytes that are held, of every tag. */
static inline size_t live(void)
{
    size_t n = 0;
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        n += qn_mem_live((qn_mem_tag)t);
    return n;
}

#endif
