local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

describe("a tokenizer", function()
  local tok = pl.load_tokenizer(tiny.tokenizer())

  it("says what it is", function()
    assert.are.equal(262, tok.n_tokens)
    assert.are.equal("byte-level BPE", tok.kind)
    assert.are.equal("the", tok:to_str_tokens("the")[1])
    assert.are.equal("Ġthe", tok:pieces({ tok:find_piece("Ġthe") })[1])
    assert.is_nil(tok:find_piece("no such piece"))
    assert.are.equal("normal", tok:attr(tok:find_piece("in")))
    assert.is_truthy(tostring(tok):find("262"))
  end)

  it("round-trips any bytes", function()
    local bytes = {}
    for byte = 0, 255 do bytes[#bytes + 1] = string.char(byte) end
    local text = table.concat(bytes)
    assert.are.equal(text, tok:decode(tok:encode(text)))
  end)

  it("streams without splitting characters", function()
    local text = "in \u{1f600} caf\u{e9}"
    local decoder, out = tok:decoder(), {}
    for _, id in tok:encode(text):each() do
      local part = decoder:put(math.tointeger(id))
      assert.is_truthy(utf8.len(part))
      out[#out + 1] = part
    end
    out[#out + 1] = decoder:flush()
    assert.are.equal(text, table.concat(out))
  end)

  it("shows how merges go", function()
    local states = tok:explain("the")
    assert.are.same({ "t", "h", "e" }, states[1].pieces)
    assert.are.same({ "th", "e" }, states[2].pieces)
    assert.are.equal(1, states[2].merged)
    assert.are.same({ "the" }, states[#states].pieces)
  end)

  it("refuses what does not fit", function()
    assert.is_truthy(tiny.failure(tok.decode, tok, { 5, 262 }).message:find("262", 1, true))
    assert.is_truthy(tiny.failure(tok.pieces, tok, { -1 }).message:find("-1", 1, true))
    assert.is_truthy(tiny.failure(tok.encode, tok, "x", { add_specials = true }).message:find("add_special"))
    assert.are.equal("io", tiny.failure(pl.load_tokenizer, "/nonexistent").kind)
    local closed = pl.load_tokenizer(tiny.tokenizer())
    local decoder = closed:decoder()
    closed:close()
    assert.are.equal("state", tiny.failure(closed.encode, closed, "x").kind)
    assert.are.equal("state", tiny.failure(decoder.put, decoder, 1).kind)
  end)
end)
