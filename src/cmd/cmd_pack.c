/* SPDX-License-Identifier: Apache-2.0
 * cmd_pack.c - `quern pack`: writes a model as a packed file, or verifies one. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "base/limits.h"
#include "cmd/cmd.h"
#include "model/native.h"

typedef struct pack_options {
    int n_threads;
    bool check, json;
} pack_options;

static const qn_opt pack_opts[] = {
    {"check", 0, QN_OPT_FLAG, offsetof(pack_options, check),
     .help = "write nothing: verify the SHA-256 of every part of a packed file"},
    {"threads", 't', QN_OPT_INT, offsetof(pack_options, n_threads), "N", 0, QN_LIMIT_THREADS,
     "0: what this process may use", "worker threads"},
    {"json", 0, QN_OPT_FLAG, offsetof(pack_options, json), .help = "one JSON object"},
};
static const qn_opt_group pack_group = {"Options", pack_opts, QN_COUNT(pack_opts)};

const qn_opts cmd_pack_opts = {
    .command = "pack",
    .args = "MODEL OUT.qpk | --check FILE.qpk",
    .summary = "Write a model in the layout of the kernels, so that it starts without a transform",
    .about =
        "The file holds everything a model needs: matrices as the kernels read them, the other "
        "tensors, configuration, tokenizer and chat template. Every command takes it as a model. "
        "It "
        "is read straight into memory, or with --mmap used in place, its pages shared between "
        "processes. Results are the same bits as from MODEL. It belongs to this version's layout; "
        "another version says so and wants it packed again.",
    .max_args = 2,
    .groups = {{&pack_group, 0}},
};

/* Sizes of a packed file, in words or as JSON. */
static void show(qn_str *out, const qn_weights *w, const char *path, bool as_json, bool verified)
{
    const qn_qpk *q = w->qpk;
    uint64_t panels = q->area_bytes[QN_QPK_DENSE] + q->area_bytes[QN_QPK_EXPERTS];
    if (as_json) {
        qn_str_adds(out, "{\"file\":");
        qn_str_add_json(out, path, strlen(path));
        qn_str_addf(out,
                    ",\"bytes\":%zu,\"layout\":%u,\"panels\":%zu,\"panel_bytes\":%" PRIu64
                    ",\"expert_bytes\":%" PRIu64 ",\"verified\":%s}\n",
                    q->file->size, q->layout, q->n_panels, panels, q->area_bytes[QN_QPK_EXPERTS],
                    verified ? "true" : "false");
    } else {
        qn_str_addf(out, "%s: %.1f MB, %zu matrices in %.1f MB of panels, layout %u%s\n", path,
                    (double)q->file->size / 1e6, q->n_panels, (double)panels / 1e6, q->layout,
                    verified ? ", every sum is right" : "");
    }
}

static qn_status pack(const pack_options *o, const char *model, const char *out, qn_str *text,
                      cmd_progress *progress, qn_err *err)
{
    qn_str path = {0};
    qn_weights *w = NULL;
    const qn_native_options native = {.n_threads = o->n_threads ? o->n_threads : qn_cpu_n_usable(),
                                      .cpu_mask = ~0u,
                                      .progress = cmd_progress_load,
                                      .progress_arg = progress};
    qn_status s = QN_OK;
    if (!o->check) {
        s = cmd_model_find(&path, model, err);
        if (s == QN_OK)
            s = qn_native_write(path.p, out, &native, err);
    }
    const char *made = o->check ? model : out;
    if (s == QN_OK)
        s = qn_weights_open(&w, made, err);
    if (s == QN_OK && !w->qpk)
        s = qn_fail(err, QN_E_ARG, "%s: is no packed file", made);
    if (s == QN_OK && o->check)
        s = qn_qpk_check(w, cmd_progress_load, progress, err);
    cmd_progress_end(progress);
    if (s == QN_OK)
        show(text, w, made, o->json, o->check);
    if (s == QN_OK && text->failed)
        s = qn_fail_nomem(err, text->n);
    qn_weights_free(w);
    qn_str_fini(&path);
    return s;
}

int cmd_pack(int argc, char **argv)
{
    pack_options o = {0};
    cmd_progress progress = {0};
    qn_str text = {0};
    qn_opts_found found = {0};
    qn_err err = {0};
    int rc = cmd_parse(&cmd_pack_opts, &o, argc, argv, &found);
    size_t want = o.check ? 1 : 2;
    if (rc < 0 && found.n_args != want)
        rc = cmd_usage(&cmd_pack_opts, "found %zu names, wanted %s", found.n_args,
                       o.check ? "the packed file" : "MODEL and OUT.qpk");
    if (rc < 0) {
        qn_status s =
            pack(&o, found.args[0], want == 2 ? found.args[1] : NULL, &text, &progress, &err);
        rc = s == QN_OK ? CMD_OK : cmd_fail(&err);
        if (s == QN_OK)
            (void)fwrite(text.p, 1, text.n, stdout);
    }
    qn_str_fini(&text);
    qn_opts_found_fini(&found);
    return rc;
}
