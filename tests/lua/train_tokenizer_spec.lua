local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"
local program = dofile "tests/lua/program.lua"

local text = ("the cat sat on the mat and the dog sat on the cat\n"):rep(20)

describe("pl.train_tokenizer", function()
  local scratch = require "tests.lua.scratch"(teardown)
  local folder = scratch.at()
  setup(function()
    scratch.write("a.txt", text)
    scratch.write("inner/b.txt", "dog " .. text)
    scratch.write("c.bin", "other")
  end)

  it("gives a tokenizer that is ready", function()
    local tok, about = pl.train_tokenizer({ texts = text, vocab_size = 270, special = { "<|endoftext|>" } })
    assert.are.equal(270, tok.n_tokens)
    assert.are.equal("byte-level BPE", tok.kind)
    assert.are.equal(0, tok.special.eos)
    assert.are.equal(#text, about.n_bytes)
    assert.are.equal(" the", tok:to_str_tokens("on the")[#tok:to_str_tokens("on the")])
    local bytes = string.char(255, 0, 10, 195) .. "\u{e9}\u{1f600}" .. text
    assert.are.equal(bytes, tok:decode(tok:encode(bytes)))
    assert.are.equal(0, math.tointeger(tok:encode("<|endoftext|>")[0]))
  end)

  it("reads files and folders, and writes what loads again", function()
    local tok, about = pl.train_tokenizer({ files = { folder }, vocab_size = 280, pattern = "gpt4", save = folder })
    assert.are.equal(2, about.n_files)
    assert.are.equal(2 * #text + 4, about.n_bytes)
    local again = pl.load_tokenizer(folder)
    assert.are.same(tok:pieces(text), again:pieces(text))
    again:save(folder .. "/copy.json")
    local copy = pl.load_tokenizer(folder .. "/copy.json")
    assert.are.same(tok:pieces(text), copy:pieces(text))
  end)

  it("makes fewer entries of little text", function()
    assert.are.equal(258, pl.train_tokenizer({ texts = { "abab", " abab" }, vocab_size = 999 }).n_tokens)
    assert.are.equal(256, pl.train_tokenizer({ texts = "abab", min_frequency = 3 }).n_tokens)
  end)

  it("tells how far it is, and stops at an error there", function()
    local told = {}
    pl.train_tokenizer({ texts = text, vocab_size = 260, progress = function(fraction, what)
      assert.is_true(fraction >= 0 and fraction <= 1)
      told[#told + 1] = what
    end })
    assert.are.equal("reading", told[1])
    assert.is_truthy(told[#told]:find("of 260 tokens", 1, true))
    local stop = {}
    local good, problem = pcall(pl.train_tokenizer, { texts = text, progress = function() error(stop) end })
    assert.is_false(good)
    assert.are.equal(stop, problem)
  end)

  it("refuses what cannot be", function()
    local function refused(opts) return tiny.failure(pl.train_tokenizer, opts) end
    assert.are.equal("argument", refused({}).kind)
    assert.is_truthy(refused({ texts = "" }).message:find("no text to train on", 1, true))
    assert.is_truthy(refused({ texts = "a", vocab_size = 255 }).message:find("expected 256", 1, true))
    assert.is_truthy(refused({ texts = "a", vocab_size = "x" }).message:find("vocab_size = x", 1, true))
    assert.is_truthy(refused({ texts = "a", pattern = "(" }).message:find("does not compile", 1, true))
    assert.is_truthy(refused({ texts = "a", patern = "gpt2" }).message:find("pattern", 1, true))
    assert.is_truthy(refused({ texts = { 5 } }).message:find("texts[1] is a number", 1, true))
    assert.are.equal("io", refused({ texts = "a", save = "/nowhere/t.json" }).kind)
    assert.are.equal("io", refused({ files = "/nowhere.txt" }).kind)
    assert.are.equal("io", refused({ files = "engine/base" }).kind)
  end)

  it("is a program", function()
    local out = folder .. "/program.json"
    local status, said, warned = program.run({ "train-tokenizer", folder .. "/a.txt", "-o", out, "--vocab-size", "4096",
      "--special", "<s>", "--special", "</s>" })
    assert.are.equal(0, status)
    assert.is_truthy(said:find("entries from", 1, true))
    assert.is_truthy(warned:find("warning: ", 1, true))
    local tok = pl.load_tokenizer(out)
    assert.are.equal(1, tok.special.eos)
    assert.are.equal(text, tok:decode(tok:encode(text)))
    assert.are.equal(2, (program.run({ "train-tokenizer", folder })))
    assert.are.equal(1, (program.run({ "train-tokenizer", folder .. "/c.bin", "-o", "/nowhere/t.json" })))
  end)
end)
