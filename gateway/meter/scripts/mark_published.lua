-- Stores how many publications PostgreSQL has counted for a partition, after the commit of the last of them.
--
-- KEYS catalogue (hash)
-- ARGV epoch          in which the entries were read
--      published
--
-- Reply: YES stored   NO another epoch has begun, or none, or a later publication is stored

local catalogue = unpack(KEYS)
local epoch, published = unpack(ARGV)

local found = redis.call('HMGET', catalogue, EPOCH_FIELD, PUBLISHED_FIELD)
if (found[1] or '') ~= epoch or tonumber(found[2] or 0) >= tonumber(published) then
  return NO
end
redis.call('HSET', catalogue, PUBLISHED_FIELD, published)
return YES
