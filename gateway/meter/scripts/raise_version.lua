-- Raises the version of an account or of the catalogue. Admissions decided on an older version are refused as STALE.
-- Never lowers a version within an epoch, so changes may arrive in any order.
--
-- KEYS versioned          the account, or the catalogue itself (hash)
--      catalogue (hash)   of its partition
-- ARGV epoch              in which PostgreSQL was read
--      version
--
-- Reply: YES raised   NO it was that high already   WRONG_EPOCH another one has begun, or none: read PostgreSQL again
--
-- Uses `account_epoch.lua`.

local versioned, catalogue = unpack(KEYS)
local epoch, version = unpack(ARGV)

if (redis.call('HGET', catalogue, EPOCH_FIELD) or '') ~= epoch then
  return WRONG_EPOCH
end
if versioned ~= catalogue then
  begin_account_epoch(versioned, epoch)
end
local here = redis.call('HGET', versioned, VERSION_FIELD)
if here and tonumber(here) >= tonumber(version) then
  return NO
end
redis.call('HSET', versioned, VERSION_FIELD, version)
return YES
