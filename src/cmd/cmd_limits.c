/* SPDX-License-Identifier: Apache-2.0
 * cmd_limits.c - `quern limits`: prints limits.def. */
#include <stdio.h>

#include "base/limits.h"
#include "cmd/cmd.h"

typedef struct limit {
    const char *name;
    int value;
    const char *unit, *over;
} limit;

static const limit limits[] = {
#define QN_LIMIT(name, value, unit, over) {#name, (value), (unit), (over)},
#include "base/limits.def"
#undef QN_LIMIT
};

typedef struct limits_options {
    bool json;
} limits_options;

static const qn_opt limits_opts[] = {
    {"json", 0, QN_OPT_FLAG, offsetof(limits_options, json), .help = "one JSON array"},
};
static const qn_opt_group limits_group = {"Output", limits_opts, QN_COUNT(limits_opts)};

const qn_opts cmd_limits_opts = {
    .command = "limits",
    .args = "",
    .summary = "Show the limits on files, templates and requests",
    .groups = {{&limits_group, 0}},
};

/* JSON_DEPTH as "json-depth". */
static const char *shown(char *buf, size_t size, const char *name)
{
    size_t i = 0;
    for (; name[i] && i + 1 < size; i++)
        buf[i] = (char)(name[i] == '_' ? '-' : name[i] | 0x20);
    buf[i] = 0;
    return buf;
}

int cmd_limits(int argc, char **argv)
{
    limits_options o = {0};
    qn_opts_found found;
    char name[64];
    int rc = cmd_parse(&cmd_limits_opts, &o, argc, argv, &found);

    qn_opts_found_fini(&found);
    if (rc >= 0)
        return rc;
    if (o.json) {
        for (size_t i = 0; i < QN_COUNT(limits); i++)
            printf("%s{\"name\": \"%s\", \"value\": %d, \"unit\": \"%s\", \"over\": \"%s\"}",
                   i ? ",\n " : "[", shown(name, sizeof(name), limits[i].name), limits[i].value,
                   limits[i].unit, limits[i].over);
        puts("]");
        return CMD_OK;
    }
    printf("%-20s %12s  %-42s %s\n", "limit", "value", "unit", "over it");
    for (size_t i = 0; i < QN_COUNT(limits); i++)
        printf("%-20s %12d  %-42s %s\n", shown(name, sizeof(name), limits[i].name), limits[i].value,
               limits[i].unit, limits[i].over);
    return CMD_OK;
}
