/* SPDX-License-Identifier: Apache-2.0
 * demand.h - what an answer must be, as a request says it in any of the APIs: a form, tool calls, thoughts of a bounded length; and
 * the one grammar that makes it so.
 *
 *   response_format, guided_json, regex, format, ... --> form ----+
 *   tools, tool_choice, strict, parallel_tool_calls --> tools ----+--> GBNF --> qn_params.grammar      (demand_grammar.c)
 *   enable_thinking, thinking_budget ------------------> budget --+
 *   the template's words, the prompt's end --> speech, begin -----+--> qn_reply_style                  (reply.h)
 *
 *   lead   <think>\n ... </think>\n\n      as the model writes it; after budget tokens it is ended. Then:
 *   body   the form | calls | text in which every <tool_call> begins a call of an allowed tool | anything
 *
 * Enforced are: every form; that there is a call, of which tool, and how many; arguments by their schema, where a call is required or the
 * tool is strict, unless it says "strict": false. What cannot be is QN_E_ARG or QN_E_UNSUPPORTED, and names the field.
 * Memory: the exchange's arena; JSON is borrowed. Threads: one owner. */
#ifndef QN_SERVER_DEMAND_H
#define QN_SERVER_DEMAND_H

#include "base/json.h"
#include "base/mem.h"
#include "server/exchange.h"
#include "server/speech.h"
#include <quern/grammar.h>

typedef enum qn_tool_choice { QN_TOOLS_AUTO, QN_TOOLS_NONE, QN_TOOLS_REQUIRED } qn_tool_choice;

typedef struct qn_tool {
    const char *where; /* "tools[2].function.parameters" */
    const char *name;
    const json_t *parameters; /* an object; NULL: there are none */
    bool is_strict, is_lax;   /* "strict": true, false */
    bool is_allowed;
} qn_tool;

typedef struct qn_demand {
    qn_exchange *x; /* is put off for a grammar that is new; NULL: never */
    qn_arena *arena;
    bool has_form;
    qn_grammar_kind form;
    qn_slice text;          /* of the form */
    const char *form_param; /* the field that asked for it */
    qn_tool *tools;
    size_t n_tools, tools_cap;
    qn_tool_choice choice;
    bool is_single; /* at most one call; of one that is named: exactly one */
    bool is_subset; /* not all tools are allowed */
    int budget;     /* tokens of thoughts; -1: no limit; 0: none */
    bool is_silent; /* thoughts are not shown */
    qn_speech speech;
    qn_reply_style style;
} qn_demand;

void qn_demand_init(qn_demand *d, const qn_engine *e, qn_exchange *x);

/* ---- forms ---- */

/* A field that is given; null is not. For SCHEMA any JSON, or the text of one; CHOICE an array; others a string. */
QN_MUST_USE qn_status qn_demand_form(qn_demand *d, const char *param, qn_grammar_kind kind,
                                     const json_t *v, qn_err *err);
/* What OpenAI's clients, vLLM's and SGLang's send: response_format, structured_outputs, guided_*, json_schema, regex, ebnf,
 * grammar. */
QN_MUST_USE qn_status qn_demand_read_forms(qn_demand *d, const json_t *o, const char **param,
                                           qn_err *err);
/* {"type": "text" | "json_object" | "json_schema", ...}: schema below json_schema, or beside the type; of json_object, as
 * llama.cpp has it, it need not be there. */
QN_MUST_USE qn_status qn_demand_read_format(qn_demand *d, const char *param, const json_t *v,
                                            qn_err *err);

/* ---- tools ---- */

/* where: of its parameters; copied. strict: a JSON bool, or NULL. */
QN_MUST_USE qn_status qn_demand_tool(qn_demand *d, const char *where, const json_t *name,
                                     const json_t *parameters, const json_t *strict, qn_err *err);
/* "auto", "none", "required"; {"type": "function", "function": {"name"}} or with the name beside the type; {"type":
 * "allowed_tools", ...}. After the tools. */
QN_MUST_USE qn_status qn_demand_read_choice(qn_demand *d, const json_t *v, qn_err *err);
/* Only this one, exactly once. */
QN_MUST_USE qn_status qn_demand_name(qn_demand *d, const char *param, const char *name,
                                     qn_err *err);

/* ---- thoughts ---- */

/* thinking_budget, thinking_token_budget, also in chat_template_kwargs; include_reasoning. */
QN_MUST_USE qn_status qn_demand_read_thinking(qn_demand *d, const json_t *o, const char **param,
                                              qn_err *err);

/* ---- the answer ---- */

/* What an answer to these tokens is told from: d->style. is_chat: thoughts and calls are told apart; else only the form counts.
 * *grammar: what it must keep to; NULL: nothing. Closed by the caller once the request is submitted. */
QN_MUST_USE qn_status qn_demand_settle(qn_demand *d, qn_engine *e, const int32_t *ids, size_t n_ids,
                                       qn_grammar **grammar, const char **param, qn_err *err);
/* The same without a prompt that thoughts could be open in: raw text goes on. */
QN_MUST_USE qn_status qn_demand_settle_raw(qn_demand *d, qn_engine *e, qn_grammar **grammar,
                                           const char **param, qn_err *err);

/* ---- demand_grammar.c ---- */

/* The whole answer as GBNF; empty: anything. */
QN_MUST_USE qn_status qn_demand_write(const qn_demand *d, qn_str *out, const char **param,
                                      qn_err *err);
/* Whether that says what calls there are. */
bool qn_demand_holds_calls(const qn_demand *d);
/* Types of a parameter by its tool's schema (qn_reply_types); arg: the demand. */
unsigned qn_demand_types(void *arg, qn_slice tool, qn_slice parameter);

#endif
