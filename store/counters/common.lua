-- What every script begins with. FROZEN FORMAT: what stands in Redis is read by other versions of
-- this code while they are rolled out; fields are appended, and none changes its meaning.
--
-- All keys of one account lie under its hash tag, so each script is one step on one node:
--   KEYS[1]  tg:{account}:account  hash: epoch, life, generation, seeded, used (µs), and for each
--                                  scope "$<scope>": its windows as "number spent held holds …"
--   KEYS[2]  tg:{account}:holds    hash: hold id → "checks admitted_us nanousd n:scope …\n<draft>"
--                                  (checks 0: closed); "r:<request id>" → hold id
--   KEYS[3]  tg:{account}:beats    sorted set: hold id by its last sign of life (µs)
-- and, named by the scripts that use them:
--   tg:{account}:m:<scope>         list: when requests of the last minute were admitted (µs)
--   tg:{account}:r:<request id>    "E <until µs>" ended, "P <until µs>" passed without a hold
--   tg:{account}:x:<hold id>       a take of this hold id was abandoned: it must not come late
--   tg:{account}:g:<its own name>  a Check has given its hold back: that counts once
--
--   ARGV[1]  the epoch of the connection; ARGV[2] the time in µs, empty for the node's own clock
--
-- Money is nano-USD up to int64 and its sums; Lua's numbers are doubles, exact below 2^53 (9 million
-- USD). So it is two limbs to the base of 10^9, and decimal text outside. Times in µs fit a double.

local MINUTE = 60000000
local REMEMBERED_MS = 61000     -- a minute, and a little, as the text says when it is over
local LIST_MS = 121000          -- of a list of a minute, see push
local IDLE = 60 * MINUTE        -- an account that is idle for so long is given up by the sweeper
local REFRESH = 10 * MINUTE     -- how exactly we know for how long
local ACCOUNT_MS = 86400000     -- and what becomes of it where no sweeper runs: a day, and
local HOLDS_MS = 172800000      -- its holds later, as they count only beside their account

local epoch_of_connection = ARGV[1]

local function clock()
  if ARGV[2] ~= '' then return tonumber(ARGV[2]) end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local format = string.format

-- A whole number as text. (What Lua makes of one by itself has 14 digits.)
local function int(number)
  return format('%.0f', number)
end

-- The account is in use; at most each REFRESH that is written down. It never goes back. Its holds
-- are given as long once more: they must not go before it does.
local function use(used, now)
  used = tonumber(used)
  if not used or now - used >= REFRESH then redis.call('HSET', KEYS[1], 'used', int(now)) end
  if not used or now - used >= REFRESH or now < used then
    redis.call('PEXPIRE', KEYS[1], ACCOUNT_MS)
    redis.call('PEXPIRE', KEYS[2], HOLDS_MS)
    redis.call('PEXPIRE', KEYS[3], HOLDS_MS)
  end
end
