/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_build.h - what a tokenizer is made of, and the steps its file readers make it with. For
 * this room only.
 *
 *   new -> vocabulary entries (token) -> merges -> added tokens -> finish
 *
 * Threads: one until finish; then read-only. */
#ifndef QN_TEXT_TOKENIZER_BUILD_H
#define QN_TEXT_TOKENIZER_BUILD_H

#include "text/added.h"
#include "text/bpe.h"
#include "text/pretok.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

struct qn_tokenizer {
    qn_vocab vocab;
    qn_bpe bpe;
    qn_pretok pretok;
    bool nfc;         /* text is normalised first */
    bool whole_words; /* a piece that is a token is not merged (tiktoken; "ignore_merges") */
    bool add_bos;
    int32_t bos, eos;
    int32_t end;          /* raw text ends with it; -1: with none */
    qn_added raw, normal; /* added tokens looked for before and after normalising */
    qn_str tmp, join;     /* of the builder */
};

qn_tokenizer *qn_tokenizer_alloc(void); /* NULL: out of memory */

/* One entry of the vocabulary, as files write it (in the byte alphabet). */
QN_MUST_USE qn_status qn_tokenizer_set(qn_tokenizer *t, int64_t id, qn_slice text,
                                       const char *where, qn_err *err);
/* Merges left and right, as files write them, with the given rank. A later merge of the same two
 * replaces the earlier. */
QN_MUST_USE qn_status qn_tokenizer_merge(qn_tokenizer *t, qn_slice left, qn_slice right,
                                         uint32_t rank, const char *where, qn_err *err);
/* A line "left right" of a merge list. */
QN_MUST_USE qn_status qn_tokenizer_merge_line(qn_tokenizer *t, qn_slice line, uint32_t rank,
                                              const char *where, qn_err *err);
/* An added token: makes an entry of the vocabulary one, or takes a free id. Empty ones are left
 * out, as the reference does. */
QN_MUST_USE qn_status qn_tokenizer_add(qn_tokenizer *t, qn_slice content,
                                       const qn_added_token *token, const char *where, qn_err *err);
/* Last: takes the ids of single bytes. all_bytes: fail if one has none. */
QN_MUST_USE qn_status qn_tokenizer_finish(qn_tokenizer *t, bool all_bytes, const char *where,
                                          qn_err *err);

/* A rank file: lines of "base64(token) rank", merged by rank. Finished by the caller. */
QN_MUST_USE qn_status qn_tokenizer_set_ranks(qn_tokenizer *t, qn_slice text, const char *file,
                                             qn_err *err);

/* The readers' other sources: folders. */
QN_MUST_USE qn_status qn_tokenizer_from_folder(qn_tokenizer **out, const qn_folder *files,
                                               const json_t *config, qn_err *err);

#endif
