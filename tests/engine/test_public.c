/* The engine as a C program sees it: perilune.h and nothing else. */
#include "../../engine/perilune.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const prompt = "Once upon a time there was a";
static pl_error err;

static void must(pl_status status) {
    if (status != PL_OK) fail_msg("%s: %s", pl_status_name(status), err.message);
}

static int32_t best_of(const float *logits, int64_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

/* Continues the prompt greedily by n tokens; the text is the caller's. */
static char *continued(pl_model *model, pl_session *session, int n) {
    int64_t d_vocab = pl_model_get_sizes(model).d_vocab, n_ids;
    float *logits = malloc((size_t)d_vocab * sizeof *logits);
    int32_t *ids, drawn[64];
    char *text;
    pl_sequence *seq;
    assert_non_null(logits);
    must(pl_model_encode(model, prompt, strlen(prompt), &ids, &n_ids, &err));
    must(pl_sequence_new(&seq, session, &err));
    must(pl_sequence_extend(seq, ids, n_ids, PL_LOGITS_LAST, logits, &err));
    for (int i = 0; i < n; i++) {
        drawn[i] = best_of(logits, d_vocab);
        assert_false(pl_model_is_end(model, drawn[i]));
        must(pl_sequence_extend(seq, &drawn[i], 1, PL_LOGITS_LAST, logits, &err));
    }
    assert_int_equal(pl_sequence_length(seq), n_ids + n);
    must(pl_model_decode(model, drawn, n, &text, NULL, &err));
    pl_sequence_free(seq);
    free(ids);
    free(logits);
    return text;
}

static pl_status silence(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *why) {
    (void)at, (void)why;
    ++*(int *)context;
    for (int64_t i = 0; i < act->shape[0]; i++) {
        for (int64_t j = 0; j < act->shape[1]; j++) {
            ((float *)act->data)[i * act->stride[0] + j * act->stride[1]] = 0;
        }
    }
    return PL_OK;
}

static void test_a_model_continues_a_text(void **state) {
    (void)state;
    pl_model *model;
    pl_session *session;
    must(pl_model_load(&model, "models/default.gguf", &err));
    assert_int_equal(pl_model_get_sizes(model).n_layers, 8);
    must(pl_session_new(&session, model, NULL, &err));
    char *plain = continued(model, session, 12), *again = continued(model, session, 12);
    assert_true(strlen(plain) > 12);
    assert_string_equal(plain, again);

    int fired = 0;
    uint64_t id;
    must(pl_hooks_add(pl_session_hooks(session), &id, PL_HOOK_MLP_OUT, 3, NULL, silence, &fired,
                      &err));
    char *changed = continued(model, session, 12);
    assert_int_equal(fired, 13);
    assert_string_not_equal(plain, changed);
    assert_true(pl_hooks_remove(pl_session_hooks(session), id));
    free(plain), free(again), free(changed);
    pl_session_free(session);
    pl_model_free(model);
}

static void test_mistakes_are_told(void **state) {
    (void)state;
    pl_model *model;
    char *text;
    assert_int_equal(pl_model_load(&model, "no/such.gguf", &err), PL_ERR_IO);
    assert_non_null(strstr(err.message, "no/such.gguf"));
    must(pl_model_load(&model, "models/default.gguf", &err));
    const int32_t far[] = {1, 1 << 20};
    assert_int_equal(pl_model_decode(model, far, 2, &text, NULL, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_model_decode(model, far, -1, &text, NULL, &err), PL_ERR_ARGUMENT);
    size_t size = 1;
    must(pl_model_decode(model, far, 0, &text, &size, &err));
    assert_string_equal(text, "");
    assert_int_equal(size, 0);
    free(text);
    pl_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_model_continues_a_text),
        cmocka_unit_test(test_mistakes_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
