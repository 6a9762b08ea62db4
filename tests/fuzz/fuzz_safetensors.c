/* SPDX-License-Identifier: Apache-2.0
 * fuzz_safetensors.c - libFuzzer target: any bytes as a safetensors file give an error in one line,
 * or tensors that tile the data.
 *
 * The header has a scanner of its own: what it accepts, the JSON library must accept too, with
 * as many members. */
#include "base/json.h"
#include "format/safetensors.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_json(const char *text, size_t n, size_t n_tensors)
{
    json_t *v;
    QN_ASSERT(qn_json_parse(&v, text, n, 8, "fuzz", NULL) == QN_OK && json_is_object(v));
    QN_ASSERT(json_object_size(v) == n_tensors + (json_object_get(v, "__metadata__") != NULL));
    json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    qn_arena arena;
    qn_tensor *tensors;
    size_t n_tensors, bytes = 0;
    size_t live = qn_mem_live(QN_MEM_MISC);
    qn_err err = {0};
    qn_arena_init(&arena, QN_LIMIT_MODEL_METADATA, QN_MEM_MISC);
    if (qn_safetensors_parse(data, n, "fuzz.safetensors", &arena, &tensors, &n_tensors, &err) ==
        QN_OK) {
        uint64_t header;
        memcpy(&header, data, sizeof header);
        for (size_t i = 0; i < n_tensors; i++) {
            QN_ASSERT((const uint8_t *)tensors[i].data == data + 8 + header + bytes);
            QN_ASSERT(tensors[i].name[0] && tensors[i].n_dims <= QN_LIMIT_TENSOR_DIMS);
            bytes += tensors[i].bytes;
        }
        QN_ASSERT(8 + header + bytes == n);
        check_json((const char *)data + 8, (size_t)header, n_tensors);
    } else {
        QN_ASSERT(strncmp(err.msg, "fuzz.safetensors: ", 18) == 0 && !strchr(err.msg, '\n'));
    }
    qn_arena_fini(&arena);
    QN_ASSERT(qn_mem_live(QN_MEM_MISC) == live);
    return 0;
}
