--- Power laws: y = offset + factor x^-alpha, fitted to points.

local pl = require "perilune"

local powers = {}

---@class perilune.PowerLaw
---@field offset number what is left for infinite x
---@field factor number
---@field alpha number
---@field r2 number the share of the variance of log(y - offset) that the line explains
---@field at fun(x: number): number

-- The least-squares line through (log x, log (y - offset)); nil: a y is not above the offset.
local function line(x, y, offset)
  local n, sx, sy, sxx, sxy, syy = #x, 0, 0, 0, 0, 0
  for i = 1, n do
    if y[i] <= offset then return nil end
    local u, v = math.log(x[i]), math.log(y[i] - offset)
    sx, sy, sxx, sxy, syy = sx + u, sy + v, sxx + u * u, sxy + u * v, syy + v * v
  end
  local spread, rise, total = sxx - sx * sx / n, sxy - sx * sy / n, syy - sy * sy / n
  if spread <= 0 then return nil end
  local slope = rise / spread
  local r2 = total > 0 and rise * rise / (spread * total) or 1
  local factor = math.exp((sy - slope * sx) / n)
  return { offset = offset, factor = factor, alpha = -slope, r2 = r2,
    at = function(at) return offset + factor * at ^ slope end }
end

--- Fits a power law by least squares in the logarithms, for an offset that is known, or else for the one
--- from 0 to the least y that makes the line straightest.
---@param x number[] positive, two of them different
---@param y number[]
---@param offset? number
---@return perilune.PowerLaw
function powers.fit(x, y, offset)
  if #x ~= #y or #x < 2 then pl.fail("argument", "powers.fit: %d x and %d y: expected as many, two or more", #x, #y) end
  local least = math.huge
  for i = 1, #x do
    if x[i] <= 0 or x[i] ~= x[i] then
      pl.fail("argument", "powers.fit: x = %s: expected a positive number", tostring(x[i]))
    end
    least = math.min(least, y[i])
  end
  local best = offset and line(x, y, offset)
  if offset and not best then
    pl.fail("argument", "powers.fit: a y of %g is not above the offset %g, or all x are equal", least, offset)
  end
  if best then return best end
  local low, high = 0, least
  for _ = 1, 6 do -- a grid, then finer ones round the best of it
    local step, found = (high - low) / 20, nil
    for k = 0, 19 do
      local fit = line(x, y, low + k * step)
      if fit and (not found or fit.r2 > found.r2) then found = fit end
    end
    if not found then pl.fail("argument", "powers.fit: all x are equal, or a y is not positive") end
    best = found
    low, high = math.max(0, best.offset - step), math.min(least, best.offset + step)
  end
  return best
end

return powers
