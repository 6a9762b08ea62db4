/* SPDX-License-Identifier: Apache-2.0
 * taken.h - whether a form has a text, by a matcher over a vocabulary of single bytes. */
#ifndef QN_TESTS_TAKEN_H
#define QN_TESTS_TAKEN_H

#include "check.h"

#include "sample/grammar.h"
#include <string.h>

static inline qn_vocab_kind single_byte(void *arg, int32_t id, const char **text, size_t *n)
{
    char *bytes = arg;
    bytes[id] = (char)id;
    *text = bytes + id;
    *n = 1;
    return id < 256 ? QN_VOCAB_TEXT : QN_VOCAB_END;
}

/* The grammar of expression `id` of f; NULL: it has none. Frees f. */
static inline qn_grammar *grammar_of(const qn_vocabulary *v, qn_form *f, qn_form_id id)
{
    qn_grammar *g = NULL;
    qn_err err;
    qn_form_set_root(f, id);
    if (qn_grammar_compile(&g, v, f, &err) != QN_OK)
        g = NULL;
    qn_form_free(f);
    return g;
}

static inline bool has_text(qn_grammar *g, const char *p, size_t n)
{
    qn_matcher *m;
    bool ok = true;
    assert_int_equal(qn_matcher_new(&m, g, NULL), QN_OK);
    for (size_t i = 0; i < n && ok; i++)
        ok = qn_matcher_accept(m, (unsigned char)p[i]);
    ok = ok && qn_matcher_is_whole(m);
    qn_matcher_free(m);
    return ok;
}

typedef qn_status (*add_fn)(qn_form *f, const char *text, size_t n, qn_form_id *out, qn_err *err);

/* "yes" is taken, "!no" is not. */
static inline void check_texts(add_fn add, const char *form, const char *const *texts, size_t n)
{
    static char bytes[257];
    qn_vocabulary *v;
    qn_form *f;
    qn_form_id id;
    qn_err err = {0};
    assert_int_equal(qn_vocabulary_new(&v, 257, single_byte, bytes, NULL), QN_OK);
    assert_int_equal(qn_form_new(&f, NULL), QN_OK);
    if (add(f, form, strlen(form), &id, &err) != QN_OK)
        fail_msg("%s: %s", form, err.msg);
    qn_grammar *g = grammar_of(v, f, id);
    if (!g)
        fail_msg("%s: no grammar", form);
    for (size_t i = 0; i < n && texts[i]; i++) {
        bool is_no = texts[i][0] == '!';
        if (has_text(g, texts[i] + is_no, strlen(texts[i] + is_no)) == is_no)
            fail_msg("%s: '%s' is %staken", form, texts[i] + is_no, is_no ? "" : "not ");
    }
    qn_grammar_let(g);
    qn_vocabulary_free(v);
}

/* Refused with this status, and a message that begins so. */
static inline void check_refused(add_fn add, const char *form, size_t n, qn_status want,
                                 const char *message)
{
    qn_form *f;
    qn_form_id id = 1;
    qn_err err = {0};
    assert_int_equal(qn_form_new(&f, NULL), QN_OK);
    qn_status s = add(f, form, n, &id, &err);
    if (s != want || err.status != want || strncmp(err.msg, message, strlen(message)) != 0)
        fail_msg("%.100s: %s: %s", form, qn_status_name(s), err.msg);
    assert_int_equal(id, 0);
    assert_int_equal(add(f, form, n, &id, NULL), want);
    qn_form_free(f);
}

#endif
