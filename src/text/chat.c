/* SPDX-License-Identifier: Apache-2.0
 * chat.c - the model's chat template, and the encoding of what it renders.
 *
 * Where the template is: a Hugging Face folder's chat_template.jinja, else tokenizer_config.json's
 * chat_template (text, or a list of named ones); GGUF's tokenizer.chat_template.
 *
 * Encoding: a special token is one only if all of its bytes are literal; between two of them
 * literal and data are encoded together, so that the ids are those of the whole text wherever data
 * holds no special token. */
#include "text/chat.h"
#include "format/gguf.h"
#include "text/jinja.h"

#include <stdio.h>
#include <string.h>

struct qn_chat_template {
    qn_jinja *jinja;
    char *source;
};

qn_status qn_chat_template_new(qn_chat_template **out, const char *source, size_t n,
                               const char *name, qn_err *err)
{
    *out = NULL;
    qn_chat_template *t = qn_calloc(1, sizeof(*t), QN_MEM_VOCAB);
    if (!t)
        return qn_fail_nomem(err, sizeof(*t));
    t->source = qn_strndup(source, n, QN_MEM_VOCAB);
    qn_status s = t->source ? qn_jinja_new(&t->jinja, source, n, name, err) : qn_fail_nomem(err, n);
    if (s != QN_OK) {
        qn_free(t->source);
        qn_free(t);
        return s;
    }
    *out = t;
    return QN_OK;
}

void qn_chat_template_free(qn_chat_template *t)
{
    if (!t)
        return;
    qn_jinja_free(t->jinja);
    qn_free(t->source);
    qn_free(t);
}

const char *qn_chat_template_source(const qn_chat_template *t)
{
    return t->source;
}

/* Its messages name the file and the field. */
static qn_status new_of_file(qn_chat_template **out, qn_slice source, const char *file,
                             const char *field, qn_err *err)
{
    char name[160];
    (void)snprintf(name, sizeof(name), "%.120s: %s", file, field);
    return qn_chat_template_new(out, source.p, source.n, name, err);
}

/* chat_template: text, or [{"name": "default", "template": text}, ...]. The default one, else the
 * first. */
static qn_status from_config(qn_chat_template **out, const json_t *config, const char *file,
                             qn_err *err)
{
    const json_t *t = json_object_get(config, "chat_template"), *chosen = t;
    if (!t || json_is_null(t))
        return QN_OK;
    for (size_t i = json_array_size(t); i-- > 0;) {
        const json_t *item = json_array_get(t, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (i == 0 || (name && strcmp(name, "default") == 0))
            chosen = json_object_get(item, "template");
        if (name && strcmp(name, "default") == 0)
            break;
    }
    if (!json_is_string(chosen))
        return qn_fail(err, QN_E_FORMAT,
                       "%s: chat_template: %s found, a string or a list of named ones wanted", file,
                       qn_json_type_name(chosen));
    return new_of_file(out, (qn_slice){json_string_value(chosen), json_string_length(chosen)}, file,
                       "chat_template", err);
}

static qn_status from_folder(qn_chat_template **out, const qn_folder *files, qn_err *err)
{
    qn_str source = {0};
    json_t *config = NULL;
    bool has_template = false, has_config = false;
    qn_status s = qn_folder_has(files, "chat_template.jinja", &has_template, err);
    if (s == QN_OK)
        s = qn_folder_has(files, "tokenizer_config.json", &has_config, err);
    if (s == QN_OK && has_template) {
        s = qn_folder_read(&source, files, "chat_template.jinja", QN_LIMIT_TEMPLATE_BYTES, err);
        if (s == QN_OK)
            s = qn_chat_template_new(out, source.p ? source.p : "", source.n, "chat_template.jinja",
                                     err);
    } else if (s == QN_OK && has_config) {
        s = qn_folder_json(&config, files, "tokenizer_config.json", err);
        if (s == QN_OK)
            s = from_config(out, config, "tokenizer_config.json", err);
    }
    json_decref(config);
    qn_str_fini(&source);
    return s;
}

qn_status qn_chat_template_from_model(qn_chat_template **out, const qn_weights *w, qn_err *err)
{
    *out = NULL;
    if (w->format != QN_FORMAT_GGUF) {
        qn_folder files = qn_weights_folder(w);
        return from_folder(out, &files, err);
    }
    qn_slice source = {0};
    QN_TRY(qn_gguf_str(w->gguf, w->path, "tokenizer.chat_template", &source, err));
    return source.n
               ? new_of_file(out, source, qn_base_name(w->path), "tokenizer.chat_template", err)
               : QN_OK;
}

qn_status qn_chat_template_render(const qn_chat_template *t, const json_t *variables, int64_t now,
                                  qn_chat_text *out, qn_err *err)
{
    return qn_jinja_render(t->jinja, variables, now, out, err);
}

/* The end of the number at p; *big: an integer of more than 64 bits. */
static const char *number_end(const char *p, const char *end, bool *big)
{
    const char *begin = p;
    bool is_integer = true;
    int64_t i;
    for (p += *p == '-'; p < end && (strchr("+-.eE", *p) || (*p >= '0' && *p <= '9')) && *p; p++)
        is_integer &= *p >= '0' && *p <= '9';
    size_t n = (size_t)(p - begin), n_digits = n - (*begin == '-');
    *big =
        is_integer && n_digits > 18 && begin[*begin == '-'] != '0' && !qn_parse_i64(begin, n, &i);
    return p;
}

qn_status qn_chat_variables_parse(json_t **out, const char *text, size_t n, size_t max_depth,
                                  const char *name, qn_err *err)
{
    qn_str s = {0};
    const char *p = text, *end = text + n, *copied = text;
    *out = NULL;
    while (p < end) {
        bool big = false;
        const char *begin = p++;
        if (*begin == '"') {
            while (p < end && *p != '"')
                p += *p == '\\' ? 2 : 1;
            p++;
        } else if (*begin == '-' || (*begin >= '0' && *begin <= '9')) {
            p = number_end(begin, end, &big);
        }
        if (big) {
            qn_str_add(&s, copied, (size_t)(begin - copied));
            qn_str_adds(&s, "\"" QN_CHAT_BIG_INTEGER);
            qn_str_add(&s, begin, (size_t)(p - begin));
            qn_str_addc(&s, '"');
            copied = p;
        }
    }
    qn_status status;
    if (copied == text) {
        status = qn_json_parse(out, text, n, max_depth, name, err);
    } else {
        qn_str_add(&s, copied, (size_t)(end - copied));
        status =
            s.failed ? qn_fail_nomem(err, n) : qn_json_parse(out, s.p, s.n, max_depth, name, err);
    }
    qn_str_fini(&s);
    return status;
}

void qn_chat_text_fini(qn_chat_text *t)
{
    qn_str_fini(&t->text);
    qn_free(t->segments);
    *t = (qn_chat_text){0};
}

/* White space of ASCII, which is what templates trim. */
static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

qn_status qn_chat_text_cut(qn_chat_text *t, qn_slice content, qn_err *err)
{
    size_t n = content.n, lead = 0, at = SIZE_MAX, which = 0;
    while (n > 0 && is_blank(content.p[n - 1]))
        n--;
    while (lead < n && is_blank(content.p[lead]))
        lead++;
    qn_slice core = {content.p + lead, n - lead};
    for (size_t i = t->n_segments; i-- > 0 && at == SIZE_MAX && core.n;) {
        const qn_chat_segment *g = &t->segments[i];
        for (const char *p = t->text.p + g->begin, *end = t->text.p + g->end;
             !g->literal && (p = memmem(p, (size_t)(end - p), core.p, core.n)); p++) {
            at = (size_t)(p - t->text.p) + core.n;
            which = i;
        }
    }
    if (at == SIZE_MAX)
        return qn_fail(
            err, QN_E_ARG,
            "continue_final_message: the template does not write the last message's content");
    size_t tail = content.n - n, left = t->segments[which].end - at;
    if (tail && tail <= left && memcmp(t->text.p + at, content.p + n, tail) == 0)
        at += tail;
    t->text.n = t->segments[which].end = at;
    t->text.p[at] = 0;
    t->n_segments = which + 1;
    return QN_OK;
}

/* Encodes the added tokens of one literal segment, and the text before each with what was left before the segment. */
static qn_status encode_literal(const qn_tokenizer *tok, const char *text,
                                const qn_chat_segment *segment, size_t *done, qn_ids *out,
                                qn_err *err)
{
    qn_added_scan scan =
        qn_tokenizer_scan(tok, text + segment->begin, segment->end - segment->begin);
    size_t begin, end;
    int32_t id;
    while (qn_added_scan_next(&scan, &begin, &end, &id)) {
        size_t n = segment->begin + begin - *done;
        if (n > 0)
            QN_TRY(qn_tokenizer_encode(tok, text + *done, n, QN_SPECIAL_NONE, out, err));
        if (!qn_grow(&out->p, &out->cap, out->n + 1, sizeof(*out->p), QN_MEM_REQUEST))
            return qn_fail_nomem(err, (out->n + 1) * sizeof(*out->p));
        out->p[out->n++] = id;
        *done = segment->begin + end;
    }
    return QN_OK;
}

qn_status qn_chat_encode(const qn_tokenizer *tok, const qn_chat_text *text, qn_ids *out,
                         qn_err *err)
{
    size_t done = 0;
    for (size_t i = 0; i < text->n_segments; i++)
        if (text->segments[i].literal)
            QN_TRY(encode_literal(tok, text->text.p, &text->segments[i], &done, out, err));
    return text->text.n > done ? qn_tokenizer_encode(tok, text->text.p + done, text->text.n - done,
                                                     QN_SPECIAL_NONE, out, err)
                               : QN_OK;
}
