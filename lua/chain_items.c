/* Samplers of a chain out of what a script wrote: built-in ones by name, functions and tables of
 * Lua, grammars. */
#include "chain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../engine/base/error.h"
#include "common.h"
#include "handles.h"
#include "tensor.h"

/* -- samplers of Lua: a function, or a table with apply, accept, reset and state --------------- */

enum { LONGEST_NAME = 64 };

typedef struct scripted {
    pl_sampler_kind kind; /* its own, for the sake of the name */
    char name[LONGEST_NAME];
    pl_lua_chain *owner;
    lua_Integer place; /* in the table of items */
} scripted;

/* Stack: candidates, item, logits, context. Nothing returned: the logits were edited in place; an
 * integer is the choice; a tensor takes the place of the logits. */
static int call_apply(lua_State *L) {
    pl_candidates *c = lua_touserdata(L, 1);
    int n = 2;
    if (lua_istable(L, 2)) {
        lua_getfield(L, 2, "apply");
        lua_getfield(L, 2, "state");
        n = 3;
    } else {
        lua_pushvalue(L, 2);
    }
    lua_pushvalue(L, 3);
    lua_pushvalue(L, 4);
    lua_call(L, n, 1);
    if (lua_isnil(L, 5)) return 0;
    if (lua_type(L, 5) == LUA_TNUMBER) {
        int whole;
        lua_Integer id = lua_tointegerx(L, 5, &whole);
        if (!whole || id < 0 || id >= c->n_vocab)
            pl_lua_fail(L, PL_ERR_ARGUMENT, "a sampler chose token %s: expected 0 to %lld",
                        luaL_tolstring(L, 5, NULL), (long long)c->n_vocab - 1);
        c->chosen = (int32_t)id;
        return 0;
    }
    pl_lua_replace(L, pl_lua_check_writable(L, 3), 5, "a sampler");
    return 0;
}

/* Puts the sampler's name before what it complained of: a text, or an error object's message. */
static void name_culprit(lua_State *L, const scripted *s) {
    if (s->kind.name != s->name) return;
    if (lua_type(L, -1) == LUA_TSTRING) {
        lua_pushfstring(L, "sampler '%s': %s", s->name, lua_tostring(L, -1));
        lua_remove(L, -2);
    } else if (lua_type(L, -1) == LUA_TTABLE) {
        lua_pushliteral(L, "message");
        lua_pushliteral(L, "message");
        if (lua_rawget(L, -3) == LUA_TSTRING) {
            lua_pushfstring(L, "sampler '%s': %s", s->name, lua_tostring(L, -1));
            lua_remove(L, -2);
            lua_rawset(L, -3);
        } else {
            lua_pop(L, 2);
        }
    }
}

/* A failure leaves the error object on the stack, for the caller to raise. */
static pl_status run(const scripted *s, int n_args, pl_error *err) {
    if (lua_pcall(s->owner->L, n_args, 0, 0) == LUA_OK) return PL_OK;
    name_culprit(s->owner->L, s);
    return pl_fail(err, PL_ERR_CALLBACK, "a sampler failed");
}

static pl_status apply_scripted(pl_sampler *self, pl_candidates *c, pl_error *err) {
    const scripted *s = self->state;
    lua_State *L = s->owner->L;
    if (!lua_checkstack(L, 8)) return pl_fail(err, PL_ERR_MEMORY, "samplers are nested too deep");
    lua_pushcfunction(L, call_apply);
    lua_pushlightuserdata(L, c);
    lua_rawgeti(L, s->owner->items, s->place);
    lua_pushvalue(L, s->owner->context);
    lua_pushvalue(L, s->owner->context + 1);
    return run(s, 4, err);
}

/* Stack: item, name of a function of it, argument or nil. What `reset` returns is the state. */
static int call_method(lua_State *L) {
    lua_pushvalue(L, 2);
    if (lua_gettable(L, 1) == LUA_TNIL) return 0;
    lua_getfield(L, 1, "state");
    lua_pushvalue(L, 3);
    lua_call(L, 2, 1);
    if (strcmp(lua_tostring(L, 2), "reset") == 0) lua_setfield(L, 1, "state");
    return 0;
}

static pl_status run_method(pl_sampler *self, const char *method, int32_t id, pl_error *err) {
    const scripted *s = self->state;
    lua_State *L = s->owner->L;
    if (!L) return PL_OK; /* while the chain is made: the item is fresh */
    if (!lua_checkstack(L, 8)) return pl_fail(err, PL_ERR_MEMORY, "samplers are nested too deep");
    if (lua_rawgeti(L, s->owner->items, s->place) != LUA_TTABLE) {
        lua_pop(L, 1);
        return PL_OK;
    }
    lua_pushcfunction(L, call_method);
    lua_insert(L, -2);
    lua_pushstring(L, method);
    lua_pushinteger(L, id);
    return run(s, 3, err);
}

static pl_status accept_scripted(pl_sampler *self, int32_t id, pl_error *err) {
    return run_method(self, "accept", id, err);
}

static pl_status reset_scripted(pl_sampler *self, pl_error *err) {
    return run_method(self, "reset", 0, err);
}

static pl_status clone_scripted(pl_sampler *copy, const pl_sampler *from, pl_error *err) {
    const scripted *original = from->state;
    scripted *s = malloc(sizeof *s);
    if (!s) return pl_fail(err, PL_ERR_MEMORY, "no memory for a sampler");
    *s = *original;
    if (original->kind.name == original->name) s->kind.name = s->name;
    copy->state = s;
    copy->kind = &s->kind;
    return PL_OK;
}

static void free_scripted(pl_sampler *self) {
    free(self->state);
}

static const pl_sampler_kind scripted_kind = {.name = "function",
                                              .foreign = true,
                                              .apply = apply_scripted,
                                              .accept = accept_scripted,
                                              .reset = reset_scripted,
                                              .clone = clone_scripted,
                                              .free = free_scripted};

/* -- grammars ---------------------------------------------------------------------------------- */

static pl_status apply_grammar(pl_sampler *self, pl_candidates *c, pl_error *err) {
    return pl_lua_apply_grammar(self->state, c, err);
}

static pl_status accept_grammar(pl_sampler *self, int32_t id, pl_error *err) {
    return pl_lua_accept_grammar(self->state, id, err);
}

static pl_status clone_grammar(pl_sampler *copy, const pl_sampler *from, pl_error *err) {
    (void)err;
    copy->state = from->state; /* until it is adopted */
    return PL_OK;
}

static const pl_sampler_kind grammar_kind = {
    .name = "grammar", .apply = apply_grammar, .accept = accept_grammar, .clone = clone_grammar};

/* -- appending --------------------------------------------------------------------------------- */

static void append(lua_State *L, pl_lua_chain *c, const pl_sampler *sampler) {
    pl_error err;
    if (pl_chain_add(&c->chain, sampler, &err) != PL_OK) pl_lua_raise(L, &err);
}

/* The value on top of the stack is the item of a sampler of that kind. */
static void append_item(lua_State *L, pl_lua_chain *c, int items, const pl_sampler *sampler) {
    lua_Integer place = (lua_Integer)c->chain.n + 1;
    append(L, c, sampler);
    lua_pushvalue(L, -1);
    lua_rawseti(L, items, place);
}

static void append_scripted(lua_State *L, pl_lua_chain *c, int items) {
    int top = lua_gettop(L);
    scripted *s = malloc(sizeof *s);
    if (!s) pl_lua_fail(L, PL_ERR_MEMORY, "out of memory for a chain of samplers");
    *s = (scripted){.kind = scripted_kind, .owner = c, .place = (lua_Integer)c->chain.n + 1};
    if (lua_istable(L, top)) {
        lua_pushliteral(L, "name");
        if (lua_rawget(L, top) == LUA_TSTRING) {
            snprintf(s->name, sizeof s->name, "%s", lua_tostring(L, -1));
            s->kind.name = s->name;
        }
        lua_pushliteral(L, "chooses");
        lua_rawget(L, top);
        s->kind.chooses = lua_toboolean(L, -1);
        lua_settop(L, top);
    }
    append_item(L, c, items, &(pl_sampler){.kind = &s->kind, .state = s});
}

/* {ids = {...}, value = n} or {text = ...} on top of the stack, an entry of a sampler's list. */
static void add_list(lua_State *L, const pl_lua_chain *c, pl_sampler *sampler) {
    const pl_sampler_lists *lists = &sampler->kind->lists;
    pl_error err;
    int entry = lua_gettop(L);
    luaL_argexpected(L, lua_istable(L, entry), entry, "a list of tokens");
    if (lua_getfield(L, entry, "text") == LUA_TSTRING) {
        size_t len;
        const char *text = lua_tolstring(L, -1, &len);
        if (!c->candidates.tokenizer)
            pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: texts need a model with a tokenizer", lists->name);
        if (pl_token_lists_add_breaker(&sampler->lists, c->candidates.tokenizer, text, len, 8,
                                       &err) != PL_OK)
            pl_lua_raise(L, &err);
        lua_pop(L, 1);
        return;
    }
    lua_getfield(L, entry, "value");
    double value = luaL_optnumber(L, -1, 0);
    lua_getfield(L, entry, "ids");
    int64_t n;
    const int32_t *ids = pl_lua_check_ids(L, lua_gettop(L), c->candidates.tokenizer, &n);
    if (pl_sampler_add_list(sampler, ids, (size_t)n, value, c->candidates.n_vocab, &err) != PL_OK)
        pl_lua_raise(L, &err);
    lua_settop(L, entry);
}

/* The parameter whose name and value are on top of the stack. */
static void set_param(lua_State *L, const pl_lua_chain *c, pl_sampler *sampler) {
    const char *key = lua_tostring(L, -2), *lists = sampler->kind->lists.name;
    pl_error err;
    if (lists && strcmp(key, lists) == 0) {
        int list = lua_gettop(L);
        if (!lua_istable(L, list))
            pl_lua_fail(L, PL_ERR_ARGUMENT, "%s = %s: expected a list", key,
                        luaL_tolstring(L, list, NULL));
        for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, list); i <= n; i++) {
            lua_rawgeti(L, list, i);
            add_list(L, c, sampler);
            lua_settop(L, list);
        }
        return;
    }
    if (lua_type(L, -1) != LUA_TNUMBER)
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s = %s: expected a number", key,
                    luaL_tolstring(L, -1, NULL));
    if (pl_sampler_set(sampler, key, lua_tonumber(L, -1), &err) != PL_OK) pl_lua_raise(L, &err);
}

/* Stack: chain, table, sampler. Raising, it leaves the sampler to its owner. */
static int fill(lua_State *L) {
    const pl_lua_chain *c = lua_touserdata(L, 1);
    pl_sampler *sampler = lua_touserdata(L, 3);
    pl_error err;
    if (lua_istable(L, 2)) {
        lua_pushnil(L);
        while (lua_next(L, 2)) {
            if (lua_type(L, -2) == LUA_TSTRING)
                set_param(L, c, sampler);
            else if (lua_tointeger(L, -2) != 1)
                pl_lua_fail(L, PL_ERR_ARGUMENT,
                            "%s: a sampler is {name, param = value, ...}: what is %s?",
                            sampler->kind->name, luaL_tolstring(L, -2, NULL));
            lua_settop(L, 4);
        }
    }
    /* An empty list that was given stays empty. */
    const pl_tokenizer *tok = c->candidates.tokenizer;
    const char *lists = sampler->kind->lists.name;
    if (lists && lua_istable(L, 2) && lua_getfield(L, 2, lists) != LUA_TNIL) tok = NULL;
    if (pl_sampler_complete(sampler, tok, c->candidates.n_vocab, &err) != PL_OK)
        pl_lua_raise(L, &err);
    return 0;
}

/* A named sampler with the parameters of the table on top of the stack, if it is one. */
static void append_named(lua_State *L, pl_lua_chain *c, const char *name) {
    const pl_sampler_kind *kind = pl_samplers_find(name);
    pl_error err;
    if (!kind) kind = pl_lua_find_plugin(L, name);
    if (!kind) kind = pl_samplers_find_by_param(name);
    if (!kind) {
        pl_sampler_unknown(name, NULL, 0, &err);
        pl_lua_raise(L, &err);
    }
    pl_sampler sampler = pl_sampler_of(kind);
    lua_pushcfunction(L, fill);
    lua_pushlightuserdata(L, c);
    lua_pushvalue(L, -3);
    lua_pushlightuserdata(L, &sampler);
    if (lua_pcall(L, 3, 0, 0) != LUA_OK) {
        pl_sampler_clear(&sampler);
        lua_error(L);
    }
    append(L, c, &sampler);
}

/* {"temp", temp = 0.8}, or {temp = 0.8}: any of its keys tells the sampler. */
static const char *name_of(lua_State *L, int table, lua_Integer place) {
    const char *name = NULL;
    if (lua_rawgeti(L, table, 1) == LUA_TSTRING) name = lua_tostring(L, -1);
    lua_pop(L, 1);
    if (name) return name;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            pl_lua_fail(L, PL_ERR_ARGUMENT,
                        "item %lld of the chain: a sampler is a name, a function, {name = value} "
                        "or {name, param = value}",
                        (long long)place);
        const char *key = lua_tostring(L, -2);
        if (!name || !pl_samplers_find(name)) name = key;
    }
    if (!name)
        pl_lua_fail(L, PL_ERR_ARGUMENT, "item %lld of the chain: a sampler is an empty table",
                    (long long)place);
    return name;
}

void pl_lua_chain_append(lua_State *L, pl_lua_chain *c, int items, lua_Integer place) {
    int top = lua_gettop(L), type = lua_type(L, top);
    if (type == LUA_TSTRING) {
        append_named(L, c, lua_tostring(L, top));
    } else if (type == LUA_TFUNCTION) {
        append_scripted(L, c, items);
    } else if (type == LUA_TTABLE) {
        int applies = lua_getfield(L, top, "apply");
        lua_settop(L, top);
        if (applies == LUA_TFUNCTION)
            append_scripted(L, c, items);
        else
            append_named(L, c, name_of(L, top, place));
    } else if (pl_lua_test_grammar(L, top)) {
        append_item(L, c, items,
                    &(pl_sampler){.kind = &grammar_kind, .state = pl_lua_test_grammar(L, top)});
    } else {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "item %lld of the chain is a %s", (long long)place,
                    lua_typename(L, type));
    }
    lua_settop(L, top);
}

void pl_lua_chain_adopt(lua_State *L, pl_lua_chain *c) {
    int items = lua_gettop(L);
    for (size_t i = 0; i < c->chain.n; i++) {
        pl_sampler *sampler = &c->chain.samplers[i];
        if (sampler->kind->apply == apply_scripted) ((scripted *)sampler->state)->owner = c;
        if (sampler->kind != &grammar_kind) continue;
        lua_rawgeti(L, items, (lua_Integer)i + 1);
        sampler->state = pl_lua_test_grammar(L, items + 1);
        if (!sampler->state)
            pl_lua_fail(L, PL_ERR_STATE, "a grammar was copied into another thing");
        lua_settop(L, items);
    }
}
