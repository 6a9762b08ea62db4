/* SPDX-License-Identifier: Apache-2.0
 * test_golden.c - tiny models against transformers: logits, hidden states of every layer,
 * log-probabilities, greedy answers.
 *
 * Every folder of tests/golden/models and file of tests/golden/gguf; where the whole set of
 * fixtures lies beside the project, all of it. Exact mode must be within each model's own
 * tolerance; the fast path must give the same greedy token wherever the golden's margin is larger
 * than twice the difference that int8 activations may make. */
#include "golden.h"

#include "format/safetensors.h"
#include "sample/sampler.h"
#include <dirent.h>
#include <math.h>
#include <stdlib.h>

typedef struct model {
    char name[64], path[512], golden[512];
    json_t *g;
    qn_engine *exact;
} model;

static bool is_hybrid(const char *name)
{
    return strncmp(name, "qwen3next", 9) == 0 || strncmp(name, "qwen3.5", 7) == 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const model *)a)->name, ((const model *)b)->name);
}

static size_t list_folder(const char *root, const char *sub, bool gguf, model *out, size_t n,
                          size_t max)
{
    char dir[256];
    (void)snprintf(dir, sizeof dir, "%s%s%s", root, *sub ? "/" : "", sub);
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) && n < max;) {
        model *m = &out[n];
        size_t len = strlen(e->d_name);
        bool is_gguf = len > 5 && strcmp(e->d_name + len - 5, ".gguf") == 0;
        if (gguf != is_gguf || len >= sizeof m->name || e->d_name[0] == '.' || is_hybrid(e->d_name))
            continue;
        (void)snprintf(m->name, sizeof m->name, "%s", e->d_name);
        (void)snprintf(m->path, sizeof m->path, "%s/%s", dir, e->d_name);
        if (gguf)
            (void)snprintf(m->golden, sizeof m->golden, "%s/%.*s.golden.json", dir, (int)len - 5,
                           e->d_name);
        else
            (void)snprintf(m->golden, sizeof m->golden, "%s/%s/golden.json", dir, e->d_name);
        n += qn_file_exists(m->golden);
    }
    if (d)
        (void)closedir(d);
    return n;
}

/* ---- exact mode ---- */

typedef struct row_check {
    const float *want_last;
    size_t n, n_vocab;
    double worst, logprob_sum;
    const int32_t *ids;
    const json_t *want_logprobs;
    double worst_logprob;
} row_check;

static bool on_logits(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    row_check *c = arg;
    c->n_vocab = n_vocab;
    if (pos + 1 < c->n) {
        double lp = qn_logprob_of(logits, n_vocab, c->ids[pos + 1]);
        c->logprob_sum += lp;
        const json_t *want = json_array_get(c->want_logprobs, pos);
        if (want)
            c->worst_logprob = worse_of(c->worst_logprob, fabs(lp - json_number_value(want)));
    } else {
        for (size_t i = 0; i < n_vocab; i++)
            c->worst = worse_of(c->worst, fabs((double)logits[i] - (double)c->want_last[i]));
    }
    return true;
}

static void check_prompt(const model *m, const json_t *p)
{
    const json_t *tol = json_object_get(m->g, "tolerance"),
                 *last = json_object_get(p, "last_logits");
    size_t n, n_vocab = json_array_size(last);
    int32_t *ids = ids_of(json_object_get(p, "ids"), &n);
    float *want = qn_alloc_array(n_vocab + 1, sizeof *want, QN_MEM_MISC);
    for (size_t i = 0; i < n_vocab; i++)
        want[i] = (float)json_number_value(json_array_get(last, i));
    row_check c = {
        .want_last = want, .n = n, .ids = ids, .want_logprobs = json_object_get(p, "logprobs")};
    qn_err err;
    if (qn_score(m->exact, ids, n, 0, on_logits, NULL, &c, &err) != QN_OK)
        fail_msg("%s: %s", m->name, err.msg);
    const char *prompt = json_string_value(json_object_get(p, "name"));
    if (c.n_vocab != n_vocab || !(c.worst <= number_of(tol, "logits_abs")))
        fail_msg("%s, %s: logits differ by %g, want %g", m->name, prompt, c.worst,
                 number_of(tol, "logits_abs"));
    if (!(c.worst_logprob <= number_of(tol, "logprob_abs")))
        fail_msg("%s, %s: log-probabilities differ by %g", m->name, prompt, c.worst_logprob);
    qn_free(want);
    qn_free(ids);
}

/* Greedy tokens; margin: those after the first step with a smaller gap are not compared. */
static void check_greedy(const model *m, qn_engine *e, const json_t *p, double margin)
{
    size_t n, n_want;
    int32_t *ids = ids_of(json_object_get(p, "ids"), &n), got[64];
    int32_t *want = ids_of(json_object_get(p, "greedy"), &n_want);
    const json_t *margins = json_object_get(p, "greedy_margins");
    qn_params sp = greedy((int)n_want);
    size_t n_got = answer(e, &(qn_prompt){.ids = ids, .n_ids = n}, &sp, got, QN_COUNT(got));
    assert_int_equal(n_got, n_want);
    for (size_t i = 0; i < n_want; i++) {
        if (json_number_value(json_array_get(margins, i)) <= margin)
            break; /* from here on the texts may differ */
        if (got[i] != want[i])
            fail_msg("%s, %s: greedy token %zu is %d, want %d", m->name,
                     json_string_value(json_object_get(p, "name")), i, got[i], want[i]);
    }
    qn_free(ids);
    qn_free(want);
}

static const qn_tensor *tensor_named(const qn_tensor *t, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(t[i].name, name) == 0)
            return &t[i];
    return NULL;
}

typedef struct hidden_check {
    const model *m;
    const qn_tensor *t;
    size_t n_tensors;
    int n_layers;
    double tolerance;
    size_t n_rows;
} hidden_check;

static bool on_hidden(void *arg, int layer, size_t pos, const float *hidden, size_t width)
{
    hidden_check *c = arg;
    char name[64];
    if (layer == 0)
        (void)snprintf(name, sizeof name, "hidden.embed");
    else if (layer <= c->n_layers)
        (void)snprintf(name, sizeof name, "hidden.layer.%d", layer - 1);
    else
        (void)snprintf(name, sizeof name, "hidden.final_norm");
    const qn_tensor *t = tensor_named(c->t, c->n_tensors, name);
    if (!t)
        fail_msg("%s: golden.safetensors has no %s", c->m->name, name);
    const float *all = t->data, *want = all + pos * width;
    double scale = 0;
    for (size_t i = 0; i < t->bytes / sizeof *all; i++)
        scale = worse_of(scale, fabs((double)all[i]));
    for (size_t i = 0; i < width; i++)
        if (!(fabs((double)hidden[i] - (double)want[i]) <= c->tolerance * scale))
            fail_msg("%s: %s, token %zu, element %zu is %g, want %g", c->m->name, name, pos, i,
                     (double)hidden[i], (double)want[i]);
    c->n_rows++;
    return true;
}

static void check_hidden(const model *m)
{
    char path[600];
    qn_file *f = NULL;
    qn_err err;
    qn_arena arena;
    qn_engine_info info;
    (void)snprintf(path, sizeof path, "%s/golden.safetensors", m->path);
    if (!qn_file_exists(path))
        return; /* GGUF goldens have no trace */
    qn_arena_init(&arena, 0, QN_MEM_MISC);
    qn_engine_get_info(m->exact, &info);
    hidden_check c = {.m = m, .n_layers = info.n_layers};
    qn_tensor *t = NULL;
    if (qn_file_map(&f, path, &err) != QN_OK ||
        qn_safetensors_parse(f->data, f->size, path, &arena, &t, &c.n_tensors, &err) != QN_OK)
        fail_msg("%s", err.msg);
    c.t = t;
    c.tolerance = number_of(json_object_get(m->g, "tolerance"), "hidden_rel");
    const char *trace = json_string_value(json_object_get(m->g, "trace_prompt"));
    size_t i, n = 0;
    json_t *p;
    json_array_foreach(json_object_get(m->g, "prompts"), i, p)
    {
        if (strcmp(json_string_value(json_object_get(p, "name")), trace) != 0)
            continue;
        int32_t *ids = ids_of(json_object_get(p, "ids"), &n);
        if (qn_score(m->exact, ids, n, 0, NULL, on_hidden, &c, &err) != QN_OK)
            fail_msg("%s: %s", m->name, err.msg);
        qn_free(ids);
    }
    assert_int_equal(c.n_rows, n * ((size_t)info.n_layers + 2));
    qn_arena_fini(&arena);
    qn_file_unmap(f);
}

static qn_config config_for(const model *m, bool exact)
{
    qn_config cfg = qn_config_default();
    cfg.model = m->path;
    cfg.exact = exact;
    cfg.max_ctx = 640;
    cfg.max_seqs = 4;
    cfg.max_batch_tokens = 128;
    cfg.n_threads = 1;                 /* the models are tiny */
    cfg.rope_scaling = QN_ROPE_ALWAYS; /* as the reference */
    return cfg;
}

static void test_model(void **state)
{
    model *m = *state;
    m->g = load_json(m->golden);
    qn_config cfg = config_for(m, true);
    m->exact = open_engine(&cfg);
    size_t i;
    json_t *p;
    json_array_foreach(json_object_get(m->g, "prompts"), i, p)
    {
        check_prompt(m, p);
        check_greedy(m, m->exact, p, 0);
    }
    check_hidden(m);
    qn_engine_free(m->exact);
    cfg = config_for(m, false);
    qn_engine *fast = open_engine(&cfg);
    json_array_foreach(json_object_get(m->g, "prompts"), i, p)
    {
        check_greedy(m, fast, p, 0.6); /* tolerance of int8 activations 0.3, twice */
    }
    qn_engine_free(fast);
    json_decref(m->g);
}

/* With arguments: only models that have one of them in their name (an emulated CPU is slow). */
static bool is_wanted(const char *name, int argc, char **argv)
{
    bool wanted = argc < 2;
    for (int i = 1; i < argc; i++)
        wanted = wanted || strstr(name, argv[i]);
    return wanted;
}

int main(int argc, char **argv)
{
    static model models[128];
    static struct CMUnitTest tests[128];
    const char *shared = shared_fixtures();
    const char *root = shared ? shared : QN_SOURCE_DIR "/tests/golden";
    if (!shared)
        printf("skipped: the models that are not in tests/golden (the whole set of fixtures is not "
               "beside the project)\n");
    size_t n = list_folder(root, shared ? "" : "models", false, models, 0, QN_COUNT(models));
    n = list_folder(root, "gguf", true, models, n, QN_COUNT(models));
    qsort(models, n, sizeof *models, by_name);
    size_t n_tests = 0;
    for (size_t i = 0; i < n; i++)
        if (is_wanted(models[i].name, argc, argv))
            tests[n_tests++] = (struct CMUnitTest){
                .name = models[i].name, .test_func = test_model, .initial_state = &models[i]};
    if (n < 20 || n_tests == 0) {
        printf("found %zu golden models, want at least 20; %zu to test\n", n, n_tests);
        return 1;
    }
    return _cmocka_run_group_tests("golden", tests, n_tests, NULL, NULL);
}
