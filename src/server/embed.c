/* SPDX-License-Identifier: Apache-2.0
 * embed.c - a prompt as a vector. */
#include "server/embed.h"

#include "base/limits.h"
#include <math.h>
#include <string.h>

typedef struct pooling {
    int layer;
    size_t n;
    float *out;
} pooling;

static bool on_hidden(void *arg, int layer, size_t pos, const float *hidden, size_t width)
{
    const pooling *p = arg;
    (void)pos;
    if (layer == p->layer)
        memcpy(p->out, hidden, QN_MIN(width, p->n) * sizeof *hidden);
    return true;
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

qn_status qn_embed_check(const char *name, size_t n_tokens, qn_err *err)
{
    if (n_tokens <= QN_LIMIT_SCORED_TOKENS)
        return QN_OK;
    return qn_fail(err, QN_E_ARG, "%s: found %zu tokens in all, want at most %d in one request",
                   name, n_tokens, QN_LIMIT_SCORED_TOKENS);
}

qn_status qn_embed(const qn_exchange *x, qn_engine *e, const int32_t *ids, size_t n_ids, float *out,
                   size_t n, qn_err *err)
{
    qn_engine_info info;
    qn_engine_get_info(e, &info);
    pooling p = {info.n_layers + 1, n, out};
    const qn_scoring s = {.ids = ids,
                          .n_ids = n_ids,
                          .chunk = QN_EMBED_CHUNK,
                          .first = n_ids - 1,
                          .on_hidden = on_hidden,
                          .arg = &p};
    QN_TRY(qn_x_score(x, e, &s, err));
    return normalise(out, n, err);
}
