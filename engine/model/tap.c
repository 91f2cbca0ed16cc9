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

static pl_status show(pl_pass *p, pl_point point, int layer, const pl_span *spans, int64_t n_spans,
                      const pl_tensor *act) {
    pl_tensor view = *act;
    name_dims(&view, pl_point_get(point)->dims);
    return pl_hooks_fire(p->hooks, point, layer, &view, spans, n_spans, &p->call.err);
}

pl_status pl_tap_span(pl_pass *p, pl_point point, int layer, const pl_span *span, pl_tensor *act) {
    return show(p, point, layer, span, 1, act);
}

pl_status pl_tap_listeners(pl_pass *p, pl_point point, int layer, pl_tensor *act) {
    return show(p, point, layer, p->spans, p->n_spans, act);
}
