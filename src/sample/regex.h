/* SPDX-License-Identifier: Apache-2.0
 * regex.h - regular expressions as ECMA-262 (with u) and Python's `re` share them: parsed, made a form, tried on a text.
 *
 * Groups (named ones too), alternatives, classes, quantifiers (a lazy one means the same texts), anchors, escapes, \p{..} of
 * general categories. Refused by name: look-around, back-references, word borders, flags, possessive and atomic groups, and
 * where the two languages differ.
 *
 * Where they only disagree about characters (\d \w \s . $ beyond ASCII) there are two meanings: a narrow one, which both
 * accept, for texts that must match; and a wide one, which either accepts, for texts that must not.
 *
 * Threads: a parsed one is read by all. */
#ifndef QN_SAMPLE_REGEX_H
#define QN_SAMPLE_REGEX_H

#include "base/base.h"
#include "sample/form.h"

typedef struct qn_regex qn_regex;

typedef enum qn_regex_use {
    QN_REGEX_WHOLE = 1, /* the whole text matches; else it is found somewhere in it */
    QN_REGEX_JSON = 2,  /* the text stands in a JSON string (json_form.h); else as it is */
    QN_REGEX_WIDE = 4
} qn_regex_use;

/* Errors say what was found at which byte of re. */
QN_MUST_USE qn_status qn_regex_parse(qn_regex **out, const char *re, size_t n, qn_err *err);
void qn_regex_free(qn_regex *r); /* NULL allowed */
/* `use` holds bits of qn_regex_use. */
QN_MUST_USE qn_status qn_regex_form(const qn_regex *r, qn_form *f, unsigned use, qn_form_id *out,
                                    qn_err *err);
/* Whether it is found in the text (UTF-8). */
QN_MUST_USE qn_status qn_regex_finds(const qn_regex *r, const char *text, size_t n, bool is_wide,
                                     bool *out, qn_err *err);

#endif
