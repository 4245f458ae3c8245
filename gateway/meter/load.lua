-- Makes a cold account hot from what PostgreSQL knows of it, unless it is hot already or PostgreSQL was read too early.
--
-- KEYS 1 account (hash)   2 catalogue (hash)
-- ARGV 1 account version  2 credit sequence  3 balance  4 catalogue version
--
-- Reply: 1 loaded, 0 it was hot already, 2 a newer change has passed by since PostgreSQL was read: read it again.

local STATE = '<i8i8i4I4I4I4I4I4I4I4I4I4I4I4I4'

local function raise(key, version)
  local here = redis.call('HGET', key, 'v')
  if not here or tonumber(here) < tonumber(version) then
    redis.call('HSET', key, 'v', version)
  end
end

local account = redis.call('HMGET', KEYS[1], 's', 'v', 'c')
if account[1] then
  raise(KEYS[1], ARGV[1])
  raise(KEYS[2], ARGV[4])
  return 0
end
if tonumber(account[2] or 0) > tonumber(ARGV[1]) or tonumber(account[3] or 0) > tonumber(ARGV[2]) then
  return 2
end
local state = struct.pack(STATE, 0, ARGV[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
redis.call('HSET', KEYS[1], 's', state, 'v', ARGV[1], 'c', ARGV[2])
raise(KEYS[2], ARGV[4])
return 1
