/* SPDX-License-Identifier: Apache-2.0
 * config.h - qn_model_config: one struct for all Qwen text models, and its validation.
 *
 * Filled from config.json (old and new keys, nested text_config) or GGUF metadata; then every field
 * passes one table: type, range, relation. No kernel is reached with an unchecked number. Threads:
 * any (plain data). Source: transformers' configuration_*.py; llama.cpp's key
 * names. */
#ifndef QN_MODEL_CONFIG_H
#define QN_MODEL_CONFIG_H

#include "format/weights.h"

typedef enum qn_arch {
    QN_ARCH_QWEN,
    QN_ARCH_QWEN2,
    QN_ARCH_QWEN2_MOE,
    QN_ARCH_QWEN3,
    QN_ARCH_QWEN3_MOE,
    QN_ARCH_LLAMA
} qn_arch;

/* Quantised forms of Hugging Face checkpoints (config.json quantization_config). */
typedef enum qn_hf_quant { QN_HF_NONE, QN_HF_GPTQ, QN_HF_AWQ, QN_HF_NF4, QN_HF_FP8 } qn_hf_quant;

typedef struct qn_model_config {
    qn_arch arch;
    char name[128]; /* for people */
    uint32_t n_layers, hidden_size, n_heads, n_kv_heads, head_dim, ffn_size, n_vocab, max_ctx;
    float rms_eps, rope_theta;
    uint32_t rope_dim; /* rotated dimensions of a head */
    /* Rows of q and k (and their biases) are in llama.cpp's order, so rope turns adjacent pairs
     * (2i, 2i+1) instead of halves (i, i + rope_dim/2), with the same angle pos *
     * theta^(-2i/rope_dim). Row 2i+j of a head is row j*head_dim/2 + i of the Hugging Face head (j
     * = 0, 1). Only arch llama in GGUF; there q_norm and k_norm do not exist. */
    bool rope_adjacent;
    bool tie_embeddings, qkv_bias, o_bias, mlp_bias, qk_norm;
    /* experts; n_experts 0: dense */
    uint32_t n_experts, n_experts_active, expert_ffn_size, shared_ffn_size;
    bool norm_topk;
    uint8_t layer_is_moe[QN_LIMIT_LAYERS];
    uint32_t layer_window[QN_LIMIT_LAYERS]; /* 0: full attention */
    /* YaRN; factor 0: none. With it, max_ctx is at least factor * original_ctx. */
    float yarn_factor, yarn_attention_factor, yarn_beta_fast, yarn_beta_slow;
    uint32_t yarn_original_ctx;
    bool yarn_truncate;
    float rope_linear_factor; /* linear scaling; 1: none */
    /* llama 3 rope: factor 0: none */
    float llama3_factor, llama3_low, llama3_high;
    uint32_t llama3_original_ctx;
    /* Qwen v1 */
    bool dynamic_ntk, logn_attn;
    uint32_t seq_length;
    /* quantised Hugging Face weights */
    qn_hf_quant quant;
    uint32_t quant_bits, quant_group,
        quant_block_rows;         /* quant_group 0: one group for the whole row */
    bool quant_zero_is_minus_one; /* GPTQ v1: the file holds zero - 1 */
    bool quant_sym;
    int32_t bos_id; /* -1: none */
    int32_t eos_ids[QN_LIMIT_EOS_TOKENS];
    uint32_t n_eos;
} qn_model_config;

/* Reads and validates. Fails with one line naming file, field, found, wanted; QN_E_UNSUPPORTED for
 * models known and not done here. */
QN_MUST_USE qn_status qn_model_config_read(qn_model_config *out, const qn_weights *w, qn_err *err);
const char *qn_arch_name(qn_arch a);
uint64_t qn_model_config_n_params(const qn_model_config *c);

#endif
