-- Applies one change of credits that PostgreSQL has committed: a grant, an adjustment, an expiry. Once, and in order.
--
-- KEYS 1 account (hash)
-- ARGV 1 credit sequence (counts the account's changes from 1)  2 amount, signed
--
-- Reply: 1 applied, 0 it was applied before, 2 an earlier change is missing: apply that first,
--   3 the account is cold: only the sequence is noted, so that a load which read PostgreSQL before this change is refused.

local account = redis.call('HMGET', KEYS[1], 's', 'c')
local state, sequence = account[1], tonumber(account[2] or 0)
local this = tonumber(ARGV[1])

if this <= sequence then
  return 0
end
if not state then
  redis.call('HSET', KEYS[1], 'c', ARGV[1])
  return 3
end
if this > sequence + 1 then
  return 2
end
local clock, balance = struct.unpack('<i8i8', state)
local changed = struct.pack('<i8i8', clock, balance + ARGV[2]) .. string.sub(state, 17)
redis.call('HSET', KEYS[1], 's', changed, 'c', ARGV[1])
return 1
