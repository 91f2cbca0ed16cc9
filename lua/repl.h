/* What the program knows of its terminal and its file system, as the Lua module "perilune.host". A
 * stock Lua does not have it; what uses it does without. */
#ifndef PL_LUA_REPL_H
#define PL_LUA_REPL_H

#include <lua.h>

/* Pushes {read, add, load, save, is_terminal, width, list, make_folder, clear_interrupt}.
 * [-0, +1, m] */
int pl_lua_open_host(lua_State *L);

#endif
