-- Settles a call that has no hold. Once.
--
-- Where the sweeper has given it up, its gateway was only frozen, or had spooled the settlement: the hold went back then,
-- so the charge is taken from the balance in full, and may take it below zero. The journal gets the whole record again,
-- with the balance that this leaves, marked as a correction: the field `k` behind the record says `c`.
--
-- A call whose Idempotency-Key another call has claimed meanwhile stays abandoned: only one of them may count.
--
-- KEYS 1 account (hash)   2 swept (string)   3 journal (stream)   4 catalogue (hash)
--      5 claim (hash), only of a call with an Idempotency-Key
-- ARGV 1 credits to charge   2 record tail   3 epoch in which the call was admitted, or empty: not known
--      4 request id   5 seconds for which to remember the claim   6 fingerprint
--      7 any answer, if there is one, which is not stored: all only with a claim
--
-- Reply: {1, balance, journal id}, or {0, 0, id of the newest journal entry} if it has been settled before, or was swept
-- so long ago that nobody remembers; or {2} if its epoch is over, and `replay.lua` must settle it; or {3} if it stays
-- abandoned. None of these changes anything.
-- An account that went cold meanwhile is charged by its record alone; its balance is then none.
--
-- Uses `budgets.lua`.
--
-- Example: EVALSHA .. 4 {p07}:a:<uuid> {p07}:x:<id> {p07}:j {p07}:c 1 "succeeded\t200\t.." <epoch>

local head = redis.call('GET', KEYS[2])
if not head and ARGV[3] ~= '' and redis.call('HGET', KEYS[4], 'e') ~= ARGV[3] then
  return {2}
end
if not head then
  local newest = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
  return {0, 0, newest and newest[1] or '0-0'}
end
local claimed_by = KEYS[5] and redis.call('HGET', KEYS[5], 'r')
local is_claimed = claimed_by and claimed_by ~= ARGV[4]
if is_claimed and ARGV[7] then
  return {3}
end
local balance, record = false, head .. '\t' .. ARGV[2]
local state = redis.call('HGET', KEYS[1], 's')
if state then
  local clock, before = struct.unpack('<i8i8', state)
  balance = before - ARGV[1]
  redis.call('HSET', KEYS[1], 's', struct.pack('<i8i8', clock, balance) .. string.sub(state, 17))
  spend(KEYS[1], state, head, ARGV[1])
  record = record .. string.format('\t%d', balance) -- `..` writes large numbers as 1e+15
end
redis.call('DEL', KEYS[2])
if KEYS[5] and ARGV[7] then
  redis.call('HSET', KEYS[5], 'f', ARGV[6], 'r', ARGV[4], 'a', '')
  redis.call('EXPIRE', KEYS[5], ARGV[5])
elseif KEYS[5] and not is_claimed then
  redis.call('DEL', KEYS[5])
end
return {1, balance, redis.call('XADD', KEYS[3], '*', 'r', record, 'k', 'c')}
