-- Sliding minutes: a request that was taken at t counts in [t, t + 60 s).

local HALF = MINUTE / 2

-- Drop what is over. How many are left, and when the oldest and the newest were. Times that are still to come were
-- taken by a clock that was ahead: they count as now, so that they block for a minute at most.
local function trim(key, now)
  local last = redis.call('LINDEX', key, -1)
  if not last then return 0, 0, 0 end
  last = tonumber(last)
  if last > now then
    local times = redis.call('LRANGE', key, 0, -1)
    for at, time in ipairs(times) do
      if tonumber(time) > now then redis.call('LSET', key, at - 1, int(now)) end
    end
  end
  local horizon = now - MINUTE
  local first = tonumber(redis.call('LINDEX', key, 0))
  while first and first <= horizon do
    local times = redis.call('LRANGE', key, 0, 127)
    local over = 0
    while times[over + 1] and tonumber(times[over + 1]) <= horizon do over = over + 1 end
    redis.call('LTRIM', key, over, -1)
    first = tonumber(times[over + 1] or redis.call('LINDEX', key, 0) or nil)
  end
  if not first then return 0, 0, 0 end
  return redis.call('LLEN', key), first, last
end

-- One more. The list is given two minutes at its first and at the first in each half minute: an
-- entry counts for one.
local function push(limit, now, now_text)
  redis.call('RPUSH', limit.key, now_text)
  if limit.used == 0 then limit.first = now end
  if limit.used == 0 or now - now % HALF > limit.last then
    redis.call('PEXPIRE', limit.key, LIST_MS)
  end
  limit.used = limit.used + 1
end

-- When so many of a minute's requests, the oldest, are over.
local function over_at(key, first, number)
  if number > 1 then first = tonumber(redis.call('LINDEX', key, number - 1)) end
  return first + MINUTE
end

-- "used grows_in": how a minute stands.
local function standing_of(key, used, first, most, now)
  if used == 0 then return '0 0' end
  local over = used - most -- a limit may have been lowered
  if over < 0 then over = 0 end
  return format('%d %.0f', used, over_at(key, first, over + 1) - now)
end
