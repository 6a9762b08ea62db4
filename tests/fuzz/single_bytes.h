/* SPDX-License-Identifier: Apache-2.0
 * single_bytes.h - a vocabulary for the fuzz targets of forms: the 256 bytes, and 256 that ends an answer. */
#ifndef TESTS_SINGLE_BYTES_H
#define TESTS_SINGLE_BYTES_H

#include "sample/grammar.h"

static char single_bytes[257];

static qn_vocab_kind single_byte(void *arg, int32_t id, const char **text, size_t *n)
{
    (void)arg;
    single_bytes[id] = (char)id;
    *text = single_bytes + id;
    *n = 1;
    return id < 256 ? QN_VOCAB_TEXT : QN_VOCAB_END;
}

#endif
