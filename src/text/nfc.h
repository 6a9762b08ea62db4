/* SPDX-License-Identifier: Apache-2.0
 * nfc.h - Unicode normalisation form C, linear for any text. Threads: any; a scratch has one owner.
 * Source: Unicode Standard Annex 15; properties and composition from utf8proc. */
#ifndef QN_TEXT_NFC_H
#define QN_TEXT_NFC_H

#include "base/str.h"

typedef struct qn_nfc_scratch {
    int32_t *cps; /* zero-initialise, reuse, fini */
    size_t cap;
} qn_nfc_scratch;

/* True if text is surely in form C already: nothing in it at or above U+0300. */
bool qn_nfc_is_plain(const char *p, size_t n);
/* Appends the normal form of p[0..n), which must be UTF-8. A failed allocation sets out->failed. */
void qn_nfc(qn_str *out, const char *p, size_t n, qn_nfc_scratch *s);
void qn_nfc_scratch_fini(qn_nfc_scratch *s);

#endif
