-- Exact money, and the windows of a scope.

local WINDOW = 2592000000000 -- 30 days in µs
local BASE = 1000000000

local function money(text)
  if #text <= 9 then return { 0, tonumber(text) } end
  return { tonumber(string.sub(text, 1, -10)), tonumber(string.sub(text, -9)) }
end

local function text(amount)
  if amount[1] == 0 then return format('%.0f', amount[2]) end
  return format('%.0f%09.0f', amount[1], amount[2])
end

local function plus(a, b)
  local high, low = a[1] + b[1], a[2] + b[2]
  if low >= BASE then return { high + 1, low - BASE } end
  return { high, low }
end

local function minus(a, b)
  local high, low = a[1] - b[1], a[2] - b[2]
  if low < 0 then return { high - 1, low + BASE } end
  return { high, low }
end

local function less(a, b)
  return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
end

-- A scope's windows, oldest first: each {number, spent, held, holds}.
local function read_windows(packed)
  local windows = {}
  if packed then
    for number, spent, held, holds in string.gmatch(packed, '(%d+) (%d+) (%d+) (%d+)') do
      windows[#windows + 1] = {
        number = tonumber(number), spent = money(spent), held = money(held),
        holds = tonumber(holds),
      }
    end
  end
  return windows
end

-- As text; of windows that are over, only those in which something still runs.
local function pack_windows(windows)
  local packed, last = {}, windows[#windows].number
  for _, window in ipairs(windows) do
    if window.holds > 0 or window.number == last then
      packed[#packed + 1] = format(
        '%d %s %s %d', window.number, text(window.spent), text(window.held), window.holds)
    end
  end
  return table.concat(packed, ' ')
end

-- The window of a number, made where there is none yet; in its place.
local function window_of(windows, number)
  local at = 1
  while windows[at] and windows[at].number < number do at = at + 1 end
  if not windows[at] or windows[at].number > number then
    table.insert(windows, at, { number = number, spent = { 0, 0 }, held = { 0, 0 }, holds = 0 })
  end
  return windows[at]
end

-- The window of a time, and whether it is a new one.
local function present(windows, created, time)
  local age = time - created
  local number = age > 0 and (age - age % WINDOW) / WINDOW or 0
  local before = #windows
  return window_of(windows, number), #windows > before
end
