/* The engine against numbers that others computed, and against the float64 reference where nobody
 * else has any: every kind of description, every point. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "model_fixture.h"
#include "../../engine/format/gguf.h"

/* Each prompt of a fixture with logits[sequence][position][vocab]. */
static void hold_to_fixture(pl_model *model, const char *logits_path) {
    json_t *json = need_json(logits_path);
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    size_t i, t, v, d_vocab = (size_t)model->config.d_vocab;
    json_t *sequence, *row, *value;
    json_array_foreach(json_object_get(json, "sequences"), i, sequence) {
        int64_t n;
        int32_t *tokens = json_tokens(sequence, &n);
        float *logits = engine_logits(session, tokens, n);
        const json_t *rows = json_array_get(json_object_get(json, "logits"), i);
        assert_int_equal(json_array_size(rows), n);
        json_array_foreach(rows, t, row) {
            json_array_foreach(row, v, value) {
                double expected = json_number_value(value);
                assert_near("logit", &logits[t * d_vocab + v], &expected, 1, 2e-5);
            }
        }
        free(logits);
        free(tokens);
    }
    json_decref(json);
    pl_session_free(session);
}

static void test_gpt2_equals_hugging_face(void **state) {
    (void)state;
    pl_model *model =
        load_with_config(need_data("fixtures/gpt2/tiny_gpt2.safetensors"),
                         "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_layer\": 2, \"n_head\": 2,"
                         " \"n_positions\": 16, \"vocab_size\": 11}");
    hold_to_fixture(model, need_data("fixtures/gpt2/tiny_gpt2_logits.json"));
    const int32_t tokens[] = {0, 3, 6, 1, 8, 0, 7, 7};
    assert_model_matches(model, tokens, 8, 2e-5);
    pl_model_free(model);
}

static pl_model *load_llama(const char *weights, const char *config_name) {
    json_t *json = need_json(need_data(config_name));
    char *config = json_dumps(json, 0);
    json_decref(json);
    pl_model *model = load_with_config(need_data(weights), config);
    free(config);
    return model;
}

static void test_llama_equals_hugging_face(void **state) {
    (void)state;
    pl_model *model = load_llama("fixtures/llama/tiny_llama.safetensors",
                                 "fixtures/llama/tiny_llama_config.json");
    hold_to_fixture(model, need_data("fixtures/llama/tiny_llama_logits.json"));
    pl_model_free(model);
}

static pl_model *load_shards(void) {
    static const char *const names[] = {"tiny_llama-00001-of-00002.safetensors",
                                        "tiny_llama-00002-of-00002.safetensors",
                                        "tiny_llama.safetensors.index.json"};
    char folder[] = "/tmp/perilune-shards-XXXXXX", path[4096], target[4096];
    assert_non_null(mkdtemp(folder));
    json_t *config = need_json(need_data("fixtures/llama/tiny_llama_config.json"));
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    for (int i = 0; i < 3; i++) {
        char name[96];
        snprintf(name, sizeof name, "fixtures/llama/%s", names[i]);
        assert_non_null(realpath(need_data(name), target));
        snprintf(path, sizeof path, "%s/%s", folder,
                 i < 2 ? names[i] : "model.safetensors.index.json");
        assert_int_equal(symlink(target, path), 0);
    }
    pl_model *model = must_load(folder);
    for (int i = 0; i < 4; i++) {
        static const char *const ends[] = {"config.json", "model.safetensors.index.json"};
        snprintf(path, sizeof path, "%s/%s", folder, i < 2 ? names[i] : ends[i - 2]);
        unlink(path);
    }
    rmdir(folder);
    return model;
}

static void test_llama_in_shards_equals_hugging_face(void **state) {
    (void)state;
    pl_model *model = load_shards();
    hold_to_fixture(model, need_data("fixtures/llama/tiny_llama_logits.json"));
    pl_model_free(model);
}

static void test_llama_gguf_equals_hugging_face(void **state) {
    (void)state;
    pl_model *model = must_load(need_data("fixtures/llama/tiny_llama_f32.gguf"));
    hold_to_fixture(model, need_data("fixtures/llama/tiny_llama_logits.json"));
    pl_model_free(model);
}

/* Rounded weights: the reference runs on what the rounding left of them. */
static void test_gguf_of_every_type_equals_the_reference(void **state) {
    (void)state;
    static const char *const names[] = {
        "fixtures/llama/tiny_llama_f32.gguf",
        "fixtures/llama/tiny_llama_f16.gguf",
        "fixtures/llama/tiny_llama_q8.gguf",
    };
    const int32_t tokens[] = {2, 6, 2, 3, 6, 4, 1, 0, 7, 7};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        pl_model *model = must_load(need_data(names[i]));
        assert_model_matches(model, tokens, 10, 2e-5);
        pl_model_free(model);
    }
}

static void test_q8_gguf_is_close_to_the_model_it_was_rounded_from(void **state) {
    (void)state;
    const int32_t tokens[] = {2, 6, 2, 3, 6, 4, 1, 0, 7, 7};
    pl_model *rounded = must_load(need_data("fixtures/llama/tiny_llama_q8.gguf"));
    pl_model *model = load_llama("fixtures/llama/tiny_llama_q8.safetensors",
                                 "fixtures/llama/tiny_llama_q8_config.json");
    reference *r = NULL;
    pl_error err = {0};
    assert_int_equal(reference_new(&r, model, &err), PL_OK);
    double *expected = reference_logits(r, tokens, 10);
    pl_session_options options = exact_options();
    pl_session *session = must_session(rounded, &options);
    float *logits = engine_logits(session, tokens, 10);
    assert_near("logits", logits, expected, (size_t)(10 * model->config.d_vocab), 0.3);
    free(logits);
    free(expected);
    reference_free(r);
    pl_session_free(session);
    pl_model_free(rounded);
    pl_model_free(model);
}

/* -- a trained model that sorts letters ------------------------------------------------------ */

static json_t *nano_model, *nano_run;

/* An array of the model's file into a weight that a random model owns. */
static void put(pl_tensor *to, const char *name, int64_t from_row) {
    size_t n;
    float *values = json_floats(json_object_get(nano_model, name), &n);
    int64_t row = to->n_dims == 2 ? to->shape[1] : 1;
    assert_true((size_t)(pl_tensor_count(to) + from_row * row) <= n);
    assert_true(to->dtype == PL_F32 && pl_tensor_contiguous(to));
    memcpy(to->data, values + from_row * row, (size_t)pl_tensor_count(to) * sizeof *values);
    free(values);
}

static void put_both(pl_tensor *w, pl_tensor *b, int layer, const char *part, int64_t from_row) {
    char name[96], prefix[24] = "";
    if (layer >= 0) snprintf(prefix, sizeof prefix, "h.%d.", layer);
    snprintf(name, sizeof name, "transformer.%s%s.weight", prefix, part);
    put(w, name, from_row);
    snprintf(name, sizeof name, "transformer.%s%s.bias", prefix, part);
    put(b, name, from_row);
}

/* The file holds PyTorch linear layers, [n_out, n_in], with queries, keys and values in one. */
static pl_model *nano_load(void) {
    pl_config config = config_of("gpt2");
    config.d_model = 48;
    config.n_layers = 3;
    config.n_heads = 3;
    config.d_vocab = 3;
    config.n_ctx = 11;
    config.tied = false;
    pl_model *model = must_random(&config, PL_F32, 1);
    pl_weights *w = &model->weights;
    put(&w->embed, "transformer.wte.weight", 0);
    put(&w->positions, "transformer.wpe.weight", 0);
    put(&w->unembed.w, "lm_head.weight", 0);
    put_both(&w->norm_final.gain, &w->norm_final.bias, -1, "ln_f", 0);
    for (int l = 0; l < 3; l++) {
        pl_block_weights *b = &w->blocks[l];
        pl_norm_weights *first = &b->norm[PL_ATTENTION][PL_NORM_BEFORE];
        pl_norm_weights *second = &b->norm[PL_MLP][PL_NORM_BEFORE];
        put_both(&first->gain, &first->bias, l, "ln_1", 0);
        put_both(&second->gain, &second->bias, l, "ln_2", 0);
        put_both(&b->q.w, &b->q.b, l, "attn.c_attn", 0);
        put_both(&b->k.w, &b->k.b, l, "attn.c_attn", 48);
        put_both(&b->v.w, &b->v.b, l, "attn.c_attn", 96);
        put_both(&b->o.w, &b->o.b, l, "attn.c_proj", 0);
        put_both(&b->in.w, &b->in.b, l, "mlp.c_fc", 0);
        put_both(&b->out.w, &b->out.b, l, "mlp.c_proj", 0);
    }
    return model;
}

/* Which array of the published run stands for a point of a layer. heads: stored [head, pos, d]. */
static const struct {
    pl_point point;
    int layer;
    const char *name;
    bool heads;
} nano_points[] = {
    {PL_HOOK_EMBED, -1, "tok_emb", false},
    {PL_HOOK_POS_EMBED, -1, "pos_emb", false},
    {PL_HOOK_RESID_PRE, 0, "x", false},
    {PL_HOOK_LN1_NORMALIZED, 0, "ln1", false},
    {PL_HOOK_Q, 0, "q", true},
    {PL_HOOK_K, 0, "k", true},
    {PL_HOOK_V, 0, "v", true},
    {PL_HOOK_ATTN_SCORES, 0, "att", false},
    {PL_HOOK_PATTERN, 0, "attSm", false},
    {PL_HOOK_Z, 0, "y", false},
    {PL_HOOK_ATTN_OUT, 0, "yProj", false},
    {PL_HOOK_RESID_MID, 0, "attnResid", false},
    {PL_HOOK_LN2_NORMALIZED, 0, "ln2", false},
    {PL_HOOK_MLP_PRE, 0, "fc", false},
    {PL_HOOK_MLP_POST, 0, "gelu", false},
    {PL_HOOK_MLP_OUT, 0, "mlp", false},
    {PL_HOOK_RESID_POST, 0, "mlpResid", false},
    {PL_HOOK_RESID_POST, 0, "block0", false},
    {PL_HOOK_RESID_POST, 1, "block1", false},
    {PL_HOOK_RESID_POST, 2, "block2", false},
    {PL_HOOK_LN_FINAL_NORMALIZED, -1, "ln_f", false},
    {PL_HOOK_LOGITS, -1, "lm_head", false},
};

typedef struct nano_watch {
    size_t which; /* of nano_points */
    size_t batch; /* the run has three sequences */
    int n_calls;
} nano_watch;

static float tensor_at(const pl_tensor *t, int64_t i, int64_t j, int64_t k) {
    return (
        (const float *)
            t->data)[i * t->stride[0] + j * t->stride[1] + (t->n_dims == 3 ? k * t->stride[2] : 0)];
}

static pl_status nano_compare(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    nano_watch *watch = context;
    (void)err;
    const char *name = nano_points[watch->which].name;
    bool heads = nano_points[watch->which].heads;
    assert_int_equal(at->n_rows, 11);
    size_t n, count = (size_t)pl_tensor_count(act);
    float *published = json_floats(json_object_get(nano_run, name), &n);
    size_t start = strcmp(name, "pos_emb") == 0 ? 0 : watch->batch * count;
    assert_true(start + count <= n);
    int64_t rows = act->shape[0], columns = act->shape[1];
    int64_t depth = act->n_dims == 3 ? act->shape[2] : 1;
    for (int64_t i = 0; i < (int64_t)count; i++) {
        int64_t z = i % depth, y = i / depth;
        float got = heads ? tensor_at(act, y % rows, y / rows, z)
                          : tensor_at(act, y / columns, y % columns, z);
        double expected = (double)published[start + (size_t)i];
        assert_near(name, &got, &expected, 1, 2e-5);
    }
    free(published);
    watch->n_calls++;
    return PL_OK;
}

static void test_sorting_model_shows_its_published_activations(void **state) {
    (void)state;
    nano_model = need_json(need_data("models/nano-sort/gpt-nano-sort-model.json"));
    nano_run = need_json(need_data("models/nano-sort/gpt-nano-sort-t0-partials.json"));
    pl_model *model = nano_load();
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    size_t n;
    float *ids = json_floats(json_object_get(nano_run, "idx"), &n);
    assert_int_equal(n, 33);
    for (size_t i = 0; i < sizeof nano_points / sizeof *nano_points; i++) {
        for (size_t batch = 0; batch < 3; batch++) {
            nano_watch watch = {.which = i, .batch = batch};
            int32_t tokens[11];
            uint64_t id;
            for (int t = 0; t < 11; t++) tokens[t] = (int32_t)ids[batch * 11 + (size_t)t];
            assert_int_equal(pl_hooks_add(pl_session_hooks(session), &id, nano_points[i].point,
                                          nano_points[i].layer, NULL, nano_compare, &watch, NULL),
                             PL_OK);
            free(engine_logits(session, tokens, 11));
            assert_int_equal(watch.n_calls, 1);
            assert_true(pl_hooks_remove(pl_session_hooks(session), id));
        }
    }
    free(ids);
    pl_session_free(session);
    pl_model_free(model);
    json_decref(nano_model);
    json_decref(nano_run);
}

/* -- stories260K ----------------------------------------------------------------------------- */

static FILE *need_file(const char *name) {
    FILE *file = fopen(need_data(name), "r");
    if (!file) fail_msg("cannot open %s", name);
    return file;
}

/* Each published step: the token fed, and the five best logits. llama.cpp rounds activations. */
static void test_stories_logits_are_those_of_llama_cpp(void **state) {
    (void)state;
    FILE *file = need_file("models/stories260K/llama.cpp-logits.txt");
    pl_model *model = must_load(need_data("models/stories260K/stories260K.gguf"));
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    pl_sequence *seq = must_sequence(session);
    float *logits = calloc((size_t)model->config.d_vocab, sizeof *logits);
    char line[4096];
    int n_steps = 0, n_greedy = 0, step, token, used;
    while (fgets(line, sizeof line, file)) {
        char *at = line;
        if (sscanf(at, "step %d token %d top%n", &step, &token, &used) == 2) {
            must_extend(seq, (int32_t[]){token}, 1, PL_LOGITS_LAST, logits);
            int id, n_top = 0;
            double logit;
            for (at += used; sscanf(at, " %d:%lf%n", &id, &logit, &used) == 2; at += used) {
                if (n_top++ == 0) assert_int_equal(best_of(logits, model->config.d_vocab), id);
                assert_true(fabs((double)logits[id] - logit) <= 0.02);
            }
            assert_int_equal(n_top, 5);
            n_steps++;
        } else if (strncmp(at, "greedy", 6) == 0) {
            /* They go on from the first five tokens. */
            assert_int_equal(pl_sequence_truncate(seq, 4, NULL), PL_OK);
            int32_t id = 378;
            for (at += 6; sscanf(at, " %d%n", &token, &used) == 1; at += used) {
                must_extend(seq, &id, 1, PL_LOGITS_LAST, logits);
                id = best_of(logits, model->config.d_vocab);
                assert_int_equal(id, token);
                n_greedy++;
            }
        }
    }
    assert_int_equal(n_steps, 36);
    assert_int_equal(n_greedy, 32);
    fclose(file);
    free(logits);
    pl_sequence_free(seq);
    pl_session_free(session);
    pl_model_free(model);
}

static void test_stories_tell_the_published_story(void **state) {
    (void)state;
    enum { STEPS = 200 };
    FILE *file = need_file("models/stories260K/greedy-200-steps.txt");
    char published[1024] = "";
    size_t n = fread(published, 1, sizeof published - 1, file);
    fclose(file);
    while (n > 0 && published[n - 1] == '\n') published[--n] = 0;
    pl_model *model = must_load(need_data("models/stories260K/stories260K.gguf"));
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    pl_sequence *seq = must_sequence(session);
    float *logits = calloc((size_t)model->config.d_vocab, sizeof *logits);
    int32_t ids[STEPS + 1] = {pl_tokenizer_special_ids(model->tokenizer).bos};
    for (int i = 0; i < STEPS; i++) {
        must_extend(seq, &ids[i], 1, PL_LOGITS_LAST, logits);
        ids[i + 1] = best_of(logits, model->config.d_vocab);
    }
    pl_buffer text = {0};
    assert_int_equal(pl_tokenizer_decode(model->tokenizer, ids, STEPS + 1, NULL, &text, NULL),
                     PL_OK);
    assert_int_equal(text.size, n);
    assert_memory_equal(text.data, published, n);
    pl_buffer_clear(&text);
    free(logits);
    pl_sequence_free(seq);
    pl_session_free(session);
    pl_model_free(model);
}

/* -- the default model ----------------------------------------------------------------------- */

typedef struct trained_watch {
    const json_t *activations;
    int n_calls;
} trained_watch;

static pl_status trained_compare(void *context, pl_tensor *act, const pl_hook_at *at,
                                 pl_error *err) {
    trained_watch *watch = context;
    (void)err;
    const char *name = at->point == PL_HOOK_RESID_PRE    ? "resid_pre"
                       : at->point == PL_HOOK_RESID_MID  ? "resid_mid"
                       : at->point == PL_HOOK_RESID_POST ? "resid_post"
                       : at->point == PL_HOOK_PATTERN    ? "attn"
                                                         : "ln_f";
    char key[32];
    snprintf(key, sizeof key, at->layer < 0 ? "%s" : "%s.%d", name, at->layer);
    const json_t *array = json_object_get(watch->activations, key);
    if (!array) return PL_OK;
    size_t n;
    float *published = json_floats(array, &n);
    assert_true(pl_tensor_contiguous(act));
    assert_int_equal(n, pl_tensor_count(act));
    for (size_t i = 0; i < n; i++) {
        double expected = (double)published[i];
        assert_near(key, (const float *)act->data + i, &expected, 1, 5e-5);
    }
    free(published);
    watch->n_calls++;
    return PL_OK;
}

static void hold_floats(const char *what, const float *got, const json_t *array) {
    size_t n;
    float *published = json_floats(array, &n);
    for (size_t i = 0; i < n; i++) {
        double expected = (double)published[i];
        assert_near(what, got + i, &expected, 1, 5e-5);
    }
    free(published);
}

static void hold_prompt(pl_session *session, const json_t *prompt) {
    const pl_model *model = pl_session_model(session);
    int64_t n, n_greedy, d_vocab = model->config.d_vocab;
    int32_t *tokens = json_tokens(json_object_get(prompt, "ids"), &n);
    int32_t *greedy = json_tokens(json_object_get(prompt, "greedy_ids"), &n_greedy);
    const char *text = json_string_value(json_object_get(prompt, "prompt"));
    pl_ids ids = {0};
    assert_int_equal(pl_tokenizer_encode(model->tokenizer, text, strlen(text), NULL, &ids, NULL),
                     PL_OK);
    assert_int_equal(ids.n, n);
    assert_memory_equal(ids.data, tokens, (size_t)n * sizeof *tokens);
    pl_ids_clear(&ids);

    float *logits = calloc((size_t)(n * d_vocab), sizeof *logits);
    float *last = logits + (n - 1) * d_vocab;
    pl_sequence *seq = must_sequence(session);
    must_extend(seq, tokens, n, PL_LOGITS_ALL, logits);
    const json_t *all = json_object_get(prompt, "logits");
    if (all) hold_floats("logits", logits, all);
    if (!all) hold_floats("last logits", last, json_object_get(prompt, "last_logits"));
    for (int64_t t = 0; t + 1 < n; t++) {
        double sum = 0, nll;
        const float *row = logits + t * d_vocab;
        for (int64_t i = 0; i < d_vocab; i++) sum += exp((double)row[i]);
        nll = log(sum) - (double)row[tokens[t + 1]];
        double published =
            json_number_value(json_array_get(json_object_get(prompt, "token_nll"), (size_t)t));
        assert_true(fabs(nll - published) < 5e-5 * fmax(1, published));
    }
    for (int64_t i = 0; i < n_greedy; i++) {
        int32_t id = best_of(last, d_vocab);
        assert_int_equal(id, greedy[i]);
        must_extend(seq, &id, 1, PL_LOGITS_LAST, last);
    }
    pl_sequence_free(seq);
    free(logits);
    free(tokens);
    free(greedy);
}

/* The embedded model's own file and references: what every user's test run has. */
static void test_default_model_equals_float64_in_numpy(void **state) {
    (void)state;
    static const pl_point points[] = {PL_HOOK_RESID_PRE, PL_HOOK_RESID_MID, PL_HOOK_RESID_POST,
                                      PL_HOOK_PATTERN, PL_HOOK_LN_FINAL_NORMALIZED};
    json_t *json = need_json("tests/data/default_reference.json");
    const json_t *prompts = json_object_get(json, "prompts"), *first = json_array_get(prompts, 0);
    pl_model *model = must_load("models/default.gguf");
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    trained_watch watch = {.activations = json_object_get(first, "activations")};
    uint64_t ids[5];
    for (int i = 0; i < 5; i++) {
        assert_int_equal(pl_hooks_add(pl_session_hooks(session), &ids[i], points[i], -1, NULL,
                                      trained_compare, &watch, NULL),
                         PL_OK);
    }
    int64_t n;
    int32_t *tokens = json_tokens(json_object_get(first, "ids"), &n);
    free(engine_logits(session, tokens, n));
    assert_int_equal(watch.n_calls, json_object_size(watch.activations));
    for (int i = 0; i < 5; i++) assert_true(pl_hooks_remove(pl_session_hooks(session), ids[i]));
    size_t i;
    json_t *prompt;
    json_array_foreach(prompts, i, prompt) hold_prompt(session, prompt);
    assert_true(i > 3);
    free(tokens);
    pl_session_free(session);
    pl_model_free(model);
    json_decref(json);
}

/* -- every kind of description --------------------------------------------------------------- */

static pl_config small(const char *arch) {
    pl_config c = config_of(arch);
    c.d_model = 24;
    c.n_layers = 2;
    c.n_heads = 4;
    c.d_mlp = 20;
    c.d_vocab = 13;
    c.n_ctx = 128;
    return c;
}

static void hold_config(const pl_config *config, uint64_t seed) {
    int32_t tokens[70];
    for (int i = 0; i < 70; i++) tokens[i] = (i * i + 3 * i) % 13;
    pl_model *model = must_random(config, PL_F32, seed);
    assert_model_matches(model, tokens, 11, 2e-5);
    assert_model_matches(model, tokens, 70, 2e-5); /* more than a page of keys */
    pl_model_free(model);
}

static void test_learned_positions(void **state) {
    (void)state;
    pl_config c = small("gpt2");
    hold_config(&c, 1);
    c.tied = false;
    c.norm_embed = true;
    c.activation = PL_ACT_GELU_ERF;
    hold_config(&c, 2);
    c.qkv_bias = c.attn_out_bias = c.mlp_bias = c.norm_bias = false;
    c.norm_final = false;
    c.activation = PL_ACT_RELU;
    hold_config(&c, 3);
}

static void test_norms_after_the_addition_without_causal_mask(void **state) {
    (void)state;
    pl_config c = small("gpt2");
    c.norm_slot[PL_NORM_BEFORE] = false;
    c.norm_slot[PL_NORM_AFTER_ADD] = true;
    c.norm_final = false;
    c.norm_embed = true;
    hold_config(&c, 4);
    c.causal = false;
    hold_config(&c, 5);
}

static void test_norms_in_every_slot(void **state) {
    (void)state;
    pl_config c = small("llama");
    c.norm_slot[PL_NORM_AFTER_SUBLAYER] = true;
    hold_config(&c, 6);
    c.norm_slot[PL_NORM_AFTER_ADD] = true;
    hold_config(&c, 7);
    c.norm_slot[PL_NORM_BEFORE] = false;
    c.norm_bias = true;
    hold_config(&c, 8);
    c.norm_slot[PL_NORM_AFTER_ADD] = c.norm_slot[PL_NORM_AFTER_SUBLAYER] = false;
    hold_config(&c, 9);
}

static void test_rotary_positions_and_shared_heads(void **state) {
    (void)state;
    pl_config c = small("llama");
    hold_config(&c, 10);
    c.n_kv_heads = 2;
    c.qkv_bias = true;
    hold_config(&c, 11);
    c.rope_half = false;
    c.n_kv_heads = 1;
    c.tied = true;
    hold_config(&c, 12);
    c.d_head = 10; /* heads need not add up to the width */
    c.rope_dims = 4;
    c.attn_out_bias = c.mlp_bias = true;
    hold_config(&c, 13);
    c.rope_half = true;
    c.rope_base = 500;
    c.attn_scale = 0.5f;
    hold_config(&c, 14);
}

static void test_parallel_blocks(void **state) {
    (void)state;
    pl_config c = small("gpt2");
    c.parallel = true;
    hold_config(&c, 15);
    c.positions = PL_POSITIONS_ROTARY;
    c.rope_base = 10000;
    c.rope_dims = 2;
    c.rope_half = true;
    c.gated = true;
    c.n_kv_heads = 2;
    hold_config(&c, 16);
    c.causal = false;
    c.norm_slot[PL_NORM_AFTER_SUBLAYER] = true;
    hold_config(&c, 17);
}

static void test_every_activation_gated_or_not(void **state) {
    (void)state;
    for (int i = 0; i < PL_N_ACTIVATIONS; i++) {
        pl_config c = small(i % 2 ? "llama" : "gpt2");
        c.positions = i % 2 ? PL_POSITIONS_NONE : c.positions;
        c.activation = (pl_activation)i;
        hold_config(&c, 20 + (uint64_t)i);
        c.gated = !c.gated;
        hold_config(&c, 30 + (uint64_t)i);
    }
}

static void test_every_weight_type(void **state) {
    (void)state;
    const int32_t tokens[] = {1, 5, 9, 12, 0, 3};
    for (int dtype = 0; dtype < PL_N_DTYPES; dtype++) {
        if (dtype == PL_I32 || dtype == PL_I64) continue;
        pl_config c = small("llama");
        c.d_model = c.d_mlp = 256;
        c.n_kv_heads = 2;
        pl_error err = {0};
        pl_model *model = NULL;
        if (pl_model_new_random(&model, &c, (pl_dtype)dtype, 40, 0.05f, &err) != PL_OK) {
            fail_msg("%s", err.message);
        }
        assert_model_matches(model, tokens, 6, 2e-5);
        pl_model_free(model);
    }
}

static void test_k_quantised_file_holds_the_published_values(void **state) {
    (void)state;
    json_t *json = need_json(need_data("fixtures/kquant/tiny_kquant_ref.json"));
    pl_gguf *gguf = NULL;
    pl_error err = {0};
    const pl_kernels *kernels = NULL;
    assert_int_equal(pl_kernels_choose(&kernels, &err), PL_OK);
    if (pl_gguf_open(&gguf, need_data("fixtures/kquant/tiny_kquant.gguf"), &err) != PL_OK) {
        fail_msg("%s", err.message);
    }
    const char *type;
    json_t *values;
    json_object_foreach(json_object_get(json, "dequant"), type, values) {
        char name[64];
        size_t index, n = json_array_size(values);
        pl_tensor t;
        snprintf(name, sizeof name, "kq.%s.weight", type);
        assert_true(pl_gguf_find_tensor(gguf, name, &index));
        assert_int_equal(pl_gguf_tensor(gguf, index, &t, &err), PL_OK);
        assert_int_equal(pl_tensor_count(&t), n);
        float *wide = calloc(n, sizeof *wide);
        kernels->to_f32[t.dtype](wide, t.data, n);
        for (size_t i = 0; i < n; i++) {
            double expected = json_number_value(json_array_get(values, i));
            assert_near(name, &wide[i], &expected, 1, 1e-6);
        }
        free(wide);
    }
    pl_gguf_close(gguf);
    json_decref(json);
}

/* -- edits ----------------------------------------------------------------------------------- */

/* The same change made by the engine's hook and by the reference's watch, at one point. */
typedef struct edit {
    pl_point point;
    int layer;
    int n_calls;
} edit;

/* Places that are changed: a fixed scatter over the tensor, masked scores among them. */
static bool edited(size_t index) {
    return index % 7 == 3;
}

static void edit_reference(void *context, pl_point point, int layer, double *values, int n_dims,
                           const int64_t *shape) {
    edit *e = context;
    if (point != e->point || layer != e->layer) return;
    size_t n = 1;
    for (int i = 0; i < n_dims; i++) n *= (size_t)shape[i];
    for (size_t i = 0; i < n; i++) {
        if (edited(i)) values[i] = isinf(values[i]) ? 0.25 : values[i] * 1.5 + 0.25;
    }
    e->n_calls++;
}

static pl_status edit_engine(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    edit *e = context;
    (void)at;
    (void)err;
    int64_t n = pl_tensor_count(act);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i, offset = 0;
        for (int d = act->n_dims - 1; d >= 0; d--) {
            offset += rest % act->shape[d] * act->stride[d];
            rest /= act->shape[d];
        }
        float *value = (float *)act->data + offset;
        if (edited((size_t)i)) *value = isinf(*value) ? 0.25f : *value * 1.5f + 0.25f;
    }
    e->n_calls++;
    return PL_OK;
}

/* Edits each point of each layer in turn and holds the logits to the reference's. */
static void hold_edits(const pl_config *config, uint64_t seed) {
    enum { N = 9 };
    const int32_t tokens[N] = {1, 5, 9, 12, 0, 3, 3, 7, 2};
    pl_error err = {0};
    reference *r = NULL;
    pl_model *model = must_random(config, PL_F32, seed);
    assert_int_equal(reference_new(&r, model, &err), PL_OK);
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    size_t n_logits = (size_t)(N * model->config.d_vocab);
    double *expected = calloc(n_logits, sizeof *expected), *plain = reference_logits(r, tokens, N);
    for (int i = 0; i < PL_N_POINTS * 3; i++) {
        edit theirs = {.point = (pl_point)(i / 3), .layer = i % 3 - 1}, ours = theirs;
        if (pl_point_get(theirs.point)->in_block != (theirs.layer >= 0)) continue;
        assert_int_equal(reference_forward(r, expected, tokens, N, edit_reference, &theirs, &err),
                         PL_OK);
        uint64_t id;
        assert_int_equal(pl_hooks_add(pl_session_hooks(session), &id, ours.point, ours.layer, NULL,
                                      edit_engine, &ours, &err),
                         PL_OK);
        float *logits = engine_logits(session, tokens, N);
        char what[96];
        const pl_point_info *info = pl_point_get(ours.point);
        snprintf(what, sizeof what, "logits after an edit of %s%s, layer %d", info->part,
                 info->name, ours.layer);
        assert_int_equal(ours.n_calls, theirs.n_calls);
        assert_near(what, logits, expected, n_logits, 2e-5);
        bool changed = memcmp(plain, expected, n_logits * sizeof *plain) != 0;
        assert_int_equal(changed, ours.n_calls > 0); /* no point is out of the way */
        assert_true(pl_hooks_remove(pl_session_hooks(session), id));
        free(logits);
    }
    free(plain);
    free(expected);
    reference_free(r);
    pl_session_free(session);
    pl_model_free(model);
}

static void test_edits_take_effect_at_every_point(void **state) {
    (void)state;
    pl_config c = small("gpt2");
    hold_edits(&c, 50);
    c.norm_slot[PL_NORM_BEFORE] = false;
    c.norm_slot[PL_NORM_AFTER_ADD] = true;
    c.causal = false;
    hold_edits(&c, 51);
    c = small("llama");
    c.n_kv_heads = 2;
    c.norm_slot[PL_NORM_AFTER_SUBLAYER] = true;
    hold_edits(&c, 52);
    c.parallel = true;
    hold_edits(&c, 53);
    c = small("bert");
    hold_edits(&c, 54);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2_equals_hugging_face),
        cmocka_unit_test(test_llama_equals_hugging_face),
        cmocka_unit_test(test_llama_in_shards_equals_hugging_face),
        cmocka_unit_test(test_llama_gguf_equals_hugging_face),
        cmocka_unit_test(test_gguf_of_every_type_equals_the_reference),
        cmocka_unit_test(test_q8_gguf_is_close_to_the_model_it_was_rounded_from),
        cmocka_unit_test(test_k_quantised_file_holds_the_published_values),
        cmocka_unit_test(test_sorting_model_shows_its_published_activations),
        cmocka_unit_test(test_stories_logits_are_those_of_llama_cpp),
        cmocka_unit_test(test_stories_tell_the_published_story),
        cmocka_unit_test(test_default_model_equals_float64_in_numpy),
        cmocka_unit_test(test_learned_positions),
        cmocka_unit_test(test_norms_after_the_addition_without_causal_mask),
        cmocka_unit_test(test_norms_in_every_slot),
        cmocka_unit_test(test_rotary_positions_and_shared_heads),
        cmocka_unit_test(test_parallel_blocks),
        cmocka_unit_test(test_every_activation_gated_or_not),
        cmocka_unit_test(test_every_weight_type),
        cmocka_unit_test(test_edits_take_effect_at_every_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
