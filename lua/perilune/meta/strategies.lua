---@meta

-- Decoding strategies: pl.strategies.NAME(model, prompt, opts), and texts of several prompts at once.

local pl = {}

---@class perilune.StrategyOptions
---@field max_new_tokens? integer until the end of the context unless said otherwise
---@field seed? integer random unless said otherwise; the one used is in the result
---@field stop? string|string[] the text ends before it
---@field stop_token_ids? integer|integer[]
---@field ignore_eos? boolean
---@field max_time? number seconds
---@field on_step? fun(piece: string, step: table): boolean? false ends the text
---@field temp? number as of `Model:generate`, where the strategy draws tokens or shapes the logits
---@field top_k? integer
---@field top_p? number
---@field min_p? number
---@field sampler? fun(logits: perilune.Tensor, ctx: table)
---@field chain? table
local StrategyOptions = {}

--- Several prompts by one strategy, in joined passes; each result is what the prompt gives alone.
---@param model perilune.Model
---@param prompts perilune.ids[]
---@param opts? table options of the strategy, and strategy = "sample" or another one's name
---@return perilune.Result[]
function pl.batch(model, prompts, opts) end

--- All strategies by name, read when first asked for. Each has `name`, `options` (the names that it
--- knows) and `batch(self, model, prompts, opts)`.
pl.strategies = {}

--- Greedy search and sampling, a token at a time, as `Model:complete`.
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts? perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.sample(model, prompt, opts) end

--- Beam search. Options: num_beams (4), num_return_sequences (1), length_penalty (1), early_stopping
--- (false; true or "never"), num_beam_groups (1) with diversity_penalty (0), force_words_ids (phrases:
--- texts, ids, or lists of alternatives), do_sample (draw beams). The result has `sequences`, a list
--- of {text, ids, score, sum_logprobs, finish_reason} from the best on, their `scores`, and with
--- forced words `constraints_met`.
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts? perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.beam_search(model, prompt, opts) end

--- Speculative decoding: exactly the model's distribution in fewer of its passes. Options:
--- assistant_model (a small model of the same vocabulary), num_assistant_tokens (5),
--- num_assistant_tokens_schedule ("constant" or "heuristic"). The result has n_passes, n_drafted,
--- n_accepted and acceptance.
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.speculative(model, prompt, opts) end

--- Speculation from the text so far: the same text as without, in fewer passes where it repeats
--- itself. Options: prompt_lookup_num_tokens (10), max_matching_ngram_size (2). The result has
--- n_passes, n_drafted, n_accepted and acceptance.
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts? perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.prompt_lookup(model, prompt, opts) end

--- Away from what the model says to another prompt. Options: guidance_scale (1.5), negative_prompt (the
--- prompt's last token).
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts? perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.classifier_free_guidance(model, prompt, opts) end

--- What a good model says more readily than a bad one. Options: amateur_model, alpha (0.1),
--- amateur_temp (1).
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.contrastive_decoding(model, prompt, opts) end

--- What the last layer says more readily than an earlier one. Options: dola_layers ("low", "high" or a
--- list), relative_top (0.1). The result has `layers`: which one was taken for each token.
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts? perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.dola(model, prompt, opts) end

--- Likely tokens whose hidden state is unlike the earlier ones'; nothing is random. Options:
--- penalty_alpha (0.6), top_k (4).
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts? perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.contrastive_search(model, prompt, opts) end

--- Goes back where a banned phrase has come, and rules out the token it began with. Options:
--- banned_strings, ignore_case. The result has n_rewinds.
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.phrase_ban(model, prompt, opts) end

--- A watermark: the tokens before the next seed a choice of green ones, which are raised. Options:
--- greenlist_ratio (0.25), bias (2), hashing_key, context_width (1).
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts? perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.watermark(model, prompt, opts) end

--- Counts green tokens: {n_scored, n_green, green_fraction, z, p_value (binomial, exact), prediction,
--- ids, green (by place in ids, from context_width + 1 on)}.
--- Options as when making, and z_threshold (3), ignore_repeated_ngrams (true).
---@param model perilune.Model for its tokenizer and the size of its vocabulary
---@param text perilune.ids
---@param opts? table
---@return table
function pl.strategies.watermark.detect(model, text, opts) end

--- The watermark as a sampler for any chain or for `sampler`.
---@param opts? table as of watermark
---@return fun(logits: perilune.Tensor, ctx: table)
function pl.strategies.watermark.sampler(opts) end

--- The best of several texts. Options: n (8), score (a function of {text, ids, sum_logprobs,
--- finish_reason, seed}; the mean log probability without), num_return_sequences (1). The result has
--- score, sequences and scores.
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts? perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.best_of_n(model, prompt, opts) end

--- The answer that most of several texts come to. Options: n (8), answer (a function of a sample that
--- gives what it says, or nil), score (the weight of a sample's vote). The result has answer, votes and
--- agreement.
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.self_consistency(model, prompt, opts) end

--- Tree search for texts that a function finds good. Options: value (a function of a text and {ids,
--- ended, sum_logprobs, seq} that gives a number), n_simulations (32 a token), top_k (8), c_puct (1),
--- n_rollout (0), n_parallel (8). The result has value.
---@param model perilune.Model
---@param prompt perilune.ids
---@param opts perilune.StrategyOptions
---@return perilune.Result
function pl.strategies.mcts(model, prompt, opts) end

--- Functions on the prompt (before), the logits (during) and the text (after), one or a list each. One
--- that returns nothing leaves what it got. Two pipelines are joined by `..`.
---@param opts {before?: function|function[], during?: function|function[], after?: function|function[]}
---@return perilune.Pipeline
function pl.pipeline(opts) end

---@class perilune.Pipeline
local Pipeline = {}

--- As `Model:complete`, through all three phases; the result's raw_text is the text before the last.
---@param model perilune.Model
---@param prompt string
---@param opts? perilune.GenerateOptions
---@return perilune.Result
function Pipeline:complete(model, prompt, opts) end

--- As `Model:generate`, through the first two phases.
---@param model perilune.Model
---@param prompt string
---@param opts? perilune.GenerateOptions
---@return perilune.Generator
function Pipeline:generate(model, prompt, opts) end

--- A prompt program: text, generation and choices on one sequence. `opts` are those of `generate` for
--- every gen, and seed, chat_template (the model's own unless said otherwise), roles (what stands
--- before and after a role's messages: {user = {"<", ">"}}).
--- Called with a text it appends it; what was captured is found under its name: p.answer.
---@param model perilune.Model
---@param opts? table
---@return perilune.Prompt
function pl.prompt(model, opts) end

--- A prompt program as a function whose names are text, gen, select, fork, join, role, system, user,
--- assistant, prompt and what was captured.
---@param model perilune.Model
---@param opts? table
---@param fn fun(_ENV: table)
---@return perilune.Prompt
function pl.program(model, opts, fn) end

---@class perilune.Prompt
---@field vars table<string, any> what was captured
---@field results table<string, perilune.Result> of each named gen
---@field scores table<string, table[]> of each named select: {option, logprob, n_tokens, prob}
---@field seq perilune.Sequence which holds the text
---@field messages table[] the messages of roles so far
---@overload fun(text: string): perilune.Prompt
local Prompt = {}

--- Appends text. parse_special = false: control tokens in it are plain text.
---@param text string
---@param opts? {parse_special?: boolean, add_special?: boolean} both true unless said otherwise
---@return perilune.Prompt self
function Prompt:add(text, opts) end

--- All of the text so far.
---@return string
function Prompt:text() end

--- Generates, and captures the text as `name`; options as of `Model:generate`, those of the prompt
--- unless said otherwise. `as` makes of the text what is captured and returned.
---@param opts? table|string a name alone is enough
---@return any
function Prompt:gen(opts) end

--- Appends the likeliest of several texts, by the exact sum of log probabilities (normalize = "mean":
--- for each token), or draws one (sample = true); captured as `name`. One pass for all.
---@param opts table list of texts, with name, normalize, sample
---@return string
---@return table[] scores {option, logprob, n_tokens, prob}
function Prompt:select(opts) end

--- n prompts that go on from here, each in its own way. With a function all run it side by side, and
--- what they generate takes a pass a step together.
---@param n? integer
---@param fn? fun(fork: perilune.Prompt, i: integer)
---@return perilune.Prompt[]
function Prompt:fork(n, fn) end

--- Takes over what forks captured, as lists, and closes them; with separator their texts as well.
---@param forks perilune.Prompt[]
---@param opts? {separator?: string}
---@return perilune.Prompt self
function Prompt:join(forks, opts) end

--- A message of a role, in the form of the model's chat template: a text, or a function that makes it.
--- Also as p:system(what), p:user(what), p:assistant(what).
---@param role string
---@param what string|fun(p: perilune.Prompt)
---@return perilune.Prompt self
function Prompt:role(role, what) end

function Prompt:close() end

return pl
