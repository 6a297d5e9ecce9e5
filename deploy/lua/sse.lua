-- A reader of server-sent events that is fed a stream in chunks, cut anywhere.
--
-- Lines end in LF, CR or CR LF, an empty line ends an event. Of an event only its data counts:
-- comments and all other fields are passed over, so that no line can be taken for another.
--
-- `reader(sink)`, where the sink has
--   sink:data(text)   a part of an event's data, as it comes; each data line ends with LF
--   sink:event(stop)  the event has ended; `stop` is the position in this chunk of the first byte
--                     that is not the event's. An event that the stream's end cut off: `finish`

local byte, find, min, sub = string.byte, string.find, math.min, string.sub

local LF, SPACE = 10, 32
local DATA = "data:"
local MARKED = "\239\187\191data:" -- a byte order mark may stand before the first line

local Reader = {}
Reader.__index = Reader

-- What a line's bytes are for: `name` they may still become "data:", `value` they are what comes
-- after it, `other` nobody wants them.

-- Takes the beginning of a line: returns where its data begins, or nil.
local function begin(self, s, from, to)
  local wanted = self.first and MARKED or DATA
  local known = #self.name
  local head = self.name .. sub(s, from, min(to, from + #MARKED - 1))
  if self.first and sub(head, 1, 1) == "d" then
    wanted = DATA
  end
  if sub(head, 1, #wanted) == wanted then
    self.mode = "space"
    return from + #wanted - known
  elseif #head < #wanted and head == sub(wanted, 1, #head) then
    self.name = head
  else
    self.mode = "other"
  end
  return nil
end

-- Takes the bytes from..to of `s`, which are of one line.
local function part(self, s, from, to)
  if self.mode == "name" then
    from = begin(self, s, from, to)
  end
  if self.mode == "space" and from and from <= to then
    if byte(s, from) == SPACE then
      from = from + 1
    end
    self.mode = "value"
  end
  if self.mode == "value" and from <= to then
    self.sink:data(sub(s, from, to))
  end
end

-- Ends a line; returns whether it was empty.
local function end_line(self)
  local mode, name = self.mode, self.name
  self.mode, self.name, self.first = "name", "", false
  if mode == "value" or mode == "space" then
    self.sink:data("\n")
  end
  return mode == "name" and name == ""
end

function Reader:feed(s)
  local at, size = 1, #s
  if self.after_cr and size > 0 then
    self.after_cr = false
    if byte(s, 1) == LF then -- of a CR LF
      at = 2
    end
  end
  local cr, lf = find(s, "\r", at, true), find(s, "\n", at, true)
  while at <= size do
    local stop = cr and lf and min(cr, lf) or cr or lf
    if stop ~= at then
      part(self, s, at, (stop or size + 1) - 1)
    end
    if not stop then
      return
    end
    at = stop + 1
    if stop == cr then
      if at > size then
        self.after_cr = true
      elseif byte(s, at) == LF then
        at = at + 1
      end
    end
    if end_line(self) then
      self.sink:event(at)
    end
    if cr and cr < at then
      cr = find(s, "\r", at, true)
    end
    if lf and lf < at then
      lf = find(s, "\n", at, true)
    end
  end
end

-- The stream is over: what it left open ends here, as if an empty line came.
function Reader:finish()
  self.sink:event(1)
end

local function reader(sink)
  return setmetatable({
    sink = sink, mode = "name", name = "", first = true, after_cr = false,
  }, Reader)
end

return {reader = reader}
