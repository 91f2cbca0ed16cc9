/* What every binding shares: errors, options, and telling the collector of memory behind userdata.
 *
 * An error is a table {kind, message, where} with a metatable: kind is a status as a word, where
 * the script's place ("script.lua:12: "), and tostring gives both. */
#ifndef PL_LUA_COMMON_H
#define PL_LUA_COMMON_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "../engine/base/error.h"

#define PL_LUA_ERROR "perilune.error"

/* Adds fail(kind, format, ...) and check_options(what, options, known, synonyms) to the table on
 * top of the stack. [-0, +0, m] */
void pl_lua_open_common(lua_State *L);

/* Raise an error object that names the place of the script that called. [-0, +0, v] */
_Noreturn void pl_lua_fail(lua_State *L, pl_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
_Noreturn void pl_lua_raise(lua_State *L, const pl_error *err);

/* The argument at arg, or an error object that says what was expected. [-0, +0, v] */
double pl_lua_check_number(lua_State *L, int arg, const char *what);
int64_t pl_lua_check_integer(lua_State *L, int arg, const char *what);
const char *pl_lua_check_string(lua_State *L, int arg, const char *what);
void pl_lua_check_table(lua_State *L, int arg, const char *what);

/* Raises when the table at idx (nil or none: no options) has a key outside `known`, NULL at its
 * end, and names the nearest. Whole-number keys are passed over. [-0, +0, v] */
void pl_lua_check_options(lua_State *L, int idx, const char *const *known);

/* Read one option of the table at idx; an absent one, or no table, leaves *out. [-0, +0, v] */
void pl_lua_opt_bool(lua_State *L, int idx, const char *name, bool *out);
void pl_lua_opt_integer(lua_State *L, int idx, const char *name, int64_t *out);
void pl_lua_opt_number(lua_State *L, int idx, const char *name, double *out);

/* Tells the collector that n bytes behind userdata came or went. Past a limit that follows what
 * is in use, a collection runs. [-0, +0, m] */
void pl_lua_add_bytes(lua_State *L, size_t n);
void pl_lua_drop_bytes(lua_State *L, size_t n);

#endif
