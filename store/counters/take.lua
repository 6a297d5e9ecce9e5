-- Take one request and the draft's money of every limit, or nothing of any. One script, as what
-- two workers find free apart from each other they would both take.
--
--   KEYS[4]  the request's mark; KEYS[5] the mark of an abandoned take; KEYS[6…] lists of minutes
--   ARGV[3]  request id
--   ARGV[4]  hold id, empty without a draft;  ARGV[5] its nano-USD;  ARGV[6] the draft as JSON
--   ARGV[7]  '1' where this very take may have run before: it does not count as another Check
--   ARGV[8…] limits, see limits.lua
--
-- Returns text: "0" not seeded; "1 now" ended; "2 now standings…" and, after a newline, the hold as
-- it is kept, if it has one; "3 now limit retry_us held standings…", the limit counted from 0.

local HELD_RETRY = 2000000

local now = clock()
local now_text = int(now)
local request, hold_id = ARGV[3], ARGV[4]
local marks = redis.call('MGET', KEYS[4], KEYS[5])
local mark = marks[1]
if mark and tonumber(string.sub(mark, 3)) <= now then mark = false end
if marks[2] or (mark and string.sub(mark, 1, 1) == 'E') then return '1 ' .. now_text end

local limits, fields = read_limits(8, 6)
local found = {}
if hold_id ~= '' then
  found = redis.call('HMGET', KEYS[1], 'epoch', 'seeded', 'used', 'generation',
    unpack(fields))
  if found[1] ~= epoch_of_connection or found[2] ~= '1' then return '0' end
  use(found[3], now)
end
look(limits, found, now)

if mark then return '2 ' .. now_text .. ' ' .. standings(limits, now) end
if hold_id ~= '' then
  local open = redis.call('HGET', KEYS[2], 'r:' .. request)
  if open then
    local kept = redis.call('HGET', KEYS[2], open)
    local checks, rest = string.match(kept, '^(%d+)(.*)$')
    if checks == '0' then return '1 ' .. now_text end
    if ARGV[7] ~= '1' or open ~= hold_id then
      redis.call('HSET', KEYS[2], open, int(checks + 1) .. rest)
    end
    redis.call('ZADD', KEYS[3], now_text, open)
    return '2 ' .. now_text .. ' ' .. standings(limits, now) .. '\n' .. kept
  end
end

local function refused(at, retry, held)
  return '3 ' .. now_text .. ' ' .. int(at - 1) .. ' ' .. int(retry) .. ' ' .. held .. ' '
    .. standings(limits, now)
end

local full, room = nil, 0
for at, limit in ipairs(limits) do
  if limit.kind == 'm' and limit.used >= limit.most then
    full = full or at
    room = math.max(room, over_at(limit.key, limit.first, limit.used - limit.most + 1) - now)
  end
end
if full then return refused(full, room, '0') end

local asked = money(ARGV[5])
local tight, spent = nil, nil
if asked[1] > 0 or asked[2] > 0 then
  for at, limit in ipairs(limits) do
    if limit.budget then
      local window, most = limit.window, limit.budget
      local total = plus(window.spent, window.held)
      local fits, would
      if limit.kind == 's' then
        fits, would = less(total, most), less(window.spent, most)
      else
        fits = not less(most, plus(total, asked))
        would = not less(most, plus(window.spent, asked))
      end
      if not fits then
        tight = tight or at
        if not would and (not spent or limit.ends > limits[spent].ends) then spent = at end
      end
    end
  end
end
if spent then return refused(spent, limits[spent].ends - now, '0') end
if tight then return refused(tight, HELD_RETRY, '1') end

for _, limit in ipairs(limits) do
  if limit.kind == 'm' then push(limit, now, now_text) end
end
if hold_id == '' then
  redis.call('SET', KEYS[4], 'P ' .. int(now + MINUTE), 'PX', REMEMBERED_MS)
  return '2 ' .. now_text .. ' ' .. standings(limits, now)
end

local named, written, fresh = {}, { 'generation', int(found[4] + 1) }, false
for _, limit in ipairs(limits) do
  if limit.kind ~= 'm' then
    local window = limit.window
    window.held, window.holds = plus(window.held, asked), window.holds + 1
    if window.holds == 1 then fresh = true end
    if limit.turned then written[3], written[4] = 'used', int(math.max(now, found[3])) end
    named[#named + 1] = format('%d:%s', window.number, limit.scope)
  end
end
for _, limit in ipairs(limits) do
  if limit.kind ~= 'm' then
    written[#written + 1] = limit.field
    written[#written + 1] = pack_windows(limit.windows)
  end
end
redis.call('HSET', KEYS[1], unpack(written))
local figures = format('1 %s %s %s', now_text, ARGV[5], table.concat(named, ' '))
redis.call('HSET', KEYS[2], hold_id, figures .. '\n' .. ARGV[6], 'r:' .. request, hold_id)
redis.call('ZADD', KEYS[3], now_text, hold_id)
if fresh then -- there may have been none before, and so no such keys
  redis.call('PEXPIRE', KEYS[2], HOLDS_MS)
  redis.call('PEXPIRE', KEYS[3], HOLDS_MS)
end
return '2 ' .. now_text .. ' ' .. standings(limits, now) .. '\n' .. figures
