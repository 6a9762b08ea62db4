/* SPDX-License-Identifier: Apache-2.0
 * string_format.h - JSON Schema's "format" of strings, as regular expressions of whole texts.
 * Threads: any. */
#ifndef QN_SAMPLE_STRING_FORMAT_H
#define QN_SAMPLE_STRING_FORMAT_H

#include "base/base.h"
#include "base/str.h"

/* The expression, appended to out; false: no format of that name that can be enforced. An empty one: any text. */
bool qn_string_format(const char *name, qn_str *out);
/* Bounds of whole numbers that OpenAPI names (int32); false: no such format. */
bool qn_number_format(const char *name, const char **low, const char **high);

#endif
