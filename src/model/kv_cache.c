/* SPDX-License-Identifier: Apache-2.0
 * kv_cache.c - allocation and copying of K/V blocks. */
#include "model/kv_cache.h"

size_t qn_kv_block_bytes(const qn_backend *b, const qn_kv_shape *s)
{
    return (size_t)2 * s->n_layers * b->kv_block_bytes(s->dtype, s->n_kv_heads, s->head_dim);
}

qn_status qn_kv_cache_new(qn_kv_cache **out, const qn_backend *b, qn_device *d,
                          const qn_kv_shape *s, uint32_t n_blocks, qn_err *err)
{
    *out = NULL;
    size_t one = b->kv_block_bytes(s->dtype, s->n_kv_heads, s->head_dim), bytes;
    if (!qn_mul_size(one, n_blocks, &bytes))
        return qn_fail_nomem(err, SIZE_MAX);
    qn_kv_cache *c = qn_calloc(1, sizeof *c, QN_MEM_KV);
    if (!c)
        return qn_fail_nomem(err, sizeof *c);
    *c = (qn_kv_cache){
        .backend = b, .n_layers = s->n_layers, .n_blocks = n_blocks, .block_bytes = one};
    c->layers = qn_calloc(s->n_layers, sizeof *c->layers, QN_MEM_KV);
    c->staging = qn_alloc(c->block_bytes, QN_MEM_KV);
    qn_status st = c->layers && c->staging ? QN_OK : qn_fail_nomem(err, c->block_bytes);
    for (uint32_t i = 0; st == QN_OK && i < s->n_layers; i++) {
        qn_kv_view *v = &c->layers[i];
        *v = (qn_kv_view){.dtype = s->dtype,
                          .n_blocks = n_blocks,
                          .n_kv_heads = s->n_kv_heads,
                          .head_dim = s->head_dim};
        st = b->buf_new(&v->k, d, bytes, QN_MEM_KV, err);
        if (st == QN_OK)
            st = b->buf_new(&v->v, d, bytes, QN_MEM_KV, err);
    }
    if (st != QN_OK) {
        qn_kv_cache_free(c);
        return st;
    }
    *out = c;
    return QN_OK;
}

void qn_kv_cache_free(qn_kv_cache *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; c->layers && i < c->n_layers; i++) {
        c->backend->buf_free(c->layers[i].k);
        c->backend->buf_free(c->layers[i].v);
    }
    qn_free(c->layers);
    qn_free(c->staging);
    qn_free(c);
}

qn_status qn_kv_cache_touch(qn_kv_cache *c, qn_err *err)
{
    static const uint8_t zero[1] = {0};
    size_t bytes = c->block_bytes * c->n_blocks;
    for (uint32_t i = 0; i < c->n_layers; i++)
        for (size_t at = 0; at < bytes; at += 4096) {
            QN_TRY(c->backend->upload(c->layers[i].k, at, zero, 1, err));
            QN_TRY(c->backend->upload(c->layers[i].v, at, zero, 1, err));
        }
    return QN_OK;
}

qn_status qn_kv_cache_copy_block(qn_kv_cache *c, uint32_t to, uint32_t from, qn_err *err)
{
    size_t n = c->block_bytes;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        qn_buf *bufs[2] = {c->layers[i].k, c->layers[i].v};
        for (int j = 0; j < 2; j++) {
            QN_TRY(c->backend->download(c->staging, bufs[j], (size_t)from * n, n, err));
            QN_TRY(c->backend->upload(bufs[j], (size_t)to * n, c->staging, n, err));
        }
    }
    return QN_OK;
}
