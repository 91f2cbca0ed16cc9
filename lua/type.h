/* Userdata types with methods and computed fields. */
#ifndef PL_LUA_TYPE_H
#define PL_LUA_TYPE_H

#include <lauxlib.h>
#include <lua.h>

/* Makes the metatable `name`: methods[key](self, ...) and getters[key](self) answer self.key;
 * another key raises and names the nearest. The Lua library adds its own to the table of methods,
 * which becomes types[name] in the table on top of the stack. [-0, +0, m] */
void pl_lua_new_type(lua_State *L, const char *name, const luaL_Reg *methods,
                     const luaL_Reg *getters, const luaL_Reg *meta);

#endif
