/* SPDX-License-Identifier: Apache-2.0
 * form.h - what a text may be: expressions over bytes, and rules that may name each other.
 *
 *   JSON Schema --schema.c-+
 *   regex --------regex.c--+--> form --grammar.c--> automaton and token masks --> matcher, one token at a time
 *   GBNF ----------gbnf.c--+
 *
 * A form is only written down here: what it costs, and whether it can be matched, qn_grammar_compile says. Expressions
 * are numbers; a later one may use earlier ones as often as it wants. After a failure (memory, limits) every call
 * gives 0, which every call takes: one look at qn_form_check in the end is enough.
 *
 *   qn_form_id digit = qn_form_chars(f, &(qn_char_range){'0', '9'}, 1, false);
 *   qn_form_id list = qn_form_rule(f);                      (list may use itself)
 *   qn_form_id more[] = {digit, list}, either[] = {digit, qn_form_seq(f, more, 2)};
 *   qn_form_define(f, list, qn_form_alt(f, either, 2));
 *   qn_form_set_root(f, list);
 *
 * Threads: one owner. */
#ifndef QN_SAMPLE_FORM_H
#define QN_SAMPLE_FORM_H

#include "base/base.h"

typedef struct qn_form qn_form;
typedef uint32_t qn_form_id;

typedef struct qn_char_range {
    uint32_t first, last; /* code points, both included; surrogates are left out */
} qn_char_range;

#define QN_FORM_ENDLESS UINT32_MAX

QN_MUST_USE qn_status qn_form_new(qn_form **out, qn_err *err);
void qn_form_free(qn_form *f); /* NULL allowed */

/* Exactly these bytes; n 0: the empty text. Copied. */
qn_form_id qn_form_bytes(qn_form *f, const char *p, size_t n);
/* One code point of the ranges, or (is_negated) one of none of them, as UTF-8. */
qn_form_id qn_form_chars(qn_form *f, const qn_char_range *r, size_t n, bool is_negated);
qn_form_id qn_form_seq(qn_form *f, const qn_form_id *parts, size_t n); /* n 0: the empty text */
qn_form_id qn_form_alt(qn_form *f, const qn_form_id *parts, size_t n); /* n 0: nothing at all */
/* min to max times, or QN_FORM_ENDLESS. A bound of thousands costs a counter, not thousands of states, where `part`
 * is one code point or where no text of part begins another one of it. */
qn_form_id qn_form_repeat(qn_form *f, qn_form_id part, uint32_t min, uint32_t max);
/* Texts of a that are texts of b too; texts of a that are none of b. Neither may reach a rule that reaches itself. */
qn_form_id qn_form_and(qn_form *f, qn_form_id a, qn_form_id b);
qn_form_id qn_form_minus(qn_form *f, qn_form_id a, qn_form_id b);
/* Any text up to and with the first `end`. After max_tokens tokens of it (0: no limit) `closing` must follow, which
 * has `end` at its end. Only as a whole step of a sequence that begins at a token's border or follows bytes. */
qn_form_id qn_form_until(qn_form *f, const char *end, uint32_t max_tokens, const char *closing);
/* Any text, whole UTF-8 or not. */
qn_form_id qn_form_any(qn_form *f);

/* A rule is an expression that is told later, once. */
qn_form_id qn_form_rule(qn_form *f);
void qn_form_define(qn_form *f, qn_form_id rule, qn_form_id e);
void qn_form_set_root(qn_form *f, qn_form_id e);
/* Fails as the first call that failed; or if there is no root or a rule was never defined. */
QN_MUST_USE qn_status qn_form_check(const qn_form *f, qn_err *err);
size_t qn_form_n_bytes(const qn_form *f); /* of memory it holds */

/* ---- what is written in other languages ---- */

/* Each appends to f and gives the expression. What cannot be enforced is QN_E_UNSUPPORTED, what is no such text QN_E_ARG,
 * over a limit QN_E_TOO_LONG; err->msg begins with the place: "#/properties/a/pattern: found a look-ahead, ...". */

/* A JSON Schema (draft 2020-12), as text. Keys come in the schema's order; between tokens of JSON at most one space
 * after ':' and ',' (as json.dumps), or, with is_compact, nothing. */
QN_MUST_USE qn_status qn_form_add_schema(qn_form *f, const char *json, size_t n, bool is_compact,
                                         qn_form_id *out, qn_err *err);
/* Any JSON object. */
QN_MUST_USE qn_status qn_form_add_json(qn_form *f, qn_form_id *out, qn_err *err);
/* A regular expression as ECMA-262 and Python's `re` share it: is_whole: the whole text is matched (an answer); else it
 * is found somewhere in it unless anchored (JSON Schema's pattern). */
QN_MUST_USE qn_status qn_form_add_regex(qn_form *f, const char *re, size_t n, bool is_whole,
                                        qn_form_id *out, qn_err *err);
/* A JSON array of strings: one of them. */
QN_MUST_USE qn_status qn_form_add_choice(qn_form *f, const char *json, size_t n, qn_form_id *out,
                                         qn_err *err);
/* GBNF (llama.cpp), and in it %json {schema}, %regex /re/, %until "text", %until[N] "text" ["closing"], %any. Its rule
 * "root" is the expression. */
QN_MUST_USE qn_status qn_form_add_gbnf(qn_form *f, const char *text, size_t n, qn_form_id *out,
                                       qn_err *err);

#endif
