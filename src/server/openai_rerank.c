/* SPDX-License-Identifier: Apache-2.0
 * openai_rerank.c - POST /v1/rerank, /rerank, /v1/score, /score: how well documents answer a query, as vLLM and Jina ask it.
 *
 *   query, document --its template--> one prompt each --> logits of what comes next --> p(yes) of yes and no
 *
 * That is what Qwen3-Reranker was trained for. Its files look like those of any Qwen3, so the name has to say that it is one.
 * Texts of a request are never special tokens. Source: the model card of Qwen3-Reranker. Threads: workers. */
#include "server/embed.h"
#include "server/openai.h"

#include "base/limits.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

typedef struct pair {
    const json_t *query, *document; /* strings */
    double score;
    size_t index;
} pair;

typedef struct ranking {
    qn_exchange *x;
    qn_engine *engine;
    const char *name, *model; /* as asked for; as served */
    const json_t *query, *documents, *text_1, *text_2;
    const char *instruction;
    int top_n;
    bool return_documents;
    int32_t yes, no;
    pair *pairs;
    size_t n_pairs, n_tokens;
} ranking;

static const qn_field fields[] = {
    {"model", QN_FIELD_STR, offsetof(ranking, name), 0, 0},
    {"query", QN_FIELD_ANY, offsetof(ranking, query), 0, 0},
    {"documents", QN_FIELD_ARRAY, offsetof(ranking, documents), 0, 0},
    {"text_1", QN_FIELD_ANY, offsetof(ranking, text_1), 0, 0},
    {"text_2", QN_FIELD_ANY, offsetof(ranking, text_2), 0, 0},
    {"instruction", QN_FIELD_STR, offsetof(ranking, instruction), 0, 0},
    {"top_n", QN_FIELD_INT, offsetof(ranking, top_n), 0, INT32_MAX},
    {"return_documents", QN_FIELD_BOOL, offsetof(ranking, return_documents), 0, 0},
};

/* ---- the model ---- */

static bool names_reranker(const char *name)
{
    static const char word[] = "rerank";
    for (; strlen(name) >= sizeof word - 1; name++)
        if (strncasecmp(name, word, sizeof word - 1) == 0)
            return true;
    return false;
}

static qn_status find_token(const qn_engine *e, const char *word, int32_t *id, qn_err *err)
{
    int32_t *ids;
    size_t n;
    QN_TRY(qn_tokenize(e, word, strlen(word), false, &ids, &n, err));
    *id = n ? ids[0] : -1; /* in Qwen's vocabulary the whole word */
    qn_release(ids);
    return QN_OK;
}

static qn_status check_model(ranking *r, qn_err *err)
{
    qn_engine_info info;
    qn_engine_get_info(r->engine, &info);
    if (!names_reranker(r->model) && !names_reranker(info.name) &&
        !(r->name && names_reranker(r->name))) /* an alias */
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "model '%.100s' is no reranker; one has \"rerank\" in its name or in what "
                       "it is served as",
                       r->model);
    QN_TRY(find_token(r->engine, "yes", &r->yes, err));
    QN_TRY(find_token(r->engine, "no", &r->no, err));
    return r->yes != r->no && r->yes >= 0 && r->no >= 0
               ? QN_OK
               : qn_fail(err, QN_E_UNSUPPORTED, "model '%.100s' has no tokens for yes and no",
                         r->model);
}

/* ---- texts ---- */

/* A string, or an object with one as "text". */
static const json_t *text_of(const json_t *v)
{
    const json_t *text = json_is_object(v) ? json_object_get(v, "text") : v;
    return json_is_string(text) ? text : NULL;
}

static qn_status take_pairs(ranking *r, const char *const names[2], const json_t *const texts[2],
                            const char **param, qn_err *err)
{
    size_t n[2];
    for (int k = 0; k < 2; k++) {
        *param = names[k];
        n[k] = json_is_array(texts[k]) ? json_array_size(texts[k]) : 1;
        if (n[k] < 1 || n[k] > QN_LIMIT_PROMPTS)
            return qn_fail(err, QN_E_ARG, "%s: found %zu, want 1 to %d", names[k], n[k],
                           QN_LIMIT_PROMPTS);
    }
    if (n[0] != 1 && n[0] != n[1])
        return qn_fail(err, QN_E_ARG, "%s: found %zu, want 1, or as many as of %s, which are %zu",
                       names[0], n[0], names[1], n[1]);
    r->pairs = qn_arena_alloc(qn_x_arena(r->x), n[1] * sizeof *r->pairs);
    if (!r->pairs)
        return qn_fail_nomem(err, n[1] * sizeof *r->pairs);
    r->n_pairs = n[1];
    for (size_t i = 0; i < n[1]; i++) {
        const json_t *text[2];
        for (int k = 0; k < 2; k++) {
            const json_t *v = texts[k];
            if (json_is_array(v))
                v = json_array_get(v, n[k] == 1 ? 0 : i);
            text[k] = text_of(v);
            *param = names[k];
            if (!text[k])
                return qn_fail(err, QN_E_ARG, "%s: found %s, want text", names[k],
                               v ? qn_json_type_name(v) : "nothing");
        }
        r->pairs[i] = (pair){.query = text[0], .document = text[1], .index = i};
    }
    return QN_OK;
}

static void add_string(qn_str *s, const json_t *v)
{
    qn_str_add(s, json_string_value(v), json_string_length(v));
}

/* The three parts are tokenised one by one, as the model's card does it. */
static qn_status encode(const ranking *r, const pair *p, int32_t **out, size_t *n_out, qn_err *err)
{
    static const char before[] =
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        "and the Instruct provided. Note that the answer can only be \"yes\" or "
        "\"no\".<|im_end|>\n<|im_start|>user\n";
    static const char after[] = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
    static const char task[] =
        "Given a web search query, retrieve relevant passages that answer the query";
    qn_str middle = {0};
    int32_t *ids[3] = {0}, *all = NULL;
    size_t n[3] = {0}, at = 0;
    qn_str_addf(&middle, "<Instruct>: %s\n<Query>: ", r->instruction ? r->instruction : task);
    add_string(&middle, p->query);
    qn_str_adds(&middle, "\n<Document>: ");
    add_string(&middle, p->document);
    qn_status s = middle.failed ? qn_fail_nomem(err, middle.n)
                                : qn_tokenize(r->engine, before, sizeof before - 1, true, &ids[0],
                                              &n[0], err);
    if (s == QN_OK)
        s = qn_tokenize(r->engine, middle.p, middle.n, false, &ids[1], &n[1], err);
    if (s == QN_OK)
        s = qn_tokenize(r->engine, after, sizeof after - 1, true, &ids[2], &n[2], err);
    if (s == QN_OK && !(all = qn_alloc_array(n[0] + n[1] + n[2], sizeof *all, QN_MEM_REQUEST)))
        s = qn_fail_nomem(err, (n[0] + n[1] + n[2]) * sizeof *all);
    for (int i = 0; i < 3; i++) {
        if (s == QN_OK)
            memcpy(all + at, ids[i], n[i] * sizeof *all);
        at += n[i];
        qn_release(ids[i]);
    }
    qn_str_fini(&middle);
    *out = all;
    *n_out = at;
    return s;
}

/* ---- scores ---- */

typedef struct judge {
    const ranking *r;
    double yes, no;
} judge;

static bool on_logits(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    judge *j = arg;
    (void)pos;
    (void)n_vocab;
    j->yes = (double)logits[j->r->yes];
    j->no = (double)logits[j->r->no];
    return true;
}

static qn_status score(ranking *r, pair *p, qn_err *err)
{
    int32_t *ids;
    size_t n;
    QN_TRY(encode(r, p, &ids, &n, err));
    judge j = {.r = r};
    const qn_scoring scoring = {.ids = ids,
                                .n_ids = n,
                                .chunk = QN_EMBED_CHUNK,
                                .first = n - 1,
                                .on_logits = on_logits,
                                .arg = &j};
    qn_status s = qn_embed_check("documents", r->n_tokens + n, err);
    if (s == QN_OK)
        s = qn_x_score(r->x, r->engine, &scoring, err);
    qn_free(ids);
    p->score = 1 / (1 + exp(j.no - j.yes));
    r->n_tokens += n;
    return s;
}

/* Everything but the answer; false: it is answered, or will be by another worker. */
static bool run(ranking *r, const char *const names[2], bool is_score)
{
    static const char *const cuts[] = {"truncate_prompt_tokens", "max_tokens_per_doc",
                                       "max_chunks_per_doc"};
    const char *param = NULL;
    qn_err err = {0};
    const json_t *body = qn_x_json(r->x);
    if (!body || qn_x_put_off(r->x, QN_X_SCORING))
        return false;
    qn_status s = qn_fields_read(body, fields, QN_COUNT(fields), r, &param, &err);
    if (s == QN_OK && !(r->engine = qn_x_model(r->x, r->name, &r->model)))
        return false;
    for (size_t i = 0; s == QN_OK && i < QN_COUNT(cuts); i++) {
        param = cuts[i];
        if (json_is_integer(json_object_get(body, param)))
            s = qn_fail(&err, QN_E_UNSUPPORTED, "%s: documents are not cut here; leave it out",
                        param);
    }
    if (s == QN_OK) {
        param = "model";
        s = check_model(r, &err);
    }
    if (s == QN_OK) {
        const json_t *const texts[2] = {is_score ? r->text_1 : r->query,
                                        is_score ? r->text_2 : r->documents};
        s = take_pairs(r, names, texts, &param, &err);
    }
    for (size_t i = 0; s == QN_OK && i < r->n_pairs; i++) {
        param = names[1];
        s = score(r, &r->pairs[i], &err);
    }
    if (s != QN_OK)
        qn_x_fail(r->x, &err, param);
    return s == QN_OK;
}

/* ---- answers ---- */

static int by_score(const void *a, const void *b)
{
    const pair *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static void add_usage(qn_str *s, const ranking *r)
{
    qn_str_addf(s, "\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu}", r->n_tokens,
                r->n_tokens);
}

void qn_openai_rerank(qn_exchange *x)
{
    static const char *const names[2] = {"query", "documents"};
    ranking r = {.x = x, .return_documents = true};
    char id[QN_ANSWER_ID];
    qn_str s = {0};
    if (!run(&r, names, false))
        return;
    size_t n = r.top_n ? QN_MIN((size_t)r.top_n, r.n_pairs) : r.n_pairs;
    qsort(r.pairs, r.n_pairs, sizeof *r.pairs, by_score);
    qn_answer_make_id(id, "rerank-");
    qn_str_addf(&s, "{\"id\":\"%s\",\"model\":", id);
    qn_str_add_json(&s, r.model, strlen(r.model));
    qn_str_addc(&s, ',');
    add_usage(&s, &r);
    qn_str_adds(&s, ",\"results\":[");
    for (size_t i = 0; i < n; i++) {
        const pair *p = &r.pairs[i];
        qn_str_addf(&s, "%s{\"index\":%zu,", i ? "," : "", p->index);
        if (r.return_documents) {
            qn_str_adds(&s, "\"document\":{\"text\":");
            qn_str_add_json(&s, json_string_value(p->document), json_string_length(p->document));
            qn_str_adds(&s, "},");
        }
        qn_str_addf(&s, "\"relevance_score\":%.9g}", p->score);
    }
    qn_str_adds(&s, "]}");
    qn_x_reply_json(x, 200, &s);
}

void qn_openai_score_pairs(qn_exchange *x)
{
    static const char *const names[2] = {"text_1", "text_2"};
    ranking r = {.x = x};
    char id[QN_ANSWER_ID];
    qn_str s = {0};
    if (!run(&r, names, true))
        return;
    qn_answer_make_id(id, "score-");
    qn_str_addf(&s, "{\"id\":\"%s\",\"object\":\"list\",\"created\":%lld,\"model\":", id,
                (long long)time(NULL));
    qn_str_add_json(&s, r.model, strlen(r.model));
    qn_str_adds(&s, ",\"data\":[");
    for (size_t i = 0; i < r.n_pairs; i++)
        qn_str_addf(&s, "%s{\"index\":%zu,\"object\":\"score\",\"score\":%.9g}", i ? "," : "", i,
                    r.pairs[i].score);
    qn_str_adds(&s, "],");
    add_usage(&s, &r);
    qn_str_addc(&s, '}');
    qn_x_reply_json(x, 200, &s);
}
