/* Model files from the first byte to the weights: written and loaded again, with parts missing or
 * of the wrong shape, and damaged. */
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
#include "../../engine/model/model.h"
#include "../../engine/model/hooks.h"
#include "format_fixture.h"

static pl_error err;

static pl_config llama(void) {
    pl_config config;
    assert_int_equal(pl_config_init(&config, "llama", &err), PL_OK);
    config.d_model = 32, config.d_mlp = 32, config.d_vocab = 24, config.n_ctx = 16;
    config.n_layers = 1, config.n_heads = 4, config.n_kv_heads = 2;
    config.norm_eps = 1e-5f, config.rope_base = 10000;
    config.rope_half = false, config.tied = false;
    assert_int_equal(pl_config_check(&config, &err), PL_OK);
    return config;
}

/* What goes into a file: without the key or tensor `left_out`, and `turned` with its sizes
 * exchanged. */
static void write_model(const char *path, const pl_model *model, const char *left_out,
                        const char *turned) {
    const pl_config *c = &model->config;
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {{"llama.embedding_length", c->d_model},
                   {"llama.block_count", c->n_layers},
                   {"llama.attention.head_count", c->n_heads},
                   {"llama.attention.head_count_kv", c->n_kv_heads},
                   {"llama.feed_forward_length", c->d_mlp},
                   {"llama.context_length", c->n_ctx}};
    static const char eps[] = "llama.attention.layer_norm_rms_epsilon";
    static const char arch[] = "general.architecture";
    pl_gguf_writer *w;
    assert_int_equal(pl_gguf_writer_new(&w, &err), PL_OK);
    if (strcmp(left_out, arch) != 0) {
        assert_int_equal(pl_gguf_put_string(w, arch, "llama", 5, &err), PL_OK);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strcmp(left_out, numbers[i].key) == 0) continue;
        assert_int_equal(pl_gguf_put_u32(w, numbers[i].key, (uint32_t)numbers[i].value, &err),
                         PL_OK);
    }
    assert_int_equal(pl_gguf_put_f32(w, eps, c->norm_eps, &err), PL_OK);
    for (size_t i = 0; i < pl_model_n_weights(model); i++) {
        pl_named_weight weight;
        pl_model_weight(model, i, &weight);
        if (strcmp(left_out, weight.name) == 0) continue;
        if (strcmp(turned, weight.name) == 0) {
            assert_int_equal(pl_tensor_transpose(&weight.tensor, 0, 1, &err), PL_OK);
        }
        assert_int_equal(pl_gguf_put_tensor(w, weight.name, &weight.tensor, &err), PL_OK);
    }
    assert_int_equal(pl_gguf_writer_save(w, path, &err), PL_OK);
    pl_gguf_writer_free(w);
}

static void test_a_written_model_loads_equal(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *path = in_folder(folder, "model.gguf");
    pl_config config = llama();
    static const pl_dtype dtypes[] = {PL_F32, PL_F16, PL_BF16, PL_Q8_0};
    for (size_t k = 0; k < sizeof dtypes / sizeof *dtypes; k++) {
        pl_model *model, *loaded;
        assert_int_equal(pl_model_new_random(&model, &config, dtypes[k], 7, 0.1f, &err), PL_OK);
        write_model(path, model, "", "");
        if (pl_model_load(&loaded, folder, &err) != PL_OK) fail_msg("%s", err.message);
        assert_int_equal(pl_model_n_weights(loaded), pl_model_n_weights(model));
        for (size_t i = 0; i < pl_model_n_weights(model); i++) {
            pl_named_weight a, b;
            pl_model_weight(model, i, &a);
            pl_model_weight(loaded, i, &b);
            assert_string_equal(a.name, b.name);
            assert_int_equal(a.tensor.dtype, b.tensor.dtype);
            const pl_dtype_info *info = pl_dtype_get(a.tensor.dtype);
            size_t blocks = (size_t)pl_tensor_count(&a.tensor) / info->block_elements;
            assert_memory_equal(a.tensor.data, b.tensor.data, blocks * info->block_bytes);
        }
        pl_model_free(model), pl_model_free(loaded);
    }
    remove_folder(folder);
}

static void test_what_is_missing_or_misshapen_is_named(void **state) {
    (void)state;
    static const struct {
        const char *left_out, *turned, *words;
    } cases[] = {{"general.architecture", "", "general.architecture"},
                 {"llama.block_count", "", "llama.block_count"},
                 {"token_embd.weight", "", "token_embd.weight"},
                 {"blk.0.attn_k.weight", "", "blk.0.attn_k.weight"},
                 {"blk.0.attn_norm.weight", "", "blk.0.attn_norm.weight"},
                 {"", "blk.0.attn_k.weight", "blk.0.attn_k.weight"},
                 {"", "output.weight", "output.weight"}};
    char *folder = make_folder();
    const char *path = in_folder(folder, "model.gguf");
    pl_config config = llama();
    pl_model *model, *loaded = NULL;
    assert_int_equal(pl_model_new_random(&model, &config, PL_F32, 7, 0.1f, &err), PL_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_model(path, model, cases[i].left_out, cases[i].turned);
        pl_status status = pl_model_load(&loaded, path, &err);
        if (status == PL_OK || !strstr(err.message, cases[i].words)) {
            fail_msg("'%s': %s, '%s'", cases[i].words, pl_status_name(status), err.message);
        }
        assert_non_null(strstr(err.message, "model.gguf"));
    }
    pl_model_free(model);
    remove_folder(folder);
}

/* Whatever the outcome, a failure says something. */
static void try_to_load(const char *path, const uint8_t *bytes, size_t n) {
    pl_model *model;
    write_bytes(path, bytes, n);
    if (pl_model_load(&model, path, &err) != PL_OK) {
        assert_true(err.message[0] != 0);
        return;
    }
    pl_model_free(model);
}

static void test_damaged_models_are_refused_or_loaded(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *path = in_folder(folder, "model.gguf");
    pl_config config = llama();
    pl_model *model;
    assert_int_equal(pl_model_new_random(&model, &config, PL_Q8_0, 7, 0.1f, &err), PL_OK);
    write_model(path, model, "", "");
    pl_model_free(model);
    pl_buffer b = read_bytes(path);
    for (size_t cut = 0; cut < b.size; cut += 61) try_to_load(path, b.data, cut);
    /* The header and the tensors' descriptions lie in the first part; then come elements. */
    for (size_t bit = 0; bit < 8 * (size_t)1400 && bit < 8 * b.size; bit += 5) {
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        try_to_load(path, b.data, b.size);
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    pl_buffer_clear(&b);
    remove_folder(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_written_model_loads_equal),
        cmocka_unit_test(test_what_is_missing_or_misshapen_is_named),
        cmocka_unit_test(test_damaged_models_are_refused_or_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
