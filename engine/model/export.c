#include "model.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../base/error.h"
#include "../format/gguf_write.h"
#include "../format/safetensors.h"
#include "export_plan.h"

/* -- GGUF ------------------------------------------------------------------------------------ */

/* general.file_type: the type of most elements. */
static uint32_t file_type(const pl_export_plan *plan) {
    static const uint32_t numbers[PL_N_DTYPES] = {
        [PL_F32] = 0,   [PL_F16] = 1,   [PL_BF16] = 32, [PL_Q4_0] = 2,  [PL_Q4_1] = 3,
        [PL_Q5_0] = 8,  [PL_Q5_1] = 9,  [PL_Q8_0] = 7,  [PL_Q2_K] = 10, [PL_Q3_K] = 12,
        [PL_Q4_K] = 15, [PL_Q5_K] = 17, [PL_Q6_K] = 18};
    int64_t counts[PL_N_DTYPES] = {0};
    for (size_t i = 0; i < plan->n; i++) {
        counts[plan->items[i].announced.dtype] += pl_tensor_count(&plan->items[i].announced);
    }
    int most = 0;
    for (int i = 1; i < PL_N_DTYPES; i++) {
        if (counts[i] > counts[most]) most = i;
    }
    return numbers[most];
}

static pl_status put_number(pl_gguf_writer *w, const char *arch, const char *ending, int64_t value,
                            pl_error *err) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, ending);
    return pl_gguf_put_u32(w, key, (uint32_t)value, err);
}

static pl_status put_real(pl_gguf_writer *w, const char *arch, const char *ending, float value,
                          pl_error *err) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, ending);
    return pl_gguf_put_f32(w, key, value, err);
}

static pl_status put_numbers(pl_gguf_writer *w, const char *arch, const pl_config *c,
                             pl_error *err) {
    bool rotary = c->positions == PL_POSITIONS_ROTARY;
    bool odd_heads = c->d_head * c->n_heads != c->d_model;
    bool experts = c->n_experts > 0;
    const struct {
        const char *ending;
        int64_t value;
        bool wanted;
    } numbers[] = {{"vocab_size", c->d_vocab, true},
                   {"context_length", c->n_ctx, true},
                   {"embedding_length", c->d_model, true},
                   {"block_count", c->n_layers, true},
                   {"feed_forward_length", c->d_mlp, true},
                   {"attention.head_count", c->n_heads, true},
                   {"attention.head_count_kv", c->n_kv_heads, true},
                   {"attention.key_length", c->d_head, odd_heads},
                   {"attention.value_length", c->d_head, odd_heads},
                   {"attention.sliding_window", c->window, c->window > 0},
                   {"expert_count", c->n_experts, experts},
                   {"expert_used_count", c->n_experts_used, experts},
                   {"rope.dimension_count", c->rope_dims, rotary}};
    pl_status status = PL_OK;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && status == PL_OK; i++) {
        if (numbers[i].wanted) {
            status = put_number(w, arch, numbers[i].ending, numbers[i].value, err);
        }
    }
    return status;
}

static pl_status put_description(pl_gguf_writer *w, const pl_family *family, const pl_config *c,
                                 pl_error *err) {
    const char *arch = family->gguf;
    char key[96];
    bool linear = c->rope_scaling == PL_ROPE_LINEAR, capped = family->config.attn_softcap > 0;
    bool yarn = c->rope_scaling == PL_ROPE_YARN, tables = c->rope_scaling == PL_ROPE_LONG;
    double usual = yarn && c->rope_factor > 1 ? 1 + 0.1 * log((double)c->rope_factor) : 1;
    const struct {
        const char *ending;
        float value;
        bool wanted;
    } reals[] = {
        {"rope.freq_base", c->rope_base, c->positions == PL_POSITIONS_ROTARY},
        {"rope.freq_base_swa", c->rope_base_local, c->rope_base_local > 0},
        {"rope.scaling.factor", c->rope_factor, linear || yarn},
        {"rope.scaling.attn_factor", (float)((double)c->rope_attn_factor / usual), yarn || tables},
        {"rope.scaling.yarn_beta_fast", c->rope_beta_fast, yarn},
        {"rope.scaling.yarn_beta_slow", c->rope_beta_slow, yarn},
        {"attn_logit_softcapping", c->attn_softcap, capped},
        {"final_logit_softcapping", c->logit_softcap, capped},
        {c->norm == PL_NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                : "attention.layer_norm_epsilon",
         c->norm_eps, true}};
    pl_status status = put_numbers(w, arch, c, err);
    for (size_t i = 0; i < sizeof reals / sizeof *reals && status == PL_OK; i++) {
        if (reals[i].wanted) status = put_real(w, arch, reals[i].ending, reals[i].value, err);
    }
    snprintf(key, sizeof key, "%s.attention.causal", arch);
    if (status == PL_OK && !c->causal) status = pl_gguf_put_bool(w, key, false, err);
    snprintf(key, sizeof key, "%s.pooling_type", arch);
    if (status == PL_OK && family->hf_encoder) {
        status = pl_gguf_put_u32(w, key, c->pooling == PL_POOLING_CLS ? 2 : 1, err);
    }
    if (status == PL_OK && c->n_token_types) {
        uint32_t n = (uint32_t)c->n_token_types;
        status = pl_gguf_put_u32(w, "tokenizer.ggml.token_type_count", n, err);
    }
    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    if (status == PL_OK && linear) status = pl_gguf_put_string(w, key, "linear", 6, err);
    if (status == PL_OK && yarn) status = pl_gguf_put_string(w, key, "yarn", 4, err);
    if (status == PL_OK && tables) status = pl_gguf_put_string(w, key, "longrope", 8, err);
    if (status == PL_OK && (yarn || tables)) {
        int64_t original = c->rope_original_ctx;
        status = put_number(w, arch, "rope.scaling.original_context_length", original, err);
    }
    snprintf(key, sizeof key, "%s.use_parallel_residual", arch);
    if (status == PL_OK && family->may_be_parallel) {
        status = pl_gguf_put_bool(w, key, c->parallel, err);
    }
    return status;
}

static pl_status tell_text(void *context, const char *key, pl_bytes value, pl_error *err) {
    return pl_gguf_put_string(context, key, value.data, value.size, err);
}

static pl_status tell_u32(void *context, const char *key, uint32_t value, pl_error *err) {
    return pl_gguf_put_u32(context, key, value, err);
}

static pl_status tell_boolean(void *context, const char *key, bool value, pl_error *err) {
    return pl_gguf_put_bool(context, key, value, err);
}

static pl_status tell_texts(void *context, const char *key, const pl_bytes *values, size_t n,
                            pl_error *err) {
    pl_gguf_string *strings = malloc((n ? n : 1) * sizeof *strings);
    if (!strings) return pl_fail(err, PL_ERR_MEMORY, "out of memory for '%s'", key);
    for (size_t i = 0; i < n; i++) strings[i] = (pl_gguf_string){values[i].data, values[i].size};
    pl_status status = pl_gguf_put_strings(context, key, strings, n, err);
    free(strings);
    return status;
}

static pl_status tell_f32s(void *context, const char *key, const float *values, size_t n,
                           pl_error *err) {
    return pl_gguf_put_array(context, key, PL_GGUF_F32, values, n, err);
}

static pl_status tell_i32s(void *context, const char *key, const int32_t *values, size_t n,
                           pl_error *err) {
    return pl_gguf_put_array(context, key, PL_GGUF_I32, values, n, err);
}

static pl_status tell_bytes(void *context, const char *key, pl_bytes value, pl_error *err) {
    return pl_gguf_put_array(context, key, PL_GGUF_U8, value.data, value.size, err);
}

static pl_status put_tokenizer(pl_gguf_writer *w, const pl_export_plan *plan, pl_error *err) {
    if (!plan->model->tokenizer || plan->options.without_tokenizer) return PL_OK;
    pl_tokenizer_visitor visitor = {.context = w,
                                    .text = tell_text,
                                    .u32 = tell_u32,
                                    .boolean = tell_boolean,
                                    .texts = tell_texts,
                                    .f32s = tell_f32s,
                                    .i32s = tell_i32s,
                                    .bytes = tell_bytes};
    return pl_tokenizer_export(plan->model->tokenizer, &visitor, err);
}

static pl_status put_tensors(pl_gguf_writer *w, pl_export_plan *plan, pl_error *err) {
    pl_status status = PL_OK;
    for (size_t i = 0; i < plan->n && status == PL_OK; i++) {
        pl_export_item *item = &plan->items[i];
        const pl_tensor *t = &item->announced;
        if (pl_export_as_is(item)) {
            status = pl_gguf_put_tensor(w, item->name, item->parts[0].t, err);
        } else {
            status = pl_gguf_put_made_tensor(w, item->name, t->dtype, t->n_dims, t->shape,
                                             pl_export_make, item, err);
        }
    }
    return status;
}

static pl_status save_gguf(pl_export_plan *plan, const char *path, pl_error *err) {
    const pl_model *model = plan->model;
    const char *arch = plan->family->gguf;
    const char *name = plan->options.name ? plan->options.name : model->name;
    uint32_t type = file_type(plan);
    pl_gguf_writer *w = NULL;
    pl_status status = pl_gguf_writer_new(&w, err);
    if (status == PL_OK) {
        status = pl_gguf_put_string(w, "general.architecture", arch, strlen(arch), err);
    }
    if (status == PL_OK) {
        status = pl_gguf_put_string(w, "general.name", name, strlen(name), err);
    }
    if (status == PL_OK) status = pl_gguf_put_u32(w, "general.file_type", type, err);
    if (status == PL_OK && type > 1 && type < 32) {
        status = pl_gguf_put_u32(w, "general.quantization_version", 2, err);
    }
    if (status == PL_OK) status = put_description(w, plan->family, &model->config, err);
    if (status == PL_OK) status = put_tokenizer(w, plan, err);
    if (status == PL_OK) status = put_tensors(w, plan, err);
    if (status == PL_OK) status = pl_gguf_writer_save(w, path, err);
    pl_gguf_writer_free(w);
    return status;
}

/* -- a folder -------------------------------------------------------------------------------- */

static pl_status save_weights(pl_export_plan *plan, const char *folder, pl_error *err) {
    static const char *const metadata[][2] = {{"format", "pt"}};
    pl_safetensors_item *items = calloc(plan->n, sizeof *items);
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/model.safetensors", folder);
    pl_status status = PL_OK;
    if (!items) status = pl_fail(err, PL_ERR_MEMORY, "out of memory for the list of tensors");
    if (length < 0 || (size_t)length >= sizeof path) {
        status = pl_fail(err, PL_ERR_ARGUMENT, "the path is too long");
    }
    for (size_t i = 0; i < plan->n && status == PL_OK; i++) {
        pl_export_item *item = &plan->items[i];
        bool as_is = pl_export_as_is(item);
        items[i] = (pl_safetensors_item){.name = item->name,
                                         .tensor = as_is ? item->parts[0].t : &item->announced,
                                         .make = as_is ? NULL : pl_export_make,
                                         .context = item};
    }
    if (status == PL_OK) {
        status = pl_safetensors_write(path, items, plan->n, metadata, 1, err);
    }
    free(items);
    return status;
}

static pl_status save_folder(pl_export_plan *plan, const char *folder, pl_error *err) {
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        return pl_fail(err, PL_ERR_IO, "%s: %s", folder, strerror(errno));
    }
    const pl_tokenizer *tok = plan->options.without_tokenizer ? NULL : plan->model->tokenizer;
    pl_status status = pl_export_tokenizer_files(tok, folder, err);
    if (status == PL_OK) status = pl_export_config_json(plan, folder, err);
    return status == PL_OK ? save_weights(plan, folder, err) : status;
}

pl_status pl_model_save(const pl_model *model, const char *path, const pl_save_options *options,
                        pl_error *err) {
    size_t length = strlen(path);
    pl_save_format format = options ? options->format : PL_SAVE_BY_NAME;
    if (format == PL_SAVE_BY_NAME) {
        bool gguf = length > 5 && strcmp(path + length - 5, ".gguf") == 0;
        format = gguf ? PL_SAVE_GGUF : PL_SAVE_SAFETENSORS;
    }
    const pl_family *family = pl_model_family(model);
    if (model->weights.unembed.b.data && !(family && family->config.unembed_bias)) {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "the unembedding has a bias, which no file of this family holds: save the "
                       "model as it was before it was processed");
    }
    pl_export_plan plan;
    pl_status status = pl_export_plan_init(&plan, model, options, format == PL_SAVE_GGUF, err);
    if (status != PL_OK) return status;
    status = format == PL_SAVE_GGUF ? save_gguf(&plan, path, err) : save_folder(&plan, path, err);
    pl_export_plan_clear(&plan);
    return status;
}
