/* Adapters to GGUF, as llama.cpp's converter lays them out: NAME.weight.lora_a [r, n_in] and
 * NAME.weight.lora_b [n_out, r], of experts one after the other where the base has them in one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../format/gguf_write.h"
#include "adapter.h"

/* One tensor of the file: A or B of a pair, or of all experts of a layer, zeros where one of them
 * has no pair. */
typedef struct stack {
    const pl_adapter *adapter;
    const pl_pair *pairs;
    int64_t n_pairs, n_experts; /* n_experts 0: of one pair, without a dimension for it */
    bool b;
} stack;

static const pl_tensor *matrix(const stack *s, int64_t i) {
    return s->b ? &s->pairs[i].b : &s->pairs[i].a;
}

static void shape_of(const stack *s, int64_t shape[3]) {
    bool stacked = s->n_experts > 0;
    if (stacked) shape[0] = s->n_experts;
    shape[stacked] = matrix(s, 0)->shape[0];
    shape[stacked + 1] = matrix(s, 0)->shape[1];
}

static pl_status make_stack(void *context, pl_tensor *t, pl_error *err) {
    const stack *s = context;
    int64_t shape[3], n_rows = matrix(s, 0)->shape[0];
    size_t row_bytes = pl_tensor_row_bytes(matrix(s, 0));
    shape_of(s, shape);
    pl_status status = pl_tensor_new(t, PL_F32, s->n_experts ? 3 : 2, shape, err);
    if (status != PL_OK) return status;
    int64_t n_all = s->n_experts ? s->n_experts * n_rows : n_rows;
    memset(t->data, 0, (size_t)n_all * row_bytes);
    for (int64_t i = 0; i < s->n_pairs * n_rows; i++) {
        const pl_pair *pair = &s->pairs[i / n_rows];
        int64_t row = i % n_rows, expert = s->n_experts ? pair->target.expert : 0;
        int64_t from = s->b ? pl_target_row(&pair->target, s->adapter->model, false, row) : row;
        memcpy((char *)t->data + (size_t)(expert * n_rows + row) * row_bytes,
               (const char *)matrix(s, i / n_rows)->data + (size_t)from * row_bytes, row_bytes);
    }
    return PL_OK;
}

/* The pairs from this one on that go into one tensor. */
static pl_status gather(stack *s, const pl_adapter *adapter, size_t at, pl_error *err) {
    const pl_pair *first = &adapter->pairs[at];
    *s = (stack){.adapter = adapter, .pairs = first, .n_pairs = 1};
    if (first->target.expert < 0 || !first->target.rule->merged) return PL_OK;
    s->n_experts = adapter->model->config.n_experts;
    for (; at + (size_t)s->n_pairs < adapter->n_pairs; s->n_pairs++) {
        const pl_pair *pair = &first[s->n_pairs];
        if (pair->target.rule != first->target.rule || pair->target.layer != first->target.layer)
            return PL_OK;
        if (pair->a.shape[0] == first->a.shape[0]) continue;
        return pl_fail(
            err, PL_ERR_UNSUPPORTED,
            "layer %lld: the matrices of experts have several ranks, and GGUF holds one: "
            "save a folder",
            (long long)first->target.layer);
    }
    return PL_OK;
}

static pl_status put_stack(pl_gguf_writer *w, stack *s, pl_error *err) {
    const pl_target *target = &s->pairs->target;
    const char *pattern = s->n_experts ? target->rule->merged : target->rule->gguf;
    int64_t shape[3];
    char name[160];
    if (!pattern) return pl_fail(err, PL_ERR_UNSUPPORTED, "a matrix has no name in GGUF");
    shape_of(s, shape);
    pl_tensor_rule_name(name, sizeof name, pattern, target->layer, target->expert,
                        s->b ? "weight.lora_b" : "weight.lora_a");
    return pl_gguf_put_made_tensor(w, name, PL_F32, s->n_experts ? 3 : 2, shape, make_stack, s,
                                   err);
}

static pl_status put_pairs(pl_gguf_writer *w, const pl_adapter *adapter, stack *stacks,
                           pl_error *err) {
    for (size_t i = 0; i < adapter->n_pairs;) {
        stack *both = &stacks[2 * i];
        pl_status status = gather(&both[0], adapter, i, err);
        both[1] = both[0];
        both[1].b = true;
        for (int b = 0; b < 2 && status == PL_OK; b++) status = put_stack(w, &both[b], err);
        if (status != PL_OK) return status;
        i += (size_t)both->n_pairs;
    }
    return PL_OK;
}

/* One alpha for all; 0: the scale is 1, whatever the rank. */
static pl_status common_alpha(const pl_adapter *adapter, float *alpha, pl_error *err) {
    bool ones = true;
    *alpha = adapter->pairs->scale * (float)adapter->pairs->a.shape[0];
    for (size_t i = 0; i < adapter->n_pairs; i++) ones &= adapter->pairs[i].scale == 1;
    if (ones) *alpha = 0;
    for (size_t i = 0; i < adapter->n_pairs && !ones; i++) {
        const pl_pair *pair = &adapter->pairs[i];
        if (pair->scale * (float)pair->a.shape[0] == *alpha) continue;
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "the matrices have several alphas, and GGUF holds one: save a folder");
    }
    return PL_OK;
}

static pl_status put_text(pl_gguf_writer *w, const char *key, const char *text, pl_error *err) {
    return pl_gguf_put_string(w, key, text, strlen(text), err);
}

pl_status pl_adapter_save_gguf(const pl_adapter *adapter, const char *path, pl_error *err) {
    const pl_family *family = pl_model_family(adapter->model);
    pl_gguf_writer *w = NULL;
    float alpha;
    if (!family || !family->gguf || adapter->n_pairs == 0) {
        return pl_fail(err, PL_ERR_UNSUPPORTED, "there are no GGUF files of the family %s",
                       adapter->model->config.arch);
    }
    pl_status status = common_alpha(adapter, &alpha, err);
    if (status == PL_OK) status = pl_gguf_writer_new(&w, err);
    stack *stacks = calloc(adapter->n_pairs, 2 * sizeof *stacks);
    if (status == PL_OK && !stacks) {
        status = pl_fail(err, PL_ERR_MEMORY, "out of memory for an adapter");
    }
    if (status == PL_OK) status = put_text(w, "general.architecture", family->gguf, err);
    if (status == PL_OK) status = put_text(w, "general.type", "adapter", err);
    if (status == PL_OK) status = put_text(w, "adapter.type", "lora", err);
    if (status == PL_OK) status = pl_gguf_put_f32(w, "adapter.lora.alpha", alpha, err);
    if (status == PL_OK) status = put_pairs(w, adapter, stacks, err);
    if (status == PL_OK) status = pl_gguf_writer_save(w, path, err);
    pl_gguf_writer_free(w);
    free(stacks);
    return status;
}
