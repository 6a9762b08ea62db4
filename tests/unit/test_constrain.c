/* SPDX-License-Identifier: Apache-2.0
 * test_constrain.c - answers of a form: whole or cut, never anything else, from models that want to say nonsense; the same
 * whether tokens are forced or chosen, drafted, preempted, computed alone or beside others; and the cache of grammars. */
#include "golden.h"

#include "engine/engine.h"
#include <pthread.h>
#include <quern/grammar.h>
#include <regex.h>

#define MAX_CANDIDATES 4
#define MAX_IDS        400

static const char *const models[] = {"models/qwen3-tied-bf16", "models/qwen2-tied-f16",
                                     "gguf/qwen2.gguf"};

static qn_config config_of(const char *name, char *path, size_t size)
{
    qn_config c = qn_config_default();
    (void)snprintf(path, size, "%s/tests/golden/%s", QN_SOURCE_DIR, name);
    c.model = path;
    c.n_threads = 1;
    c.max_ctx = 512;
    c.max_seqs = 8;
    c.max_batch_tokens = 64;
    c.speculation = QN_SPEC_OFF;
    return c;
}

static qn_engine *open_named(const char *name)
{
    char path[512];
    qn_config c = config_of(name, path, sizeof path);
    return open_engine(&c);
}

static qn_grammar *open_text(qn_engine *e, qn_grammar_kind kind, const char *text)
{
    qn_grammar *g;
    qn_err err;
    if (qn_grammar_open(&g, e, kind, text, strlen(text), &err) != QN_OK)
        fail_msg("%s: %s", text, err.msg);
    return g;
}

/* ---- forms, and who judges their texts ---- */

static bool is_choice(const char *text, size_t n)
{
    static const char *const list[] = {"alpha", "beta", "gamma ray", "αβγ", "αβδ", "日本語"};
    for (size_t i = 0; i < QN_COUNT(list); i++)
        if (strlen(list[i]) == n && memcmp(list[i], text, n) == 0)
            return true;
    return false;
}

static const char expression[] = "[A-Z][a-z]{2,8}( [0-9]{1,3}){2}";

static bool is_match(const char *text, size_t n)
{
    char whole[64];
    regex_t re;
    (void)n;
    (void)snprintf(whole, sizeof whole, "^%s$", expression);
    assert_int_equal(regcomp(&re, whole, REG_EXTENDED | REG_NOSUB), 0);
    bool is_good = regexec(&re, text, 0, NULL, 0) == 0;
    regfree(&re);
    return is_good;
}

static bool is_record(const char *text, size_t n)
{
    json_t *v = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL), *tag;
    size_t i;
    bool is_good = json_object_size(v) == 4 && json_is_string(json_object_get(v, "name")) &&
                   json_is_boolean(json_object_get(v, "ok")) &&
                   json_is_integer(json_object_get(v, "age")) &&
                   json_integer_value(json_object_get(v, "age")) >= 0 &&
                   json_integer_value(json_object_get(v, "age")) <= 150 &&
                   json_is_array(json_object_get(v, "tags")) &&
                   json_array_size(json_object_get(v, "tags")) <= 3;
    json_array_foreach(json_object_get(v, "tags"), i, tag)
    {
        is_good = is_good && (strcmp(json_string_value(tag), "red") == 0 ||
                              strcmp(json_string_value(tag), "green") == 0);
    }
    json_decref(v);
    return is_good;
}

static bool is_nested(const char *text, size_t n)
{
    char open[MAX_IDS * 8];
    size_t depth = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '(' || text[i] == '[')
            open[depth++] = text[i];
        else if (!depth || (text[i] == ')') != (open[--depth] == '('))
            return false;
        if (!depth && i + 1 < n)
            return false;
    }
    return n && !depth;
}

static const struct form {
    const char *name;
    qn_grammar_kind kind;
    const char *text;
    bool (*is_whole)(const char *text, size_t n);
} forms[] = {
    {"choice", QN_GRAMMAR_CHOICE,
     "[\"alpha\", \"beta\", \"gamma ray\", \"αβγ\", \"αβδ\", \"日本語\"]", is_choice},
    {"regex", QN_GRAMMAR_REGEX, expression, is_match},
    {"schema", QN_GRAMMAR_SCHEMA,
     "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\", \"maxLength\": 12}, "
     "\"age\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": 150}, "
     "\"tags\": {\"type\": \"array\", \"items\": {\"enum\": [\"red\", \"green\"]}, \"maxItems\": "
     "3}, "
     "\"ok\": {\"type\": \"boolean\"}}, \"required\": [\"name\", \"age\", \"tags\", \"ok\"], "
     "\"additionalProperties\": false}",
     is_record},
    {"gbnf", QN_GRAMMAR_GBNF, "root ::= \"(\" root? \")\" | \"[\" root? \"]\"\n", is_nested},
};

/* ---- what a request said ---- */

typedef struct transcript {
    qn_str events[MAX_CANDIDATES]; /* to the bit */
    qn_str text[MAX_CANDIDATES];
    int32_t ids[MAX_CANDIDATES][MAX_IDS];
    size_t n_ids[MAX_CANDIDATES];
    qn_finish finish[MAX_CANDIDATES];
    int n_draft, n_accepted;
} transcript;

static void fini(transcript *t)
{
    for (size_t i = 0; i < MAX_CANDIDATES; i++) {
        qn_str_fini(&t->events[i]);
        qn_str_fini(&t->text[i]);
    }
    *t = (transcript){0};
}

static void note(transcript *t, const qn_event *ev)
{
    qn_str *s = &t->events[ev->index];
    qn_str_addf(s, "%d '", (int)ev->token_id);
    qn_str_add(s, ev->text, ev->n_text);
    qn_str_addf(s, "' %d %a", (int)ev->finish, (double)ev->score);
    for (size_t i = 0; i < ev->n_logprobs; i++)
        qn_str_addf(s, " %d:%a", (int)ev->logprobs[i].token_id, (double)ev->logprobs[i].logprob);
    qn_str_addc(s, '\n');
    qn_str_add(&t->text[ev->index], ev->text, ev->n_text);
    assert_true(t->n_ids[ev->index] < MAX_IDS);
    t->ids[ev->index][t->n_ids[ev->index]++] = ev->token_id;
    if (ev->finish)
        t->finish[ev->index] = ev->finish;
}

static void read_all(qn_request *r, transcript *t)
{
    qn_event ev = {0};
    qn_err err;
    while (ev.kind != QN_EVENT_DONE) {
        if (qn_request_next(r, &ev, &err) != QN_OK)
            fail_msg("%s", err.msg);
        if (ev.kind == QN_EVENT_TOKEN)
            note(t, &ev);
    }
    t->n_draft = ev.n_draft_tokens;
    t->n_accepted = ev.n_accepted_tokens;
}

static const qn_prompt prompt = {.text = "Say something about the weather, please: "};

static void ask(qn_engine *e, const qn_params *sp, transcript *t)
{
    qn_request *r = NULL;
    qn_err err;
    if (qn_request_submit(&r, e, &prompt, sp, &err) != QN_OK)
        fail_msg("%s", err.msg);
    read_all(r, t);
    qn_request_free(r);
}

static void same_events(const char *what, const transcript *a, const transcript *b)
{
    for (size_t i = 0; i < MAX_CANDIDATES; i++)
        if (a->events[i].n != b->events[i].n ||
            (a->events[i].n && memcmp(a->events[i].p, b->events[i].p, a->events[i].n) != 0))
            fail_msg("%s: candidate %zu:\n%s\nbut\n%s", what, i,
                     a->events[i].p ? a->events[i].p : "", b->events[i].p ? b->events[i].p : "");
}

static void same_ids(const char *what, const transcript *a, size_t i, const transcript *b, size_t j)
{
    if (a->n_ids[i] != b->n_ids[j] ||
        memcmp(a->ids[i], b->ids[j], a->n_ids[i] * sizeof a->ids[i][0]) != 0)
        fail_msg("%s: '%s', but '%s'", what, a->text[i].p ? a->text[i].p : "",
                 b->text[j].p ? b->text[j].p : "");
}

static qn_params sampled(float temperature, uint64_t seed, qn_grammar *g)
{
    qn_params p = qn_params_default();
    p.temperature = temperature;
    p.top_k = 0;
    p.top_p = 1;
    p.seed = seed;
    p.max_tokens = 150;
    p.grammar = g;
    return p;
}

/* The answer is whole, or cut and still the beginning of a whole one. */
static void check_form(const struct form *f, qn_grammar *g, const transcript *t, size_t i)
{
    const char *text = t->text[i].p ? t->text[i].p : "";
    qn_matcher *m;
    qn_err err;
    assert_int_equal(qn_matcher_new(&m, g, &err), QN_OK);
    for (size_t k = 0; k < t->n_ids[i]; k++)
        if (!qn_matcher_accept(m, t->ids[i][k]))
            fail_msg("%s: token %zu may not follow in '%s'", f->name, k, text);
    qn_matcher_free(m);
    if (t->finish[i] == QN_FINISH_STOP && !f->is_whole(text, t->text[i].n))
        fail_msg("%s: '%s' is not whole", f->name, text);
    if (t->finish[i] == QN_FINISH_LENGTH)
        assert_int_equal(t->n_ids[i], 150);
}

static void test_forms(void **state)
{
    (void)state;
    int n_whole = 0, n = 0;
    for (size_t m = 0; m < QN_COUNT(models); m++) {
        qn_engine *e = open_named(models[m]);
        for (size_t i = 0; i < QN_COUNT(forms); i++) {
            qn_grammar *g = open_text(e, forms[i].kind, forms[i].text);
            for (uint64_t seed = 0; seed < 24; seed++, n++) {
                qn_params sp = sampled(0.25f * (float)(seed % 8), seed, g);
                if (seed % 3 == 1) {
                    sp.top_k = 20;
                    sp.top_p = 0.9f;
                }
                if (seed % 5 == 2) {
                    sp.repetition_penalty = 1.1f;
                    sp.frequency_penalty = 0.3f;
                }
                sp.min_tokens = seed % 7 == 3 ? 9 : 0;
                sp.ignore_eos = seed % 4 == 3;
                transcript a = {0}, b = {0};
                ask(e, &sp, &a);
                sp.n_logprobs = 2; /* asked for or not */
                ask(e, &sp, &b);
                check_form(&forms[i], g, &a, 0);
                same_ids("with log-probabilities", &a, 0, &b, 0);
                n_whole += a.finish[0] == QN_FINISH_STOP;
                fini(&a);
                fini(&b);
            }
            qn_grammar_close(g);
        }
        qn_engine_free(e);
    }
    print_message("%d of %d answers are whole\n", n_whole, n);
    assert_true(n_whole > n / 2 && n_whole <= n);
}

/* Candidate i is what a request alone with seed + i says, and all of it is the same each time. */
static void test_candidates(void **state)
{
    (void)state;
    qn_engine *e = open_named(models[0]);
    for (size_t i = 0; i < QN_COUNT(forms); i++) {
        qn_grammar *g = open_text(e, forms[i].kind, forms[i].text);
        static transcript all, again, one;
        qn_params sp = sampled(1.2f, 40, g);
        sp.n = 4;
        ask(e, &sp, &all);
        ask(e, &sp, &again);
        same_events(forms[i].name, &all, &again);
        sp.n = 1;
        for (size_t k = 0; k < 4; k++) {
            sp.seed = 40 + k;
            ask(e, &sp, &one);
            same_ids(forms[i].name, &all, k, &one, 0);
            check_form(&forms[i], g, &all, k);
            fini(&one);
        }
        fini(&all);
        fini(&again);
        qn_grammar_close(g);
    }
    qn_engine_free(e);
}

static void test_drafts(void **state)
{
    (void)state;
    char path[512];
    int n_draft = 0, n_accepted = 0;
    qn_config c = config_of(models[0], path, sizeof path);
    qn_engine *plain = open_engine(&c);
    for (int kind = 0; kind < 2; kind++) {
        c.speculation = kind ? QN_SPEC_DRAFT : QN_SPEC_NGRAM;
        c.draft_model = kind ? path : NULL;
        c.max_draft = 6;
        qn_engine *e = open_engine(&c);
        for (size_t i = 0; i < QN_COUNT(forms); i++)
            for (uint64_t seed = 0; seed < 6; seed++) {
                qn_grammar *a = open_text(plain, forms[i].kind, forms[i].text),
                           *b = open_text(e, forms[i].kind, forms[i].text);
                static transcript x, y;
                qn_params sp = sampled(0.3f * (float)(seed % 3), seed, a);
                sp.n_logprobs = seed % 2 ? 1 : -1;
                sp.n = seed == 5 ? 3 : 1;
                ask(plain, &sp, &x);
                sp.grammar = b;
                ask(e, &sp, &y);
                same_events(forms[i].name, &x, &y);
                n_draft += y.n_draft;
                n_accepted += y.n_accepted;
                fini(&x);
                fini(&y);
                qn_grammar_close(a);
                qn_grammar_close(b);
            }
        qn_engine_free(e);
    }
    print_message("%d of %d drafts accepted\n", n_accepted, n_draft);
    assert_true(n_accepted > 20 && n_accepted < n_draft);
    qn_engine_free(plain);
}

/* Many at once in a cache too small for them: preempted, each as when alone, all blocks come back. */
static void test_pressure(void **state)
{
    (void)state;
    enum { N = 8 };
    char path[512];
    qn_err err;
    qn_config c = config_of(models[1], path, sizeof path);
    static transcript want[N], got[N];
    qn_params sp[N];
    qn_request *r[N];
    c.n_kv_blocks = 7;
    c.max_batch_tokens = 24;
    c.max_ctx = 256;
    qn_engine *e = open_engine(&c);
    for (size_t i = 0; i < N; i++) {
        const struct form *f = &forms[i / 2];
        sp[i] =
            sampled(i < 4 ? 1.0f : 0, i + 1,
                    i % 2 ? open_text(e, QN_GRAMMAR_REGEX, "a+") : open_text(e, f->kind, f->text));
        sp[i].max_tokens = 120;
        sp[i].ignore_eos = i % 2;
        sp[i].n = i == 4 ? 3 : 1;
        ask(e, &sp[i], &want[i]);
    }
    uint64_t before = e->scheduler.n_preempted;
    for (int round = 0; round < 3; round++) {
        qn_step_lock(e); /* all arrive before the first is over */
        for (size_t i = 0; i < N; i++)
            if (qn_request_submit(&r[i], e, &prompt, &sp[i], &err) != QN_OK)
                fail_msg("%s", err.msg);
        qn_step_unlock(e);
        for (size_t i = 0; i < N; i++) {
            read_all(r[i], &got[i]);
            qn_request_free(r[i]);
            same_events("pressure", &want[i], &got[i]);
            fini(&got[i]);
        }
        qn_step_lock(e);
        assert_int_equal(qn_scheduler_check(&e->scheduler, &err), QN_OK);
        assert_int_equal(qn_block_pool_n_free(e->pool), qn_block_pool_n_blocks(e->pool));
        qn_step_unlock(e);
    }
    assert_true(e->scheduler.n_preempted > before);
    for (size_t i = 0; i < N; i++) {
        fini(&want[i]);
        qn_grammar_close(sp[i].grammar);
    }
    qn_engine_free(e);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), 0);
}

/* ---- runs ---- */

/* What is settled is cut alike whatever follows, and most of a text is. */
static void test_settled(void **state)
{
    (void)state;
    static const char text[] =
        "{\"name of it\": \"it's Größe\",\n\n  \"_other_key\": 12345, <tool_call>\n"
        "</think>\"日本 語\": [ {} ]   }";
    static const char *const more[] = {"", "a", "\"", " ", "7", "\n", ": ", "é", "re", "</think>"};
    size_t n_settled = 0;
    for (size_t m = 0; m < QN_COUNT(models); m++) {
        qn_engine *e = open_named(models[m]);
        qn_err err;
        qn_ids part = {0}, all = {0};
        for (size_t n = 0; n <= strlen(text); n++) {
            size_t settled = qn_tokenizer_n_settled(e->tokenizer, text, n);
            assert_true(settled <= n);
            n_settled = settled;
            part.n = 0;
            if (!qn_utf8_valid(text, n))
                continue;
            assert_int_equal(
                qn_tokenizer_encode(e->tokenizer, text, settled, QN_SPECIAL_ADDED, &part, &err),
                QN_OK);
            for (size_t k = 0; k < QN_COUNT(more); k++) {
                char longer[256];
                (void)snprintf(longer, sizeof longer, "%.*s%s", (int)n, text, more[k]);
                all.n = 0;
                assert_int_equal(qn_tokenizer_encode(e->tokenizer, longer, strlen(longer),
                                                     QN_SPECIAL_ADDED, &all, &err),
                                 QN_OK);
                if (all.n < part.n ||
                    (part.n && memcmp(all.p, part.p, part.n * sizeof *part.p) != 0))
                    fail_msg("'%.*s' is not settled before '%s'", (int)settled, text, more[k]);
            }
        }
        assert_true(n_settled + 6 >= strlen(text));
        qn_ids_fini(&part);
        qn_ids_fini(&all);
        qn_engine_free(e);
    }
}

/* What can only be said in one way is said so, in few steps, with the tokenizer's own tokens. */
static void test_one_text(void **state)
{
    (void)state;
    static const char text[] = "There is one way to say this: \\\"{日本語}\\\" </think>\\n  and "
                               "<tool_call> it goes on, 2026.";
    static const char same[] =
        "There is one way to say this: \"{日本語}\" </think>\n  and <tool_call> it goes on, 2026.";
    for (size_t m = 0; m < QN_COUNT(models); m++) {
        qn_engine *e = open_named(models[m]);
        char list[256];
        qn_err err;
        qn_ids ids = {0};
        (void)snprintf(list, sizeof list, "[\"%s\"]", text);
        qn_grammar *g = open_text(e, QN_GRAMMAR_CHOICE, list);
        assert_int_equal(
            qn_tokenizer_encode(e->tokenizer, same, strlen(same), QN_SPECIAL_ADDED, &ids, &err),
            QN_OK);
        for (int scored = 0; scored < 2; scored++) {
            transcript t = {0};
            qn_params sp = sampled(1, 3, g);
            sp.n_logprobs = scored ? 0 : -1;
            uint64_t steps = e->counts.n_steps;
            ask(e, &sp, &t);
            assert_int_equal(t.finish[0], QN_FINISH_STOP);
            assert_string_equal(t.text[0].p, same);
            assert_int_equal(t.n_ids[0], ids.n);
            assert_memory_equal(t.ids[0], ids.p, ids.n * sizeof *ids.p);
            steps = e->counts.n_steps - steps;
            if (!scored)
                assert_true(steps <= 1 + ids.n / QN_LIMIT_FORCED_TOKENS);
            fini(&t);
        }
        qn_ids_fini(&ids);
        qn_grammar_close(g);
        qn_engine_free(e);
    }
}

typedef struct scores {
    const int32_t *ids;
    size_t n;
    double *logprobs; /* [i]: of ids[i] */
} scores;

static bool score_row(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    scores *s = arg;
    if (pos + 1 < s->n)
        s->logprobs[pos + 1] = qn_logprob_of(logits, n_vocab, s->ids[pos + 1]);
    return true;
}

/* Log-probabilities of tokens that were forced, chosen, drafted: the model's own. */
static void test_logprobs(void **state)
{
    (void)state;
    qn_engine *e = open_named(models[0]);
    qn_err err;
    for (size_t i = 0; i < QN_COUNT(forms); i++) {
        int32_t *ids, all[MAX_IDS];
        double want[MAX_IDS];
        size_t n;
        qn_grammar *g = open_text(e, forms[i].kind, forms[i].text);
        qn_params sp = sampled(0.8f, 9, g);
        sp.n_logprobs = 0;
        qn_request *r;
        qn_event ev = {0};
        float got[MAX_IDS];
        assert_int_equal(qn_encode(e, &prompt, &ids, &n, &err), QN_OK);
        memcpy(all, ids, n * sizeof *ids);
        size_t n_prompt = n;
        qn_release(ids);
        assert_int_equal(qn_request_submit(&r, e, &prompt, &sp, &err), QN_OK);
        while (ev.kind != QN_EVENT_DONE) {
            assert_int_equal(qn_request_next(r, &ev, &err), QN_OK);
            if (ev.kind != QN_EVENT_TOKEN)
                continue;
            assert_int_equal(ev.n_logprobs, 1);
            assert_int_equal(ev.logprobs[0].token_id, ev.token_id);
            got[n] = ev.logprobs[0].logprob;
            all[n++] = ev.token_id;
        }
        qn_request_free(r);
        scores s = {all, n, want};
        assert_int_equal(qn_score(e, all, n, 0, score_row, NULL, &s, &err), QN_OK);
        for (size_t k = n_prompt; k < n; k++)
            if ((float)want[k] != got[k])
                fail_msg("%s: token %zu has %a, want %a", forms[i].name, k, (double)got[k],
                         want[k]);
        qn_grammar_close(g);
    }
    qn_engine_free(e);
}

/* ---- ends ---- */

static void test_ends(void **state)
{
    (void)state;
    qn_engine *e = open_named(models[0]);
    const struct form *f = &forms[2];
    qn_grammar *g = open_text(e, f->kind, f->text);
    transcript all = {0}, t = {0};
    qn_params sp = sampled(1, 77, g);
    uint64_t steps = e->counts.n_steps;
    ask(e, &sp, &all);
    assert_int_equal(all.finish[0], QN_FINISH_STOP);
    size_t n = all.n_ids[0];
    assert_true(e->counts.n_steps - steps + 6 < n); /* keys come in runs */
    for (size_t k = 1; k <= n; k++) {               /* cut anywhere */
        sp.max_tokens = (int)k;
        ask(e, &sp, &t);
        assert_int_equal(t.n_ids[0], k);
        assert_memory_equal(t.ids[0], all.ids[0], k * sizeof t.ids[0][0]);
        assert_int_equal(t.finish[0], k == n ? QN_FINISH_STOP : QN_FINISH_LENGTH);
        fini(&t);
    }
    sp = sampled(1, 77, g);
    for (size_t at = 0; at + 4 < all.text[0].n; at++) { /* stop strings, in forced text too */
        char stop[4] = {0};
        memcpy(stop, all.text[0].p + at, 3);
        if (!qn_utf8_valid(stop, 3) || strlen(stop) != 3)
            continue;
        const char *list[] = {stop};
        sp.stop = list;
        sp.n_stop = 1;
        ask(e, &sp, &t);
        const char *first = memmem(all.text[0].p, all.text[0].n, stop, 3);
        assert_int_equal(t.finish[0], QN_FINISH_STOP);
        assert_int_equal(t.text[0].n, first - all.text[0].p);
        assert_memory_equal(t.text[0].p ? t.text[0].p : "", all.text[0].p, t.text[0].n);
        fini(&t);
    }
    sp = sampled(1, 77, g);
    for (size_t k = 0; k < n;
         k++) { /* each token as a stop token: at once, and not before min_tokens */
        sp.stop_ids = &all.ids[0][k];
        sp.n_stop_ids = 1;
        sp.min_tokens = 0;
        ask(e, &sp, &t);
        for (size_t i = 0; i < t.n_ids[0]; i++)
            assert_true((t.ids[0][i] == all.ids[0][k]) <= (i + 1 == t.n_ids[0]));
        fini(&t);
        sp.min_tokens = 6;
        qn_request *r;
        qn_event ev = {0};
        qn_err err;
        qn_status s = qn_request_submit(&r, e, &prompt, &sp, &err);
        for (int i = 0; s == QN_OK && ev.kind != QN_EVENT_DONE; i++) {
            s = qn_request_next(r, &ev, &err);
            if (s == QN_OK && ev.kind == QN_EVENT_TOKEN && i < 6)
                assert_int_not_equal(ev.token_id, all.ids[0][k]);
        }
        qn_request_free(r);
        if (s != QN_OK) /* no other token says it */
            assert_int_equal(s, QN_E_UNSUPPORTED);
    }
    fini(&all);
    qn_grammar_close(g);
    qn_engine_free(e);
}

/* An end token comes only where the text is whole, and ignore_eos keeps it away while anything else can come. */
static void test_end_tokens(void **state)
{
    (void)state;
    qn_engine *e = open_named(models[0]);
    qn_grammar *g = open_text(e, QN_GRAMMAR_REGEX, "(ab|cd){3,40}");
    qn_logit_bias wants_end[] = {{e->eos_ids[0], 100}, {e->eos_ids[1], 100}};
    for (uint64_t seed = 0; seed < 10; seed++) {
        transcript t = {0};
        qn_params sp = sampled(1, seed, g);
        sp.logit_bias = wants_end;
        sp.n_logit_bias = 2;
        ask(e, &sp, &t);
        assert_int_equal(t.finish[0], QN_FINISH_STOP);
        assert_int_equal(t.text[0].n, 6);
        fini(&t);
        sp.min_tokens = 20;
        ask(e, &sp, &t);
        assert_true(t.n_ids[0] >= 20 || t.text[0].n == 80);
        assert_int_equal(t.text[0].n % 2, 0);
        fini(&t);
        sp.min_tokens = 0;
        sp.ignore_eos = true;
        ask(e, &sp, &t);
        assert_int_equal(t.text[0].n, 80);
        assert_int_equal(t.finish[0], QN_FINISH_STOP);
        fini(&t);
    }
    qn_grammar_close(g);
    g = open_text(e, QN_GRAMMAR_CHOICE, "[\"\"]"); /* nothing to say */
    for (int ignore = 0; ignore < 2; ignore++) {
        transcript t = {0};
        qn_params sp = sampled(1, 5, g);
        sp.ignore_eos = ignore;
        ask(e, &sp, &t);
        assert_int_equal(t.text[0].n, 0);
        fini(&t);
    }
    qn_grammar_close(g);
    qn_engine_free(e);
}

/* A thought of at most so many tokens, closed by force, then an answer of a form. */
static void test_budget(void **state)
{
    (void)state;
    qn_engine *e = open_named(models[0]);
    int32_t close = qn_tokenizer_find(e->tokenizer, QN_SLICE("</think>"));
    qn_grammar *g = open_text(
        e, QN_GRAMMAR_GBNF,
        "root ::= %until[7] \"</think>\" \"\\n</think>\" \"\\n\\n\" (\"yes\" | \"no\")\n");
    for (uint64_t seed = 0; seed < 20; seed++) {
        transcript t = {0};
        qn_params sp = sampled(1, seed, g);
        sp.n_logprobs = seed % 2 ? 0 : -1;
        ask(e, &sp, &t);
        assert_int_equal(t.finish[0], QN_FINISH_STOP);
        assert_true(qn_ends_with(t.text[0].p, "</think>\n\nyes") ||
                    qn_ends_with(t.text[0].p, "</think>\n\nno"));
        size_t at = 0;
        while (at < t.n_ids[0] && t.ids[0][at] != close)
            at++;
        assert_true(at < t.n_ids[0]);
        assert_true(at <= 8); /* seven, and the newline of the closing */
        fini(&t);
    }
    qn_grammar_close(g);
    qn_engine_free(e);
}

/* ---- the cache ---- */

static void test_cache(void **state)
{
    (void)state;
    qn_engine *e = open_named(models[0]), *other = open_named(models[1]);
    qn_grammar *a = open_text(e, QN_GRAMMAR_REGEX, "a+"), *b = open_text(e, QN_GRAMMAR_REGEX, "a+"),
               *c = NULL, *theirs = open_text(other, QN_GRAMMAR_REGEX, "a+");
    qn_err err, again;
    assert_ptr_equal(a, b);
    assert_int_equal(qn_grammar_cache_count(e->grammars).n_compiled, 1);
    c = open_text(e, QN_GRAMMAR_CHOICE, "[\"a+\"]");
    assert_ptr_not_equal(a, c);
    qn_grammar_close(c);
    /* what is refused is refused again without work, in the same words */
    uint64_t n = qn_grammar_cache_count(e->grammars).n_compiled;
    assert_int_equal(qn_grammar_open(&c, e, QN_GRAMMAR_REGEX, "(a", 2, &err), QN_E_ARG);
    assert_null(c);
    assert_int_equal(qn_grammar_open(&c, e, QN_GRAMMAR_REGEX, "(a", 2, &again), QN_E_ARG);
    assert_string_equal(err.msg, again.msg);
    assert_int_equal(qn_grammar_cache_count(e->grammars).n_compiled, n + 1);
    /* found without compiling: what is there, what was refused, nothing else */
    n = qn_grammar_cache_count(e->grammars).n_compiled;
    assert_int_equal(qn_grammar_find(&c, e, QN_GRAMMAR_REGEX, "a+", 2, &err), QN_OK);
    assert_ptr_equal(c, a);
    qn_grammar_close(c);
    assert_int_equal(qn_grammar_find(&c, e, QN_GRAMMAR_REGEX, "(a", 2, &err), QN_E_ARG);
    assert_null(c);
    assert_int_equal(qn_grammar_find(&c, e, QN_GRAMMAR_REGEX, "new", 3, &err), QN_E_NOT_FOUND);
    assert_int_equal(qn_grammar_find(&c, e, QN_GRAMMAR_CHOICE, "a+", 2, &err), QN_E_NOT_FOUND);
    assert_null(c);
    assert_int_equal(qn_grammar_cache_count(e->grammars).n_compiled, n);
    assert_int_equal(qn_grammar_open(&c, e, (qn_grammar_kind)9, "a", 1, &err), QN_E_ARG);
    static char large[QN_LIMIT_GRAMMAR_TEXT + 1];
    memset(large, 'a', sizeof large);
    assert_int_equal(qn_grammar_open(&c, e, QN_GRAMMAR_REGEX, large, sizeof large, &err),
                     QN_E_TOO_LONG);
    /* more than there is room for: the oldest go, what is held stays */
    for (int i = 0; i < QN_LIMIT_GRAMMARS + 40; i++) {
        char text[32];
        (void)snprintf(text, sizeof text, "[\"%d\"]", i);
        qn_grammar_close(open_text(e, QN_GRAMMAR_CHOICE, text));
    }
    assert_int_equal(qn_grammar_cache_count(e->grammars).n_entries, QN_LIMIT_GRAMMARS);
    n = qn_grammar_cache_count(e->grammars).n_compiled;
    assert_ptr_equal(c = open_text(e, QN_GRAMMAR_REGEX, "a+"), a);
    qn_grammar_close(c);
    assert_int_equal(qn_grammar_cache_count(e->grammars).n_compiled, n);
    qn_grammar_close(open_text(e, QN_GRAMMAR_CHOICE, "[\"0\"]"));
    assert_int_equal(qn_grammar_cache_count(e->grammars).n_compiled, n + 1);
    /* refusals of requests */
    qn_request *r = NULL;
    qn_params sp = sampled(1, 1, theirs);
    assert_int_equal(qn_request_submit(&r, e, &prompt, &sp, &err), QN_E_ARG);
    assert_non_null(strstr(err.msg, "another engine"));
    sp.grammar = a;
    sp.beam_width = 2;
    assert_int_equal(qn_request_submit(&r, e, &prompt, &sp, &err), QN_E_UNSUPPORTED);
    assert_null(r);
    /* a request goes on with a grammar that was closed; another outlives its engine */
    sp.beam_width = 0;
    sp.max_tokens = 30;
    assert_int_equal(qn_request_submit(&r, e, &prompt, &sp, &err), QN_OK);
    qn_grammar_close(a);
    qn_grammar_close(b);
    transcript t = {0};
    read_all(r, &t);
    assert_int_equal(strspn(t.text[0].p, "a"), t.text[0].n);
    fini(&t);
    qn_request_free(r);
    qn_engine_free(other);
    qn_engine_free(e);
    qn_grammar_close(theirs);
    assert_int_equal(qn_mem_live(QN_MEM_REQUEST), 0);
}

/* What is in use may not take all memory: then further ones wait until it is let go. */
static void test_cache_full(void **state)
{
    (void)state;
    enum { N_PARTS = 300, MOST = 64 };
    qn_engine *e = open_named(models[0]);
    qn_grammar *held[MOST];
    qn_status s = QN_OK;
    qn_err err;
    int n = 0;
    while (s == QN_OK && n < MOST) { /* tens of megabytes each */
        qn_str text = {0};
        qn_str_adds(&text, "root ::=");
        for (int i = 0; i < N_PARTS; i++)
            qn_str_addf(&text, " ([024%c%c%c]{16}){16}", '6' + 2 * (i / 169), 'A' + 2 * (i % 13),
                        'a' + 2 * (i / 13 % 13));
        qn_str_adds(&text, " [");
        for (unsigned c = 0x21; c < 0x7e; c += 2)
            qn_str_addf(&text, "\\x%02X", c);
        qn_str_addf(&text, "] \"%d\"\n", n);
        s = qn_grammar_open(&held[n], e, QN_GRAMMAR_GBNF, text.p, text.n, &err);
        n += s == QN_OK;
        qn_str_fini(&text);
    }
    assert_int_equal(s, QN_E_NOMEM);
    assert_true(qn_grammar_cache_count(e->grammars).n_bytes <=
                QN_LIMIT_GRAMMARS_IN_USE + QN_LIMIT_GRAMMAR_BYTES + QN_LIMIT_GRAMMAR_MASKS);
    qn_grammar *again = held[0];
    qn_grammar_keep(again); /* what is there is found all the same */
    while (n)
        qn_grammar_close(held[--n]);
    qn_grammar_close(open_text(e, QN_GRAMMAR_REGEX, "a+"));
    qn_grammar_close(again);
    qn_engine_free(e);
}

static void *open_many(void *arg)
{
    qn_engine *e = arg;
    for (int i = 0; i < 20; i++) {
        const struct form *f = &forms[i % QN_COUNT(forms)];
        qn_grammar *g = open_text(e, f->kind, f->text), *none;
        assert_int_not_equal(qn_grammar_open(&none, e, QN_GRAMMAR_REGEX, "[z-a]", 5, NULL), QN_OK);
        qn_grammar_close(g);
    }
    return NULL;
}

static void test_cache_threads(void **state)
{
    (void)state;
    qn_engine *e = open_named(models[0]);
    pthread_t threads[6];
    for (size_t i = 0; i < QN_COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, open_many, e), 0);
    for (size_t i = 0; i < QN_COUNT(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(qn_grammar_cache_count(e->grammars).n_compiled, QN_COUNT(forms) + 1);
    qn_engine_free(e);
}

/* ---- many that come and go ---- */

typedef struct storm {
    qn_engine *e;
    unsigned seed;
} storm;

static void *come_and_go(void *arg)
{
    storm *s = arg;
    for (int i = 0; i < 30; i++) {
        s->seed = s->seed * 1664525u + 1013904223u;
        const struct form *f = &forms[s->seed >> 28 & 3];
        qn_params sp = sampled(1, s->seed, open_text(s->e, f->kind, f->text));
        qn_request *r = NULL;
        qn_event ev = {0};
        qn_err err;
        sp.n = 1 + (s->seed >> 26 & 1);
        sp.max_tokens = 60;
        assert_int_equal(qn_request_submit(&r, s->e, &prompt, &sp, &err), QN_OK);
        qn_grammar_close(sp.grammar);
        for (unsigned k = 0, n = s->seed >> 20 & 31; k < n && ev.kind != QN_EVENT_DONE; k++)
            assert_int_equal(qn_request_next(r, &ev, &err), QN_OK);
        if (s->seed >> 19 & 1)
            qn_request_cancel(r);
        if (s->seed >> 18 & 1)
            qn_request_drop(r);
        else
            qn_request_free(r);
    }
    return NULL;
}

static void test_storm(void **state)
{
    (void)state;
    qn_engine *e = open_named(models[0]);
    pthread_t threads[4];
    storm s[QN_COUNT(threads)];
    for (size_t i = 0; i < QN_COUNT(threads); i++) {
        s[i] = (storm){e, (unsigned)i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &s[i]), 0);
    }
    for (size_t i = 0; i < QN_COUNT(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    qn_engine_free(e);
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        assert_int_equal(qn_mem_live((qn_mem_tag)t), 0);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(test_forms),      cmocka_unit_test(test_candidates),
        cmocka_unit_test(test_drafts),     cmocka_unit_test(test_pressure),
        cmocka_unit_test(test_settled),    cmocka_unit_test(test_one_text),
        cmocka_unit_test(test_logprobs),   cmocka_unit_test(test_ends),
        cmocka_unit_test(test_end_tokens), cmocka_unit_test(test_budget),
        cmocka_unit_test(test_cache),      cmocka_unit_test(test_cache_threads),
        cmocka_unit_test(test_cache_full), cmocka_unit_test(test_storm)};
    return cmocka_run_group_tests(t, NULL, NULL);
}
