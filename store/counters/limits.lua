-- The limits of a take or a look, read from ARGV[from] on, four each:
--   'm'  largest number of requests, '', ''         its list is the next key from KEYS[lists] on
--   'h'  scope, created (µs), budget (nano-USD)     fits if spent + held + this hold <= budget
--   's'  scope, created, budget                     fits while spent + held < budget
--   'c'  scope, created, ''                         only counted
-- Returns them, and the fields of the account that they need.
local function read_limits(from, lists)
  local limits, scopes = {}, {}
  for at = from, #ARGV, 4 do
    local limit = { kind = ARGV[at] }
    if limit.kind == 'm' then
      limit.key, limit.most = KEYS[lists], tonumber(ARGV[at + 1])
      lists = lists + 1
    else
      limit.field, limit.created = '$' .. ARGV[at + 1], tonumber(ARGV[at + 2])
      limit.scope = ARGV[at + 1]
      if limit.kind ~= 'c' then limit.budget = money(ARGV[at + 3]) end
      scopes[#scopes + 1] = limit.field
      limit.at = #scopes
    end
    limits[#limits + 1] = limit
  end
  return limits, scopes
end

-- What stands in Redis of each limit; `found` is epoch, seeded, used, generation, and the scopes'
-- fields. A clock that was set back does not bring a window back that was over: its sums may be
-- gone. (`used` is written when a window begins.)
local function look(limits, found, now)
  local time = math.max(now, tonumber(found[3] or 0))
  for _, limit in ipairs(limits) do
    if limit.kind == 'm' then
      limit.used, limit.first, limit.last = trim(limit.key, now)
    else
      limit.windows = read_windows(found[4 + limit.at])
      limit.window, limit.turned = present(limit.windows, limit.created, time)
      limit.ends = limit.created + (limit.window.number + 1) * WINDOW
    end
  end
end

-- For each limit, in order: "used grows_in" or "spent held number ends".
local function standings(limits, now)
  local said = {}
  for at, limit in ipairs(limits) do
    if limit.kind == 'm' then
      said[at] = standing_of(limit.key, limit.used, limit.first, limit.most, now)
    else
      local window = limit.window
      said[at] = format(
        '%s %s %d %.0f', text(window.spent), text(window.held), window.number, limit.ends)
    end
  end
  return table.concat(said, ' ')
end
