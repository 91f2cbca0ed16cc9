#include "model_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../engine/base/random.h"
#include "tokenizer_fixture.h"

const char *need_data(const char *name) {
    const char *path = fixture_path(name);
    if (!path) {
        print_message("needs ../shared/data/%s\n", name);
        skip();
    }
    return path;
}

json_t *need_json(const char *path) {
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);
    if (!json) fail_msg("%s: %s", path, error.text);
    return json;
}

pl_config config_of(const char *arch) {
    pl_config config;
    pl_error err = {0};
    if (pl_config_init(&config, arch, &err) != PL_OK) fail_msg("%s", err.message);
    return config;
}

pl_model *must_load(const char *path) {
    pl_model *model = NULL;
    pl_error err = {0};
    if (pl_model_load(&model, path, &err) != PL_OK) fail_msg("%s", err.message);
    return model;
}

/* Gains, biases and matrices all differ from their neutral values, so that each counts. */
pl_model *must_random(const pl_config *config, pl_dtype dtype, uint64_t seed) {
    pl_model *model = NULL;
    pl_error err = {0};
    if (pl_model_new_random(&model, config, dtype, seed, 0.2f, &err) != PL_OK) {
        fail_msg("%s", err.message);
    }
    return model;
}

pl_model *load_with_config(const char *weights, const char *config) {
    char path[512], target[4096];
    const char *folder = fixture_folder();
    if (!realpath(weights, target)) fail_msg("no path for %s", weights);
    fixture_write("config.json", config, strlen(config));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    if (symlink(target, path) != 0) fail_msg("no link to %s", target);
    pl_model *model = must_load(folder);
    unlink(path);
    fixture_remove();
    return model;
}

pl_session_options exact_options(void) {
    pl_session_options options = pl_session_options_default();
    options.exact = true;
    options.n_threads = 1; /* these models are too small to share out */
    options.kv_dtype = PL_F32;
    return options;
}

pl_session *must_session(pl_model *model, const pl_session_options *options) {
    pl_session *session = NULL;
    pl_error err = {0};
    if (pl_session_new(&session, model, options, &err) != PL_OK) fail_msg("%s", err.message);
    return session;
}

pl_sequence *must_sequence(pl_session *session) {
    pl_sequence *seq = NULL;
    pl_error err = {0};
    if (pl_sequence_new(&seq, session, &err) != PL_OK) fail_msg("%s", err.message);
    return seq;
}

void must_extend(pl_sequence *seq, const int32_t *tokens, int64_t n, pl_logits which,
                 float *logits) {
    pl_error err = {0};
    pl_status status = pl_sequence_extend(seq, tokens, n, which, logits, &err);
    if (status != PL_OK) fail_msg("%s", err.message);
}

static void *must_alloc(size_t n, size_t size) {
    void *memory = calloc(n ? n : 1, size);
    if (!memory) fail_msg("out of memory");
    return memory;
}

float *engine_logits(pl_session *session, const int32_t *tokens, int64_t n) {
    int64_t d_vocab = pl_session_model(session)->config.d_vocab;
    float *logits = must_alloc((size_t)(n * d_vocab), sizeof *logits);
    pl_sequence *seq = must_sequence(session);
    must_extend(seq, tokens, n, PL_LOGITS_ALL, logits);
    pl_sequence_free(seq);
    return logits;
}

double *reference_logits(const reference *r, const int32_t *tokens, int64_t n) {
    double *logits = must_alloc((size_t)(n * r->config.d_vocab), sizeof *logits);
    pl_error err = {0};
    if (reference_forward(r, logits, tokens, n, NULL, NULL, &err) != PL_OK) {
        fail_msg("%s", err.message);
    }
    return logits;
}

int32_t best_of(const float *logits, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return (int32_t)best;
}

int32_t *json_tokens(const json_t *array, int64_t *n) {
    *n = (int64_t)json_array_size(array);
    int32_t *tokens = must_alloc((size_t)*n, sizeof *tokens);
    for (int64_t i = 0; i < *n; i++) {
        tokens[i] = (int32_t)json_integer_value(json_array_get(array, (size_t)i));
    }
    return tokens;
}

static int digit_value(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

float *json_floats(const json_t *array, size_t *n) {
    const json_t *shape = json_object_get(array, "shape");
    const json_t *text = json_object_get(array, "base64");
    if (!text) text = json_object_get(array, "data");
    if (!shape || !json_is_string(text)) fail_msg("an array of the reference is missing");
    *n = 1;
    for (size_t i = 0; i < json_array_size(shape); i++) {
        *n *= (size_t)json_integer_value(json_array_get(shape, i));
    }
    uint8_t *bytes = must_alloc(*n + 1, sizeof(float));
    size_t used = 0, n_bits = 0;
    uint32_t bits = 0;
    for (const char *at = json_string_value(text); *at && *at != '='; at++) {
        if (digit_value(*at) < 0) continue;
        bits = bits << 6 | (uint32_t)digit_value(*at);
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        if (used < *n * sizeof(float)) bytes[used++] = (uint8_t)(bits >> n_bits);
    }
    if (used != *n * sizeof(float)) fail_msg("%zu bytes for %zu numbers", used, *n);
    return (float *)(void *)bytes;
}

static bool near(double a, double b, double tolerance) {
    if (isinf(b)) return a == b;
    return fabs(a - b) <= tolerance * fmax(1, fabs(b));
}

void assert_near(const char *what, const float *a, const double *b, size_t n, double tolerance) {
    for (size_t i = 0; i < n; i++) {
        if (!near((double)a[i], b[i], tolerance)) {
            fail_msg("%s: element %zu of %zu is %.9g, expected %.9g", what, i, n, (double)a[i],
                     b[i]);
        }
    }
}

/* -- every activation ----------------------------------------------------------------------- */

typedef struct activation {
    pl_point point;
    int layer;
    int n_dims;
    int64_t shape[3];
    double *values;
    bool seen;
} activation;

typedef struct comparison {
    activation list[1024];
    size_t n;
    double tolerance;
} comparison;

static size_t count_of(const activation *a) {
    size_t n = 1;
    for (int i = 0; i < a->n_dims; i++) n *= (size_t)a->shape[i];
    return n;
}

static void record(void *context, pl_point point, int layer, double *values, int n_dims,
                   const int64_t *shape) {
    comparison *c = context;
    assert_true(c->n < sizeof c->list / sizeof *c->list);
    activation *a = &c->list[c->n++];
    *a = (activation){.point = point, .layer = layer, .n_dims = n_dims};
    memcpy(a->shape, shape, (size_t)n_dims * sizeof *shape);
    a->values = must_alloc(count_of(a), sizeof *a->values);
    memcpy(a->values, values, count_of(a) * sizeof *a->values);
}

static double element(const pl_tensor *t, size_t index) {
    int64_t offset = 0;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        offset += (int64_t)(index % (size_t)t->shape[i]) * t->stride[i];
        index /= (size_t)t->shape[i];
    }
    return (double)((const float *)t->data)[offset];
}

static pl_status compare(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    comparison *c = context;
    const pl_point_info *info = pl_point_get(at->point);
    activation *a = NULL;
    (void)err;
    for (size_t i = 0; i < c->n; i++) {
        if (c->list[i].point == at->point && c->list[i].layer == at->layer) a = &c->list[i];
    }
    if (!a) fail_msg("%s%s of layer %d is not in the reference", info->part, info->name, at->layer);
    assert_false(a->seen);
    a->seen = true;
    assert_int_equal(act->n_dims, a->n_dims);
    for (int i = 0; i < a->n_dims; i++) assert_int_equal(act->shape[i], a->shape[i]);
    for (size_t i = 0; i < count_of(a); i++) {
        if (near(element(act, i), a->values[i], c->tolerance)) continue;
        fail_msg("%s%s of layer %d: element %zu is %.9g, expected %.9g", info->part, info->name,
                 at->layer, i, element(act, i), a->values[i]);
    }
    return PL_OK;
}

void assert_model_matches(pl_model *model, const int32_t *tokens, int64_t n, double tolerance) {
    comparison *c = must_alloc(1, sizeof *c);
    c->tolerance = tolerance;
    pl_error err = {0};
    reference *r = NULL;
    if (reference_new(&r, model, &err) != PL_OK) fail_msg("%s", err.message);
    size_t n_logits = (size_t)(n * model->config.d_vocab);
    double *expected = must_alloc(n_logits, sizeof *expected);
    if (reference_forward(r, expected, tokens, n, record, c, &err) != PL_OK) {
        fail_msg("%s", err.message);
    }
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    float *plain = engine_logits(session, tokens, n);
    assert_near("logits", plain, expected, n_logits, tolerance);
    for (int point = 0; point < PL_N_POINTS; point++) {
        uint64_t id;
        assert_int_equal(pl_hooks_add(pl_session_hooks(session), &id, (pl_point)point, -1, NULL,
                                      compare, c, &err),
                         PL_OK);
    }
    float *watched = engine_logits(session, tokens, n);
    assert_memory_equal(plain, watched, n_logits * sizeof *plain);
    for (size_t i = 0; i < c->n; i++) {
        const pl_point_info *info = pl_point_get(c->list[i].point);
        if (!c->list[i].seen) fail_msg("%s%s did not fire", info->part, info->name);
        free(c->list[i].values);
    }
    free(c);
    free(plain);
    free(watched);
    free(expected);
    reference_free(r);
    pl_session_free(session);
}
