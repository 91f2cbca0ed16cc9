/* The plugins of this state: one set of shared libraries, and the folders they lie in. Where to
 * look and what Lua files mean is decided in lua/perilune/plugins.lua. */
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../engine/sample/plugin.h"
#include "chain.h"
#include "common.h"
#include "handles.h"
#include "type.h"

#define PL_LUA_PLUGINS "perilune.plugins" /* type, and key of the set in the registry */

static int free_plugins(lua_State *L) {
    pl_plugins_clear(luaL_checkudata(L, 1, PL_LUA_PLUGINS));
    return 0;
}

/* Leaves the set on the stack. */
static pl_plugins *push_set(lua_State *L) {
    if (lua_getfield(L, LUA_REGISTRYINDEX, "perilune.plugins.set") == LUA_TUSERDATA)
        return luaL_checkudata(L, -1, PL_LUA_PLUGINS);
    lua_pop(L, 1);
    pl_plugins *set = lua_newuserdatauv(L, sizeof *set, 0);
    *set = (pl_plugins){0};
    luaL_setmetatable(L, PL_LUA_PLUGINS);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, "perilune.plugins.set");
    return set;
}

const pl_sampler_kind *pl_lua_find_plugin(lua_State *L, const char *name) {
    const pl_sampler_kind *kind = pl_plugins_find(push_set(L), name);
    lua_pop(L, 1);
    return kind;
}

static void push_plugin(lua_State *L, const pl_plugin *plugin) {
    pl_lua_push_kind(L, pl_plugin_kind(plugin));
    lua_pushstring(L, pl_plugin_path(plugin)), lua_setfield(L, -2, "path");
    lua_pushinteger(L, pl_plugin_abi(plugin)), lua_setfield(L, -2, "abi");
}

/* load_plugin(path) -> {name, summary, params, path, abi, ...}, or nil and why not. */
static int load_plugin(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    pl_error err;
    pl_plugins *set = push_set(L);
    pl_status status = pl_plugins_load(set, path, &err);
    if (status == PL_OK) {
        push_plugin(L, set->list[set->n - 1]);
        return 1;
    }
    lua_pushnil(L);
    lua_pushstring(L, err.message);
    return 2;
}

/* clear_plugins(): lets go of all; chains that use one keep it alive. */
static int clear_plugins(lua_State *L) {
    pl_plugins_clear(push_set(L));
    return 0;
}

/* fail_unknown(name, others): no sampler has that name; others: names beside the built-in ones. */
static int fail_unknown(lua_State *L) {
    enum { MOST = 64 };
    const char *names[MOST], *name = luaL_checkstring(L, 1);
    size_t n = 0;
    pl_error err;
    luaL_checktype(L, 2, LUA_TTABLE);
    for (lua_Integer i = 1; n < MOST && lua_rawgeti(L, 2, i) == LUA_TSTRING; i++) {
        names[n++] = lua_tostring(L, -1); /* kept alive by the table */
        lua_pop(L, 1);
    }
    pl_sampler_unknown(name, names, n, &err);
    pl_lua_raise(L, &err);
}

static const char own_address; /* lies in the same file as this code */

/* own_folder() -> where the program lies, or the module where that runs in another program. */
static int own_folder(lua_State *L) {
    char path[PATH_MAX];
    Dl_info info;
    bool known = false;
    if (dladdr(&own_address, &info) && info.dli_fname && strstr(info.dli_fname, ".so")) {
        known = realpath(info.dli_fname, path) != NULL;
    } else {
        ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
        known = n > 0;
        if (known) path[n] = 0;
    }
    char *slash = known ? strrchr(path, '/') : NULL;
    if (slash)
        lua_pushlstring(L, path, (size_t)(slash - path));
    else
        lua_pushnil(L);
    return 1;
}

void pl_lua_open_plugins(lua_State *L) {
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", free_plugins}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"load_plugin", load_plugin},
                                         {"clear_plugins", clear_plugins},
                                         {"own_folder", own_folder},
                                         {"fail_unknown", fail_unknown},
                                         {NULL, NULL}};
    pl_lua_new_type(L, PL_LUA_PLUGINS, none, none, meta);
    luaL_setfuncs(L, functions, 0);
}
