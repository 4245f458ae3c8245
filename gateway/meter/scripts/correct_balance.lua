-- Adds a difference that reconciliation found to an account's balance. Once: each correction names how many preceded it.
-- Admissions and settlements in between do no harm, for they move credits between balance, holds and journal only.
--
-- KEYS account (hash)
-- ARGV add (credits, signed)
--      corrections, credit_seq   as `partition_snapshot.lua` read them
--      new_credit_seq            all changes of PostgreSQL up to it are in the balance after this
--      unpublished               those of them that are still to be applied, as `load_account.lua` takes them
--
-- Reply: YES corrected   NO the account is not loaded, was corrected or took a change since: read it again

local account = unpack(KEYS)
local add, corrections, credit_seq, new_credit_seq, unpublished = unpack(ARGV)

local found = redis.call('HMGET', account, STATE_FIELD, CORRECTIONS_FIELD, CREDIT_SEQ_FIELD)
if not found[1] or (found[2] or '0') ~= corrections or (found[3] or '0') ~= credit_seq then
  return NO
end
local clock, balance = struct.unpack(CLOCK_AND_BALANCE, found[1])
local corrected = struct.pack(CLOCK_AND_BALANCE, clock, balance + add) .. string.sub(found[1], AFTER_BALANCE)
redis.call(
  'HSET', account, STATE_FIELD, corrected, CREDIT_SEQ_FIELD, new_credit_seq, UNPUBLISHED_FIELD, unpublished,
  CORRECTIONS_FIELD, corrections + 1
)
return YES
