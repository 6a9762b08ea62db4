/* SPDX-License-Identifier: Apache-2.0
 * config.c - qn_model_config from config.json or GGUF metadata.
 *
 *   config.json ─ text_config? ─┐
 *                               ├─ numbers ─ family rules ─ rope ─ quantisation ─ ids ─ relations
 *   GGUF ARCH.* keys ───────────┘
 *
 * A number is 0 until a file gave it: every number here is at least 1 when present, so 0 means "not
 * given" and the defaults of transformers' configuration classes follow. Relations are checked
 * last, on the finished struct.
 * Threads: any, pure. Sources: transformers 5
 * configuration_{qwen2,qwen2_moe,qwen3,qwen3_moe,llama}.py and modeling_rope_utils.py; Qwen-7B's
 * configuration_qwen.py; llama.cpp's constants.py and llama-model.cpp for the keys of GGUF. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/gguf.h"

#define SUPPORTED "supported: qwen, qwen2, qwen2_moe, qwen3, qwen3_moe, llama"

/* Where the numbers come from, for errors and look-ups. */
typedef struct source {
    qn_model_config *c;
    const qn_weights *w;
    const json_t *o;    /* HF: the object of the text model */
    const char *where;  /* HF: its name; GGUF: the file */
    const char *prefix; /* GGUF: the architecture's name in keys */
    qn_err *err;
} source;

typedef struct arch_row {
    qn_arch arch;
    const char *hf, *gguf;
} arch_row;
static const arch_row archs[] = {
    {QN_ARCH_QWEN, "qwen", "qwen"},
    {QN_ARCH_QWEN2, "qwen2", "qwen2"},
    {QN_ARCH_QWEN2_MOE, "qwen2_moe", "qwen2moe"},
    {QN_ARCH_QWEN3, "qwen3", "qwen3"},
    {QN_ARCH_QWEN3_MOE, "qwen3_moe", "qwen3moe"},
    {QN_ARCH_LLAMA, "llama", "llama"},
};
/* Known families with another kind of block. */
static const char *const hybrids[] = {"qwen3_next", "qwen3next", "qwen3_5",
                                      "qwen35",     "qwen4_exp", "qwen4exp"};

/* The number table. The struct's type is uint32_t at `at`. */
typedef struct number {
    const char *hf, *hf_alias, *gguf; /* NULL: not a key there */
    size_t at;
    uint32_t min, max;
    bool required;
} number;
#define AT(f) offsetof(qn_model_config, f)
static const number numbers[] = {
    {"num_hidden_layers", NULL, "block_count", AT(n_layers), 1, QN_LIMIT_LAYERS, true},
    {"hidden_size", NULL, "embedding_length", AT(hidden_size), 1, 65536, true},
    {"num_attention_heads", NULL, "attention.head_count", AT(n_heads), 1, 1024, true},
    {"num_key_value_heads", NULL, "attention.head_count_kv", AT(n_kv_heads), 1, 1024, false},
    {"head_dim", "kv_channels", "attention.key_length", AT(head_dim), 1, 256, false},
    {"intermediate_size", NULL, "feed_forward_length", AT(ffn_size), 1, 1u << 20, false},
    {"vocab_size", NULL, NULL, AT(n_vocab), 1, 1u << 24, true},
    {"max_position_embeddings", NULL, "context_length", AT(max_ctx), 1, 1u << 30, false},
    {"seq_length", NULL, NULL, AT(seq_length), 1, 1u << 30, false},
    {"num_experts", "num_local_experts", "expert_count", AT(n_experts), 0, QN_LIMIT_EXPERTS, false},
    {"num_experts_per_tok", NULL, "expert_used_count", AT(n_experts_active), 0, QN_LIMIT_EXPERTS,
     false},
    {"moe_intermediate_size", NULL, "expert_feed_forward_length", AT(expert_ffn_size), 0, 1u << 20,
     false},
    {"shared_expert_intermediate_size", NULL, "expert_shared_feed_forward_length",
     AT(shared_ffn_size), 0, 1u << 20, false},
};
#define THETA_MIN 1.0
#define THETA_MAX 1e15
#define EPS_MIN   1e-30
#define EPS_MAX   0.999

static bool has_experts(qn_arch a)
{
    return a == QN_ARCH_QWEN2_MOE || a == QN_ARCH_QWEN3_MOE;
}

const char *qn_arch_name(qn_arch a)
{
    return archs[a].hf;
}

/* ---- config.json ---- */

static const json_t *field(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

/* A field of the text model that older nested files keep outside. */
static const json_t *outer_field(const source *s, const char *key)
{
    const json_t *v = field(s->o, key);
    return v ? v : field(s->w->config, key);
}

static qn_status wrong_type(const source *s, const char *key, const json_t *v, const char *want)
{
    return qn_fail(s->err, QN_E_FORMAT, "%s: %s: found %s, want %s", s->where, key,
                   qn_json_type_name(v), want);
}

static qn_status find_arch(source *s, const char *key, const char *name, bool gguf)
{
    for (size_t i = 0; i < QN_COUNT(archs); i++) {
        if (strcmp(name, gguf ? archs[i].gguf : archs[i].hf) == 0) {
            s->c->arch = archs[i].arch;
            s->prefix = archs[i].gguf;
            return QN_OK;
        }
    }
    for (size_t i = 0; i < QN_COUNT(hybrids); i++) {
        if (qn_starts_with(name, hybrids[i]))
            return qn_fail(s->err, QN_E_UNSUPPORTED,
                           "%s: %s '%.64s': hybrid models (gated delta net) are not supported yet",
                           s->where, key, name);
    }
    return qn_fail(s->err, QN_E_UNSUPPORTED, "%s: %s '%.64s' is not supported; " SUPPORTED,
                   s->where, key, name);
}

/* Finds the text model's object and its family. */
static qn_status json_arch(source *s)
{
    const json_t *top = s->w->config;
    const json_t *text = field(top, "text_config");
    if (!json_is_object(top))
        return qn_fail(s->err, QN_E_FORMAT, "%s: found %s, want an object", s->where,
                       qn_json_type_name(top));
    if (text && !json_is_object(text))
        return wrong_type(s, "text_config", text, "an object");
    const char *type = NULL, *inner = NULL;
    QN_TRY(qn_json_str(top, s->where, "model_type", &type, s->err));
    s->o = top;
    if (text) {
        s->o = text;
        s->where = "config.json: text_config";
        QN_TRY(qn_json_str(text, s->where, "model_type", &inner, s->err));
    }
    if (!type && !inner)
        return qn_fail(s->err, QN_E_FORMAT, "%s: model_type is missing; " SUPPORTED, s->where);
    return find_arch(s, "model_type", inner ? inner : type, false);
}

static qn_status json_numbers(source *s)
{
    for (size_t i = 0; i < QN_COUNT(numbers); i++) {
        const number *n = &numbers[i];
        uint32_t *out = (uint32_t *)((char *)s->c + n->at);
        const char *key = n->hf;
        if (!field(s->o, key) && n->hf_alias)
            key = n->hf_alias;
        QN_TRY(qn_json_u32(s->o, s->where, key, n->min, n->max, out, s->err));
        if (n->required && *out == 0)
            return qn_fail(s->err, QN_E_FORMAT, "%s: %s: missing, want %u to %u", s->where, n->hf,
                           n->min, n->max);
    }
    bool v1 = s->c->arch == QN_ARCH_QWEN;
    return qn_json_f32(s->o, s->where, v1 ? "layer_norm_epsilon" : "rms_norm_eps", EPS_MIN, EPS_MAX,
                       &s->c->rms_eps, s->err);
}

/* What the families differ in. */
static qn_status json_flags(source *s)
{
    qn_model_config *c = s->c;
    const char *act = NULL;
    QN_TRY(qn_json_str(s->o, s->where, "hidden_act", &act, s->err));
    if (act && strcmp(act, "silu") != 0)
        return qn_fail(s->err, QN_E_UNSUPPORTED,
                       "%s: hidden_act '%.32s' is not supported, want silu", s->where, act);
    const json_t *holder = field(s->o, "tie_word_embeddings") ? s->o : s->w->config;
    QN_TRY(qn_json_bool(holder, s->where, "tie_word_embeddings", &c->tie_embeddings, s->err));
    c->norm_topk = false;
    switch (c->arch) {
    case QN_ARCH_QWEN:
        c->qkv_bias = true; /* c_attn always has one; no_bias is about the others */
        QN_TRY(qn_json_bool(s->o, s->where, "use_dynamic_ntk", &c->dynamic_ntk, s->err));
        QN_TRY(qn_json_bool(s->o, s->where, "use_logn_attn", &c->logn_attn, s->err));
        bool no_bias = true;
        QN_TRY(qn_json_bool(s->o, s->where, "no_bias", &no_bias, s->err));
        c->o_bias = c->mlp_bias = !no_bias;
        return QN_OK;
    case QN_ARCH_QWEN2:
        c->qkv_bias = true;
        return QN_OK;
    case QN_ARCH_QWEN2_MOE:
        c->qkv_bias = true;
        QN_TRY(qn_json_bool(s->o, s->where, "qkv_bias", &c->qkv_bias, s->err));
        return qn_json_bool(s->o, s->where, "norm_topk_prob", &c->norm_topk, s->err);
    case QN_ARCH_QWEN3_MOE:
        QN_TRY(qn_json_bool(s->o, s->where, "norm_topk_prob", &c->norm_topk, s->err));
        break;
    case QN_ARCH_LLAMA:
        QN_TRY(qn_json_bool(s->o, s->where, "mlp_bias", &c->mlp_bias, s->err));
        break;
    case QN_ARCH_QWEN3:
        break;
    }
    c->qk_norm = c->arch != QN_ARCH_LLAMA;
    QN_TRY(qn_json_bool(s->o, s->where, "attention_bias", &c->qkv_bias, s->err));
    c->o_bias = c->qkv_bias;
    return QN_OK;
}

/* Which layers have experts. */
static qn_status json_experts(source *s)
{
    qn_model_config *c = s->c;
    if (!has_experts(c->arch)) {
        c->n_experts = c->n_experts_active = c->expert_ffn_size = c->shared_ffn_size = 0;
        return QN_OK;
    }
    if (c->arch == QN_ARCH_QWEN3_MOE)
        c->shared_ffn_size = 0;
    uint32_t step = 1;
    QN_TRY(qn_json_u32(s->o, s->where, "decoder_sparse_step", 1, 1u << 20, &step, s->err));
    for (uint32_t i = 0; i < c->n_layers; i++)
        c->layer_is_moe[i] = c->n_experts > 0 && (i + 1) % step == 0;
    const json_t *only = field(s->o, "mlp_only_layers");
    if (only && !json_is_array(only))
        return wrong_type(s, "mlp_only_layers", only, "a list");
    for (size_t i = 0; i < json_array_size(only); i++) {
        const json_t *v = json_array_get(only, i);
        if (!json_is_integer(v))
            return wrong_type(s, "mlp_only_layers", v, "layer numbers");
        json_int_t l = json_integer_value(v);
        if (l >= 0 && l < (json_int_t)c->n_layers)
            c->layer_is_moe[l] = 0;
    }
    return QN_OK;
}

/* Explicit layer_types win; else each family's own default. */
static qn_status json_windows(source *s)
{
    qn_model_config *c = s->c;
    bool use = false;
    uint32_t window = 4096, first = 28;
    if (c->arch == QN_ARCH_QWEN || c->arch == QN_ARCH_LLAMA)
        return QN_OK;
    QN_TRY(qn_json_bool(s->o, s->where, "use_sliding_window", &use, s->err));
    QN_TRY(qn_json_u32(s->o, s->where, "sliding_window", 1, 1u << 30, &window, s->err));
    QN_TRY(qn_json_u32(s->o, s->where, "max_window_layers", 0, 1u << 20, &first, s->err));
    const json_t *null_window = json_object_get(s->o, "sliding_window");
    if (json_is_null(null_window))
        use = false;
    const json_t *types = field(s->o, "layer_types");
    if (types && (!json_is_array(types) || json_array_size(types) != c->n_layers))
        return qn_fail(s->err, QN_E_FORMAT,
                       "%s: layer_types: found %s with %zu elements, want a list of %u", s->where,
                       qn_json_type_name(types), json_array_size(types), c->n_layers);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        bool slides = use;
        if (types) {
            const char *t = json_string_value(json_array_get(types, i));
            slides = t && strcmp(t, "sliding_attention") == 0;
            if (!slides && (!t || strcmp(t, "full_attention") != 0))
                return qn_fail(s->err, QN_E_UNSUPPORTED,
                               "%s: layer_types: layer %u is '%.32s', want full_attention or "
                               "sliding_attention",
                               s->where, i, t ? t : "?");
            if (slides && !use)
                return qn_fail(s->err, QN_E_FORMAT,
                               "%s: layer_types: layer %u slides, but use_sliding_window or "
                               "sliding_window is off",
                               s->where, i);
        } else if (c->arch == QN_ARCH_QWEN2_MOE) {
            slides = use && i % 2 == 0 && i < first;
        } else if (c->arch != QN_ARCH_QWEN3_MOE) {
            slides = use && i >= first;
        }
        c->layer_window[i] = slides ? window : 0;
    }
    return QN_OK;
}

static float yarn_mscale(float factor, float mscale)
{
    return factor <= 1 ? 1.0f : 0.1f * mscale * logf(factor) + 1.0f;
}

static qn_status json_yarn(source *s, const json_t *r, const char *where)
{
    qn_model_config *c = s->c;
    float mscale = 0, mscale_all = 0;
    c->yarn_beta_fast = 32;
    c->yarn_beta_slow = 1;
    c->yarn_original_ctx = c->max_ctx;
    QN_TRY(qn_json_f32(r, where, "factor", 1, 1e6, &c->yarn_factor, s->err));
    QN_TRY(qn_json_u32(r, where, "original_max_position_embeddings", 1, 1u << 30,
                       &c->yarn_original_ctx, s->err));
    QN_TRY(qn_json_f32(r, where, "attention_factor", 1e-6, 1e6, &c->yarn_attention_factor, s->err));
    QN_TRY(qn_json_f32(r, where, "mscale", 0, 1e6, &mscale, s->err));
    QN_TRY(qn_json_f32(r, where, "mscale_all_dim", 0, 1e6, &mscale_all, s->err));
    QN_TRY(qn_json_f32(r, where, "beta_fast", 1e-6, 1e6, &c->yarn_beta_fast, s->err));
    QN_TRY(qn_json_f32(r, where, "beta_slow", 1e-6, 1e6, &c->yarn_beta_slow, s->err));
    QN_TRY(qn_json_bool(r, where, "truncate", &c->yarn_truncate, s->err));
    if (c->yarn_factor == 0)
        c->yarn_factor = QN_MAX(1.0f, (float)c->max_ctx / (float)c->yarn_original_ctx);
    if (c->yarn_attention_factor == 0 && mscale > 0 && mscale_all > 0)
        c->yarn_attention_factor =
            yarn_mscale(c->yarn_factor, mscale) / yarn_mscale(c->yarn_factor, mscale_all);
    if (c->yarn_attention_factor == 0)
        c->yarn_attention_factor = yarn_mscale(c->yarn_factor, 1);
    return QN_OK;
}

static qn_status json_llama3(source *s, const json_t *r, const char *where)
{
    qn_model_config *c = s->c;
    QN_TRY(qn_json_f32(r, where, "factor", 1, 1e6, &c->llama3_factor, s->err));
    QN_TRY(qn_json_f32(r, where, "low_freq_factor", 1e-6, 1e6, &c->llama3_low, s->err));
    QN_TRY(qn_json_f32(r, where, "high_freq_factor", 1e-6, 1e6, &c->llama3_high, s->err));
    QN_TRY(qn_json_u32(r, where, "original_max_position_embeddings", 1, 1u << 30,
                       &c->llama3_original_ctx, s->err));
    if (c->llama3_factor == 0 || c->llama3_low == 0 || c->llama3_original_ctx == 0 ||
        c->llama3_high <= c->llama3_low)
        return qn_fail(s->err, QN_E_FORMAT,
                       "%s: rope type llama3 wants factor, original_max_position_embeddings and "
                       "low_freq_factor < high_freq_factor",
                       where);
    return QN_OK;
}

/* rope_parameters (new) wins over rope_scaling and the keys beside it (old). */
static qn_status json_rope(source *s)
{
    qn_model_config *c = s->c;
    const char *key = field(s->o, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    const json_t *r = field(s->o, key);
    char where[80];
    const char *type = "default";
    float part = 1;
    (void)snprintf(where, sizeof where, "%s: %s", s->where, key);
    if (r && !json_is_object(r))
        return wrong_type(s, key, r, "an object");
    if (r && (field(r, "full_attention") || field(r, "sliding_attention")))
        return qn_fail(s->err, QN_E_UNSUPPORTED,
                       "%s: one rope for each layer type is not supported", where);
    if (c->arch == QN_ARCH_QWEN) {
        QN_TRY(qn_json_f32(s->o, s->where, "rotary_emb_base", THETA_MIN, THETA_MAX, &c->rope_theta,
                           s->err));
        QN_TRY(qn_json_f32(s->o, s->where, "rotary_pct", 1e-3, 1, &part, s->err));
    } else {
        QN_TRY(qn_json_f32(s->o, s->where, "rope_theta", THETA_MIN, THETA_MAX, &c->rope_theta,
                           s->err));
        QN_TRY(qn_json_f32(s->o, s->where, "partial_rotary_factor", 1e-3, 1, &part, s->err));
    }
    if (r) {
        QN_TRY(qn_json_f32(r, where, "rope_theta", THETA_MIN, THETA_MAX, &c->rope_theta, s->err));
        QN_TRY(qn_json_f32(r, where, "partial_rotary_factor", 1e-3, 1, &part, s->err));
        QN_TRY(qn_json_str(r, where, field(r, "rope_type") ? "rope_type" : "type", &type, s->err));
    }
    c->rope_dim = (uint32_t)((float)c->head_dim * part + 1e-3f); /* 10 * 0.7 is 7 */
    if (strcmp(type, "default") == 0)
        return QN_OK;
    if (strcmp(type, "yarn") == 0)
        return json_yarn(s, r, where);
    if (strcmp(type, "llama3") == 0)
        return json_llama3(s, r, where);
    if (strcmp(type, "linear") == 0) {
        c->rope_linear_factor = 0;
        QN_TRY(qn_json_f32(r, where, "factor", 1e-3, 1e6, &c->rope_linear_factor, s->err));
        if (c->rope_linear_factor == 0)
            return qn_fail(s->err, QN_E_FORMAT, "%s: factor: missing, want 0.001 to 1e6", where);
        return QN_OK;
    }
    return qn_fail(
        s->err, QN_E_UNSUPPORTED,
        "%s: rope type '%.32s' is not supported; supported: default, linear, yarn, llama3", where,
        type);
}

/* ---- config.json: quantization_config ---- */

static qn_status quant_group(source *s, const json_t *q, const char *where)
{
    const json_t *g = field(q, "group_size");
    json_int_t n = g ? json_integer_value(g) : 128;
    if ((g && !json_is_integer(g)) || (n != -1 && (n < 8 || n > 65536)))
        return qn_fail(s->err, QN_E_FORMAT,
                       "%s: group_size: found %s (%lld), want -1 or 8 to 65536", where,
                       qn_json_type_name(g), (long long)n);
    s->c->quant_group = n == -1 ? 0 : (uint32_t)n;
    return QN_OK;
}

static qn_status quant_gptq(source *s, const json_t *q, const char *where)
{
    qn_model_config *c = s->c;
    const char *format = "gptq";
    c->quant = QN_HF_GPTQ;
    c->quant_sym = true;
    QN_TRY(qn_json_u32(q, where, "bits", 1, 32, &c->quant_bits, s->err));
    if (c->quant_bits != 4 && c->quant_bits != 8)
        return qn_fail(s->err, QN_E_UNSUPPORTED,
                       "%s: gptq with %u bits is not supported, want 4 or 8", where, c->quant_bits);
    QN_TRY(quant_group(s, q, where));
    QN_TRY(qn_json_bool(q, where, "sym", &c->quant_sym, s->err));
    QN_TRY(qn_json_str(q, where, "checkpoint_format", &format, s->err));
    c->quant_zero_is_minus_one = strcmp(format, "gptq") == 0;
    if (!c->quant_zero_is_minus_one && strcmp(format, "gptq_v2") != 0)
        return qn_fail(s->err, QN_E_UNSUPPORTED,
                       "%s: checkpoint_format '%.32s' is not supported, want gptq or gptq_v2",
                       where, format);
    return QN_OK;
}

static qn_status quant_awq(source *s, const json_t *q, const char *where)
{
    qn_model_config *c = s->c;
    const char *version = "gemm";
    bool zero_point = true;
    c->quant = QN_HF_AWQ;
    QN_TRY(qn_json_u32(q, where, "bits", 1, 32, &c->quant_bits, s->err));
    QN_TRY(qn_json_str(q, where, "version", &version, s->err));
    QN_TRY(qn_json_bool(q, where, "zero_point", &zero_point, s->err));
    if (c->quant_bits != 4 || !zero_point ||
        (strcmp(version, "gemm") != 0 && strcmp(version, "GEMM") != 0))
        return qn_fail(
            s->err, QN_E_UNSUPPORTED,
            "%s: awq version '%.32s', %u bits, zero_point %s is not supported, want gemm, "
            "4 bits, zero_point true",
            where, version, c->quant_bits, zero_point ? "true" : "false");
    return quant_group(s, q, where);
}

static qn_status quant_nf4(source *s, const json_t *q, const char *where)
{
    const char *type = "fp4";
    bool in_4bit = false;
    QN_TRY(qn_json_bool(q, where, "load_in_4bit", &in_4bit, s->err));
    QN_TRY(qn_json_str(q, where, "bnb_4bit_quant_type", &type, s->err));
    if (!in_4bit || strcmp(type, "nf4") != 0)
        return qn_fail(s->err, QN_E_UNSUPPORTED,
                       "%s: bitsandbytes %s is not supported, want load_in_4bit with nf4", where,
                       in_4bit ? type : "without load_in_4bit");
    s->c->quant = QN_HF_NF4;
    s->c->quant_bits = 4;
    return QN_OK;
}

static qn_status quant_fp8(source *s, const json_t *q, const char *where)
{
    const json_t *b = field(q, "weight_block_size");
    const char *fmt = "e4m3";
    json_int_t n[2] = {0, 0};
    QN_TRY(qn_json_str(q, where, "fmt", &fmt, s->err));
    if (!b || strcmp(fmt, "e4m3") != 0)
        return qn_fail(
            s->err, QN_E_UNSUPPORTED,
            "%s: fp8 format '%.32s' %s weight_block_size is not supported, want e4m3 with "
            "weight_block_size",
            where, fmt, b ? "with" : "without");
    for (size_t i = 0; i < 2 && json_array_size(b) == 2; i++)
        n[i] = json_integer_value(json_array_get(b, i));
    if (n[0] < 1 || n[0] > 65536 || n[1] < 1 || n[1] > 65536)
        return qn_fail(s->err, QN_E_FORMAT,
                       "%s: weight_block_size: found %s, want two numbers of 1 to 65536", where,
                       qn_json_type_name(b));
    s->c->quant = QN_HF_FP8;
    s->c->quant_bits = 8;
    s->c->quant_block_rows = (uint32_t)n[0];
    s->c->quant_group = (uint32_t)n[1];
    return QN_OK;
}

static qn_status json_quant(source *s)
{
    const json_t *q = outer_field(s, "quantization_config");
    static const char where[] = "config.json: quantization_config";
    const char *method = NULL;
    bool in_4bit = false;
    if (!q)
        q = outer_field(s, "compression_config");
    if (!q)
        return QN_OK;
    if (!json_is_object(q))
        return wrong_type(s, "quantization_config", q, "an object");
    QN_TRY(qn_json_str(q, where, "quant_method", &method, s->err));
    QN_TRY(qn_json_bool(q, where, "load_in_4bit", &in_4bit, s->err));
    if (!method)
        method = in_4bit ? "bitsandbytes" : "?"; /* the key is younger than bitsandbytes support */
    if (strcmp(method, "gptq") == 0)
        return quant_gptq(s, q, where);
    if (strcmp(method, "awq") == 0)
        return quant_awq(s, q, where);
    if (strcmp(method, "bitsandbytes") == 0)
        return quant_nf4(s, q, where);
    if (strcmp(method, "fp8") == 0)
        return quant_fp8(s, q, where);
    return qn_fail(s->err, QN_E_UNSUPPORTED,
                   "%s: quant_method '%.32s' is not supported; supported: gptq, awq, bitsandbytes "
                   "(nf4), fp8",
                   where, method);
}

/* ---- token ids ---- */

static qn_status add_eos(source *s, const char *where, int64_t id)
{
    qn_model_config *c = s->c;
    if (id < 0 || id >= (int64_t)c->n_vocab)
        return qn_fail(s->err, QN_E_FORMAT, "%s: eos_token_id: found %lld, want 0 to %u", where,
                       (long long)id, c->n_vocab - 1);
    for (uint32_t i = 0; i < c->n_eos; i++) {
        if (c->eos_ids[i] == (int32_t)id)
            return QN_OK;
    }
    if (c->n_eos == QN_LIMIT_EOS_TOKENS)
        return qn_fail(s->err, QN_E_FORMAT, "%s: eos_token_id: more than %d ids", where,
                       QN_LIMIT_EOS_TOKENS);
    c->eos_ids[c->n_eos++] = (int32_t)id;
    return QN_OK;
}

/* One id or a list of them. */
static qn_status json_eos(source *s, const json_t *v, const char *where)
{
    bool list = json_is_array(v);
    size_t n = list ? json_array_size(v) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = list ? json_array_get(v, i) : v;
        if (!json_is_integer(id))
            return qn_fail(s->err, QN_E_FORMAT,
                           "%s: eos_token_id: found %s, want a token id or a list of them", where,
                           qn_json_type_name(id));
        QN_TRY(add_eos(s, where, json_integer_value(id)));
    }
    return QN_OK;
}

static qn_status json_ids(source *s)
{
    const json_t *g = s->w->generation_config;
    const json_t *eos = json_is_object(g) ? field(g, "eos_token_id") : NULL;
    if (eos)
        QN_TRY(json_eos(s, eos, "generation_config.json"));
    else if ((eos = outer_field(s, "eos_token_id")))
        QN_TRY(json_eos(s, eos, s->where));
    const json_t *bos = outer_field(s, "bos_token_id");
    if (!bos)
        return QN_OK;
    json_int_t id = json_integer_value(bos);
    if (!json_is_integer(bos) || id < 0 || id >= (json_int_t)s->c->n_vocab)
        return qn_fail(s->err, QN_E_FORMAT, "%s: bos_token_id: found %s (%lld), want 0 to %u",
                       s->where, qn_json_type_name(bos), (long long)id, s->c->n_vocab - 1);
    s->c->bos_id = (int32_t)id;
    return QN_OK;
}

/* ---- both ---- */

/* Numbers no file has to give. */
static void set_defaults(qn_model_config *c)
{
    if (!c->n_kv_heads || c->arch == QN_ARCH_QWEN)
        c->n_kv_heads = c->n_heads;
    if (!c->head_dim)
        c->head_dim = c->hidden_size / c->n_heads;
    if (!c->max_ctx)
        c->max_ctx = c->seq_length ? c->seq_length : c->arch == QN_ARCH_LLAMA ? 2048 : 32768;
    if (c->arch == QN_ARCH_QWEN) {
        c->ffn_size /= 2; /* the file counts w1 and w2 together */
        if (!c->seq_length)
            c->seq_length = c->max_ctx;
    } else {
        c->seq_length = 0;
    }
}

/* Relations between numbers whose ranges are known. */
static qn_status check_relations(const qn_model_config *c, const char *where, qn_err *err)
{
#define WANT(cond, ...)                                                                            \
    do {                                                                                           \
        if (!(cond))                                                                               \
            return qn_fail(err, QN_E_FORMAT, __VA_ARGS__);                                         \
    } while (0)
    bool dense = false, sparse = false;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        dense = dense || !c->layer_is_moe[i];
        sparse = sparse || c->layer_is_moe[i];
    }
    WANT(c->n_heads % c->n_kv_heads == 0,
         "%s: %u attention heads, %u key/value heads: want a multiple", where, c->n_heads,
         c->n_kv_heads);
    WANT(c->head_dim >= 2 && c->head_dim <= 256 && c->head_dim % 2 == 0,
         "%s: head_dim: found %u, want even, 2 to 256", where, c->head_dim);
    WANT(c->rope_dim >= 2 && c->rope_dim <= c->head_dim && c->rope_dim % 2 == 0,
         "%s: rotary dimensions: found %u, want even, 2 to head_dim %u", where, c->rope_dim,
         c->head_dim);
    WANT(!dense || c->ffn_size > 0, "%s: intermediate size is missing, want 1 to %u", where,
         1u << 20);
    WANT(!has_experts(c->arch) || c->n_experts > 0, "%s: number of experts: missing, want 1 to %d",
         where, QN_LIMIT_EXPERTS);
    WANT(!sparse || (c->n_experts_active > 0 && c->n_experts_active <= c->n_experts),
         "%s: experts per token: found %u, want 1 to %u", where, c->n_experts_active, c->n_experts);
    WANT(!sparse || c->expert_ffn_size > 0, "%s: expert intermediate size is missing", where);
    WANT(!sparse || c->arch != QN_ARCH_QWEN2_MOE || c->shared_ffn_size > 0,
         "%s: shared expert intermediate size is missing", where);
    /* Written so that NaN fails. */
    WANT(c->rms_eps > 0 && c->rms_eps < 1, "%s: rms eps: found %g, want above 0 and below 1", where,
         (double)c->rms_eps);
    WANT(c->rope_theta >= 1 && (double)c->rope_theta <= THETA_MAX * 2, "%s: rope theta: found %g",
         where, (double)c->rope_theta);
    WANT(c->yarn_factor == 0 || c->yarn_beta_slow < c->yarn_beta_fast,
         "%s: yarn: beta_fast %g, beta_slow %g: want slow < fast", where, (double)c->yarn_beta_fast,
         (double)c->yarn_beta_slow);
    WANT(c->yarn_factor == 0 || c->rope_theta > 1, "%s: yarn: rope theta 1, want above 1", where);
#undef WANT
    return QN_OK;
}

/* YaRN stretches the context; some files keep the short one in max_position_embeddings. */
static void stretch_ctx(qn_model_config *c)
{
    double n = (double)c->yarn_factor * c->yarn_original_ctx;
    if (n > c->max_ctx)
        c->max_ctx = n < (1u << 30) ? (uint32_t)n : 1u << 30;
}

/* ---- GGUF ---- */

static const char *key_of(const source *s, char out[96], const char *name)
{
    (void)snprintf(out, 96, "%s.%s", s->prefix, name);
    return out;
}

static qn_status gguf_arch(source *s)
{
    qn_slice a = {NULL, 0}, name = {NULL, 0};
    char z[72];
    QN_TRY(qn_gguf_str(s->w->gguf, s->where, "general.architecture", &a, s->err));
    if (!a.p)
        return qn_fail(s->err, QN_E_FORMAT, "%s: general.architecture is missing; " SUPPORTED,
                       s->where);
    QN_TRY(qn_gguf_str(s->w->gguf, s->where, "general.name", &name, s->err));
    if (name.n)
        qn_escape(s->c->name, sizeof s->c->name, name.p, name.n);
    qn_escape(z, sizeof z, a.p, a.n);
    return find_arch(s, "general.architecture", z, true);
}

static qn_status gguf_numbers(source *s)
{
    qn_model_config *c = s->c;
    const qn_gguf_meta *g = s->w->gguf;
    char k[96];
    uint32_t v_dim = 0;
    for (size_t i = 0; i < QN_COUNT(numbers); i++) {
        const number *n = &numbers[i];
        uint32_t *out = (uint32_t *)((char *)c + n->at);
        if (!n->gguf)
            continue;
        QN_TRY(qn_gguf_u32(g, s->where, key_of(s, k, n->gguf), n->min, n->max, out, s->err));
        if (n->required && *out == 0)
            return qn_fail(s->err, QN_E_FORMAT, "%s: %s: missing, want %u to %u", s->where, k,
                           n->min, n->max);
    }
    QN_TRY(qn_gguf_f32(g, s->where, key_of(s, k, "attention.layer_norm_rms_epsilon"), EPS_MIN,
                       EPS_MAX, &c->rms_eps, s->err));
    QN_TRY(
        qn_gguf_u32(g, s->where, key_of(s, k, "attention.value_length"), 1, 256, &v_dim, s->err));
    const qn_tensor *embed = qn_weights_find(s->w, "token_embd.weight");
    if (!embed || embed->n_dims != 2 || embed->dims[0] < 1 || embed->dims[0] > 1u << 24)
        return qn_fail(s->err, QN_E_FORMAT,
                       "%s: token_embd.weight is %s, want a matrix of 1 to %u rows", s->where,
                       embed ? "of another shape" : "missing", 1u << 24);
    c->n_vocab = (uint32_t)embed->dims[0];
    set_defaults(c);
    if (v_dim && v_dim != c->head_dim)
        return qn_fail(s->err, QN_E_UNSUPPORTED,
                       "%s: key length %u and value length %u: want the same", s->where,
                       c->head_dim, v_dim);
    return QN_OK;
}

/* The file's tensors say what its metadata does not. */
static qn_status gguf_flags(source *s)
{
    qn_model_config *c = s->c;
    const qn_weights *w = s->w;
    char k[96];
    c->tie_embeddings = !qn_weights_find(w, "output.weight");
    c->qkv_bias = c->arch == QN_ARCH_QWEN || c->arch == QN_ARCH_QWEN2 ||
                  qn_weights_find(w, "blk.0.attn_q.bias");
    c->o_bias = qn_weights_find(w, "blk.0.attn_output.bias");
    c->mlp_bias = qn_weights_find(w, "blk.0.ffn_up.bias");
    c->qk_norm = c->arch == QN_ARCH_QWEN3 || c->arch == QN_ARCH_QWEN3_MOE;
    c->rope_adjacent = c->arch == QN_ARCH_LLAMA;
    if (!has_experts(c->arch)) {
        if (c->n_experts)
            return qn_fail(s->err, QN_E_UNSUPPORTED, "%s: %s with %u experts is not supported",
                           s->where, qn_arch_name(c->arch), c->n_experts);
        return QN_OK;
    }
    c->norm_topk = c->arch == QN_ARCH_QWEN3_MOE;
    QN_TRY(qn_gguf_bool(w->gguf, s->where, key_of(s, k, "expert_weights_norm"), &c->norm_topk,
                        s->err));
    for (uint32_t i = 0; i < c->n_layers; i++) {
        (void)snprintf(k, sizeof k, "blk.%u.ffn_gate_inp.weight", i);
        c->layer_is_moe[i] = qn_weights_find(w, k) != NULL;
    }
    /* Older files leave these out: llama.cpp's rule. */
    if (!c->expert_ffn_size && c->n_experts_active)
        c->expert_ffn_size = c->ffn_size / c->n_experts_active;
    if (c->arch == QN_ARCH_QWEN2_MOE && !c->shared_ffn_size)
        c->shared_ffn_size = c->ffn_size;
    if (c->arch == QN_ARCH_QWEN3_MOE)
        c->shared_ffn_size = 0;
    return QN_OK;
}

/* A window needs to know its layers. */
static qn_status gguf_windows(source *s)
{
    qn_model_config *c = s->c;
    char k[96];
    uint32_t window = 0;
    QN_TRY(qn_gguf_u32(s->w->gguf, s->where, key_of(s, k, "attention.sliding_window"), 0,
                       UINT32_MAX, &window, s->err));
    if (window == 0 || window >= c->max_ctx)
        return QN_OK;
    const qn_gguf_value *v =
        qn_gguf_find(s->w->gguf, key_of(s, k, "attention.sliding_window_pattern"));
    if (!v || v->type != QN_GGUF_ARRAY || v->item != QN_GGUF_BOOL || v->n != c->n_layers)
        return qn_fail(s->err, QN_E_UNSUPPORTED,
                       "%s: sliding window %u: want %s with a bool for each of %u layers", s->where,
                       window, k, c->n_layers);
    for (uint32_t i = 0; i < c->n_layers; i++)
        c->layer_window[i] = qn_gguf_item_i64(v, i) ? window : 0;
    return QN_OK;
}

static qn_status gguf_rope(source *s)
{
    qn_model_config *c = s->c;
    const qn_gguf_meta *g = s->w->gguf;
    qn_slice type = QN_SLICE("linear"); /* what a factor without a type means */
    float factor = 0, attn = 1;
    char k[96], z[40];
    c->rope_dim = c->head_dim;
    QN_TRY(qn_gguf_f32(g, s->where, key_of(s, k, "rope.freq_base"), THETA_MIN, THETA_MAX,
                       &c->rope_theta, s->err));
    QN_TRY(qn_gguf_u32(g, s->where, key_of(s, k, "rope.dimension_count"), 1, 256, &c->rope_dim,
                       s->err));
    QN_TRY(qn_gguf_f32(g, s->where, key_of(s, k, "rope.scale_linear"), 1e-3, 1e6,
                       &c->rope_linear_factor, s->err));
    QN_TRY(qn_gguf_str(g, s->where, key_of(s, k, "rope.scaling.type"), &type, s->err));
    QN_TRY(
        qn_gguf_f32(g, s->where, key_of(s, k, "rope.scaling.factor"), 1e-3, 1e6, &factor, s->err));
    QN_TRY(qn_gguf_f32(g, s->where, key_of(s, k, "rope.scaling.attn_factor"), 1e-6, 1e6, &attn,
                       s->err));
    bool linear = qn_slice_is(type, "linear");
    if (!linear && !qn_slice_is(type, "none") && !qn_slice_is(type, "yarn")) {
        qn_escape(z, sizeof z, type.p, type.n);
        return qn_fail(
            s->err, QN_E_UNSUPPORTED,
            "%s: %s.rope.scaling.type '%s' is not supported; supported: none, linear, yarn",
            s->where, s->prefix, z);
    }
    if (qn_slice_is(type, "none") || factor == 0)
        return QN_OK;
    if (linear) {
        c->rope_linear_factor = factor;
        return QN_OK;
    }
    c->yarn_factor = QN_MAX(1.0f, factor);
    c->yarn_beta_fast = 32;
    c->yarn_beta_slow = 1;
    c->yarn_attention_factor = attn * yarn_mscale(factor, 1);
    c->yarn_original_ctx = c->max_ctx;
    QN_TRY(qn_gguf_u32(g, s->where, key_of(s, k, "rope.scaling.original_context_length"), 1,
                       1u << 30, &c->yarn_original_ctx, s->err));
    QN_TRY(qn_gguf_f32(g, s->where, key_of(s, k, "rope.scaling.yarn_beta_fast"), 1e-6, 1e6,
                       &c->yarn_beta_fast, s->err));
    return qn_gguf_f32(g, s->where, key_of(s, k, "rope.scaling.yarn_beta_slow"), 1e-6, 1e6,
                       &c->yarn_beta_slow, s->err);
}

static qn_status gguf_ids(source *s)
{
    static const char *const eos[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
    uint32_t id;
    for (size_t i = 0; i < QN_COUNT(eos); i++) {
        id = UINT32_MAX;
        QN_TRY(qn_gguf_u32(s->w->gguf, s->where, eos[i], 0, s->c->n_vocab - 1, &id, s->err));
        if (id != UINT32_MAX)
            QN_TRY(add_eos(s, s->where, id));
    }
    id = UINT32_MAX;
    QN_TRY(qn_gguf_u32(s->w->gguf, s->where, "tokenizer.ggml.bos_token_id", 0, s->c->n_vocab - 1,
                       &id, s->err));
    if (id != UINT32_MAX)
        s->c->bos_id = (int32_t)id;
    return QN_OK;
}

/* ---- entry ---- */

static qn_status read_json(source *s)
{
    s->where = "config.json";
    QN_TRY(json_arch(s));
    QN_TRY(json_numbers(s));
    if (!s->c->head_dim && s->c->arch == QN_ARCH_QWEN3)
        s->c->head_dim = 128; /* the class default; GGUF's is hidden / heads for all */
    set_defaults(s->c);
    QN_TRY(json_flags(s));
    QN_TRY(json_experts(s));
    QN_TRY(json_windows(s));
    QN_TRY(json_rope(s));
    QN_TRY(json_quant(s));
    return json_ids(s);
}

static qn_status read_gguf(source *s)
{
    s->where = qn_base_name(s->w->path);
    QN_TRY(gguf_arch(s));
    QN_TRY(gguf_numbers(s));
    QN_TRY(gguf_flags(s));
    QN_TRY(gguf_windows(s));
    QN_TRY(gguf_rope(s));
    return gguf_ids(s);
}

/* The last component of the path. */
static void name_of_path(char *out, size_t size, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t start = n;
    while (start > 0 && path[start - 1] != '/')
        start--;
    qn_escape(out, size, path + start, n - start);
}

qn_status qn_model_config_read(qn_model_config *out, const qn_weights *w, qn_err *err)
{
    source s = {.c = out, .w = w, .prefix = "", .err = err};
    memset(out, 0, sizeof *out);
    out->rms_eps = 1e-6f;
    out->rope_theta = 10000;
    out->rope_linear_factor = 1;
    out->yarn_truncate = true;
    out->bos_id = -1;
    name_of_path(out->name, sizeof out->name, w->path);
    QN_TRY(w->format == QN_FORMAT_GGUF ? read_gguf(&s) : read_json(&s));
    stretch_ctx(out);
    return check_relations(out, s.where, err);
}

uint64_t qn_model_config_n_params(const qn_model_config *c)
{
    uint64_t h = c->hidden_size, d = c->head_dim;
    uint64_t q = (uint64_t)c->n_heads * d, kv = (uint64_t)c->n_kv_heads * d;
    uint64_t n = h * c->n_vocab * (c->tie_embeddings ? 1 : 2) + h;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        n += 2 * h + h * (2 * q + 2 * kv) + (c->qkv_bias ? q + 2 * kv : 0) + (c->o_bias ? h : 0) +
             (c->qk_norm ? 2 * d : 0);
        if (c->layer_is_moe[i]) {
            n += h * c->n_experts + 3 * h * c->expert_ffn_size * c->n_experts;
            if (c->shared_ffn_size)
                n += 3 * h * c->shared_ffn_size + h;
        } else {
            n += 3 * h * c->ffn_size + (c->mlp_bias ? 2 * (uint64_t)c->ffn_size + h : 0);
        }
    }
    return n;
}
