/* SPDX-License-Identifier: Apache-2.0
 * pretok.c - the split rules. Each alternative of a pattern is tried in its order; the comments
 * name it.
 *
 * White space is looked at up to three times (once by each of its alternatives), all else once, so
 * the whole is linear. */
#include "text/pretok.h"

#include "text/pretok_tables.h"

#include <string.h>
#include <utf8proc.h>

/* Classes of a code point, for sets. SPACE is \s without CR and LF. */
enum { LETTER = 1, NUMBER = 2, SPACE = 4, NEWLINE = 8, MARK = 16, OTHER = 32 };

/* ASCII: a letter, 0 number, _ space, n newline, . other. */
static const char ascii_class[] = "........._n__n.................."
                                  "_...............0000000000......"
                                  ".aaaaaaaaaaaaaaaaaaaaaaaaaa....."
                                  ".aaaaaaaaaaaaaaaaaaaaaaaaaa.....";

static const char qwen2_regex[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{"
                                  "N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                                  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char qwen35_regex[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
    "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char llama3_regex[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

bool qn_split_from_regex(const char *regex, qn_split *out)
{
    static const struct {
        const char *regex;
        qn_split split;
    } known[] = {{qwen2_regex, QN_SPLIT_QWEN2},
                 {qwen35_regex, QN_SPLIT_QWEN35},
                 {llama3_regex, QN_SPLIT_LLAMA3},
                 {gpt2_regex, QN_SPLIT_GPT2}};
    for (size_t i = 0; i < QN_COUNT(known); i++) {
        if (strcmp(regex, known[i].regex) == 0) {
            *out = known[i].split;
            return true;
        }
    }
    return false;
}

bool qn_is_space(uint32_t cp)
{
    return (cp >= '\t' && cp <= '\r') || cp == ' ' || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}

static unsigned newer_class(uint32_t cp)
{
    size_t low = 0, high = QN_COUNT(newer_chars);
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (cp > newer_chars[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == QN_COUNT(newer_chars) || cp < newer_chars[low].first)
        return OTHER;
    char c = newer_chars[low].category;
    return c == 'L' ? LETTER : c == 'M' ? MARK : NUMBER;
}

static unsigned class_of(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return NUMBER;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return MARK;
    case UTF8PROC_CATEGORY_CN:
        return newer_class(cp);
    default:
        return qn_is_space(cp) ? SPACE : OTHER;
    }
}

bool qn_is_word_char(uint32_t cp)
{
    /* Alphabetic, marks, decimal digits, connectors, joiners. Alphabetic symbols are the circled
     * and squared letters; the numbers in newer_chars are digits. */
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    unsigned set = class_of(cp);
    return (set & (LETTER | MARK)) || (set == NUMBER && c != UTF8PROC_CATEGORY_NO) ||
           c == UTF8PROC_CATEGORY_PC || cp == 0x200C || cp == 0x200D ||
           (cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
           (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189);
}

/* Class of the character at p (n > 0) and its length. */
static inline unsigned next_class(const char *p, size_t n, size_t *len)
{
    unsigned char c = (unsigned char)*p;
    if (c < 0x80) {
        *len = 1;
        switch (ascii_class[c]) {
        case 'a':
            return LETTER;
        case '0':
            return NUMBER;
        case '_':
            return SPACE;
        case 'n':
            return NEWLINE;
        default:
            return OTHER;
        }
    }
    uint32_t cp;
    *len = qn_utf8_decode(p, n, &cp);
    if (*len == 0) {
        *len = 1;
        return OTHER;
    }
    return class_of(cp);
}

/* End of the run of characters in `set` from `at`, of at most `most` of them. */
static size_t run_of(const char *p, size_t n, size_t at, unsigned set, size_t most)
{
    for (size_t len; at < n && most > 0; at += len, most--)
        if (!(next_class(p + at, n - at, &len) & set))
            break;
    return at;
}

/* 's 't 're 've 'm 'll 'd: its length, or 0. fold: in any case, U+017F being a small s. */
static size_t contraction(const char *p, size_t n, bool fold)
{
    if (n < 2 || *p != '\'')
        return 0;
    char c[2] = {p[1], n > 2 ? p[2] : '\0'};
    if (fold && c[0] == '\xC5' && c[1] == '\xBF')
        return 3;
    for (int i = 0; fold && i < 2; i++)
        if (c[i] >= 'A' && c[i] <= 'Z')
            c[i] = (char)(c[i] + 'a' - 'A');
    if (c[0] == 's' || c[0] == 't' || c[0] == 'm' || c[0] == 'd')
        return 2;
    if ((c[0] == 'r' && c[1] == 'e') || (c[0] == 'v' && c[1] == 'e') ||
        (c[0] == 'l' && c[1] == 'l'))
        return 3;
    return 0;
}

/* p starts with white space: \s*[\r\n]+ (if newlines) | \s+(?!\S) | \s+ */
static size_t match_space(const char *p, size_t n, bool newlines)
{
    size_t at = 0, last = 0, newline_end = 0; /* last: where the run's last character starts */
    for (size_t len; at < n; at += len) {
        unsigned c = next_class(p + at, n - at, &len);
        if (!(c & (SPACE | NEWLINE)))
            break;
        last = at;
        if (c == NEWLINE)
            newline_end = at + len;
    }
    if (newlines && newline_end > 0)
        return newline_end;
    return at < n && last > 0 ? last : at;
}

static size_t match_qwen(const char *p, size_t n, qn_split split)
{
    unsigned letter = split == QN_SPLIT_QWEN35 ? LETTER | MARK : LETTER;
    unsigned symbol = (MARK | OTHER) & ~letter;
    size_t len, len2, k = contraction(p, n, true);
    if (k > 0)
        return k;
    unsigned c = next_class(p, n, &len);
    if (c & letter) /* [^\r\n\p{L}\p{N}]?\p{L}+ */
        return run_of(p, n, len, letter, SIZE_MAX);
    if (c == NUMBER)
        return split == QN_SPLIT_LLAMA3 ? run_of(p, n, len, NUMBER, 2) : len;
    unsigned c2 = len < n ? next_class(p + len, n - len, &len2) : 0;
    if (c != NEWLINE && (c2 & letter))
        return run_of(p, n, len, letter, SIZE_MAX);
    if ((c & symbol) || (*p == ' ' && (c2 & symbol))) { /* ?[^\s\p{L}\p{N}]+[\r\n]* */
        size_t at = run_of(p, n, len, symbol, SIZE_MAX);
        return run_of(p, n, at, NEWLINE, SIZE_MAX);
    }
    return match_space(p, n, true);
}

static size_t match_gpt2(const char *p, size_t n)
{
    size_t len, len2, k = contraction(p, n, false);
    if (k > 0)
        return k;
    unsigned c = next_class(p, n, &len);
    if (*p == ' ' && n > 1) { /* " ?" before a letter, a number or a symbol */
        unsigned c2 = next_class(p + 1, n - 1, &len2);
        if (!(c2 & (SPACE | NEWLINE)))
            c = c2;
    }
    if (c & (SPACE | NEWLINE))
        return match_space(p, n, false);
    unsigned set = c & (LETTER | NUMBER) ? c : MARK | OTHER;
    return run_of(p, n, len, set, SIZE_MAX);
}

bool qn_pretok_next(qn_pretok_iter *it, qn_slice *piece)
{
    if (it->at == it->n)
        return false;
    if (it->at == it->end) {
        it->end = it->n;
        if (it->rule->digits_apart) {
            it->end = run_of(it->p, it->n, it->at, ~(unsigned)NUMBER, SIZE_MAX);
            if (it->end == it->at)
                it->end = run_of(it->p, it->n, it->at, NUMBER, 1);
        }
    }
    const char *p = it->p + it->at;
    size_t n = it->end - it->at;
    piece->p = p;
    piece->n =
        it->rule->split == QN_SPLIT_GPT2 ? match_gpt2(p, n) : match_qwen(p, n, it->rule->split);
    it->at += piece->n;
    return true;
}
