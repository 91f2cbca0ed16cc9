-- A folder for a spec's files: made when it is first asked for, gone with the block of tests.
--
--   local scratch = require "tests.lua.scratch"(teardown)   -- busted's, of the describe or the file
--   local path = scratch.write("a.txt", "some text")
--   scratch.read("a.txt")                                  -- nil where there is none
return function(teardown)
  local scratch, folder = {}, nil

  -- The path of a file in the folder, or of the folder.
  function scratch.at(name)
    if not folder then
      folder = os.tmpname()
      os.remove(folder)
      assert(os.execute("mkdir " .. folder))
    end
    return name and folder .. "/" .. name or folder
  end

  -- Writes a file, and the folders above it; returns its path.
  function scratch.write(name, text)
    local path = scratch.at(name)
    if name:find("/") then assert(os.execute(("mkdir -p '%s'"):format(path:match("^(.*)/")))) end
    local file <close> = assert(io.open(path, "wb"))
    assert(file:write(text))
    return path
  end

  function scratch.read(name)
    local file <close> = io.open(scratch.at(name), "rb")
    return file and file:read("a")
  end

  teardown(function()
    if folder then os.execute(("rm -rf '%s'"):format(folder)) end
    folder = nil
  end)
  return scratch
end
