/* Low-rank adapters: what was trained beside weights that stay as they are (LoRA, Hu et al. 2021,
 * arXiv:2106.09685).
 *
 *     y = x Wᵀ + b + scale · alpha / r · (x Aᵀ) Bᵀ        A [r, n_in], B [n_out, r]
 *
 * The files of an adapter name matrices as the files of its base do, so that a pair belongs to a
 * tensor of the family's table. Where that holds several maps in one (queries, keys and values),
 * they share A, and each has its rows of B. */
#ifndef PL_MODEL_ADAPTER_H
#define PL_MODEL_ADAPTER_H

#include "../format/json.h"
#include "../format/weights_file.h"
#include "model.h"
#include "pass.h"

enum { PL_MAX_PARTS = 3, PL_MAX_ADAPTERS = 64 };

/* A matrix of the base's files that can be adapted. */
typedef struct pl_target {
    const pl_tensor_rule *rule;
    int64_t layer, expert; /* -1: none */
    const pl_linear *parts[PL_MAX_PARTS];
    bool rotated[PL_MAX_PARTS]; /* queries and keys */
    int n_parts;
    int64_t n_in, n_out; /* n_out of all parts together */
} pl_target;

typedef struct pl_pair {
    pl_target target;
    pl_tensor a, b; /* float32, owned; the rows of b as the model has them, part by part */
    float scale;    /* alpha / r, or what the file says instead */
} pl_pair;

/* What a pair adds to one map of the model. */
typedef struct pl_addend {
    const pl_linear *to;
    pl_linear a, b; /* views of the pair's */
    float scale;
} pl_addend;

struct pl_adapter {
    pl_model *model;
    char *name; /* of its file or folder */
    pl_pair *pairs;
    size_t n_pairs, capacity;
    pl_addend *addends; /* by the address of the map */
    size_t n_addends;
    int refs;
};

/* Calls visit for every target of the model, in the order of the family's table. hf: with the names
 * and the order of rows that Hugging Face's files have, else GGUF's. PL_ERR_UNSUPPORTED: there are
 * no such files of the family. */
typedef pl_status (*pl_target_fn)(void *context, const pl_target *target, pl_error *err);
pl_status pl_each_target(const pl_model *model, bool hf, pl_target_fn visit, void *context,
                         pl_error *err);
/* "model.layers.3.self_attn.q_proj", and the row of B, part by part in the model's order, that a
 * row in the file is. */
void pl_target_name(char *out, size_t size, const pl_target *target, bool hf);
int64_t pl_target_row(const pl_target *target, const pl_model *model, bool hf, int64_t file_row);

/* An adapter without pairs, then pairs, then its end. A pair's a and b are new, not cleared. */
pl_status pl_adapter_begin(pl_adapter **adapter, pl_model *model, const char *name, pl_error *err);
pl_status pl_adapter_add(pl_adapter *adapter, const pl_target *target, int64_t rank, float scale,
                         pl_pair **pair, pl_error *err);
pl_status pl_adapter_finish(pl_adapter *adapter, pl_error *err);

/* An adapter to be trained, of the given rank: A random and uniform, B zero, so that it changes
 * nothing yet; both require grad.
 *   targets  [n_targets], ends of names in Hugging Face's files: "q_proj"; NULL: those that make
 *            queries and values. "all-linear": every matrix but the one that makes logits
 * Errors: PL_ERR_ARGUMENT (a rank or alpha out of range, a target that the model does not have). */
pl_status pl_adapter_new(pl_adapter **adapter, pl_model *model, const char *const *targets,
                         size_t n_targets, int64_t rank, float alpha, uint64_t seed, pl_error *err);

/* Everything but opening the files; config: of PEFT, NULL for GGUF. For tests of wild bytes. */
pl_status pl_adapter_read(pl_adapter *adapter, const pl_weights_file *file, const json_t *config,
                          pl_error *err);

/* What pl_adapter_save does where the path ends so. */
pl_status pl_adapter_save_gguf(const pl_adapter *adapter, const char *path, pl_error *err);

/* -- what sequences wear ---------------------------------------------------------------------- */

typedef struct pl_adapter_list {
    pl_adapter_use uses[PL_MAX_ADAPTERS]; /* [n], adapters counted, scales not 0 */
    int n;
} pl_adapter_list;

/* NULL is the empty list; a list that becomes empty is freed. */
pl_status pl_adapters_set(pl_adapter_list **list, const pl_model *model, pl_adapter *adapter,
                          float scale, pl_error *err);
pl_status pl_adapters_copy(pl_adapter_list **out, const pl_adapter_list *list, pl_error *err);
void pl_adapters_free(pl_adapter_list *list);
/* 0: it is not among them. */
float pl_adapters_scale(const pl_adapter_list *list, const pl_adapter *adapter);

/* -- in the pass ------------------------------------------------------------------------------ */

/* A part of a linear map: some of its outputs, or some of its inputs. */
typedef struct pl_cut {
    int64_t first_out, n_out, first_in, n_in; /* n 0: all */
} pl_cut;

/* out += what the adapters of each row's sequence add to the map of x. spans tell whose rows x has.
 * cut NULL: the whole map. */
pl_status pl_adapt(pl_pass *p, pl_tensor *out, const pl_tensor *x, const pl_linear *linear,
                   const pl_cut *cut, const pl_span *spans, int64_t n_spans);

/* The spans, in the pass's arena, of n rows of the pass that were taken together. */
pl_status pl_spans_of_rows(pl_pass *p, pl_span **spans, int64_t *n_spans, const int32_t *rows,
                           int64_t n);

#endif
