-- Finds the epoch of a partition, or begins a new one, in which no account is loaded at first.
--
-- An epoch belongs to one run of one server. A server that was restarted, was a replica or has an older copy has another
-- run id than the stored one; an emptied server has none. Nor is an epoch used that PostgreSQL does not have. What a
-- server has of the accounts of any other epoch than its own is not used, their versions included.
--
-- KEYS catalogue (hash), journal (stream)
-- ARGV new_epoch          name of the epoch to begin, empty: only ask
--      lost_epoch         that ends with it, although this run of the server began it
--      catalogue_version, published    that PostgreSQL has
--      following_id       the journal id after the last one that PostgreSQL has
--      replay_ms          how long nothing is loaded, so that every gateway can replay what it knows
--
-- Reply: {CURRENT, epoch, catalogue version, journal id up to which PostgreSQL has it, publications}
--   {STARTED, epoch}
--   {NONE, ..} as CURRENT, if this run of the server began none, and none was to begin

local catalogue, journal = unpack(KEYS)
local new_epoch, lost_epoch, catalogue_version, published, following_id, replay_ms = unpack(ARGV)

local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
local found = redis.call(
  'HMGET', catalogue, EPOCH_FIELD, RUN_ID_FIELD, VERSION_FIELD, TRIMMED_FIELD, PUBLISHED_FIELD
)
local is_current = found[1] and found[2] == run_id
if new_epoch == '' or (is_current and found[1] ~= lost_epoch) then
  return {is_current and CURRENT or NONE, found[1] or '', found[3] or '0', found[4] or '0-0', found[5] or '0'}
end

-- New ids must follow those that PostgreSQL has seen, also where this server's clock is behind. XADD with an explicit id
-- raises the id of the stream; it fails if the stream is there already, which is as good.
local placed = redis.pcall('XADD', journal, following_id, 'r', '')
if type(placed) == 'string' then
  redis.call('XDEL', journal, placed)
end

local opens_at = now_ms() + replay_ms
redis.call(
  'HSET', catalogue, EPOCH_FIELD, new_epoch, RUN_ID_FIELD, run_id, OPENS_AT_FIELD, opens_at, TRIMMED_FIELD, '0-0',
  VERSION_FIELD, catalogue_version, PUBLISHED_FIELD, published
)
return {STARTED, new_epoch}
