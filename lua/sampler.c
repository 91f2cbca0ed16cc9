/* Chains of samplers: built-in ones by name, functions of Lua anywhere between them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../engine/base/error.h"
#include "../engine/sample/chain.h"
#include "common.h"
#include "handles.h"
#include "tensor.h"
#include "type.h"

/* Uservalues: 1 the functions, by their place in the chain from 1; 2 the model or nil. */
typedef struct chain {
    pl_chain chain;
    pl_candidates candidates;
    float *original; /* [n_vocab]: the logits as the model gave them */
    uint64_t seed, stream;
    lua_State *L; /* whose call runs now; NULL outside of calls */
} chain;
enum { UV_FUNCTIONS = 1, UV_MODEL, N_UV = 2 };

static int free_chain(lua_State *L) {
    chain *c = luaL_checkudata(L, 1, PL_LUA_CHAIN);
    if (c->L) return 0;
    pl_chain_clear(&c->chain);
    pl_candidates_clear(&c->candidates);
    free(c->original);
    c->original = NULL;
    return 0;
}

/* -- functions of Lua as samplers ---------------------------------------------------------- */

/* While a chain runs, its call's stack holds: */
enum { AT_CHAIN = 1, AT_LOGITS, AT_POS, AT_CONTEXT, AT_FUNCTIONS };

typedef struct function {
    chain *owner;
    lua_Integer place;
} function;

/* Stack: candidates, function, logits, context. Nothing returned: the logits were edited in place;
 * an integer is the choice; a tensor takes the place of the logits. */
static int call(lua_State *L) {
    pl_candidates *c = lua_touserdata(L, 1);
    lua_pushvalue(L, 3);
    lua_insert(L, 2);
    lua_call(L, 2, 1);
    if (lua_isnil(L, 3)) return 0;
    if (lua_type(L, 3) == LUA_TNUMBER) {
        int whole;
        lua_Integer id = lua_tointegerx(L, 3, &whole);
        if (!whole || id < 0 || id >= c->n_vocab)
            pl_lua_fail(L, PL_ERR_ARGUMENT, "a sampler chose token %s: expected 0 to %lld",
                        luaL_tolstring(L, 3, NULL), (long long)c->n_vocab - 1);
        c->chosen = (int32_t)id;
        return 0;
    }
    pl_lua_replace(L, pl_lua_check_writable(L, 2), 3, "a sampler");
    return 0;
}

/* A failure leaves the error object on the stack, for chain:sample to raise. */
static pl_status apply(void *state, const double *params, pl_candidates *c, pl_error *err) {
    (void)params;
    const function *f = state;
    lua_State *L = f->owner->L;
    if (!lua_checkstack(L, 8)) return pl_fail(err, PL_ERR_MEMORY, "samplers are nested too deep");
    lua_pushcfunction(L, call);
    lua_pushlightuserdata(L, c);
    lua_rawgeti(L, AT_FUNCTIONS, f->place);
    lua_pushvalue(L, AT_LOGITS);
    lua_pushvalue(L, AT_CONTEXT);
    if (lua_pcall(L, 4, 0, 0) == LUA_OK) return PL_OK;
    return pl_fail(err, PL_ERR_CALLBACK, "a sampler failed");
}

static const pl_sampler_kind function_kind = {
    .name = "function", .foreign = true, .apply = apply, .free = free};

/* -- building ------------------------------------------------------------------------------ */

static void append(lua_State *L, chain *c, const pl_sampler *sampler) {
    pl_error err;
    if (pl_chain_add(&c->chain, sampler, &err) != PL_OK) pl_lua_raise(L, &err);
}

/* The function on top of the stack; functions is the index of their table. */
static void append_function(lua_State *L, chain *c, int functions) {
    function *f = malloc(sizeof *f);
    if (!f) pl_lua_fail(L, PL_ERR_MEMORY, "out of memory for a chain of samplers");
    *f = (function){c, (lua_Integer)c->chain.n + 1};
    append(L, c, &(pl_sampler){.kind = &function_kind, .state = f});
    lua_pushvalue(L, -1);
    lua_rawseti(L, functions, f->place);
}

static void append_named(lua_State *L, chain *c, const char *name) {
    pl_sampler sampler;
    pl_error err;
    if (pl_sampler_init(&sampler, name, &err) != PL_OK) pl_lua_raise(L, &err);
    append(L, c, &sampler);
}

static pl_status apply_grammar(void *state, const double *params, pl_candidates *c, pl_error *err) {
    (void)params;
    return pl_lua_apply_grammar(state, c, err);
}

static const pl_sampler_kind grammar_kind = {.name = "grammar", .apply = apply_grammar};

/* The grammar on top of the stack, which stays the script's: who chooses tells it what. */
static void append_grammar(lua_State *L, chain *c, int functions) {
    append(L, c, &(pl_sampler){.kind = &grammar_kind, .state = pl_lua_test_grammar(L, -1)});
    lua_pushvalue(L, -1);
    lua_rawseti(L, functions, (lua_Integer)c->chain.n);
}

/* {temp = 0.8}, or {"temp", temp = 0.8}: the table on top of the stack. */
static void append_table(lua_State *L, chain *c) {
    pl_sampler sampler = {0};
    pl_error err;
    int table = lua_gettop(L);
    if (lua_rawgeti(L, table, 1) == LUA_TSTRING &&
        pl_sampler_init(&sampler, lua_tostring(L, -1), &err) != PL_OK)
        pl_lua_raise(L, &err);
    lua_pop(L, 1);
    lua_pushnil(L);
    while (lua_next(L, table)) {
        if (lua_type(L, -2) == LUA_TSTRING) {
            const char *key = lua_tostring(L, -2);
            if (!sampler.kind && pl_sampler_init(&sampler, key, &err) != PL_OK)
                pl_lua_raise(L, &err);
            if (lua_type(L, -1) != LUA_TNUMBER)
                pl_lua_fail(L, PL_ERR_ARGUMENT, "%s = %s: expected a number", key,
                            luaL_tolstring(L, -1, NULL));
            if (pl_sampler_set(&sampler, key, lua_tonumber(L, -1), &err) != PL_OK)
                pl_lua_raise(L, &err);
        } else if (!sampler.kind || lua_tointeger(L, -2) != 1) {
            pl_lua_fail(L, PL_ERR_ARGUMENT,
                        "a sampler is a name, a function, {name = value} or {name, param = value}");
        }
        lua_pop(L, 1);
    }
    if (!sampler.kind) pl_lua_fail(L, PL_ERR_ARGUMENT, "a sampler is an empty table");
    append(L, c, &sampler);
}

/* chain(list, n_vocab, seed, stream, model or nil): each of the list is a name, {name = value},
 * {name, param = value, ...}, function(logits, context) or a grammar. */
static int new_chain(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer n_vocab = luaL_checkinteger(L, 2);
    lua_Integer seed = luaL_checkinteger(L, 3), stream = luaL_checkinteger(L, 4);
    lua_settop(L, 5);
    chain *c = lua_newuserdatauv(L, sizeof *c, N_UV);
    memset(c, 0, sizeof *c);
    luaL_setmetatable(L, PL_LUA_CHAIN);
    c->seed = (uint64_t)seed;
    c->stream = (uint64_t)stream;
    lua_pushvalue(L, 5);
    lua_setiuservalue(L, 6, UV_MODEL);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 6, UV_FUNCTIONS);
    pl_error err;
    if (pl_candidates_init(&c->candidates, n_vocab, &err) != PL_OK) pl_lua_raise(L, &err);
    c->original = malloc((size_t)n_vocab * sizeof *c->original);
    if (!c->original) pl_lua_fail(L, PL_ERR_MEMORY, "out of memory for a chain of samplers");
    for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, 1); i <= n; i++) {
        int type = lua_rawgeti(L, 1, i);
        if (type == LUA_TSTRING)
            append_named(L, c, lua_tostring(L, -1));
        else if (type == LUA_TFUNCTION)
            append_function(L, c, 7);
        else if (type == LUA_TTABLE)
            append_table(L, c);
        else if (pl_lua_test_grammar(L, -1))
            append_grammar(L, c, 7);
        else
            pl_lua_fail(L, PL_ERR_ARGUMENT, "item %lld of the chain is a %s", (long long)i,
                        lua_typename(L, type));
        lua_settop(L, 7);
    }
    lua_settop(L, 6);
    return 1;
}

/* -- sampling ------------------------------------------------------------------------------ */

static float *check_logits(lua_State *L, const chain *c) {
    const pl_tensor *t = pl_lua_check_writable(L, AT_LOGITS);
    char shape[PL_SHAPE_TEXT];
    if (t->dtype != PL_F32 || t->n_dims != 1 || t->shape[0] != c->candidates.n_vocab ||
        !pl_tensor_contiguous(t))
        pl_lua_fail(L, PL_ERR_SHAPE, "logits are %s %s: expected contiguous float32 [%lld]",
                    pl_dtype_get(t->dtype)->name, pl_tensor_shape_text(t, shape),
                    (long long)c->candidates.n_vocab);
    return t->data;
}

/* Logits of the model itself that are NaN come from its weights: says which. */
static void raise_bad_logits(lua_State *L, pl_error *err) {
    char text[256];
    lua_getiuservalue(L, AT_CHAIN, UV_MODEL);
    const pl_lua_model *m = luaL_testudata(L, -1, PL_LUA_MODEL);
    if (m && m->model && pl_model_find_bad_weight(m->model, text, sizeof text))
        pl_lua_fail(L, err->status, "%s, because the weight %s", err->message, text);
    pl_lua_raise(L, err);
}

/* chain:sample(logits, pos [, context]) -> id, prob, entropy. Edits the logits in place. prob and
 * entropy (in nats) are those of the distribution before the chain: the model's own. */
static int sample(lua_State *L) {
    chain *c = luaL_checkudata(L, AT_CHAIN, PL_LUA_CHAIN);
    pl_candidates *candidates = &c->candidates;
    lua_Integer pos = luaL_checkinteger(L, AT_POS);
    lua_settop(L, AT_CONTEXT);
    if (c->L || !c->original) pl_lua_fail(L, PL_ERR_STATE, "the chain is closed or in use");
    float *logits = check_logits(L, c);
    lua_getiuservalue(L, AT_CHAIN, UV_FUNCTIONS);
    luaL_checkstack(L, 16, NULL);
    pl_error err;
    const pl_random random = {c->seed, c->stream, 0};
    if (pl_candidates_begin(candidates, logits, random, pos, &err) != PL_OK)
        raise_bad_logits(L, &err);
    memcpy(c->original, logits, (size_t)candidates->n_vocab * sizeof *logits);
    pl_distribution own = pl_candidates_distribution(candidates);
    int32_t id;
    c->L = L;
    int top = lua_gettop(L);
    pl_status status = pl_chain_sample(&c->chain, candidates, &id, &err);
    c->L = NULL;
    if (status == PL_ERR_CALLBACK && lua_gettop(L) > top) return lua_error(L);
    if (status != PL_OK) pl_lua_raise(L, &err);
    lua_pushinteger(L, id);
    lua_pushnumber(L, exp(c->original[id] - own.log_sum));
    lua_pushnumber(L, own.entropy_nats);
    return 3;
}

/* samplers() -> list of {name, summary, chooses, params = {{name, neutral, min, max, whole}}} */
static int samplers(lua_State *L) {
    lua_newtable(L);
    for (size_t i = 0; i < pl_samplers_count(); i++) {
        const pl_sampler_kind *kind = pl_samplers_get(i);
        lua_newtable(L);
        lua_pushstring(L, kind->name), lua_setfield(L, -2, "name");
        lua_pushstring(L, kind->summary), lua_setfield(L, -2, "summary");
        lua_pushboolean(L, kind->chooses), lua_setfield(L, -2, "chooses");
        lua_newtable(L);
        for (int p = 0; p < kind->n_params; p++) {
            lua_newtable(L);
            lua_pushstring(L, kind->params[p].name), lua_setfield(L, -2, "name");
            lua_pushnumber(L, kind->params[p].neutral), lua_setfield(L, -2, "neutral");
            lua_pushnumber(L, kind->params[p].min), lua_setfield(L, -2, "min");
            lua_pushnumber(L, kind->params[p].max), lua_setfield(L, -2, "max");
            lua_pushboolean(L, kind->params[p].whole), lua_setfield(L, -2, "whole");
            lua_rawseti(L, -2, p + 1);
        }
        lua_setfield(L, -2, "params");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int to_string(lua_State *L) {
    const chain *c = luaL_checkudata(L, 1, PL_LUA_CHAIN);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addstring(&b, "chain (");
    for (size_t i = 0; i < c->chain.n; i++) {
        const pl_sampler *s = &c->chain.samplers[i];
        if (i) luaL_addstring(&b, " -> ");
        luaL_addstring(&b, s->kind->name);
        for (int p = 0; p < s->kind->n_params; p++) {
            lua_pushfstring(L, " %f", (LUAI_UACNUMBER)s->params[p]);
            luaL_addvalue(&b);
        }
    }
    luaL_addchar(&b, ')');
    luaL_pushresult(&b);
    return 1;
}

void pl_lua_open_sampler(lua_State *L) {
    static const luaL_Reg methods[] = {{"sample", sample}, {"close", free_chain}, {NULL, NULL}};
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__gc", free_chain}, {"__close", free_chain}, {"__tostring", to_string}, {NULL, NULL}};
    pl_lua_new_type(L, PL_LUA_CHAIN, methods, none, meta);
    lua_pushcfunction(L, new_chain), lua_setfield(L, -2, "new_chain");
    lua_pushcfunction(L, samplers), lua_setfield(L, -2, "samplers");
}
