/* Hook points: places in the forward pass where somebody may look at an activation or change it.
 *
 * Names and meanings are TransformerLens's for unprocessed weights. With no listener a point costs
 * one bit test and nothing is materialised for it. */
#ifndef PL_MODEL_HOOKS_H
#define PL_MODEL_HOOKS_H

#include "../tensor/call.h"

/* In the order of the pass. Shapes: pos = rows of one sequence in this call.
 *
 * attn_in, q_input, k_input and v_input hold a copy of resid_pre for each head; ln1 of a changed
 * copy goes into its head. q_input and the others are made from attn_in (a key-value head takes
 * the mean of its query heads' copies). ln1's own points keep showing the norm of resid_pre; a
 * scale that is set there holds for the copies too. A changed result takes attn_out's place as
 * the sum over heads, + b_O. */
typedef enum pl_point {
    PL_HOOK_EMBED,          /* hook_embed                [pos, d_model] */
    PL_HOOK_POS_EMBED,      /* hook_pos_embed            [pos, d_model] */
    PL_HOOK_RESID_PRE,      /* blocks.l.hook_resid_pre   [pos, d_model] */
    PL_HOOK_ATTN_IN,        /* blocks.l.hook_attn_in    [pos, head, d_model] */
    PL_HOOK_Q_INPUT,        /* blocks.l.hook_q_input    [pos, head, d_model] */
    PL_HOOK_K_INPUT,        /* blocks.l.hook_k_input    [pos, kv_head, d_model] */
    PL_HOOK_V_INPUT,        /* blocks.l.hook_v_input    [pos, kv_head, d_model] */
    PL_HOOK_LN1_SCALE,      /* blocks.l.ln1.hook_scale   [pos, 1] */
    PL_HOOK_LN1_NORMALIZED, /* blocks.l.ln1.hook_normalized [pos, d_model] */
    PL_HOOK_Q,              /* blocks.l.attn.hook_q      [pos, head, d_head] */
    PL_HOOK_K,              /* blocks.l.attn.hook_k      [pos, kv_head, d_head] */
    PL_HOOK_V,              /* blocks.l.attn.hook_v      [pos, kv_head, d_head] */
    PL_HOOK_ROT_Q,          /* blocks.l.attn.hook_rot_q  [pos, head, d_head] */
    PL_HOOK_ROT_K,          /* blocks.l.attn.hook_rot_k  [pos, kv_head, d_head] */
    PL_HOOK_KV_K,           /* blocks.l.attn.hook_kv_k  [pos, kv_head, d_head], as remembered */
    PL_HOOK_KV_V,           /* blocks.l.attn.hook_kv_v  [pos, kv_head, d_head], as remembered */
    PL_HOOK_ATTN_SCORES,    /* blocks.l.attn.hook_attn_scores [head, query, key], masked: -inf */
    PL_HOOK_PATTERN,        /* blocks.l.attn.hook_pattern     [head, query, key] */
    PL_HOOK_Z,              /* blocks.l.attn.hook_z      [pos, head, d_head] */
    PL_HOOK_RESULT,         /* blocks.l.attn.hook_result [pos, head, d_model], without b_O */
    PL_HOOK_ATTN_OUT,       /* blocks.l.hook_attn_out    [pos, d_model] */
    PL_HOOK_RESID_MID,      /* blocks.l.hook_resid_mid   [pos, d_model] */
    PL_HOOK_MLP_IN,         /* blocks.l.hook_mlp_in     [pos, d_model] */
    PL_HOOK_LN2_SCALE,      /* blocks.l.ln2.hook_scale   [pos, 1] */
    PL_HOOK_LN2_NORMALIZED, /* blocks.l.ln2.hook_normalized [pos, d_model] */
    PL_HOOK_MLP_PRE,        /* blocks.l.mlp.hook_pre     [pos, d_mlp]; gated: before activation */
    PL_HOOK_MLP_PRE_LINEAR, /* blocks.l.mlp.hook_pre_linear [pos, d_mlp], gated models only */
    PL_HOOK_MLP_POST,       /* blocks.l.mlp.hook_post    [pos, d_mlp] */
    PL_HOOK_MLP_OUT,        /* blocks.l.hook_mlp_out     [pos, d_model] */
    PL_HOOK_RESID_POST,     /* blocks.l.hook_resid_post  [pos, d_model] */
    PL_HOOK_LN_FINAL_SCALE, /* ln_final.hook_scale      [pos, 1] */
    PL_HOOK_LN_FINAL_NORMALIZED, /* ln_final.hook_normalized [pos, d_model] */
    PL_HOOK_LOGITS,              /* hook_logits               [rows with logits, d_vocab] */
    PL_N_POINTS
} pl_point;

typedef struct pl_sequence pl_sequence;

/* The rows that one sequence has in a pass: a run of new positions. */
typedef struct pl_span {
    pl_sequence *seq;
    int64_t first_row, n_rows;
    int64_t first_pos;        /* absolute position of the first row */
    int64_t call_pos, call_n; /* first position and rows of the whole call, of which a pass may
                                 hold a part only */
} pl_span;

/* Where and when a hook fires. Dead after the call, as all it points to. */
typedef struct pl_hook_at {
    pl_point point;
    int layer;            /* -1 outside the blocks */
    const void *sequence; /* the pl_sequence, for identity; NULL: batched */
    int64_t pos;          /* absolute position of the first row; -1: batched */
    int64_t n_rows;
    int64_t call_pos, call_n; /* as in pl_span; not batched only */
    const pl_span *spans;     /* [n_spans], batched only: whose rows act holds, in order */
    int64_t n_spans;
} pl_hook_at;

/* act is the live view of one sequence's rows, or of every sequence's where the hook is batched:
 * writing changes the pass. It is dead after the call. A failure aborts the pass and leaves every
 * sequence as it was. */
typedef pl_status (*pl_hook_fn)(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err);

typedef struct pl_point_info {
    const char *name; /* "hook_resid_pre", after "blocks.{l}." and the part, e.g. "attn." */
    const char *part; /* "", "attn.", "mlp.", "ln1.", "ln2.", "ln_final." */
    bool in_block;
    const char *dims;    /* names of the dimensions, "pos,head,d_head" */
    const char *formula; /* one line */
} pl_point_info;

const pl_point_info *pl_point_get(pl_point point);

/* The hooks of a session. */
typedef struct pl_hooks pl_hooks;

pl_status pl_hooks_new(pl_hooks **hooks, int64_t n_layers, pl_error *err);
void pl_hooks_free(pl_hooks *hooks);

typedef struct pl_hook_options {
    const void *sequence; /* NULL: every sequence; otherwise only this one */
    bool batched;         /* once per point with all rows, not once per sequence; not for
                             attn_scores and pattern, which are one sequence's by nature */
    bool read;            /* never writes: what is made for hooks alone need not be read back */
} pl_hook_options;

/* Registers fn at a point, for one layer or all (-1); id is for removal. options NULL: none set.
 * Inside a hook: the new one waits for the next point. PL_ERR_ARGUMENT for a layer that is not
 * there or options that contradict each other. */
pl_status pl_hooks_add(pl_hooks *hooks, uint64_t *id, pl_point point, int layer,
                       const pl_hook_options *options, pl_hook_fn fn, void *context, pl_error *err);
/* False when there is no such hook. Safe inside a hook: a removed one is not called again. */
bool pl_hooks_remove(pl_hooks *hooks, uint64_t id);

/* Bits of the points that anybody listens to in this layer (-1: outside the blocks), and of those
 * where somebody may write. */
uint64_t pl_hooks_mask(const pl_hooks *hooks, int layer);
uint64_t pl_hooks_write_mask(const pl_hooks *hooks, int layer);

/* Calls the listeners of a point in the order of registration, each once per span that it wants.
 *   act    of several spans: its first dimension is their rows; of one: all of it is that span's */
pl_status pl_hooks_fire(pl_hooks *hooks, pl_point point, int layer, pl_tensor *act,
                        const pl_span *spans, int64_t n_spans, pl_error *err);

#endif
