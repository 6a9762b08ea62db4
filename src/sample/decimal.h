/* SPDX-License-Identifier: Apache-2.0
 * decimal.h - numbers as their decimal digits, and the texts of those within bounds.
 *
 * Bounds hold on the digits, so nothing is rounded. Texts are as short as numbers are written: no leading zero, no plus,
 * no "-0", no exponent where there is a bound. At most 15 digits, those of a bound apart: within these a text and the
 * double that a reader makes of it lie on the same side of every bound.
 * Threads: any. */
#ifndef QN_SAMPLE_DECIMAL_H
#define QN_SAMPLE_DECIMAL_H

#include "sample/json_form.h"

typedef struct qn_decimal {
    bool is_negative; /* never of zero */
    uint16_t n_whole,
        n_part; /* digits before the point, without leading zeros, and behind it, without zeros at its end */
    char digits[700];
} qn_decimal;

/* Of a JSON number, and of its text. */
void qn_decimal_parse(qn_decimal *d, const char *text, size_t n);
void qn_decimal_of(qn_decimal *d, const json_t *v);
int qn_decimal_compare(const qn_decimal *a, const qn_decimal *b);
bool qn_decimal_is_zero(const qn_decimal *d);
bool qn_decimal_is_whole(const qn_decimal *d);
bool qn_decimal_is_multiple(const qn_decimal *d, const qn_decimal *of); /* of > 0 */

typedef struct qn_number_range {
    bool has_low, has_high, is_above,
        is_below;             /* above low, below high: the bound itself is left out */
    bool is_whole, is_broken; /* only whole numbers; only others */
    qn_decimal low, high;
} qn_number_range;

/* Whether surely no number is in it. */
bool qn_number_range_is_empty(const qn_number_range *r);
bool qn_number_range_has(const qn_number_range *r, const qn_decimal *d);
void qn_number_range_close(qn_number_range *r); /* no exponents, also where no bound is */
qn_form_id qn_number_form(qn_json_forms *j, const qn_number_range *r);
/* Those in the range that are multiples of `of`, where few states or few numbers do; else 0. */
qn_form_id qn_multiple_form(qn_json_forms *j, const qn_number_range *r, const qn_decimal *of);

#endif
