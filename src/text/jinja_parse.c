/* SPDX-License-Identifier: Apache-2.0
 * jinja_parse.c - builds the syntax tree of a template.
 *
 * Operators are parsed with a stack of pending operators, so a chain of any length costs no
 * recursion; only brackets, blocks and "a if b else c" recurse, at most QN_LIMIT_TEMPLATE_DEPTH
 * deep. Precedence, lowest first: or, and, not, comparisons, + -, ~, * / // %, **; unary minus and
 * filters bind tighter than all. Source: jinja2 parser.py. */
#include "text/jinja_ast.h"

#include <string.h>

typedef struct parser {
    qn_jinja *t;
    const qn_jtoken *tok; /* the current one */
    qn_jnode **kids;      /* stack of finished nodes waiting for their parent */
    size_t n_kids, cap_kids;
    uint32_t *ids; /* stack of names waiting likewise */
    size_t n_ids, cap_ids;
    uint8_t *ops; /* stack of pending operators */
    size_t n_ops, cap_ops;
    uint32_t *index; /* hash table of name id + 1 */
    size_t n_index, cap_names;
    int depth, loops;
    qn_err *err;
} parser;

static qn_status parse_expr(parser *p, bool may_cond, qn_jnode **out);
static qn_status parse_body(parser *p, qn_jnode **out);

static qn_status fail_here(parser *p, const char *wanted)
{
    const qn_jtoken *k = p->tok;
    if (k->kind == QN_JT_EOF)
        return qn_fail(p->err, QN_E_FORMAT, "%s:%u: the template ends where %s is wanted",
                       p->t->name, k->line, wanted);
    qn_slice s = k->kind == QN_JT_BLOCK_END      ? QN_SLICE("%}")
                 : k->kind == QN_JT_VARIABLE_END ? QN_SLICE("}}")
                                                 : k->text;
    return qn_fail(p->err, QN_E_FORMAT, "%s:%u: '%.*s' found, %s wanted", p->t->name, k->line,
                   (int)QN_MIN(s.n, 40), s.p, wanted);
}

static qn_status no_memory(parser *p)
{
    return qn_fail(p->err, QN_E_NOMEM, "%s: its syntax tree needs more than %d bytes", p->t->name,
                   QN_LIMIT_TEMPLATE_TREE);
}

static qn_status enter(parser *p)
{
    if (++p->depth > QN_LIMIT_TEMPLATE_DEPTH)
        return qn_fail(p->err, QN_E_FORMAT, "%s:%u: nested too deeply (more than %d)", p->t->name,
                       p->tok->line, QN_LIMIT_TEMPLATE_DEPTH);
    return QN_OK;
}

static qn_status push_kid(parser *p, qn_jnode *node)
{
    if (!qn_grow(&p->kids, &p->cap_kids, p->n_kids + 1, sizeof(*p->kids), QN_MEM_VOCAB))
        return no_memory(p);
    p->kids[p->n_kids++] = node;
    return QN_OK;
}

static qn_status push_id(parser *p, uint32_t id)
{
    if (!qn_grow(&p->ids, &p->cap_ids, p->n_ids + 1, sizeof(*p->ids), QN_MEM_VOCAB))
        return no_memory(p);
    p->ids[p->n_ids++] = id;
    return QN_OK;
}

static qn_status push_op(parser *p, uint8_t op)
{
    if (!qn_grow(&p->ops, &p->cap_ops, p->n_ops + 1, 1, QN_MEM_VOCAB))
        return no_memory(p);
    p->ops[p->n_ops++] = op;
    return QN_OK;
}

/* A node that takes the kids and names pushed since the two marks. */
static qn_status make(parser *p, qn_jnode_kind kind, uint32_t line, size_t kids, size_t ids,
                      qn_jnode **out)
{
    qn_jnode *node = qn_arena_alloc(&p->t->arena, sizeof(*node));
    if (!node)
        return no_memory(p);
    *node = (qn_jnode){.kind = (uint8_t)kind, .line = line};
    node->n = (uint32_t)(p->n_kids - kids);
    node->n_names = (uint32_t)(p->n_ids - ids);
    if (node->n) {
        node->kids = qn_arena_alloc(&p->t->arena, node->n * sizeof(*node->kids));
        if (!node->kids)
            return no_memory(p);
        memcpy(node->kids, p->kids + kids, node->n * sizeof(*node->kids));
    }
    if (node->n_names) {
        node->names = qn_arena_alloc(&p->t->arena, node->n_names * sizeof(*node->names));
        if (!node->names)
            return no_memory(p);
        memcpy(node->names, p->ids + ids, node->n_names * sizeof(*node->names));
    }
    p->n_kids = kids;
    p->n_ids = ids;
    *out = node;
    return QN_OK;
}

/* ---- tokens ---- */

static bool is_op(const parser *p, uint16_t op)
{
    return p->tok->kind == QN_JT_OP && p->tok->op == op;
}

static bool is_word(const parser *p, const char *z)
{
    return p->tok->kind == QN_JT_NAME && qn_slice_is(p->tok->text, z);
}

static bool take_op(parser *p, uint16_t op)
{
    if (!is_op(p, op))
        return false;
    p->tok++;
    return true;
}

static bool take_word(parser *p, const char *z)
{
    if (!is_word(p, z))
        return false;
    p->tok++;
    return true;
}

static qn_status expect_op(parser *p, uint16_t op, const char *wanted)
{
    return take_op(p, op) ? QN_OK : fail_here(p, wanted);
}

static qn_status expect_block_end(parser *p)
{
    if (p->tok->kind != QN_JT_BLOCK_END)
        return fail_here(p, "the end of the tag");
    p->tok++;
    return QN_OK;
}

static qn_status grow_index(parser *p)
{
    size_t n = p->n_index ? p->n_index * 2 : 64;
    uint32_t *index = qn_calloc(n, sizeof(*index), QN_MEM_VOCAB);
    if (!index)
        return no_memory(p);
    for (uint32_t i = 0; i < p->t->n_names; i++) {
        size_t h = qn_hash(p->t->names[i].p, p->t->names[i].n, 0) & (n - 1);
        while (index[h])
            h = (h + 1) & (n - 1);
        index[h] = i + 1;
    }
    qn_free(p->index);
    p->index = index;
    p->n_index = n;
    return QN_OK;
}

/* The id of a name, made new if it was not seen before. */
static qn_status intern(parser *p, qn_slice s, uint32_t *out)
{
    qn_jinja *t = p->t;
    if ((size_t)t->n_names * 2 >= p->n_index)
        QN_TRY(grow_index(p));
    size_t h = qn_hash(s.p, s.n, 0) & (p->n_index - 1);
    for (; p->index[h]; h = (h + 1) & (p->n_index - 1)) {
        if (qn_slice_eq(t->names[p->index[h] - 1], s)) {
            *out = p->index[h] - 1;
            return QN_OK;
        }
    }
    if (!qn_grow(&t->names, &p->cap_names, t->n_names + 1, sizeof(*t->names), QN_MEM_VOCAB))
        return no_memory(p);
    t->names[t->n_names] = s;
    *out = t->n_names++;
    p->index[h] = t->n_names;
    return QN_OK;
}

static qn_status expect_name(parser *p, uint32_t *id)
{
    if (p->tok->kind != QN_JT_NAME)
        return fail_here(p, "a name");
    QN_TRY(intern(p, p->tok->text, id));
    p->tok++;
    return QN_OK;
}

/* ---- literals ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* \xNN, \uNNNN, \UNNNNNNNN: false if malformed. */
static bool unescape_hex(const char *s, size_t n, size_t digits, uint32_t *cp)
{
    if (n < digits)
        return false;
    *cp = 0;
    for (size_t i = 0; i < digits; i++) {
        int d = hex_digit(s[i]);
        if (d < 0)
            return false;
        *cp = *cp << 4 | (uint32_t)d;
    }
    return true;
}

/* One escape at s[0] (after the backslash), written to out. Returns the bytes used, 0 if
 * malformed. */
static size_t unescape(const char *s, size_t n, char *out, size_t *n_out)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *known = s[0] ? strchr(from, s[0]) : NULL;
    uint32_t cp = 0;
    *n_out = 0;
    if (s[0] == '\n')
        return 1;
    if (known) {
        out[(*n_out)++] = to[known - from];
        return 1;
    }
    if (s[0] >= '0' && s[0] <= '7') {
        size_t i = 0;
        for (; i < 3 && i < n && s[i] >= '0' && s[i] <= '7'; i++)
            cp = cp * 8 + (uint32_t)(s[i] - '0');
        *n_out = qn_utf8_encode(out, cp);
        return i;
    }
    size_t digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    if (digits) {
        if (!unescape_hex(s + 1, n - 1, digits, &cp) || cp > 0x10ffff ||
            (cp >= 0xd800 && cp < 0xe000))
            return 0;
        *n_out = qn_utf8_encode(out, cp);
        return digits + 1;
    }
    if (s[0] == 'N')
        return 0;
    out[(*n_out)++] = '\\'; /* an unknown escape stays as it is */
    return SIZE_MAX;
}

/* A string constant in the template's arena, adjacent string tokens joined. */
static qn_status parse_string(parser *p, qn_jvalue *out)
{
    size_t room = 0, n = 0;
    for (const qn_jtoken *k = p->tok; k->kind == QN_JT_STRING; k++)
        room += k->text.n;
    char *buf = qn_arena_alloc(&p->t->arena, room + 4);
    qn_jstring *s = qn_arena_alloc(&p->t->arena, sizeof(*s));
    if (!buf || !s)
        return no_memory(p);
    for (; p->tok->kind == QN_JT_STRING; p->tok++) {
        const char *q = p->tok->text.p + 1, *end = p->tok->text.p + p->tok->text.n - 1;
        while (q < end) {
            if (*q != '\\') {
                buf[n++] = *q++;
                continue;
            }
            size_t written, used = unescape(q + 1, (size_t)(end - q - 1), buf + n, &written);
            if (used == 0)
                return fail_here(p, "a string with valid escapes");
            n += written;
            q += used == SIZE_MAX ? 1 : 1 + used;
        }
    }
    *s = (qn_jstring){.p = buf, .n = n, .n_chars = SIZE_MAX};
    qn_jstring_chars(s); /* counted now: constants are shared by threads */
    *out = (qn_jvalue){.type = QN_J_STRING, .u.s = s};
    return QN_OK;
}

static qn_status parse_number(parser *p, qn_jvalue *out)
{
    char digits[64];
    size_t n = 0;
    for (size_t i = 0; i < p->tok->text.n; i++) {
        if (p->tok->text.p[i] == '_')
            continue;
        if (n == sizeof(digits))
            return fail_here(p, "a shorter number");
        digits[n++] = p->tok->text.p[i];
    }
    int64_t i;
    double f;
    if (p->tok->kind == QN_JT_INT && qn_parse_i64(digits, n, &i))
        *out = qn_jvalue_int(i);
    else if (p->tok->kind == QN_JT_FLOAT && qn_parse_f64(digits, n, &f))
        *out = qn_jvalue_float(f);
    else
        return fail_here(p, "a number within 64 bits");
    p->tok++;
    return QN_OK;
}

static qn_status make_const(parser *p, qn_jvalue v, qn_jnode **out)
{
    QN_TRY(make(p, QN_JN_CONST, p->tok->line, p->n_kids, p->n_ids, out));
    (*out)->value = v;
    return QN_OK;
}

/* ---- expressions ---- */

/* Expressions up to `close`, pushed as kids; *commas counts the commas. */
static qn_status parse_items(parser *p, uint16_t close, size_t *commas)
{
    *commas = 0;
    while (!is_op(p, close)) {
        qn_jnode *kid;
        QN_TRY(parse_expr(p, true, &kid));
        QN_TRY(push_kid(p, kid));
        if (!take_op(p, ','))
            break;
        ++*commas;
    }
    return expect_op(p, close, close == ')' ? "',' or ')'" : "',' or ']'");
}

static qn_status parse_dict(parser *p, qn_jnode **out)
{
    size_t base = p->n_kids;
    uint32_t line = p->tok->line;
    while (!is_op(p, '}')) {
        qn_jnode *kid;
        QN_TRY(parse_expr(p, true, &kid));
        QN_TRY(push_kid(p, kid));
        QN_TRY(expect_op(p, ':', "':'"));
        QN_TRY(parse_expr(p, true, &kid));
        QN_TRY(push_kid(p, kid));
        if (!take_op(p, ','))
            break;
    }
    QN_TRY(expect_op(p, '}', "',' or '}'"));
    return make(p, QN_JN_DICT, line, base, p->n_ids, out);
}

static bool is_reserved(const parser *p)
{
    static const char *const words[] = {"and", "or", "not", "if", "else", "in", "is"};
    for (size_t i = 0; i < QN_COUNT(words); i++)
        if (is_word(p, words[i]))
            return true;
    return false;
}

static qn_status parse_word(parser *p, qn_jnode **out)
{
    static const struct {
        const char *word;
        uint8_t type;
        bool b;
    } constants[] = {{"true", QN_J_BOOL, true},   {"True", QN_J_BOOL, true},
                     {"false", QN_J_BOOL, false}, {"False", QN_J_BOOL, false},
                     {"none", QN_J_NONE, false},  {"None", QN_J_NONE, false}};
    uint32_t id = 0;
    if (is_reserved(p))
        return fail_here(p, "an expression");
    for (size_t i = 0; i < QN_COUNT(constants); i++) {
        if (take_word(p, constants[i].word))
            return make_const(
                p, constants[i].type == QN_J_NONE ? QN_J_NIL : qn_jvalue_bool(constants[i].b), out);
    }
    uint32_t line = p->tok->line;
    QN_TRY(expect_name(p, &id));
    QN_TRY(make(p, QN_JN_NAME, line, p->n_kids, p->n_ids, out));
    (*out)->name = id;
    return QN_OK;
}

static qn_status parse_primary(parser *p, qn_jnode **out)
{
    size_t base = p->n_kids, commas;
    uint32_t line = p->tok->line;
    qn_jvalue v;
    if (p->tok->kind == QN_JT_NAME)
        return parse_word(p, out);
    if (p->tok->kind == QN_JT_STRING) {
        QN_TRY(parse_string(p, &v));
        return make_const(p, v, out);
    }
    if (p->tok->kind == QN_JT_INT || p->tok->kind == QN_JT_FLOAT) {
        QN_TRY(parse_number(p, &v));
        return make_const(p, v, out);
    }
    if (take_op(p, '[')) {
        QN_TRY(parse_items(p, ']', &commas));
        return make(p, QN_JN_LIST, line, base, p->n_ids, out);
    }
    if (take_op(p, '{'))
        return parse_dict(p, out);
    if (!take_op(p, '('))
        return fail_here(p, "an expression");
    QN_TRY(parse_items(p, ')', &commas));
    if (p->n_kids == base + 1 && commas == 0) {
        *out = p->kids[--p->n_kids];
        return QN_OK;
    }
    return make(p, QN_JN_TUPLE, line, base, p->n_ids, out);
}

/* "(a, b, k=c)" after the opening bracket: pushes the kids, then the keywords' names. */
static qn_status parse_args(parser *p)
{
    bool by_name = false;
    while (!is_op(p, ')')) {
        qn_jnode *kid;
        uint32_t id = 0;
        if (p->tok->kind == QN_JT_NAME && p->tok[1].kind == QN_JT_OP && p->tok[1].op == '=') {
            QN_TRY(expect_name(p, &id));
            QN_TRY(push_id(p, id));
            p->tok++;
            by_name = true;
        } else if (by_name) {
            return fail_here(p, "an argument with a keyword");
        }
        QN_TRY(parse_expr(p, true, &kid));
        QN_TRY(push_kid(p, kid));
        if (!take_op(p, ','))
            break;
    }
    return expect_op(p, ')', "',' or ')'");
}

/* "[...]" after the opening bracket. */
static qn_status parse_subscript(parser *p, qn_jnode **out)
{
    size_t base = p->n_kids;
    uint32_t line = p->tok->line;
    qn_jnode *part[3] = {NULL, NULL, NULL};
    int n_parts = 0;
    for (;;) {
        if (!is_op(p, ':') && !is_op(p, ']'))
            QN_TRY(parse_expr(p, true, &part[n_parts]));
        if (n_parts == 2 || !take_op(p, ':'))
            break;
        n_parts++;
    }
    QN_TRY(expect_op(p, ']', "']'"));
    if (n_parts == 0 && !part[0])
        return fail_here(p, "an index before ']'");
    for (int i = 0; i < (n_parts ? 3 : 1); i++)
        QN_TRY(push_kid(p, part[i]));
    return make(p, n_parts ? QN_JN_SLICE : QN_JN_ITEM, line, base, p->n_ids, out);
}

/* One of .name [index] (arguments) after a primary. *out NULL: none follows. */
static qn_status parse_access(parser *p, qn_jnode **out)
{
    size_t base = p->n_kids, ids = p->n_ids;
    uint32_t line = p->tok->line, id = 0;
    *out = NULL;
    if (take_op(p, '[')) {
        return parse_subscript(p, out);
    } else if (take_op(p, '(')) {
        QN_TRY(parse_args(p));
        return make(p, QN_JN_CALL, line, base, ids, out);
    } else if (!take_op(p, '.')) {
        return QN_OK;
    }
    if (p->tok->kind == QN_JT_INT) {
        qn_jnode *kid;
        qn_jvalue v;
        QN_TRY(parse_number(p, &v));
        QN_TRY(make_const(p, v, &kid));
        QN_TRY(push_kid(p, kid));
        return make(p, QN_JN_ITEM, line, base, ids, out);
    }
    QN_TRY(expect_name(p, &id));
    QN_TRY(make(p, QN_JN_ATTR, line, base, ids, out));
    (*out)->name = id;
    return QN_OK;
}

static qn_status parse_filter(parser *p, qn_jnode **out)
{
    size_t base = p->n_kids, ids = p->n_ids;
    uint32_t line = p->tok->line, id = 0;
    QN_TRY(expect_name(p, &id));
    if (take_op(p, '('))
        QN_TRY(parse_args(p));
    QN_TRY(make(p, QN_JN_FILTER, line, base, ids, out));
    (*out)->name = id;
    return QN_OK;
}

/* "is [not] name [arguments]" after "is". The one argument may stand without brackets. */
static qn_status parse_test(parser *p, qn_jnode **out)
{
    size_t base = p->n_kids, ids = p->n_ids;
    uint32_t line = p->tok->line, id = 0;
    bool negated = take_word(p, "not");
    QN_TRY(expect_name(p, &id));
    if (take_op(p, '(')) {
        QN_TRY(parse_args(p));
    } else if ((p->tok->kind == QN_JT_NAME && !is_reserved(p)) || p->tok->kind == QN_JT_STRING ||
               p->tok->kind == QN_JT_INT || p->tok->kind == QN_JT_FLOAT || is_op(p, '[') ||
               is_op(p, '{')) {
        qn_jnode *kid, *step;
        QN_TRY(parse_primary(p, &kid));
        QN_TRY(push_kid(p, kid));
        for (;;) {
            QN_TRY(parse_access(p, &step));
            if (!step)
                break;
            QN_TRY(push_kid(p, step));
        }
        if (p->n_kids > base + 1) {
            QN_TRY(make(p, QN_JN_POSTFIX, line, base, ids, &kid));
            QN_TRY(push_kid(p, kid));
        }
    } else if (is_word(p, "is")) {
        return fail_here(p, "one test at a time");
    }
    QN_TRY(make(p, QN_JN_TEST, line, base, ids, out));
    (*out)->name = id;
    (*out)->op = negated;
    return QN_OK;
}

/* -+ primary, its accesses, then its filters and tests. */
static qn_status parse_operand(parser *p, qn_jnode **out)
{
    *out = NULL;
    size_t base = p->n_kids, ids = p->n_ids;
    uint32_t line = p->tok->line;
    bool is_signed = false, negative = false;
    qn_jnode *step = NULL;
    while (is_op(p, '-') || is_op(p, '+')) {
        is_signed = true;
        negative ^= is_op(p, '-');
        p->tok++;
    }
    QN_TRY(parse_primary(p, out));
    QN_TRY(push_kid(p, *out));
    for (;;) {
        QN_TRY(parse_access(p, &step));
        if (!step)
            break;
        QN_TRY(push_kid(p, step));
    }
    if (is_signed) {
        if (p->n_kids > base + 1) {
            QN_TRY(make(p, QN_JN_POSTFIX, line, base, ids, out));
            QN_TRY(push_kid(p, *out));
        }
        QN_TRY(make(p, QN_JN_SIGN, line, base, ids, out));
        (*out)->op = negative;
        QN_TRY(push_kid(p, *out));
    }
    for (;;) {
        if (take_op(p, '|'))
            QN_TRY(parse_filter(p, &step));
        else if (take_word(p, "is"))
            QN_TRY(parse_test(p, &step));
        else if (is_op(p, '('))
            QN_TRY(parse_access(p, &step));
        else
            break;
        QN_TRY(push_kid(p, step));
    }
    if (p->n_kids > base + 1)
        return make(p, QN_JN_POSTFIX, line, base, ids, out);
    *out = p->kids[--p->n_kids];
    return QN_OK;
}

/* Levels of pending operators, lowest first; an op is level << 4 | qn_jop. */
enum {
    LEVEL_OR = 1,
    LEVEL_AND,
    LEVEL_NOT,
    LEVEL_COMPARE,
    LEVEL_ADD,
    LEVEL_CONCAT,
    LEVEL_MUL,
    LEVEL_POW
};

/* The binary operator at the current token, taken; 0: none. */
static uint8_t take_binary(parser *p)
{
    static const struct {
        uint16_t op;
        uint8_t level, jop;
    } table[] = {{'=' << 8 | '=', LEVEL_COMPARE, QN_JOP_EQ},
                 {'!' << 8 | '=', LEVEL_COMPARE, QN_JOP_NE},
                 {'<', LEVEL_COMPARE, QN_JOP_LT},
                 {'<' << 8 | '=', LEVEL_COMPARE, QN_JOP_LE},
                 {'>', LEVEL_COMPARE, QN_JOP_GT},
                 {'>' << 8 | '=', LEVEL_COMPARE, QN_JOP_GE},
                 {'+', LEVEL_ADD, QN_JOP_ADD},
                 {'-', LEVEL_ADD, QN_JOP_SUB},
                 {'~', LEVEL_CONCAT, 0},
                 {'*', LEVEL_MUL, QN_JOP_MUL},
                 {'/', LEVEL_MUL, QN_JOP_DIV},
                 {'/' << 8 | '/', LEVEL_MUL, QN_JOP_FLOORDIV},
                 {'%', LEVEL_MUL, QN_JOP_MOD},
                 {'*' << 8 | '*', LEVEL_POW, QN_JOP_POW}};
    if (take_word(p, "or"))
        return LEVEL_OR << 4;
    if (take_word(p, "and"))
        return LEVEL_AND << 4;
    if (take_word(p, "in"))
        return LEVEL_COMPARE << 4 | QN_JOP_IN;
    if (is_word(p, "not") && p->tok[1].kind == QN_JT_NAME && qn_slice_is(p->tok[1].text, "in")) {
        p->tok += 2;
        return LEVEL_COMPARE << 4 | QN_JOP_NOT_IN;
    }
    for (size_t i = 0; i < QN_COUNT(table); i++)
        if (take_op(p, table[i].op))
            return (uint8_t)(table[i].level << 4 | table[i].jop);
    return 0;
}

/* Makes one node of the operators of the highest pending level and their operands. */
static qn_status reduce(parser *p, size_t base)
{
    static const uint8_t kinds[] = {
        0,           QN_JN_OR,     QN_JN_AND,   QN_JN_NOT,  QN_JN_COMPARE,
        QN_JN_CHAIN, QN_JN_CONCAT, QN_JN_CHAIN, QN_JN_CHAIN};
    int level = p->ops[p->n_ops - 1] >> 4;
    size_t n = 0;
    qn_jnode *node;
    while (p->n_ops - n > base && p->ops[p->n_ops - n - 1] >> 4 == level)
        n++;
    size_t n_kids = level == LEVEL_NOT ? 1 : n + 1;
    uint32_t line = p->kids[p->n_kids - n_kids]->line;
    QN_TRY(make(p, kinds[level], line, p->n_kids - n_kids, p->n_ids, &node));
    if (level == LEVEL_NOT) {
        node->op = n & 1;
    } else if (node->kind == QN_JN_COMPARE || node->kind == QN_JN_CHAIN) {
        node->ops = qn_arena_alloc(&p->t->arena, n);
        if (!node->ops)
            return no_memory(p);
        for (size_t i = 0; i < n; i++)
            node->ops[i] = p->ops[p->n_ops - n + i] & 15;
    }
    p->n_ops -= n;
    return push_kid(p, node);
}

static qn_status reduce_above(parser *p, size_t base, int level)
{
    while (p->n_ops > base && p->ops[p->n_ops - 1] >> 4 > level)
        QN_TRY(reduce(p, base));
    return QN_OK;
}

/* Everything but "a if b else c". */
static qn_status parse_operators(parser *p, qn_jnode **out)
{
    size_t base = p->n_ops;
    for (;;) {
        while (is_word(p, "not")) {
            if (p->n_ops > base && p->ops[p->n_ops - 1] >> 4 > LEVEL_NOT)
                return fail_here(p, "an operand");
            p->tok++;
            QN_TRY(push_op(p, LEVEL_NOT << 4));
        }
        qn_jnode *operand;
        QN_TRY(parse_operand(p, &operand));
        QN_TRY(push_kid(p, operand));
        uint8_t op = take_binary(p);
        if (!op)
            break;
        QN_TRY(reduce_above(p, base, op >> 4));
        QN_TRY(push_op(p, op));
    }
    QN_TRY(reduce_above(p, base, 0));
    *out = p->kids[--p->n_kids];
    return QN_OK;
}

static qn_status parse_expr(parser *p, bool may_cond, qn_jnode **out)
{
    QN_TRY(enter(p));
    QN_TRY(parse_operators(p, out));
    while (may_cond && take_word(p, "if")) {
        size_t base = p->n_kids;
        qn_jnode *kid = NULL, *then = *out;
        QN_TRY(parse_operators(p, &kid));
        QN_TRY(push_kid(p, kid));
        QN_TRY(push_kid(p, then));
        if (take_word(p, "else")) {
            QN_TRY(parse_expr(p, true, &kid));
            QN_TRY(push_kid(p, kid));
        }
        QN_TRY(make(p, QN_JN_COND, then->line, base, p->n_ids, out));
    }
    p->depth--;
    return QN_OK;
}

/* An expression, or a tuple without brackets. */
static qn_status parse_tuple(parser *p, bool may_cond, qn_jnode **out)
{
    size_t base = p->n_kids;
    uint32_t line = p->tok->line;
    QN_TRY(parse_expr(p, may_cond, out));
    if (!is_op(p, ','))
        return QN_OK;
    QN_TRY(push_kid(p, *out));
    while (take_op(p, ',')) {
        if (p->tok->kind == QN_JT_BLOCK_END || p->tok->kind == QN_JT_VARIABLE_END || is_op(p, '='))
            break;
        QN_TRY(parse_expr(p, may_cond, out));
        QN_TRY(push_kid(p, *out));
    }
    return make(p, QN_JN_TUPLE, line, base, p->n_ids, out);
}

/* ---- statements ---- */

/* "{% end.. %}": the tag that must close the body just parsed. */
static qn_status expect_end(parser *p, const char *word)
{
    char wanted[64];
    (void)snprintf(wanted, sizeof(wanted), "{%% %s %%}", word);
    if (p->tok->kind != QN_JT_BLOCK_BEGIN)
        return fail_here(p, wanted);
    p->tok++;
    if (!take_word(p, word))
        return fail_here(p, wanted);
    return expect_block_end(p);
}

/* The end of this tag, a body, and {% word %}; the body is pushed. */
static qn_status parse_block(parser *p, const char *word)
{
    qn_jnode *body;
    QN_TRY(expect_block_end(p));
    QN_TRY(parse_body(p, &body));
    QN_TRY(push_kid(p, body));
    return expect_end(p, word);
}

static bool is_tag(const parser *p, const char *word)
{
    return p->tok->kind == QN_JT_BLOCK_BEGIN && p->tok[1].kind == QN_JT_NAME &&
           qn_slice_is(p->tok[1].text, word);
}

static qn_status parse_if(parser *p, uint32_t line, qn_jnode **out)
{
    size_t base = p->n_kids;
    qn_jnode *kid;
    for (;;) {
        QN_TRY(parse_tuple(p, true, &kid));
        QN_TRY(push_kid(p, kid));
        QN_TRY(expect_block_end(p));
        QN_TRY(parse_body(p, &kid));
        QN_TRY(push_kid(p, kid));
        if (!is_tag(p, "elif"))
            break;
        p->tok += 2;
    }
    if (is_tag(p, "else")) {
        p->tok += 2;
        QN_TRY(parse_block(p, "endif"));
    } else {
        QN_TRY(expect_end(p, "endif"));
    }
    return make(p, QN_JN_IF, line, base, p->n_ids, out);
}

/* Names with commas between, maybe in brackets; pushed as ids. */
static qn_status parse_targets(parser *p)
{
    bool bracket = take_op(p, '(');
    do {
        uint32_t id = 0;
        if (is_op(p, '=') || is_op(p, ')') || is_word(p, "in"))
            break;
        QN_TRY(expect_name(p, &id));
        QN_TRY(push_id(p, id));
    } while (take_op(p, ','));
    return bracket ? expect_op(p, ')', "')'") : QN_OK;
}

static qn_status parse_for(parser *p, uint32_t line, qn_jnode **out)
{
    size_t base = p->n_kids, ids = p->n_ids;
    qn_jnode *kid, *condition = NULL, *other = NULL;
    QN_TRY(parse_targets(p));
    if (p->n_ids == ids)
        return fail_here(p, "a name");
    bool is_tuple = p->tok[-1].kind == QN_JT_OP; /* "a," or "(a)": unpacks */
    if (!take_word(p, "in"))
        return fail_here(p, "'in'");
    QN_TRY(parse_tuple(p, false, &kid));
    QN_TRY(push_kid(p, kid));
    if (take_word(p, "if"))
        QN_TRY(parse_expr(p, true, &condition));
    if (is_word(p, "recursive"))
        return fail_here(p, "the end of the tag (recursive loops are not supported)");
    QN_TRY(push_kid(p, condition));
    QN_TRY(expect_block_end(p));
    p->loops++;
    QN_TRY(parse_body(p, &kid));
    p->loops--;
    QN_TRY(push_kid(p, kid));
    if (is_tag(p, "else")) {
        p->tok += 2;
        QN_TRY(parse_block(p, "endfor"));
        other = p->kids[--p->n_kids];
    } else {
        QN_TRY(expect_end(p, "endfor"));
    }
    QN_TRY(push_kid(p, other));
    QN_TRY(make(p, QN_JN_FOR, line, base, ids, out));
    (*out)->op = is_tuple || (*out)->n_names > 1;
    return QN_OK;
}

static qn_status parse_filters(parser *p)
{
    while (take_op(p, '|')) {
        qn_jnode *step;
        QN_TRY(parse_filter(p, &step));
        QN_TRY(push_kid(p, step));
    }
    return QN_OK;
}

static qn_status parse_set(parser *p, uint32_t line, qn_jnode **out)
{
    size_t base = p->n_kids, ids = p->n_ids;
    uint32_t object = 0, id = 0;
    uint8_t how = 0; /* 0 a name, 1 an attribute, 2 several names */
    qn_jnode *kid;
    if (p->tok->kind == QN_JT_NAME && p->tok[1].kind == QN_JT_OP && p->tok[1].op == '.') {
        how = 1;
        QN_TRY(expect_name(p, &object));
        p->tok++;
        QN_TRY(expect_name(p, &id));
        QN_TRY(push_id(p, id));
    } else {
        QN_TRY(parse_targets(p));
        if (p->n_ids == ids)
            return fail_here(p, "a name");
        if (p->n_ids > ids + 1 || p->tok[-1].kind == QN_JT_OP)
            how = 2;
    }
    if (take_op(p, '=')) {
        QN_TRY(parse_tuple(p, true, &kid));
        QN_TRY(push_kid(p, kid));
        QN_TRY(expect_block_end(p));
        QN_TRY(make(p, QN_JN_SET, line, base, ids, out));
    } else {
        QN_TRY(push_kid(p, NULL)); /* the body's place, before its filters */
        QN_TRY(parse_filters(p));
        QN_TRY(parse_block(p, "endset"));
        p->kids[base] = p->kids[--p->n_kids];
        QN_TRY(make(p, QN_JN_SET_BLOCK, line, base, ids, out));
    }
    (*out)->name = object;
    (*out)->op = how;
    return QN_OK;
}

/* "(a, b=1)" after the opening bracket: pushes the names, and the defaults as kids. */
static qn_status parse_params(parser *p, size_t base)
{
    while (!is_op(p, ')')) {
        uint32_t id = 0;
        qn_jnode *kid;
        QN_TRY(expect_name(p, &id));
        QN_TRY(push_id(p, id));
        if (take_op(p, '=')) {
            QN_TRY(parse_expr(p, true, &kid));
            QN_TRY(push_kid(p, kid));
        } else if (p->n_kids > base) {
            return fail_here(p, "a default, as the parameter before has one");
        }
        if (!take_op(p, ','))
            break;
    }
    return expect_op(p, ')', "',' or ')'");
}

/* A body that no break or continue may leave. */
static qn_status parse_closed_block(parser *p, const char *word, size_t at)
{
    int loops = p->loops;
    p->loops = 0;
    QN_TRY(parse_block(p, word));
    p->loops = loops;
    /* the body goes before the defaults */
    qn_jnode *body = p->kids[p->n_kids - 1];
    memmove(p->kids + at + 1, p->kids + at, (p->n_kids - 1 - at) * sizeof(*p->kids));
    p->kids[at] = body;
    return QN_OK;
}

static qn_status parse_macro(parser *p, uint32_t line, qn_jnode **out)
{
    size_t base = p->n_kids, ids = p->n_ids;
    uint32_t id = 0;
    QN_TRY(expect_name(p, &id));
    QN_TRY(expect_op(p, '(', "'('"));
    QN_TRY(parse_params(p, base));
    QN_TRY(parse_closed_block(p, "endmacro", base));
    QN_TRY(make(p, QN_JN_MACRO, line, base, ids, out));
    (*out)->name = id;
    return QN_OK;
}

static qn_status parse_call_block(parser *p, uint32_t line, qn_jnode **out)
{
    size_t base = p->n_kids, ids = p->n_ids;
    qn_jnode *call;
    QN_TRY(push_kid(p, NULL)); /* the call's place */
    if (take_op(p, '('))
        QN_TRY(parse_params(p, base + 1));
    QN_TRY(parse_expr(p, true, &call));
    if (call->kind != QN_JN_POSTFIX || call->kids[call->n - 1]->kind != QN_JN_CALL)
        return fail_here(p, "a call of a macro before the end of the tag");
    p->kids[base] = call;
    QN_TRY(parse_closed_block(p, "endcall", base + 1));
    return make(p, QN_JN_CALL_BLOCK, line, base, ids, out);
}

static qn_status parse_filter_block(parser *p, uint32_t line, qn_jnode **out)
{
    size_t base = p->n_kids;
    qn_jnode *step;
    QN_TRY(push_kid(p, NULL));
    QN_TRY(parse_filter(p, &step));
    QN_TRY(push_kid(p, step));
    QN_TRY(parse_filters(p));
    QN_TRY(parse_block(p, "endfilter"));
    p->kids[base] = p->kids[--p->n_kids];
    return make(p, QN_JN_FILTER_BLOCK, line, base, p->n_ids, out);
}

static qn_status parse_with(parser *p, uint32_t line, qn_jnode **out)
{
    size_t base = p->n_kids, ids = p->n_ids;
    qn_jnode *kid;
    QN_TRY(push_kid(p, NULL));
    while (p->tok->kind != QN_JT_BLOCK_END) {
        uint32_t id = 0;
        if (p->n_ids > ids)
            QN_TRY(expect_op(p, ',', "','"));
        QN_TRY(expect_name(p, &id));
        QN_TRY(push_id(p, id));
        QN_TRY(expect_op(p, '=', "'='"));
        QN_TRY(parse_expr(p, true, &kid));
        QN_TRY(push_kid(p, kid));
    }
    QN_TRY(parse_block(p, "endwith"));
    p->kids[base] = p->kids[--p->n_kids];
    return make(p, QN_JN_WITH, line, base, ids, out);
}

/* {% generation %} marks what a model wrote, for training; here it is only a scope. */
static qn_status parse_generation(parser *p, uint32_t line, qn_jnode **out)
{
    size_t base = p->n_kids;
    QN_TRY(parse_block(p, "endgeneration"));
    return make(p, QN_JN_WITH, line, base, p->n_ids, out);
}

static qn_status parse_jump(parser *p, uint32_t line, bool is_break, qn_jnode **out)
{
    if (p->loops == 0)
        return qn_fail(p->err, QN_E_FORMAT, "%s:%u: '%s' outside of a loop", p->t->name, line,
                       is_break ? "break" : "continue");
    QN_TRY(expect_block_end(p));
    return make(p, is_break ? QN_JN_BREAK : QN_JN_CONTINUE, line, p->n_kids, p->n_ids, out);
}

static qn_status parse_statement(parser *p, qn_jnode **out)
{
    uint32_t line = p->tok->line;
    if (take_word(p, "if"))
        return parse_if(p, line, out);
    if (take_word(p, "for"))
        return parse_for(p, line, out);
    if (take_word(p, "set"))
        return parse_set(p, line, out);
    if (take_word(p, "macro"))
        return parse_macro(p, line, out);
    if (take_word(p, "call"))
        return parse_call_block(p, line, out);
    if (take_word(p, "filter"))
        return parse_filter_block(p, line, out);
    if (take_word(p, "with"))
        return parse_with(p, line, out);
    if (take_word(p, "generation"))
        return parse_generation(p, line, out);
    if (take_word(p, "break"))
        return parse_jump(p, line, true, out);
    if (take_word(p, "continue"))
        return parse_jump(p, line, false, out);
    return fail_here(p, "a known tag");
}

/* Is this tag the end, or the next branch, of the block around? */
static bool is_closing(const parser *p)
{
    qn_slice s = p->tok[1].text;
    return p->tok[1].kind == QN_JT_NAME && ((s.n > 3 && memcmp(s.p, "end", 3) == 0) ||
                                            qn_slice_is(s, "else") || qn_slice_is(s, "elif"));
}

static qn_status parse_data(parser *p, qn_jnode **out)
{
    qn_jstring *s = qn_arena_alloc(&p->t->arena, sizeof(*s));
    if (!s)
        return no_memory(p);
    *s = (qn_jstring){.p = p->tok->text.p, .n = p->tok->text.n, .n_chars = SIZE_MAX};
    qn_jstring_chars(s);
    QN_TRY(make(p, QN_JN_DATA, p->tok->line, p->n_kids, p->n_ids, out));
    (*out)->value = (qn_jvalue){.type = QN_J_STRING, .u.s = s};
    p->tok++;
    return QN_OK;
}

static qn_status parse_output(parser *p, qn_jnode **out)
{
    size_t base = p->n_kids;
    uint32_t line = p->tok->line;
    qn_jnode *kid;
    p->tok++;
    QN_TRY(parse_tuple(p, true, &kid));
    QN_TRY(push_kid(p, kid));
    if (p->tok->kind != QN_JT_VARIABLE_END)
        return fail_here(p, "'}}'");
    p->tok++;
    return make(p, QN_JN_OUTPUT, line, base, p->n_ids, out);
}

static qn_status parse_body(parser *p, qn_jnode **out)
{
    size_t base = p->n_kids;
    uint32_t line = p->tok->line;
    QN_TRY(enter(p));
    while (p->tok->kind != QN_JT_EOF) {
        qn_jnode *kid = NULL;
        if (p->tok->kind == QN_JT_DATA) {
            QN_TRY(parse_data(p, &kid));
        } else if (p->tok->kind == QN_JT_VARIABLE_BEGIN) {
            QN_TRY(parse_output(p, &kid));
        } else {
            if (is_closing(p))
                break;
            p->tok++;
            QN_TRY(parse_statement(p, &kid));
        }
        QN_TRY(push_kid(p, kid));
    }
    p->depth--;
    return make(p, QN_JN_BODY, line, base, p->n_ids, out);
}

static qn_status parse_template(parser *p)
{
    static const char *const words[QN_JW_N] = {"loop", "caller", "varargs", "kwargs", "messages"};
    qn_jinja *t = p->t;
    QN_TRY(parse_body(p, &t->body));
    for (size_t w = 0; w < QN_JW_N; w++) {
        t->words[w] = QN_JW_ABSENT;
        for (uint32_t i = 0; i < t->n_names; i++)
            if (qn_slice_is(t->names[i], words[w]))
                t->words[w] = i;
    }
    if (p->tok->kind == QN_JT_EOF)
        return QN_OK;
    p->tok++;
    return fail_here(p, "a tag that opens a block");
}

static qn_status compile(qn_jinja *t, const char *source, size_t n, qn_err *err)
{
    parser p = {.t = t, .err = err};
    qn_jtoken *tokens = NULL;
    if (n > QN_LIMIT_TEMPLATE_BYTES)
        return qn_fail(err, QN_E_FORMAT, "%s: a template of %zu bytes, at most %d wanted", t->name,
                       n, QN_LIMIT_TEMPLATE_BYTES);
    if (!qn_utf8_valid(source, n))
        return qn_fail(err, QN_E_FORMAT, "%s: not UTF-8", t->name);
    QN_TRY(qn_jinja_lex(t, source, n, &tokens, err));
    p.tok = tokens;
    qn_status s = parse_template(&p);
    qn_free(p.kids);
    qn_free(p.ids);
    qn_free(p.ops);
    qn_free(p.index);
    qn_free(tokens);
    return s;
}

qn_status qn_jinja_new(qn_jinja **out, const char *source, size_t n, const char *name, qn_err *err)
{
    *out = NULL;
    qn_jinja *t = qn_calloc(1, sizeof(*t), QN_MEM_VOCAB);
    if (!t)
        return qn_fail_nomem(err, sizeof(*t));
    qn_arena_init(&t->arena, QN_LIMIT_TEMPLATE_TREE, QN_MEM_VOCAB);
    t->name = qn_strdup(name, QN_MEM_VOCAB);
    qn_status s = t->name ? compile(t, source, n, err) : qn_fail_nomem(err, strlen(name) + 1);
    if (s != QN_OK) {
        qn_jinja_free(t);
        return s;
    }
    *out = t;
    return QN_OK;
}

void qn_jinja_free(qn_jinja *t)
{
    if (!t)
        return;
    qn_free(t->names);
    qn_free(t->name);
    qn_arena_fini(&t->arena);
    qn_free(t);
}
