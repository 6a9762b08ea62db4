/* SPDX-License-Identifier: Apache-2.0
 * embed.c - a prompt as a vector. */
#include "server/embed.h"

#include <math.h>
#include <string.h>

typedef struct pooling {
    const qn_exchange *x;
    int layer;
    size_t last, n;
    float *out;
} pooling;

static bool on_hidden(void *arg, int layer, size_t pos, const float *hidden, size_t width)
{
    const pooling *p = arg;
    if (layer == p->layer && pos == p->last)
        memcpy(p->out, hidden, QN_MIN(width, p->n) * sizeof *hidden);
    return !qn_x_is_gone(p->x);
}

static qn_status normalise(float *v, size_t n, qn_err *err)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)v[i] * (double)v[i];
    if (!isfinite(sum) || sum <= 0)
        return qn_fail(err, QN_E_INTERNAL, "the model gives no finite vector for the input");
    double scale = 1 / sqrt(sum);
    for (size_t i = 0; i < n; i++)
        v[i] = (float)((double)v[i] * scale);
    return QN_OK;
}

qn_status qn_embed_score(const qn_exchange *x, qn_engine *e, const int32_t *ids, size_t n_ids,
                         qn_logits_fn on_logits, qn_hidden_fn on_row, void *arg, qn_err *err)
{
    if (!qn_x_is_gone(x))
        QN_TRY(qn_score(e, ids, n_ids, QN_EMBED_CHUNK, on_logits, on_row, arg, err));
    return qn_x_is_gone(x) ? qn_fail(err, QN_E_CANCELLED, "the client has gone") : QN_OK;
}

qn_status qn_embed(const qn_exchange *x, qn_engine *e, const int32_t *ids, size_t n_ids, float *out,
                   size_t n, qn_err *err)
{
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    pooling p = {x, info.n_layers + 1, n_ids - 1, n, out};
    QN_TRY(qn_embed_score(x, e, ids, n_ids, NULL, on_hidden, &p, err));
    return normalise(out, n, err);
}
