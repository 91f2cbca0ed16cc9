-- Low-rank adapters in Lua: wearing, training, merging, files.
local pl = require "perilune"
local program = require "tests.lua.program"
local tiny = require "tests.lua.tiny"

describe("adapters", function()
  local scratch = require "tests.lua.scratch"(teardown)

  local exact = { precision = "exact", kv = "f32" }
  local function model_of(arch, dtype)
    return pl.new_model({ arch = arch, n_layers = 2, n_heads = 2, d_model = 32, d_vocab = 40, n_ctx = 32, std = 0.2,
      dtype = dtype, seed = 5 }, exact)
  end
  local ids, targets = { 3, 1, 39, 7, 3, 20 }, pl.tensor({ 1, 39, 7, 3, 20, 2 }, { dtype = "int64" })

  -- An adapter that changes something: B is random too.
  local function worn(model, opts)
    local adapter = model:new_adapter(opts)
    pl.no_grad(function()
      for i, p in ipairs(adapter:parameters()) do p.tensor:normal_(0, 0.1, { seed = i }) end
    end)
    return adapter
  end

  local function near(a, b, tolerance)
    local most = (a - b):abs():max()
    assert.is_true(most <= tolerance * math.max(1, b:abs():max()), most)
  end

  it("changes nothing when new, and something at each scale", function()
    local model = model_of("llama")
    local plain = model:forward(ids)
    model:set_adapter(model:new_adapter())
    assert.are.equal(0, (model:forward(ids):detach() - plain):abs():max())
    model = model_of("llama")
    local adapter = worn(model, { targets = { "q_proj", "down_proj" }, rank = 3 })
    assert.are.equal(4, #adapter:matrices())
    local one = model:sequence():set_adapter(adapter):extend(ids)
    local half = model:sequence():set_adapter(adapter, 0.5):extend(ids)
    assert.is_true((one - half):abs():max() > 1e-3)
    assert.are.equal(0, (model:forward(ids) - plain):abs():max())
  end)

  -- y = x (W + s B A)^T, so that dL/dB = s dL/dW A^T and dL/dA = s B^T dL/dW.
  it("has the gradients that those of the whole matrix imply", function()
    for _, arch in ipairs { "gpt2", "llama" } do
      local model = model_of(arch)
      local adapter = worn(model, { targets = "all-linear", rank = 3, alpha = 6 })
      model:set_adapter(adapter, 0.7)
      local loss = model:forward(ids):cross_entropy(targets)
      loss:backward()
      local whole = model:merge({ { adapter, 0.7 } }, exact):trainable(exact)
      local expected = whole:forward(ids):cross_entropy(targets)
      assert.is_true(math.abs(loss:item() - expected:item()) < 1e-5)
      expected:backward()
      local grads, checked = {}, 0
      for _, p in ipairs(whole:parameters()) do grads[p.name] = p.tensor.grad end
      local gguf = { ["attn.c_attn"] = { "attn_q", "attn_k", "attn_v" }, ["attn.c_proj"] = { "attn_output" },
        ["mlp.c_fc"] = { "ffn_up" }, ["mlp.c_proj"] = { "ffn_down" }, q_proj = { "attn_q" }, k_proj = { "attn_k" },
        v_proj = { "attn_v" }, o_proj = { "attn_output" }, gate_proj = { "ffn_gate" }, up_proj = { "ffn_up" },
        down_proj = { "ffn_down" } }
      local list = adapter:parameters()
      for i, matrix in ipairs(adapter:matrices()) do
        local layer = matrix.name:match("%d+")
        local names = gguf[matrix.name:match("(%w+%.c_%w+)$") or matrix.name:match("(%w+)$")] or
          gguf[matrix.name:match("([%w_]+)$")]
        local parts = {}
        for k, name in ipairs(names) do parts[k] = grads[("blk.%s.%s.weight"):format(layer, name)] end
        local g = (#parts > 1 and pl.cat(parts, 0) or parts[1]) * (0.7 * matrix.scale)
        local a, b = list[2 * i - 1].tensor, list[2 * i].tensor
        near(b.grad, g:matmul(a:detach():transpose(0, 1)), 2e-5)
        near(a.grad, b:detach():transpose(0, 1):matmul(g), 2e-5)
        checked = checked + 1
      end
      assert.are.equal(arch == "gpt2" and 8 or 14, checked)
    end
  end)

  it("trains on quantised weights, which stay as they are", function()
    local model = model_of("gpt2", "q8_0")
    local before = model:forward(ids)
    local adapter = model:new_adapter({ rank = 4, targets = { "c_attn", "c_fc" } })
    model:set_adapter(adapter)
    local optimizer = pl.optim.adamw(adapter:parameters(), { lr = 0.02 })
    local first, last
    for _ = 1, 30 do
      optimizer:zero_grad()
      local loss = model:forward(ids):cross_entropy(targets)
      first, last = first or loss:item(), loss:item()
      loss:backward()
      optimizer:step()
    end
    assert.is_true(last < 0.6 * first, first .. " " .. last)
    model:set_adapter(adapter, 0)
    assert.are.equal(0, (model:forward(ids) - before):abs():max())
  end)

  it("can be changed between tokens, marks what is stale, and renews it", function()
    local model = model_of("llama")
    local adapter = worn(model)
    local seq, fresh = model:sequence(), model:sequence():set_adapter(adapter, 2)
    seq:extend(ids, { logits = "none" })
    assert.are.equal(0, seq.stale)
    seq:set_adapter(adapter, 2)
    assert.are.equal(6, seq.stale)
    assert.are.equal(adapter, seq:adapters()[1][1])
    assert.are.equal(2, seq:adapters()[1][2])
    local fork = seq:fork()
    local seen = 0
    local hook = seq:hook("blocks.0.hook_resid_pre", function() seen = seen + 1 end)
    assert.are.equal(seq, seq:recompute())
    hook:remove()
    assert.are.equal(1, seen)
    assert.are.equal(0, seq.stale)
    assert.are.equal(6, fork.stale)
    fresh:extend(ids, { logits = "none" })
    local renewed, expected, mixed = seq:extend(5), fresh:extend(5), fork:extend(5)
    assert.are.equal(0, (renewed - expected):abs():max())
    assert.is_true((mixed - expected):abs():max() > 1e-4)
    fork:truncate(4)
    assert.are.equal(4, fork.stale)
  end)

  it("is there in what single heads read and write", function()
    for _, dtype in ipairs { "f32", "q8_0" } do
      local model = model_of("llama", dtype)
      model:set_adapter(worn(model, { targets = "all-linear" }), 0.5)
      pl.no_grad(function()
        local plain = model:forward(ids)
        for _, point in ipairs { "blocks.0.attn.hook_result", "blocks.0.hook_q_input", "blocks.1.hook_attn_in" } do
          local hook <close> = model:hook(point, function(act) act:mul_(1.0000001) end)
          near(model:forward(ids), plain, 2e-5)
          hook:remove()
        end
      end)
    end
  end)

  it("keeps what it had where computing anew fails", function()
    local model = model_of("gpt2")
    local seq = model:sequence()
    seq:extend(ids, { logits = "none" })
    seq:set_adapter(worn(model), 1)
    local copy = seq:fork()
    local hook = seq:hook("blocks.1.hook_mlp_out", function() error("no") end)
    assert.has_error(function() seq:recompute() end)
    hook:remove()
    assert.are.equal(6, seq.stale)
    assert.are.equal(6, #seq)
    assert.are.equal(0, (seq:extend(9) - copy:extend(9)):abs():max())
  end)

  it("is saved as PEFT has it, loaded, merged and closed", function()
    local model = model_of("gpt2")
    local adapter = worn(model)
    adapter:save(scratch.at "adapter")
    local config = pl.json.decode(scratch.read "adapter/adapter_config.json")
    assert.are.equal("LORA", config.peft_type)
    assert.are.equal(8, config.r)
    local tensors = pl.load_tensors(scratch.at "adapter/adapter_model.safetensors")
    assert.are.same({ 96, 8 }, tensors["base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"].shape)
    local loaded = model:load_adapter(scratch.at "adapter")
    assert.are.equal("adapter adapter (2 matrices, 2048 parameters)", tostring(loaded))
    local a = model:sequence():set_adapter(adapter):extend(ids)
    local b = model:sequence():set_adapter(loaded):extend(ids)
    near(a, b, 1e-6)
    adapter:save(scratch.at "adapter.gguf")
    assert.are.equal("GGUF", scratch.read("adapter.gguf"):sub(1, 4))
    local gguf <close> = model:load_adapter(scratch.at "adapter.gguf")
    near(a, model:sequence():set_adapter(gguf):extend(ids), 1e-6)
    near(model:merge({ loaded }, exact):sequence():extend(ids), a, 1e-5)
    local seq = model:sequence():set_adapter(loaded)
    loaded:close()
    assert.are.equal("adapter (closed)", tostring(loaded))
    assert.are.equal(2, #seq:adapters()[1][1]:matrices())
    near(seq:extend(ids), a, 1e-6)
  end)

  it("works from the command line", function()
    local path = scratch.at "base.gguf"
    local model = tiny.model(pl, { std = 0.2 })
    model:save(path)
    worn(model, { targets = "all-linear" }):save(scratch.at "other")
    local function out(...)
      local option, value = ...
      local status, text, why = program.run({ "generate", "-m", path, "--temp", "0", "-n", "8", option, value,
        "the inner" })
      assert.are.equal(0, status, why)
      return text
    end
    local plain = out("-t", "1")
    assert.are.equal(plain, out("--adapter", scratch.at "other:0"))
    assert.are_not.equal(plain, out("--adapter", scratch.at "other:3"))
  end)

  it("is trained, shown at several scales and merged by a script", function()
    local base, out = scratch.at "small.gguf", scratch.at "learned"
    tiny.model(pl, { std = 0.2 }):save(base)
    local questions = assert(io.open(scratch.at "questions.jsonl", "w"))
    questions:write('{"prompt": "the", "answer": "inner"}\n')
    questions:close()
    for _, data in ipairs { "README.md", scratch.at "questions.jsonl" } do
      local status, text, why = program.run({ "lora", data, "-m", base, "--steps", "4", "--batch", "2", "--length", "8",
        "--rank", "2", "--out", out })
      assert.are.equal(0, status, why)
      local before, after = text:match("loss +([%d.]+) nats per token, ([%d.]+) after 4 steps")
      assert.is_true(tonumber(after) < tonumber(before), text)
    end
    local status, _, why = program.run({ "lora", "-m", base, "--adapter", out, "--merge", scratch.at "merged.gguf" })
    assert.are.equal(0, status, why)
    local merged, model = pl.load(scratch.at "merged.gguf", exact), pl.load(base, exact)
    local seq = model:sequence():set_adapter(model:load_adapter(out))
    near(merged:forward(ids), seq:extend(ids, { logits = "all" }), 1e-4)
    for message, args in pairs { ["which --adapter"] = { "lora", "--merge", "x.gguf" },
      ["--merge FILE"] = { "convert", "--adapter", "x", "y.gguf" }, ["is an adapter"] = { "generate", "-m", out, "x" },
      ["No such file"] = { "lora", scratch.at "none.txt" } } do
      status, _, why = program.run(args)
      assert.are_not.equal(0, status)
      assert.is_truthy(why:find(message, 1, true), why)
    end
  end)

  it("refuses what does not fit by name", function()
    local model, other = model_of("gpt2"), model_of("llama")
    local adapter = worn(model)
    local closed = worn(model)
    closed:close()
    for message, fn in pairs {
      ["was loaded for another model"] = function() other:sequence():set_adapter(adapter) end,
      ["scale"] = function() model:sequence():set_adapter(adapter, "much") end,
      ["finite"] = function() model:set_adapter(adapter, 1 / 0) end,
      ["did you mean 'rank'"] = function() model:new_adapter({ ranks = 2 }) end,
      ["rank = 0"] = function() model:new_adapter({ rank = 0 }) end,
      ["alpha"] = function() model:new_adapter({ alpha = -1 }) end,
      ["c_attn c_proj c_fc"] = function() model:new_adapter({ targets = "q_proj" }) end,
      ["item 2 is a number"] = function() model:new_adapter({ targets = { "c_fc", 7 } }) end,
      ["the adapter is closed"] = function() model:set_adapter(closed) end,
      ["1 to 64 adapters"] = function() model:merge({}) end,
      ["/nowhere"] = function() model:load_adapter(scratch.at "nowhere") end,
    } do
      assert.is_truthy(tostring(tiny.failure(fn).message):find(message, 1, true), message)
    end
  end)
end)
