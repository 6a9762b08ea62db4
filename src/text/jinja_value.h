/* SPDX-License-Identifier: Apache-2.0
 * jinja_value.h - the values of a running template and the run that owns them.
 *
 * A value is 16 bytes; what it points to lives in the run's arena (constants: in the template's)
 * and never changes, apart from a namespace's fields. JSON lists and objects are unpacked one level
 * at a time, when first touched.
 *
 * Where text comes from: `data` is true for what came from the variables. A string is either of one
 * kind (spans NULL) or has spans, in order and covering it:
 *
 *   "<|im_start|>user\nHello<|im_end|>"   spans: [17 literal] [22 data] [32 literal]
 *
 * Invariant: what is computed from data is data; only pieces of a literal stay literal
 * (qn_jtext_add*).
 * Threads: one owner. */
#ifndef QN_TEXT_JINJA_VALUE_H
#define QN_TEXT_JINJA_VALUE_H

#include "base/mem.h"
#include "text/jinja.h"

typedef enum qn_jtype {
    QN_J_MISSING, /* no value at all: an argument not given, a name not set */
    QN_J_UNDEFINED,
    QN_J_NONE,
    QN_J_BOOL,
    QN_J_INT,
    QN_J_BIG_INT, /* of more than 64 bits, as its digits (u.s): can be printed and compared, no
                   * more */
    QN_J_FLOAT,
    QN_J_STRING,
    QN_J_LIST,
    QN_J_DICT,
    QN_J_NAMESPACE, /* a dict whose fields can be set */
    QN_J_MACRO,
    QN_J_FUNCTION, /* one of qn_jfunction */
    QN_J_METHOD,   /* a method bound to its object (of a loop: cycle) */
    QN_J_LOOP
} qn_jtype;

typedef struct qn_jvalue {
    uint8_t type;
    bool data; /* from the variables; of a string with spans: unused */
    union {
        bool b;
        int64_t i;
        double f;
        struct qn_jstring *s;
        struct qn_jlist *l;
        struct qn_jdict *d; /* DICT, NAMESPACE */
        const struct qn_jmissing *m;
        struct qn_jmacro *macro;
        struct qn_jmethod *method;
        struct qn_jloop *loop;
    } u;
} qn_jvalue;

typedef struct qn_jspan {
    size_t end;
    bool data;
} qn_jspan;

typedef struct qn_jstring {
    const char *p; /* UTF-8, not terminated */
    size_t n;
    size_t n_chars; /* code points; SIZE_MAX: not counted yet */
    const qn_jspan *spans;
    size_t n_spans;
} qn_jstring;

typedef enum qn_jlist_kind {
    QN_J_LIST_PLAIN,
    QN_J_LIST_TUPLE,
    QN_J_LIST_RANGE,
    QN_J_LIST_VIEW,     /* keys(), values(), items() of a dict: no index */
    QN_J_LIST_GENERATOR /* what filters like map give: iterated once, no index, no length */
} qn_jlist_kind;

typedef struct qn_jlist {
    qn_jlist_kind kind;
    size_t n;
    qn_jvalue *items;
    const json_t *json; /* not unpacked yet */
    bool spent;         /* a generator already iterated */
    const char *name;   /* VIEW: "dict_keys" */
} qn_jlist;

typedef struct qn_jentry {
    qn_jvalue key, value;
} qn_jentry;

typedef struct qn_jdict {
    size_t n, cap;
    qn_jentry *entries; /* in order of insertion */
    uint32_t *index;    /* hash table of entry + 1; NULL while few */
    size_t n_index;     /* a power of two */
    const json_t *json; /* not unpacked yet */
    bool is_message;    /* give `reasoning` and `thinking` beside `reasoning_content` */
} qn_jdict;

typedef struct qn_jmissing { /* what an undefined value stands for */
    const char *owner;       /* "dict object"; NULL: a variable */
    qn_slice name;
} qn_jmissing;

typedef struct qn_jmethod {
    qn_jvalue self;
    int id;
} qn_jmethod;

typedef struct qn_jargs {
    const qn_jvalue *pos;
    size_t n_pos;
    const qn_jvalue *kw;
    const uint32_t *kw_names; /* ids of the template's names */
    size_t n_kw;
} qn_jargs;

/* One rendering. */
typedef struct qn_jrun {
    const struct qn_jinja *t;
    qn_arena arena;
    int64_t fuel; /* in 1/16 steps */
    int depth;
    uint32_t line;
    qn_status status;
    qn_err *err;
    int64_t now;
    struct qn_jframe *frame;
    qn_jvalue *globals; /* by name id */
    struct qn_jtext *out;
} qn_jrun;

/* ---- the run: all return false, or NULL, with the error in the run ---- */

/* QN_E_FORMAT, "name:line: ..." */
bool qn_jrun_fail(qn_jrun *r, const char *fmt, ...) QN_PRINTF(2, 3);
#if defined(__clang_analyzer__) && !defined(QN_JINJA_VALUE_C) /* as qn_fail in base.h */
#define qn_jrun_fail(r, ...) (qn_seen(r, __VA_ARGS__), false)
#endif
bool qn_jrun_spend(qn_jrun *r, size_t units); /* a step is 16 */
bool qn_jrun_spend_bytes(qn_jrun *r, size_t n);
bool qn_jrun_enter(qn_jrun *r); /* one level deeper; pair with r->depth-- */
void *qn_jrun_alloc(qn_jrun *r, size_t n, size_t size);
qn_slice qn_jrun_name(const qn_jrun *r, uint32_t id);

/* ---- making values ---- */

#define QN_J_NIL ((qn_jvalue){.type = QN_J_NONE})
qn_jvalue qn_jvalue_bool(bool b);
qn_jvalue qn_jvalue_int(int64_t i);
qn_jvalue qn_jvalue_float(double f);
bool qn_jvalue_undefined(qn_jrun *r, const char *owner, qn_slice name, qn_jvalue *out);
bool qn_jvalue_string(qn_jrun *r, const char *p, size_t n, bool data,
                      qn_jvalue *out);                             /* p is borrowed */
bool qn_jvalue_literal(qn_jrun *r, const char *z, qn_jvalue *out); /* a static string */
bool qn_jvalue_list(qn_jrun *r, qn_jlist_kind kind, size_t n,
                    qn_jvalue *out);                       /* n items of None to fill */
bool qn_jvalue_dict(qn_jrun *r, size_t n, qn_jvalue *out); /* room for n, empty */
bool qn_jvalue_json(qn_jrun *r, const json_t *j, qn_jvalue *out);

/* ---- asking values ---- */

const char *qn_jvalue_type_name(const qn_jvalue *v);   /* Python's: "str", "NoneType" */
const char *qn_jvalue_object_name(const qn_jvalue *v); /* jinja's: "str object", "None" */
bool qn_jvalue_truth(const qn_jvalue *v);
bool qn_jvalue_is_number(const qn_jvalue *v); /* int, float or bool */
double qn_jvalue_number(const qn_jvalue *v);  /* of a number */
bool qn_jvalue_is_data(
    const qn_jvalue *v); /* any of it came from the variables (a string or scalar) */
bool qn_jvalue_equal(qn_jrun *r, const qn_jvalue *a, const qn_jvalue *b, bool *out);
bool qn_jvalue_less(qn_jrun *r, const qn_jvalue *a, const qn_jvalue *b,
                    bool *out); /* TypeError as Python */
/* order[i]: the place in keys of the i-th in order; equal ones keep theirs. */
bool qn_jvalue_sort(qn_jrun *r, const qn_jvalue *keys, size_t n, bool reverse, uint32_t *order);
bool qn_jvalue_contains(qn_jrun *r, const qn_jvalue *item, const qn_jvalue *in, bool *out);
/* Fails: an undefined value was used for what it cannot do. */
bool qn_jvalue_refuse(qn_jrun *r, const qn_jvalue *v);
/* Its items as a list: elements, keys, characters; nothing of an undefined value. */
bool qn_jvalue_iterate(qn_jrun *r, const qn_jvalue *v, qn_jlist **out);
bool qn_jvalue_length(qn_jrun *r, const qn_jvalue *v, int64_t *out);
/* v[key], or v.key: the item, a method, or undefined. */
bool qn_jvalue_item(qn_jrun *r, const qn_jvalue *v, const qn_jvalue *key, qn_jvalue *out);
bool qn_jvalue_attr(qn_jrun *r, const qn_jvalue *v, qn_slice name, qn_jvalue *out);
bool qn_jloop_attr(qn_jrun *r, struct qn_jloop *l, qn_slice name, qn_jvalue *out);
bool qn_jvalue_slice(qn_jrun *r, const qn_jvalue *v, const qn_jvalue bounds[3], qn_jvalue *out);

bool qn_jlist_unpack(qn_jrun *r, qn_jlist *l);
bool qn_jdict_unpack(qn_jrun *r, qn_jdict *d);
bool qn_jdict_find(qn_jrun *r, qn_jdict *d, const qn_jvalue *key,
                   qn_jentry **out); /* NULL: not there */
bool qn_jdict_get(qn_jrun *r, qn_jdict *d, qn_slice key, qn_jentry **out);
bool qn_jdict_set(qn_jrun *r, qn_jdict *d, const qn_jvalue *key, const qn_jvalue *value);
size_t qn_jstring_chars(qn_jstring *s);
size_t qn_jstring_offset(const qn_jstring *s, size_t i_char); /* byte of a code point */
bool qn_jstring_part(qn_jrun *r, const qn_jvalue *v, size_t begin, size_t end,
                     qn_jvalue *out); /* bytes */

/* ---- text under construction ---- */

typedef struct qn_jtext {
    char *p;
    size_t n, cap;
    qn_jspan *spans;
    size_t n_spans, cap_spans;
} qn_jtext;
bool qn_jtext_add(qn_jrun *r, qn_jtext *t, const char *p, size_t n, bool data);
bool qn_jtext_add_part(qn_jrun *r, qn_jtext *t, const qn_jvalue *v, size_t begin,
                       size_t end);                                   /* of a string */
bool qn_jtext_add_value(qn_jrun *r, qn_jtext *t, const qn_jvalue *v); /* as str(v) */
bool qn_jtext_value(qn_jrun *r, const qn_jtext *t, qn_jvalue *out);
bool qn_jvalue_str(qn_jrun *r, const qn_jvalue *v, qn_jvalue *out); /* str(v) */

typedef struct qn_jjson_style {
    qn_slice indent; /* p NULL: one line */
    qn_slice item_sep, key_sep;
    bool ascii, sort;
} qn_jjson_style;
bool qn_jtext_add_json(qn_jrun *r, qn_jtext *t, const qn_jvalue *v, const qn_jjson_style *style);

/* ---- what templates can call ---- */

typedef enum qn_jfunction {
    QN_J_RAISE_EXCEPTION,
    QN_J_STRFTIME_NOW,
    QN_J_RANGE,
    QN_J_NAMESPACE_NEW,
    QN_J_DICT_NEW,
    QN_J_N_FUNCTIONS
} qn_jfunction;
int qn_jfunction_find(qn_slice name); /* -1: none */
bool qn_jfunction_call(qn_jrun *r, int id, const qn_jargs *a, qn_jvalue *out);

int qn_jmethod_find(const qn_jvalue *self, qn_slice name); /* -1: none */
bool qn_jmethod_call(qn_jrun *r, const qn_jmethod *m, const qn_jargs *a, qn_jvalue *out);

bool qn_jfilter_apply(qn_jrun *r, qn_slice name, const qn_jvalue *v, const qn_jargs *a,
                      qn_jvalue *out);
bool qn_jtest_apply(qn_jrun *r, qn_slice name, const qn_jvalue *v, const qn_jargs *a, bool *out);

/* Puts arguments in the order of params ("old new count"), MISSING where not given; the first
 * n_required must be. */
bool qn_jargs_bind(qn_jrun *r, const char *what, const char *params, size_t n_required,
                   const qn_jargs *a, qn_jvalue *out);
/* For what takes no arguments. */
bool qn_jargs_none(qn_jrun *r, const char *what, const qn_jargs *a);
bool qn_jargs_int(qn_jrun *r, const char *what, const qn_jvalue *v, int64_t otherwise,
                  int64_t *out);
bool qn_jargs_string(qn_jrun *r, const char *what, const qn_jvalue *v);

/* Shared by strings and filters. */
int qn_jstring_method_find(qn_slice name);
bool qn_jstring_method_call(qn_jrun *r, int id, const qn_jvalue *self, const qn_jargs *a,
                            qn_jvalue *out);
bool qn_jchar_is_space(uint32_t cp);
typedef enum qn_jcase {
    QN_J_UPPER,
    QN_J_LOWER,
    QN_J_CAPITALIZE,
    QN_J_TITLE,
    QN_J_WORDS,
    QN_J_SWAP
} qn_jcase;
bool qn_jstring_repeat(qn_jrun *r, const qn_jvalue *v, int64_t n, qn_jvalue *out);
bool qn_jstring_join(qn_jrun *r, const qn_jvalue *between, const qn_jlist *l, bool strict,
                     qn_jvalue *out);
bool qn_jstring_case(qn_jrun *r, const qn_jvalue *v, qn_jcase c, qn_jvalue *out);
bool qn_jstring_strip(qn_jrun *r, const qn_jvalue *v, const qn_jvalue *chars, bool left, bool right,
                      qn_jvalue *out);
bool qn_jstring_replace(qn_jrun *r, const qn_jvalue *v, const qn_jvalue *old,
                        const qn_jvalue *fresh, int64_t count, qn_jvalue *out);

#endif
