/* SPDX-License-Identifier: Apache-2.0
 * cmd.c - messages, progress, finding a model, reading input. */
#include "cmd/cmd.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/keys.h"
#include "base/limits.h"
#include "base/mem.h"
#include "format/hub.h"

static const qn_opt config_opts[] = {
    {"model", 'm', QN_OPT_STR, offsetof(qn_config, model), "MODEL",
     .help = "a GGUF file (the first of a split set), a packed file, a Hugging Face folder, or "
             "OWNER/NAME[:FILE] got with quern pull"},
    {"threads", 't', QN_OPT_INT, offsetof(qn_config, n_threads), "N", 0, QN_LIMIT_THREADS,
     "0: what this process may use", "worker threads"},
    {"mmap", 0, QN_OPT_FLAG, offsetof(qn_config, mmap),
     .help = "weights stay in the file's pages, shared between processes; wants a packed file"},
    {"prefault", 0, QN_OPT_FLAG, offsetof(qn_config, prefault),
     .help = "make the whole K/V cache resident at the start; else as it fills"},
    {"mem", 0, QN_OPT_SIZE, offsetof(qn_config, mem_limit), "BYTES", .def = "0: what is needed",
     .help = "memory for all; experts of a packed file that find no room are read when needed"},
    {"exact", 0, QN_OPT_FLAG, offsetof(qn_config, exact),
     .help = "the plain plan: float32 activations, weights expanded exactly; slower"},
    {"kv-cache-dtype", 0, QN_OPT_ENUM, offsetof(qn_config, kv_cache_dtype), "auto|f32|f16|int8",
     .def = "auto",
     .help = "how keys and values are kept; auto: f16, f32 with --exact; int8 is half of f16"},
    {"cpu-mask", 0, QN_OPT_UINT, offsetof(qn_config, cpu_mask), "MASK", .def = "all",
     .help = "instruction sets allowed: 1 AVX2 + 2 AVX-512 VNNI + 4 NEON + 8 i8mm; 0: the plain C "
             "kernels"},
    {"device", 0, QN_OPT_STR, offsetof(qn_config, device), "DEVICE", .def = "cpu",
     .help = "where to compute"},
    {"max-ctx", 'c', QN_OPT_INT, offsetof(qn_config, max_ctx), "N", 0, QN_LIMIT_CONTEXT,
     "0: the model's, at most 32768", "tokens of one sequence, prompt and answer"},
    {"max-seqs", 0, QN_OPT_INT, offsetof(qn_config, max_seqs), "N", 0, QN_LIMIT_BATCH_SEQS, "0: 16",
     "sequences computed together"},
    {"max-batch-tokens", 0, QN_OPT_INT, offsetof(qn_config, max_batch_tokens), "N", 0,
     QN_LIMIT_BATCH_TOKENS, "0: 512", "tokens of one step"},
    {"kv-blocks", 0, QN_OPT_INT, offsetof(qn_config, n_kv_blocks), "N", 0, INT_MAX - 1,
     "0: max-ctx, or 1024 tokens for each of max-seqs",
     "K/V cache, in blocks of 64 tokens, for sequences together and prefixes kept"},
    {"rope-scaling", 0, QN_OPT_ENUM, offsetof(qn_config, rope_scaling), "auto|always|never",
     .def = "auto",
     .help = "YaRN: only for sequences that need it, for every one as the reference does, or not "
             "at all"},
};
const qn_opt_group cmd_config_group = {"Model", config_opts, QN_COUNT(config_opts)};
const qn_opt_group cmd_engine_group = {"Model", config_opts + 1, QN_COUNT(config_opts) - 1};

int cmd_parse(const qn_opts *o, void *dest, int argc, char **argv, qn_opts_found *found)
{
    qn_err err;

    qn_status st = qn_opts_parse(o, dest, argc, argv, found, &err);
    if (st != QN_OK)
        return st == QN_E_NOMEM ? cmd_fail(&err) : cmd_usage(o, "%s", err.msg);
    if (!found->help)
        return -1;
    qn_str text = {0};
    qn_opts_help(&text, o);
    if (!text.failed)
        fwrite(text.p, 1, text.n, stdout);
    qn_str_fini(&text);
    return CMD_OK;
}

int cmd_usage(const qn_opts *o, const char *fmt, ...)
{
    char raw[1024], shown[320]; /* an operand may hold anything */
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(raw, sizeof(raw), fmt, ap);
    va_end(ap);
    qn_escape(shown, sizeof(shown), raw, n < 0 ? 0 : strlen(raw));
    fprintf(stderr, "quern %s: %s; see quern %s --help\n", o->command, shown, o->command);
    return CMD_USAGE;
}

int cmd_fail(const qn_err *err)
{
    fprintf(stderr, "quern: %s\n", err->msg);
    return CMD_FAILED;
}

/* In the hub's cache; the network is not asked. */
static qn_status find_cached(qn_str *path, const char *spec, qn_err *err)
{
    qn_hub_config hub = {0};
    qn_str text = {0};
    qn_status s = qn_hub_config_from_env(&hub, &text, err);

    hub.offline = true;
    if (s == QN_OK)
        s = qn_hub_pull(&hub, spec, NULL, NULL, path, err);
    if (s == QN_E_NOT_FOUND)
        s = qn_fail(err, s,
                    "%s: found neither a file nor a whole model of that name in the hub's cache; "
                    "get it with: quern pull %s",
                    spec, spec);
    qn_str_fini(&text);
    return s;
}

qn_status cmd_model_find(qn_str *path, const char *model, qn_err *err)
{
    if (qn_file_exists(model) || qn_dir_exists(model)) {
        qn_str_adds(path, model);
        return path->failed ? qn_fail_nomem(err, strlen(model)) : QN_OK;
    }
    if (qn_hub_is_spec(model))
        return find_cached(path, model, err);
    return qn_fail(err, QN_E_NOT_FOUND,
                   "%s: found no such file or folder, wanted a GGUF file, a Hugging Face folder, "
                   "or OWNER/NAME got with quern pull",
                   model);
}

static qn_status open_json(cmd_text *out, const char *path, qn_err *err)
{
    json_t *json = NULL;

    QN_TRY(qn_json_load(&json, path, QN_LIMIT_CONFIG_BYTES, err));
    qn_status s = qn_tokenizer_from_json(&out->tokenizer, json, path, err);
    json_decref(json);
    return s;
}

/* A folder without the weights: they need not be there, nor be looked at. */
static qn_status open_folder(qn_weights **out, const char *path, qn_err *err)
{
    qn_str config = {0};
    qn_weights *w = qn_calloc(1, sizeof(*w), QN_MEM_MISC);

    if (!w || !(w->path = qn_strdup(path, QN_MEM_MISC))) {
        qn_free(w);
        return qn_fail_nomem(err, sizeof(*w));
    }
    *out = w;
    w->format = QN_FORMAT_HF;
    qn_status s = qn_path_join(&config, path, "config.json", err);
    if (s == QN_OK && qn_file_exists(config.p))
        s = qn_json_load(&w->config, config.p, QN_LIMIT_CONFIG_BYTES, err);
    qn_str_fini(&config);
    return s;
}

qn_status cmd_text_open(cmd_text *out, const char *model, qn_err *err)
{
    qn_str path = {0};

    *out = (cmd_text){0};
    qn_status s = cmd_model_find(&path, model, err);
    if (s == QN_OK && qn_ends_with(path.p, ".json"))
        s = open_json(out, path.p, err);
    else if (s == QN_OK) {
        s = qn_dir_exists(path.p) ? open_folder(&out->weights, path.p, err)
                                  : qn_weights_open(&out->weights, path.p, err);
        if (s == QN_OK)
            s = qn_tokenizer_new(&out->tokenizer, out->weights, err);
    }
    qn_str_fini(&path);
    if (s != QN_OK)
        cmd_text_close(out);
    return s;
}

void cmd_text_close(cmd_text *t)
{
    qn_tokenizer_free(t->tokenizer);
    qn_weights_free(t->weights);
    *t = (cmd_text){0};
}

bool cmd_is_stdin(const char *path)
{
    return !path || strcmp(path, "-") == 0;
}

qn_status cmd_read(qn_str *out, const char *path, qn_err *err)
{
    char buf[8192];

    if (!cmd_is_stdin(path))
        return qn_file_read(out, path, QN_LIMIT_INPUT_BYTES, err);
    for (;;) {
        ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return qn_fail(err, QN_E_IO, "standard input: %s", strerror(errno));
        if (n == 0)
            break;
        if (out->n + (size_t)n > QN_LIMIT_INPUT_BYTES)
            return qn_fail(err, QN_E_TOO_LONG,
                           "standard input: found more than %d bytes, wanted fewer",
                           QN_LIMIT_INPUT_BYTES);
        qn_str_add(out, buf, (size_t)n);
        if (out->failed)
            return qn_fail_nomem(err, out->n);
    }
    qn_str_add(out, "", 0);
    return out->failed ? qn_fail_nomem(err, 1) : QN_OK;
}

qn_status cmd_read_key(qn_str *key, const char *path, qn_err *err)
{
    qn_str text = {0};
    qn_key_line line = {0};
    bool got;
    qn_status s = qn_file_read(&text, path, 1 << 20, err);
    qn_key_reader r = {.text = {text.p, text.n}, .name = path};
    if (s == QN_OK)
        s = qn_key_next(&r, &line, &got, err);
    if (s == QN_OK) {
        qn_str_add(key, line.key.p, line.key.n);
        s = key->failed ? qn_fail_nomem(err, line.key.n) : QN_OK;
    }
    qn_str_fini(&text);
    return s;
}

void cmd_add_clean(qn_str *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        size_t k = qn_utf8_decode(text + i, n - i, &cp);
        bool is_control =
            k == 0 || (cp < 0x20 && cp != '\n' && cp != '\t') || (cp >= 0x7f && cp < 0xa0);
        if (!is_control)
            qn_str_add(out, text + i, k);
        i += QN_MAX(k, (size_t)1);
    }
}

void cmd_print_text(const char *text, size_t n)
{
    if (isatty(STDOUT_FILENO)) {
        qn_str clean = {0};
        cmd_add_clean(&clean, text, n);
        if (clean.n) /* nothing is left of a token of control bytes, or of half a character */
            fwrite(clean.p, 1, clean.n, stdout);
        qn_str_fini(&clean);
    } else if (n)
        fwrite(text, 1, n, stdout);
    fflush(stdout);
}

/* ---- progress ---- */

#define BAR_CELLS 30

void cmd_progress_show(cmd_progress *p, const char *what, double done, const char *detail)
{
    uint64_t now = qn_now_ns();
    char bar[BAR_CELLS + 1], label[64];

    if (p->start_ns == 0)
        p->start_ns = now;
    if (now - p->start_ns < 2000000000u || now - p->last_ns < 100000000u || !isatty(STDERR_FILENO))
        return;
    p->last_ns = now;
    p->is_shown = true;
    qn_escape(label, sizeof(label), what, strlen(what));
    if (done < 0) {
        fprintf(stderr, "\r\033[K%s %s", label, detail ? detail : "...");
    } else {
        int full = (int)(QN_MIN(done, 1.0) * BAR_CELLS);
        memset(bar, '-', BAR_CELLS);
        memset(bar, '#', (size_t)full);
        bar[BAR_CELLS] = 0;
        fprintf(stderr, "\r\033[K%s [%s] %3.0f %%%s%s", label, bar, QN_MIN(done, 1.0) * 100,
                detail ? "  " : "", detail ? detail : "");
    }
    fflush(stderr);
}

void cmd_progress_end(cmd_progress *p)
{
    if (p->is_shown)
        fputs("\r\033[K", stderr);
    *p = (cmd_progress){0};
}

void cmd_progress_load(void *arg, const char *what, double done)
{
    cmd_progress_show(arg, what, done, NULL);
}

void cmd_add_experts_json(qn_str *out, const qn_expert_info *x)
{
    qn_str_addf(
        out,
        ", \"experts\": {\"all\": %llu, \"in_memory\": %llu, \"uses\": %llu, \"hits\": %llu, "
        "\"read_bytes\": %llu}",
        (unsigned long long)x->n_experts, (unsigned long long)x->n_in_memory,
        (unsigned long long)x->n_uses, (unsigned long long)x->n_hits,
        (unsigned long long)x->read_bytes);
}
