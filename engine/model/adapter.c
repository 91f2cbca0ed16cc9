#include "adapter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/random.h"

/* -- making and freeing ----------------------------------------------------------------------- */

pl_status pl_adapter_begin(pl_adapter **out, pl_model *model, const char *name, pl_error *err) {
    pl_adapter *a = calloc(1, sizeof *a);
    char *copy = strdup(name);
    if (!a || !copy) {
        free(a);
        free(copy);
        return pl_fail(err, PL_ERR_MEMORY, "out of memory for an adapter");
    }
    *a = (pl_adapter){.model = pl_model_retain(model), .name = copy, .refs = 1};
    *out = a;
    return PL_OK;
}

pl_adapter *pl_adapter_retain(pl_adapter *a) {
    __atomic_add_fetch(&a->refs, 1, __ATOMIC_RELAXED);
    return a;
}

void pl_adapter_free(pl_adapter *a) {
    if (!a || __atomic_sub_fetch(&a->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
    for (size_t i = 0; i < a->n_pairs; i++) {
        pl_tensor_release(&a->pairs[i].a);
        pl_tensor_release(&a->pairs[i].b);
    }
    pl_model_free(a->model);
    free(a->addends);
    free(a->pairs);
    free(a->name);
    free(a);
}

pl_status pl_adapter_add(pl_adapter *adapter, const pl_target *target, int64_t rank, float scale,
                         pl_pair **out, pl_error *err) {
    if (adapter->n_pairs == adapter->capacity) {
        size_t capacity = adapter->capacity ? 2 * adapter->capacity : 32;
        pl_pair *pairs = realloc(adapter->pairs, capacity * sizeof *pairs);
        if (!pairs) return pl_fail(err, PL_ERR_MEMORY, "out of memory for an adapter");
        adapter->pairs = pairs;
        adapter->capacity = capacity;
    }
    pl_pair *pair = &adapter->pairs[adapter->n_pairs];
    *pair = (pl_pair){.target = *target, .scale = scale};
    pl_status status = pl_tensor_new(&pair->a, PL_F32, 2, (int64_t[]){rank, target->n_in}, err);
    if (status != PL_OK) return status;
    status = pl_tensor_new(&pair->b, PL_F32, 2, (int64_t[]){target->n_out, rank}, err);
    if (status != PL_OK) {
        pl_tensor_release(&pair->a);
        return status;
    }
    adapter->n_pairs++;
    *out = pair;
    return PL_OK;
}

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t)((const pl_addend *)a)->to, y = (uintptr_t)((const pl_addend *)b)->to;
    return x < y ? -1 : x > y;
}

pl_status pl_adapter_finish(pl_adapter *adapter, pl_error *err) {
    adapter->addends = calloc(adapter->n_pairs * PL_MAX_PARTS + 1, sizeof *adapter->addends);
    if (!adapter->addends) return pl_fail(err, PL_ERR_MEMORY, "out of memory for an adapter");
    for (size_t i = 0; i < adapter->n_pairs; i++) {
        const pl_pair *pair = &adapter->pairs[i];
        int64_t first = 0;
        for (int k = 0; k < pair->target.n_parts; k++) {
            pl_addend *addend = &adapter->addends[adapter->n_addends++];
            *addend =
                (pl_addend){pair->target.parts[k], {.w = pair->a}, {.w = pair->b}, pair->scale};
            int64_t n_out = pl_linear_n_out(addend->to);
            pl_status status = pl_tensor_narrow(&addend->b.w, 0, first, n_out, err);
            if (status != PL_OK) return status;
            first += n_out;
        }
    }
    qsort(adapter->addends, adapter->n_addends, sizeof *adapter->addends, by_address);
    return PL_OK;
}

/* -- new ones to train ------------------------------------------------------------------------ */

typedef struct newcomer {
    pl_adapter *adapter;
    const char *const *targets;
    size_t n_targets;
    bool *found; /* [n_targets] */
    int64_t rank;
    float scale;
    pl_random random;
} newcomer;

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return m > 0 && n >= m && strcmp(name + n - m, end) == 0 && (n == m || name[n - m - 1] == '.');
}

static bool is_wanted(newcomer *n, const pl_target *t, const char *name) {
    pl_place place = t->rule->place;
    if (!n->targets) return place == PL_PLACE_Q || place == PL_PLACE_V || place == PL_PLACE_QKV;
    bool wanted = false;
    for (size_t i = 0; i < n->n_targets; i++) {
        bool all = strcmp(n->targets[i], "all-linear") == 0 && place != PL_PLACE_UNEMBED;
        if (!all && !ends_with(name, n->targets[i])) continue;
        wanted = n->found[i] = true;
    }
    return wanted;
}

static pl_status add_new(void *context, const pl_target *target, pl_error *err) {
    newcomer *n = context;
    char name[160];
    pl_target_name(name, sizeof name, target, true);
    if (!is_wanted(n, target, name)) return PL_OK;
    pl_pair *pair;
    pl_status status = pl_adapter_add(n->adapter, target, n->rank, n->scale, &pair, err);
    if (status != PL_OK) return status;
    float bound = 1 / sqrtf((float)target->n_in), *a = pair->a.data;
    for (int64_t i = 0; i < pl_tensor_count(&pair->a); i++) {
        a[i] = bound * (2 * pl_random_uniform(&n->random) - 1);
    }
    memset(pair->b.data, 0, (size_t)pl_tensor_count(&pair->b) * sizeof(float));
    pair->a.storage->leaf = pair->b.storage->leaf = true;
    return PL_OK;
}

static pl_status find_module(void *context, const pl_target *target, pl_error *err) {
    (void)err;
    char name[160], *names = context; /* [512] */
    pl_target_name(name, sizeof name, target, true);
    const char *last = strrchr(name, '.') ? strrchr(name, '.') + 1 : name;
    char word[192];
    snprintf(word, sizeof word, " %s", last);
    if (!strstr(names, word)) strncat(names, word, 511 - strlen(names));
    return PL_OK;
}

static pl_status check_found(const newcomer *n, const pl_model *model, pl_error *err) {
    for (size_t i = 0; i < n->n_targets; i++) {
        if (n->found[i]) continue;
        char names[512] = "";
        pl_each_target(model, true, find_module, names, NULL);
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "target '%s': expected the end of a matrix's name (one of%s) or all-linear",
                       n->targets[i], names);
    }
    return PL_OK;
}

pl_status pl_adapter_new(pl_adapter **out, pl_model *model, const char *const *targets,
                         size_t n_targets, int64_t rank, float alpha, uint64_t seed,
                         pl_error *err) {
    if (rank < 1 || rank > model->config.d_model) {
        return pl_fail(err, PL_ERR_ARGUMENT, "rank = %lld: expected 1 to d_model = %lld",
                       (long long)rank, (long long)model->config.d_model);
    }
    if (!(alpha > 0 && isfinite(alpha))) {
        return pl_fail(err, PL_ERR_ARGUMENT, "alpha = %g: expected a positive number",
                       (double)alpha);
    }
    newcomer n = {.targets = targets,
                  .n_targets = targets ? n_targets : 0,
                  .found = calloc(n_targets + 1, sizeof *n.found),
                  .rank = rank,
                  .scale = alpha / (float)rank,
                  .random = {.seed = seed}};
    if (!n.found) return pl_fail(err, PL_ERR_MEMORY, "out of memory for an adapter");
    pl_status status = pl_adapter_begin(&n.adapter, model, "adapter", err);
    if (status == PL_OK) status = pl_each_target(model, true, add_new, &n, err);
    if (status == PL_OK) status = check_found(&n, model, err);
    if (status == PL_OK) status = pl_adapter_finish(n.adapter, err);
    free(n.found);
    if (status != PL_OK) {
        pl_adapter_free(n.adapter);
        return status;
    }
    *out = n.adapter;
    return PL_OK;
}

/* -- lists ------------------------------------------------------------------------------------ */

void pl_adapters_free(pl_adapter_list *list) {
    if (!list) return;
    for (int i = 0; i < list->n; i++) pl_adapter_free(list->uses[i].adapter);
    free(list);
}

pl_status pl_adapters_copy(pl_adapter_list **out, const pl_adapter_list *list, pl_error *err) {
    *out = NULL;
    if (!list) return PL_OK;
    pl_adapter_list *copy = malloc(sizeof *copy);
    if (!copy) return pl_fail(err, PL_ERR_MEMORY, "out of memory for adapters");
    *copy = *list;
    for (int i = 0; i < copy->n; i++) pl_adapter_retain(copy->uses[i].adapter);
    *out = copy;
    return PL_OK;
}

static void take_off(pl_adapter_list **list, int at) {
    pl_adapter_list *l = *list;
    pl_adapter_free(l->uses[at].adapter);
    l->n--;
    memmove(&l->uses[at], &l->uses[at + 1], (size_t)(l->n - at) * sizeof *l->uses);
    if (l->n > 0) return;
    free(l);
    *list = NULL;
}

pl_status pl_adapters_set(pl_adapter_list **list, const pl_model *model, pl_adapter *adapter,
                          float scale, pl_error *err) {
    if (adapter->model != model) {
        return pl_fail(err, PL_ERR_ARGUMENT, "the adapter %s was loaded for another model, %s",
                       adapter->name, adapter->model->name);
    }
    if (!isfinite(scale)) {
        return pl_fail(err, PL_ERR_ARGUMENT, "scale = %g: expected a finite number", (double)scale);
    }
    int n = *list ? (*list)->n : 0, at = 0;
    while (at < n && (*list)->uses[at].adapter != adapter) at++;
    if (scale == 0) {
        if (at < n) take_off(list, at);
        return PL_OK;
    }
    if (at == PL_MAX_ADAPTERS) {
        return pl_fail(err, PL_ERR_ARGUMENT, "more than %d adapters at once", PL_MAX_ADAPTERS);
    }
    if (!*list && !(*list = calloc(1, sizeof **list))) {
        return pl_fail(err, PL_ERR_MEMORY, "out of memory for adapters");
    }
    if (at == n) {
        (*list)->uses[at].adapter = pl_adapter_retain(adapter);
        (*list)->n++;
    }
    (*list)->uses[at].scale = scale;
    return PL_OK;
}

float pl_adapters_scale(const pl_adapter_list *list, const pl_adapter *adapter) {
    for (int i = 0; list && i < list->n; i++) {
        if (list->uses[i].adapter == adapter) return list->uses[i].scale;
    }
    return 0;
}
