/* Gradients of y = x Wᵀ + b: of x through weights of any type, of W and b where they are float32
 * tensors of their own. Quantised weights are widened tile by tile; no thread ever holds more than
 * one tile. */
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/threads.h"
#include "grad_layers.h"
#include "linalg.h"

enum { X, W, B };
enum { TILE_OUT = 128, TILE_IN = 256 };

/* What the node keeps of weights that it does not count: the model outlives it (pl_call.owner). */
typedef struct kept {
    pl_linear linear;
    pl_tensor owner; /* counted */
} kept;

static void release_kept(void *owned) {
    kept *k = owned;
    pl_tensor_release(&k->owner);
    free(k);
}

/* -- the gradient of x ------------------------------------------------------------------------ */

typedef struct input_job {
    const pl_call *c;
    const pl_blas *blas;
    const pl_tensor *w, *g, *grad;
    float *tiles; /* [n_threads, TILE_OUT, TILE_IN] */
} input_job;

/* grad[:, columns] += g W[:, columns], W widened tile by tile. */
static void input_columns(void *context, size_t task, int thread) {
    const input_job *job = context;
    const pl_dtype_info *info = pl_dtype_get(job->w->dtype);
    int64_t n_out = job->w->shape[0], n_in = job->w->shape[1], first = (int64_t)task * TILE_IN;
    int64_t width = n_in - first < TILE_IN ? n_in - first : TILE_IN;
    float *tile = job->tiles + (size_t)thread * TILE_OUT * TILE_IN;
    size_t offset = (size_t)first / info->block_elements * info->block_bytes;
    for (int64_t row = 0; row < n_out; row += TILE_OUT) {
        int64_t n = n_out - row < TILE_OUT ? n_out - row : TILE_OUT;
        for (int64_t i = 0; i < n; i++) {
            const char *from =
                (const char *)job->w->data + (size_t)(row + i) * pl_tensor_row_bytes(job->w);
            job->c->kernels->to_f32[job->w->dtype](tile + i * TILE_IN, from + offset,
                                                   (size_t)width);
        }
        pl_gemm_add(job->blas, 1,
                    &(pl_gemm){.m = job->g->shape[0],
                               .n = width,
                               .k = n,
                               .factor = 1,
                               .a = (const float *)job->g->data + row,
                               .lda = job->g->stride[0],
                               .b = tile,
                               .ldb = TILE_IN,
                               .c = (float *)job->grad->data + first,
                               .ldc = job->grad->stride[0]});
    }
}

/* The same where W is stored as [n_in, n_out]. */
static void input_rows(void *context, size_t task, int thread) {
    const input_job *job = context;
    const pl_dtype_info *info = pl_dtype_get(job->w->dtype);
    int64_t n_in = job->w->shape[0], n_out = job->w->shape[1], first = (int64_t)task * TILE_IN;
    int64_t height = n_in - first < TILE_IN ? n_in - first : TILE_IN;
    float *tile = job->tiles + (size_t)thread * TILE_OUT * TILE_IN;
    for (int64_t column = 0; column < n_out; column += TILE_OUT) {
        int64_t n = n_out - column < TILE_OUT ? n_out - column : TILE_OUT;
        size_t offset = (size_t)column / info->block_elements * info->block_bytes;
        for (int64_t i = 0; i < height; i++) {
            const char *from =
                (const char *)job->w->data + (size_t)(first + i) * pl_tensor_row_bytes(job->w);
            job->c->kernels->to_f32[job->w->dtype](tile + i * TILE_OUT, from + offset, (size_t)n);
        }
        pl_gemm_add(job->blas, 1,
                    &(pl_gemm){.m = job->g->shape[0],
                               .n = height,
                               .k = n,
                               .factor = 1,
                               .a = (const float *)job->g->data + column,
                               .lda = job->g->stride[0],
                               .b = tile,
                               .ldb = TILE_OUT,
                               .b_transposed = true,
                               .c = (float *)job->grad->data + first,
                               .ldc = job->grad->stride[0]});
    }
}

static pl_status widened(pl_call *c, const pl_blas *blas, const pl_linear *linear,
                         const pl_tensor *g, const pl_tensor *grad) {
    input_job job = {c, blas, &linear->w, g, grad, NULL};
    int64_t n_in = pl_linear_n_in(linear);
    job.tiles = malloc((size_t)c->n_threads * TILE_OUT * TILE_IN * sizeof *job.tiles);
    if (!job.tiles) return pl_fail(&c->err, PL_ERR_MEMORY, "out of memory for a gradient's tiles");
    pl_parallel(c->n_threads, (size_t)((n_in + TILE_IN - 1) / TILE_IN),
                linear->transposed ? input_rows : input_columns, &job);
    free(job.tiles);
    return PL_OK;
}

static pl_status input_gradient(pl_call *c, const pl_blas *blas, const pl_linear *linear,
                                const pl_tensor *g, const pl_tensor *grad) {
    const pl_tensor *w = &linear->w;
    if (w->dtype == PL_F32) {
        pl_gemm_add(blas, c->n_threads,
                    &(pl_gemm){.m = g->shape[0],
                               .n = pl_linear_n_in(linear),
                               .k = pl_linear_n_out(linear),
                               .factor = 1,
                               .a = g->data,
                               .lda = g->stride[0],
                               .b = w->data,
                               .ldb = w->stride[0],
                               .b_transposed = linear->transposed,
                               .c = grad->data,
                               .ldc = grad->stride[0]});
        return PL_OK;
    }
    return widened(c, blas, linear, g, grad);
}

/* -- the gradients of W and b ------------------------------------------------------------------ */

static void weight_gradient(pl_call *c, const pl_blas *blas, const pl_tensor *g, const pl_tensor *x,
                            bool transposed, const pl_tensor *grad) {
    const pl_tensor *rows = transposed ? x : g, *columns = transposed ? g : x;
    pl_gemm_add(blas, c->n_threads,
                &(pl_gemm){.m = rows->shape[1],
                           .n = columns->shape[1],
                           .k = g->shape[0],
                           .factor = 1,
                           .a = rows->data,
                           .lda = rows->stride[0],
                           .a_transposed = true,
                           .b = columns->data,
                           .ldb = columns->stride[0],
                           .c = grad->data,
                           .ldc = grad->stride[0]});
}

static void bias_gradient(pl_call *c, const pl_tensor *g, const pl_tensor *grad) {
    for (int64_t r = 0; r < g->shape[0]; r++) {
        c->kernels->add(grad->data, grad->data, (const float *)g->data + r * g->stride[0],
                        (size_t)g->shape[1]);
    }
}

static pl_status linear_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    const kept *k = node->owned;
    pl_tensor grad;
    bool wanted;
    const pl_blas *blas;
    pl_status status = pl_blas_open(&blas, &c->err);
    if (status == PL_OK) status = pl_input_grad(c, node, X, &grad, &wanted);
    if (status == PL_OK && wanted) status = input_gradient(c, blas, &k->linear, g, &grad);
    if (status == PL_OK) status = pl_input_grad(c, node, W, &grad, &wanted);
    if (status == PL_OK && wanted) {
        weight_gradient(c, blas, g, &node->in[X].tensor, k->linear.transposed, &grad);
    }
    if (status == PL_OK) status = pl_input_grad(c, node, B, &grad, &wanted);
    if (status == PL_OK && wanted) bias_gradient(c, g, &grad);
    return status;
}

/* Weights that nobody counts cannot have changed; those that are counted are checked. */
static const pl_rule frozen_rule = {"a linear map", linear_backward, 0, false};
static const pl_rule linear_rule = {"a linear map", linear_backward, 3, false};

pl_status pl_record_linear(pl_call *c, const pl_tensor *out, const pl_tensor *x,
                           const pl_linear *linear) {
    pl_node *node;
    const pl_tensor *in[] = {x, &linear->w, &linear->b};
    const pl_rule *rule = linear->w.storage ? &linear_rule : &frozen_rule;
    pl_status status = pl_record(c, rule, out, in, 3, &node);
    if (!node) return status;
    kept *k = calloc(1, sizeof *k);
    if (!k) return pl_fail(&c->err, PL_ERR_MEMORY, "out of memory for a gradient's record");
    k->linear = *linear;
    if (c->owner) {
        k->owner = *c->owner;
        pl_tensor_retain(&k->owner);
    }
    node->owned = k;
    node->release_owned = release_kept;
    return PL_OK;
}
