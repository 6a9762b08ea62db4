/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_json.c - the tokenizer of a Hugging Face folder.
 *
 *   tokenizer.json                     all of it; or
 *   vocab.json, merges.txt             with added tokens and the kind in tokenizer_config.json; or
 *   qwen.tiktoken                      Qwen v1: ranks; its special tokens are built in
 *   tokenizer_config.json              added_tokens_decoder, bos_token, eos_token, add_bos_token
 *                                      (optional with the first and last)
 *
 * Where there is no tokenizer.json the split rule is qwen35 if config.json's model_type begins with
 * "qwen3_5", else qwen2. What would change the ids and is not known is refused, naming the field.
 * Source: tokenizers (models/bpe/serialization.rs, added_vocabulary.rs), transformers
 * (tokenization_qwen2.py), Qwen v1's tokenization_qwen.py. */
#include "text/tokenizer_build.h"

#include "base/limits.h"
#include <stdio.h>
#include <string.h>

static qn_status unsupported(const char *file, const char *field, const json_t *found,
                             const char *want, qn_err *err)
{
    qn_str text = {.limit = 200};
    if (found)
        qn_json_write(&text, found);
    else
        qn_str_adds(&text, "nothing");
    qn_status s = qn_fail(err, QN_E_UNSUPPORTED, "%s: %s: found %.200s%s, want %s", file, field,
                          text.p ? text.p : "?", text.failed ? "..." : "", want);
    qn_str_fini(&text);
    return s;
}

static const char *type_of(const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    return type ? type : "";
}

static bool is_type(const json_t *v, const char *type)
{
    return strcmp(type_of(v), type) == 0;
}

/* A missing, null, empty, zero or false field. */
static bool is_off(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return !v || json_is_null(v) || json_is_false(v) ||
           (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_number(v) && json_number_value(v) == 0);
}

static qn_slice slice_of(const json_t *string)
{
    return (qn_slice){json_string_value(string), json_string_length(string)};
}

/* null, NFC, or a sequence of those. */
static qn_status set_normalizer(qn_tokenizer *t, const json_t *v, const char *file, qn_err *err)
{
    const json_t *list = is_type(v, "Sequence") ? json_object_get(v, "normalizers") : NULL;
    size_t n = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *one = list ? json_array_get(list, i) : v;
        if (!one || json_is_null(one))
            continue;
        if (!is_type(one, "NFC"))
            return unsupported(file, "normalizer", one, "NFC or null", err);
        t->nfc = true;
    }
    return QN_OK;
}

/* Digits (individual) first or not at all; then either Split(known pattern) and ByteLevel without
 * its own, or ByteLevel with. */
static qn_status set_pretok(qn_tokenizer *t, const json_t *v, const char *file, qn_err *err)
{
    const json_t *list = is_type(v, "Sequence") ? json_object_get(v, "pretokenizers") : NULL;
    size_t n = list ? json_array_size(list) : 1, i = 0;
    const json_t *one = list ? json_array_get(list, 0) : v;
    bool split = false;
    if (is_type(one, "Digits") && json_is_true(json_object_get(one, "individual_digits"))) {
        t->pretok.digits_apart = true;
        one = json_array_get(list, ++i);
    }
    if (is_type(one, "Split")) {
        const char *regex =
            json_string_value(json_object_get(json_object_get(one, "pattern"), "Regex"));
        const char *behavior = json_string_value(json_object_get(one, "behavior"));
        if (!regex || !qn_split_from_regex(regex, &t->pretok.split) || !behavior ||
            strcmp(behavior, "Isolated") != 0 || !is_off(one, "invert"))
            return unsupported(file, "pre_tokenizer", one,
                               "an isolating split by a pattern of Qwen, Llama 3 or GPT-2", err);
        split = true;
        one = json_array_get(list, ++i);
    }
    const json_t *regex = json_object_get(one, "use_regex");
    if (!is_type(one, "ByteLevel") || i + 1 != n || !is_off(one, "add_prefix_space") ||
        (split ? !json_is_false(regex) : json_is_false(regex)))
        return unsupported(file, "pre_tokenizer", i < n ? one : v,
                           "Digits, Split and ByteLevel as published models have them", err);
    if (!split)
        t->pretok.split = QN_SPLIT_GPT2;
    return QN_OK;
}

static qn_status check_model(const json_t *model, const char *file, qn_err *err)
{
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *type = json_object_get(model, "type"); /* old files have none */
    if (!json_is_object(model) || (type && !is_type(model, "BPE")))
        return unsupported(file, "model.type", type, "BPE", err);
    for (size_t i = 0; i < QN_COUNT(off); i++)
        if (!is_off(model, off[i]))
            return unsupported(file, off[i], json_object_get(model, off[i]), "null", err);
    return QN_OK;
}

static qn_status set_vocab(qn_tokenizer *t, json_t *vocab, const char *where, qn_err *err)
{
    const char *key;
    json_t *id;
    if (!json_is_object(vocab))
        return unsupported(where, "vocabulary", vocab, "an object", err);
    json_object_foreach(vocab, key, id)
    {
        if (!json_is_integer(id))
            return unsupported(where, key, id, "an id", err);
        QN_TRY(qn_tokenizer_set(t, json_integer_value(id), qn_slice_of(key), where, err));
    }
    return QN_OK;
}

static qn_status set_merges(qn_tokenizer *t, const json_t *merges, const char *where, qn_err *err)
{
    size_t n = json_array_size(merges);
    if (!json_is_array(merges))
        return unsupported(where, "merges", merges, "an array", err);
    if (!qn_pairs_reserve(&t->bpe.merges, n))
        return qn_fail_nomem(err, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(merges, i), *l = json_array_get(m, 0),
                     *r = json_array_get(m, 1);
        if (json_is_string(m))
            QN_TRY(qn_tokenizer_merge_line(t, slice_of(m), (uint32_t)i, where, err));
        else if (json_array_size(m) == 2 && json_is_string(l) && json_is_string(r))
            QN_TRY(qn_tokenizer_merge(t, slice_of(l), slice_of(r), (uint32_t)i, where, err));
        else
            return unsupported(where, "merges", m, "\"a b\" or [\"a\", \"b\"]", err);
    }
    return QN_OK;
}

/* One token of added_tokens or added_tokens_decoder. missing_only: leave out one that is there. */
static qn_status add_token(qn_tokenizer *t, const json_t *v, uint64_t id, bool missing_only,
                           const char *where, qn_err *err)
{
    const json_t *content = json_object_get(v, "content");
    if (!json_is_string(content))
        return unsupported(where, "content", content, "a string", err);
    qn_added_token a = {0};
    QN_TRY(qn_json_bool(v, where, "special", &a.special, err));
    a.normalized = !a.special;
    QN_TRY(qn_json_bool(v, where, "normalized", &a.normalized, err));
    QN_TRY(qn_json_bool(v, where, "lstrip", &a.lstrip, err));
    QN_TRY(qn_json_bool(v, where, "rstrip", &a.rstrip, err));
    QN_TRY(qn_json_bool(v, where, "single_word", &a.single_word, err));
    if (id >= QN_LIMIT_VOCAB)
        return qn_fail(err, QN_E_FORMAT, "%s: found id %llu, want 0..%d", where,
                       (unsigned long long)id, QN_LIMIT_VOCAB - 1);
    a.id = (int32_t)id;
    if (missing_only &&
        (qn_added_find(&t->raw, slice_of(content)) || qn_added_find(&t->normal, slice_of(content))))
        return QN_OK;
    return qn_tokenizer_add(t, slice_of(content), &a, where, err);
}

static qn_status add_tokens(qn_tokenizer *t, const json_t *list, const char *file, qn_err *err)
{
    char where[320];
    if (list && !json_is_null(list) && !json_is_array(list))
        return unsupported(file, "added_tokens", list, "an array", err);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i), *id = json_object_get(v, "id");
        (void)snprintf(where, sizeof(where), "%s: added_tokens[%zu]", file, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return unsupported(where, "id", id, "a number", err);
        QN_TRY(add_token(t, v, (uint64_t)json_integer_value(id), false, where, err));
    }
    return QN_OK;
}

/* item: {"SpecialToken": {"id": "<s>"}} of a template. */
static qn_status special_id(const qn_tokenizer *t, const json_t *item, const char *file,
                            int32_t *out, qn_err *err)
{
    const json_t *id = json_object_get(json_object_get(item, "SpecialToken"), "id");
    *out = json_is_string(id) ? qn_tokenizer_find(t, slice_of(id)) : -1;
    return *out < 0 ? unsupported(file, "post_processor.single", id, "an added token", err) : QN_OK;
}

/* The text, and around it at most one token on each side: the bos, and what the text ends with. */
static qn_status set_template(qn_tokenizer *t, const json_t *v, const char *file, qn_err *err)
{
    const json_t *single = json_object_get(v, "single");
    size_t n = json_array_size(single), at = 0;
    while (at < n && !json_object_get(json_array_get(single, at), "Sequence"))
        at++;
    if (at > 1 || at == n || n > at + 2)
        return unsupported(file, "post_processor.single", single,
                           "the text, at most one token before it and one behind", err);
    if (n > at + 1)
        QN_TRY(special_id(t, json_array_get(single, n - 1), file, &t->end, err));
    if (!at)
        return QN_OK;
    QN_TRY(special_id(t, json_array_get(single, 0), file, &t->bos, err));
    t->add_bos = true;
    return QN_OK;
}

/* null, ByteLevel (which changes offsets only), a template, or a sequence of those. */
static qn_status set_postprocessor(qn_tokenizer *t, const json_t *v, const char *file, qn_err *err)
{
    const json_t *list = is_type(v, "Sequence") ? json_object_get(v, "processors") : NULL;
    size_t n = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *one = list ? json_array_get(list, i) : v;
        if (is_type(one, "TemplateProcessing"))
            QN_TRY(set_template(t, one, file, err));
        else if (one && !json_is_null(one) && !is_type(one, "ByteLevel"))
            return unsupported(file, "post_processor", one, "TemplateProcessing, ByteLevel or null",
                               err);
    }
    return QN_OK;
}

static qn_status build(qn_tokenizer *t, const json_t *j, const char *file, qn_err *err)
{
    char where[320];
    const json_t *model = json_object_get(j, "model"), *decoder = json_object_get(j, "decoder");
    QN_TRY(check_model(model, file, err));
    QN_TRY(set_normalizer(t, json_object_get(j, "normalizer"), file, err));
    QN_TRY(set_pretok(t, json_object_get(j, "pre_tokenizer"), file, err));
    if (!is_type(decoder, "ByteLevel"))
        return unsupported(file, "decoder", decoder, "ByteLevel", err);
    (void)snprintf(where, sizeof(where), "%s: model.vocab", file);
    QN_TRY(set_vocab(t, json_object_get(model, "vocab"), where, err));
    (void)snprintf(where, sizeof(where), "%s: model.merges", file);
    QN_TRY(set_merges(t, json_object_get(model, "merges"), where, err));
    QN_TRY(add_tokens(t, json_object_get(j, "added_tokens"), file, err));
    t->whole_words = !is_off(model, "ignore_merges");
    QN_TRY(set_postprocessor(t, json_object_get(j, "post_processor"), file, err));
    /* what stands in for bytes without a token is not done here: then there may be none */
    bool all = !is_off(model, "unk_token") || !is_off(model, "byte_fallback");
    return qn_tokenizer_finish(t, all, file, err);
}

qn_status qn_tokenizer_from_json(qn_tokenizer **out, const json_t *tokenizer_json, const char *file,
                                 qn_err *err)
{
    qn_tokenizer *t = qn_tokenizer_alloc();
    qn_status s = t ? build(t, tokenizer_json, file, err) : qn_fail_nomem(err, sizeof(*t));
    if (s == QN_OK)
        *out = t;
    else
        qn_tokenizer_free(t);
    return s;
}

/* tokenizer_config.json names a token as a string or as an object with its content. */
static int32_t named_id(const qn_tokenizer *t, const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    const json_t *content = json_is_object(v) ? json_object_get(v, "content") : v;
    return json_is_string(content) ? qn_tokenizer_find(t, slice_of(content)) : -1;
}

/* Added tokens that are not there yet, and the ids of the file's own special tokens. config may be
 * NULL. */
static qn_status apply_config(qn_tokenizer *t, json_t *config, const char *file, qn_err *err)
{
    char where[320];
    const char *key;
    json_t *v;
    bool add_bos = false;
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, v)
    {
        uint64_t id;
        (void)snprintf(where, sizeof(where), "%s: added_tokens_decoder", file);
        if (!qn_parse_u64(key, strlen(key), QN_LIMIT_VOCAB - 1, &id))
            return qn_fail(err, QN_E_FORMAT, "%s: found key '%.40s', want an id", where, key);
        QN_TRY(add_token(t, v, id, true, where, err));
    }
    QN_TRY(qn_json_bool(config, file, "add_bos_token", &add_bos, err));
    if (t->bos < 0)
        t->bos = named_id(t, config, "bos_token");
    t->eos = named_id(t, config, "eos_token");
    t->add_bos = t->add_bos || (add_bos && t->bos >= 0);
    return QN_OK;
}

static qn_status set_merge_list(qn_tokenizer *t, qn_slice text, const char *file, qn_err *err)
{
    uint32_t rank = 0;
    while (text.n > 0) {
        const char *end = memchr(text.p, '\n', text.n);
        size_t n = end ? (size_t)(end - text.p) : text.n;
        qn_slice line = {text.p, n > 0 && text.p[n - 1] == '\r' ? n - 1 : n};
        if (line.n > 0 && !(line.n >= 8 && memcmp(line.p, "#version", 8) == 0))
            QN_TRY(qn_tokenizer_merge_line(t, line, rank++, file, err));
        text.p += QN_MIN(n + 1, text.n);
        text.n -= QN_MIN(n + 1, text.n);
    }
    return QN_OK;
}

typedef struct folder {
    const qn_folder *files;
    qn_str json, vocab, merges, ranks, config; /* paths, for messages */
    bool has_json, has_vocab, has_merges, has_ranks;
    json_t *j;                /* of the file that is read */
    json_t *tokenizer_config; /* NULL: none */
    qn_str text;
} folder;

static qn_status folder_init(folder *f, qn_err *err)
{
    const char *path = f->files->path;
    bool has_config = false;
    QN_TRY(qn_path_join(&f->json, path, "tokenizer.json", err));
    QN_TRY(qn_path_join(&f->vocab, path, "vocab.json", err));
    QN_TRY(qn_path_join(&f->merges, path, "merges.txt", err));
    QN_TRY(qn_path_join(&f->ranks, path, "qwen.tiktoken", err));
    QN_TRY(qn_path_join(&f->config, path, "tokenizer_config.json", err));
    QN_TRY(qn_folder_has(f->files, "tokenizer.json", &f->has_json, err));
    QN_TRY(qn_folder_has(f->files, "vocab.json", &f->has_vocab, err));
    QN_TRY(qn_folder_has(f->files, "merges.txt", &f->has_merges, err));
    QN_TRY(qn_folder_has(f->files, "qwen.tiktoken", &f->has_ranks, err));
    QN_TRY(qn_folder_has(f->files, "tokenizer_config.json", &has_config, err));
    if (has_config)
        return qn_folder_json(&f->tokenizer_config, f->files, "tokenizer_config.json", err);
    return QN_OK;
}

static void folder_fini(folder *f)
{
    qn_str_fini(&f->json);
    qn_str_fini(&f->vocab);
    qn_str_fini(&f->merges);
    qn_str_fini(&f->ranks);
    qn_str_fini(&f->config);
    qn_str_fini(&f->text);
    json_decref(f->j);
    json_decref(f->tokenizer_config);
}

static qn_status read_lists(qn_tokenizer *t, folder *f, qn_err *err)
{
    const char *class = "Qwen2Tokenizer";
    QN_TRY(qn_json_str(f->tokenizer_config, f->config.p, "tokenizer_class", &class, err));
    if (!qn_starts_with(class, "Qwen2Tokenizer"))
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s: tokenizer_class: found '%.60s' without a tokenizer.json, want "
                       "Qwen2Tokenizer",
                       f->config.p, class);
    QN_TRY(qn_folder_json(&f->j, f->files, "vocab.json", err));
    QN_TRY(set_vocab(t, f->j, f->vocab.p, err));
    QN_TRY(qn_folder_read(&f->text, f->files, "merges.txt", QN_LIMIT_CONFIG_BYTES, err));
    QN_TRY(set_merge_list(t, (qn_slice){f->text.p, f->text.n}, f->merges.p, err));
    return qn_tokenizer_finish(t, false, f->vocab.p, err);
}

/* Qwen v1's special tokens follow the ranks. Where tokenizer_config.json lists added tokens, they
 * are used instead. */
static qn_status read_ranks(qn_tokenizer *t, folder *f, qn_err *err)
{
    static const char *const first[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    enum { N_EXTRA = 205 };
    QN_TRY(qn_folder_read(&f->text, f->files, "qwen.tiktoken", QN_LIMIT_CONFIG_BYTES, err));
    QN_TRY(qn_tokenizer_set_ranks(t, (qn_slice){f->text.p, f->text.n}, f->ranks.p, err));
    qn_added_token a = {.id = (int32_t)t->vocab.n, .special = true};
    if (!json_is_object(json_object_get(f->tokenizer_config, "added_tokens_decoder"))) {
        for (size_t i = 0; i < QN_COUNT(first) + N_EXTRA; i++, a.id++) {
            char name[32];
            if (i < QN_COUNT(first))
                (void)snprintf(name, sizeof(name), "%s", first[i]);
            else
                (void)snprintf(name, sizeof(name), "<|extra_%zu|>", i - QN_COUNT(first));
            QN_TRY(qn_tokenizer_add(t, qn_slice_of(name), &a, f->ranks.p, err));
        }
    }
    return qn_tokenizer_finish(t, false, f->ranks.p, err);
}

static qn_status read_folder(qn_tokenizer **out, folder *f, const json_t *config, qn_err *err)
{
    if (f->has_json) {
        QN_TRY(qn_folder_json(&f->j, f->files, "tokenizer.json", err));
        QN_TRY(qn_tokenizer_from_json(out, f->j, f->json.p, err));
        return apply_config(*out, f->tokenizer_config, f->config.p, err);
    }
    *out = qn_tokenizer_alloc();
    if (!*out)
        return qn_fail_nomem(err, sizeof(**out));
    const char *type = "";
    QN_TRY(qn_json_str(config, "config.json", "model_type", &type, err));
    (*out)->nfc = true;
    (*out)->pretok.split = qn_starts_with(type, "qwen3_5") ? QN_SPLIT_QWEN35 : QN_SPLIT_QWEN2;
    if (f->has_vocab && f->has_merges)
        QN_TRY(read_lists(*out, f, err));
    else if (f->has_ranks)
        QN_TRY(read_ranks(*out, f, err));
    else
        return qn_fail(err, QN_E_NOT_FOUND,
                       "%s: no tokenizer: want tokenizer.json, vocab.json and merges.txt, or "
                       "qwen.tiktoken",
                       f->files->path);
    return apply_config(*out, f->tokenizer_config, f->config.p, err);
}

qn_status qn_tokenizer_from_folder(qn_tokenizer **out, const qn_folder *files, const json_t *config,
                                   qn_err *err)
{
    folder f = {.files = files};
    qn_tokenizer *t = NULL;
    qn_status s = folder_init(&f, err);
    if (s == QN_OK)
        s = read_folder(&t, &f, config, err);
    folder_fini(&f);
    if (s == QN_OK)
        *out = t;
    else
        qn_tokenizer_free(t);
    return s;
}
