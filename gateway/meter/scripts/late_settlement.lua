-- Settles a call that has no hold. Once.
--
-- If the sweeper took the hold, the gateway was only frozen, or had spooled the settlement. The sweeper gave the hold back,
-- so this takes the charge from the balance in full, and may take it below zero. The journal gets the whole record again,
-- marked as a correction.
--
-- A call whose Idempotency-Key another call has claimed since stays abandoned: only one of them may count.
--
-- KEYS account (hash), swept (string), journal (stream), catalogue (hash)
--      claim (hash)       only for a call with an Idempotency-Key
-- ARGV charge, suffix
--      epoch              in which the call was admitted, empty if unknown
--      request_id, claim_seconds, fingerprint    only with a claim
--      response           only if repeats are refused from now on; its text is not stored
--
-- Reply: {SETTLED, balance, journal id}; the balance is nil if the account is not loaded
--   {ALREADY_SETTLED, 0, id of the newest journal entry} or it was swept so long ago that the prefix has expired
--   {WRONG_EPOCH} its epoch has ended, so `replay_settlement.lua` must settle it   {STAYS_ABANDONED}
-- All but the first change nothing.
--
-- Uses `prefixes.lua` and `key_budgets.lua`.
--
-- Example: EVALSHA .. 4 {p07}:a:<uuid> {p07}:x:<id> {p07}:j {p07}:c 1 "succeeded\t200\t.." <epoch>

local account, swept, journal, catalogue, claim = unpack(KEYS)
local charge, suffix, epoch, request_id, claim_seconds, fingerprint, response = unpack(ARGV)

local marked_prefix = redis.call('GET', swept)
if not marked_prefix and epoch ~= '' and redis.call('HGET', catalogue, EPOCH_FIELD) ~= epoch then
  return {WRONG_EPOCH}
end
if not marked_prefix then
  local newest = redis.call('XREVRANGE', journal, '+', '-', 'COUNT', 1)[1]
  return {ALREADY_SETTLED, 0, newest and newest[1] or '0-0'}
end
local claimed_by = claim and redis.call('HGET', claim, REQUEST_ID_FIELD)
local is_claimed = claimed_by and claimed_by ~= request_id
if is_claimed and response then
  return {STAYS_ABANDONED}
end
local field, prefix = field_and_prefix(marked_prefix)
local balance, written_balance = false, NULL
local state = redis.call('HGET', account, STATE_FIELD)
if state then
  local clock, before = struct.unpack(CLOCK_AND_BALANCE, state)
  balance = before - charge
  local changed = struct.pack(CLOCK_AND_BALANCE, clock, balance) .. string.sub(state, AFTER_BALANCE)
  redis.call('HSET', account, STATE_FIELD, changed)
  spend(account, state, prefix, charge)
  written_balance = string.format('%d', balance) -- `..` writes large numbers as 1e+15
end
redis.call('DEL', swept)
if claim and response then
  redis.call('HSET', claim, FINGERPRINT_FIELD, fingerprint, REQUEST_ID_FIELD, request_id, RESPONSE_FIELD, '')
  redis.call('EXPIRE', claim, claim_seconds)
elseif claim and not is_claimed then
  redis.call('DEL', claim)
end
local record = prefix .. '\t' .. suffix .. '\t' .. written_balance
return {SETTLED, balance, redis.call('XADD', journal, '*', field, record, CORRECTION_FIELD, CORRECTION)}
