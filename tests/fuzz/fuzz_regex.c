/* SPDX-License-Identifier: Apache-2.0
 * fuzz_regex.c - "expression NUL text": the form of an expression that parses has the text if and only if the expression is
 * found in it. */
#include "single_bytes.h"

#include "base/mem.h"
#include "base/str.h"
#include "sample/regex.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool holds)
{
    if (!holds)
        __builtin_trap();
}

static void compare(const qn_regex *r, const char *text, size_t n)
{
    static qn_vocabulary *v;
    qn_form *f;
    qn_form_id id;
    qn_grammar *g;
    qn_matcher *m;
    bool is_found, is_taken = true;
    if (!v && qn_vocabulary_new(&v, 257, single_byte, NULL, NULL) != QN_OK)
        return;
    if (qn_form_new(&f, NULL) != QN_OK)
        return;
    if (qn_regex_form(r, f, 0, &id, NULL) == QN_OK) {
        qn_form_set_root(f, id);
        if (qn_grammar_compile(&g, v, f, NULL) == QN_OK) {
            check(qn_matcher_new(&m, g, NULL) == QN_OK);
            for (size_t i = 0; i < n && is_taken; i++)
                is_taken = qn_matcher_accept(m, (unsigned char)text[i]);
            is_taken = is_taken && qn_matcher_is_whole(m);
            if (qn_regex_finds(r, text, n, false, &is_found, NULL) == QN_OK)
                check(is_found == is_taken);
            qn_matcher_free(m);
            qn_grammar_let(g);
        }
    }
    qn_form_free(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *p = (const char *)data, *end = n ? memchr(p, 0, n) : NULL;
    size_t n_re = end ? (size_t)(end - p) : n, n_text = end ? n - n_re - 1 : 0;
    qn_regex *r;
    qn_err err = {0};
    qn_status s = qn_regex_parse(&r, n ? p : "", n_re, &err);
    check(s == QN_OK || (!r && err.msg[0] && !strchr(err.msg, '\n')));
    if (s == QN_OK && n_text < 256 && qn_utf8_valid(end ? end + 1 : "", n_text))
        compare(r, end ? end + 1 : "", n_text);
    qn_regex_free(r);
    return 0;
}
