/* What the suites about models share. Failures of the set-up fail the running test. */
#ifndef MODEL_FIXTURE_H
#define MODEL_FIXTURE_H

#include <jansson.h>

#include "reference.h"
#include "../../engine/model/model.h"
#include "../../engine/model/hooks.h"

/* The path of reference data, or a message and skip(). Static storage. */
const char *need_data(const char *name);

/* An object read from a file; json_decref it. */
json_t *need_json(const char *path);

/* A description from pl_config_init. */
pl_config config_of(const char *arch);

pl_model *must_load(const char *path);
pl_model *must_random(const pl_config *config, pl_dtype dtype, uint64_t seed);

/* Loads a lone .safetensors file of the reference data with this text as its config.json. */
pl_model *load_with_config(const char *weights, const char *config);

/* Float32 activations and keys and values, whatever the weights. */
pl_session_options exact_options(void);
pl_session *must_session(pl_model *model, const pl_session_options *options);
pl_sequence *must_sequence(pl_session *session);
void must_extend(pl_sequence *seq, const int32_t *tokens, int64_t n, pl_logits which,
                 float *logits);

/* Logits [n, d_vocab] of a new sequence; free them. */
float *engine_logits(pl_session *session, const int32_t *tokens, int64_t n);
double *reference_logits(const reference *r, const int32_t *tokens, int64_t n);

/* The next id by greedy choice; the first of equals. */
int32_t best_of(const float *logits, int64_t n);

/* Tokens from a JSON array; free them. */
int32_t *json_tokens(const json_t *array, int64_t *n);

/* float32 from {"dtype", "shape", "base64"} or {..., "data"}; free them. n: elements. */
float *json_floats(const json_t *array, size_t *n);

/* Fails the test where |a - b| > tolerance * max(1, |b|); infinities must agree. */
void assert_near(const char *what, const float *a, const double *b, size_t n, double tolerance);

/* Runs both over the tokens and holds every activation at every point, and the logits, to the
 * tolerance. The engine runs with exact_options. */
void assert_model_matches(pl_model *model, const int32_t *tokens, int64_t n, double tolerance);

#endif
