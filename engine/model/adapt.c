/* What adapters add to the linear maps of a pass.
 *
 * Neighbouring sequences that wear the same adapters share their multiplications; each row's sum is
 * its own, so that company changes no bit of it. */
#include <stdlib.h>

#include "../base/error.h"
#include "../tensor/elementwise.h"
#include "adapter.h"

static int order(const void *key, const void *addend) {
    uintptr_t x = (uintptr_t)key, y = (uintptr_t)((const pl_addend *)addend)->to;
    return x < y ? -1 : x > y;
}

static const pl_addend *find(const pl_adapter *adapter, const pl_linear *linear) {
    return bsearch(linear, adapter->addends, adapter->n_addends, sizeof *adapter->addends, order);
}

/* Whether two sequences wear the same adapters, at whatever scales. */
static bool alike(const pl_adapter_list *a, const pl_adapter_list *b) {
    if (!a || !b || a->n != b->n) return a == b;
    for (int i = 0; i < a->n; i++) {
        if (a->uses[i].adapter != b->uses[i].adapter) return false;
    }
    return true;
}

static pl_status cut_addend(pl_addend *addend, const pl_cut *cut, pl_error *err) {
    if (cut && cut->n_out) {
        TRY(pl_tensor_narrow(&addend->b.w, 0, cut->first_out, cut->n_out, err));
    }
    if (!cut || !cut->n_in) return PL_OK;
    return pl_tensor_narrow(&addend->a.w, 1, cut->first_in, cut->n_in, err);
}

/* low = scale x Aᵀ for the rows of some spans, then out += low Bᵀ. */
static pl_status add_low_rank(pl_pass *p, pl_tensor out, pl_tensor x, const pl_addend *addend,
                              int use, const pl_span *spans, int64_t n_spans) {
    pl_error *err = &p->call.err;
    const pl_span *last = &spans[n_spans - 1];
    int64_t first = spans[0].first_row, n = last->first_row + last->n_rows - first;
    pl_tensor low = {0}, delta = {0}, factor;
    TRY(pl_tensor_narrow(&out, 0, first, n, err));
    TRY(pl_tensor_narrow(&x, 0, first, n, err));
    TRY(pl_op_linear(&p->call, &low, &x, (const pl_linear *[]){&addend->a}, 1));
    for (int64_t i = 0; i < n_spans; i++) {
        pl_tensor rows = low;
        float scale = addend->scale * spans[i].seq->adapters->uses[use].scale;
        TRY(pl_tensor_narrow(&rows, 0, spans[i].first_row - first, spans[i].n_rows, err));
        TRY(pl_tensor_wrap(&factor, PL_F32, 0, NULL, &scale, err));
        if (scale != 1) TRY(pl_op_binary_(&p->call, &rows, &factor, PL_MUL));
    }
    TRY(pl_op_linear(&p->call, &delta, &low, (const pl_linear *[]){&addend->b}, 1));
    return pl_op_binary_(&p->call, &out, &delta, PL_ADD);
}

pl_status pl_adapt(pl_pass *p, pl_tensor *out, const pl_tensor *x, const pl_linear *linear,
                   const pl_cut *cut, const pl_span *spans, int64_t n_spans) {
    for (int64_t from = 0, to; from < n_spans; from = to) {
        const pl_adapter_list *list = spans[from].seq->adapters;
        for (to = from + 1; to < n_spans && alike(list, spans[to].seq->adapters);) to++;
        for (int use = 0; list && use < list->n; use++) {
            const pl_addend *found = find(list->uses[use].adapter, linear);
            if (!found) continue;
            pl_addend addend = *found;
            pl_arena_mark mark = pl_arena_save(p->call.arena);
            TRY(cut_addend(&addend, cut, &p->call.err));
            TRY(add_low_rank(p, *out, *x, &addend, use, &spans[from], to - from));
            pl_arena_rewind(p->call.arena, mark);
        }
    }
    return PL_OK;
}

pl_status pl_spans_of_rows(pl_pass *p, pl_span **spans, int64_t *n_spans, const int32_t *rows,
                           int64_t n) {
    *spans = pl_arena_alloc(p->call.arena, (size_t)p->n_spans * sizeof **spans);
    if (!*spans) return pl_fail(&p->call.err, PL_ERR_MEMORY, "out of memory for adapters");
    *n_spans = 0;
    for (int64_t i = 0, at = 0; at < p->n_spans; at++) {
        pl_span span = p->spans[at];
        int64_t end = span.first_row + span.n_rows, first = i;
        while (i < n && rows[i] < end) i++;
        if (i == first) continue;
        span.first_row = first;
        span.n_rows = i - first;
        (*spans)[(*n_spans)++] = span;
    }
    return PL_OK;
}

pl_status pl_linear_maps(pl_pass *p, pl_tensor *outs, const pl_tensor *x,
                         const pl_linear *const *linears, int n_linears) {
    TRY(pl_op_linear(&p->call, outs, x, linears, n_linears));
    for (int i = 0; p->adapted && i < n_linears; i++) {
        TRY(pl_adapt(p, &outs[i], x, linears[i], NULL, p->spans, p->n_spans));
    }
    return PL_OK;
}
