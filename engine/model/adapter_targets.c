/* Which matrices of a model's files an adapter may name, and how their rows lie there. */
#include <stdio.h>
#include <string.h>

#include "../base/error.h"
#include "adapter.h"

static const char *pattern_of(const pl_tensor_rule *rule, bool hf) {
    return hf ? rule->hf : rule->gguf;
}

/* Whether queries and keys of a file have their rotated pairs in another order than the model. */
static bool is_reordered(const pl_model *model, bool hf) {
    const pl_config *c = &model->config;
    const pl_family *family = pl_model_family(model);
    bool half = hf ? family->config.rope_half : family->gguf_rope_half;
    return c->positions == PL_POSITIONS_ROTARY && half != c->rope_half;
}

static void add_part(pl_target *t, const pl_linear *linear, bool rotated) {
    t->parts[t->n_parts] = linear;
    t->rotated[t->n_parts++] = rotated;
    t->n_in = pl_linear_n_in(linear);
    t->n_out += pl_linear_n_out(linear);
}

/* The maps of a rule outside of the blocks; none: it is no matrix of the pass. */
static void fill_outside(pl_target *t, const pl_model *model) {
    const pl_weights *w = &model->weights;
    if (model->config.headless) return;
    if (t->rule->place == PL_PLACE_UNEMBED) add_part(t, &w->unembed, false);
    if (t->rule->place == PL_PLACE_UNEMBED_DENSE) add_part(t, &w->unembed_dense, false);
}

static void fill_in_block(pl_target *t, const pl_model *model) {
    const pl_block_weights *b = &model->weights.blocks[t->layer];
    const pl_expert_weights *e = t->expert < 0 ? NULL : &b->experts[t->expert];
    switch (t->rule->place) {
    case PL_PLACE_QKV:
        add_part(t, &b->q, true);
        add_part(t, &b->k, true);
        add_part(t, &b->v, false);
        break;
    case PL_PLACE_GATE_IN:
        add_part(t, &b->gate, false);
        add_part(t, &b->in, false);
        break;
    case PL_PLACE_Q:
        add_part(t, &b->q, true);
        break;
    case PL_PLACE_K:
        add_part(t, &b->k, true);
        break;
    case PL_PLACE_V:
        add_part(t, &b->v, false);
        break;
    case PL_PLACE_O:
        add_part(t, &b->o, false);
        break;
    case PL_PLACE_GATE:
        add_part(t, &b->gate, false);
        break;
    case PL_PLACE_IN:
        add_part(t, &b->in, false);
        break;
    case PL_PLACE_OUT:
        add_part(t, &b->out, false);
        break;
    case PL_PLACE_ROUTER:
        add_part(t, &b->router, false);
        break;
    case PL_PLACE_EXPERT_GATE:
        add_part(t, &e->gate, false);
        break;
    case PL_PLACE_EXPERT_IN:
        add_part(t, &e->in, false);
        break;
    case PL_PLACE_EXPERT_OUT:
        add_part(t, &e->out, false);
        break;
    default:
        break;
    }
}

static pl_status visit_target(const pl_model *model, pl_target *t, pl_target_fn visit,
                              void *context, pl_error *err) {
    if (t->layer < 0)
        fill_outside(t, model);
    else
        fill_in_block(t, model);
    return t->n_parts ? visit(context, t, err) : PL_OK;
}

pl_status pl_each_target(const pl_model *model, bool hf, pl_target_fn visit, void *context,
                         pl_error *err) {
    const pl_family *family = pl_model_family(model);
    const pl_config *c = &model->config;
    if (!family || !(hf ? family->model_type : family->gguf)) {
        return pl_fail(err, PL_ERR_UNSUPPORTED, "there are no %s files of the family %s",
                       hf ? "Hugging Face" : "GGUF", c->arch);
    }
    pl_status status = PL_OK;
    for (size_t i = 0; i < family->n_rules; i++) {
        const pl_tensor_rule *rule = &family->rules[i];
        const char *pattern = pattern_of(rule, hf);
        if (!pattern) continue;
        int64_t n_layers = strstr(pattern, "%d") ? c->n_layers : 1;
        int64_t n_experts = strstr(pattern, "%e") ? c->n_experts : 1;
        for (int64_t n = 0; n < n_layers * n_experts && status == PL_OK; n++) {
            pl_target t = {.rule = rule,
                           .layer = strstr(pattern, "%d") ? n / n_experts : -1,
                           .expert = strstr(pattern, "%e") ? n % n_experts : -1};
            status = visit_target(model, &t, visit, context, err);
        }
        if (status != PL_OK) return status;
    }
    return PL_OK;
}

void pl_target_name(char *out, size_t size, const pl_target *target, bool hf) {
    pl_tensor_rule_name(out, size, pattern_of(target->rule, hf), target->layer, target->expert, "");
    size_t length = strlen(out);
    if (length && out[length - 1] == '.') out[length - 1] = '\0';
}

int64_t pl_target_row(const pl_target *target, const pl_model *model, bool hf, int64_t file_row) {
    const pl_config *c = &model->config;
    int64_t row = file_row, first = 0;
    int part = 0;
    if (target->rule->by_head && hf) { /* the parts' heads take turns */
        int64_t head = file_row / (target->n_parts * c->d_head);
        part = (int)(file_row / c->d_head % target->n_parts);
        row = head * c->d_head + file_row % c->d_head;
    }
    for (int i = 0; i < target->n_parts; i++) {
        int64_t n_out = pl_linear_n_out(target->parts[i]);
        bool here = target->rule->by_head && hf ? i == part : row < n_out;
        bool other = target->rotated[i] && is_reordered(model, hf);
        if (here) return first + (other ? pl_config_other_row(c, row) : row);
        if (!(target->rule->by_head && hf)) row -= n_out;
        first += n_out;
    }
    return file_row;
}
