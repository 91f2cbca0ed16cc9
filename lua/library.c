/* Small functions for the Lua library, and the opening of everything that concerns models. */
#include "library.h"

#include <lauxlib.h>
#include <time.h>

#include "../engine/base/error.h"
#include "../engine/base/random.h"
#include "architecture.h"
#include "common.h"
#include "download.h"
#include "folders.h"
#include "grad.h"
#include "handles.h"
#include "interrupt.h"

/* nearest(name, list) -> the likely meaning, or nil */
static int nearest(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    size_t n = (size_t)lua_rawlen(L, 2);
    const char **names = lua_newuserdatauv(L, n * sizeof *names + 1, 0);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        names[i] = lua_tostring(L, -1); /* kept alive by the list */
        lua_pop(L, 1);
    }
    const char *near = pl_nearest_name(name, names, n);
    if (near)
        lua_pushstring(L, near);
    else
        lua_pushnil(L);
    return 1;
}

/* clock() -> seconds of a clock that only moves forward */
static int wall_clock(lua_State *L) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    lua_pushnumber(L, (lua_Number)now.tv_sec + 1e-9 * (lua_Number)now.tv_nsec);
    return 1;
}

/* uniform(seed, stream, counter) -> a number in [0, 1) that depends on these three only */
static int uniform(lua_State *L) {
    pl_random random = {(uint64_t)luaL_checkinteger(L, 1), (uint64_t)luaL_checkinteger(L, 2),
                        (uint64_t)luaL_checkinteger(L, 3)};
    lua_pushnumber(L, pl_random_uniform_f64(&random));
    return 1;
}

/* clear_interrupt() -> whether Ctrl-C had been pressed */
static int clear_interrupt(lua_State *L) {
    lua_pushboolean(L, pl_lua_interrupt_clear());
    return 1;
}

void pl_lua_open_library(lua_State *L) {
    static const luaL_Reg functions[] = {{"nearest", nearest},
                                         {"clock", wall_clock},
                                         {"uniform", uniform},
                                         {"clear_interrupt", clear_interrupt},
                                         {"list_folder", pl_lua_list_folder},
                                         {"make_folder", pl_lua_make_folder},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    pl_lua_open_architecture(L);
    pl_lua_open_model(L);
    pl_lua_open_session(L);
    pl_lua_open_sequence(L);
    pl_lua_open_tokenizer(L);
    pl_lua_open_trainer(L);
    pl_lua_open_hooks(L);
    pl_lua_open_sampler(L);
    pl_lua_open_plugins(L);
    pl_lua_open_grammar(L);
    pl_lua_open_partial(L);
    pl_lua_open_export(L);
    pl_lua_open_weights(L);
    pl_lua_open_adapters(L);
    pl_lua_open_grad(L);
    pl_lua_open_tensor_files(L);
    pl_lua_open_json(L);
    pl_lua_open_download(L);
}
