/* SPDX-License-Identifier: Apache-2.0
 * grammar.h - answers that keep to a form: JSON of a schema, a regular expression, one of several texts, a grammar.
 *
 *   qn_grammar *g;
 *   if (qn_grammar_open(&g, engine, QN_GRAMMAR_SCHEMA, schema, strlen(schema), &err) != QN_OK)
 *       fail(err.msg);
 *   params.grammar = g;
 *   ... submit, read ...
 *   qn_grammar_close(g);
 *
 * What cannot be enforced is refused when the grammar is opened; nothing is let through unchecked. An answer ends in a
 * whole text of the form, or with QN_FINISH_LENGTH. It ends by itself where nothing more may come, also before min_tokens;
 * with ignore_eos only there. Stop strings and stop tokens end it wherever they stand: that is what was asked for. If the
 * model has no token that may follow (a stop token before min_tokens is none) the request fails with QN_E_UNSUPPORTED.
 * Where there is no choice, tokens are appended as the tokenizer cuts the text, without being drawn. Asked for, their
 * log-probabilities are the model's, as those of all others; whether they are asked for changes no token. */
#ifndef QUERN_GRAMMAR_H
#define QUERN_GRAMMAR_H

#include <quern/quern.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_grammar_kind {
    QN_GRAMMAR_SCHEMA, /* a JSON Schema (draft 2020-12); keys come in its order */
    QN_GRAMMAR_JSON,   /* any JSON object; text is not read */
    QN_GRAMMAR_REGEX,  /* the whole answer matches */
    QN_GRAMMAR_CHOICE, /* a JSON array of strings: one of them */
    QN_GRAMMAR_GBNF    /* GBNF with %json {...}, %regex /.../, %until[N] "text" "closing", %any */
} qn_grammar_kind;

/* Compiles, or finds what was compiled of the same text. From any thread. Errors name the place in the text:
 * QN_E_ARG malformed, QN_E_UNSUPPORTED, QN_E_TOO_LONG over a limit (`quern limits`). May outlive the engine only unused. */
QN_API qn_status qn_grammar_open(qn_grammar **out, qn_engine *e, qn_grammar_kind kind,
                                 const char *text, size_t n_text, qn_err *err);
/* The same at once, for who must not wait: QN_E_NOT_FOUND: it was not compiled before, or was long ago. */
QN_API qn_status qn_grammar_find(qn_grammar **out, qn_engine *e, qn_grammar_kind kind,
                                 const char *text, size_t n_text, qn_err *err);
QN_API void qn_grammar_close(qn_grammar *g); /* NULL allowed; requests that use it go on */

#ifdef __cplusplus
}
#endif
#endif
