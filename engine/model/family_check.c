#include "family_check.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/error.h"
#include "registry.h"

/* Whether the description wants a tensor. */
typedef enum need { FORBIDDEN, ALLOWED, REQUIRED } need;

static bool in_block(pl_place place) {
    return place >= PL_PLACE_NORM_ATTENTION && place <= PL_PLACE_EXPERT_OUT;
}
static bool of_expert(pl_place place) {
    return place >= PL_PLACE_EXPERT_GATE && place <= PL_PLACE_EXPERT_OUT;
}
static bool has_slot(pl_place place) {
    return place == PL_PLACE_NORM_ATTENTION || place == PL_PLACE_NORM_MLP;
}
static bool is_norm(pl_place place) {
    return has_slot(place) || place == PL_PLACE_NORM_EMBED || place == PL_PLACE_NORM_FINAL ||
           place == PL_PLACE_Q_NORM || place == PL_PLACE_K_NORM;
}
static bool is_rope(pl_place place) {
    return place == PL_PLACE_ROPE_FACTORS || place == PL_PLACE_ROPE_FACTORS_LONG ||
           place == PL_PLACE_ROPE_FACTORS_SHORT;
}
static bool is_table(pl_place place) {
    return place == PL_PLACE_EMBED || place == PL_PLACE_POSITIONS ||
           place == PL_PLACE_TOKEN_TYPES || is_rope(place) || place == PL_PLACE_UNEMBED_BIAS;
}

/* The rule of a place, and of a slot where it has some. */
static const pl_tensor_rule *rule_of(const pl_family *f, pl_place place, int slot) {
    for (size_t i = 0; i < f->n_rules; i++) {
        const pl_tensor_rule *r = &f->rules[i];
        if (r->place == place && (!has_slot(place) || (int)r->slot == slot)) return r;
    }
    return NULL;
}

static bool has(const pl_family *f, pl_place place) {
    for (size_t i = 0; i < f->n_rules; i++) {
        if (f->rules[i].place == place) return true;
    }
    return false;
}

/* -- names ---------------------------------------------------------------------------------- */

static pl_status check_text(const char *what, const char *text, size_t most, const char *others,
                            pl_error *err) {
    size_t length = text ? strlen(text) : 0;
    if (!text) return PL_OK;
    if (length == 0 || length > most) {
        return pl_fail(err, PL_ERR_ARGUMENT, "%s = '%.60s': expected 1 to %zu characters", what,
                       text, most);
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 128 && (isalnum(c) || strchr(others, c))) continue;
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "%s = '%.60s': expected letters, digits and any of '%s' only", what, text,
                       others);
    }
    return PL_OK;
}

static pl_status check_names(const pl_family *f, pl_error *err) {
    const struct {
        const char *what, *text;
        size_t most;
    } names[] = {{"name", f->name, PL_ARCH_NAME - 1},
                 {"gguf", f->gguf, PL_PREFIX_MAX},
                 {"model_type", f->model_type, PL_PATTERN_MAX},
                 {"class", f->hf_class, PL_PATTERN_MAX},
                 {"encoder", f->hf_encoder, PL_PATTERN_MAX},
                 {"prefix", f->hf_prefix && *f->hf_prefix ? f->hf_prefix : NULL, PL_PREFIX_MAX},
                 {"rope_fraction", f->hf_partial, PL_PATTERN_MAX}};
    if (!f->name) return pl_fail(err, PL_ERR_ARGUMENT, "name: expected a text");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        pl_status status = check_text(names[i].what, names[i].text, names[i].most, "_.-", err);
        if (status != PL_OK) return status;
    }
    if (!f->gguf && !f->model_type) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "expected model_type (as in config.json), or gguf (as in "
                       "general.architecture), or both");
    }
    if (f->model_type && !f->hf_class) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "class: expected the name that config.json has in architectures");
    }
    return PL_OK;
}

/* Of every number at most one name. */
static pl_status check_sizes(const pl_family *f, pl_error *err) {
    const char *const *names;
    size_t n = pl_size_names(&names);
    if (f->n_sizes > n) return pl_fail(err, PL_ERR_ARGUMENT, "sizes: expected at most %zu", n);
    for (size_t i = 0; i < f->n_sizes; i++) {
        pl_status status =
            check_text("a key in sizes", f->sizes[i].key, PL_PATTERN_MAX, "_.-", err);
        if (status != PL_OK) return status;
        for (size_t j = 0; j < i; j++) {
            if (strcmp(f->sizes[i].key, f->sizes[j].key) != 0) continue;
            return pl_fail(err, PL_ERR_ARGUMENT, "sizes: the key '%s' stands for two numbers",
                           f->sizes[i].key);
        }
    }
    return PL_OK;
}

/* -- tensors -------------------------------------------------------------------------------- */

/* Counts %d and %e; false: there is another %. */
static bool count_marks(const char *pattern, int *layers, int *experts) {
    *layers = *experts = 0;
    for (const char *at = strchr(pattern, '%'); at; at = strchr(at + 2, '%')) {
        if (at[1] == 'd')
            ++*layers;
        else if (at[1] == 'e')
            ++*experts;
        else
            return false;
    }
    return true;
}

static pl_status check_pattern(const pl_tensor_rule *rule, const char *kind, const char *pattern,
                               bool by_expert, pl_error *err) {
    const char *place = pl_place_name(rule->place);
    int layers, experts, want = in_block(rule->place) ? 1 : 0;
    char what[64];
    if (!pattern) return PL_OK;
    snprintf(what, sizeof what, "tensor %s: %s", place, kind);
    pl_status status = check_text(what, pattern, PL_PATTERN_MAX, "_.-%/", err);
    if (status != PL_OK) return status;
    if (!count_marks(pattern, &layers, &experts)) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "%s = '%s': expected no %% but %%d for the layer and %%e for the expert",
                       what, pattern);
    }
    if (layers != want) {
        return pl_fail(err, PL_ERR_ARGUMENT, "%s = '%s': expected %s", what, pattern,
                       want ? "one %d, for the layer" : "no %d: it is not in the blocks");
    }
    if (experts != (by_expert ? 1 : 0)) {
        return pl_fail(err, PL_ERR_ARGUMENT, "%s = '%s': expected %s", what, pattern,
                       by_expert ? "one %e, for the expert" : "no %e: it is no expert's own");
    }
    return PL_OK;
}

static pl_status check_rule(const pl_tensor_rule *r, pl_error *err) {
    if ((unsigned)r->place >= PL_N_PLACES || (unsigned)r->slot >= PL_N_NORM_SLOTS ||
        (unsigned)r->bias > PL_BIAS_ALWAYS) {
        return pl_fail(err, PL_ERR_ARGUMENT, "tensors: a place, slot or bias is out of range");
    }
    const char *place = pl_place_name(r->place);
    bool expert = of_expert(r->place);
    pl_status status = check_pattern(r, "gguf", r->gguf, expert, err);
    if (status == PL_OK) status = check_pattern(r, "hf", r->hf, expert, err);
    if (status == PL_OK) status = check_pattern(r, "merged", r->merged, false, err);
    if (status != PL_OK) return status;
    if (!r->gguf && !r->hf) {
        return pl_fail(err, PL_ERR_ARGUMENT, "tensor %s: expected hf or gguf, its name in files",
                       place);
    }
    bool matrix = !is_norm(r->place) && !is_table(r->place);
    const char *wrong = r->merged && !expert                               ? "merged"
                        : r->conv1d && (!matrix || expert)                 ? "conv1d"
                        : r->by_head && r->place != PL_PLACE_QKV           ? "by_head"
                        : r->slot != PL_NORM_BEFORE && !has_slot(r->place) ? "slot"
                                                                           : NULL;
    if (wrong) {
        return pl_fail(err, PL_ERR_ARGUMENT, "tensor %s: '%s' is not for it", place, wrong);
    }
    if (r->conv1d && r->by_head) {
        return pl_fail(err, PL_ERR_ARGUMENT, "tensor %s: expected conv1d or by_head, not both",
                       place);
    }
    bool biased = !is_table(r->place) && !expert && r->place != PL_PLACE_ROUTER;
    if (!biased && r->bias != PL_BIAS_NEVER) {
        return pl_fail(err, PL_ERR_ARGUMENT, "tensor %s: bias: expected 'never'", place);
    }
    if ((r->place == PL_PLACE_UNEMBED_DENSE || r->place == PL_PLACE_POOLER) &&
        r->bias != PL_BIAS_ALWAYS) {
        return pl_fail(err, PL_ERR_ARGUMENT, "tensor %s: bias: expected 'always'", place);
    }
    return PL_OK;
}

static bool same_text(const char *a, const char *b) {
    return a && b && strcmp(a, b) == 0;
}

static pl_status refuse_twins(const pl_family *f, pl_error *err) {
    for (size_t i = 0; i < f->n_rules; i++) {
        for (size_t j = 0; j < i; j++) {
            const pl_tensor_rule *a = &f->rules[j], *b = &f->rules[i];
            if (a->place == b->place && a->slot == b->slot) {
                return pl_fail(err, PL_ERR_ARGUMENT, "tensor %s is given twice%s",
                               pl_place_name(b->place), has_slot(b->place) ? " in one slot" : "");
            }
            bool hf = same_text(a->hf, b->hf);
            bool bias = a->place == PL_PLACE_UNEMBED_BIAS || b->place == PL_PLACE_UNEMBED_BIAS;
            if ((hf || same_text(a->gguf, b->gguf)) && !bias) {
                return pl_fail(err, PL_ERR_ARGUMENT, "tensors %s and %s have one name: '%s'",
                               pl_place_name(a->place), pl_place_name(b->place),
                               hf ? b->hf : b->gguf);
            }
        }
    }
    return PL_OK;
}

/* -- tensors against the description --------------------------------------------------------- */

static need must_if(bool wanted) {
    return wanted ? REQUIRED : FORBIDDEN;
}

static need need_of_norm(const pl_family *f, pl_place place, int slot) {
    const pl_config *c = &f->config;
    bool shared = place == PL_PLACE_NORM_MLP && slot == PL_NORM_BEFORE && c->shared_norm;
    return must_if(c->norm_slot[slot] && !shared);
}

static need need_of(const pl_family *f, pl_place place, int slot) {
    const pl_config *c = &f->config;
    bool experts = c->n_experts > 0, fused = has(f, PL_PLACE_QKV), pair = has(f, PL_PLACE_GATE_IN);
    switch (place) {
    case PL_PLACE_POSITIONS:
        return must_if(c->positions == PL_POSITIONS_LEARNED);
    case PL_PLACE_NORM_EMBED:
        return must_if(c->norm_embed);
    case PL_PLACE_NORM_FINAL:
        return must_if(c->norm_final);
    case PL_PLACE_UNEMBED_DENSE:
        return must_if(c->unembed_dense);
    case PL_PLACE_UNEMBED:
        return c->tied ? ALLOWED : REQUIRED;
    case PL_PLACE_NORM_ATTENTION:
    case PL_PLACE_NORM_MLP:
        return need_of_norm(f, place, slot);
    case PL_PLACE_QKV:
        return must_if(fused);
    case PL_PLACE_Q:
    case PL_PLACE_K:
    case PL_PLACE_V:
        return must_if(!fused);
    case PL_PLACE_GATE_IN:
        return c->gated && !experts ? ALLOWED : FORBIDDEN;
    case PL_PLACE_GATE:
        return must_if(c->gated && !experts && !pair);
    case PL_PLACE_IN:
        return must_if(!experts && !pair);
    case PL_PLACE_OUT:
        return must_if(!experts);
    case PL_PLACE_Q_NORM:
    case PL_PLACE_K_NORM:
        return must_if(c->qk_norm != PL_QK_NORM_NONE);
    case PL_PLACE_ROUTER:
    case PL_PLACE_EXPERT_GATE:
    case PL_PLACE_EXPERT_IN:
    case PL_PLACE_EXPERT_OUT:
        return must_if(experts);
    case PL_PLACE_ROPE_FACTORS:
    case PL_PLACE_ROPE_FACTORS_LONG:
    case PL_PLACE_ROPE_FACTORS_SHORT:
        return c->positions == PL_POSITIONS_ROTARY ? ALLOWED : FORBIDDEN;
    case PL_PLACE_TOKEN_TYPES:
    case PL_PLACE_UNEMBED_BIAS:
    case PL_PLACE_POOLER:
        return ALLOWED;
    default: /* W_E, W_O */
        return REQUIRED;
    }
}

/* What in the description settles whether a tensor is there. */
static const char *reason(pl_place place) {
    switch (place) {
    case PL_PLACE_POSITIONS:
    case PL_PLACE_ROPE_FACTORS:
    case PL_PLACE_ROPE_FACTORS_LONG:
    case PL_PLACE_ROPE_FACTORS_SHORT:
        return "positions";
    case PL_PLACE_NORM_EMBED:
        return "norm_embed";
    case PL_PLACE_NORM_FINAL:
        return "norm_final";
    case PL_PLACE_UNEMBED_DENSE:
        return "unembed_dense";
    case PL_PLACE_UNEMBED:
        return "tied";
    case PL_PLACE_NORM_ATTENTION:
        return "norm_slots";
    case PL_PLACE_NORM_MLP:
        return "norm_slots and shared_norm";
    case PL_PLACE_GATE:
    case PL_PLACE_GATE_IN:
    case PL_PLACE_IN:
        return "gated, n_experts and W_gate_in";
    case PL_PLACE_Q_NORM:
    case PL_PLACE_K_NORM:
        return "qk_norm";
    case PL_PLACE_Q:
    case PL_PLACE_K:
    case PL_PLACE_V:
        return "whether there is W_QKV";
    case PL_PLACE_EMBED:
    case PL_PLACE_O:
        return "every model has it";
    default:
        return "n_experts";
    }
}

static pl_status check_place(const pl_family *f, pl_place place, int slot, pl_error *err) {
    static const char *const slots[] = {" (slot before)", " (slot after_sublayer)",
                                        " (slot after_add)"};
    const pl_tensor_rule *r = rule_of(f, place, slot);
    need n = need_of(f, place, slot);
    const char *where = has_slot(place) ? slots[slot] : "";
    if (r && n == FORBIDDEN) {
        return pl_fail(err, PL_ERR_ARGUMENT, "tensor %s%s has no place in this config: see %s",
                       pl_place_name(place), where, reason(place));
    }
    if (n != REQUIRED) return PL_OK;
    bool gguf = !f->gguf || (r && r->gguf), hf = !f->model_type || (r && r->hf);
    if (gguf && hf) return PL_OK;
    return pl_fail(err, PL_ERR_ARGUMENT, "tensor %s%s is missing%s (by config: %s)",
                   pl_place_name(place), where,
                   !r     ? ""
                   : gguf ? ": no hf name"
                          : ": no gguf name",
                   reason(place));
}

/* Tensors whose biases one field of the description speaks of. */
typedef struct bias_group {
    const char *field;
    pl_place places[8];
    int n;
} bias_group;
static const bias_group bias_groups[] = {
    {"norm_bias",
     {PL_PLACE_NORM_FINAL, PL_PLACE_NORM_EMBED, PL_PLACE_NORM_ATTENTION, PL_PLACE_NORM_MLP,
      PL_PLACE_Q_NORM, PL_PLACE_K_NORM},
     6},
    {"qkv_bias", {PL_PLACE_QKV, PL_PLACE_Q, PL_PLACE_K, PL_PLACE_V}, 4},
    {"attn_out_bias", {PL_PLACE_O}, 1},
    {"mlp_bias", {PL_PLACE_IN, PL_PLACE_OUT, PL_PLACE_GATE, PL_PLACE_GATE_IN}, 4},
    {"unembed_bias", {PL_PLACE_UNEMBED}, 1},
};
enum { N_BIAS_GROUPS = sizeof bias_groups / sizeof *bias_groups };

static bool *bias_field(pl_config *c, int group) {
    bool *fields[N_BIAS_GROUPS] = {&c->norm_bias, &c->qkv_bias, &c->attn_out_bias, &c->mlp_bias,
                                   &c->unembed_bias};
    return fields[group];
}

/* The first rule of a group; NULL: it has none. */
static const pl_tensor_rule *first_of(const pl_family *f, const bias_group *g) {
    for (size_t i = 0; i < f->n_rules; i++) {
        for (int p = 0; p < g->n; p++) {
            if (f->rules[i].place == g->places[p]) return &f->rules[i];
        }
    }
    return NULL;
}

static pl_status check_biases(const pl_family *f, pl_error *err) {
    pl_config config = f->config;
    for (int i = 0; i < N_BIAS_GROUPS; i++) {
        const bias_group *g = &bias_groups[i];
        const pl_tensor_rule *first = first_of(f, g);
        for (size_t j = 0; j < f->n_rules; j++) {
            bool member = false;
            for (int p = 0; p < g->n; p++) member |= f->rules[j].place == g->places[p];
            if (!member || f->rules[j].bias == first->bias) continue;
            return pl_fail(err, PL_ERR_ARGUMENT,
                           "tensor %s: bias: expected the same as of %s: they have biases together",
                           pl_place_name(f->rules[j].place), pl_place_name(first->place));
        }
        bool own = i == N_BIAS_GROUPS - 1 && has(f, PL_PLACE_UNEMBED_BIAS);
        if (*bias_field(&config, i) && !own && (!first || first->bias == PL_BIAS_NEVER)) {
            return pl_fail(err, PL_ERR_ARGUMENT, "config: %s: no tensor of it has a bias",
                           g->field);
        }
    }
    return PL_OK;
}

void pl_family_complete(pl_family *f) {
    for (int i = 0; i < N_BIAS_GROUPS; i++) {
        const pl_tensor_rule *first = first_of(f, &bias_groups[i]);
        if (first && first->bias == PL_BIAS_ALWAYS) *bias_field(&f->config, i) = true;
    }
    if (f->config.rope_base == 0) f->config.rope_base = 10000.0f;
    if (f->config.norm_eps == 0) f->config.norm_eps = 1e-5f;
}

/* The description with small sizes where it has none, as any model of the family could be. */
static pl_status check_config(const pl_family *f, pl_error *err) {
    pl_family whole = *f;
    pl_family_complete(&whole);
    pl_config *c = &whole.config;
    if (!c->n_heads) c->n_heads = c->n_kv_heads ? c->n_kv_heads : 4;
    if (!c->d_head) c->d_head = c->rope_dims > 64 ? c->rope_dims : 64;
    if (!c->d_model) c->d_model = c->n_heads * c->d_head;
    if (!c->n_layers) c->n_layers = 2;
    if (!c->n_ctx) c->n_ctx = 64;
    if (!c->d_vocab) c->d_vocab = 64;
    if (c->headless) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "config: headless: files say it; give the field encoder instead");
    }
    pl_status status = pl_config_check(c, err);
    if (status != PL_OK) return pl_error_prefix(err, status, "config");
    if (!(f->hf_partial_default >= 0 && f->hf_partial_default <= 1) ||
        (f->hf_partial_default > 0 && !f->hf_partial)) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "rope_fraction_default = %g: expected 0 to 1, and rope_fraction",
                       (double)f->hf_partial_default);
    }
    if (!isfinite(f->hf_gain_offset)) {
        return pl_fail(err, PL_ERR_ARGUMENT, "gain_offset: expected a finite number");
    }
    if (c->positions != PL_POSITIONS_ROTARY && (f->config.rope_dims || f->hf_partial)) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "config: rope_dims, rope_fraction: expected "
                       "positions = 'rotary'");
    }
    return PL_OK;
}

pl_status pl_family_check(const pl_family *f, pl_error *err) {
    pl_status status = check_names(f, err);
    if (status == PL_OK) status = check_sizes(f, err);
    if (status == PL_OK) status = check_config(f, err);
    for (size_t i = 0; i < f->n_rules && status == PL_OK; i++)
        status = check_rule(&f->rules[i], err);
    if (status == PL_OK) status = refuse_twins(f, err);
    for (int place = 0; place < PL_N_PLACES; place++) {
        int n_slots = has_slot((pl_place)place) ? PL_N_NORM_SLOTS : 1;
        for (int slot = 0; slot < n_slots && status == PL_OK; slot++) {
            status = check_place(f, (pl_place)place, slot, err);
        }
    }
    return status == PL_OK ? check_biases(f, err) : status;
}
