local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

local ids = { 5, 9, 200, 31, 7, 9 }
local contrasts = { { { 1, 2, 3 }, { 4, 2 } }, { { 7, 9, 1, 3 }, { 8, 8, 2 } }, { { 6, 3 }, { 5, 5, 5, 2 } } }

local function close(a, b, tolerance) assert.is_true(a:allclose(b, { atol = tolerance or 1e-5, rtol = 1e-4 })) end

describe("steering vectors", function()
  local model
  before_each(function() model = tiny.model(pl, { n_layers = 3 }) end)

  local function differences(layer)
    local list = {}
    for i, pair in ipairs(contrasts) do
      local name = ("blocks.%d.hook_resid_post"):format(layer)
      local _, with = model:run_with_cache(pair[1], name)
      local _, without = model:run_with_cache(pair[2], name)
      list[i] = with[name][-1] - without[name][-1]
    end
    return pl.stack(list, 0)
  end

  it("are means of differences at the last token", function()
    local vectors = pl.steering_vectors(model, contrasts)
    assert.are.same({ 1, 2 }, vectors:layers())
    close(vectors[2], differences(2):mean(0))
    assert.are.same({ 0 }, pl.steering_vectors(model, contrasts, { layers = { 0 } }):layers())
  end)

  it("or first principal components, which no unit vector beats", function()
    local v = pl.steering_vectors(model, contrasts, { method = "pca" })[1]
    local rows = differences(1)
    assert.is_true(math.abs(v:norm() - 1) < 1e-5)
    assert.is_true(rows:matmul(v):sum() > 0)
    local best = rows:matmul(v):norm()
    for seed = 1, 20 do
      local other = v + pl.randn(32, { seed = seed }) * 0.1
      assert.is_true(rows:matmul(other / other:norm()):norm() <= best + 1e-5)
    end
  end)

  it("act on the outputs of their layers", function()
    local vectors = pl.steering_vectors(model, contrasts)
    local hook = pl.edit.steer(model, vectors, { scale = 2, layers = { 1 } })
    local steered = model:forward(ids)
    hook:remove()
    local function by_two(x) x:add_(vectors[1] * 2) end
    local by_hand = model:run_with_hooks(ids, { { "resid_post", by_two, { layer = 1 } } })
    close(steered, by_hand)
    hook = pl.edit.steer(model, vectors)
    local both = model:forward(ids)
    hook:remove()
    close(both, model:run_with_hooks(ids, { { "resid_post", function(x, at)
      if at.layer > 0 then x:add_(vectors[at.layer]) end
    end } }))
    assert.are.equal("argument", tiny.failure(pl.edit.steer, model, vectors, { layers = { 0 } }).kind)
  end)

  it("go to llama.cpp's files and come back", function()
    local path = os.tmpname()
    os.remove(path)
    path = path .. ".gguf"
    local vectors = pl.steering_vectors(model, contrasts)
    vectors:save(path)
    local again = pl.load_steering_vectors(path)
    local tensors, metadata = pl.load_tensors(path)
    assert.are.same({ 1, 2 }, again:layers())
    assert.is_true(tiny.same(vectors[1], again[1]) and tiny.same(vectors[2], tensors["direction.2"]))
    assert.are.same({ ["general.architecture"] = "controlvector", ["controlvector.model_hint"] = "gpt2",
      ["controlvector.layer_count"] = 2 }, metadata)
    local first = pl.steering_vectors(model, contrasts, { layers = { 0, 1 } })
    assert.are.equal("unsupported", tiny.failure(first.save, first, path).kind)
    for _, tensors_ in ipairs { { x = pl.ones(2) }, { ["direction.0"] = pl.ones(2) },
      { ["direction.1"] = pl.ones(2), ["direction.2"] = pl.ones(3) }, { ["direction.1"] = pl.ones(2, 2) } } do
      pl.save_tensors(path, tensors_)
      assert.are.equal("format", tiny.failure(pl.load_steering_vectors, path).kind)
    end
    pl.save_tensors(path, { ["direction.1"] = pl.ones(2) }, { ["general.architecture"] = "gpt2" })
    assert.are.equal("format", tiny.failure(pl.load_steering_vectors, path).kind)
    os.remove(path)
    assert.are.equal("io", tiny.failure(pl.load_steering_vectors, path).kind)
  end)

  it("say what is wrong", function()
    assert.are.equal("argument", tiny.failure(pl.steering_vectors, model, {}).kind)
    assert.are.equal("argument", tiny.failure(pl.steering_vectors, model, contrasts, { method = "median" }).kind)
    assert.are.equal("argument", tiny.failure(pl.steering_vectors, model, contrasts, { layers = { 3 } }).kind)
  end)
end)
