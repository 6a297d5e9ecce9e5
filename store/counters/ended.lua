-- Remember requests of the account whose holds have ended, before it is seeded: that they have is so
-- whether it comes to be seeded or not. Some at a time, as nobody else is served meanwhile.
--
--   KEYS[4…] marks of requests;  ARGV[3…] when each ended (µs)

local now = clock()
for at = 4, #KEYS do
  local left = math.min(tonumber(ARGV[at - 1]), now) + MINUTE - now
  if left > 0 then
    redis.call('SET', KEYS[at], 'E ' .. int(now + left), 'PX', REMEMBERED_MS)
  end
end
return 1
