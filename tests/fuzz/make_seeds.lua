-- Makes the seeds of fuzz_gguf and fuzz_hf_config anew: a small valid file for each family of models, and for
-- what configurations spell in several ways. From the project's root:
--
--     build/perilune tests/fuzz/make_seeds.lua [FOLDER]        (tests/fuzz/seeds)

local pl = require "perilune"

local seeds = arg[1] or "tests/fuzz/seeds"

local long = { rope_scaling = "long", rope_original_ctx = 16 }
local yarn = { rope_scaling = "yarn", rope_factor = 4, rope_original_ctx = 16 }
local llama3 = { rope_scaling = "llama3", rope_factor = 8, rope_original_ctx = 16, rope_low_freq_factor = 1,
  rope_high_freq_factor = 4 }

-- Fields beside the sizes, and the layers that show a pattern of windows.
local families = {
  { "gpt2" }, { "openai-gpt" }, { "llama", llama3 }, { "mistral", { window = 9 } },
  { "mixtral", { n_experts = 2, n_experts_used = 1, window = 9 } }, { "qwen2", yarn }, { "qwen3" }, { "olmo2" },
  { "stablelm", { rope_dims = 2 } }, { "phi3", long }, { "gptneox", { rope_dims = 2 } },
  { "gemma2", { window = 9 }, 2 }, { "gemma3", { window = 9 }, 6 }, { "bert", { pooler = true } }, { "distilbert" },
}

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local function model_of(name, fields, n_layers)
  local description = { arch = name, d_model = 8, n_heads = 2, d_head = 4, d_mlp = 8, n_layers = n_layers or 1,
    n_ctx = 32, d_vocab = 12, seed = 1 }
  for key, value in pairs(fields or {}) do description[key] = value end
  return pl.new_model(description)
end

local folder = os.tmpname()
os.remove(folder)
for _, family in ipairs(families) do
  local name = family[1]
  local model = model_of(name, family[2], family[3])
  if name ~= "openai-gpt" then -- of which there are no GGUF files
    model:save(("%s/gguf/%s.gguf"):format(seeds, name))
  end
  model:save(folder, { format = "safetensors" })
  write(("%s/hf_config/%s.json"):format(seeds, name), read(folder .. "/config.json"))
  os.execute("rm -r " .. folder)
end

-- What newer files say, and what the writer of perilune does not.
local sizes = '"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 12, ' ..
  '"max_position_embeddings": 64, "intermediate_size": 8, '
local spellings = {
  rope_parameters = '"model_type": "qwen3", "head_dim": 4, "rope_parameters": {"rope_type": "default", ' ..
    '"rope_theta": 1000000.0}',
  rope_by_layer = '"model_type": "gemma3_text", "head_dim": 4, "sliding_window": 8, "query_pre_attn_scalar": 4, ' ..
    '"layer_types": ["sliding_attention", "full_attention"], "rope_parameters": {"full_attention": ' ..
    '{"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}, "sliding_attention": {"rope_type": "default", ' ..
    '"rope_theta": 10000.0}}',
  rope_yarn = '"model_type": "qwen2", "use_sliding_window": false, "sliding_window": 32, "max_window_layers": 2, ' ..
    '"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32, ' ..
    '"beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": true}',
  rope_longrope = '"model_type": "phi3", "original_max_position_embeddings": 16, "partial_rotary_factor": 1.0, ' ..
    '"sliding_window": 47, "rope_scaling": {"type": "su", "short_factor": [1.0, 1.5], "long_factor": [2, 4.0]}',
  windows = '"model_type": "mistral", "sliding_window": null, "num_key_value_heads": 1, "hidden_act": "silu", ' ..
    '"tie_word_embeddings": true, "attention_bias": false, "rope_theta": 1e6, "rms_norm_eps": 1e-05',
  encoder = '"model_type": "bert", "architectures": ["BertModel"], "type_vocab_size": 2, "hidden_act": "gelu", ' ..
    '"position_embedding_type": "absolute", "layer_norm_eps": 1e-12, "add_cross_attention": false',
}
for name, text in pairs(spellings) do
  write(("%s/hf_config/%s.json"):format(seeds, name), "{" .. sizes .. text .. "}\n")
end
