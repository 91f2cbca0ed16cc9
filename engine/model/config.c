#include "config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/error.h"
#include "families.h"

pl_status pl_config_init(pl_config *config, const char *arch, pl_error *err) {
    const pl_family *family = pl_family_find(arch);
    if (family) {
        *config = family->config;
        snprintf(config->arch, sizeof config->arch, "%s", family->name);
        return PL_OK;
    }
    const char *const *names;
    size_t n = pl_config_families(&names);
    char list[256] = "";
    for (size_t i = 0, used = 0; i < n && used < sizeof list; i++) {
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    const char *near = pl_nearest_name(arch, names, n);
    return pl_fail(err, PL_ERR_ARGUMENT, "unknown architecture '%s'%s%s%s; known: %s", arch,
                   near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "", list);
}

typedef struct field {
    const char *name;
    int64_t value, least, most;
} field;

static pl_status check_ranges(const pl_config *c, pl_error *err) {
    enum { WIDTH = 1 << 24 };
    const field fields[] = {
        {"d_model", c->d_model, 1, WIDTH},         {"d_mlp", c->d_mlp, 1, WIDTH},
        {"d_head", c->d_head, 1, WIDTH},           {"d_vocab", c->d_vocab, 1, INT32_MAX},
        {"n_layers", c->n_layers, 1, 1 << 16},     {"n_heads", c->n_heads, 1, 1 << 16},
        {"n_kv_heads", c->n_kv_heads, 1, 1 << 16}, {"n_ctx", c->n_ctx, 1, INT32_MAX},
        {"rope_dims", c->rope_dims, 0, c->d_head},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const field *f = &fields[i];
        if (f->value < f->least || f->value > f->most) {
            return pl_fail(err, PL_ERR_ARGUMENT, "%s = %lld: expected %lld to %lld", f->name,
                           (long long)f->value, (long long)f->least, (long long)f->most);
        }
    }
    return PL_OK;
}

pl_status pl_config_check(pl_config *c, pl_error *err) {
    if (c->n_kv_heads == 0) c->n_kv_heads = c->n_heads;
    if (c->d_mlp == 0) c->d_mlp = 4 * c->d_model;
    if (c->d_head == 0 && c->n_heads > 0) {
        if (c->d_model % c->n_heads) {
            return pl_fail(err, PL_ERR_ARGUMENT,
                           "d_model = %lld: expected a multiple of n_heads = %lld",
                           (long long)c->d_model, (long long)c->n_heads);
        }
        c->d_head = c->d_model / c->n_heads;
    }
    if (c->rope_dims == 0 && c->positions == PL_POSITIONS_ROTARY) c->rope_dims = c->d_head;
    pl_status status = check_ranges(c, err);
    if (status != PL_OK) return status;

    if (c->n_heads % c->n_kv_heads) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "n_kv_heads = %lld: expected a divisor of n_heads = %lld",
                       (long long)c->n_kv_heads, (long long)c->n_heads);
    }
    if (c->rope_dims % 2) {
        return pl_fail(err, PL_ERR_ARGUMENT, "rope_dims = %lld: expected an even number",
                       (long long)c->rope_dims);
    }
    if (c->positions == PL_POSITIONS_ROTARY && !(c->rope_base > 0 && isfinite(c->rope_base))) {
        return pl_fail(err, PL_ERR_ARGUMENT, "rope_base = %g: expected a positive number",
                       (double)c->rope_base);
    }
    if (!(c->norm_eps >= 0 && isfinite(c->norm_eps))) {
        return pl_fail(err, PL_ERR_ARGUMENT, "norm_eps = %g: expected a number from 0",
                       (double)c->norm_eps);
    }
    if (c->parallel && c->norm_slot[PL_NORM_AFTER_ADD]) {
        return pl_fail(
            err, PL_ERR_ARGUMENT,
            "parallel blocks have one addition: the norm slot after_add cannot be filled");
    }
    if (c->attn_scale == 0) c->attn_scale = (float)(1.0 / sqrt((double)c->d_head));
    return PL_OK;
}
