/* What the suites about gradients of whole models share. Failures fail the running test. */
#ifndef GRADIENT_FIXTURE_H
#define GRADIENT_FIXTURE_H

#include "model_fixture.h"

enum { N = 6, VOCAB = 7 };
extern const int32_t tokens[N], targets[N];

/* Two layers, two heads, a width of 8, VOCAB entries. */
pl_config small_config(const char *arch);

/* The mean loss of logits [N, VOCAB] at the targets. */
double loss_of(const double *logits);

/* The same loss of one recorded pass of the engine over n_items (at most 4) times the tokens, which
 * is walked back. */
double engine_loss(pl_session *session, int n_items);

/* A hook that asks for the gradient of what it sees and keeps the activation: context is an empty
 * tensor, to be released. */
pl_status ask(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err);

/* Holds the gradient of an activation of the session's model to central differences of r. */
void hold_activation(pl_session *session, const reference *r, pl_point point, int layer,
                     const char *dtype);

#endif
