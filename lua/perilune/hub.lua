-- pl.pull: downloads a model from a Hugging Face-compatible hub into the cache that pl.load looks in.
--
--   models--ORG--NAME/blobs/ETAG                      the bytes; ETAG.incomplete until they are all there
--   models--ORG--NAME/snapshots/COMMIT/FILE           a link to ../../blobs/ETAG
--   models--ORG--NAME/refs/main                       the commit
--
-- What the server says is not trusted: names, sizes and digests are checked.

local names = require "perilune.hub_names"

local most_bytes = 1 << 40
local most_redirects, most_tries, most_choices = 5, 5, 20

local Hub = {}
Hub.__index = Hub

local problems = {
  [401] = "the hub wants a token for it: set HF_TOKEN to yours%s",
  [403] = "access is refused; the model's page may ask you to accept its terms first%s",
  [404] = "there is no such model or file, or it is private and HF_TOKEN is not that of a reader%s",
  [429] = "the hub has had too many requests; try again later%s",
}

return function(pl, core)
  local function get(name)
    local value = os.getenv(name)
    return value ~= "" and value or nil
  end

  local function fail_status(what, answer)
    local said = answer.headers["x-error-message"]
    said = said and (" (it says: %s)"):format(names.shown(said)) or ""
    local text = problems[answer.status]
      or answer.status >= 500 and "the server has a fault of its own; try again later%s"
      or "an answer that was not expected%s"
    pl.fail("io", "%s: HTTP %d: " .. text, what, answer.status, said)
  end

  -- -- requests -----------------------------------------------------------------------------------

  -- One request, along its redirects. The token goes to the endpoint only; https stays https.
  -- Gives the answer, and what the answers on the way and at the end said of the file.
  function Hub:ask(what, request)
    local url, said = request.url, {}
    for _ = 0, most_redirects do
      local there = core.origin(url) or pl.fail("io", "%s: %s is no address", what, names.shown(url))
      if not there:find("^https:") and (self.secure or not there:find("^http:")) then
        pl.fail("io", "%s: the server redirects to %s: expected %s", what, names.shown(url),
          self.secure and "https" or "http or https")
      end
      local headers = { "Accept-Encoding: identity" }
      if self.token and there == self.origin then
        headers[2] = "Authorization: Bearer " .. self.token
      end
      local answer = core.http { url = url, method = request.method, headers = headers, secure = self.secure,
        file = request.file, most = request.most, on_progress = request.on_progress }
      answer.message = answer.message and names.shown(answer.message)
      for key, value in pairs(answer.headers) do
        if not key:find("^x%-") or not said[key] then said[key] = value end
      end
      local moved = answer.status >= 300 and answer.status < 400 and answer.redirect
      if not moved or answer.problem then return answer, said end
      -- A link to where the bytes lie; what they are is known already.
      if request.method == "HEAD" and said["x-linked-etag"] then return answer, said end
      url = moved
    end
    pl.fail("io", "%s: over %d redirects", what, most_redirects)
  end

  local function is_passing(answer)
    if answer.problem then return answer.problem == "connection" end
    return answer.status == 429 or answer.status >= 500 or answer.status == 408
  end

  -- The same, again after a pause where the fault may pass. An answer that brought new bytes begins the
  -- count anew.
  function Hub:insist(what, request)
    local tries, before = 1, request.file and core.file_size(request.file) or 0
    while true do
      local answer, said = self:ask(what, request)
      if not is_passing(answer) then return answer, said end
      if request.file and answer.received > before and answer.status < 300 then tries = 1 end
      before = math.max(before, answer.received)
      if tries == most_tries then
        if not answer.problem then fail_status(what, answer) end
        pl.fail("io", "%s: %s (%d tries)%s", what, answer.message, most_tries,
          request.file and "; what has come is kept, and the next pull goes on from there" or "")
      end
      local wait = self.wait * 2 ^ (tries - 1)
      local asked = tonumber(answer.headers["retry-after"])
      if asked and asked > wait then wait = math.min(asked, 60) end
      self.note(("%s: %s; again in %.3g s"):format(what, answer.message or "HTTP " .. answer.status, wait))
      core.pause(wait)
      tries = tries + 1
    end
  end

  local explained = {
    range = "the server answers with another part of the file than was asked for",
    size = "the server sends more than it said it would",
    protocol = "the server does not answer in HTTP",
    headers = "the server sends more headers than a hub does",
  }

  local function check(what, answer)
    if answer.problem then
      pl.fail("io", "%s: %s%s", what, explained[answer.problem] or answer.message,
        answer.problem == "certificate" and "; SSL_CERT_FILE names a file of other authorities" or "")
    end
    if answer.status ~= 200 and answer.status ~= 206 then fail_status(what, answer) end
    return answer
  end

  -- The commit, and the names of the model's files, those alone that are safe.
  function Hub:list(id, revision)
    local answer = check(id, (self:insist(id, { url = ("%s/api/models/%s/revision/%s"):format(self.endpoint, id,
      names.escape(revision)), most = 1 << 25 })))
    local good, info = pcall(pl.json.decode, answer.body)
    local commit = good and type(info) == "table" and info.sha
    if type(commit) ~= "string" or not commit:find("^%x+$") or #commit ~= 40 or type(info.siblings) ~= "table" then
      pl.fail("format", "%s: %s does not answer as a hub does: expected JSON with sha and siblings", id, self.endpoint)
    end
    local files = {}
    for _, item in ipairs(info.siblings) do
      local name = type(item) == "table" and item.rfilename
      if names.is_safe(name) then files[#files + 1] = name end
    end
    return commit, files
  end

  -- What a file is: {etag, size, digest, url}.
  function Hub:describe(id, commit, name)
    local what = id .. ": " .. name
    local url = ("%s/%s/resolve/%s/%s"):format(self.endpoint, id, commit, names.escape(name))
    local answer, said = self:insist(what, { url = url, method = "HEAD" })
    if answer.problem or answer.status < 300 or answer.status >= 400 then check(what, answer) end
    local etag = (said["x-linked-etag"] or said.etag or ""):gsub("^W/", ""):gsub('"', "")
    local size = math.tointeger(tonumber(said["x-linked-size"] or said["content-length"]))
    if not etag:find("^%x+$") or (#etag ~= 40 and #etag ~= 64) then
      pl.fail("format", "%s: ETag %s: expected a SHA-1 or SHA-256 to check the file by", what, names.shown(etag))
    end
    if not size or size < 0 or size > most_bytes then
      pl.fail("format", "%s: size %s: expected bytes up to %d", what,
        names.shown(said["x-linked-size"] or said["content-length"] or "unknown"), most_bytes)
    end
    if said["x-repo-commit"] and said["x-repo-commit"] ~= commit then
      pl.fail("format", "%s: commit %s: expected %s", what, names.shown(said["x-repo-commit"]), commit)
    end
    return { name = name, what = what, etag = etag:lower(), size = size, url = url }
  end

  -- -- the cache ----------------------------------------------------------------------------------

  local function make_folders(path)
    local at = path:sub(1, 1) == "/" and "" or "."
    for part in path:gmatch("[^/]+") do
      at = at .. "/" .. part
      if not core.make_folder(at) then pl.fail("io", "%s: the folder cannot be made", at) end
    end
  end

  local function write_file(path, text)
    local other = path .. ".tmp"
    local file, why = io.open(other, "wb")
    local good = file and file:write(text)
    if file then good = file:close() and good end
    if good then good, why = os.rename(other, path) end
    if not good then pl.fail("io", "%s: %s", path, why or "cannot be written") end
  end

  -- Whether the bytes are those that the hub's ETag stands for: SHA-256, or Git's SHA-1 of a blob.
  function Hub:is_right(path, file)
    local tell = function(done) self.progress(file, done, true) end
    local digest = #file.etag == 64 and core.file_digest(path, "sha256", "", tell)
      or core.file_digest(path, "sha1", ("blob %d\0"):format(file.size), tell)
    return digest == file.etag
  end

  -- Brings a file's bytes to blobs/ETAG.
  function Hub:bring(folder, file)
    local path = ("%s/blobs/%s"):format(folder, file.etag)
    if core.file_size(path) == file.size then return path, true end
    local partial = path .. ".incomplete"
    for try = 1, 2 do
      local held = core.file_size(partial)
      if held and held > file.size then os.remove(partial) end
      local resumed = (core.file_size(partial) or 0) > 0
      if core.file_size(partial) ~= file.size or file.size == 0 then
        local good, answer = pcall(self.insist, self, file.what, { url = file.url, file = partial, most = file.size,
          on_progress = function(bytes) self.progress(file, bytes) end })
        if not good then
          if core.file_size(partial) == 0 then os.remove(partial) end
          error(answer, 0)
        end
        if answer.status == 416 and resumed then
          os.remove(partial)
          goto again
        end
        if answer.problem == "size" or answer.problem == "range" then os.remove(partial) end
        check(file.what, answer)
        if answer.received ~= file.size then
          os.remove(partial)
          pl.fail("io", "%s: %d bytes came, expected %d", file.what, answer.received, file.size)
        end
      end
      if self:is_right(partial, file) then
        local good, why = os.rename(partial, path)
        if not good then pl.fail("io", "%s: %s", path, why) end
        return path, false
      end
      os.remove(partial)
      -- What an earlier pull left may be at fault: once more, from the beginning.
      if not resumed or try == 2 then break end
      ::again::
    end
    pl.fail("io", "%s: the bytes that came are not those that the hub promised (%s %s); they are thrown away",
      file.what, #file.etag == 64 and "SHA-256" or "SHA-1", file.etag)
  end

  function Hub:fetch(id, commit, folder, name, list)
    local file = self:describe(id, commit, name)
    local _, was_there = self:bring(folder, file)
    local snapshot = folder .. "/snapshots/" .. commit
    make_folders((snapshot .. "/" .. name):match("^(.*)/"))
    local _, deep = name:gsub("/", "")
    core.link_file(("../"):rep(2 + deep) .. "blobs/" .. file.etag, snapshot .. "/" .. name)
    self.done(file, was_there)
    list[#list + 1] = { name = name, size = file.size, path = snapshot .. "/" .. name, was_there = was_there }
  end

  -- -- what to bring ------------------------------------------------------------------------------

  local function has(list, name)
    for _, item in ipairs(list) do
      if item == name then return true end
    end
    return false
  end

  -- The shards that an index names, all of them among the hub's files.
  local function shards(what, path, files)
    local good, index = pcall(pl.json.decode, pl.read_file(path), what)
    local map = good and type(index) == "table" and index.weight_map
    if type(map) ~= "table" then pl.fail("format", "%s: expected JSON with a weight_map", what) end
    local list, there = {}, {}
    for _, name in ipairs(files) do there[name] = "new" end
    for _, name in pairs(map) do
      if type(name) ~= "string" or not there[name] then
        pl.fail("format", "%s: %s: no such file on the hub", what,
          type(name) == "string" and names.shown(name) or "a name that is no text")
      end
      if there[name] == "new" then list[#list + 1], there[name] = name, "listed" end
    end
    table.sort(list)
    return list
  end

  local function fail_choice(id, choices, files)
    if #choices > 0 then
      local shown = table.move(choices, 1, math.min(#choices, most_choices), 1, {})
      if #choices > #shown then shown[#shown + 1] = ("and %d more"):format(#choices - #shown) end
      pl.fail("argument", "%s has %d models; name one of them, as in `perilune pull %s %s`:\n  %s", id, #choices, id,
        choices[1], table.concat(shown, "\n  "))
    end
    local other = has(files, "pytorch_model.bin") and " (but pytorch_model.bin, which perilune does not read)" or ""
    pl.fail("unsupported", "%s: no safetensors and no GGUF file there%s", id, other)
  end

  -- Checks what a caller named, and gives the hub to ask.
  local function open(id, opts)
    if type(id) ~= "string" or not names.is_id(id) then
      pl.fail("argument", "%s: expected a hub id, ORG/NAME", names.shown(id))
    end
    if opts.file and not names.is_safe(opts.file) then
      pl.fail("argument", "%s: expected the name of a file on the hub", names.shown(opts.file))
    end
    local endpoint = (get("HF_ENDPOINT") or "https://huggingface.co"):gsub("/+$", "")
    local origin = core.origin(endpoint)
    if not origin or not endpoint:find("^[Hh][Tt][Tt][Pp][Ss]?://") then
      pl.fail("argument", "HF_ENDPOINT = %s: expected an address such as https://huggingface.co", names.shown(endpoint))
    end
    local token = get("HF_TOKEN")
    if token and token:find("[^\33-\126]") then
      pl.fail("argument", "HF_TOKEN: expected printable characters without spaces")
    end
    local nothing = function() end
    return setmetatable({ endpoint = endpoint, origin = origin, secure = origin:find("^https:") ~= nil, token = token,
      wait = opts.wait or 1, progress = opts.on_progress or nothing, done = opts.on_file or nothing,
      note = opts.on_note or nothing }, Hub)
  end

  -- Downloads what loading the model needs, or one file; goes on where an earlier pull was cut off.
  function pl.pull(id, opts)
    opts = pl.check_options("pull", opts, { "file", "revision", "wait", "on_progress", "on_file", "on_note" })
    local hub, revision = open(id, opts), opts.revision or "main"
    if type(revision) ~= "string" or not names.is_revision(revision) then
      pl.fail("argument", "revision = %s: expected a branch, a tag or a commit", names.shown(revision))
    end
    local cache = core.hub_folder() or pl.fail("io", "no cache: none of HF_HUB_CACHE, HF_HOME and HOME is set")
    local commit, files = hub:list(id, revision)
    if opts.file and not has(files, opts.file) then
      local near = pl.nearest(opts.file, files)
      pl.fail("io", "%s: no file %s there%s", id, opts.file, near and (", did you mean %s?"):format(near) or "")
    end
    local wanted, index, choices
    if opts.file then wanted = names.parts(opts.file) else wanted, index, choices = names.needed(files) end
    if not wanted then fail_choice(id, choices, files) end
    local folder = cache .. "/models--" .. id:gsub("/", "--")
    make_folders(folder .. "/blobs")
    local list = {}
    if index then
      hub:fetch(id, commit, folder, index, list)
      for _, name in ipairs(shards(id .. ": " .. index, list[1].path, files)) do wanted[#wanted + 1] = name end
    end
    for _, name in ipairs(wanted) do hub:fetch(id, commit, folder, name, list) end
    if revision ~= commit then
      make_folders((folder .. "/refs/" .. revision):match("^(.*)/"))
      write_file(folder .. "/refs/" .. revision, commit)
    end
    return { id = id, commit = commit, folder = folder .. "/snapshots/" .. commit, files = list }
  end
end
