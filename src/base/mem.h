/* SPDX-License-Identifier: Apache-2.0
 * mem.h - the only callers of malloc: aligned, tagged allocation, and arenas.
 *
 * Every block is 64-byte aligned. Weights, K/V and activations of 64 KiB and more lie side by side in
 * huge pages. Fresh memory is not resident before it is written. The live bytes of each tag are counted (qn_mem_live), so that a memory plan can be
 * checked. A failed allocation returns NULL and is the caller's QN_E_NOMEM. Threads: any (counters
 * are atomic). */
#ifndef QN_BASE_MEM_H
#define QN_BASE_MEM_H

#include "base/base.h"

typedef enum qn_mem_tag {
    QN_MEM_MISC,
    QN_MEM_WEIGHTS,
    QN_MEM_KV,
    QN_MEM_ACTIVATIONS,
    QN_MEM_VOCAB,
    QN_MEM_REQUEST,
    QN_MEM_N_TAGS
} qn_mem_tag;

void *qn_alloc(size_t bytes, qn_mem_tag tag);
void *qn_alloc_array(size_t n, size_t size, qn_mem_tag tag); /* NULL too when n * size overflows */
void *qn_calloc(size_t n, size_t size, qn_mem_tag tag);      /* zeroed */
void *qn_realloc(void *p, size_t bytes, qn_mem_tag tag); /* p may be NULL; on NULL p is untouched */
void qn_free(void *p);                                   /* NULL allowed */
char *qn_strdup(const char *s, qn_mem_tag tag);
char *qn_strndup(const char *s, size_t n, qn_mem_tag tag); /* copies n bytes, adds NUL */
/* Address space that reads as zeros and takes no memory; not to be written. NULL: none left. */
void *qn_zeros_map(size_t bytes);
void qn_zeros_unmap(void *p, size_t bytes); /* NULL allowed */
/* Bytes of this process in memory, mapped files included: now, and at most so far; 0: not known. */
size_t qn_mem_resident(void);
size_t qn_mem_resident_peak(void);
bool qn_mem_resident_peak_reset(void); /* false: the peak stays */
size_t qn_mem_resident_rest(void);  /* now, without the large blocks of weights, K/V, activations */
size_t qn_mem_live(qn_mem_tag tag); /* bytes */
const char *qn_mem_tag_name(qn_mem_tag tag);

/* Grows *p (elements of `size` bytes) so that at least `want` fit; *cap counts elements.
 * Doubles. */
QN_MUST_USE bool qn_grow(void *p_ptr, size_t *cap, size_t want, size_t size, qn_mem_tag tag);

/* Arena: many small pieces with one lifetime. Pieces are 16-byte aligned and never move. */
typedef struct qn_arena {
    struct qn_arena_chunk *chunks; /* newest first */
    size_t bytes, limit;           /* taken so far; most it may take (0: no limit) */
    qn_mem_tag tag;
} qn_arena;
void qn_arena_init(qn_arena *a, size_t limit, qn_mem_tag tag);
void *qn_arena_alloc(qn_arena *a, size_t bytes); /* NULL: out of memory or over the limit */
char *qn_arena_strndup(qn_arena *a, const char *s, size_t n);
void qn_arena_fini(qn_arena *a);

#endif
