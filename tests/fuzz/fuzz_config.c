/* SPDX-License-Identifier: Apache-2.0
 * fuzz_config.c - bytes as config.json: whatever is accepted keeps every promise of config.h, and
 * gives finite rotary angles.
 *
 * A key "generation_config" inside stands for the file of that name. */
#include "base/json.h"
#include "model/bind.h"
#include "model/rope.h"

#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_rope(const qn_model_config *c)
{
    static const qn_rope_scaling modes[] = {QN_ROPE_AUTO, QN_ROPE_ALWAYS, QN_ROPE_NEVER};
    float freq[QN_MAX_ROPE_DIM / 2];
    qn_rope r;
    qn_rope_init(&r, c, NULL);
    for (size_t i = 0; i < QN_COUNT(modes); i++) {
        qn_rope_choice choice = qn_rope_choose(&r, modes[i], c->max_ctx);
        float factor = qn_rope_frequencies(&r, choice, freq);
        QN_ASSERT(isfinite(factor) && factor > 0);
        for (uint32_t k = 0; k < c->rope_dim / 2; k++)
            QN_ASSERT(isfinite(freq[k]));
    }
}

static void check_config(const qn_model_config *c)
{
    QN_ASSERT(c->n_layers >= 1 && c->n_layers <= QN_LIMIT_LAYERS);
    QN_ASSERT(c->n_kv_heads >= 1 && c->n_heads % c->n_kv_heads == 0);
    QN_ASSERT(c->head_dim >= 2 && c->head_dim <= 256 && c->head_dim % 2 == 0);
    QN_ASSERT(c->rope_dim >= 2 && c->rope_dim <= c->head_dim && c->rope_dim % 2 == 0);
    QN_ASSERT(c->hidden_size >= 1 && c->hidden_size <= 65536 && c->max_ctx >= 1);
    QN_ASSERT(c->rms_eps > 0 && c->rms_eps < 1 && c->rope_theta >= 1);
    QN_ASSERT(c->n_experts <= QN_LIMIT_EXPERTS && c->n_experts_active <= QN_LIMIT_EXPERTS);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        QN_ASSERT(c->layer_is_moe[i] ? c->expert_ffn_size > 0 && c->n_experts_active > 0 &&
                                           c->n_experts_active <= c->n_experts
                                     : c->ffn_size > 0);
    }
    QN_ASSERT(c->n_eos <= QN_LIMIT_EOS_TOKENS && c->bos_id < (int64_t)c->n_vocab);
    for (uint32_t i = 0; i < c->n_eos; i++)
        QN_ASSERT(c->eos_ids[i] >= 0 && (uint32_t)c->eos_ids[i] < c->n_vocab);
    QN_ASSERT(memchr(c->name, 0, sizeof c->name));
    QN_ASSERT(qn_model_config_n_params(c) > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    json_t *o = NULL;
    if (qn_json_parse(&o, (const char *)data, n, 0, "config.json", NULL) != QN_OK)
        return 0;
    char path[] = "model";
    qn_weights w = {.format = QN_FORMAT_HF, .path = path, .config = o};
    w.generation_config = json_object_get(o, "generation_config");
    qn_err err = {0};
    qn_model_config c;
    qn_status st = qn_model_config_read(&c, &w, &err);
    if (st == QN_OK) {
        qn_model_weights *m = NULL;
        check_config(&c);
        check_rope(&c);
        QN_ASSERT(qn_bind(&m, &c, &w, &err) == QN_E_FORMAT && !m); /* there are no tensors */
    } else {
        QN_ASSERT(err.status == st && err.msg[0] && !strchr(err.msg, '\n'));
    }
    json_decref(o);
    return 0;
}
