--- Probes: what can be read off activations by a straight line.
--
--     local probing = require "perilune.probing"
--     local result = probing.cross_validate(X, Y, { seed = 1 })
--     print(result.r2, result.lambda)

local pl = require "perilune"

local probing = {}

-- -- tables -------------------------------------------------------------------------------------------

-- The fields of one line of a CSV file; a field in quotes may hold commas, and "" for a quote.
local function fields_of(line, where)
  local fields, at = {}, 1
  while true do
    local field, quoted, next_at
    if line:sub(at, at) == '"' then
      local parts, from = {}, at + 1
      while true do
        local to = line:find('"', from, true)
        if not to then pl.fail("format", "%s: a quote is not closed", where) end
        parts[#parts + 1] = line:sub(from, to - 1)
        if line:sub(to + 1, to + 1) ~= '"' then
          next_at = to + 1
          break
        end
        parts[#parts + 1] = '"'
        from = to + 2
      end
      field, quoted = table.concat(parts), true
    else
      next_at = line:find(",", at, true) or #line + 1
      field = line:sub(at, next_at - 1):match("^%s*(.-)%s*$")
    end
    fields[#fields + 1] = field
    if next_at > #line then return fields end
    if line:sub(next_at, next_at) ~= "," then
      pl.fail("format", "%s: expected a comma after %s", where, quoted and "the quote" or "the field")
    end
    at = next_at + 1
  end
end

--- Reads a CSV file with names of columns in its first line: texts of one column, numbers of others.
---@param path string
---@param text string the column of texts
---@param labels string[] the columns of numbers
---@return string[] texts
---@return perilune.Tensor labels float32 [n, #labels]
function probing.read_table(path, text, labels)
  local file <close>, why = io.open(path, "rb")
  if not file then pl.fail("io", "%s", why) end
  local columns, n_columns, texts, rows, number = nil, 0, {}, {}, 0
  for line in file:lines() do
    number = number + 1
    line = line:gsub("\r$", "")
    local where = ("%s, line %d"):format(path, number)
    local fields = line:find("%S") and fields_of(line, where)
    if fields and not columns then
      columns, n_columns = {}, #fields
      for i, name in ipairs(fields) do columns[name] = i end
      for _, name in ipairs { text, table.unpack(labels) } do
        if not columns[name] then
          pl.fail("format", "%s: there is no column '%s'; there are: %s", where, name, table.concat(fields, ", "))
        end
      end
    elseif fields then
      if #fields ~= n_columns then
        pl.fail("format", "%s: %d fields, expected %d", where, #fields, n_columns)
      end
      local row = {}
      for k, name in ipairs(labels) do
        local value = tonumber(fields[columns[name]])
        if not value or value ~= value or math.abs(value) == math.huge then
          pl.fail("format", "%s: %s = '%s': expected a number", where, name, fields[columns[name]])
        end
        row[k] = value
      end
      texts[#texts + 1], rows[#rows + 1] = fields[columns[text]], row
    end
  end
  if #texts == 0 then pl.fail("format", "%s: there are no rows in it", path) end
  return texts, pl.tensor(rows)
end

-- -- ridge regression ---------------------------------------------------------------------------------

--- The W [d, k] that is least in |X W - Y|^2 + lambda |W|^2. Where there are fewer rows than columns it is
--- found by way of the rows: W = X^T (X X^T + lambda)^-1 Y.
---@param X perilune.Tensor [n, d]
---@param Y perilune.Tensor [n, k]
---@param lambda number above 0
---@return perilune.Tensor
function probing.ridge(X, Y, lambda)
  local n, d = X.shape[1], X.shape[2]
  local Xt = X:transpose(0, 1)
  if n < d then return Xt:matmul((X:matmul(Xt) + pl.eye(n) * lambda):solve(Y)) end
  return (Xt:matmul(X) + pl.eye(d) * lambda):solve(Xt:matmul(Y))
end

--- Moves and scales the columns of train to mean 0 and deviation 1, and other by as much.
local function standardise(train, other)
  local mean = train:mean(0)
  local scale = (train - mean):square():mean(0):sqrt():clamp(1e-6, math.huge)
  return (train - mean) / scale, (other - mean) / scale, mean, scale
end

-- What a probe trained on some rows says of others.
local function predict(X, Y, X_other, lambda)
  local x, x_other = standardise(X, X_other)
  local y, _, mean, scale = standardise(Y, Y)
  return x_other:matmul(probing.ridge(x, y, lambda * x.shape[1])) * scale + mean
end

--- The share of the variance of Y that the predictions explain, the mean over the columns. Below 0: worse
--- than always saying the mean.
---@param Y perilune.Tensor [n, k]
---@param predicted perilune.Tensor
---@return number
function probing.r2(Y, predicted)
  local errors = (Y - predicted):square():sum(0)
  local spread = (Y - Y:mean(0)):square():sum(0):clamp(1e-30, math.huge)
  return 1 - (errors / spread):mean()
end

local function split(order, from, to)
  local inside, outside = {}, {}
  for i, row in ipairs(order) do
    local list = i >= from and i <= to and inside or outside
    list[#list + 1] = row
  end
  return pl.tensor(outside, { dtype = "int32" }), pl.tensor(inside, { dtype = "int32" })
end

-- The default strengths of ridge regression, for each row of data.
probing.lambdas = { 0.01, 0.1, 1, 10, 100 }

-- The strength that does best on a quarter of the rows that is held out of them.
local function choose(X, Y, lambdas)
  local n, order = X.shape[1], {}
  for i = 1, n do order[i] = i - 1 end
  local train, test = split(order, 1, math.max(1, n // 4))
  local best, best_r2 = lambdas[1], -math.huge
  for _, lambda in ipairs(lambdas) do
    local predicted = predict(X:index_select(0, train), Y:index_select(0, train), X:index_select(0, test), lambda)
    local r2 = probing.r2(Y:index_select(0, test), predicted)
    if r2 > best_r2 then best, best_r2 = lambda, r2 end
  end
  return best
end

--- Trains probes on all folds but one, and asks each about that one; the strength of the ridge is chosen
--- within the training part.
---@param X perilune.Tensor [n, d] activations
---@param Y perilune.Tensor [n, k] labels
---@param opts? {folds?: integer, lambdas?: number[], seed?: integer} 5 folds
---@return {r2: number, predicted: perilune.Tensor, lambda: number} of the last fold's probe
function probing.cross_validate(X, Y, opts)
  opts = pl.check_options("cross_validate", opts, { "folds", "lambdas", "seed" })
  local n, folds = X.shape[1], opts.folds or 5
  if Y.n_dims ~= 2 or Y.shape[1] ~= n then
    pl.fail("shape", "cross_validate: %d rows and labels [%s]", n, table.concat(Y.shape, ", "))
  end
  if folds < 2 or n < 4 * folds then
    pl.fail("argument", "cross_validate: %d rows in %d folds: expected 2 folds or more of 4 rows or more", n, folds)
  end
  local order = pl.rand(n, { seed = opts.seed or 0 }):argsort():to_table()
  local predicted, lambda = pl.zeros(n, Y.shape[2]), nil
  for fold = 1, folds do
    local train, test = split(order, 1 + (fold - 1) * n // folds, fold * n // folds)
    local x, y = X:index_select(0, train), Y:index_select(0, train)
    lambda = choose(x, y, opts.lambdas or probing.lambdas)
    local said = predict(x, y, X:index_select(0, test), lambda)
    for i, row in test:each() do predicted[row]:copy_(said[i]) end
  end
  return { r2 = probing.r2(Y, predicted), predicted = predicted, lambda = lambda }
end

--- The same with labels shuffled among the rows: what a probe reads where there is nothing to read (the
--- control of Hewitt and Liang 2019).
---@param X perilune.Tensor
---@param Y perilune.Tensor
---@param opts? table as of cross_validate
---@return {r2: number, predicted: perilune.Tensor, lambda: number}
function probing.control(X, Y, opts)
  local order = pl.rand(Y.shape[1], { seed = 12345 + (opts and opts.seed or 0) }):argsort()
  return probing.cross_validate(X, Y:index_select(0, order), opts)
end

--- The residual stream at the last token of each text: before the first layer, then after each one.
---@param model perilune.Model
---@param texts string[]
---@return perilune.Tensor[] n_layers + 1 of [n, d_model]
function probing.last_tokens(model, texts)
  local n_layers, rows = model.config.n_layers, {}
  for layer = 0, n_layers do rows[layer + 1] = {} end
  for i, text in ipairs(texts) do
    local _, cache = model:run_with_cache(text, { "blocks.0.hook_resid_pre", "blocks.*.hook_resid_post" })
    rows[1][i] = cache["blocks.0.hook_resid_pre"][-1]
    for layer = 0, n_layers - 1 do rows[layer + 2][i] = cache[("blocks.%d.hook_resid_post"):format(layer)][-1] end
  end
  for layer, list in ipairs(rows) do rows[layer] = pl.stack(list) end
  return rows
end

return probing
