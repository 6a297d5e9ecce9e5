-- What a model server's answer says of its cost: the counters of its `usage`, and how much was
-- generated as far as it was seen.
--
-- `body(dialect)` reads a JSON body, `stream(dialect)` server-sent events; `dialect` is the call's,
-- "anthropic" or any other. Both are fed chunks cut anywhere and keep nothing of them.
--
-- Only a member `usage` at its own place counts: at the top of a body or an event, in `message` of
-- an event `message_start`, in `response` of one that ends a response. What a model writes stands
-- in strings, or deeper, and can never be there. A counter that is no natural number, a counter or
-- a usage that comes twice in one object, JSON that is none: such an answer is not read further,
-- and nothing is said of it but its format, "other", for half a measure is none.
--
-- `report()` returns the state as strings, for the settlement (authz/usage.py); absent: not seen.
--   input, output         tokens; usages of one stream are cumulative, so the last ones count
--   cached, cache_write   tokens read from and written to a prompt cache
--   cached_inside         "1": `cached` is a part of `input`, as OpenAI counts; "0": beside it
--   final                 "1": input and output are the whole answer's: its end was seen, and
--                         nothing was generated after the last usage
--   events                events of a stream in which something was generated
--   content_bytes         bytes of UTF-8 of what was generated in a stream, counted as it comes
--   format                json, sse, other
--   done                  "1": the answer came to its end
--
-- So that no stream is free where it is cut, however its server writes, all that is not known to be
-- none counts as generated: each string, object and array in a choice, a delta or a block, and in
-- an event that is none of the known ones. What is not known by its name is measured as it stands.

local json = require "tensorgate.json"
local sse = require "tensorgate.sse"

local byte, format, match, sub = string.byte, string.format, string.match, string.sub

local OBJECT = 123
local NOTE_BYTES = 16 -- of data that is no object: enough for [DONE]
local DONE = "^%[DONE%]%s*$"

-- ── Where things stand ───────────────────────────────────────────────────────────────────────────

local COUNTERS = {
  "prompt_tokens", "completion_tokens", "total_tokens", -- OpenAI
  "input_tokens", "output_tokens", -- OpenAI's Responses, Anthropic
  "cache_read_input_tokens", "cache_creation_input_tokens", -- Anthropic
}

local function usage(into)
  local fields = {
    prompt_tokens_details = {fields = {cached_tokens = {integer = "prompt_cached_tokens"}}},
    input_tokens_details = {fields = {cached_tokens = {integer = "input_cached_tokens"}}},
  }
  for _, name in ipairs(COUNTERS) do
    fields[name] = {integer = name}
  end
  return {into = into, fields = fields}
end

local CONTENT = {measured = true}
local UNKNOWN = {loose = true} -- content, if the event turns out to be none that is known
local NONE = {}

-- A node of an object in which all is content but the members that are named here to be none.
local function content(fields, ...)
  for _, name in ipairs({...}) do
    fields[name] = NONE
  end
  return {measured = true, fields = fields, others = CONTENT}
end

local CALL = content({})
local PARTS = {measured = true, items = content({}, "type", "annotations")}
local DELTA = content(
  {
    content = PARTS,
    tool_calls = {measured = true, items = content(
      {["function"] = CALL, custom = CALL}, "index", "id", "type"
    )},
    function_call = CALL,
    audio = content({}, "id", "expires_at"),
  },
  "role", "type", "index", "annotations", "tool_call_id", "provider_specific_fields"
)

local BODY = {fields = {usage = usage("usage")}}

local EVENT = content(
  {
    usage = usage("usage"),
    type = {text = "type"},
    -- OpenAI: chat completions and completions
    choices = {loose = true, count = "choices", items = content(
      {delta = DELTA},
      "index", "usage", "finish_reason", "native_finish_reason", "stop_reason", "matched_stop",
      "logprobs", "prompt_logprobs", "token_ids", "prompt_token_ids", "hidden_states",
      "content_filter_results", "content_filter_offsets"
    )},
    -- Anthropic; in OpenAI's Responses `delta` is the text itself
    delta = content(
      {stop_reason = {text = "stop_reason"}},
      "type", "signature", "citation", "stop_sequence", "stop_details", "container"
    ),
    content_block = content(
      {}, "type", "id", "signature", "citations", "caller", "tool_use_id"
    ),
    message = {loose = true, others = UNKNOWN, fields = {
      usage = usage("message_usage"), content = CONTENT, role = NONE,
    }},
    -- OpenAI: Responses
    response = {loose = true, others = UNKNOWN, fields = {usage = usage("response_usage")}},
  },
  "id", "object", "created", "created_at", "model", "provider", "system_fingerprint",
  "service_tier", "error", "timings", "prompt_progress", "prompt_filter_results",
  "item_id", "logprobs", "obfuscation"
)
EVENT.measured, EVENT.others = nil, UNKNOWN

-- Events in which all that is generated stands where it is looked for. Those of Responses are known
-- by their names but for a `delta`, and for an item of which no delta came before.
local KNOWN = {
  message_start = true, content_block_start = true, content_block_delta = true,
  content_block_stop = true, message_delta = true, message_stop = true, ping = true, error = true,
}
local ITEM_DONE = "response.output_item.done"

local ENDS_RESPONSE = {
  ["response.completed"] = true, ["response.incomplete"] = true, ["response.failed"] = true,
}

-- ── What both kinds share ────────────────────────────────────────────────────────────────────────

-- Takes a usage over; what it does not name stays as it was.
local function take(self, counted)
  local prompt = counted.prompt_tokens
  local input = prompt or counted.input_tokens
  local output = counted.completion_tokens or counted.output_tokens
  if input and not output and counted.total_tokens then -- embeddings
    local rest = tonumber(counted.total_tokens) - tonumber(input)
    output = rest >= 0 and format("%d", rest) or nil
  end
  local seen = self.seen
  if input then
    self.inside = prompt ~= nil or self.dialect ~= "anthropic"
    seen.input, seen.cached_inside = input, self.inside and "1" or "0"
  end
  if output then
    seen.output, self.covered = output, true
  end
  seen.cached = counted.prompt_cached_tokens or counted.input_cached_tokens
    or counted.cache_read_input_tokens or seen.cached
  if not self.inside then
    seen.cache_write = counted.cache_creation_input_tokens or seen.cache_write
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

local function report(self)
  local seen = self.seen
  if not self.broken then
    local known = seen.input and seen.output and self.covered and self.ended
    seen.final = known and "1" or seen.final and "0"
  end
  return seen
end

-- ── JSON ─────────────────────────────────────────────────────────────────────────────────────────

local Body = {give_up = give_up, report = report}
Body.__index = Body

function Body:feed(chunk)
  local scan = self.scan
  scan:feed(chunk)
  if scan.fault then
    return give_up(self)
  end
  local counted = scan.record.usage
  if counted and counted.whole and not self.taken then
    self.taken = true
    take(self, counted)
  end
  self.ended = scan.whole
end

function Body:finish()
  if self.ended and not self.broken then
    self.seen.done = "1"
  end
end

-- ── Server-sent events ───────────────────────────────────────────────────────────────────────────

local Stream = {give_up = give_up}
Stream.__index = Stream

function Stream:feed(chunk)
  self.reader:feed(chunk)
end

-- Something was generated in this event: what usage came before it does not cover it.
local function generated(self)
  if not self.counted then
    self.counted = true
    self.events = self.events + 1
    self.covered, self.ended = false, false
  end
end

-- Whether what is loose in an event, as far as it was read, is no content.
local function is_known(self)
  local scan = self.scan
  local kind = scan.record.type
  if kind == ITEM_DONE then
    return scan.measured > self.item
  elseif kind and match(kind, "^response%.") then
    return scan.measured > self.measured or not match(kind, "%.delta$")
  end
  return scan.record.choices ~= nil or KNOWN[kind] ~= nil
end

-- The bytes of content in this event, as far as it was read, that are not in `scan.measured`.
local function besides(self)
  if self.kind == "note" then
    return match(self.note, DONE) and 0 or self.noted
  elseif self.kind ~= "object" then
    return 0
  end
  local measured, loose = self.scan:pending()
  loose = loose + self.scan.loose
  return measured + (loose > 0 and not is_known(self) and loose or 0)
end

-- A part of an event's data.
function Stream:data(text)
  if self.broken then
    return
  end
  if not self.kind then
    local visible = match(text, "^[ \t\n]*()")
    if visible > #text then
      return
    end
    text = sub(text, visible)
    self.kind = byte(text) == OBJECT and "object" or "note"
  end
  if self.kind == "note" then
    self.note = sub(self.note .. text, 1, NOTE_BYTES)
    self.noted = self.noted + (text == "\n" and 0 or #text)
    return
  end
  self.scan:feed(text)
  if self.scan.measured > self.measured then
    generated(self)
  end
end

-- An event that was a JSON object; returns whether it was the usage and nothing else.
local function object(self, record)
  local kind, counted = record.type, record.usage
  local ends = kind == "message_stop" or (counted and record.choices == 0)
  if kind == "message_start" then
    counted = record.message_usage
  elseif kind == "message_delta" then
    ends = record.stop_reason ~= nil
  elseif ENDS_RESPONSE[kind] then
    counted, ends = record.response_usage, true
  end
  if counted then
    take(self, counted)
  end
  self.ended = self.ended or ends
  return kind == nil and counted ~= nil and record.choices == 0
end

function Stream:event(stop)
  if self.broken then
    return
  end
  local scan, only_usage = self.scan, false
  local more = besides(self)
  self.besides = self.besides + more
  if self.kind == "object" and scan.whole then
    if more > 0 then
      generated(self)
    end
    if scan.record.type == ITEM_DONE then
      self.item = scan.measured
    end
    only_usage = object(self, scan.record)
    self.measured, self.counted = scan.measured, false
    scan:reset()
  elseif self.kind == "object" then
    if scan.fault or not self.over then
      return give_up(self)
    end
    self.cut = true -- by the stream's end: no event, but what was generated in it is counted
  elseif match(self.note, DONE) then
    self.ended = true
  elseif more > 0 then
    self.events = self.events + 1 -- but a `ping` or the like takes no usage back
  end
  self.kind, self.note, self.noted = nil, "", 0
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

function Stream:report()
  if not self.broken then
    self.seen.events = format("%d", self.events)
    self.seen.content_bytes = format("%d", self.scan.measured + self.besides + besides(self))
  end
  return report(self)
end

-- ─────────────────────────────────────────────────────────────────────────────────────────────────

local function body(dialect)
  return setmetatable({
    dialect = dialect, scan = json.scanner(BODY), seen = {format = "json"},
  }, Body)
end

-- `on_event(stop, only_usage)`, where given, hears of each event: where it ended in the chunk (as
-- tensorgate.sse says), and whether it was a usage with no `choices` in it and nothing else.
local function stream(dialect, on_event)
  local self = setmetatable({
    dialect = dialect, scan = json.scanner(EVENT), seen = {format = "sse"}, on_event = on_event,
    note = "", noted = 0, measured = 0, item = 0, besides = 0, events = 0,
  }, Stream)
  self.reader = sse.reader(self)
  return self
end

return {body = body, stream = stream}
