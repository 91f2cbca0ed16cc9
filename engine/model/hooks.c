#include "hooks.h"

#include <stdlib.h>

#include "../base/error.h"

static const pl_point_info points[PL_N_POINTS] = {
    [PL_HOOK_EMBED] = {"hook_embed", "", false, "pos,d_model", "W_E[token]"},
    [PL_HOOK_POS_EMBED] = {"hook_pos_embed", "", false, "pos,d_model", "W_pos[position]"},
    [PL_HOOK_RESID_PRE] = {"hook_resid_pre", "", true, "pos,d_model",
                           "the residual stream as the block receives it"},
    [PL_HOOK_LN1_SCALE] = {"hook_scale", "ln1.", true, "pos,1",
                           "sqrt(var(x) + eps), or sqrt(mean(x^2) + eps) for RMSNorm"},
    [PL_HOOK_LN1_NORMALIZED] =
        {"hook_normalized", "ln1.", true, "pos,d_model",
         "(x - mean) / scale * w + b, what attention reads; RMSNorm: x / scale"},
    [PL_HOOK_Q] = {"hook_q", "attn.", true, "pos,head,d_head", "x W_Q + b_Q"},
    [PL_HOOK_K] = {"hook_k", "attn.", true, "pos,head,d_head", "x W_K + b_K"},
    [PL_HOOK_V] = {"hook_v", "attn.", true, "pos,head,d_head", "x W_V + b_V"},
    [PL_HOOK_ROT_Q] = {"hook_rot_q", "attn.", true, "pos,head,d_head",
                       "q rotated by its position (rotary models)"},
    [PL_HOOK_ROT_K] = {"hook_rot_k", "attn.", true, "pos,head,d_head",
                       "k rotated by its position (rotary models)"},
    [PL_HOOK_ATTN_SCORES] = {"hook_attn_scores", "attn.", true, "head,query,key",
                             "q . k / sqrt(d_head), -inf where masked"},
    [PL_HOOK_PATTERN] = {"hook_pattern", "attn.", true, "head,query,key", "softmax(attn_scores)"},
    [PL_HOOK_Z] = {"hook_z", "attn.", true, "pos,head,d_head", "pattern v"},
    [PL_HOOK_ATTN_OUT] = {"hook_attn_out", "", true, "pos,d_model",
                          "sum over heads of z W_O, + b_O"},
    [PL_HOOK_RESID_MID] = {"hook_resid_mid", "", true, "pos,d_model", "resid_pre + attn_out"},
    [PL_HOOK_LN2_SCALE] = {"hook_scale", "ln2.", true, "pos,1", "as ln1, of the mlp's norm"},
    [PL_HOOK_LN2_NORMALIZED] = {"hook_normalized", "ln2.", true, "pos,d_model",
                                "as ln1, of the mlp's norm"},
    [PL_HOOK_MLP_PRE] = {"hook_pre", "mlp.", true, "pos,d_mlp",
                         "x W_in + b_in; gated models: x W_gate + b_gate"},
    [PL_HOOK_MLP_PRE_LINEAR] = {"hook_pre_linear", "mlp.", true, "pos,d_mlp",
                                "x W_in + b_in (gated models)"},
    [PL_HOOK_MLP_POST] = {"hook_post", "mlp.", true, "pos,d_mlp",
                          "activation(pre); gated models: activation(pre) * pre_linear"},
    [PL_HOOK_MLP_OUT] = {"hook_mlp_out", "", true, "pos,d_model", "post W_out + b_out"},
    [PL_HOOK_RESID_POST] = {"hook_resid_post", "", true, "pos,d_model", "resid_mid + mlp_out"},
    [PL_HOOK_LN_FINAL_SCALE] = {"hook_scale", "ln_final.", false, "pos,1",
                                "as ln1, of the last norm"},
    [PL_HOOK_LN_FINAL_NORMALIZED] = {"hook_normalized", "ln_final.", false, "pos,d_model",
                                     "as ln1, of the last norm"},
    [PL_HOOK_LOGITS] = {"hook_logits", "", false, "pos,d_vocab", "x W_U (+ b_U)"},
};

const pl_point_info *pl_point_get(pl_point point) {
    return &points[point];
}

typedef struct hook {
    uint64_t id;
    pl_point point;
    int layer;
    const void *sequence;
    pl_hook_fn fn; /* NULL once removed, until the list is next compacted */
    void *context;
} hook;

struct pl_hooks {
    hook *list; /* in the order of registration */
    size_t n, capacity;
    uint64_t next_id;
    uint64_t *masks; /* [n_layers + 1]; masks[0] is for the points outside the blocks */
    int64_t n_layers;
    int depth; /* of pl_hooks_fire, which a hook may reach again through another pass */
};

pl_status pl_hooks_new(pl_hooks **out, int64_t n_layers, pl_error *err) {
    pl_hooks *hooks = calloc(1, sizeof *hooks);
    if (hooks) hooks->masks = calloc((size_t)n_layers + 1, sizeof *hooks->masks);
    if (!hooks || !hooks->masks) {
        free(hooks);
        return pl_fail(err, PL_ERR_MEMORY, "out of memory for hooks");
    }
    hooks->n_layers = n_layers;
    hooks->next_id = 1;
    *out = hooks;
    return PL_OK;
}

void pl_hooks_free(pl_hooks *hooks) {
    if (!hooks) return;
    free(hooks->list);
    free(hooks->masks);
    free(hooks);
}

static void set_masks(pl_hooks *hooks) {
    for (int64_t l = 0; l <= hooks->n_layers; l++) hooks->masks[l] = 0;
    for (size_t i = 0; i < hooks->n; i++) {
        const hook *h = &hooks->list[i];
        if (!h->fn) continue;
        uint64_t bit = UINT64_C(1) << h->point;
        if (!points[h->point].in_block) {
            hooks->masks[0] |= bit;
        } else if (h->layer >= 0) {
            hooks->masks[h->layer + 1] |= bit;
        } else {
            for (int64_t l = 1; l <= hooks->n_layers; l++) hooks->masks[l] |= bit;
        }
    }
}

static void compact(pl_hooks *hooks) {
    size_t kept = 0;
    for (size_t i = 0; i < hooks->n; i++) {
        if (hooks->list[i].fn) hooks->list[kept++] = hooks->list[i];
    }
    hooks->n = kept;
}

pl_status pl_hooks_add(pl_hooks *hooks, uint64_t *id, pl_point point, int layer,
                       const void *sequence, pl_hook_fn fn, void *context, pl_error *err) {
    if (layer < -1 || layer >= hooks->n_layers) {
        return pl_fail(err, PL_ERR_ARGUMENT, "layer %d: expected 0 to %lld", layer,
                       (long long)hooks->n_layers - 1);
    }
    if (hooks->n == hooks->capacity) {
        size_t capacity = hooks->capacity ? 2 * hooks->capacity : 8;
        hook *list = realloc(hooks->list, capacity * sizeof *list);
        if (!list) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a hook");
        hooks->list = list;
        hooks->capacity = capacity;
    }
    *id = hooks->next_id++;
    hooks->list[hooks->n++] = (hook){*id, point, layer, sequence, fn, context};
    set_masks(hooks);
    return PL_OK;
}

bool pl_hooks_remove(pl_hooks *hooks, uint64_t id) {
    for (size_t i = 0; i < hooks->n; i++) {
        if (hooks->list[i].id != id || !hooks->list[i].fn) continue;
        hooks->list[i].fn = NULL;
        if (hooks->depth == 0) compact(hooks);
        set_masks(hooks);
        return true;
    }
    return false;
}

uint64_t pl_hooks_mask(const pl_hooks *hooks, int layer) {
    return hooks->masks[layer + 1];
}

/* A hook may add and remove hooks: the list may move, and what is added waits for its turn at the
 * next point. */
pl_status pl_hooks_fire(pl_hooks *hooks, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    pl_status status = PL_OK;
    size_t n = hooks->n;
    hooks->depth++;
    for (size_t i = 0; i < n && status == PL_OK; i++) {
        const hook h = hooks->list[i];
        if (!h.fn || h.point != at->point || (h.layer >= 0 && h.layer != at->layer)) continue;
        if (h.sequence && h.sequence != at->sequence) continue;
        status = h.fn(h.context, act, at, err);
    }
    if (--hooks->depth == 0) compact(hooks);
    return status;
}
