/* SPDX-License-Identifier: Apache-2.0
 * fuzz_gbnf.c - any bytes as a grammar: a form that compiles or not, or a line that says where it is wrong. */
#include "single_bytes.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static qn_vocabulary *v;
    qn_form *f;
    qn_form_id id;
    qn_grammar *g;
    qn_err err = {0};
    if (!v && qn_vocabulary_new(&v, 257, single_byte, NULL, NULL) != QN_OK)
        return 0;
    if (qn_form_new(&f, NULL) != QN_OK)
        return 0;
    qn_status s = qn_form_add_gbnf(f, n ? (const char *)data : "", n, &id, &err);
    if (s != QN_OK && (id != 0 || !err.msg[0] || strchr(err.msg, '\n')))
        __builtin_trap();
    if (s == QN_OK) {
        qn_form_set_root(f, id);
        if (qn_grammar_compile(&g, v, f, NULL) == QN_OK)
            qn_grammar_let(g);
    }
    qn_form_free(f);
    return 0;
}
