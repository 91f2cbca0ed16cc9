---@meta

-- Chains of samplers, and samplers written in Lua.

---@class perilune
local pl = {}

---@class perilune.SamplerContext
---@field ids integer[] the tokens so far
---@field n_prompt integer how many of them were given
---@field pos integer the position of the token to choose
---@field step integer tokens chosen so far, also n
---@field seq perilune.Sequence
---@field model perilune.Model
---@field seed integer
---@field random fun(): number the next number of this position in [0, 1), the same in every run with this seed
---@field activations table<string, perilune.Tensor> of the last position, by the names in `wants`
local SamplerContext = {}

---@class perilune.SamplerDefinition
---@field name string
---@field summary? string
---@field params? table<string, number|table> defaults, or {default, min =, max =, help =}
---@field new? fun(params: table<string, number>): any the state of one text; the parameters unless said otherwise
---@field apply fun(state: any, logits: perilune.Tensor, ctx: perilune.SamplerContext): integer|perilune.Tensor|nil
---@field accept? fun(state: any, id: integer) the text went on with this token
---@field clone? fun(state: any): any for a fork; a deep copy unless said otherwise
---@field chooses? boolean it always returns a token, so it stands last
---@field wants? string|string[] hook points to see in ctx.activations
local SamplerDefinition = {}

--- Registers a sampler under a name for chains: (name, function(logits, ctx)), or a definition.
---@param name string|perilune.SamplerDefinition
---@param fn? fun(logits: perilune.Tensor, ctx: perilune.SamplerContext): integer|perilune.Tensor|nil
function pl.sampler(name, fn) end

---@class perilune.Model
local Model = {}

--- A chain to sample with by hand.
---@param list table as the option `chain` of `generate`
---@param opts? {seed?: integer, stream?: integer}
---@return perilune.Chain
function Model:chain(list, opts) end

---@class perilune.Chain
local Chain = {}

--- Edits the logits in place and chooses.
---@param logits perilune.Tensor float32 [d_vocab]
---@param pos integer what random numbers depend on, with the seed and the stream
---@param ctx? table what samplers of Lua get
---@return integer id
---@return number prob under the logits as they came
---@return number entropy of them, in nats
function Chain:sample(logits, pos, ctx) end

--- The text goes on with these tokens, whoever chose them.
---@param ids perilune.ids
function Chain:accept(ids) end

--- A new text begins with this prompt.
---@param ids? perilune.ids
function Chain:reset(ids) end

--- The next random number of the position; only while a sampler runs.
---@return number
function Chain:random() end

--- A chain in the same state that goes its own way: a fork's.
---@param stream? integer another one, to draw differently from then on
---@return perilune.Chain
function Chain:clone(stream) end

function Chain:close() end

--- Samplers in files that were dropped into a folder: see plugins/template.c and template.lua.
---@class perilune.Plugins
pl.plugins = {}

---@class perilune.Plugin
---@field name string? nil when it was refused
---@field problem string? why it was refused
---@field path string
---@field kind "library"|"lua"
---@field abi integer? of a library
---@field summary string
---@field chooses boolean
---@field params table[] {name, neutral, min, max, whole, help}

--- What was found, in the order in which folders are looked into.
---@return perilune.Plugin[]
function pl.plugins.list() end

--- Loads everything anew: files that changed, came or went. Chains that exist keep what they have.
---@return perilune.Plugin[]
function pl.plugins.reload() end

--- Loads one file from anywhere.
---@param path string a .so or a .lua
---@return perilune.Plugin
function pl.plugins.load(path) end

--- The folders that are looked into: $PERILUNE_PLUGIN_PATH, the user's data folder, beside the
--- program, where it was installed to.
---@return string[]
function pl.plugins.folders() end
