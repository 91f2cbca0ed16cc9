/* Attention over paged keys and values.
 *
 * A query's row goes through three steps: scores, softmax, mix. Without a listener one task does
 * all three for some rows of a head, which share the keys and values that they read; with one, each
 * step is done for the whole span so that scores and pattern can be shown and changed. Both use the
 * same steps, hence give the same bits. */
#include <math.h>
#include <string.h>

#include "../base/error.h"
#include "../base/threads.h"
#include "pass.h"

/* Neighbouring rows of a span whose keys begin at the same place. */
enum { MOST_ROWS = 4 };
typedef struct rows {
    const pl_span *span;
    int64_t row, n;
    int64_t first, end[MOST_ROWS]; /* of the keys that each row sees */
} rows;

typedef struct attend_job {
    const pl_pass *p;
    int layer;
    const pl_tensor *q, *k, *v;
    pl_tensor *z;
    const pl_span *span; /* of the unfused form */
    pl_tensor *scores;   /* unfused: [n_heads, n_rows, n_keys] of the span */
    const rows *groups;  /* fused */
    int64_t n_groups;
    float *scratch; /* fused: [n_threads, MOST_ROWS, scratch_keys] */
    int64_t scratch_keys;
} attend_job;

static const pl_span *span_of(const pl_pass *p, int64_t row) {
    const pl_span *span = p->spans;
    while (row >= span->first_row + span->n_rows) span++;
    return span;
}

static pl_page *page_at(const attend_job *job, const pl_span *span, int64_t pos) {
    const pl_page_table *table = &span->seq->table;
    return table->pages[job->layer * table->capacity + pos / PL_PAGE_POSITIONS];
}

/* The first key that a row sees, of those before `end`. */
static int64_t first_key(const attend_job *job, int64_t end) {
    const pl_config *config = &job->p->model->config;
    bool all = !pl_config_windowed(config, job->layer) || end <= config->window;
    return all ? 0 : end - config->window;
}

/* The end of the keys that a row sees. */
static int64_t visible_end(const attend_job *job, const pl_span *span, int64_t row) {
    int64_t past = job->p->model->config.causal ? row - span->first_row + 1 : span->n_rows;
    return span->first_pos + past;
}

static void store_row(void *context, size_t task, int thread) {
    (void)thread;
    const attend_job *job = context;
    const pl_page_pool *pool = job->p->pool;
    int64_t row = (int64_t)task;
    const pl_span *span = span_of(job->p, row);
    int64_t pos = span->first_pos + row - span->first_row;
    pl_page *page = page_at(job, span, pos);
    size_t offset = (size_t)(pos % PL_PAGE_POSITIONS) * pool->row_bytes;
    void (*store)(void *, const float *, size_t) = job->p->call.kernels->from_f32[pool->dtype];
    for (int64_t h = 0; h < pool->n_kv_heads; h++) {
        const float *k =
            (const float *)job->k->data + row * job->k->stride[0] + h * job->k->stride[1];
        const float *v =
            (const float *)job->v->data + row * job->v->stride[0] + h * job->v->stride[1];
        store(pl_page_keys(pool, page, h) + offset, k, (size_t)pool->d_head);
        store(pl_page_values(pool, page, h) + offset, v, (size_t)pool->d_head);
    }
}

/* -- what is stored, shown ------------------------------------------------------------------- */

typedef struct load_job {
    const attend_job *attend;
    pl_tensor *out; /* [n_rows, n_kv_heads, d_head] */
    bool values;
} load_job;

static void load_row(void *context, size_t task, int thread) {
    (void)thread;
    const load_job *job = context;
    const pl_page_pool *pool = job->attend->p->pool;
    int64_t row = (int64_t)task;
    const pl_span *span = span_of(job->attend->p, row);
    int64_t pos = span->first_pos + row - span->first_row;
    pl_page *page = page_at(job->attend, span, pos);
    size_t offset = (size_t)(pos % PL_PAGE_POSITIONS) * pool->row_bytes;
    for (int64_t h = 0; h < pool->n_kv_heads; h++) {
        const uint8_t *half =
            job->values ? pl_page_values(pool, page, h) : pl_page_keys(pool, page, h);
        float *out = (float *)job->out->data + row * job->out->stride[0] + h * job->out->stride[1];
        job->attend->p->call.kernels->to_f32[pool->dtype](out, half + offset, (size_t)pool->d_head);
    }
}

/* Keys or values of this pass as they were rounded when stored. */
static pl_status show_stored(pl_pass *p, const attend_job *job, pl_tensor *out, bool values) {
    const pl_page_pool *pool = p->pool;
    pl_status status = pl_call_tensor(&p->call, out, PL_F32, 3,
                                      (int64_t[]){p->n_rows, pool->n_kv_heads, pool->d_head});
    if (status != PL_OK) return status;
    load_job load = {job, out, values};
    pl_parallel(p->call.n_threads, (size_t)p->n_rows, load_row, &load);
    return pl_tap(p, values ? PL_HOOK_KV_V : PL_HOOK_KV_K, job->layer, out);
}

/* Stores this pass's keys and values, and stores them again if listeners may have changed them. */
static pl_status store(pl_pass *p, attend_job *job) {
    pl_status status = PL_OK;
    pl_tensor keys, values;
    const pl_tensor *k = job->k, *v = job->v;
    bool writes = false;
    pl_parallel(p->call.n_threads, (size_t)p->n_rows, store_row, job);
    if (pl_listens(p, PL_HOOK_KV_K, job->layer)) {
        writes = pl_writes(p, PL_HOOK_KV_K, job->layer);
        status = show_stored(p, job, &keys, false);
        k = &keys;
    }
    if (status == PL_OK && pl_listens(p, PL_HOOK_KV_V, job->layer)) {
        writes |= pl_writes(p, PL_HOOK_KV_V, job->layer);
        status = show_stored(p, job, &values, true);
        v = &values;
    }
    if (status != PL_OK || !writes) return status;
    attend_job again = *job;
    again.k = k;
    again.v = v;
    pl_parallel(p->call.n_threads, (size_t)p->n_rows, store_row, &again);
    return PL_OK;
}

/* -- the three steps ------------------------------------------------------------------------- */

static const float *head_row(const pl_tensor *t, int64_t row, int64_t head) {
    return (const float *)t->data + row * t->stride[0] + head * t->stride[1];
}

static int64_t kv_head(const attend_job *job, int64_t head) {
    const pl_config *config = &job->p->model->config;
    return head / (config->n_heads / config->n_kv_heads);
}

static const uint8_t *keys_at(const attend_job *job, const pl_span *span, int64_t pos,
                              int64_t head) {
    const pl_page_pool *pool = job->p->pool;
    const uint8_t *keys = pl_page_keys(pool, page_at(job, span, pos), kv_head(job, head));
    return keys + (size_t)(pos % PL_PAGE_POSITIONS) * pool->row_bytes;
}

static const uint8_t *values_at(const attend_job *job, const pl_span *span, int64_t pos,
                                int64_t head) {
    return keys_at(job, span, pos, head) + job->p->pool->half_bytes;
}

/* Positions from pos on that lie in one page. */
static int64_t run_length(int64_t pos, int64_t end) {
    int64_t room = PL_PAGE_POSITIONS - pos % PL_PAGE_POSITIONS;
    return end - pos < room ? end - pos : room;
}

/* Keys first <= position < end of the last row; scores[0] is position 0's. next: what is read
 * afterwards. */
static void score_rows(const attend_job *job, const rows *r, int64_t head, float *scores,
                       int64_t scores_stride, const uint8_t *next) {
    const pl_page_pool *pool = job->p->pool;
    const pl_kernels *kernels = job->p->call.kernels;
    int64_t end = r->end[r->n - 1];
    for (int64_t pos = r->first, n; pos < end; pos += n) {
        n = run_length(pos, end);
        kernels->attention_scores(
            scores + pos, (size_t)scores_stride, head_row(job->q, r->row, head),
            (size_t)job->q->stride[0], (size_t)r->n, keys_at(job, r->span, pos, head), pool->dtype,
            pool->row_bytes, (size_t)n, (size_t)pool->d_head, job->p->model->config.attn_scale,
            pos + n < end ? keys_at(job, r->span, pos + n, head) : next);
    }
    float cap = job->p->model->config.attn_softcap;
    for (int64_t i = 0; cap > 0 && i < r->n; i++) {
        float *x = scores + i * scores_stride + r->first;
        size_t n = (size_t)(r->end[i] - r->first);
        kernels->scale(x, x, 1 / cap, n);
        kernels->activate[PL_ACT_TANH](x, x, n);
        kernels->scale(x, x, cap, n);
    }
}

static void mix_rows(const attend_job *job, const rows *r, int64_t head, const float *pattern,
                     int64_t pattern_stride, const uint8_t *next) {
    const pl_page_pool *pool = job->p->pool;
    float *z = (float *)job->z->data + r->row * job->z->stride[0] + head * job->z->stride[1];
    int64_t end = r->end[r->n - 1];
    for (int64_t i = 0; i < r->n; i++)
        memset(z + i * job->z->stride[0], 0, (size_t)pool->d_head * sizeof *z);
    for (int64_t pos = r->first, n; pos < end; pos += n) {
        size_t n_keys[MOST_ROWS];
        n = run_length(pos, end);
        for (int64_t i = 0; i < r->n; i++) {
            int64_t seen = r->end[i] - pos;
            n_keys[i] = (size_t)(seen < 0 ? 0 : seen < n ? seen : n);
        }
        job->p->call.kernels->attention_mix(
            z, (size_t)job->z->stride[0], pattern + pos, (size_t)pattern_stride, (size_t)r->n,
            values_at(job, r->span, pos, head), pool->dtype, pool->row_bytes, n_keys,
            (size_t)pool->d_head, pos + n < end ? values_at(job, r->span, pos + n, head) : next);
    }
}

/* -- fused ---------------------------------------------------------------------------------- */

/* The rows from `row` of a span on that go together. */
static rows rows_from(const attend_job *job, const pl_span *span, int64_t row) {
    rows r = {.span = span, .row = row};
    int64_t after = span->first_row + span->n_rows;
    while (r.n < MOST_ROWS && row + r.n < after) {
        int64_t end = visible_end(job, span, row + r.n), first = first_key(job, end);
        if (r.n > 0 && first != r.first) break;
        r.first = first;
        r.end[r.n++] = end;
    }
    return r;
}

/* What the task after `task` reads first; NULL where there is none. */
static const uint8_t *next_keys(const attend_job *job, size_t task) {
    int64_t group = (int64_t)(task + 1) % job->n_groups, head = (int64_t)(task + 1) / job->n_groups;
    if (head == job->p->model->config.n_heads) return NULL;
    const rows *r = &job->groups[group];
    return keys_at(job, r->span, r->first, head);
}

static void attend_rows(void *context, size_t task, int thread) {
    const attend_job *job = context;
    const rows *r = &job->groups[(int64_t)task % job->n_groups];
    int64_t head = (int64_t)task / job->n_groups, stride = job->scratch_keys;
    float *scores = job->scratch + thread * MOST_ROWS * stride;
    score_rows(job, r, head, scores, stride, values_at(job, r->span, r->first, head));
    for (int64_t i = 0; i < r->n; i++) {
        float *x = scores + i * stride + r->first;
        job->p->call.kernels->softmax(x, x, (size_t)(r->end[i] - r->first));
    }
    mix_rows(job, r, head, scores, stride, next_keys(job, task));
}

static pl_status attend_fused(pl_pass *p, attend_job *job) {
    int64_t most = 0;
    rows *groups = pl_arena_alloc(p->call.arena, (size_t)p->n_rows * sizeof *groups);
    if (!groups) return pl_fail(&p->call.err, PL_ERR_MEMORY, "out of memory for attention");
    for (int64_t i = 0; i < p->n_spans; i++) {
        const pl_span *span = &p->spans[i];
        for (int64_t row = 0; row < span->n_rows; row += groups[job->n_groups++].n) {
            groups[job->n_groups] = rows_from(job, span, span->first_row + row);
        }
        int64_t n = span->first_pos + span->n_rows;
        if (n > most) most = n;
    }
    pl_tensor scratch;
    job->groups = groups;
    job->scratch_keys = (most + 1023) / 1024 * 1024;
    pl_status status =
        pl_call_tensor(&p->call, &scratch, PL_F32, 2,
                       (int64_t[]){p->call.n_threads, MOST_ROWS * job->scratch_keys});
    if (status != PL_OK) return status;
    job->scratch = scratch.data;
    size_t n_heads = (size_t)p->model->config.n_heads,
           width = (size_t)(2 * p->model->config.d_head);
    size_t work = (size_t)p->n_rows * n_heads * (size_t)most * width;
    pl_parallel(pl_call_threads(&p->call, work), (size_t)job->n_groups * n_heads, attend_rows, job);
    return PL_OK;
}

/* -- unfused: one span, step by step --------------------------------------------------------- */

typedef struct span_row {
    rows rows; /* one */
    int64_t head, n_keys;
    float *scores;
} span_row;

static span_row span_row_of(const attend_job *job, size_t task) {
    int64_t n = job->span->n_rows, index = (int64_t)task;
    span_row r = {.head = index / n, .n_keys = job->scores->shape[2]};
    r.rows = (rows){.span = job->span, .row = job->span->first_row + index % n, .n = 1};
    r.rows.end[0] = visible_end(job, job->span, r.rows.row);
    r.rows.first = first_key(job, r.rows.end[0]);
    r.scores = (float *)job->scores->data + index * r.n_keys;
    return r;
}

/* A hook may have opened a masked place: the row then reaches to the first and last place opened.
 */
static void reach(span_row *r, float closed) {
    int64_t first = 0, end = r->n_keys;
    while (end > r->rows.end[0] && r->scores[end - 1] == closed) end--;
    while (first < r->rows.first && r->scores[first] == closed) first++;
    r->rows.first = first;
    r->rows.end[0] = end;
}

static void span_scores(void *context, size_t task, int thread) {
    (void)thread;
    const attend_job *job = context;
    span_row r = span_row_of(job, task);
    score_rows(job, &r.rows, r.head, r.scores, r.n_keys, NULL);
    for (int64_t i = 0; i < r.rows.first; i++) r.scores[i] = -INFINITY;
    for (int64_t i = r.rows.end[0]; i < r.n_keys; i++) r.scores[i] = -INFINITY;
}

static void span_softmax(void *context, size_t task, int thread) {
    (void)thread;
    const attend_job *job = context;
    span_row r = span_row_of(job, task);
    reach(&r, -INFINITY);
    float *seen = r.scores + r.rows.first;
    job->p->call.kernels->softmax(seen, seen, (size_t)(r.rows.end[0] - r.rows.first));
    for (int64_t i = 0; i < r.rows.first; i++) r.scores[i] = 0;
    for (int64_t i = r.rows.end[0]; i < r.n_keys; i++) r.scores[i] = 0;
}

static void span_mix(void *context, size_t task, int thread) {
    (void)thread;
    const attend_job *job = context;
    span_row r = span_row_of(job, task);
    reach(&r, 0);
    mix_rows(job, &r.rows, r.head, r.scores, r.n_keys, NULL);
}

static pl_status attend_span(pl_pass *p, attend_job *job, const pl_span *span) {
    int64_t n_heads = p->model->config.n_heads, n_keys = span->first_pos + span->n_rows;
    size_t n_tasks = (size_t)(n_heads * span->n_rows);
    int n_threads = p->call.n_threads;
    pl_tensor scores;
    pl_status status =
        pl_call_tensor(&p->call, &scores, PL_F32, 3, (int64_t[]){n_heads, span->n_rows, n_keys});
    if (status != PL_OK) return status;
    job->span = span;
    job->scores = &scores;
    pl_parallel(n_threads, n_tasks, span_scores, job);
    if (pl_listens(p, PL_HOOK_ATTN_SCORES, job->layer)) {
        status = pl_tap_span(p, PL_HOOK_ATTN_SCORES, job->layer, span, &scores);
        if (status != PL_OK) return status;
    }
    pl_parallel(n_threads, n_tasks, span_softmax, job);
    if (pl_listens(p, PL_HOOK_PATTERN, job->layer)) {
        status = pl_tap_span(p, PL_HOOK_PATTERN, job->layer, span, &scores);
        if (status != PL_OK) return status;
    }
    pl_parallel(n_threads, n_tasks, span_mix, job);
    return PL_OK;
}

pl_status pl_attend(pl_pass *p, int layer, pl_tensor *z, const pl_tensor *q, const pl_tensor *k,
                    const pl_tensor *v) {
    pl_status status = pl_call_tensor(&p->call, z, PL_F32, 3, q->shape);
    if (status != PL_OK) return status;
    attend_job job = {.p = p, .layer = layer, .q = q, .k = k, .v = v, .z = z};
    status = store(p, &job);
    if (status != PL_OK) return status;
    if (!pl_listens(p, PL_HOOK_ATTN_SCORES, layer) && !pl_listens(p, PL_HOOK_PATTERN, layer)) {
        return attend_fused(p, &job);
    }
    for (int64_t i = 0; i < p->n_spans && status == PL_OK; i++) {
        status = attend_span(p, &job, &p->spans[i]);
    }
    return status;
}
