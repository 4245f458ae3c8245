-- Replays a settlement that this server may have lost: its call was admitted before Redis was lost, or during an outage.
--
-- Appends the whole record to the journal as a correction, so PostgreSQL charges it unless it has it already. Nobody here
-- knows whether it has, so the account is unloaded, and its next call loads it from both.
--
-- KEYS account, catalogue, holds (hashes), journal (stream), claim (hash, only for a call with an Idempotency-Key)
-- ARGV epoch          that the caller has entered
--      request_id, record
--      claim_seconds, fingerprint    only with a claim
--      response       only if repeats are refused from now on; its text is not stored. Without it the key is free again.
--
-- Reply: id of the journal entry   or nil: another epoch has begun, or none
--        or an empty text: another call has claimed the key, and only one of them may count; nothing changed

local account, catalogue, holds, journal, claim = unpack(KEYS)
local epoch, request_id, record, claim_seconds, fingerprint, response = unpack(ARGV)

if redis.call('HGET', catalogue, EPOCH_FIELD) ~= epoch then
  return false
end
if claim then
  local claimed_by = redis.call('HGET', claim, REQUEST_ID_FIELD)
  local is_claimed = claimed_by and claimed_by ~= request_id
  if is_claimed and response then
    return ''
  elseif response then
    redis.call('HSET', claim, FINGERPRINT_FIELD, fingerprint, REQUEST_ID_FIELD, request_id)
    redis.call('HSETNX', claim, RESPONSE_FIELD, '')
    redis.call('EXPIRE', claim, claim_seconds)
  elseif not is_claimed then
    redis.call('DEL', claim)
  end
end
redis.call('HDEL', holds, request_id)
redis.call('HDEL', account, STATE_FIELD)
return redis.call('XADD', journal, '*', RECORD_FIELD, record, CORRECTION_FIELD, CORRECTION)
