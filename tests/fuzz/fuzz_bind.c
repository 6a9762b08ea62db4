/* SPDX-License-Identifier: Apache-2.0
 * fuzz_bind.c - bytes as a GGUF file: whatever binds can be decoded, every row of every matrix. */
#include "base/mem.h"
#include "format/gguf.h"
#include "model/bind.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Reads all of v; a sanitizer sees a view that leaves its tensor. */
static void decode(const qn_weight *v)
{
    enum { MOST = 1 << 16 };
    static float row[MOST];
    if (!v->data || v->cols > MOST)
        return;
    for (size_t r = 0; r < v->rows; r++)
        qn_weight_decode(v, r, 1, row);
}

static void decode_layer(const qn_layer_weights *l, uint32_t n_experts)
{
    const qn_weight *all[] = {&l->attn_norm,   &l->q,         &l->k,          &l->v,
                              &l->o,           &l->q_bias,    &l->k_bias,     &l->v_bias,
                              &l->o_bias,      &l->q_norm,    &l->k_norm,     &l->ffn_norm,
                              &l->gate,        &l->up,        &l->down,       &l->gate_bias,
                              &l->up_bias,     &l->down_bias, &l->router,     &l->shared_router,
                              &l->shared_gate, &l->shared_up, &l->shared_down};
    for (size_t i = 0; i < QN_COUNT(all); i++)
        decode(all[i]);
    for (uint32_t e = 0; l->expert_gate && e < n_experts; e++) {
        decode(&l->expert_gate[e]);
        decode(&l->expert_up[e]);
        decode(&l->expert_down[e]);
    }
}

static void bind_and_decode(const qn_weights *w)
{
    qn_model_config c;
    qn_model_weights *m = NULL;
    qn_err err = {0};
    qn_status st = qn_model_config_read(&c, w, &err);
    if (st == QN_OK)
        st = qn_bind(&m, &c, w, &err);
    if (st != QN_OK) {
        QN_ASSERT(!m && err.status == st && err.msg[0] && !strchr(err.msg, '\n'));
        return;
    }
    decode(&m->embed);
    decode(&m->output_norm);
    decode(&m->output);
    for (uint32_t i = 0; i < m->n_layers; i++)
        decode_layer(&m->layers[i], c.n_experts);
    qn_model_weights_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char path[] = "model.gguf";
    qn_weights w = {.format = QN_FORMAT_GGUF, .path = path};
    qn_tensor *tensors = NULL;
    size_t n_tensors = 0;
    void *copy = qn_alloc(n + 1, QN_MEM_MISC); /* aligned as a mapping is */
    if (!copy)
        return 0;
    memcpy(copy, data, n);
    qn_arena_init(&w.arena, 16u << 20, QN_MEM_MISC);
    if (qn_gguf_parse(copy, n, path, &w.arena, &w.gguf, &tensors, &n_tensors, NULL) == QN_OK &&
        qn_weights_add(&w, tensors, n_tensors, path, NULL) == QN_OK)
        bind_and_decode(&w);
    qn_name_index_fini(&w.index);
    qn_free(w.tensors);
    qn_arena_fini(&w.arena);
    qn_free(copy);
    return 0;
}
