-- What a policy finds around it, and nothing else.
--
-- Runs once in a fresh state with all of Lua's libraries and returns how to drive it.  A policy
-- gets an environment of its own, made of the functions below.  Those that could run for long
-- without a single instruction of Lua, where no limit is noticed, are bounded in size; all of
-- them are frozen.  The process around it is the wall (see confinement.py); this gives clean
-- errors with file and line before that wall is reached.

local LIMITS, HELPERS = ...

local assert, error, getmetatable, ipairs, load, next = assert, error, getmetatable, ipairs, load, next
local pairs, pcall, rawequal, rawget, rawlen, rawset = pairs, pcall, rawequal, rawget, rawlen, rawset
local select, setmetatable, tonumber, tostring, type = select, setmetatable, tonumber, tostring, type
local xpcall, getinfo, sethook = xpcall, debug.getinfo, debug.sethook
local cpu_s, date = os.clock, os.date
local string, table, math, utf8 = string, table, math, utf8
local byte, find, format, gsub, len, rep, sub =
  string.byte, string.find, string.format, string.gsub, string.len, string.rep, string.sub
local concat, sort, unpack = table.concat, table.sort, table.unpack
local debug_getmetatable = debug.getmetatable

local MOST_ITEMS = 65536 -- of one call into C that costs as much as there are items
local MOST_BYTES = 4 << 20 -- of one string that a call makes
local MOST_DEPTH = 40 -- of protected calls in one another: more would leave no room to end them
local HOOK_EVERY = 1000 -- instructions
local NAME = "^[a-z_][a-z0-9_]*$"

-- Time ---------------------------------------------------------------------------------------

local deadline_s -- by the clock of this process's CPU time
local hooked = 0 -- how often the hook was called
local is_over, place_of_end = false, nil
local NO_MEMORY = "not enough memory" -- Lua's own words
local OVER = {} -- raised where time is over; no policy can hold on to it

local function place(level)
  for at = level, level + 20 do
    local info = getinfo(at, "Sl")
    if info == nil then return nil end
    if info.currentline > 0 and sub(info.source, 1, 1) == "@" and sub(info.source, 1, 2) ~= "@=" then
      return sub(info.source, 2) .. ":" .. info.currentline
    end
  end
end

local function check(level)
  if is_over or cpu_s() > deadline_s then
    if not is_over then
      is_over, place_of_end = true, place(level + 1)
    end
    error(OVER, 0)
  end
end

local function on_hook()
  hooked = hooked + 1
  check(2)
end

-- What it may call ---------------------------------------------------------------------------

local frozen = {} -- proxies whose content nobody changes

local function freeze(content, what)
  local proxy = {}
  frozen[proxy] = content
  return setmetatable(proxy, {
    __index = content,
    __newindex = function() error(what .. " cannot be changed", 2) end,
    __metatable = false,
  })
end

-- Raise a problem at the place `level` callers up; 0 names none.
local function bad(level, ...)
  error(format(...), level > 0 and level + 1 or 0)
end

local function items_between(first, last)
  local number = last - first + 1
  if number > MOST_ITEMS then bad(3, "too many items at once (%d; at most %d)", number, MOST_ITEMS) end
end

-- A table whose length and items are its own: C would call its metamethods without end.
local function plain_table(value, name)
  if type(value) ~= "table" then bad(3, "bad argument #1 to '%s' (table expected, got %s)", name, type(value)) end
  local meta = debug_getmetatable(value)
  if meta ~= nil and (rawget(meta, "__index") ~= nil or rawget(meta, "__newindex") ~= nil or rawget(meta, "__len") ~= nil) then
    bad(3, "bad argument #1 to '%s' (a table without __index, __newindex and __len expected)", name)
  end
  if rawlen(value) > MOST_ITEMS then items_between(1, rawlen(value)) end
  return value
end

local function whole(value, default)
  if value == nil then return default end
  return math.tointeger(value) or (type(value) == "string" and math.tointeger(tonumber(value))) or default
end

-- Addresses say where memory lies, and differ from run to run.
local function text_of(value)
  local kind = type(value)
  if kind ~= "table" and kind ~= "function" and kind ~= "userdata" and kind ~= "thread" then return tostring(value) end
  local meta = debug_getmetatable(value)
  if meta ~= nil and kind == "table" and rawget(meta, "__tostring") ~= nil then return tostring(value) end
  return kind
end

local depth = 0

local function leave(ok, ...)
  depth = depth - 1
  if not ok and (is_over or rawequal((...), OVER)) then error(OVER, 0) end
  return ok, ...
end

local function safe_pcall(f, ...)
  check(2)
  if depth >= MOST_DEPTH then bad(2, "too many protected calls in one another (at most %d)", MOST_DEPTH) end
  depth = depth + 1
  return leave(pcall(f, ...))
end

local safe_string = {}
for _, name in ipairs { "byte", "char", "len", "lower", "upper", "reverse", "sub", "pack", "packsize", "unpack" } do
  safe_string[name] = string[name]
end
-- These may go over their text many times: each call ends before the time is looked at.
for _, name in ipairs { "find", "match", "gmatch", "gsub" } do
  local original = string[name]
  safe_string[name] = function(...)
    check(2)
    return original(...)
  end
end
function safe_string.rep(text, times, separator)
  local number = whole(times, 0)
  local size = (#tostring(text) + #tostring(separator or "")) * math.max(0, number)
  if number > MOST_BYTES or size > MOST_BYTES then bad(2, "the text would be too long (at most %d bytes)", MOST_BYTES) end
  return rep(text, times, separator)
end
function safe_string.format(how, ...)
  check(2)
  if type(how) == "string" and (#how > MOST_ITEMS or find(how, "%%[^%%%a]*p")) then
    bad(2, "bad argument #1 to 'format' (no '%%p', and at most %d bytes)", MOST_ITEMS)
  end
  local number, values = select("#", ...), { ... }
  for at = 1, number do
    local kind = type(values[at])
    if kind == "table" or kind == "function" then values[at] = text_of(values[at]) end
  end
  return format(how, unpack(values, 1, number))
end

local safe_table = { pack = table.pack }
function safe_table.concat(list, separator, first, last)
  check(2)
  plain_table(list, "concat")
  items_between(whole(first, 1), whole(last, rawlen(list)))
  return concat(list, separator, first, last)
end
function safe_table.insert(list, ...)
  plain_table(list, "insert")
  return table.insert(list, ...)
end
function safe_table.remove(list, ...)
  plain_table(list, "remove")
  return table.remove(list, ...)
end
function safe_table.move(from, first, last, to, into)
  check(2)
  plain_table(from, "move")
  if into ~= nil then plain_table(into, "move") end
  items_between(whole(first, 1), whole(last, 0))
  return table.move(from, first, last, to, into)
end
function safe_table.sort(list, before)
  check(2)
  plain_table(list, "sort")
  sort(list, before)
  check(2)
end
function safe_table.unpack(list, first, last)
  if type(list) == "table" and frozen[list] == nil then
    items_between(whole(first, 1), whole(last, rawlen(list)))
  end
  return unpack(list, first, last)
end

local safe_utf8 = { char = utf8.char, charpattern = utf8.charpattern, codepoint = utf8.codepoint }
safe_utf8.len, safe_utf8.offset, safe_utf8.codes = utf8.len, utf8.offset, utf8.codes

local safe_math = {}
for name, value in pairs(math) do
  if name ~= "randomseed" then safe_math[name] = value end
end

local now_s = 0 -- a policy lives at the time of its tick, whatever the clock says by now

local safe_os = { clock = cpu_s }
function safe_os.time(fields)
  if fields == nil then return now_s end
  return os.time(fields)
end
function safe_os.date(how, time)
  -- Of the clock of the world, for that of a place needs files.
  how = type(how) == "string" and gsub(how, "^!?", "!", 1) or "!%c"
  if #how > 256 then bad(2, "bad argument #1 to 'date' (at most 256 bytes)") end
  return date(how, time or now_s)
end

-- Keys in one order, or the same policy would decide differently from run to run.
local function in_order(a, b)
  local kind_a, kind_b = type(a), type(b)
  if kind_a ~= kind_b then return kind_a < kind_b end
  return a < b
end
local function safe_pairs(value)
  check(2)
  if type(value) == "table" then
    value = frozen[value] or value
    local meta = debug_getmetatable(value)
    if meta == nil or rawget(meta, "__pairs") == nil then
      local keys, rest = {}, {}
      for key in next, value do
        local kind = type(key)
        local list = (kind == "number" or kind == "string") and keys or rest
        list[#list + 1] = key
      end
      sort(keys, in_order)
      for _, key in ipairs(rest) do keys[#keys + 1] = key end
      local at = 0
      return function()
        local item
        repeat
          at = at + 1
          if keys[at] == nil then return nil end
          item = rawget(value, keys[at])
        until item ~= nil
        return keys[at], item
      end
    end
  end
  return pairs(value)
end

-- So many bytes of a text, and no half of a character; what is not UTF-8 is not shown.
local function excerpt(text, most)
  local short = sub(text, 1, most)
  if #short < #text then short = gsub(short, "[\xC2-\xF4][\x80-\xBF]*$", function(last) return utf8.len(last) and last or "" end) end
  if utf8.len(short) == nil then short = gsub(short, "[\x80-\xFF]", "?") end
  return short
end

local log, metrics = {}, {}
local levels = { debug = true, info = true, warning = true, error = true }

local function write_log(level, text)
  if not levels[level] then bad(2, "bad argument #1 to 'log' (debug, info, warning or error expected)") end
  if #log < LIMITS.log_lines then log[#log + 1] = { level = level, text = excerpt(text_of(text), LIMITS.log_bytes) } end
end

local function emit_metric(name, number)
  if type(name) ~= "string" or #name > 64 or not find(name, NAME) then
    bad(2, "bad argument #1 to 'emit_metric' (a name of a-z, 0-9 and _ expected)")
  end
  if type(number) ~= "number" or number ~= number or number >= math.huge or number <= -math.huge then
    bad(2, "bad argument #2 to 'emit_metric' (a finite number expected)")
  end
  if metrics[name] == nil then
    if rawlen(metrics) >= LIMITS.metrics then bad(2, "too many metrics (at most %d)", LIMITS.metrics) end
    metrics[#metrics + 1] = name
  end
  metrics[name] = number
end

local function new_environment()
  local env = {
    _VERSION = _VERSION,
    assert = assert,
    error = error,
    ipairs = ipairs,
    next = next,
    pairs = safe_pairs,
    pcall = safe_pcall,
    rawequal = rawequal,
    rawget = rawget,
    rawlen = rawlen,
    select = select,
    tonumber = tonumber,
    tostring = text_of,
    type = type,
    log = write_log,
    emit_metric = emit_metric,
    string = freeze(safe_string, "string"),
    table = freeze(safe_table, "table"),
    math = freeze(safe_math, "math"),
    utf8 = freeze(safe_utf8, "utf8"),
    os = freeze(safe_os, "os"),
  }
  function env.xpcall(f, handler, ...)
    -- The handler runs where the error has been caught: in the hook's place it could not be stopped.
    local function handled(ok, ...)
      if ok then return true, ... end
      return false, handler(...)
    end
    return handled(safe_pcall(f, ...))
  end
  function env.rawset(target, key, value)
    if frozen[target] ~= nil then bad(2, "what belongs to the scheduler cannot be changed") end
    return rawset(target, key, value)
  end
  function env.setmetatable(target, meta)
    -- Collected at a moment of its own choosing, where no limit is noticed.
    if type(meta) == "table" and rawget(meta, "__gc") ~= nil then bad(2, "__gc cannot be used") end
    return setmetatable(target, meta)
  end
  function env.getmetatable(value)
    if type(value) == "string" then return false end
    return getmetatable(value)
  end
  function env.print(...)
    local words = {}
    for at = 1, math.min(select("#", ...), 100) do words[at] = text_of((select(at, ...))) end
    write_log("info", concat(words, "\t"))
  end
  env._G = env
  return env
end

-- All strings share this: nobody may reach the functions that were not bounded.
local of_strings = debug_getmetatable("")
for key in pairs(of_strings) do
  if key ~= "__index" then of_strings[key] = nil end
end
of_strings.__index, of_strings.__metatable = safe_string, false

-- What comes out -----------------------------------------------------------------------------

local FIELDS = { -- of a decision, and what they hold
  action = "string", job_id = "string", worker_id = "string", agent = "string", pool_id = "string",
  gpu_id = "string", evict_worker_id = "string", reason = "string",
  duration_ms = "number", retry_after_ms = "number", start_worker = "table",
}
local OF_START = { model_ref = "string", pool_id = "string", gpu_id = "string" }

local SHORT = { ['"'] = '\\"', ["\\"] = "\\\\" }
local function quote(text, where)
  if #text > LIMITS.text_bytes then bad(0, "%s is too long (%d bytes; at most %d)", where, #text, LIMITS.text_bytes) end
  if utf8.len(text) == nil then bad(0, "%s is not UTF-8", where) end
  return '"' .. gsub(text, '[%c"\\]', function(c) return SHORT[c] or format("\\u%04x", byte(c)) end) .. '"'
end

local function encode(fields, value, where)
  local names, parts = {}, {}
  for name in next, value do
    if fields[name] ~= nil then names[#names + 1] = name end
  end
  sort(names)
  for at, name in ipairs(names) do
    local item, kind = rawget(value, name), fields[name]
    local at_field = name .. " of " .. where
    if kind == "string" and math.type(item) == "integer" then item = format("%d", item) end
    if type(item) ~= kind then bad(0, "%s is a %s; a %s was expected", at_field, type(item), kind) end
    local text
    if kind == "string" then
      text = quote(item, at_field)
    elseif kind == "number" then
      if item ~= item or item < 0 or item > 1e15 then bad(0, "%s is not a number of milliseconds", at_field) end
      text = format("%.0f", item)
    else
      text = encode(OF_START, item, at_field)
    end
    parts[at] = '"' .. name .. '":' .. text
  end
  return "{" .. concat(parts, ",") .. "}"
end

local function encode_answer(answer)
  if answer == nil then return "[]" end
  if type(answer) ~= "table" then bad(0, "schedule returned a %s; a decision or a list of them was expected", type(answer)) end
  local list = answer
  if rawget(answer, "action") == "batch" then list = rawget(answer, "actions") or rawget(answer, "batch") end
  if type(list) ~= "table" then bad(0, "the batch has no list of actions") end
  if rawget(list, "action") ~= nil then list = { list } end
  local number = rawlen(list)
  if number > LIMITS.decisions then bad(0, "schedule returned %d decisions; at most %d are taken at once", number, LIMITS.decisions) end
  if number == 0 and next(list) ~= nil then bad(0, "schedule returned a table that is no decision: it has no action") end
  local parts = {}
  for at = 1, number do
    local one = rawget(list, at)
    local where = number == 1 and "the decision" or "decision " .. at
    if type(one) ~= "table" then bad(0, "%s is a %s; a table was expected", where, type(one)) end
    parts[at] = encode(FIELDS, one, where)
  end
  return "[" .. concat(parts, ",") .. "]"
end

local function encode_words()
  local lines, numbers = {}, {}
  for at, one in ipairs(log) do
    lines[at] = '{"level":"' .. one.level .. '","text":' .. quote(one.text, "a log line") .. "}"
  end
  for at, name in ipairs(metrics) do numbers[at] = format('"%s":%.17g', name, metrics[name]) end
  return '"log":[' .. concat(lines, ",") .. '],"metrics":{' .. concat(numbers, ",") .. "}"
end

-- Driving it ---------------------------------------------------------------------------------

local function words_of(problem)
  if type(problem) == "string" then return problem end
  if rawequal(problem, OVER) then
    return format("%s: schedule took longer than %d ms", place_of_end or "?", LIMITS.cpu_ms)
  end
  return "an error that is a " .. type(problem) .. " and no text"
end

-- What C refuses, it refuses to us: name the line that asked us instead.
local function with_place(problem)
  if type(problem) ~= "string" then return problem end
  local words, ours = gsub(problem, "^sandbox:%d+: ", "")
  if ours == 0 then words, ours = gsub(problem, "^helpers:%d+: ", "") end
  local where = ours > 0 and place(2)
  return where and where .. ": " .. words or words
end

local function limited(f, ...)
  deadline_s, is_over, place_of_end, depth, hooked = cpu_s() + LIMITS.cpu_ms / 1000, false, nil, 0, 0
  sethook(on_hook, "", HOOK_EVERY)
  local function stop(ok, ...)
    sethook()
    return ok, ...
  end
  return stop(xpcall(f, with_place, ...))
end

local function failure(cause, problem)
  if is_over then
    cause, problem = "timeout", OVER
  elseif problem == NO_MEMORY then
    cause, problem = "memory", format("schedule took more than %d MB of memory", LIMITS.memory_mb)
  end
  return '{"fault":"' .. cause .. '","words":' .. quote(excerpt(words_of(problem), LIMITS.text_bytes), "the error") .. "," .. encode_words() .. "}"
end

local helpers_of = assert(load(HELPERS, "=helpers", "t", setmetatable({}, { __index = _ENV })))
local mine, platform = new_environment(), new_environment()

-- What belongs to one context: the helpers, there and as globals.
local function prepare(context)
  local helpers = helpers_of(context)
  context.helpers = helpers
  for name, helper in next, helpers do mine[name] = helper end
end

local function run(env, source, name)
  if #source > LIMITS.source_bytes then
    return failure("syntax", format("%s: the policy is too long (%d bytes; at most %d)", name, #source, LIMITS.source_bytes))
  end
  if byte(source, 1) == 27 then return failure("syntax", name .. ": compiled Lua is refused; give its source") end
  local chunk, problem = load(source, "@" .. name, "t", env)
  if chunk == nil then
    problem = gsub(problem, "\nstack traceback:.*", "")
    if find(problem, name .. ":", 1, true) ~= 1 then problem = name .. ": " .. problem end
    return failure("syntax", problem)
  end
  local ok, raised = limited(chunk)
  if not ok then return failure("error", raised) end
  if type(rawget(env, "schedule")) ~= "function" then
    return failure("error", name .. ": there is no function schedule(context)")
  end
end

local sandbox = {}

-- Load a policy and the platform's beside it; return what is wrong, or nil.
function sandbox.load(source, name, source_of_platform)
  math.randomseed(0) -- a policy that draws as it is loaded draws the same each time
  local fault = run(platform, source_of_platform, "platform.lua")
  if fault ~= nil then return fault end
  local of_platform = platform.schedule
  mine.platform = freeze({
    schedule = of_platform,
    get_source = function() return source_of_platform end,
  }, "platform")
  return run(mine, source, name)
end

function sandbox.schedule(context)
  now_s = context.metrics.now_ms // 1000
  math.randomseed(now_s)
  log, metrics = {}, {}
  prepare(context)
  local function ask() return encode_answer(mine.schedule(context)) end
  local began_s = cpu_s()
  local ok, answer = limited(ask)
  if not ok then return failure("error", answer) end
  local took_ms = (cpu_s() - began_s) * 1000
  return format('{"decisions":%s,"instructions":%d,"cpu_ms":%.3f,%s}', answer, hooked * HOOK_EVERY, took_ms, encode_words())
end

return sandbox
