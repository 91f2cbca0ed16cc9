/* Keys and values that a sequence holds, as float32 rows: read, and changed on purpose. */
#include "../base/error.h"
#include "pass.h"

static pl_status check_range(const pl_sequence *seq, int64_t layer, int64_t pos, int64_t n,
                             pl_error *err) {
    int64_t n_layers = pl_session_pool(seq->session)->n_layers;
    if (seq->busy) {
        return pl_fail(err, PL_ERR_STATE, "the sequence is in use by a pass that is still running");
    }
    if (layer < 0 || layer >= n_layers) {
        return pl_fail(err, PL_ERR_ARGUMENT, "layer %lld: expected 0 to %lld", (long long)layer,
                       (long long)n_layers - 1);
    }
    if (pos < 0 || n < 0 || n > seq->length - pos) {
        return pl_fail(err, PL_ERR_ARGUMENT, "positions %lld to %lld: the sequence holds %lld",
                       (long long)pos, (long long)(pos + n), (long long)seq->length);
    }
    return PL_OK;
}

/* Where head h of one position is in its page's keys; its values are half_bytes on. */
static uint8_t *key_row(const pl_sequence *seq, int64_t layer, int64_t pos, int64_t h) {
    const pl_page_pool *pool = pl_session_pool(seq->session);
    pl_page *page = seq->table.pages[layer * seq->table.capacity + pos / PL_PAGE_POSITIONS];
    return pl_page_keys(pool, page, h) + (size_t)(pos % PL_PAGE_POSITIONS) * pool->row_bytes;
}

pl_status pl_sequence_get_kv(const pl_sequence *seq, int64_t layer, int64_t pos, int64_t n,
                             float *keys, float *values, pl_error *err) {
    pl_status status = check_range(seq, layer, pos, n, err);
    if (status != PL_OK) return status;
    const pl_page_pool *pool = pl_session_pool(seq->session);
    const pl_kernels *k;
    status = pl_kernels_choose(&k, err);
    if (status != PL_OK) return status;
    size_t width = (size_t)pool->d_head;
    for (int64_t p = pos; p < pos + n; p++) {
        for (int64_t h = 0; h < pool->n_kv_heads; h++, keys += width, values += width) {
            const uint8_t *row = key_row(seq, layer, p, h);
            k->to_f32[pool->dtype](keys, row, width);
            k->to_f32[pool->dtype](values, row + pool->half_bytes, width);
        }
    }
    return PL_OK;
}

pl_status pl_sequence_set_kv(pl_sequence *seq, int64_t layer, int64_t pos, int64_t n,
                             const float *keys, const float *values, pl_error *err) {
    pl_status status = check_range(seq, layer, pos, n, err);
    if (status != PL_OK) return status;
    pl_page_pool *pool = pl_session_pool(seq->session);
    const pl_kernels *k;
    status = pl_kernels_choose(&k, err);
    if (status == PL_OK) {
        pl_layers one = {layer, layer + 1};
        status = pl_page_table_own(&seq->table, pool, pos, pos + n, one, err);
    }
    if (status != PL_OK) return status;
    size_t width = (size_t)pool->d_head;
    for (int64_t i = 0; i < n * pool->n_kv_heads; i++) {
        uint8_t *row = key_row(seq, layer, pos + i / pool->n_kv_heads, i % pool->n_kv_heads);
        if (keys) k->from_f32[pool->dtype](row, keys + (size_t)i * width, width);
        if (values)
            k->from_f32[pool->dtype](row + pool->half_bytes, values + (size_t)i * width, width);
    }
    return PL_OK;
}
