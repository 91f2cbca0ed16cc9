/* Text and ids, sizes: the model as perilune.h shows it. */
#include <stdlib.h>

#include "../base/error.h"
#include "model.h"

pl_model_sizes pl_model_get_sizes(const pl_model *model) {
    const pl_config *c = &model->config;
    return (pl_model_sizes){c->n_layers, c->n_heads, c->n_kv_heads, c->d_model,
                            c->d_head,   c->d_mlp,   c->d_vocab,    c->n_ctx};
}

static pl_status need_tokenizer(const pl_model *model, pl_error *err) {
    if (model->tokenizer) return PL_OK;
    return pl_fail(err, PL_ERR_UNSUPPORTED, "the model has no tokenizer");
}

pl_status pl_model_encode(const pl_model *model, const char *text, size_t size, int32_t **ids,
                          int64_t *n, pl_error *err) {
    pl_ids list = {0};
    pl_status status = need_tokenizer(model, err);
    if (status == PL_OK) {
        status = pl_tokenizer_encode(model->tokenizer, text, size, NULL, &list, err);
    }
    if (status != PL_OK) {
        pl_ids_clear(&list);
        return status;
    }
    *ids = list.data;
    *n = (int64_t)list.n;
    return PL_OK;
}

pl_status pl_model_decode(const pl_model *model, const int32_t *ids, int64_t n, char **text,
                          size_t *size, pl_error *err) {
    pl_buffer buffer = {0};
    pl_status status = need_tokenizer(model, err);
    if (status == PL_OK && n < 0) {
        status = pl_fail(err, PL_ERR_ARGUMENT, "n = %lld: expected 0 or more", (long long)n);
    }
    if (status == PL_OK) {
        status = pl_tokenizer_decode(model->tokenizer, ids, (size_t)n, NULL, &buffer, err);
    }
    if (status == PL_OK && !pl_buffer_append(&buffer, "", 1)) {
        status = pl_fail(err, PL_ERR_MEMORY, "out of memory for a text");
    }
    if (status != PL_OK) {
        pl_buffer_clear(&buffer);
        return status;
    }
    *text = (char *)buffer.data;
    if (size) *size = buffer.size - 1;
    return PL_OK;
}

bool pl_model_is_end(const pl_model *model, int32_t id) {
    return model->tokenizer && pl_tokenizer_is_end(model->tokenizer, id);
}
