---@meta

-- Constraints: grammars, regular expressions, JSON Schemas; and JSON itself.

local pl = {}

--- A grammar at the beginning of a text: GBNF, or the path of a file with it (what has no `::=` is a
--- path). With a model or tokenizer it also knows which tokens may come next. See `perilune.Grammar`.
---@param text string
---@param owner? perilune.Model|perilune.Tokenizer
---@return perilune.Grammar
function pl.grammar(text, owner) end

---@param value any
---@return boolean
function pl.is_grammar(value) end

--- The GBNF of a regular expression, which the whole text must match: literals, `.`, classes with
--- `\d \w \s \D \W \S`, groups, `|`, `* + ? {m} {m,} {m,n}`, `^` at the beginning and `$` at the end.
--- Anything else is an error that names it.
---@param pattern string
---@return string gbnf
function pl.regex_grammar(pattern) end

--- The GBNF of a JSON Schema (draft 2020-12). Keywords that are not supported are errors that name
--- them and their place.
---@param schema table|boolean|string the schema, or its text
---@param opts? {whitespace?: boolean} whitespace = false: no spaces but in strings
---@return string gbnf
function pl.json_schema_grammar(schema, opts) end

--- The name of the option among `grammar`, `regex` and `json_schema` that is set, or nil; two are an
--- error.
---@param opts table
---@return string?
function pl.constraint_name(opts) end

--- The grammar that options of `generate` ask for, or nil.
---@param opts {grammar?: string|perilune.Grammar, regex?: string, json_schema?: table|string}
---@param tokenizer perilune.Tokenizer
---@return perilune.Grammar?
function pl.constraint(opts, tokenizer) end

--- A template in Jinja as chat templates use it: a function from variables to the text. What it does
--- not have is an error that names it and its line; no template can hang.
---@param source string
---@return fun(variables: table): string
function pl.jinja(source) end

--- A conversation for models without a chat template: "User: ...\nAssistant: ...".
---@param messages table|string
---@param opts? {add_generation_prompt?: boolean}
---@return string
function pl.plain_chat(messages, opts) end

--- Where a text stands in a grammar. In a chain of samplers it removes what may not come next, and
--- moves on with what the chain accepts; `generate` works with copies, so that a script's own stays.
---@class perilune.Grammar
---@field may_end boolean the text may end here
---@field may_go_on boolean there is something that may follow
---@field ended boolean an end-of-text token was accepted
local Grammar = {}

--- Moves on by a token or by a text; raises when that is not allowed, and stays where it was.
---@param what integer|string
---@return perilune.Grammar self
function Grammar:accept(what) end

--- Whether `accept` would take it.
---@param what integer|string
---@return boolean
function Grammar:allows(what) end

--- The tokens that may come next, ascending.
---@return integer[]
function Grammar:allowed_ids() end

--- Sets the logits of what may not come next to -inf.
---@param logits perilune.Tensor float32 [d_vocab]
---@return perilune.Tensor logits
function Grammar:apply(logits) end

--- An independent copy in the same place.
---@return perilune.Grammar
function Grammar:fork() end

--- Back to the beginning.
---@return perilune.Grammar self
function Grammar:reset() end

--- From here on the text must begin with these bytes before it goes on; with `only`, anything may
--- follow them.
---@param text string
---@param only? boolean
---@return perilune.Grammar self
function Grammar:set_prefix(text, only) end

function Grammar:close() end

--- The whole of a file.
---@param path string
---@return string
function pl.read_file(path) end

--- Reading and writing JSON. `pl.json.null` stands for null. Objects that were read remember the
--- order of their keys.
---@class perilune.Json
---@field null lightuserdata
pl.json = {}

--- The value of a JSON text; raises with line and column.
---@param text string
---@param name? string for messages
---@return any
function pl.json.decode(text, name) end

--- A value as JSON. A table is an array when it has items from 1 on and nothing else, or was marked.
---@param value any
---@param opts? {indent?: integer, sort_keys?: boolean, spaces?: boolean, separators?: string[], ascii?: boolean}
---@return string
function pl.json.encode(value, opts) end

--- Marks a table as an array, which matters for empty ones.
---@param list? table
---@return table
function pl.json.array(list) end

--- An object whose keys keep the order of the list of {key, value}.
---@param pairs_list? table
---@return table
function pl.json.object(pairs_list) end

--- The keys of an object in their order.
---@param object table
---@return string[]
function pl.json.keys(object) end

---@param value any
---@return boolean
function pl.json.is_array(value) end

---@param value any
---@return boolean
function pl.json.is_object(value) end
