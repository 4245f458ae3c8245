-- Restores the hold of a call under way that Redis lost. Unloads its account: the next call loads it with the hold.
--
-- KEYS account, catalogue, holds (hashes), claim (hash, only for a call with an Idempotency-Key)
-- ARGV epoch          that the caller is about to enter
--      request_id, hold (a hold line)
--      claim_seconds, fingerprint    only with a claim
--
-- Reply: YES held   NO another epoch has begun, or none

local account, catalogue, holds, claim = unpack(KEYS)
local epoch, request_id, hold, claim_seconds, fingerprint = unpack(ARGV)

if redis.call('HGET', catalogue, EPOCH_FIELD) ~= epoch then
  return NO
end
if redis.call('HSETNX', holds, request_id, hold) == 1 then
  redis.call('HDEL', account, STATE_FIELD)
end
if claim and (redis.call('HGET', claim, REQUEST_ID_FIELD) or request_id) == request_id then
  redis.call('HSET', claim, FINGERPRINT_FIELD, fingerprint, REQUEST_ID_FIELD, request_id, EPOCH_FIELD, epoch)
  redis.call('EXPIRE', claim, claim_seconds)
end
return YES
