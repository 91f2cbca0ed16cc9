-- A perceptron of two layers that detects exactly two ones of three, set by hand and trained.
--
-- It has 3 inputs, 5 hidden units and 1 output: 15 + 5 = 20 weights, 26 numbers with the biases. First
-- with weights set by hand. Three hidden units each watch one pair: "1 and 2", "1 and 3", "2 and 3";
-- the fourth and the fifth both fire at all three. A pair speaks for the answer with 1, and the last
-- two units against it with 1.5 each: at 1 1 1 all three pairs speak, and are outweighed. Then with
-- weights found by gradient descent from random ones.
--
-- One layer is spelled in three ways, which give the same numbers: y_j = f(sum over i of x_i w_ij +
-- b_j); the product of the matrices, all 8 inputs at once; and y = f(xW + b), row by row.
--
--   perilune exactly_two
--   perilune exactly_two --unit sigmoid --seed 3 --svg loss.svg

local pl = require "perilune"
local cli = require "perilune.cli"
local svg = require "perilune.svg"
local terminal = require "perilune.terminal"

local parser = cli.parser("exactly_two", "A perceptron that detects exactly two ones of three.")
parser:option("--unit", "What the units of the hand-set one do: step or sigmoid"):argname "NAME"
  :choices({ "step", "sigmoid" }):default "step"
parser:option("--steps", "Steps of gradient descent"):argname "N":convert(cli.whole(1)):default "600"
parser:option("--lr", "The learning rate"):argname "X":convert(cli.number(0)):default "0.05"
parser:option("--svg", "Write the losses of the training as a plot"):argname "FILE"

local args = cli.parse(parser)

local rows, wanted = {}, {}
for n = 0, 7 do
  local row = { n >> 2 & 1, n >> 1 & 1, n & 1 }
  rows[n + 1], wanted[n + 1] = row, row[1] + row[2] + row[3] == 2 and 1 or 0
end
local x, target = pl.tensor(rows), pl.tensor(wanted)

-- -- one layer, spelled in three ways ---------------------------------------------------------------

local units = {
  step = function(sum) return type(sum) == "number" and (sum > 0 and 1 or 0) or sum:gt(0):float() end,
  sigmoid = function(sum)
    if type(sum) ~= "number" then return sum:sigmoid() end
    return 1 / (1 + math.exp(-sum))
  end,
}

-- Every sum written out, with Lua's own numbers.
local function by_sums(net, row, f)
  local function layer(input, w, b)
    local output = {}
    for j = 1, #b do
      local sum = b[j]
      for i = 1, #input do sum = sum + input[i] * w[i][j] end
      output[j] = f(sum)
    end
    return output
  end
  local hidden = layer(row, net.w1:to_table(), net.b1:to_table())
  return layer(hidden, net.w2:to_table(), net.b2:to_table())[1]
end

-- All inputs at once: rows of x, columns of W.
local function by_matrices(net, inputs, f)
  local hidden = f(inputs:matmul(net.w1) + net.b1)
  return f(hidden:matmul(net.w2) + net.b2):squeeze(1), hidden
end

-- f(f(xW + b)W' + b') of one vector.
local function by_vector(net, row, f)
  return f(f(pl.tensor(row):matmul(net.w1) + net.b1):matmul(net.w2) + net.b2)[0]
end

-- -- showing ----------------------------------------------------------------------------------------

local function show_weights(net)
  local w1, b1, w2 = net.w1:to_table(), net.b1:to_table(), net.w2:to_table()
  print("              hidden  1       2       3       4       5")
  local function line(name, values)
    local list = {}
    for i, value in ipairs(values) do list[i] = ("%8.2f"):format(value) end
    print(("  %-14s"):format(name) .. table.concat(list))
  end
  for i = 1, 3 do line("from input " .. i, w1[i]) end
  line("bias", b1)
  line("to the output", { w2[1][1], w2[2][1], w2[3][1], w2[4][1], w2[5][1] })
  print(("  %-14s%8.2f"):format("output's bias", net.b2:to_table()[1]))
end

-- The table of all inputs by all three spellings; how many are right, and how far the three differ.
local function show_table(net, f)
  local all, hidden = by_matrices(net, x, f)
  local right, far = 0, 0
  print("\n  input   hidden units                   sums    matrices  f(xW+b)  wanted")
  for n = 1, 8 do
    local a, b, c = by_sums(net, rows[n], f), all[n - 1], by_vector(net, rows[n], f)
    far = math.max(far, math.abs(a - b), math.abs(a - c))
    local good = (b > 0.5) == (wanted[n] == 1)
    right = right + (good and 1 or 0)
    local list = {}
    for j, value in ipairs(hidden[n - 1]:to_table()) do list[j] = ("%.2f"):format(value) end
    print(("  %d %d %d   %s  %7.4f  %7.4f  %7.4f  %d  %s"):format(rows[n][1], rows[n][2], rows[n][3],
      table.concat(list, "  "), a, b, c, wanted[n], good and "right" or terminal.paint("wrong", "red")))
  end
  if far > 1e-5 then pl.fail("state", "the three spellings differ by %.1e", far) end
  print(terminal.paint(("  %d of 8 right; the three spellings agree to %.0e"):format(right, far),
    right == 8 and "green" or "orange"))
end

-- -- by hand ----------------------------------------------------------------------------------------

-- Units 1 to 3 fire at a pair (sum 2 > 1.5), 4 and 5 at all three (sum 3 > 2.5). One pair: 1. All
-- three: 3 - 2 * 1.5 = 0, which is below the 0.5 that the output asks for.
local sharp = args.unit == "sigmoid" and 12 or 1 -- a steep sigmoid is nearly a step
local by_hand = {
  w1 = pl.tensor({ { 1, 1, 0, 1, 1 }, { 1, 0, 1, 1, 1 }, { 0, 1, 1, 1, 1 } }) * sharp,
  b1 = pl.tensor({ -1.5, -1.5, -1.5, -2.5, -2.5 }) * sharp,
  w2 = pl.tensor({ { 1 }, { 1 }, { 1 }, { -1.5 }, { -1.5 } }) * sharp,
  b2 = pl.tensor({ -0.5 }) * sharp,
}
print(terminal.paint("Weights set by hand, " .. args.unit .. " units", "bold"))
print("Units 1 to 3 fire at a pair of ones, 4 and 5 at three; three ones make all five fire, and\n" ..
  "1 + 1 + 1 - 1.5 - 1.5 = 0 is not above 0.5.\n")
show_weights(by_hand)
show_table(by_hand, units[args.unit])

-- -- by gradient descent ----------------------------------------------------------------------------

local seed = args.seed or 1

local function begin(by)
  local net = { w1 = pl.zeros(3, 5):normal_(0, 1, { seed = seed + by }), b1 = pl.zeros(5),
    w2 = pl.zeros(5, 1):normal_(0, 1, { seed = seed + by + 7919 }), b2 = pl.zeros(1) }
  for _, tensor in pairs(net) do tensor:requires_grad() end
  return net
end

-- Steps have no slope to go down, so the trained units are sigmoids.
local function train(net)
  local parameters = { net.w1, net.b1, net.w2, net.b2 }
  local optimizer, losses = pl.optim.adamw(parameters, { lr = args.lr }), {}
  for step = 1, args.steps do
    optimizer:zero_grad()
    local y = by_matrices(net, x, units.sigmoid)
    local loss = -(target * y:log() + (1 - target) * (1 - y):log()):mean()
    losses[step] = loss:item()
    loss:backward()
    optimizer:step()
  end
  for name, tensor in pairs(net) do net[name] = tensor:detach() end
  return losses
end

local net = begin(0)
local losses = train(net)
print("\n" .. terminal.paint("Weights found by gradient descent from random ones, sigmoid units", "bold"))
print(("loss %.4f at first, %.4f after %d steps; 15 + 5 weights and 5 + 1 biases were moved\n"):format(losses[1],
  losses[#losses], args.steps))
show_weights(net)
show_table(net, units.sigmoid)
print("  Its units need not be those set by hand: many weights do the same.")

if args.svg then
  local steps = {}
  for i = 1, #losses do steps[i] = i end
  svg.save(args.svg, { title = "Exactly two of three", x_label = "step", y_label = "loss", log_y = true,
    series = { { name = "loss", x = steps, y = losses } } })
  print(terminal.paint(args.svg .. " is written", "grey"))
end
