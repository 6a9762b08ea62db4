/* SPDX-License-Identifier: Apache-2.0
 * jinja_ast.h - tokens and syntax tree of a template.
 *
 * Chains are flat so that the tree is only as deep as the source is nested: a + b - c is one node
 * of three kids, x.a[b]|c is one POSTFIX node (base, then steps), if/elif/else is one node of
 * pairs.
 * Threads: read-only once parsed. */
#ifndef QN_TEXT_JINJA_AST_H
#define QN_TEXT_JINJA_AST_H

#include "text/jinja_value.h"

typedef enum qn_jtoken_kind {
    QN_JT_EOF,
    QN_JT_DATA,
    QN_JT_VARIABLE_BEGIN,
    QN_JT_VARIABLE_END,
    QN_JT_BLOCK_BEGIN,
    QN_JT_BLOCK_END,
    QN_JT_NAME,
    QN_JT_STRING, /* text: with its quotes */
    QN_JT_INT,
    QN_JT_FLOAT,
    QN_JT_OP /* op: its characters, packed: '=' << 8 | '=' */
} qn_jtoken_kind;

typedef struct qn_jtoken {
    uint8_t kind;
    uint16_t op;
    uint32_t line;
    qn_slice text;
} qn_jtoken;

typedef enum qn_jnode_kind {
    /* expressions */
    QN_JN_CONST,
    QN_JN_NAME,
    QN_JN_LIST,
    QN_JN_TUPLE,
    QN_JN_DICT,    /* key, value, key, value ... */
    QN_JN_OR,      /* kids */
    QN_JN_AND,     /* kids */
    QN_JN_NOT,     /* kid, op: odd number of nots */
    QN_JN_COMPARE, /* kids, ops between them */
    QN_JN_CHAIN,   /* + - or * / // % or **: kids, ops between them */
    QN_JN_CONCAT,  /* kids */
    QN_JN_SIGN,    /* kid, op: 1 negates */
    QN_JN_COND,    /* condition, then[, else] */
    QN_JN_POSTFIX, /* base, steps */
    /* steps of a postfix; arguments: kids, the last n_names of them by keyword */
    QN_JN_ATTR,   /* name */
    QN_JN_ITEM,   /* kid */
    QN_JN_SLICE,  /* 3 kids, any may be NULL */
    QN_JN_CALL,   /* arguments */
    QN_JN_FILTER, /* name, arguments */
    QN_JN_TEST,   /* name, arguments; op 1: is not */
    /* statements */
    QN_JN_BODY,         /* kids */
    QN_JN_DATA,         /* value */
    QN_JN_OUTPUT,       /* kid */
    QN_JN_IF,           /* condition, body, condition, body ... [else body] */
    QN_JN_FOR,          /* names; iterable, condition or NULL, body, else body or NULL */
    QN_JN_SET,          /* names, or name + op 1 for an attribute (names[0] of name); value */
    QN_JN_SET_BLOCK,    /* the same target; body, then filter steps */
    QN_JN_MACRO,        /* name, names of parameters; body, then defaults of the last ones */
    QN_JN_CALL_BLOCK,   /* names of parameters; call, body, then defaults */
    QN_JN_FILTER_BLOCK, /* body, then filter steps */
    QN_JN_WITH,         /* names; body, then their values */
    QN_JN_BREAK,
    QN_JN_CONTINUE
} qn_jnode_kind;

typedef enum qn_jop { /* ops of COMPARE and CHAIN */
                      QN_JOP_EQ,
                      QN_JOP_NE,
                      QN_JOP_LT,
                      QN_JOP_LE,
                      QN_JOP_GT,
                      QN_JOP_GE,
                      QN_JOP_IN,
                      QN_JOP_NOT_IN,
                      QN_JOP_ADD,
                      QN_JOP_SUB,
                      QN_JOP_MUL,
                      QN_JOP_DIV,
                      QN_JOP_FLOORDIV,
                      QN_JOP_MOD,
                      QN_JOP_POW
} qn_jop;

typedef struct qn_jnode {
    uint8_t kind, op;
    uint32_t line;
    uint32_t name; /* id in the template's names */
    uint32_t n, n_names;
    struct qn_jnode **kids;
    uint32_t *names;
    uint8_t *ops; /* n - 1 */
    qn_jvalue value;
} qn_jnode;

typedef enum qn_jword {
    QN_JW_LOOP,
    QN_JW_CALLER,
    QN_JW_VARARGS,
    QN_JW_KWARGS,
    QN_JW_MESSAGES,
    QN_JW_N
} qn_jword;
#define QN_JW_ABSENT UINT32_MAX

struct qn_jinja {
    char *name;
    qn_arena arena;
    qn_slice *names; /* every identifier of the source, once */
    uint32_t n_names;
    uint32_t words
        [QN_JW_N]; /* ids of names the evaluator sets, QN_JW_ABSENT where the source has none */
    qn_jnode *body;
};

bool qn_jvalue_binary(qn_jrun *r, qn_jop op, const qn_jvalue *a, const qn_jvalue *b,
                      qn_jvalue *out);
bool qn_jvalue_compare(qn_jrun *r, qn_jop op, const qn_jvalue *a, const qn_jvalue *b, bool *out);

/* Tokens of source in t's arena, the last one EOF; free *out with qn_free. */
QN_MUST_USE qn_status qn_jinja_lex(qn_jinja *t, const char *source, size_t n, qn_jtoken **out,
                                   qn_err *err);

#endif
