-- A byte-level tokenizer on disk and small random models with it, for the specs.
local tiny = {}

local folder

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

-- GPT-2's spelling of bytes: printable ones stand for themselves, others are moved up.
local function byte_pieces()
  local pieces, moved = {}, 256
  for byte = 0, 255 do
    local printable = byte > 32 and byte < 127 or byte > 160 and byte ~= 173
    pieces[#pieces + 1] = utf8.char(printable and byte or moved)
    if not printable then moved = moved + 1 end
  end
  return pieces
end

-- The folder of a tokenizer with 256 bytes, five merges and <|endoftext|> (262 tokens).
function tiny.tokenizer()
  if folder then return folder end
  folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir -p " .. folder))
  local pieces = byte_pieces()
  local merges = { "t h", "th e", "Ġ the", "i n", "e r" }
  for _, merge in ipairs(merges) do pieces[#pieces + 1] = (merge:gsub(" ", "")) end
  pieces[#pieces + 1] = "<|endoftext|>"
  local entries = {}
  for i, piece in ipairs(pieces) do
    entries[i] = ('"%s": %d'):format(piece:gsub('[\\"]', "\\%0"), i - 1)
  end
  write(folder .. "/vocab.json", "{" .. table.concat(entries, ", ") .. "}")
  tiny.last = setmetatable({}, { __gc = function() os.execute("rm -rf " .. folder) end })
  write(folder .. "/merges.txt", "#version: 0.2\n" .. table.concat(merges, "\n") .. "\n")
  return folder
end

function tiny.model(pl, fields, opts)
  local description = { arch = "gpt2", n_layers = 2, d_model = 32, n_heads = 4, n_ctx = 128, seed = 5,
    std = 0.4, tokenizer = tiny.tokenizer() }
  for key, value in pairs(fields or {}) do description[key] = value end
  if description.tokenizer == false then description.tokenizer = nil end
  return pl.new_model(description, opts or { threads = 1 })
end

-- Runs fn, which must fail, and gives its error object.
function tiny.failure(fn, ...)
  local good, err = pcall(fn, ...)
  assert(not good, "expected an error")
  assert(err.kind and err.message, "expected an error object, got " .. tostring(err))
  return err
end

-- Whether two tensors are the same bit for bit.
function tiny.same(a, b)
  local x, y = a:to_table(), b:to_table()
  local function equal(p, q)
    if type(p) ~= "table" then return p == q or (p ~= p and q ~= q) end
    if #p ~= #q then return false end
    for i = 1, #p do
      if not equal(p[i], q[i]) then return false end
    end
    return true
  end
  return equal(x, y)
end

return tiny
