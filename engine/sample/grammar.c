/* Grammars and where a text stands in one: see grammar.h. */
#include "grammar.h"

#include "../base/error.h"
#include "grammar_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pl_grammar_state {
    pl_gcache *cache;
    uint32_t place; /* in the grammar, after the prefix */
    bool ended;
    bool only;        /* nothing but the prefix is asked for */
    char *prefix;     /* [n_prefix], or NULL */
    size_t n_prefix;  /* bytes that are still to come */
    uint64_t *masked; /* the mask while there are some, made when asked for */
};

/* -- grammars ------------------------------------------------------------------------------ */

pl_status pl_grammar_parse(pl_grammar **out, const char *text, size_t size, const char *name,
                           pl_error *err) {
    pl_gtree tree = {.text = text, .size = size, .name = name};
    pl_grammar *grammar = calloc(1, sizeof *grammar);
    pl_status status = grammar ? PL_OK : pl_fail(err, PL_ERR_MEMORY, "%s: out of memory", name);
    if (grammar) grammar->n_refs = 1;
    if (status == PL_OK) status = pl_gtree_parse(&tree, err);
    if (status == PL_OK) status = pl_gtree_check(&tree, err);
    if (status == PL_OK) status = pl_grammar_compile(grammar, &tree, err);
    pl_gtree_clear(&tree);
    if (status != PL_OK) {
        pl_grammar_unref(grammar);
        return status;
    }
    *out = grammar;
    return PL_OK;
}

pl_grammar *pl_grammar_ref(pl_grammar *grammar) {
    grammar->n_refs++;
    return grammar;
}

void pl_grammar_unref(pl_grammar *grammar) {
    if (!grammar || --grammar->n_refs > 0) return;
    free(grammar->code);
    free(grammar->sets);
    free(grammar);
}

/* -- states -------------------------------------------------------------------------------- */

static pl_status make_state(pl_grammar_state **out, pl_gcache *cache, pl_error *err) {
    pl_grammar_state *state = calloc(1, sizeof *state);
    if (!state) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a grammar's state");
    *state = (pl_grammar_state){.cache = cache, .place = cache->start};
    *out = state;
    return PL_OK;
}

pl_status pl_grammar_state_new(pl_grammar_state **out, pl_grammar *grammar, pl_token_trie *trie,
                               pl_error *err) {
    pl_gcache *cache;
    pl_status status = pl_gcache_new(&cache, grammar, trie, err);
    if (status != PL_OK) return status;
    status = make_state(out, cache, err);
    if (status != PL_OK) pl_gcache_unref(cache);
    return status;
}

pl_status pl_grammar_state_clone(pl_grammar_state **out, const pl_grammar_state *state,
                                 pl_error *err) {
    pl_status status = make_state(out, state->cache, err);
    if (status != PL_OK) return status;
    pl_grammar_state *copy = *out;
    copy->cache->n_refs++;
    copy->place = state->place;
    copy->ended = state->ended;
    copy->only = state->only;
    if (state->n_prefix == 0) return PL_OK;
    status = pl_grammar_state_set_prefix(copy, state->prefix, state->n_prefix, state->only, err);
    if (status != PL_OK) pl_grammar_state_free(copy);
    return status;
}

void pl_grammar_state_free(pl_grammar_state *state) {
    if (!state) return;
    pl_gcache_unref(state->cache);
    free(state->prefix);
    free(state->masked);
    free(state);
}

void pl_grammar_state_reset(pl_grammar_state *state) {
    state->place = state->cache->start;
    state->ended = state->only = false;
    state->n_prefix = 0;
}

size_t pl_grammar_state_n_tokens(const pl_grammar_state *state) {
    return state->cache->trie ? state->cache->trie->n_tokens : 0;
}

bool pl_grammar_state_may_end(const pl_grammar_state *state) {
    if (state->ended || pl_grammar_state_is_free(state)) return true;
    return state->n_prefix == 0 && state->cache->places[state->place].accepts;
}

bool pl_grammar_state_may_go_on(const pl_grammar_state *state) {
    if (state->ended) return false;
    return state->n_prefix > 0 || state->only || state->cache->places[state->place].n > 0;
}

bool pl_grammar_state_has_ended(const pl_grammar_state *state) {
    return state->ended;
}

/* -- masks --------------------------------------------------------------------------------- */

pl_status pl_grammar_state_set_prefix(pl_grammar_state *state, const char *bytes, size_t size,
                                      bool only, pl_error *err) {
    char *copy = malloc(size + 1);
    if (!copy) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a prefix of %zu bytes", size);
    memcpy(copy, bytes, size);
    free(state->prefix);
    free(state->masked);
    state->prefix = copy;
    state->n_prefix = size;
    state->masked = NULL;
    state->only = only;
    return PL_OK;
}

size_t pl_grammar_state_n_prefix(const pl_grammar_state *state) {
    return state->n_prefix;
}

bool pl_grammar_state_is_free(const pl_grammar_state *state) {
    return state->only && state->n_prefix == 0;
}

pl_status pl_grammar_state_mask(pl_grammar_state *state, const uint64_t **mask, pl_error *err) {
    pl_gcache *cache = state->cache;
    if (!cache->trie) return pl_fail(err, PL_ERR_STATE, "this grammar's state has no vocabulary");
    if (state->ended) {
        *mask = cache->last_mask;
        return PL_OK;
    }
    if (state->n_prefix == 0 && !state->only) return pl_gcache_mask(cache, state->place, mask, err);
    if (!state->masked) {
        size_t n_words = cache->trie->n_tokens / 64 + 1;
        uint64_t *made = calloc(n_words, sizeof *made);
        if (!made) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a mask of tokens");
        pl_status status = PL_OK;
        if (state->n_prefix == 0)
            memset(made, 0xFF, n_words * sizeof *made);
        else
            status = pl_gcache_prefix_mask(cache, state->place, state->prefix, state->n_prefix,
                                           state->only, made, err);
        if (status != PL_OK) {
            free(made);
            return status;
        }
        state->masked = made;
    }
    *mask = state->masked;
    return PL_OK;
}

/* A cache that has grown too big is left to those who still use it; this state takes a new one. */
static pl_status renew(pl_grammar_state *state, pl_error *err) {
    pl_gcache *fresh, *old = state->cache;
    uint32_t place;
    pl_status status = pl_gcache_new(&fresh, old->grammar, old->trie, err);
    if (status != PL_OK) return status;
    status = pl_gcache_copy_place(fresh, old, state->place, &place, err);
    if (status != PL_OK) {
        pl_gcache_unref(fresh);
        return status;
    }
    pl_gcache_unref(old);
    state->cache = fresh;
    state->place = place;
    return PL_OK;
}

/* The bytes as people may read them: a character that cannot be printed as \xHH. */
static void show(char *out, size_t room, const char *bytes, size_t size) {
    size_t used = 0;
    for (size_t i = 0; i < size && used + 8 < room; i++) {
        uint8_t byte = (uint8_t)bytes[i];
        if (byte < 0x20 || byte == 0x7F)
            used += (size_t)snprintf(out + used, room - used, "\\x%02X", byte);
        else
            out[used++] = (char)byte;
    }
    out[used] = 0;
}

static pl_status fail_not_allowed(const char *bytes, size_t size, pl_error *err) {
    char shown[80];
    show(shown, sizeof shown, bytes, size);
    return pl_fail(err, PL_ERR_ARGUMENT, "the grammar does not allow '%s' here", shown);
}

/* Forgets n bytes of the prefix, which have come. */
static void drop_prefix(pl_grammar_state *state, size_t n) {
    state->n_prefix -= n;
    memmove(state->prefix, state->prefix + n, state->n_prefix);
    free(state->masked);
    state->masked = NULL;
}

pl_status pl_grammar_state_accept_bytes(pl_grammar_state *state, const char *bytes, size_t size,
                                        pl_error *err) {
    if (state->ended) return pl_fail(err, PL_ERR_ARGUMENT, "the grammar's text has ended");
    if (pl_gcache_is_full(state->cache)) {
        pl_status status = renew(state, err);
        if (status != PL_OK) return status;
    }
    size_t shared = size < state->n_prefix ? size : state->n_prefix;
    if (shared > 0 && memcmp(bytes, state->prefix, shared) != 0)
        return fail_not_allowed(bytes, size, err);
    uint32_t place = state->place;
    for (size_t i = shared; i < size && !state->only; i++) {
        pl_status status = pl_gcache_move(state->cache, place, (uint8_t)bytes[i], &place, err);
        if (status != PL_OK) return status;
        if (place == PL_GPLACE_DEAD) return fail_not_allowed(bytes, size, err);
    }
    if (shared > 0) drop_prefix(state, shared);
    state->place = place;
    return PL_OK;
}

pl_status pl_grammar_state_accept(pl_grammar_state *state, int32_t id, pl_error *err) {
    const pl_token_trie *trie = state->cache->trie;
    size_t i = (size_t)id;
    if (!trie || id < 0 || i >= trie->n_tokens)
        return pl_fail(err, PL_ERR_ARGUMENT, "token %d is not in the vocabulary", id);
    if (trie->ends[i / 64] >> (i % 64) & 1) {
        if (state->ended || !pl_grammar_state_may_end(state))
            return pl_fail(err, PL_ERR_ARGUMENT, "the grammar does not allow the text to end here");
        state->ended = true;
        return PL_OK;
    }
    uint32_t size = trie->start[i + 1] - trie->start[i];
    if (size == 0 && pl_grammar_state_is_free(state)) return PL_OK;
    if (size == 0) return pl_fail(err, PL_ERR_ARGUMENT, "token %d has no text", id);
    return pl_grammar_state_accept_bytes(state, trie->bytes + trie->start[i], size, err);
}
