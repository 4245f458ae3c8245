-- Finds the epoch of a partition, or begins a new one, in which no account is loaded at first.
--
-- An epoch belongs to one run of one server. A server that was restarted, was a replica or has an older copy has another
-- run id than the stored one; an emptied server has none. What such a server has of accounts is not used.
--
-- KEYS catalogue (hash), journal (stream)
-- ARGV new_epoch          name of the epoch to begin, empty: only ask
--      catalogue_version
--      following_id       the journal id after the last one that PostgreSQL has
--      replay_ms          how long nothing is loaded, so that every gateway can replay what it knows
--
-- Reply: {CURRENT, epoch, journal id up to which PostgreSQL has it}   {STARTED, epoch, "0-0"}
--   {NONE} if there is no epoch and none was to begin

local catalogue, journal = unpack(KEYS)
local new_epoch, catalogue_version, following_id, replay_ms = unpack(ARGV)

local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
local found = redis.call('HMGET', catalogue, EPOCH_FIELD, RUN_ID_FIELD, TRIMMED_FIELD)
if found[1] and found[2] == run_id then
  return {CURRENT, found[1], found[3] or '0-0'}
end
if new_epoch == '' then
  return {NONE}
end

-- New ids must follow those that PostgreSQL has seen, also where this server's clock is behind. XADD with an explicit id
-- raises the id of the stream; it fails if the stream is there already, which is as good.
local placed = redis.pcall('XADD', journal, following_id, 'r', '')
if type(placed) == 'string' then
  redis.call('XDEL', journal, placed)
end

local version = redis.call('HGET', catalogue, VERSION_FIELD)
if not version or tonumber(version) < tonumber(catalogue_version) then
  redis.call('HSET', catalogue, VERSION_FIELD, catalogue_version)
end
local opens_at = now_ms() + replay_ms
redis.call(
  'HSET', catalogue, EPOCH_FIELD, new_epoch, RUN_ID_FIELD, run_id, OPENS_AT_FIELD, opens_at, TRIMMED_FIELD, '0-0'
)
return {STARTED, new_epoch, '0-0'}
