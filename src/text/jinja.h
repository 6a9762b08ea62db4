/* SPDX-License-Identifier: Apache-2.0
 * jinja.h - a compiled template: source in, syntax tree kept, text with its origin out.
 *
 *   source -> tokens (jinja_lex.c) -> tree (jinja_parse.c) -> run (jinja_eval.c, with
 *   jinja_value.c, jinja_print.c, jinja_string.c, jinja_filter.c) -> text and segments
 *
 * Every run is bounded: steps, bytes of a string, bytes of memory, depth. A limit passed is an
 * error in one line with the template's name and line. Parser and evaluator recurse, but only as
 * deep as their limits allow.
 * Threads: a template is read-only once made; a run has one owner.
 * Source: jinja2 3.1 (lexer.py, parser.py, runtime.py, filters.py, tests.py, sandbox.py) for what a
 * template means. */
#ifndef QN_TEXT_JINJA_H
#define QN_TEXT_JINJA_H

#include "base/limits.h"
#include "text/chat.h"

/* Beside the limits of limits.def (TEMPLATE_*): a step is a statement, call or loop turn; 16
 * operands or 256 bytes count as one; OUTPUT bounds every string. */
#define QN_JINJA_DEPTH 160 /* levels while running, macros included */

typedef struct qn_jinja qn_jinja;

QN_MUST_USE qn_status qn_jinja_new(qn_jinja **out, const char *source, size_t n, const char *name,
                                   qn_err *err);
void qn_jinja_free(qn_jinja *t); /* NULL allowed */
/* variables: an object. Appends nothing on failure; out is cleared first. */
QN_MUST_USE qn_status qn_jinja_render(const qn_jinja *t, const json_t *variables, int64_t now,
                                      qn_chat_text *out, qn_err *err);

#endif
