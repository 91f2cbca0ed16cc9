/* Adapters to files, as PEFT lays them out. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../base/error.h"
#include "../format/locate.h"
#include "../format/outfile.h"
#include "../format/safetensors.h"
#include "adapter.h"

enum { NAME_SIZE = 224 };

/* Without "base_model.model.". */
static void module_name(char out[NAME_SIZE], const pl_adapter *adapter, const pl_pair *pair) {
    const char *prefix = pl_model_family(adapter->model)->hf_prefix;
    char name[160];
    bool bare = pl_place_in_head(pair->target.rule->place);
    pl_target_name(name, sizeof name, &pair->target, true);
    snprintf(out, NAME_SIZE, "%s%s", bare ? "" : prefix, name);
}

/* alpha of a pair, so that alpha / r is its scale. */
static double alpha_of(const pl_pair *pair) {
    return (double)pair->scale * (double)pair->a.shape[0];
}

/* -- adapter_config.json ---------------------------------------------------------------------- */

/* The last words of all names, each once. */
static json_t *target_modules(const pl_adapter *adapter) {
    json_t *list = json_array();
    for (size_t i = 0; i < adapter->n_pairs; i++) {
        char name[NAME_SIZE];
        module_name(name, adapter, &adapter->pairs[i]);
        const char *last = strrchr(name, '.') ? strrchr(name, '.') + 1 : name;
        size_t at;
        json_t *value;
        bool known = false;
        json_array_foreach(list, at, value) known |= strcmp(json_string_value(value), last) == 0;
        if (!known && json_array_append_new(list, json_string(last)) != 0) break;
    }
    return list;
}

/* The pairs whose number is not that of the first. */
static json_t *pattern(const pl_adapter *adapter, bool alpha) {
    json_t *object = json_object();
    const pl_pair *first = adapter->pairs;
    for (size_t i = 1; i < adapter->n_pairs; i++) {
        const pl_pair *pair = &adapter->pairs[i];
        char name[NAME_SIZE];
        module_name(name, adapter, pair);
        if (alpha && alpha_of(pair) != alpha_of(first)) {
            json_object_set_new(object, name, json_real(alpha_of(pair)));
        }
        if (!alpha && pair->a.shape[0] != first->a.shape[0]) {
            json_object_set_new(object, name, json_integer((json_int_t)pair->a.shape[0]));
        }
    }
    return object;
}

static json_t *make_config(const pl_adapter *adapter) {
    const pl_pair *first = adapter->pairs;
    const char *base = adapter->model->path ? adapter->model->path : adapter->model->name;
    return json_pack("{s:s, s:s, s:s, s:b, s:s, s:I, s:f, s:f, s:o, s:o, s:o, s:b, s:b, s:n}",
                     "peft_type", "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", base,
                     "inference_mode", 1, "bias", "none", "r", (json_int_t)first->a.shape[0],
                     "lora_alpha", alpha_of(first), "lora_dropout", 0.0, "target_modules",
                     target_modules(adapter), "rank_pattern", pattern(adapter, false),
                     "alpha_pattern", pattern(adapter, true), "fan_in_fan_out",
                     first->target.rule->conv1d, "use_rslora", 0, "modules_to_save");
}

static pl_status write_config(const pl_adapter *adapter, const char *folder, pl_error *err) {
    char path[PL_PATH_MAX];
    pl_outfile out;
    json_t *config = make_config(adapter);
    char *text = config ? json_dumps(config, JSON_INDENT(2)) : NULL;
    json_decref(config);
    if (!text) return pl_fail(err, PL_ERR_MEMORY, "out of memory for adapter_config.json");
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    pl_status status = pl_outfile_open(&out, path, err);
    if (status == PL_OK) {
        pl_outfile_write(&out, text, strlen(text));
        status = pl_outfile_commit(&out, err);
    }
    free(text);
    return status;
}

/* -- adapter_model.safetensors ---------------------------------------------------------------- */

typedef struct saved {
    char names[2][NAME_SIZE + 40];
    const pl_adapter *adapter;
    const pl_pair *pair;
} saved;

/* B with the rows of the file's order. */
static pl_status make_b(void *context, pl_tensor *t, pl_error *err) {
    const saved *s = context;
    const pl_tensor *b = &s->pair->b;
    size_t row_bytes = pl_tensor_row_bytes(b);
    pl_status status = pl_tensor_new(t, PL_F32, 2, b->shape, err);
    for (int64_t i = 0; status == PL_OK && i < b->shape[0]; i++) {
        int64_t from = pl_target_row(&s->pair->target, s->adapter->model, true, i);
        memcpy((char *)t->data + (size_t)i * row_bytes,
               (const char *)b->data + (size_t)from * row_bytes, row_bytes);
    }
    return status;
}

static pl_status write_weights(const pl_adapter *adapter, const char *folder, pl_error *err) {
    char path[PL_PATH_MAX];
    size_t n = adapter->n_pairs;
    saved *list = calloc(n, sizeof *list);
    pl_safetensors_item *items = calloc(n, 2 * sizeof *items);
    pl_status status = PL_OK;
    if (!list || !items) status = pl_fail(err, PL_ERR_MEMORY, "out of memory for an adapter");
    for (size_t i = 0; i < n && status == PL_OK; i++) {
        const pl_pair *pair = &adapter->pairs[i];
        saved *s = &list[i];
        char module[NAME_SIZE];
        module_name(module, adapter, pair);
        s->adapter = adapter;
        s->pair = pair;
        snprintf(s->names[0], sizeof s->names[0], "base_model.model.%s.lora_A.weight", module);
        snprintf(s->names[1], sizeof s->names[1], "base_model.model.%s.lora_B.weight", module);
        items[2 * i] = (pl_safetensors_item){.name = s->names[0], .tensor = &pair->a};
        items[2 * i + 1] = (pl_safetensors_item){s->names[1], &pair->b, make_b, s};
    }
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    const char *const metadata[1][2] = {{"format", "pt"}};
    if (status == PL_OK) status = pl_safetensors_write(path, items, 2 * n, metadata, 1, err);
    free(items);
    free(list);
    return status;
}

static pl_status save_folder(const pl_adapter *adapter, const char *folder, pl_error *err) {
    const pl_family *family = pl_model_family(adapter->model);
    if (!family || !family->model_type || adapter->n_pairs == 0) {
        return pl_fail(err, PL_ERR_UNSUPPORTED, "there are no Hugging Face files of the family %s",
                       adapter->model->config.arch);
    }
    if (strlen(folder) + 40 > PL_PATH_MAX) {
        return pl_fail(err, PL_ERR_ARGUMENT, "the path is too long");
    }
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        return pl_fail(err, PL_ERR_IO, "%s: %s", folder, strerror(errno));
    }
    pl_status status = write_weights(adapter, folder, err);
    return status == PL_OK ? write_config(adapter, folder, err) : status;
}

pl_status pl_adapter_save(const pl_adapter *adapter, const char *path, pl_error *err) {
    size_t n = strlen(path);
    bool gguf = n > 5 && strcmp(path + n - 5, ".gguf") == 0;
    return gguf ? pl_adapter_save_gguf(adapter, path, err) : save_folder(adapter, path, err);
}
