/* Tokenizers and streaming decoders. Ids and positions count from 0, tables from 1. */
#include <string.h>
#include <sys/stat.h>

#include "../engine/format/outfile.h"
#include "common.h"
#include "handles.h"
#include "tensor.h"
#include "type.h"

typedef struct tokenizer {
    pl_tokenizer *tok; /* NULL when closed */
    pl_model *model;   /* whose tok it is, retained; NULL: tok is owned */
} tokenizer;

static tokenizer *check(lua_State *L, int arg) {
    tokenizer *t = luaL_checkudata(L, arg, PL_LUA_TOKENIZER);
    if (!t->tok) pl_lua_fail(L, PL_ERR_STATE, "the tokenizer is closed");
    return t;
}

const pl_tokenizer *pl_lua_check_tokenizer(lua_State *L, int arg) {
    return check(L, arg)->tok;
}

void pl_lua_push_tokenizer(lua_State *L, pl_tokenizer *tok, pl_model *model) {
    tokenizer *t = lua_newuserdatauv(L, sizeof *t, 0);
    *t = (tokenizer){tok, model ? pl_model_retain(model) : NULL};
    luaL_setmetatable(L, PL_LUA_TOKENIZER);
}

static int close(lua_State *L) {
    tokenizer *t = luaL_checkudata(L, 1, PL_LUA_TOKENIZER);
    if (!t->model) pl_tokenizer_free(t->tok);
    pl_model_free(t->model);
    *t = (tokenizer){0};
    return 0;
}

/* pl.load_tokenizer(path): a folder as published on Hugging Face, or a file of it. */
static int load(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    pl_lua_push_tokenizer(L, NULL, NULL);
    tokenizer *t = lua_touserdata(L, -1);
    pl_error err;
    if (pl_tokenizer_load(&t->tok, path, &err) != PL_OK) pl_lua_raise(L, &err);
    return 1;
}

/* -- buffers of the engine that the collector frees when an error unwinds ----------------- */

typedef struct box {
    pl_ids ids;
    pl_buffer text;
} box;

static int box_gc(lua_State *L) {
    box *b = lua_touserdata(L, 1);
    pl_ids_clear(&b->ids);
    pl_buffer_clear(&b->text);
    return 0;
}

static box *push_box(lua_State *L) {
    box *b = lua_newuserdatauv(L, sizeof *b, 0);
    memset(b, 0, sizeof *b);
    if (luaL_newmetatable(L, "perilune.box")) {
        lua_pushcfunction(L, box_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return b;
}

/* The text so far, and empties the box. */
static void push_text(lua_State *L, box *b) {
    lua_pushlstring(L, (const char *)b->text.data, b->text.size);
    pl_buffer_clear(&b->text);
}

/* -- ids ----------------------------------------------------------------------------------- */

static int32_t to_id(lua_State *L, lua_Integer value) {
    if (value < INT32_MIN || value > INT32_MAX)
        pl_lua_fail(L, PL_ERR_ARGUMENT, "token id %lld is out of range", (long long)value);
    return (int32_t)value;
}

static const int32_t *ids_of_list(lua_State *L, int arg, int64_t *n) {
    *n = (int64_t)lua_rawlen(L, arg);
    int32_t *ids = lua_newuserdatauv(L, (size_t)*n * sizeof *ids + 1, 0);
    for (int64_t i = 0; i < *n; i++) {
        int whole;
        lua_rawgeti(L, arg, i + 1);
        ids[i] = to_id(L, lua_tointegerx(L, -1, &whole));
        if (!whole)
            pl_lua_fail(L, PL_ERR_ARGUMENT, "token ids: item %lld of the list is a %s, not an id",
                        (long long)i + 1, luaL_typename(L, -1));
        lua_pop(L, 1);
    }
    return ids;
}

static const int32_t *ids_of_tensor(lua_State *L, int arg, int64_t *n) {
    const pl_tensor *t = pl_lua_check_tensor(L, arg);
    char shape[PL_SHAPE_TEXT];
    if (t->n_dims != 1 || (t->dtype != PL_I32 && t->dtype != PL_I64))
        pl_lua_fail(L, PL_ERR_SHAPE, "token ids: got a %s tensor %s, expected int32 [pos]",
                    pl_dtype_get(t->dtype)->name, pl_tensor_shape_text(t, shape));
    *n = t->shape[0];
    int32_t *ids = lua_newuserdatauv(L, (size_t)*n * sizeof *ids + 1, 0);
    for (int64_t i = 0; i < *n; i++) {
        int64_t at = i * t->stride[0];
        ids[i] = t->dtype == PL_I32 ? ((const int32_t *)t->data)[at]
                                    : to_id(L, ((const int64_t *)t->data)[at]);
    }
    return ids;
}

static const int32_t *ids_of_text(lua_State *L, int arg, const pl_tokenizer *tok, int64_t *n) {
    if (!tok)
        pl_lua_fail(
            L, PL_ERR_ARGUMENT,
            "the model has no tokenizer (tokenizer.json, tokenizer.model, vocab.json with "
            "merges.txt or vocab.txt beside its weights): give token ids instead of a text");
    size_t len;
    const char *text = lua_tolstring(L, arg, &len);
    box *b = push_box(L);
    pl_error err;
    if (pl_tokenizer_encode(tok, text, len, NULL, &b->ids, &err) != PL_OK) pl_lua_raise(L, &err);
    *n = (int64_t)b->ids.n;
    return b->ids.data;
}

const int32_t *pl_lua_check_ids(lua_State *L, int arg, const pl_tokenizer *tok, int64_t *n) {
    switch (lua_type(L, arg)) {
    case LUA_TNUMBER: {
        int32_t id = to_id(L, luaL_checkinteger(L, arg));
        int32_t *ids = lua_newuserdatauv(L, sizeof *ids, 0);
        *ids = id;
        *n = 1;
        return ids;
    }
    case LUA_TTABLE:
        return ids_of_list(L, arg, n);
    case LUA_TSTRING:
        return ids_of_text(L, arg, tok, n);
    case LUA_TUSERDATA:
        return ids_of_tensor(L, arg, n);
    default:
        pl_lua_fail(L, PL_ERR_ARGUMENT,
                    "expected a text, a list of token ids or an int32 tensor, got %s",
                    luaL_typename(L, arg));
    }
}

const int32_t *pl_lua_opt_types(lua_State *L, int options, int64_t n) {
    int top = lua_gettop(L);
    int64_t n_types = 0;
    if (lua_isnoneornil(L, options) || lua_getfield(L, options, "types") == LUA_TNIL) {
        lua_settop(L, top);
        lua_pushnil(L);
        return NULL;
    }
    if (lua_type(L, -1) != LUA_TTABLE && lua_type(L, -1) != LUA_TUSERDATA)
        pl_lua_fail(L, PL_ERR_ARGUMENT, "types is a %s: expected a list of whole numbers",
                    luaL_typename(L, -1));
    const int32_t *types = pl_lua_check_ids(L, top + 1, NULL, &n_types);
    if (n_types != n)
        pl_lua_fail(L, PL_ERR_ARGUMENT, "types: %lld of them for %lld tokens", (long long)n_types,
                    (long long)n);
    lua_replace(L, top + 1);
    return types;
}

static void push_ids(lua_State *L, const int32_t *ids, size_t n) {
    pl_tensor t;
    pl_error err;
    if (pl_tensor_new(&t, PL_I32, 1, (int64_t[]){(int64_t)n}, &err) != PL_OK) pl_lua_raise(L, &err);
    if (n) memcpy(t.data, ids, n * sizeof *ids);
    memcpy(t.dim[0], "pos", sizeof "pos");
    pl_lua_push_tensor(L, &t);
}

/* -- encoding and decoding ----------------------------------------------------------------- */

/* tok:encode(text [, {add_special = true, parse_special = true}]) -> int32 tensor [pos] */
static int encode(lua_State *L) {
    tokenizer *t = check(L, 1);
    size_t len;
    const char *text = luaL_checklstring(L, 2, &len);
    static const char *const known[] = {"add_special", "parse_special", NULL};
    pl_encode_options options = pl_encode_options_default();
    pl_lua_check_options(L, 3, known);
    pl_lua_opt_bool(L, 3, "add_special", &options.add_special);
    pl_lua_opt_bool(L, 3, "parse_special", &options.parse_special);
    box *b = push_box(L);
    pl_error err;
    if (pl_tokenizer_encode(t->tok, text, len, &options, &b->ids, &err) != PL_OK)
        pl_lua_raise(L, &err);
    push_ids(L, b->ids.data, b->ids.n);
    pl_ids_clear(&b->ids);
    return 1;
}

static pl_decode_options decode_options(lua_State *L, int arg) {
    static const char *const known[] = {"skip_special", "replace_invalid", "keep_leading", NULL};
    pl_decode_options options = pl_decode_options_default();
    pl_lua_check_options(L, arg, known);
    pl_lua_opt_bool(L, arg, "skip_special", &options.skip_special);
    pl_lua_opt_bool(L, arg, "replace_invalid", &options.replace_invalid);
    pl_lua_opt_bool(L, arg, "keep_leading", &options.keep_leading);
    return options;
}

/* tok:decode(ids [, {skip_special = true, replace_invalid, keep_leading}]) -> string */
static int decode(lua_State *L) {
    tokenizer *t = check(L, 1);
    pl_decode_options options = decode_options(L, 3);
    int64_t n;
    lua_settop(L, 2);
    const int32_t *ids = pl_lua_check_ids(L, 2, NULL, &n);
    box *b = push_box(L);
    pl_error err;
    if (pl_tokenizer_decode(t->tok, ids, (size_t)n, &options, &b->text, &err) != PL_OK)
        pl_lua_raise(L, &err);
    push_text(L, b);
    return 1;
}

static int push_each(lua_State *L, pl_bytes (*get)(const pl_tokenizer *, int32_t)) {
    tokenizer *t = check(L, 1);
    int64_t n;
    lua_settop(L, 2);
    const int32_t *ids = pl_lua_check_ids(L, 2, t->tok, &n);
    lua_createtable(L, (int)(n < INT_MAX ? n : 0), 0);
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= pl_tokenizer_n_tokens(t->tok))
            pl_lua_fail(L, PL_ERR_ARGUMENT, "token id %d at index %lld: expected 0 to %lld", ids[i],
                        (long long)i, (long long)pl_tokenizer_n_tokens(t->tok) - 1);
        pl_bytes bytes = get(t->tok, ids[i]);
        lua_pushlstring(L, bytes.data ? bytes.data : "", bytes.size);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* tok:pieces(text or ids): the vocabulary's own spellings, "Ġupon". */
static int pieces(lua_State *L) {
    return push_each(L, pl_tokenizer_piece);
}

/* tok:to_str_tokens(text or ids): the text that each token stands for, " upon". */
static int to_str_tokens(lua_State *L) {
    return push_each(L, pl_tokenizer_token_bytes);
}

/* tok:to_single_token(text) -> id; an error says how many tokens it is otherwise. */
static int to_single_token(lua_State *L) {
    tokenizer *t = check(L, 1);
    size_t len;
    const char *text = luaL_checklstring(L, 2, &len);
    int32_t id;
    pl_error err;
    if (pl_tokenizer_single(t->tok, text, len, &id, &err) != PL_OK) pl_lua_raise(L, &err);
    lua_pushinteger(L, id);
    return 1;
}

/* tok:find_piece(piece) -> id or nil */
static int find_piece(lua_State *L) {
    tokenizer *t = check(L, 1);
    size_t len;
    const char *piece = luaL_checklstring(L, 2, &len);
    int32_t id = pl_tokenizer_find_piece(t->tok, piece, len);
    if (id < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, id);
    return 1;
}

static int32_t check_id(lua_State *L, const tokenizer *t, int arg) {
    lua_Integer id = luaL_checkinteger(L, arg), n = (lua_Integer)pl_tokenizer_n_tokens(t->tok);
    if (id < 0 || id >= n)
        pl_lua_fail(L, PL_ERR_ARGUMENT, "token id %lld: expected 0 to %lld", (long long)id,
                    (long long)n - 1);
    return (int32_t)id;
}

/* tok:is_end(id): whether generating it ends a text. */
static int is_end(lua_State *L) {
    tokenizer *t = check(L, 1);
    lua_pushboolean(L, pl_tokenizer_is_end(t->tok, check_id(L, t, 2)));
    return 1;
}

/* tok:attr(id) -> "normal", "unknown", "control", "user_defined", "unused" or "byte" */
static int attr(lua_State *L) {
    static const char *const names[] = {"normal",       "unknown", "control",
                                        "user_defined", "unused",  "byte"};
    tokenizer *t = check(L, 1);
    lua_pushstring(L, names[pl_tokenizer_attr(t->tok, check_id(L, t, 2))]);
    return 1;
}

/* -- how a text becomes tokens ------------------------------------------------------------- */

typedef struct telling {
    lua_State *L;
    int list; /* index of the list that grows */
} telling;

static int add_step(lua_State *L) {
    const pl_merge_step *step = lua_touserdata(L, 2);
    lua_createtable(L, 0, 6);
    lua_pushinteger(L, (lua_Integer)step->word), lua_setfield(L, -2, "word");
    lua_pushinteger(L, (lua_Integer)step->step), lua_setfield(L, -2, "step");
    if (step->merged < step->n) {
        lua_pushinteger(L, (lua_Integer)step->merged + 1), lua_setfield(L, -2, "merged");
        lua_pushnumber(L, step->rank), lua_setfield(L, -2, "rank");
    }
    lua_createtable(L, (int)step->n, 0);
    lua_createtable(L, (int)step->n, 0);
    for (size_t i = 0; i < step->n; i++) {
        lua_pushlstring(L, step->pieces[i].data, step->pieces[i].size);
        lua_rawseti(L, -3, (lua_Integer)i + 1);
        lua_pushinteger(L, step->ids[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -3, "ids");
    lua_setfield(L, -2, "pieces");
    lua_rawseti(L, 1, (lua_Integer)lua_rawlen(L, 1) + 1);
    return 0;
}

/* Runs protected: an error of Lua must not jump over the tokenizer's frames. */
static pl_status tell(void *context, const pl_merge_step *step, pl_error *err) {
    telling *t = context;
    pl_merge_step copy = *step;
    lua_pushcfunction(t->L, add_step);
    lua_pushvalue(t->L, t->list);
    lua_pushlightuserdata(t->L, &copy);
    if (lua_pcall(t->L, 2, 0, 0) == LUA_OK) return PL_OK;
    lua_pop(t->L, 1);
    if (err) *err = (pl_error){PL_ERR_MEMORY, "out of memory for the steps of a text"};
    return PL_ERR_MEMORY;
}

/* tok:explain(text) -> list of states {word, step, pieces, ids, merged, rank}, from characters to
 * tokens; `merged` is the place in the lists (from 1) of the symbol that the step made. */
static int explain(lua_State *L) {
    tokenizer *t = check(L, 1);
    size_t len;
    const char *text = luaL_checklstring(L, 2, &len);
    luaL_checkstack(L, 20, NULL);
    lua_newtable(L);
    telling to = {L, lua_gettop(L)};
    pl_error err;
    if (pl_tokenizer_explain(t->tok, text, len, tell, &to, &err) != PL_OK) pl_lua_raise(L, &err);
    return 1;
}

/* -- writing ------------------------------------------------------------------------------- */

/* tok:save(path): the tokenizer.json, into a folder or as a file. */
static int save(lua_State *L) {
    tokenizer *t = check(L, 1);
    const char *path = luaL_checkstring(L, 2);
    pl_bytes json = pl_tokenizer_json(t->tok);
    struct stat info;
    if (!json.size)
        pl_lua_fail(L, PL_ERR_UNSUPPORTED, "%s: the tokenizer did not come from a tokenizer.json",
                    pl_tokenizer_source(t->tok));
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        path = lua_pushfstring(L, "%s/tokenizer.json", path);
    pl_outfile out;
    pl_error err;
    if (pl_outfile_open(&out, path, &err) != PL_OK) pl_lua_raise(L, &err);
    pl_outfile_write(&out, json.data, json.size);
    if (pl_outfile_commit(&out, &err) != PL_OK) pl_lua_raise(L, &err);
    return 0;
}

/* -- streaming ----------------------------------------------------------------------------- */

/* tok:decoder([options of decode]) -> object with put(id) and flush(), each giving the text that
 * is complete now: a UTF-8 character is never split. */
static int decoder(lua_State *L) {
    tokenizer *t = check(L, 1);
    pl_decode_options options = decode_options(L, 2);
    pl_decoder *d = lua_newuserdatauv(L, sizeof *d, 1);
    pl_decoder_init(d, t->tok, &options);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    luaL_setmetatable(L, PL_LUA_DECODER);
    return 1;
}

static pl_decoder *check_decoder(lua_State *L) {
    pl_decoder *d = luaL_checkudata(L, 1, PL_LUA_DECODER);
    lua_getiuservalue(L, 1, 1);
    check(L, -1);
    lua_pop(L, 1);
    return d;
}

static int decoder_put(lua_State *L) {
    pl_decoder *d = check_decoder(L);
    int32_t id = to_id(L, luaL_checkinteger(L, 2));
    box *b = push_box(L);
    pl_error err;
    if (pl_decoder_put(d, id, &b->text, &err) != PL_OK) pl_lua_raise(L, &err);
    push_text(L, b);
    return 1;
}

static int decoder_flush(lua_State *L) {
    pl_decoder *d = check_decoder(L);
    box *b = push_box(L);
    pl_error err;
    if (pl_decoder_flush(d, &b->text, &err) != PL_OK) pl_lua_raise(L, &err);
    push_text(L, b);
    return 1;
}

/* -- facts --------------------------------------------------------------------------------- */

static void push_id(lua_State *L, int32_t id) {
    if (id < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, id);
}

static int get_kind(lua_State *L) {
    lua_pushstring(L, pl_tokenizer_kind_name(pl_tokenizer_get_kind(check(L, 1)->tok)));
    return 1;
}
static int get_n_tokens(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)pl_tokenizer_n_tokens(check(L, 1)->tok));
    return 1;
}
static int get_source(lua_State *L) {
    lua_pushstring(L, pl_tokenizer_source(check(L, 1)->tok));
    return 1;
}
static int get_chat_template(lua_State *L) {
    pl_bytes text = pl_tokenizer_chat_template(check(L, 1)->tok);
    if (text.data)
        lua_pushlstring(L, text.data, text.size);
    else
        lua_pushnil(L);
    return 1;
}

/* {bos = id, eos = id, unk, pad, sep, cls, mask}; those that do not exist are absent. */
static int get_special(lua_State *L) {
    pl_special_ids ids = pl_tokenizer_special_ids(check(L, 1)->tok);
    const struct {
        const char *name;
        int32_t id;
    } all[] = {{"bos", ids.bos}, {"eos", ids.eos}, {"unk", ids.unk},  {"pad", ids.pad},
               {"sep", ids.sep}, {"cls", ids.cls}, {"mask", ids.mask}};
    lua_createtable(L, 0, 7);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        push_id(L, all[i].id);
        lua_setfield(L, -2, all[i].name);
    }
    return 1;
}

static int push_affix(lua_State *L, const int32_t *ids, size_t n) {
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushinteger(L, ids[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}
static int get_prefix(lua_State *L) {
    size_t n;
    const int32_t *ids = pl_tokenizer_prefix(check(L, 1)->tok, &n);
    return push_affix(L, ids, n);
}
static int get_suffix(lua_State *L) {
    size_t n;
    const int32_t *ids = pl_tokenizer_suffix(check(L, 1)->tok, &n);
    return push_affix(L, ids, n);
}

static int to_string(lua_State *L) {
    const tokenizer *t = luaL_checkudata(L, 1, PL_LUA_TOKENIZER);
    if (t->tok)
        lua_pushfstring(L, "tokenizer (%s, %I tokens)",
                        pl_tokenizer_kind_name(pl_tokenizer_get_kind(t->tok)),
                        (lua_Integer)pl_tokenizer_n_tokens(t->tok));
    else
        lua_pushliteral(L, "tokenizer (closed)");
    return 1;
}

void pl_lua_open_tokenizer(lua_State *L) {
    static const luaL_Reg methods[] = {{"encode", encode},
                                       {"decode", decode},
                                       {"pieces", pieces},
                                       {"to_str_tokens", to_str_tokens},
                                       {"to_single_token", to_single_token},
                                       {"find_piece", find_piece},
                                       {"is_end", is_end},
                                       {"attr", attr},
                                       {"explain", explain},
                                       {"decoder", decoder},
                                       {"save", save},
                                       {"close", close},
                                       {NULL, NULL}};
    static const luaL_Reg getters[] = {
        {"kind", get_kind},       {"n_tokens", get_n_tokens},
        {"source", get_source},   {"chat_template", get_chat_template},
        {"special", get_special}, {"prefix", get_prefix},
        {"suffix", get_suffix},   {NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__gc", close}, {"__close", close}, {"__tostring", to_string}, {NULL, NULL}};
    static const luaL_Reg decoder_methods[] = {
        {"put", decoder_put}, {"flush", decoder_flush}, {NULL, NULL}};
    static const luaL_Reg none[] = {{NULL, NULL}};
    pl_lua_new_type(L, PL_LUA_TOKENIZER, methods, getters, meta);
    pl_lua_new_type(L, PL_LUA_DECODER, decoder_methods, none, none);
    lua_pushcfunction(L, load);
    lua_setfield(L, -2, "load_tokenizer");
}
