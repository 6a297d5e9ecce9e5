-- One Check less has a hold, or its request's end is known. One script, as the count is read and
-- written.
--
--   KEYS[4]  the mark of an abandoned take
--   ARGV[3]  hold id
--   ARGV[4]  'give': one Check is not alive any more; 'close': no further Check is given the hold;
--            'abandon': as 'give', by whoever does not know whether its take ran: it never will
--
-- Returns the hold as it is kept if this closed it, else an empty text.

if ARGV[4] == 'abandon' then redis.call('SET', KEYS[4], '1', 'PX', REMEMBERED_MS) end
if redis.call('HGET', KEYS[1], 'epoch') ~= epoch_of_connection then return '' end
local kept = redis.call('HGET', KEYS[2], ARGV[3])
if not kept then return '' end
local checks, rest = string.match(kept, '^(%d+)(.*)$')
checks = tonumber(checks)
if checks == 0 then return '' end
checks = ARGV[4] == 'close' and 0 or checks - 1
redis.call('HSET', KEYS[2], ARGV[3], int(checks) .. rest)
return checks == 0 and '0' .. rest or ''
