/* Lists of tokens: see lists.h. */
#include "lists.h"

#include "../base/error.h"

#include <stdlib.h>
#include <string.h>

pl_status pl_token_lists_add(pl_token_lists *lists, const int32_t *ids, size_t n, double value,
                             pl_error *err) {
    if (lists->n == lists->capacity) {
        size_t capacity = lists->capacity ? 2 * lists->capacity : 8;
        pl_token_list *grown = realloc(lists->lists, capacity * sizeof *grown);
        if (!grown) return pl_fail(err, PL_ERR_MEMORY, "no memory for %zu lists", capacity);
        lists->lists = grown;
        lists->capacity = capacity;
    }
    int32_t *copy = malloc((n ? n : 1) * sizeof *copy);
    if (!copy) return pl_fail(err, PL_ERR_MEMORY, "no memory for a list of %zu tokens", n);
    if (n) memcpy(copy, ids, n * sizeof *copy);
    lists->lists[lists->n++] = (pl_token_list){copy, n, value};
    return PL_OK;
}

pl_status pl_token_lists_copy(pl_token_lists *out, const pl_token_lists *lists, pl_error *err) {
    for (size_t i = 0; i < lists->n; i++) {
        const pl_token_list *list = &lists->lists[i];
        if (pl_token_lists_add(out, list->ids, list->n, list->value, err) != PL_OK) {
            pl_token_lists_clear(out);
            return PL_ERR_MEMORY;
        }
    }
    return PL_OK;
}

void pl_token_lists_clear(pl_token_lists *lists) {
    for (size_t i = 0; i < lists->n; i++) free(lists->lists[i].ids);
    free(lists->lists);
    *lists = (pl_token_lists){0};
}

pl_status pl_token_lists_add_ends(pl_token_lists *lists, const pl_tokenizer *tok, pl_error *err) {
    pl_ids ends = {0};
    pl_status status = PL_OK;
    for (size_t id = 0; id < pl_tokenizer_n_tokens(tok) && status == PL_OK; id++)
        if (pl_tokenizer_is_end(tok, (int32_t)id) && !pl_ids_append(&ends, (int32_t)id))
            status = pl_fail(err, PL_ERR_MEMORY, "no memory for the tokens that end a text");
    if (status == PL_OK && ends.n) status = pl_token_lists_add(lists, ends.data, ends.n, 0, err);
    pl_ids_clear(&ends);
    return status;
}

static bool same_list(const pl_token_list *list, const int32_t *ids, size_t n) {
    return list->n == n && memcmp(list->ids, ids, n * sizeof *ids) == 0;
}

/* The token, whose bytes end with the text's first `inside` bytes, and tokens for what remains. */
static pl_status add_split(pl_token_lists *lists, const pl_tokenizer *tok, int32_t id,
                           const char *rest, size_t len, size_t most, pl_error *err) {
    pl_ids ids = {0};
    pl_encode_options options = pl_encode_options_default();
    options.add_special = options.parse_special = false;
    if (!pl_ids_append(&ids, id)) return pl_fail(err, PL_ERR_MEMORY, "no memory for a breaker");
    pl_status status = pl_tokenizer_encode(tok, rest, len, &options, &ids, err);
    if (ids.n > most + 1) ids.n = most + 1;
    bool known = false;
    for (size_t i = 0; i < lists->n && status == PL_OK; i++)
        known = known || same_list(&lists->lists[i], ids.data, ids.n);
    if (status == PL_OK && !known) status = pl_token_lists_add(lists, ids.data, ids.n, 0, err);
    pl_ids_clear(&ids);
    return status;
}

pl_status pl_token_lists_add_breaker(pl_token_lists *lists, const pl_tokenizer *tok,
                                     const char *text, size_t len, size_t most, pl_error *err) {
    if (len == 0) return pl_fail(err, PL_ERR_ARGUMENT, "a sequence breaker is an empty text");
    for (size_t i = 0; i < pl_tokenizer_n_tokens(tok); i++) {
        int32_t id = (int32_t)i;
        pl_bytes word = pl_tokenizer_token_bytes(tok, id);
        if (word.size >= len && memmem(word.data, word.size, text, len)) {
            if (pl_token_lists_add(lists, &id, 1, 0, err) != PL_OK) return PL_ERR_MEMORY;
            continue;
        }
        size_t inside = word.size < len - 1 ? word.size : len - 1;
        for (; inside > 0; inside--) {
            if (memcmp(word.data + word.size - inside, text, inside) != 0) continue;
            pl_status status = add_split(lists, tok, id, text + inside, len - inside, most, err);
            if (status != PL_OK) return status;
        }
    }
    return PL_OK;
}
