-- Loads what some keys have spent from a budget in a period: from what PostgreSQL had of it, the journal entries that came
-- after, and open holds. From then on `admit.lua`, `settle.lua` and `late_settlement.lua` keep the count.
--
-- Refuses if PostgreSQL was read before an entry that has since left the journal. Then the caller reads it again.
--
-- KEYS account, catalogue, holds (hashes), journal (stream)
-- ARGV budget_id
--      since              start of the period, in microseconds since the epoch
--      credits            spent without what the journal charges past `counted_upto`
--      counted_upto       journal id up to which the caller has counted
--      key_ids            of all keys that spend from the budget, separated by spaces
--
-- Reply: LOADED   STALE_SNAPSHOT read PostgreSQL again   WRONG_EPOCH the account is not loaded: load it first
--
-- Uses `records.lua`.

local account, catalogue, holds, journal = unpack(KEYS)
local budget_id, since, credits, counted_upto, key_ids = unpack(ARGV)

local partition = redis.call('HMGET', catalogue, EPOCH_FIELD, TRIMMED_FIELD)
local found = redis.call('HMGET', account, STATE_FIELD, EPOCH_FIELD)
if not found[1] or not partition[1] or found[2] ~= partition[1] then
  return WRONG_EPOCH
end
if is_past(partition[2] or '0-0', counted_upto) then
  return STALE_SNAPSHOT
end
local entries = redis.call('XRANGE', journal, '(' .. counted_upto, '+', 'COUNT', MAX_ENTRIES + 1)
if #entries > MAX_ENTRIES then
  return STALE_SNAPSHOT
end

local period, spent = tonumber(since), tonumber(credits)
local keys, key_count = {}, 0
local writes = {STATE_FIELD, string.sub(found[1], 1, STATE_BYTES) .. HAS_BUDGETS}
for key in string.gmatch(key_ids, '%S+') do
  keys[key], key_count = true, key_count + 1
  writes[#writes + 1] = KEY_PREFIX .. key
  writes[#writes + 1] = budget_id
end
for _, entry in ipairs(entries) do
  local field, record, is_correction = unpack(entry[2])
  local values = columns(record)
  if keys[values[KEY_ID]] and tonumber(values[CREATED_AT]) >= period then
    local charge = credits_of(field, values)
    if is_correction or not charge then
      return STALE_SNAPSHOT -- only PostgreSQL knows whether a correction charges anything
    end
    spent = spent + charge
  end
end
for _, hold in ipairs(redis.call('HVALS', holds)) do
  local held, prefix = string.match(hold, '^(%d+)\t[^\t]*\t(.*)$')
  local values = prefix_columns(prefix)
  if keys[values[KEY_ID]] and tonumber(values[CREATED_AT]) >= period then
    spent = spent + held
  end
end
local budget = struct.pack(BUDGET, period, spent, key_count)
redis.call('HSET', account, BUDGET_PREFIX .. budget_id, budget, unpack(writes))
return LOADED
