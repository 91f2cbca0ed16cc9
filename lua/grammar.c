/* Grammars: where a text stands in one, and what may come next.
 *
 * A grammar for Lua is a state: made at the beginning of a text, moved on by accept, copied by
 * fork. The rules, the vocabulary's tree and the masks are shared by copies. */
#include <math.h>
#include <string.h>

#include "../engine/base/error.h"
#include "../engine/sample/grammar_sampler.h"
#include "common.h"
#include "handles.h"
#include "tensor.h"
#include "type.h"

typedef struct grammar {
    pl_grammar_state *state; /* NULL when closed */
} grammar;

typedef struct vocabulary {
    pl_token_trie *trie;
} vocabulary;

#define VOCABULARY "perilune.vocabulary"

static pl_grammar_state *check(lua_State *L, int arg) {
    const grammar *g = luaL_checkudata(L, arg, PL_LUA_GRAMMAR);
    if (!g->state) pl_lua_fail(L, PL_ERR_STATE, "the grammar is closed");
    return g->state;
}

void *pl_lua_test_grammar(lua_State *L, int arg) {
    return luaL_testudata(L, arg, PL_LUA_GRAMMAR);
}

pl_status pl_lua_apply_grammar(void *userdata, pl_candidates *c, pl_error *err) {
    const grammar *g = userdata;
    if (!g->state) return pl_fail(err, PL_ERR_STATE, "grammar: it is closed");
    return pl_grammar_state_apply(g->state, c, err);
}

pl_status pl_lua_accept_grammar(void *userdata, int32_t id, pl_error *err) {
    const grammar *g = userdata;
    if (!g->state) return pl_fail(err, PL_ERR_STATE, "grammar: it is closed");
    return pl_grammar_state_accept(g->state, id, err);
}

static grammar *push(lua_State *L) {
    grammar *g = lua_newuserdatauv(L, sizeof *g, 0);
    g->state = NULL;
    luaL_setmetatable(L, PL_LUA_GRAMMAR);
    return g;
}

static int free_grammar(lua_State *L) {
    grammar *g = luaL_checkudata(L, 1, PL_LUA_GRAMMAR);
    pl_grammar_state_free(g->state);
    g->state = NULL;
    return 0;
}

/* -- vocabularies: made once for each tokenizer, and kept as long as it --------------------- */

static const char tries_key; /* of the registry: {tokenizer = vocabulary}, weak */

static int free_vocabulary(lua_State *L) {
    vocabulary *v = luaL_checkudata(L, 1, VOCABULARY);
    pl_token_trie_unref(v->trie);
    v->trie = NULL;
    return 0;
}

static void push_tries(lua_State *L) {
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &tries_key) == LUA_TTABLE) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_newtable(L);
    lua_pushliteral(L, "k"), lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &tries_key);
}

/* The tree of the tokenizer at arg. [-0, +0, m] */
static pl_token_trie *find_trie(lua_State *L, int arg) {
    const pl_tokenizer *tok = pl_lua_check_tokenizer(L, arg);
    push_tries(L);
    lua_pushvalue(L, arg);
    if (lua_rawget(L, -2) != LUA_TUSERDATA) {
        lua_pop(L, 1);
        vocabulary *made = lua_newuserdatauv(L, sizeof *made, 0);
        made->trie = NULL;
        luaL_setmetatable(L, VOCABULARY);
        pl_error err;
        if (pl_token_trie_new(&made->trie, tok, &err) != PL_OK) pl_lua_raise(L, &err);
        lua_pushvalue(L, arg);
        lua_pushvalue(L, -2);
        lua_rawset(L, -4);
    }
    const vocabulary *v = lua_touserdata(L, -1);
    lua_pop(L, 2); /* the table of tries keeps it */
    return v->trie;
}

/* -- making and copying -------------------------------------------------------------------- */

/* new_grammar(text, name [, tokenizer]) -> grammar at the beginning of a text */
static int new_grammar(lua_State *L) {
    size_t size;
    const char *text = luaL_checklstring(L, 1, &size), *name = luaL_checkstring(L, 2);
    lua_settop(L, 3);
    pl_token_trie *trie = lua_isnil(L, 3) ? NULL : find_trie(L, 3);
    grammar *g = push(L);
    pl_grammar *parsed = NULL;
    pl_error err;
    pl_status status = pl_grammar_parse(&parsed, text, size, name, &err);
    if (status == PL_OK) status = pl_grammar_state_new(&g->state, parsed, trie, &err);
    pl_grammar_unref(parsed);
    if (status != PL_OK) pl_lua_raise(L, &err);
    return 1;
}

static int fork_grammar(lua_State *L) {
    const pl_grammar_state *from = check(L, 1);
    grammar *g = push(L);
    pl_error err;
    if (pl_grammar_state_clone(&g->state, from, &err) != PL_OK) pl_lua_raise(L, &err);
    return 1;
}

static int reset(lua_State *L) {
    pl_grammar_state_reset(check(L, 1));
    lua_settop(L, 1);
    return 1;
}

/* g:set_prefix(text [, only]) -> g: the text must begin with these bytes, then follow the grammar;
 * with only, then be anything. */
static int set_prefix(lua_State *L) {
    size_t size;
    const char *bytes = luaL_checklstring(L, 2, &size);
    pl_error err;
    if (pl_grammar_state_set_prefix(check(L, 1), bytes, size, lua_toboolean(L, 3), &err) != PL_OK)
        pl_lua_raise(L, &err);
    lua_settop(L, 1);
    return 1;
}

/* -- moving on ----------------------------------------------------------------------------- */

static pl_status move(lua_State *L, pl_grammar_state *state, int arg, pl_error *err) {
    if (lua_type(L, arg) == LUA_TSTRING) {
        size_t size;
        const char *bytes = lua_tolstring(L, arg, &size);
        return pl_grammar_state_accept_bytes(state, bytes, size, err);
    }
    int64_t id = pl_lua_check_integer(L, arg, "a token id or a text");
    if (id < 0 || id > INT32_MAX) id = -1;
    return pl_grammar_state_accept(state, (int32_t)id, err);
}

/* g:accept(id or text) -> g; raises when it is not allowed, and nothing has changed then. */
static int accept(lua_State *L) {
    pl_error err;
    if (move(L, check(L, 1), 2, &err) != PL_OK) pl_lua_raise(L, &err);
    lua_settop(L, 1);
    return 1;
}

/* g:allows(id or text) -> boolean */
static int allows(lua_State *L) {
    const pl_grammar_state *from = check(L, 1);
    grammar *copy = push(L);
    pl_error err;
    if (pl_grammar_state_clone(&copy->state, from, &err) != PL_OK) pl_lua_raise(L, &err);
    pl_status status = move(L, copy->state, 2, &err);
    if (status != PL_OK && status != PL_ERR_ARGUMENT) pl_lua_raise(L, &err);
    pl_grammar_state_free(copy->state);
    copy->state = NULL;
    lua_pushboolean(L, status == PL_OK);
    return 1;
}

static const uint64_t *check_mask(lua_State *L, pl_grammar_state *state) {
    const uint64_t *mask;
    pl_error err;
    if (pl_grammar_state_mask(state, &mask, &err) != PL_OK) pl_lua_raise(L, &err);
    return mask;
}

/* g:allowed_ids() -> list of the ids that may come next, ascending */
static int allowed_ids(lua_State *L) {
    pl_grammar_state *state = check(L, 1);
    lua_newtable(L);
    const uint64_t *mask = check_mask(L, state);
    lua_Integer n = 0;
    for (size_t id = 0; id < pl_grammar_state_n_tokens(state); id++) {
        if (!(mask[id / 64] >> (id % 64) & 1)) continue;
        lua_pushinteger(L, (lua_Integer)id);
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

/* g:apply(logits): the logits of tokens that may not come next become -inf. */
static int apply(lua_State *L) {
    pl_grammar_state *state = check(L, 1);
    const pl_tensor *t = pl_lua_check_writable(L, 2);
    char shape[PL_SHAPE_TEXT];
    if (t->dtype != PL_F32 || t->n_dims != 1 || !pl_tensor_contiguous(t))
        pl_lua_fail(L, PL_ERR_SHAPE, "logits are %s %s: expected contiguous float32 [d_vocab]",
                    pl_dtype_get(t->dtype)->name, pl_tensor_shape_text(t, shape));
    const uint64_t *mask = check_mask(L, state);
    int64_t n = (int64_t)pl_grammar_state_n_tokens(state);
    float *logits = t->data;
    for (int64_t id = 0; id < t->shape[0]; id++)
        if (id >= n || !(mask[id / 64] >> (id % 64) & 1)) logits[id] = -INFINITY;
    lua_settop(L, 2);
    return 1;
}

static int get_may_end(lua_State *L) {
    lua_pushboolean(L, pl_grammar_state_may_end(check(L, 1)));
    return 1;
}
static int get_may_go_on(lua_State *L) {
    lua_pushboolean(L, pl_grammar_state_may_go_on(check(L, 1)));
    return 1;
}
static int get_ended(lua_State *L) {
    lua_pushboolean(L, pl_grammar_state_has_ended(check(L, 1)));
    return 1;
}

static int to_string(lua_State *L) {
    const grammar *g = luaL_checkudata(L, 1, PL_LUA_GRAMMAR);
    const char *place = !g->state                               ? "closed"
                        : pl_grammar_state_has_ended(g->state)  ? "ended"
                        : !pl_grammar_state_may_go_on(g->state) ? "complete"
                        : pl_grammar_state_may_end(g->state)    ? "may end"
                                                                : "must go on";
    lua_pushfstring(L, "grammar (%s)", place);
    return 1;
}

void pl_lua_open_grammar(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"accept", accept},         {"allows", allows},      {"allowed_ids", allowed_ids},
        {"apply", apply},           {"fork", fork_grammar},  {"reset", reset},
        {"set_prefix", set_prefix}, {"close", free_grammar}, {NULL, NULL}};
    static const luaL_Reg getters[] = {
        {"may_end", get_may_end}, {"may_go_on", get_may_go_on}, {"ended", get_ended}, {NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__gc", free_grammar}, {"__close", free_grammar}, {"__tostring", to_string}, {NULL, NULL}};
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg vocabulary_meta[] = {{"__gc", free_vocabulary}, {NULL, NULL}};
    pl_lua_new_type(L, PL_LUA_GRAMMAR, methods, getters, meta);
    pl_lua_new_type(L, VOCABULARY, none, none, vocabulary_meta);
    lua_pushcfunction(L, new_grammar);
    lua_setfield(L, -2, "new_grammar");
}
