---@meta

-- Low-rank adapters (LoRA, Hu et al. 2021): small matrices beside a model's own, trained or loaded,
-- put on sequences at any scale.
--
--     y = x W^T + b + scale * alpha / rank * (x A^T) B^T

---@class perilune.Adapter
---@field name string of its file or folder
---@field n_params integer
local Adapter = {}

--- What it adapts, by the names in Hugging Face's files; scale: alpha / rank, or what the file says.
---@return {name: string, rank: integer, scale: number, n_in: integer, n_out: integer}[]
function Adapter:matrices() end

--- A [rank, n_in] and B [n_out, rank] of every matrix, themselves: what an optimizer is given.
---@return {name: string, tensor: perilune.Tensor}[]
function Adapter:parameters() end

--- Writes a GGUF file where the path ends in .gguf, else a folder in PEFT's layout: adapter_config.json,
--- adapter_model.safetensors.
---@param path string
function Adapter:save(path) end

--- Sequences that wear it keep it.
function Adapter:close() end

---@class perilune.Model
local Model = {}

--- Loads a folder in PEFT's layout, the .safetensors file in it, a .gguf file, or what `pl.pull` brought
--- under its hub id. An adapter that was made for another base is refused by the name of what does not fit.
---@param path string
---@return perilune.Adapter
function Model:load_adapter(path) end

--- An adapter to train, which changes nothing yet: A is random, B is 0, both require grad. targets
--- are ends of names ("q_proj"), or "all-linear"; what makes queries and values unless said otherwise.
---@param opts? {rank?: integer, alpha?: number, targets?: string|string[], seed?: integer} rank 8, alpha 2 rank
---@return perilune.Adapter
function Model:new_adapter(opts) end

--- A model with adapters put into its matrices, each in its own type; quantised ones are rounded
--- anew. The other weights are shared.
---@param adapters (perilune.Adapter|{[1]: perilune.Adapter, [2]: number})[] each with its scale, or 1
---@param opts? perilune.SessionOptions of the default session
---@return perilune.Model
function Model:merge(adapters, opts) end

--- `Session:set_adapter` for the default session: passes and generation from now on wear it.
---@param adapter perilune.Adapter
---@param scale? number 1 unless said otherwise, 0 takes it off
---@return perilune.Model self
function Model:set_adapter(adapter, scale) end

---@class perilune.Session
local Session = {}

--- What sequences made from now on wear.
---@param adapter perilune.Adapter
---@param scale? number 1 unless said otherwise, 0 takes it off
---@return perilune.Session self
function Session:set_adapter(adapter, scale) end

---@return {[1]: perilune.Adapter, [2]: number}[] each with its scale
function Session:adapters() end

---@class perilune.Sequence
---@field stale integer positions, from the first on, computed before the adapters last changed
local Sequence = {}

--- Puts an adapter on, changes its scale, or with 0 takes it off, also between two tokens. Positions
--- held keep their keys and values and count as stale.
---@param adapter perilune.Adapter
---@param scale? number 1 unless said otherwise
---@return perilune.Sequence self
function Sequence:set_adapter(adapter, scale) end

---@return {[1]: perilune.Adapter, [2]: number}[] each with its scale, in the order put on
function Sequence:adapters() end

--- Computes all tokens again, so that nothing is stale; hooks see them.
---@return perilune.Sequence self
function Sequence:recompute() end
