-- One artificial neuron learns AND and OR by gradient descent, and cannot learn XOR.
--
-- The neuron is y = sigmoid(w1 x1 + w2 x2 + b), and it is trained on the four rows of a truth table.
-- AND and OR are learned: one straight line parts the inputs that give 1 from those that give 0. XOR
-- is not, by any weights: its ones lie on opposite corners. The sum w1 x1 + w2 x2 + b over the two
-- corners (0,0) and (1,1) is always that over (0,1) and (1,0), so the neuron cannot be below 0 on the
-- first two and above 0 on the others. The best it can do is to say 1/2 everywhere: a loss of ln 2.
--
--   perilune neuron
--   perilune neuron --steps 50 --lr 0.5 or
--   perilune neuron --svg lines.svg

local pl = require "perilune"
local cli = require "perilune.cli"
local svg = require "perilune.svg"
local terminal = require "perilune.terminal"

local tables = { ["and"] = { 0, 0, 0, 1 }, ["or"] = { 0, 1, 1, 1 }, xor = { 0, 1, 1, 0 } }

local parser = cli.parser("neuron", "One neuron learns AND and OR, and cannot learn XOR.")
parser:argument("functions", "Any of and, or, xor (default: all three)"):args "*"
parser:option("--steps", "Steps of gradient descent"):argname "N":convert(cli.whole(1)):default "300"
parser:option("--lr", "The learning rate"):argname "X":convert(cli.number(0)):default "2"
parser:option("--svg", "Write the decision lines as a plot"):argname "FILE"

local args = cli.parse(parser)
local functions = #args.functions > 0 and args.functions or { "and", "or", "xor" }
for _, name in ipairs(functions) do
  if not tables[name] then cli.usage("'%s': expected and, or, xor", name) end
end

local x = pl.tensor({ { 0, 0 }, { 0, 1 }, { 1, 0 }, { 1, 1 } })

local function sums(neuron) return x:matmul(neuron.w) + neuron.b end

-- Mean of -log(the probability of the right answer).
local function loss_of(neuron, wanted)
  local y = sums(neuron):sigmoid()
  return -(wanted * y:log() + (1 - wanted) * (1 - y):log()):mean()
end

local function train(wanted)
  local neuron = { w = pl.zeros(2):normal_(0, 1, { seed = args.seed or 1 }):requires_grad(),
    b = pl.zeros(1):requires_grad() }
  local optimizer = pl.optim.sgd({ neuron.w, neuron.b }, { lr = args.lr })
  local losses = {}
  for step = 1, args.steps do
    optimizer:zero_grad()
    local loss = loss_of(neuron, wanted)
    losses[step] = loss:item()
    loss:backward()
    optimizer:step()
  end
  return neuron, losses
end

local marks = { terminal.paint("+", "sky"), terminal.paint(".", "grey"), terminal.paint("?", "orange") }

-- Rows of the square from -0.5 to 1.5: what the neuron says there, and the four inputs.
local function picture(w1, w2, b, wanted)
  local columns, rows, list = 41, 17, {}
  for i = 0, rows - 1 do
    local line = {}
    for j = 0, columns - 1 do
      local x1, x2 = -0.5 + 2 * j / (columns - 1), 1.5 - 2 * i / (rows - 1)
      local sum = w1 * x1 + w2 * x2 + b
      line[j + 1] = marks[math.abs(sum) < 0.01 and 3 or sum > 0 and 1 or 2]
    end
    for k = 0, 3 do
      if i == (k % 2 == 1 and 4 or 12) then
        line[(k >= 2 and 30 or 10) + 1] = terminal.paint(("%d"):format(wanted[k + 1]), "bold")
      end
    end
    list[#list + 1] = "  " .. table.concat(line)
  end
  return table.concat(list, "\n")
end

local function describe_line(w1, w2, b)
  if math.max(math.abs(w1), math.abs(w2)) < 1e-2 then
    return "no line: both weights went to 0, and the output is the same everywhere"
  end
  return ("the line: %.2f x1 %+.2f x2 %+.2f = 0"):format(w1, w2, b)
end

local found = {}
for _, name in ipairs(functions) do
  local wanted = tables[name]
  local neuron, losses = train(pl.tensor(wanted))
  local w, b = neuron.w:detach():to_table(), neuron.b:detach():to_table()[1]
  local out = sums(neuron):sigmoid():detach():to_table()
  print(terminal.paint(name:upper(), "bold"))
  local right, step, steps, shown = 0, 1, {}, {}
  while step <= args.steps do
    steps[#steps + 1], shown[#shown + 1] = ("%7d"):format(step), ("%7.4f"):format(losses[step])
    step = step < args.steps and math.min(args.steps, step * 3) or step + 1
  end
  print("  step      " .. table.concat(steps) .. "\n  loss      " .. table.concat(shown))
  for k = 1, 4 do
    local good = (out[k] > 0.5) == (wanted[k] == 1)
    right = right + (good and 1 or 0)
    print(("  %d %d  ->  %.3f, wanted %d  %s"):format((k - 1) // 2, (k - 1) % 2, out[k], wanted[k],
      good and "right" or terminal.paint("wrong", "red")))
  end
  print("  " .. describe_line(w[1], w[2], b))
  print("  x1 to the right, x2 upwards: + where the neuron says 1, . where 0, ? where it cannot say;\n" ..
    "  in the four corners, what is wanted")
  print(picture(w[1], w[2], b, wanted))
  local verdict = ("%d of 4 right, loss %.4f"):format(right, losses[#losses])
  print("  " .. terminal.paint(verdict, right == 4 and "green" or "orange"))
  if name == "xor" then
    -- The two pairs of corners have the same sum, whatever the weights.
    local s = sums(neuron):detach():to_table()
    print(("  sums at (0,0) + (1,1): %.4f; at (0,1) + (1,0): %.4f: the same, whatever the weights, so\n" ..
      "  they never put one pair below 0 and the other above. The least loss is ln 2 = %.4f, at output\n" ..
      "  1/2 everywhere."):format(s[1] + s[4], s[2] + s[3], math.log(2)))
  end
  print()
  found[#found + 1] = { name = name, w1 = w[1], w2 = w[2], b = b }
end

if args.svg then
  local series = { { name = "inputs", x = { 0, 0, 1, 1 }, y = { 0, 1, 0, 1 }, points = true },
    { x = { -0.5, 1.5 }, y = { -0.5, 1.5 }, points = true, colour = "none" } } -- how far the plot reaches
  for _, line in ipairs(found) do
    local list = { name = line.name, x = {}, y = {} }
    for i = 0, 200 do
      local x1 = -0.5 + i / 100
      local x2 = -(line.w1 * x1 + line.b) / line.w2
      if math.abs(line.w2) > 1e-2 and x2 >= -0.5 and x2 <= 1.5 then
        list.x[#list.x + 1], list.y[#list.y + 1] = x1, x2
      end
    end
    if #list.x == 0 then list.name = line.name .. ": no line" end
    series[#series + 1] = list
  end
  svg.save(args.svg, { title = "Where one neuron says 1/2", x_label = "x1", y_label = "x2", series = series })
  print(terminal.paint(args.svg .. " is written", "grey"))
end
