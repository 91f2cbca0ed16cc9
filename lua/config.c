/* A description as a Lua table: one row per field of pl_config. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common.h"
#include "handles.h"

typedef enum kind { INTEGER, REAL, BOOLEAN, WORD } kind;

static const char *const norms[] = {"layer", "rms", NULL};
static const char *const positions[] = {"none", "learned", "rotary", NULL};
static const char *const activations[] = {"gelu_new", "gelu",    "silu", "relu",
                                          "tanh",     "sigmoid", NULL};

static const char *const scalings[] = {"none", "linear", "llama3", "table", "yarn", "long", NULL};
static const char *const poolings[] = {"mean", "cls", "other", NULL};
static const char *const qk_norms[] = {"none", "head", "whole", NULL};

typedef struct field {
    const char *name;
    kind kind;
    size_t offset;
    const char *const *words; /* of an enum, by value */
} field;

#define AT(member) offsetof(pl_config, member)
static const field fields[] = {
    {"d_model", INTEGER, AT(d_model), NULL},
    {"d_mlp", INTEGER, AT(d_mlp), NULL},
    {"d_head", INTEGER, AT(d_head), NULL},
    {"d_vocab", INTEGER, AT(d_vocab), NULL},
    {"n_layers", INTEGER, AT(n_layers), NULL},
    {"n_heads", INTEGER, AT(n_heads), NULL},
    {"n_kv_heads", INTEGER, AT(n_kv_heads), NULL},
    {"n_ctx", INTEGER, AT(n_ctx), NULL},
    {"n_token_types", INTEGER, AT(n_token_types), NULL},
    {"norm", WORD, AT(norm), norms},
    {"norm_eps", REAL, AT(norm_eps), NULL},
    {"norm_before", BOOLEAN, AT(norm_slot[PL_NORM_BEFORE]), NULL},
    {"norm_after_sublayer", BOOLEAN, AT(norm_slot[PL_NORM_AFTER_SUBLAYER]), NULL},
    {"norm_after_add", BOOLEAN, AT(norm_slot[PL_NORM_AFTER_ADD]), NULL},
    {"norm_embed", BOOLEAN, AT(norm_embed), NULL},
    {"norm_final", BOOLEAN, AT(norm_final), NULL},
    {"positions", WORD, AT(positions), positions},
    {"rope_dims", INTEGER, AT(rope_dims), NULL},
    {"rope_base", REAL, AT(rope_base), NULL},
    {"rope_half", BOOLEAN, AT(rope_half), NULL},
    {"rope_base_local", REAL, AT(rope_base_local), NULL},
    {"rope_scaling", WORD, AT(rope_scaling), scalings},
    {"rope_factor", REAL, AT(rope_factor), NULL},
    {"rope_low_freq_factor", REAL, AT(rope_low_freq_factor), NULL},
    {"rope_high_freq_factor", REAL, AT(rope_high_freq_factor), NULL},
    {"rope_original_ctx", INTEGER, AT(rope_original_ctx), NULL},
    {"rope_beta_fast", REAL, AT(rope_beta_fast), NULL},
    {"rope_beta_slow", REAL, AT(rope_beta_slow), NULL},
    {"rope_attn_factor", REAL, AT(rope_attn_factor), NULL},
    {"activation", WORD, AT(activation), activations},
    {"qkv_bias", BOOLEAN, AT(qkv_bias), NULL},
    {"attn_out_bias", BOOLEAN, AT(attn_out_bias), NULL},
    {"mlp_bias", BOOLEAN, AT(mlp_bias), NULL},
    {"norm_bias", BOOLEAN, AT(norm_bias), NULL},
    {"gated", BOOLEAN, AT(gated), NULL},
    {"parallel", BOOLEAN, AT(parallel), NULL},
    {"shared_norm", BOOLEAN, AT(shared_norm), NULL},
    {"causal", BOOLEAN, AT(causal), NULL},
    {"tied", BOOLEAN, AT(tied), NULL},
    {"unembed_bias", BOOLEAN, AT(unembed_bias), NULL},
    {"unembed_dense", BOOLEAN, AT(unembed_dense), NULL},
    {"headless", BOOLEAN, AT(headless), NULL},
    {"pooling", WORD, AT(pooling), poolings},
    {"pooler", BOOLEAN, AT(pooler), NULL},
    {"attn_scale", REAL, AT(attn_scale), NULL},
    {"qk_norm", WORD, AT(qk_norm), qk_norms},
    {"window", INTEGER, AT(window), NULL},
    {"window_period", INTEGER, AT(window_period), NULL},
    {"embed_scale", REAL, AT(embed_scale), NULL},
    {"attn_softcap", REAL, AT(attn_softcap), NULL},
    {"logit_softcap", REAL, AT(logit_softcap), NULL},
    {"n_experts", INTEGER, AT(n_experts), NULL},
    {"n_experts_used", INTEGER, AT(n_experts_used), NULL},
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

/* Enums are read and written as unsigned, which they are with the compilers in use. */
_Static_assert(sizeof(pl_norm_kind) == sizeof(unsigned), "enums are of the size of unsigned");

void pl_lua_push_config(lua_State *L, const pl_config *config) {
    lua_createtable(L, 0, N_FIELDS + 1);
    lua_pushstring(L, config->arch), lua_setfield(L, -2, "arch");
    for (int i = 0; i < N_FIELDS; i++) {
        const void *at = (const char *)config + fields[i].offset;
        unsigned word;
        switch (fields[i].kind) {
        case INTEGER:
            lua_pushinteger(L, *(const int64_t *)at);
            break;
        case REAL:
            lua_pushnumber(L, (double)*(const float *)at);
            break;
        case BOOLEAN:
            lua_pushboolean(L, *(const bool *)at);
            break;
        case WORD:
            memcpy(&word, at, sizeof word);
            lua_pushstring(L, fields[i].words[word]);
            break;
        }
        lua_setfield(L, -2, fields[i].name);
    }
}

static void refuse(lua_State *L, const field *f, const char *expected) {
    pl_lua_fail(L, PL_ERR_ARGUMENT, "%s = %s: expected %s", f->name, luaL_tolstring(L, -1, NULL),
                expected);
}

static void set_word(lua_State *L, const field *f, void *at) {
    const char *value = lua_tostring(L, -1);
    char expected[128] = "one of";
    for (unsigned i = 0; f->words[i]; i++) {
        if (value && strcmp(value, f->words[i]) == 0) {
            memcpy(at, &i, sizeof i);
            return;
        }
        size_t used = strlen(expected);
        snprintf(expected + used, sizeof expected - used, " %s", f->words[i]);
    }
    refuse(L, f, expected);
}

bool pl_lua_set_config(lua_State *L, pl_config *config, const char *name) {
    int i = 0;
    while (i < N_FIELDS && strcmp(fields[i].name, name) != 0) i++;
    if (i == N_FIELDS) return false;
    const field *f = &fields[i];
    void *at = (char *)config + f->offset;
    int good = 1;
    switch (f->kind) {
    case INTEGER:
        *(int64_t *)at = lua_tointegerx(L, -1, &good);
        if (!good) refuse(L, f, "a whole number");
        break;
    case REAL:
        *(float *)at = (float)lua_tonumberx(L, -1, &good);
        if (!good) refuse(L, f, "a number");
        break;
    case BOOLEAN:
        if (!lua_isboolean(L, -1)) refuse(L, f, "true or false");
        *(bool *)at = lua_toboolean(L, -1);
        break;
    case WORD:
        set_word(L, f, at);
        break;
    }
    return true;
}

size_t pl_lua_config_fields(const char **names, size_t most) {
    size_t n = 0;
    for (; n < N_FIELDS && n < most; n++) names[n] = fields[n].name;
    return n;
}
