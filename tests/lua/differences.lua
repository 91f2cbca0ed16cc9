-- Gradients held to central differences of a plain float64 walk over Lua numbers: matrices as lists of
-- rows.
local assert = require "luassert"
local pl = require "perilune"

local function map(f, ...)
  local first, rest, out = ..., { select(2, ...) }, {}
  for i = 1, #first do
    out[i] = {}
    for j = 1, #first[i] do
      local others = {}
      for k, m in ipairs(rest) do others[k] = (m[i] or m[1])[j] or (m[i] or m[1])[1] end
      out[i][j] = f(first[i][j], table.unpack(others))
    end
  end
  return out
end

local function transpose(m)
  local out = {}
  for j = 1, #m[1] do out[j] = {} for i = 1, #m do out[j][i] = m[i][j] end end
  return out
end

local function matmul(a, b)
  local out = {}
  for i = 1, #a do
    out[i] = {}
    for j = 1, #b[1] do
      local s = 0
      for k = 1, #b do s = s + a[i][k] * b[k][j] end
      out[i][j] = s
    end
  end
  return out
end

-- Central differences of sum(weights * f(inputs)) with respect to every element.
local function slopes(f, inputs)
  local function loss()
    local total, n = 0, 0
    for _, row in ipairs(f(table.unpack(inputs))) do
      for _, v in ipairs(row) do
        n = n + 1
        total = total + v * math.sin(n)
      end
    end
    return total
  end
  local out = {}
  for k, m in ipairs(inputs) do
    out[k] = {}
    for _, row in ipairs(m) do
      for j, v in ipairs(row) do
        row[j] = v + 1e-5
        local up = loss()
        row[j] = v - 1e-5
        out[k][#out[k] + 1] = (up - loss()) / 2e-5
        row[j] = v
      end
    end
  end
  return out
end

local function hold(name, f, reference, inputs)
  local tensors = {}
  for k, m in ipairs(inputs) do tensors[k] = pl.tensor(m):requires_grad() end
  local y = f(table.unpack(tensors))
  local n = 1
  for _, size in ipairs(y.shape) do n = n * size end
  local weights = pl.arange(1, n + 1):float():sin():view(table.unpack(y.shape))
  if y.n_dims == 0 then weights = math.sin(1) end
  local loss = y * weights
  if loss.n_dims > 0 then loss = loss:sum() end
  loss:backward()
  for k, expected in ipairs(slopes(reference, inputs)) do
    local got = tensors[k].grad
    assert.is_true(got ~= nil, name .. ": no gradient for input " .. k)
    local list = got:contiguous():view(-1):to_table()
    for i, value in ipairs(expected) do
      assert.is_true(math.abs(list[i] - value) <= 2e-4 * math.max(1, math.abs(value)),
        ("%s, input %d [%d]: %.7g, expected %.7g"):format(name, k, i - 1, list[i], value))
    end
  end
end

return { map = map, transpose = transpose, matmul = matmul, hold = hold }
