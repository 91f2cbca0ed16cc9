#include "attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/threads.h"
#include "grad.h"
#include "linalg.h"

enum { PAGE = 64 }; /* positions whose share of z is summed first, as in a cache */

typedef struct job {
    pl_call *c;
    const pl_blas *blas;                  /* of a backward step */
    const pl_tensor *q, *k, *v, *pattern; /* pattern or scores, [n_heads, n, n] */
    pl_tensor *z;
    const pl_attention *params;
    const pl_tensor *g, *grads; /* of a backward step */
    const bool *wanted;
    float *scratch; /* [n_threads, n, n] */
    int64_t n, n_heads, group, d_head;
    bool causal; /* no gradient passes from a row to later ones */
} job;

static float *head_row(const pl_tensor *t, int64_t row, int64_t head) {
    return (float *)t->data + row * t->stride[0] + head * t->stride[1];
}

static float *pattern_row(const pl_tensor *t, int64_t head, int64_t row) {
    return (float *)t->data + head * t->stride[0] + row * t->stride[1];
}

/* The keys first <= j < end that position i sees. */
static void visible(const pl_attention *p, int64_t i, int64_t n, int64_t *first, int64_t *end) {
    *end = p->causal ? i + 1 : n;
    *first = p->window > 0 && *end > p->window ? *end - p->window : 0;
}

/* -- forward ---------------------------------------------------------------------------------- */

static void score_row(void *context, size_t task, int thread) {
    (void)thread;
    const job *j = context;
    const pl_kernels *kernels = j->c->kernels;
    int64_t head = (int64_t)task / j->n, row = (int64_t)task % j->n, first, end;
    float *scores = pattern_row(j->pattern, head, row), cap = j->params->softcap;
    visible(j->params, row, j->n, &first, &end);
    size_t n = (size_t)(end - first);
    kernels->attention_scores(scores + first, 0, head_row(j->q, row, head), 0, 1,
                              head_row(j->k, first, head / j->group), PL_F32,
                              (size_t)j->k->stride[0] * sizeof(float), n, (size_t)j->d_head,
                              j->params->scale, NULL);
    if (cap > 0) {
        kernels->scale(scores + first, scores + first, 1 / cap, n);
        kernels->activate[PL_ACT_TANH](scores + first, scores + first, n);
        kernels->scale(scores + first, scores + first, cap, n);
    }
    for (int64_t i = 0; i < first; i++) scores[i] = -INFINITY;
    for (int64_t i = end; i < j->n; i++) scores[i] = -INFINITY;
}

static void mix_row(void *context, size_t task, int thread) {
    (void)thread;
    const job *j = context;
    int64_t head = (int64_t)task / j->n, row = (int64_t)task % j->n, end = j->n;
    const float *pattern = pattern_row(j->pattern, head, row);
    float *z = head_row(j->z, row, head);
    memset(z, 0, (size_t)j->d_head * sizeof *z);
    while (end > 0 && pattern[end - 1] == 0) end--;
    for (int64_t at = 0; at < end; at += PAGE) {
        size_t n = (size_t)(end - at < PAGE ? end - at : PAGE);
        j->c->kernels->attention_mix(z, 0, pattern + at, 0, 1, head_row(j->v, at, head / j->group),
                                     PL_F32, (size_t)j->v->stride[0] * sizeof(float), &n,
                                     (size_t)j->d_head, NULL);
    }
}

/* -- backward --------------------------------------------------------------------------------- */

enum { Q, K };       /* inputs of scores */
enum { PATTERN, V }; /* of mix */

static pl_status begin_backward(pl_call *c, job *j, pl_node *node, const pl_tensor *g,
                                pl_tensor grads[2], bool wanted[2]) {
    pl_status status = pl_blas_open(&j->blas, &c->err);
    if (status == PL_OK) status = pl_input_grad(c, node, 0, &grads[0], &wanted[0]);
    if (status == PL_OK) status = pl_input_grad(c, node, 1, &grads[1], &wanted[1]);
    j->c = c;
    j->g = g;
    j->grads = grads;
    j->wanted = wanted;
    return status;
}

/* Scores' gradients as those of q . k: 0 where nothing is seen. */
static void score_slopes(const job *j, int64_t head, float *out) {
    float cap = j->params->softcap;
    for (int64_t row = 0; row < j->n; row++) {
        int64_t first, end;
        const float *g = pattern_row(j->g, head, row), *y = pattern_row(j->pattern, head, row);
        float *to = out + row * j->n;
        visible(j->params, row, j->n, &first, &end);
        memset(to, 0, (size_t)j->n * sizeof *to);
        for (int64_t i = first; i < end; i++) {
            float t = cap > 0 ? y[i] / cap : 0;
            to[i] = g[i] * (1 - t * t);
        }
    }
}

/* Rows of queries that one product takes: with a causal mask they see no key after the last of
 * them, so that nearly half of the work falls away. */
enum { BLOCK = 128 };

static int64_t block_rows(const job *j, int64_t first) {
    return j->n - first < BLOCK ? j->n - first : BLOCK;
}

static int64_t keys_seen(const job *j, int64_t first) {
    return j->causal ? first + block_rows(j, first) : j->n;
}

/* The heads that share one head of keys, one after another: they add to the same gradient. */
static void scores_heads(void *context, size_t kv_head, int thread) {
    const job *j = context;
    float *slopes = j->scratch + (size_t)thread * (size_t)(j->n * j->n);
    int64_t kv = (int64_t)kv_head;
    for (int64_t head = kv * j->group; head < (kv + 1) * j->group; head++) {
        score_slopes(j, head, slopes);
        for (int64_t row = 0; row < j->n; row += BLOCK) {
            int64_t m = block_rows(j, row), n_keys = keys_seen(j, row);
            if (j->wanted[Q]) {
                pl_gemm_add(j->blas, 1,
                            &(pl_gemm){.m = m,
                                       .n = j->d_head,
                                       .k = n_keys,
                                       .factor = j->params->scale,
                                       .a = slopes + row * j->n,
                                       .lda = j->n,
                                       .b = head_row(j->k, 0, kv),
                                       .ldb = j->k->stride[0],
                                       .c = head_row(&j->grads[Q], row, head),
                                       .ldc = j->grads[Q].stride[0]});
            }
            if (j->wanted[K]) {
                pl_gemm_add(j->blas, 1,
                            &(pl_gemm){.m = n_keys,
                                       .n = j->d_head,
                                       .k = m,
                                       .factor = j->params->scale,
                                       .a = slopes + row * j->n,
                                       .lda = j->n,
                                       .a_transposed = true,
                                       .b = head_row(j->q, row, head),
                                       .ldb = j->q->stride[0],
                                       .c = head_row(&j->grads[K], 0, kv),
                                       .ldc = j->grads[K].stride[0]});
            }
        }
    }
}

static pl_status scores_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    pl_tensor grads[2];
    bool wanted[2];
    const pl_tensor *q = &node->in[Q].tensor, *k = &node->in[K].tensor;
    job j = {.q = q,
             .k = k,
             .pattern = pl_node_out(node),
             .params = node->owned,
             .causal = ((const pl_attention *)node->owned)->causal,
             .n = q->shape[0],
             .n_heads = q->shape[1],
             .group = q->shape[1] / k->shape[1],
             .d_head = q->shape[2]};
    pl_status status = begin_backward(c, &j, node, g, grads, wanted);
    if (status != PL_OK) return status;
    j.scratch = malloc((size_t)c->n_threads * (size_t)(j.n * j.n) * sizeof *j.scratch);
    if (!j.scratch) return pl_fail(&c->err, PL_ERR_MEMORY, "out of memory for a gradient");
    pl_parallel(c->n_threads, (size_t)k->shape[1], scores_heads, &j);
    free(j.scratch);
    return PL_OK;
}

static void mix_heads(void *context, size_t kv_head, int thread) {
    (void)thread;
    const job *j = context;
    int64_t kv = (int64_t)kv_head;
    for (int64_t head = kv * j->group; head < (kv + 1) * j->group; head++) {
        for (int64_t row = 0; row < j->n; row += BLOCK) {
            int64_t m = block_rows(j, row), n_keys = keys_seen(j, row);
            if (j->wanted[PATTERN]) {
                pl_gemm_add(j->blas, 1,
                            &(pl_gemm){.m = m,
                                       .n = n_keys,
                                       .k = j->d_head,
                                       .factor = 1,
                                       .a = head_row(j->g, row, head),
                                       .lda = j->g->stride[0],
                                       .b = head_row(j->v, 0, kv),
                                       .ldb = j->v->stride[0],
                                       .b_transposed = true,
                                       .c = pattern_row(&j->grads[PATTERN], head, row),
                                       .ldc = j->grads[PATTERN].stride[1]});
            }
            if (j->wanted[V]) {
                pl_gemm_add(j->blas, 1,
                            &(pl_gemm){.m = n_keys,
                                       .n = j->d_head,
                                       .k = m,
                                       .factor = 1,
                                       .a = pattern_row(j->pattern, head, row),
                                       .lda = j->pattern->stride[1],
                                       .a_transposed = true,
                                       .b = head_row(j->g, row, head),
                                       .ldb = j->g->stride[0],
                                       .c = head_row(&j->grads[V], 0, kv),
                                       .ldc = j->grads[V].stride[0]});
            }
        }
    }
}

/* Whether no row looks past itself: a hook may have opened a place. */
static bool is_causal(const pl_tensor *pattern) {
    int64_t n = pattern->shape[1];
    for (int64_t i = 0; i < pattern->shape[0] * n; i++) {
        const float *row = pattern_row(pattern, i / n, i % n);
        for (int64_t k = i % n + 1; k < n; k++) {
            if (row[k] != 0) return false;
        }
    }
    return true;
}

static pl_status mix_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    pl_tensor grads[2];
    bool wanted[2];
    const pl_tensor *v = &node->in[V].tensor;
    job j = {.pattern = &node->in[PATTERN].tensor,
             .v = v,
             .causal = node->number[0] != 0 && is_causal(&node->in[PATTERN].tensor),
             .n = g->shape[0],
             .n_heads = g->shape[1],
             .group = g->shape[1] / v->shape[1],
             .d_head = g->shape[2]};
    pl_status status = begin_backward(c, &j, node, g, grads, wanted);
    if (status == PL_OK) pl_parallel(c->n_threads, (size_t)v->shape[1], mix_heads, &j);
    return status;
}

static const pl_rule scores_rule = {"attention scores", scores_backward, 3, true};
static const pl_rule mix_rule = {"attention", mix_backward, 3, false};

/* -- the operations --------------------------------------------------------------------------- */

pl_status pl_op_attention_scores(pl_call *c, pl_tensor *scores, const pl_tensor *q,
                                 const pl_tensor *k, const pl_attention *params) {
    int64_t n = q->shape[0], n_heads = q->shape[1];
    pl_node *node;
    pl_status status = pl_call_tensor(c, scores, PL_F32, 3, (int64_t[]){n_heads, n, n});
    if (status != PL_OK) return status;
    job j = {.c = c,
             .q = q,
             .k = k,
             .pattern = scores,
             .params = params,
             .n = n,
             .group = n_heads / k->shape[1],
             .d_head = q->shape[2]};
    pl_parallel(c->n_threads, (size_t)(n * n_heads), score_row, &j);
    status = pl_record(c, &scores_rule, scores, (const pl_tensor *[]){q, k}, 2, &node);
    if (!node) return status;
    pl_attention *kept = malloc(sizeof *kept);
    if (!kept) return pl_fail(&c->err, PL_ERR_MEMORY, "out of memory for a gradient's record");
    *kept = *params;
    node->owned = kept;
    node->release_owned = free;
    return PL_OK;
}

pl_status pl_op_attention_mix(pl_call *c, pl_tensor *z, const pl_tensor *pattern,
                              const pl_tensor *v, bool causal) {
    int64_t n = v->shape[0], n_heads = pattern->shape[0], d_head = v->shape[2];
    pl_status status = pl_call_tensor(c, z, PL_F32, 3, (int64_t[]){n, n_heads, d_head});
    if (status != PL_OK) return status;
    job j = {.c = c,
             .v = v,
             .pattern = pattern,
             .z = z,
             .n = n,
             .group = n_heads / v->shape[1],
             .d_head = d_head};
    pl_parallel(c->n_threads, (size_t)(n * n_heads), mix_row, &j);
    pl_node *node;
    status = pl_record(c, &mix_rule, z, (const pl_tensor *[]){pattern, v}, 2, &node);
    if (node) node->number[0] = causal;
    return status;
}
