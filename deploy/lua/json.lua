-- A JSON reader that is fed a text in pieces, cut anywhere, and reports only what was asked for.
--
-- `scanner(node)` reads one object after the shape of `node`; what no node names is passed over by
-- counting brackets outside of strings. Nothing is kept of a text but what was asked for and the
-- beginning of a token that a piece breaks off in, so a text may be of any length.
-- Where the object's own node has `lax`, a number may be anything that is none, NaN for one.
-- `scanner(node, on_element)` reads an object or an array. Of an array each element has a record of
-- its own: `on_element(record)` hears of it when it ends, if it was an object.
--
-- A node says what is wanted of a value, whichever of these the value turns out to be:
--   fields   = {name = node, …}   of an object: its members
--   others   = node               of an object: its members that `fields` does not name
--   items    = node               of an array: its elements
--   into     = "name"             of an object: what its members yield goes into a record of its
--                                 own under this name; `whole` is set in it when the object ends
--   count    = "name"             of an array: record the number of its elements
--   integer  = "name"             record the number's digits; null is nothing; any other value,
--                                 and a number that is no natural one, is a fault
--   flag     = "name"             of true and false: record it
--   text     = "name"             of a string: record it (at most NAME_BYTES long as it is written)
--   present  = "name"             of any value but null: record true, also of one that comes twice
--   tally    = "name"             of a string that is not empty: record how many such there were
--   measured = true               of a string: add its length to `measured`, in bytes of UTF-8,
--                                 escapes counted as what they stand for; of an object or array
--                                 that is not looked into: all between its brackets, as written
--   loose    = true               the same, but added to `loose`, which `reset` sets to 0
--
-- After `feed`: `record` has what was recorded, `whole` says that the object has ended and only
-- white space came after it, `fault` says why this can never become one. `pending()` is what
-- `measured` and `loose` lack of an object or array that has not ended. A member that a node
-- records twice is a fault: a reader that takes the first and one that takes the last must not
-- see two different things. What is passed over is checked for balance, not for each comma.
--
-- The loops over bytes are what LuaJIT compiles (about 1 ns a byte); `find` with a pattern, which
-- it does not, would take ten times as long.

local strings = require "tensorgate.strings"

local byte, find, match, sub = string.byte, string.find, string.match, string.sub
local closing, measure, plain = strings.closing, strings.measure, strings.plain

local QUOTE, COMMA, COLON, BACKSLASH = 34, 44, 58, 92
local ARRAY, ARRAY_END, OBJECT, OBJECT_END = 91, 93, 123, 125
local NULL = 110 -- how it begins

local NAME_BYTES = 256 -- the longest name or text that is read, and the longest number
local DIGITS = 12 -- of a natural number that is recorded
local DEPTH = 512

local LITERALS = {null = true, ["true"] = true, ["false"] = true}

-- The first byte at or after `at` that is no white space, and where it is.
local function visible(s, at)
  local c = byte(s, at)
  while c == 32 or c == 10 or c == 13 or c == 9 do
    at = at + 1
    c = byte(s, at)
  end
  return at, c
end

-- ── The scanner ──────────────────────────────────────────────────────────────────────────────────
--
-- `step` is what comes next in the text: a function of (scanner, piece, position) that returns
-- the position after what it has read, or nil where the piece is used up or there is a fault.

local Scanner = {}
Scanner.__index = Scanner

local first, member, colon, value, passed_over, unwanted, measured, following, finished

local function fail(self, why)
  self.fault = why
  return nil
end

-- Keep the rest of a piece to read it together with the next one.
local function wait(self, s, at)
  self.rest = sub(s, at)
  return nil
end

local function push(self, node, kind)
  local depth = self.depth + 1
  if depth > DEPTH then
    return fail(self, "too deep")
  end
  local record = self.records[self.depth] or self.record
  if kind == OBJECT and node.into then
    if record[node.into] then
      return fail(self, "twice " .. node.into)
    end
    record[node.into] = {}
    record = record[node.into]
  end
  self.depth = depth
  self.kinds[depth], self.nodes[depth], self.records[depth] = kind, node, record
  self.counts[depth] = 0
  self.step = first
  return true
end

local function pop(self)
  local depth = self.depth
  local node, record = self.nodes[depth], self.records[depth]
  if self.kinds[depth] == ARRAY and node.count then
    if record[node.count] then
      return fail(self, "twice " .. node.count)
    end
    record[node.count] = self.counts[depth]
  elseif self.kinds[depth] == OBJECT and node.into then
    record.whole = true
  end
  self.depth = depth - 1
  self.step = following
  if depth == 2 and self.on_element and self.kinds[1] == ARRAY and self.kinds[2] == OBJECT then
    self.on_element(record)
    self.records[1] = {}
  elseif depth == 1 then
    self.whole = true
    self.step = finished
  end
  return true
end

local function element(self)
  local depth = self.depth
  self.counts[depth] = self.counts[depth] + 1
  self.node = self.nodes[depth].items
  self.step = value
end

-- After an opening bracket.
function first(self, s, at)
  local c
  at, c = visible(s, at)
  if not c then
    return nil
  elseif c == self.kinds[self.depth] + 2 then
    return pop(self) and at + 1
  elseif self.kinds[self.depth] == ARRAY then
    element(self)
  else
    self.step = member
  end
  return at
end

-- The name of a member.
function member(self, s, at)
  local c
  at, c = visible(s, at)
  if not c then
    return nil
  elseif c ~= QUOTE then
    return fail(self, "no name")
  end
  local quote = closing(s, at + 1)
  local container = self.nodes[self.depth]
  if not quote then
    if #s - at > NAME_BYTES then -- nothing that anybody asks for by name
      self.node, self.step, self.after = container.others, unwanted, colon
      return at + 1
    end
    return wait(self, s, at)
  end
  local name = sub(s, at + 1, quote - 1)
  if find(name, "\\", 1, true) then
    name = plain(name)
  end
  self.node = name and container.fields[name] or container.others
  if byte(s, quote + 1) == COLON then
    self.step = value
    return quote + 2
  end
  self.step = colon
  return quote + 1
end

function colon(self, s, at)
  local c
  at, c = visible(s, at)
  if not c then
    return nil
  elseif c ~= COLON then
    return fail(self, "no colon")
  end
  self.step = value
  return at + 1
end

local function note(self, name, content)
  local record = self.records[self.depth]
  if record[name] then
    return fail(self, "twice " .. name)
  end
  record[name] = content
  self.step = following
  return true
end

-- Adds to what the value's node measures.
local function add(self, bytes)
  if self.node.loose then
    self.loose = self.loose + bytes
  else
    self.measured = self.measured + bytes
  end
end

local function text(self, node, s, at)
  local quote = closing(s, at + 1)
  if not quote and #s - at <= NAME_BYTES then
    return wait(self, s, at)
  elseif not quote or quote - at > NAME_BYTES then
    self.step, self.after = unwanted, following
    return at + 1
  end
  local content = plain(sub(s, at + 1, quote - 1)) or ""
  if node.text then
    return note(self, node.text, content) and quote + 1
  elseif content ~= "" then
    local record = self.records[self.depth]
    record[node.tally] = (record[node.tally] or 0) + 1
  end
  self.step = following
  return quote + 1
end

-- Whether a token is a natural number; a pattern would say so at ten times the cost.
local function natural(token)
  local first, size = byte(token), #token
  for at = 1, size do
    local c = byte(token, at)
    if c < 48 or c > 57 then
      return false
    end
  end
  return size > 0 and (size == 1 or first ~= 48)
end

-- A number, true, false or null.
local function scalar(self, s, at)
  local stop, c = at, byte(s, at)
  while c and c ~= COMMA and c ~= OBJECT_END and c ~= ARRAY_END
    and c ~= 32 and c ~= 10 and c ~= 13 and c ~= 9 do
    stop = stop + 1
    c = byte(s, stop)
  end
  if stop - at > NAME_BYTES then
    return fail(self, "no value")
  elseif not c then
    return wait(self, s, at)
  end
  local token = sub(s, at, stop - 1)
  local node = self.node
  if node and node.integer and token ~= "null" then
    if #token > DIGITS or not natural(token) then
      return fail(self, "no count: " .. node.integer)
    end
    return note(self, node.integer, token) and stop
  elseif not LITERALS[token] and not natural(token) and not self.root.lax
    and not match(token, "^%-?%d+%.?%d*[eE]?[-+]?%d*$") then
    return fail(self, "no value")
  elseif node and node.flag and LITERALS[token] and token ~= "null" then
    return note(self, node.flag, token) and stop
  end
  self.step = following
  return stop
end

function value(self, s, at)
  local c
  at, c = visible(s, at)
  local node = self.node
  if not c then
    return nil
  end
  if node and node.present and c ~= NULL then
    self.records[self.depth][node.present] = true
  end
  if node and node.integer and (c == QUOTE or c == OBJECT or c == ARRAY) then
    return fail(self, "no count: " .. node.integer)
  elseif c == QUOTE then
    if node and (node.measured or node.loose) then
      self.step = measured
      return at + 1
    elseif node and (node.text or node.tally) then
      return text(self, node, s, at)
    end
    self.step, self.after = unwanted, following
    return at + 1
  elseif c ~= OBJECT and c ~= ARRAY then
    return scalar(self, s, at)
  elseif node and (c == OBJECT and node.fields or c == ARRAY and (node.items or node.count)) then
    return push(self, node, c) and at + 1
  end
  self.floor = self.depth
  self.began = node and (node.measured or node.loose) and self.base + at
  self.step = passed_over
  return at
end

-- An object or an array that nobody wants; `floor` is the depth at which it stands.
function passed_over(self, s, at)
  local kinds, depth, floor = self.kinds, self.depth, self.floor
  local c = byte(s, at)
  while c do
    if c == QUOTE then
      local quote = closing(s, at + 1)
      if not quote then
        self.depth, self.step, self.after = depth, unwanted, passed_over
        return at + 1
      end
      at = quote
    elseif c == OBJECT or c == ARRAY then
      depth = depth + 1
      if depth > DEPTH then
        return fail(self, "too deep")
      end
      kinds[depth] = c
    elseif c == OBJECT_END or c == ARRAY_END then
      if kinds[depth] ~= c - 2 then
        return fail(self, "unbalanced")
      end
      depth = depth - 1
      if depth == floor then
        self.depth, self.step = depth, following
        if self.began then
          add(self, self.base + at - self.began - 1)
          self.began = nil
        end
        return at + 1
      end
    end
    at = at + 1
    c = byte(s, at)
  end
  self.depth = depth
  return nil
end

-- The rest of a string that nobody wants; then comes `after`.
function unwanted(self, s, at)
  local quote = closing(s, at)
  if quote then
    self.step = self.after
    return quote + 1
  end
  local before = #s
  while before >= at and byte(s, before) == BACKSLASH do
    before = before - 1
  end
  if (#s - before) % 2 == 1 then
    self.rest = "\\" -- what it makes of the next byte is not known yet
  end
  return nil
end

-- The rest of a string whose length is wanted.
function measured(self, s, at)
  local quote = closing(s, at)
  local content = sub(s, at, (quote or 0) - 1)
  local bytes, stop = measure(content, quote ~= nil)
  if not bytes then
    return fail(self, "no escape")
  end
  add(self, bytes)
  if not quote then
    return wait(self, content, stop)
  end
  self.step = following
  return quote + 1
end

-- After a member or an element.
function following(self, s, at)
  local c
  at, c = visible(s, at)
  local kind = self.kinds[self.depth]
  if not c then
    return nil
  elseif c == kind + 2 then
    return pop(self) and at + 1
  elseif c ~= COMMA then
    return fail(self, "no comma")
  elseif kind == ARRAY then
    element(self)
  else
    self.step = member
  end
  return at + 1
end

-- After the object.
function finished(self, s, at)
  local _, c = visible(s, at)
  if c then
    self.whole = false
    return fail(self, "more than one value")
  end
  return nil
end

local function start(self, s, at)
  local c
  at, c = visible(s, at)
  if not c then
    return nil
  elseif c ~= OBJECT and not (c == ARRAY and self.on_element) then
    return fail(self, "no object")
  end
  return push(self, self.root, c) and at + 1
end

function Scanner:pending()
  local bytes = self.began and self.fed - self.began or 0
  if self.began and self.node.loose then
    return 0, bytes
  end
  return bytes, 0
end

-- Begin another object; `measured` goes on.
function Scanner:reset()
  self.record = {}
  self.loose = 0
  self.began = nil -- the position of the bracket of what is passed over and measured
  self.whole = false
  self.fault = nil
  self.rest = ""
  self.depth = 0
  self.step = start
end

function Scanner:feed(piece)
  if self.fault or piece == "" then
    return
  end
  local s = piece
  self.base = self.fed - #self.rest -- the bytes of all pieces before `s`
  self.fed = self.fed + #piece
  if self.rest ~= "" then
    s = self.rest .. piece
    self.rest = ""
  end
  local at = 1
  repeat
    at = self.step(self, s, at)
  until not at
end

local function scanner(node, on_element)
  local self = setmetatable({
    root = node, on_element = on_element, measured = 0, fed = 0,
    kinds = {}, nodes = {}, records = {}, counts = {},
  }, Scanner)
  self:reset()
  return self
end

return {scanner = scanner}
