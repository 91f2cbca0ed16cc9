#include "session.h"

#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/threads.h"
#include "pass.h"

/* A hook may run another pass of its session; each level has its own workspace. */
enum { MAX_DEPTH = 8 };

struct pl_session {
    pl_model *model;
    const pl_kernels *kernels;
    pl_session_options options;
    pl_hooks *hooks;
    pl_page_pool pool;
    pl_arena arenas[MAX_DEPTH];
    int depth;
    int refs; /* the owner and each sequence */
    pl_session_counters counters;
};

pl_session_options pl_session_options_default(void) {
    return (pl_session_options){.kv_dtype = PL_F16, .n_batch = 512};
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
    if (o->kv_dtype != PL_F16 && o->kv_dtype != PL_F32 && o->kv_dtype != PL_Q8_0) {
        return pl_fail(err, PL_ERR_ARGUMENT, "kv = %s: expected f16, f32 or q8_0",
                       pl_dtype_get(o->kv_dtype)->name);
    }
    if (o->kv_dtype == PL_Q8_0 && config->d_head % 32 != 0) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "kv = q8_0: its blocks of 32 do not divide d_head = %lld",
                       (long long)config->d_head);
    }
    if (o->n_ctx == 0) o->n_ctx = config->n_ctx;
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
    pl_model_free(session->model);
    free(session);
}

pl_model *pl_session_model(const pl_session *session) {
    return session->model;
}

pl_hooks *pl_session_hooks(pl_session *session) {
    return session->hooks;
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

/* -- sequences ------------------------------------------------------------------------------ */

pl_status pl_sequence_new(pl_sequence **out, pl_session *session, pl_error *err) {
    pl_sequence *seq = calloc(1, sizeof *seq);
    if (!seq) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a sequence");
    seq->session = session;
    session->refs++;
    *out = seq;
    return PL_OK;
}

void pl_sequence_free(pl_sequence *seq) {
    if (!seq) return;
    seq->freed = true;
    if (seq->busy) return;
    pl_page_table_clear(&seq->table, &seq->session->pool);
    pl_session_free(seq->session);
    free(seq->tokens);
    free(seq);
}

pl_session *pl_sequence_session(const pl_sequence *seq) {
    return seq->session;
}

int64_t pl_sequence_length(const pl_sequence *seq) {
    return seq->length;
}

const int32_t *pl_sequence_tokens(const pl_sequence *seq) {
    return seq->tokens;
}

static pl_status tokens_reserve(pl_sequence *seq, int64_t n, pl_error *err) {
    if (n <= seq->capacity) return PL_OK;
    int64_t capacity = n < 2 * seq->capacity ? 2 * seq->capacity : n;
    int32_t *tokens = realloc(seq->tokens, (size_t)capacity * sizeof *tokens);
    if (!tokens) return pl_fail(err, PL_ERR_MEMORY, "out of memory for tokens");
    seq->tokens = tokens;
    seq->capacity = capacity;
    return PL_OK;
}

pl_status pl_sequence_fork(pl_sequence **out, const pl_sequence *seq, pl_error *err) {
    pl_sequence *copy;
    pl_status status = pl_sequence_new(&copy, seq->session, err);
    if (status != PL_OK) return status;
    int64_t n = seq->busy ? seq->start_length : seq->length;
    status = tokens_reserve(copy, n, err);
    if (status == PL_OK) {
        status = pl_page_table_share(&copy->table, &seq->table, &seq->session->pool, n, err);
    }
    if (status != PL_OK) {
        pl_sequence_free(copy);
        return status;
    }
    if (n) memcpy(copy->tokens, seq->tokens, (size_t)n * sizeof *copy->tokens);
    copy->length = n;
    *out = copy;
    return PL_OK;
}

static pl_status check_idle(const pl_sequence *seq, pl_error *err) {
    if (!seq->busy) return PL_OK;
    return pl_fail(err, PL_ERR_STATE, "the sequence is in use by a pass that is still running");
}

pl_status pl_sequence_truncate(pl_sequence *seq, int64_t n, pl_error *err) {
    pl_status status = check_idle(seq, err);
    if (status != PL_OK) return status;
    if (n < 0 || n > seq->length) {
        return pl_fail(err, PL_ERR_ARGUMENT, "truncate to %lld: expected 0 to %lld", (long long)n,
                       (long long)seq->length);
    }
    seq->length = n;
    return PL_OK;
}

pl_status pl_sequence_reserve(pl_sequence *seq, int64_t n, pl_error *err) {
    int64_t n_ctx = seq->session->options.n_ctx;
    if (n < 0 || n > n_ctx) {
        return pl_fail(err, PL_ERR_ARGUMENT, "%lld positions: expected 0 to %lld (n_ctx)",
                       (long long)n, (long long)n_ctx);
    }
    pl_status status = tokens_reserve(seq, n, err);
    if (status != PL_OK) return status;
    return pl_page_table_reserve(&seq->table, &seq->session->pool, n, err);
}

/* -- extending ------------------------------------------------------------------------------ */

static pl_status check_item(const pl_session *session, const pl_extension *item, pl_error *err) {
    const pl_sequence *seq = item->seq;
    int64_t d_vocab = session->model->config.d_vocab, n_ctx = session->options.n_ctx;
    if (seq->session != session) {
        return pl_fail(err, PL_ERR_ARGUMENT, "the sequences of one call must share a session");
    }
    pl_status status = check_idle(seq, err);
    if (status != PL_OK) return status;
    if (item->n < 1) return pl_fail(err, PL_ERR_ARGUMENT, "no tokens: expected at least one");
    if (item->n > n_ctx - seq->length) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "%lld tokens after %lld do not fit the context of %lld positions (n_ctx)",
                       (long long)item->n, (long long)seq->length, (long long)n_ctx);
    }
    for (int64_t i = 0; i < item->n; i++) {
        if (item->tokens[i] < 0 || item->tokens[i] >= d_vocab) {
            return pl_fail(err, PL_ERR_ARGUMENT, "token id %d at index %lld: expected 0 to %lld",
                           item->tokens[i], (long long)i, (long long)d_vocab - 1);
        }
    }
    return PL_OK;
}

/* Memory and pages of its own for what is to come; the length stays. */
static pl_status prepare_item(const pl_extension *item, pl_error *err) {
    pl_sequence *seq = item->seq;
    int64_t end = seq->length + item->n;
    pl_status status = pl_sequence_reserve(seq, end, err);
    if (status != PL_OK) return status;
    status = pl_page_table_own(&seq->table, &seq->session->pool, seq->length, end, err);
    if (status != PL_OK) return status;
    memcpy(seq->tokens + seq->length, item->tokens, (size_t)item->n * sizeof *seq->tokens);
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
    pl_span *spans, *logit_spans;
    int32_t *tokens, *positions, *logit_rows;
    float **logits; /* [n_logit_spans] */
} chunk;

static bool chunk_alloc(chunk *c, pl_arena *arena, size_t n_spans, size_t n_rows) {
    c->spans = pl_arena_alloc(arena, n_spans * sizeof *c->spans);
    c->logit_spans = pl_arena_alloc(arena, n_spans * sizeof *c->logit_spans);
    c->logits = pl_arena_alloc(arena, n_spans * sizeof *c->logits);
    c->tokens = pl_arena_alloc(arena, n_rows * sizeof *c->tokens);
    c->positions = pl_arena_alloc(arena, n_rows * sizeof *c->positions);
    c->logit_rows = pl_arena_alloc(arena, n_rows * sizeof *c->logit_rows);
    return c->spans && c->logit_spans && c->logits && c->tokens && c->positions && c->logit_rows;
}

/* Adds n rows of an item, from `offset` of its tokens on. */
static void chunk_add(chunk *c, const pl_extension *item, int64_t offset, int64_t n) {
    pl_pass *p = &c->pass;
    int64_t d_vocab = p->model->config.d_vocab;
    pl_span span = {item->seq, p->n_rows, n, item->seq->length};
    for (int64_t i = 0; i < n; i++) {
        c->tokens[p->n_rows + i] = item->tokens[offset + i];
        c->positions[p->n_rows + i] = (int32_t)(span.first_pos + i);
    }
    int64_t first = n; /* of the rows that get logits */
    if (item->which == PL_LOGITS_ALL) first = 0;
    if (item->which == PL_LOGITS_LAST && offset + n == item->n) first = n - 1;
    if (first < n) {
        c->logits[p->n_logit_spans] =
            item->which == PL_LOGITS_ALL ? item->logits + offset * d_vocab : item->logits;
        c->logit_spans[p->n_logit_spans++] =
            (pl_span){item->seq, p->n_logit_rows, n - first, span.first_pos + first};
        for (int64_t i = first; i < n; i++) {
            c->logit_rows[p->n_logit_rows++] = (int32_t)(p->n_rows + i);
        }
    }
    c->spans[p->n_spans++] = span;
    p->n_rows += n;
}

/* Fills a chunk with rows from the cursor on. Without a causal mask a position sees its whole call,
 * so that an item is never cut. */
static void chunk_fill(chunk *c, const pl_extension *items, size_t n_items, int64_t most,
                       cursor *at) {
    bool causal = c->pass.model->config.causal;
    while (at->item < n_items) {
        const pl_extension *item = &items[at->item];
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

static pl_status chunk_run(chunk *c) {
    pl_pass *p = &c->pass;
    pl_tensor residual;
    p->spans = c->spans;
    p->logit_spans = c->logit_spans;
    p->tokens = c->tokens;
    p->positions = c->positions;
    p->logit_rows = c->logit_rows;
    int64_t n_rows = p->n_rows, n_layers = p->model->config.n_layers;
    pl_status status = pl_embed(p, &residual);
    if (status == PL_OK) status = pl_forward(p, 0, n_layers, &residual);
    if (status == PL_OK && p->n_logit_rows) status = unembed_chunk(c, &residual);

    pl_session_counters *counters = &p->session->counters;
    counters->passes++;
    counters->rows += (uint64_t)n_rows;
    counters->layer_rows += (uint64_t)(n_rows * n_layers);
    counters->weight_bytes += p->call.weight_bytes;
    return status;
}

/* One pass over as many rows as n_batch allows, from the cursor on. */
static pl_status extend_chunk(pl_session *session, const pl_extension *items, size_t n_items,
                              cursor *at, pl_error *err) {
    const pl_session_options *o = &session->options;
    pl_arena *arena = &session->arenas[session->depth];
    pl_arena_reset(arena);
    size_t most = (size_t)o->n_batch;
    if (!session->model->config.causal && (size_t)items[at->item].n > most) {
        most = (size_t)items[at->item].n;
    }
    chunk c = {.pass = {.call = {.kernels = session->kernels,
                                 .n_threads = o->n_threads,
                                 .exact = o->exact,
                                 .arena = arena},
                        .model = session->model,
                        .session = session,
                        .pool = &session->pool,
                        .hooks = session->hooks,
                        .check_finite = o->check_finite}};
    if (!chunk_alloc(&c, arena, n_items - at->item, most)) {
        return pl_fail(err, PL_ERR_MEMORY, "out of memory for the rows of a pass");
    }
    chunk_fill(&c, items, n_items, (int64_t)most, at);
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

static void set_busy(const pl_extension *items, size_t n_items, bool busy) {
    for (size_t i = 0; i < n_items; i++) items[i].seq->busy = busy;
}

pl_status pl_session_extend(pl_session *session, const pl_extension *items, size_t n_items,
                            pl_error *err) {
    if (session->depth == MAX_DEPTH) {
        return pl_fail(err, PL_ERR_STATE, "hooks run passes within passes more than %d deep",
                       MAX_DEPTH - 1);
    }
    for (size_t i = 0; i < n_items; i++) {
        pl_status status = check_item(session, &items[i], err);
        for (size_t j = 0; j < i && status == PL_OK; j++) {
            if (items[j].seq == items[i].seq) {
                status = pl_fail(err, PL_ERR_ARGUMENT, "items %zu and %zu name one sequence", j, i);
            }
        }
        if (status == PL_OK) status = prepare_item(&items[i], err);
        if (status != PL_OK)
            return n_items > 1 ? pl_error_prefix(err, status, "item %zu", i) : status;
        items[i].seq->start_length = items[i].seq->length;
    }
    set_busy(items, n_items, true);
    pl_status status = PL_OK;
    for (cursor at = {0}; at.item < n_items && status == PL_OK;) {
        status = extend_chunk(session, items, n_items, &at, err);
    }
    set_busy(items, n_items, false);
    for (size_t i = 0; i < n_items; i++) {
        if (status != PL_OK) items[i].seq->length = items[i].seq->start_length;
        if (items[i].seq->freed) pl_sequence_free(items[i].seq);
    }
    return status;
}

pl_status pl_sequence_extend(pl_sequence *seq, const int32_t *tokens, int64_t n, pl_logits which,
                             float *logits, pl_error *err) {
    pl_extension item = {seq, tokens, n, which, logits};
    return pl_session_extend(seq->session, &item, 1, err);
}
