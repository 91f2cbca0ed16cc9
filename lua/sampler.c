/* Chains of samplers: building, running, copying and printing them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../engine/base/error.h"
#include "chain.h"
#include "common.h"
#include "handles.h"
#include "tensor.h"
#include "type.h"

/* The stack of a method call: the chain and its arguments. */
enum { AT_CHAIN = 1, AT_LOGITS, AT_POS, AT_CONTEXT };

static int free_chain(lua_State *L) {
    pl_lua_chain *c = luaL_checkudata(L, 1, PL_LUA_CHAIN);
    if (c->L) return 0;
    pl_chain_clear(&c->chain);
    pl_candidates_clear(&c->candidates);
    free(c->original);
    c->original = NULL;
    return 0;
}

static pl_lua_chain *check_chain(lua_State *L) {
    pl_lua_chain *c = luaL_checkudata(L, AT_CHAIN, PL_LUA_CHAIN);
    if (c->L || !c->original) pl_lua_fail(L, PL_ERR_STATE, "the chain is closed or in use");
    return c;
}

/* -- building ------------------------------------------------------------------------------ */

/* Pushes a chain without samplers; the model, or nil, is at index model. */
static pl_lua_chain *push_chain(lua_State *L, int64_t n_vocab, int model) {
    pl_lua_chain *c = lua_newuserdatauv(L, sizeof *c, PL_N_CHAIN_UV);
    int top = lua_gettop(L);
    memset(c, 0, sizeof *c);
    luaL_setmetatable(L, PL_LUA_CHAIN);
    lua_newtable(L);
    lua_setiuservalue(L, top, PL_UV_ITEMS);
    pl_error err;
    if (pl_candidates_init(&c->candidates, n_vocab, &err) != PL_OK) pl_lua_raise(L, &err);
    c->original = malloc((size_t)n_vocab * sizeof *c->original);
    if (!c->original) pl_lua_fail(L, PL_ERR_MEMORY, "out of memory for a chain of samplers");
    lua_pushvalue(L, model);
    lua_setiuservalue(L, top, PL_UV_CHAIN_MODEL);
    const pl_lua_model *m = luaL_testudata(L, model, PL_LUA_MODEL);
    if (m && m->model && lua_getiuservalue(L, model, PL_UV_TOKENIZER) == LUA_TUSERDATA) {
        c->candidates.tokenizer = pl_lua_check_tokenizer(L, -1);
        lua_setiuservalue(L, top, PL_UV_CHAIN_TOKENIZER);
    }
    lua_settop(L, top);
    return c;
}

/* chain(list, n_vocab, seed, stream, model or nil): see pl_lua_chain_append for the items. */
static int new_chain(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer n_vocab = luaL_checkinteger(L, 2);
    lua_Integer seed = luaL_checkinteger(L, 3), stream = luaL_checkinteger(L, 4);
    lua_settop(L, 5);
    pl_lua_chain *c = push_chain(L, n_vocab, 5);
    c->seed = (uint64_t)seed;
    c->stream = (uint64_t)stream;
    lua_getiuservalue(L, 6, PL_UV_ITEMS);
    for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, 1); i <= n; i++) {
        lua_rawgeti(L, 1, i);
        pl_lua_chain_append(L, c, 7, i);
        lua_settop(L, 7);
    }
    lua_settop(L, 6);
    return 1;
}

/* clone_chain(chain, copy [, stream]): copy(item) gives what a sampler of Lua is in the clone. */
static int clone_chain(lua_State *L) {
    const pl_lua_chain *from = check_chain(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_Integer stream = luaL_optinteger(L, 3, (lua_Integer)from->stream);
    lua_settop(L, 2);
    lua_getiuservalue(L, 1, PL_UV_CHAIN_MODEL);
    lua_getiuservalue(L, 1, PL_UV_ITEMS);
    pl_lua_chain *c = push_chain(L, from->candidates.n_vocab, 3);
    c->seed = from->seed;
    c->stream = (uint64_t)stream;
    lua_getiuservalue(L, 5, PL_UV_ITEMS);
    for (lua_pushnil(L); lua_next(L, 4);) {
        lua_pushvalue(L, 7);
        lua_pushvalue(L, 2);
        lua_pushvalue(L, 8);
        lua_call(L, 1, 1);
        lua_settable(L, 6);
        lua_settop(L, 7);
    }
    pl_error err;
    if (pl_chain_clone(&c->chain, &from->chain, &err) != PL_OK) pl_lua_raise(L, &err);
    lua_settop(L, 6);
    pl_lua_chain_adopt(L, c);
    lua_settop(L, 5);
    return 1;
}

/* -- sampling ------------------------------------------------------------------------------ */

/* Around the calls that may run Lua: what they need to find their items, and who raises. */
static void enter(lua_State *L, pl_lua_chain *c) {
    luaL_checkstack(L, 16, NULL);
    lua_getiuservalue(L, AT_CHAIN, PL_UV_ITEMS);
    c->items = lua_gettop(L);
    c->context = AT_LOGITS; /* with AT_POS taken out: see sample */
    c->L = L;
}

static void leave(lua_State *L, pl_lua_chain *c, pl_status status, const pl_error *err) {
    c->L = NULL;
    if (status == PL_ERR_CALLBACK && lua_gettop(L) > c->items) lua_error(L);
    if (status != PL_OK) pl_lua_raise(L, err);
}

static float *check_logits(lua_State *L, const pl_lua_chain *c) {
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
    lua_getiuservalue(L, AT_CHAIN, PL_UV_CHAIN_MODEL);
    const pl_lua_model *m = luaL_testudata(L, -1, PL_LUA_MODEL);
    if (m && m->model && pl_model_find_bad_weight(m->model, text, sizeof text))
        pl_lua_fail(L, err->status, "%s, because the weight %s", err->message, text);
    pl_lua_raise(L, err);
}

/* chain:sample(logits, pos [, context]) -> id, prob, entropy. Edits the logits in place. prob and
 * entropy (in nats) are those of the distribution before the chain: the model's own. */
static int sample(lua_State *L) {
    pl_lua_chain *c = check_chain(L);
    pl_candidates *candidates = &c->candidates;
    lua_Integer pos = luaL_checkinteger(L, AT_POS);
    lua_settop(L, AT_CONTEXT);
    float *logits = check_logits(L, c);
    pl_error err;
    const pl_random random = {c->seed, c->stream, 0};
    if (pl_candidates_begin(candidates, logits, random, pos, &err) != PL_OK)
        raise_bad_logits(L, &err);
    memcpy(c->original, logits, (size_t)candidates->n_vocab * sizeof *logits);
    pl_distribution own = pl_candidates_distribution(candidates);
    int32_t id;
    lua_remove(L, AT_POS);
    enter(L, c);
    leave(L, c, pl_chain_sample(&c->chain, candidates, &id, &err), &err);
    lua_pushinteger(L, id);
    lua_pushnumber(L, exp(c->original[id] - own.log_sum));
    lua_pushnumber(L, own.entropy_nats);
    return 3;
}

static void check_known(lua_State *L, const pl_lua_chain *c, const int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->candidates.n_vocab)
            pl_lua_fail(L, PL_ERR_ARGUMENT, "token %lld: expected 0 to %lld", (long long)ids[i],
                        (long long)c->candidates.n_vocab - 1);
}

/* chain:accept(ids): the text goes on with an id, or several. */
static int accept(lua_State *L) {
    pl_lua_chain *c = check_chain(L);
    int64_t n;
    pl_error err;
    lua_settop(L, 2);
    const int32_t *ids = pl_lua_check_ids(L, 2, c->candidates.tokenizer, &n);
    check_known(L, c, ids, n);
    enter(L, c);
    pl_status status = PL_OK;
    for (int64_t i = 0; i < n && status == PL_OK; i++)
        status = pl_chain_accept(&c->chain, ids[i], &err);
    leave(L, c, status, &err);
    return 0;
}

/* chain:reset([ids]): a new text begins with that prompt. */
static int reset(lua_State *L) {
    pl_lua_chain *c = check_chain(L);
    int64_t n = 0;
    const int32_t *ids = NULL;
    pl_error err;
    lua_settop(L, 2);
    if (!lua_isnil(L, 2)) ids = pl_lua_check_ids(L, 2, c->candidates.tokenizer, &n);
    check_known(L, c, ids, n);
    enter(L, c);
    leave(L, c, pl_chain_reset(&c->chain, ids, (size_t)n, &err), &err);
    return 0;
}

/* chain:random() -> the next number of this position in [0, 1); for samplers of Lua. */
static int draw(lua_State *L) {
    pl_lua_chain *c = luaL_checkudata(L, AT_CHAIN, PL_LUA_CHAIN);
    if (!c->L)
        pl_lua_fail(L, PL_ERR_STATE, "random numbers belong to a position: ask in a sampler");
    lua_pushnumber(L, pl_random_uniform_f64(&c->candidates.random));
    return 1;
}

void pl_lua_push_kind(lua_State *L, const pl_sampler_kind *kind) {
    lua_newtable(L);
    lua_pushstring(L, kind->name), lua_setfield(L, -2, "name");
    lua_pushstring(L, kind->summary), lua_setfield(L, -2, "summary");
    lua_pushboolean(L, kind->chooses), lua_setfield(L, -2, "chooses");
    lua_newtable(L);
    for (int p = 0; p < kind->n_params; p++) {
        const pl_sampler_param *param = &kind->params[p];
        lua_newtable(L);
        lua_pushstring(L, param->name), lua_setfield(L, -2, "name");
        lua_pushnumber(L, param->neutral), lua_setfield(L, -2, "neutral");
        lua_pushnumber(L, param->min), lua_setfield(L, -2, "min");
        lua_pushnumber(L, param->max), lua_setfield(L, -2, "max");
        lua_pushboolean(L, param->whole), lua_setfield(L, -2, "whole");
        lua_pushstring(L, param->help), lua_setfield(L, -2, "help");
        lua_rawseti(L, -2, p + 1);
    }
    lua_setfield(L, -2, "params");
    if (!kind->lists.name) return;
    lua_pushstring(L, kind->lists.name), lua_setfield(L, -2, "list");
    lua_pushboolean(L, kind->lists.valued), lua_setfield(L, -2, "valued");
    lua_pushboolean(L, kind->lists.single), lua_setfield(L, -2, "single");
}

/* samplers() -> list of {name, summary, chooses, params = {{name, neutral, min, max, whole, help}},
 * list, valued, single} */
static int samplers(lua_State *L) {
    lua_newtable(L);
    for (size_t i = 0; i < pl_samplers_count(); i++) {
        pl_lua_push_kind(L, pl_samplers_get(i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* name param = value ...: what differs from the neutral values. */
static void print_sampler(lua_State *L, luaL_Buffer *b, const pl_sampler *s) {
    for (int p = 0; p < s->kind->n_params; p++) {
        const pl_sampler_param *param = &s->kind->params[p];
        if (s->params[p] == param->neutral && s->kind->n_params > 1) continue;
        bool same = strcmp(param->name, s->kind->name) == 0;
        char text[64];
        snprintf(text, sizeof text, "%.6g", s->params[p]);
        lua_pushfstring(L, same ? " %s%s" : " %s = %s", same ? "" : param->name, text);
        luaL_addvalue(b);
    }
    if (s->lists.n > 0 && s->kind->lists.otherwise == PL_LISTS_NOTHING) {
        lua_pushfstring(L, " (%d)", (int)s->lists.n);
        luaL_addvalue(b);
    }
}

static int to_string(lua_State *L) {
    const pl_lua_chain *c = luaL_checkudata(L, 1, PL_LUA_CHAIN);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addstring(&b, "chain (");
    for (size_t i = 0; i < c->chain.n; i++) {
        if (i) luaL_addstring(&b, " -> ");
        luaL_addstring(&b, c->chain.samplers[i].kind->name);
        print_sampler(L, &b, &c->chain.samplers[i]);
    }
    luaL_addchar(&b, ')');
    luaL_pushresult(&b);
    return 1;
}

void pl_lua_open_sampler(lua_State *L) {
    static const luaL_Reg methods[] = {{"sample", sample}, {"accept", accept},    {"reset", reset},
                                       {"random", draw},   {"close", free_chain}, {NULL, NULL}};
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__gc", free_chain}, {"__close", free_chain}, {"__tostring", to_string}, {NULL, NULL}};
    pl_lua_new_type(L, PL_LUA_CHAIN, methods, none, meta);
    lua_pushcfunction(L, new_chain), lua_setfield(L, -2, "new_chain");
    lua_pushcfunction(L, clone_chain), lua_setfield(L, -2, "clone_chain");
    lua_pushcfunction(L, samplers), lua_setfield(L, -2, "samplers");
}
