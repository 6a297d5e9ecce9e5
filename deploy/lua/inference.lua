-- The filter of calls that go to a model server, after ext_authz: it writes the service's edits
-- into the request's body, reads the cost out of the answer as it streams by, and takes out of it
-- what only we had asked for. It holds nothing back but, where an event is to be hidden, the
-- beginning of an event that a chunk breaks off in.
--
-- From the service's metadata (envoy.filters.http.ext_authz): `outcome`, `hold_id`, `usage` (the
-- format in which the answer says what it cost; "none": it does not), `dialect` (the format where
-- there is no `usage`), `edits`, `hide_usage`, `continuous_usage`. It writes the metadata of
-- tensorgate.usage: what usage.lua reports; `encoded`, the content-encoding of an answer that
-- cannot be read for it; and `first_ms`, when the first event of a stream came in which something
-- was generated, in ms since 1970 by Envoy's clock. Without a hold, with another status than 2xx, it does nothing.
--
-- A defect here must not break an answer: what is not understood passes as it came, and a Lua
-- error is raised again behind it, for the counter http.<prefix>.lua.<stat_prefix>.errors. A
-- request whose edits cannot be made is never passed on: 500, which the gate turns into its 503.

local splice = require "tensorgate.splice"
local usage = require "tensorgate.usage"

local DECISION = "envoy.filters.http.ext_authz"
local USAGE = "tensorgate.usage"
local NAMES = {
  "format", "encoded", "input", "cached", "cache_write", "output", "cached_inside", "events",
  "content_bytes", "final", "done", "first_ms",
}
local LARGE = 1048576 -- bytes of a body after which its copies are not left lying about

-- ── The request ──────────────────────────────────────────────────────────────────────────────────

local function edit(handle)
  local decision = handle:streamInfo():dynamicMetadata():get(DECISION)
  if not decision or decision.edits == nil then
    return true
  end
  local edits = splice.edits(decision.edits)
  if not edits or #edits == 0 then
    return edits ~= nil
  end
  local body = handle:body()
  local made = body ~= nil and splice.apply(body, edits)
  if made and body:length() > LARGE then
    collectgarbage()
  end
  return made
end

function envoy_on_request(handle)
  local ran, made = pcall(edit, handle)
  if ran and made then
    return
  end
  handle:logErr("a request's edits could not be made: " .. (ran and "they do not fit" or made))
  handle:respond({[":status"] = "500"}, "")
end

-- ── The answer ───────────────────────────────────────────────────────────────────────────────────

-- Writes what has changed. The metadata does not live longer than a script's run: never keep it.
local function publish(handle, said, seen)
  local metadata
  for i = 1, #NAMES do
    local name = NAMES[i]
    local now = seen[name]
    if now and now ~= said[name] then
      metadata = metadata or handle:streamInfo():dynamicMetadata()
      metadata:set(USAGE, name, now)
      said[name] = now
    end
  end
end

local FRAMINGS = {
  ["text/event-stream"] = "sse",
  ["application/json"] = "json",
  ["application/x-ndjson"] = "lines",
  ["application/ndjson"] = "lines",
}

local function framing(headers)
  local name = string.match(headers:get("content-type") or "", "^%s*([^;%s]*)")
  name = string.lower(name)
  return FRAMINGS[name] or (string.find(name, "+json", 1, true) and "json") or "other"
end

local function encoding(headers)
  local name = string.lower(headers:get("content-encoding") or "")
  if name == "" or name == "identity" then
    return nil
  end
  return string.sub(string.gsub(name, "[^%w,-]", ""), 1, 32)
end

local function format(decision)
  if (decision.usage or "") ~= "" then
    return decision.usage
  end
  return decision.dialect == "anthropic" and "anthropic" or "openai"
end

-- What reads this answer: {meter, hider or nil}; nil where it cannot be read, and it says so.
local function reading(handle, decision, said)
  local headers = handle:headers()
  local kind, encoded, hider = framing(headers), encoding(headers), nil
  local options = {continuous = decision.continuous_usage == "1"}
  if kind == "sse" and decision.hide_usage == "1" then
    hider = splice.hider()
    function options.on_event(stop, only_usage)
      hider:event(stop, only_usage)
    end
  end
  local meter = not encoded and usage.reader(format(decision), kind, options)
  if not meter then
    publish(handle, said, {format = "other", encoded = encoded})
    return nil
  elseif hider then
    headers:remove("content-length")
  end
  return {meter = meter, hider = hider}
end

-- Reads `text`, which follows what was carried; returns what is to be passed on in its place, nil
-- where that is the text itself.
local function read(handle, said, each, text)
  local meter, hider = each.meter, each.hider
  if hider then
    hider:begin(text)
  end
  if text ~= "" then
    meter:feed(text)
  else
    meter:finish()
  end
  local report = meter:report()
  if not report.first_ms and (tonumber(report.events) or 0) > 0 then
    report.first_ms = tostring(handle:timestamp())
  end
  publish(handle, said, report)
  return hider and hider:rest()
end

-- Whether nothing that still comes is of interest. What we asked for is taken out to the end.
local function over(each)
  return each.problem or (each.meter.broken and not each.hider)
end

-- The same, behind a net: a defect of ours makes the answer one of which nothing is known.
local function read_safely(handle, said, each, text)
  local carried = each.hider and each.hider.carried or ""
  local ran, left = pcall(read, handle, said, each, text)
  if ran then
    return left
  end
  each.problem = left
  each.meter:give_up()
  publish(handle, said, each.meter:report())
  return carried .. text
end

local function append(chunk, text)
  chunk:setBytes(chunk:getBytes(0, chunk:length()) .. text)
end

function envoy_on_response(handle)
  local decision = handle:streamInfo():dynamicMetadata():get(DECISION)
  if not decision or decision.outcome ~= "allowed" or (decision.hold_id or "") == "" then
    return
  elseif not string.find(handle:headers():get(":status") or "", "^2") then
    return
  end
  local said = {}
  local each = reading(handle, decision, said)
  if not each then
    return
  end
  publish(handle, said, each.meter:report())
  local chunks = handle:bodyChunks()
  local chunk = chunks()
  while chunk and not over(each) do
    local length = chunk:length()
    if length > 0 then
      local left = read_safely(handle, said, each, chunk:getBytes(0, length))
      if left then
        chunk:setBytes(left)
      end
    end
    local last = chunk
    chunk = not over(each) and chunks()
    if chunk == nil then
      local left = read_safely(handle, said, each, "")
      if left and left ~= "" then
        -- The last chunk still lives, but where trailers came; what was left then is an event
        -- that was not whole anyway.
        pcall(append, last, left)
      end
    end
  end
  if each.problem then
    error(each.problem, 0)
  end
end
