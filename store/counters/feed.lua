-- Tells everybody who listens one line of the feed, with a number that is one more than the last.
--
-- KEYS[1]  the number of the newest line (tg:{feed}:number); whoever misses one sees the gap
-- ARGV[1]  the epoch, as for every script, and not needed here
-- ARGV[2]  the channel;  ARGV[3] the line (store/push.py)
--
-- One script, as two who number first and publish then could do the second in the other order, and
-- every listener would see a gap. Returns the number.
local number = redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[2], string.format('%.0f ', number) .. ARGV[3])
return number
