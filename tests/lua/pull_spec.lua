local program = dofile "tests/lua/program.lua"
local tiny = dofile "tests/lua/tiny.lua"
local pl = require "perilune"

local commit = "0123456789abcdef0123456789abcdef01234567"

local function shell(format, ...) return os.execute(format:format(...)) end

local function read(path)
  local file = io.open(path, "rb")
  local text = file and file:read("a")
  if file then file:close() end
  return text
end

local function write(path, text)
  assert(shell("mkdir -p '%s'", path:match("^(.*)/")))
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

-- A server of its own, without any network but that of this machine.
local Hub = {}
Hub.__index = Hub

-- host: of a certificate that the server makes itself, to speak HTTPS; nil: HTTP.
local function start_hub(host)
  if not shell("command -v python3 >/dev/null 2>&1") then return nil end
  if host and not shell("command -v openssl >/dev/null 2>&1") then return nil end
  local home = os.tmpname()
  os.remove(home)
  local self = setmetatable({ home = home, scheme = host and "https" or "http" }, Hub)
  assert(shell("mkdir -p %s/root %s/cache", home, home))
  if host then
    assert(shell("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=hub -addext subjectAltName=%s " ..
      "-keyout %s/key -out %s/authority 2>/dev/null && cat %s/key %s/authority >%s/certificate", host, home, home, home,
      home, home))
  end
  local pipe = assert(io.popen(("python3 tests/lua/hub_server.py %s/root %s/port %s/log %s >%s/errors 2>&1 & echo $!")
    :format(home, home, home, host and home .. "/certificate" or "", home)))
  self.pid = pipe:read("n")
  pipe:close()
  for _ = 1, 200 do
    self.port = read(home .. "/port")
    if self.port then return self end
    os.execute("sleep 0.05")
  end
  error("the server does not start: " .. tostring(read(home .. "/errors")))
end

function Hub:stop()
  shell("kill %d; rm -rf %s", self.pid, self.home)
end

function Hub:environment(more)
  return ("env -u HF_TOKEN -u HF_HOME -u http_proxy -u HTTP_PROXY -u https_proxy -u HTTPS_PROXY -u all_proxy " ..
    "-u ALL_PROXY -u CURL_CA_BUNDLE -u SSL_CERT_FILE -u REQUESTS_CA_BUNDLE no_proxy='*' " ..
    "HF_ENDPOINT=%s://127.0.0.1:%s HF_HUB_CACHE=%s/cache %s"):format(self.scheme, self.port, self.home, more or "")
end

-- Pulls ORG/NAME: whether it worked, and what was said.
function Hub:pull(id, file, more)
  os.remove(self.home .. "/log")
  local code = ("pl.pull(%q, { file = %s, wait = 0.01 })"):format(id, file and ("%q"):format(file) or "nil")
  local status, out, err = program.run({ "-e", code }, nil, self:environment(more))
  return status == 0, err, out
end

function Hub:blob(id, name) return read(("%s/cache/models--%s/snapshots/%s/%s"):format(self.home,
  id:gsub("/", "--"), commit, name)) end

function Hub:log() return read(self.home .. "/log") or "" end

-- The names in the cache's folder of a model that end so.
function Hub:left(id, ending)
  local pipe = io.popen(("find %s/cache/models--%s -name '*%s' 2>/dev/null"):format(self.home,
    (id:gsub("/", "--")), ending))
  local text = pipe:read("a")
  pipe:close()
  return text
end

describe("pull", function()
  local hub
  local weights = ("0123456789abcdef"):rep(20000)

  -- Before all tests here; pending where there is no server.
  setup(function() hub = start_hub() end)
  teardown(function() if hub then hub:stop() end end)

  local function with_hub(what, test)
    it(what, function()
      if not hub then return pending("python3 is not here") end
      test()
    end)
  end

  local function publish(id, name, text) write(("%s/root/%s/%s"):format(hub.home, id, name), text or weights) end

  -- Expects a failure whose message has this in it, and no file in the end.
  local function refuses(id, expected, file, more)
    local good, err = hub:pull(id, file, more)
    assert.is_false(good, id)
    assert.is_truthy(err:find(expected, 1, true), err)
    assert.is_falsy(err:find("[\27\a]"), err)
    assert.is_nil(hub:blob(id, file or "model.gguf"))
    return err
  end

  with_hub("brings a model that loads by its id, as the program says", function()
    local path = os.tmpname()
    os.remove(path)
    tiny.model(pl):save(path, { format = "safetensors" })
    shell("mkdir -p %s/root/org && cp -r %s %s/root/org/tiny && rm -r %s", hub.home, path, hub.home, path)
    publish("org/tiny", "README.md")
    publish("org/tiny", "onnx/model.gguf")
    local status, out, err = program.run({ "pull", "org/tiny" }, nil, hub:environment())
    assert.are.equal("", err)
    assert.are.equal(0, status)
    assert.is_truthy(out:find("perilune generate -m org/tiny", 1, true), out)
    assert.is_nil(hub:blob("org/tiny", "README.md"))
    assert.are.equal(commit, read(hub.home .. "/cache/models--org--tiny/refs/main"))
    local link = io.popen(("readlink %s/cache/models--org--tiny/snapshots/%s/model.safetensors"):format(hub.home,
      commit))
    assert.is_truthy(link:read("a"):find("^%.%./%.%./blobs/%x+\n$"))
    link:close()
    local shown
    status, shown, err = program.run({ "inspect", "-m", "org/tiny" }, nil, hub:environment())
    assert.are.equal(0, status, err)
    assert.is_truthy(shown:find("^org/tiny\n"), shown)
    -- A second time nothing is downloaded.
    status, out = program.run({ "pull", "org/tiny" }, nil, hub:environment())
    assert.are.equal(0, status)
    assert.is_truthy(out:find("model.safetensors%s.-, was there"), out)
  end)

  with_hub("brings the one GGUF file, or asks which", function()
    publish("org/one", "model.gguf")
    assert.is_true(hub:pull("org/one"))
    assert.are.equal(weights, hub:blob("org/one", "model.gguf"))
    publish("org/many", "a-q4.gguf")
    publish("org/many", "b-q8.gguf")
    local good, err = hub:pull("org/many")
    assert.is_false(good)
    assert.is_truthy(err:find("2 models; name one", 1, true) and err:find("a-q4.gguf", 1, true)
      and err:find("b-q8.gguf", 1, true), err)
    assert.is_true(hub:pull("org/many", "b-q8.gguf"))
    assert.are.equal(weights, hub:blob("org/many", "b-q8.gguf"))
    assert.is_nil(hub:blob("org/many", "a-q4.gguf"))
    good, err = hub:pull("org/many", "b-q9.gguf")
    assert.is_false(good)
    assert.is_truthy(err:find("did you mean", 1, true), err)
    publish("org/deep", "in a folder/m.gguf")
    assert.is_true(hub:pull("org/deep", "in a folder/m.gguf"))
    assert.are.equal(weights, hub:blob("org/deep", "in a folder/m.gguf"))
    publish("org/parts", "m-00001-of-00002.gguf")
    publish("org/parts", "m-00002-of-00002.gguf", "second")
    assert.is_true(hub:pull("org/parts"))
    assert.are.equal("second", hub:blob("org/parts", "m-00002-of-00002.gguf"))
    publish("org/torch", "pytorch_model.bin")
    refuses("org/torch", "pytorch_model.bin, which perilune does not read")
    publish("org/empty", "config.json", "")
    assert.is_true(hub:pull("org/empty", "config.json"))
    assert.are.equal("", hub:blob("org/empty", "config.json"))
  end)

  with_hub("brings what says how a text's vector is made, and what an adapter is", function()
    publish("org/sentences", "model.safetensors")
    publish("org/sentences", "1_Pooling/config.json", "{}")
    publish("org/sentences", "2_Dense/config.json", "{}")
    assert.is_true(hub:pull("org/sentences"))
    assert.are.equal("{}", hub:blob("org/sentences", "1_Pooling/config.json"))
    assert.is_nil(hub:blob("org/sentences", "2_Dense/config.json"))
    local base, folder = tiny.model(pl), os.tmpname()
    os.remove(folder)
    base:new_adapter({ rank = 2 }):save(folder)
    assert(shell("mkdir -p %s/root/org && mv %s %s/root/org/adapter", hub.home, folder, hub.home))
    assert.is_true(hub:pull("org/adapter"))
    base:save(hub.home .. "/base.gguf")
    local status, out, err = program.run({ "generate", "-m", hub.home .. "/base.gguf", "--adapter", "org/adapter:0.5",
      "-n", "3", "the" }, nil, hub:environment())
    assert.are.equal(0, status, err)
    assert.is_true(#out > 3)
    local failed, _, why = program.run({ "generate", "-m", hub.home .. "/base.gguf", "--adapter", "org/adaptor", "x" },
      nil, hub:environment())
    assert.are_not.equal(0, failed)
    assert.is_truthy(why:find("did you mean org/adapter?", 1, true), why)
  end)

  with_hub("brings the shards that an index names, and none that the hub lacks", function()
    local index = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    publish("org/shards", "model.safetensors.index.json", index)
    publish("org/shards", "model-00001-of-00002.safetensors", "first")
    publish("org/shards", "model-00002-of-00002.safetensors", "second")
    assert.is_true(hub:pull("org/shards"))
    assert.are.equal("second", hub:blob("org/shards", "model-00002-of-00002.safetensors"))
    assert.are.equal(index, hub:blob("org/shards", "model.safetensors.index.json"))
    publish("org/astray", "model.safetensors.index.json", '{"weight_map": {"a": "../../../../evil"}}')
    refuses("org/astray", "../../../../evil: no such file on the hub")
  end)

  with_hub("goes on where the connection dropped", function()
    publish("org/drops", "model.gguf")
    assert.is_true(hub:pull("org/drops"))
    assert.are.equal(weights, hub:blob("org/drops", "model.gguf"))
    assert.is_truthy(hub:log():find("bytes=160000-", 1, true), hub:log())
    assert.is_truthy(hub:log():find("bytes=280000-", 1, true), hub:log())
    assert.are.equal("", hub:left("org/drops", ".incomplete"))
  end)

  with_hub("goes on in a later pull, after one that gave up", function()
    publish("org/always", "model.gguf")
    refuses("org/always", "5 tries")
    publish("org/later", "model.gguf")
    local _, _, digest = hub:pull("org/later")
    assert.are.equal("", digest)
    local blob = hub:left("org/later", ""):match("(%S+/blobs/%x+)\n")
    assert(shell("head -c 1000 %s > %s.incomplete && rm %s", blob, blob, blob))
    assert.is_true(hub:pull("org/later"))
    assert.is_truthy(hub:log():find("bytes=1000-", 1, true), hub:log())
    assert.are.equal(weights, hub:blob("org/later", "model.gguf"))
    -- What lies there may be wrong: then it begins again.
    write(blob .. ".incomplete", ("x"):rep(2000))
    os.remove(blob)
    assert.is_true(hub:pull("org/later"))
    assert.are.equal(weights, hub:blob("org/later", "model.gguf"))
  end)

  with_hub("leaves at Ctrl-C what the next pull goes on with", function()
    publish("org/slow", "model.gguf")
    local status = program.run({ "pull", "org/slow" }, nil, hub:environment("timeout -s INT 1"))
    assert.are.equal(124, status)
    assert.are_not.equal("", hub:left("org/slow", ".incomplete"))
    assert.is_true(hub:pull("org/slow"))
    assert.is_truthy(hub:log():find("bytes=160000-", 1, true), hub:log())
    assert.are.equal(weights, hub:blob("org/slow", "model.gguf"))
  end)

  with_hub("begins again where the server takes no Range, and refuses another part", function()
    publish("org/norange", "model.gguf")
    assert.is_true(hub:pull("org/norange"))
    assert.are.equal(weights, hub:blob("org/norange", "model.gguf"))
    publish("org/shift", "model.gguf")
    refuses("org/shift", "another part of the file")
  end)

  with_hub("refuses wrong bytes, sizes and digests", function()
    for fault, expected in pairs {
      wrong = "not those that the hub promised (SHA-256", more = "more than it said", less = "320000 bytes came",
      huge = "expected bytes up to", etag = "expected a SHA-1 or SHA-256", loop = "over 5 redirects",
      file = "file:///etc/passwd is no address",
    } do
      publish("org/" .. fault, "model.gguf")
      refuses("org/" .. fault, expected)
      assert.are.equal("", hub:left("org/" .. fault, ".incomplete"))
    end
    assert.is_nil(read(hub.home .. "/evil"))
  end)

  with_hub("leaves names out that lead elsewhere", function()
    publish("org/names", "model.gguf")
    assert.is_true(hub:pull("org/names"))
    assert.are.equal(weights, hub:blob("org/names", "model.gguf"))
    for _, name in ipairs { "../../evil.gguf", "/etc/evil", "a/../b", "a//b", "", ".", "a\nb" } do
      local good = hub:pull("org/names", name)
      assert.is_false(good, name)
    end
    for _, id in ipairs { "../x", "a/b/c", "/etc", "a--b/c", "a b", "" } do
      local good, err = hub:pull(id)
      assert.is_false(good)
      assert.is_truthy(err:find("expected a hub id", 1, true), err)
    end
    assert.are.equal("", hub:log())
  end)

  with_hub("sends the token to the hub, and to nobody else", function()
    publish("org/moved", "model.gguf")
    assert.is_true(hub:pull("org/moved", nil, "HF_TOKEN=secret"))
    assert.are.equal(weights, hub:blob("org/moved", "model.gguf"))
    local asked = 0
    for line in hub:log():gmatch("[^\n]+") do
      local elsewhere = line:find("^%u+ localhost")
      asked = asked + (elsewhere and 1 or 0)
      assert.are.equal(not elsewhere, line:find("Bearer:secret", 1, true) ~= nil, line)
    end
    assert.is_true(asked > 0)
    publish("org/open", "model.gguf")
    assert.is_true(hub:pull("org/open"))
    assert.is_falsy(hub:log():find("Bearer", 1, true))
    refuses("org/open2", "HF_TOKEN: expected", nil, "HF_TOKEN='a b'")
  end)

  with_hub("explains what the hub refuses, and tries again where that may help", function()
    refuses("org/e401", "set HF_TOKEN")
    refuses("org/e403", "accept its terms")
    refuses("org/e404", "no such model or file")
    refuses("org/e429", "too many requests")
    refuses("org/e500", "a fault of its own")
    refuses("org/nonsense", "does not answer as a hub does")
    publish("org/passing", "model.gguf")
    assert.is_true(hub:pull("org/passing"))
    local good, err = hub:pull("org/one", nil, "HF_ENDPOINT=http://127.0.0.1:9")
    assert.is_false(good)
    assert.is_truthy(err:find("5 tries", 1, true), err)
    good, err = hub:pull("org/one", nil, "HF_ENDPOINT=ftp://127.0.0.1")
    assert.is_false(good)
    assert.is_truthy(err:find("HF_ENDPOINT", 1, true), err)
  end)

  with_hub("says that the disk is full, and keeps what has come", function()
    publish("org/full", "model.gguf")
    local code = 'pl.pull("org/full", { wait = 0.01 })'
    local _, _, status = shell("trap '' XFSZ; ulimit -f 100; %s %s -e '%s' 2>%s/said", hub:environment(), program.path,
      code, hub.home)
    assert.are.equal(1, status)
    assert.is_truthy(read(hub.home .. "/said"):find("model.gguf: File too large", 1, true), read(hub.home .. "/said"))
    assert.is_true(hub:pull("org/full"))
    assert.are.equal(weights, hub:blob("org/full", "model.gguf"))
    assert.is_truthy(hub:log():find("bytes=%d+-"), hub:log())
  end)

  it("speaks HTTPS with those alone whose certificate holds, and never leaves it", function()
    local other = start_hub("IP:127.0.0.1")
    if not other then return pending("python3 or openssl is not here") end
    local saved <const> = hub
    hub = other
    finally(function() hub = saved other:stop() end)
    publish("org/one", "model.gguf")
    for _, name in ipairs { "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE" } do
      assert.is_true(hub:pull("org/one", nil, ("%s=%s/authority"):format(name, hub.home)))
      assert.are.equal(weights, hub:blob("org/one", "model.gguf"))
      shell("rm -r %s/cache/*", hub.home)
    end
    assert.is_falsy(refuses("org/one", "SSL_CERT_FILE names a file of other authorities"):find("tries", 1, true))
    refuses("org/one", "/nowhere", nil, "SSL_CERT_FILE=/nowhere")
    publish("org/moved", "model.gguf")
    refuses("org/moved", "expected https", nil, ("SSL_CERT_FILE=%s/authority HF_TOKEN=secret"):format(hub.home))
    assert.are.equal("", hub:left("org/one", ".incomplete"))
  end)

  it("refuses a certificate that is for another host", function()
    local other = start_hub("DNS:elsewhere")
    if not other then return pending("python3 or openssl is not here") end
    local saved <const> = hub
    hub = other
    finally(function() hub = saved other:stop() end)
    publish("org/one", "model.gguf")
    refuses("org/one", "127.0.0.1", nil, ("SSL_CERT_FILE=%s/authority"):format(hub.home))
    assert.are.equal("", hub:log())
  end)
end)
