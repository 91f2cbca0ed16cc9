local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"
local differences = dofile "tests/lua/differences.lua"
local map, transpose, matmul, hold =
  differences.map, differences.transpose, differences.matmul, differences.hold

-- -- factors over Lua numbers --------------------------------------------------------------------

local function zeros(m, n)
  local out = {}
  for i = 1, m do out[i] = {} for j = 1, n do out[i][j] = 0 end end
  return out
end

local function dot(a, b) local s = 0 for i = 1, #a do s = s + a[i] * b[i] end return s end
local function plus(a, b) return map(function(x, y) return x + y end, a, b) end

-- m mT + I, and m + mT
local function positive(m)
  local out = matmul(m, transpose(m))
  for i = 1, #out do out[i][i] = out[i][i] + 1 end
  return out
end
local function symmetric(m) return plus(m, transpose(m)) end

local function cholesky(a)
  local l = zeros(#a, #a)
  for i = 1, #a do
    for j = 1, i do
      local s = a[i][j]
      for k = 1, j - 1 do s = s - l[i][k] * l[j][k] end
      l[i][j] = i == j and math.sqrt(s) or s / l[j][j]
    end
  end
  return l
end

-- a^-1 b of a positive definite a
local function solve(a, b)
  local l, x = cholesky(a), zeros(#b, #b[1])
  for c = 1, #b[1] do
    for i = 1, #a do
      local s = b[i][c]
      for k = 1, i - 1 do s = s - l[i][k] * x[k][c] end
      x[i][c] = s / l[i][i]
    end
    for i = #a, 1, -1 do
      local s = x[i][c]
      for k = i + 1, #a do s = s - l[k][i] * x[k][c] end
      x[i][c] = s / l[i][i]
    end
  end
  return x
end

local function lstsq(a, b)
  local t = transpose(a)
  if #a >= #a[1] then return solve(matmul(t, a), matmul(t, b)) end
  return matmul(t, solve(matmul(a, t), b))
end

-- Gram and Schmidt; column j of q points as that of `like` does.
local function qr(a, like)
  local k, columns, q = math.min(#a, #a[1]), transpose(a), {}
  for j = 1, k do
    local v = table.move(columns[j], 1, #a, 1, {})
    for i = 1, j - 1 do
      local s = dot(q[i], v)
      for r = 1, #v do v[r] = v[r] - s * q[i][r] end
    end
    local norm = math.sqrt(dot(v, v))
    if dot(v, transpose(like)[j]) < 0 then norm = -norm end
    for r = 1, #v do v[r] = v[r] / norm end
    q[j] = v
  end
  local r = matmul(q, a)
  for i = 1, k do for j = 1, i - 1 do r[i][j] = 0 end end
  return transpose(q), r
end

-- Jacobi; values ascending, vectors in columns that point as those of `like` do.
local function eigh(a, like)
  local n, s, v = #a, map(function(x) return x end, a), zeros(#a, #a)
  for i = 1, n do v[i][i] = 1 end
  for _ = 1, 30 do
    for p = 1, n - 1 do
      for q = p + 1, n do
        local angle = 0.5 * math.atan(2 * s[p][q], s[q][q] - s[p][p])
        local rotation = zeros(n, n)
        for i = 1, n do rotation[i][i] = 1 end
        rotation[p][p], rotation[q][q] = math.cos(angle), math.cos(angle)
        rotation[p][q], rotation[q][p] = math.sin(angle), -math.sin(angle)
        s = matmul(transpose(rotation), matmul(s, rotation))
        v = matmul(v, rotation)
      end
    end
  end
  local order, columns, values, vectors = {}, transpose(v), {}, {}
  for i = 1, n do order[i] = i end
  table.sort(order, function(i, j) return s[i][i] < s[j][j] end)
  for j, from in ipairs(order) do
    values[j] = s[from][from]
    local sign = dot(columns[from], transpose(like)[j]) < 0 and -1 or 1
    vectors[j] = {}
    for i = 1, n do vectors[j][i] = sign * columns[from][i] end
  end
  return { values }, transpose(vectors)
end

-- a tall or square
local function svd(a, u_like)
  local at = transpose(a)
  local _, v = eigh(matmul(at, a), zeros(#at, #at))
  local u, s, vt = {}, {}, {}
  local columns = transpose(v)
  for j = 1, #at do
    local from = columns[#at + 1 - j]
    local image = transpose(matmul(a, transpose({ from })))[1]
    s[j] = math.sqrt(dot(image, image))
    local sign = dot(image, transpose(u_like)[j]) < 0 and -1 or 1
    u[j], vt[j] = {}, {}
    for i = 1, #a do u[j][i] = sign * image[i] / s[j] end
    for i = 1, #at do vt[j][i] = sign * from[i] end
  end
  return transpose(u), { s }, vt
end

local SQUARE = { { 0.9, 0.3, -0.4 }, { 0.2, 1.7, 0.5 }, { -0.6, 0.1, -1.2 } }
local TALL = { { 0.3, -1.2 }, { 1.1, 0.4 }, { 0.7, -0.6 }, { -0.5, 0.8 } }
local WIDE = transpose(TALL)
local RIGHT = { { 0.5, 1 }, { -1, 0.4 }, { 0.2, 0.3 }, { 1.5, -0.7 } }

local function nth(n, f) return function(...) return (select(n, f(...))) end end

describe("gradients of", function()
  it("cholesky", function()
    hold("cholesky", function(m) return (m:matmul(m:transpose(0, 1)) + pl.eye(3)):cholesky() end,
      function(m) return cholesky(positive(m)) end, { SQUARE })
  end)

  it("lstsq, tall and wide, of vectors too", function()
    local function engine(a, b) return a:lstsq(b) end
    hold("tall", engine, lstsq, { TALL, RIGHT })
    hold("wide", engine, lstsq, { WIDE, { RIGHT[1], RIGHT[2] } })
    hold("vector", function(a, b) return a:lstsq(b:view(4)) end,
      function(a, b) return transpose(lstsq(a, transpose(b))) end, { TALL, { { 0.5, -1, 0.2, 1.5 } } })
  end)

  it("qr", function()
    for name, a in pairs({ square = SQUARE, tall = TALL, wide = WIDE }) do
      local like = pl.tensor(a):qr():to_table()
      for k = 1, 2 do
        hold(("%s, output %d"):format(name, k), function(t) return (select(k, t:qr())) end,
          function(m) return (select(k, qr(m, like))) end, { a })
      end
    end
  end)

  it("eigh", function()
    local function engine(m) return (m + m:transpose(0, 1)):eigh() end
    local like = select(2, engine(pl.tensor(SQUARE))):to_table()
    local function reference(m) return eigh(symmetric(m), like) end
    hold("values", nth(1, engine), nth(1, reference), { SQUARE })
    hold("vectors", nth(2, engine), nth(2, reference), { SQUARE })
    hold("a vector squared with its value", function(m)
      local values, vectors = engine(m)
      return vectors * vectors * values
    end, function(m)
      local values, vectors = reference(m)
      return map(function(v, l) return v * v * l end, vectors, { values[1], values[1], values[1] })
    end, { SQUARE })
  end)

  it("svd", function()
    local function engine(t) return t:svd() end
    for name, a in pairs({ square = SQUARE, tall = TALL }) do
      local like = pl.tensor(a):svd():to_table()
      local function reference(m) return svd(m, like) end
      for k = 1, 3 do
        hold(("%s, output %d"):format(name, k), nth(k, engine), nth(k, reference), { a })
        local turned = { [1] = 3, [2] = 2, [3] = 1 }
        local vt_like = transpose(select(3, pl.tensor(transpose(a)):svd()):to_table())
        hold(("%s turned, output %d"):format(name, k), nth(k, engine), function(m)
          local out = select(turned[k], svd(transpose(m), vt_like))
          return k == 2 and out or transpose(out)
        end, { transpose(a) })
      end
    end
  end)

  it("factors where there is none, refused", function()
    local function refused(words, f)
      local t = pl.eye(2):requires_grad()
      assert.is_truthy(tiny.failure(function() f(t * 1):sum():backward() end).message:find(words, 1, true))
    end
    refused("where values are equal", function(t) return (t:svd()) end)
    refused("where values are equal", function(t) return select(2, t:eigh()) end)
    refused("singular value is 0", function(t) return (t * pl.tensor({ 1, 0 })):svd() end)
    refused("not of full rank", function(t) return (t * pl.tensor({ 1, 0 })):lstsq(pl.ones({ 2 })) end)
    refused("eig has no gradient", function(t) return (t:eig()) end)
  end)
end)
