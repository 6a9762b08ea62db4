/* SPDX-License-Identifier: Apache-2.0
 * keys.c - a file of API keys. */
#include "base/keys.h"

#include <string.h>

/* Cuts the next word off *line. */
static qn_slice next_word(qn_slice *line)
{
    size_t at = 0, end;
    while (at < line->n && strchr(" \t\r", line->p[at]))
        at++;
    for (end = at; end < line->n && !strchr(" \t\r", line->p[end]);)
        end++;
    qn_slice word = {line->p + at, end - at};
    *line = (qn_slice){line->p + end, line->n - end};
    if (word.n && word.p[0] == '#')
        word.n = line->n = 0;
    return word;
}

qn_status qn_key_next(qn_key_reader *r, qn_key_line *out, bool *got, qn_err *err)
{
    for (*got = false; r->text.n && !*got;) {
        const char *end = memchr(r->text.p, '\n', r->text.n);
        qn_slice line = {r->text.p, end ? (size_t)(end - r->text.p) : r->text.n};
        size_t taken = line.n + (end != NULL);
        r->text = (qn_slice){r->text.p + taken, r->text.n - taken};
        r->line++;
        if (memchr(line.p, 0, line.n))
            return qn_fail(err, QN_E_FORMAT, "%s: line %zu holds a NUL", r->name, r->line);
        out->key = next_word(&line);
        out->tenant = next_word(&line);
        out->class_name = next_word(&line);
        if (next_word(&line).n)
            return qn_fail(err, QN_E_FORMAT, "%s: line %zu: want KEY [TENANT [CLASS]]", r->name,
                           r->line);
        for (size_t i = 0; i < out->key.n; i++)
            if (out->key.p[i] <= ' ' || (unsigned char)out->key.p[i] >= 127)
                return qn_fail(err, QN_E_FORMAT,
                               "%s: line %zu: found a byte %d in the key, want visible ASCII",
                               r->name, r->line, (unsigned char)out->key.p[i]);
        *got = out->key.n > 0;
    }
    r->n += *got;
    return r->n ? QN_OK
                : qn_fail(err, QN_E_FORMAT, "%s: found no key, want KEY [TENANT [CLASS]] in a line",
                          r->name);
}
