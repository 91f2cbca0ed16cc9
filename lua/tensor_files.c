/* Files of named tensors: pl.load_tensors, pl.save_tensors. */
#include <stdlib.h>
#include <string.h>

#include "../engine/format/gguf_write.h"
#include "../engine/format/weights_file.h"
#include "common.h"
#include "handles.h"
#include "tensor.h"

#define FILE_TYPE "perilune.weights_file"

static int close_file(lua_State *L) {
    pl_weights_file_close(luaL_checkudata(L, 1, FILE_TYPE));
    return 0;
}

/* Pushes a copy of tensor i in a type that is computed with: float32, or as it is where it holds
 * integers. */
static void push_copy(lua_State *L, const pl_weights_file *file, size_t i) {
    pl_tensor t, out;
    pl_error err;
    pl_call c;
    pl_lua_begin_call(L, &c);
    if (pl_weights_file_tensor(file, i, &t, &err) != PL_OK) pl_lua_raise(L, &err);
    bool whole = t.dtype == PL_I32 || t.dtype == PL_I64;
    if (pl_tensor_new(&out, whole ? t.dtype : PL_F32, t.n_dims, t.shape, &err) != PL_OK) {
        pl_lua_raise(L, &err);
    }
    pl_lua_push_tensor(L, &out);
    if (whole) {
        pl_lua_copy(L, &out, &t);
        return;
    }
    int64_t n = pl_tensor_count(&t), width = t.n_dims > 0 ? t.shape[t.n_dims - 1] : 1;
    size_t row_bytes = 0;
    if (n == 0 || !pl_dtype_row_bytes(t.dtype, (size_t)width, &row_bytes)) return;
    for (int64_t r = 0; r < n / width; r++) {
        c.kernels->to_f32[t.dtype]((float *)out.data + r * width,
                                   (const char *)t.data + (size_t)r * row_bytes, (size_t)width);
    }
}

/* Pushes a number, text or truth value; nil for arrays. */
static void push_value(lua_State *L, const pl_gguf *gguf, const pl_gguf_value *value,
                       const char *key) {
    pl_gguf_string text;
    uint64_t whole;
    double number;
    bool truth;
    int32_t negative;
    if (pl_gguf_find_string(gguf, key, &text))
        lua_pushlstring(L, text.data, text.size);
    else if (pl_gguf_find_bool(gguf, key, &truth))
        lua_pushboolean(L, truth);
    else if (pl_gguf_find_uint(gguf, key, &whole))
        lua_pushinteger(L, (lua_Integer)whole);
    else if (pl_gguf_find_float(gguf, key, &number))
        lua_pushnumber(L, number);
    else if (value->type == PL_GGUF_I32 && value->size == sizeof negative) {
        memcpy(&negative, value->data, sizeof negative);
        lua_pushinteger(L, negative);
    } else
        lua_pushnil(L);
}

/* The table of a GGUF file's metadata; of other files an empty one. */
static void push_metadata(lua_State *L, const pl_gguf *gguf) {
    lua_newtable(L);
    for (size_t i = 0; gguf && i < pl_gguf_n_values(gguf); i++) {
        const pl_gguf_value *value = pl_gguf_value_at(gguf, i);
        const char *key = lua_pushlstring(L, value->key.data, value->key.size);
        push_value(L, gguf, value, key);
        lua_settable(L, -3);
    }
}

/* load_tensors(path) -> {name = tensor}, {key = value}: a GGUF file's numbers and texts */
static int load_tensors(lua_State *L) {
    const char *path = pl_lua_check_string(L, 1, "path");
    pl_error err;
    pl_weights_file *file = lua_newuserdatauv(L, sizeof *file, 0);
    *file = (pl_weights_file){0};
    luaL_setmetatable(L, FILE_TYPE);
    if (pl_weights_file_open(file, path, &err) != PL_OK) pl_lua_raise(L, &err);
    lua_newtable(L);
    for (size_t i = 0; i < pl_weights_file_n_tensors(file); i++) {
        char name[512];
        lua_pushstring(L, pl_weights_file_name(file, i, name, sizeof name));
        push_copy(L, file, i);
        lua_settable(L, -3);
    }
    push_metadata(L, file->gguf);
    pl_weights_file_close(file);
    return 2;
}

/* -- writing -------------------------------------------------------------------------------- */

#define WRITER_TYPE "perilune.gguf_writer"

typedef struct lua_writer {
    pl_gguf_writer *writer;
} lua_writer;

static int free_writer(lua_State *L) {
    lua_writer *w = luaL_checkudata(L, 1, WRITER_TYPE);
    pl_gguf_writer_free(w->writer);
    w->writer = NULL;
    return 0;
}

/* The list of texts on top of the stack under a key. */
static void put_texts(lua_State *L, pl_gguf_writer *w, const char *key) {
    int list = lua_gettop(L);
    size_t n = (size_t)lua_rawlen(L, list);
    pl_gguf_string *texts = lua_newuserdatauv(L, n * sizeof *texts + 1, 0);
    for (size_t i = 0; i < n; i++) {
        if (lua_rawgeti(L, list, (lua_Integer)i + 1) != LUA_TSTRING) {
            pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: item %zu of the list is a %s, expected a text",
                        key, i + 1, luaL_typename(L, -1));
        }
        texts[i].data = lua_tolstring(L, -1, &texts[i].size);
        lua_pop(L, 1); /* it lives in the list */
    }
    pl_error err;
    if (pl_gguf_put_strings(w, key, texts, n, &err) != PL_OK) pl_lua_raise(L, &err);
}

/* The value on top of the stack under a key. */
static void put_value(lua_State *L, pl_gguf_writer *w, const char *key) {
    pl_error err;
    pl_status status;
    size_t size;
    int type = lua_type(L, -1);
    int64_t whole = lua_tointeger(L, -1);
    if (type == LUA_TTABLE) {
        put_texts(L, w, key);
        return;
    }
    if (type == LUA_TSTRING) {
        const char *text = lua_tolstring(L, -1, &size);
        status = pl_gguf_put_string(w, key, text, size, &err);
    } else if (type == LUA_TBOOLEAN) {
        status = pl_gguf_put_bool(w, key, lua_toboolean(L, -1), &err);
    } else if (lua_isinteger(L, -1) && whole >= 0 && whole <= UINT32_MAX) {
        status = pl_gguf_put_u32(w, key, (uint32_t)whole, &err);
    } else if (lua_isinteger(L, -1) && whole < 0 && whole >= INT32_MIN) {
        status = pl_gguf_put_i32(w, key, (int32_t)whole, &err);
    } else if (lua_isinteger(L, -1)) {
        status = pl_gguf_put_scalar(w, key, PL_GGUF_I64, &whole, &err);
    } else if (type == LUA_TNUMBER) {
        status = pl_gguf_put_f32(w, key, (float)lua_tonumber(L, -1), &err);
    } else {
        pl_lua_fail(L, PL_ERR_ARGUMENT,
                    "%s is a %s: expected a number, text, list of texts or truth value", key,
                    luaL_typename(L, -1));
    }
    if (status != PL_OK) pl_lua_raise(L, &err);
}

/* Names in a list at `names`, values in the table at `values`: item i as (key, value) on top. */
static const char *push_item(lua_State *L, int names, int values, lua_Integer i) {
    lua_rawgeti(L, names, i);
    const char *key = pl_lua_check_string(L, -1, "a name");
    lua_pushvalue(L, -1);
    lua_rawget(L, values);
    return key;
}

/* save_gguf(path, names, tensors, keys, metadata): names and keys list, in the order of the file,
 * what the tables hold */
static int save_gguf(lua_State *L) {
    const char *path = pl_lua_check_string(L, 1, "path");
    for (int i = 2; i <= 5; i++) luaL_checktype(L, i, LUA_TTABLE);
    lua_settop(L, 5);
    pl_error err;
    lua_writer *w = lua_newuserdatauv(L, sizeof *w, 0);
    w->writer = NULL;
    luaL_setmetatable(L, WRITER_TYPE);
    if (pl_gguf_writer_new(&w->writer, &err) != PL_OK) pl_lua_raise(L, &err);
    for (lua_Integer i = 1, n = luaL_len(L, 4); i <= n; i++) {
        put_value(L, w->writer, push_item(L, 4, 5, i));
        lua_settop(L, 6);
    }
    for (lua_Integer i = 1, n = luaL_len(L, 2); i <= n; i++) {
        const char *name = push_item(L, 2, 3, i);
        const pl_tensor *t = pl_lua_check_numbers(L, lua_gettop(L));
        if (pl_gguf_put_tensor(w->writer, name, t, &err) != PL_OK) pl_lua_raise(L, &err);
        lua_settop(L, 6);
    }
    if (pl_gguf_writer_save(w->writer, path, &err) != PL_OK) pl_lua_raise(L, &err);
    return 0;
}

/* save_safetensors(path, names, tensors) */
static int save_safetensors(lua_State *L) {
    const char *path = pl_lua_check_string(L, 1, "path");
    luaL_checktype(L, 2, LUA_TTABLE);
    luaL_checktype(L, 3, LUA_TTABLE);
    size_t n = (size_t)luaL_len(L, 2);
    pl_safetensors_item *items = lua_newuserdatauv(L, n * sizeof *items + 1, 0);
    for (size_t i = 0; i < n; i++) {
        luaL_checkstack(L, 2, "too many tensors");
        const char *name = push_item(L, 2, 3, (lua_Integer)i + 1);
        const pl_tensor *t = pl_lua_check_numbers(L, lua_gettop(L));
        items[i] = (pl_safetensors_item){.name = name, .tensor = t};
        lua_pop(L, 2); /* both live in the tables */
    }
    pl_error err;
    if (pl_safetensors_write(path, items, n, NULL, 0, &err) != PL_OK) pl_lua_raise(L, &err);
    return 0;
}

static void new_metatable(lua_State *L, const char *name, lua_CFunction finish) {
    luaL_newmetatable(L, name);
    lua_pushcfunction(L, finish);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
}

void pl_lua_open_tensor_files(lua_State *L) {
    static const luaL_Reg functions[] = {{"load_tensors", load_tensors},
                                         {"save_gguf", save_gguf},
                                         {"save_safetensors", save_safetensors},
                                         {NULL, NULL}};
    new_metatable(L, FILE_TYPE, close_file);
    new_metatable(L, WRITER_TYPE, free_writer);
    luaL_setfuncs(L, functions, 0);
}
