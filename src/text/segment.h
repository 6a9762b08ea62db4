/* SPDX-License-Identifier: Apache-2.0
 * segment.h - cuts a long text into pieces of a number of tokens, where a reader would.
 *
 *   text   # One ......... ## Two ....... ...... ...... # Three ....
 *   piece  [------------------------)
 *                             [==[-------------------)               [==: again, the end of what came before
 *                                                 [==[-----------)
 *                             begin fresh            end
 *
 * A piece ends at the strongest border in the last three quarters of what fits, the last one of
 * equals: a heading (a higher one before a lower one), a paragraph, a sentence, a line, a word, a
 * character; inside a character, but never inside a code point, only if it alone does not fit. So
 * there are at most four times as many pieces as there must be.
 *
 * Invariants (test_segment.c checks them for random texts):
 *  1. [fresh, end) of the pieces, one after the other, are the text.
 *  2. begin, fresh and end lie between code points.
 *  3. n_tokens is what [begin, end) gives alone, and at most max_tokens; n_overlap, of
 *     [begin, fresh), at most the overlap asked for.
 * Threads: any. */
#ifndef QN_TEXT_SEGMENT_H
#define QN_TEXT_SEGMENT_H

#include "text/tokenizer.h"

/* Weakest first. */
typedef enum qn_border {
    QN_BORDER_NONE, /* inside a code point */
    QN_BORDER_POINT,
    QN_BORDER_CHARACTER, /* a grapheme cluster's end */
    QN_BORDER_WORD,      /* or a clause's, where words are not parted */
    QN_BORDER_LINE,
    QN_BORDER_SENTENCE, /* or an item of a list */
    QN_BORDER_PARAGRAPH,
    QN_BORDER_HEADING,                             /* of the lowest rank, */
    QN_BORDER_HEADING_TOP = QN_BORDER_HEADING + 5, /* and of the highest */
    QN_BORDER_EDGE                                 /* of the text */
} qn_border;
const char *qn_border_name(qn_border b); /* "sentence"; static */

typedef struct qn_segment {
    size_t begin, fresh, end;     /* bytes */
    size_t first_line, last_line; /* of [begin, end), from 1 */
    size_t n_tokens, n_overlap;
    qn_border border; /* where fresh is */
} qn_segment;

typedef struct qn_segments {
    qn_segment *p;
    size_t n, cap;
} qn_segments;
void qn_segments_fini(qn_segments *s);

/* The pieces of text; none for an empty one. Bytes that are not UTF-8: QN_E_FORMAT. A code
 * point of more than max_tokens tokens: QN_E_TOO_LONG. overlap must be less than max_tokens. On
 * failure out is empty. */
QN_MUST_USE qn_status qn_segments_cut(qn_segments *out, const qn_tokenizer *t, qn_slice text,
                                      size_t max_tokens, size_t overlap, qn_err *err);

/* levels[i], 0 to n: how strong the border before byte i is (tests). */
void qn_borders_find(uint8_t *levels, const char *text, size_t n);

#endif
