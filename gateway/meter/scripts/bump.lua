-- Notes that an account or the catalogue has a newer version, so that whoever decided on an older one is told `stale`.
--
-- KEYS 1 account or catalogue (hash)
-- ARGV 1 version
--
-- Reply: 1 raised, 0 it was there already. Never lowers a version, so bumps may arrive in any order.

local here = redis.call('HGET', KEYS[1], 'v')
if here and tonumber(here) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'v', ARGV[1])
return 1
