/* SPDX-License-Identifier: Apache-2.0
 * forms.c - what forms allow, for tests that judge it: requests as lines of JSON on standard input, an answer line for each.
 *
 *   {"kind": "schema"|"regex"|"find"|"choice"|"gbnf"|"json", "text": "...", "compact": false, "draws": 20, "seed": 1, "tries": ["..."]}
 *   {"status": "ok", "draws": ["..."], "tries": [true]}   or   {"status": "unsupported", "error": "..."}
 *
 * A draw is a walk through a matcher over a small vocabulary: single bytes and pieces that cut JSON and characters anywhere,
 * chosen at random among those allowed; after a while those that close something come first. A draw that does not end is null. */
#include "base/json.h"
#include "base/str.h"
#include "sample/grammar.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const pieces[] = {
    "\"",   "}",        "]",        "{\"",  "\":",   "\": ", ", ",   ",\"",  "\",",  "\"}",
    "\"]",  "}]",       "null",     "true", "fals",  "ab",   "abc",  "the ", "name", "\xe4\xb8",
    "\xad", "\xf0\x9f", "\x98\x80", "\\n",  "\\u00", "\\",   "12",   "2024", "-0",   "-1",
    "0.5",  "e+",       "00",       "@x.",  "://",   "T1",   "a\":", "[[",   "{\"a", "kind",
    ",x",   "bar",      " ",        "é",    "5",     "id"};

enum { N_PIECES = sizeof pieces / sizeof *pieces, END = 256 + N_PIECES, N_TOKENS };
static char bytes[256];

static qn_vocab_kind token_text(void *arg, int32_t id, const char **text, size_t *n)
{
    (void)arg;
    if (id < 256) {
        *text = &bytes[id];
        *n = 1;
    } else if (id < END) {
        *text = pieces[id - 256];
        *n = strlen(pieces[id - 256]);
    }
    return id == END ? QN_VOCAB_END : QN_VOCAB_TEXT;
}

static uint64_t state;
static uint32_t draw(uint32_t n)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((state >> 33) % n);
}

static bool allows(const uint64_t *mask, int32_t id)
{
    return mask[id / 64] >> (id % 64) & 1;
}

/* One text; false: it did not end. */
static bool draw_text(qn_grammar *g, qn_str *out)
{
    qn_matcher *m;
    bool is_over = false;
    uint32_t patience = 8 + draw(120);
    if (qn_matcher_new(&m, g, NULL) != QN_OK)
        exit(1);
    for (uint32_t step = 0; step < 30000 && !is_over; step++) {
        static const char closers[] = "\"}]0n1a", *c;
        const uint64_t *mask = qn_matcher_mask(m);
        int32_t may[N_TOKENS], n = 0, id;
        for (int32_t i = 0; mask && i < N_TOKENS; i++)
            if (allows(mask, i))
                may[n++] = i;
        if (!n) {
            fprintf(stderr, "forms: nothing may follow: %s\n", out->p ? out->p : "");
            exit(1);
        }
        id = may[draw((uint32_t)n)];
        if (step > patience && draw(8))
            for (c = closers; *c; c++)
                if (allows(mask, (unsigned char)*c)) {
                    id = (unsigned char)*c;
                    break;
                }
        if (allows(mask, END) && (step > patience || !draw(4)))
            id = END;
        is_over = id == END;
        const char *text = "";
        size_t n_text = 0;
        if (!is_over) {
            (void)token_text(NULL, id, &text, &n_text);
            qn_str_add(out, text, n_text);
            if (!qn_matcher_accept(m, id)) {
                fprintf(stderr, "forms: a token of the mask is not accepted\n");
                exit(1);
            }
        }
    }
    qn_matcher_free(m);
    return is_over;
}

static bool takes(qn_grammar *g, const char *p, size_t n)
{
    qn_matcher *m;
    bool ok = true;
    if (qn_matcher_new(&m, g, NULL) != QN_OK)
        exit(1);
    for (size_t i = 0; i < n && ok; i++)
        ok = qn_matcher_accept(m, (unsigned char)p[i]);
    ok = ok && qn_matcher_is_whole(m);
    qn_matcher_free(m);
    return ok;
}

static qn_status add(qn_form *f, const json_t *ask, qn_form_id *id, qn_err *err)
{
    const char *kind = json_string_value(json_object_get(ask, "kind"));
    const json_t *v = json_object_get(ask, "text");
    const char *text = json_string_value(v);
    size_t n = json_string_length(v);
    if (strcmp(kind, "schema") == 0)
        return qn_form_add_schema(f, text, n, json_is_true(json_object_get(ask, "compact")), id,
                                  err);
    if (strcmp(kind, "choice") == 0)
        return qn_form_add_choice(f, text, n, id, err);
    if (strcmp(kind, "gbnf") == 0)
        return qn_form_add_gbnf(f, text, n, id, err);
    if (strcmp(kind, "json") == 0)
        return qn_form_add_json(f, id, err);
    return qn_form_add_regex(f, text, n, strcmp(kind, "regex") == 0, id, err);
}

static void answer(const qn_vocabulary *v, const json_t *ask, qn_str *out)
{
    qn_form *f;
    qn_form_id id;
    qn_grammar *g = NULL;
    qn_err err = {0};
    qn_status s = qn_form_new(&f, &err);
    if (s == QN_OK)
        s = add(f, ask, &id, &err);
    if (s == QN_OK) {
        qn_form_set_root(f, id);
        s = qn_grammar_compile(&g, v, f, &err);
    }
    qn_form_free(f);
    qn_str_addf(out, "{\"status\":\"%s\"", qn_status_name(s));
    if (s != QN_OK) {
        qn_str_adds(out, ",\"error\":");
        qn_str_add_json(out, err.msg, strlen(err.msg));
        qn_str_adds(out, "}");
        return;
    }
    state = (uint64_t)json_integer_value(json_object_get(ask, "seed"));
    qn_str_adds(out, ",\"draws\":[");
    for (json_int_t i = 0; i < json_integer_value(json_object_get(ask, "draws")); i++) {
        qn_str text = {0};
        bool is_whole = draw_text(g, &text);
        qn_str_adds(out, i ? "," : "");
        if (is_whole)
            qn_str_add_json(out, text.p ? text.p : "", text.n);
        else
            qn_str_adds(out, "null");
        qn_str_fini(&text);
    }
    qn_str_adds(out, "],\"tries\":[");
    const json_t *tries = json_object_get(ask, "tries");
    for (size_t i = 0; i < json_array_size(tries); i++) {
        const json_t *t = json_array_get(tries, i);
        qn_str_addf(out, "%s%s", i ? "," : "",
                    takes(g, json_string_value(t), json_string_length(t)) ? "true" : "false");
    }
    qn_str_adds(out, "]}");
    qn_grammar_let(g);
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    qn_vocabulary *v;
    for (int i = 0; i < 256; i++)
        bytes[i] = (char)i;
    if (qn_vocabulary_new(&v, N_TOKENS, token_text, NULL, NULL) != QN_OK)
        return 1;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *ask;
        qn_str out = {0};
        qn_err err;
        if (qn_json_parse(&ask, line, (size_t)n, 0, "request", &err) != QN_OK) {
            fprintf(stderr, "forms: %s\n", err.msg);
            return 1;
        }
        answer(v, ask, &out);
        puts(out.p);
        fflush(stdout);
        json_decref(ask);
        qn_str_fini(&out);
    }
    qn_vocabulary_free(v);
    free(line);
    return 0;
}
