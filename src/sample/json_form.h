/* SPDX-License-Identifier: Apache-2.0
 * json_form.h - forms of JSON itself: characters of strings, values, lists with commas.
 *
 *   free text:      any JSON string; a character may be written in any way that JSON has
 *   canonical text: each character in one way: as it is, or, where it may not be, as its shortest escape (\u00xx in small
 *                   letters). Whatever is compared (names, constants, patterns) is canonical, so that intersections and
 *                   differences of forms are those of the texts that they mean.
 *
 * Threads: one owner. */
#ifndef QN_SAMPLE_JSON_FORM_H
#define QN_SAMPLE_JSON_FORM_H

#include "base/json.h"
#include "sample/form.h"

typedef struct qn_json_forms {
    qn_form *f;
    qn_form_id nothing, empty;
    qn_form_id space, quote, comma, colon; /* the last two with the space that may follow */
    qn_form_id free_char, char_;           /* one character of a string: free, canonical */
    qn_form_id free_text, text;            /* what may stand between quotes */
    qn_form_id string;                     /* free, with its quotes */
    qn_form_id number, integer;            /* any */
    qn_form_id value, object, array;       /* any; these three may hold themselves */
} qn_json_forms;

void qn_json_forms_init(qn_json_forms *j, qn_form *f, bool is_compact);

/* One canonical character of the ranges. */
qn_form_id qn_json_chars(qn_form *f, const qn_char_range *r, size_t n);
/* Exactly this text, canonical, without quotes. */
qn_form_id qn_json_text(qn_form *f, const char *p, size_t n);
qn_form_id qn_json_quoted(qn_json_forms *j, const char *p, size_t n); /* with them */
/* Exactly this value: strings canonical, spaces as in j. */
QN_MUST_USE qn_status qn_json_exactly(qn_json_forms *j, const json_t *v, qn_form_id *out,
                                      qn_err *err);
/* (", item") min to max times. */
qn_form_id qn_json_more(qn_json_forms *j, qn_form_id item, uint32_t min, uint32_t max);

qn_form_id qn_form_pair(qn_form *f, qn_form_id a, qn_form_id b);   /* a then b */
qn_form_id qn_form_either(qn_form *f, qn_form_id a, qn_form_id b); /* a or b */
qn_form_id qn_form_maybe(qn_form *f, qn_form_id a);                /* a or the empty text */

#endif
