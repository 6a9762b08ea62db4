/* SPDX-License-Identifier: Apache-2.0
 * spec.c - splits at commas, colons and lines; every part is checked where it is read. */
#include "server/spec.h"

#include <string.h>

#include "base/keys.h"
#include "base/limits.h"

/* Cuts the next part off *rest, up to `sep`; false: nothing is left. */
static bool next_part(qn_slice *rest, char sep, qn_slice *part)
{
    if (!rest->p)
        return false;
    const char *at = rest->n ? memchr(rest->p, sep, rest->n) : NULL;
    *part = (qn_slice){rest->p, at ? (size_t)(at - rest->p) : rest->n};
    *rest = at ? (qn_slice){at + 1, rest->n - part->n - 1} : (qn_slice){NULL, 0};
    return true;
}

static size_t count_parts(const char *text, char sep)
{
    size_t n = 1;
    for (; *text; text++)
        n += *text == sep;
    return n;
}

static qn_status fail_part(qn_err *err, const char *what, qn_slice found, const char *want)
{
    return qn_fail(err, QN_E_ARG, "%s: found '%.*s', want %s", what, (int)QN_MIN(found.n, 64u),
                   found.p ? found.p : "", want);
}

/* ---- numbers ---- */

static bool duration(qn_slice s, uint32_t *ms)
{
    double scale = 1, v;
    if (s.n > 2 && memcmp(s.p + s.n - 2, "ms", 2) == 0)
        s.n -= 2;
    else if (s.n > 1 && s.p[s.n - 1] == 's')
        s.n--, scale = 1e3;
    else if (s.n > 1 && s.p[s.n - 1] == 'm')
        s.n--, scale = 6e4;
    else if (s.n > 1 && s.p[s.n - 1] == 'h')
        s.n--, scale = 3.6e6;
    if (!qn_parse_f64(s.p, s.n, &v) || v < 0 || v * scale > 86400e3)
        return false;
    *ms = (uint32_t)(v * scale + 0.5);
    return true;
}

qn_status qn_spec_duration(const char *text, uint32_t *ms, qn_err *err)
{
    if (duration(qn_slice_of(text), ms))
        return QN_OK;
    return fail_part(err, "duration", qn_slice_of(text), "200ms, 1.5s, 2m or 1h, at most a day");
}

/* Tokens: "8k" is 8192. */
static bool tokens(qn_slice s, uint32_t *out)
{
    uint64_t v, scale = 1;
    if (qn_slice_is(s, "inf")) {
        *out = UINT32_MAX;
        return true;
    }
    if (s.n > 1 && (s.p[s.n - 1] == 'k' || s.p[s.n - 1] == 'K'))
        s.n--, scale = 1024;
    if (!qn_parse_u64(s.p, s.n, QN_LIMIT_CONTEXT, &v) || !v)
        return false;
    *out = (uint32_t)(v * scale);
    return true;
}

static bool seqs(qn_slice s, int *out)
{
    uint64_t v;
    if (!qn_parse_u64(s.p, s.n, QN_LIMIT_BATCH_SEQS, &v) || !v)
        return false;
    *out = (int)v;
    return true;
}

/* ---- classes ---- */

static qn_status class_extra(qn_slice part, qn_class *c, qn_err *err)
{
    static const char gap[] = "gap=";
    if (qn_slice_is(part, "refuse")) {
        c->refuse_late = true;
        return QN_OK;
    }
    if (qn_slice_is(part, "gap=-")) {
        c->gap_ms = 0;
        return QN_OK;
    }
    if (part.n > 4 && memcmp(part.p, gap, 4) == 0 &&
        duration((qn_slice){part.p + 4, part.n - 4}, &c->gap_ms))
        return QN_OK;
    return fail_part(err, "class", part, "gap=50ms, gap=- or refuse");
}

static qn_status class_of(qn_slice text, qn_arena *a, qn_class *c, qn_err *err)
{
    qn_slice rest = text, name, target, share, extra;
    uint64_t percent = 0;
    if (!next_part(&rest, ':', &name) || !next_part(&rest, ':', &target) ||
        !next_part(&rest, ':', &share))
        return fail_part(err, "class", text, "NAME:TARGET:SHARE, as p0:200ms:40%");
    if (!qn_slice_is_word(name, 32))
        return fail_part(err, "class", name, "a name of 1 to 32 letters, digits, '-' and '_'");
    bool has_unit = target.n && (target.p[target.n - 1] == 's' || target.p[target.n - 1] == 'm');
    if (!qn_slice_is(target, "-") &&
        (!has_unit || !duration(target, &c->target_ms) || !c->target_ms))
        return fail_part(err, "class", target, "a target such as 200ms, or - for none");
    qn_slice digits = share;
    if (digits.n && digits.p[digits.n - 1] == '%')
        digits.n--;
    if (!qn_parse_u64(digits.p, digits.n, 10000, &percent) || !percent)
        return fail_part(err, "class", share, "a share such as 40%");
    c->share = (uint32_t)percent;
    c->gap_ms = QN_GAP_AUTO;
    c->name = qn_arena_strndup(a, name.p, name.n);
    while (next_part(&rest, ':', &extra))
        QN_TRY(class_extra(extra, c, err));
    return c->name ? QN_OK : qn_fail_nomem(err, name.n);
}

qn_status qn_spec_classes(const char *text, qn_arena *a, qn_class **out, int *n, qn_err *err)
{
    qn_slice rest = qn_slice_of(text), part;
    size_t most = count_parts(text, ',');
    if (most > QN_MAX_CLASSES)
        return qn_fail(err, QN_E_ARG, "classes: found %zu, want at most %d", most, QN_MAX_CLASSES);
    qn_class *c = qn_arena_alloc(a, most * sizeof *c);
    if (!c)
        return qn_fail_nomem(err, most * sizeof *c);
    *n = 0;
    while (next_part(&rest, ',', &part)) {
        c[*n] = (qn_class){0};
        QN_TRY(class_of(part, a, &c[*n], err));
        for (int i = 0; i < *n; i++)
            if (strcmp(c[i].name, c[*n].name) == 0)
                return qn_fail(err, QN_E_ARG, "classes: found '%s' twice", c[i].name);
        ++*n;
    }
    *out = c;
    return QN_OK;
}

int qn_spec_class(const qn_config *c, const char *name)
{
    for (int i = 0; i < c->n_classes; i++)
        if (strcmp(c->classes[i].name, name) == 0)
            return i;
    return -1;
}

/* ---- batches ---- */

qn_status qn_spec_buckets(const char *text, qn_arena *a, qn_bucket **out, int *n, qn_err *err)
{
    qn_slice rest = qn_slice_of(text), part, left;
    size_t most = count_parts(text, ',');
    qn_bucket *b = qn_arena_alloc(a, most * sizeof *b);
    if (!b)
        return qn_fail_nomem(err, most * sizeof *b);
    *n = 0;
    while (next_part(&rest, ',', &part)) {
        int count;
        left = part;
        qn_slice size = {0}, number = {0};
        bool ok = next_part(&left, ':', &size) && next_part(&left, ':', &number) && !left.p &&
                  tokens(size, &b[*n].max_tokens) && seqs(number, &count);
        if (!ok)
            return fail_part(err, "bucket", part, "TOKENS:SEQUENCES, as 8k:4 or inf:1");
        if (*n && b[*n].max_tokens <= b[*n - 1].max_tokens)
            return fail_part(err, "bucket", part, "sizes that grow");
        b[(*n)++].max_seqs = (uint32_t)count;
    }
    *out = b;
    return QN_OK;
}

qn_status qn_spec_batch(const char *text, int *least, int *most, qn_err *err)
{
    static const char adaptive[] = "adaptive:";
    qn_slice s = qn_slice_of(text), low, high;
    *least = 0;
    if (seqs(s, most))
        return QN_OK;
    if (qn_starts_with(text, adaptive)) {
        qn_slice rest = {text + strlen(adaptive), s.n - strlen(adaptive)};
        if (next_part(&rest, '-', &low) && next_part(&rest, '-', &high) && !rest.p &&
            seqs(low, least) && seqs(high, most) && *least <= *most)
            return QN_OK;
    }
    return fail_part(err, "batch", s, "a number of sequences, or adaptive:8-32");
}

/* ---- models and keys ---- */

qn_status qn_spec_model(const char *text, qn_arena *a, const char **name, const char **file,
                        qn_err *err)
{
    const char *eq = strchr(text, '=');
    *name = NULL;
    *file = text;
    if (!eq || memchr(text, '/', (size_t)(eq - text)))
        return QN_OK;
    *file = eq + 1;
    *name = qn_arena_strndup(a, text, (size_t)(eq - text));
    if (!*name)
        return qn_fail_nomem(err, (size_t)(eq - text));
    if (!**name || !**file)
        return fail_part(err, "model", qn_slice_of(text), "FILE or NAME=FILE");
    return QN_OK;
}

/* A copy of a word, NULL for none. */
static qn_status keep(const char **out, qn_slice word, qn_arena *a, qn_err *err)
{
    *out = word.n ? qn_arena_strndup(a, word.p, word.n) : NULL;
    return word.n && !*out ? qn_fail_nomem(err, word.n) : QN_OK;
}

qn_status qn_spec_keys(const char *text, size_t n_text, const char *name, qn_arena *a,
                       qn_api_key **out, size_t *n, qn_err *err)
{
    qn_key_reader r = {.text = {text ? text : "", n_text}, .name = name};
    size_t cap = 1;
    qn_key_line line;
    for (size_t i = 0; i < r.text.n; i++)
        cap += r.text.p[i] == '\n';
    qn_api_key *keys = qn_arena_alloc(a, cap * sizeof *keys);
    if (!keys)
        return qn_fail_nomem(err, cap * sizeof *keys);
    for (bool got = true; got;) {
        QN_TRY(qn_key_next(&r, &line, &got, err));
        if (!got)
            break;
        qn_api_key *k = &keys[r.n - 1];
        QN_TRY(keep(&k->key, line.key, a, err));
        QN_TRY(keep(&k->tenant, line.tenant, a, err));
        QN_TRY(keep(&k->class_name, line.class_name, a, err));
    }
    *out = keys;
    *n = r.n;
    return QN_OK;
}
