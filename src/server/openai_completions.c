/* SPDX-License-Identifier: Apache-2.0
 * openai_completions.c - POST /v1/completions: the raw text or token ids of prompts, continued.
 *
 * Special tokens written in a prompt are special tokens here: the prompt is the model's whole input, and who writes it could send
 * ids as well. */
#include "server/openai.h"

#include "base/limits.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- log-probabilities in the old shape ---- */

/* The entries of a piece: those of the echoed prompt first. */
typedef struct listing {
    const qn_openai_answer *a;
    const qn_openai_choice *c;
    const qn_openai_prompt *p;
    size_t n_scores, first, n;
} listing;

static const qn_logprob *entry_at(const listing *l, size_t i)
{
    return i < l->n_scores ? l->p->scores + i * (1 + (size_t)l->p->n_top)
                           : qn_openai_entry(l->a, l->c, l->first + i - l->n_scores);
}

/* A token's text as a JSON string; of a part of a character its bytes, so that different tokens stay different. */
static void add_token(qn_str *s, const qn_logprob *lp)
{
    if (qn_utf8_valid(lp->text, lp->n_text)) {
        qn_str_add_json(s, lp->text, lp->n_text);
        return;
    }
    qn_str_adds(s, "\"bytes:");
    for (size_t i = 0; i < lp->n_text; i++)
        qn_str_addf(s, "\\\\x%02x", (unsigned char)lp->text[i]);
    qn_str_addc(s, '"');
}

static bool is_same_text(const qn_logprob *a, const qn_logprob *b)
{
    return a->n_text == b->n_text && memcmp(a->text, b->text, a->n_text) == 0;
}

/* {text: logprob} of the best tokens, and of the chosen one if it is none of them. */
static void add_top(qn_str *s, const listing *l, const qn_logprob *lp)
{
    int n = 0;
    bool has_chosen = false;
    qn_str_addc(s, '{');
    for (int k = 1; k <= l->a->n_top && lp[k].token_id >= 0; k++) {
        bool is_known = false;
        for (int j = 1; j < k; j++)
            is_known |= is_same_text(&lp[j], &lp[k]);
        has_chosen |= is_same_text(&lp[k], lp);
        if (is_known)
            continue;
        if (n++)
            qn_str_addc(s, ',');
        add_token(s, &lp[k]);
        qn_str_addc(s, ':');
        qn_answer_add_float(s, lp[k].logprob);
    }
    if (!has_chosen) {
        if (n)
            qn_str_addc(s, ',');
        add_token(s, lp);
        qn_str_addc(s, ':');
        qn_answer_add_float(s, lp->logprob);
    }
    qn_str_addc(s, '}');
}

/* Characters that begin in it. */
static size_t n_chars(const qn_logprob *lp)
{
    size_t n = 0;
    for (size_t i = 0; i < lp->n_text; i++)
        n += ((unsigned char)lp->text[i] & 0xc0) != 0x80;
    return n;
}

static void add_lists(qn_str *s, const listing *l, size_t *chars)
{
    qn_str_adds(s, ",\"logprobs\":{\"tokens\":[");
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            qn_str_addc(s, ',');
        add_token(s, entry_at(l, i));
    }
    qn_str_adds(s, "],\"token_logprobs\":[");
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            qn_str_addc(s, ',');
        if (isnan(entry_at(l, i)->logprob))
            qn_str_adds(s, "null");
        else
            qn_answer_add_float(s, entry_at(l, i)->logprob);
    }
    qn_str_adds(s, "],\"top_logprobs\":[");
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            qn_str_addc(s, ',');
        if (isnan(entry_at(l, i)->logprob))
            qn_str_adds(s, "null");
        else
            add_top(s, l, entry_at(l, i));
    }
    qn_str_adds(s, "],\"text_offset\":[");
    for (size_t i = 0; i < l->n; i++) {
        qn_str_addf(s, "%s%zu", i ? "," : "", *chars);
        *chars += n_chars(entry_at(l, i));
    }
    qn_str_adds(s, "]}");
}

static void add_text(qn_str *s, const qn_openai_prompt *p, const qn_openai_piece *piece)
{
    qn_str joined = {0};
    if (!p->echo || (!piece->is_whole && !piece->is_start)) {
        qn_str_add_json(s, piece->text, piece->n_text);
        return;
    }
    qn_str_add(&joined, p->echo, p->n_echo);
    qn_str_add(&joined, piece->text, piece->n_text);
    s->failed |= joined.failed;
    qn_str_add_json(s, joined.p ? joined.p : "", joined.n);
    qn_str_fini(&joined);
}

static void add_piece(qn_str *s, const qn_openai_answer *a, qn_openai_choice *c,
                      const qn_openai_prompt *p, const qn_openai_piece *piece)
{
    listing l = {.a = a, .c = c, .p = p, .first = piece->first};
    qn_str_adds(s, ",\"text\":");
    add_text(s, p, piece);
    if (p->echo && p->scores && (piece->is_whole || piece->is_start))
        l.n_scores = p->n_ids;
    l.n = l.n_scores + piece->end - piece->first;
    if (a->n_top < 0 || (!l.n && !piece->is_whole))
        qn_str_adds(s, ",\"logprobs\":null");
    else
        add_lists(s, &l, &c->n_chars);
}

static const qn_openai_shape shape = {"cmpl-", "text_completion", "text_completion", "prompt",
                                      false,   add_piece};

/* ---- prompts ---- */

typedef struct own {
    const json_t *prompt;
    const char *suffix;
    int logprobs, best_of;
    bool echo, add_special;
} own;

static const qn_field own_fields[] = {
    {"prompt", QN_FIELD_ANY, offsetof(own, prompt), 0, 0},
    {"suffix", QN_FIELD_STR, offsetof(own, suffix), 0, 0},
    {"logprobs", QN_FIELD_INT, offsetof(own, logprobs), 0, QN_LIMIT_TOP_LOGPROBS},
    {"best_of", QN_FIELD_INT, offsetof(own, best_of), 1, QN_LIMIT_CANDIDATES},
    {"echo", QN_FIELD_BOOL, offsetof(own, echo), 0, 0},
    {"add_special_tokens", QN_FIELD_BOOL, offsetof(own, add_special), 0, 0},
};

/* <|fim_prefix|>PROMPT<|fim_suffix|>SUFFIX<|fim_middle|>, where the model has these tokens; the texts between hold none. */
static qn_status take_middle(const qn_engine *e, const json_t *text, const char *suffix,
                             qn_openai_prompt *p, qn_err *err)
{
    const struct {
        const char *text;
        size_t n;
        bool is_token;
    } parts[] = {
        {"<|fim_prefix|>", 14, true}, {json_string_value(text), json_string_length(text), false},
        {"<|fim_suffix|>", 14, true}, {suffix, strlen(suffix), false},
        {"<|fim_middle|>", 14, true},
    };
    size_t cap = 0;
    for (size_t i = 0; i < QN_COUNT(parts); i++) {
        int32_t *ids;
        size_t n;
        QN_TRY(qn_tokenize(e, parts[i].text, parts[i].n, parts[i].is_token, &ids, &n, err));
        bool ok = qn_grow(&p->ids, &cap, p->n_ids + n + 1, sizeof *p->ids, QN_MEM_REQUEST);
        if (ok && n)
            memcpy(p->ids + p->n_ids, ids, n * sizeof *ids);
        qn_release(ids);
        if (!ok)
            return qn_fail_nomem(err, n * sizeof *ids);
        p->n_ids += n;
        if (parts[i].is_token && n != 1)
            return qn_fail(err, QN_E_UNSUPPORTED,
                           "suffix: this model has no tokens to fill in a middle");
    }
    return QN_OK;
}

static qn_status take_prompt(const qn_openai_answer *a, const own *o, const json_t *v,
                             qn_openai_prompt *p, qn_err *err)
{
    const qn_engine *e = a->engine;
    if (json_is_array(v)) {
        qn_engine_info info;
        qn_engine_get_info(e, &info);
        QN_TRY(qn_fields_ids("prompt", v, info.n_vocab, NULL, &p->ids, &p->n_ids, err));
        if (!o->echo)
            return QN_OK;
        QN_TRY(qn_detokenize(e, p->ids, p->n_ids, false, &p->text, &p->n_echo, err));
        p->echo = p->text;
        return QN_OK;
    }
    if (!json_is_string(v))
        return qn_fail(err, QN_E_ARG, "prompt: found %s in the array, want strings, or token ids",
                       qn_json_type_name(v));
    const char *text = json_string_value(v);
    size_t n = json_string_length(v);
    if (o->echo) {
        p->echo = text;
        p->n_echo = n;
    }
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    if (n > info.max_prompt_bytes)
        return qn_fail(err, QN_E_TOO_LONG,
                       "this model's maximum context length is %d tokens; the prompt has more, in "
                       "%zu bytes",
                       info.max_ctx, n);
    if (o->suffix)
        return take_middle(e, v, o->suffix, p, err);
    if (!o->add_special)
        return qn_tokenize(e, text, n, true, &p->ids, &p->n_ids, err);
    qn_prompt raw = {.text = text, .n_text = n, .parse_special = true};
    return qn_encode(e, &raw, &p->ids, &p->n_ids, err);
}

static qn_status read_prompts(qn_exchange *x, qn_openai_answer *a, const own *o, qn_err *err)
{
    const json_t *v = o->prompt;
    if (!json_is_string(v) && !json_is_array(v))
        return qn_fail(err, QN_E_ARG,
                       "prompt: found %s, want a string, token ids, or an array of either",
                       v ? qn_json_type_name(v) : "nothing");
    bool is_one = json_is_string(v) || json_is_number(json_array_get(v, 0));
    size_t n = is_one ? 1 : json_array_size(v);
    if (!n || n > QN_LIMIT_PROMPTS)
        return qn_fail(err, QN_E_ARG, "prompt: found %zu prompts, want 1 to %d", n,
                       QN_LIMIT_PROMPTS);
    QN_TRY(qn_openai_take_prompts(x, a, n, err));
    for (size_t i = 0; i < n; i++) {
        QN_TRY(take_prompt(a, o, is_one ? v : json_array_get(v, i), &a->prompts[i], err));
        if (!a->prompts[i].n_ids)
            return qn_fail(err, QN_E_ARG, "prompt: found no tokens, want at least one");
    }
    return QN_OK;
}

/* ---- the rest ---- */

static bool has_max_tokens(const json_t *body)
{
    static const char *const names[] = {"max_tokens", "max_completion_tokens", "max_new_tokens"};
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        const json_t *v = json_object_get(body, names[i]);
        if (v && !json_is_null(v))
            return true;
    }
    return false;
}

static qn_status read_own(qn_openai_answer *a, own *o, const char **param, qn_err *err)
{
    QN_TRY(qn_fields_read(a->body, own_fields, QN_COUNT(own_fields), o, param, err));
    a->n_top = o->logprobs;
    a->stops_shown = o->echo;
    if (o->suffix && !*o->suffix)
        o->suffix = NULL;
    if (!has_max_tokens(a->body))
        a->params.max_tokens = 16;
    *param = "suffix";
    if (o->suffix && (o->echo || !json_is_string(o->prompt)))
        return qn_fail(err, QN_E_ARG, "suffix: want one prompt that is a string, and no echo");
    *param = "best_of";
    if (o->best_of && o->best_of < a->params.n)
        return qn_fail(err, QN_E_ARG, "best_of: found %d, want at least n, which is %d", o->best_of,
                       a->params.n);
    if (o->best_of > a->params.n && a->is_stream)
        return qn_fail(err, QN_E_ARG, "best_of: found more than n, want no stream then");
    if (o->best_of > a->params.n && !a->params.beam_width)
        a->params.n = o->best_of;
    *param = NULL;
    return QN_OK;
}

void qn_openai_completions(qn_exchange *x)
{
    const char *param = NULL;
    qn_err err = {0};
    own o = {.logprobs = -1, .add_special = true};
    const json_t *body = qn_x_json(x);
    qn_openai_answer *a = body ? qn_openai_open(x, body, &shape) : NULL;
    if (!a)
        return;
    qn_status s = read_own(a, &o, &param, &err);
    bool is_scored = a->n_prompt_top >= 0 || (o.echo && o.logprobs >= 0);
    if (s == QN_OK && is_scored && qn_x_put_off(x, QN_X_SCORING)) {
        qn_openai_answer_free(a);
        return;
    }
    if (s == QN_OK) {
        param = o.suffix ? "suffix" : "prompt";
        s = read_prompts(x, a, &o, &err);
    }
    if (s == QN_OK)
        s = qn_demand_settle_raw(&a->demand, a->engine, &a->params.grammar, &param, &err);
    if (s == QN_OK) {
        qn_openai_run(x, a);
        return;
    }
    qn_x_fail(x, &err, param);
    qn_openai_answer_free(a);
}
