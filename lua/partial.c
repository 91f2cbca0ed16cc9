/* Partial runs, and the keys and values that a sequence holds. */
#include <limits.h>
#include <string.h>

#include "common.h"
#include "handles.h"
#include "tensor.h"

/* A new tensor of rows on the stack, and its data. */
static float *push_rows(lua_State *L, int n_dims, const int64_t *shape, const char *const *names) {
    pl_tensor t;
    pl_error err;
    if (pl_tensor_new(&t, PL_F32, n_dims, shape, &err) != PL_OK) pl_lua_raise(L, &err);
    for (int i = 0; i < n_dims; i++) {
        if (names[i]) memcpy(t.dim[i], names[i], strlen(names[i]) + 1);
    }
    pl_lua_push_tensor(L, &t);
    return t.data;
}

/* The tensor at arg as float32 of that shape; raises otherwise. */
static const float *check_rows(lua_State *L, int arg, const char *what, int n_dims,
                               const int64_t *shape) {
    const pl_tensor *t = pl_lua_check_tensor(L, arg);
    pl_tensor wanted = {.n_dims = n_dims};
    bool same = t->dtype == PL_F32 && t->n_dims == n_dims && pl_tensor_contiguous(t);
    for (int i = 0; i < n_dims; i++) {
        wanted.shape[i] = shape[i];
        same = same && t->shape[i] == shape[i];
    }
    char got[PL_SHAPE_TEXT], text[PL_SHAPE_TEXT];
    if (!same)
        pl_lua_fail(L, PL_ERR_SHAPE, "%s is %s %s: expected contiguous f32 %s", what,
                    pl_dtype_get(t->dtype)->name, pl_tensor_shape_text(t, got),
                    pl_tensor_shape_text(&wanted, text));
    return t->data;
}

static const pl_config *config_of(const pl_lua_sequence *s) {
    return &pl_session_model(s->owner->session)->config;
}

/* -- partial runs --------------------------------------------------------------------------- */

/* Pushes what the item gives back: logits, or the residual stream after the last layer run. */
static void push_result(lua_State *L, pl_partial *p, const pl_config *config) {
    static const char *const logits[] = {"pos", "d_vocab"}, *const stream[] = {"pos", "d_model"};
    int64_t n = p->rows.n < 1 ? 1 : p->rows.n;
    if (p->rows.which == PL_LOGITS_ALL)
        p->rows.logits = push_rows(L, 2, (int64_t[]){n, config->d_vocab}, logits);
    else if (p->rows.which == PL_LOGITS_LAST)
        p->rows.logits = push_rows(L, 1, (int64_t[]){config->d_vocab}, logits + 1);
    else
        p->out = push_rows(L, 2, (int64_t[]){n, config->d_model}, stream);
}

/* The item on top of the stack: {seq, ids or n = rows, residual, logits}; keep: the index of a
 * table that keeps ids alive. Leaves the result on top. */
static void read_item(lua_State *L, pl_partial *p, pl_lua_sequence **seq, int keep, bool whole) {
    static const char *const known[] = {"n", "residual", "logits", "types", "1", "2", NULL};
    int item = lua_gettop(L);
    if (!lua_istable(L, item))
        pl_lua_fail(L, PL_ERR_ARGUMENT, "an item is a %s, expected {seq, ...}",
                    luaL_typename(L, item));
    pl_lua_check_options(L, item, known);
    lua_rawgeti(L, item, 1);
    pl_lua_sequence *s = *seq = pl_lua_check_sequence(L, -1);
    *p = (pl_partial){
        .rows = {.seq = s->seq,
                 .which = pl_lua_check_logits(L, item, whole ? PL_LOGITS_LAST : PL_LOGITS_NONE)}};
    if (lua_rawgeti(L, item, 2) != LUA_TNIL) {
        const pl_tokenizer *tokenizer = pl_session_model(s->owner->session)->tokenizer;
        p->rows.tokens = pl_lua_check_ids(L, lua_gettop(L), tokenizer, &p->rows.n);
    } else {
        p->rows.n = pl_sequence_length(s->seq);
        pl_lua_opt_integer(L, item, "n", &p->rows.n);
        if (p->rows.n < 1 || p->rows.n > pl_sequence_length(s->seq))
            pl_lua_fail(L, PL_ERR_ARGUMENT, "n = %lld: expected 1 to %lld, what the sequence holds",
                        (long long)p->rows.n, (long long)pl_sequence_length(s->seq));
    }
    lua_rawseti(L, keep, (lua_Integer)lua_rawlen(L, keep) + 1);
    if (p->rows.tokens) {
        p->rows.types = pl_lua_opt_types(L, item, p->rows.n);
        lua_rawseti(L, keep, (lua_Integer)lua_rawlen(L, keep) + 1);
    }
    if (lua_getfield(L, item, "residual") != LUA_TNIL) {
        int64_t shape[] = {p->rows.n, config_of(s)->d_model};
        p->residual = check_rows(L, lua_gettop(L), "residual", 2, shape);
    }
    lua_settop(L, item);
    push_result(L, p, config_of(s));
}

/* partial(session, {{seq, ids or n, residual, logits}, ...}, from_layer, to_layer) -> results */
static int partial(lua_State *L) {
    const pl_lua_session *session = pl_lua_check_session(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    int64_t from = luaL_checkinteger(L, 3), to = luaL_checkinteger(L, 4);
    bool whole = to == pl_session_model(session->session)->config.n_layers;
    lua_settop(L, 4);
    lua_Integer n = (lua_Integer)lua_rawlen(L, 2);
    if (n < 1 || n > INT_MAX / 64) pl_lua_fail(L, PL_ERR_ARGUMENT, "partial: an empty list");
    lua_newtable(L); /* 5: results */
    lua_newtable(L); /* 6: ids */
    pl_partial *items = lua_newuserdatauv(L, (size_t)n * sizeof *items, 0);
    pl_lua_sequence **seqs = lua_newuserdatauv(L, (size_t)n * sizeof *seqs, 0);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, 2, i);
        read_item(L, &items[i - 1], &seqs[i - 1], 6, whole);
        if (seqs[i - 1]->owner != session)
            pl_lua_fail(L, PL_ERR_ARGUMENT, "partial: items 1 and %lld belong to two sessions",
                        (long long)i);
        lua_rawseti(L, 5, i);
        lua_settop(L, 8);
    }
    pl_lua_partial(L, 1, seqs, items, (size_t)n, from, to);
    lua_settop(L, 5);
    return 1;
}

/* -- keys and values ------------------------------------------------------------------------- */

/* seq:kv(layer) -> keys, values, both float32 [pos, kv_head, d_head]: copies of what is held, keys
 * rotated already */
static int kv(lua_State *L) {
    static const char *const names[] = {"pos", "kv_head", "d_head"};
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    lua_Integer layer = luaL_checkinteger(L, 2);
    const pl_config *c = config_of(s);
    int64_t n = pl_sequence_length(s->seq), shape[] = {n, c->n_kv_heads, c->d_head};
    lua_settop(L, 2);
    if (layer < 0) layer += c->n_layers;
    float *keys = push_rows(L, 3, shape, names), *values = push_rows(L, 3, shape, names);
    pl_error err;
    if (pl_sequence_get_kv(s->seq, layer, 0, n, keys, values, &err) != PL_OK) pl_lua_raise(L, &err);
    return 2;
}

/* Rows for set_kv at arg, or NULL for nil; *n: how many, given or found. */
static const float *opt_kv(lua_State *L, int arg, const char *what, const pl_config *c,
                           int64_t *n) {
    if (lua_isnoneornil(L, arg)) return NULL;
    const pl_tensor *t = pl_lua_check_tensor(L, arg);
    if (*n < 0) *n = t->n_dims == 3 ? t->shape[0] : 1;
    return check_rows(L, arg, what, 3, (int64_t[]){*n, c->n_kv_heads, c->d_head});
}

/* seq:set_kv(layer, pos, keys or nil, values or nil): rows [n, kv_head, d_head] take the place of
 * those held from position pos on, in this sequence only */
static int set_kv(lua_State *L) {
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    lua_Integer layer = luaL_checkinteger(L, 2), pos = luaL_checkinteger(L, 3);
    const pl_config *c = config_of(s);
    int64_t n = -1;
    lua_settop(L, 5);
    if (layer < 0) layer += c->n_layers;
    if (pos < 0) pos += pl_sequence_length(s->seq);
    const float *keys = opt_kv(L, 4, "keys", c, &n), *values = opt_kv(L, 5, "values", c, &n);
    if (n < 0) pl_lua_fail(L, PL_ERR_ARGUMENT, "set_kv: neither keys nor values are given");
    pl_error err;
    if (pl_sequence_set_kv(s->seq, layer, pos, n, keys, values, &err) != PL_OK)
        pl_lua_raise(L, &err);
    lua_settop(L, 1);
    return 1;
}

void pl_lua_open_partial(lua_State *L) {
    lua_pushcfunction(L, partial);
    lua_setfield(L, -2, "partial");
    lua_getfield(L, -1, "types");
    lua_getfield(L, -1, PL_LUA_SEQUENCE);
    lua_pushcfunction(L, kv);
    lua_setfield(L, -2, "kv");
    lua_pushcfunction(L, set_kv);
    lua_setfield(L, -2, "set_kv");
    lua_pop(L, 2);
}
