/* SPDX-License-Identifier: Apache-2.0
 * mem.c - allocation. Each block:  [ header, 64 bytes ][ user bytes ... ]
 *
 * A block is malloc's, or, when it is large and of a tag that lives as long as a model, a piece of
 * a region: 8 to 256 MiB of address space (as much as the tag has already; more for a larger block)
 * on a 2 MiB border that asks for huge pages. Reads of weights run 15-20 % faster from those than
 * from 4 KiB pages (measured on 2 Zen 3 cores), whatever the size of a single matrix, and nothing is
 * resident until it is written.
 *
 *   region  [ header ][ block ][ header ][ block ] ... [ never touched ]
 *
 * Blocks are put one after the other; a freed one gives its pages back at once, its addresses when
 * it is the last of the region; a region goes when its last block does. */
#include "base/mem.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEADER     ((size_t)64)
#define PAGE       ((size_t)4096)
#define HUGE_PAGE  ((size_t)2 << 20)
#define MIN_REGION ((size_t)8 << 20)
#define MAX_REGION ((size_t)256 << 20)
#define LARGE      ((size_t)64 << 10) /* blocks of this many bytes and more go to regions */
#define MAGIC      0x51756572u

typedef struct region {
    struct region *next;
    char *base;
    size_t size, used, dirty; /* from `dirty` on every byte is zero */
    size_t n_blocks;
} region;

typedef struct header {
    void *raw; /* malloc's, or NULL */
    region *region;
    size_t bytes;
    uint32_t tag, magic;
} header;
_Static_assert(sizeof(header) <= HEADER, "the header fits its place");

static atomic_size_t live[QN_MEM_N_TAGS];
static region *regions[QN_MEM_N_TAGS]; /* under lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static header *header_of(void *p)
{
    return (header *)((char *)p - HEADER);
}

/* ---- regions (all under lock) ---- */

static region *region_new(size_t bytes)
{
    size_t size, span;
    if (!qn_add_size(bytes, HUGE_PAGE - 1, &size))
        return NULL;
    size &= ~(HUGE_PAGE - 1);
    region *r = malloc(sizeof *r);
    if (!r || !qn_add_size(size, HUGE_PAGE, &span)) {
        free(r);
        return NULL;
    }
    char *p = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED) {
        free(r);
        return NULL;
    }
    size_t before = -(uintptr_t)p & (HUGE_PAGE - 1); /* to the border; cut off, and the rest */
    if (before)
        (void)munmap(p, before);
    if (before < HUGE_PAGE)
        (void)munmap(p + before + size, HUGE_PAGE - before);
    *r = (region){.base = p + before, .size = size};
    (void)madvise(r->base, size, MADV_HUGEPAGE); /* a hint: failure is harmless */
    return r;
}

/* `total` bytes, a multiple of HEADER. */
static char *region_take(qn_mem_tag tag, size_t total, bool zeroed, region **from)
{
    region *r = regions[tag];
    size_t have = MIN_REGION;
    for (; r && r->size - r->used < total; r = r->next)
        have += r->size;
    if (!r) {
        r = region_new(QN_MAX(total, QN_MIN(have, MAX_REGION)));
        if (!r)
            return NULL;
        r->next = regions[tag];
        regions[tag] = r;
    }
    char *p = r->base + r->used;
    if (zeroed && r->used < r->dirty)
        memset(p, 0, QN_MIN(total, r->dirty - r->used));
    r->used += total;
    r->dirty = QN_MAX(r->dirty, r->used);
    r->n_blocks++;
    *from = r;
    return p;
}

static void region_give_back(region *r, qn_mem_tag tag, char *p, size_t total)
{
    if (--r->n_blocks == 0) {
        region **at = &regions[tag];
        while (*at != r)
            at = &(*at)->next;
        *at = r->next;
        (void)munmap(r->base, r->size);
        free(r);
        return;
    }
    uintptr_t begin = QN_ROUND_UP((uintptr_t)p, PAGE), end = (uintptr_t)(p + total) & ~(PAGE - 1);
    if (begin < end)
        (void)madvise(p + (begin - (uintptr_t)p), end - begin, MADV_DONTNEED);
    if (p + total == r->base + r->used)
        r->used -= total;
}

/* ---- blocks ---- */

static bool goes_to_region(size_t bytes, qn_mem_tag tag)
{
    return bytes >= LARGE &&
           (tag == QN_MEM_WEIGHTS || tag == QN_MEM_KV || tag == QN_MEM_ACTIVATIONS);
}

static size_t region_bytes(size_t bytes)
{
    return QN_ROUND_UP(bytes, HEADER) + HEADER;
}

static void *take(size_t bytes, qn_mem_tag tag, bool zeroed)
{
    size_t total;
    if (!qn_add_size(bytes, 2 * HEADER, &total))
        return NULL;
    header h = {.bytes = bytes, .tag = (uint32_t)tag, .magic = MAGIC};
    char *p;
    if (goes_to_region(bytes, tag)) {
        (void)pthread_mutex_lock(&lock);
        p = region_take(tag, region_bytes(bytes), zeroed, &h.region);
        (void)pthread_mutex_unlock(&lock);
        if (!p)
            return NULL;
        p += HEADER;
    } else {
        h.raw = zeroed ? calloc(1, total) : malloc(total);
        if (!h.raw)
            return NULL;
        p = (char *)h.raw + HEADER + (-(uintptr_t)h.raw & (HEADER - 1));
    }
    *header_of(p) = h;
    atomic_fetch_add_explicit(&live[tag], bytes, memory_order_relaxed);
    return p;
}

void *qn_alloc(size_t bytes, qn_mem_tag tag)
{
    return take(bytes, tag, false);
}

void *qn_alloc_array(size_t n, size_t size, qn_mem_tag tag)
{
    size_t bytes;
    return qn_mul_size(n, size, &bytes) ? qn_alloc(bytes, tag) : NULL;
}

void *qn_calloc(size_t n, size_t size, qn_mem_tag tag)
{
    size_t bytes;
    return qn_mul_size(n, size, &bytes) ? take(bytes, tag, true) : NULL;
}

void *qn_realloc(void *p, size_t bytes, qn_mem_tag tag)
{
    void *q = qn_alloc(bytes, tag);
    if (q && p) {
        memcpy(q, p, QN_MIN(bytes, header_of(p)->bytes));
        qn_free(p);
    }
    return q;
}

void qn_free(void *p)
{
    if (!p)
        return;
    header *h = header_of(p);
    QN_ASSERT(h->magic == MAGIC);
    h->magic = 0;
    atomic_fetch_sub_explicit(&live[h->tag], h->bytes, memory_order_relaxed);
    if (!h->region) {
        free(h->raw);
        return;
    }
    (void)pthread_mutex_lock(&lock);
    region_give_back(h->region, (qn_mem_tag)h->tag, (char *)h, region_bytes(h->bytes));
    (void)pthread_mutex_unlock(&lock);
}

char *qn_strndup(const char *s, size_t n, qn_mem_tag tag)
{
    size_t bytes;
    char *p = qn_add_size(n, 1, &bytes) ? qn_alloc(bytes, tag) : NULL;
    if (p) {
        memcpy(p, s, n);
        p[n] = 0;
    }
    return p;
}

char *qn_strdup(const char *s, qn_mem_tag tag)
{
    return qn_strndup(s, strlen(s), tag);
}

/* A line of /proc/self/status, "VmRSS:    1234 kB". */
static size_t status_bytes(const char *key)
{
    static const char path[] = "/proc/self/status";
    char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        (void)close(fd);
    text[n > 0 ? n : 0] = 0;
    const char *at = strstr(text, key);
    size_t kb = 0;
    for (at = at ? at + strlen(key) : ""; *at == ' ' || *at == '\t'; at++) {
    }
    for (; *at >= '0' && *at <= '9'; at++)
        kb = kb * 10 + (size_t)(*at - '0');
    return kb << 10;
}

size_t qn_mem_resident(void)
{
    return status_bytes("\nVmRSS:");
}

static size_t region_resident(const region *r)
{
    static const size_t step = (size_t)1 << 20;
    unsigned char map[256]; /* pages of a step */
    size_t n = 0;
    for (size_t at = 0; at < r->used; at += step) {
        if (mincore(r->base + at, QN_MIN(step, r->size - at), map) != 0)
            return 0;
        for (size_t i = 0; i < step / PAGE; i++)
            n += (map[i] & 1u) * PAGE;
    }
    return n;
}

size_t qn_mem_resident_rest(void)
{
    size_t n = qn_mem_resident(), large = 0;
    (void)pthread_mutex_lock(&lock);
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        for (const region *r = regions[t]; r; r = r->next)
            large += region_resident(r);
    (void)pthread_mutex_unlock(&lock);
    return n - QN_MIN(n, large);
}

size_t qn_mem_resident_peak(void)
{
    return status_bytes("\nVmHWM:");
}

bool qn_mem_resident_peak_reset(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    bool is_reset = fd >= 0 && write(fd, "5", 1) == 1; /* proc(5): the high-water mark */
    if (fd >= 0)
        (void)close(fd);
    return is_reset;
}

void *qn_zeros_map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void qn_zeros_unmap(void *p, size_t bytes)
{
    if (p)
        (void)munmap(p, bytes);
}

size_t qn_mem_live(qn_mem_tag tag)
{
    return atomic_load_explicit(&live[tag], memory_order_relaxed);
}

const char *qn_mem_tag_name(qn_mem_tag tag)
{
    static const char *const names[QN_MEM_N_TAGS] = {"misc",        "weights",    "kv cache",
                                                     "activations", "vocabulary", "requests"};
    return names[tag];
}

bool qn_grow(void *p_ptr, size_t *cap, size_t want, size_t size, qn_mem_tag tag)
{
    if (want <= *cap)
        return true;
    size_t n = QN_MAX(want, (size_t)8), bytes;
    if (*cap <= SIZE_MAX / 2)
        n = QN_MAX(n, *cap * 2);
    void *old;
    memcpy(&old, p_ptr, sizeof old);
    void *p = qn_mul_size(n, size, &bytes) ? qn_realloc(old, bytes, tag) : NULL;
    if (!p)
        return false;
    memcpy(p_ptr, &p, sizeof p);
    *cap = n;
    return true;
}

/* ---- arena ---- */

struct qn_arena_chunk {
    struct qn_arena_chunk *next;
    size_t used, size;
    _Alignas(16) char bytes[];
};

#define ARENA_CHUNK ((size_t)16 << 10)

void qn_arena_init(qn_arena *a, size_t limit, qn_mem_tag tag)
{
    *a = (qn_arena){.limit = limit, .tag = tag};
}

void *qn_arena_alloc(qn_arena *a, size_t bytes)
{
    size_t n, taken;
    if (!qn_add_size(bytes, 15, &n))
        return NULL;
    n &= ~(size_t)15;
    if (!qn_add_size(a->bytes, n, &taken) || (a->limit && taken > a->limit))
        return NULL;
    struct qn_arena_chunk *c = a->chunks;
    if (!c || c->size - c->used < n) {
        /* chunks double with what was taken, so a big arena has few of them */
        size_t size = QN_MAX(QN_MAX(n, ARENA_CHUNK), QN_MIN(a->bytes, (size_t)1 << 20)), total;
        c = qn_add_size(size, sizeof *c, &total) ? qn_alloc(total, a->tag) : NULL;
        if (!c)
            return NULL;
        *c = (struct qn_arena_chunk){.next = a->chunks, .size = size};
        a->chunks = c;
    }
    void *p = c->bytes + c->used;
    c->used += n;
    a->bytes = taken;
    return p;
}

char *qn_arena_strndup(qn_arena *a, const char *s, size_t n)
{
    size_t bytes;
    char *p = qn_add_size(n, 1, &bytes) ? qn_arena_alloc(a, bytes) : NULL;
    if (p) {
        memcpy(p, s, n);
        p[n] = 0;
    }
    return p;
}

void qn_arena_fini(qn_arena *a)
{
    while (a->chunks) {
        struct qn_arena_chunk *next = a->chunks->next;
        qn_free(a->chunks);
        a->chunks = next;
    }
    a->bytes = 0;
}
