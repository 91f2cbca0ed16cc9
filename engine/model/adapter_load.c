/* Adapters from files.
 *
 *     PEFT    adapter_config.json; base_model.model.NAME.lora_A.weight [r, n_in], .lora_B.weight
 *     GGUF    general.type = adapter, adapter.lora.alpha; NAME.weight.lora_a, NAME.weight.lora_b */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../base/error.h"
#include "../format/locate.h"
#include "adapter.h"

typedef struct reader {
    pl_adapter *adapter;
    const pl_weights_file *file;
    const json_t *config; /* NULL: GGUF */
    const pl_kernels *kernels;
    double alpha; /* but for those of alpha_pattern; 0 in GGUF: the scale is 1 */
    int64_t rank; /* that the configuration names, 0: it varies */
    bool by_root; /* alpha / sqrt(r), as rsLoRA has it */
    bool *used;   /* [n_tensors of the file] */
    pl_error *err;
} reader;

/* -- what the file says of itself ------------------------------------------------------------- */

static bool is_set(const json_t *config, const char *key) {
    const json_t *value = json_object_get(config, key);
    bool empty = !value || json_is_null(value) || json_is_false(value);
    if (json_is_object(value)) empty = json_object_size(value) == 0;
    if (json_is_array(value)) empty = json_array_size(value) == 0;
    return !empty;
}

static pl_status read_alpha(const json_t *value, const char *key, double *alpha, pl_error *err) {
    *alpha = json_number_value(value);
    if (json_is_number(value) && isfinite(*alpha) && fabs(*alpha) < 1e6) return PL_OK;
    return pl_fail(err, PL_ERR_FORMAT, "%s: expected a number", key);
}

/* The keys are ends of names, or else regular expressions. */
static pl_status check_pattern(const json_t *config, const char *field, pl_error *err) {
    const json_t *pattern = json_object_get(config, field);
    const char *key;
    const json_t *value;
    if (!is_set(config, field)) return PL_OK;
    if (!json_is_object(pattern)) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: expected an object", field);
    }
    json_object_foreach((json_t *)pattern, key, value) {
        double number;
        if (key[strcspn(key, "\\^$*+?()[]{}|")]) {
            return pl_fail(err, PL_ERR_UNSUPPORTED,
                           "%s: '%.100s' is a regular expression; names and their ends are read",
                           field, key);
        }
        pl_status status = read_alpha(value, field, &number, err);
        if (status != PL_OK) return status;
    }
    return PL_OK;
}

static pl_status read_config(reader *r) {
    static const char *const unsupported[] = {"use_dora", "layer_replication",
                                              "trainable_token_indices", "alora_invocation_tokens"};
    const json_t *config = r->config;
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    if (!type || strcmp(type, "LORA") != 0) {
        return pl_fail(r->err, PL_ERR_UNSUPPORTED, "peft_type = %.40s: expected LORA",
                       type ? type : "(none)");
    }
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        if (is_set(config, unsupported[i])) {
            return pl_fail(r->err, PL_ERR_UNSUPPORTED, "%s is set: plain LoRA is read only",
                           unsupported[i]);
        }
    }
    const json_t *rank = json_object_get(config, "r");
    if (!json_is_integer(rank) || json_integer_value(rank) < 1) {
        return pl_fail(r->err, PL_ERR_FORMAT, "r: expected a whole number from 1");
    }
    r->rank = is_set(config, "rank_pattern") ? 0 : json_integer_value(rank);
    r->by_root = json_is_true(json_object_get(config, "use_rslora"));
    pl_status status = check_pattern(config, "alpha_pattern", r->err);
    if (status == PL_OK) status = check_pattern(config, "rank_pattern", r->err);
    if (status != PL_OK) return status;
    return read_alpha(json_object_get(config, "lora_alpha"), "lora_alpha", &r->alpha, r->err);
}

/* Key is there and says so. */
static pl_status must_be(const reader *r, const char *key, const char *expected) {
    pl_gguf_string value;
    pl_status status = pl_gguf_get_string(r->file->gguf, key, &value, r->err);
    if (status != PL_OK || pl_gguf_string_is(value, expected)) return status;
    return pl_fail(r->err, PL_ERR_ARGUMENT, "%s = %.*s: expected %s", key,
                   (int)(value.size < 40 ? value.size : 40), value.data, expected);
}

static pl_status read_metadata(reader *r) {
    const pl_family *family = pl_model_family(r->adapter->model);
    pl_status status = must_be(r, "general.type", "adapter");
    if (status == PL_OK) status = must_be(r, "adapter.type", "lora");
    if (status == PL_OK && family && family->gguf) {
        status = must_be(r, "general.architecture", family->gguf);
    }
    if (status == PL_OK && pl_gguf_find(r->file->gguf, "adapter.alora.invocation_tokens")) {
        status = pl_fail(r->err, PL_ERR_UNSUPPORTED,
                         "adapter.alora.invocation_tokens is set: plain LoRA is read only");
    }
    if (status == PL_OK) {
        status = pl_gguf_read_float(r->file->gguf, "adapter.lora.alpha", &r->alpha, r->err);
    }
    if (status == PL_OK && !(isfinite(r->alpha) && fabs(r->alpha) < 1e6)) {
        status =
            pl_fail(r->err, PL_ERR_FORMAT, "adapter.lora.alpha = %g: expected a number", r->alpha);
    }
    return status;
}

/* -- pairs ------------------------------------------------------------------------------------ */

/* alpha_pattern's value for the longest end of the name, or lora_alpha. */
static double alpha_of(const reader *r, const char *name) {
    const json_t *pattern = json_object_get(r->config, "alpha_pattern");
    size_t n = strlen(name), longest = 0;
    double alpha = r->alpha;
    const char *key;
    const json_t *value;
    json_object_foreach((json_t *)pattern, key, value) {
        size_t m = strlen(key);
        bool ends = m <= n && strcmp(name + n - m, key) == 0 && (m == n || name[n - m - 1] == '.');
        if (!ends || m < longest) continue;
        longest = m;
        alpha = json_number_value(value);
    }
    return alpha;
}

/* A scale of 1 where GGUF names no alpha. */
static float scale_of(const reader *r, const char *name, int64_t rank) {
    double alpha = r->config ? alpha_of(r, name) : r->alpha;
    if (!r->config && alpha == 0) return 1;
    return (float)(alpha / (r->by_root ? sqrt((double)rank) : (double)rank));
}

static bool find(const reader *r, const char *prefix, const char *more, const char *name,
                 const char *ending, size_t *index) {
    char full[320];
    snprintf(full, sizeof full, "%s%s%s%s", prefix, more, name, ending);
    return pl_weights_file_find(r->file, full, index);
}

/* PEFT's names begin as the class that was adapted has them: with or without the model's own
 * prefix, and without "model." where the class has no head. */
static bool find_peft(const reader *r, const char *name, const char *ending, size_t *index) {
    const char *more = pl_model_family(r->adapter->model)->hf_prefix;
    const char *prefix = "base_model.model.";
    const char *bare = strncmp(name, "model.", 6) == 0 ? name + 6 : name;
    return find(r, prefix, "", name, ending, index) || find(r, prefix, more, name, ending, index) ||
           find(r, prefix, "", bare, ending, index) || find(r, "", "", name, ending, index);
}

/* One matrix of a pair; an absent one leaves t empty. */
static pl_status take(reader *r, const pl_target *target, const char *name, bool b, pl_tensor *t) {
    size_t index;
    *t = (pl_tensor){0};
    bool found = r->config ? find_peft(r, name, b ? ".lora_B.weight" : ".lora_A.weight", &index)
                           : find(r, "", "", name, b ? ".weight.lora_b" : ".weight.lora_a", &index);
    bool stacked = false;
    if (!found && !r->config && target->rule->merged) { /* of all experts, one after the other */
        char merged[160];
        pl_tensor_rule_name(merged, sizeof merged, target->rule->merged, target->layer, -1,
                            b ? "weight.lora_b" : "weight.lora_a");
        stacked = found = pl_weights_file_find(r->file, merged, &index);
    }
    if (!found) return PL_OK;
    r->used[index] = true;
    pl_status status = pl_weights_file_tensor(r->file, index, t, r->err);
    if (status != PL_OK || !stacked) return status;
    int64_t n_experts = r->adapter->model->config.n_experts;
    if (t->n_dims != 3 || t->shape[0] != n_experts) {
        return pl_fail(r->err, PL_ERR_SHAPE, "the matrices of %s: expected those of %lld experts",
                       name, (long long)n_experts);
    }
    return pl_tensor_select(t, 0, target->expert, r->err);
}

static pl_status check_pair(const reader *r, const pl_target *target, const char *name,
                            const pl_tensor *a, const pl_tensor *b) {
    char shape_a[PL_SHAPE_TEXT], shape_b[PL_SHAPE_TEXT];
    if (!a->data || !b->data) {
        return pl_fail(r->err, PL_ERR_FORMAT, "%s has only one of its two matrices, %s", name,
                       a->data ? "A" : "B");
    }
    bool fit = a->n_dims == 2 && b->n_dims == 2 && a->shape[1] == target->n_in &&
               b->shape[0] == target->n_out && a->shape[0] == b->shape[1] && a->shape[0] > 0;
    if (!fit) {
        return pl_fail(r->err, PL_ERR_SHAPE,
                       "%s has A %s and B %s: expected [r, %lld] and [%lld, r] for this model",
                       name, pl_tensor_shape_text(a, shape_a), pl_tensor_shape_text(b, shape_b),
                       (long long)target->n_in, (long long)target->n_out);
    }
    if (r->rank && a->shape[0] != r->rank) {
        return pl_fail(r->err, PL_ERR_SHAPE, "%s has rank %lld: the configuration says r = %lld",
                       name, (long long)a->shape[0], (long long)r->rank);
    }
    if (!r->kernels->to_f32[a->dtype] || !r->kernels->to_f32[b->dtype]) {
        return pl_fail(r->err, PL_ERR_UNSUPPORTED, "%s has matrices of type %s and %s", name,
                       pl_dtype_get(a->dtype)->name, pl_dtype_get(b->dtype)->name);
    }
    return PL_OK;
}

static pl_status read_pair(void *context, const pl_target *target, pl_error *err) {
    reader *r = context;
    char name[160];
    pl_tensor a, b;
    pl_target_name(name, sizeof name, target, r->config);
    pl_status status = take(r, target, name, false, &a);
    if (status == PL_OK) status = take(r, target, name, true, &b);
    if (status != PL_OK || (!a.data && !b.data)) return status;
    status = check_pair(r, target, name, &a, &b);
    if (status != PL_OK) return status;
    pl_pair *pair;
    int64_t rank = a.shape[0];
    status = pl_adapter_add(r->adapter, target, rank, scale_of(r, name, rank), &pair, err);
    if (status != PL_OK) return status;
    for (int64_t i = 0; i < rank; i++) {
        r->kernels->to_f32[a.dtype]((float *)pair->a.data + i * target->n_in,
                                    (char *)a.data + (size_t)i * pl_tensor_row_bytes(&a),
                                    (size_t)target->n_in);
    }
    for (int64_t i = 0; i < target->n_out; i++) {
        int64_t to = pl_target_row(target, r->adapter->model, r->config, i);
        r->kernels->to_f32[b.dtype]((float *)pair->b.data + to * rank,
                                    (char *)b.data + (size_t)i * pl_tensor_row_bytes(&b),
                                    (size_t)rank);
    }
    return PL_OK;
}

/* What is left over would be left out silently. */
static pl_status refuse_unused(const reader *r) {
    for (size_t i = 0; i < pl_weights_file_n_tensors(r->file); i++) {
        char name[160];
        if (r->used[i]) continue;
        pl_weights_file_name(r->file, i, name, sizeof name);
        bool low = strstr(name, ".lora_A.") || strstr(name, ".lora_B.") ||
                   strstr(name, ".lora_a") || strstr(name, ".lora_b");
        if (low) {
            return pl_fail(r->err, PL_ERR_ARGUMENT,
                           "tensor '%s' adapts no matrix that %s has: it is for another base", name,
                           r->adapter->model->name);
        }
        return pl_fail(r->err, PL_ERR_UNSUPPORTED,
                       "tensor '%s' is no low-rank matrix, and nothing else is read", name);
    }
    return PL_OK;
}

pl_status pl_adapter_read(pl_adapter *adapter, const pl_weights_file *file, const json_t *config,
                          pl_error *err) {
    size_t n = pl_weights_file_n_tensors(file);
    reader r = {.adapter = adapter, .file = file, .config = config, .err = err};
    pl_status status = pl_kernels_choose(&r.kernels, err);
    if (status == PL_OK) status = config ? read_config(&r) : read_metadata(&r);
    if (status != PL_OK) return status;
    r.used = calloc(n + 1, sizeof *r.used);
    if (!r.used) return pl_fail(err, PL_ERR_MEMORY, "out of memory for an adapter");
    status = pl_each_target(adapter->model, config, read_pair, &r, err);
    if (status == PL_OK) status = refuse_unused(&r);
    if (status == PL_OK && adapter->n_pairs == 0) {
        status = pl_fail(err, PL_ERR_FORMAT, "no low-rank matrices");
    }
    free(r.used);
    return status == PL_OK ? pl_adapter_finish(adapter, err) : status;
}

/* -- opening ---------------------------------------------------------------------------------- */

/* The file of weights and, in PEFT's layout, the configuration beside it ("" in GGUF). */
static pl_status locate(const char *path, char weights[PL_PATH_MAX], char config[PL_PATH_MAX],
                        pl_error *err) {
    size_t n = strlen(path);
    if (n + 32 > PL_PATH_MAX) return pl_fail(err, PL_ERR_ARGUMENT, "the path is too long");
    config[0] = '\0';
    snprintf(weights, PL_PATH_MAX, "%s/adapter_model.safetensors", path);
    if (access(weights, F_OK) == 0) {
        snprintf(config, PL_PATH_MAX, "%s/adapter_config.json", path);
        return PL_OK;
    }
    snprintf(weights, PL_PATH_MAX, "%s/adapter_model.bin", path);
    if (access(weights, F_OK) == 0) {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "%s: is a Python pickle: expected adapter_model.safetensors", weights);
    }
    snprintf(weights, PL_PATH_MAX, "%s/adapter_config.json", path);
    if (access(weights, F_OK) == 0) {
        return pl_fail(err, PL_ERR_IO, "%s: has no adapter_model.safetensors", path);
    }
    pl_model_files files;
    snprintf(weights, PL_PATH_MAX, "%s", path);
    if (access(path, F_OK) != 0) { /* a hub id, or nothing */
        pl_status status = pl_locate_model(&files, path, err);
        if (status != PL_OK) return status;
        snprintf(weights, PL_PATH_MAX, "%s", files.weights);
    }
    n = strlen(weights);
    if (n > 12 && strcmp(weights + n - 12, ".safetensors") == 0) {
        const char *slash = strrchr(weights, '/');
        int folder = slash ? (int)(slash - weights) + 1 : 0;
        snprintf(config, PL_PATH_MAX, "%.*sadapter_config.json", folder, weights);
    }
    return PL_OK;
}

static pl_status read_files(pl_adapter *adapter, const char *weights, const char *config,
                            pl_error *err) {
    pl_weights_file file = {0};
    json_t *json = NULL;
    pl_status status = pl_weights_file_open(&file, weights, err);
    if (status != PL_OK) return status;
    if (config[0]) status = pl_json_open(&json, config, err);
    if (status == PL_OK && !json && !file.gguf) {
        status = pl_fail(err, PL_ERR_FORMAT, "%s: expected a folder in PEFT's layout or a .gguf",
                         weights);
    } else if (status == PL_OK) {
        status = pl_adapter_read(adapter, &file, json, err);
        if (status != PL_OK) pl_error_prefix(err, status, "%s", weights);
    }
    json_decref(json);
    pl_weights_file_close(&file);
    return status;
}

pl_status pl_adapter_load(pl_adapter **out, pl_model *model, const char *path, pl_error *err) {
    char weights[PL_PATH_MAX], config[PL_PATH_MAX];
    pl_adapter *adapter;
    pl_status status = locate(path, weights, config, err);
    if (status != PL_OK) return status;
    size_t n = strlen(path), start = n;
    while (start > 0 && path[start - 1] != '/') start--;
    status = pl_adapter_begin(&adapter, model, start < n ? path + start : path, err);
    if (status != PL_OK) return status;
    status = read_files(adapter, weights, config, err);
    if (status != PL_OK) {
        pl_adapter_free(adapter);
        return status;
    }
    *out = adapter;
    return PL_OK;
}
