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
#include "../../engine/format/gguf_write.h"
#include "../../engine/format/weights_file.h"
#include "format_fixture.h"
#include "model_fixture.h"

enum { N = 40, VOCAB = 13 };

/* A family, and names that its files have for the second block and outside of the blocks. */
typedef struct family {
    const char *name, *gguf, *hf; /* NULL: no such files */
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
#define GG_ENCODER                                                                                 \
    "token_embd.weight position_embd.weight token_embd_norm.bias " GG                              \
    "attn_output_norm.weight " GG "layer_output_norm.bias " GG "ffn_up.bias "

static const family families[] = {
    {"gpt2", GG_OUTSIDE "position_embd.weight " GG "attn_qkv.weight " GG "attn_qkv.bias",
     "transformer.wte.weight transformer.wpe.weight transformer.h.1.attn.c_attn.bias"},
    {"openai-gpt", NULL,
     "transformer.tokens_embed.weight transformer.positions_embed.weight "
     "transformer.h.1.attn.c_attn.bias transformer.h.1.attn.c_proj.weight "
     "transformer.h.1.ln_1.bias transformer.h.1.mlp.c_fc.weight transformer.h.1.mlp.c_proj.bias "
     "transformer.h.1.ln_2.weight"},
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
    {"bert",
     GG_ENCODER GG_QKVO "token_types.weight pooler.bias output_dense.weight output_norm.bias "
                        "output.bias",
     "bert.embeddings.word_embeddings.weight bert.embeddings.token_type_embeddings.weight "
     "bert.embeddings.LayerNorm.bias bert.encoder.layer.1.attention.self.query.bias "
     "bert.encoder.layer.1.attention.output.LayerNorm.weight bert.pooler.dense.weight "
     "bert.encoder.layer.1.output.LayerNorm.bias cls.predictions.transform.dense.weight "
     "cls.predictions.transform.LayerNorm.weight cls.predictions.bias"},
    {"distilbert", GG_ENCODER GG_QKVO "output_dense.bias output_norm.weight output.bias",
     "distilbert.embeddings.position_embeddings.weight "
     "distilbert.transformer.layer.1.ffn.lin1.bias "
     "distilbert.transformer.layer.1.attention.q_lin.weight vocab_transform.weight "
     "distilbert.transformer.layer.1.sa_layer_norm.bias vocab_layer_norm.bias vocab_projector.bias "
     "distilbert.transformer.layer.1.output_layer_norm.weight"},
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
    bool encoder = is(name, "bert") || is(name, "distilbert");
    c.d_model = 24, c.n_heads = 4,
    c.n_kv_heads =
        is(name, "gpt2") || is(name, "openai-gpt") || is(name, "gptneox") || encoder ? 4 : 2;
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
    if (is(name, "phi3")) c.rope_scaling = PL_ROPE_LONG, c.rope_original_ctx = 40;
    if (is(name, "qwen2")) {
        c.rope_scaling = PL_ROPE_YARN, c.rope_factor = 4, c.rope_original_ctx = 4096;
        c.rope_attn_factor = variant ? 1.3f : 0;
    }
    if (is(name, "stablelm") || is(name, "gptneox")) c.parallel = variant == 1;
    c.shared_norm = is(name, "stablelm") && variant;
    if (is(name, "stablelm")) c.qkv_bias = variant;
    if (variant && is(name, "gemma3")) c.rope_scaling = PL_ROPE_LINEAR, c.rope_factor = 8;
    if (variant && is(name, "qwen2")) c.tied = true;
    if (variant && encoder) c.tied = false;
    c.pooler = is(name, "bert");
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
    assert_int_equal(a->pooler, b->pooler);
    assert_int_equal(a->n_token_types, b->n_token_types);
    assert_int_equal(a->unembed_bias, b->unembed_bias);
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
    if (gguf && is(f->name, "distilbert")) { /* there it is a BERT without kinds of tokens */
        assert_string_equal(loaded->config.arch, "bert");
        memcpy(loaded->config.arch, f->name, sizeof "distilbert");
    }
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
        bool gguf = i % 4 < 2;
        if (!gguf || families[i / 4].gguf) hold_round_trip(&families[i / 4], i % 2, gguf);
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

/* -- files of other writers ------------------------------------------------------------------ */

/* Older GGUF files of Mixtral hold a tensor for each expert, which are the names of the weights. */
static void test_experts_in_tensors_of_their_own(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *path = in_folder(folder, "model.gguf");
    pl_config c = config_of_family("mixtral", 0);
    c.rope_half = false;
    pl_model *model = must_random(&c, PL_F32, 7);
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {{"llama.embedding_length", c.d_model},
                   {"llama.block_count", c.n_layers},
                   {"llama.attention.head_count", c.n_heads},
                   {"llama.attention.head_count_kv", c.n_kv_heads},
                   {"llama.feed_forward_length", c.d_mlp},
                   {"llama.expert_count", c.n_experts},
                   {"llama.expert_used_count", c.n_experts_used},
                   {"llama.context_length", c.n_ctx}};
    pl_gguf_writer *w;
    assert_int_equal(pl_gguf_writer_new(&w, &err), PL_OK);
    assert_int_equal(pl_gguf_put_string(w, "general.architecture", "llama", 5, &err), PL_OK);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        assert_int_equal(pl_gguf_put_u32(w, numbers[i].key, (uint32_t)numbers[i].value, &err),
                         PL_OK);
    }
    for (size_t i = 0; i < pl_model_n_weights(model); i++) {
        pl_named_weight weight;
        pl_model_weight(model, i, &weight);
        assert_int_equal(pl_gguf_put_tensor(w, weight.name, &weight.tensor, &err), PL_OK);
    }
    assert_int_equal(pl_gguf_writer_save(w, path, &err), PL_OK);
    pl_gguf_writer_free(w);
    pl_model *loaded = must_load(path);
    assert_string_equal(loaded->config.arch, "mixtral");
    float *expected = logits_of(model), *logits = logits_of(loaded);
    assert_memory_equal(logits, expected, sizeof(float) * N * VOCAB);
    free(expected), free(logits);
    pl_model_free(model), pl_model_free(loaded);
    remove_folder(folder);
}

/* -- contradictions -------------------------------------------------------------------------- */

static void assert_refused(const char *what, const char *path, const char *words) {
    pl_model *model = NULL;
    err.message[0] = 0;
    pl_status status = pl_model_load(&model, path, &err);
    if (status == PL_OK || !strstr(err.message, words)) {
        fail_msg("%s: %s, '%s': expected '%s'", what, pl_status_name(status), err.message, words);
    }
}

static char *read_file(const char *path, size_t *n) {
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("cannot open %s", path);
    char *bytes = calloc(1, 1 << 20);
    *n = fread(bytes, 1, (1 << 20) - 1, file);
    fclose(file);
    return bytes;
}

static void write_file(const char *path, const char *bytes, size_t n) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, n, file) != n) fail_msg("cannot write %s", path);
    fclose(file);
}

/* A family's own files with one value of config.json changed. */
static void test_descriptions_that_contradict_their_tensors(void **state) {
    (void)state;
    static const struct {
        const char *family, *from, *to, *words;
    } cases[] = {
        {"mixtral", "\"num_local_experts\": 4", "\"num_local_experts\": 5", "experts.4.w1"},
        {"mixtral", "\"num_local_experts\": 4", "\"num_local_experts\": 3", "experts.3."},
        {"mixtral", "\"model_type\": \"mixtral\"", "\"model_type\": \"mistral\"", "gate_proj"},
        {"qwen3", "\"head_dim\": 8", "\"head_dim\": 4", "attn_q.weight"},
        {"qwen3", "\"model_type\": \"qwen3\"", "\"model_type\": \"llama\"", "_norm.weight"},
        {"llama", "\"model_type\": \"llama\"", "\"model_type\": \"qwen2\"", "q_proj.bias"},
        {"olmo2", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 1", "attn_k"},
        {"phi3", "\"intermediate_size\": 20", "\"intermediate_size\": 18", "gate_up_proj"},
        {"phi3", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", "qkv_proj"},
        {"gptneox", "\"num_key_value_heads\": 4", "\"num_key_value_heads\": 2", "query_key_value"},
        {"gemma2", "\"vocab_size\": 13", "\"vocab_size\": 14", "token_embd"},
        {"stablelm", "\"use_parallel_residual\": false", "\"use_parallel_residual\": true",
         "post_attention_layernorm"},
        {"gemma3", "\"model_type\": \"gemma3_text\"", "\"model_type\": \"gemma2\"", "_norm"},
        {"bert", "\"type_vocab_size\": 2", "\"type_vocab_size\": 3", "token_types.weight"},
        {"bert", "\"max_position_embeddings\": 128", "\"max_position_embeddings\": 64",
         "position_embd"},
        {"bert", "\"model_type\": \"bert\"", "\"model_type\": \"distilbert\"", "is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *folder = make_folder(), path[160];
        snprintf(path, sizeof path, "%s/config.json", folder);
        pl_config config = config_of_family(cases[i].family, 0);
        pl_model *model = must_random(&config, PL_F32, 3);
        if (pl_model_save(model, folder, NULL, &err) != PL_OK) fail_msg("%s", err.message);
        size_t n;
        char *text = read_file(path, &n), *at = strstr(text, cases[i].from);
        if (!at) fail_msg("%s is not in %s", cases[i].from, text);
        char *changed = calloc(1, n + 64);
        snprintf(changed, n + 64, "%.*s%s%s", (int)(at - text), text, cases[i].to,
                 at + strlen(cases[i].from));
        write_file(path, changed, strlen(changed));
        assert_refused(cases[i].to, folder, cases[i].words);
        free(text), free(changed);
        pl_model_free(model);
        remove_folder(folder);
    }
}

/* The same of GGUF: a number, which stands behind its key and a type of four bytes. */
static void test_keys_that_contradict_their_tensors(void **state) {
    (void)state;
    static const struct {
        const char *family, *key;
        uint32_t value;
        const char *words;
    } cases[] = {
        {"mixtral", "llama.expert_count", 3, "experts"},
        {"mixtral", "llama.expert_count", 0, "n_experts_used = 2"},
        {"mixtral", "llama.expert_count", 100000, "n_experts = 100000"},
        {"mixtral", "llama.expert_used_count", 0, "n_experts_used = 0"},
        {"mixtral", "llama.expert_used_count", 5, "n_experts_used = 5"},
        {"llama", "llama.rope.dimension_count", 4, "rope_freqs"},
        {"llama", "llama.rope.dimension_count", 3, "rope_dims = 3"},
        {"llama", "llama.rope.dimension_count", 64, "rope_dims = 64"},
        {"phi3", "phi3.feed_forward_length", 21, "ffn_up"},
        {"phi3", "phi3.rope.dimension_count", 2, "rope_factors_long"},
        {"phi3", "phi3.rope.scaling.original_context_length", 0, "original_context_length = 0"},
        {"phi3", "phi3.rope.scaling.attn_factor", 0x7fc00000u, "attn_factor = nan"},
        {"qwen2", "qwen2.rope.scaling.factor", 0xbf800000u, "rope_factor = -1"},
        {"qwen2", "qwen2.rope.scaling.yarn_beta_fast", 0x3f000000u, "rope_beta_fast = 0.5"},
        {"qwen3", "qwen3.attention.key_length", 10, "attn_q"},
        {"olmo2", "olmo2.attention.head_count_kv", 1, "attn_k"},
        {"gemma2", "gemma2.attn_logit_softcapping", 0xff800000u, "attn_logit_softcapping"},
        {"gemma2", "gemma2.final_logit_softcapping", 0xbf800000u, "logit_softcap = -1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *folder = make_folder();
        const char *path = in_folder(folder, "model.gguf");
        pl_config config = config_of_family(cases[i].family, 0);
        pl_model *model = must_random(&config, PL_F32, 3);
        if (pl_model_save(model, path, NULL, &err) != PL_OK) fail_msg("%s", err.message);
        size_t n, length = strlen(cases[i].key);
        char *bytes = read_file(path, &n), *at = memmem(bytes, n, cases[i].key, length);
        if (!at) fail_msg("%s is not in the file", cases[i].key);
        memcpy(at + length + 4, &cases[i].value, 4);
        write_file(path, bytes, n);
        assert_refused(cases[i].key, path, cases[i].words);
        free(bytes);
        pl_model_free(model);
        remove_folder(folder);
    }
}

/* A family's GGUF file with one key more, a list of n bools or, where n is 0, a number. The file
 * that has it not lies beside. */
static void write_with(const char *folder, const char *path, const pl_config *config,
                       const char *key, uint32_t number, const uint8_t *list, size_t n) {
    const char *plain = in_folder(folder, "plain.gguf");
    pl_model *model = must_random(config, PL_F32, 3);
    pl_gguf *old;
    pl_gguf_writer *w;
    if (pl_model_save(model, plain, NULL, &err) != PL_OK) fail_msg("%s", err.message);
    assert_int_equal(pl_gguf_open(&old, plain, &err), PL_OK);
    assert_int_equal(pl_gguf_writer_new(&w, &err), PL_OK);
    for (size_t i = 0; i < pl_gguf_n_values(old); i++) {
        assert_int_equal(pl_gguf_put_value(w, pl_gguf_value_at(old, i), &err), PL_OK);
    }
    for (size_t i = 0; i < pl_gguf_n_tensors(old); i++) {
        pl_tensor t;
        char name[128];
        pl_gguf_string s = pl_gguf_tensor_name(old, i);
        snprintf(name, sizeof name, "%.*s", (int)s.size, s.data);
        assert_int_equal(pl_gguf_tensor(old, i, &t, &err), PL_OK);
        assert_int_equal(pl_gguf_put_tensor(w, name, &t, &err), PL_OK);
    }
    pl_status status = n ? pl_gguf_put_array(w, key, PL_GGUF_BOOL, list, n, &err)
                         : pl_gguf_put_u32(w, key, number, &err);
    assert_int_equal(status, PL_OK);
    assert_int_equal(pl_gguf_writer_save(w, path, &err), PL_OK);
    pl_gguf_writer_free(w);
    pl_gguf_close(old);
    pl_model_free(model);
}

/* Which layers have a window: every so many-th has none, or the file tells of each. */
static void test_patterns_of_windows(void **state) {
    (void)state;
    static const char pattern[] = "gemma3.attention.sliding_window_pattern";
    static const struct {
        const char *family, *key;
        uint32_t number;
        size_t n;
        uint8_t list[8];
        int64_t period; /* else: */
        const char *words;
    } cases[] = {
        {"gemma3", pattern, 3, 0, {0}, 3, NULL},
        {"gemma3", pattern, 0, 7, {1, 0, 1, 0, 1, 0, 1}, 2, NULL},
        {"gemma3", pattern, 0, 7, {1, 1, 1, 1, 1, 1, 1}, 0, NULL},
        {"gemma3", pattern, 0, 7, {0, 0, 0, 0, 0, 0, 0}, 1, NULL},
        {"gemma3", pattern, 0, 7, {1, 1, 0, 1, 1, 1, 1}, 0, "layer 5 breaks the pattern"},
        {"gemma3", pattern, 0, 7, {1, 0, 0, 1, 1, 1, 1}, 0, "layer 2 breaks the pattern"},
        {"gemma3", pattern, 0, 6, {1, 0, 1, 0, 1, 0}, 0, "a bool for each layer"},
        {"gemma3", pattern, 100000, 0, {0}, 0, "window_period = 100000"},
        {"olmo2", "olmo2.attention.sliding_window", 9, 0, {0}, 0, "sliding_window = 9"},
        {"gptneox", "gptneox.attention.sliding_window", 9, 0, {0}, 0, "in the family gptneox"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *folder = make_folder();
        const char *path = in_folder(folder, "model.gguf");
        pl_config config = config_of_family(cases[i].family, 0);
        write_with(folder, path, &config, cases[i].key, cases[i].number, cases[i].list, cases[i].n);
        if (cases[i].words) {
            assert_refused(cases[i].key, path, cases[i].words);
        } else {
            pl_model *model = must_load(path);
            assert_int_equal(model->config.window_period, cases[i].period);
            pl_model_free(model);
        }
        remove_folder(folder);
    }
}

/* Factors by which nothing can be divided, in tensors and in config.json. */
static void test_tables_of_rotations(void **state) {
    (void)state;
    static const float bad[] = {0, -2, NAN, INFINITY};
    for (int i = 0; i < 16; i++) {
        bool brief = i / 4 % 2, gguf = i / 8;
        char *folder = make_folder();
        const char *path = in_folder(folder, gguf ? "model.gguf" : "saved");
        pl_config config = config_of_family("phi3", 0);
        pl_model *model = must_random(&config, PL_F32, 3);
        const pl_weights *w = &model->weights;
        float *factors = brief ? w->rope_factors_short.data : w->rope_factors.data;
        factors[1] = bad[i % 4];
        if (pl_model_save(model, path, NULL, &err) != PL_OK) fail_msg("%s", err.message);
        assert_refused("a table", path,
                       gguf    ? "entry 1"
                       : brief ? "short_factor: e"
                               : "long_factor: e");
        pl_model_free(model);
        remove_folder(folder);
    }
}

/* StableLM's writers say that blocks are parallel where config.json says nothing, which means that
 * they are not: the norm of the mlp tells. */
static void test_blocks_that_are_said_to_be_parallel(void **state) {
    (void)state;
    static const char key[] = "stablelm.use_parallel_residual";
    char *folder = make_folder();
    const char *path = in_folder(folder, "model.gguf");
    pl_config config = config_of_family("stablelm", 0);
    pl_model *model = must_random(&config, PL_F32, 3);
    if (pl_model_save(model, path, NULL, &err) != PL_OK) fail_msg("%s", err.message);
    size_t n;
    char *bytes = read_file(path, &n), *at = memmem(bytes, n, key, sizeof key - 1);
    assert_non_null(at);
    assert_int_equal(at[sizeof key - 1 + 4], 0);
    at[sizeof key - 1 + 4] = 1;
    write_file(path, bytes, n);
    pl_model *loaded = must_load(path);
    assert_false(loaded->config.parallel);
    float *expected = logits_of(model), *logits = logits_of(loaded);
    for (int i = 0; i < N * VOCAB; i++) assert_true(fabsf(logits[i] - expected[i]) <= 1e-5f);
    free(expected), free(logits), free(bytes);
    pl_model_free(model), pl_model_free(loaded);
    remove_folder(folder);
}

/* What a family's files cannot hold is not left out. */
static void test_what_cannot_be_written_is_named(void **state) {
    (void)state;
    char *folder = make_folder();
    char path[160];
    pl_config c[7];
    const char *words[] = {"window",       "experts",    "norm of queries", "soft-capped",
                           "scale of the", "attn_scale", "table of rotary"};
    for (int i = 0; i < 7; i++) c[i] = config_of_family("mistral", 0);
    for (int i = 0; i < 3; i++) c[i] = config_of_family("qwen2", 0);
    c[0] = config_of_family("olmo2", 0), c[0].window = 4;
    c[1].n_experts = 4, c[1].n_experts_used = 2;
    c[2].qk_norm = PL_QK_NORM_HEAD;
    c[3].logit_softcap = 4;
    c[4].embed_scale = 2;
    c[5].attn_scale = 0.3f;
    c[6].rope_scaling = PL_ROPE_TABLE;
    for (int i = 0; i < 7; i++) {
        pl_model *model = must_random(&c[i], PL_F32, 3);
        snprintf(path, sizeof path, "%s/saved%d", folder, i);
        pl_status status = pl_model_save(model, path, NULL, &err);
        if (status != PL_ERR_UNSUPPORTED || !strstr(err.message, words[i])) {
            fail_msg("%s: %s, '%s'", words[i], pl_status_name(status), err.message);
        }
        pl_model_free(model);
    }
    remove_folder(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_family_equals_the_reference),
        cmocka_unit_test(test_what_is_written_loads_with_the_same_logits),
        cmocka_unit_test(test_experts_in_tensors_of_their_own),
        cmocka_unit_test(test_descriptions_that_contradict_their_tensors),
        cmocka_unit_test(test_keys_that_contradict_their_tensors),
        cmocka_unit_test(test_patterns_of_windows),
        cmocka_unit_test(test_tables_of_rotations),
        cmocka_unit_test(test_blocks_that_are_said_to_be_parallel),
        cmocka_unit_test(test_what_cannot_be_written_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
