/* One sampler: finding it by name, its parameters and its lists. See chain.h. */
#include "chain.h"

#include "../base/error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* The same thing under the names of other programs. */
static const struct {
    const char *theirs, *ours;
} synonyms[] = {
    {"temperature", "temp"},
    {"temp_ext", "temp"},
    {"dynatemp", "temp"},
    {"topk", "top_k"},
    {"topp", "top_p"},
    {"minp", "min_p"},
    {"nucleus", "top_p"},
    {"typical", "typ_p"},
    {"typical_p", "typ_p"},
    {"locally_typical", "typ_p"},
    {"top_nsigma", "top_n_sigma"},
    {"repetition_penalty", "penalty_repeat"},
    {"repeat_penalty", "penalty_repeat"},
    {"repeat_last_n", "penalty_last_n"},
    {"frequency_penalty", "penalty_freq"},
    {"presence_penalty", "penalty_present"},
    {"mirostat_mode", "mirostat"},
    {"adaptive_probability", "adaptive_p"},
    {"bad_words", "bad_words_ids"},
    {"ngram", "no_repeat_ngram_size"},
    {"forced_bos_token_id", "forced_bos"},
    {"forced_eos_token_id", "forced_eos"},
    {"min_length", "min_new_tokens"},
    {"multinomial", "dist"},
    {"random", "dist"},
    {"categorical", "dist"},
    {"argmax", "greedy"},
};

static const char *find_synonym(const char *name) {
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++)
        if (strcasecmp(name, synonyms[i].theirs) == 0) return synonyms[i].ours;
    return NULL;
}

const pl_sampler_kind *pl_samplers_find(const char *name) {
    for (size_t i = 0; i < pl_samplers_count(); i++)
        if (strcmp(pl_samplers_get(i)->name, name) == 0) return pl_samplers_get(i);
    return NULL;
}

const pl_sampler_kind *pl_samplers_find_by_param(const char *param) {
    const pl_sampler_kind *found = NULL;
    for (size_t i = 0; i < pl_samplers_count(); i++) {
        const pl_sampler_kind *kind = pl_samplers_get(i);
        bool has = kind->lists.name && strcmp(kind->lists.name, param) == 0;
        for (int p = 0; p < kind->n_params; p++)
            has = has || strcmp(kind->params[p].name, param) == 0;
        if (!has) continue;
        if (found) return NULL;
        found = kind;
    }
    return found;
}

pl_sampler pl_sampler_of(const pl_sampler_kind *kind) {
    pl_sampler sampler = {.kind = kind};
    for (int p = 0; p < kind->n_params; p++) sampler.params[p] = kind->params[p].neutral;
    return sampler;
}

pl_status pl_sampler_unknown(const char *name, const char *const *extra, size_t n_extra,
                             pl_error *err) {
    enum { MOST = 128 };
    const char *names[MOST];
    size_t n = 0;
    for (size_t i = 0; i < pl_samplers_count() && n < MOST; i++)
        names[n++] = pl_samplers_get(i)->name;
    for (size_t i = 0; i < n_extra && n < MOST; i++) names[n++] = extra[i];
    const char *near = find_synonym(name);
    if (!near) near = pl_nearest_name(name, names, n);
    if (near)
        return pl_fail(err, PL_ERR_ARGUMENT, "no sampler is called '%s'; did you mean '%s'?", name,
                       near);
    char list[400] = "";
    size_t used = 0;
    for (size_t i = 0; i < n && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? " " : "", names[i]);
    return pl_fail(err, PL_ERR_ARGUMENT, "no sampler is called '%s'; there are: %s", name, list);
}

pl_status pl_sampler_init(pl_sampler *sampler, const char *name, pl_error *err) {
    const pl_sampler_kind *kind = pl_samplers_find(name);
    if (!kind) return pl_sampler_unknown(name, NULL, 0, err);
    *sampler = pl_sampler_of(kind);
    return PL_OK;
}

static pl_status check_param(const pl_sampler_kind *kind, const pl_sampler_param *param,
                             double value, pl_error *err) {
    if (!(value >= param->min && value <= param->max))
        return pl_fail(err, PL_ERR_ARGUMENT, "%s: %s is %g, expected a number from %g to %g",
                       kind->name, param->name, value, param->min, param->max);
    if (param->whole && value != floor(value))
        return pl_fail(err, PL_ERR_ARGUMENT, "%s: %s is %g, expected a whole number", kind->name,
                       param->name, value);
    return PL_OK;
}

pl_status pl_sampler_set(pl_sampler *sampler, const char *param, double value, pl_error *err) {
    const pl_sampler_kind *kind = sampler->kind;
    const char *names[PL_SAMPLER_PARAMS];
    for (int i = 0; i < kind->n_params; i++) {
        names[i] = kind->params[i].name;
        if (strcmp(names[i], param) != 0) continue;
        pl_status status = check_param(kind, &kind->params[i], value, err);
        if (status == PL_OK) sampler->params[i] = value;
        return status;
    }
    if (kind->n_params == 0)
        return pl_fail(err, PL_ERR_ARGUMENT, "%s has no numeric parameters, got '%s'", kind->name,
                       param);
    const char *near = pl_nearest_name(param, names, (size_t)kind->n_params);
    return pl_fail(err, PL_ERR_ARGUMENT, "%s has no parameter '%s'; %s '%s'%s", kind->name, param,
                   near ? "did you mean" : "its first is", near ? near : names[0], near ? "?" : "");
}

pl_status pl_sampler_add_list(pl_sampler *sampler, const int32_t *ids, size_t n, double value,
                              int64_t n_vocab, pl_error *err) {
    const pl_sampler_kind *kind = sampler->kind;
    const pl_sampler_lists *lists = &kind->lists;
    if (!lists->name)
        return pl_fail(err, PL_ERR_ARGUMENT, "%s takes no list of tokens", kind->name);
    if (n == 0 || (lists->single && n != 1))
        return pl_fail(err, PL_ERR_ARGUMENT, "%s: a list of %zu tokens, expected %s", lists->name,
                       n, lists->single ? "1" : "at least 1");
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return pl_fail(err, PL_ERR_ARGUMENT, "%s: token %lld: expected 0 to %lld", lists->name,
                           (long long)ids[i], (long long)n_vocab - 1);
    if (lists->valued && !(value < INFINITY))
        return pl_fail(err, PL_ERR_ARGUMENT, "%s: the bias of token %lld is %g, expected a number",
                       lists->name, (long long)ids[0], value);
    return pl_token_lists_add(&sampler->lists, ids, n, value, err);
}

static pl_status fill_lists(pl_sampler *sampler, const pl_tokenizer *tok, pl_error *err) {
    enum { LONGEST_BREAKER = 8 };
    static const char *const breakers[] = {"\n", ":", "\"", "*"};
    if (sampler->kind->lists.otherwise == PL_LISTS_ENDS)
        return pl_token_lists_add_ends(&sampler->lists, tok, err);
    if (sampler->kind->lists.otherwise != PL_LISTS_BREAKERS) return PL_OK;
    for (size_t i = 0; i < sizeof breakers / sizeof *breakers; i++) {
        pl_status status =
            pl_token_lists_add_breaker(&sampler->lists, tok, breakers[i], 1, LONGEST_BREAKER, err);
        if (status != PL_OK) return status;
    }
    return PL_OK;
}

pl_status pl_sampler_complete(pl_sampler *sampler, const pl_tokenizer *tok, int64_t n_vocab,
                              pl_error *err) {
    pl_status status = PL_OK;
    if (tok && sampler->lists.n == 0) status = fill_lists(sampler, tok, err);
    if (status == PL_OK && sampler->kind->start)
        status = sampler->kind->start(sampler, tok, n_vocab, err);
    return status;
}

void pl_sampler_clear(pl_sampler *sampler) {
    pl_token_lists_clear(&sampler->lists);
    if (sampler->kind && sampler->kind->free && sampler->state) sampler->kind->free(sampler);
    sampler->state = NULL;
}
