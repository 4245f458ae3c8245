-- Loads an account: from what PostgreSQL had of it, the journal entries that came after, and its open holds.
--
-- Refuses if PostgreSQL was read too early: before a change of credits or versions that Redis has seen, or before an entry
-- that has since left the journal. Then the caller reads it again.
--
-- KEYS account, catalogue, holds (hashes), journal (stream)
-- ARGV epoch              that the caller had entered before it read PostgreSQL
--      account_id         as records have it
--      account_version, credit_seq
--      balance            without what the journal charges up to `counted_upto`
--      catalogue_version
--      counted_upto       journal id up to which the caller has counted
--      clock_skew_ms      by which the clocks of gateways may differ
--      unpublished        credit changes up to `credit_seq` that are still to be applied: "credit_seq amount credit_seq .."
--      calls_minute, calls_hour, calls_day    counted in each window: "bucket count bucket count .."
--
-- Reply: LOADED now or before   STALE_SNAPSHOT read PostgreSQL again   EPOCH_NOT_OPEN   WRONG_EPOCH another one, or none
--
-- Windows are bounds: a call that only PostgreSQL, the journal or a hold remembers counts from the clock of its prefix on,
-- plus what that clock may be behind, but never later than now.
--
-- Uses `replay_window.lua` and `records.lua`.

local account, catalogue, holds, journal = unpack(KEYS)
local epoch, account_id, account_version, credit_seq, balance, catalogue_version, counted_upto, clock_skew_ms,
  unpublished, calls_minute, calls_hour, calls_day = unpack(ARGV)

local function raise_version(key, version)
  local here = redis.call('HGET', key, VERSION_FIELD)
  if not here or tonumber(here) < tonumber(version) then
    redis.call('HSET', key, VERSION_FIELD, version)
  end
end

local partition = redis.call('HMGET', catalogue, EPOCH_FIELD, OPENS_AT_FIELD, TRIMMED_FIELD)
if partition[1] ~= epoch then
  return WRONG_EPOCH
end
local found = redis.call('HMGET', account, STATE_FIELD, VERSION_FIELD, CREDIT_SEQ_FIELD, EPOCH_FIELD)
if found[1] and found[4] == epoch then
  raise_version(account, account_version)
  raise_version(catalogue, catalogue_version)
  return LOADED
end
local now = now_ms()
if is_replaying(partition[2], now) then
  return EPOCH_NOT_OPEN
end
local is_of_epoch = found[4] == epoch -- else its versions may be of a history that PostgreSQL has lost
if is_of_epoch
  and (tonumber(found[2] or 0) > tonumber(account_version) or tonumber(found[3] or 0) > tonumber(credit_seq)) then
  return STALE_SNAPSHOT
end
if is_past(partition[3] or '0-0', counted_upto) then
  return STALE_SNAPSHOT
end
local entries = redis.call('XRANGE', journal, '(' .. counted_upto, '+', 'COUNT', MAX_ENTRIES + 1)
if #entries > MAX_ENTRIES then
  return STALE_SNAPSHOT
end

local credits, in_flight, moments = balance + 0, 0, {}
for _, entry in ipairs(entries) do
  local field, record, is_correction = unpack(entry[2])
  if string.find(record, account_id, 1, true) then
    local values = columns(record)
    if values[USER_ID] == account_id then
      local charge = credits_of(field, values)
      if is_correction or not charge then
        return STALE_SNAPSHOT -- only PostgreSQL knows whether a correction charges anything
      end
      credits = credits - charge
      moments[#moments + 1] = values[CREATED_AT]
    end
  end
end
for _, hold in ipairs(redis.call('HVALS', holds)) do
  if string.find(hold, account_id, 1, true) then
    local held, prefix = string.match(hold, '^(%d+)\t[^\t]*\t(.*)$')
    local values = prefix_columns(prefix)
    if values[USER_ID] == account_id then
      credits, in_flight = credits - held, in_flight + 1
      moments[#moments + 1] = values[CREATED_AT]
    end
  end
end

local s = {now, credits, in_flight}
local writes = {}
for window, calls_counted in ipairs({calls_minute, calls_hour, calls_day}) do
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
  for bucket, calls in string.gmatch(calls_counted, '(%d+) (%d+)') do
    count(tonumber(bucket), tonumber(calls))
  end
  for _, moment in ipairs(moments) do
    count(math.floor((moment / 1000 + clock_skew_ms) / STEP_MS[window]), 1)
  end
  table.sort(buckets)
  for place = 1, #buckets - 1 do
    writes[#writes + 1] = RINGS[window] .. buckets[place] % (STEPS + 1)
    writes[#writes + 1] = struct.pack(BUCKET, counts[buckets[place]], buckets[place + 1])
  end
  local last = buckets[#buckets] or 0
  local at = window * 4
  s[at], s[at + 1], s[at + 2], s[at + 3] = buckets[1] or 0, last, counts[last] or 0, total
end
-- Budgets were counted by calls that may be lost; `load_key_budget.lua` counts them from the start.
for _, name in ipairs(redis.call('HKEYS', account)) do
  local kind = string.sub(name, 1, 2)
  if kind == KEY_PREFIX or kind == BUDGET_PREFIX then
    redis.call('HDEL', account, name)
  end
end
redis.call(
  'HSET', account, STATE_FIELD, struct.pack(STATE, unpack(s)), VERSION_FIELD, account_version,
  CREDIT_SEQ_FIELD, credit_seq, UNPUBLISHED_FIELD, unpublished, EPOCH_FIELD, epoch, unpack(writes)
)
raise_version(catalogue, catalogue_version)
return LOADED
