-- An account leaves the sweep index, unless somebody put it in again since it was looked at.
--
--   KEYS[1]  tg:sweep:{shard}, hash: account → a name for the last time that it was put in
--   ARGV[1]  the epoch, ARGV[2] the time: as for every script, and not needed here
--   ARGV[3]  account;  ARGV[4] what stood there

if redis.call('HGET', KEYS[1], ARGV[3]) ~= ARGV[4] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[3])
