/* SPDX-License-Identifier: Apache-2.0
 * segment.c - borders of a text, and the pieces between them.
 *
 * Borders are found in one pass over the lines: what a line is (heading, item, blank, code) says how
 * strong the border before it is; inside, a machine over code points finds sentences and words. White
 * space belongs to what it follows. What follows a heading is bound to it.
 *
 * A piece is found by encoding somewhat more than fits, adding up the bytes of the tokens that fit,
 * and taking the strongest border before that. The sum is only a guess (normalisation changes bytes,
 * a cut changes the tokens beside it), so the piece is encoded alone; if it is too long after all, the
 * next border before it is tried. Nearly always the first one is right: each byte is encoded about
 * three times. */
#include "text/segment.h"

#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "text/pretok.h"

#define MAX_HEADING 120 /* bytes of a line that is a heading by its words */

const char *qn_border_name(qn_border b)
{
    static const char *const names[] = {"none", "code point", "character", "word",
                                        "line", "sentence",   "paragraph"};
    return b == QN_BORDER_EDGE ? "start" : b >= QN_BORDER_HEADING ? "heading" : names[b];
}

void qn_segments_fini(qn_segments *s)
{
    qn_free(s->p);
    *s = (qn_segments){0};
}

/* ---- lines ---- */

static bool among(char c, const char *set)
{
    return c && strchr(set, c);
}

static qn_slice trim(qn_slice s)
{
    while (s.n && among(s.p[0], " \t\r\n\f\v"))
        s = (qn_slice){s.p + 1, s.n - 1};
    while (s.n && among(s.p[s.n - 1], " \t\r\n\f\v"))
        s.n--;
    return s;
}

/* The line at text[at], without its end. */
static qn_slice line_at(const char *text, size_t n, size_t at)
{
    if (at >= n)
        return (qn_slice){text + n, 0};
    const char *end = memchr(text + at, '\n', n - at);
    return (qn_slice){text + at, (end ? (size_t)(end - text) : n) - at};
}

static size_t count_char(qn_slice s, char c)
{
    size_t i = 0;
    while (i < s.n && s.p[i] == c)
        i++;
    return i;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_high(char c)
{
    return (unsigned char)c >= 0x80;
}

/* Of a title: ===, or ---. */
static bool is_underline(qn_slice s)
{
    return s.n >= 3 && (s.p[0] == '=' || s.p[0] == '-') && count_char(s, s.p[0]) == s.n;
}

/* -, *, +, a bullet, 1., 12), (a) */
static bool is_item(qn_slice s)
{
    size_t i = 0;
    if (s.n >= 4 && memcmp(s.p, "\xe2\x80\xa2", 3) == 0)
        return true;
    if (s.n >= 2 && among(s.p[0], "-*+"))
        return s.p[1] == ' ';
    if (s.n >= 4 && s.p[0] == '(' && s.p[2] == ')')
        return s.p[3] == ' ';
    while (i < s.n && i < 4 && is_digit(s.p[i]))
        i++;
    return i > 0 && i + 1 < s.n && (s.p[i] == '.' || s.p[i] == ')') && s.p[i + 1] == ' ';
}

/* One of the code points of `set` at s.p: its bytes, or 0. */
static size_t one_of(qn_slice s, const char *set)
{
    uint32_t cp, x;
    size_t n = s.n ? qn_utf8_decode(s.p, s.n, &cp) : 0;
    for (size_t k; n && *set; set += k) {
        k = qn_utf8_decode(set, strlen(set), &x);
        if (x == cp)
            return n;
    }
    return 0;
}

static size_t skip_set(qn_slice s, const char *set)
{
    size_t i = 0;
    for (size_t k; (k = one_of((qn_slice){s.p + i, s.n - i}, set)) > 0;)
        i += k;
    return i;
}

#define NUMERALS        "０１２３４５６７８９零〇一二三四五六七八九十百千两"
#define DIGITS_NUMERALS "0123456789" NUMERALS

/* 第三章, 第 5 条; 一、; （二）. */
static int chinese_rank(qn_slice s)
{
    static const struct {
        const char *units;
        int rank;
    } rows[] = {{"编部篇卷", 1}, {"章", 2}, {"节", 3}, {"条", 4}};
    size_t i = one_of(s, "第"), k;
    if (i) {
        i += skip_set((qn_slice){s.p + i, s.n - i}, " ");
        if (!(k = skip_set((qn_slice){s.p + i, s.n - i}, DIGITS_NUMERALS)))
            return 0;
        i += k;
        i += skip_set((qn_slice){s.p + i, s.n - i}, " ");
        for (size_t r = 0; r < QN_COUNT(rows); r++)
            if (one_of((qn_slice){s.p + i, s.n - i}, rows[r].units))
                return rows[r].rank;
        return 0;
    }
    size_t open = one_of(s, "（(");
    if (!(k = skip_set((qn_slice){s.p + open, s.n - open}, NUMERALS)))
        return 0;
    i = open + k;
    return one_of((qn_slice){s.p + i, s.n - i}, open ? "）)" : "、") ? 3 + (open > 0) : 0;
}

/* Chapter 3, APPENDIX B, Section IV; 2.1 Methods. */
static int numbered_rank(qn_slice s)
{
    static const struct {
        const char *word;
        int rank;
    } rows[] = {{"part", 1},     {"book", 1},    {"chapter", 2}, {"appendix", 2}, {"annex", 2},
                {"schedule", 2}, {"section", 3}, {"article", 3}, {"clause", 3},   {"\xc2\xa7", 3}};
    for (size_t r = 0; r < QN_COUNT(rows); r++) {
        size_t n = strlen(rows[r].word);
        if (s.n < n + 2 || strncasecmp(s.p, rows[r].word, n) != 0 || s.p[n] != ' ')
            continue;
        size_t k = 0; /* a number of some kind, not a word */
        while (n + 1 + k < s.n && (is_digit(s.p[n + 1 + k]) || among(s.p[n + 1 + k], "IVXLC")))
            k++;
        if (k == 0 && s.p[n + 1] >= 'A' && s.p[n + 1] <= 'Z')
            k = 1;
        if (k && (n + 1 + k == s.n || among(s.p[n + 1 + k], " .:-") || is_high(s.p[n + 1 + k])))
            return rows[r].rank;
    }
    size_t i = 0;
    int depth = 0;
    while (i < s.n && is_digit(s.p[i]) && depth < 5) {
        while (i < s.n && is_digit(s.p[i]))
            i++;
        depth++;
        if (i < s.n && s.p[i] == '.')
            i++;
    }
    bool is_title = depth && i + 1 < s.n && s.p[i] == ' ' &&
                    ((s.p[i + 1] >= 'A' && s.p[i + 1] <= 'Z') || is_high(s.p[i + 1]));
    return is_title ? 1 + depth : 0;
}

/* Ends like a sentence, or like the beginning of a list. */
static bool ends_open(qn_slice s)
{
    static const char *const ends[] = {".", ",", ";", ":", "。", "，", "；", "："};
    for (size_t i = 0; i < QN_COUNT(ends); i++) {
        size_t n = strlen(ends[i]);
        if (s.n >= n && memcmp(s.p + s.n - n, ends[i], n) == 0)
            return true;
    }
    return false;
}

/* 1 (highest) to 6; 0: no heading. Its own words make it one only if it stands alone. */
static int heading_rank(qn_slice line, qn_slice next, bool after_blank)
{
    qn_slice s = trim(line), below = trim(next);
    size_t n = count_char(s, '#');
    int rank;
    if (n > 0)
        return n <= 6 && n < s.n && s.p[n] == ' ' ? (int)n : 0;
    if (s.n == 0 || s.n > MAX_HEADING || ends_open(s))
        return 0;
    if (after_blank && !is_underline(s) && is_underline(below))
        return below.p[0] == '=' ? 1 : 2;
    if ((rank = chinese_rank(s)) != 0)
        return rank;
    return after_blank && below.n == 0 ? numbered_rank(s) : 0;
}

/* ---- sentences and words ---- */

/* What was read last: nothing that ends; a clause; a sentence for sure; a full stop, if white space
 * follows; one that it followed. */
typedef enum reading { GOING, CLAUSE, ENDED, STOPPED, PAUSED } reading;

typedef struct scanner {
    uint8_t *levels;
    const char *text;
    size_t n;
    reading reading;
    int n_word;        /* letters and digits since something else: 0, 1, 2 for more */
    bool is_number;    /* they are digits, and the line's first */
    bool is_spaced;    /* white space was read last */
    int32_t last, gap; /* the code point read last; utf8proc's state of graphemes */
} scanner;

static size_t decode(const scanner *s, size_t at, uint32_t *cp)
{
    *cp = 0;
    return QN_MAX(qn_utf8_decode(s->text + at, s->n - at, cp), (size_t)1);
}

static bool is_in(uint32_t cp, const uint32_t *set, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (set[i] == cp)
            return true;
    return false;
}
#define IN(cp, ...)                                                                                \
    is_in(cp, (const uint32_t[]){__VA_ARGS__}, QN_COUNT(((uint32_t[]){__VA_ARGS__})))

static bool is_closer(uint32_t cp)
{
    return IN(cp, '"', '\'', ')', ']', '}', '*', '_', 0x2019, 0x201D, 0x300D, 0x300F, 0xFF09,
              0x3011, 0x300B, 0x3009);
}

static bool ends_sentence(uint32_t cp) /* 。！？；．｡ */
{
    return IN(cp, 0x3002, 0xFF01, 0xFF1F, 0xFF1B, 0xFF0E, 0xFF61);
}

static bool stops(uint32_t cp) /* and danda, Arabic question mark, ellipsis */
{
    return IN(cp, '.', '!', '?', 0x0964, 0x061F, 0x2026);
}

static reading read_on(const scanner *s, uint32_t cp)
{
    if (is_closer(cp) && s->reading != PAUSED)
        return s->reading;
    if (qn_is_space(cp))
        return s->reading == STOPPED ? PAUSED : s->reading;
    if (ends_sentence(cp) || (s->reading == ENDED && stops(cp)))
        return ENDED;
    if (stops(cp)) /* not after an initial or a number of a list */
        return cp == '.' && (s->n_word == 1 || s->is_number) ? GOING : STOPPED;
    return IN(cp, 0xFF0C, 0x3001, 0xFF1A) ? CLAUSE : GOING; /* ，、： */
}

/* Before cp, by what was read. */
static qn_border border_before(const scanner *s, uint32_t cp)
{
    bool is_end = ends_sentence(cp) || stops(cp) || (is_closer(cp) && s->reading != PAUSED);
    if (qn_is_space(cp) || is_end)
        return QN_BORDER_CHARACTER;
    bool is_lower = utf8proc_category((int32_t)cp) == UTF8PROC_CATEGORY_LL;
    if (s->reading == ENDED || (s->reading == PAUSED && !is_lower))
        return QN_BORDER_SENTENCE;
    return s->is_spaced || s->reading == CLAUSE ? QN_BORDER_WORD : QN_BORDER_CHARACTER;
}

/* [at, end): a line with its end. level: of the border before it; QN_BORDER_CHARACTER: as weak as that
 * whatever its words are. */
static void scan_line(scanner *s, size_t at, size_t end, qn_border level)
{
    /* its first word: the border is before the white space in front of that */
    size_t first = at, k;
    uint32_t cp = 0;
    while (first < end && (k = decode(s, first, &cp)) > 0 && qn_is_space(cp))
        first += k;
    if (first < end && level > QN_BORDER_CHARACTER)
        level = QN_MAX(level, border_before(s, cp));
    bool begins_number = true;
    s->n_word = 0;
    s->is_number = false;
    for (size_t i = at; i < end; i += k) {
        k = decode(s, i, &cp);
        bool parts = i == 0 || utf8proc_grapheme_break_stateful(s->last, (int32_t)cp, &s->gap);
        qn_border b = i == at ? level : i <= first ? QN_BORDER_CHARACTER : border_before(s, cp);
        s->levels[i] = (uint8_t)(parts ? b : QN_BORDER_POINT);
        s->reading = read_on(s, cp);
        bool is_word = qn_is_word_char(cp), is_space = qn_is_space(cp);
        begins_number &= is_word ? cp >= '0' && cp <= '9' : is_space;
        s->is_number = begins_number && is_word;
        s->n_word = is_word ? QN_MIN(s->n_word + 1, 2) : 0;
        s->is_spaced = is_space;
        s->last = (int32_t)cp;
    }
}

void qn_borders_find(uint8_t *levels, const char *text, size_t n)
{
    scanner s = {.levels = levels, .text = text, .n = n};
    bool after_blank = true, after_heading = false, is_code = false, is_title = false;
    memset(levels, QN_BORDER_NONE, n);
    for (size_t at = 0, end; at < n; at = end) {
        qn_slice line = line_at(text, n, at), bare = trim(line);
        end = QN_MIN(at + line.n + 1, n);
        if (bare.n == 0) {
            scan_line(&s, at, end, QN_BORDER_CHARACTER);
            after_blank = true;
            continue;
        }
        bool is_fence = count_char(bare, '`') >= 3 || count_char(bare, '~') >= 3;
        qn_slice next = line_at(text, n, end);
        int rank = is_code || is_fence || is_title ? 0 : heading_rank(line, next, after_blank);
        qn_border level = rank            ? (qn_border)(QN_BORDER_HEADING_TOP - (rank - 1))
                          : after_blank   ? QN_BORDER_PARAGRAPH
                          : is_item(bare) ? QN_BORDER_SENTENCE
                                          : QN_BORDER_LINE;
        if (after_heading)
            level = QN_MIN(level, QN_BORDER_LINE);
        scan_line(&s, at, end, is_title ? QN_BORDER_CHARACTER : level);
        after_heading = rank || is_title;
        if (after_heading)
            s.reading = GOING; /* what follows it is bound to it, however it ends */
        is_title = rank && is_underline(trim(next)); /* the next line is */
        is_code ^= is_fence;
        after_blank = false;
    }
    levels[0] = levels[n] = QN_BORDER_EDGE;
}

/* ---- pieces ---- */

typedef struct cutter {
    const qn_tokenizer *t;
    const char *text;
    size_t n;
    uint8_t *levels; /* [n + 1] */
    size_t max_tokens, overlap;
    qn_ids ids;   /* of what was counted last */
    size_t ratio; /* bytes that a token has here, or more */
} cutter;

static qn_status count(cutter *c, size_t begin, size_t end, qn_err *err)
{
    c->ids.n = 0;
    return qn_tokenizer_encode(c->t, c->text + begin, end - begin, QN_SPECIAL_NONE, &c->ids, err);
}

static size_t sum_bytes(const cutter *c, size_t first, size_t n)
{
    size_t sum = 0;
    for (size_t i = first; i < first + n; i++)
        sum += qn_tokenizer_bytes(c->t, c->ids.p[i]).n;
    return sum;
}

/* The first border of `level` or more in [at, end); end: none. */
static size_t next_border(const cutter *c, size_t at, size_t end, qn_border level)
{
    while (at < end && c->levels[at] < level)
        at++;
    return at;
}

/* The last one of the strongest in (low, high]; low: none. */
static size_t strongest(const cutter *c, size_t low, size_t high)
{
    size_t best = low;
    uint8_t most = QN_BORDER_NONE;
    for (size_t i = high; i > low; i--)
        if (c->levels[i] > most) {
            most = c->levels[i];
            best = i;
        }
    return best;
}

/* About where max_tokens from `begin` on end. */
static qn_status reach(cutter *c, size_t begin, size_t *end, qn_err *err)
{
    size_t want = QN_MAX(c->ratio * (c->max_tokens + 1), (size_t)64);
    for (;; want *= 2) {
        size_t to = begin + QN_MIN(want, c->n - begin);
        while (c->levels[to] == QN_BORDER_NONE)
            to--;
        QN_TRY(count(c, begin, to, err));
        bool is_over = c->ids.n > c->max_tokens;
        if (is_over || to == c->n) {
            *end = is_over ? QN_MIN(begin + sum_bytes(c, 0, c->max_tokens), to) : to;
            return QN_OK;
        }
    }
}

/* The end of a piece, with ids counted; fresh: not one code point fits. */
static qn_status find_end(cutter *c, size_t begin, size_t fresh, size_t *end, qn_err *err)
{
    size_t high, first = next_border(c, fresh + 1, c->n, QN_BORDER_POINT);
    QN_TRY(reach(c, begin, &high, err));
    for (high = QN_MAX(high, first);;) {
        size_t low = fresh + (high - fresh) / 4, at = strongest(c, low, high);
        if (at == low)
            at = strongest(c, fresh, high);
        QN_TRY(count(c, begin, at, err));
        if (c->ids.n <= c->max_tokens || at == first) {
            *end = c->ids.n <= c->max_tokens ? at : fresh;
            return QN_OK;
        }
        size_t fits =
            begin + (size_t)((double)(at - begin) * (double)c->max_tokens / (double)c->ids.n);
        high = QN_MAX(QN_MIN(at - 1, fits), first);
    }
}

/* Where the piece begins whose new text begins at `fresh`: at a word if that is near. */
static qn_status find_begin(cutter *c, size_t fresh, size_t *begin, size_t *n_overlap, qn_err *err)
{
    size_t start = fresh;
    *begin = fresh;
    *n_overlap = 0;
    for (size_t want = c->ratio * (c->overlap + 1); c->overlap && start; want *= 2) {
        start = fresh - QN_MIN(want, fresh);
        while (c->levels[start] == QN_BORDER_NONE)
            start--;
        QN_TRY(count(c, start, fresh, err));
        if (c->ids.n > c->overlap) {
            size_t kept = sum_bytes(c, c->ids.n - c->overlap, c->overlap);
            start = fresh - QN_MIN(kept, fresh - start);
            break;
        }
    }
    size_t middle = start + (fresh - start) / 2,
           word = next_border(c, start, middle, QN_BORDER_WORD);
    for (size_t at = word < middle ? word : start; at < fresh; at++) {
        at = next_border(c, at, fresh, QN_BORDER_CHARACTER);
        QN_TRY(count(c, at, fresh, err));
        if (c->ids.n <= c->overlap) {
            *begin = at;
            *n_overlap = c->ids.n;
            break;
        }
    }
    return QN_OK;
}

static size_t count_lines(const char *p, size_t n)
{
    size_t lines = 0;
    for (const char *nl; n && (nl = memchr(p, '\n', n)); lines++) {
        n -= (size_t)(nl + 1 - p);
        p = nl + 1;
    }
    return lines;
}

static qn_status cut(qn_segments *out, cutter *c, qn_err *err)
{
    for (size_t fresh = 0, end, line = 1; fresh < c->n; fresh = end) {
        qn_segment s = {.fresh = fresh, .border = (qn_border)c->levels[fresh]};
        QN_TRY(find_begin(c, fresh, &s.begin, &s.n_overlap, err));
        QN_TRY(find_end(c, s.begin, fresh, &end, err));
        if (end == fresh && s.begin < fresh) {
            s.begin = fresh;
            s.n_overlap = 0;
            QN_TRY(find_end(c, fresh, fresh, &end, err));
        }
        if (end == fresh)
            return qn_fail(err, QN_E_TOO_LONG,
                           "the character at byte %zu: found %zu tokens, wanted at most the %zu of "
                           "a piece",
                           fresh, c->ids.n, c->max_tokens);
        s.end = end;
        s.n_tokens = c->ids.n;
        s.first_line = line - count_lines(c->text + s.begin, fresh - s.begin);
        line += count_lines(c->text + fresh, end - fresh);
        s.last_line = line - (c->text[end - 1] == '\n');
        c->ratio = QN_MIN((end - s.begin) / QN_MAX(s.n_tokens, (size_t)1) + 1, (size_t)64);
        if (!qn_grow(&out->p, &out->cap, out->n + 1, sizeof *out->p, QN_MEM_MISC))
            return qn_fail_nomem(err, out->n * sizeof *out->p);
        out->p[out->n++] = s;
    }
    return QN_OK;
}

static size_t valid_prefix(qn_slice s)
{
    uint32_t cp;
    size_t i = 0;
    for (size_t k; i < s.n && (k = qn_utf8_decode(s.p + i, s.n - i, &cp)) > 0;)
        i += k;
    return i;
}

qn_status qn_segments_cut(qn_segments *out, const qn_tokenizer *t, qn_slice text, size_t max_tokens,
                          size_t overlap, qn_err *err)
{
    cutter c = {.t = t,
                .text = text.p,
                .n = text.n,
                .max_tokens = max_tokens,
                .overlap = overlap,
                .ratio = 4};
    *out = (qn_segments){0};
    if (text.n == 0)
        return QN_OK;
    size_t whole = valid_prefix(text);
    if (whole < text.n)
        return qn_fail(err, QN_E_FORMAT, "found a byte %d at %zu, wanted UTF-8",
                       (unsigned char)text.p[whole], whole);
    if (!(c.levels = qn_alloc(text.n + 1, QN_MEM_MISC)))
        return qn_fail_nomem(err, text.n + 1);
    qn_borders_find(c.levels, text.p, text.n);
    qn_status s = cut(out, &c, err);
    qn_ids_fini(&c.ids);
    qn_free(c.levels);
    if (s != QN_OK)
        qn_segments_fini(out);
    return s;
}
