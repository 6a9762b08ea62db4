/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_gguf.c - the tokenizer inside GGUF metadata.
 *
 *   tokenizer.ggml.model "gpt2"; .pre (the split rule); .tokens, .token_type (one for each token);
 *   .merges "left right"
 *   types: 1 normal, 3 control (special), 4 user defined (added), 5 unused */
#include "format/gguf.h"
#include "text/tokenizer_build.h"

#include <stdio.h>

enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5 };

static const struct {
    const char *pre;
    qn_pretok rule;
    bool nfc, whole_words, add_bos; /* add_bos: where the file does not say */
} rules[] = {
    {"qwen2", {QN_SPLIT_QWEN2, false}, true, false, false},
    {"deepseek-r1-qwen", {QN_SPLIT_QWEN2, false}, true, false, false},
    {"qwen35", {QN_SPLIT_QWEN35, false}, true, false, false},
    {"smollm", {QN_SPLIT_GPT2, true}, false, false, false},
    {"gpt-2", {QN_SPLIT_GPT2, false}, false, false, false},
    {"llama-bpe", {QN_SPLIT_LLAMA3, false}, false, true, true},
};

static qn_status set_rule(qn_tokenizer *t, const qn_gguf_meta *m, const char *file, qn_err *err)
{
    qn_slice model = QN_SLICE("nothing"), pre = QN_SLICE("nothing");
    char name[64];
    QN_TRY(qn_gguf_str(m, file, "tokenizer.ggml.model", &model, err));
    if (!qn_slice_is(model, "gpt2")) {
        qn_escape(name, sizeof(name), model.p, QN_MIN(model.n, (size_t)40));
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s: tokenizer.ggml.model: found '%s', want 'gpt2' (byte-level BPE)", file,
                       name);
    }
    QN_TRY(qn_gguf_str(m, file, "tokenizer.ggml.pre", &pre, err));
    for (size_t i = 0; i < QN_COUNT(rules); i++) {
        if (!qn_slice_is(pre, rules[i].pre))
            continue;
        t->pretok = rules[i].rule;
        t->nfc = rules[i].nfc;
        t->whole_words = rules[i].whole_words;
        t->add_bos = rules[i].add_bos;
        return QN_OK;
    }
    qn_escape(name, sizeof(name), pre.p, QN_MIN(pre.n, (size_t)40));
    return qn_fail(err, QN_E_UNSUPPORTED,
                   "%s: tokenizer.ggml.pre: found '%s', want qwen2, deepseek-r1-qwen, qwen35, "
                   "smollm, gpt-2 or llama-bpe",
                   file, name);
}

/* An array of the wanted kind, or NULL with the error written. */
static const qn_gguf_value *array(const qn_gguf_meta *m, const char *file, const char *key,
                                  bool strings, qn_err *err)
{
    const qn_gguf_value *v = qn_gguf_find(m, key);
    if (v && v->type == QN_GGUF_ARRAY &&
        (strings ? v->item == QN_GGUF_STRING : v->item != QN_GGUF_STRING))
        return v;
    bool is_array = v && v->type == QN_GGUF_ARRAY;
    qn_fail(err, QN_E_FORMAT, "%s: %s: found %s%s, want an array of %s", file, key,
            is_array ? "an array of " : "",
            v ? qn_gguf_type_name(is_array ? v->item : v->type) : "nothing",
            strings ? "strings" : "numbers");
    return NULL;
}

static qn_status set_tokens(qn_tokenizer *t, const qn_gguf_meta *m, const char *file, qn_err *err)
{
    const qn_gguf_value *tokens = array(m, file, "tokenizer.ggml.tokens", true, err);
    if (!tokens)
        return QN_E_FORMAT;
    const qn_gguf_value *types = array(m, file, "tokenizer.ggml.token_type", false, err);
    if (!types)
        return QN_E_FORMAT;
    if (types->n != tokens->n)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: tokenizer.ggml.token_type: found %zu elements, want %zu as .tokens",
                       file, types->n, tokens->n);
    char where[320];
    (void)snprintf(where, sizeof(where), "%s: tokenizer.ggml.tokens", file);
    for (size_t i = 0; i < tokens->n; i++) {
        int64_t type = qn_gguf_item_i64(types, i);
        qn_added_token added = {.id = (int32_t)i, .special = type == TYPE_CONTROL};
        if (type == TYPE_NORMAL)
            QN_TRY(qn_tokenizer_set(t, (int64_t)i, tokens->strings[i], where, err));
        else if (type == TYPE_CONTROL || type == TYPE_USER)
            QN_TRY(qn_tokenizer_add(t, tokens->strings[i], &added, where, err));
        else if (type != TYPE_UNUSED)
            return qn_fail(err, QN_E_UNSUPPORTED,
                           "%s: tokenizer.ggml.token_type[%zu]: found %lld, want 1, 3, 4 or 5",
                           file, i, (long long)type);
    }
    return QN_OK;
}

static qn_status set_merges(qn_tokenizer *t, const qn_gguf_meta *m, const char *file, qn_err *err)
{
    const qn_gguf_value *merges = array(m, file, "tokenizer.ggml.merges", true, err);
    if (!merges)
        return QN_E_FORMAT;
    char where[320];
    (void)snprintf(where, sizeof(where), "%s: tokenizer.ggml.merges", file);
    if (!qn_pairs_reserve(&t->bpe.merges, merges->n))
        return qn_fail_nomem(err, merges->n);
    for (size_t i = 0; i < merges->n && i < QN_PAIR_NONE; i++)
        QN_TRY(qn_tokenizer_merge_line(t, merges->strings[i], (uint32_t)i, where, err));
    return QN_OK;
}

static qn_status set_ids(qn_tokenizer *t, const qn_gguf_meta *m, const char *file, qn_err *err)
{
    uint32_t max = (uint32_t)t->vocab.n - 1, bos = UINT32_MAX, eos = UINT32_MAX;
    QN_TRY(qn_gguf_u32(m, file, "tokenizer.ggml.bos_token_id", 0, max, &bos, err));
    QN_TRY(qn_gguf_u32(m, file, "tokenizer.ggml.eos_token_id", 0, max, &eos, err));
    QN_TRY(qn_gguf_bool(m, file, "tokenizer.ggml.add_bos_token", &t->add_bos, err));
    bool add_eos = false;
    QN_TRY(qn_gguf_bool(m, file, "tokenizer.ggml.add_eos_token", &add_eos, err));
    t->bos = (int32_t)bos; /* UINT32_MAX is -1 */
    t->eos = (int32_t)eos;
    t->end = add_eos ? t->eos : -1;
    t->add_bos = t->add_bos && t->bos >= 0;
    return QN_OK;
}

static qn_status build(qn_tokenizer *t, const qn_gguf_meta *m, const char *file, qn_err *err)
{
    QN_TRY(set_rule(t, m, file, err));
    QN_TRY(set_tokens(t, m, file, err));
    QN_TRY(set_merges(t, m, file, err));
    QN_TRY(qn_tokenizer_finish(t, false, file, err));
    return set_ids(t, m, file, err);
}

qn_status qn_tokenizer_from_gguf(qn_tokenizer **out, const qn_gguf_meta *m, const char *file,
                                 qn_err *err)
{
    qn_tokenizer *t = qn_tokenizer_alloc();
    qn_status s = t ? build(t, m, file, err) : qn_fail_nomem(err, sizeof(*t));
    if (s == QN_OK)
        *out = t;
    else
        qn_tokenizer_free(t);
    return s;
}
