/* SPDX-License-Identifier: Apache-2.0
 * bind.c - finds the tensors a config asks for and turns them into qn_weights.
 *
 *   role ─ name of the file's dialect ─ stored form ─ exact shape of every part ─ qn_weight
 *
 * Dialects: Hugging Face, GGUF, Qwen v1. Stored forms: one tensor (plain or GGUF blocks), GPTQ,
 * AWQ, NF4, FP8; a matrix of a quantised checkpoint that was left out of quantisation is plain.
 * Nothing is copied: a fused or packed tensor gives views of its rows.
 * Invariants: a qn_weight leaves here only after the byte count of each part was derived from rows
 * and cols (part(), plain()), and every index stored in a file (g_idx) was compared with what it
 * indexes.
 * Sources: transformers' modeling files; AutoGPTQ and AutoAWQ linear layers; bitsandbytes'
 * QuantState; llama.cpp's tensor names. */
#include "model/bind.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define BASE_BYTES 128               /* the longest base is 70 */
#define NAME_BYTES (BASE_BYTES + 64) /* and the longest suffix 40 */

typedef enum dialect { HF, GGUF, V1 } dialect;

typedef struct binder {
    const qn_model_config *c;
    const qn_weights *w;
    qn_model_weights *m;
    uint8_t *used; /* one a tensor of the file */
    dialect names;
    const char *prefix; /* HF: before "layers.N" */
    const char *file;   /* for messages */
    qn_err *err;
} binder;

typedef enum role {
    ATTN_NORM,
    QKV,
    Q,
    K,
    V,
    O,
    Q_NORM,
    K_NORM,
    FFN_NORM,
    GATE,
    UP,
    DOWN,
    ROUTER,
    SHARED_ROUTER,
    SHARED_GATE,
    SHARED_UP,
    SHARED_DOWN
} role;
/* Names inside a layer, for each dialect, without ".weight". */
static const char *const role_names[][3] = {
    [ATTN_NORM] = {"input_layernorm", "attn_norm", "ln_1"},
    [QKV] = {"", "attn_qkv", "attn.c_attn"},
    [Q] = {"self_attn.q_proj", "attn_q", ""},
    [K] = {"self_attn.k_proj", "attn_k", ""},
    [V] = {"self_attn.v_proj", "attn_v", ""},
    [O] = {"self_attn.o_proj", "attn_output", "attn.c_proj"},
    [Q_NORM] = {"self_attn.q_norm", "attn_q_norm", ""},
    [K_NORM] = {"self_attn.k_norm", "attn_k_norm", ""},
    [FFN_NORM] = {"post_attention_layernorm", "ffn_norm", "ln_2"},
    [GATE] = {"mlp.gate_proj", "ffn_gate", "mlp.w2"},
    [UP] = {"mlp.up_proj", "ffn_up", "mlp.w1"},
    [DOWN] = {"mlp.down_proj", "ffn_down", "mlp.c_proj"},
    [ROUTER] = {"mlp.gate", "ffn_gate_inp", ""},
    [SHARED_ROUTER] = {"mlp.shared_expert_gate", "ffn_gate_inp_shexp", ""},
    [SHARED_GATE] = {"mlp.shared_expert.gate_proj", "ffn_gate_shexp", ""},
    [SHARED_UP] = {"mlp.shared_expert.up_proj", "ffn_up_shexp", ""},
    [SHARED_DOWN] = {"mlp.shared_expert.down_proj", "ffn_down_shexp", ""},
};

/* What a part of a matrix may be stored as. */
typedef enum kind { FLOATS, MATRIX, I32, F32, F8 } kind;

static bool kind_allows(kind k, qn_dtype t)
{
    bool is_float = t == QN_F32 || t == QN_F16 || t == QN_BF16;
    switch (k) {
    case FLOATS:
        return is_float;
    case MATRIX:
        return is_float || (t >= QN_Q4_0 && t <= QN_NVFP4);
    case I32:
        return t == QN_I32;
    case F32:
        return t == QN_F32;
    case F8:
        return t == QN_F8_E4M3;
    }
    return false;
}
static const char *const kind_names[] = {[FLOATS] = "F32, F16 or BF16",
                                         [MATRIX] = "F32, F16, BF16 or a GGUF block format",
                                         [I32] = "I32",
                                         [F32] = "F32",
                                         [F8] = "F8_E4M3"};

/* ---- single tensors ---- */

static const qn_tensor *find(binder *b, const char *base, const char *suffix)
{
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s%s", base, suffix);
    const qn_tensor *t = qn_weights_find(b->w, name);
    if (t)
        b->used[t - b->w->tensors] = 1;
    return t;
}

static void shape_text(char out[100], uint32_t n_dims, const uint64_t *dims)
{
    size_t n = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < n_dims && i < QN_LIMIT_TENSOR_DIMS && n < 80; i++)
        n += (size_t)snprintf(out + n, 100 - n, i ? ", %llu" : "%llu", (unsigned long long)dims[i]);
}

static qn_status missing(binder *b, const char *base, const char *suffix)
{
    (void)qn_fail(b->err, QN_E_FORMAT, "%s: tensor '%s%s' is missing", b->file, base, suffix);
    return QN_E_FORMAT; /* said here so that an analyser knows it is never QN_OK */
}

/* Type, shape and alignment of a tensor that is there. */
static qn_status check(binder *b, const qn_tensor *t, kind k, uint32_t n_dims, const uint64_t *dims)
{
    const qn_dtype_info *info = qn_dtype_get(t->dtype);
    if (!kind_allows(k, t->dtype))
        return qn_fail(b->err, QN_E_UNSUPPORTED, "%s: tensor '%s' is %s, want %s", b->file, t->name,
                       info->name, kind_names[k]);
    bool same = t->n_dims == n_dims;
    for (uint32_t i = 0; same && i < n_dims; i++)
        same = t->dims[i] == dims[i];
    if (!same) {
        char want[100], have[100];
        shape_text(want, n_dims, dims);
        shape_text(have, t->n_dims, t->dims);
        return qn_fail(b->err, QN_E_FORMAT, "%s: tensor '%s': config wants [%s], file has [%s]",
                       b->file, t->name, want, have);
    }
    if (info->block_size == 1 && (uintptr_t)t->data % info->block_bytes != 0)
        return qn_fail(b->err, QN_E_FORMAT,
                       "%s: tensor '%s' is not aligned to its %u-byte elements", b->file, t->name,
                       info->block_bytes);
    return QN_OK;
}

/* A tensor that must be there. */
static qn_status part(binder *b, const char *base, const char *suffix, kind k, uint32_t n_dims,
                      const uint64_t *dims, const qn_tensor **out)
{
    const qn_tensor *t = find(b, base, suffix);
    if (!t)
        return missing(b, base, suffix);
    *out = t;
    return check(b, t, k, n_dims, dims);
}

/* A checked tensor seen as [rows, cols]; its outer dimensions are rows. */
static qn_status plain(binder *b, const qn_tensor *t, size_t rows, size_t cols, qn_weight *out)
{
    size_t stride, bytes;
    if (!qn_dtype_row_bytes(t->dtype, cols, &stride) || !qn_mul_size(stride, rows, &bytes) ||
        bytes != t->bytes)
        return qn_fail(b->err, QN_E_FORMAT, "%s: tensor '%s': %zu bytes are no %zu rows of %zu %s",
                       b->file, t->name, t->bytes, rows, cols, qn_dtype_get(t->dtype)->name);
    *out = (qn_weight){.dtype = t->dtype,
                       .rows = rows,
                       .cols = cols,
                       .data = t->data,
                       .stride = stride,
                       .total_rows = rows};
    return QN_OK;
}

/* [n]; also [1, n], as Hugging Face stores a linear layer with one output. */
static qn_status vector(binder *b, const char *base, const char *suffix, size_t n, qn_weight *out)
{
    const qn_tensor *t = find(b, base, suffix);
    uint64_t dims[2] = {1, n};
    if (!t)
        return missing(b, base, suffix);
    bool row = t->n_dims == 2;
    QN_TRY(check(b, t, FLOATS, row ? 2 : 1, row ? dims : dims + 1));
    return plain(b, t, 1, n, out);
}

static qn_status optional_bias(binder *b, bool has, const char *base, size_t n, qn_weight *out)
{
    return has ? vector(b, base, ".bias", n, out) : QN_OK;
}

/* ---- matrices of several tensors ---- */

/* Columns to groups; group 0 in the config is the whole row. */
static size_t group_of(const binder *b, size_t cols)
{
    return b->c->quant_group ? b->c->quant_group : cols;
}

static qn_status check_multiple(binder *b, const char *base, const char *what, size_t n, size_t of)
{
    if (n % of == 0)
        return QN_OK;
    return qn_fail(b->err, QN_E_FORMAT, "%s: '%s': %s %zu, want a multiple of %zu", b->file, base,
                   what, n, of);
}

/* Every g_idx must name a group. Plain order (c / group) needs no table. */
static qn_status group_index(binder *b, const qn_tensor *t, size_t cols, size_t group,
                             const int32_t **out)
{
    const int32_t *g = t->data;
    size_t n_groups = QN_DIV_UP(cols, group);
    bool ordered = true;
    for (size_t i = 0; i < cols; i++) {
        if (g[i] < 0 || (size_t)g[i] >= n_groups)
            return qn_fail(b->err, QN_E_FORMAT, "%s: tensor '%s': element %zu is %d, want 0 to %zu",
                           b->file, t->name, i, g[i], n_groups - 1);
        ordered = ordered && (size_t)g[i] == i / group;
    }
    *out = ordered ? NULL : g;
    return QN_OK;
}

static qn_status gptq(binder *b, const char *base, size_t rows, size_t cols, qn_weight *out)
{
    const qn_model_config *c = b->c;
    const size_t per_word = 32 / c->quant_bits, group = group_of(b, cols);
    const uint64_t n_groups = QN_DIV_UP(cols, group);
    const qn_tensor *q = NULL, *scales = NULL, *zeros = NULL, *g = NULL;
    QN_TRY(check_multiple(b, base, "inputs", cols, per_word));
    QN_TRY(check_multiple(b, base, "outputs", rows, per_word));
    QN_TRY(part(b, base, ".qweight", I32, 2, (uint64_t[]){cols / per_word, rows}, &q));
    QN_TRY(part(b, base, ".scales", FLOATS, 2, (uint64_t[]){n_groups, rows}, &scales));
    if (!c->quant_sym || find(b, base, ".qzeros"))
        QN_TRY(part(b, base, ".qzeros", I32, 2, (uint64_t[]){n_groups, rows / per_word}, &zeros));
    *out = (qn_weight){.dtype = c->quant_bits == 4 ? QN_GPTQ4 : QN_GPTQ8,
                       .rows = rows,
                       .cols = cols,
                       .data = q->data,
                       .total_rows = rows,
                       .scale = scales->data,
                       .scale_dtype = scales->dtype,
                       .zero = zeros ? zeros->data : NULL,
                       .zero_offset = c->quant_zero_is_minus_one,
                       .group = group};
    if (!find(b, base, ".g_idx"))
        return QN_OK;
    QN_TRY(part(b, base, ".g_idx", I32, 1, (uint64_t[]){cols}, &g));
    return group_index(b, g, cols, group, &out->group_index);
}

static qn_status awq(binder *b, const char *base, size_t rows, size_t cols, qn_weight *out)
{
    const size_t group = group_of(b, cols);
    const uint64_t n_groups = QN_DIV_UP(cols, group);
    const qn_tensor *q = NULL, *scales = NULL, *zeros = NULL;
    QN_TRY(check_multiple(b, base, "outputs", rows, 8));
    QN_TRY(part(b, base, ".qweight", I32, 2, (uint64_t[]){cols, rows / 8}, &q));
    QN_TRY(part(b, base, ".scales", FLOATS, 2, (uint64_t[]){n_groups, rows}, &scales));
    QN_TRY(part(b, base, ".qzeros", I32, 2, (uint64_t[]){n_groups, rows / 8}, &zeros));
    *out = (qn_weight){.dtype = QN_AWQ4,
                       .rows = rows,
                       .cols = cols,
                       .data = q->data,
                       .total_rows = rows,
                       .scale = scales->data,
                       .scale_dtype = scales->dtype,
                       .zero = zeros->data,
                       .group = group};
    return QN_OK;
}

static qn_status fp8(binder *b, const char *base, size_t rows, size_t cols, qn_weight *out)
{
    const size_t br = b->c->quant_block_rows, bc = b->c->quant_group;
    const qn_tensor *t = NULL, *scales = NULL;
    QN_TRY(part(b, base, ".weight", F8, 2, (uint64_t[]){rows, cols}, &t));
    QN_TRY(part(b, base, ".weight_scale_inv", FLOATS, 2,
                (uint64_t[]){QN_DIV_UP(rows, br), QN_DIV_UP(cols, bc)}, &scales));
    *out = (qn_weight){.dtype = QN_F8_E4M3,
                       .rows = rows,
                       .cols = cols,
                       .data = t->data,
                       .stride = cols,
                       .total_rows = rows,
                       .scale = scales->data,
                       .scale_dtype = scales->dtype,
                       .group = bc,
                       .block_rows = br};
    return QN_OK;
}

/* What bitsandbytes writes as JSON beside the weight. */
typedef struct nf4_state {
    uint32_t block, nested_block;
    float nested_offset;
} nf4_state;

static qn_status nf4_read_state(binder *b, const char *base, size_t rows, size_t cols, nf4_state *s)
{
    const qn_tensor *t = find(b, base, ".weight.quant_state.bitsandbytes__nf4");
    json_t *o = NULL;
    const char *type = "";
    char where[320];
    if (!t)
        return missing(b, base, ".weight.quant_state.bitsandbytes__nf4");
    (void)snprintf(where, sizeof where, "%.100s: tensor '%.200s'", b->file, t->name);
    *s = (nf4_state){.nested_block = 256};
    QN_TRY(qn_json_parse(&o, t->data, t->bytes, 8, where, b->err));
    qn_status st = qn_json_str(o, where, "quant_type", &type, b->err);
    if (st == QN_OK)
        st = qn_json_u32(o, where, "blocksize", 2, 65536, &s->block, b->err);
    if (st == QN_OK)
        st = qn_json_u32(o, where, "nested_blocksize", 1, 65536, &s->nested_block, b->err);
    if (st == QN_OK)
        st = qn_json_f32(o, where, "nested_offset", -1e30, 1e30, &s->nested_offset, b->err);
    const json_t *shape = json_object_get(o, "shape");
    if (st == QN_OK && (strcmp(type, "nf4") != 0 || s->block == 0 || s->block % 2 != 0))
        st = qn_fail(b->err, QN_E_FORMAT,
                     "%s: quant_type '%.16s', blocksize %u: want nf4 and an even size", where, type,
                     s->block);
    if (st == QN_OK && (json_array_size(shape) != 2 ||
                        json_integer_value(json_array_get(shape, 0)) != (json_int_t)rows ||
                        json_integer_value(json_array_get(shape, 1)) != (json_int_t)cols))
        st = qn_fail(b->err, QN_E_FORMAT, "%s: shape: want [%zu, %zu]", where, rows, cols);
    json_decref(o);
    return st;
}

static qn_status check_finite(binder *b, const qn_tensor *t, size_t n)
{
    const float *v = t->data;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(v[i]))
            return qn_fail(b->err, QN_E_FORMAT, "%s: tensor '%s': element %zu is not finite",
                           b->file, t->name, i);
    }
    return QN_OK;
}

/* absmax as bytes into a table of their own. */
static qn_status nf4_nested(binder *b, const char *base, const nf4_state *s, uint64_t n_blocks,
                            qn_weight *out)
{
    const qn_tensor *code = NULL, *scale = NULL;
    const uint64_t n_nested = QN_DIV_UP(n_blocks, s->nested_block);
    QN_TRY(part(b, base, ".weight.nested_quant_map", F32, 1, (uint64_t[]){256}, &code));
    QN_TRY(part(b, base, ".weight.nested_absmax", F32, 1, (uint64_t[]){n_nested}, &scale));
    QN_TRY(check_finite(b, code, 256));
    out->nested_code = code->data;
    out->nested_scale = scale->data;
    out->nested_offset = s->nested_offset;
    out->nested_group = s->nested_block;
    return QN_OK;
}

static qn_status nf4(binder *b, const char *base, size_t rows, size_t cols, qn_weight *out)
{
    const qn_tensor *t = find(b, base, ".weight"), *absmax = find(b, base, ".weight.absmax");
    const qn_tensor *code = NULL;
    size_t n;
    nf4_state s;
    if (!t || !absmax)
        return missing(b, base, t ? ".weight.absmax" : ".weight");
    QN_TRY(nf4_read_state(b, base, rows, cols, &s));
    /* The stored shape is [n, 1] of whatever bnb_4bit_quant_storage was; only the bytes count. */
    if (!qn_mul_size(rows, cols, &n) || n % 2 != 0 || t->bytes != n / 2)
        return qn_fail(b->err, QN_E_FORMAT, "%s: tensor '%s': %zu bytes, want [%zu, %zu] of 4 bits",
                       b->file, t->name, t->bytes, rows, cols);
    const uint64_t n_blocks = QN_DIV_UP(n, s.block);
    QN_TRY(part(b, base, ".weight.quant_map", F32, 1, (uint64_t[]){16}, &code));
    QN_TRY(check_finite(b, code, 16));
    *out = (qn_weight){.dtype = QN_NF4,
                       .rows = rows,
                       .cols = cols,
                       .data = t->data,
                       .total_rows = rows,
                       .scale = absmax->data,
                       .scale_dtype = absmax->dtype,
                       .group = s.block,
                       .code = code->data};
    if (absmax->dtype != QN_U8)
        return check(b, absmax, F32, 1, &n_blocks);
    if (absmax->n_dims != 1 || absmax->dims[0] != n_blocks)
        return qn_fail(b->err, QN_E_FORMAT, "%s: tensor '%s': want [%llu]", b->file, absmax->name,
                       (unsigned long long)n_blocks);
    return nf4_nested(b, base, &s, n_blocks, out);
}

/* ---- matrices ---- */

static qn_status matrix(binder *b, const char *base, size_t rows, size_t cols, qn_weight *out)
{
    const qn_hf_quant quant = b->c->quant;
    const qn_tensor *t = find(b, base, ".weight");
    if ((quant == QN_HF_GPTQ || quant == QN_HF_AWQ) && !t) {
        if (!find(b, base, ".qweight"))
            return missing(b, base, ".qweight");
        return quant == QN_HF_GPTQ ? gptq(b, base, rows, cols, out) : awq(b, base, rows, cols, out);
    }
    if (quant == QN_HF_NF4 && find(b, base, ".weight.absmax"))
        return nf4(b, base, rows, cols, out);
    if (quant == QN_HF_FP8 && t && t->dtype == QN_F8_E4M3)
        return fp8(b, base, rows, cols, out);
    QN_TRY(part(b, base, ".weight", MATRIX, 2, (uint64_t[]){rows, cols}, &t));
    return plain(b, t, rows, cols, out);
}

static void layer_name(const binder *b, uint32_t layer, role r, char out[BASE_BYTES])
{
    const char *name = role_names[r][b->names];
    if (b->names == HF)
        (void)snprintf(out, BASE_BYTES, "%slayers.%u.%s", b->prefix, layer, name);
    else if (b->names == GGUF)
        (void)snprintf(out, BASE_BYTES, "blk.%u.%s", layer, name);
    else
        (void)snprintf(out, BASE_BYTES, "transformer.h.%u.%s", layer, name);
}

static qn_status layer_matrix(binder *b, uint32_t layer, role r, size_t rows, size_t cols,
                              qn_weight *out)
{
    char base[BASE_BYTES];
    layer_name(b, layer, r, base);
    return matrix(b, base, rows, cols, out);
}

static qn_status layer_vector(binder *b, uint32_t layer, role r, size_t n, qn_weight *out)
{
    char base[BASE_BYTES];
    layer_name(b, layer, r, base);
    return vector(b, base, ".weight", n, out);
}

static qn_status layer_bias(binder *b, uint32_t layer, role r, bool has, size_t n, qn_weight *out)
{
    char base[BASE_BYTES];
    layer_name(b, layer, r, base);
    return optional_bias(b, has, base, n, out);
}

/* ---- layers ---- */

/* Elements [at, at + n) of a vector. */
static qn_weight vector_cut(const qn_weight *v, size_t at, size_t n)
{
    qn_weight r = *v;
    r.data = (const uint8_t *)v->data + at * qn_dtype_get(v->dtype)->block_bytes;
    r.cols = n;
    return r;
}

/* q, k and v in one matrix, rows in that order. */
static qn_status bind_fused_qkv(binder *b, uint32_t i, qn_layer_weights *l)
{
    const qn_model_config *c = b->c;
    const size_t q = (size_t)c->n_heads * c->head_dim, kv = (size_t)c->n_kv_heads * c->head_dim;
    qn_weight qkv, bias;
    QN_TRY(layer_matrix(b, i, QKV, q + 2 * kv, c->hidden_size, &qkv));
    QN_TRY(layer_bias(b, i, QKV, true, q + 2 * kv, &bias));
    l->q = qn_weight_rows(&qkv, 0, q);
    l->k = qn_weight_rows(&qkv, q, kv);
    l->v = qn_weight_rows(&qkv, q + kv, kv);
    l->q_bias = vector_cut(&bias, 0, q);
    l->k_bias = vector_cut(&bias, q, kv);
    l->v_bias = vector_cut(&bias, q + kv, kv);
    return QN_OK;
}

static qn_status bind_attention(binder *b, uint32_t i, qn_layer_weights *l)
{
    const qn_model_config *c = b->c;
    const size_t h = c->hidden_size, q = (size_t)c->n_heads * c->head_dim;
    const size_t kv = (size_t)c->n_kv_heads * c->head_dim;
    QN_TRY(layer_vector(b, i, ATTN_NORM, h, &l->attn_norm));
    if (c->arch == QN_ARCH_QWEN) {
        QN_TRY(bind_fused_qkv(b, i, l));
    } else {
        QN_TRY(layer_matrix(b, i, Q, q, h, &l->q));
        QN_TRY(layer_matrix(b, i, K, kv, h, &l->k));
        QN_TRY(layer_matrix(b, i, V, kv, h, &l->v));
        QN_TRY(layer_bias(b, i, Q, c->qkv_bias, q, &l->q_bias));
        QN_TRY(layer_bias(b, i, K, c->qkv_bias, kv, &l->k_bias));
        QN_TRY(layer_bias(b, i, V, c->qkv_bias, kv, &l->v_bias));
    }
    if (c->qk_norm) {
        QN_TRY(layer_vector(b, i, Q_NORM, c->head_dim, &l->q_norm));
        QN_TRY(layer_vector(b, i, K_NORM, c->head_dim, &l->k_norm));
    }
    QN_TRY(layer_matrix(b, i, O, h, q, &l->o));
    QN_TRY(layer_bias(b, i, O, c->o_bias, h, &l->o_bias));
    return layer_vector(b, i, FFN_NORM, h, &l->ffn_norm);
}

static qn_status bind_dense(binder *b, uint32_t i, qn_layer_weights *l)
{
    const qn_model_config *c = b->c;
    const size_t h = c->hidden_size, f = c->ffn_size;
    QN_TRY(layer_matrix(b, i, GATE, f, h, &l->gate));
    QN_TRY(layer_matrix(b, i, UP, f, h, &l->up));
    QN_TRY(layer_matrix(b, i, DOWN, h, f, &l->down));
    QN_TRY(layer_bias(b, i, GATE, c->mlp_bias, f, &l->gate_bias));
    QN_TRY(layer_bias(b, i, UP, c->mlp_bias, f, &l->up_bias));
    return layer_bias(b, i, DOWN, c->mlp_bias, h, &l->down_bias);
}

/* All experts in one tensor [E, rows, cols]: expert e's matrix is rows [at, at + n) of its part. */
static void cut_experts(const binder *b, const qn_weight *all, size_t rows, size_t at, size_t n,
                        qn_weight *out)
{
    for (uint32_t e = 0; e < b->c->n_experts; e++)
        out[e] = qn_weight_rows(all, e * rows + at, n);
}

static qn_status packed(binder *b, const qn_tensor *t, size_t rows, size_t cols, qn_weight *out)
{
    const size_t n = b->c->n_experts;
    QN_TRY(check(b, t, MATRIX, 3, (uint64_t[]){n, rows, cols}));
    return plain(b, t, n * rows, cols, out);
}

/* GGUF: ffn_{gate,up,down}_exps. Hugging Face: experts.gate_up_proj (gate first) and down_proj. */
static qn_status bind_packed_experts(binder *b, uint32_t i, qn_layer_weights *l, bool *done)
{
    const qn_model_config *c = b->c;
    const size_t h = c->hidden_size, f = c->expert_ffn_size;
    const bool gguf = b->names == GGUF;
    char base[BASE_BYTES];
    qn_weight all;
    if (gguf)
        (void)snprintf(base, sizeof base, "blk.%u.ffn_", i);
    else
        (void)snprintf(base, sizeof base, "%slayers.%u.mlp.experts.", b->prefix, i);
    const qn_tensor *both = find(b, base, gguf ? "gate_up_exps.weight" : "gate_up_proj");
    *done = gguf || both;
    if (!*done)
        return QN_OK;
    if (both) {
        QN_TRY(packed(b, both, 2 * f, h, &all));
        cut_experts(b, &all, 2 * f, 0, f, l->expert_gate);
        cut_experts(b, &all, 2 * f, f, f, l->expert_up);
    } else {
        const qn_tensor *gate = find(b, base, "gate_exps.weight");
        const qn_tensor *up = find(b, base, "up_exps.weight");
        if (!gate || !up)
            return missing(b, base, gate ? "up_exps.weight" : "gate_exps.weight");
        QN_TRY(packed(b, gate, f, h, &all));
        cut_experts(b, &all, f, 0, f, l->expert_gate);
        QN_TRY(packed(b, up, f, h, &all));
        cut_experts(b, &all, f, 0, f, l->expert_up);
    }
    const qn_tensor *down = find(b, base, gguf ? "down_exps.weight" : "down_proj");
    if (!down)
        return missing(b, base, gguf ? "down_exps.weight" : "down_proj");
    QN_TRY(packed(b, down, h, f, &all));
    cut_experts(b, &all, h, 0, h, l->expert_down);
    return QN_OK;
}

static qn_status bind_expert(binder *b, uint32_t i, uint32_t e, qn_layer_weights *l)
{
    const size_t h = b->c->hidden_size, f = b->c->expert_ffn_size;
    char base[BASE_BYTES];
#define EXPERT(name)                                                                               \
    (void)snprintf(base, sizeof base, "%slayers.%u.mlp.experts.%u." name, b->prefix, i, e)
    EXPERT("gate_proj");
    QN_TRY(matrix(b, base, f, h, &l->expert_gate[e]));
    EXPERT("up_proj");
    QN_TRY(matrix(b, base, f, h, &l->expert_up[e]));
    EXPERT("down_proj");
#undef EXPERT
    return matrix(b, base, h, f, &l->expert_down[e]);
}

static qn_status bind_experts(binder *b, uint32_t i, qn_layer_weights *l)
{
    const qn_model_config *c = b->c;
    const size_t h = c->hidden_size, f = c->shared_ffn_size;
    const size_t bytes = c->n_experts * sizeof(qn_weight); /* at most QN_LIMIT_EXPERTS */
    bool done;
    QN_TRY(layer_matrix(b, i, ROUTER, c->n_experts, h, &l->router));
    l->expert_gate = qn_arena_alloc(&b->m->arena, bytes);
    l->expert_up = qn_arena_alloc(&b->m->arena, bytes);
    l->expert_down = qn_arena_alloc(&b->m->arena, bytes);
    if (!l->expert_gate || !l->expert_up || !l->expert_down)
        return qn_fail_nomem(b->err, bytes);
    QN_TRY(bind_packed_experts(b, i, l, &done));
    for (uint32_t e = 0; !done && e < c->n_experts; e++)
        QN_TRY(bind_expert(b, i, e, l));
    if (f == 0)
        return QN_OK;
    QN_TRY(layer_vector(b, i, SHARED_ROUTER, h, &l->shared_router));
    QN_TRY(layer_matrix(b, i, SHARED_GATE, f, h, &l->shared_gate));
    QN_TRY(layer_matrix(b, i, SHARED_UP, f, h, &l->shared_up));
    return layer_matrix(b, i, SHARED_DOWN, h, f, &l->shared_down);
}

/* ---- the model ---- */

/* Where the layers are: by the final norm, which nobody quantises. "" is a model saved without its
 * head. */
static void find_prefix(binder *b)
{
    static const char *const prefixes[] = {"model.", "model.language_model.",
                                           "language_model.model.", ""};
    char name[NAME_BYTES];
    b->prefix = prefixes[0];
    for (size_t i = 0; i < QN_COUNT(prefixes); i++) {
        (void)snprintf(name, sizeof name, "%snorm.weight", prefixes[i]);
        if (qn_weights_find(b->w, name)) {
            b->prefix = prefixes[i];
            return;
        }
    }
}

/* Llama 3 in GGUF: what each frequency is divided by. */
static qn_status bind_rope_freqs(binder *b)
{
    const qn_tensor *t = b->names == GGUF ? find(b, "rope_freqs", ".weight") : NULL;
    if (!t)
        return QN_OK;
    const uint64_t n = b->c->rope_dim / 2;
    QN_TRY(check(b, t, F32, 1, &n));
    QN_TRY(check_finite(b, t, n));
    b->m->rope_freqs = t->data;
    for (uint64_t i = 0; i < n; i++) {
        if (b->m->rope_freqs[i] <= 0)
            return qn_fail(b->err, QN_E_FORMAT, "%s: tensor '%s': element %u is %g, want above 0",
                           b->file, t->name, (unsigned)i, (double)b->m->rope_freqs[i]);
    }
    return QN_OK;
}

static qn_status bind_ends(binder *b)
{
    static const char *const embed[] = {"embed_tokens", "token_embd", "transformer.wte"};
    static const char *const norm[] = {"norm", "output_norm", "transformer.ln_f"};
    const size_t h = b->c->hidden_size, n = b->c->n_vocab;
    const char *prefix = b->names == HF ? b->prefix : "";
    char base[BASE_BYTES];
    (void)snprintf(base, sizeof base, "%s%s", prefix, embed[b->names]);
    QN_TRY(matrix(b, base, n, h, &b->m->embed));
    (void)snprintf(base, sizeof base, "%s%s", prefix, norm[b->names]);
    QN_TRY(vector(b, base, ".weight", h, &b->m->output_norm));
    b->m->output = b->m->embed;
    if (b->c->tie_embeddings)
        return QN_OK;
    const char *head = b->names == GGUF ? "output" : "lm_head";
    if (strcmp(prefix, "language_model.model.") == 0)
        head = "language_model.lm_head";
    return matrix(b, head, n, h, &b->m->output);
}

/* Known to be of no use here. */
static bool is_ignored(const binder *b, const char *name)
{
    static const char *const starts[] = {"model.visual.", "visual.",       "mtp.",
                                         "model.mtp.",    "vision_tower.", "audio_tower."};
    for (size_t i = 0; i < QN_COUNT(starts); i++) {
        if (qn_starts_with(name, starts[i]))
            return true;
    }
    /* GPTQ savers write a bias of zeros for layers that have none. */
    if (b->c->quant == QN_HF_GPTQ && qn_ends_with(name, ".bias"))
        return true;
    return qn_ends_with(name, "rotary_emb.inv_freq");
}

static qn_status list_unused(binder *b)
{
    size_t n = 0, bytes;
    for (size_t i = 0; i < b->w->n_tensors; i++) {
        const char *name = b->w->tensors[i].name;
        /* A factor on a matrix's product (NVFP4, BitNet): leaving it out would give wrong
         * numbers. */
        if (!b->used[i] && b->names == GGUF && qn_ends_with(name, ".scale"))
            return qn_fail(b->err, QN_E_UNSUPPORTED,
                           "%s: tensor '%.96s': a scale for a whole matrix is not supported",
                           b->file, name);
        n += !b->used[i] && !is_ignored(b, name);
    }
    if (n == 0)
        return QN_OK;
    if (!qn_mul_size(n, sizeof *b->m->unused, &bytes) ||
        !(b->m->unused = qn_arena_alloc(&b->m->arena, bytes)))
        return qn_fail_nomem(b->err, n * sizeof *b->m->unused);
    for (size_t i = 0; i < b->w->n_tensors; i++) {
        if (!b->used[i] && !is_ignored(b, b->w->tensors[i].name))
            b->m->unused[b->m->n_unused++] = b->w->tensors[i].name;
    }
    return QN_OK;
}

static qn_status bind_all(binder *b)
{
    const qn_model_config *c = b->c;
    qn_model_weights *m = b->m;
    const size_t bytes = c->n_layers * sizeof *m->layers; /* at most QN_LIMIT_LAYERS */
    m->layers = qn_arena_alloc(&m->arena, bytes);
    if (!m->layers)
        return qn_fail_nomem(b->err, bytes);
    memset(m->layers, 0, bytes);
    m->n_layers = c->n_layers;
    if (b->w->format == QN_FORMAT_GGUF)
        b->names = GGUF;
    else
        b->names = c->arch == QN_ARCH_QWEN ? V1 : HF;
    find_prefix(b);
    QN_TRY(bind_ends(b));
    QN_TRY(bind_rope_freqs(b));
    for (uint32_t i = 0; i < c->n_layers; i++) {
        QN_TRY(bind_attention(b, i, &m->layers[i]));
        QN_TRY(c->layer_is_moe[i] ? bind_experts(b, i, &m->layers[i])
                                  : bind_dense(b, i, &m->layers[i]));
    }
    return list_unused(b);
}

qn_status qn_bind(qn_model_weights **out, const qn_model_config *c, const qn_weights *w,
                  qn_err *err)
{
    binder b = {.c = c, .w = w, .file = qn_base_name(w->path), .err = err};
    *out = NULL;
    b.m = qn_calloc(1, sizeof *b.m, QN_MEM_MISC);
    if (!b.m)
        return qn_fail_nomem(err, sizeof *b.m);
    qn_arena_init(&b.m->arena, 0, QN_MEM_MISC);
    b.used = qn_arena_alloc(&b.m->arena, w->n_tensors + 1);
    if (!b.used) {
        qn_model_weights_free(b.m);
        return qn_fail_nomem(err, w->n_tensors);
    }
    memset(b.used, 0, w->n_tensors + 1);
    b.m->is_used = b.used;
    qn_status st = bind_all(&b);
    if (st != QN_OK) {
        qn_model_weights_free(b.m);
        return st;
    }
    *out = b.m;
    return QN_OK;
}

void qn_model_weights_free(qn_model_weights *m)
{
    if (!m)
        return;
    qn_arena_fini(&m->arena);
    qn_free(m);
}
