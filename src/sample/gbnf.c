/* SPDX-License-Identifier: Apache-2.0
 * gbnf.c - grammars as llama.cpp writes them, to a form.
 *
 *   root ::= "<think>" %until[100] "</think>" item ("," item)*   # a comment
 *   item ::= [a-z]+ | %json {"type": "integer"}
 *          | %regex /[0-9]{4}/
 *
 * A rule ends with its line, except inside parentheses and behind '|'. An open group keeps where its alternatives and the
 * parts of the one being read begin, on two stacks. Terms of one token (<[1000]>) are refused: a text is the same however
 * tokens cut it. */
#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "sample/form.h"
#include <stdio.h>
#include <string.h>

typedef struct rule {
    qn_slice name;
    qn_form_id id;
    size_t line; /* where it was first named */
    bool is_defined;
} rule;

typedef struct group {
    size_t first_alternative, first_part, line;
} group;

typedef struct ids {
    qn_form_id *p;
    size_t n, cap;
} ids;

typedef struct reader {
    qn_form *f;
    const char *p;
    size_t n, i, line;
    json_t *names; /* name: index in rules */
    rule *rules;
    size_t n_rules, rules_cap;
    ids alternatives, parts;
    group groups[QN_LIMIT_GBNF_DEPTH];
    size_t n_groups;
    qn_err *err;
} reader;

#define FAIL_AT(r, status, line, ...) (fail_at((r), (status), (line), __VA_ARGS__), (status))
#define FAIL(r, status, ...)          FAIL_AT(r, status, (r)->line, __VA_ARGS__)

static void fail_at(reader *r, qn_status s, size_t line, const char *fmt, ...) QN_PRINTF(4, 5);
static void fail_at(reader *r, qn_status s, size_t line, const char *fmt, ...)
{
    char message[320];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    (void)qn_fail(r->err, s, "line %zu: %s", line, message);
}

static qn_status push(reader *r, ids *list, qn_form_id id)
{
    if (!qn_grow(&list->p, &list->cap, list->n + 1, sizeof *list->p, QN_MEM_REQUEST))
        return qn_fail_nomem(r->err, (list->n + 1) * sizeof *list->p);
    list->p[list->n++] = id;
    return QN_OK;
}

/* ---- characters ---- */

static int peek(const reader *r)
{
    return r->i < r->n ? (unsigned char)r->p[r->i] : -1;
}

static bool is_next(const reader *r, const char *z)
{
    size_t n = strlen(z);
    return r->n - r->i >= n && memcmp(r->p + r->i, z, n) == 0;
}

static void skip_space(reader *r, bool also_lines)
{
    for (int c = peek(r);
         c == ' ' || c == '\t' || c == '#' || (also_lines && (c == '\n' || c == '\r'));
         c = peek(r)) {
        if (c == '#') {
            while (peek(r) >= 0 && peek(r) != '\n' && peek(r) != '\r')
                r->i++;
            continue;
        }
        r->line += c == '\n';
        r->i++;
    }
}

static bool is_word(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static qn_status read_hex(reader *r, size_t n, uint32_t *out)
{
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        int c = peek(r), low = c | 0x20;
        bool is_digit = c >= '0' && c <= '9';
        if (!is_digit && (c < 0 || low < 'a' || low > 'f'))
            return FAIL(r, QN_E_ARG, "found an escape of fewer than %zu hexadecimal digits", n);
        *out = *out << 4 | (uint32_t)(is_digit ? c - '0' : low - 'a' + 10);
        r->i++;
    }
    if (*out > 0x10ffff || (*out >= 0xd800 && *out < 0xe000))
        return FAIL(r, QN_E_ARG, "found U+%X, want a character", *out);
    return QN_OK;
}

/* One character of a literal or class, escaped or not. */
static qn_status read_char(reader *r, uint32_t *out)
{
    static const char names[] = "trn\\\"[]-", values[] = "\t\r\n\\\"[]-";
    int c = peek(r);
    if (c == '\\') {
        r->i++;
        c = peek(r);
        const char *p = c > 0 ? strchr(names, c) : NULL;
        r->i += c >= 0;
        if (p) {
            *out = (unsigned char)values[p - names];
            return QN_OK;
        }
        if (c == 'x' || c == 'u' || c == 'U')
            return read_hex(r, c == 'x' ? 2 : c == 'u' ? 4 : 8, out);
        return FAIL(r, QN_E_ARG, "found an unknown escape");
    }
    size_t k = r->i < r->n ? qn_utf8_decode(r->p + r->i, r->n - r->i, out) : 0;
    if (!k || c == '\n')
        return FAIL(r, QN_E_ARG, "found %s in a literal or class",
                    r->i == r->n ? "the end"
                    : k          ? "the end of the line"
                                 : "what is not UTF-8");
    r->i += k;
    return QN_OK;
}

/* A literal as its bytes, appended. */
static qn_status read_literal(reader *r, qn_str *out)
{
    uint32_t c = 0;
    r->i++;
    while (peek(r) != '"') {
        QN_TRY(read_char(r, &c));
        qn_str_add_utf8(out, c);
    }
    r->i++;
    return out->failed ? qn_fail_nomem(r->err, out->n) : QN_OK;
}

static qn_status read_class(reader *r, qn_form_id *out)
{
    qn_char_range *ranges = NULL;
    size_t n = 0, cap = 0;
    qn_status s = QN_OK;
    r->i++;
    bool is_negated = peek(r) == '^';
    r->i += is_negated;
    while (peek(r) != ']' && s == QN_OK) {
        qn_char_range x = {0};
        s = read_char(r, &x.first);
        x.last = x.first;
        if (s == QN_OK && peek(r) == '-' && r->i + 1 < r->n && r->p[r->i + 1] != ']') {
            r->i++;
            s = read_char(r, &x.last);
        }
        if (s == QN_OK && x.first > x.last)
            s = FAIL(r, QN_E_ARG, "found a range whose end is before its begin");
        if (s == QN_OK && !qn_grow(&ranges, &cap, n + 1, sizeof *ranges, QN_MEM_REQUEST))
            s = qn_fail_nomem(r->err, (n + 1) * sizeof *ranges);
        if (s == QN_OK)
            ranges[n++] = x;
    }
    r->i++;
    if (s == QN_OK)
        *out = qn_form_chars(r->f, ranges, n, is_negated);
    qn_free(ranges);
    return s;
}

/* ---- terms ---- */

static qn_status find_rule(reader *r, const char *name, size_t n, size_t *out)
{
    const json_t *known = json_object_getn(r->names, name, n);
    *out = known ? (size_t)json_integer_value(known) : r->n_rules;
    if (!known) {
        if (!qn_grow(&r->rules, &r->rules_cap, r->n_rules + 1, sizeof *r->rules, QN_MEM_REQUEST) ||
            json_object_setn_new(r->names, name, n, json_integer((json_int_t)r->n_rules)) != 0)
            return qn_fail_nomem(r->err, n);
        r->rules[r->n_rules++] =
            (rule){.name = {name, n}, .id = qn_form_rule(r->f), .line = r->line};
    }
    return QN_OK;
}

static size_t word_length(const reader *r)
{
    size_t n = 0;
    while (r->i + n < r->n && is_word((unsigned char)r->p[r->i + n]))
        n++;
    return n;
}

/* Where the JSON object that begins here ends. */
static size_t object_length(const reader *r)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = r->i; i < r->n; i++) {
        char c = r->p[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{') {
            depth++;
        } else if (c == '}' && --depth == 0) {
            return i + 1 - r->i;
        }
    }
    return 0;
}

static qn_status read_json(reader *r, qn_form_id *out)
{
    qn_err why = {0};
    size_t line = r->line, n = peek(r) == '{' ? object_length(r) : 0;
    if (!n)
        return FAIL(r, QN_E_ARG, "found %%json without a whole {schema}");
    qn_status s = qn_form_add_schema(r->f, r->p + r->i, n, false, out, &why);
    if (s != QN_OK)
        return FAIL_AT(r, s, line, "%%json: %s", why.msg);
    for (size_t end = r->i + n; r->i < end; r->i++)
        r->line += r->p[r->i] == '\n';
    return QN_OK;
}

/* Between slashes; "\/" is a slash. */
static qn_status read_regex(reader *r, qn_form_id *out)
{
    qn_err why = {0};
    qn_str re = {0};
    bool is_closed = false;
    if (peek(r) == '/')
        for (r->i++; r->i < r->n && r->p[r->i] != '\n' && !is_closed; r->i++) {
            char c = r->p[r->i];
            bool has_next = c == '\\' && r->i + 1 < r->n;
            is_closed = c == '/';
            if (has_next && r->p[r->i + 1] != '/')
                qn_str_addc(&re, c);
            if (!is_closed)
                qn_str_addc(&re, has_next ? r->p[++r->i] : c);
        }
    qn_status s = !is_closed  ? FAIL(r, QN_E_ARG, "found %%regex without a whole /expression/")
                  : re.failed ? qn_fail_nomem(r->err, re.n)
                              : QN_OK;
    if (s == QN_OK) {
        s = qn_form_add_regex(r->f, re.p ? re.p : "", re.n, true, out, &why);
        if (s != QN_OK)
            (void)FAIL(r, s, "%%regex: %s", why.msg);
    }
    qn_str_fini(&re);
    return s;
}

static qn_status read_number(reader *r, uint32_t *out)
{
    size_t begin = r->i;
    uint64_t v;
    while (peek(r) >= '0' && peek(r) <= '9')
        r->i++;
    if (!qn_parse_u64(r->p + begin, r->i - begin, QN_FORM_ENDLESS - 1, &v))
        return FAIL(r, QN_E_ARG, "found no number up to %u", QN_FORM_ENDLESS - 1);
    *out = (uint32_t)v;
    return QN_OK;
}

/* [N] "text" ["closing"] */
static qn_status read_until(reader *r, qn_form_id *out)
{
    qn_str end = {0}, closing = {0};
    uint32_t most = 0;
    qn_status s = QN_OK;
    if (peek(r) == '[') {
        r->i++;
        s = read_number(r, &most);
        if (s == QN_OK && peek(r) != ']')
            s = FAIL(r, QN_E_ARG, "found %%until[ without ']'");
        r->i++;
    }
    if (s == QN_OK)
        skip_space(r, false);
    if (s == QN_OK)
        s = peek(r) == '"' ? read_literal(r, &end)
                           : FAIL(r, QN_E_ARG, "found %%until without a \"text\"");
    if (s == QN_OK)
        skip_space(r, false);
    if (s == QN_OK && most && peek(r) == '"')
        s = read_literal(r, &closing);
    else if (s == QN_OK)
        qn_str_add(&closing, end.p ? end.p : "", end.n);
    if (s == QN_OK && (end.failed || closing.failed))
        s = qn_fail_nomem(r->err, end.n);
    if (s == QN_OK && (!end.p || !closing.p || !end.n || strlen(end.p) != end.n ||
                       strlen(closing.p) != closing.n))
        s = FAIL(r, QN_E_ARG, "found %%until of an empty text or one with U+0000");
    else if (s == QN_OK && !qn_ends_with(closing.p, end.p))
        s = FAIL(r, QN_E_ARG, "found a closing text that does not end in the text");
    else if (s == QN_OK)
        *out = qn_form_until(r->f, end.p, most, closing.p);
    qn_str_fini(&end);
    qn_str_fini(&closing);
    return s;
}

static qn_status read_percent(reader *r, qn_form_id *out)
{
    static const struct {
        const char *name;
        qn_status (*read)(reader *, qn_form_id *);
    } terms[] = {{"%json", read_json}, {"%regex", read_regex}, {"%until", read_until}};
    for (size_t i = 0; i < QN_COUNT(terms); i++)
        if (is_next(r, terms[i].name)) {
            r->i += strlen(terms[i].name);
            skip_space(r, false);
            return terms[i].read(r, out);
        }
    if (!is_next(r, "%any"))
        return FAIL(r, QN_E_ARG, "found '%%', want %%json, %%regex, %%until or %%any");
    r->i += strlen("%any");
    *out = qn_form_any(r->f);
    return QN_OK;
}

/* Anything that is one part of a sequence, groups apart. */
static qn_status read_term(reader *r)
{
    qn_form_id id = 0;
    qn_str text = {0};
    qn_status s = QN_OK;
    size_t named = 0, n = word_length(r);
    if (n) {
        s = find_rule(r, r->p + r->i, n, &named);
        id = s == QN_OK ? r->rules[named].id : 0;
        r->i += n;
    } else if (peek(r) == '"') {
        s = read_literal(r, &text);
        if (s == QN_OK)
            id = qn_form_bytes(r->f, text.p, text.n);
    } else if (peek(r) == '[') {
        s = read_class(r, &id);
    } else if (peek(r) == '.') {
        id = qn_form_chars(r->f, NULL, 0, true);
        r->i++;
    } else if (peek(r) == '%') {
        s = read_percent(r, &id);
    } else if (peek(r) == '<' || peek(r) == '!') {
        s = FAIL(r, QN_E_UNSUPPORTED, "found a term of a token, which cannot be enforced");
    } else {
        s = FAIL(r, QN_E_ARG, "found %s, want a term",
                 r->i == r->n ? "the end" : "another character");
    }
    qn_str_fini(&text);
    return s == QN_OK ? push(r, &r->parts, id) : s;
}

/* * + ? {m} {m,} {m,n} behind the last part. */
static qn_status read_repetition(reader *r)
{
    int c = peek(r);
    uint32_t min = c == '+', max = c == '?' ? 1 : QN_FORM_ENDLESS;
    if (r->parts.n == r->groups[r->n_groups - 1].first_part)
        return FAIL(r, QN_E_ARG, "found a repetition with nothing before it");
    r->i++;
    if (c == '{') {
        skip_space(r, false);
        QN_TRY(read_number(r, &min));
        skip_space(r, false);
        max = min;
        if (peek(r) == ',') {
            r->i++;
            skip_space(r, false);
            max = QN_FORM_ENDLESS;
            if (peek(r) != '}')
                QN_TRY(read_number(r, &max));
            skip_space(r, false);
        }
        if (peek(r) != '}' || min > max)
            return FAIL(r, QN_E_ARG, "found a repetition that is not {m}, {m,} or {m,n}");
        r->i++;
    }
    qn_form_id *last = &r->parts.p[r->parts.n - 1];
    *last = qn_form_repeat(r->f, *last, min, max);
    return QN_OK;
}

/* ---- rules ---- */

static qn_status end_alternative(reader *r)
{
    const group *g = &r->groups[r->n_groups - 1];
    size_t n = r->parts.n - g->first_part;
    qn_form_id id = qn_form_seq(r->f, n ? r->parts.p + g->first_part : NULL, n);
    r->parts.n = g->first_part;
    return push(r, &r->alternatives, id);
}

static qn_status end_group(reader *r, qn_form_id *out)
{
    QN_TRY(end_alternative(r));
    const group *g = &r->groups[--r->n_groups];
    *out = qn_form_alt(r->f, r->alternatives.p + g->first_alternative,
                       r->alternatives.n - g->first_alternative);
    r->alternatives.n = g->first_alternative;
    return QN_OK;
}

static qn_status open_group(reader *r)
{
    if (r->n_groups == QN_LIMIT_GBNF_DEPTH)
        return FAIL(r, QN_E_TOO_LONG, "found groups deeper than %d levels", QN_LIMIT_GBNF_DEPTH);
    r->groups[r->n_groups++] = (group){r->alternatives.n, r->parts.n, r->line};
    return QN_OK;
}

static qn_status read_body(reader *r, qn_form_id *out)
{
    QN_TRY(open_group(r));
    for (bool also_lines = true;; also_lines = r->n_groups > 1) {
        skip_space(r, also_lines);
        int c = peek(r);
        if ((c < 0 || c == '\n' || c == '\r') && r->n_groups == 1)
            return end_group(r, out);
        if (c == '(') {
            r->i++;
            QN_TRY(open_group(r));
        } else if (c == ')' && r->n_groups > 1) {
            qn_form_id id;
            r->i++;
            QN_TRY(end_group(r, &id));
            QN_TRY(push(r, &r->parts, id));
        } else if (c == '|') {
            r->i++;
            QN_TRY(end_alternative(r));
            skip_space(r, true);
        } else if (c == '*' || c == '+' || c == '?' || c == '{') {
            QN_TRY(read_repetition(r));
        } else if (c < 0) {
            return FAIL_AT(r, QN_E_ARG, r->groups[r->n_groups - 1].line, "found '(' without ')'");
        } else {
            QN_TRY(read_term(r));
        }
    }
}

static qn_status read_rule(reader *r)
{
    qn_form_id body = 0;
    size_t n = word_length(r), line = r->line, own = 0;
    const char *name = r->p + r->i;
    if (!n)
        return FAIL(r, QN_E_ARG, "found no name of a rule");
    r->i += n;
    skip_space(r, false);
    if (!is_next(r, "::="))
        return FAIL(r, QN_E_ARG, "found a name without \"::=\" behind it");
    r->i += 3;
    QN_TRY(find_rule(r, name, n, &own));
    QN_ASSERT(r->rules);
    if (r->rules[own].is_defined)
        return FAIL(r, QN_E_ARG, "found the rule %.*s a second time", (int)QN_MIN(n, 64u), name);
    r->rules[own].is_defined = true;
    r->rules[own].line = line;
    QN_TRY(read_body(r, &body));
    qn_form_define(r->f, r->rules[own].id, body);
    return QN_OK;
}

static qn_status read_all(reader *r, qn_form_id *out)
{
    for (skip_space(r, true); r->i < r->n; skip_space(r, true))
        QN_TRY(read_rule(r));
    for (size_t i = 0; r->rules && i < r->n_rules; i++) {
        const rule *own = &r->rules[i];
        if (!own->is_defined)
            return FAIL_AT(r, QN_E_ARG, own->line, "found the name %.*s, which is no rule",
                           (int)QN_MIN(own->name.n, 64u), own->name.p);
        if (qn_slice_is(own->name, "root"))
            *out = own->id;
    }
    if (!json_object_get(r->names, "root"))
        return FAIL(r, QN_E_ARG, "found the end, want a rule named root");
    return *out ? QN_OK : qn_form_check(r->f, r->err);
}

qn_status qn_form_add_gbnf(qn_form *f, const char *text, size_t n, qn_form_id *out, qn_err *err)
{
    reader r = {.f = f, .p = text, .n = n, .line = 1, .err = err};
    *out = 0;
    if (n > QN_LIMIT_GBNF_BYTES)
        return qn_fail(err, QN_E_TOO_LONG, "line 1: found a grammar of %zu bytes, limit %d", n,
                       QN_LIMIT_GBNF_BYTES);
    r.names = json_object();
    qn_status s = r.names ? read_all(&r, out) : qn_fail_nomem(err, sizeof r.names);
    json_decref(r.names);
    qn_free(r.rules);
    qn_free(r.alternatives.p);
    qn_free(r.parts.p);
    if (s != QN_OK)
        *out = 0;
    return s;
}
