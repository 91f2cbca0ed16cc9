-- pl.pull against a server that answers with wrong statuses, headers, sizes, names and JSON, drawn at random.
local program = dofile "tests/lua/program.lua"

local n_seeds = tonumber(os.getenv "HOSTILE_SEEDS") or 150

local function read(path)
  local file = io.open(path, "rb")
  local text = file and file:read("a")
  if file then file:close() end
  return text
end

local function lines_of(command, ...)
  local pipe = assert(io.popen(command:format(...)))
  local list = {}
  for line in pipe:lines() do list[#list + 1] = line end
  pipe:close()
  return list
end

-- One process pulls model after model; what it says of each comes back as lines of "SEED KIND MESSAGE".
local code = [[
for seed = 0, %d do
  local good, err = pcall(pl.pull, "org/s" .. seed, { wait = 0 })
  local kind = good and "fine" or type(err) == "table" and err.kind or "no error object"
  print(seed, kind, (("%%q"):format(good and "" or err.message or tostring(err)):gsub("\n", "n")))
end
]]

describe("a hostile hub", function()
  local home, pid, port
  setup(function()
    if not os.execute("command -v python3 >/dev/null 2>&1") then return end
    home = os.tmpname()
    os.remove(home)
    assert(os.execute(("mkdir -p %s/cache"):format(home)))
    pid = lines_of("python3 tests/lua/hostile_hub.py %s/port %s/log >%s/errors 2>&1 & echo $!", home, home, home)[1]
    for _ = 1, 200 do
      port = read(home .. "/port")
      if port then return end
      os.execute("sleep 0.05")
    end
    error("the server does not start: " .. tostring(read(home .. "/errors")))
  end)
  teardown(function()
    if pid then os.execute(("kill %s; rm -rf %s"):format(pid, home)) end
  end)

  it("neither crashes pull, nor keeps it, nor writes outside its folder", function()
    if not home then return pending("no python3 for the server") end
    local status, out, err = program.run({ "-e", code:format(n_seeds) }, nil,
      ("env -u HF_HOME -u http_proxy -u HTTP_PROXY -u all_proxy -u ALL_PROXY no_proxy='*' HF_TOKEN=secret " ..
        "HF_ENDPOINT=http://127.0.0.1:%s HF_HUB_CACHE=%s/cache timeout 300"):format(port, home))
    assert.are.equal(0, status, err .. out:sub(-300))
    local kinds, n = {}, 0
    for seed, kind, message in out:gmatch("(%d+)\t(%S+)\t([^\n]*)\n") do
      kinds[kind] = (kinds[kind] or 0) + 1
      n = n + 1
      assert.is_truthy(kind == "fine" or kind == "io" or kind == "format" or kind == "argument"
        or kind == "unsupported", ("%s: %s %s"):format(seed, kind, message))
      assert.is_falsy(message:find("[^\32-\126]"), message)
      assert.is_true(#message < 4000)
      assert.is_falsy(message:find("secret", 1, true))
      if seed == "0" then assert.are.equal("fine", kind, message) end
    end
    assert.are.equal(n_seeds + 1, n)
    assert.is_true(kinds.fine > 5 and kinds.io > 5 and kinds.format > 5, out)

    -- Only blobs under their digests, links to them, and the commit.
    for _, path in ipairs(lines_of("find %s -type f", home)) do
      local name = path:sub(#home + 2)
      assert.is_truthy(name == "log" or name == "port" or name == "errors"
        or name:find("^cache/models%-%-org%-%-s%d+/blobs/%x+$") or name:find("^cache/models%-%-org%-%-s%d+/refs/main$")
        or name:find("^cache/models%-%-org%-%-s%d+/blobs/%x+%.incomplete$"), name)
    end
    for _, line in ipairs(lines_of("find %s -type l -printf '%%l %%p\\n'", home)) do
      assert.is_truthy(
        line:find("^[./]*%.%./%.%./blobs/%x+ %S+/cache/models%-%-org%-%-s%d+/snapshots/%x+/[^\n]+$"), line)
    end
    for _, path in ipairs(lines_of("find %s/cache -path '*/blobs/*' -type f -size +0 ! -name '*.incomplete'", home)) do
      local digest = path:match("%x+$")
      local sum = #digest == 64 and "sha256sum <%s" or "(printf 'blob %%d\\0' $(stat -c %%s %s); cat %s) | sha1sum"
      assert.are.equal(digest, lines_of(sum, path, path)[1]:match("%x+"), path)
    end
  end)
end)
