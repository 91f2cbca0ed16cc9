---@meta

-- Working with activations: weights by name, interventions, steering vectors, analysis.

---@alias perilune.Weights table<integer, perilune.Tensor> a weight of each block, float32 and read-only

---@class perilune
local pl = {}

--- All tensors of a .safetensors or .gguf file, as float32 (integers as they are), and a GGUF
--- file's numbers, texts and truth values.
---@param path string
---@return table<string, perilune.Tensor> tensors
---@return table<string, any> metadata
function pl.load_tensors(path) end

--- A sparse autoencoder as SAELens saves it: cfg.json and sae_weights.safetensors in a folder.
---@param folder string
---@param opts? {scale?: number} the factor of activations that were scaled in training (expected_average_only_in), which the files lack
---@return perilune.Sae
function pl.load_sae(folder, opts) end

---@class perilune.Sae
---@field point string? the hook point that it was trained on
---@field d_in integer
---@field d_sae integer
---@field weights table<string, perilune.Tensor>
---@field cfg table
local Sae = {}

--- Features of activations.
---@param x perilune.Tensor [pos, d_in] or [pos, head, d_head]
---@return perilune.Tensor features [pos, d_sae]
---@return function back what undoes the scaling of activations, for decode
function Sae:encode(x) end

--- Activations of features.
---@param features perilune.Tensor [pos, d_sae]
---@param back? function from encode
---@return perilune.Tensor [pos, d_in]
function Sae:decode(features, back) end

--- The reconstruction of x in x's shape, also `sae(x)`. With fn, which may edit the features or
--- return others, what the autoencoder misses of x is added again.
---@param x perilune.Tensor
---@param fn? fun(features: perilune.Tensor, at: perilune.HookAt): perilune.Tensor?
---@param at? perilune.HookAt
---@return perilune.Tensor
function Sae:splice(x, fn, at) end

--- Writes tensors by name: GGUF where the path ends in .gguf, else safetensors.
---@param path string
---@param tensors table<string, perilune.Tensor>
---@param metadata? table<string, any> of a GGUF file: numbers, texts, lists of texts, truth values
function pl.save_tensors(path, tensors, metadata) end

---@class perilune.Model
---@field W_E perilune.Tensor [d_vocab, d_model]
---@field W_pos perilune.Tensor [n_ctx, d_model], learned positions only
---@field W_token_type perilune.Tensor [n_token_types, d_model], models with kinds of tokens only
---@field W_dense perilune.Tensor [d_model, d_model], before the activation and ln_final of a head for masks
---@field b_dense perilune.Tensor [d_model]
---@field W_pool perilune.Tensor [d_model, d_model], models with a pooler only
---@field b_pool perilune.Tensor [d_model]
---@field W_U perilune.Tensor [d_model, d_vocab]
---@field b_U perilune.Tensor [d_vocab], 0 where there is none and the model is not processed
---@field ln_final_w perilune.Tensor [d_model]
---@field ln_final_b perilune.Tensor [d_model]
---@field W_Q perilune.Weights [head, d_model, d_head]
---@field W_K perilune.Weights [kv_head, d_model, d_head]
---@field W_V perilune.Weights [kv_head, d_model, d_head]
---@field W_O perilune.Weights [head, d_head, d_model]
---@field b_Q perilune.Weights [head, d_head]; as all biases 0 where there is none
---@field b_K perilune.Weights [kv_head, d_head]
---@field b_V perilune.Weights [kv_head, d_head]
---@field b_O perilune.Weights [d_model]
---@field W_in perilune.Weights [d_model, d_mlp]
---@field W_gate perilune.Weights [d_model, d_mlp], gated models only
---@field W_out perilune.Weights [d_mlp, d_model]
---@field b_in perilune.Weights [d_mlp]
---@field b_gate perilune.Weights [d_mlp]
---@field b_out perilune.Weights [d_model]
---@field ln1_w perilune.Weights gain of the norm before attention [d_model], 1 where there is none
---@field ln1_b perilune.Weights [d_model]
---@field ln2_w perilune.Weights gain of the norm before the MLP [d_model]
---@field ln2_b perilune.Weights [d_model]
local Model = {}

--- Rows of W_E, without widening all of it.
---@param ids perilune.ids
---@return perilune.Tensor [n, d_model]
function Model:token_embeddings(ids) end

--- Columns of W_U: along which direction the residual stream speaks for a token.
---@param ids perilune.ids
---@return perilune.Tensor [n, d_model]
function Model:tokens_to_residual_directions(ids) end

--- The same predictions from weights rewritten as TransformerLens does by default, all float32: gains
--- of norms folded into the maps behind them, means taken out of what writes to the residual stream
--- (LayerNorm models) and out of the unembedding, biases of values folded into b_O. A step is left out
--- where its option is false.
---@param opts? {fold_ln?: boolean, center_writing_weights?: boolean, center_unembed?: boolean, fold_value_biases?: boolean}
---@param session_options? perilune.SessionOptions of the new model's default session
---@return perilune.Model
function Model:processed(opts, session_options) end

--- One direction per layer from pairs of prompts that differ in what is to be steered: differences of
--- the residual stream after each layer at the last token; their mean, or ("pca") the first principal
--- component of the differences, not centred, of length 1.
---@param model perilune.Model
---@param pairs perilune.ids[][] list of {positive, negative}
---@param opts? {method?: "mean"|"pca", layers?: integer[]} mean, and every layer but 0, unless said otherwise
---@return perilune.SteeringVectors
function pl.steering_vectors(model, pairs, opts) end

--- Reads a control vector of llama.cpp's (GGUF): direction.l is added to the output of layer l.
---@param path string
---@return perilune.SteeringVectors
function pl.load_steering_vectors(path) end

---@class perilune.SteeringVectors
---@field model_hint string the family that they are for
---@field [integer] perilune.Tensor? direction of a layer [d_model]
local Vectors = {}

--- The layers that have a direction.
---@return integer[]
function Vectors:layers() end

--- Writes a control vector as llama.cpp reads it; it has no place for layer 0.
---@param path string ending in .gguf
function Vectors:save(path) end

--- Interventions over hooks. `on` is a model, session or sequence; each returns the hook's handle.
---@class perilune.edit
pl.edit = {}

---@alias perilune.Hooked perilune.Model|perilune.Session|perilune.Sequence

---@class perilune.EditOptions
---@field layer? integer all unless said otherwise
---@field head? integer of an activation with heads; all unless said otherwise
---@field pos? integer absolute position; all unless said otherwise

--- Puts opts.to in the activation's place.
---@param on perilune.Hooked
---@param point string
---@param opts? perilune.EditOptions|{to?: number|perilune.Tensor|table} 0 unless said otherwise; a tensor that fits one position's activation; what `means` gave
---@return perilune.Hook
function pl.edit.ablate(on, point, opts) end

--- Averages over all positions of some prompts, by full name.
---@param model perilune.Model
---@param prompts perilune.ids[]
---@param point string
---@param opts? {layer?: integer}
---@return table<string, perilune.Tensor>
function pl.edit.means(model, prompts, point, opts) end

--- Every position gets the activation of a randomly drawn position of a cache.
---@param on perilune.Hooked
---@param point string
---@param cache table<string, perilune.Tensor>
---@param opts? perilune.EditOptions|{seed?: integer}
---@return perilune.Hook
function pl.edit.resample(on, point, cache, opts) end

--- Rows get what another run had at the same positions.
---@param on perilune.Hooked
---@param point string
---@param source table<string, perilune.Tensor>|perilune.ids|perilune.Sequence a cache, or what is run for one
---@param opts? perilune.EditOptions|{from_pos?: integer} with pos: the source's position
---@return perilune.Hook
function pl.edit.patch(on, point, source, opts) end

--- Attention looks where it looked in another run.
---@param on perilune.Hooked
---@param source table<string, perilune.Tensor>|perilune.ids|perilune.Sequence
---@param opts? perilune.EditOptions
---@return perilune.Hook
function pl.edit.freeze_pattern(on, source, opts) end

--- Norms divide by what they divided by in another run.
---@param on perilune.Hooked
---@param source table<string, perilune.Tensor>|perilune.ids|perilune.Sequence
---@param opts? {layer?: integer, pos?: integer}
---@return perilune.Hook[]
function pl.edit.freeze_norms(on, source, opts) end

--- Adds scale * vector, with a gate only to rows that lie along that direction by more than threshold.
---@param on perilune.Hooked
---@param point string
---@param vector perilune.Tensor
---@param opts? perilune.EditOptions|{scale?: number, gate?: perilune.Tensor, threshold?: number}
---@return perilune.Hook
function pl.edit.add(on, point, vector, opts) end

--- Takes a direction, or the space that several span, out of the activation.
---@param on perilune.Hooked
---@param point string
---@param directions perilune.Tensor [d] or [n, d]
---@param opts? perilune.EditOptions
---@return perilune.Hook
function pl.edit.project_out(on, point, directions, opts) end

--- Keeps the component along a direction of unit length between min and max.
---@param on perilune.Hooked
---@param point string
---@param direction perilune.Tensor of any length
---@param opts perilune.EditOptions|{min?: number, max?: number}
---@return perilune.Hook
function pl.edit.clamp(on, point, direction, opts) end

--- Multiplies what one head adds to the residual stream.
---@param on perilune.Hooked
---@param layer integer
---@param head integer
---@param factor number
---@param opts? {pos?: integer}
---@return perilune.Hook
function pl.edit.scale_head(on, layer, head, factor, opts) end

--- Heads cannot look from some positions at others.
---@param on perilune.Hooked
---@param opts {layer?: integer, head?: integer, query?: integer|integer[], key: integer|integer[]} all layers, heads and queries unless named
---@return perilune.Hook
function pl.edit.knock_out(on, opts) end

--- The activation goes through a function.
---@param on perilune.Hooked
---@param point string
---@param fn fun(act: perilune.Tensor, at: perilune.HookAt): perilune.Tensor?
---@param opts? perilune.EditOptions
---@return perilune.Hook
function pl.edit.splice(on, point, fn, opts) end

--- The activation goes through a sparse autoencoder, at its own point unless one is named.
---@param on perilune.Hooked
---@param sae perilune.Sae
---@param fn? fun(features: perilune.Tensor, at: perilune.HookAt): perilune.Tensor? as in `Sae:splice`
---@param opts? {point?: string, pos?: integer}
---@return perilune.Hook
function pl.edit.splice_sae(on, sae, fn, opts) end

--- Adds steering vectors to the outputs of their layers, at every position unless one is named.
---@param on perilune.Hooked
---@param vectors perilune.SteeringVectors
---@param opts? {scale?: number, layers?: integer[], pos?: integer}
---@return perilune.Hook
function pl.edit.steer(on, vectors, opts) end

--- What the parts of the residual stream say. Stacks are [component, pos, d_model], or
--- [component, d_model] at opts.pos, and come with a label for each component; `cache` is from
--- run_with_cache.
---@class perilune.analysis
pl.analysis = {}

---@alias perilune.Cache table<string, perilune.Tensor>

--- What was written to the stream before block `layer` (n_layers unless said otherwise; with mlp_input
--- before its MLP): embedding, positions, attention and MLP of each block. They add up to the stream.
---@param model perilune.Model
---@param cache perilune.Cache
---@param opts? {layer?: integer, mlp_input?: boolean, mode?: "all"|"attn"|"mlp", incl_embeds?: boolean, pos?: integer}
---@return perilune.Tensor stack
---@return string[] labels "embed", "pos_embed", "0_attn_out", "0_mlp_out", ...
function pl.analysis.decompose_resid(model, cache, opts) end

--- The stream before each block up to `layer`, and at the end.
---@param model perilune.Model
---@param cache perilune.Cache
---@param opts? {layer?: integer, incl_mid?: boolean, mlp_input?: boolean, pos?: integer}
---@return perilune.Tensor stack
---@return string[] labels "0_pre", "0_mid", ..., "final_post"
function pl.analysis.accumulated_resid(model, cache, opts) end

--- What each head of the blocks before `layer` wrote, without b_O.
---@param model perilune.Model
---@param cache perilune.Cache
---@param opts? {layer?: integer, incl_remainder?: boolean, pos?: integer} incl_remainder: a last component with the rest of the stream
---@return perilune.Tensor stack
---@return string[] labels "L0H0", ..., "remainder"
function pl.analysis.stack_head_results(model, cache, opts) end

--- The stack as the norm before block `layer` lets it through (n_layers: the final one), scaled as the
--- whole stream was, times the gain, without the norm's bias.
---@param model perilune.Model
---@param cache perilune.Cache
---@param stack perilune.Tensor
---@param opts? {layer?: integer, mlp_input?: boolean, pos?: integer}
---@return perilune.Tensor stack
function pl.analysis.apply_ln_to_stack(model, cache, stack, opts) end

--- Direct logit attribution: what each component adds to the logit of a token, less that of
--- opts.incorrect. With what the biases add the components make the logit.
---@param model perilune.Model
---@param cache perilune.Cache
---@param stack perilune.Tensor
---@param tokens perilune.ids one, or one for each position
---@param opts? {incorrect?: perilune.ids, pos?: integer} pos: the position of a stack that was cut there
---@return perilune.Tensor attributions [component, pos] or [component]
---@return perilune.Tensor of_biases [1] or [pos]
function pl.analysis.logit_attrs(model, cache, stack, tokens, opts) end

--- Logits of any stream as if it were the last: the final norm, then W_U.
---@param model perilune.Model
---@param x perilune.Tensor [..., d_model]
---@return perilune.Tensor [..., d_vocab]
function pl.analysis.unembed(model, x) end

--- The logits that the stream would give before each block, and at the end.
---@param model perilune.Model
---@param cache perilune.Cache
---@param opts? {layer?: integer, incl_mid?: boolean, mlp_input?: boolean, pos?: integer}
---@return perilune.Tensor [component, pos, d_vocab]
---@return string[] labels
function pl.analysis.logit_lens(model, cache, opts) end

--- The tokens that a direction speaks for ("unembed") or that bring it ("embed"): {id, value, piece}.
---@param model perilune.Model
---@param direction perilune.Tensor [d_model]
---@param opts? {k?: integer, by?: "unembed"|"embed"}
---@return table[]
function pl.analysis.top_tokens(model, direction, opts) end

--- Means over queries, [layer, head] each: entropy (nats), distance (tokens back), first, current and
--- previous (shares of attention).
---@param model perilune.Model
---@param cache perilune.Cache
---@return table<string, perilune.Tensor>
function pl.analysis.attention_summary(model, cache) end

--- Where a head of a kind looks in a text: 0 and 1.
---@param model perilune.Model
---@param prompt perilune.ids
---@param kind "previous_token_head"|"duplicate_token_head"|"induction_head"
---@return perilune.Tensor [query, key]
function pl.analysis.detection_pattern(model, prompt, kind) end

--- How far each head looks where a kind looks: the share of its attention ("mul"), or 1 less the mean
--- difference of a row ("abs").
---@param model perilune.Model
---@param prompt perilune.ids
---@param kind string|perilune.Tensor a kind, or [query, key]
---@param opts? {exclude_bos?: boolean, exclude_current_token?: boolean, error_measure?: "mul"|"abs"}
---@return perilune.Tensor [layer, head]
function pl.analysis.detect_heads(model, prompt, kind, opts) end

--- How the model takes an answer: for each token of it rank (from 0), probability, logit and the
--- likeliest; the fields of the first stand in the result itself. tostring lists them.
---@param prompt perilune.ids
---@param answer perilune.ids a text gets a space before it
---@param opts? {prepend_space?: boolean, k?: integer} true and 10 unless said otherwise
---@return {rank: integer, prob: number, logit: number, log_prob: number, top: table[], steps: table[]}
function Model:test_prompt(prompt, answer, opts) end

--- What a head seeks and finds, W_Q W_K^T, before scale, biases and rotation.
---@param layer integer
---@param head integer
---@return perilune.Factored [d_model, d_model]
function Model:QK(layer, head) end

--- What a head moves, W_V W_O.
---@param layer integer
---@param head integer
---@return perilune.Factored [d_model, d_model]
function Model:OV(layer, head) end

--- How much each head's output could feed the queries, keys or values of later heads (Elhage et al.,
--- "A Mathematical Framework for Transformer Circuits", 2021): |L R| / (|L| |R|), Frobenius norms.
---@param mode "Q"|"K"|"V"
---@return perilune.Tensor [layer, head, to_layer, to_head], 0 where the second is not later
function Model:composition_scores(mode) end

--- The product of A [m, r] and B [r, n], kept as both.
---@param a perilune.Tensor
---@param b perilune.Tensor
---@return perilune.Factored
function pl.factored(a, b) end

---@class perilune.Factored
---@field A perilune.Tensor [m, r]
---@field B perilune.Tensor [r, n]
---@field shape integer[]
---@field rank integer r
local Factored = {}

--- The product, multiplied out.
---@return perilune.Tensor [m, n]
function Factored:full() end

---@return perilune.Factored
function Factored:transpose() end

---@param other perilune.Tensor|perilune.Factored
---@return perilune.Factored
function Factored:matmul(other) end

--- Frobenius norm.
---@return number
function Factored:norm() end

---@return number
function Factored:trace() end

--- The eigenvalues that are not 0, which may be complex.
---@return perilune.Tensor [r, 2]
function Factored:eigvals() end

--- U diag(s) V^T, s from the largest on.
---@return perilune.Tensor u [m, r]
---@return perilune.Tensor s [r]
---@return perilune.Tensor vt [r, n]
function Factored:svd() end

--- Patching sweeps: activations of a clean run put, one by one, into the run of a corrupted prompt.
pl.patching = {}

--- The metric of the corrupted run for every place at which the clean run's activation is put in. Only
--- rows from the patched position on, and layers from the patched one on, are run again, many patches
--- side by side.
---@param model perilune.Model
---@param clean perilune.ids
---@param corrupted perilune.ids of as many tokens
---@param point string a short name: "resid_pre", "attn_out", "mlp_out", "z", "q", "pattern", ...
---@param metric fun(logits: perilune.Tensor): number of the last position's logits [d_vocab]
---@param opts? {by?: string[], batch?: integer, progress?: fun(share: number)} by: {"layer", "pos"}, {"layer", "head"} or {"layer", "head", "pos"}; patches side by side at most, 32 unless said otherwise
---@return perilune.Tensor values float32, dimensions as `by` names them
function pl.patching.sweep(model, clean, corrupted, point, metric, opts) end

--- Path patching (Wang et al. 2022): for every head, the metric of the corrupted run when the receivers
--- read what they would if this head alone had spoken as in the clean run. Heads between stay as they
--- were, MLPs answer freely.
---@param model perilune.Model
---@param clean perilune.ids
---@param corrupted perilune.ids
---@param receivers "logits"|table[] the end of the model, or a list of {layer, head, input = "q"|"k"|"v"}
---@param metric fun(logits: perilune.Tensor): number
---@param opts? {batch?: integer}
---@return perilune.Tensor values float32 [layer, head]
function pl.patching.paths(model, clean, corrupted, receivers, metric, opts) end
