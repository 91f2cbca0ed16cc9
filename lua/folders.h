/* Folders, for Lua: functions of Lua's kind. */
#ifndef PL_LUA_FOLDERS_H
#define PL_LUA_FOLDERS_H

#include <lua.h>

int pl_lua_list_folder(lua_State *L); /* (folder) -> names in it, folders with a slash at the end */
int pl_lua_make_folder(lua_State *L); /* (path) -> whether it is there now */

#endif
