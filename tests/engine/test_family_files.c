/* Every family's files: written, their tensors and keys under the published names, loaded again
 * with the same logits, and refused where they contradict themselves. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/base/error.h"
#include "../../engine/format/weights_file.h"
#include "format_fixture.h"
#include "model_fixture.h"

enum { N = 40, VOCAB = 13 };

/* A family, and names that its files have for the second block and outside of the blocks. */
typedef struct family {
    const char *name, *gguf, *hf;
} family;

#define HF "model.layers.1."
#define HF_OUTSIDE "model.embed_tokens.weight model.norm.weight "
#define HF_QKVO                                                                                    \
    HF "self_attn.q_proj.weight " HF "self_attn.k_proj.weight " HF "self_attn.v_proj.weight " HF   \
       "self_attn.o_proj.weight "
#define HF_MLP HF "mlp.gate_proj.weight " HF "mlp.up_proj.weight " HF "mlp.down_proj.weight "
#define HF_NORMS HF "input_layernorm.weight " HF "post_attention_layernorm.weight "
#define HF_FOUR_NORMS                                                                              \
    HF_NORMS HF "pre_feedforward_layernorm.weight " HF "post_feedforward_layernorm.weight "
#define HF_QK_NORMS HF "self_attn.q_norm.weight " HF "self_attn.k_norm.weight "
#define GG "blk.1."
#define GG_OUTSIDE "token_embd.weight output_norm.weight "
#define GG_QKVO GG "attn_q.weight " GG "attn_k.weight " GG "attn_v.weight " GG "attn_output.weight "
#define GG_MLP GG "ffn_gate.weight " GG "ffn_up.weight " GG "ffn_down.weight "
#define GG_NORMS GG "attn_norm.weight " GG "ffn_norm.weight "
#define GG_POST_NORMS GG "post_attention_norm.weight " GG "post_ffw_norm.weight "
#define GG_QK_NORMS GG "attn_q_norm.weight " GG "attn_k_norm.weight "
#define NEOX "gpt_neox.layers.1."

static const family families[] = {
    {"gpt2", GG_OUTSIDE "position_embd.weight " GG "attn_qkv.weight " GG "attn_qkv.bias",
     "transformer.wte.weight transformer.wpe.weight transformer.h.1.attn.c_attn.bias"},
    {"llama", GG_OUTSIDE GG_QKVO GG_MLP GG_NORMS "output.weight rope_freqs.weight",
     HF_OUTSIDE HF_QKVO HF_MLP HF_NORMS "lm_head.weight"},
    {"mistral", GG_OUTSIDE GG_QKVO GG_MLP GG_NORMS "output.weight",
     HF_OUTSIDE HF_QKVO HF_MLP HF_NORMS "lm_head.weight"},
    {"mixtral",
     GG_OUTSIDE GG_QKVO GG_NORMS GG "ffn_gate_inp.weight " GG "ffn_gate_exps.weight " GG
                                    "ffn_up_exps.weight " GG "ffn_down_exps.weight",
     HF_OUTSIDE HF_QKVO HF_NORMS HF
     "block_sparse_moe.gate.weight " HF "block_sparse_moe.experts.3.w1.weight " HF
     "block_sparse_moe.experts.3.w2.weight " HF "block_sparse_moe.experts.0.w3.weight"},
    {"qwen2",
     GG_OUTSIDE GG_QKVO GG_MLP GG_NORMS GG "attn_q.bias " GG "attn_k.bias " GG "attn_v.bias",
     HF_OUTSIDE HF_QKVO HF_MLP HF_NORMS HF "self_attn.q_proj.bias " HF "self_attn.v_proj.bias"},
    {"qwen3", GG_OUTSIDE GG_QKVO GG_MLP GG_NORMS GG_QK_NORMS,
     HF_OUTSIDE HF_QKVO HF_MLP HF_NORMS HF_QK_NORMS},
    {"olmo2", GG_OUTSIDE GG_QKVO GG_MLP GG_POST_NORMS GG_QK_NORMS,
     HF_OUTSIDE HF_QKVO HF_MLP HF_QK_NORMS HF "post_attention_layernorm.weight " HF
                                              "post_feedforward_layernorm.weight"},
    {"stablelm", GG_OUTSIDE GG_QKVO GG_MLP GG_NORMS GG "attn_norm.bias output_norm.bias",
     HF_OUTSIDE HF_QKVO HF_MLP HF_NORMS HF "input_layernorm.bias model.norm.bias"},
    {"phi3", GG_OUTSIDE GG "attn_qkv.weight " GG "attn_output.weight " GG "ffn_up.weight " GG_NORMS,
     HF_OUTSIDE HF "self_attn.qkv_proj.weight " HF "mlp.gate_up_proj.weight " HF_NORMS},
    {"gptneox",
     GG_OUTSIDE GG "attn_qkv.weight " GG "attn_qkv.bias " GG "ffn_up.bias " GG_NORMS GG
                   "ffn_norm.bias output.weight",
     "gpt_neox.embed_in.weight embed_out.weight gpt_neox.final_layer_norm.bias " NEOX
     "attention.query_key_value.weight " NEOX "attention.query_key_value.bias " NEOX
     "attention.dense.bias " NEOX "mlp.dense_h_to_4h.weight " NEOX "mlp.dense_4h_to_h.bias " NEOX
     "input_layernorm.weight " NEOX "post_attention_layernorm.bias"},
    {"gemma2", GG_OUTSIDE GG_QKVO GG_MLP GG_NORMS GG_POST_NORMS,
     HF_OUTSIDE HF_QKVO HF_MLP HF_FOUR_NORMS},
    {"gemma3", GG_OUTSIDE GG_QKVO GG_MLP GG_NORMS GG_POST_NORMS GG_QK_NORMS,
     HF_OUTSIDE HF_QKVO HF_MLP HF_FOUR_NORMS HF_QK_NORMS},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static pl_error err;

static bool is(const char *a, const char *b) {
    return strcmp(a, b) == 0;
}

/* A small description of the family with the parts that its files may have. variant 0 or 1. */
static pl_config config_of_family(const char *name, int variant) {
    pl_config c = config_of(name);
    bool partial = is(name, "stablelm") || is(name, "gptneox") || is(name, "phi3");
    c.d_model = 24, c.n_heads = 4, c.n_kv_heads = is(name, "gpt2") || is(name, "gptneox") ? 4 : 2;
    c.d_head = is(name, "qwen3") || is(name, "gemma3") ? 8 : 6;
    c.d_mlp = 20, c.d_vocab = VOCAB, c.n_ctx = 128;
    c.n_layers = is(name, "gemma3") ? 7 : 3; /* a full layer among those with a window */
    if (c.n_experts) c.n_experts = 4;
    if (c.window || is(name, "mistral") || (is(name, "phi3") && variant)) c.window = 9;
    if (partial) c.rope_dims = variant ? 2 : 4;
    if (is(name, "llama")) {
        c.rope_scaling = variant ? PL_ROPE_LINEAR : PL_ROPE_LLAMA3;
        c.rope_factor = 8, c.rope_original_ctx = 64;
        c.rope_low_freq_factor = 1, c.rope_high_freq_factor = 4;
    }
    if (is(name, "stablelm") || is(name, "gptneox")) c.parallel = variant == 1;
    c.shared_norm = is(name, "stablelm") && variant;
    if (is(name, "stablelm")) c.qkv_bias = variant;
    if (variant && is(name, "gemma3")) c.rope_scaling = PL_ROPE_LINEAR, c.rope_factor = 8;
    if (variant && is(name, "qwen2")) c.tied = true;
    return c;
}

static void assert_names(const char *path, const char *names) {
    pl_weights_file file = {0};
    if (pl_weights_file_open(&file, path, &err) != PL_OK) fail_msg("%s", err.message);
    char *list = strdup(names), *rest = list;
    for (const char *name; (name = strtok_r(rest, " ", &rest));) {
        size_t index;
        if (!pl_weights_file_find(&file, name, &index)) fail_msg("%s: no %s", path, name);
    }
    free(list);
    pl_weights_file_close(&file);
}

static float *logits_of(pl_model *model) {
    int32_t tokens[N];
    for (int i = 0; i < N; i++) tokens[i] = (i * i + 5 * i) % VOCAB;
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    float *logits = engine_logits(session, tokens, N);
    pl_session_free(session);
    return logits;
}

static void assert_same_description(const pl_config *a, const pl_config *b) {
    assert_string_equal(a->arch, b->arch);
    assert_int_equal(a->window, b->window);
    assert_int_equal(a->window_period, b->window_period);
    assert_int_equal(a->rope_dims, b->rope_dims);
    assert_int_equal(a->parallel, b->parallel);
    assert_int_equal(a->shared_norm, b->shared_norm);
    assert_int_equal(a->n_experts, b->n_experts);
    assert_int_equal(a->n_experts_used, b->n_experts_used);
    assert_int_equal(a->qkv_bias, b->qkv_bias);
    assert_int_equal(a->tied, b->tied);
    assert_true(a->rope_base_local == b->rope_base_local);
    assert_true(a->attn_softcap == b->attn_softcap);
    assert_true(a->logit_softcap == b->logit_softcap);
    assert_true(a->embed_scale == b->embed_scale);
    assert_true(fabsf(a->attn_scale - b->attn_scale) < 1e-6f);
}

static void hold_round_trip(const family *f, int variant, bool gguf) {
    char *folder = make_folder();
    char path[128], weights[160];
    snprintf(path, sizeof path, "%s/%s", folder, gguf ? "model.gguf" : "saved");
    snprintf(weights, sizeof weights, "%s%s", path, gguf ? "" : "/model.safetensors");
    pl_config config = config_of_family(f->name, variant);
    if (!gguf && strncmp(f->name, "gemma", 5) == 0) config.attn_scale = 0.25f;
    pl_model *model = must_random(&config, PL_F32, 100 + (uint64_t)variant);
    if (pl_model_save(model, path, NULL, &err) != PL_OK) fail_msg("%s: %s", f->name, err.message);
    if (!variant) assert_names(weights, gguf ? f->gguf : f->hf);
    pl_model *loaded = must_load(path);
    assert_same_description(&loaded->config, &model->config);
    float *expected = logits_of(model), *logits = logits_of(loaded);
    for (int i = 0; i < N * VOCAB; i++) {
        if (fabsf(logits[i] - expected[i]) <= 1e-5f) continue;
        fail_msg("%s, variant %d, %s: logit %d is %g, expected %g", f->name, variant,
                 gguf ? "GGUF" : "safetensors", i, (double)logits[i], (double)expected[i]);
    }
    free(expected), free(logits);
    pl_model_free(model), pl_model_free(loaded);
    remove_folder(folder);
}

static void test_what_is_written_loads_with_the_same_logits(void **state) {
    (void)state;
    for (int i = 0; i < N_FAMILIES * 4; i++) {
        hold_round_trip(&families[i / 4], i % 2, i % 4 < 2);
    }
}

static void test_every_family_equals_the_reference(void **state) {
    (void)state;
    int32_t tokens[N];
    for (int i = 0; i < N; i++) tokens[i] = (i * i + 5 * i) % VOCAB;
    for (int i = 0; i < N_FAMILIES * 2; i++) {
        pl_config config = config_of_family(families[i / 2].name, i % 2);
        pl_model *model = must_random(&config, PL_F32, 200 + (uint64_t)i);
        assert_model_matches(model, tokens, N, 2e-5);
        pl_model_free(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_family_equals_the_reference),
        cmocka_unit_test(test_what_is_written_loads_with_the_same_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
