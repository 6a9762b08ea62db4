/* SPDX-License-Identifier: Apache-2.0
 * openai_embeddings.c - POST /v1/embeddings: the hidden state of each input's last token, after the final norm, as a unit vector. */
#include "server/embed.h"
#include "server/openai.h"

#include "base/limits.h"
#include <string.h>

typedef struct input {
    int32_t *ids; /* qn_release */
    size_t n_ids;
    float *vector; /* qn_free */
} input;

typedef struct embedding {
    qn_engine *engine;
    const char *model; /* as served */
    const char *name, *format;
    const json_t *inputs_given;
    int dimensions;
    input *inputs;
    size_t n_inputs;
} embedding;

static const qn_field fields[] = {
    {"model", QN_FIELD_STR, offsetof(embedding, name), 0, 0},
    {"input", QN_FIELD_ANY, offsetof(embedding, inputs_given), 0, 0},
    {"encoding_format", QN_FIELD_STR, offsetof(embedding, format), 0, 0},
    {"dimensions", QN_FIELD_INT, offsetof(embedding, dimensions), 1, INT32_MAX},
};

/* ---- inputs ---- */

static qn_status take_input(const embedding *m, const json_t *v, input *in, qn_err *err)
{
    qn_engine_info info;
    qn_engine_get_info(m->engine, &info);
    if (json_is_array(v))
        QN_TRY(qn_fields_ids("input", v, info.n_vocab, NULL, &in->ids, &in->n_ids, err));
    else if (!json_is_string(v))
        return qn_fail(err, QN_E_ARG, "input: found %s, want strings, or token ids",
                       qn_json_type_name(v));
    else if (json_string_length(v))
        QN_TRY(qn_encode(
            m->engine, &(qn_prompt){.text = json_string_value(v), .n_text = json_string_length(v)},
            &in->ids, &in->n_ids, err));
    if (!in->n_ids)
        return qn_fail(err, QN_E_ARG, "input: found an empty one, want some text");
    return QN_OK;
}

static qn_status take_inputs(qn_exchange *x, embedding *m, qn_err *err)
{
    const json_t *v = m->inputs_given;
    bool is_list = json_is_array(v) && !json_is_number(json_array_get(v, 0));
    size_t n = is_list ? json_array_size(v) : 1;
    if (!json_is_string(v) && !json_array_size(v))
        return qn_fail(err, QN_E_ARG,
                       "input: found %s, want a string, token ids, or an array of "
                       "either",
                       v ? "nothing in it" : "nothing");
    if (n > QN_LIMIT_PROMPTS)
        return qn_fail(err, QN_E_ARG, "input: found %zu, want at most %d", n, QN_LIMIT_PROMPTS);
    m->inputs = qn_arena_alloc(qn_x_arena(x), n * sizeof *m->inputs);
    if (!m->inputs)
        return qn_fail_nomem(err, n * sizeof *m->inputs);
    memset(m->inputs, 0, n * sizeof *m->inputs);
    m->n_inputs = n;
    size_t n_tokens = 0;
    for (size_t i = 0; i < n; i++) {
        QN_TRY(take_input(m, is_list ? json_array_get(v, i) : v, &m->inputs[i], err));
        n_tokens += m->inputs[i].n_ids;
    }
    return qn_embed_check("input", n_tokens, err);
}

/* ---- vectors ---- */

static qn_status embed(qn_exchange *x, const embedding *m, input *in, qn_err *err)
{
    size_t n = (size_t)m->dimensions;
    in->vector = qn_calloc(n, sizeof *in->vector, QN_MEM_REQUEST);
    return in->vector ? qn_embed(x, m->engine, in->ids, in->n_ids, in->vector, n, err)
                      : qn_fail_nomem(err, n * sizeof *in->vector);
}

static void add_base64(qn_str *s, const uint8_t *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16;
        v |= i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0;
        v |= i + 2 < n ? p[i + 2] : 0;
        char four[4] = {digits[v >> 18], digits[v >> 12 & 63],
                        i + 1 < n ? digits[v >> 6 & 63] : '=', i + 2 < n ? digits[v & 63] : '='};
        qn_str_add(s, four, 4);
    }
}

/* Little-endian float32, whatever this machine's order. */
static void add_packed(qn_str *s, const float *v, size_t n)
{
    qn_str bytes = {0};
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &v[i], sizeof u);
        uint8_t le[4] = {(uint8_t)u, (uint8_t)(u >> 8), (uint8_t)(u >> 16), (uint8_t)(u >> 24)};
        qn_str_add(&bytes, le, sizeof le);
    }
    s->failed |= bytes.failed;
    qn_str_addc(s, '"');
    add_base64(s, (const uint8_t *)bytes.p, bytes.failed ? 0 : bytes.n);
    qn_str_addc(s, '"');
    qn_str_fini(&bytes);
}

static void reply(qn_exchange *x, const embedding *m)
{
    qn_str s = {0};
    size_t n_tokens = 0;
    bool packed = m->format && strcmp(m->format, "base64") == 0;
    qn_str_adds(&s, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < m->n_inputs; i++) {
        const input *in = &m->inputs[i];
        n_tokens += in->n_ids;
        qn_str_addf(&s, "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i ? "," : "",
                    i);
        if (packed)
            add_packed(&s, in->vector, (size_t)m->dimensions);
        for (int k = 0; !packed && k < m->dimensions; k++) {
            qn_str_addc(&s, k ? ',' : '[');
            qn_answer_add_float(&s, in->vector[k]);
        }
        qn_str_adds(&s, packed ? "}" : "]}");
    }
    qn_str_adds(&s, "],\"model\":");
    qn_str_add_json(&s, m->model, strlen(m->model));
    qn_str_addf(&s, ",\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu}}", n_tokens, n_tokens);
    qn_x_reply_json(x, 200, &s);
}

static qn_status check(embedding *m, const char **param, qn_err *err)
{
    qn_engine_info info;
    qn_engine_get_info(m->engine, &info);
    *param = "encoding_format";
    if (m->format && strcmp(m->format, "float") != 0 && strcmp(m->format, "base64") != 0)
        return qn_fail(err, QN_E_ARG, "encoding_format: found '%.40s', want float or base64",
                       m->format);
    *param = "dimensions";
    if (m->dimensions > info.hidden_size)
        return qn_fail(err, QN_E_ARG, "dimensions: found %d, want 1 to %d", m->dimensions,
                       info.hidden_size);
    m->dimensions = m->dimensions ? m->dimensions : info.hidden_size;
    *param = "input";
    return QN_OK;
}

void qn_openai_embeddings(qn_exchange *x)
{
    embedding m = {0};
    const char *param = NULL;
    qn_err err = {0};
    const json_t *body = qn_x_json(x);
    if (!body || qn_x_put_off(x, QN_X_SCORING))
        return;
    qn_status s = qn_fields_read(body, fields, QN_COUNT(fields), &m, &param, &err);
    if (s == QN_OK && !(m.engine = qn_x_model(x, m.name, &m.model)))
        return;
    if (s == QN_OK)
        s = check(&m, &param, &err);
    if (s == QN_OK)
        s = take_inputs(x, &m, &err);
    for (size_t i = 0; s == QN_OK && i < m.n_inputs; i++)
        s = embed(x, &m, &m.inputs[i], &err);
    if (s == QN_OK)
        reply(x, &m);
    else
        qn_x_fail(x, &err, param);
    for (size_t i = 0; i < m.n_inputs; i++) {
        qn_release(m.inputs[i].ids);
        qn_free(m.inputs[i].vector);
    }
}
