-- Plugins: samplers in files that lie in one of these folders, the first of a name counting:
--
--     the folders of $PERILUNE_PLUGIN_PATH, separated by colons
--     $XDG_DATA_HOME/perilune/plugins, which is ~/.local/share/perilune/plugins otherwise
--     plugins/ beside the program; PREFIX/lib/perilune/plugins where it is installed; plugins/ of
--     pl.home
--
-- A .so is a library with the ABI of plugins/perilune_plugin.h. A .lua returns a definition as
-- pl.sampler takes it, or a list of them. They are loaded when a chain names a sampler that is not
-- built in, or when somebody asks for the list.

return function(pl, core)
  local builder = core.chain_builder
  local plugins = {}
  pl.plugins = plugins

  local found -- entries {name, path, kind, ...} or {path, problem}; nil until loaded

  --- The folders that are looked into.
  function plugins.folders()
    local list, seen = {}, {}
    local function add(folder)
      if folder and folder ~= "" and not seen[folder] then
        seen[folder] = true
        list[#list + 1] = folder
      end
    end
    for folder in (os.getenv("PERILUNE_PLUGIN_PATH") or ""):gmatch("[^:]+") do add(folder) end
    local data, home = os.getenv("XDG_DATA_HOME"), os.getenv("HOME")
    if data and data ~= "" then add(data .. "/perilune/plugins")
    elseif home and home ~= "" then add(home .. "/.local/share/perilune/plugins") end
    local own = core.own_folder()
    if own then add(own .. "/plugins") end
    local prefix = pl.home:match("^(.*)/share/perilune$")
    if prefix then add(prefix .. "/lib/perilune/plugins") end
    add(pl.home .. "/plugins")
    return list
  end

  -- -- loading ------------------------------------------------------------------------------

  local function message_of(problem)
    return type(problem) == "table" and rawget(problem, "message") or tostring(problem)
  end

  local function by_name(name)
    for _, entry in ipairs(found) do
      if entry.name == name then return entry end
    end
  end

  local function register(def, path)
    if type(def) ~= "table" then
      pl.fail("argument", "it returns a %s: expected a sampler's definition", type(def))
    end
    local taken = type(def.name) == "string" and by_name(def.name)
    if taken then pl.fail("argument", "the name '%s' is taken by %s", def.name, taken.path) end
    if builder.registered[def.name or ""] then
      pl.fail("argument", "the name '%s' is taken by a sampler of the script", def.name)
    end
    builder.register(def, path)
    local known = builder.registered[def.name]
    local params = {}
    for name, spec in pairs(known.params) do
      params[#params + 1] = { name = name, neutral = spec.neutral, min = spec.min, max = spec.max,
        help = spec.help or "" }
    end
    table.sort(params, function(a, b) return a.name < b.name end)
    found[#found + 1] = { name = def.name, summary = def.summary or "", params = params, path = path,
      chooses = def.chooses or false, kind = "lua" }
  end

  local function load_lua(path)
    local chunk, why = loadfile(path, "t")
    if not chunk then pl.fail("format", "%s", why) end
    local result = chunk()
    if type(result) ~= "table" or result.name or result.apply then return register(result, path) end
    for _, def in ipairs(result) do register(def, path) end
  end

  local function load_file(path)
    if path:find("%.lua$") then
      local good, problem = pcall(load_lua, path)
      if not good then found[#found + 1] = { path = path, problem = message_of(problem) } end
      return
    end
    local plugin, problem = core.load_plugin(path)
    if not plugin then
      found[#found + 1] = { path = path, problem = problem }
      return
    end
    plugin.kind = "library"
    found[#found + 1] = plugin
  end

  local function load_all()
    found = {}
    local files = {} -- a file that two folders share, by a link or by name, is loaded once
    for _, folder in ipairs(plugins.folders()) do
      local names = core.list_folder(folder) or {}
      table.sort(names)
      for _, name in ipairs(names) do
        name = name:gsub("/$", "") -- a folder of that name is refused in words
        local path = folder .. "/" .. name
        if (name:find("%.so$") or name:find("%.lua$")) and not files[path] then
          files[path] = true
          load_file(path)
        end
      end
    end
  end

  --- What was found: {name, summary, params, path, kind = "library"|"lua"}, or {path, problem} for
  --- what was refused.
  function plugins.list()
    if not found then load_all() end
    local list = {}
    for i, entry in ipairs(found) do list[i] = entry end
    return list
  end

  --- Loads everything anew: files that changed, came or went. Chains that exist keep what they have.
  function plugins.reload()
    for name, def in pairs(builder.registered) do
      if def.source then builder.registered[name] = nil end
    end
    core.clear_plugins()
    load_all()
    return plugins.list()
  end

  --- Loads one file from anywhere.
  function plugins.load(path)
    if type(path) ~= "string" then pl.fail("argument", "plugins.load: expected a path, got a %s", type(path)) end
    if not found then load_all() end
    local n = #found
    load_file(path)
    local entry = found[n + 1]
    if entry.problem then
      found[n + 1] = nil
      pl.fail("argument", "%s", entry.problem)
    end
    return entry
  end

  function builder.find_plugin(name)
    if not found then load_all() end
    return by_name(name)
  end

  --- Names of all samplers that are no built-in ones, for messages.
  function builder.other_names()
    local names = {}
    for name in pairs(builder.registered) do names[#names + 1] = name end
    for _, entry in ipairs(plugins.list()) do
      if entry.kind == "library" then names[#names + 1] = entry.name end
    end
    return names
  end
end
