/* SPDX-License-Identifier: Apache-2.0
 * opts.c - parser, help text and shell completions from one option table. */
#include "base/opts.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define HELP_COLUMN 28 /* where the help text of an option begins */
#define HELP_WIDTH  98

void qn_opt_list_fini(qn_opt_list *l)
{
    qn_free(l->items);
    *l = (qn_opt_list){0};
}

void qn_opts_found_fini(qn_opts_found *f)
{
    qn_free(f->args);
    *f = (qn_opts_found){0};
}

size_t qn_opts_distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    unsigned char row[3][64]; /* Damerau: the two rows above are needed for a swap */

    if (na > 63 || nb > 63)
        return 64;
    for (size_t j = 0; j <= nb; j++)
        row[0][j] = (unsigned char)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned char *cur = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
        cur[0] = (unsigned char)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned best = up[j - 1] + (a[i - 1] != b[j - 1]);
            best = QN_MIN(best, up[j] + 1u);
            best = QN_MIN(best, cur[j - 1] + 1u);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = QN_MIN(best, up2[j - 2] + 1u);
            cur[j] = (unsigned char)best;
        }
    }
    return row[na % 3][nb];
}

/* ---- parsing ---- */

typedef struct parser {
    const qn_opts *o;
    char *dest;
    qn_opts_found *found;
    qn_err *err;
} parser;

static void *field(void *base, size_t at)
{
    return (char *)base + at;
}

/* Length and index of the word in "a|b|c"; -1: none. */
static int choice_of(const char *choices, const char *word)
{
    size_t n = strlen(word);
    int i = 0;

    for (const char *p = choices;; i++) {
        size_t k = strcspn(p, "|");
        if (k == n && memcmp(p, word, n) == 0)
            return i;
        if (p[k] == 0)
            return -1;
        p += k + 1;
    }
}

/* What the option wants, for the message. Returns buf. */
static const char *wanted(const qn_opt *opt, char *buf, size_t size)
{
    bool bounded = opt->min != 0 || opt->max != 0;

    switch (opt->kind) {
    case QN_OPT_FLAG:
        (void)snprintf(buf, size, "no value");
        break;
    case QN_OPT_INT:
    case QN_OPT_UINT:
    case QN_OPT_U64:
        if (bounded)
            (void)snprintf(buf, size, "a whole number from %.0f to %.0f", opt->min, opt->max);
        else
            (void)snprintf(buf, size, "a whole number%s",
                           opt->kind == QN_OPT_INT ? "" : ", 0 or more");
        break;
    case QN_OPT_INTS:
        (void)snprintf(buf, size, "up to %d whole numbers from %.0f to %.0f, with commas",
                       QN_OPT_MAX_INTS, opt->min, opt->max);
        break;
    case QN_OPT_SIZE:
        (void)snprintf(buf, size, "a number of bytes (512, 64K, 16M, 4G)");
        break;
    case QN_OPT_FLOAT:
        if (bounded)
            (void)snprintf(buf, size, "a number from %g to %g", opt->min, opt->max);
        else
            (void)snprintf(buf, size, "a number");
        break;
    case QN_OPT_STR:
    case QN_OPT_LIST:
        (void)snprintf(buf, size, "%s", opt->value);
        break;
    case QN_OPT_ENUM:
        (void)snprintf(buf, size, "one of %s", opt->value);
        break;
    }
    return buf;
}

static bool in_range(const qn_opt *opt, double v)
{
    return (opt->min == 0 && opt->max == 0) || (v >= opt->min && v <= opt->max);
}

static bool parse_unsigned(const char *s, uint64_t max, uint64_t *out)
{
    if (s[0] != '0' || (s[1] != 'x' && s[1] != 'X'))
        return qn_parse_u64(s, strlen(s), max, out);
    uint64_t v = 0;
    size_t n = strlen(s + 2);
    if (n == 0 || n > 16)
        return false;
    for (const char *p = s + 2; *p; p++) {
        const char *digits = "0123456789abcdef",
                   *d = strchr(digits, *p | ((*p >= 'A' && *p <= 'F') ? 0x20 : 0));
        if (!d)
            return false;
        v = v << 4 | (uint64_t)(d - digits);
    }
    *out = v;
    return v <= max;
}

static bool parse_ints(const qn_opt *opt, qn_opt_ints *to, const char *text)
{
    qn_opt_ints list = {.n = 0};
    for (const char *p = text;; p++) {
        size_t n = strcspn(p, ",");
        int64_t v;
        if (list.n == QN_OPT_MAX_INTS || !qn_parse_i64(p, n, &v) || v < INT32_MIN ||
            v > INT32_MAX || !in_range(opt, (double)v))
            return false;
        list.items[list.n++] = (int)v;
        p += n;
        if (!*p)
            break;
    }
    *to = list;
    return true;
}

/* Stores text as the option's value; false: it is not one. */
static bool store_number(const qn_opt *opt, void *to, const char *text)
{
    size_t n = strlen(text);
    int64_t i;
    uint64_t u;
    double f;

    switch (opt->kind) {
    case QN_OPT_INT:
        if (!qn_parse_i64(text, n, &i) || i < INT32_MIN || i > INT32_MAX ||
            !in_range(opt, (double)i))
            return false;
        *(int *)to = (int)i;
        return true;
    case QN_OPT_UINT:
        if (!parse_unsigned(text, UINT32_MAX, &u) || !in_range(opt, (double)u))
            return false;
        *(unsigned *)to = (unsigned)u;
        return true;
    case QN_OPT_U64:
        if (!parse_unsigned(text, UINT64_MAX, &u) || !in_range(opt, (double)u))
            return false;
        *(uint64_t *)to = u;
        return true;
    case QN_OPT_SIZE:
        if (!qn_parse_bytes(text, n, &u) || !in_range(opt, (double)u))
            return false;
        *(uint64_t *)to = u;
        return true;
    default:
        if (!qn_parse_f64(text, n, &f) || !in_range(opt, f))
            return false;
        *(float *)to = (float)f;
        return true;
    }
}

static qn_status store(parser *p, const qn_opt *opt, size_t at, const char *text)
{
    void *to = field(p->dest, at + opt->at);
    char want[200];
    int word;

    switch (opt->kind) {
    case QN_OPT_FLAG:
        *(bool *)to = true;
        return QN_OK;
    case QN_OPT_STR:
        *(const char **)to = text;
        return QN_OK;
    case QN_OPT_LIST: {
        qn_opt_list *l = to;
        if (!qn_grow(&l->items, &l->cap, l->n + 1, sizeof(*l->items), QN_MEM_MISC))
            return qn_fail_nomem(p->err, sizeof(*l->items));
        l->items[l->n++] = text;
        return QN_OK;
    }
    case QN_OPT_INTS:
        if (parse_ints(opt, to, text))
            return QN_OK;
        break;
    case QN_OPT_ENUM:
        if ((word = choice_of(opt->value, text)) >= 0) {
            *(int *)to = word;
            return QN_OK;
        }
        break;
    default:
        if (store_number(opt, to, text))
            return QN_OK;
        break;
    }
    return qn_fail(p->err, QN_E_ARG, "--%s: found '%s', wanted %s", opt->name, text,
                   wanted(opt, want, sizeof(want)));
}

static const qn_opt *find(const qn_opts *o, const char *name, size_t n, char letter, size_t *group,
                          size_t *index)
{
    for (size_t g = 0; g < QN_OPTS_GROUPS && o->groups[g].group; g++)
        for (size_t i = 0; i < o->groups[g].group->n; i++) {
            const qn_opt *opt = &o->groups[g].group->opts[i];
            if (name ? strlen(opt->name) == n && memcmp(opt->name, name, n) == 0
                     : opt->letter == letter) {
                *group = g;
                *index = i;
                return opt;
            }
        }
    return NULL;
}

static qn_status unknown(parser *p, const char *arg)
{
    const char *best = NULL;
    size_t least = 3; /* more edits than this is another word */
    char word[64];

    (void)snprintf(word, sizeof(word), "%.*s", (int)strcspn(arg + 2, "="), arg + 2);
    for (size_t g = 0; g < QN_OPTS_GROUPS && p->o->groups[g].group; g++)
        for (size_t i = 0; i < p->o->groups[g].group->n; i++) {
            size_t d = qn_opts_distance(p->o->groups[g].group->opts[i].name, word);
            if (d < least) {
                least = d;
                best = p->o->groups[g].group->opts[i].name;
            }
        }
    if (best)
        return qn_fail(p->err, QN_E_ARG, "unknown option %s (did you mean --%s?)", arg, best);
    return qn_fail(p->err, QN_E_ARG, "unknown option %s", arg);
}

static qn_status missing(parser *p, const qn_opt *opt)
{
    char want[200];
    return qn_fail(p->err, QN_E_ARG, "--%s: found nothing after it, wanted %s", opt->name,
                   wanted(opt, want, sizeof(want)));
}

/* argv[*i] is --name or --name=value. */
static qn_status parse_long(parser *p, int argc, char **argv, int *i)
{
    const char *name = argv[*i] + 2;
    size_t n = strcspn(name, "="), group, index;
    const char *text = name[n] == '=' ? name + n + 1 : NULL;
    const qn_opt *opt = find(p->o, name, n, 0, &group, &index);
    char want[200];

    if (n == 4 && memcmp(name, "help", 4) == 0 && !text) {
        p->found->help = true;
        return QN_OK;
    }
    if (!opt)
        return unknown(p, argv[*i]);
    if (opt->kind == QN_OPT_FLAG) {
        if (text)
            return qn_fail(p->err, QN_E_ARG, "--%s: found '%s', wanted %s", opt->name, text,
                           wanted(opt, want, sizeof(want)));
    } else if (!text) {
        if (*i + 1 >= argc)
            return missing(p, opt);
        text = argv[++*i];
    }
    p->found->given[group] |= (uint64_t)1 << index;
    return store(p, opt, p->o->groups[group].at, text);
}

/* argv[*i] is -abc: flags, the last of which may take a value. */
static qn_status parse_short(parser *p, int argc, char **argv, int *i)
{
    for (const char *c = argv[*i] + 1; *c; c++) {
        size_t group, index;
        const qn_opt *opt = find(p->o, NULL, 0, *c, &group, &index);
        if (*c == 'h') {
            p->found->help = true;
            return QN_OK;
        }
        if (!opt)
            return qn_fail(p->err, QN_E_ARG, "unknown option -%c", *c);
        p->found->given[group] |= (uint64_t)1 << index;
        if (opt->kind == QN_OPT_FLAG) {
            QN_TRY(store(p, opt, p->o->groups[group].at, NULL));
            continue;
        }
        const char *text = c + 1;
        if (*text == '=')
            text++;
        else if (!*text) {
            if (*i + 1 >= argc)
                return missing(p, opt);
            text = argv[++*i];
        }
        return store(p, opt, p->o->groups[group].at, text);
    }
    return QN_OK;
}

qn_status qn_opts_parse(const qn_opts *o, void *dest, int argc, char **argv, qn_opts_found *found,
                        qn_err *err)
{
    parser p = {o, dest, found, err};
    bool operands_only = false;

    *found = (qn_opts_found){0};
    found->args = qn_alloc_array((size_t)QN_MAX(argc, 1), sizeof(*found->args), QN_MEM_MISC);
    if (!found->args)
        return qn_fail_nomem(err, (size_t)argc * sizeof(*found->args));
    for (int i = 1; i < argc && !found->help; i++) {
        const char *a = argv[i];
        if (operands_only || a[0] != '-' || a[1] == 0) {
            found->args[found->n_args++] = a;
            continue;
        }
        if (strcmp(a, "--") == 0)
            operands_only = true;
        else if (a[1] == '-')
            QN_TRY(parse_long(&p, argc, argv, &i));
        else
            QN_TRY(parse_short(&p, argc, argv, &i));
    }
    if (!found->help && found->n_args > (size_t)o->max_args)
        return qn_fail(err, QN_E_ARG, "found the extra operand '%s', wanted %s%s",
                       found->args[o->max_args], o->max_args ? "only " : "none",
                       o->max_args ? o->args : "");
    return QN_OK;
}

static size_t size_of(qn_opt_kind kind)
{
    switch (kind) {
    case QN_OPT_FLAG:
        return sizeof(bool);
    case QN_OPT_INT:
    case QN_OPT_UINT:
    case QN_OPT_ENUM:
        return sizeof(int);
    case QN_OPT_U64:
    case QN_OPT_SIZE:
        return sizeof(uint64_t);
    case QN_OPT_FLOAT:
        return sizeof(float);
    case QN_OPT_STR:
        return sizeof(const char *);
    case QN_OPT_LIST:
        return sizeof(qn_opt_list);
    case QN_OPT_INTS:
        return sizeof(qn_opt_ints);
    }
    return 0;
}

void qn_opts_copy(const qn_opt_group *g, uint64_t given, const void *from, void *to)
{
    for (size_t i = 0; i < g->n; i++)
        if (given >> i & 1)
            memcpy((char *)to + g->opts[i].at, (const char *)from + g->opts[i].at,
                   size_of(g->opts[i].kind));
}

/* ---- help ---- */

/* Appends text, its lines broken at spaces between `column` and HELP_WIDTH; the cursor stands at
 * `at`. */
static void add_wrapped(qn_str *out, const char *text, size_t at, size_t column)
{
    bool first = true;

    while (*text) {
        size_t n = strcspn(text, " \n");
        if (!first && at + 1 + n > HELP_WIDTH) {
            qn_str_addf(out, "\n%*s", (int)column, "");
            at = column;
        } else if (!first) {
            qn_str_addc(out, ' ');
            at++;
        }
        qn_str_add(out, text, n);
        at += n;
        first = false;
        text += n;
        if (*text == '\n') {
            qn_str_addf(out, "\n%*s", (int)column, "");
            at = column;
            first = true;
        }
        text += *text != 0;
    }
}

static void add_option(qn_str *out, const qn_opt *opt)
{
    char left[120], text[600];
    const char *value = opt->kind == QN_OPT_FLAG ? "" : opt->value;
    int n;

    if (opt->letter)
        n = snprintf(left, sizeof(left), "  -%c, --%s%s%s", opt->letter, opt->name,
                     *value ? " " : "", value);
    else
        n = snprintf(left, sizeof(left), "      --%s%s%s", opt->name, *value ? " " : "", value);
    qn_str_adds(out, left);
    if (n >= HELP_COLUMN - 1)
        qn_str_addf(out, "\n%*s", HELP_COLUMN, "");
    else
        qn_str_addf(out, "%*s", HELP_COLUMN - n, "");
    (void)snprintf(text, sizeof(text), "%s%s%s%s", opt->help, opt->def ? " [" : "",
                   opt->def ? opt->def : "", opt->def ? "]" : "");
    add_wrapped(out, text, HELP_COLUMN, HELP_COLUMN);
    qn_str_addc(out, '\n');
}

void qn_opts_help(qn_str *out, const qn_opts *o)
{
    qn_str_addf(out, "usage: quern %s [OPTION...]%s%s\n\n", o->command, *o->args ? " " : "",
                o->args);
    qn_str_addf(out, "%s.\n", o->summary);
    if (o->about) {
        qn_str_addc(out, '\n');
        add_wrapped(out, o->about, 0, 0);
        qn_str_addc(out, '\n');
    }
    for (size_t g = 0; g < QN_OPTS_GROUPS && o->groups[g].group; g++) {
        qn_str_addf(out, "\n%s\n", o->groups[g].group->title);
        for (size_t i = 0; i < o->groups[g].group->n; i++)
            add_option(out, &o->groups[g].group->opts[i]);
    }
    qn_str_adds(out, "\n  -h, --help                show this text\n");
}

/* ---- completions ---- */

static bool wants_file(const qn_opt *opt)
{
    return (opt->kind == QN_OPT_STR || opt->kind == QN_OPT_LIST) &&
           (strcmp(opt->value, "FILE") == 0 || strcmp(opt->value, "MODEL") == 0 ||
            strcmp(opt->value, "FOLDER") == 0);
}

static void add_choices(qn_str *out, const char *choices)
{
    for (const char *p = choices; *p; p++)
        qn_str_addc(out, *p == '|' ? ' ' : *p);
}

/* Appends text for the inside of '...' in the shell; specials of zsh's _arguments get a
 * backslash. */
static void add_quoted(qn_str *out, const char *text, const char *specials)
{
    for (const char *p = text; *p; p++) {
        if (*p == '\'')
            qn_str_adds(out, "'\\''");
        else {
            if (strchr(specials, *p))
                qn_str_addc(out, '\\');
            qn_str_addc(out, *p);
        }
    }
}

static void bash_command(qn_str *out, const qn_opts *o)
{
    qn_str_addf(out, "    %s)\n        case $prev in\n", o->command);
    for (size_t g = 0; g < QN_OPTS_GROUPS && o->groups[g].group; g++)
        for (size_t i = 0; i < o->groups[g].group->n; i++) {
            const qn_opt *opt = &o->groups[g].group->opts[i];
            if (opt->kind == QN_OPT_FLAG)
                continue;
            qn_str_addf(out, "        --%s", opt->name);
            if (opt->letter)
                qn_str_addf(out, " | -%c", opt->letter);
            qn_str_adds(out, ") ");
            if (opt->kind == QN_OPT_ENUM) {
                qn_str_adds(out, "COMPREPLY=($(compgen -W '");
                add_choices(out, opt->value);
                qn_str_adds(out, "' -- \"$cur\")); ");
            } else if (wants_file(opt))
                qn_str_adds(out, "COMPREPLY=($(compgen -f -- \"$cur\")); ");
            qn_str_adds(out, "return ;;\n");
        }
    qn_str_adds(out, "        esac\n        words='--help");
    for (size_t g = 0; g < QN_OPTS_GROUPS && o->groups[g].group; g++)
        for (size_t i = 0; i < o->groups[g].group->n; i++)
            qn_str_addf(out, " --%s", o->groups[g].group->opts[i].name);
    qn_str_adds(out, "' ;;\n");
}

static void complete_bash(qn_str *out, const char *program, const qn_opts *const *commands,
                          size_t n)
{
    qn_str_addf(out, "# bash completion of %s, made by `%s completion bash`\n_%s() {\n", program,
                program, program);
    qn_str_adds(
        out, "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=\n");
    qn_str_adds(out, "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W "
                     "'--help --version");
    for (size_t i = 0; i < n; i++)
        qn_str_addf(out, " %s", commands[i]->command);
    qn_str_adds(out, "' -- \"$cur\"))\n        return\n    fi\n    case ${COMP_WORDS[1]} in\n");
    for (size_t i = 0; i < n; i++)
        bash_command(out, commands[i]);
    qn_str_adds(
        out,
        "    esac\n    case $cur in\n    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")) ;;\n"
        "    *) COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n    esac\n}\n");
    qn_str_addf(out, "complete -o filenames -F _%s %s\n", program, program);
}

static void zsh_option(qn_str *out, const qn_opt *opt)
{
    bool is_flag = opt->kind == QN_OPT_FLAG, is_list = opt->kind == QN_OPT_LIST;

    qn_str_adds(out, "            '");
    if (is_list)
        qn_str_addc(out, '*');
    else if (opt->letter)
        qn_str_addf(out, "(-%c --%s)", opt->letter, opt->name);
    if (opt->letter)
        qn_str_addf(out, "'{-%c%s,--%s%s}'[", opt->letter, is_flag ? "" : "+", opt->name,
                    is_flag ? "" : "=");
    else
        qn_str_addf(out, "--%s%s[", opt->name, is_flag ? "" : "=");
    add_quoted(out, opt->help, "[]:\\");
    qn_str_addc(out, ']');
    if (opt->kind == QN_OPT_ENUM) {
        qn_str_adds(out, ":word:(");
        add_choices(out, opt->value);
        qn_str_addc(out, ')');
    } else if (opt->kind != QN_OPT_FLAG) {
        qn_str_addc(out, ':');
        add_quoted(out, opt->value, "[]:\\");
        qn_str_adds(out, wants_file(opt) ? ":_files" : ": ");
    }
    qn_str_adds(out, "' \\\n");
}

static void complete_zsh(qn_str *out, const char *program, const qn_opts *const *commands, size_t n)
{
    qn_str_addf(out,
                "#compdef %s\n# made by `%s completion zsh`\n_%s() {\n    local -a commands=(\n",
                program, program, program);
    for (size_t i = 0; i < n; i++) {
        qn_str_addf(out, "        '%s:", commands[i]->command);
        add_quoted(out, commands[i]->summary, ":\\");
        qn_str_adds(out, "'\n");
    }
    qn_str_adds(
        out,
        "    )\n    if ((CURRENT == 2)); then\n        _describe command commands\n        "
        "return\n    fi\n"
        "    local command=$words[2]\n    shift words\n    ((CURRENT--))\n    case $command in\n");
    for (size_t i = 0; i < n; i++) {
        const qn_opts *o = commands[i];
        qn_str_addf(out, "    %s)\n        _arguments \\\n", o->command);
        for (size_t g = 0; g < QN_OPTS_GROUPS && o->groups[g].group; g++)
            for (size_t k = 0; k < o->groups[g].group->n; k++)
                zsh_option(out, &o->groups[g].group->opts[k]);
        qn_str_adds(out, "            '--help[show the options]' '*:file:_files' ;;\n");
    }
    qn_str_addf(out, "    esac\n}\n_%s \"$@\"\n", program);
}

static void complete_fish(qn_str *out, const char *program, const qn_opts *const *commands,
                          size_t n)
{
    qn_str_addf(out, "# fish completion of %s, made by `%s completion fish`\n", program, program);
    for (size_t i = 0; i < n; i++) {
        const qn_opts *o = commands[i];
        qn_str_addf(out, "complete -c %s -n __fish_use_subcommand -f -a %s -d '", program,
                    o->command);
        add_quoted(out, o->summary, "\\");
        qn_str_adds(out, "'\n");
        for (size_t g = 0; g < QN_OPTS_GROUPS && o->groups[g].group; g++)
            for (size_t k = 0; k < o->groups[g].group->n; k++) {
                const qn_opt *opt = &o->groups[g].group->opts[k];
                qn_str_addf(out, "complete -c %s -n '__fish_seen_subcommand_from %s' -l %s",
                            program, o->command, opt->name);
                if (opt->letter)
                    qn_str_addf(out, " -s %c", opt->letter);
                if (opt->kind == QN_OPT_ENUM) {
                    qn_str_adds(out, " -x -a '");
                    add_choices(out, opt->value);
                    qn_str_addc(out, '\'');
                } else if (opt->kind != QN_OPT_FLAG)
                    qn_str_adds(out, wants_file(opt) ? " -r -F" : " -x");
                qn_str_adds(out, " -d '");
                add_quoted(out, opt->help, "\\");
                qn_str_adds(out, "'\n");
            }
    }
}

void qn_opts_completion(qn_str *out, qn_shell shell, const char *program,
                        const qn_opts *const *commands, size_t n)
{
    switch (shell) {
    case QN_SHELL_BASH:
        complete_bash(out, program, commands, n);
        break;
    case QN_SHELL_ZSH:
        complete_zsh(out, program, commands, n);
        break;
    case QN_SHELL_FISH:
        complete_fish(out, program, commands, n);
        break;
    }
}
