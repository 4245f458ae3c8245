-- Makes a cold account hot: from what PostgreSQL had of it, the journal entries that came after, and its open holds.
--
-- Unless PostgreSQL was read too early: before a change of credits or versions that has passed by here, or before an
-- entry that has since left the journal. Then it is read again.
--
-- KEYS 1 account (hash)   2 catalogue (hash)   3 holds (hash)   4 journal (stream)
-- ARGV 1 epoch that the caller has entered     2 account id, as records have it
--      3 account version  4 credit sequence    5 balance without what the journal charges up to 7   6 catalogue version
--      7 journal id up to which the caller has counted
--      8 milliseconds by which gateways' clocks may differ
--      9 10 11 calls counted in the minute, hour, day windows: "bucket count bucket count .."
--
-- Reply: 1 hot, now or already   0 read PostgreSQL again   2 the epoch is not open yet   3 lost: another epoch or none
--
-- Windows are bounds: a call that only PostgreSQL, the journal or a hold remembers counts from its head's clock on, and
-- as late as that may differ from ours, but never later than now.
--
-- Uses `openings.lua` and `records.lua`.

local STATE = '<i8i8i4I4I4I4I4I4I4I4I4I4I4I4I4'
local BUCKET = '<I4I4'
local STEPS = 60
local STEP_MS = {1000, 60000, 1440000}
local RING = {'m', 'h', 'd'}

local function raise(key, version)
  local here = redis.call('HGET', key, 'v')
  if not here or tonumber(here) < tonumber(version) then
    redis.call('HSET', key, 'v', version)
  end
end

local partition = redis.call('HMGET', KEYS[2], 'e', 'o', 't')
if partition[1] ~= ARGV[1] then
  return 3
end
local account = redis.call('HMGET', KEYS[1], 's', 'v', 'c', 'e')
if account[1] and account[4] == ARGV[1] then
  raise(KEYS[1], ARGV[3])
  raise(KEYS[2], ARGV[6])
  return 1
end
local now = now_ms()
if is_closed(partition[2], now) then
  return 2
end
if tonumber(account[2] or 0) > tonumber(ARGV[3]) or tonumber(account[3] or 0) > tonumber(ARGV[4]) then
  return 0
end
if is_past(partition[3] or '0-0', ARGV[7]) then
  return 0
end
local entries = redis.call('XRANGE', KEYS[4], '(' .. ARGV[7], '+', 'COUNT', MAX_ENTRIES + 1)
if #entries > MAX_ENTRIES then
  return 0
end

local balance, in_flight, moments = ARGV[5] + 0, 0, {}
for _, entry in ipairs(entries) do
  local record = entry[2][2]
  if string.find(record, ARGV[2], 1, true) then
    local found = columns(record)
    if found[USER_ID] == ARGV[2] then
      if entry[2][3] then
        return 0 -- a correction: only PostgreSQL knows whether it charges anything
      end
      balance = balance - (tonumber(found[CREDITS]) or 0)
      moments[#moments + 1] = found[CREATED_AT]
    end
  end
end
for _, hold in ipairs(redis.call('HVALS', KEYS[3])) do
  if string.find(hold, ARGV[2], 1, true) then
    local held, head = string.match(hold, '^(%d+)\t[^\t]*\t(.*)$')
    local found = columns(head)
    if found[USER_ID] == ARGV[2] then
      balance, in_flight = balance - held, in_flight + 1
      moments[#moments + 1] = found[CREATED_AT]
    end
  end
end

local s = {now, balance, in_flight}
local writes = {}
for window = 1, 3 do
  local current = math.floor(now / STEP_MS[window])
  local counts, buckets, total = {}, {}, 0
  local function count(bucket, calls)
    bucket = math.min(bucket, current)
    if bucket < current - STEPS then
      return
    end
    if not counts[bucket] then
      buckets[#buckets + 1] = bucket
    end
    counts[bucket] = (counts[bucket] or 0) + calls
    total = total + calls
  end
  for bucket, calls in string.gmatch(ARGV[8 + window], '(%d+) (%d+)') do
    count(tonumber(bucket), tonumber(calls))
  end
  for _, moment in ipairs(moments) do
    count(math.floor((moment / 1000 + ARGV[8]) / STEP_MS[window]), 1)
  end
  table.sort(buckets)
  for place = 1, #buckets - 1 do
    writes[#writes + 1] = RING[window] .. buckets[place] % (STEPS + 1)
    writes[#writes + 1] = struct.pack(BUCKET, counts[buckets[place]], buckets[place + 1])
  end
  local last = buckets[#buckets] or 0
  local at = window * 4
  s[at], s[at + 1], s[at + 2], s[at + 3] = buckets[1] or 0, last, counts[last] or 0, total
end
-- What keys have spent was counted by calls that may be gone: `count.lua` counts anew.
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.match(name, '^[kb]:') then
    redis.call('HDEL', KEYS[1], name)
  end
end
redis.call('HSET', KEYS[1], 's', struct.pack(STATE, unpack(s)), 'v', ARGV[3], 'c', ARGV[4], 'e', ARGV[1], unpack(writes))
raise(KEYS[2], ARGV[6])
return 1
