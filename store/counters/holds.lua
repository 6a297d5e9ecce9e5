-- Open holds, as they are kept.
--
--   ARGV[3]  'one': of the id ARGV[4]
--            'all'
--            'overdue': at most 1000 without a sign of life for ARGV[4] µs. An account that was not
--            used for an hour and has no holds is given up; its next take is not seeded.
--
-- Returns a list of them; for 'overdue', before them, '1' if there is no account (any more), so that
-- it may leave the sweep index.

local now = clock()
local found = redis.call('HMGET', KEYS[1], 'epoch', 'used')
local ours = found[1] == epoch_of_connection
if ARGV[3] == 'one' then
  return { ours and redis.call('HGET', KEYS[2], ARGV[4]) or nil }
end
local kept = {}
if ARGV[3] == 'all' then
  if not ours then return kept end
  for at, value in ipairs(redis.call('HGETALL', KEYS[2])) do
    if at % 2 == 1 then
      kept.take = string.sub(value, 1, 2) ~= 'r:'
    elseif kept.take then
      kept[#kept + 1] = value
    end
  end
  kept.take = nil
  return kept
end

if not found[1] then return { '1' } end
if not ours then return { '0' } end
if redis.call('ZCARD', KEYS[3]) == 0 then
  if now - tonumber(found[2]) < IDLE then return { '0' } end
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
  return { '1' }
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. int(now), '+inf')) do
  redis.call('ZADD', KEYS[3], int(now), id) -- seen by a clock that was ahead
end
local silent =
  redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', int(now - tonumber(ARGV[4])), 'LIMIT', 0, 1000)
if #silent > 0 then kept = redis.call('HMGET', KEYS[2], unpack(silent)) end
table.insert(kept, 1, '0')
return kept
