std = "lua54"
max_line_length = 120
files["tests/lua"] = { std = "lua54+busted" }
files["lua/perilune/meta"] = { ignore = { "111", "112", "113", "211", "212", "241", "631" } }
