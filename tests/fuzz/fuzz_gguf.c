/* SPDX-License-Identifier: Apache-2.0
 * fuzz_gguf.c - libFuzzer target: any bytes as a GGUF file give an error in one line, or an
 * object all of which can be read. */
#include "format/gguf.h"
#include "tensor/qblock.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static double read_value(const qn_gguf_value *v)
{
    double sum = (double)v->key.n;
    if (v->type == QN_GGUF_STRING)
        for (size_t i = 0; i < v->v.s.n; i++)
            sum += v->v.s.p[i];
    for (size_t i = 0; i < v->n; i++)
        sum += v->strings ? (double)v->strings[i].n
                          : (double)qn_gguf_item_i64(v, i) + qn_gguf_item_f64(v, i);
    return sum;
}

/* Decodes the first row. */
static void read_tensor(const qn_tensor *t)
{
    size_t row_bytes, cols = t->dims[t->n_dims - 1];
    float out[1024];
    QN_ASSERT(qn_dtype_row_bytes(t->dtype, cols, &row_bytes) && row_bytes <= t->bytes);
    if (cols <= QN_COUNT(out))
        qn_qblock_decode(t->dtype, t->data, cols, out);
    volatile uint8_t last = ((const uint8_t *)t->data)[t->bytes - 1];
    (void)last;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    qn_arena arena;
    qn_gguf_meta *meta;
    qn_tensor *tensors;
    size_t n_tensors;
    size_t live = qn_mem_live(QN_MEM_MISC);
    qn_err err = {0};
    qn_arena_init(&arena, QN_LIMIT_MODEL_METADATA, QN_MEM_MISC);
    if (qn_gguf_parse(data, n, "fuzz.gguf", &arena, &meta, &tensors, &n_tensors, &err) == QN_OK) {
        volatile double sum = 0;
        for (size_t i = 0; i < meta->n_values; i++)
            sum = sum + read_value(&meta->values[i]);
        for (size_t i = 0; i < n_tensors; i++)
            read_tensor(&tensors[i]);
    } else {
        QN_ASSERT(strncmp(err.msg, "fuzz.gguf: ", 11) == 0 && !strchr(err.msg, '\n'));
    }
    qn_arena_fini(&arena);
    QN_ASSERT(qn_mem_live(QN_MEM_MISC) == live);
    return 0;
}
