/* SPDX-License-Identifier: Apache-2.0
 * generate_api.c - /generate: a text, and what follows it, in the three ways that people ask. The body's field tells which.
 *
 *   prompt           {"prompt": "...", "max_tokens": 16, "temperature": 0, ...}
 *                    {"text": "only the new text", "finish_reason": "stop", "usage": {...}}; with n > 1 text and finish_reason are
 *                    arrays, as vLLM's first server had them. Streamed: an event for each piece {"text", "index", "finish_reason"},
 *                    then {"text": "", "usage"}, then [DONE].
 *   text, input_ids  {"text": "...", "sampling_params": {"max_new_tokens": 16, ...}}                                      SGLang
 *                    {"text", "output_ids", "meta_info": {...}}, an array for several. Streamed: the same with all text so far,
 *                    then [DONE].
 *   inputs           {"inputs": "...", "parameters": {"max_new_tokens": 16, ...}}                                         TGI
 *                    {"generated_text", "details"}. Streamed (also by /generate_stream): an event for each token, the last one
 *                    with generated_text. Greedy unless a field of sampling is given, as there.
 *
 * The text is raw: no chat template, and special tokens in it count, since who sends it writes all of the prompt. Without a number
 * of tokens it is DEFAULT_TOKENS. What would change the answer and is not done here is refused by name.
 * Threads: handlers on a worker, the rest on the I/O thread. Source: vLLM's api_server.py of 0.2, SGLang's io_struct.py, TGI's
 * OpenAPI description. */
#include "base/limits.h"
#include "server/answer.h"
#include "server/demand.h"
#include "server/exchange.h"
#include "server/sampling.h"
#include "server/turns.h"

#include <string.h>

#define DEFAULT_TOKENS 128

typedef enum dialect { DIALECT_SIMPLE, DIALECT_SGLANG, DIALECT_TGI } dialect;

typedef struct generate_body {
    const char *model, *rid;
    const json_t *prompt, *text, *input_ids, *inputs, *parameters, *sampling_params;
    bool stream, return_logprob, return_text_in_logprobs;
    int logprob_start_len;
} generate_body;

static const qn_field body_fields[] = {
    {"model", QN_FIELD_STR, offsetof(generate_body, model), 0, 0},
    {"prompt", QN_FIELD_ANY, offsetof(generate_body, prompt), 0, 0},
    {"text", QN_FIELD_ANY, offsetof(generate_body, text), 0, 0},
    {"input_ids", QN_FIELD_ARRAY, offsetof(generate_body, input_ids), 0, 0},
    {"inputs", QN_FIELD_ANY, offsetof(generate_body, inputs), 0, 0},
    {"parameters", QN_FIELD_OBJECT, offsetof(generate_body, parameters), 0, 0},
    {"sampling_params", QN_FIELD_OBJECT, offsetof(generate_body, sampling_params), 0, 0},
    {"stream", QN_FIELD_BOOL, offsetof(generate_body, stream), 0, 0},
};

static const qn_field sglang_fields[] = {
    {"rid", QN_FIELD_STR, offsetof(generate_body, rid), 0, 0},
    {"return_logprob", QN_FIELD_BOOL, offsetof(generate_body, return_logprob), 0, 0},
    {"return_text_in_logprobs", QN_FIELD_BOOL, offsetof(generate_body, return_text_in_logprobs), 0,
     0},
    {"logprob_start_len", QN_FIELD_INT, offsetof(generate_body, logprob_start_len), 0, 0},
};

typedef struct tgi_options {
    bool do_sample, details, return_full_text;
} tgi_options;

static const qn_field tgi_fields[] = {
    {"do_sample", QN_FIELD_BOOL, offsetof(tgi_options, do_sample), 0, 0},
    {"details", QN_FIELD_BOOL, offsetof(tgi_options, details), 0, 0},
    {"return_full_text", QN_FIELD_BOOL, offsetof(tgi_options, return_full_text), 0, 0},
};

/* Fields that ask for what is not done here, unless they are empty, false or 0. */
static const char *const refused_simple[] = {"echo",
                                             "suffix",
                                             "logprobs",
                                             "prompt_logprobs",
                                             "bad_words",
                                             "allowed_token_ids",
                                             "include_stop_str_in_output",
                                             NULL};
static const char *const refused_sglang[] = {"image_data",
                                             "audio_data",
                                             "video_data",
                                             "input_embeds",
                                             "lora_path",
                                             "top_logprobs_num",
                                             "token_ids_logprob",
                                             "return_hidden_states",
                                             "session_params",
                                             "custom_logit_processor",
                                             NULL};
static const char *const refused_sglang_params[] = {"structural_tag", "stop_regex", "no_stop_trim",
                                                    NULL};
static const char *const refused_tgi[] = {
    "truncate",        "watermark", "decoder_input_details", "top_n_tokens", "adapter_id",
    "response_format", NULL};

#define SO_FAR 4096

typedef struct generation {
    qn_answer answer; /* first: qn_answer_event */
    dialect dialect;
    generate_body body;
    tgi_options tgi;
    const json_t *sampling; /* the object with the sampling fields; NULL: none */
    bool is_list;
    size_t n_prompts;
    int *n_tokens; /* of each prompt */
    qn_params params;
    qn_demand demand;
    qn_slice full_text; /* stands before what is generated */
    char id[QN_ANSWER_ID];
    uint64_t begin_ns;
} generation;

/* ---- the request ---- */

static bool is_asked(const json_t *v)
{
    return v && !json_is_null(v) && !json_is_false(v) &&
           !(json_is_number(v) && json_number_value(v) == 0) &&
           !(json_is_string(v) && !json_string_length(v)) &&
           !(json_is_array(v) && !json_array_size(v)) &&
           !(json_is_object(v) && !json_object_size(v));
}

static qn_status refuse(const json_t *o, const char *const *names, const char **param, qn_err *err)
{
    for (; *names; names++)
        if (is_asked(json_object_get(o, *names))) {
            *param = *names;
            return qn_fail(err, QN_E_UNSUPPORTED, "%s: is not supported here; leave it out",
                           *names);
        }
    if (json_is_false(json_object_get(o, "skip_special_tokens"))) {
        *param = "skip_special_tokens";
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "skip_special_tokens: found false, want true: special tokens have no text "
                       "here");
    }
    return QN_OK;
}

/* Which dialect, and its own fields. */
static qn_status read_dialect(generation *g, const json_t *o, bool must_stream, const char **param,
                              qn_err *err)
{
    generate_body *b = &g->body;
    b->logprob_start_len = -1;
    QN_TRY(qn_fields_read(o, body_fields, QN_COUNT(body_fields), b, param, err));
    int n_given =
        (b->prompt != NULL) + (b->text != NULL) + (b->input_ids != NULL) + (b->inputs != NULL);
    *param = "prompt";
    if (n_given != 1)
        return qn_fail(err, QN_E_ARG,
                       "prompt: found %d of prompt, text, input_ids, inputs; want exactly one",
                       n_given);
    if (must_stream && !b->inputs) {
        *param = "inputs";
        return qn_fail(err, QN_E_ARG, "inputs: found nothing, want a string");
    }
    b->stream |= must_stream;
    if (b->prompt) {
        g->sampling = o;
        return refuse(o, refused_simple, param, err);
    }
    if (b->inputs) {
        g->dialect = DIALECT_TGI;
        g->sampling = b->parameters;
        QN_TRY(refuse(b->parameters, refused_tgi, param, err));
        return qn_fields_read(b->parameters, tgi_fields, QN_COUNT(tgi_fields), &g->tgi, param, err);
    }
    g->dialect = DIALECT_SGLANG;
    g->sampling = b->sampling_params;
    QN_TRY(refuse(o, refused_sglang, param, err));
    QN_TRY(refuse(b->sampling_params, refused_sglang_params, param, err));
    QN_TRY(qn_fields_read(o, sglang_fields, QN_COUNT(sglang_fields), b, param, err));
    *param = "logprob_start_len";
    return b->return_logprob && b->logprob_start_len >= 0
               ? qn_fail(err, QN_E_UNSUPPORTED,
                         "logprob_start_len: found %d, want -1: only the answer's tokens have "
                         "log-probabilities",
                         b->logprob_start_len)
               : QN_OK;
}

/* One of several texts, or a list of ids. */
static const json_t *prompt_at(const json_t *v, bool is_list, size_t i)
{
    return is_list ? json_array_get(v, i) : v;
}

static qn_status encode_prompt(const qn_engine *e, const json_t *v, const char *param,
                               qn_prompt *out, qn_err *err)
{
    int32_t *ids;
    if (json_is_array(v)) {
        qn_engine_info info;
        qn_engine_get_info(e, &info);
        QN_TRY(qn_fields_ids(param, v, info.n_vocab, NULL, &ids, &out->n_ids, err));
        out->ids = ids;
        return out->n_ids
                   ? QN_OK
                   : qn_fail(err, QN_E_ARG, "%s: found no token ids, want at least one", param);
    }
    if (!json_is_string(v))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want a text", param, qn_json_type_name(v));
    qn_prompt text = {
        .text = json_string_value(v), .n_text = json_string_length(v), .parse_special = true};
    QN_TRY(qn_encode(e, &text, &ids, &out->n_ids, err));
    out->ids = ids;
    return QN_OK;
}

/* *out: [g->n_prompts], the worker's until it has submitted them. */
static qn_status read_prompts(qn_exchange *x, generation *g, const qn_engine *e, qn_prompt **out,
                              const char **param, qn_err *err)
{
    const generate_body *b = &g->body;
    const json_t *v = b->prompt ? b->prompt : b->text ? b->text : b->inputs;
    *param = b->prompt ? "prompt" : b->text ? "text" : b->input_ids ? "input_ids" : "inputs";
    if (b->input_ids)
        v = b->input_ids;
    const json_t *first = json_array_get(v, 0);
    bool is_list = json_is_array(v) && (b->text || json_is_array(first));
    if ((is_list && g->dialect != DIALECT_SGLANG) || (b->inputs && !json_is_string(v)))
        return qn_fail(err, QN_E_ARG, "%s: found %s, want one text", *param, qn_json_type_name(v));
    size_t n = is_list ? json_array_size(v) : 1;
    if (!n)
        return qn_fail(err, QN_E_ARG, "%s: found an empty array, want at least one", *param);
    if (is_list)
        QN_TRY(qn_turns_limit(*param, v, QN_LIMIT_PROMPTS, err));
    g->is_list = is_list;
    qn_prompt *prompts = *out = qn_calloc(n, sizeof *prompts, QN_MEM_REQUEST);
    g->n_tokens = qn_arena_alloc(qn_x_arena(x), n * sizeof *g->n_tokens);
    if (!prompts || !g->n_tokens)
        return qn_fail_nomem(err, n * sizeof *prompts);
    g->n_prompts = n;
    for (size_t i = 0; i < n; i++) {
        QN_TRY(encode_prompt(e, prompt_at(v, is_list, i), *param, &prompts[i], err));
        g->n_tokens[i] = (int)prompts[i].n_ids;
    }
    if (g->tgi.return_full_text)
        g->full_text = (qn_slice){json_string_value(v), json_string_length(v)};
    return QN_OK;
}

static bool is_sampled(const generation *g)
{
    static const char *const names[] = {"temperature", "top_k", "top_p", "typical_p"};
    for (size_t i = 0; i < QN_COUNT(names); i++)
        if (json_is_number(json_object_get(g->sampling, names[i])))
            return true;
    return g->tgi.do_sample;
}

/* As many tokens as fit, up to the default. */
static int default_tokens(const generation *g, const qn_engine *e)
{
    qn_engine_info info;
    int most = DEFAULT_TOKENS;
    qn_engine_get_info(e, &info);
    for (size_t i = 0; i < g->n_prompts; i++)
        most = QN_MIN(most, info.max_ctx - g->n_tokens[i]);
    return QN_MAX(most, 1);
}

typedef struct more_params {
    int min_new_tokens, best_of;
    uint64_t sampling_seed;
} more_params;

static const qn_field more_fields[] = {
    {"min_new_tokens", QN_FIELD_INT, offsetof(more_params, min_new_tokens), 0, 1 << 24},
    {"best_of", QN_FIELD_INT, offsetof(more_params, best_of), 0, 16},
    {"sampling_seed", QN_FIELD_U64, offsetof(more_params, sampling_seed), 0, 0},
};

static qn_status read_params(qn_exchange *x, generation *g, const qn_engine *e, const char **param,
                             qn_err *err)
{
    more_params more = {.best_of = 1};
    qn_params *p = &g->params;
    if (g->sampling)
        QN_TRY(qn_sampling_read(g->sampling, e, qn_x_arena(x), p, param, err));
    else
        qn_engine_get_params(e, p);
    QN_TRY(qn_fields_read(g->sampling, more_fields, QN_COUNT(more_fields), &more, param, err));
    *param = "best_of";
    if (more.best_of > p->n && !p->beam_width)
        return qn_fail(err, QN_E_UNSUPPORTED, "best_of: found %d, want at most n, which is %d",
                       more.best_of, p->n);
    *param = "n";
    if (g->dialect == DIALECT_TGI && p->n != 1)
        return qn_fail(err, QN_E_UNSUPPORTED, "n: found %d, want 1", p->n);
    if (more.min_new_tokens)
        p->min_tokens = more.min_new_tokens;
    if (more.sampling_seed)
        p->seed = more.sampling_seed;
    if (!p->max_tokens)
        p->max_tokens = default_tokens(g, e);
    if (g->dialect == DIALECT_TGI && !is_sampled(g))
        p->temperature = 0;
    if (g->body.return_logprob || (g->dialect == DIALECT_TGI && (g->body.stream || g->tgi.details)))
        p->n_logprobs = 0;
    return QN_OK;
}

/* TGI's: {"type": "json" | "json_schema" | "regex", "value"} */
static qn_status read_tgi_grammar(generation *g, const json_t *v, qn_err *err)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *value = json_object_get(v, "value"), *inner = json_object_get(value, "schema");
    if (!v || json_is_null(v))
        return QN_OK;
    if (type && value && strcmp(type, "regex") == 0)
        return qn_demand_form(&g->demand, "grammar", QN_GRAMMAR_REGEX, value, err);
    if (type && value && strcmp(type, "json") == 0)
        return qn_demand_form(&g->demand, "grammar", QN_GRAMMAR_SCHEMA, value, err);
    if (type && value && strcmp(type, "json_schema") == 0)
        return qn_demand_form(&g->demand, "grammar", QN_GRAMMAR_SCHEMA, inner ? inner : value, err);
    return qn_fail(err, QN_E_ARG,
                   "grammar: found %s, want an object with a value and the type json, json_schema "
                   "or regex",
                   type ? "another type" : qn_json_type_name(v));
}

static qn_status read_demand(qn_exchange *x, generation *g, qn_engine *e, const char **param,
                             qn_err *err)
{
    qn_demand_init(&g->demand, e, x);
    if (g->dialect == DIALECT_TGI) {
        *param = "grammar";
        QN_TRY(read_tgi_grammar(g, json_object_get(g->sampling, "grammar"), err));
    } else
        QN_TRY(qn_demand_read_forms(&g->demand, g->sampling, param, err));
    return qn_demand_settle_raw(&g->demand, e, &g->params.grammar, param, err);
}

/* ---- the simple answer ---- */

static void add_usage(qn_str *out, const generation *g)
{
    qn_answer_usage u = qn_answer_sum(&g->answer);
    qn_answer_add_usage(out, &u);
}

static void add_simple(qn_str *out, const generation *g)
{
    const qn_answer *a = &g->answer;
    bool is_many = a->n > 1;
    qn_str_adds(out, is_many ? "{\"text\":[" : "{\"text\":");
    for (int i = 0; i < a->n; i++) {
        qn_str_adds(out, i ? "," : "");
        qn_answer_add_text(out, &a->parts[i].text);
    }
    qn_str_adds(out, is_many ? "],\"finish_reason\":[" : ",\"finish_reason\":");
    for (int i = 0; i < a->n; i++) {
        qn_str_adds(out, i ? "," : "");
        qn_answer_add_finish(out, a->parts[i].finish);
    }
    qn_str_adds(out, is_many ? "]," : ",");
    add_usage(out, g);
    qn_str_addc(out, '}');
}

static void add_simple_piece(qn_str *out, const qn_answer_part *p, const qn_event *ev)
{
    qn_str_adds(out, "{\"text\":");
    qn_str_add_json(out, ev->text, ev->n_text);
    qn_str_addf(out, ",\"index\":%d,\"finish_reason\":", ev->index);
    qn_answer_add_finish(out, p->finish);
    qn_str_addc(out, '}');
}

/* ---- SGLang's answer ---- */

static void add_logprobs(qn_str *out, const generation *g, const qn_answer_part *p)
{
    size_t begin = 0;
    qn_str_adds(out, ",\"input_token_logprobs\":[],\"output_token_logprobs\":[");
    for (size_t i = 0; i < p->n_ids; i++) {
        qn_str_adds(out, i ? ",[" : "[");
        qn_answer_add_float(out, p->tokens[i].logprob);
        qn_str_addf(out, ", %d, ", p->ids[i]);
        if (g->body.return_text_in_logprobs)
            qn_str_add_json(out, p->text.p ? p->text.p + begin : "", p->tokens[i].end - begin);
        else
            qn_str_adds(out, "null");
        qn_str_addc(out, ']');
        begin = p->tokens[i].end;
    }
    qn_str_addc(out, ']');
}

static void add_sglang_finish(qn_str *out, const qn_answer_part *p)
{
    qn_str_adds(out, "\"finish_reason\":");
    if (p->finish == QN_FINISH_NONE)
        qn_str_adds(out, "null");
    else if (p->finish == QN_FINISH_LENGTH)
        qn_str_addf(out, "{\"type\":\"length\",\"length\":%zu}", p->n_ids);
    else if (p->stop) {
        qn_str_adds(out, "{\"type\":\"stop\",\"matched\":");
        qn_str_add_json(out, p->stop, strlen(p->stop));
        qn_str_addc(out, '}');
    } else
        qn_str_addf(out, "{\"type\":\"stop\",\"matched\":%d}",
                    p->n_ids ? p->ids[p->n_ids - 1] : -1);
}

/* Candidate `at` of all prompts' together. index < 0: none is told. */
static void add_sglang(qn_str *out, const generation *g, size_t at, int index)
{
    const qn_answer_part *p = &g->answer.parts[at];
    size_t prompt = at / (size_t)g->answer.n;
    qn_str_adds(out, "{\"text\":");
    qn_answer_add_text(out, &p->text);
    if (p->finish != QN_FINISH_NONE) {
        qn_str_adds(out, ",\"output_ids\":");
        qn_answer_add_ids(out, p->ids, p->n_ids);
    }
    qn_str_adds(out, ",\"meta_info\":{\"id\":");
    qn_str_add_json_or_null(out, g->body.rid ? g->body.rid : g->id);
    qn_str_adds(out, ",");
    add_sglang_finish(out, p);
    qn_str_addf(out,
                ",\"prompt_tokens\":%d,\"completion_tokens\":%zu,\"cached_tokens\":%d,"
                "\"e2e_latency\":%.6f",
                g->n_tokens[prompt], p->n_ids, g->answer.usage[prompt].n_cached,
                (double)(qn_now_ns() - g->begin_ns) * 1e-9);
    if (g->body.return_logprob && p->finish != QN_FINISH_NONE)
        add_logprobs(out, g, p);
    qn_str_addc(out, '}');
    if (index >= 0)
        qn_str_addf(out, ",\"index\":%d", index);
    qn_str_addc(out, '}');
}

static void add_sglang_all(qn_str *out, const generation *g)
{
    size_t n = g->n_prompts * (size_t)g->answer.n;
    bool is_array = g->is_list || n > 1;
    qn_str_adds(out, is_array ? "[" : "");
    for (size_t i = 0; i < n; i++) {
        qn_str_adds(out, i ? "," : "");
        add_sglang(out, g, i, -1);
    }
    qn_str_adds(out, is_array ? "]" : "");
}

/* ---- TGI's answer ---- */

static void add_tgi_token(qn_str *out, const qn_answer_part *p, size_t i)
{
    size_t begin = i ? p->tokens[i - 1].end : 0;
    bool is_end = p->finish == QN_FINISH_STOP && !p->stop && i + 1 == p->n_ids;
    qn_str_addf(out, "{\"id\":%d,\"text\":", p->ids[i]);
    qn_str_add_json(out, p->text.p ? p->text.p + begin : "", p->tokens[i].end - begin);
    qn_str_adds(out, ",\"logprob\":");
    qn_answer_add_float(out, p->tokens[i].logprob);
    qn_str_addf(out, ",\"special\":%s}", is_end ? "true" : "false");
}

static void add_tgi_details(qn_str *out, const generation *g, const qn_answer_part *p,
                            bool with_tokens)
{
    const char *reason = p->finish == QN_FINISH_LENGTH ? "length"
                         : p->stop                     ? "stop_sequence"
                                                       : "eos_token";
    qn_str_addf(out,
                "\"details\":{\"finish_reason\":\"%s\",\"generated_tokens\":%zu,"
                "\"input_length\":%d,\"seed\":",
                reason, p->n_ids, g->n_tokens[0]);
    if (g->params.seed)
        qn_str_addf(out, "%llu", (unsigned long long)g->params.seed);
    else
        qn_str_adds(out, "null");
    if (with_tokens) {
        qn_str_adds(out, ",\"prefill\":[],\"tokens\":[");
        for (size_t i = 0; i < p->n_ids; i++) {
            qn_str_adds(out, i ? "," : "");
            add_tgi_token(out, p, i);
        }
        qn_str_addc(out, ']');
    }
    qn_str_addc(out, '}');
}

static void add_tgi_text(qn_str *out, const generation *g)
{
    const qn_answer_part *p = g->answer.parts;
    qn_str full = {0};
    qn_str_add(&full, g->full_text.p, g->full_text.n);
    qn_str_add(&full, p->text.p ? p->text.p : "", p->text.n);
    qn_str_adds(out, "\"generated_text\":");
    qn_answer_add_text(out, &full);
    out->failed |= full.failed;
    qn_str_fini(&full);
}

static void add_tgi(qn_str *out, const generation *g)
{
    qn_str_addc(out, '{');
    add_tgi_text(out, g);
    if (g->tgi.details) {
        qn_str_adds(out, ",");
        add_tgi_details(out, g, g->answer.parts, true);
    }
    qn_str_addc(out, '}');
}

static void add_tgi_piece(qn_str *out, const generation *g, const qn_answer_part *p)
{
    qn_str_addf(out, "{\"index\":%zu,\"token\":", p->n_ids);
    add_tgi_token(out, p, p->n_ids - 1);
    qn_str_adds(out, ",");
    if (p->finish == QN_FINISH_NONE)
        qn_str_adds(out, "\"generated_text\":null,\"details\":null");
    else {
        add_tgi_text(out, g);
        qn_str_adds(out, ",");
        add_tgi_details(out, g, p, false);
    }
    qn_str_addc(out, '}');
}

/* ---- answering ---- */

static void on_done_whole(qn_exchange *x, void *arg)
{
    generation *g = arg;
    g->answer.out.failed |= g->answer.failed;
    if (!g->answer.failed && g->dialect == DIALECT_SIMPLE)
        add_simple(&g->answer.out, g);
    else if (!g->answer.failed && g->dialect == DIALECT_SGLANG)
        add_sglang_all(&g->answer.out, g);
    else if (!g->answer.failed)
        add_tgi(&g->answer.out, g);
    qn_x_reply_json(x, 200, &g->answer.out);
}

static void send_event(qn_exchange *x, generation *g)
{
    qn_x_write_event(x, NULL, &g->answer.out);
    qn_str_clear(&g->answer.out);
}

/* Each event has the whole text so far: as it grows they come less often, so that all together are at most
 * SO_FAR bytes a token. */
static bool is_worth(const qn_answer_part *p)
{
    return p->n_ids % (1 + p->text.n / SO_FAR) == 0;
}

/* A candidate's last event waits for DONE, which brings the counts. */
static void send_sglang(qn_exchange *x, generation *g, size_t i, const qn_answer_part *p)
{
    bool is_many = g->is_list || g->answer.n > 1;
    size_t n = (size_t)g->answer.n, at = p ? (size_t)(p - g->answer.parts) : i * n;
    size_t end = p ? at + 1 : at + n;
    if (p && (p->finish != QN_FINISH_NONE || !is_worth(p)))
        return;
    for (; at < end; at++) {
        add_sglang(&g->answer.out, g, at, is_many ? (int)at : -1);
        send_event(x, g);
    }
}

static void on_event_stream(qn_exchange *x, void *arg, size_t i, const qn_event *ev)
{
    generation *g = arg;
    const qn_answer_part *p = qn_answer_add(&g->answer, i, ev);
    if (g->answer.failed)
        return;
    if (g->dialect == DIALECT_SGLANG) {
        send_sglang(x, g, i, p);
        return;
    }
    if (!p || (g->dialect == DIALECT_SIMPLE && !ev->n_text && ev->finish == QN_FINISH_NONE))
        return;
    if (g->dialect == DIALECT_TGI)
        add_tgi_piece(&g->answer.out, g, p);
    else
        add_simple_piece(&g->answer.out, p, ev);
    send_event(x, g);
}

static void on_done_stream(qn_exchange *x, void *arg)
{
    generation *g = arg;
    if (g->answer.failed) {
        qn_x_fail(x, &(qn_err){QN_E_NOMEM, "the answer found no memory"}, NULL);
        return;
    }
    if (g->dialect == DIALECT_SIMPLE) {
        qn_str_adds(&g->answer.out, "{\"text\":\"\",");
        add_usage(&g->answer.out, g);
        qn_str_addc(&g->answer.out, '}');
        send_event(x, g);
    }
    if (g->dialect != DIALECT_TGI) {
        qn_str_adds(&g->answer.out, "[DONE]");
        send_event(x, g);
    }
    qn_x_end(x);
}

static const qn_answer_api whole_api = {
    .event = qn_answer_event, .done = on_done_whole, .free = qn_answer_free};
static const qn_answer_api stream_api = {.event = on_event_stream,
                                         .done = on_done_stream,
                                         .free = qn_answer_free,
                                         .is_stream = true,
                                         .begins_at_once = true};

/* From the prompts to the engine. After QN_OK g is the I/O thread's. */
static qn_status submit(qn_exchange *x, generation *g, qn_engine *e, const char **param,
                        qn_err *err)
{
    qn_prompt *prompts = NULL;
    qn_status s = read_prompts(x, g, e, &prompts, param, err);
    size_t n = g->n_prompts;
    if (s == QN_OK)
        s = read_params(x, g, e, param, err);
    if (s == QN_OK)
        s = read_demand(x, g, e, param, err);
    if (s == QN_OK) {
        *param = NULL;
        s = qn_answer_start(x, g->body.stream ? &stream_api : &whole_api, g, e, prompts, n,
                            &g->params, err);
    }
    for (size_t i = 0; prompts && i < n; i++)
        qn_release((void *)(uintptr_t)prompts[i].ids);
    qn_free(prompts);
    return s;
}

static void generate(qn_exchange *x, bool must_stream)
{
    const json_t *o = qn_x_json(x);
    const char *served, *param = NULL;
    qn_err err;
    if (!o)
        return;
    generation *g = qn_arena_alloc(qn_x_arena(x), sizeof *g);
    if (!g) {
        (void)qn_fail_nomem(&err, sizeof *g);
        qn_x_fail(x, &err, NULL);
        return;
    }
    *g = (generation){.begin_ns = qn_now_ns()};
    if (read_dialect(g, o, must_stream, &param, &err) != QN_OK) {
        qn_x_fail(x, &err, param);
        return;
    }
    qn_engine *e = qn_x_model(x, g->body.model, &served);
    if (!e)
        return;
    qn_answer_make_id(g->id, "gen-");
    if (submit(x, g, e, &param, &err) != QN_OK)
        qn_x_fail(x, &err, param);
}

static void handle_generate(qn_exchange *x)
{
    generate(x, false);
}

static void handle_generate_stream(qn_exchange *x)
{
    generate(x, true);
}

const qn_route qn_generate_routes[] = {
    {.method = "POST", .path = "/generate", .handle = handle_generate},
    {.method = "POST", .path = "/generate_stream", .handle = handle_generate_stream},
    {0},
};
