-- Applies one change of credits that PostgreSQL has committed: a grant, an adjustment, an expiry. Once, and in order.
--
-- KEYS account (hash)
-- ARGV credit_seq (counts the account's changes from 1), amount (signed)
--
-- Reply: APPLIED   DUPLICATE it was applied before   SEQUENCE_GAP an earlier change is missing, apply that first
--   NOT_LOADED only the sequence is stored, so that a load which read PostgreSQL before this change is refused

local account = unpack(KEYS)
local credit_seq, amount = unpack(ARGV)

local found = redis.call('HMGET', account, STATE_FIELD, CREDIT_SEQ_FIELD)
local state, applied = found[1], tonumber(found[2] or 0)
if tonumber(credit_seq) <= applied then
  return DUPLICATE
end
if not state then
  redis.call('HSET', account, CREDIT_SEQ_FIELD, credit_seq)
  return NOT_LOADED
end
if tonumber(credit_seq) > applied + 1 then
  return SEQUENCE_GAP
end
local clock, balance = struct.unpack(CLOCK_AND_BALANCE, state)
local changed = struct.pack(CLOCK_AND_BALANCE, clock, balance + amount) .. string.sub(state, AFTER_BALANCE)
redis.call('HSET', account, STATE_FIELD, changed, CREDIT_SEQ_FIELD, credit_seq)
return APPLIED
