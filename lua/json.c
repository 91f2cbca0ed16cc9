/* JSON for Lua: reading, through Jansson. Writing is Lua's (lua/perilune/json.lua).
 *
 * Objects become tables whose metatable has `keys`, the names in the text's order; arrays become
 * lists with one metatable for all; null becomes the light userdata NULL, which is true in Lua. */
#include <jansson.h>

#include "common.h"
#include "handles.h"

typedef struct box {
    json_t *root;
} box;

enum { MAX_BYTES = 1 << 28 };

static int box_gc(lua_State *L) {
    box *b = lua_touserdata(L, 1);
    json_decref(b->root);
    b->root = NULL;
    return 0;
}

/* Freed by the collector when an error unwinds. */
static box *push_box(lua_State *L) {
    box *b = lua_newuserdatauv(L, sizeof *b, 0);
    b->root = NULL;
    if (luaL_newmetatable(L, "perilune.json")) {
        lua_pushcfunction(L, box_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return b;
}

static void push_value(lua_State *L, json_t *value, int array_meta);

static void push_object(lua_State *L, json_t *object, int array_meta) {
    int n = (int)json_object_size(object);
    lua_createtable(L, 0, n);
    lua_createtable(L, 0, 1);
    lua_createtable(L, n, 0);
    lua_Integer i = 0;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        lua_pushlstring(L, json_object_iter_key(it), json_object_iter_key_len(it));
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, ++i);
        push_value(L, json_object_iter_value(it), array_meta);
        lua_rawset(L, -5);
    }
    lua_setfield(L, -2, "keys");
    lua_setmetatable(L, -2);
}

/* Jansson limits the depth to 2,048. */
static void push_value(lua_State *L, json_t *value, int array_meta) {
    luaL_checkstack(L, 8, "JSON");
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        push_object(L, value, array_meta);
        break;
    case JSON_ARRAY:
        lua_createtable(L, (int)json_array_size(value), 0);
        for (size_t i = 0; i < json_array_size(value); i++) {
            push_value(L, json_array_get(value, i), array_meta);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        lua_pushvalue(L, array_meta);
        lua_setmetatable(L, -2);
        break;
    case JSON_STRING:
        lua_pushlstring(L, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        lua_pushinteger(L, (lua_Integer)json_integer_value(value));
        break;
    case JSON_REAL:
        lua_pushnumber(L, (lua_Number)json_real_value(value));
        break;
    case JSON_TRUE:
        lua_pushboolean(L, 1);
        break;
    case JSON_FALSE:
        lua_pushboolean(L, 0);
        break;
    default:
        lua_pushlightuserdata(L, NULL);
        break;
    }
}

/* json_decode(text, array_metatable, name) -> value; raises with line and column. */
static int decode(lua_State *L) {
    size_t size;
    json_error_t why;
    const char *text = luaL_checklstring(L, 1, &size);
    luaL_checktype(L, 2, LUA_TTABLE);
    const char *name = luaL_optstring(L, 3, "JSON");
    lua_settop(L, 3);
    if (size > MAX_BYTES)
        pl_lua_fail(L, PL_ERR_FORMAT, "%s: %d bytes at most", name, (int)MAX_BYTES);
    box *b = push_box(L);
    b->root =
        json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &why);
    if (!b->root)
        pl_lua_fail(L, PL_ERR_FORMAT, "%s: line %d, column %d: %s", name, why.line, why.column,
                    why.text);
    push_value(L, b->root, 2);
    return 1;
}

void pl_lua_open_json(lua_State *L) {
    lua_pushcfunction(L, decode);
    lua_setfield(L, -2, "json_decode");
}
