/* Low-rank adapters: against a float64 reference whose matrices have B A added, as their files say
 * it, and their files themselves. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/base/random.h"
#include "../../engine/format/gguf_write.h"
#include "../../engine/format/safetensors.h"
#include "../../engine/model/adapter.h"
#include "format_fixture.h"
#include "model_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N = 7, VOCAB = 70, D = 32, HEADS = 4, HEAD = 8, MLP = 48, RANK = 3, MAX_MODULES = 24 };
static const int32_t tokens[N] = {3, 1, 69, 3, 12, 40, 2};
static const double alpha = 2;

static pl_model *new_model(const char *arch, uint64_t seed) {
    pl_config config = config_of(arch);
    config.d_model = D, config.d_mlp = MLP, config.n_layers = 2, config.n_heads = HEADS;
    config.n_kv_heads = strcmp(arch, "llama") == 0 ? 2 : HEADS;
    config.d_vocab = VOCAB, config.n_ctx = 32;
    if (strcmp(arch, "mixtral") == 0) config.n_experts = 3, config.n_experts_used = 2;
    return must_random(&config, PL_F32, seed);
}

/* -- adapters written by hand ----------------------------------------------------------------- */

/* What a module's rows in the file add to: parts one after the other, or their heads in turns. */
typedef struct module {
    char name[120];
    int64_t n_in, n_out;
    reference_linear *parts[3];
    int n_parts;
    bool by_head;
    float *a, *b; /* [RANK, n_in], [n_out, RANK] */
} module;

typedef struct modules {
    module list[MAX_MODULES];
    size_t n;
    pl_random random;
} modules;

static float *random_floats(pl_random *random, int64_t n) {
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) x[i] = 0.3f * pl_random_normal(random);
    return x;
}

static module *add_module(modules *m, const char *name, int64_t n_in, int64_t n_out) {
    assert_true(m->n < MAX_MODULES);
    module *new = &m->list[m->n++];
    *new = (module){.n_in = n_in, .n_out = n_out};
    snprintf(new->name, sizeof new->name, "%s", name);
    new->a = random_floats(&m->random, RANK * n_in);
    new->b = random_floats(&m->random, n_out * RANK);
    return new;
}

static void add_single(modules *m, int layer, const char *pattern, reference_linear *to,
                       int64_t n_in, int64_t n_out) {
    char name[120];
    snprintf(name, sizeof name, pattern, layer);
    module *new = add_module(m, name, n_in, n_out);
    new->parts[0] = to;
    new->n_parts = 1;
}

static void add_qkv(modules *m, int layer, const char *pattern, reference_block *b, bool by_head) {
    char name[120];
    snprintf(name, sizeof name, pattern, layer);
    module *new = add_module(m, name, D, 3 * D);
    new->parts[0] = &b->q, new->parts[1] = &b->k, new->parts[2] = &b->v;
    new->n_parts = 3;
    new->by_head = by_head;
}

/* As the families' Hugging Face files have them. */
static modules modules_of(const char *arch, reference *r, uint64_t seed) {
    modules m = {.random = {.seed = seed}};
    int64_t d_kv = r->config.n_kv_heads * HEAD;
    for (int l = 0; l < 2; l++) {
        reference_block *b = &r->blocks[l];
        if (strcmp(arch, "gpt2") == 0) {
            add_qkv(&m, l, "transformer.h.%d.attn.c_attn", b, false);
            add_single(&m, l, "transformer.h.%d.attn.c_proj", &b->o, D, D);
            add_single(&m, l, "transformer.h.%d.mlp.c_fc", &b->in, D, MLP);
            add_single(&m, l, "transformer.h.%d.mlp.c_proj", &b->out, MLP, D);
        } else if (strcmp(arch, "llama") == 0) {
            add_single(&m, l, "model.layers.%d.self_attn.q_proj", &b->q, D, D);
            add_single(&m, l, "model.layers.%d.self_attn.k_proj", &b->k, D, d_kv);
            add_single(&m, l, "model.layers.%d.self_attn.v_proj", &b->v, D, d_kv);
            add_single(&m, l, "model.layers.%d.self_attn.o_proj", &b->o, D, D);
            add_single(&m, l, "model.layers.%d.mlp.gate_proj", &b->gate, D, MLP);
            add_single(&m, l, "model.layers.%d.mlp.up_proj", &b->in, D, MLP);
            add_single(&m, l, "model.layers.%d.mlp.down_proj", &b->out, MLP, D);
        } else if (strcmp(arch, "gptneox") == 0) {
            add_qkv(&m, l, "gpt_neox.layers.%d.attention.query_key_value", b, true);
            add_single(&m, l, "gpt_neox.layers.%d.mlp.dense_4h_to_h", &b->out, MLP, D);
        } else { /* mixtral */
            add_single(&m, l, "model.layers.%d.self_attn.q_proj", &b->q, D, D);
            add_single(&m, l, "model.layers.%d.block_sparse_moe.gate", &b->router, D, 3);
            add_single(&m, l, "model.layers.%d.block_sparse_moe.experts.1.w2", &b->experts[1].out,
                       MLP, D);
            add_single(&m, l, "model.layers.%d.block_sparse_moe.experts.2.w1", &b->experts[2].gate,
                       D, MLP);
        }
    }
    if (strcmp(arch, "llama") == 0) add_single(&m, 0, "lm_head", &r->unembed, D, VOCAB);
    return m;
}

static void free_modules(modules *m) {
    for (size_t i = 0; i < m->n; i++) {
        free(m->list[i].a);
        free(m->list[i].b);
    }
}

/* W += scale B A, in float64. */
static void add_to_reference(const modules *m, double scale) {
    for (size_t i = 0; i < m->n; i++) {
        const module *one = &m->list[i];
        int64_t first = 0;
        for (int64_t row = 0, part = 0; row < one->n_out; row++) {
            int64_t to = row - first;
            if (one->by_head) {
                part = row / HEAD % 3;
                to = row / (3 * HEAD) * HEAD + row % HEAD;
            } else if (one->n_parts == 3 && to == D) {
                part++, first = row, to = 0;
            }
            double *w = one->parts[part]->w + to * one->n_in;
            for (int64_t k = 0; k < RANK; k++) {
                double left = scale * (double)one->b[row * RANK + k];
                for (int64_t j = 0; j < one->n_in; j++) {
                    w[j] += left * (double)one->a[k * one->n_in + j];
                }
            }
        }
    }
}

static pl_tensor wrapped(float *data, int64_t rows, int64_t columns) {
    pl_tensor t;
    assert_int_equal(pl_tensor_wrap(&t, PL_F32, 2, (int64_t[]){rows, columns}, data, NULL), PL_OK);
    return t;
}

static void write_text(const char *folder, const char *name, const char *text) {
    write_bytes(in_folder(folder, name), text, strlen(text));
}

/* PEFT's layout, with the configuration's further fields. */
static void write_peft(const char *folder, const modules *m, const char *more) {
    static char names[2 * MAX_MODULES][200];
    pl_tensor tensors[2 * MAX_MODULES];
    pl_safetensors_item items[2 * MAX_MODULES];
    for (size_t i = 0; i < 2 * m->n; i++) {
        const module *one = &m->list[i / 2];
        bool b = i % 2;
        snprintf(names[i], sizeof names[i], "base_model.model.%s.lora_%c.weight", one->name,
                 b ? 'B' : 'A');
        tensors[i] = b ? wrapped(one->b, one->n_out, RANK) : wrapped(one->a, RANK, one->n_in);
        items[i] = (pl_safetensors_item){.name = names[i], .tensor = &tensors[i]};
    }
    pl_error err;
    if (pl_safetensors_write(in_folder(folder, "adapter_model.safetensors"), items, 2 * m->n, NULL,
                             0, &err) != PL_OK) {
        fail_msg("%s", err.message);
    }
    char text[600];
    snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": %g%s}", RANK,
             alpha, more);
    write_text(folder, "adapter_config.json", text);
}

static pl_adapter *must_adapter(pl_model *model, const char *path) {
    pl_adapter *adapter = NULL;
    pl_error err;
    if (pl_adapter_load(&adapter, model, path, &err) != PL_OK) fail_msg("%s", err.message);
    return adapter;
}

static void must_wear(pl_sequence *seq, pl_adapter *adapter, float scale) {
    pl_error err;
    if (pl_sequence_set_adapter(seq, adapter, scale, &err) != PL_OK) fail_msg("%s", err.message);
}

static reference *must_reference(const pl_model *model) {
    reference *r;
    pl_error err;
    if (reference_new(&r, model, &err) != PL_OK) fail_msg("%s", err.message);
    return r;
}

/* In one call, or token by token. */
static void run(pl_sequence *seq, bool whole, float logits[N * VOCAB]) {
    for (int i = 0; i < (whole ? 1 : N); i++) {
        must_extend(seq, tokens + i, whole ? N : 1, PL_LOGITS_ALL, logits + (ptrdiff_t)i * VOCAB);
    }
}

/* -- what they compute ------------------------------------------------------------------------ */

static void hold_to_reference(pl_model *model, pl_adapter *adapter, const reference *r,
                              float scale) {
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    double *expected = reference_logits(r, tokens, N);
    float logits[N * VOCAB];
    for (int whole = 0; whole < 2; whole++) {
        pl_sequence *seq = must_sequence(session);
        must_wear(seq, adapter, scale);
        run(seq, whole, logits);
        assert_near("logits", logits, expected, N * VOCAB, 2e-5);
        assert_int_equal(pl_sequence_stale(seq), 0);
        pl_sequence_free(seq);
    }
    free(expected);
    pl_session_free(session);
}

static void test_adapted_models_match_a_float64_reference(void **state) {
    (void)state;
    static const char *const families[] = {"gpt2", "llama", "gptneox", "mixtral"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        char *folder = make_folder();
        pl_model *model = new_model(families[i], 7);
        reference *r = must_reference(model);
        modules m = modules_of(families[i], r, 11);
        write_peft(folder, &m, "");
        pl_adapter *adapter = must_adapter(model, folder);
        add_to_reference(&m, alpha / RANK * -0.5);
        hold_to_reference(model, adapter, r, -0.5f);
        pl_adapter_free(adapter);
        /* rsLoRA divides by the root. */
        add_to_reference(&m, alpha / RANK * 0.5 + alpha / sqrt((double)RANK));
        write_peft(folder, &m, ", \"use_rslora\": true, \"alpha_pattern\": {\"nobody\": 3}");
        adapter = must_adapter(model, folder);
        hold_to_reference(model, adapter, r, 1);
        pl_adapter_free(adapter);
        reference_free(r);
        free_modules(&m);
        pl_model_free(model);
        remove_folder(folder);
    }
}

/* Queries and keys lie in another order in GGUF: whichever file the base and the adapter come from,
 * the logits are the same. */
static void test_files_of_both_kinds_fit_bases_of_both_kinds(void **state) {
    (void)state;
    char *folder = make_folder();
    pl_model *made = new_model("llama", 3);
    reference *r = must_reference(made);
    modules m = modules_of("llama", r, 5);
    write_peft(folder, &m, "");
    add_to_reference(&m, alpha / RANK);
    pl_error err;
    assert_int_equal(pl_model_save(made, in_folder(folder, "base.gguf"), NULL, &err), PL_OK);
    pl_model *gguf = must_load(in_folder(folder, "base.gguf"));
    assert_int_not_equal(gguf->config.rope_half, made->config.rope_half);
    pl_adapter *adapter = must_adapter(gguf, folder);
    hold_to_reference(gguf, adapter, r, 1);

    /* The same in GGUF, by its own names and order. */
    static const char *const names[] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                        "ffn_gate", "ffn_up", "ffn_down"};
    pl_gguf_writer *w;
    assert_int_equal(pl_gguf_writer_new(&w, &err), PL_OK);
    pl_gguf_put_string(w, "general.type", "adapter", 7, &err);
    pl_gguf_put_string(w, "general.architecture", "llama", 5, &err);
    pl_gguf_put_string(w, "adapter.type", "lora", 4, &err);
    pl_gguf_put_f32(w, "adapter.lora.alpha", (float)alpha, &err);
    pl_tensor tensors[2 * MAX_MODULES];
    for (size_t i = 0; i < adapter->n_pairs; i++) {
        const pl_pair *pair = &adapter->pairs[i];
        char name[80];
        const char *end = names[i % 7];
        for (size_t k = 0; k < 7; k++) {
            char own[80];
            pl_target_name(own, sizeof own, &pair->target, false);
            if (strstr(own, names[k])) end = names[k];
        }
        bool outside = pair->target.layer < 0;
        for (int b = 0; b < 2; b++) {
            if (outside)
                snprintf(name, sizeof name, "output.weight.lora_%c", b ? 'b' : 'a');
            else
                snprintf(name, sizeof name, "blk.%lld.%s.weight.lora_%c",
                         (long long)pair->target.layer, end, b ? 'b' : 'a');
            tensors[2 * i + (size_t)b] = b ? pair->b : pair->a; /* the base has GGUF's order */
            assert_int_equal(pl_gguf_put_tensor(w, name, &tensors[2 * i + (size_t)b], &err), PL_OK);
        }
    }
    assert_int_equal(pl_gguf_writer_save(w, in_folder(folder, "adapter.gguf"), &err), PL_OK);
    pl_gguf_writer_free(w);
    pl_adapter *second = must_adapter(made, in_folder(folder, "adapter.gguf"));
    hold_to_reference(made, second, r, 1);
    pl_buffer bytes = read_bytes(in_folder(folder, "adapter.gguf"));
    feed_damaged(LLVMFuzzerTestOneInput, bytes.data, bytes.size);
    pl_buffer_clear(&bytes);
    bytes = read_bytes(in_folder(folder, "adapter_model.safetensors"));
    feed_damaged(LLVMFuzzerTestOneInput, bytes.data, bytes.size);
    pl_buffer_clear(&bytes);

    pl_adapter_free(second);
    pl_adapter_free(adapter);
    pl_model_free(gguf);
    reference_free(r);
    free_modules(&m);
    pl_model_free(made);
    remove_folder(folder);
}

/* Sequences of one pass with other adapters, at other scales, beside one with none: each has the
 * very numbers that it has alone. */
static void test_company_changes_no_bit(void **state) {
    (void)state;
    enum { SEQS = 5 };
    static const float scales[SEQS][2] = {{1, 0}, {-0.5f, 0}, {0, 0}, {0.25f, 2}, {1, 1}};
    char *folder = make_folder();
    pl_model *model = new_model("gpt2", 1);
    reference *r = must_reference(model);
    pl_adapter *adapters[2];
    for (uint64_t i = 0; i < 2; i++) {
        modules m = modules_of("gpt2", r, i);
        write_peft(folder, &m, "");
        adapters[i] = must_adapter(model, folder);
        free_modules(&m);
    }
    pl_session *session = must_session(model, NULL);
    pl_extension items[SEQS];
    float alone[SEQS][N * VOCAB], together[SEQS][N * VOCAB];
    pl_error err;
    for (int i = 0; i < SEQS; i++) {
        for (int copy = 0; copy < 2; copy++) {
            pl_sequence *seq = must_sequence(session);
            for (int k = 0; k < 2; k++) must_wear(seq, adapters[k], scales[i][k]);
            if (copy) {
                items[i] = (pl_extension){seq, tokens, N, PL_LOGITS_ALL, together[i], NULL};
                continue;
            }
            run(seq, true, alone[i]);
            pl_sequence_free(seq);
        }
    }
    assert_int_equal(pl_session_extend(session, items, SEQS, &err), PL_OK);
    for (int i = 0; i < SEQS; i++) {
        assert_memory_equal(alone[i], together[i], sizeof alone[i]);
        assert_true(i == 0 || memcmp(alone[i], alone[i - 1], sizeof alone[i]) != 0);
        pl_sequence_free(items[i].seq);
    }
    for (int i = 0; i < 2; i++) pl_adapter_free(adapters[i]);
    pl_session_free(session);
    reference_free(r);
    pl_model_free(model);
    remove_folder(folder);
}

static void test_changes_leave_stale_positions_that_recompute_renews(void **state) {
    (void)state;
    char *folder = make_folder();
    pl_model *model = new_model("llama", 1);
    reference *r = must_reference(model);
    modules m = modules_of("llama", r, 2);
    write_peft(folder, &m, "");
    pl_adapter *adapter = must_adapter(model, folder);
    pl_session *session = must_session(model, NULL);
    pl_sequence *seq = must_sequence(session), *fresh = must_sequence(session), *fork;
    pl_error err;
    float before[VOCAB], after[VOCAB], expected[VOCAB];
    must_extend(seq, tokens, N - 1, PL_LOGITS_NONE, NULL);
    must_wear(seq, adapter, 0);
    assert_int_equal(pl_sequence_stale(seq), 0); /* it wore none before */
    must_wear(seq, adapter, 0.5f);
    assert_int_equal(pl_sequence_stale(seq), N - 1);
    must_wear(fresh, adapter, 0.5f);
    must_extend(fresh, tokens, N - 1, PL_LOGITS_NONE, NULL);
    assert_int_equal(pl_sequence_fork(&fork, seq, &err), PL_OK);
    assert_int_equal(pl_sequence_stale(fork), N - 1);
    must_extend(fork, tokens + N - 1, 1, PL_LOGITS_LAST, before);
    assert_int_equal(pl_sequence_recompute(seq, &err), PL_OK);
    assert_int_equal(pl_sequence_stale(seq), 0);
    assert_int_equal(pl_sequence_length(seq), N - 1);
    must_extend(seq, tokens + N - 1, 1, PL_LOGITS_LAST, after);
    must_extend(fresh, tokens + N - 1, 1, PL_LOGITS_LAST, expected);
    assert_memory_equal(after, expected, sizeof after);
    assert_memory_not_equal(after, before, sizeof after);
    assert_int_equal(pl_sequence_truncate(fork, 2, &err), PL_OK);
    assert_int_equal(pl_sequence_stale(fork), 2);
    pl_adapter_use use;
    assert_int_equal(pl_sequence_adapters(fork, &use, 1), 1);
    assert_ptr_equal(use.adapter, adapter);
    assert_true(use.scale == 0.5f);

    /* What a session is given, its next sequences begin with. */
    assert_int_equal(pl_session_set_adapter(session, adapter, 0.5f, &err), PL_OK);
    pl_sequence *heir = must_sequence(session);
    must_extend(heir, tokens, N, PL_LOGITS_LAST, after);
    assert_memory_equal(after, expected, sizeof after);
    pl_sequence_free(heir);
    pl_sequence_free(fork);
    pl_sequence_free(fresh);
    pl_sequence_free(seq);
    pl_session_free(session);
    pl_adapter_free(adapter);
    free_modules(&m);
    reference_free(r);
    pl_model_free(model);
    remove_folder(folder);
}

/* -- files ------------------------------------------------------------------------------------ */

static void logits_with(pl_model *model, pl_adapter *adapter, float scale, float *logits) {
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    pl_sequence *seq = must_sequence(session);
    if (adapter) must_wear(seq, adapter, scale);
    run(seq, true, logits);
    pl_sequence_free(seq);
    pl_session_free(session);
}

static void hold_near(const float *a, const float *b, float tolerance) {
    for (int i = 0; i < N * VOCAB; i++) {
        if (fabsf(a[i] - b[i]) > tolerance * fmaxf(1, fabsf(b[i]))) {
            fail_msg("logit %d: %g and %g", i, (double)a[i], (double)b[i]);
        }
    }
}

static void test_saved_and_merged_adapters_compute_the_same(void **state) {
    (void)state;
    static const char *const families[] = {"gpt2", "llama", "gptneox", "mixtral"};
    float worn[N * VOCAB], again[N * VOCAB];
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        char *folder = make_folder();
        pl_error err;
        pl_model *made = new_model(families[i], 9), *merged;
        assert_int_equal(pl_model_save(made, in_folder(folder, "base"), NULL, &err), PL_OK);
        pl_model *model = must_load(in_folder(folder, "base")); /* GPT-2's: transposed */
        reference *r = must_reference(model);
        modules m = modules_of(families[i], r, 4);
        write_peft(folder, &m, ", \"rank_pattern\": {\"x\": 1}, \"alpha_pattern\": {\"0\": 1}");
        pl_adapter *adapter = must_adapter(model, folder);
        logits_with(model, adapter, 0.7f, worn);
        assert_int_equal(pl_adapter_save(adapter, in_folder(folder, "saved"), &err), PL_OK);
        pl_adapter *saved = must_adapter(model, in_folder(folder, "saved"));
        logits_with(model, saved, 0.7f, again);
        hold_near(worn, again, 1e-6f);
        pl_adapter_free(saved);

        const pl_adapter_use use = {adapter, 0.7f};
        assert_int_equal(pl_model_merge(&merged, model, &use, 1, &err), PL_OK);
        pl_model_free(model);
        logits_with(merged, NULL, 0, again);
        hold_near(worn, again, 2e-5f);
        assert_int_equal(pl_model_save(merged, in_folder(folder, "merged.gguf"), NULL, &err),
                         PL_OK);
        pl_model *loaded = must_load(in_folder(folder, "merged.gguf"));
        logits_with(loaded, NULL, 0, again);
        hold_near(worn, again, 2e-5f);
        pl_model_free(loaded);
        pl_model_free(merged);
        pl_adapter_free(adapter);
        free_modules(&m);
        reference_free(r);
        pl_model_free(made);
        remove_folder(folder);
    }
}

/* From PEFT's layout to GGUF and back, on bases of both kinds: queries and keys change their order
 * twice, and the experts of Mixtral become one tensor and several again. */
static void test_adapters_go_from_one_layout_to_the_other(void **state) {
    (void)state;
    static const char *const families[] = {"gpt2", "llama", "gptneox", "mixtral"};
    float worn[N * VOCAB], again[N * VOCAB];
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        char *folder = make_folder();
        pl_error err;
        pl_model *made = new_model(families[i], 9);
        assert_int_equal(pl_model_save(made, in_folder(folder, "base.gguf"), NULL, &err), PL_OK);
        pl_model *gguf = must_load(in_folder(folder, "base.gguf"));
        reference *r = must_reference(made);
        modules m = modules_of(families[i], r, 4);
        write_peft(folder, &m, "");
        pl_adapter *adapter = must_adapter(made, folder);
        logits_with(made, adapter, 0.7f, worn);
        if (pl_adapter_save(adapter, in_folder(folder, "a.gguf"), &err) != PL_OK)
            fail_msg("%s", err.message);
        pl_adapter *second = must_adapter(made, in_folder(folder, "a.gguf"));
        logits_with(made, second, 0.7f, again);
        hold_near(worn, again, 1e-6f);
        pl_adapter *third = must_adapter(gguf, in_folder(folder, "a.gguf"));
        logits_with(gguf, third, 0.7f, again);
        hold_near(worn, again, 2e-5f);
        assert_int_equal(pl_adapter_save(third, in_folder(folder, "back"), &err), PL_OK);
        pl_adapter *fourth = must_adapter(made, in_folder(folder, "back"));
        logits_with(made, fourth, 0.7f, again);
        hold_near(worn, again, 1e-6f);

        adapter->pairs[1].scale *= 2;
        assert_int_equal(pl_adapter_save(adapter, in_folder(folder, "b.gguf"), &err),
                         PL_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, "several alphas"));
        adapter->pairs[1].scale /= 2;
        pl_adapter_free(fourth);
        pl_adapter_free(third);
        pl_adapter_free(second);
        pl_adapter_free(adapter);
        free_modules(&m);
        reference_free(r);
        pl_model_free(gguf);
        pl_model_free(made);
        remove_folder(folder);
    }
}

static void test_alpha_pattern_goes_by_the_longest_end_of_a_name(void **state) {
    (void)state;
    char *folder = make_folder(), name[120];
    pl_model *model = new_model("llama", 1);
    reference *r = must_reference(model);
    modules m = modules_of("llama", r, 2);
    write_peft(folder, &m,
               ", \"alpha_pattern\": {\"q_proj\": 30, \"layers.1.self_attn.q_proj\": 60, "
               "\"_proj\": 90}");
    pl_adapter *adapter = must_adapter(model, folder);
    for (size_t i = 0; i < adapter->n_pairs; i++) {
        const pl_pair *pair = &adapter->pairs[i];
        pl_target_name(name, sizeof name, &pair->target, true);
        bool query = strstr(name, "q_proj");
        double expected = !query ? alpha : strstr(name, "layers.1.") ? 60 : 30;
        assert_true(fabs((double)pair->scale - expected / RANK) < 1e-6);
    }
    pl_adapter_free(adapter);
    free_modules(&m);
    reference_free(r);
    pl_model_free(model);
    remove_folder(folder);
}

static void refuse(pl_model *model, const char *path, pl_status status, const char *part) {
    pl_adapter *adapter = NULL;
    pl_error err = {0};
    assert_int_equal(pl_adapter_load(&adapter, model, path, &err), status);
    if (!strstr(err.message, part)) fail_msg("'%s' does not say '%s'", err.message, part);
}

static void test_bad_adapters_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *config, *part;
        pl_status status;
    } cases[] = {
        {"{\"peft_type\": \"IA3\"}", "peft_type = IA3", PL_ERR_UNSUPPORTED},
        {"{\"r\": 3}", "peft_type = (none)", PL_ERR_UNSUPPORTED},
        {"{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 1, \"use_dora\": true}", "use_dora",
         PL_ERR_UNSUPPORTED},
        {"{\"peft_type\": \"LORA\", \"r\": 0, \"lora_alpha\": 1}", "r: expected", PL_ERR_FORMAT},
        {"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 1}", "r = 4", PL_ERR_SHAPE},
        {"{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": \"x\"}", "lora_alpha", PL_ERR_FORMAT},
        {"{\"peft_type\": \"LORA\", \"r\": 3}", "lora_alpha", PL_ERR_FORMAT},
        {"{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 1, \"alpha_pattern\": "
         "{\".*q\": 2}}",
         "regular expression", PL_ERR_UNSUPPORTED},
        {"{\"peft_type\": \"LORA\", ", "adapter_config.json", PL_ERR_FORMAT},
    };
    char *folder = make_folder();
    pl_model *model = new_model("llama", 1), *other = new_model("gpt2", 1);
    reference *r = must_reference(model);
    modules m = modules_of("llama", r, 2);
    write_peft(folder, &m, "");
    refuse(other, folder, PL_ERR_ARGUMENT, "it is for another base");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(folder, "adapter_config.json", cases[i].config);
        refuse(model, folder, cases[i].status, cases[i].part);
    }
    m.list[0].n_in--; /* no such width */
    write_peft(folder, &m, "");
    refuse(model, folder, PL_ERR_SHAPE, "model.layers.0.self_attn.q_proj has A [3, 31]");
    m.list[0].n_in++;
    snprintf(m.list[0].name, sizeof m.list[0].name, "model.layers.2.self_attn.q_proj");
    write_peft(folder, &m, "");
    refuse(model, folder, PL_ERR_ARGUMENT, "model.layers.2.self_attn.q_proj.lora_");
    refuse(model, in_folder(folder, "nowhere"), PL_ERR_IO, "nowhere");

    pl_adapter *adapter;
    pl_error err;
    pl_sequence *seq;
    pl_session *session = must_session(other, NULL);
    assert_int_equal(pl_adapter_new(&adapter, model, NULL, 0, 2, 4, 0, &err), PL_OK);
    seq = must_sequence(session);
    assert_int_equal(pl_sequence_set_adapter(seq, adapter, 1, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "another model"));
    pl_sequence_free(seq);
    pl_session_free(session);
    session = must_session(model, NULL);
    seq = must_sequence(session);
    assert_int_equal(pl_sequence_set_adapter(seq, adapter, NAN, &err), PL_ERR_ARGUMENT);
    pl_adapter_free(adapter);
    const char *const target = "q_prok";
    assert_int_equal(pl_adapter_new(&adapter, model, &target, 1, 2, 4, 0, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "q_proj k_proj v_proj"));
    assert_int_equal(pl_adapter_new(&adapter, model, NULL, 0, 0, 4, 0, &err), PL_ERR_ARGUMENT);
    pl_sequence_free(seq);
    pl_session_free(session);
    free_modules(&m);
    reference_free(r);
    pl_model_free(other);
    pl_model_free(model);
    remove_folder(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adapted_models_match_a_float64_reference),
        cmocka_unit_test(test_files_of_both_kinds_fit_bases_of_both_kinds),
        cmocka_unit_test(test_company_changes_no_bit),
        cmocka_unit_test(test_changes_leave_stale_positions_that_recompute_renews),
        cmocka_unit_test(test_saved_and_merged_adapters_compute_the_same),
        cmocka_unit_test(test_adapters_go_from_one_layout_to_the_other),
        cmocka_unit_test(test_alpha_pattern_goes_by_the_longest_end_of_a_name),
        cmocka_unit_test(test_bad_adapters_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
