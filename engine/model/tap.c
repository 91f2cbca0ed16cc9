/* Taps: where the forward pass shows an activation to hooks. */
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

pl_status pl_tap_span(pl_pass *p, pl_point point, int layer, const pl_span *span, pl_tensor *act) {
    pl_hook_at at = {.point = point,
                     .layer = layer,
                     .sequence = span->seq,
                     .pos = span->first_pos,
                     .n_rows = span->n_rows};
    pl_tensor view = *act;
    name_dims(&view, pl_point_get(point)->dims);
    return pl_hooks_fire(p->hooks, &view, &at, &p->call.err);
}

pl_status pl_tap_listeners(pl_pass *p, pl_point point, int layer, pl_tensor *act) {
    for (int64_t i = 0; i < p->n_spans; i++) {
        const pl_span *span = &p->spans[i];
        pl_tensor rows = *act;
        pl_status status = pl_tensor_narrow(&rows, 0, span->first_row, span->n_rows, &p->call.err);
        if (status == PL_OK) status = pl_tap_span(p, point, layer, span, &rows);
        if (status != PL_OK) return status;
    }
    return PL_OK;
}
