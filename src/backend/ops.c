/* SPDX-License-Identifier: Apache-2.0
 * ops.c - names of the operations, as `quern inspect --plan` and `quern profile` print them. */
#include "backend/ops.h"

#include <stdio.h>
#include <string.h>

const char *qn_op_kind_name(qn_op_kind k)
{
    static const char *const names[QN_OP_N] = {[QN_OP_EMBED] = "embed",
                                               [QN_OP_RMSNORM] = "rmsnorm",
                                               [QN_OP_LINEAR] = "linear",
                                               [QN_OP_BIAS] = "bias",
                                               [QN_OP_ROPE] = "rope",
                                               [QN_OP_Q_SCALE] = "q_scale",
                                               [QN_OP_KV_STORE] = "kv_store",
                                               [QN_OP_ATTENTION] = "attention",
                                               [QN_OP_ADD] = "add",
                                               [QN_OP_SILU_MUL] = "silu_mul",
                                               [QN_OP_ROUTE] = "route",
                                               [QN_OP_EXPERTS] = "experts",
                                               [QN_OP_SHARED_GATE] = "shared_gate",
                                               [QN_OP_GATHER] = "gather",
                                               [QN_OP_QKV_STORE] = "qkv_store",
                                               [QN_OP_MOE] = "moe"};
    return (size_t)k < QN_OP_N ? names[k] : "?";
}

void qn_op_name(const qn_op *op, char *buf, size_t size)
{
    static const char *const fused[] = {"+norm", "+bias", "+residual", "+silu_mul"};
    (void)snprintf(buf, size, "%s", qn_op_kind_name(op->kind));
    for (size_t i = 0; i < QN_COUNT(fused); i++)
        if (op->fuse >> i & 1)
            (void)strncat(buf, fused[i], size - strlen(buf) - 1);
}
