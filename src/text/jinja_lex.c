/* SPDX-License-Identifier: Apache-2.0
 * jinja_lex.c - splits a template into text and the tokens of its tags, and settles white space.
 *
 * As jinja2 with trim_blocks and lstrip_blocks: the newline after a block or comment goes, and so
 * does white space between the line's beginning and one; "-" strips all white space on its side,
 * "+" keeps it. One newline at the end of the template goes. Source: jinja2 lexer.py, tokeniter. */
#include "text/jinja_ast.h"

#include <string.h>

typedef struct lexer {
    qn_jinja *t;
    const char *p;
    size_t n, at;
    size_t counted; /* bytes whose newlines are in line */
    uint32_t line;
    bool line_starting; /* the last tag ended with a newline, or none was seen */
    qn_jtoken *tokens;
    size_t n_tokens, cap;
    qn_err *err;
} lexer;

static qn_status fail_at(lexer *l, const char *what)
{
    for (; l->counted < l->at; l->counted++)
        l->line += l->p[l->counted] == '\n';
    return qn_fail(l->err, QN_E_FORMAT, "%s:%u: %s", l->t->name, l->line, what);
}

static qn_status push(lexer *l, qn_jtoken_kind kind, uint16_t op, size_t begin, size_t end)
{
    if (!qn_grow(&l->tokens, &l->cap, l->n_tokens + 1, sizeof(*l->tokens), QN_MEM_VOCAB))
        return qn_fail_nomem(l->err, (l->n_tokens + 1) * sizeof(*l->tokens));
    for (; l->counted < begin; l->counted++)
        l->line += l->p[l->counted] == '\n';
    l->tokens[l->n_tokens++] = (qn_jtoken){(uint8_t)kind, op, l->line, {l->p + begin, end - begin}};
    return QN_OK;
}

/* Bytes of the white-space character at `at`, 0 if there is none. */
static size_t space_at(const lexer *l, size_t at)
{
    uint32_t cp;
    size_t n = at < l->n ? qn_utf8_decode(l->p + at, l->n - at, &cp) : 0;
    return n && qn_jchar_is_space(cp) ? n : 0;
}

static size_t skip_space(const lexer *l, size_t at)
{
    for (size_t n; (n = space_at(l, at)) > 0;)
        at += n;
    return at;
}

static bool is_at(const lexer *l, size_t at, const char *z)
{
    size_t n = strlen(z);
    return at <= l->n && l->n - at >= n && memcmp(l->p + at, z, n) == 0;
}

/* Pushes text before a tag, stripped as its sign says. */
static qn_status push_text(lexer *l, size_t begin, size_t end, char sign, bool is_block)
{
    if (sign == '-') {
        size_t last = begin; /* end of the last character that is not white space */
        for (size_t i = begin, n; i < end; i += n) {
            n = space_at(l, i);
            if (n == 0) {
                n = 1;
                last = i + 1;
            }
        }
        end = last;
    } else if (sign != '+' && is_block) {
        size_t bol = end;
        while (bol > begin && l->p[bol - 1] != '\n')
            bol--;
        if ((bol > begin || l->line_starting) && bol < end && skip_space(l, bol) >= end)
            end = bol;
    }
    return end > begin ? push(l, QN_JT_DATA, 0, begin, end) : QN_OK;
}

/* The end of a block, comment or raw tag at `at` ("%}" with its sign): where the template goes on,
 * or 0. */
static size_t tag_end(const lexer *l, size_t at, const char *end)
{
    char sign = at < l->n ? l->p[at] : 0;
    size_t body = at + (sign == '-' || sign == '+');
    if (!is_at(l, body, end))
        return 0;
    body += 2;
    if (sign == '-')
        return skip_space(l, body);
    return body + (sign != '+' && is_at(l, body, "\n"));
}

static qn_status lex_comment(lexer *l, size_t at)
{
    for (size_t i = at; i < l->n; i++) {
        if (!is_at(l, i, "#}"))
            continue;
        size_t from = i > at && (l->p[i - 1] == '-' || l->p[i - 1] == '+') ? i - 1 : i;
        l->at = tag_end(l, from, "#}");
        return QN_OK;
    }
    return fail_at(l, "this comment has no end (\"#}\" wanted)");
}

/* {% raw %}: the text up to {% endraw %}. Sets *done when the tag at `at` was one. */
static qn_status lex_raw(lexer *l, size_t at, bool *done)
{
    size_t i = skip_space(l, at);
    if (!is_at(l, i, "raw"))
        return QN_OK;
    i = skip_space(l, i + 3);
    bool strip = is_at(l, i, "-%}");
    if (!strip && !is_at(l, i, "%}"))
        return QN_OK;
    *done = true;
    size_t begin = strip ? skip_space(l, i + 3) : i + 2;
    l->line_starting = l->p[begin - 1] == '\n';
    for (i = begin; i < l->n; i++) {
        if (!is_at(l, i, "{%"))
            continue;
        char sign = i + 2 < l->n && (l->p[i + 2] == '-' || l->p[i + 2] == '+') ? l->p[i + 2] : 0;
        size_t word = skip_space(l, i + 2 + (sign != 0));
        size_t end = is_at(l, word, "endraw") ? tag_end(l, skip_space(l, word + 6), "%}") : 0;
        if (end == 0)
            continue;
        QN_TRY(push_text(l, begin, i, sign, true));
        l->at = end;
        return QN_OK;
    }
    return fail_at(l, "{% raw %} has no {% endraw %}");
}

static bool is_name_byte(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (!first && c >= '0' && c <= '9');
}

static size_t skip_digits(const lexer *l, size_t at)
{
    while (at < l->n &&
           ((l->p[at] >= '0' && l->p[at] <= '9') ||
            (l->p[at] == '_' && at + 1 < l->n && l->p[at + 1] >= '0' && l->p[at + 1] <= '9')))
        at++;
    return at;
}

static bool is_digit_at(const lexer *l, size_t at)
{
    return at < l->n && l->p[at] >= '0' && l->p[at] <= '9';
}

static qn_status lex_number(lexer *l)
{
    size_t begin = l->at, at = skip_digits(l, begin);
    bool is_float = false;
    if (at < l->n && l->p[at] == '.' && is_digit_at(l, at + 1)) {
        at = skip_digits(l, at + 1);
        is_float = true;
    }
    if (at < l->n && (l->p[at] == 'e' || l->p[at] == 'E')) {
        size_t exp = at + 1 + (is_at(l, at + 1, "+") || is_at(l, at + 1, "-"));
        if (is_digit_at(l, exp)) {
            at = skip_digits(l, exp);
            is_float = true;
        }
    }
    if (!is_float && at < l->n && is_name_byte(l->p[at], true))
        return fail_at(l, "a number is followed by a letter");
    l->at = at;
    return push(l, is_float ? QN_JT_FLOAT : QN_JT_INT, 0, begin, at);
}

static qn_status lex_string(lexer *l)
{
    size_t begin = l->at;
    for (size_t i = begin + 1; i < l->n; i++) {
        if (l->p[i] == '\\') {
            i++;
        } else if (l->p[i] == l->p[begin]) {
            l->at = i + 1;
            return push(l, QN_JT_STRING, 0, begin, i + 1);
        }
    }
    return fail_at(l, "this string has no end");
}

/* An operator; brackets are counted, so that "}}" inside of them is not the tag's end. */
static qn_status lex_operator(lexer *l, char *brackets, size_t *n_brackets)
{
    static const char pairs[][3] = {"//", "**", "==", "!=", ">=", "<="};
    char c = l->p[l->at];
    for (size_t i = 0; i < QN_COUNT(pairs); i++) {
        if (is_at(l, l->at, pairs[i])) {
            l->at += 2;
            return push(l, QN_JT_OP, (uint16_t)(c << 8 | pairs[i][1]), l->at - 2, l->at);
        }
    }
    if (c == 0 || strchr("+-/*%~[](){}<>=.:|,;", c) == NULL)
        return fail_at(l, "a character that no expression has");
    if (c == '(' || c == '[' || c == '{') {
        if (*n_brackets == QN_LIMIT_TEMPLATE_DEPTH)
            return fail_at(l, "brackets are nested too deeply (more than 64)");
        brackets[(*n_brackets)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (*n_brackets == 0 || brackets[--*n_brackets] != c)
            return fail_at(l, "a closing bracket without its opening one");
    }
    l->at++;
    return push(l, QN_JT_OP, (uint16_t)c, l->at - 1, l->at);
}

/* The inside of {{ }} or {% %}, up to and with its end. */
static qn_status lex_code(lexer *l, bool is_block)
{
    char brackets[QN_LIMIT_TEMPLATE_DEPTH];
    size_t n_brackets = 0;
    for (;;) {
        l->at = skip_space(l, l->at);
        if (l->at >= l->n)
            return fail_at(l, is_block ? "a tag has no end (\"%}\" wanted)"
                                       : "a tag has no end (\"}}\" wanted)");
        size_t end = 0;
        if (n_brackets == 0 && is_block)
            end = tag_end(l, l->at, "%}");
        else if (n_brackets == 0 && is_at(l, l->at, "}}"))
            end = l->at + 2;
        else if (n_brackets == 0 && is_at(l, l->at, "-}}"))
            end = skip_space(l, l->at + 3);
        if (end) {
            QN_TRY(push(l, is_block ? QN_JT_BLOCK_END : QN_JT_VARIABLE_END, 0, l->at, l->at));
            l->at = end;
            return QN_OK;
        }
        char c = l->p[l->at];
        if (c >= '0' && c <= '9') {
            QN_TRY(lex_number(l));
        } else if (c == '"' || c == '\'') {
            QN_TRY(lex_string(l));
        } else if (is_name_byte(c, true)) {
            size_t begin = l->at;
            while (l->at < l->n && is_name_byte(l->p[l->at], false))
                l->at++;
            QN_TRY(push(l, QN_JT_NAME, 0, begin, l->at));
        } else {
            QN_TRY(lex_operator(l, brackets, &n_brackets));
        }
    }
}

static qn_status lex_tag(lexer *l, size_t tag, char kind)
{
    char sign =
        tag + 2 < l->n && (l->p[tag + 2] == '-' || l->p[tag + 2] == '+') ? l->p[tag + 2] : 0;
    size_t inside = tag + 2 + (sign != 0);
    bool done = false;
    QN_TRY(push_text(l, l->at, tag, sign, kind != '{'));
    l->at = tag;
    if (kind == '#') {
        QN_TRY(lex_comment(l, inside));
    } else {
        if (kind == '%')
            QN_TRY(lex_raw(l, inside, &done));
        if (!done) {
            QN_TRY(push(l, kind == '%' ? QN_JT_BLOCK_BEGIN : QN_JT_VARIABLE_BEGIN, 0, tag, inside));
            l->at = inside;
            QN_TRY(lex_code(l, kind == '%'));
        }
    }
    l->line_starting = l->p[l->at - 1] == '\n';
    return QN_OK;
}

static qn_status lex_all(lexer *l)
{
    while (l->at < l->n) {
        size_t tag = l->at;
        for (;; tag++) {
            const char *brace = tag < l->n ? memchr(l->p + tag, '{', l->n - tag) : NULL;
            tag = brace ? (size_t)(brace - l->p) : l->n;
            if (tag >= l->n || is_at(l, tag, "{{") || is_at(l, tag, "{%") || is_at(l, tag, "{#"))
                break;
        }
        if (tag >= l->n) {
            QN_TRY(push(l, QN_JT_DATA, 0, l->at, l->n));
            l->at = l->n;
            break;
        }
        QN_TRY(lex_tag(l, tag, l->p[tag + 1]));
    }
    return push(l, QN_JT_EOF, 0, l->n, l->n);
}

qn_status qn_jinja_lex(qn_jinja *t, const char *source, size_t n, qn_jtoken **out, qn_err *err)
{
    lexer l = {.t = t, .line = 1, .line_starting = true, .err = err};
    char *p = qn_arena_alloc(&t->arena, n + 1);
    if (!p)
        return qn_fail_nomem(err, n + 1);
    for (size_t i = 0; i < n; i++) {
        char c = source[i];
        if (c == '\r') {
            c = '\n';
            i += i + 1 < n && source[i + 1] == '\n';
        }
        p[l.n++] = c;
    }
    if (l.n > 0 && p[l.n - 1] == '\n')
        l.n--;
    p[l.n] = 0;
    l.p = p;
    *out = NULL;
    qn_status s = lex_all(&l);
    if (s != QN_OK) {
        qn_free(l.tokens);
        return s;
    }
    *out = l.tokens;
    return QN_OK;
}
