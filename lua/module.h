/* The module "perilune", in the program and in a stock lua5.4. */
#ifndef PL_LUA_MODULE_H
#define PL_LUA_MODULE_H

#include <lua.h>

/* Pushes the library's table. [-0, +1, e] */
__attribute__((visibility("default"))) int luaopen_perilune(lua_State *L);

#endif
