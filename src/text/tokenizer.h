/* SPDX-License-Identifier: Apache-2.0
 * tokenizer.h - byte-level BPE exactly as the reference: text to ids and back.
 *
 * Loads tokenizer.json, vocab.json + merges.txt (+ tokenizer_config.json's added tokens),
 * qwen.tiktoken, or GGUF metadata.
 * Threads: any after loading (read-only); a qn_detok has one owner. Source: Hugging Face tokenizers
 * (models/bpe, pre_tokenizers byte_level and split, normalizers NFC, added_vocabulary). */
#ifndef QN_TEXT_TOKENIZER_H
#define QN_TEXT_TOKENIZER_H

#include "base/str.h"
#include "format/weights.h"
#include "text/added.h"

typedef struct qn_tokenizer qn_tokenizer;

QN_MUST_USE qn_status qn_tokenizer_new(qn_tokenizer **out, const qn_weights *w, qn_err *err);
/* From a tokenizer.json or GGUF already opened (tests, tools). */
QN_MUST_USE qn_status qn_tokenizer_from_json(qn_tokenizer **out, const json_t *tokenizer_json,
                                             const char *file, qn_err *err);
QN_MUST_USE qn_status qn_tokenizer_from_gguf(qn_tokenizer **out, const struct qn_gguf_meta *m,
                                             const char *file, qn_err *err);
void qn_tokenizer_free(qn_tokenizer *t);

typedef enum qn_token_kind {
    QN_TOKEN_NORMAL,
    QN_TOKEN_ADDED,   /* matched whole in text, shown (special: false) */
    QN_TOKEN_SPECIAL, /* control: matched only where special tokens are parsed, skipped on
                       * request */
    QN_TOKEN_UNUSED   /* an id without a token (padding rows) */
} qn_token_kind;

size_t qn_tokenizer_n_tokens(const qn_tokenizer *t); /* ids are below this */
qn_token_kind qn_tokenizer_kind(const qn_tokenizer *t,
                                int32_t id); /* any id; out of range: UNUSED */
/* The token's own bytes. */
qn_slice qn_tokenizer_bytes(const qn_tokenizer *t, int32_t id);
/* The id of a token written in full ("<|im_end|>"), or -1. */
int32_t qn_tokenizer_find(const qn_tokenizer *t, qn_slice content);
/* The file's own special ids, -1 where it names none. */
int32_t qn_tokenizer_bos(const qn_tokenizer *t);
int32_t qn_tokenizer_eos(const qn_tokenizer *t);
bool qn_tokenizer_add_bos(const qn_tokenizer *t); /* prepend bos to raw text */
/* What raw text is to end with, as models for embeddings want it; -1: nothing. */
int32_t qn_tokenizer_end(const qn_tokenizer *t);

typedef struct qn_ids {
    int32_t *p;
    size_t n, cap;
} qn_ids;
void qn_ids_fini(qn_ids *ids);

typedef enum qn_special_mode {
    QN_SPECIAL_NONE,  /* no added token is matched at all: text from a user */
    QN_SPECIAL_ADDED, /* those with special: false are (the reference's "plain") */
    QN_SPECIAL_ALL
} qn_special_mode;

/* Appends the ids of text (UTF-8; broken bytes: QN_E_FORMAT). */
QN_MUST_USE qn_status qn_tokenizer_encode(const qn_tokenizer *t, const char *text, size_t n,
                                          qn_special_mode mode, qn_ids *out, qn_err *err);
/* Where the added tokens stand in a text (UTF-8, not normalised), with the white space they take; in order. The text must
 * live as long. */
typedef struct qn_added_scan {
    qn_added_iter raw, normal;
    size_t at, text_at; /* text_at: of what `normal` looks at */
    bool in_text;
} qn_added_scan;
qn_added_scan qn_tokenizer_scan(const qn_tokenizer *t, const char *text, size_t n);
bool qn_added_scan_next(qn_added_scan *s, size_t *begin, size_t *end, int32_t *id);
/* How many of a text's first bytes get the same tokens whatever follows the text: those before the piece that it ends in,
 * which more text may make longer. */
size_t qn_tokenizer_n_settled(const qn_tokenizer *t, const char *text, size_t n);

/* Appends the whole text of ids; broken UTF-8 becomes U+FFFD. Ids out of range: QN_E_ARG. */
QN_MUST_USE qn_status qn_tokenizer_decode(const qn_tokenizer *t, const int32_t *ids, size_t n,
                                          bool skip_special, qn_str *out, qn_err *err);

/* Incremental decoding: feeds one token, appends what is whole UTF-8 now. The pieces joined (with
 * qn_detok_end) are qn_tokenizer_decode's text. */
typedef struct qn_detok {
    const qn_tokenizer *t;
    bool skip_special;
    char held[8];
    size_t n_held;
} qn_detok;
void qn_detok_init(qn_detok *d, const qn_tokenizer *t, bool skip_special);
void qn_detok_next(qn_detok *d, int32_t id, qn_str *out);
void qn_detok_end(qn_detok *d, qn_str *out);

#endif
