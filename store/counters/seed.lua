-- Serve the account from here on, with what SQL knows of it. One script, as nothing may have been
-- settled since the account's generation was read.
--
--   KEYS[4…] lists of minutes
--   ARGV[3]  life;  ARGV[4] generation
--   ARGV[5]  JSON: {windows: [[scope, "number spent", …]], holds: [[id, request id, beat, kept]],
--            minutes: [["µs", …]]}; minutes in the order of their keys, each from old to new
--
-- Returns 1 if the account is seeded now, or was; 0 if it is to be read again.

local now = clock()
local found = redis.call('HMGET', KEYS[1], 'epoch', 'life', 'generation', 'seeded')
if found[1] ~= epoch_of_connection or found[2] ~= ARGV[3] or found[3] ~= ARGV[4] then return 0 end
if found[4] == '1' then return 1 end

local known = cjson.decode(ARGV[5])
local scopes = {}
local function windows_of(scope)
  scopes[scope] = scopes[scope] or {}
  return scopes[scope]
end
for _, window in ipairs(known.windows) do
  window_of(windows_of(window[1]), tonumber(window[2])).spent = money(window[3])
end
for _, hold in ipairs(known.holds) do
  local amount, named = string.match(hold[3], '^%d+ %d+ (%d+) ([^\n]*)')
  for number, scope in string.gmatch(named, '(%d+):(%S+)') do
    local window = window_of(windows_of(scope), tonumber(number))
    window.held, window.holds = plus(window.held, money(amount)), window.holds + 1
  end
  redis.call('HSET', KEYS[2], hold[1], hold[3], 'r:' .. hold[2], hold[1])
  redis.call('ZADD', KEYS[3], int(now), hold[1])
end
for scope, windows in pairs(scopes) do
  local packed = {}
  for _, window in ipairs(windows) do
    packed[#packed + 1] = int(window.number) .. ' ' .. text(window.spent) .. ' '
      .. text(window.held) .. ' ' .. int(window.holds)
  end
  redis.call('HSET', KEYS[1], '$' .. scope, table.concat(packed, ' '))
end
redis.call('PEXPIRE', KEYS[2], HOLDS_MS)
redis.call('PEXPIRE', KEYS[3], HOLDS_MS)

local AT_ONCE = 1000 -- what fits on Lua's stack is 8000
for at, times in ipairs(known.minutes) do
  local key = KEYS[3 + at]
  redis.call('DEL', key)
  local first, last = 1, #times
  while first <= last and tonumber(times[first]) <= now - MINUTE do first = first + 1 end
  for ahead = last, first, -1 do -- of a clock that was ahead: for a minute at most
    if tonumber(times[ahead]) <= now then break end
    times[ahead] = int(now)
  end
  for from = first, last, AT_ONCE do
    redis.call('RPUSH', key, unpack(times, from, math.min(from + AT_ONCE - 1, last)))
  end
  redis.call('PEXPIRE', key, LIST_MS)
end
redis.call('HSET', KEYS[1], 'seeded', '1', 'used', int(now))
redis.call('PEXPIRE', KEYS[1], ACCOUNT_MS)
return 1
