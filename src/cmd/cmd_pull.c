/* SPDX-License-Identifier: Apache-2.0
 * cmd_pull.c - `quern pull`: downloads a model into the hub's cache and prints where it is. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "format/hub.h"

typedef struct pull_options {
    bool quiet, offline;
} pull_options;

static const qn_opt pull_opts[] = {
    {"offline", 0, QN_OPT_FLAG, offsetof(pull_options, offline),
     .help = "use what the cache holds and ask nobody"},
    {"quiet", 'q', QN_OPT_FLAG, offsetof(pull_options, quiet), .help = "no progress"},
};
static const qn_opt_group pull_group = {"Options", pull_opts, QN_COUNT(pull_opts)};

const qn_opts cmd_pull_opts = {
    .command = "pull",
    .args = "OWNER/NAME[@REVISION][:FILE]",
    .summary = "Download a model from a hub and print its path",
    .about = "FILE is a file of the repository, or a tag such as Q4_K_M that the name of one GGUF "
             "file holds. Without FILE: what "
             "the safetensors need to run, or the only GGUF. A download that broke off is gone on "
             "with; every file is checked.\n"
             "HF_ENDPOINT, HF_TOKEN and HF_HOME are those of other hub tools, and so is the cache.",
    .max_args = 1,
    .groups = {{&pull_group, 0}},
};

static void on_progress(void *arg, const char *file, uint64_t done, uint64_t total, double rate)
{
    char detail[96];

    snprintf(detail, sizeof(detail), "%" PRIu64 " of %" PRIu64 " MB, %.1f MB/s", done / 1000000,
             total / 1000000, rate / 1e6);
    cmd_progress_show(arg, file, total ? (double)done / (double)total : -1, detail);
}

int cmd_pull(int argc, char **argv)
{
    pull_options o = {0};
    cmd_progress progress = {0};
    qn_hub_config hub = {0};
    qn_str text = {0}, path = {0};
    qn_opts_found found;
    qn_err err;
    int rc = cmd_parse(&cmd_pull_opts, &o, argc, argv, &found);

    if (rc < 0 && found.n_args == 0)
        rc = cmd_usage(&cmd_pull_opts, "found no model, wanted OWNER/NAME[:FILE]");
    if (rc < 0 && !qn_hub_is_spec(found.args[0]))
        rc = cmd_usage(&cmd_pull_opts, "found '%s', wanted OWNER/NAME[@REVISION][:FILE]",
                       found.args[0]);
    if (rc < 0) {
        qn_status s = qn_hub_config_from_env(&hub, &text, &err);
        hub.offline |= o.offline;
        if (s == QN_OK)
            s = qn_hub_pull(&hub, found.args[0], o.quiet ? NULL : on_progress, &progress, &path,
                            &err);
        cmd_progress_end(&progress);
        rc = s == QN_OK ? CMD_OK : cmd_fail(&err);
        if (s == QN_OK)
            puts(path.p);
    }
    qn_str_fini(&text);
    qn_str_fini(&path);
    qn_opts_found_fini(&found);
    return rc;
}
