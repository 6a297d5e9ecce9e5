-- Turn a hold into the charge of its row, in the hold's own windows. One script, as sums are read
-- and written.
--
--   KEYS[4]  the request's mark
--   ARGV[3]  hold id;  ARGV[4] the charge in nano-USD;  ARGV[5] request id
--
-- Returns 1, or 0 where no such hold is open. The generation goes up in any case: whoever reads SQL
-- for a seed just now may not have seen the row.

local now = clock()
local found = redis.call('HMGET', KEYS[1], 'epoch', 'generation', 'used')
local kept = found[1] == epoch_of_connection and redis.call('HGET', KEYS[2], ARGV[3])
if kept then -- first, as a Redis whose memory is full lets a script go on that began with less
  redis.call('HDEL', KEYS[2], ARGV[3], 'r:' .. ARGV[5])
  redis.call('ZREM', KEYS[3], ARGV[3])
end
if found[2] then redis.call('HINCRBY', KEYS[1], 'generation', 1) end
if not kept then return 0 end

local amount, named = string.match(kept, '^%d+ %d+ (%d+) ([^\n]*)')
local held, charge, written = money(amount), money(ARGV[4]), {}
for number, scope in string.gmatch(named, '(%d+):(%S+)') do
  local field = '$' .. scope
  local windows = read_windows(redis.call('HGET', KEYS[1], field))
  local window = window_of(windows, tonumber(number))
  window.held, window.holds = minus(window.held, held), window.holds - 1
  window.spent = plus(window.spent, charge)
  written[#written + 1] = field
  written[#written + 1] = pack_windows(windows)
end
if #written > 0 then redis.call('HSET', KEYS[1], unpack(written)) end
redis.call('SET', KEYS[4], 'E ' .. int(now + MINUTE), 'PX', REMEMBERED_MS)
use(found[3], now)
return 1
