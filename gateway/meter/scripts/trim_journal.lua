-- Deletes journal entries that PostgreSQL has, and stores up to where: a load that read PostgreSQL earlier is refused.
--
-- KEYS catalogue (hash), journal (stream)
-- ARGV epoch         in which the entries were read, empty if there was none
--      last_id       of the last entry to delete
--      following_id  the id after it
--
-- Reply: YES deleted   NO another epoch has begun, so other entries may have these ids

local catalogue, journal = unpack(KEYS)
local epoch, last_id, following_id = unpack(ARGV)

if (redis.call('HGET', catalogue, EPOCH_FIELD) or '') ~= epoch then
  return NO
end
redis.call('HSET', catalogue, TRIMMED_FIELD, last_id)
redis.call('XTRIM', journal, 'MINID', '=', following_id)
return YES
