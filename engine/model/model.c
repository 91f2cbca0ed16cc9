#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/memory.h"
#include "build.h"
#include "load.h"
#include "walk.h"

pl_status pl_model_begin(pl_model **out, const pl_config *config, pl_error *err) {
    pl_config checked = *config;
    pl_status status = pl_config_check(&checked, err);
    if (status != PL_OK) return status;
    pl_model *model = calloc(1, sizeof *model);
    if (!model) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a model");
    model->refs = 1;
    model->config = checked;
    model->weights.blocks = calloc((size_t)checked.n_layers, sizeof *model->weights.blocks);
    if (!model->weights.blocks) {
        pl_model_free(model);
        return pl_fail(err, PL_ERR_MEMORY, "out of memory for %lld layers",
                       (long long)checked.n_layers);
    }
    size_t n = (size_t)checked.n_experts;
    for (int64_t l = 0; n > 0 && l < checked.n_layers; l++) {
        pl_expert_weights *experts = pl_arena_alloc(&model->memory, n * sizeof *experts);
        if (!experts) {
            pl_model_free(model);
            return pl_fail(err, PL_ERR_MEMORY, "out of memory for %zu experts", n);
        }
        memset(experts, 0, n * sizeof *experts);
        model->weights.blocks[l].experts = experts;
    }
    *out = model;
    return PL_OK;
}

static pl_status count_bytes(void *context, const pl_stop *stop, pl_error *err) {
    (void)err;
    size_t *bytes = context, row_bytes = 0;
    const pl_tensor *t = stop->tensor; /* rows may lie apart, in a fused matrix */
    size_t n_rows = t->n_dims == 2 ? (size_t)t->shape[0] : 1;
    if (!pl_dtype_row_bytes(t->dtype, (size_t)t->shape[t->n_dims - 1], &row_bytes)) return PL_OK;
    *bytes += n_rows * row_bytes;
    return PL_OK;
}

pl_status pl_model_finish(pl_model *model, pl_error *err) {
    const pl_config *c = &model->config;
    if (c->tied && !c->headless) {
        model->weights.unembed =
            (pl_linear){.w = model->weights.embed, .b = model->weights.unembed.b};
    }
    for (int64_t l = 0; c->shared_norm && l < c->n_layers; l++) {
        pl_block_weights *b = &model->weights.blocks[l];
        b->norm[PL_MLP][PL_NORM_BEFORE] = b->norm[PL_ATTENTION][PL_NORM_BEFORE];
    }
    if (c->positions == PL_POSITIONS_ROTARY) {
        pl_status status = pl_model_make_frequencies(model, err);
        if (status != PL_OK) return status;
    }
    if (!model->name && !(model->name = strdup(c->arch))) {
        return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    }
    return pl_walk_weights(c, &model->weights, count_bytes, &model->weight_bytes, err);
}

const pl_family *pl_model_family(const pl_model *model) {
    return model->family ? model->family : pl_family_find(model->config.arch);
}

void pl_model_adopt_family(pl_model *model, pl_families *families) {
    const pl_family *family = pl_families_find(families, model->config.arch);
    if (!family || !family->added) return;
    pl_families *old = model->families;
    model->families = pl_families_retain(families);
    model->family = family;
    pl_families_free(old);
}

pl_model *pl_model_retain(pl_model *model) {
    __atomic_add_fetch(&model->refs, 1, __ATOMIC_RELAXED);
    return model;
}

static pl_status release_weight(void *context, const pl_stop *stop, pl_error *err) {
    (void)context, (void)err;
    pl_tensor_release(stop->tensor);
    return PL_OK;
}

void pl_model_free(pl_model *model) {
    if (!model || __atomic_sub_fetch(&model->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
    if (model->weights.blocks) {
        pl_walk_weights(&model->config, &model->weights, release_weight, NULL, NULL);
    }
    if (model->source)
        pl_model_free(model->source);
    else
        pl_tokenizer_free(model->tokenizer);
    pl_model_close_file(model);
    pl_arena_clear(&model->memory);
    pl_families_free(model->families);
    free(model->rope_frequencies);
    free(model->weights.blocks);
    free(model->path);
    free(model->name);
    free(model);
}

/* -- looking at the weights ----------------------------------------------------------------- */

typedef struct find_job {
    size_t wanted, at; /* the index asked for, and the walk's */
    pl_named_weight *out;
    int64_t n_params;
} find_job;

static pl_status find_weight(void *context, const pl_stop *stop, pl_error *err) {
    find_job *job = context;
    job->n_params += stop->shape[0] * (stop->n_dims == 2 ? stop->shape[1] : 1);
    if (job->at++ != job->wanted || !job->out) return PL_OK;
    snprintf(job->out->name, sizeof job->out->name, "%s", stop->name);
    job->out->tensor = *stop->tensor;
    if (stop->transposed && *stop->transposed) {
        return pl_tensor_transpose(&job->out->tensor, 0, 1, err);
    }
    return PL_OK;
}

static find_job walk_model(const pl_model *model, size_t wanted, pl_named_weight *out) {
    find_job job = {.wanted = wanted, .out = out};
    pl_weights weights = model->weights; /* the walk changes nothing */
    pl_walk_weights(&model->config, &weights, find_weight, &job, NULL);
    return job;
}

size_t pl_model_n_weights(const pl_model *model) {
    return walk_model(model, 0, NULL).at;
}

void pl_model_weight(const pl_model *model, size_t i, pl_named_weight *out) {
    *out = (pl_named_weight){0};
    walk_model(model, i, out);
}

int64_t pl_model_n_params(const pl_model *model) {
    return walk_model(model, 0, NULL).n_params;
}

static pl_status fetch_weight(void *context, const pl_stop *stop, pl_error *err) {
    (void)context, (void)err;
    const pl_tensor *t = stop->tensor;
    size_t n_rows = t->n_dims == 2 ? (size_t)t->shape[0] : 1;
    pl_memory_fetch(t->data, n_rows * pl_tensor_row_bytes(t));
    return PL_OK;
}

void pl_model_fetch(pl_model *model) {
    if (!model->file || model->weight_bytes > pl_memory_size() / 2) return;
    if (__atomic_exchange_n(&model->fetched, true, __ATOMIC_RELAXED)) return;
    pl_weights weights = model->weights;
    pl_walk_weights(&model->config, &weights, fetch_weight, NULL, NULL);
}

typedef struct bad_job {
    const pl_kernels *kernels;
    float *row;
    char *text;
    size_t text_size;
} bad_job;

static pl_status find_bad(void *context, const pl_stop *stop, pl_error *err) {
    bad_job *job = context;
    const pl_tensor *t = stop->tensor;
    int64_t n_rows = t->n_dims == 2 ? t->shape[0] : 1, n = t->shape[t->n_dims - 1];
    float *row = realloc(job->row, (size_t)n * sizeof *row);
    if (!row) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    job->row = row;
    for (int64_t r = 0; r < n_rows; r++) {
        const char *source = (const char *)t->data + (size_t)r * pl_tensor_row_bytes(t);
        job->kernels->to_f32[t->dtype](row, source, (size_t)n);
        for (int64_t i = 0; i < n; i++) {
            if (isfinite(row[i])) continue;
            snprintf(job->text, job->text_size, "%s [%lld, %lld] is %s", stop->name, (long long)r,
                     (long long)i, isnan(row[i]) ? "nan" : "infinite");
            return PL_ERR_FORMAT;
        }
    }
    return PL_OK;
}

bool pl_model_find_bad_weight(const pl_model *model, char *text, size_t text_size) {
    bad_job job = {.text = text, .text_size = text_size};
    if (pl_kernels_choose(&job.kernels, NULL) != PL_OK) return false;
    pl_weights weights = model->weights;
    pl_status status = pl_walk_weights(&model->config, &weights, find_bad, &job, NULL);
    free(job.row);
    return status == PL_ERR_FORMAT;
}
