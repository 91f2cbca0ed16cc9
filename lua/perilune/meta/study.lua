---@meta

-- Weights by name, files of tensors.

---@alias perilune.Weights table<integer, perilune.Tensor> a weight of each block, float32 and read-only

---@class perilune
local pl = {}

--- All tensors of a .safetensors or .gguf file, as float32 (integers as they are), and a GGUF
--- file's numbers, texts and truth values.
---@param path string
---@return table<string, perilune.Tensor> tensors
---@return table<string, any> metadata
function pl.load_tensors(path) end

--- Writes tensors by name: GGUF where the path ends in .gguf, else safetensors.
---@param path string
---@param tensors table<string, perilune.Tensor>
---@param metadata? table<string, any> of a GGUF file: numbers, texts, lists of texts, truth values
function pl.save_tensors(path, tensors, metadata) end

---@class perilune.Model
---@field W_E perilune.Tensor [d_vocab, d_model]
---@field W_pos perilune.Tensor [n_ctx, d_model], learned positions only
---@field W_U perilune.Tensor [d_model, d_vocab]
---@field b_U perilune.Tensor [d_vocab], 0 unless the model is processed
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
