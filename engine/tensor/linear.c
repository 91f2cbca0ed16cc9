/* y = x Wᵀ + b, the operation that reads the weights.
 *
 * The output is cut into tiles of TILE_OUT columns by up to MOST_TILE_ROWS rows; a tile is one
 * task. Cutting changes no bit: every element is one sum in the order that its weight's type
 * prescribes. */
#include <string.h>

#include "../base/error.h"
#include "../base/size.h"
#include "../base/threads.h"
#include "grad_layers.h"

enum { TILE_OUT = 64, PANEL_ROWS = 32, TASK_OUT = 16, MAX_LINEARS = 4 };
/* Rows of a tile: the more the better, as long as they stay in the second cache, rounded to bytes;
 * of float32 rows the nearest keeps what it needs. */
enum { MOST_TILE_ROWS = 128, FEWEST_TILE_ROWS = 64, TILE_BYTES = 768 * 1024 };
enum { FAST_ROWS = 64 }; /* from which the fast kernels pay */

typedef struct linear_part {
    const pl_linear *linear;
    float *out;
    size_t out_stride;
    const void *rounded; /* int8 activations for this part's type, or NULL */
    size_t rounded_row_bytes;
    bool fast; /* `rounded` holds rows for c->fast */
    size_t first_task, n_out, w_row_bytes;
} linear_part;

typedef struct linear_job {
    const pl_call *c;
    const pl_tensor *x;
    linear_part parts[MAX_LINEARS];
    int n_parts;
    size_t n_rows, n_in, tile_rows, tile_out, n_row_tiles;
    bool activated; /* what follows is done tile by tile, as pl_op_linear_activate says */
    pl_activation activation;
    bool adds;     /* to what the output holds; meanwhile a tile is in */
    float *sums;   /* [n_threads, tile_rows, tile_out] */
    float *panels; /* [n_threads, PANEL_ROWS, n_in] for widened weights, or [n_threads,
                      PL_FAST_OUT, n_pairs] words for fast ones */
} linear_job;

int64_t pl_linear_n_out(const pl_linear *linear) {
    return linear->w.shape[linear->transposed ? 1 : 0];
}

int64_t pl_linear_n_in(const pl_linear *linear) {
    return linear->w.shape[linear->transposed ? 0 : 1];
}

typedef struct tile {
    size_t row, n_rows, column, n_out;
    float *out;
    size_t out_stride;
} tile;

static void tile_plain(const linear_job *job, const linear_part *part, tile t) {
    const pl_kernels *k = job->c->kernels;
    const pl_tensor *w = &part->linear->w;
    const float *x = (const float *)job->x->data + t.row * (size_t)job->x->stride[0];
    size_t x_stride = (size_t)job->x->stride[0];
    if (part->linear->transposed) {
        const char *first = (const char *)w->data + t.column * pl_dtype_get(w->dtype)->block_bytes;
        k->tile_transposed(w->dtype, t.out, t.out_stride, first, part->w_row_bytes, t.n_out, x,
                           x_stride, t.n_rows, job->n_in);
        return;
    }
    const char *first = (const char *)w->data + t.column * part->w_row_bytes;
    void (*run)(float *, size_t, const void *, size_t, size_t, const float *, size_t, size_t,
                size_t) = w->dtype == PL_F32   ? k->tile_f32
                          : w->dtype == PL_F16 ? k->tile_f16
                                               : k->tile_bf16;
    run(t.out, t.out_stride, first, part->w_row_bytes, t.n_out, x, x_stride, t.n_rows, job->n_in);
}

static void tile_rounded(const linear_job *job, const linear_part *part, tile t) {
    const pl_tensor *w = &part->linear->w;
    const char *x = (const char *)part->rounded + t.row * part->rounded_row_bytes;
    job->c->kernels->tile_quantised[w->dtype](
        t.out, t.out_stride, (const char *)w->data + t.column * part->w_row_bytes,
        part->w_row_bytes, t.n_out, x, part->rounded_row_bytes, t.n_rows, job->n_in);
}

/* Quantised weights are widened panel by panel and multiplied as float32. */
static void tile_widened(const linear_job *job, const linear_part *part, tile t, int thread) {
    const pl_kernels *k = job->c->kernels;
    const pl_tensor *w = &part->linear->w;
    float *panel = job->panels + (size_t)thread * PANEL_ROWS * job->n_in;
    const float *x = (const float *)job->x->data + t.row * (size_t)job->x->stride[0];
    for (size_t done = 0; done < t.n_out; done += PANEL_ROWS) {
        size_t n = t.n_out - done < PANEL_ROWS ? t.n_out - done : PANEL_ROWS;
        const char *row = (const char *)w->data + (t.column + done) * part->w_row_bytes;
        for (size_t j = 0; j < n; j++, row += part->w_row_bytes) {
            k->to_f32[w->dtype](panel + j * job->n_in, row, job->n_in);
        }
        k->tile_f32(t.out + done, t.out_stride, panel, job->n_in * sizeof *panel, n, x,
                    (size_t)job->x->stride[0], t.n_rows, job->n_in);
    }
}

/* Whether weights are widened before they are multiplied. */
static bool is_widened(const linear_job *job, const pl_linear *linear) {
    return pl_dtype_get(linear->w.dtype)->quantised && job->c->exact;
}

/* Panel by panel, each packed once for all rows of the tile. */
static void tile_fast(const linear_job *job, const linear_part *part, tile t, int thread) {
    const pl_tensor *w = &part->linear->w;
    size_t n_pairs = (job->n_in + 1) / 2;
    uint32_t *panel = (uint32_t *)(void *)job->panels + (size_t)thread * PL_FAST_OUT * n_pairs;
    const uint32_t *x = (const uint32_t *)part->rounded + t.row * n_pairs;
    for (size_t done = 0; done < t.n_out; done += PL_FAST_OUT) {
        size_t n = t.n_out - done < PL_FAST_OUT ? t.n_out - done : PL_FAST_OUT;
        const char *row = (const char *)w->data + (t.column + done) * part->w_row_bytes;
        job->c->fast->pack(panel, w->dtype, row, part->w_row_bytes, n, job->n_in);
        job->c->fast->tile(t.out + done, t.out_stride, panel, n, x, n_pairs, t.n_rows, job->n_in);
    }
}

/* x Wᵀ + b, written or added. */
static void multiply_tile(const linear_job *job, const linear_part *part, tile t, int thread) {
    const pl_kernels *k = job->c->kernels;
    float *out = part->out + t.row * part->out_stride + t.column;
    t.out = job->adds ? job->sums + (size_t)thread * job->tile_rows * job->tile_out : out;
    t.out_stride = job->adds ? job->tile_out : part->out_stride;
    const float *bias = part->linear->b.data;
    for (size_t j = 0; bias && j < t.n_out; j += 16) __builtin_prefetch(bias + t.column + j);
    if (part->fast) {
        tile_fast(job, part, t, thread);
    } else if (part->rounded) {
        tile_rounded(job, part, t);
    } else if (is_widened(job, part->linear)) {
        tile_widened(job, part, t, thread);
    } else {
        tile_plain(job, part, t);
    }
    for (size_t r = 0; r < t.n_rows; r++, t.out += t.out_stride, out += part->out_stride) {
        if (bias) k->add(t.out, t.out, bias + t.column, t.n_out);
        if (job->adds) k->add(out, out, t.out, t.n_out);
    }
}

static void activate_tile(const linear_job *job, tile t) {
    const pl_kernels *k = job->c->kernels;
    const linear_part *first = &job->parts[0], *second = &job->parts[1];
    for (size_t r = t.row; r < t.row + t.n_rows; r++) {
        float *out = first->out + r * first->out_stride + t.column;
        k->activate[job->activation](out, out, t.n_out);
        if (job->n_parts == 1) continue;
        k->mul(out, out, second->out + r * second->out_stride + t.column, t.n_out);
    }
}

static void run_tile(void *context, size_t task, int thread) {
    const linear_job *job = context;
    const linear_part *part = &job->parts[job->activated ? 0 : job->n_parts - 1];
    while (task < part->first_task) part--;
    size_t index = task - part->first_task;
    tile t = {.row = index % job->n_row_tiles * job->tile_rows,
              .column = index / job->n_row_tiles * job->tile_out};
    t.n_rows = job->n_rows - t.row < job->tile_rows ? job->n_rows - t.row : job->tile_rows;
    t.n_out = part->n_out - t.column < job->tile_out ? part->n_out - t.column : job->tile_out;
    multiply_tile(job, part, t, thread);
    if (!job->activated) return;
    for (int i = 1; i < job->n_parts; i++) multiply_tile(job, &job->parts[i], t, thread);
    activate_tile(job, t);
}

typedef struct round_job {
    const pl_call *c;
    const pl_tensor *x;
    pl_dtype dtype;
    char *out;
    size_t row_bytes;
} round_job;

static void round_row(void *context, size_t row, int thread) {
    (void)thread;
    const round_job *job = context;
    job->c->kernels->round_activations[job->dtype](
        job->out + row * job->row_bytes,
        (const float *)job->x->data + row * (size_t)job->x->stride[0], (size_t)job->x->shape[1]);
}

static void round_fast_row(void *context, size_t row, int thread) {
    (void)thread;
    const round_job *job = context;
    job->c->fast->round((uint32_t *)(void *)(job->out + row * job->row_bytes),
                        (const float *)job->x->data + row * (size_t)job->x->stride[0],
                        (size_t)job->x->shape[1]);
}

static bool is_fast(const pl_call *c, const linear_job *job, const pl_linear *linear) {
    bool quantised = pl_dtype_get(linear->w.dtype)->quantised;
    return c->fast && !quantised && !linear->transposed && job->n_rows >= FAST_ROWS;
}

/* Fast parts share their activations, whatever their types. */
static pl_status round_fast(pl_call *c, linear_job *job, linear_part *part) {
    part->fast = true;
    for (linear_part *other = job->parts; other < part; other++) {
        if (other->fast) part->rounded = other->rounded;
    }
    if (part->rounded) return PL_OK;
    pl_tensor rounded;
    int64_t n_pairs = (int64_t)(job->n_in + 1) / 2;
    pl_status status =
        pl_call_tensor(c, &rounded, PL_I32, 2, (int64_t[]){(int64_t)job->n_rows, n_pairs});
    if (status != PL_OK) return status;
    round_job rounding = {c, job->x, PL_BF16, rounded.data, (size_t)n_pairs * sizeof(uint32_t)};
    pl_parallel(c->n_threads, job->n_rows, round_fast_row, &rounding);
    part->rounded = rounded.data;
    return PL_OK;
}

/* Parts of one type share their rounded activations. */
static pl_status round_for_part(pl_call *c, linear_job *job, linear_part *part) {
    pl_dtype dtype = part->linear->w.dtype;
    for (linear_part *other = job->parts; other < part; other++) {
        if (other->linear->w.dtype == dtype && other->rounded) {
            part->rounded = other->rounded;
            part->rounded_row_bytes = other->rounded_row_bytes;
            return PL_OK;
        }
    }
    size_t row_bytes = pl_activation_row_bytes(dtype, job->n_in), bytes;
    if (!pl_size_mul(&bytes, row_bytes, job->n_rows)) {
        return pl_fail(&c->err, PL_ERR_MEMORY, "out of memory: rounded activations");
    }
    pl_tensor rounded;
    pl_status status =
        pl_call_tensor(c, &rounded, PL_I32, 1, (int64_t[]){(int64_t)((bytes + 3) / 4)});
    if (status != PL_OK) return status;
    round_job rounding = {c, job->x, dtype, rounded.data, row_bytes};
    pl_parallel(c->n_threads, job->n_rows, round_row, &rounding);
    part->rounded = rounded.data;
    part->rounded_row_bytes = row_bytes;
    return PL_OK;
}

static pl_status check_part(pl_call *c, const linear_job *job, const pl_linear *linear,
                            const pl_tensor *out) {
    char a[PL_SHAPE_TEXT], b[PL_SHAPE_TEXT];
    if (pl_linear_n_in(linear) != (int64_t)job->n_in) {
        return pl_fail(&c->err, PL_ERR_SHAPE, "linear: x %s does not fit weights %s",
                       pl_tensor_shape_text(job->x, a), pl_tensor_shape_text(&linear->w, b));
    }
    if (out->data &&
        (out->dtype != PL_F32 || out->n_dims != 2 || out->shape[0] != (int64_t)job->n_rows ||
         out->shape[1] != pl_linear_n_out(linear))) {
        return pl_fail(&c->err, PL_ERR_SHAPE, "linear: output %s does not fit weights %s",
                       pl_tensor_shape_text(out, a), pl_tensor_shape_text(&linear->w, b));
    }
    return PL_OK;
}

/* Fills a part: checks, output, rounding. Returns through *n_tasks the tasks so far. */
static pl_status prepare_part(pl_call *c, linear_job *job, const pl_linear *linear, pl_tensor *out,
                              size_t *n_tasks) {
    linear_part *part = &job->parts[job->n_parts];
    *part = (linear_part){.linear = linear, .first_task = *n_tasks};
    part->n_out = (size_t)pl_linear_n_out(linear);
    part->w_row_bytes = pl_tensor_row_bytes(&linear->w);
    pl_status status = check_part(c, job, linear, out);
    if (status == PL_OK && !out->data) {
        status = pl_call_tensor(c, out, PL_F32, 2,
                                (int64_t[]){(int64_t)job->n_rows, (int64_t)part->n_out});
    }
    bool quantised = pl_dtype_get(linear->w.dtype)->quantised;
    if (status == PL_OK && quantised && !c->exact) status = round_for_part(c, job, part);
    if (status == PL_OK && is_fast(c, job, linear)) status = round_fast(c, job, part);
    if (status != PL_OK) return status;
    part->out = out->data;
    part->out_stride = (size_t)out->stride[0];
    job->n_parts++;
    *n_tasks += (part->n_out + job->tile_out - 1) / job->tile_out * job->n_row_tiles;
    const pl_tensor *w = &linear->w; /* rows may lie apart, in a fused matrix */
    size_t row_bytes = 0;
    pl_dtype_row_bytes(w->dtype, (size_t)w->shape[1], &row_bytes);
    c->weight_bytes += (uint64_t)w->shape[0] * row_bytes;
    return PL_OK;
}

static size_t choose_tile_rows(const linear_job *job, const pl_linear *const *linears,
                               int n_linears) {
    for (int i = 0; i < n_linears; i++) {
        if (is_fast(job->c, job, linears[i])) return job->c->fast->tile_rows;
    }
    return job->n_in <= TILE_BYTES / MOST_TILE_ROWS ? MOST_TILE_ROWS : FEWEST_TILE_ROWS;
}

/* Enough tasks that threads end together, yet runs of weights long enough to stream; of transposed
 * weights a task reads a stretch of every row. */
static size_t choose_tile_out(int n_threads, size_t n_rows, size_t n_out, bool transposed) {
    if (n_rows > FEWEST_TILE_ROWS) return TILE_OUT;
    size_t n_tasks = (size_t)n_threads * (transposed ? 2 : 8);
    size_t tile_out = n_out / n_tasks / TASK_OUT * TASK_OUT;
    return tile_out < TASK_OUT ? TASK_OUT : tile_out > 1024 ? 1024 : tile_out;
}

/* n floats for every thread; none, nothing. */
static pl_status make_scratch(pl_call *c, float **scratch, int64_t n) {
    if (n == 0) return PL_OK;
    pl_tensor rows;
    pl_status status = pl_call_tensor(c, &rows, PL_F32, 2, (int64_t[]){c->n_threads, n});
    if (status == PL_OK) *scratch = rows.data;
    return status;
}

static pl_status run_linear(linear_job *job, pl_call *c, pl_tensor *outs, const pl_tensor *x,
                            const pl_linear *const *linears, int n_linears) {
    job->c = c, job->x = x;
    if (!c->arena) return pl_fail(&c->err, PL_ERR_STATE, "linear: needs a call with an arena");
    if (x->dtype != PL_F32 || x->n_dims != 2 || x->stride[1] != 1 || n_linears > MAX_LINEARS) {
        return pl_fail(&c->err, PL_ERR_SHAPE, "linear: expected float32 rows [n_rows, n_in]");
    }
    job->n_rows = (size_t)x->shape[0], job->n_in = (size_t)x->shape[1];
    size_t n_out = 0, n_tasks = 0;
    bool widened = false, fast = false;
    for (int i = 0; i < n_linears; i++) {
        n_out += (size_t)pl_linear_n_out(linears[i]);
        widened |= is_widened(job, linears[i]);
        fast |= is_fast(c, job, linears[i]);
    }
    int n_threads = pl_call_threads(c, job->n_rows * job->n_in * n_out);
    size_t tiled = job->activated ? n_out / (size_t)n_linears : n_out;
    job->tile_out = choose_tile_out(n_threads, job->n_rows, tiled, linears[0]->transposed);
    size_t most_rows = choose_tile_rows(job, linears, n_linears);
    job->tile_rows = job->n_rows > 0 && job->n_rows < most_rows ? job->n_rows : most_rows;
    job->n_row_tiles = (job->n_rows + job->tile_rows - 1) / job->tile_rows;
    for (int i = 0; i < n_linears; i++) {
        pl_status status = prepare_part(c, job, linears[i], &outs[i], &n_tasks);
        if (status != PL_OK) return status;
    }
    int64_t panel_rows = fast ? PL_FAST_OUT : widened ? PANEL_ROWS : 0;
    size_t n_sums = job->adds ? job->tile_rows * job->tile_out : 0;
    pl_status status = make_scratch(c, &job->panels, panel_rows * ((int64_t)job->n_in + 1));
    if (status == PL_OK) status = make_scratch(c, &job->sums, (int64_t)n_sums);
    if (status != PL_OK) return status;
    if (job->activated) n_tasks /= (size_t)n_linears; /* a task takes the tile of every map */
    pl_parallel(n_threads, n_tasks, run_tile, job);
    return PL_OK;
}

pl_status pl_op_linear(pl_call *c, pl_tensor *outs, const pl_tensor *x,
                       const pl_linear *const *linears, int n_linears) {
    linear_job job = {0};
    pl_status status = run_linear(&job, c, outs, x, linears, n_linears);
    for (int i = 0; status == PL_OK && i < n_linears; i++) {
        status = pl_record_linear(c, &outs[i], x, linears[i]);
    }
    return status;
}

pl_status pl_op_linear_activate(pl_call *c, pl_tensor *out, const pl_tensor *x,
                                const pl_linear *const *linears, int n_linears,
                                pl_activation activation) {
    linear_job job = {.activated = true, .activation = activation};
    pl_tensor outs[2] = {{0}};
    if (n_linears > 2 ||
        (n_linears == 2 && pl_linear_n_out(linears[0]) != pl_linear_n_out(linears[1]))) {
        return pl_fail(&c->err, PL_ERR_SHAPE, "linear: a gate and its input differ in width");
    }
    pl_status status = run_linear(&job, c, outs, x, linears, n_linears);
    *out = outs[0];
    return status;
}

pl_status pl_op_linear_add_(pl_call *c, pl_tensor *y, const pl_tensor *x, const pl_linear *linear) {
    linear_job job = {.adds = true};
    if (!y->data) return pl_fail(&c->err, PL_ERR_SHAPE, "linear: nothing to add to");
    return run_linear(&job, c, y, x, &linear, 1);
}
