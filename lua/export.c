/* model:save */
#include <string.h>

#include "../engine/model/export.h"
#include "common.h"
#include "handles.h"

/* A text option, or NULL. [-0, +1, v]: the value stays on the stack, which keeps it alive. */
static const char *opt_text(lua_State *L, int idx, const char *name) {
    if (lua_isnoneornil(L, idx)) {
        lua_pushnil(L);
        return NULL;
    }
    lua_getfield(L, idx, name);
    if (lua_isnil(L, -1)) return NULL;
    if (lua_type(L, -1) != LUA_TSTRING) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s is a %s: expected a string", name,
                    luaL_typename(L, -1));
    }
    return lua_tostring(L, -1);
}

static pl_save_format check_format(lua_State *L, const char *name) {
    if (!name) return PL_SAVE_BY_NAME;
    if (strcmp(name, "gguf") == 0) return PL_SAVE_GGUF;
    if (strcmp(name, "safetensors") == 0) return PL_SAVE_SAFETENSORS;
    pl_lua_fail(L, PL_ERR_ARGUMENT, "format = '%s': expected 'gguf' or 'safetensors'", name);
}

/* model:save(path [, {format, dtype, name, tokenizer}]) */
static int save(lua_State *L) {
    static const char *const known[] = {"format", "dtype", "name", "tokenizer", NULL};
    pl_lua_model *m = pl_lua_check_model(L, 1);
    const char *path = luaL_checkstring(L, 2);
    lua_settop(L, 3);
    pl_lua_check_options(L, 3, known);
    pl_save_options options = {.format = check_format(L, opt_text(L, 3, "format"))};
    const char *dtype = opt_text(L, 3, "dtype");
    options.cast = dtype;
    if (dtype && !pl_dtype_find(dtype, &options.dtype)) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "dtype = '%s': expected 'f32', 'f16' or 'bf16'", dtype);
    }
    bool tokenizer = true;
    pl_lua_opt_bool(L, 3, "tokenizer", &tokenizer);
    options.without_tokenizer = !tokenizer;
    options.name = opt_text(L, 3, "name");
    pl_error err;
    if (pl_model_save(m->model, path, &options, &err) != PL_OK) pl_lua_raise(L, &err);
    return 0;
}

void pl_lua_open_export(lua_State *L) {
    lua_getfield(L, -1, "types");
    lua_getfield(L, -1, PL_LUA_MODEL);
    lua_pushcfunction(L, save);
    lua_setfield(L, -2, "save");
    lua_pop(L, 2);
}
