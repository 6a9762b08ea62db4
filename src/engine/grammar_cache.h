/* SPDX-License-Identifier: Apache-2.0
 * grammar_cache.h - an engine's grammars, compiled once for each text.
 *
 *   (kind, text) ---> entry: being compiled | a grammar | why it was refused
 *
 * Entries are found by hash and compared in full. They and the vocabulary are made on the caller's thread, outside of the
 * engine's locks; who asks for a text that another one compiles waits for that. The least recently used go when all take
 * more than QN_LIMIT_GRAMMAR_CACHE bytes or are more than QN_LIMIT_GRAMMARS; what requests use stays, since letting it go
 * would give nothing back. While that is more than QN_LIMIT_GRAMMARS_IN_USE, further texts are QN_E_NOMEM.
 * Threads: any; a lock of its own, not held while compiling. */
#ifndef QN_ENGINE_GRAMMAR_CACHE_H
#define QN_ENGINE_GRAMMAR_CACHE_H

#include "sample/grammar.h"
#include "text/tokenizer.h"
#include <quern/grammar.h>

typedef struct qn_grammar_cache qn_grammar_cache;

/* tokenizer and eos_ids (the tokens that end an answer) are borrowed. */
QN_MUST_USE qn_status qn_grammar_cache_new(qn_grammar_cache **out, const qn_tokenizer *tokenizer,
                                           const int32_t *eos_ids, size_t n_eos, qn_err *err);
void qn_grammar_cache_free(qn_grammar_cache *c); /* NULL allowed */
/* *out is the caller's to let go of. */
QN_MUST_USE qn_status qn_grammar_cache_get(qn_grammar_cache *c, qn_grammar **out,
                                           qn_grammar_kind kind, qn_slice text, qn_err *err);
/* The same without compiling or waiting: QN_E_NOT_FOUND: it is not there. */
QN_MUST_USE qn_status qn_grammar_cache_find(qn_grammar_cache *c, qn_grammar **out,
                                            qn_grammar_kind kind, qn_slice text, qn_err *err);
/* g was compiled here. */
bool qn_grammar_cache_owns(qn_grammar_cache *c, const qn_grammar *g);

/* For tests: how many there are, and what was asked for. */
typedef struct qn_grammar_cache_counts {
    size_t n_entries, n_bytes;
    uint64_t n_asked, n_compiled;
} qn_grammar_cache_counts;
qn_grammar_cache_counts qn_grammar_cache_count(qn_grammar_cache *c);

#endif
