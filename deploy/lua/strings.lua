-- Strings of JSON: where they end, how long they are, what they say.
--
--   closing(s, at)           where the string ends whose content begins at `at`: the position of
--                            its quote, nil where that is not within `s`
--   measure(content, ended)  how many bytes of UTF-8 a content stands for, as far as it can be
--                            read, and the position up to which that is; `ended`: no more comes.
--                            nil where an escape is none
--   plain(content)           a content with its escapes resolved; nil where one is none, or is
--                            half a surrogate pair

local byte, char, find, match, sub =
  string.byte, string.char, string.find, string.match, string.sub
local floor = math.floor

local QUOTE, BACKSLASH, LETTER_U = 34, 92, 117
local ESCAPES = { -- what follows a backslash -> what it stands for
  [QUOTE] = '"', [BACKSLASH] = "\\", [47] = "/", [98] = "\b", [102] = "\f", [110] = "\n",
  [114] = "\r", [116] = "\t",
}

-- A quote ends a string when it has an even number of backslashes before it.
local function closing(s, at)
  local quote = find(s, '"', at, true)
  while quote do
    local before = quote - 1
    while before >= at and byte(s, before) == BACKSLASH do
      before = before - 1
    end
    if (quote - before) % 2 == 1 then
      return quote
    end
    quote = find(s, '"', quote + 1, true)
  end
end

local function hex(s, at)
  local digits = match(s, "^%x%x%x%x", at)
  return digits and tonumber(digits, 16)
end

-- The escape at `at`, a backslash: where it ends (the byte after it), and its code point; a pair
-- of surrogates is one. 0 where `s` ends within it, nil where it is none.
local function escape(s, at)
  local c = byte(s, at + 1)
  if c == nil then
    return 0
  elseif c ~= LETTER_U then
    return ESCAPES[c] and at + 2, ESCAPES[c] and byte(ESCAPES[c])
  elseif #s < at + 5 then
    return 0
  end
  local code = hex(s, at + 2)
  if not code then
    return nil
  elseif code < 0xD800 or code > 0xDBFF then
    return at + 6, code
  end
  local following = sub(s, at + 6, at + 11)
  if #following < 6 and (following == "" or following == "\\" or sub(following, 1, 2) == "\\u") then
    return 0 -- it may be one of a pair
  end
  local low = sub(following, 1, 2) == "\\u" and hex(following, 3)
  if low and low >= 0xDC00 and low <= 0xDFFF then
    return at + 12, 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00)
  end
  return at + 6, code
end

local function width(code)
  return code < 0x80 and 1 or code < 0x800 and 2 or code < 0x10000 and 3 or 4
end

local function measure(content, ended)
  local bytes = #content
  local at = find(content, "\\", 1, true)
  while at do
    local after, code = escape(content, at)
    if after == 0 and ended and #content >= at + 5 then
      after, code = at + 6, 0xD800 -- alone after all
    end
    if after == 0 and not ended then
      return bytes - (#content - at + 1), at
    elseif not after or after == 0 then
      return nil
    end
    bytes = bytes - (after - at) + width(code)
    at = find(content, "\\", after, true)
  end
  return bytes, #content + 1
end

local function encode(code)
  if code < 0x80 then
    return char(code)
  elseif code < 0x800 then
    return char(0xC0 + floor(code / 0x40), 0x80 + code % 0x40)
  elseif code < 0x10000 then
    return char(0xE0 + floor(code / 0x1000), 0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
  end
  return char(0xF0 + floor(code / 0x40000), 0x80 + floor(code / 0x1000) % 0x40,
    0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
end

local function plain(content)
  local parts, from = {}, 1
  local at = find(content, "\\", 1, true)
  while at do
    local after, code = escape(content, at)
    if not after or after == 0 or (code >= 0xD800 and code <= 0xDFFF) then
      return nil
    end
    parts[#parts + 1] = sub(content, from, at - 1)
    parts[#parts + 1] = encode(code)
    from = after
    at = find(content, "\\", from, true)
  end
  parts[#parts + 1] = sub(content, from)
  return table.concat(parts)
end

return {closing = closing, measure = measure, plain = plain}
