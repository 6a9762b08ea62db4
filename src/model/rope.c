/* SPDX-License-Identifier: Apache-2.0
 * rope.c - rotary frequencies. Arithmetic is float32 where the reference's is: the differences add
 * up at long positions. */
#include "model/rope.h"

#include <math.h>
#include <string.h>

static const float two_pi = 6.28318530717958647692f;

static void plain_frequencies(float *inv, uint32_t dim, float theta)
{
    for (uint32_t i = 0; i < dim / 2; i++)
        inv[i] = 1.0f / powf(theta, (float)(2 * i) / (float)dim);
}

/* transformers _compute_yarn_parameters */
static void yarn(qn_rope *r, const qn_model_config *c)
{
    double dim = r->dim, base = c->rope_theta, ctx = c->yarn_original_ctx;
    double bound[2], rotations[2] = {c->yarn_beta_fast, c->yarn_beta_slow};
    for (int i = 0; i < 2; i++)
        bound[i] = dim * log(ctx / (rotations[i] * (double)two_pi)) / (2 * log(base));
    double low = c->yarn_truncate ? floor(bound[0]) : bound[0];
    double high = c->yarn_truncate ? ceil(bound[1]) : bound[1];
    low = fmax(low, 0);
    high = fmin(high, dim - 1);
    if (low == high)
        high += 0.001;
    for (uint32_t i = 0; i < r->dim / 2; i++) {
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = fminf(fmaxf(ramp, 0), 1);
        float keep = 1 - ramp;
        float interpolated =
            1.0f / (c->yarn_factor * powf(r->theta, (float)(2 * i) / (float)r->dim));
        r->scaled[i] = interpolated * (1 - keep) + r->native[i] * keep;
    }
    r->attention_factor = c->yarn_attention_factor;
}

/* transformers _compute_llama3_parameters */
static void llama3(qn_rope *r, const qn_model_config *c)
{
    float ctx = (float)c->llama3_original_ctx;
    float long_wave = ctx / c->llama3_low, short_wave = ctx / c->llama3_high;
    for (uint32_t i = 0; i < r->dim / 2; i++) {
        float f = r->native[i], wave = two_pi / f;
        float smooth = (ctx / wave - c->llama3_low) / (c->llama3_high - c->llama3_low);
        if (wave > long_wave)
            r->scaled[i] = f / c->llama3_factor;
        else if (wave < short_wave)
            r->scaled[i] = f;
        else
            r->scaled[i] = (1 - smooth) * f / c->llama3_factor + smooth * f;
    }
}

void qn_rope_init(qn_rope *r, const qn_model_config *c, const float *divisors)
{
    *r = (qn_rope){.dim = c->rope_dim,
                   .theta = c->rope_theta,
                   .attention_factor = 1,
                   .dynamic_ntk = c->dynamic_ntk,
                   .logn = c->logn_attn,
                   .seq_length = c->seq_length};
    plain_frequencies(r->native, r->dim, r->theta);
    memcpy(r->scaled, r->native, sizeof r->scaled);
    if (divisors) {
        r->always_scaled = true;
        for (uint32_t i = 0; i < r->dim / 2; i++)
            r->scaled[i] = r->native[i] / divisors[i];
    } else if (c->yarn_factor > 0) {
        r->original_ctx = c->yarn_original_ctx;
        yarn(r, c);
    } else if (c->llama3_factor > 0) {
        r->always_scaled = true;
        llama3(r, c);
    } else if (c->rope_linear_factor > 1) {
        r->always_scaled = true;
        for (uint32_t i = 0; i < r->dim / 2; i++)
            r->scaled[i] = r->native[i] / c->rope_linear_factor;
    }
}

qn_rope_choice qn_rope_choose(const qn_rope *r, qn_rope_scaling mode, uint32_t len)
{
    qn_rope_choice choice = {.scaled = r->always_scaled, .ntk_alpha = 1};
    if (r->original_ctx)
        choice.scaled = mode == QN_ROPE_ALWAYS || (mode == QN_ROPE_AUTO && len > r->original_ctx);
    if (r->dynamic_ntk && len > r->seq_length && mode != QN_ROPE_NEVER) {
        double steps = ceil(log2((double)len / r->seq_length) + 1);
        choice.ntk_alpha = (float)fmax(exp2(steps) - 1, 1);
    }
    return choice;
}

float qn_rope_frequencies(const qn_rope *r, qn_rope_choice choice, float *inv_freq)
{
    if (choice.ntk_alpha > 1) {
        float d = (float)r->dim;
        plain_frequencies(inv_freq, r->dim, r->theta * powf(choice.ntk_alpha, d / (d - 2)));
        return 1;
    }
    memcpy(inv_freq, choice.scaled ? r->scaled : r->native, r->dim / 2 * sizeof *inv_freq);
    return choice.scaled ? r->attention_factor : 1;
}

void qn_rope_row(const qn_rope *r, const float *inv_freq, float factor, uint32_t pos, float *out)
{
    uint32_t half = r->dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        float angle = (float)pos * inv_freq[i];
        out[i] = cosf(angle) * factor;
        out[half + i] = sinf(angle) * factor;
    }
}

float qn_rope_q_scale(const qn_rope *r, uint32_t pos)
{
    if (!r->logn || pos + 1 <= r->seq_length)
        return 1;
    return (float)(log((double)pos + 1) / log((double)r->seq_length));
}
