#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/tensor/elementwise.h"
#include "../../engine/tensor/grad.h"
#include "../../engine/tensor/reduce.h"
#include "gradient_fixture.h"

const int32_t tokens[N] = {3, 1, 4, 1, 5, 6};
const int32_t targets[N] = {1, 4, 1, 5, 6, 0};

pl_config small_config(const char *arch) {
    pl_config c = config_of(arch);
    c.d_model = 8;
    c.n_layers = 2;
    c.n_heads = 2;
    c.n_kv_heads = 2;
    c.d_mlp = 12;
    c.d_vocab = VOCAB;
    c.n_ctx = 16;
    return c;
}

double loss_of(const double *logits) {
    double loss = 0;
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int j = 0; j < VOCAB; j++) sum += exp(logits[i * VOCAB + j]);
        loss += log(sum) - logits[i * VOCAB + targets[i]];
    }
    return loss / N;
}

/* -- the engine's side ------------------------------------------------------------------------ */

static pl_call must_call(void) {
    pl_call c;
    pl_error err = {0};
    assert_int_equal(pl_call_init(&c, 2, &err), PL_OK);
    return c;
}

static void must(const pl_call *c, pl_status status) {
    if (status != PL_OK) print_error("%s\n", c->err.message);
    assert_int_equal(status, PL_OK);
}

/* The mean loss of one recorded pass, which is walked back. */
double engine_loss(pl_session *session, int n_items) {
    pl_call c = must_call();
    pl_error err = {0};
    pl_tensor logits, losses, loss, wanted;
    pl_extension items[4];
    int32_t all[4 * N];
    for (int i = 0; i < n_items; i++) {
        items[i] = (pl_extension){must_sequence(session), tokens, N, PL_LOGITS_ALL, NULL, NULL};
        memcpy(all + i * N, targets, sizeof targets);
    }
    pl_status status = pl_session_record(session, items, (size_t)n_items, &logits, &err);
    if (status != PL_OK) print_error("%s\n", err.message);
    assert_int_equal(status, PL_OK);
    must(&c, pl_tensor_wrap(&wanted, PL_I32, 1, (int64_t[]){n_items * N}, all, &c.err));
    must(&c, pl_op_cross_entropy(&c, &losses, &logits, &wanted, -100));
    must(&c, pl_op_reduce(&c, &loss, &losses, PL_MEAN, -1, false));
    must(&c, pl_backward(&c, &loss, NULL, false));
    double value = (double)*(float *)loss.data;
    pl_tensor_release(&logits);
    pl_tensor_release(&losses);
    pl_tensor_release(&loss);
    for (int i = 0; i < n_items; i++) pl_sequence_free(items[i].seq);
    return value;
}

/* -- activations ------------------------------------------------------------------------------ */

typedef struct nudge {
    pl_point point;
    int layer;
    int64_t at;
    double by;
} nudge;

static void add_nudge(void *context, pl_point point, int layer, double *values, int n_dims,
                      const int64_t *shape) {
    (void)n_dims, (void)shape;
    const nudge *d = context;
    if (point == d->point && layer == d->layer) values[d->at] += d->by;
}

static double nudged_loss(const reference *r, nudge d) {
    double logits[N * VOCAB];
    pl_error err = {0};
    assert_int_equal(reference_forward(r, logits, tokens, N, add_nudge, &d, &err), PL_OK);
    return loss_of(logits);
}

/* A hook that asks for the gradient of what it sees and keeps the activation. */
pl_status ask(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    (void)at;
    pl_tensor *kept = context;
    pl_call c;
    pl_status status = pl_call_init(&c, 1, err);
    if (status == PL_OK) status = pl_require_grad(&c, act);
    if (status != PL_OK) return status;
    *kept = *act;
    pl_tensor_retain(kept);
    return PL_OK;
}

void hold_activation(pl_session *session, const reference *r, pl_point point, int layer,
                     const char *dtype) {
    pl_call c = must_call();
    pl_tensor act = {0}, found, grad;
    pl_error err = {0};
    uint64_t id;
    pl_hook_options options = {0};
    assert_int_equal(
        pl_hooks_add(pl_session_hooks(session), &id, point, layer, &options, ask, &act, &err),
        PL_OK);
    engine_loss(session, 1);
    pl_hooks_remove(pl_session_hooks(session), id);
    pl_get_grad(&act, &found);
    assert_non_null(found.data);
    must(&c, pl_op_to(&c, &grad, &found, PL_F32));
    int64_t n = pl_tensor_count(&grad);
    for (int64_t i = 0; i < n; i += 1 + n / 64) {
        double up = nudged_loss(r, (nudge){point, layer, i, 1e-6});
        double slope = (up - nudged_loss(r, (nudge){point, layer, i, -1e-6})) / 2e-6;
        double got = (double)((float *)grad.data)[i];
        if (!isfinite(slope) && point == PL_HOOK_ATTN_SCORES) continue;
        if (fabs(got - slope) > 2e-5 * fmax(1, fabs(slope))) {
            fail_msg("%s %s, layer %d [%lld]: %.9g, expected %.9g", dtype,
                     pl_point_get(point)->name, layer, (long long)i, got, slope);
        }
    }
    pl_tensor_release(&grad);
    pl_tensor_release(&found);
    pl_tensor_release(&act);
}
