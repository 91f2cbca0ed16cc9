/* Sequences: the tokens so far, their keys and values, and what they wear. Passes over them are
 * session.c's. */
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "adapter.h"

pl_status pl_sequence_new(pl_sequence **out, pl_session *session, pl_error *err) {
    pl_sequence *seq = calloc(1, sizeof *seq);
    if (!seq) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a sequence");
    pl_status status = pl_adapters_copy(&seq->adapters, pl_session_adapters(session), err);
    if (status != PL_OK) {
        free(seq);
        return status;
    }
    seq->session = pl_session_retain(session);
    *out = seq;
    return PL_OK;
}

void pl_sequence_free(pl_sequence *seq) {
    if (!seq) return;
    seq->freed = true;
    if (seq->busy) return;
    pl_page_table_clear(&seq->table, pl_session_pool(seq->session));
    pl_session_free(seq->session);
    pl_adapters_free(seq->adapters);
    free(seq->tokens);
    free(seq->types);
    free(seq);
}

pl_session *pl_sequence_session(const pl_sequence *seq) {
    return seq->session;
}

int64_t pl_sequence_length(const pl_sequence *seq) {
    return seq->length;
}

const int32_t *pl_sequence_tokens(const pl_sequence *seq) {
    return seq->tokens;
}

pl_status pl_sequence_reserve_tokens(pl_sequence *seq, int64_t n, pl_error *err) {
    if (n <= seq->capacity) return PL_OK;
    int64_t capacity = n < 2 * seq->capacity ? 2 * seq->capacity : n;
    int32_t *tokens = realloc(seq->tokens, (size_t)capacity * sizeof *tokens);
    if (!tokens) return pl_fail(err, PL_ERR_MEMORY, "out of memory for tokens");
    seq->tokens = tokens;
    int32_t *types = realloc(seq->types, (size_t)capacity * sizeof *types);
    if (!types) return pl_fail(err, PL_ERR_MEMORY, "out of memory for kinds of tokens");
    seq->types = types;
    seq->capacity = capacity;
    return PL_OK;
}

pl_status pl_sequence_fork(pl_sequence **out, const pl_sequence *seq, pl_error *err) {
    pl_sequence *copy;
    pl_status status = pl_sequence_new(&copy, seq->session, err);
    if (status != PL_OK) return status;
    int64_t n = seq->busy ? seq->start_length : seq->length;
    pl_adapters_free(copy->adapters);
    status = pl_adapters_copy(&copy->adapters, seq->adapters, err);
    if (status == PL_OK) status = pl_sequence_reserve_tokens(copy, n, err);
    if (status == PL_OK) {
        status =
            pl_page_table_share(&copy->table, &seq->table, pl_session_pool(seq->session), n, err);
    }
    if (status != PL_OK) {
        pl_sequence_free(copy);
        return status;
    }
    if (n) memcpy(copy->tokens, seq->tokens, (size_t)n * sizeof *copy->tokens);
    if (n) memcpy(copy->types, seq->types, (size_t)n * sizeof *copy->types);
    copy->length = n;
    copy->n_stale = seq->n_stale;
    *out = copy;
    return PL_OK;
}

pl_status pl_sequence_check_idle(const pl_sequence *seq, pl_error *err) {
    if (!seq->busy) return PL_OK;
    return pl_fail(err, PL_ERR_STATE, "the sequence is in use by a pass that is still running");
}

pl_status pl_sequence_truncate(pl_sequence *seq, int64_t n, pl_error *err) {
    pl_status status = pl_sequence_check_idle(seq, err);
    if (status != PL_OK) return status;
    if (n < 0 || n > seq->length) {
        return pl_fail(err, PL_ERR_ARGUMENT, "truncate to %lld: expected 0 to %lld", (long long)n,
                       (long long)seq->length);
    }
    seq->length = n;
    if (seq->n_stale > n) seq->n_stale = n;
    return PL_OK;
}

pl_status pl_sequence_reserve(pl_sequence *seq, int64_t n, pl_error *err) {
    int64_t n_ctx = pl_session_get_options(seq->session)->n_ctx;
    if (n < 0 || n > n_ctx) {
        return pl_fail(err, PL_ERR_ARGUMENT, "%lld positions: expected 0 to %lld (n_ctx)",
                       (long long)n, (long long)n_ctx);
    }
    pl_status status = pl_sequence_reserve_tokens(seq, n, err);
    if (status != PL_OK) return status;
    return pl_page_table_reserve(&seq->table, pl_session_pool(seq->session), n, err);
}

/* -- adapters ------------------------------------------------------------------------------- */

pl_status pl_sequence_set_adapter(pl_sequence *seq, pl_adapter *adapter, float scale,
                                  pl_error *err) {
    const pl_model *model = pl_session_model(seq->session);
    pl_status status = pl_sequence_check_idle(seq, err);
    if (status == PL_OK && pl_adapters_scale(seq->adapters, adapter) == scale) return PL_OK;
    if (status == PL_OK) status = pl_adapters_set(&seq->adapters, model, adapter, scale, err);
    if (status == PL_OK) seq->n_stale = seq->length;
    return status;
}

size_t pl_sequence_adapters(const pl_sequence *seq, pl_adapter_use *uses, size_t n) {
    size_t worn = seq->adapters ? (size_t)seq->adapters->n : 0;
    if (uses && worn) memcpy(uses, seq->adapters->uses, (n < worn ? n : worn) * sizeof *uses);
    return worn;
}

int64_t pl_sequence_stale(const pl_sequence *seq) {
    return seq->n_stale;
}
