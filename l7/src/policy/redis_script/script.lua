-- Takes tokens of rates, or of a quota, by the arithmetic of rate.rs and quota.rs.
--
-- KEYS[1]  what is limited; its value is pairs "moment:part" or "end:used"
-- ARGV     "rate", tokens wanted, then of each rate: count, interval, its part, usable, its
--          part, empty, its part, all in microseconds
--          "hour" | "day" | "month", tokens wanted, limit
-- Answer   tokens taken, the time in microseconds, then the pairs as they now are
--
-- Every number stays below 2^53, which doubles count exactly; %.0f writes them so, %d and
-- tostring do not on every server.

local time = redis.call('TIME')
local seconds = tonumber(time[1])
local now = seconds * 1000000 + tonumber(time[2])
local mode, want = ARGV[1], tonumber(ARGV[2])

local firsts, others = {}, {}
local kept = redis.call('GET', KEYS[1])
if kept then
  for first, second in string.gmatch(kept, '(%d+):(%d+)') do
    firsts[#firsts + 1] = tonumber(first)
    others[#others + 1] = tonumber(second)
  end
end

local function save(pairs_kept, milliseconds)
  local out = {}
  for at = 1, pairs_kept do
    out[at] = string.format('%.0f:%.0f', firsts[at], others[at])
  end
  local expiry = string.format('%.0f', milliseconds)
  redis.call('SET', KEYS[1], table.concat(out, ' '), 'PX', expiry)
end

local function answer(taken, pairs_kept)
  local out = { taken, now }
  for at = 1, pairs_kept do
    out[#out + 1] = firsts[at]
    out[#out + 1] = others[at]
  end
  return out
end

local function month_end()
  local day = math.floor(seconds / 86400) + 719468
  local of_era = day % 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (year * 365 + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  local first = math.floor((153 * month + 2) / 5)
  local length = math.floor((153 * (month + 1) + 2) / 5) - first
  if month == 11 then
    local following = year + 1
    local leap = following % 4 == 0 and (following % 100 ~= 0 or following % 400 == 0)
    length = leap and 29 or 28
  end
  return (day - (of_year - first) - 719468 + length) * 86400
end

if mode ~= 'rate' then
  local limit, ends = tonumber(ARGV[3]), nil
  if mode == 'month' then
    ends = month_end()
  else
    local length = mode == 'hour' and 3600 or 86400
    ends = (math.floor(seconds / length) + 1) * length
  end
  if firsts[1] ~= ends then
    firsts[1], others[1] = ends, 0
  end
  local taken = math.max(0, math.min(want, limit - others[1]))
  others[1] = others[1] + taken
  if taken > 0 then
    save(1, (ends - seconds) * 1000)
  end
  return answer(taken, 1)
end

local rates, changed, taken = (#ARGV - 2) / 7, false, 0
local count, interval, interval_part, usable, usable_part = {}, {}, {}, {}, {}
for at = 1, rates do
  local from = 2 + (at - 1) * 7
  count[at] = tonumber(ARGV[from + 1])
  interval[at], interval_part[at] = tonumber(ARGV[from + 2]), tonumber(ARGV[from + 3])
  usable[at], usable_part[at] = tonumber(ARGV[from + 4]), tonumber(ARGV[from + 5])
  local empty, empty_part = tonumber(ARGV[from + 6]), tonumber(ARGV[from + 7])
  firsts[at], others[at] = firsts[at] or 0, others[at] or 0
  -- Emptier than empty: left by another rate or another clock.
  if firsts[at] - now > empty + 1000000 then
    firsts[at], others[at], changed = now + empty, empty_part, true
  end
  if others[at] >= count[at] then
    firsts[at], others[at] = firsts[at] + 1, 0
  end
  if firsts[at] < now then
    firsts[at], others[at] = now, 0
  end
end

local function all_have_one()
  for at = 1, rates do
    local used = firsts[at] - now
    if used > usable[at] or used == usable[at] and others[at] > usable_part[at] then
      return false
    end
  end
  return true
end

while taken < want and all_have_one() do
  for at = 1, rates do
    local part = others[at] + interval_part[at]
    local carry = part >= count[at] and 1 or 0
    firsts[at] = firsts[at] + interval[at] + carry
    others[at] = part - carry * count[at]
  end
  taken = taken + 1
end

if taken > 0 or changed then
  local last = now
  for at = 1, rates do
    last = math.max(last, firsts[at] + 1)
  end
  save(rates, math.ceil((last - now) / 1000) + 1)
end
return answer(taken, rates)
