---@meta

-- Models, sessions, sequences, tokenizers, hooks and generation.

---@alias perilune.ids string|integer|integer[]|perilune.Tensor a text, one id, a list, or int32 [pos]

---@class perilune.SessionOptions
---@field precision? "exact"|"default"|"fast" "exact": float32 activations against quantised weights too; "fast": prompts meet F32, F16 and BF16 weights in bfloat16 where the processor can, to three digits
---@field kv? "f16"|"f32"|"q8_0" how keys and values are stored; f16 unless said otherwise, q8_0 where 32 divides d_head
---@field threads? integer 0: as many as there are cores
---@field n_batch? integer rows of one pass at most; longer prompts run in chunks
---@field n_ctx? integer positions of a sequence at most; 0: the model's; where longer contexts have rotations of their own (longrope): those before, more asks for the others
---@field check_finite? boolean see `Session:check_finite`
---@field recompute? boolean passes with gradients keep one residual stream of about sqrt(n_layers) layers and work the rest out again on the way back: less memory, a third more time
---@field process? "tl" of `pl.load` only: rewrite the weights as TransformerLens does, see `Model:processed`
---@field architecture? string of `pl.load` only: a file that registers the model's family first, see `pl.use_architecture`

---@class perilune
local pl = {}

--- Loads a model: a .gguf or .safetensors file, a folder as published on Hugging Face, or the hub
--- id of one in the local cache. Without a name: the model that comes along.
---@param name? string
---@param opts? perilune.SessionOptions of the default session
---@return perilune.Model
function pl.load(name, opts) end

--- A model with random weights. `description` has `arch` ("gpt2" unless said otherwise), `dtype`,
--- `seed`, `std`, `tokenizer` (a path), and any field of `model.config`.
---@param description table
---@param opts? perilune.SessionOptions of the default session
---@return perilune.Model
function pl.new_model(description, opts) end

---@class perilune.ArchitectureTensor
---@field place string what it is: W_E W_pos W_token_type norm_embed norm_final W_dense W_U b_U W_pool, and in blocks norm_attention norm_mlp W_QKV W_Q W_K W_V W_O W_gate W_in W_gate_in W_out norm_q norm_k W_router W_gate_expert W_in_expert W_out_expert; rope_factors rope_factors_long rope_factors_short
---@field hf? string its name in safetensors; %d is the layer, %e the expert, ".weight" and ".bias" are appended
---@field gguf? string its name in GGUF, likewise
---@field merged? string of experts: GGUF's name of one tensor of them all
---@field bias? "never"|"optional"|"always" never unless said otherwise; optional: the file settles it
---@field slot? "before"|"after_sublayer"|"after_add" of norm_attention and norm_mlp: where it stands; before unless said otherwise
---@field conv1d? boolean safetensors hold it as [n_in, n_out]
---@field by_head? boolean of W_QKV: safetensors hold queries, keys and values of a head together

---@class perilune.Architecture
---@field name string what `model.config.arch` and `pl.new_model{arch = ...}` call it
---@field model_type? string of config.json, with class; without it there are no such files
---@field class? string the one that "architectures" of config.json names
---@field encoder? string the class without what makes logits
---@field gguf? string general.architecture; without it there are no such files
---@field prefix? string that some safetensors put before every name
---@field config table parts, as in `model.config`, of which norm, positions, activation and causal must be there; norm_slots, a list of before, after_sublayer and after_add; embed_scale: a number or "sqrt_d_model"; sizes stand for what files leave out
---@field sizes? table<string, string> what config.json calls a number of `model.config` where it is none of the usual names: {d_model = "hidden_dim"}
---@field tensors perilune.ArchitectureTensor[]
---@field ignored? string[] ends of the names of tensors that nothing needs
---@field windowed? boolean files may have a sliding window
---@field gain_offset? number safetensors hold gains less this: 1 where they are 1 + w
---@field rope_fraction? string what config.json calls the part of a head that is rotated
---@field rope_fraction_default? number where it does not say; 1
---@field gguf_rope_half? boolean GGUF's order of rotated pairs, where it is not that of config.rope_half

--- Adds a family of models, described as the built-in ones are: from then on its files load, from
--- safetensors and GGUF, with hooks, quantised types and saving. scripts/architectures/starcoder2.lua
--- is a complete example. Whatever is misspelt, missing or contradictory is refused by name.
---@param description perilune.Architecture
function pl.register_architecture(description) end

--- Runs a file that registers an architecture, unless it has run: a path, or the name of one in
--- scripts/architectures. `pl.load(path, {architecture = name})` and `perilune --architecture name`
--- do so too.
---@param name string
function pl.use_architecture(name) end

--- A tokenizer alone, from a folder as published on Hugging Face or a file of it.
---@param path string
---@return perilune.Tokenizer
function pl.load_tokenizer(path) end

---@class perilune.TrainTokenizerOptions
---@field files? string|string[] text files, or folders: all .txt files in them
---@field texts? string|string[] texts themselves
---@field vocab_size? integer entries, special tokens and the 256 bytes included; 32768 unless said otherwise
---@field pattern? string what cuts words: "gpt2" (unless said otherwise), "gpt4", "gpt4o", "llama3", "qwen2", or an expression that matches them
---@field special? string[] special tokens; their ids come first
---@field min_frequency? integer a pair seen less often is not merged; 2 unless said otherwise
---@field max_token_bytes? integer longer tokens are not made; 1024 unless said otherwise
---@field save? string where to write the tokenizer.json, or a folder for it
---@field progress? fun(fraction: number, text: string) called now and then; an error in it stops

--- Trains a byte-level BPE on text. Bytes that are no UTF-8 are words of their own. Where pairs run
--- out there are fewer entries than `vocab_size`: `n_tokens` tells.
---@param opts perilune.TrainTokenizerOptions
---@return perilune.Tokenizer
---@return {n_bytes: integer, n_files: integer, n_words: integer} about n_words: different ones
function pl.train_tokenizer(opts) end

---@class perilune.PullOptions
---@field file? string one file on the hub; what loading needs unless said otherwise
---@field revision? string a branch, a tag or a commit; "main" unless said otherwise
---@field wait? number seconds before the first further try, twice as many before each later one; 1 unless said otherwise
---@field on_progress? fun(file: {name: string, size: integer}, bytes: integer, checking?: boolean)
---@field on_file? fun(file: {name: string, size: integer}, was_there: boolean) called when a file is complete
---@field on_note? fun(text: string) called before a further try

--- Downloads a model from a hub, $HF_ENDPOINT or huggingface.co, into the cache that `pl.load` looks in,
--- with the token $HF_TOKEN. Goes on where an earlier pull was cut off, and checks every file's digest.
---@param id string ORG/NAME
---@param opts? perilune.PullOptions
---@return {id: string, commit: string, folder: string, files: table[]} files: {name, size, path, was_there} each
function pl.pull(id, opts) end

--- Feeds several sequences of one session in one pass; all advance, or none.
---@param items table list of {sequence, ids, logits = "last"|"all"|"none", types?: integer[]}
---@return table logits of each item, false where none were asked for
function pl.extend(items) end

--- The cache that `run_with_cache` has written to a folder. Tensors are read when they are asked for.
---@param model perilune.Model that the cache was made with
---@param folder string
---@return perilune.Cache
function pl.load_cache(model, folder) end

--- Runs rows of several sequences through layers `from_layer` (0) to `to_layer` - 1 (all), in one
--- pass. Each item is {seq, ids} for tokens after those held, or {seq, n = rows} for the last `n`
--- positions held, all unless said otherwise, again; `residual` [rows, d_model] is what enters the
--- first layer, needed where `from_layer` is above 0. Layers that are not run, and positions before
--- the rows, have the keys and values that the sequence holds. Nothing is kept: no sequence
--- advances, and each holds afterwards what it held.
---@param items table list of {seq, ids?, n?, residual?, logits?: "last"|"all"|"none", types?: integer[]}; from_layer, to_layer
---@return perilune.Tensor[] results logits [d_vocab] or [pos, d_vocab]; where none are asked for, or `to_layer` is not the last, the residual stream [pos, d_model] after the last layer run
function pl.partial(items) end

--- Copies of a sequence, which share what they have in common.
---@param seq perilune.Sequence
---@param n? integer 1 unless said otherwise
---@return perilune.Sequence[]
function pl.fork(seq, n) end

--- The samplers that a chain may name: {name, summary, chooses, params}; list names the parameter
--- that holds tokens, where there is one.
---@return table[]
function pl.samplers() end

--- Stops a hook, or any function, at the terminal: a session that knows the variables of the caller
--- (`act`, `at`, ...) and may assign to them. `:continue` goes on, `:quit` ends the pass with an error.
function pl.breakpoint() end

--- Seconds of a clock that only moves forward.
---@return number
function pl.clock() end

---@class perilune.SaveOptions
---@field format? "gguf"|"safetensors" by the path's ending unless said otherwise
---@field dtype? string what the matrices become: "f32", "f16", "bf16", and in GGUF "q8_0", "q6_k", "q5_k_m", "q5_k", "q5_1", "q5_0", "q4_k_m", "q4_k", "q4_1", "q4_0", "q3_k", "q2_k" (_m: llama.cpp's mixes); they keep their type without
---@field importance? table<string, perilune.Tensor> by a matrix's name in the file, how much the squared error of each of its inputs counts when it is quantised: float32 [n_in], the mean square of what meets it
---@field name? string `general.name` of a GGUF file; the model's own without
---@field tokenizer? boolean false leaves the tokenizer out

---@class perilune.Model
---@field config table the description: d_model, n_layers, n_heads, d_vocab, n_ctx, norm, ...
---@field n_params integer elements of all weights, a tied matrix once
---@field weight_bytes integer
---@field path string? where it came from; nil for random weights
---@field name string
---@field tokenizer perilune.Tokenizer? nil when the file has none
---@field default_session perilune.Session the one that the model's own methods use
local Model = {}

--- Token ids of a text. add_special: put the file's BOS and EOS around it; parse_special: control
--- tokens written in the text become their ids.
---@param text string
---@param opts? {add_special?: boolean, parse_special?: boolean} both true unless said otherwise
---@return perilune.Tensor ids int32 [pos]
function Model:encode(text, opts) end

--- The text of ids.
---@param ids perilune.ids
---@param opts? {skip_special?: boolean, replace_invalid?: boolean, keep_leading?: boolean}
---@return string
function Model:decode(ids, opts) end

--- The vocabulary's own spelling of each token: "Ġupon".
---@param ids perilune.ids
---@return string[]
function Model:pieces(ids) end

--- The text that each token stands for: " upon".
---@param ids perilune.ids
---@return string[]
function Model:to_str_tokens(ids) end

--- The one id of a text; an error says how many tokens it is otherwise.
---@param text string
---@return integer
function Model:to_single_token(text) end

--- A new session: workspace, keys and values, hooks.
---@param opts? perilune.SessionOptions
---@return perilune.Session
function Model:session(opts) end

--- A new sequence of the default session.
---@return perilune.Sequence
function Model:sequence() end

--- The logits of every position of a prompt; nothing is kept.
---@param prompt perilune.ids
---@param opts? {stop_at_layer?: integer, types?: integer[]} stop_at_layer: instead of logits the residual stream [pos, d_model] that enters that layer; no later layer is run. types: kinds of the tokens, see `Model:token_types`
---@return perilune.Tensor logits [pos, d_vocab]
function Model:forward(prompt, opts) end

--- Vectors of texts, by an encoder such as BERT: the mean over all positions, the first position's
--- vector ("cls"), or what the model's pooler makes of that.
---@param text string|table a text, or a list of texts and of pairs {a, b}
---@param opts? {pooling?: "mean"|"cls"|"pooler", normalize?: boolean, truncate?: boolean} pooling: as the model's files have it (`config.pooling`), else the mean; normalize: length 1 unless false; truncate: texts longer than the context are cut
---@return perilune.Tensor vectors [d_model] of a text, [text, d_model] of a list
function Model:encode_text(text, opts) end

--- The likeliest tokens for each [MASK] of a text.
---@param text string
---@param opts? {k?: integer} k: how many, 5
---@return table[] choices {id, piece, prob, text}, the likeliest first; a list of such lists where the text has several masks
function Model:fill_mask(text, opts) end

--- Two texts as one, with what separates them, and the kinds of its tokens.
---@param a string
---@param b string
---@return perilune.Tensor ids int32 [pos]
---@return integer[] types
function Model:encode_pair(a, b) end

--- The kinds of tokens of a pair: 0 up to the first separator, 1 after it. Without `types` all
--- tokens are of kind 0.
---@param ids integer[]|perilune.Tensor
---@return integer[]
function Model:token_types(ids) end

--- Continues a prompt: an iterator that gives one token a call.
---@param prompt perilune.ids
---@param opts? perilune.GenerateOptions
---@return perilune.Generator
function Model:generate(prompt, opts) end

--- Continues a prompt to the end; with strategy = NAME by one of `pl.strategies`, with its options.
---@param prompt perilune.ids
---@param opts? perilune.GenerateOptions
---@return perilune.Result
function Model:complete(prompt, opts) end

--- The source of the model's chat template, or nil.
---@return string?
function Model:chat_template() end

--- The text that the model's chat template makes of messages. The template's language is in
--- `pl.jinja`; `variables` are more values for it.
---@param messages table|string list of {role = ..., content = ...}, or what a user says
---@param opts? {add_generation_prompt?: boolean, continue_final_message?: boolean, tools?: table[], documents?: table[], tokenize?: boolean, chat_template?: string, variables?: table} tokenize: ids instead of text
---@return string|perilune.Tensor
function Model:apply_chat_template(messages, opts) end

--- Calls fn wherever the point is passed in the default session, in every layer unless one is
--- named. See `hook_points`.
---@param point string "blocks.2.attn.hook_z", "resid_post", "blocks.*.attn.hook_pattern"
---@param fn fun(act: perilune.Tensor, at: perilune.HookAt): perilune.Tensor? act is live and expires with the call; what is returned takes its place
---@param opts? perilune.HookOptions
---@return perilune.Hook
function Model:hook(point, fn, opts) end

--- How often each hook of the default session was called, and how long it took: a list of
--- {point, calls, seconds} that prints as a table.
---@return table[]
function Model:hook_report() end

--- The hooks of the default session, in the order in which they were registered and run.
---@return perilune.Hook[]
function Model:hooks() end

--- Removes all hooks of the default session.
function Model:reset_hooks() end

--- All points of this model: {name, layer, dims, formula}.
---@return table[]
function Model:hook_points() end

--- The logits of a prompt and copies of the activations that the patterns name, as they were used.
--- A list of prompts, of any lengths, runs in one pass and gives lists. Options: `hooks`, a list of
--- {point, fn, opts} that act meanwhile; `stop_at_layer`: that layer and later ones are not run, and
--- the residual stream that enters it stands in the place of the logits; `to`: a folder to which the
--- activations are written piece by piece as .npy, for what would not fit into memory.
---@param prompt perilune.ids|perilune.ids[]
---@param patterns? string|string[] all points unless said otherwise
---@param opts? {hooks?: table, stop_at_layer?: integer, to?: string, types?: table} types: as of `Model:forward`, with several prompts a list of them; a model without an output matrix gives its last residual stream
---@return perilune.Tensor logits [pos, d_vocab]
---@return perilune.Cache cache
function Model:run_with_cache(prompt, patterns, opts) end

--- The logits of a prompt under hooks that are gone afterwards. A hook that never fired is an error. A
--- list of prompts runs in one pass and gives a list.
---@param prompt perilune.ids|perilune.ids[]
---@param hooks table list of {point, fn, opts}
---@param opts? {stop_at_layer?: integer, types?: table}
---@return perilune.Tensor logits [pos, d_vocab]
function Model:run_with_hooks(prompt, hooks, opts) end

--- The k largest of a tensor over the vocabulary, with their texts: {id, value, piece}.
---@param values perilune.Tensor [d_vocab]
---@param k? integer 5 unless said otherwise
---@return table[]
function Model:topk(values, k) end

--- Name, dtype, shape and size of every weight: {name, dtype, shape, n_params}.
---@return table[]
function Model:weights() end

--- The first weight that is NaN or infinite, described, or nil. Reads every weight.
---@return string?
function Model:find_bad_weight() end

--- Writes the model: a GGUF file where the path ends in .gguf, else a folder in Hugging Face's
--- layout. Loaded again it computes the same; what the format cannot hold is refused.
---@param path string
---@param opts? perilune.SaveOptions
function Model:save(path, opts) end

--- Lets the model go. Its memory goes with the last of its sessions and sequences.
function Model:close() end

---@class perilune.Session
---@field model perilune.Model
---@field threads integer
---@field precision string
---@field kv string
---@field n_batch integer
---@field n_ctx integer
local Session = {}

--- A new sequence.
---@return perilune.Sequence
function Session:sequence() end

--- What happened so far: passes, rows, layer_rows, weight_bytes, workspace_bytes, kv_bytes.
---@return table<string, integer>
function Session:counters() end

--- The number of threads; no result depends on it. 0: as many as there are cores.
---@param n integer
function Session:set_threads(n) end

--- As `Model:hook`, for this session.
---@param point string
---@param fn function
---@param opts? table
---@return perilune.Hook
function Session:hook(point, fn, opts) end

---@return perilune.Hook[]
function Session:hooks() end

--- As `Model:hook_report`, for this session.
---@return table[]
function Session:hook_report() end

--- Whether a pass fails at the first point where a NaN or an infinity appears, naming point, layer,
--- position and column. Slower; off unless asked for, here or by the option of the same name.
---@param check boolean
function Session:check_finite(check) end

function Session:reset_hooks() end
function Session:close() end

---@class perilune.Sequence
---@field length integer positions held, also `#seq`
---@field pos integer the position that the next token gets, equal to length
---@field session perilune.Session
---@field model perilune.Model
local Sequence = {}

--- Feeds tokens. A failed call leaves the sequence as it was.
---@param tokens perilune.ids
---@param opts? {logits?: "last"|"all"|"none", out?: perilune.Tensor, types?: integer[]} "last" unless said otherwise; out is written instead of a new tensor; types: see `Model:token_types`
---@return perilune.Tensor? logits [d_vocab], [pos, d_vocab], or nothing
function Sequence:extend(tokens, opts) end

--- A sequence with the same tokens that goes its own way; the hooks of this one act on it too.
---@return perilune.Sequence
function Sequence:fork() end

--- A fork to come back to.
---@return perilune.Sequence
function Sequence:checkpoint() end

--- Holds again what the checkpoint holds.
---@param checkpoint perilune.Sequence
---@return perilune.Sequence self
function Sequence:rollback(checkpoint) end

--- Keeps the first n positions; n < 0 drops the last -n.
---@param n integer
---@return perilune.Sequence self
function Sequence:truncate(n) end

--- The tokens so far.
---@return perilune.Tensor ids int32 [pos]
function Sequence:tokens() end

--- The text so far.
---@param opts? table as of `Model:decode`
---@return string
function Sequence:text(opts) end

--- Memory for n positions in all, so that extending to there allocates nothing.
---@param n integer
function Sequence:reserve(n) end

--- Copies of the keys and values that a layer holds, as float32 [pos, kv_head, d_head]; keys are
--- rotated already.
---@param layer integer
---@return perilune.Tensor keys
---@return perilune.Tensor values
function Sequence:kv(layer) end

--- Puts rows [n, kv_head, d_head] in the place of those held from position `pos` on. What this
--- sequence computes from now on sees them; forks made before keep theirs. A failed call changes
--- nothing.
---@param layer integer
---@param pos integer negative from the end
---@param keys perilune.Tensor? nil leaves the keys
---@param values perilune.Tensor? nil leaves the values
---@return perilune.Sequence self
function Sequence:set_kv(layer, pos, keys, values) end

--- As `Model:hook`, for this sequence and its forks only.
---@param point string
---@param fn function
---@param opts? table
---@return perilune.Hook
function Sequence:hook(point, fn, opts) end

--- Goes on from this sequence, which holds every token that was given out. With a prompt, that is
--- fed first.
---@param prompt? perilune.ids
---@param opts? perilune.GenerateOptions
---@return perilune.Generator
function Sequence:generate(prompt, opts) end

--- As `generate`, to the end; with strategy = NAME by one of `pl.strategies`.
---@param prompt? perilune.ids
---@param opts? perilune.GenerateOptions
---@return perilune.Result
function Sequence:complete(prompt, opts) end

function Sequence:close() end

---@class perilune.Hook
---@field fired integer how often it was called
---@field seconds number spent in its function
---@field serial integer ascending in the order of registration
---@field active boolean
---@field point string as it was asked for
local Hook = {}

--- Ends it; a second time does nothing. A `<close>` variable does it at the end of its block.
function Hook:remove() end

---@class perilune.HookAt
---@field point string the full name
---@field layer integer? nil outside of the blocks
---@field pos integer absolute position of the first row
---@field n integer rows
---@field phase "prefill"|"decode" decode: one token after others; prefill: all other calls
---@field seq perilune.Sequence whose rows they are
---@field spans table[]? of a batched hook, in the place of pos, phase and seq: {seq, pos, n, first}, whose rows stand from row `first` on
local HookAt = {}

---@class perilune.GenerateOptions
---@field max_new_tokens? integer until the end of the context unless said otherwise
---@field temp? number divides the logits; 1 unless said otherwise, 0: the most likely token
---@field dynatemp_range? number how far the entropy moves temp; and dynatemp_exponent
---@field dynatemp_exponent? number
---@field top_k? integer 0: all
---@field top_p? number 1: all
---@field min_p? number 0: all
---@field typ_p? number 1: all
---@field top_n_sigma? number standard deviations below the best logit; -1: all
---@field epsilon_cutoff? number least probability; 0: any
---@field eta_cutoff? number the same, falling as the entropy rises
---@field xtc_probability? number how often likely tokens but the least likely are removed
---@field xtc_threshold? number what a likely token is; 0.1
---@field penalty_last_n? integer tokens looked back at; 64, -1: all
---@field penalty_repeat? number divides logits of tokens said; 1
---@field penalty_freq? number taken off for each time
---@field penalty_present? number taken off once
---@field dry_multiplier? number 0: no penalty on going on with a repetition
---@field dry_base? number 1.75
---@field dry_allowed_length? integer 2
---@field dry_penalty_last_n? integer -1: all
---@field dry_sequence_breakers? (string|integer[])[] newline, colon, quotation mark, asterisk
---@field mirostat? 0|1|2 chooses the token by a surprise that it keeps
---@field mirostat_tau? number that surprise, in bits; 5
---@field mirostat_eta? number how fast it is reached; 0.1
---@field adaptive_target? number chooses tokens whose probability is this on average; -1: off
---@field adaptive_decay? number how long the average remembers; 0.9
---@field logit_bias? table {[id or text] = number or false}; false: never
---@field sequence_bias? table {[text] = number} or {{ids, number}, ...}: for the token that completes it
---@field bad_words_ids? (string|integer|integer[])[] never completed
---@field suppress_tokens? (string|integer)[] never chosen
---@field begin_suppress_tokens? (string|integer)[] never chosen first
---@field no_repeat_ngram_size? integer never says the same so many tokens twice
---@field min_new_tokens? integer does not end before
---@field exponential_decay_length_penalty? number[] {first token, factor}: ends ever more likely
---@field forced_bos_token_id? integer the first new token
---@field forced_eos_token_id? integer the last token when max_new_tokens is reached
---@field infill? boolean fills a gap: ends early
---@field seed? integer random unless said otherwise; the one used is in the result
---@field stop? string|string[] the text ends before it
---@field stop_token_ids? integer|integer[]
---@field ignore_eos? boolean
---@field max_time? number seconds
---@field sampler? function|string|table edits the logits [d_vocab] in place (-inf: removed), or returns the choice; or the name of a sampler, {name, param = value}, or a list of those; they run before the others
---@field chain? table list of names, {name = value}, {name, param = value}, functions and grammars, instead of the above
---@field grammar? string|perilune.Grammar GBNF, the path of a file with it, or a grammar, which stays as it is
---@field regex? string the whole text matches it; see `pl.regex_grammar`
---@field json_schema? table|string the text is JSON of this schema; see `pl.json_schema_grammar`
---@field token_healing? boolean takes the prompt's last token back and begins with one that begins like it
---@field logits? boolean each step carries the model's logits
---@field record? string|string[] hook points whose activations are kept, see `Record`
---@field on_step? fun(piece: string, step: perilune.Step): boolean? false ends the text
local GenerateOptions = {}

---@class perilune.Step
---@field id integer
---@field pos integer
---@field prob number probability of the token under the model itself, before any sampler
---@field entropy number of the model's distribution, in nats
---@field logits perilune.Tensor? with logits = true
---@field finish_reason string? on the last step
local Step = {}

--- Gives piece, step at each call, nil at the end. `for` closes it on break.
---@class perilune.Generator
---@field ids integer[] chosen so far
---@field seed integer
---@field n_prompt integer
---@field finish_reason string? eos, stop, length, time, script or interrupted
---@field record perilune.Record? with the option `record`
---@overload fun(): string?, perilune.Step?
local Generator = {}

function Generator:close() end

---@class perilune.Result
---@field text string what was generated, without the stop string
---@field ids integer[]
---@field finish_reason "eos"|"stop"|"length"|"time"|"script"|"interrupted"
---@field stop string? the stop string that was found
---@field seed integer
---@field n_prompt integer
---@field n_new integer
---@field record perilune.Record? with the option `record`
local Result = {}

---@class perilune.HookOptions
---@field layer? integer|integer[] every layer unless said otherwise; negative from the end
---@field pos? integer|integer[] the function is called for these positions only, with one row each; below 0: from the end of the prompt, -1 its last, and never while tokens are generated one by one
---@field read? boolean promises not to write; writing then raises
---@field batched? boolean one call with the rows of all sequences; not for attn_scores and pattern
---@field state? any what the function gets as its third argument, one for each sequence: a copy of this, or what this function returns
---@field clone? fun(state: any): any makes a fork's state; unless said otherwise tables and tensors are copied
local HookOptions = {}

--- Activations by the full names of their points: cache["blocks.0.hook_resid_post"].
---@class perilune.Cache
local Cache = {}

--- The tensor at a point, which may be a short name with its layer.
---@param name string
---@param layer? integer
---@return perilune.Tensor
function Cache:get(name, layer) end

--- The full names, sorted.
---@return string[]
function Cache:names() end

--- Writes every tensor: GGUF where the path ends in .gguf, else safetensors. See `pl.load_tensors`.
---@param path string
function Cache:save(path) end

--- What a generation with `record` leaves: activations as they were used, edits included, and the
--- way back to every step.
---@class perilune.Record
---@field n_prompt integer
local Record = {}

--- Activations of prompt and text by position. The last token drawn was never fed and has none.
---@return perilune.Cache
function Record:cache() end

--- Goes on from step k, 0 being the first token drawn, under other hooks.
---@param k integer
---@param opts? table options of `generate`, and hooks = {{point, fn, opts}, ...}
---@return perilune.Generator
---@return perilune.Sequence seq that it runs on
---@return perilune.Hook[]
function Record:replay(k, opts) end

function Record:close() end

---@class perilune.Tokenizer
---@field kind string "byte-level BPE", ...
---@field n_tokens integer
---@field source string
---@field chat_template string?
---@field special table<string, integer> bos, eos, unk, pad, sep, cls, mask, as far as there are
---@field prefix integer[] what add_special puts before a text
---@field suffix integer[] and after it
local Tokenizer = {}

---@param text string
---@param opts? {add_special?: boolean, parse_special?: boolean}
---@return perilune.Tensor ids int32 [pos]
function Tokenizer:encode(text, opts) end

---@param ids perilune.ids
---@param opts? {skip_special?: boolean, replace_invalid?: boolean, keep_leading?: boolean}
---@return string
function Tokenizer:decode(ids, opts) end

---@param ids perilune.ids
---@return string[]
function Tokenizer:pieces(ids) end

---@param ids perilune.ids
---@return string[]
function Tokenizer:to_str_tokens(ids) end

---@param text string
---@return integer
function Tokenizer:to_single_token(text) end

--- The id with exactly this spelling in the vocabulary.
---@param piece string
---@return integer?
function Tokenizer:find_piece(piece) end

--- Whether generating the token ends a text.
---@param id integer
---@return boolean
function Tokenizer:is_end(id) end

---@param id integer
---@return "normal"|"unknown"|"control"|"user_defined"|"unused"|"byte"
function Tokenizer:attr(id) end

--- How a text becomes tokens: states {word, step, pieces, ids, merged, rank}, merge by merge.
---@param text string
---@return table[]
function Tokenizer:explain(text) end

--- Writes the tokenizer.json that it was trained or read as; other formats cannot be written.
---@param path string a file, or a folder that is there
function Tokenizer:save(path) end

--- Decodes a stream: put(id) and flush() give the text that is complete now.
---@param opts? table as of `decode`
---@return perilune.Decoder
function Tokenizer:decoder(opts) end

function Tokenizer:close() end

---@class perilune.Decoder
local Decoder = {}

---@param id integer
---@return string
function Decoder:put(id) end

---@return string
function Decoder:flush() end

return pl
