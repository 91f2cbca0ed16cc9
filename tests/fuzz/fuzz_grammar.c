/* Any bytes as a grammar; what parses must follow text without harm. */
#include <stddef.h>
#include <stdint.h>

#include "../../engine/sample/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Follows the text as far as it goes, passing over bytes that are not allowed. */
static void follow(pl_grammar_state *state, const char *text, size_t size) {
    for (size_t i = 0; i < size; i++) {
        pl_status status = pl_grammar_state_accept_bytes(state, text + i, 1, NULL);
        if (status != PL_OK && status != PL_ERR_ARGUMENT) return;
        pl_grammar_state *copy = NULL;
        if (i % 16 == 0 && pl_grammar_state_clone(&copy, state, NULL) == PL_OK)
            pl_grammar_state_free(copy);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char sample[] = "{\"a\": [1, 2.5e3, \"x\\n\"], \"b\": true}\n- abc aaaaaaaaaaaa\n";
    pl_grammar *grammar = NULL;
    pl_grammar_state *state = NULL;
    if (pl_grammar_parse(&grammar, (const char *)data, size, "fuzz", NULL) != PL_OK) return 0;
    if (pl_grammar_state_new(&state, grammar, NULL, NULL) == PL_OK) {
        follow(state, sample, sizeof sample - 1);
        pl_grammar_state_reset(state);
        follow(state, (const char *)data, size < 200 ? size : 200);
    }
    pl_grammar_state_free(state);
    pl_grammar_unref(grammar);
    return 0;
}
