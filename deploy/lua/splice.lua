-- What we write into a request's body, and what of the answer to it we take out again.
--
-- `edits(text)` reads the service's edits, JSON: [[offset, removed, "text"], …], ascending and
-- disjoint, offsets and counts in bytes of the body as the service saw it. Returns a list of
-- {offset, removed, text}, or nil where the text is no such thing.
--
-- `apply(body, list)` writes them into an Envoy buffer; false, and nothing is changed, where they
-- do not fit the body.
--
-- `hider()` takes events out of a stream: see below.

local json = require "tensorgate.json"
local openai = require "tensorgate.openai"
local sse = require "tensorgate.sse"
local strings = require "tensorgate.strings"

local byte, match, sub = string.byte, string.match, string.sub

-- ── The request ──────────────────────────────────────────────────────────────────────────────────

-- The edit at `at`; returns it and the position after it.
local function edit(text, at)
  local offset, removed, from = match(text, '^%[%s*(%d+)%s*,%s*(%d+)%s*,%s*"()', at)
  local quote = from and #offset < 12 and #removed < 12 and strings.closing(text, from)
  local written = quote and strings.plain(sub(text, from, quote - 1))
  local after = written and match(text, "^%s*%]()", quote + 1)
  return after and {offset = tonumber(offset), removed = tonumber(removed), text = written}, after
end

local function edits(text)
  if type(text) ~= "string" then
    return nil
  elseif match(text, "^%s*%[%s*%]%s*$") then
    return {}
  end
  local list, at, last = {}, match(text, "^%s*%[%s*()"), 0
  while at do
    local found, after = edit(text, at)
    if not found or found.offset < last then
      return nil
    end
    list[#list + 1] = found
    last = found.offset + found.removed
    if match(text, "^%s*%]%s*$", after) then
      return list
    end
    at = match(text, "^%s*,%s*()", after)
  end
  return nil
end

local function apply(body, list)
  local length = body:length()
  local parts, from = {}, 0
  for _, each in ipairs(list) do
    if each.offset + each.removed > length then
      return false
    end
    parts[#parts + 1] = body:getBytes(from, each.offset - from)
    parts[#parts + 1] = each.text
    from = each.offset + each.removed
  end
  parts[#parts + 1] = body:getBytes(from, length - from)
  body:setBytes(table.concat(parts))
  return true
end

-- ── The answer ───────────────────────────────────────────────────────────────────────────────────
--
-- A chunk is passed on up to the end of its last whole event; what is left is carried over to the
-- next chunk, because it may become an event that is to be dropped. An event that outgrows LONGEST
-- is none of those and is passed on as it comes.
--
-- For each chunk: `begin(chunk)`; `event(stop, drop)` for each event that ends in it, `stop` the
-- position of the first byte after it, `drop` nil where nobody knows: then it is read by itself,
-- and dropped if it is a usage alone, so that what could not be read of a stream lets none through
-- that comes later. `rest()` returns what is to stand in the chunk's place, nil where it may stay
-- as it is. After the last one: `begin("")` and the same again, for what was still carried.

local CR, LF = 13, 10
local LONGEST = 16384

local Hider = {}
Hider.__index = Hider

local function hider()
  return setmetatable({carried = "", dropped = false, passing = false, after_cr = false}, Hider)
end

-- Of `text`: what lies before `from` is in `kept` or dropped; at `start` begins this event.
function Hider:begin(chunk)
  self.text, self.before = self.carried .. chunk, #self.carried
  self.from, self.start, self.kept = 1, 1, {}
  if self.after_cr and chunk ~= "" then
    self.after_cr = false
    if byte(chunk, 1) == LF then -- of the event that its CR ended
      self.start = 2
      self.from = self.dropped and 2 or 1
    end
  end
end

-- Whether an event, with all that stands around its data, is a usage alone.
local function alone(text)
  local scan = json.scanner(openai.lone)
  sse.reader({
    data = function(_, part)
      scan:feed(part)
    end,
    event = function() end,
  }):feed(text)
  return openai.alone(scan)
end

function Hider:event(stop, drop)
  local after = self.before + stop
  if drop == nil and not self.passing then
    drop = alone(sub(self.text, self.start, after - 1))
  end
  self.dropped = drop and not self.passing
  self.passing = false
  if self.dropped then
    self.kept[#self.kept + 1] = sub(self.text, self.from, self.start - 1)
    self.from = after
  end
  self.start = after
end

function Hider:rest()
  local text, size = self.text, #self.text
  if self.start > size then
    self.after_cr = self.after_cr or byte(text, size) == CR
    self.carried = ""
  elseif self.passing or size - self.start >= LONGEST then
    self.passing, self.start, self.carried = true, size + 1, ""
  else
    self.carried = sub(text, self.start)
  end
  if self.before == 0 and self.from == 1 and self.start > size then
    return nil
  end
  self.kept[#self.kept + 1] = sub(text, self.from, self.start - 1)
  return table.concat(self.kept)
end

return {edits = edits, apply = apply, hider = hider}
