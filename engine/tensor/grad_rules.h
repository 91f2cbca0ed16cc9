/* The rules of the operations in elementwise.c, reduce.c, linalg.c and einsum.c; each is recorded
 * where its operation ends. */
#ifndef PL_TENSOR_GRAD_RULES_H
#define PL_TENSOR_GRAD_RULES_H

#include "elementwise.h"
#include "grad.h"
#include "reduce.h"

pl_status pl_record_unary(pl_call *c, const pl_tensor *out, const pl_tensor *x, pl_unary op);
pl_status pl_record_unary_(pl_call *c, const pl_tensor *x, pl_unary op);
pl_status pl_record_binary(pl_call *c, const pl_tensor *out, const pl_tensor *a, const pl_tensor *b,
                           pl_binary op);
pl_status pl_record_binary_(pl_call *c, const pl_tensor *x, const pl_tensor *b, pl_binary op);
pl_status pl_record_copy_(pl_call *c, const pl_tensor *x, const pl_tensor *source);
pl_status pl_record_to(pl_call *c, const pl_tensor *out, const pl_tensor *x);
pl_status pl_record_where(pl_call *c, const pl_tensor *out, const pl_tensor *condition,
                          const pl_tensor *a, const pl_tensor *b);
/* Elements of x are about to become constants. */
pl_status pl_record_overwrite(pl_call *c, const pl_tensor *x);

/* dim -1: everything. */
pl_status pl_record_reduce(pl_call *c, const pl_tensor *out, const pl_tensor *x, pl_reduction op,
                           int dim);
pl_status pl_record_cumsum(pl_call *c, const pl_tensor *out, const pl_tensor *x, int dim);
pl_status pl_record_softmax(pl_call *c, const pl_tensor *out, const pl_tensor *x, int dim);
pl_status pl_record_log_softmax(pl_call *c, const pl_tensor *out, const pl_tensor *x, int dim);
/* out[..i..] came from x[..index[..i..]..] along dim: topk and gather. */
pl_status pl_record_gather(pl_call *c, const pl_tensor *out, const pl_tensor *x, int dim,
                           const pl_tensor *index);
pl_status pl_record_index_select(pl_call *c, const pl_tensor *out, const pl_tensor *x, int dim,
                                 const pl_tensor *index);
pl_status pl_record_index_fill_(pl_call *c, const pl_tensor *x, int dim, const pl_tensor *index,
                                const pl_tensor *value);
pl_status pl_record_cat(pl_call *c, const pl_tensor *out, const pl_tensor *const *parts, int n,
                        int dim);
pl_status pl_record_cross_entropy(pl_call *c, const pl_tensor *out, const pl_tensor *logits,
                                  const pl_tensor *targets, int64_t ignored);

pl_status pl_record_matmul(pl_call *c, const pl_tensor *out, const pl_tensor *a,
                           const pl_tensor *b);
pl_status pl_record_einsum(pl_call *c, const pl_tensor *out, const char *equation,
                           const pl_tensor *const *operands, int n);
pl_status pl_record_solve(pl_call *c, const pl_tensor *x, const pl_tensor *a, const pl_tensor *b);

/* Of whole factorisations, once all outputs are there. */
pl_status pl_record_lstsq(pl_call *c, const pl_tensor *x, const pl_tensor *a, const pl_tensor *b,
                          bool full_rank);
pl_status pl_record_cholesky(pl_call *c, const pl_tensor *l, const pl_tensor *a);
pl_status pl_record_qr(pl_call *c, const pl_tensor *q, const pl_tensor *r, const pl_tensor *a);
pl_status pl_record_eigh(pl_call *c, const pl_tensor *values, const pl_tensor *vectors,
                         const pl_tensor *a);
pl_status pl_record_svd(pl_call *c, const pl_tensor *u, const pl_tensor *s, const pl_tensor *vt,
                        const pl_tensor *a);
pl_status pl_record_det(pl_call *c, const pl_tensor *det, const pl_tensor *a);
pl_status pl_record_eig(pl_call *c, const pl_tensor *out, const pl_tensor *a);

#endif
