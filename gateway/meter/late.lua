-- Settles a call that the sweeper has given up: its gateway was only frozen, or had spooled the settlement. Once.
--
-- The hold went back when the call was swept, so the charge is taken from the balance in full, and may take it below
-- zero. The journal gets the whole record again, marked as a correction: the field `k` behind the record says `c`.
--
-- KEYS 1 account (hash)   2 swept (string)   3 journal (stream)
-- ARGV 1 credits to charge   2 record tail
--
-- Reply: {1, balance}, or {0} if the call was not swept, or so long ago that nobody remembers: nothing changes.
-- An account that went cold meanwhile is charged by its record alone; its balance is then given as 0.
--
-- Example: EVALSHA .. 3 {p07}:a:<uuid> {p07}:x:<id> {p07}:j 1 "succeeded\t200\t.."

local head = redis.call('GET', KEYS[2])
if not head then
  return {0}
end
local balance = 0
local state = redis.call('HGET', KEYS[1], 's')
if state then
  local clock, before = struct.unpack('<i8i8', state)
  balance = before - ARGV[1]
  redis.call('HSET', KEYS[1], 's', struct.pack('<i8i8', clock, balance) .. string.sub(state, 17))
end
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[3], '*', 'r', head .. '\t' .. ARGV[2], 'k', 'c')
return {1, balance}
