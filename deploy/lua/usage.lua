-- What a model server's answer says of its cost: the counters of its usage, and how much was
-- generated as far as it was seen.
--
-- `reader(name, framing, options)` reads an answer of the format `name`: openai, anthropic, gemini,
-- ollama (tensorgate.openai says what a format is). The framing is what its content type says:
-- "json", "sse" (server-sent events), "lines" (JSON, one object a line) or "other". nil where there
-- is nothing to be read. It is fed chunks cut anywhere and keeps nothing of them.
-- Options:
--   on_event(stop, only_usage)  of server-sent events, hears of each: where it ended in the chunk
--                  (as tensorgate.sse says), and whether it was a usage alone; nil from the first
--                  event on that could not be read
--   continuous     the server counts as it goes, one answer to the call: what its usage covers is
--                  all that there was, wherever the stream is cut
--
-- What a model writes stands in strings, or deeper than any usage, and can never be one. A counter
-- that is no natural number, a counter or a usage that comes twice in one object, JSON that is none:
-- such an answer is not read further, and nothing is said of it but its format, "other", for half a
-- measure is none.
--
-- `report()` returns the state as strings, for the settlement (authz/usage.py); absent: not seen.
--   input, output         tokens; usages of one stream are cumulative, so the largest ones count
--   cached, cache_write   tokens read from and written to a prompt cache
--   cached_inside         "1": `cached` is a part of `input`, as OpenAI counts; "0": beside it
--   final                 "1": input and output are the whole answer's: its end was seen, or the
--                         server counts as it goes, and nothing was generated after the last usage;
--                         and the usage is none of a server that does not count (see `settled`)
--   events                events of a stream in which something was generated
--   content_bytes         bytes of what was generated in a stream, counted as it comes
--   format                json, sse, lines, array (of JSON), other
--   done                  "1": the answer came to its end

local json = require "tensorgate.json"
local openai = require "tensorgate.openai"
local sse = require "tensorgate.sse"

local byte, find, format, match, sub =
  string.byte, string.find, string.format, string.match, string.sub

local FORMATS = {
  openai = openai.openai,
  anthropic = openai.anthropic,
  gemini = require "tensorgate.gemini",
  ollama = require "tensorgate.ollama",
}
local ARRAY, OBJECT = 91, 123
local NOTE_BYTES = 16 -- of data that is no object: enough for [DONE]
local DONE = "^%[DONE%]%s*$"

-- ── What all kinds share ─────────────────────────────────────────────────────────────────────────

-- The larger one of two counts, as digits; either may be nil.
local function larger(before, now)
  if before == now or not now then
    return before
  elseif before and (#before > #now or (#before == #now and before > now)) then
    return before
  end
  return now
end

-- Takes counters over; nil: not said, so it stays as it was. None ever goes down: a usage that says
-- less than one before it has left something out.
local function count(self, input, output, cached, cache_write)
  local seen = self.seen
  seen.input = larger(seen.input, input)
  if output then
    seen.output, self.covered = larger(seen.output, output), true
  end
  if cached or cache_write then
    seen.cached = larger(seen.cached, cached)
    seen.cache_write = larger(seen.cache_write, cache_write)
  end
end

-- Nothing that was seen is a measure of the whole.
local function give_up(self)
  self.broken = true
  local seen = self.seen
  for name in pairs(seen) do
    seen[name] = ""
  end
  seen.format = "other"
end

-- Whether the usage is the whole answer's. An output of 0 is none after events with content in
-- them: it is what a server says that does not count. One that is only smaller than the number of
-- events is believed where the answer came to its end, for an event need not be a token: a prompt
-- may be echoed, one token may end a call of a tool that comes in two events, a proxy may cut
-- tokens up, and what nobody knows counts as content here. (The content of a JSON body is not
-- counted, so its usage stands as it is.) A server that counts as it goes, cut anywhere, has to
-- have counted a token an event; one that says less only has a member of that name.
local function settled(self)
  local seen, events = self.seen, self.events
  if not (seen.input and seen.output and self.covered) or self.unsure then
    return false
  end
  local output = tonumber(seen.output)
  if output == 0 and events > 0 then
    return false
  end
  return self.ended
    or (self.continuous and events > 0 and output >= events and self:unmeasured() == 0)
end

local function report(self)
  local seen = self.seen
  if not self.broken then
    seen.final = settled(self) and "1" or seen.final and "0"
  end
  return seen
end

-- The bytes of content in the object that is being read, as far as it was, that are not in
-- `scan.measured`.
local function unmeasured(self)
  local bytes, loose = self.scan:pending()
  loose = loose + self.scan.loose
  if loose > 0 and not self.format.known(self) then
    return bytes + loose
  end
  return bytes
end

-- Counts an object of a stream in which something was generated, once: what usage came before it
-- does not cover it.
local function generated(self, more)
  if not self.counted and (more or self.scan.measured > self.measured) then
    self.counted = true
    self.events = self.events + 1
    self.covered, self.ended = false, false
  end
end

-- An object of a stream has ended; returns whether it was a usage alone.
local function object(self, record)
  local more = unmeasured(self)
  self.besides = self.besides + more
  generated(self, more > 0)
  local ends, only_usage = self.format.object(self, record)
  self.ended = self.ended or ends
  self.measured, self.counted = self.scan.measured, false
  return only_usage
end

local function report_stream(self)
  if not self.broken then
    self.seen.events = format("%d", self.events)
    self.seen.content_bytes = format("%d", self.scan.measured + self.besides + self:unmeasured())
  end
  return report(self)
end

local function class(reports)
  local made = {count = count, give_up = give_up, report = reports, unmeasured = unmeasured}
  made.__index = made
  return made
end

-- ── JSON: a body, or an array that streams ───────────────────────────────────────────────────────

local Body = class(report)

local function feed_body(self, scan)
  local told = self.format.told
  if not self.taken and (scan.whole or (told and told(scan.record))) then
    self.taken = true
    self.format.object(self, scan.record)
  end
  self.ended = scan.whole
end

function Body:feed(chunk)
  local scan = self.scan
  scan:feed(chunk)
  if scan.fault then
    give_up(self)
  elseif scan.kinds[1] == ARRAY then
    self.seen.format = "array"
    generated(self)
    self.ended = self.ended or scan.whole
  else
    feed_body(self, scan)
  end
end

function Body:finish()
  if self.scan.whole and not self.broken then
    self.seen.done = "1"
  end
end

function Body:report()
  return (self.seen.format == "array" and report_stream or report)(self)
end

-- ── JSON, one object a line ──────────────────────────────────────────────────────────────────────

local Lines = class(report_stream)

-- A line has ended, or the stream has; what it holds must be one object, or nothing.
local function end_line(self)
  local scan = self.scan
  if scan.whole then
    object(self, scan.record)
    scan:reset()
  elseif scan.fault or (scan.depth > 0 and not self.over) then
    give_up(self)
  elseif scan.depth > 0 then
    self.cut = true
  end
end

function Lines:feed(chunk)
  local at, scan = 1, self.scan
  while at <= #chunk and not self.broken do
    local stop = find(chunk, "\n", at, true)
    scan:feed(sub(chunk, at, stop or #chunk))
    generated(self)
    if stop or scan.fault then
      end_line(self)
    end
    at = (stop or #chunk) + 1
  end
end

function Lines:finish()
  self.over = true
  end_line(self)
  if not self.broken and not self.cut then
    self.seen.done = "1"
  end
end

-- ── Server-sent events ───────────────────────────────────────────────────────────────────────────

local Stream = class(report_stream)

function Stream:feed(chunk)
  self.reader:feed(chunk)
end

-- A part of an event's data.
function Stream:data(text)
  if self.broken then
    return
  end
  if not self.kind then
    local visible = byte(text) == OBJECT and 1 or find(text, "[^ \t\n]")
    if not visible then
      return
    elseif visible > 1 then
      text = sub(text, visible)
    end
    self.kind = byte(text) == OBJECT and "object" or "note"
  end
  if self.kind == "note" then
    self.note = sub(self.note .. text, 1, NOTE_BYTES)
    self.noted = self.noted + (text == "\n" and 0 or #text)
    return
  end
  self.scan:feed(text)
  generated(self)
end

function Stream:unmeasured()
  if self.kind == "object" then
    return unmeasured(self)
  end
  return self.noted > 0 and not match(self.note, DONE) and self.noted or 0
end

-- An event has ended; returns whether it was a usage alone, nothing where it cannot be read.
local function end_event(self)
  local scan, only_usage = self.scan, false
  if self.kind == "object" and scan.whole then
    only_usage = object(self, scan.record) or false
    scan:reset()
  elseif self.kind == "object" then
    if scan.fault or not self.over then
      return give_up(self)
    end
    self.cut = true -- by the stream's end: no event, but what was generated in it is counted
    local more = unmeasured(self)
    self.besides = self.besides + more
    generated(self, more > 0)
  elseif match(self.note, DONE) then
    self.ended = true
  elseif self.noted > 0 then
    self.besides = self.besides + self.noted
    self.events = self.events + 1 -- but a `ping` or the like takes no usage back
  end
  self.kind, self.note, self.noted = nil, "", 0
  return only_usage
end

function Stream:event(stop)
  local only_usage
  if not self.broken then
    only_usage = end_event(self)
  end
  if self.on_event then
    self.on_event(stop, only_usage)
  end
end

function Stream:finish()
  self.over = true
  self.reader:finish()
  if not self.broken and not self.cut then
    self.seen.done = "1"
  end
end

-- ─────────────────────────────────────────────────────────────────────────────────────────────────

local function body(kind, options)
  local self = setmetatable({
    format = kind, seen = {format = "json"}, continuous = options.continuous,
    measured = 0, besides = 0, events = 0,
  }, Body)
  if kind.listed then
    self.scan = json.scanner({fields = kind.body.fields, items = kind.event}, function(record)
      object(self, record)
    end)
  else
    self.scan = json.scanner(kind.body)
  end
  return self
end

local function stream(kind, framing, options)
  local self = setmetatable({
    format = kind, seen = {format = framing}, scan = json.scanner(kind.event),
    on_event = options.on_event, continuous = options.continuous,
    note = "", noted = 0, measured = 0, besides = 0, events = 0,
  }, framing == "sse" and Stream or Lines)
  self.reader = framing == "sse" and sse.reader(self) or nil
  return self
end

local function reader(name, framing, options)
  local kind = FORMATS[name]
  if not kind or framing == "other" or (framing == "lines" and not kind.lines) then
    return nil
  elseif framing == "json" then
    return body(kind, options)
  end
  return stream(kind, framing, options)
end

return {reader = reader}
