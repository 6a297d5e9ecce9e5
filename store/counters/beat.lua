-- The request is still running.
--
--   ARGV[3]  hold id
--
-- Returns 1, or 0 where no such hold is open.

local now = clock()
local found = redis.call('HMGET', KEYS[1], 'epoch', 'used')
if found[1] ~= epoch_of_connection or not redis.call('ZSCORE', KEYS[3], ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[3], int(now), ARGV[3])
use(found[2], now)
return 1
