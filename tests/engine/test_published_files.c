/* Safetensors as the families' publishers lay them out, put together here by hand: fused matrices
 * in their orders, gains that are distances from 1, experts one by one, and config.json with the
 * very keys that stand in published ones. What is loaded computes what the weights it was made of
 * do. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/base/arena.h"
#include "../../engine/format/safetensors.h"
#include "format_fixture.h"
#include "model_fixture.h"

enum { N = 40, VOCAB = 13, MOST = 200 };

static pl_error err;

typedef struct file {
    pl_safetensors_item items[MOST];
    pl_tensor tensors[MOST];
    char names[MOST][96];
    size_t n;
    pl_arena memory;
} file;

/* Room for a tensor [n_rows, n], or [n] where n_rows is 0, under a name with %d for the layer. */
static float *add(file *f, const char *name, int layer, int64_t n_rows, int64_t n) {
    assert_true(f->n < MOST);
    int64_t shape[] = {n_rows, n};
    float *data = pl_arena_alloc(&f->memory, (size_t)((n_rows ? n_rows : 1) * n) * sizeof *data);
    pl_tensor *t = &f->tensors[f->n];
    assert_int_equal(
        pl_tensor_wrap(t, PL_F32, n_rows ? 2 : 1, n_rows ? shape : shape + 1, data, NULL), PL_OK);
    snprintf(f->names[f->n], sizeof f->names[f->n], name, layer);
    f->items[f->n] = (pl_safetensors_item){.name = f->names[f->n], .tensor = t};
    f->n++;
    return data;
}

static float at(const pl_tensor *t, int64_t i, int64_t j) {
    bool vector = t->n_dims == 1;
    return (
        (const float *)t->data)[vector ? j * t->stride[0] : i * t->stride[0] + j * t->stride[1]];
}

static int64_t rows_of(const pl_tensor *t) {
    return t->n_dims == 2 ? t->shape[0] : 1;
}

/* The rows of t into out, `less` subtracted from each number. */
static void copy_rows(float *out, const pl_tensor *t, float less) {
    int64_t n = t->shape[t->n_dims - 1];
    for (int64_t i = 0; i < rows_of(t); i++) {
        for (int64_t j = 0; j < n; j++) out[i * n + j] = at(t, i, j) - less;
    }
}

static void put(file *f, const char *name, int layer, const pl_tensor *t) {
    copy_rows(add(f, name, layer, t->n_dims == 2 ? t->shape[0] : 0, t->shape[t->n_dims - 1]), t, 0);
}

/* A gain as its distance from 1. */
static void put_distance(file *f, const char *name, int layer, const pl_tensor *t) {
    copy_rows(add(f, name, layer, 0, t->shape[0]), t, 1);
}

/* Several matrices or biases, one under the other. */
static void put_stacked(file *f, const char *name, int layer, const pl_tensor *const *parts,
                        int n) {
    int64_t width = parts[0]->shape[parts[0]->n_dims - 1], rows = 0;
    for (int i = 0; i < n; i++) rows += rows_of(parts[i]);
    float *out = add(f, name, layer, rows, width);
    for (int i = 0; i < n; i++) {
        copy_rows(out, parts[i], 0);
        out += rows_of(parts[i]) * width;
    }
}

/* GPT-NeoX: of each head its queries, keys and values. width 1: biases. */
static void put_by_head(file *f, const char *name, int layer, const pl_tensor *const parts[3],
                        int64_t n_heads, int64_t d_head) {
    bool matrix = parts[0]->n_dims == 2;
    int64_t width = matrix ? parts[0]->shape[1] : 1, rows = 3 * n_heads * d_head;
    float *out = matrix ? add(f, name, layer, rows, width) : add(f, name, layer, 0, rows);
    for (int64_t head = 0; head < n_heads; head++) {
        for (int part = 0; part < 3; part++) {
            for (int64_t i = 0; i < d_head; i++) {
                int64_t row = head * d_head + i;
                for (int64_t j = 0; j < width; j++) {
                    *out++ = matrix ? at(parts[part], row, j) : at(parts[part], 0, row);
                }
            }
        }
    }
}

#define L "model.layers.%d."

static void put_attention(file *f, int l, const pl_block_weights *b) {
    put(f, L "self_attn.q_proj.weight", l, &b->q.w);
    put(f, L "self_attn.k_proj.weight", l, &b->k.w);
    put(f, L "self_attn.v_proj.weight", l, &b->v.w);
    put(f, L "self_attn.o_proj.weight", l, &b->o.w);
}

static void put_mlp(file *f, int l, const pl_block_weights *b) {
    put(f, L "mlp.gate_proj.weight", l, &b->gate.w);
    put(f, L "mlp.up_proj.weight", l, &b->in.w);
    put(f, L "mlp.down_proj.weight", l, &b->out.w);
}

static void put_norms_before(file *f, int l, const pl_block_weights *b) {
    put(f, L "input_layernorm.weight", l, &b->norm[PL_ATTENTION][PL_NORM_BEFORE].gain);
    put(f, L "post_attention_layernorm.weight", l, &b->norm[PL_MLP][PL_NORM_BEFORE].gain);
}

static void put_outside(file *f, const pl_model *m) {
    put(f, "model.embed_tokens.weight", 0, &m->weights.embed);
    if (!m->config.tied) put(f, "lm_head.weight", 0, &m->weights.unembed.w);
}

/* -- families -------------------------------------------------------------------------------- */

#define SIZES                                                                                      \
    "\"hidden_size\": 24, \"intermediate_size\": 20, \"max_position_embeddings\": 128, "           \
    "\"num_attention_heads\": 4, \"vocab_size\": 13, \"torch_dtype\": \"float32\", "               \
    "\"transformers_version\": \"4.51.0\", \"use_cache\": true, "

static void write_gptneox(file *f, const pl_model *m) {
#define NEOX "gpt_neox.layers.%d."
    const pl_config *c = &m->config;
    put(f, "gpt_neox.embed_in.weight", 0, &m->weights.embed);
    put(f, "gpt_neox.final_layer_norm.weight", 0, &m->weights.norm_final.gain);
    put(f, "gpt_neox.final_layer_norm.bias", 0, &m->weights.norm_final.bias);
    put(f, "embed_out.weight", 0, &m->weights.unembed.w);
    for (int l = 0; l < c->n_layers; l++) {
        const pl_block_weights *b = &m->weights.blocks[l];
        const pl_tensor *const w[] = {&b->q.w, &b->k.w, &b->v.w};
        const pl_tensor *const biases[] = {&b->q.b, &b->k.b, &b->v.b};
        const pl_norm_weights *first = &b->norm[PL_ATTENTION][PL_NORM_BEFORE];
        const pl_norm_weights *second = &b->norm[PL_MLP][PL_NORM_BEFORE];
        put_by_head(f, NEOX "attention.query_key_value.weight", l, w, c->n_heads, c->d_head);
        put_by_head(f, NEOX "attention.query_key_value.bias", l, biases, c->n_heads, c->d_head);
        put(f, NEOX "attention.dense.weight", l, &b->o.w);
        put(f, NEOX "attention.dense.bias", l, &b->o.b);
        put(f, NEOX "input_layernorm.weight", l, &first->gain);
        put(f, NEOX "input_layernorm.bias", l, &first->bias);
        put(f, NEOX "post_attention_layernorm.weight", l, &second->gain);
        put(f, NEOX "post_attention_layernorm.bias", l, &second->bias);
        put(f, NEOX "mlp.dense_h_to_4h.weight", l, &b->in.w);
        put(f, NEOX "mlp.dense_h_to_4h.bias", l, &b->in.b);
        put(f, NEOX "mlp.dense_4h_to_h.weight", l, &b->out.w);
        put(f, NEOX "mlp.dense_4h_to_h.bias", l, &b->out.b);
        add(f, NEOX "attention.rotary_emb.inv_freq", l, 0, 2)[0] = 7; /* which nobody reads */
    }
}

static void write_gemma3(file *f, const pl_model *m) {
    put_outside(f, m);
    put_distance(f, "model.norm.weight", 0, &m->weights.norm_final.gain);
    for (int l = 0; l < m->config.n_layers; l++) {
        const pl_block_weights *b = &m->weights.blocks[l];
        const pl_norm_weights *attention = b->norm[PL_ATTENTION], *mlp = b->norm[PL_MLP];
        put_attention(f, l, b);
        put_mlp(f, l, b);
        put_distance(f, L "self_attn.q_norm.weight", l, &b->q_norm.gain);
        put_distance(f, L "self_attn.k_norm.weight", l, &b->k_norm.gain);
        put_distance(f, L "input_layernorm.weight", l, &attention[PL_NORM_BEFORE].gain);
        put_distance(f, L "post_attention_layernorm.weight", l,
                     &attention[PL_NORM_AFTER_SUBLAYER].gain);
        put_distance(f, L "pre_feedforward_layernorm.weight", l, &mlp[PL_NORM_BEFORE].gain);
        put_distance(f, L "post_feedforward_layernorm.weight", l,
                     &mlp[PL_NORM_AFTER_SUBLAYER].gain);
    }
}

static void write_phi3(file *f, const pl_model *m) {
    put_outside(f, m);
    put(f, "model.norm.weight", 0, &m->weights.norm_final.gain);
    for (int l = 0; l < m->config.n_layers; l++) {
        const pl_block_weights *b = &m->weights.blocks[l];
        const pl_tensor *const qkv[] = {&b->q.w, &b->k.w, &b->v.w};
        const pl_tensor *const gate_up[] = {&b->gate.w, &b->in.w};
        put_stacked(f, L "self_attn.qkv_proj.weight", l, qkv, 3);
        put(f, L "self_attn.o_proj.weight", l, &b->o.w);
        put_stacked(f, L "mlp.gate_up_proj.weight", l, gate_up, 2);
        put(f, L "mlp.down_proj.weight", l, &b->out.w);
        put_norms_before(f, l, b);
    }
}

static void write_mixtral(file *f, const pl_model *m) {
    put_outside(f, m);
    put(f, "model.norm.weight", 0, &m->weights.norm_final.gain);
    for (int l = 0; l < m->config.n_layers; l++) {
        const pl_block_weights *b = &m->weights.blocks[l];
        put_attention(f, l, b);
        put_norms_before(f, l, b);
        put(f, L "block_sparse_moe.gate.weight", l, &b->router.w);
        for (int e = 0; e < m->config.n_experts; e++) {
            const struct {
                const char *name;
                const pl_tensor *t;
            } maps[] = {{"w1", &b->experts[e].gate.w},
                        {"w2", &b->experts[e].out.w},
                        {"w3", &b->experts[e].in.w}};
            for (int i = 0; i < 3; i++) {
                char name[96];
                snprintf(name, sizeof name, L "block_sparse_moe.experts.%d.%s.weight", l, e,
                         maps[i].name);
                put(f, name, 0, maps[i].t);
            }
        }
    }
}

static void write_olmo2(file *f, const pl_model *m) {
    put_outside(f, m);
    put(f, "model.norm.weight", 0, &m->weights.norm_final.gain);
    for (int l = 0; l < m->config.n_layers; l++) {
        const pl_block_weights *b = &m->weights.blocks[l];
        put_attention(f, l, b);
        put_mlp(f, l, b);
        put(f, L "self_attn.q_norm.weight", l, &b->q_norm.gain);
        put(f, L "self_attn.k_norm.weight", l, &b->k_norm.gain);
        put(f, L "post_attention_layernorm.weight", l,
            &b->norm[PL_ATTENTION][PL_NORM_AFTER_SUBLAYER].gain);
        put(f, L "post_feedforward_layernorm.weight", l,
            &b->norm[PL_MLP][PL_NORM_AFTER_SUBLAYER].gain);
    }
}

static void write_stablelm(file *f, const pl_model *m) {
    put_outside(f, m);
    put(f, "model.norm.weight", 0, &m->weights.norm_final.gain);
    put(f, "model.norm.bias", 0, &m->weights.norm_final.bias);
    for (int l = 0; l < m->config.n_layers; l++) {
        const pl_block_weights *b = &m->weights.blocks[l];
        put_attention(f, l, b);
        put(f, L "self_attn.q_proj.bias", l, &b->q.b);
        put(f, L "self_attn.k_proj.bias", l, &b->k.b);
        put(f, L "self_attn.v_proj.bias", l, &b->v.b);
        put_mlp(f, l, b);
        put_norms_before(f, l, b);
        put(f, L "input_layernorm.bias", l, &b->norm[PL_ATTENTION][PL_NORM_BEFORE].bias);
        put(f, L "post_attention_layernorm.bias", l, &b->norm[PL_MLP][PL_NORM_BEFORE].bias);
    }
}

static void write_qwen3(file *f, const pl_model *m) {
    put_outside(f, m);
    put(f, "model.norm.weight", 0, &m->weights.norm_final.gain);
    for (int l = 0; l < m->config.n_layers; l++) {
        const pl_block_weights *b = &m->weights.blocks[l];
        put_attention(f, l, b);
        put_mlp(f, l, b);
        put_norms_before(f, l, b);
        put(f, L "self_attn.q_norm.weight", l, &b->q_norm.gain);
        put(f, L "self_attn.k_norm.weight", l, &b->k_norm.gain);
    }
}

/* -- what config.json says, and what that is in the engine's words ----------------------------- */

typedef struct published {
    const char *arch;
    pl_config config; /* what differs from the family's own, sizes left out */
    void (*write)(file *f, const pl_model *m);
    const char *json; /* without what SIZES has */
} published;

static const published families[] = {
    {"gptneox",
     {.n_kv_heads = 4, .d_head = 6, .n_layers = 3, .rope_dims = 4},
     write_gptneox,
     "\"architectures\": [\"GPTNeoXForCausalLM\"], \"model_type\": \"gpt_neox\", \"bos_token_id\": "
     "0, \"eos_token_id\": 0, \"hidden_act\": \"gelu\", \"initializer_range\": 0.02, "
     "\"layer_norm_eps\": 1e-05, \"num_hidden_layers\": 3, \"rotary_emb_base\": 10000, "
     "\"rotary_pct\": 0.7, \"tie_word_embeddings\": false, \"use_parallel_residual\": true"},
    {"gemma3",
     {.n_kv_heads = 2, .d_head = 8, .n_layers = 7, .window = 9, .attn_scale = 0.25f},
     write_gemma3,
     "\"architectures\": [\"Gemma3ForCausalLM\"], \"model_type\": \"gemma3_text\", "
     "\"attention_bias\": false, \"attention_dropout\": 0.0, \"attn_logit_softcapping\": null, "
     "\"bos_token_id\": 2, \"cache_implementation\": \"hybrid\", \"eos_token_id\": [1, 106], "
     "\"final_logit_softcapping\": null, \"head_dim\": 8, \"hidden_activation\": "
     "\"gelu_pytorch_tanh\", \"num_hidden_layers\": 7, \"num_key_value_heads\": 2, "
     "\"query_pre_attn_scalar\": 16, \"rms_norm_eps\": 1e-06, \"rope_local_base_freq\": 10000, "
     "\"rope_scaling\": null, \"rope_theta\": 1000000, \"sliding_window\": 9, "
     "\"sliding_window_pattern\": 6"},
    {"phi3",
     {.n_kv_heads = 2,
      .d_head = 6,
      .n_layers = 3,
      .window = 9,
      .rope_scaling = PL_ROPE_LONG,
      .rope_original_ctx = 40},
     write_phi3,
     "\"architectures\": [\"Phi3ForCausalLM\"], \"model_type\": \"phi3\", \"attention_dropout\": "
     "0.0, \"bos_token_id\": 1, \"embd_pdrop\": 0.0, \"eos_token_id\": 32000, \"hidden_act\": "
     "\"silu\", \"num_hidden_layers\": 3, \"num_key_value_heads\": 2, "
     "\"original_max_position_embeddings\": 40, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, "
     "\"sliding_window\": 9, \"tie_word_embeddings\": false, \"rope_scaling\": {\"type\": "
     "\"longrope\", \"short_factor\": [%.9g, %.9g, %.9g], \"long_factor\": [%.9g, %.9g, %.9g]}"},
    {"mixtral",
     {.n_kv_heads = 2,
      .d_head = 6,
      .n_layers = 3,
      .n_experts = 4,
      .n_experts_used = 2,
      .rope_base = 1000000},
     write_mixtral,
     "\"architectures\": [\"MixtralForCausalLM\"], \"model_type\": \"mixtral\", "
     "\"attention_dropout\": 0.0, \"hidden_act\": \"silu\", \"num_experts_per_tok\": 2, "
     "\"num_hidden_layers\": 3, \"num_key_value_heads\": 2, \"num_local_experts\": 4, "
     "\"output_router_logits\": false, \"rms_norm_eps\": 1e-05, \"rope_theta\": 1000000.0, "
     "\"router_aux_loss_coef\": 0.02, \"sliding_window\": null, \"tie_word_embeddings\": false"},
    {"olmo2",
     {.n_kv_heads = 2, .d_head = 6, .n_layers = 3, .norm_eps = 1e-6f, .rope_base = 500000},
     write_olmo2,
     "\"architectures\": [\"Olmo2ForCausalLM\"], \"model_type\": \"olmo2\", \"attention_bias\": "
     "false, \"attention_dropout\": 0.0, \"hidden_act\": \"silu\", \"num_hidden_layers\": 3, "
     "\"num_key_value_heads\": 2, \"pad_token_id\": 100277, \"rms_norm_eps\": 1e-06, "
     "\"rope_scaling\": null, \"rope_theta\": 500000, \"tie_word_embeddings\": false"},
    {"stablelm",
     {.n_kv_heads = 2, .d_head = 6, .n_layers = 3, .rope_dims = 2, .qkv_bias = true},
     write_stablelm,
     "\"architectures\": [\"StableLmForCausalLM\"], \"model_type\": \"stablelm\", \"hidden_act\": "
     "\"silu\", \"hidden_dropout\": 0.0, \"layer_norm_eps\": 1e-05, \"num_hidden_layers\": 3, "
     "\"num_key_value_heads\": 2, \"partial_rotary_factor\": 0.34, \"qk_layernorm\": false, "
     "\"rope_scaling\": null, \"rope_theta\": 10000, \"tie_word_embeddings\": false, "
     "\"use_parallel_residual\": false, \"use_qkv_bias\": true"},
    {"qwen3",
     {.n_kv_heads = 2, .d_head = 8, .n_layers = 3, .rope_base = 1000000, .tied = true},
     write_qwen3,
     "\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", \"attention_bias\": "
     "false, \"attention_dropout\": 0.0, \"head_dim\": 8, \"hidden_act\": \"silu\", "
     "\"max_window_layers\": 28, \"num_hidden_layers\": 3, \"num_key_value_heads\": 2, "
     "\"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 1000000, "
     "\"sliding_window\": null, \"tie_word_embeddings\": true, \"use_sliding_window\": false"},
};

static pl_config config_for(const published *p) {
    const pl_config *d = &p->config;
    pl_config c = config_of(p->arch);
    c.d_model = 24, c.n_heads = 4, c.d_mlp = 20, c.d_vocab = VOCAB, c.n_ctx = 128;
    c.n_kv_heads = d->n_kv_heads, c.d_head = d->d_head, c.n_layers = d->n_layers;
    c.rope_dims = d->rope_dims, c.window = d->window, c.attn_scale = d->attn_scale;
    c.rope_scaling = d->rope_scaling, c.rope_original_ctx = d->rope_original_ctx;
    c.n_experts = d->n_experts, c.n_experts_used = d->n_experts_used;
    if (d->rope_base > 0) c.rope_base = d->rope_base;
    if (d->norm_eps > 0) c.norm_eps = d->norm_eps;
    if (d->qkv_bias) c.qkv_bias = true;
    if (d->tied) c.tied = true;
    return c;
}

static void write_folder(const char *folder, const published *p, const pl_model *m) {
    file *f = calloc(1, sizeof *f);
    char text[4096], more[2048];
    float s[3] = {1, 1, 1}, l[3] = {1, 1, 1};
    if (m->weights.rope_factors.data) {
        memcpy(s, m->weights.rope_factors_short.data, sizeof s);
        memcpy(l, m->weights.rope_factors.data, sizeof l);
    }
    snprintf(more, sizeof more, p->json, (double)s[0], (double)s[1], (double)s[2], (double)l[0],
             (double)l[1], (double)l[2]);
    int n = snprintf(text, sizeof text, "{%s%s}", SIZES, more);
    write_bytes(in_folder(folder, "config.json"), text, (size_t)n);
    p->write(f, m);
    pl_status status =
        pl_safetensors_write(in_folder(folder, "model.safetensors"), f->items, f->n, NULL, 0, &err);
    if (status != PL_OK) fail_msg("%s: %s", p->arch, err.message);
    pl_arena_clear(&f->memory);
    free(f);
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

static void test_published_layouts(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const published *p = &families[i];
        char *folder = make_folder();
        pl_config config = config_for(p);
        pl_model *made = must_random(&config, PL_F32, 50 + i);
        write_folder(folder, p, made);
        pl_model *loaded = must_load(folder);
        assert_string_equal(loaded->config.arch, p->arch);
        float *expected = logits_of(made), *logits = logits_of(loaded);
        for (int k = 0; k < N * VOCAB; k++) {
            if (fabsf(logits[k] - expected[k]) <= 1e-5f) continue;
            fail_msg("%s: logit %d is %g, expected %g", p->arch, k, (double)logits[k],
                     (double)expected[k]);
        }
        free(expected), free(logits);
        pl_model_free(loaded), pl_model_free(made);
        remove_folder(folder);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_published_layouts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
