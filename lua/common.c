#include "common.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* -- errors --------------------------------------------------------------------------------- */

static int error_to_string(lua_State *L) {
    lua_getfield(L, 1, "where");
    lua_getfield(L, 1, "message");
    lua_concat(L, 2);
    return 1;
}

/* Pushes the place of the nearest Lua function that is not part of the library. */
static void push_place(lua_State *L) {
    lua_Debug at;
    for (int level = 1; lua_getstack(L, level, &at); level++) {
        lua_getinfo(L, "Sl", &at);
        if (at.currentline > 0 && !strstr(at.short_src, "/lua/perilune/")) {
            lua_pushfstring(L, "%s:%d: ", at.short_src, at.currentline);
            return;
        }
    }
    lua_pushliteral(L, "");
}

/* Makes an error of the kind and message on top of the stack, and raises it. */
static _Noreturn void raise_object(lua_State *L) {
    lua_createtable(L, 0, 3);
    lua_insert(L, -3);
    lua_setfield(L, -3, "message");
    lua_setfield(L, -2, "kind");
    push_place(L);
    lua_setfield(L, -2, "where");
    luaL_setmetatable(L, PL_LUA_ERROR);
    lua_error(L);
    __builtin_unreachable();
}

void pl_lua_raise(lua_State *L, const pl_error *err) {
    lua_pushstring(L, pl_status_name(err->status));
    lua_pushstring(L, err->message);
    raise_object(L);
}

void pl_lua_fail(lua_State *L, pl_status status, const char *format, ...) {
    pl_error err = {.status = status};
    va_list args;
    va_start(args, format);
    vsnprintf(err.message, sizeof err.message, format, args);
    va_end(args);
    pl_lua_raise(L, &err);
}

/* Text that shows the value at arg, short; stays on the stack. */
static const char *shown(lua_State *L, int arg) {
    int type = lua_type(L, arg);
    if (type == LUA_TNUMBER) return luaL_tolstring(L, arg, NULL);
    if (type == LUA_TNONE || type == LUA_TNIL) return "nothing";
    return lua_pushfstring(L, "a %s", luaL_typename(L, arg));
}

double pl_lua_check_number(lua_State *L, int arg, const char *what) {
    if (lua_type(L, arg) != LUA_TNUMBER) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: expected a number, got %s", what, shown(L, arg));
    }
    return lua_tonumber(L, arg);
}

int64_t pl_lua_check_integer(lua_State *L, int arg, const char *what) {
    int whole;
    lua_Integer n = lua_tointegerx(L, arg, &whole);
    if (!whole || lua_type(L, arg) != LUA_TNUMBER) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: expected a whole number, got %s", what, shown(L, arg));
    }
    return n;
}

const char *pl_lua_check_string(lua_State *L, int arg, const char *what) {
    if (lua_type(L, arg) != LUA_TSTRING) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: expected a text, got %s", what, shown(L, arg));
    }
    return lua_tostring(L, arg);
}

void pl_lua_check_table(lua_State *L, int arg, const char *what) {
    if (!lua_istable(L, arg)) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: expected a table, got %s", what, shown(L, arg));
    }
}

/* fail(kind, format, ...) */
static int lua_fail(lua_State *L) {
    luaL_checkstring(L, 1);
    lua_getglobal(L, "string");
    lua_getfield(L, -1, "format");
    lua_replace(L, -2);
    lua_insert(L, 2);
    lua_call(L, lua_gettop(L) - 2, 1);
    raise_object(L);
}

/* -- options -------------------------------------------------------------------------------- */

void pl_lua_check_options(lua_State *L, int idx, const char *const *known) {
    if (lua_isnoneornil(L, idx)) return;
    if (!lua_istable(L, idx)) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "expected a table of options, got a %s",
                    luaL_typename(L, idx));
    }
    idx = lua_absindex(L, idx);
    size_t n = 0;
    while (known[n]) n++;
    lua_pushnil(L);
    while (lua_next(L, idx)) {
        lua_pop(L, 1);
        if (lua_isinteger(L, -1)) continue;
        const char *key = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "?";
        bool found = false;
        for (size_t i = 0; i < n && !found; i++) found = strcmp(key, known[i]) == 0;
        if (found) continue;
        const char *near = pl_nearest_name(key, known, n);
        if (near) {
            pl_lua_fail(L, PL_ERR_ARGUMENT, "unknown option '%s', did you mean '%s'?", key, near);
        }
        pl_lua_fail(L, PL_ERR_ARGUMENT, "unknown option '%s'", key);
    }
}

/* The names of the list at idx, as C strings that the list keeps alive. [-0, +1, m] */
static const char **list_names(lua_State *L, int idx, size_t *n) {
    *n = (size_t)lua_rawlen(L, idx);
    const char **names = lua_newuserdatauv(L, (*n + 1) * sizeof *names, 0);
    for (size_t i = 0; i < *n; i++) {
        lua_rawgeti(L, idx, (lua_Integer)i + 1);
        names[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    return names;
}

/* check_options(what, options or nil, known [, synonyms]) -> options, {} for nil. An unknown key
 * raises and names what it is called here, or the nearest. */
static int lua_check_options(lua_State *L) {
    const char *what = luaL_checkstring(L, 1);
    lua_settop(L, 4);
    if (lua_isnil(L, 2)) {
        lua_newtable(L);
        return 1;
    }
    if (!lua_istable(L, 2)) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: expected a table of options, got a %s", what,
                    luaL_typename(L, 2));
    }
    size_t n;
    const char **known = list_names(L, 3, &n);
    lua_pushnil(L);
    while (lua_next(L, 2)) {
        lua_pop(L, 1);
        const char *key =
            lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : luaL_typename(L, -1);
        bool found = false;
        for (size_t i = 0; i < n && !found; i++) found = strcmp(key, known[i]) == 0;
        if (found) continue;
        if (lua_istable(L, 4) && lua_getfield(L, 4, key) == LUA_TSTRING) {
            pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: '%s' is called '%s' here", what, key,
                        lua_tostring(L, -1));
        }
        const char *near = pl_nearest_name(key, known, n);
        pl_lua_fail(L, PL_ERR_ARGUMENT,
                    near ? "%s: unknown option '%s', did you mean '%s'?"
                         : "%s: unknown option '%s'%.0s",
                    what, key, near ? near : "");
    }
    lua_settop(L, 2);
    return 1;
}

/* Pushes the option; false, with nothing pushed, when it is absent. */
static bool get_option(lua_State *L, int idx, const char *name) {
    if (!lua_istable(L, idx)) return false;
    if (lua_getfield(L, idx, name) != LUA_TNIL) return true;
    lua_pop(L, 1);
    return false;
}

void pl_lua_opt_bool(lua_State *L, int idx, const char *name, bool *out) {
    if (!get_option(L, idx, name)) return;
    if (!lua_isboolean(L, -1)) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: expected true or false, got a %s", name,
                    luaL_typename(L, -1));
    }
    *out = lua_toboolean(L, -1);
    lua_pop(L, 1);
}

void pl_lua_opt_integer(lua_State *L, int idx, const char *name, int64_t *out) {
    if (!get_option(L, idx, name)) return;
    int whole;
    *out = lua_tointegerx(L, -1, &whole);
    if (!whole || lua_type(L, -1) != LUA_TNUMBER) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s = %s: expected a whole number", name,
                    luaL_tolstring(L, -1, NULL));
    }
    lua_pop(L, 1);
}

void pl_lua_opt_number(lua_State *L, int idx, const char *name, double *out) {
    if (!get_option(L, idx, name)) return;
    if (lua_type(L, -1) != LUA_TNUMBER) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: expected a number, got a %s", name,
                    luaL_typename(L, -1));
    }
    *out = lua_tonumber(L, -1);
    lua_pop(L, 1);
}

/* -- memory --------------------------------------------------------------------------------- */

/* Bytes behind all userdata of a state, and where the next collection is due. */
typedef struct memory {
    size_t bytes, limit;
} memory;

enum { LEAST_LIMIT = 64 << 20 };

static const char memory_key;

static memory *get_memory(lua_State *L) {
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &memory_key) != LUA_TUSERDATA) {
        memory *m = lua_newuserdatauv(L, sizeof *m, 0);
        *m = (memory){0, LEAST_LIMIT};
        lua_replace(L, -2);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &memory_key);
    }
    memory *m = lua_touserdata(L, -1); /* the registry keeps it */
    lua_pop(L, 1);
    return m;
}

void pl_lua_add_bytes(lua_State *L, size_t n) {
    memory *m = get_memory(L);
    m->bytes += n;
    if (m->bytes < m->limit) return;
    lua_gc(L, LUA_GCCOLLECT);
    m->limit = 2 * m->bytes < LEAST_LIMIT ? LEAST_LIMIT : 2 * m->bytes;
}

void pl_lua_drop_bytes(lua_State *L, size_t n) {
    memory *m = get_memory(L);
    m->bytes = m->bytes > n ? m->bytes - n : 0;
}

void pl_lua_open_common(lua_State *L) {
    luaL_newmetatable(L, PL_LUA_ERROR);
    lua_pushcfunction(L, error_to_string);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
    lua_pushcfunction(L, lua_fail);
    lua_setfield(L, -2, "fail");
    lua_pushcfunction(L, lua_check_options);
    lua_setfield(L, -2, "check_options");
}
