-- Holds again for a call under way whose hold was lost. Its account goes cold, and its next call loads it with the hold.
--
-- KEYS 1 account (hash)   2 catalogue (hash)   3 holds (hash)   4 claim (hash), only of a call with an Idempotency-Key
-- ARGV 1 epoch that the caller is about to enter   2 request id   3 hold, as `admit.lua` writes it
--      4 seconds for which to remember the claim   5 fingerprint: both only with a claim
--
-- Reply: 1 it is held, 0 another epoch has begun, or none.

if redis.call('HGET', KEYS[2], 'e') ~= ARGV[1] then
  return 0
end
if redis.call('HSETNX', KEYS[3], ARGV[2], ARGV[3]) == 1 then
  redis.call('HDEL', KEYS[1], 's')
end
if KEYS[4] and (redis.call('HGET', KEYS[4], 'r') or ARGV[2]) == ARGV[2] then
  redis.call('HSET', KEYS[4], 'f', ARGV[5], 'r', ARGV[2], 'e', ARGV[1])
  redis.call('EXPIRE', KEYS[4], ARGV[4])
end
return 1
