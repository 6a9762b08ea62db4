/* SPDX-License-Identifier: Apache-2.0
 * test_bind.c - names to matrices: every golden model binds completely; layouts no golden has;
 * damaged models are refused.
 *
 * The strongest check is a count: the elements of all bound matrices and vectors are exactly the
 * parameters of the config, and no tensor of the file is left over. */
#include "check.h"

#include "base/file.h"
#include "model/bind.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct model {
    qn_weights *w;
    qn_model_config c;
    qn_model_weights *m;
    qn_err err;
} model;

/* The first of the places where the goldens may be that holds name; a model folder counts with its
 * config.json. */
static bool golden_path(char *out, size_t size, const char *folder, const char *name)
{
    static const char *const roots[] = {"/tests/golden/", "/../shared/fixtures/",
                                        "/../../shared/fixtures/"};
    bool models = strcmp(folder, "models") == 0;
    for (size_t i = 0; i < QN_COUNT(roots); i++) {
        char file[600];
        snprintf(out, size, "%s%s%s/%s", QN_SOURCE_DIR, roots[i], i > 0 && models ? "" : folder,
                 name);
        snprintf(file, sizeof file, "%s%s", out, models ? "/config.json" : "");
        if (qn_file_exists(file))
            return true;
    }
    return false;
}

static qn_status load(model *x, const char *path)
{
    memset(x, 0, sizeof *x);
    qn_status st = qn_weights_open(&x->w, path, &x->err);
    if (st == QN_OK)
        st = qn_model_config_read(&x->c, x->w, &x->err);
    return st;
}

static void unload(model *x)
{
    qn_model_weights_free(x->m);
    qn_weights_free(x->w);
    memset(x, 0, sizeof *x);
}

static uint64_t elements(const qn_weight *v)
{
    if (!v->data)
        return 0;
    assert_true(v->rows > 0 && v->cols > 0);
    /* First and last row mean something. */
    float *row = malloc(v->cols * sizeof *row);
    for (size_t r = 0; r < v->rows; r += QN_MAX(v->rows - 1, 1)) {
        qn_weight_decode(v, r, 1, row);
        for (size_t i = 0; i < v->cols; i++)
            assert_true(isfinite(row[i]));
    }
    free(row);
    return (uint64_t)v->rows * v->cols;
}

static uint64_t layer_elements(const qn_layer_weights *l, uint32_t n_experts)
{
    const qn_weight *all[] = {&l->attn_norm, &l->q,           &l->k,          &l->v,
                              &l->o,         &l->q_bias,      &l->k_bias,     &l->v_bias,
                              &l->o_bias,    &l->q_norm,      &l->k_norm,     &l->gate,
                              &l->up,        &l->down,        &l->ffn_norm,   &l->gate_bias,
                              &l->router,    &l->up_bias,     &l->down_bias,  &l->shared_router,
                              &l->shared_up, &l->shared_gate, &l->shared_down};
    uint64_t n = 0;
    for (size_t i = 0; i < QN_COUNT(all); i++)
        n += elements(all[i]);
    for (uint32_t e = 0; l->expert_gate && e < n_experts; e++)
        n += elements(&l->expert_gate[e]) + elements(&l->expert_up[e]) +
             elements(&l->expert_down[e]);
    return n;
}

/* Everything bound, nothing left over, every parameter there. */
static void check_complete(const model *x)
{
    uint64_t n = elements(&x->m->embed) + elements(&x->m->output_norm);
    if (x->c.tie_embeddings)
        assert_ptr_equal(x->m->output.data, x->m->embed.data);
    else
        n += elements(&x->m->output);
    assert_int_equal(x->m->n_layers, x->c.n_layers);
    for (uint32_t i = 0; i < x->c.n_layers; i++)
        n += layer_elements(&x->m->layers[i], x->c.n_experts);
    assert_int_equal(n, qn_model_config_n_params(&x->c));
    for (size_t i = 0; i < x->m->n_unused; i++)
        print_error("unused: %s\n", x->m->unused[i]);
    assert_int_equal(x->m->n_unused, 0);
}

static void bind_whole(const char *path)
{
    model x;
    qn_status st = load(&x, path);
    if (st == QN_OK)
        st = qn_bind(&x.m, &x.c, x.w, &x.err);
    if (st != QN_OK)
        print_error("%s: %s\n", path, x.err.msg);
    assert_int_equal(st, QN_OK);
    check_complete(&x);
    unload(&x);
}

/* ---- goldens ---- */

static const char *const folders[] = {
    "llama-tied-bf16", "llama-untied-f32", "qwen2-awq4",      "qwen2-config-v5",
    "qwen2-gptq4",     "qwen2-gptq8",      "qwen2-nf4",       "qwen2-gptq4-actorder",
    "qwen2-sharded",   "qwen2-swa",        "qwen2-tied-f16",  "qwen2-tied-f32",
    "qwen2-yarn",      "qwen2moe",         "qwen2moe-sparse", "qwen2-untied-bf16",
    "qwen3-awq4",      "qwen3-f16",        "qwen3-fp8",       "qwen3-gptq4",
    "qwen3-nf4",       "qwen3-sharded",    "qwen3-swa",       "qwen3-tied-bf16",
    "qwen3-yarn",      "qwen3moe",         "qwen3moe-gptq4",  "qwen3-untied-f32",
    "qwen3moe-sparse",
};
static const char *const ggufs[] = {"qwen2.gguf", "qwen2moe.gguf", "qwen3.gguf", "qwen3moe.gguf"};
static const char *const hybrids[] = {"qwen3.5", "qwen3.5moe", "qwen3next"};

static void test_goldens(void **state)
{
    (void)state;
    char path[512];
    size_t n = 0;
    for (size_t i = 0; i < QN_COUNT(folders); i++) {
        if (golden_path(path, sizeof path, "models", folders[i])) {
            bind_whole(path);
            n++;
        }
    }
    for (size_t i = 0; i < QN_COUNT(ggufs); i++) {
        if (golden_path(path, sizeof path, "gguf", ggufs[i])) {
            bind_whole(path);
            n++;
        }
    }
    print_message("%zu of %zu models bound\n", n, QN_COUNT(folders) + QN_COUNT(ggufs));
    if (n == 0) {
        print_message("skipped: no golden models found\n");
        skip();
    }
}

static void test_hybrids(void **state)
{
    (void)state;
    char path[512];
    size_t n = 0;
    for (size_t i = 0; i < QN_COUNT(hybrids); i++) {
        model x;
        if (!golden_path(path, sizeof path, "models", hybrids[i]))
            continue;
        assert_int_equal(load(&x, path), QN_E_UNSUPPORTED);
        assert_non_null(strstr(x.err.msg, "hybrid models (gated delta net) are not supported yet"));
        unload(&x);
        n++;
    }
    if (n == 0) {
        print_message("skipped: no hybrid models found\n");
        skip();
    }
}

/* ---- folders written here ---- */

/* One tensor a word, "name:DTYPE:d0,d1"; element i of the whole file is i (F32) or i's low bits. */
typedef struct folder {
    char dir[40], config[64], tensors[64];
} folder;

static size_t dtype_bytes(const char *t)
{
    return strcmp(t, "F32") == 0 || strcmp(t, "I32") == 0 ? 4 : strcmp(t, "U8") == 0 ? 1 : 2;
}

static void write_tensors(qn_str *out, const char *list)
{
    qn_str head = {0}, data = {0};
    float next = 0;
    char name[160], type[8], shape[64];
    int used;
    qn_str_addc(&head, '{');
    while (sscanf(list, " %159[^:]:%7[^:]:%63s%n", name, type, shape, &used) == 3) {
        size_t n = 1, start = data.n;
        for (char *p = shape; *p; p += *p == ',') {
            n *= strtoul(p, &p, 10);
        }
        for (size_t i = 0; i < n; i++) {
            float v = next++;
            qn_str_add(&data, &v, dtype_bytes(type));
        }
        qn_str_addf(&head, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                    start ? "," : "", name, type, shape, start, data.n);
        list += used;
    }
    qn_str_addc(&head, '}');
    while (head.n % 8)
        qn_str_addc(&head, ' ');
    uint64_t n = head.n;
    qn_str_add(out, &n, 8);
    qn_str_add(out, head.p, head.n);
    qn_str_add(out, data.p, data.n);
    qn_str_fini(&head);
    qn_str_fini(&data);
}

static void make_folder(folder *f, const char *config, const char *tensors)
{
    qn_str s = {0};
    strcpy(f->dir, "/tmp/quern-bind-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->config, sizeof f->config, "%s/config.json", f->dir);
    snprintf(f->tensors, sizeof f->tensors, "%s/model.safetensors", f->dir);
    write_tensors(&s, tensors);
    assert_int_equal(qn_file_write(f->config, config, strlen(config), NULL), QN_OK);
    assert_int_equal(qn_file_write(f->tensors, s.p, s.n, NULL), QN_OK);
    qn_str_fini(&s);
}

static void remove_folder(folder *f)
{
    unlink(f->config);
    unlink(f->tensors);
    rmdir(f->dir);
}

/* Opens, binds, and gives the status; x stays loaded for looking at. */
static qn_status bind_made(model *x, const char *config, const char *tensors)
{
    folder f;
    make_folder(&f, config, tensors);
    qn_status st = load(x, f.dir);
    remove_folder(&f);
    return st == QN_OK ? qn_bind(&x->m, &x->c, x->w, &x->err) : st;
}

#define SMALL                                                                                      \
    "\"hidden_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":2,"                         \
    "\"num_key_value_heads\":1,\"intermediate_size\":6,\"vocab_size\":5"
#define QWEN2   "{\"model_type\":\"qwen2\",\"tie_word_embeddings\":true," SMALL "}"
#define ENDS(p) p "embed_tokens.weight:F32:5,8 " p "norm.weight:F32:8 "
#define ATTENTION(p)                                                                               \
    p "layers.0.input_layernorm.weight:F32:8 " p "layers.0.self_attn.q_proj.weight:F32:8,8 " p     \
      "layers.0.self_attn.k_proj.weight:F32:4,8 " p "layers.0.self_attn.v_proj.weight:F32:4,8 " p  \
      "layers.0.self_attn.o_proj.weight:F32:8,8 " p                                                \
      "layers.0.post_attention_layernorm.weight:F32:8 "
#define QKV_BIAS(p)                                                                                \
    p "layers.0.self_attn.q_proj.bias:F32:8 " p "layers.0.self_attn.k_proj.bias:F32:4 " p          \
      "layers.0.self_attn.v_proj.bias:F32:4 "
#define MLP(p)                                                                                     \
    p "layers.0.mlp.gate_proj.weight:F32:6,8 " p "layers.0.mlp.up_proj.weight:F32:6,8 " p          \
      "layers.0.mlp.down_proj.weight:F32:8,6 "
#define WHOLE(p) ENDS(p) ATTENTION(p) QKV_BIAS(p) MLP(p)

static void bind_good(model *x, const char *config, const char *tensors)
{
    qn_status st = bind_made(x, config, tensors);
    if (st != QN_OK)
        print_error("%s\n", x->err.msg);
    assert_int_equal(st, QN_OK);
}

static void test_prefixes(void **state)
{
    (void)state;
    static const char *const tensors[] = {WHOLE("model."), WHOLE("model.language_model."),
                                          WHOLE("language_model.model."), WHOLE("")};
    for (size_t i = 0; i < QN_COUNT(tensors); i++) {
        model x;
        bind_good(&x, QWEN2, tensors[i]);
        check_complete(&x);
        unload(&x);
    }
}

static float first(const qn_weight *v)
{
    float row[64];
    assert_true(v->cols <= 64);
    qn_weight_decode(v, 0, 1, row);
    return row[0];
}

/* experts [2, 2*3, 8] and [2, 8, 3]: gate rows first, then up. */
static void test_packed_experts(void **state)
{
    (void)state;
    model x;
    bind_good(&x,
              "{\"model_type\":\"qwen2_moe\",\"tie_word_embeddings\":true,\"num_experts\":2,"
              "\"num_experts_per_tok\":1,\"moe_intermediate_size\":3,"
              "\"shared_expert_intermediate_size\":6," SMALL "}",
              "model.layers.0.mlp.experts.gate_up_proj:F32:2,6,8 "
              "model.layers.0.mlp.experts.down_proj:F32:2,8,3 "
              "model.layers.0.mlp.gate.weight:F32:2,8 "
              "model.layers.0.mlp.shared_expert_gate.weight:F32:1,8 "
              "model.layers.0.mlp.shared_expert.gate_proj.weight:F32:6,8 "
              "model.layers.0.mlp.shared_expert.up_proj.weight:F32:6,8 "
              "model.layers.0.mlp.shared_expert.down_proj.weight:F32:8,6 " ENDS("model.")
                  ATTENTION("model.") QKV_BIAS("model."));
    check_complete(&x);
    const qn_layer_weights *l = &x.m->layers[0];
    assert_true(first(&l->expert_gate[0]) == 0 && first(&l->expert_up[0]) == 24);
    assert_true(first(&l->expert_gate[1]) == 48 && first(&l->expert_up[1]) == 72);
    assert_true(first(&l->expert_down[0]) == 96 && first(&l->expert_down[1]) == 120);
    assert_int_equal(l->expert_gate[1].rows, 3);
    assert_int_equal(l->expert_down[1].rows, 8);
    unload(&x);
}

/* c_attn [24, 8]: q, k, v; w2 is the gate. */
static void test_qwen_v1(void **state)
{
    (void)state;
    model x;
    bind_good(
        &x,
        "{\"model_type\":\"qwen\",\"hidden_size\":8,\"num_hidden_layers\":1,"
        "\"num_attention_heads\":2,\"kv_channels\":4,\"intermediate_size\":12,"
        "\"vocab_size\":5,\"seq_length\":64}",
        "transformer.h.0.attn.c_attn.weight:F32:24,8 transformer.h.0.attn.c_attn.bias:F32:24 "
        "transformer.h.0.mlp.w1.weight:F32:6,8 transformer.h.0.mlp.w2.weight:F32:6,8 "
        "transformer.h.0.attn.c_proj.weight:F32:8,8 transformer.h.0.mlp.c_proj.weight:F32:8,6 "
        "transformer.h.0.ln_1.weight:F32:8 transformer.h.0.ln_2.weight:F32:8 "
        "transformer.wte.weight:F32:5,8 transformer.ln_f.weight:F32:8 lm_head.weight:F32:5,8 "
        "transformer.h.0.attn.rotary_emb.inv_freq:F32:2");
    check_complete(&x);
    const qn_layer_weights *l = &x.m->layers[0];
    assert_true(first(&l->q) == 0 && first(&l->k) == 64 && first(&l->v) == 128);
    assert_true(first(&l->q_bias) == 192 && first(&l->k_bias) == 200 && first(&l->v_bias) == 208);
    assert_int_equal(l->v_bias.cols, 8);
    assert_true(first(&l->up) == 216 && first(&l->gate) == 264);
    unload(&x);
}

static void test_unused(void **state)
{
    (void)state;
    model x;
    bind_good(&x, QWEN2,
              WHOLE("model.") "extra.weight:F32:3 model.visual.patch.weight:F32:2 "
                              "mtp.fc.weight:F32:2 model.layers.7.mlp.up_proj.weight:F32:6,8");
    assert_int_equal(x.m->n_unused, 2);
    assert_string_equal(x.m->unused[0], "extra.weight");
    assert_string_equal(x.m->unused[1], "model.layers.7.mlp.up_proj.weight");
    unload(&x);
}

static void test_refused_folders(void **state)
{
    (void)state;
    static const struct {
        const char *config, *tensors, *want;
        qn_status status;
    } rows[] = {
        {QWEN2, ENDS("model.") ATTENTION("model.") QKV_BIAS("model."),
         "tensor 'model.layers.0.mlp.gate_proj.weight' is missing", QN_E_FORMAT},
        {QWEN2, ENDS("model.") ATTENTION("model.") MLP("model."),
         "tensor 'model.layers.0.self_attn.q_proj.bias' is missing", QN_E_FORMAT},
        {QWEN2, ATTENTION("model."), "tensor 'model.embed_tokens.weight' is missing", QN_E_FORMAT},
        {"{\"model_type\":\"qwen2\"," SMALL "}", WHOLE("model."),
         "tensor 'lm_head.weight' is missing", QN_E_FORMAT},
        {QWEN2, "model.embed_tokens.weight:F32:8,5 model.norm.weight:F32:8",
         "tensor 'model.embed_tokens.weight': config wants [5, 8], file has [8, 5]", QN_E_FORMAT},
        {QWEN2, "model.embed_tokens.weight:F32:5,8 model.norm.weight:F32:9",
         "tensor 'model.norm.weight': config wants [8], file has [9]", QN_E_FORMAT},
        {QWEN2, "model.embed_tokens.weight:F32:40 model.norm.weight:F32:8",
         "config wants [5, 8], file has [40]", QN_E_FORMAT},
        {QWEN2, "model.embed_tokens.weight:U8:5,8 model.norm.weight:F32:8",
         "tensor 'model.embed_tokens.weight' is U8, want F32, F16, BF16", QN_E_UNSUPPORTED},
        {QWEN2, "model.embed_tokens.weight:F32:5,8 model.norm.weight:I32:8",
         "tensor 'model.norm.weight' is I32, want F32, F16 or BF16", QN_E_UNSUPPORTED},
        {"{\"model_type\":\"qwen2\",\"tie_word_embeddings\":true,\"quantization_config\":"
         "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":8}," SMALL "}",
         ENDS("model.") "model.layers.0.input_layernorm.weight:F32:8",
         "tensor 'model.layers.0.self_attn.q_proj.qweight' is missing", QN_E_FORMAT},
    };
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
        model x;
        qn_status st = bind_made(&x, rows[i].config, rows[i].tensors);
        if (st != rows[i].status || !strstr(x.err.msg, rows[i].want))
            print_error("want: %s\nhave: %s\n", rows[i].want, x.err.msg);
        assert_int_equal(st, rows[i].status);
        assert_non_null(strstr(x.err.msg, rows[i].want));
        assert_null(x.m);
        unload(&x);
    }
}

/* ---- goldens, damaged in memory ---- */

typedef struct damage {
    const char *folder, *tensor; /* folder: or a GGUF file */
    char what; /* 'd': first dimension + 1; 't': type; 'b': replace the bytes at `at` */
    size_t at;
    const char *bytes;
    size_t n;
    const char *want;
} damage;

#define L        "model.layers.0.mlp.up_proj"
#define NF       L ".weight.quant_state.bitsandbytes__nf4"
#define BYTES(s) s, sizeof(s) - 1
static const damage damages[] = {
    {"qwen2-gptq4", L ".qweight", 'd', 0, NULL, 0, "config wants [8, 192], file has [9, 192]"},
    {"qwen2-gptq4", L ".qzeros", 'd', 0, NULL, 0, "config wants [2, 24], file has [3, 24]"},
    {"qwen2-gptq4", L ".scales", 'd', 0, NULL, 0, "config wants [2, 192], file has [3, 192]"},
    {"qwen2-gptq4", L ".scales", 't', 0, NULL, 0, "is I64, want F32, F16 or BF16"},
    {"qwen2-gptq4", L ".g_idx", 'd', 0, NULL, 0, "config wants [64], file has [65]"},
    {"qwen2-gptq4", L ".g_idx", 'b', 4, BYTES("\x02\0\0\0"), "element 1 is 2, want 0 to 1"},
    {"qwen2-gptq4", L ".g_idx", 'b', 252, BYTES("\xff\xff\xff\xff"), "element 63 is -1, want 0"},
    {"qwen2-awq4", L ".qweight", 'd', 0, NULL, 0, "config wants [64, 24], file has [65, 24]"},
    {"qwen2-awq4", L ".qzeros", 't', 0, NULL, 0, "is I64, want I32"},
    {"qwen2-nf4", L ".weight.absmax", 'd', 0, NULL, 0, "want [192]"},
    {"qwen2-nf4", L ".weight.nested_absmax", 'd', 0, NULL, 0, "config wants [1], file has [2]"},
    {"qwen2-nf4", L ".weight.nested_quant_map", 't', 0, NULL, 0, "is I64, want F32"},
    {"qwen2-nf4", L ".weight.quant_map", 'b', 0, BYTES("\0\0\xc0\x7f"), "element 0 is not finite"},
    {"qwen2-nf4", NF, 'b', 0, BYTES("["), "not valid JSON"},
    {"qwen2-nf4", NF, 'b', 0, BYTES("{\"quant_type\": \"fp4"), "quant_type 'fp4', blocksize 64"},
    {"qwen3-nf4", L ".weight.absmax", 'd', 0, NULL, 0, "file has [161]"},
    {"qwen3-fp8", L ".weight_scale_inv", 'd', 0, NULL, 0, "config wants [5, 2], file has [6, 2]"},
    {"qwen3-fp8", L ".weight", 'd', 0, NULL, 0, "config wants [160, 64], file has [161, 64]"},
    {"qwen3-f16", "model.layers.2.self_attn.k_norm.weight", 'd', 0, NULL, 0, "config wants [16]"},
    {"qwen3moe.gguf", "blk.1.ffn_gate_exps.weight", 'd', 0, NULL, 0,
     "config wants [8, 32, 64], file has [9, 32, 64]"},
    {"qwen3moe.gguf", "blk.0.ffn_down_exps.weight", 'd', 0, NULL, 0, "file has [9, 64, 32]"},
    {"qwen3moe.gguf", "blk.0.ffn_up_exps.weight", 't', 0, NULL, 0,
     "is I64, want F32, F16, BF16 or"},
    {"qwen3moe.gguf", "blk.0.ffn_gate_inp.weight", 'd', 0, NULL, 0, "config wants [8, 64]"},
    {"qwen2moe.gguf", "blk.0.ffn_gate_inp_shexp.weight", 'd', 0, NULL, 0, "config wants [64]"},
    {"qwen2moe.gguf", "blk.1.ffn_up_shexp.weight", 'd', 0, NULL, 0, "config wants [256, 64]"},
    {"qwen3.gguf", "blk.1.attn_q_norm.weight", 'd', 0, NULL, 0, "config wants [32], file has [33]"},
    {"qwen2.gguf", "output_norm.weight", 'd', 0, NULL, 0, "config wants [64], file has [65]"},
    {"qwen2.gguf", "blk.1.attn_k.bias", 't', 0, NULL, 0, "is I64, want F32, F16 or BF16"},
};

static void run_damage(const damage *d, const char *path)
{
    model x;
    uint8_t *copy = NULL;
    assert_int_equal(load(&x, path), QN_OK);
    qn_tensor *t = (qn_tensor *)qn_weights_find(x.w, d->tensor);
    assert_non_null(t);
    if (d->what == 'd') {
        t->dims[0]++;
    } else if (d->what == 't') {
        t->dtype = QN_I64;
    } else {
        copy = malloc(t->bytes);
        memcpy(copy, t->data, t->bytes);
        assert_true(d->at + d->n <= t->bytes);
        memcpy(copy + d->at, d->bytes, d->n);
        t->data = copy;
    }
    qn_status st = qn_bind(&x.m, &x.c, x.w, &x.err);
    if (st == QN_OK || !strstr(x.err.msg, d->want))
        print_error("%s %s\nwant: %s\nhave: %s\n", d->folder, d->tensor, d->want, x.err.msg);
    assert_int_not_equal(st, QN_OK);
    assert_non_null(strstr(x.err.msg, d->want));
    assert_non_null(strstr(x.err.msg, d->tensor));
    unload(&x);
    free(copy);
}

static void test_damaged_goldens(void **state)
{
    (void)state;
    char path[512];
    size_t n = 0;
    for (size_t i = 0; i < QN_COUNT(damages); i++) {
        bool gguf = strstr(damages[i].folder, ".gguf") != NULL;
        if (golden_path(path, sizeof path, gguf ? "gguf" : "models", damages[i].folder)) {
            run_damage(&damages[i], path);
            n++;
        }
    }
    if (n == 0) {
        print_message("skipped: no golden models found\n");
        skip();
    }
}

/* A config that asks for something else than the file holds: each number of the config is tied to
 * some tensor's shape. */
static void test_changed_configs(void **state)
{
    (void)state;
    char path[512];
    if (!golden_path(path, sizeof path, "models", "qwen2moe-sparse")) {
        print_message("skipped: qwen2moe-sparse not found\n");
        skip();
    }
    for (int k = 0; k < 10; k++) {
        model x;
        assert_int_equal(load(&x, path), QN_OK);
        qn_model_config *c = &x.c;
        uint32_t *const numbers[] = {
            &c->n_layers, &c->hidden_size, &c->n_heads,   &c->n_kv_heads,      &c->head_dim,
            &c->ffn_size, &c->n_vocab,     &c->n_experts, &c->shared_ffn_size, &c->expert_ffn_size};
        ++*numbers[k];
        qn_status st = qn_bind(&x.m, c, x.w, &x.err);
        assert_int_equal(st, QN_E_FORMAT);
        assert_non_null(strstr(x.err.msg, "tensor '"));
        unload(&x);
    }
}

/* A tensor nobody asks for, under the name of a factor that must not be forgotten. */
static void test_matrix_scale_is_refused(void **state)
{
    (void)state;
    char path[512];
    model x;
    if (!golden_path(path, sizeof path, "gguf", "qwen3.gguf")) {
        print_message("skipped: qwen3.gguf not found\n");
        skip();
    }
    assert_int_equal(load(&x, path), QN_OK);
    x.c.qk_norm = false;
    qn_tensor *t = (qn_tensor *)qn_weights_find(x.w, "blk.1.attn_q_norm.weight");
    assert_non_null(t);
    t->name = "blk.1.attn_q.scale";
    assert_int_equal(qn_bind(&x.m, &x.c, x.w, &x.err), QN_E_UNSUPPORTED);
    assert_non_null(strstr(x.err.msg, "'blk.1.attn_q.scale': a scale for a whole matrix"));
    unload(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),         cmocka_unit_test(test_hybrids),
        cmocka_unit_test(test_prefixes),        cmocka_unit_test(test_packed_experts),
        cmocka_unit_test(test_qwen_v1),         cmocka_unit_test(test_unused),
        cmocka_unit_test(test_refused_folders), cmocka_unit_test(test_damaged_goldens),
        cmocka_unit_test(test_changed_configs), cmocka_unit_test(test_matrix_scale_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
