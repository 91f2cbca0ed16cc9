#include "widen.h"

#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/size.h"
#include "../tensor/elementwise.h"
#include "build.h"
#include "walk.h"

/* -- finding -------------------------------------------------------------------------------- */

typedef struct find_job {
    const char *name;
    pl_stop stop;
    bool found;
} find_job;

static pl_status find_stop(void *context, const pl_stop *stop, pl_error *err) {
    (void)err;
    find_job *job = context;
    if (strcmp(stop->name, job->name) != 0) return PL_OK;
    job->stop = *stop;
    job->found = true;
    return PL_ERR_STATE; /* ends the walk */
}

/* The stop of a name, its tensor and `transposed` in *weights. */
static bool find(pl_stop *stop, const pl_config *config, pl_weights *weights, const char *name) {
    if (config->tied && strcmp(name, "output.weight") == 0) name = "token_embd.weight";
    find_job job = {.name = name};
    pl_walk_weights(config, weights, find_stop, &job, NULL);
    *stop = job.stop;
    return job.found;
}

static bool is_transposed(const pl_stop *stop) {
    return stop->transposed && *stop->transposed;
}

static pl_status no_such_weight(const char *name, pl_error *err) {
    return pl_fail(err, PL_ERR_ARGUMENT, "the model has no weight '%s'", name);
}

/* -- widening ------------------------------------------------------------------------------- */

/* Every row of `from`, as it is stored, into the contiguous float32 tensor `to`. */
static void widen_rows(const pl_kernels *kernels, const pl_tensor *to, const pl_tensor *from) {
    size_t width = (size_t)from->shape[from->n_dims - 1];
    int64_t n_rows = from->n_dims == 2 ? from->shape[0] : 1;
    size_t row_bytes = from->n_dims == 2 ? pl_tensor_row_bytes(from) : 0;
    for (int64_t r = 0; r < n_rows; r++) {
        kernels->to_f32[from->dtype]((float *)to->data + (size_t)r * width,
                                     (const char *)from->data + (size_t)r * row_bytes, width);
    }
}

/* A share in a model, as memory that a view keeps. */
static void release_model(pl_storage *storage) {
    pl_model_free(storage->owner);
    free(storage);
}

static pl_status lend(pl_tensor *out, pl_model *model, const pl_tensor *weight, pl_error *err) {
    pl_storage *storage = calloc(1, sizeof *storage);
    if (!storage) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    *storage = (pl_storage){.refs = 1, /* bytes 0: freeing the view frees no memory */
                            .data = weight->data,
                            .read_only = true,
                            .release = release_model,
                            .owner = pl_model_retain(model)};
    *out = *weight;
    out->storage = storage;
    return PL_OK;
}

pl_status pl_model_weight_f32(pl_tensor *out, pl_model *model, const char *name, pl_error *err) {
    pl_stop stop;
    const pl_kernels *kernels;
    pl_weights weights = model->weights; /* the walk changes nothing */
    if (!find(&stop, &model->config, &weights, name)) return no_such_weight(name, err);
    pl_status status = pl_kernels_choose(&kernels, err);
    if (status != PL_OK) return status;
    const pl_tensor *t = stop.tensor;
    if (t->storage) {
        *out = *t;
        pl_tensor_retain(out);
        return PL_OK;
    }
    if (t->dtype == PL_F32) {
        status = lend(out, model, t, err);
    } else {
        status = pl_tensor_new(out, PL_F32, t->n_dims, t->shape, err);
        if (status == PL_OK) widen_rows(kernels, out, t);
        if (status == PL_OK) out->storage->read_only = true;
    }
    if (status == PL_OK && is_transposed(&stop)) status = pl_tensor_transpose(out, 0, 1, err);
    return status;
}

pl_status pl_model_weight_rows_f32(pl_tensor *out, pl_model *model, const char *name,
                                   const int32_t *ids, int64_t n, pl_error *err) {
    pl_stop stop;
    pl_call call;
    pl_weights weights = model->weights;
    if (!find(&stop, &model->config, &weights, name)) return no_such_weight(name, err);
    if (stop.n_dims != 2 || is_transposed(&stop)) {
        return pl_fail(err, PL_ERR_ARGUMENT, "%s is no table of rows", name);
    }
    pl_status status = pl_call_init(&call, 1, err);
    if (status != PL_OK) return status;
    status = pl_op_embed(&call, out, stop.tensor, ids, n);
    if (status != PL_OK && err) *err = call.err;
    return status;
}

/* -- wide models ---------------------------------------------------------------------------- */

typedef struct wide_job {
    const pl_kernels *kernels;
    pl_model *source;
    char *memory; /* NULL while sizes are added up */
    size_t bytes;
} wide_job;

static pl_status count_elements(size_t *bytes, const pl_stop *stop, pl_error *err) {
    size_t n;
    bool fits =
        pl_size_mul(&n, (size_t)stop->shape[0], stop->n_dims == 2 ? (size_t)stop->shape[1] : 1) &&
        pl_size_mul(&n, n, sizeof(float)) && n < SIZE_MAX / 4;
    if (!fits) return pl_fail(err, PL_ERR_MEMORY, "%s: too large", stop->name);
    *bytes = pl_size_align(n, 64);
    return PL_OK;
}

static pl_status measure(void *context, const pl_stop *stop, pl_error *err) {
    wide_job *job = context;
    size_t bytes;
    pl_status status = count_elements(&bytes, stop, err);
    if (status == PL_OK && !pl_size_add(&job->bytes, job->bytes, bytes)) {
        status = pl_fail(err, PL_ERR_MEMORY, "%s: too large", stop->name);
    }
    return status;
}

static pl_status fill(void *context, const pl_stop *stop, pl_error *err) {
    wide_job *job = context;
    pl_stop from;
    size_t bytes;
    pl_status status = count_elements(&bytes, stop, err);
    if (status != PL_OK) return status;
    pl_weights weights = job->source->weights;
    bool found = find(&from, &job->source->config, &weights, stop->name);
    bool transposed = found && is_transposed(&from);
    const int64_t shape[2] = {stop->shape[transposed], stop->shape[!transposed]};
    status = pl_tensor_wrap(stop->tensor, PL_F32, stop->n_dims,
                            stop->n_dims == 2 ? shape : stop->shape, job->memory, err);
    if (status != PL_OK) return status;
    if (stop->transposed) *stop->transposed = transposed;
    memset(job->memory, 0, bytes);
    if (found) widen_rows(job->kernels, stop->tensor, from.tensor);
    job->memory += bytes;
    return PL_OK;
}

static pl_status fill_wide(pl_model *model, void *context, pl_error *err) {
    wide_job *job = context;
    pl_status status = pl_kernels_choose(&job->kernels, err);
    if (status == PL_OK) {
        status = pl_walk_weights(&model->config, &model->weights, measure, job, err);
    }
    if (status == PL_OK && !(job->memory = pl_arena_alloc(&model->memory, job->bytes))) {
        status = pl_fail(err, PL_ERR_MEMORY, "out of memory: %zu bytes of weights", job->bytes);
    }
    if (status == PL_OK) status = pl_walk_weights(&model->config, &model->weights, fill, job, err);
    return status;
}

static char *copy_text(const char *text) {
    return text ? strdup(text) : NULL;
}

pl_status pl_model_new_copy(pl_model **out, pl_model *source, const pl_config *config,
                            pl_fill_fn fill_weights, void *context, pl_error *err) {
    pl_model *model;
    pl_status status = pl_model_begin(&model, config, err);
    if (status != PL_OK) return status;
    status = fill_weights(model, context, err);
    model->path = copy_text(source->path);
    model->name = copy_text(source->name);
    if (status == PL_OK) status = pl_model_finish(model, err);
    if (status != PL_OK) {
        pl_model_free(model);
        return status;
    }
    model->source = pl_model_retain(source);
    pl_model_adopt_family(model, source->families);
    model->tokenizer = source->tokenizer;
    *out = model;
    return PL_OK;
}

pl_status pl_model_new_wide(pl_model **out, pl_model *source, pl_error *err) {
    pl_config config = source->config;
    config.qkv_bias = config.attn_out_bias = config.mlp_bias = true;
    config.tied = false;
    config.unembed_bias = !config.headless;
    wide_job job = {.source = source};
    pl_status status = pl_model_new_copy(out, source, &config, fill_wide, &job, err);
    if (status == PL_OK) (*out)->writable = true;
    return status;
}

/* -- models to train ------------------------------------------------------------------------ */

static pl_status fill_own(void *context, const pl_stop *stop, pl_error *err) {
    wide_job *job = context;
    pl_stop from;
    pl_tensor rows;
    pl_weights weights = job->source->weights;
    if (!find(&from, &job->source->config, &weights, stop->name)) {
        return no_such_weight(stop->name, err);
    }
    pl_status status = pl_tensor_new(stop->tensor, PL_F32, stop->n_dims, stop->shape, err);
    if (status != PL_OK) return status;
    stop->tensor->storage->leaf = true;
    if (!is_transposed(&from)) {
        widen_rows(job->kernels, stop->tensor, from.tensor);
        return PL_OK;
    }
    pl_call call = {.kernels = job->kernels, .n_threads = 1, .paused = true};
    status = pl_tensor_new(&rows, PL_F32, 2, from.tensor->shape, err);
    if (status != PL_OK) return status;
    widen_rows(job->kernels, &rows, from.tensor);
    status = pl_tensor_transpose(&rows, 0, 1, err);
    if (status == PL_OK) status = pl_op_copy_(&call, stop->tensor, &rows);
    pl_tensor_release(&rows);
    return status;
}

static pl_status fill_trainable(pl_model *model, void *context, pl_error *err) {
    wide_job *job = context;
    pl_status status = pl_kernels_choose(&job->kernels, err);
    if (status != PL_OK) return status;
    return pl_walk_weights(&model->config, &model->weights, fill_own, job, err);
}

pl_status pl_model_new_trainable(pl_model **out, pl_model *source, pl_error *err) {
    wide_job job = {.source = source};
    pl_status status = pl_model_new_copy(out, source, &source->config, fill_trainable, &job, err);
    if (status == PL_OK) (*out)->writable = true;
    return status;
}

pl_status pl_model_set_weight(pl_model *model, const char *name, const pl_tensor *values,
                              pl_error *err) {
    pl_stop stop;
    pl_call call;
    if (!model->writable) return pl_fail(err, PL_ERR_STATE, "the weights of this model are shared");
    if (!find(&stop, &model->config, &model->weights, name)) return no_such_weight(name, err);
    pl_tensor to = *stop.tensor;
    pl_status status = pl_call_init(&call, 1, err);
    if (status == PL_OK && is_transposed(&stop)) status = pl_tensor_transpose(&to, 0, 1, err);
    if (status != PL_OK) return status;
    if (to.n_dims != values->n_dims ||
        memcmp(to.shape, values->shape, (size_t)to.n_dims * sizeof *to.shape) != 0) {
        char expected[PL_SHAPE_TEXT], got[PL_SHAPE_TEXT];
        return pl_fail(err, PL_ERR_SHAPE, "%s is %s: expected %s", name,
                       pl_tensor_shape_text(values, got), pl_tensor_shape_text(&to, expected));
    }
    status = pl_op_copy_(&call, &to, values);
    if (status != PL_OK && err) *err = call.err;
    return status;
}
