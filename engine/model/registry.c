#include "registry.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/arena.h"
#include "../base/error.h"
#include "family_check.h"

struct pl_families {
    int refs;
    pl_arena memory;         /* the families and all that they point to */
    const pl_family **items; /* [n] */
    size_t n;
};

static const char *const place_names[PL_N_PLACES] = {
    [PL_PLACE_EMBED] = "W_E",
    [PL_PLACE_POSITIONS] = "W_pos",
    [PL_PLACE_TOKEN_TYPES] = "W_token_type",
    [PL_PLACE_NORM_EMBED] = "norm_embed",
    [PL_PLACE_NORM_FINAL] = "norm_final",
    [PL_PLACE_UNEMBED_DENSE] = "W_dense",
    [PL_PLACE_UNEMBED] = "W_U",
    [PL_PLACE_UNEMBED_BIAS] = "b_U",
    [PL_PLACE_POOLER] = "W_pool",
    [PL_PLACE_NORM_ATTENTION] = "norm_attention",
    [PL_PLACE_NORM_MLP] = "norm_mlp",
    [PL_PLACE_QKV] = "W_QKV",
    [PL_PLACE_Q] = "W_Q",
    [PL_PLACE_K] = "W_K",
    [PL_PLACE_V] = "W_V",
    [PL_PLACE_O] = "W_O",
    [PL_PLACE_GATE] = "W_gate",
    [PL_PLACE_IN] = "W_in",
    [PL_PLACE_OUT] = "W_out",
    [PL_PLACE_GATE_IN] = "W_gate_in",
    [PL_PLACE_Q_NORM] = "norm_q",
    [PL_PLACE_K_NORM] = "norm_k",
    [PL_PLACE_ROUTER] = "W_router",
    [PL_PLACE_EXPERT_GATE] = "W_gate_expert",
    [PL_PLACE_EXPERT_IN] = "W_in_expert",
    [PL_PLACE_EXPERT_OUT] = "W_out_expert",
    [PL_PLACE_ROPE_FACTORS] = "rope_factors",
    [PL_PLACE_ROPE_FACTORS_LONG] = "rope_factors_long",
    [PL_PLACE_ROPE_FACTORS_SHORT] = "rope_factors_short",
};

/* clang-format off */
#define SIZES(X)                                                                                   \
    X(d_model) X(d_mlp) X(d_head) X(d_vocab) X(n_layers) X(n_heads) X(n_kv_heads) X(n_ctx)         \
    X(n_token_types) X(norm_eps) X(rope_dims) X(rope_base) X(window) X(attn_scale)                 \
    X(attn_softcap) X(logit_softcap) X(n_experts) X(n_experts_used)
/* clang-format on */
#define NAME(field) #field,
#define OFFSET(field) offsetof(pl_config, field),
static const char *const size_names[] = {SIZES(NAME)};
static const size_t size_offsets[] = {SIZES(OFFSET)};
enum { N_SIZES = sizeof size_names / sizeof *size_names };

const char *pl_place_name(pl_place place) {
    return place_names[place];
}

size_t pl_place_names(const char *const **names) {
    *names = place_names;
    return PL_N_PLACES;
}

bool pl_place_find(pl_place *place, const char *name) {
    for (int i = 0; i < PL_N_PLACES; i++) {
        if (strcmp(name, place_names[i]) != 0) continue;
        *place = (pl_place)i;
        return true;
    }
    return false;
}

size_t pl_size_names(const char *const **names) {
    *names = size_names;
    return N_SIZES;
}

bool pl_size_find(size_t *offset, const char *name) {
    for (int i = 0; i < N_SIZES; i++) {
        if (strcmp(name, size_names[i]) != 0) continue;
        *offset = size_offsets[i];
        return true;
    }
    return false;
}

bool pl_size_is_whole(size_t offset) {
    return offset != offsetof(pl_config, norm_eps) && offset != offsetof(pl_config, rope_base) &&
           offset != offsetof(pl_config, attn_scale) &&
           offset != offsetof(pl_config, attn_softcap) &&
           offset != offsetof(pl_config, logit_softcap);
}

/* -- sets ----------------------------------------------------------------------------------- */

pl_families *pl_families_new(void) {
    pl_families *set = calloc(1, sizeof *set);
    if (set) set->refs = 1;
    return set;
}

pl_families *pl_families_retain(pl_families *set) {
    if (set) __atomic_add_fetch(&set->refs, 1, __ATOMIC_RELAXED);
    return set;
}

void pl_families_free(pl_families *set) {
    if (!set || __atomic_sub_fetch(&set->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
    pl_arena_clear(&set->memory);
    free(set->items);
    free(set);
}

static bool is(const char *a, const char *b) {
    return a && b && strcmp(a, b) == 0;
}

const pl_family *pl_families_find(const pl_families *set, const char *name) {
    for (size_t i = 0; set && i < set->n; i++) {
        if (is(set->items[i]->name, name)) return set->items[i];
    }
    return pl_family_find(name);
}

const pl_family *pl_families_find_model_type(const pl_families *set, const char *model_type) {
    for (size_t i = 0; set && i < set->n; i++) {
        if (is(set->items[i]->model_type, model_type)) return set->items[i];
    }
    return pl_family_find_model_type(model_type);
}

const pl_family *pl_families_find_gguf(const pl_families *set, const char *gguf, bool experts,
                                       bool windowed) {
    for (size_t i = 0; set && i < set->n; i++) {
        if (is(set->items[i]->gguf, gguf)) return set->items[i];
    }
    return pl_family_find_gguf(gguf, experts, windowed);
}

pl_status pl_families_init_config(const pl_families *set, pl_config *config, const char *arch,
                                  pl_error *err) {
    const pl_family *family = pl_families_find(set, arch);
    if (family) {
        *config = family->config;
        snprintf(config->arch, sizeof config->arch, "%s", family->name);
        return PL_OK;
    }
    const char *const *built_in;
    size_t n_built_in = pl_config_families(&built_in), n_added = set ? set->n : 0;
    const char **names = malloc((n_built_in + n_added) * sizeof *names);
    if (!names) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < n_built_in; i++) names[i] = built_in[i];
    for (size_t i = 0; i < n_added; i++) names[n_built_in + i] = set->items[i]->name;
    char list[512] = "";
    for (size_t i = 0, used = 0; i < n_built_in + n_added && used < sizeof list; i++) {
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    const char *near = pl_nearest_name(arch, names, n_built_in + n_added);
    pl_status status =
        pl_fail(err, PL_ERR_ARGUMENT, "unknown architecture '%s'%s%s%s; known: %s", arch,
                near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "", list);
    free(names);
    return status;
}

/* -- adding --------------------------------------------------------------------------------- */

static pl_status refuse_taken(const pl_families *set, const pl_family *f, pl_error *err) {
    const struct {
        const char *what, *value;
        const pl_family *owner;
    } names[] = {
        {"name", f->name, pl_families_find(set, f->name)},
        {"model_type", f->model_type,
         f->model_type ? pl_families_find_model_type(set, f->model_type) : NULL},
        {"gguf", f->gguf, f->gguf ? pl_families_find_gguf(set, f->gguf, false, false) : NULL}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const pl_family *owner = names[i].owner;
        if (!owner) continue;
        return pl_fail(err, PL_ERR_ARGUMENT, "%s = '%s': %s family '%s' has it already",
                       names[i].what, names[i].value,
                       owner->added ? "the registered" : "the built-in", owner->name);
    }
    return PL_OK;
}

/* A copy in the set's memory; *good turns false when that is short. */
static void *keep(pl_families *set, const void *data, size_t bytes, bool *good) {
    if (!data || !*good) return NULL;
    void *copy = pl_arena_alloc(&set->memory, bytes);
    if (copy) memcpy(copy, data, bytes);
    *good = copy;
    return copy;
}

static const char *keep_text(pl_families *set, const char *text, bool *good) {
    return keep(set, text, text ? strlen(text) + 1 : 0, good);
}

static void keep_rules(pl_families *set, pl_family *f, bool *good) {
    pl_tensor_rule *rules = keep(set, f->rules, f->n_rules * sizeof *rules, good);
    for (size_t i = 0; i < f->n_rules && *good; i++) {
        rules[i].gguf = keep_text(set, rules[i].gguf, good);
        rules[i].hf = keep_text(set, rules[i].hf, good);
        rules[i].merged = keep_text(set, rules[i].merged, good);
    }
    pl_size_name *sizes = keep(set, f->sizes, f->n_sizes * sizeof *sizes, good);
    for (size_t i = 0; i < f->n_sizes && *good; i++) {
        sizes[i].key = keep_text(set, sizes[i].key, good);
    }
    f->rules = rules;
    f->sizes = sizes;
}

static const pl_family *keep_family(pl_families *set, const pl_family *family) {
    static const char *const none[] = {NULL};
    bool good = true;
    pl_family *f = keep(set, family, sizeof *f, &good);
    if (!f) return NULL;
    f->added = true;
    f->name = keep_text(set, f->name, &good);
    f->gguf = keep_text(set, f->gguf, &good);
    f->model_type = keep_text(set, f->model_type, &good);
    f->hf_class = keep_text(set, f->hf_class, &good);
    f->hf_encoder = keep_text(set, f->hf_encoder, &good);
    f->hf_prefix = keep_text(set, f->hf_prefix ? f->hf_prefix : "", &good);
    bool rms = f->config.norm == PL_NORM_RMS;
    f->hf_eps = keep_text(set,
                          f->hf_eps ? f->hf_eps
                          : rms     ? "rms_norm_eps"
                                    : "layer_norm_eps",
                          &good);
    f->hf_partial = keep_text(set, f->hf_partial, &good);
    keep_rules(set, f, &good);
    if (good) pl_family_complete(f);
    const char *const *from = f->ignored ? f->ignored : none;
    size_t n = 0;
    while (from[n]) n++;
    const char **ignored = keep(set, from, (n + 1) * sizeof *ignored, &good);
    for (size_t i = 0; i < n && good; i++) ignored[i] = keep_text(set, ignored[i], &good);
    f->ignored = ignored;
    return good ? f : NULL;
}

pl_status pl_families_add(pl_families *set, const pl_family *family, pl_error *err) {
    pl_status status = pl_family_check(family, err);
    if (status == PL_OK) status = refuse_taken(set, family, err);
    if (status != PL_OK) return status;
    const pl_family **items = realloc(set->items, (set->n + 1) * sizeof *items);
    if (items) set->items = items;
    const pl_family *copy = items ? keep_family(set, family) : NULL;
    if (!copy) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a family");
    items[set->n++] = copy;
    return PL_OK;
}
