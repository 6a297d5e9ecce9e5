-- One Check less has a hold, or its request's end is known. One script, as the count is read and
-- written.
--
--   KEYS[4]  the mark of this giving, or of an abandoned take: '1' it was done, '0' and closed it
--   ARGV[3]  hold id
--   ARGV[4]  'give': one Check is not alive any more; 'close': no further Check is given the hold;
--            'abandon': as 'give', by whoever does not know whether its take ran: it never will
--
-- Returns the hold as it is kept if this closed it, else an empty text. Who gives or abandons and
-- hears nothing asks again with the same mark: it counts once, and the answer is the same.

local marked = ARGV[4] ~= 'close'
local before = marked and redis.call('GET', KEYS[4])
if marked and not before then redis.call('SET', KEYS[4], '1', 'PX', REMEMBERED_MS) end
if redis.call('HGET', KEYS[1], 'epoch') ~= epoch_of_connection then return '' end
local kept = redis.call('HGET', KEYS[2], ARGV[3])
if not kept then return '' end
local checks, rest = string.match(kept, '^(%d+)(.*)$')
checks = tonumber(checks)
if before then return before == '0' and checks == 0 and kept or '' end
if checks == 0 then return '' end
checks = marked and checks - 1 or 0
redis.call('HSET', KEYS[2], ARGV[3], int(checks) .. rest)
if checks > 0 then return '' end
if marked then redis.call('SET', KEYS[4], '0', 'PX', REMEMBERED_MS) end
return '0' .. rest
