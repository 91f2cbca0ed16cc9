/* One forward pass: rows of any number of sequences on their way through the layers.
 *
 *     row       0    1    2  |  3  |  4    5
 *     span      ---- 0 ----- |- 1 -|--- 2 ---     each a run of new positions of one sequence
 *
 * Owned by the session for the length of the pass; its tensors live in the session's arena. */
#ifndef PL_MODEL_PASS_H
#define PL_MODEL_PASS_H

#include "hooks.h"
#include "model.h"
#include "kv.h"

struct pl_sequence {
    pl_session *session;
    int64_t length;
    int32_t *tokens; /* [capacity], the first `length` are held */
    int32_t *types;  /* [capacity], kinds of tokens as n_token_types has them */
    int64_t capacity;
    pl_page_table table;
    struct pl_adapter_list *adapters; /* that it wears, NULL: none */
    int64_t n_stale;                  /* positions computed before they last changed */
    bool busy;                        /* a pass is running over it */
    bool freed;                       /* by a hook of that pass, which holds it to its end */
    int64_t start_length;             /* before the running call, to come back to when it fails */
};

/* For the diagram: an operation that fails ends the function with its status. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        pl_status status_ = (call);                                                                \
        if (status_ != PL_OK) return status_;                                                      \
    } while (0)

typedef struct pl_pass {
    pl_call call;
    const pl_model *model;
    pl_session *session;
    pl_page_pool *pool;
    pl_hooks *hooks;
    bool check_finite; /* every point, listened to or not */
    bool adapted;      /* a sequence wears an adapter */
    bool keeps_rows;   /* somebody takes every row's residual stream, not only its logits */
    bool recompute; /* under a record: keep one residual stream of several layers (recompute.c) */
    const pl_span *spans;
    int64_t n_spans, n_rows;
    const int32_t *tokens;      /* [n_rows] */
    const int32_t *positions;   /* [n_rows] */
    const int32_t *types;       /* [n_rows], kinds of tokens, 0 where nobody said */
    pl_tensor rotations[2];     /* of every row, for layers without and with a window */
    pl_tensor stats;            /* [n_rows, 2] of the last norm with points, as hooks left them */
    const int32_t *logit_rows;  /* [n_logit_rows], the rows that need logits, ascending */
    const pl_span *logit_spans; /* [n_logit_spans], the spans cut to those rows */
    int64_t n_logit_rows, n_logit_spans;
} pl_pass;

/* Runs the layers from_layer <= l < to_layer over the residual stream [n_rows, d_model], in place.
 * Past the model's last layer it may have been cut down to the rows that need logits. */
pl_status pl_forward(pl_pass *p, int64_t from_layer, int64_t to_layer, pl_tensor *residual);

/* The layers one by one, and in groups that are worked out again on the way back. */
pl_status pl_forward_blocks(pl_pass *p, int64_t from_layer, int64_t to_layer, pl_tensor *residual);
pl_status pl_forward_recomputed(pl_pass *p, int64_t from_layer, int64_t to_layer,
                                pl_tensor *residual);

/* What the layers need to know of the rows' positions; pl_embed calls it. */
pl_status pl_position(pl_pass *p);

/* What comes before the layers, and after: residual is made; logits [n_logit_rows, d_vocab] are
 * written where logits->data says, or made. Only rows that need logits pass the last mlp, where
 * nobody looks at the others, and the unembedding; from there on they are the rows of the pass. */
pl_status pl_embed(pl_pass *p, pl_tensor *residual);
pl_status pl_unembed(pl_pass *p, pl_tensor *logits, const pl_tensor *residual);

/* Several linear maps of the same x, the rows of the pass, as pl_op_linear, and what the adapters
 * of each row's sequence add to them (adapt.c). linears are the model's own. */
pl_status pl_linear_maps(pl_pass *p, pl_tensor *outs, const pl_tensor *x,
                         const pl_linear *const *linears, int n_linears);

/* Attention over the cache: stores this pass's keys and values, then
 * z[row] = softmax(q . keys * scale) values, for each head. q, z [n_rows, n_heads, d_head]; k, v
 * [n_rows, n_kv_heads, d_head]. Scores and pattern are shown to those who listen. */
pl_status pl_attend(pl_pass *p, int layer, pl_tensor *z, const pl_tensor *q, const pl_tensor *k,
                    const pl_tensor *v);
/* The same without a cache, under a record of gradients; every span begins at position 0. */
pl_status pl_attend_recorded(pl_pass *p, int layer, pl_tensor *z, pl_tensor *q, pl_tensor *k,
                             pl_tensor *v);

/* Shows an activation whose first dimension is the pass's rows to the listeners of a point. With
 * no listener: one bit test. */
pl_status pl_tap_listeners(pl_pass *p, pl_point point, int layer, pl_tensor *act);
static inline bool pl_listens(const pl_pass *p, pl_point point, int layer) {
    return pl_hooks_mask(p->hooks, layer) >> point & 1;
}
static inline bool pl_writes(const pl_pass *p, pl_point point, int layer) {
    return pl_hooks_write_mask(p->hooks, layer) >> point & 1;
}
/* Whether any of these points (bits) must stand on its own: shown, checked or recorded. Else the
 * operations around them may be done at once. */
static inline bool pl_stands(const pl_pass *p, uint64_t points, int layer) {
    return p->check_finite || p->call.keep || (pl_hooks_mask(p->hooks, layer) & points);
}
static inline pl_status pl_tap(pl_pass *p, pl_point point, int layer, pl_tensor *act) {
    bool shown = p->check_finite || pl_listens(p, point, layer);
    return shown ? pl_tap_listeners(p, point, layer, act) : PL_OK;
}
/* The same for a tensor of one span, such as its pattern. */
pl_status pl_tap_span(pl_pass *p, pl_point point, int layer, const pl_span *span, pl_tensor *act);

/* What single heads read and write, made for listeners only (heads.c).
 *
 * Shows the copies of residual [n_rows, d_model] that the heads read; inputs [3] for q, k and v
 * are left empty where nobody may have changed them. Once q, k and v [n_rows, n_heads, d_head] are
 * there, made of normalized = ln1(residual), changed copies take effect on them. */
pl_status pl_tap_head_inputs(pl_pass *p, int layer, pl_tensor *inputs, const pl_tensor *residual);
pl_status pl_use_head_inputs(pl_pass *p, int layer, pl_tensor *qkv, const pl_tensor *inputs,
                             const pl_tensor *residual, const pl_tensor *normalized);
/* in = residual, or a copy of it that has been shown. */
pl_status pl_tap_mlp_in(pl_pass *p, int layer, pl_tensor *in, const pl_tensor *residual);
/* Shows each head's share of out = z W_O + b_O and, where changed, puts their sum into out.
 * z [n_rows, n_heads * d_head], out [n_rows, d_model]. */
pl_status pl_tap_results(pl_pass *p, int layer, pl_tensor *out, const pl_tensor *z);

/* out = the mlps of the experts chosen for each row, weighted (experts.c). x [n_rows, d_model]. */
pl_status pl_experts(pl_pass *p, int layer, pl_tensor *out, const pl_tensor *x);

pl_page_pool *pl_session_pool(pl_session *session);

/* What new sequences wear. */
const struct pl_adapter_list *pl_session_adapters(const pl_session *session);

/* Room for n tokens in all; and PL_ERR_STATE while a pass runs over the sequence. */
pl_status pl_sequence_reserve_tokens(pl_sequence *seq, int64_t n, pl_error *err);
pl_status pl_sequence_check_idle(const pl_sequence *seq, pl_error *err);

/* One more owner, who calls pl_session_free. */
pl_session *pl_session_retain(pl_session *session);

/* PL_ERR_INTERRUPTED when the session's owner asks to stop. */
pl_status pl_pass_poll(pl_pass *p);

#endif
