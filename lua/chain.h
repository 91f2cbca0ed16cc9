/* The userdata of a chain, for the two files that bind it: sampler.c runs chains, chain_items.c
 * makes samplers of what a script wrote. */
#ifndef PL_LUA_CHAIN_H
#define PL_LUA_CHAIN_H

#include <lauxlib.h>
#include <lua.h>

#include "../engine/sample/chain.h"

/* Uservalues: 1 what the samplers of Lua are made of (functions, tables, grammars), by their place
 * in the chain from 1; 2 the model or nil; 3 its tokenizer or nil. */
typedef struct pl_lua_chain {
    pl_chain chain;
    pl_candidates candidates;
    float *original; /* [n_vocab]: the logits as the model gave them; NULL when closed */
    uint64_t seed, stream;
    lua_State *L; /* whose call runs now; NULL outside of calls */
    int items;    /* index in L's stack of uservalue 1 during a call */
    int context;  /* and of the logits, with the context after them, while sampling */
} pl_lua_chain;
enum { PL_UV_ITEMS = 1, PL_UV_CHAIN_MODEL, PL_UV_CHAIN_TOKENIZER, PL_N_CHAIN_UV = 3 };

/* Appends the sampler that the value on top of the stack describes: a name, {name, param = value,
 * list = {{ids = {...}, value = n}, ...}}, a function, {name =, apply =, accept =, state =} or a
 * grammar. items: index of uservalue 1. place: where it stands, for messages. [-0, +0, v] */
void pl_lua_chain_append(lua_State *L, pl_lua_chain *c, int items, lua_Integer place);

/* After a clone: the samplers of `c` belong to it, and grammars are those of the items on top of
 * the stack. [-0, +0, m] */
void pl_lua_chain_adopt(lua_State *L, pl_lua_chain *c);

/* Pushes {name, summary, chooses, params, list}. [-0, +1, m] */
void pl_lua_push_kind(lua_State *L, const pl_sampler_kind *kind);

/* The sampler of that name among the plugins that are loaded, or NULL. [-0, +0, m] */
const pl_sampler_kind *pl_lua_find_plugin(lua_State *L, const char *name);

#endif
