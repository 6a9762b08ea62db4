/* SPDX-License-Identifier: Apache-2.0
 * footprint.c - sizes of weights of other types, from their shapes. */
#include "model/footprint.h"

const char *qn_footprint_name(qn_footprint_type t)
{
    static const char *const names[QN_FOOTPRINT_N] = {"F32", "BF16", "Q8_0", "Q4_K_M", "Q4_0"};
    return names[t];
}

/* fine: of the matrices that carry more bits in a mixed type. */
static qn_dtype dtype_of(qn_footprint_type t, bool fine, size_t cols)
{
    static const qn_dtype plain[QN_FOOTPRINT_N] = {QN_F32, QN_BF16, QN_Q8_0, QN_Q4_K, QN_Q4_0};
    qn_dtype d = plain[t];
    if (fine && (t == QN_FOOTPRINT_Q4_K_M || t == QN_FOOTPRINT_Q4_0))
        d = QN_Q6_K;
    /* rows that are no multiple of 256, of 32 */
    if (cols % qn_dtype_get(d)->block_size != 0)
        d = d == QN_Q6_K ? QN_Q8_0 : d == QN_Q4_K ? QN_Q5_0 : d;
    return cols % qn_dtype_get(d)->block_size != 0 ? QN_F16 : d;
}

static uint64_t matrix(const qn_backend *b, const qn_weight *v, qn_footprint_type t, bool fine)
{
    if (!v->rows)
        return 0;
    const qn_weight as = {.dtype = dtype_of(t, fine, v->cols),
                          .rows = v->rows,
                          .cols = v->cols,
                          .total_rows = v->rows};
    uint32_t form;
    size_t bytes = 0;
    if (b->weight_form(&as, &form, &bytes))
        return bytes;
    return qn_dtype_row_bytes(as.dtype, as.cols, &bytes) ? (uint64_t)bytes * as.rows : 0;
}

static uint64_t vector(const qn_weight *v)
{
    return (uint64_t)v->rows * v->cols * sizeof(float);
}

/* The layers that Q4_K_M gives more bits: the first and last eighth, and every third between. */
static bool has_more_bits(uint32_t layer, uint32_t n)
{
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

uint64_t qn_footprint_bytes(const qn_model_config *c, const qn_model_weights *m,
                            const qn_backend *b, qn_footprint_type t)
{
    uint64_t sum = matrix(b, &m->output, t, true) + vector(&m->output_norm);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const qn_layer_weights *l = &m->layers[i];
        bool more = t == QN_FOOTPRINT_Q4_K_M && has_more_bits(i, m->n_layers);
        const qn_weight *plain[] = {&l->q,  &l->k,           &l->o,        &l->gate,
                                    &l->up, &l->shared_gate, &l->shared_up};
        const qn_weight *fine[] = {&l->v, &l->down, &l->shared_down};
        const qn_weight *vectors[] = {&l->attn_norm,    &l->q_bias,  &l->k_bias,    &l->v_bias,
                                      &l->o_bias,       &l->q_norm,  &l->k_norm,    &l->ffn_norm,
                                      &l->gate_bias,    &l->up_bias, &l->down_bias, &l->router,
                                      &l->shared_router};
        for (size_t k = 0; k < QN_COUNT(plain); k++)
            sum += matrix(b, plain[k], t, false);
        for (size_t k = 0; k < QN_COUNT(fine); k++)
            sum += matrix(b, fine[k], t, more);
        for (size_t k = 0; k < QN_COUNT(vectors); k++)
            sum += vector(vectors[k]);
        for (uint32_t e = 0; l->expert_gate && e < c->n_experts; e++)
            sum += matrix(b, &l->expert_gate[e], t, false) + matrix(b, &l->expert_up[e], t, false) +
                   matrix(b, &l->expert_down[e], t, more);
    }
    return sum;
}
