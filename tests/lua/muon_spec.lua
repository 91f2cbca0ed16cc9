-- Muon: what a step does to a matrix, held to the singular vectors that LAPACK finds.
local pl = require "perilune"
local muon = require "perilune.muon"
local tiny = dofile "tests/lua/tiny.lua"

-- A model's matrix is one by its name.
local function parameter(values, name)
  return { name = name or "blk.0.attn_q.weight", tensor = values:requires_grad() }
end

local function same(a, b) return a:allclose(b, { rtol = 0, atol = 0 }) end

local function random(seed, ...) return pl.zeros({ ... }):normal_(0, 1, { seed = seed }) end

-- One step against sum(w * gradient), from zeros: what is added, over lr and the size of the step.
local function step(gradient, lr, opts)
  local rows, columns = gradient:size(0), gradient:size(1)
  local p = parameter(pl.zeros({ rows, columns }))
  local optimizer = muon({ p, parameter(pl.zeros({ 2 }), "output_norm.bias") }, opts or { lr = lr });
  (p.tensor * gradient):sum():backward()
  optimizer:step()
  return pl.no_grad(function() return p.tensor:detach() / (-lr * 0.2 * math.sqrt(math.max(rows, columns))) end)
end

describe("muon", function()
  it("steps along all directions of the gradient alike, wide and tall", function()
    for seed, shape in ipairs { { 6, 6 }, { 5, 12 }, { 12, 5 } } do
      local gradient = random(seed, table.unpack(shape))
      local u, s, vt = gradient:svd()
      local made = step(gradient, 0.01)
      local turned = u:transpose(0, 1):matmul(made):matmul(vt:transpose(0, 1))
      for i = 0, turned:size(0) - 1 do
        for j = 0, turned:size(1) - 1 do
          local value = turned[i][j]
          if i ~= j then
            assert.is_true(math.abs(value) < 1e-3, ("[%d][%d] %g"):format(i, j, value))
          elseif s[i] > 0.1 * s[0] then
            assert.is_true(value > 0.6 and value < 1.3, ("%g of %g becomes %g"):format(s[i], s[0], value))
          end
        end
      end
    end
  end)

  it("leaves embeddings and vectors to AdamW", function()
    local function run(make)
      local list = { parameter(random(1, 4, 3), "token_embd.weight"), parameter(random(2, 3), "blk.0.attn_q.bias") }
      local optimizer = make(list, { lr = 0.1, weight_decay = 0.1 })
      for _ = 1, 3 do
        optimizer:zero_grad();
        (list[1].tensor * list[1].tensor * list[2].tensor):sum():backward()
        optimizer:step()
      end
      return list
    end
    local mine, theirs = run(muon), run(pl.optim.adamw)
    for i = 1, 2 do assert.is_true(same(mine[i].tensor, theirs[i].tensor)) end
  end)

  it("decays matrices, apart from the gradient", function()
    local w = pl.ones({ 3, 3 })
    local p = parameter(w:clone())
    local other = parameter(pl.zeros({ 1 }), "output_norm.bias")
    local optimizer = muon({ p, other }, { lr = 0.5, weight_decay = 0.1 });
    (p.tensor * 0):sum():backward()
    optimizer:step()
    assert.is_true(p.tensor:allclose(w * 0.95, { atol = 1e-6 }))
  end)

  it("goes on from its state with the same bits", function()
    local function begin()
      local p = parameter(random(7, 4, 6))
      return p, muon({ p, parameter(pl.zeros({ 1 }), "output_norm.bias") }, { lr = 0.05 })
    end
    local function go(p, optimizer, first, last)
      for i = first, last do
        optimizer:zero_grad();
        (p.tensor * random(i, 4, 6)):sum():backward()
        optimizer:step()
      end
    end
    local p, optimizer = begin()
    go(p, optimizer, 1, 2)
    local q, again = begin()
    pl.no_grad(function() q.tensor:copy_(p.tensor) end)
    again:load_state(optimizer:state())
    go(p, optimizer, 3, 4)
    go(q, again, 3, 4)
    assert.is_true(same(p.tensor, q.tensor))
    assert.are.equal(4, again.n_steps)
  end)

  it("refuses a gradient that is no number, and changes nothing", function()
    local p = parameter(pl.ones({ 2, 2 }))
    local optimizer = muon({ p, parameter(pl.zeros({ 1 }), "output_norm.bias") }, { lr = 0.1 });
    (p.tensor * math.huge):sum():backward()
    local err = tiny.failure(optimizer.step, optimizer)
    assert.are.equal("diverged", err.kind)
    assert.is_truthy(err.message:find("learning rate", 1, true))
    assert.is_true(same(p.tensor, pl.ones({ 2, 2 })))
  end)
end)
