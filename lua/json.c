/* JSON files as Lua tables. */
#include "../engine/format/json.h"

#include "common.h"
#include "handles.h"

#define JSON_TYPE "perilune.json"

enum { MOST_DEPTH = 200 };

typedef struct lua_json {
    json_t *root;
} lua_json;

static int free_json(lua_State *L) {
    lua_json *j = luaL_checkudata(L, 1, JSON_TYPE);
    json_decref(j->root);
    j->root = NULL;
    return 0;
}

static void push(lua_State *L, const json_t *value, int depth) {
    luaL_checkstack(L, 4, "JSON is nested too deep");
    if (depth > MOST_DEPTH) pl_lua_fail(L, PL_ERR_FORMAT, "JSON nested over %d deep", MOST_DEPTH);
    size_t i;
    const char *key;
    json_t *item, *object = (json_t *)value; /* the loops of Jansson know no const */
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        lua_newtable(L);
        json_object_foreach(object, key, item) {
            push(L, item, depth + 1);
            lua_setfield(L, -2, key);
        }
        break;
    case JSON_ARRAY:
        lua_newtable(L);
        json_array_foreach(value, i, item) {
            push(L, item, depth + 1);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        break;
    case JSON_STRING:
        lua_pushlstring(L, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        lua_pushinteger(L, json_integer_value(value));
        break;
    case JSON_REAL:
        lua_pushnumber(L, json_real_value(value));
        break;
    case JSON_TRUE:
        lua_pushboolean(L, 1);
        break;
    case JSON_FALSE:
        lua_pushboolean(L, 0);
        break;
    default:
        lua_pushnil(L);
    }
}

/* load_json(path) -> the object as a table; null is nil, so that lists may have holes */
static int load_json(lua_State *L) {
    const char *path = pl_lua_check_string(L, 1, "path");
    lua_json *j = lua_newuserdatauv(L, sizeof *j, 0);
    j->root = NULL;
    luaL_setmetatable(L, JSON_TYPE);
    pl_error err;
    if (pl_json_open(&j->root, path, &err) != PL_OK) pl_lua_raise(L, &err);
    push(L, j->root, 0);
    return 1;
}

void pl_lua_open_json(lua_State *L) {
    luaL_newmetatable(L, JSON_TYPE);
    lua_pushcfunction(L, free_json);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    lua_pushcfunction(L, load_json);
    lua_setfield(L, -2, "load_json");
}
