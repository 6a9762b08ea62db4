/* SPDX-License-Identifier: Apache-2.0
 * loop_memory.h - libevent's memory: base/mem's, so that it is counted, and a reserve for what of libevent must not fail.
 *
 * bufferevent_openssl_socket_new of libevent 2.1 crashes where an allocation of its own fails. So it is called with a reserve:
 * ordinary blocks, taken before; an allocation that fails gets one of them.
 * Threads: any; each has its own reserve. */
#ifndef QN_SERVER_LOOP_MEMORY_H
#define QN_SERVER_LOOP_MEMORY_H

#include "base/base.h"

QN_MUST_USE bool qn_loop_reserve(void); /* false: out of memory, and there is none */
void qn_loop_release(void);             /* what of it was not used */

#endif
