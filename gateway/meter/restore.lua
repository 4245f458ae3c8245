-- Holds again for a call under way whose hold was lost. Its account goes cold, and its next call loads it with the hold.
--
-- KEYS 1 account (hash)   2 catalogue (hash)   3 holds (hash)
-- ARGV 1 epoch that the caller is about to enter   2 request id   3 hold, as `admit.lua` writes it
--
-- Reply: 1 it is held, 0 another epoch has begun, or none.

if redis.call('HGET', KEYS[2], 'e') ~= ARGV[1] then
  return 0
end
if redis.call('HSETNX', KEYS[3], ARGV[2], ARGV[3]) == 1 then
  redis.call('HDEL', KEYS[1], 's')
end
return 1
