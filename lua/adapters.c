/* Low-rank adapters: loading, making, saving, and putting them on sessions and sequences. */
#include <string.h>

#include "../engine/model/adapter.h"
#include "../engine/tensor/grad.h"
#include "common.h"
#include "handles.h"
#include "tensor.h"
#include "type.h"

#define PL_LUA_ADAPTER "perilune.adapter"

/* In the registry: {lightuserdata of a pl_adapter = its userdata}, weak. */
#define KNOWN "perilune.adapters"

typedef struct adapter {
    pl_adapter *adapter; /* NULL when closed */
} adapter;

static pl_adapter *check_adapter(lua_State *L, int arg) {
    adapter *a = luaL_checkudata(L, arg, PL_LUA_ADAPTER);
    if (!a->adapter) pl_lua_fail(L, PL_ERR_STATE, "the adapter is closed");
    return a->adapter;
}

static void push_known(lua_State *L) {
    if (luaL_getsubtable(L, LUA_REGISTRYINDEX, KNOWN)) return;
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

static adapter *push_closed(lua_State *L) {
    adapter *a = lua_newuserdatauv(L, sizeof *a, 0);
    a->adapter = NULL;
    luaL_setmetatable(L, PL_LUA_ADAPTER);
    return a;
}

/* The userdata on top of the stack is the one of its adapter. */
static int enlist(lua_State *L) {
    const adapter *a = lua_touserdata(L, -1);
    push_known(L);
    lua_pushvalue(L, -2);
    lua_rawsetp(L, -2, a->adapter);
    lua_pop(L, 1);
    return 1;
}

/* Pushes the userdata of an adapter that something else holds. */
static void push_adapter(lua_State *L, pl_adapter *worn) {
    push_known(L);
    const adapter *known = lua_rawgetp(L, -1, worn) == LUA_TNIL ? NULL : lua_touserdata(L, -1);
    if (!known || !known->adapter) {
        lua_pop(L, 1);
        push_closed(L)->adapter = pl_adapter_retain(worn);
        enlist(L);
    }
    lua_remove(L, -2);
}

/* model:load_adapter(path) */
static int load(lua_State *L) {
    pl_lua_model *m = pl_lua_check_model(L, 1);
    const char *path = pl_lua_check_string(L, 2, "load_adapter");
    adapter *a = push_closed(L);
    pl_error err;
    if (pl_adapter_load(&a->adapter, m->model, path, &err) != PL_OK) pl_lua_raise(L, &err);
    return enlist(L);
}

enum { MAX_TARGETS = 64 };

/* The field targets, a name or a list of names; they stay on the stack. NULL: none are named. */
static const char *const *read_targets(lua_State *L, int options, const char **list, size_t *n) {
    *n = 0;
    int type = lua_getfield(L, options, "targets");
    if (type == LUA_TNIL) return NULL;
    if (type == LUA_TSTRING) {
        list[(*n)++] = lua_tostring(L, -1);
        return list;
    }
    if (type != LUA_TTABLE || lua_rawlen(L, -1) < 1 || lua_rawlen(L, -1) > MAX_TARGETS) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "targets: expected a name or a list of 1 to %d names",
                    MAX_TARGETS);
    }
    int table = lua_gettop(L);
    luaL_checkstack(L, MAX_TARGETS, "targets");
    for (lua_Integer i = 1; i <= (lua_Integer)lua_rawlen(L, table); i++) {
        if (lua_rawgeti(L, table, i) != LUA_TSTRING) {
            pl_lua_fail(L, PL_ERR_ARGUMENT, "targets: item %d is a %s, expected a name", (int)i,
                        luaL_typename(L, -1));
        }
        list[(*n)++] = lua_tostring(L, -1);
    }
    return list;
}

/* model:new_adapter{rank = 8, alpha = 16, targets = {...}, seed = 0} */
static int new_adapter(lua_State *L) {
    static const char *const known[] = {"rank", "alpha", "targets", "seed", NULL};
    pl_lua_model *m = pl_lua_check_model(L, 1);
    lua_settop(L, 2);
    if (lua_isnil(L, 2)) {
        lua_newtable(L);
        lua_replace(L, 2);
    }
    pl_lua_check_options(L, 2, known);
    int64_t rank = 8, seed = 0;
    pl_lua_opt_integer(L, 2, "rank", &rank);
    pl_lua_opt_integer(L, 2, "seed", &seed);
    double alpha = 2 * (double)rank;
    pl_lua_opt_number(L, 2, "alpha", &alpha);
    const char *list[MAX_TARGETS];
    size_t n;
    const char *const *targets = read_targets(L, 2, list, &n);
    adapter *a = push_closed(L);
    pl_error err;
    if (pl_adapter_new(&a->adapter, m->model, targets, n, rank, (float)alpha, (uint64_t)seed,
                       &err) != PL_OK) {
        pl_lua_raise(L, &err);
    }
    return enlist(L);
}

static int close(lua_State *L) {
    adapter *a = luaL_checkudata(L, 1, PL_LUA_ADAPTER);
    pl_adapter_free(a->adapter);
    a->adapter = NULL;
    return 0;
}

/* adapter:save(path) */
static int save(lua_State *L) {
    pl_error err;
    const char *path = pl_lua_check_string(L, 2, "save");
    if (pl_adapter_save(check_adapter(L, 1), path, &err) != PL_OK) pl_lua_raise(L, &err);
    return 0;
}

static void push_name(lua_State *L, const pl_adapter *a, const pl_pair *pair) {
    const pl_family *family = pl_model_family(a->model);
    char name[160];
    pl_target_name(name, sizeof name, &pair->target, family->model_type);
    lua_pushstring(L, name);
}

/* adapter:matrices() -> list of {name, rank, scale, n_in, n_out} */
static int matrices(lua_State *L) {
    const pl_adapter *a = check_adapter(L, 1);
    lua_createtable(L, (int)a->n_pairs, 0);
    for (size_t i = 0; i < a->n_pairs; i++) {
        const pl_pair *pair = &a->pairs[i];
        lua_createtable(L, 0, 5);
        push_name(L, a, pair), lua_setfield(L, -2, "name");
        lua_pushinteger(L, pair->a.shape[0]), lua_setfield(L, -2, "rank");
        lua_pushnumber(L, (double)pair->scale), lua_setfield(L, -2, "scale");
        lua_pushinteger(L, pair->target.n_in), lua_setfield(L, -2, "n_in");
        lua_pushinteger(L, pair->target.n_out), lua_setfield(L, -2, "n_out");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static void push_parameter(lua_State *L, const pl_adapter *a, const pl_pair *pair, bool b) {
    pl_tensor t = b ? pair->b : pair->a;
    lua_createtable(L, 0, 2);
    push_name(L, a, pair);
    lua_pushstring(L, b ? ".lora_B" : ".lora_A");
    lua_concat(L, 2);
    lua_setfield(L, -2, "name");
    pl_tensor_retain(&t);
    pl_lua_push_tensor(L, &t);
    lua_setfield(L, -2, "tensor");
}

/* adapter:parameters() -> list of {name, tensor}: A and B of every matrix, themselves */
static int parameters(lua_State *L) {
    const pl_adapter *a = check_adapter(L, 1);
    lua_createtable(L, 2 * (int)a->n_pairs, 0);
    for (size_t i = 0; i < 2 * a->n_pairs; i++) {
        push_parameter(L, a, &a->pairs[i / 2], i % 2);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int get_name(lua_State *L) {
    lua_pushstring(L, check_adapter(L, 1)->name);
    return 1;
}

static int64_t n_params_of(const pl_adapter *a) {
    int64_t n = 0;
    for (size_t i = 0; i < a->n_pairs; i++) {
        n += pl_tensor_count(&a->pairs[i].a) + pl_tensor_count(&a->pairs[i].b);
    }
    return n;
}

static int get_n_params(lua_State *L) {
    lua_pushinteger(L, n_params_of(check_adapter(L, 1)));
    return 1;
}

static int to_string(lua_State *L) {
    const adapter *a = luaL_checkudata(L, 1, PL_LUA_ADAPTER);
    if (a->adapter)
        lua_pushfstring(L, "adapter %s (%d matrices, %I parameters)", a->adapter->name,
                        (int)a->adapter->n_pairs, (LUAI_UACINT)n_params_of(a->adapter));
    else
        lua_pushliteral(L, "adapter (closed)");
    return 1;
}

/* -- wearing them ---------------------------------------------------------------------------- */

static float check_scale(lua_State *L, int arg) {
    return lua_isnoneornil(L, arg) ? 1 : (float)pl_lua_check_number(L, arg, "the scale");
}

/* session:set_adapter(adapter [, scale]): for sequences made from now on */
static int session_set(lua_State *L) {
    pl_lua_session *s = pl_lua_check_session(L, 1);
    pl_adapter *a = check_adapter(L, 2);
    pl_error err;
    if (pl_session_set_adapter(s->session, a, check_scale(L, 3), &err) != PL_OK) {
        pl_lua_raise(L, &err);
    }
    lua_settop(L, 1);
    return 1;
}

/* seq:set_adapter(adapter [, scale]) */
static int sequence_set(lua_State *L) {
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    pl_adapter *a = check_adapter(L, 2);
    pl_error err;
    if (pl_sequence_set_adapter(s->seq, a, check_scale(L, 3), &err) != PL_OK) {
        pl_lua_raise(L, &err);
    }
    lua_settop(L, 1);
    return 1;
}

static int push_uses(lua_State *L, const pl_adapter_use *uses, int n) {
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        lua_createtable(L, 2, 0);
        push_adapter(L, uses[i].adapter);
        lua_rawseti(L, -2, 1);
        lua_pushnumber(L, (double)uses[i].scale);
        lua_rawseti(L, -2, 2);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* seq:adapters(), session:adapters() -> list of {adapter, scale} */
static int sequence_adapters(lua_State *L) {
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    pl_adapter_use uses[PL_MAX_ADAPTERS];
    return push_uses(L, uses, (int)pl_sequence_adapters(s->seq, uses, PL_MAX_ADAPTERS));
}
static int session_adapters(lua_State *L) {
    const pl_adapter_list *list = pl_session_adapters(pl_lua_check_session(L, 1)->session);
    return push_uses(L, list ? list->uses : NULL, list ? list->n : 0);
}

static int get_stale(lua_State *L) {
    lua_pushinteger(L, pl_sequence_stale(pl_lua_check_sequence(L, 1)->seq));
    return 1;
}

/* seq:recompute(): all tokens again, as the adapters are now */
static int recompute(lua_State *L) {
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    lua_settop(L, 1);
    lua_getiuservalue(L, 1, 1);
    pl_lua_recompute(L, 2, s);
    lua_settop(L, 1);
    return 1;
}

/* trains_adapter(session): whether an adapter of its new sequences wants gradients */
static int trains_adapter(lua_State *L) {
    const pl_adapter_list *list = pl_session_adapters(pl_lua_check_session(L, 1)->session);
    bool wanted = false;
    for (int i = 0; list && i < list->n; i++) {
        const pl_adapter *a = list->uses[i].adapter;
        for (size_t k = 0; k < a->n_pairs; k++) {
            wanted |= pl_tracked(&a->pairs[k].a) || pl_tracked(&a->pairs[k].b);
        }
    }
    lua_pushboolean(L, wanted);
    return 1;
}

/* model:merge({adapter or {adapter, scale}, ...} [, options of the default session]) -> a model */
static int merge(lua_State *L) {
    pl_lua_model *m = pl_lua_check_model(L, 1);
    pl_lua_check_table(L, 2, "merge");
    lua_settop(L, 3);
    pl_adapter_use uses[PL_MAX_ADAPTERS];
    size_t n = lua_rawlen(L, 2);
    if (n < 1 || n > PL_MAX_ADAPTERS) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "merge: expected a list of 1 to %d adapters",
                    PL_MAX_ADAPTERS);
    }
    for (size_t i = 0; i < n; i++) { /* the list keeps them alive */
        uses[i].scale = 1;
        if (lua_rawgeti(L, 2, (lua_Integer)i + 1) == LUA_TTABLE) {
            lua_rawgeti(L, -1, 2);
            uses[i].scale = check_scale(L, -1);
            lua_rawgeti(L, -2, 1);
        }
        uses[i].adapter = check_adapter(L, -1);
        lua_settop(L, 3);
    }
    pl_model *merged;
    pl_error err;
    if (pl_model_merge(&merged, m->model, uses, n, &err) != PL_OK) pl_lua_raise(L, &err);
    pl_lua_push_model(L, merged, 3);
    return 1;
}

static void add_methods(lua_State *L, const char *type, const luaL_Reg *methods) {
    luaL_getsubtable(L, -1, "types");
    lua_getfield(L, -1, type);
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 2);
}

void pl_lua_open_adapters(lua_State *L) {
    static const luaL_Reg methods[] = {{"save", save},
                                       {"matrices", matrices},
                                       {"parameters", parameters},
                                       {"close", close},
                                       {NULL, NULL}};
    static const luaL_Reg getters[] = {
        {"name", get_name}, {"n_params", get_n_params}, {NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__gc", close}, {"__close", close}, {"__tostring", to_string}, {NULL, NULL}};
    static const luaL_Reg of_models[] = {
        {"load_adapter", load}, {"new_adapter", new_adapter}, {"merge", merge}, {NULL, NULL}};
    static const luaL_Reg of_sessions[] = {
        {"set_adapter", session_set}, {"adapters", session_adapters}, {NULL, NULL}};
    static const luaL_Reg of_sequences[] = {{"set_adapter", sequence_set},
                                            {"adapters", sequence_adapters},
                                            {"recompute", recompute},
                                            {NULL, NULL}};
    pl_lua_new_type(L, PL_LUA_ADAPTER, methods, getters, meta);
    add_methods(L, PL_LUA_MODEL, of_models);
    add_methods(L, PL_LUA_SESSION, of_sessions);
    add_methods(L, PL_LUA_SEQUENCE, of_sequences);
    luaL_getmetatable(L, PL_LUA_SEQUENCE);
    lua_getfield(L, -1, "getters");
    lua_pushcfunction(L, get_stale), lua_setfield(L, -2, "stale");
    lua_pop(L, 2);
    lua_pushcfunction(L, trains_adapter), lua_setfield(L, -2, "trains_adapter");
}
