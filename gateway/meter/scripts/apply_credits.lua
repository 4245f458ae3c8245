-- Applies one change of credits that PostgreSQL has committed: a grant, an adjustment, an expiry. Once, and in order.
--
-- KEYS account, catalogue (hashes)
-- ARGV epoch              in which PostgreSQL was read
--      credit_seq (counts the account's changes from 1), amount (signed)
--
-- Reply: APPLIED   SEQUENCE_GAP an earlier change is missing, apply that first
--   NOT_LOADED only the sequence is stored, so that a load which read PostgreSQL before this change is refused
--   DUPLICATE the account was loaded with it. Or a change of this number was applied, by a publisher that died before it
--     could say so, or another one, which PostgreSQL has lost since. Then the account is unloaded: its next call loads
--     what PostgreSQL has.
--   WRONG_EPOCH another one has begun, or none: read PostgreSQL again
--
-- Uses `account_epoch.lua`.

local account, catalogue = unpack(KEYS)
local epoch, credit_seq, amount = unpack(ARGV)

if (redis.call('HGET', catalogue, EPOCH_FIELD) or '') ~= epoch then
  return WRONG_EPOCH
end
begin_account_epoch(account, epoch)
local found = redis.call('HMGET', account, STATE_FIELD, CREDIT_SEQ_FIELD)
local state, applied = found[1], tonumber(found[2] or 0)
if tonumber(credit_seq) <= applied then
  for number, loaded in string.gmatch(state and redis.call('HGET', account, UNPUBLISHED_FIELD) or '', '(%d+) (-?%d+)') do
    if number == credit_seq and tonumber(loaded) == tonumber(amount) then
      return DUPLICATE
    end
  end
  redis.call('HDEL', account, STATE_FIELD)
  redis.call('HSET', account, CREDIT_SEQ_FIELD, credit_seq)
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
