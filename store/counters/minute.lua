-- Sliding minutes: a request that was taken at t counts in [t, t + 60 s).

-- Drop what is over. How many are left, and when the oldest was. Times that are still to come were
-- taken by a clock that was ahead: they count as now, so that they block for a minute at most.
local function trim(key, now)
  local last = redis.call('LINDEX', key, -1)
  if not last then return 0, 0 end
  if tonumber(last) > now then
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
  if not first then return 0, 0 end
  return redis.call('LLEN', key), first
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
  return int(used) .. ' ' .. int(over_at(key, first, over + 1) - now)
end
