/* SPDX-License-Identifier: Apache-2.0
 * reply.c - one byte after the other through the states of reply.h.
 *
 * A byte that ends a guess (a tag that is none) is looked at again in the state that the guess was made in; the bytes of the guess
 * are told as what they would have been without it. Tags have one '<' each, at their beginning, so that of a failed guess at most
 * its last tag can begin another one: where that may be one of others, it is gone through again (at most AGAIN bytes). */
#include "server/reply.h"

#include <string.h>

#define BLANKS 64 /* as many may stand where none has a meaning; more are text */
#define AGAIN  (BLANKS + 16)

static const char tags[][16] = {"<tool_call>", "</tool_call>", "<function=", "</think>",
                                "<parameter=", "</function>",  "<think>",    "</parameter>",
                                "```json\n",   "```"};
enum {
    TAG_CALL = 1,
    TAG_CALL_END = 2,
    TAG_FUNCTION = 4,
    TAG_THINK_END = 8,
    TAG_PARAMETER = 16,
    TAG_FUNCTION_END = 32,
    TAG_THINK = 64,
    TAG_PARAMETER_END = 128,
    TAG_FENCE = 256,
    TAG_FENCE_END = 512
};

/* How a call usually begins: the object up to its name, then up to its arguments. A blank: any number of them. */
static const char *const usual[] = {" \"name\" : \"", " , \"arguments\" : {"};
enum { PATTERN_FIRST, PATTERN_NAME, PATTERN_SECOND, PATTERN_OTHER };

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool all_blank(const qn_str *s)
{
    size_t n = 0;
    while (n < s->n && is_blank(s->p[n]))
        n++;
    return n == s->n;
}

void qn_reply_init(qn_reply *r, const qn_reply_style *style)
{
    *r = (qn_reply){.style = *style};
    r->state = style->begin == QN_REPLY_THINKS      ? QN_REPLY_AT_THINK_LEAD
               : style->begin == QN_REPLY_MAY_THINK ? QN_REPLY_AT_LEAD
                                                    : QN_REPLY_AT_TEXT;
    r->may_recall = style->begin == QN_REPLY_MAY_THINK && !style->is_enforced;
}

void qn_reply_fini(qn_reply *r)
{
    qn_str_fini(&r->held);
    qn_str_fini(&r->out);
    qn_str_fini(&r->value);
    *r = (qn_reply){0};
}

bool qn_reply_is_thinking(const qn_reply *r)
{
    return r->state == QN_REPLY_AT_THINK_LEAD || r->state == QN_REPLY_AT_THINK;
}

bool qn_reply_has_failed(const qn_reply *r)
{
    return r->held.failed || r->out.failed || r->value.failed;
}

/* ---- telling ---- */

static void tell(qn_reply *r)
{
    if (r->out.n && r->fn)
        r->fn(r->arg, r->out_kind, r->out.p, r->out.n);
    qn_str_clear(&r->out);
}

static void say(qn_reply *r, qn_reply_kind kind, const char *p, size_t n)
{
    if (kind != r->out_kind)
        tell(r);
    r->out_kind = kind;
    qn_str_add(&r->out, p, n);
}

static void mark(qn_reply *r, qn_reply_kind kind, const char *p, size_t n)
{
    tell(r);
    if (r->fn)
        r->fn(r->arg, kind, p, n);
}

static void hold(qn_reply *r, char c)
{
    qn_str_addc(&r->held, c);
}

/* What was held is of this kind. */
static void say_held(qn_reply *r, qn_reply_kind kind)
{
    say(r, kind, r->held.p, r->held.n);
    qn_str_clear(&r->held);
    r->at = 0;
}

static void go(qn_reply *r, qn_reply_state state)
{
    r->state = state;
    r->at = 0;
}

/* ---- tags ---- */

/* c goes on with a tag of r->tags whose first r->at bytes were held. The tag, once it is whole; 0: not yet; -1: it is none. */
static int match(qn_reply *r, char c)
{
    for (unsigned k = 0; k < QN_COUNT(tags); k++)
        if ((r->tags & 1u << k) && tags[k][r->at] != c)
            r->tags &= ~(1u << k);
    if (!r->tags)
        return -1;
    hold(r, c);
    r->at++;
    for (unsigned k = 0; k < QN_COUNT(tags); k++)
        if ((r->tags & 1u << k) && !tags[k][r->at])
            return (int)(1u << k);
    return 0;
}

static bool begin_tag(qn_reply *r, char c, unsigned mask)
{
    r->tags = mask;
    return mask && match(r, c) == 0;
}

/* ---- text ---- */

/* Follows lines and the fences of code in them: ``` or more at a line's beginning, ended by as many alone in theirs. */
static void note(qn_reply *r, char c)
{
    bool is_tick = (c == '`' || c == '~') && !r->in_line;
    if (is_tick && (c == r->fence || (!r->n_run && !r->n_fence))) {
        r->fence = c;
        r->n_run++;
        return;
    }
    if (is_blank(c) && c != '\n')
        return;
    if (!r->n_fence && r->n_run >= 3)
        r->n_fence = r->n_run;
    else if (r->n_fence && r->n_run >= r->n_fence && c == '\n')
        r->n_fence = 0;
    r->in_line = c != '\n';
    r->n_run = 0;
}

static void note_text(qn_reply *r, char c)
{
    if (!r->has_text && !is_blank(c)) {
        r->has_text = true;
        r->may_recall &= c != '{' && c != '['; /* a document's strings may hold anything */
    }
}

static void say_text(qn_reply *r)
{
    for (size_t i = 0; i < r->held.n; i++) {
        note(r, r->held.p[i]);
        note_text(r, r->held.p[i]);
    }
    say_held(r, QN_REPLY_CONTENT);
}

/* Other text follows what is held: blanks behind a call part it from the text before that, if there was any. */
static void go_on(qn_reply *r)
{
    size_t n = 0;
    while (r->is_after && !r->has_text && n < r->held.n && is_blank(r->held.p[n]))
        n++;
    if (n) {
        memmove(r->held.p, r->held.p + n, r->held.n - n);
        r->held.n -= n;
    }
    r->is_after = false;
    say_text(r);
}

static unsigned text_tags(const qn_reply *r)
{
    bool in_code = r->n_fence && !r->style.is_enforced;
    unsigned mask = r->may_recall && !in_code && !r->in_line ? TAG_THINK_END : 0;
    if (!r->style.has_calls)
        return mask;
    if (!in_code)
        mask |= (unsigned)TAG_CALL | (r->style.is_bare ? TAG_FUNCTION : 0);
    if (r->style.knows && !r->has_text)
        mask |= r->is_fenced ? TAG_FENCE_END : TAG_FENCE;
    return mask | (r->is_after ? TAG_CALL_END : 0);
}

static void begin_call(qn_reply *r, qn_reply_state state)
{
    r->n_name = r->n_parameters = r->depth = 0;
    r->pattern = r->pattern_at = 0;
    r->in_string = r->is_escaped = r->is_told = r->is_naked = r->may_recall = false;
    go(r, state);
}

static void act_in_text(qn_reply *r, int tag)
{
    if (tag == TAG_CALL) {
        begin_call(r, QN_REPLY_AT_HEAD);
    } else if (tag == TAG_FUNCTION) {
        begin_call(r, QN_REPLY_AT_FUNCTION);
    } else if (tag == TAG_FENCE) {
        begin_call(r, QN_REPLY_AT_HEAD);
        r->is_naked = r->is_fenced = true;
    } else if (tag == TAG_CALL_END || tag == TAG_FENCE_END) {
        qn_str_clear(&r->held);
        r->at = 0;
        r->is_fenced = false;
    } else {
        qn_str_clear(&r->held);
        mark(r, QN_REPLY_RECALL, "", 0);
        r->has_text = r->may_recall = false;
        go(r, QN_REPLY_AT_TEXT_LEAD);
    }
}

static bool step_text(qn_reply *r, char c)
{
    if (r->at) {
        int tag = match(r, c);
        if (tag < 0) {
            go_on(r);
            return false;
        }
        if (tag)
            act_in_text(r, tag);
        return true;
    }
    if (begin_tag(r, c, text_tags(r)))
        return true;
    if (is_blank(c) && r->style.has_calls && r->held.n < BLANKS) {
        note(r, c);
        hold(r, c);
        return true;
    }
    if (c == '}' && r->is_after) { /* one too many */
        qn_str_clear(&r->held);
        return true;
    }
    if (c == '{' && !r->has_text && r->style.knows) {
        begin_call(r, QN_REPLY_AT_HEAD);
        r->is_naked = true;
        r->depth = 1;
        hold(r, c);
        return true;
    }
    hold(r, c);
    go_on(r);
    return true;
}

/* A call that was none: text, whose end may begin another one. */
static void not_a_call(qn_reply *r)
{
    char again[sizeof tags[0]];
    size_t n = r->at;
    r->held.n -= n;
    if (n)
        memcpy(again, r->held.p + r->held.n, n);
    go_on(r);
    go(r, QN_REPLY_AT_TEXT);
    for (size_t i = 0; i < n; i++)
        while (!step_text(r, again[i]))
            ;
}

/* ---- thoughts ---- */

static bool step_lead(qn_reply *r, char c)
{
    char again[BLANKS + 8];
    int tag = -1;
    if (r->at)
        tag = match(r, c);
    else if (is_blank(c) && r->held.n < BLANKS) {
        hold(r, c);
        return true;
    } else if (begin_tag(r, c, TAG_THINK))
        return true;
    if (tag == 0)
        return true;
    if (tag > 0) {
        qn_str_clear(&r->held);
        r->may_recall = false;
        go(r, QN_REPLY_AT_THINK_LEAD);
        return true;
    }
    size_t n = QN_MIN(r->held.n, sizeof again);
    if (n)
        memcpy(again, r->held.p, n);
    qn_str_clear(&r->held);
    go(r, QN_REPLY_AT_TEXT);
    for (size_t i = 0; i < n; i++)
        while (!step_text(r, again[i]))
            ;
    return false;
}

static bool step_think(qn_reply *r, char c)
{
    if (r->at) {
        int tag = match(r, c);
        if (tag < 0) {
            say_held(r, QN_REPLY_REASONING);
            return false;
        }
        if (tag) {
            qn_str_clear(&r->held);
            go(r, QN_REPLY_AT_TEXT_LEAD);
        }
        return true;
    }
    if (begin_tag(r, c, TAG_THINK_END))
        return true;
    hold(r, c);
    if (c != '\n' || r->held.n > BLANKS)
        say_held(r, QN_REPLY_REASONING);
    return true;
}

/* Line feeds beside a tag are the template's. */
static bool skip_lines(qn_reply *r, char c, qn_reply_state next)
{
    if (c != '\n')
        go(r, next);
    return c == '\n';
}

/* ---- calls in JSON ---- */

typedef enum scanned { SCAN_ON, SCAN_CLOSED, SCAN_BROKEN } scanned;

/* Brackets and strings only; a '<' outside of strings is in no JSON. */
static scanned scan(qn_reply *r, char c)
{
    if (r->in_string) {
        if (r->is_escaped)
            r->is_escaped = false;
        else if (c == '\\')
            r->is_escaped = true;
        else
            r->in_string = c != '"';
        return SCAN_ON;
    }
    if (c == '<')
        return SCAN_BROKEN;
    r->in_string = c == '"';
    if (c == '{' || c == '[')
        r->depth++;
    if ((c == '}' || c == ']') && --r->depth == 0)
        return SCAN_CLOSED;
    return SCAN_ON;
}

static void end_call(qn_reply *r)
{
    mark(r, QN_REPLY_CALL_END, "", 0);
    r->is_after = true;
}

/* An object's arguments, which may also be the text of one. NULL: they are none. */
static json_t *arguments_of(const json_t *o)
{
    static const char *const names[] = {"arguments", "parameters"};
    const json_t *v = NULL;
    json_t *parsed = NULL;
    for (size_t i = 0; i < QN_COUNT(names) && !v; i++)
        v = json_object_get(o, names[i]);
    if (!v || json_is_null(v))
        return json_object();
    if (json_is_string(v)) {
        if (qn_json_parse(&parsed, json_string_value(v), json_string_length(v),
                          QN_LIMIT_HTTP_JSON_DEPTH, "arguments", NULL) != QN_OK)
            return NULL;
        v = parsed;
    }
    if (json_is_object(v))
        return parsed ? parsed : json_incref((json_t *)v);
    json_decref(parsed);
    return NULL;
}

/* The whole object is held, behind the tag. */
static bool take_object(qn_reply *r)
{
    const char *p = memchr(r->held.p, '{', r->held.n);
    json_t *o = NULL, *arguments = NULL;
    qn_str text = {0};
    bool is_call = false;
    if (p && qn_json_parse(&o, p, r->held.n - (size_t)(p - r->held.p), QN_LIMIT_HTTP_JSON_DEPTH,
                           "call", NULL) == QN_OK) {
        const json_t *name = json_object_get(o, "name");
        size_t n = json_string_length(name);
        if (json_is_string(name) && n && n <= QN_LIMIT_REPLY_NAME)
            arguments = arguments_of(o);
        if (arguments) {
            qn_json_write(&text, arguments);
            is_call = !text.failed;
            r->out.failed |= text.failed;
        }
        if (is_call) {
            mark(r, QN_REPLY_CALL, json_string_value(name), n);
            say(r, QN_REPLY_ARGUMENTS, text.p, text.n);
            end_call(r);
        }
    }
    qn_str_fini(&text);
    json_decref(arguments);
    json_decref(o);
    return is_call;
}

/* Whether the object begins as usual; then it is a call from its arguments on. */
static void follow(qn_reply *r, char c)
{
    if (r->pattern == PATTERN_NAME) {
        qn_slice name = {r->name, r->n_name};
        bool is_known = !r->is_naked || r->style.knows(r->style.arg, name);
        if (c == '"' && r->n_name && is_known) {
            r->pattern = PATTERN_SECOND;
            r->pattern_at = 0;
        } else if (c == '"' || c == '\\' || r->n_name == sizeof r->name)
            r->pattern = PATTERN_OTHER;
        else
            r->name[r->n_name++] = c;
        return;
    }
    const char *want = usual[r->pattern == PATTERN_SECOND];
    if (want[r->pattern_at] == ' ' && is_blank(c))
        return;
    r->pattern_at += want[r->pattern_at] == ' ';
    if (want[r->pattern_at] != c) {
        r->pattern = PATTERN_OTHER;
    } else if (!want[++r->pattern_at]) {
        if (r->pattern == PATTERN_FIRST) {
            r->pattern = PATTERN_NAME;
            return;
        }
        mark(r, QN_REPLY_CALL, r->name, r->n_name);
        say(r, QN_REPLY_ARGUMENTS, "{", 1);
        r->is_told = true;
        qn_str_clear(&r->held);
        go(r, QN_REPLY_AT_ARGUMENTS);
    }
}

static bool step_object(qn_reply *r, char c)
{
    bool is_first = r->pattern == PATTERN_FIRST && !r->pattern_at && !is_blank(c);
    scanned s = is_first && c != '"' && c != '}' ? SCAN_BROKEN : scan(r, c);
    if (s == SCAN_BROKEN || r->held.n >= QN_LIMIT_REPLY_HELD) {
        not_a_call(r);
        return false;
    }
    hold(r, c);
    if (s == SCAN_CLOSED && !r->is_naked && take_object(r)) {
        qn_str_clear(&r->held);
        go(r, QN_REPLY_AT_TEXT);
    } else if (s == SCAN_CLOSED)
        not_a_call(r);
    else if (r->pattern != PATTERN_OTHER)
        follow(r, c);
    if (r->is_naked && r->pattern == PATTERN_OTHER && r->state == QN_REPLY_AT_HEAD)
        not_a_call(r);
    return true;
}

/* Behind <tool_call>: an object, or a function. */
static bool step_head(qn_reply *r, char c)
{
    if (r->depth)
        return step_object(r, c);
    if (r->at) {
        int tag = match(r, c);
        if (tag < 0)
            not_a_call(r);
        else if (tag)
            begin_call(r, QN_REPLY_AT_FUNCTION);
        return tag >= 0;
    }
    if (begin_tag(r, c, TAG_FUNCTION))
        return true;
    if (c != '{' && !(is_blank(c) && r->held.n < (size_t)2 * BLANKS)) {
        not_a_call(r);
        return false;
    }
    if (c == '{')
        (void)scan(r, c);
    hold(r, c);
    return true;
}

static bool step_arguments(qn_reply *r, char c)
{
    if (scan(r, c) == SCAN_BROKEN) {
        r->is_after = true;
        go(r, QN_REPLY_AT_TEXT);
        return false;
    }
    say(r, QN_REPLY_ARGUMENTS, &c, 1);
    if (r->depth == 1) {
        end_call(r);
        go(r, QN_REPLY_AT_TAIL);
    }
    return true;
}

static bool step_tail(qn_reply *r, char c)
{
    scanned s = scan(r, c);
    if (s != SCAN_ON)
        go(r, QN_REPLY_AT_TEXT);
    return s != SCAN_BROKEN;
}

/* ---- calls in XML ---- */

static bool step_function(qn_reply *r, char c)
{
    if (c == '<' || c == '\n' || (c == '>' && !r->n_name) ||
        (c != '>' && r->n_name == sizeof r->name)) {
        not_a_call(r);
        return false;
    }
    hold(r, c);
    if (c == '>')
        go(r, QN_REPLY_AT_BODY);
    else
        r->name[r->n_name++] = c;
    return true;
}

enum { BODY_TAGS = TAG_PARAMETER | TAG_FUNCTION_END | TAG_CALL_END };

static void tell_call(qn_reply *r)
{
    if (!r->is_told)
        mark(r, QN_REPLY_CALL, r->name, r->n_name);
    r->is_told = true;
    qn_str_clear(&r->held);
}

static void act_in_body(qn_reply *r, int tag)
{
    tell_call(r);
    if (tag == TAG_PARAMETER) {
        r->n_key = 0;
        go(r, QN_REPLY_AT_KEY);
        return;
    }
    if (r->n_parameters)
        say(r, QN_REPLY_ARGUMENTS, "}", 1);
    else
        say(r, QN_REPLY_ARGUMENTS, "{}", 2);
    end_call(r);
    go(r, QN_REPLY_AT_TEXT);
}

/* Between parameters. Until the first one it may be no call yet; after it, what is no tag is left out. */
static bool step_body(qn_reply *r, char c)
{
    bool is_open = r->at > 0;
    int tag = is_open ? match(r, c) : begin_tag(r, c, BODY_TAGS) ? 0 : -1;
    if (tag > 0)
        act_in_body(r, tag);
    if (tag >= 0)
        return true;
    if (!is_open && is_blank(c) && (r->is_told || r->held.n < QN_LIMIT_REPLY_NAME + 4 * BLANKS)) {
        if (!r->is_told)
            hold(r, c);
        return true;
    }
    if (!r->is_told) {
        not_a_call(r);
        return false;
    }
    qn_str_clear(&r->held);
    r->at = 0;
    return !is_open;
}

static bool step_key(qn_reply *r, char c)
{
    if (c == '<' || c == '\n' || (c == '>' && !r->n_key) ||
        (c != '>' && r->n_key == sizeof r->key)) {
        go(r, QN_REPLY_AT_BODY);
        return false;
    }
    if (c != '>') {
        r->key[r->n_key++] = c;
        return true;
    }
    qn_slice tool = {r->name, r->n_name}, key = {r->key, r->n_key};
    r->types = r->style.types ? r->style.types(r->style.arg, tool, key) : 0;
    r->is_text = !(r->types & ~(unsigned)QN_REPLY_STRING);
    const char *before = r->n_parameters++ ? ", " : "{";
    say(r, QN_REPLY_ARGUMENTS, before, strlen(before));
    qn_str_add_json(&r->out, r->key, r->n_key);
    qn_str_adds(&r->out, r->is_text ? ": \"" : ": ");
    qn_str_clear(&r->value);
    go(r, QN_REPLY_AT_VALUE_LEAD);
    return true;
}

/* What of a string can be written: whole characters, or (is_end) all. */
static void say_string(qn_reply *r, bool is_end)
{
    size_t n = is_end ? r->value.n : qn_utf8_whole(r->value.p, r->value.n);
    if (!n)
        return;
    qn_str quoted = {0};
    qn_str_add_json(&quoted, r->value.p, n);
    if (quoted.failed)
        r->out.failed = true;
    else
        say(r, QN_REPLY_ARGUMENTS, quoted.p + 1, quoted.n - 2);
    qn_str_fini(&quoted);
    memmove(r->value.p, r->value.p + n, r->value.n - n);
    r->value.n -= n;
}

static void add_value(qn_reply *r, const char *p, size_t n)
{
    qn_str_add(&r->value, p, n);
    if (!r->is_text && r->value.n > QN_LIMIT_REPLY_HELD) {
        r->is_text = true;
        say(r, QN_REPLY_ARGUMENTS, "\"", 1);
    }
    if (r->is_text && !r->value.failed)
        say_string(r, false);
}

unsigned qn_reply_type_of(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return QN_REPLY_OBJECT;
    case JSON_ARRAY:
        return QN_REPLY_ARRAY;
    case JSON_STRING:
        return QN_REPLY_STRING;
    case JSON_INTEGER:
        return QN_REPLY_INTEGER | QN_REPLY_NUMBER;
    case JSON_REAL:
        return QN_REPLY_NUMBER;
    case JSON_NULL:
        return QN_REPLY_NULL;
    default:
        return QN_REPLY_BOOL;
    }
}

qn_slice qn_reply_read(qn_slice text, unsigned types)
{
    static const char *const words[][2] = {{"True", "true"}, {"False", "false"}, {"None", "null"}};
    json_t *v = NULL;
    for (; text.n && is_blank(*text.p); text.n--)
        text.p++;
    while (text.n && is_blank(text.p[text.n - 1]))
        text.n--;
    for (size_t i = 0; i < QN_COUNT(words); i++)
        if (qn_slice_is(text, words[i][0]))
            text = qn_slice_of(words[i][1]);
    if (qn_json_parse(&v, text.p, text.n, QN_LIMIT_HTTP_JSON_DEPTH, "value", NULL) != QN_OK)
        return (qn_slice){0};
    bool fits = (qn_reply_type_of(v) & types) && !json_is_string(v);
    json_decref(v);
    return fits ? text : (qn_slice){0};
}

static void end_value(qn_reply *r)
{
    if (r->is_text) {
        say_string(r, true);
        say(r, QN_REPLY_ARGUMENTS, "\"", 1);
        return;
    }
    qn_slice text = {r->value.p ? r->value.p : "", r->value.n},
             json = qn_reply_read(text, r->types);
    if (json.p) {
        say(r, QN_REPLY_ARGUMENTS, json.p, json.n);
    } else {
        say(r, QN_REPLY_ARGUMENTS, "", 0);
        qn_str_add_json(&r->out, text.p, text.n);
    }
}

/* A line feed may be the one before the closing tag. */
static bool step_value(qn_reply *r, char c)
{
    int tag = -1;
    if (r->at)
        tag = match(r, c);
    if (tag >= 0) {
        if (tag)
            go(r, QN_REPLY_AT_VALUE_END);
        return true;
    }
    if (r->at || (r->held.n && c != '<')) { /* not the end: c is looked at again */
        add_value(r, r->held.p, r->held.n);
        qn_str_clear(&r->held);
        r->at = 0;
        return false;
    }
    if (begin_tag(r, c, TAG_PARAMETER_END))
        return true;
    if (c == '\n')
        hold(r, c);
    else
        add_value(r, &c, 1);
    return true;
}

/* A closing tag is one if a tag of the call comes next; values hold such tags too. */
static bool step_value_end(qn_reply *r, char c)
{
    const size_t n_tag = sizeof "</parameter>" - 1;
    int tag = -1;
    if (r->at)
        tag = match(r, c);
    else if (begin_tag(r, c, BODY_TAGS))
        return true;
    else if (is_blank(c) && r->held.n < BLANKS) {
        hold(r, c);
        return true;
    }
    if (tag == 0)
        return true;
    if (tag > 0) {
        end_value(r);
        act_in_body(r, tag);
        return true;
    }
    char again[AGAIN];
    size_t first = n_tag + (r->held.p[0] == '\n'), n = QN_MIN(r->held.n - first, sizeof again);
    memcpy(again, r->held.p + first, n);
    add_value(r, r->held.p, first);
    qn_str_clear(&r->held);
    go(r, QN_REPLY_AT_VALUE);
    for (size_t i = 0; i < n; i++)
        while (!step_value(r, again[i]))
            ;
    return false;
}

/* ---- all of them ---- */

/* False: the byte is to be looked at again. */
static bool step(qn_reply *r, char c)
{
    switch (r->state) {
    case QN_REPLY_AT_LEAD:
        return step_lead(r, c);
    case QN_REPLY_AT_THINK_LEAD:
        return skip_lines(r, c, QN_REPLY_AT_THINK);
    case QN_REPLY_AT_THINK:
        return step_think(r, c);
    case QN_REPLY_AT_TEXT_LEAD:
        return skip_lines(r, c, QN_REPLY_AT_TEXT);
    case QN_REPLY_AT_TEXT:
        return step_text(r, c);
    case QN_REPLY_AT_HEAD:
        return step_head(r, c);
    case QN_REPLY_AT_ARGUMENTS:
        return step_arguments(r, c);
    case QN_REPLY_AT_TAIL:
        return step_tail(r, c);
    case QN_REPLY_AT_FUNCTION:
        return step_function(r, c);
    case QN_REPLY_AT_BODY:
        return step_body(r, c);
    case QN_REPLY_AT_KEY:
        return step_key(r, c);
    case QN_REPLY_AT_VALUE_LEAD:
        go(r, QN_REPLY_AT_VALUE);
        return c == '\n';
    case QN_REPLY_AT_VALUE:
        return step_value(r, c);
    case QN_REPLY_AT_VALUE_END:
        return step_value_end(r, c);
    }
    return true;
}

void qn_reply_feed(qn_reply *r, const char *p, size_t n, qn_reply_fn fn, void *arg)
{
    r->fn = fn;
    r->arg = arg;
    for (size_t i = 0; i < n && !qn_reply_has_failed(r);)
        i += step(r, p[i]);
    tell(r);
}

void qn_reply_end(qn_reply *r, qn_reply_fn fn, void *arg)
{
    r->fn = fn;
    r->arg = arg;
    switch (r->state) {
    case QN_REPLY_AT_THINK:
        say_held(r, QN_REPLY_REASONING);
        break;
    case QN_REPLY_AT_LEAD:
    case QN_REPLY_AT_TEXT:
        if (!(r->is_after && all_blank(&r->held)))
            go_on(r);
        break;
    case QN_REPLY_AT_HEAD:
    case QN_REPLY_AT_FUNCTION:
    case QN_REPLY_AT_BODY:
        if (!r->is_told && !r->style.is_enforced) /* else it would have become one */
            go_on(r);
        break;
    default: /* a call that is cut off */
        break;
    }
    tell(r);
}
