-- Tells the epoch of a partition, or begins a new one, in which every account is cold until it is loaded anew.
--
-- An epoch belongs to one run of one server. A server that was restarted, or was a replica, or has an older copy, has
-- another run id than the one noted here; one that was emptied has none. What it has of accounts then counts no more.
--
-- KEYS 1 catalogue (hash)   2 journal (stream)
-- ARGV 1 name of the epoch to begin, or empty: only ask
--      2 catalogue version   3 the journal id after the last one that is in PostgreSQL
--      4 milliseconds in which nothing is loaded, so that every gateway can hand in what it knows
--
-- Reply: {1, epoch, journal id up to which PostgreSQL has it} if this server is in an epoch
--   {2, epoch, "0-0"} if it has just been begun   {0} if there is none and none was to be begun

local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
local found = redis.call('HMGET', KEYS[1], 'e', 'r', 't')
if found[1] and found[2] == run_id then
  return {1, found[1], found[3] or '0-0'}
end
if ARGV[1] == '' then
  return {0}
end

-- Ids go on behind those that PostgreSQL has seen, also where this server's clock is behind, so that they tell what is
-- written and what is not. They may be there already.
local placed = redis.pcall('XADD', KEYS[2], ARGV[3], 'r', '')
if type(placed) == 'string' then
  redis.call('XDEL', KEYS[2], placed)
end

local time = redis.call('TIME')
local opens = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
local version = redis.call('HGET', KEYS[1], 'v')
if not version or tonumber(version) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'v', ARGV[2])
end
redis.call('HSET', KEYS[1], 'e', ARGV[1], 'r', run_id, 'o', opens, 't', '0-0')
return {2, ARGV[1], '0-0'}
