-- Counts what was spent from the budget of some keys in a period: from what PostgreSQL had of it, the journal entries that
-- came after, and open holds. From then on `admit.lua`, `settle.lua` and `late.lua` keep the count.
--
-- Unless PostgreSQL was read too early: before an entry that has since left the journal. Then it is read again.
--
-- KEYS 1 account (hash)   2 catalogue (hash)   3 holds (hash)   4 journal (stream)
-- ARGV 1 budget   2 start of the period, in microseconds since the epoch
--      3 credits spent without what the journal charges past 4   4 journal id up to which the caller has counted
--      5.. keys that spend from the budget
--
-- Reply: 1 counted   0 read PostgreSQL again   3 the account is cold: load it first
--
-- Uses `records.lua`.

local STATE_BYTES = 68
local COUNTS = '\1'
local partition = redis.call('HMGET', KEYS[2], 'e', 't')
local account = redis.call('HMGET', KEYS[1], 's', 'e')
if not account[1] or not partition[1] or account[2] ~= partition[1] then
  return 3
end
if is_past(partition[2] or '0-0', ARGV[4]) then
  return 0
end
local entries = redis.call('XRANGE', KEYS[4], '(' .. ARGV[4], '+', 'COUNT', MAX_ENTRIES + 1)
if #entries > MAX_ENTRIES then
  return 0
end

local keys, since, spent = {}, tonumber(ARGV[2]), tonumber(ARGV[3])
for number = 5, #ARGV do
  keys[ARGV[number]] = true
end
for _, entry in ipairs(entries) do
  local found = columns(entry[2][2])
  if keys[found[KEY_ID]] and tonumber(found[CREATED_AT]) >= since then
    if entry[2][3] then
      return 0 -- a correction: only PostgreSQL knows whether it charges anything
    end
    spent = spent + (tonumber(found[CREDITS]) or 0)
  end
end
for _, hold in ipairs(redis.call('HVALS', KEYS[3])) do
  local held, head = string.match(hold, '^(%d+)\t[^\t]*\t(.*)$')
  local found = columns(head)
  if keys[found[KEY_ID]] and tonumber(found[CREATED_AT]) >= since then
    spent = spent + held
  end
end

local writes = {'s', string.sub(account[1], 1, STATE_BYTES) .. COUNTS}
for key in pairs(keys) do
  writes[#writes + 1] = 'k:' .. key
  writes[#writes + 1] = ARGV[1]
end
redis.call('HSET', KEYS[1], 'b:' .. ARGV[1], struct.pack('<i8i8I4', since, spent, #ARGV - 4), unpack(writes))
return 1
