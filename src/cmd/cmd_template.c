/* SPDX-License-Identifier: Apache-2.0
 * cmd_template.c - `quern template`: renders a conversation with a chat template, exactly. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/limits.h"
#include "cmd/cmd.h"

typedef struct template_options {
    const char *model, *file, *input;
    bool segments;
} template_options;

static const qn_opt template_opts[] = {
    {"model", 'm', QN_OPT_STR, offsetof(template_options, model), "MODEL",
     .help = "take the template, bos_token and eos_token from this model"},
    {"file", 'f', QN_OPT_STR, offsetof(template_options, file), "FILE",
     .help = "a Jinja file, instead of the model's"},
    {"input", 'i', QN_OPT_STR, offsetof(template_options, input), "FILE", .def = "-",
     .help = "JSON object: messages, tools, add_generation_prompt (true unless given) and any "
             "other variable"},
    {"segments", 0, QN_OPT_FLAG, offsetof(template_options, segments),
     .help = "print JSON that tells the template's own text (literal) from the request's"},
};
static const qn_opt_group template_group = {"Options", template_opts, QN_COUNT(template_opts)};

const qn_opts cmd_template_opts = {
    .command = "template",
    .args = "",
    .summary = "Render a conversation with a chat template",
    .about = "Prints the rendered text and nothing else. What a template raises goes to stderr, "
             "with exit status 1.",
    .groups = {{&template_group, 0}},
};

static qn_status load_file(qn_chat_template **out, const char *path, qn_err *err)
{
    qn_str text = {0};
    qn_status s = qn_file_read(&text, path, QN_LIMIT_TEMPLATE_BYTES, err);

    if (s == QN_OK)
        s = qn_chat_template_new(out, text.p ? text.p : "", text.n, path, err);
    qn_str_fini(&text);
    return s;
}

static qn_status load_model(qn_chat_template **out, const cmd_text *model, const char *name,
                            qn_err *err)
{
    if (model->weights)
        QN_TRY(qn_chat_template_from_model(out, model->weights, err));
    if (!*out)
        return qn_fail(err, QN_E_NOT_FOUND,
                       "%s: found no chat template in it, wanted one (or --file)", name);
    return QN_OK;
}

/* Sets name to the text of token id, unless the caller gave it. */
static qn_status set_token(json_t *vars, const char *name, const qn_tokenizer *t, int32_t id,
                           qn_err *err)
{
    if (id < 0 || json_object_get(vars, name))
        return QN_OK;
    qn_slice b = qn_tokenizer_bytes(t, id);
    if (json_object_set_new(vars, name, json_stringn(b.p, b.n)) != 0)
        return qn_fail(err, QN_E_FORMAT, "%s: found a token that is not UTF-8", name);
    return QN_OK;
}

static qn_status read_variables(json_t **out, const char *path, const cmd_text *model, qn_err *err)
{
    const char *name = cmd_is_stdin(path) ? "standard input" : path;
    qn_str text = {0};

    *out = NULL;
    qn_status s = cmd_read(&text, path, err);
    if (s == QN_OK)
        s = qn_chat_variables_parse(out, text.p ? text.p : "", text.n, 0, name, err);
    if (s == QN_OK && !json_is_object(*out))
        s = qn_fail(err, QN_E_FORMAT, "%s: found %s, wanted an object with messages", name,
                    qn_json_type_name(*out));
    if (s == QN_OK && !json_object_get(*out, "add_generation_prompt") &&
        json_object_set_new(*out, "add_generation_prompt", json_true()) != 0)
        s = qn_fail_nomem(err, 0);
    if (s == QN_OK && model->tokenizer) {
        s = set_token(*out, "bos_token", model->tokenizer, qn_tokenizer_bos(model->tokenizer), err);
        if (s == QN_OK)
            s = set_token(*out, "eos_token", model->tokenizer, qn_tokenizer_eos(model->tokenizer),
                          err);
    }
    qn_str_fini(&text);
    return s;
}

static void add_segments(qn_str *out, const qn_chat_text *t)
{
    qn_str_adds(out, "[");
    for (size_t i = 0; i < t->n_segments; i++) {
        const qn_chat_segment *g = &t->segments[i];
        qn_str_addf(out, "%s{\"literal\": %s, \"text\": ", i ? ",\n " : "",
                    g->literal ? "true" : "false");
        qn_str_add_json(out, t->text.p + g->begin, g->end - g->begin);
        qn_str_addc(out, '}');
    }
    qn_str_adds(out, "]\n");
}

static qn_status render(const template_options *o, const qn_chat_template *t, const cmd_text *model,
                        qn_err *err)
{
    qn_chat_text text = {0};
    qn_str out = {0};
    json_t *vars = NULL;

    qn_status s = read_variables(&vars, o->input, model, err);
    if (s == QN_OK)
        s = qn_chat_template_render(t, vars, (int64_t)time(NULL), &text, err);
    if (s == QN_OK && o->segments) {
        add_segments(&out, &text);
        if (out.failed)
            s = qn_fail_nomem(err, out.n);
    }
    if (s == QN_OK) {
        const qn_str *shown = o->segments ? &out : &text.text;
        fwrite(shown->p ? shown->p : "", 1, shown->n, stdout);
    }
    qn_str_fini(&out);
    qn_chat_text_fini(&text);
    json_decref(vars);
    return s;
}

int cmd_template(int argc, char **argv)
{
    template_options o = {0};
    qn_opts_found found;
    cmd_text model = {0};
    qn_chat_template *t = NULL;
    qn_err err;
    int rc = cmd_parse(&cmd_template_opts, &o, argc, argv, &found);

    qn_opts_found_fini(&found);
    if (rc < 0 && !o.model && !o.file)
        rc = cmd_usage(&cmd_template_opts, "--model or --file: found neither, wanted one");
    if (rc >= 0)
        return rc;
    qn_status s = o.model ? cmd_text_open(&model, o.model, &err) : QN_OK;
    if (s == QN_OK)
        s = o.file ? load_file(&t, o.file, &err) : load_model(&t, &model, o.model, &err);
    if (s == QN_OK)
        s = render(&o, t, &model, &err);
    qn_chat_template_free(t);
    cmd_text_close(&model);
    return s == QN_OK ? CMD_OK : cmd_fail(&err);
}
