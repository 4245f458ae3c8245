-- Settles one admitted call: removes its hold, charges it, appends its record to the journal with the balance that this
-- leaves. Once.
--
-- A charge above the hold is taken in full. It may take the balance below zero, or a key above its budget; it never goes
-- uncharged.
--
-- KEYS account, holds (hashes), journal (stream)
--      remembered         swept (string), only for the sweeper; or claim (hash), only for a call with an Idempotency-Key
-- ARGV request_id
--      charge             credits
--      suffix             of the record
--      remember_seconds   how long the swept prefix or the claim lasts: only with the fourth key
--      fingerprint        only with a claim
--      max_stored_bytes   of responses that an account may store in a day: only with a claim
--      response           empty if it cannot be replayed, missing if the key is free again: only with a claim
--
-- Reply: {SETTLED, balance, journal id}; the balance is nil if the account is not loaded. With a claim comes behind them
--   the length of the response that was stored.
--   {NO_HOLD} the call was settled before, or Redis has lost it, and nothing changed; `late_settlement.lua` finds out which
--   {KEY_CLAIMED} Redis was lost, and another call has claimed the key; only one of them may count; nothing changed
--
-- Uses `prefixes.lua` and `key_budgets.lua`.
--
-- Cost: 7.2 us of script time and 12.8 us of server CPU, 800 bytes of append-only file with a record of 480.
-- Valkey 9.1.2, 2-core VM: `python -m benchmarks.scripts_cost`.
--
-- Example: EVALSHA .. 3 {p07}:a:<uuid> {p07}:h {p07}:j <id> 1 "succeeded\t200\t.."

local account, holds, journal, remembered = unpack(KEYS)
local request_id, charge, suffix, remember_seconds, fingerprint, max_stored_bytes, response = unpack(ARGV)

local hold = redis.call('HGET', holds, request_id)
if not hold then
  return {NO_HOLD}
end
local claimed_by = fingerprint and redis.call('HGET', remembered, REQUEST_ID_FIELD)
local is_claimed = claimed_by and claimed_by ~= request_id
if is_claimed and response then
  return {KEY_CLAIMED}
end
local held, marked_prefix = string.match(hold, '^(%d+)\t[^\t]*\t(.*)$')
local field, prefix = field_and_prefix(marked_prefix)
local balance, written_balance = false, NULL

local state = redis.call('HGET', account, STATE_FIELD)
if state then
  local clock, before, in_flight = struct.unpack(CLOCK_BALANCE_IN_FLIGHT, state)
  balance = before + held - charge
  -- The state of an ended epoch may have counted fewer calls; nothing is admitted by it any more.
  local counts = struct.pack(CLOCK_BALANCE_IN_FLIGHT, clock, balance, math.max(in_flight - 1, 0))
  redis.call('HSET', account, STATE_FIELD, counts .. string.sub(state, AFTER_IN_FLIGHT))
  spend(account, state, prefix, charge - held)
  written_balance = string.format('%d', balance) -- `..` writes large numbers as 1e+15
end
redis.call('HDEL', holds, request_id)
local entry = redis.call('XADD', journal, '*', field, prefix .. '\t' .. suffix .. '\t' .. written_balance)
if remembered then
  if not fingerprint then
    redis.call('SET', remembered, marked_prefix, 'EX', remember_seconds)
  elseif not response then
    if not is_claimed then
      redis.call('DEL', remembered)
    end
  else
    local today = math.floor(redis.call('TIME')[1] / 86400)
    local day, stored = struct.unpack(STORED, redis.call('HGET', account, STORED_FIELD) or struct.pack(STORED, today, 0))
    stored = (day == today and stored or 0) + #response
    if stored > tonumber(max_stored_bytes) then
      response = ''
    elseif response ~= '' then
      redis.call('HSET', account, STORED_FIELD, struct.pack(STORED, today, stored))
    end
    redis.call('HSET', remembered, FINGERPRINT_FIELD, fingerprint, REQUEST_ID_FIELD, request_id, RESPONSE_FIELD, response)
    redis.call('EXPIRE', remembered, remember_seconds)
  end
end
if fingerprint then
  return {SETTLED, balance, entry, response and #response or 0}
end
return {SETTLED, balance, entry}
