-- What a seed or a comparison of the account begins with. What is of another epoch is dropped here:
-- it is from a snapshot, or of a node that may have been behind.
--
--   ARGV[3]  a name that no account had before, for one that is made now
--
-- Returns life, generation, now, '1' if seeded, the number of open holds, their ids, then scopes and
-- windows in turn: "$<scope>", "number spent held holds …".

local UNSEEDED_MS = 600000

local now = clock()
local fields = redis.call('HGETALL', KEYS[1])
local found = {}
for at = 1, #fields, 2 do found[fields[at]] = fields[at + 1] end
if found.epoch ~= epoch_of_connection then
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
  found = { life = ARGV[3], generation = '1', seeded = '0' }
  redis.call('HSET', KEYS[1], 'epoch', epoch_of_connection, 'life', found.life, 'generation', '1',
    'seeded', '0', 'used', int(now))
  redis.call('PEXPIRE', KEYS[1], UNSEEDED_MS)
end
local ids = redis.call('ZRANGE', KEYS[3], 0, -1)
local told = { found.life, found.generation, int(now), found.seeded, int(#ids) }
for _, id in ipairs(ids) do told[#told + 1] = id end
for field, value in pairs(found) do
  if string.sub(field, 1, 1) == '$' then
    told[#told + 1] = field
    told[#told + 1] = value
  end
end
return told
