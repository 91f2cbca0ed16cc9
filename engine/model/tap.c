/* Taps: where the forward pass shows an activation to hooks. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/error.h"
#include "pass.h"

/* Gives the dimensions the names of the point's table, "pos,head,d_head"; "1" stays unnamed. */
static void name_dims(pl_tensor *act, const char *dims) {
    for (int i = 0; i < act->n_dims && *dims; i++) {
        size_t length = strcspn(dims, ",");
        memset(act->dim[i], 0, PL_DIM_NAME);
        if (length < PL_DIM_NAME && !(length == 1 && *dims == '1'))
            memcpy(act->dim[i], dims, length);
        dims += length + (dims[length] == ',');
    }
}

/* -- finite or not --------------------------------------------------------------------------- */

/* Masked scores and logits of forbidden tokens are -inf by right. */
static bool allowed(pl_point point, float value) {
    bool masks = point == PL_HOOK_ATTN_SCORES || point == PL_HOOK_LOGITS;
    return isfinite(value) || (masks && value == -INFINITY);
}

/* Where in act the element stands, as "position 4, head 1, column 17". */
static void describe(char *out, size_t size, const pl_tensor *act, const int64_t *index,
                     const pl_span *spans, int64_t n_spans) {
    size_t used = 0;
    for (int i = 0; i < act->n_dims && used < size; i++) {
        const char *name = act->dim[i];
        int64_t at = index[i];
        const pl_span *span = spans;
        if (strcmp(name, "pos") == 0) {
            while (span + 1 < spans + n_spans && at >= span[1].first_row) span++;
            at += span->first_pos - (n_spans > 1 ? span->first_row : 0);
            name = "position";
        } else if (strcmp(name, "query") == 0) {
            at += span->first_pos;
        } else if (strcmp(name, "head") != 0 && strcmp(name, "key") != 0) {
            name = "column";
        }
        used += (size_t)snprintf(out + used, size - used, "%s%s %lld", i ? ", " : "", name,
                                 (long long)at);
    }
}

/* PL_ERR_ARGUMENT names the first element that is no number. */
static pl_status check_finite(pl_pass *p, pl_point point, int layer, const pl_span *spans,
                              int64_t n_spans, const pl_tensor *act, const char *whence) {
    int64_t n = pl_tensor_count(act);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i, offset = 0, index[PL_MAX_DIMS] = {0};
        for (int d = act->n_dims - 1; d >= 0; d--) {
            index[d] = rest % act->shape[d];
            offset += index[d] * act->stride[d];
            rest /= act->shape[d];
        }
        float value = ((const float *)act->data)[offset];
        if (allowed(point, value)) continue;
        const pl_point_info *info = pl_point_get(point);
        char place[128], block[32] = "";
        describe(place, sizeof place, act, index, spans, n_spans);
        if (info->in_block) snprintf(block, sizeof block, ", layer %d", layer);
        return pl_fail(&p->call.err, PL_ERR_ARGUMENT, "%s%s%s: %s at %s, %s", info->part,
                       info->name, block,
                       isnan(value) ? "NaN"
                       : value > 0  ? "inf"
                                    : "-inf",
                       place, whence);
    }
    return PL_OK;
}

/* -- showing --------------------------------------------------------------------------------- */

static pl_status show(pl_pass *p, pl_point point, int layer, const pl_span *spans, int64_t n_spans,
                      const pl_tensor *act) {
    pl_tensor view = *act;
    bool writes = pl_writes(p, point, layer);
    name_dims(&view, pl_point_get(point)->dims);
    if (p->check_finite) {
        TRY(check_finite(p, point, layer, spans, n_spans, &view, "as computed"));
    }
    TRY(pl_hooks_fire(p->hooks, point, layer, &view, spans, n_spans, &p->call.err));
    return p->check_finite && writes
               ? check_finite(p, point, layer, spans, n_spans, &view, "written by a hook")
               : PL_OK;
}

pl_status pl_tap_span(pl_pass *p, pl_point point, int layer, const pl_span *span, pl_tensor *act) {
    return show(p, point, layer, span, 1, act);
}

pl_status pl_tap_listeners(pl_pass *p, pl_point point, int layer, pl_tensor *act) {
    return show(p, point, layer, p->spans, p->n_spans, act);
}
