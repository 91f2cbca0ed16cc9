/* Opens models, sessions, sequences, tokenizers, hooks and samplers. */
#ifndef PL_LUA_LIBRARY_H
#define PL_LUA_LIBRARY_H

#include <lua.h>

/* Fills the table on top of the stack with their constructors; lua/perilune/library.lua makes the
 * library that scripts see of it. [-0, +0, m] */
void pl_lua_open_library(lua_State *L);

#endif
