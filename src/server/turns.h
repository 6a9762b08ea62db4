/* SPDX-License-Identifier: Apache-2.0
 * turns.h - builds the variables of a chat template from messages that are not OpenAI's.
 *
 *   open "user", text, text, open "assistant", call, open "tool", text, write
 *   {"messages": [{"role": "user", "content": "..."}, ...], "tools": [...], "enable_thinking": false}
 *
 * System messages before all others become one, since templates take one; parts of a text are parted by a newline.
 * A last message of the assistant can be left open: the answer goes on from there (qn_turns_encode's prefill).
 * Memory failures stick in the strings and show in qn_turns_encode. Threads: any; one owner. */
#ifndef QN_SERVER_TURNS_H
#define QN_SERVER_TURNS_H

#include "base/json.h"

typedef struct qn_turns {
    qn_str system;   /* text of the system messages before all others */
    qn_str messages; /* JSON of the closed ones, with commas */
    qn_str tools;    /* JSON of the tools, with commas */
    const char *role;
    qn_str content, reasoning, calls, fields; /* of the open one: text, text, JSON, JSON */
    bool is_open, has_text;
    bool has_thinking, is_thinking; /* the template is told; how */
} qn_turns;
void qn_turns_fini(qn_turns *t);

/* Where in a request something stands: "messages.2.content.0". Cut when longer. */
typedef struct qn_where {
    char path[120];
} qn_where;
qn_where qn_where_at(const qn_where *parent, const char *key); /* parent NULL: the top */
qn_where qn_where_index(const qn_where *parent, size_t i);

/* Begins a message, and closes the one before. role is borrowed until then. */
void qn_turns_open(qn_turns *t, const char *role);
void qn_turns_close(qn_turns *t);
void qn_turns_text(qn_turns *t, const char *p, size_t n);
/* A string, or an array of {"type": one of types, "text": ...}; types ends with NULL. On failure *where is the place. */
QN_MUST_USE qn_status qn_turns_parts(qn_turns *t, const json_t *v, const char *const *types,
                                     qn_where *where, qn_err *err);
void qn_turns_reasoning(qn_turns *t, const char *p, size_t n);
/* arguments: an object. id may be NULL. */
void qn_turns_call(qn_turns *t, const char *id, const char *name, const json_t *arguments);
void qn_turns_field(qn_turns *t, const char *key, const char *value);
/* parameters: an object or NULL; description may be NULL. */
void qn_turns_tool(qn_turns *t, const char *name, const char *description,
                   const json_t *parameters);

/* The same from {"type": "function", "function": {"name", "description", "parameters"}}. */
QN_MUST_USE qn_status qn_turns_function(qn_turns *t, const json_t *tool, qn_where *where,
                                        qn_err *err);

/* The prompt's tokens, freed with qn_release. keep_open: the open message is the beginning of the answer. */
QN_MUST_USE qn_status qn_turns_encode(qn_turns *t, const qn_engine *e, bool keep_open,
                                      int32_t **ids, size_t *n_ids, qn_err *err);

/* QN_E_ARG if there are more than a limit of base/limits.def. */
QN_MUST_USE qn_status qn_turns_limit(const char *name, const json_t *list, size_t max, qn_err *err);
/* v as a string without NUL, or NULL. */
const char *qn_turns_string(const json_t *v);

#endif
