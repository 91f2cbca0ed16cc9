/* Userdata types: see type.h. */
#include "type.h"

#include <string.h>

#include "../engine/base/error.h"
#include "common.h"

enum { MOST_NAMES = 256 };

static size_t collect(lua_State *L, int table, const char **names, size_t n) {
    lua_pushnil(L);
    while (lua_next(L, table)) {
        lua_pop(L, 1);
        if (n < MOST_NAMES && lua_type(L, -1) == LUA_TSTRING) names[n++] = lua_tostring(L, -1);
    }
    return n;
}

static int unknown(lua_State *L) {
    const char *names[MOST_NAMES], *type = lua_tostring(L, lua_upvalueindex(3));
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
    const char *dot = strrchr(type, '.');
    type = dot ? dot + 1 : type;
    luaL_checkstack(L, 8, NULL);
    size_t n = collect(L, lua_upvalueindex(1), names, 0);
    n = collect(L, lua_upvalueindex(2), names, n);
    const char *near = pl_nearest_name(key, names, n);
    if (near)
        pl_lua_fail(L, PL_ERR_ARGUMENT, "a %s has no field or method '%s'; did you mean '%s'?",
                    type, key, near);
    pl_lua_fail(L, PL_ERR_ARGUMENT, "a %s has no field or method '%s'", type, key);
}

/* Upvalues: methods, getters, name. */
static int get(lua_State *L) {
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(2)) == LUA_TNIL) return unknown(L);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

void pl_lua_new_type(lua_State *L, const char *name, const luaL_Reg *methods,
                     const luaL_Reg *getters, const luaL_Reg *meta) {
    luaL_newmetatable(L, name);
    luaL_setfuncs(L, meta, 0);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    luaL_getsubtable(L, -3, "types");
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
    lua_newtable(L);
    luaL_setfuncs(L, getters, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -4, "getters"); /* of the metatable: completion in the session lists them */
    lua_pushvalue(L, -2);
    lua_setfield(L, -4, "methods");
    lua_pushstring(L, name);
    lua_pushcclosure(L, get, 3);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
