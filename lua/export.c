/* model:save */
#include <string.h>
#include <strings.h>

#include "../engine/model/model.h"
#include "common.h"
#include "handles.h"
#include "tensor.h"

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

/* A type's name; with _m at its end, one of llama.cpp's mixes. */
static void check_dtype(lua_State *L, const char *name, pl_save_options *options) {
    if (!name) return;
    size_t length = strlen(name);
    options->cast = true;
    options->mixed = length > 2 && strcasecmp(name + length - 2, "_m") == 0;
    lua_pushlstring(L, name, options->mixed ? length - 2 : length);
    if (!pl_dtype_find(lua_tostring(L, -1), &options->dtype)) {
        pl_lua_fail(L, PL_ERR_ARGUMENT,
                    "dtype = '%s': expected f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k, q5_1, q5_0, "
                    "q4_k_m, q4_k, q4_1, q4_0, q3_k or q2_k",
                    name);
    }
    lua_pop(L, 1);
}

/* The option `importance`: a table from the names of matrices to float32 tensors [n_in]. */
typedef struct importance_table {
    lua_State *L;
    int index;
} importance_table;

static void check_importance(lua_State *L, int index) {
    luaL_checkstack(L, 4, NULL);
    if (!lua_istable(L, index)) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "importance is a %s: expected a table of tensors",
                    luaL_typename(L, index));
    }
    lua_pushnil(L);
    while (lua_next(L, index)) {
        const pl_tensor *t = pl_lua_check_tensor(L, lua_gettop(L));
        if (lua_type(L, -2) != LUA_TSTRING || t->dtype != PL_F32 || t->n_dims != 1 ||
            !pl_tensor_contiguous(t)) {
            pl_lua_fail(L, PL_ERR_ARGUMENT,
                        "importance: expected contiguous float32 tensors [n_in] by name");
        }
        lua_pop(L, 1);
    }
}

/* The table was checked; a matrix of another width has no importance in it. */
static const float *importance_of(void *context, const char *name, int64_t n_in) {
    const importance_table *table = context;
    const pl_tensor *t = NULL;
    lua_pushstring(table->L, name);
    if (lua_rawget(table->L, table->index) != LUA_TNIL)
        t = pl_lua_check_tensor(table->L, lua_gettop(table->L));
    lua_pop(table->L, 1);
    return t && t->shape[0] == n_in ? t->data : NULL;
}

/* model:save(path [, {format, dtype, name, tokenizer, importance}]) */
static int save(lua_State *L) {
    static const char *const known[] = {"format", "dtype", "name", "tokenizer", "importance", NULL};
    pl_lua_model *m = pl_lua_check_model(L, 1);
    const char *path = luaL_checkstring(L, 2);
    lua_settop(L, 3);
    pl_lua_check_options(L, 3, known);
    pl_save_options options = {.format = check_format(L, opt_text(L, 3, "format"))};
    check_dtype(L, opt_text(L, 3, "dtype"), &options);
    bool tokenizer = true;
    pl_lua_opt_bool(L, 3, "tokenizer", &tokenizer);
    options.without_tokenizer = !tokenizer;
    options.name = opt_text(L, 3, "name");
    lua_pushnil(L);
    if (lua_istable(L, 3)) lua_getfield(L, 3, "importance");
    importance_table table = {L, lua_gettop(L)};
    if (!lua_isnil(L, -1)) {
        check_importance(L, table.index);
        options.importance = importance_of;
        options.importance_context = &table;
    }
    pl_error err;
    if (pl_model_save(m->model, path, &options, &err) != PL_OK) pl_lua_raise(L, &err);
    return 0;
}

/* check_dtype([name]): raises where save would not know the type. */
static int check_dtype_name(lua_State *L) {
    pl_save_options options = {0};
    check_dtype(L, luaL_optstring(L, 1, NULL), &options);
    return 0;
}

void pl_lua_open_export(lua_State *L) {
    lua_pushcfunction(L, check_dtype_name);
    lua_setfield(L, -2, "check_dtype");
    lua_getfield(L, -1, "types");
    lua_getfield(L, -1, PL_LUA_MODEL);
    lua_pushcfunction(L, save);
    lua_setfield(L, -2, "save");
    lua_pop(L, 2);
}
