/* SPDX-License-Identifier: Apache-2.0
 * loop_memory.c - libevent's allocator, and blocks kept for it. */
#include "server/loop_memory.h"

#include "base/mem.h"
#include <event2/event.h>

#define BLOCKS      16   /* a bufferevent of TLS takes 8 */
#define BLOCK_BYTES 2048 /* its largest has about 700 */

static _Thread_local struct {
    void *blocks[BLOCKS];
    size_t n;
} reserve;

static void *loop_alloc(size_t n)
{
    void *p = qn_alloc(n, QN_MEM_MISC);
    if (!p && reserve.n && n <= BLOCK_BYTES)
        p = reserve.blocks[--reserve.n];
    return p;
}

static void *loop_realloc(void *p, size_t n)
{
    return qn_realloc(p, n, QN_MEM_MISC);
}

/* Before main, so that nothing is made by one allocator and freed by the other. */
__attribute__((constructor)) static void set_up(void)
{
    event_set_mem_functions(loop_alloc, loop_realloc, qn_free);
}

bool qn_loop_reserve(void)
{
    for (; reserve.n < BLOCKS; reserve.n++) {
        reserve.blocks[reserve.n] = qn_alloc(BLOCK_BYTES, QN_MEM_MISC);
        if (!reserve.blocks[reserve.n]) {
            qn_loop_release();
            return false;
        }
    }
    return true;
}

void qn_loop_release(void)
{
    while (reserve.n)
        qn_free(reserve.blocks[--reserve.n]);
}
