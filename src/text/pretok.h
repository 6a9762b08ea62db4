/* SPDX-License-Identifier: Apache-2.0
 * pretok.h - cuts text into the pieces that BPE merges within: the known split rules, as a machine
 * over code points.
 *
 *   qwen2   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}
 *           | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+   (one line; the space counts)
 *   qwen35  the same with [\p{L}\p{M}] for a letter
 *   llama3  qwen2 with \p{N}{1,3}
 *   gpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * Every byte belongs to exactly one piece, in order. Linear, no backtracking. Threads: any.
 * Source: the patterns are those of published tokenizer.json files, with the meaning Oniguruma
 * gives them (Unicode 16: categories from utf8proc, and pretok_tables.h for what is newer than
 * it). */
#ifndef QN_TEXT_PRETOK_H
#define QN_TEXT_PRETOK_H

#include "base/str.h"

typedef enum qn_split { QN_SPLIT_QWEN2, QN_SPLIT_QWEN35, QN_SPLIT_LLAMA3, QN_SPLIT_GPT2 } qn_split;

typedef struct qn_pretok {
    qn_split split;
    bool digits_apart; /* first each \p{N} becomes a piece; the split sees what lies between
                        * (SmolLM) */
} qn_pretok;

/* Only a pattern written exactly as one of the known ones is recognised. */
bool qn_split_from_regex(const char *regex, qn_split *out);

/* {rule, p, n} and zeroes; text is UTF-8 (a broken byte counts as a symbol). */
typedef struct qn_pretok_iter {
    const qn_pretok *rule;
    const char *p;
    size_t n, at;
    size_t end; /* of the run without digits being split */
} qn_pretok_iter;
/* The next piece, or false at the end. */
bool qn_pretok_next(qn_pretok_iter *it, qn_slice *piece);

/* \w as Rust's regex has it: what may not touch an added token with single_word. */
bool qn_is_word_char(uint32_t cp);
/* White_Space, as \s. */
bool qn_is_space(uint32_t cp);

#endif
