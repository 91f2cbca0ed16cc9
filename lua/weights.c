/* Weights of models as tensors, and models with float32 weights of their own; the names that
 * scripts use are made of these in Lua. */
#include <string.h>

#include "../engine/model/widen.h"
#include "common.h"
#include "handles.h"
#include "tensor.h"

/* weight(model, name) -> float32 tensor, read-only */
static int weight(lua_State *L) {
    pl_lua_model *m = pl_lua_check_model(L, 1);
    pl_tensor t;
    pl_error err;
    if (pl_model_weight_f32(&t, m->model, luaL_checkstring(L, 2), &err) != PL_OK) {
        pl_lua_raise(L, &err);
    }
    pl_lua_push_tensor(L, &t);
    return 1;
}

/* weight_rows(model, name, ids) -> float32 [n, n_in] */
static int weight_rows(lua_State *L) {
    pl_lua_model *m = pl_lua_check_model(L, 1);
    const char *name = luaL_checkstring(L, 2);
    int64_t n;
    const int32_t *ids = pl_lua_check_ids(L, 3, m->model->tokenizer, &n);
    pl_tensor t;
    pl_error err;
    if (pl_model_weight_rows_f32(&t, m->model, name, ids, n, &err) != PL_OK) {
        pl_lua_raise(L, &err);
    }
    pl_lua_push_tensor(L, &t);
    return 1;
}

/* widen(model [, options of the default session]) -> a wide model */
static int widen(lua_State *L) {
    pl_lua_model *m = pl_lua_check_model(L, 1);
    lua_settop(L, 2);
    pl_model *wide;
    pl_error err;
    if (pl_model_new_wide(&wide, m->model, &err) != PL_OK) pl_lua_raise(L, &err);
    pl_lua_push_model(L, wide, 2);
    return 1;
}

/* set_weight(model, name, tensor) */
static int set_weight(lua_State *L) {
    pl_lua_model *m = pl_lua_check_model(L, 1);
    const char *name = luaL_checkstring(L, 2);
    const pl_tensor *values = pl_lua_check_numbers(L, 3);
    pl_error err;
    if (pl_model_set_weight(m->model, name, values, &err) != PL_OK) pl_lua_raise(L, &err);
    return 0;
}

static int is_model(lua_State *L) {
    lua_pushboolean(L, luaL_testudata(L, 1, PL_LUA_MODEL) != NULL);
    return 1;
}
static int is_sequence(lua_State *L) {
    lua_pushboolean(L, luaL_testudata(L, 1, PL_LUA_SEQUENCE) != NULL);
    return 1;
}
static int is_tensor(lua_State *L) {
    lua_pushboolean(L, luaL_testudata(L, 1, PL_LUA_TENSOR) != NULL);
    return 1;
}

void pl_lua_open_weights(lua_State *L) {
    static const luaL_Reg functions[] = {{"weight", weight},       {"weight_rows", weight_rows},
                                         {"widen", widen},         {"set_weight", set_weight},
                                         {"is_model", is_model},   {"is_sequence", is_sequence},
                                         {"is_tensor", is_tensor}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    luaL_getmetatable(L, PL_LUA_MODEL);
    lua_getfield(L, -1, "getters"); /* to which Lua adds model.W_Q and its kin */
    lua_setfield(L, -3, "model_getters");
    lua_pop(L, 1);
}
