/* SPDX-License-Identifier: Apache-2.0
 * regex.c - a parser to a tree, and two walks over the tree: one writes a form, one tries a text.
 *
 *   ^a(b|c)*$  -->  sequence: start, 'a', repeat(alternatives: 'b', 'c'), end
 *
 * A node names its first child and its next sibling; children come before their parent. All walks keep their own stack.
 *
 * Anchors: a form knows no positions, so the walk carries what lies on both sides of a node: OPEN, any text may (to be
 * written); FIXED, the border; INSIDE, something; MAYBE, something or the border. ^ is empty at a border and nothing inside;
 * at MAYBE it is refused. */
#include "sample/regex.h"

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "sample/json_form.h"
#include "sample/regex_tables.h"
#include <string.h>

#define LAST_CHAR 0x10ffffu
#define NONE      UINT32_MAX

typedef enum kind { EMPTY, CHAR, SET, SEQ, ALT, REPEAT, START, END } kind;

typedef struct node {
    uint8_t kind;
    bool has_anchor, may_be_empty;
    uint32_t child, next;
    uint32_t a,
        b; /* CHAR: code point. SET: number of the narrow and of the wide set. REPEAT: bounds */
    uint32_t
        n_places; /* code points that it takes when each repetition is written out, at most PLACES + 1 */
} node;

typedef struct set {
    uint32_t at, n; /* in ranges */
} set;

struct qn_regex {
    node *nodes;
    set *sets;
    qn_char_range *ranges;
    size_t n_nodes, n_sets, n_ranges;
    size_t nodes_cap, sets_cap, ranges_cap;
    uint32_t root;
};

#define PLACES QN_LIMIT_REGEX_PLACES

/* ---- sets of characters ---- */

/* A class while it is read: what both languages see in it, and what one of them does. */
typedef struct class
{
    qn_char_range *r[2];
    size_t n[2], cap[2];
} class;
enum { NARROW, WIDE };

static void class_fini(class *c)
{
    qn_free(c->r[NARROW]);
    qn_free(c->r[WIDE]);
}

static bool add_range(class *c, int which, uint32_t first, uint32_t last)
{
    if (!qn_grow(&c->r[which], &c->cap[which], c->n[which] + 1, sizeof *c->r[which],
                 QN_MEM_REQUEST))
        return false;
    c->r[which][c->n[which]++] = (qn_char_range){first, last};
    return true;
}

/* Ranges by their first, as a heap: no recursion, no memory. */
static void sort_ranges(qn_char_range *r, size_t n)
{
    for (size_t end = n, begin = n / 2; end > 1;) {
        size_t i, k;
        qn_char_range x;
        if (begin) {
            x = r[--begin];
        } else {
            x = r[--end];
            r[end] = r[0];
        }
        for (i = begin; (k = 2 * i + 1) < end; i = k) {
            if (k + 1 < end && r[k + 1].first > r[k].first)
                k++;
            if (r[k].first <= x.first)
                break;
            r[i] = r[k];
        }
        r[i] = x;
    }
}

/* Sorted and apart from each other. */
static size_t join_ranges(qn_char_range *r, size_t n)
{
    size_t n_out = 0;
    sort_ranges(r, n);
    for (size_t i = 0; i < n; i++)
        if (n_out && r[i].first <= r[n_out - 1].last + 1)
            r[n_out - 1].last = QN_MAX(r[n_out - 1].last, r[i].last);
        else
            r[n_out++] = r[i];
    return n_out;
}

/* Adds what the joined ranges leave out. */
static bool add_others(class *c, int which, const qn_char_range *r, size_t n)
{
    uint32_t next = 0;
    for (size_t i = 0; i < n; i++) {
        if (r[i].first > next && !add_range(c, which, next, r[i].first - 1))
            return false;
        next = r[i].last + 1;
    }
    return next > LAST_CHAR || add_range(c, which, next, LAST_CHAR);
}

/* Adds all characters whose category is among the bits. */
static bool add_categories(class *c, int which, uint32_t bits)
{
    for (size_t i = 0; i < QN_COUNT(category_runs); i++) {
        uint32_t last =
            i + 1 < QN_COUNT(category_runs) ? (category_runs[i + 1] >> 5) - 1 : LAST_CHAR;
        if (bits >> (category_runs[i] & 31) & 1 &&
            !add_range(c, which, category_runs[i] >> 5, last))
            return false;
    }
    return true;
}

/* The categories whose names begin so: L, Lu. */
static uint32_t category_bits(const char *name, size_t n)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; category_names[2 * (size_t)i]; i++)
        if (n && n <= 2 && memcmp(category_names + 2 * (size_t)i, name, n) == 0)
            bits |= 1u << i;
    return bits;
}

/* \d \w \s: ECMA-262's are those of ASCII (and \s all of Unicode's spaces), Python's all of Unicode's. A character that is not
 * assigned yet may become one. */
static bool add_shorthand(class *out, char c)
{
    static const qn_char_range spaces[] = {{0x09, 0x0d},     {0x20, 0x20},     {0xa0, 0xa0},
                                           {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029},
                                           {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}};
    class k = {0};
    char low = (char)(c | 0x20);
    bool ok = true, is_word = low == 'w';
    if (low == 's') {
        for (size_t i = 0; i < QN_COUNT(spaces); i++)
            ok = ok && add_range(&k, NARROW, spaces[i].first, spaces[i].last) &&
                 add_range(&k, WIDE, spaces[i].first, spaces[i].last);
        ok = ok && add_range(&k, WIDE, 0x1c, 0x1f) && add_range(&k, WIDE, 0x85, 0x85) &&
             add_range(&k, WIDE, 0xfeff, 0xfeff);
    } else {
        uint32_t wide =
            is_word ? category_bits("L", 1) | category_bits("N", 1) : category_bits("Nd", 2);
        ok = add_range(&k, NARROW, '0', '9') &&
             (!is_word || (add_range(&k, NARROW, 'A', 'Z') && add_range(&k, NARROW, 'a', 'z') &&
                           add_range(&k, NARROW, '_', '_') && add_range(&k, WIDE, '_', '_'))) &&
             add_categories(&k, WIDE, wide | category_bits("Cn", 2));
    }
    for (int which = NARROW; which <= WIDE; which++) {
        size_t n = join_ranges(k.r[which], k.n[which]);
        for (size_t i = 0; i < n && c == low; i++)
            ok = ok && add_range(out, which, k.r[which][i].first, k.r[which][i].last);
        /* what is not in the narrow one may be in the other's complement, and the other way round */
        if (c != low)
            ok = ok && add_others(out, !which, k.r[which], n);
    }
    class_fini(&k);
    return ok;
}

/* ---- the parser ---- */

/* A group that is open: the alternatives so far, and the parts of the one being read. */
typedef struct group {
    uint32_t alternatives, last_alternative, parts, last_part, n_alternatives, n_parts;
    size_t at;
} group;

typedef struct parser {
    qn_regex *r;
    const char *p;
    size_t n, i;
    group *groups;
    size_t n_groups;
    qn_err *err;
} parser;

#define UNSUPPORTED(ps, at, what)                                                                  \
    qn_fail((ps)->err, QN_E_UNSUPPORTED, "found %s at byte %zu, which cannot be enforced", what,   \
            (size_t)(at))
#define MALFORMED(ps, at, what)                                                                    \
    qn_fail((ps)->err, QN_E_ARG, "found %s at byte %zu", what, (size_t)(at))

static qn_status add_node(parser *ps, node x, uint32_t *out)
{
    qn_regex *r = ps->r;
    if (!qn_grow(&r->nodes, &r->nodes_cap, r->n_nodes + 1, sizeof *r->nodes, QN_MEM_REQUEST))
        return qn_fail_nomem(ps->err, (r->n_nodes + 1) * sizeof *r->nodes);
    x.next = NONE;
    r->nodes[r->n_nodes] = x;
    *out = (uint32_t)r->n_nodes++;
    return QN_OK;
}

/* A part of the sequence being read. */
static qn_status add_part(parser *ps, node x)
{
    group *g = &ps->groups[ps->n_groups - 1];
    uint32_t id = 0;
    QN_TRY(add_node(ps, x, &id));
    if (g->n_parts++)
        ps->r->nodes[g->last_part].next = id;
    else
        g->parts = id;
    g->last_part = id;
    return QN_OK;
}

static uint32_t places_sum(uint32_t a, uint32_t b)
{
    return QN_MIN(a + b, PLACES + 1u);
}

/* SEQ or ALT over a list of children; of one child, that child itself. */
static qn_status add_list(parser *ps, kind k, uint32_t first, uint32_t n, uint32_t *out)
{
    node x = {.kind = (uint8_t)(n ? k : EMPTY), .child = first, .may_be_empty = k == SEQ || !n};
    if (n == 1) {
        *out = first;
        return QN_OK;
    }
    for (uint32_t c = first; n && c != NONE; c = ps->r->nodes[c].next) {
        const node *part = &ps->r->nodes[c];
        x.has_anchor |= part->has_anchor;
        x.n_places = places_sum(x.n_places, part->n_places);
        x.may_be_empty =
            k == SEQ ? x.may_be_empty && part->may_be_empty : x.may_be_empty || part->may_be_empty;
    }
    return add_node(ps, x, out);
}

/* The sequence being read becomes an alternative. */
static qn_status end_alternative(parser *ps)
{
    group *g = &ps->groups[ps->n_groups - 1];
    uint32_t id = 0;
    QN_TRY(add_list(ps, SEQ, g->parts, g->n_parts, &id));
    if (g->n_alternatives++)
        ps->r->nodes[g->last_alternative].next = id;
    else
        g->alternatives = id;
    g->last_alternative = id;
    g->n_parts = 0;
    return QN_OK;
}

static qn_status add_char(parser *ps, uint32_t c)
{
    return add_part(ps, (node){.kind = CHAR, .a = c, .n_places = 1});
}

/* Keeps a class as sets; the class is ended. */
static qn_status add_class(parser *ps, class *c, bool is_negated)
{
    qn_regex *r = ps->r;
    class other = {0};
    bool ok = true;
    for (int which = NARROW; which <= WIDE; which++)
        c->n[which] = join_ranges(c->r[which], c->n[which]);
    for (int which = NARROW; which <= WIDE && is_negated; which++)
        ok = ok && add_others(&other, !which, c->r[which], c->n[which]);
    const class *from = is_negated ? &other : c;
    bool is_same = from->n[0] == from->n[1] &&
                   (!from->n[0] || !from->r[0] ||
                    memcmp(from->r[0], from->r[1], from->n[0] * sizeof **from->r) == 0);
    for (int which = NARROW; which <= WIDE - is_same; which++) {
        ok = ok &&
             qn_grow(&r->sets, &r->sets_cap, r->n_sets + 1, sizeof *r->sets, QN_MEM_REQUEST) &&
             qn_grow(&r->ranges, &r->ranges_cap, r->n_ranges + from->n[which], sizeof *r->ranges,
                     QN_MEM_REQUEST);
        if (!ok)
            break;
        if (from->r[which])
            memcpy(r->ranges + r->n_ranges, from->r[which], from->n[which] * sizeof *r->ranges);
        r->sets[r->n_sets++] = (set){(uint32_t)r->n_ranges, (uint32_t)from->n[which]};
        r->n_ranges += from->n[which];
    }
    class_fini(c);
    class_fini(&other);
    if (!ok)
        return qn_fail_nomem(ps->err, r->n_ranges * sizeof *r->ranges);
    uint32_t wide = (uint32_t)r->n_sets - 1;
    return add_part(ps, (node){.kind = SET, .a = wide - !is_same, .b = wide, .n_places = 1});
}

static qn_status next_char(parser *ps, uint32_t *c)
{
    size_t k = ps->i < ps->n ? qn_utf8_decode(ps->p + ps->i, ps->n - ps->i, c) : 0;
    if (!k)
        return MALFORMED(ps, ps->i, ps->i < ps->n ? "what is not UTF-8" : "the end too early");
    ps->i += k;
    return QN_OK;
}

static bool is_next(const parser *ps, const char *z)
{
    size_t n = strlen(z);
    return ps->n - ps->i >= n && memcmp(ps->p + ps->i, z, n) == 0;
}

/* n hexadecimal digits; n 0: as many as stand before '}'. */
static bool read_hex(parser *ps, size_t n, uint32_t *out)
{
    size_t i = ps->i, end = i + n;
    *out = 0;
    for (; i < ps->n && (n ? i < end : ps->p[i] != '}'); i++) {
        char c = ps->p[i], low = (char)(c | 0x20);
        bool is_digit = c >= '0' && c <= '9';
        if ((!is_digit && (low < 'a' || low > 'f')) || *out > LAST_CHAR)
            return false;
        *out = *out << 4 | (uint32_t)(is_digit ? c - '0' : low - 'a' + 10);
    }
    if (i >= ps->n + (n != 0) || (n && i != end) || (!n && i == ps->i) || *out > LAST_CHAR)
        return false;
    ps->i = i + !n;
    return true;
}

/* Behind "\u": XXXX, a pair of surrogates, or {X...}. */
static qn_status read_unicode(parser *ps, uint32_t *c)
{
    size_t at = ps->i - 2;
    uint32_t low;
    bool is_braced = is_next(ps, "{");
    ps->i += is_braced;
    if (!read_hex(ps, is_braced ? 0 : 4, c))
        return MALFORMED(ps, at, "an incomplete \\u");
    if (*c >= 0xd800 && *c < 0xdc00 && is_next(ps, "\\u")) {
        ps->i += 2;
        if (!read_hex(ps, 4, &low) || low < 0xdc00 || low > 0xdfff)
            return UNSUPPORTED(ps, at, "half of a surrogate pair");
        *c = 0x10000 + ((*c - 0xd800) << 10) + (low - 0xdc00);
    }
    if (*c >= 0xd800 && *c < 0xe000)
        return UNSUPPORTED(ps, at, "half of a surrogate pair");
    return QN_OK;
}

/* Behind "\p" or "\P". */
static qn_status read_category(parser *ps, class *c, bool is_negated)
{
    static const char *const words[] = {
        "Letter",           "L",  "Mark",           "M", "Number", "N", "Punctuation",      "P",
        "Symbol",           "S",  "Separator",      "Z", "Other",  "C", "Uppercase_Letter", "Lu",
        "Lowercase_Letter", "Ll", "Decimal_Number", "Nd"};
    size_t at = ps->i - 2, begin = ps->i + 1;
    const char *close = is_next(ps, "{") ? memchr(ps->p + ps->i, '}', ps->n - ps->i) : NULL;
    if (!close)
        return MALFORMED(ps, at, "\\p without {category}");
    qn_slice name = {ps->p + begin, (size_t)(close - ps->p) - begin};
    for (size_t i = 0; i < 2; i++) {
        static const char *const prefixes[] = {"General_Category=", "gc="};
        size_t n = strlen(prefixes[i]);
        if (name.n > n && memcmp(name.p, prefixes[i], n) == 0)
            name = (qn_slice){name.p + n, name.n - n};
    }
    for (size_t i = 0; i < QN_COUNT(words); i += 2)
        if (qn_slice_is(name, words[i]))
            name = qn_slice_of(words[i + 1]);
    uint32_t bits = category_bits(name.p, name.n), unassigned = category_bits("Cn", 2);
    if (!bits || bits & category_bits("Cs", 2))
        return UNSUPPORTED(ps, at, "\\p of what is no general category of characters");
    if (is_negated)
        bits = ~bits;
    ps->i = (size_t)(close - ps->p) + 1;
    if (!add_categories(c, NARROW, bits & ~unassigned) ||
        !add_categories(c, WIDE, bits | unassigned))
        return qn_fail_nomem(ps->err, sizeof category_runs);
    return QN_OK;
}

/* Behind a backslash: one character, or a class of them (then *is_class, added to c). */
static qn_status read_escape(parser *ps, class *c, bool *is_class, uint32_t *out)
{
    static const char letters[] = "tnvfr", values[] = "\t\n\v\f\r";
    size_t at = ps->i - 1;
    uint32_t e;
    *is_class = false;
    if (ps->i == ps->n)
        return MALFORMED(ps, at, "a backslash at the end");
    QN_TRY(next_char(ps, &e));
    const char *letter = e && e < 0x80 ? strchr(letters, (int)e) : NULL;
    if (letter) {
        *out = (uint32_t)values[letter - letters];
        return QN_OK;
    }
    if (e && e < 0x80 && strchr("dDwWsS", (int)e)) {
        *is_class = true;
        return add_shorthand(c, (char)e) ? QN_OK : qn_fail_nomem(ps->err, sizeof category_runs);
    }
    if (e == 'p' || e == 'P') {
        *is_class = true;
        return read_category(ps, c, e == 'P');
    }
    if (e == 'u')
        return read_unicode(ps, out);
    if (e == 'x')
        return read_hex(ps, 2, out) ? QN_OK : MALFORMED(ps, at, "an incomplete \\x");
    if (e == '0' && !(ps->i < ps->n && ps->p[ps->i] >= '0' && ps->p[ps->i] <= '9')) {
        *out = 0;
        return QN_OK;
    }
    if (e >= '0' && e <= '9')
        return UNSUPPORTED(ps, at, e == '0' ? "an octal escape" : "a back-reference");
    if (e == 'c' && ps->i < ps->n &&
        ((ps->p[ps->i] | 0x20) >= 'a' && (ps->p[ps->i] | 0x20) <= 'z')) {
        *out = (uint32_t)ps->p[ps->i++] & 31;
        return QN_OK;
    }
    if (e == 'b' || e == 'B')
        return UNSUPPORTED(ps, at, "a word border");
    if (e == 'k')
        return UNSUPPORTED(ps, at, "a back-reference");
    if ((e | 0x20) >= 'a' && (e | 0x20) <= 'z')
        return UNSUPPORTED(ps, at, "an escape that not all languages have");
    *out = e;
    return QN_OK;
}

/* Behind '['. */
static qn_status read_class(parser *ps)
{
    class c = {0};
    size_t begin = ps->i - 1;
    bool is_negated = is_next(ps, "^"), is_class, is_range;
    qn_status s = QN_OK;
    ps->i += is_negated;
    if (is_next(ps, "]"))
        return UNSUPPORTED(ps, begin, "a class that begins with ']'");
    while (s == QN_OK && !is_next(ps, "]")) {
        uint32_t ends[2] = {0};
        is_range = false;
        for (int i = 0; i < 1 + is_range && s == QN_OK; i++) {
            size_t at = ps->i;
            is_class = false;
            if (ps->i == ps->n)
                s = MALFORMED(ps, begin, "a class without ']'");
            else if (ps->p[ps->i] == '\\' && ++ps->i)
                /* \b is a backspace here */
                s = is_next(ps, "b") ? (ps->i++, ends[i] = '\b', QN_OK)
                                     : read_escape(ps, &c, &is_class, &ends[i]);
            else
                s = next_char(ps, &ends[i]);
            if (s != QN_OK)
                break;
            bool is_dash = ps->i + 1 < ps->n && ps->p[ps->i] == '-' && ps->p[ps->i + 1] != ']';
            if (is_class && (i || is_dash))
                s = MALFORMED(ps, at, "a class as the end of a range");
            else if (!i && is_dash) {
                is_range = true;
                ps->i++;
            } else if (!is_class) {
                uint32_t first = ends[0], last = ends[i];
                if (first > last)
                    s = MALFORMED(ps, at, "a range whose end is before its begin");
                else if (!add_range(&c, NARROW, first, last) || !add_range(&c, WIDE, first, last))
                    s = qn_fail_nomem(ps->err, sizeof *c.r);
            }
        }
    }
    if (s == QN_OK) {
        ps->i++;
        return add_class(ps, &c, is_negated);
    }
    class_fini(&c);
    return s;
}

/* '.': anything but the end of a line, of which ECMA-262 has four and Python one. */
static qn_status add_dot(parser *ps)
{
    static const qn_char_range ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
    class c = {0};
    bool ok = add_others(&c, NARROW, ends, QN_COUNT(ends)) && add_others(&c, WIDE, ends, 1);
    if (ok)
        return add_class(ps, &c, false);
    class_fini(&c);
    return qn_fail_nomem(ps->err, sizeof ends);
}

/* Decimal digits at i; false: none. Over the limit: the limit + 1. */
static bool read_count(const parser *ps, size_t *i, uint32_t *out)
{
    size_t begin = *i;
    *out = 0;
    for (; *i < ps->n && ps->p[*i] >= '0' && ps->p[*i] <= '9'; ++*i)
        *out = QN_MIN(*out * 10 + (uint32_t)(ps->p[*i] - '0'), PLACES + 1u);
    return *i > begin;
}

/* A quantifier, if one stands here. "{" that begins none is a character. */
static qn_status read_bounds(parser *ps, bool *is_there, uint32_t *min, uint32_t *max)
{
    char c = ps->p[ps->i];
    size_t i = ps->i + 1;
    uint32_t most;
    *is_there = c == '*' || c == '+' || c == '?';
    *min = c == '+';
    *max = c == '?' ? 1 : QN_FORM_ENDLESS;
    if (c == '{') {
        bool has_min = read_count(ps, &i, min), has_comma = i < ps->n && ps->p[i] == ',', has_max;
        i += has_comma;
        has_max = has_comma && read_count(ps, &i, &most);
        if (has_max)
            *max = most;
        *is_there = i < ps->n && ps->p[i] == '}' && (has_min || has_max);
        if (*is_there && !has_min)
            return UNSUPPORTED(ps, ps->i, "a quantifier without its first number");
        if (has_min && !has_comma)
            *max = *min;
        i++;
    }
    if (*is_there) {
        if (*min > PLACES || (*max > PLACES && *max != QN_FORM_ENDLESS))
            return qn_fail(ps->err, QN_E_TOO_LONG, "found a bound over %d at byte %zu", PLACES,
                           ps->i);
        if (*min > *max)
            return MALFORMED(ps, ps->i, "a quantifier whose first number is the larger");
        ps->i = i;
    }
    return QN_OK;
}

/* The last part becomes its repetition. */
static qn_status repeat_last(parser *ps, size_t at, uint32_t min, uint32_t max)
{
    group *g = &ps->groups[ps->n_groups - 1];
    uint32_t id = 0, times = QN_MAX(1u, max == QN_FORM_ENDLESS ? min + 1 : max);
    if (!g->n_parts)
        return MALFORMED(ps, at, "a quantifier with nothing before it");
    node part = ps->r->nodes[g->last_part];
    if ((part.kind == START || part.kind == END) && ps->p[at - 1] != ')')
        return MALFORMED(ps, at, "a quantifier behind an anchor");
    if (ps->i < ps->n && ps->p[ps->i] == '+')
        return UNSUPPORTED(ps, ps->i, "a possessive quantifier");
    if (ps->i < ps->n && ps->p[ps->i] == '?')
        ps->i++; /* a lazy one matches the same texts */
    if (ps->i < ps->n && strchr("*+?", ps->p[ps->i]) && ps->p[ps->i])
        return MALFORMED(ps, ps->i, "a quantifier behind another one");
    QN_TRY(add_node(ps, part, &id));
    node *x = &ps->r->nodes[g->last_part];
    *x = (node){.kind = REPEAT,
                .has_anchor = part.has_anchor,
                .may_be_empty = part.may_be_empty || min == 0,
                .child = id,
                .next = NONE,
                .a = min,
                .b = max};
    x->n_places = (uint32_t)QN_MIN((uint64_t)part.n_places * times, PLACES + 1u);
    return QN_OK;
}

/* Behind '(': what kind of group; the text of the group comes next. */
static qn_status open_group(parser *ps)
{
    size_t at = ps->i - 1;
    if (is_next(ps, "?")) {
        ps->i++;
        if (is_next(ps, "=") || is_next(ps, "!"))
            return UNSUPPORTED(ps, at, "a look-ahead");
        if (is_next(ps, "<=") || is_next(ps, "<!"))
            return UNSUPPORTED(ps, at, "a look-behind");
        if (is_next(ps, "P=") || is_next(ps, "P>"))
            return UNSUPPORTED(ps, at, "a back-reference");
        if (is_next(ps, ">"))
            return UNSUPPORTED(ps, at, "an atomic group");
        bool is_named = is_next(ps, "<") || is_next(ps, "P<");
        if (!is_named && !is_next(ps, ":"))
            return UNSUPPORTED(ps, at, "flags or a condition");
        if (is_named) {
            const char *close = memchr(ps->p + ps->i, '>', ps->n - ps->i);
            size_t begin = ps->i + (is_next(ps, "P") ? 2 : 1);
            if (!close || !qn_slice_is_word(
                              (qn_slice){ps->p + begin, (size_t)(close - ps->p) - begin}, ps->n))
                return MALFORMED(ps, at, "a group without a whole name");
            ps->i = (size_t)(close - ps->p);
        }
        ps->i++;
    }
    if (ps->n_groups == QN_LIMIT_REGEX_DEPTH)
        return qn_fail(ps->err, QN_E_TOO_LONG, "found groups deeper than %d levels at byte %zu",
                       QN_LIMIT_REGEX_DEPTH, at);
    ps->groups[ps->n_groups++] = (group){.at = at};
    return QN_OK;
}

static qn_status close_group(parser *ps, size_t at)
{
    group *g = &ps->groups[ps->n_groups - 1];
    uint32_t id = 0;
    if (ps->n_groups == 1)
        return MALFORMED(ps, at, "')' without '('");
    QN_TRY(end_alternative(ps));
    QN_TRY(add_list(ps, ALT, g->alternatives, g->n_alternatives, &id));
    ps->n_groups--;
    return add_part(ps, ps->r->nodes[id]); /* a copy: its place in a list is another one */
}

static qn_status read_one(parser *ps)
{
    size_t at = ps->i;
    uint32_t c, min, max;
    bool is_there;
    QN_TRY(read_bounds(ps, &is_there, &min, &max));
    if (is_there)
        return repeat_last(ps, at, min, max);
    QN_TRY(next_char(ps, &c));
    switch (c) {
    case '(':
        return open_group(ps);
    case ')':
        return close_group(ps, at);
    case '|':
        return end_alternative(ps);
    case '[':
        return read_class(ps);
    case '.':
        return add_dot(ps);
    case '^':
        return add_part(ps, (node){.kind = START, .has_anchor = true, .may_be_empty = true});
    case '$':
        return add_part(ps, (node){.kind = END, .has_anchor = true, .may_be_empty = true});
    case '\\': {
        class k = {0};
        bool is_class;
        qn_status s = read_escape(ps, &k, &is_class, &c);
        if (s == QN_OK && is_class)
            return add_class(ps, &k, false);
        class_fini(&k);
        return s == QN_OK ? add_char(ps, c) : s;
    }
    default:
        return add_char(ps, c);
    }
}

qn_status qn_regex_parse(qn_regex **out, const char *re, size_t n, qn_err *err)
{
    group groups[QN_LIMIT_REGEX_DEPTH];
    parser ps = {.p = re, .n = n, .groups = groups, .n_groups = 1, .err = err};
    qn_status s = QN_OK;
    *out = NULL;
    if (n > QN_LIMIT_REGEX_BYTES)
        return qn_fail(err, QN_E_TOO_LONG, "found a regular expression of %zu bytes, limit %d", n,
                       QN_LIMIT_REGEX_BYTES);
    ps.r = qn_calloc(1, sizeof *ps.r, QN_MEM_REQUEST);
    if (!ps.r)
        return qn_fail_nomem(err, sizeof *ps.r);
    groups[0] = (group){0};
    while (s == QN_OK && ps.i < n)
        s = read_one(&ps);
    if (s == QN_OK && ps.n_groups > 1)
        s = MALFORMED(&ps, groups[ps.n_groups - 1].at, "'(' without ')'");
    if (s == QN_OK)
        s = end_alternative(&ps);
    if (s == QN_OK)
        s = add_list(&ps, ALT, groups[0].alternatives, groups[0].n_alternatives, &ps.r->root);
    if (s == QN_OK && ps.r->nodes[ps.r->root].n_places > PLACES)
        s = qn_fail(err, QN_E_TOO_LONG, "found repetitions of more than %d characters together",
                    PLACES);
    if (s == QN_OK)
        *out = ps.r;
    else
        qn_regex_free(ps.r);
    return s;
}

void qn_regex_free(qn_regex *r)
{
    if (!r)
        return;
    qn_free(r->nodes);
    qn_free(r->sets);
    qn_free(r->ranges);
    qn_free(r);
}

/* ---- as a form ---- */

typedef enum border { OPEN, FIXED, INSIDE, MAYBE } border;

/* A part of a sequence, with the border on its right. */
typedef struct part {
    uint32_t node;
    uint8_t right;
} part;

/* A node being written; ids[first..] are the forms of its children so far. */
typedef struct frame {
    uint32_t node, child; /* the child that comes; of a sequence: parts[at..end] */
    size_t first, at, begin, end;
    uint8_t left, right, next_left;
} frame;

typedef struct writer {
    const qn_regex *r;
    qn_form *f;
    bool is_json, is_wide;
    qn_form_id any, nothing, empty;
    frame *frames;
    part *parts;
    qn_form_id *ids;
    size_t n_frames, n_parts, n_ids, frames_cap, parts_cap, ids_cap;
    qn_err *err;
} writer;

static qn_status push_id(writer *w, qn_form_id id)
{
    if (!qn_grow(&w->ids, &w->ids_cap, w->n_ids + 1, sizeof *w->ids, QN_MEM_REQUEST))
        return qn_fail_nomem(w->err, (w->n_ids + 1) * sizeof *w->ids);
    w->ids[w->n_ids++] = id;
    return QN_OK;
}

/* What lies behind a part that has b before it; `here` is the anchor that looks at it. Mirrored for the other direction. */
static border behind(border b, const node *x, kind here)
{
    if (x->kind == EMPTY)
        return b;
    if (x->kind == here)
        return b == OPEN ? FIXED : b;
    if (x->kind == START || x->kind == END)
        return b == OPEN ? MAYBE : b;
    return b == INSIDE || !x->may_be_empty ? INSIDE : MAYBE;
}

static qn_form_id with_any(writer *w, qn_form_id id, border left, border right)
{
    if (left == OPEN)
        id = qn_form_pair(w->f, w->any, id);
    return right == OPEN ? qn_form_pair(w->f, id, w->any) : id;
}

static qn_status write_anchor(writer *w, const node *x, border left, border right)
{
    border at = x->kind == START ? left : right;
    qn_form_id id = w->empty;
    if (at == MAYBE && !w->is_wide)
        return qn_fail(w->err, QN_E_UNSUPPORTED,
                       "found '%c' beside what may be empty, which cannot be enforced",
                       x->kind == START ? '^' : '$');
    if (at == INSIDE && !(w->is_wide && x->kind == END))
        id = w->nothing;
    else if (w->is_wide && x->kind == END) /* Python's stands before a last end of line too */
        id = qn_form_maybe(w->f,
                           w->is_json ? qn_json_text(w->f, "\n", 1) : qn_form_bytes(w->f, "\n", 1));
    return push_id(w, x->kind == START ? with_any(w, id, INSIDE, right)
                                       : with_any(w, id, left, INSIDE));
}

static qn_form_id write_set(writer *w, const node *x)
{
    const set *s = &w->r->sets[w->is_wide ? x->b : x->a];
    const qn_char_range *r = s->n ? w->r->ranges + s->at : NULL;
    return w->is_json ? qn_json_chars(w->f, r, s->n) : qn_form_chars(w->f, r, s->n, false);
}

static qn_form_id write_text(writer *w, const char *p, size_t n)
{
    return w->is_json ? qn_json_text(w->f, p, n) : qn_form_bytes(w->f, p, n);
}

/* The children of a sequence, with their right borders. */
static qn_status list_parts(writer *w, frame *fr)
{
    const node *nodes = w->r->nodes;
    fr->begin = fr->at = w->n_parts;
    for (uint32_t c = nodes[fr->node].child; c != NONE; c = nodes[c].next) {
        if (!qn_grow(&w->parts, &w->parts_cap, w->n_parts + 1, sizeof *w->parts, QN_MEM_REQUEST))
            return qn_fail_nomem(w->err, (w->n_parts + 1) * sizeof *w->parts);
        w->parts[w->n_parts++] = (part){c, INSIDE};
    }
    border b = fr->right;
    for (size_t i = fr->end = w->n_parts; nodes[fr->node].has_anchor && i-- > fr->begin;) {
        w->parts[i].right = (uint8_t)b;
        b = behind(b, &nodes[w->parts[i].node], END);
    }
    return QN_OK;
}

/* Begins a node; one without children is done at once. */
static qn_status enter(writer *w, uint32_t id, border left, border right)
{
    const node *x = &w->r->nodes[id];
    char text[4];
    switch (x->kind) {
    case START:
    case END:
        return write_anchor(w, x, left, right);
    case EMPTY:
        return push_id(w, with_any(w, w->empty, left, right));
    case CHAR:
        return push_id(w,
                       with_any(w, write_text(w, text, qn_utf8_encode(text, x->a)), left, right));
    case SET:
        return push_id(w, with_any(w, write_set(w, x), left, right));
    default:
        break;
    }
    frame fr = {.node = id, .child = x->child, .first = w->n_ids};
    fr.left = (uint8_t)left;
    fr.right = (uint8_t)right;
    /* what has no anchor is the same everywhere, any text before and behind it apart */
    fr.next_left = x->has_anchor ? fr.left : INSIDE;
    if (x->kind == SEQ)
        QN_TRY(list_parts(w, &fr));
    if (!qn_grow(&w->frames, &w->frames_cap, w->n_frames + 1, sizeof *w->frames, QN_MEM_REQUEST))
        return qn_fail_nomem(w->err, (w->n_frames + 1) * sizeof *w->frames);
    w->frames[w->n_frames++] = fr;
    return QN_OK;
}

/* The characters that stand side by side from here, as one text. */
static qn_status write_run(writer *w, frame *fr)
{
    char text[256];
    size_t n = 0;
    for (; fr->at < fr->end && n + 4 <= sizeof text; fr->at++) {
        const node *x = &w->r->nodes[w->parts[fr->at].node];
        if (x->kind != CHAR || w->parts[fr->at].right == OPEN)
            break;
        n += qn_utf8_encode(text + n, x->a);
    }
    fr->next_left = INSIDE;
    return push_id(w, write_text(w, text, n));
}

/* The next part of the sequence on top; the frame may move. */
static qn_status write_part(writer *w, frame *fr)
{
    part p = w->parts[fr->at];
    const node *x = &w->r->nodes[p.node];
    border left = fr->next_left;
    bool is_open = w->r->nodes[fr->node].has_anchor && (left == OPEN || p.right == OPEN);
    if (x->kind == CHAR && !is_open)
        return write_run(w, fr);
    fr->at++;
    if (x->kind == EMPTY)
        return QN_OK;
    fr->next_left = (uint8_t)behind(left, x, START);
    return enter(w, p.node, left, p.right);
}

static qn_status leave(writer *w, const frame *fr)
{
    const node *x = &w->r->nodes[fr->node];
    const qn_form_id *ids = w->ids + fr->first;
    size_t n = w->n_ids - fr->first;
    qn_form_id id;
    if (x->kind == SEQ)
        id = qn_form_seq(w->f, ids, n);
    else if (x->kind == ALT)
        id = qn_form_alt(w->f, ids, n);
    else if (!x->has_anchor)
        id = qn_form_repeat(w->f, ids[0], x->a, x->b);
    else
        id = x->a ? ids[0]
                  : qn_form_either(w->f, ids[0], with_any(w, w->empty, fr->left, fr->right));
    if (!x->has_anchor)
        id = with_any(w, id, fr->left, fr->right);
    if (x->kind == SEQ)
        w->n_parts = fr->begin;
    w->n_ids = fr->first;
    return push_id(w, id);
}

/* The child of a choice or a repetition that comes next; the frame may move. */
static qn_status write_child(writer *w, frame *fr)
{
    const node *x = &w->r->nodes[fr->node];
    uint32_t child = fr->child;
    if (x->kind == REPEAT && x->has_anchor && x->b != 1)
        return qn_fail(w->err, QN_E_UNSUPPORTED,
                       "found an anchor that is repeated, which cannot be enforced");
    fr->child = w->r->nodes[child].next;
    return enter(w, child, x->has_anchor ? fr->left : INSIDE, x->has_anchor ? fr->right : INSIDE);
}

static qn_status write_all(writer *w, border outside)
{
    QN_TRY(enter(w, w->r->root, outside, outside));
    while (w->n_frames) {
        frame *fr = &w->frames[w->n_frames - 1];
        bool is_seq = w->r->nodes[fr->node].kind == SEQ;
        if (is_seq && fr->at < fr->end) {
            QN_TRY(write_part(w, fr));
        } else if (!is_seq && fr->child != NONE) {
            QN_TRY(write_child(w, fr));
        } else {
            frame done = *fr;
            w->n_frames--;
            QN_TRY(leave(w, &done));
        }
    }
    return QN_OK;
}

qn_status qn_regex_form(const qn_regex *r, qn_form *f, unsigned use, qn_form_id *out, qn_err *err)
{
    static const qn_char_range all = {0, LAST_CHAR};
    writer w = {.r = r, .f = f, .is_json = use & QN_REGEX_JSON, .is_wide = use & QN_REGEX_WIDE};
    w.err = err;
    w.nothing = qn_form_alt(f, NULL, 0);
    w.empty = qn_form_bytes(f, "", 0);
    w.any =
        qn_form_repeat(f, w.is_json ? qn_json_chars(f, &all, 1) : qn_form_chars(f, &all, 1, false),
                       0, QN_FORM_ENDLESS);
    qn_status s = write_all(&w, use & QN_REGEX_WHOLE ? FIXED : OPEN);
    *out = s == QN_OK ? w.ids[0] : 0;
    qn_free(w.frames);
    qn_free(w.parts);
    qn_free(w.ids);
    return s;
}

qn_status qn_form_add_regex(qn_form *f, const char *re, size_t n, bool is_whole, qn_form_id *out,
                            qn_err *err)
{
    qn_regex *r;
    *out = 0;
    qn_status s = qn_regex_parse(&r, re, n, err);
    if (s == QN_OK)
        s = qn_regex_form(r, f, is_whole ? QN_REGEX_WHOLE : 0, out, err);
    qn_regex_free(r);
    if (s != QN_OK)
        return qn_wrap(err, s, "regex");
    return *out ? QN_OK : qn_form_check(f, err);
}

/* ---- on a text ---- */

/* A node takes the set of places where it may begin to the set of those where it may end: bits of words. A frame keeps what
 * its node needs of them: ALT, where it began and where it has ended so far; REPEAT, where it has ended. */
typedef struct visit {
    uint32_t node, child, count;
} visit;

typedef struct search {
    const qn_regex *r;
    bool is_wide;
    const uint32_t *text;
    size_t n, n_words;
    uint64_t *now, *kept; /* kept: two sets for each frame */
    visit *frames;
    size_t n_frames, frames_cap, kept_cap;
    uint64_t steps;
    qn_err *err;
} search;

static bool set_has(const qn_regex *r, const set *s, uint32_t c)
{
    const qn_char_range *ranges = s->n ? r->ranges + s->at : NULL;
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (ranges[mid].last < c)
            low = mid + 1;
        else
            high = mid;
    }
    return low < s->n && ranges[low].first <= c;
}

static bool has_bit(const uint64_t *bits, size_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static void take_char(search *s, const node *x)
{
    const set *chars = x->kind == SET ? &s->r->sets[s->is_wide ? x->b : x->a] : NULL;
    for (size_t i = s->n + 1; i-- > 0;) {
        bool may = i && has_bit(s->now, i - 1) &&
                   (chars ? set_has(s->r, chars, s->text[i - 1]) : s->text[i - 1] == x->a);
        s->now[i / 64] = (s->now[i / 64] & ~(UINT64_C(1) << (i % 64))) | (uint64_t)may << (i % 64);
    }
}

static void take_anchor(search *s, const node *x)
{
    bool at_end = has_bit(s->now, s->n), at_start = s->now[0] & 1;
    bool before_last = s->is_wide && s->n && s->text[s->n - 1] == '\n' && has_bit(s->now, s->n - 1);
    memset(s->now, 0, s->n_words * sizeof *s->now);
    if (x->kind == START)
        s->now[0] |= at_start;
    else
        s->now[s->n / 64] |= (uint64_t)at_end << (s->n % 64);
    if (x->kind == END && before_last)
        s->now[(s->n - 1) / 64] |= UINT64_C(1) << ((s->n - 1) % 64);
}

static qn_status visit_node(search *s, uint32_t id)
{
    const node *x = &s->r->nodes[id];
    size_t n = s->n_words;
    if ((s->steps += n + (x->kind <= SET ? s->n : 0)) > QN_LIMIT_REGEX_STEPS)
        return qn_fail(s->err, QN_E_TOO_LONG, "found a text that takes more than %d steps to match",
                       QN_LIMIT_REGEX_STEPS);
    if (x->kind == CHAR || x->kind == SET)
        take_char(s, x);
    else if (x->kind == START || x->kind == END)
        take_anchor(s, x);
    if (x->kind != SEQ && x->kind != ALT && x->kind != REPEAT)
        return QN_OK;
    if (!qn_grow(&s->frames, &s->frames_cap, s->n_frames + 1, sizeof *s->frames, QN_MEM_REQUEST) ||
        !qn_grow(&s->kept, &s->kept_cap, 2 * n * (s->n_frames + 1), sizeof *s->kept,
                 QN_MEM_REQUEST))
        return qn_fail_nomem(s->err, 2 * n * (s->n_frames + 1) * sizeof *s->kept);
    uint64_t *began = s->kept + 2 * n * s->n_frames, *ended = began + n;
    memcpy(began, s->now, n * sizeof *began);
    memset(ended, 0, n * sizeof *ended);
    if (x->kind == REPEAT && x->a == 0)
        memcpy(ended, s->now, n * sizeof *ended);
    s->frames[s->n_frames++] = (visit){id, x->child, 0};
    return QN_OK;
}

/* The frame on top goes on with s->now, where its last child ended. True: another child is to be visited. */
static bool go_on(search *s, visit *v, uint64_t *began, uint64_t *ended, bool is_first)
{
    const node *x = &s->r->nodes[v->node];
    size_t n = s->n_words;
    bool is_new = false, is_any = false, is_other = false;
    if (x->kind == SEQ)
        return v->child != NONE;
    if (x->kind == ALT) {
        for (size_t i = 0; i < n && !is_first; i++)
            ended[i] |= s->now[i];
        memcpy(s->now, v->child == NONE ? ended : began, n * sizeof *ended);
        return v->child != NONE;
    }
    v->count += !is_first;
    for (size_t i = 0; i < n; i++) {
        is_any |= s->now[i] != 0;
        is_other |= s->now[i] != began[i];
        is_new |= (s->now[i] & ~ended[i]) != 0;
        began[i] = s->now[i];
        if (!is_first && v->count >= x->a)
            ended[i] |= s->now[i];
    }
    /* a round that changes nothing will change nothing again */
    if (!is_first && v->count < x->a && !is_other) {
        v->count = x->a;
        for (size_t i = 0; i < n; i++)
            ended[i] |= s->now[i];
        is_any = false;
    }
    bool is_done = !is_any || (x->b != QN_FORM_ENDLESS && v->count >= x->b) ||
                   (!is_first && v->count >= x->a && !is_new);
    if (is_done)
        memcpy(s->now, ended, n * sizeof *ended);
    return !is_done;
}

static qn_status search_all(search *s)
{
    size_t n_before = 0;
    QN_TRY(visit_node(s, s->r->root));
    while (s->n_frames) {
        visit *v = &s->frames[s->n_frames - 1];
        const node *x = &s->r->nodes[v->node];
        uint64_t *began = s->kept + 2 * s->n_words * (s->n_frames - 1);
        s->steps += s->n_words;
        if (!go_on(s, v, began, began + s->n_words, s->n_frames > n_before)) {
            n_before = s->n_frames--;
            continue;
        }
        uint32_t child = v->child;
        if (x->kind != REPEAT)
            v->child = s->r->nodes[child].next;
        n_before = s->n_frames;
        QN_TRY(visit_node(s, child));
    }
    return QN_OK;
}

qn_status qn_regex_finds(const qn_regex *r, const char *text, size_t n, bool is_wide, bool *out,
                         qn_err *err)
{
    search s = {.r = r, .is_wide = is_wide, .err = err};
    uint32_t *chars = qn_alloc_array(n + 1, sizeof *chars, QN_MEM_REQUEST);
    qn_status status;
    *out = false;
    for (size_t i = 0, k; chars && i < n; i += k) {
        k = qn_utf8_decode(text + i, n - i, &chars[s.n]);
        QN_ASSERT(k);
        s.n++;
    }
    s.text = chars;
    s.n_words = s.n / 64 + 1;
    s.now = chars ? qn_alloc_array(s.n_words, sizeof *s.now, QN_MEM_REQUEST) : NULL;
    if (!s.now) {
        qn_free(chars);
        return qn_fail_nomem(err, (n + 1) * sizeof *chars);
    }
    memset(s.now, 0xff, s.n_words * sizeof *s.now); /* it may begin anywhere */
    if (s.n % 64 != 63)
        s.now[s.n / 64] = (UINT64_C(1) << (s.n % 64 + 1)) - 1;
    status = search_all(&s);
    for (size_t i = 0; i < s.n_words && status == QN_OK; i++)
        *out |= s.now[i] != 0;
    qn_free(s.now);
    qn_free(s.kept);
    qn_free(s.frames);
    qn_free(chars);
    return status;
}
