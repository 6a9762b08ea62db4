/* SPDX-License-Identifier: Apache-2.0
 * cmd_eval.c - `quern eval`: what a model thinks of a text: perplexity, log-probabilities, logits and hidden states as .npy,
 * divergence from another run's logits. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cmd/cmd.h"
#include "sample/sampler.h"

typedef struct eval_options {
    qn_config config;
    const char *tokens, *logits, *hidden, *against;
    int window, chunk;
    bool logprobs, json, special;
} eval_options;

static const qn_opt eval_opts[] = {
    {"tokens", 0, QN_OPT_STR, offsetof(eval_options, tokens), "IDS",
     .help = "token ids, 1,2,3, instead of a text"},
    {"window", 'w', QN_OPT_INT, offsetof(eval_options, window), "N", 0, 1 << 24, "0: the context",
     "tokens of one window; each window starts from nothing"},
    {"chunk", 0, QN_OPT_INT, offsetof(eval_options, chunk), "N", 0, 65536, "0: 64",
     "tokens of one step"},
    {"special", 0, QN_OPT_FLAG, offsetof(eval_options, special),
     .help = "recognise special tokens in the text"},
    {"logprobs", 0, QN_OPT_FLAG, offsetof(eval_options, logprobs),
     .help = "a line for each token: position, id, log-probability"},
    {"logits", 0, QN_OPT_STR, offsetof(eval_options, logits), "FILE",
     .help = "write float32 [tokens, vocabulary] as .npy (one window)"},
    {"hidden", 0, QN_OPT_STR, offsetof(eval_options, hidden), "FILE",
     .help = "write the residual stream, float32 [layers + 1, tokens, hidden], as .npy: the "
             "embeddings, then each layer's output "
             "(one window)"},
    {"against", 0, QN_OPT_STR, offsetof(eval_options, against), "FILE",
     .help = "compare with logits written by another run: mean KL divergence, equal best tokens, "
             "largest difference"},
    {"json", 0, QN_OPT_FLAG, offsetof(eval_options, json), .help = "one JSON object"},
};
static const qn_opt_group eval_group = {"Options", eval_opts, QN_COUNT(eval_opts)};

const qn_opts cmd_eval_opts = {
    .command = "eval",
    .args = "[FILE]",
    .summary = "Perplexity and log-probabilities of a text",
    .about = "FILE is a text; without it, standard input is read. Nothing is put before the text.",
    .max_args = 1,
    .groups = {{&eval_group, 0}, {&cmd_config_group, offsetof(eval_options, config)}},
};

/* One float32 array written row by row; NumPy format 1.0. */
typedef struct npy {
    FILE *f;
    const char *path;
} npy;

static qn_status npy_open(npy *out, const char *path, const size_t *dims, size_t n_dims,
                          qn_err *err)
{
    char shape[128] = "", head[256];
    for (size_t i = 0; i < n_dims; i++) {
        size_t at = strlen(shape);
        (void)snprintf(shape + at, sizeof shape - at, "%zu, ", dims[i]);
    }
    int n = snprintf(head, sizeof head, "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }",
                     shape);
    size_t len = QN_ROUND_UP((size_t)n + 11, (size_t)64) - 10;
    unsigned char magic[10] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)len, (unsigned char)(len >> 8)};
    char buf[128];
    *out = (npy){.f = fopen(path, "wb"), .path = path};
    if (!out->f)
        return qn_fail(err, QN_E_IO, "%s: cannot write: %s", path,
                       strerror_r(errno, buf, sizeof buf));
    bool ok = fwrite(magic, sizeof magic, 1, out->f) == 1 &&
              fprintf(out->f, "%-*s\n", (int)len - 1, head) == (int)len;
    return ok ? QN_OK : qn_fail(err, QN_E_IO, "%s: cannot write", path);
}

static qn_status npy_close(npy *n, qn_err *err)
{
    if (!n->f)
        return QN_OK;
    bool ok = !ferror(n->f);
    ok = fclose(n->f) == 0 && ok;
    n->f = NULL;
    return ok ? QN_OK : qn_fail(err, QN_E_IO, "%s: cannot write (is the disk full?)", n->path);
}

/* The rows of a float32 .npy of version 1, [n, width]. */
static qn_status npy_map(qn_file **out, const float **rows, const char *path, size_t n,
                         size_t width, qn_err *err)
{
    QN_TRY(qn_file_map(out, path, err));
    const qn_file *f = *out;
    size_t len = f->size >= 10 ? (size_t)f->data[8] | (size_t)f->data[9] << 8 : 0,
           bytes = n * width * sizeof(float);
    bool ok = f->size >= 10 && memcmp(f->data, "\x93NUMPY\x01", 7) == 0 && f->size - 10 >= len &&
              (10 + len) % sizeof(float) == 0 && memmem(f->data + 10, len, "'<f4'", 5) &&
              !memmem(f->data + 10, len, "True", 4);
    if (!ok || f->size - 10 - len != bytes)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: want float32 [%zu, %zu] in C order, as --logits writes it", path, n,
                       width);
    *rows = (const float *)(const void *)(f->data + 10 + len);
    return QN_OK;
}

typedef struct eval {
    const eval_options *o;
    const int32_t *ids; /* of this window */
    size_t n, at;       /* window's tokens; its first position in the text */
    double nll;
    size_t n_scored;
    npy logits, hidden;
    const float *other; /* --against */
    double kl, max_diff;
    size_t n_same, n_compared;
    cmd_progress bar;
    size_t n_all;
    size_t n_layers, layer_bytes; /* of one layer in the hidden file */
    long hidden_at;
    bool write_failed;
} eval;

static size_t best_of(const float *x, size_t n)
{
    size_t b = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[b])
            b = i;
    return b;
}

/* KL(other || ours) in nats, the other run being the truth. */
static double divergence(const float *other, const float *ours, size_t n)
{
    double a = qn_logprob_of(other, n, 0) - (double)other[0],
           b = qn_logprob_of(ours, n, 0) - (double)ours[0], kl = 0;
    for (size_t i = 0; i < n; i++)
        kl += exp((double)other[i] + a) * ((double)other[i] + a - (double)ours[i] - b);
    return kl;
}

static void compare(eval *v, size_t pos, const float *logits, size_t n_vocab)
{
    const float *other = v->other + pos * n_vocab;
    double a = qn_logprob_of(other, n_vocab, 0) - (double)other[0],
           b = qn_logprob_of(logits, n_vocab, 0) - (double)logits[0];
    size_t best = best_of(other, n_vocab);
    v->kl += divergence(other, logits, n_vocab);
    v->n_same += best == best_of(logits, n_vocab);
    v->max_diff = fmax(v->max_diff, fabs((double)other[best] + a - (double)logits[best] - b));
    v->n_compared++;
}

static bool on_logits(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    eval *v = arg;
    if (v->logits.f && fwrite(logits, sizeof *logits, n_vocab, v->logits.f) != n_vocab)
        return false;
    if (v->other)
        compare(v, pos, logits, n_vocab);
    if (pos + 1 < v->n) {
        double lp = qn_logprob_of(logits, n_vocab, v->ids[pos + 1]);
        v->nll -= lp;
        v->n_scored++;
        if (v->o->logprobs)
            printf("%zu\t%d\t%.6f\n", v->at + pos + 1, v->ids[pos + 1], lp);
    }
    cmd_progress_show(&v->bar, "evaluating", (double)(v->at + pos + 1) / (double)v->n_all, NULL);
    return true;
}

static bool on_hidden(void *arg, int layer, size_t pos, const float *hidden, size_t width)
{
    eval *v = arg;
    if ((size_t)layer > v->n_layers) /* the final norm's */
        return true;
    long at = v->hidden_at + (long)((size_t)layer * v->layer_bytes + pos * width * sizeof *hidden);
    v->write_failed = v->write_failed || fseek(v->hidden.f, at, SEEK_SET) != 0 ||
                      fwrite(hidden, sizeof *hidden, width, v->hidden.f) != width;
    return !v->write_failed;
}

static qn_status parse_tokens(const char *text, int32_t **ids, size_t *n, qn_err *err)
{
    size_t cap = 0;
    for (const char *p = text; *p;) {
        size_t len = strcspn(p, ",");
        uint64_t id;
        if (!qn_parse_u64(p, len, INT32_MAX, &id))
            return qn_fail(err, QN_E_ARG, "--tokens: found '%.*s', want ids like 1,2,3",
                           (int)QN_MIN(len, (size_t)20), p);
        if (!qn_grow(ids, &cap, *n + 1, sizeof **ids, QN_MEM_MISC))
            return qn_fail_nomem(err, *n * sizeof **ids);
        (*ids)[(*n)++] = (int32_t)id;
        p += len + (p[len] == ',');
    }
    return *n ? QN_OK : qn_fail(err, QN_E_ARG, "--tokens: found no ids, want 1,2,3");
}

static qn_status read_ids(const eval_options *o, const char *file, const qn_engine *e,
                          int32_t **ids, size_t *n, qn_err *err)
{
    qn_str text = {0};
    qn_status s = cmd_read(&text, file, err);
    if (s == QN_OK)
        s = qn_tokenize(e, text.p ? text.p : "", text.n, o->special, ids, n, err);
    if (s == QN_OK && !*n)
        s = qn_fail(err, QN_E_ARG, "%s: found no tokens, want a text",
                    file ? file : "standard input");
    qn_str_fini(&text);
    return s;
}

static qn_status open_outputs(eval *v, const qn_engine_info *i, qn_file **other, qn_err *err)
{
    const eval_options *o = v->o;
    size_t n_vocab = (size_t)i->n_vocab, width = (size_t)i->hidden_size;
    if (o->logits)
        QN_TRY(npy_open(&v->logits, o->logits, (size_t[]){v->n_all, n_vocab}, 2, err));
    if (o->hidden) {
        v->n_layers = (size_t)i->n_layers;
        QN_TRY(
            npy_open(&v->hidden, o->hidden, (size_t[]){v->n_layers + 1, v->n_all, width}, 3, err));
        v->hidden_at = ftell(v->hidden.f);
        v->layer_bytes = v->n_all * width * sizeof(float);
    }
    if (o->against)
        QN_TRY(npy_map(other, &v->other, o->against, v->n_all, n_vocab, err));
    return QN_OK;
}

static void print_result(const eval *v)
{
    double ppl = v->n_scored ? exp(v->nll / (double)v->n_scored) : 0;
    if (v->o->json) {
        printf("{\"tokens\": %zu, \"scored\": %zu, \"nll\": %.9g, \"perplexity\": %.9g", v->n_all,
               v->n_scored, v->nll, ppl);
        if (v->n_compared)
            printf(", \"mean_kl\": %.9g, \"same_best\": %.6f, \"max_logprob_diff\": %.6f",
                   v->kl / (double)v->n_compared, (double)v->n_same / (double)v->n_compared,
                   v->max_diff);
        printf("}\n");
        return;
    }
    printf("tokens %zu, scored %zu, negative log-likelihood %.4f, perplexity %.4f\n", v->n_all,
           v->n_scored, v->nll, ppl);
    if (v->n_compared)
        printf("against %s: mean KL %.6f, same best token %.2f %%, largest difference of its "
               "log-probability %.4f\n",
               v->o->against, v->kl / (double)v->n_compared,
               100.0 * (double)v->n_same / (double)v->n_compared, v->max_diff);
}

static qn_status run_windows(eval *v, qn_engine *e, const int32_t *ids, size_t window, qn_err *err)
{
    for (v->at = 0; v->at < v->n_all; v->at += v->n) {
        v->ids = ids + v->at;
        v->n = QN_MIN(window, v->n_all - v->at);
        QN_TRY(qn_score(e, v->ids, v->n, (size_t)v->o->chunk, on_logits,
                        v->hidden.f ? on_hidden : NULL, v, err));
    }
    cmd_progress_end(&v->bar);
    if (v->write_failed)
        return qn_fail(err, QN_E_IO, "%s: cannot write", v->o->hidden);
    QN_TRY(npy_close(&v->hidden, err));
    return npy_close(&v->logits, err);
}

static qn_status evaluate(eval_options *o, const char *file, qn_err *err)
{
    qn_engine *e = NULL;
    qn_file *other = NULL;
    qn_str path = {0};
    int32_t *ids = NULL;
    eval v = {.o = o, .bar = {.start_ns = qn_now_ns()}};
    qn_status s = o->tokens ? parse_tokens(o->tokens, &ids, &v.n_all, err) : QN_OK;
    if (s == QN_OK)
        s = cmd_model_find(&path, o->config.model, err);
    if (s == QN_OK) {
        o->config.model = path.p;
        if (!o->config.max_ctx &&
            o->tokens) /* ids are scored whole, past the model's context too */
            o->config.max_ctx = (int)QN_MIN(v.n_all, (size_t)1 << 24);
        o->config.progress = cmd_progress_load;
        o->config.progress_arg = &v.bar;
        cmd_tuned(&o->config);
        s = qn_engine_open(&e, &o->config, err);
        cmd_progress_end(&v.bar);
    }
    if (s == QN_OK && !o->tokens)
        s = read_ids(o, file, e, &ids, &v.n_all, err);
    if (s == QN_OK) {
        qn_engine_info info;
        qn_engine_get_info(e, &info);
        size_t window =
            QN_MIN(o->window ? (size_t)o->window : (size_t)info.max_ctx, (size_t)info.max_ctx);
        if ((o->logits || o->hidden || o->against) && v.n_all > window)
            s = qn_fail(err, QN_E_TOO_LONG,
                        "found %zu tokens, want at most one window of %zu for --logits, --hidden, "
                        "--against",
                        v.n_all, window);
        if (s == QN_OK)
            s = open_outputs(&v, &info, &other, err);
        if (s == QN_OK)
            s = run_windows(&v, e, ids, window, err);
    }
    if (s == QN_OK)
        print_result(&v);
    if (v.logits.f)
        (void)fclose(v.logits.f);
    if (v.hidden.f)
        (void)fclose(v.hidden.f);
    qn_file_unmap(other);
    qn_release(ids);
    qn_engine_free(e);
    qn_str_fini(&path);
    return s;
}

int cmd_eval(int argc, char **argv)
{
    eval_options o = {.config = qn_config_default()};
    qn_opts_found found = {0};
    qn_err err = {0};
    int code = cmd_parse(&cmd_eval_opts, &o, argc, argv, &found);
    if (code < 0 && !o.config.model)
        code = cmd_usage(&cmd_eval_opts, "no model given, want -m MODEL");
    if (code < 0 && o.tokens && found.n_args)
        code = cmd_usage(&cmd_eval_opts, "both --tokens and a text given, want one");
    if (code < 0)
        code = evaluate(&o, found.n_args ? found.args[0] : NULL, &err) == QN_OK ? CMD_OK
                                                                                : cmd_fail(&err);
    qn_opts_found_fini(&found);
    return code;
}
