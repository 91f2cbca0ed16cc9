/* Opens the library: finds its home folder, registers the userdata types, runs its Lua part.
 *
 * The home folder holds lua/, scripts/, models/ and plugins/. It is $PERILUNE_HOME, or else found
 * from where this code lies: the source tree around build/, or PREFIX/share/perilune beside
 * PREFIX/bin or PREFIX/lib; or else where it was installed to. */
#include "module.h"

#include <dlfcn.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "library.h"
#include "tensor.h"

#define VERSION "0.1.0"

/* Whether folder/ending holds the library; if so it is left in home. */
static bool try_home(char home[PATH_MAX], const char *folder, const char *ending) {
    char file[PATH_MAX];
    int n = snprintf(home, PATH_MAX, "%s%s", folder, ending);
    int m = snprintf(file, sizeof file, "%s%s/lua/perilune/library.lua", folder, ending);
    return n > 0 && n < PATH_MAX && m > 0 && m < PATH_MAX && access(file, R_OK) == 0;
}

static const char own_address; /* lies in the same file as this code */

/* The path of the file that this function was loaded from: the module, or the program itself. */
static bool own_path(char out[PATH_MAX]) {
    Dl_info info;
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    if (n > 0) out[n] = 0;
    if (dladdr(&own_address, &info) && info.dli_fname && strstr(info.dli_fname, ".so")) {
        return realpath(info.dli_fname, out);
    }
    return n > 0;
}

static bool find_home(char home[PATH_MAX]) {
    const char *set = getenv("PERILUNE_HOME");
    if (set && *set) return try_home(home, set, "");
    char path[PATH_MAX];
    bool known = own_path(path);
    for (int up = 0; known && up < 5; up++) {
        char *slash = strrchr(path, '/');
        if (!slash) break;
        *slash = 0;
        if (try_home(home, path, "") || try_home(home, path, "/share/perilune")) return true;
    }
#ifdef PL_HOME_DIR
    return try_home(home, PL_HOME_DIR, "");
#else
    return false;
#endif
}

/* Puts <home>/lua before the places where `require` looks. */
static void extend_path(lua_State *L, const char *home) {
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_pushfstring(L, "%s/lua/?.lua;%s", home, lua_tostring(L, -1));
    lua_setfield(L, -3, "path");
    lua_pop(L, 2);
}

int luaopen_perilune(lua_State *L) {
    char home[PATH_MAX];
    if (!find_home(home)) {
        pl_lua_fail(L, PL_ERR_IO,
                    "perilune's Lua library is not found; set PERILUNE_HOME to its folder");
    }
    lua_newtable(L); /* pl */
    lua_pushstring(L, home);
    lua_setfield(L, -2, "home");
    lua_pushliteral(L, VERSION);
    lua_setfield(L, -2, "version");
    pl_lua_open_common(L);
    pl_lua_open_tensor(L);
    extend_path(L, home);

    /* Lua's part needs `require "perilune"` while it loads. */
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "perilune");
    lua_pop(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "perilune.library");
    lua_call(L, 1, 1);
    lua_pushvalue(L, -2);
    lua_newtable(L); /* core */
    pl_lua_open_library(L);
    lua_call(L, 2, 0);
    return 1;
}
