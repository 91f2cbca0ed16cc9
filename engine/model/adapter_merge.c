/* Models with adapters put into their matrices: W + sum of scale B A, in W's own type. What no
 * adapter touches is the source's. */
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/threads.h"
#include "../kernels/quantize.h"
#include "adapter.h"
#include "build.h"
#include "walk.h"

typedef struct merging {
    pl_model *model;
    const pl_model *source;
    const pl_adapter_use *uses;
    size_t n_uses;
    const pl_kernels *kernels;
    pl_error *err;
} merging;

/* One matrix being put together. */
typedef struct matrix_job {
    const merging *m;
    const pl_linear *from;
    pl_linear *to;
    float *rows; /* [n_threads, n_in] */
} matrix_job;

static const pl_addend *find(const pl_adapter *adapter, const pl_linear *linear) {
    for (size_t i = 0; i < adapter->n_addends; i++) {
        if (adapter->addends[i].to == linear) return &adapter->addends[i];
    }
    return NULL;
}

/* row += scale B[j] A */
static void add_row(float *row, const pl_addend *addend, float scale, int64_t j) {
    const pl_tensor *a = &addend->a.w, *b = &addend->b.w;
    const float *left = (const float *)b->data + j * b->stride[0];
    for (int64_t k = 0; k < a->shape[0]; k++) {
        const float *right = (const float *)a->data + k * a->stride[0];
        float factor = scale * addend->scale * left[k];
        for (int64_t i = 0; i < a->shape[1]; i++) row[i] += factor * right[i];
    }
}

static size_t place(const pl_tensor *w, int64_t row, int64_t column) {
    return (size_t)(row * w->stride[0] + column * w->stride[1]) *
           pl_dtype_get(w->dtype)->block_bytes;
}

/* Output j of the map: a row, or in a transposed matrix a column. */
static void merge_output(void *context, size_t j, int thread) {
    const matrix_job *job = context;
    const pl_tensor *from = &job->from->w, *to = &job->to->w;
    const pl_kernels *k = job->m->kernels;
    int64_t n = pl_linear_n_in(job->from), at = (int64_t)j;
    float *row = job->rows + (size_t)thread * (size_t)n;
    const char *source = from->data;
    char *out = to->data;
    if (job->from->transposed) {
        for (int64_t i = 0; i < n; i++)
            k->to_f32[from->dtype](row + i, source + place(from, i, at), 1);
    } else {
        k->to_f32[from->dtype](row, source + j * pl_tensor_row_bytes(from), (size_t)n);
    }
    for (size_t u = 0; u < job->m->n_uses; u++) {
        const pl_addend *addend = find(job->m->uses[u].adapter, job->from);
        if (addend) add_row(row, addend, job->m->uses[u].scale, at);
    }
    if (job->from->transposed) {
        for (int64_t i = 0; i < n; i++) k->from_f32[to->dtype](out + place(to, i, at), row + i, 1);
    } else if (pl_dtype_get(to->dtype)->quantised) {
        pl_quantize_row(to->dtype, out + j * pl_tensor_row_bytes(to), row, (size_t)n, NULL);
    } else {
        k->from_f32[to->dtype](out + j * pl_tensor_row_bytes(to), row, (size_t)n);
    }
}

static bool is_touched(const merging *m, const pl_linear *linear) {
    bool touched = false;
    for (size_t u = 0; u < m->n_uses; u++) touched |= find(m->uses[u].adapter, linear) != NULL;
    return touched;
}

/* Gives `to`, which shares from's memory, a matrix of its own if an adapter is on it. */
static pl_status merge_matrix(const merging *m, const pl_linear *from, pl_linear *to) {
    if (!is_touched(m, from)) return PL_OK;
    pl_tensor_release(&to->w);
    pl_status status = pl_tensor_new(&to->w, from->w.dtype, 2, from->w.shape, m->err);
    if (status != PL_OK) return status;
    int n_threads = pl_threads_default();
    size_t n_in = (size_t)pl_linear_n_in(from);
    matrix_job job = {m, from, to, calloc((size_t)n_threads, n_in * sizeof(float))};
    if (!job.rows) return pl_fail(m->err, PL_ERR_MEMORY, "out of memory for merging");
    pl_parallel(n_threads, (size_t)pl_linear_n_out(from), merge_output, &job);
    free(job.rows);
    return PL_OK;
}

static pl_status merge_block(const merging *m, const pl_block_weights *from, pl_block_weights *to) {
    const pl_linear *sources[] = {&from->q,    &from->k,  &from->v,   &from->o,
                                  &from->gate, &from->in, &from->out, &from->router};
    pl_linear *targets[] = {&to->q,    &to->k,  &to->v,   &to->o,
                            &to->gate, &to->in, &to->out, &to->router};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        TRY(merge_matrix(m, sources[i], targets[i]));
    }
    for (int64_t e = 0; e < m->source->config.n_experts; e++) {
        TRY(merge_matrix(m, &from->experts[e].gate, &to->experts[e].gate));
        TRY(merge_matrix(m, &from->experts[e].in, &to->experts[e].in));
        TRY(merge_matrix(m, &from->experts[e].out, &to->experts[e].out));
    }
    return PL_OK;
}

/* Another owner of every weight that is counted. */
static pl_status retain_weight(void *context, const pl_stop *stop, pl_error *err) {
    (void)context, (void)err;
    if (stop->tensor->storage) pl_tensor_retain(stop->tensor);
    return PL_OK;
}

/* All weights of the source, shared. */
static pl_status share_weights(pl_model *model, const pl_model *source, pl_error *err) {
    pl_block_weights *blocks = model->weights.blocks;
    const pl_config *c = &source->config;
    model->weights = source->weights;
    model->weights.blocks = blocks;
    for (int64_t l = 0; l < c->n_layers; l++) {
        pl_expert_weights *experts = blocks[l].experts;
        blocks[l] = source->weights.blocks[l];
        blocks[l].experts = experts;
        if (!c->n_experts) continue;
        memcpy(experts, source->weights.blocks[l].experts, (size_t)c->n_experts * sizeof *experts);
    }
    return pl_walk_weights(c, &model->weights, retain_weight, NULL, err);
}

static pl_status fill(pl_model *model, void *context, pl_error *err) {
    merging *m = context;
    m->model = model;
    m->err = err;
    const pl_weights *from = &m->source->weights;
    pl_weights *to = &m->model->weights;
    TRY(share_weights(m->model, m->source, m->err));
    for (int64_t l = 0; l < m->source->config.n_layers; l++) {
        TRY(merge_block(m, &from->blocks[l], &to->blocks[l]));
    }
    if (!m->source->config.headless) TRY(merge_matrix(m, &from->unembed, &to->unembed));
    return merge_matrix(m, &from->unembed_dense, &to->unembed_dense);
}

pl_status pl_model_merge(pl_model **out, pl_model *model, const pl_adapter_use *uses, size_t n,
                         pl_error *err) {
    pl_adapter_list *list = NULL; /* only to hold them to the rules of one */
    pl_status status = PL_OK;
    for (size_t i = 0; i < n && status == PL_OK; i++) {
        status = pl_adapters_set(&list, model, uses[i].adapter, uses[i].scale, err);
    }
    pl_adapters_free(list);
    merging m = {.source = model, .uses = uses, .n_uses = n};
    if (status == PL_OK) status = pl_kernels_choose(&m.kernels, err);
    if (status != PL_OK) return status;
    pl_config config = model->config;
    if (is_touched(&m, &model->weights.unembed)) config.tied = false;
    return pl_model_new_copy(out, model, &config, fill, &m, err);
}
