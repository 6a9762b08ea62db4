/* SPDX-License-Identifier: Apache-2.0
 * chat.h - chat templates: a sandboxed interpreter for the Jinja that published Qwen templates use.
 *
 * A template renders to segments: literal text (the template's own, where special tokens are
 * recognised) and text from the request (where none is). Bounded in steps, output bytes and depth
 * (limits.def); nothing of the host is reachable.
 * Threads: a compiled template is read-only; rendering is a pure function. Source: jinja2 3.1
 * semantics with trim_blocks, lstrip_blocks, loopcontrols; transformers' apply_chat_template for
 * the environment (tojson, raise_exception, strftime_now, which writes local time). */
#ifndef QN_TEXT_CHAT_H
#define QN_TEXT_CHAT_H

#include "base/json.h"
#include "text/tokenizer.h"

typedef struct qn_chat_template qn_chat_template;

/* Compiles source. name: the file named in errors ("template.jinja:12: ..."). */
QN_MUST_USE qn_status qn_chat_template_new(qn_chat_template **out, const char *source, size_t n,
                                           const char *name, qn_err *err);
/* The model's own: tokenizer_config.json, chat_template.jinja, or GGUF's tokenizer.chat_template.
 * *out NULL if it has none. */
QN_MUST_USE qn_status qn_chat_template_from_model(qn_chat_template **out, const qn_weights *w,
                                                  qn_err *err);
void qn_chat_template_free(qn_chat_template *t);
const char *qn_chat_template_source(const qn_chat_template *t); /* lives as long */

typedef struct qn_chat_segment {
    size_t begin, end; /* bytes of text */
    bool literal;      /* from the template itself */
} qn_chat_segment;

typedef struct qn_chat_text {
    qn_str text;
    qn_chat_segment *segments; /* in order, covering text, alternating */
    size_t n_segments, cap;
} qn_chat_text;
void qn_chat_text_fini(qn_chat_text *t);

/* Parses the variables of a rendering: an object of JSON. As qn_json_parse, but integers of more
 * than 64 bits are kept digit for digit (as strings that begin with QN_CHAT_BIG_INTEGER) and
 * rendered as numbers. */
#define QN_CHAT_BIG_INTEGER "\xf4\x8f\xbf\xbf" /* U+10FFFF, which is no character */
QN_MUST_USE qn_status qn_chat_variables_parse(json_t **out, const char *text, size_t n,
                                              size_t max_depth, const char *name, qn_err *err);

/* variables: an object with messages, tools, add_generation_prompt and anything else the template
 * reads. bos_token, eos_token, pad_token and unk_token are added by the caller, never taken from a
 * request: they count as literal. A raise_exception in the template is QN_E_ARG with its message.
 * now: seconds since 1970 for strftime_now. */
QN_MUST_USE qn_status qn_chat_template_render(const qn_chat_template *t, const json_t *variables,
                                              int64_t now, qn_chat_text *out, qn_err *err);
/* Ends the text where `content`, without the white space around it, last stands in text from the request; white space of content
 * that the template kept stays. QN_E_ARG: it is nowhere. As transformers' continue_final_message. */
QN_MUST_USE qn_status qn_chat_text_cut(qn_chat_text *t, qn_slice content, qn_err *err);
/* Encodes: literal segments with special tokens, the rest without any. */
QN_MUST_USE qn_status qn_chat_encode(const qn_tokenizer *tok, const qn_chat_text *text, qn_ids *out,
                                     qn_err *err);

#endif
