-- Raises the version of an account or of the catalogue. Admissions decided on an older version are refused as STALE.
-- Never lowers a version, so changes may arrive in any order.
--
-- Reply: YES raised   NO it was that high already

local versioned = unpack(KEYS) -- account or catalogue (hash)
local version = unpack(ARGV)

local here = redis.call('HGET', versioned, VERSION_FIELD)
if here and tonumber(here) >= tonumber(version) then
  return NO
end
redis.call('HSET', versioned, VERSION_FIELD, version)
return YES
