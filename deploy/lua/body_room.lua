-- Room for long bodies.
--
-- Envoy's ext_authz filter holds a body back until it is whole. This filter stands before it, on
-- the routes that take more than 64 KiB (and only there: other requests never run it), and takes
-- a body's bytes from a budget before the first of them is read. What does not fit is answered
-- 503 at once. So the bodies in memory are bounded by what `tensorgate envoy render` computed,
-- whoever sends them.
--
-- filter_context (from the route): room, limit, in bytes.
--   room   what all long bodies of this worker thread may have together
--   limit  what one body may have; taken whole where no Content-Length says less. Envoy holds a
--          client to its Content-Length, so no body is longer than what was taken for it
--
-- Bytes are given back when the response begins: by then the body has been passed on, or refused.
-- A client that leaves before has no response, and Envoy calls no script for it. Its handle dies
-- with its stream, though, and is a weak key here: when there is no room, a full collection shows
-- which handles are gone. At most one collection in COLLECT_EVERY_MS, so that refusals stay cheap.
--
-- All state is one Lua VM's, and Envoy has one VM a worker thread: no lock, and `room` is a
-- worker's part of the whole.

local NAMESPACE = "tensorgate.body_room"
local COLLECT_EVERY_MS = 50

local used = 0 -- bytes taken
local taken = {} -- ticket -> bytes
local last_ticket = 0
local streams = setmetatable({}, {__mode = "k"}) -- request handle -> ticket
local last_collection = 0 -- ms since the epoch

local function give_back(ticket)
  local bytes = taken[ticket]
  if bytes then
    taken[ticket] = nil
    used = used - bytes
  end
end

-- Gives back what was taken for streams that ended without a response.
local function collect(handle)
  local now = tonumber(tostring(handle:timestamp()))
  if now - last_collection < COLLECT_EVERY_MS then
    return
  end
  last_collection = now
  -- Twice: a key that has a finalizer, as a handle does, goes in the second round.
  collectgarbage()
  collectgarbage()
  local alive = {}
  for _, ticket in pairs(streams) do
    alive[ticket] = true
  end
  for ticket in pairs(taken) do
    if not alive[ticket] then
      give_back(ticket)
    end
  end
end

function envoy_on_request(handle)
  local context = handle:filterContext()
  local room, limit = context:get("room"), context:get("limit")
  local length = tonumber(string.match(handle:headers():get("content-length") or "", "^%d+$"))
  local bytes = math.min(length or limit, limit)
  if used + bytes > room then
    collect(handle)
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  if used + bytes > room then
    metadata:set(NAMESPACE, "full", true)
    handle:respond({[":status"] = "503"}, "")
    return
  end
  last_ticket = last_ticket + 1
  taken[last_ticket] = bytes
  used = used + bytes
  streams[handle] = last_ticket
  metadata:set(NAMESPACE, "ticket", last_ticket)
end

function envoy_on_response(handle)
  local ours = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  if ours and ours.ticket then
    give_back(ours.ticket)
  end
end
