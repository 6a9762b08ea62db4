/* SPDX-License-Identifier: Apache-2.0
 * pages.h - the files of web/, which are in the program.
 *
 *   web/ --embed.cmake, at build time--> qn_pages[] --/, /dashboard, /web/NAME--> browser
 *
 * Who asks for / and does not take HTML (curl) gets a text from status.c. Threads: any; all is constant. */
#ifndef QN_SERVER_PAGES_H
#define QN_SERVER_PAGES_H

#include "server/exchange.h"

typedef struct qn_page {
    const char *name, *type;
    const char *etag, *gzip_etag; /* quoted, of its contents */
    const unsigned char *bytes, *gzip;
    size_t n, n_gzip;
} qn_page;

extern const qn_page qn_pages[]; /* ended by name NULL */

/* Whether who asks would rather see HTML than text. */
bool qn_pages_is_browser(const qn_exchange *x);
/* The page, 304 where the client has it, 404 where there is none of that name. */
void qn_pages_reply(qn_exchange *x, qn_slice name);

#endif
