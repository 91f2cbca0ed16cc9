/* How fast a GPT-2 of ten million parameters is trained, beside OpenBLAS's sgemm in the same run:
 * 8 windows of 256 tokens a step, counted as 6 operations a parameter and token. */
#include <limits.h>
#include <malloc.h>

#include "../../engine/model/model.h"
#include "../../engine/model/widen.h"
#include "../../engine/tensor/grad.h"
#include "../../engine/tensor/optim.h"
#include "../../engine/tensor/reduce.h"
#include "machine.h"

enum { BATCH = 8, LENGTH = 256, VOCAB = 4096, MOST_WEIGHTS = 128, WARM = 2, STEPS = 6 };

typedef struct training {
    pl_session *session;
    pl_model *model;
    pl_call call;
    pl_named_weight weights[MOST_WEIGHTS];
    pl_tensor mean[MOST_WEIGHTS], square[MOST_WEIGHTS];
    size_t n_weights;
    int32_t tokens[BATCH * LENGTH];
} training;

typedef struct figures {
    double forward_s, backward_s, step_s, flops, n_params;
} figures;

static void begin(training *t, int n_threads) {
    pl_error err;
    pl_config config;
    pl_model *source;
    check(pl_config_init(&config, "gpt2", &err), &err);
    config.n_layers = 6, config.d_model = 352, config.n_heads = config.n_kv_heads = 11;
    config.d_mlp = 1408, config.d_vocab = VOCAB, config.n_ctx = LENGTH;
    check(pl_model_new_random(&source, &config, PL_F32, 1, 0.02f, &err), &err);
    check(pl_model_new_trainable(&t->model, source, &err), &err);
    pl_model_free(source);
    pl_session_options options = pl_session_options_default();
    options.n_threads = n_threads;
    check(pl_session_new(&t->session, t->model, &options, &err), &err);
    check(pl_call_init(&t->call, n_threads, &err), &err);
    t->n_weights = pl_model_n_weights(t->model);
    if (t->n_weights > MOST_WEIGHTS) exit(1);
    for (size_t i = 0; i < t->n_weights; i++) {
        pl_model_weight(t->model, i, &t->weights[i]);
        const pl_tensor *w = &t->weights[i].tensor;
        for (int k = 0; k < 2; k++) {
            pl_tensor *state = k ? &t->square[i] : &t->mean[i];
            check(pl_tensor_new(state, PL_F32, w->n_dims, w->shape, &err), &err);
            memset(state->data, 0, state->storage->bytes);
        }
    }
    for (int i = 0; i < BATCH * LENGTH; i++) t->tokens[i] = (int32_t)((i * 7919LL) % VOCAB);
}

static pl_tensor loss_of(training *t) {
    pl_error err;
    pl_extension items[BATCH];
    pl_tensor logits, targets, losses, loss;
    for (int i = 0; i < BATCH; i++) {
        items[i] = (pl_extension){.tokens = t->tokens + i * LENGTH, .n = LENGTH};
        items[i].which = PL_LOGITS_ALL;
        check(pl_sequence_new(&items[i].seq, t->session, &err), &err);
    }
    check(pl_session_record(t->session, items, BATCH, &logits, &err), &err);
    int64_t n = BATCH * LENGTH;
    check(pl_tensor_wrap(&targets, PL_I32, 1, &n, t->tokens, &err), &err);
    check(pl_op_cross_entropy(&t->call, &losses, &logits, &targets, -100), &t->call.err);
    check(pl_op_reduce(&t->call, &loss, &losses, PL_MEAN, -1, false), &t->call.err);
    pl_tensor_release(&logits);
    pl_tensor_release(&losses);
    for (int i = 0; i < BATCH; i++) pl_sequence_free(items[i].seq);
    return loss;
}

static void update(training *t, int64_t step) {
    pl_adamw params = {1e-3, 0.9, 0.95, 1e-8, 0.1, 1, step};
    for (size_t i = 0; i < t->n_weights; i++) {
        pl_tensor grad, *w = &t->weights[i].tensor;
        pl_get_grad(w, &grad);
        check(pl_op_adamw_(&t->call, w, &grad, &t->mean[i], &t->square[i], &params), &t->call.err);
        pl_tensor_release(&grad);
        pl_clear_grad(w);
    }
}

static void measure(const void *argument, void *result) {
    static training t;
    figures r = {0};
    mallopt(M_MMAP_MAX, 0); /* as pl.fit does: freed memory stays with the process */
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    begin(&t, *(const int *)argument);
    for (int step = 1; step <= WARM + STEPS; step++) {
        double start = now();
        pl_tensor loss = loss_of(&t);
        double forward = now();
        check(pl_backward(&t.call, &loss, NULL, false), &t.call.err);
        double backward = now();
        update(&t, step);
        pl_tensor_release(&loss);
        if (step <= WARM) continue;
        r.forward_s += (forward - start) / STEPS;
        r.backward_s += (backward - forward) / STEPS;
        r.step_s += (now() - start) / STEPS;
    }
    r.n_params = (double)pl_model_n_params(t.model);
    r.flops = 6 * r.n_params * BATCH * LENGTH;
    *(figures *)result = r;
}

int main(void) {
    int n_threads = pl_threads_default();
    machine limit;
    figures r;
    in_child(measure_machine, &n_threads, &limit, sizeof limit);
    in_child(measure, &n_threads, &r, sizeof r);
    double rate = BATCH * LENGTH / r.step_s, flops = r.flops / r.step_s;
    printf(
        "training    %.1f M parameters, %d x %d tokens: %.0f tokens/s; forward %.0f ms, backward "
        "%.0f ms, optimizer %.0f ms; %.0f GF/s, %.0f %% of sgemm's %.0f\n",
        r.n_params / 1e6, BATCH, LENGTH, rate, 1e3 * r.forward_s, 1e3 * r.backward_s,
        1e3 * (r.step_s - r.forward_s - r.backward_s), flops / 1e9, 100 * flops / limit.flops,
        limit.flops / 1e9);
    tell_json(json_pack("{s:s, s:f, s:f, s:f, s:f}", "training", "gpt2", "n_params", r.n_params,
                        "tokens_per_s", rate, "flops", flops, "sgemm_flops", limit.flops));
    return 0;
}
