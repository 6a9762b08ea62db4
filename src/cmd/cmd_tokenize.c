/* SPDX-License-Identifier: Apache-2.0
 * cmd_tokenize.c - `quern tokenize`: text to ids and back, one text or a line of JSON each.
 * Loads the tokenizer only: the weights are never read. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/mem.h"
#include "cmd/cmd.h"

typedef struct tokenize_options {
    const char *model;
    bool decode, jsonl, plain, skip_special, pieces;
} tokenize_options;

static const qn_opt tokenize_opts[] = {
    {"model", 'm', QN_OPT_STR, offsetof(tokenize_options, model), "MODEL",
     .help = "a GGUF file, a Hugging Face folder, a tokenizer.json, or OWNER/NAME[:FILE]"},
    {"decode", 'd', QN_OPT_FLAG, offsetof(tokenize_options, decode), .help = "ids in, text out"},
    {"jsonl", 0, QN_OPT_FLAG, offsetof(tokenize_options, jsonl),
     .help = "lines of JSON on standard input and output: {\"text\": ..., \"special\": true|false} "
             "to {\"ids\": [...]}; with "
             "--decode {\"ids\": [...], \"skip_special\": true|false} to {\"text\": ...}"},
    {"plain", 0, QN_OPT_FLAG, offsetof(tokenize_options, plain),
     .help = "special tokens in the text are text"},
    {"skip-special", 0, QN_OPT_FLAG, offsetof(tokenize_options, skip_special),
     .help = "--decode: leave special tokens out"},
    {"pieces", 0, QN_OPT_FLAG, offsetof(tokenize_options, pieces),
     .help = "a line for each id, with its bytes"},
};
static const qn_opt_group tokenize_group = {"Options", tokenize_opts, QN_COUNT(tokenize_opts)};

const qn_opts cmd_tokenize_opts = {
    .command = "tokenize",
    .args = "[TEXT]",
    .summary = "Turn text into token ids, or ids into text",
    .about = "Without TEXT, standard input is read. With --jsonl a bad line gives {\"error\": ...} "
             "and exit status 1 at the end.",
    .max_args = 1,
    .groups = {{&tokenize_group, 0}},
};

static void add_ids(qn_str *out, const qn_ids *ids, const char *between)
{
    for (size_t i = 0; i < ids->n; i++)
        qn_str_addf(out, "%s%d", i ? between : "", (int)ids->p[i]);
}

static void add_pieces(qn_str *out, const qn_tokenizer *t, const qn_ids *ids)
{
    for (size_t i = 0; i < ids->n; i++) {
        qn_slice b = qn_tokenizer_bytes(t, ids->p[i]);
        char shown[512];
        qn_escape(shown, sizeof(shown), b.p, b.n);
        qn_str_addf(out, "%d\t%s\n", (int)ids->p[i], shown);
    }
}

static qn_status push_id(qn_ids *ids, int64_t id, qn_err *err)
{
    if (id < 0 || id > INT32_MAX)
        return qn_fail(err, QN_E_ARG, "found the id %lld, wanted 0 to %d", (long long)id,
                       INT32_MAX);
    if (!qn_grow(&ids->p, &ids->cap, ids->n + 1, sizeof(*ids->p), QN_MEM_MISC))
        return qn_fail_nomem(err, ids->n * sizeof(*ids->p));
    ids->p[ids->n++] = (int32_t)id;
    return QN_OK;
}

/* Numbers parted by white space, commas or brackets. */
static qn_status parse_ids(qn_ids *ids, const qn_str *text, qn_err *err)
{
    const char *const between = " \t\r\n,[]";

    for (const char *p = text->p + strspn(text->p, between); *p; p += strspn(p, between)) {
        size_t n = strcspn(p, between);
        int64_t id;
        if (!qn_parse_i64(p, n, &id))
            return qn_fail(err, QN_E_ARG, "found '%.*s', wanted a token id",
                           (int)QN_MIN(n, (size_t)40), p);
        QN_TRY(push_id(ids, id, err));
        p += n;
    }
    return QN_OK;
}

/* ---- one text ---- */

static qn_status whole(const tokenize_options *o, const qn_tokenizer *t, const qn_str *in,
                       qn_str *out, qn_err *err)
{
    qn_ids ids = {0};
    qn_status s;

    if (o->decode) {
        s = parse_ids(&ids, in, err);
        if (s == QN_OK && !o->pieces)
            s = qn_tokenizer_decode(t, ids.p, ids.n, o->skip_special, out, err);
    } else
        s = qn_tokenizer_encode(t, in->p, in->n, o->plain ? QN_SPECIAL_ADDED : QN_SPECIAL_ALL, &ids,
                                err);
    if (s == QN_OK && o->pieces)
        add_pieces(out, t, &ids);
    else if (s == QN_OK && !o->decode) {
        add_ids(out, &ids, " ");
        qn_str_addc(out, '\n');
    }
    qn_ids_fini(&ids);
    return s == QN_OK && out->failed ? qn_fail_nomem(err, out->n) : s;
}

static int run_whole(const tokenize_options *o, const qn_tokenizer *t, const char *arg)
{
    qn_str in = {0}, out = {0}, clean = {0};
    qn_err err;
    int rc = CMD_OK;

    qn_status s = QN_OK;
    if (arg) {
        qn_str_adds(&in, arg);
        s = in.failed ? qn_fail_nomem(&err, strlen(arg)) : QN_OK;
    } else
        s = cmd_read(&in, NULL, &err);
    if (s == QN_OK)
        s = whole(o, t, &in, &out, &err);
    if (s != QN_OK)
        rc = cmd_fail(&err);
    else if (o->decode && isatty(STDOUT_FILENO)) {
        cmd_add_clean(&clean, out.p, out.n);
        printf("%s\n", clean.n ? clean.p : "");
    } else if (out.n)
        fwrite(out.p, 1, out.n, stdout);
    qn_str_fini(&in);
    qn_str_fini(&out);
    qn_str_fini(&clean);
    return rc;
}

/* ---- lines of JSON ---- */

static qn_status encode_line(const tokenize_options *o, const qn_tokenizer *t, const json_t *v,
                             const char *where, qn_str *out, qn_err *err)
{
    const json_t *text = json_object_get(v, "text");
    bool special = !o->plain;
    qn_ids ids = {0};

    if (!json_is_string(text))
        return qn_fail(err, QN_E_FORMAT, "%s: text: found %s, wanted a string", where,
                       text ? qn_json_type_name(text) : "nothing");
    QN_TRY(qn_json_bool(v, where, "special", &special, err));
    qn_status s = qn_tokenizer_encode(t, json_string_value(text), json_string_length(text),
                                      special ? QN_SPECIAL_ALL : QN_SPECIAL_ADDED, &ids, err);
    if (s == QN_OK) {
        qn_str_adds(out, "{\"ids\": [");
        add_ids(out, &ids, ", ");
        qn_str_adds(out, "]}\n");
    }
    qn_ids_fini(&ids);
    return s;
}

static qn_status decode_line(const tokenize_options *o, const qn_tokenizer *t, const json_t *v,
                             const char *where, qn_str *out, qn_err *err)
{
    const json_t *list = json_object_get(v, "ids");
    bool skip = o->skip_special;
    qn_status s = QN_OK;
    qn_ids ids = {0};
    qn_str text = {0};

    if (!json_is_array(list))
        return qn_fail(err, QN_E_FORMAT, "%s: ids: found %s, wanted an array of ids", where,
                       list ? qn_json_type_name(list) : "nothing");
    QN_TRY(qn_json_bool(v, where, "skip_special", &skip, err));
    for (size_t i = 0; s == QN_OK && i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        if (json_is_integer(id))
            s = push_id(&ids, json_integer_value(id), err);
        else
            s = qn_fail(err, QN_E_FORMAT, "ids[%zu]: found %s, wanted an integer", i,
                        qn_json_type_name(id));
    }
    if (s == QN_OK)
        s = qn_tokenizer_decode(t, ids.p, ids.n, skip, &text, err);
    if (s == QN_OK && text.failed)
        s = qn_fail_nomem(err, text.n);
    if (s == QN_OK) {
        qn_str_adds(out, "{\"text\": ");
        qn_str_add_json(out, text.p ? text.p : "", text.n);
        qn_str_adds(out, "}\n");
    } else
        (void)qn_wrap(err, s, "%s", where);
    qn_ids_fini(&ids);
    qn_str_fini(&text);
    return s;
}

static bool one_line(const tokenize_options *o, const qn_tokenizer *t, const char *line, size_t n,
                     size_t number, qn_str *out)
{
    char where[40];
    json_t *v = NULL;
    qn_err err;

    snprintf(where, sizeof(where), "line %zu", number);
    qn_status s = qn_json_parse(&v, line, n, 8, where, &err);
    if (s == QN_OK && !json_is_object(v))
        s = qn_fail(&err, QN_E_FORMAT, "%s: found %s, wanted an object", where,
                    qn_json_type_name(v));
    if (s == QN_OK)
        s = (o->decode ? decode_line : encode_line)(o, t, v, where, out, &err);
    if (s != QN_OK) {
        qn_str_adds(out, "{\"error\": ");
        qn_str_add_json(out, err.msg, strlen(err.msg));
        qn_str_adds(out, "}\n");
    }
    json_decref(v);
    return s == QN_OK;
}

/* Answers each line as soon as it is whole, so that another program can talk to this one through pipes. */
static int run_lines(const tokenize_options *o, const qn_tokenizer *t)
{
    qn_str in = {.limit = QN_LIMIT_INPUT_BYTES}, out = {0};
    size_t number = 0, seen = 0; /* seen: bytes of `in` without a line's end */
    bool is_good = true, is_end = false;
    char buf[8192];
    qn_err err;
    int rc = CMD_OK;

    while (rc == CMD_OK && !is_end) {
        ssize_t got = read(STDIN_FILENO, buf, sizeof(buf));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            (void)qn_fail(&err, QN_E_IO, "standard input: %s", strerror(errno));
            rc = cmd_fail(&err);
            break;
        }
        is_end = got == 0;
        qn_str_add(&in, buf, (size_t)got);
        size_t begin = 0;
        char *nl;
        while (!in.failed && begin < in.n && (nl = memchr(in.p + seen, '\n', in.n - seen))) {
            is_good &= one_line(o, t, in.p + begin, (size_t)(nl - in.p) - begin, ++number, &out);
            begin = seen = (size_t)(nl - in.p) + 1;
        }
        if (begin < in.n && is_end) {
            is_good &= one_line(o, t, in.p + begin, in.n - begin, ++number, &out);
            begin = in.n;
        }
        if (in.failed || out.failed) {
            (void)qn_fail(&err, QN_E_TOO_LONG, "standard input: line %zu does not fit in memory",
                          number + in.failed);
            rc = cmd_fail(&err);
            break;
        }
        if (begin) {
            memmove(in.p, in.p + begin, in.n - begin);
            in.n -= begin;
        }
        seen = in.n;
        if (out.n && (fwrite(out.p, 1, out.n, stdout) != out.n || fflush(stdout) != 0))
            rc = CMD_FAILED;
        qn_str_clear(&out);
    }
    qn_str_fini(&in);
    qn_str_fini(&out);
    return rc == CMD_OK && !is_good ? CMD_FAILED : rc;
}

int cmd_tokenize(int argc, char **argv)
{
    tokenize_options o = {0};
    qn_opts_found found;
    cmd_text text;
    qn_err err;
    int rc = cmd_parse(&cmd_tokenize_opts, &o, argc, argv, &found);

    if (rc < 0 && !o.model)
        rc = cmd_usage(&cmd_tokenize_opts,
                       "--model: found none, wanted a model or a tokenizer.json");
    if (rc < 0 && o.jsonl && found.n_args)
        rc = cmd_usage(&cmd_tokenize_opts,
                       "--jsonl: found the operand '%s', wanted lines on standard input",
                       found.args[0]);
    if (rc < 0 && o.jsonl && o.pieces)
        rc = cmd_usage(&cmd_tokenize_opts, "--pieces: found with --jsonl, wanted one of them");
    if (rc < 0 && cmd_text_open(&text, o.model, &err) != QN_OK)
        rc = cmd_fail(&err);
    if (rc < 0) {
        rc = o.jsonl ? run_lines(&o, text.tokenizer)
                     : run_whole(&o, text.tokenizer, found.n_args ? found.args[0] : NULL);
        cmd_text_close(&text);
    }
    qn_opts_found_fini(&found);
    return rc;
}
