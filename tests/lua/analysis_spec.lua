local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

local A = pl.analysis
local ids = { 5, 9, 200, 31, 7, 9, 200 }
local exact = { threads = 1, precision = "exact", kv = "f32" }

local function close(a, b, tolerance) assert.is_true(a:allclose(b, { atol = tolerance or 1e-4, rtol = 1e-4 })) end

for _, fields in ipairs {
  { arch = "gpt2" }, { arch = "llama", n_kv_heads = 2 }, { arch = "gpt2", norm_after_sublayer = true },
  { arch = "gpt2", norm_embed = true }, { arch = "gpt2", dtype = "q8_0" }, { arch = "gpt2", parallel = true },
} do
  local more = ""
  for key in pairs(fields) do more = key ~= "arch" and more .. " " .. key or more end
  describe("the stream of " .. fields.arch .. more, function()
    local model = tiny.model(pl, fields, exact)
    local logits, cache = model:run_with_cache(ids)

    it("is the sum of its parts before every block", function()
      for layer = 0, 2 do
        local stack, labels = A.decompose_resid(model, cache, { layer = layer })
        assert.are.equal(#labels, #stack)
        local all = A.accumulated_resid(model, cache)
        close(stack:sum(0), all[layer])
        if layer < 2 and not fields.parallel then
          stack = A.decompose_resid(model, cache, { layer = layer, mlp_input = true })
          close(stack:sum(0), cache[("blocks.%d.hook_resid_mid"):format(layer)])
        end
        close(A.stack_head_results(model, cache, { layer = 2, incl_remainder = true }):sum(0), all[2])
      end
    end)

    it("gives logits that are sums of what its parts add", function()
      local stack = A.decompose_resid(model, cache)
      local targets = { 9, 200, 31, 7, 9, 200, 100 }
      local attrs, constant = A.logit_attrs(model, cache, stack, targets)
      local total = attrs:sum(0) + constant
      for pos, id in ipairs(targets) do assert.is_true(math.abs(total[pos - 1] - logits[pos - 1][id]) < 1e-3) end
      attrs, constant = A.logit_attrs(model, cache, stack, 77, { incorrect = 78 })
      close(attrs:sum(0) + constant, logits:select(1, 77) - logits:select(1, 78), 1e-3)
      local row = A.decompose_resid(model, cache, { pos = 3 })
      attrs, constant = A.logit_attrs(model, cache, row, 77, { pos = 3 })
      assert.is_true(math.abs(attrs:sum() + constant[0] - logits[3][77]) < 1e-3)
    end)

    it("ends in the logits under the lens", function()
      local lens, labels = A.logit_lens(model, cache)
      close(lens[-1], logits, 1e-3)
      assert.are.same({ "0_pre", "1_pre", "final_post" }, labels)
      assert.are.same({ 3, 7, 262 }, lens.shape)
    end)

    it("goes through the norms of blocks part by part", function()
      if fields.norm_after_sublayer or fields.parallel then return end
      local stack = A.decompose_resid(model, cache, { layer = 1 })
      local normed = A.apply_ln_to_stack(model, cache, stack, { layer = 1 }):sum(0) + model.ln1_b[1]
      close(pl.einsum("pm,hmd->phd", normed, model.W_Q[1]) + model.b_Q[1], cache["blocks.1.attn.hook_q"], 1e-3)
    end)
  end)
end

describe("parts of the stream", function()
  it("of heads agree with hook_result", function()
    local model = tiny.model(pl, {}, exact)
    local _, cache = model:run_with_cache(ids)
    local stack, labels = A.stack_head_results(model, cache)
    for i, label in ipairs(labels) do
      local layer, head = label:match("L(%d)H(%d)")
      close(stack[i - 1], cache[("blocks.%s.attn.hook_result"):format(layer)]:select(1, tonumber(head)))
    end
  end)

  it("can be chosen, and name what is wrong", function()
    local model = tiny.model(pl)
    local _, cache = model:run_with_cache(ids)
    local _, labels = A.decompose_resid(model, cache, { mode = "attn", incl_embeds = false })
    assert.are.same({ "0_attn_out", "1_attn_out" }, labels)
    _, labels = A.accumulated_resid(model, cache, { incl_mid = true, layer = 1 })
    assert.are.same({ "0_pre", "0_mid", "1_pre" }, labels)
    assert.are.equal("argument", tiny.failure(A.decompose_resid, model, cache, { layer = 3 }).kind)
    assert.are.equal("argument", tiny.failure(A.decompose_resid, model, cache, { mode = "other" }).kind)
    assert.are.equal("argument", tiny.failure(A.stack_head_results, model, cache, { layer = 0 }).kind)
    assert.are.equal("argument", tiny.failure(A.decompose_resid, model, {}, { mode = "x" }).kind)
    local post = tiny.model(pl, { norm_before = false, norm_after_add = true, norm_final = false })
    assert.are.equal("unsupported", tiny.failure(A.decompose_resid, post, cache).kind)
    local stack = cache["hook_embed"]:unsqueeze(0)
    assert.are.equal("argument", tiny.failure(A.logit_attrs, model, cache, stack, { 1, 2 }).kind)
  end)
end)

describe("attention", function()
  it("is summed up", function()
    local model = tiny.model(pl)
    local uniform = pl.edit.ablate(model, "attn.hook_q")
    local _, cache = model:run_with_cache(ids)
    uniform:remove()
    local summary = A.attention_summary(model, cache)
    local entropy, distance, each = 0, 0, 0
    for n = 1, 7 do
      entropy, distance, each = entropy + math.log(n) / 7, distance + (n - 1) / 2 / 7, each + 1 / n / 7
    end
    close(summary.entropy, pl.full({ 2, 4 }, entropy))
    close(summary.distance, pl.full({ 2, 4 }, distance))
    close(summary.first, pl.full({ 2, 4 }, each))
    close(summary.current, pl.full({ 2, 4 }, each))
    close(summary.previous, pl.full({ 2, 4 }, each - 1 / 7))
  end)

  it("is held against the patterns of known heads", function()
    local model = tiny.model(pl)
    local text = { 1, 2, 3, 1, 2 }
    local zero = { 0, 0, 0, 0, 0 }
    assert.are.same({ zero, { 1, 0, 0, 0, 0 }, { 0, 1, 0, 0, 0 }, { 0, 0, 1, 0, 0 }, { 0, 0, 0, 1, 0 } },
      A.detection_pattern(model, text, "previous_token_head"):int():to_table())
    assert.are.same({ zero, zero, zero, { 1, 0, 0, 0, 0 }, { 0, 1, 0, 0, 0 } },
      A.detection_pattern(model, text, "duplicate_token_head"):int():to_table())
    assert.are.same({ zero, zero, zero, { 0, 1, 0, 0, 0 }, { 0, 0, 1, 0, 0 } },
      A.detection_pattern(model, text, "induction_head"):int():to_table())
    -- a head that is made to look at the token before has all of the score that is to be had
    local shift = A.detection_pattern(model, ids, "previous_token_head")
    shift[0][0] = 1
    local hook = model:hook("blocks.1.attn.hook_pattern", function(p) p:select("head", 2):copy_(shift) end)
    local scores = A.detect_heads(model, ids, "previous_token_head")
    local whole = A.detect_heads(model, ids, "previous_token_head", { exclude_current_token = true })
    local abs = A.detect_heads(model, ids, "previous_token_head", { error_measure = "abs" })
    hook:remove()
    assert.is_true(math.abs(scores[1][2] - 6 / 7) < 1e-6 and math.abs(whole[1][2] - 1) < 1e-6)
    assert.is_true(math.abs(abs[1][2] - (1 - 1 / 7)) < 1e-5)
    assert.is_true(scores[1][1] < 0.6)
    assert.are.equal("argument", tiny.failure(A.detect_heads, model, ids, "other_head").kind)
    local odd = { error_measure = "x" }
    assert.are.equal("argument", tiny.failure(A.detect_heads, model, ids, "induction_head", odd).kind)
  end)

  -- Random text: words as often as the model itself writes them, in any order, twice. The model is small:
  -- its induction is weak, and heads that do not look back help the second half too. The four heads found
  -- are needed over twice as much as the others, in the mean.
  it("of induction heads is what repeated random text needs, in the model that comes along", function()
    local model = pl.load(nil, { threads = 2 })
    local c, texts, n = model.config, {}, 24
    local pool = model:complete("Once upon a time", { max_new_tokens = 480, seed = 1, ignore_eos = true }).ids
    math.randomseed(1)
    for i = 1, 24 do
      texts[i] = {}
      for k = 1, n do
        texts[i][k] = pool[math.random(#pool)]
        texts[i][n + k] = texts[i][k]
      end
    end
    local function loss() -- on the second half
      local sum = 0
      for _, text in ipairs(texts) do
        local targets = pl.tensor(text, { dtype = "int32" }):narrow(0, n + 1, n - 1)
        sum = sum + model:forward(text):narrow(0, n, n - 1):cross_entropy(targets)
      end
      return sum / #texts
    end
    local scores = pl.zeros(c.n_layers, c.n_heads)
    for _, text in ipairs(texts) do
      scores:add_(A.detect_heads(model, text, "induction_head", { exclude_bos = true }))
    end
    local before, harm = loss(), pl.zeros(c.n_layers, c.n_heads)
    for layer = 0, c.n_layers - 1 do
      for head = 0, c.n_heads - 1 do
        local hook <close> = pl.edit.ablate(model, "attn.hook_z", { layer = layer, head = head })
        harm[layer][head] = loss() - before
        assert.is_true(hook.active)
      end
    end
    local _, found = scores:view(-1):topk(4)
    local of_found = harm:view(-1):index_select(0, found)
    local others = (harm:sum() - of_found:sum()) / (harm:count() - 4)
    assert.is_true(of_found:mean() > 2 * others, ("%g against %g"):format(of_found:mean(), others))
  end)
end)

describe("a factored matrix", function()
  local a, b = pl.randn(9, 3, { seed = 1 }), pl.randn(3, 7, { seed = 2 })
  local f = pl.factored(a, b)

  it("computes from its factors what the whole gives", function()
    local whole = a:matmul(b)
    assert.are.same({ 9, 7 }, f.shape)
    assert.is_true(math.abs(f:norm() - math.sqrt(whole:square():sum())) < 1e-4)
    local u, s, vt = f:svd()
    close((u * s):matmul(vt), whole)
    local _, expected = whole:svd()
    close(s, expected:narrow(0, 0, 3))
    close(f:transpose():full(), whole:transpose())
    local g = pl.factored(pl.randn(7, 2, { seed = 3 }), pl.randn(2, 9, { seed = 4 }))
    close(f:matmul(g):full(), whole:matmul(g:full()))
    close(g:matmul(f):full(), g:full():matmul(whole))
    assert.are.equal(2, f:matmul(g).rank)
    close(f:matmul(pl.eye(7)):full(), whole)
    assert.is_true(math.abs(f:matmul(g):trace() - (whole:matmul(g:full()) * pl.eye(9)):sum()) < 1e-3)
    assert.are.same({ 2, 2 }, f:matmul(g):eigvals().shape)
    assert.are.equal("shape", tiny.failure(pl.factored, a, a).kind)
  end)

  it("is a head's circuit", function()
    local model = tiny.model(pl, { arch = "llama", n_kv_heads = 2 }, exact)
    local x = pl.randn(5, 32, { seed = 5 })
    local q, k = x:matmul(model.W_Q[1][3]), x:matmul(model.W_K[1][1])
    close(x:matmul(model:QK(1, 3):full()):matmul(x:transpose()), q:matmul(k:transpose()), 1e-2)
    close(model:OV(1, 2):full(), model.W_V[1][1]:matmul(model.W_O[1][2]))
    assert.are.equal("argument", tiny.failure(model.QK, model, 0, 4).kind)
  end)

  it("composes with others", function()
    local model = tiny.model(pl, {}, exact)
    local ov = model:OV(0, 1):full()
    local to = { Q = model:QK(1, 2):full(), K = model:QK(1, 2):full():transpose(), V = model:OV(1, 2):full() }
    local function norm(m) return math.sqrt(m:square():sum()) end
    for mode, matrix in pairs(to) do
      local scores = model:composition_scores(mode)
      assert.are.same({ 2, 4, 2, 4 }, scores.shape)
      assert.is_true(math.abs(scores[0][1][1][2] - norm(ov:matmul(matrix)) / norm(ov) / norm(matrix)) < 1e-4)
      assert.are.equal(0, scores[1]:sum())
    end
    assert.are.equal("argument", tiny.failure(model.composition_scores, model, "X").kind)
  end)

  it("speaks of tokens", function()
    local model = tiny.model(pl)
    local direction = model.W_E[77]
    assert.are.equal(77, A.top_tokens(model, direction, { k = 3, by = "embed" })[1].id)
    assert.are.equal(3, #A.top_tokens(model, direction, { k = 3 }))
    assert.are.equal("argument", tiny.failure(A.top_tokens, model, direction, { by = "x" }).kind)
  end)
end)

describe("model:test_prompt", function()
  it("ranks an answer", function()
    local model = tiny.model(pl, {}, exact)
    local logits = model:forward("the cat")
    local probs = logits[-1]:softmax()
    local best = math.tointeger(probs:argmax())
    local result = model:test_prompt("the cat", best)
    assert.are.equal(0, result.rank)
    assert.is_true(math.abs(result.prob - probs[best]) < 1e-6)
    assert.are.equal(10, #result.top)
    assert.are.equal(best, result.top[1].id)
    result = model:test_prompt("the cat", "in", { k = 2 })
    assert.are.same({ " ", "in" }, { result.steps[1].piece, result.steps[2].piece })
    local after = model:forward("the cat in"):log_softmax()
    local ids_ = model:encode("the cat in"):to_table()
    local n = #ids_
    assert.is_true(math.abs(result.log_prob - after[n - 3][ids_[n - 1]] - after[n - 2][ids_[n]]) < 1e-4)
    assert.is_truthy(tostring(result):find("rank"))
    assert.are.equal("argument", tiny.failure(model.test_prompt, model, "the", {}).kind)
  end)
end)
