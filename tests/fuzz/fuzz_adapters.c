/* An adapter for a small fixed model: any bytes as GGUF, as safetensors, or from '{' on as
 * adapter_config.json; what is read must be sound enough to run. */
#include <stdlib.h>
#include <string.h>

#include "../../engine/model/adapter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static pl_model *base_model(void) {
    static pl_model *model;
    pl_config config;
    if (model) return model;
    if (pl_config_init(&config, "llama", NULL) != PL_OK) abort();
    config.d_model = 32, config.d_mlp = 48, config.n_layers = 2, config.n_heads = 4;
    config.n_kv_heads = 2, config.d_vocab = 70, config.n_ctx = 32;
    if (pl_model_new_random(&model, &config, PL_F32, 3, 0.2f, NULL) != PL_OK) abort();
    return model;
}

static void run(pl_model *model, pl_adapter *adapter) {
    pl_session *session;
    pl_sequence *seq;
    float logits[70];
    if (pl_session_new(&session, model, NULL, NULL) != PL_OK) return;
    if (pl_sequence_new(&seq, session, NULL) == PL_OK) {
        pl_sequence_set_adapter(seq, adapter, 1, NULL);
        pl_sequence_extend(seq, (const int32_t[]){1, 2}, 2, PL_LOGITS_LAST, logits, NULL);
        pl_sequence_free(seq);
    }
    pl_session_free(session);
}

static void read_adapter(const pl_weights_file *file, const json_t *config) {
    pl_adapter *adapter;
    pl_model *model = base_model();
    if (pl_adapter_begin(&adapter, model, "fuzz", NULL) != PL_OK) return;
    if (pl_adapter_read(adapter, file, config, NULL) == PL_OK) run(model, adapter);
    pl_adapter_free(adapter);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char plain[] = "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 6}";
    bool is_config = size > 0 && data[0] == '{';
    pl_weights_file file = {0};
    json_t *config = NULL;
    uint8_t *aligned = aligned_alloc(16, (size + 31) / 16 * 16);
    if (!aligned) return 0;
    memcpy(aligned, data, size);
    const char *text = is_config ? (const char *)data : plain;
    size_t length = is_config ? size : sizeof plain - 1;
    if (pl_gguf_parse(&file.gguf, aligned, size, "fuzz", NULL) == PL_OK) {
        read_adapter(&file, NULL);
    } else if (pl_json_parse(&config, text, length, "adapter_config.json", NULL) == PL_OK) {
        static const uint8_t empty[] = "\x02\0\0\0\0\0\0\0{}";
        pl_status status =
            is_config ? pl_safetensors_parse(&file.safetensors, empty, 10, "fuzz", NULL)
                      : pl_safetensors_parse(&file.safetensors, aligned, size, "fuzz", NULL);
        if (status == PL_OK) read_adapter(&file, config);
    }
    json_decref(config);
    pl_weights_file_close(&file);
    free(aligned);
    return 0;
}
