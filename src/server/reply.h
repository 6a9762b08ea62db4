/* SPDX-License-Identifier: Apache-2.0
 * reply.h - what a model writes, taken apart while it comes: thoughts, text, tool calls.
 *
 *   <think>\nHm.\n</think>\n\nI look.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>
 *            ---               -------                    -               --------
 *            REASONING         CONTENT                   CALL            ARGUMENTS   CALL_END
 *
 *   also  <tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>      (its values become JSON)
 *
 * A machine over bytes: however the text is cut into pieces, what is told is the same, and each byte is told as soon as no later one
 * can change what it is. Tags are never told, nor are line feeds beside those of thoughts, nor blanks around calls: templates write
 * them again. What only looks like a call comes out as content, byte for byte. A tag is one where it can be: not inside of JSON
 * strings, nor of code between fences (unless a grammar holds the answer to it, is_enforced).
 *
 *   lead -> think_lead -> think -> text_lead -> text <-> head -> arguments -> tail -> text
 *                                                 ^       |-> object (in another order: told when whole)
 *                                                 |       +-> function -> body <-> key -> value_lead -> value <-> value_end
 *                                                 +----------------------------------------------------------------'
 *
 * Memory: at most QN_LIMIT_REPLY_HELD bytes of text wait, whatever comes. Threads: one owner. */
#ifndef QN_SERVER_REPLY_H
#define QN_SERVER_REPLY_H

#include "base/json.h"
#include "base/limits.h"

typedef enum qn_reply_kind {
    QN_REPLY_CONTENT,
    QN_REPLY_REASONING,
    QN_REPLY_RECALL,    /* all content so far was reasoning, whose opening tag was missing */
    QN_REPLY_CALL,      /* text: the tool's name */
    QN_REPLY_ARGUMENTS, /* a piece of the call's JSON object */
    QN_REPLY_CALL_END   /* it is whole; one that is cut off has none */
} qn_reply_kind;

typedef void (*qn_reply_fn)(void *arg, qn_reply_kind kind, const char *text, size_t n);

/* Types that a tool's schema gives a parameter; 0: it says nothing. */
enum {
    QN_REPLY_NULL = 1,
    QN_REPLY_BOOL = 2,
    QN_REPLY_INTEGER = 4,
    QN_REPLY_NUMBER = 8,
    QN_REPLY_STRING = 16,
    QN_REPLY_ARRAY = 32,
    QN_REPLY_OBJECT = 64
};
typedef unsigned (*qn_reply_types)(void *arg, qn_slice tool, qn_slice parameter);
unsigned qn_reply_type_of(const json_t *v); /* a whole number is a NUMBER too */
/* The text of a parameter as JSON of one of the types other than STRING, blanks around it left out; templates write
 * constants as Python does. p NULL: it is none, so a string. */
qn_slice qn_reply_read(qn_slice text, unsigned types);

typedef enum qn_reply_begin {
    QN_REPLY_ANSWERS, /* thinks not: think tags are text */
    QN_REPLY_MAY_THINK,
    QN_REPLY_THINKS /* the prompt's end has opened it */
} qn_reply_begin;

typedef struct qn_reply_style {
    qn_reply_begin begin;
    bool has_calls; /* there are tools; else their tags are text */
    /* Every <tool_call> of the answer itself is a call: one that is cut off before its name is told is no text either. */
    bool is_enforced;
    bool is_bare;         /* <function= is one without <tool_call>, too */
    qn_reply_types types; /* NULL: all unknown */
    /* Some models forget the tags, or write a fence in their place: an answer that begins with the object of a call to a known tool
     * is that call. NULL: not. */
    bool (*knows)(void *arg, qn_slice tool);
    void *arg; /* of both */
} qn_reply_style;

typedef enum qn_reply_state {
    QN_REPLY_AT_LEAD, /* nothing but blanks yet */
    QN_REPLY_AT_THINK_LEAD,
    QN_REPLY_AT_THINK,
    QN_REPLY_AT_TEXT_LEAD,
    QN_REPLY_AT_TEXT,
    QN_REPLY_AT_HEAD, /* after <tool_call> */
    QN_REPLY_AT_ARGUMENTS,
    QN_REPLY_AT_TAIL, /* after the arguments, in the object around them */
    QN_REPLY_AT_FUNCTION,
    QN_REPLY_AT_BODY,
    QN_REPLY_AT_KEY,
    QN_REPLY_AT_VALUE_LEAD,
    QN_REPLY_AT_VALUE,
    QN_REPLY_AT_VALUE_END
} qn_reply_state;

typedef struct qn_reply {
    qn_reply_style style;
    qn_reply_state state;
    qn_str held;   /* read and not told: blanks, and what may become a tag or a call */
    size_t at;     /* bytes of a tag at its end */
    unsigned tags; /* which it may be */
    qn_str out;    /* to be told, of one kind */
    qn_reply_kind out_kind;
    qn_reply_fn fn; /* during a call */
    void *arg;
    char name[QN_LIMIT_REPLY_NAME], key[QN_LIMIT_REPLY_NAME];
    size_t n_name, n_key;
    /* the text: fences of code, and what went before */
    char fence;
    size_t n_fence, n_run; /* its length; that of the run at the line's beginning */
    bool in_line, has_text, may_recall, is_after; /* is_after: nothing since a call */
    /* a call */
    unsigned pattern, pattern_at; /* which part of its usual beginning, and where there */
    size_t depth;
    bool in_string, is_escaped;
    bool is_naked, is_fenced; /* without tags; but between fences */
    bool is_told;             /* CALL was */
    size_t n_parameters;
    unsigned types;
    bool is_text; /* the value is a string, told as it comes */
    qn_str value; /* what of it waits */
} qn_reply;

void qn_reply_init(qn_reply *r, const qn_reply_style *style);
void qn_reply_fini(qn_reply *r);
void qn_reply_feed(qn_reply *r, const char *p, size_t n, qn_reply_fn fn, void *arg);
/* Nothing more comes. */
void qn_reply_end(qn_reply *r, qn_reply_fn fn, void *arg);
bool qn_reply_is_thinking(const qn_reply *r);
bool qn_reply_has_failed(const qn_reply *r); /* for want of memory: what was told is not all */

#endif
