/* Saved models, loaded again. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../engine/format/gguf.h"
#include "../../engine/model/model.h"
#include "model_fixture.h"

enum { N_TOKENS = 12 };

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/perilune-export-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    static const char *const names[] = {"a.gguf",
                                        "b.gguf",
                                        "hf/config.json",
                                        "hf/model.safetensors",
                                        "hf/vocab.json",
                                        "hf/merges.txt",
                                        "hf/tokenizer_config.json",
                                        "hf/tokenizer.json",
                                        "hf/generation_config.json",
                                        "hf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[160];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        remove(path);
    }
    return rmdir(folder); /* nothing temporary was left */
}

static const char *at(const char *name) {
    static char paths[4][160];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void must_save(const pl_model *model, const char *path, const pl_save_options *options) {
    pl_error err = {0};
    if (pl_model_save(model, path, options, &err) != PL_OK) fail_msg("%s", err.message);
}

static pl_model *saved(const pl_model *model, const char *name, const pl_save_options *options) {
    must_save(model, at(name), options);
    return must_load(at(name));
}

static float *logits_of(pl_model *model) {
    int32_t tokens[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++) tokens[i] = (int32_t)((i * 7 + 3) % model->config.d_vocab);
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    float *logits = engine_logits(session, tokens, N_TOKENS);
    pl_session_free(session);
    return logits;
}

/* Frees both. */
static void assert_same_logits(float *a, pl_model *model) {
    float *b = logits_of(model);
    assert_memory_equal(a, b, (size_t)(N_TOKENS * model->config.d_vocab) * sizeof *a);
    free(a);
    free(b);
    pl_model_free(model);
}

static pl_config small(const char *arch) {
    pl_config c = config_of(arch);
    c.d_model = 64;
    c.d_mlp = 96;
    c.n_layers = 2;
    c.n_heads = 4;
    c.d_vocab = 13;
    c.n_ctx = 32;
    return c;
}

static void test_gpt2_comes_back_bit_for_bit(void **state) {
    (void)state;
    static const pl_dtype dtypes[] = {PL_F32, PL_F16, PL_BF16};
    for (int i = 0; i < 6; i++) {
        pl_config c = small("gpt2");
        c.tied = i < 3;
        pl_model *model = must_random(&c, dtypes[i % 3], 1);
        assert_same_logits(logits_of(model), saved(model, "a.gguf", NULL));
        /* Into Hugging Face's layout, whose matrices are transposed, and from there. */
        pl_model *folder_model = saved(model, "hf", NULL);
        assert_int_equal(folder_model->weights.blocks[0].in.w.dtype, dtypes[i % 3]);
        if (dtypes[i % 3] == PL_F32) {
            assert_same_logits(logits_of(model), saved(folder_model, "b.gguf", NULL));
            assert_same_logits(logits_of(model), must_load(at("hf")));
        }
        assert_string_equal(folder_model->config.arch, "gpt2");
        assert_int_equal(folder_model->weight_bytes, model->weight_bytes);
        pl_model_free(folder_model);
        pl_model_free(model);
    }
}

static void test_quantised_weights_keep_their_blocks(void **state) {
    (void)state;
    for (int dtype = PL_Q4_0; dtype < PL_N_DTYPES; dtype++) {
        pl_config c = small(dtype % 2 ? "llama" : "gpt2");
        c.d_model = c.d_mlp = 256;
        c.rope_half = false; /* the file's own order: nothing moves */
        pl_model *model = must_random(&c, (pl_dtype)dtype, 2);
        pl_model *back = saved(model, "a.gguf", NULL);
        assert_int_equal(back->weights.embed.dtype, dtype);
        assert_same_logits(logits_of(model), back);
        pl_error err = {0};
        assert_int_equal(pl_model_save(model, at("hf"), NULL, &err), PL_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, pl_dtype_get((pl_dtype)dtype)->name));
        /* What a block stands for is exact in float32. */
        pl_save_options options = {.cast = true, .dtype = PL_F32};
        assert_same_logits(logits_of(model), saved(model, "b.gguf", &options));
        pl_model_free(model);
    }
}

static void assert_equal_weights(const pl_model *a, const pl_model *b) {
    assert_int_equal(pl_model_n_weights(a), pl_model_n_weights(b));
    for (size_t i = 0; i < pl_model_n_weights(a); i++) {
        pl_named_weight x, y;
        pl_model_weight(a, i, &x);
        pl_model_weight(b, i, &y);
        assert_string_equal(x.name, y.name);
        assert_int_equal(x.tensor.dtype, y.tensor.dtype);
        assert_true(pl_tensor_contiguous(&x.tensor) && pl_tensor_contiguous(&y.tensor));
        size_t n_rows = x.tensor.n_dims == 2 ? (size_t)x.tensor.shape[0] : 1;
        assert_memory_equal(x.tensor.data, y.tensor.data, n_rows * pl_tensor_row_bytes(&x.tensor));
    }
}

/* GGUF and Hugging Face put the pairs that are rotated in different places. */
static void test_llama_changes_the_order_of_rotated_pairs(void **state) {
    (void)state;
    pl_config c = small("llama");
    c.n_kv_heads = 2;
    c.qkv_bias = c.attn_out_bias = c.mlp_bias = true;
    pl_model *model = must_random(&c, PL_F32, 3);
    pl_model *gguf = saved(model, "a.gguf", NULL);
    assert_true(model->config.rope_half && !gguf->config.rope_half);
    float *expected = logits_of(model), *got = logits_of(gguf);
    for (int64_t i = 0; i < N_TOKENS * c.d_vocab; i++) {
        assert_true(fabsf(expected[i] - got[i]) < 2e-5f * fmaxf(1, fabsf(expected[i])));
    }
    free(expected);
    free(got);
    pl_model *back = saved(gguf, "hf", NULL);
    assert_equal_weights(model, back);
    assert_same_logits(logits_of(model), back);
    pl_model_free(gguf);
    pl_model_free(model);
}

static void test_partial_rotation_and_odd_heads_survive_in_gguf(void **state) {
    (void)state;
    pl_config c = small("llama");
    c.d_head = 24;
    c.rope_dims = 10;
    c.rope_base = 300;
    c.norm_eps = 1e-3f;
    pl_model *model = must_random(&c, PL_F32, 4);
    pl_model *gguf = saved(model, "a.gguf", NULL);
    assert_int_equal(gguf->config.rope_dims, 10);
    float *expected = logits_of(model), *got = logits_of(gguf);
    for (int64_t i = 0; i < N_TOKENS * c.d_vocab; i++) {
        assert_true(fabsf(expected[i] - got[i]) < 2e-5f * fmaxf(1, fabsf(expected[i])));
    }
    free(expected);
    free(got);
    pl_error err = {0};
    assert_int_equal(pl_model_save(model, at("hf"), NULL, &err), PL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "rope_dims"));
    pl_model_free(gguf);
    pl_model_free(model);
}

/* Tensors that Hugging Face and llama.cpp's converter would have written. */
static void test_llama_equals_the_published_conversion(void **state) {
    (void)state;
    pl_model *published = must_load(need_data("fixtures/llama/tiny_llama_f32.gguf"));
    json_t *json = need_json(need_data("fixtures/llama/tiny_llama_config.json"));
    char *config = json_dumps(json, 0);
    pl_model *model = load_with_config(need_data("fixtures/llama/tiny_llama.safetensors"), config);
    pl_model *gguf = saved(model, "a.gguf", NULL);
    assert_equal_weights(published, gguf);
    pl_model *back = saved(published, "hf", &(pl_save_options){.without_tokenizer = true});
    assert_equal_weights(model, back);
    json_decref(json);
    free(config);
    pl_model_free(published);
    pl_model_free(model);
    pl_model_free(gguf);
    pl_model_free(back);
}

static void assert_refused(pl_config *c, const char *path, const char *word) {
    pl_error err = {0};
    pl_model *model = must_random(c, PL_F32, 5);
    assert_int_equal(pl_model_save(model, at(path), NULL, &err), PL_ERR_UNSUPPORTED);
    if (!strstr(err.message, word)) fail_msg("'%s' does not name '%s'", err.message, word);
    assert_int_not_equal(access(at(path), F_OK), 0);
    pl_model_free(model);
}

static void test_what_a_file_cannot_say_is_refused(void **state) {
    (void)state;
    pl_config c = small("gpt2");
    c.parallel = true;
    assert_refused(&c, "a.gguf", "parallel");
    c = small("gpt2");
    c.activation = PL_ACT_RELU;
    assert_refused(&c, "a.gguf", "activation");
    pl_model *model = must_random(&c, PL_F32, 5);
    assert_same_logits(logits_of(model), saved(model, "hf", NULL));
    pl_model_free(model);
    c = small("gpt2");
    c.mlp_bias = false;
    assert_refused(&c, "b.gguf", "bias");
    c = small("llama");
    c.norm_slot[PL_NORM_AFTER_ADD] = true;
    assert_refused(&c, "b.gguf", "norm slots");
    c = small("llama");
    c.attn_scale = 1;
    assert_refused(&c, "b.gguf", "attn_scale");
}

static void test_failures_leave_nothing_behind(void **state) {
    (void)state;
    pl_config c = small("gpt2");
    pl_model *model = must_random(&c, PL_F32, 6);
    pl_error err = {0};
    pl_save_options quantised = {.cast = true, .dtype = PL_I32};
    assert_int_equal(pl_model_save(model, at("a.gguf"), &quantised, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_model_save(model, at("no/a.gguf"), NULL, &err), PL_ERR_IO);
    assert_int_equal(pl_model_save(model, at("no/hf"), NULL, &err), PL_ERR_IO);
    pl_model_free(model);
}

/* Every quantised type: what is loaded again is near the original, the nearer the more bits. */
static void test_quantised_files(void **state) {
    (void)state;
    static const pl_dtype types[] = {PL_Q2_K, PL_Q3_K, PL_Q4_0, PL_Q4_1, PL_Q4_K,
                                     PL_Q5_0, PL_Q5_1, PL_Q5_K, PL_Q6_K, PL_Q8_0};
    static const double most[] = {1.5, 0.9, 0.7, 0.8, 0.75, 0.45, 0.3, 0.4, 0.2, 0.05};
    pl_config c = small("llama");
    c.d_model = 256, c.d_mlp = 512, c.n_layers = 4;
    pl_model *model = must_random(&c, PL_F32, 6);
    float *want = logits_of(model);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        for (int mixed = 0; mixed <= (types[i] == PL_Q4_K || types[i] == PL_Q5_K); mixed++) {
            pl_save_options options = {.cast = true, .dtype = types[i], .mixed = mixed};
            must_save(model, at("a.gguf"), &options);
            pl_model *back = must_load(at("a.gguf"));
            assert_int_equal(back->weights.blocks[1].o.w.dtype, types[i]);
            assert_int_equal(back->weights.blocks[0].v.w.dtype, types[i]);
            assert_int_equal(back->weights.blocks[3].v.w.dtype, mixed ? PL_Q6_K : types[i]);
            float *got = logits_of(back);
            double error = 0, size = 0;
            for (int64_t j = 0; j < c.d_vocab; j++) {
                error += pow((double)got[j] - (double)want[j], 2);
                size += pow((double)want[j], 2);
            }
            assert_true(sqrt(error / size) < most[i]);
            assert_true(error > 0);
            free(got);
            pl_model_free(back);
        }
    }
    free(want);
    pl_model_free(model);
}

/* The model that comes along, which is quantised, with float32 weights. */
static pl_model *shipped_model(void) {
    const pl_save_options wide = {.cast = true, .dtype = PL_F32};
    pl_model *shipped = must_load("models/default.gguf"), *model = saved(shipped, "a.gguf", &wide);
    pl_model_free(shipped);
    return model;
}

/* A folder's old tokenizer would be taken for the new model's. */
static void test_a_folder_of_another_model_is_refused(void **state) {
    (void)state;
    pl_error err = {0};
    pl_config c = small("gpt2");
    pl_model *shipped = shipped_model(), *model = must_random(&c, PL_F32, 6);
    must_save(shipped, at("hf"), NULL);
    assert_int_equal(pl_model_save(model, at("hf"), NULL, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "vocab.json"));
    must_save(shipped, at("hf"), NULL); /* its own folder again */
    pl_model *back = must_load(at("hf"));
    must_save(back, at("hf"), NULL); /* and from there, onto itself */
    assert_same_logits(logits_of(shipped), back);
    pl_model_free(shipped);
    pl_model_free(model);
}

static void test_a_model_may_be_saved_over_its_own_file(void **state) {
    (void)state;
    pl_config c = small("gpt2");
    pl_model *model = must_random(&c, PL_F16, 7);
    pl_model *mapped = saved(model, "a.gguf", NULL);
    assert_same_logits(logits_of(model), saved(mapped, "a.gguf", NULL));
    assert_same_logits(logits_of(model), mapped);
    pl_model_free(model);
}

static void assert_same_encoding(const pl_model *a, const pl_model *b) {
    static const char text[] =
        "The king's 3 daughters said:\n\"Il \xC3\xA9tait une fois\"<|endoftext|>";
    pl_ids x = {0}, y = {0};
    assert_non_null(b->tokenizer);
    assert_int_equal(pl_tokenizer_encode(a->tokenizer, text, sizeof text - 1, NULL, &x, NULL),
                     PL_OK);
    assert_int_equal(pl_tokenizer_encode(b->tokenizer, text, sizeof text - 1, NULL, &y, NULL),
                     PL_OK);
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.data, y.data, x.n * sizeof *x.data);
    assert_memory_equal(&(pl_special_ids[]){pl_tokenizer_special_ids(a->tokenizer)},
                        &(pl_special_ids[]){pl_tokenizer_special_ids(b->tokenizer)},
                        sizeof(pl_special_ids));
    pl_ids_clear(&x);
    pl_ids_clear(&y);
}

/* The embedded model, whose source is a folder of Hugging Face's, there and back again. */
static void test_default_model_comes_back_with_its_tokenizer(void **state) {
    (void)state;
    pl_model *model = must_load(need_data("models/default"));
    pl_model *gguf = saved(model, "a.gguf", &(pl_save_options){.name = "stories"});
    assert_string_equal(gguf->name, "stories");
    assert_same_encoding(model, gguf);
    pl_model *back = saved(gguf, "hf", NULL);
    assert_same_encoding(model, back);
    assert_same_logits(logits_of(model), back);
    pl_model *again = saved(model, "hf", NULL); /* copies the tokenizer's files */
    assert_same_encoding(model, again);
    pl_model_free(again);
    assert_same_logits(logits_of(model), gguf);
    pl_model_free(model);
}

/* A SentencePiece vocabulary with scores becomes a list of merges that join the same. */
static void test_stories_come_back_from_a_folder(void **state) {
    (void)state;
    static const char *const texts[] = {
        "Once upon a time, there was a little girl named Lily.", " two  spaces\nand a line ",
        "\xE2\x82\xAC 3.50 <s> \xF0\x9F\x98\x80", "", "aaaaaaaabababab the therethere <unk>"};
    pl_model *model = must_load(need_data("models/stories260K/stories260K.gguf"));
    pl_model *back = saved(model, "hf", NULL);
    assert_int_equal(pl_tokenizer_get_kind(model->tokenizer), PL_TOKENIZER_SPM);
    assert_int_equal(pl_tokenizer_get_kind(back->tokenizer), PL_TOKENIZER_BPE_CHARS);
    assert_same_encoding(model, back);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        pl_ids x = {0}, y = {0};
        pl_buffer a = {0}, b = {0};
        assert_int_equal(
            pl_tokenizer_encode(model->tokenizer, texts[i], strlen(texts[i]), NULL, &x, NULL),
            PL_OK);
        assert_int_equal(
            pl_tokenizer_encode(back->tokenizer, texts[i], strlen(texts[i]), NULL, &y, NULL),
            PL_OK);
        assert_int_equal(x.n, y.n);
        assert_memory_equal(x.data, y.data, x.n * sizeof *x.data);
        assert_int_equal(pl_tokenizer_decode(model->tokenizer, x.data, x.n, NULL, &a, NULL), PL_OK);
        assert_int_equal(pl_tokenizer_decode(back->tokenizer, x.data, x.n, NULL, &b, NULL), PL_OK);
        assert_int_equal(a.size, b.size);
        if (a.size) assert_memory_equal(a.data, b.data, a.size);
        pl_buffer_clear(&a);
        pl_buffer_clear(&b);
        pl_ids_clear(&x);
        pl_ids_clear(&y);
    }
    pl_model *again = saved(back, "a.gguf", NULL);
    assert_equal_weights(model, again);
    assert_same_encoding(model, again);
    pl_model_free(again);
    pl_model_free(back);
    pl_model_free(model);
}

static void test_shipped_model_comes_back_from_a_folder(void **state) {
    (void)state;
    pl_model *shipped = shipped_model();
    pl_model *back = saved(shipped, "hf", NULL);
    assert_same_encoding(shipped, back);
    assert_same_logits(logits_of(shipped), back);
    pl_model_free(shipped);
}

int main(void) {
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_gpt2_comes_back_bit_for_bit),
        IN_FOLDER(test_quantised_weights_keep_their_blocks),
        IN_FOLDER(test_llama_changes_the_order_of_rotated_pairs),
        IN_FOLDER(test_partial_rotation_and_odd_heads_survive_in_gguf),
        IN_FOLDER(test_llama_equals_the_published_conversion),
        IN_FOLDER(test_what_a_file_cannot_say_is_refused),
        IN_FOLDER(test_failures_leave_nothing_behind),
        IN_FOLDER(test_quantised_files),
        IN_FOLDER(test_a_folder_of_another_model_is_refused),
        IN_FOLDER(test_a_model_may_be_saved_over_its_own_file),
        IN_FOLDER(test_default_model_comes_back_with_its_tokenizer),
        IN_FOLDER(test_stories_come_back_from_a_folder),
        IN_FOLDER(test_shipped_model_comes_back_from_a_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
