/* SPDX-License-Identifier: Apache-2.0
 * fuzz_schema.c - any bytes as a JSON Schema. A text that is drawn from what compiles is JSON; what is refused says where. */
#include "single_bytes.h"

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool holds)
{
    if (!holds)
        __builtin_trap();
}

/* The first allowed byte of those that close something, else one by the seed. */
static int32_t pick(const uint64_t *mask, uint64_t seed)
{
    static const char closers[] = "\"}]0n1a";
    int32_t may[256], n = 0;
    for (const char *c = closers; seed % 4 && *c; c++)
        if (mask[(unsigned char)*c / 64] >> ((unsigned char)*c % 64) & 1)
            return (unsigned char)*c;
    for (int32_t i = 0; i < 256; i++)
        if (mask[i / 64] >> (i % 64) & 1)
            may[n++] = i;
    return n ? may[(seed >> 8) % (uint64_t)n] : 256;
}

static void draw(qn_grammar *g, uint64_t seed)
{
    qn_matcher *m;
    qn_str text = {0};
    json_t *v;
    bool is_over = false;
    check(qn_matcher_new(&m, g, NULL) == QN_OK);
    for (int i = 0; i < 300 && !is_over; i++) {
        const uint64_t *mask = qn_matcher_mask(m);
        seed = seed * UINT64_C(6364136223846793005) + 1;
        is_over = mask[4] & 1;
        int32_t id = pick(mask, seed >> 20);
        check(is_over || (id < 256 && qn_matcher_accept(m, id)));
        if (!is_over)
            qn_str_addc(&text, (char)id);
    }
    if (is_over) {
        qn_err err;
        qn_status s = qn_json_parse(&v, text.p, text.n, 0, "drawn", &err);
        check(s == QN_OK || strstr(err.msg, "duplicate") || strstr(err.msg, "too big") ||
              strstr(err.msg, "overflow") || strstr(err.msg, "nested"));
        json_decref(v);
    }
    qn_str_fini(&text);
    qn_matcher_free(m);
}

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
    qn_status s = qn_form_add_schema(f, n ? (const char *)data : "", n, false, &id, &err);
    check(s == QN_OK || (id == 0 && err.msg[0] == '#' && !strchr(err.msg, '\n')) ||
          strncmp(err.msg, "form", 4) == 0);
    if (s == QN_OK) {
        qn_form_set_root(f, id);
        if (qn_grammar_compile(&g, v, f, &err) == QN_OK) {
            for (uint64_t seed = 1; seed < 4; seed++)
                draw(g, seed * n);
            qn_grammar_let(g);
        }
    }
    qn_form_free(f);
    return 0;
}
