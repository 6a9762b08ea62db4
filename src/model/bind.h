/* SPDX-License-Identifier: Apache-2.0
 * bind.h - names to matrices: finds every tensor a config asks for, checks its exact shape, and
 * gives it as a qn_weight.
 *
 * Knows the names of Hugging Face folders (per-expert and packed experts, GPTQ, AWQ, NF4, FP8
 * parts, model.language_model. prefix, Qwen v1's transformer.h.N with fused c_attn) and of GGUF
 * files. A matrix that is not there has data NULL. Views borrow from the qn_weights. Threads: plain
 * data. */
#ifndef QN_MODEL_BIND_H
#define QN_MODEL_BIND_H

#include "model/config.h"
#include "tensor/weight.h"

typedef struct qn_layer_weights {
    /* vectors are [1, n] */
    qn_weight attn_norm, q, k, v, o, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm;
    qn_weight ffn_norm, gate, up, down, gate_bias, up_bias, down_bias;    /* dense */
    qn_weight router, shared_router, shared_gate, shared_up, shared_down; /* experts */
    qn_weight *expert_gate, *expert_up, *expert_down;                     /* [n_experts] or NULL */
} qn_layer_weights;

typedef struct qn_model_weights {
    qn_weight embed, output_norm, output; /* output == embed's matrix when tied */
    qn_layer_weights *layers;
    uint32_t n_layers;
    const float *rope_freqs; /* GGUF of Llama 3: inv_freq[i] is divided by [rope_dim / 2] of these;
                              * else NULL */
    /* tensors of the files that nothing asked for (vision, mtp and rotary buffers left out) */
    const char **unused;
    size_t n_unused;
    const uint8_t *is_used; /* one a tensor of the files */
    qn_arena arena;         /* holds all of the above */
} qn_model_weights;

QN_MUST_USE qn_status qn_bind(qn_model_weights **out, const qn_model_config *c, const qn_weights *w,
                              qn_err *err);
void qn_model_weights_free(qn_model_weights *m);

#endif
