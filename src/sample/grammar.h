/* SPDX-License-Identifier: Apache-2.0
 * grammar.h - which tokens may come next so that the text stays one of a form (form.h).
 *
 *   vocabulary (once a model): the tokens' bytes as a trie
 *   grammar (once a form):     an automaton over bytes, and masks of tokens for its states
 *   matcher (one a candidate): a place in it; a bit for each token that may follow
 *
 * Exact for any way that tokens cut the text, inside characters too: a token may follow if and only if its bytes, behind
 * those before, begin a text of the form. Tokens that end an answer may follow if and only if the text is one.
 * Special tokens (QN_VOCAB_SPECIAL) never follow; added ones that show in the text (<think>, <tool_call>) count as their bytes.
 * Threads: vocabulary and grammar are read by all and counted; a matcher has one owner. */
#ifndef QN_SAMPLE_GRAMMAR_H
#define QN_SAMPLE_GRAMMAR_H

#include "base/base.h"
#include "sample/form.h"

typedef struct qn_vocabulary qn_vocabulary;
typedef struct qn_matcher qn_matcher;

typedef enum qn_vocab_kind {
    QN_VOCAB_TEXT,
    QN_VOCAB_SPECIAL, /* and ids that there are not */
    QN_VOCAB_END      /* ends an answer */
} qn_vocab_kind;

/* Gives a token's own bytes. */
typedef qn_vocab_kind (*qn_vocab_fn)(void *arg, int32_t id, const char **text, size_t *n_text);
QN_MUST_USE qn_status qn_vocabulary_new(qn_vocabulary **out, size_t n_tokens, qn_vocab_fn fn,
                                        void *arg, qn_err *err);
void qn_vocabulary_free(qn_vocabulary *v); /* NULL allowed; no grammar over it may be left */
size_t qn_vocabulary_n_bytes(const qn_vocabulary *v);

/* Within QN_LIMIT_GRAMMAR_*. A form that no text has, or that goes nowhere, is QN_E_ARG. */
QN_MUST_USE qn_status qn_grammar_compile(qn_grammar **out, const qn_vocabulary *v, const qn_form *f,
                                         qn_err *err);
void qn_grammar_keep(qn_grammar *g);            /* one more holds it */
void qn_grammar_let(qn_grammar *g);             /* one less; NULL allowed */
bool qn_grammar_is_shared(const qn_grammar *g); /* by more than one */
size_t qn_grammar_n_bytes(const qn_grammar *g);
const qn_vocabulary *qn_grammar_vocabulary(const qn_grammar *g);

QN_MUST_USE qn_status qn_matcher_new(qn_matcher **out, qn_grammar *g, qn_err *err); /* keeps g */
QN_MUST_USE qn_status qn_matcher_fork(qn_matcher **out, const qn_matcher *m, qn_err *err);
void qn_matcher_free(qn_matcher *m); /* NULL allowed */

/* Bit id % 64 of word id / 64: the token may follow. Valid until the next call; NULL: qn_matcher_fail says why. */
const uint64_t *qn_matcher_mask(qn_matcher *m);
bool qn_matcher_allows(const qn_matcher *m, int32_t id);
/* The token comes next. False: it may not; or there is no memory for it, or the text would have more readings than
 * QN_LIMIT_GRAMMAR_STACKS, which a mask does not know of. Nothing has changed. */
bool qn_matcher_accept(qn_matcher *m, int32_t id);
/* Why there was no mask, or a token of one was not accepted. What may follow takes time where a text can be read in many ways:
 * each token brings some, and what is left of it is kept for later ones, up to a bound. */
qn_status qn_matcher_fail(const qn_matcher *m, qn_err *err);
bool qn_matcher_is_whole(const qn_matcher *m); /* the text may end here */
bool qn_matcher_is_over(const qn_matcher *m);  /* and nothing else can come */
/* The bytes that must come next, at most `most` of them; 0: there is a choice, or the end. *is_end: the text is over behind
 * them. */
size_t qn_matcher_forced(qn_matcher *m, char *out, size_t most, bool *is_end);
/* From now on end tokens follow only where nothing else can. */
void qn_matcher_forbid_end(qn_matcher *m);

#endif
