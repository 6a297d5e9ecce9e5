-- Runs the answer's reader over streams that are cut exactly where a test says, in the LuaJIT that
-- Envoy has. The body of a POST is any number of cases, one after the other:
--   framing format hide continuous repeat length cut,cut,…\n  and `length` bytes
-- framing: json, sse or lines; hide, continuous: 0 or 1; each cut is the length of a piece, the rest is the last one. The
-- answer, for each: `microseconds length name=value;…\n`, and what passed on, `length` bytes.

local splice = require "tensorgate.splice"
local usage = require "tensorgate.usage"

local function pieces(text, cuts)
  local list, at = {}, 1
  for cut in string.gmatch(cuts, "%d+") do
    list[#list + 1] = string.sub(text, at, at + cut - 1)
    at = at + cut
  end
  list[#list + 1] = string.sub(text, at)
  return list
end

-- As inference.lua does it.
local function read(framing, name, hide, continuous, list)
  local hider = hide and splice.hider()
  local meter = usage.reader(name, framing, {
    on_event = hider and function(...) hider:event(...) end, continuous = continuous,
  })
  local out = {}
  for i = 1, #list + 1 do
    local piece = list[i] or ""
    if hider then
      hider:begin(piece)
    end
    if i > #list then
      meter:finish()
    elseif piece ~= "" then
      meter:feed(piece)
    end
    local seen = meter:report()
    out[#out + 1] = hider and hider:rest() or piece
    if meter.broken and not hider then
      for k = i + 1, #list do
        out[#out + 1] = list[k]
      end
      return seen, out
    end
  end
  return meter:report(), out
end

local function case(body, at)
  local _, stop, framing, name, hide, continuous, times, length, cuts =
    string.find(body, "^(%l+) (%l+) (%d) (%d) (%d+) (%d+) ([%d,]*)\n", at)
  local list = pieces(string.sub(body, stop + 1, stop + length), cuts)
  local seen, out
  local began = os.clock()
  for _ = 1, times do
    seen, out = read(framing, name, hide == "1", continuous == "1", list)
  end
  local spent = (os.clock() - began) * 1e6
  local said = {}
  for name, value in pairs(seen) do
    said[#said + 1] = name .. "=" .. value
  end
  local passed = hide == "1" and table.concat(out) or ""
  return stop + length + 1,
    string.format("%.1f %d %s\n", spent, #passed, table.concat(said, ";")) .. passed
end

function envoy_on_request(handle)
  local buffer = handle:body()
  local body = buffer:getBytes(0, buffer:length())
  local at, answers = 1, {}
  while at <= #body do
    at, answers[#answers + 1] = case(body, at)
  end
  handle:respond({[":status"] = "200"}, table.concat(answers))
end
