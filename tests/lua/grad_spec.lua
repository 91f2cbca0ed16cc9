local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"
local differences = dofile "tests/lua/differences.lua"
local map, transpose, matmul, hold =
  differences.map, differences.transpose, differences.matmul, differences.hold

-- -- the same over Lua numbers ------------------------------------------------------------------

local function rows(f)
  return function(m)
    local out = {}
    for i, row in ipairs(m) do out[i] = f(row) end
    return out
  end
end

local function sum(row) local s = 0 for _, v in ipairs(row) do s = s + v end return s end
local function mean(row) return sum(row) / #row end
local function var(row)
  local m, s = mean(row), 0
  for _, v in ipairs(row) do s = s + (v - m) ^ 2 end
  return s / (#row - 1)
end
local function logsumexp(row) local s = 0 for _, v in ipairs(row) do s = s + math.exp(v) end return math.log(s) end
local function one(f) return rows(function(row) return { f(row) } end) end

local function erf(x) -- a series, good to 1e-15 here
  local term, total = x, x
  for n = 1, 60 do
    term = -term * x * x / n
    total = total + term / (2 * n + 1)
  end
  return 2 / math.sqrt(math.pi) * total
end

local function flat(m)
  local list = {}
  for _, row in ipairs(m) do table.move(row, 1, #row, #list + 1, list) end
  return { list }
end

local A = { { 0.3, -1.2, 0.7 }, { 1.1, 0.4, -0.6 } }
local B = { { 0.9, 0.5, -0.8 }, { -0.4, 1.3, 0.25 } }
local P = { { 0.3, 1.2, 0.7 }, { 1.1, 0.4, 0.6 } } -- above 0
local ROW = { { 0.5, -0.7, 1.9 } }

describe("gradients of", function()
  local unaries = {
    neg = function(x) return -x end, abs = math.abs, exp = math.exp, sin = math.sin, cos = math.cos,
    tanh = function(x) local e = math.exp(2 * x) return (e - 1) / (e + 1) end,
    sigmoid = function(x) return 1 / (1 + math.exp(-x)) end, relu = function(x) return math.max(0, x) end,
    gelu = function(x) return 0.5 * x * (1 + erf(x / math.sqrt(2))) end,
    silu = function(x) return x / (1 + math.exp(-x)) end, erf = erf, square = function(x) return x * x end,
    reciprocal = function(x) return 1 / x end, log = math.log, sqrt = math.sqrt,
    rsqrt = function(x) return 1 / math.sqrt(x) end,
  }
  for name, f in pairs(unaries) do
    it(name, function()
      local x = (name == "log" or name:find("sqrt")) and P or A
      hold(name, function(t) return t[name](t) end, function(m) return map(f, m) end, { x })
      hold(name .. "_", function(t) local c = t:clone() c[name .. "_"](c) return c end,
        function(m) return map(f, m) end, { x })
    end)
  end

  local binaries = {
    add = function(a, b) return a + b end, sub = function(a, b) return a - b end,
    mul = function(a, b) return a * b end, div = function(a, b) return a / b end,
    maximum = math.max, minimum = math.min, mod = function(a, b) return a % b end,
    pow = function(a, b) return a ^ b end,
  }
  for name, f in pairs(binaries) do
    it(name .. ", broadcast and in place", function()
      local a = name == "pow" and P or A
      hold(name, function(x, y) return x[name](x, y) end, function(x, y) return map(f, x, y) end, { a, B })
      hold(name .. " by a row", function(x, y) return x[name](x, y) end,
        function(x, y) return map(f, x, y) end, { a, ROW })
      hold(name .. "_", function(x, y) local c = x:clone() c[name .. "_"](c, y) return c end,
        function(x, y) return map(f, x, y) end, { a, B })
      hold(name .. " by a number", function(x) return x[name](x, 1.7) end,
        function(x) return map(function(v) return f(v, 1.7) end, x) end, { a })
    end)
  end

  it("sums, means and their kin", function()
    local lines = { sum = sum, mean = mean, var = var, logsumexp = logsumexp,
      std = function(r) return math.sqrt(var(r)) end,
      norm = function(r) local s = 0 for _, v in ipairs(r) do s = s + v * v end return math.sqrt(s) end,
      max = function(r) return math.max(table.unpack(r)) end, min = function(r) return math.min(table.unpack(r)) end,
      prod = function(r) local p = 1 for _, v in ipairs(r) do p = p * v end return p end }
    for name, f in pairs(lines) do
      hold(name .. " of rows", function(t) return t[name](t, 1) end, one(f), { A })
      hold(name .. " of columns", function(t) return t[name](t, 0, { keepdim = true }) end,
        function(m) return transpose(one(f)(transpose(m))) end, { A })
      hold(name .. " of all", function(t) return t[name](t) end, function(m) return one(f)(flat(m)) end, { A })
    end
  end)

  it("softmax, log_softmax and cumsum", function()
    local function each(r, f)
      local out = {}
      for i, v in ipairs(r) do out[i] = f(v) end
      return out
    end
    local function softmax(r) local z = logsumexp(r) return each(r, function(v) return math.exp(v - z) end) end
    local function log_softmax(r) local z = logsumexp(r) return each(r, function(v) return v - z end) end
    local function cumsum(r) local s, out = 0, {} for i, v in ipairs(r) do s = s + v out[i] = s end return out end
    for name, f in pairs({ softmax = softmax, log_softmax = log_softmax, cumsum = cumsum }) do
      hold(name, function(t) return t[name](t, 1) end, rows(f), { A })
      hold(name .. " of columns", function(t) return t[name](t, 0) end,
        function(m) return transpose(rows(f)(transpose(m))) end, { A })
    end
  end)

  it("choices, copies and joins", function()
    hold("topk", function(t) return (t:topk(2)) end, rows(function(r)
      local s = table.move(r, 1, #r, 1, {})
      table.sort(s, function(a, b) return a > b end)
      return { s[1], s[2] }
    end), { A })
    hold("gather", function(t) return t:gather(1, pl.tensor({ { 2, 2 }, { 0, 1 } }, { dtype = "int64" })) end,
      function(m) return { { m[1][3], m[1][3] }, { m[2][1], m[2][2] } } end, { A })
    hold("index_select", function(t) return t:index_select(1, { 2, 0, 2 }) end,
      rows(function(r) return { r[3], r[1], r[3] } end), { A })
    hold("index_fill_", function(t) return t:clone():index_fill_(1, { 1 }, 4) end,
      rows(function(r) return { r[1], 4, r[3] } end), { A })
    hold("cat", function(a, b) return pl.cat({ a, b }, 1) end, function(a, b)
      local out = {}
      for i = 1, 2 do out[i] = { a[i][1], a[i][2], a[i][3], b[i][1], b[i][2], b[i][3] } end
      return out
    end, { A, B })
    hold("stack", function(a, b) return pl.stack({ a, b }) end,
      function(a, b) return { a[1], a[2], b[1], b[2] } end, { A, B })
    hold("where", function(a, b) return pl.where(a:gt(b:detach()), a, b * 2) end,
      function(a, b) return map(function(x, y) return x > y and x or 2 * y end, a, b) end, { A, B })
    hold("masked_fill", function(a) return a:masked_fill(a:gt(0), 3) end,
      function(a) return map(function(x) return x > 0 and 3 or x end, a) end, { A })
    hold("clamp", function(a) return a:clamp(-0.5, 0.5) end,
      function(a) return map(function(x) return math.max(-0.5, math.min(0.5, x)) end, a) end, { A })
    hold("views", function(a) return a:transpose(0, 1):narrow(0, 1, 2) * a:view(-1)[0] end,
      function(a)
        return map(function(x) return x * a[1][1] end, { { a[1][2], a[2][2] }, { a[1][3], a[2][3] } })
      end, { A })
    hold("writing into a part", function(a, b)
      local c = a * 1
      c:narrow(1, 0, 2):copy_(b:narrow(1, 1, 2))
      return c * c
    end, function(a, b)
        local out = {}
        for i = 1, 2 do out[i] = { b[i][2] ^ 2, b[i][3] ^ 2, a[i][3] ^ 2 } end
        return out
      end, { A, B })
    hold("an element written", function(a) local c = a * 1 c[0][1] = 5 return c end,
      function(a) return { { a[1][1], 5, a[1][3] }, a[2] } end, { A })
  end)

  it("products of matrices, einsum and linear systems", function()
    local S = { { 2.1, 0.3, -0.4 }, { 0.2, 1.7, 0.5 }, { -0.6, 0.1, 1.9 } }
    hold("matmul", function(a, b) return a:matmul(b:transpose(0, 1)) end,
      function(a, b) return matmul(a, transpose(b)) end, { A, B })
    hold("matrix by vector", function(a, r) return a:matmul(r:view(3)) end,
      function(a, r) return transpose(matmul(a, transpose(r))) end, { A, ROW })
    hold("einsum", function(a, b) return pl.einsum("ij,kj->ik", a, b) end,
      function(a, b) return matmul(a, transpose(b)) end, { A, B })
    hold("einsum that sums a letter alone", function(a, b) return pl.einsum("ij,ik->k", a, b) end, function(a, b)
      local out = { 0, 0, 0 }
      for i = 1, 2 do for k = 1, 3 do out[k] = out[k] + sum(a[i]) * b[i][k] end end
      return { out }
    end, { A, B })
    local function cofactor_inverse(m)
      local function minor(i, j)
        local r, c = {}, {}
        for k = 1, 3 do if k ~= i then r[#r + 1] = k end if k ~= j then c[#c + 1] = k end end
        return m[r[1]][c[1]] * m[r[2]][c[2]] - m[r[1]][c[2]] * m[r[2]][c[1]]
      end
      local det, out = 0, {}
      for j = 1, 3 do det = det + (-1) ^ (1 + j) * m[1][j] * minor(1, j) end
      for i = 1, 3 do out[i] = {} for j = 1, 3 do out[i][j] = (-1) ^ (i + j) * minor(j, i) / det end end
      return out
    end
    hold("inv", function(s) return s:inv() end, cofactor_inverse, { S })
    hold("solve", function(s, b) return s:solve(b:transpose(0, 1)) end,
      function(s, b) return matmul(cofactor_inverse(s), transpose(b)) end, { S, B })
  end)

  it("cross_entropy, with targets passed over", function()
    hold("cross_entropy", function(t) return t:cross_entropy(pl.tensor({ 2, 0 }, { dtype = "int64" })) end,
      function(m) return { { (logsumexp(m[1]) - m[1][3] + logsumexp(m[2]) - m[2][1]) / 2 } } end, { A })
    hold("ignore_index", function(t) return t:cross_entropy(pl.tensor({ -100, 1 }, { dtype = "int64" })) end,
      function(m) return { { logsumexp(m[2]) - m[2][2] } } end, { A })
  end)
end)

describe("gradients of distances", function()
  local Q = { { 0.9, 0.5, 0.8 }, { 0.4, 1.3, 0.25 } }
  local function divergence(p, q)
    return rows(function(r) return { sum(r) } end)(map(function(x, y)
      return x > 0 and x * math.log(x / y) or 0
    end, p, q))
  end
  local function cosines(a, b)
    local out = {}
    for i = 1, #a do
      local xy, xx, yy = 0, 0, 0
      for j = 1, #a[i] do
        xy, xx, yy = xy + a[i][j] * b[i][j], xx + a[i][j] ^ 2, yy + b[i][j] ^ 2
      end
      out[i] = { xy / math.sqrt(xx * yy) }
    end
    return out
  end

  it("kl_div, of rows and of vectors, with classes of probability 0", function()
    hold("kl_div", function(p, q) return p:kl_div(q, { reduction = "none" }) end, divergence, { P, Q })
    hold("their mean", function(p, q) return p:kl_div(q) end, function(p, q)
      return { { mean(flat(divergence(p, q))[1]) } }
    end, { P, Q })
    hold("of vectors", function(p, q) return p[0]:kl_div(q[0], { reduction = "sum" }) end, function(p, q)
      return { divergence({ p[1] }, { q[1] })[1] }
    end, { P, Q })
    local p, q = pl.tensor({ 0, 1 }):requires_grad(), pl.tensor({ 0, 0.5 }):requires_grad()
    local loss = p:kl_div(q)
    assert.are.equal(p:detach():kl_div(q:detach()), loss:item())
    loss:backward()
    assert.are.same({ 0, -2 }, q.grad:to_table())
    assert.are.equal(0, p.grad[0])
  end)

  it("cosine", function()
    hold("cosine", function(a, b) return a:cosine(b) end, cosines, { A, B })
    hold("of vectors", function(a, b) return a[1]:cosine(b[0]) end,
      function(a, b) return cosines({ a[2] }, { b[1] }) end, { A, B })
    hold("of views", function(a, b) return a:transpose(0, 1):cosine(b:transpose(0, 1)) end,
      function(a, b) return transpose(cosines(transpose(a), transpose(b))) end, { A, B })
    assert.are.equal("number", type(pl.no_grad(function()
      return pl.ones(2):requires_grad():cosine(pl.ones(2))
    end)))
  end)

  it("det, of singular matrices too", function()
    local function det(m)
      local total = 0
      for j = 1, 3 do
        local k, l = j % 3 + 1, (j + 1) % 3 + 1
        total = total + m[1][j] * (m[2][k] * m[3][l] - m[2][l] * m[3][k])
      end
      return { { total } }
    end
    local row = { -0.6, 0.1, 1.9 }
    local matrices = {
      full = { { 2.1, 0.3, -0.4 }, { 0.2, -1.7, 0.5 }, row },
      singular = { { 2.1, 0.3, -0.4 }, { -1.2, 0.2, 3.8 }, row },
      ["of rank 1"] = { { 1, 2, 3 }, { 2, 4, 6 }, { 0, 0, 0 } },
    }
    for name, m in pairs(matrices) do
      hold(name, function(t) return t:det() end, det, { m })
    end
    assert.are.equal(-3, pl.no_grad(function() return pl.tensor({ { 0, 3 }, { 1, 0 } }):requires_grad():det() end))
  end)
end)

describe("a record", function()
  it("adds up over passes until it is cleared", function()
    local x = pl.tensor({ 2, 3 }):requires_grad();
    (x * x):sum():backward();
    (x * 5):sum():backward()
    assert.are.same({ 9, 11 }, x.grad:to_table())
    x:zero_grad()
    assert.is_nil(x.grad)
  end)

  it("undoes writes in place on the way back, and leaves values as they were", function()
    local x = pl.tensor({ 1, 2 }):requires_grad()
    local y = x * 3
    local before = y * y -- needs y as it is now
    y:add_(1):mul_(2)
    local loss = (before + y):sum()
    loss:backward()
    assert.are.same({ 18 * 1 + 6, 18 * 2 + 6 }, x.grad:to_table())
    assert.are.same({ 8, 14 }, y:to_table())
  end)

  it("refuses what would be wrong numbers", function()
    local x = pl.tensor({ 1, 2 }):requires_grad()
    assert.is_truthy(tiny.failure(x.add_, x, 1).message:find("requires grad"))
    local loss = (x * x):sum()
    loss:backward()
    assert.is_truthy(tiny.failure(loss.backward, loss).message:find("retain_graph"))
    local y = x * 2
    local z = (y * y):sum()
    pl.no_grad(function() y:add_(1) end)
    assert.is_truthy(tiny.failure(z.backward, z).message:find("changed in place"))
    assert.is_truthy(tiny.failure(function() pl.tensor({ 1 }):sum(0, { keepdim = true }):backward() end).message
      :find("requires grad"))
    assert.is_truthy(tiny.failure(y.backward, y).message:find("one number"))
    local e = (pl.eye(2) * x):eig()
    assert.is_truthy(tiny.failure(function() e:sum():backward() end).message:find("eig has no gradient"))
    local whole = pl.tensor({ 1 }, { dtype = "int64" })
    assert.is_truthy(tiny.failure(whole.requires_grad, whole).message:find("f32"))
  end)

  it("may be kept, paused and detached from", function()
    local x = pl.tensor({ 3 }):requires_grad()
    local loss = (x * x):sum()
    loss:backward({ retain_graph = true })
    loss:backward()
    assert.are.equal(12, x.grad[0])
    assert.is_false(pl.no_grad(function() return x * 2 end).tracked)
    assert.is_false(x:detach().tracked)
    assert.is_false(pl.tensor({ 1 }).tracked)
    x:requires_grad(false)
    assert.is_false((x * 2).tracked)
  end)

  it("of a hundred thousand operations is walked and freed without deep recursion", function()
    local x = pl.tensor({ 1 }):requires_grad()
    local y = x
    for _ = 1, 100000 do y = y + 1 end
    y:sum():backward()
    assert.are.equal(1, x.grad[0])
    y = x -- a record that is never walked
    for _ = 1, 100000 do y = y + 1 end
    y = nil -- luacheck: ignore 311
    collectgarbage()
  end)
end)

describe("passes of models", function()
  it("carry gradients through hooks that edit, and show them to backward hooks", function()
    local model = tiny.model(pl, { n_layers = 2 })
    local ids = pl.tensor({ 1, 2, 3, 4 }, { dtype = "int32" })
    local direction = pl.zeros(model.config.d_model):requires_grad()
    local function loss_with(by)
      local function edit(act) act:add_(by) end
      local handle <close> = model:hook("resid_post", edit, { layer = 0 }) -- luacheck: ignore 211
      return pl.grad(function() return model:forward(ids):cross_entropy(ids:long()) end)
    end
    local seen
    local function look(g, at) seen = { g:clone(), at.point } end
    local watch = model:hook("resid_post", look, { layer = 0, backward = true })
    loss_with(direction):backward()
    watch:remove()
    assert.are.equal("blocks.0.hook_resid_post", seen[2])
    local grad = direction.grad:to_table()
    local by_row = seen[1]:sum(0):to_table()
    for i = 1, 4 do assert.is_true(math.abs(grad[i] - by_row[i]) < 1e-5) end
    for i = 0, 3 do -- against differences of the engine's own loss
      local step = pl.zeros(model.config.d_model)
      step[i] = 0.01
      local up = pl.no_grad(function() return loss_with(step) end)
      step[i] = -0.01
      local slope = (up - pl.no_grad(function() return loss_with(step) end)) / 0.02
      assert.is_true(math.abs(slope - grad[i + 1]) < 2e-3 * math.max(1, math.abs(slope)))
    end
  end)

  it("are recorded by run_with_hooks and run_with_cache, of several prompts too", function()
    local model = tiny.model(pl, { n_layers = 2 })
    local a, b = { 1, 4, 2 }, { 3, 0, 4, 1, 2 }
    local function gradient(run) -- of the last logit of b by its stream before block 1
      local seen
      local function ask(act, at) if at.n == #b then seen = act:requires_grad() end end
      pl.grad(run, { { "blocks.1.hook_resid_pre", ask } }):backward()
      return seen.grad:clone()
    end
    local expected = gradient(function(hooks)
      local hook <close> = model:hook(hooks[1][1], hooks[1][2]) -- luacheck: ignore 211
      return model:forward(b)[-1][2]
    end)
    assert.is_true(expected:norm() > 0)
    local function same(run) assert.is_true((gradient(run) - expected):abs():max() < 1e-6 * expected:abs():max()) end
    same(function(hooks) return model:run_with_hooks(b, hooks)[-1][2] end)
    same(function(hooks) return model:run_with_hooks({ a, b }, hooks)[2][-1][2] end)
    same(function(hooks)
      local logits, caches = model:run_with_cache({ a, b }, "resid_post", { hooks = hooks })
      assert.are.same({ 3, 5 }, { logits[1]:size(0), caches[2]["blocks.0.hook_resid_post"]:size(0) })
      return logits[2][-1][2]
    end)
    local function cut(hooks) return model:run_with_hooks(b, hooks, { stop_at_layer = 2 })[-1][0] end
    assert.is_truthy(tiny.failure(gradient, cut).message:find("goes to the logits", 1, true))
  end)

  it("stop what a backward hook zeroes", function()
    local model = tiny.model(pl, { n_layers = 1 }):trainable()
    local ids = pl.tensor({ 1, 2, 3 }, { dtype = "int32" })
    local hook <close> = model:hook("mlp_out", function(g) g:zero_() end, { backward = true }) -- luacheck: ignore 211
    model:forward(ids):cross_entropy(ids:long()):backward()
    for _, p in ipairs(model:parameters()) do
      local norm = p.tensor.grad and p.tensor.grad:norm() or 0
      if p.name:find("ffn_") and p.name:find("blk") then assert.are.equal(0, norm, p.name) end
      if p.name:find("attn_output.weight") then assert.is_true(norm > 0) end
    end
  end)

  it("raise what a backward hook raises", function()
    local model = tiny.model(pl, { n_layers = 1 }):trainable()
    local ids = pl.tensor({ 1, 2, 3 }, { dtype = "int32" })
    local function fail() error("no way back") end
    local hook <close> = model:hook("mlp_out", fail, { backward = true }) -- luacheck: ignore 211
    local loss = model:forward(ids):cross_entropy(ids:long())
    assert.is_truthy(tostring(select(2, pcall(loss.backward, loss))):find("no way back"))
  end)

  it("learn a sequence by heart, and the same one from the same seed", function()
    local function run()
      local model = pl.init_weights(tiny.model(pl, { n_layers = 1 }):trainable(), { seed = 3 })
      local ids = pl.tensor({ 1, 5, 2, 4, 3, 0 }, { dtype = "int32" })
      local optimizer = pl.optim.adamw(model:parameters(), { lr = 0.03, clip = 1 })
      return pl.fit({ optimizer = optimizer, n_steps = 40, progress = false, loss = function()
        return model:forward(ids:narrow(0, 0, 5)):cross_entropy(ids:narrow(0, 1, 5))
      end }).losses
    end
    local losses = run()
    assert.is_true(losses[1] > 1.5 and losses[40] < 0.1)
    assert.are.same(losses, run())
  end)
end)
