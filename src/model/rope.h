/* SPDX-License-Identifier: Apache-2.0
 * rope.h - rotary angles: which scaling a sequence gets, and one row of cosines and sines for a
 * position.
 *
 * The choice is made once per sequence, from the length it may reach, and never changes while its K
 * lie in the cache:
 *   native   the trained frequencies
 *   scaled   linear, YaRN or Llama 3 factors of the config
 *   ntk      Qwen v1: base * alpha^(d/(d-2)), alpha = 2^ceil(log2(len/seq_length) + 1) - 1
 * A row is computed in float32 as the reference does (position * inv_freq rounded to float32, then
 * cos and sin), once per step for all layers. Threads: plain data; qn_rope_row is pure.
 * Sources: transformers modeling_rope_utils.py; Qwen-7B modeling_qwen.py; YaRN, arXiv
 * 2309.00071. */
#ifndef QN_MODEL_ROPE_H
#define QN_MODEL_ROPE_H

#include "model/config.h"

#define QN_MAX_ROPE_DIM 256

/* One sequence's choice. */
typedef struct qn_rope_choice {
    bool scaled;
    float ntk_alpha; /* 1: none */
} qn_rope_choice;

typedef struct qn_rope {
    uint32_t dim;          /* rotated dimensions of a head */
    uint32_t original_ctx; /* longest sequence that needs no scaling; 0: no scaling in the config */
    float theta;
    float native[QN_MAX_ROPE_DIM / 2], scaled[QN_MAX_ROPE_DIM / 2];
    float attention_factor; /* of the scaled variant */
    bool always_scaled;     /* linear and Llama 3: the model was trained so */
    bool dynamic_ntk, logn;
    uint32_t seq_length;
} qn_rope;

/* divisors: [dim / 2] per-frequency factors that a file brings along (GGUF of Llama 3), or NULL. */
void qn_rope_init(qn_rope *r, const qn_model_config *c, const float *divisors);
/* len: tokens the sequence may reach (Qwen v1: its prompt's). */
qn_rope_choice qn_rope_choose(const qn_rope *r, qn_rope_scaling mode, uint32_t len);
/* inv_freq[dim / 2] of a choice, and the factor cosines and sines are multiplied with. */
float qn_rope_frequencies(const qn_rope *r, qn_rope_choice choice, float *inv_freq);
/* out[dim]: cos(pos * inv_freq) * factor, then the sines. */
void qn_rope_row(const qn_rope *r, const float *inv_freq, float factor, uint32_t pos, float *out);
/* What a query at pos is multiplied with (Qwen v1 log n; else 1). */
float qn_rope_q_scale(const qn_rope *r, uint32_t pos);

#endif
