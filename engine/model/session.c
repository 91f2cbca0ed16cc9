#include "adapter.h"

#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/threads.h"

/* A hook may run another pass of its session; each level has its own workspace. */
enum { MAX_DEPTH = 8 };

struct pl_session {
    pl_model *model;
    const pl_kernels *kernels;
    const pl_fast_kernels *fast; /* for precision "fast", or NULL */
    pl_session_options options;
    pl_hooks *hooks;
    pl_page_pool pool;
    pl_arena arenas[MAX_DEPTH];
    int depth;
    pl_adapter_list *adapters; /* what new sequences wear */
    int refs;                  /* the owner and each sequence */
    pl_session_counters counters;
};

pl_session_options pl_session_options_default(void) {
    return (pl_session_options){.kv_dtype = PL_F16, .n_batch = 512, .parallel_work = 1 << 16};
}

static pl_status check_options(pl_session_options *o, const pl_config *config, pl_error *err) {
    if (o->n_threads == 0) o->n_threads = pl_threads_default();
    if (o->n_threads < 1 || o->n_threads > PL_MAX_THREADS) {
        return pl_fail(err, PL_ERR_ARGUMENT, "threads = %d: expected 1 to %d", o->n_threads,
                       PL_MAX_THREADS);
    }
    if (o->n_batch < 1 || o->n_batch > 1 << 20) {
        return pl_fail(err, PL_ERR_ARGUMENT, "n_batch = %lld: expected 1 to %d",
                       (long long)o->n_batch, 1 << 20);
    }
    if (o->parallel_work < 0) {
        return pl_fail(err, PL_ERR_ARGUMENT, "parallel_work = %lld: expected 0 or more",
                       (long long)o->parallel_work);
    }
    if (o->kv_dtype != PL_F16 && o->kv_dtype != PL_F32 && o->kv_dtype != PL_Q8_0) {
        return pl_fail(err, PL_ERR_ARGUMENT, "kv = %s: expected f16, f32 or q8_0",
                       pl_dtype_get(o->kv_dtype)->name);
    }
    if (o->kv_dtype == PL_Q8_0 && config->d_head % 32 != 0) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "kv = q8_0: its blocks of 32 do not divide d_head = %lld",
                       (long long)config->d_head);
    }
    if (o->exact && o->fast) {
        return pl_fail(err, PL_ERR_ARGUMENT, "precision: exact and fast contradict one another");
    }
    if (o->n_ctx == 0) o->n_ctx = pl_config_default_ctx(config);
    bool learned = config->positions == PL_POSITIONS_LEARNED;
    int64_t most = learned ? config->n_ctx : INT32_MAX;
    if (o->n_ctx < 1 || o->n_ctx > most) {
        return pl_fail(err, PL_ERR_ARGUMENT, "n_ctx = %lld: expected 1 to %lld%s",
                       (long long)o->n_ctx, (long long)most,
                       learned ? ", the positions that the model has learned" : "");
    }
    return PL_OK;
}

pl_status pl_session_new(pl_session **out, pl_model *model, const pl_session_options *options,
                         pl_error *err) {
    pl_session_options checked = options ? *options : pl_session_options_default();
    pl_status status = check_options(&checked, &model->config, err);
    if (status != PL_OK) return status;
    pl_session *session = calloc(1, sizeof *session);
    if (!session) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a session");
    status = pl_kernels_choose(&session->kernels, err);
    if (checked.fast) session->fast = pl_kernels_fast();
    if (status == PL_OK) status = pl_hooks_new(&session->hooks, model->config.n_layers, err);
    if (status != PL_OK) {
        free(session);
        return status;
    }
    session->model = pl_model_retain(model);
    session->options = checked;
    session->refs = 1;
    pl_page_pool_init(&session->pool, &model->config, checked.kv_dtype);
    *out = session;
    return PL_OK;
}

void pl_session_free(pl_session *session) {
    if (!session || --session->refs > 0) return;
    pl_page_pool_clear(&session->pool);
    for (int i = 0; i < MAX_DEPTH; i++) pl_arena_clear(&session->arenas[i]);
    pl_hooks_free(session->hooks);
    pl_adapters_free(session->adapters);
    pl_model_free(session->model);
    free(session);
}

pl_session *pl_session_retain(pl_session *session) {
    session->refs++;
    return session;
}

pl_model *pl_session_model(const pl_session *session) {
    return session->model;
}

pl_hooks *pl_session_hooks(pl_session *session) {
    return session->hooks;
}

pl_page_pool *pl_session_pool(pl_session *session) {
    return &session->pool;
}

pl_status pl_session_set_adapter(pl_session *session, pl_adapter *adapter, float scale,
                                 pl_error *err) {
    return pl_adapters_set(&session->adapters, session->model, adapter, scale, err);
}

const pl_adapter_list *pl_session_adapters(const pl_session *session) {
    return session->adapters;
}

const pl_session_options *pl_session_get_options(const pl_session *session) {
    return &session->options;
}

pl_status pl_session_set_threads(pl_session *session, int n_threads, pl_error *err) {
    pl_session_options options = session->options;
    options.n_threads = n_threads;
    pl_status status = check_options(&options, &session->model->config, err);
    if (status == PL_OK) session->options = options;
    return status;
}

void pl_session_set_interrupt(pl_session *session, bool (*interrupt)(void *context),
                              void *context) {
    session->options.interrupt = interrupt;
    session->options.interrupt_context = context;
}

void pl_session_set_check_finite(pl_session *session, bool check) {
    session->options.check_finite = check;
}

pl_session_counters pl_session_get_counters(const pl_session *session) {
    pl_session_counters counters = session->counters;
    for (int i = 0; i < MAX_DEPTH; i++) {
        counters.workspace_bytes += session->arenas[i].peak_bytes;
    }
    counters.kv_bytes = session->pool.n_pages * (sizeof(pl_page) + 2 * session->pool.half_bytes);
    return counters;
}

pl_status pl_pass_poll(pl_pass *p) {
    const pl_session_options *o = &p->session->options;
    if (!o->interrupt || !o->interrupt(o->interrupt_context)) return PL_OK;
    return pl_fail(&p->call.err, PL_ERR_INTERRUPTED, "interrupted");
}

/* -- extending ------------------------------------------------------------------------------ */

/* What one call asks for: whole extensions, or partial runs. */
typedef struct work {
    const pl_extension *extensions;
    const pl_partial *partials; /* or NULL */
    size_t n_items;
    pl_layers layers;
} work;

static const pl_extension *work_item(const work *w, size_t i) {
    return w->partials ? &w->partials[i].rows : &w->extensions[i];
}

static pl_status check_types(const pl_extension *item, const pl_config *config, pl_error *err) {
    int64_t n_types = config->n_token_types;
    if (item->types && n_types == 0) {
        return pl_fail(err, PL_ERR_ARGUMENT, "types: this model knows no kinds of tokens");
    }
    for (int64_t i = 0; item->types && i < item->n; i++) {
        if (item->types[i] < 0 || item->types[i] >= n_types) {
            return pl_fail(err, PL_ERR_ARGUMENT, "token type %d at index %lld: expected 0 to %lld",
                           item->types[i], (long long)i, (long long)n_types - 1);
        }
    }
    return PL_OK;
}

static pl_status check_tokens(const pl_extension *item, int64_t d_vocab, pl_error *err) {
    for (int64_t i = 0; i < item->n; i++) {
        if (item->tokens[i] < 0 || item->tokens[i] >= d_vocab) {
            return pl_fail(err, PL_ERR_ARGUMENT, "token id %d at index %lld: expected 0 to %lld",
                           item->tokens[i], (long long)i, (long long)d_vocab - 1);
        }
    }
    return PL_OK;
}

/* What the model's description rules out. */
static pl_status check_parts(const pl_config *config, const pl_extension *item, pl_error *err) {
    int64_t held = item->seq->length;
    if (item->which != PL_LOGITS_NONE && config->headless) {
        return pl_fail(err, PL_ERR_UNSUPPORTED, "this model has no output matrix: no logits");
    }
    if (!config->causal && item->tokens && held > 0) {
        return pl_fail(err, PL_ERR_STATE,
                       "this model reads a text in one call, to its end: the sequence holds %lld "
                       "tokens already; take a new one, or truncate it to 0",
                       (long long)held);
    }
    if (!config->causal && !item->tokens && item->n < held) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "n = %lld of %lld tokens: this model reads a text in one call, whole",
                       (long long)item->n, (long long)held);
    }
    return check_types(item, config, err);
}

static pl_status check_item(const pl_session *session, const pl_extension *item, pl_error *err) {
    const pl_sequence *seq = item->seq;
    int64_t d_vocab = session->model->config.d_vocab, n_ctx = session->options.n_ctx;
    if (seq->session != session) {
        return pl_fail(err, PL_ERR_ARGUMENT, "the sequences of one call must share a session");
    }
    pl_status status = pl_sequence_check_idle(seq, err);
    if (status != PL_OK) return status;
    if (item->n < 1) return pl_fail(err, PL_ERR_ARGUMENT, "no tokens: expected at least one");
    status = check_parts(&session->model->config, item, err);
    if (status != PL_OK) return status;
    if (!item->tokens) {
        if (item->n <= seq->length) return PL_OK;
        return pl_fail(err, PL_ERR_ARGUMENT, "n = %lld: the sequence holds %lld positions",
                       (long long)item->n, (long long)seq->length);
    }
    if (item->n > n_ctx - seq->length) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "%lld tokens after %lld do not fit the context of %lld positions (n_ctx)",
                       (long long)item->n, (long long)seq->length, (long long)n_ctx);
    }
    return check_tokens(item, d_vocab, err);
}

static pl_status check_partial(const work *w, const pl_partial *item, pl_error *err) {
    if (!item->residual && w->layers.from > 0) {
        return pl_fail(err, PL_ERR_ARGUMENT, "layer %lld needs a residual stream to start from",
                       (long long)w->layers.from);
    }
    return PL_OK;
}

/* The item's tokens and their kinds, where the sequence goes on. */
static void keep_tokens(const pl_extension *item) {
    pl_sequence *seq = item->seq;
    /* Running again, they are where they go. */
    memmove(seq->tokens + seq->start_length, item->tokens, (size_t)item->n * sizeof *seq->tokens);
    int32_t *types = seq->types + seq->start_length;
    if (item->types)
        memmove(types, item->types, (size_t)item->n * sizeof *types);
    else
        memset(types, 0, (size_t)item->n * sizeof *types);
}

/* Memory and pages of its own for what is to come; the length stays. */
static pl_status prepare_item(const work *w, const pl_extension *item, pl_error *err) {
    pl_sequence *seq = item->seq;
    int64_t end = seq->start_length + item->n;
    pl_status status = pl_sequence_reserve(seq, end, err);
    if (status != PL_OK) return status;
    status =
        pl_page_table_own(&seq->table, &seq->session->pool, seq->start_length, end, w->layers, err);
    if (status != PL_OK || !item->tokens) return status;
    keep_tokens(item);
    return PL_OK;
}

/* Where the next chunk begins. */
typedef struct cursor {
    size_t item;
    int64_t offset;
} cursor;

/* The rows of one pass, and where the logits of each span go. */
typedef struct chunk {
    pl_pass pass;
    const work *work;
    pl_span *spans, *logit_spans;
    int32_t *tokens, *positions, *types, *logit_rows;
    float **logits;      /* [n_logit_spans] */
    cursor first;        /* of the first span */
    pl_tensor *recorded; /* all logits, where gradients are recorded; or NULL */
} chunk;

static bool chunk_alloc(chunk *c, pl_arena *arena, size_t n_spans, size_t n_rows) {
    c->spans = pl_arena_alloc(arena, n_spans * sizeof *c->spans);
    c->logit_spans = pl_arena_alloc(arena, n_spans * sizeof *c->logit_spans);
    c->logits = pl_arena_alloc(arena, n_spans * sizeof *c->logits);
    c->tokens = pl_arena_alloc(arena, n_rows * sizeof *c->tokens);
    c->positions = pl_arena_alloc(arena, n_rows * sizeof *c->positions);
    c->types = pl_arena_alloc(arena, n_rows * sizeof *c->types);
    c->logit_rows = pl_arena_alloc(arena, n_rows * sizeof *c->logit_rows);
    return c->spans && c->logit_spans && c->logits && c->tokens && c->positions && c->types &&
           c->logit_rows;
}

/* Adds n rows of an item, from `offset` of its tokens on. */
static void chunk_add(chunk *c, const pl_extension *item, int64_t offset, int64_t n) {
    pl_pass *p = &c->pass;
    int64_t d_vocab = p->model->config.d_vocab;
    pl_span span = {item->seq, p->n_rows, n, item->seq->length, item->seq->start_length, item->n};
    for (int64_t i = 0; i < n; i++) {
        c->tokens[p->n_rows + i] = item->seq->tokens[item->seq->start_length + offset + i];
        c->positions[p->n_rows + i] = (int32_t)(span.first_pos + i);
        c->types[p->n_rows + i] = item->seq->types[item->seq->start_length + offset + i];
    }
    int64_t first = n; /* of the rows that get logits */
    if (item->which == PL_LOGITS_ALL) first = 0;
    if (item->which == PL_LOGITS_LAST && offset + n == item->n) first = n - 1;
    if (first < n) {
        c->logits[p->n_logit_spans] =
            item->which == PL_LOGITS_ALL ? item->logits + offset * d_vocab : item->logits;
        c->logit_spans[p->n_logit_spans++] =
            (pl_span){item->seq,     p->n_logit_rows, n - first, span.first_pos + first,
                      span.call_pos, span.call_n};
        for (int64_t i = first; i < n; i++) {
            c->logit_rows[p->n_logit_rows++] = (int32_t)(p->n_rows + i);
        }
    }
    c->spans[p->n_spans++] = span;
    p->adapted |= item->seq->adapters != NULL;
    p->n_rows += n;
}

/* Fills a chunk with rows from the cursor on. Without a causal mask a position sees its whole call,
 * so that an item is never cut. */
static void chunk_fill(chunk *c, int64_t most, cursor *at) {
    bool causal = c->pass.model->config.causal;
    c->first = *at;
    while (at->item < c->work->n_items) {
        const pl_extension *item = work_item(c->work, at->item);
        int64_t n = item->n - at->offset, room = most - c->pass.n_rows;
        if (room <= 0 || (n > room && !causal && c->pass.n_rows > 0)) return;
        if (n > room && causal) n = room;
        chunk_add(c, item, at->offset, n);
        at->offset += n;
        if (at->offset < item->n) return;
        *at = (cursor){at->item + 1, 0};
    }
}

/* Logits go straight to the caller's memory where that is one run. */
static pl_status unembed_chunk(chunk *c, const pl_tensor *residual) {
    pl_pass *p = &c->pass;
    size_t d_vocab = (size_t)p->model->config.d_vocab;
    pl_tensor logits = {0};
    pl_status status = PL_OK;
    if (c->recorded) return pl_unembed(p, c->recorded, residual);
    if (p->n_logit_spans == 1) {
        int64_t shape[] = {p->n_logit_rows, (int64_t)d_vocab};
        status = pl_tensor_wrap(&logits, PL_F32, 2, shape, c->logits[0], &p->call.err);
    }
    if (status == PL_OK) status = pl_unembed(p, &logits, residual);
    if (status != PL_OK || p->n_logit_spans == 1) return status;
    for (int64_t i = 0; i < p->n_logit_spans; i++) {
        const pl_span *span = &c->logit_spans[i];
        memcpy(c->logits[i], (float *)logits.data + (size_t)span->first_row * d_vocab,
               (size_t)span->n_rows * d_vocab * sizeof(float));
    }
    return PL_OK;
}

/* Visits the part of the callers' residual streams that belongs to each span; in: into the pass. */
static void copy_residual(const chunk *c, pl_tensor *residual, bool in) {
    size_t d_model = (size_t)c->pass.model->config.d_model;
    cursor at = c->first;
    for (int64_t i = 0; i < c->pass.n_spans && c->work->partials; i++) {
        const pl_partial *item = &c->work->partials[at.item++];
        float *here = (float *)residual->data + (size_t)c->spans[i].first_row * d_model;
        size_t bytes = (size_t)c->spans[i].n_rows * d_model * sizeof *here;
        size_t offset = (size_t)at.offset * d_model;
        if (in && item->residual) memcpy(here, item->residual + offset, bytes);
        if (!in && item->out) memcpy(item->out + offset, here, bytes);
        at.offset = 0; /* only the first span may continue an item */
    }
}

static bool asks_for_rows(const work *w) {
    for (size_t i = 0; w->partials && i < w->n_items; i++) {
        if (w->partials[i].out) return true;
    }
    return false;
}

/* What enters the first layer: the embedding, or what the caller gives for all or some items. */
static pl_status enter(chunk *c, pl_tensor *residual) {
    pl_pass *p = &c->pass;
    pl_status status = PL_OK;
    if (c->work->layers.from == 0) {
        status = pl_embed(p, residual);
    } else {
        int64_t shape[] = {p->n_rows, p->model->config.d_model};
        status = pl_call_tensor(&p->call, residual, PL_F32, 2, shape);
        if (status == PL_OK) status = pl_position(p);
    }
    if (status == PL_OK) copy_residual(c, residual, true);
    return status;
}

static pl_status chunk_run(chunk *c) {
    pl_pass *p = &c->pass;
    pl_layers layers = c->work->layers;
    pl_tensor residual;
    p->spans = c->spans;
    p->logit_spans = c->logit_spans;
    p->tokens = c->tokens;
    p->positions = c->positions;
    p->types = c->types;
    p->logit_rows = c->logit_rows;
    p->keeps_rows = asks_for_rows(c->work);
    int64_t n_rows = p->n_rows;
    pl_status status = enter(c, &residual);
    if (status == PL_OK) status = pl_forward(p, layers.from, layers.to, &residual);
    if (status == PL_OK) copy_residual(c, &residual, false);
    if (status == PL_OK && p->n_logit_rows) status = unembed_chunk(c, &residual);

    pl_session_counters *counters = &p->session->counters;
    counters->passes++;
    counters->rows += (uint64_t)n_rows;
    counters->layer_rows += (uint64_t)(n_rows * (layers.to - layers.from));
    counters->weight_bytes += p->call.weight_bytes;
    return status;
}

/* One pass over as many rows as n_batch allows, from the cursor on. */
static pl_status run_chunk(pl_session *session, const work *w, cursor *at, pl_error *err) {
    const pl_session_options *o = &session->options;
    pl_arena *arena = &session->arenas[session->depth];
    pl_arena_reset(arena);
    size_t most = (size_t)o->n_batch;
    if (!session->model->config.causal && (size_t)work_item(w, at->item)->n > most) {
        most = (size_t)work_item(w, at->item)->n;
    }
    chunk c = {.pass = {.call = {.kernels = session->kernels,
                                 .n_threads = o->n_threads,
                                 .parallel_work = (size_t)o->parallel_work,
                                 .exact = o->exact,
                                 .fast = session->fast,
                                 .arena = arena},
                        .model = session->model,
                        .session = session,
                        .pool = &session->pool,
                        .hooks = session->hooks,
                        .check_finite = o->check_finite},
               .work = w};
    if (!chunk_alloc(&c, arena, w->n_items - at->item, most)) {
        return pl_fail(err, PL_ERR_MEMORY, "out of memory for the rows of a pass");
    }
    chunk_fill(&c, (int64_t)most, at);
    int64_t n_spans = c.pass.n_spans; /* the unembedding narrows the pass's own */
    session->depth++;
    pl_status status = chunk_run(&c);
    session->depth--;
    if (status != PL_OK) {
        if (err) *err = c.pass.call.err;
        return status;
    }
    for (int64_t i = 0; i < n_spans; i++) c.spans[i].seq->length += c.spans[i].n_rows;
    return PL_OK;
}

static pl_status run_chunks(pl_session *session, const work *w, pl_error *err) {
    pl_status status = PL_OK;
    if (session->counters.passes == 0) pl_model_fetch(session->model);
    for (size_t i = 0; i < w->n_items; i++) work_item(w, i)->seq->busy = true;
    for (cursor at = {0}; at.item < w->n_items && status == PL_OK;) {
        status = run_chunk(session, w, &at, err);
    }
    for (size_t i = 0; i < w->n_items; i++) work_item(w, i)->seq->busy = false;
    return status;
}

/* Item i of the call may be run. */
static pl_status check_work(pl_session *session, const work *w, size_t i, pl_error *err) {
    const pl_extension *item = work_item(w, i);
    if (session->depth == MAX_DEPTH) {
        return pl_fail(err, PL_ERR_STATE, "hooks run passes within passes more than %d deep",
                       MAX_DEPTH - 1);
    }
    pl_status status = check_item(session, item, err);
    if (status == PL_OK && w->partials) status = check_partial(w, &w->partials[i], err);
    for (size_t j = 0; j < i && status == PL_OK; j++) {
        if (work_item(w, j)->seq == item->seq) {
            status = pl_fail(err, PL_ERR_ARGUMENT, "items %zu and %zu name one sequence", j, i);
        }
    }
    return status;
}

static pl_status in_item(const work *w, size_t i, pl_status status, pl_error *err) {
    return w->n_items > 1 ? pl_error_prefix(err, status, "item %zu", i) : status;
}

pl_status pl_session_extend(pl_session *session, const pl_extension *items, size_t n_items,
                            pl_error *err) {
    const work w = {
        .extensions = items, .n_items = n_items, .layers = {0, session->model->config.n_layers}};
    for (size_t i = 0; i < n_items; i++) {
        pl_status status = check_work(session, &w, i, err);
        if (status == PL_OK && !items[i].tokens) {
            status = pl_fail(err, PL_ERR_ARGUMENT, "no tokens: expected at least one");
        }
        if (status == PL_OK) {
            items[i].seq->start_length = items[i].seq->length;
            status = prepare_item(&w, &items[i], err);
        }
        if (status != PL_OK) return in_item(&w, i, status, err);
    }
    pl_status status = run_chunks(session, &w, err);
    for (size_t i = 0; i < n_items; i++) {
        if (status != PL_OK) items[i].seq->length = items[i].seq->start_length;
        if (items[i].seq->freed) pl_sequence_free(items[i].seq);
    }
    return status;
}

pl_status pl_sequence_extend(pl_sequence *seq, const int32_t *tokens, int64_t n, pl_logits which,
                             float *logits, pl_error *err) {
    pl_extension item = {seq, tokens, n, which, logits, NULL};
    return pl_session_extend(seq->session, &item, 1, err);
}

/* -- passes with gradients ------------------------------------------------------------------ */

static void release_model(pl_storage *storage) {
    pl_model_free(storage->owner);
    free(storage);
}

/* A share in the model that nodes may hold. */
static pl_status hold_model(pl_tensor *out, pl_model *model, pl_error *err) {
    pl_storage *storage = calloc(1, sizeof *storage);
    if (!storage) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    *storage = (pl_storage){.refs = 1, .release = release_model, .owner = pl_model_retain(model)};
    *out = (pl_tensor){.storage = storage};
    return PL_OK;
}

static pl_status record_items(pl_session *session, const work *w, pl_tensor *logits,
                              pl_error *err) {
    const pl_session_options *o = &session->options;
    pl_arena *arena = &session->arenas[session->depth];
    pl_keep keep = {0};
    pl_tensor owner;
    size_t n_rows = 0;
    for (size_t i = 0; i < w->n_items; i++) n_rows += (size_t)w->extensions[i].n;
    pl_status status = hold_model(&owner, session->model, err);
    if (status != PL_OK) return status;
    pl_arena_reset(arena);
    chunk c = {.pass = {.call = {.kernels = session->kernels,
                                 .n_threads = o->n_threads,
                                 .parallel_work = (size_t)o->parallel_work,
                                 .exact = true,
                                 .arena = arena,
                                 .keep = &keep,
                                 .owner = &owner},
                        .model = session->model,
                        .session = session,
                        .pool = &session->pool,
                        .hooks = session->hooks,
                        .check_finite = o->check_finite,
                        .recompute = o->recompute},
               .work = w,
               .recorded = logits};
    *logits = (pl_tensor){0};
    if (chunk_alloc(&c, arena, w->n_items, n_rows)) {
        cursor at = {0};
        chunk_fill(&c, (int64_t)n_rows, &at);
        session->depth++;
        status = chunk_run(&c);
        session->depth--;
    } else {
        status = pl_fail(&c.pass.call.err, PL_ERR_MEMORY, "out of memory for the rows of a pass");
    }
    if (status == PL_OK) pl_tensor_retain(logits);
    if (status != PL_OK && err) *err = c.pass.call.err;
    pl_keep_clear(&keep);
    pl_tensor_release(&owner);
    return status;
}

pl_status pl_session_record(pl_session *session, const pl_extension *items, size_t n_items,
                            pl_tensor *logits, pl_error *err) {
    const work w = {
        .extensions = items, .n_items = n_items, .layers = {0, session->model->config.n_layers}};
    for (size_t i = 0; i < n_items; i++) {
        pl_status status = check_work(session, &w, i, err);
        if (status == PL_OK && (!items[i].tokens || items[i].seq->length > 0)) {
            status = pl_fail(err, PL_ERR_STATE,
                             "gradients are recorded from a sequence's first position only");
        }
        if (status == PL_OK) status = pl_sequence_reserve_tokens(items[i].seq, items[i].n, err);
        if (status != PL_OK) return in_item(&w, i, status, err);
        items[i].seq->start_length = 0;
        keep_tokens(&items[i]);
    }
    for (size_t i = 0; i < n_items; i++) items[i].seq->busy = true;
    pl_status status = record_items(session, &w, logits, err);
    for (size_t i = 0; i < n_items; i++) {
        items[i].seq->busy = false;
        if (items[i].seq->freed) pl_sequence_free(items[i].seq);
    }
    return status;
}

/* -- running again ---------------------------------------------------------------------------- */

pl_status pl_sequence_recompute(pl_sequence *seq, pl_error *err) {
    pl_session *session = seq->session;
    const pl_config *config = &session->model->config;
    const pl_extension item = {.seq = seq,
                               .tokens = seq->tokens,
                               .n = seq->length,
                               .types = config->n_token_types ? seq->types : NULL};
    const work w = {.extensions = &item, .n_items = 1, .layers = {0, config->n_layers}};
    pl_status status = pl_sequence_check_idle(seq, err);
    if (status != PL_OK || seq->length == 0) return status;
    const pl_page_table before = seq->table;
    const int64_t n_stale = seq->n_stale;
    seq->table = (pl_page_table){0};
    seq->length = seq->start_length = seq->n_stale = 0;
    status = check_work(session, &w, 0, err);
    if (status == PL_OK) status = prepare_item(&w, &item, err);
    if (status == PL_OK) status = run_chunks(session, &w, err);
    pl_page_table old = before;
    if (status != PL_OK) {
        old = seq->table;
        seq->table = before;
        seq->length = item.n;
        seq->n_stale = n_stale;
    }
    pl_page_table_clear(&old, &session->pool);
    if (seq->freed) pl_sequence_free(seq);
    return status;
}

/* -- partial runs --------------------------------------------------------------------------- */

/* What a sequence held before a partial run, which writes into a table of its own. */
typedef struct held {
    bool begun;
    pl_page_table table;
    int64_t length;
} held;

static pl_status begin_partial(const work *w, size_t i, held *before, pl_error *err) {
    const pl_extension *item = work_item(w, i);
    pl_sequence *seq = item->seq;
    pl_page_table scratch;
    pl_status status =
        pl_page_table_share(&scratch, &seq->table, &seq->session->pool, seq->length, err);
    if (status != PL_OK) return status;
    *before = (held){true, seq->table, seq->length};
    seq->table = scratch;
    seq->start_length = item->tokens ? seq->length : seq->length - item->n;
    seq->length = seq->start_length;
    return prepare_item(w, item, err);
}

static void end_partial(const work *w, size_t i, const held *before) {
    pl_sequence *seq = work_item(w, i)->seq;
    if (!before->begun) return;
    pl_page_table_clear(&seq->table, &seq->session->pool);
    seq->table = before->table;
    seq->length = before->length;
    if (seq->freed) pl_sequence_free(seq);
}

static pl_status check_layers(const pl_session *session, const work *w, pl_error *err) {
    int64_t n_layers = session->model->config.n_layers;
    pl_layers layers = w->layers;
    if (layers.from < 0 || layers.from > layers.to || layers.to > n_layers) {
        return pl_fail(err, PL_ERR_ARGUMENT, "layers %lld to %lld: expected 0 to %lld, ascending",
                       (long long)layers.from, (long long)layers.to, (long long)n_layers);
    }
    for (size_t i = 0; i < w->n_items; i++) {
        if (work_item(w, i)->which != PL_LOGITS_NONE && layers.to < n_layers) {
            return pl_fail(err, PL_ERR_ARGUMENT, "logits need all layers, up to %lld",
                           (long long)n_layers);
        }
    }
    return PL_OK;
}

pl_status pl_session_partial(pl_session *session, const pl_partial *items, size_t n_items,
                             int64_t from_layer, int64_t to_layer, pl_error *err) {
    const work w = {.partials = items, .n_items = n_items, .layers = {from_layer, to_layer}};
    pl_status status = check_layers(session, &w, err);
    if (status != PL_OK || n_items == 0) return status;
    held *before = calloc(n_items, sizeof *before);
    if (!before) return pl_fail(err, PL_ERR_MEMORY, "out of memory for partial runs");
    for (size_t i = 0; i < n_items && status == PL_OK; i++) {
        status = check_work(session, &w, i, err);
        if (status != PL_OK) status = in_item(&w, i, status, err);
    }
    for (size_t i = 0; i < n_items && status == PL_OK; i++) {
        status = begin_partial(&w, i, &before[i], err);
        if (status != PL_OK) status = in_item(&w, i, status, err);
    }
    if (status == PL_OK) status = run_chunks(session, &w, err);
    for (size_t i = 0; i < n_items; i++) end_partial(&w, i, &before[i]);
    free(before);
    return status;
}
