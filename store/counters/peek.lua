-- How limits stand. Takes nothing.
--
--   KEYS[4…] lists of minutes;  ARGV[3…] limits, see limits.lua
--
-- Returns "0" where money is asked for and the account is not seeded, else "2 now standings…".

local now = clock()
local limits, fields = read_limits(3, 4)
local found = {}
if #fields > 0 then
  found = redis.call('HMGET', KEYS[1], 'epoch', 'seeded', 'used', 'generation',
    unpack(fields))
  if found[1] ~= epoch_of_connection or found[2] ~= '1' then return '0' end
end
look(limits, found, now)
return '2 ' .. int(now) .. ' ' .. standings(limits, now)
