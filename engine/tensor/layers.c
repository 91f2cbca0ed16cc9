#include "layers.h"

#include <math.h>
#include <string.h>

#include "../base/error.h"
#include "../base/size.h"
#include "../base/threads.h"
#include "grad_layers.h"

/* Rows that one task takes in operations that work row by row. */
enum { TASK_ROWS = 16 };

static float *row_f32(const pl_tensor *t, int64_t row) {
    return (float *)t->data + row * t->stride[0];
}

static int64_t row_width(const pl_tensor *t) {
    int64_t width = 1;
    for (int i = 1; i < t->n_dims; i++) width *= t->shape[i];
    return width;
}

static pl_status check_rows(pl_call *c, const pl_tensor *x, const char *what) {
    if (x->dtype == PL_F32 && x->n_dims >= 2 && x->stride[x->n_dims - 1] == 1) return PL_OK;
    char shape[PL_SHAPE_TEXT];
    return pl_fail(&c->err, PL_ERR_SHAPE, "%s: expected float32 rows, got %s %s", what,
                   pl_dtype_get(x->dtype)->name, pl_tensor_shape_text(x, shape));
}

/* Under a record what is written "in place" goes into new memory, and x becomes it: the old values
 * are what gradients are made of. */
static pl_status renew(pl_call *c, pl_tensor *x) {
    if (!c->keep) return PL_OK;
    pl_tensor old = *x;
    pl_status status = pl_call_tensor(c, x, PL_F32, old.n_dims, old.shape);
    if (status != PL_OK) return status;
    memcpy(x->dim, old.dim, sizeof x->dim);
    for (int64_t row = 0; row < old.shape[0]; row++) {
        int64_t n = old.n_dims > 2 ? old.shape[1] : 1, width = row_width(&old) / n;
        for (int64_t i = 0; i < n; i++) { /* heads may lie apart */
            memcpy(row_f32(x, row) + i * width,
                   row_f32(&old, row) + (old.n_dims > 2 ? i * old.stride[1] : 0),
                   (size_t)width * sizeof(float));
        }
    }
    return PL_OK;
}

/* -- work by rows --------------------------------------------------------------------------- */

typedef struct rows_job {
    pl_call *c;
    void (*run)(const struct rows_job *job, int64_t row);
    pl_tensor *out;
    const pl_tensor *x, *y;
    const pl_norm_weights *norm;
    const int32_t *ids;
    const double *frequencies;
    float eps, factor;
    bool half, layer;
    pl_activation activation;
    int64_t n_rows;
} rows_job;

static void run_rows(void *context, size_t task, int thread) {
    (void)thread;
    const rows_job *job = context;
    int64_t first = (int64_t)task * TASK_ROWS;
    for (int64_t row = first; row < job->n_rows && row < first + TASK_ROWS; row++) {
        job->run(job, row);
    }
}

static void for_rows(rows_job *job) {
    size_t n_tasks = ((size_t)job->n_rows + TASK_ROWS - 1) / TASK_ROWS;
    pl_parallel(job->c->n_threads, n_tasks, run_rows, job);
}

static void embed_row(const rows_job *job, int64_t row) {
    const pl_tensor *table = job->x;
    const char *source =
        (const char *)table->data + (size_t)job->ids[row] * pl_tensor_row_bytes(table);
    job->c->kernels->to_f32[table->dtype](row_f32(job->out, row), source, (size_t)table->shape[1]);
}

pl_status pl_op_embed(pl_call *c, pl_tensor *out, const pl_tensor *table, const int32_t *ids,
                      int64_t n_rows) {
    for (int64_t r = 0; r < n_rows; r++) {
        if (ids[r] < 0 || ids[r] >= table->shape[0]) {
            return pl_fail(&c->err, PL_ERR_ARGUMENT, "id %d at index %lld: expected 0 to %lld",
                           ids[r], (long long)r, (long long)table->shape[0] - 1);
        }
    }
    pl_status status = pl_call_tensor(c, out, PL_F32, 2, (int64_t[]){n_rows, table->shape[1]});
    if (status != PL_OK) return status;
    for_rows(&(rows_job){
        .c = c, .run = embed_row, .out = out, .x = table, .ids = ids, .n_rows = n_rows});
    return pl_record_embed(c, out, table, ids);
}

static void layer_stats_row(const rows_job *job, int64_t row) {
    float *stats = row_f32(job->out, row);
    job->c->kernels->layer_norm_stats(&stats[0], &stats[1], row_f32(job->x, row),
                                      (size_t)job->x->shape[1], job->eps);
}

static void rms_stats_row(const rows_job *job, int64_t row) {
    float *stats = row_f32(job->out, row);
    job->c->kernels->rms_norm_stats(&stats[0], &stats[1], row_f32(job->x, row),
                                    (size_t)job->x->shape[1], job->eps);
}

static pl_status norm_stats(rows_job *job) {
    pl_status status = check_rows(job->c, job->x, "norm");
    if (status != PL_OK) return status;
    job->n_rows = job->x->shape[0];
    status = pl_call_tensor(job->c, job->out, PL_F32, 2, (int64_t[]){job->n_rows, 2});
    if (status != PL_OK) return status;
    for_rows(job);
    return pl_record_norm_stats(job->c, job->out, job->x, job->run == layer_stats_row);
}

pl_status pl_op_layer_norm_stats(pl_call *c, pl_tensor *stats, const pl_tensor *x, float eps) {
    return norm_stats(
        &(rows_job){.c = c, .run = layer_stats_row, .out = stats, .x = x, .eps = eps});
}

pl_status pl_op_rms_norm_stats(pl_call *c, pl_tensor *stats, const pl_tensor *x, float eps) {
    return norm_stats(&(rows_job){.c = c, .run = rms_stats_row, .out = stats, .x = x, .eps = eps});
}

static void normalize_row(const rows_job *job, int64_t row) {
    const float *stats = row_f32(job->y, row);
    job->c->kernels->normalize(row_f32(job->out, row), row_f32(job->x, row), stats[0], stats[1],
                               job->norm->gain.data, job->norm->bias.data,
                               (size_t)job->x->shape[1]);
}

pl_status pl_op_normalize(pl_call *c, pl_tensor *out, const pl_tensor *x, const pl_tensor *stats,
                          const pl_norm_weights *weights) {
    pl_status status = PL_OK;
    pl_tensor source = *x;
    if (out != x || c->keep) status = pl_call_tensor(c, out, PL_F32, 2, source.shape);
    if (status != PL_OK) return status;
    for_rows(&(rows_job){.c = c,
                         .run = normalize_row,
                         .out = out,
                         .x = &source,
                         .y = stats,
                         .norm = weights,
                         .n_rows = source.shape[0]});
    return pl_record_normalize(c, out, &source, stats, weights);
}

static void norm_row(const rows_job *job, int64_t row) {
    const pl_kernels *k = job->c->kernels;
    const float *x = row_f32(job->x, row);
    size_t n = (size_t)job->x->shape[1];
    float mean, scale;
    (job->layer ? k->layer_norm_stats : k->rms_norm_stats)(&mean, &scale, x, n, job->eps);
    k->normalize(row_f32(job->out, row), x, mean, scale, job->norm->gain.data, job->norm->bias.data,
                 n);
}

pl_status pl_op_norm(pl_call *c, pl_tensor *out, const pl_tensor *x, bool layer, float eps,
                     const pl_norm_weights *weights) {
    pl_status status = check_rows(c, x, "norm");
    pl_tensor source = *x;
    if (status == PL_OK && out != x) status = pl_call_tensor(c, out, PL_F32, 2, source.shape);
    if (status != PL_OK) return status;
    for_rows(&(rows_job){.c = c,
                         .run = norm_row,
                         .out = out,
                         .x = &source,
                         .norm = weights,
                         .eps = eps,
                         .layer = layer,
                         .n_rows = source.shape[0]});
    return PL_OK;
}

static void gain_row(const rows_job *job, int64_t row) {
    float *x = row_f32(job->out, row);
    job->c->kernels->normalize(x, x, 0, 1, job->norm->gain.data, job->norm->bias.data,
                               (size_t)job->out->shape[1]);
}

pl_status pl_op_gain_(pl_call *c, pl_tensor *x, const pl_norm_weights *weights) {
    pl_tensor old = *x;
    pl_status status = renew(c, x);
    if (status != PL_OK) return status;
    for_rows(
        &(rows_job){.c = c, .run = gain_row, .out = x, .norm = weights, .n_rows = x->shape[0]});
    return pl_record_gain(c, x, &old, weights);
}

static void rotations_row(const rows_job *job, int64_t row) {
    int64_t n_pairs = job->out->shape[2];
    float *cosines = (float *)job->out->data + row * n_pairs;
    float *sines = cosines + job->out->stride[0];
    for (int64_t i = 0; i < n_pairs; i++) {
        double angle = job->ids[row] * job->frequencies[i];
        cosines[i] = (float)(cos(angle) * (double)job->factor);
        sines[i] = (float)(sin(angle) * (double)job->factor);
    }
}

pl_status pl_op_rotations(pl_call *c, pl_tensor *out, const int32_t *positions, int64_t n_rows,
                          const double *frequencies, int64_t n_pairs, float factor) {
    pl_status status = pl_call_tensor(c, out, PL_F32, 3, (int64_t[]){2, n_rows, n_pairs});
    if (status != PL_OK) return status;
    for_rows(&(rows_job){.c = c,
                         .run = rotations_row,
                         .out = out,
                         .ids = positions,
                         .frequencies = frequencies,
                         .factor = factor,
                         .n_rows = n_rows});
    return PL_OK;
}

static void rotate_row(const rows_job *job, int64_t row) {
    const pl_tensor *rotations = job->y;
    int64_t n_pairs = rotations->shape[2];
    const float *cosines = (const float *)rotations->data + row * n_pairs;
    for (int64_t head = 0; head < job->out->shape[1]; head++) {
        float *x = row_f32(job->out, row) + head * job->out->stride[1];
        job->c->kernels->rotate(x, cosines, cosines + rotations->stride[0], (size_t)n_pairs,
                                job->half);
    }
}

pl_status pl_op_rotate(pl_call *c, pl_tensor *x, const pl_tensor *rotations, bool half) {
    pl_tensor old = *x;
    pl_status status = check_rows(c, x, "rotate");
    if (status == PL_OK) status = renew(c, x);
    if (status != PL_OK) return status;
    for_rows(&(rows_job){
        .c = c, .run = rotate_row, .out = x, .y = rotations, .half = half, .n_rows = x->shape[0]});
    return pl_record_rotate(c, x, &old, rotations, half);
}

static void activate_row(const rows_job *job, int64_t row) {
    size_t n = (size_t)job->x->shape[1];
    float *out = row_f32(job->out, row);
    job->c->kernels->activate[job->activation](out, row_f32(job->x, row), n);
    if (job->y) job->c->kernels->mul(out, out, row_f32(job->y, row), n);
}

pl_status pl_op_activate(pl_call *c, pl_tensor *out, const pl_tensor *x, const pl_tensor *y,
                         pl_activation activation) {
    pl_status status = pl_call_tensor(c, out, PL_F32, 2, x->shape);
    if (status != PL_OK) return status;
    for_rows(&(rows_job){.c = c,
                         .run = activate_row,
                         .out = out,
                         .x = x,
                         .y = y,
                         .activation = activation,
                         .n_rows = x->shape[0]});
    return pl_record_activate(c, out, x, y, activation);
}

static void add_row(const rows_job *job, int64_t row) {
    float *x = row_f32(job->out, row);
    job->c->kernels->add(x, x, row_f32(job->y, row), (size_t)row_width(job->out));
}

pl_status pl_op_add_rows_(pl_call *c, pl_tensor *x, const pl_tensor *y) {
    pl_tensor old = *x;
    pl_status status = renew(c, x);
    if (status != PL_OK) return status;
    for_rows(&(rows_job){.c = c, .run = add_row, .out = x, .y = y, .n_rows = x->shape[0]});
    return pl_record_add_rows(c, x, &old, y);
}

static void scale_row(const rows_job *job, int64_t row) {
    float *x = row_f32(job->out, row);
    job->c->kernels->scale(x, x, job->factor, (size_t)row_width(job->out));
}

pl_status pl_op_scale_rows_(pl_call *c, pl_tensor *x, float factor) {
    pl_tensor old = *x;
    pl_status status = renew(c, x);
    if (status != PL_OK) return status;
    for_rows(
        &(rows_job){.c = c, .run = scale_row, .out = x, .factor = factor, .n_rows = x->shape[0]});
    return pl_record_scale_rows(c, x, &old, factor);
}

static void softcap_row(const rows_job *job, int64_t row) {
    float *x = row_f32(job->out, row);
    size_t n = (size_t)row_width(job->out);
    job->c->kernels->scale(x, x, 1 / job->factor, n);
    job->c->kernels->activate[PL_ACT_TANH](x, x, n);
    job->c->kernels->scale(x, x, job->factor, n);
}

pl_status pl_op_softcap_(pl_call *c, pl_tensor *x, float cap) {
    pl_tensor old = *x;
    pl_status status = renew(c, x);
    if (status != PL_OK) return status;
    for_rows(
        &(rows_job){.c = c, .run = softcap_row, .out = x, .factor = cap, .n_rows = x->shape[0]});
    return pl_record_softcap(c, x, &old, cap);
}

static void softmax_row(const rows_job *job, int64_t row) {
    float *x = row_f32(job->out, row);
    job->c->kernels->softmax(x, x, (size_t)row_width(job->out));
}

pl_status pl_op_softmax_rows_(pl_call *c, pl_tensor *x) {
    pl_tensor old = *x;
    pl_status status = renew(c, x);
    if (status != PL_OK) return status;
    for_rows(&(rows_job){.c = c, .run = softmax_row, .out = x, .n_rows = x->shape[0]});
    return pl_record_softmax_rows(c, x, &old);
}

static void take_row(const rows_job *job, int64_t row) {
    memcpy(row_f32(job->out, row), row_f32(job->x, job->ids[row]),
           (size_t)row_width(job->x) * sizeof(float));
}

pl_status pl_op_take_rows(pl_call *c, pl_tensor *out, const pl_tensor *x, const int32_t *rows,
                          int64_t n_rows) {
    pl_status status = pl_call_tensor(c, out, PL_F32, 2, (int64_t[]){n_rows, row_width(x)});
    if (status != PL_OK) return status;
    for_rows(
        &(rows_job){.c = c, .run = take_row, .out = out, .x = x, .ids = rows, .n_rows = n_rows});
    return pl_record_take_rows(c, out, x, rows);
}

pl_status pl_op_expert_shares(pl_call *c, pl_tensor *shares, const pl_tensor *weights,
                              const pl_tensor *indices) {
    pl_status status = pl_call_tensor(c, shares, PL_F32, 2, weights->shape);
    if (status != PL_OK) return status;
    memset(shares->data, 0, (size_t)pl_tensor_count(shares) * sizeof(float));
    for (int64_t row = 0; row < weights->shape[0]; row++) {
        const float *w = row_f32(weights, row), *chosen = row_f32(indices, row);
        float *out = row_f32(shares, row), sum = 0;
        for (int64_t k = 0; k < indices->shape[1]; k++) sum += w[(int64_t)chosen[k]];
        for (int64_t k = 0; k < indices->shape[1]; k++) {
            out[(int64_t)chosen[k]] += w[(int64_t)chosen[k]] / sum;
        }
    }
    return pl_record_expert_shares(c, shares, weights, indices);
}

pl_status pl_op_add_expert_(pl_call *c, pl_tensor *out, const pl_tensor *result,
                            const pl_tensor *shares, int64_t expert, const int32_t *rows,
                            int64_t n) {
    pl_tensor old = *out;
    pl_status status = renew(c, out);
    if (status != PL_OK) return status;
    for (int64_t i = 0; i < n; i++) {
        c->kernels->axpy(row_f32(out, rows[i]), row_f32(result, i),
                         row_f32(shares, rows[i])[expert], (size_t)result->shape[1]);
    }
    return pl_record_add_expert(c, out, &old, result, shares, expert, rows);
}
