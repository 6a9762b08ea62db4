/* SPDX-License-Identifier: Apache-2.0
 * test_config.c - tables of configurations: what is read, and what is refused with which words.
 *
 * A row starts from the base configuration of a family and sets or (value "-") removes keys. The
 * result is written as words ("layers=2 heads=4 ..."); a row names the words it cares for. */
#include "check.h"

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct row {
    const char *base, *set;
    const char *want; /* words of the description, or the error */
    qn_status status;
} row;

#define DENSE                                                                                      \
    "\"hidden_act\":\"silu\",\"hidden_size\":64,\"num_hidden_layers\":4,"                          \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":160,"               \
    "\"vocab_size\":500,\"max_position_embeddings\":4096,\"rope_theta\":1000000.0,"                \
    "\"rms_norm_eps\":1e-05"
static const char *const bases[][2] = {
    {"qwen2", "{\"model_type\":\"qwen2\"," DENSE "}"},
    {"qwen3", "{\"model_type\":\"qwen3\",\"head_dim\":32," DENSE "}"},
    {"llama", "{\"model_type\":\"llama\"," DENSE "}"},
    {"qwen2_moe", "{\"model_type\":\"qwen2_moe\",\"num_experts\":8,\"num_experts_per_tok\":2,"
                  "\"moe_intermediate_size\":24,\"shared_expert_intermediate_size\":48," DENSE "}"},
    {"qwen3_moe", "{\"model_type\":\"qwen3_moe\",\"head_dim\":32,\"num_experts\":8,"
                  "\"num_experts_per_tok\":2,\"moe_intermediate_size\":24," DENSE "}"},
    {"qwen", "{\"model_type\":\"qwen\",\"hidden_size\":64,\"num_hidden_layers\":2,"
             "\"num_attention_heads\":4,\"kv_channels\":16,\"intermediate_size\":320,"
             "\"layer_norm_epsilon\":1e-6,\"rotary_emb_base\":10000,\"rotary_pct\":1.0,"
             "\"seq_length\":2048,\"max_position_embeddings\":8192,\"use_dynamic_ntk\":true,"
             "\"use_logn_attn\":true,\"no_bias\":true,\"vocab_size\":500}"},
    {"nested", "{\"model_type\":\"some_audio\",\"tie_word_embeddings\":true,\"eos_token_id\":9,"
               "\"text_config\":{\"model_type\":\"qwen2\"," DENSE "}}"},
    {"empty", "{}"},
};

/* Every field a reader may get wrong, as words. */
static void describe(qn_str *o, const qn_model_config *c)
{
    qn_str_addf(o, " arch=%s layers=%u hidden=%u heads=%u/%u head_dim=%u ffn=%u vocab=%u ctx=%u",
                qn_arch_name(c->arch), c->n_layers, c->hidden_size, c->n_heads, c->n_kv_heads,
                c->head_dim, c->ffn_size, c->n_vocab, c->max_ctx);
    qn_str_addf(o, " eps=%g theta=%g rope_dim=%u tie=%d qkv_bias=%d o_bias=%d mlp_bias=%d",
                (double)c->rms_eps, (double)c->rope_theta, c->rope_dim, c->tie_embeddings,
                c->qkv_bias, c->o_bias, c->mlp_bias);
    qn_str_addf(o,
                " qk_norm=%d permuted=%d experts=%u/%u expert_ffn=%u shared=%u norm_topk=%d moe=",
                c->qk_norm, c->rope_adjacent, c->n_experts_active, c->n_experts, c->expert_ffn_size,
                c->shared_ffn_size, c->norm_topk);
    for (uint32_t i = 0; i < c->n_layers; i++)
        qn_str_addf(o, "%d", c->layer_is_moe[i]);
    qn_str_adds(o, " window=");
    for (uint32_t i = 0; i < c->n_layers; i++)
        qn_str_addf(o, i ? ",%u" : "%u", c->layer_window[i]);
    qn_str_addf(o, " yarn=%g attn=%.6g fast=%g slow=%g orig=%u trunc=%d linear=%g",
                (double)c->yarn_factor, (double)c->yarn_attention_factor, (double)c->yarn_beta_fast,
                (double)c->yarn_beta_slow, c->yarn_original_ctx, c->yarn_truncate,
                (double)c->rope_linear_factor);
    qn_str_addf(o, " llama3=%g,%g,%g,%u ntk=%d logn=%d seq=%u", (double)c->llama3_factor,
                (double)c->llama3_low, (double)c->llama3_high, c->llama3_original_ctx,
                c->dynamic_ntk, c->logn_attn, c->seq_length);
    static const char *const quants[] = {"none", "gptq", "awq", "nf4", "fp8"};
    qn_str_addf(o, " quant=%s bits=%u group=%u block_rows=%u minus_one=%d sym=%d bos=%d eos=",
                quants[c->quant], c->quant_bits, c->quant_group, c->quant_block_rows,
                c->quant_zero_is_minus_one, c->quant_sym, c->bos_id);
    for (uint32_t i = 0; i < c->n_eos; i++)
        qn_str_addf(o, i ? ",%d" : "%d", c->eos_ids[i]);
    qn_str_addf(o, " params=%llu name=%s ", (unsigned long long)qn_model_config_n_params(c),
                c->name);
}

/* True when each word of want is a word of text (which starts and ends with a space). */
static bool has_words(const char *text, const char *want)
{
    char word[128];
    while (*want) {
        size_t n = strcspn(want, " ");
        snprintf(word, sizeof word, " %.*s ", (int)n, want);
        if (!strstr(text, word))
            return false;
        want += n + (want[n] == ' ');
    }
    return true;
}

static void check_result(const row *r, qn_status st, const qn_model_config *c, const qn_err *err)
{
    bool good = st == r->status;
    qn_str text = {0};
    if (st == QN_OK)
        describe(&text, c);
    else
        qn_str_adds(&text, err->msg);
    good = good && (st == QN_OK ? has_words(text.p, r->want) : strstr(text.p, r->want) != NULL);
    if (!good)
        print_error("%s %s\n  want status %d: %s\n  have status %d: %s\n", r->base, r->set,
                    r->status, r->want, st, text.p);
    assert_true(good);
    if (st != QN_OK) /* one line */
        assert_null(strchr(err->msg, '\n'));
    qn_str_fini(&text);
}

static json_t *parse(const char *text)
{
    json_t *v = NULL;
    qn_err err = {0};
    qn_status st = qn_json_parse(&v, text, strlen(text), 0, "test", &err);
    if (st != QN_OK)
        print_error("%s\n%s\n", text, err.msg);
    assert_int_equal(st, QN_OK);
    return v;
}

static void run_json_row(const row *r)
{
    json_t *config = NULL, *set = parse(r->set), *generation = NULL;
    for (size_t i = 0; i < QN_COUNT(bases); i++) {
        if (strcmp(bases[i][0], r->base) == 0)
            config = parse(bases[i][1]);
    }
    assert_non_null(config);
    const char *key;
    json_t *v;
    json_object_foreach(set, key, v)
    {
        if (strcmp(key, "generation") == 0)
            generation = v;
        else if (json_is_string(v) && strcmp(json_string_value(v), "-") == 0)
            json_object_del(config, key);
        else
            json_object_set(config, key, v);
    }
    char path[] = "models/Some-Model/";
    qn_weights w = {
        .format = QN_FORMAT_HF, .path = path, .config = config, .generation_config = generation};
    qn_model_config c;
    qn_err err = {0};
    qn_status st = qn_model_config_read(&c, &w, &err);
    check_result(r, st, &c, &err);
    json_decref(config);
    json_decref(set);
}

#define OK(base, set, want)                                                                        \
    {                                                                                              \
        base, set, want, QN_OK                                                                     \
    }
#define BAD(base, set, want)                                                                       \
    {                                                                                              \
        base, set, want, QN_E_FORMAT                                                               \
    }
#define NOT(base, set, want)                                                                       \
    {                                                                                              \
        base, set, want, QN_E_UNSUPPORTED                                                          \
    }
#define YARN(rest)  "{\"rope_scaling\":{\"type\":\"yarn\"," rest "}}"
#define QUANT(rest) "{\"quantization_config\":{" rest "}}"

static const row families[] = {
    OK("qwen2", "{}",
       "arch=qwen2 layers=4 hidden=64 heads=4/2 head_dim=16 ffn=160 vocab=500 ctx=4096 eps=1e-05 "
       "theta=1e+06 rope_dim=16 tie=0 qkv_bias=1 o_bias=0 mlp_bias=0 qk_norm=0 permuted=0 "
       "experts=0/0 moe=0000 window=0,0,0,0 yarn=0 linear=1 quant=none bos=-1 eos= "
       "name=Some-Model"),
    OK("qwen3", "{}", "arch=qwen3 head_dim=32 rope_dim=32 qkv_bias=0 o_bias=0 qk_norm=1"),
    OK("qwen3", "{\"head_dim\":\"-\",\"hidden_size\":512}", "head_dim=128"),
    OK("qwen3", "{\"attention_bias\":true}", "qkv_bias=1 o_bias=1"),
    OK("llama", "{}", "arch=llama head_dim=16 qkv_bias=0 o_bias=0 mlp_bias=0 qk_norm=0 permuted=0"),
    OK("llama", "{\"attention_bias\":true,\"mlp_bias\":true}", "qkv_bias=1 o_bias=1 mlp_bias=1"),
    OK("llama", "{\"num_key_value_heads\":\"-\",\"max_position_embeddings\":\"-\"}",
       "heads=4/4 ctx=2048"),
    OK("qwen2", "{\"head_dim\":null,\"rms_norm_eps\":\"-\",\"rope_theta\":\"-\"}",
       "head_dim=16 eps=1e-06 theta=10000"),
    OK("qwen2", "{\"tie_word_embeddings\":true,\"rope_theta\":1000000}", "tie=1 theta=1e+06"),
    OK("qwen2", "{\"num_experts\":4}", "experts=0/0 moe=0000"),
    OK("qwen", "{}",
       "arch=qwen heads=4/4 head_dim=16 ffn=160 ctx=8192 eps=1e-06 theta=10000 qkv_bias=1 o_bias=0 "
       "mlp_bias=0 ntk=1 logn=1 seq=2048 tie=0"),
    OK("qwen", "{\"no_bias\":false,\"rotary_pct\":0.5,\"use_logn_attn\":false}",
       "o_bias=1 mlp_bias=1 rope_dim=8 logn=0"),
    OK("nested", "{}", "arch=qwen2 hidden=64 tie=1 eos=9"),
    BAD("empty", "{}", "config.json: model_type is missing; supported: qwen, qwen2"),
    NOT("empty", "{\"model_type\":\"qwen3_next\"}",
        "config.json: model_type 'qwen3_next': hybrid models (gated delta net)"),
    NOT("empty", "{\"model_type\":\"qwen3_5\",\"text_config\":{\"model_type\":\"qwen3_5_text\"}}",
        "model_type 'qwen3_5_text': hybrid models"),
    NOT("empty", "{\"model_type\":\"qwen4_exp\"}", "hybrid"),
    NOT("empty", "{\"model_type\":\"qwen2_vl\"}",
        "model_type 'qwen2_vl' is not supported; supported: qwen, qwen2, qwen2_moe, qwen3, "
        "qwen3_moe, llama"),
    BAD("empty", "{\"model_type\":7}", "config.json: model_type: found"),
    BAD("empty", "{\"model_type\":\"qwen2\",\"text_config\":[]}", "text_config: found"),
    NOT("empty", "{\"model_type\":\"qwen2\\n\\u001b[2J\"}", "model_type 'qwen2\\x0a"),
};

static const row numbers[] = {
    BAD("qwen2", "{\"hidden_size\":\"-\"}", "config.json: hidden_size: missing, want 1 to 65536"),
    BAD("qwen2", "{\"hidden_size\":\"64\"}", "hidden_size: found a string, want an integer"),
    BAD("qwen2", "{\"hidden_size\":65537}", "hidden_size: found 65537"),
    BAD("qwen2", "{\"hidden_size\":-64}", "hidden_size: found -64"),
    BAD("qwen2", "{\"num_hidden_layers\":513}", "num_hidden_layers: found 513"),
    BAD("qwen2", "{\"num_hidden_layers\":0}", "num_hidden_layers: found 0"),
    BAD("qwen2", "{\"vocab_size\":16777217}", "vocab_size: found 16777217"),
    BAD("qwen2", "{\"vocab_size\":1.5}", "vocab_size: found"),
    BAD("qwen2", "{\"num_attention_heads\":9223372036854775807}", "num_attention_heads: found"),
    BAD("qwen2", "{\"num_key_value_heads\":3}", "4 attention heads, 3 key/value heads"),
    BAD("qwen2", "{\"num_attention_heads\":3,\"num_key_value_heads\":1}",
        "head_dim: found 21, want even"),
    BAD("qwen2", "{\"num_attention_heads\":128,\"num_key_value_heads\":128}", "head_dim: found 0"),
    BAD("qwen3", "{\"head_dim\":258}", "head_dim: found 258"),
    BAD("qwen3", "{\"head_dim\":31}", "head_dim: found 31, want even"),
    BAD("qwen2", "{\"intermediate_size\":\"-\"}", "intermediate size is missing"),
    BAD("qwen2", "{\"rms_norm_eps\":0}", "rms_norm_eps: found 0"),
    BAD("qwen2", "{\"rms_norm_eps\":1}", "rms_norm_eps: found 1"),
    BAD("qwen2", "{\"rms_norm_eps\":1e-46}", "rms_norm_eps: found"),
    BAD("qwen2", "{\"rope_theta\":-1}", "rope_theta: found -1"),
    BAD("qwen2", "{\"rope_theta\":1e300}", "rope_theta: found 1e+300"),
    BAD("qwen2", "{\"rope_theta\":true}", "rope_theta: found"),
    BAD("qwen2", "{\"partial_rotary_factor\":0.2}", "rotary dimensions: found 3"),
    NOT("qwen2", "{\"hidden_act\":\"gelu\"}", "hidden_act 'gelu' is not supported, want silu"),
    BAD("qwen2", "{\"tie_word_embeddings\":1}", "tie_word_embeddings: found"),
    OK("qwen2", "{\"eos_token_id\":7,\"bos_token_id\":3}", "eos=7 bos=3"),
    OK("qwen2", "{\"eos_token_id\":[7,8,7]}", "eos=7,8"),
    OK("qwen2", "{\"eos_token_id\":7,\"generation\":{\"eos_token_id\":[499,0]}}", "eos=499,0"),
    OK("qwen2", "{\"eos_token_id\":7,\"generation\":{\"eos_token_id\":null}}", "eos=7"),
    BAD("qwen2", "{\"eos_token_id\":500}", "config.json: eos_token_id: found 500, want 0 to 499"),
    BAD("qwen2", "{\"generation\":{\"eos_token_id\":[1,-1]}}",
        "generation_config.json: eos_token_id: found -1"),
    BAD("qwen2", "{\"eos_token_id\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}", "more than 16"),
    BAD("qwen2", "{\"eos_token_id\":\"x\"}", "eos_token_id: found a string"),
    BAD("qwen2", "{\"bos_token_id\":500}", "bos_token_id: found an integer (500)"),
    OK("llama", "{}", "params=236608"),
    OK("qwen2_moe", "{}", "params=300864"),
};

static const row experts[] = {
    OK("qwen2_moe", "{}",
       "experts=2/8 expert_ffn=24 shared=48 norm_topk=0 moe=1111 qkv_bias=1 o_bias=0"),
    OK("qwen2_moe", "{\"norm_topk_prob\":true,\"qkv_bias\":false}", "norm_topk=1 qkv_bias=0"),
    OK("qwen2_moe", "{\"decoder_sparse_step\":2}", "moe=0101"),
    OK("qwen2_moe", "{\"decoder_sparse_step\":2,\"mlp_only_layers\":[3,99]}", "moe=0100"),
    OK("qwen3_moe", "{\"shared_expert_intermediate_size\":7}",
       "experts=2/8 expert_ffn=24 shared=0 norm_topk=0 qk_norm=1 moe=1111"),
    OK("qwen3_moe", "{\"norm_topk_prob\":true}", "norm_topk=1"),
    OK("qwen3_moe", "{\"num_experts\":\"-\",\"num_local_experts\":16}", "experts=2/16"),
    OK("qwen3_moe", "{\"intermediate_size\":\"-\"}", "ffn=0 moe=1111"),
    BAD("qwen3_moe", "{\"intermediate_size\":\"-\",\"mlp_only_layers\":[0]}",
        "intermediate size is missing"),
    BAD("qwen3_moe", "{\"num_experts\":\"-\"}", "number of experts: missing"),
    BAD("qwen3_moe", "{\"num_experts\":1025}", "num_experts: found 1025"),
    BAD("qwen3_moe", "{\"num_experts_per_tok\":9}", "experts per token: found 9, want 1 to 8"),
    BAD("qwen3_moe", "{\"num_experts_per_tok\":0}", "experts per token: found 0"),
    BAD("qwen3_moe", "{\"moe_intermediate_size\":\"-\"}", "expert intermediate size is missing"),
    BAD("qwen2_moe", "{\"shared_expert_intermediate_size\":\"-\"}", "shared expert"),
    BAD("qwen2_moe", "{\"decoder_sparse_step\":0}", "decoder_sparse_step: found 0"),
    BAD("qwen2_moe", "{\"mlp_only_layers\":[\"a\"]}", "mlp_only_layers: found a string"),
    BAD("qwen2_moe", "{\"mlp_only_layers\":3}", "mlp_only_layers: found an integer, want a list"),
};

#define SWA "\"use_sliding_window\":true,\"sliding_window\":16"
static const row windows[] = {
    OK("qwen2", "{" SWA ",\"max_window_layers\":2}", "window=0,0,16,16"),
    OK("qwen3", "{" SWA ",\"max_window_layers\":0}", "window=16,16,16,16"),
    OK("qwen2", "{\"use_sliding_window\":false,\"sliding_window\":16,\"max_window_layers\":0}",
       "window=0,0,0,0"),
    OK("qwen2", "{\"use_sliding_window\":true,\"sliding_window\":null,\"max_window_layers\":0}",
       "window=0,0,0,0"),
    OK("qwen2_moe", "{" SWA ",\"max_window_layers\":3}", "window=16,0,16,0"),
    OK("qwen3_moe", "{" SWA "}", "window=16,16,16,16"),
    OK("llama", "{" SWA "}", "window=0,0,0,0"),
    OK("qwen2",
       "{" SWA ",\"max_window_layers\":0,\"layer_types\":[\"full_attention\",\"sliding_attention\","
       "\"full_attention\",\"full_attention\"]}",
       "window=0,16,0,0"),
    BAD("qwen2", "{\"layer_types\":[\"full_attention\"]}",
        "layer_types: found an array with 1 elements, want a list of 4"),
    BAD("qwen2",
        "{\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\","
        "\"full_attention\"]}",
        "layer 1 slides, but"),
    NOT("qwen2",
        "{\"layer_types\":[\"full_attention\",\"linear_attention\",\"full_attention\","
        "\"full_attention\"]}",
        "layer 1 is 'linear_attention'"),
    BAD("qwen2", "{\"use_sliding_window\":true,\"sliding_window\":0}", "sliding_window: found 0"),
};

static const row ropes[] = {
    OK("qwen2", "{\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5e6}}",
       "theta=5e+06"),
    OK("qwen2",
       "{\"rope_theta\":\"-\",\"rope_parameters\":{\"rope_theta\":2e4,"
       "\"partial_rotary_factor\":0.5}}",
       "theta=20000 rope_dim=8"),
    OK("qwen2", YARN("\"factor\":4.0,\"original_max_position_embeddings\":32768"),
       "yarn=4 attn=1.13863 fast=32 slow=1 orig=32768 trunc=1 ctx=131072"),
    OK("qwen2",
       "{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2,\"attention_factor\":1.5,"
       "\"beta_fast\":16,\"beta_slow\":2,\"truncate\":false}}",
       "yarn=2 attn=1.5 fast=16 slow=2 orig=4096 trunc=0 ctx=8192"),
    OK("qwen2", YARN("\"factor\":40.0,\"mscale\":1.0,\"mscale_all_dim\":1.0"), "yarn=40 attn=1"),
    OK("qwen2", YARN("\"factor\":1.0"), "yarn=1 attn=1"),
    OK("qwen2", YARN("\"original_max_position_embeddings\":1024"), "yarn=4 orig=1024 ctx=4096"),
    OK("qwen2", "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":5e5,\"factor\":4}}",
       "theta=500000 yarn=4 ctx=16384"),
    OK("llama",
       "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
       "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}",
       "llama3=8,1,4,8192"),
    OK("llama", "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}}", "linear=2"),
    OK("qwen2", "{\"rope_scaling\":null}", "yarn=0 linear=1"),
    NOT("llama", "{\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}}",
        "config.json: rope_scaling: rope type 'dynamic' is not supported"),
    NOT("llama", "{\"rope_scaling\":{\"rope_type\":\"longrope\"}}", "rope type 'longrope'"),
    BAD("llama", "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0}}",
        "rope type llama3 wants"),
    BAD("llama", "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", "factor: found 0"),
    BAD("llama", "{\"rope_scaling\":{\"type\":\"linear\"}}", "factor"),
    BAD("qwen2", YARN("\"factor\":0.5"), "factor: found 0.5"),
    BAD("qwen2", YARN("\"factor\":4,\"beta_fast\":1,\"beta_slow\":2"), "want slow < fast"),
    BAD("qwen2", YARN("\"factor\":4,\"original_max_position_embeddings\":0"), "found 0"),
    BAD("qwen2", "{\"rope_scaling\":\"yarn\"}", "rope_scaling: found a string"),
    BAD("qwen2", "{\"rope_parameters\":{\"rope_type\":3}}", "rope_type: found"),
    NOT("qwen2", "{\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e4}}}",
        "rope_parameters: one rope for each layer type"),
};

static const row quants[] = {
    OK("qwen2", QUANT("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"sym\":true"),
       "quant=gptq bits=4 group=128 minus_one=1 sym=1"),
    OK("qwen2",
       QUANT("\"quant_method\":\"gptq\",\"bits\":8,\"group_size\":-1,\"sym\":false,"
             "\"checkpoint_format\":\"gptq_v2\",\"dynamic\":{\"-:lm_head\":{}}"),
       "quant=gptq bits=8 group=0 minus_one=0 sym=0"),
    OK("qwen2",
       QUANT("\"quant_method\":\"awq\",\"bits\":4,\"group_size\":64,\"version\":\"gemm\","
             "\"zero_point\":true,\"modules_to_not_convert\":[\"lm_head\"]"),
       "quant=awq bits=4 group=64"),
    OK("qwen2",
       QUANT("\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,"
             "\"bnb_4bit_quant_type\":\"nf4\""),
       "quant=nf4 bits=4"),
    OK("qwen2", QUANT("\"load_in_4bit\":true,\"bnb_4bit_quant_type\":\"nf4\""), "quant=nf4"),
    OK("qwen2", QUANT("\"quant_method\":\"fp8\",\"weight_block_size\":[128,64]"),
       "quant=fp8 bits=8 block_rows=128 group=64"),
    OK("qwen2", "{\"quantization_config\":null}", "quant=none"),
    NOT("qwen2", QUANT("\"quant_method\":\"gptq\",\"bits\":3,\"group_size\":128"),
        "gptq with 3 bits is not supported, want 4 or 8"),
    NOT("qwen2", QUANT("\"quant_method\":\"gptq\",\"bits\":4,\"checkpoint_format\":\"marlin\""),
        "checkpoint_format 'marlin'"),
    BAD("qwen2", QUANT("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":0"),
        "group_size: found"),
    BAD("qwen2", QUANT("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":\"a\""), "group_size"),
    BAD("qwen2", QUANT("\"quant_method\":\"gptq\",\"bits\":\"4\""), "bits: found a string"),
    NOT("qwen2", QUANT("\"quant_method\":\"awq\",\"bits\":4,\"version\":\"gemv\""), "'gemv'"),
    NOT("qwen2", QUANT("\"quant_method\":\"awq\",\"bits\":4,\"zero_point\":false"), "zero_point"),
    NOT("qwen2", QUANT("\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true"),
        "bitsandbytes without load_in_4bit"),
    NOT("qwen2", QUANT("\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true"), "fp4"),
    NOT("qwen2", QUANT("\"quant_method\":\"fp8\""), "without weight_block_size"),
    BAD("qwen2", QUANT("\"quant_method\":\"fp8\",\"weight_block_size\":[0,128]"),
        "weight_block_size: found an array"),
    BAD("qwen2", QUANT("\"quant_method\":\"fp8\",\"weight_block_size\":[1,2,3]"),
        "weight_block_size"),
    NOT("qwen2", QUANT("\"quant_method\":\"compressed-tensors\""),
        "quant_method 'compressed-tensors' is not supported"),
    NOT("qwen2", QUANT("\"bits\":4"), "quant_method '?'"),
    BAD("qwen2", "{\"quantization_config\":[]}", "quantization_config: found an array"),
};

#define TABLE(name)                                                                                \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        for (size_t i = 0; i < QN_COUNT(name); i++)                                                \
            run_json_row(&name[i]);                                                                \
    }
TABLE(families)
TABLE(numbers)
TABLE(experts)
TABLE(windows)
TABLE(ropes)
TABLE(quants)

/* ---- GGUF: rows are written as files ---- */

#define G(a)                                                                                       \
    "\"" a ".block_count\":2,\"" a ".context_length\":4096,\"" a ".embedding_length\":64,\"" a     \
    ".feed_forward_length\":160,\"" a ".attention.head_count\":4,\"" a                             \
    ".attention.head_count_kv\":2,\"" a ".rope.freq_base\":1000000.0,\"" a                         \
    ".attention.layer_norm_rms_epsilon\":1e-05"
#define GE(a)                                                                                      \
    G(a)                                                                                           \
    ",\"" a ".expert_count\":8,\"" a ".expert_used_count\":2,\"" a                                 \
    ".expert_feed_forward_length\":24"
#define EMBED "\"tensors\":[\"token_embd.weight\"]"
static const char *const gguf_bases[][2] = {
    {"qwen2", "{\"general.architecture\":\"qwen2\"," G("qwen2") "," EMBED "}"},
    {"qwen3", "{\"general.architecture\":\"qwen3\",\"qwen3.attention.key_length\":32,"
              "\"qwen3.attention.value_length\":32," G("qwen3") "," EMBED "}"},
    {"qwen", "{\"general.architecture\":\"qwen\"," G("qwen") "," EMBED "}"},
    {"llama", "{\"general.architecture\":\"llama\"," G("llama") "," EMBED "}"},
    {"qwen2moe",
     "{\"general.architecture\":\"qwen2moe\"," GE(
         "qwen2moe") ","
                     "\"tensors\":[\"token_embd.weight\",\"blk.1.ffn_gate_inp.weight\"]}"},
    {"qwen3moe", "{\"general.architecture\":\"qwen3moe\"," GE(
                     "qwen3moe") ","
                                 "\"tensors\":[\"token_embd.weight\",\"output.weight\","
                                 "\"blk.0.ffn_gate_inp.weight\",\"blk.1.ffn_gate_inp.weight\"]}"},
    {"empty", "{}"},
};

static const row ggufs[] = {
    OK("qwen2", "{\"general.name\":\"A name\",\"tokenizer.ggml.eos_token_id\":31}",
       "arch=qwen2 layers=2 hidden=64 heads=4/2 head_dim=16 ffn=160 vocab=32 ctx=4096 eps=1e-05 "
       "theta=1e+06 rope_dim=16 tie=1 qkv_bias=1 qk_norm=0 permuted=0 moe=00 window=0,0 yarn=0 "
       "linear=1 quant=none bos=-1 eos=31 name=A name"),
    OK("qwen2", "{\"tensors\":[\"token_embd.weight\",\"output.weight\"]}", "tie=0"),
    OK("qwen3", "{}", "head_dim=32 rope_dim=32 qkv_bias=0 qk_norm=1"),
    OK("qwen3", "{\"qwen3.attention.key_length\":\"-\",\"qwen3.attention.value_length\":\"-\"}",
       "head_dim=16"),
    OK("qwen", "{}", "arch=qwen heads=4/4 ffn=80 qkv_bias=1 ntk=0 logn=0"),
    OK("llama", "{\"llama.rope.dimension_count\":16}",
       "arch=llama permuted=1 qkv_bias=0 qk_norm=0 rope_dim=16"),
    OK("llama",
       "{\"tensors\":[\"token_embd.weight\",\"blk.0.attn_q.bias\","
       "\"blk.0.attn_output.bias\",\"blk.0.ffn_up.bias\"]}",
       "qkv_bias=1 o_bias=1 mlp_bias=1"),
    OK("qwen2moe", "{\"qwen2moe.expert_shared_feed_forward_length\":48}",
       "experts=2/8 expert_ffn=24 shared=48 norm_topk=0 moe=01"),
    OK("qwen2moe", "{\"qwen2moe.expert_feed_forward_length\":\"-\"}", "expert_ffn=80 shared=160"),
    OK("qwen3moe", "{}", "experts=2/8 expert_ffn=24 shared=0 norm_topk=1 moe=11 tie=0"),
    OK("qwen3moe", "{\"qwen3moe.expert_weights_norm\":false}", "norm_topk=0"),
    OK("qwen2",
       "{\"qwen2.rope.scaling.type\":\"yarn\",\"qwen2.rope.scaling.factor\":4.0,"
       "\"qwen2.rope.scaling.original_context_length\":4096}",
       "yarn=4 attn=1.13863 fast=32 slow=1 orig=4096 ctx=16384"),
    OK("qwen2",
       "{\"qwen2.rope.scaling.type\":\"yarn\",\"qwen2.rope.scaling.factor\":4.0,"
       "\"qwen2.rope.scaling.attn_factor\":0.5}",
       "attn=0.569315"),
    OK("qwen2", "{\"qwen2.rope.scaling.type\":\"linear\",\"qwen2.rope.scaling.factor\":4.0}",
       "linear=4 yarn=0"),
    OK("qwen2", "{\"qwen2.rope.scaling.factor\":2.0}", "linear=2 yarn=0"),
    OK("qwen2", "{\"qwen2.rope.scale_linear\":3.0}", "linear=3 yarn=0"),
    OK("qwen2", "{\"qwen2.rope.scaling.type\":\"none\",\"qwen2.rope.scaling.factor\":4.0}",
       "linear=1 yarn=0"),
    OK("qwen2",
       "{\"qwen2.attention.sliding_window\":16,"
       "\"qwen2.attention.sliding_window_pattern\":[false,true]}",
       "window=0,16"),
    OK("qwen2", "{\"qwen2.attention.sliding_window\":4096}", "window=0,0"),
    OK("qwen2",
       "{\"tokenizer.ggml.eos_token_id\":3,\"tokenizer.ggml.eot_token_id\":4,"
       "\"tokenizer.ggml.bos_token_id\":5}",
       "eos=3,4 bos=5"),
    NOT("qwen2", "{\"qwen2.attention.sliding_window\":16}", "sliding window 16: want qwen2."),
    NOT("qwen2", "{\"qwen2.rope.scaling.type\":\"longrope\",\"qwen2.rope.scaling.factor\":4.0}",
        "rope.scaling.type 'longrope' is not supported"),
    NOT("llama", "{\"llama.expert_count\":8}", "llama with 8 experts is not supported"),
    NOT("qwen3", "{\"qwen3.attention.value_length\":16}", "key length 32 and value length 16"),
    BAD("qwen2", "{\"qwen2.block_count\":513}", "qwen2.block_count': found 513"),
    BAD("qwen2", "{\"qwen2.block_count\":\"-\"}", "qwen2.block_count: missing, want 1 to 512"),
    BAD("qwen2", "{\"qwen2.block_count\":\"two\"}", "qwen2.block_count"),
    BAD("qwen2", "{\"qwen2.attention.head_count_kv\":[true,false]}", "head_count_kv"),
    BAD("qwen2", "{\"qwen2.rope.dimension_count\":18}", "rotary dimensions: found 18"),
    BAD("qwen2", "{\"tokenizer.ggml.eos_token_id\":32}", "eos_token_id': found 32"),
    BAD("qwen2", "{\"tensors\":[\"other.weight\"]}", "token_embd.weight is missing"),
    BAD("qwen2moe", "{\"qwen2moe.expert_used_count\":9}", "experts per token: found 9"),
    BAD("empty", "{\"tensors\":[\"token_embd.weight\"]}", "general.architecture is missing"),
    NOT("empty", "{\"general.architecture\":\"qwen35moe\",\"tensors\":[\"token_embd.weight\"]}",
        "general.architecture 'qwen35moe': hybrid models"),
    NOT("empty", "{\"general.architecture\":\"gemma3\",\"tensors\":[\"token_embd.weight\"]}",
        "general.architecture 'gemma3' is not supported; supported"),
};

static void put(qn_str *s, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        qn_str_addc(s, (char)(v >> 8 * i));
}

static void put_text(qn_str *s, const char *z)
{
    put(s, strlen(z), 8);
    qn_str_adds(s, z);
}

static void put_value(qn_str *s, const char *key, const json_t *v)
{
    put_text(s, key);
    if (json_is_integer(v)) {
        put(s, 4, 4); /* u32 */
        put(s, (uint64_t)json_integer_value(v), 4);
    } else if (json_is_real(v)) {
        float f = (float)json_real_value(v);
        put(s, 6, 4); /* f32 */
        qn_str_add(s, &f, 4);
    } else if (json_is_boolean(v)) {
        put(s, 7, 4);
        put(s, json_is_true(v), 1);
    } else if (json_is_string(v)) {
        put(s, 8, 4);
        put_text(s, json_string_value(v));
    } else {
        put(s, 9, 4); /* array of bool */
        put(s, 7, 4);
        put(s, json_array_size(v), 8);
        for (size_t i = 0; i < json_array_size(v); i++)
            put(s, json_is_true(json_array_get(v, i)), 1);
    }
}

/* Every tensor is F32 [32, 8], which is enough to be there. */
static void write_gguf(qn_str *s, json_t *o)
{
    json_t *tensors = json_incref(json_object_get(o, "tensors")), *v;
    const char *key;
    size_t n = json_array_size(tensors);
    json_object_del(o, "tensors");
    qn_str_adds(s, "GGUF");
    put(s, 3, 4);
    put(s, n, 8);
    put(s, json_object_size(o), 8);
    json_object_foreach(o, key, v) put_value(s, key, v);
    for (size_t i = 0; i < n; i++) {
        put_text(s, json_string_value(json_array_get(tensors, i)));
        put(s, 2, 4);
        put(s, 8, 8);
        put(s, 32, 8);
        put(s, 0, 4);
        put(s, i * 1024, 8);
    }
    put(s, 0, (32 - s->n % 32) % 32 < 8 ? (32 - s->n % 32) % 32 : 8);
    while (s->n % 32)
        put(s, 0, 1);
    for (size_t i = 0; i < n * 128; i++)
        put(s, 0, 8);
    json_decref(tensors);
}

static void run_gguf_row(const row *r, const char *path)
{
    json_t *o = NULL, *set = parse(r->set), *v;
    for (size_t i = 0; i < QN_COUNT(gguf_bases); i++) {
        if (strcmp(gguf_bases[i][0], r->base) == 0)
            o = parse(gguf_bases[i][1]);
    }
    assert_non_null(o);
    const char *key;
    json_object_foreach(set, key, v)
    {
        if (json_is_string(v) && strcmp(json_string_value(v), "-") == 0)
            json_object_del(o, key);
        else
            json_object_set(o, key, v);
    }
    qn_str file = {0};
    qn_err err = {0};
    write_gguf(&file, o);
    assert_int_equal(qn_file_write(path, file.p, file.n, &err), QN_OK);
    qn_weights *w = NULL;
    qn_status st = qn_weights_open(&w, path, &err);
    if (st != QN_OK)
        print_error("%s %s: %s\n", r->base, r->set, err.msg);
    assert_int_equal(st, QN_OK);
    qn_model_config c;
    st = qn_model_config_read(&c, w, &err);
    check_result(r, st, &c, &err);
    qn_weights_free(w);
    qn_str_fini(&file);
    json_decref(o);
    json_decref(set);
}

static void test_ggufs(void **state)
{
    (void)state;
    char dir[] = "/tmp/quern-config-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/a.gguf", dir);
    for (size_t i = 0; i < QN_COUNT(ggufs); i++)
        run_gguf_row(&ggufs[i], path);
    unlink(path);
    rmdir(dir);
}

/* ---- golden folders: base is the folder ---- */

static const row goldens[] = {
    OK("llama-tied-bf16", "{}", "arch=llama heads=9/3 head_dim=8 tie=1 theta=100000 eos=2,0 bos=0"),
    OK("qwen2-config-v5", "{}", "arch=qwen2 theta=1e+06 window=0,0 tie=1 eos=530,528"),
    OK("qwen2-yarn", "{}",
       "yarn=4 orig=64 ctx=256 attn=1.13863 fast=32 slow=1 trunc=1 head_dim=32 theta=10000"),
    OK("qwen2-swa", "{}", "window=0,0,16,16"),
    OK("qwen3-swa", "{}", "window=0,24,24 head_dim=16"),
    OK("qwen3-yarn", "{}", "yarn=4 orig=64 theta=1e+06 head_dim=32"),
    OK("qwen2moe", "{}", "experts=4/12 expert_ffn=24 shared=96 norm_topk=0 moe=111 qkv_bias=1"),
    OK("qwen2moe-sparse", "{}", "experts=2/8 norm_topk=1 moe=010001 ffn=144 shared=56"),
    OK("qwen3moe", "{}", "experts=4/12 norm_topk=1 moe=111 shared=0 tie=0"),
    OK("qwen3moe-sparse", "{}", "experts=2/6 norm_topk=0 moe=00010 tie=1 expert_ffn=40"),
    OK("qwen2-gptq4", "{}", "quant=gptq bits=4 group=32 minus_one=1 sym=1"),
    OK("qwen2-gptq4-actorder", "{}", "quant=gptq bits=4 group=32 minus_one=1 sym=0"),
    OK("qwen2-gptq8", "{}", "quant=gptq bits=8 group=64"),
    OK("qwen3-gptq4", "{}", "quant=gptq bits=4 group=64 minus_one=0"),
    OK("qwen2-awq4", "{}", "quant=awq bits=4 group=32"),
    OK("qwen3-nf4", "{}", "quant=nf4"),
    OK("qwen3-fp8", "{}", "quant=fp8 block_rows=32 group=32"),
};

/* The folder is in the tree, or beside it. */
static bool find_golden(char *out, size_t size, const char *name, const char *file)
{
    static const char *const roots[] = {"/tests/golden/models", "/../shared/fixtures",
                                        "/../../shared/fixtures"};
    for (size_t i = 0; i < QN_COUNT(roots); i++) {
        snprintf(out, size, "%s%s/%s/%s", QN_SOURCE_DIR, roots[i], name, file);
        if (qn_file_exists(out))
            return true;
    }
    return false;
}

static void test_goldens(void **state)
{
    (void)state;
    size_t n = 0;
    for (size_t i = 0; i < QN_COUNT(goldens); i++) {
        const row *r = &goldens[i];
        char path[512];
        qn_err err = {0};
        qn_model_config c;
        qn_weights w = {.format = QN_FORMAT_HF, .path = path};
        if (!find_golden(path, sizeof path, r->base, "config.json"))
            continue;
        assert_int_equal(qn_json_load(&w.config, path, 1u << 20, &err), QN_OK);
        assert_true(find_golden(path, sizeof path, r->base, "generation_config.json"));
        assert_int_equal(qn_json_load(&w.generation_config, path, 1u << 20, &err), QN_OK);
        qn_status st = qn_model_config_read(&c, &w, &err);
        check_result(r, st, &c, &err);
        json_decref(w.config);
        json_decref(w.generation_config);
        n++;
    }
    print_message("%zu of %zu golden configurations read\n", n, QN_COUNT(goldens));
    if (n == 0) {
        print_message("skipped: no golden models found\n");
        skip();
    }
}

static void test_err_may_be_null(void **state)
{
    (void)state;
    json_t *o = parse("{\"model_type\":\"qwen2\"}");
    char path[] = "x";
    qn_weights w = {.format = QN_FORMAT_HF, .path = path, .config = o};
    qn_model_config c;
    assert_int_equal(qn_model_config_read(&c, &w, NULL), QN_E_FORMAT);
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_experts),         cmocka_unit_test(test_windows),
        cmocka_unit_test(test_ropes),           cmocka_unit_test(test_quants),
        cmocka_unit_test(test_ggufs),           cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_err_may_be_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
